//! Joins the pure core to the kernel: one pinned thread a shard, each with a ring, a listener, and its ends of the lanes.
//!
//! [`Server::start`] plans, binds, starts the threads and waits until each has its ring; from there on a shard is on its own, and
//! is reached by its mailbox ([`Server::order`]) and its published numbers ([`Server::snapshots`]) only. The order of things within
//! a turn is the contract at the top of [`shard::seam`](crate::shard::seam); `event_loop` is written along it.
//!
//! The loop runs on what `host` names: the kernel and the clock, or their doubles, on which `double` runs it from a string of bytes.
//!
//! The driver never looks inside a message, and decides nothing about one: what to send, to whom, and when to close are the core's.
//!
//! A shard's thread that dies takes the process down: its connections would stay open and be served by nobody.

pub mod clock;
mod commons;
mod connections;
#[cfg(any(test, feature = "fuzzing"))]
pub mod double;
mod event_loop;
mod events;
mod host;
mod listener;
mod mesh;
mod moves;
mod pause;
pub mod plan;
mod secure;
pub mod stats;
mod sync;

pub use clock::Clock;
pub use plan::{Plan, PlanError};
pub use stats::{DriverStats, LAG_BOUNDS_US, Snapshot};

use crate::limits::Limits;
use crate::shard::{Order, ShardId};
use crate::uring::probe::raise_descriptor_limit;
use crate::uring::{Kernel, Obstacle, Waker, socket, thread};
use commons::{Admission, Finish, Published};
use crossbeam_channel::{Receiver, Sender, bounded};
use event_loop::{EventLoop, Parts};
use moves::{Arrival, MOVES_UNDER_WAY_MAX};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Orders that wait for one shard; a process is given a handful in its life.
const ORDERS_MAX: usize = 64;

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen. Port 0 takes a free one, the same for all shards.
    pub listen: SocketAddr,
    /// Shards, each a thread: 1 to [`SHARDS_MAX`](crate::limits::SHARDS_MAX). More than cores is allowed.
    pub shards: usize,
    /// Bounds of the whole process.
    pub limits: Limits,
    /// Where to listen for TLS, beside the plain listener, and how it is spoken.
    pub tls: Option<TlsListener>,
    /// Serve `/echo`.
    pub echo: bool,
    /// Keep each shard's thread on one core, shard *n* on the *n*th that the process may use, and round again.
    pub pin: bool,
}

/// A listener for TLS.
#[derive(Clone)]
pub struct TlsListener {
    /// Where to listen. Port 0 takes a free one, the same for all shards.
    pub address: SocketAddr,
    /// Certificates, versions and record layer.
    pub config: crate::tls::Config,
}

impl fmt::Debug for TlsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 9000)),
            shards: std::thread::available_parallelism().map_or(1, usize::from),
            limits: Limits::default(),
            tls: None,
            echo: false,
            pin: true,
        }
    }
}

