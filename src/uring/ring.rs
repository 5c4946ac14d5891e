//! A ring: its two queues, its file table, its buffers, and the one system call of a loop turn.
//!
//! [`Ring::push`] takes operations that point at no memory of the caller. Sends do; they are lent to [`Ring::enter`], which pushes
//! them, enters the kernel until the submission queue is empty, and copies every completion out before it returns. A send carries
//! `MSG_DONTWAIT` and is neither linked, drained nor `IOSQE_ASYNC`, so the kernel runs it to its end within the call that submits
//! it: the loan of its bytes ends when `enter` returns, and the completions of those that were not taken whole are in the queue by
//! then.
//!
//! A ring belongs to the thread that made it (`SINGLE_ISSUER`); it is not `Send`.

use super::buffers::{Buffers, BuffersConfig};
use super::entry::Entry;
use super::io::{Io, Queue, open};
use super::op::{Completion, Op, UserData};
use super::planted::{Bug, is_planted};
use io_uring::squeue::Flags;
use io_uring::types::Fixed;
use io_uring::{IoUring, opcode, squeue};
use socket2::SockAddr;
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;

/// Failed attempts to submit, one after the other, after which the kernel is taken to be out of memory for good.
const SUBMIT_ATTEMPTS_MAX: u32 = 10_000;

/// How large a ring is.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Entries of the submission queue; rounded up to a power of two.
    pub submissions: u32,
    /// Entries of the completion queue; rounded up to a power of two.
    pub completions: u32,
    /// Slots of the file table, at most RLIMIT_NOFILE.
    pub slots: u32,
    /// What it receives into.
    pub buffers: BuffersConfig,
    /// False makes every receive take a whole buffer, as on kernels before 6.12.
    pub incremental: bool,
}

/// How long [`Ring::enter`] waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: submits, and collects what has completed.
    Poll,
    /// Until something completes, or this long.
    AtMost(Duration),
    /// Until something completes.
    Forever,
}

/// A send whose bytes are lent for one [`Ring::enter`].
///
/// Success is silent. Otherwise there is a completion: the count that the socket took, or an errno, `EAGAIN` if it took nothing.
#[derive(Clone, Copy, Debug)]
pub struct Send<'bytes> {
    /// Slot of the socket.
    pub slot: u32,
    /// Comes back as the index of the completion's user data.
    pub ticket: u32,
    /// What is sent. At most 2 GiB - 4 KiB.
    pub bytes: &'bytes [u8],
}

/// The most bytes that Linux moves in one call (`MAX_RW_COUNT`).
const SEND_BYTES_MAX: usize = 0x7fff_f000;

/// The submission queue is full: call [`Ring::enter`], then push again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What is submitted by one [`Ring::enter_with`], beyond what was pushed before.
pub struct Batch<'ring, 'bytes, I: Io + 'ring = IoUring> {
    queue: I::Queue<'ring>,
    // Only behind `&mut`, so that `'bytes` can't be shortened to less than the call.
    lent: PhantomData<&'bytes [u8]>,
}

impl<'bytes, I: Io> Batch<'_, 'bytes, I> {
    /// Adds a send.
    ///
    /// # Errors
    /// [`Full`]; nothing was added.
    ///
    /// # Panics
    /// If it is longer than 2 GiB - 4 KiB.
    pub fn send(&mut self, send: Send<'bytes>) -> Result<(), Full> {
        assert!(send.bytes.len() <= SEND_BYTES_MAX, "a send of {} bytes", send.bytes.len());
        // MSG_WAITALL: without it a short count would be a success, and silent.
        let entry = opcode::Send::new(Fixed(send.slot), send.bytes.as_ptr(), send.bytes.len() as u32)
            .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(UserData::new(Op::Send, send.ticket, 0).bits());
        // SAFETY: the bytes are borrowed for longer than the call of `enter_with`, at whose end the kernel has run the send. If
        // that end is not reached in order, `lending` stays set and the entry is never submitted.
        unsafe { self.queue.push_entry(&entry) }
    }

    /// Adds any other operation.
    ///
    /// # Errors
    /// [`Full`]; nothing was added.
    pub fn push(&mut self, entry: &Entry) -> Result<(), Full> {
        // SAFETY: an `Entry` points at no memory, or at statics (see `entry`).
        unsafe { self.queue.push_entry(&entry.0) }
    }
}

/// What a ring counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Operations submitted.
    pub submissions: u64,
    /// Completions reaped.
    pub completions: u64,
    /// Times that completions did not fit in the queue, and were fetched from the kernel's overflow list.
    pub overflows: u64,
    /// Calls that submitted less than what was queued, because the kernel was short of memory or of completion entries.
    pub submit_retries: u64,
}

