//! Fan-out in passes: every member gets every frame of its time, in order, whatever the pauses.

use super::world::{World, WorldConfig};
use crate::limits::FANOUT_PER_TURN;
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
