//! The audit: walks memberships and member lists from both sides, a slice a second, and counts what one side knows and the other
//! doesn't. The result of each whole lap is `ws_orphaned_subscriptions`. It repairs nothing: an orphan is a bug to be seen.

use super::Shard;
use super::arena::{LocalIndex, MembershipIndex};
use super::connection::State;
use super::local::{NOWHERE, Stage};
use super::session::{NO_CONNECTION, Phase};
use crate::time::{Millis, Now};

/// Time between two slices, in ms.
const SLICE_EVERY_MS: u64 = 1_000;
/// Records looked at in one slice: about 1 ms.
const SLICE_RECORDS: usize = 16_384;

/// How far a lap got, and what it found.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    due: Millis,
    membership: usize,
    room: usize,
    place: usize,
    found: u64,
    /// The last lap found nothing and there was nothing to look at: no need to wake up for another.
    rests: bool,
}

impl Shard {
    pub(crate) fn audit_due(&self) -> Option<Millis> {
        let is_empty = self.memberships.len() == 0 && self.locals.is_empty();
        (!(self.audit.rests && is_empty)).then_some(self.audit.due)
    }

    pub(crate) fn audit_if_due(&mut self, now: Now) {
        if self.audit_due().is_none_or(|due| due > now.mono) {
            return;
        }
        self.audit.due = now.mono.after(SLICE_EVERY_MS);
        let mut budget = SLICE_RECORDS;
        while budget > 0 && self.audit.membership < self.memberships.extent() {
            let index = MembershipIndex(self.audit.membership as u32);
            self.audit.found += u64::from(!self.is_membership_sound(index));
            self.audit.membership += 1;
            budget -= 1;
        }
        while budget > 0 && self.audit.room < self.locals.capacity() {
            let index = LocalIndex(self.audit.room as u32);
            match self.local_places(index) {
                Some(places) if self.audit.place < places => {
                    self.audit.found += u64::from(!self.is_place_sound(index, self.audit.place));
                    self.audit.place += 1;
                }
                Some(_) | None => {
                    self.audit.room += 1;
                    self.audit.place = 0;
                }
            }
            budget -= 1;
        }
        if budget > 0 {
            self.stats.orphaned_subscriptions = self.audit.found;
            self.stats.audit_laps += 1;
            let is_empty = self.memberships.len() == 0 && self.locals.is_empty();
            self.audit = Audit { due: self.audit.due, rests: is_empty && self.audit.found == 0, ..Audit::default() };
        }
    }

    /// Whether a membership is one that a living session has, and whose place in the member list is its own.
    pub(crate) fn is_membership_sound(&self, index: MembershipIndex) -> bool {
        let Some(membership) = self.memberships.get(index) else { return true };
        let Some(session) = self.sessions.get(membership.session) else { return false };
        if self.locals.get(membership.room.0 as usize).is_none() {
            return false;
        }
        let is_listed = membership.position != NOWHERE;
        match membership.stage {
            // Until its connection is welcomed a member that is back is not listed before the home has answered for its room.
            Stage::Joined if session.connection != NO_CONNECTION => {
                let is_open = self.connections.get(session.connection as usize).is_some_and(|it| it.state == State::Open);
                (is_listed || !is_open) && session.phase == Phase::Attached
            }
            Stage::Leaving => session.phase == Phase::Attached || !is_listed,
            Stage::Joining | Stage::Joined => !is_listed && matches!(session.phase, Phase::Attached | Phase::Detached),
            Stage::Dormant | Stage::Departing | Stage::Owed | Stage::Abandoned => !is_listed,
        }
    }
}
