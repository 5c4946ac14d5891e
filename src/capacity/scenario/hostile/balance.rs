//! What the server holds, by its own gauges, and whether it holds the same as before.
//!
//! A gauge that the server does not have is a difference too: what can't be seen was not shown.

use crate::capacity::observe::Metrics;
use std::collections::BTreeMap;

/// Gauges that must come back to exactly what they were. The counters among them count what must never happen.
const SAME: [&str; 15] = [
    "ws_active_connections",
    "ws_room_subscriptions",
    "ws_orphaned_subscriptions",
    "ws_room_leave_failures",
    "throng_sockets",
    "throng_memberships",
    "throng_leaves_owed",
    "throng_sessions",
    "throng_sessions_detached",
    "throng_users",
    "throng_rooms_local",
    "throng_presences",
    "throng_slots_used",
    "throng_stashes",
    "throng_mesh_waiting",
];
/// Gauges that must be no higher than they were.
const NO_HIGHER: [&str; 2] = ["throng_send_queue_bytes", "throng_stash_bytes"];
/// Flexible memory by its use: no higher than it was.
const MEMORY: &str = "throng_memory_bytes";
/// Uses of memory that a room keeps for as long as it is remembered.
pub(super) const REMEMBERED_USES: [&str; 3] = ["ids", "rooms", "history"];

/// What is held at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Balance {
    same: BTreeMap<&'static str, Option<f64>>,
    no_higher: BTreeMap<String, f64>,
}

impl Balance {
    pub(super) fn of(metrics: &Metrics) -> Balance {
        let mut same: BTreeMap<_, _> = SAME.iter().map(|name| (*name, metrics.sum(name))).collect();
        let difference = |all: &str, part: &str| Some(metrics.sum(all)? - metrics.sum(part)?);
        same.insert("rooms with members", difference("throng_rooms", "throng_rooms_idle"));
        same.insert("receive buffers used up", difference("throng_buffers", "throng_buffers_free"));
        let mut no_higher: BTreeMap<_, _> =
            NO_HIGHER.iter().filter_map(|name| Some(((*name).to_owned(), metrics.sum(name)?))).collect();
        for (memory_use, bytes) in metrics.by_label(MEMORY, "use") {
            no_higher.insert(format!("{MEMORY} of {memory_use}"), bytes);
        }
        Balance { same, no_higher }
    }

    /// The same with what rooms are remembered by taken from another.
    pub(super) fn with_remembered_of(mut self, other: &Balance) -> Balance {
        for memory_use in REMEMBERED_USES {
            let name = format!("{MEMORY} of {memory_use}");
            if let Some(bytes) = other.no_higher.get(&name) {
                self.no_higher.insert(name, *bytes);
            }
        }
        self
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> Option<f64> {
        *self.same.get("ws_active_connections")?
    }

    /// What differs now from what was, each in words.
    pub(super) fn differences(&self, now: &Balance) -> Vec<String> {
        let mut differences = Vec::new();
        for (name, before) in &self.same {
            match (before, now.same.get(name).copied().flatten()) {
                (Some(before), Some(now)) if *before == now => {}
                (Some(before), Some(now)) => differences.push(format!("{name} is {now} and was {before}")),
                (_, None) | (None, _) => differences.push(format!("{name} is not among the server's metrics")),
            }
        }
        if self.no_higher.len() <= NO_HIGHER.len() {
            differences.push(format!("{MEMORY} is not among the server's metrics"));
        }
        for (name, before) in &self.no_higher {
            match now.no_higher.get(name) {
                Some(now) if now <= before => {}
                Some(now) => differences.push(format!("{name} is {now} and was {before}")),
                None => differences.push(format!("{name} is not among the server's metrics")),
            }
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(changed: &str, by: f64) -> Metrics {
        let mut text = String::new();
        for name in
            SAME.into_iter().chain(NO_HIGHER).chain(["throng_rooms", "throng_rooms_idle", "throng_buffers", "throng_buffers_free"])
        {
            let value = 5.0 + if name == changed { by } else { 0.0 };
            text.push_str(&format!("{name} {value}\n"));
        }
        for memory_use in ["rooms", "ids", "backlog"] {
            let value = 5.0 + if memory_use == changed { by } else { 0.0 };
            text.push_str(&format!("{MEMORY}{{use=\"{memory_use}\"}} {value}\n"));
        }
        Metrics::parse(&text)
    }

    #[test]
    fn each_gauge_that_does_not_come_back_is_named() {
        let before = Balance::of(&metrics("", 0.0));
        assert_eq!(before.differences(&before), Vec::<String>::new());
        for name in SAME {
            for by in [-1.0, 1.0] {
                let differences = before.differences(&Balance::of(&metrics(name, by)));
                assert!(differences.len() == 1 && differences[0].starts_with(name), "{differences:?}");
            }
        }
        for name in NO_HIGHER.into_iter().chain(["rooms", "backlog"]) {
            let differences = before.differences(&Balance::of(&metrics(name, 1.0)));
            assert!(differences.len() == 1 && differences[0].contains(name), "{differences:?}");
            assert_eq!(before.differences(&Balance::of(&metrics(name, -1.0))), Vec::<String>::new());
        }
        let lost = before.differences(&Balance::of(&metrics("throng_buffers_free", -1.0)));
        assert_eq!(lost, ["receive buffers used up is 1 and was 0"]);
    }

    #[test]
    fn a_gauge_that_is_not_there_is_a_difference() {
        let before = Balance::of(&metrics("", 0.0));
        let differences = before.differences(&Balance::of(&Metrics::parse("")));
        assert_eq!(differences.len(), SAME.len() + 2 + NO_HIGHER.len() + 3);
        let blind = Balance::of(&Metrics::parse(""));
        assert!(!blind.differences(&blind).is_empty());
    }

    #[test]
    fn what_rooms_are_remembered_by_can_be_taken_from_another_moment() {
        let (before, later) = (Balance::of(&metrics("", 0.0)), Balance::of(&metrics("rooms", 7.0)));
        assert_eq!(before.differences(&later).len(), 1);
        assert_eq!(before.with_remembered_of(&later).differences(&later), Vec::<String>::new());
    }
}
