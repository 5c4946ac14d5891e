//! Who is there, as those who watch are told: a snapshot and the diffs after it always come to the truth.

use super::world::{World, WorldConfig};
use crate::limits::{Limits, PRESENCE_COALESCE_SLOW_MS};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a watcher knows of a room, by the rules of the protocol.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) version: u64,
    /// Connections with their user and state.
    pub(super) list: Option<BTreeMap<String, (String, Value)>>,
    pub(super) counts: Option<(u64, u64)>,
    /// The client must ask.
    pub(super) stale: bool,
    cursor: Option<String>,
}

impl Watched {
    /// Takes in a message that may be about presence.
    pub(super) fn hear(&mut self, message: &Value) {
        let kind = message["type"].as_str().expect("a type");
        let Some(version) = message["version"].as_u64() else { return };
        match kind {
            "room_joined" => self.snapshot(message, version),
            "presence_state" if message["id"] == "more" => self.page(message),
            "presence_state" => self.snapshot(message, version),
            "presence_diff" => self.diff(message, version),
            _ => {}
        }
    }

    fn snapshot(&mut self, message: &Value, version: u64) {
        self.version = version;
        self.stale = false;
        self.list = None;
        self.counts = None;
        if message["members"].is_array() {
            self.list = Some(BTreeMap::new());
            self.page(message);
        } else {
            self.count(message);
        }
    }

    fn page(&mut self, message: &Value) {
        let Some(list) = &mut self.list else { return };
        for member in message["members"].as_array().expect("members") {
            for connection in member["connections"].as_array().expect("connections") {
                let id = connection["id"].as_str().expect("an id").to_owned();
                let user = member["user"].as_str().expect("a user").to_owned();
                list.insert(id, (user, connection["state"].clone()));
            }
        }
        self.cursor = message["cursor"].as_str().map(str::to_owned);
    }

    fn count(&mut self, message: &Value) {
        let counts = &message["counts"];
        self.counts = Some((counts["users"].as_u64().expect("users"), counts["connections"].as_u64().expect("connections")));
    }

    fn diff(&mut self, message: &Value, version: u64) {
        if message["counts"].is_object() {
            self.list = None;
            self.version = version;
            self.count(message);
            return;
        }
        if version <= self.version {
            return;
        }
        let is_next = version == self.version + 1;
        match &mut self.list {
            Some(list) if is_next => {
                self.version = version;
                let text = |entry: &Value, key: &str| entry[key].as_str().expect("a text").to_owned();
                for entry in
                    message["joins"].as_array().expect("joins").iter().chain(message["updates"].as_array().expect("updates"))
                {
                    list.insert(text(entry, "id"), (text(entry, "user"), entry["state"].clone()));
                }
                for entry in message["leaves"].as_array().expect("leaves") {
                    list.remove(&text(entry, "id"));
                }
            }
            _ => self.stale = true,
        }
    }

    pub(super) fn users(&self) -> Vec<&str> {
        let mut users: Vec<&str> = self.list.iter().flat_map(|list| list.values()).map(|(user, _)| user.as_str()).collect();
        users.sort_unstable();
        users
    }
}

fn hear(world: &mut World, client: usize, watched: &mut Watched) {
    for message in world.take(client) {
        watched.hear(&message);
    }
}

const WATCH: &str = r#"{"type":"join_room","roomId":"r","presence":true,"seq":1}"#;
const JOIN: &str = r#"{"type":"join_room","roomId":"r","seq":1}"#;

