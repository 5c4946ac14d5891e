//! The opening of a `throng.v1` connection: a session of its own, or one that goes on (PROTOCOL §2).
//!
//! A session that goes on takes the connection in place of the one it had, which is fenced first if it still seems alive. Then the
//! home of each room that the session is still in is asked what its client missed, by the join that a client would repeat, on the
//! lane that orders the answer against what is published later. Nothing else is read from the connection meanwhile, and nothing is
//! sent: with the last answer comes the `welcome`, then the presence of rooms that are watched, then what was missed, from the
//! histories, as the socket drains.
//!
//! Rooms whose grace is over were told that the session left; it joins them anew, with the presence state that it had there.
//!
//! Invariants: what a session was asked to do over an earlier connection is decided before its rooms are asked for; a member is in
//! the member list from its answer on, and what is published before the `welcome` waits for it.

use super::Shard;
use super::arena::{FrameIndex, Index, MembershipIndex, SessionIndex};
use super::connection::{Flags, State};
use super::dispatch::{Decoded, Took, Wait};
use super::local::{NOWHERE, Stage};
use super::mesh::{Ask, Position, Roster, SessionId, What};
use super::recovery::Recovery;
use super::session::{NO_CONNECTION, Phase};
use super::stats::MemoryUse;
use super::token::Claim;
use crate::close::CloseReason;
use crate::limits::RESUME_TOKENS_MAX;
use crate::protocol::encode::{
    self, ErrorFrame, GapReason, Members, Missed, Presence, ResumeOffer, ResumedRoom, ResumedSession, Welcome,
};
use crate::protocol::id64::{id64, read_id64};
use crate::protocol::{Command, Envelope, ErrorCode, Resume};
use crate::time::Now;

/// Names of what this server does beyond the base of the protocol.
const FEATURES: &[&str] = &["presence", "volatile", "resume", "history", "recovery", "latest"];

/// A connection whose session goes on and which has not had its `welcome`.
#[derive(Debug)]
pub(crate) struct Resuming {
    /// The last `ack` that the client has seen.
    acked: u64,
    /// Every room was asked for.
    asked: bool,
    /// Answers that are still to come.
    awaited: u32,
    /// The fields of `rooms` in the `welcome`.
    rooms: Vec<u8>,
    /// The presence lists that the client has.
    versions: Vec<(MembershipIndex, u64)>,
    /// What comes behind the `welcome`, with one reference each.
    pub(crate) frames: Vec<FrameIndex>,
    /// Invariant: the sum of their lengths.
    bytes: usize,
}

/// What a home says of a room of a session that goes on.
pub(crate) struct Resumed<'a> {
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
    pub(crate) recovery: Recovery,
    pub(crate) version: u64,
    pub(crate) roster: &'a Roster,
}

impl Shard {
    /// The first message of a `throng.v1` connection, also when it is tried again.
    pub(crate) fn handle_opening(&mut self, now: Now, slot: u32, decoded: &Decoded<'_>, text: &str) -> Took {
        let (user, resume) = match decoded {
            Ok(Envelope { command: Command::Connect { user, resume, .. }, .. }) => (user, resume),
            Ok(envelope) => {
                self.send_error(
                    slot,
                    &ErrorFrame { seq: envelope.seq, id: envelope.id, ..ErrorFrame::new(ErrorCode::NotConnected) },
                );
                self.end_after_error(now, slot);
                return Took::Done;
            }
            Err(fault) => {
                self.send_error(slot, &ErrorFrame::of(*fault));
                self.end_after_error(now, slot);
                return Took::Done;
            }
        };
        let wants_resume = resume.is_some();
        let resume = resume.and_then(Resume::read);
        if let (Some(_), Some(resume)) = (self.resuming(slot), &resume) {
            return self.ask_rooms(now, slot, resume);
        }
        let session = self.connections[slot as usize].session;
        if let Some(name) = user {
            let Some(user) = self.users.intern(&mut self.stats, name) else {
                self.end_with_frame(now, slot, CloseReason::OverCapacity);
                return Took::Done;
            };
            let old = std::mem::replace(&mut self.sessions[session].user, user);
            self.users.release(&mut self.stats, old);
        }
        if let Some(resume) = &resume {
            let claim = self.tokens.read(&resume.token);
            let home = claim.map(|claim| claim.session.shard());
            if let Some(home) = home.filter(|&home| home != self.id && usize::from(home.0) < self.lanes.len()) {
                self.begin_move(slot, home, text);
                return Took::Done;
            }
            if let Some(old) = claim.and_then(|claim| self.claimed(claim, session)) {
                self.take_over(now, slot, old, resume.acked);
                return self.ask_rooms(now, slot, resume);
            }
            if let Some(claim) = claim {
                self.change_aside(session, |aside| aside.formerly = Some(claim.session));
            }
        }
        self.stats.resumes_failed += u64::from(wants_resume);
        self.welcome(now, slot, None);
        Took::Done
    }

