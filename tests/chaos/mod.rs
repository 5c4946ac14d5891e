//! The chaos run: clients publish numbered messages into shared rooms through a proxy that cuts, resets and stalls connections, and the
//! server may be killed and started again; then it is calm, everything settles, and all records are judged together.
//!
//! Decides who is in which room and when what happens. Whether it held, `judge` says.

pub(crate) mod judge;
mod member;
mod page;
mod proxy;
#[path = "../sim/rng.rs"]
#[allow(dead_code, reason = "a part of it is used")]
pub(crate) mod rng;

use crate::support::{PATIENCE, Server, Setup};
use judge::{Figures, Record};
use member::Member;
use page::Page;
use proxy::Proxy;
use rng::Rng;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// Members of a room.
const MEMBERS_EACH: usize = 40;
/// Rooms of a member.
const ROOMS_EACH: usize = 2;
/// How long everything may take to settle: the longest wait between two attempts, twice, and what a busy machine adds.
const SETTLE: Duration = Duration::from_secs(150);

/// Bytes of a room's history, so that the number of publications is what bounds it.
const HISTORY_BYTES: &str = "8M";

/// Signs of life are asked for early, so that a silence of seconds is found; a client may be in its own rooms only.
const FLAGS: [&str; 8] = ["--heartbeat", "2s", "--heartbeat-idle", "2s", "--timeout", "2s", "--rooms-per-connection-max", "2"];

/// A run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) shards: usize,
    /// Rust clients behind the proxy.
    pub(crate) clients: usize,
    /// How long connections are harmed.
    pub(crate) chaos: Duration,
    /// How long a client stays unharmed, on average.
    pub(crate) calm_each: Duration,
    pub(crate) seed: u64,
    /// Times that the server is killed meanwhile, and started again.
    pub(crate) restarts: u32,
    /// A page in Chromium takes part.
    pub(crate) page: bool,
    /// Publications that a room keeps; less than is published in a long absence makes gaps.
    pub(crate) history: u32,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) figures: Figures,
    /// The closing line.
    pub(crate) line: String,
}

impl Plan {
    fn rooms(&self) -> usize {
        (self.clients * ROOMS_EACH / MEMBERS_EACH).max(ROOMS_EACH)
    }

    /// The rooms of a member.
    fn rooms_of(&self, index: usize) -> [usize; ROOMS_EACH] {
        let rooms = self.rooms();
        // The second room differs between members that share the first.
        let first = index % rooms;
        [first, (first + 1 + index / rooms % (rooms - 1)) % rooms]
    }
}

