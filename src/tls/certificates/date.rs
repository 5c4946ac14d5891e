//! Moments as certificates have them, and how they are shown to people.

use crate::time::Now;
use std::fmt;
use x509_parser::time::ASN1Time;

/// Seconds since the Unix epoch, without leap seconds. Negative before it: certificates may say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixSeconds(pub i64);

impl UnixSeconds {
    /// The second of the wall clock's reading.
    pub fn of(now: Now) -> UnixSeconds {
        UnixSeconds(i64::try_from(now.wall.0 / 1000).unwrap_or(i64::MAX))
    }

    /// Whole days from `earlier` to this moment, rounded down.
    pub(super) fn days_since(self, earlier: UnixSeconds) -> i64 {
        self.0.saturating_sub(earlier.0).div_euclid(24 * 3600)
    }
}

impl fmt::Display for UnixSeconds {
    /// `2026-11-24 18:35:06 UTC`; the bare number beyond the years that a calendar has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(time) = ASN1Time::from_timestamp(self.0) else { return write!(f, "{} s after 1970", self.0) };
        let time = time.to_datetime();
        write!(f, "{} {:02}:{:02}:{:02} UTC", time.date(), time.hour(), time.minute(), time.second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Millis, WallMillis};

    #[test]
    fn moments_are_shown_as_dates() {
        assert_eq!(UnixSeconds(1_764_009_306).to_string(), "2025-11-24 18:35:06 UTC");
        assert_eq!(UnixSeconds(-1).to_string(), "1969-12-31 23:59:59 UTC");
        assert_eq!(UnixSeconds(i64::MAX).to_string(), "9223372036854775807 s after 1970");
    }

    #[test]
    fn a_reading_of_the_clock_is_cut_to_its_second() {
        let now = Now { mono: Millis(5), wall: WallMillis(1_764_009_306_999) };
        assert_eq!(UnixSeconds::of(now), UnixSeconds(1_764_009_306));
        assert_eq!(UnixSeconds(100_000).days_since(UnixSeconds(0)), 1);
        assert_eq!(UnixSeconds(0).days_since(UnixSeconds(1)), -1);
    }
}
