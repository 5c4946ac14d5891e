//! The JSON messages between a client and the server: reading, writing, and the order of commands.
//!
//! Everything here is pure: text in, values out; values in, bytes out. It knows no connection, no room and no clock.
//! - [`scan`] reads JSON text strictly and without allocating.
//! - [`command`] turns a client's message into a [`Command`], or says what is wrong with it.
//! - [`encode`] writes what the server says; [`member`] the pieces that presence is made of.
//! - [`error_code`] is the table of everything that an `error` frame can mean.
//! - [`sequence`] decides when a sequenced command has its turn.
//!
//! Invariant: `data` and `state` are checked to be JSON and otherwise never touched; they leave as the bytes that came.
#![forbid(unsafe_code)]

pub mod command;
pub mod encode;
pub mod error_code;
pub mod id64;
pub mod member;
pub mod scan;
pub mod sequence;
#[cfg(test)]
mod testing;

pub use command::{Command, Envelope, Fault, Resume, ResumedRoom, Since, decode};
pub use error_code::ErrorCode;
pub use sequence::{Expired, Offer, Verdict, Window, judge};

/// Which of the two dialects a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// No subprotocol was offered: the frames of clients that were there before this server.
    Plain,
    /// The subprotocol `throng.v1`.
    V1,
}

impl Dialect {
    /// The name that stands for [`Dialect::V1`] in `Sec-WebSocket-Protocol`.
    pub const V1_SUBPROTOCOL: &'static str = "throng.v1";
}
