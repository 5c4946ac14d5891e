//! What an application is told by its client, held against the rooms' logs and against what it asked for. It knows the machine only by
//! what it says.
//!
//! An application that is a member hears each publication with an offset once, in order, and of what it does not hear it either is the
//! author, or is told a gap that the bounds of the history explain. Each of its commands ends once, and as it is told.

use crate::client::FIRST_CLIENT;
use crate::hear::Heard;
use crate::json::Object;
use crate::plan::Fault;
use crate::room::Entry;
use crate::watch::Present;
use crate::world::World;
use throng::client::{CommandId, Event, Message, Position, PresenceChange, Recovery, State};

/// What an application was told of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Open,
    Acked,
    Refused,
    Unknown,
}

/// What a command is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Publish { number: u32 },
    SetState { room: usize },
}

/// A command of an application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    command: CommandId,
    pub(crate) wish: Wish,
    pub(crate) fate: Fate,
    /// Sessions that its client had lost by then.
    sessions_lost: u32,
}

impl Asked {
    pub(crate) fn new(command: CommandId, wish: Wish, sessions_lost: u32) -> Asked {
        Asked { command, wish, fate: Fate::Open, sessions_lost }
    }
}

/// A room as an application knows it.
#[derive(Debug)]
pub(crate) struct View {
    /// Which of the client's memberships it is.
    pub(crate) membership: u64,
    pub(crate) is_joined: bool,
    /// The last offset that is accounted for; before the first `Joined` what the application said of it.
    pub(crate) position: Option<u64>,
    pub(crate) watches: bool,
    /// The application's own presence state, and whether it is known to be the server's.
    pub(crate) state: Option<u32>,
    pub(crate) is_state_sure: bool,
    /// Who is in the room, as told by one change after the other; `None` while only counts are known.
    list: Option<Vec<Present>>,
    /// The last volatile publication from each session.
    volatile: Vec<(u32, u32)>,
}

impl View {
    pub(crate) fn new(membership: u64, watches: bool, state: Option<u32>, since: Option<u64>) -> View {
        View {
            membership,
            is_joined: false,
            position: since,
            watches,
            state,
            is_state_sure: true,
            list: None,
            volatile: Vec::new(),
        }
    }
}

/// What client machines have lived through, all together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cuts: u64,
    /// Connections on which the session went on.
    pub(crate) resumed: u64,
    /// Connections on which it was another than before.
    pub(crate) lost: u64,
    pub(crate) messages: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    /// What was missed was recovered, or told to be lost.
    pub(crate) recovered: u64,
    pub(crate) gaps: u64,
}

impl Tally {
    pub(crate) fn parts_mut(&mut self) -> [(&'static str, &mut u64); 9] {
        [
            ("cuts", &mut self.cuts),
            ("resumed", &mut self.resumed),
            ("sessions lost", &mut self.lost),
            ("messages", &mut self.messages),
            ("acknowledged", &mut self.acked),
            ("refused", &mut self.refused),
            ("unknown", &mut self.unknown),
            ("recovered", &mut self.recovered),
            ("gaps", &mut self.gaps),
        ]
    }

    pub(crate) fn add(&mut self, mut other: Tally) {
        for ((_, sum), (_, count)) in self.parts_mut().into_iter().zip(other.parts_mut()) {
            *sum += *count;
        }
    }
}

impl World<'_> {
    /// Takes an event.
    pub(crate) fn told(&mut self, client: usize, event: Event) {
        match event {
            Event::State(State::Closed(cause)) => {
                check!(self.clients[client].is_closed, "closed", "client {client} gave up by itself: {cause:?}");
            }
            Event::State(State::Connected { resumed: true }) => {
                // It is fed from histories, and others may publish more in the meantime than a small one keeps.
                self.clients[client].may_lag |= self.shape.limits.history_publications_max < crate::hear::SMALL_HISTORY;
            }
            Event::State(_) => {}
            Event::Joined { room, epoch, offset, recovery } => {
                let room = self.room_of(&room);
                check!(self.rooms[room].hold_epoch(epoch.as_bytes()), "epoch", "room {room} has another epoch");
                self.told_joined(client, room, offset, &recovery);
            }
            Event::JoinRefused { room, code } => {
                let room = self.room_of(&room);
                check!(self.is_tight(), "join refused", "client {client}, room {room}: {code}");
                let is_known = matches!(&*code, "too_many_rooms" | "room_full" | "room_unavailable");
                check!(is_known, "join refused", "client {client}, room {room}: {code}");
                check!(self.clients[client].views[room].is_some(), "join refused", "client {client} is not in room {room}");
                self.forget_view(client, room);
            }
            Event::Left { room, reason } => fail!("left", "client {client}: {room} for {reason}"),
            Event::Message(message) => self.told_message(client, &message),
            Event::Presence { room, change } => self.told_presence(client, self.room_of(&room), &change),
            Event::Gap { room, range, position, reason } => {
                let room = self.room_of(&room);
                self.told_gap(client, room, range, &position, &reason);
            }
            Event::Acked(command) => self.told_fate(client, command, Fate::Acked, ""),
            Event::Refused { command, code } => self.told_fate(client, command, Fate::Refused, &code),
            Event::Unknown(command) => self.told_fate(client, command, Fate::Unknown, ""),
            Event::Error { code, .. } => check!(self.is_tight(), "error", "client {client}: {code}"),
        }
    }

