//! Every bound of the server: its name and unit, why it has its value, and what happens when it is reached.
//!
//! Constants are fixed for the build; [`Limits`] holds what an operator may set. Relations between bounds are `const` assertions
//! at the end, so that a change which breaks one does not compile. `control::memory` adds everything up.

use crate::time::TICK_MS;

// ---- the wire ---------------------------------------------------------------------------------------------------------------

/// Bytes of an upgrade request, request line and headers: room for cookies and tokens. Above: 431 and close.
pub const REQUEST_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Headers of an upgrade request: far more than browsers and proxies send. Above: 431 and close.
pub const REQUEST_HEADERS_MAX: usize = 64;
/// Time from accept to a complete upgrade, and from there to the `connect` frame, in ms. Above: close. Ends a header drip.
pub const HANDSHAKE_DEADLINE_MS: u64 = 10_000;
/// Time for the peer to answer our close frame, and for an HTTP refusal to be read, in ms. Above: the socket is closed as it is.
pub const CLOSE_LINGER_MS: u64 = 2_000;
/// Payload of a control frame in bytes (RFC 6455 §5.5). Above: 1002.
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;
/// Assemblers that a shard keeps for their next use. Above: they go back to the allocator.
pub const ASSEMBLERS_POOLED_MAX: usize = 1_024;
/// Bytes of the buffer of an assembler that is kept. Above: the buffer goes back to the allocator.
pub const ASSEMBLER_BUFFER_BYTES_POOLED_MAX: usize = 64 * 1024;
/// Bytes of all assemblers that a shard keeps. Above: they go back to the allocator.
pub const ASSEMBLER_POOL_BYTES_MAX: usize = 1024 * 1024;
/// Subprotocols that an upgrade request may offer. Above: 400. Bounds the search for duplicates.
pub const REQUEST_SUBPROTOCOLS_MAX: usize = 32;
/// Nesting of `data` and `state`. Above: `error` `bad_json`.
pub const DATA_DEPTH_MAX: usize = 128;
/// Nesting of the envelope itself. Above: `error` `bad_json`.
pub const ENVELOPE_DEPTH_MAX: usize = 8;
/// Bytes of a room id, as unescaped UTF-8. Above: `error`.
pub const ROOM_ID_BYTES_MAX: usize = 256;
/// Bytes of a user id, as unescaped UTF-8. Above: `error`.
pub const USER_ID_BYTES_MAX: usize = 128;
/// Bytes of the raw JSON of an `id` that a question carries and its answer repeats. Above: `error`.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Bytes of a publication's `key`. Above: `error`.
pub const KEY_BYTES_MAX: usize = 256;
/// The largest integer on the wire: 2^53 - 1, the largest that a JavaScript client holds exactly.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;
/// Bytes of one page of members. Above: the page carries a `cursor`.
pub const PRESENCE_PAGE_BYTES_MAX: usize = 32 * 1024;

// ---- sessions and sequence --------------------------------------------------------------------------------------------------

/// Time for which a session without a connection may be resumed, in ms. At it the session ends.
pub const RESUME_TTL_MS: u64 = 120_000;
/// Tokens of earlier connections of a session that hold at most. Beyond: the oldest does not hold any more.
pub const RESUME_TOKENS_MAX: u8 = 16;
/// Undecided commands of a session. At it the server stops reading the connection. 64, so that decided ones fit a `u64` map.
pub const WINDOW: u32 = 64;
/// Commands in a session's reorder buffer. At it the buffer is freed and `nack` sent again.
pub const REORDER_COMMANDS_MAX: usize = 64;
/// Bytes in a session's reorder buffer. At it the buffer is freed and `nack` sent again.
pub const REORDER_BYTES_MAX: usize = 64 * 1024;
/// Age of the oldest command in a reorder buffer, in ms. At it: `throng.v1` frees and nacks, plain executes and says `seq_skipped`.
pub const REORDER_AGE_MS: u64 = 2_000;
/// Times that the reorder buffer of one gap may overflow or expire. At it: 4203.
pub const REORDER_FAILURES_MAX: u8 = 3;

/// Connections a second that a shard wishes to take back after everybody was lost: a sixth of what one on a busy machine does take
/// (`tests/run --long reconnect-flood`: 2,000 in 0.6 s), so that those who are back are served meanwhile. Tells clients `spreadMs`;
/// nobody is refused by it.
pub const ADMISSIONS_PER_SECOND: u64 = 500;
/// The longest `spreadMs`, in ms: beyond it, a crash would keep people away longer than it lasts.
pub const SPREAD_MS_MAX: u64 = 60_000;

// ---- sending ----------------------------------------------------------------------------------------------------------------

