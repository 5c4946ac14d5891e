//! How a member that missed publications is told them: from its room's history, by a *cursor*, as its socket drains.
//!
//! A member is *behind* from a join that brought a position, or from the moment that its queue is too long, until it has had
//! everything. Until then nothing that has an offset goes to it directly. Instead its shard asks the home for the next chunk
//! whenever all that was sent to the connection has left: so what a member misses costs a position, not a queue, and one that is in
//! many rooms is fed from one after the other, in turns.
//!
//! It is live again exactly at the boundary. A chunk that reaches the room's head says so, and comes through the same lane as the
//! publications after it. Those up to the head may be under way here, in passes that have not reached the member: it skips what is
//! not above the head, and is an ordinary member once no such pass is left.
//!
//! If the history has overtaken a cursor, the client is told the one range of offsets that it lost (`gap`), and is fed from there
//! on. A plain client does not know `gap`: it is closed with 4102, as is everybody where gaps are declined.
//!
//! Invariants: a connection has at most one chunk asked or queued; a read never waits for the socket in the home; whoever is behind
//! and not waiting for anything else has a place among the readers of a lane.

use super::Shard;
use super::arena::{FrameIndex, HomeIndex, Index, LocalIndex, MembershipIndex, PublicationIndex, SessionIndex, StashIndex};
use super::connection::{Flags, Queued, State};
use super::frames::Matter;
use super::local::{Membership, Stage};
use super::mesh::{Ask, Consequence, Position, SessionId, What};
use super::seam::Key;
use super::session::NO_CONNECTION;
use super::stats::MemoryUse;
use crate::close::CloseReason;
use crate::limits::{HISTORY_PAGE_BYTES_MAX, LAG_SHARE, RECOVERY_CHUNK_BYTES_MAX};
use crate::planted::{Bug, is_planted};
use crate::protocol::encode::{self, ErrorFrame, GapReason, HistoryWriter};
use crate::protocol::{Dialect, ErrorCode};
use crate::time::Now;
use bytes::Bytes;

/// What a join's `since` comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// No position was given.
    Unasked,
    /// Everything after the position is there.
    From {
        /// The position.
        cursor: u64,
        /// Publications after it that are for the one who asks.
        count: u32,
    },
    /// Something was lost.
    Gap(GapReason),
}

/// A member that is fed from its room's history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behind {
    pub(crate) membership: MembershipIndex,
    /// The publication at the cursor, if it was there: where the home goes on.
    hint: PublicationIndex,
    /// It has had everything up to this offset.
    pub(crate) cursor: u64,
    /// What is not above this offset is not for it, however it comes. `READING` until the head is reached.
    pub(crate) until: u64,
}

/// In place of [`Behind::until`]: the room's head is not reached. Above every offset.
pub(crate) const READING: u64 = u64::MAX;

/// What a connection with members that are behind waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reading {
    /// For its socket, or for nothing because nobody is to be read for.
    #[default]
    Idle,
    /// For room in a lane.
    Queued,
    /// For a chunk.
    Asked,
}

/// A piece of a history.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Whole frames, one after the other; may be empty.
    pub(crate) frames: Bytes,
    pub(crate) count: u32,
    /// What the cursor moves to.
    pub(crate) to: u64,
    pub(crate) hint: PublicationIndex,
    /// The history had overtaken the cursor: everything up to here is lost. 0 if nothing is.
    pub(crate) lost: u64,
    /// `to` is the room's head.
    pub(crate) is_head: bool,
}

impl Shard {
    // ---- at the home ----------------------------------------------------------------------------------------------------

    /// What a position means in a room.
    ///
    /// `reader` is who asks: what it published itself is not for it, unless it asked for that.
    pub(crate) fn recovery(&self, room: HomeIndex, since: Option<Position>, reader: SessionId) -> Recovery {
        let home = &self.homes[room.0 as usize];
        match since {
            None => Recovery::Unasked,
            Some(Position { epoch, .. }) if epoch != Some(home.epoch) => Recovery::Gap(GapReason::EpochChanged),
            Some(Position { offset, .. }) if offset >= home.history.lost && offset <= home.offset => {
                let mut count = 0;
                let mut at = self.first_after(room, offset, PublicationIndex::NONE);
                while at.is_some() {
                    let publication = &self.history.publications[at.at()];
                    count += u32::from(publication.is_for(reader));
                    at = publication.newer_in_room;
                }
                Recovery::From { cursor: offset, count }
            }
            Some(_) => Recovery::Gap(GapReason::Expired),
        }
    }

