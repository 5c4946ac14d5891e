//! The model checker's part of `src/driver/sync.rs`: its atomics, a bounded queue made of them, and faults that can be planted.
//!
//! The queue is for one sender and one receiver. It orders its accesses by acquire and release alone, where crossbeam's has fences
//! and sequentially consistent accesses besides: what holds with it holds with that.

pub(crate) use loom::sync::Mutex;
pub(crate) use loom::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, PoisonError, TryLockError};

use std::cell::Cell;

/// A part of the protocol that is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A shard that announces its sleep looks again without a fence.
    SleeperHasNoFence,
    /// A shard that has changed something looks for sleepers without a fence.
    RingerHasNoFence,
    /// A shard that announces its sleep does not look for messages again.
    NoSecondLookAtMessages,
    /// A shard that announces its sleep does not look for room again.
    NoSecondLookAtRoom,
    /// Nobody is told that a lane has room again.
    NoWordOfRoom,
}

/// Which step of the protocol a shard is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Work,
    FallAsleep,
    Ring,
}

loom::thread_local! {
    static STEP: Cell<Step> = Cell::new(Step::Work);
}

thread_local! {
    // All threads of a model run on the thread that checks it.
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Plants a fault for the models that this thread checks.
pub(crate) fn plant(fault: Option<Fault>) {
    FAULT.set(fault);
}

pub(crate) fn is_planted(fault: Fault) -> bool {
    FAULT.get() == Some(fault)
}

/// Runs a step of the protocol.
pub(crate) fn at<T>(step: Step, run: impl FnOnce() -> T) -> T {
    STEP.with(|at| at.set(step));
    let result = run();
    STEP.with(|at| at.set(Step::Work));
    result
}

fn step() -> Step {
    STEP.with(Cell::get)
}

pub(crate) fn fence(order: Ordering) {
    let is_gone = match step() {
        Step::FallAsleep => is_planted(Fault::SleeperHasNoFence),
        Step::Ring => is_planted(Fault::RingerHasNoFence),
        Step::Work => false,
    };
    if !is_gone {
        loom::sync::atomic::fence(order);
    }
}

/// A flag, which may be planted to be overlooked.
#[derive(Debug, Default)]
pub(crate) struct AtomicBool(loom::sync::atomic::AtomicBool);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> AtomicBool {
        AtomicBool(loom::sync::atomic::AtomicBool::new(value))
    }
    pub(crate) fn load(&self, order: Ordering) -> bool {
        let is_overlooked = step() == Step::Ring && is_planted(Fault::NoWordOfRoom);
        self.0.load(order) && !is_overlooked
    }
    pub(crate) fn store(&self, value: bool, order: Ordering) {
        self.0.store(value, order);
    }
    /// A load, and a store if it changes anything. The checker lets a read-modify-write after a fence read a store that the fence rules
    /// out: it keeps the modification order as a partial one, and applies fences to loads alone. In two steps there are more orders
    /// than with a swap and none less, but for a store of what is there already.
    pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
        let was = self.0.load(order_of_load(order));
        if was != value {
            self.0.store(value, order_of_store(order));
        }
        was
    }
}

fn order_of_load(order: Ordering) -> Ordering {
    if order == Ordering::Relaxed { order } else { Ordering::Acquire }
}

fn order_of_store(order: Ordering) -> Ordering {
    if order == Ordering::Relaxed { order } else { Ordering::Release }
}

/// What [`Sender::try_send`] gives back.
#[derive(Debug)]
pub(crate) enum TrySendError<T> {
    Full(T),
    /// Never: both ends live as long as the model.
    Disconnected(T),
}

struct Queue<T> {
    places: Vec<Mutex<Option<T>>>,
    head: AtomicUsize,
    tail: AtomicUsize,
}

pub(crate) struct Sender<T>(Arc<Queue<T>>);
pub(crate) struct Receiver<T>(Arc<Queue<T>>);

pub(crate) fn bounded<T>(places: usize) -> (Sender<T>, Receiver<T>) {
    let places = (0..places).map(|_| Mutex::new(None)).collect();
    let queue = Arc::new(Queue { places, head: AtomicUsize::new(0), tail: AtomicUsize::new(0) });
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

impl<T> Queue<T> {
    fn place(&self, position: usize) -> &Mutex<Option<T>> {
        &self.places[position % self.places.len()]
    }
}

impl<T> Sender<T> {
    pub(crate) fn len(&self) -> usize {
        if step() == Step::FallAsleep && is_planted(Fault::NoSecondLookAtRoom) {
            return self.0.places.len();
        }
        self.0.tail.load(Ordering::Relaxed) - self.0.head.load(Ordering::Acquire)
    }
    pub(crate) fn is_full(&self) -> bool {
        self.len() == self.0.places.len()
    }
    pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        if self.is_full() {
            return Err(TrySendError::Full(message));
        }
        let tail = self.0.tail.load(Ordering::Relaxed);
        *self.0.place(tail).lock().unwrap() = Some(message);
        self.0.tail.store(tail + 1, Ordering::Release);
        Ok(())
    }
}

impl<T> Receiver<T> {
    pub(crate) fn len(&self) -> usize {
        self.0.tail.load(Ordering::Acquire) - self.0.head.load(Ordering::Relaxed)
    }
    fn has_none(&self) -> bool {
        self.0.tail.load(Ordering::Acquire) == self.0.head.load(Ordering::Relaxed)
    }
    pub(crate) fn is_empty(&self) -> bool {
        step() == Step::FallAsleep && is_planted(Fault::NoSecondLookAtMessages) || self.has_none()
    }
    pub(crate) fn try_recv(&self) -> Result<T, ()> {
        if self.has_none() {
            return Err(());
        }
        let head = self.0.head.load(Ordering::Relaxed);
        let message = self.0.place(head).lock().unwrap().take().expect("what the tail has passed is there");
        self.0.head.store(head + 1, Ordering::Release);
        Ok(message)
    }
}
