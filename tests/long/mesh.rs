//! Two shards flood each other through lanes of four places for a minute: nothing waits for ever, nothing is lost, nothing grows.

use crate::support::{Deadline, Setup};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

const ROOMS: usize = 8;
const PUBLISHERS: usize = 8;
const MEMBERS: usize = 8;
/// Publications that a publisher has under way: below the protocol's window.
const UNDER_WAY: u64 = 48;

/// Floods, then accounts for every publication.
pub(crate) fn run() {
    let server = Setup::shards(2).start(&["--lane-places", "4"]);
    let mut members: Vec<_> = (0..MEMBERS).map(|index| server.client(&format!("member{index}"))).collect();
    for member in &mut members {
        (0..ROOMS).for_each(|room| drop(member.join(&format!("room{room}"))));
    }
    let before = server.metrics();
    let deadline = Deadline::after(Duration::from_secs(60));
    let readers: Vec<_> = members.into_iter().map(|member| thread::spawn(move || read_all(member))).collect();
    let writers: Vec<_> = (0..PUBLISHERS)
        .map(|index| {
            let mut publisher = server.client(&format!("publisher{index}"));
            thread::spawn(move || {
                (0..ROOMS).for_each(|room| drop(publisher.join(&format!("room{room}"))));
                let mut sent = 0;
                while !deadline.passed() {
                    let seq = publisher.broadcast(&format!("room{}", sent % ROOMS as u64), json!([index, sent]));
                    sent += 1;
                    publisher.expect_ack(seq.saturating_sub(UNDER_WAY));
                    publisher.forget("broadcast");
                }
                // The last word in every room.
                let mut last = 0;
                (0..ROOMS).for_each(|room| last = publisher.broadcast(&format!("room{room}"), json!([index, "end"])));
                publisher.expect_ack(last);
                sent
            })
        })
        .collect();
    let sent: u64 = writers.into_iter().map(|writer| writer.join().expect("it is never stuck")).sum();
    for reader in readers {
        assert_eq!(reader.join().expect("it is never stuck"), sent, "a member got another number");
    }
    server.assert_nothing_left();
    let after = server.metrics();
    let held = after.sum("throng_memory_bytes");
    let waits = after.sum("throng_lane_waits_total");
    assert!(waits > 0.0, "the lanes were never full: this flood shows nothing");
    assert!(held <= before.sum("throng_memory_bytes"), "held {held} bytes: {}", after.describe("memory"));
    println!(
        "mesh-flood: {sent} publications to {MEMBERS} members each in 60 s, {waits} waits for a lane, none lost, {held} bytes held after"
    );
}

/// Reads until every publisher has had its last word in every room; verifies each publisher's order and the room's offsets.
fn read_all(mut member: crate::support::Client) -> u64 {
    let mut next_offset: BTreeMap<String, u64> = BTreeMap::new();
    let mut last: BTreeMap<(String, u64), u64> = BTreeMap::new();
    let (mut ends, mut count) = (0, 0);
    while ends < ROOMS * PUBLISHERS {
        let frame = member.expect("broadcast");
        let room = frame["roomId"].as_str().expect("a broadcast names its room").to_owned();
        let offset = frame["offset"].as_u64().expect("a sequenced publication has an offset");
        let expected = next_offset.entry(room.clone()).or_insert(offset);
        assert_eq!(offset, *expected, "a hole in {room}");
        *expected += 1;
        let publisher = frame["data"][0].as_u64().expect("it says who");
        let Value::Number(number) = &frame["data"][1] else {
            ends += 1;
            continue;
        };
        let number = number.as_u64().expect("it counts");
        let before = last.insert((room, publisher), number);
        assert!(before.is_none_or(|before| before + ROOMS as u64 == number), "{before:?} then {number}");
        count += 1;
    }
    count
}
