//! Bytes from a socket: the upgrade request, then frames, then messages. Nothing of the driver's buffer is kept.

use super::Shard;
use super::arena::{Index, StashIndex};
use super::connection::{Connection, Flags, Stash, State};
use super::dispatch::Took;
use super::ending::Goodbye;
use super::seam::{Action, Flow, Key, Received};
use super::stats::MemoryUse;
use crate::close::CloseReason;
use crate::planted::{Bug, is_planted};
use crate::protocol::ErrorCode;
use crate::protocol::encode::ErrorFrame;
use crate::time::Now;
use crate::ws::{self, Event, Opcode, Step};

/// Unfinished input that a connection may have while memory is short, in bytes.
const INPUT_BYTES_WHEN_SHORT: usize = 16 * 1024;

impl Shard {
    /// Whether a key is of a connection that the shard has.
    pub(crate) fn is_current(&self, key: Key) -> bool {
        self.connections
            .get(key.slot as usize)
            .filter(|connection| connection.generation == key.generation || is_planted(Bug::StaleGenerationAccepted))
            .is_some_and(|connection| connection.state != State::Free)
    }

    /// Bytes came. They may be changed in place, and are no more needed afterwards but for what was not consumed.
    pub fn handle_received(&mut self, now: Now, key: Key, bytes: &mut [u8]) -> Received {
        let all = Received { consumed: bytes.len(), flow: Flow::Continue };
        if !self.is_current(key) {
            return all;
        }
        let slot = key.slot;
        let tick = self.fair(now);
        let connection = &mut self.connections[slot as usize];
        connection.last_in = tick;
        connection.flags.clear(Flags::PINGED);
        if connection.flags.has(Flags::DISCARD) {
            return all;
        }
        if connection.flags.has(Flags::PAUSED) {
            // It was paused by something else than its own input, of which the driver learns only now.
            let lost = if is_planted(Bug::InputLostWhenPaused) { bytes.len() } else { 0 };
            return Received { consumed: lost, flow: Flow::Pause };
        }
        let mut at = 0;
        if connection.state == State::Upgrading {
            self.stats.bytes_in += bytes.len() as u64;
            match self.read_upgrade(now, slot, bytes) {
                Some(consumed) => at = consumed,
                None => return all,
            }
        } else {
            self.stats.bytes_in += bytes.len() as u64;
        }
        let consumed = at + self.read_frames(now, key, &mut bytes[at..]);
        let is_paused = self.is_current(key) && self.connections[slot as usize].flags.has(Flags::PAUSED);
        // What the driver keeps is handed over again, and counted then.
        self.stats.bytes_in -= (bytes.len() - consumed) as u64;
        Received { consumed, flow: if is_paused { Flow::Pause } else { Flow::Continue } }
    }

    /// Reads frames until the input is used up, the connection pauses, or it has ended. Returns what was consumed.
    fn read_frames(&mut self, now: Now, key: Key, bytes: &mut [u8]) -> usize {
        let slot = key.slot;
        let stash = self.connections[slot as usize].stash;
        let mut assembler = if stash.is_some() { self.stashes[stash.at()].assembler.take() } else { None };
        let mut at = 0;
        loop {
            match ws::message::read(&mut assembler, &mut self.assemblers, &mut bytes[at..], self.limits.message_bytes_max) {
                Step::More { frames } => {
                    self.stats.frames_in += u64::from(frames);
                    at = bytes.len();
                    break;
                }
                Step::Event { consumed, frames, event } => {
                    self.stats.frames_in += u64::from(frames);
                    at += consumed;
                    self.handle_event(now, slot, event);
                }
                Step::Failed(reason) => {
                    self.assemblers.release(&mut assembler);
                    self.end(now, slot, reason, Goodbye::Cut);
                    at = bytes.len();
                    break;
                }
            }
            let connection = &self.connections[slot as usize];
            if !self.is_current(key) || connection.flags.has(Flags::DISCARD) || connection.flags.has(Flags::CLOSE_WHEN_SENT) {
                self.assemblers.release(&mut assembler);
                self.recharge_input(slot);
                return bytes.len();
            }
            if connection.flags.has(Flags::PAUSED) {
                // An event may have borrowed from the assembler: an empty read gives it back.
                if let Step::More { .. } =
                    ws::message::read(&mut assembler, &mut self.assemblers, &mut [], self.limits.message_bytes_max)
                {
                }
                break;
            }
        }
        self.keep_assembler(now, key, assembler);
        at
    }

    fn keep_assembler(&mut self, now: Now, key: Key, assembler: Option<Box<ws::Assembler>>) {
        if !self.is_current(key) {
            let mut assembler = assembler;
            self.assemblers.release(&mut assembler);
            return;
        }
        let slot = key.slot;
        if assembler.is_some() || self.connections[slot as usize].stash.is_some() {
            let stash = self.stash_of(slot);
            self.stashes[stash.at()].assembler = assembler;
            let bytes = self.recharge_input(slot);
            if bytes > INPUT_BYTES_WHEN_SHORT && self.is_short_of_memory() {
                self.end(now, slot, CloseReason::MemoryPressure, Goodbye::Cut);
            }
        }
    }

