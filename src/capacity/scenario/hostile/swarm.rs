//! Hundreds of hostile connections in one thread: who does what next, and what became of it.
//!
//! What connection `i` does as its `n`th action is a matter of the seed, `i` and `n` alone: how fast the server is decides only how
//! far it comes. The first actions of all connections together are of every kind.

use super::kinds::{Kind, Stage, script};
use super::peer::{Peer, READ_BYTES_MAX, Sweep};
use crate::capacity::client::Client;
use crate::capacity::clock::{self, MILLISECOND, Nanos, SECOND};
use crate::capacity::random::Random;
use crate::capacity::target::Target;
use crate::protocol::Dialect;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

/// Time between two sweeps over all connections: the pace of one that sends byte by byte.
const SWEEP_EVERY: Nanos = 5 * MILLISECOND;
/// The longest pause of a connection between two actions.
const PAUSE_MAX: Nanos = 300 * MILLISECOND;
/// How long a run may last beyond its time, for a kind of action that has not come to its point yet.
const OVERTIME_MAX: Nanos = 30 * SECOND;
/// Source addresses: so many that their ports don't run out.
const SOURCE_ADDRESSES: u64 = 250;
/// Different names of hostile users.
const USERS: u64 = 64;
/// Violations and failed connects that are kept word for word.
const COMPLAINTS_KEPT: usize = 8;

/// What the hostile connections did.
#[derive(Clone, Debug)]
pub(super) struct Deeds {
    /// Actions begun, by kind.
    pub(super) begun: Vec<u64>,
    /// Of these, those that came to their point, by kind.
    pub(super) done: Vec<u64>,
    /// `error` messages that the server answered with.
    pub(super) errors: u64,
    /// What the server did against the protocol, and connections that it did not take.
    pub(super) complaints: Vec<String>,
}

/// One place of the swarm, with one connection after the other.
struct Place {
    number: u64,
    order: Vec<Kind>,
    round: u64,
    kind: Kind,
    /// When the next action begins, if none is going on.
    due: Nanos,
    peer: Option<Peer>,
}

/// All hostile connections.
pub(super) struct Swarm<'a> {
    stage: &'a Stage,
    seed: u64,
    plain: Target,
    v1: Target,
    places: Vec<Place>,
    deeds: Deeds,
}

impl<'a> Swarm<'a> {
    pub(super) fn new(target: &Target, connections: u32, seed: u64, stage: &'a Stage) -> Swarm<'a> {
        let place = |number: u64| {
            let mut order = Kind::ALL.to_vec();
            Random::new(mix(seed, number, 0)).shuffle(&mut order);
            Place { number, order, round: 0, kind: Kind::ALL[0], due: 0, peer: None }
        };
        Swarm {
            stage,
            seed,
            plain: Target { protocol: None, ..target.clone() },
            v1: Target { protocol: Some(Dialect::V1_SUBPROTOCOL), ..target.clone() },
            places: (0..u64::from(connections)).map(place).collect(),
            deeds: Deeds { begun: vec![0; Kind::ALL.len()], done: vec![0; Kind::ALL.len()], errors: 0, complaints: Vec::new() },
        }
    }

    /// Acts until `until`, or until every kind of action has come to its point once if that is later. Then it ends every connection as
    /// it is.
    pub(super) fn run(mut self, until: Nanos) -> Deeds {
        let mut buffer = vec![0; READ_BYTES_MAX];
        loop {
            let now = clock::now();
            if now >= until && (self.deeds.done.iter().all(|done| *done > 0) || now >= until + OVERTIME_MAX) {
                break;
            }
            for index in 0..self.places.len() {
                self.sweep(index, now, &mut buffer);
            }
            let rest = (now + SWEEP_EVERY).saturating_sub(clock::now());
            thread::sleep(Duration::from_nanos(rest));
        }
        for index in 0..self.places.len() {
            if let Some(peer) = self.end(index, clock::now()) {
                peer.break_off(index % 2 == 0);
            }
        }
        self.deeds
    }

    fn sweep(&mut self, index: usize, now: Nanos, buffer: &mut [u8]) {
        let place = &mut self.places[index];
        let has_ended = match &mut place.peer {
            Some(peer) => peer.sweep(now, buffer) == Sweep::Ended,
            None if place.due <= now => return self.begin(index, now),
            None => return,
        };
        if has_ended {
            drop(self.end(index, now));
        }
    }

    fn begin(&mut self, index: usize, now: Nanos) {
        let place = &mut self.places[index];
        let kinds = Kind::ALL.len() as u64;
        place.kind = match place.round {
            0 => Kind::ALL[(place.number % kinds) as usize],
            round => place.order[(round % kinds) as usize],
        };
        place.round += 1;
        let mut random = Random::new(mix(self.seed, place.number, place.round));
        let target = if random.once_in(2) { &self.v1 } else { &self.plain };
        let nonce = random.next();
        let user = format!("hostile-{}", random.below(USERS));
        let mut request = Vec::new();
        Client::default().begin(&mut request, target, nonce, Some(&user));
        let script = script(place.kind, self.stage, random, request, target.protocol.is_some(), user);
        let [a, b] = [place.number % SOURCE_ADDRESSES, place.round % SOURCE_ADDRESSES].map(|number| number as u8 + 1);
        let source = SocketAddr::from((Ipv4Addr::new(127, 101, a, b), 0));
        self.deeds.begun[place.kind as usize] += 1;
        match Peer::begin(target, source, nonce, script, now) {
            Ok(peer) => place.peer = Some(peer),
            Err(error) => {
                place.due = now + PAUSE_MAX;
                let complaint = format!("{}: no connection: {error}", place.kind.name());
                self.complain(complaint);
            }
        }
    }

    /// Takes an action's outcome down, and gives its connection back.
    fn end(&mut self, index: usize, now: Nanos) -> Option<Peer> {
        let place = &mut self.places[index];
        let peer = place.peer.take()?;
        place.due = now + Random::new(mix(self.seed, place.number, !place.round)).below(PAUSE_MAX);
        self.deeds.done[place.kind as usize] += u64::from(peer.is_done);
        self.deeds.errors += peer.errors;
        if let Some(violation) = peer.violation {
            let complaint = format!("{}: the server answered with {}", place.kind.name(), violation.0);
            self.complain(complaint);
        }
        Some(peer)
    }

    fn complain(&mut self, complaint: String) {
        if self.deeds.complaints.len() < COMPLAINTS_KEPT {
            self.deeds.complaints.push(complaint);
        }
    }
}

/// One seed of several numbers.
fn mix(seed: u64, number: u64, round: u64) -> u64 {
    let mut random = Random::new(seed);
    let seed = random.next() ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Random::new(seed).next() ^ round.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_actions_of_all_connections_are_of_every_kind() {
        let stage = Stage::default();
        let target = Target::parse("ws://127.0.0.1:1/").unwrap();
        let swarm = Swarm::new(&target, Kind::ALL.len() as u32, 1, &stage);
        let mut first: Vec<usize> = swarm.places.iter().map(|place| place.number as usize % Kind::ALL.len()).collect();
        first.sort_unstable();
        assert_eq!(first, (0..Kind::ALL.len()).collect::<Vec<_>>());
        assert!(swarm.places.windows(2).any(|pair| pair[0].order != pair[1].order));
    }
}
