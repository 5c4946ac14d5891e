//! Verify that a connection over TLS is like any other: echo whatever its size and however it is cut, rooms, sessions that go on over
//! another shard, slow readers; and that its certificates are renewed without touching it. The clients are rustls and tungstenite, and
//! the Rust client.

mod support;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{PATIENCE, Server, Setup};
use throng::client::{Client, Event, Events, JoinOptions, Options, Recovery, Room, Roots, State};
use tungstenite::{Message, WebSocket};

over_shards![
    members_over_tls_and_over_plain_tcp_are_in_the_same_room,
    a_session_goes_on_over_other_connections_whatever_shard_they_come_to,
    an_echo_of_any_size_comes_back_through_small_sockets_and_key_updates,
    a_request_in_plain_http_is_told_that_the_port_speaks_tls,
    garbage_and_broken_records_end_their_connection_only,
    certificates_are_replaced_under_living_connections,
];

/// A folder of its own that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("throng-tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a folder can be made");
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    /// Writes a new certificate for localhost with its key, in place of the last one, and returns it.
    fn certify(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).expect("good names").self_signed(&key).expect("a certificate");
        replace(&self.0.join("key.pem"), &key.serialize_pem());
        replace(&self.0.join("chain.pem"), &certificate.pem());
        certificate.der().clone()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Puts a whole file in the place of another, as renewal tools do.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("a file can be written");
    std::fs::rename(&beside, path).expect("a file can be renamed");
}

/// A server with a TLS listener.
struct Secure {
    server: Server,
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    folder: Folder,
}

fn start(setup: &Setup, flags: &[&str]) -> Secure {
    let folder = Folder::new();
    let certificate = folder.certify();
    let (chain, key) = (folder.path("chain.pem"), folder.path("key.pem"));
    let mut all = vec!["--tls-listen", "127.0.0.1:0", "--tls-cert", &chain, "--tls-key", &key];
    all.extend_from_slice(flags);
    let mut server = setup.start(&all);
    let address = server.address_after("over TLS", "wss://");
    Secure { server, address, certificate, folder }
}

type Socket = WebSocket<StreamOwned<ClientConnection, TcpStream>>;

/// A TLS connection to an address, whose certificate must be this one.
fn secure(address: SocketAddr, certificate: &CertificateDer<'static>) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let name = ServerName::try_from("localhost").expect("a name");
    StreamOwned::new(ClientConnection::new(config, name).expect("a good configuration"), stream)
}

fn echo(address: SocketAddr, certificate: &CertificateDer<'static>) -> Socket {
    let (socket, _) = tungstenite::client("wss://localhost/echo", secure(address, certificate)).expect("an upgrade");
    socket
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("the test ends in time") })
}

async fn enter(url: &str, certificate: &CertificateDer<'static>, user: &str) -> (Client, Events, Room) {
    let roots = Roots::Der(vec![certificate.to_vec()]);
    let (client, mut events) =
        Client::connect(url, Options { user: Some(user.to_owned()), roots, ..Options::default() }).expect("a good URL");
    let options = JoinOptions { presence: true, ..JoinOptions::default() };
    let room = client.join("r", options).expect("the room can be joined");
    loop {
        if let Event::Joined { recovery, .. } = events.next().await.expect("the client lives") {
            assert_eq!(recovery, Recovery::NotNeeded);
            return (client, events, room);
        }
    }
}

async fn message(events: &mut Events) -> String {
    loop {
        if let Event::Message(message) = events.next().await.expect("the client lives") {
            return message.data.to_string();
        }
    }
}

fn members_over_tls_and_over_plain_tcp_are_in_the_same_room(setup: &Setup) {
    let secure = start(setup, &[]);
    run(async {
        let (ada, mut ada_events, ada_room) = enter(&format!("wss://{}/ws", secure.address), &secure.certificate, "ada").await;
        let (bob, mut bob_events, bob_room) = enter(&format!("ws://{}/ws", secure.server.data), &secure.certificate, "bob").await;
        for n in 0..200 {
            ada_room.publish(&n.to_string()).await.expect("it takes effect");
            assert_eq!(message(&mut bob_events).await, n.to_string());
            bob_room.publish(&n.to_string()).await.expect("it takes effect");
            assert_eq!(message(&mut ada_events).await, n.to_string());
        }
        ada.close().await;
        bob.close().await;
        while ada_events.next().await.is_some() {}
        while bob_events.next().await.is_some() {}
    });
    let metrics = secure.server.assert_nothing_left();
    assert_eq!(metrics.sum_where("throng_tls_handshakes_total", "result", "ok"), 1.0);
    assert_eq!((metrics.sum("throng_tls_connections"), metrics.sum("throng_tls_bytes")), (0.0, 0.0));
}

