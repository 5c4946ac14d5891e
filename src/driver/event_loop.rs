//! The loop of one shard: one turn after the other, each with one system call.
//!
//! A turn is the contract at the top of [`shard::seam`](crate::shard::seam), in its order: submit and settle, events, room in the
//! lanes, the turn's end, outputs, and then sleep or the next turn. What an event means to a connection is in `events`.
//!
//! Invariants:
//! - Between two submissions, what the core yields is only collected; it goes into the ring together, sends before everything else,
//!   so that a close follows the last send of its connection.
//! - After *every* submission the send failures are told first, then the batch is settled, then anything else happens. The ring
//!   guarantees that by then the submission queue is empty and every completion is copied out.

use super::clock::{Clock, Micros};
use super::connections::{Connections, Flag};
use super::host::Host;
use super::listener::Accepting;
use super::mesh::{DECLINED_NAP_MS, Mesh};
use super::moves::{Arrival, MOVE_NAP_MS, Moves};
use super::pause::Stashes;
use super::secure::{Secure, Sent};
use super::stats::DriverStats;
use super::{Mail, Shared};
use crate::limits::{CLOSE_LINGER_MS, COMPLETIONS_PER_TURN, Limits};
use crate::shard::{Key, Order, Shard, ShardConfig, ShardId, Taken, Transmit};
use crate::time::{Millis, Now};
use crate::uring::planted::{Bug, is_planted};
use crate::uring::{Entry, Op, Ring, RingConfig, Send, Wait, memory};
use crossbeam_channel::Receiver;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Time between two publications of a shard's numbers, in ms.
const PUBLISH_MS: u64 = 100;
/// Time after which what was freed is given back to the kernel, in ms.
const RETURN_FREED_MS: u64 = 1_000;
/// Time for which the loop must have stood still for deadlines to move, in ms.
const STALL_MS: u64 = 200;
/// Time after the end of a drain at which a shard ends with sockets still open, in ms.
const DRAIN_GRACE_MS: u64 = CLOSE_LINGER_MS + 1_000;
/// Longest wait, in µs: an hour, so that a deadline that never comes is a valid timeout.
const WAIT_US_MAX: u64 = 3_600_000_000;
/// The most operations that one action of the core leads to: the last words of TLS, three cancellations and a close.
const ENTRIES_PER_ACTION_MAX: usize = 5;

/// What a shard's thread is given.
pub(super) struct Parts {
    pub(super) id: ShardId,
    pub(super) shared: Arc<Shared>,
    pub(super) mesh: Mesh,
    pub(super) listener: OwnedFd,
    /// Where clients come over TLS, and how it is spoken.
    pub(super) secure: Option<(OwnedFd, crate::tls::Config)>,
    pub(super) mailbox: Receiver<Mail>,
    pub(super) arrivals: Receiver<Arrival>,
    pub(super) seed: [u8; 32],
    pub(super) secret: [u8; 32],
    pub(super) limits: Limits,
    pub(super) echo: bool,
    pub(super) ring: RingConfig,
}

/// One shard's loop, with all that it owns.
pub(super) struct EventLoop<H: Host = Clock> {
    pub(super) id: ShardId,
    pub(super) shared: Arc<Shared>,
    host: H,
    pub(super) ring: Ring<H::Io>,
    pub(super) shard: Shard,
    pub(super) mesh: Mesh,
    mailbox: Receiver<Mail>,
    pub(super) arrivals: Receiver<Arrival>,
    /// The plain one, and the one for TLS if there is one.
    pub(super) doors: Vec<(OwnedFd, Accepting)>,
    pub(super) secure: Secure,
    pub(super) connections: Connections,
    pub(super) stashes: Stashes,
    pub(super) stats: DriverStats,
    /// The reading with which the turn works.
    pub(super) now: Now,
    /// Sends of the submission that is being collected, then of the one that is being settled. Index = ticket.
    transmits: Vec<Transmit>,
    /// Operations that go into the ring after the sends.
    pub(super) actions: Vec<Entry>,
    /// Connections to be read from again, as an event of the next turn.
    pub(super) resumes: Vec<Key>,
    /// Answers to peeks, with whether nothing was there; they are told when all completions that came with them were handled.
    pub(super) peeks: Vec<(Key, bool)>,
    /// Paused connections whose peer has finished sending, with when to stop waiting for their resume. Oldest first.
    pub(super) hangups: VecDeque<(Millis, Key)>,
    /// Connections that go to other shards.
    pub(super) moves: Moves,
    /// Unread bytes, and those that TLS keeps, that the core knows of.
    unread_told: usize,
    /// When the shard ends although sockets are open.
    drain_by: Option<Millis>,
    finished: bool,
    /// Something has happened that is not published yet.
    pub(super) dirty: bool,
    published_at: Millis,
    /// When memory that was freed is to be given back to the kernel; `None` if nothing has happened since it was.
    return_due: Option<Millis>,
    /// How long the next submission waits.
    wait: Wait,
    /// When events were last looked at.
    looked: Micros,
}

