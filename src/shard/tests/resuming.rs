//! A session goes on over a new connection: with what it missed, with its numbers, in its rooms; over any shard, and in place of a
//! connection that still seems alive.

use super::world::{Disorder, World, WorldConfig};
use crate::limits::Limits;
use crate::shard::seam::Ended;
use serde_json::{Value, json};

fn world(shards: usize, limits: Limits) -> World {
    World::new(WorldConfig { shards, limits, ..WorldConfig::default() })
}

fn join(room: &str, seq: u64) -> String {
    json!({"type": "join_room", "roomId": room, "presence": true, "state": {"at": 7}, "seq": seq}).to_string()
}

fn publish(room: &str, data: u64, seq: u64) -> String {
    json!({"type": "broadcast", "roomId": room, "data": data, "seq": seq}).to_string()
}

/// A client that has said `connect`, with what it was welcomed with.
fn connect(world: &mut World, shard: usize, user: &str, resume: Option<Value>) -> (usize, Value) {
    let client = world.open_socket(shard, true);
    world.request(client, &format!("/ws?user={user}"), Some("throng.v1"));
    let mut connect = json!({"type": "connect"});
    if let Some(resume) = resume {
        connect["resume"] = resume;
    }
    world.say(client, &[&connect.to_string()]);
    world.run();
    let welcome = world.clients[client].frames.pop_front().expect("a welcome").json();
    assert_eq!(welcome["type"], "welcome");
    (client, welcome)
}

fn token(welcome: &Value) -> &str {
    welcome["resumeToken"].as_str().expect("a token")
}

fn resume(welcome: &Value, acked: u64, rooms: Value) -> Option<Value> {
    Some(json!({"token": token(welcome), "acked": acked, "rooms": rooms}))
}

fn data_of(messages: &[Value]) -> Vec<u64> {
    messages
        .iter()
        .filter(|message| message["type"] == "broadcast")
        .map(|message| message["data"].as_u64().expect("a number"))
        .collect()
}

/// Two members of a room: one that stays, and one that is to come back, with its welcome and the room's epoch.
fn two_members(world: &mut World, room: &str) -> (usize, usize, Value, String) {
    let (ann, _) = connect(world, 0, "ann", None);
    let (bob, welcome) = connect(world, world.drivers.len() - 1, "bob", None);
    for client in [ann, bob] {
        world.say(client, &[&join(room, 1)]);
    }
    world.take(ann);
    let epoch = world.take(bob)[0]["epoch"].as_str().expect("an epoch").to_owned();
    (ann, bob, welcome, epoch)
}

#[test]
fn what_was_missed_comes_after_the_welcome_once_and_in_order_and_then_what_is_live() {
    for shards in [1, 2, 3] {
        for on in 0..shards {
            for ended in [Ended::Error, Ended::Eof] {
                let mut world = world(shards, Limits::default());
                let room = world.room_at(shards / 2);
                let (ann, bob, welcome, epoch) = two_members(&mut world, &room);
                world.say(ann, &[&publish(&room, 1, 2)]);
                assert_eq!(data_of(&world.take(bob)), [1]);
                world.end(bob, ended);
                world.say(ann, &[&publish(&room, 2, 3), &publish(&room, 3, 4)]);
                let rooms = json!({&*room: {"epoch": epoch, "offset": 1}});
                let (bob, again) = connect(&mut world, on, "bob", resume(&welcome, 1, rooms));
                assert_eq!((&again["resumed"], &again["sessionId"]), (&json!(true), &welcome["sessionId"]));
                assert_eq!((&again["nextSeq"], &again["rooms"][&room]), (&json!(2), &json!({"complete": true, "count": 2})));
                assert_ne!(token(&again), token(&welcome), "tokens rotate");
                world.say(ann, &[&publish(&room, 4, 5)]);
                let got = world.take(bob);
                assert_eq!(data_of(&got), [2, 3, 4]);
                assert_eq!(got[0]["type"], "presence_state", "it watches, and named no version: {got:?}");
                world.say(bob, &[&publish(&room, 5, 2)]);
                assert_eq!(data_of(&world.take(ann)), [5]);
                assert_eq!(world.sum(|stats| stats.sessions_resumed), 1);
                assert_eq!(world.sum(|stats| stats.handed_over), u64::from(on != shards - 1));
                world.end_all();
            }
        }
    }
}

