//! Verify that rooms deliver: to every other member, in one order for all, numbered without holes, and to nobody who has left.
#![cfg(feature = "server")]

mod support;

use serde_json::{Value, json};
use std::thread;
use support::{Client, Setup};

over_shards![
    a_broadcast_reaches_every_other_member_and_not_its_author,
    echo_sends_the_author_a_copy,
    two_publishers_are_seen_in_the_same_order_by_all,
    offsets_are_contiguous_from_the_head_that_room_joined_told,
    a_volatile_broadcast_has_no_offset_and_no_ack,
    nothing_of_a_room_follows_room_left,
    a_broadcast_without_membership_is_not_joined_and_consumes_its_seq,
    a_room_above_the_limit_is_refused_and_the_others_stay,
    a_member_above_the_limit_is_refused,
    a_repeated_join_is_answered_again_and_counts_once,
    epoch_and_offset_outlive_the_last_member,
    a_broadcast_names_its_author,
    rooms_are_separate,
    data_is_relayed_as_the_bytes_that_came,
    room_ids_compare_as_unescaped_bytes,
    commands_are_pipelined_without_waiting,
    the_two_dialects_meet_in_a_room,
];

fn a_broadcast_reaches_every_other_member_and_not_its_author(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    let mut members: Vec<Client> = (0..20).map(|index| server.client(&format!("m{index}"))).collect();
    members.iter_mut().for_each(|member| drop(member.join("r")));
    author.join("r");
    let seq = author.broadcast("r", json!({"n": 1}));
    for member in &mut members {
        assert_eq!(member.expect_data("r"), json!({"n": 1}));
    }
    author.expect_ack(seq);
    // Somebody else's next publication is the first that the author sees.
    members[0].broadcast("r", json!({"n": 2}));
    assert_eq!(author.expect_data("r"), json!({"n": 2}));
}

fn echo_sends_the_author_a_copy(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    let mut member = server.client("member");
    author.join("r");
    member.join("r");
    author.command(json!({"type": "broadcast", "roomId": "r", "data": "copy", "echo": true}));
    let copy = author.expect_broadcast("r");
    assert_eq!(copy["data"], "copy");
    assert_eq!(member.expect_broadcast("r")["offset"], copy["offset"]);
}

fn two_publishers_are_seen_in_the_same_order_by_all(setup: &Setup) {
    const EACH: u64 = 150;
    let server = setup.start(&[]);
    let mut members: Vec<Client> = (0..6).map(|index| server.client(&format!("m{index}"))).collect();
    members.iter_mut().for_each(|member| drop(member.join("r")));
    let publishers: Vec<_> = ["a", "b"]
        .map(|name| {
            let mut publisher = server.client(name);
            thread::spawn(move || {
                publisher.join("r");
                let mut last = 0;
                for n in 0..EACH {
                    last = publisher.broadcast("r", json!({"by": name, "n": n}));
                    if n % 32 == 31 {
                        publisher.expect_ack(last);
                    }
                }
                publisher.expect_ack(last);
            })
        })
        .into();
    let orders: Vec<Vec<Value>> =
        members.iter_mut().map(|member| (0..2 * EACH).map(|_| member.expect_data("r")).collect()).collect();
    publishers.into_iter().for_each(|publisher| publisher.join().expect("it publishes all"));
    for order in &orders {
        assert_eq!(order, &orders[0], "members disagree");
    }
    for name in ["a", "b"] {
        let numbers: Vec<&Value> = orders[0].iter().filter(|data| data["by"] == name).map(|data| &data["n"]).collect();
        assert!(numbers.iter().map(|n| n.as_u64()).eq((0..EACH).map(Some)), "a publisher's own order is kept: {numbers:?}");
    }
}

fn offsets_are_contiguous_from_the_head_that_room_joined_told(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    author.join("r");
    author.broadcast("r", json!("before"));
    let mut member = server.client("member");
    author.expect_ack(2);
    let joined = member.join("r");
    let head = joined["offset"].as_u64().expect("room_joined tells the head");
    assert!(head > 0, "one publication was before: {joined}");
    assert!(joined["epoch"].as_str().is_some_and(|epoch| (1..=16).contains(&epoch.len())), "{joined}");
    for n in 1..=50 {
        author.broadcast("r", json!(n));
        if n % 10 == 0 {
            author.broadcast_volatile("r", json!("volatile"));
        }
    }
    for n in 1..=50 {
        let broadcast = member.expect_that("broadcast", |frame| frame["data"] != "volatile");
        assert_eq!((&broadcast["data"], &broadcast["offset"]), (&json!(n), &json!(head + n)), "{broadcast}");
        assert!(broadcast["ts"].is_u64(), "{broadcast}");
    }
}

