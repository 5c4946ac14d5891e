//! The two crowds that lose their server: Rust clients of ours, and clients as they are often written, which try again after one second.

use crate::flood::front::Front;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use throng::client::{Client, Event, JoinOptions, Options, Room, State};
use throng::protocol::Dialect;
use throng::ws::Opcode;
use throng::ws::frame::write_masked;
use throng::ws::handshake::write_request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Members of a room.
const MEMBERS_EACH: usize = 20;
/// The delay of the other kind.
const FIXED: Duration = Duration::from_secs(1);
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Which clients there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `throng::client`, each in a room.
    Ours,
    /// One that tries again a second after each loss and each failure.
    Fixed,
}

/// A crowd of clients. It ends with its runtime.
pub(crate) struct Crowd {
    clients: Vec<(Client, Room)>,
    seen: Arc<Seen>,
}

/// What its clients have lived through.
#[derive(Default)]
struct Seen {
    /// Attempts, by clients that count them here.
    attempts: AtomicU64,
    /// Connected at this moment.
    connected: AtomicU64,
    /// When each became connected, in ms.
    connections: Mutex<Vec<u64>>,
}

impl Seen {
    fn connects(&self, front: &Front) {
        self.connected.fetch_add(1, Ordering::Relaxed);
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(front.clock().now_ms());
    }

    fn loses(&self) {
        self.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crowd {
    pub(crate) fn start(kind: Kind, count: usize, front: &Arc<Front>) -> Crowd {
        let seen = Arc::new(Seen::default());
        let mut clients = Vec::new();
        for index in 0..count {
            match kind {
                Kind::Ours => clients.push(ours(index, front, &seen)),
                Kind::Fixed => drop(tokio::spawn(fixed(Arc::clone(front), Arc::clone(&seen)))),
            }
        }
        Crowd { clients, seen }
    }

    /// How many are connected.
    pub(crate) fn connected(&self) -> usize {
        self.seen.connected.load(Ordering::Relaxed) as usize
    }

    /// When clients became connected, in ms.
    pub(crate) fn connections(&self) -> Vec<u64> {
        self.seen.connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Attempts, as the clients count them.
    pub(crate) fn attempts(&self) -> u64 {
        let ours: u64 = self.clients.iter().map(|(client, _)| client.stats().attempts).sum();
        ours + self.seen.attempts.load(Ordering::Relaxed)
    }
}

fn ours(index: usize, front: &Arc<Front>, seen: &Arc<Seen>) -> (Client, Room) {
    let options = Options { user: Some(format!("u{index}")), ..Options::default() };
    let (client, mut events) = Client::connect(&format!("ws://{}/ws", front.address), options).expect("the URL is one");
    let room = client.join(&format!("r{}", index / MEMBERS_EACH), JoinOptions::default()).expect("it is not joined");
    let (front, seen) = (Arc::clone(front), Arc::clone(seen));
    tokio::spawn(async move {
        let mut is_connected = false;
        while let Some(event) = events.next().await {
            let Event::State(state) = event else { continue };
            let was_connected = std::mem::replace(&mut is_connected, matches!(state, State::Connected { .. }));
            match (was_connected, is_connected) {
                (false, true) => seen.connects(&front),
                (true, false) => seen.loses(),
                (false, false) | (true, true) => {}
            }
        }
    });
    (client, room)
}

async fn fixed(front: Arc<Front>, seen: Arc<Seen>) {
    loop {
        seen.attempts.fetch_add(1, Ordering::Relaxed);
        let _ = fixed_attempt(&front, &seen).await;
        tokio::time::sleep(FIXED).await;
    }
}

/// One connection from its opening to its end.
async fn fixed_attempt(front: &Front, seen: &Seen) -> io::Result<()> {
    let mut socket = TcpStream::connect(front.address).await?;
    let mut bytes = Vec::new();
    write_request(&mut bytes, &front.address.to_string(), "/ws", KEY, Some(Dialect::V1_SUBPROTOCOL), &[]);
    write_masked(&mut bytes, Opcode::Text, br#"{"type":"connect"}"#, [0; 4]);
    socket.write_all(&bytes).await?;
    let mut heard = Vec::new();
    while !heard.windows(7).any(|word| word == b"welcome") {
        if socket.read_buf(&mut heard).await? == 0 {
            return Ok(());
        }
    }
    seen.connects(front);
    let mut rest = [0; 1024];
    let mut ended = Ok(1);
    while matches!(ended, Ok(1..)) {
        ended = socket.read(&mut rest).await;
    }
    seen.loses();
    Ok(())
}
