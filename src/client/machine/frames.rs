//! What each frame of an open connection does (PROTOCOL §5).
//!
//! A frame of a room counts only between the answer to the join of this membership and the room's end: what an earlier membership of
//! the same room still brings is passed over.

use super::super::encode;
use super::super::event::{Event, Message, Recovery};
use super::super::limits::{ADVICE_MS_MAX, RECOVERY_MS, RETRY_MS_DEFAULT, TEXT_BYTES_MAX};
use super::super::message::{Broadcast, Frame, Refusal, Roster};
use super::super::outbox::Kind;
use super::super::presence::Outcome;
use super::super::room::{News, Phase, Room};
use super::{Link, Machine};
use crate::client::event::Cause;
use crate::planted::{Bug, is_planted};
use crate::time::Millis;
use std::borrow::Cow;
use std::sync::Arc;

/// The answer to a join.
struct Joined<'a> {
    room: Cow<'a, str>,
    seq: Option<u64>,
    epoch: Cow<'a, str>,
    offset: u64,
    recovered: bool,
    gap: Option<Cow<'a, str>>,
    presence: Option<Roster<'a>>,
}

impl Machine {
    pub(super) fn handle_frame(&mut self, now: Millis, frame: Frame<'_>) {
        match frame {
            Frame::Welcome(welcome) => self.handle_welcome(now, &welcome),
            Frame::Error(refusal) => self.handle_error(now, &refusal),
            Frame::Reconnect { after_ms } => self.advice_ms = after_ms.min(ADVICE_MS_MAX),
            frame if self.link == Link::Open => self.handle_open_frame(now, frame),
            // Nothing comes before `welcome`.
            Frame::Broadcast(_)
            | Frame::Ack { .. }
            | Frame::Nack { .. }
            | Frame::RoomJoined { .. }
            | Frame::RoomLeft { .. }
            | Frame::Gap { .. }
            | Frame::PresenceState { .. }
            | Frame::PresenceDiff { .. }
            | Frame::Refreshed { .. }
            | Frame::Other => self.lose(now, Cause::Violation(1002), 0, Some(1002)),
        }
    }

    fn handle_open_frame(&mut self, now: Millis, frame: Frame<'_>) {
        match frame {
            Frame::Broadcast(broadcast) => self.handle_broadcast(now, &broadcast),
            Frame::Ack { seq } => self.handle_ack(now, seq),
            Frame::Nack { expected } => self.outbox.rewind(expected),
            Frame::RoomJoined { room, seq, epoch, offset, recovered, gap, presence } => {
                self.handle_joined(Joined { room, seq, epoch, offset, recovered, gap, presence });
            }
            Frame::RoomLeft { room, reason, seq } => self.handle_left(&room, &reason, seq),
            Frame::Gap { room, from, to, reason } => self.handle_gap(&room, from, to, &reason),
            Frame::PresenceState { room, id, roster } => self.handle_roster(&room, id, &roster),
            Frame::PresenceDiff { room, epoch, version, change } => {
                let Some(kept) = self.present(&room) else { return };
                let outcome = kept.presence.handle_diff(&epoch, version, &change);
                let name = Arc::clone(&kept.name);
                self.after_presence(&name, outcome);
            }
            Frame::Refreshed { token_ttl_ms } if self.identity.can_renew_token => {
                self.renew_token_at = token_ttl_ms.map(|ttl_ms| now.after(ttl_ms.min(ADVICE_MS_MAX * 100) / 5 * 4));
            }
            Frame::Refreshed { .. } | Frame::Other | Frame::Welcome(_) | Frame::Error(_) | Frame::Reconnect { .. } => {}
        }
    }

    /// A room whose presence is followed.
    fn present(&mut self, name: &str) -> Option<&mut Room> {
        self.rooms.get_mut(name).filter(|room| room.is_joined() && room.options.presence)
    }

