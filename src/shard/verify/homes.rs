//! Rooms at their home: who is there by every way of counting, what is still to be told, and the users who are named.

use super::super::arena::{HomeIndex, PresenceIndex, UserIndex};
use super::super::home::{HomeRoom, ShardMembers};
use super::super::local::Stage;
use super::super::presence::{Change, Diff};
use super::super::stats::MemoryUse;
use super::{Marks, Shard, check, holds, same};
use crate::limits::ROOMS_IDLE_MAX;
use crate::time::Millis;

/// What a walk over a room's list has met.
#[derive(Default)]
struct Met {
    members: usize,
    watchers: usize,
    users: usize,
    groups: usize,
}

impl Shard {
    pub(super) fn verify_homes(&self) -> Result<(), String> {
        let mut presences = Marks::new(self.presences.extent());
        let mut queued = Marks::new(self.homes.capacity());
        for (_, room) in self.diffs_fast.iter().chain(&self.diffs_slow) {
            queued.mark(room.0 as usize);
        }
        let (mut members, mut groups) = (0, 0);
        for (place, room) in &self.homes {
            let index = HomeIndex(place as u32);
            let verdict = self.walk_members(index, room, &mut presences).and_then(|met| {
                members += met.members;
                groups += met.groups;
                self.verify_home(index, room, &met)?;
                let Some(diff) = &room.diff else { return Ok(()) };
                holds(queued.has(place), "it has changes to be told, and nothing tells them")?;
                self.verify_diff(index, diff)
            });
            verdict.map_err(|what| format!("home of {}: {what}", room.id))?;
        }
        same(format_args!("rooms that are found by their id at their home"), self.homes_by_id.len(), self.homes.len())?;
        same(format_args!("rooms at their home"), self.stats.rooms_home as usize, self.homes.len())?;
        same(format_args!("presences in rooms"), self.presences.len(), members)?;
        same(format_args!("users in rooms"), self.groups.len(), groups)
    }

