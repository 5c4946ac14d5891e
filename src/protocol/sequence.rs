//! The order of a session's commands: PROTOCOL §3, "the life of a sequenced command".
//!
//! It decides, for each `seq`, whether its command has its turn, came before, or must wait; it keeps early commands within bounds,
//! and works out what may be acknowledged. It does not know what a command says, who decides it, or what frames are sent.
//!
//! A session at rest keeps one number, `acked`: all commands up to it are decided. [`judge`] serves it. While anything is undecided
//! or waits, the session also has a [`Window`], which the shard takes from a pool:
//! ```text
//!   1 … acked | decided or not, at most WINDOW | expected | kept early, REORDER_COMMANDS_MAX at most …
//!             └── `decided` map                └── next to be dispatched
//! ```
//! Life of a command: [`Window::offer`] says `Execute`; the caller either dispatches it ([`Window::dispatched`], later
//! [`Window::decided`]) or refuses it for now ([`Window::refused`]), and then drains [`Window::next_ready`] until it yields nothing.
//! At the end of a batch of input [`Window::poll_nack`] tells whether a gap has opened that the client was not told of.
//!
//! In the plain dialect numbering begins at the first `seq` that a connection brings: its `acked` begins at that number less one.
//! A plain client cannot send again, so its gaps are given up where those of `throng.v1` are reported: see [`Offer::Skipped`].
//!
//! Invariants: `acked < expected`; `expected - acked - 1 <= WINDOW`; every kept `seq` is at least `expected`; memory is bounded by
//! [`REORDER_BYTES_MAX`] and [`REORDER_COMMANDS_MAX`] whatever the numbers are; once its buffers have grown, a window allocates nothing.

use super::Dialect;
use crate::limits::{INTEGER_MAX, REORDER_BYTES_MAX, REORDER_COMMANDS_MAX, REORDER_FAILURES_MAX, WINDOW};
use crate::planted::{Bug, is_planted};
use crate::time::Millis;

/// What a `seq` means to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is this command's turn.
    Execute,
    /// The number was used before.
    Duplicate,
    /// An earlier command is missing: the session needs a [`Window`].
    Early,
}

/// Judges a `seq` of a session that has no [`Window`].
#[inline]
pub fn judge(acked: u64, seq: u64) -> Verdict {
    match seq.checked_sub(acked) {
        None | Some(0) => Verdict::Duplicate,
        Some(1) => Verdict::Execute,
        Some(_) => Verdict::Early,
    }
}

/// What became of an offered command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is its turn: dispatch or refuse it.
    Execute,
    /// The number was used before, or its command waits already. Nothing was changed.
    Duplicate,
    /// It is kept until its turn comes.
    Kept,
    /// `throng.v1`: a bound was reached, and this command and all that were kept are dropped. `nack` with these.
    Freed {
        /// The client must send again from here.
        expected: u64,
        /// The number that was too much.
        received: u64,
    },
    /// `throng.v1`: as `Freed`, and too often at this `expected`: close with 4203.
    Insufficient,
    /// Plain: a bound was reached, and these missing numbers are given up. Say so (`seq_skipped`), drain
    /// [`Window::next_ready`], then offer the same command again; after at most [`REORDER_COMMANDS_MAX`] more it finds a place.
    Skipped {
        /// The first number given up.
        from: u64,
        /// The first number after them.
        to_exclusive: u64,
    },
    /// [`WINDOW`] commands are undecided (or a kept command that has its turn was not drained), and nothing was changed. The caller
    /// should not have read so far: it stops reading while [`Window::has_room`] is false, then drains, then offers this again.
    WindowFull,
}

/// What became of a gap whose time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// Nothing is due.
    Nothing,
    /// `throng.v1`: what was kept is dropped. `nack` with these.
    Freed {
        /// The client must send again from here.
        expected: u64,
        /// The first number that had been kept.
        received: u64,
    },
    /// `throng.v1`: as `Freed`, and too often at this `expected`: close with 4203.
    Insufficient,
    /// Plain: these missing numbers are given up. Say so (`seq_skipped`), and drain [`Window::next_ready`].
    Skipped {
        /// The first number given up.
        from: u64,
        /// The first number after them.
        to_exclusive: u64,
    },
}

