//! After the upgrade, against RFC 6455: frames that are none, frames out of place, and connections that end in every way.

use super::Pen;
use crate::capacity::clock::{MILLISECOND, SECOND};
use crate::capacity::scenario::hostile::peer::Step;
use crate::ws::Opcode;
use crate::ws::frame::header;

/// Byte sequences that are not UTF-8, or cut within a character.
const NOT_UTF8: [&[u8]; 8] =
    [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"a\x80", b"\xe4a", b"\xe2\x82"];

pub(super) fn garbage(pen: &mut Pen<'_>) {
    pen.member();
    let count = pen.random.between(2, 600) as usize;
    let mut bytes = pen.random.bytes(count);
    // A first byte that no frame has, so that it is garbage whatever follows.
    bytes[0] |= 0x70;
    pen.send(bytes);
    pen.done();
    pen.moment();
}

pub(super) fn bad_mask(pen: &mut Pen<'_>) {
    pen.member();
    let opcode = pen.random.pick(&[Opcode::Text, Opcode::Binary, Opcode::Ping, Opcode::Close]);
    let mut bytes = header(opcode, 2).as_bytes().to_vec();
    bytes.extend(b"\x03\xe8");
    pen.send(bytes);
    pen.done();
    pen.moment();
}

pub(super) fn reserved(pen: &mut Pen<'_>) {
    pen.member();
    let first = match pen.random.below(2) {
        0 => 0x81 | pen.random.pick(&[0x10u8, 0x20, 0x40, 0x70]),
        _ => 0x80 | pen.random.pick(&[3u8, 4, 5, 6, 7, 11, 12, 13, 14, 15]),
    };
    let bytes = pen.odd_frame(first, b"x");
    pen.send(bytes);
    pen.done();
    pen.moment();
}

pub(super) fn invalid_utf8(pen: &mut Pen<'_>) {
    pen.member();
    let bad = pen.random.pick(&NOT_UTF8);
    let bytes = match pen.random.below(3) {
        0 => pen.masked(Opcode::Text, bad),
        // As a fragment; the message ends behind it, within the character if it was cut there.
        1 => [pen.odd_frame(0x01, bad), pen.odd_frame(0x80, b"")].concat(),
        _ => pen.masked(Opcode::Close, &[&1000u16.to_be_bytes(), bad].concat()),
    };
    pen.send(bytes);
    pen.done();
    pen.moment();
}

pub(super) fn fragment_abuse(pen: &mut Pen<'_>) {
    pen.member();
    match pen.random.below(5) {
        0 => {
            // Thousands of empty fragments, and a whole message in the end.
            let first = pen.odd_frame(0x01, b"{\"type\":");
            pen.send(first);
            let empty: Vec<u8> = (0..pen.random.between(100, 3_000)).flat_map(|_| pen.odd_frame(0x00, b"")).collect();
            pen.send(empty);
            let last = pen.odd_frame(0x80, b"\"ping\"}");
            pen.send(last);
        }
        1 => {
            // One byte a fragment, with pings in between.
            let text = r#"{"type":"ping","t":12345}"#;
            for (place, byte) in text.bytes().enumerate() {
                let fin = if place + 1 == text.len() { 0x80 } else { 0 };
                let fragment = pen.odd_frame(fin | u8::from(place == 0), &[byte]);
                pen.send(fragment);
                pen.frame(Opcode::Ping, &[byte; 125]);
            }
        }
        2 => {
            let continuation = pen.odd_frame(0x80, b"of nothing");
            pen.send(continuation);
        }
        3 => {
            let bytes = [pen.odd_frame(0x01, b"a"), pen.odd_frame(0x81, b"b")].concat();
            pen.send(bytes);
        }
        _ => {
            let control = pen.random.pick(&[0x08u8, 0x09, 0x0a]);
            let bytes = pen.odd_frame(control, b"x");
            pen.send(bytes);
        }
    }
    pen.done();
    pen.moment();
}