fn a_volatile_broadcast_has_no_offset_and_no_ack(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    let mut member = server.client("member");
    author.join("r");
    member.join("r");
    author.expect_ack(1);
    author.broadcast_volatile("r", json!({"cursor": 1}));
    let broadcast = member.expect_broadcast("r");
    assert_eq!(broadcast["data"], json!({"cursor": 1}));
    assert!(broadcast.get("offset").is_none(), "{broadcast}");
    author.round_trip();
    author.expect_none("ack");
    // Other commands need a seq in this dialect.
    author.send(&json!({"type": "join_room", "roomId": "s"}));
    author.expect("error");
}

fn nothing_of_a_room_follows_room_left(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    let mut leaver = server.client("leaver");
    let mut witness = server.client("witness");
    author.join("r");
    leaver.join("r");
    leaver.join("other");
    witness.join("r");
    let noise = thread::spawn(move || {
        for n in 0..100 {
            author.broadcast_volatile("r", json!(n));
        }
        author
    });
    leaver.leave("r");
    let mut author = noise.join().expect("it publishes all");
    // What came before `room_left` is its due; after it only another room is heard.
    let before = leaver.waiting("broadcast").len();
    author.broadcast("r", json!("last"));
    while witness.expect_data("r") != "last" {}
    author.join("other");
    author.broadcast("other", json!("fence"));
    assert_eq!(leaver.expect_data("other"), "fence");
    let of_room: Vec<Value> = leaver.waiting("broadcast").into_iter().filter(|frame| frame["roomId"] == "r").collect();
    assert!(of_room.len() <= before, "{of_room:?}");
}

fn a_broadcast_without_membership_is_not_joined_and_consumes_its_seq(setup: &Setup) {
    let server = setup.start(&[]);
    let mut stranger = server.client("stranger");
    let seq = stranger.broadcast("r", json!(1));
    let error = stranger.expect_error("not_joined");
    assert_eq!((&error["seq"], &error["retryable"]), (&json!(seq), &json!(false)), "{error}");
    stranger.expect_ack(seq);
    stranger.join("r");
    let mut plain = server.plain("");
    plain.send(&json!({"type": "broadcast", "roomId": "r", "data": 1, "seq": 1}));
    plain.expect_error("not_joined");
}

fn a_room_above_the_limit_is_refused_and_the_others_stay(setup: &Setup) {
    let server = setup.start(&["--rooms-per-connection-max", "4"]);
    let mut client = server.client("client");
    (0..4).for_each(|room| drop(client.join(&format!("r{room}"))));
    let seq = client.command(json!({"type": "join_room", "roomId": "r4"}));
    let error = client.expect_error("too_many_rooms");
    assert_eq!(error["seq"], seq, "{error}");
    client.leave("r0");
    client.join("r4");
    let mut other = server.client("other");
    other.join("r1");
    other.broadcast("r1", json!("still here"));
    assert_eq!(client.expect_data("r1"), "still here");
    server.wait_until("five memberships", |metrics| metrics.sum("ws_room_subscriptions") == 5.0);
}

fn a_member_above_the_limit_is_refused(setup: &Setup) {
    let server = setup.start(&["--members-per-room-max", "3"]);
    let mut members: Vec<Client> = (0..3).map(|index| server.client(&format!("m{index}"))).collect();
    members.iter_mut().for_each(|member| drop(member.join("r")));
    let mut late = server.client("late");
    late.command(json!({"type": "join_room", "roomId": "r"}));
    late.expect_error("room_full");
    members.pop().expect("three are in").close(1000);
    server.wait_until("a place is free", |metrics| metrics.sum("ws_room_subscriptions") == 2.0);
    late.join("r");
}

fn a_repeated_join_is_answered_again_and_counts_once(setup: &Setup) {
    let server = setup.start(&[]);
    let mut member = server.client("member");
    let first = member.join("r");
    let second = member.join("r");
    assert_eq!((&first["epoch"], &first["offset"]), (&second["epoch"], &second["offset"]));
    server.wait_until("one membership", |metrics| metrics.sum("ws_room_subscriptions") == 1.0);
    let mut author = server.client("author");
    author.join("r");
    author.broadcast("r", json!("once"));
    author.broadcast("r", json!("fence"));
    assert_eq!((member.expect_data("r"), member.expect_data("r")), (json!("once"), json!("fence")));
    member.leave("r");
    author.close(1000);
    member.close(1000);
    server.assert_nothing_left();
}

