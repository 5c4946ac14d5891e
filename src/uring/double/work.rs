//! What a double does with a submission at once, and with operations in flight in its own time.

use super::provided::Provided;
use super::sockets::SocketId;
use super::submission::{self as sqe, Submission};
use super::{FIRST_DESCRIPTOR, RingState, World};
use crate::uring::buffers::GROUP;
use crate::uring::op::{Completion, GENERATION_MAX, Op, UserData};
use io_uring::squeue;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, Ordering};

/// `IORING_CQE_F_MORE`.
const F_MORE: u32 = 1 << 1;
/// The most that one receive takes from a socket.
const RECEIVE_BYTES_MAX: usize = 70_000;

/// What an operation in flight waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Accept,
    Receive { multishot: bool, length: usize },
    Writable,
    Hangup,
    Shutdown { slot: u32 },
    SendFd { target: usize },
    Wake { eventfd: RawFd, multishot: bool },
}

/// An operation in flight. It holds its socket, whatever becomes of the slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Armed {
    data: UserData,
    what: What,
    socket: Option<SocketId>,
    cancelled: bool,
}

impl Armed {
    pub(super) fn socket(&self) -> Option<SocketId> {
        self.socket
    }
}

impl RingState {
    fn post(&mut self, data: UserData, result: i32, flags: u32) {
        self.completions.push_back(Completion { data, result, flags });
    }

    /// The socket of a slot that an entry names, which must be open and in the generation of its user data.
    fn named(&self, entry: &Submission, slot: u32) -> SocketId {
        let data = UserData::from_bits(entry.user_data);
        let socket = self.slots.get(slot as usize).unwrap_or_else(|| panic!("{data:?} is for a slot beyond the table"));
        let socket = socket.unwrap_or_else(|| panic!("{data:?} is for a slot that is closed"));
        if data.op() != Op::Send {
            let generation = self.accepts[slot as usize] & GENERATION_MAX;
            assert_eq!((data.index(), data.generation()), (slot, generation), "{data:?} is for another than the slot's connection");
        }
        socket
    }

    fn arm(&mut self, entry: &Submission, what: What, socket: Option<SocketId>) {
        let data = UserData::from_bits(entry.user_data);
        assert!(self.armed.iter().all(|armed| armed.data != data), "{data:?} is in flight twice");
        self.armed.push(Armed { data, what, socket, cancelled: false });
    }
}

impl World {
    /// How many of the queued entries are taken.
    pub(super) fn admit(&mut self, ring: usize, queued: usize) -> io::Result<usize> {
        let provided = self.rings[ring].provided.as_mut();
        provided.into_iter().for_each(Provided::look);
        if queued == 0 || !self.choices.once_in(24) {
            return Ok(queued);
        }
        self.faults.refused_submissions += 1;
        let taken = self.choices.pick(queued + 1);
        if taken > 0 {
            return Ok(taken);
        }
        let errno = [libc::EAGAIN, libc::EINTR, libc::ENOMEM, libc::EBUSY][self.choices.pick(4)];
        Err(io::Error::from_raw_os_error(errno))
    }

