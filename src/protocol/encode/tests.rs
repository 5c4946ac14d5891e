//! Tests of every frame, read back by another JSON library.
#![allow(clippy::unwrap_used)]

use super::super::command::decode;
use super::super::id64::read_id64;
use super::super::member::{DiffWriter, MemberWriter};
use super::super::testing::Random;
use super::*;
use serde_json::{Value, json};

const TRICKY: &str = "a\"\\/\u{1}\n\r\t\u{7f}é😀\u{2028}";

fn frame(write: impl FnOnce(&mut Vec<u8>)) -> String {
    // What was in `out` before stays.
    let mut out = b"before".to_vec();
    write(&mut out);
    String::from_utf8(out).expect("frames are UTF-8").strip_prefix("before").expect("appended").to_owned()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn broadcast<'a>(room: &'a str, data: &'a str) -> Broadcast<'a> {
    let (room, data) = (room.as_bytes(), data.as_bytes());
    Broadcast { room, data, offset: Some(9), user: b"u", connection: 1, key: None, ts: WallMillis(1_700_000_000_000), seq: None }
}

fn joined(room: &str) -> RoomJoined<'_> {
    RoomJoined { room: room.as_bytes(), seq: Some(1), epoch: 7, offset: 0, recovered: false, gap: None, presence: None }
}

