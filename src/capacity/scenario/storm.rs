//! Everybody at once: how fast the server takes its clients in, and how the herd spreads when it was refused or thrown out.

use super::{Handler, Speech, run_while, target};
use crate::capacity::args::Storm;
use crate::capacity::clock::{MILLISECOND, Nanos, SECOND};
use crate::capacity::crew::{self, Load, Place};
use crate::capacity::message::Writer;
use crate::capacity::outbox::Outbox;
use crate::capacity::report::{Report, rounded};
use crate::capacity::statistics::Latencies;
use crate::capacity::tally::Tally;
use crate::capacity::worker::{Event, Worker};
use crate::protocol::Dialect;

/// Length of one step of the series that are reported.
const STEP: Nanos = 250 * MILLISECOND;
/// Steps that are kept: ten minutes. What comes later counts in the last.
const STEPS_MAX: usize = 2_400;

/// How a client waits before it tries again.
#[derive(Clone, Copy, Debug)]
enum Policy {
    /// Always so long.
    Fixed(Nanos),
    /// A random part of a window that doubles with each attempt, drawn after the cap (PROTOCOL §9).
    FullJitter { base: Nanos, cap: Nanos },
}

impl Policy {
    /// The delay before attempt number `attempt` (the first further one is 0); `advice` is the least that the server asked for.
    fn delay(self, attempt: u32, advice: Nanos, outbox: &mut Outbox) -> Nanos {
        let own = match self {
            Policy::Fixed(delay) => delay,
            Policy::FullJitter { base, cap } => {
                let window = cap.min(base.saturating_mul(1 << attempt.min(32)));
                outbox.random_below(window + 1)
            }
        };
        own.max(advice)
    }
}

struct State {
    policy: Policy,
    heeds_advice: bool,
    begin: Nanos,
    /// Further attempts of each connection since it was open last.
    failed: Vec<u32>,
    /// Which connections the server has closed since all were open.
    thrown_out: Vec<bool>,
    thrown_out_count: u32,
    comes_back: bool,
    attempts: Series,
    opens: Series,
    /// From the begin (or from being closed) to being open.
    to_open: Latencies,
    waiting_since: Vec<Nanos>,
    all_open_ns: Option<Nanos>,
    tally: Tally,
    writer: Writer,
}

/// Counts by [`STEP`].
#[derive(Clone, Debug, Default)]
struct Series(Vec<u64>);

impl Series {
    fn count(&mut self, since: Nanos) {
        let step = ((since / STEP) as usize).min(STEPS_MAX - 1);
        if self.0.len() <= step {
            self.0.resize(step + 1, 0);
        }
        self.0[step] += 1;
    }
    fn add(&mut self, other: &Series) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }
    fn total(&self) -> u64 {
        self.0.iter().sum()
    }
    fn per_second(&self) -> Vec<u64> {
        self.0.iter().map(|count| count * (SECOND / STEP)).collect()
    }
}

impl State {
    fn try_again(&mut self, outbox: &mut Outbox, connection: u32, advice_s: Option<u32>) {
        let failed = &mut self.failed[connection as usize];
        let advice = advice_s.filter(|_| self.heeds_advice).map_or(0, |seconds| u64::from(seconds) * SECOND);
        let at = outbox.now() + self.policy.delay(*failed, advice, outbox);
        *failed += 1;
        self.attempts.count(at - self.begin);
        outbox.connect_at(connection, at);
    }
}

impl Handler for State {
    fn handle(&mut self, outbox: &mut Outbox, connection: u32, event: Event<'_>) {
        self.tally.note(&event);
        let index = connection as usize;
        match event {
            Event::Open => {
                self.failed[index] = 0;
                self.opens.count(outbox.now() - self.begin);
                self.to_open.record(outbox.now() - self.waiting_since[index]);
                outbox.send_text(connection, self.writer.connect());
            }
            Event::Refused { retry_after_s, .. } => self.try_again(outbox, connection, retry_after_s),
            Event::Closed(_) => {
                // A connection that was open, and not an attempt that failed.
                if self.failed[index] == 0 && self.comes_back && !self.thrown_out[index] {
                    self.thrown_out[index] = true;
                    self.thrown_out_count += 1;
                    self.waiting_since[index] = outbox.now();
                }
                self.try_again(outbox, connection, None);
            }
            Event::Text(_) | Event::Binary(_) | Event::Ping => {}
        }
    }
}

