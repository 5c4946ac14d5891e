//! What a connection costs the server in memory: steps of connections, and the slope through them.
//!
//! The memory is that of the process as the kernel counts it. What the kernel itself holds for a socket is not in it.

use super::{Handler, Members, OPEN_DEADLINE, Speech, meet, run_until, run_while, target};
use crate::capacity::Facts;
use crate::capacity::args::Density;
use crate::capacity::clock::{MILLISECOND, Nanos, SECOND};
use crate::capacity::crew::{self, Load, Place};
use crate::capacity::observe::{Memory, Process};
use crate::capacity::outbox::Outbox;
use crate::capacity::report::{Report, rounded};
use crate::capacity::statistics::{end_to_end_slope, least_squares_slope};
use crate::capacity::tally::Tally;
use crate::capacity::worker::{Event, Worker};

/// Bytes that a connection costs any server: a smaller slope means that the memory was there from an earlier run.
const LEAST_BYTES: f64 = 32.0;
/// Memory has settled when it stays within this for [`SETTLED_FOR`].
const SETTLED_BYTES: u64 = 8 * 1024;
const SETTLED_FOR: Nanos = SECOND;
/// Beyond the least rest, it is waited so long at most.
const SETTLE_MAX: Nanos = 15 * SECOND;

struct State {
    members: Members,
    threads: u32,
    number: u32,
    room_size: u32,
    joins: bool,
}

impl Handler for State {
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: Event<'_>) {
        let number = connection * self.threads + self.number;
        let room = number.checked_div(self.room_size).unwrap_or(0);
        self.members.handle(outbox, connection, &event, self.joins.then_some(room).into_iter());
    }
}

/// Runs the scenario.
///
/// # Errors
/// The load could not be brought about.
pub(in crate::capacity) fn run(args: &Density, facts: Facts) -> Result<Report, String> {
    if args.from >= args.connections {
        return Err(format!("--from {} is not below --connections {}", args.from, args.connections));
    }
    let speech = Speech::of(args.plain, args.peer_raw);
    let mut load = Load::new(target(&args.common, "/ws", speech.protocol()), args.connections);
    load.users = (!args.peer_raw).then_some(args.users.unwrap_or(args.connections));
    let steps: Vec<u32> = (0..args.steps).map(|step| step_at(args, step)).collect();
    let parts = crew::run(&args.common, &load, |worker, place| part(args, speech, &steps, worker, place))?;
    let mut report = Report::new("density");
    let mut tally = Tally::default();
    let mut points = Vec::new();
    for (measured, part_tally) in parts {
        points.extend(measured);
        tally.add(part_tally);
    }
    report.figure("connections", steps.as_slice(), "");
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        report.figure("resident_bytes", points.iter().map(|(_, memory)| memory.resident).collect::<Vec<_>>(), "");
        report.figure("anonymous_bytes", points.iter().map(|(_, memory)| memory.anonymous).collect::<Vec<_>>(), "");
        report.figure("resident_bytes_first", first.1.resident, "bytes");
        report.figure("resident_bytes_last", last.1.resident, "bytes");
        report_slopes(args, &points, &mut report);
    }
    report.figure("sum_of_record_sizes", facts.connection_record_bytes, "bytes (connection, session, membership, presence, user)");
    tally.report(&mut report);
    tally.expect_calm(&mut report);
    Ok(report)
}

fn report_slopes(args: &Density, points: &[(u32, Memory)], report: &mut Report) {
    let of = |memory: fn(&Memory) -> u64| -> Vec<(f64, f64)> {
        points.iter().map(|(connections, held)| (f64::from(*connections), memory(held) as f64)).collect()
    };
    let (resident, anonymous) = (of(|memory| memory.resident), of(|memory| memory.anonymous));
    let unit = "bytes/connection";
    report.optional("resident_slope_least_squares", least_squares_slope(&resident).map(rounded), unit);
    report.optional("resident_slope_end_to_end", end_to_end_slope(&resident).map(rounded), unit);
    report.optional("anonymous_slope_least_squares", least_squares_slope(&anonymous).map(rounded), unit);
    report.optional("anonymous_slope_end_to_end", end_to_end_slope(&anonymous).map(rounded), unit);
    let slopes = [least_squares_slope(&resident), end_to_end_slope(&resident)];
    if !args.peer_raw && slopes[1].is_some_and(|slope| slope < LEAST_BYTES) {
        report.failure("the server held this memory before: measure one that was started afresh");
    }
    if let Some(most) = args.bytes_max {
        for slope in slopes.into_iter().flatten().filter(|slope| *slope > most as f64) {
            report.failure(format!("{slope:.1} bytes a connection are above {most}"));
        }
    }
}

/// Connections at step `step`: from the first to the last in equal parts.
fn step_at(args: &Density, step: u32) -> u32 {
    let span = u64::from(args.connections - args.from);
    args.from + (span * u64::from(step) / u64::from(args.steps - 1)) as u32
}

type Points = Vec<(u32, Memory)>;

fn part(
    args: &Density,
    speech: Speech,
    steps: &[u32],
    worker: &mut Worker,
    place: &mut Place<'_>,
) -> Result<(Points, Tally), String> {
    let joins = !args.no_join && speech != Speech::Raw;
    let threads = worker.workers();
    let number = worker.number_of(0);
    let members = Members::new(speech, !args.no_presence);
    let mut state = State { members, threads, number, room_size: args.room_size, joins };
    let process = args.common.pid.map(Process::new).transpose()?;
    let mut points = Vec::new();
    let mut opened = 0;
    for &step in steps {
        let share = worker.share_of(step);
        (opened..share).for_each(|connection| worker.outbox().connect(connection));
        opened = share;
        let deadline = worker.now() + OPEN_DEADLINE;
        let rooms_each = u32::from(joins);
        if !run_while(worker, &mut state, deadline, |state, _| !state.members.are_complete(share, rooms_each))? {
            return Err(state.members.incomplete(share));
        }
        meet(place, worker, &mut state)?;
        if let (true, Some(process)) = (place.is_first(), process) {
            points.push((step, settled(args.settle, process, worker, &mut state)?));
        }
        meet(place, worker, &mut state)?;
    }
    Ok((points, state.members.tally))
}

/// The memory once it doesn't change any more, or the time for that is over.
fn settled(least: Nanos, process: Process, worker: &mut Worker, state: &mut State) -> Result<Memory, String> {
    let begin = worker.now();
    run_until(worker, state, begin + least)?;
    let read = || process.memory().ok_or_else(|| "the server process has ended".to_owned());
    let mut last = (read()?, worker.now());
    loop {
        let now = worker.now();
        if now >= last.1 + SETTLED_FOR || now >= begin + least + SETTLE_MAX {
            return read();
        }
        run_until(worker, state, now + 100 * MILLISECOND)?;
        let memory = read()?;
        if memory.resident.abs_diff(last.0.resident) > SETTLED_BYTES {
            last = (memory, worker.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        density: Density,
    }

    #[test]
    fn steps_go_from_the_first_to_the_last() {
        let args = Cli::parse_from(["density"]).density;
        let steps: Vec<u32> = (0..args.steps).map(|step| step_at(&args, step)).collect();
        assert_eq!(steps, [1_000, 3_000, 5_000, 7_000, 9_000, 11_000, 13_000, 15_000]);
        let args = Cli::parse_from(["density", "--connections", "999999", "--from", "1", "--steps", "2"]).density;
        assert_eq!([step_at(&args, 0), step_at(&args, 1)], [1, 999_999]);
    }
}
