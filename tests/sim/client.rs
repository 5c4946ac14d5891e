//! A client that is driven by the real client machine: its bytes, its timers, and the sockets that it opens and loses.
//!
//! Here is the network between a machine and the shards, with all that can go wrong in it; what applications are told is judged in
//! `told`. One connection of a client is a socket and a peer as any other's, so that what the server owes to whoever did nothing wrong
//! is owed to it, too: `tap` reads with it just enough of what the server says to know.

use crate::delays::Delays;
use crate::hear::SMALL_HISTORY;
use crate::peer::{PUBLICATION_NAME_BYTES, Publication, USERS, data, digest};
use crate::plan::{Cut, Fault, Op, Reading};
use crate::told::{Asked, Fate, View, Wish};
use crate::world::World;
use std::collections::HashSet;
use throng::client::{Action, Identity, JoinOptions, Machine, SocketId};
use throng::shard::Ended;
use throng::time::Millis;

/// Authors from this number on are clients, those below it are peers.
pub(crate) const FIRST_CLIENT: usize = 1 << 20;
/// Bytes that the way to the server holds; at it a client's socket takes no more.
const WAY_BYTES_MAX: usize = 64 * 1024;
/// Time after which bytes may still arrive that were on their way when their sender had given up, in ms.
const LATE_MS_MAX: u64 = 3_000;
/// Time that a connection takes to be open, in ms, where the network is slow.
const OPENING_MS_MAX: u64 = 400;
/// Rounds of actions, bytes and events without time passing, after which a machine is taken to go on for ever.
const SERVINGS_MAX: usize = 10_000;
/// Commands that an application leaves open before it waits: enough to fill the server's window several times.
const OPEN_MAX: usize = 200;

/// A machine's present socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) socket: SocketId,
    pub(crate) connection: usize,
    /// Nothing reaches the client any more, not even the end.
    pub(crate) is_deaf: bool,
}

/// Bytes that arrive when nobody stands behind them any more.
#[derive(Debug)]
struct Late {
    connection: usize,
    at: Millis,
    bytes: Vec<u8>,
}

/// See the module.
pub(crate) struct Client {
    pub(crate) machine: Machine,
    pub(crate) user: u32,
    pub(crate) link: Option<Link>,
    opening: Option<(SocketId, Millis)>,
    late: Vec<Late>,
    /// The application takes no events until then.
    dozes_until: Millis,
    /// It has taken none since it dozed off.
    has_dozed: bool,
    /// The application has closed it.
    pub(crate) is_closed: bool,
    /// What the server last called its session.
    pub(crate) session: Option<u32>,
    /// Sessions that were followed by another.
    pub(crate) sessions_lost: u32,
    /// Since when it has had no connection on which its session was known, and how long the server keeps it then, in ms.
    pub(crate) away_since: Option<Millis>,
    pub(crate) resume_ttl_ms: Option<u64>,
    pub(crate) delays: Delays,
    /// By room: what its application knows of it, while it wants to be in it.
    pub(crate) views: Vec<Option<View>>,
    /// By room: where the application stood when it was last in it.
    pub(crate) past: Vec<Option<u64>>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) publications: Vec<Publication>,
    pub(crate) casts: u32,
    /// Rooms and offsets at which it was shown what a lost session of its own had published, without the number that would tell.
    pub(crate) unsigned: HashSet<(usize, u64)>,
    /// It may have been too slow, so that the server may have had to pass something over.
    pub(crate) may_lag: bool,
}

