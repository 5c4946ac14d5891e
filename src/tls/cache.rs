//! The expanded keys of connections that are in use: bounded, one a shard.
//!
//! An open connection keeps what a key is made from, in [`Records`](super::Records); expanding it for each record would cost more than
//! sealing a short one. So the keys that were used last are kept expanded. A key is found by the place that the connection remembers, and
//! is taken only if its iv is the connection's: key and iv come from one secret, so no key of another connection, of an earlier
//! generation or of the other direction passes for it, whatever place is remembered; and a connection may move to another
//! thread without a word.
//!
//! Places are given anew by a clock with a hand: a key that was used since the hand passed gets another round, so that one sweep over
//! many connections does not drive out those that are busy. aws-lc zeroizes an expanded key when it frees it.

use super::keys::IV_BYTES;
use aws_lc_rs::aead::LessSafeKey;
use zeroize::Zeroizing;

/// Places of a cache at most: what a connection remembers in 16 bits. The last number means none.
pub const KEY_CACHE_PLACES_MAX: usize = u16::MAX as usize;
/// Places that the hand passes in search of one that was not used. Beyond: the next is taken, used or not.
const STEPS_MAX: usize = 16;

/// Where a connection's key was last. Right or wrong, it is only where to look first.
#[derive(Clone, Copy)]
pub(super) struct Place(u16);

impl Place {
    pub(super) const NONE: Place = Place(u16::MAX);
}

/// Expanded keys of one shard: 640 bytes each, allocated by aws-lc, and 40 for a place without one.
pub struct KeyCache {
    places: Vec<Option<Entry>>,
    places_max: usize,
    hand: usize,
    expansions: u64,
}

struct Entry {
    /// Invariant: of the same secret as the key.
    iv: Zeroizing<[u8; IV_BYTES]>,
    key: LessSafeKey,
    is_used: bool,
}

impl KeyCache {
    /// A cache of so many places, two for each connection that is to be kept hot. Nothing is allocated for a place before it is used.
    ///
    /// # Panics
    /// If there is no place, or there are more than [`KEY_CACHE_PLACES_MAX`].
    pub fn new(places_max: usize) -> KeyCache {
        assert!((1..=KEY_CACHE_PLACES_MAX).contains(&places_max), "a cache can't have {places_max} places");
        KeyCache { places: Vec::new(), places_max, hand: 0, expansions: 0 }
    }

    /// Keys that are held.
    pub fn len(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys that were expanded so far, because they were not held. Beside the count of records it says whether there are enough places.
    pub fn expansions(&self) -> u64 {
        self.expansions
    }

    /// The key of that iv, which is expanded if it is not held.
    pub(super) fn key(&mut self, place: &mut Place, iv: &[u8; IV_BYTES], expand: impl FnOnce() -> LessSafeKey) -> &LessSafeKey {
        if !self.holds(*place, iv) {
            let at = self.vacate();
            self.expansions += 1;
            self.places[at] = Some(Entry { iv: Zeroizing::new(*iv), key: expand(), is_used: false });
            *place = Place(at as u16);
            return &self.places[at].as_ref().expect("it was put there").key;
        }
        let entry = self.places[usize::from(place.0)].as_mut().expect("it is held");
        entry.is_used = true;
        &entry.key
    }

    /// Frees the key of that iv, if it is held.
    pub(super) fn forget(&mut self, place: &mut Place, iv: &[u8; IV_BYTES]) {
        if self.holds(*place, iv) {
            self.places[usize::from(place.0)] = None;
        }
        *place = Place::NONE;
    }

    fn holds(&self, place: Place, iv: &[u8; IV_BYTES]) -> bool {
        self.places.get(usize::from(place.0)).is_some_and(|entry| entry.as_ref().is_some_and(|entry| *entry.iv == *iv))
    }

    /// A place to put a key.
    fn vacate(&mut self) -> usize {
        if self.places.len() < self.places_max {
            self.places.push(None);
            return self.places.len() - 1;
        }
        for _ in 0..STEPS_MAX {
            match &mut self.places[self.hand] {
                Some(entry) if entry.is_used => entry.is_used = false,
                Some(_) | None => break,
            }
            self.hand = (self.hand + 1) % self.places_max;
        }
        let at = self.hand;
        self.hand = (self.hand + 1) % self.places_max;
        at
    }
}
