//! From queued frames to sends: pending lists, coalescing, what is in flight until settled, and backlogs.
//!
//! A frame for a connection goes into its *pending* list (8 bytes a delivery; the turn holds one reference a frame). When polled,
//! the list becomes one send: the frame itself if it is one, else a copy in the scratch. Until settled the list is kept as the
//! record of the send; if the socket took less, the rest becomes the connection's *backlog*, which holds references of its own and
//! waits for the socket. It does not know why a frame is sent.
//!
//! Invariants: a connection has at most one send in flight; a backlogged connection has no pending list; scratch and frames
//! that a send names stay unchanged until settled; control frames pass whole frames, never the unsent rest of one.

use super::Shard;
use super::arena::{FrameIndex, NodeIndex};
use super::connection::{Connection, Flags, Queued, State};
use super::frames::Frames;
use super::seam::{Action, Ended, Key, Source, Taken, Transmit};
use super::stats::MemoryUse;
use crate::close::CloseReason;
use crate::limits::{COALESCE_BYTES_MAX, SCRATCH_BYTES, TURN_BYTES_MAX};
use crate::planted::{Bug, is_planted};
use crate::time::Now;
use crate::ws::{self, Opcode};
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) frame: FrameIndex,
    pub(crate) next: NodeIndex,
}

/// Entries up to which a table stays as it is between two bursts.
const NODES_KEPT: usize = 256;

/// What a send in flight was made from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// The nodes from here on, to the end of the chain.
    Pending(NodeIndex),
    /// The first frames of the backlog.
    Backlog,
    /// Already dealt with: the socket did not take it whole. The chain, if any, is still to be freed.
    Short(NodeIndex),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) key: Key,
    pub(crate) origin: Origin,
    pub(crate) length: u32,
}

/// Everything about sending that is not of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    pub(crate) frames: Frames,
    pub(crate) nodes: Vec<Node>,
    pub(crate) free_nodes: Vec<NodeIndex>,
    /// The most nodes in use at a time since the last trim.
    nodes_peak: usize,
    /// Frames with a reference of the turn.
    pub(crate) turn_frames: Vec<FrameIndex>,
    /// Invariant: the sum of their lengths.
    pub(crate) turn_bytes: usize,
    /// Invariant: whether a frame is in `turn_frames`, by frame index.
    pub(crate) in_turn: Vec<bool>,
    pub(crate) dirty: VecDeque<u32>,
    /// Connections with more to send in the next submission.
    pub(crate) again: Vec<u32>,
    pub(crate) in_flight: Vec<InFlight>,
    scratch: Vec<u8>,
    /// The frames whose copy was last made in the scratch, and where: members of a room often get the same ones.
    copied: Vec<FrameIndex>,
    copied_at: (u32, u32),
    /// The scratch is full: nothing more before settled.
    full: bool,
    /// A send in flight has a sequel that no event will bring about: more of a backlog, or the end of a goodbye.
    has_sequel: bool,
    gathered: Vec<FrameIndex>,
}

impl Outbound {
    pub(crate) fn new() -> Self {
        // Touched now: what is used again and again is part of the process at rest, not of its growth.
        let mut scratch = vec![1; SCRATCH_BYTES];
        scratch.clear();
        Outbound { scratch, ..Outbound::default() }
    }

    /// Whether there is something to send, or something that follows only once what was sent is settled.
    pub(crate) fn has_output(&self) -> bool {
        !self.dirty.is_empty() || !self.again.is_empty() || self.has_sequel
    }

    /// Gives back what a burst took: tables whose entries are all free, and pooled buffers.
    pub(crate) fn trim(&mut self) {
        self.frames.trim();
        let needed = 4 * self.nodes_peak.max(NODES_KEPT);
        if self.nodes.len() == self.free_nodes.len() && self.nodes.len() > needed {
            self.nodes = Vec::new();
            self.free_nodes = Vec::new();
        }
        if self.turn_frames.is_empty() && self.in_turn.len() > needed {
            self.in_turn = Vec::new();
        }
        self.nodes_peak = 0;
    }

