//! The Rust client.
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
mod verdict;

pub use backoff::Backoff;
pub use event::{Cause, CommandId, Event, Message, PresenceChange, PresenceEntry, Recovery, Refused, State};
pub use machine::{Action, Identity, Machine, SocketId, Stats};
pub use presence::{Member, Presence};
pub use room::{JoinOptions, Position};
