//! Who is in a room, as far as the server has told: a snapshot in pages, then diffs that each apply to the version before (PROTOCOL
//! §5).
//!
//! Decides when the list can be trusted and what to ask where it cannot. A snapshot may be ahead of its version by what the next diff
//! tells, so diffs put and take away instead of insisting on what was there; and they are applied between pages too, so that pages
//! of different moments still make one list.
//!
//! Invariant: at most [`PRESENCE_CONNECTIONS_MAX`] connections of [`PRESENCE_BYTES_MAX`] bytes are held, whatever is sent.

use super::event::{PresenceChange, PresenceEntry};
use super::limits::{PRESENCE_BYTES_MAX, PRESENCE_CONNECTIONS_MAX, SNAPSHOT_RESTARTS_MAX};
use super::message::{Change, Entry, Roster, entries, members};
use std::collections::BTreeMap;

/// A user in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// What the server knows of the user, raw JSON.
    pub info: Option<Box<str>>,
    /// The states of the user's connections in the room (raw JSON), by their ids.
    pub connections: BTreeMap<Box<str>, Option<Box<str>>>,
}

/// The presence of one room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    users: BTreeMap<Box<str>, Member>,
    counts: Option<(u64, u64)>,
    epoch: Box<str>,
    version: u64,
    sync: Sync,
    connections: usize,
    bytes: usize,
    restarts: u32,
}

/// How far the list can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sync {
    /// Nothing is known, or a diff was missed.
    #[default]
    Unknown,
    /// Some pages of a snapshot are here.
    Paging,
    /// It is what the server has at `version`.
    Current,
}

/// What is to be done after a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Nothing,
    Changed(PresenceChange),
    /// Ask for the page at this cursor; for the first without one.
    Ask(Option<Box<str>>),
}

impl Presence {
    /// The users, in the order of their names, with their connections. Empty where only counts are known.
    pub fn users(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.users.iter().map(|(user, member)| (&**user, member))
    }

    /// How many users are in the room.
    pub fn user_count(&self) -> u64 {
        self.counts.map_or(self.users.len() as u64, |(users, _)| users)
    }

    /// How many connections are in the room.
    pub fn connection_count(&self) -> u64 {
        self.counts.map_or(self.connections as u64, |(_, connections)| connections)
    }

    /// True if the room is too large for a list, so that only the counts are known.
    pub fn is_counted_only(&self) -> bool {
        self.counts.is_some()
    }

    /// True if the list is whole and no change is known to be missing. False from a lost connection until the next snapshot.
    pub fn is_current(&self) -> bool {
        self.sync == Sync::Current
    }

    /// What a resume tells the server: the version that the list has.
    pub(crate) fn version(&self) -> Option<u64> {
        self.is_current().then_some(self.version)
    }

    /// The connection is gone: pages that were asked for will not come.
    pub(crate) fn interrupt(&mut self) {
        if self.sync == Sync::Paging {
            self.sync = Sync::Unknown;
        }
    }

    /// The list can no longer be trusted.
    pub(crate) fn invalidate(&mut self) {
        self.sync = Sync::Unknown;
    }

    /// A snapshot or its first page, unless `is_later_page`.
    pub(crate) fn handle_roster(&mut self, roster: &Roster<'_>, is_later_page: bool) -> Outcome {
        if !is_later_page {
            self.clear();
            (self.epoch, self.version) = (roster.epoch.as_ref().into(), roster.version);
        } else if self.sync != Sync::Paging {
            return Outcome::Nothing;
        } else if *self.epoch != *roster.epoch || self.version != roster.version {
            return self.restart();
        }
        if let Some(counts) = roster.counts {
            self.clear();
            return self.count(counts);
        }
        let Some(raw) = roster.members else { return Outcome::Nothing };
        for entry in members(raw) {
            if !self.put(entry) {
                return self.overflow();
            }
        }
        if let Some(cursor) = &roster.cursor {
            self.sync = Sync::Paging;
            return Outcome::Ask(Some(cursor.as_ref().into()));
        }
        self.sync = Sync::Current;
        self.restarts = 0;
        Outcome::Changed(PresenceChange::Replaced)
    }

