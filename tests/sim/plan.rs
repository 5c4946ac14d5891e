//! What a seed means: the shape of the world, which kinds of fault it has, and every step of the workload.
//!
//! A step knows whom it is about and has random numbers of its own; what it finds is decided when it runs. So steps can be left
//! out, and the rest still means the same: that is how a failing workload is made small.

use crate::rng::Rng;
use throng::limits::Limits;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Fault { $($(#[$doc])* $name,)* }
        impl Fault {
            pub(crate) const ALL: &'static [Fault] = &[$(Fault::$name,)*];
        }
    };
}

faults! {
    /// A read ends anywhere, and the next begins there.
    SplitRead,
    /// Many messages come in one read.
    MergedRead,
    /// A lane delivers nothing for a while.
    LaneDelay,
    /// Lanes are served in any order, a few messages at a time.
    LaneReorder,
    /// A socket takes any part of a send, and may take nothing, although it has room.
    ShortSend,
    /// Failures of sends, events of sockets and answers to questions come in any order, and late.
    PermutedCompletion,
    /// Events of a connection come after it was closed, also when its slot is used again.
    StaleEvent,
    /// A shard's loop stands still while the others run.
    StalledLoop,
    /// A socket holds only a few bytes.
    FullSocket,
    /// A client reads a few bytes at a time.
    SlowReader,
    /// A client reads nothing.
    NeverReader,
    /// A client finishes sending without a close frame.
    HalfClose,
    /// A client's connection is reset.
    Reset,
    /// A client vanishes: nothing comes from it any more, and nothing says so.
    SilentDeath,
    /// A client answers a ping at the last moment.
    LateAnswer,
    /// A client closes, with all kinds of codes, and comes back at once.
    CloseFrame,
    /// A command comes again.
    DuplicateSeq,
    /// Commands come in any order.
    ReorderedSeq,
    /// Commands are lost, to be sent again when the server asks.
    LostSeq,
    /// Bytes that are no frame, or frames that are not allowed.
    GarbageFrame,
    /// Text that is not JSON, or not a command; binary messages.
    GarbageJson,
    /// Bytes that are no upgrade request; requests that are refused; requests that never end.
    GarbageRequest,
    /// Messages in fragments, with pings between them.
    Fragments,
    /// Lanes have few places.
    LaneFull,
    /// The wall clock jumps, in both directions.
    WallJump,
    /// The whole process stands still for a long time.
    Suspend,
    /// No more connections are admitted.
    AdmissionFull,
    /// Flexible memory is used up.
    MemoryBudget,
    /// Rooms and connections have small bounds.
    SmallBounds,
    /// A submission holds only a few operations.
    SmallRing,
    /// The server drains.
    Drain,
    /// A connection ends for one of its sides only, and what was on its way arrives late.
    OneSidedCut,
    /// The server can't be reached: connections are refused, never answered, or slow to be open.
    Unreachable,
    /// An application does not take what its client has for it.
    SlowApplication,
}

impl Fault {
    pub(crate) const COUNT: usize = Fault::ALL.len();
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a close frame of this code; `None`: without a code.
    Close(Option<u16>),
    HalfClose,
    Reset,
    Vanish,
}

/// How a client reads from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Fast,
    Slow,
    Never,
    /// Fast, but its socket holds little.
    Narrow,
}

/// How the network cuts the connection of a client machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Reset,
    /// The server sees an end of the stream.
    Eof,
    /// Nothing comes through, and nothing says so.
    Silence,
    /// Only the client notices.
    NearEnd,
    /// Only the server notices.
    FarEnd,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Join {
        room: u8,
        watches: bool,
        state: bool,
    },
    Leave {
        room: u8,
    },
    Publish {
        room: u8,
        bytes: u16,
        echo: bool,
    },
    /// Several publications, whose commands are shuffled (`lose`: and some not sent).
    Burst {
        room: u8,
        count: u8,
        lose: bool,
    },
    Volatile {
        room: u8,
    },
    SetState {
        room: u8,
    },
    Ask {
        room: u8,
    },
    Ping,
    /// An earlier command once more.
    Repeat,
    GarbageFrame,
    GarbageJson,
    /// A socket that says something else than a client would.
    GarbageRequest,
    End(End),
    Read(Reading),
    /// The connection of a client machine is cut.
    Cut(Cut),
    /// An application takes nothing for a while.
    Doze {
        ms: u16,
    },
    /// An application says its state, leaves the room, and joins it at once with another state.
    Rejoin {
        room: u8,
    },
    /// An application closes its client.
    CloseClient,
    Stall {
        ms: u16,
    },
    DelayLane {
        ms: u16,
    },
    WallJump,
    Suspend {
        ms: u32,
    },
    Drain,
}

/// One step of a workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Whom it is about.
    pub(crate) seat: u8,
    pub(crate) op: Op,
    /// Seed of the random numbers in it.
    pub(crate) seed: u64,
    /// Turns of every shard after it.
    pub(crate) rounds: u8,
    /// Time that passes in each of these, in ms.
    pub(crate) tick_ms: u8,
    /// Time that passes then, with everything in it, in ms.
    pub(crate) pass_ms: u16,
}