#[test]
fn whoever_was_shown_and_left_within_the_window_is_told_to_have_left() {
    let mut world = World::new(WorldConfig::default());
    let (a, b, c) = (world.v1(0, "ann"), world.v1(0, "bob"), world.v1(0, "cat"));
    world.say(a, &[WATCH]);
    world.pass(2_000);
    world.say(b, &[JOIN]);
    world.say(c, &[WATCH]);
    let mut watched = Watched::default();
    hear(&mut world, c, &mut watched);
    assert_eq!(watched.users(), ["ann", "bob", "cat"]);
    world.say(b, &[r#"{"type":"leave_room","roomId":"r","seq":2}"#]);
    world.pass(2_000);
    hear(&mut world, c, &mut watched);
    assert_eq!(watched.users(), ["ann", "cat"]);
    world.end_all();
}

#[test]
fn no_change_is_told_before_the_snapshot_that_it_applies_to() {
    let mut world = World::new(WorldConfig { shards: 2, ..WorldConfig::default() });
    let room = world.room_at(1);
    let join = |seq: u64, presence: bool| format!(r#"{{"type":"join_room","roomId":"{room}","presence":{presence},"seq":{seq}}}"#);
    let (watcher, a, b) = (world.v1(0, "ann"), world.v1(0, "bob"), world.v1(1, "cat"));
    world.say(watcher, &[&join(1, true)]);
    world.say(a, &[&join(1, false)]);
    world.pass(2_000);
    world.take(a);
    // A change is on its way while a member without presence asks for it.
    world.stalled.insert((1, 0));
    world.say(b, &[&join(1, false)]);
    world.pass(2_000);
    world.say(a, &[&join(2, true)]);
    world.stalled.clear();
    world.pass(2_000);
    assert_eq!(world.take_types(a)[0], "room_joined");
    world.end_all();
}

/// Sessions that were made at about the same time on different shards are alike in one half of their ids.
#[test]
fn a_cursor_does_not_mean_whoever_has_taken_the_place_of_one_who_left() {
    let mut world = World::new(WorldConfig { shards: 2, ..WorldConfig::default() });
    let room = world.room_at(0);
    let join = |seq: u64| format!(r#"{{"type":"join_room","roomId":"{room}","seq":{seq}}}"#);
    let leave = format!(r#"{{"type":"leave_room","roomId":"{room}","seq":2}}"#);
    let names = ["ann", "bob", "cat", "dan"];
    let members: Vec<usize> = names.iter().map(|name| world.v1(0, name)).collect();
    let late: Vec<usize> = (0..names.len()).map(|number| world.v1(1, &format!("late-{number}"))).collect();
    for member in &members {
        world.say(*member, &[&join(1)]);
    }
    world.take(members[0]);
    world.say(members[0], &[&format!(r#"{{"type":"presence","roomId":"{room}","id":"1","limit":2}}"#)]);
    let answer = world.take(members[0]).pop().expect("a page");
    let cursor = answer["cursor"].as_str().expect("there is more").to_owned();
    // The next page would begin with the third. It leaves, and the third of the other shard gets its place.
    world.say(members[2], &[&leave]);
    world.say(late[2], &[&join(1)]);
    world.say(members[0], &[&format!(r#"{{"type":"presence","roomId":"{room}","id":"2","limit":2,"cursor":"{cursor}"}}"#)]);
    let answer = world.take(members[0]).pop().expect("an answer");
    assert_eq!(answer["code"], "bad_cursor", "{answer}");
    world.end_all();
}

#[test]
fn who_came_back_is_shown_to_those_who_saw_the_list_without_them() {
    let mut world = World::new(WorldConfig::default());
    let (a, b, c) = (world.v1(0, "ann"), world.v1(0, "bob"), world.v1(0, "cat"));
    world.say(a, &[WATCH]);
    world.say(b, &[JOIN]);
    world.pass(2_000);
    world.say(b, &[r#"{"type":"leave_room","roomId":"r","seq":2}"#]);
    world.say(c, &[WATCH]);
    world.say(b, &[r#"{"type":"join_room","roomId":"r","seq":3}"#]);
    world.pass(2_000);
    let (mut before, mut between) = (Watched::default(), Watched::default());
    hear(&mut world, a, &mut before);
    let told = world.take(c);
    told.iter().for_each(|message| between.hear(message));
    let diff = told.iter().find(|message| message["type"] == "presence_diff").expect("a diff");
    assert!(diff["joins"].as_array().expect("joins").iter().any(|entry| entry["user"] == "bob"), "{diff}");
    assert_eq!(before.users(), ["ann", "bob", "cat"]);
    assert_eq!(between.users(), ["ann", "bob", "cat"]);
    world.end_all();
}

#[test]
fn a_room_that_was_too_large_for_a_list_for_a_moment_has_its_list_asked_for() {
    let limits = Limits { presence_members_max: 3, ..Limits::default() };
    let mut world = World::new(WorldConfig { limits, ..WorldConfig::default() });
    let clients: Vec<usize> = (0..4).map(|n| world.v1(0, &format!("user-{n}"))).collect();
    world.say(clients[0], &[WATCH]);
    world.say(clients[1], &[JOIN]);
    world.say(clients[2], &[JOIN]);
    world.pass(2_000);
    let mut watched = Watched::default();
    hear(&mut world, clients[0], &mut watched);
    assert_eq!(watched.users(), ["user-0", "user-1", "user-2"]);
    // Above the bound and below it again within one window; who leaves meanwhile was there long before.
    world.say(clients[3], &[JOIN]);
    world.say(clients[3], &[r#"{"type":"leave_room","roomId":"r","seq":2}"#]);
    world.say(clients[3], &[r#"{"type":"join_room","roomId":"r","seq":3}"#]);
    world.say(clients[1], &[r#"{"type":"leave_room","roomId":"r","seq":2}"#]);
    world.pass(PRESENCE_COALESCE_SLOW_MS + 100);
    hear(&mut world, clients[0], &mut watched);
    assert!(watched.stale, "{watched:?}");
    world.say(clients[0], &[r#"{"type":"presence","roomId":"r","id":1}"#]);
    hear(&mut world, clients[0], &mut watched);
    assert_eq!(watched.users(), ["user-0", "user-2", "user-3"]);
    world.say(clients[2], &[r#"{"type":"leave_room","roomId":"r","seq":2}"#]);
    world.pass(PRESENCE_COALESCE_SLOW_MS + 100);
    hear(&mut world, clients[0], &mut watched);
    assert_eq!(watched.users(), ["user-0", "user-3"]);
    world.end_all();
}

#[test]
fn a_room_above_the_bound_tells_counts() {
    let limits = Limits { presence_members_max: 3, ..Limits::default() };
    for shards in [1, 2] {
        let mut world = World::new(WorldConfig { shards, limits: limits.clone(), ..WorldConfig::default() });
        let clients: Vec<usize> = (0..5).map(|n| world.v1(n % shards, &format!("user-{}", n / 2))).collect();
        world.say(clients[0], &[WATCH]);
        for &client in &clients[1..] {
            world.say(client, &[WATCH]);
        }
        world.pass(PRESENCE_COALESCE_SLOW_MS + 100);
        for &client in &clients {
            let mut watched = Watched::default();
            hear(&mut world, client, &mut watched);
            assert_eq!(watched.counts, Some((3, 5)));
        }
        world.end_all();
    }
}

#[test]
fn a_list_above_the_page_size_comes_in_pages() {
    for shards in [1, 2] {
        let mut world = World::new(WorldConfig { shards, slots: 400, ..WorldConfig::default() });
        let state = format!("\"{}\"", "s".repeat(200));
        for n in 0..350 {
            let client = world.open_socket(n % shards, true);
            world.request(client, &format!("/?user=user-{}", n / 2), None);
            world.send(client, &format!(r#"{{"type":"join_room","roomId":"r","state":{state}}}"#));
        }
        world.run();
        let watcher = world.v1(0, "watcher");
        world.say(watcher, &[WATCH]);
        let joined = world.take(watcher).remove(0);
        let mut users = BTreeMap::new();
        let mut page = joined;
        let mut pages = 0;
        loop {
            pages += 1;
            assert!(page["members"].to_string().len() <= crate::limits::PRESENCE_PAGE_BYTES_MAX);
            for member in page["members"].as_array().expect("members") {
                let connections = member["connections"].as_array().expect("connections").len();
                *users.entry(member["user"].as_str().expect("a user").to_owned()).or_insert(0) += connections;
            }
            let Some(cursor) = page["cursor"].as_str() else { break };
            world.say(watcher, &[&format!(r#"{{"type":"presence","roomId":"r","id":7,"cursor":"{cursor}"}}"#)]);
            page = world.take(watcher).into_iter().find(|message| message["type"] == "presence_state").expect("a page");
            assert_eq!(page["id"], 7);
        }
        assert!(pages >= 3, "{pages}");
        assert_eq!(users.len(), 176);
        assert!(users.iter().all(|(user, count)| *count == if user == "watcher" { 1 } else { 2 }));
        world.say(watcher, &[r#"{"type":"presence","roomId":"r","id":8,"cursor":"AAAAAAAAAAA"}"#]);
        let error = world.take(watcher).pop().expect("an error");
        assert_eq!((&error["code"], &error["id"]), (&"bad_cursor".into(), &8.into()));
        world.end_all();
    }
}

/// Many come at once with large states: what is told of them does not fit in one frame.
#[test]
fn a_diff_longer_than_a_page_comes_in_several_that_follow_each_other() {
    const MEMBERS: usize = 60;
    let mut world = World::new(WorldConfig { slots: 100, ..WorldConfig::default() });
    let witness = world.v1(0, "witness");
    world.say(witness, &[r#"{"type":"join_room","roomId":"r","presence":true,"seq":1}"#]);
    world.pass(1_000);
    let mut watched = Watched::default();
    world.take(witness).iter().for_each(|message| watched.hear(message));
    let members: Vec<usize> = (0..MEMBERS).map(|number| world.v1(0, &format!("user-{number}"))).collect();
    let state = "s".repeat(1_000);
    for &member in &members {
        world.send(member, &format!(r#"{{"type":"join_room","roomId":"r","state":"{state}","seq":1}}"#));
    }
    world.pass(2_000);
    let got = world.take(witness);
    assert!(got.iter().filter(|message| message["type"] == "presence_diff").count() > 1);
    got.iter().for_each(|message| watched.hear(message));
    assert!(!watched.stale, "no version is left out");
    assert_eq!(watched.list.as_ref().expect("a list").len(), MEMBERS + 1);
    world.end_all();
}

/// Nobody is told any more, so nothing is kept to be told.
#[test]
fn a_diff_is_dropped_when_the_last_who_watches_has_left() {
    let mut world = World::new(WorldConfig::default());
    let (watcher, other) = (world.v1(0, "ann"), world.v1(0, "bob"));
    world.say(watcher, &[r#"{"type":"join_room","roomId":"r","presence":true,"seq":1}"#]);
    world.pass(1_000);
    world.say(other, &[r#"{"type":"join_room","roomId":"r","seq":1}"#]);
    world.say(watcher, &[r#"{"type":"leave_room","roomId":"r","seq":2}"#]);
    let told = world.sum(|stats| stats.presence_diffs);
    world.pass(1_000);
    assert_eq!(world.sum(|stats| stats.presence_diffs), told);
    world.end_all();
}
