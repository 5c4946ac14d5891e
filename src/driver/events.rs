//! What completions mean to connections, and what the core's actions mean to the ring.
//!
//! The end of a connection below the core is told once, as soon as everything that came before it was read; while a connection is
//! paused, the peer's end is noticed by a poll. A peer that is gone for good (reset) is told at once; one that has only finished
//! sending has [`HANGUP_GRACE_MS`] for its last words to be read after a resume, so that a close frame behind a pause is still a
//! clean close.

use super::connections::{Connections, Flag};
use super::event_loop::EventLoop;
use super::host::Host;
use super::listener::Step;
use super::pause::Stashes;
use super::secure::Heard;
use crate::limits::REFUSALS_IN_FLIGHT_MAX;
use crate::shard::{Action, Ended, Flow, Key, Received, Shard};
use crate::time::Now;
use crate::tls::HandshakeResult;
use crate::uring::planted::{Bug, is_planted};
use crate::uring::{Completion, Entry, Op, UserData};
use std::io;
use std::os::fd::AsFd;

/// Which of a shard's listeners speaks TLS.
const TLS_DOOR: usize = 1;
/// How long a paused connection is kept after its peer has finished sending, in ms.
const HANGUP_GRACE_MS: u64 = 1_000;

/// What may be in the kernel for a connection that is closed or goes to another shard.
pub(super) const ARMED: [(Flag, Op); 3] =
    [(Flag::Receive, Op::Receive), (Flag::Writable, Op::Writable), (Flag::Hangup, Op::Hangup)];

impl<H: Host> EventLoop<H> {
    pub(super) fn handle_completion(&mut self, completion: &Completion) -> io::Result<()> {
        let data = completion.data;
        let key = Key { slot: data.index(), generation: data.generation() };
        match data.op() {
            Op::Accept => self.handle_accept(completion)?,
            Op::Receive => self.handle_receive(key, completion)?,
            Op::Writable if self.is_current(key) => {
                self.connections.put(key, Flag::Writable, is_planted(Bug::WritableForgotten));
                // Sealed bytes that waited go first; the core is told once they are out.
                if !self.secure.has_room(key.slot) && !self.connections.has(key, Flag::Moving) {
                    self.shard.handle_writable(self.now, key);
                }
            }
            Op::Hangup if is_planted(Bug::HangupForgotten) => {}
            Op::Hangup if self.is_current(key) => self.handle_hangup(key, completion.result),
            Op::Peek if self.is_current(key) => self.peeks.push((key, completion.result == -libc::EAGAIN)),
            Op::Shutdown if self.is_current(key) => self.handle_finished(key)?,
            // ENOTTY, EOPNOTSUPP, EINVAL: a kernel before 6.7 can't tell.
            Op::Option if completion.result >= 0 && self.is_current(key) && !self.connections.has(key, Flag::Moving) => {
                self.shard.handle_measured(key, completion.result as u32);
            }
            Op::SendFd => self.handle_given(key, completion.result)?,
            // A doorbell of ours that the kernel had no memory for: the eventfd needs none. One that came in has done its work.
            Op::Doorbell if completion.result < 0 => {
                if let Some(post) = self.shared.posts.get(data.index() as usize) {
                    post.waker.wake();
                }
            }
            Op::Wake if !completion.more() && !is_planted(Bug::WakeNotArmedAgain) => {
                let waker = self.shared.posts[usize::from(self.id.0)].waker.entry();
                self.push(waker)?;
            }
            // Send: told before the batch was settled. Cancel: ENOENT or EALREADY, the operation had just ended by itself.
            // Close: EBADF, which can't be, and would change nothing. The rest is the load generator's.
            Op::Send
            | Op::Cancel
            | Op::Close
            | Op::Doorbell
            | Op::Wake
            | Op::Socket
            | Op::Option
            | Op::Bind
            | Op::Connect
            | Op::Unknown
            // Stale, and counted by `is_current`.
            | Op::Writable
            | Op::Hangup
            | Op::Shutdown
            | Op::Peek => {}
        }
        Ok(())
    }

