//! From a client's message to a command at a room's home: the opening, the order of numbered commands, and what is decided here
//! without asking a home.
//!
//! A message whose command can't go on now (its lane is full, its window is full, the room is between two states) is *held*: it is
//! kept whole, the connection's reading pauses, and it is tried again when what it waits for has changed.

use super::Shard;
use super::arena::{MembershipIndex, PresenceIndex, SessionIndex};
use super::connection::{Flags, State};
use super::local::Stage;
use super::mesh::{Ask, Position, What};
use super::presence::read_cursor;
use super::seam::Key;
use super::session::{NO_CONNECTION, UNNUMBERED};
use crate::close::CloseReason;
use crate::planted::{Bug, is_planted};
use crate::protocol::encode::{self, ErrorFrame};
use crate::protocol::id64::read_id64;
use crate::protocol::{self, Command, Dialect, Envelope, ErrorCode, Expired, Fault, Offer, Since, Verdict};
use crate::time::{Millis, Now, TICK_MS};
use std::collections::VecDeque;

/// What a message that can't go on waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Room in the command lane to this home, or in what this home itself needs.
    Home(usize),
    /// Something of the session's own to be decided.
    Decision,
}

/// Whether a message is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Took {
    Done,
    /// Not yet: the caller holds it.
    Held(Wait),
}

pub(crate) type Decoded<'a> = Result<Envelope<'a>, Fault<'a>>;

impl Shard {
    /// Deals with a text message of an open connection.
    pub(crate) fn handle_text(&mut self, now: Now, slot: u32, text: &str) -> Took {
        let decoded = protocol::decode(text);
        let connection = &self.connections[slot as usize];
        let session = connection.session;
        if connection.state == State::Opening {
            return self.handle_opening(now, slot, &decoded, text);
        }
        let seq = match &decoded {
            Ok(envelope) => envelope.seq,
            Err(fault) => fault.seq,
        };
        match seq {
            Some(seq) => self.handle_numbered(now, slot, session, seq, &decoded, text),
            None => self.execute(now, slot, session, None, &decoded),
        }
    }

    pub(crate) fn send_error(&mut self, slot: u32, error: &ErrorFrame<'_>) {
        self.stats.errors_sent += 1;
        self.send_json(slot, |out| encode::write_error(out, error));
    }

    /// Ends a connection whose last word is the error that is queued already.
    pub(crate) fn end_after_error(&mut self, now: Now, slot: u32) {
        self.end(now, slot, CloseReason::BadProtocol, super::ending::Goodbye::Last);
    }

    fn handle_numbered(&mut self, now: Now, slot: u32, session: SessionIndex, seq: u64, decoded: &Decoded<'_>, text: &str) -> Took {
        let dialect = self.connections[slot as usize].dialect();
        let record = &mut self.sessions[session];
        if record.acked == UNNUMBERED {
            record.acked = seq - 1;
        }
        if record.window.is_none() {
            match protocol::judge(record.acked, seq) {
                Verdict::Execute => return self.execute(now, slot, session, Some(seq), decoded),
                Verdict::Duplicate if is_planted(Bug::DuplicateExecuted) => return self.execute(now, slot, session, None, decoded),
                Verdict::Duplicate => {
                    self.answer_duplicate(slot, session, seq);
                    return Took::Done;
                }
                Verdict::Early => {}
            }
        }
        loop {
            match self.window_of(session).offer(dialect, seq, text.as_bytes(), now.mono) {
                Offer::Execute => {
                    let took = self.execute(now, slot, session, Some(seq), decoded);
                    if took == Took::Done {
                        self.drain_ready(now, slot, session);
                    }
                    return took;
                }
                Offer::Duplicate => {
                    self.answer_duplicate(slot, session, seq);
                    return Took::Done;
                }
                Offer::Kept => {
                    self.stats.reordered += 1;
                    let id = self.session_id(session);
                    self.gaps.push(id);
                    self.watch_reorder(session, now.mono.after(self.limits.reorder_age_ms));
                    self.settle_window(session);
                    return Took::Done;
                }
                Offer::Freed { expected, received } => {
                    self.send_nack(slot, expected, received);
                    self.settle_window(session);
                    return Took::Done;
                }
                Offer::Insufficient => {
                    self.end_with_frame(now, slot, CloseReason::StateInsufficient);
                    return Took::Done;
                }
                Offer::Skipped { from, to_exclusive } => {
                    self.say_skipped(slot, from, to_exclusive);
                    self.drain_ready(now, slot, session);
                    if self.holds(slot) {
                        return Took::Held(Wait::Decision);
                    }
                    if self.sessions[session].window.is_none() {
                        // Everything that was kept is decided: the command is judged anew.
                        return self.handle_numbered(now, slot, session, seq, decoded, text);
                    }
                }
                Offer::WindowFull => return Took::Held(Wait::Decision),
            }
        }
    }

