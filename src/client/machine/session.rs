//! The session across connections: what `connect` takes up, what `welcome` says of it, and what becomes of commands when it is lost
//! (PROTOCOL §2, §9).
//!
//! What may have reached a lost session is never sent again by itself. A publication of it is open until its room's recovery has
//! shown it, or has ended without it.

use super::super::encode::{self, Connect, Resume};
use super::super::event::{CommandId, Event, State};
use super::super::limits::{COMMAND_BYTES_EACH_MAX, HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN, RECOVERY_MS, TEXT_BYTES_MAX, WINDOW_MAX};
use super::super::message::{Standing, Welcome};
use super::super::outbox::{Entry, Kind, Unresolved};
use super::super::room::{Membership, Phase, Position, Room};
use super::{ABANDONED, Link, Machine, Session, Told};
use crate::client::event::Cause;
use crate::planted::{Bug, is_planted};
use crate::time::Millis;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the client's own commands (joins after a reconnect) are named: nobody waits for them.
const NOBODY: CommandId = CommandId(0);

impl Default for Told {
    fn default() -> Told {
        // PROTOCOL §6, §8; a `welcome` that leaves one out means it so.
        Told { heartbeat_ms: 25_000, timeout_ms: 6_000, window: 64, command_bytes_max: COMMAND_BYTES_EACH_MAX }
    }
}

impl Told {
    fn of(welcome: &Welcome<'_>) -> Told {
        let default = Told::default();
        let clip = |told: Option<u64>, otherwise: u64| told.unwrap_or(otherwise).clamp(HEARTBEAT_MS_MIN, HEARTBEAT_MS_MAX);
        let command_bytes_max = welcome.message_bytes_max.and_then(|bytes| usize::try_from(bytes).ok());
        Told {
            heartbeat_ms: clip(welcome.heartbeat_ms, default.heartbeat_ms),
            timeout_ms: clip(welcome.timeout_ms, default.timeout_ms),
            window: welcome.window.unwrap_or(default.window).clamp(1, WINDOW_MAX),
            command_bytes_max: command_bytes_max.unwrap_or(usize::MAX).min(COMMAND_BYTES_EACH_MAX),
        }
    }
}

/// Rooms that were left, and for which something was asked before that: it needs a member, and the server may hold none any more.
/// Of what waits, in order.
fn rooms_left<'a>(waiting: impl Iterator<Item = &'a Entry>) -> Vec<Arc<str>> {
    let waiting: Vec<&Entry> = waiting.filter(|entry| !entry.is_refused).collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut left = Vec::new();
    for (place, entry) in waiting.iter().enumerate() {
        let is_first = seen.insert(&entry.room);
        let needs_member = matches!(entry.kind, Kind::Publish { .. } | Kind::SetState);
        let is_left = |other: &&Entry| other.kind == Kind::Leave && other.membership == entry.membership;
        if is_first && needs_member && waiting[place..].iter().any(is_left) {
            left.push(Arc::clone(&entry.room));
        }
    }
    left
}

/// A join from where the client stands in a room.
fn join_from(room: &Room) -> Vec<u8> {
    let options = &room.options;
    let state = options.state.as_deref().filter(|_| !is_planted(Bug::ClientRejoinsWithoutState));
    encode::join(&room.name, room.position.as_ref(), options.presence, state, options.latest)
}

