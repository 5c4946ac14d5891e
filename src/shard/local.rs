//! A room as a shard with members sees it: who of its connections is in, and the fan-out to them.
//!
//! Fan-out is a *pass* over the member list that can pause between two turns. Passes of a room run in the order of their frames.
//! A member that leaves under a pass leaves a tombstone; one that joins comes after the end of every pass that began before it:
//! so each member gets exactly the frames between its join and its leave, in order, whatever the pauses.
//!
//! A member that is *behind* gets no publication from a pass before it has had all that came before: see `recovery`.
//!
//! It knows nothing of numbering, presence or who may publish: that is the home's.

use super::Shard;
use super::arena::{FrameIndex, HomeIndex, LocalIndex, MembershipIndex, PresenceIndex, SessionIndex};
use super::connection::{Flags, State};
use super::frames::Matter;
use super::mesh::LocalRef;
use super::recovery::READING;
use super::seam::ShardId;
use super::stats::MemoryUse;
use crate::limits::FANOUT_PER_TURN;
use crate::planted::{Bug, is_planted};
use std::collections::VecDeque;

/// Where a membership is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The home was asked; it has not answered.
    Joining,
    /// The session is a member; while it has a connection, it is in the member list.
    Joined,
    /// The session is away, and the home was told that it left: it joins again when it is resumed.
    Dormant,
    /// The home was asked to end it, and the session waits for the answer.
    Leaving,
    /// The home was asked to end it, and the session does not wait for the answer any more.
    Departing,
    /// The session is gone; the leave waits for room in the lane to the home.
    Owed,
    /// The session is gone while the home was asked to join it: the leave is owed once the answer is there.
    Abandoned,
}

/// A session in a room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub(crate) room: LocalIndex,
    pub(crate) session: SessionIndex,
    /// The session's next membership; once owed, the next that is owed to the same home.
    pub(crate) next: MembershipIndex,
    /// Place in the member list; `NOWHERE` if it is not in it.
    pub(crate) position: u32,
    pub(crate) presence: PresenceIndex,
    pub(crate) stage: Stage,
    pub(crate) watches: bool,
    /// It is charged to the flexible memory: the session has others.
    pub(crate) charged: bool,
    pub(crate) feed: Feed,
}

/// How publications come to a membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Feed(u8);

impl Feed {
    const BEHIND: u8 = 1;
    const LATEST: u8 = 2;
    const RESUMING: u8 = 4;
    const REMEMBERED: u8 = 8;

    /// It is fed from its room's history.
    pub(crate) fn is_behind(self) -> bool {
        self.0 & Self::BEHIND != 0
    }
    /// It wants the newest of what supersedes one another (`mode` is `latest`).
    pub(crate) fn is_latest(self) -> bool {
        self.0 & Self::LATEST != 0
    }
    /// The home was asked, for a connection that resumes, what its client missed.
    pub(crate) fn is_resuming(self) -> bool {
        self.0 & Self::RESUMING != 0
    }
    pub(crate) fn set_resuming(&mut self, resuming: bool) {
        self.set(Self::RESUMING, resuming);
    }
    /// It is over, and its session has another in its place, for when it is resumed.
    pub(crate) fn is_remembered(self) -> bool {
        self.0 & Self::REMEMBERED != 0
    }
    pub(crate) fn set_remembered(&mut self) {
        self.set(Self::REMEMBERED, true);
    }
    fn set(&mut self, bit: u8, is_set: bool) {
        self.0 = self.0 & !bit | if is_set { bit } else { 0 };
    }
    pub(crate) fn set_latest(&mut self, latest: bool) {
        self.set(Self::LATEST, latest);
    }
}

const _: () = assert!(size_of::<Option<Membership>>() == 24);

/// No place in a member list.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Bytes that a membership beyond a session's first takes: its record, its presence at the home, its places in lists.
pub(crate) const MEMBERSHIP_BYTES: usize = 24 + 32 + 16;

/// A place in a member list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// The connection's slot, and in the top bits whether it watches presence and is behind. `TOMBSTONE` if nobody is there any more.
    pub(crate) slot: u32,
    membership: MembershipIndex,
}