/// Why a server did not start. Its text carries cause and remedy.
#[derive(Debug)]
pub enum StartError {
    /// The kernel can't do what is needed.
    Kernel(Obstacle),
    /// The settings can't be on this machine.
    Plan(PlanError),
    /// The address can't be listened on.
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the kernel says.
        error: io::Error,
    },
    /// A thread, a descriptor or entropy was refused.
    System {
        /// What was wanted.
        what: &'static str,
        /// What the kernel says.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Kernel(obstacle) => obstacle.fmt(f),
            StartError::Plan(error) => error.fmt(f),
            StartError::Listen { address, error } => {
                write!(f, "can't listen on {address}: {error}")?;
                if error.kind() == io::ErrorKind::AddrInUse {
                    write!(f, "; another process has the port (`ss -ltnp` names it): stop it, or choose another")
                } else if error.kind() == io::ErrorKind::AddrNotAvailable {
                    write!(f, "; this machine has no such address (`ip addr` lists them)")
                } else if error.kind() == io::ErrorKind::PermissionDenied {
                    write!(f, "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE: choose a higher one")
                } else {
                    Ok(())
                }
            }
            StartError::System { what, error } => write!(f, "can't have {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// An order on its way to a shard.
#[derive(Debug)]
struct Mail(Order);

/// How others reach a shard.
#[derive(Debug)]
struct Post {
    mail: Sender<Mail>,
    waker: Waker,
    /// Connections that other shards hand over.
    arrivals: Sender<Arrival>,
    /// Those that are on their way.
    places: Admission,
}

impl Post {
    /// A post, and the mailboxes that its shard reads.
    ///
    /// # Errors
    /// No descriptor is left.
    fn new() -> io::Result<(Post, Receiver<Mail>, Receiver<Arrival>)> {
        let (mail, mailbox) = bounded(ORDERS_MAX);
        let (arrivals, arrived) = bounded(MOVES_UNDER_WAY_MAX);
        let post = Post { mail, waker: Waker::new()?, arrivals, places: Admission::new(MOVES_UNDER_WAY_MAX) };
        Ok((post, mailbox, arrived))
    }
}

/// What all threads of a server see.
#[derive(Debug)]
struct Shared {
    clock: Clock,
    plan: Plan,
    /// By shard.
    doors: Vec<mesh::Door>,
    /// By shard.
    posts: Vec<Post>,
    /// By shard: what it last published.
    snapshots: Vec<Published<Snapshot>>,
    /// Connections over all shards.
    admission: Admission,
    /// Shards that have drained.
    finish: Finish,
}

impl Shared {
    /// Counts a connection, unless the process has as many as it may.
    fn admit(&self) -> bool {
        self.admission.admit()
    }

    /// Takes a counted connection off.
    fn dismiss(&self) {
        self.admission.dismiss();
    }

    /// Notes that a shard has drained; the last one wakes the others.
    fn finish(&self) {
        if self.finish.note() {
            self.posts.iter().for_each(|post| post.waker.wake());
        }
    }

    /// Whether all shards have drained.
    fn has_finished(&self) -> bool {
        self.finish.is_reached()
    }
}

/// A running server: its shards' threads.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    kernel: Kernel,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts the shards and returns once all of them accept connections.
    ///
    /// # Errors
    /// The kernel, the machine's limits or the address don't allow it; nothing is left running.
    pub fn start(options: Options) -> Result<Server, StartError> {
        let descriptors = raise_descriptor_limit();
        let kernel = Kernel::probe().map_err(StartError::Kernel)?;
        let plan = Plan::new(&options.limits, options.shards, descriptors).map_err(StartError::Plan)?;
        let failed = |error| StartError::Listen { address: options.listen, error };
        let listeners = socket::listen(options.listen, plan.shards).map_err(failed)?;
        let address = listeners[0].local_addr().map_err(failed)?;
        let tls = options.tls.as_ref().map(|tls| Server::listen_tls(tls, plan.shards)).transpose()?;
        let tls_address = tls.as_ref().map(|(address, _)| *address);
        let mut tls_listeners = tls.map_or_else(Vec::new, |(_, listeners)| listeners).into_iter();
        let entropy = || clock::entropy().map_err(|error| StartError::System { what: "entropy", error });
        let (seed, secret) = (entropy()?, entropy()?);

        let mut posts = Vec::new();
        let mut mailboxes = Vec::new();
        for _ in 0..plan.shards {
            let post = Post::new().map_err(|error| StartError::System { what: "an eventfd", error })?;
            posts.push(post.0);
            mailboxes.push((post.1, post.2));
        }
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            plan,
            doors: (0..plan.shards).map(|_| mesh::Door::default()).collect(),
            posts,
            snapshots: (0..plan.shards).map(|_| Published::default()).collect(),
            admission: Admission::new(plan.connections_max),
            finish: Finish::new(plan.shards),
        });
        let parts = mesh::lanes(plan.shards, plan.lane_places).into_iter().zip(listeners).zip(mailboxes);
        let parts = parts.enumerate().map(|(index, ((mesh, listener), (mailbox, arrivals)))| Parts {
            id: ShardId(index as u16),
            shared: Arc::clone(&shared),
            mesh,
            listener: listener.into(),
            secure: tls_listeners.next().map(OwnedFd::from).zip(options.tls.as_ref().map(|tls| tls.config.clone())),
            mailbox,
            arrivals,
            seed,
            secret,
            limits: options.limits.clone(),
            echo: options.echo,
            ring: plan.ring(kernel.incremental_buffers),
        });
        let threads = spawn(parts.collect(), options.pin, &kernel)?;
        Ok(Server { shared, address, tls_address, kernel, threads })
    }

    /// The address that is listened on, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn listen_tls(tls: &TlsListener, shards: usize) -> Result<(SocketAddr, Vec<TcpListener>), StartError> {
        let failed = |error| StartError::Listen { address: tls.address, error };
        let listeners = socket::listen(tls.address, shards).map_err(failed)?;
        Ok((listeners[0].local_addr().map_err(failed)?, listeners))
    }

    /// The address that is listened on for TLS, if there is one.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// What the kernel was found to offer.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// How the connections are shared out.
    pub fn plan(&self) -> Plan {
        self.shared.plan
    }

    /// The clock on whose scale the core's times are, for [`Order::Drain`].
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// What each shard last published: at most 100 ms old while it works, and current while it sleeps.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.shared.snapshots.iter().map(Published::read).collect()
    }

    /// Gives an order to all shards.
    pub fn order(&self, order: Order) {
        mesh::broadcast(&self.shared, order);
    }

    /// Connections over all shards that count towards `connections_max`.
    pub fn connections(&self) -> usize {
        self.shared.admission.count()
    }

    /// Shards whose thread has not ended.
    pub fn shards_running(&self) -> usize {
        self.threads.iter().filter(|thread| !thread.is_finished()).count()
    }

    /// Waits until all shards have drained, which an [`Order::Drain`] brings about.
    pub fn join(self) {
        for thread in self.threads {
            // It can't have panicked: that would have ended the process.
            let _ = thread.join();
        }
    }
}

