//! What travels through the kernel with an operation and comes back with its completion.
//!
//! A [`UserData`] names the operation, the slot (or another index) that it is for, and which of the slot's successive users it was
//! started for, so that a completion that arrives after its slot was given away is recognised. It is 64 bits by value: a
//! completion can be late, doubled or wrong and still leads to no pointer.

use std::fmt;

/// What an operation is. 5 bits of the user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// Multishot accept into the file table.
    Accept = 0,
    /// Receive into a provided buffer.
    Receive = 1,
    /// Send; the index is the caller's ticket, not a slot.
    Send = 2,
    /// Poll for room in the socket's send buffer.
    Writable = 3,
    /// Poll for the end of a connection that is not being received from.
    Hangup = 4,
    /// Receive with `MSG_PEEK`: is there anything to read?
    Peek = 5,
    /// Cancellation of another operation.
    Cancel = 6,
    /// Close of a slot.
    Close = 7,
    /// Message from another ring; the index is the sender's choice.
    Doorbell = 8,
    /// Readiness of the eventfd of a [`Waker`](super::Waker).
    Wake = 9,
    /// Creation of a socket in a slot.
    Socket = 10,
    /// Option or state of a socket, set or asked for.
    Option = 11,
    /// Bind of a socket.
    Bind = 12,
    /// Connect of a socket.
    Connect = 13,
    /// Shutdown of a socket.
    Shutdown = 14,
    /// Gift of a slot's file to another ring.
    SendFd = 15,
    /// A user data that this process never made.
    Unknown = 16,
}

impl Op {
    /// Every operation, in discriminant order.
    pub const ALL: [Op; 17] = [
        Op::Accept,
        Op::Receive,
        Op::Send,
        Op::Writable,
        Op::Hangup,
        Op::Peek,
        Op::Cancel,
        Op::Close,
        Op::Doorbell,
        Op::Wake,
        Op::Socket,
        Op::Option,
        Op::Bind,
        Op::Connect,
        Op::Shutdown,
        Op::SendFd,
        Op::Unknown,
    ];
}

/// Bits of a generation.
pub const GENERATION_BITS: u32 = 24;
/// The largest generation; the next one is 0.
pub const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;

/// The 64 bits that name an operation: 3 unused, 5 of [`Op`], 24 of generation, 32 of index.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserData(u64);

impl UserData {
    /// Names operation `op` on `index` for its user number `generation`, of which the low 24 bits are kept.
    pub const fn new(op: Op, index: u32, generation: u32) -> UserData {
        UserData((op as u64) << 56 | ((generation & GENERATION_MAX) as u64) << 32 | index as u64)
    }
    /// What was started.
    pub const fn op(self) -> Op {
        let place = (self.0 >> 56 & 31) as usize;
        if place < Op::ALL.len() { Op::ALL[place] } else { Op::Unknown }
    }
    /// The slot, or what else the operation is counted by.
    pub const fn index(self) -> u32 {
        self.0 as u32
    }
    /// Which user of the slot it was started for.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & GENERATION_MAX
    }
    /// The bits as the kernel carries them.
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// From the bits that the kernel carried.
    pub const fn from_bits(bits: u64) -> UserData {
        UserData(bits)
    }
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({}, generation {})", self.op(), self.index(), self.generation())
    }
}

/// A completion, copied out of the completion queue.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// Which operation it belongs to.
    pub data: UserData,
    /// What came of it: a count, or a negated errno.
    pub result: i32,
    pub(super) flags: u32,
}

impl Completion {
    /// True if the operation goes on and will complete again (multishot). False also means: it has to be armed again.
    pub fn more(&self) -> bool {
        io_uring::cqueue::more(self.flags)
    }
    /// True if a provided buffer came with it, which must be taken with [`Buffers::take`](super::Buffers::take) even if the bytes
    /// are of no use any more.
    pub fn has_buffer(&self) -> bool {
        io_uring::cqueue::buffer_select(self.flags).is_some()
    }
    /// True if the socket had more to read after this receive.
    pub fn socket_has_more(&self) -> bool {
        io_uring::cqueue::sock_nonempty(self.flags)
    }
    /// The errno, if it failed.
    pub fn errno(&self) -> Option<i32> {
        (self.result < 0).then(|| self.result.wrapping_neg())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_comes_back_as_it_was_made() {
        for op in Op::ALL {
            for index in [0, 1, 0x8000_0000, u32::MAX] {
                for generation in [0, 1, GENERATION_MAX] {
                    let data = UserData::from_bits(UserData::new(op, index, generation).bits());
                    assert_eq!((data.op(), data.index(), data.generation()), (op, index, generation));
                }
            }
        }
    }

    #[test]
    fn a_generation_beyond_24_bits_leaves_the_operation_alone() {
        let data = UserData::new(Op::Receive, 7, GENERATION_MAX + 1);
        assert_eq!((data.op(), data.index(), data.generation()), (Op::Receive, 7, 0));
    }

    #[test]
    fn any_bits_decode_without_a_panic() {
        for bits in [0, u64::MAX, 1 << 63, 0x0f00_0000_0000_0000, 0x1100_0000_0000_0000] {
            let _ = UserData::from_bits(bits).op();
        }
    }
}
