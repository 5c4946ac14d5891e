//! The Rust client: a connection to a throng server that is kept up, so that an application sees rooms, messages and presence, and
//! of a disconnection only that things took longer.
//!
//! With the feature `client` there are handles on tokio:
//!
//! ```no_run
//! # #[cfg(feature = "client")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use throng::client::{Client, Event, JoinOptions, Options, State};
//!
//! let options = Options { user: Some("ada".into()), ..Options::default() };
//! let (client, mut events) = Client::connect("ws://127.0.0.1:9000/ws", options)?;
//! let room = client.join("doc-1", JoinOptions { presence: true, ..JoinOptions::default() })?;
//!
//! // What awaits an acknowledgement runs beside what reads events.
//! let publishing = tokio::spawn(async move {
//!     room.publish(r#"{"text":"hello"}"#).await?; // took effect, once, whatever happened to connections meanwhile
//!     let _ = room.cast(r#"{"cursor":7}"#); // now or never: no acknowledgement, no history
//!     Ok::<_, throng::client::PublishError>(room)
//! });
//!
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::Message(message) => println!("{}: {}", message.user, message.data),
//!         Event::Gap { room, reason, .. } => println!("messages of {room} are lost: {reason}"),
//!         Event::State(State::Resuming { .. }) => println!("next attempt in {:?}", client.next_attempt_in()),
//!         Event::State(State::Closed(cause)) => println!("closed: {cause:?}"),
//!         _ => {}
//!     }
//! }
//! let room = publishing.await??;
//! drop(room); // leaves it
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Order and once.** Messages of a room come in the order of their offsets, each once, over reconnects; what cannot be had any
//!   more is an [`Event::Gap`] or a [`Recovery::Gap`] that says so. Own publications come back only where `echo` asked for them.
//! - **Every command ends**, as acknowledged, refused or *unknown*; unknown only if its session was lost and no recovery has shown
//!   it. It is sent again with the same number after a resume, and never blindly after a failed one.
//! - **It never gives up by itself**: only a close code or status that says so ends it (PROTOCOL §7). Attempts wait with full jitter
//!   ([`Backoff`]), no less than the server advises, and [`State`] says when the next one begins.
//! - **Everything is bounded** by [`limits`]. What is late is kept by the server: events that are not read stop the socket from being
//!   read.
//! - Tokens live in memory only.
//! - **`wss://` is judged, always**: the certificate must be issued by one of the `Roots`, be valid now and name the URL's host. A server
//!   that fails this is told by `Client::last_failure` and tried again, because it may be mended; no token is sent to it.
//!
//! # The parts
//!
//! [`Machine`] decides everything and does no I/O: it can be driven by any runtime, or by a simulator. `inbound`, `message` and `encode`
//! are the wire, `outbox` the commands, `room` and `presence` what is known of a room, `verdict` the table of ends. `transport` is
//! tokio.
//!
//! Left to the server: a `reconnect` that names another `url` is not followed, only waited for, because it could lead a client and its
//! token anywhere.
#![forbid(unsafe_code)]

pub mod backoff;
mod encode;
mod event;
mod inbound;
pub mod limits;
pub mod machine;
mod message;
mod outbox;
mod presence;
mod random;
mod room;
#[cfg(feature = "client")]
mod transport;
mod verdict;

pub use backoff::Backoff;
pub use event::{Cause, CommandId, Event, Message, PresenceChange, PresenceEntry, Recovery, Refused, State};
pub use machine::{Action, Identity, Machine, SocketId, Stats};
pub use presence::{Member, Presence};
pub use room::{JoinOptions, Membership, Position};
#[cfg(feature = "client")]
pub use transport::{
    Ack, Client, ConnectError, Events, Failure, Options, PublishError, PublishOptions, Room, Roots, RootsError, TokenSource,
    UrlError,
};
