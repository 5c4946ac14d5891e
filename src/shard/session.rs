//! A session: who speaks, what is decided of its commands, and the rooms it is in. It outlives its connection: its memberships by the
//! presence grace if that ended abnormally, itself by `resume_ttl` if its client may come back for it (see `resume`), and until every
//! leave it owes is sent.

use super::arena::{AsideIndex, Index, MembershipIndex, SessionIndex, UserIndex, WindowIndex};
use super::connection::{Flags, State};
use super::local::{Membership, Stage};
use super::mesh::{Ask, SessionId, What};
use super::stats::MemoryUse;
use super::{QUEUE_KEPT, Shard};
use crate::close::CloseReason;
use crate::limits::WINDOW;
use crate::planted::{Bug, is_planted};
use crate::protocol::{Dialect, ErrorCode, Window, encode};
use crate::time::{Millis, Now};
use std::collections::VecDeque;

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has a connection.
    Attached,
    /// Its connection ended abnormally: its presence stays for the grace.
    Detached,
    /// It has no connection, its rooms have been told that it left, and it may still be resumed: then it is in them again.
    Away,
    /// It is over; leaves or answers are outstanding.
    Ending,
}

/// A numbered command that was refused for good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    pub(crate) seq: u64,
    pub(crate) code: ErrorCode,
}

/// What most sessions have not.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    /// Its last commands that were refused, in the order of their numbers: those that its client may not know of, at most [`WINDOW`].
    pub(crate) refusals: VecDeque<Refused>,
    /// The session that its client had before, and that was over when the client came back for it: what that one published is told
    /// to this one with its numbers.
    pub(crate) formerly: Option<SessionId>,
}

impl Aside {
    /// Bytes that it is charged.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Aside>() + self.refusals.len() * size_of::<Refused>()
    }
}

/// In place of `acked`: no number has come yet. Above every number on the wire.
pub(crate) const UNNUMBERED: u64 = u64::MAX;

/// No connection.
pub(crate) const NO_CONNECTION: u32 = u32::MAX;

/// A session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    /// All commands up to it are decided; `UNNUMBERED` in a plain session that has sent no number.
    pub(crate) acked: u64,
    pub(crate) generation: u32,
    /// The slot of its connection, or `NO_CONNECTION`.
    pub(crate) connection: u32,
    /// Its user; none if it is anonymous.
    pub(crate) user: UserIndex,
    /// The first of its memberships.
    pub(crate) memberships: MembershipIndex,
    /// What is undecided or early.
    pub(crate) window: WindowIndex,
    /// What is rare about it.
    pub(crate) aside: AsideIndex,
    /// Invariant: memberships that name it.
    pub(crate) rooms: u16,
    /// Which of its connections is its last: the first is 0.
    pub(crate) attach: u16,
    /// Tokens of how many connections before that one still hold: it may be that their clients never got the next.
    pub(crate) unconfirmed: u8,
    pub(crate) phase: Phase,
    /// It is in the list of sessions whose early commands are watched.
    pub(crate) watched: bool,
    /// Its client has a token for it.
    pub(crate) resumable: bool,
}

/// A session without a connection, in a queue by the time at which something of it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absence {
    pub(crate) due: Millis,
    pub(crate) session: SessionId,
    /// The connection that ended. If the session has had another since, this entry means nothing.
    attach: u16,
}

/// A window in the pool or in use.
#[derive(Debug, Default)]
pub(crate) struct PooledWindow {
    pub(crate) window: Window,
    pub(crate) charged: usize,
}

impl Shard {
    pub(crate) fn session_id(&self, index: SessionIndex) -> SessionId {
        SessionId::new(self.id, index.0, self.sessions[index].generation)
    }

    /// The session that an id means, if it is of this shard and still exists.
    pub(crate) fn resolve_session(&self, id: SessionId) -> Option<SessionIndex> {
        debug_assert_eq!(id.shard(), self.id);
        let index = SessionIndex(id.index());
        self.sessions.get(index).filter(|session| session.generation == id.generation()).map(|_| index)
    }

