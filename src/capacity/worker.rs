//! The load driver: one ring, one thread, many client sockets.
//!
//! It makes sockets in the ring's file table (so RLIMIT_NOFILE bounds a worker, not the process), binds them to many loopback
//! addresses (so ports don't run out), receives into shared buffers and sends once per connection and turn. Pings are answered
//! here. What is said and why is a scenario's matter: it is told [`Event`]s and answers through the [`Outbox`].
//!
//! Invariants: a socket's index is its slot; completions of a slot's earlier user are dropped by generation, their buffers taken
//! all the same; between two turns no send is in the kernel.

mod completions;
mod sending;

use super::client::Client;
use super::clock::{self, MILLISECOND, Nanos, SECOND};
use super::outbox::{Due, Order, Outbox};
use super::target::Target;
use crate::uring::op::GENERATION_MAX;
use crate::uring::{BuffersConfig, Entry, Full, Op, Ring, RingConfig, SocketOption, UserData, Wait};
use crate::ws::Opcode;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

/// Entries of the submission queue.
const SUBMISSIONS: u32 = 4_096;
/// Entries of the completion queue.
const COMPLETIONS: u32 = 32_768;
/// Receive buffers: 4 MiB in all.
const BUFFERS: BuffersConfig = BuffersConfig { count: 64, bytes: 64 * 1024 };
/// Submissions that opening one connection takes at most.
const SUBMISSIONS_PER_CONNECT: usize = 8;
/// Source addresses of a worker: at 28,232 ports each (the kernel's default range) more than a file table has slots.
const SOURCE_ADDRESSES: u32 = 250;
/// Unsent bytes of one connection. Above: it is given up, since the server hasn't read for long.
const BACKLOG_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The part of them that one send takes.
const BACKLOG_SEND_BYTES: usize = 64 * 1024;
/// How long the server may take to close a socket after its close frame, or ours.
const ABANDON_AFTER: Nanos = 2 * SECOND;
/// Bytes that a connection which is prepared to be slow reads at once until it is.
const ONCE_BYTES: u32 = 4_096;
/// The longest wait of one turn, so that a phase's end is never missed by more.
const TURN_MAX: Nanos = 100 * MILLISECOND;

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// The upgrade was accepted.
    Open,
    /// The upgrade was answered with another status; the connection is free again.
    Refused {
        /// The HTTP status.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after_s: Option<u32>,
    },
    /// A text message.
    Text(&'a [u8]),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping, which is answered already.
    Ping,
    /// The connection has ended, or never came to be.
    Closed(End),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server sent a close frame, with this code (1005 if it had none).
    Code(u16),
    /// We closed, and the server agreed.
    Ours,
    /// End of stream without a close frame.
    Eof,
    /// An error of the socket, before or after it was connected: this errno.
    Error(i32),
    /// The server broke the protocol.
    Violation(&'static str),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(code) => write!(f, "{code}"),
            End::Ours => write!(f, "ours"),
            End::Eof => write!(f, "eof"),
            End::Error(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
            End::Violation(what) => write!(f, "{what}"),
        }
    }
}

/// How a worker is made.
#[derive(Clone, Debug)]
pub(super) struct WorkerConfig {
    /// Where it connects to.
    pub(super) target: Target,
    /// Which of the process's workers it is, and of how many: connection `i` of worker `w` is the process's number `i * of + w`.
    pub(super) number: u32,
    /// Workers of the process.
    pub(super) of: u32,
    /// Connections that it can have.
    pub(super) connections: u32,
    /// Connections that may be opening at once.
    pub(super) opening_max: usize,
    /// Different `?user=` names over the process, if the server is told one at all.
    pub(super) users: Option<u32>,
    /// Bytes that a slow reader reads at once, and how often.
    pub(super) trickle: (u32, Nanos),
}

/// What a worker counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Connections being opened now.
    pub(super) opening: usize,
    /// Connections that are open now.
    pub(super) open: usize,
    /// Pings answered.
    pub(super) pings: u64,
    /// Sends that the socket did not take whole.
    pub(super) sends_short: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Connecting,
    Connected,
    /// A close frame went or came; the end of the stream is awaited.
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Whatever comes.
    Fast,
    /// Whatever comes, but with single receives and a small buffer in the kernel, so that it can be slowed down.
    Once,
    Trickle,
}

#[derive(Debug)]
struct Socket {
    client: Client,
    generation: u32,
    state: State,
    reading: Reading,
    /// When the next read of a trickle is due.
    read_due: Nanos,
    /// The end was told to the scenario.
    told: bool,
}

/// Bytes that the socket hasn't taken yet.
#[derive(Debug, Default)]
struct Backlog {
    bytes: VecDeque<u8>,
}

/// One send of a turn.
#[derive(Clone, Debug)]
struct Flight {
    connection: u32,
    generation: u32,
    range: Range<usize>,
    accepted: usize,
    from_backlog: bool,
}

