//! The only clock and the only entropy of the server.
//!
//! A shard's loop reads the clock twice a turn: when it begins to look at events, and when it is done with them. The core and the
//! control plane are told times, and read none.

use crate::time::{Millis, Now, WallMillis};
use std::io;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock whose zero is the start of the server. Copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

/// Microseconds on the clock's monotonic scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Micros(pub(super) u64);

impl Micros {
    /// Microseconds from `earlier` to this moment; 0 if `earlier` is later.
    pub(super) fn since(self, earlier: Micros) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    /// The millisecond that contains this moment.
    pub(super) fn millis(self) -> Millis {
        Millis(self.0 / 1_000)
    }
}

impl Clock {
    /// A clock that starts now.
    #[allow(clippy::disallowed_methods)]
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// One reading of both clocks.
    pub fn now(&self) -> Now {
        self.at(self.micros())
    }

    /// Milliseconds since the start.
    pub fn millis(&self) -> Millis {
        self.micros().millis()
    }

    /// A reading of the monotonic clock alone.
    #[allow(clippy::disallowed_methods)]
    pub(super) fn micros(&self) -> Micros {
        Micros(Instant::now().duration_since(self.origin).as_micros() as u64)
    }

    /// The monotonic reading `micros` with the wall clock of now.
    pub(super) fn at(&self, micros: Micros) -> Now {
        // A wall clock before 1970 is told as 1970: it is for clients to look at, and nothing is computed from it.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        Now { mono: micros.millis(), wall: WallMillis(wall) }
    }
}

/// 256 bits that nobody can guess.
///
/// # Errors
/// The kernel has no entropy to give, which happens only before it has booted.
pub(super) fn entropy() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let clock = Clock::start();
        let readings: Vec<Micros> = (0..1_000).map(|_| clock.micros()).collect();
        assert!(readings.is_sorted());
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(entropy().unwrap(), entropy().unwrap());
    }
}
