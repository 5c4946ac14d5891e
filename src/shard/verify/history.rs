//! What rooms keep: both lists from both sides, keys, bounds, and what is charged.

use super::super::arena::{HomeIndex, PublicationIndex};
use super::super::history::{PUBLICATION_BYTES, RoomHistory};
use super::super::home::HomeRoom;
use super::super::stats::MemoryUse;
use super::{Marks, Shard, check, holds, same};
use crate::limits::HISTORY_KEYS_MAX;
use crate::time::Millis;

impl Shard {
    pub(super) fn verify_history(&self) -> Result<(), String> {
        let history = &self.history;
        let mut met = Marks::new(history.publications.capacity());
        let (mut count, mut bytes, mut keys) = (0, 0, 0);
        let (mut older, mut at, mut since) = (PublicationIndex::NONE, history.oldest, Millis(0));
        while at.is_some() {
            let publication = history.publications.get(at.0 as usize).filter(|publication| publication.older == older);
            let Some(publication) = publication.filter(|_| met.mark(at.0 as usize)) else {
                return Err("the publications of the shard are not the same both ways".into());
            };
            check(publication.at >= since, || "a publication stands behind one that came later".into())?;
            since = publication.at;
            count += 1;
            bytes += PUBLICATION_BYTES + self.out.frames.frames[publication.frame.0 as usize].charged as usize;
            (older, at) = (at, publication.newer);
        }
        check(history.newest == older, || "the publications of the shard do not end where they are said to".into())?;
        same(format_args!("publications in the list"), history.publications.len(), count)?;
        same(format_args!("publications kept"), self.stats.history_publications as usize, count)?;
        self.verify_account(MemoryUse::History, bytes)?;
        check(bytes as u64 <= history.bytes_max, || format!("{bytes} bytes are kept of {}", history.bytes_max))?;
        let mut left = count;
        for (index, room) in &self.homes {
            let verdict = self.verify_room_history(HomeIndex(index as u32), room);
            let (of_room, keyed) = verdict.map_err(|what| format!("history of {}: {what}", room.id))?;
            left = left.saturating_sub(of_room);
            keys += keyed;
        }
        same(format_args!("publications of rooms"), count, count - left)?;
        same(format_args!("publications that are found by their key"), history.keys.len(), keys)
    }

    /// Walks what a room keeps; returns how many publications that are, and how many of them are found by a key.
    fn verify_room_history(&self, index: HomeIndex, room: &HomeRoom) -> Result<(usize, usize), &'static str> {
        let RoomHistory { oldest, newest, count, keys, bytes, lost, .. } = room.history;
        let factor = room.history.factor();
        let (mut met, mut keyed, mut length, mut offset) = (0, 0, 0, lost);
        let (mut older, mut at) = (PublicationIndex::NONE, oldest);
        while at.is_some() {
            let publication = self.history.publications.get(at.0 as usize).ok_or("it leads to a publication that is gone")?;
            let is_own = publication.room == index && publication.older_in_room == older && met < count as usize;
            holds(is_own, "it is not the same both ways, or leads into another's")?;
            holds(publication.offset > offset, "a publication stands behind a later one, or below what was lost")?;
            offset = publication.offset;
            length += self.out.frames.length(publication.frame);
            if !publication.key.is_empty() {
                keyed += 1;
                let is_found = self.history.keys.iter().filter(|other| self.key_of(**other) == self.key_of(at));
                let same_key = is_found.filter(|other| self.history.publications[other.0 as usize].room == index).count();
                holds(same_key == 1, "a key is found twice, or not at all")?;
            }
            met += 1;
            (older, at) = (at, publication.newer_in_room);
        }
        holds(newest == older, "it does not end where it is said to")?;
        holds(
            met == count as usize && met <= self.limits.history_publications_max * factor,
            "it keeps other publications than are counted",
        )?;
        holds(
            length == bytes && bytes <= self.limits.history_bytes_max * factor,
            "it keeps other bytes than are counted, or too many",
        )?;
        holds(keyed == keys && keys <= HISTORY_KEYS_MAX, "it has other keys than are counted, or too many")?;
        holds(offset <= room.offset, "it keeps a publication that has not been")?;
        Ok((met, keyed as usize))
    }
}