    fn answer_duplicate(&mut self, slot: u32, session: SessionIndex, seq: u64) {
        self.stats.duplicates += 1;
        match self.connections[slot as usize].dialect() {
            Dialect::V1 => self.ack(session),
            Dialect::Plain => {
                let expected_seq = match self.sessions[session].window.is_some() {
                    true => self.window_of(session).expected(),
                    false => self.sessions[session].acked + 1,
                };
                let error =
                    ErrorFrame { seq: Some(seq), expected_seq: Some(expected_seq), ..ErrorFrame::new(ErrorCode::SeqDuplicate) };
                self.send_error(slot, &error);
            }
        }
    }

    fn send_nack(&mut self, slot: u32, expected: u64, received: u64) {
        self.stats.nacks_sent += 1;
        self.send_json(slot, |out| encode::write_nack(out, expected, received));
    }

    fn say_skipped(&mut self, slot: u32, from: u64, to_exclusive: u64) {
        let missing = Some((from, to_exclusive - 1));
        self.send_error(slot, &ErrorFrame { missing, expected_seq: Some(to_exclusive), ..ErrorFrame::new(ErrorCode::SeqSkipped) });
    }

    /// Executes what was kept and has its turn now.
    pub(crate) fn drain_ready(&mut self, now: Now, slot: u32, session: SessionIndex) {
        let mut text = std::mem::take(&mut self.ready_text);
        while self.connections[slot as usize].session == session && self.sessions[session].window.is_some() && !self.holds(slot) {
            let Some(seq) = self.window_of(session).next_ready(&mut text) else { break };
            let text = std::str::from_utf8(&text).expect("what was kept was text");
            let decoded = protocol::decode(text);
            if let Took::Held(wait) = self.execute(now, slot, session, Some(seq), &decoded) {
                self.hold(slot, text, wait);
            }
        }
        self.ready_text = text;
        if self.connections[slot as usize].session == session && self.sessions[session].window.is_some() {
            self.settle_window(session);
            if self.has_early(session) {
                // Another gap behind the one that was closed.
                let id = self.session_id(session);
                self.gaps.push(id);
            }
        }
    }

