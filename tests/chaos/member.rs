//! A member of the run: a Rust client that publishes numbered messages into its rooms, tries what is refused, and keeps a record of
//! all that it is told.

use crate::chaos::judge::{Begin, Fate, Heard, Record, Sent};
use crate::chaos::rng::Rng;
use serde::Deserialize;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use throng::client::{Client, Event, Events, JoinOptions, Options, PublishError, PublishOptions, Recovery, Room, State};
use tokio::sync::watch;

/// Between two publications of a member: from and up to, in ms.
const PUBLISH_MS: (u64, u64) = (200, 1_800);
/// Publications that follow each other at once, now and then.
const BURST: usize = 8;
/// How often what is awaited is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What a publication carries.
#[derive(Deserialize)]
struct Data {
    from: usize,
    number: usize,
}

/// See the module.
pub(crate) struct Member {
    index: usize,
    pub(crate) client: Client,
    /// Its rooms, by their number. None is left before the end.
    rooms: Vec<(usize, Arc<Room>)>,
    record: Arc<Mutex<Record>>,
}

/// The name of a room by its number. The last of all names, so that a client that joins its rooms anew comes to it last.
pub(crate) fn room_name(room: usize) -> String {
    format!("r{room:04}")
}

fn room_number(name: &str) -> usize {
    name[1..].parse().expect("rooms are named by numbers")
}

impl Member {
    /// A client of `server` that joins these rooms.
    pub(crate) fn start(index: usize, server: SocketAddr, rooms: &[usize]) -> Member {
        let options = Options { user: Some(format!("u{index}")), ..Options::default() };
        let (client, events) = Client::connect(&format!("ws://{server}/ws"), options).expect("the URL is one");
        // Who is there is asked for in one room: it has to come right again, too.
        let join = |(place, room): (usize, &usize)| {
            let options = JoinOptions { presence: place == 0, ..JoinOptions::default() };
            (*room, Arc::new(client.join(&room_name(*room), options).expect("it is not joined")))
        };
        let rooms: Vec<_> = rooms.iter().enumerate().map(join).collect();
        let record = Record { heard: rooms.iter().map(|(room, _)| (*room, Vec::new())).collect(), ..Record::default() };
        let record = Arc::new(Mutex::new(record));
        tokio::spawn(listen(events, Arc::clone(&record)));
        Member { index, client, rooms, record }
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    /// Waits until it is a member of all of its rooms.
    pub(crate) async fn joined(&self) {
        until(|| self.record().heard.values().all(|heard| !heard.is_empty())).await;
    }

    /// Publishes now and then until it is told to stop. `forbidden` is a room that the server won't let it join.
    pub(crate) async fn publish(&self, mut rng: Rng, forbidden: usize, mut stop: watch::Receiver<bool>) {
        let mut visiting: Option<Arc<Room>> = None;
        loop {
            let wait = Duration::from_millis(PUBLISH_MS.0 + rng.below(PUBLISH_MS.1 - PUBLISH_MS.0));
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(wait) => {}
            }
            // Kept until the next visit, so that the refusal comes while the client still wants the room.
            if rng.chance(16) {
                drop(visiting.take());
                if let Ok(room) = self.client.join(&room_name(forbidden), JoinOptions::default()) {
                    let room = Arc::new(room);
                    self.send(&mut rng, forbidden, &room, false).await;
                    visiting = Some(room);
                }
            } else {
                for _ in 0..if rng.chance(12) { BURST } else { 1 } {
                    let (number, room) = &self.rooms[rng.index(self.rooms.len())];
                    let echo = rng.chance(4);
                    self.send(&mut rng, *number, room, echo).await;
                }
            }
        }
    }

