//! A room at its home: the one place that numbers its publications, knows who is in it, and says so to the shards with members.
//!
//! A command is taken only when every consequence lane has room for what it may cause ([`Shard::can_take`]), so a home never waits
//! in the middle of one. A room's epoch, offset and history outlive its last member by the history's age.

use super::Shard;
use super::arena::{FrameIndex, HomeIndex, MembershipIndex, PresenceIndex};
use super::history::{RoomHistory, Taken};
use super::local::Pass;
use super::mesh::{Ask, Consequence, LocalRef, Position, Roster, SessionId, What};
use super::presence::{Diff, Presence};
use super::recovery::Recovery;
use super::seam::ShardId;
use super::stats::MemoryUse;
use crate::limits::ROOMS_IDLE_MAX;
use crate::planted::{Bug, is_planted};
use crate::protocol::ErrorCode;
use crate::protocol::encode;
use crate::protocol::id64::{ID64_BYTES, id64};
use crate::time::{Millis, Now};
use bytes::Bytes;

/// Members of a room on one shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShardMembers {
    pub(crate) shard: ShardId,
    pub(crate) local: LocalRef,
    pub(crate) members: u32,
    pub(crate) watchers: u32,
}

/// A room at its home.
#[derive(Debug)]
pub(crate) struct HomeRoom {
    pub(crate) id: Box<str>,
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
    pub(crate) members: u32,
    pub(crate) watchers: u32,
    pub(crate) users: u32,
    pub(crate) first: PresenceIndex,
    pub(crate) last: PresenceIndex,
    pub(crate) version: u64,
    pub(crate) history: RoomHistory,
    /// Invariant: exactly the shards with at least one member.
    pub(crate) shards: Vec<ShardMembers>,
    /// Presence changes that are not yet told.
    pub(crate) diff: Option<Box<Diff>>,
    /// It has more members than a list may have: watchers get counts.
    pub(crate) counts_only: bool,
    /// Since when it has had no member. Meaningful while `members` is 0, as are the next two.
    pub(crate) idle_since: Millis,
    /// The rooms that have been without members for a little longer and a little less.
    pub(crate) idle_previous: HomeIndex,
    pub(crate) idle_next: HomeIndex,
    pub(crate) charged: usize,
}

/// A join as the home sees it.
struct Join<'a> {
    user: Option<&'a str>,
    state: Option<&'a str>,
    watches: bool,
    since: Option<Position>,
    local: LocalRef,
}

impl Shard {
    /// Executes a command at its room's home. The caller has seen that [`Shard::can_take`].
    pub(crate) fn take(&mut self, now: Now, ask: &Ask<'_>) {
        match ask.what {
            What::Join { room, user, state, watches, since, local } => {
                self.take_join(now, ask, room, &Join { user, state, watches, since, local });
            }
            What::Leave { answer, remembers } => self.take_leave(now, ask, answer, remembers),
            What::Publish { data, key, echo, volatile } => self.take_publish(now, ask, data, key, echo, volatile),
            What::SetState { state } => {
                if let Some(presence) = self.presence_of(ask) {
                    self.set_state(now, presence, state);
                    self.decide(now, ask, None);
                } else {
                    self.decide(now, ask, Some(ErrorCode::NotJoined));
                }
            }
            What::Question { id, cursor, limit } => self.take_question(now, ask, id, cursor, limit),
            What::Read { cursor, hint, formerly } => self.take_read(now, ask, cursor, hint, formerly),
            What::History { id, since, limit } => self.take_history(now, ask, id, since, limit),
        }
    }

    /// The asking session's presence, if it is a member.
    pub(crate) fn presence_of(&self, ask: &Ask<'_>) -> Option<PresenceIndex> {
        if ask.presence.is_none() {
            return None;
        }
        self.presences.get(ask.presence).filter(|presence| presence.session() == ask.session).map(|_| ask.presence)
    }

    /// Tells the asking session's shard that a numbered command is decided.
    pub(crate) fn decide(&mut self, now: Now, ask: &Ask<'_>, declined: Option<ErrorCode>) {
        if ask.seq > 0 || declined.is_some() {
            self.emit(now, ask.session.shard(), Consequence::Decided { session: ask.session, seq: ask.seq, declined });
        }
    }

