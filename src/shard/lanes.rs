//! The lanes to the other shards: how much room they have, what goes into them, and what is done with what comes out.
//!
//! Every peer has a *command* lane and a *consequence* lane from here. Handling a consequence never puts a message into a lane, so
//! consequence lanes always drain; a home takes a command only when every consequence lane has room for what it may cause. So waits
//! form no cycle, nothing is dropped, and what can't be sent waits where it came from: in the socket.
//!
//! Whoever wants room that is scarce has a turn. Connections that wait for a home stand in one queue, each with one place, and what
//! has just come never passes them. Those that want room for different things (see [`Claimant`]) are first in line one after the
//! other. So nothing waits longer than all that stood before it takes.

use super::Shard;
use super::arena::MembershipIndex;
use super::connection::State;
use super::frames::Matter;
use super::home::anonymous_name;
use super::local::{Membership, Pass, Stage};
use super::mesh::{Ask, Body, Command, Consequence, LocalRef, MeshMessage, Roster, SessionId};
use super::recovery::Recovery;
use super::resume::{Resumed, members_of};
use super::seam::{Key, Lane, LaneRoom, ShardId};
use super::session::NO_CONNECTION;
use crate::limits::{CONSEQUENCES_PER_COMMAND_MAX, PASSES_MAX};
use crate::planted::{Bug, is_planted};
use crate::protocol::encode::{self, ErrorFrame, LeftReason, Presence, RoomJoined};
use crate::time::Now;
use std::collections::VecDeque;

/// What is known of the lanes to one peer, and who waits for them.
#[derive(Debug)]
pub(crate) struct LaneState {
    commands: usize,
    consequences: usize,
    /// Messages of each lane that were made and not yet polled: they are not in the lane, but take its places.
    pub(crate) unpolled: [usize; 2],
    /// Connections that hold a message for which there was no room, each once. Those that have ended may still be among them: at
    /// most twice as many as there are slots in use.
    pub(crate) waiters: VecDeque<Key>,
    /// Connections for which a history of that home is to be read. Those for which it isn't any more may still be among them: at
    /// most twice as many as there are slots in use.
    pub(crate) readers: VecDeque<Key>,
    /// Who is first in line when there is room next: waiters, leaves or readers.
    first: u8,
    /// Leaves that are owed to rooms of that home.
    pub(crate) owed_first: MembershipIndex,
    pub(crate) owed_last: MembershipIndex,
}

impl LaneState {
    pub(crate) fn new(places: usize) -> Self {
        LaneState {
            commands: places,
            consequences: places,
            unpolled: [0; 2],
            waiters: VecDeque::new(),
            readers: VecDeque::new(),
            first: 0,
            owed_first: MembershipIndex::NONE,
            owed_last: MembershipIndex::NONE,
        }
    }
}

impl LaneState {
    /// Whether somebody waits who has a turn as soon as there is room.
    fn is_wanted(&self) -> bool {
        !self.waiters.is_empty() || !self.readers.is_empty()
    }
}

/// What wants the room that this home needs to take a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimant {
    /// Commands of other shards, at the heads of their lanes.
    Peers,
    /// Connections here.
    Waiters,
    /// Leaves that sessions here owe.
    Leaves,
    /// Presence changes that are due to be told.
    Presence,
    /// Connections here for which a history is to be read.
    Readers,
}

const CLAIMANTS: [Claimant; 5] = [Claimant::Peers, Claimant::Waiters, Claimant::Leaves, Claimant::Presence, Claimant::Readers];
/// Those who want room in the lane to another home.
const LANE_CLAIMANTS: u8 = 3;

/// Who is first in line for a home's room.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// In [`CLAIMANTS`]: the first in line when there is room next.
    first: usize,
    /// The room is kept for a command of another shard until the end of the next turn.
    reserved: bool,
    /// A connection that waited for this home is served: it may send it one command, before those behind it.
    granted: Option<usize>,
}

impl Shard {
    /// Whether this home may take a command: every consequence lane has room for what it may cause, and fan-out is not too far
    /// behind.
    pub(crate) fn can_take(&self) -> bool {
        self.passes < PASSES_MAX
            && self
                .lanes
                .iter()
                .enumerate()
                .all(|(peer, lane)| peer == usize::from(self.id.0) || lane.consequences >= CONSEQUENCES_PER_COMMAND_MAX)
    }

    /// Whether there is room for a command to a home.
    pub(crate) fn has_room(&self, home: usize) -> bool {
        if home == usize::from(self.id.0) { self.can_take() && !self.turns.reserved } else { self.lanes[home].commands > 0 }
    }

