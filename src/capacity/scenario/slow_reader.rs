//! A busy room in which one member reads slowly, though steadily: it is alive, and must be served and not be taken for dead.

use super::{Handler, Members, OPEN_DEADLINE, Snapshot, Speech, run_while, target};
use crate::capacity::args::SlowReader;
use crate::capacity::clock::{MILLISECOND, Nanos, SECOND};
use crate::capacity::crew::{self, Load};
use crate::capacity::message::{Kind, kind_of, read_data, write_data};
use crate::capacity::outbox::Outbox;
use crate::capacity::report::{Report, rounded};
use crate::capacity::statistics::Latencies;
use crate::capacity::worker::{Event, Worker};
use crate::protocol::Dialect;

/// How often the slow one reads.
const READ_EVERY: Nanos = 50 * MILLISECOND;
/// Bytes of a frame beyond its data, roughly: what the load is reckoned with.
const ENVELOPE_BYTES: u64 = 150;
/// The slow member.
const SLOW: u32 = 0;
/// How long the last publications may take to the fast members.
const LAST_DELIVERIES: Nanos = 10 * SECOND;
/// How long the slow one may take to catch up once nothing more is published.
const CATCH_UP: Nanos = 60 * SECOND;
/// Marks a publication that has come to the slow one.
const RECEIVED: Nanos = Nanos::MAX;

struct State {
    members: Members,
    room: String,
    seqs: Vec<u64>,
    next: u64,
    delivered: u64,
    slow_received: u64,
    /// What came to it twice, or was never published.
    slow_surplus: u64,
    slow_gaps: u64,
    slow_lag: Latencies,
    /// When each publication was sent, or [`RECEIVED`].
    sent_at: Vec<Nanos>,
    slow_behind: u64,
    slow_pings: u64,
    slow_end: Option<String>,
    ends: u32,
    data: Vec<u8>,
}

impl State {
    fn publish(&mut self, outbox: &mut Outbox, connections: u32, bytes: usize) {
        let number = self.next;
        self.next += 1;
        // Everybody but the slow one.
        let publisher = 1 + (number % u64::from(connections - 1)) as u32;
        write_data(&mut self.data, publisher, number, bytes);
        let seq = &mut self.seqs[publisher as usize];
        outbox.send_text(publisher, self.members.writer.broadcast(&self.room, Some(*seq), &self.data));
        *seq += 1;
        self.sent_at.push(outbox.now());
    }

    fn handle_slow(&mut self, outbox: &Outbox, number: u64) {
        let sent_at = self.sent_at.get_mut(number as usize).map(|sent_at| std::mem::replace(sent_at, RECEIVED));
        match sent_at {
            Some(sent_at) if sent_at != RECEIVED => {
                self.slow_received += 1;
                self.slow_lag.record(outbox.now().saturating_sub(sent_at));
            }
            Some(_) | None => self.slow_surplus += 1,
        }
    }
}

impl Handler for State {
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: Event<'_>) {
        match event {
            Event::Text(message) => {
                if let Some((number, _)) = read_data(message) {
                    if connection == SLOW {
                        self.handle_slow(outbox, number);
                    } else {
                        self.delivered += 1;
                    }
                    return;
                }
                self.slow_gaps += u64::from(connection == SLOW && kind_of(message) == Kind::Gap);
            }
            Event::Ping if connection == SLOW => self.slow_pings += 1,
            Event::Closed(end) => {
                self.ends += 1;
                if connection == SLOW {
                    self.slow_end = Some(end.to_string());
                }
            }
            Event::Open | Event::Refused { .. } | Event::Binary(_) | Event::Ping => {}
        }
        self.members.handle(outbox, connection, &event, std::iter::once(0));
    }
}

