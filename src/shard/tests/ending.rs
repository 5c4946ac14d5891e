//! Every end of a connection: what the peer still hears, and that nothing is left.

use super::world::{World, WorldConfig};
use crate::close::CloseReason;
use crate::limits::{CLOSE_LINGER_MS, HANDSHAKE_DEADLINE_MS, Limits};
use crate::shard::seam::{Ended, Flow, Order};
use crate::shard::stats::MemoryUse;
use crate::ws::Opcode;
use crate::ws::frame::write_masked;

fn world() -> World {
    World::new(WorldConfig::default())
}

#[test]
fn the_answer_to_the_upgrade_comes_before_the_answer_to_a_close() {
    for incoming_max in [1 << 20, 10] {
        for protocol in [None, Some("throng.v1")] {
            let mut world = world();
            let client = world.open_socket(0, true);
            world.clients[client].incoming_max = incoming_max;
            world.clients[client].reads = 7;
            world.request(client, "/ws", protocol);
            world.send_close(client, Some(4900));
            world.run();
            assert!(world.clients[client].upgraded);
            assert_eq!(world.close_codes(client), [Some(4900)]);
            assert!(world.clients[client].closed);
            world.end_all();
        }
    }
}

#[test]
fn a_close_is_answered_with_its_own_code_and_the_socket_closes() {
    for code in [None, Some(1000), Some(1001), Some(3000), Some(4901)] {
        let mut world = world();
        let client = world.v1(0, "ann");
        world.send_close(client, code);
        world.run();
        assert_eq!(world.close_codes(client), [code]);
        assert!(world.clients[client].closed);
        world.end_all();
    }
}

#[test]
fn a_protocol_error_is_said_and_our_direction_finished() {
    let mut world = world();
    let client = world.v1(0, "ann");
    world.clients[client].answers_close = false;
    world.send_raw(client, &[0xff, 0xff]);
    world.run();
    assert_eq!(world.close_codes(client), [Some(1002)]);
    assert!(world.clients[client].finished && !world.clients[client].closed);
    world.end(client, Ended::Eof);
    world.run();
    assert!(world.clients[client].closed);
    assert_eq!(world.closes(CloseReason::Protocol), 1);
    world.end_all();
}

#[test]
fn a_peer_that_does_not_answer_our_close_is_closed_after_the_linger() {
    let mut world = world();
    let client = world.v1(0, "ann");
    world.clients[client].answers_close = false;
    let by = world.now.mono;
    world.order(Order::Drain { by });
    world.run();
    assert_eq!(world.close_codes(client), [Some(4200)]);
    assert!(!world.clients[client].closed);
    world.pass(CLOSE_LINGER_MS + 100);
    assert!(world.clients[client].closed);
    world.end_all();
}

#[test]
fn who_is_not_admitted_reads_503_with_retry_after() {
    let mut world = world();
    let client = world.open_socket(0, false);
    world.request(client, "/ws", None);
    world.run();
    let answer = String::from_utf8(world.clients[client].http.clone()).expect("HTTP is text");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: "), "{answer}");
    assert!(world.clients[client].finished);
    world.pass(CLOSE_LINGER_MS + 100);
    assert!(world.clients[client].closed);
    world.end_all();
}

#[test]
fn a_dripped_request_and_a_missing_connect_end_with_the_deadline() {
    let mut world = world();
    let (drip, mute) = (world.open_socket(0, true), world.open_socket(0, true));
    world.request(mute, "/ws", Some("throng.v1"));
    for _ in 0..HANDSHAKE_DEADLINE_MS / 1_000 - 1 {
        world.send_raw(drip, b"G");
        world.pass(1_000);
    }
    world.pass(1_200);
    assert!(world.clients[drip].http.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&world.clients[drip].http));
    assert_eq!(world.close_codes(mute), [Some(4201)]);
    world.pass(CLOSE_LINGER_MS + 100);
    assert!(world.clients[drip].closed && world.clients[mute].closed);
    world.end_all();
}

