//! Every frame of the server, read back by serde_json.

use crate::fuzzing::input::Input;
use crate::limits::Limits;
use crate::protocol::encode::{self, *};
use crate::protocol::id64::{id64, read_id64};
use crate::protocol::member::{DiffWriter, MemberWriter};
use crate::protocol::{ErrorCode, scan};
use crate::time::WallMillis;
use serde_json::{Value, json};

/// What frames are filled with.
struct Filling {
    room: String,
    user: String,
    raw: String,
    number: u64,
    other: u64,
    some: bool,
    more: bool,
}

impl Filling {
    fn of(input: &mut Input<'_>) -> Self {
        let (some, more) = (input.flag(), input.flag());
        let (number, other) = (input.magnitude(), input.u64());
        let (room_bytes, user_bytes) = (input.below(64), input.below(64));
        let room = String::from_utf8_lossy(input.take(room_bytes)).into_owned();
        let user = String::from_utf8_lossy(input.take(user_bytes)).into_owned();
        let rest = String::from_utf8_lossy(input.rest());
        // As decoding does: only what is JSON comes so far. Of that, what serde_json can make a value of is compared.
        let raw = match scan::check(&rest) {
            Ok(value) if serde_json::from_str::<Value>(value.raw).is_ok() => value.raw.to_owned(),
            _ => serde_json::to_string(&*rest).expect("a string can be written"),
        };
        Filling { room, user, raw, number, other, some, more }
    }

    fn value(&self) -> Value {
        serde_json::from_str(&self.raw).expect("it was read before")
    }

    fn optional<T>(&self, value: T) -> Option<T> {
        self.some.then_some(value)
    }
}

fn same(what: &str, write: impl FnOnce(&mut Vec<u8>), mut expected: Value) {
    let mut out = b"before".to_vec();
    write(&mut out);
    let text = std::str::from_utf8(&out[6..]).expect("frames are UTF-8");
    assert!(text.starts_with("{\"type\":"), "{text}");
    expected["type"] = json!(what);
    // A field that is not there is no field.
    if let Some(fields) = expected.as_object_mut() {
        fields.retain(|_, value| *value != json!({"absent": true}));
    }
    let read: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(read, expected);
    scan::check(text).unwrap_or_else(|error| panic!("{error:?}: {text}"));
}

/// The value, or that there is none.
fn maybe<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or(json!({"absent": true}), Into::into)
}

