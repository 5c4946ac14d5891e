//! `throng serve`: settings, machine, locks, shards, admin, then signals until the end.
//!
//! Every refusal to start says the cause and the remedy, and comes before anything listens. The shards are reached through
//! [`Backend`], which the driver fills in, so that this file knows no ring.

use super::admin::{Admin, Phase, State};
use super::config::check::{Effective, Machine, effective};
use super::config::{Config, Settings, flags};
use super::data_plane::DataPlane;
use super::life::{Life, Step};
use super::lock::Lock;
use super::memory::MachineMemory;
use super::metrics::Constants;
use super::notify::{READY, STOPPING, notify};
use super::tls::Certificates;
use crate::driver::clock::Clock;
use crate::shard::Order;
use crate::time::WallMillis;
use clap::ArgMatches;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often connections and shards are looked at. A drain ends late by at most this.
const TICK: Duration = Duration::from_millis(50);
/// How often the files of certificates are looked at.
const CERTIFICATES_TICK: Duration = Duration::from_secs(1);
/// After a server was killed its listener lives on for some time, until its ring is torn down.
const BIND_WITHIN: Duration = Duration::from_secs(3);
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// Exit code when settings are refused, as for flags that don't exist.
const EXIT_USAGE: u8 = 2;

/// What the driver gives the control plane.
pub struct Backend {
    /// Asks the kernel what it can do, and starts the shards; or why not, with the remedy.
    pub start: fn(&Settings, &Effective) -> Result<Started, String>,
}

/// Running shards.
pub struct Started {
    /// How they are reached.
    pub plane: Arc<dyn DataPlane>,
    /// Where they listen.
    pub listen: SocketAddr,
    /// Where they listen for TLS, if they do.
    pub secured: Option<Secured>,
    /// What the kernel lacks and they do without, a line each.
    pub lacks: Vec<String>,
}

/// A TLS listener that runs.
#[derive(Debug)]
pub struct Secured {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What is served there, and what to know of it, a line each.
    pub notes: Vec<String>,
    /// Looked after while the server runs.
    pub certificates: Certificates,
}

impl fmt::Debug for Started {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Started").field("listen", &self.listen).field("lacks", &self.lacks).finish_non_exhaustive()
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Backend")
    }
}

/// Why the server did not start.
struct Refusal {
    code: u8,
    cause: String,
}

fn failed(cause: impl fmt::Display) -> Refusal {
    Refusal { code: 1, cause: cause.to_string() }
}

fn usage(cause: impl fmt::Display) -> Refusal {
    Refusal { code: EXIT_USAGE, cause: cause.to_string() }
}

/// Runs the command to its end. `files_max` is RLIMIT_NOFILE as it is in force.
pub fn run(matches: &ArgMatches, files_max: u64, backend: &Backend) -> ExitCode {
    match serve(matches, files_max, backend) {
        Ok(code) => code.into(),
        Err(refusal) => {
            for line in refusal.cause.lines() {
                let _ = writeln!(io::stderr(), "throng: {line}");
            }
            refusal.code.into()
        }
    }
}

fn serve(matches: &ArgMatches, files_max: u64, backend: &Backend) -> Result<u8, Refusal> {
    let config = flags::load(matches).map_err(usage)?;
    let machine =
        Machine { cores: std::thread::available_parallelism().map_or(1, usize::from), files_max, memory: MachineMemory::read() };
    let effective = effective(&config, &machine).map_err(usage)?;
    if flags::wants_print(matches) {
        io::stdout().write_all(print(&config, &effective).as_bytes()).map_err(failed)?;
        return Ok(0);
    }
    start_log(&config.settings);
    // From here on a signal waits until the server runs, and then stops it in order.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let signals = {
        let _context = runtime.enter();
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal)
    };
    let [terminate, interrupt, hangup] = signals.map(|signal| signal.map_err(failed));
    let signals = [terminate?, interrupt?, hangup?];
    let server = Server::start(&config, &effective, backend)?;
    server.announce(&effective, &machine).map_err(failed)?;
    for warning in &effective.warnings {
        tracing::warn!("{warning}");
    }
    Ok(runtime.block_on(server.supervise(signals, &config.settings)))
}

fn start_log(settings: &Settings) {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_max_level(settings.log).init();
}

/// The configuration as TOML; where a value is `auto`, what it came to is in the comment.
fn print(config: &Config, effective: &Effective) -> String {
    let limits = &effective.limits;
    config.print(&[
        ("shards", effective.shards.to_string()),
        ("memory-max", format!("{} bytes", effective.memory.total_bytes())),
        ("send-queue-bytes-max", format!("{} bytes", limits.send_queue_bytes_max)),
        ("lane-places", limits.lane_places(effective.shards).to_string()),
    ])
}