    /// The cursor of a page was refused, or the pages did not fit together: begin again, a bounded number of times.
    pub(crate) fn restart(&mut self) -> Outcome {
        self.sync = Sync::Unknown;
        self.restarts += 1;
        if self.restarts > SNAPSHOT_RESTARTS_MAX {
            self.restarts = 0;
            return Outcome::Nothing;
        }
        Outcome::Ask(None)
    }

    /// A change.
    pub(crate) fn handle_diff(&mut self, epoch: &str, version: u64, change: &Change<'_>) -> Outcome {
        let (joins, leaves, updates) = match change {
            Change::Counts { users, connections } => {
                self.clear();
                (self.epoch, self.version) = (epoch.into(), version);
                return self.count((*users, *connections));
            }
            Change::Lists { joins, leaves, updates } => (*joins, *leaves, *updates),
        };
        let same_epoch = *self.epoch == *epoch;
        if self.sync == Sync::Unknown || (same_epoch && version <= self.version) {
            return Outcome::Nothing;
        }
        // Also when a room has shrunk back below the bound above which it is only counted.
        if !same_epoch || version != self.version + 1 || self.counts.is_some() {
            return self.restart();
        }
        self.version = version;
        entries(leaves).for_each(|entry| self.take(&entry));
        for entry in entries(joins).chain(entries(updates)) {
            if !self.put(entry) {
                return self.overflow();
            }
        }
        if self.sync == Sync::Paging {
            return Outcome::Nothing;
        }
        let list = |raw| entries(raw).map(told).collect();
        Outcome::Changed(PresenceChange::Changed { joins: list(joins), leaves: list(leaves), updates: list(updates) })
    }

    fn clear(&mut self) {
        self.users.clear();
        (self.connections, self.bytes, self.counts) = (0, 0, None);
    }

    fn count(&mut self, counts: (u64, u64)) -> Outcome {
        self.counts = Some(counts);
        self.sync = Sync::Current;
        Outcome::Changed(PresenceChange::Counts { users: counts.0, connections: counts.1 })
    }

    /// More than this client holds: it goes on with the numbers that it has.
    fn overflow(&mut self) -> Outcome {
        let counts = (self.users.len() as u64, self.connections as u64);
        self.clear();
        self.count(counts)
    }

    /// Adds or replaces a connection; false at a bound.
    fn put(&mut self, entry: Entry<'_>) -> bool {
        let member = self.users.entry(entry.user.as_ref().into()).or_default();
        if let Some(info) = entry.info {
            let old = member.info.replace(info.into());
            self.bytes = self.bytes + info.len() - old.map_or(0, |info| info.len());
        }
        self.bytes += size(&entry.user, &entry.id, entry.state);
        match member.connections.insert(entry.id.as_ref().into(), entry.state.map(Into::into)) {
            Some(old) => self.bytes -= size(&entry.user, &entry.id, old.as_deref()),
            None => self.connections += 1,
        }
        self.connections <= PRESENCE_CONNECTIONS_MAX && self.bytes <= PRESENCE_BYTES_MAX
    }

    fn take(&mut self, entry: &Entry<'_>) {
        let Some(member) = self.users.get_mut(&*entry.user) else { return };
        if let Some(state) = member.connections.remove(&*entry.id) {
            self.connections -= 1;
            self.bytes -= size(&entry.user, &entry.id, state.as_deref());
        }
        if member.connections.is_empty() {
            self.bytes -= member.info.as_ref().map_or(0, |info| info.len());
            self.users.remove(&*entry.user);
        }
    }
}

fn size(user: &str, id: &str, state: Option<&str>) -> usize {
    user.len() + id.len() + state.map_or(0, str::len)
}