    /// Whether a connection's command may go to a home now: there is room, and it passes nobody who waits.
    pub(crate) fn can_command(&self, home: usize) -> bool {
        self.has_room(home) && (self.lanes[home].waiters.is_empty() || self.turns.granted == Some(home))
    }

    /// Whether somebody waits for a home that has room for him: such room came with the last turn's fan-out.
    pub(crate) fn has_turns(&self) -> bool {
        self.turns.reserved || (0..self.lanes.len()).any(|home| self.lanes[home].is_wanted() && self.has_room(home))
    }

    /// Has a command executed at its home. The caller has seen that [`Shard::has_room`].
    pub(crate) fn command(&mut self, now: Now, home: usize, ask: &Ask<'_>) {
        if self.turns.granted == Some(home) {
            self.turns.granted = None;
        }
        if home == usize::from(self.id.0) {
            self.take(now, ask);
            return;
        }
        self.lanes[home].commands -= 1;
        self.lanes[home].unpolled[Lane::Command as usize] += 1;
        let command = Command::pack(&mut self.out.frames.pool, ask);
        self.stats.mesh_out += 1;
        self.mesh.push_back((ShardId(home as u16), Lane::Command, MeshMessage(Body::Command(command))));
    }

    /// Sends a consequence, or applies it at once if it is for this shard.
    pub(crate) fn emit(&mut self, now: Now, to: ShardId, consequence: Consequence) {
        if to == self.id {
            self.apply(now, consequence);
            return;
        }
        self.lanes[usize::from(to.0)].consequences -= 1;
        self.lanes[usize::from(to.0)].unpolled[Lane::Consequence as usize] += 1;
        self.stats.mesh_out += 1;
        self.mesh.push_back((to, Lane::Consequence, MeshMessage(Body::Consequence(consequence))));
    }

    /// The next message for another shard. Its lane has room: that was counted when it was made.
    pub fn poll_mesh(&mut self) -> Option<(ShardId, Lane, MeshMessage)> {
        let message = self.mesh.pop_front()?;
        self.lanes[usize::from(message.0.0)].unpolled[message.1 as usize] -= 1;
        Some(message)
    }

    /// How much room the lanes to a peer have, once a turn.
    pub fn handle_lane(&mut self, peer: ShardId, room: LaneRoom) {
        let lane = &mut self.lanes[usize::from(peer.0)];
        lane.commands = room.commands.saturating_sub(lane.unpolled[Lane::Command as usize]);
        lane.consequences = room.consequences.saturating_sub(lane.unpolled[Lane::Consequence as usize]);
    }

    /// Whether a message of this lane may be handed over now. If not, it stays at the lane's head until the next turn.
    pub fn accepts_mesh(&self, _from: ShardId, lane: Lane) -> bool {
        match lane {
            Lane::Command => {
                let can_take = self.can_take();
                if !can_take {
                    self.declined.set(true);
                }
                can_take
            }
            Lane::Consequence if is_planted(Bug::ConsequenceWaitsOnLane) => self.can_take(),
            Lane::Consequence => self.passes < PASSES_MAX,
        }
    }

    /// A message from another shard, which [`Shard::accepts_mesh`] has allowed.
    pub fn handle_mesh(&mut self, now: Now, _from: ShardId, _lane: Lane, message: MeshMessage) {
        self.stats.mesh_in += 1;
        match message.0 {
            Body::Command(command) => {
                self.take(now, &command.ask());
                self.out.frames.pool.give(command.into_text());
            }
            Body::Consequence(consequence) => self.apply(now, consequence),
        }
    }

    /// Gives the room that there is to those that wait for it.
    pub(crate) fn share_room(&mut self, now: Now) {
        let here = usize::from(self.id.0);
        for home in (0..self.lanes.len()).filter(|&home| home != here) {
            let first = self.lanes[home].first;
            if self.has_room(home) {
                self.lanes[home].first = (first + 1) % LANE_CLAIMANTS;
            }
            for step in 0..LANE_CLAIMANTS {
                match (first + step) % LANE_CLAIMANTS {
                    0 => self.serve_waiters(now, home),
                    1 => self.send_owed(now, home),
                    _ => self.serve_readers(now, home),
                }
            }
        }
        self.share_own_room(now);
    }

