//! Checks that take minutes or a whole machine, each by its name; `tests/run --long NAME` runs one. Without a name nothing runs.
//!
//! Each ends with one line of figures, and with status 0 if they are within their bounds.
#![cfg(feature = "server")]
#![allow(clippy::print_stdout, reason = "the figures are what it is run for")]

#[path = "chaos/mod.rs"]
mod chaos;
#[path = "flood/mod.rs"]
mod flood;
mod support;

#[path = "long/chaos.rs"]
mod chaos_long;
#[path = "long/ghost.rs"]
mod ghost;
#[path = "long/incident.rs"]
mod incident;
#[path = "long/swarm.rs"]
mod swarm;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A test runner that asks for a list is told that there is nothing to run by itself.
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    let words: Vec<&str> = arguments.iter().filter(|argument| !argument.starts_with('-')).map(String::as_str).collect();
    match words.as_slice() {
        [] => {}
        ["ghost-default"] => ghost::run(),
        ["chaos"] => chaos_long::run(),
        ["reconnect-flood"] => flood::run(),
        ["incident-scale"] => incident::scale(),
        words => panic!("unknown check {words:?}"),
    }
}
