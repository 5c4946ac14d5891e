//! Time as the core sees it: numbers that somebody else read from a clock.
//!
//! This file decides the units (milliseconds and wheel ticks) and how they convert. It reads no clock: the driver does, once a
//! turn, and passes [`Now`] in; the simulator passes whatever it likes.

/// Milliseconds on a monotonic clock whose zero is arbitrary but fixed for the process. Never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

/// Milliseconds since the Unix epoch, from the server's wall clock. May jump; it is told to clients (`ts`) and never computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallMillis(pub u64);

/// One reading of both clocks. A whole loop turn works with one reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What deadlines are computed from.
    pub mono: Millis,
    /// What clients are told.
    pub wall: WallMillis,
}

/// Length of a [`Tick`] as a power of two: 2^6 = 64 ms. A deadline is late by at most one tick.
pub const TICK_SHIFT: u32 = 6;
/// Length of a [`Tick`] in milliseconds.
pub const TICK_MS: u64 = 1 << TICK_SHIFT;

/// A count of 64 ms steps of the monotonic clock. 32 bits last 8.7 years of uptime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u32);

impl Millis {
    /// The tick that contains this moment.
    pub fn tick(self) -> Tick {
        Tick((self.0 >> TICK_SHIFT) as u32)
    }
    /// The first tick that begins at or after this moment: what a deadline is rounded to, so that it is never early.
    pub fn tick_ceil(self) -> Tick {
        Tick(((self.0 + TICK_MS - 1) >> TICK_SHIFT) as u32)
    }
    /// This moment plus `ms` milliseconds.
    pub fn after(self, ms: u64) -> Millis {
        Millis(self.0 + ms)
    }
    /// Milliseconds from `earlier` to this moment; 0 if `earlier` is later.
    pub fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Tick {
    /// The moment at which this tick begins.
    pub fn start(self) -> Millis {
        Millis(u64::from(self.0) << TICK_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_rounded_up_and_never_early() {
        assert_eq!(Millis(0).tick_ceil(), Tick(0));
        assert_eq!(Millis(1).tick_ceil(), Tick(1));
        assert_eq!(Millis(64).tick_ceil(), Tick(1));
        assert_eq!(Millis(65).tick_ceil(), Tick(2));
        assert!(Millis(65).tick_ceil().start() >= Millis(65));
    }
}