    /// Executes a message that has its turn.
    fn execute(&mut self, now: Now, slot: u32, session: SessionIndex, seq: Option<u64>, decoded: &Decoded<'_>) -> Took {
        let envelope = match decoded {
            Ok(envelope) => envelope,
            Err(fault) => {
                self.begin(session, seq);
                self.send_error(slot, &ErrorFrame::of(*fault));
                self.note_final(session, seq, fault.code);
                self.finish(session, seq);
                return Took::Done;
            }
        };
        let is_v1 = self.connections[slot as usize].dialect() == Dialect::V1;
        let unnumbered = seq.is_none() && is_v1;
        let id = envelope.id;
        match &envelope.command {
            Command::JoinRoom { .. } | Command::LeaveRoom { .. } | Command::SetState { .. } if unnumbered => {
                self.refuse_command(slot, session, seq, id, ErrorCode::SeqRequired)
            }
            Command::JoinRoom { room, since, presence, state, latest } => {
                let since = since.as_ref().map(position);
                self.join(now, slot, session, seq, room, &Wish { since, watches: *presence, state: *state, latest: *latest })
            }
            Command::LeaveRoom { room } => {
                self.ask_member(now, slot, session, seq, id, room, What::Leave { answer: true, remembers: false })
            }
            Command::Broadcast { room, data, key, echo } => {
                let what = What::Publish { data, key: key.as_deref(), echo: *echo, volatile: unnumbered };
                self.ask_member(now, slot, session, seq, id, room, what)
            }
            Command::SetState { room, state } => {
                if state.len() > self.limits.presence_state_bytes_max {
                    return self.refuse_command(slot, session, seq, id, ErrorCode::StateTooLarge);
                }
                self.ask_member(now, slot, session, seq, id, room, What::SetState { state })
            }
            Command::Presence { room, cursor, limit } => {
                let cursor = match cursor.as_deref().map(read_cursor) {
                    Some(None) => return self.refuse_command(slot, session, seq, id, ErrorCode::BadCursor),
                    Some(cursor) => cursor,
                    None => None,
                };
                let limit = limit.unwrap_or(u64::from(u32::MAX)).min(u64::from(u32::MAX)) as u32;
                self.ask_member(now, slot, session, seq, id, room, What::Question { id: id.unwrap_or(""), cursor, limit })
            }
            Command::Ping { t } => {
                self.begin(session, seq);
                self.send_json(slot, |out| encode::write_pong(out, *t));
                self.finish(session, seq);
                Took::Done
            }
            Command::Connect { .. } => self.refuse_command(slot, session, seq, id, ErrorCode::AlreadyConnected),
            Command::History { room, since, limit } => {
                let since = since.as_ref().map(position);
                let limit = limit.unwrap_or(u64::from(u32::MAX)).min(u64::from(u32::MAX)) as u32;
                self.ask_member(now, slot, session, seq, id, room, What::History { id: id.unwrap_or(""), since, limit })
            }
            // Its place: credentials.
            Command::Refresh { .. } => self.refuse_command(slot, session, seq, id, ErrorCode::Unsupported),
        }
    }

    /// Notes that a numbered command is dispatched, before anything can decide it.
    fn begin(&mut self, session: SessionIndex, seq: Option<u64>) {
        if let (Some(seq), true) = (seq, self.sessions[session].window.is_some()) {
            self.window_of(session).dispatched(seq);
        }
    }

    /// Notes that a numbered command was decided here.
    fn finish(&mut self, session: SessionIndex, seq: Option<u64>) {
        if let Some(seq) = seq {
            self.decided(session, seq);
        }
    }

    /// Keeps what a numbered command was refused with, for a client that may not get to see it.
    fn note_final(&mut self, session: SessionIndex, seq: Option<u64>, code: ErrorCode) {
        if let Some(seq) = seq {
            self.note_refusal(session, seq, code);
        }
    }

    /// Refuses a command finally.
    fn refuse_command(&mut self, slot: u32, session: SessionIndex, seq: Option<u64>, id: Option<&str>, code: ErrorCode) -> Took {
        self.begin(session, seq);
        self.send_error(slot, &ErrorFrame { seq, id, ..ErrorFrame::new(code) });
        self.note_final(session, seq, code);
        self.finish(session, seq);
        Took::Done
    }

    /// Dispatches a command to a home that can take it.
    fn dispatch(&mut self, now: Now, session: SessionIndex, home: usize, ask: &Ask<'_>) {
        if ask.seq > 0 {
            if home != usize::from(self.id.0) {
                // It will be decided later: the session needs a window to remember it in.
                self.window_of(session);
            }
            self.begin(session, Some(ask.seq));
        }
        self.command(now, home, ask);
    }

    /// The session's membership of a room, moved to the front of its list: the next command is likely for the same room.
    pub(crate) fn membership_of(&mut self, session: SessionIndex, room: &str) -> Option<MembershipIndex> {
        let local = self.find_local(room)?;
        let first = self.sessions[session].memberships;
        let (mut previous, mut at) = (MembershipIndex::NONE, first);
        while at.is_some() {
            let membership = self.memberships[at];
            if membership.room == local {
                if previous.is_some() {
                    self.memberships[previous].next = membership.next;
                    self.memberships[at].next = first;
                    self.sessions[session].memberships = at;
                }
                return Some(at);
            }
            previous = at;
            at = membership.next;
        }
        None
    }

