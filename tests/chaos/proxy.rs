//! A proxy that does to connections what networks do: it cuts, resets, stalls, swallows and refuses, at random from a seed.
//!
//! It knows nothing of what it carries. A stalled link is not read, so that bytes of a connection that its client gave up long ago
//! still reach the server late. What it did is counted.

use crate::chaos::rng::Rng;
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that are carried at once.
const CARRY_BYTES: usize = 16 * 1024;
/// The longest pause that is survived: shorter than what either side waits for a sign of life.
const PAUSE_MS_MAX: u64 = 1_500;
/// A silence that outlasts what either side waits: from and up to.
const SILENCE_MS: (u64, u64) = (8_000, 15_000);
/// How long bytes are swallowed before the reset that tells both sides.
const SWALLOW_MS_MAX: u64 = 300;
/// How long nobody gets through.
const REFUSE_MS: (u64, u64) = (300, 1_500);

/// What was done to connections.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) links: AtomicU64,
    pub(crate) cuts: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) swallows: AtomicU64,
    pub(crate) stalls: AtomicU64,
    pub(crate) refusals: AtomicU64,
}

/// What a link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// Nothing is read: upward, downward.
    Stalled {
        up: bool,
        down: bool,
    },
    /// Everything is read and nothing carried on.
    Swallowing,
    /// It ends without an end of stream in between.
    Reset,
    /// It ends.
    Cut,
}

/// A running proxy. It ends with its runtime.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) counts: Arc<Counts>,
    links: Arc<Links>,
}

#[derive(Default)]
struct Links {
    open: Mutex<BTreeMap<u64, watch::Sender<Gate>>>,
    /// New connections are reset.
    refuses: AtomicBool,
}

impl Links {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, watch::Sender<Gate>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// A proxy before `server`, which need not listen yet.
    pub(crate) async fn start(server: SocketAddr, seed: u64) -> io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (counts, links) = (Arc::new(Counts::default()), Arc::new(Links::default()));
        tokio::spawn(accept(listener, server, Arc::clone(&counts), Arc::clone(&links), Rng::new(seed)));
        Ok(Proxy { address, counts, links })
    }

    /// Does one thing to one connection, or to all that would come.
    pub(crate) fn strike(&self, rng: &mut Rng) {
        let open = self.links.lock();
        if open.is_empty() {
            return;
        }
        let index = rng.index(open.len());
        let Some((_, link)) = open.iter().nth(index) else { return };
        // A link that is struck already keeps its fate.
        if *link.borrow() != Gate::Open {
            return;
        }
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let link = link.clone();
        drop(open);
        match rng.below(40) {
            0..13 => {
                count(&self.counts.cuts);
                link.send_replace(Gate::Cut);
            }
            13..25 => {
                count(&self.counts.resets);
                link.send_replace(Gate::Reset);
            }
            25..31 => {
                count(&self.counts.swallows);
                change(link, Gate::Swallowing, Duration::from_millis(rng.below(SWALLOW_MS_MAX)), Gate::Reset);
            }
            31..39 => {
                count(&self.counts.stalls);
                let ms = if rng.chance(3) { between(rng, SILENCE_MS) } else { rng.below(PAUSE_MS_MAX) };
                let (up, down) = rng.pick(&[(true, true), (true, false), (false, true)]);
                change(link, Gate::Stalled { up, down }, Duration::from_millis(ms), Gate::Open);
            }
            _ => {
                let links = Arc::clone(&self.links);
                links.refuses.store(true, Ordering::Relaxed);
                let wait = Duration::from_millis(between(rng, REFUSE_MS));
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    links.refuses.store(false, Ordering::Relaxed);
                });
            }
        }
    }

    /// Lets everything through from now on, also what was stalled, and returns when no harm is under way any more.
    pub(crate) async fn calm(&self) {
        self.links.refuses.store(false, Ordering::Relaxed);
        for link in self.links.lock().values() {
            link.send_if_modified(|gate| {
                let is_stalled = matches!(gate, Gate::Stalled { .. });
                if is_stalled {
                    *gate = Gate::Open;
                }
                is_stalled
            });
        }
        tokio::time::sleep(Duration::from_millis(SWALLOW_MS_MAX)).await;
    }
}

fn between(rng: &mut Rng, (least, most): (u64, u64)) -> u64 {
    least + rng.below(most - least)
}

/// Changes a link for a while. What has happened to it meanwhile stands.
fn change(link: watch::Sender<Gate>, gate: Gate, wait: Duration, then: Gate) {
    link.send_replace(gate);
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        link.send_if_modified(|current| {
            let stands = *current == gate;
            if stands {
                *current = then;
            }
            stands
        });
    });
}

async fn accept(listener: TcpListener, server: SocketAddr, counts: Arc<Counts>, links: Arc<Links>, mut rng: Rng) {
    for id in 0.. {
        let Ok((client, _)) = listener.accept().await else { return };
        if links.refuses.load(Ordering::Relaxed) {
            counts.refusals.fetch_add(1, Ordering::Relaxed);
            reset(&client);
            continue;
        }
        counts.links.fetch_add(1, Ordering::Relaxed);
        // Some links hand bytes over in small pieces.
        let piece = if rng.chance(8) { 1 + rng.index(100) } else { CARRY_BYTES };
        let links = Arc::clone(&links);
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else { return reset(&client) };
            let (gate, _) = watch::channel(Gate::Open);
            links.lock().insert(id, gate.clone());
            carry(client, server, gate, piece).await;
            links.lock().remove(&id);
        });
    }
}

/// Makes the drop of a socket a reset. One that is broken already needs none.
fn reset(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Carries a link to its end.
async fn carry(client: TcpStream, server: TcpStream, gate: watch::Sender<Gate>, piece: usize) {
    // Pieces travel as pieces.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut gates = gate.subscribe();
    let is_over = |gate: &Gate| matches!(gate, Gate::Cut | Gate::Reset);
    let ended = tokio::select! {
        gate = gates.wait_for(is_over) => gate.map_or(Gate::Cut, |gate| *gate),
        () = pump(&client, &server, gate.subscribe(), true, piece) => Gate::Cut,
        () = pump(&server, &client, gate.subscribe(), false, piece) => Gate::Cut,
    };
    if ended == Gate::Reset {
        reset(&client);
        reset(&server);
    }
}

/// Carries one direction until a side is done.
async fn pump(from: &TcpStream, to: &TcpStream, mut gate: watch::Receiver<Gate>, is_up: bool, piece: usize) {
    let mut buffer = vec![0; CARRY_BYTES];
    loop {
        let is_flowing = |gate: &Gate| match gate {
            Gate::Stalled { up, down } => !(if is_up { *up } else { *down }),
            Gate::Open | Gate::Swallowing | Gate::Reset | Gate::Cut => true,
        };
        let Ok(Gate::Open | Gate::Swallowing | Gate::Stalled { .. }) = gate.wait_for(is_flowing).await.map(|gate| *gate) else {
            return;
        };
        let read = tokio::select! {
            changed = gate.changed() => if changed.is_err() { return } else { continue },
            ready = from.readable() => ready.and_then(|()| from.try_read(&mut buffer)),
        };
        let count = match read {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        // Only these: what comes between the swallowing and the reset would arrive without what was swallowed before it.
        let is_carried = matches!(*gate.borrow(), Gate::Open | Gate::Stalled { .. });
        if is_carried && write(to, &buffer[..count], piece).await.is_err() {
            return;
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8], piece: usize) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(&bytes[..piece.min(bytes.len())]) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