#[test]
fn health_is_answered_and_the_socket_finished() {
    let mut world = world();
    for (path, expected) in [("/healthz", "HTTP/1.1 200 "), ("/readyz", "HTTP/1.1 200 "), ("/nowhere", "HTTP/1.1 404 ")] {
        let client = world.open_socket(0, true);
        world.send_raw(client, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        world.run();
        assert!(world.clients[client].http.starts_with(expected.as_bytes()), "{path}");
        assert!(world.clients[client].finished);
    }
    world.end_all();
}

#[test]
fn a_join_whose_session_ends_before_its_answer_is_left_again() {
    for ended in [None, Some(Ended::Error)] {
        let mut world = World::new(WorldConfig { shards: 2, ..WorldConfig::default() });
        let (client, room) = (world.v1(0, "ann"), world.room_at(1));
        world.stalled.insert((1, 0));
        world.say(client, &[&format!(r#"{{"type":"join_room","roomId":"{room}","seq":1}}"#)]);
        match ended {
            None => world.send_close(client, None),
            Some(ended) => world.end(client, ended),
        }
        world.run();
        world.pass(20_000);
        assert_eq!(world.sum(|stats| stats.presences), 1);
        world.stalled.clear();
        world.run();
        assert_eq!(world.sum(|stats| stats.presences), 0);
        world.end_all();
    }
}

#[test]
fn leaves_that_find_the_lane_full_are_owed_and_sent_later() {
    let limits = Limits { lane_places: Some(4), ..Limits::default() };
    let mut world = World::new(WorldConfig { shards: 2, limits, ..WorldConfig::default() });
    let room = world.room_at(1);
    let clients: Vec<usize> = (0..12).map(|_| world.v1(0, "ann")).collect();
    for &client in &clients {
        world.say(client, &[&format!(r#"{{"type":"join_room","roomId":"{room}","seq":1}}"#)]);
    }
    assert_eq!(world.sum(|stats| stats.room_subscriptions), 12);
    world.stalled.insert((0, 1));
    for &client in &clients {
        world.send_close(client, None);
    }
    world.run();
    assert_eq!(world.sum(|stats| stats.leaves_owed), 8);
    world.stalled.clear();
    world.run();
    assert_eq!((world.sum(|stats| stats.leaves_owed), world.sum(|stats| stats.presences)), (0, 0));
    world.end_all();
}

#[test]
fn a_drain_tells_connections_one_after_the_other() {
    let mut world = World::new(WorldConfig { slots: 100, ..WorldConfig::default() });
    let clients: Vec<usize> = (0..50).map(|_| world.plain(0, "ann")).collect();
    let by = world.now.mono.after(5_000);
    world.order(Order::Drain { by });
    world.pass(2_500);
    let told = world.closes(CloseReason::Drain);
    assert!((20..45).contains(&told), "{told} of 50 in half of the time");
    world.pass(2_600);
    assert_eq!(world.closes(CloseReason::Drain), 50);
    for &client in &clients {
        let frames = world.take_frames(client);
        let close = frames.iter().find(|frame| frame.opcode == Opcode::Close).expect("a close");
        assert!(close.payload[2..].starts_with(b"{\"ra\":"));
    }
    world.end_all();
}

#[test]
fn nothing_but_connect_opens() {
    for (opcode, payload, code) in [
        (Opcode::Text, &br#"{"type":"ping"}"#[..], "not_connected"),
        (Opcode::Text, b"{", "bad_json"),
        (Opcode::Binary, b"x", "binary_unsupported"),
    ] {
        let mut world = world();
        let client = world.open_socket(0, true);
        world.request(client, "/ws", Some("throng.v1"));
        world.send_frame(client, opcode, payload);
        world.run();
        let frames = world.take_frames(client);
        assert_eq!((frames.len(), &frames[0].json()["code"]), (2, &code.into()));
        assert_eq!(frames[1].close_code(), Some(4004));
        world.end_all();
    }
}

/// Completions may still be on their way when a slot has another user.
#[test]
fn what_is_said_of_a_connection_that_is_gone_changes_nothing() {
    let mut world = world();
    let gone = world.v1(0, "ann");
    let (now, key) = (world.now, world.clients[gone].key());
    world.send_close(gone, Some(1000));
    world.run();
    let heir = world.v1(0, "bob");
    assert_eq!(world.clients[heir].key().slot, key.slot, "the slot is used again");
    let before = format!("{:?}", world.shard(0).stats());
    let shard = &mut world.drivers[0].shard;
    let received = shard.handle_received(now, key, &mut b"\xff\xff".to_vec());
    assert_eq!((received.consumed, received.flow), (2, Flow::Continue));
    shard.handle_probed(now, key, true);
    shard.handle_measured(key, 7);
    shard.handle_writable(now, key);
    shard.handle_closed(now, key, Ended::Error);
    world.run();
    assert_eq!(format!("{:?}", world.shard(0).stats()), before);
    assert!(!world.clients[heir].closed);
    world.end_all();
}

/// The connection has ended, its socket takes nothing, and the rest of a message comes with the answer to its close.
#[test]
fn unfinished_input_is_charged_no_longer_than_it_is_held() {
    let mut world = world();
    let client = world.v1(0, "ann");
    let mut message = Vec::new();
    write_masked(&mut message, Opcode::Text, &[b'x'; 3_000], [1, 2, 3, 4]);
    let (begin, rest) = message.split_at(1_000);
    world.send_raw(client, begin);
    world.run();
    world.clients[client].incoming_max = 0;
    let by = world.now.mono;
    world.order(Order::Drain { by });
    world.run();
    assert!(world.sum(|stats| stats.memory_bytes[MemoryUse::Assembler as usize]) > 0);
    world.send_raw(client, rest);
    world.send_close(client, Some(1000));
    world.run();
    assert_eq!(world.sum(|stats| stats.memory_bytes[MemoryUse::Assembler as usize]), 0);
    world.end_all();
}

#[test]
fn a_connection_that_could_not_be_handed_over_in_a_drain_is_told_of_the_drain() {
    const SLOTS: usize = 2;
    let mut world = World::new(WorldConfig { shards: 2, slots: SLOTS, ..WorldConfig::default() });
    let session = world.open_socket(1, true);
    world.request(session, "/ws", Some("throng.v1"));
    world.send(session, r#"{"type":"connect","user":"ann"}"#);
    world.run();
    let token = world.take(session)[0]["resumeToken"].as_str().expect("a token").to_owned();
    // The shard of the session is full, and stays so: nobody answers its close.
    world.plain(1, "ann");
    world.clients.iter_mut().for_each(|client| client.answers_close = false);
    // The answer to the upgrade is stuck, so that the connection is still on its way when the server drains.
    let client = world.open_socket(0, true);
    world.clients[client].incoming_max = 10;
    world.clients[client].reads = 0;
    world.request(client, "/ws", Some("throng.v1"));
    world.send(client, &format!(r#"{{"type":"connect","user":"ann","resume":{{"token":"{token}","acked":0,"rooms":{{}}}}}}"#));
    world.run();
    let by = world.now.mono;
    world.order(Order::Drain { by });
    world.run();
    assert!(world.close_codes(client).is_empty());
    world.clients[client].incoming_max = 1 << 20;
    world.clients[client].reads = usize::MAX;
    world.run();
    assert_eq!(world.sum(|stats| stats.not_handed_over), 1);
    assert_eq!(world.close_codes(client), [Some(4200)]);
    world.end_all();
}
