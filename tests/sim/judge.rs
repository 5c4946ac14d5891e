//! What holds at any time, and what must have come to be once the faults have stopped: everything acknowledged, everybody shown the
//! same, presence the truth, and when all have gone, nothing left.

use crate::client::FIRST_CLIENT;
use crate::peer::{Kind, Meaning, Stand};
use crate::plan::{End, Fault};
use crate::room::Entry;
use crate::socket::HELD_BYTES_MAX;
use crate::told::{Fate, Wish};
use crate::world::World;
use std::collections::HashMap;
use throng::limits::ROOM_IDLE_MS;
use throng::time::Millis;

/// Time after which a vanished client must have been noticed and its last presence told, in ms; the ghost bound is below it.
const SETTLE_MS: u64 = 45_000;
/// Time within which a change is told to those who watch, where nothing disturbs it, in ms.
const TOLD_MS: u64 = 5_000;
/// Time between two looks at whether every client is where it wants to be, in ms.
const CLIENT_SETTLE_MS: u64 = 5_000;
/// Such looks: a client that was refused often waits up to half a minute, and does not find its silent socket out before its heartbeat.
const CLIENT_SETTLE_ROUNDS: usize = 60;
/// Connections that are kept free for a newcomer who asks for the heads of all rooms.
const AUDITORS: usize = 2;
/// What rounds add to a bound, in ms: a step has fewer turns than a server would have in its time.
const SLACK_MS: u64 = 1_500;
/// Commands of a plain client that may not have come, at the end: more make the server give up what is missing.
const LAST_COMMANDS: u64 = 40;
/// Bytes by which what is under way may exceed the budget of a shard: a turn's deliveries, and a message of each connection.
const OVER_BUDGET_BYTES_MAX: u64 = 1 << 20;

