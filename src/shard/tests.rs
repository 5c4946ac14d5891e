//! The core with virtual sockets, lanes and clients, in one thread, without kernel and clock.
//!
//! `world` drives shards exactly as `seam` says; the other files say what must come of it, one behaviour a test. Workload and faults
//! from seeds are in `tests/sim`, which knows only what is public.

mod account;
mod world;

mod ending;
mod fanout;
mod heartbeat;
mod history;
mod joining;
mod pausing;
mod presence;
mod recovery;
mod refusing;
mod resuming;
mod rooms;
mod sending;
mod sequence;
mod verify;