impl<H: Host> EventLoop<H> {
    /// Makes the ring and the core of a shard, on the thread that will run it.
    ///
    /// # Errors
    /// What the kernel says to the ring.
    pub(super) fn new(parts: Parts, host: H) -> io::Result<EventLoop<H>> {
        let Parts { id, shared, mesh, listener, secure, mailbox, arrivals, seed, secret, limits, echo, ring: sizes } = parts;
        let slots = sizes.slots as usize;
        let (secure, tls) = secure.unzip();
        let listeners: Vec<OwnedFd> = [Some(listener), secure].into_iter().flatten().collect();
        let mut ring = Ring::on(host.open(&sizes)?, sizes)?;
        ring.enable()?;
        shared.doors[usize::from(id.0)].open(ring.descriptor());
        let looked = host.micros();
        let now = host.at(looked);
        let submissions = ring.room_max();
        let config = ShardConfig { id, shards: shared.plan.shards, slots, limits, echo, seed, secret };
        Ok(EventLoop {
            id,
            host,
            ring,
            shard: Shard::new(config, now),
            mesh,
            mailbox,
            arrivals,
            doors: listeners.into_iter().map(|listener| (listener, Accepting::default())).collect(),
            secure: Secure::new(tls, slots),
            connections: Connections::new(slots),
            stashes: Stashes::default(),
            stats: DriverStats::default(),
            now,
            transmits: Vec::with_capacity(submissions),
            actions: Vec::with_capacity(submissions),
            resumes: Vec::new(),
            peeks: Vec::new(),
            hangups: VecDeque::new(),
            moves: Moves::new(shared.plan.shards),
            unread_told: 0,
            drain_by: None,
            finished: false,
            dirty: true,
            published_at: Millis(0),
            return_due: None,
            wait: Wait::Poll,
            looked,
            shared,
        })
    }