/// Bytes that one send may coalesce by copying. Above: another send in the next submission.
pub const COALESCE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the scratch that coalesced sends of one submission share. Full: the driver submits and settles, then goes on. Fuzzers
/// make thousands of shards a second, and are to see it full: they get a small one.
pub const SCRATCH_BYTES: usize = if cfg!(feature = "fuzzing") { 3 * COALESCE_BYTES_MAX } else { 1024 * 1024 };
/// Bytes of frames that are encoded in one loop turn, each counted once however many it is for. At it the rest of the turn's input
/// waits for the next turn, so that a burst of input does not become a burst of memory.
pub const TURN_BYTES_MAX: usize = 256 * 1024;
/// Deliveries of fan-out in one loop turn, per shard. At it the passes pause until the next turn (about 2 µs a delivery).
pub const FANOUT_PER_TURN: usize = 4_096;
/// Fan-out passes that wait on one shard. At it the shard takes no further consequence until one is done.
pub const PASSES_MAX: usize = 4_096;
/// Bytes of recycled frame buffers that a shard keeps. Above: they go back to the allocator.
pub const FRAME_POOL_BYTES_MAX: usize = 4 * 1024 * 1024;

// ---- shards and lanes -------------------------------------------------------------------------------------------------------

/// Shards of a process. 10 bits of a session's id.
pub const SHARDS_MAX: usize = 1_024;
/// Connections of one shard. 22 bits of a session's id.
pub const SHARD_CONNECTIONS_MAX: usize = 1 << 22;
/// Free places that a home needs in every consequence lane that a command may touch before it takes the command.
pub const CONSEQUENCES_PER_COMMAND_MAX: usize = 4;
/// Places of all lanes into one shard, shared out among its peers. Full: senders wait, back to the socket.
pub const LANE_PLACES_TOTAL: usize = 8_192;
/// Places of one lane at least.
pub const LANE_PLACES_MIN: usize = 32;
/// Bytes of payload that one lane may hold, beyond one message of any size. Full: as a full lane.
pub const LANE_BYTES_MAX: usize = 1024 * 1024;
/// Mesh messages taken in one loop turn. At it the rest waits for the next turn.
pub const MESH_PER_TURN: usize = 4_096;

/// Places of one lane between two of `shards` shards.
pub const fn lane_places(shards: usize) -> usize {
    let share = LANE_PLACES_TOTAL / if shards == 0 { 1 } else { shards };
    if share < LANE_PLACES_MIN { LANE_PLACES_MIN } else { share }
}

// ---- the ring ---------------------------------------------------------------------------------------------------------------

/// Entries of a submission queue. Full: submit and settle.
pub const SUBMISSION_ENTRIES: u32 = 4_096;
/// Entries of a completion queue. Beyond it the kernel keeps an overflow list, which is flushed and counted.
pub const COMPLETION_ENTRIES: u32 = 32_768;
/// Completions handled in one turn. At it the rest waits for the next turn.
pub const COMPLETIONS_PER_TURN: usize = 8_192;
/// Receive buffers of a shard; with `INC` each serves many small receives. All taken: receives end with ENOBUFS, and are armed again
/// when a buffer is free.
pub const RECEIVE_BUFFERS: u16 = 32;
/// Bytes of one receive buffer: one message of the default size. A longer one comes in pieces.
pub const RECEIVE_BUFFER_BYTES: u32 = 64 * 1024;
/// Unread bytes that the driver keeps for all paused connections of a shard. Above: the largest is closed with 4103.
pub const STASH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Places for sockets that are being refused, per shard. At it accepting pauses, so that a refusal can still be said.
pub const REFUSALS_IN_FLIGHT_MAX: usize = 256;
/// Unsent bytes that the kernel queues for a socket (`TCP_NOTSENT_LOWAT`): what a ping may have to wait behind. Above: the socket is
/// not writable, and what is to be sent waits in the connection's own queue.
pub const NOTSENT_LOWAT_BYTES: u32 = 16 * 1024;
/// Bytes that a socket's send buffer may hold (`SO_SNDBUF`; the kernel doubles it): what a peer that acknowledges nothing pins.
/// Full: as above.
pub const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Pending connections of a listener; the kernel clips it to `net.core.somaxconn`. Above: SYNs are dropped and tried again by the peer.
pub const LISTEN_BACKLOG: i32 = 65_535;

// ---- rooms and presence -----------------------------------------------------------------------------------------------------

