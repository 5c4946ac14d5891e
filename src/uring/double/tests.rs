//! The ring and its buffers on the double: what they share with a kernel, by an interpreter if there is one (`tests/run --long miri`).
//!
//! The rest of the double is used by the driver's runs.

use super::{Choices, DoubleIo, Leftovers, Machine, SocketId};
use crate::uring::{BuffersConfig, Completion, Entry, Op, Ring, RingConfig, Send, UserData, Wait};
use std::fs::File;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

const SEEDS: u64 = if cfg!(miri) { 4 } else { 200 };
/// Bytes that a peer sends.
const STREAM_BYTES: usize = if cfg!(miri) { 900 } else { 9_000 };

fn config(incremental: bool) -> RingConfig {
    let buffers = BuffersConfig { count: 2, bytes: 128 };
    RingConfig { submissions: 8, completions: 16, slots: 4, buffers, incremental }
}

/// A machine with one ring on which a listener is armed.
fn ring(choices: Choices, incremental: bool) -> (Machine, Ring<DoubleIo>) {
    let machine = Machine::new(choices);
    let mut ring = Ring::on(machine.open(&config(incremental)), config(incremental)).unwrap();
    ring.enable().unwrap();
    (machine, ring)
}

fn arm_accept(ring: &mut Ring<DoubleIo>) {
    // The double only looks at what kind of descriptor it is.
    let listener = File::open("/dev/null").unwrap();
    ring.push(Entry::accept(listener.as_fd(), 0)).unwrap();
}

/// Enters until there is a completion.
fn next(ring: &mut Ring<DoubleIo>) -> Completion {
    for _ in 0..1_000 {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        ring.enter([], Wait::Poll).unwrap();
    }
    panic!("no completion");
}