pub(crate) const TOMBSTONE: u32 = u32::MAX;
/// Members that a list has places for at least.
const MEMBERS_MIN: usize = 4;
/// What a room is charged beside its id and members: its record and places for a few passes. Passes beyond are few over all
/// rooms: `PASSES_MAX` bounds them.
const ROOM_BYTES: usize = size_of::<LocalRoom>() + 4 * size_of::<Pass>();
const WATCHES: u32 = 1 << 31;
const BEHIND: u32 = 1 << 30;
/// The bits of a slot.
const SLOT: u32 = BEHIND - 1;

const _: () = assert!(crate::limits::SHARD_CONNECTIONS_MAX <= SLOT as usize);

/// The fan-out of one frame, as far as it got.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) frame: FrameIndex,
    pub(crate) cursor: u32,
    pub(crate) end: u32,
    /// The offset of the publication; 0 if it is volatile or presence.
    pub(crate) offset: u64,
    except: MembershipIndex,
    watchers_only: bool,
}

impl Pass {
    /// Of a publication, to all members but `except`.
    pub(crate) fn of_publication(frame: FrameIndex, offset: u64, except: MembershipIndex) -> Pass {
        Pass { frame, cursor: 0, end: 0, offset, except, watchers_only: false }
    }

    /// Of presence, to those who watch it.
    pub(crate) fn of_presence(frame: FrameIndex) -> Pass {
        Pass { frame, cursor: 0, end: 0, offset: 0, except: MembershipIndex::NONE, watchers_only: true }
    }

    /// Whether it will still come to a place, and with a publication whose offset is not above this one.
    pub(crate) fn brings_up_to(&self, offset: u64, position: u32) -> bool {
        self.offset > 0 && self.offset <= offset && (self.cursor..self.end).contains(&position)
    }
}

/// A room with members on this shard.
#[derive(Debug)]
pub(crate) struct LocalRoom {
    pub(crate) id: Box<str>,
    pub(crate) home: ShardId,
    pub(crate) home_room: HomeIndex,
    /// Tells the rooms apart that had this index one after the other.
    pub(crate) generation: u32,
    /// Invariant: memberships that name it, in any stage. At 0 it is freed.
    pub(crate) references: u32,
    pub(crate) members: Vec<Member>,
    pub(crate) tombstones: u32,
    pub(crate) passes: VecDeque<Pass>,
    /// It is in the list of rooms with passes.
    pub(crate) active: bool,
    pub(crate) charged: usize,
}

impl LocalRoom {
    /// What it is charged once somebody has entered it: by twice the places that its members fill.
    pub(crate) fn bytes_due(&self) -> usize {
        self.bytes_at_first() + 2 * self.members.len().max(MEMBERS_MIN).next_power_of_two() * size_of::<Member>()
    }

    /// What it is charged before.
    pub(crate) fn bytes_at_first(&self) -> usize {
        ROOM_BYTES + self.id.len()
    }
}

impl Shard {
    pub(crate) fn find_local(&self, id: &str) -> Option<LocalIndex> {
        let hash = self.hash(id);
        self.locals_by_id.find(hash, |&index| *self.locals[index.0 as usize].id == *id).copied()
    }

    /// The room of this id, made if it isn't there.
    pub(crate) fn local_or_new(&mut self, id: &str) -> LocalIndex {
        if let Some(index) = self.find_local(id) {
            return index;
        }
        let hash = self.hash(id);
        let home = self.home_of(hash);
        self.local_generation = self.local_generation.wrapping_add(1);
        let charged = ROOM_BYTES + id.len();
        self.stats.charge(MemoryUse::Rooms, charged);
        self.stats.rooms_local += 1;
        let index = LocalIndex(self.locals.insert(LocalRoom {
            id: id.into(),
            home,
            home_room: HomeIndex::NONE,
            generation: self.local_generation,
            references: 0,
            members: Vec::new(),
            tombstones: 0,
            passes: VecDeque::new(),
            active: false,
            charged,
        }) as u32);
        let (locals, hasher) = (&self.locals, &self.hasher);
        self.locals_by_id
            .insert_unique(hash, index, |&other| std::hash::BuildHasher::hash_one(hasher, locals[other.0 as usize].id.as_bytes()));
        index
    }

    pub(crate) fn local_ref(&self, index: LocalIndex) -> LocalRef {
        LocalRef { index, generation: self.locals[index.0 as usize].generation }
    }

    /// The room that a reference means, if it still exists.
    pub(crate) fn resolve_local(&self, local: LocalRef) -> Option<LocalIndex> {
        self.locals.get(local.index.0 as usize).filter(|room| room.generation == local.generation).map(|_| local.index)
    }