    /// Makes a session for a connection; `None` if there is no place for one.
    pub(crate) fn new_session(&mut self, now: Now, slot: u32, user: Option<&str>, dialect: Dialect) -> Option<SessionIndex> {
        if self.sessions.is_full() {
            // Detached sessions give way, the oldest first: their grace ends early.
            self.evict_absent(now);
        }
        let user = match user {
            Some(name) => self.users.intern(&mut self.stats, name)?,
            None => UserIndex::NONE,
        };
        self.session_generation = self.session_generation.wrapping_add(1);
        let session = Session {
            // A plain client may have counted on over its own reconnects: its first number is where it begins.
            acked: if dialect == Dialect::Plain { UNNUMBERED } else { 0 },
            generation: self.session_generation,
            connection: slot,
            user,
            memberships: MembershipIndex::NONE,
            window: WindowIndex::NONE,
            aside: AsideIndex::NONE,
            rooms: 0,
            attach: 0,
            unconfirmed: 0,
            phase: Phase::Attached,
            watched: false,
            resumable: false,
        };
        let Some(index) = self.sessions.insert(session) else {
            self.users.release(&mut self.stats, user);
            return None;
        };
        self.connections[slot as usize].session = index;
        Some(index)
    }

    /// A session's connection ended.
    pub(crate) fn end_session(&mut self, now: Now, index: SessionIndex, reason: CloseReason) {
        self.part(index);
        let session = &self.sessions[index];
        let resumes = session.resumable && reason.keeps_session() && self.limits.resume_ttl_ms > 0 && self.drain.is_none();
        let stays = reason.is_abnormal() && session.memberships.is_some() && self.limits.presence_grace_ms > 0;
        let (id, attach) = (self.session_id(index), session.attach);
        let absence = |ms| Absence { due: now.mono.after(ms), session: id, attach };
        // Presence does not outlive its session.
        let ttl_ms = self.limits.resume_ttl_ms.max(self.limits.presence_grace_ms);
        self.sessions[index].resumable = resumes;
        if !resumes {
            self.release_window(index);
        }
        if stays {
            self.sessions[index].phase = Phase::Detached;
            self.stats.sessions_detached += 1;
            if !is_planted(Bug::PresenceGraceForgotten) {
                self.detached.push_back(absence(self.limits.presence_grace_ms));
            }
        }
        if resumes {
            self.stats.sessions_resumable += 1;
            self.resumables.push_back(absence(ttl_ms));
            if !stays {
                self.go_away(index);
            }
        } else if !stays {
            self.finish_session(index);
        }
        self.trim_absences();
    }

    /// Takes a session off its connection: nothing more comes from there, and nothing goes there.
    pub(crate) fn part(&mut self, index: SessionIndex) {
        self.sessions[index].connection = NO_CONNECTION;
        if self.sessions[index].window.is_some() {
            self.windows[self.sessions[index].window.at()].window.disconnected();
            self.settle_window(index);
        }
        let mut membership = self.sessions[index].memberships;
        while membership.is_some() {
            self.leave(membership);
            self.memberships[membership].feed.set_resuming(false);
            membership = self.memberships[membership].next;
        }
    }

    /// Ends what is left of a session that nobody can resume: it owes a leave for each of its memberships.
    pub(crate) fn finish_session(&mut self, index: SessionIndex) {
        self.leave_rooms(index, false);
        let session = &mut self.sessions[index];
        session.phase = Phase::Ending;
        if std::mem::take(&mut session.resumable) && session.connection == NO_CONNECTION {
            self.stats.sessions_resumable -= 1;
        }
        self.sessions[index].connection = NO_CONNECTION;
        self.release_window(index);
        self.drop_aside(index);
        self.free_session_if_over(index);
    }

    /// A session that may be resumed leaves its rooms, and remembers them.
    fn go_away(&mut self, index: SessionIndex) {
        self.leave_rooms(index, true);
        self.sessions[index].phase = Phase::Away;
    }

