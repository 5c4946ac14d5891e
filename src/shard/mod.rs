//! All decisions of one core: no syscall, no clock, no entropy of its own, no unsafe.
//!
//! [`Shard`] takes events (`handle_*`) and yields outputs (`poll_*`); [`seam`] has the contract. The same code runs under the
//! kernel and under a simulator.
//!
//! | file | decides |
//! |---|---|
//! | [`seam`] | what crosses the border to the driver |
//! | `receive` `upgrade` | bytes to messages; an accepted socket to an open connection |
//! | `resume` `token` `moving` | the opening, and sessions that go on; what proves one; a connection whose session is on another shard |
//! | `dispatch` | a message to a command: numbers, what is decided here, what waits |
//! | `session` `local` | who speaks, its memberships; the members here, and fan-out to them |
//! | `home` `presence` | a room where it is numbered; who is there, and who is told |
//! | `history` `recovery` | what rooms keep of their publications; how those who missed some are fed from it |
//! | `mesh` `lanes` | what shards say to each other, and room for it |
//! | `outbound` `frames` | frames to sends; buffers |
//! | `heartbeat` `ending` `drain` | pings and silence; the one close path; the shutdown |
//! | `audit` `verify` [`stats`] | what is counted, and whether it adds up |
//! | `arena` `timer_wheel` `random` | tables, timers, numbers |
//!
//! Invariants: memory per connection is bounded by constants; whatever a connection causes is freed in `ending`; a home never
//! waits in the middle of a command; a message costs no allocation once warm.
#![forbid(unsafe_code)]

pub(crate) mod arena;
mod audit;
mod connection;
mod dispatch;
mod drain;
mod ending;
mod frames;
mod heartbeat;
mod history;
mod home;
mod lanes;
mod local;
mod mesh;
mod moving;
mod outbound;
mod presence;
mod random;
mod receive;
mod recovery;
mod resume;
pub mod seam;
mod session;
pub mod stats;
pub(crate) mod timer_wheel;
mod token;
mod upgrade;
mod user;
mod verify;

#[cfg(test)]
mod tests;

pub use mesh::MeshMessage;
pub use moving::Baggage;
pub use seam::{Action, Ended, Flow, Key, Lane, LaneRoom, Order, Received, ShardId, Source, Taken, Transmit};
pub use stats::Stats;

use crate::limits::{Limits, SHARD_CONNECTIONS_MAX, SHARDS_MAX};
use crate::time::{Millis, Now};
use crate::ws::{AssemblerPool, Opcode};
use arena::{Arena, FrameIndex, HomeIndex, LocalIndex, MembershipIndex, PresenceIndex, SessionIndex};
use connection::{Connection, Flags, Stash};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use history::History;
use home::HomeRoom;
use lanes::LaneState;
use local::{LocalRoom, Membership};
use mesh::SessionId;
use outbound::Outbound;
use presence::Presence;
use random::Random;
use session::{Absence, Aside, PooledWindow, Session};
use slab::Slab;
use stats::MemoryUse;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use timer_wheel::TimerWheel;
use token::Tokens;
use user::Users;

/// Memberships that a shard has places for, per connection slot. Beyond: `error` `room_unavailable`.
const MEMBERSHIPS_PER_SLOT: usize = 8;

/// Entries up to which the queues to the driver stay as they are between two bursts.
const QUEUE_KEPT: usize = 256;
/// Time between two looks at what the pools did not need, in ms.
const TRIM_EVERY_MS: u64 = 1_000;

/// What a shard is made from.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub id: ShardId,
    /// Shards of the process, at most [`SHARDS_MAX`].
    pub shards: usize,
    /// Slots of the connection table: direct descriptors of the ring. At most [`SHARD_CONNECTIONS_MAX`].
    pub slots: usize,
    /// Bounds, of the whole process.
    pub limits: Limits,
    /// Serve `/echo`.
    pub echo: bool,
    /// Seed of whatever is spread at random, and of the hash that gives rooms their homes: the same for all shards.
    pub seed: [u8; 32],
    /// Key of the resume tokens: unguessable, and the same for all shards of the process and for no other.
    pub secret: [u8; 32],
}

