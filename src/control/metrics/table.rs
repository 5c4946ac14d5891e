//! Which count of a snapshot is which series: name, type, HELP text.

use super::super::data_plane::Snapshot;

/// Type of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// What is held now.
    Gauge,
}

/// One series.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) value: fn(&Snapshot) -> u64,
}

macro_rules! rows {
    ($($kind:ident $name:literal = $part:ident.$field:ident, $help:literal;)*) => {
        &[$(Row { name: $name, kind: Kind::$kind, help: $help, value: |snapshot| snapshot.$part.$field },)*]
    };
}

/// Sums over the shards, without labels.
pub(super) const TOTALS: &[Row] = rows! {
    Gauge "ws_active_connections" = shard.connections_active, "Upgraded connections that are open";
    Counter "ws_connections_total" = shard.connections_total, "Connections upgraded since the start";
    Counter "ws_connection_errors" = shard.connection_errors, "Connections ended by an error of the peer or the network";
    Counter "ws_abnormal_closes" = shard.abnormal_closes, "Upgraded connections that closed abnormally";
    Gauge "ws_room_subscriptions" = shard.room_subscriptions, "Memberships of live connections";
    Gauge "ws_orphaned_subscriptions" = shard.orphaned_subscriptions, "Memberships without a live connection, found by the last whole audit";
    Counter "ws_room_leave_failures" = shard.room_leave_failures, "Leaves for which the room knew no membership";
};

