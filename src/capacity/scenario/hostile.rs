//! Hundreds of clients that do whatever clients must not do, and a few well-behaved ones among them that must not notice.
//!
//! While it lasts, each publication of a well-behaved client comes to each other once and in order. When the hostile have ended, what
//! the server holds comes back to what it held for the well-behaved alone, and when those have left, to what it held for nobody.

mod balance;
mod kinds;
mod peer;
mod swarm;
mod witness;

use super::{OPEN_DEADLINE, run_until, run_while, target};
use crate::capacity::args::Hostile;
use crate::capacity::clock::{self, MILLISECOND, Nanos, SECOND};
use crate::capacity::crew::{self, Load};
use crate::capacity::observe::{Metrics, Process};
use crate::capacity::report::{Report, rounded};
use crate::capacity::target::{Admin, Target};
use crate::capacity::worker::Worker;
use crate::protocol::Dialect;
use balance::Balance;
use kinds::{Kind, Mark, OFTEN, Stage};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;
use swarm::{Deeds, Swarm};
use witness::{ROOM_SIZE, Witnesses};

/// Rooms of the hostile.
const HOSTILE_ROOMS: usize = 32;
/// One room of them has the longest name that there may be.
const ROOM_ID_BYTES: usize = 256;
/// Time between two publications of the witnesses.
const PUBLISH_EVERY: Nanos = 10 * MILLISECOND;
/// How long everything may take to come back: the ghost bound of 30 s, the grace of presence, a lap of the audit, and as much again.
const SETTLE_MAX: Nanos = 90 * SECOND;
/// Time between two looks at the metrics.
const LOOK_EVERY: Nanos = 250 * MILLISECOND;
/// A balance that stays for so long is no passing one: the server's numbers are up to 100 ms old.
const STEADY: Nanos = SECOND;
/// A run of at least so long shows also what comes after a time of silence.
const LATE: Nanos = 60 * SECOND;

/// Fewest hostile connections: each kind of action has one that begins with it.
pub(in crate::capacity) const CONNECTIONS_MIN: usize = Kind::ALL.len();

struct Measured {
    witnesses: Witnesses,
    deeds: Deeds,
    before: Metrics,
    after: Metrics,
    /// What was held for the witnesses alone.
    alone: Balance,
    /// What did not come back to that.
    differences: Vec<String>,
    settled_ns: Nanos,
    resident: Option<[u64; 2]>,
}

/// Runs the scenario.
///
/// # Errors
/// The load could not be brought about, or the server is in use by others.
pub(in crate::capacity) fn run(args: &Hostile) -> Result<Report, String> {
    let admin = args.common.admin.as_ref().ok_or("--admin is needed: what the server holds is read from its metrics")?;
    // Who came just now is in the numbers only after a moment.
    thread::sleep(Duration::from_nanos(LOOK_EVERY));
    let empty = Balance::of(&Metrics::fetch(admin)?);
    if empty.connections() != Some(0.0) {
        return Err("the server has connections already: what they hold could not be told from what was left behind".to_owned());
    }
    let target = target(&args.common, "/ws", Some(Dialect::V1_SUBPROTOCOL));
    let mut load = Load::new(target.clone(), args.rooms * ROOM_SIZE);
    load.users = Some(load.connections);
    load.is_single = true;
    let parts = crew::run(&args.common, &load, |worker, _| part(args, admin, &target, worker))?;
    let measured = parts.into_iter().next().ok_or("nothing was measured")?;
    let mut report = Report::new("hostile");
    report.figure("connections", args.connections, "");
    report.figure("seed", args.seed, "");
    report_deeds(&measured, args.duration, &mut report);
    measured.witnesses.report(&mut report);
    report.figure("settled_within_s", rounded(measured.settled_ns as f64 / SECOND as f64), "s");
    measured.differences.iter().for_each(|difference| report.failure(format!("with only the witnesses left: {difference}")));
    // The last of the witnesses have just closed.
    let empty = empty.with_remembered_of(&measured.alone);
    let (differences, settled_ns) = await_balance(&empty, || {
        thread::sleep(Duration::from_nanos(LOOK_EVERY));
        Ok(Balance::of(&Metrics::fetch(admin)?))
    })?;
    report.figure("empty_within_s", rounded(settled_ns as f64 / SECOND as f64), "s");
    differences.iter().for_each(|difference| report.failure(format!("with nobody left: {difference}")));
    if let Some([before, after]) = measured.resident {
        report.figure("resident_before_bytes", before, "bytes");
        report.figure("resident_after_bytes", after, "bytes");
    }
    Ok(report)
}

