//! Verify that a session goes on over new connections, on whichever shard they arrive: with what was missed, in order, and nothing twice.
//!
//! The kernel spreads connections over the shards by their ports, so a client that comes back a dozen times is handed over at least
//! once but for one run in half a million; the tests verify that it was.
#![cfg(feature = "server")]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use support::{Client, End, RawPeer, Server, Setup};

/// Times that a client comes back.
const TIMES: u64 = 12;
/// Where `throng.v1` is spoken.
const SUBPROTOCOL: &str = "Sec-WebSocket-Protocol: throng.v1\r\n";

fn start(flags: &[&str]) -> Server {
    Setup::shards(3).start(flags)
}

fn upgraded(server: &Server) -> Client {
    Client::open(server.data, "/ws", Some("throng.v1"))
}

/// A peer that has asked for an upgrade, and what it was answered.
fn requested(server: &Server) -> (RawPeer, u16) {
    let mut peer = RawPeer::connect(server.data);
    peer.send(RawPeer::upgrade_request("/ws", SUBPROTOCOL).as_bytes());
    let status = peer.answer().status;
    (peer, status)
}

/// The first message of a client that comes back, and has seen the acks of all up to `acked`.
fn connect(user: &str, welcome: &Value, acked: u64, rooms: Value) -> Value {
    json!({"type": "connect", "user": user, "resume": {"token": welcome["resumeToken"], "acked": acked, "rooms": rooms}})
}

/// A client that comes back, with its `welcome`.
fn come_back(server: &Server, user: &str, welcome: &Value, acked: u64, rooms: Value) -> Client {
    let mut client = upgraded(server);
    client.send(&connect(user, welcome, acked, rooms));
    client.welcome = client.expect("welcome");
    client
}

/// [`come_back`] where the session goes on: the client numbers its commands from where it was.
fn resume(server: &Server, user: &str, welcome: &Value, acked: u64, rooms: Value) -> Client {
    let mut client = come_back(server, user, welcome, acked, rooms);
    assert_eq!(client.welcome["resumed"], true, "{}", client.welcome);
    assert_eq!(client.welcome["sessionId"], welcome["sessionId"]);
    assert_ne!(client.welcome["resumeToken"], welcome["resumeToken"], "tokens rotate");
    let next = client.welcome["nextSeq"].as_u64().expect("a number");
    client.take_seqs(next - 1);
    client
}

/// Verifies that some connections changed shards, and that none was sent away for it.
fn assert_handed_over(server: &Server) {
    let metrics =
        server.wait_until("connections are handed over", |metrics| metrics.sum("throng_connections_handed_over_total") > 0.0);
    assert_eq!(metrics.sum("throng_connections_not_handed_over_total"), 0.0);
}

/// A client comes back again and again, after its connection has ended in some way or has not.
fn goes_on_after(lose: impl Fn(Client) -> Option<Client>) {
    let server = start(&[]);
    let mut author = server.client("author");
    author.join("r");
    let mut member = server.client("member");
    let epoch = member.join("r")["epoch"].clone();
    for round in 0..TIMES {
        let welcome = member.welcome.clone();
        let old = lose(member);
        for n in 0..3 {
            author.broadcast("r", json!(round * 3 + n));
        }
        member = resume(&server, "member", &welcome, 1, json!({"r": {"epoch": epoch, "offset": round * 4}}));
        if let Some(mut old) = old {
            assert_eq!(old.expect_end().code(), Some(4202));
        }
        author.broadcast("r", json!("live"));
        for (offset, data) in [json!(round * 3), json!(round * 3 + 1), json!(round * 3 + 2), json!("live")].iter().enumerate() {
            let got = member.expect_broadcast("r");
            assert_eq!((&got["data"], &got["offset"]), (data, &json!(round * 4 + offset as u64 + 1)));
        }
    }
    assert_handed_over(&server);
    server.wait_until("all are counted", |metrics| metrics.sum("throng_sessions_resumed_total") == TIMES as f64);
    member.close(1000);
    author.close(1000);
    server.assert_nothing_left();
}

#[test]
fn a_session_goes_on_after_a_reset() {
    goes_on_after(|client| {
        client.reset();
        None
    });
}

#[test]
fn a_session_goes_on_after_an_end_of_stream() {
    goes_on_after(|client| {
        client.end_of_stream();
        None
    });
}