/// Runs a plan and judges it.
///
/// # Panics
/// If something did not hold, or did not settle in time; says the seed.
pub(crate) fn run(plan: &Plan) -> Outcome {
    println!("chaos: {plan:?}");
    let server = start(plan, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    let (outcome, server) = runtime.block_on(play(plan, server));
    drop(runtime);
    server.assert_nothing_left();
    outcome
}

async fn play(plan: &Plan, server: Server) -> (Outcome, Server) {
    let mut rng = Rng::new(plan.seed);
    let address = server.data;
    let proxy = Proxy::start(address, rng.next()).await.expect("a port is free");
    let forbidden = plan.rooms();
    let members: Vec<Member> = (0..plan.clients).map(|index| Member::start(index, proxy.address, &plan.rooms_of(index))).collect();
    // Somebody who is allowed where the others are not, and would hear what is published there. Nothing cuts it off but a restart.
    let host = Member::start(plan.clients, address, &[forbidden]);
    let page = plan.page.then(|| Page::start(plan.clients + 1, proxy.address, &plan.rooms_of(plan.clients + 1)));
    let joined = async {
        for member in members.iter().chain([&host]) {
            member.joined().await;
        }
        if let Some(page) = &page {
            page.expect("joined").await;
        }
    };
    tokio::time::timeout(PATIENCE, joined).await.expect("all join in time");
    if let Some(page) = &page {
        page.tell("publish");
    }
    let (stop, stopped) = watch::channel(false);
    let publishing = members.iter().map(|member| member.publish(Rng::new(rng.next()), forbidden, stopped.clone()));
    let publishing = all(publishing.collect());
    let harming = async {
        let server = harm(plan, &proxy, server, &mut rng).await;
        proxy.calm().await;
        stop.send_replace(true);
        server
    };
    let ((), server) = tokio::join!(publishing, harming);
    let records = tokio::time::timeout(SETTLE, settle(&members, &host, page, plan.seed));
    let Ok(records) = records.await else { panic!("not settled within {SETTLE:?}: {}", standing(&members, plan)) };
    let figures = judge::judge(&records).unwrap_or_else(|complaint| panic!("{plan:?}: {complaint}"));
    let line = closing_line(plan, &proxy, &figures, &members, records.last().filter(|_| plan.page));
    for member in members.into_iter().chain([host]) {
        member.client.close().await;
    }
    (Outcome { figures, line }, server)
}

/// Harms connections for the time of the plan, and kills the server as often as it says.
async fn harm(plan: &Plan, proxy: &Proxy, mut server: Server, rng: &mut Rng) -> Server {
    let pause_ms = (plan.calm_each.as_millis() as u64 / plan.clients as u64).max(1);
    let part = plan.chaos / (plan.restarts + 1);
    for restart in 0..=plan.restarts {
        let striking = async {
            loop {
                tokio::time::sleep(Duration::from_millis(rng.below(2 * pause_ms) + 1)).await;
                proxy.strike(rng);
            }
        };
        let _ = tokio::time::timeout(part, striking).await;
        if restart < plan.restarts {
            server = tokio::task::spawn_blocking({
                let plan = *plan;
                move || again(&plan, server)
            })
            .await
            .expect("the server starts again");
        }
    }
    server
}

/// Kills the server and starts another one at its address.
fn again(plan: &Plan, server: Server) -> Server {
    let address = server.data.to_string();
    drop(server);
    start(plan, &["--listen", &address])
}

fn start(plan: &Plan, further: &[&str]) -> Server {
    let history = plan.history.to_string();
    let mut flags = vec!["--history-publications", &history, "--history-bytes", HISTORY_BYTES];
    flags.extend(FLAGS);
    flags.extend(further);
    Setup::shards(plan.shards).start(&flags)
}

/// Waits until everybody knows what became of its publications and has heard the last one of each other member; returns the records.
async fn settle(members: &[Member], host: &Member, page: Option<Page>, seed: u64) -> Vec<Record> {
    let mut rng = Rng::new(seed ^ 1);
    // Whoever has an acknowledgement in each of its rooms is a member again. What is published when all are, all are owed.
    all(members.iter().map(|member| member.settle(Rng::new(rng.next()))).collect()).await;
    let mut last: Vec<(usize, usize, usize)> = Vec::new();
    if let Some(page) = &page {
        page.tell("calm");
        last.extend(page.last_numbers().await);
    }
    all(members.iter().map(|member| member.settle(Rng::new(rng.next()))).collect()).await;
    for (author, member) in members.iter().enumerate() {
        last.extend(member.last_numbers().into_iter().map(|(room, number)| (room, author, number)));
    }
    for member in members {
        for (room, author, number) in &last {
            member.hear(*room, *author, *number).await;
        }
    }
    for member in members {
        let is_in = |rooms: &[usize]| rooms.contains(&member.first_room());
        let rooms_of = |member: &Member| member.record().heard.keys().copied().collect::<Vec<_>>();
        let users = members.iter().filter(|other| is_in(&rooms_of(other))).count();
        let page = page.as_ref().is_some_and(|page| is_in(page.rooms()));
        member.see(users + usize::from(page)).await;
    }
    let mut records: Vec<Record> = members.iter().chain([host]).map(|member| member.record().clone()).collect();
    if let Some(page) = page {
        records.push(page.end(&last).await);
    }
    records
}

/// Waits for all of them.
async fn all(mut futures: Vec<impl Future<Output = ()>>) {
    let mut pinned: Vec<_> = futures.drain(..).map(Box::pin).collect();
    std::future::poll_fn(|context| {
        pinned.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if pinned.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

fn closing_line(plan: &Plan, proxy: &Proxy, figures: &Figures, members: &[Member], page: Option<&Record>) -> String {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let stats: Vec<_> = members.iter().map(|member| member.client.stats()).collect();
    let (welcomes, resumes) =
        stats.iter().fold((0, 0), |(welcomes, resumes), stats| (welcomes + stats.welcomes, resumes + stats.resumes));
    let page = page.map_or_else(String::new, |page| {
        let heard = page.heard.values().map(Vec::len).sum::<usize>();
        format!(" and a page in Chromium ({} published, {heard} heard)", page.sent.len())
    });
    format!(
        "chaos, {} shards, {} clients{}, {} s, {} restarts, seed {}: {} cuts, {} resets, {} swallowed and reset, {} stalls, {} refused; \
         {welcomes} connections, {resumes} resumed; {} published, {} acknowledged, {} unknown, {} refused; \
         {} deliveries, {} duplicates, {} missing, {} gaps told ({} deliveries lost in them)",
        plan.shards,
        plan.clients,
        page,
        plan.chaos.as_secs(),
        plan.restarts,
        plan.seed,
        count(&proxy.counts.cuts),
        count(&proxy.counts.resets),
        count(&proxy.counts.swallows),
        count(&proxy.counts.stalls),
        count(&proxy.counts.refusals),
        figures.published,
        figures.acked,
        figures.unknown,
        figures.refused,
        figures.deliveries,
        figures.duplicates,
        figures.missing,
        figures.gaps,
        figures.told_missing,
    )
}

/// What is not settled: the states of clients, for a failure.
fn standing(members: &[Member], plan: &Plan) -> String {
    let mut text = format!("{plan:?}");
    for (index, member) in members.iter().enumerate() {
        let record = member.record();
        let open = record.sent.iter().filter(|sent| sent.fate == judge::Fate::Open).count();
        let heard: Vec<usize> = record.heard.values().map(Vec::len).collect();
        text += &format!("\n{index}: {:?}, {open} open, heard {heard:?}, {:?}", member.client.state(), member.client.stats());
    }
    text
}
