//! One room: each publication is awaited at every member, and comes exactly once.
//!
//! The publisher changes with each publication, so that no connection's own limits are measured. It gets no copy of its own.

use super::{Handler, Members, OPEN_DEADLINE, Snapshot, Speech, run_until, run_while, target};
use crate::capacity::args::Fanout;
use crate::capacity::clock::{MILLISECOND, Nanos, SECOND};
use crate::capacity::crew::{self, Load};
use crate::capacity::message::{read_data, write_data};
use crate::capacity::outbox::Outbox;
use crate::capacity::report::{Report, rounded};
use crate::capacity::statistics::Latencies;
use crate::capacity::worker::{Event, Worker};
use crate::protocol::Dialect;

const WARM_UP: Nanos = SECOND;
/// A peer that tells nothing of who has joined is given this long.
const RAW_REST: Nanos = 500 * MILLISECOND;
/// How long a publication may be under way. After it the run is ended as failed.
const LOST_AFTER: Nanos = 10 * SECOND;

struct State {
    members: Members,
    connections: u32,
    bytes: usize,
    room: String,
    /// The next command of each member.
    seqs: Vec<u64>,
    flights: Vec<Flight>,
    next: u64,
    is_publishing: bool,
    is_measured: bool,
    deliveries: u64,
    /// Deliveries of what was delivered already, or was never published.
    surplus: u64,
    to_last: Latencies,
    data: Vec<u8>,
}

/// A publication that is under way.
struct Flight {
    number: u64,
    sent_at: Nanos,
    missing: u32,
    /// A bit for each member that has it.
    seen: Vec<u64>,
}

impl State {
    fn new(args: &Fanout, speech: Speech) -> State {
        let members = Members::new(speech, false);
        let words = (args.connections as usize).div_ceil(64);
        let flight = |_| Flight { number: u64::MAX, sent_at: 0, missing: 0, seen: vec![0; words] };
        State {
            connections: args.connections,
            bytes: args.bytes as usize,
            room: members.rooms.name(0),
            // 1 was the join.
            seqs: vec![2; args.connections as usize],
            flights: (0..args.in_flight).map(flight).collect(),
            next: 0,
            is_publishing: false,
            is_measured: false,
            deliveries: 0,
            surplus: 0,
            to_last: Latencies::new(),
            data: Vec::new(),
            members,
        }
    }

    fn publish(&mut self, outbox: &mut Outbox, place: usize) {
        let number = self.next;
        self.next += 1;
        let publisher = (number % u64::from(self.connections)) as u32;
        let flight = &mut self.flights[place];
        flight.number = number;
        flight.sent_at = outbox.now();
        flight.missing = self.connections - 1;
        flight.seen.fill(0);
        flight.seen[publisher as usize / 64] |= 1 << (publisher % 64);
        write_data(&mut self.data, place as u32, number, self.bytes);
        let seq = &mut self.seqs[publisher as usize];
        match self.members.speech {
            Speech::Raw => outbox.send_text(publisher, &self.data),
            Speech::Throng(dialect) => {
                let seq_sent = (dialect == Dialect::V1).then_some(*seq);
                *seq += 1;
                outbox.send_text(publisher, self.members.writer.broadcast(&self.room, seq_sent, &self.data));
            }
        }
    }

    fn handle_delivery(&mut self, outbox: &mut Outbox, connection: u32, number: u64, place: u32) {
        let Some(flight) = self.flights.get_mut(place as usize).filter(|flight| flight.number == number) else {
            self.surplus += 1;
            return;
        };
        let (word, bit) = (&mut flight.seen[connection as usize / 64], 1 << (connection % 64));
        if *word & bit != 0 {
            self.surplus += 1;
            return;
        }
        *word |= bit;
        flight.missing -= 1;
        self.deliveries += u64::from(self.is_measured);
        if flight.missing == 0 {
            if self.is_measured {
                self.to_last.record(outbox.now().saturating_sub(flight.sent_at));
            }
            if self.is_publishing {
                self.publish(outbox, place as usize);
            }
        }
    }

    fn is_under_way(&self) -> bool {
        self.flights.iter().any(|flight| flight.missing > 0)
    }

    fn oldest(&self) -> Option<Nanos> {
        self.flights.iter().filter(|flight| flight.missing > 0).map(|flight| flight.sent_at).min()
    }
}

impl Handler for State {
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: Event<'_>) {
        if let Event::Text(message) = event
            && let Some((number, place)) = read_data(message)
        {
            return self.handle_delivery(outbox, connection, number, place);
        }
        self.members.handle(outbox, connection, &event, std::iter::once(0));
    }
}

