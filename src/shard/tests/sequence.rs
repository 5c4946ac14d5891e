//! The order of a session's commands, as clients of both dialects see it.

use super::world::{World, WorldConfig};
use crate::close::CloseReason;
use crate::limits::{Limits, REORDER_AGE_MS, REORDER_BYTES_MAX, REORDER_COMMANDS_MAX, WINDOW};
use serde_json::Value;

fn world(shards: usize) -> World {
    World::new(WorldConfig { shards, ..WorldConfig::default() })
}

fn publish(room: &str, seq: u64) -> String {
    format!(r#"{{"type":"broadcast","roomId":"{room}","data":{seq},"seq":{seq}}}"#)
}

fn join(room: &str, seq: u64) -> String {
    format!(r#"{{"type":"join_room","roomId":"{room}","seq":{seq}}}"#)
}

fn data(messages: &[Value]) -> Vec<u64> {
    messages
        .iter()
        .filter(|message| message["type"] == "broadcast")
        .map(|message| message["data"].as_u64().expect("data"))
        .collect()
}

/// A `throng.v1` member that is about to send seq 2, and one that listens.
fn pair(world: &mut World, room: &str) -> (usize, usize) {
    let last = world.drivers.len() - 1;
    let (a, b) = (world.v1(0, "ann"), world.v1(last, "bob"));
    world.say(a, &[&join(room, 1)]);
    world.say(b, &[&join(room, 1)]);
    world.take(a);
    world.take(b);
    (a, b)
}

#[test]
fn seq_1_2_3_5_4_is_executed_1_2_3_4_5() {
    for shards in [1, 2] {
        let mut world = world(shards);
        let room = world.room_at(shards - 1);
        let (a, b) = pair(&mut world, &room);
        world.say(a, &[&publish(&room, 2), &publish(&room, 3), &publish(&room, 5), &publish(&room, 4)]);
        assert_eq!(data(&world.take(b)), [2, 3, 4, 5]);
        assert_eq!(world.take(a).last().expect("an ack")["seq"], 5);
        assert_eq!(world.sum(|stats| stats.nacks_sent), 0, "what is out of order within a batch is no gap");
        world.end_all();
    }
}

#[test]
fn a_duplicate_is_executed_once_and_acknowledged_again() {
    let mut world = world(1);
    let (a, b) = pair(&mut world, "r");
    world.say(a, &[&publish("r", 2)]);
    world.say(a, &[&publish("r", 2)]);
    assert_eq!(data(&world.take(b)), [2]);
    assert_eq!(world.take_types(a), ["ack", "ack"]);
    world.end_all();
}

#[test]
fn a_plain_duplicate_is_executed_once_and_named() {
    let mut world = world(1);
    let (a, b) = (world.plain(0, "ann"), world.plain(0, "bob"));
    world.say(b, &[r#"{"type":"join_room","roomId":"r"}"#]);
    world.take(b);
    world.say(a, &[&join("r", 7), &publish("r", 8), &publish("r", 8)]);
    assert_eq!(data(&world.take(b)), [8]);
    let error = world.take(a).pop().expect("an error");
    assert_eq!((&error["code"], &error["seq"], &error["expectedSeq"]), (&"seq_duplicate".into(), &8.into(), &9.into()));
    world.end_all();
}

#[test]
fn a_gap_is_nacked_once_with_the_number_that_is_missing() {
    let mut world = world(1);
    let (a, b) = pair(&mut world, "r");
    world.say(a, &[&publish("r", 3)]);
    let nacks = world.take(a);
    assert_eq!(nacks.len(), 1);
    assert_eq!((&nacks[0]["type"], &nacks[0]["expectedSeq"], &nacks[0]["received"]), (&"nack".into(), &2.into(), &3.into()));
    world.say(a, &[&publish("r", 4)]);
    assert_eq!(world.take(a), [] as [Value; 0]);
    world.say(a, &[&publish("r", 2)]);
    assert_eq!(world.take(a).pop().expect("an ack")["seq"], 4);
    assert_eq!(data(&world.take(b)), [2, 3, 4]);
    world.end_all();
}

#[test]
fn a_second_gap_is_nacked_when_the_first_is_closed() {
    let mut world = world(1);
    let (a, _) = pair(&mut world, "r");
    world.say(a, &[&publish("r", 3), &publish("r", 5)]);
    assert_eq!(world.take(a)[0]["expectedSeq"], 2);
    world.say(a, &[&publish("r", 2)]);
    let nack = world.take(a).into_iter().find(|message| message["type"] == "nack").expect("a nack");
    assert_eq!((&nack["expectedSeq"], &nack["received"]), (&4.into(), &5.into()));
    world.end_all();
}

#[test]
fn a_gap_that_stays_open_is_nacked_again_and_the_third_time_closes() {
    let mut world = world(1);
    let (a, _) = pair(&mut world, "r");
    for _ in 0..3 {
        world.say(a, &[&publish("r", 3)]);
        world.pass(REORDER_AGE_MS + 100);
    }
    assert_eq!(world.closes(CloseReason::StateInsufficient), 1);
    assert_eq!(world.close_codes(a), [Some(4203)]);
    world.end_all();
}

#[test]
fn a_plain_gap_is_given_up_in_time_and_named() {
    let mut world = world(1);
    let (a, b) = (world.plain(0, "ann"), world.plain(0, "bob"));
    world.say(b, &[r#"{"type":"join_room","roomId":"r"}"#]);
    world.say(a, &[&join("r", 1), &publish("r", 4), &publish("r", 6)]);
    world.take(b);
    world.take(a);
    world.pass(REORDER_AGE_MS + 100);
    let errors = world.take(a);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(
        (&errors[0]["code"], &errors[0]["missing"]["from"], &errors[0]["missing"]["to"]),
        (&"seq_skipped".into(), &2.into(), &3.into())
    );
    assert_eq!((&errors[1]["missing"]["from"], &errors[1]["missing"]["to"]), (&5.into(), &5.into()));
    assert_eq!(data(&world.take(b)), [4, 6]);
    world.end_all();
}

#[test]
fn a_window_of_undecided_commands_stops_the_reading() {
    let mut world = world(2);
    let room = world.room_at(1);
    let (a, b) = pair(&mut world, &room);
    world.stalled.insert((1, 0));
    let first = 2;
    for seq in first..first + 100 {
        world.send(a, &publish(&room, seq));
    }
    world.run();
    assert_eq!(data(&world.take(b)).len(), WINDOW as usize);
    world.stalled.clear();
    world.run();
    assert_eq!(data(&world.take(b)), (first + u64::from(WINDOW)..first + 100).collect::<Vec<_>>());
    assert_eq!(world.take(a).pop().expect("an ack")["seq"], first + 99);
    world.end_all();
}

/// At the moment at which the gap's time was to run out the window was full, so there was no deadline. It comes back.
#[test]
fn a_gap_behind_a_full_window_is_told_and_expires_later() {
    let mut world = world(2);
    let room = world.room_at(1);
    let (a, _) = pair(&mut world, &room);
    world.stalled.insert((1, 0));
    for seq in (2..65).chain([70, 65]) {
        world.send(a, &publish(&room, seq));
    }
    // The last of the window comes after what is early, or that would not have been read.
    world.run();
    world.pass(2 * REORDER_AGE_MS);
    world.stalled.clear();
    world.run();
    let got = world.take(a);
    assert!(got.iter().any(|message| message["type"] == "nack" && message["expectedSeq"] == 66), "{got:?}");
    world.pass(REORDER_AGE_MS + 100);
    let got = world.take(a);
    assert!(got.iter().any(|message| message["type"] == "nack" && message["expectedSeq"] == 66), "{got:?}");
    world.end_all();
}

#[test]
fn gaps_that_open_and_close_for_ever_are_watched_in_one_place() {
    let mut world = world(1);
    let (a, _) = pair(&mut world, "r");
    for seq in 1..200 {
        world.say(a, &[&publish("r", 2 * seq + 1), &publish("r", 2 * seq)]);
        world.take_frames(a);
    }
    assert!(world.shard(0).reorders.len() <= 1);
    world.pass(REORDER_AGE_MS + 100);
    assert_eq!(world.shard(0).reorders.len(), 0);
    world.end_all();
}

#[test]
fn more_early_commands_than_are_kept_are_nacked_and_the_third_time_closes() {
    let mut world = world(1);
    let (a, b) = pair(&mut world, "r");
    let last = 3 + REORDER_COMMANDS_MAX as u64;
    for time in 1..=3 {
        for seq in 3..=last {
            world.send(a, &publish("r", seq));
        }
        world.run();
        if time < 3 {
            let nacks: Vec<Value> = world.take(a).into_iter().filter(|message| message["type"] == "nack").collect();
            let told = nacks.last().expect("a nack");
            assert_eq!((&told["expectedSeq"], &told["received"]), (&2.into(), &last.into()));
            assert_eq!(world.sum(|stats| stats.memory_bytes.iter().sum::<u64>()), world_memory_at_rest(&world));
        }
    }
    assert_eq!(world.closes(CloseReason::StateInsufficient), 1);
    assert_eq!(world.close_codes(a), [Some(4203)]);
    assert_eq!(data(&world.take(b)), [] as [u64; 0]);
    world.end_all();
}

/// What a world holds that keeps no early command: its rooms.
fn world_memory_at_rest(world: &World) -> u64 {
    world.sum(|stats| stats.memory_bytes[crate::shard::stats::MemoryUse::Rooms as usize])
}

#[test]
fn what_was_freed_is_executed_once_when_it_is_sent_again() {
    let mut world = world(1);
    let (a, b) = pair(&mut world, "r");
    let last = 3 + REORDER_COMMANDS_MAX as u64;
    for seq in (3..=last).chain(2..=last) {
        world.say(a, &[&publish("r", seq)]);
    }
    assert_eq!(data(&world.take(b)), (2..=last).collect::<Vec<_>>());
    assert_eq!(world.take(a).last().expect("an ack")["seq"], last);
    world.end_all();
}

#[test]
fn a_plain_gap_with_more_behind_it_than_is_kept_is_given_up_at_once() {
    let mut world = world(1);
    let (a, b) = (world.plain(0, "ann"), world.plain(0, "bob"));
    world.say(b, &[r#"{"type":"join_room","roomId":"r"}"#]);
    world.say(a, &[&join("r", 1)]);
    world.take(a);
    world.take(b);
    let last = 3 + REORDER_COMMANDS_MAX as u64;
    for seq in 3..=last {
        world.send(a, &publish("r", seq));
    }
    world.run();
    assert_eq!(data(&world.take(b)), (3..=last).collect::<Vec<_>>());
    let skipped = world.take(a);
    assert_eq!((skipped.len(), &skipped[0]["code"], &skipped[0]["missing"]["to"]), (1, &"seq_skipped".into(), &2.into()));
    world.end_all();
}

/// After what was kept is executed nothing is kept any more, and the command that was too much waits for its own gap.
#[test]
fn a_plain_command_that_is_too_long_beside_what_is_kept_waits_for_its_own_gap() {
    let mut world = world(1);
    let (a, b) = (world.plain(0, "ann"), world.plain(0, "bob"));
    world.say(b, &[r#"{"type":"join_room","roomId":"r"}"#]);
    world.say(a, &[&join("r", 1)]);
    world.take(b);
    let long = |seq: u64| {
        let padding = " ".repeat(REORDER_BYTES_MAX / 2);
        format!(r#"{{"type":"broadcast","roomId":"r",{padding}"data":{seq},"seq":{seq}}}"#)
    };
    world.say(a, &[&long(3), &long(5)]);
    assert_eq!(data(&world.take(b)), [3]);
    world.pass(REORDER_AGE_MS + 100);
    assert_eq!(data(&world.take(b)), [5]);
    let skipped: Vec<u64> = world
        .take(a)
        .iter()
        .filter(|message| message["code"] == "seq_skipped")
        .filter_map(|error| error["missing"]["from"].as_u64())
        .collect();
    assert_eq!(skipped, [2, 4]);
    world.end_all();
}

/// The command behind the gap finds its lane full. What was given up stays given up while it waits for room.
#[test]
fn a_gap_is_given_up_once_although_the_command_behind_it_has_to_wait() {
    let limits = Limits { lane_places: Some(4), ..Limits::default() };
    let mut world = World::new(WorldConfig { shards: 2, limits, ..WorldConfig::default() });
    let room = world.room_at(1);
    let (a, b, c) = (world.plain(0, "ann"), world.plain(1, "bob"), world.plain(0, "cem"));
    world.say(a, &[&join(&room, 1)]);
    world.say(b, &[&join(&room, 1)]);
    world.say(c, &[&join(&room, 1)]);
    world.say(a, &[&publish(&room, 5)]);
    world.stalled.insert((0, 1));
    for seq in 2..8 {
        world.send(c, &publish(&room, seq));
    }
    world.run();
    world.take(a);
    world.pass(REORDER_AGE_MS + 100);
    let errors = world.take(a);
    assert_eq!((errors.len(), &errors[0]["code"]), (1, &"seq_skipped".into()), "{errors:?}");
    world.stalled.clear();
    world.run();
    let mut got = data(&world.take(b));
    got.sort_unstable();
    assert_eq!(got, [2, 3, 4, 5, 5, 6, 7]);
    world.pass(REORDER_AGE_MS + 100);
    assert!(!world.take_types(a).contains(&"error".to_owned()));
    world.end_all();
}