/// A connection in a slot; completions of before are dropped.
fn connection(machine: &Machine, ring: &mut Ring<DoubleIo>) -> (SocketId, u32) {
    let socket = machine.connect(0);
    arm_accept(ring);
    loop {
        let completion = next(ring);
        if completion.data.op() == Op::Accept {
            if completion.result >= 0 {
                return (socket, completion.result as u32);
            }
            arm_accept(ring);
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

/// Reads a stream of a connection to its end.
fn receive_all(ring: &mut Ring<DoubleIo>, slot: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    ring.push(Entry::receive(slot, 1)).unwrap();
    loop {
        let completion = next(ring);
        assert_eq!(completion.data.op(), Op::Receive);
        bytes.extend_from_slice(ring.buffers().take(&completion));
        if completion.result == 0 {
            return bytes;
        }
        if !completion.more() {
            ring.push(Entry::receive(slot, 1)).unwrap();
        }
    }
}

#[test]
fn a_stream_arrives_whole_however_it_is_cut_and_every_buffer_comes_back() {
    for seed in 0..SEEDS {
        for incremental in [true, false] {
            let (machine, mut ring) = ring(Choices::from_seed(seed, 300), incremental);
            let (socket, slot) = connection(&machine, &mut ring);
            machine.write(socket, &pattern(STREAM_BYTES));
            machine.finish(socket);
            assert_eq!(receive_all(&mut ring, slot), pattern(STREAM_BYTES), "seed {seed}");
            ring.enter([], Wait::Poll).unwrap();
            assert_eq!((ring.buffers().free(), ring.buffers().bad()), (ring.buffers().count(), 0), "seed {seed}");
            assert_eq!(machine.leftovers(0), Leftovers { slots: 1, operations: 0, buffers: 0 }, "seed {seed}");
        }
    }
}

#[test]
fn what_is_lent_to_a_submission_is_read_within_it() {
    for seed in 0..SEEDS {
        let (machine, mut ring) = ring(Choices::from_seed(seed, 200), true);
        let (socket, slot) = connection(&machine, &mut ring);
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for count in 1..20 {
            // A loan of its own, gone when `enter` returns.
            let bytes = pattern(count * 13);
            ring.enter([Send { slot, ticket: 0, bytes: &bytes }], Wait::Poll).unwrap();
            let mut taken = bytes.len();
            while let Some(completion) = ring.next_completion() {
                if completion.data.op() == Op::Send {
                    taken = usize::try_from(completion.result).unwrap_or(0);
                }
            }
            sent.extend_from_slice(&bytes[..taken]);
            received.extend(machine.read(socket, usize::MAX));
        }
        assert_eq!(received, sent, "seed {seed}");
    }
}

#[test]
fn a_late_completion_of_a_slots_earlier_connection_gives_its_buffer_back() {
    let mut late = 0;
    for seed in 0..SEEDS {
        let (machine, mut ring) = ring(Choices::from_seed(seed, 200), true);
        let (socket, slot) = connection(&machine, &mut ring);
        ring.push(Entry::receive(slot, 1)).unwrap();
        ring.enter([], Wait::Poll).unwrap();
        machine.write(socket, &pattern(300));
        ring.push(Entry::cancel(UserData::new(Op::Receive, slot, 1))).unwrap();
        ring.push(Entry::close(slot, 1)).unwrap();
        machine.connect(0);
        while machine.is_ready(0) {
            ring.enter([], Wait::Poll).unwrap();
            while let Some(completion) = ring.next_completion() {
                if completion.data.op() == Op::Receive {
                    ring.buffers().take(&completion);
                }
            }
        }
        late += machine.faults().late;
        ring.enter([], Wait::Poll).unwrap();
        assert_eq!((ring.buffers().free(), ring.buffers().bad()), (ring.buffers().count(), 0), "seed {seed}");
        assert_eq!((machine.leftovers(0).operations, machine.leftovers(0).buffers), (0, 0), "seed {seed}");
    }
    assert!(late > 0, "no completion was late");
}

#[test]
fn completions_beyond_the_queue_are_fetched() {
    let (machine, mut ring) = ring(Choices::default(), true);
    let (_, slot) = connection(&machine, &mut ring);
    let mut seen = 0;
    for _ in 0..3 {
        while ring.push(Entry::unacknowledged(slot, 1)).is_ok() {}
        ring.enter([], Wait::Poll).unwrap();
    }
    while ring.next_completion().is_some() {
        seen += 1;
    }
    assert_eq!(seen, 24);
}

#[test]
fn a_completion_that_is_taken_twice_is_refused_and_counted() {
    let (machine, mut ring) = ring(Choices::default(), false);
    let (socket, slot) = connection(&machine, &mut ring);
    machine.write(socket, b"abc");
    ring.push(Entry::receive(slot, 1)).unwrap();
    let completion = next(&mut ring);
    assert_eq!(ring.buffers().take(&completion), b"abc");
    assert_eq!(ring.buffers().take(&completion), b"");
    assert_eq!(ring.buffers().bad(), 1);
    ring.enter([], Wait::Poll).unwrap();
    assert_eq!(ring.buffers().free(), ring.buffers().count());
}

#[test]
fn a_ring_whose_loan_was_broken_off_submits_nothing_more() {
    let (machine, mut ring) = ring(Choices::default(), true);
    let (socket, slot) = connection(&machine, &mut ring);
    let broken_off = catch_unwind(AssertUnwindSafe(|| {
        let bytes = pattern(100);
        ring.enter_with(
            |batch| {
                batch.send(Send { slot, ticket: 0, bytes: &bytes }).unwrap();
                panic!("in the middle of a batch");
            },
            Wait::Poll,
        )
    }));
    assert!(broken_off.is_err());
    assert!(ring.enter([], Wait::Poll).is_err());
    assert!(machine.read(socket, 100).is_empty(), "the kernel has read bytes that are gone");
}

/// Whether the double complains about what is submitted to it.
fn complains(submit: impl FnOnce(&mut Ring<DoubleIo>, u32)) -> bool {
    let (machine, mut ring) = ring(Choices::default(), true);
    let (_, slot) = connection(&machine, &mut ring);
    catch_unwind(AssertUnwindSafe(|| {
        submit(&mut ring, slot);
        ring.enter([], Wait::Poll).unwrap();
    }))
    .is_err()
}

#[test]
fn the_double_complains_of_what_a_kernel_would_carry_out() {
    assert!(!complains(|ring, slot| ring.push(Entry::receive(slot, 1)).unwrap()), "a receive is in order");
    assert!(complains(|ring, slot| ring.push(Entry::receive(slot, 0)).unwrap()), "a receive for an earlier generation");
    assert!(complains(|ring, slot| ring.push(Entry::receive(slot + 1, 1)).unwrap()), "a receive on a closed slot");
    assert!(complains(|ring, _| ring.push(Entry::receive(99, 1)).unwrap()), "a receive beyond the table");
    let twice = |ring: &mut Ring<DoubleIo>, slot| (0..2).for_each(|_| ring.push(Entry::receive(slot, 1)).unwrap());
    assert!(complains(twice), "one user data twice in flight");
    let uncancelled = |ring: &mut Ring<DoubleIo>, slot| {
        ring.push(Entry::receive(slot, 1)).unwrap();
        ring.push(Entry::close(slot, 1)).unwrap();
    };
    assert!(complains(uncancelled), "a close with a receive in flight");
    let two_sends = |ring: &mut Ring<DoubleIo>, slot| {
        ring.enter([b"a", b"b"].map(|bytes| Send { slot, ticket: 0, bytes }), Wait::Poll).unwrap();
    };
    assert!(complains(two_sends), "two sends to one slot in one submission");
    assert!(complains(|ring, slot| ring.push(Entry::writable(slot, 1).linked()).unwrap()), "a link");
}