#[test]
fn nobody_sees_that_a_session_went_on_within_the_grace() {
    let mut world = world(2, Limits::default());
    let room = world.room_at(0);
    let (ann, bob, welcome, epoch) = two_members(&mut world, &room);
    world.pass(2_000);
    world.take(ann);
    let version = world.take(bob).last().map_or(json!(0), |diff| diff["version"].clone());
    world.end(bob, Ended::Error);
    world.pass(1_000);
    let rooms = json!({&*room: {"epoch": epoch, "offset": 0, "version": version}});
    let (bob, again) = connect(&mut world, 1, "bob", resume(&welcome, 1, rooms));
    assert_eq!(again["resumed"], true);
    world.pass(20_000);
    let told: Vec<Value> = world.take(ann).into_iter().filter(|message| message["type"] == "presence_diff").collect();
    assert_eq!(told, Vec::<Value>::new());
    let got = world.take_types(bob);
    assert!(!got.contains(&"presence_state".to_owned()), "its list is current: {got:?}");
    world.end_all();
}

#[test]
fn after_the_grace_the_others_are_told_and_the_session_is_in_its_rooms_again_when_it_is_resumed() {
    for shards in [1, 2] {
        let mut world = world(shards, Limits::default());
        let room = world.room_at(0);
        let (ann, bob, welcome, epoch) = two_members(&mut world, &room);
        world.pass(2_000);
        world.take(ann);
        world.end(bob, Ended::Error);
        world.pass(9_500);
        let told = |world: &mut World, what: &str| {
            let has = |message: &Value| message[what].as_array().is_some_and(|list| list.len() == 1);
            world.take(ann).iter().filter(|message| has(message)).count()
        };
        assert_eq!(told(&mut world, "leaves"), 1, "the others were told");
        world.say(ann, &[&publish(&room, 2, 2)]);
        let rooms = json!({&*room: {"epoch": &epoch, "offset": 0}});
        let (bob, again) = connect(&mut world, 0, "bob", resume(&welcome, 1, rooms));
        let expected = json!({"complete": true, "count": 1});
        assert_eq!((&again["resumed"], &again["nextSeq"], &again["rooms"][&room]), (&json!(true), &json!(2), &expected));
        world.say(bob, &[&publish(&room, 3, 2)]);
        let got = world.take(bob);
        assert_eq!((data_of(&got), got.iter().any(|message| message["type"] == "error")), (vec![2], false), "{got:?}");
        world.pass(2_000);
        let joins = world.take(ann).into_iter().flat_map(|message| message["joins"].as_array().cloned().unwrap_or_default());
        let states: Vec<Value> = joins.map(|join| join["state"].clone()).collect();
        assert_eq!(states, [json!({"at": 7})], "and told again, with the state that it had");
        // The hidden page leaves at once; its session stays.
        world.send_close(bob, Some(4901));
        world.run();
        world.pass(2_000);
        assert_eq!(told(&mut world, "leaves"), 1);
        let rooms = json!({&*room: {"epoch": epoch, "offset": 2}});
        let (_, again) = connect(&mut world, shards - 1, "bob", resume(&again, 2, rooms));
        assert_eq!((&again["resumed"], &again["rooms"][&room]["count"]), (&json!(true), &json!(0)));
        world.end_all();
    }
}

/// The leave at the end of the grace is still owed, and another is still unanswered, when the session is resumed.
#[test]
fn a_session_is_in_its_rooms_again_only_after_it_has_left_them() {
    let mut world = world(2, Limits { lane_places: Some(4), ..Limits::default() });
    let room = world.room_at(0);
    let (ann, bob, welcome, epoch) = two_members(&mut world, &room);
    world.stalled.insert((1, 0));
    world.end(bob, Ended::Error);
    world.pass(9_500);
    let client = world.open_socket(1, true);
    world.request(client, "/ws?user=bob", Some("throng.v1"));
    let rooms = json!({&*room: {"epoch": epoch, "offset": 0}});
    world.say(client, &[&json!({"type": "connect", "resume": resume(&welcome, 1, rooms)}).to_string()]);
    world.run();
    world.stalled.clear();
    world.run();
    let got = world.take(client);
    assert_eq!((&got[0]["resumed"], &got[0]["rooms"][&room]["complete"]), (&json!(true), &json!(true)));
    world.pass(2_000);
    world.say(ann, &[&json!({"type": "presence", "roomId": room, "id": 1}).to_string()]);
    let answer = world.take(ann).into_iter().find(|message| message["id"] == 1).expect("an answer");
    let members = answer["members"].as_array().expect("members");
    let states: Vec<&Value> = members.iter().map(|member| &member["connections"][0]["state"]).collect();
    assert_eq!(states, [&json!({"at": 7}); 2], "{answer}");
    world.end_all();
}

