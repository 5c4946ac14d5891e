//! The driver's double: it turns shards as the contract of `seam` says, over virtual sockets and lanes, as badly as a kernel may.
//!
//! It checks the core's side of the contract on the way: one send a connection and submission, bytes unmoved until settled, tickets
//! dense, lanes within their places, no output and no deadline that never ends.

use crate::plan::Fault;
use crate::socket::Socket;
use crate::world::World;
use throng::shard::{Action, Ended, Flow, Key, Lane, LaneRoom, MeshMessage, Shard, ShardId, Taken, Transmit};
use throng::time::Millis;

/// Submissions within one turn, after which its output is taken to be endless.
const SUBMISSIONS_MAX: usize = 100_000;
/// Turns in which one deadline stays due, after which it is taken to be so for ever.
const OVERDUE_MAX: usize = 10_000;
/// How long a paused connection is kept after its peer's FIN, as the driver does.
const HANGUP_GRACE_MS: u64 = 1_000;
/// Time for which a loop must have stood still for it to say so, as the driver does.
const STALL_MS: u64 = 200;
/// Keys of closed connections that are remembered, for events that come too late.
const STALE_KEYS_MAX: usize = 8;

/// One shard with what its driver keeps.
pub(crate) struct Driver {
    pub(crate) shard: Shard,
    /// The socket in each slot.
    pub(crate) slots: Vec<Option<usize>>,
    generations: Vec<u32>,
    collected: Vec<(Transmit, usize)>,
    /// Copies of what was collected, one behind the other.
    copies: Vec<u8>,
    resumes: Vec<Key>,
    finishes: Vec<Key>,
    measures: Vec<Key>,
    probes: Vec<Key>,
    stale: Vec<Key>,
    unread_told: usize,
    overdue: usize,
    /// It stands still until then.
    pub(crate) stalled_until: Millis,
    pub(crate) stalled_from: Option<Millis>,
    order: Vec<usize>,
}

impl Driver {
    pub(crate) fn new(shard: Shard, slots: usize) -> Driver {
        Driver {
            shard,
            slots: vec![None; slots],
            generations: vec![0; slots],
            collected: Vec::new(),
            copies: Vec::new(),
            resumes: Vec::new(),
            finishes: Vec::new(),
            measures: Vec::new(),
            probes: Vec::new(),
            stale: Vec::new(),
            unread_told: 0,
            overdue: 0,
            stalled_until: Millis(0),
            stalled_from: None,
            order: Vec::new(),
        }
    }

    /// The key of a new connection in a free slot; `None` if all are taken.
    pub(crate) fn open(&mut self, socket: usize) -> Option<Key> {
        let slot = self.slots.iter().position(Option::is_none)?;
        self.slots[slot] = Some(socket);
        self.generations[slot] += 1;
        Some(Key { slot: slot as u32, generation: self.generations[slot] })
    }

    fn is_due(&self, now: Millis) -> bool {
        self.shard.poll_timeout().is_some_and(|due| due <= now)
    }
}

/// The messages between two shards in one direction and of one kind.
#[derive(Default)]
pub(crate) struct LaneQueue {
    pub(crate) queue: std::collections::VecDeque<MeshMessage>,
    /// Nothing is delivered before.
    pub(crate) until: Millis,
}

fn place(lane: Lane) -> usize {
    match lane {
        Lane::Command => 0,
        Lane::Consequence => 1,
    }
}