    /// Takes an entry.
    ///
    /// # Safety
    /// What the entry points at is valid now.
    pub(super) unsafe fn submit(&mut self, ring: usize, entry: &squeue::Entry) {
        let entry = Submission::read(entry);
        let data = UserData::from_bits(entry.user_data);
        let odd = entry.flags & !(sqe::FIXED_FILE | sqe::BUFFER_SELECT | sqe::SKIP_SUCCESS);
        assert_eq!(odd, 0, "{data:?} is linked, drained or asynchronous");
        match (entry.opcode, data.op()) {
            // SAFETY: what the caller promises.
            (sqe::SEND, Op::Send) => unsafe { self.send(ring, &entry) },
            // SAFETY: as above.
            (sqe::RECV, Op::Peek) => unsafe { self.peek(ring, &entry) },
            (sqe::RECV, Op::Receive) => self.receive(ring, &entry),
            (sqe::ACCEPT, Op::Accept) => {
                assert_eq!((entry.ioprio, entry.file_index), (sqe::ACCEPT_MULTISHOT, sqe::ANY_SLOT));
                self.rings[ring].arm(&entry, What::Accept, None);
            }
            (sqe::POLL_ADD, op) => self.poll(ring, &entry, op),
            (sqe::ASYNC_CANCEL, Op::Cancel) => self.cancel(ring, &entry),
            (sqe::CLOSE, Op::Close) => self.close(ring, &entry),
            (sqe::SHUTDOWN, Op::Shutdown) => {
                let (slot, socket) = self.fixed(ring, &entry);
                assert_eq!(entry.len, libc::SHUT_WR as u32);
                self.rings[ring].arm(&entry, What::Shutdown { slot }, Some(socket));
                // It runs on a thread of its own, which may be quick.
                if self.choices.once_in(2) {
                    self.fire(ring, self.rings[ring].armed.len() - 1);
                }
            }
            (sqe::MSG_RING, Op::Doorbell) => self.ring_doorbell(ring, &entry),
            (sqe::MSG_RING, Op::SendFd) => self.send_fd(ring, &entry),
            (sqe::URING_CMD, Op::Option) => {
                let (_, socket) = self.fixed(ring, &entry);
                let unacknowledged = self.socket(socket).outbound.len() as i32;
                let result = if self.choices.once_in(4) { -libc::EOPNOTSUPP } else { unacknowledged };
                self.rings[ring].post(data, result, 0);
            }
            (opcode, op) => panic!("the server submits no opcode {opcode} as {op:?}"),
        }
    }

    fn fixed(&mut self, ring: usize, entry: &Submission) -> (u32, SocketId) {
        assert!(entry.flags & sqe::FIXED_FILE != 0, "a descriptor of the process where a slot is meant");
        let slot = u32::try_from(entry.fd).expect("a slot is not negative");
        (slot, self.rings[ring].named(entry, slot))
    }

