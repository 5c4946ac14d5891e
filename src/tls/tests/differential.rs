//! Verify that a connection with compact records and one with rustls' do the same: the same plaintext and the same end for what a
//! client says, right or wrong.
//!
//! Exceptions, where we are stricter or only say it otherwise: rustls tolerates empty handshake records, and a plain alert before the
//! first sealed record; it has no single bound for all that carries no data. Such inputs are not made, or end the exchange for both.

use super::forger::{Answer, Forger};
use super::*;

/// Exchanges of a run without `THRONG_TLS_EXCHANGES`.
const EXCHANGES: usize = 4_000;
/// Exchanges on one connection.
const EXCHANGES_A_CONNECTION: usize = 40;
/// Records in a row without data: rustls stops at 32 of each kind.
const WITHOUT_DATA_MAX: usize = 20;

/// What a client says next.
#[derive(Clone, Debug)]
enum Step {
    Data {
        bytes: usize,
        padding: usize,
    },
    Empty {
        padding: usize,
    },
    KeyUpdate {
        request: u8,
    },
    CutKeyUpdate {
        request: u8,
        at: usize,
    },
    Canceled,
    /// The server sends, and answers first what it owes.
    Answer {
        bytes: usize,
    },
    Last(Last),
}

/// What ends a connection.
#[derive(Clone, Copy, Debug)]
enum Last {
    Close,
    Alert(u8),
    Corrupt { at: usize, bit: u8 },
    Replay,
    OuterType(u8),
    InnerType(u8),
    NoType,
    Overflow,
    LongLength(u16),
    ShortLength(u16),
    UnknownRequest,
    TwoKeyUpdates,
    MixedKeyUpdate,
    OldKey,
    LongAlert,
    HandshakeMessage(u8),
}

fn step(random: &mut Random, is_last: bool) -> Step {
    if is_last {
        return Step::Last(last(random));
    }
    let bytes = [1, 10, 200, 3_000, 16_384][random.below(5)];
    match random.below(12) {
        0..=4 => {
            let bytes = 1 + random.below(bytes);
            Step::Data { bytes, padding: if random.below(3) == 0 { random.below(16_385 - bytes) } else { 0 } }
        }
        5 => Step::Empty { padding: random.below(300) },
        6 => Step::KeyUpdate { request: random.below(2) as u8 },
        7 => Step::CutKeyUpdate { request: random.below(2) as u8, at: 1 + random.below(4) },
        8 if random.below(8) == 0 => Step::Canceled,
        _ => Step::Answer { bytes: random.below(3 * bytes) },
    }
}

fn last(random: &mut Random) -> Last {
    match random.below(17) {
        0 | 1 => Last::Close,
        2 => Last::Alert(random.next() as u8 | 1),
        3 => Last::Corrupt { at: random.below(60), bit: random.below(8) as u8 },
        4 => Last::Replay,
        5 => Last::OuterType([20, 21, 22, 24][random.below(4)]),
        6 => Last::InnerType([0, 1, 20, 24, 255][random.below(5)]),
        7 => Last::NoType,
        8 => Last::Overflow,
        9 => Last::LongLength(RECORD_PROTECTED_BYTES_MAX as u16 + 1 + random.below(1_000) as u16),
        10 => Last::ShortLength(random.below(17) as u16),
        11 => Last::UnknownRequest,
        12 => Last::TwoKeyUpdates,
        13 => Last::MixedKeyUpdate,
        14 => Last::OldKey,
        15 => Last::LongAlert,
        _ => Last::HandshakeMessage([1, 2, 4, 11, 20][random.below(5)]),
    }
}

/// The bytes of a step. Lengths depend on the step alone, so that both connections are cut alike.
fn forge(forger: &mut Forger, step: &Step, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    match *step {
        Step::Data { bytes, padding } => forger.seal(23, &random.bytes(bytes), padding),
        Step::Empty { padding } => forger.seal(23, b"", padding),
        Step::KeyUpdate { request } => forger.key_update(request),
        Step::CutKeyUpdate { request, at } => {
            let message = [24, 0, 0, 1, request];
            let mut bytes = forger.seal(22, &message[..at], 0);
            bytes.extend(forger.seal(22, &message[at..], 0));
            forger.advance();
            bytes
        }
        Step::Canceled => forger.seal(21, &[1, 90], 0),
        Step::Answer { .. } => Vec::new(),
        Step::Last(last) => {
            let mut bytes = forge_last(forger, last);
            // What follows must not be read.
            bytes.extend(forger.seal(23, b"behind the end", 0));
            bytes
        }
    }
}

