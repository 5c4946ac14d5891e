//! What the handles of a client and its task share: the machine under a lock, who waits for which command, and the events that were
//! not yet read.
//!
//! Invariants: the lock is never held over an `await`; at most [`EVENTS_MAX`] events are queued here beside the machine's own; each
//! waiter belongs to a command that the machine keeps, so there are at most [`COMMANDS_MAX`](super::super::limits::COMMANDS_MAX).

use super::clock::Clock;
use super::failure::Failure;
use super::{Ack, PublishError};
use crate::client::limits::{EVENTS_MAX, RECOVERY_MS};
use crate::client::{Action, CommandId, Event, Machine, Refused, SocketId};
use crate::time::Millis;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// Who waits for a command.
pub(super) type Waiter = oneshot::Sender<Result<Ack, PublishError>>;

/// See the module.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// The task has something to do.
    pub(super) wake: Notify,
    /// The reader of events has something to read, or nothing more will come.
    pub(super) news: Notify,
    /// The task has ended.
    pub(super) over: Notify,
}

/// What stands under the lock.
pub(super) struct Inner {
    pub(super) machine: Machine,
    pub(super) clock: Clock,
    /// Why the last socket could not be opened, or broke.
    pub(super) failure: Option<Failure>,
    waiters: BTreeMap<CommandId, Waiter>,
    queue: VecDeque<Event>,
    /// Nobody reads events: they are dropped.
    pub(super) is_unread: bool,
    /// Since when the events have filled their queue.
    full_since: Option<Millis>,
    pub(super) is_over: bool,
}

/// What the task has to do next.
pub(super) struct Turn {
    pub(super) actions: Vec<Action>,
    pub(super) deadline: Option<Millis>,
    pub(super) wants_input: bool,
    pub(super) is_closed: bool,
}

impl Shared {
    pub(super) fn new(machine: Machine, clock: Clock) -> Shared {
        let inner = Inner {
            machine,
            clock,
            failure: None,
            waiters: BTreeMap::new(),
            queue: VecDeque::new(),
            is_unread: false,
            full_since: None,
            is_over: false,
        };
        Shared { inner: Mutex::new(inner), wake: Notify::new(), news: Notify::new(), over: Notify::new() }
    }

    /// The machine, whatever has panicked while it was held: each of its calls leaves it whole.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the machine for a handle, and wakes the task to do what follows from it.
    pub(super) fn ask<T>(&self, call: impl FnOnce(&mut Machine, Millis) -> T) -> T {
        let mut inner = self.lock();
        let now = inner.clock.now();
        let answer = call(&mut inner.machine, now);
        drop(inner);
        self.wake.notify_one();
        answer
    }

    /// Calls the machine for a command, and waits for what becomes of it.
    pub(super) async fn command(
        &self,
        call: impl FnOnce(&mut Machine, Millis) -> Result<CommandId, Refused>,
    ) -> Result<Ack, PublishError> {
        let waiting = {
            let mut inner = self.lock();
            if inner.is_over {
                return Err(PublishError::Refused(Refused::Closed));
            }
            let now = inner.clock.now();
            let id = call(&mut inner.machine, now).map_err(PublishError::Refused)?;
            let (waiter, waiting) = oneshot::channel();
            inner.waiters.insert(id, waiter);
            waiting
        };
        self.wake.notify_one();
        waiting.await.unwrap_or(Err(PublishError::Unknown))
    }

    /// One turn of the task: what is due is done, and what has happened is told. `open` is the socket that is open, `opening` one that is
    /// on its way.
    pub(super) fn turn(&self, open: Option<SocketId>, opening: Option<SocketId>) -> Turn {
        let mut inner = self.lock();
        let now = inner.clock.now();
        inner.machine.handle_timeout(now);
        if let Some(socket) = open {
            // What was held back while nobody read events.
            inner.machine.handle_received(now, socket, &[]);
        }
        let has_news = inner.sort(now);
        let actions: Vec<Action> = std::iter::from_fn(|| inner.machine.poll_action()).collect();
        let gives_up = |action: &Action| matches!(action, Action::Drop(socket, _) if Some(*socket) == opening);
        if actions.iter().any(gives_up) && !inner.machine.is_closed() {
            inner.failure = Some(Failure::too_late());
        }
        let stalled = inner.full_since.map(|since| since.after(RECOVERY_MS)).filter(|_| !inner.waiters.is_empty());
        let turn = Turn {
            actions,
            deadline: inner.machine.poll_timeout().into_iter().chain(stalled).min(),
            wants_input: inner.machine.wants_input(),
            is_closed: inner.machine.is_closed(),
        };
        drop(inner);
        if has_news {
            self.news.notify_one();
        }
        turn
    }

    /// Takes the next event for its reader; `None` if there is none now.
    pub(super) fn next_event(&self) -> Option<Event> {
        let mut inner = self.lock();
        let now = inner.clock.now();
        inner.sort(now);
        let event = inner.queue.pop_front()?;
        let was_full = inner.full_since.take().is_some();
        drop(inner);
        if was_full {
            self.wake.notify_one();
        }
        Some(event)
    }

    /// The task has ended: nobody waits any longer.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        let now = inner.clock.now();
        inner.machine.close(now);
        inner.sort(now);
        inner.is_over = true;
        inner.waiters.clear();
        drop(inner);
        self.news.notify_one();
        self.over.notify_waiters();
    }
}