#[test]
fn a_session_is_taken_over_from_a_connection_that_is_still_open() {
    goes_on_after(Some);
}

#[test]
fn commands_that_are_sent_again_take_effect_once() {
    let server = start(&[]);
    let mut watcher = server.client("watcher");
    watcher.join("r");
    let mut author = server.client("author");
    author.join("r");
    // Numbers of commands: 1 is the join, `seq` publishes `seq`.
    let (mut acked, mut sent) = (1, 1);
    let mut seen = 2;
    for round in 0..TIMES {
        for _ in 0..10 {
            sent += 1;
            assert_eq!(author.broadcast("r", json!(sent)), sent);
        }
        if round % 2 == 0 {
            author.expect_ack(sent);
            acked = sent;
        }
        // Now and then the server has got none of them, some, or all.
        let welcome = author.welcome.clone();
        author.reset();
        author = resume(&server, "author", &welcome, acked, json!({}));
        let next = author.welcome["nextSeq"].as_u64().expect("a number");
        assert!(acked < next && next <= sent + 1, "{}", author.welcome);
        for seq in acked + 1..=sent {
            author.send(&json!({"type": "broadcast", "roomId": "r", "data": seq, "seq": seq}));
        }
        author.take_seqs(sent + 1 - next);
        if acked < sent {
            author.expect_ack(sent);
            acked = sent;
        }
        while seen <= sent {
            assert_eq!(watcher.expect_data("r"), seen);
            seen += 1;
        }
    }
    watcher.expect_none("broadcast");
    assert_handed_over(&server);
    author.close(1000);
    watcher.close(1000);
    server.assert_nothing_left();
}

/// Reads frames until a message of this type comes, and returns it.
fn read_until(peer: &mut RawPeer, kind: &str) -> Value {
    loop {
        let frame = peer.read_frame().expect("the connection stays");
        let value: Value = serde_json::from_slice(&frame.payload).expect("messages are JSON");
        if value["type"] == kind {
            return value;
        }
    }
}

#[test]
fn what_is_pipelined_behind_connect_is_not_lost() {
    // With the bytes of the largest round more than one receive takes.
    const COMMANDS: u64 = 40;
    let server = start(&[]);
    let mut watcher = server.client("watcher");
    watcher.join("r");
    let mut author = server.client("author");
    author.join("r");
    let mut welcome = author.welcome.clone();
    author.reset();
    let mut seq = 1;
    for round in 0..TIMES as usize {
        // Every length: whole with the request, cut anywhere, behind a pause or before it.
        let mut bytes = RawPeer::upgrade_request("/ws", SUBPROTOCOL).into_bytes();
        let hello = connect("author", &welcome, seq, json!({})).to_string();
        bytes.extend(RawPeer::frame(0x81, hello.as_bytes()));
        for _ in 0..COMMANDS {
            seq += 1;
            let pad = "x".repeat(200 * round);
            let command = json!({"type": "broadcast", "roomId": "r", "data": [seq, pad], "seq": seq}).to_string();
            bytes.extend(RawPeer::frame(0x81, command.as_bytes()));
        }
        let mut peer = RawPeer::connect(server.data);
        for piece in bytes.chunks(bytes.len().div_ceil(1 + round % 4)) {
            peer.send(piece);
        }
        assert_eq!(peer.answer().status, 101);
        welcome = read_until(&mut peer, "welcome");
        assert_eq!(welcome["resumed"], true, "{welcome}");
        for expected in seq + 1 - COMMANDS..=seq {
            assert_eq!(watcher.expect_data("r")[0], expected);
        }
        while read_until(&mut peer, "ack")["seq"] != seq {}
        peer.reset();
    }
    assert_handed_over(&server);
}

