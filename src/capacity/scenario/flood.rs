//! Groups that publish to each other as fast as their windows allow, over rooms whose homes are wherever the server's hash puts them.
//!
//! Group g is in the rooms g and g + 1 and publishes to room g + 1. So each room has publishers of one group and readers of two, and
//! with a few groups every pair of shards exchanges publications both ways. A place in the window is free again when the publication
//! is acknowledged and has come to all: otherwise members that read as fast as they can would be slow consumers.
//!
//! Checked: each publication that was acknowledged came to each other member of its room, once and in its publisher's order; none
//! waits for long; it ends; memory comes back.

use super::{Handler, Members, OPEN_DEADLINE, Snapshot, Speech, run_until, run_while, target};
use crate::capacity::args::Flood;
use crate::capacity::clock::{MILLISECOND, Nanos, SECOND};
use crate::capacity::crew::{self, Load};
use crate::capacity::message::{Kind, kind_of, number_after, read_data, write_data};
use crate::capacity::observe::Process;
use crate::capacity::outbox::Outbox;
use crate::capacity::report::{Report, rounded};
use crate::capacity::statistics::Latencies;
use crate::capacity::worker::{Event, Worker};
use crate::protocol::Dialect;

/// No acknowledgement at all for so long, while some are due, is a deadlock.
const STUCK_AFTER: Nanos = 15 * SECOND;
/// The longest that a publication may wait for its acknowledgement. With everybody's window full it waits for some thousand others,
/// which is a second or two; one that waits longer was forgotten.
const FORGOTTEN_AFTER: Nanos = 10 * SECOND;
/// How long memory may take to come back.
const CALM: Nanos = 5 * SECOND;
/// How long the load may be unmeasured at the beginning: buffers reach their size in it.
const WARM_UP: Nanos = 2 * SECOND;

struct State {
    members: Members,
    groups: u32,
    group_size: u32,
    window: u64,
    bytes: usize,
    rooms: Vec<String>,
    publishers: Vec<Publisher>,
    /// The next number that each connection expects of each publisher in its two rooms: own group's first, then those before.
    expected: Vec<u64>,
    is_publishing: bool,
    delivered: u64,
    acked: u64,
    /// Deliveries out of order, doubled, or from a stranger.
    wrong: u64,
    last_ack: Nanos,
    /// The publications that are under way: `window` places for each connection.
    flights: Vec<Flight>,
    to_ack: Latencies,
    data: Vec<u8>,
}

/// A publication that is under way.
#[derive(Clone, Copy, Default)]
struct Flight {
    sent_at: Nanos,
    /// Deliveries and the acknowledgement that haven't come yet.
    awaited: u32,
}

/// Seqs 1 and 2 are the joins; publication n has seq n + 3.
#[derive(Clone, Copy, Default)]
struct Publisher {
    published: u64,
    acked: u64,
}

impl State {
    fn new(args: &Flood, speech: Speech) -> State {
        let members = Members::new(speech, false);
        let connections = (args.groups * args.group_size) as usize;
        State {
            groups: args.groups,
            group_size: args.group_size,
            window: u64::from(args.window),
            bytes: args.bytes as usize,
            rooms: (0..args.groups).map(|group| members.rooms.name(group)).collect(),
            publishers: vec![Publisher::default(); connections],
            expected: vec![0; connections * 2 * args.group_size as usize],
            is_publishing: false,
            delivered: 0,
            acked: 0,
            wrong: 0,
            last_ack: 0,
            flights: vec![Flight::default(); connections * args.window as usize],
            to_ack: Latencies::new(),
            data: Vec::new(),
            members,
        }
    }

    fn group_of(&self, connection: u32) -> u32 {
        connection / self.group_size
    }

    fn fill_window(&mut self, outbox: &mut Outbox, connection: u32) {
        let room = (self.group_of(connection) + 1) % self.groups;
        while self.is_publishing {
            let publisher = &mut self.publishers[connection as usize];
            let flight = &mut self.flights[place(self.window, connection, publisher.published)];
            if flight.awaited > 0 {
                return;
            }
            *flight = Flight { sent_at: outbox.now(), awaited: 2 * self.group_size };
            write_data(&mut self.data, connection, publisher.published, self.bytes);
            let seq = publisher.published + 3;
            publisher.published += 1;
            outbox.send_text(connection, self.members.writer.broadcast(&self.rooms[room as usize], Some(seq), &self.data));
        }
    }

    fn handle_ack(&mut self, outbox: &mut Outbox, connection: u32, seq: u64) {
        let publisher = &mut self.publishers[connection as usize];
        let acked = seq.saturating_sub(2);
        if acked > publisher.published {
            self.wrong += 1;
            return;
        }
        for number in publisher.acked..acked {
            let flight = &mut self.flights[place(self.window, connection, number)];
            flight.awaited = flight.awaited.saturating_sub(1);
            self.to_ack.record(outbox.now().saturating_sub(flight.sent_at));
        }
        self.acked += acked.saturating_sub(publisher.acked);
        publisher.acked = publisher.acked.max(acked);
        self.last_ack = outbox.now();
        self.fill_window(outbox, connection);
    }