    /// Sends the asking session the answer to its question. Takes the buffer back that was taken for it.
    pub(crate) fn answer(&mut self, now: Now, ask: &Ask<'_>, json: Vec<u8>) {
        let frame = self.text_frame(&json);
        self.json = json;
        let bytes = self.out.frames.share(frame);
        self.release_frame(frame);
        self.emit(now, ask.session.shard(), Consequence::Answer { session: ask.session, frame: bytes });
        self.decide(now, ask, None);
    }

    fn decline_join(&mut self, now: Now, ask: &Ask<'_>, code: ErrorCode) {
        let consequence = Consequence::NotJoined { session: ask.session, membership: ask.membership, seq: ask.seq, code };
        self.emit(now, ask.session.shard(), consequence);
    }

    fn take_join(&mut self, now: Now, ask: &Ask<'_>, id: &str, join: &Join<'_>) {
        let presence = match self.presence_of(ask) {
            // A repeated join of a joined room: answered again, with what it says now.
            Some(presence) => {
                self.set_watching(presence, join.watches);
                if let Some(state) = join.state {
                    self.set_state(now, presence, state);
                }
                presence
            }
            None => {
                let Some(room) = self.home_or_new(now, id) else {
                    self.decline_join(now, ask, ErrorCode::RoomUnavailable);
                    return;
                };
                let extra = usize::from(is_planted(Bug::RoomHoldsOneTooMany));
                if self.homes[room.0 as usize].members as usize >= self.limits.members_per_room_max + extra {
                    self.decline_join(now, ask, ErrorCode::RoomFull);
                    return;
                }
                let Some(presence) = self.new_presence(now, room, ask.session, join.user, join.state, join.watches) else {
                    self.decline_join(now, ask, ErrorCode::RoomUnavailable);
                    return;
                };
                self.count_member(room, ask.session.shard(), join.local, join.watches);
                presence
            }
        };
        let room = self.presences[presence].room;
        let home = &self.homes[room.0 as usize];
        let recovery = self.recovery(room, join.since, ask.session);
        let (epoch, offset, version) = (home.epoch, home.offset, home.version);
        if matches!(recovery, Recovery::From { cursor, .. } if cursor < offset) {
            self.promise_history(now, room);
        }
        let roster = self.roster(room, join.watches);
        let consequence = Consequence::Joined {
            session: ask.session,
            membership: ask.membership,
            seq: ask.seq,
            presence,
            room,
            epoch,
            offset,
            recovery,
            version,
            roster,
        };
        self.emit(now, ask.session.shard(), consequence);
    }

    fn take_leave(&mut self, now: Now, ask: &Ask<'_>, answer: bool, remembers: bool) {
        let mut left = Bytes::new();
        match self.presence_of(ask) {
            Some(presence) => {
                let is_late = !answer && is_planted(Bug::LateLeaveRemovesOtherPresence);
                let presence = if is_late { self.sibling_of(presence) } else { presence };
                let room = self.presences[presence].room;
                let Presence { watches, state, .. } = self.presences[presence];
                if remembers && state.is_some() {
                    left = Bytes::copy_from_slice(self.states[state.0 as usize].as_bytes());
                }
                self.remove_presence(now, presence);
                self.discount_member(now, room, ask.session.shard(), watches);
            }
            None => self.stats.room_leave_failures += 1,
        }
        if answer {
            let consequence = Consequence::Left { session: ask.session, membership: ask.membership, seq: ask.seq, state: left };
            self.emit(now, ask.session.shard(), consequence);
        }
    }