/// Window over which presence changes of a room are joined into one diff, in ms. Who comes and goes within it is not told.
pub const PRESENCE_COALESCE_MS: u64 = 250;
/// The same for rooms above [`PRESENCE_SLOW_MEMBERS`], and the period of `counts`.
pub const PRESENCE_COALESCE_SLOW_MS: u64 = 1_000;
/// Members above which diffs are sent once a second.
pub const PRESENCE_SLOW_MEMBERS: u32 = 100;
/// The default age of a history, and how long a room's epoch, offset and history then outlive its last member, in ms.
pub const ROOM_IDLE_MS: u64 = 600_000;
/// Rooms without members that a shard keeps. Above: the oldest is forgotten early, and counted.
pub const ROOMS_IDLE_MAX: usize = 65_536;
/// Keys of a room whose publications supersede one another in its history. Above: a publication with yet another key is kept as if
/// it had none, so nothing is lost.
pub const HISTORY_KEYS_MAX: u32 = 64;
/// Bytes that one read of a history hands over, unless a single publication is larger. What is left waits in the history, not in
/// the member's queue, so this is what a slow member costs.
pub const RECOVERY_CHUNK_BYTES_MAX: usize = 16 * 1024;
/// Bytes of one page of a `history` answer. Above: it says that there is `more`.
pub const HISTORY_PAGE_BYTES_MAX: usize = 32 * 1024;
/// Publications whose age is looked at in one loop turn. At it the rest waits for the next turn.
pub const HISTORY_EXPIRIES_PER_TURN: usize = 4_096;
/// Time for which a room keeps up to [`HISTORY_PROMISE_FACTOR`] times as much as its bounds, after it has promised a member everything
/// that it missed, in ms. A member that has not read it by then is slow, and may be told a gap.
pub const HISTORY_PROMISE_MS: u64 = 2_000;
/// See [`HISTORY_PROMISE_MS`]. At it the oldest publication goes, promised or not.
pub const HISTORY_PROMISE_FACTOR: usize = 2;
/// TLS handshakes of a shard that are under way at once: about 4 KiB each, and the most expensive thing that a stranger can ask for.
/// Above: a new connection to the TLS listener is closed at once, and counted as refused.
pub const HANDSHAKES_MAX: usize = 1_024;
/// Bytes of plaintext that one send of a connection seals: four records. What is more waits for the next submission.
pub const SEALED_BYTES_MAX: usize = 64 * 1024;
/// Time between two looks for publications that are too old, in ms: many go in one turn, and an idle shard rarely wakes up.
pub const HISTORY_SWEEP_MS: u64 = 1_000;
/// What of a send queue may be filled before a `throng.v1` member of a room with history is fed from there: one part in this many.
pub const LAG_SHARE: usize = 4;
/// What of the flexible memory all histories may take where nothing else is said: one part in this many.
pub const HISTORY_MEMORY_SHARE: usize = 4;
/// Time that a change may wait between two shards under load, in ms: an allowance in the ghost bound. Nothing is cut off at it.
pub const MESH_DELAY_MS: u64 = 500;
/// The ghost bound: a vanished peer is gone from every presence within this time, in ms.
pub const GHOST_BOUND_MS: u64 = 30_000;

// ---- memory -----------------------------------------------------------------------------------------------------------------

/// Bytes of records that one connection may take: connection, session, one membership with presence, its user. What more rooms take
/// is charged to the flexible memory.
pub const CONNECTION_BYTES_MAX: usize = 256;
/// The same where there is a TLS listener: records, their keys and their place.
pub const TLS_CONNECTION_BYTES_MAX: usize = 512;
/// Bytes of an upgrade in flight: its partial head and its answer. A share of the memory plan; what one takes is bounded by its head.
pub const HANDSHAKE_BYTES_MAX: usize = REQUEST_HEAD_BYTES_MAX + 1024;
/// Bytes of the process itself: program, allocator, control plane. A share of the memory plan.
pub const PROCESS_BYTES: usize = 8 * 1024 * 1024;
/// Smallest budget in bytes for what is not reserved: assemblers, backlogs, reorder buffers, presence state, rooms. Below: the start
/// is refused.
pub const FLEX_BYTES_MIN: usize = 8 * 1024 * 1024;
/// That budget where `--memory-max` does not say.
pub const FLEX_BYTES_DEFAULT: usize = 256 * 1024 * 1024;

