//! Verify that presence is right: by user, with every connection of theirs, versioned without holes, paged, and counted when large.
#![cfg(feature = "server")]

mod support;

use serde_json::json;
use support::{Client, Roster, Setup};

over_shards![
    a_snapshot_holds_those_who_are_in_self_included,
    a_user_with_several_connections_is_one_member_until_the_last_leaves,
    state_is_set_changed_and_told,
    a_state_above_the_limit_is_refused_and_the_old_one_stays,
    diffs_go_from_each_version_to_the_next,
    a_leave_and_a_return_within_the_window_are_nothing,
    who_asked_for_no_presence_is_told_none,
    a_snapshot_above_32_kib_comes_in_pages,
    above_the_member_limit_only_counts_are_told,
    a_plain_client_is_told_only_where_it_asked,
    a_grace_hides_a_crash_until_it_runs_out,
    presence_of_one_room_is_not_told_in_another,
];

fn watch(client: &mut Client, room: &str) -> Roster {
    let joined = client.join_present(room);
    Roster::from_join(client, &joined)
}

fn a_snapshot_holds_those_who_are_in_self_included(setup: &Setup) {
    let server = setup.start(&[]);
    let mut clients: Vec<Client> = (0..5).map(|index| server.client(&format!("u{index}"))).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        let roster = watch(client, "r");
        assert!(roster.users().contains(&format!("u{index}").as_str()), "self is in it: {roster:?}");
    }
    let mut late = server.client("late");
    let mut roster = watch(&mut late, "r");
    roster.follow_until(&mut late, |roster| roster.users().len() == 6);
    assert_eq!(roster.users(), ["late", "u0", "u1", "u2", "u3", "u4"]);
    let asked = Roster::ask(&mut late, "r");
    assert_eq!(asked.users(), roster.users());
}

fn a_user_with_several_connections_is_one_member_until_the_last_leaves(setup: &Setup) {
    let server = setup.start(&[]);
    let mut watcher = server.client("watcher");
    let mut roster = watch(&mut watcher, "r");
    let mut tabs: Vec<Client> = (0..3).map(|_| server.client("ada")).collect();
    tabs.iter_mut().for_each(|tab| drop(tab.join_present("r")));
    roster.follow_until(&mut watcher, |roster| roster.connections("ada") == 3);
    assert_eq!(roster.users(), ["ada", "watcher"]);
    for left in [2, 1, 0] {
        tabs.pop().expect("a tab is open").close(1000);
        roster.follow_until(&mut watcher, |roster| roster.connections("ada") == left);
    }
    assert_eq!(roster.users(), ["watcher"]);
}

fn state_is_set_changed_and_told(setup: &Setup) {
    let server = setup.start(&[]);
    let mut watcher = server.client("watcher");
    let mut roster = watch(&mut watcher, "r");
    let mut ada = server.client("ada");
    ada.join_with("r", json!({"presence": true, "state": {"status": "away"}}));
    roster.follow_until(&mut watcher, |roster| roster.states("ada") == [json!({"status": "away"})]);
    for n in 0..3 {
        let seq = ada.command(json!({"type": "set_state", "roomId": "r", "state": {"n": n}}));
        ada.expect_ack(seq);
        roster.follow_until(&mut watcher, |roster| roster.states("ada") == [json!({"n": n})]);
    }
    let mut late = server.client("late");
    assert_eq!(watch(&mut late, "r").states("ada"), [json!({"n": 2})]);
    let mut stranger = server.client("stranger");
    stranger.command(json!({"type": "set_state", "roomId": "r", "state": 1}));
    stranger.expect_error("not_joined");
}

fn a_state_above_the_limit_is_refused_and_the_old_one_stays(setup: &Setup) {
    let server = setup.start(&[]);
    let mut ada = server.client("ada");
    ada.join_with("r", json!({"presence": true, "state": "old"}));
    let seq = ada.command(json!({"type": "set_state", "roomId": "r", "state": "x".repeat(1_100)}));
    let error = ada.expect_error("state_too_large");
    assert_eq!(error["seq"], seq, "{error}");
    assert_eq!(Roster::ask(&mut ada, "r").states("ada"), ["old"]);
}

fn diffs_go_from_each_version_to_the_next(setup: &Setup) {
    let server = setup.start(&[]);
    let mut watchers: Vec<Client> = (0..4).map(|_| server.client("watcher")).collect();
    let mut rosters: Vec<Roster> = watchers.iter_mut().map(|watcher| watch(watcher, "r")).collect();
    for round in 0..12 {
        let mut user = server.client(&format!("u{round}"));
        user.join_present("r");
        if round % 2 == 0 {
            user.close(1000);
        } else {
            user.leave("r");
        }
    }
    let mut last = server.client("last");
    last.join_present("r");
    for (watcher, roster) in watchers.iter_mut().zip(&mut rosters) {
        // Each diff is checked against the version before it.
        roster.follow_until(watcher, |roster| roster.users() == ["last", "watcher"] && roster.connections("watcher") == 4);
    }
}

fn a_leave_and_a_return_within_the_window_are_nothing(setup: &Setup) {
    let server = setup.start(&[]);
    let mut watcher = server.client("watcher");
    let mut roster = watch(&mut watcher, "r");
    let mut ada = server.client("ada");
    ada.join_present("r");
    roster.follow_until(&mut watcher, |roster| roster.connections("ada") == 1);
    // Sent in one go: both are in the room's home long before its window ends.
    ada.command(json!({"type": "leave_room", "roomId": "r"}));
    ada.command(json!({"type": "join_room", "roomId": "r", "presence": true}));
    ada.expect("room_joined");
    let mut next = server.client("next");
    next.join_present("r");
    roster.follow_until(&mut watcher, |roster| {
        assert_eq!(roster.connections("ada"), 1, "she never left for others");
        roster.connections("next") == 1
    });
}

