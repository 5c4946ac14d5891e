//! The ring against the kernel that runs the tests, over loopback sockets.

use super::buffers::BuffersConfig;
use super::entry::{Entry, SocketOption};
use super::op::{Completion, Op, UserData};
use super::ring::{Ring, RingConfig, Send, Wait};
use super::socket::listen;
use super::waker::Waker;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

fn config(buffers: BuffersConfig, incremental: bool) -> RingConfig {
    RingConfig { submissions: 64, completions: 256, slots: 64, buffers, incremental }
}

fn ring() -> Ring {
    let mut ring = Ring::new(config(BuffersConfig { count: 4, bytes: 4096 }, true)).unwrap();
    ring.enable().unwrap();
    ring
}

fn push(ring: &mut Ring, entry: Entry) {
    ring.push(entry).unwrap();
}

/// Enters until a completion of `op` comes; others are dropped, with their buffers taken.
fn await_op(ring: &mut Ring, op: Op) -> Completion {
    loop {
        while let Some(completion) = ring.next_completion() {
            if completion.data.op() == op {
                return completion;
            }
            ring.buffers().take(&completion);
        }
        ring.enter([], Wait::AtMost(Duration::from_secs(10))).unwrap();
        assert!(ring.pending_completions() > 0, "no completion of {op:?} within 10 s");
    }
}

/// A listener, a client, and the slot of its accepted side.
fn connection(ring: &mut Ring) -> (TcpListener, TcpStream, u32) {
    let listener = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    push(ring, Entry::accept(listener.as_fd(), 0));
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = await_op(ring, Op::Accept);
    assert!(accepted.more());
    (listener, client, accepted.result as u32)
}

/// Receives `total` bytes on an armed slot, armed again as often as needed.
fn receive(ring: &mut Ring, slot: u32, total: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < total {
        let completion = await_op(ring, Op::Receive);
        assert!(completion.result > 0 || completion.result == -libc::ENOBUFS, "{completion:?}");
        bytes.extend_from_slice(ring.buffers().take(&completion));
        if !completion.more() {
            push(ring, Entry::receive(slot, 0));
        }
    }
    bytes
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

#[test]
fn what_a_client_sends_arrives_in_order_through_recycled_buffers() {
    for incremental in [true, false] {
        let mut ring = Ring::new(config(BuffersConfig { count: 4, bytes: 4096 }, incremental)).unwrap();
        ring.enable().unwrap();
        let (_listener, mut client, slot) = connection(&mut ring);
        push(&mut ring, Entry::receive(slot, 0));
        let sent = pattern(200_000);
        let writer = std::thread::spawn(move || {
            // Odd pieces, so that receives end anywhere in a buffer.
            for piece in sent.chunks(1_237) {
                client.write_all(piece).unwrap();
            }
            client
        });
        assert_eq!(receive(&mut ring, slot, 200_000), pattern(200_000));
        drop(writer.join().unwrap());
        assert_eq!(ring.buffers().bad(), 0);
    }
}

#[test]
fn every_buffer_is_free_again_after_everything_was_taken() {
    let mut ring = ring();
    let (_listener, mut client, slot) = connection(&mut ring);
    push(&mut ring, Entry::receive(slot, 0));
    client.write_all(&pattern(4 * 4096)).unwrap();
    receive(&mut ring, slot, 4 * 4096);
    ring.enter([], Wait::Poll).unwrap();
    assert_eq!(ring.buffers().free(), ring.buffers().count());
}

#[test]
fn the_end_of_a_stream_uses_up_no_buffer() {
    let mut ring = ring();
    for _ in 0..16 {
        let (_listener, client, slot) = connection(&mut ring);
        push(&mut ring, Entry::receive(slot, 0));
        drop(client);
        let end = await_op(&mut ring, Op::Receive);
        assert_eq!((end.result, end.more()), (0, false));
        assert!(ring.buffers().take(&end).is_empty());
        push(&mut ring, Entry::close(slot, 0));
        push(&mut ring, Entry::cancel(Entry::accept_data(0)));
        ring.enter([], Wait::Poll).unwrap();
        while ring.next_completion().is_some() {}
    }
    assert_eq!((ring.buffers().free(), ring.buffers().bad()), (ring.buffers().count(), 0));
}

#[test]
fn a_successful_send_is_silent_and_a_short_one_says_how_much_was_taken() {
    let mut ring = ring();
    let (_listener, mut client, slot) = connection(&mut ring);
    let bytes = pattern(16 * 1024);
    let (mut taken, mut ticket) = (0, 0);
    let short = loop {
        ring.enter([Send { slot, ticket, bytes: &bytes }], Wait::Poll).unwrap();
        match ring.next_completion() {
            None => taken += bytes.len(),
            Some(completion) => break completion,
        }
        ticket += 1;
    };
    assert_eq!((short.data.op(), short.data.index()), (Op::Send, ticket));
    assert!(short.result == -libc::EAGAIN || (short.result as usize) < bytes.len());
    taken += usize::try_from(short.result).unwrap_or(0);
    push(&mut ring, Entry::close(slot, 0));
    ring.enter([], Wait::Poll).unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), taken);
    assert!(received.chunks(bytes.len()).all(|chunk| chunk == &bytes[..chunk.len()]));
}