    /// The session that a genuine token means, if it may go on for the user of `asking`. Why not is not told.
    fn claimed(&self, claim: Claim, asking: SessionIndex) -> Option<SessionIndex> {
        if claim.session.shard() != self.id {
            return None;
        }
        let index = self.resolve_session(claim.session)?;
        let session = &self.sessions[index];
        let holds = claim.attach <= session.attach && session.attach - claim.attach <= u16::from(session.unconfirmed);
        let is_same_user = session.user == self.sessions[asking].user;
        (session.resumable && holds && is_same_user && session.attach < u16::MAX).then_some(index)
    }

    /// Gives a session that goes on this connection in place of the one it had, and of the session that was made for it.
    fn take_over(&mut self, now: Now, slot: u32, index: SessionIndex, acked: u64) {
        let other = self.sessions[index].connection;
        match self.sessions[index].phase {
            Phase::Attached => {
                // Fenced: whatever still comes over the old connection finds no session.
                self.part(index);
                self.connections[other as usize].session = SessionIndex::NONE;
                self.end_with_frame(now, other, CloseReason::TakenOver);
                self.stats.taken_over += 1;
            }
            Phase::Detached => {
                self.stats.sessions_detached -= 1;
                self.stats.sessions_resumable -= 1;
            }
            Phase::Away => self.stats.sessions_resumable -= 1,
            Phase::Ending => unreachable!("a session that is over is not resumable"),
        }
        let own = std::mem::replace(&mut self.connections[slot as usize].session, index);
        self.finish_session(own);
        let session = &mut self.sessions[index];
        session.connection = slot;
        session.phase = Phase::Attached;
        session.attach += 1;
        session.unconfirmed = (session.unconfirmed + 1).min(RESUME_TOKENS_MAX);
        self.forget_refusals(index, acked);
        self.stats.sessions_resumed += 1;
        let resuming =
            Resuming { acked, asked: false, awaited: 0, rooms: Vec::new(), versions: Vec::new(), frames: Vec::new(), bytes: 0 };
        let stash = self.stash_of(slot);
        self.stashes[stash.at()].resuming = Some(Box::new(resuming));
    }

    /// What a connection that resumes waits with for its `welcome`.
    fn resuming(&mut self, slot: u32) -> Option<&mut Resuming> {
        let stash = self.connections[slot as usize].stash;
        if stash.is_none() { None } else { self.stashes[stash.at()].resuming.as_deref_mut() }
    }

    /// Asks the homes of a session's rooms what its client missed, as far as there is room in the lanes.
    fn ask_rooms(&mut self, now: Now, slot: u32, resume: &Resume<'_>) -> Took {
        let session = self.connections[slot as usize].session;
        (0..self.lanes.len()).for_each(|home| self.send_owed(now, home));
        if self.has_unlisted(session) || self.is_between(session) {
            return Took::Held(Wait::Decision);
        }
        for listed in resume.rooms() {
            let since = Position { epoch: read_id64(listed.since.epoch.as_bytes()), offset: listed.since.offset };
            if let Some(membership) = self.membership_of(session, &listed.room)
                && self.is_unasked(membership)
                && let Took::Held(wait) = self.ask_room(now, slot, membership, Some(since), listed.version)
            {
                return Took::Held(wait);
            }
        }
        // Of the others the client does not know where it stands: it is a member from here on, and is told nothing of them.
        let mut at = self.sessions[session].memberships;
        while at.is_some() {
            let next = self.memberships[at].next;
            if self.is_unasked(at)
                && let Took::Held(wait) = self.ask_room(now, slot, at, None, None)
            {
                return Took::Held(wait);
            }
            at = next;
        }
        if let Some(resuming) = self.resuming(slot) {
            resuming.asked = true;
        }
        let id = self.session_id(session);
        self.complete_resume(now, id);
        if self.connections[slot as usize].state == State::Opening {
            self.pause(slot);
        }
        Took::Done
    }

