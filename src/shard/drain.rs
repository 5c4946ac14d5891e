//! The end of a server: connections are told to go one after the other, evenly until a given time, with 4200.

use super::Shard;
use super::connection::State;
use super::seam::Order;
use crate::close::CloseReason;
use crate::planted::{Bug, is_planted};
use crate::time::{Millis, Now, TICK_MS};

/// A drain under way.
#[derive(Debug)]
pub(crate) struct Drain {
    by: Millis,
    /// Slots below it were told.
    next: usize,
    /// When the next batch is due.
    due: Millis,
}

impl Shard {
    /// An order from the control plane.
    pub fn handle_order(&mut self, now: Now, order: Order) {
        match order {
            Order::Ready(ready) => self.ready = ready,
            Order::Drain { by } => {
                self.drain = Some(Drain { by, next: 0, due: now.mono });
                self.drain_some(now);
            }
        }
    }

    pub(crate) fn drain_due(&self) -> Option<Millis> {
        self.drain.as_ref().filter(|drain| drain.next < self.connections.len()).map(|drain| drain.due)
    }

    /// Tells the share of connections that is due.
    pub(crate) fn drain_some(&mut self, now: Now) {
        let Some(drain) = self.drain.as_mut().filter(|drain| drain.due <= now.mono && drain.next < self.connections.len()) else {
            return;
        };
        let rest = self.connections.len() - drain.next;
        let ticks = drain.by.since(now.mono) / TICK_MS + 1;
        let end = drain.next + (rest as u64).div_ceil(ticks) as usize;
        let start = std::mem::replace(&mut drain.next, end);
        drain.due = now.mono.after(TICK_MS);
        for slot in start + usize::from(is_planted(Bug::DrainSkipsSome))..end {
            match self.connections[slot].state {
                State::Opening | State::Open => self.end_with_frame(now, slot as u32, CloseReason::Drain),
                // It is refused when its request is there.
                State::Upgrading => {}
                // It is told where it arrives.
                State::Moving => {}
                State::Free | State::Goodbye => {}
            }
        }
    }
}
