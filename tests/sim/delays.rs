//! How long a client machine waits before it tries again: no less than it was advised, no more than its window (PROTOCOL §9), and the
//! window grows with each attempt since the last stable connection.
//!
//! It is computed here from what the machine is seen to do and from what the server said, not from what the machine counts.

use crate::client::Client;
use crate::world::World;
use throng::client::{Cause, State};
use throng::time::Millis;

/// The first window, in ms.
const BASE_MS: u64 = 500;
/// The largest, in ms.
const CAP_MS: u64 = 30_000;
/// How long a connection must have been open for the first window to be the next, in ms.
const STABLE_MS: u64 = 10_000;

/// What is known of a client's attempts.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    /// Waits since the last stable connection.
    waits: u32,
    /// Attempts at the last wait that was looked at.
    attempts: u64,
    open_since: Option<Millis>,
    /// The least wait that the server has asked for with the end of the connection, in ms.
    advice_ms: u64,
    /// A wait that it has asked for before, in ms.
    early_advice_ms: u64,
}

impl Delays {
    /// The server asks for a wait with what ends the connection.
    pub(crate) fn advise(&mut self, ms: u64) {
        self.advice_ms = self.advice_ms.max(ms);
    }

    /// The server announces an end, and asks for a wait after it.
    pub(crate) fn announce(&mut self, ms: u64) {
        self.early_advice_ms = self.early_advice_ms.max(ms);
    }

    /// What was advised has not ended the connection.
    pub(crate) fn forget(&mut self) {
        self.advice_ms = 0;
    }
}

/// Whether trying again soon would meet the same end: the client may wait as after many attempts.
fn is_lasting(cause: Cause) -> bool {
    match cause {
        Cause::Violation(_) | Cause::Closed(1002 | 1003 | 1007) => true,
        Cause::Refused(status) => status < 429,
        Cause::Asked | Cause::Closed(_) | Cause::Lost | Cause::Silent => false,
    }
}

impl World<'_> {
    /// Looks at a client's wait, if one has begun.
    pub(crate) fn watch_delay(&mut self, client: usize) {
        let now = self.now.mono;
        let Client { machine, delays, .. } = &mut self.clients[client];
        let (at, cause) = match machine.state() {
            State::Connected { .. } => {
                delays.open_since.get_or_insert(now);
                return;
            }
            State::Connecting { next_attempt: Some(at), cause, .. } | State::Resuming { next_attempt: Some(at), cause, .. } => {
                (at, cause)
            }
            State::Connecting { .. } | State::Resuming { .. } | State::Closed(_) => return,
        };
        if std::mem::replace(&mut delays.attempts, machine.stats().attempts) == machine.stats().attempts {
            return;
        }
        if delays.open_since.take().is_some_and(|since| now.since(since) >= STABLE_MS) {
            delays.waits = 0;
        }
        if cause.is_some_and(is_lasting) {
            delays.waits = u32::MAX;
        }
        let window = BASE_MS.saturating_mul(1u64.checked_shl(delays.waits).unwrap_or(u64::MAX)).min(CAP_MS);
        delays.waits = delays.waits.saturating_add(1);
        let (least, most) = (delays.advice_ms, window.max(delays.advice_ms).max(delays.early_advice_ms));
        (delays.advice_ms, delays.early_advice_ms) = (0, 0);
        let wait = at.since(now);
        check!(wait >= least, "advice", "client {client} waits {wait} ms, and was advised to wait {least} ms");
        check!(wait <= most, "back-off", "client {client} waits {wait} ms of a window of {most} ms");
    }
}