    fn join(&mut self, now: Now, slot: u32, session: SessionIndex, seq: Option<u64>, room: &str, wish: &Wish<'_>) -> Took {
        let Wish { since, watches, state, latest } = *wish;
        if state.is_some_and(|state| state.len() > self.limits.presence_state_bytes_max) {
            return self.refuse_command(slot, session, seq, None, ErrorCode::StateTooLarge);
        }
        let membership = match self.membership_of(session, room) {
            Some(membership) => match self.memberships[membership].stage {
                Stage::Joined => {
                    let home = usize::from(self.locals[self.memberships[membership].room.0 as usize].home.0);
                    if !self.can_command(home) {
                        return Took::Held(Wait::Home(home));
                    }
                    // Whether it watches changes with the answer: a diff before the snapshot that it applies to is of no use.
                    membership
                }
                Stage::Joining | Stage::Leaving | Stage::Dormant | Stage::Departing | Stage::Owed | Stage::Abandoned => {
                    return Took::Held(Wait::Decision);
                }
            },
            None => {
                if self.has_unlisted(session) {
                    // What it was a member of before its client came back is still to be left: this room may be among it.
                    (0..self.lanes.len()).for_each(|home| self.send_owed(now, home));
                    if self.has_unlisted(session) {
                        return Took::Held(Wait::Decision);
                    }
                }
                if usize::from(self.sessions[session].rooms) >= self.limits.rooms_per_connection_max {
                    return self.refuse_command(slot, session, seq, None, ErrorCode::TooManyRooms);
                }
                let home = usize::from(self.home_of(self.hash(room)).0);
                if !self.can_command(home) {
                    return Took::Held(Wait::Home(home));
                }
                if self.is_short_of_memory() {
                    return self.refuse_command(slot, session, seq, None, ErrorCode::RoomUnavailable);
                }
                let local = self.local_or_new(room);
                // Held until the membership holds it, so that a refusal frees a room that nobody else is in.
                self.hold_local(local);
                let membership = self.new_membership(session, local, watches);
                self.release_local(local);
                match membership {
                    Some(membership) => membership,
                    None => return self.refuse_command(slot, session, seq, None, ErrorCode::RoomUnavailable),
                }
            }
        };
        self.memberships[membership].feed.set_latest(latest);
        let record = self.memberships[membership];
        let home = usize::from(self.locals[record.room.0 as usize].home.0);
        // The name is copied out: at this shard's own home it is looked up again in the same table.
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        let user = self.sessions[session].user;
        if user.is_some() {
            let id = self.session_id(session);
            self.write_user(&mut name, id, user);
        }
        let user = user.is_some().then(|| std::str::from_utf8(&name).expect("a name is text"));
        let local = self.local_ref(record.room);
        let what = What::Join { room, user, state, watches, since, local };
        let ask = Ask { session: self.session_id(session), membership, presence: record.presence, seq: seq.unwrap_or(0), what };
        self.dispatch(now, session, home, &ask);
        self.name = name;
        Took::Done
    }

    /// Asks a room's home something that only a member may ask.
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn ask_member(
        &mut self,
        now: Now,
        slot: u32,
        session: SessionIndex,
        seq: Option<u64>,
        id: Option<&str>,
        room: &str,
        what: What<'_>,
    ) -> Took {
        let Some(membership) = self.membership_of(session, room) else {
            return self.refuse_command(slot, session, seq, id, ErrorCode::NotJoined);
        };
        let record = self.memberships[membership];
        match record.stage {
            Stage::Joined => {}
            Stage::Joining | Stage::Leaving | Stage::Dormant | Stage::Departing | Stage::Owed | Stage::Abandoned => {
                return Took::Held(Wait::Decision);
            }
        }
        debug_assert!(record.presence != PresenceIndex::NONE);
        let home = usize::from(self.locals[record.room.0 as usize].home.0);
        if !self.can_command(home) {
            return Took::Held(Wait::Home(home));
        }
        if matches!(what, What::Leave { .. }) {
            self.memberships[membership].stage = Stage::Leaving;
        }
        let ask = Ask { session: self.session_id(session), membership, presence: record.presence, seq: seq.unwrap_or(0), what };
        self.dispatch(now, session, home, &ask);
        Took::Done
    }

