//! The reconnect flood: 2,000 clients lose their server for 20 s. How many attempts a second come to where it listens, from clients of ours
//! and from clients with a fixed delay of one second, and when is everybody back?
//!
//! # The ideal
//! A client does not know whether the server is gone or only its own connection: PROTOCOL §9 lets each try again within 500 ms. All have
//! made their first attempt after that, so whatever the rule, somewhere in that time there are at least *clients ÷ 500 ms* attempts a
//! second: 4,000 for 2,000 clients. A rule reaches this ideal if it spreads the first attempts evenly and lets no second ones fall
//! among them. What is measured is the highest count of any step of 100 ms, so that chance alone adds about 6 %.
//!
//! What the formula leads one to expect is computed beside it, for three servers: one that tells no `spreadMs`, and whose clients' second
//! attempts do fall among the first; this one, if it filled slowly, so that its clients were told different ones; and this one, if all
//! came at once, as they do here.

mod crowd;
mod front;
mod plot;

use crate::chaos::rng::Rng;
use crate::support::{Deadline, Server, Setup};
use crowd::{Crowd, Kind};
use front::{Clock, Front};
use plot::{Plot, Series};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use throng::client::limits::{BACKOFF_BASE_MS, BACKOFF_CAP_MS, STABLE_MS};
use throng::limits::{ADMISSIONS_PER_SECOND, SPREAD_MS_MAX};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

const CLIENTS: usize = 2_000;
const SHARDS: usize = 1;
const OUTAGE_MS: u64 = 20_000;
/// Length of a step of the series.
const STEP_MS: u64 = 100;
/// Time that is shown and counted, from the loss on.
const SHOWN_MS: u64 = 60_000;
/// The peak of ours is at most this many times the ideal.
const PEAK_MAX: f64 = 1.3;
/// Everybody is back at most this long after the server: the longest delay, and what attempts take on a busy machine.
const BACK_MS_MAX: u64 = BACKOFF_CAP_MS + 5_000;
/// Time for all to connect for the first time.
const OPENING: Duration = Duration::from_secs(60);
/// Simulated runs that an expectation is the mean of.
const EXPECTED_RUNS: usize = 50;

/// What an outage came to. Times are in ms from the loss.
struct Outage {
    /// Attempts a second in each step.
    rates: Vec<f64>,
    /// When the server was there again.
    returned: u64,
    /// When each client was.
    back: Vec<u64>,
}

impl Outage {
    fn peak(&self) -> f64 {
        peak(&self.rates)
    }

    /// The highest rate from the return on.
    fn peak_at_return(&self) -> f64 {
        peak(&self.rates[(self.returned / STEP_MS) as usize..])
    }

    /// How long after the return so many of a hundred were back, in seconds.
    fn back_s(&self, percent: usize) -> f64 {
        let index = (self.back.len() * percent / 100).min(self.back.len() - 1);
        (self.back[index].saturating_sub(self.returned)) as f64 / 1_000.0
    }

    fn describe(&self, name: &str) -> String {
        format!(
            "{name}: peak {:.0} a second, {:.0} once the server was back; half were back {:.1} s after it, all {:.1} s",
            self.peak(),
            self.peak_at_return(),
            self.back_s(50),
            self.back_s(100)
        )
    }
}

fn peak(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}

/// Runs both crowds, prints figures and draws the plot.
pub(crate) fn run() {
    let ideal = CLIENTS as f64 * 1_000.0 / BACKOFF_BASE_MS as f64;
    // Twice the connections of the moment by the rate of admission.
    let told = |connections: u64| (2 * connections * 1_000 / ADMISSIONS_PER_SECOND).min(SPREAD_MS_MAX);
    let [silent, slowly, at_once] = [expected(&|_| 0), expected(&|client| told(client + 1)), expected(&|_| told(CLIENTS as u64))]
        .map(|rates| peak(&rates) / ideal);
    let ours = outage(Kind::Ours);
    let fixed = outage(Kind::Fixed);
    let per_second = |outage: &Outage| -> Vec<u64> {
        let steps = (1_000 / STEP_MS) as usize;
        outage.rates.chunks(steps).map(|second| (second.iter().sum::<f64>() / steps as f64) as u64).collect()
    };
    println!("attempts in each second, ours: {:?}", per_second(&ours));
    println!("attempts in each second, fixed delay of 1 s: {:?}", per_second(&fixed));
    let plot = Plot {
        title: "2,000 clients lose their server for 20 s: attempts to connect, counted where it listens",
        step_s: STEP_MS as f64 / 1_000.0,
        seconds: SHOWN_MS as f64 / 1_000.0,
        outage: (0.0, ours.returned as f64 / 1_000.0),
        ideal,
        series: &[
            Series { class: "fixed", label: "a fixed delay of 1 s", rates: &fixed.rates },
            Series { class: "ours", label: "throng::client", rates: &ours.rates },
        ],
    };
    let path = plot_path();
    std::fs::write(&path, plot.svg()).expect("the plot can be written");
    println!(
        "by the formula {silent:.2} of the ideal without spreadMs, {slowly:.2} if the server filled slowly, {at_once:.2} at once"
    );
    println!("{}", fixed.describe("a fixed delay of 1 s"));
    println!("{}", ours.describe("ours"));
    println!(
        "reconnect-flood: {CLIENTS} clients, {} s without a server: peak of ours {:.2} of the ideal {ideal:.0} a second in steps of \
         {STEP_MS} ms (at most {PEAK_MAX}), that of a fixed delay {:.1}; plot in {}",
        OUTAGE_MS / 1_000,
        ours.peak() / ideal,
        fixed.peak() / ideal,
        path.display()
    );
    assert!(ours.peak() <= PEAK_MAX * ideal, "the peak of ours is too high");
    assert!(fixed.peak() > 2.0 * ours.peak(), "what is measured does not tell a herd from a crowd");
    let last = ours.back.last().map_or(u64::MAX, |last| last.saturating_sub(ours.returned));
    assert!(last <= BACK_MS_MAX, "the last was back {last} ms after the server");
}

