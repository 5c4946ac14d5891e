//! Whole turns of the loop, on a kernel that a string of bytes decides for.
//!
//! One or two shards run their real loops (events, connections, pauses, stashes, listener, lanes, doorbells, settle) on a
//! [`Machine`]. Peers that know nothing of the server connect, send, read, stall and break off; they check every byte that they
//! get. The machine checks every entry that is submitted. When the choices are used up everything calms down, the shards drain, and
//! nothing may be left: no slot, no operation, no buffer, no unread byte, no connection of the core, no count.
//!
//! It is single-threaded: shards take turns where the choices say. A shard that sleeps is not woken by anything but a completion or
//! its deadline, so a doorbell that is missing shows as work that is never done.

mod peer;
mod session;

#[cfg(test)]
mod tests;

use super::clock::{Clock, Micros};
use super::commons::{Admission, Finish, Published};
use super::event_loop::{EventLoop, Parts};
use super::host::Host;
use super::moves::Arrival;
use super::plan::Plan;
use super::{Mail, Post, Shared, mesh};
use crate::close::CloseReason;
use crate::limits::{CONSEQUENCES_PER_COMMAND_MAX, Limits, REFUSALS_IN_FLIGHT_MAX};
use crate::shard::{Order, ShardId};
use crate::time::{Millis, Now, WallMillis};
use crate::uring::double::{Choices, DoubleIo, Faults, Leftovers, Machine};
use crate::uring::{BuffersConfig, RingConfig, Wait};
use crossbeam_channel::Receiver;
use peer::{Kind, Peer};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Peers of one run.
const PEERS_MAX: usize = 12;
/// Connections that are let in, so that some are refused.
const CONNECTIONS_MAX: usize = 8;
/// Connections of one of two shards, so that some find none where their session is.
const SHARE_MAX: usize = 5;
/// Time for which sessions and what they know of their rooms are kept, in ms: longer than any run.
const SESSION_KEPT_MS: u64 = 24 * 3_600 * 1_000;
/// Turns in which everything that is due without time going on must have happened.
const TURNS_MAX: usize = 100_000;
/// Turns from one look at whether the core's tables add up to the next.
const TURNS_PER_LOOK: u64 = 16;
/// Steps of time in which everything must end once the peers are gone: longer than a drain with its grace.
const DRAIN_STEPS_MAX: usize = 400;
/// One such step, in µs.
const STEP_US: u64 = 50_000;

/// What a run has seen; a test that claims that something was exercised asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Turns of all loops.
    pub turns: u64,
    /// Messages that came back as they were sent.
    pub echoes: u64,
    /// Publications that reached another member in order.
    pub deliveries: u64,
    /// Connections that the server closed or refused.
    pub closed: u64,
    /// Doorbells between shards.
    pub doorbells: u64,
    /// Times that a connection with unread bytes was paused at the end of a turn.
    pub stashes: u64,
    /// Completions of earlier generations.
    pub stale: u64,
    /// Submissions in the middle of a turn.
    pub early_submits: u64,
    /// Sessions that went on over a new connection.
    pub resumed: u64,
    /// Connections that went to another shard.
    pub handed_over: u64,
    /// Connections that could not, or found no place there.
    pub sent_away: u64,
    /// What the kernel did of the rarer things.
    pub faults: Faults,
}

/// The body of a fuzz target: a run that the bytes decide.
///
/// # Panics
/// If anything is wrong with what the loop submits, loses, repeats or keeps.
pub fn ring(data: &[u8]) {
    run(Choices::new(data));
}

/// A run, and what it has seen.
///
/// # Panics
/// As [`ring`].
pub fn run(choices: Choices) -> Seen {
    let mut run = Run::new(choices);
    run.disturb();
    run.calm_down();
    run.drain();
    run.seen
}

/// The double's clock and rings for a loop.
#[derive(Clone, Debug)]
struct Virtual {
    machine: Machine,
    ring: usize,
}

impl Host for Virtual {
    type Io = DoubleIo;
    fn open(&self, config: &RingConfig) -> io::Result<DoubleIo> {
        Ok(self.machine.open(config))
    }
    fn micros(&self) -> Micros {
        Micros(self.machine.micros_of(self.ring))
    }
    fn at(&self, micros: Micros) -> Now {
        Now { mono: micros.millis(), wall: WallMillis(1_700_000_000_000 + micros.millis().0) }
    }
}

/// One shard, with when it wants to be woken.
struct Seat {
    event_loop: EventLoop<Virtual>,
    until: Option<u64>,
    ended: bool,
}

struct Run {
    machine: Machine,
    shared: Arc<Shared>,
    seats: Vec<Seat>,
    peers: Vec<Peer>,
    seen: Seen,
}

