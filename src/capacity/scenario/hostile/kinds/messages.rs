//! After the upgrade, against the protocol: messages that are none, numbers out of order, storms, floods, and readers that don't read.

use super::Pen;
use crate::capacity::clock::{MILLISECOND, SECOND};
use crate::capacity::scenario::hostile::peer::{Reading, Step};
use crate::ws::Opcode;

/// Texts that are no message of either dialect.
const GARBAGE: [&str; 24] = [
    "",
    " ",
    "null",
    "17",
    "[]",
    "{",
    "}",
    "{}",
    "{}{}",
    "{\"type\"}",
    "{\"type\":1}",
    "{\"type\":null}",
    "{\"type\":\"ping\"",
    "{\"type\":\"ping\",}",
    "{\"type\":\"ping\"} x",
    "{'type':'ping'}",
    "\u{feff}{\"type\":\"ping\"}",
    "{\"type\":\"ping\",\"t\":01}",
    "{\"type\":\"ping\",\"x\":\"\\u12\"}",
    "{\"type\":\"ping\",\"x\":\"a\nb\"}",
    "{\"type\":\"ping\",\"type\":\"join_room\"}",
    "{\"type\":\"broadcast\",\"roomId\":\"r\",\"data\":{\"a\":},\"seq\":1}",
    "{\"type\":\"join_room\",\"roomId\":\"\\ud800\",\"seq\":1}",
    "{\"type\":\"join_room\",\"roomId\":\"r\",\"seq\":9007199254740992}",
];

pub(super) fn garbage_json(pen: &mut Pen<'_>) {
    pen.member();
    for _ in 0..pen.random.between(1, 30) {
        match pen.random.below(3) {
            0 => {
                // A sound message with one byte of another value.
                let room = pen.hostile_room();
                let mut text = pen.publish(&room, 20).into_bytes();
                let place = pen.random.below(text.len() as u64) as usize;
                text[place] = b' ' + pen.random.below(95) as u8;
                pen.frame(Opcode::Text, &text);
            }
            _ => {
                let text = pen.random.pick(&GARBAGE);
                pen.text(text);
            }
        }
    }
    pen.done();
    pen.end_somehow();
}

