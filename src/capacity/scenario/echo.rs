//! A closed loop against an endpoint that sends every message back: how many a second, at what cost, how late.
//!
//! Each connection keeps `depth` messages under way. What comes back is compared, byte by byte, with what was sent, in order.

use super::{Handler, OPEN_DEADLINE, Snapshot, meet, run_until, run_while, target};
use crate::capacity::args::Echo;
use crate::capacity::clock::{Nanos, SECOND};
use crate::capacity::crew::{self, Load, Place};
use crate::capacity::outbox::Outbox;
use crate::capacity::report::{Report, rounded};
use crate::capacity::statistics::Latencies;
use crate::capacity::tally::Tally;
use crate::capacity::worker::{Event, Worker};

const WARM_UP: Nanos = SECOND;
/// How long what is under way at the end may take to come back.
const LAST_ANSWERS: Nanos = 5 * SECOND;

struct State {
    depth: u32,
    bytes: usize,
    loops: Vec<Loop>,
    /// When each message that is under way was sent: `depth` places for each connection.
    sent_at: Vec<Nanos>,
    is_sending: bool,
    is_measured: bool,
    opened: u32,
    under_way: u64,
    echoed: u64,
    /// Came back otherwise than they were sent.
    wrong: u64,
    latencies: Latencies,
    tally: Tally,
    payload: Vec<u8>,
}

/// One connection's loop: numbers of the next message to send and the next to come back.
#[derive(Clone, Copy, Default)]
struct Loop {
    next: u64,
    awaited: u64,
}

impl State {
    fn new(connections: u32, depth: u32, bytes: usize) -> State {
        State {
            depth,
            bytes,
            loops: vec![Loop::default(); connections as usize],
            sent_at: vec![0; connections as usize * depth as usize],
            is_sending: true,
            is_measured: false,
            opened: 0,
            under_way: 0,
            echoed: 0,
            wrong: 0,
            latencies: Latencies::new(),
            tally: Tally::default(),
            payload: Vec::new(),
        }
    }

    fn send(&mut self, outbox: &mut Outbox, connection: u32) {
        let number = &mut self.loops[connection as usize].next;
        write_payload(&mut self.payload, connection, *number, self.bytes);
        self.sent_at[connection as usize * self.depth as usize + (*number % u64::from(self.depth)) as usize] = outbox.now();
        *number += 1;
        self.under_way += 1;
        outbox.send_text(connection, &self.payload);
    }

    fn handle_echo(&mut self, outbox: &mut Outbox, connection: u32, message: &[u8]) {
        let Loop { next, awaited } = &mut self.loops[connection as usize];
        if awaited == next {
            self.wrong += 1;
            return;
        }
        write_payload(&mut self.payload, connection, *awaited, self.bytes);
        if message != self.payload {
            self.wrong += 1;
        }
        let sent_at = self.sent_at[connection as usize * self.depth as usize + (*awaited % u64::from(self.depth)) as usize];
        *awaited += 1;
        self.under_way -= 1;
        if self.is_measured {
            self.echoed += 1;
            self.latencies.record(outbox.now().saturating_sub(sent_at));
        }
        if self.is_sending {
            self.send(outbox, connection);
        }
    }
}

impl Handler for State {
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: Event<'_>) {
        match event {
            Event::Open => self.opened += 1,
            Event::Text(message) => return self.handle_echo(outbox, connection, message),
            Event::Binary(_) => self.wrong += 1,
            Event::Ping | Event::Refused { .. } | Event::Closed(_) => {}
        }
        self.tally.note(&event);
    }
}

/// Printable bytes that differ by connection and number.
fn write_payload(out: &mut Vec<u8>, connection: u32, number: u64, bytes: usize) {
    let mixed = (number << 20 ^ u64::from(connection)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut block = [0; 16];
    for (place, digit) in block.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(mixed >> (60 - 4 * place) & 15) as usize];
    }
    out.clear();
    while out.len() < bytes {
        out.extend_from_slice(&block[..block.len().min(bytes - out.len())]);
    }
}