    /// # Safety
    /// The entry's bytes are readable.
    unsafe fn send(&mut self, ring: usize, entry: &Submission) {
        let (slot, id) = self.fixed(ring, entry);
        let data = UserData::from_bits(entry.user_data);
        assert_eq!(entry.op_flags as i32, libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        assert!(entry.flags & sqe::SKIP_SUCCESS != 0 && entry.len > 0, "an empty send, or one whose success is told");
        let state = &mut self.rings[ring];
        assert!(state.sent.insert(slot), "two sends to slot {slot} in one submission");
        assert!(state.unread.values().all(|&unread| unread != id), "a send to slot {slot} whose last one failed, unread");
        let is_short = self.choices.once_in(12);
        let socket = self.socket(id);
        assert!(!socket.shut, "a send to slot {slot} after its end");
        let room = socket.room();
        let errno = socket.broken;
        let length = entry.len as usize;
        let taken = match errno {
            Some(_) => 0,
            None if is_short => self.choices.pick(length.min(room) + 1),
            None => length.min(room),
        };
        let bytes = std::ptr::with_exposed_provenance::<u8>(entry.addr as usize);
        // SAFETY: what the caller promises.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, taken) };
        self.socket(id).outbound.extend_from_slice(bytes);
        if taken == length {
            return;
        }
        self.faults.short_sends += 1;
        let result = match (errno, taken) {
            (Some(errno), _) => -errno,
            (None, 0) => -libc::EAGAIN,
            (None, taken) => taken as i32,
        };
        self.rings[ring].unread.insert(data.index(), id);
        self.rings[ring].post(data, result, 0);
    }

    /// A completion has left the queue.
    pub(super) fn note_read(&mut self, ring: usize, completion: &Completion) {
        if completion.data.op() == Op::Send {
            self.rings[ring].unread.remove(&completion.data.index());
        }
    }

    /// # Safety
    /// The entry's byte is writable.
    unsafe fn peek(&mut self, ring: usize, entry: &Submission) {
        let (_, id) = self.fixed(ring, entry);
        assert_eq!((entry.op_flags as i32, entry.len), (libc::MSG_PEEK | libc::MSG_DONTWAIT, 1));
        let socket = self.socket(id);
        let result = match (socket.broken, socket.inbound.front()) {
            (Some(errno), _) => -errno,
            (None, Some(&byte)) => {
                // SAFETY: what the caller promises; it is shared as an atomic.
                let place = unsafe { &*std::ptr::with_exposed_provenance::<AtomicU8>(entry.addr as usize) };
                place.store(byte, Ordering::Relaxed);
                1
            }
            (None, None) if socket.finished => 0,
            (None, None) => -libc::EAGAIN,
        };
        self.rings[ring].post(UserData::from_bits(entry.user_data), result, 0);
    }

    fn receive(&mut self, ring: usize, entry: &Submission) {
        let (_, socket) = self.fixed(ring, entry);
        assert!(entry.flags & sqe::BUFFER_SELECT != 0 && entry.buf_group == GROUP, "a receive without a provided buffer");
        let multishot = entry.ioprio == sqe::RECEIVE_MULTISHOT;
        let length = if entry.len == 0 { RECEIVE_BYTES_MAX } else { entry.len as usize };
        self.rings[ring].arm(entry, What::Receive { multishot, length }, Some(socket));
    }

    fn poll(&mut self, ring: usize, entry: &Submission, op: Op) {
        let events = entry.op_flags as i16;
        if op == Op::Wake {
            assert_eq!((entry.flags & sqe::FIXED_FILE, events), (0, libc::POLLIN));
            let multishot = entry.len == sqe::POLL_MULTI;
            return self.rings[ring].arm(entry, What::Wake { eventfd: entry.fd, multishot }, None);
        }
        let (_, socket) = self.fixed(ring, entry);
        let what = if op == Op::Writable && events == libc::POLLOUT {
            What::Writable
        } else {
            assert!(op == Op::Hangup && events & libc::POLLRDHUP != 0, "a poll for {events:#x} as {op:?}");
            What::Hangup
        };
        self.rings[ring].arm(entry, what, Some(socket));
    }

    fn cancel(&mut self, ring: usize, entry: &Submission) {
        let target = UserData::from_bits(entry.addr);
        assert_eq!(entry.op_flags, 0, "a cancellation by anything but user data");
        let state = &mut self.rings[ring];
        match state.armed.iter_mut().find(|armed| armed.data == target && !armed.cancelled) {
            Some(armed) => armed.cancelled = true,
            None => state.post(UserData::from_bits(entry.user_data), -libc::ENOENT, 0),
        }
    }

    fn close(&mut self, ring: usize, entry: &Submission) {
        let slot = entry.file_index.checked_sub(1).expect("the close of a slot");
        let state = &mut self.rings[ring];
        let id = state.named(entry, slot);
        if let Some(left) = state.armed.iter().find(|armed| armed.socket == Some(id) && !armed.cancelled) {
            panic!("slot {slot} is closed with {:?} in flight", left.data);
        }
        state.slots[slot as usize] = None;
        let socket = self.socket(id);
        socket.held -= 1;
        socket.closed = socket.held == 0;
    }

    /// The ring that a message goes to.
    fn other_ring(&self, ring: usize, entry: &Submission) -> usize {
        let target = (entry.fd - FIRST_DESCRIPTOR) as usize;
        assert!(target < self.rings.len() && target != ring, "a message to descriptor {}", entry.fd);
        target
    }

    fn send_fd(&mut self, ring: usize, entry: &Submission) {
        let target = self.other_ring(ring, entry);
        assert_eq!((entry.addr, entry.flags, entry.file_index), (sqe::MSG_SEND_FD, 0, sqe::ANY_SLOT));
        assert_eq!(entry.op_flags, sqe::MSG_CQE_SKIP, "a completion that the other ring is not ready for");
        let slot = u32::try_from(entry.addr3).expect("a slot is 32 bits");
        let id = self.rings[ring].named(entry, slot);
        let state = &mut self.rings[ring];
        let receives = |armed: &&Armed| armed.socket == Some(id) && matches!(armed.what, What::Receive { .. });
        if let Some(left) = state.armed.iter().find(receives) {
            panic!("slot {slot} is given away with {:?} in flight", left.data);
        }
        state.arm(entry, What::SendFd { target }, Some(id));
        // It is carried out by the other ring's thread, which may be quick.
        if self.choices.once_in(2) {
            self.fire(ring, self.rings[ring].armed.len() - 1);
        }
    }

    fn fire_send_fd(&mut self, ring: usize, index: usize, target: usize) {
        let id = self.rings[ring].armed[index].socket.expect("a socket is given");
        if self.choices.once_in(8) {
            self.faults.errors += 1;
            let errno = [libc::ENFILE, libc::ENOMEM, libc::EOWNERDEAD][self.choices.pick(3)];
            return self.end(ring, index, -errno, 0);
        }
        match self.place(target, id) {
            Some(slot) => self.end(ring, index, slot as i32, 0),
            None => self.end(ring, index, -libc::ENFILE, 0),
        }
    }

    /// Puts a socket into a free slot of a ring, if there is one.
    fn place(&mut self, ring: usize, id: SocketId) -> Option<usize> {
        let state = &self.rings[ring];
        let free: Vec<usize> = (0..state.slots.len()).filter(|&slot| state.slots[slot].is_none()).take(4).collect();
        if free.is_empty() {
            return None;
        }
        let slot = free[self.choices.pick(free.len())];
        let state = &mut self.rings[ring];
        state.slots[slot] = Some(id);
        state.accepts[slot] = state.accepts[slot].wrapping_add(1);
        self.socket(id).held += 1;
        Some(slot)
    }

    fn ring_doorbell(&mut self, ring: usize, entry: &Submission) {
        let data = UserData::from_bits(entry.user_data);
        let target = self.other_ring(ring, entry);
        assert_eq!(entry.addr, sqe::MSG_DATA);
        if self.choices.once_in(8) {
            self.faults.errors += 1;
            return self.rings[ring].post(data, -libc::ENOMEM, 0);
        }
        self.rings[target].post(UserData::from_bits(entry.off), entry.len as i32, 0);
    }

    /// Completes what can be, in an order and number of its own choice.
    pub(super) fn work(&mut self, ring: usize) {
        for _ in 0..self.rings[ring].completions_max {
            let able = self.able(ring);
            if able.is_empty() || self.choices.once_in(6) {
                return;
            }
            let index = able[self.choices.pick(able.len())];
            self.fire(ring, index);
        }
    }

    /// Puts what has completed within reach, as far as the queue goes.
    pub(super) fn flush(&mut self, ring: usize) {
        let state = &mut self.rings[ring];
        state.visible = state.completions.len().min(state.completions_max);
        self.faults.overflows += u64::from(state.completions.len() > state.completions_max);
    }

    pub(super) fn is_ready(&mut self, ring: usize) -> bool {
        !self.rings[ring].completions.is_empty() || !self.able(ring).is_empty()
    }

    /// Operations in flight that something can be said of.
    fn able(&self, ring: usize) -> Vec<usize> {
        let state = &self.rings[ring];
        let is_able = |armed: &Armed| {
            let socket = armed.socket.map(|id| &self.sockets[id.0]);
            armed.cancelled
                || match (armed.what, socket) {
                    (What::Accept, _) => !state.backlog.is_empty(),
                    (What::Wake { eventfd, .. }, _) => is_readable(eventfd),
                    (_, Some(socket)) if socket.broken.is_some() => true,
                    (What::Receive { .. }, Some(socket)) => socket.finished || !socket.inbound.is_empty(),
                    (What::Writable, Some(socket)) => socket.room() > 0,
                    (What::Hangup, Some(socket)) => socket.finished,
                    (What::Shutdown { .. } | What::SendFd { .. }, _) => true,
                    (What::Receive { .. } | What::Writable | What::Hangup, None) => false,
                }
        };
        (0..state.armed.len()).filter(|&index| is_able(&state.armed[index])).collect()
    }

    fn fire(&mut self, ring: usize, index: usize) {
        let armed = self.rings[ring].armed[index];
        match armed.what {
            What::SendFd { target } => self.fire_send_fd(ring, index, target),
            What::Receive { multishot, length } => self.fire_receive(ring, index, multishot, length),
            _ if armed.cancelled => self.end(ring, index, -libc::ECANCELED, 0),
            What::Accept => self.fire_accept(ring, index),
            What::Writable => self.end(ring, index, i32::from(libc::POLLOUT), 0),
            What::Hangup => {
                let broken = armed.socket.is_some_and(|id| self.socket(id).broken.is_some());
                let more = if broken { libc::POLLERR | libc::POLLHUP } else { 0 };
                self.end(ring, index, i32::from(libc::POLLRDHUP | more), 0);
            }
            What::Shutdown { slot } => {
                assert_eq!(self.rings[ring].slots[slot as usize], armed.socket, "a shutdown that finds another connection");
                let socket = self.socket(armed.socket.expect("a shutdown is of a socket"));
                socket.shut = true;
                let result = if socket.broken.is_some() { -libc::ENOTCONN } else { 0 };
                self.end(ring, index, result, 0);
            }
            What::Wake { eventfd, multishot } => {
                drain(eventfd);
                if multishot && !self.choices.once_in(3) {
                    return self.rings[ring].post(armed.data, i32::from(libc::POLLIN), F_MORE);
                }
                self.end(ring, index, i32::from(libc::POLLIN), 0);
            }
        }
    }

    /// The last completion of an operation.
    fn end(&mut self, ring: usize, index: usize, result: i32, flags: u32) {
        let armed = self.rings[ring].armed.remove(index);
        self.faults.late += u64::from(armed.cancelled && armed.socket.is_some_and(|id| self.sockets[id.0].closed));
        self.rings[ring].post(armed.data, result, flags);
    }

    fn fire_accept(&mut self, ring: usize, index: usize) {
        let data = self.rings[ring].armed[index].data;
        if self.choices.once_in(16) {
            self.faults.errors += 1;
            let errno = [libc::ECONNABORTED, libc::EMFILE, libc::ENFILE, libc::ENOMEM][self.choices.pick(4)];
            return self.end(ring, index, -errno, 0);
        }
        let state = &mut self.rings[ring];
        let Some(id) = state.backlog.pop_front() else { return };
        let Some(slot) = self.place(ring, id) else {
            // Taken off the backlog, and there is no place for it.
            self.socket(id).closed = true;
            return self.end(ring, index, -libc::ENFILE, 0);
        };
        if self.choices.once_in(8) {
            self.faults.ended_early += 1;
            return self.end(ring, index, slot as i32, 0);
        }
        self.rings[ring].post(data, slot as i32, F_MORE);
    }

    fn fire_receive(&mut self, ring: usize, index: usize, multishot: bool, length: usize) {
        let armed = self.rings[ring].armed[index];
        let id = armed.socket.expect("a receive is of a socket");
        // A cancelled receive may have had something to say before; mostly it hasn't.
        if armed.cancelled && !self.choices.once_in(2) {
            return self.end(ring, index, -libc::ECANCELED, 0);
        }
        if let Some(errno) = self.sockets[id.0].broken
            && (self.sockets[id.0].inbound.is_empty() || self.choices.pick(2) == 0)
        {
            return self.end(ring, index, -errno, 0);
        }
        if self.sockets[id.0].inbound.is_empty() {
            if armed.cancelled {
                return self.end(ring, index, -libc::ECANCELED, 0);
            }
            let says_more = self.choices.pick(2) == 0;
            let has_buffer = self.choices.pick(2) == 1;
            let provided = self.rings[ring].provided.as_mut().filter(|_| has_buffer);
            let flags = provided.map_or(0, |provided| provided.fill_nothing(says_more));
            return self.end(ring, index, 0, flags);
        }
        let room = self.rings[ring].provided.as_mut().and_then(Provided::room);
        let Some(room) = room.filter(|_| !self.choices.once_in(24)) else {
            self.faults.no_buffers += 1;
            return self.end(ring, index, -libc::ENOBUFS, 0);
        };
        let most = room.min(length).min(self.sockets[id.0].inbound.len());
        let count = if self.choices.pick(2) == 0 { most } else { 1 + self.choices.pick(most) };
        let bytes: Vec<u8> = self.socket(id).inbound.drain(..count).collect();
        self.faults.late += u64::from(armed.cancelled && self.sockets[id.0].closed);
        let flags = self.rings[ring].provided.as_mut().expect("it has room").fill(&bytes);
        if multishot && !self.choices.once_in(10) {
            return self.rings[ring].post(armed.data, count as i32, flags | F_MORE);
        }
        self.faults.ended_early += u64::from(multishot);
        self.end(ring, index, count as i32, flags);
    }
}

fn is_readable(descriptor: RawFd) -> bool {
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one writable record is passed.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

/// Reads an eventfd's counter away; the kernel's poll is edge-triggered and needs no such thing.
fn drain(eventfd: RawFd) {
    let mut count = [0_u8; 8];
    // SAFETY: eight writable bytes are passed.
    let _ = unsafe { libc::read(eventfd, count.as_mut_ptr().cast(), count.len()) };
}