    /// Walks a room's presences, which name each other both ways and stand together by user.
    fn walk_members(&self, index: HomeIndex, room: &HomeRoom, marks: &mut Marks) -> Result<Met, &'static str> {
        let mut met = Met::default();
        let (mut previous, mut user, mut at) = (PresenceIndex::NONE, UserIndex::NONE, room.first);
        while at.is_some() {
            let presence = self.presences.get(at).ok_or("its list leads to nobody")?;
            holds(marks.mark(at.0 as usize), "its list leads in a circle, or into another's")?;
            holds(presence.room == index && presence.previous == previous, "its list is not the same both ways")?;
            met.members += 1;
            met.watchers += usize::from(presence.watches);
            if presence.user.is_none() {
                met.users += 1;
            } else if presence.user != user {
                met.users += 1;
                met.groups += 1;
                holds(self.group(index, presence.user) == Some(at), "a user's presences do not stand together")?;
            }
            (previous, user, at) = (at, presence.user, presence.next);
        }
        holds(room.last == previous, "its list does not end where it is said to")?;
        Ok(met)
    }

    fn verify_home(&self, index: HomeIndex, room: &HomeRoom, met: &Met) -> Result<(), &'static str> {
        let hash = self.hash(&room.id);
        holds(self.homes_by_id.find(hash, |&other| other == index).is_some(), "it is not found by its id")?;
        holds(self.home_of(hash) == self.id, "its home is another shard")?;
        holds(room.charged == size_of::<HomeRoom>() + room.id.len(), "its bytes are not what is charged")?;
        holds(room.members as usize == met.members, "other members are counted than are there")?;
        holds(room.watchers as usize == met.watchers, "other watchers are counted than are there")?;
        holds(room.users as usize == met.users, "other users are counted than are there")?;
        holds(met.members <= self.limits.members_per_room_max, "it has more members than it may have")?;
        let is_large = met.members > self.limits.presence_members_max;
        holds(room.counts_only == is_large || met.members == 0, "it has a list and should have counts, or the reverse")?;
        holds(room.watchers > 0 || room.diff.is_none(), "it keeps changes for nobody")?;
        let sum = |of: fn(&ShardMembers) -> u32| room.shards.iter().map(|members| of(members) as usize).sum::<usize>();
        holds(sum(|members| members.members) == met.members, "its shards have other members than it has")?;
        holds(sum(|members| members.watchers) == met.watchers, "its shards have other watchers than it has")?;
        for members in &room.shards {
            let (mut count, mut at) = (0, room.first);
            while at.is_some() {
                let presence = &self.presences[at];
                count += u32::from(presence.session().shard() == members.shard);
                at = presence.next;
            }
            holds(count == members.members && count > 0, "a shard has other members than are counted for it")?;
        }
        Ok(())
    }

    /// What is noted of a change can be told.
    fn verify_diff(&self, index: HomeIndex, diff: &Diff) -> Result<(), &'static str> {
        holds(!diff.partial || diff.entries.is_empty(), "it notes changes that will not be told")?;
        holds(diff.by_session.len() == diff.entries.len(), "other changes are noted than are found by session")?;
        for (place, entry) in diff.entries.iter().enumerate() {
            holds(diff.find(entry.session) == Some(place), "a change is not found by its session")?;
            let is_there = self.presences.get(entry.presence).is_some_and(|presence| {
                presence.room == index && presence.session() == entry.session && presence.user == entry.user
            });
            match entry.change {
                Change::Joined | Change::Updated => holds(is_there, "somebody is to be told of who is not there")?,
                Change::Left => holds(!is_there, "somebody is to be told gone who is there")?,
                Change::Nothing => {}
            }
        }
        Ok(())
    }

    /// Rooms without members stand once in the list of their times.
    pub(super) fn verify_idle_homes(&self) -> Result<(), String> {
        let mut idle = Marks::new(self.homes.capacity());
        let (mut count, mut previous, mut at, mut since) = (0, HomeIndex::NONE, self.idle_first, Millis(0));
        while at.is_some() {
            let room = self.homes.get(at.0 as usize).filter(|room| room.members == 0 && room.idle_previous == previous);
            let Some(room) = room.filter(|_| idle.mark(at.0 as usize)) else {
                return Err("the list of idle rooms leads to one that is not, or in a circle".into());
            };
            check(room.idle_since >= since, || format!("idle room {} is before one that has been so for longer", room.id))?;
            count += 1;
            since = room.idle_since;
            (previous, at) = (at, room.idle_next);
        }
        check(self.idle_last == previous, || "the list of idle rooms does not end where it is said to".into())?;
        same(format_args!("idle rooms in the list"), self.homes.iter().filter(|(_, room)| room.members == 0).count(), count)?;
        same(format_args!("idle rooms"), self.stats.rooms_idle as usize, count)?;
        check(count <= ROOMS_IDLE_MAX, || format!("{count} idle rooms are kept"))
    }

    /// Every state is one presence's; presences of sessions here and memberships here name each other.
    pub(super) fn verify_presences(&self) -> Result<(), String> {
        let mut states = Marks::new(self.states.capacity());
        let (mut count, mut bytes, mut own) = (0, 0, 0);
        for (index, presence) in self.presences.iter() {
            own += usize::from(presence.session().shard() == self.id);
            if presence.state.is_none() {
                continue;
            }
            let state = self.states.get(presence.state.0 as usize).filter(|_| states.mark(presence.state.0 as usize));
            let Some(state) = state else { return Err(format!("presence {}: its state is not there, or another's", index.0)) };
            check(state.len() <= self.limits.presence_state_bytes_max, || format!("presence {}: its state is too large", index.0))?;
            count += 1;
            bytes += state.len();
        }
        same(format_args!("presence states"), self.states.len(), count)?;
        for (index, state) in &self.dormant_states {
            let is_away = |stage| matches!(stage, Stage::Dormant | Stage::Joining | Stage::Abandoned);
            let is_kept = self.memberships.get(*index).is_some_and(|membership| is_away(membership.stage));
            check(is_kept, || format!("membership {}: a state is kept for it, and it is in its room", index.0))?;
            bytes += state.len();
        }
        self.verify_account(MemoryUse::PresenceState, bytes)?;
        let mut members = 0;
        for (index, membership) in self.memberships.iter() {
            let room = &self.locals[membership.room.0 as usize];
            if room.home != self.id || matches!(membership.stage, Stage::Joining | Stage::Abandoned | Stage::Dormant) {
                continue;
            }
            members += 1;
            let session = self.session_id(membership.session);
            let presence = self.presences.get(membership.presence);
            let is_there = presence.is_some_and(|presence| presence.session() == session && presence.room == room.home_room);
            check(is_there, || format!("membership {}: the home here does not know it", index.0))?;
        }
        // What a home here was asked is decided at once, so nothing is between the two.
        same(format_args!("presences of sessions here"), own, members)
    }

    /// Users are named by sessions, presences and changes, as often as they count.
    pub(super) fn verify_users(&self) -> Result<(), String> {
        let mut named = vec![0u32; self.users.extent()];
        let mut name = |user: UserIndex| {
            if let Some(count) = named.get_mut(user.0 as usize) {
                *count += 1;
            }
        };
        self.sessions.iter().for_each(|(_, session)| name(session.user));
        self.presences.iter().for_each(|(_, presence)| name(presence.user));
        for diff in self.homes.iter().filter_map(|(_, room)| room.diff.as_ref()) {
            diff.entries.iter().for_each(|entry| name(entry.user));
        }
        self.users.verify(&named, self.stats.memory_bytes[MemoryUse::Ids as usize])
    }
}
