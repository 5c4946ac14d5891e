//! What is refused, on whichever shard: the client is told by the right code, its command is consumed, and nothing stays behind.

use super::world::{World, WorldConfig};
use crate::close::CloseReason;
use crate::limits::{ADMISSIONS_PER_SECOND, Limits};
use crate::shard::seam::{Ended, Order};
use crate::shard::stats::Refusal;
use serde_json::Value;

fn world(shards: usize, limits: Limits) -> World {
    World::new(WorldConfig { shards, limits, ..WorldConfig::default() })
}

fn join(room: &str, seq: u64) -> String {
    format!(r#"{{"type":"join_room","roomId":"{room}","seq":{seq}}}"#)
}

/// The codes of the errors among these messages, with the number that each is of.
fn errors(messages: &[Value]) -> Vec<(String, Option<u64>)> {
    let errors = messages.iter().filter(|message| message["type"] == "error");
    errors.map(|error| (error["code"].as_str().expect("a code").to_owned(), error["seq"].as_u64())).collect()
}

fn named(codes: &[(&str, Option<u64>)]) -> Vec<(String, Option<u64>)> {
    codes.iter().map(|(code, seq)| ((*code).to_owned(), *seq)).collect()
}

/// A client says these, and gets these errors and in the end an ack of the last number.
fn assert_refused(world: &mut World, client: usize, texts: &[&str], codes: &[(&str, Option<u64>)]) {
    world.take(client);
    world.say(client, texts);
    let got = world.take(client);
    assert_eq!(errors(&got), named(codes), "{texts:?}: {got:?}");
    if let Some(last) = codes.iter().filter_map(|(_, seq)| *seq).max() {
        let acked = got.iter().rev().find(|message| message["type"] == "ack").map(|ack| ack["seq"].as_u64());
        assert_eq!(acked, Some(Some(last)), "a command that is refused is consumed: {got:?}");
    }
}

#[test]
fn a_message_with_a_wrong_field_is_decided_by_its_error() {
    let mut world = world(1, Limits::default());
    let client = world.v1(0, "ann");
    world.say(client, &[&join("r", 1)]);
    assert_refused(&mut world, client, &[r#"{"type":"broadcast","roomId":"","data":1,"seq":2}"#], &[("bad_room_id", Some(2))]);
    assert_refused(&mut world, client, &[r#"{"type":"broadcast","roomId":"r","seq":3}"#], &[("missing_field", Some(3))]);
    world.say(client, &[r#"{"type":"broadcast","roomId":"r","data":1,"seq":4}"#]);
    assert_eq!(world.take(client).last().expect("an ack")["seq"], 4);
    world.end_all();
}

#[test]
fn what_must_be_numbered_is_refused_without_a_number() {
    let mut world = world(1, Limits::default());
    let client = world.v1(0, "ann");
    for text in [
        r#"{"type":"join_room","roomId":"r"}"#,
        r#"{"type":"leave_room","roomId":"r"}"#,
        r#"{"type":"set_state","roomId":"r","state":1}"#,
    ] {
        assert_refused(&mut world, client, &[text], &[("seq_required", None)]);
    }
    assert_eq!(world.sum(|stats| stats.room_subscriptions), 0);
    world.end_all();
}

#[test]
fn what_this_server_does_not_serve_is_told_so() {
    let mut world = world(1, Limits::default());
    let client = world.v1(0, "ann");
    assert_refused(&mut world, client, &[r#"{"type":"connect","user":"bob"}"#], &[("already_connected", None)]);
    assert_refused(&mut world, client, &[r#"{"type":"refresh","token":"t"}"#], &[("unsupported", None)]);
    world.end_all();
}

#[test]
fn a_state_above_its_bound_is_refused_and_the_one_before_stays() {
    let mut world = world(1, Limits { presence_state_bytes_max: 10, ..Limits::default() });
    let client = world.v1(0, "ann");
    let long = "s".repeat(20);
    assert_refused(
        &mut world,
        client,
        &[&format!(r#"{{"type":"join_room","roomId":"r","state":"{long}","seq":1}}"#)],
        &[("state_too_large", Some(1))],
    );
    world.say(client, &[r#"{"type":"join_room","roomId":"r","state":"good","seq":2}"#]);
    assert_refused(
        &mut world,
        client,
        &[&format!(r#"{{"type":"set_state","roomId":"r","state":"{long}","seq":3}}"#)],
        &[("state_too_large", Some(3))],
    );
    world.say(client, &[r#"{"type":"presence","roomId":"r","id":1}"#]);
    assert_eq!(world.take(client)[0]["members"][0]["connections"][0]["state"], "good");
    world.end_all();
}

#[test]
fn a_cursor_that_no_page_gave_is_refused() {
    let mut world = world(1, Limits::default());
    let client = world.v1(0, "ann");
    world.say(client, &[&join("r", 1)]);
    for cursor in ["", "x", "00000000-0000000f"] {
        let question = format!(r#"{{"type":"presence","roomId":"r","id":1,"cursor":"{cursor}"}}"#);
        assert_refused(&mut world, client, &[&question], &[("bad_cursor", None)]);
    }
    world.end_all();
}

#[test]
fn one_room_more_than_a_connection_may_be_in_is_refused() {
    let mut world = world(1, Limits { rooms_per_connection_max: 2, ..Limits::default() });
    let client = world.v1(0, "ann");
    world.say(client, &[&join("a", 1), &join("b", 2)]);
    assert_refused(&mut world, client, &[&join("c", 3)], &[("too_many_rooms", Some(3))]);
    world.say(client, &[r#"{"type":"leave_room","roomId":"a","seq":4}"#, &join("c", 5)]);
    assert_eq!(errors(&world.take(client)), named(&[]));
    assert_eq!(world.sum(|stats| stats.room_subscriptions), 2);
    world.end_all();
}

/// What was sent in the belief that the join would succeed is refused by the home, because the membership never was.
#[test]
fn a_full_room_refuses_the_join_and_whatever_was_sent_behind_it() {
    for shards in [1, 2] {
        let mut world = world(shards, Limits { members_per_room_max: 1, ..Limits::default() });
        let room = world.room_at(shards - 1);
        let (inside, outside) = (world.v1(0, "ann"), world.v1(0, "bob"));
        world.say(inside, &[&join(&room, 1)]);
        let texts = [
            join(&room, 1),
            format!(r#"{{"type":"broadcast","roomId":"{room}","data":1,"seq":2}}"#),
            format!(r#"{{"type":"set_state","roomId":"{room}","state":1,"seq":3}}"#),
            format!(r#"{{"type":"presence","roomId":"{room}","id":7}}"#),
        ];
        world.take(inside);
        world.say(outside, &texts.each_ref().map(String::as_str));
        let got = world.take(outside);
        let mut codes = errors(&got);
        codes.sort();
        let expected = [("not_joined", None), ("not_joined", Some(2)), ("not_joined", Some(3)), ("room_full", Some(1))];
        assert_eq!(codes, named(&expected), "{shards} shards: {got:?}");
        assert_eq!(got.iter().find(|message| message["id"] == 7).expect("an answer")["code"], "not_joined");
        assert_eq!(world.sum(|stats| stats.room_subscriptions), 1);
        assert_eq!(world.take_types(inside), Vec::<String>::new(), "nothing was published");
        world.say(inside, &[&format!(r#"{{"type":"leave_room","roomId":"{room}","seq":2}}"#)]);
        world.say(outside, &[&join(&room, 4)]);
        assert_eq!(errors(&world.take(outside)), named(&[]), "the place is free again");
        world.end_all();
    }
}

/// The refusal comes when the session is over, by a clean close or within its grace: the membership goes, and no leave is owed.
#[test]
fn a_refusal_that_comes_after_the_end_leaves_no_membership() {
    for code in [Some(1000), Some(4900), None] {
        let mut world = world(2, Limits { members_per_room_max: 1, ..Limits::default() });
        let room = world.room_at(1);
        let (inside, outside) = (world.v1(1, "ann"), world.v1(0, "bob"));
        world.say(inside, &[&join(&room, 1)]);
        world.stalled.insert((1, 0));
        world.say(outside, &[&join(&room, 1)]);
        match code {
            Some(_) => world.send_close(outside, code),
            None => world.end(outside, Ended::Error),
        }
        world.run();
        world.stalled.clear();
        world.run();
        assert_eq!(world.sum(|stats| stats.leaves_owed), 0);
        assert_eq!(world.sum(|stats| stats.room_subscriptions), 1);
        world.end_all();
    }
}

/// The answer to a leave comes when the session is over, or within its grace.
#[test]
fn a_leave_that_is_answered_after_the_end_is_not_owed_again() {
    for code in [Some(1000), Some(4900), None] {
        let mut world = world(2, Limits::default());
        let room = world.room_at(1);
        let client = world.v1(0, "ann");
        world.say(client, &[&join(&room, 1)]);
        world.stalled.insert((1, 0));
        world.say(client, &[&format!(r#"{{"type":"leave_room","roomId":"{room}","seq":2}}"#)]);
        match code {
            Some(_) => world.send_close(client, code),
            None => world.end(client, Ended::Error),
        }
        world.run();
        world.stalled.clear();
        world.pass(world.limits.presence_grace_ms + 1_000);
        assert_eq!(world.sum(|stats| stats.room_leave_failures), 0);
        assert_eq!(world.sum(|stats| stats.sessions), u64::from(code != Some(1000)), "who may come back has a session");
        world.pass(world.limits.resume_ttl_ms);
        assert_eq!(world.sum(|stats| stats.sessions), 0);
        world.end_all();
    }
}

/// An anonymous client is its session's own user.
#[test]
fn a_client_without_a_name_is_listed_under_one_of_its_own() {
    let mut world = world(1, Limits::default());
    let client = world.open_socket(0, true);
    world.request(client, "/ws", Some("throng.v1"));
    world.say(client, &[r#"{"type":"connect"}"#, &join("r", 1), r#"{"type":"presence","roomId":"r","id":1}"#]);
    let got = world.take(client);
    let session = got[0]["sessionId"].as_str().expect("a session").to_owned();
    let answer = got.iter().find(|message| message["id"] == 1).expect("an answer");
    assert_eq!(answer["members"][0]["user"], format!("~{session}"), "{answer}");
    world.say(client, &[r#"{"type":"broadcast","roomId":"r","data":1,"echo":true,"seq":2}"#]);
    let got = world.take(client);
    let publication = got.iter().find(|message| message["type"] == "broadcast").expect("its copy");
    assert_eq!(publication["from"]["user"], format!("~{session}"));
    world.end_all();
}

/// Rooms are opened until their home has no memory for more: what is there goes on, and memory that comes back serves the next.
#[test]
fn a_room_for_which_there_is_no_memory_is_refused_and_the_others_go_on() {
    for shards in [1, 2] {
        let mut world = world(shards, Limits { flex_bytes_max: 30_000 * shards, ..Limits::default() });
        let client = world.v1(0, "ann");
        let rooms: Vec<String> =
            (0..).map(|number| format!("room-{number}")).filter(|room| world.home_of(room) == shards - 1).take(100).collect();
        let state = "s".repeat(900);
        let mut refused = None;
        for (place, room) in rooms.iter().enumerate() {
            let seq = place as u64 + 1;
            world.say(client, &[&format!(r#"{{"type":"join_room","roomId":"{room}","state":"{state}","seq":{seq}}}"#)]);
            if !errors(&world.take(client)).is_empty() {
                refused = Some(place);
                break;
            }
        }
        let refused = refused.expect("memory ends");
        assert_eq!(world.sum(|stats| stats.room_subscriptions), refused as u64);
        let seq = refused as u64 + 2;
        let text = format!(r#"{{"type":"broadcast","roomId":"{}","data":1,"echo":true,"seq":{seq}}}"#, rooms[0]);
        world.say(client, &[&text]);
        assert!(world.take_types(client).contains(&"broadcast".to_owned()), "{shards} shards");
        for (place, room) in rooms[..refused].iter().enumerate() {
            world.say(client, &[&format!(r#"{{"type":"leave_room","roomId":"{room}","seq":{}}}"#, seq + 1 + place as u64)]);
        }
        world.take(client);
        world.say(client, &[&join(&rooms[0], seq + 1 + refused as u64)]);
        assert_eq!(errors(&world.take(client)), named(&[]));
        world.end_all();
    }
}

/// Sends a request and returns the status of its answer.
fn ask(world: &mut World, request: &str) -> u16 {
    let client = world.open_socket(0, true);
    world.send_raw(client, request.as_bytes());
    world.run();
    let answer = String::from_utf8(world.clients[client].http.clone()).expect("HTTP is text");
    assert!(world.clients[client].finished, "nothing follows a refusal: {answer}");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{request:?}: {answer:?}"))
}

fn upgrade(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

#[test]
fn each_bad_request_gets_its_status_and_is_counted() {
    let long_user = format!("/ws?user={}", "u".repeat(129));
    let sound = upgrade("/ws", "");
    let cases = [
        ("GARBAGE\r\n\r\n".to_owned(), 400, Refusal::BadRequest),
        (sound.replace("GET", "POST"), 405, Refusal::Method),
        (sound.replace("HTTP/1.1", "HTTP/1.0"), 505, Refusal::HttpVersion),
        (sound.replace("Version: 13", "Version: 8"), 426, Refusal::UpgradeRequired),
        (sound.replace("Upgrade: websocket\r\n", ""), 426, Refusal::UpgradeRequired),
        (upgrade("/ws", &format!("X-Filler: {}\r\n", "x".repeat(9_000))), 431, Refusal::HeadTooLarge),
        (upgrade("/nowhere", ""), 404, Refusal::NotFound),
        (upgrade("/ws", "Sec-WebSocket-Protocol: chat\r\n"), 400, Refusal::BadRequest),
        (upgrade("/ws?user=", ""), 400, Refusal::BadRequest),
        (upgrade("/ws?user=%07", ""), 400, Refusal::BadRequest),
        (upgrade(&long_user, ""), 400, Refusal::BadRequest),
        ("DELETE /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405, Refusal::Method),
    ];
    let mut world = world(1, Limits::default());
    for (request, status, refusal) in cases {
        let before = world.sum(|stats| stats.refusals[refusal as usize]);
        assert_eq!(ask(&mut world, &request), status, "{request}");
        assert_eq!(world.sum(|stats| stats.refusals[refusal as usize]), before + 1, "{request}");
    }
    assert_eq!(world.sum(|stats| stats.connections_total), 0);
    world.end_all();
}

/// The whole answer to a request.
fn answer(world: &mut World, request: &str) -> String {
    let client = world.open_socket(0, true);
    world.send_raw(client, request.as_bytes());
    world.run();
    String::from_utf8(world.clients[client].http.clone()).expect("HTTP is text")
}

#[test]
fn the_browser_client_is_served_where_clients_connect() {
    let mut world = world(1, Limits::default());
    let script = crate::web::client();
    let request = |method: &str, headers: &str| format!("{method} /throng.js HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    let whole = answer(&mut world, &request("GET", ""));
    let (head, body) = whole.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body, script.text);
    for line in [
        "HTTP/1.1 200 OK".to_owned(),
        format!("Content-Length: {}", body.len()),
        format!("ETag: {}", script.etag),
        "Content-Type: text/javascript; charset=utf-8".to_owned(),
        "Access-Control-Allow-Origin: *".to_owned(),
    ] {
        assert!(head.lines().any(|other| other == line), "{line}: {head}");
    }
    assert_eq!(head.matches("Cache-Control").count(), 1, "{head}");
    let kept = answer(&mut world, &request("GET", &format!("If-None-Match: {}\r\n", script.etag)));
    assert!(kept.starts_with("HTTP/1.1 304 ") && kept.ends_with("\r\n\r\n") && !kept.contains("Content-Length"), "{kept}");
    assert_eq!(ask(&mut world, &request("POST", "")), 405);
    world.order(Order::Drain { by: world.now.mono.after(1_000) });
    assert_eq!(ask(&mut world, &request("GET", "")), 503, "who would get no connection gets no file");
    world.end_all();
}

#[test]
fn the_head_that_head_gets_has_the_length_of_get() {
    let mut world = world(1, Limits::default());
    for path in ["/healthz", "/readyz", "/throng.js"] {
        let [get, head] = ["GET", "HEAD"].map(|method| answer(&mut world, &format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n")));
        assert!(head.ends_with("\r\n\r\n") && get.starts_with(&head) && get.len() > head.len(), "{path}: {head}");
    }
    world.end_all();
}

#[test]
fn readiness_is_what_the_control_plane_says() {
    let mut world = world(1, Limits::default());
    let question = "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n";
    world.order(Order::Ready(false));
    assert_eq!(ask(&mut world, question), 503);
    assert_eq!(ask(&mut world, &question.replace("readyz", "healthz")), 200);
    world.order(Order::Ready(true));
    assert_eq!(ask(&mut world, question), 200);
    world.end_all();
}

#[test]
fn a_request_that_is_whole_only_when_the_server_drains_gets_503() {
    let mut world = world(1, Limits::default());
    let client = world.open_socket(0, true);
    let request = upgrade("/ws", "");
    let (begin, end) = request.split_at(40);
    world.send_raw(client, begin.as_bytes());
    world.run();
    let by = world.now.mono.after(1_000);
    world.order(Order::Drain { by });
    world.pass(1_000);
    world.send_raw(client, end.as_bytes());
    world.run();
    assert!(world.clients[client].http.starts_with(b"HTTP/1.1 503 "));
    assert_eq!(world.sum(|stats| stats.refusals[Refusal::Draining as usize]), 1);
    world.end_all();
}

#[test]
fn while_memory_is_short_new_connections_get_503_and_long_partial_messages_end() {
    let mut world = world(1, Limits { flex_bytes_max: 20_000, ..Limits::default() });
    let (client, other) = (world.v1(0, "ann"), world.plain(0, "bob"));
    let state = "s".repeat(900);
    for seq in 1..100 {
        world.say(client, &[&format!(r#"{{"type":"join_room","roomId":"room-{seq}","state":"{state}","seq":{seq}}}"#)]);
    }
    assert!(errors(&world.take(client)).iter().any(|(code, _)| code == "room_unavailable"), "memory ends");
    assert_eq!(ask(&mut world, &upgrade("/ws", "")), 503);
    assert_eq!(world.sum(|stats| stats.refusals[Refusal::Memory as usize]), 1);
    // A first fragment, of which not all comes.
    let mut fragment = vec![0x01, 0x80 | 126];
    fragment.extend(30_000u16.to_be_bytes());
    fragment.extend([0; 4]);
    fragment.extend([b' '; 20_000]);
    world.send_raw(other, &fragment);
    world.run();
    assert_eq!(world.closes(CloseReason::MemoryPressure), 1);
    assert_eq!((world.close_codes(other), world.close_codes(client)), (vec![Some(4103)], vec![]));
    world.end_all();
}

/// Sessions that only wait for the end of their grace give way, the oldest first.
#[test]
fn a_grace_ends_early_when_there_is_no_place_for_another_session() {
    let mut world = World::new(WorldConfig { slots: 2, ..WorldConfig::default() });
    let witness = world.v1(0, "witness");
    world.say(witness, &[r#"{"type":"join_room","roomId":"r","presence":true,"seq":1}"#]);
    for number in 0..5 {
        let client = world.v1(0, "ghost");
        world.say(client, &[&format!(r#"{{"type":"join_room","roomId":"r","state":{number},"seq":1}}"#)]);
        world.end(client, Ended::Error);
        world.run();
    }
    assert_eq!(world.sum(|stats| stats.sessions_detached), 3, "two connections have places for four sessions");
    world.take(witness);
    world.say(witness, &[r#"{"type":"presence","roomId":"r","id":1}"#]);
    let answer = world.take(witness).into_iter().find(|message| message["id"] == 1).expect("an answer");
    let members = answer["members"].as_array().expect("members");
    let ghost = members.iter().find(|member| member["user"] == "ghost").expect("it is listed");
    let mut states: Vec<u64> = ghost["connections"]
        .as_array()
        .expect("connections")
        .iter()
        .filter_map(|connection| connection["state"].as_u64())
        .collect();
    states.sort_unstable();
    assert_eq!(states, [2, 3, 4]);
    world.end_all();
}

/// Those who left are still to be told of by name, so their names keep their places until then.
#[test]
fn a_name_for_which_there_is_no_place_is_turned_away_and_welcome_a_little_later() {
    let mut world = World::new(WorldConfig { slots: 2, ..WorldConfig::default() });
    let witness = world.v1(0, "witness");
    world.say(witness, &[r#"{"type":"join_room","roomId":"r","presence":true,"seq":1}"#]);
    for number in 0..3 {
        let client = world.v1(0, &format!("user-{number}"));
        world.say(client, &[&join("r", 1)]);
        world.end(client, Ended::Error);
        world.run();
    }
    let late = world.open_socket(0, true);
    world.request(late, "/ws", Some("throng.v1"));
    world.send(late, r#"{"type":"connect","user":"late"}"#);
    world.run();
    assert_eq!(world.close_codes(late), [Some(4100)]);
    let plain = world.open_socket(0, true);
    world.request(plain, "/ws?user=late", None);
    world.run();
    assert!(world.clients[plain].http.starts_with(b"HTTP/1.1 503 "));
    world.end(plain, Ended::Eof);
    world.pass(1_000);
    world.v1(0, "late");
    world.end_all();
}

/// Nobody can be told when the server breaks down.
#[test]
fn welcome_tells_how_far_to_spread_should_the_server_be_lost() {
    let mut world = World::new(WorldConfig { shards: 2, ..WorldConfig::default() });
    for count in 1..=20 {
        let client = world.open_socket(0, true);
        world.request(client, "/ws", Some("throng.v1"));
        world.send(client, r#"{"type":"connect"}"#);
        world.run();
        assert_eq!(world.take(client)[0]["spreadMs"], 2 * count * 1_000 / ADMISSIONS_PER_SECOND);
    }
    world.v1(1, "ann");
    assert_eq!(world.drivers[1].shard.spread_ms(), 2 * 1_000 / ADMISSIONS_PER_SECOND, "each shard counts its own");
    world.end_all();
}
