//! Verify that hostile input costs only its sender: bad messages get an `error`, bad frames the close code of RFC 6455, nothing is
//! allocated for a claimed length, nothing is left behind, and a bystander on the same shard is served as before.
#![cfg(feature = "server")]

mod support;

use serde_json::{Value, json};
use support::{Client, Event, RawPeer, Server, Setup};

over_shards![
    a_bad_message_gets_an_error_and_the_connection_stays,
    a_bad_message_of_the_plain_dialect_gets_an_error_and_the_connection_stays,
    a_command_that_is_refused_still_counts_in_the_sequence,
    deep_nesting_is_refused_and_the_allowed_depth_is_not,
    integers_beyond_the_range_are_refused,
    ids_out_of_bounds_are_refused,
    a_binary_message_is_told_that_it_is_unsupported,
    bad_frames_get_their_close_code,
    invalid_utf8_ends_with_1007_as_soon_as_it_arrives,
    a_message_above_the_limit_ends_with_1009,
    a_claimed_length_allocates_nothing,
    fragments_in_any_split_make_one_message,
    control_frames_between_fragments_are_answered_at_once,
    a_frame_in_any_split_is_read,
    a_first_frame_other_than_connect_ends_with_4004,
    a_flood_of_pings_costs_no_one_else,
    a_close_frame_is_answered_with_its_code,
];

/// Texts that are no command of either dialect.
const BAD_MESSAGES: [&str; 34] = [
    "",
    " ",
    "null",
    "true",
    "17",
    "[]",
    "\"join_room\"",
    "{",
    "}",
    "{}",
    "{}{}",
    "[{\"type\":\"ping\"}]",
    "{\"type\"}",
    "{\"type\":}",
    "{\"type\":1}",
    "{\"type\":null}",
    "{\"type\":\"\"}",
    "{\"type\":\"ping\"",
    "{\"type\":\"ping\",}",
    "{\"type\":\"ping\"} x",
    "{'type':'ping'}",
    "{type:\"ping\"}",
    "\u{feff}{\"type\":\"ping\"}",
    "{\"type\":\"ping\" /* why */}",
    "{\"type\":\"ping\",\"t\":NaN}",
    "{\"type\":\"ping\",\"t\":01}",
    "{\"type\":\"ping\",\"t\":+1}",
    "{\"type\":\"ping\",\"t\":1e}",
    "{\"type\":\"ping\",\"x\":\"\\x\"}",
    "{\"type\":\"ping\",\"x\":\"\\u12\"}",
    "{\"type\":\"ping\",\"x\":\"a\nb\"}",
    "{\"type\":\"no_such_type\"}",
    "{\"type\":\"ping\",\"type\":\"join_room\"}",
    "{\"type\":\"broadcast\",\"roomId\":\"r\",\"data\":{\"a\":},\"seq\":1}",
];

fn a_bad_message_gets_an_error_and_the_connection_stays(setup: &Setup) {
    let server = setup.start(&[]);
    let mut client = server.client("client");
    let mut bystander = server.client("bystander");
    for text in BAD_MESSAGES {
        assert_refused(&mut client, text);
    }
    bystander.round_trip();
    client.join("r");
    server.wait_until("the errors are counted", |metrics| metrics.sum("throng_errors_sent_total") >= BAD_MESSAGES.len() as f64);
    assert_eq!(server.metrics().sum("ws_active_connections"), 2.0);
}

fn a_bad_message_of_the_plain_dialect_gets_an_error_and_the_connection_stays(setup: &Setup) {
    let server = setup.start(&[]);
    let mut client = server.plain("");
    for text in BAD_MESSAGES {
        assert_refused(&mut client, text);
    }
    client.join("r");
}

/// The text gets an `error`, and the connection goes on. Returns the error.
fn assert_refused(client: &mut Client, text: &str) -> Value {
    client.send_text(text);
    let shown: String = text.chars().take(80).collect();
    let error = client.expect("error");
    assert!(error["code"].is_string() && error["message"].is_string(), "{shown}: {error}");
    assert_ne!(error["retryable"], true, "it would be refused again: {shown}: {error}");
    client.round_trip();
    error
}

