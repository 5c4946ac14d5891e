//! Pings, silence, and when it is taken for death.

use super::world::{World, WorldConfig};
use crate::close::CloseReason;
use crate::limits::{GHOST_BOUND_MS, Limits};
use crate::ws::Opcode;

const WATCH: &str = r#"{"type":"join_room","roomId":"r","presence":true,"seq":1}"#;

fn world(shards: usize) -> World {
    World::new(WorldConfig { shards, ..WorldConfig::default() })
}

#[test]
fn who_answers_pings_stays_and_who_speaks_is_not_pinged() {
    let mut world = world(1);
    let (quiet, talker) = (world.v1(0, "ann"), world.v1(0, "bob"));
    world.say(quiet, &[WATCH]);
    world.say(talker, &[WATCH]);
    for _ in 0..20 {
        world.pass(5_000);
        world.say(talker, &[r#"{"type":"ping"}"#]);
    }
    let pings = |world: &mut World, client| world.take_frames(client).iter().filter(|frame| frame.opcode == Opcode::Ping).count();
    assert!((7..=9).contains(&pings(&mut world, quiet)));
    assert_eq!(pings(&mut world, talker), 0);
    assert_eq!(world.sum(|stats| stats.ghosts_reaped), 0);
    world.end_all();
}

#[test]
fn a_vanished_peer_is_gone_from_presence_within_the_ghost_bound() {
    for shards in [1, 2, 3] {
        let mut world = world(shards);
        let (ghost, witness) = (world.v1(0, "ghost"), world.v1(shards - 1, "witness"));
        world.say(ghost, &[WATCH]);
        world.say(witness, &[WATCH]);
        world.pass(3_000);
        world.clients[ghost].pongs = false;
        world.clients[ghost].answers_close = false;
        world.take_frames(witness);
        world.pass(GHOST_BOUND_MS);
        let left = world.take(witness).iter().any(|message| {
            message["type"] == "presence_diff"
                && message["leaves"].as_array().is_some_and(|leaves| leaves.iter().any(|leave| leave["user"] == "ghost"))
        });
        assert!(left);
        assert_eq!(world.closes(CloseReason::NoPong), 1);
        world.end_all();
    }
}

#[test]
fn a_stall_of_the_server_is_held_against_nobody() {
    let mut world = world(1);
    let client = world.v1(0, "ann");
    world.say(client, &[WATCH]);
    world.clients[client].pongs = false;
    world.pass(12_500);
    assert_eq!(world.sum(|stats| stats.pings_sent), 1);
    // The loop stands still for longer than the timeout; the pong has waited in the socket meanwhile.
    world.now.mono.0 += 30_000;
    let now = world.now;
    world.drivers[0].shard.handle_stall(now, 30_000);
    world.send_frame(client, Opcode::Pong, b"");
    world.clients[client].pongs = true;
    world.pass(10_000);
    assert_eq!(world.sum(|stats| stats.ghosts_reaped), 0);
    assert!(!world.clients[client].closed);
    world.end_all();
}

#[test]
fn a_reader_that_drains_its_backlog_slowly_is_alive() {
    let limits = Limits { send_queue_bytes_max: 1 << 20, ..Limits::default() };
    let mut world = World::new(WorldConfig { limits, ..WorldConfig::default() });
    let (a, b) = (world.v1(0, "ann"), world.v1(0, "bob"));
    world.say(a, &[WATCH]);
    world.say(b, &[WATCH]);
    world.clients[b].reads = 0;
    world.clients[b].incoming_max = 20_000;
    let padding = "p".repeat(10_000);
    for seq in 2..40 {
        world.say(a, &[&format!(r#"{{"type":"broadcast","roomId":"r","data":"{padding}","seq":{seq}}}"#)]);
    }
    // It answers nothing, because it has not come to the ping yet, but it reads.
    for _ in 0..30 {
        world.pass(3_000);
        world.clients[b].reads = 5_000;
        world.round();
        world.clients[b].reads = 0;
    }
    assert_eq!(world.sum(|stats| stats.ghosts_reaped), 0);
    assert!(!world.clients[b].closed);
    world.end_all();
}

/// Its unread input keeps it from being silent, so it would stay for ever.
#[test]
fn an_echo_that_reads_nothing_at_all_is_ended_in_the_end() {
    let mut world = world(1);
    let client = world.echo(0);
    world.clients[client].incoming_max = 1_000;
    world.clients[client].reads = 0;
    for _ in 0..20 {
        world.send_frame(client, Opcode::Binary, &[7; 500]);
        world.run();
    }
    assert_eq!(world.sum(|stats| stats.pauses), 1);
    world.pass(GHOST_BOUND_MS + 10_000);
    assert_eq!(world.closes(CloseReason::SlowConsumer), 1);
    world.end_all();
}

/// All that it has yet to read lies in the kernel, and the ping behind it: nothing waits in the server.
#[test]
fn a_peer_that_reads_slowly_what_the_kernel_holds_is_alive_and_one_that_stopped_is_not() {
    let mut world = world(1);
    let (slow, other) = (world.v1(0, "slow"), world.v1(0, "other"));
    world.say(slow, &[WATCH]);
    world.say(other, &[WATCH]);
    world.pass(5_000);
    world.clients[slow].reads = 0;
    let data = "x".repeat(900);
    for seq in 2..20 {
        world.say(other, &[&format!(r#"{{"type":"broadcast","roomId":"r","data":"{data}","seq":{seq}}}"#)]);
    }
    assert_eq!(world.sum(|stats| stats.send_queue_bytes), 0);
    for second in 0..40 {
        world.clients[slow].reads = 300;
        world.tick(1_000);
        world.clients[slow].reads = 0;
        // It is sent more meanwhile, as fast as it reads.
        let short = &data[..200];
        world.say(other, &[&format!(r#"{{"type":"broadcast","roomId":"r","data":"{short}","seq":{}}}"#, 20 + second)]);
    }
    assert_eq!(world.sum(|stats| stats.ghosts_reaped), 0, "it reads 300 bytes a second");
    world.pass(GHOST_BOUND_MS);
    assert_eq!(world.closes(CloseReason::NoPong), 1);
    world.end_all();
}

/// So slow that its ping waits in the kernel beyond the timeout, and no room for more is told meanwhile: only what the kernel still
/// holds shows that it reads.
#[test]
fn a_peer_that_reads_behind_a_full_socket_is_alive_and_one_that_stopped_is_not() {
    let mut world = world(1);
    let (slow, other) = (world.v1(0, "slow"), world.v1(0, "other"));
    world.say(slow, &[WATCH]);
    world.say(other, &[WATCH]);
    world.pass(5_000);
    let client = &mut world.clients[slow];
    (client.reads, client.incoming_max, client.writable_below) = (0, 10_000, 1);
    let data = "x".repeat(900);
    for seq in 2..30 {
        world.say(other, &[&format!(r#"{{"type":"broadcast","roomId":"r","data":"{data}","seq":{seq}}}"#)]);
    }
    for _ in 0..45 {
        world.clients[slow].reads = 150;
        world.tick(1_000);
        world.clients[slow].reads = 0;
        world.run();
    }
    assert_eq!(world.sum(|stats| stats.ghosts_reaped), 0, "it reads 150 bytes a second");
    world.pass(GHOST_BOUND_MS);
    assert_eq!(world.closes(CloseReason::NoPong), 1);
    world.end_all();
}

/// It is not read because a lane is full: that it says nothing is our doing.
#[test]
fn a_connection_that_is_not_read_is_not_taken_for_dead() {
    let limits = Limits { lane_places: Some(4), ..Limits::default() };
    let mut world = World::new(WorldConfig { shards: 2, limits, ..WorldConfig::default() });
    let client = world.v1(0, "ann");
    let room = world.room_at(1);
    world.say(client, &[&format!(r#"{{"type":"join_room","roomId":"{room}","presence":true,"seq":1}}"#)]);
    world.clients[client].pongs = false;
    world.stalled.insert((0, 1));
    for seq in 2..20 {
        world.send(client, &format!(r#"{{"type":"broadcast","roomId":"{room}","data":1,"seq":{seq}}}"#));
    }
    world.pass(3 * GHOST_BOUND_MS);
    assert!(!world.clients[client].closed && world.close_codes(client).is_empty());
    world.stalled.clear();
    world.run();
    assert_eq!(world.take(client).last().expect("an ack")["seq"], 19);
    world.pass(GHOST_BOUND_MS);
    assert_eq!(world.closes(CloseReason::NoPong), 1, "now it is read, and says nothing");
    world.end_all();
}

/// Something had come when the socket was looked at: it is given the time again.
#[test]
fn a_probe_that_finds_something_gives_the_time_again() {
    let mut world = world(1);
    let client = world.v1(0, "ann");
    world.say(client, &[WATCH]);
    world.clients[client].pongs = false;
    world.pass(12_500);
    let (now, key) = (world.now, world.clients[client].key());
    world.drivers[0].shard.handle_probed(now, key, false);
    world.pass(5_000);
    assert_eq!(world.sum(|stats| stats.ghosts_reaped), 0);
    world.pass(GHOST_BOUND_MS);
    assert_eq!(world.closes(CloseReason::NoPong), 1);
    world.end_all();
}
