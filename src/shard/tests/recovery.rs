//! Whoever missed publications gets each of them once and in order, then live ones: from a join that says where it stands, and as a
//! member that is slow.

use super::world::{Disorder, World, WorldConfig};
use crate::close::CloseReason;
use crate::limits::{HISTORY_PROMISE_MS, Limits, RECOVERY_CHUNK_BYTES_MAX};
use serde_json::Value;

fn world(shards: usize, limits: Limits) -> World {
    World::new(WorldConfig { shards, limits, ..WorldConfig::default() })
}

fn join(room: &str, seq: u64) -> String {
    format!(r#"{{"type":"join_room","roomId":"{room}","seq":{seq}}}"#)
}

fn join_since(room: &str, seq: u64, epoch: &str, offset: u64) -> String {
    format!(r#"{{"type":"join_room","roomId":"{room}","since":{{"epoch":"{epoch}","offset":{offset}}},"seq":{seq}}}"#)
}

/// A client that has joined a room; returns it and the room's epoch.
fn member(world: &mut World, shard: usize, user: &str, room: &str) -> (usize, String) {
    let client = world.v1(shard, user);
    world.say(client, &[&join(room, 1)]);
    let epoch = world.take(client)[0]["epoch"].as_str().expect("an epoch").to_owned();
    (client, epoch)
}

fn send(world: &mut World, client: usize, room: &str, seqs: std::ops::Range<u64>, bytes: usize) {
    for seq in seqs {
        let pad = "x".repeat(bytes);
        world.send(client, &format!(r#"{{"type":"broadcast","roomId":"{room}","data":[{seq},"{pad}"],"seq":{seq}}}"#));
    }
}

fn offsets(messages: &[Value]) -> Vec<u64> {
    let broadcasts = messages.iter().filter(|message| message["type"] == "broadcast");
    broadcasts.map(|message| message["offset"].as_u64().expect("an offset")).collect()
}

/// Takes publications until none comes any more.
fn take_all(world: &mut World, client: usize) -> Vec<Value> {
    world.run();
    world.take(client)
}

#[test]
fn a_join_that_says_where_it_stands_gets_what_it_missed_and_then_what_is_live() {
    for shards in [1, 2, 3] {
        let mut world = world(shards, Limits::default());
        let room = world.room_at(shards - 1);
        let (a, epoch) = member(&mut world, 0, "ann", &room);
        send(&mut world, a, &room, 2..42, 1_000);
        world.run();
        for (offset, shard) in [(0, 0), (17, shards / 2), (39, shards - 1), (40, 0)] {
            let b = world.v1(shard, "bob");
            world.say(b, &[&join_since(&room, 1, &epoch, offset)]);
            let messages = take_all(&mut world, b);
            assert_eq!((&messages[0]["type"], &messages[0]["recovered"]), (&"room_joined".into(), &true.into()));
            assert_eq!((&messages[0]["offset"], messages[0]["gap"].as_object()), (&40.into(), None));
            assert_eq!(offsets(&messages), (offset + 1..=40).collect::<Vec<_>>());
            assert_eq!(messages.last().expect("messages")["type"], if offset == 40 { "ack" } else { "broadcast" });
            world.end(b, crate::shard::seam::Ended::Error);
        }
        assert_eq!(world.sum(|stats| stats.recoveries), 3);
        world.end_all();
    }
}

#[test]
fn recovery_works_from_zero_events() {
    let mut world = world(2, Limits::default());
    let room = world.room_at(1);
    let (b, epoch) = member(&mut world, 0, "bob", &room);
    world.say(b, &[&format!(r#"{{"type":"leave_room","roomId":"{room}","seq":2}}"#)]);
    let (a, same) = member(&mut world, 1, "ann", &room);
    assert_eq!(epoch, same);
    send(&mut world, a, &room, 2..5, 1);
    world.run();
    world.take(b);
    world.say(b, &[&join_since(&room, 3, &epoch, 0)]);
    let messages = world.take(b);
    assert_eq!((&messages[0]["recovered"], offsets(&messages)), (&true.into(), vec![1, 2, 3]));
    world.end_all();
}

#[test]
fn own_publications_are_skipped_unless_they_were_to_be_echoed() {
    let mut world = world(1, Limits::default());
    let (a, epoch) = member(&mut world, 0, "ann", "r");
    let (b, _) = member(&mut world, 0, "bob", "r");
    let say = |echo: bool, seq: u64| format!(r#"{{"type":"broadcast","roomId":"r","data":1,"echo":{echo},"seq":{seq}}}"#);
    world.say(a, &[&say(false, 2), &say(true, 3)]);
    world.say(b, &[&say(false, 2)]);
    world.say(a, &[&say(false, 4), r#"{"type":"leave_room","roomId":"r","seq":5}"#]);
    world.take(a);
    world.say(a, &[&join_since("r", 6, &epoch, 0)]);
    assert_eq!(offsets(&world.take(a)), [2, 3]);
    // To another session of the same user they are anybody's.
    let again = world.v1(0, "ann");
    world.say(again, &[&join_since("r", 1, &epoch, 0)]);
    assert_eq!(offsets(&world.take(again)), [1, 2, 3, 4]);
    world.end_all();
}

/// The socket takes a little at a time, lanes are slow, fan-out pauses, and others go on publishing.
#[test]
fn between_recovered_and_live_publications_is_no_gap_and_no_duplicate() {
    for seed in 0..18 {
        let disorder = Disorder { shorts: true, shuffles: true, splits: seed % 2 == 0, small_ring: seed % 3 == 0 };
        let limits = Limits { message_bytes_max: 4_096, send_queue_bytes_max: 16_384, ..Limits::default() };
        let mut world = World::new(WorldConfig { shards: 3, limits, seed, disorder, ..WorldConfig::default() });
        let room = world.room_at(seed as usize % 3);
        let (a, epoch) = member(&mut world, 0, "ann", &room);
        send(&mut world, a, &room, 2..102, 300);
        world.run();
        let readers: Vec<usize> = (0..6).map(|number| world.v1(number % 3, "bob")).collect();
        for (number, &b) in readers.iter().enumerate() {
            world.clients[b].reads = 1 + (seed as usize * 37 + number * 301) % 2_000;
            world.clients[b].incoming_max = 64 << (number % 6);
            world.send(b, &join_since(&room, 1, &epoch, 16 * number as u64));
        }
        for seq in 102..202 {
            send(&mut world, a, &room, seq..seq + 1, 200);
            world.round();
        }
        for (number, &b) in readers.iter().enumerate() {
            let got = offsets(&take_all(&mut world, b));
            assert_eq!(got, (16 * number as u64 + 1..=200).collect::<Vec<_>>(), "seed {seed}, reader {number}");
        }
        assert_eq!(world.closes(CloseReason::SlowConsumer), 0);
        world.end_all();
    }
}

/// It read slowly by nobody's fault: its answer was under way while more was published.
#[test]
fn what_a_member_was_promised_is_not_overtaken_before_it_is_read() {
    let mut world = world(2, Limits { history_publications_max: 8, ..Limits::default() });
    let room = world.room_at(0);
    let (ann, epoch) = member(&mut world, 0, "ann", &room);
    send(&mut world, ann, &room, 2..12, 10);
    world.run();
    let bob = world.v1(1, "bob");
    world.stalled.insert((0, 1));
    world.say(bob, &[&join_since(&room, 1, &epoch, 2)]);
    world.run();
    send(&mut world, ann, &room, 12..20, 10);
    world.run();
    assert_eq!(world.sum(|stats| stats.history_publications), 16);
    world.stalled.clear();
    let messages = take_all(&mut world, bob);
    assert_eq!((&messages[0]["offset"], &messages[0]["recovered"]), (&10.into(), &true.into()));
    assert_eq!(offsets(&messages), (3..=18).collect::<Vec<_>>());
    assert!(messages.iter().all(|message| message["type"] != "gap"), "{messages:?}");
    send(&mut world, ann, &room, 20..21, 10);
    world.run();
    assert_eq!(world.sum(|stats| stats.history_publications), 16, "it is bounded meanwhile, too");
    world.pass(HISTORY_PROMISE_MS);
    send(&mut world, ann, &room, 21..22, 10);
    world.run();
    assert_eq!(world.sum(|stats| stats.history_publications), 8);
    world.end_all();
}

#[test]
fn many_rooms_with_full_histories_recover_through_a_small_queue() {
    let limits = Limits { history_publications_max: 32, ..Limits::default() };
    let mut world = world(2, limits);
    let a = world.v1(0, "ann");
    let (mut seq, mut epochs) = (0, Vec::new());
    for room in 0..128 {
        seq += 1;
        world.take(a);
        world.say(a, &[&join(&format!("r{room}"), seq)]);
        epochs.push(world.take(a)[0]["epoch"].as_str().expect("an epoch").to_owned());
        send(&mut world, a, &format!("r{room}"), seq + 1..seq + 33, 900);
        seq += 32;
        world.run();
    }
    let b = world.v1(1, "bob");
    world.clients[b].incoming_max = 4_096;
    world.clients[b].reads = 4_096;
    for (room, epoch) in epochs.iter().enumerate() {
        world.send(b, &join_since(&format!("r{room}"), room as u64 + 1, epoch, 0));
    }
    let mut queued_max = 0;
    while world.round() {
        queued_max = queued_max.max(world.shard(1).stats().send_queue_bytes);
    }
    assert!(queued_max < 3 * RECOVERY_CHUNK_BYTES_MAX as u64, "{queued_max} bytes waited for the socket");
    let messages = world.take(b);
    for room in 0..128 {
        let of_room: Vec<Value> = messages.iter().filter(|message| message["roomId"] == format!("r{room}")).cloned().collect();
        assert_eq!(offsets(&of_room), (1..=32).collect::<Vec<_>>(), "room {room}");
    }
    assert_eq!(world.closes(CloseReason::SlowConsumer), 0);
    world.end_all();
}

#[test]
fn a_member_that_lags_costs_a_position_and_loses_nothing() {
    for shards in [1, 2] {
        let limits = Limits { message_bytes_max: 4_096, send_queue_bytes_max: 16_384, ..Limits::default() };
        let mut world = world(shards, limits);
        let room = world.room_at(shards - 1);
        let (a, _) = member(&mut world, 0, "ann", &room);
        let (b, _) = member(&mut world, 0, "bob", &room);
        world.clients[b].reads = 0;
        world.clients[b].incoming_max = 2_000;
        for seq in 2..202 {
            send(&mut world, a, &room, seq..seq + 1, 900);
            world.run();
            assert!(world.shard(0).stats().send_queue_bytes < 8_192, "at {seq}");
        }
        assert_eq!(world.sum(|stats| stats.lagging), 1);
        world.clients[b].reads = 500;
        assert_eq!(offsets(&take_all(&mut world, b)), (1..=200).collect::<Vec<_>>());
        // It has caught up, and is an ordinary member.
        send(&mut world, a, &room, 202..204, 1);
        assert_eq!(offsets(&take_all(&mut world, b)), [201, 202]);
        assert_eq!((world.sum(|stats| stats.lagging), world.closes(CloseReason::SlowConsumer)), (1, 0));
        world.end_all();
    }
}

#[test]
fn a_member_that_its_history_has_overtaken_is_told_the_one_range_that_it_lost() {
    let limits =
        Limits { message_bytes_max: 4_096, send_queue_bytes_max: 16_384, history_publications_max: 50, ..Limits::default() };
    let mut world = world(2, limits);
    let room = world.room_at(1);
    let (a, _) = member(&mut world, 0, "ann", &room);
    let (b, _) = member(&mut world, 0, "bob", &room);
    let plain = world.plain(0, "pat");
    world.say(plain, &[&join(&room, 1)]);
    for client in [b, plain] {
        world.clients[client].reads = 0;
        world.clients[client].incoming_max = 2_000;
    }
    send(&mut world, a, &room, 2..202, 900);
    world.run();
    for client in [b, plain] {
        world.clients[client].reads = 500;
    }
    let messages = take_all(&mut world, b);
    let gaps: Vec<&Value> = messages.iter().filter(|message| message["type"] == "gap").collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let (from, to) = (gaps[0]["from"].as_u64().expect("from"), gaps[0]["to"].as_u64().expect("to"));
    assert_eq!((to, &gaps[0]["reason"], &gaps[0]["roomId"]), (150, &"slow_consumer".into(), &room.as_str().into()));
    assert_eq!(offsets(&messages), (1..from).chain(151..=200).collect::<Vec<_>>());
    let place = messages.iter().position(|message| message["type"] == "gap").expect("a gap");
    assert_eq!(offsets(&messages[..place]), (1..from).collect::<Vec<_>>(), "it stands where the range is missing");
    assert_eq!(world.close_codes(plain), [Some(4102)], "a plain client does not know what a gap is");
    world.end_all();
}

#[test]
fn nothing_of_a_room_follows_its_leave_however_far_behind_the_member_was() {
    let limits = Limits { message_bytes_max: 4_096, send_queue_bytes_max: 16_384, ..Limits::default() };
    let mut world = world(2, limits);
    let room = world.room_at(1);
    let (a, epoch) = member(&mut world, 1, "ann", &room);
    send(&mut world, a, &room, 2..202, 900);
    world.run();
    let b = world.v1(0, "bob");
    world.clients[b].reads = 500;
    world.clients[b].incoming_max = 2_000;
    world.send(b, &join_since(&room, 1, &epoch, 0));
    (0..10).for_each(|_| assert!(world.round()));
    world.send(b, &format!(r#"{{"type":"leave_room","roomId":"{room}","seq":2}}"#));
    let messages = take_all(&mut world, b);
    let got = offsets(&messages);
    assert_eq!(got, (1..=got.len() as u64).collect::<Vec<_>>());
    assert!(got.len() < 200 && !got.is_empty());
    let types: Vec<&str> = messages.iter().rev().take(2).map(|message| message["type"].as_str().expect("a type")).collect();
    assert_eq!(types, ["ack", "room_left"]);
    world.end_all();
}

#[test]
fn presence_and_answers_do_not_wait_for_a_recovery() {
    let limits = Limits { message_bytes_max: 4_096, send_queue_bytes_max: 16_384, ..Limits::default() };
    let mut world = world(1, limits);
    let (a, epoch) = member(&mut world, 0, "ann", "r");
    send(&mut world, a, "r", 2..202, 900);
    world.run();
    let b = world.v1(0, "bob");
    world.clients[b].reads = 2_000;
    world.clients[b].incoming_max = 2_000;
    let since = format!(r#"{{"epoch":"{epoch}","offset":0}}"#);
    world.send(b, &format!(r#"{{"type":"join_room","roomId":"r","presence":true,"since":{since},"seq":1}}"#));
    (0..10).for_each(|_| assert!(world.round()));
    world.send(b, r#"{"type":"ping","t":1}"#);
    world.round();
    member(&mut world, 0, "cat", "r");
    world.pass(2_000);
    let messages = world.take(b);
    let at = |kind: &str| messages.iter().position(|message| message["type"] == kind).expect("it came");
    assert!(at("pong") < messages.len() - 20, "the answer stands before the rest of the recovery");
    at("presence_diff");
    assert_eq!(offsets(&messages), (1..=200).collect::<Vec<_>>());
    world.end_all();
}

#[test]
fn a_member_that_wants_the_latest_gets_the_newest_of_each_key_once_its_socket_takes_it() {
    let limits = Limits { history_publications_max: 10, ..Limits::default() };
    let mut world = world(2, limits);
    let room = world.room_at(1);
    let (a, _) = member(&mut world, 0, "ann", &room);
    let b = world.v1(0, "bob");
    world.say(b, &[&format!(r#"{{"type":"join_room","roomId":"{room}","mode":"latest","seq":1}}"#)]);
    world.take(b);
    world.clients[b].reads = 0;
    world.clients[b].incoming_max = 1_000;
    for seq in 2..102 {
        let key = seq % 4;
        world.say(a, &[&format!(r#"{{"type":"broadcast","roomId":"{room}","data":{seq},"key":"k{key}","seq":{seq}}}"#)]);
    }
    assert!(world.shard(0).stats().send_queue_bytes < 1_000, "old values wait in no queue");
    // What was superseded and what the history gave up are no loss to it.
    send(&mut world, a, &room, 102..152, 10);
    world.run();
    world.clients[b].reads = usize::MAX;
    let messages = take_all(&mut world, b);
    assert!(messages.iter().all(|message| message["type"] == "broadcast"), "{messages:?}");
    let got = offsets(&messages);
    assert_eq!(got[got.len() - 10..], (141..=150).collect::<Vec<_>>());
    assert!(got.len() < 30 && got.is_sorted(), "{got:?}");
    world.end_all();
}

/// Where gaps are declined, whom the history overtakes is closed instead of being told of one.
#[test]
fn a_member_that_lost_something_is_closed_where_gaps_are_declined() {
    for gaps_declined in [false, true] {
        let limits = Limits { gaps_declined, history_publications_max: 8, send_queue_bytes_max: 131_072, ..Limits::default() };
        let mut world = world(2, limits);
        let room = world.room_at(1);
        let (ann, _) = member(&mut world, 0, "ann", &room);
        let (bob, _) = member(&mut world, 1, "bob", &room);
        world.clients[bob].incoming_max = 10;
        world.clients[bob].reads = 0;
        send(&mut world, ann, &room, 2..102, 4_000);
        world.run();
        world.clients[bob].incoming_max = 1 << 20;
        world.clients[bob].reads = usize::MAX;
        world.run();
        let closed = world.close_codes(bob);
        assert_eq!(closed, if gaps_declined { vec![Some(CloseReason::SlowConsumer.code().expect("a code"))] } else { vec![] });
        assert_eq!(world.sum(|stats| stats.gaps_sent), u64::from(!gaps_declined));
        world.end_all();
    }
}