    /// Makes a membership of a session, in stage `Joining`; `None` if there is no place for one.
    pub(crate) fn new_membership(&mut self, session: SessionIndex, room: LocalIndex, watches: bool) -> Option<MembershipIndex> {
        let next = self.sessions[session].memberships;
        let charged = next.is_some();
        let membership = self.memberships.insert(Membership {
            room,
            session,
            next,
            position: NOWHERE,
            presence: PresenceIndex::NONE,
            stage: Stage::Joining,
            watches,
            charged,
            feed: Feed::default(),
        })?;
        if charged {
            self.stats.charge(MemoryUse::Rooms, MEMBERSHIP_BYTES);
        }
        self.locals[room.0 as usize].references += 1;
        let session = &mut self.sessions[session];
        session.memberships = membership;
        session.rooms += 1;
        Some(membership)
    }

    /// Frees a membership that its session does not list any more.
    pub(crate) fn free_membership(&mut self, membership: MembershipIndex) {
        let Membership { room, position, charged, .. } = self.memberships.remove(membership);
        debug_assert_eq!(position, NOWHERE);
        self.drop_dormant_state(membership);
        if charged {
            self.stats.release(MemoryUse::Rooms, MEMBERSHIP_BYTES);
        }
        self.release_local(room);
    }

    /// Drops one reference to a room; frees it with the last.
    pub(crate) fn release_local(&mut self, index: LocalIndex) {
        let room = &mut self.locals[index.0 as usize];
        room.references -= 1;
        if room.references > 0 {
            return;
        }
        debug_assert_eq!(room.members.len(), room.tombstones as usize);
        let hash = self.hash(&self.locals[index.0 as usize].id);
        if let Ok(entry) = self.locals_by_id.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
        let mut room = self.locals.remove(index.0 as usize);
        for pass in room.passes.drain(..) {
            self.passes -= 1;
            self.release_frame(pass.frame);
        }
        self.stats.release(MemoryUse::Rooms, room.charged);
        self.stats.rooms_local -= 1;
    }

    /// Keeps a new room alive while its first membership is made.
    pub(crate) fn hold_local(&mut self, index: LocalIndex) {
        self.locals[index.0 as usize].references += 1;
    }

    /// Puts a joined membership in the member list: it gets whatever is published from now on.
    pub(crate) fn enter(&mut self, index: MembershipIndex) {
        let membership = self.memberships[index];
        let slot = self.sessions[membership.session].connection;
        let room = &mut self.locals[membership.room.0 as usize];
        if is_planted(Bug::JoinDuringPassDelivers) {
            room.passes.iter_mut().for_each(|pass| pass.end = room.members.len() as u32 + 1);
        }
        self.memberships[index].position = room.members.len() as u32;
        room.members.push(Member { slot: slot | if membership.watches { WATCHES } else { 0 }, membership: index });
        self.stats.room_subscriptions += 1;
        self.recharge_local(membership.room);
    }

    /// Takes a membership out of the member list: it gets nothing more.
    pub(crate) fn leave(&mut self, index: MembershipIndex) {
        let membership = &mut self.memberships[index];
        if membership.position == NOWHERE {
            return;
        }
        let position = std::mem::replace(&mut membership.position, NOWHERE) as usize;
        let room_index = membership.room;
        if membership.feed.is_behind() {
            let slot = self.locals[room_index.0 as usize].members[position].slot & SLOT;
            self.end_behind(slot, index);
        }
        let room = &mut self.locals[room_index.0 as usize];
        debug_assert_eq!(room.members[position].membership, index);
        self.stats.room_subscriptions -= 1;
        if !room.passes.is_empty() && is_planted(Bug::LeaveDuringPassStillDelivers) {
            return;
        }
        if !room.passes.is_empty() {
            room.members[position].slot = TOMBSTONE;
            room.tombstones += 1;
            if room.tombstones as usize > room.members.len() / 2 {
                self.compact(room_index);
            }
            return;
        }
        room.members.swap_remove(position);
        if let Some(moved) = room.members.get(position) {
            self.memberships[moved.membership].position = position as u32;
        }
        self.shrink(room_index);
    }

