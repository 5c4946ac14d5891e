//! The record of a connection, and what is rare about one.
//!
//! A connection is addressed by its slot. Its record is 28 bytes and holds no pointer; whatever an idle connection does not need
//! (a partial frame, unsent frames, a message that waits) is in a [`Stash`] that it has only while it needs it.

use super::arena::{FrameIndex, NodeIndex, SessionIndex, StashIndex};
use super::dispatch::Held;
use super::moving::Move;
use super::recovery::{Behind, Reading};
use super::resume::Resuming;
use crate::close::CloseReason;
use crate::protocol::Dialect;
use crate::time::Tick;
use crate::ws::Assembler;
use std::collections::VecDeque;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No connection is in the slot, or the driver was told to close it.
    Free,
    /// The upgrade request is being read.
    Upgrading,
    /// Upgraded to `throng.v1`; the `connect` frame is awaited.
    Opening,
    /// It is handed over to the shard that has its session.
    Moving,
    /// Messages flow.
    Open,
    /// Everything is freed but the socket: the last bytes are on their way, then it closes.
    Goodbye,
}

/// Yes-or-no facts about a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    /// It is in the list of connections with something to send.
    pub(crate) const DIRTY: Flags = Flags(1);
    /// A send of the current submission is its.
    pub(crate) const IN_FLIGHT: Flags = Flags(1 << 1);
    /// Its socket did not take everything: frames queue in its stash.
    pub(crate) const BACKLOGGED: Flags = Flags(1 << 2);
    /// The driver hands over nothing more of it until told so.
    pub(crate) const PAUSED: Flags = Flags(1 << 3);
    /// A ping is unanswered: silence since then is judged when the timer fires.
    pub(crate) const PINGED: Flags = Flags(1 << 4);
    /// It speaks the plain dialect.
    pub(crate) const PLAIN: Flags = Flags(1 << 5);
    /// It is at `/echo`.
    pub(crate) const ECHO: Flags = Flags(1 << 6);
    /// It was not admitted: its request is answered with 503.
    pub(crate) const REFUSED: Flags = Flags(1 << 7);
    /// Its send queue is over its bound; it ends with this turn.
    pub(crate) const OVERFLOWED: Flags = Flags(1 << 8);
    /// After the goodbye is sent the slot is closed at once: the peer has said its own goodbye.
    pub(crate) const CLOSE_WHEN_SENT: Flags = Flags(1 << 9);
    /// What still comes from the peer is thrown away unread.
    pub(crate) const DISCARD: Flags = Flags(1 << 10);
    /// The driver will say when the socket takes bytes again.
    pub(crate) const AWAITING: Flags = Flags(1 << 11);
    /// Our direction of the socket is finished.
    pub(crate) const FINISHED: Flags = Flags(1 << 12);
    /// It was upgraded: it counts as a connection in the metrics.
    pub(crate) const UPGRADED: Flags = Flags(1 << 13);
    /// Its session's `acked` is to be told with this turn.
    pub(crate) const ACK_DUE: Flags = Flags(1 << 15);
    /// The answer to its upgrade request is not sent whole: nothing else may come in its place.
    pub(crate) const GREETING: Flags = Flags(1 << 14);

    pub(crate) fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }
    pub(crate) fn set(&mut self, other: Flags) {
        self.0 |= other.0;
    }
    pub(crate) fn clear(&mut self, other: Flags) {
        self.0 &= !other.0;
    }
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    /// Which of the slot's connections this is.
    pub(crate) generation: u32,
    /// Its session; none before the upgrade, at `/echo` and after the end.
    pub(crate) session: SessionIndex,
    /// When the last byte came, or the last queued byte left, on the wheel's clock.
    pub(crate) last_in: Tick,
    /// The newest of the frames that wait for this turn's send, in a circular list.
    pub(crate) pending: NodeIndex,
    /// Bytes in the backlog.
    pub(crate) queue_bytes: u32,
    /// What is rare about it.
    pub(crate) stash: StashIndex,
    pub(crate) flags: Flags,
    pub(crate) state: State,
    /// Why it ended. Meaningful in [`State::Goodbye`].
    pub(crate) reason: CloseReason,
}

impl Connection {
    pub(crate) const FREE: Connection = Connection {
        generation: 0,
        session: SessionIndex::NONE,
        last_in: Tick(0),
        pending: NodeIndex::NONE,
        queue_bytes: 0,
        stash: StashIndex::NONE,
        flags: Flags(0),
        state: State::Free,
        reason: CloseReason::Eof,
    };

    /// What an open connection speaks.
    pub(crate) fn dialect(&self) -> Dialect {
        if self.flags.has(Flags::PLAIN) { Dialect::Plain } else { Dialect::V1 }
    }
}

/// A frame in a backlog.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    pub(crate) frame: FrameIndex,
    pub(crate) length: u32,
}

/// What an idle connection has not.
#[derive(Debug, Default)]
pub(crate) struct Stash {
    /// A frame or message that has not come whole.
    pub(crate) assembler: Option<Box<Assembler>>,
    /// An upgrade request that has not come whole.
    pub(crate) head: Vec<u8>,
    /// Messages whose command can't be taken yet: they come before everything that is still unread. At most two: the newest, and
    /// one that came early and had its turn before it.
    pub(crate) held: Held,
    /// It has a place among those that wait for a home.
    pub(crate) waits: bool,
    /// Frames that the socket did not take, oldest first.
    pub(crate) backlog: VecDeque<Queued>,
    /// Bytes of the first of them that the socket did take.
    pub(crate) first_sent: u32,
    /// How many control frames stand at the front, behind a frame that is partly sent.
    pub(crate) controls: u32,
    /// Its memberships that are fed from their rooms' histories; the next to be read for comes first.
    pub(crate) behind: VecDeque<Behind>,
    /// What these wait for.
    pub(crate) reading: Reading,
    /// Bytes that the peer had not acknowledged at some time after it was pinged, and what was sent since; if the kernel could tell.
    pub(crate) unacknowledged: Option<u32>,
    /// It has acknowledged some of them since.
    pub(crate) progressed: bool,
    /// What waits for its `welcome`, if its session goes on.
    pub(crate) resuming: Option<Box<Resuming>>,
    /// Where it is handed over to.
    pub(crate) moving: Option<Move>,
    /// What of this is charged to the assembler's use.
    pub(crate) charged: usize,
}

impl Stash {
    /// Bytes of unfinished input that it holds.
    pub(crate) fn input_bytes(&self) -> usize {
        self.assembler.as_ref().map_or(0, |assembler| assembler.bytes_held())
            + self.head.capacity()
            + self.held.iter().map(|text| text.len()).sum::<usize>()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.assembler.is_none()
            && self.head.is_empty()
            && self.held.is_empty()
            && self.backlog.is_empty()
            && self.behind.is_empty()
            && self.unacknowledged.is_none()
            && self.moving.is_none()
            && self.resuming.is_none()
    }
}
