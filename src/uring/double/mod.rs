//! A kernel behind a double: rings, sockets and time, without a system call.
//!
//! A [`Machine`] has any number of rings and TCP sockets. [`DoubleIo`] is one ring's [`Io`]: it reads entries and writes buffers
//! through the very memory that the ring shares with a kernel, so the `unsafe` code of this module runs as it is. What the kernel may
//! decide (which operation completes next, with how much, with which errno, whether a multishot goes on, whether a submission is
//! taken) is decided by [`Choices`].
//!
//! It keeps to what `io_uring` guarantees, and holds the other side to what it must: every entry is one that the server
//! uses, names an open slot in its current generation, no two operations in flight share a user data, nothing is left in flight on a
//! slot that is closed, no send follows one whose failure was not read, a buffer comes back once. A breach panics with its name.
//!
//! What it does not know: connections, messages, shards. Time stands still but for [`Machine::advance`]; waiting returns at once, as
//! a signal would make it.

mod choices;
mod provided;
mod sockets;
mod submission;
mod work;

#[cfg(test)]
mod tests;

pub use choices::Choices;
pub use sockets::SocketId;

use super::io::{Io, Queue};
use super::op::Completion;
use super::ring::{Full, RingConfig, Wait};
use io_uring::squeue;
use provided::Provided;
use sockets::Socket;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use work::Armed;

/// The descriptor of the first ring; far from those of the process, which the double never uses as rings.
const FIRST_DESCRIPTOR: RawFd = 1_000_000;

/// Rings, sockets and a clock. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Machine(Rc<RefCell<World>>);

#[derive(Debug)]
struct World {
    choices: Choices,
    micros: u64,
    sockets: Vec<Socket>,
    rings: Vec<RingState>,
    faults: Faults,
}

/// The kernel's part of one ring.
#[derive(Debug, Default)]
struct RingState {
    /// The file table.
    slots: Vec<Option<SocketId>>,
    /// By slot: sockets that it has held so far, which number its generations.
    accepts: Vec<u32>,
    /// Operations in flight.
    armed: Vec<Armed>,
    /// Connections that wait to be accepted.
    backlog: VecDeque<SocketId>,
    /// The completion queue, and behind its capacity what has overflowed.
    completions: VecDeque<Completion>,
    completions_max: usize,
    /// Completions that the last `enter` has put within reach.
    visible: usize,
    provided: Option<Provided>,
    /// Slots that were sent to since the submission queue was last empty.
    sent: HashSet<u32>,
    /// Failures of sends that were not read yet: the ticket and whose they are.
    unread: BTreeMap<u32, SocketId>,
    enabled: bool,
    /// When its thread went to sleep in `enter`, as far as the thread can tell.
    asleep_since: Option<u64>,
}

/// What the double has done of the rarer things; a test that claims to have seen them asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Sends that were taken in part or not at all.
    pub short_sends: u64,
    /// Receives that found no buffer.
    pub no_buffers: u64,
    /// Multishot operations that ended although nothing was wrong.
    pub ended_early: u64,
    /// Completions that came when their slot was closed or given away.
    pub late: u64,
    /// Completions that did not fit in their queue.
    pub overflows: u64,
    /// Submissions that were taken in part or not at all.
    pub refused_submissions: u64,
    /// Errors of sockets, accepts, doorbells and the like.
    pub errors: u64,
}

/// What a ring has not given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Slots that hold a socket.
    pub slots: usize,
    /// Operations in flight on sockets.
    pub operations: usize,
    /// Buffers that the kernel does not have.
    pub buffers: usize,
}

impl Machine {
    /// A machine whose kernel decides as the choices say.
    pub fn new(choices: Choices) -> Machine {
        Machine(Rc::new(RefCell::new(World {
            choices,
            micros: 0,
            sockets: Vec::new(),
            rings: Vec::new(),
            faults: Faults::default(),
        })))
    }

    /// Makes a ring, still disabled.
    pub fn open(&self, config: &RingConfig) -> DoubleIo {
        let mut world = self.0.borrow_mut();
        let completions_max = config.completions.next_power_of_two() as usize;
        world.rings.push(RingState { completions_max, ..RingState::default() });
        let capacity = config.submissions.next_power_of_two() as usize;
        DoubleIo { world: Rc::clone(&self.0), ring: world.rings.len() - 1, queue: Vec::with_capacity(capacity), capacity }
    }

    /// The clock, in µs.
    pub fn micros(&self) -> u64 {
        self.0.borrow().micros
    }

    /// The clock as the thread of ring number `ring` reads it, in µs.
    pub fn micros_of(&self, ring: usize) -> u64 {
        let world = self.0.borrow();
        world.rings.get(ring).and_then(|ring| ring.asleep_since).unwrap_or(world.micros)
    }

    /// The thread of ring number `ring` is in its next `enter` from now on, whenever that is carried out.
    pub fn fall_asleep(&self, ring: usize) {
        let world = &mut *self.0.borrow_mut();
        world.rings[ring].asleep_since = Some(world.micros);
    }

