//! Dense tables of small records, addressed by 32-bit indices.
//!
//! An [`Arena`] reserves its full capacity once and never moves: what is not used is not touched, and freed places are taken
//! again in LIFO order, so that the resident part stays as small as the live part. It knows nothing of what it holds.
//!
//! Invariant: an index is live from `insert` to `remove`; using one outside of that is a bug of the caller, caught by the
//! occupancy check of each access.

use crate::planted::{Bug, is_planted};

/// Which place [`Bug::SlotFreedTwice`] is about: one that some tables use.
const PLACE_FREED_TWICE: usize = 7;

/// A 32-bit index of one kind of record. `NONE` is no record.
pub(crate) trait Index: Copy + Eq {
    fn new(index: usize) -> Self;
    fn at(self) -> usize;
}

macro_rules! index_types {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub(crate) struct $name(pub(crate) u32);
        #[allow(dead_code, reason = "not every index is optional")]
        impl $name {
            pub(crate) const NONE: $name = $name(u32::MAX);
            pub(crate) fn is_none(self) -> bool { self.0 == u32::MAX }
            pub(crate) fn is_some(self) -> bool { self.0 != u32::MAX }
        }
        impl Index for $name {
            fn new(index: usize) -> Self { debug_assert!(index < u32::MAX as usize); $name(index as u32) }
            fn at(self) -> usize { self.0 as usize }
        }
        impl Default for $name { fn default() -> Self { $name::NONE } }
    )*};
}

index_types! {
    /// A session of this shard.
    SessionIndex,
    /// A membership of a session of this shard.
    MembershipIndex,
    /// A room as a shard with members sees it.
    LocalIndex,
    /// A room at its home.
    HomeIndex,
    /// A session in a room, at the room's home.
    PresenceIndex,
    /// A user known to this shard.
    UserIndex,
    /// An encoded frame.
    FrameIndex,
    /// A pending (frame, next) node of this turn.
    NodeIndex,
    /// What is rare about a connection.
    StashIndex,
    /// The sequence window of a session that has something undecided.
    WindowIndex,
    /// What is rare about a session.
    AsideIndex,
    /// The presence state of a session in a room.
    StateIndex,
    /// A publication that a room keeps.
    PublicationIndex,
}

/// A dense table of fixed capacity.
#[derive(Debug)]
pub(crate) struct Arena<I, T> {
    /// Invariant: never longer than the capacity that was reserved, so that it never moves.
    records: Vec<Option<T>>,
    free: Vec<I>,
    capacity: usize,
}

impl<I: Index, T> Arena<I, T> {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Arena { records: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity), capacity }
    }

    /// Bytes of one place.
    pub(crate) const fn record_bytes() -> usize {
        size_of::<Option<T>>()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len() - self.free.len()
    }

    /// One more than the highest index ever used: the bound of a walk.
    pub(crate) fn extent(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// Takes a place; `None` if the arena is full.
    pub(crate) fn insert(&mut self, record: T) -> Option<I> {
        if let Some(index) = self.free.pop() {
            self.records[index.at()] = Some(record);
            return Some(index);
        }
        if self.records.len() >= self.capacity {
            return None;
        }
        self.records.push(Some(record));
        Some(I::new(self.records.len() - 1))
    }

    pub(crate) fn remove(&mut self, index: I) -> T {
        let record = self.records[index.at()].take().expect("removed a record that is not live");
        self.free.push(index);
        if is_planted(Bug::SlotFreedTwice) && index.at() == PLACE_FREED_TWICE {
            self.free.push(index);
        }
        record
    }

    /// The records that are live, with their indices.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.records.iter().enumerate().filter_map(|(index, record)| Some((I::new(index), record.as_ref()?)))
    }

    /// Whether each place is live or free, and none is both or free twice; says what is wrong.
    pub(crate) fn verify(&self) -> Result<(), &'static str> {
        if self.records.len() > self.capacity {
            return Err("there are more places than were reserved");
        }
        let mut is_free = vec![false; self.records.len()];
        for index in &self.free {
            match is_free.get_mut(index.at()) {
                None => return Err("a place is free that is not there"),
                Some(true) => return Err("a place is free twice"),
                Some(mark) => *mark = true,
            }
        }
        match self.records.iter().zip(is_free).all(|(record, is_free)| record.is_none() == is_free) {
            true => Ok(()),
            false => Err("a place is both live and free, or neither"),
        }
    }

    pub(crate) fn get(&self, index: I) -> Option<&T> {
        self.records.get(index.at()).and_then(Option::as_ref)
    }
}

