//! Verify that the Rust client does against the real server what it promises: joins, publishes once, tells presence, and comes back by
//! itself when its connection is cut or the server restarts.

mod support;

use std::net::SocketAddr;
use std::time::Duration;
use support::{PATIENCE, Setup};
use throng::client::{
    Client, Event, Events, JoinOptions, Message, Options, PublishError, PublishOptions, Recovery, Refused, Room, State,
};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

over_shards![
    messages_reach_the_other_members_once_and_in_order,
    a_publication_to_a_room_that_was_left_is_refused,
    presence_tells_who_is_in_and_who_has_gone,
    a_cut_connection_comes_back_and_its_room_with_it,
    closing_the_client_leaves_nothing_behind,
    dropping_the_handles_leaves_nothing_behind,
    a_server_that_is_not_there_is_tried_again_until_it_is,
];

/// Runs a test with a runtime of its own and a bound on its time.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("the test ends in time") })
}

fn connect(address: SocketAddr, user: &str) -> (Client, Events) {
    let options = Options { user: Some(user.to_owned()), ..Options::default() };
    Client::connect(&format!("ws://{address}/ws"), options).expect("the URL is one")
}

/// The first event that `wanted` takes.
async fn wait<T>(events: &mut Events, what: &str, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    loop {
        let event = events.next().await.unwrap_or_else(|| panic!("the client ended before {what}"));
        if let Some(found) = wanted(event) {
            return found;
        }
    }
}

async fn joined(events: &mut Events) -> Recovery {
    wait(events, "room_joined", |event| if let Event::Joined { recovery, .. } = event { Some(recovery) } else { None }).await
}

async fn message(events: &mut Events) -> Message {
    wait(events, "a message", |event| if let Event::Message(message) = event { Some(message) } else { None }).await
}

async fn enter(address: SocketAddr, user: &str, room: &str) -> (Client, Events, Room) {
    let (client, mut events) = connect(address, user);
    let options = JoinOptions { presence: true, state: Some(format!("{{\"is\":{user:?}}}")), ..JoinOptions::default() };
    let room = client.join(room, options).expect("the room can be joined");
    assert_eq!(joined(&mut events).await, Recovery::NotNeeded);
    (client, events, room)
}

fn messages_reach_the_other_members_once_and_in_order(setup: &Setup) {
    const COUNT: u64 = 500;
    let server = setup.start(&[]);
    run(async {
        let (_ada, mut ada_events, ada_room) = enter(server.data, "ada", "r").await;
        let (_bob, mut bob_events, bob_room) = enter(server.data, "bob", "r").await;
        let publishing = async {
            for n in 0..COUNT {
                let options = PublishOptions { key: None, echo: n % 2 == 0 };
                ada_room.publish_with(&n.to_string(), options).await.expect("it takes effect");
            }
        };
        let reading = async {
            for n in 0..COUNT {
                let message = message(&mut bob_events).await;
                assert_eq!((&*message.data, message.offset, &*message.user), (n.to_string().as_str(), Some(n + 1), "ada"));
            }
        };
        let echoes = async {
            for n in (0..COUNT).step_by(2) {
                assert_eq!(&*message(&mut ada_events).await.data, n.to_string().as_str());
            }
        };
        tokio::join!(publishing, reading, echoes);
        bob_room.cast("\"cursor\"").expect("the connection is open");
        let cast = message(&mut ada_events).await;
        assert_eq!((&*cast.data, cast.offset), ("\"cursor\"", None));
        assert_eq!(ada_room.publish("{not json").await, Err(PublishError::Refused(Refused::NotJson)));
        let large = format!("{:?}", "x".repeat(70_000));
        assert_eq!(ada_room.publish(&large).await, Err(PublishError::Refused(Refused::TooLarge)), "as welcome.limits said");
    });
    server.assert_nothing_left();
}

fn a_publication_to_a_room_that_was_left_is_refused(setup: &Setup) {
    let server = setup.start(&[]);
    run(async {
        let (client, mut events, room) = enter(server.data, "ada", "r").await;
        assert!(matches!(client.join("r", JoinOptions::default()), Err(Refused::AlreadyJoined)));
        room.leave();
        let again = client.join("r", JoinOptions::default()).expect("it was left");
        assert_eq!(joined(&mut events).await, Recovery::NotNeeded);
        again.publish("1").await.expect("it is joined again");
        assert!(again.presence().is_none(), "it was not asked for this time");
    });
}