impl Run {
    fn new(choices: Choices) -> Run {
        let machine = Machine::new(choices);
        let shards = [1, 2, 2][machine.pick(3)];
        let sizes = RingConfig {
            submissions: 8 << machine.pick(4),
            completions: 4 << machine.pick(6),
            slots: (REFUSALS_IN_FLIGHT_MAX + if shards == 1 { CONNECTIONS_MAX } else { SHARE_MAX }) as u32,
            buffers: BuffersConfig { count: 1 << machine.pick(4), bytes: 64 << machine.pick(6) },
            incremental: machine.pick(3) > 0,
        };
        let limits = Limits {
            connections_max: CONNECTIONS_MAX,
            message_bytes_max: 4_096,
            send_queue_bytes_max: 16_384,
            resume_ttl_ms: SESSION_KEPT_MS,
            presence_grace_ms: SESSION_KEPT_MS,
            lane_places: Some(CONSEQUENCES_PER_COMMAND_MAX << machine.pick(4)),
            ..Limits::default()
        };
        let plan =
            Plan { shards, connections_max: CONNECTIONS_MAX, slots: sizes.slots as usize, lane_places: limits.lane_places(shards) };
        let (shared, mailboxes) = shared(plan);
        let meshes = mesh::lanes(shards, plan.lane_places).into_iter().zip(mailboxes);
        let seats = meshes.enumerate().map(|(index, (mesh, (mailbox, arrivals)))| {
            let parts = Parts {
                id: ShardId(index as u16),
                shared: Arc::clone(&shared),
                mesh,
                // The double accepts from a backlog of its own; what is passed need only be a descriptor.
                listener: File::open("/dev/null").expect("there is a null device").into(),
                secure: None,
                mailbox,
                arrivals,
                seed: [7; 32],
                secret: [7; 32],
                limits: limits.clone(),
                echo: true,
                ring: sizes,
            };
            let mut event_loop =
                EventLoop::new(parts, Virtual { machine: machine.clone(), ring: index }).expect("the double refuses no ring");
            event_loop.begin().expect("the double refuses no ring");
            Seat { event_loop, until: None, ended: false }
        });
        let seats = seats.collect();
        Run { machine, shared, seats, peers: Vec::new(), seen: Seen::default() }
    }

    /// Peers and kernel do what the choices say, until these are used up.
    fn disturb(&mut self) {
        while !self.machine.is_calm() {
            match self.machine.pick(16) {
                0..=6 => {
                    let index = self.machine.pick(self.seats.len());
                    // A signal wakes a sleeper for nothing, now and then.
                    if self.is_due(index) || self.machine.pick(16) == 1 {
                        self.turn(index);
                    }
                }
                7 if self.peers.len() < PEERS_MAX => {
                    let kind =
                        [Kind::Echo, Kind::Echo, Kind::Room, Kind::Garbage, Kind::Session, Kind::Session][self.machine.pick(6)];
                    let ring = self.machine.pick(self.seats.len());
                    self.peers.push(Peer::connect(&self.machine, ring, kind, self.peers.len()));
                }
                8 => {
                    let steps = [100, 1_000, 30_000, 260_000, 1_100_000, 6_100_000, 13_000_000];
                    self.machine.advance(steps[self.machine.pick(steps.len())]);
                }
                _ if self.peers.is_empty() => {}
                _ => {
                    let index = self.machine.pick(self.peers.len());
                    self.peers[index].act(&self.machine, self.seats.len(), &mut self.seen);
                }
            }
        }
    }

    /// Everybody reads and says no more; whatever was said gets its answer.
    fn calm_down(&mut self) {
        // More than the pause after a failed accept, and than the grace of a half-closed connection; less than any heartbeat.
        for _ in 0..30 {
            self.run_until_idle();
            self.machine.advance(STEP_US);
        }
        self.run_until_idle();
        for peer in &mut self.peers {
            peer.check_complete(&self.machine, &mut self.seen);
        }
    }

    /// Everybody is told to go, and nothing stays.
    fn drain(&mut self) {
        let by = Millis(self.machine.micros() / 1_000 + 2_000);
        mesh::broadcast(&self.shared, Order::Drain { by });
        for _ in 0..DRAIN_STEPS_MAX {
            self.run_until_idle();
            if self.seats.iter().all(|seat| seat.ended) {
                break;
            }
            self.machine.advance(STEP_US);
        }
        for index in 0..self.seats.len() {
            assert!(self.seats[index].ended, "shard {index} does not end: {:?}", self.machine.leftovers(index));
            self.check_nothing_left(index);
        }
        assert_eq!(self.shared.admission.count(), 0, "connections are still counted");
        self.seen.faults = self.machine.faults();
    }