fn id(number: u64) -> String {
    let text = id64(number);
    assert_eq!(read_id64(&text), Some(number));
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes each frame with what the bytes name, and reads it.
pub(super) fn check_frames(input: &mut Input<'_>) {
    let filling = Filling::of(input);
    check_room_frames(&filling);
    check_presence(&filling);
    check_answers(&filling);
    let bytes = filling.raw.as_bytes();
    if let Some(number) = read_id64(bytes) {
        assert_eq!(id(number).as_bytes(), bytes);
    }
}

fn check_room_frames(filling: &Filling) {
    let Filling { room, user, raw, number, other, .. } = filling;
    let (number, other) = (*number, *other);
    let broadcast = Broadcast {
        room: room.as_bytes(),
        data: raw.as_bytes(),
        offset: filling.optional(number),
        user: user.as_bytes(),
        connection: other,
        key: filling.more.then_some(user.as_bytes()),
        ts: WallMillis(other),
        seq: filling.optional(other),
    };
    let expected = json!({"roomId": room, "data": filling.value(), "offset": maybe(broadcast.offset),
        "from": {"user": user, "connection": id(other)}, "key": maybe(filling.more.then_some(user.as_str())), "ts": other,
        "seq": maybe(broadcast.seq)});
    same(
        "broadcast",
        |out| {
            write_broadcast(out, &broadcast);
        },
        expected,
    );
    let counts = Counts { users: number, connections: other };
    let joined = RoomJoined {
        room: room.as_bytes(),
        seq: filling.optional(number),
        epoch: other,
        offset: number,
        recovered: filling.more,
        gap: filling.optional(GapReason::Expired),
        presence: filling.more.then_some(Presence { version: other, members: Members::Counts(counts) }),
    };
    let expected = json!({"roomId": room, "seq": maybe(joined.seq), "epoch": id(other), "offset": number, "recovered": filling.more,
        "gap": maybe(filling.optional(json!({"reason": "expired"}))), "version": maybe(filling.more.then_some(other)),
        "counts": maybe(filling.more.then_some(json!({"users": number, "connections": other})))});
    same("room_joined", |out| write_room_joined(out, &joined), expected);
    let left = json!({"roomId": room, "reason": "kicked", "seq": maybe(filling.optional(number))});
    same("room_left", |out| write_room_left(out, room.as_bytes(), LeftReason::Kicked, filling.optional(number)), left);
    let gap = json!({"roomId": room, "from": number, "to": other, "reason": "slow_consumer"});
    same("gap", |out| write_gap(out, room.as_bytes(), number, other), gap);
    let diff = json!({"roomId": room, "epoch": id(number), "version": other, "counts": {"users": number, "connections": other}});
    same("presence_diff", |out| write_presence_counts(out, room.as_bytes(), number, other, counts), diff);
}

fn check_presence(filling: &Filling) {
    let Filling { room, user, raw, number, other, some, more } = filling;
    let (number, other, room_bytes, user_bytes, raw_bytes) = (*number, *other, room.as_bytes(), user.as_bytes(), raw.as_bytes());
    let mut members = Vec::new();
    let mut writer = MemberWriter::new(&mut members);
    let mut users = Vec::new();
    if *some {
        writer.user(user_bytes);
        writer.connection(number, Some(raw_bytes));
        let mark = writer.mark();
        writer.connection(other, None);
        let mut connections = vec![json!({"id": id(number), "state": filling.value()}), json!({"id": id(other)})];
        if *more {
            writer.rollback(mark);
            connections.pop();
        }
        users.push(json!({"user": user, "connections": connections}));
        if number % 2 == 0 {
            writer.user(room_bytes);
            writer.connection(number, None);
            users.push(json!({"user": room, "connections": [{"id": id(number)}]}));
        }
    }
    let bytes = writer.bytes();
    writer.finish();
    assert_eq!(members.len(), bytes);
    let cursor = id64(other);
    let page = Members::Page { members: &members, cursor: more.then_some(&cursor[..]) };
    let expected = json!({"roomId": room, "id": maybe(filling.optional(filling.value())), "epoch": id(number), "version": other,
        "members": users, "cursor": maybe(more.then(|| id(other)))});
    let presence = Presence { version: other, members: page };
    let asked = filling.optional(raw_bytes);
    same("presence_state", |out| write_presence_state(out, room_bytes, asked, number, &presence), expected);
    let write = |out: &mut Vec<u8>| {
        let mut diff = DiffWriter::new(out, room_bytes, number, other);
        if *some {
            diff.join(user_bytes, number, Some(raw_bytes));
            diff.join(room_bytes, other, None);
        }
        if *more {
            diff.leave(user_bytes, other);
            diff.leave(room_bytes, number);
        }
        if number % 3 == 0 {
            diff.update(user_bytes, number, raw_bytes);
        }
        diff.finish();
    };
    let joins = [json!({"user": user, "id": id(number), "state": filling.value()}), json!({"user": room, "id": id(other)})];
    let leaves = [json!({"user": user, "id": id(other)}), json!({"user": room, "id": id(number)})];
    let updates = [json!({"user": user, "id": id(number), "state": filling.value()})];
    let some_of = |list: &[Value], is_there: bool| if is_there { list.to_vec() } else { Vec::new() };
    let expected = json!({"roomId": room, "epoch": id(number), "version": other, "joins": some_of(&joins, *some),
        "leaves": some_of(&leaves, *more), "updates": some_of(&updates, number % 3 == 0)});
    same("presence_diff", write, expected);
}

fn check_answers(filling: &Filling) {
    let Filling { room, user, raw, number, other, more, .. } = filling;
    let (number, other) = (*number, *other);
    same("ack", |out| write_ack(out, number), json!({"seq": number}));
    same("nack", |out| write_nack(out, number, other), json!({"expectedSeq": number, "received": other}));
    same("pong", |out| write_pong(out, filling.optional(raw)), json!({"t": maybe(filling.optional(filling.value()))}));
    let reconnect = json!({"afterMs": number, "reason": room, "url": maybe(filling.optional(user.as_str()))});
    same("reconnect", |out| write_reconnect(out, number, room, filling.optional(user)), reconnect);
    let code = ErrorCode::ALL[(number % ErrorCode::ALL.len() as u64) as usize];
    let error = ErrorFrame {
        message: user,
        retry_after_ms: filling.optional(number),
        seq: more.then_some(other),
        id: filling.optional(raw),
        room: more.then_some(room.as_bytes()),
        expected_seq: filling.optional(other),
        missing: more.then_some((number, other)),
        ..ErrorFrame::new(code)
    };
    let expected = json!({"code": code.wire(), "message": user, "retryable": code.retryable(),
        "retryAfterMs": maybe(error.retry_after_ms), "seq": maybe(error.seq), "id": maybe(filling.optional(filling.value())),
        "roomId": maybe(more.then_some(room.as_str())), "expectedSeq": maybe(error.expected_seq),
        "missing": maybe(more.then_some(json!({"from": number, "to": other})))});
    same("error", |out| write_error(out, &error), expected);
    let limits = Limits::default();
    let mut rooms = Vec::new();
    let missed = encode::Missed::Following { count: number };
    encode::write_resumed_room(&mut rooms, &encode::ResumedRoom { room: room.as_bytes(), missed });
    let failed = [(number, code), (other, code)];
    let welcome = Welcome {
        session: other,
        resume: more.then_some(ResumeOffer { token: b"token", ttl_ms: number }),
        resumed: more.then_some(ResumedSession { rooms: &rooms, failed: &failed }),
        next_seq: number,
        heartbeat_ms: other,
        timeout_ms: number,
        spread_ms: filling.optional(other),
        limits: &limits,
        features: &[user, room],
        server_time: WallMillis(number),
    };
    let mut out = Vec::new();
    write_welcome(&mut out, &welcome);
    let read: Value = serde_json::from_slice(&out).expect("a welcome is JSON");
    assert_eq!(
        (&read["sessionId"], &read["nextSeq"], &read["features"]),
        (&json!(id(other)), &json!(number), &json!([user, room]))
    );
    assert_eq!(read["resumed"], json!(more));
    if *more {
        assert_eq!((&read["resumeToken"], &read["resumeTtlMs"]), (&json!("token"), &json!(number)));
        assert_eq!(read["rooms"][room.as_str()], json!({"complete": true, "count": number}));
        let failures = json!([{"seq": number, "code": code.wire()}, {"seq": other, "code": code.wire()}]);
        assert_eq!(read["failed"], failures);
    }
    let mut advice = Vec::new();
    encode::write_close_advice(&mut advice, number);
    assert_eq!(serde_json::from_slice::<Value>(&advice).expect("it is JSON"), json!({"ra": number}));
    assert!(advice.len() <= 28);
}