/// The commands of a session that are undecided or early.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// All numbers up to it are decided (plain: or given up, or counted in `stray`).
    acked: u64,
    /// The next number to be dispatched.
    expected: u64,
    /// Bit `n`: `acked + 1 + n` is decided. Bit 0 is never set.
    decided: u64,
    /// Plain: undecided commands from before numbers that were given up. Their own numbers are below `acked` now.
    stray: u32,
    /// Times that what was kept had to be dropped at this `expected`.
    failures: u8,
    /// The client knows that `expected` is missing.
    nacked: bool,
    /// No kept command counts as older than this: the end of the last pause in reading.
    floor: Millis,
    /// `expected` was refused for now, and is awaited from this moment on.
    refused_until: Option<Millis>,
    early: Early,
}

impl Window {
    /// A window for a session of which all up to `acked` is decided.
    pub fn new(acked: u64) -> Self {
        let mut window = Window::default();
        window.start(acked);
        window
    }

    /// Forgets everything, keeps the buffers, and begins anew for a session of which all up to `acked` is decided.
    ///
    /// # Panics
    /// If `acked` is above [`INTEGER_MAX`].
    pub fn start(&mut self, acked: u64) {
        assert!(acked <= INTEGER_MAX, "a seq is at most 2^53 - 1");
        let mut early = std::mem::take(&mut self.early);
        early.clear();
        *self = Window { acked, expected: acked + 1, early, ..Window::default() };
    }

    /// Judges a command and, if it is early, keeps its text `raw`. `seq` is 1 to [`INTEGER_MAX`].
    pub fn offer(&mut self, dialect: Dialect, seq: u64, raw: &[u8], now: Millis) -> Offer {
        if seq < self.expected || self.early.contains(seq) {
            return Offer::Duplicate;
        }
        if !self.has_room() {
            return Offer::WindowFull;
        }
        if seq == self.expected {
            return Offer::Execute;
        }
        if self.early.keep(seq, raw, now) {
            return Offer::Kept;
        }
        if self.early.first() == Some(self.expected) {
            return Offer::WindowFull;
        }
        match dialect {
            Dialect::V1 => match self.fail() {
                true => Offer::Insufficient,
                false => Offer::Freed { expected: self.expected, received: seq },
            },
            Dialect::Plain => {
                let to_exclusive = self.early.first().map_or(seq, |first| first.min(seq));
                let from = self.skip_to(to_exclusive);
                Offer::Skipped { from, to_exclusive }
            }
        }
    }

    /// The number that is next to be dispatched: `expectedSeq` on the wire.
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// All up to this number are decided.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The command `seq`, which had its turn, was dispatched: its number is consumed.
    ///
    /// # Panics
    /// If `seq` is not [`expected`](Self::expected), or the window is full.
    pub fn dispatched(&mut self, seq: u64) {
        assert!(seq == self.expected && self.has_room(), "only a command that has its turn is dispatched");
        self.expect(seq + 1);
    }

    /// The command that has its turn was refused for now, and its client told to send it again after `retry_after_ms`. Later ones
    /// wait meanwhile; their time begins with the end of the delay.
    pub fn refused(&mut self, now: Millis, retry_after_ms: u64) {
        self.refused_until = Some(now.after(retry_after_ms));
        self.nacked = true;
    }

    /// The command `seq` is decided, by success or by a final error. Returns the new `acked`, for the session to keep.
    ///
    /// # Panics
    /// If `seq` was not dispatched, or was decided before.
    pub fn decided(&mut self, seq: u64) -> u64 {
        assert!(seq < self.expected, "only what was dispatched is decided");
        if seq <= self.acked {
            self.stray = self.stray.checked_sub(1).expect("a command is decided once");
            return self.acked;
        }
        let bit = 1u64 << (seq - self.acked - 1);
        assert!(self.decided & bit == 0, "a command is decided once");
        self.decided |= bit;
        let prefix = self.decided.trailing_ones();
        self.decided = self.decided.checked_shr(prefix).unwrap_or(0);
        self.acked += u64::from(prefix);
        if is_planted(Bug::AckBeforeDecided) { self.acked.max(seq) } else { self.acked }
    }

    /// Commands that were dispatched and are not decided. At most [`WINDOW`].
    pub fn undecided(&self) -> u32 {
        self.span() - self.decided.count_ones() + self.stray
    }

    /// Whether another command may be dispatched. While not, the caller reads nothing from the connection.
    ///
    /// What counts are the numbers from the oldest undecided one on: the same that a client counts, who knows only `ack`.
    pub fn has_room(&self) -> bool {
        self.span() + self.stray < WINDOW
    }

    /// Takes out the kept command that has its turn: puts its text in place of what `into` held, and returns its number. The caller
    /// dispatches or refuses it, as after [`Offer::Execute`]. `None` if it is nobody's turn or the window is full.
    pub fn next_ready(&mut self, into: &mut Vec<u8>) -> Option<u64> {
        let next = self.expected + u64::from(is_planted(Bug::ReorderOffByOne));
        let is_next = self.early.first().is_some_and(|first| first >= self.expected && first <= next);
        if !is_next || !self.has_room() {
            return None;
        }
        self.early.take_first(into);
        Some(self.expected)
    }