    /// Keeps a message that can't go on, and notes what it waits for.
    pub(crate) fn hold(&mut self, slot: u32, text: &str, wait: Wait) {
        let stash = self.stash_of(slot);
        self.stashes[stash.0 as usize].held.push_back(text.into());
        self.await_turn(slot, wait);
    }

    fn await_turn(&mut self, slot: u32, wait: Wait) {
        self.pause(slot);
        let key = Key { slot, generation: self.connections[slot as usize].generation };
        match wait {
            // What it already waits for comes first.
            Wait::Home(_) if self.waits(slot) => {}
            Wait::Home(home) => {
                let stash = self.stash_of(slot);
                self.stashes[stash.0 as usize].waits = true;
                self.stats.lane_waits += 1;
                self.lanes[home].waiters.push_back(key);
                if self.lanes[home].waiters.len() > 2 * self.connections.len() {
                    // Most of them have ended; connections that come and go faster than room does must not make the queue grow.
                    let mut waiters = std::mem::take(&mut self.lanes[home].waiters);
                    waiters.retain(|&key| self.is_current(key));
                    self.lanes[home].waiters = waiters;
                }
            }
            // `decided` looks at it.
            Wait::Decision => {}
        }
        self.recharge_input(slot);
    }

    /// Whether a connection has a place among those that wait for a home.
    fn waits(&self, slot: u32) -> bool {
        let stash = self.connections[slot as usize].stash;
        stash.is_some() && self.stashes[stash.0 as usize].waits
    }

    pub(crate) fn holds(&self, slot: u32) -> bool {
        let stash = self.connections[slot as usize].stash;
        stash.is_some() && !self.stashes[stash.0 as usize].held.is_empty()
    }

    /// A session's commands went on: what it holds or keeps may have its turn at the end of this turn of the loop.
    pub(crate) fn progress(&mut self, session: SessionIndex) {
        let slot = self.sessions[session].connection;
        if slot != NO_CONNECTION && (self.sessions[session].window.is_some() || self.holds(slot)) {
            let id = self.session_id(session);
            self.progressed.push(id);
        }
    }

    /// Tries again what the sessions that went on hold.
    pub(crate) fn serve_progressed(&mut self, now: Now) {
        // What goes on in here may let more go on: that is for the next turn.
        let mut progressed = std::mem::take(&mut self.progressed);
        for id in progressed.drain(..) {
            let Some(session) = self.resolve_session(id) else { continue };
            let slot = self.sessions[session].connection;
            if slot == NO_CONNECTION {
                continue;
            }
            if self.waits(slot) {
                // It is served when it is its turn.
            } else if self.holds(slot) {
                self.retry(now, slot);
            } else {
                self.drain_ready(now, slot, session);
            }
        }
        if self.progressed.is_empty() {
            self.progressed = progressed;
        }
    }

    /// Tries again what a connection holds, and lets it read on once it holds nothing.
    pub(crate) fn retry(&mut self, now: Now, slot: u32) {
        while self.holds(slot) {
            let stash = self.connections[slot as usize].stash.0 as usize;
            let Some(text) = self.stashes[stash].held.pop_front() else { break };
            if let Took::Held(wait) = self.handle_text(now, slot, &text) {
                let stash = self.stash_of(slot);
                self.stashes[stash.0 as usize].held.push_front(text);
                self.await_turn(slot, wait);
                return;
            }
        }
        self.recharge_input(slot);
        if self.connections[slot as usize].state == State::Opening {
            // It waits for its rooms, and holds nothing.
            return;
        }
        let session = self.connections[slot as usize].session;
        if session.is_some() {
            self.drain_ready(now, slot, session);
        }
        let connection = &self.connections[slot as usize];
        if is_planted(Bug::PauseNeverResumed) && session.is_some() && self.sessions[session].window.is_some() {
            return;
        }
        if connection.state == State::Open && connection.flags.has(Flags::PAUSED) && !self.holds(slot) {
            if let Some(session) = Some(session).filter(|session| session.is_some() && self.sessions[*session].window.is_some()) {
                self.window_of(session).resumed(now.mono);
            }
            self.resume(slot);
        }
    }