#[test]
fn cancel_and_close_in_one_submission_let_the_client_see_the_end() {
    let mut ring = ring();
    let (_listener, mut client, slot) = connection(&mut ring);
    push(&mut ring, Entry::receive(slot, 5));
    ring.enter([], Wait::Poll).unwrap();
    push(&mut ring, Entry::cancel(UserData::new(Op::Receive, slot, 5)));
    push(&mut ring, Entry::close(slot, 5));
    let end = await_op(&mut ring, Op::Receive);
    assert_eq!((end.result, end.data.generation()), (-libc::ECANCELED, 5));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_the_peer_has_not_acknowledged_is_told_where_the_kernel_can() {
    let mut ring = ring();
    let (_listener, _client, slot) = connection(&mut ring);
    push(&mut ring, Entry::unacknowledged(slot, 7));
    let told = await_op(&mut ring, Op::Option);
    // A kernel before 6.7 has no such command.
    assert!(told.result <= 0, "{}", told.result);
    assert_eq!((told.data.index(), told.data.generation()), (slot, 7));
}

#[test]
fn a_peek_tells_silence_from_data_and_takes_nothing() {
    let mut ring = ring();
    let (_listener, mut client, slot) = connection(&mut ring);
    push(&mut ring, Entry::peek(slot, 0));
    assert_eq!(await_op(&mut ring, Op::Peek).result, -libc::EAGAIN);
    client.write_all(b"hello").unwrap();
    push(&mut ring, Entry::receive_once(slot, 0, 1));
    assert_eq!(await_op(&mut ring, Op::Receive).result, 1);
    push(&mut ring, Entry::peek(slot, 0));
    assert_eq!(await_op(&mut ring, Op::Peek).result, 1);
    push(&mut ring, Entry::receive_once(slot, 0, 100));
    assert_eq!(await_op(&mut ring, Op::Receive).result, 4);
}

#[test]
fn a_hangup_is_noticed_although_data_is_unread() {
    let mut ring = ring();
    let (_listener, mut client, slot) = connection(&mut ring);
    push(&mut ring, Entry::hangup(slot, 0));
    client.write_all(b"unread").unwrap();
    drop(client);
    assert!(await_op(&mut ring, Op::Hangup).result & i32::from(libc::POLLRDHUP) != 0);
}

#[test]
fn a_client_socket_is_made_bound_connected_and_used_within_the_ring() {
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    push(&mut ring, Entry::socket(9, 0, false).linked().silent());
    push(&mut ring, Entry::set_option(9, 0, SocketOption::NoDelay).linked().silent());
    push(&mut ring, Entry::set_option(9, 0, SocketOption::BindAddressNoPort).linked().silent());
    ring.push_bind(9, 0, "127.0.0.77:0".parse().unwrap(), true).unwrap();
    ring.push_connect(9, 0, listener.local_addr().unwrap(), false).unwrap();
    assert_eq!(await_op(&mut ring, Op::Connect).result, 0);
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip().to_string(), "127.0.0.77");
    ring.enter([Send { slot: 9, ticket: 0, bytes: b"abc" }], Wait::Poll).unwrap();
    let mut received = [0; 3];
    server.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"abc");
}

#[test]
fn a_doorbell_rings_in_another_ring() {
    let mut ring = ring();
    let (sender, receiver) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let mut ring = self::ring();
        sender.send(ring.descriptor()).unwrap();
        await_op(&mut ring, Op::Doorbell).data.index()
    });
    push(&mut ring, Entry::doorbell(receiver.recv().unwrap(), 42));
    ring.enter([], Wait::Poll).unwrap();
    assert_eq!(other.join().unwrap(), 42);
}

/// A thread with a ring of its own and this many slots: hands out its descriptor, works when told the slot of a file that it was
/// given (it sends `hello` on it and receives five bytes), and keeps what is in its table until told to end.
fn adopting_ring(slots: u32) -> (std::os::fd::RawFd, std::sync::mpsc::Sender<u32>, std::thread::JoinHandle<Vec<Vec<u8>>>) {
    let (sender, descriptor) = std::sync::mpsc::channel();
    let (told, slots_told) = std::sync::mpsc::channel::<u32>();
    let thread = std::thread::spawn(move || {
        let config = RingConfig { slots, ..config(BuffersConfig { count: 4, bytes: 4096 }, true) };
        let mut ring = Ring::new(config).unwrap();
        ring.enable().unwrap();
        let waker = Waker::new().unwrap();
        push(&mut ring, waker.entry());
        ring.enter([], Wait::Poll).unwrap();
        sender.send(ring.descriptor()).unwrap();
        let mut all = Vec::new();
        // The kernel installs the file on this thread whatever it does: it need not be in the ring.
        while let Ok(slot) = slots_told.recv() {
            ring.enter([Send { slot, ticket: 0, bytes: b"hello" }], Wait::Poll).unwrap();
            push(&mut ring, Entry::receive(slot, 0));
            all.push(receive(&mut ring, slot, 5));
        }
        all
    });
    (descriptor.recv().unwrap(), told, thread)
}

