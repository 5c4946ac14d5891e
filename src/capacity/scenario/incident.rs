//! The load under which the old server fell: many connections of few users in many rooms, a part of them hardly reading.
//!
//! Slow readers may be closed as slow consumers or as silent; the others may not, and must get what is published. What the server
//! holds meanwhile is sampled.

use super::{Handler, Members, OPEN_DEADLINE, Snapshot, Speech, meet, run_while, target};
use crate::capacity::args::Incident;
use crate::capacity::clock::{MILLISECOND, Nanos, SECOND};
use crate::capacity::crew::{self, Load, Place};
use crate::capacity::message::{read_data, write_data};
use crate::capacity::observe::Process;
use crate::capacity::outbox::Outbox;
use crate::capacity::report::{Report, rounded};
use crate::capacity::statistics::Latencies;
use crate::capacity::tally::Tally;
use crate::capacity::worker::{Event, Worker};
use crate::protocol::Dialect;
use serde_json::Value;

/// How often memory is read.
const SAMPLE_EVERY: Nanos = 250 * MILLISECOND;
/// How often a slow reader reads.
const READ_EVERY: Nanos = SECOND;
/// Publications whose moment is remembered, to tell the latency of their deliveries.
const REMEMBERED: usize = 4_096;

/// Who is in which room, and who is slow: the same for all workers.
#[derive(Clone, Copy)]
struct Plan {
    rooms_each: u32,
    /// Rooms of each kind; there are `rooms_each` kinds, and everybody is in one room of each.
    rooms_of_a_kind: u32,
    room_size: u32,
    slow_percent: u32,
}

impl Plan {
    fn new(args: &Incident) -> Plan {
        Plan {
            rooms_each: args.rooms_each,
            rooms_of_a_kind: args.connections.div_ceil(args.room_size),
            room_size: args.room_size,
            slow_percent: args.slow_percent,
        }
    }
    /// The room of kind `kind` of connection number `number`: neighbours share the first, and no others.
    fn room(self, number: u32, kind: u32) -> u32 {
        let rooms = u64::from(self.rooms_of_a_kind);
        let room = match kind {
            0 => u64::from(number / self.room_size),
            _ => (u64::from(number) + u64::from(kind - 1) * (u64::from(number) / rooms)) % rooms,
        };
        kind * self.rooms_of_a_kind + room as u32
    }
    fn is_slow(self, number: u32) -> bool {
        number % 100 < self.slow_percent
    }
}

struct State {
    members: Members,
    plan: Plan,
    threads: u32,
    worker: u32,
    /// The next command of each connection; 0 once it is closed.
    seqs: Vec<u64>,
    next: u64,
    sent_at: Vec<Nanos>,
    deliveries: u64,
    latencies: Latencies,
    slow: Tally,
    data: Vec<u8>,
}

impl State {
    fn number(&self, connection: u32) -> u32 {
        connection * self.threads + self.worker
    }

    /// Publishes from the next connection that reads, to one of its rooms. False if there is none.
    fn publish(&mut self, outbox: &mut Outbox, bytes: usize) -> bool {
        let count = self.seqs.len() as u64;
        for attempt in 0..count {
            let connection = ((self.next + attempt) * 7_919 % count) as u32;
            let number = self.number(connection);
            if self.plan.is_slow(number) || self.seqs[connection as usize] == 0 {
                continue;
            }
            let place = (self.next % REMEMBERED as u64) as usize;
            self.sent_at[place] = outbox.now();
            // The publisher's place says which worker's clock it is: deliveries to others are not timed.
            write_data(&mut self.data, self.worker, self.next, bytes);
            let room = self.members.rooms.name(self.plan.room(number, (self.next % u64::from(self.plan.rooms_each)) as u32));
            let seq = &mut self.seqs[connection as usize];
            outbox.send_text(connection, self.members.writer.broadcast(&room, Some(*seq), &self.data));
            *seq += 1;
            self.next += 1;
            return true;
        }
        false
    }
}