fn part(args: &Hostile, admin: &Admin, target: &Target, worker: &mut Worker) -> Result<Measured, String> {
    let mut witnesses = Witnesses::new(args.rooms);
    let count = witnesses.count();
    let stage = Stage { witness_rooms: witnesses.rooms.clone(), hostile_rooms: hostile_rooms() };
    (0..count).for_each(|connection| worker.outbox().connect(connection));
    let deadline = worker.now() + OPEN_DEADLINE;
    if !run_while(worker, &mut witnesses, deadline, |witnesses, _| !witnesses.members.are_complete(count, 1))? {
        return Err(witnesses.members.incomplete(count));
    }
    witnesses.open_rooms(worker.outbox(), &stage.hostile_rooms);
    if !run_while(worker, &mut witnesses, deadline, |witnesses, _| !witnesses.is_quiet())? {
        return Err("the rooms of the hostile could not be opened".to_owned());
    }
    let (before, alone) = steady(admin, worker, &mut witnesses)?;
    let process = args.common.pid.map(Process::new).transpose()?;
    let resident = || process.and_then(Process::memory).map(|memory| memory.resident);
    let resident_before = resident();
    let until = worker.now() + args.duration;
    let deeds = thread::scope(|scope| {
        let swarm = Swarm::new(target, args.connections, args.seed, &stage);
        let swarm = scope.spawn(|| swarm.run(until));
        let mut due = worker.now();
        while !swarm.is_finished() {
            witnesses.publish(worker.outbox());
            // A witness that was held up publishes no faster for that.
            due = (due + PUBLISH_EVERY).max(worker.now());
            run_until(worker, &mut witnesses, due)?;
        }
        swarm.join().map_err(|_| "the thread of the hostile panicked".to_owned())
    })?;
    let ended = worker.now();
    run_while(worker, &mut witnesses, ended + SETTLE_MAX, |witnesses, _| !witnesses.is_quiet())?;
    let (differences, settled_ns) = await_balance(&alone, || {
        let until = worker.now() + LOOK_EVERY;
        run_until(worker, &mut witnesses, until)?;
        Ok(Balance::of(&Metrics::fetch(admin)?))
    })?;
    let after = Metrics::fetch(admin)?;
    witnesses.call_roll(worker.outbox());
    let deadline = worker.now() + SETTLE_MAX;
    run_while(worker, &mut witnesses, deadline, |witnesses, _| !witnesses.is_roll_called())?;
    let resident = resident_before.zip(resident()).map(|(before, after)| [before, after]);
    Ok(Measured { witnesses, deeds, before, after, alone, differences, settled_ns, resident })
}

fn hostile_rooms() -> Vec<String> {
    let name = |number: usize| format!("hostile-{}-{number}", std::process::id());
    let mut rooms: Vec<String> = (0..HOSTILE_ROOMS).map(name).collect();
    let last = &mut rooms[HOSTILE_ROOMS - 1];
    last.push_str(&"x".repeat(ROOM_ID_BYTES - last.len()));
    rooms
}

/// Metrics and balance once the latter has stayed the same for a while.
fn steady(admin: &Admin, worker: &mut Worker, witnesses: &mut Witnesses) -> Result<(Metrics, Balance), String> {
    let end = worker.now() + SETTLE_MAX;
    let (mut last, mut since) = (Balance::default(), worker.now());
    while worker.now() < end {
        let metrics = Metrics::fetch(admin)?;
        let balance = Balance::of(&metrics);
        if balance != last {
            (last, since) = (balance, worker.now());
        } else if worker.now() >= since + STEADY {
            return Ok((metrics, last));
        }
        let until = worker.now() + LOOK_EVERY;
        run_until(worker, witnesses, until)?;
    }
    Err("what the server holds for the witnesses alone does not come to rest".to_owned())
}

