//! Fan-out in passes: every member gets every frame of its time, in order, whatever the pauses.

use super::world::{Disorder, World, WorldConfig};
use crate::limits::{FANOUT_PER_TURN, Limits};
use crate::ws::Opcode;

/// Several passes over one list run together: the last member of a turn may take more deliveries than the budget has left.
#[test]
fn a_turn_whose_budget_ends_within_a_member_pauses_behind_it() {
    let members = FANOUT_PER_TURN / 2 + 10;
    let mut world = World::new(WorldConfig { slots: members + 1, ..WorldConfig::default() });
    let clients: Vec<usize> = (0..members).map(|_| world.open_socket(0, true)).collect();
    for &client in &clients {
        world.request(client, "/", None);
        world.send(client, r#"{"type":"join_room","roomId":"r"}"#);
    }
    world.run();
    for &client in &clients {
        world.take(client);
    }
    for n in 1..=2 {
        world.send(clients[0], &format!(r#"{{"type":"broadcast","roomId":"r","data":{n}}}"#));
    }
    world.run();
    assert_eq!(world.sum(|stats| stats.deliveries), 2 * (members as u64 - 1));
    assert!(world.sum(|stats| stats.fanout_pauses) > 0);
    for &client in &clients[1..] {
        let offsets: Vec<u64> = world.take(client).iter().map(|message| message["offset"].as_u64().expect("an offset")).collect();
        assert_eq!(offsets, [1, 2]);
    }
    assert!(world.take_frames(clients[0]).iter().all(|frame| frame.opcode != Opcode::Text));
    world.end_all();
}

#[test]
fn members_on_all_shards_get_a_rooms_publications_in_one_order() {
    for (shards, lane_places) in [(1, None), (2, Some(4)), (3, None), (5, Some(4))] {
        let limits = Limits { lane_places, ..Limits::default() };
        let disorder = Disorder { shuffles: true, splits: true, ..Disorder::default() };
        let mut world = World::new(WorldConfig { shards, limits, disorder, ..WorldConfig::default() });
        let clients: Vec<usize> = (0..2 * shards).map(|n| world.v1(n % shards, "ann")).collect();
        for &client in &clients {
            world.say(client, &[r#"{"type":"join_room","roomId":"r","seq":1}"#]);
            world.take_frames(client);
        }
        for seq in 2..40 {
            for &client in &clients {
                world.send(
                    client,
                    &format!(r#"{{"type":"broadcast","roomId":"r","data":[{client},{seq}],"echo":true,"seq":{seq}}}"#),
                );
            }
        }
        world.run();
        let mut heard: Vec<Vec<String>> = Vec::new();
        for &client in &clients {
            let broadcasts = world.take(client).into_iter().filter(|message| message["type"] == "broadcast");
            heard.push(broadcasts.map(|message| format!("{} {}", message["offset"], message["data"])).collect());
        }
        assert_eq!(heard[0].len(), 38 * clients.len());
        assert!(heard.iter().all(|other| *other == heard[0]));
        world.end_all();
    }
}