    /// Lets time pass.
    pub fn advance(&self, micros: u64) {
        self.0.borrow_mut().micros += micros;
    }

    /// A number below `count`, from the same choices.
    pub fn pick(&self, count: usize) -> usize {
        self.0.borrow_mut().choices.pick(count)
    }

    /// Whether the choices are used up: the kernel does everything at once and well from here on.
    pub fn is_calm(&self) -> bool {
        self.0.borrow().choices.are_used_up()
    }

    /// Whether ring number `ring` has, or would have, a completion.
    pub fn is_ready(&self, ring: usize) -> bool {
        self.0.borrow_mut().is_ready(ring)
    }

    /// What ring number `ring` still has in the kernel.
    pub fn leftovers(&self, ring: usize) -> Leftovers {
        let world = self.0.borrow();
        let ring = &world.rings[ring];
        let buffers = ring.provided.as_ref().map_or(0, Provided::missing);
        let slots = ring.slots.iter().flatten().count();
        Leftovers { slots, operations: ring.armed.iter().filter(|armed| armed.socket().is_some()).count(), buffers }
    }

    /// What was done of the rarer things so far.
    pub fn faults(&self) -> Faults {
        self.0.borrow().faults
    }
}

/// One ring of a [`Machine`].
#[derive(Debug)]
pub struct DoubleIo {
    world: Rc<RefCell<World>>,
    ring: usize,
    queue: Vec<squeue::Entry>,
    capacity: usize,
}

/// The submission queue of a [`DoubleIo`].
#[derive(Debug)]
pub struct DoubleQueue<'queue>(&'queue mut DoubleIo);

// SAFETY: `World` follows pointers of entries and buffers only within `enter`: those of a send while it takes the entry, which is the
// last time; those of buffers between their offer and their completion.
unsafe impl Io for DoubleIo {
    type Queue<'queue> = DoubleQueue<'queue>;

    fn register_slots(&self, slots: u32) -> io::Result<()> {
        let ring = &mut self.world.borrow_mut().rings[self.ring];
        ring.slots = vec![None; slots as usize];
        ring.accepts = vec![0; slots as usize];
        Ok(())
    }

    unsafe fn register_buffers(&self, address: u64, count: u16, _group: u16, flags: u16) -> io::Result<()> {
        // SAFETY: what the caller promises.
        let provided = unsafe { Provided::new(address, count, flags) };
        self.world.borrow_mut().rings[self.ring].provided = Some(provided);
        Ok(())
    }

    fn enable(&self) -> io::Result<()> {
        self.world.borrow_mut().rings[self.ring].enabled = true;
        Ok(())
    }

    fn descriptor(&self) -> RawFd {
        FIRST_DESCRIPTOR + self.ring as RawFd
    }

    fn submission(&mut self) -> DoubleQueue<'_> {
        DoubleQueue(self)
    }

    unsafe fn enter(&mut self, submit: u32, want: u32, wait: Wait) -> io::Result<usize> {
        let mut world = self.world.borrow_mut();
        assert!(world.rings[self.ring].enabled, "a disabled ring is entered");
        world.rings[self.ring].asleep_since = None;
        let queued = self.queue.len().min(submit as usize);
        let taken = world.admit(self.ring, queued)?;
        for entry in self.queue.drain(..taken) {
            // SAFETY: what the caller promises of the entries.
            unsafe { world.submit(self.ring, &entry) };
        }
        if self.queue.is_empty() {
            world.rings[self.ring].sent.clear();
        }
        world.work(self.ring);
        world.flush(self.ring);
        if taken > 0 || want == 0 || !world.rings[self.ring].completions.is_empty() {
            return Ok(taken);
        }
        let timed = matches!(wait, Wait::AtMost(_)) && !world.choices.once_in(4);
        Err(io::Error::from_raw_os_error(if timed { libc::ETIME } else { libc::EINTR }))
    }

    fn reap(&mut self, mut each: impl FnMut(Completion)) {
        let mut world = self.world.borrow_mut();
        for _ in 0..std::mem::take(&mut world.rings[self.ring].visible) {
            let Some(completion) = world.rings[self.ring].completions.pop_front() else { break };
            world.note_read(self.ring, &completion);
            each(completion);
        }
    }
}

impl Queue for DoubleQueue<'_> {
    unsafe fn push_entry(&mut self, entry: &squeue::Entry) -> Result<(), Full> {
        if self.0.queue.len() == self.0.capacity {
            return Err(Full);
        }
        self.0.queue.push(entry.clone());
        Ok(())
    }
    fn entries_max(&self) -> usize {
        self.0.capacity
    }
    fn queued(&self) -> usize {
        self.0.queue.len()
    }
    fn has_overflow(&self) -> bool {
        let ring = &self.0.world.borrow().rings[self.0.ring];
        ring.completions.len() > ring.visible
    }
}
