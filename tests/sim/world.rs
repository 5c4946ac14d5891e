//! The world of one run: shards, sockets, lanes, clients, a clock that moves only when it is told to, and the steps that happen.

use crate::client::Client;
use crate::driver::{Driver, LaneQueue};
use crate::peer::{Gone, Kind, Peer};
use crate::plan::{Fault, Op, Plan, Shape, Step};
use crate::rng::Rng;
use crate::room::Room;
use crate::socket::{Pipe, Socket};
use crate::told::Tally;
use crate::watch::Sessions;
use throng::shard::{Ended, Order, Shard, ShardConfig, ShardId, Stats};
use throng::time::{Millis, Now, WallMillis};
use throng::ws::Opcode;

/// Rounds in which everything that is due without time going on must have happened.
const ROUNDS_MAX: usize = 200_000;
/// Moments that are handled at one and the same time, after which a deadline is taken to stay due.
const SAME_TIME_MAX: usize = 1_000;
/// Slots of a shard's table: seats, and places for those that linger.
const SLOTS: usize = 80;
/// Steps between two looks at what holds at any time.
const LOOK_EVERY: usize = 16;
/// Steps between two times that a shard is asked whether everything adds up.
const VERIFY_EVERY: usize = 128;
/// Bytes that a reader with a rate may read at once after a pause.
const READ_CREDIT_MAX: u64 = 64 * 1024;
/// Lines of a trace that are kept.
const TRACE_LINES_MAX: usize = 2_000_000;

/// Writes a line into the trace, if there is one.
macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.trace.is_some() {
            let line = format!($($text)*);
            $world.note(line);
        }
    };
}

pub(crate) struct World<'plan> {
    pub(crate) plan: &'plan Plan,
    pub(crate) shape: &'plan Shape,
    pub(crate) rng: Rng,
    pub(crate) now: Now,
    /// When the world began.
    pub(crate) started: Millis,
    pub(crate) drivers: Vec<Driver>,
    /// One socket and one peer for each connection there ever was.
    pub(crate) sockets: Vec<Socket>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) seats: Vec<Option<usize>>,
    /// Every client machine there ever was, and those in their seats.
    pub(crate) clients: Vec<Client>,
    pub(crate) client_seats: Vec<Option<usize>>,
    /// Connections of which something may still come.
    pub(crate) active: Vec<usize>,
    pub(crate) lanes: Vec<[LaneQueue; 2]>,
    pub(crate) places: usize,
    pub(crate) rooms: Vec<Room>,
    pub(crate) sessions: Sessions,
    /// Connections that count towards `connections_max`.
    pub(crate) admitted: usize,
    /// How often each kind of fault has happened.
    pub(crate) seen: [u64; Fault::COUNT],
    /// No more faults happen.
    pub(crate) calm: bool,
    /// By when the drain has told everybody.
    pub(crate) drain_by: Option<Millis>,
    /// Time that stalls and delays may have added to any bound, in ms.
    pub(crate) disturbance_ms: u64,
    /// When the last of them is over.
    pub(crate) disturbed_until: Millis,
    /// Every so many broadcasts one is not heard, to see that the checkers notice.
    pub(crate) canary: bool,
    /// Frames that clients have read.
    pub(crate) frames: u64,
    /// Broadcasts among them.
    pub(crate) broadcasts: u64,
    /// Joins after which publications were recovered.
    pub(crate) recoveries: u64,
    /// Members that were told of a gap.
    pub(crate) gaps: u64,
    pub(crate) tally: Tally,
    pub(crate) step: usize,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) read_buffer: Vec<u8>,
}

impl<'plan> World<'plan> {
    pub(crate) fn new(plan: &'plan Plan, traced: bool) -> World<'plan> {
        let shape = &plan.shape;
        let shards = shape.shards;
        let now = Now { mono: Millis(1_000_000), wall: WallMillis(1_700_000_000_000) };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&plan.seed.to_le_bytes());
        let drivers = (0..shards).map(|id| {
            let limits = shape.limits.clone();
            let config = ShardConfig { id: ShardId(id as u16), shards, slots: SLOTS, limits, echo: false, seed, secret: seed };
            Driver::new(Shard::new(config, now), SLOTS)
        });
        World {
            plan,
            shape,
            rng: Rng::new(plan.seed),
            now,
            started: now.mono,
            drivers: drivers.collect(),
            sockets: Vec::new(),
            peers: Vec::new(),
            seats: vec![None; shape.seats],
            clients: Vec::new(),
            client_seats: vec![None; shape.machines],
            active: Vec::new(),
            lanes: (0..shards * shards).map(|_| Default::default()).collect(),
            places: shape.limits.lane_places(shards),
            rooms: (0..shape.rooms).map(Room::new).collect(),
            sessions: Sessions::default(),
            admitted: 0,
            seen: [0; Fault::COUNT],
            calm: false,
            drain_by: None,
            disturbance_ms: 0,
            disturbed_until: now.mono,
            canary: plan.canary,
            frames: 0,
            broadcasts: 0,
            recoveries: 0,
            gaps: 0,
            tally: Tally::default(),
            step: 0,
            trace: traced.then(Vec::new),
            read_buffer: Vec::new(),
        }
    }

