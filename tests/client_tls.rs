//! Verify that the Rust client speaks `wss://` with whom its roots vouch for and with nobody else, says why, and comes back when a server
//! is mended. The server is rustls and tungstenite, neither of which was written here, and a script of the protocol.

#![allow(clippy::unwrap_used, reason = "what panics in a test fails it")]

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion, version};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use throng::client::{Client, ConnectError, Event, Events, Failure, JoinOptions, Options, Roots, RootsError, State};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, accept_hdr_with_config};

/// How long a test waits for something that should come at once. Long, because a busy machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of the server's receive buffer: so few that the client's socket is full again and again.
const RECEIVE_BUFFER_BYTES: usize = 4096;
/// Bytes of a segment. A client's system sizes its send buffer by them: with those of the loopback it would take a whole burst at once.
const SEGMENT_BYTES: u32 = 536;
/// The end of a certificate that has long expired: a year.
const LONG_AGO: i32 = 2020;

/// The publication after which the server reads nothing until it is told to go on.
const PAUSE: &str = "\"pause\"";

/// Somebody who vouches for servers.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority { certificate: parameters.self_signed(&key).unwrap(), issuer: Issuer::new(parameters, key) }
    }

    fn roots(&self) -> Roots {
        Roots::Der(vec![self.certificate.der().to_vec()])
    }

    /// A server's settings with a certificate for a host.
    fn server(&self, host: &str) -> ServerConfig {
        self.server_with(host, version::TLS13.version, |_| {})
    }

    fn server_with(&self, host: &str, tls: rustls::ProtocolVersion, change: impl FnOnce(&mut CertificateParams)) -> ServerConfig {
        let versions: &[&SupportedProtocolVersion] =
            if tls == version::TLS12.version { &[&version::TLS12] } else { &[&version::TLS13] };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        self.finish(builder.with_no_client_auth(), host, change)
    }

    fn finish(
        &self,
        builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
        host: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> ServerConfig {
        let mut parameters = CertificateParams::new(vec![host.to_owned()]).unwrap();
        change(&mut parameters);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What a server has seen of a client.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// A handshake, with the name asked for and the protocol agreed on.
    Handshake { server_name: Option<String>, protocol: Option<Vec<u8>> },
    /// A handshake that was broken off.
    Broken(String),
    /// An upgrade, with `Host` and target.
    Upgrade { host: String, target: String },
    /// A message of the protocol.
    Said(Value),
}

/// A server on threads of its own, which end with the test's process.
struct Server {
    address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    seen: Receiver<Seen>,
    /// Ends a pause.
    go_on: Sender<()>,
}

impl Server {
    fn start(config: ServerConfig) -> Server {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
        listener.set_tcp_mss(SEGMENT_BYTES).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(16).unwrap();
        let listener = TcpListener::from(listener);
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(Arc::new(config)));
        let (tell, seen) = channel();
        let (go_on, pauses) = channel();
        let pauses = Arc::new(Mutex::new(pauses));
        let current = Arc::clone(&config);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, tell, pauses) = (Arc::clone(&current.lock().unwrap()), tell.clone(), Arc::clone(&pauses));
                std::thread::spawn(move || serve(stream.unwrap(), config, &tell, &pauses));
            }
        });
        Server { address, config, seen, go_on }
    }

    fn url(&self, host: &str) -> String {
        format!("wss://{host}:{}/ws?x=1", self.address.port())
    }

    fn replace(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
    }

    /// The next thing that it saw.
    fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("the client was seen")
    }
}

/// One connection, until the client ends it.
fn serve(mut stream: TcpStream, config: Arc<ServerConfig>, tell: &Sender<Seen>, pauses: &Mutex<Receiver<()>>) {
    let mut connection = ServerConnection::new(config).unwrap();
    if let Err(error) = connection.complete_io(&mut stream) {
        let _ = tell.send(Seen::Broken(error.to_string()));
        // What is unread when a socket is closed makes it reset, and the alert be lost.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        return;
    }
    let server_name = connection.server_name().map(str::to_owned);
    let _ = tell.send(Seen::Handshake { server_name, protocol: connection.alpn_protocol().map(<[u8]>::to_vec) });
    let _ = converse(StreamOwned::new(connection, stream), tell, pauses);
}