    /// Runs until all shards have drained.
    ///
    /// # Errors
    /// The kernel refuses the ring.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.begin()?;
        while self.turn()? {}
        Ok(())
    }

    /// What comes before the first turn.
    ///
    /// # Errors
    /// As [`EventLoop::run`].
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let waker = self.shared.posts[usize::from(self.id.0)].waker.entry();
        self.push(waker)?;
        self.looked = self.host.micros();
        Ok(())
    }

    /// One turn; false once all shards have drained.
    ///
    /// # Errors
    /// As [`EventLoop::run`].
    pub(super) fn turn(&mut self) -> io::Result<bool> {
        let submitted = self.host.micros();
        let busy = submitted.since(self.looked);
        self.submit(self.wait)?;
        let looked = self.host.micros();
        self.looked = looked;
        self.mesh.wake(&self.shared.doors);
        self.now = self.host.at(looked);
        self.note_turn(busy + overslept(self.wait, looked.since(submitted)));
        self.handle_events()?;
        self.mesh.tell_room(&mut self.shard);
        self.shard.handle_turn_end(self.now);
        self.drain()?;
        self.check_finished();
        self.return_freed_if_due();
        self.publish_if_due();
        if self.shared.has_finished() {
            // The last closes go out; the ring's end closes what is left.
            self.submit(Wait::Poll)?;
            self.publish();
            return Ok(false);
        }
        self.wait = self.next_wait();
        Ok(true)
    }

    /// How long the next turn's submission will wait.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn wait(&self) -> Wait {
        self.wait
    }

    /// Whether the next turn's submission brings the kernel anything.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn has_submissions(&mut self) -> bool {
        !self.transmits.is_empty()
            || !self.actions.is_empty()
            || self.secure.own_count() > 0
            || self.ring.queued() > 0
            || self.ring.buffers().has_spent()
    }

    /// Whether another shard has done something for this one since it last looked, which its sleep would miss.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn is_owed_a_turn(&self) -> bool {
        self.mesh.has_news(&self.shard) || !self.arrivals.is_empty()
    }

    // ---- submit and settle ----------------------------------------------------------------------------------------------

    /// Enters the kernel with everything that was collected, then settles it.
    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        let EventLoop { ring, shard, transmits, actions, connections, secure, .. } = self;
        let reaped_before = ring.pending_completions();
        let shard_bytes = &*shard;
        ring.enter_with(
            |batch| {
                for transmit in transmits.iter().filter(|transmit| connections.is_current(transmit.key)) {
                    let bytes = secure.bytes_of(transmit.ticket, shard_bytes.transmit_bytes(transmit));
                    if bytes.is_empty() {
                        continue;
                    }
                    let sent = batch.send(Send { slot: transmit.key.slot, ticket: transmit.ticket, bytes });
                    sent.expect("no more is collected than the submission queue has room for");
                }
                for (slot, ticket, bytes) in secure.own_sends() {
                    let sent = batch.send(Send { slot, ticket, bytes });
                    sent.expect("no more is collected than the submission queue has room for");
                }
                for action in actions.iter() {
                    batch.push(action).expect("no more is collected than the submission queue has room for");
                }
            },
            wait,
        )?;
        actions.clear();
        self.settle(reaped_before);
        Ok(())
    }

    /// Tells the core which sends failed, then that the rest was taken.
    fn settle(&mut self, reaped_before: usize) {
        if is_planted(Bug::SettledFirst) {
            self.shard.handle_settled(self.now);
        }
        let mut waiting = Vec::new();
        if !self.transmits.is_empty() || self.secure.own_count() > 0 {
            let missed = usize::from(is_planted(Bug::ShortSendMissed));
            for completion in self.ring.completions_from(reaped_before + missed) {
                if completion.data.op() != Op::Send {
                    continue;
                }
                let taken = match completion.result {
                    count if count >= 0 => Taken::Short(count as usize),
                    // EAGAIN: the socket's buffer is full, or the kernel is short of memory for it; POLLOUT tells when it has room.
                    errno if errno == -libc::EAGAIN => Taken::Short(0),
                    // EPIPE, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, …: the socket is broken, and its receive says so too.
                    _ => Taken::Broken,
                };
                let count = match taken {
                    Taken::Short(count) => Some(count),
                    Taken::Broken => None,
                };
                self.stats.short_sends += u64::from(count.is_some());
                self.stats.failed_sends += u64::from(count.is_none());
                match self.secure.note_short(completion.data.index(), count) {
                    None => self.shard.handle_transmitted(self.now, completion.data.index(), taken),
                    Some(Sent::Short(ticket, count)) => self.shard.handle_transmitted(self.now, ticket, Taken::Short(count)),
                    Some(Sent::Broken(ticket)) => self.shard.handle_transmitted(self.now, ticket, Taken::Broken),
                    Some(Sent::Waits(slot)) => waiting.push(slot),
                    Some(Sent::Done) => {}
                }
            }
            self.transmits.clear();
        }
        let EventLoop { secure, shard, now, .. } = self;
        let released = secure.settle(|ticket, count| shard.handle_transmitted(*now, ticket, Taken::Short(count)));
        self.shard.handle_settled(self.now);
        for slot in released {
            if let Some(key) = self.connections.current(slot) {
                self.shard.handle_writable(self.now, key);
            }
        }
        for slot in waiting {
            if let Some(key) = self.connections.current(slot)
                && !self.connections.put(key, Flag::Writable, true)
            {
                self.actions.push(Entry::writable(key.slot, key.generation));
            }
        }
    }

    /// Queues an operation in the middle of a turn, outside of what the core yields. A full queue is submitted.
    pub(super) fn push(&mut self, entry: Entry) -> io::Result<()> {
        if self.ring.push(entry.clone()).is_err() {
            self.stats.early_submits += 1;
            // Nothing of the core's is lent at this point: sends are collected only between the events and the next submission.
            self.ring.enter([], Wait::Poll)?;
            self.ring.push(entry).expect("a submission leaves the queue empty");
        }
        Ok(())
    }

    // ---- events ---------------------------------------------------------------------------------------------------------

    fn handle_events(&mut self) -> io::Result<()> {
        for _ in 0..COMPLETIONS_PER_TURN {
            if self.shard.is_turn_full() {
                break;
            }
            let Some(completion) = self.ring.next_completion() else { break };
            self.dirty = true;
            self.handle_completion(&completion)?;
        }
        if self.ring.pending_completions() > 0 {
            self.stats.budget_exhausted += 1;
        } else {
            self.answer_probes();
        }
        self.feed_resumed()?;
        self.end_hung_up();
        self.end_largest_stashes();
        self.take_arrivals()?;
        self.step_moves()?;
        self.dirty |= self.mesh.serve(&mut self.shard, self.now, &mut self.stats) > 0;
        while let Ok(Mail(order)) = self.mailbox.try_recv() {
            self.handle_order(order);
        }
        if self.shard.poll_timeout().is_some_and(|due| due <= self.now.mono) {
            self.dirty = true;
            self.shard.handle_timeout(self.now);
        }
        self.step_accepting()?;
        let unread = self.stashes.bytes() + self.secure.bytes();
        if self.unread_told != unread {
            self.unread_told = unread;
            self.shard.handle_unread(self.unread_told);
        }
        Ok(())
    }

    fn handle_order(&mut self, order: Order) {
        self.dirty = true;
        if let Order::Drain { by } = order {
            // Any moment may be named; one that never comes leaves the drain to the connections.
            self.drain_by = Some(Millis(by.0.saturating_add(DRAIN_GRACE_MS)));
        }
        self.shard.handle_order(self.now, order);
    }

    /// Notes that no event was looked at for `us` microseconds though there may have been some.
    fn note_turn(&mut self, us: u64) {
        self.stats.turns += 1;
        self.stats.observe_lag(us);
        let ms = us / 1_000;
        if ms >= STALL_MS {
            self.stats.stalls += 1;
            self.stats.stall_ms += ms;
            self.shard.handle_stall(self.now, ms);
        }
    }

    // ---- outputs --------------------------------------------------------------------------------------------------------

    /// Collects all that the core has to say, with a submission in between wherever a queue is full.
    fn drain(&mut self) -> io::Result<()> {
        loop {
            self.mesh.send_all(&mut self.shard, &mut self.stats);
            let (room, room_max) = (self.ring.room(), self.ring.room_max());
            let before = self.transmits.len() + self.actions.len() + self.resumes.len();
            // Actions have their share of the queue, so that closes go out however much there is to send.
            while self.collected() + room_max / 4 < room && !self.secure.is_full() {
                let Some(transmit) = self.shard.poll_transmit() else { break };
                if self.secure.holds(transmit.key.slot) {
                    self.secure.seal(transmit.ticket, transmit.key.slot, self.shard.transmit_bytes(&transmit));
                }
                self.transmits.push(transmit);
            }
            while self.collected() + ENTRIES_PER_ACTION_MAX <= room {
                let Some(action) = self.shard.poll_action() else { break };
                self.act(action);
            }
            let collected = self.transmits.len() + self.actions.len() + self.resumes.len() > before;
            // What is left although nothing could be collected waits for the next turn: passes whose budget is used up.
            if !self.shard.has_output() || !collected {
                break;
            }
            self.stats.early_submits += 1;
            self.submit(Wait::Poll)?;
        }
        if self.collected() + self.shared.doors.len() > self.ring.room() {
            self.stats.early_submits += 1;
            self.submit(Wait::Poll)?;
        }
        let room = self.ring.room().saturating_sub(self.collected() + self.shared.doors.len());
        self.secure.collect_own(room);
        let (actions, stats) = (&mut self.actions, &mut self.stats);
        self.mesh.ring_doorbells(&self.shared.doors, |peer, ring| {
            if is_planted(Bug::DoorbellLost) {
                return;
            }
            stats.doorbells += 1;
            actions.push(Entry::doorbell(ring, u32::from(peer.0)));
        });
        Ok(())
    }

    /// Entries that go into the ring with the next submission.
    fn collected(&self) -> usize {
        self.transmits.len() + self.secure.own_count() + self.actions.len()
    }

    // ---- the end of a turn ----------------------------------------------------------------------------------------------

    /// How long the next submission waits: not at all while there is anything to do.
    fn next_wait(&mut self) -> Wait {
        let busy = self.shard.has_output()
            || self.ring.pending_completions() > 0
            || !self.resumes.is_empty()
            || !self.peeks.is_empty()
            || self.has_settled_moves()
            || self.secure.has_due()
            || !self.mesh.may_sleep(&self.shard, &self.shared.doors, || {
                !self.mailbox.is_empty() || !self.arrivals.is_empty() || self.shared.has_finished()
            });
        if busy {
            return Wait::Poll;
        }
        let retry = self.moves.is_waiting().then(|| self.now.mono.after(MOVE_NAP_MS));
        let nap = self.mesh.has_declined().then(|| self.now.mono.after(DECLINED_NAP_MS));
        let publish = self.dirty.then(|| self.published_at.after(PUBLISH_MS));
        let hangup = self.hangups.front().map(|&(at, _)| at);
        let drain = self.drain_by.filter(|_| !self.finished);
        let deadlines = [
            self.return_due,
            self.shard.poll_timeout(),
            self.doors.iter().filter_map(|(_, accepting)| accepting.retry_at()).min(),
            retry,
            nap,
            publish,
            hangup,
            drain,
        ];
        match deadlines.into_iter().flatten().min() {
            None => Wait::Forever,
            Some(due) => {
                let left = Micros(due.0.saturating_mul(1_000)).since(self.host.micros());
                if left == 0 { Wait::Poll } else { Wait::AtMost(Duration::from_micros(left.min(WAIT_US_MAX))) }
            }
        }
    }

    /// Whether the server was told to end.
    pub(super) fn is_draining(&self) -> bool {
        self.drain_by.is_some()
    }

    fn check_finished(&mut self) {
        let Some(by) = self.drain_by else { return };
        if self.finished {
            return;
        }
        let empty = self.shard.sockets_held() == 0 && self.connections.open_count() == 0 && !self.shard.has_output();
        // Whoever is on the way here is waited for; and once the shard has finished nobody sets out any more.
        let is_over = empty && self.shared.posts[usize::from(self.id.0)].places.shut_if_empty();
        if is_over || self.now.mono >= by {
            self.finished = true;
            self.doors.iter_mut().for_each(|(_, accepting)| accepting.end());
            self.publish();
            self.shared.finish();
        }
    }

    fn publish_if_due(&mut self) {
        if self.dirty && self.now.mono.since(self.published_at) >= PUBLISH_MS {
            self.publish();
        }
    }

    /// Gives back what was freed, some time after the turn that has last done anything.
    fn return_freed_if_due(&mut self) {
        if self.return_due.is_some_and(|due| due <= self.now.mono) {
            self.return_due = None;
            memory::return_freed();
        } else if self.dirty && self.return_due.is_none() {
            self.return_due = Some(self.now.mono.after(RETURN_FREED_MS));
        }
    }

    /// Puts a copy of all numbers where the control plane reads them. If it is reading just now, the next turn does it.
    fn publish(&mut self) {
        let EventLoop { shared, ring, stats, connections, stashes, mesh, secure, shard, id, .. } = self;
        let counters = ring.counters();
        let published = shared.snapshots[usize::from(id.0)].try_publish(|snapshot| {
            stats.enters = counters.enters;
            stats.submissions = counters.submissions;
            stats.completions = counters.completions;
            stats.overflows = counters.overflows;
            stats.submit_retries = counters.submit_retries;
            stats.slots = connections.slot_count() as u64;
            stats.slots_used = connections.open_count() as u64;
            stats.buffers = ring.buffers().count() as u64;
            stats.buffers_free = ring.buffers().take_free_min() as u64;
            stats.stash_bytes = stashes.bytes() as u64;
            stats.stashes = stashes.count() as u64;
            stats.mesh_waiting = mesh.waiting() as u64;
            stats.handshakes_open = secure.shaking() as u64;
            stats.tls_connections = secure.count() as u64;
            stats.tls_bytes = secure.bytes() as u64;
            snapshot.shard.clone_from(shard.stats());
            snapshot.driver.clone_from(stats);
        });
        if published {
            self.dirty = false;
            self.published_at = self.now.mono;
        }
    }
}

/// How much longer than it was to wait a wait took, in µs.
fn overslept(wait: Wait, us: u64) -> u64 {
    match wait {
        Wait::AtMost(time) => us.saturating_sub(time.as_micros() as u64),
        Wait::Poll => us,
        // It ended with an event, whenever that came.
        Wait::Forever => 0,
    }
}
