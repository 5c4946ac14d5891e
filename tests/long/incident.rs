//! The incident's own size: its connections at once, its load, and what each connection costs.

use crate::support::{Deadline, Metrics, Setup};
use crate::swarm::{Member, process_bytes};
use std::thread;
use std::time::Duration;

const CONNECTIONS: usize = 12_000;
const USERS: usize = 1_200;
const ROOMS: usize = 1_200;
const ABNORMAL: usize = 2_891;

/// The room of a connection's first or second membership: 24,000 memberships in rooms of 20.
fn rooms_of(index: usize) -> [String; 2] {
    [format!("room{}", index % ROOMS), format!("room{}", (index + ROOMS / 2 + index / ROOMS) % ROOMS)]
}

fn connect_all(address: std::net::SocketAddr) -> Vec<Member> {
    let halves = [0, 1].map(|half| {
        thread::spawn(move || {
            let mine = (half..CONNECTIONS).step_by(2);
            mine.map(|index| Member::join(address, index, &format!("user{}", index % USERS), &rooms_of(index))).collect::<Vec<_>>()
        })
    });
    halves.into_iter().flat_map(|half| half.join().expect("all connect")).collect()
}

fn memberships(metrics: &Metrics) -> f64 {
    metrics.sum("ws_room_subscriptions")
}

/// 12,000 connections at once; 2,891 of them break off, the others leave; then nothing is left of any.
pub(crate) fn scale() {
    let server = Setup::shards(3).start(&["--connections-max", "16000", "--presence-grace", "1s"]);
    // Rooms outlive their members, so the account is taken when every room is known.
    let before = {
        let opener: Vec<Member> =
            (0..ROOMS).map(|room| Member::join(server.data, room, "opener", &[format!("room{room}")])).collect();
        opener.into_iter().for_each(|mut member| member.say_goodbye());
        server
            .wait_until("the rooms are empty", |metrics| metrics.sum("ws_active_connections") == 0.0 && memberships(metrics) == 0.0)
    };
    let abnormal_before = before.sum("ws_abnormal_closes");
    let mut members = connect_all(server.data);
    let held = server.wait_until("all memberships", |metrics| memberships(metrics) == (2 * CONNECTIONS) as f64);
    for member in members.drain(..ABNORMAL) {
        member.into_peer().reset();
    }
    server.wait_until("those that broke off are gone", |metrics| memberships(metrics) == (2 * (CONNECTIONS - ABNORMAL)) as f64);
    members.iter_mut().for_each(|member| {
        member.sweep(1 << 20);
        member.say_goodbye();
    });
    let after = server.wait_until("the account is back where it began", |metrics| {
        metrics.sum("ws_active_connections") == 0.0
            && memberships(metrics) == 0.0
            && metrics.sum("throng_sessions") == before.sum("throng_sessions")
            && metrics.sum("throng_memory_bytes") <= before.sum("throng_memory_bytes")
    });
    server.assert_nothing_left();
    let abnormal = after.sum("ws_abnormal_closes") - abnormal_before;
    assert_eq!(abnormal, ABNORMAL as f64, "{}", after.describe("closes"));
    println!(
        "incident-scale: {CONNECTIONS} connections at once, {abnormal} broke off; held {} bytes, then {} (before {}); orphans {}, leave failures {}",
        held.sum("throng_memory_bytes"),
        after.sum("throng_memory_bytes"),
        before.sum("throng_memory_bytes"),
        after.sum("ws_orphaned_subscriptions"),
        after.sum("ws_room_leave_failures"),
    );
}