/// Runs the scenario.
///
/// # Errors
/// The load could not be brought about.
pub(in crate::capacity) fn run(args: &Storm) -> Result<Report, String> {
    let speech = Speech::Throng(Dialect::V1);
    let mut load = Load::new(target(&args.common, "/ws", speech.protocol()), args.connections);
    load.users = Some(args.connections);
    load.opening_max = args.connections as usize;
    let parts = crew::run(&args.common, &load, |worker, place| part(args, worker, place))?;
    let mut report = Report::new("storm");
    let (mut attempts, mut opens, mut to_open) = (Series::default(), Series::default(), Latencies::new());
    let (mut tally, mut open, mut thrown_out) = (Tally::default(), 0, 0);
    let (mut all_open, mut all_back) = (Some(0), Some(0));
    for part in parts {
        attempts.add(&part.state.attempts);
        opens.add(&part.state.opens);
        to_open.add(&part.state.to_open);
        all_open = all_open.zip(part.state.all_open_ns).map(|(latest, own): (Nanos, Nanos)| latest.max(own));
        all_back = all_back.zip(part.all_back_ns).map(|(latest, own): (Nanos, Nanos)| latest.max(own));
        open += part.open;
        thrown_out += part.state.thrown_out_count;
        tally.add(part.state.tally);
    }
    let seconds = |nanos: Nanos| rounded(nanos as f64 / SECOND as f64);
    report.figure("connections", args.connections, "");
    report.figure("attempts", attempts.total(), "");
    report.figure("attempts_per_second_peak", attempts.per_second().into_iter().max().unwrap_or(0), "/s");
    report.figure("opened", opens.total(), "");
    report.figure("opened_per_second_peak", opens.per_second().into_iter().max().unwrap_or(0), "/s");
    report.figure("refused", tally.refused(), "");
    report.latencies("to_open", &to_open);
    report.optional("all_open_after_s", all_open.map(seconds), "s");
    if args.reconnect {
        report.figure("closed_by_server", thrown_out, "");
        report.optional("all_back_after_s", all_back.map(seconds), "s (from the first close)");
    }
    report.figure("series_step_ms", STEP / MILLISECOND, "ms");
    report.figure("attempts_per_second", attempts.per_second(), "/s");
    report.figure("opened_per_second", opens.per_second(), "/s");
    tally.report(&mut report);
    if all_open.is_none() {
        report.failure(format!("not all were open within {} s", args.duration / SECOND));
    } else if args.reconnect && all_back.is_none() {
        let what = format!("{thrown_out} of {} were closed by the server and {open} are open at the end", args.connections);
        report.failure(format!("not all came back within {} s: {what}", args.duration / SECOND));
    }
    Ok(report)
}

struct Part {
    state: State,
    open: usize,
    all_back_ns: Option<Nanos>,
}

fn part(args: &Storm, worker: &mut Worker, place: &mut Place<'_>) -> Result<Part, String> {
    let share = worker.share_of(args.connections);
    let count = share as usize;
    let policy = args.fixed_delay.map_or(Policy::FullJitter { base: args.base, cap: args.cap }, Policy::Fixed);
    let begin = worker.now();
    let mut state = State {
        policy,
        heeds_advice: !args.ignore_advice,
        begin,
        failed: vec![0; count],
        thrown_out: vec![false; count],
        thrown_out_count: 0,
        comes_back: false,
        attempts: Series::default(),
        opens: Series::default(),
        to_open: Latencies::new(),
        waiting_since: vec![begin; count],
        all_open_ns: None,
        tally: Tally::default(),
        writer: Writer::default(),
    };
    let deadline = begin + args.duration;
    for connection in 0..share {
        state.attempts.count(0);
        worker.outbox().connect(connection);
    }
    if run_while(worker, &mut state, deadline, |_, worker| worker.counts().open < count)? {
        state.all_open_ns = Some(worker.now() - begin);
    }
    super::meet(place, worker, &mut state)?;
    let mut all_back_ns = None;
    if args.reconnect && state.all_open_ns.is_some() {
        state.comes_back = true;
        let is_pending = |state: &State, worker: &Worker| state.thrown_out_count < share || worker.counts().open < count;
        if run_while(worker, &mut state, deadline, is_pending)? {
            let first = state.waiting_since.iter().copied().min().unwrap_or(begin);
            all_back_ns = Some(worker.now() - first);
        }
    }
    Ok(Part { open: worker.counts().open, state, all_back_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_jitter_stays_within_a_window_that_doubles_up_to_the_cap() {
        let mut outbox = Outbox::new(1, 1);
        let policy = Policy::FullJitter { base: 100, cap: 1_000 };
        for (attempt, window) in [(0, 100), (1, 200), (3, 800), (4, 1_000), (200, 1_000)] {
            let delays: Vec<Nanos> = (0..1_000).map(|_| policy.delay(attempt, 0, &mut outbox)).collect();
            assert!(delays.iter().all(|delay| *delay <= window));
            assert!(delays.iter().any(|delay| *delay > window / 2) && delays.iter().any(|delay| *delay < window / 2));
        }
        assert!(policy.delay(0, 5_000, &mut outbox) >= 5_000);
        assert_eq!(Policy::Fixed(7).delay(9, 0, &mut outbox), 7);
    }

    #[test]
    fn series_count_by_step_and_are_bounded() {
        let mut series = Series::default();
        [0, STEP - 1, STEP, Nanos::MAX].into_iter().for_each(|since| series.count(since));
        assert_eq!((series.0[0], series.0[1], series.0[STEPS_MAX - 1], series.total()), (2, 1, 1, 4));
    }
}