/// A ring of its own thread, on the kernel unless it is said otherwise.
pub struct Ring<I: Io = IoUring> {
    // Dropped first: when its descriptor is closed the kernel runs no more operation into the memory below.
    io: I,
    buffers: Buffers,
    /// Addresses of queued binds and connects, which the kernel copies when it takes the entry. Never grows beyond its capacity, so
    /// none of them moves.
    addresses: Vec<SockAddr>,
    /// Reaped and not yet handed out, oldest first.
    reaped: VecDeque<Completion>,
    counters: RingCounters,
    /// Set while lent pointers are in the submission queue. A panic or a failure leaves it set, and the ring submits nothing more.
    lending: bool,
}

impl Ring {
    /// Makes a ring that is still disabled: it takes registrations and restrictions, and runs nothing before [`Ring::enable`].
    ///
    /// # Errors
    /// What the kernel says to `io_uring_setup`, to the file table (EMFILE: more slots than RLIMIT_NOFILE) or to the buffers.
    /// [`Kernel::probe`](super::Kernel::probe) turns the usual causes into a remedy beforehand.
    pub fn new(config: RingConfig) -> io::Result<Ring> {
        Ring::on(open(&config)?, config)
    }

    /// The set-up that this module relies on.
    ///
    /// `SINGLE_ISSUER | DEFER_TASKRUN` (Linux 6.1): completions are made only within `enter`, not by interrupting the loop.
    /// `COOP_TASKRUN` is implied by it and said for older readers. `SUBMIT_ALL`: one bad entry doesn't stop the batch.
    pub(super) fn builder(completions: u32) -> io_uring::Builder {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(completions)
            .dontfork();
        builder
    }
}

impl<I: Io> Ring<I> {
    /// As [`Ring::new`], on queues that were made before.
    ///
    /// # Errors
    /// What is said to the file table or to the buffers.
    pub fn on(io: I, config: RingConfig) -> io::Result<Ring<I>> {
        if config.slots > 0 {
            io.register_slots(config.slots)?;
        }
        let buffers = Buffers::register(&io, config.buffers, config.incremental)?;
        Ok(Ring {
            io,
            buffers,
            addresses: Vec::new(),
            reaped: VecDeque::with_capacity(config.completions as usize),
            counters: RingCounters::default(),
            lending: false,
        })
    }

