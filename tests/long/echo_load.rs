//! An echo load for whoever counts from outside: 100 connections, 64-byte messages, each sent when the one before has come back.

use crate::support::RawPeer;
use std::thread;

const THREADS: usize = 2;
const CONNECTIONS: usize = 50;
const ROUNDS: usize = 1_000;

/// Runs the load against a server.
pub(crate) fn run(address: &str) {
    let address = address.parse().expect("an address");
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            thread::spawn(move || {
                let mut peers: Vec<RawPeer> = (0..CONNECTIONS).map(|_| RawPeer::connect(address).upgrade("/echo", "")).collect();
                let frame = RawPeer::frame(0x82, &[7; 64]);
                for _ in 0..ROUNDS {
                    peers.iter_mut().for_each(|peer| peer.send(&frame));
                    for peer in &mut peers {
                        let echoed = peer.read_frame().expect("it comes back");
                        assert_eq!(echoed.payload, [7; 64]);
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("all came back"));
    println!("echo-load: {} messages echoed", THREADS * CONNECTIONS * ROUNDS);
}