#[test]
fn many_come_back_at_once() {
    const CLIENTS: usize = 150;
    let server = start(&["--presence-grace", "1m"]);
    let mut author = server.client("author");
    author.join("r");
    let welcomes: Vec<(Value, Value)> = (0..CLIENTS)
        .map(|index| {
            let mut client = server.client(&format!("user{index}"));
            let joined = client.join("r");
            let welcome = client.welcome.clone();
            client.reset();
            (welcome, joined["epoch"].clone())
        })
        .collect();
    author.broadcast("r", json!("missed"));
    let mut clients: Vec<Client> = welcomes.iter().map(|_| upgraded(&server)).collect();
    for (index, (client, (welcome, epoch))) in clients.iter_mut().zip(&welcomes).enumerate() {
        client.send(&connect(&format!("user{index}"), welcome, 1, json!({"r": {"epoch": epoch, "offset": 0}})));
    }
    for (client, (welcome, _)) in clients.iter_mut().zip(&welcomes) {
        let again = client.expect("welcome");
        assert_eq!((&again["resumed"], &again["sessionId"]), (&json!(true), &welcome["sessionId"]));
    }
    author.broadcast("r", json!("live"));
    for client in &mut clients {
        assert_eq!((client.expect_data("r"), client.expect_data("r")), (json!("missed"), json!("live")));
    }
    assert_handed_over(&server);
    server.wait_until("all are counted", |metrics| {
        metrics.sum("ws_active_connections") == CLIENTS as f64 + 1.0
            && metrics.sum("throng_sessions_resumed_total") == CLIENTS as f64
    });
    for client in clients {
        client.close(1000);
    }
    author.close(1000);
    server.assert_nothing_left();
}

#[test]
fn a_connection_that_is_handed_over_counts_once() {
    // A process that is full to the last place, whose clients all come back: one that counted twice would find none.
    const CLIENTS: usize = 20;
    let server = start(&["--connections-max", "20"]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|index| server.client(&format!("user{index}"))).collect();
    for _ in 0..4 {
        server.wait_until("all are there", |metrics| metrics.sum("ws_active_connections") == CLIENTS as f64);
        assert_eq!(requested(&server).1, 503, "one more than may be");
        let welcomes: Vec<Value> = clients.iter().map(|client| client.welcome.clone()).collect();
        clients.drain(..).for_each(Client::reset);
        server.wait_until("all have gone", |metrics| metrics.sum("ws_active_connections") == 0.0);
        let users = welcomes.iter().enumerate();
        clients.extend(users.map(|(index, welcome)| resume(&server, &format!("user{index}"), welcome, 0, json!({}))));
    }
    assert_handed_over(&server);
}

// ---- no place ---------------------------------------------------------------------------------------------------------------

/// The shard that has a session, by its id: the server's, whose order of bits this shares.
fn shard_of(welcome: &Value) -> u64 {
    let text = welcome["sessionId"].as_str().expect("a session id");
    let id = throng::protocol::id64::read_id64(text.as_bytes()).expect("an id");
    id >> 22 & 0x3ff
}

/// Fills the shard of a session with other connections, and returns these.
fn fill(server: &Server, shard: u64) -> Vec<RawPeer> {
    let mut fillers = Vec::new();
    loop {
        let (mut peer, status) = requested(server);
        if status == 503 {
            // Only this shard has so many.
            return fillers;
        }
        peer.send_text(&json!({"type": "connect"}).to_string());
        if shard_of(&read_until(&mut peer, "welcome")) == shard {
            fillers.push(peer);
        } else {
            peer.send(&RawPeer::frame(0x88, &1000_u16.to_be_bytes()));
            peer.expect_end();
        }
    }
}

#[test]
fn a_shard_without_a_place_for_its_sessions_connection_sends_it_away_and_takes_it_later() {
    let server = start(&["--connections-max", "100"]);
    let mut holder = server.client("ada");
    let welcome = holder.welcome.clone();
    let mut fillers = fill(&server, shard_of(&welcome));
    assert!(fillers.len() > 40, "a shard has its share and some slack: {}", fillers.len());
    let mut sent_away = 0;
    while sent_away < 5 {
        let (mut peer, status) = requested(&server);
        if status == 503 {
            continue;
        }
        peer.send_text(&connect("ada", &welcome, 0, json!({})).to_string());
        let reconnect = read_until(&mut peer, "reconnect");
        assert!(reconnect["afterMs"].as_u64().is_some_and(|after| after > 0), "{reconnect}");
        let close = peer.read_frame().expect("a close frame");
        assert_eq!(close.close_code(), Some(4100), "{close:?}");
        peer.send(&RawPeer::frame(0x88, &4100_u16.to_be_bytes()));
        peer.expect_end();
        sent_away += 1;
    }
    holder.round_trip();
    // With one filler gone there is a place again.
    let mut gone = fillers.pop().expect("there are fillers");
    gone.send(&RawPeer::frame(0x88, &1000_u16.to_be_bytes()));
    gone.expect_end();
    let taker = resume(&server, "ada", &welcome, 0, json!({}));
    assert_eq!(holder.expect_end().code(), Some(4202));
    taker.close(1000);
    for mut filler in fillers {
        filler.send(&RawPeer::frame(0x88, &1000_u16.to_be_bytes()));
        filler.expect_end();
    }
    server.assert_nothing_left();
}

