//! Connections, their stashes, and frames on their way out: who holds what, that something will move it on, and the bounds of it.

use super::super::arena::{FrameIndex, NodeIndex};
use super::super::connection::{Connection, Flags, Queued, Stash, State};
use super::super::frames::charge_of;
use super::super::local::Stage;
use super::super::outbound::Origin;
use super::super::recovery::{Behind, READING, Reading};
use super::super::seam::Key;
use super::super::session::Phase;
use super::super::stats::MemoryUse;
use super::{Marks, Shard, check, holds, same};

/// Messages that a connection holds at most: the newest, and one that came early and has its turn before it.
const HELD_MAX: usize = 2;

/// Sums over all connections.
#[derive(Default)]
struct Sums {
    sockets: usize,
    active: usize,
    backlogged: usize,
    queue_bytes: usize,
    queued: usize,
    behind: usize,
    resuming: usize,
    input_bytes: usize,
    stashes: usize,
}

impl Shard {
    pub(super) fn verify_connections(&self) -> Result<(), String> {
        let is_living = |slot: u32| self.connections.get(slot as usize).is_some_and(|connection| connection.state != State::Free);
        self.wheel.verify(is_living).map_err(|what| format!("timers: {what}"))?;
        let mut stashes = Marks::new(self.stashes.capacity());
        let mut sums = Sums::default();
        for (slot, connection) in self.connections.iter().enumerate() {
            let stash = connection.stash;
            check(stash.is_none() || stashes.mark(stash.0 as usize), || format!("connection {slot}: its stash is another's"))?;
            let stash = self.stashes.get(stash.0 as usize).filter(|_| stash.is_some());
            self.verify_connection(slot as u32, connection, stash).map_err(|what| format!("connection {slot}: {what}"))?;
            sums.sockets += usize::from(connection.state != State::Free);
            sums.active += usize::from(
                connection.flags.has(Flags::UPGRADED) && matches!(connection.state, State::Opening | State::Moving | State::Open),
            );
            sums.backlogged += usize::from(connection.flags.has(Flags::BACKLOGGED));
            sums.queue_bytes += connection.queue_bytes as usize;
            if let Some(stash) = stash {
                sums.stashes += 1;
                sums.queued += stash.backlog.len();
                sums.behind += stash.behind.len();
                sums.resuming += stash.resuming.as_ref().map_or(0, |resuming| resuming.frames.len());
                sums.input_bytes += stash.charged;
            }
        }
        same(format_args!("sockets held"), self.stats.sockets_held as usize, sums.sockets)?;
        same(format_args!("active connections"), self.stats.connections_active as usize, sums.active)?;
        same(format_args!("backlogged connections"), self.backlogged, sums.backlogged)?;
        same(format_args!("bytes for slow sockets"), self.stats.send_queue_bytes as usize, sums.queue_bytes)?;
        same(format_args!("stashes"), self.stashes.len(), sums.stashes)?;
        let behind = self.memberships.iter().filter(|(_, membership)| membership.feed.is_behind()).count();
        same(format_args!("members that are behind"), behind, sums.behind)?;
        self.verify_account(
            MemoryUse::Backlog,
            sums.queued * size_of::<Queued>() + sums.behind * size_of::<Behind>() + sums.resuming * size_of::<FrameIndex>(),
        )?;
        self.verify_account(MemoryUse::Assembler, sums.input_bytes)
    }