/// Runs the scenario.
///
/// # Errors
/// The load could not be brought about.
pub(in crate::capacity) fn run(args: &SlowReader) -> Result<Report, String> {
    let speech = Speech::Throng(Dialect::V1);
    let mut load = Load::new(target(&args.common, "/ws", speech.protocol()), args.connections);
    load.users = Some(args.connections);
    load.is_single = true;
    load.trickle = ((u64::from(args.read_rate) * READ_EVERY / SECOND).max(1) as u32, READ_EVERY);
    let parts = crew::run(&args.common, &load, |worker, _| part(args, speech, worker))?;
    let (state, before, after) = parts.into_iter().next().ok_or("nothing was measured")?;
    let mut report = Report::new("slow-reader");
    let seconds = (after.at - before.at) as f64 / SECOND as f64;
    report.figure("members", args.connections, "");
    report.figure("seconds", rounded(seconds), "s");
    report.figure("publications", state.next, "");
    report.figure("deliveries_to_others", state.delivered, "");
    report.figure("slow_read_rate", args.read_rate, "bytes/s");
    report.figure("slow_received", state.slow_received, "");
    report.figure("slow_behind_at_the_end", state.slow_behind, "publications");
    report.figure("slow_missing", state.next - state.slow_received, "publications, after it could catch up");
    report.figure("slow_gaps", state.slow_gaps, "");
    report.latencies("slow_lag", &state.slow_lag);
    report.figure("slow_pings", state.slow_pings, "");
    report.optional("ghosts_reaped", after.counted(&before, "throng_ghosts_reaped_total"), "");
    report.optional("sends_short", after.counted(&before, "throng_sends_short_total"), "");
    report.optional("pings_sent", after.counted(&before, "throng_pings_sent_total"), "");
    state.members.tally.report(&mut report);
    if let Some(end) = state.slow_end {
        report.failure(format!("the slow reader was disconnected: {end}"));
    }
    state.members.tally.expect_calm(&mut report);
    if state.ends > 0 {
        return Ok(report);
    }
    // A publisher gets no copy of its own.
    let expected = state.next * u64::from(args.connections - 2);
    if state.delivered != expected {
        report.failure(format!("{} of {expected} deliveries came to the members that read", state.delivered));
    }
    if state.slow_received < state.next && state.slow_gaps == 0 {
        report.failure("the slow reader lacks publications and was told of no gap");
    }
    if state.slow_surplus > 0 {
        report.failure(format!("the slow reader got {} that were not published, or twice", state.slow_surplus));
    }
    Ok(report)
}

fn part(args: &SlowReader, speech: Speech, worker: &mut Worker) -> Result<(State, Snapshot, Snapshot), String> {
    let members = Members::new(speech, true);
    let mut state = State {
        room: members.rooms.name(0),
        members,
        seqs: vec![2; args.connections as usize],
        next: 0,
        delivered: 0,
        slow_received: 0,
        slow_surplus: 0,
        slow_gaps: 0,
        slow_lag: Latencies::new(),
        sent_at: Vec::new(),
        slow_behind: 0,
        slow_pings: 0,
        slow_end: None,
        ends: 0,
        data: Vec::new(),
    };
    worker.prepare_slow(SLOW);
    (0..args.connections).for_each(|connection| worker.outbox().connect(connection));
    let deadline = worker.now() + OPEN_DEADLINE;
    let connections = args.connections;
    if !run_while(worker, &mut state, deadline, |state, _| !state.members.are_complete(connections, 1))? {
        return Err(state.members.incomplete(connections));
    }
    worker.outbox().slow_down(SLOW);
    let before = Snapshot::take(&args.common, worker.now())?;
    let per_burst = {
        let bytes = u64::from(args.read_rate) * u64::from(args.load_percent) / 100 * args.burst_every / SECOND;
        (bytes / (u64::from(args.bytes) + ENVELOPE_BYTES)).max(1)
    };
    let begin = worker.now();
    let end = begin + args.duration;
    let mut due = begin;
    while worker.now() < end && state.ends == 0 {
        if worker.now() >= due {
            (0..per_burst).for_each(|_| state.publish(worker.outbox(), connections, args.bytes as usize));
            due += args.burst_every;
        }
        run_while(worker, &mut state, due.min(end), |state, _| state.ends == 0)?;
    }
    let after = Snapshot::take(&args.common, worker.now())?;
    let expected = state.next * u64::from(connections - 2);
    let deadline = worker.now() + LAST_DELIVERIES;
    run_while(worker, &mut state, deadline, |state, _| state.delivered < expected && state.ends == 0)?;
    state.slow_behind = state.next - state.slow_received;
    let deadline = worker.now() + CATCH_UP;
    run_while(worker, &mut state, deadline, |state, _| state.slow_received < state.next && state.ends == 0)?;
    Ok((state, before, after))
}
