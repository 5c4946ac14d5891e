//! Tests of commands and what is wrong with them, over tables of hostile messages.
#![allow(clippy::unwrap_used)]

use super::super::testing::Random;
use super::*;
use serde_json::value::RawValue;

fn command(text: &str) -> Command<'_> {
    decode(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}")).command
}

fn fault(text: &str) -> Fault<'_> {
    decode(text).expect_err(text)
}

fn code(text: &str) -> ErrorCode {
    fault(text).code
}

#[test]
fn the_incidents_own_frames_are_understood() {
    let envelope = decode(r#"{"type":"join_room","roomId":"doc-abc123","seq":1}"#).unwrap();
    assert_eq!((envelope.seq, envelope.id), (Some(1), None));
    let room = Cow::Borrowed("doc-abc123");
    assert_eq!(
        envelope.command,
        Command::JoinRoom { room: room.clone(), since: None, presence: false, state: None, latest: false }
    );
    let envelope = decode(r#"{"type":"broadcast","roomId":"doc-abc123","data":{"cursor":{}},"seq":2}"#).unwrap();
    assert_eq!(envelope.seq, Some(2));
    assert_eq!(envelope.command, Command::Broadcast { room, data: r#"{"cursor":{}}"#, key: None, echo: false });
}

#[test]
fn every_type_gives_all_its_fields() {
    assert_eq!(
        command(
            r#"{"type":"join_room","roomId":"r","since":{"epoch":"e","offset":7,"x":1},"presence":true,"state":[ 1 ],"mode":"latest","seq":1}"#
        ),
        Command::JoinRoom {
            room: "r".into(),
            since: Some(Since { epoch: "e".into(), offset: 7 }),
            presence: true,
            state: Some("[ 1 ]"),
            latest: true
        }
    );
    assert_eq!(command(r#"{"type":"leave_room","roomId":"r"}"#), Command::LeaveRoom { room: "r".into() });
    assert_eq!(
        command(r#"{"type":"broadcast","roomId":"r","data": null ,"key":"k","echo":true}"#),
        Command::Broadcast { room: "r".into(), data: "null", key: Some("k".into()), echo: true }
    );
    assert_eq!(command(r#"{"type":"set_state","roomId":"r","state":0}"#), Command::SetState { room: "r".into(), state: "0" });
    assert_eq!(
        command(r#"{"type":"presence","roomId":"r","id":1,"cursor":"c","limit":10}"#),
        Command::Presence { room: "r".into(), cursor: Some("c".into()), limit: Some(10) }
    );
    assert_eq!(
        command(r#"{"type":"history","roomId":"r","id":"h","since":{"offset":0,"epoch":""}}"#),
        Command::History { room: "r".into(), since: Some(Since { epoch: "".into(), offset: 0 }), limit: None }
    );
    assert_eq!(command(r#"{"type":"refresh","token":"t"}"#), Command::Refresh { token: "t".into() });
    assert_eq!(command(r#"{"type":"ping"}"#), Command::Ping { t: None });
    assert_eq!(command(r#"{"type":"ping","t":{"a":1.50}}"#), Command::Ping { t: Some(r#"{"a":1.50}"#) });
    assert_eq!(
        command(r#"{"type":"connect","user":"u","token":"t","resume":{},"client":"js/1","attempt":0,"lastCode":4200}"#),
        Command::Connect {
            user: Some("u".into()),
            token: Some("t".into()),
            resume: Some("{}"),
            client: Some(r#""js/1""#),
            attempt: Some(0),
            last_code: Some(4200)
        }
    );
}

#[test]
fn what_has_no_escapes_is_borrowed() {
    let Command::Broadcast { room: Cow::Borrowed("é"), key: Some(Cow::Borrowed("k")), .. } =
        command(r#"{"type":"broadcast","roomId":"é","key":"k","data":1}"#)
    else {
        panic!("not borrowed");
    };
    let escaped = command(r#"{"\u0074ype":"\u0070ing","t":1}"#);
    assert_eq!(escaped, Command::Ping { t: Some("1") });
    assert_eq!(
        command(r#"{"type":"leave_room","roomId":"a\"\u00e9\/\ud83d\ude00"}"#),
        Command::LeaveRoom { room: "a\"é/😀".into() }
    );
}

#[test]
fn unknown_fields_and_fields_of_other_types_are_ignored() {
    command(r#"{"type":"ping","roomId":7,"x":null,"data":[],"since":3,"nested":{"a":[{}]}}"#);
    command(r#"{"type":"leave_room","roomId":"r","echo":"yes","limit":-1}"#);
}

#[test]
fn what_is_no_object_is_bad_json() {
    let texts = [
        "",
        " ",
        "1",
        "null",
        "\"{}\"",
        "[]",
        "[{}]",
        "{",
        "{}}",
        "{} x",
        "{}\0",
        "\u{feff}{}",
        "\0{}",
        "{\"type\":\"ping\"}{\"type\":\"ping\"}",
        "{\"type\":\"ping\",}",
        "{'type':'ping'}",
        "{type:\"ping\"}",
        "{\"type\" \"ping\"}",
        "{\"type\":\"ping\"]",
        "{\"seq\":01,\"type\":\"ping\"}",
        "{\"type\":\"ping\",\"t\":NaN}",
        "{\"type\":\"ping\",\"t\":\"\u{1}\"}",
        "{\"type\":\"ping\",\"t\":+1}",
        "{\"type\":\"ping\",\"t\":1.}",
    ];
    for text in texts {
        assert_eq!(code(text), ErrorCode::BadJson, "{text:?}");
    }
    assert_eq!(code("{}"), ErrorCode::MissingField);
}

#[test]
fn a_key_that_comes_twice_is_refused_however_it_is_spelled() {
    for text in [
        r#"{"type":"ping","type":"ping"}"#,
        r#"{"type":"ping","\u0074ype":"ping"}"#,
        r#"{"x":1,"type":"ping","x":1}"#,
        r#"{"x\/y":1,"type":"ping","x\u002fy":2}"#,
        r#"{"type":"ping","\ud83d\ude00":1,"😀":2}"#,
        r#"{"":1,"":2,"type":"ping"}"#,
        r#"{"type":"ping","\ud800":1}"#,
    ] {
        assert_eq!(code(text), ErrorCode::BadJson, "{text}");
    }
    // In what is only relayed a key may come twice: that is between the clients.
    command(r#"{"type":"broadcast","roomId":"r","data":{"a":1,"a":2,"\ud800":"\udfff"}}"#);
}

#[test]
fn unknown_fields_are_bounded_in_number_and_in_length() {
    let with = |count: usize| {
        let fields: String = (0..count).map(|index| format!("\"x{index}\":{index},")).collect();
        format!("{{{fields}\"type\":\"ping\",\"seq\":9}}")
    };
    command(&with(UNKNOWN_FIELDS_MAX));
    let text = with(UNKNOWN_FIELDS_MAX + 1);
    assert_eq!((code(&text), fault(&text).seq), (ErrorCode::TooManyFields, Some(9)));
    assert_eq!(code(&with(5_000)), ErrorCode::TooManyFields);
    command(&format!("{{\"{}\":1,\"type\":\"ping\"}}", "k".repeat(FIELD_NAME_BYTES_MAX)));
    command(&format!("{{\"{}\":1,\"type\":\"ping\"}}", "\\u006b".repeat(FIELD_NAME_BYTES_MAX)));
    for key in ["k".repeat(FIELD_NAME_BYTES_MAX + 1), "k".repeat(60_000), "\\u006b".repeat(FIELD_NAME_BYTES_MAX + 1)] {
        assert_eq!(code(&format!("{{\"{key}\":1,\"type\":\"ping\"}}")), ErrorCode::BadJson);
    }
}

#[test]
fn nesting_is_bounded_by_what_the_field_is() {
    let with = |field: &str, depth: usize| {
        let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        format!("{{\"type\":\"broadcast\",\"roomId\":\"r\",\"data\":0,\"{field}\":{value},\"seq\":3}}")
            .replace("\"data\":0,\"data\"", "\"data\"")
    };
    command(&with("data", DATA_DEPTH_MAX));
    command(&with("state", DATA_DEPTH_MAX));
    command(&with("other", ENVELOPE_DEPTH_MAX - 1));
    command(&with("client", ENVELOPE_DEPTH_MAX - 1));
    let text = with("other", ENVELOPE_DEPTH_MAX);
    assert_eq!((code(&text), fault(&text).seq), (ErrorCode::BadJson, Some(3)));
    assert_eq!(code(&with("client", ENVELOPE_DEPTH_MAX)), ErrorCode::BadJson);
    assert_eq!(code(&with("data", DATA_DEPTH_MAX + 1)), ErrorCode::BadJson);
    for bomb in ["[", "{\"a\":"] {
        assert_eq!(code(&format!("{{\"type\":\"ping\",\"t\":{}", bomb.repeat(100_000))), ErrorCode::BadJson);
        assert_eq!(code(&bomb.repeat(100_000)), ErrorCode::BadJson);
    }
}

#[test]
fn seq_is_a_positive_integer_that_a_browser_holds_exactly() {
    let with = |seq: &str| format!("{{\"type\":\"ping\",\"seq\":{seq}}}");
    for (text, seq) in [("1", 1), ("9007199254740991", INTEGER_MAX)] {
        assert_eq!(decode(&with(text)).map(|envelope| envelope.seq), Ok(Some(seq)));
    }
    for seq in [
        "0",
        "-0",
        "-1",
        "1.0",
        "1e0",
        "1E2",
        "1e400",
        "9007199254740992",
        "18446744073709551616",
        "99999999999999999999999999",
        "\"1\"",
        "null",
        "true",
        "[1]",
        "{}",
    ] {
        let text = with(seq);
        assert_eq!((code(&text), fault(&text).seq), (ErrorCode::BadSeq, None), "{seq}");
    }
    for seq in ["01", "+1", "1.", ".1", "0x1", "1n", "٣"] {
        assert_eq!(code(&with(seq)), ErrorCode::BadJson, "{seq}");
    }
}

#[test]
fn other_integers_begin_at_zero_and_end_at_the_same_bound() {
    let with = |limit: &str| format!("{{\"type\":\"presence\",\"roomId\":\"r\",\"id\":1,\"limit\":{limit}}}");
    command(&with("0"));
    command(&with("9007199254740991"));
    for limit in ["9007199254740992", "-1", "-0", "1.5", "1e3", "\"5\"", "null"] {
        assert_eq!(code(&with(limit)), ErrorCode::BadField, "{limit}");
    }
}

#[test]
fn an_id_is_kept_as_it_came() {
    let with = |id: &str| format!("{{\"type\":\"ping\",\"id\":{id}}}");
    for id in ["1", "-0.50e1", "\"a\\u0062\\ud800\"", "1e400", &format!("\"{}\"", "i".repeat(REQUEST_ID_BYTES_MAX - 2))] {
        assert_eq!(decode(&with(id)).unwrap().id, Some(id));
    }
    for id in ["null", "true", "{}", "[1]", &format!("\"{}\"", "i".repeat(REQUEST_ID_BYTES_MAX - 1)), &"1".repeat(65)] {
        let text = with(id);
        assert_eq!((code(&text), fault(&text).id), (ErrorCode::BadField, None), "{id}");
    }
    assert_eq!(code(r#"{"type":"presence","roomId":"r"}"#), ErrorCode::MissingField);
    assert_eq!(code(r#"{"type":"history","roomId":"r"}"#), ErrorCode::MissingField);
}

#[test]
fn room_and_user_ids_are_bounded_in_unescaped_bytes_and_have_no_controls() {
    let room = |id: &str| format!("{{\"type\":\"leave_room\",\"roomId\":\"{id}\"}}");
    let user = |id: &str| format!("{{\"type\":\"connect\",\"user\":\"{id}\"}}");
    for id in ["a", "é", " ", "\\u00a0", "\\\"", "\\/", "\u{ad}\u{200b}", "\\ud83d\\ude00"] {
        command(&room(id));
        command(&user(id));
    }
    command(&room(&"r".repeat(ROOM_ID_BYTES_MAX)));
    command(&room(&"\\u00e9".repeat(ROOM_ID_BYTES_MAX / 2)));
    command(&user(&"u".repeat(USER_ID_BYTES_MAX)));
    for id in [
        "",
        "\\u0000",
        "a\\n",
        "\\u001f",
        "\u{7f}",
        "\\u007f",
        "é\u{7f}",
        "\u{80}",
        "\\u009f",
        "a\u{85}",
        "\\ud800",
        "\\udc00\\ud800",
        "x\\ud83d",
    ] {
        assert_eq!(code(&room(id)), ErrorCode::BadRoomId, "{id:?}");
        assert_eq!(code(&user(id)), ErrorCode::BadUserId, "{id:?}");
    }
    for id in ["r".repeat(ROOM_ID_BYTES_MAX + 1), "é".repeat(129), "\\u00e9".repeat(129), "\\u0072".repeat(10_000)] {
        assert_eq!(code(&room(&id)), ErrorCode::BadRoomId);
    }
    assert_eq!(code(&user(&"u".repeat(USER_ID_BYTES_MAX + 1))), ErrorCode::BadUserId);
    for id in ["7", "null", "[\"r\"]", "{\"a\":\"b\"}"] {
        assert_eq!(code(&format!("{{\"type\":\"leave_room\",\"roomId\":{id}}}")), ErrorCode::BadField);
    }
}

#[test]
fn wrong_and_missing_fields_are_told_apart() {
    for text in [
        r#"{"roomId":"r"}"#,
        r#"{"type":"join_room"}"#,
        r#"{"type":"broadcast","roomId":"r"}"#,
        r#"{"type":"broadcast","data":1}"#,
        r#"{"type":"set_state","roomId":"r"}"#,
        r#"{"type":"refresh"}"#,
    ] {
        assert_eq!(code(text), ErrorCode::MissingField, "{text}");
    }
    for text in [
        r#"{"type":1}"#,
        r#"{"type":null}"#,
        r#"{"type":["ping"]}"#,
        r#"{"type":"join_room","roomId":"r","presence":1}"#,
        r#"{"type":"join_room","roomId":"r","presence":"true"}"#,
        r#"{"type":"join_room","roomId":"r","mode":"newest"}"#,
        r#"{"type":"join_room","roomId":"r","mode":"latest______________"}"#,
        r#"{"type":"join_room","roomId":"r","since":5}"#,
        r#"{"type":"join_room","roomId":"r","since":{}}"#,
        r#"{"type":"join_room","roomId":"r","since":{"epoch":"e"}}"#,
        r#"{"type":"join_room","roomId":"r","since":{"epoch":1,"offset":1}}"#,
        r#"{"type":"join_room","roomId":"r","since":{"epoch":"e","offset":-1}}"#,
        r#"{"type":"join_room","roomId":"r","since":{"epoch":"e","offset":1,"offset":1}}"#,
        r#"{"type":"join_room","roomId":"r","since":{"epoch":"12345678901234567","offset":1}}"#,
        r#"{"type":"broadcast","roomId":"r","data":1,"echo":null}"#,
        r#"{"type":"broadcast","roomId":"r","data":1,"key":""}"#,
        r#"{"type":"broadcast","roomId":"r","data":1,"key":"a\u0000"}"#,
        r#"{"type":"broadcast","roomId":"r","data":1,"key":7}"#,
        r#"{"type":"connect","resume":"yes"}"#,
        r#"{"type":"connect","token":5}"#,
        r#"{"type":"connect","token":"\ud800"}"#,
    ] {
        assert_eq!(code(text), ErrorCode::BadField, "{text}");
    }
    for kind in ["", "Ping", "ping ", "welcome", "\\ud800", &"x".repeat(10_000)] {
        assert_eq!(code(&format!("{{\"type\":\"{kind}\"}}")), ErrorCode::UnknownType);
    }
}

#[test]
fn a_fault_carries_seq_and_id_wherever_they_stand() {
    for text in [
        r#"{"seq":5,"id":"q","type":"nope"}"#,
        r#"{"type":"nope","seq":5,"id":"q"}"#,
        r#"{"type":"join_room","roomId":7,"seq":5,"id":"q"}"#,
        r#"{"x":1,"x":2,"type":"ping","seq":5,"id":"q"}"#,
        r#"{"\ud800":2,"type":"ping","seq":5,"id":"q"}"#,
        r#"{"type":"ping","type":"ping","seq":5,"id":"q"}"#,
        r#"{"seq":5,"id":"q","type":"ping","t":nan}"#,
    ] {
        assert_eq!((fault(text).seq, fault(text).id), (Some(5), Some("\"q\"")), "{text}");
    }
    assert_eq!(fault(r#"{"type":"ping","seq":0,"id":3}"#).id, Some("3"));
    assert_eq!(fault(r#"{"type":"ping","seq":3,"id":[]}"#).seq, Some(3));
}

#[test]
fn a_seq_that_is_in_doubt_is_not_reported() {
    for text in [r#"{"seq":5,"seq":5,"type":"ping"}"#, r#"{"seq":5,"type":"ping","s\u0065q":6}"#, r#"{"seq":12"#, r#"{"seq":12 "#] {
        assert_eq!((code(text), fault(text).seq), (ErrorCode::BadJson, None), "{text}");
    }
    assert_eq!(fault(r#"{"id":5,"id":6,"type":"ping"}"#).id, None);
}

#[test]
fn a_message_cut_off_anywhere_is_bad_json() {
    let text = r#"{"type":"broadcast","roomId":"d\u00e9c","data":{"a":[1.5e3,"x\n",true,null]},"seq":12,"id":"é"}"#;
    decode(text).unwrap();
    for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
        let fault = fault(&text[..at]);
        assert_eq!(fault.code, ErrorCode::BadJson);
        assert!(matches!(fault.seq, None | Some(12)), "cut at {at}");
    }
}

#[test]
fn data_is_the_bytes_that_came_and_is_json_exactly_if_serde_json_says_so() {
    let mut accepted = 0;
    for seed in 0..10_000 {
        let mut random = Random(seed);
        let mut data = String::new();
        random.json(&mut data, 5);
        if seed % 2 == 0 {
            data = random.damage(&data);
        }
        let Ok(value) = serde_json::from_str::<&RawValue>(&data) else {
            // Damage may close the envelope early and go on validly; but never so that the data is what was damaged.
            if let Ok(Envelope { command: Command::Broadcast { data: relayed, .. }, .. }) =
                decode(&format!("{{\"type\":\"broadcast\",\"roomId\":\"r\",\"data\":{data}}}"))
            {
                assert_ne!(relayed, data.trim(), "seed {seed}");
            }
            continue;
        };
        let text = format!("{{\"type\":\"broadcast\",\"data\":{data},\"roomId\":\"r\"}}");
        let Command::Broadcast { data: relayed, .. } = command(&text) else { panic!("not a broadcast") };
        assert_eq!(relayed, value.get(), "seed {seed}");
        accepted += 1;
    }
    assert!(accepted > 5_000);
}
