//! Reads a submission queue entry as the kernel does: 64 bytes, by the offsets of its `io_uring.h`.
//!
//! It is written from the layout and not from the crate that makes the entries, so that what the ring means and what the kernel
//! would understand are compared.

use io_uring::squeue;

/// `IOSQE_FIXED_FILE`: the descriptor is a slot of the ring's file table.
pub(super) const FIXED_FILE: u8 = 1;
/// `IOSQE_BUFFER_SELECT`.
pub(super) const BUFFER_SELECT: u8 = 1 << 5;
/// `IOSQE_CQE_SKIP_SUCCESS`.
pub(super) const SKIP_SUCCESS: u8 = 1 << 6;
/// `IORING_RECV_MULTISHOT`, in the `ioprio` of a receive.
pub(super) const RECEIVE_MULTISHOT: u16 = 2;
/// `IORING_ACCEPT_MULTISHOT`, in the `ioprio` of an accept.
pub(super) const ACCEPT_MULTISHOT: u16 = 1;
/// `IORING_POLL_ADD_MULTI`, in the `len` of a poll.
pub(super) const POLL_MULTI: u32 = 1;
/// `IORING_MSG_DATA`, in the `addr` of a message to another ring.
pub(super) const MSG_DATA: u64 = 0;
/// `IORING_MSG_SEND_FD`.
pub(super) const MSG_SEND_FD: u64 = 1;
/// `IORING_MSG_RING_CQE_SKIP`.
pub(super) const MSG_CQE_SKIP: u32 = 1;
/// `IORING_FILE_INDEX_ALLOC`: any free slot.
pub(super) const ANY_SLOT: u32 = u32::MAX;

pub(super) const POLL_ADD: u8 = 6;
pub(super) const ACCEPT: u8 = 13;
pub(super) const ASYNC_CANCEL: u8 = 14;
pub(super) const CLOSE: u8 = 19;
pub(super) const SEND: u8 = 26;
pub(super) const RECV: u8 = 27;
pub(super) const SHUTDOWN: u8 = 34;
pub(super) const MSG_RING: u8 = 40;
pub(super) const URING_CMD: u8 = 46;

/// The fields that the double looks at, by their names in `struct io_uring_sqe`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Submission {
    pub(super) opcode: u8,
    pub(super) flags: u8,
    pub(super) ioprio: u16,
    pub(super) fd: i32,
    /// `off`, `addr2` or `cmd_op`.
    pub(super) off: u64,
    pub(super) addr: u64,
    pub(super) len: u32,
    /// `msg_flags`, `poll32_events`, `cancel_flags`, …
    pub(super) op_flags: u32,
    pub(super) user_data: u64,
    pub(super) buf_group: u16,
    pub(super) file_index: u32,
    pub(super) addr3: u64,
}

const ENTRY_BYTES: usize = 64;
const _: () = assert!(size_of::<squeue::Entry>() == ENTRY_BYTES);

impl Submission {
    pub(super) fn read(entry: &squeue::Entry) -> Submission {
        // SAFETY: an entry is 64 bytes, as asserted above, and all of them are initialised: it begins as zeroes, and is written to
        // field by field.
        let bytes: &[u8; ENTRY_BYTES] = unsafe { &*std::ptr::from_ref(entry).cast() };
        Submission {
            opcode: bytes[0],
            flags: bytes[1],
            ioprio: u16::from_ne_bytes(field(bytes, 2)),
            fd: i32::from_ne_bytes(field(bytes, 4)),
            off: u64::from_ne_bytes(field(bytes, 8)),
            addr: u64::from_ne_bytes(field(bytes, 16)),
            len: u32::from_ne_bytes(field(bytes, 24)),
            op_flags: u32::from_ne_bytes(field(bytes, 28)),
            user_data: u64::from_ne_bytes(field(bytes, 32)),
            buf_group: u16::from_ne_bytes(field(bytes, 40)),
            file_index: u32::from_ne_bytes(field(bytes, 44)),
            addr3: u64::from_ne_bytes(field(bytes, 48)),
        }
    }
}

fn field<const N: usize>(bytes: &[u8; ENTRY_BYTES], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("every field lies within the entry")
}
