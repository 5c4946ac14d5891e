//! RFC 6455, complete except extensions, on bytes only.
//!
//! Bytes come in as slices and go out into vectors; nothing here reads a socket, a clock or a random number, and nothing knows what
//! a message means. Verdicts are values: a request gets a [`RequestError`] with its HTTP status, a frame gets a
//! [`CloseReason`](crate::close::CloseReason).
//!
//! Read in the order of a connection's life: [`http`] (the request head and plain answers), [`handshake`] (the upgrade), [`frame`]
//! and [`mask`] (one frame), [`message`] (frames to messages).
#![forbid(unsafe_code)]

pub mod frame;
pub mod handshake;
pub mod http;
pub mod mask;
pub mod message;

pub use frame::{EncodedHeader, FrameHeader, Opcode};
pub use handshake::Upgrade;
pub use http::{Head, Request, RequestError};
pub use message::{Assembler, AssemblerPool, Event, Step};