impl Handler for State {
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: Event<'_>) {
        let number = self.number(connection);
        let is_slow = self.plan.is_slow(number);
        match event {
            Event::Text(message) if !is_slow => {
                if let Some((published, worker)) = read_data(message) {
                    self.deliveries += 1;
                    if worker == self.worker && published + REMEMBERED as u64 > self.next {
                        let sent_at = self.sent_at[(published % REMEMBERED as u64) as usize];
                        self.latencies.record(outbox.now().saturating_sub(sent_at));
                    }
                    return;
                }
            }
            Event::Closed(_) => {
                self.seqs[connection as usize] = 0;
                if is_slow {
                    return self.slow.note(&event);
                }
            }
            Event::Text(_) | Event::Binary(_) | Event::Open | Event::Ping | Event::Refused { .. } => {}
        }
        let plan = self.plan;
        self.members.handle(outbox, connection, &event, (0..plan.rooms_each).map(|kind| plan.room(number, kind)));
    }
}

struct Part {
    state: State,
    snapshots: Option<(Snapshot, Snapshot)>,
    resident_max: Option<u64>,
    slow: u32,
}

/// Runs the scenario.
///
/// # Errors
/// The load could not be brought about.
pub(in crate::capacity) fn run(args: &Incident) -> Result<Report, String> {
    let speech = Speech::Throng(Dialect::V1);
    let mut load = Load::new(target(&args.common, "/ws", speech.protocol()), args.connections);
    load.users = Some(args.users);
    load.trickle = (args.slow_rate, READ_EVERY);
    let plan = Plan::new(args);
    let parts = crew::run(&args.common, &load, |worker, place| part(args, plan, speech, worker, place))?;
    let mut report = Report::new("incident");
    let (mut latencies, mut readers, mut slow) = (Latencies::new(), Tally::default(), Tally::default());
    let (mut published, mut deliveries, mut slow_count) = (0, 0, 0);
    let (mut snapshots, mut resident_max) = (None, None);
    for part in parts {
        latencies.add(&part.state.latencies);
        readers.add(part.state.members.tally);
        slow.add(part.state.slow);
        (published, deliveries) = (published + part.state.next, deliveries + part.state.deliveries);
        slow_count += part.slow;
        snapshots = snapshots.or(part.snapshots);
        resident_max = resident_max.max(part.resident_max);
    }
    report.figure("connections", args.connections, "");
    report.figure("users", args.users, "");
    report.figure("memberships", u64::from(args.connections) * u64::from(args.rooms_each), "");
    report.figure("slow_readers", slow_count, "");
    report.figure("published", published, "");
    report.figure("deliveries_to_readers", deliveries, "");
    report.latencies("delivery", &latencies);
    report.optional("server_resident_max_bytes", resident_max, "bytes");
    if let Some((before, after)) = &snapshots {
        report.figure("seconds", rounded((after.at - before.at) as f64 / SECOND as f64), "s");
        report_metrics(before, after, &mut report);
    }
    report.figure("slow_readers_ended", slow.ended(), "");
    report.figure("slow_readers_ends", slow.summary(), "");
    readers.report(&mut report);
    readers.expect_calm(&mut report);
    if deliveries == 0 {
        report.failure("nothing was delivered");
    }
    if let Some(most) = resident_max.filter(|most| *most > args.resident_max << 20) {
        report.failure(format!("the server's resident memory rose to {most} bytes, above {} MiB", args.resident_max));
    }
    Ok(report)
}

/// The server's own figures: lag of its loops, memory by use, closes by reason.
fn report_metrics(before: &Snapshot, after: &Snapshot, report: &mut Report) {
    let (Some(earlier), Some(later)) = (&before.metrics, &after.metrics) else { return };
    let bound = |quantile| {
        later.quantile_since(earlier, "event_loop_lag_ms", quantile).map(|bound| match bound.is_finite() {
            true => Value::from(bound),
            false => Value::from("beyond the last bucket"),
        })
    };
    report.optional("event_loop_lag_ms_p50_at_most", bound(0.5), "ms");
    report.optional("event_loop_lag_ms_p99_at_most", bound(0.99), "ms");
    report.optional("event_loop_lag_ms_max_at_most", bound(1.0), "ms");
    let closes = earlier.by_label("throng_closes_total", "reason");
    let new = later.by_label("throng_closes_total", "reason").into_iter().filter_map(|(reason, count)| {
        let new = count - closes.get(&reason).copied().unwrap_or(0.0);
        (new > 0.0).then(|| (reason, Value::from(new)))
    });
    report.figure("server_closes", Value::Object(new.collect()), "");
    let uses = later.by_label("throng_memory_bytes", "use").into_iter().map(|(label, bytes)| (label, Value::from(bytes)));
    report.figure("server_memory_bytes", Value::Object(uses.collect()), "");
    for name in ["ws_room_subscriptions", "ws_orphaned_subscriptions", "ws_room_leave_failures", "throng_send_queue_bytes"] {
        report.optional(name, later.sum(name), "");
    }
}

