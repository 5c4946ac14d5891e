//! The well-behaved clients among the hostile: small rooms in which everybody publishes numbers, and what must come of that.
//!
//! Each witness is in one room. Whatever else goes on there, every witness gets every number of every other once and in order, every
//! command of its own is acknowledged, and nobody closes it.

use crate::capacity::clock::Nanos;
use crate::capacity::message::{Kind, Rooms, kind_of, number_after, read_data, write_data};
use crate::capacity::outbox::Outbox;
use crate::capacity::report::Report;
use crate::capacity::scenario::{Handler, Members, Speech};
use crate::capacity::statistics::Latencies;
use crate::capacity::worker::Event;
use crate::protocol::Dialect;
use serde_json::Value;

/// Witnesses of a room.
pub(super) const ROOM_SIZE: u32 = 4;
/// Bytes of a number's data.
const DATA_BYTES: usize = 100;
/// Publications of a witness whose moment is remembered, to tell the latency of their deliveries.
const REMEMBERED: u64 = 64;
/// The question for a room's members.
const ROLL: &[u8] = b"\"id\":\"roll\"";

/// All witnesses.
pub(super) struct Witnesses {
    pub(super) members: Members,
    pub(super) rooms: Vec<String>,
    publishers: Vec<Publisher>,
    /// The next number that each witness expects of each in its room.
    expected: Vec<u64>,
    sent_at: Vec<Nanos>,
    delivered: u64,
    /// Deliveries out of order, doubled, or from another room.
    wrong: u64,
    first_wrong: Option<String>,
    to_deliver: Latencies,
    /// The next to publish.
    turn: u32,
    /// Connections that each room was last said to hold.
    roll: Vec<Option<usize>>,
    data: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Publisher {
    published: u64,
    /// The last number that was used for a command; the join is the first.
    seq: u64,
    acked: u64,
}

impl Witnesses {
    /// In `rooms` rooms of [`ROOM_SIZE`].
    pub(super) fn new(rooms: u32) -> Witnesses {
        let members = Members::new(Speech::Throng(Dialect::V1), true);
        let names = Rooms::new();
        let count = (rooms * ROOM_SIZE) as usize;
        Witnesses {
            members,
            rooms: (0..rooms).map(|room| names.name(room)).collect(),
            publishers: vec![Publisher { published: 0, seq: 1, acked: 0 }; count],
            expected: vec![0; count * ROOM_SIZE as usize],
            sent_at: vec![0; count * REMEMBERED as usize],
            delivered: 0,
            wrong: 0,
            first_wrong: None,
            to_deliver: Latencies::new(),
            turn: 0,
            roll: vec![None; rooms as usize],
            data: Vec::new(),
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.publishers.len() as u32
    }

    /// Opens rooms by joining and leaving them, so that what a room leaves behind is there before anything is measured.
    pub(super) fn open_rooms(&mut self, outbox: &mut Outbox, rooms: &[String]) {
        for room in rooms {
            for word in ["join_room", "leave_room"] {
                self.publishers[0].seq += 1;
                let seq = self.publishers[0].seq;
                outbox.send_text(0, format!(r#"{{"type":"{word}","roomId":"{room}","seq":{seq}}}"#).as_bytes());
            }
        }
    }

    /// The next in turn publishes its next number.
    pub(super) fn publish(&mut self, outbox: &mut Outbox) {
        let connection = self.turn;
        self.turn = (self.turn + 1) % self.count();
        let publisher = &mut self.publishers[connection as usize];
        publisher.seq += 1;
        write_data(&mut self.data, connection, publisher.published, DATA_BYTES);
        self.sent_at[remembered(connection, publisher.published)] = outbox.now();
        publisher.published += 1;
        let room = &self.rooms[(connection / ROOM_SIZE) as usize];
        outbox.send_text(connection, self.members.writer.broadcast(room, Some(publisher.seq), &self.data));
    }

    /// Whether everything was acknowledged and has come to all.
    pub(super) fn is_quiet(&self) -> bool {
        self.unacknowledged() == 0 && self.missing() == 0
    }

    /// Asks who is in each room.
    pub(super) fn call_roll(&mut self, outbox: &mut Outbox) {
        self.roll.fill(None);
        for (index, room) in self.rooms.iter().enumerate() {
            let question = format!(r#"{{"type":"presence","roomId":"{room}","id":"roll"}}"#);
            outbox.send_text(index as u32 * ROOM_SIZE, question.as_bytes());
        }
    }

    /// Whether all rooms have said who is in them.
    pub(super) fn is_roll_called(&self) -> bool {
        self.roll.iter().all(Option::is_some)
    }

    /// Adds figures and whatever did not hold.
    pub(super) fn report(&self, report: &mut Report) {
        let published: u64 = self.publishers.iter().map(|publisher| publisher.published).sum();
        report.figure("witnesses", self.count(), "");
        report.figure("witness_publications", published, "");
        report.figure("witness_deliveries", self.delivered, "");
        report.latencies("witness_delivery", &self.to_deliver);
        if self.members.tally.ended() > 0 || self.members.tally.errors() > 0 {
            report.failure(format!("witnesses were closed or told of errors: {}", self.members.tally.summary()));
        }
        if published == 0 || self.delivered == 0 {
            report.failure("no witness got anything, so nothing was shown");
        }
        if self.wrong > 0 {
            let first = self.first_wrong.as_deref().unwrap_or("");
            report.failure(format!("{} deliveries to witnesses were out of order, doubled or nobody's: {first}", self.wrong));
        }
        if self.missing() > 0 {
            report.failure(format!("{} deliveries to witnesses were lost", self.missing()));
        }
        if self.unacknowledged() > 0 {
            report.failure(format!("{} commands of witnesses were not acknowledged", self.unacknowledged()));
        }
        for (room, members) in self.rooms.iter().zip(&self.roll) {
            if *members != Some(ROOM_SIZE as usize) {
                let shown = members.map_or("nothing".to_owned(), |count| format!("{count} connections"));
                report.failure(format!("the presence of {room} shows {shown} instead of the {ROOM_SIZE} witnesses"));
            }
        }
    }

    fn unacknowledged(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.seq - publisher.acked.min(publisher.seq)).sum()
    }

    /// Numbers that were published and that somebody has not got.
    fn missing(&self) -> u64 {
        let pairs = (0..self.count()).flat_map(|connection| (0..ROOM_SIZE).map(move |place| (connection, place)));
        let missing = pairs.filter_map(|(connection, place)| {
            let publisher = connection / ROOM_SIZE * ROOM_SIZE + place;
            let published = self.publishers[publisher as usize].published;
            (publisher != connection).then(|| published - self.expected[(connection * ROOM_SIZE + place) as usize].min(published))
        });
        missing.sum()
    }

    fn handle_delivery(&mut self, now: Nanos, connection: u32, number: u64, publisher: u32) {
        self.delivered += 1;
        let is_of_the_room = publisher / ROOM_SIZE == connection / ROOM_SIZE && publisher != connection;
        let expected = &mut self.expected[(connection * ROOM_SIZE + publisher % ROOM_SIZE) as usize];
        if !is_of_the_room || *expected != number {
            self.wrong += 1;
            let what = || format!("witness {connection} got {number} of {publisher} and expected {expected}");
            self.first_wrong.get_or_insert_with(what);
            return;
        }
        *expected += 1;
        self.to_deliver.record(now.saturating_sub(self.sent_at[remembered(publisher, number)]));
    }

    fn handle_roll(&mut self, connection: u32, message: &[u8]) {
        let Ok(state) = serde_json::from_slice::<Value>(message) else { return };
        let members = state["members"].as_array().map_or(&[][..], Vec::as_slice);
        let connections = members.iter().map(|member| member["connections"].as_array().map_or(0, Vec::len)).sum();
        self.roll[(connection / ROOM_SIZE) as usize] = Some(connections);
    }
}

/// Where the moment of a publication is remembered.
fn remembered(publisher: u32, number: u64) -> usize {
    (u64::from(publisher) * REMEMBERED + number % REMEMBERED) as usize
}

impl Handler for Witnesses {
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: Event<'_>) {
        if let Event::Text(message) = event {
            match kind_of(message) {
                // What carries no number is from one of the hostile.
                Kind::Broadcast => {
                    if let Some((number, publisher)) = read_data(message) {
                        self.handle_delivery(outbox.now(), connection, number, publisher);
                    }
                    return;
                }
                Kind::Ack => {
                    let publisher = &mut self.publishers[connection as usize];
                    publisher.acked = number_after(message, b"\"seq\":").unwrap_or(0).max(publisher.acked);
                    return;
                }
                Kind::Other if message.windows(ROLL.len()).any(|window| window == ROLL) => {
                    return self.handle_roll(connection, message);
                }
                Kind::Welcome | Kind::RoomJoined | Kind::Error | Kind::Pong | Kind::Gap | Kind::Other => {}
            }
        }
        self.members.handle(outbox, connection, &event, std::iter::once(connection / ROOM_SIZE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(witnesses: &mut Witnesses, to: u32, number: u64, publisher: u32) {
        let mut data = Vec::new();
        write_data(&mut data, publisher, number, 0);
        let message = [b"{\"type\":\"broadcast\",\"roomId\":\"r\",\"data\":", data.as_slice(), b"}"].concat();
        witnesses.handle(&mut Outbox::new(8, 1), to, Event::Text(&message));
    }

    fn failures(witnesses: &Witnesses) -> String {
        let mut report = Report::new("hostile");
        witnesses.report(&mut report);
        report.failures().join("\n")
    }

    /// Two rooms in which witness 0 has published two numbers, and everything has come.
    fn served() -> Witnesses {
        let mut witnesses = Witnesses::new(2);
        let mut outbox = Outbox::new(8, 1);
        (0..16).for_each(|_| witnesses.publish(&mut outbox));
        for publisher in 0..8 {
            for to in (0..8).filter(|to| to / ROOM_SIZE == publisher / ROOM_SIZE && *to != publisher) {
                (0..2).for_each(|number| deliver(&mut witnesses, to, number, publisher));
            }
            witnesses.handle(&mut outbox, publisher, Event::Text(b"{\"type\":\"ack\",\"seq\":3}"));
        }
        let roll = br#"{"type":"presence_state","id":"roll","members":[{"user":"a","connections":[{},{}]},{"user":"b","connections":[{},{}]}]}"#;
        [0, 4].into_iter().for_each(|witness| witnesses.handle(&mut outbox, witness, Event::Text(roll)));
        witnesses
    }

    #[test]
    fn those_who_got_everything_complain_of_nothing() {
        let witnesses = served();
        assert!(witnesses.is_quiet() && witnesses.is_roll_called());
        assert_eq!(failures(&witnesses), "");
    }

    #[test]
    fn a_number_that_comes_twice_or_early_or_from_another_room_is_noticed() {
        for (number, publisher) in [(1, 0), (3, 0), (2, 5), (2, 1)] {
            let mut witnesses = served();
            deliver(&mut witnesses, 1, number, publisher);
            assert!(failures(&witnesses).contains("out of order"), "{number} of {publisher}");
        }
    }

    #[test]
    fn what_is_lost_or_not_acknowledged_is_noticed() {
        let mut witnesses = served();
        witnesses.turn = 0;
        witnesses.publish(&mut Outbox::new(8, 1));
        assert!(!witnesses.is_quiet());
        let failures = failures(&witnesses);
        assert!(failures.contains("3 deliveries to witnesses were lost") && failures.contains("1 commands"), "{failures}");
    }

    #[test]
    fn a_stranger_in_presence_and_an_end_are_noticed() {
        let mut witnesses = served();
        witnesses.roll[1] = Some(5);
        assert!(failures(&witnesses).contains("shows 5 connections"));
        let mut witnesses = served();
        witnesses.handle(&mut Outbox::new(8, 1), 2, Event::Closed(crate::capacity::worker::End::Code(4102)));
        assert!(failures(&witnesses).contains("4102"));
    }

    #[test]
    fn what_the_hostile_publish_is_nothing_to_the_witnesses() {
        let mut witnesses = served();
        let foreign = br#"{"type":"broadcast","roomId":"r","data":"hhh","offset":7}"#;
        witnesses.handle(&mut Outbox::new(8, 1), 2, Event::Text(foreign));
        assert_eq!(failures(&witnesses), "");
    }
}