fn presence_tells_who_is_in_and_who_has_gone(setup: &Setup) {
    let server = setup.start(&[]);
    run(async {
        let (_ada, mut events, room) = enter(server.data, "ada", "r").await;
        let users = |room: &Room| -> Vec<String> {
            room.presence().expect("it was asked for").users().map(|(user, _)| user.to_owned()).collect()
        };
        let (bob, _bob_events, bob_room) = enter(server.data, "bob", "r").await;
        while users(&room) != ["ada", "bob"] {
            wait(&mut events, "bob's coming", |event| matches!(event, Event::Presence { .. }).then_some(())).await;
        }
        bob_room.set_state("{\"is\":\"typing\"}").await.expect("a state is taken");
        let state = |room: &Room| {
            let presence = room.presence().expect("it was asked for");
            let mut members = presence.users();
            let (_, bob) = members.find(|(user, _)| *user == "bob")?;
            bob.connections.values().next().cloned().flatten()
        };
        while state(&room).as_deref() != Some("{\"is\":\"typing\"}") {
            wait(&mut events, "bob's state", |event| matches!(event, Event::Presence { .. }).then_some(())).await;
        }
        bob.close().await;
        while users(&room) != ["ada"] {
            wait(&mut events, "bob's going", |event| matches!(event, Event::Presence { .. }).then_some(())).await;
        }
    });
}

/// A proxy that can cut what goes through it: each message on the channel cuts all connections of that moment.
async fn proxy(server: SocketAddr) -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let (cut, mut cuts) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let mut carried = Vec::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (mut client, _) = accepted.expect("it listens");
                    carried.push(tokio::spawn(async move {
                        let mut upstream = TcpStream::connect(server).await.expect("the server listens");
                        let _ = copy_bidirectional(&mut client, &mut upstream).await;
                    }));
                }
                cut = cuts.recv() => {
                    carried.drain(..).for_each(|task: tokio::task::JoinHandle<()>| task.abort());
                    if cut.is_none() {
                        return;
                    }
                }
            }
        }
    });
    (address, cut)
}

fn a_cut_connection_comes_back_and_its_room_with_it(setup: &Setup) {
    let server = setup.start(&[]);
    run(async {
        let (address, cut) = proxy(server.data).await;
        let (_bob, mut bob_events, bob_room) = enter(server.data, "bob", "r").await;
        let (ada, mut events, room) = enter(address, "ada", "r").await;
        for round in 0..3u32 {
            cut.send(()).await.expect("the proxy runs");
            let is_lost = |event| matches!(event, Event::State(State::Resuming { .. } | State::Connecting { .. })).then_some(());
            wait(&mut events, "the loss", is_lost).await;
            // What is published meanwhile waits for the connection.
            let data = format!("\"from ada {round}\"");
            let publishing = room.publish(&data);
            let reading =
                wait(&mut events, "the way back", |event| matches!(event, Event::State(State::Connected { .. })).then_some(()));
            let (published, ()) = tokio::join!(publishing, reading);
            published.expect("it was not sent before");
            assert_eq!(&*message(&mut bob_events).await.data, data);
            bob_room.publish(&format!("\"from bob {round}\"")).await.expect("bob's connection was never cut");
            assert_eq!(&*message(&mut events).await.data, format!("\"from bob {round}\""));
        }
        assert!(ada.stats().welcomes >= 4, "{:?}", ada.stats());
    });
    server.assert_nothing_left();
}

fn closing_the_client_leaves_nothing_behind(setup: &Setup) {
    let server = setup.start(&[]);
    run(async {
        let (client, mut events, room) = enter(server.data, "ada", "r").await;
        client.close().await;
        assert_eq!(room.publish("1").await, Err(PublishError::Refused(Refused::Closed)));
        wait(&mut events, "the end", |event| matches!(event, Event::State(State::Closed(_))).then_some(())).await;
        assert_eq!(events.next().await, None);
    });
    server.assert_nothing_left();
}

fn dropping_the_handles_leaves_nothing_behind(setup: &Setup) {
    let server = setup.start(&[]);
    run(async {
        let (client, mut events, _room) = enter(server.data, "ada", "r").await;
        drop(client);
        while events.next().await.is_some() {}
    });
    server.assert_nothing_left();
}

fn a_server_that_is_not_there_is_tried_again_until_it_is(setup: &Setup) {
    run(async {
        // A port on which nobody listens any more.
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            listener.local_addr().expect("it is bound")
        };
        let (client, mut events) = connect(address, "ada");
        let room = client.join("r", JoinOptions::default()).expect("a room can be joined before there is a connection");
        let waits = |event| matches!(event, Event::State(State::Connecting { next_attempt: Some(_), .. })).then_some(());
        wait(&mut events, "a failed attempt", waits).await;
        assert!(client.next_attempt_in().is_none_or(|wait| wait <= Duration::from_millis(30_000)));
        let server = setup.start(&["--listen", &address.to_string()]);
        let (published, _) = tokio::join!(room.publish("1"), joined(&mut events));
        published.expect("it was kept until there was a connection");
        client.close().await;
        server.assert_nothing_left();
    });
}