fn told(entry: Entry<'_>) -> PresenceEntry {
    PresenceEntry { user: entry.user.as_ref().into(), id: entry.id.as_ref().into(), state: entry.state.map(Into::into) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::message::{Frame, decode};

    fn page(presence: &mut Presence, version: u64, members: &str, cursor: &str, later: bool) -> Outcome {
        let text =
            format!(r#"{{"type":"presence_state","roomId":"r","epoch":"e","version":{version},"members":[{members}]{cursor}}}"#);
        let Some(Frame::PresenceState { roster, .. }) = decode(&text) else { panic!("{text}") };
        presence.handle_roster(&roster, later)
    }

    fn diff(presence: &mut Presence, version: u64, lists: &str) -> Outcome {
        let text = format!(r#"{{"type":"presence_diff","roomId":"r","epoch":"e","version":{version},{lists}}}"#);
        let Some(Frame::PresenceDiff { epoch, version, change, .. }) = decode(&text) else { panic!("{text}") };
        presence.handle_diff(&epoch, version, &change)
    }

    fn shown(presence: &Presence) -> String {
        let user = |(user, member): (&str, &Member)| {
            let states = member.connections.iter().map(|(id, state)| format!("{id}={}", state.as_deref().unwrap_or("")));
            format!("{user}:{}", states.collect::<Vec<_>>().join(","))
        };
        presence.users().map(user).collect::<Vec<_>>().join(" ")
    }

    const ADA: &str = r#"{"user":"ada","info":{"n":1},"connections":[{"id":"1","state":7},{"id":"2"}]}"#;
    const BOB: &str = r#"{"user":"bob","connections":[{"id":"3"}]}"#;

    #[test]
    fn pages_and_the_diffs_between_them_make_one_list() {
        let mut presence = Presence::default();
        assert_eq!(page(&mut presence, 5, ADA, r#","cursor":"c""#, false), Outcome::Ask(Some("c".into())));
        assert!(!presence.is_current());
        let lists =
            r#""joins":[{"user":"bob","id":"3"}],"leaves":[{"user":"ada","id":"2"}],"updates":[{"user":"ada","id":"1","state":8}]"#;
        assert_eq!(diff(&mut presence, 6, lists), Outcome::Nothing);
        assert_eq!(page(&mut presence, 6, BOB, "", true), Outcome::Changed(PresenceChange::Replaced));
        assert_eq!(shown(&presence), "ada:1=8 bob:3=");
        assert_eq!((presence.version(), presence.user_count(), presence.connection_count()), (Some(6), 2, 2));
    }

    #[test]
    fn a_missed_diff_is_asked_for_and_an_old_one_passed_over() {
        let mut presence = Presence::default();
        page(&mut presence, 5, ADA, "", false);
        let gone = r#""joins":[],"leaves":[{"user":"ada","id":"1"}],"updates":[]"#;
        assert_eq!(diff(&mut presence, 5, gone), Outcome::Nothing);
        assert_eq!(shown(&presence), "ada:1=7,2=");
        assert_eq!(diff(&mut presence, 7, gone), Outcome::Ask(None));
        assert_eq!(diff(&mut presence, 8, gone), Outcome::Nothing, "one question at a time");
        assert_eq!(presence.version(), None);
    }

    #[test]
    fn pages_that_never_fit_together_are_not_asked_for_without_end() {
        let mut presence = Presence::default();
        let mut asked = 0;
        for version in 0..100 {
            page(&mut presence, version, ADA, r#","cursor":"c""#, false);
            asked += usize::from(page(&mut presence, version + 50, BOB, "", true) == Outcome::Ask(None));
        }
        assert!(asked > 0 && asked <= 100 * SNAPSHOT_RESTARTS_MAX as usize / (SNAPSHOT_RESTARTS_MAX as usize + 1) + 1, "{asked}");
    }

    #[test]
    fn the_account_of_bytes_returns_to_zero() {
        let mut presence = Presence::default();
        page(&mut presence, 1, &format!("{ADA},{BOB}"), "", false);
        for version in 2..1_000 {
            diff(&mut presence, version, &format!(r#""updates":[{{"user":"ada","id":"1","state":{version}}}]"#));
        }
        let all = r#""leaves":[{"user":"ada","id":"1"},{"user":"ada","id":"2"},{"user":"bob","id":"3"}]"#;
        diff(&mut presence, 1_000, all);
        assert_eq!((presence.bytes, presence.connections, presence.users.len()), (0, 0, 0));
    }

    #[test]
    fn more_than_the_bound_is_only_counted() {
        let mut presence = Presence::default();
        page(&mut presence, 1, ADA, "", false);
        for version in 2.. {
            let Outcome::Changed(change) = diff(&mut presence, version, &format!(r#""joins":[{{"user":"u{version}","id":"1"}}]"#))
            else {
                panic!("a change")
            };
            if let PresenceChange::Counts { connections, .. } = change {
                assert_eq!(connections, PRESENCE_CONNECTIONS_MAX as u64 + 1);
                break;
            }
        }
        assert!(presence.is_counted_only() && presence.users().next().is_none());
    }
}
