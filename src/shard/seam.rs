//! What crosses the seam between the pure core and whoever drives it: the kernel's driver or the simulator.
//!
//! The contract, in the order of one loop turn:
//! 1. `handle_transmitted` for each send of the last submission that was not taken whole, then `handle_settled` once. From there on
//!    the bytes of that submission's [`Transmit`]s may be reused.
//! 2. `handle_*` for whatever else happened.
//! 3. `handle_lane` for every peer: how much room its lanes have; then `handle_turn_end`.
//! 4. `poll_mesh`, `poll_transmit` and `poll_action` until each returns `None`. `poll_transmit` yields at most one send for a
//!    connection per submission, and returns `None` also when the scratch is full: submit, settle and poll again while
//!    `has_output`.
//! 5. Wait, no longer than `poll_timeout`; not at all if `has_output`.

use crate::time::Millis;

/// A shard of this process: 0, 1, …
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A connection, as the driver names it: its direct-descriptor slot, and which of the slot's successive connections it is.
///
/// A key that is not current is stale: every `handle_*` ignores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// Index in the ring's file table, and in the shard's connection table.
    pub slot: u32,
    /// Grows by one with each accept on the slot (wraps at 2^24, the bits that a completion carries).
    pub generation: u32,
}

/// What the driver may read next from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Hand over nothing more until [`Action::Resume`]: keep what was not consumed and cancel the receive.
    Pause,
}

/// What the core did with received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes consumed from the front. Less than all only with [`Flow::Pause`]; the rest is handed over again after the resume.
    pub consumed: usize,
    /// Whether reading goes on.
    pub flow: Flow,
}

/// How a connection ended below the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The peer's FIN.
    Eof,
    /// RST, timeout or any other error of the socket.
    Error,
}

/// What a send that was not taken whole came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The socket took this many bytes, less than offered: it is full.
    Short(usize),
    /// The socket is broken.
    Broken,
}

/// One send. Its bytes are [`Shard::transmit_bytes`](super::Shard::transmit_bytes) and stay unmoved until `handle_settled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Which connection.
    pub key: Key,
    /// Names the send in `handle_transmitted`. Dense from 0 in each submission.
    pub ticket: u32,
    /// Where the bytes are.
    pub source: Source,
}

/// Where the bytes of a send are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Copied together in the scratch.
    Scratch {
        /// First byte.
        start: u32,
        /// Length in bytes.
        length: u32,
    },
    /// (The rest of) one shared frame.
    Frame {
        /// Which frame.
        frame: u32,
        /// First byte.
        start: u32,
        /// Length in bytes.
        length: u32,
    },
}

/// What the core wants done with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Cancel what is armed and close the slot. The core has forgotten the connection: nothing more is said of this key.
    Close(Key),
    /// Finish our direction of the socket (`SHUT_WR`): everything was sent. The peer's end of stream or [`Action::Close`] follows.
    Finish(Key),
    /// Find out whether the peer has sent anything that was not yet handled, then `handle_probed`.
    Probe(Key),
    /// Ask the kernel how many bytes the peer has not acknowledged, then `handle_measured`. Says nothing where the kernel can't tell.
    /// It is answered before a probe that follows it.
    Measure(Key),
    /// Say `handle_writable` once the socket takes bytes again.
    AwaitWritable(Key),
    /// Hand over what was kept, then receive again.
    Resume(Key),
    /// Give the socket to another shard, with the bytes that were received and not consumed. The connection is paused and nothing of
    /// it is on its way out. Say [`Shard::take_baggage`](super::Shard::take_baggage) once the other shard has the socket, or
    /// [`Shard::handle_stayed`](super::Shard::handle_stayed) if it has no place for it; one of them, whatever happens to the peer
    /// meanwhile, and nothing else of this key. The other shard is told by
    /// [`Shard::handle_adopted`](super::Shard::handle_adopted).
    HandOver(Key, ShardId),
}

impl Action {
    /// Which connection it is about.
    pub const fn key(self) -> Key {
        match self {
            Action::Close(key)
            | Action::Finish(key)
            | Action::Probe(key)
            | Action::Measure(key)
            | Action::AwaitWritable(key)
            | Action::Resume(key)
            | Action::HandOver(key, _) => key,
        }
    }
}

/// Which of the two lanes between an ordered pair of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// To a room's home: join, leave, publish, state, questions.
    Command,
    /// From a home: answers, fan-out, presence. Handling one never emits a mesh message.
    Consequence,
}

/// Orders from the control plane, one mailbox a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// What `/readyz` on the data listener says from now on.
    Ready(bool),
    /// Refuse new connections and close the open ones with 4200, all of them before `by`.
    Drain {
        /// When the last close is said.
        by: Millis,
    },
}

/// Room in the two lanes to one peer, as the driver saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneRoom {
    /// Free places in the command lane.
    pub commands: usize,
    /// Free places in the consequence lane.
    pub consequences: usize,
}
