//! Verify that the cache of keys is bounded, keeps those in use, and never gives one key for another.

use super::forger::Forger;
use super::*;

/// A connection without a cache of its own.
struct Open {
    forger: Forger,
    server: Server,
}

fn open_some(count: usize) -> Vec<Open> {
    let config = config();
    (0..count)
        .map(|at| {
            let (forger, server) = Forger::open(SUITES[at % 3], &config);
            Open { forger, server }
        })
        .collect()
}

impl Open {
    /// Sends a byte each way through that cache.
    fn echo(&mut self, keys: &mut KeyCache) {
        let mut record = self.forger.seal(23, b"x", 0);
        let opened = self.server.records().open(keys, &mut record);
        assert_eq!(opened, Ok(Opened { consumed: record.len(), event: Event::Data(5..6) }));
        assert_eq!(record[5], b'x');
        let mut out = Vec::new();
        self.server.records().seal(keys, &[b"y"], &mut out).expect("it is open");
        let answers = self.forger.receive(&out);
        assert_eq!(answers.last().map(|answer| &answer.content[..]), Some(&b"y"[..]));
    }
}

#[test]
fn many_connections_share_few_places() {
    let mut connections = open_some(40);
    for places in [1, 2, 7, 64, 100] {
        let mut keys = KeyCache::new(places);
        let mut random = Random::new(places as u64);
        for _ in 0..600 {
            let connection = &mut connections[random.below(40)];
            if random.below(10) == 0 {
                let mut record = connection.forger.key_update(random.below(2) as u8);
                connection.server.records().open(&mut keys, &mut record).expect("it is sound");
            }
            connection.echo(&mut keys);
            assert!(keys.len() <= places);
        }
        for connection in &mut connections {
            connection.server.records().forget(&mut keys);
            connection.echo(&mut keys);
            connection.server.records().forget(&mut keys);
        }
        assert!(keys.is_empty(), "{} keys are left", keys.len());
    }
}

#[test]
fn a_key_that_is_held_is_not_expanded_again() {
    let mut connections = open_some(3);
    let mut keys = KeyCache::new(6);
    for _ in 0..20 {
        connections.iter_mut().for_each(|connection| connection.echo(&mut keys));
    }
    assert_eq!((keys.expansions(), keys.len()), (6, 6));
    let mut record = connections[0].forger.key_update(0);
    connections[0].server.records().open(&mut keys, &mut record).expect("it is sound");
    assert_eq!(keys.len(), 5, "a key that was replaced is gone");
    connections[0].echo(&mut keys);
    assert_eq!((keys.expansions(), keys.len()), (7, 6));
}

/// One sweep over many connections does not cost the busy ones their keys.
#[test]
fn busy_keys_outlast_a_sweep() {
    let mut connections = open_some(30);
    let (busy, idle) = connections.split_at_mut(2);
    let mut keys = KeyCache::new(12);
    for connection in idle {
        busy.iter_mut().for_each(|connection| connection.echo(&mut keys));
        connection.echo(&mut keys);
    }
    assert!(keys.expansions() <= 4 + 2 * 28 + 4, "{}", keys.expansions());
}

/// A place that another cache or another connection gave is no key.
#[test]
fn a_place_is_only_a_hint() {
    let mut connections = open_some(2);
    let (mut here, mut there) = (KeyCache::new(2), KeyCache::new(2));
    let (first, second) = connections.split_at_mut(1);
    for _ in 0..5 {
        first[0].echo(&mut here);
        second[0].echo(&mut there);
        first[0].echo(&mut there);
        second[0].echo(&mut here);
    }
}

#[test]
#[should_panic(expected = "a cache can't have 0 places")]
fn a_cache_has_a_place() {
    KeyCache::new(0);
}
