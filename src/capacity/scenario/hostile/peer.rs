//! One hostile connection: a socket of its own that follows a script, in steps that never block.
//!
//! It knows how to send, to be slow, to be silent and to break off; what is sent and why is the script's matter. What the server says
//! is read with the same strictness as elsewhere: however hostile a client is, it is owed an answer that keeps to the protocol.

use crate::capacity::client::{Client, Heard};
use crate::capacity::clock::{Nanos, SECOND};
use crate::capacity::message::{Kind, kind_of};
use crate::capacity::stream::{Incoming, Violation};
use crate::capacity::target::Target;
use crate::ws::Opcode;
use crate::ws::frame::write_masked;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// The longest that one action may take. Above: the connection is dropped, whatever its script still holds.
const ACTION_MAX: Nanos = 40 * SECOND;
/// Steps of a script that one sweep takes at most, so that none keeps the others waiting.
const STEPS_PER_SWEEP: usize = 64;
/// Receive buffer of a client that wants the server to find its socket full soon, in bytes.
const SMALL_BUFFER_BYTES: usize = 4 * 1024;
/// Bytes that are read from one socket in one sweep at most.
pub(super) const READ_BYTES_MAX: usize = 64 * 1024;
/// The mask of pongs and close frames: these clients keep nobody's secrets.
const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send these bytes, as fast as the socket takes them.
    Send(Vec<u8>),
    /// Send these bytes one by one, one a sweep.
    Drip(Vec<u8>),
    /// Go on once the upgrade is accepted; end if it is refused.
    AwaitUpgrade,
    /// Do nothing for so long but read and answer. The server's end of the connection ends the script earlier.
    Rest(Nanos),
    /// Read so from now on.
    Read(Reading),
    /// Answer no ping from now on.
    Mute,
    /// The deed is done that the action is named after.
    Done,
    /// Finish our direction (FIN), and read on.
    Finish,
    /// Break off with RST.
    Reset,
    /// Drop the connection and open another at once.
    Again,
}

/// How a peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Whatever comes.
    All,
    /// At most so many bytes a sweep.
    Few(usize),
    /// Nothing.
    Nothing,
}

/// What a peer is to do, and over what kind of connection.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) steps: VecDeque<Step>,
    /// The server shall find the socket full soon.
    pub(super) small_buffer: bool,
}

/// What a sweep came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sweep {
    /// The script goes on.
    GoesOn,
    /// The connection is of no use any more.
    Ended,
}

/// A connection and the rest of its script.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
    client: Client,
    target: Target,
    source: SocketAddr,
    nonce: u64,
    script: Script,
    out: VecDeque<u8>,
    drips: bool,
    wake: Nanos,
    overdue: Nanos,
    reading: Reading,
    answers_pings: bool,
    refused: bool,
    /// The script's deed is done.
    pub(super) is_done: bool,
    /// What the server did against the protocol.
    pub(super) violation: Option<Violation>,
    /// `error` messages that came.
    pub(super) errors: u64,
}

impl Peer {
    /// Begins to connect. `nonce` is the one that the script's request was written with.
    ///
    /// # Errors
    /// The kernel gives no socket, or no port.
    pub(super) fn begin(target: &Target, source: SocketAddr, nonce: u64, script: Script, now: Nanos) -> io::Result<Peer> {
        Ok(Peer {
            stream: connect(target.address, source, script.small_buffer)?,
            client: expecting(target, nonce),
            target: target.clone(),
            source,
            nonce,
            script,
            out: VecDeque::new(),
            drips: false,
            wake: now,
            overdue: now + ACTION_MAX,
            reading: Reading::All,
            answers_pings: true,
            refused: false,
            is_done: false,
            violation: None,
            errors: 0,
        })
    }

    /// Reads, sends and goes on in the script, as far as that blocks nobody.
    pub(super) fn sweep(&mut self, now: Nanos, buffer: &mut [u8]) -> Sweep {
        match self.try_sweep(now, buffer) {
            Ok(sweep) if now < self.overdue => sweep,
            // A reset, a broken pipe: the server has had enough, as it may. A refused connection is seen by its deed being undone.
            Ok(_) | Err(_) => Sweep::Ended,
        }
    }