/// One core's share of the server. See [`seam`] for the order of calls.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    limits: Limits,
    /// Flexible memory that this shard may hold, in bytes.
    flex_bytes_max: u64,
    send_queue_bytes_max: usize,
    echo: bool,
    ready: bool,
    drain: Option<drain::Drain>,
    stats: Stats,
    random: Random,
    hasher: FixedState,
    /// By how much the fair clock is behind: the sum of the loop's stalls.
    stalled_ms: u64,

    connections: Vec<Connection>,
    stashes: Slab<Stash>,
    assemblers: AssemblerPool,
    wheel: TimerWheel,
    out: Outbound,
    ping_frame: FrameIndex,
    actions: VecDeque<Action>,
    overflowed: Vec<Key>,
    /// Connections with a backlog.
    backlogged: usize,

    sessions: Arena<SessionIndex, Session>,
    session_generation: u32,
    windows: Slab<PooledWindow>,
    free_windows: Vec<PooledWindow>,
    /// The fewest windows that lay unused since the pools were last trimmed.
    free_windows_idle: usize,
    /// Sessions in their grace.
    detached: VecDeque<Absence>,
    /// Sessions that may be resumed.
    resumables: VecDeque<Absence>,
    asides: Slab<Aside>,
    /// Presence states of sessions that are away, for when they are in their rooms again.
    dormant_states: BTreeMap<MembershipIndex, Box<str>>,
    reorders: VecDeque<(Millis, SessionId)>,
    /// Slots whose session has something to acknowledge.
    acks: Vec<u32>,
    gaps: Vec<SessionId>,
    progressed: Vec<SessionId>,
    /// Connections that are to be handed over and of which something is still on its way out.
    movers: Vec<Key>,
    tokens: Tokens,
    users: Users,

    memberships: Arena<MembershipIndex, Membership>,
    locals: Slab<LocalRoom>,
    locals_by_id: HashTable<LocalIndex>,
    local_generation: u32,
    active_rooms: VecDeque<LocalIndex>,
    /// Fan-out passes that are not done.
    passes: usize,

    homes: Slab<HomeRoom>,
    homes_by_id: HashTable<HomeIndex>,
    /// Rooms without members, by the time that they have been so.
    idle_first: HomeIndex,
    idle_last: HomeIndex,
    presences: Arena<PresenceIndex, Presence>,
    presence_stamp: u32,
    /// The first presence of each user in each room.
    groups: HashTable<PresenceIndex>,
    states: Slab<Box<str>>,
    history: History,
    diffs_fast: VecDeque<(Millis, HomeIndex)>,
    diffs_slow: VecDeque<(Millis, HomeIndex)>,
    /// Presence waits for the lanes.
    presence_blocked: bool,

    lanes: Vec<LaneState>,
    mesh: VecDeque<(ShardId, Lane, MeshMessage)>,
    /// A command of another shard was declined in this turn.
    declined: Cell<bool>,
    turns: lanes::Turns,
    audit: audit::Audit,
    /// When the pools are next trimmed.
    trim_due: Millis,

    // Buffers for use within one call.
    chunk: Vec<FrameIndex>,
    shed: Vec<MembershipIndex>,
    json: Vec<u8>,
    page: Vec<u8>,
    name: Vec<u8>,
    ready_text: Vec<u8>,
    due: Vec<u32>,
    slow: Vec<(u32, Key)>,
}

/// Streams of the seed that number the sessions, apart from those for jitter and epochs.
const SESSIONS_STREAM: u64 = 1 << 32;

