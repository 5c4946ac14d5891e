//! Users known to a shard: one record for each user that has a session or a presence here, found by name.
//!
//! A session without a name of its own is anonymous: it has no record, and is named `~` and its session id on the wire.

use super::arena::{Arena, Index, UserIndex};
use super::stats::{MemoryUse, Stats};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// Bytes of a name that are kept in the record itself.
const INLINE_BYTES: usize = 22;

#[derive(Debug)]
enum Name {
    Inline { length: u8, bytes: [u8; INLINE_BYTES] },
    Long(Box<str>),
}

#[derive(Debug)]
pub(crate) struct User {
    hash: u32,
    /// Invariant: sessions and presences that name it. At 0 the record is freed.
    references: u32,
    name: Name,
}

/// The table of users.
#[derive(Debug)]
pub(crate) struct Users {
    records: Arena<UserIndex, User>,
    by_name: HashTable<UserIndex>,
    hasher: FixedState,
}

impl Users {
    pub(crate) fn with_capacity(capacity: usize, hasher: FixedState) -> Self {
        Users { records: Arena::with_capacity(capacity), by_name: HashTable::with_capacity(capacity), hasher }
    }

    pub(crate) const fn record_bytes() -> usize {
        Arena::<UserIndex, User>::record_bytes()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The user of this name, with one more reference; `None` if there is no place for a new one.
    pub(crate) fn intern(&mut self, stats: &mut Stats, name: &str) -> Option<UserIndex> {
        let hash = self.hasher.hash_one(name.as_bytes());
        if let Some(index) = self.by_name.find(hash, |&index| self.records[index].name() == name).copied() {
            self.records[index].references += 1;
            return Some(index);
        }
        let index = self.records.insert(User { hash: hash as u32, references: 1, name: Name::of(name) })?;
        if name.len() > INLINE_BYTES {
            stats.charge(MemoryUse::Ids, name.len());
        }
        let (records, hasher) = (&self.records, &self.hasher);
        self.by_name.insert_unique(hash, index, |&other| hasher.hash_one(records[other].name().as_bytes()));
        Some(index)
    }

    pub(crate) fn hold(&mut self, user: UserIndex) {
        if user.is_some() {
            self.records[user].references += 1;
        }
    }

    pub(crate) fn release(&mut self, stats: &mut Stats, user: UserIndex) {
        if user.is_none() {
            return;
        }
        let record = &mut self.records[user];
        record.references -= 1;
        if record.references > 0 {
            return;
        }
        let hash = self.hasher.hash_one(record.name().as_bytes());
        debug_assert_eq!(hash as u32, record.hash);
        if let Ok(entry) = self.by_name.find_entry(hash, |&other| other == user) {
            entry.remove();
        }
        let gone = self.records.remove(user);
        if let Name::Long(name) = &gone.name {
            stats.release(MemoryUse::Ids, name.len());
        }
    }

    /// Whether each user is named as often as `named` says of its place, found by its name, and its name charged; says what is wrong.
    pub(crate) fn verify(&self, named: &[u32], charged: u64) -> Result<(), String> {
        self.records.verify().map_err(|what| format!("users: {what}"))?;
        let mut bytes = 0;
        for (index, user) in self.records.iter() {
            let held = named.get(index.at()).copied().unwrap_or(0);
            if user.references != held {
                return Err(format!("user {} is named {held} times and counts {}", user.name(), user.references));
            }
            let hash = self.hasher.hash_one(user.name().as_bytes());
            if self.by_name.find(hash, |&other| other == index).is_none() {
                return Err(format!("user {} is not found by its name", user.name()));
            }
            if let Name::Long(name) = &user.name {
                bytes += name.len() as u64;
            }
        }
        if self.by_name.len() != self.records.len() {
            return Err("names lead to users that are not there".into());
        }
        match bytes == charged {
            true => Ok(()),
            false => Err(format!("long names take {bytes} bytes, and {charged} are charged")),
        }
    }

    /// One more than the highest index ever used.
    pub(crate) fn extent(&self) -> usize {
        self.records.extent()
    }

    /// The name of a user; `None` for an anonymous session.
    pub(crate) fn name(&self, user: UserIndex) -> Option<&str> {
        user.is_some().then(|| self.records[user].name())
    }
}

impl User {
    fn name(&self) -> &str {
        match &self.name {
            Name::Inline { length, bytes } => {
                std::str::from_utf8(&bytes[..usize::from(*length)]).expect("a name is kept as the text that it was")
            }
            Name::Long(name) => name,
        }
    }
}

impl Name {
    fn of(name: &str) -> Name {
        if name.len() > INLINE_BYTES {
            return Name::Long(name.into());
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Name::Inline { length: name.len() as u8, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_one_record_for_as_long_as_it_is_named() {
        let (mut users, mut stats) = (Users::with_capacity(8, FixedState::with_seed(1)), Stats::default());
        let long = "n".repeat(100);
        let a = users.intern(&mut stats, "alice").expect("room");
        let b = users.intern(&mut stats, &long).expect("room");
        assert_eq!(users.intern(&mut stats, "alice"), Some(a));
        assert_eq!(users.name(b), Some(long.as_str()));
        assert_eq!(stats.memory_bytes_held(), 100);
        users.release(&mut stats, a);
        users.release(&mut stats, b);
        assert_eq!((users.len(), stats.memory_bytes_held()), (1, 0));
        users.release(&mut stats, a);
        assert_eq!(users.len(), 0);
    }

    #[test]
    fn a_record_is_no_larger_than_planned() {
        assert_eq!(Users::record_bytes(), 32);
    }
}