    /// Plays all steps, then lets everything settle, and judges.
    pub(crate) fn play(&mut self) {
        let plan = self.plan;
        for (number, step) in plan.steps.iter().enumerate() {
            self.step = number;
            self.play_step(step);
        }
        self.step = plan.steps.len();
        self.rng = Rng::new(plan.seed ^ 1);
        self.settle();
        self.judge();
        self.end_all();
    }

    fn play_step(&mut self, step: &Step) {
        self.rng = Rng::new(step.seed);
        trace!(self, "step {} at {}: {:?} by seat {}", self.step, self.now.mono.0, step.op, step.seat);
        match step.op {
            Op::Stall { ms } => self.stall(u64::from(ms)),
            Op::DelayLane { ms } => self.delay_lane(u64::from(ms)),
            Op::WallJump => self.jump_wall(),
            Op::Suspend { ms } => self.suspend(u64::from(ms)),
            Op::Drain => self.drain(),
            Op::GarbageRequest => self.garbage_request(),
            op @ (Op::Join { .. }
            | Op::Leave { .. }
            | Op::Publish { .. }
            | Op::Burst { .. }
            | Op::Volatile { .. }
            | Op::SetState { .. }
            | Op::Ask { .. }
            | Op::Ping
            | Op::Repeat
            | Op::GarbageFrame
            | Op::GarbageJson
            | Op::End(_)
            | Op::Cut(_)
            | Op::Doze { .. }
            | Op::Rejoin { .. }
            | Op::CloseClient
            | Op::Read(_)) => {
                if usize::from(step.seat) < self.shape.machines {
                    self.act_as_client(usize::from(step.seat), op);
                } else if let Some(id) = self.sit(usize::from(step.seat)) {
                    self.act_as(id, op);
                }
            }
        }
        for _ in 0..step.rounds {
            self.set_time(self.now.mono.after(u64::from(step.tick_ms)));
            self.round();
        }
        if step.pass_ms > 0 {
            self.pass(u64::from(step.pass_ms));
        }
        if self.step.is_multiple_of(LOOK_EVERY) {
            self.look();
        }
        if self.step.is_multiple_of(VERIFY_EVERY) {
            self.verify();
        }
    }

    // ---- faults of the world --------------------------------------------------------------------------------------------

    fn stall(&mut self, ms: u64) {
        self.seen[Fault::StalledLoop as usize] += 1;
        let shard = self.rng.index(self.drivers.len());
        self.stall_shard(shard, ms);
    }

    fn stall_shard(&mut self, shard: usize, ms: u64) {
        let now = self.now.mono;
        let driver = &mut self.drivers[shard];
        driver.stalled_from.get_or_insert(now);
        driver.stalled_until = driver.stalled_until.max(now.after(ms));
        self.disturb(ms);
    }

    fn disturb(&mut self, ms: u64) {
        self.disturbance_ms += ms;
        self.disturbed_until = self.disturbed_until.max(self.now.mono.after(ms));
    }

    fn delay_lane(&mut self, ms: u64) {
        self.seen[Fault::LaneDelay as usize] += 1;
        let lanes = self.lanes.len();
        let (lane, kind) = (self.rng.index(lanes), self.rng.index(2));
        self.lanes[lane][kind].until = self.now.mono.after(ms);
        self.disturb(ms);
    }

    fn jump_wall(&mut self) {
        self.seen[Fault::WallJump as usize] += 1;
        let ms = self.rng.below(7_200_000);
        self.now.wall.0 = if self.rng.chance(2) { self.now.wall.0 + ms } else { self.now.wall.0 - ms };
    }

    /// The whole process, and its clients, stand still.
    fn suspend(&mut self, ms: u64) {
        self.seen[Fault::Suspend as usize] += 1;
        for shard in 0..self.drivers.len() {
            self.stall_shard(shard, ms);
        }
        self.set_time(self.now.mono.after(ms));
    }