    fn reorder_deadline(&self, session: SessionIndex) -> Option<Millis> {
        let window = self.sessions[session].window;
        if window.is_none() {
            return None;
        }
        self.windows[window.0 as usize].window.deadline(self.limits.reorder_age_ms)
    }

    pub(crate) fn reorder_due(&self) -> Option<Millis> {
        self.reorders.front().map(|(due, _)| *due)
    }

    /// Has a session's early commands looked at when `due`, if they aren't looked at before.
    fn watch_reorder(&mut self, session: SessionIndex, due: Millis) {
        if !std::mem::replace(&mut self.sessions[session].watched, true) {
            let place = self.reorders.partition_point(|(other, _)| *other <= due);
            self.reorders.insert(place, (due, self.session_id(session)));
        }
    }

    /// Ends the gaps whose time has run out.
    pub(crate) fn expire_reorder(&mut self, now: Now) {
        let age = self.limits.reorder_age_ms;
        while let Some((_, id)) = self.reorders.front().copied().filter(|(due, _)| *due <= now.mono) {
            self.reorders.pop_front();
            let Some(session) = self.resolve_session(id) else { continue };
            self.sessions[session].watched = false;
            let slot = self.sessions[session].connection;
            if slot == NO_CONNECTION || self.sessions[session].window.is_none() {
                continue;
            }
            let is_paused = self.connections[slot as usize].flags.has(Flags::PAUSED);
            if !is_paused {
                let dialect = self.connections[slot as usize].dialect();
                match self.window_of(session).expire(dialect, now.mono, age) {
                    Expired::Nothing => {}
                    Expired::Freed { expected, received } => self.send_nack(slot, expected, received),
                    Expired::Insufficient => {
                        self.end_with_frame(now, slot, CloseReason::StateInsufficient);
                        continue;
                    }
                    Expired::Skipped { from, to_exclusive } => {
                        self.say_skipped(slot, from, to_exclusive);
                        self.drain_ready(now, slot, session);
                    }
                }
                self.settle_window(session);
            }
            if self.has_early(session) {
                // While reading is paused or the window is full there is no deadline; it comes with the end of that.
                let due = self.reorder_deadline(session).filter(|_| !is_paused).unwrap_or(now.mono.after(age));
                self.watch_reorder(session, due.max(now.mono.after(TICK_MS)));
            }
        }
    }

    pub(crate) fn has_early(&self, session: SessionIndex) -> bool {
        let window = self.sessions[session].window;
        window.is_some() && self.windows[window.0 as usize].window.commands_buffered() > 0
    }

    /// Says of each gap that is still open at the end of the turn's input what is missing.
    pub(crate) fn report_gaps(&mut self) {
        let mut gaps: Vec<_> = std::mem::take(&mut self.gaps);
        for id in gaps.drain(..) {
            let Some(session) = self.resolve_session(id) else { continue };
            let slot = self.sessions[session].connection;
            if slot == NO_CONNECTION || self.sessions[session].window.is_none() {
                continue;
            }
            if self.connections[slot as usize].dialect() == Dialect::Plain {
                continue;
            }
            if let Some((expected, received)) = self.window_of(session).poll_nack() {
                self.send_nack(slot, expected, received);
            }
        }
        self.gaps = gaps;
    }
}

/// What a join asks for beside the room.
struct Wish<'a> {
    since: Option<Position>,
    watches: bool,
    state: Option<&'a str>,
    latest: bool,
}

fn position(since: &Since<'_>) -> Position {
    Position { epoch: read_id64(since.epoch.as_bytes()), offset: since.offset }
}

/// Messages that a connection holds, oldest first.
pub(crate) type Held = VecDeque<Box<str>>;
