//! The client on tokio: a task per client that drives the [`Machine`], and handles to it.
//!
//! Nothing here decides anything about the protocol. All channels and queues are bounded; dropping the handles ends the task, and with it
//! the socket and everything that was kept.

mod clock;
mod failure;
mod shared;
mod stream;
mod task;
mod tls;
mod url;

pub use failure::Failure;
pub use tls::{Roots, RootsError};
pub use url::UrlError;

use super::{Event, Identity, JoinOptions, Machine, Membership, Position, Presence, Refused, State, Stats};
use clock::Clock;
use shared::Shared;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use stream::Endpoint;
use tls::Tls;
use url::Target;

/// Gets another token when the server asks for one; `None` if there is none now, and it is asked for again later.
pub type TokenSource = Box<dyn FnMut() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send>;

/// Who a client is.
#[derive(Default)]
pub struct Options {
    /// The user, where the server takes a client's word for it.
    pub user: Option<String>,
    /// The credentials. They stay in memory.
    pub token: Option<String>,
    /// Where another token comes from. Without it, a refused or expired token ends the client.
    pub token_source: Option<TokenSource>,
    /// Whom to trust, on `wss://`.
    pub roots: Roots,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("user", &self.user).field("roots", &self.roots).finish_non_exhaustive()
    }
}

/// Why a client could not be made.
#[derive(Debug)]
pub enum ConnectError {
    /// The URL is none of ours.
    Url(UrlError),
    /// The system has no entropy to give.
    Entropy(std::io::Error),
    /// It is not known whom to trust.
    Roots(RootsError),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Url(error) => error.fmt(f),
            ConnectError::Entropy(error) => write!(f, "no seed for the client: {error}"),
            ConnectError::Roots(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConnectError {}

/// The command took effect: exactly once, and durably in a durable room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    _private: (),
}

/// Why a command is not known to have taken effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// This client did not take it: it was not sent.
    Refused(Refused),
    /// The server refused it with this code: it had no effect.
    Server(Box<str>),
    /// The session that it was sent in is lost: it may have taken effect, or not.
    Unknown,
    /// Its acknowledgement stands behind events that nobody has read for ten seconds: it takes its course, and nobody will hear of it.
    EventsUnread,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::Refused(refused) => refused.fmt(f),
            PublishError::Server(code) => write!(f, "the server refused: {code}"),
            PublishError::Unknown => {
                f.write_str("the session was lost before the acknowledgement: it may have taken effect or not")
            }
            PublishError::EventsUnread => f.write_str("the acknowledgement waits behind events that are not read"),
        }
    }
}

impl std::error::Error for PublishError {}

/// How a publication is made.
#[derive(Clone, Debug, Default)]
pub struct PublishOptions {
    /// It supersedes the room's earlier publication of this key.
    pub key: Option<String>,
    /// Whether this client gets a copy. Default: no.
    pub echo: bool,
}

/// A connection to a server that is kept up: it comes back by itself, and takes its rooms and its commands with it.
///
/// Dropping it closes it, and all of its rooms.
pub struct Client {
    shared: Arc<Shared>,
}

/// The events of a client, for one reader.
///
/// Once it is dropped, events are not kept any more. While it is kept and not read, no more than
/// [`EVENTS_MAX`](super::limits::EVENTS_MAX) wait, twice; then the socket is not read either, and acknowledgements wait with the rest:
/// read events *beside* what awaits a publication, not after it.
pub struct Events {
    shared: Arc<Shared>,
}

/// A room that the client is a member of, until it is dropped or left.
pub struct Room {
    shared: Arc<Shared>,
    name: Arc<str>,
    membership: Membership,
}

impl Client {
    /// A client of the server at `ws://host:port/path`, or `wss://` through TLS, which begins to connect at once and never gives up by
    /// itself. With TLS, [`Roots`] are read before it returns, which is some milliseconds of file access.
    ///
    /// # Errors
    /// [`ConnectError`], for what no attempt could mend.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and I/O enabled.
    pub fn connect(url: &str, options: Options) -> Result<(Client, Events), ConnectError> {
        let target = Target::parse(url).map_err(ConnectError::Url)?;
        let tls = target.server.clone().map(|server| Tls::new(server, &options.roots)).transpose().map_err(ConnectError::Roots)?;
        let seed = clock::seed().map_err(ConnectError::Entropy)?;
        let clock = Clock::start();
        let identity = Identity {
            host: target.authority.clone(),
            path: target.path.clone(),
            user: options.user,
            token: options.token,
            can_renew_token: options.token_source.is_some(),
        };
        let shared = Arc::new(Shared::new(Machine::new(identity, seed, clock.now()), clock));
        tokio::spawn(task::run(Arc::clone(&shared), Endpoint { target, tls }, options.token_source));
        Ok((Client { shared: Arc::clone(&shared) }, Events { shared }))
    }

