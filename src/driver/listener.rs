//! When a shard accepts, and when it doesn't.
//!
//! Accepting is a multishot operation. It is cancelled while few slots are free, so that every accepted socket has one and a refusal can be
//! said; the clients wait in the kernel's backlog meanwhile. (A burst that takes the last slots within one submission still ends in ENFILE: that costs
//! one client its answer, and pauses too.) An error of the machine rather than of one client pauses for [`RETRY_MS`], or it would
//! spin.

use crate::limits::REFUSALS_IN_FLIGHT_MAX;
use crate::time::Millis;

/// Free slots below which accepting is paused.
const PAUSE_BELOW: usize = REFUSALS_IN_FLIGHT_MAX / 4;
/// Free slots from which it goes on.
const RESUME_FROM: usize = REFUSALS_IN_FLIGHT_MAX / 2;
/// Time to the next attempt after an error that isn't one client's, in ms.
pub(super) const RETRY_MS: u64 = 100;

/// What to do with the accept operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Put it into the kernel.
    Arm,
    /// Cancel it.
    Cancel,
    /// Leave it.
    Keep,
}

/// The state of a shard's accept operation.
#[derive(Debug, Default)]
pub(super) struct Accepting {
    armed: bool,
    cancelling: bool,
    retry_at: Option<Millis>,
    ended: bool,
    paused: bool,
}

impl Accepting {
    /// What to do now that `free` slots are free. The caller does it.
    pub(super) fn step(&mut self, now: Millis, free: usize) -> Step {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        let low = free < if self.paused { RESUME_FROM } else { PAUSE_BELOW };
        self.paused = low;
        let wanted = !low && !self.ended && self.retry_at.is_none();
        match (self.armed, wanted) {
            (false, true) => {
                self.armed = true;
                Step::Arm
            }
            (true, false) if !self.cancelling => {
                self.cancelling = true;
                Step::Cancel
            }
            _ => Step::Keep,
        }
    }

    /// Notes the last completion of the operation, with its errno if it failed.
    pub(super) fn completed(&mut self, now: Millis, errno: Option<i32>) {
        self.armed = false;
        self.cancelling = false;
        if errno.is_some_and(|errno| !is_one_clients(errno)) {
            self.retry_at = Some(now.after(RETRY_MS));
        }
    }

    /// Accepts no more.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// When to try again.
    pub(super) fn retry_at(&self) -> Option<Millis> {
        self.retry_at
    }

    /// Whether too few slots are free.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }
}

/// Errors of accept that concern the one connection that it took off the backlog (accept(2)), or our own cancellation.
fn is_one_clients(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECANCELED
            | libc::EINTR
            | libc::EAGAIN
            | libc::ECONNABORTED
            | libc::EPERM
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENONET
            | libc::EOPNOTSUPP
            | libc::ETIMEDOUT
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_pauses_when_slots_run_short_and_goes_on_with_some_to_spare() {
        let mut accepting = Accepting::default();
        let now = Millis(0);
        assert_eq!(accepting.step(now, 1_000), Step::Arm);
        assert_eq!(accepting.step(now, PAUSE_BELOW), Step::Keep);
        assert_eq!(accepting.step(now, PAUSE_BELOW - 1), Step::Cancel);
        assert_eq!(accepting.step(now, PAUSE_BELOW - 1), Step::Keep);
        accepting.completed(now, Some(libc::ECANCELED));
        assert_eq!(accepting.step(now, RESUME_FROM - 1), Step::Keep);
        assert_eq!(accepting.step(now, RESUME_FROM), Step::Arm);
    }

    #[test]
    fn an_error_of_the_machine_is_retried_after_a_while_and_one_clients_at_once() {
        let mut accepting = Accepting::default();
        accepting.step(Millis(0), 1_000);
        accepting.completed(Millis(0), Some(libc::ENFILE));
        assert_eq!(accepting.step(Millis(RETRY_MS - 1), 1_000), Step::Keep);
        assert_eq!(accepting.step(Millis(RETRY_MS), 1_000), Step::Arm);
        accepting.completed(Millis(RETRY_MS), Some(libc::ECONNABORTED));
        assert_eq!(accepting.step(Millis(RETRY_MS), 1_000), Step::Arm);
    }

    #[test]
    fn after_the_end_nothing_is_accepted() {
        let mut accepting = Accepting::default();
        accepting.step(Millis(0), 1_000);
        accepting.end();
        assert_eq!(accepting.step(Millis(0), 1_000), Step::Cancel);
        accepting.completed(Millis(0), Some(libc::ECANCELED));
        assert_eq!(accepting.step(Millis(0), 1_000), Step::Keep);
    }
}
