//! Whether everything that a shard holds adds up: every table, list, reference, gauge and byte of the account, from both sides.
//!
//! [`Shard::verify`] is for tests, simulators and fuzzers, which call it between two turns; a server never does. It changes nothing,
//! repairs nothing, and says the first thing that is wrong. It knows what must be true of the records; it does not know what clients
//! were promised, which is for whoever sees what they get.
//!
//! | file | looks at |
//! |---|---|
//! | `connections` | connections, what is rare about them, their frames on the way out, timers |
//! | `sessions` | sessions, windows, memberships, and the queues in which they wait |
//! | `rooms` | rooms with members here, and their passes |
//! | `homes` | rooms at their home, presences, changes to be told, users |
//! | `history` | what rooms keep |
//!
//! The gauges `sessions`, `users` and `presences` are copies that a turn's end makes, so they are not compared.

mod connections;
mod history;
mod homes;
mod rooms;
mod sessions;

use super::Shard;
use super::seam::{Lane, ShardId};
use super::stats::MemoryUse;
use std::fmt;

impl Shard {
    /// Walks everything that the shard holds and says the first thing that does not add up.
    ///
    /// To be called between two turns: after `poll_*` have returned `None`, before the next event. Takes time in proportion to what
    /// is held.
    ///
    /// # Errors
    /// What does not add up, and where.
    #[cold]
    pub fn verify(&self) -> Result<(), String> {
        self.sessions.verify().map_err(|what| format!("sessions: {what}"))?;
        self.memberships.verify().map_err(|what| format!("memberships: {what}"))?;
        self.presences.verify().map_err(|what| format!("presences: {what}"))?;
        self.verify_connections()?;
        self.verify_nodes()?;
        self.verify_frames()?;
        self.verify_sessions()?;
        self.verify_windows()?;
        self.verify_memberships()?;
        self.verify_owed()?;
        self.verify_waiters()?;
        self.verify_rooms()?;
        self.verify_homes()?;
        self.verify_history()?;
        self.verify_idle_homes()?;
        self.verify_presences()?;
        self.verify_users()?;
        self.verify_mesh()
    }

    /// Says the first thing that is still held although everybody has gone and every time has passed.
    ///
    /// # Errors
    /// What is held, and how much of it.
    #[cold]
    pub fn verify_empty(&self) -> Result<(), String> {
        self.verify()?;
        let stats = &self.stats;
        let held = [
            ("sockets held", stats.sockets_held),
            ("active connections", stats.connections_active),
            ("room subscriptions", stats.room_subscriptions),
            ("leaves owed", stats.leaves_owed),
            ("orphaned subscriptions", stats.orphaned_subscriptions),
            ("failed leaves", stats.room_leave_failures),
            ("sessions", self.sessions.len().max(stats.sessions as usize) as u64),
            ("detached sessions", stats.sessions_detached),
            ("users", self.users.len().max(stats.users as usize) as u64),
            ("rooms at their home", stats.rooms_home),
            ("idle rooms", stats.rooms_idle),
            ("rooms with members", stats.rooms_local),
            ("publications kept", (self.history.publications.len() + self.history.keys.len()) as u64),
            ("presences", self.presences.len().max(stats.presences as usize) as u64),
            ("bytes for slow sockets", stats.send_queue_bytes),
            ("memberships", self.memberships.len() as u64),
            ("stashes", self.stashes.len() as u64),
            ("windows", self.windows.len() as u64),
            ("presence states", self.states.len() as u64),
            ("users in rooms", self.groups.len() as u64),
            ("passes", self.passes as u64),
            ("backlogged connections", self.backlogged as u64),
            ("connections that wait", self.lanes.iter().map(|lane| lane.waiters.len() as u64).sum()),
            ("sessions in their grace", self.detached.len() as u64),
            ("sessions that may be resumed", self.resumables.len() as u64),
            ("states of sessions that are away", self.dormant_states.len() as u64),
            ("sessions with something rare", self.asides.len() as u64),
            ("connections to be handed over", self.movers.len() as u64),
            ("sessions with a gap", self.reorders.len() as u64),
            ("rooms with changes", (self.diffs_fast.len() + self.diffs_slow.len()) as u64),
            ("frames", self.out.frames.frames.len() as u64 - 1),
        ];
        for (name, count) in held {
            check(count == 0, || format!("{count} {name} are left"))?;
        }
        for memory_use in MemoryUse::ALL {
            let bytes = stats.memory_bytes[memory_use as usize];
            check(bytes == 0, || format!("{bytes} bytes are left charged to {}", memory_use.label()))?;
        }
        check(!self.has_output(), || "output is left".into())
    }

    /// Messages that were made and not yet polled take the places that are counted for them.
    fn verify_mesh(&self) -> Result<(), String> {
        for lane in [Lane::Command, Lane::Consequence] {
            for (peer, state) in self.lanes.iter().enumerate() {
                let to = ShardId(peer as u16);
                let held = self.mesh.iter().filter(|message| (message.0, message.1) == (to, lane)).count();
                same(format_args!("messages for the {lane:?} lane to shard {peer}"), state.unpolled[lane as usize], held)?;
            }
        }
        Ok(())
    }

    /// What is charged to a use is what was found to be held for it.
    fn verify_account(&self, memory_use: MemoryUse, held: usize) -> Result<(), String> {
        let charged = self.stats.memory_bytes[memory_use as usize];
        check(charged == held as u64, || format!("{charged} bytes are charged to {}, and {held} are held", memory_use.label()))
    }
}

/// Places of a table that were met.
struct Marks(Vec<u64>);

impl Marks {
    fn new(places: usize) -> Self {
        Marks(vec![0; places.div_ceil(64)])
    }

    /// Marks a place. False if it was marked before, or is not of the table.
    fn mark(&mut self, place: usize) -> bool {
        let Some(word) = self.0.get_mut(place / 64) else { return false };
        let bit = 1 << (place % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn has(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word & 1 << (place % 64) != 0)
    }
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// A count and what was counted are the same.
fn same(name: fmt::Arguments<'_>, counted: usize, held: usize) -> Result<(), String> {
    check(counted == held, || format!("{name}: {counted} are counted, and {held} are there"))
}

/// As [`check`], where the caller says of what.
fn holds(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}