#[test]
fn a_token_works_until_a_frame_came_over_the_connection_that_got_its_successor() {
    let mut world = world(1, Limits::default());
    let (first, one) = connect(&mut world, 0, "ann", None);
    world.end(first, Ended::Error);
    // Two welcomes get lost: the first token still holds, as does each in between.
    let (second, two) = connect(&mut world, 0, "ann", resume(&one, 0, json!({})));
    world.end(second, Ended::Error);
    let (third, three) = connect(&mut world, 0, "ann", resume(&one, 0, json!({})));
    world.end(third, Ended::Error);
    let (fourth, four) = connect(&mut world, 0, "ann", resume(&two, 0, json!({})));
    assert!([&two, &three, &four].iter().all(|welcome| welcome["resumed"] == true));
    world.say(fourth, &[r#"{"type":"ping"}"#]);
    world.end(fourth, Ended::Error);
    for old in [&one, &two, &three] {
        let (_, fresh) = connect(&mut world, 0, "ann", resume(old, 0, json!({})));
        assert_eq!((&fresh["resumed"], &fresh["nextSeq"]), (&json!(false), &json!(1)));
        assert_ne!(fresh["sessionId"], four["sessionId"]);
    }
    let (_, five) = connect(&mut world, 0, "ann", resume(&four, 0, json!({})));
    assert_eq!((&five["resumed"], &five["sessionId"]), (&json!(true), &one["sessionId"]));
    world.end_all();
}

/// A client that has waited in vain abandons the connection while the welcome is on its way to it.
#[test]
fn a_close_frame_does_not_say_that_the_welcome_came() {
    let mut world = world(1, Limits::default());
    let (first, one) = connect(&mut world, 0, "ann", None);
    world.end(first, Ended::Error);
    let (second, _) = connect(&mut world, 0, "ann", resume(&one, 0, json!({})));
    world.send_close(second, Some(4900));
    world.run();
    let (_, again) = connect(&mut world, 0, "ann", resume(&one, 0, json!({})));
    assert_eq!((&again["resumed"], &again["sessionId"]), (&json!(true), &one["sessionId"]));
    world.end_all();
}

#[test]
fn a_token_that_is_wrong_expired_or_of_another_user_begins_a_session_and_does_not_say_why() {
    let limits = Limits { resume_ttl_ms: 20_000, ..Limits::default() };
    let mut world = world(2, limits);
    let (client, welcome) = connect(&mut world, 0, "ann", None);
    let right = token(&welcome).to_owned();
    let wrong = [
        json!({}),
        json!({"token": ""}),
        json!({"token": "x".repeat(44)}),
        json!({"token": 7}),
        json!({"token": right.to_lowercase()}),
    ];
    let mut answers = Vec::new();
    for resume in wrong {
        answers.push(connect(&mut world, 0, "ann", Some(resume)).1);
    }
    for user in ["bob", "ann2"] {
        answers.push(connect(&mut world, 1, user, resume(&welcome, 0, json!({}))).1);
    }
    world.end(client, Ended::Error);
    world.pass(21_000);
    answers.push(connect(&mut world, 1, "ann", resume(&welcome, 0, json!({}))).1);
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    for answer in &answers {
        assert_eq!((&answer["resumed"], &answer["nextSeq"], keys(answer)), (&json!(false), &json!(1), keys(&answers[0])));
    }
    assert_eq!(world.sum(|stats| stats.resumes_failed), answers.len() as u64);
    world.end_all();
}

#[test]
fn a_clean_end_ends_the_session() {
    for code in [Some(1000), Some(1001), None] {
        let mut world = world(1, Limits::default());
        let (client, welcome) = connect(&mut world, 0, "ann", None);
        world.send_close(client, code);
        world.run();
        assert_eq!(world.sum(|stats| stats.sessions), 0);
        let (_, again) = connect(&mut world, 0, "ann", resume(&welcome, 0, json!({})));
        assert_eq!(again["resumed"], false);
        world.end_all();
    }
}

#[test]
fn a_resume_that_waited_for_a_decision_and_is_welcome_at_once_holds_nothing_any_more() {
    let mut world = world(2, Limits::default());
    let (near, far) = (world.room_at(0), world.room_at(1));
    let (ann, _) = connect(&mut world, 0, "ann", None);
    let (bob, welcome) = connect(&mut world, 0, "bob", None);
    world.say(ann, &[&join(&near, 1)]);
    world.say(bob, &[&join(&near, 1), &join(&far, 2)]);
    let epoch = world.take(bob)[0]["epoch"].clone();
    // It is between in and out of the room far away when it comes back.
    world.stalled.insert((0, 1));
    world.say(bob, &[&json!({"type": "leave_room", "roomId": far, "seq": 3}).to_string()]);
    world.end(bob, Ended::Error);
    world.run();
    world.say(ann, &[&publish(&near, 1, 2), &publish(&near, 2, 3)]);
    let bob = world.open_socket(0, true);
    world.request(bob, "/ws?user=bob", Some("throng.v1"));
    let rooms = json!({&*near: {"epoch": epoch, "offset": 0}});
    world.say(bob, &[&json!({"type": "connect", "resume": resume(&welcome, 1, rooms)}).to_string()]);
    assert!(world.take(bob).is_empty());
    world.stalled.clear();
    world.clients[bob].incoming_max = 10;
    world.clients[bob].reads = 0;
    for _ in 0..20 {
        world.round();
        world.shard(0).verify().expect("what it holds is what is charged");
    }
    world.clients[bob].incoming_max = 1 << 20;
    world.clients[bob].reads = usize::MAX;
    world.run();
    assert_eq!(data_of(&world.take(bob)), [1, 2]);
    world.end_all();
}

#[test]
fn a_session_that_is_taken_over_closes_its_old_connection_and_hears_nothing_more_from_it() {
    for on in [0, 1] {
        let mut world = world(2, Limits::default());
        let room = world.room_at(0);
        let (ann, old, welcome, epoch) = two_members(&mut world, &room);
        let rooms = json!({&*room: {"epoch": epoch, "offset": 0}});
        let (new, again) = connect(&mut world, on, "bob", resume(&welcome, 1, rooms));
        assert_eq!((&again["resumed"], &again["nextSeq"]), (&json!(true), &json!(2)));
        assert_eq!(world.close_codes(old), [Some(4202)]);
        // What was still under way over the old one is nobody's.
        world.say(old, &[&publish(&room, 66, 2)]);
        world.say(new, &[&publish(&room, 7, 2)]);
        assert_eq!(data_of(&world.take(ann)), [7]);
        world.say(ann, &[&publish(&room, 8, 2)]);
        assert_eq!((data_of(&world.take(new)), data_of(&world.take(old))), (vec![8], vec![]));
        assert_eq!(world.sum(|stats| stats.taken_over), 1);
        world.end_all();
    }
}

/// Nobody watched the room while its only watcher was away: what changed meanwhile makes a version all the same.
#[test]
fn who_was_away_is_told_who_is_there_although_nobody_watched_meanwhile() {
    let mut world = world(1, Limits { presence_grace_ms: 0, ..Limits::default() });
    let (client, welcome) = connect(&mut world, 0, "ann", None);
    world.say(client, &[&join("r", 1)]);
    let joined = world.take(client).remove(0);
    world.end(client, Ended::Error);
    let (other, _) = connect(&mut world, 0, "bob", None);
    world.say(other, &[r#"{"type":"join_room","roomId":"r","seq":1}"#]);
    let rooms = json!({"r": {"epoch": joined["epoch"], "offset": 0, "version": joined["version"]}});
    let (client, _) = connect(&mut world, 0, "ann", resume(&welcome, 1, rooms));
    let state = world.take(client).into_iter().find(|message| message["type"] == "presence_state").expect("the list");
    assert_eq!(state["members"].as_array().map(Vec::len), Some(2));
    world.end_all();
}

/// While the session was away somebody took its place in a room that is full now.
#[test]
fn a_room_that_does_not_take_a_session_back_is_not_named_and_holds_nothing_up() {
    for shards in [1, 2] {
        let mut world = world(shards, Limits { members_per_room_max: 2, ..Limits::default() });
        let room = world.room_at(0);
        let (_, bob, welcome, epoch) = two_members(&mut world, &room);
        world.end(bob, Ended::Error);
        world.pass(9_500);
        let (eve, _) = connect(&mut world, 0, "eve", None);
        world.say(eve, &[&join(&room, 1)]);
        let rooms = json!({&*room: {"epoch": epoch, "offset": 0}});
        let (bob, again) = connect(&mut world, 0, "bob", resume(&welcome, 1, rooms));
        assert_eq!((&again["resumed"], &again["rooms"]), (&json!(true), &json!({})));
        world.say(bob, &[&join(&room, 2)]);
        assert_eq!(world.take(bob)[0]["code"], "room_full");
        world.end_all();
    }
}

/// It came back while its room was full, and was away again before it was told so.
#[test]
fn a_state_is_not_lost_over_a_resume_that_came_to_nothing() {
    let mut world = world(2, Limits { members_per_room_max: 2, presence_grace_ms: 0, ..Limits::default() });
    let room = world.room_at(0);
    let (ann, bob, welcome, epoch) = two_members(&mut world, &room);
    let rooms = json!({&*room: {"epoch": epoch, "offset": 0}});
    world.end(bob, Ended::Error);
    world.run();
    let (eve, _) = connect(&mut world, 0, "eve", None);
    world.say(eve, &[&join(&room, 1)]);
    world.stalled.insert((0, 1));
    let bob = world.open_socket(1, true);
    world.request(bob, "/ws?user=bob", Some("throng.v1"));
    world.say(bob, &[&json!({"type": "connect", "resume": resume(&welcome, 1, rooms.clone())}).to_string()]);
    world.end(bob, Ended::Error);
    world.run();
    world.stalled.clear();
    world.say(eve, &[&json!({"type": "leave_room", "roomId": room, "seq": 2}).to_string()]);
    world.pass(2_000);
    world.take(ann);
    let (_, again) = connect(&mut world, 1, "bob", resume(&welcome, 1, rooms));
    assert_eq!((&again["resumed"], &again["rooms"][&room]["complete"]), (&json!(true), &json!(true)));
    world.pass(2_000);
    let joins = world.take(ann).into_iter().flat_map(|message| message["joins"].as_array().cloned().unwrap_or_default());
    let states: Vec<(Value, Value)> = joins.map(|join| (join["user"].clone(), join["state"].clone())).collect();
    assert_eq!(states, [(json!("bob"), json!({"at": 7}))]);
    world.end_all();
}

/// The refusal of its join came when the session was away, and by the time it comes back there is a place again.
#[test]
fn a_session_that_comes_back_is_not_in_a_room_whose_join_was_refused_meanwhile() {
    let mut world = world(2, Limits { members_per_room_max: 1, presence_grace_ms: 0, ..Limits::default() });
    let room = world.room_at(0);
    let (ann, _) = connect(&mut world, 0, "ann", None);
    let (bob, welcome) = connect(&mut world, 1, "bob", None);
    world.say(ann, &[&join(&room, 1)]);
    world.stalled.insert((0, 1));
    world.say(bob, &[&join(&room, 1)]);
    world.end(bob, Ended::Error);
    world.run();
    world.stalled.clear();
    world.say(ann, &[&json!({"type": "leave_room", "roomId": room, "seq": 2}).to_string()]);
    let (bob, again) = connect(&mut world, 1, "bob", resume(&welcome, 0, json!({})));
    let failed = json!([{"seq": 1, "code": "room_full"}]);
    assert_eq!((&again["resumed"], &again["failed"], &again["rooms"]), (&json!(true), &failed, &json!({})));
    world.say(ann, &[&join(&room, 3)]);
    world.take(bob);
    world.take(ann);
    world.say(ann, &[&publish(&room, 1, 4)]);
    assert!(world.take(ann).iter().all(|message| message["type"] != "error"), "there is a place for her");
    assert_eq!(data_of(&world.take(bob)), Vec::<u64>::new());
    world.end_all();
}

/// Commands that were under way when the connection broke off, decided only later or never received.
#[test]
fn a_command_that_is_sent_again_takes_effect_once() {
    let mut world = world(2, Limits::default());
    let room = world.room_at(0);
    let (ann, bob, welcome, epoch) = two_members(&mut world, &room);
    world.stalled.insert((0, 1));
    world.say(bob, &[&publish(&room, 1, 2), &publish(&room, 2, 3)]);
    // Early ones are dropped with the connection.
    world.say(bob, &[&publish(&room, 5, 6)]);
    world.end(bob, Ended::Error);
    world.run();
    assert_eq!(data_of(&world.take(ann)), [1, 2], "they took effect, and the decision is on its way");
    let client = world.open_socket(1, true);
    world.request(client, "/ws?user=bob", Some("throng.v1"));
    let rooms = json!({&*room: {"epoch": epoch, "offset": 0}});
    world.say(client, &[&json!({"type": "connect", "resume": resume(&welcome, 1, rooms)}).to_string()]);
    world.run();
    assert!(world.clients[client].frames.is_empty(), "the home has not answered");
    world.stalled.clear();
    world.run();
    let got = world.take(client);
    assert_eq!((&got[0]["type"], &got[0]["resumed"], &got[0]["nextSeq"]), (&json!("welcome"), &json!(true), &json!(4)));
    assert!(got.iter().any(|message| message["type"] == "ack" && message["seq"] == 3), "{got:?}");
    assert_eq!(data_of(&got), Vec::<u64>::new(), "its own it knows");
    world.say(client, &[&publish(&room, 1, 2), &publish(&room, 2, 3), &publish(&room, 3, 4), &publish(&room, 4, 5)]);
    assert_eq!(data_of(&world.take(ann)), [3, 4]);
    world.end_all();
}

#[test]
fn a_refusal_that_may_not_have_been_seen_is_told_again() {
    let mut world = world(2, Limits::default());
    let room = world.room_at(0);
    let (_, bob, welcome, _) = two_members(&mut world, &room);
    world.clients[bob].reads = 0;
    world.say(bob, &[&publish("elsewhere", 1, 2), &publish(&room, 2, 3), &publish("elsewhere", 3, 4)]);
    world.end(bob, Ended::Error);
    world.run();
    let (bob, again) = connect(&mut world, 1, "bob", resume(&welcome, 1, json!({})));
    let failed = json!([{"seq": 2, "code": "not_joined"}, {"seq": 4, "code": "not_joined"}]);
    assert_eq!((&again["nextSeq"], &again["failed"]), (&json!(5), &failed));
    world.end(bob, Ended::Error);
    let (_, again) = connect(&mut world, 0, "bob", resume(&again, 3, json!({})));
    assert_eq!(again["failed"], json!([{"seq": 4, "code": "not_joined"}]));
    world.end_all();
}

/// A client whose session is over learns from the recovery which of its commands took effect.
#[test]
fn own_publications_of_a_session_that_is_over_come_back_with_their_numbers() {
    for shards in [1, 2] {
        let limits = Limits { resume_ttl_ms: 10_000, ..Limits::default() };
        let mut world = world(shards, limits);
        let room = world.room_at(0);
        let (ann, bob, welcome, epoch) = two_members(&mut world, &room);
        world.say(bob, &[&publish(&room, 1, 2), &publish(&room, 2, 3)]);
        world.say(ann, &[&publish(&room, 3, 2)]);
        world.end(bob, Ended::Error);
        world.pass(11_000);
        let rejoin = json!({"type": "join_room", "roomId": room, "since": {"epoch": epoch, "offset": 0}, "seq": 1}).to_string();
        let numbers = |world: &mut World, resume: Option<Value>| {
            let (client, again) = connect(world, shards - 1, "bob", resume);
            assert_eq!(again["resumed"], false);
            world.say(client, &[&rejoin]);
            let got = world.take(client).into_iter().filter(|message| message["type"] == "broadcast");
            got.map(|message| (message["data"].clone(), message["seq"].clone())).collect::<Vec<_>>()
        };
        let own = |seq: u64| (json!(seq - 1), json!(seq));
        let got = numbers(&mut world, resume(&welcome, 1, json!({})));
        assert_eq!(got, [own(2), own(3), (json!(3), json!(null))], "with the token of its session");
        let got = numbers(&mut world, None);
        assert!(got.iter().all(|(_, seq)| seq.is_null()), "to anybody else they have none");
        world.end_all();
    }
}

/// What history does not have any more is said; a room that began anew too.
#[test]
fn a_room_whose_history_does_not_reach_back_says_gap() {
    let limits = Limits { history_publications_max: 4, ..Limits::default() };
    let mut world = world(2, limits);
    let room = world.room_at(1);
    let (ann, bob, welcome, epoch) = two_members(&mut world, &room);
    world.end(bob, Ended::Error);
    (2..10).for_each(|seq| world.say(ann, &[&publish(&room, seq, seq)]));
    let rooms = json!({&*room: {"epoch": epoch, "offset": 2}});
    let (bob, again) = connect(&mut world, 0, "bob", resume(&welcome, 1, rooms));
    let gap = json!({"gap": {"reason": "expired"}, "epoch": epoch, "offset": 8});
    assert_eq!((&again["resumed"], &again["rooms"][&room]), (&json!(true), &gap));
    world.say(ann, &[&publish(&room, 10, 10)]);
    assert_eq!(data_of(&world.take(bob)), [10]);
    world.end(bob, Ended::Error);
    let rooms = json!({&*room: {"epoch": "AAAAAAAAAAA", "offset": 9}});
    let (_, again) = connect(&mut world, 0, "bob", resume(&again, 1, rooms));
    assert_eq!(again["rooms"][&room]["gap"]["reason"], "epoch_changed");
    world.end_all();
}

/// Connections that break off anywhere, come back anywhere, with lanes that are slow and full, while others publish.
#[test]
fn whatever_breaks_off_and_comes_back_gets_each_publication_once_and_in_order() {
    for seed in 0..24 {
        let disorder = Disorder { shorts: true, shuffles: true, splits: seed % 2 == 0, small_ring: seed % 3 == 0 };
        let limits = Limits { lane_places: Some(4 + seed as usize % 5), ..Limits::default() };
        let mut world = World::new(WorldConfig { shards: 3, limits, seed, disorder, ..WorldConfig::default() });
        let rooms: Vec<String> = (0..3).map(|shard| world.room_at(shard)).collect();
        let (ann, _) = connect(&mut world, 0, "ann", None);
        let (mut bob, mut welcome) = connect(&mut world, 1, "bob", None);
        let mut positions = serde_json::Map::new();
        for (place, room) in rooms.iter().enumerate() {
            world.say(ann, &[&join(room, place as u64 + 1)]);
            world.say(bob, &[&join(room, place as u64 + 1)]);
        }
        world.run();
        let mut heard: Vec<Vec<u64>> = vec![Vec::new(); rooms.len()];
        let (mut seq, mut sent) = (4, vec![Vec::new(); rooms.len()]);
        for life in 0..12 {
            for _ in 0..world.random.below(12) {
                let place = world.random.below(3) as usize;
                world.send(ann, &publish(&rooms[place], seq, seq));
                sent[place].push(seq);
                seq += 1;
                for _ in 0..world.random.below(4) {
                    world.round();
                }
            }
            let is_last = life == 11;
            if is_last {
                world.run();
            }
            for message in world.take(bob) {
                let place = rooms.iter().position(|room| message["roomId"] == **room);
                match message["type"].as_str() {
                    Some("room_joined") => {
                        positions.insert(rooms[place.unwrap()].clone(), json!({"epoch": message["epoch"], "offset": 0}));
                    }
                    Some("broadcast") => {
                        heard[place.unwrap()].push(message["data"].as_u64().unwrap());
                        positions[&rooms[place.unwrap()]]["offset"] = message["offset"].clone();
                    }
                    Some("gap" | "error") => panic!("seed {seed}: {message}"),
                    _ => {}
                }
            }
            if is_last {
                break;
            }
            if world.random.below(3) > 0 {
                let ended = if world.random.below(2) == 0 { Ended::Error } else { Ended::Eof };
                world.end(bob, ended);
                for _ in 0..world.random.below(6) {
                    world.round();
                }
            }
            let shard = world.random.below(3) as usize;
            (bob, welcome) = connect(&mut world, shard, "bob", resume(&welcome, 3, Value::Object(positions.clone())));
            assert_eq!(welcome["resumed"], true, "seed {seed}");
            for room in &rooms {
                assert_eq!(welcome["rooms"][room]["complete"], true, "seed {seed}: {welcome}");
            }
        }
        assert_eq!(heard, sent, "seed {seed}");
        world.end_all();
    }
}