    /// Lets the ring run, for the calling thread alone from now on. Other rings can send it a doorbell only after this.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn enable(&mut self) -> io::Result<()> {
        self.io.enable()
    }

    /// Names the ring to others, for [`Entry::doorbell`].
    pub fn descriptor(&self) -> RawFd {
        self.io.descriptor()
    }

    /// Free entries of the submission queue.
    pub fn room(&mut self) -> usize {
        let queue = self.io.submission();
        queue.entries_max() - queue.queued()
    }

    /// Entries that the submission queue can hold.
    pub fn room_max(&mut self) -> usize {
        self.io.submission().entries_max()
    }

    /// Entries that wait for the next [`Ring::enter`].
    pub fn queued(&mut self) -> usize {
        self.io.submission().queued()
    }

    /// Queues an operation for the next [`Ring::enter`].
    ///
    /// # Errors
    /// [`Full`]; nothing was queued.
    pub fn push(&mut self, entry: Entry) -> Result<(), Full> {
        // SAFETY: an `Entry` points at no memory, or at statics (see `entry`).
        unsafe { self.io.submission().push_entry(&entry.0) }
    }

    /// Queues a bind of a socket to an address of this machine; port 0 takes a free one (Linux 6.11).
    ///
    /// # Errors
    /// [`Full`]; nothing was queued.
    pub fn push_bind(&mut self, slot: u32, generation: u32, address: SocketAddr, linked: bool) -> Result<(), Full> {
        self.push_with_address(address, linked, |address| {
            let entry = opcode::Bind::new(Fixed(slot), address.as_ptr().cast(), address.len()).build();
            entry.user_data(UserData::new(Op::Bind, slot, generation).bits())
        })
    }

    /// Queues a connect of a socket.
    ///
    /// # Errors
    /// [`Full`]; nothing was queued.
    pub fn push_connect(&mut self, slot: u32, generation: u32, address: SocketAddr, linked: bool) -> Result<(), Full> {
        self.push_with_address(address, linked, |address| {
            let entry = opcode::Connect::new(Fixed(slot), address.as_ptr().cast(), address.len()).build();
            entry.user_data(UserData::new(Op::Connect, slot, generation).bits())
        })
    }

    fn push_with_address(
        &mut self,
        address: SocketAddr,
        linked: bool,
        build: impl FnOnce(&SockAddr) -> squeue::Entry,
    ) -> Result<(), Full> {
        let capacity = self.room_max();
        if self.addresses.capacity() == 0 {
            self.addresses.reserve_exact(capacity);
        }
        if self.room() == 0 || self.addresses.len() == self.addresses.capacity() {
            return Err(Full);
        }
        self.addresses.push(SockAddr::from(address));
        let stored = self.addresses.last().expect("pushed just now");
        let entry = build(stored);
        let entry = if linked { entry.flags(Flags::IO_LINK) } else { entry };
        // SAFETY: the kernel reads the address when it takes the entry (`io_bind_prep`, `io_connect_prep`), within `enter`. Until
        // then it stays where it is: `addresses` is cleared only once the submission queue is empty, and doesn't grow.
        unsafe { self.io.submission().push_entry(&entry) }
    }

    /// One turn's system call: offers spent buffers, submits what was pushed and then `sends`, waits, and copies all completions
    /// out. When it returns, the submission queue is empty and no send of this call is in the kernel. While completions of an
    /// earlier call are pending it doesn't wait.
    ///
    /// # Errors
    /// The kernel refuses to go on (out of memory for longer than it takes to retry 10,000 times, or a bug): the ring can't be
    /// used any more, and every further call fails.
    ///
    /// # Panics
    /// If there are more sends than [`Ring::room`], or one is too long.
    pub fn enter<'bytes>(&mut self, sends: impl IntoIterator<Item = Send<'bytes>>, wait: Wait) -> io::Result<()> {
        let fill = |batch: &mut Batch<'_, 'bytes, I>| {
            for send in sends {
                assert!(batch.send(send).is_ok(), "more sends than the submission queue has room for");
            }
        };
        self.enter_with(fill, wait)
    }

    /// As [`Ring::enter`], where `fill` decides the order of sends and other operations: the kernel runs them in the order of
    /// the queue, so the close of a slot comes after its last send.
    ///
    /// # Errors
    /// As [`Ring::enter`].
    pub fn enter_with<'bytes>(&mut self, fill: impl FnOnce(&mut Batch<'_, 'bytes, I>), wait: Wait) -> io::Result<()> {
        if self.lending {
            return Err(io::Error::from_raw_os_error(libc::EBADFD));
        }
        self.lending = true;
        self.buffers.publish();
        fill(&mut Batch { queue: self.io.submission(), lent: PhantomData });
        self.submit(if self.reaped.is_empty() { wait } else { Wait::Poll })?;
        self.addresses.clear();
        self.lending = false;
        self.reap_all()
    }

    /// Enters the kernel until nothing is left in the submission queue; waits in the first call only.
    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        let mut want = u32::from(wait != Wait::Poll);
        let mut failures = 0;
        loop {
            let queued = self.queued();
            let result = self.enter_once(queued as u32, want, wait);
            self.counters.enters += 1;
            match result {
                Ok(submitted) => {
                    self.counters.submissions += submitted as u64;
                    if submitted > 0 {
                        failures = 0;
                    }
                }
                Err(error) => match error.raw_os_error() {
                    // ETIME: nothing completed in time. EINTR: a signal came first. Both only with nothing submitted.
                    Some(libc::ETIME | libc::EINTR) => {}
                    // EBUSY: completions that overflowed must be fetched before more is submitted. EAGAIN, ENOMEM: no memory
                    // for a request right now. Fetching completions helps in each case.
                    Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM) => {}
                    _ => return Err(error),
                },
            }
            if self.queued() == 0 {
                return Ok(());
            }
            failures += 1;
            if failures > SUBMIT_ATTEMPTS_MAX {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            self.counters.submit_retries += 1;
            want = 0;
            self.reap();
            std::thread::yield_now();
        }
    }

    /// `io_uring_enter` once.
    fn enter_once(&mut self, queued: u32, want: u32, wait: Wait) -> io::Result<usize> {
        // SAFETY: entries point at nothing, at statics, at `addresses`, or at bytes that are lent until the queue is empty.
        unsafe { self.io.enter(queued, want, wait) }
    }

    /// Copies all completions out, those of the kernel's overflow list too.
    fn reap_all(&mut self) -> io::Result<()> {
        self.reap();
        while self.io.submission().has_overflow() {
            self.counters.overflows += 1;
            self.counters.enters += 1;
            match self.enter_once(0, 0, Wait::Poll) {
                Ok(_) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
                Err(error) => return Err(error),
            }
            self.reap();
            if is_planted(Bug::CompletionLost) {
                self.reaped.pop_back();
            }
        }
        Ok(())
    }

    fn reap(&mut self) {
        let Ring { io, buffers, reaped, counters, .. } = self;
        io.reap(|completion| {
            buffers.note_reaped(&completion);
            counters.completions += 1;
            reaped.push_back(completion);
        });
    }

    /// The oldest completion that was not handed out yet.
    pub fn next_completion(&mut self) -> Option<Completion> {
        let completion = self.reaped.pop_front();
        if self.reaped.is_empty() {
            // From the start again: else the queue would wander through all of its memory, and through the cache.
            self.reaped.clear();
        }
        completion
    }

    /// Completions that were reaped and not handed out yet.
    pub fn pending_completions(&self) -> usize {
        self.reaped.len()
    }

    /// A look at those completions, from the one that is handed out as number `start`.
    pub fn completions_from(&self, start: usize) -> impl Iterator<Item = &Completion> {
        self.reaped.range(start.min(self.reaped.len())..)
    }

    /// What receives go into.
    pub fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    /// What was counted so far.
    pub fn counters(&self) -> RingCounters {
        self.counters
    }
}

impl<I: Io> std::fmt::Debug for Ring<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("descriptor", &self.descriptor()).field("counters", &self.counters).finish_non_exhaustive()
    }
}
