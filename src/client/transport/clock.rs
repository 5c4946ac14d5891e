//! The only clock and the only entropy of the client's transport; the machine is told times, and draws from the seed that it is given.

use crate::time::Millis;
use std::io;
use tokio::time::{Duration, Instant};

/// A monotonic clock whose zero is its start. Copies agree. In a test with paused time it stands with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    pub(super) fn now(self) -> Millis {
        Millis(Instant::now().duration_since(self.origin).as_millis() as u64)
    }

    /// The moment at which the clock shows this, for a timer.
    pub(super) fn instant(self, at: Millis) -> Instant {
        self.origin + Duration::from_millis(at.0)
    }
}

/// A seed for one client.
///
/// # Errors
/// That of the system's generator, on a system that has none.
pub(super) fn seed() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}