    /// Whether a shard's thread would go on: the kernel takes what it submits before it lets it sleep.
    fn is_due(&mut self, index: usize) -> bool {
        let seat = &mut self.seats[index];
        let is_time = seat.until.is_some_and(|until| until <= self.machine.micros());
        let is_awake = seat.event_loop.wait() == Wait::Poll || seat.event_loop.has_submissions() || is_time;
        !seat.ended && (is_awake || self.machine.is_ready(index))
    }

    fn turn(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        if seat.ended {
            return;
        }
        self.seen.turns += 1;
        seat.ended = !seat.event_loop.turn().expect("the double refuses nothing for good");
        if self.seen.turns.is_multiple_of(TURNS_PER_LOOK)
            && let Err(what) = seat.event_loop.shard.verify()
        {
            panic!("shard {index} does not add up: {what}");
        }
        self.seen.stashes += u64::from(seat.event_loop.stashes.count() > 0);
        seat.until = match seat.event_loop.wait() {
            Wait::AtMost(time) => Some(self.machine.micros() + time.as_micros() as u64),
            Wait::Poll | Wait::Forever => None,
        };
        if seat.event_loop.wait() != Wait::Poll {
            self.machine.fall_asleep(index);
        }
    }

    fn run_until_idle(&mut self) {
        for _ in 0..TURNS_MAX {
            for peer in &mut self.peers {
                peer.attend(&self.machine, &mut self.seen);
            }
            let due: Vec<usize> = (0..self.seats.len()).filter(|&index| self.is_due(index)).collect();
            if due.is_empty() {
                let sleeper = self.seats.iter().position(|seat| !seat.ended && seat.event_loop.is_owed_a_turn());
                assert_eq!(sleeper, None, "a shard sleeps although another has done something for it");
                return;
            }
            due.into_iter().for_each(|index| self.turn(index));
        }
        panic!("the loops never come to rest");
    }

    fn check_nothing_left(&mut self, index: usize) {
        let event_loop = &mut self.seats[index].event_loop;
        let Leftovers { slots, operations, buffers: _ } = self.machine.leftovers(index);
        assert_eq!((slots, operations), (0, 0), "slots and operations of shard {index} in the kernel");
        let stats = &event_loop.stats;
        assert_eq!((event_loop.connections.open_count(), event_loop.connections.counted()), (0, 0), "connections of shard {index}");
        assert_eq!((event_loop.stashes.count(), event_loop.stashes.bytes()), (0, 0), "unread bytes of shard {index}");
        assert_eq!((event_loop.shard.sockets_held(), stats.lane_excess), (0, 0), "sockets of shard {index}'s core");
        self.seen.doorbells += stats.doorbells;
        self.seen.stale += stats.stale;
        self.seen.early_submits += stats.early_submits;
        let stats = event_loop.shard.stats();
        self.seen.handed_over += stats.handed_over;
        self.seen.sent_away += stats.closes[CloseReason::OverCapacity as usize];
        assert_eq!((stats.connections_active, stats.orphaned_subscriptions), (0, 0), "connections of shard {index}'s core");
        // One more submission offers what the last completions have used up.
        event_loop.ring.enter([], Wait::Poll).expect("the double refuses nothing for good");
        while let Some(completion) = event_loop.ring.next_completion() {
            event_loop.ring.buffers().take(&completion);
        }
        event_loop.ring.enter([], Wait::Poll).expect("the double refuses nothing for good");
        let buffers = event_loop.ring.buffers();
        assert_eq!((buffers.free(), buffers.bad()), (buffers.count(), 0), "buffers of shard {index}");
        assert_eq!(self.machine.leftovers(index).buffers, 0, "buffers of shard {index} that the kernel did not get back");
    }
}

/// What one shard is reached by: orders, and connections that it is to take over.
type Boxes = (Receiver<Mail>, Receiver<Arrival>);

fn shared(plan: Plan) -> (Arc<Shared>, Vec<Boxes>) {
    let mut posts = Vec::new();
    let mut mailboxes = Vec::new();
    for _ in 0..plan.shards {
        let (post, mailbox, arrivals) = Post::new().expect("there is a descriptor");
        posts.push(post);
        mailboxes.push((mailbox, arrivals));
    }
    let shared = Shared {
        clock: Clock::start(),
        plan,
        doors: (0..plan.shards).map(|_| mesh::Door::default()).collect(),
        posts,
        snapshots: (0..plan.shards).map(|_| Published::default()).collect(),
        admission: Admission::new(plan.connections_max),
        finish: Finish::new(plan.shards),
    };
    (Arc::new(shared), mailboxes)
}
