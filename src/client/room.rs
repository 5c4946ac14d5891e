//! A room that the application has joined: where the client stands in it, and what it is owed (PROTOCOL §5, "Positions").
//!
//! Decides which publications are news: after a reconnect some come twice, and own ones come back. Knows no connection and no other
//! room.
//!
//! Invariant: offsets that are handed out only grow within an epoch.

use super::limits::ECHOES_MAX;
use super::presence::Presence;
use crate::planted::{Bug, is_planted};
use std::collections::VecDeque;
use std::sync::Arc;

/// A place in the numbering of a room's publications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch: an opaque text.
    pub epoch: Arc<str>,
    /// The last offset that was handled.
    pub offset: u64,
}

/// One of a client's successive memberships of a room, constant over reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership(pub u64);

impl Membership {
    /// No membership has this number.
    pub(crate) const NONE: Membership = Membership(0);
}

/// How a room is joined.
#[derive(Clone, Debug, Default)]
pub struct JoinOptions {
    /// Whether the client wants to know who is in the room. Default: no.
    pub presence: bool,
    /// The client's own presence state, raw JSON.
    pub state: Option<String>,
    /// Of the publications of one key only the newest is wanted (`mode: "latest"`). Default: all.
    pub latest: bool,
    /// Where an earlier run of the program stood in the room, to be told what came since.
    pub since: Option<Position>,
}

/// Where a room is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Asked for by the command with this number.
    Joining { seq: u64 },
    /// Its publications are ours.
    Joined,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) name: Arc<str>,
    pub(crate) membership: Membership,
    pub(crate) options: JoinOptions,
    pub(crate) phase: Phase,
    pub(crate) position: Option<Position>,
    /// What was missed ends with this offset: the room's head when it was joined again.
    recovering_to: Option<u64>,
    /// Numbers of own publications of this session whose copy is due, in order.
    echoes: VecDeque<u64>,
    /// The same of sessions that were lost: their copies can only come in a recovery.
    echoes_lost: VecDeque<(Arc<str>, u64)>,
    pub(crate) presence: Presence,
    /// The question about presence that is open.
    pub(crate) question: Option<u64>,
    /// It was for a further page.
    pub(crate) presence_pages: bool,
    /// It was refused for now.
    pub(crate) asks_again: bool,
}

/// What a publication is to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It is handed out.
    Message,
    /// It was handed out before.
    Duplicate,
    /// It is the client's own, and it wants no copy.
    Own,
}

impl Room {
    pub(crate) fn new(name: Arc<str>, membership: Membership, seq: u64, options: JoinOptions) -> Room {
        Room {
            name,
            membership,
            position: options.since.clone(),
            options,
            phase: Phase::Joining { seq },
            recovering_to: None,
            echoes: VecDeque::new(),
            echoes_lost: VecDeque::new(),
            presence: Presence::default(),
            question: None,
            presence_pages: false,
            asks_again: false,
        }
    }

    pub(crate) fn is_joined(&self) -> bool {
        self.phase == Phase::Joined
    }

    /// Whether an answer with this number is to a join of this membership, not of an earlier one.
    pub(crate) fn awaits(&self, seq: Option<u64>) -> bool {
        matches!(self.phase, Phase::Joining { seq: asked } if seq == Some(asked) || is_planted(Bug::ClientTakesEarlierAnswer))
    }

    /// The answer to a join: the room's head is `offset`. What was missed follows, or nothing does.
    pub(crate) fn joined(&mut self, epoch: &str, offset: u64, recovered: bool) {
        self.phase = Phase::Joined;
        self.recovering_to = None;
        match &self.position {
            Some(position) if recovered && !is_planted(Bug::ClientSkipsRecovery) && *position.epoch == *epoch => {
                self.recovering_to = (position.offset < offset).then_some(offset);
            }
            _ => self.position = Some(Position { epoch: epoch.into(), offset }),
        }
    }

    /// What was missed will not come: the position is this one.
    pub(crate) fn skip_to(&mut self, epoch: &str, offset: u64) -> Position {
        self.recovering_to = None;
        self.position.insert(Position { epoch: epoch.into(), offset }).clone()
    }

    /// The offsets up to `to` are lost in this epoch. Returns where that leaves the client; `None` if it was nowhere.
    pub(crate) fn lose(&mut self, to: u64) -> Option<Position> {
        let position = self.position.as_mut()?;
        position.offset = position.offset.max(to);
        Some(position.clone())
    }

    /// The room's name, if a question about it waits to be asked again. It is asked once.
    pub(crate) fn takes_question(&mut self) -> Option<Arc<str>> {
        std::mem::take(&mut self.asks_again).then(|| Arc::clone(&self.name))
    }

    /// Whether a recovery is under way.
    pub(crate) fn is_recovering(&self) -> bool {
        self.recovering_to.is_some()
    }

    /// Whether the recovery that was under way has just ended. True once.
    pub(crate) fn take_recovered(&mut self) -> bool {
        let Some((end, position)) = self.recovering_to.zip(self.position.as_ref()) else { return false };
        let ended = position.offset >= end;
        if ended {
            self.recovering_to = None;
        }
        ended
    }

    /// Judges a publication by its offset, and moves the position. `own` names one of our own by session and number: it comes so only
    /// in the recovery of a join, after that session was lost or, `is_current`, in it.
    pub(crate) fn judge(&mut self, offset: Option<u64>, own: Option<(&str, u64)>, is_current: bool) -> News {
        let Some(offset) = offset else { return News::Message };
        let Some(position) = &mut self.position else { return News::Duplicate };
        if offset <= position.offset {
            return News::Duplicate;
        }
        position.offset = offset;
        let Some((session, seq)) = own else { return News::Message };
        let is_due = if is_current {
            let place = self.echoes.iter().position(|due| *due == seq);
            place.and_then(|place| self.echoes.remove(place)).is_some()
        } else {
            let place = self.echoes_lost.iter().position(|(lost, due)| *due == seq && **lost == *session);
            place.and_then(|place| self.echoes_lost.remove(place)).is_some()
        };
        if is_due { News::Message } else { News::Own }
    }

    /// An own publication was sent whose copy is wanted.
    pub(crate) fn owe_echo(&mut self, seq: u64) {
        if self.echoes.len() == ECHOES_MAX {
            self.echoes.pop_front();
        }
        self.echoes.push_back(seq);
    }

    /// Commands from this number on have moved up by `by`.
    pub(crate) fn renumber(&mut self, from: u64, by: u64) {
        self.echoes.iter_mut().filter(|seq| **seq >= from).for_each(|seq| *seq += by);
        if let Phase::Joining { seq } = &mut self.phase
            && *seq >= from
        {
            *seq += by;
        }
    }

    /// It was refused: no copy will come.
    pub(crate) fn forgive_echo(&mut self, seq: u64) {
        self.echoes.retain(|due| *due != seq);
    }

    /// A copy of an own publication came in the session that sent it: copies come in the order of their numbers. Returns this one's.
    pub(crate) fn echo_came(&mut self) -> Option<u64> {
        self.echoes.pop_front()
    }

    /// The session is lost; the room is joined again in a new one.
    pub(crate) fn lose_session(&mut self, session: &Arc<str>) {
        for seq in self.echoes.drain(..) {
            if self.echoes_lost.len() == ECHOES_MAX {
                self.echoes_lost.pop_front();
            }
            self.echoes_lost.push_back((Arc::clone(session), seq));
        }
        self.recovering_to = None;
        self.question = None;
        self.presence.invalidate();
    }
}
