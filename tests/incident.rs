//! Verify that none of the incident's failures can happen: one test for each, over real sockets, against the real binary.
#![cfg(feature = "server")]

mod support;

use serde_json::json;
use std::thread;
use std::time::Duration;
use support::{Client, Deadline, End, Event, Metrics, PATIENCE, RawPeer, Roster, Server, Setup, source_address};

over_shards![
    the_frames_of_the_log_work_byte_for_byte,
    the_server_pings_an_idle_client,
    a_client_that_answers_pings_is_never_cut_off,
    a_closed_tab_leaves_presence_at_once,
    a_vanished_peer_is_gone_within_the_bound_and_its_members_are_told,
    a_vanished_peer_of_the_plain_dialect_is_gone_within_the_bound,
    a_reset_frees_memberships,
    a_protocol_error_frees_memberships,
    an_end_of_stream_frees_memberships,
    commands_1_2_3_5_4_are_executed_1_2_3_4_5,
    plain_commands_1_2_3_5_4_are_executed_1_2_3_4_5,
    a_duplicate_is_executed_once,
    a_plain_duplicate_is_executed_once_and_told_the_expected_seq,
    a_gap_is_nacked_with_the_expected_seq,
    a_gap_that_stays_open_is_nacked_again_and_ends_with_4203,
    a_plain_gap_is_skipped_after_the_reorder_age,
    the_connection_after_the_last_allowed_gets_503_with_retry_after,
    a_header_drip_ends_at_the_deadline,
    a_client_that_never_says_connect_ends_at_the_deadline,
    malformed_upgrades_get_their_status,
    an_upgrade_in_any_split_is_accepted,
    after_15_234_connections_of_which_2_891_closed_abnormally_nothing_is_left,
];

/// Heartbeat settings in which a silent peer is found out in two seconds: the smallest that an operator may set.
const QUICK: [&str; 8] = ["--heartbeat", "1s", "--heartbeat-idle", "1s", "--timeout", "500ms", "--presence-grace", "300ms"];

// ---- the log ----------------------------------------------------------------------------------------------------------------

