//! throng: rooms, presence and ordered delivery over WebSocket, for one Linux machine.

pub mod close;
pub mod limits;
pub mod protocol;
pub mod shard;
pub mod time;
pub mod ws;

#[cfg(feature = "server")]
pub mod capacity;
#[cfg(feature = "server")]
pub mod control;
#[cfg(feature = "server")]
pub mod driver;
#[cfg(feature = "server")]
pub mod uring;