/// Passes bytes on between clients and a server, and cuts all of it when told.
struct Cutter {
    address: SocketAddr,
    streams: Arc<std::sync::Mutex<Vec<TcpStream>>>,
}

impl Cutter {
    fn before(server: SocketAddr) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let streams = Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = Arc::clone(&streams);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(server).expect("the server listens");
                let ends = [(near.try_clone(), far.try_clone()), (far.try_clone(), near.try_clone())];
                kept.lock().expect("no panic holds it").extend([near, far]);
                for (from, to) in ends {
                    let (mut from, mut to) = (from.expect("a descriptor"), to.expect("a descriptor"));
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        Cutter { address, streams }
    }

    fn cut(&self) {
        for stream in self.streams.lock().expect("no panic holds it").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn a_session_goes_on_over_other_connections_whatever_shard_they_come_to(setup: &Setup) {
    const CUTS: usize = 6;
    let secure = start(setup, &[]);
    let cutter = Cutter::before(secure.address);
    run(async {
        let (_ada, mut ada_events, ada_room) = enter(&format!("wss://{}/ws", cutter.address), &secure.certificate, "ada").await;
        let (_bob, mut bob_events, bob_room) = enter(&format!("wss://{}/ws", secure.address), &secure.certificate, "bob").await;
        for n in 0..CUTS {
            cutter.cut();
            bob_room.publish(&format!("\"missed {n}\"")).await.expect("it takes effect");
            ada_room.publish(&n.to_string()).await.expect("it takes effect");
            loop {
                if let Event::State(State::Connected { resumed }) = ada_events.next().await.expect("the client lives") {
                    assert!(resumed, "the session went on");
                    break;
                }
            }
            assert_eq!(message(&mut ada_events).await, format!("\"missed {n}\""));
            assert_eq!(message(&mut bob_events).await, n.to_string());
        }
    });
    secure.server.wait_until("every cut is counted, and tickets are taken", |metrics| {
        let tickets = metrics.sum_where("throng_tls_handshakes_total", "result", "resumed");
        metrics.sum("throng_sessions_resumed_total") >= CUTS as f64 && tickets >= 1.0
    });
}

fn an_echo_of_any_size_comes_back_through_small_sockets_and_key_updates(setup: &Setup) {
    let secure = start(setup, &["--echo", "--message-bytes-max", "1M"]);
    let mut socket = echo(secure.address, &secure.certificate);
    let sizes = [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_535, 65_536, 200_000, 1 << 20];
    for (round, size) in sizes.into_iter().chain([7; 40]).enumerate() {
        let sent: Vec<u8> = (0..size).map(|at| (at * 31 + round) as u8).collect();
        socket.send(Message::binary(sent.clone())).expect("it is taken");
        if round % 3 == 0 {
            socket.get_mut().conn.refresh_traffic_keys().expect("an open connection");
        }
        assert_eq!(socket.read().expect("an echo").into_data(), sent);
    }
    // Much is sent before anything is read: the server's socket is full again and again, and what it has sealed waits.
    let sent: Vec<Vec<u8>> = (0..64).map(|n| vec![n as u8; 40_000]).collect();
    let mut writer = echo(secure.address, &secure.certificate);
    let count = sent.len();
    for (n, data) in sent.iter().enumerate() {
        writer.send(Message::binary(data.clone())).expect("it is taken");
        if n % 8 == 7 {
            for expected in &sent[n - 7..=n] {
                assert_eq!(&writer.read().expect("an echo").into_data()[..], &expected[..]);
            }
        }
    }
    assert_eq!(count % 8, 0);
    for mut socket in [socket, writer] {
        socket.close(None).expect("it is open");
        while socket.read().is_ok() {}
        // The end of the stream is a `close_notify`, not a cut.
        let mut rest = Vec::new();
        assert_eq!(socket.get_mut().read_to_end(&mut rest).map_err(|error| error.kind()), Ok(0));
    }
    let metrics = secure.server.assert_nothing_left();
    assert_eq!(metrics.sum("throng_tls_failures_total"), 0.0);
}

fn a_request_in_plain_http_is_told_that_the_port_speaks_tls(setup: &Setup) {
    let secure = start(setup, &[]);
    let mut stream = TcpStream::connect(secure.address).expect("it listens");
    stream.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and the end");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("use wss:// (https)"), "{answer}");
    let told = |metrics: &support::Metrics| metrics.sum_where("throng_tls_handshakes_total", "result", "plain_http") == 1.0;
    secure.server.wait_until("it is counted", told);
    secure.server.assert_nothing_left();
}

fn garbage_and_broken_records_end_their_connection_only(setup: &Setup) {
    let secure = start(setup, &["--echo"]);
    let mut bystander = echo(secure.address, &secure.certificate);
    let inputs: [&[u8]; 4] = [&[0; 64], &[0xff; 70_000], b"\x16\x03\x01\x40\x01", &[0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff]];
    for input in inputs {
        let mut stream = TcpStream::connect(secure.address).expect("it listens");
        let _ = stream.write_all(input);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let mut broken = echo(secure.address, &secure.certificate);
    broken
        .get_mut()
        .sock
        .write_all(&[23, 3, 3, 0, 32])
        .and_then(|()| broken.get_mut().sock.write_all(&[7; 32]))
        .expect("it is taken");
    assert!(broken.read().is_err(), "an alert ends it");
    for n in 0..20u8 {
        bystander.send(Message::binary(vec![n; 100])).expect("it is taken");
        assert_eq!(bystander.read().expect("an echo").into_data(), vec![n; 100]);
    }
    drop(bystander);
    let metrics = secure.server.assert_nothing_left();
    assert_eq!(metrics.sum("throng_tls_failures_total"), 1.0);
}

fn certificates_are_replaced_under_living_connections(setup: &Setup) {
    const SWAPS: usize = 4;
    let secure = start(setup, &["--echo"]);
    let mut living = vec![echo(secure.address, &secure.certificate)];
    for _ in 0..SWAPS {
        let certificate = secure.folder.certify();
        secure.server.signal(rustix::process::Signal::HUP);
        // The signal is handled when the server comes to it: until then the old one is shown, which is not the one that is trusted here.
        let deadline = support::Deadline::after(PATIENCE);
        let renewed = loop {
            let mut stream = self::secure(secure.address, &certificate);
            match stream.conn.complete_io(&mut stream.sock) {
                Ok(_) => break stream,
                Err(error) => assert!(!deadline.passed(), "never shown: {error}"),
            }
        };
        let (socket, _) = tungstenite::client("wss://localhost/echo", renewed).expect("an upgrade");
        living.push(socket);
        for (n, socket) in living.iter_mut().enumerate() {
            socket.send(Message::binary(vec![n as u8; 10])).expect("it is taken");
            assert_eq!(socket.read().expect("an echo").into_data(), vec![n as u8; 10]);
        }
    }
    // A file that can't be served is refused, and the old ones stay.
    replace(Path::new(&secure.folder.path("chain.pem")), "nothing");
    secure.server.signal(rustix::process::Signal::HUP);
    secure.server.wait_until("the log says so", |_| secure.server.log().contains("certificates stay as they are"));
    for socket in &mut living {
        socket.send(Message::binary(vec![1])).expect("it is taken");
        assert_eq!(socket.read().expect("an echo").into_data(), vec![1]);
    }
}

#[test]
fn settings_that_do_not_fit_together_are_refused_with_the_remedy() {
    let folder = Folder::new();
    folder.certify();
    let (chain, key) = (folder.path("chain.pem"), folder.path("key.pem"));
    let cases: [(&[&str], &str); 5] = [
        (&["--tls-listen", "127.0.0.1:0"], "--tls-dev"),
        (&["--tls-cert", &chain], "each chain needs its key"),
        (&["--tls-cert", &chain, "--tls-key", &chain], &chain),
        (&["--tls-cert", "/nowhere/chain.pem", "--tls-key", &key], "/nowhere/chain.pem"),
        (&["--tls-dev", "--tls-cert", &chain, "--tls-key", &key], "leave either out"),
    ];
    for (flags, expected) in cases {
        let mut all = vec!["--shards", "1"];
        all.extend_from_slice(flags);
        let (status, log) = Server::run(&all);
        assert!(!status.success() && log.contains(expected), "{flags:?}: {log}");
    }
}