    /// Has a session owe a leave for each of its memberships. If it `remembers` them, others take their places in its list that no home
    /// knows of.
    fn leave_rooms(&mut self, index: SessionIndex, remembers: bool) {
        if self.sessions[index].phase == Phase::Detached {
            self.stats.sessions_detached -= 1;
        }
        let mut next = std::mem::take(&mut self.sessions[index].memberships);
        while next.is_some() {
            let current = next;
            let Membership { room, stage, watches, feed, .. } = self.memberships[current];
            next = self.memberships[current].next;
            if remembers && matches!(stage, Stage::Joined | Stage::Joining | Stage::Dormant) {
                // If there is no place for one, its client joins that room again.
                if let Some(dormant) = self.new_membership(index, room, watches) {
                    self.memberships[dormant].stage = Stage::Dormant;
                    self.memberships[dormant].feed.set_latest(feed.is_latest());
                    self.memberships[current].feed.set_remembered();
                    if let Some(state) = self.dormant_states.remove(&current) {
                        self.dormant_states.insert(dormant, state);
                    }
                }
            }
            match stage {
                Stage::Joined => self.owe(current),
                // The home's answer decides what is owed.
                Stage::Joining => self.memberships[current].stage = Stage::Abandoned,
                Stage::Leaving => self.memberships[current].stage = Stage::Departing,
                Stage::Dormant => {
                    self.free_membership(current);
                    self.sessions[index].rooms -= 1;
                }
                Stage::Departing | Stage::Owed | Stage::Abandoned => {}
            }
        }
    }

    /// Puts the leave of a membership whose session is over in the queue to its home.
    pub(crate) fn owe(&mut self, index: MembershipIndex) {
        let membership = &mut self.memberships[index];
        membership.stage = Stage::Owed;
        membership.next = MembershipIndex::NONE;
        let home = self.locals[membership.room.0 as usize].home;
        let lane = &mut self.lanes[usize::from(home.0)];
        if lane.owed_last.is_some() {
            self.memberships[lane.owed_last].next = index;
        } else {
            lane.owed_first = index;
        }
        lane.owed_last = index;
        self.stats.leaves_owed += 1;
    }

    /// Sends the leaves that are owed to a home, as far as there is room.
    pub(crate) fn send_owed(&mut self, now: Now, home: usize) {
        while self.lanes[home].owed_first.is_some() && (self.has_room(home) || is_planted(Bug::OwedLeaveDropped)) {
            let index = self.lanes[home].owed_first;
            let membership = self.memberships[index];
            self.lanes[home].owed_first = membership.next;
            if membership.next.is_none() {
                self.lanes[home].owed_last = MembershipIndex::NONE;
            }
            self.stats.leaves_owed -= 1;
            let remembers = membership.feed.is_remembered();
            let ask = Ask {
                session: self.session_id(membership.session),
                membership: index,
                presence: membership.presence,
                seq: 0,
                what: What::Leave { answer: remembers, remembers },
            };
            if remembers {
                // It is kept for the answer, which brings its state.
                self.memberships[index].stage = Stage::Departing;
                self.memberships[index].next = MembershipIndex::NONE;
            }
            if !is_planted(Bug::OwedLeaveDropped) || self.has_room(home) {
                self.command(now, home, &ask);
            }
            if !remembers {
                self.drop_membership(index);
            }
        }
    }

    /// Keeps the presence state of a membership that is over for the one that its session has in its place.
    pub(crate) fn keep_dormant_state(&mut self, index: MembershipIndex, state: &[u8]) {
        let Membership { session, room, .. } = self.memberships[index];
        let Some(dormant) = self.find_membership(session, room) else { return };
        let Ok(state) = std::str::from_utf8(state) else { return };
        if state.is_empty() || self.memberships[dormant].stage != Stage::Dormant {
            return;
        }
        // What a resume that came to nothing has left there is older.
        self.drop_dormant_state(dormant);
        self.stats.charge(MemoryUse::PresenceState, state.len());
        self.dormant_states.insert(dormant, state.into());
    }

