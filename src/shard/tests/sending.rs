//! Slow sockets: backlogs, what passes them, and where they end.

use super::world::{World, WorldConfig};
use crate::close::CloseReason;
use crate::limits::Limits;
use crate::ws::Opcode;

const JOIN: &str = r#"{"type":"join_room","roomId":"r","seq":1}"#;

/// A world with a publisher and a listener whose socket takes nothing any more.
fn stuck(limits: Limits, incoming_max: usize) -> (World, usize, usize) {
    let mut world = World::new(WorldConfig { limits, ..WorldConfig::default() });
    let (a, b) = (world.v1(0, "ann"), world.v1(0, "bob"));
    world.say(a, &[JOIN]);
    world.say(b, &[JOIN]);
    world.take_frames(a);
    world.take_frames(b);
    world.clients[b].reads = 0;
    world.clients[b].incoming_max = incoming_max;
    (world, a, b)
}

fn publish(world: &mut World, client: usize, numbers: std::ops::Range<u64>, bytes: usize) {
    for number in numbers {
        let padding = "p".repeat(bytes);
        world.say(
            client,
            &[&format!(r#"{{"type":"broadcast","roomId":"r","data":{{"n":{number},"p":"{padding}"}},"seq":{number}}}"#)],
        );
        world.take_frames(client);
    }
}

fn numbers(world: &mut World, client: usize) -> Vec<u64> {
    world.take(client).iter().filter_map(|message| message["data"]["n"].as_u64()).collect()
}

#[test]
fn a_backlog_drains_in_order_whatever_the_socket_takes() {
    for incoming_max in [1, 7, 100, 1_000, 20_000] {
        let (mut world, a, b) = stuck(Limits::default(), incoming_max);
        let before = world.sum(|stats| stats.frames_out);
        publish(&mut world, a, 2..40, 700);
        assert!(world.sum(|stats| stats.send_queue_bytes) > 0);
        world.clients[b].reads = incoming_max;
        world.run();
        assert_eq!(numbers(&mut world, b), (2..40).collect::<Vec<_>>());
        assert_eq!(world.sum(|stats| stats.send_queue_bytes), 0);
        assert_eq!(world.sum(|stats| stats.frames_out) - before, 2 * 38, "each frame is counted once: acks and deliveries");
        world.end_all();
    }
}

#[test]
fn a_pong_does_not_pass_the_answer_to_the_upgrade_request() {
    // The socket takes nothing at first, a part of the answer, all of it, or a part of the pong.
    for incoming_max in 0..200 {
        let mut world = World::new(WorldConfig::default());
        let client = world.open_socket(0, true);
        world.clients[client].incoming_max = incoming_max;
        world.clients[client].reads = 0;
        world.request(client, "/ws", Some("throng.v1"));
        for payload in [b"first", b"later"] {
            world.send_frame(client, Opcode::Ping, payload);
        }
        world.send(client, r#"{"type":"connect","user":"ann"}"#);
        world.run();
        world.clients[client].reads = usize::MAX;
        world.clients[client].incoming_max = 1 << 20;
        world.run();
        let frames = world.take_frames(client);
        let pongs: Vec<&[u8]> =
            frames.iter().filter(|frame| frame.opcode == Opcode::Pong).map(|frame| &frame.payload[..]).collect();
        assert_eq!(pongs, [b"first", b"later"], "a socket that takes {incoming_max} bytes");
        assert_eq!(frames.iter().filter(|frame| frame.opcode == Opcode::Text).count(), 1);
        world.end_all();
    }
}

#[test]
fn control_frames_pass_whole_frames_but_not_the_rest_of_one() {
    // The socket takes the first publication, a part of the second, or a part of a pong.
    for incoming_max in 0..700 {
        let (mut world, a, b) = stuck(Limits::default(), incoming_max);
        publish(&mut world, a, 2..6, 300);
        world.send_frame(b, Opcode::Ping, b"first");
        world.run();
        world.clients[b].incoming_max += 5;
        world.run();
        world.send_frame(b, Opcode::Ping, b"second");
        world.run();
        world.clients[b].reads = 11;
        world.run();
        let frames = world.take_frames(b);
        let pongs: Vec<usize> = (0..frames.len()).filter(|place| frames[*place].opcode == Opcode::Pong).collect();
        assert_eq!(frames.len(), 6);
        assert_eq!((&frames[pongs[0]].payload[..], &frames[pongs[1]].payload[..]), (&b"first"[..], &b"second"[..]));
        assert!(pongs[1] < 4, "control frames wait for at most what is in the socket: {pongs:?} at {incoming_max}");
        assert_eq!(frames.iter().filter(|frame| frame.opcode == Opcode::Text).count(), 4);
        world.end_all();
    }
}

#[test]
fn without_a_history_a_reader_that_falls_behind_the_bound_of_its_queue_is_closed_with_4102() {
    let limits =
        Limits { message_bytes_max: 4_096, send_queue_bytes_max: 10_000, history_publications_max: 0, ..Limits::default() };
    let (mut world, a, b) = stuck(limits, 100);
    publish(&mut world, a, 2..9, 1_000);
    assert_eq!(world.closes(CloseReason::SlowConsumer), 0);
    publish(&mut world, a, 9..20, 1_000);
    assert_eq!(world.closes(CloseReason::SlowConsumer), 1);
    assert_eq!(world.sum(|stats| stats.room_subscriptions), 1);
    world.clients[b].reads = usize::MAX;
    world.run();
    assert_eq!(world.close_codes(b), [Some(4102)]);
    world.end_all();
}

#[test]
fn when_memory_runs_short_the_slowest_consumer_is_closed_first() {
    let limits = Limits { flex_bytes_max: 100_000, ..Limits::default() };
    let mut world = World::new(WorldConfig { limits, ..WorldConfig::default() });
    let (a, b, c) = (world.v1(0, "ann"), world.v1(0, "bob"), world.v1(0, "cat"));
    for client in [a, b, c] {
        world.say(client, &[JOIN]);
        world.take_frames(client);
    }
    for (client, incoming_max) in [(b, 100), (c, 30_000)] {
        world.clients[client].reads = 0;
        world.clients[client].incoming_max = incoming_max;
    }
    publish(&mut world, a, 2..150, 1_000);
    assert!(world.closes(CloseReason::MemoryPressure) >= 1);
    world.clients[b].reads = usize::MAX;
    world.run();
    assert_eq!(world.close_codes(b), [Some(4103)]);
    world.end_all();
}

#[test]
fn an_echo_is_not_read_while_it_does_not_read() {
    let mut world = World::new(WorldConfig::default());
    let client = world.echo(0);
    world.clients[client].reads = 0;
    world.clients[client].incoming_max = 1_000;
    let sent: Vec<Vec<u8>> = (0..200u32).map(|n| n.to_le_bytes().repeat(100)).collect();
    for payload in &sent {
        world.send_frame(client, Opcode::Binary, payload);
        world.run();
    }
    assert!(world.sum(|stats| stats.send_queue_bytes) < 5_000);
    assert!(world.sum(|stats| stats.pauses) > 0);
    world.clients[client].reads = 333;
    world.run();
    let got: Vec<Vec<u8>> = world.take_frames(client).into_iter().map(|frame| frame.payload).collect();
    assert_eq!(got, sent);
    world.send_close(client, Some(1000));
    world.run();
    assert!(world.clients[client].closed);
    world.end_all();
}

#[test]
fn what_was_partly_sent_is_finished_before_the_close_frame() {
    for incoming_max in 1..60 {
        let limits = Limits { message_bytes_max: 4_096, send_queue_bytes_max: 10_000, ..Limits::default() };
        let (mut world, a, b) = stuck(limits, incoming_max);
        publish(&mut world, a, 2..30, 1_000);
        world.clients[b].reads = 3;
        world.run();
        assert_eq!(world.close_codes(b), [Some(4102)], "the stream is whole up to the close frame");
        world.end_all();
    }
}

#[test]
fn an_echo_sends_text_back_as_text() {
    let mut world = World::new(WorldConfig::default());
    let client = world.echo(0);
    world.send(client, "not JSON");
    world.run();
    let frames = world.take_frames(client);
    assert_eq!((frames.len(), frames[0].opcode, &frames[0].payload[..]), (1, Opcode::Text, &b"not JSON"[..]));
    world.end_all();
}

/// Each of these members gets one send of many frames, and all of them are more than the scratch holds at once.
#[test]
fn more_than_the_scratch_holds_goes_out_in_several_submissions() {
    const MEMBERS: usize = 150;
    for reads in [usize::MAX, 2_000] {
        let limits = Limits { send_queue_bytes_max: 1 << 20, ..Limits::default() };
        let mut world = World::new(WorldConfig { slots: 200, limits, ..WorldConfig::default() });
        let publisher = world.v1(0, "ann");
        world.say(publisher, &[JOIN]);
        let members: Vec<usize> = (0..MEMBERS).map(|_| world.plain(0, "bob")).collect();
        for &member in &members {
            world.say(member, &[JOIN]);
            world.clients[member].incoming_max = reads.min(1 << 20);
            world.clients[member].reads = reads;
        }
        world.run();
        members.iter().for_each(|&member| drop(world.take_frames(member)));
        for number in 2..32 {
            let padding = "p".repeat(350);
            world.send(
                publisher,
                &format!(r#"{{"type":"broadcast","roomId":"r","data":{{"n":{number},"p":"{padding}"}},"seq":{number}}}"#),
            );
        }
        // An answer of its own in front makes each member's send another: equal ones would share their place.
        for (number, &member) in members.iter().enumerate() {
            world.send(member, &format!(r#"{{"type":"ping","t":{number}}}"#));
        }
        world.run();
        for &member in &members {
            assert_eq!(numbers(&mut world, member), (2..32).collect::<Vec<_>>());
        }
        world.end_all();
    }
}

#[test]
fn what_waits_behind_a_welcome_that_was_cut_is_dropped_for_a_slow_consumer() {
    let limits =
        Limits { message_bytes_max: 4_096, send_queue_bytes_max: 10_000, history_publications_max: 0, ..Limits::default() };
    let mut world = World::new(WorldConfig { limits, ..WorldConfig::default() });
    let (a, b) = (world.v1(0, "ann"), world.open_socket(0, true));
    world.say(a, &[JOIN]);
    world.clients[b].reads = 0;
    // All of the answer to the upgrade request, and a part of the welcome.
    world.clients[b].incoming_max = 300;
    world.request(b, "/ws", Some("throng.v1"));
    world.send(b, r#"{"type":"connect"}"#);
    world.send(b, JOIN);
    world.run();
    publish(&mut world, a, 2..20, 1_000);
    assert_eq!(world.closes(CloseReason::SlowConsumer), 1);
    assert!(world.sum(|stats| stats.send_queue_bytes) < 1_000, "only the rest of the welcome and the close frame wait");
    world.clients[b].reads = 50;
    world.run();
    assert_eq!(world.close_codes(b), [Some(4102)]);
    world.end_all();
}