impl Shard {
    /// A shard without connections.
    ///
    /// # Panics
    /// If the configuration is beyond [`SHARDS_MAX`] or [`SHARD_CONNECTIONS_MAX`].
    pub fn new(config: ShardConfig, now: Now) -> Shard {
        let ShardConfig { id, shards, slots, limits, echo, seed, secret } = config;
        assert!((1..=SHARDS_MAX).contains(&shards) && usize::from(id.0) < shards, "shards must be 1 to {SHARDS_MAX}");
        // Detached sessions have places of their own, as many as there may be connections.
        assert!(slots * 2 <= SHARD_CONNECTIONS_MAX, "a shard has at most {} slots", SHARD_CONNECTIONS_MAX / 2);
        let hasher = FixedState::with_seed(Random::new(&seed, 0).next());
        let places = limits.lane_places(shards);
        let memberships = slots * MEMBERSHIPS_PER_SLOT;
        let mut stats = Stats::default();
        let mut out = Outbound::new();
        let header = crate::ws::frame::header(Opcode::Ping, 0);
        let ping_frame = out.frames.make(&mut stats, &[header.as_bytes()]);
        // It is there for the shard's whole life: the account of what comes and goes begins without it.
        stats.memory_bytes = [0; MemoryUse::ALL.len()];
        Shard {
            id,
            flex_bytes_max: (limits.flex_bytes_max / shards) as u64,
            send_queue_bytes_max: limits.send_queue_bytes_max.max(2 * limits.message_bytes_max),
            echo,
            ready: true,
            drain: None,
            stats,
            random: Random::new(&seed, 1 + u64::from(id.0)),
            hasher: hasher.clone(),
            stalled_ms: 0,
            connections: Vec::with_capacity(slots),
            stashes: Slab::new(),
            assemblers: AssemblerPool::new(),
            wheel: TimerWheel::new(slots, now.mono.tick()),
            out,
            ping_frame,
            actions: VecDeque::new(),
            overflowed: Vec::new(),
            backlogged: 0,
            sessions: Arena::with_capacity(2 * slots),
            // Clients know their lost sessions by id: those of a server that starts anew must not be called like them.
            session_generation: Random::new(&seed, SESSIONS_STREAM | u64::from(id.0)).next() as u32,
            windows: Slab::new(),
            free_windows: Vec::new(),
            free_windows_idle: 0,
            detached: VecDeque::new(),
            resumables: VecDeque::new(),
            asides: Slab::new(),
            dormant_states: BTreeMap::new(),
            reorders: VecDeque::new(),
            acks: Vec::new(),
            gaps: Vec::new(),
            progressed: Vec::new(),
            movers: Vec::new(),
            tokens: Tokens::new(&secret),
            users: Users::with_capacity(2 * slots * shards.min(2), hasher),
            memberships: Arena::with_capacity(memberships),
            locals: Slab::new(),
            locals_by_id: HashTable::new(),
            local_generation: 0,
            active_rooms: VecDeque::new(),
            passes: 0,
            homes: Slab::new(),
            homes_by_id: HashTable::new(),
            idle_first: HomeIndex::NONE,
            idle_last: HomeIndex::NONE,
            presences: Arena::with_capacity(memberships * shards.min(4)),
            presence_stamp: 0,
            groups: HashTable::with_capacity(slots),
            states: Slab::new(),
            history: History::new(limits.history_shard_bytes_max(shards)),
            diffs_fast: VecDeque::new(),
            diffs_slow: VecDeque::new(),
            presence_blocked: false,
            lanes: (0..shards).map(|_| LaneState::new(places)).collect(),
            mesh: VecDeque::new(),
            declined: Cell::new(false),
            turns: lanes::Turns::default(),
            audit: audit::Audit::default(),
            trim_due: now.mono,
            chunk: Vec::new(),
            shed: Vec::new(),
            json: Vec::with_capacity(4_096),
            page: Vec::new(),
            name: Vec::new(),
            ready_text: Vec::new(),
            due: Vec::new(),
            slow: Vec::new(),
            limits,
        }
    }

    /// Bytes of the records of one connection that is in one room with presence, wherever the room's home is.
    pub const fn connection_record_bytes() -> usize {
        size_of::<Connection>()
            + TimerWheel::timer_bytes()
            + Arena::<SessionIndex, Session>::record_bytes()
            + Arena::<MembershipIndex, Membership>::record_bytes()
            + Arena::<PresenceIndex, Presence>::record_bytes()
            + 2 * Users::record_bytes()
    }