pub(super) fn deep_nesting(pen: &mut Pen<'_>) {
    pen.member();
    let depth = pen.random.pick(&[9usize, 128, 129, 1_000, 20_000]);
    let text = match pen.random.below(4) {
        0 => "[".repeat(depth),
        1 => r#"{"a":"#.repeat(depth.min(10_000)),
        2 => format!(r#"{{"type":"ping","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth)),
        _ => {
            let room = pen.hostile_room();
            format!(
                r#"{{"type":"broadcast","roomId":"{room}","data":{}{},"seq":{}}}"#,
                "[".repeat(depth),
                "]".repeat(depth),
                pen.next_seq()
            )
        }
    };
    pen.text(&text);
    pen.done();
    pen.end_somehow();
}

pub(super) fn huge_ids(pen: &mut Pen<'_>) {
    pen.member();
    let bytes = pen.random.pick(&[257usize, 1_000, 60_000]);
    let long = "i".repeat(bytes);
    let seq = pen.next_seq();
    let text = match pen.random.below(6) {
        0 => format!(r#"{{"type":"join_room","roomId":"{long}","seq":{seq}}}"#),
        1 => format!(r#"{{"type":"leave_room","roomId":"{long}","seq":{seq}}}"#),
        2 => format!(r#"{{"type":"presence","roomId":"r","id":"{long}"}}"#),
        3 => format!(r#"{{"type":"broadcast","roomId":"r","data":1,"key":"{long}","seq":{seq}}}"#),
        4 => format!(r#"{{"type":"{long}","{long}":1}}"#),
        _ => format!(r#"{{"type":"connect","user":"{long}"}}"#),
    };
    pen.text(&text);
    pen.done();
    pen.end_somehow();
}

pub(super) fn unknown_types(pen: &mut Pen<'_>) {
    pen.member();
    for _ in 0..pen.random.between(1, 20) {
        let word = pen.random.pick(&["no_such_type", "history", "refresh", "connect", "welcome", "ack", "room_joined", ""]);
        let room = pen.any_room();
        let text = format!(r#"{{"type":"{word}","roomId":"{room}","id":1,"token":"t","seq":{}}}"#, pen.next_seq());
        pen.text(&text);
    }
    pen.done();
    pen.end_somehow();
}

pub(super) fn no_connect(pen: &mut Pen<'_>) {
    pen.upgrade();
    match pen.random.below(4) {
        0 => pen.text(r#"{"type":"ping"}"#),
        1 => pen.text(r#"{"type":"connect","user":""}"#),
        2 => {
            let room = pen.hostile_room();
            let join = pen.join(&room);
            pen.text(&join);
        }
        // Nothing at all, until the deadline or until it tires.
        _ => {
            pen.done();
            return pen.rest(SECOND, 12 * SECOND);
        }
    }
    pen.done();
    pen.moment();
}

pub(super) fn seq_games(pen: &mut Pen<'_>) {
    pen.open();
    // A plain client may begin anywhere.
    if !pen.is_v1 {
        pen.seq = pen.random.below(1_000);
    }
    let room = pen.hostile_room();
    let join = pen.join(&room);
    pen.text(&join);
    let first = pen.seq + 1;
    let mut numbers: Vec<u64> = (first..first + pen.random.between(2, 100)).collect();
    let repeated: Vec<u64> = (0..pen.random.below(10)).map(|_| pen.random.pick(&numbers)).collect();
    numbers.extend(repeated);
    if pen.random.once_in(2) {
        pen.random.shuffle(&mut numbers);
    }
    if pen.random.once_in(3) {
        numbers.push(pen.random.pick(&[first + 1_000, (1 << 53) - 1]));
    }
    if pen.random.once_in(3) {
        // A hole that is never filled.
        let hole = pen.random.pick(&numbers);
        numbers.retain(|number| *number != hole);
    }
    for number in numbers {
        let bytes = pen.random.below(2_000) as usize;
        pen.text(&format!(r#"{{"type":"broadcast","roomId":"{room}","data":"{}","seq":{number}}}"#, "s".repeat(bytes)));
    }
    pen.done();
    pen.rest(0, 4 * SECOND);
    pen.end_somehow();
}

pub(super) fn join_leave_storm(pen: &mut Pen<'_>) {
    pen.open();
    for _ in 0..pen.random.between(10, 120) {
        let room = pen.any_room();
        let text = if pen.random.once_in(3) { pen.leave(&room) } else { pen.join(&room) };
        pen.text(&text);
    }
    pen.done();
    pen.rest(0, 300 * MILLISECOND);
    pen.end_somehow();
}

pub(super) fn state_churn(pen: &mut Pen<'_>) {
    pen.member();
    let room = pen.witness_room();
    for _ in 0..pen.random.between(5, 40) {
        let text = match pen.random.below(4) {
            0 => {
                let bytes = pen.random.pick(&[1usize, 500, 1_000, 5_000]);
                format!(r#"{{"type":"set_state","roomId":"{room}","state":"{}","seq":{}}}"#, "s".repeat(bytes), pen.next_seq())
            }
            1 => pen.join(&room),
            2 => format!(r#"{{"type":"presence","roomId":"{room}","id":{},"limit":{}}}"#, pen.random.below(9), pen.random.below(3)),
            _ => {
                let cursor = pen.random.pick(&["", "0", "x", "9999999999", "1:2:3", "00000000-00000000"]);
                format!(r#"{{"type":"presence","roomId":"{room}","id":"q","cursor":"{cursor}"}}"#)
            }
        };
        pen.text(&text);
    }
    pen.done();
    pen.rest(0, SECOND);
    pen.end_somehow();
}

pub(super) fn publish_flood(pen: &mut Pen<'_>) {
    pen.member();
    let room = pen.hostile_room();
    let join = pen.join(&room);
    pen.text(&join);
    let bytes = pen.random.pick(&[1usize, 100, 2_000]);
    for _ in 0..pen.random.between(65, 300) {
        let publish = pen.publish(&room, bytes);
        pen.text(&publish);
    }
    pen.done();
    pen.end_somehow();
}

pub(super) fn never_read(pen: &mut Pen<'_>) {
    pen.small_buffer = true;
    pen.member();
    pen.step(Step::Read(Reading::Nothing));
    ask_for_much(pen, 300);
    pen.done();
    pen.rest(5 * SECOND, 30 * SECOND);
    if pen.random.once_in(2) {
        // What has piled up comes after all.
        pen.step(Step::Read(Reading::All));
        pen.moment();
    }
}

pub(super) fn slow_read(pen: &mut Pen<'_>) {
    pen.small_buffer = true;
    pen.member();
    let bytes = pen.random.between(1, 400) as usize;
    pen.step(Step::Read(Reading::Few(bytes)));
    ask_for_much(pen, 60);
    pen.done();
    pen.rest(SECOND, 15 * SECOND);
    pen.end_somehow();
}

/// Messages whose answers are longer than they are, or as long: publications that come back, pings, lists of members.
fn ask_for_much(pen: &mut Pen<'_>, times: u64) {
    let room = pen.hostile_room();
    let join = pen.join(&room);
    pen.text(&join);
    for _ in 0..times {
        match pen.random.below(4) {
            0 => pen.frame(Opcode::Ping, &[b'p'; 125]),
            1 => {
                let witnesses = pen.witness_room();
                pen.text(&format!(r#"{{"type":"presence","roomId":"{witnesses}","id":"much"}}"#));
            }
            _ => {
                let seq = pen.next_seq();
                let data = "m".repeat(4_000);
                pen.text(&format!(r#"{{"type":"broadcast","roomId":"{room}","data":"{data}","echo":true,"seq":{seq}}}"#));
            }
        }
    }
}

pub(super) fn tiny_writes(pen: &mut Pen<'_>) {
    pen.open();
    let room = pen.any_room();
    let texts = [pen.join(&room), r#"{"type":"ping","t":1}"#.to_owned(), pen.publish(&room, 10), pen.leave(&room)];
    let bytes: Vec<u8> = texts.iter().flat_map(|text| pen.masked(Opcode::Text, text.as_bytes())).collect();
    pen.step(Step::Drip(bytes));
    pen.done();
    pen.end_somehow();
}