/// The script of a server that takes everything, and sends publications back to who made them.
#[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
fn converse(stream: impl Read + Write, tell: &Sender<Seen>, pauses: &Mutex<Receiver<()>>) -> Result<(), tungstenite::Error> {
    let upgrade = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let _ = tell.send(Seen::Upgrade { host, target: request.uri().to_string() });
        response.headers_mut().insert("sec-websocket-protocol", "throng.v1".parse().unwrap());
        Ok(response)
    };
    let mut socket = match accept_hdr_with_config(stream, upgrade, Some(WebSocketConfig::default())) {
        Ok(socket) => socket,
        Err(error) => panic!("the upgrade failed: {error}"),
    };
    let mut offset = 0;
    loop {
        let Message::Text(text) = socket.read()? else { continue };
        let said: Value = serde_json::from_str(&text).unwrap();
        let seq = said["seq"].clone();
        let answers = match said["type"].as_str().unwrap() {
            "connect" => {
                vec![json!({"type": "welcome", "sessionId": "s1", "resumed": false, "nextSeq": 1, "heartbeatMs": 3_600_000,
                "timeoutMs": 6_000, "limits": {"window": 64, "maxMessageBytes": 65_536}})]
            }
            "join_room" => vec![
                json!({"type": "room_joined", "roomId": said["roomId"], "seq": seq, "epoch": "e", "offset": offset, "recovered": false}),
                json!({"type": "ack", "seq": seq}),
            ],
            "broadcast" => {
                offset += 1;
                let from = json!({"user": "ada", "connection": "s2"});
                let broadcast = json!({"type": "broadcast", "roomId": said["roomId"], "data": said["data"], "offset": offset, "from": from, "ts": 1});
                vec![broadcast, json!({"type": "ack", "seq": seq})]
            }
            _ => Vec::new(),
        };
        let is_pause = said["data"] == serde_json::from_str::<Value>(PAUSE).unwrap();
        let _ = tell.send(Seen::Said(said));
        for answer in answers {
            socket.send(Message::text(answer.to_string()))?;
        }
        if is_pause && pauses.lock().unwrap().recv().is_err() {
            return Ok(());
        }
    }
}

/// Runs a test with a runtime of its own and a bound on its time.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("the test ends in time") })
}

fn connect(url: &str, roots: Roots) -> (Client, Events) {
    let options = Options { user: Some("ada".into()), token: Some("secret".into()), roots, ..Options::default() };
    Client::connect(url, options).expect("there is nothing wrong with URL and roots")
}

/// The first event that `wanted` takes.
async fn wait<T>(events: &mut Events, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    loop {
        let event = events.next().await.expect("the client goes on");
        if let Some(found) = wanted(event) {
            return found;
        }
    }
}

async fn connected(events: &mut Events) {
    wait(events, |event| matches!(event, Event::State(State::Connected { .. })).then_some(())).await;
}

/// Why the first attempt failed.
async fn failure(client: &Client, events: &mut Events) -> Failure {
    let waits = |event| matches!(event, Event::State(State::Connecting { next_attempt: Some(_), .. })).then_some(());
    wait(events, waits).await;
    client.last_failure().expect("an attempt has failed")
}