/// 60 s of broadcasts over all rooms, with every fifth connection reading 1 KiB a second. RSS stays at most 64 MB.
pub(crate) fn load() {
    const RSS_MAX: u64 = 64_000_000;
    let server = Setup::shards(2).start(&["--connections-max", "13000"]);
    let mut members = connect_all(server.data);
    server.wait_until("all memberships", |metrics| memberships(metrics) == (2 * CONNECTIONS) as f64);
    let (mut rss, mut rounds, mut published) = (0, 0, 0);
    let data = "d".repeat(512);
    let deadline = Deadline::after(Duration::from_secs(60));
    while !deadline.passed() {
        // 40 publications a round, each to the 20 members of a room; slow readers publish nothing.
        for step in 0..40 {
            let index = (rounds * 40 + step) * 7 % CONNECTIONS;
            if !is_slow(index) && members[index].closed.is_none() {
                members[index].broadcast(&rooms_of_member(index), &data);
                published += 1;
            }
        }
        for (index, member) in members.iter_mut().enumerate() {
            match is_slow(index) {
                true if (index + rounds).is_multiple_of(20) => member.sweep(1_024),
                true => {}
                false => member.sweep(1 << 16),
            }
        }
        rss = rss.max(process_bytes(&server, "VmRSS"));
        rounds += 1;
        thread::sleep(Duration::from_millis(10));
    }
    let lost = members.iter().enumerate().filter(|(index, member)| !is_slow(*index) && member.closed.is_some()).count();
    let delivered: u64 = members.iter().map(|member| member.broadcasts).sum();
    let metrics = server.metrics();
    let late =
        metrics.sum_where("event_loop_lag_ms_bucket", "le", "+Inf") - metrics.sum_where("event_loop_lag_ms_bucket", "le", "100");
    println!(
        "incident-load: {CONNECTIONS} connections, {published} publications, {delivered} deliveries read in 60 s; RSS at most {rss} bytes (64 MB allowed), held {} bytes, send queues {} bytes, {late} turns above 100 ms, slow consumers closed {}, fast ones lost {lost}",
        metrics.sum("throng_memory_bytes"),
        metrics.sum("throng_send_queue_bytes"),
        metrics.sum_where("throng_closes_total", "reason", "slow_consumer"),
    );
    assert!(published > 0 && delivered > 0, "there was no load");
    assert_eq!(lost, 0, "readers that keep up are served: {}", metrics.describe("closes"));
    assert!(rss <= RSS_MAX, "RSS {rss}");
}

fn is_slow(index: usize) -> bool {
    // The two threads of `connect_all` interleave: any fifth of the connections will do.
    index.is_multiple_of(5)
}

/// `connect_all` gives the even indices first.
fn rooms_of_member(place: usize) -> String {
    let half = CONNECTIONS / 2;
    let index = if place < half { place * 2 } else { (place - half) * 2 + 1 };
    let [first, _] = rooms_of(index);
    first
}

/// The slope of the user memory from 1,000 to 15,000 connections, each in a room of 100 with presence: at most 256 bytes each.
pub(crate) fn density() {
    let mut figures = Vec::new();
    for shards in [1, 2] {
        let server = Setup::shards(shards).start(&["--connections-max", "16000"]);
        let mut members = Vec::new();
        let anonymous = |members: &mut Vec<Member>, count: usize| {
            for index in members.len()..count {
                members.push(Member::join(server.data, index, &format!("user{index}"), &[format!("room{}", index / 100)]));
            }
            server.wait_until("every diff has left", |metrics| {
                memberships(metrics) == count as f64 && metrics.sum("throng_send_queue_bytes") == 0.0
            });
            // Diffs are held for up to a second; then their buffers are free.
            thread::sleep(Duration::from_secs(3));
            process_bytes(&server, "RssAnon")
        };
        let few = anonymous(&mut members, 1_000);
        let many = anonymous(&mut members, 15_000);
        figures.push((shards, (many as f64 - few as f64) / 14_000.0));
    }
    let shown: Vec<String> = figures.iter().map(|(shards, bytes)| format!("{bytes:.0} bytes on {shards} shards")).collect();
    println!("density: {} a connection with room and presence (at most 256)", shown.join(", "));
    assert!(figures.iter().all(|(_, bytes)| *bytes <= 256.0), "above 256 bytes");
}
