//! Operations that point at no memory of the caller, and are therefore safe to push.
//!
//! Each constructor names the completion that it leads to by its [`UserData`]. Sockets are slots of the ring's file table, except
//! listeners. What does point at memory (sends, addresses) has a method of [`Ring`](super::Ring) of its own.
//!
//! Invariant: an entry holds no pointer, or one into a `static`.

use super::buffers::GROUP;
use super::op::{Op, UserData};
use io_uring::opcode;
use io_uring::squeue::{self, Flags};
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::AtomicU8;

/// An operation, ready for [`Ring::push`](super::Ring::push).
#[derive(Clone, Debug)]
pub struct Entry(pub(super) squeue::Entry);

/// An option of a socket, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOption {
    /// `TCP_NODELAY`: small segments leave at once.
    NoDelay,
    /// `SO_LINGER` of 0 s: close sends RST and leaves no `TIME_WAIT`.
    Reset,
    /// `IP_BIND_ADDRESS_NO_PORT`: a bind to port 0 chooses the port at connect, so that ports are shared between destinations.
    BindAddressNoPort,
    /// `SO_REUSEADDR`.
    ReuseAddress,
    /// `SO_RCVBUF` of 4 KiB, the least that Linux gives: a reader that is soon behind.
    SmallReceiveBuffer,
}

/// The command of `IORING_OP_URING_CMD` on a socket, from the kernel's `io_uring.h`.
const SOCKET_URING_OP_SIOCOUTQ: u32 = 1;

/// The flag of a message to another ring that makes no completion there, from the kernel's `io_uring.h`.
const IORING_MSG_RING_CQE_SKIP: u32 = 1;

/// Where peeks put a byte that nobody reads. All rings share it; atomic, because the kernel writes to it.
static PEEKED: AtomicU8 = AtomicU8::new(0);
static ONE: libc::c_int = 1;
static SMALL: libc::c_int = 4096;
static LINGER_NONE: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