    /// Becomes a member of a room, now or as soon as there is a connection, and again whenever a session is lost. Events tell.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn join(&self, room: &str, options: JoinOptions) -> Result<Room, Refused> {
        let membership = self.shared.ask(|machine, now| machine.join(now, room, options))?;
        Ok(Room { shared: Arc::clone(&self.shared), name: room.into(), membership })
    }

    /// Where the client stands.
    pub fn state(&self) -> State {
        self.shared.lock().machine.state()
    }

    /// How long until the next attempt to connect; `None` unless the client waits for one.
    pub fn next_attempt_in(&self) -> Option<Duration> {
        let inner = self.shared.lock();
        let next_attempt = match inner.machine.state() {
            State::Connecting { next_attempt, .. } | State::Resuming { next_attempt, .. } => next_attempt?,
            State::Connected { .. } | State::Closed(_) => return None,
        };
        Some(Duration::from_millis(next_attempt.since(inner.clock.now())))
    }

    /// Why the last socket could not be opened, or broke; `None` once one is open, or if it ended in good order. It says more than the
    /// cause in [`State`], and changes before that does: read it when a [`State`] tells of a loss. Whatever it is, the client tries again.
    pub fn last_failure(&self) -> Option<Failure> {
        self.shared.lock().failure.clone()
    }

    /// What the client has lived through.
    pub fn stats(&self) -> Stats {
        self.shared.lock().machine.stats()
    }

    /// Uses another token from now on.
    pub fn set_token(&self, token: String) {
        self.shared.ask(|machine, now| machine.handle_token(now, Some(token)));
    }

    /// Ends the session at the server, and waits until the connection is gone (two seconds at most). Publications that were not
    /// acknowledged are told as unknown.
    pub async fn close(self) {
        self.shared.ask(super::machine::Machine::close);
        loop {
            let over = self.shared.over.notified();
            tokio::pin!(over);
            over.as_mut().enable();
            if self.shared.lock().is_over {
                return;
            }
            over.await;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.ask(super::machine::Machine::close);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Events {
    /// The next event; `None` once the client is closed and everything was read. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.shared.next_event() {
                return Some(event);
            }
            if self.shared.lock().is_over {
                return self.shared.next_event();
            }
            self.shared.news.notified().await;
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.shared.lock().is_unread = true;
        self.shared.wake.notify_one();
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Room {
    /// The room's id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Publishes `data`, raw JSON, and waits until it is known what became of it. It takes effect once or not at all, whatever happens
    /// to connections meanwhile. If the future is dropped, the publication takes its course.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, data: &str) -> Result<Ack, PublishError> {
        self.publish_with(data, PublishOptions::default()).await
    }

    /// [`publish`](Room::publish) with options.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish_with(&self, data: &str, options: PublishOptions) -> Result<Ack, PublishError> {
        let call = |machine: &mut Machine, now| machine.publish(now, &self.name, data, options.key.as_deref(), options.echo);
        self.shared.command(call).await
    }

    /// Publishes `data`, raw JSON, at most once: now or not at all, without an acknowledgement. For cursors and the like.
    ///
    /// # Errors
    /// [`Refused`]; `NotConnected` where the connection does not take it at once.
    pub fn cast(&self, data: &str) -> Result<(), Refused> {
        self.shared.ask(|machine, _| machine.cast(&self.name, data, None))
    }

    /// Sets this client's presence state in the room, raw JSON.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn set_state(&self, state: &str) -> Result<Ack, PublishError> {
        self.shared.command(|machine, now| machine.set_state(now, &self.name, state)).await
    }

    /// Who is in the room, as far as this client has been told; `None` unless it joined with `presence`.
    pub fn presence(&self) -> Option<Presence> {
        self.shared.lock().machine.presence(&self.name).cloned()
    }

    /// Where the client stands in the room: what a later run of the program may give as [`JoinOptions::since`].
    pub fn position(&self) -> Option<Position> {
        self.shared.lock().machine.position(&self.name).cloned()
    }

    /// Leaves the room. The same as dropping it.
    pub fn leave(self) {}
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.ask(|machine, now| {
            // The server may have put the client out, and the application have joined anew: that membership is not this one's to end.
            if machine.membership(&self.name) == Some(self.membership) {
                let _ = machine.leave(now, &self.name);
            }
        });
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("name", &self.name).finish_non_exhaustive()
    }
}
