//! What can't go on waits, in order, and reading waits with it: full lanes, full windows, rooms between two states.

use super::world::{World, WorldConfig};
use crate::close::CloseReason;
use crate::limits::Limits;
use crate::shard::seam::Order;

fn world(shards: usize, lane_places: Option<usize>) -> World {
    World::new(WorldConfig { shards, limits: Limits { lane_places, ..Limits::default() }, ..WorldConfig::default() })
}

fn join(room: &str, seq: u64) -> String {
    format!(r#"{{"type":"join_room","roomId":"{room}","seq":{seq}}}"#)
}

fn leave(room: &str, seq: u64) -> String {
    format!(r#"{{"type":"leave_room","roomId":"{room}","seq":{seq}}}"#)
}

fn publish(room: &str, seq: u64) -> String {
    format!(r#"{{"type":"broadcast","roomId":"{room}","data":{seq},"seq":{seq}}}"#)
}

#[test]
fn a_message_held_for_a_lane_is_dropped_when_its_connection_is_told_to_go() {
    let mut world = world(2, Some(4));
    let a = world.v1(0, "ann");
    let room = world.room_at(1);
    world.say(a, &[&join(&room, 1)]);
    world.stalled.insert((0, 1));
    for seq in 2..10 {
        world.send(a, &publish(&room, seq));
    }
    world.run();
    let by = world.now.mono;
    world.order(Order::Drain { by });
    world.run();
    assert_eq!(world.closes(CloseReason::Drain), 1);
    world.stalled.clear();
    world.run();
    assert_eq!(world.sum(|stats| stats.publications), 4, "what was dispatched took effect, what was held did not");
    world.end_all();
}

#[test]
fn a_lane_never_gets_more_than_it_has_places_for() {
    let mut world = world(2, Some(4));
    let a = world.v1(0, "ann");
    let room = world.room_at(1);
    world.say(a, &[&join(&room, 1)]);
    for seq in 2..40 {
        world.send(a, &publish(&room, seq));
    }
    world.run();
    assert_eq!(world.take(a).last().expect("an ack")["seq"], 39);
    world.end_all();
}

/// The kept commands get their turn by a decision, not by input, and one of them has to wait: the driver does not know yet.
#[test]
fn a_connection_that_paused_without_input_is_not_read_on() {
    let mut world = world(2, None);
    let a = world.v1(0, "ann");
    let room = world.room_at(1);
    world.say(a, &[&join(&room, 1)]);
    world.take(a);
    world.stalled.insert((1, 0));
    for seq in 2..65 {
        world.send(a, &publish(&room, seq));
    }
    world.send(a, &leave(&room, 66));
    world.send(a, &publish(&room, 67));
    world.send(a, &publish(&room, 65));
    world.run();
    world.stalled = [(0, 1)].into();
    world.run();
    assert_eq!(world.take(a).last().expect("an ack")["seq"], 65);
    world.say(a, &[r#"{"type":"ping","t":1}"#]);
    assert_eq!(world.take_types(a), Vec::<String>::new());
    world.stalled.clear();
    world.run();
    assert_eq!(world.take_types(a), ["room_left", "error", "ack", "pong"]);
    world.end_all();
}

/// The home's own clients want more than the lanes take; those of other shards must have their turns among them.
#[test]
fn a_home_that_is_flooded_by_its_own_clients_still_takes_commands_of_others() {
    let mut world = world(2, Some(4));
    let room = world.room_at(1);
    let far = world.v1(0, "far");
    let near: Vec<usize> = (0..6).map(|_| world.v1(1, "near")).collect();
    for client in near.iter().copied().chain([far]) {
        world.say(client, &[&join(&room, 1)]);
        world.take_frames(client);
    }
    let mut sent = 1;
    world.send(far, &publish(&room, 2));
    for _ in 0..100 {
        sent += 10;
        for &client in &near {
            for seq in sent - 9..=sent {
                world.send(client, &publish(&room, seq));
            }
        }
        world.round();
    }
    assert!(world.take(far).iter().any(|message| message["type"] == "ack"), "the far client waits for ever");
    world.run();
    world.end_all();
}

/// Lanes that take one command at a time, and more of them on both shards than fit for a long time: nobody may be passed again and
/// again by those that came later, wherever they are connected.
#[test]
fn commands_that_wait_for_a_flooded_home_have_their_turns() {
    const COMMANDS: u64 = 60;
    let mut world = world(2, Some(4));
    let room = world.room_at(1);
    let clients: Vec<usize> = (0..12).map(|index| world.v1(index % 2, "ann")).collect();
    for &client in &clients {
        world.say(client, &[&join(&room, 1)]);
        world.take_frames(client);
    }
    for &client in &clients {
        for seq in 2..2 + COMMANDS {
            world.send(client, &publish(&room, seq));
        }
    }
    let mut acked = vec![1; clients.len()];
    while !acked.contains(&(COMMANDS + 1)) {
        assert!(world.round(), "everything stands still");
        for (acked, &client) in acked.iter_mut().zip(&clients) {
            let mut acks = world.take(client).into_iter().filter(|message| message["type"] == "ack");
            *acked = acks.next_back().map_or(*acked, |ack| ack["seq"].as_u64().expect("a number"));
        }
    }
    assert!(acked.iter().all(|&acked| acked > COMMANDS / 2), "some wait while others are done: {acked:?}");
    world.run();
    world.end_all();
}

/// A home whose room is always wanted by its own clients tells presence and takes leaves all the same.
#[test]
fn leaves_and_presence_have_their_turns_at_a_flooded_home() {
    let mut world = world(2, Some(4));
    let room = world.room_at(1);
    let watcher = world.v1(0, "watcher");
    world.say(watcher, &[&format!(r#"{{"type":"join_room","roomId":"{room}","presence":true,"seq":1}}"#)]);
    let leavers = [world.v1(0, "far"), world.v1(1, "near")];
    let near: Vec<usize> = (0..6).map(|index| world.v1(index % 2, "ann")).collect();
    for &client in near.iter().chain(&leavers) {
        world.say(client, &[&join(&room, 1)]);
    }
    world.pass(2_000);
    world.take(watcher);
    let mut sent = 1;
    let mut flood = |world: &mut World, rounds: usize| {
        for _ in 0..rounds {
            sent += 10;
            for &client in &near {
                for seq in sent - 9..=sent {
                    world.send(client, &publish(&room, seq));
                }
            }
            world.round();
        }
    };
    flood(&mut world, 50);
    for leaver in leavers {
        world.send_close(leaver, Some(1000));
    }
    flood(&mut world, 50);
    world.tick(1_000);
    flood(&mut world, 50);
    let told = world.take(watcher).into_iter().filter(|message| message["type"] == "presence_diff");
    let left: usize = told.map(|diff| diff["leaves"].as_array().map_or(0, Vec::len)).sum();
    assert_eq!(left, 2, "those that left are still there for the watcher");
    world.run();
    world.end_all();
}

/// The bound of a lane is in bytes too: what a message between shards says of itself is what it keeps alive.
#[test]
fn a_message_between_shards_says_how_many_bytes_it_keeps_alive() {
    let mut world = world(2, None);
    let (a, b) = (world.v1(0, "ann"), world.v1(0, "bob"));
    let room = world.room_at(1);
    world.say(a, &[&join(&room, 1)]);
    world.say(b, &[&join(&room, 1)]);
    let held = |world: &World| -> usize { world.lanes.iter().flatten().flatten().map(crate::shard::MeshMessage::bytes_held).sum() };
    assert_eq!(held(&world), 0);
    world.stalled.insert((0, 1));
    let data = "d".repeat(5_000);
    world.say(a, &[&format!(r#"{{"type":"broadcast","roomId":"{room}","data":"{data}","seq":2}}"#)]);
    assert!((5_000..5_500).contains(&held(&world)), "the command: {}", held(&world));
    world.stalled = [(1, 0)].into();
    world.run();
    assert!((5_000..5_500).contains(&held(&world)), "the publication, and a decision without payload: {}", held(&world));
    world.say(b, &[&format!(r#"{{"type":"presence","roomId":"{room}","id":1}}"#), &leave(&room, 2)]);
    world.run();
    assert!((5_050..6_500).contains(&held(&world)), "an answer too: {}", held(&world));
    world.stalled.clear();
    world.run();
    assert_eq!(held(&world), 0);
    world.end_all();
}

/// Clients that come and go while a lane is full leave their places in its queue; it does not grow with them.
#[test]
fn connections_that_come_and_go_do_not_lengthen_the_queue_for_a_lane() {
    let limits = Limits { lane_places: Some(4), ..Limits::default() };
    let mut world = World::new(WorldConfig { shards: 2, slots: 4, limits, ..WorldConfig::default() });
    let room = world.room_at(1);
    world.stalled.insert((0, 1));
    for _ in 0..40 {
        let client = world.v1(0, "ann");
        let joins: Vec<String> = (1..10).map(|seq| join(&room, seq)).collect();
        world.say(client, &joins.iter().map(String::as_str).collect::<Vec<_>>());
        world.end(client, crate::shard::seam::Ended::Error);
        world.run();
        let waiters: usize = world.shard(0).lanes.iter().map(|lane| lane.waiters.len()).sum();
        assert!(waiters <= 8, "{waiters} wait in a shard of four connections");
    }
    world.stalled.clear();
    world.run();
    world.end_all();
}