    fn room_of(&self, name: &str) -> usize {
        let room = self.rooms.iter().position(|room| room.name == name);
        room.unwrap_or_else(|| fail!("room id", "nobody has joined {name:?}"))
    }

    /// Rooms and connections have bounds that may refuse what was asked for.
    pub(crate) fn is_tight(&self) -> bool {
        self.shape.has(Fault::SmallBounds) || self.shape.has(Fault::MemoryBudget)
    }

    fn view(&mut self, client: usize, room: usize) -> &mut View {
        let view = self.clients[client].views[room].as_mut();
        view.unwrap_or_else(|| fail!("non-member", "client {client} is told of room {room}, in which it is not"))
    }

    // ---- positions ------------------------------------------------------------------------------------------------------

    fn told_joined(&mut self, client: usize, room: usize, head: u64, recovery: &Recovery) {
        let view = self.view(client, room);
        view.is_joined = true;
        let before = view.position;
        if *recovery != Recovery::Complete {
            view.position = Some(head);
        }
        match (recovery, before) {
            (Recovery::NotNeeded, None) => {}
            (Recovery::Complete, Some(position)) => {
                check!(position <= head, "numbering", "client {client} stood at {position} of room {room}, whose head is {head}");
                self.tally.recovered += u64::from(position < head);
            }
            (Recovery::Gap(_), Some(position)) => {
                let may_be = self.is_gap_allowed(room, position, head);
                check!(may_be, "needless gap", "client {client} stood at {position} of room {room}, whose head is {head}");
                self.tally.gaps += 1;
            }
            _ => fail!("recovered", "client {client} stood at {before:?} of room {room}, and is told {recovery:?}"),
        }
    }

    fn told_gap(&mut self, client: usize, room: usize, range: Option<(u64, u64)>, position: &Position, reason: &str) {
        self.tally.gaps += 1;
        self.gaps += 1;
        let before = self.view(client, room).position;
        let Some(before) = before else { fail!("gap", "client {client} stood nowhere in room {room}") };
        let to = position.offset;
        check!(self.rooms[room].hold_epoch(position.epoch.as_bytes()), "epoch", "room {room} has another epoch");
        let from = range.map_or(before + 1, |(from, _)| from);
        let is_one = range.is_none_or(|(_, end)| end == to) && before < from && from <= to;
        check!(is_one, "gap", "client {client} lost {range:?} of room {room}, stood at {before} and now stands at {to}");
        if reason == "slow_consumer" {
            // Who has been away for as long as the history reaches back is overtaken while it catches up.
            let known = (self.rooms[room].log.len() as u64).max(to);
            let may_be = self.clients[client].may_lag || self.is_gap_allowed(room, before, known);
            check!(may_be, "innocent gap", "client {client} lost {from} to {to} of room {room}");
        } else {
            let may_be = self.is_gap_allowed(room, before, to);
            check!(may_be, "needless gap", "client {client} stood at {before} of room {room}, lost up to {to}: {reason}");
        }
        self.app_passes_over(client, room, from);
        self.view(client, room).position = Some(to);
    }

    /// Whether a history may have lost something after a position, whose room now has this head.
    pub(crate) fn is_gap_allowed(&mut self, room: usize, position: u64, head: u64) -> bool {
        let limits = &self.shape.limits;
        let age_ms = self.now.mono.since(self.started);
        if self.shape.has(Fault::MemoryBudget) || age_ms >= limits.history_age_ms {
            return position < head;
        }
        if head.saturating_sub(position) > limits.history_publications_max as u64 {
            return true;
        }
        let bytes_max = limits.history_bytes_max as u64;
        let sizes: u64 = (position + 1..=head).map(|offset| u64::from(self.size_at(room, offset))).sum();
        sizes > bytes_max
    }

    /// Bytes that the publication at an offset has at most in a history.
    fn size_at(&mut self, room: usize, offset: u64) -> u32 {
        match *self.rooms[room].entry(offset) {
            Entry::Seen { author, number } => self.written(author, number as usize).map_or(0, |publication| publication.size),
            Entry::Own(_) | Entry::Unknown => self.shape.limits.message_bytes_max as u32,
        }
    }

