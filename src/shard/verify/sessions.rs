//! Sessions, their windows and memberships, and the queues in which they wait for time, for room, or for one another.

use super::super::arena::{MembershipIndex, SessionIndex};
use super::super::connection::{Flags, State};
use super::super::local::{MEMBERSHIP_BYTES, NOWHERE, Stage};
use super::super::mesh::SessionId;
use super::super::session::{Absence, NO_CONNECTION, Phase, Session};
use super::super::stats::MemoryUse;
use super::{Marks, Shard, check, holds, same};
use crate::limits::WINDOW;
use crate::time::Millis;
use std::collections::VecDeque;

impl Shard {
    pub(super) fn verify_sessions(&self) -> Result<(), String> {
        let graces = self.verify_absences("sessions in their grace", &self.detached)?;
        let watched = self.verify_queue("sessions with a gap", &self.reorders)?;
        let resumables = self.verify_absences("sessions that may be resumed", &self.resumables)?;
        let (mut detached, mut resumable) = (0, 0);
        for (index, session) in self.sessions.iter() {
            let place = index.0 as usize;
            detached += usize::from(session.phase == Phase::Detached);
            let verdict = self.verify_session(index, session).and_then(|()| {
                let is_queued = session.phase != Phase::Detached || graces.has(place);
                holds(is_queued, "its connection broke off, and nothing ends its grace")?;
                let is_absent = session.resumable && session.connection == NO_CONNECTION;
                resumable += usize::from(is_absent);
                holds(!is_absent || resumables.has(place), "it may be resumed, and nothing ends that")?;
                holds(session.watched == watched.has(place), "its gap is watched and not queued, or the reverse")?;
                holds(session.watched || !self.has_early(index), "it keeps early commands, and nobody watches the gap")
            });
            verdict.map_err(|what| format!("session {place}: {what}"))?;
        }
        same(format_args!("resumable sessions"), self.stats.sessions_resumable as usize, resumable)?;
        same(format_args!("detached sessions"), self.stats.sessions_detached as usize, detached)?;
        let mut acks = Marks::new(self.connections.len());
        for slot in &self.acks {
            check(acks.mark(*slot as usize), || format!("connection {slot} is to be acknowledged twice"))?;
        }
        let mut slots = self.connections.iter().enumerate();
        // What has ended since then is told nothing more, whatever it says.
        match slots
            .find(|(slot, connection)| connection.flags.has(Flags::ACK_DUE) && connection.session.is_some() && !acks.has(*slot))
        {
            None => Ok(()),
            Some((slot, _)) => Err(format!("connection {slot}: an acknowledgement is due, and nothing sends it")),
        }
    }

    /// A queue of absences: in order, and each session that is still absent once. Returns who is in it.
    fn verify_absences(&self, name: &str, queue: &VecDeque<Absence>) -> Result<Marks, String> {
        let mut marks = Marks::new(self.sessions.extent());
        let mut last = Millis(0);
        for absence in queue {
            check(absence.due >= last, || format!("{name}: the queue is not in the order of time"))?;
            last = absence.due;
            if let Some(index) = self.absent(absence) {
                check(marks.mark(index.0 as usize), || format!("{name}: session {} is queued twice", index.0))?;
            }
        }
        Ok(marks)
    }

    /// A queue of sessions by time: in order, and each that still lives once. Returns who is in it.
    fn verify_queue(&self, name: &str, queue: &VecDeque<(Millis, SessionId)>) -> Result<Marks, String> {
        let mut marks = Marks::new(self.sessions.extent());
        let mut last = Millis(0);
        for (due, id) in queue {
            check(*due >= last, || format!("{name}: the queue is not in the order of time"))?;
            last = *due;
            if let Some(index) = self.resolve_session(*id) {
                check(marks.mark(index.0 as usize), || format!("{name}: session {} is queued twice", index.0))?;
            }
        }
        Ok(marks)
    }