    /// Whether the key is current; counts it if not.
    fn is_current(&mut self, key: Key) -> bool {
        let current = self.connections.is_current(key);
        self.stats.stale += u64::from(!current);
        current
    }

    // ---- accepting ------------------------------------------------------------------------------------------------------

    fn handle_accept(&mut self, completion: &Completion) -> io::Result<()> {
        let is_overlooked = is_planted(Bug::AcceptNotArmedAgain) && completion.result < 0;
        let door = completion.data.index() as usize;
        if !completion.more()
            && !is_overlooked
            && let Some((_, accepting)) = self.doors.get_mut(door)
        {
            accepting.completed(self.now.mono, completion.errno());
        }
        if let Some(errno) = completion.errno() {
            if errno != libc::ECANCELED {
                *self.stats.accept_errors.entry(errno).or_default() += 1;
            }
            return Ok(());
        }
        let admitted = self.has_share_left() && self.shared.admit();
        let Some(key) = self.connections.open(completion.result as u32, admitted) else {
            tracing::error!(shard = self.id.0, slot = completion.result, "the kernel accepted into a slot that is taken");
            if admitted {
                self.shared.dismiss();
            }
            return Ok(());
        };
        self.stats.accepted += 1;
        // A multishot accept has one place for the peer's address, and many peers; to ask for each costs a descriptor and two
        // system calls.
        self.shard.handle_accepted(self.now, key, None, admitted);
        if door == TLS_DOOR && !self.secure.begin(key.slot) {
            // Refused before it costs anything: there is no cheaper answer than the end.
            self.stats.handshakes[HandshakeResult::Refused as usize] += 1;
            self.end(key, Ended::Error);
        }
        self.arm_receive(key)
    }

    /// Whether this shard may have one more connection, whatever the count of the process is: the places for refusals are not for
    /// connections.
    pub(super) fn has_share_left(&self) -> bool {
        self.connections.counted() < self.connections.slot_count().saturating_sub(REFUSALS_IN_FLIGHT_MAX)
    }

    /// Arms or cancels the accept operation, as slots and errors have it.
    pub(super) fn step_accepting(&mut self) -> io::Result<()> {
        // A socket on its way to this shard has a slot that the table knows nothing of yet, or is about to.
        let arriving = self.shared.posts[usize::from(self.id.0)].places.count();
        let free = self.connections.free_count().saturating_sub(arriving);
        for number in 0..self.doors.len() {
            let (listener, accepting) = &mut self.doors[number];
            let was_paused = accepting.is_paused();
            let step = accepting.step(self.now.mono, free);
            self.stats.accept_pauses += u64::from(accepting.is_paused() && !was_paused);
            let entry = match step {
                Step::Arm => Entry::accept(listener.as_fd(), number as u32),
                Step::Cancel => Entry::cancel(Entry::accept_data(number as u32)),
                Step::Keep => continue,
            };
            self.push(entry)?;
        }
        Ok(())
    }

    // ---- receiving ------------------------------------------------------------------------------------------------------

