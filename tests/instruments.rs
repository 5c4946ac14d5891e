//! Verify that the instruments of the other tests measure: the clients against a tungstenite server, the parsers against texts
//! that they must refuse, and each way of ending a connection against a socket that sees how it ended.
#![cfg(feature = "server")]

mod support;

use serde_json::json;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use support::{Client, End, Event, Metrics, RawPeer, Roster};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

type Peer = WebSocket<TcpStream>;

/// A WebSocket server for one connection, which `serve` decides.
fn one_connection(serve: impl FnOnce(Peer) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client comes");
        serve(tungstenite::accept(stream).expect("it upgrades"));
    });
    (address, thread)
}

/// Sends these texts, then reads until the client ends it.
fn says(texts: &'static [&'static str]) -> (SocketAddr, JoinHandle<()>) {
    one_connection(move |mut peer| {
        texts.iter().for_each(|text| peer.send(Message::text(*text)).expect("the client reads"));
        while peer.read().is_ok() {}
    })
}

fn fails(run: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

#[test]
fn frames_of_other_types_are_kept_in_order_for_later() {
    let (address, _server) = says(&[r#"{"type":"a","n":1}"#, r#"{"type":"b","n":2}"#, r#"{"type":"a","n":3}"#]);
    let mut client = Client::plain(address, "/");
    assert_eq!(client.expect("b")["n"], 2);
    assert_eq!(client.expect("a")["n"], 1);
    assert_eq!(client.expect("a")["n"], 3);
}

#[test]
fn trouble_that_was_not_asked_for_fails_a_test() {
    let (address, _server) = says(&[r#"{"type":"error","code":"x","message":"m","retryable":false}"#, r#"{"type":"a"}"#]);
    let mut client = Client::plain(address, "/");
    assert!(fails(|| drop(client.expect("a"))));
    client.expect_error("x");
    client.expect("a");
}

#[test]
fn an_ack_that_goes_back_or_covers_the_future_fails_a_test() {
    let (address, _server) = says(&[r#"{"type":"ack","seq":9}"#]);
    let mut client = Client::plain(address, "/");
    client.take_seq();
    assert!(fails(|| client.expect_ack(1)));
    let (address, _server) = says(&[r#"{"type":"ack","seq":2}"#, r#"{"type":"ack","seq":1}"#]);
    let mut client = Client::plain(address, "/");
    client.take_seqs(3);
    assert!(fails(|| client.expect_ack(3)));
}

#[test]
fn pings_are_answered_and_counted() {
    let (address, server) = one_connection(|mut peer| {
        for _ in 0..3 {
            peer.send(Message::Ping("p".into())).expect("the client reads");
            assert!(matches!(peer.read(), Ok(Message::Pong(_))));
        }
    });
    let mut client = Client::plain(address, "/");
    client.answer_pings(3);
    server.join().expect("all three were answered");
}

#[test]
fn a_close_frame_is_told_with_its_code_and_reason() {
    let (address, _server) = one_connection(|mut peer| {
        let frame = CloseFrame { code: 4201.into(), reason: r#"{"ra":1}"#.into() };
        peer.close(Some(frame)).expect("the client reads");
        while peer.read().is_ok() {}
    });
    let end = Client::plain(address, "/").expect_end();
    assert_eq!(end, End::Closed { code: Some(4201), reason: r#"{"ra":1}"#.into() });
}

#[test]
fn a_clean_close_sends_its_code() {
    let (address, server) = one_connection(|mut peer| {
        let Ok(Message::Close(Some(frame))) = peer.read() else { panic!("a close frame comes") };
        assert_eq!(u16::from(frame.code), 1001);
        while peer.read().is_ok() {}
    });
    assert!(matches!(Client::plain(address, "/").close(1001), End::Closed { code: Some(1001), .. }));
    server.join().expect("it saw the close frame");
}

/// What the server's socket sees after the upgrade: `Ok(bytes)` up to a FIN, or an error.
fn seen_after(end: impl FnOnce(Client) + Send + 'static) -> std::io::Result<usize> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let client = thread::spawn(move || end(Client::plain(address, "/")));
    let (stream, _) = listener.accept().expect("a client comes");
    let mut peer = tungstenite::accept(stream).expect("it upgrades");
    let outcome = peer.get_mut().read_to_end(&mut Vec::new());
    drop(peer);
    client.join().expect("the client ends");
    outcome
}

#[test]
fn an_end_of_stream_is_a_fin_without_a_close_frame() {
    assert_eq!(seen_after(Client::end_of_stream).expect("a FIN"), 0);
}

#[test]
fn a_reset_is_a_reset() {
    assert_eq!(seen_after(Client::reset).expect_err("a RST").kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_vanished_client_stays_open_and_answers_no_ping() {
    let (address, server) = one_connection(|mut peer| {
        peer.send(Message::Ping("p".into())).expect("the kernel takes it");
        peer.get_ref().set_read_timeout(Some(Duration::from_millis(300))).expect("it can be set");
        assert!(matches!(peer.read(), Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock));
    });
    let socket = Client::plain(address, "/").vanish();
    server.join().expect("neither a pong nor an end came");
    drop(socket);
}

#[test]
fn echoed_messages_come_back_whole() {
    let (address, _server) = one_connection(|mut peer| {
        while let Ok(message) = peer.read() {
            if message.is_text() || message.is_binary() {
                peer.send(message).expect("the client reads");
            }
        }
    });
    let mut client = Client::plain(address, "/");
    client.send_binary(&[7; 100_000]);
    assert_eq!(client.next_event(), Event::Binary(vec![7; 100_000]));
    client.send_text("ä");
    assert_eq!(client.next_event(), Event::Text("ä".into()));
}

#[test]
fn the_raw_peer_upgrades_and_its_frames_are_well_formed() {
    let (address, server) = one_connection(|mut peer| {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            assert_eq!(peer.read().expect("a whole message").into_data().len(), length);
        }
        assert!(matches!(peer.read(), Ok(Message::Close(None))));
        while peer.read().is_ok() {}
    });
    let mut raw = RawPeer::connect(address).upgrade("/", "");
    for length in [0, 1, 125, 126, 65_535, 65_536] {
        raw.send(&RawPeer::frame(0x82, &vec![1; length]));
    }
    raw.send(&RawPeer::frame(0x88, &[]));
    assert_eq!(raw.read_frame().expect("the answer").opcode(), 8);
    raw.finish();
    raw.expect_end();
    server.join().expect("all frames were well formed");
}

#[test]
fn the_raw_peer_reads_answers_with_a_length_chunks_or_to_the_end() {
    let texts = [
        "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 3\r\n\r\nabcrest",
        "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\nabc",
    ];
    for text in texts {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client comes");
            RawPeer::on(stream).send(text.as_bytes());
        });
        let answer = RawPeer::connect(address).answer();
        assert_eq!((answer.status, answer.header("retry-after"), answer.body.as_str()), (503, Some("7"), "abc"));
        server.join().expect("it answered");
    }
}

#[test]
fn metrics_are_summed_over_shards_and_by_label() {
    let text =
        "# TYPE x counter\nx{shard=\"0\",reason=\"eof\"} 2\nx{shard=\"1\",reason=\"eof\"} 3\nx{reason=\"reset\"} 1e1\ny 0.5\n";
    let metrics = Metrics::parse(text);
    assert_eq!(metrics.sum("x"), 15.0);
    assert_eq!(metrics.sum_where("x", "reason", "eof"), 5.0);
    assert_eq!(metrics.sum_where("x", "reason", "none"), 0.0);
    assert_eq!(metrics.sum("y"), 0.5);
    assert!(fails(|| assert!(metrics.sum("ws_orphaned_subscriptions") < 1.0)), "a missing family must not read as zero");
    assert!(fails(|| drop(Metrics::parse("x not-a-number"))));
}

#[test]
fn a_roster_joins_pages_and_refuses_a_diff_that_does_not_follow() {
    let (address, _server) = says(&[
        r#"{"type":"presence_state","id":"page","roomId":"r","epoch":"e","version":3,"members":[{"user":"b","connections":[{"id":"2","state":5}]}]}"#,
        r#"{"type":"presence_diff","roomId":"r","epoch":"e","version":4,"joins":[{"user":"a","id":"9"}],"leaves":[{"user":"b","id":"2"}],"updates":[]}"#,
    ]);
    let mut client = Client::plain(address, "/");
    let joined =
        json!({"roomId": "r", "epoch": "e", "version": 3, "cursor": "x", "members": [{"user": "a", "connections": [{"id": "1"}]}]});
    let mut roster = Roster::from_join(&mut client, &joined);
    assert_eq!((roster.users(), roster.pages), (vec!["a", "b"], 2));
    roster.follow_until(&mut client, |roster| roster.connections("a") == 2);
    assert_eq!(roster.users(), ["a"]);
    let again = json!({"roomId": "r", "epoch": "e", "version": 5, "joins": [{"user": "a", "id": "9"}]});
    assert!(fails(|| roster.clone().apply(&again)), "only the first diff after a snapshot may repeat it");
    let late = json!({"roomId": "r", "epoch": "e", "version": 6, "joins": []});
    assert!(fails(|| roster.clone().apply(&late)), "version 5 is missing");
    let other = json!({"roomId": "r", "epoch": "f", "version": 5, "joins": []});
    assert!(fails(|| roster.clone().apply(&other)), "the epoch has changed");
}