    /// Notes whether a membership watches presence.
    pub(crate) fn set_watches(&mut self, index: MembershipIndex, watches: bool) {
        let membership = &mut self.memberships[index];
        membership.watches = watches;
        if membership.position != NOWHERE {
            let member = &mut self.locals[membership.room.0 as usize].members[membership.position as usize];
            member.slot = member.slot & !WATCHES | if watches { WATCHES } else { 0 };
        }
    }

    /// Notes whether a member is fed from its room's history.
    pub(crate) fn set_behind(&mut self, index: MembershipIndex, behind: bool) {
        let membership = &mut self.memberships[index];
        membership.feed.set(Feed::BEHIND, behind);
        // While the passes of its room run the list is with them, and they see to it.
        if let Some(member) = self.locals[membership.room.0 as usize].members.get_mut(membership.position as usize) {
            member.slot = member.slot & !BEHIND | if behind { BEHIND } else { 0 };
        }
    }

    /// Takes the tombstones out of a member list, and moves the passes over it accordingly.
    fn compact(&mut self, index: LocalIndex) {
        let room = &mut self.locals[index.0 as usize];
        let mut kept = 0;
        for place in 0..room.members.len() {
            for pass in &mut room.passes {
                // Every bound that stood here stands behind what was kept so far.
                if pass.cursor as usize == place {
                    pass.cursor = kept as u32;
                }
                if pass.end as usize == place {
                    pass.end = kept as u32;
                }
            }
            let member = room.members[place];
            if member.slot != TOMBSTONE {
                room.members[kept] = member;
                self.memberships[member.membership].position = kept as u32;
                kept += 1;
            }
        }
        let all = room.members.len();
        for pass in &mut room.passes {
            if pass.cursor as usize == all {
                pass.cursor = kept as u32;
            }
            if pass.end as usize == all {
                pass.end = kept as u32;
            }
        }
        room.members.truncate(kept);
        room.tombstones = 0;
        self.shrink(index);
    }

    /// Gives back what a member list does not need any more.
    fn shrink(&mut self, index: LocalIndex) {
        let members = &mut self.locals[index.0 as usize].members;
        if members.capacity() > 4 * members.len().max(MEMBERS_MIN) {
            members.shrink_to(2 * members.len().max(MEMBERS_MIN));
        }
        self.recharge_local(index);
    }

    /// Charges a room for twice the places that its members fill, so that the account follows from who is there and from nothing
    /// else. The list has at most twice as many, for the time between growing and shrinking.
    fn recharge_local(&mut self, index: LocalIndex) {
        let room = &mut self.locals[index.0 as usize];
        let bytes = room.bytes_due();
        if bytes != room.charged {
            self.stats.release(MemoryUse::Rooms, room.charged);
            self.stats.charge(MemoryUse::Rooms, bytes);
            room.charged = bytes;
        }
    }

    /// Begins a pass to the members of now. The caller gives the pass its reference of the frame.
    pub(crate) fn begin_pass(&mut self, index: LocalIndex, pass: Pass) {
        let room = &mut self.locals[index.0 as usize];
        if room.members.len() == room.tombstones as usize {
            self.release_frame(pass.frame);
            return;
        }
        let end = room.members.len() as u32;
        if pass.offset > 0 {
            let local = LocalRef { index, generation: room.generation };
            self.out.frames.mark(pass.frame, Matter::Publication { local, offset: pass.offset });
        }
        room.passes.push_back(Pass { end, ..pass });
        self.passes += 1;
        if !room.active {
            room.active = true;
            self.active_rooms.push_back(index);
        }
    }

    /// Goes on with the passes of all rooms, for as long as the turn's budget lasts.
    pub(crate) fn run_passes(&mut self) {
        let mut budget = FANOUT_PER_TURN;
        while budget > 0 {
            let Some(index) = self.active_rooms.pop_front() else { return };
            if self.locals.get(index.0 as usize).is_none_or(|room| !room.active) {
                continue;
            }
            budget = budget.saturating_sub(self.run_room(index, budget));
            if let Some(room) = self.locals.get_mut(index.0 as usize) {
                if room.passes.is_empty() {
                    room.active = false;
                } else {
                    self.active_rooms.push_back(index);
                }
            }
        }
        self.stats.fanout_pauses += u64::from(!self.active_rooms.is_empty());
    }