    fn handle_event(&mut self, now: Now, slot: u32, event: Event<'_>) {
        let connection = &self.connections[slot as usize];
        if connection.state == State::Goodbye {
            // Only the peer's own close frame still counts.
            if let Event::Close { code, .. } = event {
                self.handle_close_frame(now, slot, code);
            }
            return;
        }
        let is_echo = connection.flags.has(Flags::ECHO);
        let is_answer = !matches!(event, Event::Close { .. });
        if is_answer && connection.state == State::Open && connection.session.is_some() {
            // Its client has got its welcome, and the token in it: the ones before are of no more use. A close frame says no such thing:
            // it may have been sent because no welcome came.
            self.sessions[connection.session].unconfirmed = 0;
        }
        match event {
            Event::Text(text) if is_echo => self.echo(slot, Opcode::Text, text.as_bytes()),
            Event::Binary(bytes) if is_echo => self.echo(slot, Opcode::Binary, bytes),
            Event::Text(text) => {
                self.stats.messages_in += 1;
                if let Took::Held(wait) = self.handle_text(now, slot, text) {
                    self.hold(slot, text, wait);
                }
            }
            Event::Binary(_) => {
                self.stats.messages_in += 1;
                self.send_error(slot, &ErrorFrame::new(ErrorCode::BinaryUnsupported));
                if self.connections[slot as usize].state == State::Opening {
                    // Nothing but `connect` opens, whatever its form.
                    self.end_after_error(now, slot);
                }
            }
            Event::Ping(payload) => {
                let frame = self.message_frame(Opcode::Pong, payload);
                self.push_control(slot, frame);
                self.release_frame(frame);
            }
            Event::Pong(_) => self.stats.pongs_received += 1,
            Event::Close { code, .. } => self.handle_close_frame(now, slot, code),
        }
    }

    fn echo(&mut self, slot: u32, opcode: Opcode, payload: &[u8]) {
        self.stats.messages_in += 1;
        let frame = self.message_frame(opcode, payload);
        self.push_frame(slot, frame);
        self.release_frame(frame);
        if self.is_echo_full(slot) {
            // Who sends is who should read: it is read again once it did.
            self.pause(slot);
        }
    }

    /// Whether an echo connection has so much unsent that it should not be read.
    pub(crate) fn is_echo_full(&self, slot: u32) -> bool {
        self.connections[slot as usize].flags.has(Flags::BACKLOGGED)
    }

    /// Has the driver hand over nothing more of a connection.
    pub(crate) fn pause(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if !connection.flags.has(Flags::PAUSED) {
            connection.flags.set(Flags::PAUSED);
            self.stats.pauses += 1;
        }
    }

    /// Lets the driver read a connection again.
    pub(crate) fn resume(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        connection.flags.clear(Flags::PAUSED);
        self.actions.push_back(Action::Resume(Key { slot, generation: connection.generation }));
    }

    /// The stash of a connection, made if it has none.
    pub(crate) fn stash_of(&mut self, slot: u32) -> StashIndex {
        let connection = &mut self.connections[slot as usize];
        if connection.stash.is_none() {
            connection.stash = StashIndex::new(self.stashes.insert(Stash::default()));
        }
        connection.stash
    }

    /// Brings the account of a connection's unfinished input up to date, and gives the stash back if nothing is in it. Returns the
    /// bytes of it.
    pub(crate) fn recharge_input(&mut self, slot: u32) -> usize {
        let stash = self.connections[slot as usize].stash;
        if stash.is_none() {
            return 0;
        }
        let stash = &mut self.stashes[stash.at()];
        let bytes = stash.input_bytes();
        if bytes != stash.charged {
            self.stats.release(MemoryUse::Assembler, stash.charged);
            self.stats.charge(MemoryUse::Assembler, bytes);
            stash.charged = bytes;
        }
        self.release_stash(slot);
        bytes
    }

    /// Gives the stash of a connection back if nothing is in it.
    pub(crate) fn release_stash(&mut self, slot: u32) {
        let stash = self.connections[slot as usize].stash;
        if stash.is_some() && self.stashes[stash.at()].is_idle() {
            let stash = self.stashes.remove(stash.at());
            self.stats.release(MemoryUse::Assembler, stash.charged);
            self.connections[slot as usize].stash = StashIndex::NONE;
        }
    }

    /// Drops a connection's unfinished input and what it holds.
    pub(crate) fn drop_input(&mut self, slot: u32) {
        let stash = self.connections[slot as usize].stash;
        if stash.is_none() {
            return;
        }
        let stash = &mut self.stashes[stash.at()];
        self.assemblers.release(&mut stash.assembler);
        stash.head = Vec::new();
        stash.held.clear();
        stash.unacknowledged = None;
        self.recharge_input(slot);
    }

    /// Drops the messages that a connection holds.
    pub(crate) fn drop_held(&mut self, slot: u32) {
        if self.holds(slot) {
            let stash = self.connections[slot as usize].stash;
            self.stashes[stash.at()].held.clear();
            self.recharge_input(slot);
        }
    }

    /// The record of a slot, made if the slot was never used.
    pub(crate) fn connection_at(&mut self, slot: u32) -> &mut Connection {
        while self.connections.len() <= slot as usize {
            self.connections.push(Connection::FREE);
        }
        &mut self.connections[slot as usize]
    }
}
