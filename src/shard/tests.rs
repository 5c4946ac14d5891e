//! The core under a simulator: shards, sockets, lanes and clients in one thread, without kernel and clock, all from one seed.
//!
//! `world` drives shards exactly as `seam` says; the other files say what must come of it, one behaviour a test. `chaos` makes
//! workload and faults from seeds and compares with a model; a failure names its seed.

mod account;
mod chaos;
mod world;

mod ending;
mod fanout;
mod heartbeat;
mod joining;
mod pausing;
mod presence;
mod refusing;
mod rooms;
mod sending;
mod sequence;
mod verify;