    /// Whether one of a session's memberships is between two states because of what came over an earlier connection.
    fn is_between(&self, session: SessionIndex) -> bool {
        let mut at = self.sessions[session].memberships;
        while at.is_some() {
            let membership = &self.memberships[at];
            let is_between = match membership.stage {
                Stage::Joining => !membership.feed.is_resuming(),
                Stage::Leaving => true,
                Stage::Joined | Stage::Dormant | Stage::Departing | Stage::Owed | Stage::Abandoned => false,
            };
            if is_between {
                return true;
            }
            at = membership.next;
        }
        false
    }

    fn is_unasked(&self, membership: MembershipIndex) -> bool {
        let membership = &self.memberships[membership];
        membership.stage == Stage::Dormant || (membership.stage == Stage::Joined && membership.position == NOWHERE)
    }

    fn ask_room(
        &mut self,
        now: Now,
        slot: u32,
        membership: MembershipIndex,
        since: Option<Position>,
        version: Option<u64>,
    ) -> Took {
        let record = self.memberships[membership];
        let home = usize::from(self.locals[record.room.at()].home.0);
        if !self.can_command(home) {
            return Took::Held(Wait::Home(home));
        }
        self.memberships[membership].stage = Stage::Joining;
        self.memberships[membership].feed.set_resuming(true);
        if let Some(resuming) = self.resuming(slot) {
            resuming.awaited += 1;
            resuming.versions.extend(version.map(|version| (membership, version)));
        }
        let room = self.locals[record.room.at()].id.clone();
        let user = self.users.name(self.sessions[record.session].user).map(Box::from);
        let local = self.local_ref(record.room);
        // It is kept until the home has answered: the session may be away again by then, and still not in the room.
        let state = self.dormant_states.get(&membership).cloned();
        let what =
            What::Join { room: &room, user: user.as_deref(), state: state.as_deref(), watches: record.watches, since, local };
        let ask = Ask { session: self.session_id(record.session), membership, presence: record.presence, seq: 0, what };
        self.command(now, home, &ask);
        Took::Done
    }

    /// A home has answered for a room of a session that goes on: its client is a member again, and behind.
    pub(crate) fn resume_room(&mut self, slot: u32, membership: MembershipIndex, resumed: &Resumed<'_>) {
        let Resumed { epoch, offset, recovery, version, roster } = *resumed;
        self.memberships[membership].feed.set_resuming(false);
        self.enter(membership);
        if let Recovery::From { cursor, .. } = recovery
            && cursor < offset
        {
            self.begin_behind(slot, membership, cursor);
        }
        let local = self.memberships[membership].room;
        let id = std::mem::take(&mut self.locals[local.at()].id);
        if let Some(resuming) = self.resuming(slot) {
            resuming.awaited -= 1;
            let missed = match recovery {
                Recovery::Unasked => None,
                Recovery::From { count, .. } => Some(Missed::Following { count: u64::from(count) }),
                Recovery::Gap(reason) => Some(Missed::Lost { reason, epoch, offset }),
            };
            if let Some(missed) = missed {
                encode::write_resumed_room(&mut resuming.rooms, &ResumedRoom { room: id.as_bytes(), missed });
            }
            let is_same_list = recovery != Recovery::Gap(GapReason::EpochChanged);
            let is_current = is_same_list && resuming.versions.contains(&(membership, version));
            if !is_current && let Some(members) = members_of(roster, &mut Default::default()) {
                let mut json = std::mem::take(&mut self.json);
                json.clear();
                encode::write_presence_state(&mut json, id.as_bytes(), None, epoch, &Presence { version, members });
                let frame = self.text_frame(&json);
                self.json = json;
                if !self.say_behind_welcome(slot, frame) {
                    self.overflow(slot);
                }
                self.release_frame(frame);
            }
        }
        self.locals[local.at()].id = id;
    }

    /// A home does not take a session back that goes on: its `welcome` does not name that room.
    pub(crate) fn lose_room(&mut self, slot: u32) {
        if let Some(resuming) = self.resuming(slot) {
            resuming.awaited -= 1;
        }
    }