    /// Answers a read: the next chunk after a cursor.
    pub(crate) fn take_read(&mut self, now: Now, ask: &Ask<'_>, cursor: u64, hint: PublicationIndex, formerly: Option<SessionId>) {
        // A session that has left in the meantime has no cursor any more.
        let Some(presence) = self.presence_of(ask) else { return };
        let room = self.presences[presence].room;
        let (head, overtaken) = (self.homes[room.0 as usize].offset, self.homes[room.0 as usize].history.lost);
        let lost = if cursor < overtaken { overtaken } else { 0 };
        let mut taken = std::mem::take(&mut self.chunk);
        taken.clear();
        let (mut to, mut last, mut bytes) = (cursor.max(lost), PublicationIndex::NONE, 0);
        let mut at = self.first_after(room, to, hint);
        let mut numbered = Vec::new();
        while at.is_some() {
            let publication = &self.history.publications[at.0 as usize];
            if publication.is_for(ask.session) {
                let length = self.out.frames.length(publication.frame);
                if !taken.is_empty() && bytes + length > RECOVERY_CHUNK_BYTES_MAX {
                    break;
                }
                let is_its_own = formerly == Some(publication.author) && publication.seq > 0;
                let frame = if is_its_own { self.numbered_frame(at) } else { publication.frame };
                if is_its_own {
                    numbered.push(frame);
                }
                taken.push(frame);
                bytes += self.out.frames.length(frame);
            }
            let publication = &self.history.publications[at.0 as usize];
            (to, last, at) = (publication.offset, at, publication.newer_in_room);
        }
        let is_head = at.is_none();
        let frames = match taken.is_empty() {
            true => Bytes::new(),
            false => self.out.frames.gather(&taken, bytes, ask.session.shard() != self.id),
        };
        numbered.into_iter().for_each(|frame| self.release_frame(frame));
        let count = taken.len() as u32;
        self.stats.recovered += u64::from(count);
        self.chunk = taken;
        let chunk = Chunk { frames, count, to: if is_head { head } else { to }, hint: last, lost, is_head };
        self.emit(now, ask.session.shard(), Consequence::Chunk { session: ask.session, membership: ask.membership, chunk });
    }

    /// A publication with its author's number of it, as a frame with one reference, the caller's.
    fn numbered_frame(&mut self, index: PublicationIndex) -> FrameIndex {
        let publication = &self.history.publications[index.at()];
        let (frame, head, seq) = (publication.frame, usize::from(publication.head), publication.seq);
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        encode::write_numbered(&mut json, &self.out.frames.bytes(frame)[head..], seq);
        let frame = self.text_frame(&json);
        self.json = json;
        frame
    }

    /// Answers the question what a room has kept.
    pub(crate) fn take_history(&mut self, now: Now, ask: &Ask<'_>, id: &str, since: Option<Position>, limit: u32) {
        let id = (!id.is_empty()).then_some(id);
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        match self.presence_of(ask) {
            None => encode::write_error(&mut json, &ErrorFrame { id, ..ErrorFrame::new(ErrorCode::NotJoined) }),
            Some(presence) => {
                let room = self.presences[presence].room;
                self.write_history(&mut json, ask.session, room, id, since, limit.max(1));
            }
        }
        self.answer(now, ask, json);
    }

    fn write_history(
        &self,
        json: &mut Vec<u8>,
        reader: SessionId,
        room: HomeIndex,
        id: Option<&str>,
        since: Option<Position>,
        limit: u32,
    ) {
        let home = &self.homes[room.0 as usize];
        let (start, gap) = match self.recovery(room, since, reader) {
            Recovery::Unasked => (home.history.lost, None),
            Recovery::From { cursor, .. } => (cursor, None),
            Recovery::Gap(reason) => (home.history.lost, Some(reason)),
        };
        let id = id.map(str::as_bytes);
        let history = encode::History { room: home.id.as_bytes(), id, epoch: home.epoch, offset: home.offset, gap };
        let mut writer = HistoryWriter::new(json, &history);
        let mut at = self.first_after(room, start, PublicationIndex::NONE);
        let mut count = 0;
        while at.is_some() && count < limit {
            let publication = &self.history.publications[at.0 as usize];
            let broadcast = &self.out.frames.bytes(publication.frame)[usize::from(publication.head)..];
            if !writer.is_empty() && writer.bytes() + broadcast.len() > HISTORY_PAGE_BYTES_MAX {
                break;
            }
            writer.publication(broadcast);
            count += 1;
            at = publication.newer_in_room;
        }
        writer.finish(at.is_some());
    }