/// What an operator may set. [`Limits::default`] is PROTOCOL §8.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Connections over all shards. The next gets 503 with `Retry-After`.
    pub connections_max: usize,
    /// Bytes that the process may use beyond its fixed part and its reserved records (`flex`), over all shards. When it runs
    /// short: refuse new connections, then close the slowest consumers.
    pub flex_bytes_max: usize,
    /// Bytes of a message. Above: close 1009.
    pub message_bytes_max: usize,
    /// Bytes that wait for a connection's socket. Above: 4102. Never less than two messages.
    pub send_queue_bytes_max: usize,
    /// Rooms of a connection. Above: `error` `too_many_rooms`.
    pub rooms_per_connection_max: usize,
    /// Members of a room. Above: `error` `room_full`.
    pub members_per_room_max: usize,
    /// Members up to which a room has a list and diffs. Above: counts.
    pub presence_members_max: usize,
    /// Bytes of the presence state of a connection. Above: `error` `state_too_large`.
    pub presence_state_bytes_max: usize,
    /// Publications that a room keeps for those who missed them; 0: none. At it the oldest goes ([`HISTORY_PROMISE_MS`]: a little later).
    pub history_publications_max: usize,
    /// Bytes of the publications that a room keeps. At it the oldest goes ([`HISTORY_PROMISE_MS`]: a little later).
    pub history_bytes_max: usize,
    /// Age up to which a publication is kept, and time that a room's numbering outlives its last member, in ms.
    pub history_age_ms: u64,
    /// Bytes of flexible memory that all histories may take, over all shards; `None`: a part of it ([`HISTORY_MEMORY_SHARE`]).
    /// At it the oldest publication of the shard goes.
    pub history_memory_bytes_max: Option<usize>,
    /// A `throng.v1` member that was so slow that something is lost for it is closed with 4102, as a plain one always is, instead of
    /// being told the gap: for applications that would rather begin anew.
    pub gaps_declined: bool,
    /// Silence after which a connection in a room is pinged, in ms. A part of the ghost bound.
    pub heartbeat_ms: u64,
    /// Silence after which a connection in no room is pinged, in ms: it is in no presence list, so this may be longer.
    pub heartbeat_idle_ms: u64,
    /// Time for the answer to a ping, in ms. Above: the socket is probed, and closed with 4201 if it is silent.
    pub timeout_ms: u64,
    /// How long an abnormally closed session keeps its presence, in ms. At it the others are told that it left.
    pub presence_grace_ms: u64,
    /// How long a session without a connection may be resumed, in ms; 0: not at all. At it the session ends. There are as many places
    /// for such sessions as for connections; when they are taken the one that has waited longest ends early.
    pub resume_ttl_ms: u64,
    /// See [`REORDER_AGE_MS`].
    pub reorder_age_ms: u64,
    /// See [`HANDSHAKE_DEADLINE_MS`].
    pub handshake_deadline_ms: u64,
    /// See [`lane_places`]; tests make lanes tiny.
    pub lane_places: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 16_384,
            flex_bytes_max: FLEX_BYTES_DEFAULT,
            message_bytes_max: 65_536,
            send_queue_bytes_max: 256 * 1024,
            rooms_per_connection_max: 128,
            members_per_room_max: 1_000_000,
            presence_members_max: 1_000,
            presence_state_bytes_max: 1_024,
            history_publications_max: 256,
            history_bytes_max: 256 * 1024,
            history_age_ms: ROOM_IDLE_MS,
            history_memory_bytes_max: None,
            gaps_declined: false,
            heartbeat_ms: 12_000,
            heartbeat_idle_ms: 25_000,
            timeout_ms: 6_000,
            presence_grace_ms: 8_000,
            resume_ttl_ms: RESUME_TTL_MS,
            reorder_age_ms: REORDER_AGE_MS,
            handshake_deadline_ms: HANDSHAKE_DEADLINE_MS,
            lane_places: None,
        }
    }
}

impl Limits {
    /// Places of one lane between two of `shards` shards.
    pub fn lane_places(&self, shards: usize) -> usize {
        self.lane_places.unwrap_or(lane_places(shards)).max(CONSEQUENCES_PER_COMMAND_MAX)
    }

    /// Bytes of flexible memory that the histories of one of `shards` shards may take.
    pub fn history_shard_bytes_max(&self, shards: usize) -> usize {
        self.history_memory_bytes_max.unwrap_or(self.flex_bytes_max / HISTORY_MEMORY_SHARE) / shards
    }

    /// The time within which a vanished peer leaves every presence, in ms, with these settings.
    pub fn ghost_bound_ms(&self) -> u64 {
        self.heartbeat_ms + self.timeout_ms + self.presence_grace_ms + 2 * TICK_MS + PRESENCE_COALESCE_SLOW_MS + MESH_DELAY_MS
    }
}

const _: () = assert!(12_000 + 6_000 + 8_000 + 2 * TICK_MS + PRESENCE_COALESCE_SLOW_MS + MESH_DELAY_MS <= GHOST_BOUND_MS);
const _: () = assert!(COALESCE_BYTES_MAX <= SCRATCH_BYTES);
const _: () = assert!(LANE_PLACES_MIN >= CONSEQUENCES_PER_COMMAND_MAX);
const _: () = assert!(WINDOW as usize <= u64::BITS as usize);
const _: () = assert!(SHARDS_MAX * SHARD_CONNECTIONS_MAX <= 1 << 32);
const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two());
const _: () = assert!(RECOVERY_CHUNK_BYTES_MAX <= COALESCE_BYTES_MAX);
