//! With the default settings a vanished peer is gone from presence within 30 s of its last byte, in both dialects, on one shard and two.

use crate::support::{Deadline, Roster, Setup};
use std::thread;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(30);

/// Runs one ghost at each number of shards and in each dialect, all at the same time.
pub(crate) fn run() {
    let cases = [(1, false), (1, true), (2, false), (2, true)];
    let watches: Vec<_> = cases.map(|(shards, plain)| thread::spawn(move || seconds_until_gone(shards, plain))).into();
    let seconds: Vec<f64> = watches.into_iter().map(|watch| watch.join().expect("the ghost is gone in time")).collect();
    let worst = seconds.iter().copied().fold(0.0, f64::max);
    println!("ghost-default: a vanished peer was gone after {seconds:.1?} s; the worst {worst:.1} s (at most 30)");
}

fn seconds_until_gone(shards: usize, plain: bool) -> f64 {
    let server = Setup::shards(shards).start(&[]);
    let mut watcher = server.client("watcher");
    let joined = watcher.join_present("r");
    let mut roster = Roster::from_join(&mut watcher, &joined);
    let mut ghost = if plain { server.plain("?user=ghost") } else { server.client("ghost") };
    ghost.join_present("r");
    let deadline = Deadline::after(BOUND);
    let socket = ghost.vanish();
    roster.follow_until(&mut watcher, |roster| roster.connections("ghost") == 1);
    roster.follow_until(&mut watcher, |roster| roster.connections("ghost") == 0);
    let left = deadline.left().expect("gone within the bound");
    drop(socket);
    (BOUND - left).as_secs_f64()
}
