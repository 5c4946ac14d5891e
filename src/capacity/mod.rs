//! `throng bench`: load on a WebSocket server on this machine, and whether the server kept what it promises.
//!
//! ```text
//! args → scenario (what is said, what is checked) → report
//!            │ Event, Outbox
//!         crew → worker (one ring, one thread, many sockets) → client → stream   (bytes to messages, no socket, no clock)
//!            observe (/proc and /metrics of the server)
//! ```
//!
//! Built on the same ring as the server and on nothing else of it: it knows the protocol as a client does. It can only be aimed at
//! loopback addresses, and everything that it does is bounded in count and in time.

mod args;
mod client;
mod clock;
mod crew;
mod message;
mod observe;
mod outbox;
mod random;
mod report;
mod scenario;
mod statistics;
mod stream;
mod tally;
mod target;
#[cfg(test)]
mod tests;
mod worker;

use args::{BenchArgs, Scenario};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::process::ExitCode;

/// The exit status when a scenario could not be run: bad arguments, no server, no ring.
const EXIT_NOT_RUN: u8 = 2;

/// What the program knows of its own server and a scenario shows beside what it measured.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The sum of the sizes of a connection's records, in bytes.
    pub connection_record_bytes: usize,
}

/// The subcommand `bench`.
pub fn command() -> Command {
    BenchArgs::augment_args(Command::new("bench"))
}

/// Runs the scenario that was asked for and prints its report on standard output. `matches` are those of [`command`].
///
/// Exit status 0: everything that is checked has held. 1: something has not. 2: the scenario could not be run; standard error says
/// why.
pub fn run(matches: &ArgMatches, facts: Facts) -> ExitCode {
    let args = match BenchArgs::from_arg_matches(matches) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let (common, report) = match &args.scenario {
        Scenario::Density(args) => (&args.common, scenario::density::run(args, facts)),
        Scenario::Echo(args) => (&args.common, scenario::echo::run(args)),
        Scenario::Fanout(args) => (&args.common, scenario::fanout::run(args)),
        Scenario::Storm(args) => (&args.common, scenario::storm::run(args)),
        Scenario::SlowReader(args) => (&args.common, scenario::slow_reader::run(args)),
        Scenario::Incident(args) => (&args.common, scenario::incident::run(args)),
        Scenario::Flood(args) => (&args.common, scenario::flood::run(args)),
        Scenario::Hostile(args) => (&args.common, scenario::hostile::run(args)),
        Scenario::Many(args) => (&args.common, scenario::many::run(args)),
    };
    match report {
        Ok(report) => report.print(common.json),
        Err(reason) => {
            eprintln!("throng bench: {reason}");
            ExitCode::from(EXIT_NOT_RUN)
        }
    }
}
