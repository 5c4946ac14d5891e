//! Rooms with members here: their member lists, and the passes over them.

use super::super::arena::LocalIndex;
use super::super::local::{LocalRoom, TOMBSTONE};
use super::super::stats::MemoryUse;
use super::{Marks, Shard, check, holds, same};
use crate::limits::PASSES_MAX;

impl Shard {
    pub(super) fn verify_rooms(&self) -> Result<(), String> {
        let mut references = vec![0u32; self.locals.capacity()];
        for (index, membership) in self.memberships.iter() {
            let room = membership.room.0 as usize;
            check(self.locals.contains(room), || format!("membership {}: its room is not there", index.0))?;
            references[room] += 1;
        }
        let mut active = Marks::new(self.locals.capacity());
        for index in &self.active_rooms {
            active.mark(index.0 as usize);
        }
        let (mut passes, mut charged) = (0, self.membership_bytes());
        for (index, room) in &self.locals {
            let verdict = self.verify_room(LocalIndex(index as u32), room).and_then(|()| {
                holds(room.references == references[index], "other memberships name it than are counted")?;
                holds(!room.active || active.has(index), "it has passes, and nothing goes on with them")
            });
            verdict.map_err(|what| format!("room {}: {what}", room.id))?;
            passes += room.passes.len();
            charged += room.charged;
        }
        same(format_args!("rooms that are found by their id"), self.locals_by_id.len(), self.locals.len())?;
        same(format_args!("rooms with members"), self.stats.rooms_local as usize, self.locals.len())?;
        same(format_args!("passes"), self.passes, passes)?;
        check(passes <= PASSES_MAX, || format!("{passes} passes are under way"))?;
        charged += self.homes.iter().map(|(_, room)| room.charged).sum::<usize>();
        self.verify_account(MemoryUse::Rooms, charged)
    }

    fn verify_room(&self, index: LocalIndex, room: &LocalRoom) -> Result<(), &'static str> {
        holds(room.references > 0, "nobody names it, and it is kept")?;
        holds(self.find_local(&room.id) == Some(index), "it is not found by its id")?;
        holds(room.home == self.home_of_room(&room.id), "its home is another shard")?;
        let places = room.members.len();
        let mut tombstones = 0;
        for (place, member) in room.members.iter().enumerate() {
            tombstones += u32::from(member.slot == TOMBSTONE);
            holds(self.is_place_sound(index, place), "somebody is in its list who is not a member, or somewhere else in it")?;
        }
        holds(tombstones == room.tombstones, "other places of its list are empty than are counted")?;
        holds(room.passes.is_empty() != room.active, "it has passes and is not marked so, or the reverse")?;
        holds(tombstones == 0 || room.active, "places of its list are empty, and no pass is under way")?;
        let mut ahead = places as u32;
        for pass in &room.passes {
            holds(pass.cursor <= pass.end && pass.end as usize <= places, "a pass goes beyond its list")?;
            holds(pass.cursor <= ahead, "a pass is ahead of one that began before it")?;
            ahead = pass.cursor;
        }
        let is_charged = room.charged == room.bytes_due() || (places == 0 && room.charged == room.bytes_at_first());
        holds(is_charged, "its bytes are not what is charged")
    }
}