fn who_asked_for_no_presence_is_told_none(setup: &Setup) {
    let server = setup.start(&[]);
    let mut member = server.client("member");
    let joined = member.join("r");
    assert!(joined.get("members").is_none(), "{joined}");
    let mut watcher = server.client("watcher");
    let mut roster = watch(&mut watcher, "r");
    let mut ada = server.client("ada");
    ada.join_present("r");
    roster.follow_until(&mut watcher, |roster| roster.connections("ada") == 1);
    ada.broadcast("r", json!("fence"));
    assert_eq!(member.expect_data("r"), "fence");
    member.expect_none("presence_diff");
}

fn a_snapshot_above_32_kib_comes_in_pages(setup: &Setup) {
    const MEMBERS: usize = 100;
    let server = setup.start(&[]);
    let state = "s".repeat(900);
    let mut clients: Vec<Client> = (0..MEMBERS).map(|index| server.client(&format!("user-{index:03}"))).collect();
    for client in &mut clients {
        client.join_with("r", json!({"presence": true, "state": state}));
    }
    let mut late = server.client("late");
    let mut roster = watch(&mut late, "r");
    roster.follow_until(&mut late, |roster| roster.users().len() == MEMBERS + 1);
    assert!(roster.pages >= 3, "90 KB in {} pages", roster.pages);
    let asked = Roster::ask(&mut late, "r");
    assert_eq!(asked.users(), roster.users());
    assert_eq!(asked.states("user-042"), [json!(state)]);
    let mut raw = server.client("measure");
    raw.join("r");
    raw.send(&json!({"type": "presence", "roomId": "r", "id": 1}));
    let page = raw.expect_text("presence_state");
    assert!(page.len() <= 33 * 1024, "a page of {} bytes", page.len());
}

fn above_the_member_limit_only_counts_are_told(setup: &Setup) {
    let server = setup.start(&["--presence-members-max", "10"]);
    let mut watcher = server.client("watcher");
    watcher.join_present("r");
    let mut crowd: Vec<Client> = (0..20).map(|index| server.client(&format!("u{}", index / 2))).collect();
    crowd.iter_mut().for_each(|client| drop(client.join_present("r")));
    let counted = watcher.expect_that("presence_diff", |diff| diff["counts"]["connections"] == 21);
    assert_eq!(counted["counts"]["users"], 11, "{counted}");
    // The question is still answered, in pages, whatever the size.
    assert_eq!(Roster::ask(&mut watcher, "r").users().len(), 11);
    crowd.into_iter().for_each(|client| drop(client.close(1000)));
    watcher.expect_that("presence_diff", |diff| diff["counts"]["connections"] == 1 || diff["leaves"].is_array());
}

fn a_plain_client_is_told_only_where_it_asked(setup: &Setup) {
    let server = setup.start(&[]);
    let mut asked = server.plain("?user=asked");
    let mut silent = server.plain("?user=silent");
    let joined = asked.join_present("r");
    let mut roster = Roster::from_join(&mut asked, &joined);
    let joined = silent.join("r");
    assert!(joined.get("members").is_none(), "{joined}");
    let mut ada = server.client("ada");
    ada.join_present("r");
    roster.follow_until(&mut asked, |roster| roster.connections("ada") == 1);
    assert_eq!(roster.connections("asked"), 1);
    ada.broadcast("r", json!("fence"));
    assert_eq!(silent.expect_data("r"), "fence");
    silent.expect_none("presence_diff");
    silent.expect_none("presence_state");
}

fn a_grace_hides_a_crash_until_it_runs_out(setup: &Setup) {
    let server = setup.start(&["--presence-grace", "2s"]);
    let mut watcher = server.client("watcher");
    let mut roster = watch(&mut watcher, "r");
    let mut crashed = server.client("crashed");
    let mut other = server.client("other");
    crashed.join_present("r");
    other.join_present("r");
    roster.follow_until(&mut watcher, |roster| roster.users().len() == 3);
    crashed.reset();
    server.wait_until("the crash is noticed", |metrics| metrics.sum("ws_abnormal_closes") == 1.0);
    other.close(1000);
    roster.follow_until(&mut watcher, |roster| roster.connections("other") == 0);
    assert_eq!(roster.connections("crashed"), 1);
    roster.follow_until(&mut watcher, |roster| roster.connections("crashed") == 0);
}

fn presence_of_one_room_is_not_told_in_another(setup: &Setup) {
    let server = setup.start(&[]);
    let mut watcher = server.client("watcher");
    let mut here = watch(&mut watcher, "here");
    let mut there = watch(&mut watcher, "there");
    let mut ada = server.client("ada");
    ada.join_present("there");
    there.follow_until(&mut watcher, |roster| roster.connections("ada") == 1);
    ada.join_present("here");
    here.follow_until(&mut watcher, |roster| roster.connections("ada") == 1);
    ada.leave("there");
    there.follow_until(&mut watcher, |roster| roster.connections("ada") == 0);
    assert_eq!(Roster::ask(&mut watcher, "here").connections("ada"), 1);
}