    fn verify_connection(&self, slot: u32, connection: &Connection, stash: Option<&Stash>) -> Result<(), &'static str> {
        let has = |flag| connection.flags.has(flag);
        let is_armed = self.wheel.due(slot).is_some();
        if connection.state == State::Free {
            let is_bare = connection.session.is_none() && connection.pending.is_none() && connection.stash.is_none();
            holds(is_bare && connection.queue_bytes == 0 && !is_armed, "nobody is there, and something is held")?;
            return holds(connection.flags == Flags::default(), "nobody is there, and something is said of it");
        }
        holds(connection.stash.is_none() == stash.is_none(), "its stash is not there")?;
        let is_handed_over = self.is_handed_over(slot);
        holds(is_armed || connection.state == State::Open || is_handed_over, "no timer ends it")?;
        let is_speaking = matches!(connection.state, State::Opening | State::Moving | State::Open) && !has(Flags::ECHO);
        holds(connection.session.is_some() == is_speaking, "it has no session and is open, or has one and is not")?;
        if is_speaking {
            let session = self.sessions.get(connection.session);
            let is_known = session.is_some_and(|session| session.connection == slot && session.phase == Phase::Attached);
            holds(is_known, "its session does not know it")?;
        }
        holds(connection.pending.is_none() || !has(Flags::BACKLOGGED), "frames are pending beside a backlog")?;
        holds(connection.pending.is_none() || has(Flags::DIRTY), "frames are pending, and nothing sends them")?;
        let is_moving = has(Flags::DIRTY) || has(Flags::AWAITING) || has(Flags::IN_FLIGHT);
        holds(!has(Flags::BACKLOGGED) || is_moving, "it has a backlog, and nothing sends it")?;
        let is_bounded = connection.state == State::Open && !has(Flags::ECHO) && !has(Flags::OVERFLOWED);
        let is_within = connection.queue_bytes as usize <= self.send_queue_bytes_max;
        holds(!is_bounded || is_within, "more waits for its socket than its bound")?;
        let key = Key { slot, generation: connection.generation };
        let is_ending = connection.state == State::Goodbye || self.overflowed.contains(&key);
        holds(!has(Flags::OVERFLOWED) || is_ending, "its queue is over its bound, and nothing ends it")?;
        let is_paused = has(Flags::PAUSED);
        holds(
            !is_paused || matches!(connection.state, State::Opening | State::Moving | State::Open),
            "it is not read although its end is awaited",
        )?;
        match stash {
            Some(stash) => self.verify_stash(connection, stash).and_then(|()| self.verify_behind(key, connection, stash)),
            None => {
                holds(!has(Flags::BACKLOGGED) && connection.queue_bytes == 0, "it has a backlog and no stash")?;
                holds(!is_paused, "it is not read, and waits for nothing")
            }
        }
    }

    /// Whoever is behind is a member of its room, and something leads to the next chunk.
    fn verify_behind(&self, key: Key, connection: &Connection, stash: &Stash) -> Result<(), &'static str> {
        let has = |flag| connection.flags.has(flag);
        let mut is_read_for = false;
        for behind in &stash.behind {
            let membership = self.memberships.get(behind.membership).filter(|membership| membership.feed.is_behind());
            let membership = membership.filter(|membership| membership.session == connection.session);
            let membership = membership.ok_or("somebody is behind who is not a member of its")?;
            holds(
                matches!(membership.stage, Stage::Joined | Stage::Leaving),
                "somebody is behind who has not joined, or has left",
            )?;
            is_read_for |= behind.until == READING && membership.stage == Stage::Joined;
            let room = &self.locals[membership.room.0 as usize];
            let is_awaited = room.passes.iter().any(|pass| pass.brings_up_to(behind.until, membership.position));
            holds(behind.until == READING || is_awaited, "a member has had everything and waits for nothing")?;
            holds(behind.until == READING || behind.until == behind.cursor, "a member waits for less than it has had")?;
        }
        match stash.reading {
            Reading::Idle => {
                let is_sending = connection.pending.is_some() || has(Flags::BACKLOGGED) || has(Flags::IN_FLIGHT);
                let is_moving = is_sending || connection.state == State::Opening;
                holds(!is_read_for || is_moving, "a member is behind, and nothing reads for it")
            }
            Reading::Queued => {
                let is_queued = self.lanes.iter().any(|lane| lane.readers.contains(&key));
                holds(is_queued || stash.behind.is_empty(), "a history is to be read for it, and nothing does")
            }
            Reading::Asked => Ok(()),
        }
    }

    fn verify_stash(&self, connection: &Connection, stash: &Stash) -> Result<(), &'static str> {
        let has = |flag| connection.flags.has(flag);
        holds(!stash.is_idle(), "its stash is empty and kept")?;
        holds(stash.charged == stash.input_bytes(), "its unfinished input is not what is charged")?;
        holds(stash.held.len() <= HELD_MAX, "it holds more messages than its bound")?;
        if connection.state == State::Open {
            let is_waiting = if has(Flags::ECHO) { has(Flags::BACKLOGGED) } else { !stash.held.is_empty() };
            holds(!has(Flags::PAUSED) || is_waiting, "it is not read, and waits for nothing")?;
        }
        holds(stash.held.is_empty() || has(Flags::PAUSED), "it is read although it holds a message")?;
        holds(has(Flags::BACKLOGGED) != stash.backlog.is_empty(), "it has a backlog and is not marked so, or the reverse")?;
        let frames = &self.out.frames;
        let mut bytes = 0;
        for queued in &stash.backlog {
            let frame = frames.frames.get(queued.frame.0 as usize);
            holds(
                frame.is_some_and(|frame| frame.bytes.len() == queued.length as usize),
                "its backlog names a frame that is gone",
            )?;
            bytes += queued.length;
        }
        let first = stash.backlog.front().map_or(0, |queued| queued.length);
        holds(stash.first_sent == 0 || stash.first_sent < first, "more was sent of a frame than there is of it")?;
        holds(connection.queue_bytes == bytes - stash.first_sent, "its queue has other bytes than are counted")?;
        let behind = usize::from(stash.first_sent > 0);
        let controls = stash.backlog.iter().skip(behind).take(stash.controls as usize);
        holds(controls.len() == stash.controls as usize, "more control frames are counted than wait")?;
        // The top bit of the opcode is what makes a control frame (RFC 6455 §5.2).
        let mut opcodes = controls.map(|queued| frames.bytes(queued.frame)[0] & 0x0f);
        holds(opcodes.all(|opcode| opcode & 0x8 != 0), "a data frame stands among the control frames")
    }

    /// Every node is free, pending for one connection or in one send; every send in flight is known to its connection.
    pub(super) fn verify_nodes(&self) -> Result<(), String> {
        let out = &self.out;
        let mut nodes = Marks::new(out.nodes.len());
        let mut found = 0;
        for (slot, connection) in self.connections.iter().enumerate().filter(|(_, connection)| connection.pending.is_some()) {
            let mut at = connection.pending;
            loop {
                check(nodes.mark(at.0 as usize), || format!("connection {slot}: a pending node is used twice"))?;
                found += 1;
                let node = out.nodes[at.0 as usize];
                let is_held = out.in_turn.get(node.frame.0 as usize) == Some(&true);
                check(is_held, || format!("connection {slot}: a pending frame is not held by the turn"))?;
                at = node.next;
                if at == connection.pending {
                    break;
                }
                check(at.is_some(), || format!("connection {slot}: its pending frames are no circle"))?;
            }
        }
        let mut in_flight = Marks::new(self.connections.len());
        for send in &out.in_flight {
            let mut at = match send.origin {
                Origin::Pending(chain) | Origin::Short(chain) => chain,
                Origin::Backlog => NodeIndex::NONE,
            };
            while at.is_some() {
                check(nodes.mark(at.0 as usize), || "a node of a send is used twice".into())?;
                found += 1;
                at = out.nodes[at.0 as usize].next;
            }
            if self.is_current(send.key) {
                check(in_flight.mark(send.key.slot as usize), || format!("connection {}: two sends are in flight", send.key.slot))?;
            }
        }
        for at in &out.free_nodes {
            check(nodes.mark(at.0 as usize), || "a node is free twice, or free and used".into())?;
        }
        same(format_args!("pending nodes"), out.nodes.len(), found + out.free_nodes.len())?;
        let mut dirty = Marks::new(self.connections.len());
        for slot in out.dirty.iter().chain(&out.again) {
            dirty.mark(*slot as usize);
        }
        for (slot, connection) in self.connections.iter().enumerate() {
            let flies = connection.flags.has(Flags::IN_FLIGHT);
            check(flies == in_flight.has(slot), || {
                format!("connection {slot}: it has a send in flight or is marked so, not both")
            })?;
            let is_served = !connection.flags.has(Flags::DIRTY) || dirty.has(slot);
            check(is_served, || format!("connection {slot}: it is marked as having something to send, and is in no list"))?;
        }
        Ok(())
    }

    /// Every frame has as many references as holders, and is charged.
    pub(super) fn verify_frames(&self) -> Result<(), String> {
        let frames = &self.out.frames;
        frames.pool.verify()?;
        let mut holders = vec![0u32; frames.frames.capacity()];
        let mut hold = |frame: FrameIndex, by: &str| match holders.get_mut(frame.0 as usize) {
            Some(count) if frames.frames.contains(frame.0 as usize) => {
                *count += 1;
                Ok(())
            }
            Some(_) | None => Err(format!("{by} names a frame that is gone")),
        };
        hold(self.ping_frame, "the ping")?;
        let mut turn_bytes = 0;
        for frame in &self.out.turn_frames {
            hold(*frame, "the turn")?;
            turn_bytes += frames.length(*frame);
            check(self.out.in_turn[frame.0 as usize], || "a frame of the turn is not marked so".into())?;
        }
        for (_, stash) in &self.stashes {
            stash.backlog.iter().try_for_each(|queued| hold(queued.frame, "a backlog"))?;
            let behind_welcome = stash.resuming.iter().flat_map(|resuming| &resuming.frames);
            behind_welcome.copied().try_for_each(|frame| hold(frame, "a connection without its welcome"))?;
        }
        let mut kept = vec![false; frames.frames.capacity()];
        for (_, publication) in &self.history.publications {
            hold(publication.frame, "a history")?;
            let is_second = std::mem::replace(&mut kept[publication.frame.0 as usize], true);
            check(!is_second, || format!("frame {} is kept twice", publication.frame.0))?;
        }
        for (_, room) in &self.locals {
            room.passes.iter().try_for_each(|pass| hold(pass.frame, "a pass"))?;
        }
        same(format_args!("bytes of the turn"), self.out.turn_bytes, turn_bytes)?;
        same(
            format_args!("frames of the turn"),
            self.out.in_turn.iter().filter(|is_in| **is_in).count(),
            self.out.turn_frames.len(),
        )?;
        let mut charged = 0;
        for (index, frame) in &frames.frames {
            same(format_args!("references of frame {index}"), frame.references as usize, holders[index] as usize)?;
            check(frame.references > 0, || format!("frame {index} is kept for nobody"))?;
            same(format_args!("charge of frame {index}"), frame.charged as usize, charge_of(frame.bytes.len()))?;
            check(frame.kept == kept[index], || format!("frame {index} is kept by a history and not marked so, or the reverse"))?;
            if !frame.kept {
                charged += frame.charged as usize;
            }
        }
        // The ping's frame is no part of the account: it is there for the shard's whole life.
        self.verify_account(MemoryUse::Frames, charged - charge_of(frames.length(self.ping_frame)))
    }
}
