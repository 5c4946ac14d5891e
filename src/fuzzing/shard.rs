//! Whole shards under any order of events that the seam allows.
//!
//! The bytes choose the bounds, and then one thing after the other: sockets that connect, speak (mostly sense), stall and end; turns
//! of the shards with whatever is cut short in them; time; orders; keys of connections that are gone. What is checked: the contract
//! of the seam, that everything a shard holds adds up after each turn, that what a client hears is sound, that nothing stays paused
//! when nothing is in its way, and that nothing is held when all have gone.

mod hearing;
mod speech;
mod world;

use super::input::Input;
use crate::limits::Limits;
use crate::shard::{Ended, Key, Order};
use crate::time::Millis;
use speech::Speaker;
use world::{SLOTS, World};

/// Things that happen in one run at most.
const STEPS_MAX: usize = 300;

/// Lets things happen to one or two shards as the bytes say.
///
/// # Panics
/// If a shard breaks a promise.
pub fn shard(data: &[u8]) {
    let mut input = Input::new(data);
    let (shards, limits) = bounds(&mut input);
    let mut world = World::new(shards, limits);
    let mut speakers = vec![Speaker::default(); shards * SLOTS];
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut world, &mut speakers, &mut input);
    }
    world.heal();
    world.end_all();
}

/// Bounds that are met soon.
fn bounds(input: &mut Input<'_>) -> (usize, Limits) {
    let choice = input.u16();
    let pick = |place: u32, low: usize, high: usize| if choice >> place & 1 == 1 { low } else { high };
    let limits = Limits {
        flex_bytes_max: pick(0, 24 * 1024, 64 << 20),
        message_bytes_max: pick(1, 512, 8 * 1024),
        send_queue_bytes_max: pick(2, 1024, 64 * 1024),
        rooms_per_connection_max: pick(3, 1, 8),
        members_per_room_max: pick(4, 2, 1_000),
        presence_members_max: pick(5, 1, 1_000),
        presence_state_bytes_max: pick(6, 4, 1_024),
        presence_grace_ms: pick(7, 0, 8_000) as u64,
        lane_places: Some(pick(8, 4, 16)),
        ..Limits::default()
    };
    (pick(9, 2, 1), limits)
}

fn step(world: &mut World, speakers: &mut [Speaker], input: &mut Input<'_>) {
    let kind = input.byte();
    let place = usize::from(input.byte()) % speakers.len();
    let (shard, slot) = (place / SLOTS, place % SLOTS);
    match kind % 32 {
        0 | 1 => {
            if world.connect(shard, slot, input.below(8) > 0) {
                speakers[place] = Speaker::default();
                world.send(shard, slot, &speakers[place].request(input));
            }
        }
        2..=11 => world.send(shard, slot, &speakers[place].message(input)),
        12 => world.send(shard, slot, &speakers[place].control(input)),
        13 => {
            let count = input.below(30);
            world.send(shard, slot, input.take(count));
        }
        14 => world.end(shard, slot, if input.flag() { Ended::Eof } else { Ended::Error }),
        15 | 16 => world.set_room(shard, slot, usize::from(input.u16())),
        17 => world.stall_lanes(shard, input.flag()),
        18 => match input.below(8) {
            0 => world.pass(u64::from(input.u32() % (24 * 3_600_000))),
            1..=3 => world.pass(u64::from(input.u16()) % 30_000),
            _ => world.pass(u64::from(input.byte())),
        },
        19 => {
            let ms = u64::from(input.u16());
            world.pass(ms);
            world.stall(shard, ms);
        }
        20 if input.below(8) == 0 => {
            let by = if input.flag() { Millis(input.u64()) } else { world.now().after(u64::from(input.u16())) };
            world.order(shard, Order::Drain { by });
        }
        20 => world.order(shard, Order::Ready(input.flag())),
        21 => {
            let key = Key { slot: u32::from(input.byte() % 8), generation: u32::from(input.byte()) };
            world.check_stale(shard, key, input);
        }
        22 => world.set_wall(input.u64() >> 11),
        23 => {
            // A whole room of clients at once: the way to what lies behind a first exchange.
            world.open_all(speakers, input);
        }
        24..=26 => (0..world.shards()).for_each(|shard| world.turn(shard, input)),
        _ => world.turn(shard, input),
    }
}