    fn take_publish(&mut self, now: Now, ask: &Ask<'_>, data: &str, key: Option<&str>, echo: bool, volatile: bool) {
        let Some(presence) = self.presence_of(ask) else {
            self.decide(now, ask, Some(ErrorCode::NotJoined));
            return;
        };
        let room = self.presences[presence].room;
        let home = &mut self.homes[room.0 as usize];
        home.offset += u64::from(volatile && is_planted(Bug::VolatileUsesOffset));
        let offset = (!volatile).then(|| {
            home.offset += 1;
            home.offset
        });
        self.stats.publications += 1;
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        let anonymous = anonymous_name(ask.session);
        let user = self.users.name(self.presences[presence].user).map_or(&anonymous[..], str::as_bytes);
        let key_place = encode::write_broadcast(
            &mut json,
            &encode::Broadcast {
                room: self.homes[room.0 as usize].id.as_bytes(),
                data: data.as_bytes(),
                offset,
                user,
                connection: ask.session.0,
                key: key.map(str::as_bytes),
                ts: now.wall,
                seq: None,
            },
        );
        let frame = self.text_frame(&json);
        if let Some(offset) = offset {
            let head = self.out.frames.length(frame) - json.len();
            let key = key_place.start + head..key_place.end + head;
            self.keep(now, Taken { room, frame, offset, author: ask.session, seq: ask.seq, echo, head, key });
        }
        self.json = json;
        let except = (!echo).then_some((ask.session, ask.membership));
        for place in 0..self.homes[room.0 as usize].shards.len() {
            let members = self.homes[room.0 as usize].shards[place];
            if members.shard == self.id {
                self.out.frames.hold(frame);
                self.fan_out(members.local, frame, offset.unwrap_or(0), except);
            } else {
                let frame = self.out.frames.share(frame);
                self.emit(
                    now,
                    members.shard,
                    Consequence::Published { local: members.local, frame, offset: offset.unwrap_or(0), except },
                );
            }
        }
        self.release_frame(frame);
        self.decide(now, ask, None);
    }

    /// Begins the fan-out of a publication to the members here; `offset` is 0 if it is volatile. Takes over the caller's reference.
    pub(crate) fn fan_out(
        &mut self,
        local: LocalRef,
        frame: FrameIndex,
        offset: u64,
        except: Option<(SessionId, MembershipIndex)>,
    ) {
        let Some(index) = self.resolve_local(local) else {
            self.release_frame(frame);
            return;
        };
        let except = match except {
            Some((session, membership))
                if session.shard() == self.id
                    && self.memberships.get(membership).is_some_and(|record| record.session.0 == session.index())
                    && self.resolve_session(session).is_some() =>
            {
                membership
            }
            Some(_) | None => MembershipIndex::NONE,
        };
        self.begin_pass(index, Pass::of_publication(frame, offset, except));
    }

    /// The room of this id at this home, made if it isn't there; `None` if memory runs short.
    fn home_or_new(&mut self, now: Now, id: &str) -> Option<HomeIndex> {
        let hash = self.hash(id);
        if let Some(index) = self.homes_by_id.find(hash, |&index| *self.homes[index.0 as usize].id == *id).copied() {
            return Some(index);
        }
        if self.is_short_of_memory() {
            return None;
        }
        let charged = size_of::<HomeRoom>() + id.len();
        self.stats.charge(MemoryUse::Rooms, charged);
        self.stats.rooms_home += 1;
        let epoch = self.random.next();
        let index = HomeIndex(self.homes.insert(HomeRoom {
            id: id.into(),
            epoch,
            offset: 0,
            members: 0,
            watchers: 0,
            users: 0,
            first: PresenceIndex::NONE,
            last: PresenceIndex::NONE,
            version: 0,
            history: RoomHistory::default(),
            shards: Vec::new(),
            diff: None,
            counts_only: false,
            idle_since: now.mono,
            idle_previous: HomeIndex::NONE,
            idle_next: HomeIndex::NONE,
            charged,
        }) as u32);
        let (homes, hasher) = (&self.homes, &self.hasher);
        self.homes_by_id
            .insert_unique(hash, index, |&other| std::hash::BuildHasher::hash_one(hasher, homes[other.0 as usize].id.as_bytes()));
        self.begin_idle(now, index);
        Some(index)
    }

    fn count_member(&mut self, index: HomeIndex, shard: ShardId, local: LocalRef, watches: bool) {
        if self.homes[index.0 as usize].members == 0 {
            self.end_idle(index);
        }
        let room = &mut self.homes[index.0 as usize];
        room.members += 1;
        room.watchers += u32::from(watches);
        match room.shards.iter_mut().find(|members| members.shard == shard) {
            Some(members) => {
                members.members += 1;
                members.watchers += u32::from(watches);
                members.local = local;
            }
            None => room.shards.push(ShardMembers { shard, local, members: 1, watchers: u32::from(watches) }),
        }
        room.counts_only = room.members as usize > self.limits.presence_members_max;
    }

