//! What the fuzz targets run, one function a target: bytes in, nothing out, and a panic where the code breaks a promise.
//!
//! Each body is pure and bounded: the same bytes always do the same, without clock, entropy or files, so that a crash replays
//! anywhere. `fuzz/` has the targets, their dictionaries and their corpora; `replay` runs the committed inputs in every
//! `cargo test`. An oracle is either another implementation (tungstenite, httparse, serde_json) or a model that is too simple to be
//! wrong (a sorted map, a list, a stream of bytes). Where ours is meant to differ from the other implementation, the exception is
//! named in the body and is no wider than its reason.
//!
//! Only compiled for tests and with the feature `fuzzing`.

mod arena;
mod codec;
mod frame;
mod input;
mod message;
mod send_queue;
mod sequence;
mod shard;
mod timer_wheel;
#[cfg(feature = "tls")]
mod tls;
mod upgrade;

#[cfg(test)]
mod replay;

pub use arena::arena;
pub use codec::codec;
pub use frame::frame;
pub use message::message;
pub use send_queue::send_queue;
pub use sequence::sequence;
pub use shard::shard;
pub use timer_wheel::timer_wheel;
#[cfg(feature = "tls")]
pub use tls::tls;
pub use upgrade::upgrade;