fn the_frames_of_the_log_work_byte_for_byte(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.plain("");
    let mut members: Vec<Client> = (0..3).map(|_| server.plain("")).collect();
    for member in &mut members {
        member.send_text(r#"{"type":"join_room","roomId":"doc-abc123","seq":1}"#);
        let joined = member.expect_text("room_joined");
        assert!(joined.starts_with(r#"{"type":"room_joined","roomId":"doc-abc123""#), "{joined}");
    }
    author.send_text(r#"{"type":"join_room","roomId":"doc-abc123","seq":1}"#);
    let joined = author.expect_text("room_joined");
    assert!(joined.starts_with(r#"{"type":"room_joined","roomId":"doc-abc123""#), "{joined}");
    author.send_text(r#"{"type":"broadcast","roomId":"doc-abc123","data":{"cursor":{}},"seq":2}"#);
    for member in &mut members {
        let broadcast = member.expect_text("broadcast");
        assert!(broadcast.starts_with(r#"{"type":"broadcast","roomId":"doc-abc123","data":{"cursor":{}}"#), "{broadcast}");
    }
    // Every *other* member: the author's next broadcast is somebody else's, not its own.
    members[0].send_text(r#"{"type":"broadcast","roomId":"doc-abc123","data":"after","seq":2}"#);
    assert_eq!(author.expect_data("doc-abc123"), "after");
    // A plain client knows five types and is sent no other.
    author.round_trip_plain();
    for kind in ["ack", "nack", "welcome", "presence_diff", "presence_state", "gap"] {
        author.expect_none(kind);
    }
    author.send_text(r#"{"type":"leave_room","roomId":"doc-abc123","seq":3}"#);
    let left = author.expect_text("room_left");
    assert!(left.starts_with(r#"{"type":"room_left","roomId":"doc-abc123""#), "{left}");
}

// ---- heartbeat and presence -------------------------------------------------------------------------------------------------

fn the_server_pings_an_idle_client(setup: &Setup) {
    let server = setup.start(&["--heartbeat", "1s", "--heartbeat-idle", "1s"]);
    let mut idle = server.client("idle");
    let mut member = server.client("member");
    member.join_present("r");
    let other = thread::spawn(move || member.answer_pings(2));
    idle.answer_pings(2);
    other.join().expect("the member is pinged as well");
    server.wait_until("pongs are counted", |metrics| metrics.sum("throng_pongs_received_total") >= 4.0);
}

fn a_client_that_answers_pings_is_never_cut_off(setup: &Setup) {
    let server = setup.start(&QUICK);
    let mut client = server.client("quiet");
    let mut plain = server.plain("");
    client.join_present("r");
    let other = thread::spawn(move || {
        plain.answer_pings(5);
        plain.join("r");
    });
    // Five periods in which it says nothing but pong: three times as long as a silent peer lives.
    client.answer_pings(5);
    client.round_trip();
    other.join().expect("the plain client is served as well");
    assert_eq!(server.metrics().sum("throng_ghosts_reaped_total"), 0.0);
}

fn a_closed_tab_leaves_presence_at_once(setup: &Setup) {
    let server = setup.start(&["--presence-grace", "4s"]);
    let mut watcher = server.client("watcher");
    let joined = watcher.join_present("r");
    let mut roster = Roster::from_join(&mut watcher, &joined);
    for code in [1000, 1001] {
        let mut crashed = server.client("crashed");
        let mut closed = server.client("closed");
        crashed.join_present("r");
        closed.join_present("r");
        roster.follow_until(&mut watcher, |roster| roster.connections("closed") == 1 && roster.connections("crashed") == 1);
        // The crash comes first and is noticed first, yet the closed tab leaves first: it has no grace to sit out.
        let before = server.metrics().sum("ws_abnormal_closes");
        crashed.reset();
        server.wait_until("the crash is noticed", |metrics| metrics.sum("ws_abnormal_closes") > before);
        closed.close(code);
        roster.follow_until(&mut watcher, |roster| roster.connections("closed") == 0);
        assert_eq!(roster.connections("crashed"), 1, "still in its grace");
        roster.follow_until(&mut watcher, |roster| roster.connections("crashed") == 0);
    }
}

fn a_vanished_peer_is_gone_within_the_bound_and_its_members_are_told(setup: &Setup) {
    let server = setup.start(&QUICK);
    let mut ghost = server.client("ghost");
    // Each watcher in a thread of its own, so that all of them go on answering pings.
    let watchers: Vec<_> = (0..3)
        .map(|_| {
            let mut watcher = server.client("watcher");
            let joined = watcher.join_present("r");
            let mut roster = Roster::from_join(&mut watcher, &joined);
            thread::spawn(move || {
                roster.follow_until(&mut watcher, |roster| roster.connections("ghost") == 1);
                roster.follow_until(&mut watcher, |roster| roster.connections("ghost") == 0);
                assert_eq!(roster.users(), ["watcher"]);
                watcher
            })
        })
        .collect();
    ghost.join_present("r");
    let socket = ghost.vanish();
    let watchers: Vec<Client> = watchers.into_iter().map(|watcher| watcher.join().expect("it is told")).collect();
    let metrics = server.wait_until("one ghost reaped", |metrics| metrics.sum("throng_ghosts_reaped_total") == 1.0);
    assert_eq!(metrics.sum_where("throng_closes_total", "reason", "no_pong"), 1.0);
    server.wait_until("its membership is freed", |metrics| metrics.sum("ws_room_subscriptions") == 3.0);
    drop((socket, watchers));
}

fn a_vanished_peer_of_the_plain_dialect_is_gone_within_the_bound(setup: &Setup) {
    let server = setup.start(&QUICK);
    let mut ghost = server.plain("?user=ghost");
    ghost.join("r");
    let socket = ghost.vanish();
    server.wait_until("the ghost is reaped", |metrics| metrics.sum("throng_ghosts_reaped_total") == 1.0);
    server.assert_nothing_left();
    drop(socket);
}

// ---- one close path ---------------------------------------------------------------------------------------------------------

fn a_reset_frees_memberships(setup: &Setup) {
    frees_memberships(setup, "reset", Client::reset);
}

fn a_protocol_error_frees_memberships(setup: &Setup) {
    frees_memberships(setup, "protocol", |client| {
        let mut raw = RawPeer::on(client.stream().try_clone().expect("a socket can be duplicated"));
        raw.send(&RawPeer::frame(0xf1, b"reserved bits"));
        assert_eq!(raw.expect_close(), 1002);
    });
}

fn an_end_of_stream_frees_memberships(setup: &Setup) {
    frees_memberships(setup, "eof", Client::end_of_stream);
}

/// A client in five rooms ends in some way: every room is left, its members are told, and the metrics say why.
fn frees_memberships(setup: &Setup, reason: &str, end: impl FnOnce(Client)) {
    let rooms = ["r0", "r1", "r2", "r3", "r4"];
    let server = setup.start(&["--presence-grace", "300ms"]);
    let mut watcher = server.client("watcher");
    let mut victim = server.client("victim");
    let mut rosters: Vec<Roster> = rooms
        .iter()
        .map(|room| {
            let joined = watcher.join_present(room);
            Roster::from_join(&mut watcher, &joined)
        })
        .collect();
    rooms.iter().for_each(|room| drop(victim.join_present(room)));
    for roster in &mut rosters {
        roster.follow_until(&mut watcher, |roster| roster.connections("victim") == 1);
    }
    server.wait_until("ten memberships", |metrics| metrics.sum("ws_room_subscriptions") == 10.0);
    end(victim);
    let metrics = server.wait_until("its five are freed", |metrics| metrics.sum("ws_room_subscriptions") == 5.0);
    assert_eq!(metrics.sum("ws_abnormal_closes"), 1.0);
    assert_eq!(metrics.sum_where("throng_closes_total", "reason", reason), 1.0, "{}", metrics.describe("closes"));
    for roster in &mut rosters {
        roster.follow_until(&mut watcher, |roster| roster.connections("victim") == 0);
    }
    watcher.close(1000);
    server.assert_nothing_left();
}

// ---- sequence ---------------------------------------------------------------------------------------------------------------

fn commands_1_2_3_5_4_are_executed_1_2_3_4_5(setup: &Setup) {
    let server = setup.start(&[]);
    let mut receiver = server.client("receiver");
    receiver.join("r");
    let mut author = server.client("author");
    author.send(&json!({"type": "join_room", "roomId": "r", "seq": 1}));
    for seq in [2, 3, 5] {
        author.send(&json!({"type": "broadcast", "roomId": "r", "data": seq, "seq": seq}));
    }
    let nack = author.expect("nack");
    assert_eq!((&nack["expectedSeq"], &nack["received"]), (&json!(4), &json!(5)), "{nack}");
    author.send(&json!({"type": "broadcast", "roomId": "r", "data": 4, "seq": 4}));
    for data in 2..=5 {
        assert_eq!(receiver.expect_data("r"), data);
    }
    author.take_seqs(5);
    author.expect_ack(5);
}

fn plain_commands_1_2_3_5_4_are_executed_1_2_3_4_5(setup: &Setup) {
    let server = setup.start(&[]);
    let mut receiver = server.plain("");
    receiver.join("r");
    let mut author = server.plain("");
    author.send(&json!({"type": "join_room", "roomId": "r", "seq": 1}));
    for seq in [2, 3, 5, 4] {
        author.send(&json!({"type": "broadcast", "roomId": "r", "data": seq, "seq": seq}));
    }
    for data in 2..=5 {
        assert_eq!(receiver.expect_data("r"), data);
    }
}

fn a_duplicate_is_executed_once(setup: &Setup) {
    let server = setup.start(&[]);
    let mut receiver = server.client("receiver");
    receiver.join("r");
    let mut author = server.client("author");
    author.join("r");
    let frame = json!({"type": "broadcast", "roomId": "r", "data": "once", "seq": 2});
    author.send(&frame);
    let seq = author.take_seq();
    author.expect_ack(seq);
    author.send(&frame);
    // It is acknowledged again, so that a client whose ack was lost goes on.
    let again = author.expect("ack");
    assert_eq!(again["seq"], seq, "{again}");
    author.broadcast("r", json!("next"));
    assert_eq!(receiver.expect_data("r"), "once");
    assert_eq!(receiver.expect_data("r"), "next");
    server.wait_until("one duplicate, two publications", |metrics| {
        metrics.sum("throng_duplicates_total") == 1.0 && metrics.sum("throng_publications_total") == 2.0
    });
}

fn a_plain_duplicate_is_executed_once_and_told_the_expected_seq(setup: &Setup) {
    let server = setup.start(&[]);
    let mut receiver = server.plain("");
    receiver.join("r");
    let mut author = server.plain("");
    // Its client has counted on over its own reconnects: the numbering starts at the first number that it brings.
    author.send(&json!({"type": "join_room", "roomId": "r", "seq": 41}));
    author.expect("room_joined");
    let frame = json!({"type": "broadcast", "roomId": "r", "data": "once", "seq": 42});
    author.send(&frame);
    author.send(&frame);
    let error = author.expect_error("seq_duplicate");
    assert_eq!(error["expectedSeq"], 43, "{error}");
    author.send(&json!({"type": "broadcast", "roomId": "r", "data": "next", "seq": 43}));
    assert_eq!(receiver.expect_data("r"), "once");
    assert_eq!(receiver.expect_data("r"), "next");
}

fn a_gap_is_nacked_with_the_expected_seq(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    author.join("r");
    for seq in [3, 4, 6] {
        author.send(&json!({"type": "broadcast", "roomId": "r", "data": seq, "seq": seq}));
    }
    let nack = author.expect("nack");
    assert_eq!((&nack["expectedSeq"], &nack["received"]), (&json!(2), &json!(3)), "{nack}");
    // One nack a gap, not one a frame.
    author.round_trip();
    author.expect_none("nack");
    author.send(&json!({"type": "broadcast", "roomId": "r", "data": 2, "seq": 2}));
    // 2, 3 and 4 are decided; 6 waits behind the next gap, which is told in its turn.
    author.take_seqs(5);
    author.expect_ack_among_nacks(4);
    let nack = author.expect("nack");
    assert_eq!((&nack["expectedSeq"], &nack["received"]), (&json!(5), &json!(6)), "{nack}");
    author.send(&json!({"type": "broadcast", "roomId": "r", "data": 5, "seq": 5}));
    author.expect_ack(6);
}

fn a_gap_that_stays_open_is_nacked_again_and_ends_with_4203(setup: &Setup) {
    let server = setup.start(&["--reorder-age", "300ms"]);
    let mut author = server.client("author");
    author.join("r");
    // Each nack asks to send again from 2; it sends 3 again and again, and never 2.
    author.send(&json!({"type": "broadcast", "roomId": "r", "data": 3, "seq": 3}));
    let mut nacks = 0;
    let end = loop {
        match author.next_event() {
            Event::Text(text) if text.starts_with(r#"{"type":"nack""#) => {
                assert!(text.contains(r#""expectedSeq":2"#), "{text}");
                nacks += 1;
                author.send(&json!({"type": "broadcast", "roomId": "r", "data": 3, "seq": 3}));
            }
            Event::Text(_) => {}
            Event::Ended(end) => break end,
            event @ (Event::Binary(_) | Event::Silence) => panic!("{event:?} after {nacks} nacks"),
        }
    };
    assert_eq!((end.code(), nacks), (Some(4203), 3), "one for the gap, two for what was dropped; the third time ends it");
    server.assert_nothing_left();
}

fn a_plain_gap_is_skipped_after_the_reorder_age(setup: &Setup) {
    let server = setup.start(&["--reorder-age", "300ms"]);
    let mut receiver = server.plain("");
    receiver.join("r");
    let mut author = server.plain("");
    author.send(&json!({"type": "join_room", "roomId": "r", "seq": 1}));
    for seq in [2, 5, 4] {
        author.send(&json!({"type": "broadcast", "roomId": "r", "data": seq, "seq": seq}));
    }
    let error = author.expect_error("seq_skipped");
    assert_eq!(error["missing"], json!({"from": 3, "to": 3}), "it names what is missing: {error}");
    for data in [2, 4, 5] {
        assert_eq!(receiver.expect_data("r"), data);
    }
    // The missing one comes too late: it is in the past now.
    author.send(&json!({"type": "broadcast", "roomId": "r", "data": 3, "seq": 3}));
    let error = author.expect_error("seq_duplicate");
    assert_eq!(error["expectedSeq"], 6, "{error}");
}

// ---- admission --------------------------------------------------------------------------------------------------------------

fn the_connection_after_the_last_allowed_gets_503_with_retry_after(setup: &Setup) {
    let server = setup.start(&["--connections-max", "8"]);
    let mut clients: Vec<Client> = (0..8).map(|index| server.client(&format!("u{index}"))).collect();
    for _ in 0..3 {
        let mut refused = server.raw();
        refused.send(RawPeer::upgrade_request("/ws", "").as_bytes());
        let answer = refused.answer();
        assert_eq!(answer.status, 503, "{answer:?}");
        let seconds = answer.header("retry-after").and_then(|value| value.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| seconds > 0), "{answer:?}");
        refused.expect_end();
    }
    // Those who are in are served as before, and one that leaves makes room for one.
    clients.iter_mut().for_each(Client::round_trip);
    let metrics = server
        .wait_until("refusals are counted", |metrics| metrics.sum_where("throng_refusals_total", "reason", "capacity") == 3.0);
    assert_eq!(metrics.sum("ws_active_connections"), 8.0);
    clients.pop().expect("eight are here").close(1000);
    server.wait_until("a place is free", |metrics| metrics.sum("ws_active_connections") == 7.0);
    server.client("late").round_trip();
}

fn a_header_drip_ends_at_the_deadline(setup: &Setup) {
    let server = setup.start(&["--handshake-deadline", "500ms"]);
    let mut silent = server.raw();
    let mut drip = server.raw();
    let request = RawPeer::upgrade_request("/ws", &format!("X-Long: {}\r\n", "x".repeat(4_000)));
    let deadline = Deadline::after(PATIENCE);
    let mut bytes = request.bytes().cycle();
    // A byte every few milliseconds would take a minute for this head.
    while drip.try_send(&[bytes.next().expect("a cycle has no end")]) {
        assert!(!deadline.passed(), "the drip goes on");
        thread::sleep(Duration::from_millis(15));
    }
    silent.expect_end();
    let metrics =
        server.wait_until("both are counted", |metrics| metrics.sum_where("throng_refusals_total", "reason", "timeout") == 2.0);
    assert_eq!(metrics.sum("ws_connections_total"), 0.0);
    server.client("bystander").round_trip();
}

fn a_client_that_never_says_connect_ends_at_the_deadline(setup: &Setup) {
    let server = setup.start(&["--handshake-deadline", "500ms"]);
    let mut client = Client::open(server.data, "/ws", Some("throng.v1"));
    assert_eq!(client.expect_end().code(), Some(4201));
    server.assert_nothing_left();
}

fn malformed_upgrades_get_their_status(setup: &Setup) {
    let server = setup.start(&[]);
    let valid = RawPeer::upgrade_request("/ws", "");
    let without = |name: &str| {
        let lines = valid.split_inclusive("\r\n").filter(|line| !line.starts_with(name));
        lines.collect::<String>()
    };
    let with = |lines: &str| RawPeer::upgrade_request("/ws", lines);
    let many_headers: String = (0..100).map(|index| format!("X-{index}: y\r\n")).collect();
    let cases: Vec<(&str, String, &[u16])> = vec![
        ("no request line", "rubbish\r\n\r\n".into(), &[400]),
        ("binary rubbish", "\u{1}\u{2}\u{3}\u{4}\r\n\r\n".into(), &[400]),
        ("a TLS hello", "\u{16}\u{3}\u{1}\r\n\r\n".into(), &[400]),
        ("a POST", valid.replacen("GET", "POST", 1), &[405]),
        ("an unknown method", valid.replacen("GET", "BREW", 1), &[405]),
        ("an unknown path", valid.replacen("/ws", "/nowhere", 1), &[404]),
        ("no upgrade", without("Upgrade:"), &[426]),
        ("another upgrade", valid.replacen("Upgrade: websocket", "Upgrade: h2c", 1), &[426]),
        ("a connection that is not to be upgraded", valid.replacen("Connection: Upgrade", "Connection: close", 1), &[400, 426]),
        ("version 8", valid.replacen("Version: 13", "Version: 8", 1), &[426]),
        ("no version", without("Sec-WebSocket-Version"), &[400, 426]),
        ("no key", without("Sec-WebSocket-Key"), &[400]),
        ("a short key", valid.replacen("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 1), &[400]),
        ("a key that is not base64", valid.replacen("dGhlIHNhbXBsZSBub25jZQ==", "****************======", 1), &[400]),
        ("two keys", with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), &[400]),
        ("no host", without("Host:"), &[400]),
        ("two hosts", with("Host: elsewhere\r\n"), &[400]),
        ("a header without colon", with("Header\r\n"), &[400]),
        ("a space before the colon", with("X-Space : y\r\n"), &[400]),
        ("a folded line", with("X-Folded: y\r\n z\r\n"), &[400]),
        ("a NUL in a value", with("X-Nul: \0\r\n"), &[400]),
        ("a body", with("Content-Length: 5\r\n"), &[400]),
        ("only subprotocols that are unknown", with("Sec-WebSocket-Protocol: soap, mqtt\r\n"), &[400]),
        ("HTTP/1.0", valid.replacen("HTTP/1.1", "HTTP/1.0", 1), &[505]),
        ("HTTP/2.0", valid.replacen("HTTP/1.1", "HTTP/2.0", 1), &[400, 505]),
        ("a header of 9 KiB", with(&format!("X-Big: {}\r\n", "x".repeat(9 * 1024))), &[431]),
        ("a path of 9 KiB", valid.replacen("/ws", &format!("/ws?{}", "x".repeat(9 * 1024)), 1), &[431, 414]),
        ("100 headers", with(&many_headers), &[431]),
    ];
    for (what, request, allowed) in &cases {
        let mut peer = server.raw();
        peer.send(request.as_bytes());
        let answer = peer.answer();
        assert!(allowed.contains(&answer.status), "{what}: {answer:?}");
        match answer.status {
            426 => assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{what}: {answer:?}"),
            405 => assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{what}: {answer:?}"),
            _ => {}
        }
        peer.expect_end();
    }
    let mut peer = server.raw();
    peer.send(with("Sec-WebSocket-Protocol: soap\r\n").as_bytes());
    let answer = peer.answer();
    assert!(format!("{answer:?}").contains("throng.v1"), "the refusal names what is spoken here: {answer:?}");
    server.client("bystander").round_trip();
    server.wait_until("of all these only the bystander counts as a connection", |metrics| {
        let refused = metrics.sum("throng_refusals_total");
        refused == cases.len() as f64 + 1.0 && metrics.sum("ws_connections_total") == 1.0
    });
}

fn an_upgrade_in_any_split_is_accepted(setup: &Setup) {
    let server = setup.start(&[]);
    let mut request = RawPeer::upgrade_request("/ws", "Sec-WebSocket-Protocol: mqtt, throng.v1\r\n").into_bytes();
    // The client pipelines its first frame behind the request.
    request.extend(RawPeer::frame(0x81, br#"{"type":"connect","user":"split"}"#));
    for step in [1, 2, 7, 64, request.len()] {
        let mut peer = server.raw();
        for part in request.chunks(step) {
            peer.send(part);
        }
        let answer = peer.answer();
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("throng.v1")), "{answer:?}");
        let welcome = peer.read_frame().expect("a frame comes");
        assert!(welcome.payload.starts_with(br#"{"type":"welcome""#), "{welcome:?}");
    }
}

// ---- the whole incident -----------------------------------------------------------------------------------------------------

const CONNECTIONS: usize = 15_234;
const ABNORMAL: usize = 2_891;
const WATCHERS: usize = 10;
const ROOMS: usize = 24;
const ROOMS_EACH: usize = 2;

fn after_15_234_connections_of_which_2_891_closed_abnormally_nothing_is_left(setup: &Setup) {
    // The watchers are not read meanwhile, so they must not be pinged.
    let server = setup.start(&["--presence-grace", "300ms", "--resume-ttl", "1s", "--heartbeat", "1h", "--heartbeat-idle", "1h"]);
    // A room with a publication outlives its last member (its epoch and offset stay): so that every room is known before the account
    // is taken, something is published in each.
    let mut opener = server.client("opener");
    for room in (0..ROOMS).map(|room| format!("room{room}")) {
        opener.join(&room);
        let seq = opener.broadcast(&room, json!("first"));
        opener.expect_ack(seq);
    }
    opener.close(1000);
    let began = server.assert_nothing_left();
    let mut watchers: Vec<Client> = (0..WATCHERS).map(|index| server.client(&format!("watcher{index}"))).collect();
    for (index, watcher) in watchers.iter_mut().enumerate() {
        (0..ROOMS_EACH).for_each(|step| drop(watcher.join(&format!("room{}", (index + step) % ROOMS))));
    }
    let live = (WATCHERS * ROOMS_EACH) as f64;

    let churn = CONNECTIONS - WATCHERS - 1;
    let workers = 4;
    thread::scope(|scope| {
        for worker in 0..workers {
            let server = &server;
            scope.spawn(move || {
                for index in (worker..churn).step_by(workers) {
                    // Spread evenly over the run: exactly ABNORMAL of them.
                    let abnormal = (index + 1) * ABNORMAL / churn > index * ABNORMAL / churn;
                    one_of_the_incident(server, index, abnormal);
                }
            });
        }
    });

    let after = server.wait_until("15,234 connections, 2,891 closed abnormally, and only the watchers are in", |metrics| {
        metrics.sum("ws_connections_total") == CONNECTIONS as f64
            && metrics.sum("ws_abnormal_closes") == ABNORMAL as f64
            && metrics.sum("ws_active_connections") == WATCHERS as f64
            && metrics.sum("ws_room_subscriptions") == live
    });
    // The audit has to have walked both sides since: its figure is what it found on its last lap.
    let laps = after.sum("throng_audit_laps_total");
    let audited = server.wait_until("the audit has gone round twice", |metrics| {
        metrics.sum("throng_audit_laps_total") >= laps + 2.0 * shard_count(metrics)
    });
    assert_eq!(audited.sum("ws_orphaned_subscriptions"), 0.0);
    assert_eq!(audited.sum("ws_room_leave_failures"), 0.0);
    assert_eq!(audited.sum("ws_room_subscriptions"), live);
    watchers.into_iter().for_each(|watcher| assert!(matches!(watcher.close(1000), End::Closed { .. })));
    server.assert_nothing_left();
    // What rooms keep outlives those who published it.
    let held = |metrics: &Metrics| metrics.sum("throng_memory_bytes") - metrics.sum_where("throng_memory_bytes", "use", "history");
    let account = |metrics: &Metrics| (held(metrics), metrics.sum("throng_sessions"), metrics.sum("throng_users"));
    let what = format!("the account is back where it began: {:?}\n{}", account(&began), began.describe("throng_memory_bytes"));
    server.wait_until(&what, |metrics| account(metrics) == account(&began));
}

/// One connection of the incident: it joins, publishes, and ends in one of the ways that were seen.
fn one_of_the_incident(server: &Server, index: usize, abnormal: bool) {
    let stream = RawPeer::connect_from(source_address(index), server.data).expect("the server accepts");
    let plain = index.is_multiple_of(3);
    let mut client = if plain {
        Client::open_on(stream, server.data, &format!("/ws?user=user{}", index % 1_200), None)
    } else {
        Client::open_on(stream, server.data, "/ws", Some("throng.v1")).introduced(&format!("user{}", index % 1_200))
    };
    for step in 0..ROOMS_EACH {
        let room = format!("room{}", (index + step * 7) % ROOMS);
        client.join_with(&room, json!({"presence": index.is_multiple_of(2) && !plain}));
        if index.is_multiple_of(5) {
            client.broadcast(&room, json!({"cursor": {"x": index, "y": step}}));
        }
    }
    match (abnormal, index % 3) {
        (false, 0) => {
            client.close(1001);
        }
        (false, _) => {
            client.close(1000);
        }
        (true, 0) => client.end_of_stream(),
        (true, 1) => client.reset(),
        (true, _) => {
            let mut raw = RawPeer::on(client.stream().try_clone().expect("a socket can be duplicated"));
            raw.send(&RawPeer::frame(0x83, b"an opcode that is not defined"));
            raw.expect_end();
        }
    }
}

fn shard_count(metrics: &Metrics) -> f64 {
    metrics.sum("throng_shards")
}
