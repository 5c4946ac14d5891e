//! Bugs that can be planted in the core and in the client machine, to see that the instruments which judge it would notice them.
//!
//! This file names each bug and says whether it is planted. What goes wrong is a line or two where the real code is, which asks
//! `is_planted`; it knows nothing of how a bug is found. Without the feature `planted` that question is a constant `false`, and the
//! compiler leaves nothing of it. With the feature a bug is planted for one thread, by whoever tests; no part of the server does it.
//!
//! Invariant: each bug is reached by what clients, sockets and lanes do, without a hand inside the core.
#![forbid(unsafe_code)]

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// Every bug.
            pub const ALL: [Bug; [$($name),*].len()] = [$(Bug::$bug),*];

            /// Its name, in the manner of a metric.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Bug::$bug => $name,)*
                }
            }
        }
    };
}

bugs! {
    // ---- the end of a connection ----
    /// A reset frees the connection and not its session, which stays in its rooms.
    ResetSkipsCleanup = "reset_skips_cleanup",
    /// A connection that was silent after its ping is reaped without asking whether unread input waits in its socket.
    ReapBeforeProbe = "reap_before_probe",
    /// A connection that enters its first room keeps the longer heartbeat of those in no room until its timer fires.
    HeartbeatNotHastened = "heartbeat_not_hastened",
    /// A session whose connection broke off is not queued for the end of its grace: its presence stays for ever.
    PresenceGraceForgotten = "presence_grace_forgotten",
    /// A session that ends while its join is at the home owes no leave when the answer comes.
    AbandonedJoinStays = "abandoned_join_stays",
    /// A leave that is owed while its lane is full is forgotten.
    OwedLeaveDropped = "owed_leave_dropped",
    /// A drain passes over the first connection of each batch.
    DrainSkipsSome = "drain_skips_some",
    /// What waits for a slot's earlier connections is accepted for its present one.
    StaleGenerationAccepted = "stale_generation_accepted",
    /// A place of a table is listed as free twice when it is freed, so that two records get it.
    SlotFreedTwice = "slot_freed_twice",

    // ---- the order of commands ----
    /// A kept command is executed although the one number before it is still missing.
    ReorderOffByOne = "reorder_off_by_one",
    /// A number that a session without a window has used is executed again, as if it came without one.
    DuplicateExecuted = "duplicate_executed",
    /// A decision acknowledges everything before it, decided or not.
    AckBeforeDecided = "ack_before_decided",
    /// The bytes of a reorder buffer stay charged when it is given back.
    ReorderBytesNotReleased = "reorder_bytes_not_released",
    /// A connection that waits for a home a second time, before it held nothing, gets no place among those that wait.
    LostWakeup = "lost_wakeup",
    /// A connection whose session still has something undecided is not read on when all that it held is done.
    PauseNeverResumed = "pause_never_resumed",
    /// Input that comes for a connection that was paused in the meantime is thrown away.
    InputLostWhenPaused = "input_lost_when_paused",

    // ---- sending ----
    /// A frame for a backlogged connection passes the whole frames that wait, as only control frames may.
    SendPastBacklog = "send_past_backlog",
    /// The scratch begins anew above 4 KiB, under the sends that lie in it.
    ScratchReusedBeforeSettle = "scratch_reused_before_settle",
    /// The copy of a row of frames is taken for that of the next submission's row, whose frames have the same places.
    CopyOutlivesSettle = "copy_outlives_settle",
    /// A submission that leaves something for the next lets go of the frames of both.
    FrameFreedWhilePending = "frame_freed_while_pending",
    /// A close frame takes the place of the rest of a frame that is partly sent.
    CloseFrameInsideFrame = "close_frame_inside_frame",
    /// A slow reader's queue has no bound.
    SendQueueBoundIgnored = "send_queue_bound_ignored",

    // ---- rooms, and what shards say to each other ----
    /// A consequence waits until this shard's own consequence lanes have room, as a command does.
    ConsequenceWaitsOnLane = "consequence_waits_on_lane",
    /// A member that leaves under a pass stays in the list that the pass walks.
    LeaveDuringPassStillDelivers = "leave_during_pass_still_delivers",
    /// A member that joins under a pass gets what was published before it joined.
    JoinDuringPassDelivers = "join_during_pass_delivers",
    /// A shard whose last watcher leaves a room gets none of its publications any more, whatever members it has.
    ShardForgottenWithWatchers = "shard_forgotten_with_watchers",
    /// A volatile publication, which has no offset, uses one up.
    VolatileUsesOffset = "volatile_uses_offset",
    /// A room takes one member more than it may have.
    RoomHoldsOneTooMany = "room_holds_one_too_many",

    // ---- histories ----
    /// A member that has had everything up to the head is live at once, whatever is still under way to it.
    LiveBeforeHead = "live_before_head",
    /// A member that is behind gets live publications all the same.
    BehindGetsLive = "behind_gets_live",
    /// A member that begins to lag takes the publication that it had no place for as had.
    LagLosesOne = "lag_loses_one",
    /// A publication that a room gives up stays charged.
    HistoryNotReleased = "history_not_released",
    /// A history that has lost something says that it reaches back all the same.
    LossForgotten = "loss_forgotten",

    // ---- presence ----
    /// The leave of a session that is over removes the presence of the same user's other session, if it has one in the room.
    LateLeaveRemovesOtherPresence = "late_leave_removes_other_presence",
    /// A diff keeps the version of the one before it if somebody was shown the members in between.
    DiffVersionRepeated = "diff_version_repeated",
    /// A diff names a user without holding its record.
    DiffHoldsNoUser = "diff_holds_no_user",
    /// The state of a presence stays when the presence goes.
    StateNotFreed = "state_not_freed",
    /// A page of members that is full leaves out the member that the next page should begin with.
    PageSkipsMember = "page_skips_member",

    // ---- the client machine ----
    /// What a lost session may have had is sent again in a new one, whether it took effect or not.
    ClientResendsBlindly = "client_resends_blindly",
    /// What was never sent is forgotten with a session.
    ClientForgetsUnsent = "client_forgets_unsent",
    /// An acknowledgement covers the one command that it names.
    ClientAckCoversOne = "client_ack_covers_one",
    /// The window of delays never falls back to the first.
    ClientBackoffNotReset = "client_backoff_not_reset",
    /// The wait that the server advises is not waited.
    ClientIgnoresAdvice = "client_ignores_advice",
    /// A server that says nothing more is taken to be there.
    ClientTrustsSilence = "client_trusts_silence",
    /// The head of a room is taken for the client's position although what it missed is still to come.
    ClientSkipsRecovery = "client_skips_recovery",
    /// What is lost for good is told as recovered.
    ClientHidesGap = "client_hides_gap",
    /// The answer to a join of an earlier membership is taken for that of the present one.
    ClientTakesEarlierAnswer = "client_takes_earlier_answer",
    /// A room is joined again without the presence state that its application has set.
    ClientRejoinsWithoutState = "client_rejoins_without_state",
    /// The presence state of an earlier membership is set again in a new session.
    ClientSetsEarlierState = "client_sets_earlier_state",
    /// What may not have arrived is not sent again on the connection with which the session goes on.
    ClientResumesWithoutResending = "client_resumes_without_resending",
    /// What a `welcome` says of refusals that were not seen is passed over.
    ClientIgnoresFailed = "client_ignores_failed",
    /// The token of the first `welcome` is said at every resume.
    ClientKeepsOldToken = "client_keeps_old_token",
    /// Events that nobody had taken yet of a room that was left are told in its next membership.
    ClientTellsOfLeftRoom = "client_tells_of_left_room",
}

impl Bug {
    /// The bug of this name.
    pub fn of_name(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug for this thread in place of the one that is there, or removes it.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a bug is planted.
#[cfg(feature = "planted")]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether a bug is planted: never, in a build without the feature.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(crate) const fn is_planted(_bug: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bug_has_a_name_of_its_own() {
        for bug in Bug::ALL {
            assert_eq!(Bug::of_name(bug.name()), Some(bug));
        }
        assert_eq!(Bug::of_name("none"), None);
    }

    #[test]
    fn nothing_is_planted_unless_somebody_does() {
        assert!(Bug::ALL.into_iter().all(|bug| !is_planted(bug)));
    }

    #[cfg(feature = "planted")]
    #[test]
    fn a_bug_is_planted_for_one_thread_only() {
        plant(Some(Bug::LostWakeup));
        assert!(is_planted(Bug::LostWakeup) && !is_planted(Bug::SlotFreedTwice));
        std::thread::spawn(|| assert!(!is_planted(Bug::LostWakeup))).join().expect("it holds in the other thread");
        plant(None);
        assert!(!is_planted(Bug::LostWakeup));
    }
}
