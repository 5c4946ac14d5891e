//! The only clock of the tests: deadlines that end a wait. It yields no durations to compare, so no test can assert on a time.

use std::time::{Duration, Instant};

/// How long a test waits for something that should come at once. Long, because a busy machine must not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A moment at which a wait gives up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `wait` from now.
    #[allow(clippy::disallowed_methods, reason = "the clock of the tests")]
    pub fn after(wait: Duration) -> Deadline {
        Deadline(Instant::now() + wait)
    }

    /// What is left, `None` once it has passed.
    #[allow(clippy::disallowed_methods, reason = "the clock of the tests")]
    pub fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.left().is_none()
    }
}