/// One series per shard, with the label `shard`.
pub(super) const SHARD_SERIES: &[Row] = rows! {
    Gauge "throng_shard_connections" = shard.connections_active, "Upgraded connections that are open";
    Gauge "throng_sockets" = shard.sockets_held, "Sockets held: upgrading, open or closing";
    Gauge "throng_memberships" = shard.room_subscriptions, "Memberships of live connections";
    Gauge "throng_leaves_owed" = shard.leaves_owed, "Memberships of ended connections whose leave is not yet sent to the room";
    Counter "throng_audit_laps_total" = shard.audit_laps, "Whole walks of the audit over memberships and rooms";
    Gauge "throng_sessions" = shard.sessions, "Sessions, with or without a connection";
    Gauge "throng_sessions_detached" = shard.sessions_detached, "Sessions whose connection broke off and whose presence stays for the grace";
    Gauge "throng_users" = shard.users, "Users known to the shard";
    Gauge "throng_rooms" = shard.rooms_home, "Rooms whose home is the shard";
    Gauge "throng_rooms_idle" = shard.rooms_idle, "Of these, rooms without a member";
    Counter "throng_rooms_evicted_total" = shard.rooms_evicted, "Idle rooms forgotten before their time";
    Gauge "throng_history_publications" = shard.history_publications, "Publications that rooms keep";
    Counter "throng_history_evicted_total" = shard.history_evicted, "Publications given up before their age, for a bound";
    Counter "throng_history_pressed_total" = shard.history_pressed, "Of these, because memory ran short";
    Counter "throng_sessions_resumed_total" = shard.sessions_resumed, "Sessions that went on over a new connection";
    Counter "throng_resumes_failed_total" = shard.resumes_failed, "Resumes that named no session that could go on";
    Counter "throng_sessions_taken_over_total" = shard.taken_over, "Resumed sessions whose old connection was still open";
    Gauge "throng_sessions_resumable" = shard.sessions_resumable, "Sessions without a connection that may be resumed";
    Counter "throng_resumables_evicted_total" = shard.resumables_evicted, "Resumable sessions that gave way before their time, for want of places";
    Counter "throng_connections_handed_over_total" = shard.handed_over, "Connections given to the shard that has their session";
    Counter "throng_connections_not_handed_over_total" = shard.not_handed_over, "Connections that the shard of their session had no place for";
    Counter "throng_recoveries_total" = shard.recoveries, "Joins and lagging members that a history was read for";
    Counter "throng_lagging_total" = shard.lagging, "Members whose queue was given up for a position in the history";
    Counter "throng_gaps_sent_total" = shard.gaps_sent, "Members told that a history had overtaken them";
    Counter "throng_recovered_total" = shard.recovered, "Publications read from a history for a member";
    Gauge "throng_rooms_local" = shard.rooms_local, "Rooms with a member on the shard";
    Gauge "throng_presences" = shard.presences, "Presences that the shard keeps";
    Counter "throng_presence_diffs_total" = shard.presence_diffs, "Presence diffs and counts sent";
    Counter "throng_ghosts_reaped_total" = shard.ghosts_reaped, "Connections closed because they answered nothing";
    Counter "throng_pings_sent_total" = shard.pings_sent, "Pings sent";
    Counter "throng_pongs_received_total" = shard.pongs_received, "Pongs received";
    Counter "throng_frames_in_total" = shard.frames_in, "Frames received";
    Counter "throng_frames_out_total" = shard.frames_out, "Frames handed to sockets";
    Counter "throng_bytes_in_total" = shard.bytes_in, "Bytes received";
    Counter "throng_bytes_out_total" = shard.bytes_out, "Bytes handed to sockets";
    Counter "throng_messages_in_total" = shard.messages_in, "Messages received, assembled from their frames";
    Counter "throng_publications_total" = shard.publications, "Publications accepted by rooms of the shard";
    Counter "throng_deliveries_total" = shard.deliveries, "Deliveries of publications to members";
    Counter "throng_sends_total" = shard.sends, "Sends, each of one or more frames";
    Counter "throng_sends_short_total" = shard.sends_short, "Sends that the socket did not take whole";
    Gauge "throng_send_queue_bytes" = shard.send_queue_bytes, "Bytes that wait for slow sockets";
    Counter "throng_errors_sent_total" = shard.errors_sent, "Error frames sent";
    Counter "throng_nacks_sent_total" = shard.nacks_sent, "Nack frames sent";
    Counter "throng_duplicates_total" = shard.duplicates, "Commands that came again and were not executed again";
    Counter "throng_reordered_total" = shard.reordered, "Commands that came before their turn and were kept";
    Counter "throng_pauses_total" = shard.pauses, "Times that reading a connection was paused";
    Counter "throng_lane_waits_total" = shard.lane_waits, "Messages that found a lane between shards full and waited";
    Counter "throng_mesh_out_total" = shard.mesh_out, "Messages sent to other shards";
    Counter "throng_mesh_in_total" = shard.mesh_in, "Messages of other shards handled";
    Counter "throng_fanout_pauses_total" = shard.fanout_pauses, "Turns that ended with fan-out left for the next";
    Counter "throng_turns_total" = driver.turns, "Turns of the loop";
    Counter "throng_syscalls_total" = driver.enters, "io_uring_enter calls";
    Counter "throng_submissions_total" = driver.submissions, "Operations submitted";
    Counter "throng_completions_total" = driver.completions, "Completions handled";
    Counter "throng_ring_overflows_total" = driver.overflows, "Times that the completion queue was too small";
    Counter "throng_budgets_exhausted_total" = driver.budget_exhausted, "Turns that left completions to the next";
    Counter "throng_early_submits_total" = driver.early_submits, "Submissions in the middle of a turn, because a queue or the scratch was full";
    Counter "throng_submit_retries_total" = driver.submit_retries, "Submissions that the kernel took only in part";
    Counter "throng_buffers_exhausted_total" = driver.enobufs, "Receives ended because no buffer was free (ENOBUFS)";
    Counter "throng_receives_rearmed_total" = driver.rearms, "Receives armed again";
    Counter "throng_stale_completions_total" = driver.stale, "Completions of connections closed before";
    Counter "throng_accepts_total" = driver.accepted, "Connections accepted";
    Counter "throng_accept_pauses_total" = driver.accept_pauses, "Times that accepting was paused for want of slots";
    Gauge "throng_tls_connections" = driver.tls_connections, "Connections over TLS, those that shake hands too";
    Gauge "throng_tls_handshakes_open" = driver.handshakes_open, "TLS handshakes under way";
    Counter "throng_tls_failures_total" = driver.tls_failures, "Connections that TLS ended after their handshake";
    Gauge "throng_tls_bytes" = driver.tls_bytes, "Begins of records and sealed bytes that wait for their sockets";
    Counter "throng_probes_total" = driver.probes, "Sockets probed for a sign of life";
    Counter "throng_sends_failed_total" = driver.failed_sends, "Sends that failed";
    Counter "throng_doorbells_total" = driver.doorbells, "Doorbells rung at other shards";
    Counter "throng_lane_declines_total" = driver.lane_declines, "Times that the head of a lane had to wait for free places elsewhere";
    Counter "throng_lane_excess_total" = driver.lane_excess, "Messages that found their lane full although it had been said to have room; they waited";
    Counter "throng_stash_evictions_total" = driver.stash_evictions, "Paused connections ended because too many unread bytes were kept";
    Counter "throng_stalls_total" = driver.stalls, "Stalls of the loop that moved deadlines";
    Counter "throng_stall_ms_total" = driver.stall_ms, "Length of those stalls in ms";
    Gauge "throng_slots_used" = driver.slots_used, "Slots of the ring's file table in use";
    Gauge "throng_slots" = driver.slots, "Slots of the ring's file table";
    Gauge "throng_buffers" = driver.buffers, "Receive buffers";
    Gauge "throng_buffers_free" = driver.buffers_free, "The fewest receive buffers that were free of late";
    Gauge "throng_stash_bytes" = driver.stash_bytes, "Unread bytes kept for paused connections";
    Gauge "throng_stashes" = driver.stashes, "Paused connections with unread bytes";
    Gauge "throng_mesh_waiting" = driver.mesh_waiting, "Messages of other shards that wait";
};
