//! Pings, and what silence means.
//!
//! A ping is due `heartbeat` after the last inbound byte. The timer is armed lazily: bytes only note their time, and when the timer
//! fires it is armed again for what is left. A connection that stays silent after its ping is probed before it is taken for dead,
//! and never while the server itself does not read it. One whose ping stands behind much that it has yet to read is alive as long as
//! it reads: that shows in what the kernel still holds for it, which is looked at twice. All of it runs on the *fair* clock, which
//! stands still while the loop stood still, so that a stall of the server is held against nobody.

use super::Shard;
use super::connection::{Flags, State};
use super::seam::{Action, Key};
use super::stats::Refusal;
use crate::close::CloseReason;
use crate::planted::{Bug, is_planted};
use crate::time::{Millis, Now, Tick};

/// Unread bytes from which on a silent peer may be a slow one.
const SLOW_BYTES_MIN: u32 = 256;

impl Shard {
    /// The moment on the fair clock.
    pub(crate) fn fair_millis(&self, now: Now) -> Millis {
        Millis(now.mono.0.saturating_sub(self.stalled_ms))
    }

    /// The tick on the fair clock.
    pub(crate) fn fair(&self, now: Now) -> Tick {
        self.fair_millis(now).tick()
    }

    /// Sets a connection's timer to `ms` from now.
    pub(crate) fn arm(&mut self, slot: u32, now: Now, ms: u64) {
        let due = self.fair_millis(now).after(ms).tick_ceil();
        self.wheel.arm(slot, due);
    }

    /// The silence after which a connection is pinged, in ms.
    fn heartbeat_ms(&self, slot: u32) -> u64 {
        let session = self.connections[slot as usize].session;
        let in_a_room = session.is_some() && self.sessions[session].memberships.is_some();
        if in_a_room { self.limits.heartbeat_ms } else { self.limits.heartbeat_idle_ms }
    }

    /// Arms the first heartbeat of a connection that has just opened, spread at random over the second half of the period.
    pub(crate) fn arm_first_heartbeat(&mut self, slot: u32, now: Now) {
        let period = self.heartbeat_ms(slot);
        let spread = period / 2 + self.random.below(period / 2 + 1);
        self.arm(slot, now, spread);
    }

    /// A connection entered its first room: its heartbeat may be due sooner than its timer says.
    pub(crate) fn hasten_heartbeat(&mut self, slot: u32, now: Now) {
        let connection = &self.connections[slot as usize];
        if connection.flags.has(Flags::PINGED) || connection.state != State::Open || is_planted(Bug::HeartbeatNotHastened) {
            return;
        }
        let due = connection.last_in.start().after(self.limits.heartbeat_ms).tick_ceil();
        if self.wheel.due(slot).is_none_or(|armed| armed > due) {
            self.wheel.arm(slot, due.max(self.fair(now)));
        }
    }

    /// A connection's timer fired.
    pub(crate) fn handle_timer(&mut self, now: Now, slot: u32) {
        match self.connections[slot as usize].state {
            State::Free => {}
            State::Upgrading => self.refuse(now, slot, Refusal::Timeout, 408, &[], "The request did not come in time.\n"),
            State::Opening | State::Moving => self.end_with_frame(now, slot, CloseReason::HandshakeTimeout),
            State::Goodbye => self.forget(slot),
            State::Open => self.judge_silence(now, slot),
        }
    }

    fn judge_silence(&mut self, now: Now, slot: u32) {
        let connection = &self.connections[slot as usize];
        let key = Key { slot, generation: connection.generation };
        let (period, timeout) = (self.heartbeat_ms(slot), self.limits.timeout_ms);
        let due = connection.last_in.start().after(period).tick_ceil();
        if !connection.flags.has(Flags::PINGED) {
            self.forget_measure(slot);
            if due > self.fair(now) {
                self.wheel.arm(slot, due);
                return;
            }
            self.connections[slot as usize].flags.set(Flags::PINGED);
            let ping = self.ping_frame;
            self.push_control(slot, ping);
            self.stats.pings_sent += 1;
            self.measure(slot);
            // If it is answered the next ping is due a period later, which may be sooner than half of the timeout.
            self.arm(slot, now, period.min(timeout / 2));
            return;
        }
        let (middle, deadline) = (due.start().after(timeout / 2).tick_ceil(), due.start().after(timeout).tick_ceil());
        if middle > self.fair(now) {
            self.wheel.arm(slot, middle);
        } else if deadline > self.fair(now) {
            if !self.has_measure(slot) {
                self.actions.push_back(Action::Measure(key));
            }
            self.wheel.arm(slot, deadline);
        } else if connection.flags.has(Flags::PAUSED) && connection.flags.has(Flags::ECHO) {
            // It is not read because it does not read, and its socket has taken nothing for all that time.
            self.end_with_frame(now, slot, CloseReason::SlowConsumer);
        } else if connection.flags.has(Flags::PAUSED) {
            // We don't read it: its silence says nothing.
            self.arm(slot, now, timeout);
        } else if is_planted(Bug::ReapBeforeProbe) {
            self.handle_probed(now, key, true);
        } else {
            if self.has_measure(slot) {
                self.actions.push_back(Action::Measure(key));
            }
            self.actions.push_back(Action::Probe(key));
        }
    }

