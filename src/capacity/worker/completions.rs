//! What a completion means for the socket that it is of.

use super::{End, Event, Reading, State, Worker};
use crate::capacity::client::Heard;
use crate::capacity::clock::{MILLISECOND, Nanos};
use crate::capacity::outbox::{Due, Outbox};
use crate::capacity::stream::{Incoming, Violation};
use crate::uring::{Completion, Op};
use crate::ws::Opcode;
use std::io;

/// How much of the time in which nothing was there, or the load generator was late, a slow reader makes up for.
const TRICKLE_CREDIT: Nanos = 250 * MILLISECOND;

impl Worker {
    pub(super) fn handle_completion(
        &mut self,
        completion: &Completion,
        handle: &mut impl FnMut(&mut Outbox, u32, Event<'_>),
    ) -> io::Result<()> {
        let index = completion.data.index();
        match completion.data.op() {
            Op::Receive => return self.handle_received(completion, handle),
            Op::Send => self.note_send(index, completion.result),
            Op::Connect if self.is_current(completion) => return self.handle_connected(index, completion.result, handle),
            Op::Writable if self.is_current(completion) => self.writable.push(index),
            // One of a chain failed: the connect behind it completes with ECANCELED.
            Op::Socket | Op::Option | Op::Bind => match completion.errno() {
                None | Some(libc::ECANCELED) => {}
                Some(errno) => self.setup_errno = errno,
            },
            Op::Accept
            | Op::Connect
            | Op::Writable
            | Op::Hangup
            | Op::Peek
            | Op::Cancel
            | Op::Close
            | Op::Doorbell
            | Op::Wake
            | Op::Shutdown
            | Op::SendFd
            | Op::Unknown => {}
        }
        Ok(())
    }

    fn is_current(&self, completion: &Completion) -> bool {
        let socket = self.sockets.get(completion.data.index() as usize);
        socket.is_some_and(|socket| socket.generation == completion.data.generation() && socket.state != State::Free)
    }

    fn handle_connected(
        &mut self,
        connection: u32,
        result: i32,
        handle: &mut impl FnMut(&mut Outbox, u32, Event<'_>),
    ) -> io::Result<()> {
        if result < 0 {
            let errno = if result == -libc::ECANCELED { self.setup_errno } else { -result };
            return self.fail(connection, End::Error(errno), handle);
        }
        let number = self.number_of(connection);
        let user = self.config.users.map(|users| format!("bench-{}", number % users.max(1)));
        let socket = &mut self.sockets[connection as usize];
        socket.state = State::Connected;
        let nonce = u64::from(number) << 32 | u64::from(socket.generation);
        let target = &self.config.target;
        self.outbox.append(connection, |bytes| socket.client.begin(bytes, target, nonce, user.as_deref()));
        self.arm(connection)
    }

    fn handle_received(&mut self, completion: &Completion, handle: &mut impl FnMut(&mut Outbox, u32, Event<'_>)) -> io::Result<()> {
        let is_current = self.is_current(completion);
        // Taken also where nobody wants it: the positions of later completions depend on it.
        let bytes = self.ring.buffers().take(completion);
        if !is_current {
            return Ok(());
        }
        let connection = completion.data.index();
        let socket = &mut self.sockets[connection as usize];
        match completion.result {
            0 => {
                let end = if socket.state == State::Closing { End::Ours } else { End::Eof };
                return self.fail(connection, end, handle);
            }
            // ENOBUFS: more came than there are buffers; they are offered again by the next turn.
            result if result == -libc::ENOBUFS => return self.arm(connection),
            result if result == -libc::ECANCELED => return Ok(()),
            result if result < 0 => return self.fail(connection, End::Error(-result), handle),
            _ => {}
        }
        let heard = read(socket, connection, &self.config.target, bytes, &mut self.outbox, &mut self.counts, handle);
        match heard {
            Err(Violation(what)) => return self.fail(connection, End::Violation(what), handle),
            Ok(Read::Refused) => return self.close_socket(connection),
            Ok(Read::ServerCloses) => self.begin_closing(connection),
            Ok(Read::On) => {}
        }
        if completion.more() {
            return Ok(());
        }
        let socket = &mut self.sockets[connection as usize];
        if socket.reading == Reading::Trickle {
            let (bytes, every) = self.config.trickle;
            let now = self.outbox.now();
            // A short read is followed sooner, and one that was late is made up for: the rate is what was asked for.
            let pause = every * completion.result.max(0) as Nanos / Nanos::from(bytes);
            socket.read_due = socket.read_due.max(now.saturating_sub(TRICKLE_CREDIT)) + pause;
            let at = socket.read_due.max(now);
            self.outbox.set_timer(at, connection, Due::Read, socket.generation);
            return Ok(());
        }
        self.arm(connection)
    }

    /// Ends a connection, and tells the scenario if it doesn't know.
    pub(super) fn fail(
        &mut self,
        connection: u32,
        end: End,
        handle: &mut impl FnMut(&mut Outbox, u32, Event<'_>),
    ) -> io::Result<()> {
        let told = std::mem::replace(&mut self.sockets[connection as usize].told, true);
        self.close_socket(connection)?;
        if !told {
            handle(&mut self.outbox, connection, Event::Closed(end));
        }
        Ok(())
    }
}

/// What reading came to.
enum Read {
    On,
    Refused,
    ServerCloses,
}

/// Reads one completion's bytes: answers pings and closes, counts, and tells the rest.
fn read(
    socket: &mut super::Socket,
    connection: u32,
    target: &crate::capacity::target::Target,
    bytes: &[u8],
    outbox: &mut Outbox,
    counts: &mut super::Counts,
    handle: &mut impl FnMut(&mut Outbox, u32, Event<'_>),
) -> Result<Read, Violation> {
    let super::Socket { client, told, state, .. } = socket;
    let is_closing = *state == State::Closing;
    let mut read = Read::On;
    client.read(target, bytes, &mut |heard| match heard {
        Heard::Open => {
            counts.opening -= 1;
            counts.open += 1;
            handle(outbox, connection, Event::Open);
        }
        Heard::Refused { status, retry_after_s } => {
            *told = true;
            read = Read::Refused;
            handle(outbox, connection, Event::Refused { status, retry_after_s });
        }
        Heard::Message(Incoming::Text(text)) => handle(outbox, connection, Event::Text(text)),
        Heard::Message(Incoming::Binary(bytes)) => handle(outbox, connection, Event::Binary(bytes)),
        Heard::Message(Incoming::Ping(payload)) => {
            counts.pings += 1;
            if !is_closing {
                outbox.send(connection, Opcode::Pong, payload);
            }
            handle(outbox, connection, Event::Ping);
        }
        Heard::Message(Incoming::Pong) => {}
        Heard::Message(Incoming::Close(_)) if is_closing => {}
        Heard::Message(Incoming::Close(code)) => {
            let answer = code.unwrap_or(1000).to_be_bytes();
            outbox.send(connection, Opcode::Close, if code.is_some() { &answer } else { &[] });
            *told = true;
            read = Read::ServerCloses;
            handle(outbox, connection, Event::Closed(End::Code(code.unwrap_or(1005))));
        }
    })?;
    Ok(read)
}
