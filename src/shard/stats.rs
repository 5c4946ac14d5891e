//! What a shard counts, in plain integers. The driver publishes copies; the control plane turns them into metrics.
//!
//! A *counter* only grows. A *gauge* is what is held now, and returns to zero when everything has been closed.

use crate::close::CloseReason;

/// Why an upgrade request was answered with an HTTP status. Index of [`Stats::refusals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// 400: malformed, or an unknown subprotocol only.
    BadRequest,
    /// 404: not an endpoint.
    NotFound,
    /// 405: not GET.
    Method,
    /// 408: the request did not come within the deadline.
    Timeout,
    /// 426: not an upgrade, or not version 13.
    UpgradeRequired,
    /// 431: head too large or too many headers.
    HeadTooLarge,
    /// 503: no connection free.
    Capacity,
    /// 503: the server drains.
    Draining,
    /// 503: memory runs short.
    Memory,
    /// 505: not HTTP/1.1.
    HttpVersion,
}

impl Refusal {
    /// Every refusal, in discriminant order.
    pub const ALL: [Refusal; 10] = [
        Refusal::BadRequest,
        Refusal::NotFound,
        Refusal::Method,
        Refusal::Timeout,
        Refusal::UpgradeRequired,
        Refusal::HeadTooLarge,
        Refusal::Capacity,
        Refusal::Draining,
        Refusal::Memory,
        Refusal::HttpVersion,
    ];
    /// Value of the `reason` label of the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Refusal::BadRequest => "bad_request",
            Refusal::NotFound => "not_found",
            Refusal::Method => "method",
            Refusal::Timeout => "timeout",
            Refusal::UpgradeRequired => "upgrade_required",
            Refusal::HeadTooLarge => "head_too_large",
            Refusal::Capacity => "capacity",
            Refusal::Draining => "draining",
            Refusal::Memory => "memory",
            Refusal::HttpVersion => "http_version",
        }
    }
}

/// What flexible memory is held for. Index of [`Stats::memory_bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryUse {
    /// Partial frames, fragmented messages and partial upgrade requests.
    Assembler,
    /// Commands that wait for an earlier `seq`.
    Reorder,
    /// Frames that are queued for at least one socket or lane and kept by no history.
    Frames,
    /// Per-connection lists of queued frames.
    Backlog,
    /// Presence states at their home.
    PresenceState,
    /// Room and user ids too long for their record.
    Ids,
    /// Room records with their member lists.
    Rooms,
    /// Unread input of paused connections.
    Unread,
    /// Publications that rooms keep: their frames, in whatever queue these are besides, and their records.
    History,
}

impl MemoryUse {
    /// Every use, in discriminant order.
    pub const ALL: [MemoryUse; 9] = [
        MemoryUse::Assembler,
        MemoryUse::Reorder,
        MemoryUse::Frames,
        MemoryUse::Backlog,
        MemoryUse::PresenceState,
        MemoryUse::Ids,
        MemoryUse::Rooms,
        MemoryUse::Unread,
        MemoryUse::History,
    ];
    /// Value of the `use` label of the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            MemoryUse::Assembler => "assembler",
            MemoryUse::Reorder => "reorder",
            MemoryUse::Frames => "frames",
            MemoryUse::Backlog => "backlog",
            MemoryUse::PresenceState => "presence_state",
            MemoryUse::Ids => "ids",
            MemoryUse::Rooms => "rooms",
            MemoryUse::Unread => "unread",
            MemoryUse::History => "history",
        }
    }
}