/// Runs the scenario.
///
/// # Errors
/// The load could not be brought about.
pub(in crate::capacity) fn run(args: &Echo) -> Result<Report, String> {
    let under_way_max = u64::from(args.connections) * u64::from(args.depth) * u64::from(args.bytes);
    if under_way_max > 1 << 30 {
        return Err(format!("connections × depth × bytes is {under_way_max}: more than 1 GiB under way"));
    }
    let load = Load::new(target(&args.common, "/echo", None), args.connections);
    let parts = crew::run(&args.common, &load, |worker, place| part(args, worker, place))?;
    let mut report = Report::new("echo");
    let mut latencies = Latencies::new();
    let mut tally = Tally::default();
    let (mut snapshots, mut lost, mut wrong) = (None, 0, 0);
    for (state, measured) in parts {
        latencies.add(&state.latencies);
        tally.add(state.tally);
        (lost, wrong) = (lost + state.under_way, wrong + state.wrong);
        snapshots = snapshots.or(measured);
    }
    let (before, after) = snapshots.ok_or("nothing was measured")?;
    let messages = latencies.count();
    let seconds = (after.at - before.at) as f64 / SECOND as f64;
    report.figure("connections", args.connections, "");
    report.figure("message_bytes", args.bytes, "");
    report.figure("depth", args.depth, "");
    report.figure("messages", messages, "");
    report.figure("messages_per_second", (messages as f64 / seconds).round(), "/s");
    report.figure("seconds", rounded(seconds), "s");
    report.latencies("latency", &latencies);
    after.report_costs(&before, "message", messages, &mut report);
    tally.report(&mut report);
    tally.expect_calm(&mut report);
    if wrong > 0 {
        report.failure(format!("{wrong} messages came back otherwise than they were sent"));
    }
    if lost > 0 {
        report.failure(format!("{lost} messages did not come back within {} s", LAST_ANSWERS / SECOND));
    }
    Ok(report)
}

fn part(args: &Echo, worker: &mut Worker, place: &mut Place<'_>) -> Result<(State, Option<(Snapshot, Snapshot)>), String> {
    let share = worker.share_of(args.connections);
    let mut state = State::new(share, args.depth, args.bytes as usize);
    (0..share).for_each(|connection| worker.outbox().connect(connection));
    let deadline = worker.now() + OPEN_DEADLINE;
    if !run_while(worker, &mut state, deadline, |state, _| state.opened < share && state.tally.ended() == 0)?
        || state.opened < share
    {
        return Err(format!("of {share} connections {} were opened: {}", state.opened, state.tally.summary()));
    }
    meet(place, worker, &mut state)?;
    for connection in 0..share {
        (0..args.depth).for_each(|_| state.send(worker.outbox(), connection));
    }
    let warm = worker.now() + WARM_UP;
    run_until(worker, &mut state, warm)?;
    meet(place, worker, &mut state)?;
    let before = place.is_first().then(|| Snapshot::begin(&args.common, worker.now())).transpose()?;
    // The reading of the snapshot has taken time in which nothing was answered: one turn takes it out of the measure.
    worker
        .turn(0, &mut |outbox, connection, event| state.handle(outbox, connection, event))
        .map_err(|error| crew::ring_failed(&error))?;
    state.is_measured = true;
    let begin = worker.now();
    run_until(worker, &mut state, begin + args.duration)?;
    state.is_measured = false;
    let after = place.is_first().then(|| Snapshot::take(&args.common, worker.now())).transpose()?;
    state.is_sending = false;
    let deadline = worker.now() + LAST_ANSWERS;
    run_while(worker, &mut state, deadline, |state, _| state.under_way > 0)?;
    meet(place, worker, &mut state)?;
    let snapshots = before.zip(after).map(|(before, after)| (Snapshot { at: begin, ..before }, after));
    Ok((state, snapshots))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_their_length_and_differ() {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for bytes in [1, 15, 16, 17, 64, 1_000] {
            write_payload(&mut one, 1, 5, bytes);
            assert!(one.len() == bytes && one.is_ascii());
        }
        write_payload(&mut one, 1, 5, 16);
        for (connection, number) in [(1, 6), (2, 5), (5, 1)] {
            write_payload(&mut other, connection, number, 16);
            assert_ne!(one, other);
        }
    }

    #[test]
    fn an_answer_that_differs_or_was_not_asked_for_is_wrong() {
        let mut outbox = Outbox::new(1, 1);
        let mut state = State::new(1, 2, 16);
        state.is_sending = false;
        state.handle(&mut outbox, 0, Event::Text(b"unasked"));
        assert_eq!(state.wrong, 1);
        state.send(&mut outbox, 0);
        let sent = state.payload.clone();
        state.send(&mut outbox, 0);
        state.handle(&mut outbox, 0, Event::Text(&sent));
        assert_eq!((state.wrong, state.under_way), (1, 1));
        state.handle(&mut outbox, 0, Event::Text(&sent));
        assert_eq!((state.wrong, state.under_way), (2, 0));
    }
}