    fn try_sweep(&mut self, now: Nanos, buffer: &mut [u8]) -> io::Result<Sweep> {
        if self.read(buffer)? == Sweep::Ended {
            return Ok(Sweep::Ended);
        }
        for _ in 0..STEPS_PER_SWEEP {
            self.flush()?;
            if !self.out.is_empty() || self.wake > now {
                return Ok(Sweep::GoesOn);
            }
            self.drips = false;
            let Some(step) = self.script.steps.front() else { return Ok(Sweep::Ended) };
            if *step == Step::AwaitUpgrade && !self.client.is_open() {
                return Ok(if self.refused { Sweep::Ended } else { Sweep::GoesOn });
            }
            let Some(step) = self.script.steps.pop_front() else { return Ok(Sweep::Ended) };
            if self.take(step, now)? == Sweep::Ended {
                return Ok(Sweep::Ended);
            }
        }
        Ok(Sweep::GoesOn)
    }

    fn take(&mut self, step: Step, now: Nanos) -> io::Result<Sweep> {
        match step {
            Step::Send(bytes) => self.out.extend(bytes),
            Step::Drip(bytes) => {
                self.out.extend(bytes);
                self.drips = true;
            }
            Step::AwaitUpgrade => {}
            Step::Rest(time) => self.wake = now + time,
            Step::Read(reading) => self.reading = reading,
            Step::Mute => self.answers_pings = false,
            Step::Done => self.is_done = true,
            Step::Finish => self.stream.shutdown(Shutdown::Write)?,
            Step::Reset => {
                SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                return Ok(Sweep::Ended);
            }
            Step::Again => {
                self.stream = connect(self.target.address, self.source, self.script.small_buffer)?;
                self.client = expecting(&self.target, self.nonce);
            }
        }
        Ok(Sweep::GoesOn)
    }

    /// Breaks off in the middle of whatever is going on: with RST, or as a process that ends.
    pub(super) fn break_off(self, with_reset: bool) {
        if with_reset {
            // If it can't be set, the end is an ordinary one, which is hostile enough.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let (front, _) = self.out.as_slices();
            let wanted = if self.drips { &front[..1] } else { front };
            match self.stream.write(wanted) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if is_for_later(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.drips {
                return Ok(());
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Sweep> {
        let mut left = match self.reading {
            Reading::All => READ_BYTES_MAX,
            Reading::Few(bytes) => bytes,
            Reading::Nothing => 0,
        };
        while left > 0 {
            let wanted = left.min(buffer.len());
            let count = match self.stream.read(&mut buffer[..wanted]) {
                Ok(0) => return Ok(Sweep::Ended),
                Ok(count) => count,
                Err(error) if is_for_later(&error) => return Ok(Sweep::GoesOn),
                Err(error) => return Err(error),
            };
            left -= count;
            if let Err(violation) = self.hear(&buffer[..count]) {
                self.violation = Some(violation);
                return Ok(Sweep::Ended);
            }
        }
        Ok(Sweep::GoesOn)
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let Peer { client, target, out, answers_pings, refused, errors, .. } = self;
        let mut answer = Vec::new();
        client.read(target, bytes, &mut |heard| match heard {
            Heard::Open | Heard::Message(Incoming::Binary(_) | Incoming::Pong) => {}
            Heard::Refused { .. } => *refused = true,
            Heard::Message(Incoming::Text(text)) => *errors += u64::from(kind_of(text) == Kind::Error),
            Heard::Message(Incoming::Ping(payload)) if *answers_pings => write_masked(&mut answer, Opcode::Pong, payload, MASK),
            Heard::Message(Incoming::Ping(_)) => {}
            Heard::Message(Incoming::Close(code)) => {
                let payload = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
                write_masked(&mut answer, Opcode::Close, &payload, MASK);
            }
        })?;
        // What is in the middle of being sent goes on after it: one more thing that the server has to bear.
        out.extend(answer);
        Ok(())
    }
}

/// A client that awaits the answer to the request that this nonce makes.
fn expecting(target: &Target, nonce: u64) -> Client {
    let mut client = Client::default();
    client.begin(&mut Vec::new(), target, nonce, None);
    client
}

/// A socket that is being connected.
fn connect(address: SocketAddr, source: SocketAddr, small_buffer: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if small_buffer {
        socket.set_recv_buffer_size(SMALL_BUFFER_BYTES)?;
    }
    socket.bind(&source.into())?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

/// Whether a socket only has nothing to give or to take now. ENOTCONN is said of one that is not connected yet.
fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}
