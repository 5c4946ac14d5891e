//! Every bound of the client: its name and unit, why it has its value, and what happens when it is reached.
//!
//! What the server tells in `welcome.limits` bounds further; these hold whatever it says.

/// Window of the first delay before an attempt to connect, in ms (PROTOCOL §9). It doubles with each attempt.
pub const BACKOFF_BASE_MS: u64 = 500;
/// The largest window of a delay, in ms: a server that is back is found within it.
pub const BACKOFF_CAP_MS: u64 = 30_000;
/// How long a connection must have been open before the next loss counts as the first again, in ms.
pub const STABLE_MS: u64 = 10_000;
/// The longest wait that a server's advice (`retryAfterMs`, `afterMs`, `spreadMs`, `Retry-After`) can ask for, in ms. Above: this much.
pub const ADVICE_MS_MAX: u64 = 600_000;
/// Time from the first byte of an attempt to its `welcome`, in ms. Above: the attempt has failed. Beyond the server's own deadline.
pub const ATTEMPT_MS: u64 = 15_000;
/// Delay before a command that was refused for now is sent again, in ms, where the refusal names none.
pub const RETRY_MS_DEFAULT: u64 = 1_000;
/// Time after which a publication that was neither acknowledged nor seen in a recovery is reported as unknown, in ms: a caller
/// that waits for it is not kept for ever by a recovery that stalls.
pub const RECOVERY_MS: u64 = 10_000;
/// What may be late about a timer before it counts as a stall of this process, in ms. After one, silence is not held against the
/// server: it is asked first.
pub const STALL_MS: u64 = 2_000;
/// Bounds on the server's `heartbeatMs` and `timeoutMs`, in ms. Beyond: clipped, so that no server makes a client spin or sleep.
pub const HEARTBEAT_MS_MIN: u64 = 500;
/// See [`HEARTBEAT_MS_MIN`].
pub const HEARTBEAT_MS_MAX: u64 = 3_600_000;

/// Rooms of a client. Above: `join` is refused. The server's `maxRooms` may be lower.
pub const ROOMS_MAX: usize = 1_024;
/// Commands that are not acknowledged, or whose fate a recovery is to tell. Above: the next is refused at once.
pub const COMMANDS_MAX: usize = 1_024;
/// Bytes of the commands that are kept. Above: the next is refused at once.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// Commands that are sent and not acknowledged, whatever the server's `window` says.
pub const WINDOW_MAX: u64 = 1_024;
/// Bytes of one command, where `welcome` has not said less. Above: it is refused at once.
pub const COMMAND_BYTES_EACH_MAX: usize = 512 * 1024;
/// Bytes encoded for the socket. At it further commands wait in their queue, and volatile ones are refused.
pub const TRANSMIT_BYTES_MAX: usize = 256 * 1024;
/// Events that wait for the application. At it no more input is taken, so that the server, not this queue, keeps what is late.
pub const EVENTS_MAX: usize = 256;
/// Bytes of those events. At it, likewise.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a message from the server. Above: the connection is closed with 1009. A page of presence is at most 32 KiB and a
/// publication at most the server's `maxMessageBytes`, 64 KiB by default.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of input buffer that stay allocated while nothing is in it.
pub const INPUT_BYTES_KEPT: usize = 16 * 1024;
/// Connections in the presence list of a room. Above: the list is dropped and only counts are kept.
pub const PRESENCE_CONNECTIONS_MAX: usize = 16_384;
/// Bytes of the presence list of a room: names, ids, states. Above: likewise.
pub const PRESENCE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Times that a snapshot in pages may have to begin again. Above: the list is given up until the next snapshot comes.
pub const SNAPSHOT_RESTARTS_MAX: u32 = 8;
/// Own publications of a room that were acknowledged and whose copy (`echo`) has not come. Above: the oldest copy is not told apart
/// from a repeated one, should the session be lost.
pub const ECHOES_MAX: usize = 256;
/// Bytes of a token, a session id or an error's message that are kept. Above: cut or dropped.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

const _: () = assert!(COMMAND_BYTES_EACH_MAX <= COMMAND_BYTES_MAX);
const _: () = assert!(BACKOFF_BASE_MS <= BACKOFF_CAP_MS && BACKOFF_CAP_MS <= ADVICE_MS_MAX);