    fn drain(&mut self) {
        if self.drain_by.is_some() {
            return;
        }
        self.seen[Fault::Drain as usize] += 1;
        let by = self.now.mono.after(self.rng.below(5_000));
        self.drain_by = Some(by);
        for id in self.active.clone() {
            self.peers[id].allow(&[4200]);
            self.peers[id].may_cut = true;
        }
        for shard in 0..self.drivers.len() {
            self.drivers[shard].shard.handle_order(self.now, Order::Drain { by });
        }
    }

    /// A socket that does not say what a client says.
    fn garbage_request(&mut self) {
        let shard = self.rng.index(self.drivers.len());
        let Some(id) = self.open_socket(shard) else { return };
        self.seen[Fault::GarbageRequest as usize] += 1;
        let requests: [&[u8]; 8] = [
            b"",
            b"GET /ws HTTP/1.1\r\nHost: he",
            b"GET /ws HTTP/1.1\r\nHost: here\r\n\r\n",
            b"GET /nowhere HTTP/1.1\r\nHost: here\r\n\r\n",
            b"POST /ws HTTP/1.1\r\nHost: here\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n",
            b"GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
        ];
        let request = self.rng.pick(&requests);
        self.sockets[id].to_server.push(request);
        match self.rng.below(8) {
            0 => self.sockets[id].to_server.push(&[b'x'; 9_000]),
            1 => self.sockets[id].end = Some(Ended::Eof),
            2 => self.sockets[id].end = Some(Ended::Error),
            _ => {}
        }
        self.peers[id].may_cut = true;
        self.gone(id);
    }

    // ---- sockets --------------------------------------------------------------------------------------------------------

    /// A socket that is accepted and has sent nothing, with a peer who is nobody yet.
    pub(crate) fn open_socket(&mut self, shard: usize) -> Option<usize> {
        let id = self.sockets.len();
        let Some(key) = self.drivers[shard].open(id) else {
            self.seen[Fault::AdmissionFull as usize] += 1;
            return None;
        };
        let admitted = self.admitted < self.shape.limits.connections_max;
        self.admitted += usize::from(admitted);
        self.seen[Fault::AdmissionFull as usize] += u64::from(!admitted);
        self.sockets.push(Socket::new(shard, key, admitted));
        let is_short = self.shape.has(Fault::MemoryBudget);
        let mut may_close = Vec::new();
        if is_short {
            may_close.extend_from_slice(&[4102, 4103, 4100]);
        }
        if self.shape.has(Fault::ShortSend) || self.shape.limits.send_queue_bytes_max < 64 * 1024 {
            may_close.push(4102);
        }
        if self.drain_by.is_some() {
            may_close.push(4200);
        }
        self.peers.push(Peer {
            client: None,
            kind: Kind::V1,
            user: 0,
            session: None,
            is_welcome: false,
            first_seq: 1,
            acked: 0,
            commands: Vec::new(),
            publications: Vec::new(),
            volatiles: 0,
            questions: 0,
            members: Vec::new(),
            stands: Vec::new(),
            past: Vec::new(),
            wants: Vec::new(),
            read_rate: None,
            read_credit: 0,
            is_upgraded: false,
            may_close,
            may_cut: !admitted || is_short || self.drain_by.is_some(),
            may_err: false,
            is_ended: false,
            gone: None,
            heard_code: None,
            late: None,
            unanswered: 0,
            is_done: false,
        });
        self.active.push(id);
        Some(id)
    }

    /// A peer has ended, or will: nothing more is heard of it.
    pub(crate) fn gone(&mut self, id: usize) {
        let gone = self.gone_now();
        let peer = &mut self.peers[id];
        peer.is_ended = true;
        peer.gone.get_or_insert(gone);
    }

    /// What is over from now on.
    pub(crate) fn gone_now(&self) -> Gone {
        let at = self.now.mono;
        let stalls = self.drivers.iter().map(|driver| driver.stalled_until.since(at));
        let delays = self.lanes.iter().flatten().map(|lane| lane.until.since(at));
        // What is under way still counts.
        let ahead_ms: u64 = stalls.chain(delays).sum();
        Gone { at, disturbance_ms: self.disturbance_ms.saturating_sub(ahead_ms) }
    }

    // ---- time -----------------------------------------------------------------------------------------------------------