    /// Frees the membership that a session that is away has in place of this one, if it has one.
    pub(crate) fn forget_dormant(&mut self, index: MembershipIndex) {
        let Membership { session, room, .. } = self.memberships[index];
        if let Some(dormant) = self.find_membership(session, room).filter(|&other| self.memberships[other].stage == Stage::Dormant)
        {
            self.unlink_membership(dormant);
        }
    }

    /// Forgets the presence state that is kept for a membership, if one is.
    pub(crate) fn drop_dormant_state(&mut self, index: MembershipIndex) {
        if let Some(state) = self.dormant_states.remove(&index) {
            self.stats.release(MemoryUse::PresenceState, state.len());
        }
    }

    /// Frees a membership that is not in its session's list any more, and the session if it was the last thing it waited for.
    pub(crate) fn drop_membership(&mut self, index: MembershipIndex) {
        let session = self.memberships[index].session;
        self.free_membership(index);
        self.sessions[session].rooms -= 1;
        // A join may wait for the end of what the session was before.
        self.progress(session);
        self.free_session_if_over(session);
    }

    /// Whether a session has memberships that it does not list: they are over, and their homes do not know it yet.
    pub(crate) fn has_unlisted(&self, index: SessionIndex) -> bool {
        let session = &self.sessions[index];
        let (mut at, mut listed) = (session.memberships, 0);
        while at.is_some() {
            listed += 1;
            at = self.memberships[at].next;
        }
        listed < session.rooms
    }

    /// Takes a membership out of its living session's list and frees it.
    pub(crate) fn unlink_membership(&mut self, index: MembershipIndex) {
        let Some(membership) = self.memberships.get(index).copied() else { return };
        let session = membership.session;
        if self.sessions[session].memberships == index {
            self.sessions[session].memberships = membership.next;
        } else {
            let mut at = self.sessions[session].memberships;
            while self.memberships[at].next != index {
                at = self.memberships[at].next;
            }
            self.memberships[at].next = membership.next;
        }
        self.leave(index);
        self.drop_membership(index);
    }

    fn free_session_if_over(&mut self, index: SessionIndex) {
        let session = self.sessions[index];
        if session.phase == Phase::Ending && session.rooms == 0 {
            self.users.release(&mut self.stats, session.user);
            self.sessions.remove(index);
        }
    }

    /// The session that an absence is still about.
    pub(crate) fn absent(&self, absence: &Absence) -> Option<SessionIndex> {
        let index = self.resolve_session(absence.session)?;
        let session = &self.sessions[index];
        let is_absent = matches!(session.phase, Phase::Detached | Phase::Away);
        (is_absent && session.attach == absence.attach).then_some(index)
    }

    /// Ends graces, and sessions that were not resumed in time.
    pub(crate) fn expire_absent(&mut self, now: Now) {
        let mut has_left = false;
        while let Some(absence) = self.detached.front().copied().filter(|absence| absence.due <= now.mono) {
            self.detached.pop_front();
            if let Some(index) = self.absent(&absence).filter(|&index| self.sessions[index].phase == Phase::Detached) {
                match self.sessions[index].resumable {
                    true => self.go_away(index),
                    false => self.finish_session(index),
                }
                has_left = true;
            }
        }
        while let Some(absence) = self.resumables.front().copied().filter(|absence| absence.due <= now.mono) {
            self.resumables.pop_front();
            if let Some(index) = self.absent(&absence) {
                self.finish_session(index);
                has_left = true;
            }
        }
        if has_left {
            (0..self.lanes.len()).for_each(|home| self.send_owed(now, home));
        }
    }