    /// Gives this home's room to its claimants, each first in line in its turn. A turn passes only when there was room for it.
    fn share_own_room(&mut self, now: Now) {
        let here = usize::from(self.id.0);
        let declined = self.declined.replace(false);
        self.turns.reserved = false;
        let mut is_first = self.can_take();
        let first = self.turns.first;
        for step in 0..CLAIMANTS.len() {
            let place = (first + step) % CLAIMANTS.len();
            let claims = match CLAIMANTS[place] {
                Claimant::Peers => declined,
                Claimant::Waiters => !self.lanes[here].waiters.is_empty(),
                Claimant::Leaves => self.lanes[here].owed_first.is_some(),
                Claimant::Presence => self.is_presence_due(now),
                Claimant::Readers => !self.lanes[here].readers.is_empty(),
            };
            if !claims {
                continue;
            }
            if std::mem::take(&mut is_first) {
                self.turns.first = (place + 1) % CLAIMANTS.len();
            }
            match CLAIMANTS[place] {
                // They are served with the next turn's events, before which nobody else may have what is kept for them.
                Claimant::Peers => self.turns.reserved = self.can_take(),
                Claimant::Waiters => self.serve_waiters(now, here),
                Claimant::Leaves => self.send_owed(now, here),
                Claimant::Presence => self.tell_presence(now),
                Claimant::Readers => self.serve_readers(now, here),
            }
        }
    }

    /// Has the connections that wait for a home try again, in their order, while there is room.
    fn serve_waiters(&mut self, now: Now, home: usize) {
        while self.has_room(home)
            && let Some(key) = self.lanes[home].waiters.pop_front()
        {
            if self.is_current(key) {
                let stash = self.connections[key.slot as usize].stash;
                if stash.is_some() {
                    self.stashes[stash.0 as usize].waits = is_planted(Bug::LostWakeup);
                }
                self.turns.granted = Some(home);
                self.retry(now, key.slot);
            }
        }
        self.turns.granted = None;
    }

    fn apply(&mut self, now: Now, consequence: Consequence) {
        match consequence {
            Consequence::Joined { .. } => self.apply_joined(now, consequence),
            Consequence::NotJoined { session, membership, seq, code } => {
                let Some(index) = self.resolve_session(session) else { return };
                if self.memberships[membership].feed.is_resuming() {
                    self.lose_room(self.sessions[index].connection);
                }
                match self.memberships[membership].stage {
                    Stage::Abandoned => {
                        // Its client is told that the join was refused: it must not be in that room when it comes back.
                        if seq > 0 {
                            self.forget_dormant(membership);
                        }
                        self.drop_membership(membership);
                    }
                    Stage::Joining | Stage::Joined | Stage::Leaving | Stage::Dormant | Stage::Departing | Stage::Owed => {
                        self.unlink_membership(membership);
                    }
                }
                self.conclude(session, seq, Some(code));
                self.complete_resume(now, session);
            }
            Consequence::Left { session, membership, seq, state } => {
                let Some(index) = self.resolve_session(session) else { return };
                if self.memberships[membership].stage == Stage::Departing {
                    self.keep_dormant_state(membership, &state);
                    self.drop_membership(membership);
                    self.conclude(session, seq, None);
                    return;
                }
                let slot = self.sessions[index].connection;
                if self.is_open(slot) {
                    let room = self.memberships[membership].room;
                    let mut json = std::mem::take(&mut self.json);
                    json.clear();
                    let id = self.locals[room.0 as usize].id.as_bytes();
                    encode::write_room_left(&mut json, id, LeftReason::Left, (seq > 0).then_some(seq));
                    // Whatever the room still had on its way comes before, not after.
                    self.leave(membership);
                    let frame = self.text_frame(&json);
                    self.json = json;
                    self.push_frame(slot, frame);
                    self.release_frame(frame);
                }
                self.unlink_membership(membership);
                self.conclude(session, seq, None);
            }
            Consequence::Decided { session, seq, declined } => self.conclude(session, seq, declined),
            Consequence::Published { local, frame, offset, except } => {
                let frame = self.out.frames.adopt(&mut self.stats, frame);
                self.fan_out(local, frame, offset, except);
            }
            Consequence::Chunk { session, membership, chunk } => self.apply_chunk(now, session, membership, chunk),
            Consequence::Presence { local, frame } => {
                let frame = self.out.frames.adopt(&mut self.stats, frame);
                self.fan_out_presence(local, frame);
            }
            Consequence::Answer { session, frame } => {
                let Some(index) = self.resolve_session(session) else { return };
                let slot = self.sessions[index].connection;
                if self.is_open(slot) {
                    let frame = self.out.frames.adopt(&mut self.stats, frame);
                    self.push_frame(slot, frame);
                    self.release_frame(frame);
                }
            }
        }
    }

    /// Whether a session's connection is there and may be told something: before its welcome it may not.
    pub(crate) fn is_open(&self, slot: u32) -> bool {
        slot != NO_CONNECTION && self.connections[slot as usize].state == State::Open
    }