    /// The `expectedSeq` and `received` of a `nack` that is due: a gap is open of which the client was not told. Once a gap.
    ///
    /// To be asked at the end of a batch of input, so that what is merely out of order within it is no gap. A full window has
    /// no gap, because what is missing may be among what was not read yet.
    pub fn poll_nack(&mut self) -> Option<(u64, u64)> {
        let first = self.early.first()?;
        if self.nacked || first == self.expected || !self.has_room() {
            return None;
        }
        self.nacked = true;
        Some((self.expected, first))
    }

    /// The connection is gone: what was kept is dropped, because its client sends again what was not dispatched, and what was counted
    /// against that connection is forgotten.
    pub fn disconnected(&mut self) {
        self.early.free();
        self.failures = 0;
        self.nacked = false;
        self.refused_until = None;
    }

    /// Reading went on after a pause: what is missing had no chance to arrive before `now`, so ages count from it.
    pub fn resumed(&mut self, now: Millis) {
        self.floor = self.floor.max(now);
    }

    /// When [`expire`](Self::expire) has something to do, if nothing comes before. `age_ms`: how long a command may wait.
    pub fn deadline(&self, age_ms: u64) -> Option<Millis> {
        if !self.has_room() {
            return None;
        }
        let since = self.early.oldest().map(|oldest| oldest.max(self.floor)).max(self.refused_until);
        since.map(|since| since.after(age_ms))
    }

    /// Ends a gap whose time has run out. Not to be called while the connection's reading is paused.
    pub fn expire(&mut self, dialect: Dialect, now: Millis, age_ms: u64) -> Expired {
        if self.deadline(age_ms).is_none_or(|deadline| now < deadline) {
            return Expired::Nothing;
        }
        let Some(received) = self.early.first() else {
            // The client was given its time to send the refused command again; a later gap is reported as any other.
            self.refused_until = None;
            self.nacked = false;
            return Expired::Nothing;
        };
        if received == self.expected {
            // It has its turn and only was not drained yet.
            return Expired::Nothing;
        }
        match dialect {
            Dialect::V1 => match self.fail() {
                true => Expired::Insufficient,
                false => Expired::Freed { expected: self.expected, received },
            },
            Dialect::Plain => Expired::Skipped { from: self.skip_to(received), to_exclusive: received },
        }
    }

    /// Whether the session can do without a window: nothing is undecided, kept, or awaited, and no failure is to be remembered.
    pub fn is_idle(&self) -> bool {
        self.undecided() == 0 && self.early.is_empty() && self.refused_until.is_none() && self.failures == 0
    }

    /// Bytes that the window's buffers take, in use or not.
    pub fn bytes_held(&self) -> usize {
        self.early.bytes_held()
    }

    /// Bytes of kept commands.
    pub fn bytes_buffered(&self) -> usize {
        self.early.bytes
    }

    /// Kept commands.
    pub fn commands_buffered(&self) -> usize {
        self.early.entries.len()
    }

    /// Whether the numbers and what is kept add up, within their bounds.
    ///
    /// # Errors
    /// What does not add up.
    pub fn verify(&self) -> Result<(), &'static str> {
        if self.acked >= self.expected || self.expected - self.acked - 1 > u64::from(WINDOW) {
            return Err("more numbers are undecided than a window holds");
        }
        if self.decided & 1 != 0 || self.decided.checked_shr(self.span()).unwrap_or(0) != 0 {
            return Err("a number is decided that was acknowledged or not dispatched");
        }
        if self.early.first().is_some_and(|first| first < self.expected) {
            return Err("a command is kept whose turn is over");
        }
        self.early.verify()
    }

    /// Numbers from the oldest undecided one to the newest dispatched one.
    fn span(&self) -> u32 {
        (self.expected - self.acked - 1) as u32
    }

    fn expect(&mut self, seq: u64) {
        self.expected = seq;
        self.failures = 0;
        self.nacked = false;
        self.refused_until = None;
    }

    /// Drops what is kept; true if that happened too often here.
    fn fail(&mut self) -> bool {
        self.failures += 1;
        self.nacked = true;
        self.early.free();
        self.failures >= REORDER_FAILURES_MAX
    }

    /// Gives up the numbers from `expected` on; returns the first of them.
    ///
    /// The map of decided commands cannot span a jump of any size, so `acked` moves too, and what is undecided is only counted
    /// from here on. A plain client hears of no `ack`, so nobody is told of a decision that was not made.
    fn skip_to(&mut self, seq: u64) -> u64 {
        let from = self.expected;
        self.stray = self.undecided();
        self.decided = 0;
        self.acked = seq - 1;
        self.expect(seq);
        from
    }
}