/// The world that the steps happen in.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) shards: usize,
    pub(crate) seats: usize,
    /// The first so many seats are of client machines, the others of peers that are written by hand.
    pub(crate) machines: usize,
    pub(crate) rooms: usize,
    pub(crate) limits: Limits,
    /// Bit `n`: has [`Fault`] `n`.
    pub(crate) faults: u64,
}

impl Shape {
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.faults & (1 << fault as u8) != 0
    }
}

/// A whole workload.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
    pub(crate) steps: Vec<Step>,
    /// The run is to fail: now and then a client does not hear what it was sent.
    pub(crate) canary: bool,
    /// A bug that is planted in the core.
    #[cfg(feature = "planted")]
    pub(crate) bug: Option<throng::planted::Bug>,
}

/// Shards of the usual workload.
const SHARDS: usize = 3;
/// Clients that are connected at a time.
const SEATS: usize = 50;
/// Operations of a workload.
pub(crate) const OPERATIONS: usize = 2_000;

impl Plan {
    /// The workload of a seed.
    pub(crate) fn new(seed: u64) -> Plan {
        let mut rng = Rng::new(seed);
        let shape = Shape::new(&mut rng);
        let drains = shape.has(Fault::Drain);
        let mut steps: Vec<Step> = (0..OPERATIONS).map(|_| step(&mut rng, &shape)).collect();
        if drains {
            let at = OPERATIONS - 1 - rng.index(200);
            steps[at].op = Op::Drain;
        }
        Plan {
            seed,
            shape,
            steps,
            canary: false,
            #[cfg(feature = "planted")]
            bug: None,
        }
    }
}

impl Shape {
    fn new(rng: &mut Rng) -> Shape {
        let mut faults = 0u64;
        for fault in Fault::ALL {
            let is_narrow = matches!(fault, Fault::Drain | Fault::MemoryBudget | Fault::AdmissionFull | Fault::SmallBounds);
            let one_in = if is_narrow { 8 } else { 2 };
            faults |= u64::from(rng.chance(one_in)) << *fault as u8;
        }
        // One world in eight has none of the faults, so that what is wrong without any is not hidden by them.
        if rng.chance(8) {
            faults = 0;
        }
        let shards = if rng.chance(8) { rng.pick(&[1, 2, 5]) } else { SHARDS };
        // A quarter to a half.
        let machines = SEATS / 4 + rng.index(SEATS / 4 + 1);
        let mut shape = Shape { shards, seats: SEATS, machines, rooms: 4 + rng.index(12), limits: Limits::default(), faults };
        let mut limits = Limits {
            connections_max: 10_000,
            presence_members_max: rng.pick(&[1_000, 1_000, 6]),
            message_bytes_max: 4_096,
            send_queue_bytes_max: rng.pick(&[256, 16]) * 1_024,
            presence_grace_ms: rng.pick(&[8_000, 8_000, 0]),
            resume_ttl_ms: rng.pick(&[120_000, 120_000, 120_000, 3_000]),
            history_publications_max: rng.pick(&[256, 256, 16, 0]),
            ..Limits::default()
        };
        if shape.has(Fault::LaneFull) {
            limits.lane_places = Some(rng.pick(&[4, 5, 7, 16]));
        }
        if shape.has(Fault::AdmissionFull) {
            limits.connections_max = SEATS * 3 / 4;
        }
        if shape.has(Fault::MemoryBudget) {
            limits.flex_bytes_max = shards * rng.pick(&[3, 6, 12, 24]) * 1_024;
        }
        if shape.has(Fault::SmallBounds) {
            limits.rooms_per_connection_max = 3;
            limits.members_per_room_max = 8;
        }
        shape.limits = limits;
        shape
    }
}

fn step(rng: &mut Rng, shape: &Shape) -> Step {
    let (rounds, pass_ms) = match rng.below(64) {
        0 => (1, 300 + rng.below(2_700)),
        1..=3 => (1, 1 + rng.below(200)),
        4..=24 => (0, 0),
        25..=52 => (1, 0),
        _ => (2, 0),
    };
    // Once in some hundred steps a good part of a heartbeat passes.
    let pass_ms = if rng.chance(300) { 5_000 + rng.below(15_000) } else { pass_ms };
    let seat = rng.index(shape.seats);
    let op = if seat < shape.machines { client_op(rng, shape) } else { op(rng, shape) };
    Step { seat: seat as u8, op, seed: rng.next(), rounds: rounds as u8, tick_ms: rng.below(12) as u8, pass_ms: pass_ms as u16 }
}

