//! The sockets of a double, from the peer's side: two streams of bytes, and how they end.

use super::{Machine, World};
use std::collections::VecDeque;
use std::fmt;

/// Bytes that a socket takes before it is full. Small, so that it often is.
const SEND_ROOM_BYTES: usize = 6_000;

/// A socket of a [`Machine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketId(pub(super) usize);

pub(super) struct Socket {
    /// What the peer has sent and the server has not received.
    pub(super) inbound: VecDeque<u8>,
    /// What the server has sent and the peer has not read.
    pub(super) outbound: Vec<u8>,
    /// The peer has finished sending.
    pub(super) finished: bool,
    /// The errno that every further operation gets.
    pub(super) broken: Option<i32>,
    /// The server has finished sending.
    pub(super) shut: bool,
    /// Slots of all rings that name it.
    pub(super) held: usize,
    /// The server has closed it: the last of them was closed.
    pub(super) closed: bool,
}

impl Socket {
    /// Bytes that it takes.
    pub(super) fn room(&self) -> usize {
        SEND_ROOM_BYTES - self.outbound.len().min(SEND_ROOM_BYTES)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Socket { inbound, outbound, finished, broken, shut, held, closed } = self;
        let (inbound, outbound) = (inbound.len(), outbound.len());
        write!(
            f,
            "Socket({inbound} in, {outbound} out, finished {finished}, broken {broken:?}, shut {shut}, held {held}, closed {closed})"
        )
    }
}

impl World {
    pub(super) fn socket(&mut self, id: SocketId) -> &mut Socket {
        &mut self.sockets[id.0]
    }
}

impl Machine {
    /// Connects to the listener of ring number `ring`.
    pub fn connect(&self, ring: usize) -> SocketId {
        let mut world = self.0.borrow_mut();
        let id = SocketId(world.sockets.len());
        world.sockets.push(Socket {
            inbound: VecDeque::new(),
            outbound: Vec::new(),
            finished: false,
            broken: None,
            shut: false,
            held: 0,
            closed: false,
        });
        world.rings[ring].backlog.push_back(id);
        id
    }

    /// The peer sends.
    pub fn write(&self, id: SocketId, bytes: &[u8]) {
        let mut world = self.0.borrow_mut();
        let socket = world.socket(id);
        if !socket.finished && !socket.closed && socket.broken.is_none() {
            socket.inbound.extend(bytes);
        }
    }

    /// The peer finishes sending.
    pub fn finish(&self, id: SocketId) {
        self.0.borrow_mut().socket(id).finished = true;
    }

    /// The connection breaks, for both sides.
    pub fn reset(&self, id: SocketId, errno: i32) {
        self.0.borrow_mut().socket(id).broken.get_or_insert(errno);
    }

    /// The peer reads at most `count` bytes.
    pub fn read(&self, id: SocketId, count: usize) -> Vec<u8> {
        let mut world = self.0.borrow_mut();
        let outbound = &mut world.socket(id).outbound;
        outbound.drain(..count.min(outbound.len())).collect()
    }

    /// Whether the server will send no more than what is still to be read.
    pub fn has_ended(&self, id: SocketId) -> bool {
        let mut world = self.0.borrow_mut();
        let socket = world.socket(id);
        socket.closed || socket.shut || socket.broken.is_some()
    }

    /// False if the peer has gone and the server holds on to the connection.
    pub fn is_closed_where_over(&self, id: SocketId) -> bool {
        let mut world = self.0.borrow_mut();
        let socket = world.socket(id);
        socket.closed || !socket.finished && socket.broken.is_none()
    }

    /// Whether the connection broke.
    pub fn is_broken(&self, id: SocketId) -> bool {
        self.0.borrow_mut().socket(id).broken.is_some()
    }
}
