//! Verify that a run of hostile clients of every kind changes nothing for the well-behaved ones among them and leaves nothing behind,
//! by `throng bench hostile` in a short form. `tests/run --long hostile` is the long form.
#![cfg(feature = "server")]

mod support;

use serde_json::Value;
use std::process::{Command, Output};
use support::{Server, Setup};

over_shards![every_kind_of_hostile_client_comes_and_nothing_is_left];

/// Runs the scenario for two seconds, and for as long as it takes until every kind of action has come.
fn bench(server: &Server, flags: &[&str]) -> Output {
    let (data, admin) = (format!("ws://{}/ws", server.data), format!("http://{}", server.admin));
    let common = ["bench", "hostile", "--url", &data, "--admin", &admin, "--duration", "2s", "--json"];
    Command::new(env!("CARGO_BIN_EXE_throng")).args(common).args(flags).output().expect("the binary can be started")
}

fn every_kind_of_hostile_client_comes_and_nothing_is_left(setup: &Setup) {
    // What outlives connections is over soon as well: histories, and sessions that nobody comes back for.
    let brief = ["--presence-grace", "1s", "--handshake-deadline", "2s", "--history-age", "1s", "--resume-ttl", "1s"];
    let server = setup.start(&brief);
    let output = bench(&server, &["--connections", "100", "--rooms", "3"]);
    let shown = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    let kinds = report["figures"]["actions_by_kind"].as_object().expect("actions are counted by kind");
    assert!(kinds.len() > 30 && kinds.values().all(|count| count.as_u64() > Some(0)), "{shown}");
    assert!(report["figures"]["witness_deliveries"].as_u64() > Some(0), "{shown}");
    server.assert_nothing_left();
}

#[test]
fn a_server_in_use_is_not_measured() {
    let server = Setup::shards(1).start(&[]);
    let _client = server.client("somebody");
    let output = bench(&server, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has connections already"));
}
