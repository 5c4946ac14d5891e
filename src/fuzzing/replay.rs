//! Runs every committed input of the fuzz targets, without a fuzzer: what a target has found once is found again by `cargo test`.
//!
//! `fuzz/corpus/TARGET` has inputs that between them reach what the target can reach; `fuzz/regressions/TARGET` those that failed
//! once. An empty or missing corpus is a failure, because it would pass for a clean one.

#[cfg(feature = "tls")]
use super::tls;
#[cfg(feature = "server")]
use crate::driver::double::ring;
use std::path::{Path, PathBuf};

type Body = fn(&[u8]);

/// Each target: its name, which is that of its binary and folders, and what it runs.
const TARGETS: [(&str, Body); 11] = [
    ("arena", super::arena),
    ("codec", super::codec),
    ("frame", super::frame),
    ("message", super::message),
    ("ring", ring),
    ("send_queue", super::send_queue),
    ("sequence", super::sequence),
    ("shard", super::shard),
    ("timer_wheel", super::timer_wheel),
    ("tls", tls),
    ("upgrade", super::upgrade),
];
/// The ring and the loop are no part of the core: without the server there is nothing to run.
#[cfg(not(feature = "server"))]
fn ring(_data: &[u8]) {}
#[cfg(not(feature = "tls"))]
fn tls(_data: &[u8]) {}

/// Inputs that a corpus has at least.
const INPUTS_MIN: usize = 10;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// What is in a folder, sorted; nothing if there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    paths.sort();
    paths
}

/// Says which input it was when a body panics.
struct Running<'a>(&'a Path);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}

fn replay(name: &str) {
    let (_, body) = TARGETS.iter().find(|(target, _)| *target == name).expect("it is a target");
    let corpus = entries(&folder("corpus").join(name));
    assert!(corpus.len() >= INPUTS_MIN, "the corpus of {name} has {} inputs", corpus.len());
    for path in corpus.iter().chain(&entries(&folder("regressions").join(name))) {
        let data = std::fs::read(path).expect("it can be read");
        let _running = Running(path);
        body(&data);
    }
}

macro_rules! replays {
    ($($test:ident = $name:literal,)*) => {
        $(#[test]
        fn $test() {
            replay($name);
        })*

        #[test]
        fn every_target_is_replayed() {
            assert_eq!([$($name),*], TARGETS.map(|(name, _)| name));
        }
    };
}

replays! {
    the_inputs_of_arena_pass = "arena",
    the_inputs_of_codec_pass = "codec",
    the_inputs_of_frame_pass = "frame",
    the_inputs_of_message_pass = "message",
    the_inputs_of_ring_pass = "ring",
    the_inputs_of_send_queue_pass = "send_queue",
    the_inputs_of_sequence_pass = "sequence",
    the_inputs_of_shard_pass = "shard",
    the_inputs_of_timer_wheel_pass = "timer_wheel",
    the_inputs_of_tls_pass = "tls",
    the_inputs_of_upgrade_pass = "upgrade",
}

/// A target, a folder or a regression that is named otherwise would never run.
#[test]
fn every_folder_and_binary_belongs_to_a_target() {
    let name_of = |path: PathBuf| path.file_stem().expect("it has a name").to_string_lossy().into_owned();
    let targets: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let binaries: Vec<String> = entries(&folder("fuzz_targets")).into_iter().map(name_of).collect();
    let corpora: Vec<String> = entries(&folder("corpus")).into_iter().map(name_of).collect();
    assert_eq!((&binaries, &corpora), (&targets, &targets));
    for regressions in entries(&folder("regressions")) {
        assert!(targets.contains(&name_of(regressions.clone())), "{} belongs to no target", regressions.display());
        assert!(!entries(&regressions).is_empty());
    }
}

/// With one of these bugs planted some input fails. The other bugs are in what a message means, which the simulator judges.
#[cfg(feature = "planted")]
#[test]
fn the_inputs_of_a_queue_or_a_shard_notice_planted_bugs() {
    use crate::planted::{Bug, plant};
    const NOTICED: [Bug; 23] = [
        Bug::ResetSkipsCleanup,
        Bug::PresenceGraceForgotten,
        Bug::AbandonedJoinStays,
        Bug::OwedLeaveDropped,
        Bug::StaleGenerationAccepted,
        Bug::SlotFreedTwice,
        Bug::ReorderOffByOne,
        Bug::AckBeforeDecided,
        Bug::ReorderBytesNotReleased,
        Bug::LostWakeup,
        Bug::PauseNeverResumed,
        Bug::SendPastBacklog,
        Bug::ScratchReusedBeforeSettle,
        Bug::CopyOutlivesSettle,
        Bug::FrameFreedWhilePending,
        Bug::CloseFrameInsideFrame,
        Bug::SendQueueBoundIgnored,
        Bug::LeaveDuringPassStillDelivers,
        Bug::ShardForgottenWithWatchers,
        Bug::RoomHoldsOneTooMany,
        Bug::LateLeaveRemovesOtherPresence,
        Bug::DiffHoldsNoUser,
        Bug::StateNotFreed,
    ];
    let read = |path: PathBuf| std::fs::read(path).expect("it can be read");
    let inputs = |name: &str| -> Vec<Vec<u8>> { entries(&folder("corpus").join(name)).into_iter().map(read).collect() };
    let suspects: [(Body, Vec<Vec<u8>>); 3] =
        [(super::sequence, inputs("sequence")), (super::send_queue, inputs("send_queue")), (super::shard, inputs("shard"))];
    for bug in NOTICED {
        plant(Some(bug));
        let fails = |body: Body, data: &[u8]| std::panic::catch_unwind(|| body(data)).is_err();
        let is_noticed = suspects.iter().any(|(body, inputs)| inputs.iter().any(|data| fails(*body, data)));
        plant(None);
        assert!(is_noticed, "no input notices {}", bug.name());
    }
}