/// Counters and gauges of one shard.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Gauge: upgraded connections (`ws_active_connections`).
    pub connections_active: u64,
    /// Gauge: sockets held, upgrading, open or closing.
    pub sockets_held: u64,
    /// Counter: upgraded connections (`ws_connections_total`).
    pub connections_total: u64,
    /// Counter: connections that ended by an error of the peer or the network (`ws_connection_errors`).
    pub connection_errors: u64,
    /// Counter: upgraded connections that closed abnormally (`ws_abnormal_closes`).
    pub abnormal_closes: u64,
    /// Counter: closes of upgraded connections by [`CloseReason`].
    pub closes: [u64; CloseReason::COUNT],
    /// Counter: HTTP refusals by [`Refusal`].
    pub refusals: [u64; Refusal::ALL.len()],
    /// Gauge: memberships of live connections (`ws_room_subscriptions`).
    pub room_subscriptions: u64,
    /// Gauge: memberships whose connection is gone but whose leave is not yet sent to the home.
    pub leaves_owed: u64,
    /// Gauge: what the last whole lap of the audit found (`ws_orphaned_subscriptions`).
    pub orphaned_subscriptions: u64,
    /// Counter: laps of the audit.
    pub audit_laps: u64,
    /// Counter: leaves for which the home knew no membership (`ws_room_leave_failures`).
    pub room_leave_failures: u64,
    /// Gauge: sessions, with or without a connection.
    pub sessions: u64,
    /// Gauge: sessions in their presence grace.
    pub sessions_detached: u64,
    /// Gauge: users known to this shard.
    pub users: u64,
    /// Gauge: rooms whose home is this shard.
    pub rooms_home: u64,
    /// Gauge: of these, rooms without a member.
    pub rooms_idle: u64,
    /// Counter: idle rooms forgotten before their time.
    pub rooms_evicted: u64,
    /// Gauge: publications that rooms of this home keep.
    pub history_publications: u64,
    /// Counter: publications that a history gave up before their age: for a bound of the room or of the shard.
    pub history_evicted: u64,
    /// Counter: of these, because memory ran short.
    pub history_pressed: u64,
    /// Counter: joins and lagging members that a history was read for.
    pub recoveries: u64,
    /// Counter: of these, lagging members, whose position took the place of a queue.
    pub lagging: u64,
    /// Counter: `gap` frames sent: a history had overtaken a member.
    pub gaps_sent: u64,
    /// Counter: sessions that went on over a new connection.
    pub sessions_resumed: u64,
    /// Counter: resumes that named no session that could go on: expired, unknown, forged, or of another user.
    pub resumes_failed: u64,
    /// Counter: of the resumed sessions, those whose old connection was still open.
    pub taken_over: u64,
    /// Gauge: sessions without a connection that may be resumed.
    pub sessions_resumable: u64,
    /// Counter: sessions without a connection that gave way before their time, because there were more than there are places for.
    pub resumables_evicted: u64,
    /// Counter: connections given to the shard that has their session.
    pub handed_over: u64,
    /// Counter: connections taken from other shards.
    pub adopted: u64,
    /// Counter: connections that the other shard had no place for.
    pub not_handed_over: u64,
    /// Counter: publications that were read from a history for a member.
    pub recovered: u64,
    /// Gauge: rooms with a member on this shard.
    pub rooms_local: u64,
    /// Gauge: presences at this home.
    pub presences: u64,
    /// Counter: connections reaped because they answered nothing.
    pub ghosts_reaped: u64,
    /// Counter: pings sent.
    pub pings_sent: u64,
    /// Counter: pongs received.
    pub pongs_received: u64,
    /// Counter: frames received.
    pub frames_in: u64,
    /// Counter: frames handed to sockets.
    pub frames_out: u64,
    /// Counter: bytes received on sockets.
    pub bytes_in: u64,
    /// Counter: bytes handed to sockets.
    pub bytes_out: u64,
    /// Counter: messages received (data frames, assembled).
    pub messages_in: u64,
    /// Counter: publications accepted by rooms of this home.
    pub publications: u64,
    /// Counter: deliveries of publications to members.
    pub deliveries: u64,
    /// Counter: sends, each of one or more frames.
    pub sends: u64,
    /// Counter: sends that the socket did not take whole.
    pub sends_short: u64,
    /// Gauge: bytes that wait for slow sockets, counted once a connection.
    pub send_queue_bytes: u64,
    /// Counter: `error` frames sent.
    pub errors_sent: u64,
    /// Counter: `nack` frames sent.
    pub nacks_sent: u64,
    /// Counter: commands that came again and were not executed again.
    pub duplicates: u64,
    /// Counter: commands that came before their turn and were kept.
    pub reordered: u64,
    /// Counter: times that a connection's reading was paused.
    pub pauses: u64,
    /// Counter: commands that found their lane full, and messages of a home that waited for one.
    pub lane_waits: u64,
    /// Counter: mesh messages sent.
    pub mesh_out: u64,
    /// Counter: mesh messages handled.
    pub mesh_in: u64,
    /// Counter: turns that ended with fan-out left for the next.
    pub fanout_pauses: u64,
    /// Counter: presence diffs and counts sent.
    pub presence_diffs: u64,
    /// Gauge: flexible memory held, by [`MemoryUse`], in bytes.
    pub memory_bytes: [u64; MemoryUse::ALL.len()],
}

impl Stats {
    /// Flexible memory held for all uses, in bytes.
    pub fn memory_bytes_held(&self) -> u64 {
        self.memory_bytes.iter().sum()
    }
    /// Adds to what is held for one use.
    pub fn charge(&mut self, memory_use: MemoryUse, bytes: usize) {
        self.memory_bytes[memory_use as usize] += bytes as u64;
    }
    /// Takes from what is held for one use.
    ///
    /// # Panics
    /// If more is returned than was charged: an accounting bug.
    pub fn release(&mut self, memory_use: MemoryUse, bytes: usize) {
        let held = &mut self.memory_bytes[memory_use as usize];
        *held = held.checked_sub(bytes as u64).expect("released more than was charged");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_each_reason_and_use_is_its_own_place() {
        let refusals: Vec<&str> = Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
        let uses: Vec<&str> = MemoryUse::ALL.iter().map(|memory_use| memory_use.label()).collect();
        for labels in [&refusals, &uses] {
            assert!((0..labels.len()).all(|place| !labels[..place].contains(&labels[place])), "{labels:?}");
        }
        assert!(Refusal::ALL.iter().enumerate().all(|(place, refusal)| *refusal as usize == place));
        assert!(MemoryUse::ALL.iter().enumerate().all(|(place, memory_use)| *memory_use as usize == place));
    }

    #[test]
    #[should_panic(expected = "released more than was charged")]
    fn more_cannot_be_released_than_was_charged() {
        let mut stats = Stats::default();
        stats.charge(MemoryUse::Rooms, 5);
        stats.release(MemoryUse::Ids, 1);
    }
}