    /// Where an application stood that may say so again.
    pub(crate) fn position(&self, room: usize, offset: u64) -> Option<Position> {
        let epoch = self.rooms[room].epoch.as_ref()?;
        Some(Position { epoch: String::from_utf8_lossy(epoch).into(), offset })
    }

    /// Moves an application up to an offset: what it was not told must be its own.
    fn app_passes_over(&mut self, client: usize, room: usize, offset: u64) {
        let view = self.view(client, room);
        let Some(before) = view.position.replace(offset) else { fail!("before joined", "client {client}, room {room}") };
        check!(offset > before, "order", "client {client}: offset {offset} of room {room} after {before}");
        for skipped in before + 1..offset {
            self.must_be_own(FIRST_CLIENT + client, room, skipped);
        }
    }

    // ---- messages -------------------------------------------------------------------------------------------------------

    fn told_message(&mut self, client: usize, message: &Message) {
        self.broadcasts += 1;
        if self.swallows() {
            return;
        }
        self.tally.messages += 1;
        let room = self.room_of(&message.room);
        let reader = FIRST_CLIENT + client;
        check!(self.view(client, room).is_joined, "before joined", "client {client} is told of room {room}");
        let Some(data) = Object::parse(message.data.as_bytes()) else { fail!("broadcast", "client {client}: no data") };
        let author = self.author(reader, &data, message.connection.as_bytes());
        let Some(offset) = message.offset else {
            let session = self.sessions.number(message.connection.as_bytes());
            let number = self.volatile_number(reader, author, session, &data);
            let view = self.view(client, room);
            match view.volatile.iter_mut().find(|(other, _)| *other == session) {
                Some((_, last)) => {
                    check!(number > *last, "volatile order", "client {client}: {author}'s volatile {number} after {last}");
                    *last = number;
                }
                None => view.volatile.push((session, number)),
            }
            return;
        };
        self.app_passes_over(client, room, offset);
        let heard = Heard { reader, room, author, offset, session: self.sessions.number(message.connection.as_bytes()) };
        self.enter(&heard, &data, message.data.as_bytes());
    }

    // ---- presence -------------------------------------------------------------------------------------------------------

    fn told_presence(&mut self, client: usize, room: usize, change: &PresenceChange) {
        check!(self.view(client, room).watches, "presence", "client {client} is told who is in room {room}");
        let mut list = self.view(client, room).list.take();
        match change {
            PresenceChange::Replaced => list = self.presence_list(client, room),
            PresenceChange::Counts { .. } => list = None,
            PresenceChange::Changed { joins, leaves, updates } => {
                if let Some(list) = &mut list {
                    for entry in leaves {
                        let session = self.sessions.number(entry.id.as_bytes());
                        list.retain(|present| present.session != session);
                    }
                    for entry in joins.iter().chain(updates) {
                        let new = self.present(&entry.user, &entry.id, entry.state.as_deref());
                        list.retain(|present| present.session != new.session);
                        list.push(new);
                    }
                }
            }
        }
        self.view(client, room).list = list;
    }

    fn present(&mut self, user: &str, id: &str, state: Option<&str>) -> Present {
        let number = user.strip_prefix("user-").and_then(|digits| digits.parse().ok());
        let user = number.unwrap_or_else(|| fail!("presence", "nobody is called {user:?}"));
        Present { session: self.sessions.number(id.as_bytes()), user, state: state.and_then(|state| state.parse().ok()) }
    }

    /// Who is in a room, as a machine has it; `None` if it has only counts.
    fn presence_list(&mut self, client: usize, room: usize) -> Option<Vec<Present>> {
        let presence =
            self.clients[client].machine.presence(&self.rooms[room].name).filter(|presence| !presence.is_counted_only())?;
        let mut entries: Vec<(String, String, Option<String>)> = Vec::new();
        for (user, member) in presence.users() {
            let connections = member.connections.iter();
            entries.extend(connections.map(|(id, state)| (user.to_owned(), id.to_string(), state.as_deref().map(str::to_owned))));
        }
        Some(entries.iter().map(|(user, id, state)| self.present(user, id, state.as_deref())).collect())
    }

    // ---- commands -------------------------------------------------------------------------------------------------------