    /// Lets everything happen that needs no time.
    pub(crate) fn run(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if !self.round() {
                return;
            }
        }
        fail!("endless run", "something goes on for ever without time passing");
    }

    /// Lets `ms` pass, with every deadline in it met in order.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now.mono.after(ms);
        self.run();
        let mut same = 0;
        while let Some(due) = self.next_due().filter(|due| *due <= end) {
            let to = due.max(self.now.mono);
            same = if to == self.now.mono { same + 1 } else { 0 };
            check!(same < SAME_TIME_MAX, "endless deadline", "a deadline stays due");
            self.set_time(to);
            self.run();
        }
        self.set_time(end);
        self.run();
    }

    pub(crate) fn set_time(&mut self, to: Millis) {
        let ms = to.since(self.now.mono);
        self.now.wall.0 += ms;
        self.now.mono = to;
        for id in &self.active {
            let peer = &mut self.peers[*id];
            if let Some(rate) = peer.read_rate {
                peer.read_credit = (peer.read_credit + ms * u64::from(rate)).min(READ_CREDIT_MAX * 1_000);
            }
        }
    }

    fn next_due(&self) -> Option<Millis> {
        let now = self.now.mono;
        let sockets = self.active.iter().map(|id| &self.sockets[*id]);
        let told = |socket: &Socket| socket.hung_up.map(|due| due.max(self.drivers[socket.shard].stalled_until));
        let hangups = sockets.filter(|socket| !socket.closed).filter_map(told);
        let lanes = self.lanes.iter().flatten().filter(|lane| !lane.queue.is_empty() && lane.until > now).map(|lane| lane.until);
        let drivers = self.drivers.iter().filter_map(|driver| match driver.stalled_from {
            Some(_) => Some(driver.stalled_until),
            None => driver.shard.poll_timeout(),
        });
        let answers = self.active.iter().filter_map(|id| self.peers[*id].late.as_ref()).map(|late| late.at);
        drivers.chain(hangups).chain(lanes).chain(answers).chain(self.client_due()).min()
    }

    /// One turn of each shard, and one read of each client. Whether there is anything left to do.
    pub(crate) fn round(&mut self) -> bool {
        let shards = self.drivers.len();
        let mut busy = false;
        let first = if self.shape.has(Fault::PermutedCompletion) { self.rng.index(shards) } else { 0 };
        for step in 0..shards {
            busy |= self.turn((first + step) % shards);
        }
        let mut at = 0;
        while let Some(&id) = self.active.get(at) {
            busy |= self.read(id);
            if self.peers[id].is_done {
                self.active.swap_remove(at);
            } else {
                at += 1;
            }
        }
        busy | self.clients_turn()
    }

    /// A client reads what it may.
    fn read(&mut self, id: usize) -> bool {
        if let Some(client) = self.peers[id].client {
            return self.read_as_client(id, client);
        }
        let now = self.now.mono;
        if let Some(late) = self.peers[id].late.take_if(|late| late.at <= now) {
            self.peers[id].unanswered += i32::from(late.opcode == Opcode::Text);
            self.send_frame(id, late.opcode, &late.payload);
        }
        let socket = &mut self.sockets[id];
        let peer = &mut self.peers[id];
        if socket.closed && (socket.to_client.is_empty() || socket.vanished || socket.end == Some(Ended::Error)) {
            peer.is_done = true;
            self.see_end(id);
            return false;
        }
        if socket.vanished || socket.end == Some(Ended::Error) || socket.to_client.is_empty() {
            return false;
        }
        let mut count = socket.to_client.len();
        if peer.read_rate.is_some() {
            count = count.min((peer.read_credit / 1_000) as usize);
            peer.read_credit -= 1_000 * count as u64;
            if count == 0 {
                return false;
            }
        }
        let mut received = std::mem::take(&mut socket.received);
        socket.to_client.take(count, received.tail());
        self.hear(id, &mut received);
        self.sockets[id].received = received;
        true
    }

    /// Drops what a peer has not read.
    pub(crate) fn forget_unread(&mut self, id: usize) {
        self.sockets[id].to_client = Pipe::default();
    }

    /// A gauge or counter, over all shards.
    pub(crate) fn sum(&self, of: impl Fn(&Stats) -> u64) -> u64 {
        self.drivers.iter().map(|driver| of(driver.shard.stats())).sum()
    }

    pub(crate) fn note(&mut self, line: String) {
        if let Some(trace) = self.trace.as_mut().filter(|trace| trace.len() < TRACE_LINES_MAX) {
            trace.push(line);
        }
    }
}