    fn discount_member(&mut self, now: Now, index: HomeIndex, shard: ShardId, watches: bool) {
        let room = &mut self.homes[index.0 as usize];
        room.members -= 1;
        room.watchers -= u32::from(watches);
        if let Some(place) = room.shards.iter().position(|members| members.shard == shard) {
            let members = &mut room.shards[place];
            members.members -= 1;
            members.watchers -= u32::from(watches);
            if members.members == 0 || (is_planted(Bug::ShardForgottenWithWatchers) && watches && members.watchers == 0) {
                room.shards.swap_remove(place);
            }
        }
        room.counts_only = room.members as usize > self.limits.presence_members_max;
        if room.watchers == 0 {
            self.drop_diff(index);
        }
        if self.homes[index.0 as usize].members == 0 {
            self.begin_idle(now, index);
        }
    }

    /// Begins the time that an empty room still has. Rooms stand in one list, in the order of their times.
    fn begin_idle(&mut self, now: Now, index: HomeIndex) {
        let previous = self.idle_last;
        let room = &mut self.homes[index.0 as usize];
        room.idle_since = now.mono;
        room.idle_previous = previous;
        room.idle_next = HomeIndex::NONE;
        room.shards = Vec::new();
        match previous.is_some() {
            true => self.homes[previous.0 as usize].idle_next = index,
            false => self.idle_first = index,
        }
        self.idle_last = index;
        self.stats.rooms_idle += 1;
        while self.stats.rooms_idle as usize > ROOMS_IDLE_MAX {
            self.forget_oldest_idle();
            self.stats.rooms_evicted += 1;
        }
    }

    /// Takes a room out of the list of empty ones.
    fn end_idle(&mut self, index: HomeIndex) {
        let HomeRoom { idle_previous: previous, idle_next: next, .. } = self.homes[index.0 as usize];
        match previous.is_some() {
            true => self.homes[previous.0 as usize].idle_next = next,
            false => self.idle_first = next,
        }
        match next.is_some() {
            true => self.homes[next.0 as usize].idle_previous = previous,
            false => self.idle_last = previous,
        }
        self.stats.rooms_idle -= 1;
    }

    pub(crate) fn idle_due(&self) -> Option<Millis> {
        let first = self.idle_first;
        first.is_some().then(|| self.homes[first.0 as usize].idle_since.after(self.limits.history_age_ms))
    }

    pub(crate) fn expire_idle_rooms(&mut self, now: Now) {
        while self.idle_due().is_some_and(|due| due <= now.mono) {
            self.forget_oldest_idle();
        }
    }

    /// Forgets the room that has been empty for longest.
    fn forget_oldest_idle(&mut self) {
        let index = self.idle_first;
        self.end_idle(index);
        // It is as old as its last member's leave, but the sweep may not have come yet, or the room goes before its time.
        self.forget_history(index);
        let hash = self.hash(&self.homes[index.0 as usize].id);
        if let Ok(entry) = self.homes_by_id.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
        let room = self.homes.remove(index.0 as usize);
        debug_assert!(room.members == 0 && room.diff.is_none());
        self.stats.release(MemoryUse::Rooms, room.charged);
        self.stats.rooms_home -= 1;
    }

    /// The roster of a room for somebody who joins.
    fn roster(&mut self, index: HomeIndex, watches: bool) -> Roster {
        if !watches {
            return Roster::Unasked;
        }
        let room = &self.homes[index.0 as usize];
        if room.counts_only {
            return Roster::Counts { users: room.users, connections: room.members };
        }
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        let first = room.first;
        self.note_shown(index);
        let cursor = self.write_page(&mut json, first, u32::MAX);
        let members = self.out.frames.pool.copy(&[&json]);
        self.json = json;
        Roster::Page { members, cursor }
    }
}

/// The name of an anonymous session: `~` and its id.
pub(crate) fn anonymous_name(session: SessionId) -> [u8; ID64_BYTES + 1] {
    let mut name = [b'~'; ID64_BYTES + 1];
    name[1..].copy_from_slice(&id64(session.0));
    name
}