impl<I: Index, T> std::ops::Index<I> for Arena<I, T> {
    type Output = T;
    fn index(&self, index: I) -> &T {
        self.records[index.at()].as_ref().expect("used a record that is not live")
    }
}

impl<I: Index, T> std::ops::IndexMut<I> for Arena<I, T> {
    fn index_mut(&mut self, index: I) -> &mut T {
        self.records[index.at()].as_mut().expect("used a record that is not live")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    #[test]
    fn freed_places_are_taken_again_last_first() {
        let mut arena: Arena<UserIndex, u32> = Arena::with_capacity(3);
        let (a, b) = (arena.insert(1).expect("room"), arena.insert(2).expect("room"));
        arena.remove(a);
        arena.remove(b);
        assert_eq!(arena.insert(3), Some(b));
        assert_eq!(arena.insert(4), Some(a));
        assert_eq!(arena.len(), 2);
    }

    #[test]
    fn a_full_arena_says_so_and_does_not_grow() {
        let mut arena: Arena<UserIndex, u32> = Arena::with_capacity(1);
        assert!(arena.insert(1).is_some());
        assert!(arena.is_full());
        assert!(arena.insert(2).is_none());
        assert_eq!(arena.extent(), 1);
    }

    /// Inserts (`None`) and removals of the n-th live record.
    fn operations() -> impl Strategy<Value = Vec<Option<usize>>> {
        vec(option::of(0..16usize), 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn a_record_stays_what_and_where_it_is_until_it_is_removed(capacity in 0..20usize, operations in operations()) {
            let mut arena: Arena<UserIndex, usize> = Arena::with_capacity(capacity);
            let mut live: Vec<(UserIndex, usize)> = Vec::new();
            for (number, operation) in operations.into_iter().enumerate() {
                match operation {
                    None => {
                        let index = arena.insert(number);
                        prop_assert_eq!(index.is_some(), live.len() < capacity);
                        live.extend(index.map(|index| (index, number)));
                    }
                    Some(nth) if !live.is_empty() => {
                        let (index, number) = live.swap_remove(nth % live.len());
                        prop_assert_eq!(arena.remove(index), number);
                        prop_assert_eq!(arena.get(index), None);
                    }
                    Some(_) => {}
                }
                prop_assert_eq!(arena.len(), live.len());
                for (index, number) in &live {
                    prop_assert_eq!(arena.get(*index), Some(number));
                }
            }
        }

        #[test]
        fn it_extends_no_further_than_the_most_that_lived_at_once(operations in operations()) {
            let mut arena: Arena<UserIndex, ()> = Arena::with_capacity(200);
            let (mut live, mut most) = (Vec::new(), 0);
            for operation in operations {
                match operation {
                    None => live.extend(arena.insert(())),
                    Some(nth) if !live.is_empty() => arena.remove(live.swap_remove(nth % live.len())),
                    Some(_) => {}
                }
                most = most.max(live.len());
                prop_assert_eq!(arena.extent(), most);
            }
        }

        #[test]
        fn what_was_freed_last_is_taken_first(count in 1..20usize, order in vec(any::<usize>(), 1..20)) {
            let mut arena: Arena<UserIndex, ()> = Arena::with_capacity(count);
            let mut live: Vec<UserIndex> = (0..count).filter_map(|_| arena.insert(())).collect();
            let mut freed = Vec::new();
            for choice in order.into_iter().take(count) {
                let index = live.swap_remove(choice % live.len());
                arena.remove(index);
                freed.push(index);
            }
            while let Some(expected) = freed.pop() {
                prop_assert_eq!(arena.insert(()), Some(expected));
            }
            prop_assert_eq!(arena.insert(()), None);
        }
    }

    #[test]
    #[should_panic(expected = "not live")]
    fn a_freed_record_can_not_be_used() {
        let mut arena: Arena<UserIndex, u32> = Arena::with_capacity(1);
        let a = arena.insert(1).expect("room");
        arena.remove(a);
        let _ = arena[a];
    }
}