fn op(rng: &mut Rng, shape: &Shape) -> Op {
    // A few rooms are busier than the others.
    let room = rng.index(shape.rooms).min(rng.index(shape.rooms)) as u8;
    let publish = |rng: &mut Rng| Op::Publish { room, bytes: publication_bytes(rng), echo: rng.chance(3) };
    match rng.below(100) {
        0..=13 => Op::Join { room, watches: rng.chance(3), state: rng.chance(3) },
        14..=21 => Op::Leave { room },
        22..=26 => Op::SetState { room },
        27..=28 => Op::Ask { room },
        29 => Op::Ping,
        30..=33 => Op::Volatile { room },
        34..=43 => faulty(rng, shape, room).unwrap_or_else(|| publish(rng)),
        _ => publish(rng),
    }
}

/// An operation of an application with a client machine, or of the network between.
fn client_op(rng: &mut Rng, shape: &Shape) -> Op {
    let room = rng.index(shape.rooms).min(rng.index(shape.rooms)) as u8;
    match rng.below(100) {
        0..=13 => Op::Join { room, watches: rng.chance(3), state: rng.chance(3) },
        14..=18 => Op::Leave { room },
        19..=23 => Op::SetState { room },
        24..=27 => Op::Volatile { room },
        28 => Op::Rejoin { room },
        29..=38 => client_fault(rng, shape, room),
        39 if rng.chance(4) => Op::CloseClient,
        40..=46 => Op::Burst { room, count: 2 + rng.below(10) as u8, lose: false },
        _ => Op::Publish { room, bytes: publication_bytes(rng), echo: rng.chance(3) },
    }
}

/// A fault of a client machine's network or application, or of the world, if this one has any of the kind.
fn client_fault(rng: &mut Rng, shape: &Shape, room: u8) -> Op {
    let (fault, op) = match rng.below(10) {
        0 => (Fault::Reset, Op::Cut(Cut::Reset)),
        1 => (Fault::HalfClose, Op::Cut(Cut::Eof)),
        2 => (Fault::SilentDeath, Op::Cut(Cut::Silence)),
        3 => (Fault::OneSidedCut, Op::Cut(Cut::NearEnd)),
        4 => (Fault::OneSidedCut, Op::Cut(Cut::FarEnd)),
        5 => (Fault::SlowApplication, Op::Doze { ms: 1 + rng.below(12_000) as u16 }),
        6 => (Fault::SlowReader, Op::Read(Reading::Slow)),
        7 => (Fault::FullSocket, Op::Read(Reading::Narrow)),
        8 if rng.chance(2) => (Fault::NeverReader, Op::Read(Reading::Never)),
        _ => return faulty(rng, shape, room).unwrap_or(Op::Ping),
    };
    if shape.has(fault) { op } else { Op::Ping }
}

fn publication_bytes(rng: &mut Rng) -> u16 {
    match rng.below(32) {
        0 => 1_500 + rng.below(2_000) as u16,
        1..=4 => 100 + rng.below(400) as u16,
        _ => rng.below(60) as u16,
    }
}

/// An operation that is a fault, if the world has one of the kind that was drawn.
fn faulty(rng: &mut Rng, shape: &Shape, room: u8) -> Option<Op> {
    let fault = rng.pick(Fault::ALL);
    if !shape.has(fault) {
        return None;
    }
    Some(match fault {
        Fault::StalledLoop => Op::Stall { ms: 1 + rng.below(3_000) as u16 },
        Fault::LaneDelay => Op::DelayLane { ms: 1 + rng.below(2_000) as u16 },
        Fault::FullSocket => Op::Read(Reading::Narrow),
        Fault::SlowReader => Op::Read(Reading::Slow),
        Fault::NeverReader => Op::Read(Reading::Never),
        Fault::HalfClose => Op::End(End::HalfClose),
        Fault::Reset => Op::End(End::Reset),
        Fault::SilentDeath => Op::End(End::Vanish),
        Fault::CloseFrame => Op::End(End::Close(rng.pick(&[None, Some(1000), Some(1001), Some(1011), Some(4900), Some(4901)]))),
        Fault::DuplicateSeq => Op::Repeat,
        Fault::ReorderedSeq => Op::Burst { room, count: 2 + rng.below(6) as u8, lose: false },
        Fault::LostSeq => Op::Burst { room, count: 2 + rng.below(6) as u8, lose: true },
        Fault::GarbageFrame => Op::GarbageFrame,
        Fault::GarbageJson => Op::GarbageJson,
        Fault::GarbageRequest => Op::GarbageRequest,
        Fault::WallJump => Op::WallJump,
        Fault::Suspend if rng.chance(8) => Op::Suspend { ms: 1_000 + rng.below(120_000) as u32 },
        Fault::Suspend
        | Fault::SplitRead
        | Fault::MergedRead
        | Fault::LaneReorder
        | Fault::ShortSend
        | Fault::PermutedCompletion
        | Fault::StaleEvent
        | Fault::Fragments
        | Fault::LateAnswer
        | Fault::LaneFull
        | Fault::AdmissionFull
        | Fault::MemoryBudget
        | Fault::SmallBounds
        | Fault::SmallRing
        | Fault::OneSidedCut
        | Fault::Unreachable
        | Fault::SlowApplication
        | Fault::Drain => Op::Read(Reading::Fast),
    })
}