impl World<'_> {
    // ---- at any time ----------------------------------------------------------------------------------------------------

    pub(crate) fn look(&mut self) {
        for driver in &self.drivers {
            let stats = driver.shard.stats();
            check!(stats.orphaned_subscriptions == 0, "orphans", "{} orphaned subscriptions", stats.orphaned_subscriptions);
            check!(stats.room_leave_failures == 0, "leave failures", "{} leaves of unknown members", stats.room_leave_failures);
            let (held, budget) = (stats.memory_bytes_held(), (self.shape.limits.flex_bytes_max / self.drivers.len()) as u64);
            check!(held <= budget + OVER_BUDGET_BYTES_MAX, "budget", "{held} bytes are held of {budget}");
            self.seen[Fault::MemoryBudget as usize] += u64::from(held >= budget);
        }
        let watchers: Vec<usize> = self.active.iter().copied().filter(|id| self.is_attentive(*id)).collect();
        for id in watchers {
            for room in 0..self.rooms.len() {
                self.look_at_view(id, room);
            }
        }
    }

    /// Whether a client has read all that there is for it.
    fn is_attentive(&self, id: usize) -> bool {
        let (peer, socket) = (&self.peers[id], &self.sockets[id]);
        !peer.is_ended
            && peer.client.is_none()
            && peer.read_rate.is_none()
            && socket.held_bytes_max == HELD_BYTES_MAX
            && socket.to_client.is_empty()
            && !socket.awaits_writable
    }

    /// What a watcher knows must be true but for what is on its way.
    fn look_at_view(&self, id: usize, room: usize) {
        let Some(member) = self.peers[id].members[room].as_ref() else { return };
        let Some(view) = member.view.as_ref().filter(|view| !view.stale && view.cursor.is_none()) else { return };
        let Some(list) = &view.list else { return };
        let now = self.now.mono;
        for present in list {
            let Some(owner) = self.sessions.owner(present.session) else { continue };
            let gone = self.peers.get(owner).map_or(self.sessions.gone(present.session), |peer| peer.gone);
            let Some(gone) = gone else { continue };
            let bound = self.shape.limits.ghost_bound_ms() + self.disturbance_ms - gone.disturbance_ms + SLACK_MS;
            check!(
                now.since(gone.at) <= bound,
                "ghost",
                "peer {id} still sees {owner} in room {room}, who went {} ms ago (bound {bound})",
                now.since(gone.at)
            );
        }
        let is_calm = |since: Millis| since.max(self.disturbed_until).after(TOLD_MS) < now;
        if !is_calm(member.since) {
            return;
        }
        for other in self.active.iter().copied() {
            let peer = &self.peers[other];
            // While commands are on their way it may be between a leave and a join.
            let is_settled = peer.kind == Kind::V1 && peer.acked + 1 == peer.next_seq();
            let is_in = peer.wants.get(room) == Some(&true) && is_settled && self.is_attentive(other);
            let since = peer.members.get(room).and_then(Option::as_ref).map(|member| member.since);
            if let (true, Some(since), Some(session)) = (is_in, since, peer.session) {
                let is_known = !is_calm(since) || view.find(session).is_some();
                check!(is_known, "unseen", "peer {id} does not see {other} in room {room}, who joined at {since:?}");
            }
        }
    }

    /// Asks every shard whether what it holds adds up.
    pub(crate) fn verify(&self) {
        for (index, driver) in self.drivers.iter().enumerate() {
            if let Err(what) = driver.shard.verify() {
                fail!("adds up", "shard {index}: {what}");
            }
        }
    }

    // ---- afterwards -----------------------------------------------------------------------------------------------------

    /// Lets the faults end, everybody behave, and all that follows happen.
    pub(crate) fn settle(&mut self) {
        self.calm = true;
        trace!(self, "settling at {}", self.now.mono.0);
        for driver in &mut self.drivers {
            driver.stalled_until = Millis(0);
        }
        for lane in self.lanes.iter_mut().flatten() {
            lane.until = Millis(0);
        }
        for _ in 0..4 {
            for id in self.active.clone() {
                self.peers[id].read_rate = None;
                self.sockets[id].held_bytes_max = 4 * HELD_BYTES_MAX;
                let peer = &self.peers[id];
                if peer.is_ended || peer.client.is_some() {
                    continue;
                }
                match peer.kind {
                    Kind::V1 => self.send_again(id, peer.acked + 1),
                    // What was lost and not given up.
                    Kind::Numbered => self.send_again(id, peer.next_seq().saturating_sub(LAST_COMMANDS).max(peer.first_seq)),
                    Kind::Loose => {}
                }
            }
            self.run();
            self.pass(100);
        }
        self.make_room();
        self.pass(SETTLE_MS);
        self.settle_clients();
        for _ in 0..2 {
            self.ask_again();
            self.pass(1_500);
        }
        self.look();
        self.verify();
    }

    /// Where fewer connections are admitted than there are clients, peers make room for client machines, which never give up.
    fn make_room(&mut self) {
        let wanted = self.shape.machines + AUDITORS;
        let others: Vec<usize> = self.living();
        let room = self.shape.limits.connections_max.saturating_sub(wanted);
        for id in others.into_iter().skip(room) {
            self.end(id, End::Reset);
        }
    }

    /// Waits until every client is where it wants to be.
    fn settle_clients(&mut self) {
        if self.drain_by.is_some() {
            return;
        }
        for round in 0.. {
            let waits = (0..self.clients.len()).find_map(|client| Some((client, self.client_waits_for(client)?)));
            let Some((client, what)) = waits else { break };
            if self.shape.has(Fault::MemoryBudget) && round == CLIENT_SETTLE_ROUNDS / 8 {
                // What the others hold may be all that there is: nobody else is admitted.
                self.close_waiting();
                break;
            }
            check!(round < CLIENT_SETTLE_ROUNDS, "liveness", "client {client} still waits for {what}");
            self.pass(CLIENT_SETTLE_MS);
        }
        self.pass(SETTLE_MS);
    }

    /// The applications of clients that are not where they want to be give up.
    fn close_waiting(&mut self) {
        for client in 0..self.clients.len() {
            if !self.clients[client].is_closed && self.client_waits_for(client).is_some() {
                self.app_close(client);
            }
        }
    }

    /// Watchers that have missed a change ask.
    fn ask_again(&mut self) {
        for id in self.active.clone() {
            for room in 0..self.peers[id].members.len() {
                let member = self.peers[id].members[room].as_ref();
                let is_stale = member.is_some_and(|member| member.view.as_ref().is_some_and(|view| view.stale));
                if is_stale && !self.peers[id].is_ended {
                    self.ask(id, room);
                }
            }
        }
    }

    pub(crate) fn judge(&mut self) {
        if self.drain_by.is_some() {
            return self.judge_drain();
        }
        self.judge_commands();
        self.judge_presence();
        self.judge_publications();
    }

    fn living(&self) -> Vec<usize> {
        self.active.iter().copied().filter(|id| !self.peers[*id].is_ended && self.peers[*id].client.is_none()).collect()
    }

    fn judge_drain(&mut self) {
        for (index, driver) in self.drivers.iter().enumerate() {
            check!(driver.shard.sockets_held() == 0, "drain", "shard {index} holds {} sockets", driver.shard.sockets_held());
        }
        check!(self.active.is_empty(), "drain", "connections are left: {:?}", self.active);
    }

    /// All commands are decided, and their clients are where these have brought them.
    fn judge_commands(&mut self) {
        for id in self.living() {
            let peer = &self.peers[id];
            let last = peer.next_seq() - 1;
            check!(peer.unanswered == 0, "answer", "peer {id}: {} of its pings are not answered", peer.unanswered);
            if peer.kind == Kind::V1 {
                check!(peer.acked == last, "acks arrive", "peer {id}: {} of {last} are acknowledged", peer.acked);
                check!(peer.is_welcome, "welcome", "peer {id} was never welcome");
            } else {
                let stands = self.replay(id);
                self.peers[id].stands = stands;
            }
            let peer = &self.peers[id];
            for (room, (stand, member)) in peer.stands.iter().zip(&peer.members).enumerate() {
                check!(
                    stand.joined == member.is_some(),
                    "membership",
                    "peer {id} ({:?}), room {room}: joined {}, and its client thinks {}",
                    peer.kind,
                    stand.joined,
                    member.is_some()
                );
            }
        }
    }

    /// Where the commands of a plain client have brought it.
    fn replay(&self, id: usize) -> Vec<Stand> {
        let mut stands = vec![Stand::default(); self.rooms.len()];
        for command in self.peers[id].commands.iter().filter(|command| !command.refused) {
            match command.meaning {
                Meaning::Join { room, state, .. } => {
                    stands[room].joined = true;
                    stands[room].state = state.or(stands[room].state);
                }
                Meaning::Leave { room } => stands[room] = Stand::default(),
                Meaning::SetState { room, state } if stands[room].joined => stands[room].state = Some(state),
                Meaning::SetState { .. } | Meaning::Publish { .. } | Meaning::Other => {}
            }
        }
        stands
    }

    /// Everybody who watches knows the truth, and the homes hold no other.
    fn judge_presence(&mut self) {
        let living = self.living();
        let mut presences = 0;
        for room in 0..self.rooms.len() {
            let mut truth: Vec<(u32, Option<u32>)> = Vec::new();
            for id in &living {
                let stand = self.peers[*id].stands[room];
                if stand.joined {
                    truth.push((self.peers[*id].user, stand.state));
                }
            }
            for client in self.clients.iter().filter(|client| !client.is_closed) {
                if let Some(view) = client.views[room].as_ref().filter(|view| view.is_joined) {
                    truth.push((client.user, view.state));
                }
            }
            truth.sort_unstable();
            presences += truth.len() as u64;
            let mut users: Vec<u32> = truth.iter().map(|(user, _)| *user).collect();
            users.dedup();
            self.judge_client_presence(room, &truth);
            for id in &living {
                let Some(member) = &self.peers[*id].members[room] else { continue };
                let Some(view) = &member.view else { continue };
                let Some(list) = &view.list else {
                    let counts = Some((users.len() as u64, truth.len() as u64));
                    check!(view.counts == counts, "presence", "peer {id}, room {room}: {:?} instead of {counts:?}", view.counts);
                    continue;
                };
                check!(!view.stale && view.cursor.is_none(), "presence", "peer {id}, room {room}: it asked, and was not told");
                let mut known: Vec<(u32, Option<u32>)> = list.iter().map(|present| (present.user, present.state)).collect();
                known.sort_unstable();
                check!(known == truth, "presence", "peer {id}, room {room}: it knows {known:?}, and the truth is {truth:?}");
                let itself = self.peers[*id].session.is_none_or(|session| view.find(session).is_some());
                check!(itself, "presence", "peer {id} does not see itself in room {room}");
            }
        }
        let held = self.sum(|stats| stats.presences);
        check!(held == presences, "presence", "homes hold {held} presences, and there are {presences}");
        let members = self.sum(|stats| stats.room_subscriptions);
        check!(members == presences, "membership", "shards hold {members} memberships, and there are {presences}");
    }

    /// Every room's numbering is whole, and every member was shown all of it.
    fn judge_publications(&mut self) {
        let heads = self.audit();
        let mut total = 0;
        for (room, head) in heads.iter().enumerate() {
            let Some(head) = *head else { continue };
            let seen = self.rooms[room].log.len() as u64;
            check!(seen <= head, "numbering", "offset {seen} of room {room} was shown, and its head is {head}");
            if head > 0 {
                self.rooms[room].entry(head);
            }
            for id in self.living() {
                let Some(position) = self.peers[id].members[room].as_ref().map(|member| member.position) else { continue };
                for offset in position + 1..=head {
                    self.must_be_own(id, room, offset);
                }
            }
            total += head;
            self.judge_log(room);
        }
        self.judge_clients(&heads);
        if heads.iter().all(Option::is_some) {
            let counted = self.sum(|stats| stats.publications);
            let peers = self.peers.iter().map(|peer| u64::from(peer.volatiles));
            let volatile: u64 = peers.chain(self.clients.iter().map(|client| u64::from(client.casts))).sum();
            let range = total..=total + volatile;
            check!(range.contains(&counted), "numbering", "{counted} publications are counted, {total} have an offset");
        }
    }

    fn judge_log(&mut self, room: usize) {
        let mut last: HashMap<(usize, Option<u32>), u32> = HashMap::new();
        let mut own: HashMap<usize, usize> = HashMap::new();
        let mut unseen = 0;
        for place in 0..self.rooms[room].log.len() {
            match self.rooms[room].log[place] {
                Entry::Seen { author, number } => {
                    // What a lost session had on its way may come behind what its client has published since.
                    let session = self.written(author, number as usize).and_then(|publication| publication.session);
                    let before = last.insert((author, session), number);
                    let is_later = before.is_none_or(|before| before < number);
                    check!(is_later, "sender order", "room {room}, offset {}: {author}'s {number} after {before:?}", place + 1);
                }
                Entry::Own(peer) => {
                    *own.entry(peer).or_default() += 1;
                    unseen += 1;
                }
                Entry::Unknown => unseen += 1,
            }
        }
        let (mut sure, mut possible) = (0, 0);
        for (id, peer) in self.peers.iter().enumerate() {
            let candidates = |is_sure: bool| {
                let commands = peer.commands.iter().enumerate();
                let count = commands.filter(|(index, command)| match command.meaning {
                    Meaning::Publish { room: other, number } if other == room => {
                        let publication = &peer.publications[number as usize];
                        let is_open = publication.offset.is_none() && !publication.refused;
                        is_open && (!is_sure || (peer.kind == Kind::V1 && peer.seq_of(*index) <= peer.acked))
                    }
                    Meaning::Publish { .. }
                    | Meaning::Join { .. }
                    | Meaning::Leave { .. }
                    | Meaning::SetState { .. }
                    | Meaning::Other => false,
                });
                count.count()
            };
            let (certain, all) = (candidates(true), candidates(false));
            sure += certain;
            possible += all;
            let claimed = own.get(&id).copied().unwrap_or(0);
            check!(claimed <= all, "lost", "peer {id} was not shown {claimed} publications of room {room}; {all} were its own");
        }
        for (id, client) in self.clients.iter().enumerate() {
            let (mut certain, mut all) = (0, 0);
            for asked in &client.asked {
                let Wish::Publish { number } = asked.wish else { continue };
                let publication = &client.publications[number as usize];
                if publication.room == room && publication.offset.is_none() && asked.fate != Fate::Refused {
                    all += 1;
                    certain += usize::from(asked.fate == Fate::Acked);
                }
            }
            sure += certain;
            possible += all;
            let claimed = own.get(&(FIRST_CLIENT + id)).copied().unwrap_or(0);
            check!(claimed <= all, "lost", "client {id} was not shown {claimed} publications of room {room}; {all} were its own");
        }
        check!(
            (sure..=possible).contains(&unseen),
            "exactly once",
            "room {room}: {unseen} offsets were shown to nobody; {sure} acknowledged publications should have one, {possible} may"
        );
    }

    /// A newcomer in every room, who is told the heads. `None` where it could not come in.
    fn audit(&mut self) -> Vec<Option<u64>> {
        let rooms = self.rooms.len();
        let Some(id) = self.connect(Kind::V1, 0) else { return vec![None; rooms] };
        for room in 0..rooms {
            self.join(id, room, true, None);
        }
        self.pass(1_500);
        (0..rooms).map(|room| self.peers[id].members[room].as_ref().map(|member| member.position)).collect()
    }

    /// Ends everybody, lets every grace pass, and sees that nothing is left.
    pub(crate) fn end_all(&mut self) {
        self.close_clients();
        for id in self.active.clone() {
            let end = match self.rng.below(4) {
                0 => End::HalfClose,
                1 => End::Close(None),
                2 => End::Vanish,
                _ => End::Reset,
            };
            self.end(id, end);
        }
        self.pass(SETTLE_MS);
        self.pass(ROOM_IDLE_MS + 5_000);
        check!(self.active.is_empty(), "sockets", "connections are left: {:?}", self.active);
        check!(self.lanes.iter().flatten().all(|lane| lane.queue.is_empty()), "lanes", "a lane holds something");
        for (index, driver) in self.drivers.iter().enumerate() {
            if let Err(what) = driver.shard.verify_empty() {
                fail!("nothing left", "shard {index}: {what}");
            }
        }
        self.verify();
    }
}