/// Where the plot goes: with `UPDATE=1` to where the README shows it.
fn plot_path() -> PathBuf {
    let name = "reconnect-flood.svg";
    if std::env::var_os("UPDATE").is_some() {
        return Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flood").join(name);
    }
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// One crowd through one outage.
fn outage(kind: Kind) -> Outage {
    let server = Setup::shards(SHARDS).start(&[]);
    let clock = Clock::start();
    let address = server.data;
    // Threads of their own, so that neither a busy crowd nor the end of 2,000 connections delays what is counted.
    let (carriers, carrying) = beside(|| async { Handle::current() });
    let (front, counting) = beside(move || async move { Front::start(address, clock, carriers).expect("a port is free") });
    let outage = runtime().block_on(play(kind, server, &front));
    drop((counting, carrying));
    outage
}

/// Begins something in a thread and runtime of its own, which end when the sender is dropped.
fn beside<T: Send + 'static, F: Future<Output = T>>(begin: impl FnOnce() -> F + Send + 'static) -> (T, oneshot::Sender<()>) {
    let (sender, begun) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let _ = sender.send(begin().await); // it is waited for
            let _ = stopped.await;
        });
    });
    (begun.recv().expect("it begins"), stop)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
}

async fn play(kind: Kind, server: Server, front: &Arc<Front>) -> Outage {
    let clock = front.clock();
    let crowd = Crowd::start(kind, CLIENTS, front);
    connected(&crowd, OPENING, "at first").await;
    // As long as a connection must stand to count as stable.
    tokio::time::sleep(Duration::from_millis(STABLE_MS + 1_000)).await;
    assert_eq!(crowd.connected(), CLIENTS, "nobody is lost before the server is");
    let flags = ["--listen".to_owned(), server.data.to_string()];
    front.set_up(false);
    let lost = clock.now_ms();
    tokio::task::spawn_blocking(move || drop(server)).await.expect("the server is killed");
    tokio::time::sleep(Duration::from_millis((lost + OUTAGE_MS).saturating_sub(clock.now_ms()))).await;
    let starting = move || Setup::shards(SHARDS).start(&flags.each_ref().map(String::as_str));
    let server = tokio::task::spawn_blocking(starting).await.expect("the server starts again");
    front.set_up(true);
    let returned = clock.now_ms() - lost;
    connected(&crowd, Duration::from_millis(4 * BACK_MS_MAX), "after the outage").await;
    let opened = front.opened();
    assert_eq!(crowd.attempts(), opened.len() as u64, "{kind:?}: each attempt is counted on both sides");
    let mut rates = vec![0.0; (SHOWN_MS / STEP_MS) as usize];
    for at in opened.into_iter().filter_map(|at| at.checked_sub(lost)) {
        if let Some(rate) = rates.get_mut((at / STEP_MS) as usize) {
            *rate += 1_000.0 / STEP_MS as f64;
        }
    }
    let mut back: Vec<u64> = crowd.connections().into_iter().filter_map(|at| at.checked_sub(lost)).collect();
    back.sort_unstable();
    assert_eq!(back.len(), CLIENTS, "each is back, once");
    drop(server);
    Outage { rates, returned, back }
}

/// Waits until all are connected.
async fn connected(crowd: &Crowd, patience: Duration, when: &str) {
    let deadline = Deadline::after(patience);
    while crowd.connected() < CLIENTS {
        assert!(!deadline.passed(), "{when}, only {} of {CLIENTS} connected", crowd.connected());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Attempts a second in each step, as PROTOCOL §9 leads one to expect while there is no server, if each client was told this `spreadMs`.
fn expected(spread_ms: &dyn Fn(u64) -> u64) -> Vec<f64> {
    let mut rng = Rng::new(1);
    let mut rates = vec![0.0; (OUTAGE_MS / STEP_MS) as usize];
    for client in (0..EXPECTED_RUNS).flat_map(|_| 0..CLIENTS as u64) {
        let mut at = 0;
        for attempt in 0.. {
            let window = BACKOFF_BASE_MS.saturating_mul(1 << attempt.min(32)).min(BACKOFF_CAP_MS);
            at += rng.below(window.max(if attempt > 0 { spread_ms(client) } else { 0 }) + 1);
            let Some(rate) = rates.get_mut((at / STEP_MS) as usize) else { break };
            *rate += 1_000.0 / (STEP_MS as f64 * EXPECTED_RUNS as f64);
        }
    }
    rates
}
