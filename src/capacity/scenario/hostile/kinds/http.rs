//! Before the upgrade: silence, fragments of requests, requests that are none, and connections that come and go.

use super::Pen;
use crate::capacity::clock::{MILLISECOND, SECOND};
use crate::capacity::scenario::hostile::peer::Step;

pub(super) fn silent(pen: &mut Pen<'_>) {
    pen.done();
    pen.rest(SECOND, 14 * SECOND);
}

pub(super) fn half_request(pen: &mut Pen<'_>) {
    let cut = pen.random.between(1, pen.request.len() as u64 - 1) as usize;
    let half = pen.request[..cut].to_vec();
    pen.send(half);
    pen.done();
    match pen.random.below(4) {
        0 => pen.step(Step::Reset),
        1 => pen.step(Step::Finish),
        2 => pen.rest(SECOND, 12 * SECOND),
        _ => {}
    }
    pen.moment();
}

pub(super) fn garbage_bytes(pen: &mut Pen<'_>) {
    let count = pen.random.between(1, 3_000) as usize;
    let mut bytes = pen.random.bytes(count);
    match pen.random.below(4) {
        0 => bytes.splice(0..0, *b"GET ").for_each(drop),
        1 => bytes.extend(b"\r\n\r\n"),
        // What a TLS client says first.
        2 => bytes.splice(0..0, [0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).for_each(drop),
        _ => {}
    }
    pen.send(bytes);
    pen.done();
    pen.moment();
}

pub(super) fn request_drip(pen: &mut Pen<'_>) {
    let request = pen.request.clone();
    pen.step(Step::Drip(request));
    pen.step(Step::AwaitUpgrade);
    pen.done();
    pen.end_somehow();
}

pub(super) fn huge_head(pen: &mut Pen<'_>) {
    let mut bytes = pen.request.clone();
    bytes.truncate(bytes.len() - 2);
    match pen.random.below(3) {
        0 => bytes.extend(format!("X-Filler: {}\r\n", "x".repeat(9_000)).bytes()),
        1 => (0..100).for_each(|number| bytes.extend(format!("X-Filler-{number}: x\r\n").bytes())),
        // A line that never ends.
        _ => bytes.extend(b"X-Filler: ".iter().copied().chain(std::iter::repeat_n(b'x', 60_000))),
    }
    bytes.extend(b"\r\n");
    pen.send(bytes);
    pen.done();
    pen.moment();
}

pub(super) fn bad_request(pen: &mut Pen<'_>) {
    let request = String::from_utf8_lossy(&pen.request).into_owned();
    let target = request.split(' ').nth(1).unwrap_or("/").to_owned();
    let wrong = match pen.random.below(12) {
        0 => request.replacen("GET", "POST", 1),
        1 => request.replacen("GET", "get", 1),
        2 => request.replacen("HTTP/1.1", "HTTP/1.0", 1),
        3 => request.replacen("HTTP/1.1", "HTTP/9.9", 1),
        4 => request.replacen("Version: 13", "Version: 12", 1),
        5 => request.replacen("Upgrade: websocket\r\n", "", 1),
        6 => request.replacen("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: !", 1),
        7 => request.replacen(&target, "/nowhere", 1),
        8 => request.replacen(&target, &format!("/ws?user={}", "u".repeat(200)), 1),
        9 => request.replacen(&target, "/ws?user=%00", 1),
        10 => request.replacen("Host: ", "Host : ", 1),
        _ => request.replacen("\r\n\r\n", "\r\nContent-Length: 5\r\nSec-WebSocket-Protocol: other\r\n\r\nhello", 1),
    };
    pen.send(wrong.into_bytes());
    pen.done();
    pen.moment();
}

pub(super) fn health_question(pen: &mut Pen<'_>) {
    let method = pen.random.pick(&["GET", "HEAD", "DELETE"]);
    let path = pen.random.pick(&["/healthz", "/readyz"]);
    let question = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let times = pen.random.between(1, 20) as usize;
    pen.send(question.repeat(times).into_bytes());
    pen.done();
    pen.moment();
}

pub(super) fn connect_reset(pen: &mut Pen<'_>) {
    pen.done();
    pen.step(Step::Reset);
}

pub(super) fn upgrade_reset(pen: &mut Pen<'_>) {
    let request = pen.request.clone();
    pen.send(request);
    if pen.is_v1 {
        let connect = pen.connect();
        pen.text(&connect);
    }
    for _ in 0..pen.random.below(20) {
        let room = pen.any_room();
        let join = pen.join(&room);
        pen.text(&join);
    }
    pen.done();
    pen.rest(0, 20 * MILLISECOND);
    pen.step(Step::Reset);
}

pub(super) fn reconnect_at_once(pen: &mut Pen<'_>) {
    for _ in 0..pen.random.between(2, 8) {
        pen.member();
        pen.rest(0, 50 * MILLISECOND);
        if pen.random.once_in(2) {
            pen.frame(crate::ws::Opcode::Close, &1000u16.to_be_bytes());
        }
        pen.step(Step::Again);
    }
    pen.member();
    pen.done();
    pen.end_somehow();
}