impl Machine {
    /// Whether the next attempt takes a session up again.
    pub(super) fn can_resume(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.token.is_some())
    }

    /// The client's first frame.
    pub(super) fn say_connect(&mut self) {
        self.link = Link::Welcoming;
        let joined = self.rooms.values().filter(|room| room.is_joined());
        let rooms: Vec<(&str, &Position, Option<u64>)> = joined
            .filter_map(|room| {
                Some((&*room.name, room.position.as_ref()?, room.presence.version().filter(|_| room.options.presence)))
            })
            .collect();
        let token = self.session.as_ref().and_then(|session| session.token.as_deref());
        let resume = token.map(|token| Resume { token, acked: self.outbox.acked(), rooms: &rooms });
        let last_code = match self.last_cause {
            Some(Cause::Closed(code)) => Some(code),
            Some(Cause::Asked | Cause::Lost | Cause::Refused(_) | Cause::Silent | Cause::Violation(_)) | None => None,
        };
        let connect = encode::connect(&Connect {
            user: self.identity.user.as_deref(),
            token: self.identity.token.as_deref(),
            resume,
            attempt: u64::from(self.backoff.attempt()),
            last_code,
        });
        self.say(&connect);
    }

    /// The server's first frame.
    pub(super) fn handle_welcome(&mut self, now: Millis, welcome: &Welcome<'_>) {
        if self.link != Link::Welcoming {
            return self.lose(now, Cause::Violation(1002), 0, Some(1002));
        }
        let resumed = welcome.resumed && self.can_resume();
        // Two sides that do not agree on what was sent cannot go on with the session: another one can.
        if welcome.resumed != resumed || (resumed && !self.outbox.resume(welcome.next_seq)) || (!resumed && welcome.next_seq != 1) {
            if let Some(session) = &mut self.session {
                session.token = None;
            }
            return self.lose(now, Cause::Violation(ABANDONED), 0, Some(ABANDONED));
        }
        self.link = Link::Open;
        self.opened_at = now;
        self.told = Told::of(welcome);
        self.backoff.set_spread(welcome.spread_ms.unwrap_or(0));
        self.token_retried = false;
        self.is_resumed = resumed;
        self.stats.welcomes += 1;
        self.stats.resumes += u64::from(resumed);
        if self.identity.can_renew_token {
            self.renew_token_at = welcome.token_ttl_ms.map(|ttl_ms| now.after(ttl_ms / 5 * 4));
        }
        self.tell(Event::State(State::Connected { resumed }));
        let lost = self.keep_session(welcome);
        if resumed {
            self.go_on(welcome);
        } else {
            self.begin_anew(lost);
        }
        if self.outbox.has_unresolved() {
            self.recovery_due = Some(now.after(RECOVERY_MS));
        }
    }

    /// Keeps what is needed to take this session up again; returns the id of the one before it.
    fn keep_session(&mut self, welcome: &Welcome<'_>) -> Option<Arc<str>> {
        let fits = |text: &Cow<'_, str>| text.len() <= TEXT_BYTES_MAX;
        let token = welcome.resume_token.as_ref().filter(|token| fits(token)).map(|token| token.as_ref().into());
        let kept = self.session.as_mut().filter(|_| welcome.resumed && is_planted(Bug::ClientKeepsOldToken));
        let token = kept.and_then(|session| session.token.take()).or(token);
        let id = if fits(&welcome.session) { welcome.session.as_ref().into() } else { "".into() };
        self.session.replace(Session { id, token }).map(|session| session.id)
    }

    /// The session goes on.
    fn go_on(&mut self, welcome: &Welcome<'_>) {
        for (seq, code) in welcome.failed().filter(|_| !is_planted(Bug::ClientIgnoresFailed)) {
            self.refuse(seq, &code);
        }
        let next_seq = welcome.next_seq;
        let left = rooms_left(self.outbox.from(next_seq));
        let mut standings = welcome.rooms();
        let names: Vec<Arc<str>> = self.rooms.keys().cloned().collect();
        for name in names {
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            let place = standings.iter().position(|(told, _)| **told == *name);
            let standing = place.map(|place| standings.swap_remove(place).1);
            match (room.phase, standing) {
                (Phase::Joined, Some(Standing::Complete)) => {}
                (Phase::Joined, Some(Standing::Gap { reason, epoch, offset })) => {
                    let range = room.position.as_ref().filter(|position| *position.epoch == *epoch && position.offset < offset);
                    let range = range.map(|position| (position.offset + 1, offset));
                    let position = room.skip_to(&epoch, offset);
                    self.tell(Event::Gap { room: Arc::clone(&name), range, position, reason: reason.as_ref().into() });
                    self.give_up_recovery(Some(&name));
                }
                // The server does not speak of the room, or the answer to a join is lost. Whether it holds the membership or not, after a
                // leave the next join is one that recovers; a member's would recover nothing.
                (Phase::Joined, None) => self.leave_and_join_again(next_seq, &name),
                (Phase::Joining { seq }, _) if seq < next_seq => self.leave_and_join_again(next_seq, &name),
                (Phase::Joining { .. }, _) => {}
            }
        }
        for name in left {
            let body = encode::join(&name, None, false, None, false);
            self.put_before(next_seq, Kind::Join, &name, body);
        }
    }

    /// The session is a new one. Rooms are joined again where they were left, and what was never sent follows in its order.
    fn begin_anew(&mut self, lost: Option<Arc<str>>) {
        let kept = self.outbox.restart();
        let session = lost.unwrap_or_else(|| "".into());
        let names: Vec<Arc<str>> = self.rooms.keys().cloned().collect();
        for name in &names {
            let Some(room) = self.rooms.get_mut(name) else { continue };
            room.lose_session(&session);
            let waits = |last: u64| kept.iter().any(|(seq, entry)| *seq == last && entry.kind == Kind::Join && !entry.was_sent);
            match room.phase {
                Phase::Joining { seq } if waits(seq) => {}
                Phase::Joining { .. } | Phase::Joined => self.join_again(name),
            }
        }
        for name in rooms_left(kept.iter().map(|(_, entry)| entry).filter(|entry| !entry.was_sent)) {
            let body = encode::join(&name, None, false, None, false);
            self.outbox.push(NOBODY, Kind::Join, name, Membership::NONE, body);
        }
        let leaves = kept.iter().filter(|(_, entry)| entry.kind == Kind::Leave);
        let left: BTreeSet<u64> = leaves.map(|(_, entry)| entry.membership.0).collect();
        for (seq, entry) in kept.into_iter().filter(|(_, entry)| !entry.is_refused) {
            let is_members = matches!(entry.kind, Kind::Publish { .. } | Kind::SetState);
            let is_present = self.rooms.get(&entry.room).is_some_and(|room| room.membership == entry.membership)
                || is_planted(Bug::ClientSetsEarlierState) && self.rooms.contains_key(&entry.room);
            let is_blind = is_planted(Bug::ClientResendsBlindly) && matches!(entry.kind, Kind::Publish { .. });
            if !entry.was_sent && is_planted(Bug::ClientForgetsUnsent) {
                continue;
            }
            if !entry.was_sent && is_members && !is_present && !left.contains(&entry.membership.0) {
                // The server ended that membership: what was asked in it has no member any more, and the next one is not meant.
                self.tell(Event::Refused { command: entry.id, code: "not_joined".into() });
            } else if !entry.was_sent || is_blind || (entry.kind == Kind::SetState && is_present) {
                self.push_again(seq, entry);
            } else {
                self.leave_open(&session, seq, entry);
            }
        }
    }

    /// Gives a command that was never sent, or may be sent twice, a number of the new session.
    fn push_again(&mut self, old_seq: u64, entry: Entry) {
        let is_join = entry.kind == Kind::Join;
        let name = Arc::clone(&entry.room);
        let seq = self.outbox.push(entry.id, entry.kind, entry.room, entry.membership, entry.body);
        if is_join
            && let Some(room) = self.rooms.get_mut(&name)
            && room.awaits(Some(old_seq))
        {
            room.phase = Phase::Joining { seq };
        }
    }

    /// A command of a lost session: what became of it?
    fn leave_open(&mut self, session: &Arc<str>, seq: u64, entry: Entry) {
        match entry.kind {
            Kind::Join | Kind::Leave => {}
            Kind::SetState => self.tell(Event::Unknown(entry.id)),
            Kind::Publish { .. } if entry.was_seen => self.tell(Event::Acked(entry.id)),
            Kind::Publish { .. } if self.rooms.get(&entry.room).is_some_and(|room| room.position.is_some()) => {
                self.outbox.leave_open(Unresolved { id: entry.id, room: entry.room, session: Arc::clone(session), seq });
            }
            Kind::Publish { .. } => self.tell(Event::Unknown(entry.id)),
        }
    }

    /// Leaves a room and joins it from where the client stands in it, before anything that the server has not decided: what was
    /// published there needs a member.
    fn leave_and_join_again(&mut self, next_seq: u64, name: &Arc<str>) {
        let Some(room) = self.rooms.get(name) else { return };
        let join = join_from(room);
        self.put_before(next_seq, Kind::Join, name, join);
        if let Some(room) = self.rooms.get_mut(name) {
            room.phase = Phase::Joining { seq: next_seq };
        }
        self.put_before(next_seq, Kind::Leave, name, encode::leave(name));
    }

    /// Puts a command of the client's own before all that the server has not decided. What stands there moves up: it has no number
    /// for the server yet, as its reorder buffer ended with the connection and the connection before is fenced off.
    fn put_before(&mut self, next_seq: u64, kind: Kind, name: &Arc<str>, body: Vec<u8>) {
        self.outbox.insert(next_seq, NOBODY, kind, Arc::clone(name), body);
        self.rooms.values_mut().for_each(|room| room.renumber(next_seq, 1));
    }

    /// Joins a room that is kept, from where the client stands in it.
    fn join_again(&mut self, name: &Arc<str>) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let seq = self.outbox.push(NOBODY, Kind::Join, Arc::clone(name), room.membership, join_from(room));
        room.phase = Phase::Joining { seq };
    }

    /// Publications of lost sessions that no recovery will show any more: those of a room, or all.
    pub(super) fn give_up_recovery(&mut self, room: Option<&str>) {
        for open in self.outbox.give_up(room) {
            self.tell(Event::Unknown(open.id));
        }
        if !self.outbox.has_unresolved() {
            self.recovery_due = None;
        }
    }

    /// A command is refused for good: says so once, and undoes what waits for it.
    pub(super) fn refuse(&mut self, seq: u64, code: &str) {
        let Some(entry) = self.outbox.get_mut(seq).filter(|entry| !entry.is_refused) else { return };
        entry.is_refused = true;
        let (id, kind, name) = (entry.id, entry.kind, Arc::clone(&entry.room));
        match kind {
            Kind::Join if self.rooms.get(&name).is_some_and(|room| room.awaits(Some(seq))) => {
                self.rooms.remove(&name);
                self.give_up_recovery(Some(&name));
                self.tell(Event::JoinRefused { room: name, code: code.into() });
            }
            Kind::Join | Kind::Leave => {}
            Kind::SetState | Kind::Publish { .. } => {
                if let Some(room) = self.rooms.get_mut(&name) {
                    room.forgive_echo(seq);
                }
                self.tell(Event::Refused { command: id, code: code.into() });
            }
        }
    }

    /// The server found a message too large: the largest that is on its way is given up, so that it does not meet the same end again.
    pub(super) fn refuse_largest(&mut self) {
        if let Some(seq) = self.outbox.largest_sent() {
            self.refuse(seq, "too_large");
        }
    }

    /// Answers everything that was asked for and is still open.
    pub(super) fn settle_all(&mut self) {
        self.give_up_recovery(None);
        for (_, entry) in self.outbox.restart() {
            let is_asked = matches!(entry.kind, Kind::SetState | Kind::Publish { .. }) && !entry.is_refused;
            if is_asked && entry.was_seen {
                self.tell(Event::Acked(entry.id));
            } else if is_asked && entry.was_sent {
                self.tell(Event::Unknown(entry.id));
            } else if is_asked {
                self.tell(Event::Refused { command: entry.id, code: "closed".into() });
            }
        }
    }
}