// ---- tokens that do not hold ------------------------------------------------------------------------------------------------

/// Verifies that a token, shown a dozen times, never brings a session back, and that the client is welcome all the same.
fn never_resumes(server: &Server, user: &str, welcome: &Value) {
    for _ in 0..TIMES {
        let mut client = come_back(server, user, welcome, 0, json!({"r": {"epoch": "AAAAAAAAAAA", "offset": 0}}));
        assert_eq!((&client.welcome["resumed"], &client.welcome["nextSeq"]), (&json!(false), &json!(1)));
        assert!(client.welcome["rooms"].is_null() && client.welcome["failed"].is_null(), "{}", client.welcome);
        client.join("r");
        client.close(1000);
    }
}

#[test]
fn a_token_that_was_changed_or_is_another_servers_resumes_nothing() {
    let (server, other) = (start(&[]), start(&[]));
    let client = server.client("ada");
    let foreign = other.client("ada");
    never_resumes(&server, "ada", &foreign.welcome);
    let mut changed = client.welcome.clone();
    let token = changed["resumeToken"].as_str().expect("a token");
    let other_end = if token.ends_with('A') { "B" } else { "A" };
    changed["resumeToken"] = json!(format!("{}{other_end}", &token[..token.len() - 1]));
    never_resumes(&server, "ada", &changed);
    let mut nonsense = client.welcome.clone();
    nonsense["resumeToken"] = json!("let me in");
    never_resumes(&server, "ada", &nonsense);
    client.close(1000);
    server.assert_nothing_left();
}

#[test]
fn a_token_of_another_user_resumes_nothing_and_leaves_the_session_alone() {
    let server = start(&[]);
    let mut ada = server.client("ada");
    never_resumes(&server, "eve", &ada.welcome);
    assert_handed_over(&server);
    ada.round_trip();
    ada.close(1000);
    server.assert_nothing_left();
}

#[test]
fn a_token_of_a_session_that_has_ended_resumes_nothing() {
    let server = start(&["--resume-ttl", "50ms", "--presence-grace", "20ms"]);
    let expired = server.client("ada");
    let welcome = expired.welcome.clone();
    server.wait_until("it is there", |metrics| metrics.sum("ws_active_connections") == 1.0);
    expired.reset();
    server.wait_until("it has waited long enough", |metrics| {
        metrics.sum("ws_active_connections") == 0.0 && metrics.sum("throng_sessions_resumable") == 0.0
    });
    never_resumes(&server, "ada", &welcome);
    let left = server.client("ada");
    let welcome = left.welcome.clone();
    left.close(1000);
    never_resumes(&server, "ada", &welcome);
    server.assert_nothing_left();
}

#[test]
fn a_token_that_has_been_replaced_and_confirmed_resumes_nothing() {
    let server = start(&[]);
    let first = server.client("ada");
    let stale = first.welcome.clone();
    let mut second = resume(&server, "ada", &stale, 0, json!({}));
    second.round_trip();
    never_resumes(&server, "ada", &stale);
    second.round_trip();
    drop(first);
    second.close(1000);
    server.assert_nothing_left();
}

// ---- the end ----------------------------------------------------------------------------------------------------------------

#[test]
fn a_drain_ends_while_connections_are_handed_over() {
    const CLIENTS: usize = 60;
    let mut server = start(&["--drain-notice", "0s", "--drain-seconds", "1"]);
    let welcomes: Vec<Value> = (0..CLIENTS).map(|_| server.client("ada").welcome.clone()).collect();
    let mut clients: Vec<Client> = welcomes.iter().map(|_| upgraded(&server)).collect();
    for (client, welcome) in clients.iter_mut().zip(&welcomes) {
        client.send(&connect("ada", welcome, 0, json!({})));
    }
    server.terminate();
    let mut ends = BTreeMap::new();
    for client in &mut clients {
        let end = client.expect_end();
        let End::Closed { code, .. } = end else { panic!("{end:?}") };
        *ends.entry(code).or_insert(0) += 1;
    }
    assert_eq!(ends, BTreeMap::from([(Some(4200), CLIENTS)]));
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.log());
}