#[test]
fn a_connection_that_is_given_to_another_ring_is_used_there_and_outlives_the_first_slot() {
    let mut ring = ring();
    let (_listener, mut client, slot) = connection(&mut ring);
    let (other, told, thread) = adopting_ring(8);
    push(&mut ring, Entry::send_fd(slot, 3, other));
    let given = await_op(&mut ring, Op::SendFd);
    assert!((0..8).contains(&given.result), "{given:?}");
    assert_eq!((given.data.index(), given.data.generation()), (slot, 3));
    push(&mut ring, Entry::close(slot, 3));
    ring.enter([], Wait::Poll).unwrap();
    client.write_all(b"world").unwrap();
    told.send(given.result as u32).unwrap();
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).unwrap();
    drop(told);
    assert_eq!((&greeting, thread.join().unwrap()), (b"hello", vec![b"world".to_vec()]));
    // The other ring has gone, and its slot with it: that was the last reference.
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_ring_without_a_free_slot_takes_no_connection_and_the_giver_keeps_it() {
    let mut ring = ring();
    let (other, told, thread) = adopting_ring(1);
    let (_first, _client, taken) = connection(&mut ring);
    push(&mut ring, Entry::send_fd(taken, 0, other));
    assert_eq!(await_op(&mut ring, Op::SendFd).result, 0);
    push(&mut ring, Entry::cancel(Entry::accept_data(0)));
    let (_listener, mut client, slot) = connection(&mut ring);
    push(&mut ring, Entry::send_fd(slot, 0, other));
    assert_eq!(await_op(&mut ring, Op::SendFd).result, -libc::ENFILE);
    ring.enter([Send { slot, ticket: 0, bytes: b"still" }], Wait::Poll).unwrap();
    let mut still = [0; 5];
    client.read_exact(&mut still).unwrap();
    drop(told);
    assert_eq!((&still, thread.join().unwrap()), (b"still", vec![]));
}

#[test]
fn a_waker_wakes_more_than_once() {
    let mut ring = ring();
    let waker = Waker::new().unwrap();
    push(&mut ring, waker.entry());
    ring.enter([], Wait::Poll).unwrap();
    for _ in 0..3 {
        let waker = waker.clone();
        let thread = std::thread::spawn(move || waker.wake());
        assert!(await_op(&mut ring, Op::Wake).more());
        thread.join().unwrap();
    }
}

#[test]
fn completions_beyond_the_queue_are_fetched_and_counted() {
    let config = RingConfig { completions: 64, ..config(BuffersConfig { count: 4, bytes: 4096 }, true) };
    let mut ring = Ring::new(config).unwrap();
    ring.enable().unwrap();
    let listener = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let clients: Vec<_> = (0..8).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
    push(&mut ring, Entry::accept(listener.as_fd(), 0));
    for _ in 0..63 {
        push(&mut ring, Entry::close(63, 0));
    }
    ring.enter([], Wait::Poll).unwrap();
    let mut seen = 0;
    while let Some(completion) = ring.next_completion() {
        assert!(completion.result >= 0 || completion.result == -libc::EBADF);
        seen += 1;
    }
    assert_eq!(seen, 63 + clients.len());
    assert!(ring.counters().overflows > 0);
}

#[test]
fn a_full_submission_queue_is_said_and_nothing_is_lost() {
    let mut ring = ring();
    let mut pushed = 0;
    while ring.push(Entry::close(pushed, 0)).is_ok() {
        pushed += 1;
    }
    assert_eq!((pushed, ring.room()), (64, 0));
    ring.enter([], Wait::Poll).unwrap();
    assert_eq!((ring.room(), ring.pending_completions()), (64, 64));
}

#[test]
fn a_close_after_a_send_in_one_submission_loses_no_byte() {
    let mut ring = ring();
    let (_listener, mut client, slot) = connection(&mut ring);
    let bytes = pattern(8_000);
    ring.enter_with(
        |batch| {
            batch.send(Send { slot, ticket: 0, bytes: &bytes }).unwrap();
            batch.push(&Entry::close(slot, 0)).unwrap();
        },
        Wait::Poll,
    )
    .unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, bytes);
}
