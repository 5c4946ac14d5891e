//! Rooms at their homes: numbering that outlives members for its time, and no longer.

use super::world::{World, WorldConfig};
use crate::limits::{ROOM_IDLE_MS, ROOMS_IDLE_MAX};

fn epoch_of(world: &mut World, client: usize, room: &str, seq: u64) -> String {
    world.take(client);
    world.say(client, &[&format!(r#"{{"type":"join_room","roomId":"{room}","seq":{seq}}}"#)]);
    let epoch = world.take(client)[0]["epoch"].as_str().expect("an epoch").to_owned();
    world.say(client, &[&format!(r#"{{"type":"leave_room","roomId":"{room}","seq":{}}}"#, seq + 1)]);
    epoch
}

#[test]
fn a_room_keeps_its_epoch_for_its_idle_time_whatever_other_rooms_do() {
    let mut world = World::new(WorldConfig::default());
    let a = world.v1(0, "ann");
    epoch_of(&mut world, a, "old", 1);
    world.pass(1_000);
    world.say(a, &[r#"{"type":"join_room","roomId":"old","seq":3}"#]);
    world.pass(ROOM_IDLE_MS - 60_000);
    let epoch = epoch_of(&mut world, a, "new", 4);
    // The time of the older room's first end is over; it has a member, and the newer one has its time still.
    world.pass(65_000);
    assert_eq!(epoch_of(&mut world, a, "new", 6), epoch);
    world.pass(ROOM_IDLE_MS - 1_000);
    assert_eq!(epoch_of(&mut world, a, "new", 8), epoch);
    world.pass(ROOM_IDLE_MS + 1_000);
    assert_ne!(epoch_of(&mut world, a, "new", 10), epoch);
    world.end_all();
}

#[test]
fn coming_and_going_for_ever_takes_one_place_among_the_idle_rooms() {
    let mut world = World::new(WorldConfig::default());
    let a = world.v1(0, "ann");
    for seq in 0..100 {
        epoch_of(&mut world, a, "r", 1 + 2 * seq);
    }
    assert_eq!(world.sum(|stats| stats.rooms_idle), 1);
    assert_eq!(world.shard(0).idle_first, world.shard(0).idle_last);
    world.end_all();
}

#[test]
fn beyond_the_bound_the_room_that_was_empty_for_longest_is_forgotten() {
    let mut world = World::new(WorldConfig::default());
    let a = world.v1(0, "ann");
    let first = epoch_of(&mut world, a, "first", 1);
    let second = epoch_of(&mut world, a, "second", 3);
    let mut seq = 5;
    for number in 0..ROOMS_IDLE_MAX - 1 {
        world.send(a, &format!(r#"{{"type":"join_room","roomId":"{number}","seq":{seq}}}"#));
        world.send(a, &format!(r#"{{"type":"leave_room","roomId":"{number}","seq":{}}}"#, seq + 1));
        seq += 2;
        if number % 1_000 == 0 {
            world.run();
            world.take_frames(a);
        }
    }
    world.run();
    assert_eq!(world.sum(|stats| stats.rooms_evicted), 1);
    assert_eq!(world.sum(|stats| stats.rooms_idle), ROOMS_IDLE_MAX as u64);
    assert_eq!(epoch_of(&mut world, a, "second", seq), second);
    assert_ne!(epoch_of(&mut world, a, "first", seq + 2), first);
    world.end_all();
}