    fn node(&mut self, frame: FrameIndex, next: NodeIndex) -> NodeIndex {
        self.nodes_peak = self.nodes_peak.max(self.nodes.len() + 1 - self.free_nodes.len());
        let node = Node { frame, next };
        match self.free_nodes.pop() {
            Some(index) => {
                self.nodes[index.0 as usize] = node;
                index
            }
            None => {
                self.nodes.push(node);
                NodeIndex(self.nodes.len() as u32 - 1)
            }
        }
    }

    fn hold_for_turn(&mut self, frame: FrameIndex) {
        let index = frame.0 as usize;
        if self.in_turn.len() <= index {
            self.in_turn.resize(index + 1, false);
        }
        if !self.in_turn[index] {
            self.in_turn[index] = true;
            self.turn_frames.push(frame);
            self.turn_bytes += self.frames.length(frame);
            self.frames.hold(frame);
        }
    }

    /// Appends to a connection's pending list.
    fn append(&mut self, connection: &mut Connection, frame: FrameIndex) {
        self.hold_for_turn(frame);
        let node = self.node(frame, NodeIndex::NONE);
        if connection.pending.is_none() {
            self.nodes[node.0 as usize].next = node;
        } else {
            let tail = connection.pending.0 as usize;
            self.nodes[node.0 as usize].next = self.nodes[tail].next;
            self.nodes[tail].next = node;
        }
        connection.pending = node;
    }

    fn mark_dirty(&mut self, slot: u32, connection: &mut Connection) {
        if !connection.flags.has(Flags::DIRTY) {
            connection.flags.set(Flags::DIRTY);
            self.dirty.push_back(slot);
        }
    }

    /// Frees a chain that ends with `NONE`.
    fn free_chain(&mut self, mut node: NodeIndex) {
        while node.is_some() {
            self.free_nodes.push(node);
            node = self.nodes[node.0 as usize].next;
        }
    }

    /// Frees a connection's whole pending list.
    fn free_pending(&mut self, connection: &mut Connection) {
        if connection.pending.is_some() {
            let head = self.detach_all(connection);
            self.free_chain(head);
        }
    }

    /// Takes the whole pending list as a chain that ends with `NONE`.
    fn detach_all(&mut self, connection: &mut Connection) -> NodeIndex {
        let tail = connection.pending.0 as usize;
        connection.pending = NodeIndex::NONE;
        std::mem::replace(&mut self.nodes[tail].next, NodeIndex::NONE)
    }

    /// Takes from the head of the pending list what one send may hold, as a chain with its length in bytes.
    fn detach_some(&mut self, connection: &mut Connection) -> (NodeIndex, usize) {
        let tail = connection.pending;
        let head = self.nodes[tail.0 as usize].next;
        self.gathered.clear();
        if head == tail {
            // One frame waits, as for most members of a room.
            let Node { frame, next } = &mut self.nodes[head.0 as usize];
            *next = NodeIndex::NONE;
            connection.pending = NodeIndex::NONE;
            self.gathered.push(*frame);
            return (head, self.frames.length(*frame));
        }
        let (mut last, mut node, mut bytes) = (head, head, 0);
        loop {
            let Node { frame, next } = self.nodes[node.0 as usize];
            let length = self.frames.length(frame);
            if !self.gathered.is_empty() && bytes + length > COALESCE_BYTES_MAX {
                break;
            }
            bytes += length;
            self.gathered.push(frame);
            last = node;
            if node == tail {
                break;
            }
            node = next;
        }
        if last == tail {
            connection.pending = NodeIndex::NONE;
        } else {
            self.nodes[tail.0 as usize].next = self.nodes[last.0 as usize].next;
        }
        self.nodes[last.0 as usize].next = NodeIndex::NONE;
        (head, bytes)
    }

