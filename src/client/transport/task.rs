//! The task of a client: carries bytes between the machine and its socket, opens and drops sockets, and sleeps until something is due.
//!
//! It decides nothing. Whatever happens wakes it, and each turn does all that the machine wants before it waits again. It ends when the
//! machine is closed, or with its runtime.

use super::TokenSource;
use super::failure::Failure;
use super::shared::Shared;
use super::stream::{Endpoint, Stream, open};
use crate::client::limits::TRANSMIT_BYTES_MAX;
use crate::client::{Action, SocketId};
use crate::time::Millis;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;
/// Bytes that are taken from the machine at once.
const WRITE_BYTES: usize = 64 * 1024;

type Opening = Pin<Box<dyn Future<Output = Result<Stream, Failure>> + Send>>;
type Renewing = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// What the task holds.
struct Task {
    shared: Arc<Shared>,
    endpoint: Arc<Endpoint>,
    token_source: Option<TokenSource>,
    opening: Option<(SocketId, Opening)>,
    open: Option<(SocketId, Stream)>,
    renewing: Option<Renewing>,
    /// Taken from the machine and not yet by the socket.
    sending: Vec<u8>,
    sent: usize,
    /// Taken by the stream, and perhaps not by the socket below it. Invariant: false without a stream.
    is_unflushed: bool,
}

/// Says that the task is over, however it ended.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What woke the task.
enum Woken {
    ByHandle,
    ByTime,
    Opened(Result<Stream, Failure>),
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Flushed(io::Result<()>),
    Token(Option<String>),
}

/// Runs a client to its end.
pub(super) async fn run(shared: Arc<Shared>, endpoint: Endpoint, token_source: Option<TokenSource>) {
    let _ending = Ending(Arc::clone(&shared));
    let task = Task {
        shared,
        endpoint: Arc::new(endpoint),
        token_source,
        opening: None,
        open: None,
        renewing: None,
        sending: Vec::new(),
        sent: 0,
        is_unflushed: false,
    };
    task.run().await;
}

impl Task {
    async fn run(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let open = self.open.as_ref().map(|(socket, _)| *socket);
            let turn = self.shared.turn(open, self.opening.as_ref().map(|(socket, _)| *socket));
            let mut has_acted = false;
            for action in turn.actions {
                has_acted = true;
                self.act(action).await;
            }
            if turn.is_closed {
                return;
            }
            if has_acted {
                continue; // what was done may have made more to do
            }
            self.take_bytes();
            let woken = self.wait(&mut buffer, turn.deadline, turn.wants_input).await;
            self.handle(woken, &buffer);
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Open(socket) => {
                let endpoint = Arc::clone(&self.endpoint);
                self.opening = Some((socket, Box::pin(async move { open(&endpoint).await })));
            }
            Action::Drop(socket, last) => {
                self.opening.take_if(|(opening, _)| *opening == socket);
                if let Some((_, stream)) = self.open.take_if(|(open, _)| *open == socket) {
                    let mut rest = self.sending.split_off(self.sent);
                    rest.extend_from_slice(&last);
                    stream.part(&rest).await;
                }
                (self.sending, self.sent, self.is_unflushed) = (Vec::new(), 0, false);
            }
            Action::Token => self.renewing = self.token_source.as_mut().map(|source| source()),
        }
    }

    /// Takes bytes from the machine, if the last ones are gone.
    fn take_bytes(&mut self) {
        if self.open.is_none() || self.sent < self.sending.len() || self.is_unflushed {
            return;
        }
        self.sending.clear();
        self.sent = 0;
        let mut inner = self.shared.lock();
        let now = inner.clock.now();
        let bytes = inner.machine.transmit_bytes();
        let count = bytes.len().min(WRITE_BYTES.min(TRANSMIT_BYTES_MAX));
        self.sending.extend_from_slice(&bytes[..count]);
        inner.machine.handle_transmitted(now, count);
    }

    async fn wait(&mut self, buffer: &mut [u8], deadline: Option<Millis>, wants_input: bool) -> Woken {
        let clock = self.shared.lock().clock;
        let sleep = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(clock.instant(deadline)).await,
                None => std::future::pending().await,
            }
        };
        let (reader, writer) = match &mut self.open {
            Some((_, stream)) => (Some(&mut stream.reader), Some(&mut stream.writer)),
            None => (None, None),
        };
        let read = async {
            match reader.filter(|_| wants_input) {
                Some(reader) => reader.read(buffer).await,
                None => std::future::pending().await,
            }
        };
        let unsent = &self.sending[self.sent..];
        let is_unflushed = self.is_unflushed;
        let write = async {
            match writer {
                Some(writer) if !unsent.is_empty() => Woken::Written(writer.write(unsent).await),
                Some(writer) if is_unflushed => Woken::Flushed(writer.flush().await),
                Some(_) | None => std::future::pending().await,
            }
        };
        let opening = async {
            match &mut self.opening {
                Some((_, opening)) => opening.await,
                None => std::future::pending().await,
            }
        };
        let renewing = async {
            match &mut self.renewing {
                Some(renewing) => renewing.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.wake.notified() => Woken::ByHandle,
            () = sleep => Woken::ByTime,
            opened = opening => Woken::Opened(opened),
            read = read => Woken::Read(read),
            woken = write => woken,
            token = renewing => Woken::Token(token),
        }
    }

    fn handle(&mut self, woken: Woken, buffer: &[u8]) {
        let mut inner = self.shared.lock();
        let now = inner.clock.now();
        match woken {
            Woken::ByHandle | Woken::ByTime => {}
            Woken::Opened(opened) => {
                let Some((socket, _)) = self.opening.take() else { return };
                match opened {
                    Ok(stream) => {
                        self.open = Some((socket, stream));
                        inner.failure = None;
                        inner.machine.handle_opened(now, socket);
                    }
                    Err(failure) => inner.end_socket(now, socket, Some(failure)),
                }
            }
            Woken::Read(read) => {
                let Some((socket, _)) = &self.open else { return };
                match read {
                    Ok(count) if count > 0 => inner.machine.handle_received(now, *socket, &buffer[..count]),
                    Ok(_) => inner.end_socket(now, *socket, None),
                    Err(error) => inner.end_socket(now, *socket, Some(Failure::of(&error))),
                }
            }
            Woken::Written(written) => {
                let Some((socket, stream)) = &self.open else { return };
                match written {
                    Ok(count) if count > 0 => {
                        self.sent += count;
                        self.is_unflushed = stream.is_buffered;
                    }
                    Ok(_) => inner.end_socket(now, *socket, None),
                    Err(error) => inner.end_socket(now, *socket, Some(Failure::of(&error))),
                }
            }
            Woken::Flushed(flushed) => {
                let Some((socket, _)) = &self.open else { return };
                match flushed {
                    Ok(()) => self.is_unflushed = false,
                    Err(error) => inner.end_socket(now, *socket, Some(Failure::of(&error))),
                }
            }
            Woken::Token(token) => {
                self.renewing = None;
                inner.machine.handle_token(now, token);
            }
        }
    }
}