/// Looks until the balance is as it was, for a bounded time. Returns what differs at last, and how long it took.
fn await_balance(before: &Balance, mut look: impl FnMut() -> Result<Balance, String>) -> Result<(Vec<String>, Nanos), String> {
    let begin = clock::now();
    let mut same_since = None;
    loop {
        let differences = before.differences(&look()?);
        let now = clock::now();
        if differences.is_empty() {
            let since = *same_since.get_or_insert(now);
            if now >= since + STEADY {
                return Ok((differences, since - begin));
            }
        } else {
            same_since = None;
            if now >= begin + SETTLE_MAX {
                return Ok((differences, now - begin));
            }
        }
    }
}

/// Adds what the hostile did and what the server made of it.
fn report_deeds(measured: &Measured, duration: Nanos, report: &mut Report) {
    let Measured { deeds, before, after, .. } = measured;
    let counts = |counts: &[u64]| {
        let pairs = Kind::ALL.iter().map(|kind| (kind.name().to_owned(), counts[*kind as usize].into()));
        Value::Object(pairs.collect())
    };
    report.figure("actions", deeds.begun.iter().sum::<u64>(), "");
    report.figure("actions_by_kind", counts(&deeds.done), "");
    report.figure("errors_told", deeds.errors, "");
    let closes = grown(after, before, "throng_closes_total");
    let refusals = grown(after, before, "throng_refusals_total");
    report.figure("closes", as_object(&closes), "");
    report.figure("refusals", as_object(&refusals), "");
    deeds.complaints.iter().for_each(|complaint| report.failure(complaint.clone()));
    let counted = |counts: &BTreeMap<String, f64>, label: &str| counts.get(label).is_some_and(|count| *count > 0.0);
    let is_late = duration >= LATE;
    for kind in Kind::ALL {
        if deeds.done[*kind as usize] == 0 {
            report.failure(format!("no action {} came to its point, of {} begun", kind.name(), deeds.begun[*kind as usize]));
        }
        let is_often = deeds.done[*kind as usize] >= OFTEN;
        for mark in kind.marks().iter().filter(|_| is_often) {
            let is_there = match *mark {
                Mark::Close(label) => counted(&closes, label),
                Mark::LateClose(label) => !is_late || counted(&closes, label),
                Mark::Refusal(label) => counted(&refusals, label),
                Mark::LateRefusal(label) => !is_late || counted(&refusals, label),
                Mark::Counter(name) => after.sum(name).zip(before.sum(name)).is_some_and(|(after, before)| after > before),
            };
            if !is_there {
                report.failure(format!("{} left no trace: {mark:?} has not grown", kind.name()));
            }
        }
    }
}

/// By how much the counts of a labelled counter have grown, without those that have not.
fn grown(after: &Metrics, before: &Metrics, name: &str) -> BTreeMap<String, f64> {
    let before = before.by_label(name, "reason");
    let counts = after.by_label(name, "reason").into_iter();
    let grown = counts.map(|(label, count)| {
        let earlier = before.get(&label).copied().unwrap_or(0.0);
        (label, count - earlier)
    });
    grown.filter(|(_, count)| *count > 0.0).collect()
}

fn as_object(counts: &BTreeMap<String, f64>) -> Value {
    Value::Object(counts.iter().map(|(label, count)| (label.clone(), Value::from(*count as u64))).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_since_before() {
        let text = |eof: u32| Metrics::parse(&format!("c{{reason=\"eof\"}} {eof}\nc{{reason=\"clean\"}} 2\n"));
        assert_eq!(grown(&text(5), &text(3), "c"), BTreeMap::from([("eof".to_owned(), 2.0)]));
    }

    #[test]
    fn a_balance_is_awaited_until_it_stays_or_is_told_when_it_does_not_come() {
        let text = |count: u32| Balance::of(&Metrics::parse(&format!("ws_active_connections {count}\n")));
        let mut looks = 0;
        let error = await_balance(&text(0), || {
            looks += 1;
            if looks > 3 { Err("enough".to_owned()) } else { Ok(text(1)) }
        });
        assert_eq!((error.unwrap_err().as_str(), looks), ("enough", 4));
    }

    #[test]
    fn the_rooms_of_the_hostile_are_different_and_one_has_the_longest_name() {
        let rooms = hostile_rooms();
        assert!(rooms.iter().any(|room| room.len() == ROOM_ID_BYTES) && rooms.iter().all(|room| room.len() <= ROOM_ID_BYTES));
        assert!(rooms.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