#[test]
fn a_client_talks_through_tls() {
    for (tls, host) in
        [(version::TLS13.version, "localhost"), (version::TLS12.version, "localhost"), (version::TLS13.version, "127.0.0.1")]
    {
        let authority = Authority::new("ours");
        let server = Server::start(authority.server_with(host, tls, |_| {}));
        run(async {
            let (client, mut events) = connect(&server.url(host), authority.roots());
            connected(&mut events).await;
            assert_eq!(client.last_failure(), None);
            let room = client.join("r", JoinOptions::default()).unwrap();
            room.publish("\"hello\"").await.unwrap();
            let message = wait(&mut events, |event| if let Event::Message(message) = event { Some(message) } else { None }).await;
            assert_eq!(&*message.data, "\"hello\"");
            client.close().await;
        });
        // An address is no name to ask for.
        let server_name = (host == "localhost").then(|| host.to_owned());
        assert_eq!(server.next(), Seen::Handshake { server_name, protocol: Some(b"http/1.1".to_vec()) });
        let host = format!("{host}:{}", server.address.port());
        assert_eq!(server.next(), Seen::Upgrade { host, target: "/ws?x=1".to_owned() });
        assert!(matches!(server.next(), Seen::Said(connect) if connect["token"] == "secret"));
    }
}

/// TLS takes bytes before the socket does: what is left in between must follow, though nothing comes after it.
#[test]
fn the_last_bytes_of_a_message_arrive() {
    const TURNS: usize = 1_000;
    let authority = Authority::new("ours");
    let server = Server::start(authority.server("localhost"));
    run(async {
        let (client, mut events) = connect(&server.url("localhost"), authority.roots());
        let room = Arc::new(client.join("r", JoinOptions::default()).unwrap());
        connected(&mut events).await;
        for _ in 0..3 {
            room.publish(PAUSE).await.unwrap();
            let sent = client.stats().commands_sent;
            let (publisher, data) = (Arc::clone(&room), format!("\"{}\"", "x".repeat(60_000)));
            let publication = tokio::spawn(async move { publisher.publish(&data).await });
            // The server reads nothing: the client's socket is full before the message is through.
            while client.stats().commands_sent == sent {
                tokio::task::yield_now().await;
            }
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            assert!(!publication.is_finished());
            server.go_on.send(()).unwrap();
            publication.await.unwrap().expect("it took effect");
        }
        assert_eq!(client.stats().welcomes, 1, "on one connection");
    });
}

/// Both sides send more than any buffer holds.
#[test]
fn bursts_arrive_whole_and_in_order() {
    const ROUNDS: usize = 8;
    const BURST: usize = 4;
    let authority = Authority::new("ours");
    let server = Server::start(authority.server("localhost"));
    run(async {
        let (client, mut events) = connect(&server.url("localhost"), authority.roots());
        let room = Arc::new(client.join("r", JoinOptions::default()).unwrap());
        connected(&mut events).await;
        for round in 0..ROUNDS {
            let publish = |number: usize| {
                let (room, data) = (Arc::clone(&room), format!("\"{round} {number} {}\"", "x".repeat(60_000)));
                tokio::spawn(async move { room.publish(&data).await })
            };
            let publications: Vec<_> = (0..BURST).map(publish).collect();
            for number in 0..BURST {
                let message =
                    wait(&mut events, |event| if let Event::Message(message) = event { Some(message) } else { None }).await;
                assert!(message.data.starts_with(&format!("\"{round} {number} x")) && message.data.len() > 60_000);
            }
            for publication in publications {
                publication.await.unwrap().expect("it took effect");
            }
        }
        assert_eq!(client.stats().welcomes, 1, "on one connection");
    });
}

#[test]
fn a_server_that_nobody_vouches_for_is_not_talked_to_until_it_is_mended() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let server = Server::start(other.server("localhost"));
    run(async {
        let (client, mut events) = connect(&server.url("localhost"), ours.roots());
        let failure = failure(&client, &mut events).await;
        assert!(matches!(failure, Failure::Untrusted(_)), "{failure}");
        assert!(failure.to_string().contains("not trusted"), "{failure}");
        server.replace(ours.server("localhost"));
        connected(&mut events).await;
        assert_eq!(client.last_failure(), None);
    });
    assert!(matches!(server.next(), Seen::Broken(error) if error.contains("UnknownCA")), "it was told why, and nothing else");
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new("ours");
    let server = Server::start(authority.server("example.org"));
    run(async {
        for host in ["localhost", "127.0.0.1"] {
            let (client, mut events) = connect(&server.url(host), authority.roots());
            let failure = failure(&client, &mut events).await;
            assert!(matches!(failure, Failure::WrongHost(_)), "{failure}");
            assert!(matches!(server.next(), Seen::Broken(_)));
        }
    });
}

