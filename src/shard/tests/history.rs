//! What rooms keep: the bounds of it, keys, and that it outlives who was there.

use super::world::{World, WorldConfig};
use crate::limits::{HISTORY_KEYS_MAX, HISTORY_PAGE_BYTES_MAX, Limits};
use serde_json::Value;

const JOIN: &str = r#"{"type":"join_room","roomId":"r","seq":1}"#;

fn world(limits: Limits) -> World {
    World::new(WorldConfig { limits, ..WorldConfig::default() })
}

/// Publishes the numbers of `seqs`, each padded to `bytes`.
fn publish(world: &mut World, client: usize, room: &str, seqs: std::ops::Range<u64>, bytes: usize) {
    for seq in seqs {
        let pad = "x".repeat(bytes);
        world.say(client, &[&format!(r#"{{"type":"broadcast","roomId":"{room}","data":[{seq},"{pad}"],"seq":{seq}}}"#)]);
    }
    world.take(client);
}

/// Asks for the history of a room; returns the answer.
fn ask(world: &mut World, client: usize, room: &str, more: &str) -> Value {
    world.take(client);
    world.say(client, &[&format!(r#"{{"type":"history","roomId":"{room}","id":"q"{more}}}"#)]);
    let mut answers = world.take(client);
    assert_eq!((answers.len(), &answers[0]["type"], &answers[0]["id"]), (1, &"history".into(), &"q".into()), "{answers:?}");
    answers.remove(0)
}

fn offsets(answer: &Value) -> Vec<u64> {
    let publications = answer["publications"].as_array().expect("publications");
    publications.iter().map(|publication| publication["offset"].as_u64().expect("an offset")).collect()
}

#[test]
fn a_room_keeps_the_newest_publications_up_to_its_count() {
    let mut world = world(Limits { history_publications_max: 3, ..Limits::default() });
    let a = world.v1(0, "ann");
    world.say(a, &[JOIN]);
    publish(&mut world, a, "r", 2..7, 10);
    let answer = ask(&mut world, a, "r", "");
    assert_eq!(offsets(&answer), [3, 4, 5]);
    assert_eq!((&answer["offset"], answer["gap"].as_object()), (&5.into(), None));
    assert_eq!(world.sum(|stats| stats.history_evicted), 2);
    let epoch = answer["epoch"].as_str().expect("an epoch").to_owned();
    let since = |offset| format!(r#","since":{{"epoch":"{epoch}","offset":{offset}}}"#);
    assert_eq!(offsets(&ask(&mut world, a, "r", &since(4))), [5]);
    assert_eq!(offsets(&ask(&mut world, a, "r", &since(5))), [] as [u64; 0]);
    let early = ask(&mut world, a, "r", &since(1));
    assert_eq!((offsets(&early), &early["gap"]["reason"]), (vec![3, 4, 5], &"expired".into()));
    let other = ask(&mut world, a, "r", r#","since":{"epoch":"x","offset":4}"#);
    assert_eq!((offsets(&other), &other["gap"]["reason"]), (vec![3, 4, 5], &"epoch_changed".into()));
    world.end_all();
}

#[test]
fn a_room_keeps_the_newest_publications_up_to_its_bytes() {
    let mut world = world(Limits { history_bytes_max: 4_000, ..Limits::default() });
    let a = world.v1(0, "ann");
    world.say(a, &[JOIN]);
    publish(&mut world, a, "r", 2..12, 1_000);
    assert_eq!(offsets(&ask(&mut world, a, "r", "")), [8, 9, 10]);
    // One that no history could hold leaves none behind it that would have a hole.
    publish(&mut world, a, "r", 12..13, 4_000);
    assert_eq!(offsets(&ask(&mut world, a, "r", "")), [] as [u64; 0]);
    publish(&mut world, a, "r", 13..14, 10);
    assert_eq!(offsets(&ask(&mut world, a, "r", "")), [12]);
    world.end_all();
}

#[test]
fn a_publication_is_kept_for_its_age() {
    let mut world = world(Limits { history_age_ms: 60_000, ..Limits::default() });
    let a = world.v1(0, "ann");
    world.say(a, &[JOIN]);
    publish(&mut world, a, "r", 2..4, 10);
    world.pass(40_000);
    publish(&mut world, a, "r", 4..5, 10);
    world.pass(15_000);
    assert_eq!(offsets(&ask(&mut world, a, "r", "")), [1, 2, 3]);
    world.pass(10_000);
    assert_eq!(offsets(&ask(&mut world, a, "r", "")), [3]);
    world.pass(40_000);
    assert_eq!(world.sum(|stats| stats.history_publications), 0);
    assert_eq!(world.sum(|stats| stats.history_evicted), 0, "age is no bound that was met too early");
    world.end_all();
}

#[test]
fn over_all_rooms_of_a_shard_the_oldest_publication_goes_first() {
    let mut world = world(Limits { history_memory_bytes_max: Some(8_192), ..Limits::default() });
    let a = world.v1(0, "ann");
    world.say(a, &[JOIN, r#"{"type":"join_room","roomId":"s","seq":2}"#]);
    publish(&mut world, a, "r", 3..6, 800);
    publish(&mut world, a, "s", 6..10, 800);
    assert_eq!(offsets(&ask(&mut world, a, "r", "")), [1, 2, 3]);
    assert_eq!(offsets(&ask(&mut world, a, "s", "")), [1, 2, 3, 4]);
    publish(&mut world, a, "s", 10..14, 800);
    assert_eq!(offsets(&ask(&mut world, a, "r", "")), [] as [u64; 0]);
    assert_eq!(offsets(&ask(&mut world, a, "s", "")), [2, 3, 4, 5, 6, 7, 8]);
    world.end_all();
}

#[test]
fn of_the_publications_of_a_key_the_newest_is_kept() {
    let mut world = world(Limits::default());
    let a = world.v1(0, "ann");
    world.say(a, &[JOIN, r#"{"type":"join_room","roomId":"s","seq":2}"#]);
    let keyed =
        |room: &str, key: &str, seq: u64| format!(r#"{{"type":"broadcast","roomId":"{room}","data":1,"key":{key},"seq":{seq}}}"#);
    // The same key is the same however it is spelled, and another room's is another.
    for (seq, room, key) in [(3, "r", r#""a\"b""#), (4, "r", r#""c""#), (5, "s", r#""a\"b""#), (6, "r", r#""\u0061\u0022b""#)] {
        world.say(a, &[&keyed(room, key, seq)]);
    }
    publish(&mut world, a, "r", 7..8, 1);
    assert_eq!(offsets(&ask(&mut world, a, "r", "")), [2, 3, 4]);
    assert_eq!(offsets(&ask(&mut world, a, "s", "")), [1]);
    let answer = ask(&mut world, a, "r", "");
    let epoch = answer["epoch"].as_str().expect("an epoch");
    let from_zero = ask(&mut world, a, "r", &format!(r#","since":{{"epoch":"{epoch}","offset":0}}"#));
    assert_eq!(from_zero["gap"].as_object(), None, "what was superseded is no loss");
    assert_eq!(world.sum(|stats| stats.history_evicted), 0);
    world.end_all();
}

#[test]
fn beyond_the_keys_of_a_room_publications_are_kept_as_if_they_had_none() {
    let mut world = world(Limits::default());
    let a = world.v1(0, "ann");
    world.say(a, &[JOIN]);
    let keys = u64::from(HISTORY_KEYS_MAX);
    let mut seq = 1;
    let mut say = |world: &mut World, key: u64| {
        seq += 1;
        world.say(a, &[&format!(r#"{{"type":"broadcast","roomId":"r","data":1,"key":"k{key}","seq":{seq}}}"#)]);
    };
    (0..keys + 2).for_each(|key| say(&mut world, key));
    // One that is found by its key, and one that is not.
    say(&mut world, 0);
    say(&mut world, keys + 1);
    let kept = offsets(&ask(&mut world, a, "r", ""));
    assert_eq!(kept, (2..=keys + 4).collect::<Vec<_>>());
    world.end_all();
}

#[test]
fn a_history_outlives_the_last_member() {
    let mut world = world(Limits::default());
    let (a, b) = (world.v1(0, "ann"), world.v1(0, "bob"));
    world.say(a, &[JOIN]);
    publish(&mut world, a, "r", 2..5, 10);
    world.say(a, &[r#"{"type":"leave_room","roomId":"r","seq":5}"#]);
    world.pass(300_000);
    world.say(b, &[JOIN]);
    assert_eq!(offsets(&ask(&mut world, b, "r", "")), [1, 2, 3]);
    world.end_all();
}

#[test]
fn when_memory_runs_short_histories_go_before_anybody_is_closed() {
    let limits = Limits { flex_bytes_max: 100_000, history_memory_bytes_max: Some(90_000), ..Limits::default() };
    let mut world = world(limits);
    let a = world.v1(0, "ann");
    world.say(a, &[JOIN]);
    publish(&mut world, a, "r", 2..60, 1_000);
    let kept = world.sum(|stats| stats.history_publications);
    // A fragment that never ends takes what the histories had.
    let b = world.v1(0, "bob");
    for _ in 0..3 {
        let c = world.v1(0, "cat");
        world.send_raw(c, &unfinished(15_000));
    }
    let b_was = world.sum(|stats| stats.connections_active);
    world.run();
    assert!(world.sum(|stats| stats.history_publications) < kept);
    assert!(world.sum(|stats| stats.history_pressed) > 0);
    assert_eq!(world.sum(|stats| stats.connections_active), b_was);
    world.say(b, &[JOIN]);
    assert_eq!(world.take_types(b), ["room_joined", "ack"]);
    world.end_all();
}

/// The first fragment of a text message.
fn unfinished(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x01, 0x80 | 126];
    frame.extend_from_slice(&(bytes as u16).to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.resize(frame.len() + bytes, b'x');
    frame
}

#[test]
fn a_history_comes_in_pages() {
    let mut world = world(Limits::default());
    let (a, b) = (world.v1(0, "ann"), world.v1(0, "bob"));
    world.say(a, &[JOIN]);
    world.say(b, &[JOIN]);
    publish(&mut world, a, "r", 2..52, 2_000);
    let (mut all, mut since) = (Vec::new(), String::new());
    loop {
        let answer = ask(&mut world, b, "r", &since);
        assert!(answer["publications"].to_string().len() <= HISTORY_PAGE_BYTES_MAX);
        all.extend(offsets(&answer));
        let last = all.last().expect("a publication");
        since = format!(r#","since":{{"epoch":{},"offset":{last}}}"#, answer["epoch"]);
        if answer["more"] != true {
            break;
        }
    }
    assert_eq!(all, (1..=50).collect::<Vec<_>>());
    let few = ask(&mut world, b, "r", r#","limit":2"#);
    assert_eq!((offsets(&few), &few["more"]), (vec![1, 2], &true.into()));
    let data = &few["publications"][0]["data"][0];
    assert_eq!((data, &few["publications"][0]["from"]["user"]), (&2.into(), &"ann".into()));
    world.end_all();
}

#[test]
fn only_a_member_may_ask_for_a_history() {
    let mut world = world(Limits::default());
    let a = world.v1(0, "ann");
    world.say(a, &[r#"{"type":"history","roomId":"r","id":7}"#]);
    let answer = &world.take(a)[0];
    assert_eq!((&answer["code"], &answer["id"]), (&"not_joined".into(), &7.into()));
    world.end_all();
}