    /// Runs a room's passes up to `budget` deliveries, and on to the end of the member that it is at; returns what it used, at least 1.
    ///
    /// Passes at the same place run together, member by member: a member's record is touched once for all of them.
    fn run_room(&mut self, index: LocalIndex, budget: usize) -> usize {
        let mut used = 1;
        let mut room = std::mem::take(&mut self.locals[index.0 as usize].members);
        let mut passes = std::mem::take(&mut self.locals[index.0 as usize].passes);
        while let Some(first) = passes.front() {
            let cursor = first.cursor;
            let together = passes.iter().take_while(|pass| pass.cursor == cursor).count();
            let end = passes.iter().take(together).map(|pass| pass.end).min().unwrap_or(cursor);
            let mut place = cursor;
            while place < end && used < budget {
                let member = room[place as usize];
                place += 1;
                if member.slot == TOMBSTONE {
                    continue;
                }
                let mut is_behind = member.slot & BEHIND != 0;
                for pass in passes.iter().take(together) {
                    if pass.except == member.membership || (pass.watchers_only && member.slot & WATCHES == 0) {
                        continue;
                    }
                    let slot = member.slot & SLOT;
                    let skips = is_behind && !pass.watchers_only && !is_planted(Bug::BehindGetsLive);
                    if skips && pass.offset <= self.behind_until(slot, member.membership) {
                        continue;
                    }
                    let connection = &self.connections[slot as usize];
                    if connection.state == State::Opening {
                        let is_lasting = pass.watchers_only || pass.offset > 0;
                        if is_lasting && !self.say_behind_welcome(slot, pass.frame) {
                            self.overflow(slot);
                        }
                        continue;
                    }
                    if connection.state == State::Open && !connection.flags.has(Flags::OVERFLOWED) {
                        if pass.offset > 0 && !is_behind && self.lags(slot, member.membership, self.out.frames.length(pass.frame)) {
                            // Everything below this one it has had, or it was not for it.
                            is_behind = true;
                            room[place as usize - 1].slot |= BEHIND;
                            let had = if is_planted(Bug::LagLosesOne) { pass.offset } else { pass.offset - 1 };
                            self.begin_behind(slot, member.membership, had);
                            self.stats.lagging += 1;
                            continue;
                        }
                        self.push_frame(slot, pass.frame);
                        used += 1;
                        self.stats.deliveries += 1;
                    }
                }
                if is_behind {
                    let slot = member.slot & SLOT;
                    let until = self.behind_until(slot, member.membership);
                    let is_awaited = |pass: &Pass| pass.brings_up_to(until, place - 1);
                    if until != READING && !passes.iter().skip(together).any(is_awaited) {
                        room[place as usize - 1].slot &= !BEHIND;
                        self.end_behind(slot, member.membership);
                    }
                }
            }
            for pass in passes.iter_mut().take(together) {
                pass.cursor = place;
            }
            while passes.front().is_some_and(|pass| pass.cursor >= pass.end) {
                let done = passes.pop_front().expect("its front was seen");
                self.passes -= 1;
                self.release_frame(done.frame);
            }
            if used >= budget {
                break;
            }
        }
        let tombstones = if passes.is_empty() { self.locals[index.0 as usize].tombstones } else { 0 };
        let local = &mut self.locals[index.0 as usize];
        std::mem::swap(&mut local.members, &mut room);
        local.passes = passes;
        if tombstones > 0 {
            self.compact(index);
        }
        used
    }

    /// Members and tombstones, for the audit.
    pub(crate) fn local_places(&self, index: LocalIndex) -> Option<usize> {
        self.locals.get(index.0 as usize).map(|room| room.members.len())
    }

    /// Whether the member at a place is one that its membership, session and connection know of, for the audit.
    pub(crate) fn is_place_sound(&self, index: LocalIndex, place: usize) -> bool {
        let Some(member) = self.locals.get(index.0 as usize).and_then(|room| room.members.get(place)) else { return true };
        if member.slot == TOMBSTONE {
            return true;
        }
        let Some(membership) = self.memberships.get(member.membership) else { return false };
        let Some(session) = self.sessions.get(membership.session) else { return false };
        membership.room == index
            && membership.position == place as u32
            && membership.stage != Stage::Owed
            && session.connection == member.slot & SLOT
            && membership.feed.is_behind() == (member.slot & BEHIND != 0)
            && self
                .connections
                .get(session.connection as usize)
                .is_some_and(|it| matches!(it.state, State::Opening | State::Open) && it.session == membership.session)
    }
}