#[test]
fn the_incidents_frames_begin_as_its_clients_compare_them() {
    let text = frame(|out| write_room_joined(out, &joined("doc-abc123")));
    assert!(text.starts_with(r#"{"type":"room_joined","roomId":"doc-abc123","#), "{text}");
    let text = frame(|out| {
        write_broadcast(out, &broadcast("doc-abc123", r#"{"cursor":{}}"#));
    });
    assert!(text.starts_with(r#"{"type":"broadcast","roomId":"doc-abc123","data":{"cursor":{}},"#), "{text}");
}

#[test]
fn a_broadcast_has_its_fields_and_its_data_as_it_came() {
    let data = "{ \"a\" : 1.50, \"a\":\"\\ud800\\/\" }";
    let full = Broadcast { key: Some(TRICKY.as_bytes()), seq: Some(4), user: TRICKY.as_bytes(), ..broadcast(TRICKY, data) };
    let text = frame(|out| {
        write_broadcast(out, &full);
    });
    assert!(text.contains(&format!(",\"data\":{data},\"offset\":9")), "{text}");
    let value = parsed(&text.replace("\\ud800", ""));
    assert_eq!((&value["roomId"], &value["key"], &value["from"]["user"]), (&json!(TRICKY), &json!(TRICKY), &json!(TRICKY)));
    assert_eq!(read_id64(value["from"]["connection"].as_str().unwrap().as_bytes()), Some(1));
    assert_eq!((&value["ts"], &value["seq"]), (&json!(1_700_000_000_000u64), &json!(4)));
    let volatile = parsed(&frame(|out| {
        write_broadcast(out, &Broadcast { offset: None, ..broadcast("r", "null") });
    }));
    let keys: Vec<&String> = volatile.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["data", "from", "roomId", "ts", "type"]);
}

#[test]
fn a_join_says_what_was_asked_for() {
    let mut members = Vec::new();
    MemberWriter::new(&mut members).finish();
    let page = Presence { version: 3, members: Members::Page { members: &members, cursor: Some(b"c") } };
    let full = RoomJoined { gap: Some(GapReason::EpochChanged), recovered: true, presence: Some(page), ..joined("r") };
    let value = parsed(&frame(|out| write_room_joined(out, &full)));
    let expected = json!({"type":"room_joined","roomId":"r","seq":1,"epoch":"AAAAAAAAAAH","offset":0,"recovered":true,
        "gap":{"reason":"epoch_changed"},"version":3,"members":[],"cursor":"c"});
    assert_eq!(value, expected);
    assert!(value["epoch"].as_str().unwrap().len() <= 16);
    let counts = Presence { version: 3, members: Members::Counts(Counts { users: 5, connections: 6 }) };
    let value = parsed(&frame(|out| write_room_joined(out, &RoomJoined { presence: Some(counts), ..joined("r") })));
    assert_eq!(value["counts"], json!({"users":5,"connections":6}));
}

#[test]
fn every_other_frame_is_what_the_protocol_says() {
    let limits = Limits::default();
    let welcome = Welcome {
        session: 5,
        resume: None,
        resumed: None,
        next_seq: 1,
        heartbeat_ms: 12_000,
        timeout_ms: 6_000,
        spread_ms: Some(1_000),
        limits: &limits,
        features: &["presence", "echo"],
        server_time: WallMillis(99),
    };
    let value = parsed(&frame(|out| write_welcome(out, &welcome)));
    assert_eq!((&value["sessionId"], &value["resumed"], &value["nextSeq"]), (&json!("AAAAAAAAAAF"), &json!(false), &json!(1)));
    assert_eq!((&value["limits"]["window"], &value["limits"]["maxMessageBytes"]), (&json!(64), &json!(65_536)));
    assert_eq!((&value["features"], &value["serverTimeMs"]), (&json!(["presence", "echo"]), &json!(99)));

    let (mut rooms, failed) = (Vec::new(), [(7, ErrorCode::NotJoined), (9, ErrorCode::RoomFull)]);
    let lost = Missed::Lost { reason: GapReason::Expired, epoch: 0, offset: 12 };
    for (room, missed) in [(&b"a\"b"[..], Missed::Following { count: 3 }), (b"c", lost)] {
        write_resumed_room(&mut rooms, &ResumedRoom { room, missed });
    }
    let resumed = Welcome {
        resume: Some(ResumeOffer { token: b"secret", ttl_ms: 120_000 }),
        resumed: Some(ResumedSession { rooms: &rooms, failed: &failed }),
        ..welcome
    };
    let value = parsed(&frame(|out| write_welcome(out, &resumed)));
    assert_eq!(
        (&value["resumed"], &value["resumeToken"], &value["resumeTtlMs"]),
        (&json!(true), &json!("secret"), &json!(120_000))
    );
    let gap = json!({"gap": {"reason": "expired"}, "epoch": "AAAAAAAAAAA", "offset": 12});
    assert_eq!(value["rooms"], json!({"a\"b": {"complete": true, "count": 3}, "c": gap}));
    assert_eq!(value["failed"], json!([{"seq": 7, "code": "not_joined"}, {"seq": 9, "code": "room_full"}]));

    let left = frame(|out| write_room_left(out, b"r", LeftReason::Left, Some(3)));
    assert_eq!(left, r#"{"type":"room_left","roomId":"r","reason":"left","seq":3}"#);
    assert_eq!(frame(|out| write_ack(out, 12)), r#"{"type":"ack","seq":12}"#);
    assert_eq!(frame(|out| write_nack(out, 3, 5)), r#"{"type":"nack","expectedSeq":3,"received":5}"#);
    let gap = frame(|out| write_gap(out, b"r", 3, 5));
    assert_eq!(gap, r#"{"type":"gap","roomId":"r","from":3,"to":5,"reason":"slow_consumer"}"#);
    let reconnect = frame(|out| write_reconnect(out, 50, "drain", Some("wss://h/")));
    assert_eq!(reconnect, r#"{"type":"reconnect","afterMs":50,"reason":"drain","url":"wss://h/"}"#);
    assert_eq!(frame(|out| write_pong(out, None)), r#"{"type":"pong"}"#);
    assert_eq!(frame(|out| write_pong(out, Some("[1.0]"))), r#"{"type":"pong","t":[1.0]}"#);
    let counts = frame(|out| write_presence_counts(out, b"r", 0, 2, Counts { users: 1, connections: 2 }));
    let expected =
        json!({"type":"presence_diff","roomId":"r","epoch":"AAAAAAAAAAA","version":2,"counts":{"users":1,"connections":2}});
    assert_eq!(parsed(&counts), expected);
    assert_eq!(frame(|out| write_close_advice(out, 12_000)), r#"{"ra":12000}"#);
    assert!(frame(|out| write_close_advice(out, u64::MAX)).len() <= 28);
}

#[test]
fn an_error_says_what_it_belongs_to() {
    for code in ErrorCode::ALL {
        let value = parsed(&frame(|out| write_error(out, &ErrorFrame::new(*code))));
        let expected = json!({"type":"error","code":code.wire(),"message":code.message(),"retryable":code.retryable()});
        assert_eq!(value, expected);
    }
    let full = ErrorFrame {
        retry_after_ms: Some(250),
        seq: Some(4),
        id: Some("\"q\\u0031\""),
        room: Some(TRICKY.as_bytes()),
        expected_seq: Some(2),
        missing: Some((2, 3)),
        ..ErrorFrame::new(ErrorCode::SeqSkipped)
    };
    let value = parsed(&frame(|out| write_error(out, &full)));
    assert_eq!((&value["retryAfterMs"], &value["seq"], &value["id"]), (&json!(250), &json!(4), &json!("q1")));
    assert_eq!(
        (&value["roomId"], &value["expectedSeq"], &value["missing"]),
        (&json!(TRICKY), &json!(2), &json!({"from":2,"to":3}))
    );
    let fault = decode(r#"{"type":"leave_room","seq":8,"id":3}"#).unwrap_err();
    let value = parsed(&frame(|out| write_error(out, &ErrorFrame::of(fault))));
    assert_eq!((&value["code"], &value["seq"], &value["id"]), (&json!("missing_field"), &json!(8), &json!(3)));
    assert_eq!(value["message"], json!("roomId is missing"));
}

#[test]
fn members_are_written_by_user_and_can_be_taken_back() {
    let text = frame(|out| {
        let mut writer = MemberWriter::new(out);
        writer.user(TRICKY.as_bytes());
        writer.connection(0, None);
        writer.connection(1, Some(br#"{"x":{}}"#));
        let mark = writer.mark();
        let bytes = writer.bytes();
        writer.user(b"too much");
        writer.connection(2, Some(b"{}"));
        assert!(writer.bytes() > bytes);
        writer.rollback(mark);
        assert_eq!(writer.bytes(), bytes);
        writer.connection(3, Some(b"[]"));
        writer.user(b"b");
        writer.connection(4, Some(b"0"));
        let bytes = writer.bytes();
        writer.finish();
        assert_eq!(out.len(), "before".len() + bytes);
    });
    let expected = json!([
        {"user":TRICKY,"connections":[{"id":"AAAAAAAAAAA"},{"id":"AAAAAAAAAAB","state":{"x":{}}},{"id":"AAAAAAAAAAD","state":[]}]},
        {"user":"b","connections":[{"id":"AAAAAAAAAAE","state":0}]}
    ]);
    assert_eq!(parsed(&text), expected);
    let presence = Presence { version: 1, members: Members::Page { members: text.as_bytes(), cursor: None } };
    let value = parsed(&frame(|out| write_presence_state(out, b"r", Some(b"17"), 0, &presence)));
    let expected = json!({"type":"presence_state","roomId":"r","id":17,"epoch":"AAAAAAAAAAA","version":1,"members":expected});
    assert_eq!(value, expected);
}

#[test]
fn a_diff_has_all_three_lists_whatever_is_in_them() {
    for entries in 0..8 {
        let (joins, leaves, updates) = (entries & 1 != 0, entries & 2 != 0, entries & 4 != 0);
        let text = frame(|out| {
            let mut diff = DiffWriter::new(out, b"r", 0, 5);
            if joins {
                diff.join(b"a", 0, None);
                diff.join(TRICKY.as_bytes(), 1, Some(b"{}"));
            }
            if leaves {
                diff.leave(b"b", 0);
                diff.leave(b"b", 1);
            }
            if updates {
                diff.update(b"c", 0, b"{}");
                diff.update(b"c", 1, b"[]");
            }
            diff.finish();
        });
        let list = |there: bool, list: Value| if there { list } else { json!([]) };
        let expected = json!({"type":"presence_diff","roomId":"r","epoch":"AAAAAAAAAAA","version":5,
            "joins": list(joins, json!([{"user":"a","id":"AAAAAAAAAAA"},{"user":TRICKY,"id":"AAAAAAAAAAB","state":{}}])),
            "leaves": list(leaves, json!([{"user":"b","id":"AAAAAAAAAAA"},{"user":"b","id":"AAAAAAAAAAB"}])),
            "updates": list(updates, json!([{"user":"c","id":"AAAAAAAAAAA","state":{}},{"user":"c","id":"AAAAAAAAAAB","state":[]}]))});
        assert_eq!(parsed(&text), expected);
    }
}

#[test]
fn strings_read_back_and_are_escaped_no_more_than_json_requires() {
    assert_eq!(frame(|out| write_string(out, TRICKY.as_bytes())), "\"a\\\"\\\\/\\u0001\\n\\r\\t\u{7f}é😀\u{2028}\"");
    let mut random = Random(3);
    for _ in 0..5_000 {
        let text: String = (0..random.below(40)).filter_map(|_| char::from_u32(random.next() as u32 >> random.below(32))).collect();
        assert_eq!(parsed(&frame(|out| write_string(out, text.as_bytes()))), json!(text));
    }
}

#[test]
fn integers_are_written_in_decimal() {
    let powers = (0..20).map(|power| 10u64.pow(power));
    for number in powers.flat_map(|power| [power - 1, power, power + 1]).chain([u64::MAX]) {
        assert_eq!(frame(|out| write_integer(out, number)), number.to_string());
    }
}

#[test]
fn every_reason_has_a_word_of_its_own() {
    let gaps = [GapReason::Expired, GapReason::EpochChanged, GapReason::WindowExceeded].map(GapReason::wire);
    assert_eq!(gaps, ["expired", "epoch_changed", "window_exceeded"]);
    let left = [LeftReason::Left, LeftReason::Kicked, LeftReason::Forbidden, LeftReason::Closed].map(LeftReason::wire);
    assert_eq!(left, ["left", "kicked", "forbidden", "closed"]);
}