    // ---- at the member's shard ------------------------------------------------------------------------------------------

    /// From now on a member gets what is above `cursor` from its room's history. It is in the member list.
    pub(crate) fn begin_behind(&mut self, slot: u32, membership: MembershipIndex, cursor: u64) {
        debug_assert!(!self.memberships[membership].feed.is_behind());
        self.set_behind(membership, true);
        let stash = self.stash_of(slot);
        let behind = Behind { membership, hint: PublicationIndex::NONE, cursor, until: READING };
        self.stashes[stash.at()].behind.push_back(behind);
        self.stats.charge(MemoryUse::Backlog, size_of::<Behind>());
        self.stats.recoveries += 1;
        self.feed(slot);
    }

    /// What may wait for a connection's socket before its members of rooms with history are fed from there, in bytes.
    ///
    /// A plain client can't be told of a gap. It has its whole queue first: that may hold more than a history does.
    pub(crate) fn lag_bytes(&self, slot: u32) -> usize {
        match self.connections[slot as usize].dialect() {
            Dialect::V1 => self.send_queue_bytes_max / LAG_SHARE,
            Dialect::Plain => self.send_queue_bytes_max,
        }
    }

    /// Whether so much waits for a connection's socket that `length` bytes more, of a room with history, had better wait there.
    ///
    /// Whoever wants the latest values waits for the socket there as soon as it is full: what comes then is the newest.
    pub(crate) fn lags(&self, slot: u32, membership: MembershipIndex, length: usize) -> bool {
        let connection = &self.connections[slot as usize];
        if !connection.flags.has(Flags::BACKLOGGED) || self.limits.history_publications_max == 0 {
            return false;
        }
        let is_latest = self.memberships[membership].feed.is_latest();
        is_latest || connection.queue_bytes as usize + length > self.lag_bytes(slot)
    }

    /// Takes publications that a history has off the end of a backlog that is too long, and has their members fed from there.
    ///
    /// What stands before the answer to a join is of an earlier membership, if of any: it stays.
    pub(crate) fn shed(&mut self, slot: u32) {
        let connection = &self.connections[slot as usize];
        let (stash, session) = (connection.stash.at(), connection.session);
        let is_too_long = connection.queue_bytes as usize > self.send_queue_bytes_max;
        if !is_too_long || session.is_none() || self.limits.history_publications_max == 0 {
            return;
        }
        // The first may be sent in part, or be the answer to the upgrade request.
        let mut place = self.stashes[stash].backlog.len();
        let mut shed = std::mem::take(&mut self.shed);
        while place > 1 && self.connections[slot as usize].queue_bytes as usize > self.lag_bytes(slot) {
            place -= 1;
            let Queued { frame, length } = self.stashes[stash].backlog[place];
            let (local, offset) = match self.out.frames.matter(frame) {
                Matter::Publication { local, offset } => (local, offset),
                Matter::Joined => break,
                Matter::Other => continue,
            };
            let Some(membership) = self.resolve_local(local).and_then(|room| self.find_membership(session, room)) else { continue };
            if !shed.contains(&membership) && !self.fall_behind(slot, membership) {
                continue;
            }
            if !shed.contains(&membership) {
                shed.push(membership);
            }
            if let Some(at) = self.behind_place(slot, membership) {
                self.stashes[stash].behind[at].cursor = offset - 1;
            }
            self.stashes[stash].backlog.remove(place);
            self.stats.release(MemoryUse::Backlog, size_of::<Queued>());
            self.out.frames.release(&mut self.stats, frame);
            self.connections[slot as usize].queue_bytes -= length;
            self.stats.send_queue_bytes -= u64::from(length);
            self.stats.deliveries -= 1;
        }
        shed.clear();
        self.shed = shed;
    }

