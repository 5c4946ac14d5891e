//! The simulation for as long as one likes: many seeds on all cores, or one seed with its trace.
#![expect(clippy::print_stdout, reason = "a program that talks to who runs it")]

#[macro_use]
mod failure;
#[macro_use]
mod world;
mod client;
mod delays;
mod driver;
mod hear;
mod json;
mod judge;
mod peer;
mod plan;
mod rng;
mod room;
mod run;
mod socket;
mod tap;
mod told;
mod watch;

use plan::{Fault, Plan};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use told::Tally;

const HELP: &str = "\
Simulates whole servers from seeds and checks what their clients are told.

  --seeds N     so many seeds (default 1000); 0: until it is ended
  --from N      the first seed (default 0)
  --jobs N      threads (default: one a core)
  --seed N      only this one
  --trace FILE  with --seed: writes a line for each event; - is the standard output
  --bug NAME    with the feature planted: so many seeds, or all it takes, to find this bug; all: a table of all of them
  --no-shrink   report a failure as it was found

Ends with status 1 at the first failure, and says the seed, the commit and the smallest workload that fails.
Without panics there is no failure to catch: build it with --profile sim, or in debug.";

/// Clock ticks a second in /proc/self/stat, on every Linux.
const TICKS: u64 = 100;

struct Options {
    seeds: u64,
    from: u64,
    jobs: u64,
    seed: Option<u64>,
    trace: Option<String>,
    shrinks: bool,
    bug: Option<String>,
}

fn options() -> Result<Options, String> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let mut options = Options { seeds: 1_000, from: 0, jobs: cores, seed: None, trace: None, shrinks: true, bug: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64, String> {
            let text = words.next().ok_or(format!("{word} needs a number"))?;
            text.parse().map_err(|_| format!("{text} is not a number"))
        };
        match word.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--jobs" => options.jobs = number()?.max(1),
            "--seed" => options.seed = Some(number()?),
            "--trace" => options.trace = Some(words.next().ok_or("--trace needs a file")?),
            "--bug" => options.bug = Some(words.next().ok_or("--bug needs a name")?),
            "--no-shrink" => options.shrinks = false,
            "--help" | "-h" => return Err(HELP.to_owned()),
            other => return Err(format!("unknown option {other}; see --help")),
        }
    }
    Ok(options)
}

fn main() {
    let options = match options() {
        Ok(options) => options,
        Err(text) => {
            println!("{text}");
            std::process::exit(i32::from(text != HELP) * 2);
        }
    };
    if let Some(name) = &options.bug {
        std::process::exit(i32::from(!find(name, &options)));
    }
    let is_clean = match options.seed {
        Some(seed) => one(seed, &options),
        None => many(&options),
    };
    std::process::exit(i32::from(!is_clean));
}

fn one(seed: u64, options: &Options) -> bool {
    let plan = Plan::new(seed);
    let outcome = run::run(&plan, options.trace.is_some());
    match options.trace.as_deref() {
        Some("-") => outcome.trace.iter().for_each(|line| println!("{line}")),
        Some(file) => std::fs::write(file, outcome.trace.join("\n")).expect("the trace can be written"),
        None => {}
    }
    println!("{}", tell(&plan, &outcome, options));
    outcome.failure.is_none()
}

/// Looks for planted bugs. True if each was found.
#[cfg(feature = "planted")]
fn find(name: &str, options: &Options) -> bool {
    use throng::planted::Bug;
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| name == "all" || bug.name() == name).collect();
    let mut all = !bugs.is_empty();
    for bug in bugs {
        let seeds = options.seed.map_or(options.from..options.from + options.seeds, |seed| seed..seed + 1);
        let plan = |seed| Plan { bug: Some(bug), ..Plan::new(seed) };
        let found = seeds.clone().find_map(|seed| run::run(&plan(seed), false).failure.map(|failure| (seed, failure)));
        match found {
            Some((seed, ref failure)) => {
                println!("{:<36}{:>6}  {}: {}", bug.name(), seed - options.from + 1, failure.checker, failure.detail)
            }
            None => println!("{:<36} not in {} seeds", bug.name(), options.seeds),
        }
        all &= found.is_some();
    }
    all
}

#[cfg(not(feature = "planted"))]
fn find(_name: &str, _options: &Options) -> bool {
    println!("no bug can be planted in this build: add --features planted");
    false
}

fn tell(plan: &Plan, outcome: &run::Outcome, options: &Options) -> String {
    match &outcome.failure {
        Some(failure) if !options.shrinks => format!("seed {} fails: {}: {}", plan.seed, failure.checker, failure.detail),
        _ => run::report(plan, outcome),
    }
}

fn many(options: &Options) -> bool {
    let end = if options.seeds == 0 { u64::MAX } else { options.from + options.seeds };
    let next = AtomicU64::new(options.from);
    let (done, frames, simulated_ms) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    let seen = Mutex::new([0u64; Fault::COUNT]);
    let (recovered, clients) = (Mutex::new([0u64; 3]), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let plan = Plan::new(seed);
                    let outcome = run::run(&plan, false);
                    if outcome.failure.is_some() {
                        // The first tells; the others end.
                        if !failed.swap(true, Ordering::Relaxed) {
                            println!("{}", tell(&plan, &outcome, options));
                        }
                        break;
                    }
                    let count = done.fetch_add(1, Ordering::Relaxed) + 1;
                    frames.fetch_add(outcome.frames, Ordering::Relaxed);
                    simulated_ms.fetch_add(outcome.simulated_ms, Ordering::Relaxed);
                    let mut sums = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    sums.iter_mut().zip(outcome.seen).for_each(|(sum, count)| *sum += count);
                    clients.lock().unwrap_or_else(PoisonError::into_inner).add(outcome.clients);
                    let mut sums = recovered.lock().unwrap_or_else(PoisonError::into_inner);
                    sums.iter_mut().zip(outcome.recovered).for_each(|(sum, count)| *sum += count);
                    if count.is_multiple_of(5_000) {
                        println!("{count} seeds are clean");
                    }
                }
            });
        }
    });
    let (done, cpu_ms) = (done.into_inner(), cpu_ms());
    println!("{done} seeds from {} are clean, of {} operations each", options.from, plan::OPERATIONS);
    println!("  frames heard        {}", frames.into_inner());
    println!("  seeds a CPU-minute  {}", done * 60_000 / cpu_ms.max(1));
    println!("  times real time     {}", simulated_ms.into_inner() / cpu_ms.max(1));
    let [recoveries, lags, gaps] = recovered.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("  recoveries {recoveries}, lagging members {lags}, gaps {gaps}");
    println!("  client machines:");
    for (name, count) in clients.into_inner().unwrap_or_else(PoisonError::into_inner).parts_mut() {
        println!("    {name:<18}{count}");
    }
    for (fault, count) in Fault::ALL.iter().zip(seen.into_inner().unwrap_or_else(PoisonError::into_inner)) {
        println!("  {:<20}{count}", format!("{fault:?}"));
    }
    !failed.into_inner()
}

/// CPU time of this process, in ms.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) * 1_000 / TICKS
}