/// One thread's share of the load. See the module.
pub(super) struct Worker {
    ring: Ring,
    config: WorkerConfig,
    sockets: Vec<Socket>,
    outbox: Outbox,
    spare_orders: Vec<(u32, Order)>,
    waiting: VecDeque<u32>,
    backlogs: HashMap<u32, Backlog>,
    writable: Vec<u32>,
    sending: Vec<u8>,
    flights: Vec<Flight>,
    counts: Counts,
    /// Why the last socket could not be made or bound.
    setup_errno: i32,
}

impl Worker {
    /// Makes the ring of the calling thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new(config: WorkerConfig) -> io::Result<Worker> {
        let mut ring = Ring::new(RingConfig {
            submissions: SUBMISSIONS,
            completions: COMPLETIONS,
            slots: config.connections,
            buffers: BUFFERS,
            incremental: true,
        })?;
        ring.enable()?;
        let socket = || Socket {
            client: Client::default(),
            generation: 0,
            state: State::Free,
            reading: Reading::Fast,
            read_due: 0,
            told: true,
        };
        let mut outbox = Outbox::new(config.connections as usize, u64::from(config.number) + 1);
        outbox.set_now(clock::now());
        Ok(Worker {
            ring,
            sockets: (0..config.connections).map(|_| socket()).collect(),
            outbox,
            spare_orders: Vec::new(),
            waiting: VecDeque::new(),
            backlogs: HashMap::new(),
            writable: Vec::new(),
            sending: Vec::new(),
            flights: Vec::new(),
            counts: Counts::default(),
            setup_errno: 0,
            config,
        })
    }

    /// Where requests are put outside of an event.
    pub(super) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// What was counted.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// When the last turn's completions were collected.
    pub(super) fn now(&self) -> Nanos {
        self.outbox.now()
    }

    /// Workers of the process.
    pub(super) fn workers(&self) -> u32 {
        self.config.of
    }

    /// The number of connection `index` among those of all workers.
    pub(super) fn number_of(&self, index: u32) -> u32 {
        index * self.config.of + self.config.number
    }

    /// Connections of this worker whose number is below `total`.
    pub(super) fn share_of(&self, total: u32) -> u32 {
        (total + self.config.of - 1 - self.config.number) / self.config.of
    }

    /// Prepares a connection that isn't open to be slowed down once it is.
    pub(super) fn prepare_slow(&mut self, index: u32) {
        self.sockets[index as usize].reading = Reading::Once;
    }

    /// One turn: does what was asked for, waits until something happens or `until`, and tells what happened.
    ///
    /// # Errors
    /// The ring is of no use any more.
    pub(super) fn turn(&mut self, until: Nanos, handle: &mut impl FnMut(&mut Outbox, u32, Event<'_>)) -> io::Result<()> {
        self.do_due()?;
        self.do_orders()?;
        self.open_waiting()?;
        self.fill_flights();
        let now = clock::now();
        let until = until.min(self.outbox.next_due().unwrap_or(Nanos::MAX)).min(now + TURN_MAX);
        let wait = if until > now { Wait::AtMost(Duration::from_nanos(until - now)) } else { Wait::Poll };
        self.submit(wait)?;
        self.outbox.set_now(clock::now());
        while let Some(completion) = self.ring.next_completion() {
            self.handle_completion(&completion, handle)?;
        }
        self.settle(handle)
    }

    /// Turns until `until`.
    ///
    /// # Errors
    /// As [`Worker::turn`].
    pub(super) fn run_until(&mut self, until: Nanos, handle: &mut impl FnMut(&mut Outbox, u32, Event<'_>)) -> io::Result<()> {
        while self.outbox.now() < until {
            self.turn(until, handle)?;
        }
        Ok(())
    }

    /// Closes all connections with a close frame and waits, bounded, for the server's end of each.
    ///
    /// # Errors
    /// As [`Worker::turn`].
    pub(super) fn close_all(&mut self) -> io::Result<()> {
        let mut connection = 0;
        let count = self.sockets.len() as u32;
        let end = self.outbox.now() + 2 * ABANDON_AFTER + 10 * SECOND;
        while self.outbox.now() < end && (connection < count || self.sockets.iter().any(|socket| socket.state != State::Free)) {
            // In steps, so that the server isn't found out of buffers by a courtesy.
            for _ in 0..512 {
                if connection < count {
                    self.outbox.close(connection, 1000);
                    connection += 1;
                }
            }
            let until = self.outbox.now() + MILLISECOND;
            self.turn(until, &mut |_, _, _| {})?;
        }
        Ok(())
    }

    fn do_due(&mut self) -> io::Result<()> {
        while let Some((connection, due, generation)) = self.outbox.take_due() {
            let socket = &self.sockets[connection as usize];
            let is_current = socket.generation == generation;
            match due {
                Due::Connect => self.waiting.push_back(connection),
                Due::Read if is_current && socket.state != State::Free => self.arm(connection)?,
                Due::Abandon if is_current && socket.state == State::Closing => self.close_socket(connection)?,
                Due::Read | Due::Abandon => {}
            }
        }
        Ok(())
    }

    fn do_orders(&mut self) -> io::Result<()> {
        let mut orders = self.outbox.take_orders(mem::take(&mut self.spare_orders));
        for (connection, order) in orders.drain(..) {
            let socket = &mut self.sockets[connection as usize];
            match order {
                Order::Connect => self.waiting.push_back(connection),
                Order::Close(code) => match socket.state {
                    State::Connected if socket.client.is_open() => {
                        self.outbox.send(connection, Opcode::Close, &code.to_be_bytes());
                        self.begin_closing(connection);
                    }
                    State::Connecting | State::Connected => self.close_socket(connection)?,
                    State::Free | State::Closing => {}
                },
                Order::SlowDown => {
                    assert!(socket.reading != Reading::Fast, "only a connection that was prepared can be slowed down");
                    socket.reading = Reading::Trickle;
                    socket.read_due = self.outbox.now();
                }
            }
        }
        self.spare_orders = orders;
        Ok(())
    }

    /// From here on only the end of the stream is awaited, for a bounded time.
    fn begin_closing(&mut self, connection: u32) {
        let socket = &mut self.sockets[connection as usize];
        if socket.client.is_open() {
            self.counts.open -= 1;
        }
        socket.state = State::Closing;
        // A slow reader would take as long as it is slow to see the end.
        socket.reading = if socket.reading == Reading::Fast { Reading::Fast } else { Reading::Once };
        let generation = socket.generation;
        self.outbox.set_timer(self.outbox.now() + ABANDON_AFTER, connection, Due::Abandon, generation);
    }

    fn open_waiting(&mut self) -> io::Result<()> {
        while self.counts.opening < self.config.opening_max {
            let Some(connection) = self.waiting.pop_front() else { return Ok(()) };
            if self.sockets[connection as usize].state != State::Free {
                self.close_socket(connection)?;
            }
            self.open(connection)?;
        }
        Ok(())
    }

    /// Makes, binds and connects a socket: one chain of operations, of which the last completes in any case.
    fn open(&mut self, connection: u32) -> io::Result<()> {
        // A chain must go in one submission.
        if self.ring.room() < SUBMISSIONS_PER_CONNECT {
            self.ring.enter([], Wait::Poll)?;
        }
        let socket = &mut self.sockets[connection as usize];
        socket.generation = (socket.generation + 1) & GENERATION_MAX;
        (socket.state, socket.told) = (State::Connecting, false);
        self.counts.opening += 1;
        let (generation, is_slow) = (socket.generation, socket.reading != Reading::Fast);
        let [a, b] = [self.config.number % 100 + 1, connection % SOURCE_ADDRESSES + 1].map(|number| number as u8);
        let source = SocketAddr::from((Ipv4Addr::new(127, 100, a, b), 0));
        let option = |option| Entry::set_option(connection, generation, option).linked().silent();
        let ring = &mut self.ring;
        let chain = (|| {
            ring.push(Entry::socket(connection, generation, false).linked().silent())?;
            ring.push(option(SocketOption::NoDelay))?;
            if is_slow {
                ring.push(option(SocketOption::SmallReceiveBuffer))?;
            }
            ring.push(option(SocketOption::BindAddressNoPort))?;
            ring.push_bind(connection, generation, source, true)?;
            ring.push_connect(connection, generation, self.config.target.address, false)
        })();
        chain.map_err(|_: Full| io::Error::other("the submission queue is smaller than what it said"))
    }

    /// Closes a socket as it is, and forgets what it was. A receive that is armed is cancelled first: it would keep the socket open.
    fn close_socket(&mut self, connection: u32) -> io::Result<()> {
        let socket = &mut self.sockets[connection as usize];
        let state = mem::replace(&mut socket.state, State::Free);
        match state {
            State::Connected if socket.client.is_open() => self.counts.open -= 1,
            State::Connected | State::Connecting => self.counts.opening -= 1,
            State::Free | State::Closing => {}
        }
        socket.client.end();
        if socket.reading == Reading::Trickle {
            socket.reading = Reading::Once;
        }
        let generation = socket.generation;
        let armed = if state == State::Connecting { Op::Connect } else { Op::Receive };
        self.push(Entry::cancel(UserData::new(armed, connection, generation)))?;
        if self.backlogs.remove(&connection).is_some() {
            self.push(Entry::cancel(UserData::new(Op::Writable, connection, generation)))?;
        }
        self.push(Entry::close(connection, generation))
    }

    /// Arms the receive of a socket in the way that it reads.
    fn arm(&mut self, connection: u32) -> io::Result<()> {
        let socket = &self.sockets[connection as usize];
        let generation = socket.generation;
        self.push(match socket.reading {
            Reading::Fast => Entry::receive(connection, generation),
            Reading::Once => Entry::receive_once(connection, generation, ONCE_BYTES),
            Reading::Trickle => Entry::receive_once(connection, generation, self.config.trickle.0),
        })
    }

    fn push(&mut self, entry: Entry) -> io::Result<()> {
        if self.ring.room() == 0 {
            self.ring.enter([], Wait::Poll)?;
        }
        self.ring.push(entry).map_err(|Full| io::Error::other("the submission queue is full after it was emptied"))
    }
}
