//! The admin listener: its thread, its connections, their bounds and deadlines, on tokio-uring.
//!
//! It can't hurt the data plane: it runs on a thread of its own with lower priority, reads snapshots and never waits for a shard,
//! holds at most [`CONNECTIONS_MAX`] connections with one head and one answer each, renders a page at most every `PAGE_AGE_MAX_MS`, and
//! has no path that panics on what comes from a socket. A connection over the bound replaces the one that has been quiet for longest, so
//! that idle sockets can't shut a health check out.
//!
//! Dropping a tokio-uring future does not cancel its operation, which keeps socket and buffer until the peer acts. So a deadline
//! here shuts the socket down and then *awaits* the operation: nothing is ever left in flight.

mod assets;
mod http;
mod pages;

use super::data_plane::DataPlane;
use super::metrics::{Constants, Exporter};
use crate::time::Millis;
use assets::Assets;
use http::{HEAD_BYTES_MAX, Method, Parsed, Request, Response, Status};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

/// Connections at once. Above: the one that has been quiet for longest is closed.
pub const CONNECTIONS_MAX: usize = 64;
/// Time for a request head from its first byte, or from accept.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Time between two requests of a connection.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Time for an answer to be taken.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// After a refusal: time and bytes that are read and thrown away, so that a reset doesn't overtake the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 64 * 1024;
/// A page is rendered again only when it is older than this.
const PAGE_AGE_MAX_MS: u64 = 100;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Entries of the ring.
const RING_ENTRIES: u32 = 256;
/// What is added to the thread's nice value.
const NICE: i32 = 5;

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not everything runs yet.
    Starting,
    /// Takes connections.
    Ready,
    /// Is being stopped.
    Draining,
}

impl Phase {
    fn word(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
        }
    }
}

/// The phase, shared between the thread that decides it and the one that tells it.
#[derive(Debug)]
pub struct State(AtomicU8);

impl Default for State {
    fn default() -> Self {
        State(AtomicU8::new(Phase::Starting as u8))
    }
}

impl State {
    /// Moves on.
    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }
    /// Where the server is.
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            value if value == Phase::Starting as u8 => Phase::Starting,
            value if value == Phase::Ready as u8 => Phase::Ready,
            _ => Phase::Draining,
        }
    }
}

/// What the admin listener serves.
pub struct Admin {
    /// The shards.
    pub plane: Arc<dyn DataPlane>,
    /// Phase of the server.
    pub state: Arc<State>,
    /// What does not change.
    pub constants: Constants,
    /// Where clients connect, to be shown.
    pub listen: SocketAddr,
    exporter: Exporter,
    started: Millis,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Admin").field("state", &self.state).field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl Admin {
    /// For one server.
    pub fn new(plane: Arc<dyn DataPlane>, state: Arc<State>, constants: Constants, listen: SocketAddr) -> Admin {
        let started = plane.now();
        Admin { plane, state, constants, listen, exporter: Exporter::new(constants), started }
    }

    /// Starts the thread, which serves until the process ends.
    ///
    /// # Errors
    /// No thread, or no ring for it.
    pub fn start(self, listener: std::net::TcpListener) -> io::Result<()> {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("throng-admin".to_owned()).spawn(move || {
            // Best effort: where it is not allowed the thread has the priority of the others.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
            let started = || -> io::Result<(tokio_uring::Runtime, SocketAddr)> {
                let mut builder = tokio_uring::builder();
                builder.entries(RING_ENTRIES);
                Ok((tokio_uring::Runtime::new(&builder)?, listener.local_addr()?))
            };
            match started() {
                Ok((runtime, bound)) => {
                    let _ = sender.send(Ok(()));
                    runtime.block_on(accept_forever(Rc::new(self), listener, bound));
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                }
            }
        })?;
        receiver.recv().unwrap_or_else(|_| Err(io::Error::other("the admin thread ended before it began")))
    }
}

/// One open connection, as the table knows it.
struct Connection {
    stream: TcpStream,
    quiet_since: Cell<Millis>,
}

#[derive(Default)]
struct Table {
    open: RefCell<Vec<Rc<Connection>>>,
    left: Notify,
}

impl Table {
    /// Puts a connection in, first closing the quietest one if there is no place.
    async fn admit(&self, stream: TcpStream, now: Millis) -> Rc<Connection> {
        let connection = Rc::new(Connection { stream, quiet_since: Cell::new(now) });
        loop {
            {
                let mut open = self.open.borrow_mut();
                if open.len() < CONNECTIONS_MAX {
                    open.push(Rc::clone(&connection));
                    return connection;
                }
                if let Some(quietest) = open.iter().min_by_key(|connection| connection.quiet_since.get()) {
                    // Its read or write completes, its task ends and gives the place free.
                    let _ = quietest.stream.shutdown(Shutdown::Both);
                }
            }
            self.left.notified().await;
        }
    }

    fn remove(&self, connection: &Rc<Connection>) {
        self.open.borrow_mut().retain(|other| !Rc::ptr_eq(other, connection));
        self.left.notify_one();
    }
}

/// Files, and the last rendering of each page.
struct Pages {
    assets: Assets,
    rendered: RefCell<Vec<(String, Millis, Rc<Response>)>>,
}

impl Pages {
    fn new(listen: SocketAddr) -> Pages {
        Pages { assets: Assets::new(listen), rendered: RefCell::default() }
    }