    /// Has a member that is live, or about to be, fed from its history. False if it is fed from there already.
    fn fall_behind(&mut self, slot: u32, membership: MembershipIndex) -> bool {
        if self.memberships[membership].stage != Stage::Joined {
            return false;
        }
        match self.behind_place(slot, membership) {
            None => self.begin_behind(slot, membership, 0),
            Some(place) => {
                let behind = &mut self.stashes[self.connections[slot as usize].stash.at()].behind[place];
                if behind.until == READING {
                    return false;
                }
                (behind.until, behind.hint) = (READING, PublicationIndex::NONE);
            }
        }
        self.stats.lagging += 1;
        true
    }

    /// The membership that a session has of a room.
    pub(crate) fn find_membership(&self, session: SessionIndex, room: LocalIndex) -> Option<MembershipIndex> {
        let mut at = self.sessions[session].memberships;
        while at.is_some() && self.memberships[at].room != room {
            at = self.memberships[at].next;
        }
        at.is_some().then_some(at)
    }

    fn behind_place(&self, slot: u32, membership: MembershipIndex) -> Option<usize> {
        let stash = self.connections[slot as usize].stash;
        if stash.is_none() {
            return None;
        }
        self.stashes[stash.at()].behind.iter().position(|behind| behind.membership == membership)
    }

    /// Up to which offset publications are not for a member that is behind.
    pub(crate) fn behind_until(&self, slot: u32, membership: MembershipIndex) -> u64 {
        let stash = &self.stashes[self.connections[slot as usize].stash.at()];
        self.behind_place(slot, membership).map_or(0, |place| stash.behind[place].until)
    }

    /// A member is not behind any more: it is live, or it leaves.
    pub(crate) fn end_behind(&mut self, slot: u32, membership: MembershipIndex) {
        self.set_behind(membership, false);
        let Some(place) = self.behind_place(slot, membership) else { return };
        let stash = &mut self.stashes[self.connections[slot as usize].stash.at()];
        stash.behind.remove(place);
        self.stats.release(MemoryUse::Backlog, size_of::<Behind>());
        self.release_stash(slot);
        self.feed(slot);
    }

    /// A connection ends: none of its members is fed any more.
    pub(crate) fn stop_feeding(&mut self, slot: u32) {
        let stash = self.connections[slot as usize].stash;
        if stash.is_none() || self.stashes[stash.at()].behind.is_empty() {
            return;
        }
        while let Some(behind) = self.stashes[stash.at()].behind.pop_back() {
            self.set_behind(behind.membership, false);
            self.stats.release(MemoryUse::Backlog, size_of::<Behind>());
        }
        self.stashes[stash.at()].reading = Reading::Idle;
        self.release_stash(slot);
    }

    /// Whether nothing more stands before what would be read for a connection now.
    fn is_drained(&self, slot: u32) -> bool {
        self.connections[slot as usize].state == State::Open && self.is_all_sent(slot)
    }

    /// Has the next chunk read for a connection, if somebody there is behind and everything before has left.
    pub(crate) fn feed(&mut self, slot: u32) {
        let stash = self.connections[slot as usize].stash;
        if stash.is_none() || self.stashes[stash.at()].behind.is_empty() || !self.is_drained(slot) {
            return;
        }
        let stash = &mut self.stashes[stash.at()];
        let memberships = &self.memberships;
        let is_next = |behind: &Behind| behind.until == READING && memberships[behind.membership].stage == Stage::Joined;
        if stash.reading != Reading::Idle {
            return;
        }
        let Some(place) = stash.behind.iter().position(is_next) else { return };
        stash.behind.rotate_left(place);
        stash.reading = Reading::Queued;
        let room = self.memberships[stash.behind[0].membership].room;
        let home = usize::from(self.locals[room.0 as usize].home.0);
        let key = Key { slot, generation: self.connections[slot as usize].generation };
        self.lanes[home].readers.push_back(key);
        if self.lanes[home].readers.len() > 2 * self.connections.len() {
            // Most of them have ended, or are behind no more.
            let mut readers = std::mem::take(&mut self.lanes[home].readers);
            readers.retain(|&key| self.is_reader(key));
            self.lanes[home].readers = readers;
        }
    }