    /// Puts the gathered frames one behind the other in the scratch; `None` if they don't fit.
    fn copy_gathered(&mut self, bytes: usize) -> Option<Source> {
        if self.copied == self.gathered {
            return Some(Source::Scratch { start: self.copied_at.0, length: self.copied_at.1 });
        }
        if self.scratch.len() + bytes > SCRATCH_BYTES {
            return None;
        }
        if is_planted(Bug::ScratchReusedBeforeSettle) && self.scratch.len() > 4 * 1024 {
            self.scratch.clear();
        }
        let start = self.scratch.len();
        for frame in &self.gathered {
            self.scratch.extend_from_slice(self.frames.bytes(*frame));
        }
        self.copied.clear();
        self.copied.extend_from_slice(&self.gathered);
        self.copied_at = (start as u32, bytes as u32);
        Some(Source::Scratch { start: start as u32, length: bytes as u32 })
    }
}

impl Shard {
    /// Queues a frame for a connection. The caller keeps its own reference.
    pub(crate) fn push_frame(&mut self, slot: u32, frame: FrameIndex) {
        self.push(slot, frame, false);
    }

    /// Queues a control frame: it passes whole frames that wait already.
    pub(crate) fn push_control(&mut self, slot: u32, frame: FrameIndex) {
        self.push(slot, frame, true);
    }

    fn push(&mut self, slot: u32, frame: FrameIndex, control: bool) {
        let connection = &mut self.connections[slot as usize];
        debug_assert!(connection.state != State::Free);
        if !connection.flags.has(Flags::BACKLOGGED) {
            self.out.append(connection, frame);
            self.out.mark_dirty(slot, connection);
            return;
        }
        let length = self.out.frames.length(frame) as u32;
        let stash = &mut self.stashes[connection.stash.0 as usize];
        self.out.frames.hold(frame);
        if control || is_planted(Bug::SendPastBacklog) {
            // Behind the rest of a frame that was sent in part, and behind the answer to the upgrade request.
            let is_fixed = stash.first_sent > 0 || connection.flags.has(Flags::GREETING);
            let place = u32::from(is_fixed) + stash.controls;
            stash.controls += 1;
            stash.backlog.insert((place as usize).min(stash.backlog.len()), Queued { frame, length });
        } else {
            stash.backlog.push_back(Queued { frame, length });
        }
        self.stats.charge(MemoryUse::Backlog, size_of::<Queued>());
        connection.queue_bytes += length;
        self.stats.send_queue_bytes += u64::from(length);
        self.check_queue(slot);
    }

    /// Marks a connection whose queue is over its bound; it ends with this turn.
    fn check_queue(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        // What an echo has queued is what was read of it before its socket was seen to be full: one turn's input at most.
        let is_bounded = connection.flags.has(Flags::ECHO) || connection.queue_bytes as usize <= self.send_queue_bytes_max;
        if !is_bounded && !is_planted(Bug::SendQueueBoundIgnored) {
            self.overflow(slot);
        }
    }

    /// Whether all that was queued for a connection has left.
    pub(crate) fn is_all_sent(&self, slot: u32) -> bool {
        let connection = &self.connections[slot as usize];
        connection.pending.is_none() && !connection.flags.has(Flags::BACKLOGGED) && !connection.flags.has(Flags::IN_FLIGHT)
    }

    /// Has a connection end with this turn, as a slow consumer.
    pub(crate) fn overflow(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if !connection.flags.has(Flags::OVERFLOWED) {
            connection.flags.set(Flags::OVERFLOWED);
            self.overflowed.push(Key { slot, generation: connection.generation });
        }
    }

    /// Encodes a text message into a frame, with one reference, the caller's.
    pub(crate) fn text_frame(&mut self, json: &[u8]) -> FrameIndex {
        self.message_frame(Opcode::Text, json)
    }

    /// Encodes a message into a frame, with one reference, the caller's.
    pub(crate) fn message_frame(&mut self, opcode: Opcode, payload: &[u8]) -> FrameIndex {
        let header = ws::frame::header(opcode, payload.len());
        self.out.frames.make(&mut self.stats, &[header.as_bytes(), payload])
    }