/// Everything that runs and is held.
struct Server {
    plane: Arc<dyn DataPlane>,
    state: Arc<State>,
    listen: SocketAddr,
    secured: Option<Secured>,
    admin: SocketAddr,
    lacks: Vec<String>,
    echo: bool,
    _locks: Vec<Lock>,
}

impl Server {
    fn start(config: &Config, effective: &Effective, backend: &Backend) -> Result<Server, Refusal> {
        let settings = &config.settings;
        let since = rfc3339(Clock::start().now().wall);
        // A port that the kernel chooses can be bound before the locks and locked only afterwards.
        let bound = (settings.admin.port() == 0).then(|| bind_admin(settings.admin)).transpose()?;
        let admin = bound.as_ref().map_or(Ok(settings.admin), TcpListener::local_addr).map_err(failed)?;
        let about = format!("since {since}, admin {admin}");
        let lock = |address: SocketAddr| Lock::acquire(address, &about).map_err(failed);
        let listen_lock = (settings.listen.port() != 0).then(|| lock(settings.listen)).transpose()?;
        let admin_lock = lock(admin)?;
        let tls_lock = settings.tls_listen.filter(|address| address.port() != 0).map(lock).transpose()?;
        let listener = bound.map_or_else(|| bind_admin(admin), Ok)?;
        let Started { plane, listen, secured, lacks } = (backend.start)(settings, effective).map_err(failed)?;
        let state = Arc::new(State::default());
        let constants = Constants { shards: effective.shards, memory: effective.memory };
        Admin::new(Arc::clone(&plane), Arc::clone(&state), constants, listen)
            .start(listener)
            .map_err(|error| failed(format!("the admin listener did not start: {error}")))?;
        let mut _locks = vec![listen_lock.map_or_else(|| lock(listen), Ok)?, admin_lock];
        if let Some(secured) = &secured {
            _locks.push(tls_lock.map_or_else(|| lock(secured.listen), Ok)?);
        }
        plane.order(Order::Ready(true));
        state.set(Phase::Ready);
        Ok(Server { plane, state, listen, secured, admin, lacks, echo: settings.echo, _locks })
    }

    /// The block that says that everything runs, on standard output.
    fn announce(&self, effective: &Effective, machine: &Machine) -> io::Result<()> {
        let memory = &effective.memory;
        let mut block = format!("throng {} runs as process {}\n", env!("CARGO_PKG_VERSION"), std::process::id());
        let mut line = |name: &str, value: String| block.push_str(&format!("{name:>18} {value}\n"));
        line("listening", format!("ws://{}/ and /ws{}", self.listen, if self.echo { ", echo on /echo" } else { "" }));
        if let Some(secured) = &self.secured {
            line("over TLS", format!("wss://{}/ and /ws", secured.listen));
            secured.notes.iter().for_each(|note| line("", note.clone()));
        }
        line("admin", format!("http://{}/", self.admin));
        line("shards", format!("{} on {} cores", effective.shards, machine.cores));
        line("connections_max", format!("{} (file table of each ring: at most {})", memory.connections_max, machine.files_max));
        line("memory_bytes_max", memory.to_string());
        line(
            "kernel memory",
            format!("about {} more with all connections open", super::config::units::human_size(memory.kernel_bytes() as u64)),
        );
        for lack in &self.lacks {
            line("kernel lacks", lack.clone());
        }
        let mut output = io::stdout().lock();
        output.write_all(block.as_bytes())?;
        output.flush()?;
        notify(READY);
        Ok(())
    }

    fn certificates(&self) -> Option<&Certificates> {
        self.secured.as_ref().map(|secured| &secured.certificates)
    }