    /// Publishes the next number. It is with the client when this returns; what becomes of it is awaited beside.
    async fn send(&self, rng: &mut Rng, number: usize, room: &Arc<Room>, echo: bool) {
        let (index, data) = self.next(rng, number, echo);
        let (room, record) = (Arc::clone(room), Arc::clone(&self.record));
        let mut publishing: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let fate = fate(room.publish_with(&data, PublishOptions { key: None, echo }).await);
            lock(&record).sent[index].fate = fate;
        });
        // Asked once here: so the client takes publications in the order of their numbers.
        let is_pending = std::future::poll_fn(|context| Poll::Ready(publishing.as_mut().poll(context).is_pending())).await;
        if is_pending {
            tokio::spawn(publishing);
        }
    }

    /// Notes a further publication; returns its number and what it carries.
    fn next(&self, rng: &mut Rng, room: usize, echo: bool) -> (usize, String) {
        let mut record = self.record();
        let number = record.sent.len();
        record.sent.push(Sent { room, echo, fate: Fate::Open });
        let length = if rng.chance(50) { 3_000 } else { rng.index(100) };
        (number, format!("{{\"from\":{},\"number\":{number},\"pad\":\"{}\"}}", self.index, "x".repeat(length)))
    }

    /// Waits until it is known what became of all publications, then publishes a last one into each room until it is acknowledged.
    pub(crate) async fn settle(&self, mut rng: Rng) {
        until(|| self.record().sent.iter().all(|sent| sent.fate != Fate::Open)).await;
        for (room, handle) in &self.rooms {
            loop {
                let (number, data) = self.next(&mut rng, *room, false);
                let fate = fate(handle.publish(&data).await);
                self.record().sent[number].fate = fate;
                if fate == Fate::Acked {
                    break;
                }
            }
        }
        until(|| matches!(self.client.state(), State::Connected { .. })).await;
    }

    /// The last number that was published into each room.
    pub(crate) fn last_numbers(&self) -> Vec<(usize, usize)> {
        let record = self.record();
        let last = |room| record.sent.iter().rposition(|sent| sent.room == room);
        self.rooms.iter().filter_map(|(room, _)| Some((*room, last(*room)?))).collect()
    }

    /// Waits until it has heard these publications: of this author, with that number, in that room.
    pub(crate) async fn hear(&self, room: usize, author: usize, number: usize) {
        if author == self.index || self.rooms.iter().all(|(own, _)| *own != room) {
            return;
        }
        let is_it =
            |heard: &Heard| matches!(heard, Heard::Message { from, number: other, .. } if (*from, *other) == (author, number));
        until(|| self.record().heard[&room].iter().rev().any(is_it)).await;
    }

    /// Waits until the presence list of its first room has so many users.
    pub(crate) async fn see(&self, users: usize) {
        let listed = || self.rooms[0].1.presence().map_or(0, |presence| presence.users().count());
        until(|| listed() == users).await;
    }

    /// The number of its first room.
    pub(crate) fn first_room(&self) -> usize {
        self.rooms[0].0
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until something holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(LOOK).await;
    }
}

fn fate(answer: Result<throng::client::Ack, PublishError>) -> Fate {
    match answer {
        Ok(_) => Fate::Acked,
        Err(PublishError::Refused(_) | PublishError::Server(_)) => Fate::Refused,
        Err(PublishError::Unknown) => Fate::Unknown,
        Err(PublishError::EventsUnread) => Fate::Open,
    }
}

/// Keeps a record of what a client is told, to its end.
async fn listen(mut events: Events, record: Arc<Mutex<Record>>) {
    while let Some(event) = events.next().await {
        let (room, heard) = match event {
            Event::Message(message) => {
                let data: Data = serde_json::from_str(&message.data).expect("what was published is relayed as it was");
                let Some(offset) = message.offset else { panic!("nothing volatile was published: {message:?}") };
                let heard = Heard::Message { from: data.from, number: data.number, offset, session: message.connection.into() };
                (message.room, heard)
            }
            Event::Joined { room, epoch, offset, recovery } => {
                let begin = match recovery {
                    Recovery::NotNeeded => Begin::First,
                    Recovery::Complete => Begin::Complete,
                    Recovery::Gap(_) => Begin::Gap,
                };
                (room, Heard::Joined { epoch: (*epoch).into(), offset, begin })
            }
            Event::Gap { room, range, position, .. } => {
                (room, Heard::Gap { range, at: Some(((*position.epoch).into(), position.offset)) })
            }
            Event::Left { room, reason } => panic!("put out of {room}: {reason}"),
            Event::State(State::Closed(cause)) => return assert_eq!(cause, throng::client::Cause::Asked, "it gave up"),
            Event::JoinRefused { .. }
            | Event::State(_)
            | Event::Presence { .. }
            | Event::Acked(_)
            | Event::Refused { .. }
            | Event::Unknown(_)
            | Event::Error { .. } => continue,
        };
        // What is refused is not in the record, and must not be heard of.
        lock(&record).heard.entry(room_number(&room)).or_default().push(heard);
    }
}
