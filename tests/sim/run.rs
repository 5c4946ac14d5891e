//! Runs a workload to its end or to the first failure, makes a failing one small, and tells what happened.

use crate::failure::Failure;
use crate::plan::{Fault, Plan, Step};
use crate::told::Tally;
use crate::world::World;
use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// Runs that shrinking may take.
const SHRINK_RUNS_MAX: usize = 1_500;
/// Lines of a trace that a report shows.
const REPORT_LINES: usize = 60;

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) failure: Option<Failure>,
    /// The step in which it failed; the number of steps if it was afterwards.
    pub(crate) step: usize,
    /// Time that passed in the world, in ms.
    pub(crate) simulated_ms: u64,
    pub(crate) frames: u64,
    pub(crate) seen: [u64; Fault::COUNT],
    /// Joins that recovered something, members that lagged, and members that were told of a gap.
    pub(crate) recovered: [u64; 3],
    pub(crate) clients: Tally,
    pub(crate) trace: Vec<String>,
}

/// Runs a workload.
pub(crate) fn run(plan: &Plan, traced: bool) -> Outcome {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if RUNNING.get() {
                PANIC.set(Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
    let mut world = World::new(plan, traced);
    let start = world.now.mono;
    RUNNING.set(true);
    #[cfg(feature = "planted")]
    throng::planted::plant(plan.bug);
    let result = catch_unwind(AssertUnwindSafe(|| world.play()));
    RUNNING.set(false);
    let failure = result.err().map(|cause| match cause.downcast::<Failure>() {
        Ok(failure) => *failure,
        // An assertion of the core itself.
        Err(_) => Failure { checker: "assertion", detail: PANIC.take().unwrap_or_default() },
    });
    Outcome {
        failure,
        step: world.step,
        simulated_ms: world.now.mono.since(start),
        frames: world.frames,
        recovered: [world.recoveries, world.sum(|stats| stats.lagging), world.gaps],
        clients: world.tally,
        seen: world.seen,
        trace: world.trace.unwrap_or_default(),
    }
}

/// The smallest workload found that fails the same checker.
pub(crate) fn shrink(plan: &Plan, outcome: &Outcome) -> Plan {
    let Some(failure) = &outcome.failure else { return plan.clone() };
    let mut runs = 0;
    let mut fails = |plan: &Plan| {
        runs += 1;
        let is_allowed = runs <= SHRINK_RUNS_MAX;
        is_allowed && run(plan, false).failure.is_some_and(|other| other.checker == failure.checker)
    };
    let mut best = plan.clone();
    let cut = Plan { steps: best.steps[..(outcome.step + 1).min(best.steps.len())].to_vec(), ..best.clone() };
    if fails(&cut) {
        best = cut;
    }
    let mut chunk = best.steps.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < best.steps.len() {
            let end = (at + chunk).min(best.steps.len());
            let steps: Vec<Step> = best.steps[..at].iter().chain(&best.steps[end..]).copied().collect();
            let smaller = Plan { steps, ..best.clone() };
            if fails(&smaller) {
                best = smaller;
            } else {
                at = end;
            }
        }
        chunk /= 2;
    }
    for fault in Fault::ALL {
        if best.shape.has(*fault) {
            let mut smaller = best.clone();
            smaller.shape.faults &= !(1 << *fault as u8);
            if fails(&smaller) {
                best = smaller;
            }
        }
    }
    best
}

/// Everything that is needed to run a failure again and to understand it.
pub(crate) fn report(plan: &Plan, outcome: &Outcome) -> String {
    let Some(failure) = &outcome.failure else { return format!("seed {}: clean", plan.seed) };
    let small = shrink(plan, outcome);
    let again = run(&small, true);
    let mut text = String::new();
    let _ = writeln!(text, "seed {} fails at commit {}: {}: {}", plan.seed, commit(), failure.checker, failure.detail);
    let _ = writeln!(text, "replay: cargo run --profile sim --no-default-features --example sim -- --seed {} --trace -", plan.seed);
    let faults: Vec<&Fault> = Fault::ALL.iter().filter(|fault| small.shape.has(**fault)).collect();
    let _ = writeln!(
        text,
        "{} of {} steps suffice, with {faults:?}, {} shards:",
        small.steps.len(),
        plan.steps.len(),
        plan.shape.shards
    );
    for step in small.steps.iter().take(REPORT_LINES) {
        let _ = writeln!(text, "  {step:?}");
    }
    if let Some(failure) = &again.failure {
        let _ = writeln!(text, "which ends in {}: {}", failure.checker, failure.detail);
    }
    let _ = writeln!(text, "the last of its trace:");
    for line in &again.trace[again.trace.len().saturating_sub(REPORT_LINES)..] {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// The commit that is run, if there is a repository.
fn commit() -> String {
    let answer = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let text = answer.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if text.is_empty() { "unknown".to_owned() } else { text }
}