    fn answer(&self, admin: &Admin, request: &Request) -> Rc<Response> {
        if let Some(response) = self.assets.answer(request) {
            return response;
        }
        if request.method == Method::Other || !matches!(request.path.as_str(), "/" | "/metrics") {
            return Rc::new(pages::answer(admin, request));
        }
        let mut kept = self.rendered.borrow_mut();
        let now = admin.plane.now();
        kept.retain(|(_, rendered, _)| now.since(*rendered) < PAGE_AGE_MAX_MS);
        if let Some((_, _, response)) = kept.iter().find(|(path, _, _)| *path == request.path) {
            return Rc::clone(response);
        }
        let response = Rc::new(pages::answer(admin, request));
        kept.push((request.path.clone(), now, Rc::clone(&response)));
        response
    }
}

async fn accept_forever(admin: Rc<Admin>, listener: std::net::TcpListener, bound: SocketAddr) {
    let listener = TcpListener::from_std(listener);
    let table = Rc::new(Table::default());
    let pages = Rc::new(Pages::new(admin.listen));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // EMFILE, ECONNABORTED and the like pass.
                tracing::warn!(%error, "admin accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = table.admit(stream, admin.plane.now()).await;
        let (admin, table, pages) = (Rc::clone(&admin), Rc::clone(&table), Rc::clone(&pages));
        tokio_uring::spawn(async move {
            serve_connection(&admin, &pages, &connection, bound).await;
            table.remove(&connection);
        });
    }
}

async fn serve_connection(admin: &Admin, pages: &Pages, connection: &Connection, bound: SocketAddr) {
    let stream = &connection.stream;
    let mut buffer = Vec::with_capacity(HEAD_BYTES_MAX);
    let mut begun = admin.plane.now();
    let mut served_any = false;
    loop {
        match http::parse(&buffer, bound) {
            Parsed::Request(request, length) => {
                buffer.drain(..length);
                let response = pages.answer(admin, &request);
                let bytes = response.encode(request.method != Method::Head, request.keep_alive);
                if !write_all(stream, bytes).await {
                    return;
                }
                if !request.keep_alive {
                    return linger(admin, stream, buffer).await;
                }
                begun = admin.plane.now();
                connection.quiet_since.set(begun);
                served_any = true;
            }
            Parsed::Refused(status, cause) => {
                write_all(stream, Response::text(status, cause).encode(true, false)).await;
                return linger(admin, stream, buffer).await;
            }
            Parsed::Partial => {
                let waiting = buffer.is_empty() && served_any;
                let within = if waiting { IDLE_MAX } else { HEAD_WITHIN };
                let within = left(admin, begun, within);
                let (outcome, returned) = read_within(stream, buffer, within).await;
                buffer = returned;
                match outcome {
                    Read::Bytes => {
                        if waiting {
                            begun = admin.plane.now();
                        }
                    }
                    Read::End => return,
                    Read::Late if waiting => return,
                    Read::Late => {
                        let refusal = Response::text(Status::RequestTimeout, "no whole request within 5 seconds");
                        write_all(stream, refusal.encode(true, false)).await;
                        let _ = stream.shutdown(Shutdown::Both);
                        return;
                    }
                }
            }
        }
    }
}

/// What is left of a deadline.
fn left(admin: &Admin, begun: Millis, within: Duration) -> Duration {
    within.saturating_sub(Duration::from_millis(admin.plane.now().since(begun)))
}

enum Read {
    Bytes,
    /// End of stream or an error.
    End,
    /// The deadline passed; the reading side is shut down, an answer can still be written.
    Late,
}

/// Appends what comes to the buffer, as far as its capacity goes.
async fn read_within(stream: &TcpStream, buffer: Vec<u8>, within: Duration) -> (Read, Vec<u8>) {
    let length = buffer.len();
    // slice() refuses an empty rest; a full buffer is a refused head and never comes here.
    if length >= buffer.capacity() {
        return (Read::End, buffer);
    }
    let mut read = pin!(stream.read(buffer.slice(length..)));
    match timeout(within, read.as_mut()).await {
        Ok((result, rest)) => (if result.is_ok_and(|count| count > 0) { Read::Bytes } else { Read::End }, rest.into_inner()),
        Err(_) => {
            // Ends the receive (with 0) without taking the sending side.
            let _ = stream.shutdown(Shutdown::Read);
            let (_, rest) = read.await;
            (Read::Late, rest.into_inner())
        }
    }
}

/// Whether everything was taken in time.
async fn write_all(stream: &TcpStream, bytes: Vec<u8>) -> bool {
    let mut write = pin!(stream.write_all(bytes));
    match timeout(ANSWER_WITHIN, write.as_mut()).await {
        Ok((result, _)) => result.is_ok(),
        Err(_) => {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = write.await;
            false
        }
    }
}

/// Closing with unread input makes the kernel send a reset, which may destroy an answer that the peer has not read yet.
async fn linger(admin: &Admin, stream: &TcpStream, mut buffer: Vec<u8>) {
    let _ = stream.shutdown(Shutdown::Write);
    let begun = admin.plane.now();
    let mut thrown_away = 0;
    while thrown_away < LINGER_BYTES_MAX {
        buffer.clear();
        let (outcome, returned) = read_within(stream, buffer, left(admin, begun, LINGER)).await;
        buffer = returned;
        match outcome {
            Read::Bytes => thrown_away += buffer.len(),
            Read::End | Read::Late => return,
        }
    }
}

#[cfg(test)]
mod tests;