    /// Whether a history is still to be read for a connection.
    pub(crate) fn is_reader(&self, key: Key) -> bool {
        let stash = if self.is_current(key) { self.connections[key.slot as usize].stash } else { StashIndex::NONE };
        stash.is_some() && self.stashes[stash.at()].reading == Reading::Queued
    }

    /// Sends the reads that wait for a home, while there is room and the turn is not full.
    pub(crate) fn serve_readers(&mut self, now: Now, home: usize) {
        for _ in 0..self.lanes[home].readers.len() {
            if !self.has_room(home) || self.is_turn_full() {
                return;
            }
            let Some(key) = self.lanes[home].readers.pop_front() else { return };
            if !self.is_reader(key) {
                continue;
            }
            let stash = self.connections[key.slot as usize].stash.at();
            self.stashes[stash].reading = Reading::Idle;
            let first = self.stashes[stash].behind.front().copied();
            let is_next = |behind: &Behind| {
                let record = &self.memberships[behind.membership];
                let at_home = usize::from(self.locals[record.room.0 as usize].home.0) == home;
                behind.until == READING && record.stage == Stage::Joined && at_home
            };
            let Some(behind) = first.filter(|behind| is_next(behind) && self.is_drained(key.slot)) else {
                // What stood first has left, or something is to be sent before: it is looked at anew.
                self.feed(key.slot);
                continue;
            };
            self.stashes[stash].reading = Reading::Asked;
            let record = self.memberships[behind.membership];
            let formerly = self.aside(record.session).and_then(|aside| aside.formerly);
            let what = What::Read { cursor: behind.cursor, hint: behind.hint, formerly };
            let session = self.session_id(record.session);
            let ask = Ask { session, membership: behind.membership, presence: record.presence, seq: 0, what };
            self.command(now, home, &ask);
        }
    }

    /// A chunk came.
    pub(crate) fn apply_chunk(&mut self, now: Now, session: SessionId, membership: MembershipIndex, chunk: Chunk) {
        let Chunk { frames, count, to, hint, lost, is_head } = chunk;
        let slot = self.resolve_session(session).map_or(NO_CONNECTION, |index| self.sessions[index].connection);
        let place = if slot == NO_CONNECTION { None } else { self.behind_place(slot, membership) };
        // The session may be over, or have another connection.
        let Some(place) = place else { return self.out.frames.pool.give(frames) };
        let stash = &mut self.stashes[self.connections[slot as usize].stash.at()];
        stash.reading = Reading::Idle;
        let behind = &mut stash.behind[place];
        let cursor = std::mem::replace(&mut behind.cursor, to);
        behind.hint = hint;
        // The next chunk is another room's, if another member is behind.
        stash.behind.rotate_left(place + 1);
        // Offsets that a `latest` member does not get are superseded, which is no loss.
        if lost > 0 && !self.memberships[membership].feed.is_latest() {
            if self.limits.gaps_declined || self.connections[slot as usize].dialect() == Dialect::Plain {
                self.out.frames.pool.give(frames);
                self.end_with_frame(now, slot, CloseReason::SlowConsumer);
                return;
            }
            let id = std::mem::take(&mut self.locals[self.memberships[membership].room.0 as usize].id);
            self.send_json(slot, |out| encode::write_gap(out, id.as_bytes(), cursor + 1, lost));
            self.locals[self.memberships[membership].room.0 as usize].id = id;
            self.stats.gaps_sent += 1;
        }
        if !frames.is_empty() {
            self.stats.deliveries += u64::from(count);
            let frame = self.out.frames.adopt(&mut self.stats, frames);
            self.push_frame(slot, frame);
            self.release_frame(frame);
        }
        if is_head {
            self.reach_head(slot, membership, to);
        }
        self.feed(slot);
    }

    /// A member has had everything up to the room's head.
    fn reach_head(&mut self, slot: u32, membership: MembershipIndex, head: u64) {
        let Membership { room, position, .. } = self.memberships[membership];
        let is_awaited = self.locals[room.0 as usize].passes.iter().any(|pass| pass.brings_up_to(head, position));
        if !is_awaited || is_planted(Bug::LiveBeforeHead) {
            self.end_behind(slot, membership);
        } else if let Some(place) = self.behind_place(slot, membership) {
            self.stashes[self.connections[slot as usize].stash.at()].behind[place].until = head;
        }
    }
}