    fn verify_session(&self, index: SessionIndex, session: &Session) -> Result<(), &'static str> {
        // Those that it leaves may not be left yet when it is in them again.
        holds(usize::from(session.rooms) <= 2 * self.limits.rooms_per_connection_max, "it is in more rooms than it may be")?;
        match session.phase {
            Phase::Attached => {
                let connection = self.connections.get(session.connection as usize);
                holds(connection.is_some_and(|connection| connection.session == index), "its connection is another's")?;
            }
            Phase::Detached | Phase::Away | Phase::Ending => {
                holds(session.connection == NO_CONNECTION, "it is over and has a connection")?;
                let is_undecided = session.resumable && self.is_undecided(index);
                holds(session.window.is_none() || is_undecided, "it is over, waits for no decision, and has a window")?;
            }
        }
        let mut at = session.memberships;
        while at.is_some() && session.phase == Phase::Away {
            let is_dormant = self.memberships.get(at).is_some_and(|membership| membership.stage == Stage::Dormant);
            holds(is_dormant, "its grace is over and it is in a room")?;
            at = self.memberships[at].next;
        }
        holds(session.phase != Phase::Away || session.resumable, "its grace is over, nobody can resume it, and it is kept")?;
        holds(session.phase != Phase::Ending || !session.resumable, "it is over and may be resumed")?;
        holds(session.aside.is_none() || self.asides.contains(session.aside.0 as usize), "what is rare about it is not there")?;
        holds(session.phase != Phase::Ending || session.rooms > 0, "it is over, waits for nothing, and is kept")?;
        holds(session.phase != Phase::Ending || session.memberships.is_none(), "it is over and lists memberships")
    }

    /// Every window is one session's, and what the session knows of it is true.
    pub(super) fn verify_windows(&self) -> Result<(), String> {
        let mut windows = Marks::new(self.windows.capacity());
        let (mut count, mut charged) = (0, 0);
        for (index, session) in self.sessions.iter().filter(|(_, session)| session.window.is_some()) {
            let place = session.window.0 as usize;
            let verdict = match self.windows.get(place).filter(|_| windows.mark(place)) {
                None => Err("its window is not there, or another's"),
                Some(pooled) => {
                    count += 1;
                    charged += pooled.charged;
                    pooled.window.verify().and_then(|()| {
                        holds(session.acked == pooled.window.acked(), "other commands are decided than its window says")?;
                        holds(pooled.window.undecided() <= WINDOW, "more commands are undecided than may be")?;
                        // A buffer that came with the window from the pool is not charged before something is kept in it.
                        let is_bare = pooled.charged == 0 && pooled.window.commands_buffered() == 0;
                        let is_charged = pooled.charged == pooled.window.bytes_held();
                        holds(is_bare || is_charged, "the bytes of its window are not what is charged")
                    })
                }
            };
            verdict.map_err(|what| format!("session {}: {what}", index.0))?;
        }
        same(format_args!("windows"), self.windows.len(), count)?;
        let with_aside = self.sessions.iter().filter(|(_, session)| session.aside.is_some()).count();
        same(format_args!("sessions with something rare"), self.asides.len(), with_aside)?;
        let charged = charged + self.asides.iter().map(|(_, aside)| aside.bytes()).sum::<usize>();
        self.verify_account(MemoryUse::Reorder, charged)
    }

    /// Memberships and sessions name each other, each once.
    pub(super) fn verify_memberships(&self) -> Result<(), String> {
        let mut listed = Marks::new(self.memberships.extent());
        let mut unlisted = 0;
        for (index, session) in self.sessions.iter() {
            let mut at = session.memberships;
            let mut left = session.rooms;
            while at.is_some() {
                let is_own = self.memberships.get(at).is_some_and(|membership| membership.session == index);
                let is_new = is_own && left > 0 && listed.mark(at.0 as usize);
                check(is_new, || format!("session {}: its list of memberships leads to another's, or in a circle", index.0))?;
                left -= 1;
                at = self.memberships[at].next;
            }
            unlisted += left as isize;
        }
        let mut rooms = vec![0u16; self.sessions.extent()];
        let mut subscriptions = 0;
        for (index, membership) in self.memberships.iter() {
            let session = self.sessions.get(membership.session);
            let verdict = session.ok_or("its session is not there").and_then(|session| {
                holds(self.is_membership_sound(index), "its stage is not that of its session and its room")?;
                let is_over = matches!(membership.stage, Stage::Departing | Stage::Owed | Stage::Abandoned);
                unlisted -= isize::from(is_over);
                holds(listed.has(index.0 as usize) != is_over, "its session does not list it, or it is over and listed")?;
                let is_present = match membership.stage {
                    Stage::Joined | Stage::Leaving | Stage::Departing | Stage::Owed => membership.presence.is_some(),
                    // A member that asks again what it missed has one.
                    Stage::Joining | Stage::Abandoned => true,
                    Stage::Dormant => membership.presence.is_none() && session.phase != Phase::Ending,
                };
                holds(is_present, "it has joined and has no presence")?;
                let is_asking = membership.stage == Stage::Joining && session.connection != NO_CONNECTION;
                holds(!membership.feed.is_resuming() || is_asking, "it is said to ask again for its room, and does not")
            });
            verdict.map_err(|what| format!("membership {}: {what}", index.0))?;
            rooms[membership.session.0 as usize] += 1;
            subscriptions += usize::from(membership.position != NOWHERE);
        }
        check(unlisted == 0, || format!("{unlisted} memberships are in no list of their sessions"))?;
        for (index, session) in self.sessions.iter() {
            same(
                format_args!("memberships of session {}", index.0),
                usize::from(session.rooms),
                usize::from(rooms[index.0 as usize]),
            )?;
        }
        same(format_args!("room subscriptions"), self.stats.room_subscriptions as usize, subscriptions)
    }

    /// Every leave that is owed waits once for its own home.
    pub(super) fn verify_owed(&self) -> Result<(), String> {
        let mut queued = Marks::new(self.memberships.extent());
        let mut count = 0;
        for (home, lane) in self.lanes.iter().enumerate() {
            let (mut last, mut at) = (MembershipIndex::NONE, lane.owed_first);
            while at.is_some() {
                let is_owed = self.memberships.get(at).is_some_and(|membership| {
                    let room = self.locals.get(membership.room.0 as usize);
                    membership.stage == Stage::Owed && room.is_some_and(|room| usize::from(room.home.0) == home)
                });
                check(is_owed && queued.mark(at.0 as usize), || {
                    format!("a leave waits for shard {home} that is not owed to it, or twice")
                })?;
                count += 1;
                (last, at) = (at, self.memberships[at].next);
            }
            check(last == lane.owed_last, || format!("the leaves owed to shard {home} do not end where they are said to"))?;
        }
        let owed = self.memberships.iter().filter(|(_, membership)| membership.stage == Stage::Owed).count();
        same(format_args!("leaves in the queues"), owed, count)?;
        same(format_args!("leaves owed"), self.stats.leaves_owed as usize, owed)
    }

    /// Every connection that holds a message waits for something that will come.
    pub(super) fn verify_waiters(&self) -> Result<(), String> {
        let mut waiters = Marks::new(self.connections.len());
        for (home, lane) in self.lanes.iter().enumerate() {
            check(lane.waiters.len() <= 2 * self.connections.len(), || format!("more wait for shard {home} than there may be"))?;
            for key in lane.waiters.iter().filter(|key| self.is_current(**key)) {
                let is_open = self.connections[key.slot as usize].state == State::Open;
                let is_new = waiters.mark(key.slot as usize) || !is_open;
                check(is_new, || format!("connection {} waits for a home twice", key.slot))?;
            }
        }
        let progressed: Vec<SessionIndex> = self.progressed.iter().filter_map(|id| self.resolve_session(*id)).collect();
        for (slot, connection) in self.connections.iter().enumerate() {
            if connection.state != State::Open || connection.flags.has(Flags::ECHO) {
                continue;
            }
            let waits = connection.stash.is_some() && self.stashes[connection.stash.0 as usize].waits;
            check(waits == waiters.has(slot), || {
                format!("connection {slot}: it waits for a home and is in no queue, or the reverse")
            })?;
            if self.holds(slot as u32) && !waits {
                let is_awaited = progressed.contains(&connection.session) || self.is_undecided(connection.session);
                check(is_awaited, || format!("connection {slot}: it holds a message, and nothing lets it go on"))?;
            }
        }
        Ok(())
    }

    /// Whether something of a session's own is with a home.
    fn is_undecided(&self, index: SessionIndex) -> bool {
        let session = &self.sessions[index];
        if session.window.is_some() && self.windows[session.window.0 as usize].window.undecided() > 0 {
            return true;
        }
        let mut at = session.memberships;
        while at.is_some() {
            let membership = &self.memberships[at];
            if matches!(membership.stage, Stage::Joining | Stage::Leaving) {
                return true;
            }
            at = membership.next;
        }
        false
    }

    /// Bytes that are charged for memberships.
    pub(super) fn membership_bytes(&self) -> usize {
        self.memberships.iter().filter(|(_, membership)| membership.charged).count() * MEMBERSHIP_BYTES
    }
}