    /// Waits for signals and sees to the end.
    async fn supervise(self, [mut terminate, mut interrupt, mut hangup]: [Signal; 3], settings: &Settings) -> u8 {
        let mut ticks = tokio::time::interval(TICK);
        let mut looks = tokio::time::interval(CERTIFICATES_TICK);
        let clock = Clock::start();
        let mut life = Life::new(settings.drain_notice_ms, settings.drain_ms);
        loop {
            let signalled = tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                _ = ticks.tick() => false,
                _ = hangup.recv() => {
                    self.certificates().inspect(|certificates| certificates.reload(clock.now()));
                    continue;
                }
                _ = looks.tick() => {
                    self.certificates().inspect(|certificates| certificates.poll(clock.now()));
                    continue;
                }
            };
            let (now, connections) = (self.plane.now(), self.plane.connections());
            let step = match signalled {
                true => life.handle_signal(now, connections),
                false => life.handle_tick(now, connections),
            };
            match step {
                None => {}
                Some(Step::FailReadiness) => {
                    tracing::info!(
                        connections,
                        notice_ms = settings.drain_notice_ms,
                        "stopping: readiness fails, accepting goes on"
                    );
                    notify(STOPPING);
                    self.state.set(Phase::Draining);
                    self.plane.order(Order::Ready(false));
                }
                Some(Step::Drain { by }) => {
                    tracing::info!(connections, drain_ms = settings.drain_ms, "draining");
                    self.plane.order(Order::Drain { by });
                }
                Some(Step::Exit { code, cut }) => {
                    tracing::info!(cut, "stopped");
                    return code;
                }
            }
        }
    }
}

fn bind_admin(address: SocketAddr) -> Result<TcpListener, Refusal> {
    let mut waited = Duration::ZERO;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && waited < BIND_WITHIN => {
                std::thread::sleep(BIND_PAUSE);
                waited += BIND_PAUSE;
            }
            Err(error) => return Err(failed(format!("admin {address}: {error}; choose another with --admin"))),
        }
    }
}

/// Date and time in UTC to the second.
fn rfc3339(time: WallMillis) -> String {
    let seconds = time.0 / 1_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date by eras of 400 years that begin in March, so that the leap day is the last of its year (H. Hinnant,
    // "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::super::data_plane::Snapshot;
    use super::*;
    use crate::time::Millis;
    use std::io::{BufRead, Read};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn dates_are_right_around_leap_days() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(WallMillis(seconds * 1_000)), text);
        }
    }

    /// In the child of the test below: the port to serve on.
    const CHILD_VARIABLE: &str = "SERVE_TEST_PORT";

    /// Shards that hold one socket until they are told to drain.
    struct Plane {
        clock: Clock,
        drained: AtomicBool,
    }

    impl DataPlane for Plane {
        fn snapshots(&self) -> Vec<Snapshot> {
            vec![Snapshot::default(); 2]
        }
        fn order(&self, order: Order) {
            if matches!(order, Order::Drain { .. }) {
                self.drained.store(true, Ordering::Relaxed);
            }
        }
        fn connections(&self) -> usize {
            usize::from(!self.drained.load(Ordering::Relaxed))
        }
        fn now(&self) -> Millis {
            self.clock.millis()
        }
    }

    fn serve_in_child(port: &str) -> ! {
        let backend = Backend {
            start: |settings, _| {
                let plane = Plane { clock: Clock::start(), drained: AtomicBool::new(false) };
                Ok(Started { plane: Arc::new(plane), listen: settings.listen, secured: None, lacks: vec!["nothing".to_owned()] })
            },
        };
        let listen = format!("127.0.0.1:{port}");
        let words = ["throng", "--listen", &listen, "--admin", "127.0.0.1:0", "--shards", "2", "--drain-notice", "1h"];
        let matches = clap::Command::new("throng").args(flags::arguments()).get_matches_from(words);
        // ExitCode can't be looked into; the harness of the child must not print its own verdict over it.
        std::process::exit(serve(&matches, 20_000, &backend).map_or(99, i32::from));
    }

    fn get(admin: &str, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_server_is_locked_ready_then_not_ready_then_gone_with_exit_code_0() {
        if let Ok(port) = std::env::var(CHILD_VARIABLE) {
            serve_in_child(&port);
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "control::serve::tests::a_server_is_locked_ready_then_not_ready_then_gone_with_exit_code_0",
                "--nocapture",
            ])
            .env(CHILD_VARIABLE, port.to_string())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
        let admin = lines.find_map(|line| Some(line.split_once("http://")?.1.trim_end_matches('/').to_owned())).unwrap();
        assert!(lines.any(|line| line.contains("kernel lacks")));

        let refusal = Lock::acquire(SocketAddr::from(([127, 0, 0, 1], port)), "").unwrap_err().to_string();
        assert!(refusal.contains(&format!("process {} (since 2", child.id())), "{refusal}");
        assert!(refusal.contains(&format!("admin {admin})")), "{refusal}");
        assert!(get(&admin, "/readyz").starts_with("HTTP/1.1 200"));

        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        while !get(&admin, "/readyz").ends_with("draining\n") {}
        assert!(get(&admin, "/metrics").contains("\nthrong_ready 0\n"));
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
