//! Workers on threads of their own, and the moments at which they wait for each other.

use super::args::Common;
use super::clock::{self, MILLISECOND, Nanos};
use super::outbox::Outbox;
use super::target::Target;
use super::worker::{Event, Worker, WorkerConfig};
use crate::uring::probe::raise_descriptor_limit;
use crate::uring::{Kernel, thread};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Slots that a file table leaves free.
const SLOTS_SPARE: u64 = 64;
/// How long a worker waits at most before it looks whether the others have come.
const MEETING_INTERVAL: Nanos = 2 * MILLISECOND;
/// What a worker says that ended because another did.
const OTHER_FAILED: &str = "another thread of the load generator failed";

/// The load that a crew makes.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) target: Target,
    pub(super) connections: u32,
    /// Connections that may be opening at once, over all workers.
    pub(super) opening_max: usize,
    /// Different `?user=` names, if the server is told one.
    pub(super) users: Option<u32>,
    /// Bytes that a slow reader reads at once, and how often.
    pub(super) trickle: (u32, Nanos),
    /// The scenario's state can't be split over threads.
    pub(super) is_single: bool,
    /// Connections that each worker can have beyond its share.
    pub(super) slots_extra: u32,
}

impl Load {
    pub(super) fn new(target: Target, connections: u32) -> Load {
        Load { target, connections, opening_max: 256, users: None, trickle: (0, 0), is_single: false, slots_extra: 0 }
    }
}

/// One worker's place in its crew.
pub(super) struct Place<'crew> {
    crew: &'crew Meeting,
    round: usize,
    number: u32,
}

struct Meeting {
    workers: usize,
    arrived: AtomicUsize,
    failed: AtomicBool,
}

impl Place<'_> {
    /// True for the one worker that measures for all.
    pub(super) fn is_first(&self) -> bool {
        self.number == 0
    }

    /// Goes on with the load until all workers have come to this point.
    ///
    /// # Errors
    /// The ring failed, or another worker did.
    pub(super) fn meet(&mut self, worker: &mut Worker, handle: &mut impl FnMut(&mut Outbox, u32, Event<'_>)) -> Result<(), String> {
        self.round += 1;
        self.crew.arrived.fetch_add(1, Ordering::SeqCst);
        while self.crew.arrived.load(Ordering::SeqCst) < self.round * self.crew.workers {
            if self.crew.failed.load(Ordering::SeqCst) {
                return Err(OTHER_FAILED.to_owned());
            }
            worker.turn(clock::now() + MEETING_INTERVAL, handle).map_err(|error| ring_failed(&error))?;
        }
        Ok(())
    }
}

/// What is said when a ring is of no use any more.
pub(super) fn ring_failed(error: &std::io::Error) -> String {
    format!("the load generator's ring failed: {error}")
}

/// Runs `part` on each worker and closes all connections afterwards.
///
/// # Errors
/// Too many connections for the threads, no io_uring, or the first error of a part.
pub(super) fn run<R: Send>(
    common: &Common,
    load: &Load,
    part: impl Fn(&mut Worker, &mut Place<'_>) -> Result<R, String> + Sync,
) -> Result<Vec<R>, String> {
    let kernel = Kernel::probe().map_err(|obstacle| obstacle.to_string())?;
    if !kernel.client_operations {
        return Err(format!("Linux {} can't bind sockets within a ring; boot a kernel of 6.11 or later", kernel.release));
    }
    let slots = raise_descriptor_limit().saturating_sub(SLOTS_SPARE).max(1).min(u64::from(u32::MAX)) as u32;
    let workers = workers(common, load, slots)?;
    let meeting = Meeting { workers: workers as usize, arrived: AtomicUsize::new(0), failed: AtomicBool::new(false) };
    let results = std::thread::scope(|scope| {
        let (part, meeting) = (&part, &meeting);
        let spawn = |number| {
            let work = move || {
                let result = work(common, load, workers, number, meeting, part);
                if result.is_err() {
                    meeting.failed.store(true, Ordering::SeqCst);
                }
                result
            };
            scope.spawn(work)
        };
        let handles: Vec<_> = (0..workers).map(spawn).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| Err("a thread of the load generator panicked".to_owned())))
            .collect::<Vec<_>>()
    });
    let own = results.iter().filter_map(|result| result.as_ref().err()).find(|error| *error != OTHER_FAILED).cloned();
    match own {
        Some(error) => Err(error),
        None => results.into_iter().collect(),
    }
}

fn work<R>(
    common: &Common,
    load: &Load,
    workers: u32,
    number: u32,
    crew: &Meeting,
    part: impl Fn(&mut Worker, &mut Place<'_>) -> Result<R, String>,
) -> Result<R, String> {
    if let Some(cpu) = common.pin {
        thread::pin(cpu).map_err(|error| format!("core {cpu} can't be used: {error}"))?;
    }
    let config = WorkerConfig {
        target: load.target.clone(),
        number,
        of: workers,
        connections: load.connections.div_ceil(workers) + load.slots_extra,
        opening_max: load.opening_max.div_ceil(workers as usize),
        users: load.users,
        trickle: load.trickle,
    };
    let mut worker = Worker::new(config).map_err(|error| format!("no ring for the load generator: {error}"))?;
    let mut place = Place { crew, round: 0, number };
    let result = part(&mut worker, &mut place);
    worker.close_all().map_err(|error| ring_failed(&error))?;
    result
}

/// How many workers: what was asked for, or as few as have slots for all connections.
fn workers(common: &Common, load: &Load, slots: u32) -> Result<u32, String> {
    let needed = load.connections.div_ceil(slots);
    let workers = common.threads.unwrap_or(needed);
    if load.is_single && (workers > 1 || needed > 1) {
        return Err(format!("this scenario runs on one thread, which has {slots} slots (RLIMIT_NOFILE)"));
    }
    if workers < needed {
        return Err(format!("{} connections need {needed} threads of {slots} slots each (RLIMIT_NOFILE)", load.connections));
    }
    if workers > load.connections {
        return Err(format!("{workers} threads for {} connections", load.connections));
    }
    Ok(workers)
}