fn forge_last(forger: &mut Forger, last: Last) -> Vec<u8> {
    match last {
        Last::Close => forger.seal(21, &[1, 0], 0),
        Last::Alert(description) => forger.seal(21, &[2, if description == 90 { 40 } else { description }], 0),
        Last::Corrupt { at, bit } => {
            let mut record = forger.seal(23, &[7; 60], 0);
            record[RECORD_HEADER_BYTES + at] ^= 1 << bit;
            record
        }
        Last::Replay => {
            let record = forger.seal(21, &[1, 90], 0);
            [record.clone(), record].concat()
        }
        Last::OuterType(outer) => forger.seal_inner(outer, b"a longer record\x17".to_vec()),
        Last::InnerType(inner) => forger.seal(inner, b"x", 0),
        Last::NoType => forger.seal_inner(23, vec![0; 20]),
        Last::Overflow => forger.seal(23, &vec![1; RECORD_PLAINTEXT_BYTES_MAX + 1], 0),
        Last::LongLength(length) => [&[23, 3, 3][..], &length.to_be_bytes()].concat(),
        Last::ShortLength(length) => [&[23, 3, 3][..], &length.to_be_bytes(), &vec![9; usize::from(length)]].concat(),
        Last::UnknownRequest => forger.seal(22, &[24, 0, 0, 1, 7], 0),
        Last::TwoKeyUpdates => forger.seal(22, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], 0),
        Last::MixedKeyUpdate => [forger.seal(22, &[24, 0], 0), forger.seal(23, b"between", 0)].concat(),
        Last::OldKey => forger.seal(22, &[24, 0, 0, 1, 0], 0),
        Last::LongAlert => forger.seal(21, &[1, 0, 0], 0),
        Last::HandshakeMessage(kind) => forger.seal(22, &[kind, 0, 0, 1, 0], 0),
    }
}

/// What a connection came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    plaintext: Vec<u8>,
    /// What the server sent, without what only TLS sees.
    answered: Vec<u8>,
    /// Whether the client was told: by `close_notify`, by an alert, or not.
    said: Option<u8>,
    end: Option<End>,
}

fn run(config: &Config, suite: CipherSuite, steps: &[Step], seed: u64) -> Outcome {
    let (mut forger, mut server) = Forger::open(suite, config);
    let mut answers: Vec<Answer> = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let seed = seed + at as u64;
        let bytes = forge(&mut forger, step, seed);
        server.receive(&bytes, Cut::Seed(seed));
        if let Step::Answer { bytes } = step {
            server.seal(&Random::new(seed).bytes(*bytes));
        }
        answers.extend(forger.receive(&std::mem::take(&mut server.out)));
    }
    server.close();
    answers.extend(forger.receive(&server.out));
    let alerts: Vec<&Answer> = answers.iter().filter(|answer| answer.kind == 21).collect();
    assert!(alerts.len() <= 1 && alerts.iter().all(|alert| alert.content.len() == 2));
    Outcome {
        said: alerts.first().map(|alert| alert.content[0]),
        answered: answers.iter().filter(|answer| answer.kind == 23).flat_map(|answer| answer.content.clone()).collect(),
        plaintext: server.plaintext,
        end: server.end,
    }
}

fn exchanges() -> usize {
    std::env::var("THRONG_TLS_EXCHANGES").map_or(EXCHANGES, |count| count.parse().expect("THRONG_TLS_EXCHANGES is a number"))
}

#[test]
fn compact_records_do_what_rustls_does() {
    let (compact, rustls) = (config_with(RecordMode::Compact), config_with(RecordMode::Rustls));
    let mut ends = std::collections::BTreeMap::new();
    for seed in 0..exchanges().div_ceil(EXCHANGES_A_CONNECTION) as u64 {
        let mut random = Random::new(seed);
        let count = 1 + random.below(2 * EXCHANGES_A_CONNECTION - 1);
        let has_last = random.below(8) > 0;
        let mut steps: Vec<Step> = (1..=count).map(|at| step(&mut random, has_last && at == count)).collect();
        bound(&mut steps);
        let suite = SUITES[random.below(3)];
        let ours = run(&compact, suite, &steps, seed << 16);
        let theirs = run(&rustls, suite, &steps, seed << 16);
        assert!(ours.plaintext == theirs.plaintext, "seed {seed}: other plaintext");
        assert!(ours.answered == theirs.answered, "seed {seed}: other answers");
        assert_eq!(kind(&ours), kind(&theirs), "seed {seed}, {suite:?}: {:?}", steps.last());
        if !matches!(ours.end, Some(End::Failed(_))) {
            assert_eq!((ours.said, theirs.said), (Some(1), Some(1)), "seed {seed}: a close_notify is due");
        }
        *ends.entry(format!("{:?}", ours.end)).or_insert(0) += 1;
    }
    assert!(ends.len() >= 5 || exchanges() < EXCHANGES, "the ends were only {ends:?}");
}

/// An end as both tell it. The alert is ours where rustls sends none.
fn kind(outcome: &Outcome) -> &'static str {
    match outcome.end {
        None => "open",
        Some(End::Closed) => "closed",
        Some(End::Failed(Failure::PeerAlert)) => "alert",
        Some(End::Failed(_)) => "failed",
    }
}

/// Takes out what would be above the bounds on records without data, which rustls counts otherwise.
fn bound(steps: &mut Vec<Step>) {
    let (mut in_a_row, mut canceled) = (0, 0);
    steps.retain(|step| {
        match step {
            Step::Data { .. } => in_a_row = 0,
            Step::Empty { .. } | Step::KeyUpdate { .. } | Step::Canceled => in_a_row += 1,
            Step::CutKeyUpdate { .. } => in_a_row += 2,
            Step::Answer { .. } | Step::Last(_) => {}
        }
        canceled += usize::from(matches!(step, Step::Canceled));
        in_a_row <= WITHOUT_DATA_MAX && canceled < 3
    });
}
