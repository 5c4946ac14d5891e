//! What a ring asks of the kernel: the one seam between this module's `unsafe` code and io_uring itself.
//!
//! [`Ring`] and [`Buffers`](super::Buffers) are written against [`Io`]; the server's is [`IoUring`], chosen at compile
//! time, so that nothing is dispatched at run time. Tests put a double there, which reads entries and writes buffers as the kernel
//! would, and completes in whatever order is possible.
//!
//! It decides nothing: which flags are set, what is retried and when memory is lent are the ring's.

use super::op::{Completion, UserData};
use super::ring::{Full, Ring, RingConfig, Wait};
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, squeue};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// The queues of one ring and the calls that they are shared by.
///
/// # Safety
/// Memory that an entry points at is touched only within [`Io::enter`], and no more once the entry's last completion was reaped
/// and, for a send as [`Batch`](super::Batch) makes it, once the submission queue is empty. The memory of registered buffers is
/// touched only within [`Io::enter`], and not after the drop.
pub unsafe trait Io {
    /// The submission queue, borrowed.
    type Queue<'queue>: Queue
    where
        Self: 'queue;

    /// Makes a file table of that many free slots.
    ///
    /// # Errors
    /// EMFILE: more than RLIMIT_NOFILE.
    fn register_slots(&self, slots: u32) -> io::Result<()>;

    /// Registers a ring of `count` entries at `address` as buffer group `group`.
    ///
    /// # Errors
    /// EINVAL: a flag that is not known.
    ///
    /// # Safety
    /// The memory holds that many entries and outlives the `Io`; so do the buffers that the entries will name.
    unsafe fn register_buffers(&self, address: u64, count: u16, group: u16, flags: u16) -> io::Result<()>;

    /// Lets operations run.
    ///
    /// # Errors
    /// What the kernel says.
    fn enable(&self) -> io::Result<()>;

    /// Names the ring to others.
    fn descriptor(&self) -> RawFd;

    /// The submission queue.
    fn submission(&mut self) -> Self::Queue<'_>;

    /// `io_uring_enter` once, with GETEVENTS always, because deferred completions are made only with it. Submits at most `submit`
    /// entries and returns how many; waits for `want` completions.
    ///
    /// # Errors
    /// ETIME, EINTR, EBUSY, EAGAIN, ENOMEM: nothing was submitted; anything else is final.
    ///
    /// # Safety
    /// Whatever the queued entries point at is valid for as long as the kernel uses it.
    unsafe fn enter(&mut self, submit: u32, want: u32, wait: Wait) -> io::Result<usize>;

    /// Takes every completion out of the queue, oldest first.
    fn reap(&mut self, each: impl FnMut(Completion));
}

/// A submission queue.
pub trait Queue {
    /// Adds an entry.
    ///
    /// # Errors
    /// [`Full`]; nothing was added.
    ///
    /// # Safety
    /// What the entry points at is valid until the kernel is done with it.
    unsafe fn push_entry(&mut self, entry: &squeue::Entry) -> Result<(), Full>;
    /// Entries that it can hold.
    fn entries_max(&self) -> usize;
    /// Entries in it.
    fn queued(&self) -> usize;
    /// Whether completions wait that the completion queue had no place for.
    fn has_overflow(&self) -> bool;
}

/// Makes the kernel's ring, still disabled.
///
/// # Errors
/// What `io_uring_setup` says.
pub fn open(config: &RingConfig) -> io::Result<IoUring> {
    Ring::builder(config.completions).build(config.submissions)
}

// SAFETY: the ring is made with DEFER_TASKRUN, so the kernel works on its operations only when it is entered, and a send without
// IOSQE_ASYNC, link or drain is run to its end by the call that takes it. Its drop closes the descriptor.
unsafe impl Io for IoUring {
    type Queue<'queue> = squeue::SubmissionQueue<'queue>;

    fn register_slots(&self, slots: u32) -> io::Result<()> {
        self.submitter().register_files_sparse(slots)
    }

    unsafe fn register_buffers(&self, address: u64, count: u16, group: u16, flags: u16) -> io::Result<()> {
        // SAFETY: what the caller promises.
        unsafe { self.submitter().register_buf_ring_with_flags(address, count, group, flags) }
    }

    fn enable(&self) -> io::Result<()> {
        self.submitter().register_enable_rings()
    }

    fn descriptor(&self) -> RawFd {
        self.as_raw_fd()
    }

    fn submission(&mut self) -> squeue::SubmissionQueue<'_> {
        IoUring::submission(self)
    }

    unsafe fn enter(&mut self, submit: u32, want: u32, wait: Wait) -> io::Result<usize> {
        let submitter = self.submitter();
        match wait {
            // A timeout of zero would cost 20 µs for a timer; not to wait at all costs none.
            Wait::AtMost(time) if want > 0 && !time.is_zero() => {
                let time = Timespec::from(time);
                let arguments = SubmitArgs::new().timespec(&time);
                let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
                // SAFETY: the arguments are those of EXT_ARG, and both they and the time outlive the call.
                unsafe { submitter.enter(submit, want, flags.bits(), Some(&arguments)) }
            }
            Wait::Poll | Wait::AtMost(_) | Wait::Forever => {
                let want = if wait == Wait::Forever { want } else { 0 };
                // SAFETY: no argument is passed.
                unsafe { submitter.enter::<libc::sigset_t>(submit, want, EnterFlags::GETEVENTS.bits(), None) }
            }
        }
    }

    fn reap(&mut self, mut each: impl FnMut(Completion)) {
        for entry in self.completion() {
            each(Completion { data: UserData::from_bits(entry.user_data()), result: entry.result(), flags: entry.flags() });
        }
    }
}

impl Queue for squeue::SubmissionQueue<'_> {
    unsafe fn push_entry(&mut self, entry: &squeue::Entry) -> Result<(), Full> {
        // SAFETY: what the caller promises.
        unsafe { self.push(entry) }.map_err(|_| Full)
    }
    fn entries_max(&self) -> usize {
        self.capacity()
    }
    fn queued(&self) -> usize {
        self.len()
    }
    fn has_overflow(&self) -> bool {
        self.cq_overflow()
    }
}
