//! Bugs that can be planted in the ring and the loop on it, to prove that their double would notice them.
//!
//! What goes wrong is one line where the real code is, which asks [`is_planted`]. But in unit tests that is a constant `false`, and
//! nothing of it is left. A bug is planted for one thread.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A completion is taken for its slot's present connection, whichever it was started for.
    StaleGenerationAccepted,
    /// A buffer that is used up goes back to the kernel twice.
    BufferRecycledTwice,
    /// The buffer of a completion that is nobody's any more stays out.
    StaleBufferKept,
    /// A buffer goes back to the kernel when a part of it is filled.
    BufferRecycledEarly,
    /// The first completion of each submission in the queue's overflow is lost.
    CompletionLost,
    /// The first failed send of a submission is taken for a success.
    ShortSendMissed,
    /// A submission is settled before its failed sends are told.
    SettledFirst,
    /// A slot is closed with its receive in flight.
    CloseWithoutCancel,
    /// A slot is closed while its shutdown is on its way.
    CloseBeforeShutdown,
    /// A receive that found no buffer is not armed again.
    NotArmedAgain,
    /// A receive is armed again although its cancellation is still on its way.
    ArmedTwice,
    /// Bytes that arrive for a paused connection are thrown away.
    PausedBytesDropped,
    /// What a paused connection has unread is not read when it is resumed.
    UnreadForgotten,
    /// The end of a paused connection is not noticed.
    HangupForgotten,
    /// A poll for room to send that has completed is taken for one in flight.
    WritableForgotten,
    /// A connection that was admitted counts for ever.
    NeverDismissed,
    /// No doorbell is rung at a shard that sleeps.
    DoorbellLost,
    /// The eventfd is not polled again when its multishot poll ends.
    WakeNotArmedAgain,
    /// Accepting is not begun again after an error of the machine.
    AcceptNotArmedAgain,
    /// A connection is given to another shard while its receive is in flight.
    MovedWithItsReceive,
    /// What a connection has not read stays behind when it goes to another shard.
    UnreadLeftBehind,
    /// The slot of a connection that has gone to another shard is not closed.
    GivenSlotKept,
    /// A shard that sleeps is not told that a connection has come.
    ArrivalNotAnnounced,
    /// A connection that arrives where there is no place for it counts for ever.
    RefusedArrivalCounted,
}

impl Bug {
    /// Every bug.
    #[cfg(test)]
    pub(crate) const ALL: [Bug; 24] = [
        Bug::StaleGenerationAccepted,
        Bug::BufferRecycledTwice,
        Bug::StaleBufferKept,
        Bug::BufferRecycledEarly,
        Bug::CompletionLost,
        Bug::ShortSendMissed,
        Bug::SettledFirst,
        Bug::CloseWithoutCancel,
        Bug::CloseBeforeShutdown,
        Bug::NotArmedAgain,
        Bug::ArmedTwice,
        Bug::PausedBytesDropped,
        Bug::UnreadForgotten,
        Bug::HangupForgotten,
        Bug::WritableForgotten,
        Bug::NeverDismissed,
        Bug::DoorbellLost,
        Bug::WakeNotArmedAgain,
        Bug::AcceptNotArmedAgain,
        Bug::MovedWithItsReceive,
        Bug::UnreadLeftBehind,
        Bug::GivenSlotKept,
        Bug::ArrivalNotAnnounced,
        Bug::RefusedArrivalCounted,
    ];
}

/// Whether the bug is planted in this thread.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn is_planted(_: Bug) -> bool {
    false
}

#[cfg(test)]
pub(crate) use planting::{is_planted, plant};

#[cfg(test)]
mod planting {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether the bug is planted in this thread.
    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Plants one bug in this thread, or takes it away.
    pub(crate) fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }
}
