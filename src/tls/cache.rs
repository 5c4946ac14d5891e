//! The expanded keys of connections that are in use: bounded, one a shard.
//!
//! An open connection keeps what a key is made from, in [`Records`](super::Records); expanding it for each record would cost more than
//! the record. So the last used ones are kept expanded. A key is found by the place that the connection remembers and is trusted only
//! if its iv is the connection's: iv and key come from one secret, so no key of another connection, of an earlier generation or of the
//! other direction passes for it, whatever place is remembered, and a connection may move to another thread without a word.
//!
//! Replaced by a clock with a hand: a key that was used since the hand passed gets a second round, so one sweep over many connections
//! does not drive out those that are busy. aws-lc zeroizes an expanded key when it frees it.

/// Places of a cache at most: what a connection remembers in 16 bits.
pub const KEY_CACHE_PLACES_MAX: usize = u16::MAX as usize;

/// Expanded keys of one shard. An expanded key takes about 600 bytes, a place without one 32.
pub struct KeyCache {
    places: Vec<()>,
}

impl KeyCache {
    /// A cache of so many places, two for each connection that is to be kept hot. With none every record expands its key.
    ///
    /// # Panics
    /// If there are more places than [`KEY_CACHE_PLACES_MAX`].
    pub fn new(places: usize) -> KeyCache {
        assert!(places <= KEY_CACHE_PLACES_MAX, "{places} places are more than can be named");
        KeyCache { places: Vec::with_capacity(places) }
    }

    /// Keys that are held expanded.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}