fn epoch_and_offset_outlive_the_last_member(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    let before = author.join("r");
    for n in 0..5 {
        author.broadcast("r", json!(n));
    }
    author.expect_ack(6);
    author.leave("r");
    author.close(1000);
    server.assert_nothing_left();
    let after = server.client("later").join("r");
    assert_eq!(after["epoch"], before["epoch"]);
    assert_eq!(after["offset"].as_u64(), before["offset"].as_u64().map(|offset| offset + 5));
}

fn a_broadcast_names_its_author(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("ada");
    let mut member = server.client("bob");
    author.join("r");
    member.join("r");
    author.broadcast("r", json!(1));
    let from = member.expect_broadcast("r")["from"].clone();
    assert_eq!(from["user"], "ada", "{from}");
    assert_eq!(from["connection"], author.welcome["sessionId"], "ids name the session: {}", author.welcome);
}

fn rooms_are_separate(setup: &Setup) {
    let server = setup.start(&[]);
    let mut authors: Vec<Client> = (0..16).map(|index| server.client(&format!("a{index}"))).collect();
    let mut members: Vec<Client> = (0..16).map(|index| server.client(&format!("m{index}"))).collect();
    for (index, (author, member)) in authors.iter_mut().zip(&mut members).enumerate() {
        author.join(&format!("room-{index}"));
        member.join(&format!("room-{index}"));
    }
    for (index, author) in authors.iter_mut().enumerate() {
        author.broadcast(&format!("room-{index}"), json!(index));
    }
    for (index, member) in members.iter_mut().enumerate() {
        let broadcast = member.expect("broadcast");
        assert_eq!((&broadcast["roomId"], &broadcast["data"]), (&json!(format!("room-{index}")), &json!(index)));
    }
}

fn data_is_relayed_as_the_bytes_that_came(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    let mut member = server.client("member");
    author.join("r");
    member.join("r");
    let datas = [
        r#"{"b":1,"a":2}"#,
        r#"{ "space" :  [ 1 ,2 ] }"#,
        r#"1.50e+3"#,
        r#"123456789012345678901234567890"#,
        r#""\u00e4\/\ud83d\ude00""#,
        r#"{"a":1,"a":2}"#,
        r#"null"#,
        r#""""#,
        "\"ünï→𝄞\"",
    ];
    for (index, data) in datas.iter().enumerate() {
        let seq = author.take_seq();
        author.send_text(&format!(r#"{{"data":{data},"seq":{seq},"roomId":"r","type":"broadcast","unknown":[{index}]}}"#));
        let text = member.expect_text("broadcast");
        assert!(text.contains(&format!(r#""data":{data}"#)), "{data} became {text}");
    }
}

fn room_ids_compare_as_unescaped_bytes(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    let mut member = server.client("member");
    let seq = author.take_seq();
    author.send_text(&format!(r#"{{"type":"join_room","roomId":"caf\u00e9 \"x\"","seq":{seq}}}"#));
    author.expect("room_joined");
    member.join("café \"x\"");
    author.broadcast("café \"x\"", json!(1));
    assert_eq!(member.expect_data("café \"x\""), 1);
    // Never normalised: the decomposed form is another room.
    let mut other = server.client("other");
    other.join("cafe\u{301} \"x\"");
    author.broadcast("café \"x\"", json!(2));
    assert_eq!(member.expect_data("café \"x\""), 2);
    other.round_trip();
    other.expect_none("broadcast");
}

fn commands_are_pipelined_without_waiting(setup: &Setup) {
    let server = setup.start(&[]);
    let mut member = server.client("member");
    member.join("r");
    let mut author = Client::open(server.data, "/ws", Some("throng.v1"));
    // Without `resume` a client need not wait for `welcome`.
    author.send(&json!({"type": "connect", "user": "author"}));
    author.command(json!({"type": "join_room", "roomId": "r"}));
    for n in 0..60 {
        author.broadcast("r", json!(n));
    }
    author.command(json!({"type": "leave_room", "roomId": "r"}));
    for n in 0..60 {
        assert_eq!(member.expect_data("r"), n);
    }
    author.expect("room_left");
    author.expect_ack(62);
}

fn the_two_dialects_meet_in_a_room(setup: &Setup) {
    let server = setup.start(&[]);
    let mut plain = server.plain("?user=old");
    let mut modern = server.client("new");
    plain.join("r");
    modern.join("r");
    modern.broadcast("r", json!("from new"));
    assert_eq!(plain.expect_data("r"), "from new");
    // Without seq a plain command is executed at once.
    plain.send(&json!({"type": "broadcast", "roomId": "r", "data": "from old"}));
    let broadcast = modern.expect_broadcast("r");
    assert_eq!((&broadcast["data"], &broadcast["from"]["user"]), (&json!("from old"), &json!("old")), "{broadcast}");
}