    /// Begins the fan-out of a presence message to the watchers here. Takes over the caller's reference.
    pub(crate) fn fan_out_presence(&mut self, local: LocalRef, frame: super::arena::FrameIndex) {
        match self.resolve_local(local) {
            Some(index) => self.begin_pass(index, Pass::of_presence(frame)),
            None => self.release_frame(frame),
        }
    }

    /// Says what a command was declined with, if it was, and counts it as decided.
    fn conclude(&mut self, session: SessionId, seq: u64, declined: Option<crate::protocol::ErrorCode>) {
        let Some(index) = self.resolve_session(session) else { return };
        let slot = self.sessions[index].connection;
        if let (Some(code), true) = (declined, seq > 0) {
            self.note_refusal(index, seq, code);
        }
        if let (Some(code), true) = (declined, self.is_open(slot)) {
            self.send_error(slot, &ErrorFrame { seq: (seq > 0).then_some(seq), ..ErrorFrame::new(code) });
        }
        if seq > 0 {
            self.decided(index, seq);
        } else {
            self.progress(index);
        }
    }

    fn apply_joined(&mut self, now: Now, consequence: Consequence) {
        let Consequence::Joined { session, membership, seq, presence, room, epoch, offset, recovery, version, roster } =
            consequence
        else {
            return;
        };
        // A first join's membership is there until this answer is handled. A repeated join's may be gone with its session, and its
        // place be another's.
        let Some(index) = self.resolve_session(session) else { return self.give_roster(roster) };
        let record = self.memberships.get(membership).copied().filter(|record| record.session == index);
        // That of a repeated join, while the session asks again after its client came back: the answer to that is still to come.
        let is_overtaken = |record: &Membership| record.stage == Stage::Joining && record.feed.is_resuming() && seq > 0;
        let is_over = |record: &Membership| matches!(record.stage, Stage::Dormant | Stage::Owed | Stage::Departing);
        let Some(record) = record.filter(|record| !is_overtaken(record) && !is_over(record)) else {
            self.give_roster(roster);
            return self.conclude(session, seq, None);
        };
        let (stage, local) = (record.stage, record.room);
        let is_new = stage == Stage::Joining;
        let record = &mut self.memberships[membership];
        if is_new {
            record.stage = Stage::Joined;
        }
        record.presence = presence;
        self.drop_dormant_state(membership);
        self.locals[local.0 as usize].home_room = room;
        self.set_watches(membership, !matches!(roster, Roster::Unasked));
        if stage == Stage::Abandoned {
            match is_planted(Bug::AbandonedJoinStays) {
                true => self.drop_membership(membership),
                false => self.owe(membership),
            }
            self.give_roster(roster);
            return self.conclude(session, seq, None);
        }
        let slot = self.sessions[index].connection;
        if slot == NO_CONNECTION || self.connections[slot as usize].state == State::Opening {
            if self.memberships[membership].feed.is_resuming() {
                self.resume_room(slot, membership, &Resumed { epoch, offset, recovery, version, roster: &roster });
            }
            self.give_roster(roster);
            // A command of the session's may have asked for it, of which its client learns with the welcome.
            self.conclude(session, seq, None);
            self.complete_resume(now, session);
            return;
        }
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        let mut cursor = Default::default();
        let members = members_of(&roster, &mut cursor);
        let joined = RoomJoined {
            room: self.locals[local.0 as usize].id.as_bytes(),
            seq: (seq > 0).then_some(seq),
            epoch,
            offset,
            recovered: matches!(recovery, Recovery::From { .. }),
            gap: match recovery {
                Recovery::Gap(reason) => Some(reason),
                Recovery::Unasked | Recovery::From { .. } => None,
            },
            presence: members.map(|members| Presence { version, members }),
        };
        encode::write_room_joined(&mut json, &joined);
        self.give_roster(roster);
        let frame = self.text_frame(&json);
        self.json = json;
        if is_new {
            self.out.frames.mark(frame, Matter::Joined);
        }
        self.push_frame(slot, frame);
        self.release_frame(frame);
        if is_new {
            self.enter(membership);
            self.hasten_heartbeat(slot, now);
            if let Recovery::From { cursor, .. } = recovery
                && cursor < offset
            {
                self.begin_behind(slot, membership, cursor);
            }
        }
        self.conclude(session, seq, None);
    }

    fn give_roster(&mut self, roster: Roster) {
        if let Roster::Page { members, .. } = roster {
            self.out.frames.pool.give(members);
        }
    }

    /// The name of a session's user on the wire, appended to `out`.
    pub(crate) fn write_user(&self, out: &mut Vec<u8>, session: SessionId, user: super::arena::UserIndex) {
        match self.users.name(user) {
            Some(name) => out.extend_from_slice(name.as_bytes()),
            None => out.extend_from_slice(&anonymous_name(session)),
        }
    }
}