pub(super) fn huge_length(pen: &mut Pen<'_>) {
    pen.member();
    let claimed = |length: u64| [&[0x82, 0xff][..], &length.to_be_bytes(), &[1, 2, 3, 4]].concat();
    let bytes = match pen.random.below(5) {
        0 => claimed(u64::MAX),
        1 => claimed((1 << 63) - 1),
        2 => claimed(1 << 40),
        // A length that is not in its shortest form.
        3 => claimed(5),
        // As much as may be, and then hardly any of it.
        _ => [&[0x81, 0xfe, 0xff, 0xff, 1, 2, 3, 4][..], &[b' ' ^ 1; 1]].concat(),
    };
    pen.send(bytes);
    pen.done();
    pen.rest(200 * MILLISECOND, 4 * SECOND);
}

pub(super) fn half_frame(pen: &mut Pen<'_>) {
    pen.member();
    let room = pen.hostile_room();
    let publish = pen.publish(&room, 2_000);
    let frame = pen.masked(Opcode::Text, publish.as_bytes());
    let cut = pen.random.between(1, frame.len() as u64 - 1) as usize;
    pen.send(frame[..cut].to_vec());
    pen.done();
    match pen.random.below(3) {
        0 => pen.rest(SECOND, 20 * SECOND),
        1 => pen.step(Step::Finish),
        _ => {}
    }
    pen.end_somehow();
}

pub(super) fn ping_flood(pen: &mut Pen<'_>) {
    pen.member();
    for _ in 0..pen.random.between(50, 400) {
        let opcode = pen.random.pick(&[Opcode::Ping, Opcode::Pong]);
        let count = pen.random.below(126) as usize;
        let payload = pen.random.bytes(count);
        pen.frame(opcode, &payload);
    }
    pen.frame(Opcode::Pong, b"");
    pen.done();
    pen.end_somehow();
}

pub(super) fn binary(pen: &mut Pen<'_>) {
    pen.member();
    for _ in 0..pen.random.between(1, 20) {
        let count = pen.random.below(5_000) as usize;
        let payload = pen.random.bytes(count);
        pen.frame(Opcode::Binary, &payload);
    }
    pen.done();
    pen.end_somehow();
}

pub(super) fn odd_close(pen: &mut Pen<'_>) {
    const SOUND: [u16; 12] = [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4000, 4900, 4901, 4999];
    const FORBIDDEN: [u16; 9] = [0, 999, 1004, 1005, 1006, 1015, 2000, 5000, 65_535];
    pen.member();
    let payload = match pen.random.below(6) {
        0..=2 => pen.random.pick(&SOUND).to_be_bytes().to_vec(),
        3 => pen.random.pick(&FORBIDDEN).to_be_bytes().to_vec(),
        4 => vec![3],
        _ => Vec::new(),
    };
    pen.frame(Opcode::Close, &payload);
    let room = pen.any_room();
    for _ in 0..pen.random.below(4) {
        // Whatever follows a close frame is to be ignored.
        let publish = pen.publish(&room, 100);
        pen.text(&publish);
    }
    pen.done();
    match pen.random.below(3) {
        0 => pen.step(Step::Reset),
        1 => pen.step(Step::Again),
        _ => pen.rest(SECOND, 5 * SECOND),
    }
    pen.moment();
}

pub(super) fn half_close(pen: &mut Pen<'_>) {
    pen.member();
    let room = pen.hostile_room();
    let publish = pen.publish(&room, 1_000);
    pen.text(&publish);
    pen.step(Step::Finish);
    pen.done();
    pen.rest(SECOND, 5 * SECOND);
}

pub(super) fn reset_in_room(pen: &mut Pen<'_>) {
    pen.member();
    pen.rest(0, 500 * MILLISECOND);
    for _ in 0..pen.random.below(10) {
        let room = pen.any_room();
        let publish = pen.publish(&room, 200);
        pen.text(&publish);
    }
    pen.done();
    pen.step(Step::Reset);
}

pub(super) fn no_pong(pen: &mut Pen<'_>) {
    pen.member();
    pen.step(Step::Mute);
    pen.done();
    pen.rest(20 * SECOND, 35 * SECOND);
}