/// Commands that came before their turn, in order of their numbers; their texts lie in one buffer.
#[derive(Clone, Debug, Default)]
struct Early {
    /// Sorted by `seq`.
    entries: Vec<Entry>,
    /// The texts, in order of arrival, with holes where commands were taken out.
    texts: Vec<u8>,
    /// Bytes of `texts` that are in use.
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: u64,
    arrived: Millis,
    start: u32,
    length: u32,
}

impl Early {
    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn first(&self) -> Option<u64> {
        self.entries.first().map(|entry| entry.seq)
    }

    fn contains(&self, seq: u64) -> bool {
        self.entries.binary_search_by_key(&seq, |entry| entry.seq).is_ok()
    }

    fn verify(&self) -> Result<(), &'static str> {
        if self.entries.len() > REORDER_COMMANDS_MAX || self.bytes > REORDER_BYTES_MAX || self.texts.len() > REORDER_BYTES_MAX {
            return Err("more is kept than a reorder buffer holds");
        }
        if !self.entries.is_sorted_by(|one, other| one.seq < other.seq) {
            return Err("kept commands are not in the order of their numbers");
        }
        if self.entries.iter().any(|entry| entry.start as usize + entry.length as usize > self.texts.len()) {
            return Err("a kept command lies beyond the texts");
        }
        match self.entries.iter().map(|entry| entry.length as usize).sum::<usize>() == self.bytes {
            true => Ok(()),
            false => Err("kept commands have other bytes than are counted"),
        }
    }

    fn oldest(&self) -> Option<Millis> {
        self.entries.iter().map(|entry| entry.arrived).min()
    }

    /// Keeps a command that is not kept yet; false if a bound forbids it.
    fn keep(&mut self, seq: u64, raw: &[u8], now: Millis) -> bool {
        if self.entries.len() >= REORDER_COMMANDS_MAX || raw.len() > REORDER_BYTES_MAX - self.bytes {
            return false;
        }
        if raw.len() > REORDER_BYTES_MAX - self.texts.len() {
            self.compact();
        }
        self.reserve(raw.len());
        let place = self.entries.partition_point(|entry| entry.seq < seq);
        self.entries.insert(place, Entry { seq, arrived: now, start: self.texts.len() as u32, length: raw.len() as u32 });
        self.texts.extend_from_slice(raw);
        self.bytes += raw.len();
        true
    }

    /// Moves the first command's text into `into`.
    fn take_first(&mut self, into: &mut Vec<u8>) {
        let entry = self.entries.remove(0);
        let start = entry.start as usize;
        into.clear();
        into.extend_from_slice(&self.texts[start..start + entry.length as usize]);
        self.bytes -= entry.length as usize;
        if self.entries.is_empty() {
            self.texts.clear();
        }
    }

    /// Closes the holes between the texts.
    fn compact(&mut self) {
        self.entries.sort_unstable_by_key(|entry| entry.start);
        let mut end = 0;
        for entry in &mut self.entries {
            let start = entry.start as usize;
            self.texts.copy_within(start..start + entry.length as usize, end);
            entry.start = end as u32;
            end += entry.length as usize;
        }
        self.texts.truncate(end);
        self.entries.sort_unstable_by_key(|entry| entry.seq);
    }

    /// Grows by doubling, but never beyond the bound, to which a vector by itself would not keep.
    fn reserve(&mut self, more: usize) {
        if self.texts.capacity() - self.texts.len() < more {
            let wanted = (self.texts.len() + more).max(2 * self.texts.capacity()).min(REORDER_BYTES_MAX);
            self.texts.reserve_exact(wanted - self.texts.len());
        }
        if self.entries.capacity() == self.entries.len() {
            let wanted = (2 * self.entries.capacity()).clamp(4, REORDER_COMMANDS_MAX);
            self.entries.reserve_exact(wanted - self.entries.len());
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.texts.clear();
        self.bytes = 0;
    }

    /// As `clear`, and gives the memory back: a client that fills its buffer for nothing is not to hold it while it is silent.
    fn free(&mut self) {
        *self = Early::default();
    }

    fn bytes_held(&self) -> usize {
        self.texts.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}

const _: () = assert!(REORDER_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(WINDOW == u64::BITS);

#[cfg(test)]
mod tests;
