//! Presence at a room's home: who is there, and how those who watch are told.
//!
//! The sessions of a room stand in one list in which the sessions of a user stand together, so that a page is one walk. Changes
//! are collected per room and told as one versioned diff per window; whoever came and went within a window is not told at all.
//! A snapshot shows what is true when it is taken, so the next diff may repeat what it shows: entries are to be taken as they are,
//! not counted.
//!
//! Above `presence_members_max` members a room has no diffs but counts, once a second. Versions go on, so a client that holds a
//! list notices, when diffs begin again, that it must ask.

use super::Shard;
use super::arena::{HomeIndex, PresenceIndex, StateIndex, UserIndex};
use super::home::anonymous_name;
use super::mesh::{Ask, Consequence, SessionId};
use super::stats::MemoryUse;
use crate::limits::{PRESENCE_COALESCE_MS, PRESENCE_COALESCE_SLOW_MS, PRESENCE_PAGE_BYTES_MAX, PRESENCE_SLOW_MEMBERS};
use crate::planted::{Bug, is_planted};
use crate::protocol::encode::{self, Counts, ErrorFrame, Members};
use crate::protocol::id64::{ID64_BYTES, id64, read_id64};
use crate::protocol::member::{DiffWriter, MemberWriter};
use crate::protocol::{ErrorCode, encode::Presence as PresenceFrame};
use crate::time::{Millis, Now};
use hashbrown::HashTable;

/// A session in a room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presence {
    session_low: u32,
    session_high: u32,
    pub(crate) room: HomeIndex,
    pub(crate) user: UserIndex,
    pub(crate) previous: PresenceIndex,
    pub(crate) next: PresenceIndex,
    pub(crate) state: StateIndex,
    pub(crate) watches: bool,
    /// Tells the presences apart that had this place one after the other: a cursor names both.
    stamp: [u8; 3],
}

const _: () = assert!(size_of::<Presence>() == 32);

impl Presence {
    pub(crate) fn session(&self) -> SessionId {
        SessionId(u64::from(self.session_high) << 32 | u64::from(self.session_low))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It came and went, or went and came as it was.
    Nothing,
    Joined,
    Left,
    Updated,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) session: SessionId,
    pub(crate) presence: PresenceIndex,
    /// Invariant: a reference is held, so that the name of one who left can be told.
    pub(crate) user: UserIndex,
    pub(crate) change: Change,
}

/// Changes of a room that are not yet told.
#[derive(Debug, Default)]
pub(crate) struct Diff {
    pub(crate) entries: Vec<Entry>,
    pub(crate) by_session: HashTable<u32>,
    /// Somebody was shown the members while changes were noted here: what came and went may be in that list, and must be told.
    shown: bool,
    /// Changes were not noted, because counts were all that would be told. A list must be asked for anew.
    pub(crate) partial: bool,
}