    /// Where the expectation of a publisher stands; `None` if they share no room that it publishes to.
    fn expectation(&self, connection: u32, publisher: u32) -> Option<usize> {
        let (own, of) = (self.group_of(connection), self.group_of(publisher));
        let place = publisher % self.group_size;
        let place = if of == own && publisher != connection {
            place
        } else if (of + 1) % self.groups == own && of < self.groups && of != own {
            self.group_size + place
        } else {
            return None;
        };
        Some((connection * 2 * self.group_size + place) as usize)
    }

    fn handle_delivery(&mut self, outbox: &mut Outbox, connection: u32, number: u64, publisher: u32) {
        self.delivered += 1;
        match self.expectation(connection, publisher) {
            Some(index) if self.expected[index] == number => {
                self.expected[index] += 1;
                let flight = &mut self.flights[place(self.window, publisher, number)];
                flight.awaited = flight.awaited.saturating_sub(1);
                self.fill_window(outbox, publisher);
            }
            Some(_) | None => self.wrong += 1,
        }
    }

    fn published(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.published).sum()
    }

    /// Deliveries that the publications so far lead to: to two groups without the publisher.
    fn owed(&self) -> u64 {
        self.published() * u64::from(2 * self.group_size - 1)
    }

    /// Acknowledged publications that somebody has not got.
    fn lost(&self) -> u64 {
        let mut lost = 0;
        for connection in 0..self.publishers.len() as u32 {
            for (publisher, state) in self.publishers.iter().enumerate() {
                if let Some(index) = self.expectation(connection, publisher as u32) {
                    lost += state.acked.saturating_sub(self.expected[index]);
                }
            }
        }
        lost
    }
}

/// Where publication `number` of a connection stands among those under way.
fn place(window: u64, connection: u32, number: u64) -> usize {
    (u64::from(connection) * window + number % window) as usize
}

impl Handler for State {
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: Event<'_>) {
        if let Event::Text(message) = event {
            match kind_of(message) {
                Kind::Broadcast => match read_data(message) {
                    Some((number, publisher)) => return self.handle_delivery(outbox, connection, number, publisher),
                    None => self.wrong += 1,
                },
                Kind::Ack => match number_after(message, b"\"seq\":") {
                    Some(seq) => return self.handle_ack(outbox, connection, seq),
                    None => self.wrong += 1,
                },
                Kind::Welcome | Kind::RoomJoined | Kind::Error | Kind::Pong | Kind::Gap | Kind::Other => {}
            }
        }
        let group = self.group_of(connection);
        self.members.handle(outbox, connection, &event, [group, (group + 1) % self.groups].into_iter());
    }
}

struct Measured {
    state: State,
    before: Snapshot,
    after: Snapshot,
    calm: Snapshot,
    resident: Option<[u64; 3]>,
    is_stuck: bool,
    drained_ns: Nanos,
}

/// Runs the scenario.
///
/// # Errors
/// The load could not be brought about.
pub(in crate::capacity) fn run(args: &Flood) -> Result<Report, String> {
    let speech = Speech::Throng(Dialect::V1);
    let mut load = Load::new(target(&args.common, "/ws", speech.protocol()), args.groups * args.group_size);
    load.users = Some(load.connections);
    load.is_single = true;
    let parts = crew::run(&args.common, &load, |worker, _| part(args, speech, worker))?;
    let measured = parts.into_iter().next().ok_or("nothing was measured")?;
    let Measured { state, before, after, calm, resident, .. } = &measured;
    let seconds = (after.at - before.at) as f64 / SECOND as f64;
    let mut report = Report::new("flood");
    report.figure("connections", load.connections, "");
    report.figure("rooms", args.groups, "");
    report.figure("seconds", rounded(seconds), "s");
    report.figure("published", state.published(), "");
    report.figure("acknowledged", state.acked, "");
    report.figure("delivered", state.delivered, "");
    report.figure("deliveries_per_second", (state.delivered as f64 / seconds).round(), "/s");
    report.figure("drained_within_s", rounded(measured.drained_ns as f64 / SECOND as f64), "s");
    report.latencies("acknowledged", &state.to_ack);
    report.optional("mesh_messages", after.counted(before, "throng_mesh_out_total"), "");
    report.optional("lane_waits", after.counted(before, "throng_lane_waits_total"), "");
    report.optional("pauses", after.counted(before, "throng_pauses_total"), "");
    let queued = calm.metrics.as_ref().and_then(|metrics| metrics.sum("throng_send_queue_bytes"));
    report.optional("send_queue_bytes_after", queued, "bytes");
    if let Some([warm, loaded, calm]) = *resident {
        report.figure("resident_warm_bytes", warm, "bytes");
        report.figure("resident_loaded_bytes", loaded, "bytes");
        report.figure("resident_after_bytes", calm, "bytes");
        if calm.saturating_sub(warm) > args.growth_max << 20 {
            report.failure(format!("memory did not come back: {} bytes more than after the warm-up", calm - warm));
        }
    }
    state.members.tally.report(&mut report);
    state.members.tally.expect_calm(&mut report);
    if measured.is_stuck {
        report.failure(format!(
            "nothing was acknowledged for {} s: {} of {}",
            STUCK_AFTER / SECOND,
            state.acked,
            state.published()
        ));
    }
    if state.acked != state.published() {
        report.failure(format!("{} publications were not acknowledged", state.published() - state.acked));
    }
    if state.to_ack.max_ms() > FORGOTTEN_AFTER as f64 / MILLISECOND as f64 {
        report.failure(format!("a publication waited {} ms for its acknowledgement", state.to_ack.max_ms().round()));
    }
    if state.lost() > 0 {
        report.failure(format!("{} deliveries of acknowledged publications were lost", state.lost()));
    }
    if state.wrong > 0 {
        report.failure(format!("{} deliveries or acknowledgements were out of order, doubled or nobody's", state.wrong));
    }
    if queued.is_some_and(|bytes| bytes > 0.0) {
        report.failure("bytes are queued after everything was delivered");
    }
    Ok(report)
}

