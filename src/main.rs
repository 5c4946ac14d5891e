//! The binary: subcommands and what the whole process is set to. Everything else is in the library.

use clap::Command;
use std::process::ExitCode;
use throng::capacity;
use throng::control::backend::BACKEND;
use throng::control::config::flags;
use throng::control::serve;
use throng::shard::Shard;
use throng::uring::thread;

// A sanitizer has an allocator of its own, which knows where each block ends.
#[cfg(not(watched))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn command() -> Command {
    Command::new("throng")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Realtime WebSocket server: rooms, presence and ordered delivery on io_uring")
        .after_help("Without a subcommand it serves. `--help` shows every setting, `-h` the common ones.")
        .args(flags::arguments())
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .subcommand(Command::new("serve").about("Run the server").args(flags::arguments()))
        .subcommand(capacity::command())
}

fn main() -> ExitCode {
    // Before the first table is mapped. Without it the server runs as well, with more memory.
    let _ = thread::disable_huge_pages();
    // A ring's file table is bounded by it.
    let files_max = throng::uring::probe::raise_descriptor_limit();
    let matches = command().get_matches();
    match matches.subcommand() {
        Some(("serve", matches)) => serve::run(matches, files_max, &BACKEND),
        Some(("bench", matches)) => {
            capacity::run(matches, capacity::Facts { connection_record_bytes: Shard::connection_record_bytes() })
        }
        _ => serve::run(&matches, files_max, &BACKEND),
    }
}