/// Runs the scenario.
///
/// # Errors
/// The load could not be brought about, or a publication did not come.
pub(in crate::capacity) fn run(args: &Fanout) -> Result<Report, String> {
    let speech = Speech::of(args.plain, args.peer_raw);
    let mut load = Load::new(target(&args.common, "/ws", speech.protocol()), args.connections);
    load.users = (!args.peer_raw).then_some(args.connections);
    load.is_single = true;
    let parts = crew::run(&args.common, &load, |worker, _| part(args, speech, worker))?;
    let (state, before, after) = parts.into_iter().next().ok_or("nothing was measured")?;
    let seconds = (after.at - before.at) as f64 / SECOND as f64;
    let mut report = Report::new("fanout");
    report.figure("members", args.connections, "");
    report.figure("in_flight", args.in_flight, "");
    report.figure("data_bytes", args.bytes, "");
    report.figure("publications", state.to_last.count(), "");
    report.figure("publications_per_second", (state.to_last.count() as f64 / seconds).round(), "/s");
    report.figure("deliveries", state.deliveries, "");
    report.figure("deliveries_per_second", (state.deliveries as f64 / seconds).round(), "/s");
    report.figure("seconds", rounded(seconds), "s");
    report.latencies("to_last_member", &state.to_last);
    after.report_costs(&before, "delivery", state.deliveries, &mut report);
    state.members.tally.report(&mut report);
    state.members.tally.expect_calm(&mut report);
    if state.surplus > 0 {
        report.failure(format!("{} deliveries came twice or were never published", state.surplus));
    }
    if state.is_under_way() {
        let missing: u32 = state.flights.iter().map(|flight| flight.missing).sum();
        report.failure(format!("{missing} deliveries did not come within {} s", LOST_AFTER / SECOND));
    }
    Ok(report)
}

fn part(args: &Fanout, speech: Speech, worker: &mut Worker) -> Result<(State, Snapshot, Snapshot), String> {
    let mut state = State::new(args, speech);
    (0..args.connections).for_each(|connection| worker.outbox().connect(connection));
    let deadline = worker.now() + OPEN_DEADLINE;
    let connections = args.connections;
    if !run_while(worker, &mut state, deadline, |state, _| !state.members.are_complete(connections, 1))? {
        return Err(state.members.incomplete(connections));
    }
    if speech == Speech::Raw {
        let rested = worker.now() + RAW_REST;
        run_until(worker, &mut state, rested)?;
    }
    state.is_publishing = true;
    (0..state.flights.len()).for_each(|place| state.publish(worker.outbox(), place));
    let warm = worker.now() + WARM_UP;
    publish_until(worker, &mut state, warm)?;
    let before = Snapshot::begin(&args.common, worker.now())?;
    worker
        .turn(0, &mut |outbox, connection, event| state.handle(outbox, connection, event))
        .map_err(|error| crew::ring_failed(&error))?;
    state.is_measured = true;
    let begin = worker.now();
    publish_until(worker, &mut state, begin + args.duration)?;
    state.is_measured = false;
    let after = Snapshot::take(&args.common, worker.now())?;
    state.is_publishing = false;
    let deadline = worker.now() + LOST_AFTER;
    run_while(worker, &mut state, deadline, |state, _| state.is_under_way())?;
    Ok((state, Snapshot { at: begin, ..before }, after))
}

/// Goes on until `until`, or ends in an error when a publication is under way for too long.
fn publish_until(worker: &mut Worker, state: &mut State, until: Nanos) -> Result<(), String> {
    run_while(worker, state, until, |state, worker| state.oldest().is_none_or(|oldest| worker.now() < oldest + LOST_AFTER))?;
    if worker.now() < until {
        let missing = state.flights.iter().map(|flight| flight.missing).max().unwrap_or(0);
        return Err(format!(
            "{missing} members did not get a publication within {} s: {}",
            LOST_AFTER / SECOND,
            state.members.tally.summary()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        fanout: Fanout,
    }

    #[test]
    fn a_publication_is_complete_when_each_member_but_its_publisher_has_it_once() {
        let args = Cli::parse_from(["fanout", "--connections", "3", "--peer-raw"]).fanout;
        let mut state = State::new(&args, Speech::Raw);
        let mut outbox = Outbox::new(3, 1);
        state.publish(&mut outbox, 0);
        let message = state.data.clone();
        state.handle(&mut outbox, 1, Event::Text(&message));
        state.handle(&mut outbox, 1, Event::Text(&message));
        assert_eq!((state.surplus, state.is_under_way()), (1, true));
        state.handle(&mut outbox, 0, Event::Text(&message));
        assert_eq!(state.surplus, 2);
        state.handle(&mut outbox, 2, Event::Text(&message));
        assert!(!state.is_under_way());
        state.handle(&mut outbox, 2, Event::Text(b"{\"n\":77,\"p\":0}"));
        assert_eq!(state.surplus, 3);
    }
}
