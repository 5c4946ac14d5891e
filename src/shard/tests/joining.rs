//! Becoming a member and ceasing to be one, over one shard and several.

use super::world::{World, WorldConfig};

fn world(shards: usize) -> World {
    World::new(WorldConfig { shards, ..WorldConfig::default() })
}

#[test]
fn a_member_gets_what_others_publish() {
    for shards in [1, 2, 3] {
        let mut world = world(shards);
        let (a, b) = (world.v1(0, "ann"), world.v1(shards - 1, "bob"));
        let room = world.room_at(shards / 2);
        world.say(a, &[&format!(r#"{{"type":"join_room","roomId":"{room}","seq":1}}"#)]);
        world.say(b, &[&format!(r#"{{"type":"join_room","roomId":"{room}","seq":1}}"#)]);
        assert_eq!(world.take_types(a), ["room_joined", "ack"]);
        assert_eq!(world.take_types(b), ["room_joined", "ack"]);
        world.say(a, &[&format!(r#"{{"type":"broadcast","roomId":"{room}","data":{{"x":1}},"seq":2}}"#)]);
        assert_eq!(world.take_types(a), ["ack"]);
        let got = world.take(b);
        assert_eq!(got.len(), 1);
        assert_eq!((&got[0]["data"]["x"], &got[0]["offset"]), (&1.into(), &1.into()));
        world.end_all();
    }
}

#[test]
fn a_server_that_starts_anew_uses_no_session_id_of_its_last_life_again() {
    let ids = |seed| {
        let mut world = World::new(WorldConfig { shards: 2, seed, ..WorldConfig::default() });
        let (ann, bob) = (world.v1(0, "ann"), world.v1(1, "bob"));
        let join = r#"{"type":"join_room","roomId":"r","seq":1}"#;
        world.say(ann, &[join]);
        world.say(bob, &[join]);
        world.take(ann);
        world.take(bob);
        world.say(ann, &[r#"{"type":"broadcast","roomId":"r","data":1}"#]);
        world.say(bob, &[r#"{"type":"broadcast","roomId":"r","data":1}"#]);
        let of = |got: Vec<serde_json::Value>| got[0]["from"]["connection"].as_str().expect("an id").to_owned();
        [of(world.take(ann)), of(world.take(bob))]
    };
    let (earlier, later) = (ids(1), ids(2));
    assert!(earlier.iter().all(|id| !later.contains(id)), "{earlier:?} {later:?}");
}

#[test]
fn a_rejoin_that_crosses_its_leave_enters_the_member_list_once() {
    let mut world = world(2);
    let (a, b) = (world.v1(0, "ann"), world.v1(0, "bob"));
    let room = world.room_at(1);
    let join = |seq| format!(r#"{{"type":"join_room","roomId":"{room}","seq":{seq}}}"#);
    world.say(a, &[&join(1)]);
    world.say(b, &[&join(1)]);
    assert_eq!(world.take_types(b), ["room_joined", "ack"]);
    world.say(b, &[&join(2), &format!(r#"{{"type":"leave_room","roomId":"{room}","seq":3}}"#)]);
    assert_eq!(world.take_types(b), ["room_joined", "room_left", "ack"]);
    assert_eq!(world.shard(0).stats().room_subscriptions, 1);
    world.say(a, &[&format!(r#"{{"type":"broadcast","roomId":"{room}","data":1,"seq":2}}"#)]);
    assert_eq!(world.take_types(b), Vec::<String>::new());
    world.end_all();
}

/// The answer to a repeated join comes when the session is over and the place of its membership is another's.
#[test]
fn a_late_answer_to_a_rejoin_does_not_touch_who_has_its_place_now() {
    let mut world = world(2);
    let (a, b) = (world.v1(0, "ann"), world.v1(0, "bob"));
    let (far, near) = (world.room_at(1), world.room_at(0));
    let join = |room: &str, seq| format!(r#"{{"type":"join_room","roomId":"{room}","seq":{seq}}}"#);
    let other = "another-room-of-the-other-shard-".to_owned();
    let other = (0..).map(|n| format!("{other}{n}")).find(|room| world.home_of(room) == 1).expect("one is there");
    world.say(a, &[&join(&far, 1)]);
    // The second room's join is not answered, so that the session outlives the membership of the first.
    world.stalled.insert((1, 0));
    world.say(a, &[&join(&far, 2), &join(&other, 3)]);
    world.send_close(a, None);
    world.run();
    world.say(b, &[&join(&near, 1)]);
    world.stalled.clear();
    world.run();
    assert_eq!(world.take_types(b), ["room_joined", "ack"]);
    world.say(b, &[&format!(r#"{{"type":"leave_room","roomId":"{near}","seq":2}}"#)]);
    assert_eq!(world.take_types(b), ["room_left", "ack"]);
    world.end_all();
}

#[test]
fn a_join_that_says_where_it_stands_is_told_whether_it_missed_anything() {
    let mut world = world(1);
    let (a, b) = (world.v1(0, "ann"), world.v1(0, "bob"));
    world.say(a, &[r#"{"type":"join_room","roomId":"r","seq":1}"#, r#"{"type":"broadcast","roomId":"r","data":1,"seq":2}"#]);
    let epoch = world.take(a)[0]["epoch"].as_str().expect("an epoch").to_owned();
    let cases = [
        (epoch.as_str(), 1, true, None),
        (epoch.as_str(), 0, true, None),
        (epoch.as_str(), 2, false, Some("expired")),
        ("another", 1, false, Some("epoch_changed")),
    ];
    for (place, (epoch, offset, recovered, reason)) in cases.into_iter().enumerate() {
        let seq = 2 * place + 1;
        world.say(
            b,
            &[
                &format!(r#"{{"type":"join_room","roomId":"r","since":{{"epoch":"{epoch}","offset":{offset}}},"seq":{seq}}}"#),
                &format!(r#"{{"type":"leave_room","roomId":"r","seq":{}}}"#, seq + 1),
            ],
        );
        let joined = &world.take(b)[0];
        assert_eq!(joined["recovered"], recovered, "{joined}");
        assert_eq!(joined["gap"]["reason"].as_str(), reason, "{joined}");
    }
    world.end_all();
}