impl Entry {
    /// Accepts connections into free slots, until it completes without `more`. Each completion's result is a slot. The peer's
    /// address is not told: a multishot accept has no place for it. `number` is the listener's, and comes back as the index of each
    /// completion's user data.
    pub fn accept(listener: BorrowedFd<'_>, number: u32) -> Entry {
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true);
        Entry::named(accept.build(), Entry::accept_data(number))
    }
    /// The user data of [`Entry::accept`].
    pub fn accept_data(number: u32) -> UserData {
        UserData::new(Op::Accept, number, 0)
    }
    /// Receives into provided buffers, until it completes without `more`.
    pub fn receive(slot: u32, generation: u32) -> Entry {
        Entry::named(opcode::RecvMulti::new(Fixed(slot), GROUP).build(), UserData::new(Op::Receive, slot, generation))
    }
    /// Receives once, at most `length` bytes, into a provided buffer.
    pub fn receive_once(slot: u32, generation: u32, length: u32) -> Entry {
        let receive = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), length).buf_group(GROUP).build();
        Entry::named(receive.flags(Flags::BUFFER_SELECT), UserData::new(Op::Receive, slot, generation))
    }
    /// Looks whether a slot has anything to read, and leaves it there. Completes with 1, with 0 at the end of the stream, or with
    /// `EAGAIN`.
    pub fn peek(slot: u32, generation: u32) -> Entry {
        let peek = opcode::Recv::new(Fixed(slot), PEEKED.as_ptr(), 1).flags(libc::MSG_PEEK | libc::MSG_DONTWAIT);
        Entry::named(peek.build(), UserData::new(Op::Peek, slot, generation))
    }
    /// Asks how many bytes of what was sent to a slot its peer has not acknowledged (`SIOCOUTQ`, Linux 6.7). Completes with their
    /// number, or with an error where the kernel can't tell.
    pub fn unacknowledged(slot: u32, generation: u32) -> Entry {
        let ask = opcode::UringCmd16::new(Fixed(slot), SOCKET_URING_OP_SIOCOUTQ);
        Entry::named(ask.build(), UserData::new(Op::Option, slot, generation))
    }
    /// Completes once the socket takes bytes again, or is broken.
    pub fn writable(slot: u32, generation: u32) -> Entry {
        Entry::poll(slot, libc::POLLOUT, UserData::new(Op::Writable, slot, generation))
    }
    /// Completes once the peer has closed or reset, whatever is unread.
    pub fn hangup(slot: u32, generation: u32) -> Entry {
        Entry::poll(slot, libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR, UserData::new(Op::Hangup, slot, generation))
    }
    fn poll(slot: u32, events: libc::c_short, data: UserData) -> Entry {
        Entry::named(opcode::PollAdd::new(Fixed(slot), events as u16 as u32).build(), data)
    }
    /// Cancels the operation with this user data. Silent if it did; the cancelled one completes with `ECANCELED`. By user data,
    /// because that is a hash lookup (7 µs at 9,000 armed), while by descriptor it searches the ring (93 µs).
    pub fn cancel(target: UserData) -> Entry {
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::user_data(target.bits())).build();
        Entry::named(cancel, UserData::new(Op::Cancel, target.index(), target.generation())).silent()
    }
    /// Closes a slot. Silent if it did. What is armed on it must be cancelled before, in the same submission: an armed receive
    /// keeps the socket alive, and the peer would see no end.
    pub fn close(slot: u32, generation: u32) -> Entry {
        Entry::named(opcode::Close::new(Fixed(slot)).build(), UserData::new(Op::Close, slot, generation)).silent()
    }
    /// Puts a completion of [`Op::Doorbell`] with this index into the ring with descriptor `ring`. Silent if it did.
    pub fn doorbell(ring: RawFd, index: u32) -> Entry {
        let data = UserData::new(Op::Doorbell, index, 0);
        Entry::named(opcode::MsgRingData::new(Fd(ring), 0, data.bits(), None).build(), data).silent()
    }
    /// Gives the file of a slot to the ring with descriptor `ring`, into any free slot there. Completes with the number of that
    /// slot, or with an error (`ENFILE`: no slot is free); the other ring is told nothing. Both slots then name one file, and each
    /// is closed by its own ring. What is armed on this slot goes on working for this ring, and takes what arrives: see that no
    /// receive is. Linux 6.3.
    ///
    /// A completion in the other ring could be lost for want of memory with the file already there (`io_msg_install_complete`); so
    /// there is none, and who gives the file says so itself.
    pub fn send_fd(slot: u32, generation: u32, ring: RawFd) -> Entry {
        let give = opcode::MsgRingSendFd::new(Fd(ring), Fixed(slot), DestinationSlot::auto_target(), 0);
        let entry = give.opcode_flags(IORING_MSG_RING_CQE_SKIP).build();
        Entry::named(entry, UserData::new(Op::SendFd, slot, generation))
    }
    /// Completes with `more` each time that the eventfd is written to.
    pub(super) fn wake(eventfd: BorrowedFd<'_>) -> Entry {
        let poll = opcode::PollAdd::new(Fd(eventfd.as_raw_fd()), libc::POLLIN as u32).multi(true);
        Entry::named(poll.build(), UserData::new(Op::Wake, 0, 0))
    }
    /// Makes a TCP socket in slot `slot`, which must be free.
    ///
    /// # Panics
    /// If `slot` is beyond what a file table can have.
    pub fn socket(slot: u32, generation: u32, ipv6: bool) -> Entry {
        let domain = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let place = DestinationSlot::try_from_slot_target(slot).expect("a slot below the size of a file table");
        let socket = opcode::Socket::new(domain, libc::SOCK_STREAM, libc::IPPROTO_TCP).file_index(Some(place));
        Entry::named(socket.build(), UserData::new(Op::Socket, slot, generation))
    }
    /// Sets an option of a socket (Linux 6.7).
    pub fn set_option(slot: u32, generation: u32, option: SocketOption) -> Entry {
        let one = (&raw const ONE).cast::<libc::c_void>();
        let int = size_of::<libc::c_int>();
        let (level, name, value, length) = match option {
            SocketOption::NoDelay => (libc::IPPROTO_TCP, libc::TCP_NODELAY, one, int),
            SocketOption::Reset => (libc::SOL_SOCKET, libc::SO_LINGER, (&raw const LINGER_NONE).cast(), size_of::<libc::linger>()),
            SocketOption::BindAddressNoPort => (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, one, int),
            SocketOption::ReuseAddress => (libc::SOL_SOCKET, libc::SO_REUSEADDR, one, int),
            SocketOption::SmallReceiveBuffer => (libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw const SMALL).cast(), int),
        };
        let set = opcode::SetSockOpt::new(Fixed(slot), level as u32, name as u32, value, length as u32).build();
        Entry::named(set, UserData::new(Op::Option, slot, generation))
    }
    /// Shuts the sending side of a socket down: the peer sees the end of the stream. The kernel runs it on a thread of its own, and
    /// looks the slot up only there: the slot must not be closed before this has completed.
    pub fn shutdown_write(slot: u32, generation: u32) -> Entry {
        Entry::named(opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build(), UserData::new(Op::Shutdown, slot, generation))
    }

    /// Starts the next pushed entry only after this one succeeded; if it fails, the next completes with `ECANCELED`. Both must go
    /// in one submission: see [`Ring::room`](super::Ring::room).
    pub fn linked(self) -> Entry {
        Entry(self.0.flags(Flags::IO_LINK))
    }
    /// Completes only if it fails.
    pub fn silent(self) -> Entry {
        Entry(self.0.flags(Flags::SKIP_SUCCESS))
    }
    pub(super) fn named(entry: squeue::Entry, data: UserData) -> Entry {
        Entry(entry.user_data(data.bits()))
    }
}