    fn hash(&self, id: &str) -> u64 {
        self.hasher.hash_one(id.as_bytes())
    }

    /// The home of the room whose id has this hash. It is mixed once more, because the tables of a home tell rooms apart by bits
    /// that must not be the same for all of them.
    fn home_of(&self, hash: u64) -> ShardId {
        let mixed = hash.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32;
        let shards = self.lanes.len() as u64;
        ShardId(((mixed * shards) >> 32) as u16)
    }

    /// The shard that is home to the room of this id: the same whichever shard is asked.
    pub fn home_of_room(&self, room: &str) -> ShardId {
        self.home_of(self.hash(room))
    }

    /// Whether flexible memory is used up: nothing is taken in that would take more of it.
    fn is_short_of_memory(&self) -> bool {
        self.stats.memory_bytes_held() >= self.flex_bytes_max
    }

    /// The turn's input is handled: whatever follows from it is put in order for `poll_*`.
    pub fn handle_turn_end(&mut self, now: Now) {
        self.share_room(now);
        self.serve_progressed(now);
        self.run_passes();
        self.report_gaps();
        self.send_acks();
        self.send_movers();
        self.end_overflowed(now);
        self.relieve_memory(now);
        self.stats.users = self.users.len() as u64;
        self.stats.sessions = self.sessions.len() as u64;
        self.stats.presences = self.presences.len() as u64;
    }

    fn trim_at(&self) -> Option<Millis> {
        let is_empty = self.out.frames.pool.is_empty() && self.free_windows.is_empty();
        (!is_empty).then_some(self.trim_due)
    }

    /// Gives back what the pools did not need for a while.
    fn trim_pools(&mut self, now: Now) {
        if self.trim_at().is_some_and(|due| due <= now.mono) {
            self.trim_due = now.mono.after(TRIM_EVERY_MS);
            self.out.trim();
            self.history.trim();
            self.mesh.shrink_to(QUEUE_KEPT);
            self.actions.shrink_to(QUEUE_KEPT);
            let spare = self.free_windows_idle.min(self.free_windows.len());
            self.free_windows.drain(..spare);
            self.free_windows_idle = self.free_windows.len();
        }
    }

    /// Gives up histories while memory is short, then closes the slowest consumers.
    fn relieve_memory(&mut self, now: Now) {
        self.shrink_history();
        if self.backlogged == 0 || !self.is_short_of_memory() {
            return;
        }
        let mut slow = std::mem::take(&mut self.slow);
        slow.clear();
        for (slot, connection) in self.connections.iter().enumerate() {
            if connection.flags.has(Flags::BACKLOGGED) && connection.state == connection::State::Open {
                slow.push((connection.queue_bytes, Key { slot: slot as u32, generation: connection.generation }));
            }
        }
        slow.sort_unstable_by_key(|(bytes, key)| (*bytes, key.slot));
        while self.stats.memory_bytes_held() >= self.flex_bytes_max / 10 * 9 {
            let Some((_, key)) = slow.pop() else { break };
            self.end_with_frame(now, key.slot, crate::close::CloseReason::MemoryPressure);
        }
        self.slow = slow;
    }

    /// Bytes that the driver keeps for paused connections, whenever it changes.
    pub fn handle_unread(&mut self, bytes: usize) {
        self.stats.memory_bytes[MemoryUse::Unread as usize] = bytes as u64;
    }

    /// The next thing to be done with a socket.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether anything is to be polled, or is only waiting for a submission to be settled: the driver must not wait for events.
    pub fn has_output(&self) -> bool {
        self.out.has_output()
            || !self.actions.is_empty()
            || !self.mesh.is_empty()
            || !self.active_rooms.is_empty()
            || !self.progressed.is_empty()
            || self.has_turns()
    }

    /// Sockets that the shard still holds; 0 after a drain has ended.
    pub fn sockets_held(&self) -> usize {
        self.stats.sockets_held as usize
    }

    /// What is counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