    fn handle_roster(&mut self, name: &str, id: Option<u64>, roster: &Roster<'_>) {
        let Some(kept) = self.present(name) else { return };
        // An answer to a question that was given up is passed over; what comes unasked begins anew.
        if id.is_some() && id != kept.question {
            return;
        }
        let is_later_page = id.is_some() && kept.presence_pages;
        kept.question = None;
        let outcome = kept.presence.handle_roster(roster, is_later_page);
        let name = Arc::clone(&kept.name);
        self.after_presence(&name, outcome);
    }

    fn handle_broadcast(&mut self, now: Millis, broadcast: &Broadcast<'_>) {
        let Some(room) = self.rooms.get_mut(&*broadcast.room).filter(|room| room.is_joined()) else { return };
        let own = broadcast.seq.map(|seq| (&*broadcast.connection, seq));
        let is_ours = self.session.as_ref().is_some_and(|session| *session.id == *broadcast.connection);
        let news = room.judge(broadcast.offset, own, is_ours);
        let name = Arc::clone(&room.name);
        let (was_recovering, has_recovered) = (room.is_recovering(), room.take_recovered());
        let echoed =
            if news == News::Message && is_ours && broadcast.offset.is_some() && own.is_none() { room.echo_came() } else { None };
        if let Some(entry) = echoed.and_then(|seq| self.outbox.get_mut(seq)) {
            entry.was_seen = true;
        }
        if let Some(open) = own.and_then(|(session, seq)| self.outbox.recognise(session, seq)) {
            self.tell(Event::Acked(open.id));
        }
        match news {
            News::Message => {
                self.stats.messages += 1;
                self.tell(Event::Message(Message {
                    room: Arc::clone(&name),
                    data: broadcast.data.into(),
                    offset: broadcast.offset,
                    user: broadcast.user.as_ref().into(),
                    connection: broadcast.connection.as_ref().into(),
                    key: broadcast.key.as_ref().map(|key| key.as_ref().into()),
                    ts: broadcast.ts,
                }));
            }
            News::Duplicate => self.stats.duplicates += 1,
            News::Own => {}
        }
        if has_recovered {
            self.give_up_recovery(Some(&name));
        } else if was_recovering && self.recovery_due.is_some() {
            self.recovery_due = Some(now.after(RECOVERY_MS));
        }
    }

    fn handle_ack(&mut self, now: Millis, seq: u64) {
        let seq = if is_planted(Bug::ClientAckCoversOne) { seq.min(self.outbox.acked() + 1) } else { seq };
        let Some(decided) = self.outbox.acknowledge(seq) else {
            // It acknowledges what it was never sent: this session cannot be trusted.
            if let Some(session) = &mut self.session {
                session.token = None;
            }
            return self.lose(now, Cause::Violation(1002), 0, Some(1002));
        };
        for (_, entry) in decided.into_iter().filter(|(_, entry)| !entry.is_refused) {
            match entry.kind {
                Kind::Publish { .. } | Kind::SetState => self.tell(Event::Acked(entry.id)),
                Kind::Join | Kind::Leave => {}
            }
        }
    }

    fn handle_joined(&mut self, joined: Joined<'_>) {
        let Some(room) = self.rooms.get_mut(&*joined.room) else { return };
        let name = Arc::clone(&room.name);
        if room.awaits(joined.seq) {
            let had_position = room.position.is_some();
            room.joined(&joined.epoch, joined.offset, joined.recovered);
            let recovery = match &joined.gap {
                Some(_) if is_planted(Bug::ClientHidesGap) => Recovery::Complete,
                Some(reason) => Recovery::Gap(reason.as_ref().into()),
                None if joined.recovered => Recovery::Complete,
                // A server without history: what was missed is not there, whether it says so or not.
                None if had_position => Recovery::Gap("expired".into()),
                None => Recovery::NotNeeded,
            };
            let is_recovering = room.is_recovering();
            let epoch = room.position.as_ref().map_or_else(|| joined.epoch.as_ref().into(), |position| Arc::clone(&position.epoch));
            self.tell(Event::Joined { room: Arc::clone(&name), epoch, offset: joined.offset, recovery });
            if !is_recovering {
                self.give_up_recovery(Some(&name));
            }
        } else if !room.is_joined() {
            return; // of a membership that was left
        }
        if let Some(roster) = &joined.presence
            && let Some(room) = self.rooms.get_mut(&name).filter(|room| room.options.presence)
        {
            room.question = None;
            let outcome = room.presence.handle_roster(roster, false);
            self.after_presence(&name, outcome);
        }
    }