#[test]
fn a_certificate_that_is_out_of_date_is_refused() {
    let authority = Authority::new("ours");
    let old = |parameters: &mut CertificateParams| parameters.not_after = rcgen::date_time_ymd(LONG_AGO, 1, 1);
    let server = Server::start(authority.server_with("localhost", version::TLS13.version, old));
    run(async {
        let (client, mut events) = connect(&server.url("localhost"), authority.roots());
        let failure = failure(&client, &mut events).await;
        assert!(matches!(failure, Failure::OutOfDate(_)), "{failure}");
    });
}

#[test]
fn a_server_that_wants_to_know_the_client_refuses_it() {
    let authority = Authority::new("ours");
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let server = Server::start(authority.finish(builder.with_client_cert_verifier(verifier), "localhost", |_| {}));
    run(async {
        let (client, mut events) = connect(&server.url("localhost"), authority.roots());
        let failure = failure(&client, &mut events).await;
        assert!(matches!(failure, Failure::Refused(_)), "{failure}");
    });
}

#[test]
fn what_is_no_tls_is_told_as_that() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    run(async {
        let (client, mut events) = connect(&url, Authority::new("ours").roots());
        let failure = failure(&client, &mut events).await;
        assert!(matches!(failure, Failure::Tls(_)), "{failure}");
    });
}

#[test]
fn nobody_listening_is_told_as_that() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    run(async {
        let (client, mut events) = connect(&format!("wss://127.0.0.1:{port}/"), Authority::new("ours").roots());
        let failure = failure(&client, &mut events).await;
        assert!(matches!(failure, Failure::Network { kind: std::io::ErrorKind::ConnectionRefused, .. }), "{failure}");
    });
}

/// A file that is gone with its test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path = std::env::temp_dir().join(format!("throng-client-tls-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn roots_can_be_a_file() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let file = File::new("roots.pem", &(other.certificate.pem() + &ours.certificate.pem()));
    let server = Server::start(ours.server("localhost"));
    run(async {
        let (_client, mut events) = connect(&server.url("localhost"), Roots::File(file.0.clone()));
        connected(&mut events).await;
    });
}

#[test]
fn the_systems_roots_know_no_authority_of_a_test() {
    let server = Server::start(Authority::new("ours").server("localhost"));
    run(async {
        match Client::connect(&server.url("localhost"), Options::default()) {
            Ok((client, mut events)) => {
                let failure = failure(&client, &mut events).await;
                assert!(matches!(failure, Failure::Untrusted(_)), "{failure}");
            }
            // A system without authorities.
            Err(error) => assert!(matches!(error, ConnectError::Roots(RootsError::System(_))), "{error}"),
        }
    });
}

#[test]
fn roots_that_are_none_are_refused_at_once() {
    let error = |roots: Roots| match Client::connect("wss://localhost:1/", Options { roots, ..Options::default() }) {
        Err(ConnectError::Roots(error)) => error,
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("nobody can be trusted"),
    };
    let missing = std::env::temp_dir().join("throng-client-tls-missing.pem");
    assert!(matches!(error(Roots::File(missing.clone())), RootsError::File { path, .. } if path == missing));
    let empty = File::new("empty.pem", "no certificate");
    assert!(matches!(error(Roots::File(empty.0.clone())), RootsError::File { .. }));
    assert_eq!(error(Roots::Der(Vec::new())), RootsError::Empty);
    let good = Authority::new("ours").certificate.der().to_vec();
    assert!(matches!(error(Roots::Der(vec![good, vec![1, 2, 3]])), RootsError::Certificate { number: 2, .. }));
}
