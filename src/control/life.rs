//! The life of a server from its first signal on: notice, drain, end.
//!
//! Pure: signals and time come in, orders come out. First readiness fails, so that load balancers look elsewhere while everything
//! still works; then connections are told to go; then the process ends, when the last is gone or the time is over.

use crate::limits::CLOSE_LINGER_MS;
use crate::time::Millis;

/// Exit code after a third signal: that of a shell for SIGINT.
pub const EXIT_AT_ONCE: u8 = 130;
/// Exit code when a shard has failed.
pub const EXIT_SHARD_FAILED: u8 = 1;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let `/readyz` fail everywhere; go on accepting.
    FailReadiness,
    /// Close everything with 4200, the last close said by then.
    Drain {
        /// Leaves time for the answers.
        by: Millis,
    },
    /// End the process.
    Exit {
        /// Exit code.
        code: u8,
        /// Sockets that are cut.
        cut: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Readiness fails until then.
    Notice(Millis),
    /// Connections are closed until then.
    Draining(Millis),
}

/// See the module.
#[derive(Debug)]
pub struct Life {
    phase: Phase,
    signals: u32,
    shards: usize,
    notice_ms: u64,
    drain_ms: u64,
}

impl Life {
    /// A running server of `shards` shards.
    pub fn new(shards: usize, notice_ms: u64, drain_ms: u64) -> Life {
        Life { phase: Phase::Running, signals: 0, shards, notice_ms, drain_ms }
    }

    /// SIGTERM or SIGINT: the first begins the notice, the second ends it, the third ends everything.
    pub fn handle_signal(&mut self, now: Millis, sockets: usize) -> Option<Step> {
        self.signals += 1;
        match (self.signals, self.phase) {
            (1, _) => {
                self.phase = Phase::Notice(now.after(self.notice_ms));
                Some(Step::FailReadiness)
            }
            (2, Phase::Notice(_)) => Some(self.drain(now)),
            // The notice had run out by itself; a nervous second signal must not cut connections that are being closed.
            (2, _) => None,
            _ => Some(Step::Exit { code: EXIT_AT_ONCE, cut: sockets }),
        }
    }

    /// To be called often: time has passed, connections may have gone, a shard may have failed.
    pub fn handle_tick(&mut self, now: Millis, sockets: usize, shards_running: usize) -> Option<Step> {
        match self.phase {
            Phase::Running | Phase::Notice(_) if shards_running < self.shards => {
                Some(Step::Exit { code: EXIT_SHARD_FAILED, cut: sockets })
            }
            Phase::Notice(until) if now >= until => Some(self.drain(now)),
            // A shard whose sockets are closed may end before the others.
            Phase::Draining(until) if sockets == 0 || now >= until => Some(Step::Exit { code: 0, cut: sockets }),
            Phase::Running | Phase::Notice(_) | Phase::Draining(_) => None,
        }
    }

    fn drain(&mut self, now: Millis) -> Step {
        self.phase = Phase::Draining(now.after(self.drain_ms));
        Step::Drain { by: now.after(self.drain_ms - CLOSE_LINGER_MS.min(self.drain_ms / 2)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> Life {
        Life::new(2, 10_000, 10_000)
    }

    #[test]
    fn a_signal_is_notice_then_drain_then_the_end_with_the_last_socket() {
        let mut life = life();
        assert_eq!(life.handle_tick(Millis(0), 5, 2), None);
        assert_eq!(life.handle_signal(Millis(1_000), 5), Some(Step::FailReadiness));
        assert_eq!(life.handle_tick(Millis(10_999), 5, 2), None);
        assert_eq!(life.handle_tick(Millis(11_000), 5, 2), Some(Step::Drain { by: Millis(19_000) }));
        assert_eq!(life.handle_tick(Millis(15_000), 1, 2), None);
        assert_eq!(life.handle_tick(Millis(15_050), 0, 0), Some(Step::Exit { code: 0, cut: 0 }));
    }

    #[test]
    fn when_the_time_is_over_the_rest_is_cut_and_counted() {
        let mut life = life();
        life.handle_signal(Millis(0), 5);
        life.handle_signal(Millis(0), 5);
        assert_eq!(life.handle_tick(Millis(9_999), 3, 2), None);
        assert_eq!(life.handle_tick(Millis(10_000), 3, 2), Some(Step::Exit { code: 0, cut: 3 }));
    }

    #[test]
    fn a_second_signal_cuts_the_notice_short_and_a_third_everything() {
        let mut life = life();
        life.handle_signal(Millis(0), 5);
        assert_eq!(life.handle_signal(Millis(100), 5), Some(Step::Drain { by: Millis(8_100) }));
        assert_eq!(life.handle_signal(Millis(200), 4), Some(Step::Exit { code: 130, cut: 4 }));
    }

    #[test]
    fn a_second_signal_after_the_notice_leaves_the_drain_alone() {
        let mut life = life();
        life.handle_signal(Millis(0), 5);
        life.handle_tick(Millis(10_000), 5, 2);
        assert_eq!(life.handle_signal(Millis(10_100), 5), None);
        assert_eq!(life.handle_signal(Millis(10_200), 5), Some(Step::Exit { code: 130, cut: 5 }));
    }

    #[test]
    fn a_failed_shard_ends_the_server_but_a_drained_one_does_not() {
        assert_eq!(life().handle_tick(Millis(0), 5, 1), Some(Step::Exit { code: 1, cut: 5 }));
        let mut life = life();
        life.handle_signal(Millis(0), 5);
        life.handle_signal(Millis(0), 5);
        assert_eq!(life.handle_tick(Millis(1), 2, 1), None);
    }

    #[test]
    fn a_drain_shorter_than_the_linger_leaves_half_of_it_for_the_answers() {
        let mut life = Life::new(1, 0, 1_000);
        life.handle_signal(Millis(0), 1);
        assert_eq!(life.handle_tick(Millis(0), 1, 1), Some(Step::Drain { by: Millis(500) }));
    }
}
