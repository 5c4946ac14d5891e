//! The load generator's only clock: nanoseconds since the process first asked.
#![allow(clippy::disallowed_methods, reason = "this is the one file of the load generator that reads a clock")]

use std::sync::OnceLock;
use std::time::Instant;

/// A moment or a length of time in nanoseconds. The zero of moments is the first reading.
pub(super) type Nanos = u64;

/// Nanoseconds of a second.
pub(super) const SECOND: Nanos = 1_000_000_000;
/// Nanoseconds of a millisecond.
pub(super) const MILLISECOND: Nanos = 1_000_000;

static START: OnceLock<Instant> = OnceLock::new();

/// What the monotonic clock says now.
pub(super) fn now() -> Nanos {
    let start = *START.get_or_init(Instant::now);
    // 2^64 ns are 584 years.
    start.elapsed().as_nanos() as Nanos
}
