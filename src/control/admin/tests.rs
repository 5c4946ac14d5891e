//! The admin listener over real sockets: answers, hostile heads, bounds and deadlines.

use super::*;
use crate::control::data_plane::Snapshot;
use crate::control::memory::MemoryPlan;
use crate::driver::clock::Clock;
use crate::shard::Order;
use crate::time::Millis;
use std::io::{Read as _, Write as _};

/// Shards that never were.
struct Plane {
    clock: Clock,
}

impl DataPlane for Plane {
    fn snapshots(&self) -> Vec<Snapshot> {
        let mut snapshot = Snapshot::default();
        snapshot.shard.connections_active = 21;
        vec![snapshot.clone(), snapshot]
    }
    fn order(&self, _: Order) {}
    fn connections(&self) -> usize {
        0
    }
    fn now(&self) -> Millis {
        self.clock.millis()
    }
}

struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

fn start() -> Server {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::new(State::default());
    let constants = Constants { shards: 2, memory: MemoryPlan::new(1, 1_000, false, None).unwrap() };
    let shards: Arc<dyn DataPlane> = Arc::new(Plane { clock: Clock::start() });
    Admin::new(shards, Arc::clone(&state), constants, address).start(listener).unwrap();
    Server { address, state }
}

impl Server {
    fn connect(&self) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(self.address).unwrap();
        // A hang is a failure, not an endless test.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends bytes, reads to the end of the stream.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str) -> String {
        self.exchange(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("nothing")
}

#[test]
fn every_path_answers() {
    let server = start();
    server.state.set(Phase::Ready);
    assert!(server.get("/metrics").contains("\nws_active_connections 42\n"));
    let overview = server.get("/");
    assert!(overview.contains("42 of 1000") && overview.contains("href=\"/metrics\""), "{overview}");
    assert!(server.get("/healthz").ends_with("\r\n\r\nok\n"));
    assert_eq!(status(&server.get("/nothing")), "404");
}

#[test]
fn the_client_is_kept_by_its_tag_and_may_be_loaded_from_anywhere() {
    let server = start();
    let whole = server.get("/throng.js");
    let (head, body) = whole.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nContent-Type: text/javascript; charset=utf-8\r\n"), "{head}");
    assert!(head.contains("\r\nAccess-Control-Allow-Origin: *\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())) && body.contains("export class Throng"), "{head}");
    let etag = head.lines().find_map(|line| line.strip_prefix("ETag: ")).unwrap();
    let ask = |method, path| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {etag}\r\nConnection: close\r\n\r\n");
        server.exchange(head.as_bytes())
    };
    for method in ["GET", "HEAD"] {
        let answer = ask(method, "/throng.js");
        assert!(answer.starts_with("HTTP/1.1 304 ") && answer.contains(etag) && answer.ends_with("\r\n\r\n"), "{answer}");
    }
    assert_eq!((status(&ask("POST", "/throng.js")), status(&ask("GET", "/demo"))), ("405", "200"));
}

#[test]
fn the_demonstration_is_complete_and_runs_no_script_but_its_own() {
    let server = start();
    let page = server.get("/demo");
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("default-src 'none'; script-src 'self'; style-src 'self';"), "{head}");
    assert!(!body.contains("<script>") && !body.contains("style=") && !body.contains("onclick="));
    let parts: Vec<_> = ["href=\"/", "src=\"/"].iter().flat_map(|attribute| body.split(attribute).skip(1)).collect();
    assert!(parts.len() >= 4, "style, script, client and a link");
    for part in parts {
        let path = format!("/{}", part.split('"').next().unwrap());
        assert_eq!(status(&server.get(&path)), "200", "{path}");
    }
}

#[test]
fn readiness_follows_the_phase_and_health_does_not() {
    let server = start();
    assert!(server.get("/readyz").ends_with("starting\n"));
    server.state.set(Phase::Ready);
    assert_eq!(status(&server.get("/readyz")), "200");
    server.state.set(Phase::Draining);
    assert_eq!(status(&server.get("/readyz")), "503");
    assert_eq!(status(&server.get("/healthz")), "200");
}

#[test]
fn head_is_answered_without_a_body_and_other_methods_with_405() {
    let server = start();
    let answer = server.exchange(b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = server.exchange(b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc");
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("Allow: GET, HEAD\r\n"), "{answer}");
}

#[test]
fn hostile_heads_get_a_status_and_the_end_of_the_connection() {
    let server = start();
    let long = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(500));
    for (bytes, expected) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "400"),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
        (b"GET / HTTP/1.1\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        (b"\0\0\0\0\r\n\r\n", "400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
        (long.as_bytes(), "431"),
        (many.as_bytes(), "431"),
    ] {
        let mut stream = server.connect();
        // The server may refuse before it has taken all of a long head.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(
            status(&String::from_utf8_lossy(&answer)),
            expected,
            "{:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
    }
    assert_eq!(status(&server.get("/healthz")), "200");
}

#[test]
fn a_head_may_come_byte_by_byte_and_several_at_once() {
    let server = start();
    let mut stream = server.connect();
    for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let one = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{one}{one}{last}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    assert!(answer.ends_with("starting\n"));
}

#[test]
fn a_client_that_hangs_up_anywhere_leaves_nothing_behind() {
    let server = start();
    let head = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for length in 0..=head.len() {
        server.connect().write_all(&head[..length]).unwrap();
    }
    for _ in 0..2 * CONNECTIONS_MAX {
        assert_eq!(status(&server.get("/healthz")), "200");
    }
}

#[test]
fn idle_connections_make_way_for_new_ones() {
    let server = start();
    let idle: Vec<_> = (0..CONNECTIONS_MAX + 10).map(|_| server.connect()).collect();
    assert_eq!(status(&server.get("/healthz")), "200");
    // The oldest of them has been closed without a word.
    assert_eq!((&idle[0]).read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn a_connection_that_drips_its_head_ends_with_408() {
    let server = start();
    let answer = server.exchange(b"GET / HTTP/1.1\r\nHost: loc");
    assert_eq!(status(&answer), "408");
}