fn session_hash(session: SessionId) -> u64 {
    session.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Diff {
    pub(crate) fn find(&self, session: SessionId) -> Option<usize> {
        self.by_session
            .find(session_hash(session), |&place| self.entries[place as usize].session == session)
            .map(|&place| place as usize)
    }

    fn push(&mut self, entry: Entry) {
        let place = self.entries.len() as u32;
        self.entries.push(entry);
        let entries = &self.entries;
        self.by_session.insert_unique(session_hash(entry.session), place, |&other| session_hash(entries[other as usize].session));
    }

    /// Takes the first `count` entries out.
    fn remove_front(&mut self, count: usize) {
        self.entries.drain(..count);
        self.by_session.clear();
        let entries = std::mem::take(&mut self.entries);
        for entry in entries {
            self.push(entry);
        }
    }
}

impl Shard {
    fn group_hash(room: HomeIndex, user: UserIndex) -> u64 {
        (u64::from(room.0) << 32 | u64::from(user.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The first presence of a user in a room.
    pub(crate) fn group(&self, room: HomeIndex, user: UserIndex) -> Option<PresenceIndex> {
        if user.is_none() {
            return None;
        }
        self.groups
            .find(Self::group_hash(room, user), |&first| {
                let presence = &self.presences[first];
                presence.room == room && presence.user == user
            })
            .copied()
    }

    fn set_group(&mut self, first: PresenceIndex) {
        let presence = self.presences[first];
        if presence.user.is_some() {
            let presences = &self.presences;
            self.groups.insert_unique(Self::group_hash(presence.room, presence.user), first, |&other| {
                Self::group_hash(presences[other].room, presences[other].user)
            });
        }
    }

    /// Adds a session to a room; `None` if there is no place for it.
    pub(crate) fn new_presence(
        &mut self,
        now: Now,
        room: HomeIndex,
        session: SessionId,
        user: Option<&str>,
        state: Option<&str>,
        watches: bool,
    ) -> Option<PresenceIndex> {
        if self.presences.is_full() {
            return None;
        }
        let user = match user {
            Some(name) => self.users.intern(&mut self.stats, name)?,
            None => UserIndex::NONE,
        };
        let state = self.new_state(state);
        let sibling = self.group(room, user);
        let (previous, next) = match sibling {
            Some(first) => (first, self.presences[first].next),
            None => (self.homes[room.0 as usize].last, PresenceIndex::NONE),
        };
        let (session_low, session_high) = (session.0 as u32, (session.0 >> 32) as u32);
        self.presence_stamp = self.presence_stamp.wrapping_add(1);
        let [_, stamp @ ..] = self.presence_stamp.to_be_bytes();
        let index = self
            .presences
            .insert(Presence { session_low, session_high, room, user, previous, next, state, watches, stamp })
            .expect("a place was seen above");
        self.link(room, index, previous, next);
        if sibling.is_none() {
            self.set_group(index);
            self.homes[room.0 as usize].users += 1;
        }
        self.note(now, index, Change::Joined);
        Some(index)
    }

    fn link(&mut self, room: HomeIndex, index: PresenceIndex, previous: PresenceIndex, next: PresenceIndex) {
        match previous.is_some() {
            true => self.presences[previous].next = index,
            false => self.homes[room.0 as usize].first = index,
        }
        match next.is_some() {
            true => self.presences[next].previous = index,
            false => self.homes[room.0 as usize].last = index,
        }
    }

    /// Takes a session out of its room.
    pub(crate) fn remove_presence(&mut self, now: Now, index: PresenceIndex) {
        self.note(now, index, Change::Left);
        let Presence { room, user, previous, next, state, .. } = self.presences[index];
        let is_first = self.group(room, user) == Some(index);
        if is_first {
            let found = self.groups.find_entry(Self::group_hash(room, user), |&first| first == index);
            if let Ok(entry) = found {
                entry.remove();
            }
        }
        match previous.is_some() {
            true => self.presences[previous].next = next,
            false => self.homes[room.0 as usize].first = next,
        }
        match next.is_some() {
            true => self.presences[next].previous = previous,
            false => self.homes[room.0 as usize].last = previous,
        }
        if is_first && next.is_some() && self.presences[next].user == user {
            self.set_group(next);
        } else if is_first || user.is_none() {
            self.homes[room.0 as usize].users -= 1;
        }
        self.presences.remove(index);
        if !is_planted(Bug::StateNotFreed) {
            self.free_state(state);
        }
        self.users.release(&mut self.stats, user);
    }

    /// Another presence of the same user beside this one, or this one: what [`Bug::LateLeaveRemovesOtherPresence`] takes for it.
    pub(crate) fn sibling_of(&self, index: PresenceIndex) -> PresenceIndex {
        let Presence { room, user, next, .. } = self.presences[index];
        match self.group(room, user) {
            Some(first) if first != index => first,
            Some(_) if next.is_some() && self.presences[next].user == user => next,
            Some(_) | None => index,
        }
    }

    fn new_state(&mut self, state: Option<&str>) -> StateIndex {
        let Some(state) = state else { return StateIndex::NONE };
        self.stats.charge(MemoryUse::PresenceState, state.len());
        StateIndex(self.states.insert(state.into()) as u32)
    }

    fn free_state(&mut self, state: StateIndex) {
        if state.is_some() {
            let gone = self.states.remove(state.0 as usize);
            self.stats.release(MemoryUse::PresenceState, gone.len());
        }
    }

    pub(crate) fn set_state(&mut self, now: Now, index: PresenceIndex, state: &str) {
        let old = self.presences[index].state;
        self.free_state(old);
        self.presences[index].state = self.new_state(Some(state));
        self.note(now, index, Change::Updated);
    }

    pub(crate) fn set_watching(&mut self, index: PresenceIndex, watches: bool) {
        let presence = &mut self.presences[index];
        if presence.watches == watches {
            return;
        }
        presence.watches = watches;
        let (room, shard) = (presence.room, presence.session().shard());
        let room_record = &mut self.homes[room.0 as usize];
        let delta = |count: &mut u32| if watches { *count += 1 } else { *count -= 1 };
        delta(&mut room_record.watchers);
        if let Some(members) = room_record.shards.iter_mut().find(|members| members.shard == shard) {
            delta(&mut members.watchers);
        }
        if room_record.watchers == 0 {
            self.drop_diff(room);
        }
    }

    /// Notes a change for the room's next diff, if anybody watches.
    fn note(&mut self, now: Now, index: PresenceIndex, change: Change) {
        let Presence { room: room_index, user, .. } = self.presences[index];
        let session = self.presences[index].session();
        let room = &mut self.homes[room_index.0 as usize];
        if room.watchers == 0 {
            // Who was away and comes back with the list of then must see that it is not current, though nobody was told.
            room.version += 1;
            return;
        }
        if room.diff.is_none() {
            let is_slow = room.members > PRESENCE_SLOW_MEMBERS;
            let (queue, wait) = match is_slow {
                true => (&mut self.diffs_slow, PRESENCE_COALESCE_SLOW_MS),
                false => (&mut self.diffs_fast, PRESENCE_COALESCE_MS),
            };
            queue.push_back((now.mono.after(wait), room_index));
        }
        let diff = room.diff.get_or_insert_default();
        if room.counts_only || diff.partial {
            // The counts are all that will be told, or that the list must be asked for.
            diff.partial = true;
            diff.by_session.clear();
            for entry in diff.entries.drain(..) {
                self.users.release(&mut self.stats, entry.user);
            }
            return;
        }
        match diff.find(session) {
            Some(place) => {
                let shown = diff.shown;
                let entry = &mut diff.entries[place];
                entry.presence = index;
                entry.change = match (entry.change, change) {
                    (Change::Joined, Change::Left) if !shown => Change::Nothing,
                    (Change::Joined, Change::Joined | Change::Updated) => Change::Joined,
                    // It went and came back: the state may be another.
                    (Change::Left, Change::Joined) if !shown => Change::Updated,
                    (_, change) => change,
                };
            }
            None => {
                if !is_planted(Bug::DiffHoldsNoUser) {
                    self.users.hold(user);
                }
                diff.push(Entry { session, presence: index, user, change });
            }
        }
    }

    /// Notes that somebody is shown the members of a room as they are now.
    pub(crate) fn note_shown(&mut self, room: HomeIndex) {
        if let Some(diff) = &mut self.homes[room.0 as usize].diff {
            diff.shown = true;
        }
    }

    /// Forgets the changes that nobody waits for any more.
    pub(crate) fn drop_diff(&mut self, room: HomeIndex) {
        if let Some(diff) = self.homes[room.0 as usize].diff.take() {
            self.homes[room.0 as usize].version += 1;
            for entry in &diff.entries {
                self.users.release(&mut self.stats, entry.user);
            }
        }
    }

    /// Whether changes are due to be told.
    pub(crate) fn is_presence_due(&self, now: Now) -> bool {
        [&self.diffs_fast, &self.diffs_slow].into_iter().any(|queue| queue.front().is_some_and(|(due, _)| *due <= now.mono))
    }

    /// When presence is next to be told.
    pub(crate) fn presence_due(&self) -> Option<Millis> {
        if self.presence_blocked {
            return None;
        }
        let first = |queue: &std::collections::VecDeque<(Millis, HomeIndex)>| queue.front().map(|(due, _)| *due);
        [first(&self.diffs_fast), first(&self.diffs_slow)].into_iter().flatten().min()
    }

    /// Tells the changes whose window is over, for as long as the lanes have room.
    pub(crate) fn tell_presence(&mut self, now: Now) {
        self.presence_blocked = false;
        for slow in [false, true] {
            loop {
                let queue = if slow { &mut self.diffs_slow } else { &mut self.diffs_fast };
                let Some((_, room)) = queue.front().copied().filter(|(due, _)| *due <= now.mono) else { break };
                if !self.tell_room(now, room) {
                    self.presence_blocked = true;
                    self.stats.lane_waits += 1;
                    return;
                }
                let queue = if slow { &mut self.diffs_slow } else { &mut self.diffs_fast };
                queue.pop_front();
            }
        }
    }

    /// Tells a room's changes. False if the lanes have no room for all of them.
    fn tell_room(&mut self, now: Now, index: HomeIndex) -> bool {
        while self.homes.get(index.0 as usize).is_some_and(|room| room.diff.is_some()) {
            if !self.has_room(usize::from(self.id.0)) {
                return false;
            }
            let Some(mut diff) = self.homes[index.0 as usize].diff.take() else { return true };
            let room = &mut self.homes[index.0 as usize];
            let mut json = std::mem::take(&mut self.json);
            json.clear();
            let count = match room.counts_only {
                true => diff.entries.len(),
                false => self.fit(&diff),
            };
            let room = &mut self.homes[index.0 as usize];
            let is_worth_telling =
                room.counts_only || diff.partial || diff.entries[..count].iter().any(|entry| entry.change != Change::Nothing);
            if is_worth_telling {
                // A version that is left out says that what was not noted can't be told.
                let is_repeated = diff.shown && is_planted(Bug::DiffVersionRepeated);
                room.version += u64::from(!is_repeated) + u64::from(diff.partial && !room.counts_only);
                let room = &self.homes[index.0 as usize];
                if room.counts_only {
                    let counts = Counts { users: u64::from(room.users), connections: u64::from(room.members) };
                    encode::write_presence_counts(&mut json, room.id.as_bytes(), room.epoch, room.version, counts);
                } else {
                    self.write_diff(&mut json, index, &diff.entries[..count]);
                }
            }
            for entry in &diff.entries[..count] {
                self.users.release(&mut self.stats, entry.user);
            }
            if count < diff.entries.len() {
                diff.remove_front(count);
                self.homes[index.0 as usize].diff = Some(diff);
            }
            if is_worth_telling {
                self.tell_watchers(now, index, &json);
            }
            self.json = json;
        }
        true
    }

    /// How many of a diff's entries fit in one frame, at least one.
    fn fit(&self, diff: &Diff) -> usize {
        let mut bytes = 0;
        for (count, entry) in diff.entries.iter().enumerate() {
            let state = self.presences.get(entry.presence).map_or(StateIndex::NONE, |presence| presence.state);
            let state = if state.is_some() { self.states[state.0 as usize].len() } else { 0 };
            bytes += 64 + 2 * self.users.name(entry.user).map_or(ID64_BYTES + 1, str::len) + state;
            if bytes > PRESENCE_PAGE_BYTES_MAX && count > 0 {
                return count;
            }
        }
        diff.entries.len()
    }

    fn write_diff(&self, json: &mut Vec<u8>, index: HomeIndex, entries: &[Entry]) {
        let room = &self.homes[index.0 as usize];
        let mut writer = DiffWriter::new(json, room.id.as_bytes(), room.epoch, room.version);
        for change in [Change::Joined, Change::Left, Change::Updated] {
            for entry in entries.iter().filter(|entry| entry.change == change) {
                let anonymous = anonymous_name(entry.session);
                let user = self.users.name(entry.user).map_or(&anonymous[..], str::as_bytes);
                match change {
                    Change::Joined => writer.join(user, entry.session.0, self.state_of(entry.presence)),
                    Change::Left => writer.leave(user, entry.session.0),
                    Change::Updated => writer.update(user, entry.session.0, self.state_of(entry.presence).unwrap_or(b"null")),
                    Change::Nothing => {}
                }
            }
        }
        writer.finish();
    }

    fn state_of(&self, index: PresenceIndex) -> Option<&[u8]> {
        let state = self.presences[index].state;
        state.is_some().then(|| self.states[state.0 as usize].as_bytes())
    }

    /// Sends a presence message to the watchers of a room, on whatever shard.
    fn tell_watchers(&mut self, now: Now, index: HomeIndex, json: &[u8]) {
        self.stats.presence_diffs += 1;
        let frame = self.text_frame(json);
        for place in 0..self.homes[index.0 as usize].shards.len() {
            let members = self.homes[index.0 as usize].shards[place];
            if members.watchers == 0 {
                continue;
            }
            if members.shard == self.id {
                self.out.frames.hold(frame);
                self.fan_out_presence(members.local, frame);
            } else {
                let frame = self.out.frames.share(frame);
                self.emit(now, members.shard, Consequence::Presence { local: members.local, frame });
            }
        }
        self.release_frame(frame);
    }

    /// Writes one page of a room's members from `start` on; returns the cursor of the next.
    pub(crate) fn write_page(&self, json: &mut Vec<u8>, start: PresenceIndex, limit: u32) -> Option<u64> {
        let mut writer = MemberWriter::new(json);
        let mut index = start;
        let mut user = None;
        let mut count = 0;
        while index.is_some() {
            let presence = self.presences[index];
            let mark = writer.mark();
            if presence.user.is_none() || user != Some(presence.user) {
                let anonymous = anonymous_name(presence.session());
                writer.user(self.users.name(presence.user).map_or(&anonymous[..], str::as_bytes));
                user = Some(presence.user);
            }
            writer.connection(presence.session().0, self.state_of(index));
            if count > 0 && (writer.bytes() > PRESENCE_PAGE_BYTES_MAX || count >= limit) {
                writer.rollback(mark);
                writer.finish();
                if is_planted(Bug::PageSkipsMember) && presence.next.is_some() {
                    return Some(self.cursor_of(presence.next));
                }
                return Some(self.cursor_of(index));
            }
            count += 1;
            index = presence.next;
        }
        writer.finish();
        None
    }

    /// The cursor of a page that begins with this presence.
    fn cursor_of(&self, index: PresenceIndex) -> u64 {
        let [high, middle, low] = self.presences[index].stamp;
        u64::from(u32::from_be_bytes([0, high, middle, low])) << 32 | u64::from(index.0)
    }

    /// The presence that a cursor means, if it is still in the room.
    fn resolve_cursor(&self, room: HomeIndex, cursor: u64) -> Option<PresenceIndex> {
        let index = PresenceIndex(cursor as u32);
        let presence = self.presences.get(index)?;
        (presence.room == room && self.cursor_of(index) == cursor).then_some(index)
    }

    /// Answers the question who is in a room.
    pub(crate) fn take_question(&mut self, now: Now, ask: &Ask<'_>, id: &str, cursor: Option<u64>, limit: u32) {
        let id = (!id.is_empty()).then_some(id);
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        let start = match self.presence_of(ask) {
            None => Err(ErrorCode::NotJoined),
            Some(presence) => {
                let room = self.presences[presence].room;
                let start = match cursor {
                    None => Some(self.homes[room.0 as usize].first),
                    Some(cursor) => self.resolve_cursor(room, cursor),
                };
                start.map(|start| (room, start)).ok_or(ErrorCode::BadCursor)
            }
        };
        match start {
            Err(code) => encode::write_error(&mut json, &ErrorFrame { id, ..ErrorFrame::new(code) }),
            Ok((room, start)) => {
                let mut page = std::mem::take(&mut self.page);
                page.clear();
                self.note_shown(room);
                let cursor = self.write_page(&mut page, start, limit.max(1)).map(id64);
                let home = &self.homes[room.0 as usize];
                let members = Members::Page { members: &page, cursor: cursor.as_ref().map(|cursor| &cursor[..]) };
                let presence = PresenceFrame { version: home.version, members };
                encode::write_presence_state(&mut json, home.id.as_bytes(), id.map(str::as_bytes), home.epoch, &presence);
                self.page = page;
            }
        }
        self.answer(now, ask, json);
    }
}

/// The number that a cursor's text means.
pub(crate) fn read_cursor(text: &str) -> Option<u64> {
    read_id64(text.as_bytes())
}