impl World<'_> {
    // ---- applications ---------------------------------------------------------------------------------------------------

    /// The client in a seat, made if there is none.
    fn client_at(&mut self, seat: usize) -> usize {
        if let Some(client) = self.client_seats[seat].filter(|client| !self.clients[*client].is_closed) {
            return client;
        }
        let rooms = self.rooms.len();
        let user = self.rng.below(USERS) as u32;
        let identity =
            Identity { host: "here".into(), path: "/ws".into(), user: Some(format!("user-{user}")), ..Identity::default() };
        let past = self.client_seats[seat].map_or(vec![None; rooms], |before| self.clients[before].past.clone());
        let mut views = Vec::new();
        views.resize_with(rooms, || None);
        let machine = Machine::new(identity, self.rng.next(), self.now.mono);
        let limits = &self.shape.limits;
        // Where hardly anything is kept, more may be published than that while a room is taken up again.
        let is_small = limits.send_queue_bytes_max < 64 * 1024 || limits.history_publications_max < SMALL_HISTORY;
        let is_slow = self.shape.has(Fault::ShortSend) || is_small;
        self.clients.push(Client {
            machine,
            user,
            link: None,
            opening: None,
            late: Vec::new(),
            dozes_until: Millis(0),
            has_dozed: false,
            is_closed: false,
            session: None,
            sessions_lost: 0,
            away_since: None,
            resume_ttl_ms: None,
            delays: Delays::default(),
            views,
            past,
            asked: Vec::new(),
            publications: Vec::new(),
            casts: 0,
            unsigned: HashSet::new(),
            may_lag: is_slow || self.shape.has(Fault::MemoryBudget),
        });
        let client = self.clients.len() - 1;
        self.client_seats[seat] = Some(client);
        trace!(self, "client {client}: user-{user} in seat {seat}");
        self.serve(client);
        client
    }

    /// Does what a step says of a client's seat.
    pub(crate) fn act_as_client(&mut self, seat: usize, op: Op) {
        let client = self.client_at(seat);
        let is_busy = self.clients[client].asked.iter().rev().take(OPEN_MAX).filter(|asked| asked.fate == Fate::Open).count();
        match op {
            Op::Join { room, watches, state } => self.app_join(client, usize::from(room), watches, state),
            Op::Leave { room } => self.app_leave(client, room),
            Op::Publish { room, bytes, echo } if is_busy < OPEN_MAX => self.app_publish(client, room, bytes, echo),
            Op::Burst { room, count, .. } if is_busy < OPEN_MAX => {
                for _ in 0..count {
                    let echo = self.rng.chance(4);
                    self.app_publish(client, room, 8, echo);
                }
            }
            Op::Volatile { room } => self.app_cast(client, room),
            Op::SetState { room } => self.app_set_state(client, room),
            Op::Doze { ms } => {
                self.seen[Fault::SlowApplication as usize] += 1;
                self.clients[client].dozes_until = self.now.mono.after(u64::from(ms));
                self.clients[client].has_dozed = true;
                self.may_be_slow(client);
            }
            Op::Cut(cut) => self.cut(client, cut),
            Op::Read(reading) => self.client_reads_as(client, reading),
            Op::Rejoin { room } => {
                let room = self.joined_room(client, room);
                self.app_set_state(client, room as u8);
                self.app_leave(client, room as u8);
                let watches = self.rng.chance(3);
                self.app_join(client, room, watches, true);
            }
            Op::CloseClient => self.app_close(client),
            // Harmless at any time.
            Op::Ping | Op::Publish { .. } | Op::Burst { .. } => self.clients[client].machine.handle_timeout(self.now.mono),
            // Of the world, or of clients that are written by hand.
            Op::Ask { .. }
            | Op::Repeat
            | Op::GarbageFrame
            | Op::GarbageJson
            | Op::GarbageRequest
            | Op::End(_)
            | Op::Stall { .. }
            | Op::DelayLane { .. }
            | Op::WallJump
            | Op::Suspend { .. }
            | Op::Drain => {}
        }
        self.serve(client);
    }

    /// A room that the application probably is in.
    fn joined_room(&mut self, client: usize, room: u8) -> usize {
        let (room, rooms) = (usize::from(room), self.rooms.len());
        let views = &self.clients[client].views;
        (0..rooms).map(|step| (room + step) % rooms).find(|room| views[*room].is_some()).unwrap_or(room)
    }

    /// An application may not have been told yet that it is in a room no more.
    fn is_behind(&self, client: usize) -> bool {
        self.is_tight() && self.clients[client].has_dozed
    }

    fn app_join(&mut self, client: usize, room: usize, presence: bool, state: bool) {
        if self.is_behind(client) {
            return;
        }
        let state = state.then(|| self.rng.below(1_000) as u32);
        let past = self.clients[client].past[room].filter(|_| self.rng.chance(2));
        let since = past.and_then(|offset| self.position(room, offset));
        let since_offset = since.as_ref().map(|position| position.offset);
        let options = JoinOptions { presence, state: state.map(|state| state.to_string()), since, ..JoinOptions::default() };
        let name = self.rooms[room].name.clone();
        let joined = self.clients[client].machine.join(self.now.mono, &name, options);
        let is_in = self.clients[client].views[room].is_some();
        trace!(self, "client {client} joins room {room} since {since_offset:?}: {joined:?}");
        match joined {
            Ok(membership) => {
                check!(!is_in, "join", "client {client} joins room {room} twice");
                self.clients[client].views[room] = Some(View::new(membership.0, presence, state, since_offset));
            }
            Err(refused) => check!(is_in, "join", "client {client} can't join room {room}: {refused}"),
        }
    }

    fn app_leave(&mut self, client: usize, room: u8) {
        let room = self.joined_room(client, room);
        let name = self.rooms[room].name.clone();
        let left = self.clients[client].machine.leave(self.now.mono, &name);
        trace!(self, "client {client} leaves room {room}: {left:?}");
        if left.is_ok() {
            self.forget_view(client, room);
        } else {
            let is_in = self.clients[client].views[room].is_some();
            check!(!is_in || self.is_behind(client), "leave", "client {client} can't leave room {room}");
        }
    }

    /// The application is in a room no more.
    pub(crate) fn forget_view(&mut self, client: usize, room: usize) {
        let client = &mut self.clients[client];
        if let Some(position) = client.views[room].take().and_then(|view| view.position) {
            client.past[room] = Some(position);
        }
    }

    fn app_publish(&mut self, client: usize, room: u8, bytes: u16, echo: bool) {
        let room = self.joined_room(client, room);
        let number = self.clients[client].publications.len() as u32;
        let data = data(FIRST_CLIENT + client, number, bytes);
        let name = self.rooms[room].name.clone();
        let asked = self.clients[client].machine.publish(self.now.mono, &name, &data, None, echo);
        let is_behind = self.is_behind(client);
        trace!(self, "client {client} publishes {number} in room {room}, echo {echo}: {asked:?}");
        let client = &mut self.clients[client];
        match asked {
            Ok(command) => {
                let size = (data.len() + PUBLICATION_NAME_BYTES) as u32;
                let digest = digest(data.as_bytes());
                let membership = client.views[room].as_ref().map_or(0, |view| view.membership);
                client.publications.push(Publication { room, echo, digest, size, membership, ..Publication::default() });
                client.asked.push(Asked::new(command, Wish::Publish { number }, client.sessions_lost));
            }
            Err(refused) => {
                check!(client.views[room].is_none() || is_behind, "publish", "in room {room}: {refused}");
            }
        }
    }

    fn app_cast(&mut self, client: usize, room: u8) {
        let room = self.joined_room(client, room);
        let number = self.clients[client].casts;
        let data = format!(r#"{{"a":{},"v":{number}}}"#, FIRST_CLIENT + client);
        let cast = self.clients[client].machine.cast(&self.rooms[room].name, &data, None);
        self.clients[client].casts += u32::from(cast.is_ok());
    }

    fn app_set_state(&mut self, client: usize, room: u8) {
        let room = self.joined_room(client, room);
        let state = self.rng.below(1_000) as u32;
        let (is_behind, number) = (self.is_behind(client), client);
        let client = &mut self.clients[client];
        let asked = client.machine.set_state(self.now.mono, &self.rooms[room].name, &state.to_string());
        trace!(self, "client {number} says {state} of itself in room {room}: {asked:?}");
        let client = &mut self.clients[number];
        match asked {
            Ok(command) => {
                client.asked.push(Asked::new(command, Wish::SetState { room }, client.sessions_lost));
                let view = client.views[room].as_mut().unwrap_or_else(|| fail!("set_state", "a room that is not joined"));
                view.state = Some(state);
            }
            Err(refused) => check!(client.views[room].is_none() || is_behind, "set_state", "in room {room}: {refused}"),
        }
    }

    /// The application ends its client for good.
    pub(crate) fn app_close(&mut self, client: usize) {
        trace!(self, "client {client} is closed");
        // What was told before is still taken.
        self.clients[client].dozes_until = Millis(0);
        self.serve(client);
        for room in 0..self.rooms.len() {
            self.forget_view(client, room);
        }
        self.seen[Fault::CloseFrame as usize] += 1;
        let told = &mut self.clients[client];
        told.is_closed = true;
        told.machine.close(self.now.mono);
        if let Some(link) = told.link {
            self.peers[link.connection].allow(&[1000]);
            self.peers[link.connection].may_cut = true;
        }
        self.session_gone(client);
        self.serve(client);
    }

    fn may_be_slow(&mut self, client: usize) {
        // The server may give it up at any time from now on, and its client learn of that later.
        self.clients[client].away_since.get_or_insert(self.now.mono);
        self.clients[client].may_lag = true;
        if let Some(link) = self.clients[client].link {
            self.peers[link.connection].allow(&[4102, 4201]);
            self.peers[link.connection].may_cut = true;
        }
    }

    fn client_reads_as(&mut self, client: usize, reading: Reading) {
        let Some(link) = self.clients[client].link else { return };
        self.read_as(link.connection, reading);
        if reading != Reading::Fast {
            self.may_be_slow(client);
        }
    }

    // ---- the network ----------------------------------------------------------------------------------------------------

    /// The network cuts a client's connection.
    fn cut(&mut self, client: usize, cut: Cut) {
        let Some(link) = self.clients[client].link.filter(|link| !link.is_deaf) else { return };
        let id = link.connection;
        trace!(self, "client {client}, peer {id}: {cut:?}");
        self.peers[id].may_cut = true;
        self.tally.cuts += 1;
        self.session_gone(client);
        let on_its_way = self.sockets[id].to_server.len();
        let arrives = self.rng.index(on_its_way + 1);
        match cut {
            Cut::Reset => {
                self.seen[Fault::Reset as usize] += 1;
                self.sockets[id].to_server.truncate(arrives);
                self.sockets[id].end = Some(Ended::Error);
                self.lose_link(client);
            }
            Cut::Eof => {
                self.seen[Fault::HalfClose as usize] += 1;
                self.sockets[id].to_server.truncate(arrives);
                self.sockets[id].end.get_or_insert(Ended::Eof);
                if self.rng.chance(2) {
                    self.sockets[id].vanished = true;
                    self.lose_link(client);
                }
            }
            Cut::Silence => {
                self.seen[Fault::SilentDeath as usize] += 1;
                self.sockets[id].to_server.truncate(arrives);
                self.sockets[id].vanished = true;
                self.deafen(client);
            }
            Cut::NearEnd => {
                self.seen[Fault::OneSidedCut as usize] += 1;
                // The server knows nothing yet, and the last of what was sent arrives when another connection may be there.
                let mut bytes = Vec::new();
                self.sockets[id].to_server.take(on_its_way, &mut bytes);
                bytes.truncate(arrives);
                let at = self.now.mono.after(self.rng.below(LATE_MS_MAX));
                self.clients[client].late.push(Late { connection: id, at, bytes });
                self.sockets[id].vanished = true;
                self.lose_link(client);
            }
            Cut::FarEnd => {
                self.seen[Fault::OneSidedCut as usize] += 1;
                self.sockets[id].to_server.truncate(arrives);
                self.sockets[id].end = Some(if self.rng.chance(2) { Ended::Error } else { Ended::Eof });
                self.sockets[id].vanished = true;
                self.deafen(client);
            }
        }
    }

    fn deafen(&mut self, client: usize) {
        let Some(link) = self.clients[client].link.as_mut() else { return };
        link.is_deaf = true;
        let id = link.connection;
        self.forget_unread(id);
        self.gone(id);
    }

    /// The machine hears that its socket has ended.
    fn lose_link(&mut self, client: usize) {
        let Some(link) = self.clients[client].link.take() else { return };
        self.forget_unread(link.connection);
        self.gone(link.connection);
        self.session_gone(client);
        let socket = &mut self.sockets[link.connection];
        if !socket.vanished && !socket.closed {
            socket.end.get_or_insert(Ended::Eof);
            socket.vanished = true;
        }
        self.clients[client].machine.handle_ended(self.now.mono, link.socket);
    }

    /// The server lets go of a connection.
    pub(crate) fn server_closes(&mut self, id: usize) {
        if let Some(client) = self.peers[id].client
            && self.clients[client].link.is_some_and(|link| link.connection == id)
        {
            self.clients[client].away_since.get_or_insert(self.now.mono);
        }
    }

    /// From now on a client's session must be taken for gone, unless it is taken up again.
    pub(crate) fn session_gone(&mut self, client: usize) {
        self.clients[client].away_since.get_or_insert(self.now.mono);
        if let Some(session) = self.clients[client].session {
            let gone = self.gone_now();
            self.sessions.set_gone(session, Some(gone));
        }
    }

    fn open(&mut self, client: usize, socket: SocketId) {
        let now = self.now.mono;
        if self.calm && self.drain_by.is_some() {
            return self.clients[client].machine.handle_ended(now, socket);
        }
        let is_bad = !self.calm && self.shape.has(Fault::Unreachable);
        if is_bad && self.rng.chance(4) {
            self.seen[Fault::Unreachable as usize] += 1;
            // Refused, or never answered.
            if self.rng.chance(2) {
                self.clients[client].machine.handle_ended(now, socket);
            }
            return;
        }
        let ms = if is_bad && self.rng.chance(2) { self.rng.below(OPENING_MS_MAX) } else { 0 };
        self.clients[client].opening = Some((socket, now.after(ms)));
    }

    fn opened(&mut self, client: usize, socket: SocketId) {
        let shard = self.rng.index(self.drivers.len());
        let Some(id) = self.open_socket(shard) else {
            return self.clients[client].machine.handle_ended(self.now.mono, socket);
        };
        trace!(self, "client {client}, peer {id}: at shard {shard}, {:?}", self.sockets[id].key);
        let user = self.clients[client].user;
        let peer = &mut self.peers[id];
        (peer.client, peer.user) = (Some(client), user);
        if self.clients[client].dozes_until > self.now.mono {
            self.peers[id].allow(&[4102, 4201]);
            self.clients[client].away_since.get_or_insert(self.now.mono);
        }
        if let Some(session) = self.clients[client].session.filter(|session| self.sessions.gone(*session).is_some()) {
            // It may be in its rooms again before its client is welcome: if it goes once more, its time begins from here.
            let gone = self.gone_now();
            self.sessions.set_gone(session, Some(gone));
        }
        self.clients[client].link = Some(Link { socket, connection: id, is_deaf: false });
        self.clients[client].machine.handle_opened(self.now.mono, socket);
    }

    /// A machine lets go of its socket, after some last bytes.
    fn let_go(&mut self, client: usize, socket: SocketId, last: &[u8]) {
        self.clients[client].opening.take_if(|(opening, _)| *opening == socket);
        let Some(link) = self.clients[client].link.take_if(|link| link.socket == socket) else { return };
        let id = link.connection;
        self.peers[id].may_cut = true;
        self.forget_unread(id);
        self.gone(id);
        self.session_gone(client);
        let taken = if self.calm { last.len() } else { self.rng.index(last.len() + 1) };
        let is_dead = self.sockets[id].vanished || self.sockets[id].closed;
        let socket = &mut self.sockets[id];
        if !is_dead && socket.end.is_none() {
            socket.to_server.push(&last[..taken]);
            socket.end = Some(if taken == last.len() { Ended::Eof } else { Ended::Error });
        }
        socket.vanished = true;
    }

    // ---- turns ----------------------------------------------------------------------------------------------------------

    /// When a client next has something to do by itself.
    pub(crate) fn client_due(&self) -> Option<Millis> {
        let now = self.now.mono;
        let due = |client: &Client| {
            let opening = client.opening.map(|(_, at)| at);
            let late = client.late.iter().map(|late| late.at).min();
            let doze = (client.dozes_until > now).then_some(client.dozes_until);
            client.machine.poll_timeout().into_iter().chain(opening).chain(late).chain(doze).min()
        };
        self.clients.iter().filter_map(due).min()
    }

    /// What time brings to the clients. Whether anything happened.
    pub(crate) fn clients_turn(&mut self) -> bool {
        let mut busy = false;
        let now = self.now.mono;
        for client in 0..self.clients.len() {
            if self.clients[client].machine.is_closed() && self.clients[client].late.is_empty() {
                continue;
            }
            while let Some(place) = self.clients[client].late.iter().position(|late| late.at <= now) {
                let late = self.clients[client].late.swap_remove(place);
                self.arrive_late(client, &late);
                busy = true;
            }
            if let Some((socket, _)) = self.clients[client].opening.take_if(|(_, at)| *at <= now) {
                self.opened(client, socket);
                busy = true;
            }
            if self.clients[client].machine.poll_timeout().is_some_and(|due| due <= now) {
                self.clients[client].machine.handle_timeout(now);
            }
            busy |= self.serve(client);
        }
        busy
    }

    fn arrive_late(&mut self, client: usize, late: &Late) {
        let socket = &mut self.sockets[late.connection];
        if !socket.closed && socket.end.is_none() {
            socket.to_server.push(&late.bytes);
            socket.end = self.rng.chance(2).then_some(Ended::Error);
            // It may have been taken up by another connection since.
            let is_over = self.clients[client].link.is_none();
            if is_over {
                self.session_gone(client);
            }
        }
    }

    /// Does what a machine wants, until it wants nothing. Whether it wanted anything.
    pub(crate) fn serve(&mut self, client: usize) -> bool {
        for round in 0..SERVINGS_MAX {
            let mut busy = false;
            while let Some(action) = self.clients[client].machine.poll_action() {
                trace!(self, "client {client} at {}: {action:?}", self.now.mono.0);
                busy = true;
                match action {
                    Action::Open(socket) => self.open(client, socket),
                    Action::Drop(socket, last) => self.let_go(client, socket, &last),
                    Action::Token => fail!("token", "client {client} was told nothing of tokens"),
                }
            }
            busy |= self.transmit(client);
            busy |= self.take_events(client);
            self.watch_delay(client);
            if !busy {
                return round > 0;
            }
        }
        fail!("endless client", "client {client} goes on for ever");
    }

    /// The socket takes some of what the machine has to send. Whether it took any.
    fn transmit(&mut self, client: usize) -> bool {
        let Some(link) = self.clients[client].link else { return false };
        let offered = self.clients[client].machine.transmit_bytes().len();
        let socket = &mut self.sockets[link.connection];
        let is_lost = socket.vanished || socket.closed || socket.end.is_some();
        let room = if is_lost { offered } else { WAY_BYTES_MAX.saturating_sub(socket.to_server.len()) };
        let mut count = offered.min(room);
        if !self.calm && self.shape.has(Fault::ShortSend) && count > 0 && self.rng.chance(6) {
            count = self.rng.index(count + 1);
        }
        if count == 0 {
            return false;
        }
        if !is_lost {
            socket.to_server.push(&self.clients[client].machine.transmit_bytes()[..count]);
        }
        self.clients[client].machine.handle_transmitted(self.now.mono, count);
        true
    }

    /// The application takes its events. Whether there were any.
    fn take_events(&mut self, client: usize) -> bool {
        if self.clients[client].dozes_until > self.now.mono {
            return false;
        }
        self.clients[client].has_dozed = false;
        let wanted_input = self.clients[client].machine.wants_input();
        let mut busy = false;
        while let Some(event) = self.clients[client].machine.poll_event() {
            trace!(self, "client {client} at {}: {event:?}", self.now.mono.0);
            busy = true;
            self.told(client, event);
        }
        if let Some(link) = self.clients[client].link
            && !wanted_input
            && self.clients[client].machine.wants_input()
        {
            self.clients[client].machine.handle_received(self.now.mono, link.socket, &[]);
        }
        busy
    }

    /// A machine's socket yields what has come. Whether there was anything.
    pub(crate) fn read_as_client(&mut self, id: usize, client: usize) -> bool {
        let link = self.clients[client].link.filter(|link| link.connection == id && !link.is_deaf);
        let socket = &mut self.sockets[id];
        let is_heard = link.is_some() && !socket.vanished && socket.end != Some(Ended::Error);
        if socket.closed && !is_heard {
            self.peers[id].is_done = true;
            self.see_end(id);
            return false;
        }
        if is_heard && socket.to_client.is_empty() && (socket.closed || socket.finished) {
            self.lose_link(client);
            self.serve(client);
            return true;
        }
        if !is_heard || socket.to_client.is_empty() {
            return false;
        }
        let Some(link) = link else { return false };
        if !self.clients[client].machine.wants_input() {
            return false;
        }
        let mut count = socket.to_client.len();
        if self.peers[id].read_rate.is_some() {
            count = count.min((self.peers[id].read_credit / 1_000) as usize);
            self.peers[id].read_credit -= 1_000 * count as u64;
        }
        if !self.calm && self.shape.has(Fault::SplitRead) && count > 1 && self.rng.chance(3) {
            count = 1 + self.rng.index(count);
        }
        if count == 0 {
            return false;
        }
        let mut bytes = std::mem::take(&mut self.read_buffer);
        bytes.clear();
        self.sockets[id].to_client.take(count, &mut bytes);
        self.tap(id, client, &bytes);
        self.clients[client].machine.handle_received(self.now.mono, link.socket, &bytes);
        self.read_buffer = bytes;
        self.serve(client);
        self.clients[client].delays.forget();
        true
    }
}
