//! Everything around the shards of a running server: settings, memory plan, address lock, admin HTTP, metrics, and its life from
//! start to drained end.
//!
//! Nothing here is on the path of a message. A shard is reached only by orders, and read only by snapshots.
#![forbid(unsafe_code)]

pub mod admin;
pub mod backend;
pub mod config;
pub mod data_plane;
pub mod life;
pub mod lock;
pub mod memory;
pub mod metrics;
pub mod notify;
pub mod serve;
pub mod tls;

#[cfg(test)]
mod tuning_tests;
