//! More connections than one process has file descriptors: each sends one message and gets its answer; the next is refused.

use super::{Handler, Members, Speech, meet, run_while, target};
use crate::capacity::args::Many;
use crate::capacity::clock::{Nanos, SECOND};
use crate::capacity::crew::{self, Load, Place};
use crate::capacity::message::{Kind, kind_of, number_after};
use crate::capacity::observe::Process;
use crate::capacity::outbox::Outbox;
use crate::capacity::report::{Report, rounded};
use crate::capacity::tally::Tally;
use crate::capacity::worker::{Event, Worker};
use crate::protocol::Dialect;

/// How long the refusal may take.
const REFUSAL_DEADLINE: Nanos = 10 * SECOND;

struct State {
    members: Members,
    answered: u32,
    wrong: u32,
    /// The one after the last, and what it was told: status and advice.
    beyond: Option<u32>,
    refusal: Option<(u16, Option<u32>)>,
    beyond_opened: bool,
}

impl Handler for State {
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: Event<'_>) {
        if self.beyond == Some(connection) {
            match event {
                Event::Open => self.beyond_opened = true,
                Event::Refused { status, retry_after_s } => self.refusal = Some((status, retry_after_s)),
                Event::Closed(_) => self.refusal = self.refusal.or(Some((0, None))),
                Event::Text(_) | Event::Binary(_) | Event::Ping => {}
            }
            return;
        }
        if let Event::Text(text) = event
            && kind_of(text) == Kind::Pong
        {
            let is_own = number_after(text, b"\"t\":") == Some(u64::from(connection));
            self.answered += u32::from(is_own);
            self.wrong += u32::from(!is_own);
        }
        self.members.handle(outbox, connection, &event, std::iter::empty());
    }
}

/// What one worker has seen.
struct Part {
    answered: u32,
    wrong: u32,
    opened_ns: Nanos,
    answered_ns: Nanos,
    refusal: Option<Option<(u16, Option<u32>)>>,
    resident: Option<u64>,
    tally: Tally,
}

/// Runs the scenario.
///
/// # Errors
/// The load could not be brought about.
pub(in crate::capacity) fn run(args: &Many) -> Result<Report, String> {
    let speech = Speech::Throng(Dialect::V1);
    let mut load = Load::new(target(&args.common, "/ws", speech.protocol()), args.connections);
    load.users = Some(args.connections);
    // For the one after the last.
    load.slots_extra = 1;
    let parts = crew::run(&args.common, &load, |worker, place| part(args, speech, worker, place))?;
    let mut report = Report::new("many");
    let answered: u32 = parts.iter().map(|part| part.answered).sum();
    let wrong: u32 = parts.iter().map(|part| part.wrong).sum();
    report.figure("connections", args.connections, "");
    report.figure("threads", parts.len(), "");
    report.figure("answered", answered, "");
    let longest = |of: fn(&Part) -> Nanos| rounded(parts.iter().map(of).max().unwrap_or(0) as f64 / SECOND as f64);
    report.figure("open_after_s", longest(|part| part.opened_ns), "s");
    report.figure("all_answered_within_s", longest(|part| part.answered_ns), "s");
    report.optional("server_resident_bytes", parts.iter().find_map(|part| part.resident), "bytes");
    if let Some(refusal) = parts.iter().find_map(|part| part.refusal) {
        report_refusal(refusal, &mut report);
    }
    let mut tally = Tally::default();
    parts.into_iter().for_each(|part| tally.add(part.tally));
    tally.report(&mut report);
    tally.expect_calm(&mut report);
    if wrong > 0 || answered != args.connections {
        report.failure(format!("{answered} of {} got their answer, {wrong} another's", args.connections));
    }
    Ok(report)
}

fn report_refusal(refusal: Option<(u16, Option<u32>)>, report: &mut Report) {
    match refusal {
        Some((503, Some(seconds))) => {
            report.figure("refusal_status", 503, "");
            report.figure("refusal_retry_after_s", seconds, "s");
        }
        Some((0, _)) => report.failure("the one after the last was closed without an answer"),
        Some((status, advice)) => {
            let advice = advice.map_or("no Retry-After".to_owned(), |seconds| format!("Retry-After {seconds}"));
            report.failure(format!("the one after the last got {status} with {advice}, not 503 with Retry-After"));
        }
        None => report.failure("the one after the last was not refused (is the server's --connections-max the same number?)"),
    }
}

fn part(args: &Many, speech: Speech, worker: &mut Worker, place: &mut Place<'_>) -> Result<Part, String> {
    let begin = worker.now();
    let deadline = begin + args.duration;
    let share = worker.share_of(args.connections);
    let members = Members::new(speech, false);
    let mut state = State { members, answered: 0, wrong: 0, beyond: None, refusal: None, beyond_opened: false };
    (0..share).for_each(|connection| worker.outbox().connect(connection));
    if !run_while(worker, &mut state, deadline, |state, _| !state.members.are_complete(share, 0))? {
        return Err(state.members.incomplete(share));
    }
    let opened_ns = worker.now() - begin;
    // All are open before the first asks.
    meet(place, worker, &mut state)?;
    let asked = worker.now();
    for connection in 0..share {
        let ping = state.members.writer.ping(u64::from(connection)).to_vec();
        worker.outbox().send_text(connection, &ping);
    }
    run_while(worker, &mut state, deadline, |state, _| state.answered + state.wrong < share)?;
    let answered_ns = worker.now() - asked;
    meet(place, worker, &mut state)?;
    let mut refusal = None;
    if place.is_first() && !args.no_refusal {
        state.beyond = Some(share);
        worker.outbox().connect(share);
        let deadline = worker.now() + REFUSAL_DEADLINE;
        run_while(worker, &mut state, deadline, |state, _| state.refusal.is_none() && !state.beyond_opened)?;
        refusal = Some(state.refusal);
    }
    let process = args.common.pid.filter(|_| place.is_first()).map(Process::new).transpose()?;
    let resident = process.and_then(Process::memory).map(|memory| memory.resident);
    // The others stay until the refusal was seen: a free place would let the one in.
    meet(place, worker, &mut state)?;
    let State { answered, wrong, members, .. } = state;
    Ok(Part { answered, wrong, opened_ns, answered_ns, refusal, resident, tally: members.tally })
}