    /// Keeps a frame that comes behind a connection's `welcome`; false if there is no room for it. The caller keeps its own reference.
    pub(crate) fn say_behind_welcome(&mut self, slot: u32, frame: FrameIndex) -> bool {
        let length = self.out.frames.length(frame);
        let bytes_max = self.send_queue_bytes_max;
        let Some(resuming) = self.resuming(slot).filter(|resuming| resuming.bytes + length <= bytes_max) else { return false };
        resuming.bytes += length;
        resuming.frames.push(frame);
        self.out.frames.hold(frame);
        self.stats.charge(MemoryUse::Backlog, size_of::<FrameIndex>());
        true
    }

    /// Welcomes a connection whose session goes on, once the last room has been answered for.
    pub(crate) fn complete_resume(&mut self, now: Now, session: SessionId) {
        let Some(index) = self.resolve_session(session) else { return };
        let slot = self.sessions[index].connection;
        if slot == NO_CONNECTION || self.connections[slot as usize].state != State::Opening {
            return;
        }
        if self.resuming(slot).is_none_or(|resuming| !resuming.asked || resuming.awaited > 0) {
            return;
        }
        let stash = self.connections[slot as usize].stash;
        let Some(mut resuming) = self.stashes[stash.at()].resuming.take() else { return };
        self.welcome(now, slot, Some(&resuming));
        for frame in resuming.frames.drain(..) {
            self.stats.release(MemoryUse::Backlog, size_of::<FrameIndex>());
            self.push_frame(slot, frame);
            self.release_frame(frame);
        }
        if self.sessions[index].acked > resuming.acked {
            self.ack(index);
        }
        if self.connections[slot as usize].flags.has(Flags::PAUSED) && !self.holds(slot) {
            self.resume(slot);
        }
        self.release_stash(slot);
        self.feed(slot);
    }

    /// A connection ends that has not had its `welcome`.
    pub(crate) fn drop_resuming(&mut self, slot: u32) {
        let stash = self.connections[slot as usize].stash;
        if stash.is_none() {
            return;
        }
        if let Some(resuming) = self.stashes[stash.at()].resuming.take() {
            for frame in resuming.frames {
                self.stats.release(MemoryUse::Backlog, size_of::<FrameIndex>());
                self.release_frame(frame);
            }
            self.release_stash(slot);
        }
    }

    /// Opens a connection: from here on messages flow.
    fn welcome(&mut self, now: Now, slot: u32, resuming: Option<&Resuming>) {
        let index = self.connections[slot as usize].session;
        let id = self.session_id(index);
        let ttl_ms = self.limits.resume_ttl_ms;
        self.sessions[index].resumable = ttl_ms > 0;
        let session = self.sessions[index];
        let token = self.tokens.write(Claim { session: id, attach: session.attach });
        let next_seq = match session.window.is_some() {
            true => self.window_of(index).expected(),
            false => session.acked + 1,
        };
        let refusals = self.aside(index).map(|aside| &aside.refusals);
        let failed: Vec<(u64, ErrorCode)> = refusals.into_iter().flatten().map(|refused| (refused.seq, refused.code)).collect();
        self.connections[slot as usize].state = State::Open;
        let limits = self.limits.clone();
        let spread_ms = self.spread_ms();
        self.send_json(slot, |out| {
            encode::write_welcome(
                out,
                &Welcome {
                    session: id.0,
                    resume: (ttl_ms > 0).then_some(ResumeOffer { token: &token, ttl_ms }),
                    resumed: resuming.map(|resuming| ResumedSession { rooms: &resuming.rooms, failed: &failed }),
                    next_seq,
                    heartbeat_ms: limits.heartbeat_ms,
                    timeout_ms: limits.timeout_ms,
                    spread_ms: Some(spread_ms),
                    limits: &limits,
                    features: FEATURES,
                    server_time: now.wall,
                },
            );
        });
        self.arm_first_heartbeat(slot, now);
    }
}

/// A roster as it is written; `cursor` is where the text of its cursor is put.
pub(crate) fn members_of<'a>(roster: &'a Roster, cursor: &'a mut [u8; crate::protocol::id64::ID64_BYTES]) -> Option<Members<'a>> {
    match roster {
        Roster::Unasked => None,
        Roster::Page { members, cursor: next } => {
            let cursor = next.map(|next| {
                *cursor = id64(next);
                &cursor[..]
            });
            Some(Members::Page { members, cursor })
        }
        Roster::Counts { users, connections } => {
            Some(Members::Counts(encode::Counts { users: u64::from(*users), connections: u64::from(*connections) }))
        }
    }
}
