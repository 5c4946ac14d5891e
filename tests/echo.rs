//! Verify that `/echo` sends every message back as it came, at any size and speed, and holds back a client that does not read.
#![cfg(feature = "server")]

mod support;

use std::io::{ErrorKind, Write};
use std::thread;
use std::time::Duration;
use support::{Client, Event, RawPeer, Server, Setup};

over_shards![
    messages_of_any_size_come_back_as_they_came,
    text_and_binary_keep_their_kind,
    pipelined_messages_come_back_in_order,
    a_client_that_does_not_read_is_held_back_and_loses_nothing,
    without_the_flag_there_is_no_echo,
];

fn start(setup: &Setup) -> Server {
    setup.start(&["--echo", "--message-bytes-max", "1048576"])
}

/// Bytes that differ at each place, so that a shift or a wrong mask shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect()
}

fn messages_of_any_size_come_back_as_they_came(setup: &Setup) {
    let server = start(setup);
    let mut client = Client::plain(server.data, "/echo");
    let around = |size: usize| [size - 1, size, size + 1];
    let sizes = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65].into_iter();
    let sizes = sizes.chain([126, 4_096, 16_384, 65_536].into_iter().flat_map(around)).chain([300_000, 1_048_576]);
    for size in sizes {
        let bytes = pattern(size);
        client.send_binary(&bytes);
        assert!(client.next_event() == Event::Binary(bytes), "{size} bytes came back changed");
    }
}

fn text_and_binary_keep_their_kind(setup: &Setup) {
    let server = start(setup);
    let mut client = Client::plain(server.data, "/echo");
    for text in ["", "x", "ünï→𝄞", "{not json", &"ä".repeat(50_000)] {
        client.send_text(text);
        assert_eq!(client.next_event(), Event::Text(text.to_owned()));
        client.send_binary(text.as_bytes());
        assert_eq!(client.next_event(), Event::Binary(text.as_bytes().to_vec()));
    }
}

fn pipelined_messages_come_back_in_order(setup: &Setup) {
    let server = start(setup);
    let clients: Vec<_> = (0..8)
        .map(|name| {
            let mut client = Client::plain(server.data, "/echo");
            thread::spawn(move || {
                for n in 0..2_000 {
                    client.send_text(&format!("{name}:{n}"));
                }
                for n in 0..2_000 {
                    assert_eq!(client.next_event(), Event::Text(format!("{name}:{n}")));
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("all came back"));
}

fn a_client_that_does_not_read_is_held_back_and_loses_nothing(setup: &Setup) {
    const FRAME: usize = 32 * 1024;
    const FRAMES_MAX: usize = 4_096;
    let server = start(setup);
    let mut bystander = Client::plain(server.data, "/echo");
    let mut peer = server.raw().upgrade("/echo", "");
    let frame = RawPeer::frame(0x82, &pattern(FRAME));
    // Write until the server takes no more. 128 MiB would mean that it buffers without bound.
    let mut sent = 0;
    peer.stream().set_write_timeout(Some(Duration::from_millis(700))).expect("it can be set");
    let cut = 'full: loop {
        assert!(sent < FRAMES_MAX, "the server reads on while nothing is taken from it");
        let mut written = 0;
        while written < frame.len() {
            match peer.stream().write(&frame[written..]) {
                Ok(count) => written += count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break 'full written,
                Err(error) => panic!("held back, not cut off: {error}"),
            }
        }
        sent += 1;
    };
    let metrics = server.metrics();
    let held = metrics.sum("throng_memory_bytes");
    assert!(held < 8.0 * 1024.0 * 1024.0, "it holds {held} bytes: {}", metrics.describe("memory"));
    bystander.send_text("still served");
    assert_eq!(bystander.next_event(), Event::Text("still served".into()));
    // Now it reads: every frame comes back, also the one that was cut in two.
    let mut writer = peer.stream().try_clone().expect("a socket can be duplicated");
    writer.set_write_timeout(None).expect("it can be set");
    let rest = frame[cut..].to_vec();
    let writing = thread::spawn(move || writer.write_all(&rest));
    let expected = pattern(FRAME);
    for index in 0..=sent {
        let echoed = peer.read_frame().expect("every frame comes back");
        assert_eq!(echoed.close_code(), None, "closed instead of held back, after frame {index} of {sent}");
        let differs = echoed.payload.iter().zip(&expected).position(|(echoed, expected)| echoed != expected);
        let what = (echoed.first, echoed.payload.len(), differs);
        assert_eq!(what, (0x82, FRAME, None), "frame {index} of {sent}: first byte, length, first difference");
    }
    writing.join().expect("it ends").expect("the rest is taken");
}

fn without_the_flag_there_is_no_echo(setup: &Setup) {
    let server = setup.start(&[]);
    let mut peer = server.raw();
    peer.send(RawPeer::upgrade_request("/echo", "").as_bytes());
    assert_eq!(peer.answer().status, 404);
}
