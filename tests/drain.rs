//! Verify that the process starts and ends in order: readiness tells a load balancer first, clients are told last, and nothing else
//! can take the same address meanwhile.
#![cfg(feature = "server")]

mod support;

use support::{Deadline, PATIENCE, Server, Setup};

over_shards![
    a_running_server_is_healthy_and_ready_on_both_listeners,
    a_drain_fails_readiness_first_then_closes_with_4200_and_exits_0,
    a_second_signal_cuts_the_notice_short,
    a_second_instance_is_refused_and_told_the_holder,
    an_address_is_free_again_after_the_holder_ended,
];

fn a_running_server_is_healthy_and_ready_on_both_listeners(setup: &Setup) {
    let server = setup.start(&[]);
    for path in ["/healthz", "/readyz"] {
        for answer in [server.ask(path), server.ask_admin(path)] {
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    }
    let answer = server.ask("/metrics");
    assert_eq!(answer.status, 404, "metrics are for the admin listener only: {answer:?}");
    assert_eq!(server.ask_admin("/nowhere").status, 404);
}

fn a_drain_fails_readiness_first_then_closes_with_4200_and_exits_0(setup: &Setup) {
    let mut server = setup.start(&["--drain-notice", "3s", "--drain-seconds", "1"]);
    let mut client = server.client("client");
    let mut plain = server.plain("");
    client.join_present("r");
    plain.join("r");
    server.terminate();
    wait_until_not_ready(&server);
    // The load balancer may still send somebody during the notice: those are served.
    let mut late = server.client("late");
    late.join("r");
    client.round_trip();
    assert_eq!(server.ask_admin("/healthz").status, 200, "it is not ill, it is leaving");
    for mut client in [client, plain, late] {
        let end = client.expect_end();
        assert_eq!(end.code(), Some(4200));
    }
    let status = server.wait_exit();
    assert_eq!(status.code(), Some(0), "{}", server.log());
}

fn a_second_signal_cuts_the_notice_short(setup: &Setup) {
    let mut server = setup.start(&["--drain-notice", "3600s", "--drain-seconds", "1"]);
    let mut client = server.client("client");
    server.terminate();
    wait_until_not_ready(&server);
    client.round_trip();
    server.terminate();
    assert_eq!(client.expect_end().code(), Some(4200));
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.log());
}

fn a_second_instance_is_refused_and_told_the_holder(setup: &Setup) {
    let server = setup.start(&[]);
    let address = server.data.to_string();
    let (status, output) = Server::run(&["--listen", &address]);
    assert!(!status.success(), "two servers would split the clients between them\n{output}");
    let holder = server.pid().to_string();
    assert!(output.split(|c: char| !c.is_ascii_digit()).any(|word| word == holder), "it names process {holder}: {output}");
    server.client("undisturbed").round_trip();
}

fn an_address_is_free_again_after_the_holder_ended(setup: &Setup) {
    let first = setup.start(&[]);
    let address = first.data.to_string();
    let client = first.client("client");
    // Killed with a client connected: neither its lock nor its socket may stand in the way.
    drop(first);
    drop(client);
    let second = setup.start(&["--listen", &address]);
    second.client("client").round_trip();
}

fn wait_until_not_ready(server: &Server) {
    let deadline = Deadline::after(PATIENCE);
    for ask in [Server::ask, Server::ask_admin] {
        while ask(server, "/readyz").status != 503 {
            assert!(!deadline.passed(), "readiness does not fail");
        }
    }
}
