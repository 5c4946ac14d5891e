//! A shard's look at itself finds each thing that is made not to add up, in a world in which everything else does.

use super::world::{World, WorldConfig};
use crate::shard::Shard;
use crate::shard::arena::{MembershipIndex, SessionIndex, UserIndex};
use crate::shard::connection::Flags;
use crate::shard::local::NOWHERE;
use crate::shard::seam::Key;
use crate::shard::stats::MemoryUse;
use crate::time::{Millis, Tick};

/// Something to be made wrong, and a part of what has to be said of it.
type Damage = (fn(&mut Shard), &'static str);

const DAMAGES: [Damage; 27] = [
    (|shard| shard.stats.sockets_held += 1, "sockets held"),
    (|shard| shard.stats.connections_active += 1, "active connections"),
    (|shard| shard.stats.room_subscriptions += 1, "room subscriptions"),
    (|shard| shard.stats.leaves_owed += 1, "leaves owed"),
    (|shard| shard.stats.sessions_detached += 1, "detached sessions"),
    (|shard| shard.stats.rooms_local += 1, "rooms with members"),
    (|shard| shard.stats.rooms_home += 1, "rooms at their home"),
    (|shard| shard.stats.rooms_idle += 1, "idle rooms"),
    (|shard| shard.stats.send_queue_bytes += 1, "bytes for slow sockets"),
    (|shard| shard.stats.charge(MemoryUse::Frames, 1), "charged to frames"),
    (|shard| shard.stats.charge(MemoryUse::Rooms, 1), "charged to rooms"),
    (|shard| shard.out.frames.hold(shard.ping_frame), "references of frame"),
    (|shard| shard.connections[0].queue_bytes += 1, "its queue has other bytes"),
    (|shard| shard.connections[0].flags.set(Flags::PAUSED), "waits for nothing"),
    (|shard| shard.connections[1].flags.set(Flags::ACK_DUE), "an acknowledgement is due"),
    (|shard| shard.connections[1].flags.set(Flags::IN_FLIGHT), "a send in flight"),
    (|shard| shard.connections[1].session = SessionIndex(0), "does not know it"),
    (|shard| shard.wheel.arm(40, Tick(u32::MAX)), "armed for nobody"),
    (|shard| shard.wheel.cancel(2), "no timer ends it"),
    (|shard| shard.sessions[SessionIndex(0)].rooms += 1, "in no list of their sessions"),
    (|shard| shard.memberships[MembershipIndex(0)].position = NOWHERE, "its stage is not"),
    (|shard| shard.users.hold(UserIndex(0)), "is named"),
    (|shard| shard.homes.iter_mut().for_each(|(_, room)| room.watchers += 1), "other watchers are counted"),
    (|shard| shard.lanes[0].waiters.push_back(Key { slot: 1, generation: 1 }), "waits for a home and is in no queue"),
    (|shard| shard.reorders.extend([(Millis(2), shard.session_id(SessionIndex(0))); 2]), "is queued twice"),
    (|shard| shard.stats.sessions_resumable += 1, "resumable sessions"),
    (|shard| shard.locals.iter_mut().for_each(|(_, room)| room.tombstones += 1), "places of its list are empty"),
];

/// A shard with a member whose socket is full, one that reads, and a connection that is being upgraded.
fn world() -> World {
    let mut world = World::new(WorldConfig::default());
    let (slow, other) = (world.v1(0, "ann"), world.v1(0, "bob"));
    for client in [slow, other] {
        world.say(client, &[r#"{"type":"join_room","roomId":"r","presence":true,"seq":1}"#]);
    }
    world.open_socket(0, true);
    world.clients[slow].incoming_max = 10;
    world.clients[slow].reads = 0;
    world.say(other, &[r#"{"type":"broadcast","roomId":"r","data":1,"seq":2}"#]);
    world
}

#[test]
fn whatever_does_not_add_up_is_found() {
    for (place, (damage, complaint)) in DAMAGES.into_iter().enumerate() {
        let mut world = world();
        let shard = &mut world.drivers[0].shard;
        assert_eq!(shard.verify(), Ok(()));
        damage(shard);
        let found = shard.verify().expect_err("it does not add up");
        assert!(found.contains(complaint), "{place}: {found:?} does not say {complaint:?}");
    }
}

#[test]
fn what_is_left_is_said() {
    let mut world = world();
    assert_eq!(world.shard(0).verify_empty(), Err("3 sockets held are left".into()));
    world.end_all();
    assert_eq!(world.shard(0).verify_empty(), Ok(()));
}
