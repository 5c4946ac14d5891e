//! A client's view of who is present in a room, built as PROTOCOL §6 says: a snapshot in pages, then diffs that each apply to the
//! version before. A diff that doesn't follow fails the test.

use super::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Who is present: connection ids with their states, by user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roster {
    room: String,
    epoch: Value,
    version: u64,
    users: BTreeMap<String, BTreeMap<String, Value>>,
    /// Pages that the snapshot came in.
    pub pages: usize,
    /// Whether no diff was applied since the snapshot. A snapshot may be ahead of its version: it holds what the diff of the next
    /// version will tell, so that one diff may repeat what is already here, and only that one.
    fresh: bool,
}

impl Roster {
    /// From a `room_joined`, whose further pages are asked for.
    pub fn from_join(client: &mut Client, joined: &Value) -> Roster {
        let room = joined["roomId"].as_str().expect("room_joined names its room").to_owned();
        let mut roster = Roster { room, ..Roster::default() };
        roster.take_pages(client, joined.clone());
        roster
    }

    /// Asks for a snapshot of a room.
    pub fn ask(client: &mut Client, room: &str) -> Roster {
        let mut roster = Roster { room: room.to_owned(), ..Roster::default() };
        client.send(&json!({"type": "presence", "roomId": room, "id": "roster"}));
        let page = client.expect("presence_state");
        assert_eq!(page["id"], "roster", "an answer repeats the question's id: {page}");
        roster.take_pages(client, page);
        roster
    }

    /// The users present, in order.
    pub fn users(&self) -> Vec<&str> {
        self.users.keys().map(String::as_str).collect()
    }

    /// How many connections a user has here.
    pub fn connections(&self, user: &str) -> usize {
        self.users.get(user).map_or(0, BTreeMap::len)
    }

    /// The states of a user's connections, in the order of their ids.
    pub fn states(&self, user: &str) -> Vec<Value> {
        self.users.get(user).map(|ids| ids.values().cloned().collect()).unwrap_or_default()
    }

    /// The version that this view has.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Applies diffs until `reached` holds.
    pub fn follow_until(&mut self, client: &mut Client, reached: impl Fn(&Roster) -> bool) {
        while !reached(self) {
            let room = self.room.clone();
            let diff = client.expect_that("presence_diff", |frame| frame["roomId"] == room);
            self.apply(&diff);
        }
    }

    /// Applies one diff; one that the snapshot already contains is passed over.
    pub fn apply(&mut self, diff: &Value) {
        let version = diff["version"].as_u64().unwrap_or_else(|| panic!("a diff without version: {diff}"));
        if version <= self.version && diff["epoch"] == self.epoch {
            return;
        }
        assert_eq!(diff["epoch"], self.epoch, "the epoch stays: {diff}");
        assert_eq!(version, self.version + 1, "a diff applies to the version before: {diff}");
        self.version = version;
        let fresh = std::mem::take(&mut self.fresh);
        for leave in list(&diff["leaves"]) {
            let (user, id) = (text(&leave["user"]), text(&leave["id"]));
            // Who came and went between two diffs is told as a leave alone if anybody was shown it meanwhile.
            let Some(ids) = self.users.get_mut(user) else { continue };
            ids.remove(id);
            if ids.is_empty() {
                self.users.remove(user);
            }
        }
        for join in list(&diff["joins"]) {
            let ids = self.users.entry(text(&join["user"]).to_owned()).or_default();
            let before = ids.insert(text(&join["id"]).to_owned(), join["state"].clone());
            assert!(before.is_none() || fresh, "join of a connection that was there: {diff}");
        }
        for update in list(&diff["updates"]) {
            let state = self.users.get_mut(text(&update["user"])).and_then(|ids| ids.get_mut(text(&update["id"])));
            *state.unwrap_or_else(|| panic!("update of an unknown connection: {diff}")) = update["state"].clone();
        }
    }

    fn take_pages(&mut self, client: &mut Client, mut page: Value) {
        // A version that moves on between two pages would mix two snapshots: begin again.
        loop {
            let version = page["version"].as_u64().unwrap_or_else(|| panic!("a snapshot without version: {page}"));
            if self.pages > 0 && version != self.version {
                *self = Roster { room: std::mem::take(&mut self.room), ..Roster::default() };
                page = ask(client, &self.room, &Value::Null);
                continue;
            }
            (self.epoch, self.version) = (page["epoch"].clone(), version);
            self.pages += 1;
            for member in list(&page["members"]) {
                let ids = self.users.entry(text(&member["user"]).to_owned()).or_default();
                for connection in list(&member["connections"]) {
                    let before = ids.insert(text(&connection["id"]).to_owned(), connection["state"].clone());
                    assert!(before.is_none(), "a connection is on one page only: {page}");
                }
            }
            let cursor = page["cursor"].clone();
            if cursor.is_null() {
                self.fresh = true;
                return;
            }
            page = ask(client, &self.room, &cursor);
        }
    }
}

fn ask(client: &mut Client, room: &str, cursor: &Value) -> Value {
    let mut question = json!({"type": "presence", "roomId": room, "id": "page"});
    if !cursor.is_null() {
        question["cursor"] = cursor.clone();
    }
    client.send(&question);
    client.expect("presence_state")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}
