//! io_uring behind a safe interface: the only `unsafe` code of the crate.
//!
//! This module decides how memory is shared with the kernel and gives the rest of the crate types with which it cannot be misused:
//! - [`Ring`] owns the queues. What is pushed with [`Ring::push`] points at no memory of the caller. What does (a send) is lent
//!   to [`Ring::enter`], which returns only after the kernel has taken every submission, so the loan ends with the call.
//! - [`Buffers`] owns what the kernel receives into, and lends one completion's bytes at a time.
//! - [`Io`] is all that these two ask of a kernel. The kernel is one; tests have a double, on which the `unsafe` code runs as it is.
//! - [`UserData`] is what travels through the kernel with each operation: never a pointer.
//!
//! It deliberately doesn't know what a connection, a shard or a message is, and reads no clock. Both the server's driver and the
//! load generator are built on it.
//!
//! Source for everything here: `io_uring_enter(2)`, `io_uring_setup(2)`, `io_uring_register(2)` and the kernel's `io_uring/`.

pub mod buffers;
#[cfg(any(test, feature = "fuzzing"))]
pub mod double;
pub mod entry;
pub mod io;
pub mod memory;
pub mod op;
pub(crate) mod planted;
pub mod probe;
pub mod ring;
pub mod socket;
pub mod thread;
pub mod waker;

#[cfg(test)]
mod tests;

pub use buffers::{Buffers, BuffersConfig};
pub use entry::{Entry, SocketOption};
pub use io::{Io, open};
pub use op::{Completion, Op, UserData};
pub use probe::{Kernel, Obstacle};
pub use ring::{Batch, Full, Ring, RingConfig, RingCounters, Send, Wait};
pub use waker::Waker;

/// The kernel's io_uring, as [`Io`].
pub type KernelIo = io_uring::IoUring;