impl Inner {
    /// The socket ended. Whoever hears of it can ask why.
    pub(super) fn end_socket(&mut self, now: Millis, socket: SocketId, failure: Option<Failure>) {
        self.failure = failure;
        self.machine.handle_ended(now, socket);
    }

    /// Gives each event to whom it belongs. True if the reader of events has something to read.
    fn sort(&mut self, now: Millis) -> bool {
        while self.is_unread || self.queue.len() < EVENTS_MAX {
            let Some(event) = self.machine.poll_event() else { break };
            match event {
                Event::Acked(id) => self.answer(id, Ok(Ack { _private: () })),
                Event::Unknown(id) => self.answer(id, Err(PublishError::Unknown)),
                Event::Refused { command, code } => self.answer(command, Err(PublishError::Server(code))),
                _ if self.is_unread => {}
                Event::State(_) if matches!(self.queue.back(), Some(Event::State(_))) => {
                    self.queue.pop_back();
                    self.queue.push_back(event);
                }
                event @ (Event::State(_)
                | Event::Joined { .. }
                | Event::JoinRefused { .. }
                | Event::Left { .. }
                | Event::Message(_)
                | Event::Presence { .. }
                | Event::Gap { .. }
                | Event::Error { .. }) => self.queue.push_back(event),
            }
        }
        if self.is_unread {
            self.queue = VecDeque::new();
        }
        self.note_fullness(now);
        !self.queue.is_empty()
    }

    /// An acknowledgement stands behind events that nobody reads. Whoever awaits it before reading on would wait for ever.
    fn note_fullness(&mut self, now: Millis) {
        if self.queue.len() < EVENTS_MAX {
            self.full_since = None;
            return;
        }
        let since = *self.full_since.get_or_insert(now);
        if now.since(since) >= RECOVERY_MS {
            self.full_since = Some(now);
            for (_, waiter) in std::mem::take(&mut self.waiters) {
                let _ = waiter.send(Err(PublishError::EventsUnread));
            }
        }
    }

    fn answer(&mut self, id: CommandId, answer: Result<Ack, PublishError>) {
        // Nobody waits if the future was dropped: the command takes its course all the same.
        if let Some(waiter) = self.waiters.remove(&id) {
            let _ = waiter.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Identity;
    use crate::client::limits::ATTEMPT_MS;

    fn shared() -> Shared {
        let identity = Identity { host: "h".into(), path: "/".into(), ..Identity::default() };
        let clock = Clock::start();
        Shared::new(Machine::new(identity, 1, clock.now()), clock)
    }

    #[test]
    fn who_awaits_an_acknowledgement_without_reading_events_is_told_and_not_kept_for_ever() {
        let shared = shared();
        let mut inner = shared.lock();
        let (waiter, mut waiting) = oneshot::channel();
        inner.waiters.insert(CommandId(1), waiter);
        let error = || Event::Error { code: "x".into(), message: "".into() };
        inner.queue.extend((2..EVENTS_MAX).map(|_| error()));
        inner.sort(Millis(0));
        inner.sort(Millis(RECOVERY_MS * 2));
        // With the first state there is one place left.
        assert!(waiting.try_recv().is_err());
        inner.queue.push_back(error());
        inner.sort(Millis(RECOVERY_MS * 2));
        inner.sort(Millis(RECOVERY_MS * 3 - 1));
        assert!(waiting.try_recv().is_err(), "it may yet be read");
        inner.sort(Millis(RECOVERY_MS * 3));
        assert_eq!(waiting.try_recv(), Ok(Err(PublishError::EventsUnread)));
    }

    #[test]
    fn events_that_nobody_will_read_are_not_kept() {
        let shared = shared();
        shared.lock().queue.extend((0..EVENTS_MAX).map(|_| Event::Acked(CommandId(1))));
        shared.lock().is_unread = true;
        shared.turn(None, None);
        assert_eq!(shared.lock().queue.capacity(), 0);
    }

    #[test]
    fn an_attempt_that_is_given_up_has_a_failure_of_its_own() {
        let shared = shared();
        let [Action::Open(socket)] = shared.turn(None, None).actions[..] else { panic!("a socket is wanted at once") };
        shared.lock().machine.handle_timeout(Millis(ATTEMPT_MS * 2));
        assert!(matches!(shared.turn(None, Some(socket)).actions[..], [Action::Drop(dropped, _)] if dropped == socket));
        assert_eq!(shared.lock().failure, Some(Failure::too_late()));
    }

    #[test]
    fn a_client_that_is_closed_while_it_connects_has_not_failed() {
        let shared = shared();
        let [Action::Open(socket)] = shared.turn(None, None).actions[..] else { panic!("a socket is wanted at once") };
        shared.ask(Machine::close);
        assert!(matches!(shared.turn(None, Some(socket)).actions[..], [Action::Drop(..)]));
        assert_eq!(shared.lock().failure, None);
    }

    #[test]
    fn the_end_of_the_task_answers_whoever_waits() {
        let shared = shared();
        let (waiter, mut waiting) = oneshot::channel();
        shared.lock().waiters.insert(CommandId(1), waiter);
        shared.end();
        assert_eq!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(shared.lock().is_over);
    }
}