    fn handle_left(&mut self, name: &str, reason: &str, seq: Option<u64>) {
        // An answer to a leave of ours, or the end of a membership before the one that is asked for.
        let Some(room) = self.rooms.get(name).filter(|room| room.is_joined() && seq.is_none()) else { return };
        let room = Arc::clone(&room.name);
        self.rooms.remove(&room);
        self.give_up_recovery(Some(&room));
        self.tell(Event::Left { room, reason: reason.into() });
    }

    fn handle_gap(&mut self, name: &str, from: u64, to: u64, reason: &str) {
        let Some(room) = self.rooms.get_mut(name).filter(|room| room.is_joined()) else { return };
        let name = Arc::clone(&room.name);
        let Some(position) = room.lose(to) else { return };
        let has_recovered = room.take_recovered();
        self.tell(Event::Gap { room: Arc::clone(&name), range: Some((from, to)), position, reason: reason.into() });
        if has_recovered {
            self.give_up_recovery(Some(&name));
        }
    }

    fn handle_error(&mut self, now: Millis, refusal: &Refusal<'_>) {
        let wait_ms = refusal.retry_after_ms.unwrap_or(RETRY_MS_DEFAULT).clamp(1, ADVICE_MS_MAX);
        if let Some(seq) = refusal.seq {
            if refusal.retryable {
                self.outbox.retry(seq);
                let until = now.after(wait_ms);
                self.hold_until = Some(self.hold_until.map_or(until, |held| held.max(until)));
            } else {
                self.refuse(seq, &refusal.code);
            }
            return;
        }
        if let Some(id) = refusal.id
            && let Some(room) = self.rooms.values_mut().find(|room| room.question == Some(id))
        {
            room.question = None;
            if refusal.retryable {
                room.presence.invalidate();
                room.asks_again = true;
                self.questions_due = Some(now.after(wait_ms));
            } else {
                let outcome = if refusal.code == "bad_cursor" { room.presence.restart() } else { Outcome::Nothing };
                let name = Arc::clone(&room.name);
                self.after_presence(&name, outcome);
            }
            return;
        }
        let cut = |text: &str| text.chars().take(TEXT_BYTES_MAX / 4).collect::<String>().into_boxed_str();
        self.tell(Event::Error { code: cut(&refusal.code), message: cut(&refusal.message) });
    }

    /// Does what a frame about presence asks for.
    fn after_presence(&mut self, name: &Arc<str>, outcome: Outcome) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Changed(change) => self.tell(Event::Presence { room: Arc::clone(name), change }),
            Outcome::Ask(cursor) => self.ask_presence(name, cursor.as_deref()),
        }
    }

    fn ask_presence(&mut self, name: &Arc<str>, cursor: Option<&str>) {
        let Some(room) = self.rooms.get_mut(name).filter(|room| room.phase == Phase::Joined) else { return };
        let id = self.next_question;
        self.next_question += 1;
        (room.question, room.presence_pages) = (Some(id), cursor.is_some());
        let question = encode::presence(name, id, cursor);
        self.say(&question);
    }

    /// Asks what was refused for now, from the beginning.
    pub(super) fn ask_again(&mut self) {
        let names: Vec<Arc<str>> = self.rooms.values_mut().filter_map(|room| room.takes_question()).collect();
        for name in names {
            self.ask_presence(&name, None);
        }
    }
}