/// Starts a thread for each shard and waits until every one has its ring and runs.
fn spawn(parts: Vec<Parts>, pin: bool, kernel: &Kernel) -> Result<Vec<JoinHandle<()>>, StartError> {
    let cores = if pin { thread::cores().unwrap_or_default() } else { Vec::new() };
    let count = parts.len();
    let (ready, readiness) = bounded::<Result<(), io::Error>>(count);
    let mut threads = Vec::new();
    let mut starts = Vec::new();
    for parts in parts {
        let (start, started) = bounded::<()>(1);
        starts.push(start);
        let ready = ready.clone();
        let index = usize::from(parts.id.0);
        let core = (!cores.is_empty()).then(|| cores[index % cores.len()]);
        let body = move || run(parts, core, ready, started);
        let spawned = std::thread::Builder::new().name(format!("shard-{index}")).spawn(body);
        threads.push(spawned.map_err(|error| StartError::System { what: "a thread", error })?);
    }
    for _ in 0..count {
        // A thread that has died takes the process with it, so an answer comes from each.
        if let Ok(Err(error)) = readiness.recv() {
            return Err(StartError::Kernel(Obstacle::from_setup(&error, &kernel.release)));
        }
    }
    // Every ring exists, so that any may ring at any other. A start that is dropped instead ends its thread.
    for start in starts {
        // It fails only if the thread has died, and then the process ends.
        let _ = start.send(());
    }
    Ok(threads)
}

/// The body of a shard's thread.
fn run(parts: Parts, core: Option<usize>, ready: Sender<Result<(), io::Error>>, started: Receiver<()>) {
    let guard = TakeDown(parts.id);
    if let Some(Err(error)) = core.map(thread::pin) {
        tracing::warn!(shard = parts.id.0, %error, "the shard's thread can't be kept on its core");
    }
    let clock = parts.shared.clock;
    let made = EventLoop::new(parts, clock);
    let (event_loop, answer) = match made {
        Ok(event_loop) => (Some(event_loop), Ok(())),
        Err(error) => (None, Err(error)),
    };
    // The receiver lives until all have answered, or start has failed and nobody wants to know.
    let _ = ready.send(answer);
    let started = started.recv().is_ok();
    if let (Some(event_loop), true) = (event_loop, started)
        && let Err(error) = event_loop.run()
    {
        tracing::error!(shard = guard.0.0, %error, "the kernel refuses the shard's ring");
        return;
    }
    std::mem::forget(guard);
}

/// Ends the process when a shard's thread ends otherwise than in order.
struct TakeDown(ShardId);

impl Drop for TakeDown {
    fn drop(&mut self) {
        // To standard error itself: whether a log is installed is not known here, and this must be seen.
        eprintln!("shard {} has died; its connections can't be served any more, so the process ends", self.0.0);
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(shards: usize) -> Options {
        let limits = Limits { connections_max: 100, ..Limits::default() };
        Options { listen: SocketAddr::from(([127, 0, 0, 1], 0)), shards, limits, tls: None, echo: false, pin: false }
    }

    #[test]
    fn a_server_without_connections_starts_and_drains() {
        let server = Server::start(options(3)).unwrap();
        assert_ne!(server.local_addr().port(), 0);
        assert_eq!((server.connections(), server.snapshots().len()), (0, 3));
        server.order(Order::Drain { by: server.clock().millis() });
        server.join();
    }

    #[test]
    fn an_address_in_use_is_refused_with_its_name() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let error = Server::start(Options { listen: address, ..options(2) }).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        assert!(matches!(Server::start(options(0)).unwrap_err(), StartError::Plan(PlanError::Shards(0))));
    }
}