    /// Ends the session that has been without a connection for longest, to make a place. One that owes leaves keeps its own until they
    /// are sent: then another gives way as well.
    fn evict_absent(&mut self, now: Now) {
        let mut evicted = 0;
        while self.sessions.is_full() && evicted < EVICTIONS_MAX {
            let (absence, is_resumable) = match (self.resumables.pop_front(), self.detached.front()) {
                (Some(absence), _) => (absence, true),
                (None, Some(&absence)) => {
                    self.detached.pop_front();
                    (absence, false)
                }
                (None, None) => return,
            };
            if let Some(index) = self.absent(&absence) {
                evicted += 1;
                self.stats.resumables_evicted += u64::from(is_resumable);
                self.finish_session(index);
                (0..self.lanes.len()).for_each(|home| self.send_owed(now, home));
            }
        }
    }

    /// Takes entries that mean nothing any more out of the queues of absences, before clients that come and go make them long.
    fn trim_absences(&mut self) {
        let kept = 2 * self.sessions.len() + QUEUE_KEPT;
        if self.detached.len() > kept {
            let mut detached = std::mem::take(&mut self.detached);
            detached.retain(|absence| self.absent(absence).is_some());
            self.detached = detached;
        }
        if self.resumables.len() > kept {
            let mut resumables = std::mem::take(&mut self.resumables);
            resumables.retain(|absence| self.absent(absence).is_some());
            self.resumables = resumables;
        }
    }

    pub(crate) fn absent_due(&self) -> Option<Millis> {
        let fronts = [self.detached.front(), self.resumables.front()];
        fronts.into_iter().flatten().map(|absence| absence.due).min()
    }

    /// Keeps what a numbered command was refused with, until its client is known to have seen it.
    pub(crate) fn note_refusal(&mut self, index: SessionIndex, seq: u64, code: ErrorCode) {
        let session = &self.sessions[index];
        if session.acked == UNNUMBERED || !session.resumable {
            return;
        }
        self.change_aside(index, |aside| {
            // What is further back was acknowledged, or the client could not have sent this one.
            let is_known = |refused: &Refused| refused.seq + u64::from(WINDOW) < seq;
            while aside.refusals.front().is_some_and(is_known) || aside.refusals.len() >= WINDOW as usize {
                aside.refusals.pop_front();
            }
            let place = aside.refusals.partition_point(|refused| refused.seq < seq);
            aside.refusals.insert(place, Refused { seq, code });
        });
    }

    /// The client has seen everything up to `acked`.
    pub(crate) fn forget_refusals(&mut self, index: SessionIndex, acked: u64) {
        if self.sessions[index].aside.is_some() {
            self.change_aside(index, |aside| aside.refusals.retain(|refused| refused.seq > acked));
        }
    }

    /// What is rare about a session, if anything is.
    pub(crate) fn aside(&self, index: SessionIndex) -> Option<&Aside> {
        let place = self.sessions[index].aside;
        place.is_some().then(|| &self.asides[place.at()])
    }

    /// Changes what is rare about a session, and gives its place back if nothing is.
    pub(crate) fn change_aside(&mut self, index: SessionIndex, change: impl FnOnce(&mut Aside)) {
        if self.sessions[index].aside.is_none() {
            let aside = Aside::default();
            self.stats.charge(MemoryUse::Reorder, aside.bytes());
            self.sessions[index].aside = AsideIndex::new(self.asides.insert(aside));
        }
        let aside = &mut self.asides[self.sessions[index].aside.at()];
        self.stats.release(MemoryUse::Reorder, aside.bytes());
        change(aside);
        self.stats.charge(MemoryUse::Reorder, aside.bytes());
        if aside.refusals.is_empty() && aside.formerly.is_none() {
            self.drop_aside(index);
        }
    }

    fn drop_aside(&mut self, index: SessionIndex) {
        let place = std::mem::take(&mut self.sessions[index].aside);
        if place.is_some() {
            let aside = self.asides.remove(place.at());
            self.stats.release(MemoryUse::Reorder, aside.bytes());
        }
    }

    /// The window of a session, made if it has none.
    pub(crate) fn window_of(&mut self, index: SessionIndex) -> &mut Window {
        if self.sessions[index].window.is_none() {
            let acked = self.sessions[index].acked;
            let mut pooled = self.free_windows.pop().unwrap_or_default();
            self.free_windows_idle = self.free_windows_idle.min(self.free_windows.len());
            pooled.window.start(acked);
            self.sessions[index].window = WindowIndex(self.windows.insert(pooled) as u32);
        }
        &mut self.windows[self.sessions[index].window.0 as usize].window
    }

