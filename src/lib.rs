//! throng: rooms, presence and ordered delivery over WebSocket, for one Linux machine. This page is the map: read it first.
//!
//! One process, one thread per core. Each of these threads is a *shard*: it owns a ring, a listener, its connections, its share of
//! the rooms, and all their memory. Shards share nothing but bounded lanes. What a shard decides is pure code that takes events
//! and yields outputs, so the same code runs under the kernel and under a simulator. One more thread, the control plane, does
//! whatever may wait.
//!
//! ```text
//!                 ┌──────────────────── a shard (one per core, pinned) ────────────────────┐
//! sockets ⇄ kernel ⇄ uring ⇄ driver ⇄ shard: ws → protocol → sequence → room → frames out   │
//!                 │                     tables · timer wheel · bounds · counters           │
//!                 └──────────┬──────────────────────────────────────────┬──────────────────┘
//!                   lanes and doorbell                        orders and snapshots
//!                            │                                          │
//!                       other shards                         control: settings, admin HTTP, metrics, drain
//! ```
//!
//! # The map
//!
//! | module | decides | does not know |
//! |---|---|---|
//! | [`limits`] | every bound, with unit, reason and consequence | who keeps to it |
//! | [`close`] | why a connection ends: code, what the client may do, metric label | when |
//! | [`time`] | units of time | any clock |
//! | [`planted`] | which bugs tests can plant in the core | how they are found |
//! | [`web`] | the browser client as it is served | who serves it |
//! | [`ws`] | RFC 6455: bytes to messages, and the upgrade | what a message means |
//! | [`protocol`] | the JSON of both dialects, and the order of commands | connections and rooms |
//! | `tls` | TLS 1.3 for the server, bytes to bytes: handshake and records; with the feature `tls` | sockets, slots, where certificates come from |
//! | [`shard`] | everything about connections, sessions, rooms and presence of one core | sockets, threads, clocks, entropy |
//! | [`client`] | the Rust client: when to connect, what to send again, what is news; its transport on tokio comes with the feature `client` | the server's insides |
//! | `fuzzing` | what the fuzz targets run: the core against other implementations and models; for tests only | the targets' inputs |
//! | `uring` | how memory is shared with the kernel; the only `unsafe` | what a connection is |
//! | `driver` | a shard's thread and its loop; carries what shards say to each other | what is in a message |
//! | `control` | settings, memory plan, admin HTTP, metrics, start and drain | the path of a message |
//! | `capacity` | `throng bench`: load, and whether the server kept its promises | the server's insides |
//!
//! The last four come with the feature `server`. Without it the core is built and tested anywhere.
//!
//! # The path of a publication
//!
//! 1. A receive completes. `uring::op` names slot and generation; a completion of an earlier generation is dropped, and its buffer
//!    goes back to the kernel.
//! 2. `driver` lends the bytes to [`Shard::handle_received`](shard::Shard::handle_received). [`ws::message`] unmasks them in place
//!    and hands out the text as a slice of them; only what the network or a fragment has cut is copied.
//! 3. [`protocol::decode`] borrows its fields from that text. `data` is checked to be JSON and stays the bytes that came.
//! 4. [`protocol::sequence`] decides whether the command has its turn, came before, or must wait.
//! 5. The command goes to the room's *home*, the shard that a hash of the room's id names: at once if that is this shard, else
//!    through a command lane.
//! 6. The home gives the offset and writes the frame **once**; the room's history keeps it. Through consequence lanes it reaches
//!    every shard with members; all of them hold the same bytes by reference.
//! 7. Each such shard runs a pass over its members that can pause between turns. A delivery is 8 bytes in a list.
//! 8. [`Shard::poll_transmit`](shard::Shard::poll_transmit) makes one send of all that waits for a socket: the frame itself if it is
//!    one, else a copy of several. The driver submits every send of the turn with one system call; success is silent.
//! 9. A send that was taken in part leaves the rest in the connection's backlog, which waits for the socket and is bounded.
//!
//! # Invariants
//!
//! What holds everywhere. A change that breaks one of these is wrong, however well it works.
//!
//! - **Imports go downward only**, in the order of the map; `shard` never imports `uring`, `driver` or `control`. `tests/tidy.rs`
//!   keeps it.
//! - **Time and chance are arguments.** Only `driver::clock` reads a clock or entropy; the load generator has a clock of its own.
//! - **Everything is bounded**: each queue, table, buffer, loop and retry has its bound in [`limits`] or beside its use. The sum is
//!   printed at start, and refused where the machine lacks it. Nothing is allocated because of a length that was only claimed.
//! - **A message costs no heap allocation** once the server is warm. `tests/allocations.rs` counts.
//! - **One close path.** Whatever ends a connection, `shard::ending` frees timer, queues, session and memberships together. An audit
//!   walks memberships and member lists from both sides.
//! - **Lag costs a position, not a queue.** A member of a room with history that is too slow, or was away, is fed from there by a
//!   cursor as its socket drains; `shard::recovery` has the boundary between that and live publications.
//! - **The kernel never owns memory across turns**: after each submission the failed sends are told, then the batch is *settled*,
//!   and only then its frames are used again.
//! - **Waits form no cycle.** Handling a consequence puts nothing into a lane, so consequence lanes always drain; a home takes a
//!   command only when every consequence lane has room for what it may cause. Nothing is dropped, and back-pressure ends at the
//!   socket, which is not read.
//! - **A stall of the server is held against nobody**: deadlines of connections run on a clock that stands still while the loop did.
//! - **The core's order is its own**: it iterates by index, never by the order of a hash table, so that a seed replays.
//! - **What comes from outside is never asserted.** A peer's or the kernel's failure is a [`close::CloseReason`], and ends exactly
//!   one connection; an assertion is about a programmer's promise.

pub mod client;
pub mod close;
pub mod limits;
pub mod planted;
pub mod protocol;
pub mod shard;
pub mod time;
#[cfg(feature = "tls")]
pub mod tls;
pub mod web;
pub mod ws;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

#[cfg(feature = "server")]
pub mod capacity;
#[cfg(feature = "server")]
pub mod control;
#[cfg(feature = "server")]
pub mod driver;
#[cfg(feature = "server")]
pub mod uring;
