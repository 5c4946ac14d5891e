//! Verify that whoever comes back with its position gets what it missed, each publication once and in order, and then what is live.
#![cfg(feature = "server")]

mod support;

use serde_json::{Value, json};
use support::{Client, Setup};

over_shards![
    a_client_that_comes_back_gets_what_it_missed_and_then_what_is_live,
    rooms_with_full_histories_recover_one_beside_the_other,
    who_comes_back_too_late_is_told_that_something_was_lost,
    a_history_is_told_in_pages,
];

/// Publishes `count` publications of about `bytes` and awaits their ack.
fn publish(author: &mut Client, room: &str, count: u64, bytes: usize) {
    let pad = "x".repeat(bytes);
    let mut last = 0;
    for n in 0..count {
        last = author.broadcast(room, json!({"n": n, "pad": pad}));
        // No more than a window is under way.
        if n % 32 == 31 {
            author.expect_ack(last);
        }
    }
    author.expect_ack(last);
}

fn since(joined: &Value) -> Value {
    json!({"since": {"epoch": joined["epoch"], "offset": joined["offset"]}})
}

fn expect_offsets(client: &mut Client, room: &str, offsets: std::ops::RangeInclusive<u64>) {
    for offset in offsets {
        assert_eq!(client.expect_broadcast(room)["offset"], offset);
    }
}

fn a_client_that_comes_back_gets_what_it_missed_and_then_what_is_live(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    author.join("r");
    let mut member = server.client("member");
    let joined = member.join("r");
    member.close(4900);
    publish(&mut author, "r", 200, 900);
    // To each of them a whole history, whichever shard it is on.
    for shard in 0..6 {
        let mut again = server.client(&format!("member{shard}"));
        let joined = again.join_with("r", since(&joined));
        assert_eq!((&joined["recovered"], &joined["offset"]), (&json!(true), &json!(200 + shard)));
        expect_offsets(&mut again, "r", 1..=200 + shard);
        author.broadcast("r", json!("live"));
        assert_eq!(again.expect_broadcast("r")["data"], "live");
    }
    author.close(1000);
    server.assert_nothing_left();
}

fn rooms_with_full_histories_recover_one_beside_the_other(setup: &Setup) {
    const ROOMS: usize = 24;
    let server = setup.start(&[]);
    let mut author = server.client("author");
    let rooms: Vec<String> = (0..ROOMS).map(|room| format!("room-{room}")).collect();
    let positions: Vec<Value> = rooms
        .iter()
        .map(|room| {
            let joined = author.join(room);
            publish(&mut author, room, 64, 900);
            since(&joined)
        })
        .collect();
    let mut member = server.client("member");
    // The positions of all rooms are told before anything of them is read: more is owed than a queue may hold.
    for (room, since) in rooms.iter().zip(&positions) {
        member.command(json!({"type": "join_room", "roomId": room, "since": since["since"]}));
    }
    for room in &rooms {
        expect_offsets(&mut member, room, 1..=64);
    }
    assert_eq!(server.metrics().sum("throng_gaps_sent_total"), 0.0);
    author.close(1000);
    member.close(1000);
    server.assert_nothing_left();
}

fn who_comes_back_too_late_is_told_that_something_was_lost(setup: &Setup) {
    let server = setup.start(&["--history-publications", "10"]);
    let mut author = server.client("author");
    let joined = author.join("r");
    publish(&mut author, "r", 30, 10);
    let mut member = server.client("member");
    let answer = member.join_with("r", since(&joined));
    assert_eq!((&answer["recovered"], &answer["gap"]["reason"], &answer["offset"]), (&json!(false), &json!("expired"), &json!(30)));
    author.broadcast("r", json!("live"));
    assert_eq!(member.expect_broadcast("r")["offset"], 31);
    author.close(1000);
    member.close(1000);
    server.assert_nothing_left();
}

fn a_history_is_told_in_pages(setup: &Setup) {
    let server = setup.start(&[]);
    let mut author = server.client("author");
    let joined = author.join("r");
    publish(&mut author, "r", 100, 900);
    let (mut offsets, mut position) = (Vec::new(), since(&joined));
    loop {
        author.send(&json!({"type": "history", "roomId": "r", "id": offsets.len(), "since": position["since"]}));
        let page = author.expect("history");
        assert_eq!((&page["id"], &page["offset"]), (&json!(offsets.len()), &json!(100)));
        let publications = page["publications"].as_array().expect("publications");
        offsets.extend(publications.iter().map(|publication| publication["offset"].as_u64().expect("an offset")));
        position = json!({"since": {"epoch": page["epoch"], "offset": offsets.last()}});
        if page["more"] != true {
            break;
        }
    }
    assert_eq!(offsets, (1..=100).collect::<Vec<_>>());
}