fn a_command_that_is_refused_still_counts_in_the_sequence(setup: &Setup) {
    let server = setup.start(&[]);
    let mut client = server.client("client");
    client.join("r");
    // A command that can be read but not granted is decided, by its error, and what follows is not held up.
    let seq = client.command(json!({"type": "join_room", "roomId": "x".repeat(300)}));
    let error = client.expect("error");
    assert_eq!(error["seq"], seq, "{error}");
    let seq = client.broadcast("r", json!(1));
    client.expect_ack(seq);
}

fn deep_nesting_is_refused_and_the_allowed_depth_is_not(setup: &Setup) {
    let server = setup.start(&[]);
    let mut member = server.client("member");
    member.join("r");
    let mut client = server.client("client");
    client.join("r");
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let seq = client.take_seq();
    client.send_text(&format!(r#"{{"type":"broadcast","roomId":"r","data":{},"seq":{seq}}}"#, nested(128)));
    client.expect_ack(seq);
    // Deeper than the test's own JSON reader goes.
    let relayed = std::iter::from_fn(|| match member.next_event() {
        Event::Text(text) => Some(text),
        Event::Binary(_) | Event::Ended(_) | Event::Silence => None,
    });
    assert!(relayed.into_iter().any(|text| text.contains(&nested(128))), "the publication comes as it was sent");
    for depth in [129, 1_000, 32_000] {
        assert_refused(&mut client, &format!(r#"{{"type":"broadcast","roomId":"r","data":{}}}"#, nested(depth)));
    }
    // Never closed, in the envelope, and as objects: a parser that recurses would end here.
    assert_refused(&mut client, &"[".repeat(60_000));
    assert_refused(&mut client, &r#"{"a":"#.repeat(10_000));
    assert_refused(&mut client, &format!(r#"{{"x":{},"type":"ping"}}"#, nested(30_000)));
}

fn integers_beyond_the_range_are_refused(setup: &Setup) {
    let server = setup.start(&[]);
    let mut client = server.client("client");
    for seq in ["0", "-1", "1.5", "1e0", "1.0", "-0", "9007199254740992", "18446744073709551617", "1e400", "\"1\"", "true", "[1]"] {
        assert_refused(&mut client, &format!(r#"{{"type":"join_room","roomId":"r","seq":{seq}}}"#));
    }
    let digits = "9".repeat(50_000);
    assert_refused(&mut client, &format!(r#"{{"type":"join_room","roomId":"r","seq":{digits}}}"#));
    // In `data` any number of JSON is somebody else's business.
    client.join("r");
    let seq = client.take_seq();
    client.send_text(&format!(r#"{{"type":"broadcast","roomId":"r","data":{digits},"seq":{seq}}}"#));
    client.expect_ack(seq);
}

fn ids_out_of_bounds_are_refused(setup: &Setup) {
    let server = setup.start(&[]);
    let mut client = server.plain("");
    let longest = "é".repeat(128);
    let too_long = format!("{longest}x");
    for room in ["", "a\u{0}b", "line\nbreak", "\u{7f}", too_long.as_str()] {
        assert_refused(&mut client, &json!({"type": "join_room", "roomId": room}).to_string());
    }
    for raw in [r#""\ud800""#, r#""\udc00\ud800""#, r#""\ud800x""#, "17", "null", "{}", r#"["r"]"#] {
        assert_refused(&mut client, &format!(r#"{{"type":"join_room","roomId":{raw}}}"#));
    }
    assert_refused(&mut client, r#"{"type":"join_room"}"#);
    assert_refused(&mut client, r#"{"type":"broadcast","roomId":"r"}"#);
    let huge_key = "k".repeat(60_000);
    assert_refused(&mut client, &format!(r#"{{"{huge_key}":1,"type":"ping"}}"#));
    let many_keys: String = (0..4_000).map(|index| format!("\"k{index}\":1,")).collect();
    assert_refused(&mut client, &format!(r#"{{{many_keys}"type":"ping"}}"#));
    client.join(&longest);
    let mut user = Client::open(server.data, "/ws", Some("throng.v1"));
    user.send(&json!({"type": "connect", "user": "u".repeat(129)}));
    user.expect("error");
    user.expect_end();
}

fn a_binary_message_is_told_that_it_is_unsupported(setup: &Setup) {
    let server = setup.start(&[]);
    for mut client in [server.client("client"), server.plain("")] {
        client.send_binary(b"\x00\xff");
        client.expect_error("binary_unsupported");
        client.round_trip_plain();
    }
}

/// Frames that RFC 6455 forbids, what to call them, and the close codes that it allows for them.
fn bad_frames() -> Vec<(String, Vec<u8>, &'static [u16])> {
    let frame = RawPeer::frame;
    let header = RawPeer::header;
    let close = |code: u16| frame(0x88, &code.to_be_bytes());
    let mut cases: Vec<(String, Vec<u8>, &'static [u16])> = vec![
        ("unmasked".into(), [header(0x81, 2, None), b"hi".to_vec()].concat(), &[1002]),
        ("an unmasked ping".into(), header(0x89, 0, None), &[1002]),
        ("a continuation of nothing".into(), frame(0x80, b"x"), &[1002]),
        ("a text within a fragmented text".into(), [frame(0x01, b"a"), frame(0x81, b"b")].concat(), &[1002]),
        ("a fragmented ping".into(), frame(0x09, b"x"), &[1002]),
        ("a fragmented close".into(), frame(0x08, b""), &[1002]),
        ("a ping of 126 bytes".into(), frame(0x89, &[0; 126]), &[1002]),
        ("a close of 126 bytes".into(), frame(0x88, &[0x03; 126]), &[1002]),
        ("a close of one byte".into(), frame(0x88, b"x"), &[1002]),
        ("a close whose reason is not UTF-8".into(), frame(0x88, b"\x03\xe8\xff"), &[1007, 1002]),
        ("a length with its highest bit".into(), vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], &[1002, 1009]),
        ("the longest length".into(), vec![0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0], &[1009]),
    ];
    for bits in [0x40, 0x20, 0x10, 0x70] {
        cases.push((format!("reserved bits {bits:#x}"), frame(0x81 | bits, b"x"), &[1002]));
        cases.push((format!("reserved bits {bits:#x} on a ping"), frame(0x89 | bits, b"x"), &[1002]));
    }
    for opcode in (3..8).chain(11..16) {
        cases.push((format!("opcode {opcode}"), frame(0x80 | opcode, b"x"), &[1002]));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        cases.push((format!("close code {code}"), close(code), &[1002]));
    }
    cases
}

fn bad_frames_get_their_close_code(setup: &Setup) {
    let server = setup.start(&[]);
    let mut bystander = server.client("bystander");
    let cases = bad_frames();
    for (what, bytes, allowed) in &cases {
        let mut peer = server.raw().upgrade("/ws", "");
        peer.send(bytes);
        let code = peer.expect_close();
        assert!(allowed.contains(&code), "{what}: {code}");
    }
    bystander.round_trip();
    let metrics = server.wait_until("all are gone", |metrics| metrics.sum("ws_active_connections") == 1.0);
    assert_eq!(metrics.sum("ws_abnormal_closes"), cases.len() as f64);
    bystander.close(1000);
    server.assert_nothing_left();
}

fn invalid_utf8_ends_with_1007_as_soon_as_it_arrives(setup: &Setup) {
    let server = setup.start(&[]);
    let bad: [&[u8]; 7] = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"a\x80", b"\xe4a"];
    for bytes in bad {
        let mut whole = server.raw().upgrade("/ws", "");
        whole.send(&RawPeer::frame(0x81, bytes));
        assert_eq!(whole.expect_close(), 1007, "{bytes:x?}");
        // The first fragment of a message that is never finished: nothing more is waited for.
        let mut part = server.raw().upgrade("/ws", "");
        part.send(&RawPeer::frame(0x01, bytes));
        assert_eq!(part.expect_close(), 1007, "{bytes:x?} in a fragment");
    }
    // Cut off within a character.
    let mut short = server.raw().upgrade("/ws", "");
    short.send(&RawPeer::frame(0x81, b"\xe2\x82"));
    assert_eq!(short.expect_close(), 1007);
    // A character over two fragments is one.
    let mut split = server.raw().upgrade("/ws", "");
    split.send(&RawPeer::frame(0x01, b"{\"type\":\"ping\",\"x\":\"\xe2\x82"));
    split.send(&RawPeer::frame(0x80, b"\xac\"}"));
    let pong = split.read_frame().expect("it is answered");
    assert!(pong.payload.starts_with(br#"{"type":"pong""#), "{pong:?}");
}

fn a_message_above_the_limit_ends_with_1009(setup: &Setup) {
    let server = setup.start(&["--message-bytes-max", "4096"]);
    let ping = |length: usize| {
        let frame = json!({"type": "ping", "x": ""}).to_string();
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(length - frame.len())))
    };
    let mut fits = server.plain("");
    fits.send_text(&ping(4_096));
    fits.expect("pong");
    let mut above = server.plain("");
    above.send_text(&ping(4_097));
    assert_eq!(above.expect_end().code(), Some(1009));
    // The header alone says it: no payload is waited for.
    let mut claims = server.raw().upgrade("/ws", "");
    claims.send(&RawPeer::header(0x81, 4_097, Some([0; 4])));
    assert_eq!(claims.expect_close(), 1009);
    let mut fragments = server.raw().upgrade("/ws", "");
    fragments.send(&RawPeer::frame(0x01, &[b' '; 4_000]));
    fragments.send(&RawPeer::header(0x00, 97, Some([0; 4])));
    assert_eq!(fragments.expect_close(), 1009);
    let metrics =
        server.wait_until("all are counted", |metrics| metrics.sum_where("throng_closes_total", "reason", "too_large") == 3.0);
    assert_eq!(metrics.sum("ws_active_connections"), 1.0);
}

fn a_claimed_length_allocates_nothing(setup: &Setup) {
    const PEERS: usize = 100;
    let server = setup.start(&["--message-bytes-max", "16777216"]);
    let mut peers: Vec<RawPeer> = (0..PEERS).map(|_| server.raw().upgrade("/ws", "")).collect();
    let before = held(&server);
    for peer in &mut peers {
        let mut bytes = RawPeer::header(0x81, 16 * 1024 * 1024, Some([0; 4]));
        bytes.extend(b"          ");
        peer.send(&bytes);
    }
    server.wait_until("the bytes have arrived", |metrics| metrics.sum("throng_bytes_in_total") >= (PEERS * 150) as f64);
    server.client("fence").round_trip();
    let grown = held(&server) - before;
    assert!(grown <= (PEERS * 4_096) as f64, "100 claims of 16 MiB hold {grown} bytes");
    peers.into_iter().for_each(RawPeer::reset);
    server.assert_nothing_left();
}

fn held(server: &Server) -> f64 {
    server.metrics().sum("throng_memory_bytes")
}

fn fragments_in_any_split_make_one_message(setup: &Setup) {
    let server = setup.start(&[]);
    let mut peer = server.raw().upgrade("/ws", "");
    let text = br#"{"type":"ping","t":12345}"#;
    for size in [1, 2, 5, 24] {
        let parts: Vec<&[u8]> = text.chunks(size).collect();
        for (index, part) in parts.iter().enumerate() {
            let opcode = u8::from(index == 0);
            let fin = if index + 1 == parts.len() { 0x80 } else { 0 };
            peer.send(&RawPeer::frame(fin | opcode, part));
        }
        let pong = peer.read_frame().expect("it is answered");
        assert!(String::from_utf8_lossy(&pong.payload).contains("12345"), "{pong:?}");
    }
    // Empty fragments are fragments.
    for frame in [RawPeer::frame(0x01, b""), RawPeer::frame(0x00, b""), RawPeer::frame(0x00, text), RawPeer::frame(0x80, b"")] {
        peer.send(&frame);
    }
    assert_eq!(peer.read_frame().expect("it is answered").opcode(), 1);
}

fn control_frames_between_fragments_are_answered_at_once(setup: &Setup) {
    let server = setup.start(&[]);
    let mut peer = server.raw().upgrade("/ws", "");
    peer.send(&RawPeer::frame(0x01, br#"{"type":"#));
    peer.send(&RawPeer::frame(0x89, b"between"));
    let pong = peer.read_frame().expect("the pong does not wait for the message");
    assert_eq!((pong.first, pong.payload.as_slice()), (0x8a, b"between".as_slice()));
    peer.send(&RawPeer::frame(0x8a, b"nobody asked"));
    peer.send(&RawPeer::frame(0x80, br#""ping"}"#));
    assert!(peer.read_frame().expect("it is answered").payload.starts_with(br#"{"type":"pong""#));
    peer.send(&RawPeer::frame(0x01, b"unfinished"));
    peer.send(&RawPeer::frame(0x88, &1000u16.to_be_bytes()));
    assert_eq!(peer.expect_close(), 1000);
}

fn a_frame_in_any_split_is_read(setup: &Setup) {
    let server = setup.start(&[]);
    let mut peer = server.raw().upgrade("/ws", "");
    let long = format!(r#"{{"type":"ping","t":7,"x":"{}"}}"#, "y".repeat(300));
    let bytes = RawPeer::frame(0x81, long.as_bytes());
    for step in [1, 2, 3, 5, 127] {
        bytes.chunks(step).for_each(|part| peer.send(part));
        assert!(peer.read_frame().expect("it is answered").payload.starts_with(br#"{"type":"pong""#));
    }
    let many = bytes.repeat(20);
    peer.send(&many);
    for _ in 0..20 {
        assert!(peer.read_frame().expect("it is answered").payload.starts_with(br#"{"type":"pong""#));
    }
}

fn a_first_frame_other_than_connect_ends_with_4004(setup: &Setup) {
    let server = setup.start(&[]);
    for first in [r#"{"type":"join_room","roomId":"r","seq":1}"#, r#"{"type":"connect","user":7}"#, "rubbish", "[]"] {
        let mut client = Client::open(server.data, "/ws", Some("throng.v1"));
        client.send_text(first);
        client.expect("error");
        assert_eq!(client.expect_end().code(), Some(4004), "{first}");
    }
    let mut twice = server.client("twice");
    assert_refused(&mut twice, r#"{"type":"connect","user":"twice"}"#);
}

fn a_flood_of_pings_costs_no_one_else(setup: &Setup) {
    let server = setup.start(&[]);
    let mut bystander = server.client("bystander");
    let mut flood = server.raw().upgrade("/ws", "");
    let pings = RawPeer::frame(0x89, &[1; 125]).repeat(2_000);
    let mut writer = RawPeer::on(flood.stream().try_clone().expect("a socket can be duplicated"));
    let sender = std::thread::spawn(move || writer.try_send(&pings));
    bystander.round_trip();
    // Answers may be joined (RFC 6455 §5.5.3), but the last ping is answered.
    assert_eq!(flood.read_frame().expect("a pong comes").opcode(), 10);
    assert!(sender.join().expect("it sends"), "the flood is read, not cut off");
    bystander.round_trip();
    drop(flood);
    bystander.close(1000);
    server.assert_nothing_left();
}

fn a_close_frame_is_answered_with_its_code(setup: &Setup) {
    let server = setup.start(&[]);
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4000, 4900, 4901, 4999] {
        let mut peer = server.raw().upgrade("/ws", "");
        peer.send(&RawPeer::frame(0x88, &u16::to_be_bytes(code)));
        let answered = peer.expect_close();
        assert!(answered == code || answered == 1000, "{code} was answered with {answered}");
    }
    let mut empty = server.raw().upgrade("/ws", "");
    empty.send(&RawPeer::frame(0x88, b""));
    let frame = empty.read_frame().expect("it is answered");
    assert_eq!(frame.opcode(), 8);
    assert!(matches!(frame.close_code(), None | Some(1000)), "{frame:?}");
    empty.expect_end();
    server.assert_nothing_left();
}