    pub(crate) fn release_frame(&mut self, frame: FrameIndex) {
        self.out.frames.release(&mut self.stats, frame);
    }

    /// Writes one JSON message and queues it.
    pub(crate) fn send_json(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        write(&mut json);
        let frame = self.text_frame(&json);
        self.json = json;
        self.push_frame(slot, frame);
        self.release_frame(frame);
    }

    /// Queues bytes that are no frame: an HTTP answer.
    pub(crate) fn send_bytes(&mut self, slot: u32, bytes: &[u8]) {
        let frame = self.out.frames.make(&mut self.stats, &[bytes]);
        self.push_frame(slot, frame);
        self.release_frame(frame);
    }

    /// Whether so much was encoded in this turn that it should go out before anything more is handed over.
    pub fn is_turn_full(&self) -> bool {
        self.out.turn_bytes >= TURN_BYTES_MAX
    }

    /// The next send, at most one a connection and submission; `None` if there is none before settled.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.out.full {
            return None;
        }
        while let Some(slot) = self.out.dirty.pop_front() {
            let connection = &mut self.connections[slot as usize];
            connection.flags.clear(Flags::DIRTY);
            if connection.state == State::Free {
                continue;
            }
            if connection.flags.has(Flags::IN_FLIGHT) {
                connection.flags.set(Flags::DIRTY);
                self.out.again.push(slot);
                continue;
            }
            let transmit =
                if connection.flags.has(Flags::BACKLOGGED) { self.transmit_backlog(slot) } else { self.transmit_pending(slot) };
            if transmit.is_some() {
                return transmit;
            }
            if self.out.full {
                self.connections[slot as usize].flags.set(Flags::DIRTY);
                self.out.dirty.push_front(slot);
                return None;
            }
        }
        None
    }

    fn transmit_pending(&mut self, slot: u32) -> Option<Transmit> {
        let connection = &mut self.connections[slot as usize];
        if connection.pending.is_none() {
            return None;
        }
        if self.out.scratch.len() + COALESCE_BYTES_MAX > SCRATCH_BYTES
            && self.out.nodes[connection.pending.0 as usize].next != connection.pending
        {
            self.out.full = true;
            return None;
        }
        let (head, bytes) = self.out.detach_some(connection);
        let frames = self.out.gathered.len();
        let source = if frames == 1 {
            Source::Frame { frame: self.out.gathered[0].0, start: 0, length: bytes as u32 }
        } else {
            self.out.copy_gathered(bytes).expect("room for a whole send was checked above")
        };
        self.stats.frames_out += frames as u64;
        Some(self.fly(slot, Origin::Pending(head), source, bytes))
    }

    fn transmit_backlog(&mut self, slot: u32) -> Option<Transmit> {
        let connection = &self.connections[slot as usize];
        if connection.flags.has(Flags::AWAITING) {
            return None;
        }
        let stash = &self.stashes[connection.stash.0 as usize];
        let first = *stash.backlog.front()?;
        let rest = first.length - stash.first_sent;
        if stash.backlog.len() == 1 || rest as usize >= COALESCE_BYTES_MAX {
            let source = Source::Frame { frame: first.frame.0, start: stash.first_sent, length: rest };
            return Some(self.fly(slot, Origin::Backlog, source, rest as usize));
        }
        if self.out.scratch.len() + COALESCE_BYTES_MAX > SCRATCH_BYTES {
            self.out.full = true;
            return None;
        }
        let start = self.out.scratch.len();
        let mut skip = stash.first_sent as usize;
        for queued in &stash.backlog {
            let bytes = &self.out.frames.bytes(queued.frame)[skip..];
            skip = 0;
            if self.out.scratch.len() - start + bytes.len() > COALESCE_BYTES_MAX {
                break;
            }
            self.out.scratch.extend_from_slice(bytes);
        }
        self.out.copied.clear();
        let length = self.out.scratch.len() - start;
        Some(self.fly(slot, Origin::Backlog, Source::Scratch { start: start as u32, length: length as u32 }, length))
    }

    fn fly(&mut self, slot: u32, origin: Origin, source: Source, length: usize) -> Transmit {
        let connection = &mut self.connections[slot as usize];
        connection.flags.set(Flags::IN_FLIGHT);
        if connection.pending.is_some() {
            connection.flags.set(Flags::DIRTY);
            self.out.again.push(slot);
        }
        let stash = connection.stash;
        let is_fed = stash.is_some() && !self.stashes[stash.0 as usize].behind.is_empty();
        self.out.has_sequel |= connection.state == State::Goodbye || connection.flags.has(Flags::BACKLOGGED) || is_fed;
        let key = Key { slot, generation: connection.generation };
        let ticket = self.out.in_flight.len() as u32;
        self.out.in_flight.push(InFlight { key, origin, length: length as u32 });
        self.stats.sends += 1;
        self.stats.bytes_out += length as u64;
        Transmit { key, ticket, source }
    }

    /// The bytes of a send of the current submission.
    ///
    /// # Panics
    /// If the send was settled: its bytes may be gone.
    pub fn transmit_bytes(&self, transmit: &Transmit) -> &[u8] {
        match transmit.source {
            Source::Scratch { start, length } => &self.out.scratch[start as usize..(start + length) as usize],
            Source::Frame { frame, start, length } => {
                &self.out.frames.bytes(FrameIndex(frame))[start as usize..(start + length) as usize]
            }
        }
    }

    /// A send of the last submission was not taken whole. Called before [`Shard::handle_settled`].
    ///
    /// # Panics
    /// If the submission had no such send.
    pub fn handle_transmitted(&mut self, now: Now, ticket: u32, taken: Taken) {
        let InFlight { key, origin, length } = self.out.in_flight[ticket as usize];
        let accepted = match taken {
            Taken::Short(bytes) => (bytes as u32).min(length),
            Taken::Broken => 0,
        };
        self.stats.sends_short += 1;
        self.stats.bytes_out -= u64::from(length - accepted);
        let chain = match origin {
            Origin::Pending(head) => head,
            Origin::Backlog | Origin::Short(_) => NodeIndex::NONE,
        };
        self.out.in_flight[ticket as usize].origin = Origin::Short(chain);
        if !self.is_current(key) {
            return;
        }
        if taken == Taken::Broken {
            self.handle_closed(now, key, Ended::Error);
            return;
        }
        match origin {
            Origin::Pending(head) => self.begin_backlog(key.slot, head, accepted),
            Origin::Backlog => self.shorten_backlog(now, key.slot, accepted),
            Origin::Short(_) => return,
        }
        let connection = &mut self.connections[key.slot as usize];
        if !connection.flags.has(Flags::AWAITING) {
            connection.flags.set(Flags::AWAITING);
            self.actions.push_back(Action::AwaitWritable(key));
        }
        self.check_queue(key.slot);
    }

    /// Moves what the socket did not take, and what is pending behind it, into a backlog.
    fn begin_backlog(&mut self, slot: u32, head: NodeIndex, accepted: u32) {
        let stash = self.stash_of(slot);
        let connection = &mut self.connections[slot as usize];
        connection.flags.set(Flags::BACKLOGGED);
        let rest = if connection.pending.is_some() { self.out.detach_all(connection) } else { NodeIndex::NONE };
        let stash = &mut self.stashes[stash.0 as usize];
        let (mut sent, mut bytes) = (accepted, 0);
        for (chain, is_sent) in [(head, true), (rest, false)] {
            let mut node = chain;
            while node.is_some() {
                let Node { frame, next } = self.out.nodes[node.0 as usize];
                node = next;
                let length = self.out.frames.length(frame) as u32;
                if sent >= length {
                    sent -= length;
                    // The answer to the upgrade request comes first of all.
                    connection.flags.clear(Flags::GREETING);
                    continue;
                }
                if stash.backlog.is_empty() {
                    stash.first_sent = sent;
                }
                bytes += length - sent;
                sent = 0;
                // It was counted as sent with the send; it is counted again when the rest of it has gone.
                self.stats.frames_out -= u64::from(is_sent);
                self.out.frames.hold(frame);
                stash.backlog.push_back(Queued { frame, length });
                self.stats.charge(MemoryUse::Backlog, size_of::<Queued>());
            }
        }
        self.out.free_chain(rest);
        stash.controls = 0;
        connection.queue_bytes = bytes;
        self.stats.send_queue_bytes += u64::from(bytes);
        self.backlogged += 1;
        self.shed(slot);
        self.measure(slot);
    }

    /// Takes `bytes` that the socket accepted off the front of a backlog.
    fn shorten_backlog(&mut self, now: Now, slot: u32, bytes: u32) {
        if bytes == 0 {
            return;
        }
        let tick = self.fair(now);
        let connection = &mut self.connections[slot as usize];
        // The peer reads, if slowly: that is life.
        connection.last_in = tick;
        connection.flags.clear(Flags::PINGED);
        connection.queue_bytes -= bytes;
        self.stats.send_queue_bytes -= u64::from(bytes);
        let stash = &mut self.stashes[connection.stash.0 as usize];
        let mut sent = stash.first_sent + bytes;
        while let Some(first) = stash.backlog.front().copied() {
            if sent < first.length {
                break;
            }
            sent -= first.length;
            // The first frame is a control frame exactly when none that they stand behind was before it.
            let is_fixed = stash.first_sent > 0 || connection.flags.has(Flags::GREETING);
            if stash.controls > 0 && !is_fixed {
                stash.controls -= 1;
            }
            stash.first_sent = 0;
            stash.backlog.pop_front();
            connection.flags.clear(Flags::GREETING);
            self.stats.release(MemoryUse::Backlog, size_of::<Queued>());
            self.stats.frames_out += 1;
            self.out.frames.release(&mut self.stats, first.frame);
        }
        let is_fixed = stash.first_sent > 0 || connection.flags.has(Flags::GREETING);
        if sent > 0 && !is_fixed && stash.controls > 0 {
            // The partly sent frame is a control frame: it is no longer one that others stand behind.
            stash.controls -= 1;
        }
        stash.first_sent = sent;
    }

    /// Every send of the last submission is done: taken whole unless `handle_transmitted` said otherwise.
    pub fn handle_settled(&mut self, now: Now) {
        let mut in_flight = std::mem::take(&mut self.out.in_flight);
        for InFlight { key, origin, length } in in_flight.drain(..) {
            match origin {
                Origin::Pending(chain) | Origin::Short(chain) => self.out.free_chain(chain),
                Origin::Backlog => {}
            }
            if !self.is_current(key) {
                continue;
            }
            let connection = &mut self.connections[key.slot as usize];
            connection.flags.clear(Flags::IN_FLIGHT);
            match origin {
                Origin::Pending(_) => {
                    connection.flags.clear(Flags::GREETING);
                    if connection.stash.is_some() {
                        let stash = &mut self.stashes[connection.stash.0 as usize];
                        stash.unacknowledged = stash.unacknowledged.map(|bytes| bytes.saturating_add(length));
                    }
                    if connection.state == State::Open && !connection.flags.has(Flags::PAUSED) && connection.stash.is_none() {
                        // Nothing waits for this: most sends end here.
                        continue;
                    }
                }
                Origin::Backlog => {
                    self.shorten_backlog(now, key.slot, length);
                    self.after_backlog(key.slot);
                }
                Origin::Short(_) => {}
            }
            self.after_sent(key.slot);
        }
        self.out.in_flight = in_flight;
        self.out.dirty.extend(self.out.again.drain(..));
        self.out.scratch.clear();
        if !is_planted(Bug::CopyOutlivesSettle) {
            self.out.copied.clear();
        }
        self.out.full = false;
        self.out.has_sequel = false;
        if self.out.dirty.is_empty() || is_planted(Bug::FrameFreedWhilePending) {
            let mut frames = std::mem::take(&mut self.out.turn_frames);
            self.out.turn_bytes = 0;
            for frame in frames.drain(..) {
                self.out.in_turn[frame.0 as usize] = false;
                self.out.frames.release(&mut self.stats, frame);
            }
            self.out.turn_frames = frames;
        }
    }

    /// A backlog went on: the next part of it, or the end of it.
    fn after_backlog(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if !self.stashes[connection.stash.0 as usize].backlog.is_empty() {
            self.out.mark_dirty(slot, connection);
            return;
        }
        connection.flags.clear(Flags::BACKLOGGED);
        self.backlogged -= 1;
        self.forget_measure(slot);
    }

    /// Nothing is in flight for a connection: what waited for that.
    fn after_sent(&mut self, slot: u32) {
        let connection = &self.connections[slot as usize];
        let key = Key { slot, generation: connection.generation };
        if connection.flags.has(Flags::ECHO) && connection.flags.has(Flags::PAUSED) && !self.is_echo_full(slot) {
            self.resume(slot);
        }
        self.feed(slot);
        let connection = &mut self.connections[slot as usize];
        if connection.state != State::Goodbye || connection.pending.is_some() || connection.flags.has(Flags::BACKLOGGED) {
            return;
        }
        if connection.flags.has(Flags::CLOSE_WHEN_SENT) {
            self.forget(slot);
        } else if connection.flags.has(Flags::DISCARD) && !connection.flags.has(Flags::FINISHED) {
            connection.flags.set(Flags::FINISHED);
            self.actions.push_back(Action::Finish(key));
        }
    }

    /// The socket takes bytes again.
    pub fn handle_writable(&mut self, _now: Now, key: Key) {
        if !self.is_current(key) {
            return;
        }
        let connection = &mut self.connections[key.slot as usize];
        connection.flags.clear(Flags::AWAITING);
        if connection.flags.has(Flags::BACKLOGGED) {
            self.out.mark_dirty(key.slot, connection);
        }
    }

    /// Drops everything that waits for a connection's socket. If `keep_partial`, the rest of a frame that is partly sent stays, and
    /// so does everything while the answer to the upgrade request is among it.
    pub(crate) fn drop_queue(&mut self, slot: u32, keep_partial: bool) {
        let connection = &mut self.connections[slot as usize];
        if keep_partial && connection.flags.has(Flags::GREETING) {
            return;
        }
        self.out.free_pending(connection);
        if !connection.flags.has(Flags::BACKLOGGED) {
            return;
        }
        let stash = &mut self.stashes[connection.stash.0 as usize];
        let keep = usize::from(keep_partial && stash.first_sent > 0 && !is_planted(Bug::CloseFrameInsideFrame));
        while stash.backlog.len() > keep {
            let queued = stash.backlog.pop_back().expect("the backlog is longer than what is kept");
            self.stats.release(MemoryUse::Backlog, size_of::<Queued>());
            self.out.frames.release(&mut self.stats, queued.frame);
        }
        stash.controls = 0;
        let kept = stash.backlog.front().map_or(0, |queued| queued.length - stash.first_sent);
        self.stats.send_queue_bytes -= u64::from(connection.queue_bytes - kept);
        connection.queue_bytes = kept;
        if keep == 0 {
            connection.flags.clear(Flags::BACKLOGGED);
            stash.first_sent = 0;
            self.backlogged -= 1;
            self.release_stash(slot);
        }
    }

    /// Ends the connections whose queue went over its bound in this turn.
    pub(crate) fn end_overflowed(&mut self, now: Now) {
        while let Some(key) = self.overflowed.pop() {
            if self.is_current(key) && self.connections[key.slot as usize].state != State::Goodbye {
                self.end_with_frame(now, key.slot, CloseReason::SlowConsumer);
            }
        }
    }
}