    /// Gives a session's window back.
    pub(crate) fn release_window(&mut self, index: SessionIndex) {
        let window = std::mem::take(&mut self.sessions[index].window);
        if window.is_some() {
            let mut pooled = self.windows.remove(window.0 as usize);
            if !is_planted(Bug::ReorderBytesNotReleased) {
                self.stats.release(MemoryUse::Reorder, pooled.charged);
            }
            pooled.charged = 0;
            pooled.window.start(0);
            if self.free_windows.len() < FREE_WINDOWS_MAX && pooled.window.bytes_held() <= FREE_WINDOW_BYTES_MAX {
                self.free_windows.push(pooled);
            }
        }
    }

    /// Brings the account of a window up to date, and gives it back if nothing is left in it.
    pub(crate) fn settle_window(&mut self, index: SessionIndex) {
        let window = self.sessions[index].window;
        if window.is_none() {
            return;
        }
        let pooled = &mut self.windows[window.0 as usize];
        // Numbers that were given up are behind the session too: it has to know them when the window is gone.
        self.sessions[index].acked = pooled.window.acked();
        if pooled.window.is_idle() {
            self.release_window(index);
            return;
        }
        let bytes = pooled.window.bytes_held();
        if bytes != pooled.charged {
            self.stats.release(MemoryUse::Reorder, pooled.charged);
            self.stats.charge(MemoryUse::Reorder, bytes);
            pooled.charged = bytes;
        }
    }

    /// A numbered command of a session is decided.
    pub(crate) fn decided(&mut self, index: SessionIndex, seq: u64) {
        let session = &mut self.sessions[index];
        if session.phase == Phase::Ending || (session.phase != Phase::Attached && !session.resumable) {
            return;
        }
        if session.window.is_some() {
            session.acked = self.windows[session.window.0 as usize].window.decided(seq);
        } else {
            debug_assert_eq!(session.acked + 1, seq);
            session.acked = seq;
        }
        if self.sessions[index].connection == NO_CONNECTION {
            // Nothing else looks at a window whose client is away.
            self.settle_window(index);
            return;
        }
        self.ack(index);
        self.progress(index);
    }

    /// Has what is decided acknowledged with this turn.
    pub(crate) fn ack(&mut self, index: SessionIndex) {
        let slot = self.sessions[index].connection;
        if slot == NO_CONNECTION {
            return;
        }
        let flags = &mut self.connections[slot as usize].flags;
        if !flags.has(Flags::PLAIN) && !flags.has(Flags::ACK_DUE) {
            flags.set(Flags::ACK_DUE);
            self.acks.push(slot);
        }
    }

    /// Sends the acknowledgements of this turn, one a session.
    pub(crate) fn send_acks(&mut self) {
        let mut acks = std::mem::take(&mut self.acks);
        for slot in acks.drain(..) {
            let connection = &mut self.connections[slot as usize];
            // A connection that has ended since then has lost the flag, or its slot has a new one without it.
            if connection.flags.has(Flags::ACK_DUE) && connection.session.is_some() {
                connection.flags.clear(Flags::ACK_DUE);
                if connection.state != State::Open {
                    // It is told behind its welcome.
                    continue;
                }
                let acked = self.sessions[connection.session].acked;
                self.send_json(slot, |out| encode::write_ack(out, acked));
            }
        }
        self.acks = acks;
    }
}

/// Sessions that give way for one new one at most.
const EVICTIONS_MAX: usize = 16;
/// Windows kept for use again.
const FREE_WINDOWS_MAX: usize = 256;
/// Bytes that a window's buffers may have to be kept.
const FREE_WINDOW_BYTES_MAX: usize = 4 * 1024;

// The density of idle connections rests on it.
const _: () = assert!(size_of::<Option<Session>>() == 40);
