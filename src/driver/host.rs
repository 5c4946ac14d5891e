//! What a shard's loop runs on: a kernel behind its ring, and a clock. The server's is the kernel itself and the process's clock.
//!
//! It is chosen at compile time. The other one there is, in `double`, has neither kernel nor clock, so that whole turns of the loop
//! can be run from a seed.

use super::clock::{Clock, Micros};
use crate::time::Now;
use crate::uring::{Io, KernelIo, RingConfig, open};
use std::io;

/// See the module.
pub(super) trait Host {
    /// The queues that the loop's ring is made on.
    type Io: Io;
    /// Makes them.
    ///
    /// # Errors
    /// What the kernel says.
    fn open(&self, config: &RingConfig) -> io::Result<Self::Io>;
    /// A reading of the monotonic clock.
    fn micros(&self) -> Micros;
    /// The monotonic reading `micros` with the wall clock of now.
    fn at(&self, micros: Micros) -> Now;
}

impl Host for Clock {
    type Io = KernelIo;
    fn open(&self, config: &RingConfig) -> io::Result<KernelIo> {
        open(config)
    }
    fn micros(&self) -> Micros {
        Clock::micros(self)
    }
    fn at(&self, micros: Micros) -> Now {
        Clock::at(self, micros)
    }
}
