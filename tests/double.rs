//! DOUBLE: drives the driver with an echo core.
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use throng::driver::{Options, Server};
use throng::limits::Limits;
use throng::shard::Order;

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
fn byte(id: u64, p: u64) -> u8 {
    (p.wrapping_mul(31) + id * 7 + p / 253) as u8
}
struct C {
    s: TcpStream,
    id: u64,
    sent: u64,
    recvd: u64,
    slow: bool,
    greedy: bool,
    half: bool,
}
fn connect(addr: SocketAddr, r: &mut Rng) -> TcpStream {
    let s = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let ip = [127, 0, 0, 2 + (r.next() % 50) as u8];
    s.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    s.connect(&addr.into()).unwrap();
    s.set_nonblocking(true).unwrap();
    s.into()
}
fn summary(server: &Server) -> (u64, u64, u64, u64, u64) {
    let snaps = server.snapshots();
    let sum = |f: &dyn Fn(&throng::driver::Snapshot) -> u64| snaps.iter().map(f).sum::<u64>();
    (
        sum(&|s| s.driver.slots_used),
        sum(&|s| s.driver.stash_bytes),
        sum(&|s| s.shard.mesh_out),
        sum(&|s| s.shard.mesh_in),
        sum(&|s| s.driver.buffers - s.driver.buffers_free),
    )
}
fn settle(server: &Server) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let s = summary(server);
        if server.connections() == 0 && s.0 == 0 && s.1 == 0 && s.2 == s.3 {
            break;
        }
        assert!(Instant::now() < end, "not settled: {} {:?}", server.connections(), s);
        std::thread::sleep(Duration::from_millis(20));
    }
}
#[test]
fn churn() {
    let n = env("N", 2000) as usize;
    let secs = env("SECS", 10);
    let shards = env("SHARDS", 2) as usize;
    let mut limits = Limits { connections_max: env("MAX", 20_000) as usize, ..Limits::default() };
    if env("TINY", 0) > 0 {
        limits.lane_places = Some(env("TINY", 0) as usize);
    }
    let server = Server::start(Options { listen: "127.0.0.1:0".parse().unwrap(), shards, limits, echo: true, pin: false }).unwrap();
    let addr = server.local_addr();
    let mut r = Rng(env("SEED", 12345));
    let mut cs: Vec<C> = Vec::new();
    let mut next_id = 0;
    let mut fresh = |r: &mut Rng| {
        next_id += 1;
        let k = r.next();
        C { s: connect(addr, r), id: next_id, sent: 0, recvd: 0, slow: k % 5 == 0, greedy: k % 7 == 0, half: false }
    };
    let t = Instant::now();
    for _ in 0..n {
        let c = fresh(&mut r);
        cs.push(c);
    }
    eprintln!("connected {n} in {:?}", t.elapsed());
    let mut buf = vec![0u8; 65536];
    let mut out = vec![0u8; 65536];
    let (mut closes, mut rsts, mut halves, mut total, mut refused) = (0, 0, 0, 0u64, 0);
    let end = Instant::now() + Duration::from_secs(secs);
    let mut laps = 0;
    while Instant::now() < end {
        laps += 1;
        for i in 0..cs.len() {
            let c = &mut cs[i];
            let k = r.next();
            if !c.half && (c.greedy || c.sent - c.recvd < 20_000) && k % 3 == 0 {
                let len = if c.greedy { 1 + r.next() % 60_000 } else { 1 + r.next() % 600 } as usize;
                for (j, b) in out[..len].iter_mut().enumerate() {
                    *b = byte(c.id, c.sent + j as u64);
                }
                match c.s.write(&out[..len]) {
                    Ok(w) => c.sent += w as u64,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(e) => {
                        assert!(
                            refused > 0 || env("MAX", 20_000) < n as u64,
                            "write {e} id {} sent {} recvd {}",
                            c.id,
                            c.sent,
                            c.recvd
                        );
                    }
                }
            }
            let mut dead = false;
            if !c.slow || r.next() % 4 == 0 {
                let max = if c.slow { 32768 } else { 65536 };
                match c.s.read(&mut buf[..max]) {
                    Ok(0) => {
                        if c.half {
                            assert_eq!(c.sent, c.recvd, "half-closed {} lost its echo", c.id);
                        } else {
                            assert!(env("MAX", 20_000) < n as u64, "EOF on {} sent {} recvd {}", c.id, c.sent, c.recvd);
                        }
                        dead = true;
                    }
                    Ok(got) => {
                        if c.recvd == 0 && buf.starts_with(b"REFUSED") {
                            refused += 1;
                            dead = true;
                        } else {
                            for (j, b) in buf[..got].iter().enumerate() {
                                assert_eq!(
                                    *b,
                                    byte(c.id, c.recvd + j as u64),
                                    "id {} at {} of {}",
                                    c.id,
                                    c.recvd + j as u64,
                                    c.sent
                                );
                            }
                            c.recvd += got as u64;
                            total += got as u64;
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(e) => {
                        assert!(
                            env("MAX", 20_000) < n as u64,
                            "read {e} half {} slow {} greedy {} sent {} recvd {}",
                            c.half,
                            c.slow,
                            c.greedy,
                            c.sent,
                            c.recvd
                        );
                        dead = true;
                    }
                }
            }
            match r.next() % 4000 {
                0 => {
                    dead = true;
                    closes += 1
                }
                1 => {
                    socket2::SockRef::from(&c.s).set_linger(Some(Duration::ZERO)).unwrap();
                    dead = true;
                    rsts += 1
                }
                2 if !c.half && !c.greedy && c.recvd > 0 => {
                    c.s.shutdown(std::net::Shutdown::Write).unwrap();
                    c.half = true;
                    c.slow = false;
                    halves += 1
                }
                _ => {}
            }
            if dead {
                cs[i] = fresh(&mut r);
            }
        }
    }
    eprintln!(
        "laps {laps} echoed {total} closes {closes} rsts {rsts} halves {halves} refused {refused} held {}",
        server.connections()
    );
    drop(cs);
    settle(&server);
    for s in server.snapshots() {
        let d = &s.driver;
        eprintln!(
            "conns {} in {} sends {} short {} pauses {} | turns {} enters {} cqe {} early {} enobufs {} rearms {} stale {} probes {} ghosts {} budget {} overfl {} accept_err {:?} acc_pauses {} bell {} excess {} declines {} evict {} stalls {}/{} buffers {}/{} lag {:?} closes {:?}",
            s.shard.connections_total,
            s.shard.bytes_in,
            s.shard.sends,
            s.shard.sends_short,
            s.shard.pauses,
            d.turns,
            d.enters,
            d.completions,
            d.early_submits,
            d.enobufs,
            d.rearms,
            d.stale,
            d.probes,
            s.shard.pings_sent,
            d.budget_exhausted,
            d.overflows,
            d.accept_errors,
            d.accept_pauses,
            d.doorbells,
            d.lane_excess,
            d.lane_declines,
            d.stash_evictions,
            d.stalls,
            d.stall_ms,
            d.buffers_free,
            d.buffers,
            d.lag_counts,
            s.shard.closes
        );
        eprintln!("mesh out {} in {} consequences {}", s.shard.mesh_out, s.shard.mesh_in, s.shard.publications);
    }
    let before: Vec<_> = server.snapshots().iter().map(|s| s.driver.turns).collect();
    std::thread::sleep(Duration::from_secs(1));
    let after: Vec<_> = server.snapshots().iter().map(|s| s.driver.turns).collect();
    eprintln!("idle turns in 1 s: {:?}", before.iter().zip(&after).map(|(a, b)| b - a).collect::<Vec<_>>());
    let t = Instant::now();
    server.order(Order::Drain { by: server.clock().millis() });
    server.join();
    eprintln!("drained in {:?}", t.elapsed());
}