fn part(args: &Flood, speech: Speech, worker: &mut Worker) -> Result<Measured, String> {
    let mut state = State::new(args, speech);
    let connections = args.groups * args.group_size;
    (0..connections).for_each(|connection| worker.outbox().connect(connection));
    let deadline = worker.now() + OPEN_DEADLINE;
    if !run_while(worker, &mut state, deadline, |state, _| !state.members.are_complete(connections, 2))? {
        return Err(state.members.incomplete(connections));
    }
    let process = args.common.pid.map(Process::new).transpose()?;
    let resident = || process.and_then(Process::memory).map(|memory| memory.resident);
    let before = Snapshot::begin(&args.common, worker.now())?;
    state.is_publishing = true;
    state.last_ack = worker.now();
    let begin = worker.now();
    (0..connections).for_each(|connection| state.fill_window(worker.outbox(), connection));
    let is_moving = |state: &State, worker: &Worker| worker.now() < state.last_ack + STUCK_AFTER;
    run_while(worker, &mut state, begin + WARM_UP.min(args.duration), is_moving)?;
    let warm = resident();
    run_while(worker, &mut state, begin + args.duration, is_moving)?;
    let mut is_stuck = !is_moving(&state, worker);
    let after = Snapshot::take(&args.common, worker.now())?;
    let loaded = resident();
    state.is_publishing = false;
    let ended = worker.now();
    let (published, owed) = (state.published(), state.owed());
    let is_due = |state: &State| state.acked < published || state.delivered < owed;
    if !is_stuck {
        state.last_ack = ended;
        run_while(worker, &mut state, ended + 2 * STUCK_AFTER, |state, _| is_due(state))?;
        is_stuck = state.acked < published;
    }
    let drained_ns = worker.now() - ended;
    let calm_at = worker.now() + CALM;
    run_until(worker, &mut state, calm_at)?;
    let calm = Snapshot::take(&args.common, worker.now())?;
    let resident = warm.zip(loaded).zip(resident()).map(|((warm, loaded), calm)| [warm, loaded, calm]);
    Ok(Measured { state, before: Snapshot { at: begin, ..before }, after, calm, resident, is_stuck, drained_ns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flood: Flood,
    }

    fn state(line: &[&str]) -> State {
        State::new(&Cli::parse_from([&["flood"], line].concat()).flood, Speech::Throng(Dialect::V1))
    }

    #[test]
    fn each_expects_of_its_own_group_and_of_the_one_before() {
        for (groups, size) in [(2, 1), (2, 3), (3, 2), (8, 8)] {
            let state = state(&["--groups", &groups.to_string(), "--group-size", &size.to_string()]);
            let connections = groups * size;
            let mut seen = vec![0; state.expected.len()];
            for connection in 0..connections {
                let from: Vec<usize> = (0..connections).filter_map(|publisher| state.expectation(connection, publisher)).collect();
                assert_eq!(from.len() as u32, 2 * size - 1, "{groups} {size}");
                from.into_iter().for_each(|index| seen[index] += 1);
            }
            assert!(seen.iter().all(|count| *count <= 1));
        }
    }

    #[test]
    fn loss_disorder_and_doubles_are_found() {
        let mut state = state(&["--groups", "2", "--group-size", "1", "--window", "2"]);
        let mut outbox = Outbox::new(2, 1);
        state.is_publishing = true;
        state.fill_window(&mut outbox, 0);
        assert_eq!(state.published(), 2);
        state.is_publishing = false;
        state.handle_ack(&mut outbox, 0, 3);
        assert_eq!((state.acked, state.lost()), (1, 1));
        state.handle_delivery(&mut outbox, 1, 0, 0);
        assert_eq!((state.lost(), state.wrong), (0, 0));
        state.handle_delivery(&mut outbox, 1, 0, 0);
        assert_eq!(state.wrong, 1);
        state.handle_delivery(&mut outbox, 0, 0, 0);
        assert_eq!(state.wrong, 2);
        state.handle_delivery(&mut outbox, 1, 5, 77);
        assert_eq!(state.wrong, 3);
        state.handle_ack(&mut outbox, 0, 9);
        assert_eq!(state.wrong, 4);
    }
}