    /// A connection is pinged, or its ping has to wait in a backlog: notes how much its peer has yet to read, so that it can be seen
    /// whether it does.
    ///
    /// That is compared when the ping's time is over. What was sent in between is added, and what the socket takes of a backlog is
    /// life by itself and ends the ping's time. So whatever is less was read.
    pub(crate) fn measure(&mut self, slot: u32) {
        let connection = &self.connections[slot as usize];
        if connection.flags.has(Flags::PINGED) && connection.flags.has(Flags::BACKLOGGED) {
            let stash = &mut self.stashes[connection.stash.0 as usize];
            (stash.unacknowledged, stash.progressed) = (None, false);
            self.actions.push_back(Action::Measure(Key { slot, generation: connection.generation }));
        }
    }

    /// What was measured is of no more use: the peer has shown that it lives.
    pub(crate) fn forget_measure(&mut self, slot: u32) {
        let stash = self.connections[slot as usize].stash;
        if stash.is_some() {
            let stash = &mut self.stashes[stash.0 as usize];
            (stash.unacknowledged, stash.progressed) = (None, false);
            self.release_stash(slot);
        }
    }

    fn has_measure(&self, slot: u32) -> bool {
        let stash = self.connections[slot as usize].stash;
        stash.is_some() && self.stashes[stash.0 as usize].unacknowledged.is_some()
    }

    /// The answer to [`Action::Measure`]: bytes that the peer has not acknowledged.
    pub fn handle_measured(&mut self, key: Key, bytes: u32) {
        if !self.is_current(key) {
            return;
        }
        let connection = &self.connections[key.slot as usize];
        if connection.state != State::Open || !connection.flags.has(Flags::PINGED) {
            return;
        }
        // Who has little to read but the ping is not slow: it needs no place for this, however many fall silent together.
        if connection.stash.is_none() && bytes < SLOW_BYTES_MIN {
            return;
        }
        let stash = self.stash_of(key.slot);
        let stash = &mut self.stashes[stash.0 as usize];
        stash.progressed |= stash.unacknowledged.is_some_and(|before| bytes < before);
        stash.unacknowledged.get_or_insert(bytes);
    }

    /// The answer to [`Action::Probe`]. `silent`: nothing was there to read, and nothing came in the meantime.
    pub fn handle_probed(&mut self, now: Now, key: Key, silent: bool) {
        if !self.is_current(key) {
            return;
        }
        let connection = &self.connections[key.slot as usize];
        if connection.state != State::Open {
            return;
        }
        let is_judged = silent && connection.flags.has(Flags::PINGED) && !connection.flags.has(Flags::PAUSED);
        if is_judged && connection.stash.is_some() && self.stashes[connection.stash.0 as usize].progressed {
            // It reads what the kernel holds for it, if slowly. When it last did is not known: perhaps just after the ping. So life
            // is counted from there, and a peer that has vanished since is not kept for longer than any other.
            let timeout = self.limits.timeout_ms;
            let alive = Millis(self.fair_millis(now).0.saturating_sub(timeout));
            self.connections[key.slot as usize].last_in = alive.tick();
            self.connections[key.slot as usize].flags.clear(Flags::PINGED);
            let left = self.heartbeat_ms(key.slot).saturating_sub(timeout);
            self.arm(key.slot, now, left);
            return;
        }
        if is_judged {
            self.stats.ghosts_reaped += 1;
            // The peer answers nothing: a close frame is tried, but nothing is awaited.
            self.end_with_frame(now, key.slot, CloseReason::NoPong);
            return;
        }
        self.connections[key.slot as usize].flags.clear(Flags::PINGED);
        self.arm(key.slot, now, self.limits.timeout_ms);
    }

    /// The loop stood still for `ms`: every deadline of a connection moves by as much.
    pub fn handle_stall(&mut self, _now: Now, ms: u64) {
        self.stalled_ms += ms;
    }

    /// Whatever is due at `now`.
    pub fn handle_timeout(&mut self, now: Now) {
        let mut due = std::mem::take(&mut self.due);
        let tick = self.fair(now);
        self.wheel.advance(tick, &mut due);
        for slot in due.drain(..) {
            self.handle_timer(now, slot);
        }
        self.due = due;
        self.expire_reorder(now);
        self.expire_absent(now);
        self.expire_history(now);
        self.expire_idle_rooms(now);
        self.audit_if_due(now);
        self.drain_some(now);
        self.trim_pools(now);
    }

    /// When `handle_timeout` is next due; `None` if nothing is.
    pub fn poll_timeout(&self) -> Option<Millis> {
        let wheel = self.wheel.next_due().map(|tick| Millis(tick.start().0 + self.stalled_ms));
        [
            wheel,
            self.reorder_due(),
            self.absent_due(),
            self.history_due(),
            self.idle_due(),
            self.presence_due(),
            self.audit_due(),
            self.drain_due(),
            self.trim_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