    fn handle_receive(&mut self, key: Key, completion: &Completion) -> io::Result<()> {
        if !self.is_current(key) {
            // The bytes are nobody's, but the buffer goes round.
            if !is_planted(Bug::StaleBufferKept) {
                self.ring.buffers().take(completion);
            }
            return Ok(());
        }
        let is_overlooked = is_planted(Bug::NotArmedAgain) && completion.result == -libc::ENOBUFS;
        if !completion.more() && !is_overlooked {
            self.connections.put(key, Flag::Receive, false);
        }
        let bytes = self.ring.buffers().take(completion);
        match completion.result {
            count if count > 0 => {
                self.connections.put(key, Flag::Heard, true);
                if self.connections.has(key, Flag::Ended) {
                    // The core has nothing more to do with it.
                } else if self.secure.holds(key.slot) {
                    let EventLoop { secure, shard, stashes, connections, stats, now, .. } = self;
                    let mut reader = Reader { shard, stashes, connections, now: *now, key, pauses: false };
                    let (heard, result) = secure.receive(key.slot, bytes, |plain| reader.read(plain));
                    let pauses = reader.pauses;
                    if let Some(result) = result {
                        stats.handshakes[result as usize] += 1;
                    }
                    stats.tls_failures += u64::from(result.is_none() && matches!(heard, Heard::Failed(_)));
                    if pauses {
                        self.pause(key)?;
                    }
                    match heard {
                        Heard::More => {}
                        Heard::Closed if self.connections.has(key, Flag::Moving) => {}
                        Heard::Closed => self.handle_end_of_stream(key),
                        Heard::Failed(failure) => {
                            tracing::debug!(shard = self.id.0, %failure, "TLS ends a connection");
                            self.end_or_stay(key);
                        }
                    }
                } else if self.connections.has(key, Flag::Paused) {
                    let bytes = if is_planted(Bug::PausedBytesDropped) { &mut [] } else { bytes };
                    let stash = self.stashes.append(self.connections.stash(key), key, bytes);
                    self.connections.put_stash(key, stash);
                } else {
                    let received = self.shard.handle_received(self.now, key, bytes);
                    check(received, bytes.len());
                    if received.flow == Flow::Pause {
                        let stash = self.stashes.append(None, key, &bytes[received.consumed..]);
                        self.connections.put_stash(key, stash);
                        self.pause(key)?;
                    }
                }
            }
            // The shard that it goes to receives from it too, and hears the same.
            end if end <= 0 && self.connections.has(key, Flag::Moving) => {}
            0 => self.handle_end_of_stream(key),
            // ENOBUFS: all buffers were full; the next submission offers them again before it arms. ECANCELED: a pause that may
            // have been lifted since. EINTR, EAGAIN: nothing happened.
            errno if matches!(-errno, libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {
                self.stats.enobufs += u64::from(errno == -libc::ENOBUFS);
            }
            // ECONNRESET, ETIMEDOUT, EHOSTUNREACH, EPIPE, …: the socket is broken.
            _ => self.end(key, Ended::Error),
        }
        match self.receive_entry(key) {
            Some(receive) => {
                self.stats.rearms += 1;
                self.push(receive)
            }
            None => Ok(()),
        }
    }

    /// Puts a receive into the kernel, unless one is there or none is wanted.
    pub(super) fn arm_receive(&mut self, key: Key) -> io::Result<()> {
        match self.receive_entry(key) {
            Some(receive) => self.push(receive),
            None => Ok(()),
        }
    }

    fn receive_entry(&mut self, key: Key) -> Option<Entry> {
        let unwanted = [Flag::Receive, Flag::Paused, Flag::Ended].iter().any(|&flag| self.connections.has(key, flag));
        if unwanted || !self.connections.is_current(key) {
            return None;
        }
        self.connections.put(key, Flag::Receive, true);
        Some(Entry::receive(key.slot, key.generation))
    }

    fn handle_end_of_stream(&mut self, key: Key) {
        if self.connections.has(key, Flag::Paused) {
            self.hangups.push_back((self.now.mono.after(HANGUP_GRACE_MS), key));
        } else {
            self.end(key, Ended::Eof);
        }
    }

    /// Tells the core that a connection has ended, once.
    fn end(&mut self, key: Key, ended: Ended) {
        if self.connections.put(key, Flag::Ended, true) {
            return;
        }
        self.discard_stash(key);
        self.shard.handle_closed(self.now, key, ended);
    }

    fn discard_stash(&mut self, key: Key) {
        if let Some(at) = self.connections.stash(key) {
            self.connections.put_stash(key, None);
            self.stashes.discard(at);
        }
    }

    // ---- pausing --------------------------------------------------------------------------------------------------------

    /// Stops receiving from a connection, and watches for its end instead.
    pub(super) fn pause(&mut self, key: Key) -> io::Result<()> {
        self.connections.put(key, Flag::Paused, true);
        if self.connections.has(key, Flag::Receive) {
            self.push(Entry::cancel(UserData::new(Op::Receive, key.slot, key.generation)))?;
        }
        // The poll stays when the pause ends: it is of use to the next, and one that fires meanwhile is ignored.
        if !self.connections.put(key, Flag::Hangup, true) {
            self.push(Entry::hangup(key.slot, key.generation))?;
        }
        Ok(())
    }

    /// Hands over what paused connections have not read, and receives again from those that the core takes it from.
    pub(super) fn feed_resumed(&mut self) -> io::Result<()> {
        let mut resumes = std::mem::take(&mut self.resumes);
        for key in resumes.drain(..) {
            let is_unwanted = [Flag::Ended, Flag::Moving].iter().any(|&flag| self.connections.has(key, flag));
            if !self.connections.has(key, Flag::Paused) || is_unwanted {
                continue;
            }
            self.connections.put(key, Flag::Paused, false);
            if is_planted(Bug::ArmedTwice) {
                self.connections.put(key, Flag::Receive, false);
            }
            if !is_planted(Bug::UnreadForgotten) {
                self.feed_unread(key)?;
            }
            self.arm_receive(key)?;
        }
        self.resumes = resumes;
        Ok(())
    }

    pub(super) fn feed_unread(&mut self, key: Key) -> io::Result<()> {
        let Some(at) = self.connections.stash(key) else { return Ok(()) };
        let mut unread = self.stashes.take(at);
        let bytes = unread.rest();
        let length = bytes.len();
        let received = self.shard.handle_received(self.now, key, bytes);
        check(received, length);
        unread.consume(received.consumed);
        let left = self.stashes.put_back(unread);
        self.connections.put_stash(key, left);
        if received.flow == Flow::Pause { self.pause(key) } else { Ok(()) }
    }

    fn handle_hangup(&mut self, key: Key, events: i32) {
        self.connections.put(key, Flag::Hangup, false);
        if !self.connections.has(key, Flag::Paused) || self.connections.has(key, Flag::Moving) {
            return;
        }
        let broken = i32::from(libc::POLLERR | libc::POLLHUP);
        if events < 0 || events & broken != 0 {
            self.end(key, Ended::Error);
        } else {
            self.handle_end_of_stream(key);
        }
    }

    /// Ends connections whose peer has finished sending, and which were not resumed in time.
    pub(super) fn end_hung_up(&mut self) {
        while let Some(&(at, key)) = self.hangups.front()
            && at <= self.now.mono
        {
            self.hangups.pop_front();
            if self.connections.has(key, Flag::Paused) && !self.connections.has(key, Flag::Moving) {
                self.end(key, Ended::Eof);
            }
        }
    }

    /// Ends the connections with the most unread bytes until all together have no more than they may.
    pub(super) fn end_largest_stashes(&mut self) {
        while let Some(key) = self.stashes.excess(|key| !self.connections.has(key, Flag::Given)) {
            self.stats.stash_evictions += 1;
            self.end_or_stay(key);
        }
    }

    /// Ends a connection of which something is lost. The core of one that moves is not told: it stays when its turn to go comes.
    fn end_or_stay(&mut self, key: Key) {
        if self.connections.has(key, Flag::Moving) {
            self.connections.put(key, Flag::Ended, true);
            self.discard_stash(key);
        } else {
            self.end(key, Ended::Error);
        }
    }

    /// Tells the core what the peeks have found. Only now that everything which came with them was handled: bytes that arrived
    /// meanwhile are a sign of life too.
    pub(super) fn answer_probes(&mut self) {
        let mut peeks = std::mem::take(&mut self.peeks);
        for (key, nothing_there) in peeks.drain(..) {
            let silent = nothing_there && !self.connections.has(key, Flag::Heard);
            if !self.connections.has(key, Flag::Moving) {
                self.shard.handle_probed(self.now, key, silent);
            }
        }
        self.peeks = peeks;
    }

    // ---- actions of the core --------------------------------------------------------------------------------------------

    /// Collects the operations of an action, at most four.
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Close(key) => self.close(key),
            Action::Probe(key) => self.probe(key),
            Action::Measure(key) => {
                if self.connections.is_current(key) {
                    self.actions.push(Entry::unacknowledged(key.slot, key.generation));
                }
            }
            Action::AwaitWritable(key) => {
                if self.connections.is_current(key) && !self.connections.put(key, Flag::Writable, true) {
                    self.actions.push(Entry::writable(key.slot, key.generation));
                }
            }
            Action::Resume(key) => self.resumes.push(key),
            Action::HandOver(key, to) => self.begin_move(key, to),
            Action::Finish(key) => {
                if self.connections.is_current(key) && !self.connections.put(key, Flag::Finishing, true) {
                    self.secure.say_last(key.slot, false);
                    self.actions.push(Entry::shutdown_write(key.slot, key.generation));
                }
            }
        }
    }

    fn close(&mut self, key: Key) {
        if !self.connections.is_current(key) {
            return;
        }
        self.secure.say_last(key.slot, true);
        let timed_out = !self.connections.has(key, Flag::Ended);
        if let (_, Some(result)) = self.secure.take(key.slot, timed_out) {
            self.stats.handshakes[result as usize] += 1;
        }
        for (flag, op) in ARMED {
            if self.connections.has(key, flag) && !is_planted(Bug::CloseWithoutCancel) {
                self.actions.push(Entry::cancel(UserData::new(op, key.slot, key.generation)));
            }
        }
        self.discard_stash(key);
        if self.connections.put(key, Flag::Counted, false) && !is_planted(Bug::NeverDismissed) {
            self.shared.dismiss();
        }
        if self.connections.has(key, Flag::Finishing) && !is_planted(Bug::CloseBeforeShutdown) {
            // Nothing more is read from it or said of it; `handle_finished` closes the slot.
            self.connections.put(key, Flag::Ended, true);
            self.connections.put(key, Flag::CloseOwed, true);
            return;
        }
        self.actions.push(Entry::close(key.slot, key.generation));
        self.connections.close(key);
    }

    /// A shutdown has completed, well or not; a close that waited for it follows.
    fn handle_finished(&mut self, key: Key) -> io::Result<()> {
        self.connections.put(key, Flag::Finishing, false);
        if !self.connections.has(key, Flag::CloseOwed) {
            return Ok(());
        }
        self.connections.close(key);
        self.push(Entry::close(key.slot, key.generation))
    }

    fn probe(&mut self, key: Key) {
        if !self.connections.is_current(key) {
            return;
        }
        self.stats.probes += 1;
        let unread = self.connections.stash(key).is_some();
        self.connections.put(key, Flag::Heard, unread);
        if let Some(receive) = self.receive_entry(key) {
            self.stats.rearms += 1;
            self.actions.push(receive);
        }
        self.actions.push(Entry::peek(key.slot, key.generation));
    }
}

/// Where the plaintext of a connection goes: to the core, or behind what the core has not read yet.
struct Reader<'a> {
    shard: &'a mut Shard,
    stashes: &'a mut Stashes,
    connections: &'a mut Connections,
    now: Now,
    key: Key,
    /// The core has paused it within this read.
    pauses: bool,
}

impl Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) {
        let mut unread = &*bytes;
        if !self.pauses && !self.connections.has(self.key, Flag::Paused) {
            let received = self.shard.handle_received(self.now, self.key, bytes);
            check(received, bytes.len());
            self.pauses = received.flow == Flow::Pause;
            unread = &bytes[received.consumed..];
        }
        let stash = self.stashes.append(self.connections.stash(self.key), self.key, unread);
        self.connections.put_stash(self.key, stash);
    }
}

/// Holds the core to what it promises about the bytes that it was handed.
fn check(received: Received, length: usize) {
    assert!(received.consumed <= length, "consumed more than was handed over");
    assert!(received.consumed == length || received.flow == Flow::Pause, "left bytes unread without a pause");
}
