//! A live reader of 64 KiB/s in a busy room is served for five minutes: not taken for dead, not closed, every publication in order.

use crate::support::{Deadline, Frame, RawPeer, Setup, parse_frame};
use serde_json::{Value, json};
use socket2::SockRef;
use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

const RUN: Duration = Duration::from_secs(300);
/// 64 KiB a second in ten parts.
const PART: usize = 64 * 1024 / 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Publishes in bursts of 120 KiB every two seconds, so that a queue stands most of the time, as pings come due.
pub(crate) fn run() {
    let server = Setup::shards(2).start(&["--heartbeat", "2s", "--timeout", "3s"]);
    let mut reader = server.raw();
    SockRef::from(reader.stream()).set_recv_buffer_size(8 * 1024).expect("it can be set");
    reader = reader.upgrade("/ws?user=slow", "");
    reader.send_text(r#"{"type":"join_room","roomId":"busy","seq":1}"#);
    let joined = reader.read_frame().expect("it is answered");
    assert!(joined.payload.starts_with(br#"{"type":"room_joined""#), "{joined:?}");
    let (stream, unread) = reader.into_parts();
    let deadline = Deadline::after(RUN);
    let mut publisher = server.client("publisher");
    publisher.join("busy");
    let data = "x".repeat(1_900);
    let writer = thread::spawn(move || {
        let mut sent = 0;
        while !deadline.passed() {
            for _ in 0..60 {
                sent = publisher.broadcast("busy", json!({"n": sent, "x": data}));
            }
            publisher.expect_ack(sent);
            thread::sleep(Duration::from_secs(2));
        }
        publisher
    });
    let (read, pings) = read_slowly(stream, unread, deadline);
    let publisher = writer.join().expect("the publisher is served");
    let metrics = server.metrics();
    assert_eq!(metrics.sum("throng_ghosts_reaped_total"), 0.0, "taken for dead");
    assert_eq!(metrics.sum("ws_active_connections"), 2.0, "{}", metrics.describe("closes"));
    assert!(read > 5_000, "only {read} publications were read");
    println!(
        "slow-reader: {read} publications in order at 64 KiB/s for 300 s, {pings} pings answered behind the queue, still connected"
    );
    drop(publisher);
}

/// Returns how many publications and pings came before the deadline.
fn read_slowly(mut stream: TcpStream, mut unread: Vec<u8>, deadline: Deadline) -> (u64, u64) {
    let (mut read, mut pings, mut last) = (0, 0, None);
    let mut part = [0; PART];
    while !deadline.passed() {
        thread::sleep(PAUSE);
        stream.set_read_timeout(Some(PAUSE)).expect("it can be set");
        let Ok(count) = stream.read(&mut part) else { continue };
        assert!(count > 0, "the server ended the connection after {read} publications");
        unread.extend_from_slice(&part[..count]);
        while let Some((frame, taken)) = parse_frame(&unread) {
            unread.drain(..taken);
            match frame.opcode() {
                1 => {
                    let offset = offset_of(&frame);
                    assert!(last.is_none_or(|last| offset == last + 1), "{last:?} then {offset}");
                    last = Some(offset);
                    read += 1;
                }
                9 => {
                    pings += 1;
                    std::io::Write::write_all(&mut stream, &RawPeer::frame(0x8a, &frame.payload)).expect("the server reads");
                }
                _ => panic!("the server said {frame:?}"),
            }
        }
    }
    (read, pings)
}

fn offset_of(frame: &Frame) -> u64 {
    let value: Value = serde_json::from_slice(&frame.payload).expect("it is JSON");
    value["offset"].as_u64().unwrap_or_else(|| panic!("not a publication: {value}"))
}