    fn told_fate(&mut self, client: usize, command: CommandId, fate: Fate, code: &str) {
        let is_tight = self.is_tight();
        match fate {
            Fate::Acked => self.tally.acked += 1,
            Fate::Refused => self.tally.refused += 1,
            Fate::Unknown => self.tally.unknown += 1,
            Fate::Open => {}
        }
        let told = &mut self.clients[client];
        let Ok(place) = told.asked.binary_search_by_key(&command, |asked| asked.command) else {
            fail!("command", "client {client} never asked for {command:?}")
        };
        let asked = &mut told.asked[place];
        check!(asked.fate == Fate::Open, "one end", "client {client}: {asked:?} ends again as {fate:?}");
        asked.fate = fate;
        let asked = *asked;
        let is_lost = asked.sessions_lost < told.sessions_lost || told.is_closed;
        check!(fate != Fate::Unknown || is_lost, "needless unknown", "client {client}: no session was lost since {asked:?}");
        if fate == Fate::Refused {
            let is_known = match code {
                "closed" => told.is_closed,
                "not_joined" | "room_unavailable" => is_tight,
                _ => false,
            };
            check!(is_known, "refused", "client {client}: {asked:?} was refused with {code}");
        }
        match asked.wish {
            Wish::Publish { number } => {
                let publication = &mut told.publications[number as usize];
                publication.refused = fate == Fate::Refused;
                let is_shown = publication.offset.is_some();
                check!(!publication.refused || !is_shown, "exactly once", "client {client}: {number} was refused and took effect");
            }
            Wish::SetState { room } => {
                if let Some(view) = told.views[room].as_mut() {
                    view.is_state_sure &= fate != Fate::Refused;
                }
            }
        }
    }

    // ---- in the end -----------------------------------------------------------------------------------------------------

    /// What a client still waits for, if anything.
    pub(crate) fn client_waits_for(&self, client: usize) -> Option<String> {
        let told = &self.clients[client];
        if told.is_closed {
            return (!told.machine.is_closed()).then(|| "its end".to_owned());
        }
        if !matches!(told.machine.state(), State::Connected { .. }) {
            return Some(format!("a connection: {:?}", told.machine.state()));
        }
        if let Some(asked) = told.asked.iter().find(|asked| asked.fate == Fate::Open) {
            return Some(format!("{asked:?}"));
        }
        let room = told.views.iter().position(|view| view.as_ref().is_some_and(|view| !view.is_joined));
        room.map(|room| format!("room {room}"))
    }

    /// Every client is where it wants to be, and knows all.
    pub(crate) fn judge_clients(&mut self, heads: &[Option<u64>]) {
        for client in 0..self.clients.len() {
            for (room, head) in heads.iter().enumerate() {
                let seen = self.rooms[room].log.len() as u64;
                let Some(view) = self.clients[client].views[room].as_ref() else { continue };
                let Some(position) = view.position else { continue };
                // Where nobody new could come in, the head is what anybody was shown.
                let head = head.unwrap_or(seen.max(position));
                check!(position <= head, "numbering", "client {client} stands at {position} of room {room}, whose head is {head}");
                for offset in position + 1..=head {
                    self.must_be_own(FIRST_CLIENT + client, room, offset);
                }
            }
        }
    }

    /// A client that watches a room knows who is in it, and has told its application each change.
    pub(crate) fn judge_client_presence(&mut self, room: usize, truth: &[(u32, Option<u32>)]) {
        for id in 0..self.clients.len() {
            let client = &self.clients[id];
            if client.is_closed || !client.views[room].as_ref().is_some_and(|view| view.watches) {
                continue;
            }
            let Some(presence) = client.machine.presence(&self.rooms[room].name) else {
                fail!("presence", "client {id} has no list of room {room}")
            };
            check!(presence.is_current(), "presence", "client {id} has no whole list of room {room}");
            let told = (presence.user_count(), presence.connection_count());
            let mut users: Vec<u32> = truth.iter().map(|(user, _)| *user).collect();
            users.dedup();
            let counts = (users.len() as u64, truth.len() as u64);
            check!(told == counts, "presence", "client {id}, room {room}: {told:?} instead of {counts:?}");
            let Some(mut list) = self.presence_list(id, room) else { continue };
            let mut known: Vec<(u32, Option<u32>)> = list.iter().map(|present| (present.user, present.state)).collect();
            known.sort_unstable();
            check!(known == truth, "presence", "client {id}, room {room}: it knows {known:?}, and the truth is {truth:?}");
            let mut followed = self.view(id, room).list.clone().unwrap_or_default();
            list.sort_unstable();
            followed.sort_unstable();
            check!(followed == list, "presence told", "client {id}, room {room}: it has {list:?}, and has told {followed:?}");
        }
    }

    /// Closes every client: all that it asked for ends.
    pub(crate) fn close_clients(&mut self) {
        for client in 0..self.clients.len() {
            if !self.clients[client].is_closed {
                self.app_close(client);
            }
        }
        self.run();
        for client in 0..self.clients.len() {
            let open = self.clients[client].asked.iter().find(|asked| asked.fate == Fate::Open);
            check!(open.is_none(), "one end", "client {client} is closed, and {open:?} has no end");
        }
    }
}
