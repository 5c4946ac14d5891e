//! The incident's own size: its connections at once, a part of which break off, and nothing left of any.

use crate::support::{Metrics, Setup};
use crate::swarm::Member;
use std::thread;

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
    // Rooms with a publication outlive their members, so the account is taken when every room is known.
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