fn part(args: &Incident, plan: Plan, speech: Speech, worker: &mut Worker, place: &mut Place<'_>) -> Result<Part, String> {
    let share = worker.share_of(args.connections);
    let mut state = State {
        members: Members::new(speech, true),
        plan,
        threads: worker.workers(),
        worker: worker.number_of(0),
        seqs: vec![u64::from(args.rooms_each) + 1; share as usize],
        next: 0,
        sent_at: vec![0; REMEMBERED],
        deliveries: 0,
        latencies: Latencies::new(),
        slow: Tally::default(),
        data: Vec::new(),
    };
    let slow: Vec<u32> = (0..share).filter(|connection| plan.is_slow(worker.number_of(*connection))).collect();
    slow.iter().for_each(|connection| worker.prepare_slow(*connection));
    (0..share).for_each(|connection| worker.outbox().connect(connection));
    let deadline = worker.now() + OPEN_DEADLINE;
    if !run_while(worker, &mut state, deadline, |state, _| !state.members.are_complete(share, args.rooms_each))? {
        return Err(state.members.incomplete(share));
    }
    meet(place, worker, &mut state)?;
    slow.iter().for_each(|connection| worker.outbox().slow_down(*connection));
    let before = place.is_first().then(|| Snapshot::begin(&args.common, worker.now())).transpose()?;
    let process = args.common.pid.filter(|_| place.is_first()).map(Process::new).transpose()?;
    let resident_max = load(args, worker, &mut state, process)?;
    let after = place.is_first().then(|| Snapshot::take(&args.common, worker.now())).transpose()?;
    meet(place, worker, &mut state)?;
    Ok(Part { state, snapshots: before.zip(after), resident_max, slow: slow.len() as u32 })
}

/// Publishes at the rate for the duration. Returns the most memory that the server had.
fn load(args: &Incident, worker: &mut Worker, state: &mut State, process: Option<Process>) -> Result<Option<u64>, String> {
    let begin = worker.now();
    let end = begin + args.duration;
    let every = (SECOND * u64::from(worker.workers()) / u64::from(args.rate)).max(1);
    let (mut due, mut sample_due) = (begin, begin);
    let mut resident_max = None;
    while worker.now() < end {
        while due <= worker.now() {
            if !state.publish(worker.outbox(), args.bytes as usize) {
                return Err(format!("nobody is left to publish: {}", state.members.tally.summary()));
            }
            due += every;
        }
        if let Some(process) = process.filter(|_| sample_due <= worker.now()) {
            resident_max = resident_max.max(process.memory().map(|memory| memory.resident));
            sample_due += SAMPLE_EVERY;
        }
        super::run_until(worker, state, due.min(end))?;
    }
    Ok(resident_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        incident: Incident,
    }

    #[test]
    fn rooms_are_full_and_memberships_add_up() {
        for line in [&["incident"][..], &["incident", "--connections", "1000", "--rooms-each", "5"]] {
            let args = Cli::parse_from(line).incident;
            let plan = Plan::new(&args);
            let mut members = vec![0; (plan.rooms_of_a_kind * plan.rooms_each) as usize];
            for number in 0..args.connections {
                let rooms: Vec<u32> = (0..plan.rooms_each).map(|kind| plan.room(number, kind)).collect();
                rooms.iter().for_each(|room| members[*room as usize] += 1);
                assert!(rooms.windows(2).all(|pair| pair[0] < pair[1]), "each room of a connection is another");
            }
            assert!(members.iter().all(|count| *count == args.room_size), "{members:?}");
            let slow = (0..args.connections).filter(|number| plan.is_slow(*number)).count() as u32;
            assert_eq!(slow, args.connections / 5);
        }
    }
}
