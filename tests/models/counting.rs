//! What the threads of a server count and publish together.

use crate::check;
use crate::commons::{Admission, Finish, Published};
use crate::shim::AtomicUsize;
use loom::sync::atomic::Ordering;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;

#[test]
fn no_more_are_in_than_may_be_and_whoever_leaves_makes_room() {
    check(|| {
        let admission = Arc::new(Admission::new(1));
        let inside = Arc::new(AtomicUsize::new(0));
        let visit = |admission: &Admission, inside: &AtomicUsize| {
            let admitted = admission.admit();
            if admitted {
                assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two are in where one may be");
                inside.fetch_sub(1, Ordering::Relaxed);
                admission.dismiss();
            }
            admitted
        };
        let other = {
            let (admission, inside) = (Arc::clone(&admission), Arc::clone(&inside));
            thread::spawn(move || visit(&admission, &inside))
        };
        let admitted = visit(&admission, &inside) | other.join().unwrap();
        assert!(admitted, "both were refused");
        assert_eq!(admission.count(), 0);
        assert!(admission.admit());
    });
}

#[test]
fn whoever_shuts_an_empty_house_finds_nobody_in_it_afterwards() {
    check(|| {
        let admission = Arc::new(Admission::new(2));
        let other = {
            let admission = Arc::clone(&admission);
            thread::spawn(move || admission.admit())
        };
        let is_shut = admission.shut_if_empty();
        let is_in = other.join().unwrap();
        assert!(is_shut != is_in, "one of the two comes first");
        assert_eq!(admission.admit(), is_in, "a place is left, or the house is shut");
    });
}

#[test]
fn the_last_shard_that_finishes_wakes_all_and_all_see_it() {
    check(|| {
        let finish = Arc::new(Finish::new(2));
        let wakers: Arc<[(Mutex<bool>, Condvar); 2]> = Arc::default();
        let shard = |id: usize, finish: &Finish, wakers: &[(Mutex<bool>, Condvar); 2]| {
            if finish.note() {
                for (woken, signal) in wakers {
                    *woken.lock().unwrap() = true;
                    signal.notify_one();
                }
            }
            if !finish.is_reached() {
                let (woken, signal) = &wakers[id];
                let mut woken = woken.lock().unwrap();
                while !*woken {
                    woken = signal.wait(woken).unwrap();
                }
            }
            assert!(finish.is_reached(), "woken before all have finished");
        };
        let other = {
            let (finish, wakers) = (Arc::clone(&finish), Arc::clone(&wakers));
            thread::spawn(move || shard(1, &finish, &wakers))
        };
        shard(0, &finish, &wakers);
        other.join().unwrap();
    });
}

#[test]
fn what_is_published_is_never_seen_in_part_and_a_refused_publication_comes_through_later() {
    check(|| {
        let published = Arc::new(Published::<(u64, u64)>::default());
        let reader = {
            let published = Arc::clone(&published);
            thread::spawn(move || (0..2).map(|_| published.read()).collect::<Vec<_>>())
        };
        for number in 1..=2 {
            while !published.try_publish(|both| {
                both.0 = number;
                both.1 = number;
            }) {
                thread::yield_now();
            }
        }
        let seen = reader.join().unwrap();
        assert!(seen.iter().all(|both| both.0 == both.1), "a half: {seen:?}");
        assert!(seen.is_sorted(), "it goes back: {seen:?}");
        assert_eq!(published.read(), (2, 2));
    });
}
