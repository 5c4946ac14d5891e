//! What the tests over real sockets share: the server's process, two kinds of client, its metrics, and deadlines.
//!
//! The server is the real binary, reached only by its sockets, signals and start-up lines. [`Client`] is tungstenite, a judge that
//! was not written here: a frame that RFC 6455 forbids fails the test. [`RawPeer`] sends whatever bytes a test likes.
//! Nothing here asserts on a time: a [`Deadline`] only ends a wait that would otherwise never end.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "every test file is a crate of its own and uses a part")]

mod client;
mod deadline;
mod metrics;
mod raw;
mod roster;
mod server;

pub use client::{Client, End, Event};
pub use deadline::{Deadline, PATIENCE};
pub use metrics::Metrics;
pub use raw::{Answer, Frame, RawPeer, parse_frame, source_address};
pub use roster::Roster;
pub use server::{Server, Setup};

/// Runs each test on one shard and on three, so that rooms and their members are also on different shards.
///
/// A test is a function of [`Setup`]; one that is not listed is dead code, which the lints refuse.
#[macro_export]
macro_rules! over_shards {
    ($($test:ident),* $(,)?) => {
        mod on_one_shard {
            $(#[test] fn $test() { super::$test(&$crate::support::Setup::shards(1)); })*
        }
        mod on_three_shards {
            $(#[test] fn $test() { super::$test(&$crate::support::Setup::shards(3)); })*
        }
    };
}