impl World<'_> {
    /// One turn of a shard, in the order of the contract. Whether there is anything left to do without time going on.
    pub(crate) fn turn(&mut self, shard: usize) -> bool {
        let now = self.now.mono;
        if self.drivers[shard].stalled_until > now {
            return false;
        }
        if let Some(from) = self.drivers[shard].stalled_from.take() {
            self.submit(shard);
            let ms = now.since(from);
            if ms >= STALL_MS {
                self.drivers[shard].shard.handle_stall(self.now, ms);
            }
        }
        let mut busy = self.submit(shard);
        busy |= self.stale_events(shard);
        busy |= self.probes(shard);
        busy |= self.resumes(shard);
        busy |= self.sockets(shard);
        busy |= self.mesh(shard);
        if self.drivers[shard].is_due(now) {
            self.drivers[shard].shard.handle_timeout(self.now);
        }
        self.tell_unread(shard);
        let shards = self.drivers.len();
        for peer in (0..shards).filter(|peer| *peer != shard) {
            let lanes = &self.lanes[shard * shards + peer];
            let room = LaneRoom { commands: self.places - lanes[0].queue.len(), consequences: self.places - lanes[1].queue.len() };
            self.drivers[shard].shard.handle_lane(ShardId(peer as u16), room);
        }
        self.drivers[shard].shard.handle_turn_end(self.now);
        busy |= self.collect(shard);
        let driver = &mut self.drivers[shard];
        driver.overdue = if driver.is_due(now) { driver.overdue + 1 } else { 0 };
        check!(driver.overdue < OVERDUE_MAX, "endless deadline", "shard {shard}: a deadline stays due");
        busy || driver.shard.has_output() || !driver.resumes.is_empty() || !driver.probes.is_empty()
    }

    /// Submits what was collected and settles it.
    fn submit(&mut self, shard: usize) -> bool {
        let mut collected = std::mem::take(&mut self.drivers[shard].collected);
        let mut failed: Vec<(u32, Taken)> = Vec::new();
        for (index, (transmit, copy)) in collected.iter().enumerate() {
            let driver = &mut self.drivers[shard];
            check!(transmit.ticket as usize == index, "tickets", "{transmit:?} is number {index}");
            let bytes = driver.shard.transmit_bytes(transmit);
            check!(!bytes.is_empty(), "empty send", "{transmit:?}");
            check!(
                driver.copies.get(*copy..*copy + bytes.len()) == Some(bytes),
                "unmoved bytes",
                "{transmit:?} of {} bytes changed before it was settled",
                bytes.len()
            );
            let earlier = &collected[..index];
            check!(
                earlier.iter().all(|(other, _)| other.key != transmit.key),
                "one send a submission",
                "{transmit:?} is not the first"
            );
            let Some(id) = driver.slots[transmit.key.slot as usize] else { continue };
            let socket = &mut self.sockets[id];
            if socket.key != transmit.key {
                continue;
            }
            check!(!socket.finished, "send after finish", "{transmit:?}");
            if socket.end == Some(Ended::Error) {
                failed.push((transmit.ticket, Taken::Broken));
                continue;
            }
            let mut room = socket.held_bytes_max.saturating_sub(socket.to_client.len());
            if room < bytes.len() {
                self.seen[Fault::FullSocket as usize] += 1;
            } else if !self.calm && self.shape.has(Fault::ShortSend) && !socket.vanished && self.rng.chance(6) {
                // Not of one that has vanished: a socket that takes the rest later is one whose peer reads.
                // One time in three nothing at all: EAGAIN.
                room = if self.rng.chance(3) { 0 } else { self.rng.index(bytes.len() + 1) };
                self.seen[Fault::ShortSend as usize] += 1;
            }
            let taken = bytes.len().min(room);
            if let Some(trace) = &mut self.trace {
                trace.push(format!("shard {shard} at {}: {taken} of {} bytes to peer {id}", self.now.mono.0, bytes.len()));
            }
            socket.to_client.push(&bytes[..taken]);
            if taken < bytes.len() {
                failed.push((transmit.ticket, Taken::Short(taken)));
            }
        }
        if failed.len() > 1 && self.shape.has(Fault::PermutedCompletion) {
            self.rng.shuffle(&mut failed);
            self.seen[Fault::PermutedCompletion as usize] += 1;
        }
        let driver = &mut self.drivers[shard];
        for (ticket, taken) in failed {
            driver.shard.handle_transmitted(self.now, ticket, taken);
        }
        driver.shard.handle_settled(self.now);
        let happened = !collected.is_empty();
        collected.clear();
        driver.collected = collected;
        driver.copies.clear();
        // The kernel counts within the submission, behind its sends.
        for key in std::mem::take(&mut driver.measures) {
            if let Some(id) = self.socket_of(shard, key) {
                let bytes = self.sockets[id].to_client.len();
                self.drivers[shard].shard.handle_measured(key, bytes as u32);
            }
        }
        let driver = &mut self.drivers[shard];
        for key in std::mem::take(&mut driver.finishes) {
            if let Some(id) = self.socket_of(shard, key) {
                self.sockets[id].finished = true;
            }
        }
        happened
    }

    /// Events of connections that were closed before.
    fn stale_events(&mut self, shard: usize) -> bool {
        if self.calm || !self.shape.has(Fault::StaleEvent) || self.drivers[shard].stale.is_empty() || !self.rng.chance(4) {
            return false;
        }
        let now = self.now;
        let at = self.rng.index(self.drivers[shard].stale.len());
        let key = self.drivers[shard].stale[at];
        let core = &mut self.drivers[shard].shard;
        self.seen[Fault::StaleEvent as usize] += 1;
        match self.rng.below(6) {
            0 => {
                let received = core.handle_received(now, key, &mut [0x81, 0x80, 0, 0, 0, 0]);
                check!(received.consumed == 6 && received.flow == Flow::Continue, "stale bytes", "{key:?}: {received:?}");
            }
            1 => core.handle_closed(now, key, Ended::Error),
            2 => core.handle_closed(now, key, Ended::Eof),
            3 => core.handle_writable(now, key),
            4 => core.handle_probed(now, key, true),
            _ => core.handle_measured(key, 5),
        }
        true
    }

    /// Answers to probes, as late as may be.
    fn probes(&mut self, shard: usize) -> bool {
        if self.drivers[shard].probes.is_empty() {
            return false;
        }
        if !self.calm && self.shape.has(Fault::PermutedCompletion) && self.rng.chance(2) {
            self.seen[Fault::PermutedCompletion as usize] += 1;
            return true;
        }
        for key in std::mem::take(&mut self.drivers[shard].probes) {
            let Some(id) = self.socket_of(shard, key) else { continue };
            let socket = &self.sockets[id];
            let silent = socket.to_server.is_empty() && socket.stash.is_empty() && !socket.heard;
            self.drivers[shard].shard.handle_probed(self.now, key, silent);
        }
        true
    }

    fn resumes(&mut self, shard: usize) -> bool {
        let mut resumes = std::mem::take(&mut self.drivers[shard].resumes);
        let happened = !resumes.is_empty();
        for key in resumes.drain(..) {
            let Some(id) = self.socket_of(shard, key) else { continue };
            let socket = &mut self.sockets[id];
            if !std::mem::replace(&mut socket.paused, false) {
                continue;
            }
            let mut stash = std::mem::take(&mut socket.stash);
            if !stash.is_empty() {
                self.feed(id, &mut stash);
            }
        }
        happened
    }

    /// What happened on the sockets of a shard.
    fn sockets(&mut self, shard: usize) -> bool {
        let mut happened = false;
        let permuted = !self.calm && self.shape.has(Fault::PermutedCompletion);
        let mut order = std::mem::take(&mut self.drivers[shard].order);
        order.clear();
        let driver = &self.drivers[shard];
        let (sockets, now) = (&self.sockets, self.now.mono);
        order.extend(driver.slots.iter().flatten().copied().filter(|id| {
            let socket = &sockets[*id];
            socket.has_event(now) || (socket.paused && socket.end.is_some())
        }));
        if permuted {
            self.rng.shuffle(&mut order);
        }
        for id in order.iter().copied() {
            if permuted && self.rng.chance(3) {
                happened |= self.sockets[id].has_event(now);
            } else {
                happened |= self.socket(shard, id);
            }
        }
        self.drivers[shard].order = order;
        happened
    }

    pub(crate) fn socket_of(&self, shard: usize, key: Key) -> Option<usize> {
        self.drivers[shard].slots[key.slot as usize].filter(|id| self.sockets[*id].key == key)
    }

    fn socket(&mut self, shard: usize, id: usize) -> bool {
        let now = self.now;
        let Socket { key, admitted, .. } = self.sockets[id];
        let socket = &mut self.sockets[id];
        let core = &mut self.drivers[shard].shard;
        if !socket.accepted {
            socket.accepted = true;
            core.handle_accepted(now, key, None, admitted);
            return true;
        }
        let mut happened = false;
        if socket.awaits_writable && socket.is_writable() {
            socket.awaits_writable = false;
            core.handle_writable(now, key);
            happened = true;
        }
        if socket.end == Some(Ended::Error) && !socket.end_told {
            socket.end_told = true;
            core.handle_closed(now, key, Ended::Error);
            return true;
        }
        if socket.end_told {
            return happened;
        }
        if socket.paused {
            if socket.end == Some(Ended::Eof) && socket.to_server.is_empty() {
                let due = *socket.hung_up.get_or_insert(now.mono.after(HANGUP_GRACE_MS));
                if due <= now.mono {
                    socket.end_told = true;
                    socket.hung_up = None;
                    core.handle_closed(now, key, Ended::Eof);
                    return true;
                }
            }
            return happened;
        }
        socket.hung_up = None;
        if !socket.to_server.is_empty() {
            let all = socket.to_server.len();
            let mut count = all;
            if !self.calm && self.shape.has(Fault::SplitRead) && !self.rng.chance(4) {
                count = 1 + self.rng.index(all.min(300));
                self.seen[Fault::SplitRead as usize] += u64::from(count < all);
            } else if all > 400 {
                self.seen[Fault::MergedRead as usize] += 1;
            }
            let mut bytes = std::mem::take(&mut self.read_buffer);
            bytes.clear();
            self.sockets[id].to_server.take(count, &mut bytes);
            self.feed(id, &mut bytes);
            self.read_buffer = bytes;
            return true;
        }
        if socket.end == Some(Ended::Eof) {
            socket.end_told = true;
            core.handle_closed(now, key, Ended::Eof);
            return true;
        }
        happened
    }

    /// Hands bytes to the core.
    fn feed(&mut self, id: usize, bytes: &mut [u8]) {
        let socket = &mut self.sockets[id];
        socket.heard = true;
        socket.last_fed = self.now.mono;
        let all = bytes.len();
        let received = self.drivers[socket.shard].shard.handle_received(self.now, socket.key, bytes);
        check!(received.consumed <= all, "consumed", "{} of {all} bytes", received.consumed);
        match received.flow {
            Flow::Continue => {
                check!(received.consumed == all, "consumed", "{} of {all} bytes are left without a pause", received.consumed);
            }
            Flow::Pause => {
                // The socket may have been closed by what it said.
                socket.paused = true;
                socket.stash = bytes[received.consumed..].to_vec();
            }
        }
    }

    fn tell_unread(&mut self, shard: usize) {
        let sockets = &self.sockets;
        let unread: usize = self.drivers[shard].slots.iter().flatten().map(|id| sockets[*id].stash.len()).sum();
        let driver = &mut self.drivers[shard];
        if unread != driver.unread_told {
            driver.unread_told = unread;
            driver.shard.handle_unread(unread);
        }
    }

    /// Messages of other shards.
    fn mesh(&mut self, shard: usize) -> bool {
        let mut happened = false;
        let shards = self.drivers.len();
        let reorders = !self.calm && self.shape.has(Fault::LaneReorder);
        let mut lanes: Vec<(usize, Lane)> =
            (0..shards).filter(|from| *from != shard).flat_map(|from| [(from, Lane::Consequence), (from, Lane::Command)]).collect();
        if reorders {
            self.rng.shuffle(&mut lanes);
        }
        for (from, lane) in lanes {
            let index = from * shards + shard;
            if self.lanes[index][place(lane)].until > self.now.mono {
                continue;
            }
            let mut left = if reorders { self.rng.below(6) } else { u64::MAX };
            while !self.lanes[index][place(lane)].queue.is_empty() {
                if left == 0 {
                    self.seen[Fault::LaneReorder as usize] += 1;
                    happened = true;
                    break;
                }
                let core = &mut self.drivers[shard].shard;
                if !core.accepts_mesh(ShardId(from as u16), lane) {
                    break;
                }
                left = left.saturating_sub(1);
                let Some(message) = self.lanes[index][place(lane)].queue.pop_front() else { break };
                happened = true;
                core.handle_mesh(self.now, ShardId(from as u16), lane, message);
            }
        }
        happened
    }

    /// Collects all outputs, with a submission in between when a queue is full.
    fn collect(&mut self, shard: usize) -> bool {
        let mut happened = false;
        let shards = self.drivers.len();
        for _ in 0..SUBMISSIONS_MAX {
            while let Some((to, lane, message)) = self.drivers[shard].shard.poll_mesh() {
                let queue = &mut self.lanes[shard * shards + usize::from(to.0)][place(lane)].queue;
                queue.push_back(message);
                check!(queue.len() <= self.places, "lane places", "shard {shard} to {to:?}: {} messages", queue.len());
                self.seen[Fault::LaneFull as usize] += u64::from(queue.len() == self.places);
                happened = true;
            }
            let is_small = self.shape.has(Fault::SmallRing);
            let room = if is_small { 1 + self.rng.index(5) } else { usize::MAX };
            let mut polled = 0;
            let driver = &mut self.drivers[shard];
            while driver.collected.len() < room
                && let Some(transmit) = driver.shard.poll_transmit()
            {
                let at = driver.copies.len();
                driver.copies.extend_from_slice(driver.shard.transmit_bytes(&transmit));
                driver.collected.push((transmit, at));
                polled += 1;
            }
            let mut actions = 0;
            while actions < room
                && let Some(action) = self.drivers[shard].shard.poll_action()
            {
                actions += 1;
                self.act(shard, action);
            }
            polled += actions;
            happened |= polled > 0;
            self.seen[Fault::SmallRing as usize] += u64::from(is_small && polled >= room);
            if polled == 0 || !self.drivers[shard].shard.has_output() {
                return happened;
            }
            self.submit(shard);
        }
        fail!("endless output", "shard {shard} goes on for ever");
    }

    fn act(&mut self, shard: usize, action: Action) {
        let key = action.key();
        let Some(id) = self.socket_of(shard, key) else { fail!("action of a stale key", "{action:?}") };
        trace!(self, "shard {shard} at {}: {action:?}", self.now.mono.0);
        let driver = &mut self.drivers[shard];
        let socket = &mut self.sockets[id];
        match action {
            Action::Close(_) => {
                socket.closed = true;
                socket.stash = Vec::new();
                driver.slots[key.slot as usize] = None;
                if driver.stale.len() == STALE_KEYS_MAX {
                    driver.stale.remove(0);
                }
                driver.stale.push(key);
                self.admitted -= usize::from(socket.admitted);
                if !socket.to_server.is_empty() {
                    // A socket that is closed with unread input is reset, and what it held for the client is lost.
                    socket.to_server.clear();
                    if self.rng.chance(2) {
                        socket.to_client.clear();
                    }
                }
                self.server_closes(id);
            }
            // Behind the sends of the same submission.
            Action::Finish(_) => driver.finishes.push(key),
            Action::Probe(_) => {
                socket.heard = false;
                driver.probes.push(key);
            }
            Action::Measure(_) => driver.measures.push(key),
            Action::AwaitWritable(_) => socket.awaits_writable = true,
            Action::Resume(_) => driver.resumes.push(key),
            Action::HandOver(_, to) => self.hand_over(shard, id, usize::from(to.0)),
        }
    }

    /// Gives a socket to another shard, unless that has no slot for it.
    fn hand_over(&mut self, from: usize, id: usize, to: usize) {
        let old = self.sockets[id].key;
        check!(self.sockets[id].paused, "hand-over", "socket {id} is not paused");
        check!(!self.sockets[id].end_told, "hand-over", "the end of socket {id} was told");
        let Some(new) = self.drivers[to].open(id) else {
            self.drivers[from].shard.handle_stayed(self.now, old);
            return;
        };
        let Some(baggage) = self.drivers[from].shard.take_baggage(old) else {
            fail!("hand-over", "socket {id} has no baggage");
        };
        self.drivers[from].slots[old.slot as usize] = None;
        let socket = &mut self.sockets[id];
        (socket.shard, socket.key) = (to, new);
        socket.awaits_writable = false;
        socket.hung_up = None;
        let flow = self.drivers[to].shard.handle_adopted(self.now, new, &baggage, socket.admitted);
        socket.paused = flow == Flow::Pause;
        if !socket.paused {
            let mut stash = std::mem::take(&mut socket.stash);
            if !stash.is_empty() {
                self.feed(id, &mut stash);
            }
        }
    }
}
