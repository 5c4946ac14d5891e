//! The timer wheel against a map from timers to ticks.

use super::input::Input;
use crate::shard::timer_wheel::TimerWheel;
use crate::time::Tick;
use std::collections::BTreeMap;

/// Timers of one run.
const TIMERS: u32 = 24;
/// Operations of one run at most.
const STEPS_MAX: usize = 2_000;
/// Ticks within which every bucket is of one lap: a lap of 4,096, less the word of 64 that holds the present bucket.
const NEAR: u32 = 4_032;
/// The last tick that time can reach: 8.7 years of uptime. Timers may be armed for later ones.
const LAST: u32 = u32::MAX - 1;

/// Arms, moves, cancels and advances as the bytes say, with jumps of every size, up to the last tick that there is.
///
/// # Panics
/// If the wheel hands out a timer early, late, twice or never, or names a next tick that would miss one.
pub fn timer_wheel(data: &[u8]) {
    let mut input = Input::new(data);
    let begin = input.magnitude() as u32;
    let mut now = begin.min(LAST);
    let mut wheel = TimerWheel::new(TIMERS as usize, Tick(now));
    let mut model: BTreeMap<u32, u32> = BTreeMap::new();
    // The first tick that was not handed out yet: what is armed for an earlier one is due then.
    let mut current = now;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let index = u32::from(input.byte()) % TIMERS;
        match input.below(8) {
            0..=2 => {
                let due = now.saturating_add(input.magnitude() as u32);
                wheel.arm(index, Tick(due));
                model.insert(index, due.max(current));
            }
            3 => {
                // A tick that is over already.
                let due = now.saturating_sub(input.magnitude() as u32);
                wheel.arm(index, Tick(due));
                model.insert(index, due.max(current));
            }
            4 => {
                wheel.cancel(index);
                model.remove(&index);
            }
            kind => {
                let to = match (kind, model.values().min()) {
                    // As the driver does: to the tick at which something may be due.
                    (5, Some(_)) => wheel.next_due().map_or(now, |next| next.0.max(now)),
                    _ => now.saturating_add(input.magnitude() as u32),
                };
                now = to.min(LAST);
                let mut due = vec![u32::MAX];
                wheel.advance(Tick(now), &mut due);
                assert_eq!(due.remove(0), u32::MAX, "what was in the list stays");
                due.sort_unstable();
                let expected: Vec<u32> = model.iter().filter(|(_, tick)| **tick <= now).map(|(index, _)| *index).collect();
                assert_eq!(due, expected, "at {now}");
                model.retain(|_, tick| *tick > now);
                current = now + 1;
            }
        }
        for index in 0..TIMERS {
            assert_eq!(wheel.due(index).map(|tick| tick.0), model.get(&index).copied());
        }
        match (wheel.next_due(), model.values().min()) {
            (None, None) => {}
            (Some(next), Some(&earliest)) => {
                assert!(next.0 >= current && next.0 <= earliest, "{next:?} is named, {earliest} is due next, at {current}");
                // It is exact unless a timer is so far away that its bucket comes round before.
                let is_near = model.values().all(|tick| tick - current < NEAR);
                assert!(!is_near || next.0 == earliest, "{next:?} is named, {earliest} is due");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(wheel.verify(|index| model.contains_key(&index)), Ok(()));
}
