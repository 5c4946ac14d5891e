//! The server as a process: started with the flags of a test, found by its start-up lines, ended by its process id.

use super::{Answer, Client, Deadline, Metrics, PATIENCE, RawPeer};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What a test's servers have in common.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    shards: usize,
}

impl Setup {
    /// Servers with this many shards.
    pub fn shards(shards: usize) -> Setup {
        Setup { shards }
    }

    /// How many shards they have.
    pub fn count(&self) -> usize {
        self.shards
    }

    /// A running server. `flags` are further arguments of `throng serve`.
    pub fn start(&self, flags: &[&str]) -> Server {
        let shards = self.shards.to_string();
        let mut all = vec!["--shards", shards.as_str()];
        all.extend_from_slice(flags);
        Server::start(&all)
    }
}

/// A running server. Dropping it kills the process, and fails the test if it had ended by itself.
pub struct Server {
    child: Child,
    output: Arc<Output>,
    may_exit: bool,
    /// Where clients connect.
    pub data: SocketAddr,
    /// Where metrics, health and readiness are.
    pub admin: SocketAddr,
}

/// The lines that the process has printed so far, on both streams.
#[derive(Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Server {
    /// Starts the binary on free ports and waits until it says that it listens.
    pub fn start(flags: &[&str]) -> Server {
        let (child, output) = spawn(flags);
        let mut server = Server { child, output, may_exit: false, data: unbound(), admin: unbound() };
        server.data = server.address_after("listening", "ws://");
        server.admin = server.address_after("admin", "http://");
        server
    }

    /// Runs the binary to its end: for starts that must be refused. Returns its status and everything that it printed.
    pub fn run(flags: &[&str]) -> (ExitStatus, String) {
        let (child, output) = spawn(flags);
        let mut server = Server { child, output, may_exit: true, data: unbound(), admin: unbound() };
        let status = server.wait_exit();
        (status, server.log())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connected client of the plain dialect. `query` is what follows the path, such as `?user=ada`.
    pub fn plain(&self, query: &str) -> Client {
        Client::plain(self.data, &format!("/ws{query}"))
    }

    /// A connected client of `throng.v1` which has its `welcome`.
    pub fn client(&self, user: &str) -> Client {
        Client::connect(self.data, user)
    }

    /// A TCP connection on which nothing has been said.
    pub fn raw(&self) -> RawPeer {
        RawPeer::connect(self.data)
    }

    /// Asks the admin port.
    pub fn ask_admin(&self, path: &str) -> Answer {
        RawPeer::connect(self.admin).request("GET", path)
    }

    /// Asks the data port, as a load balancer does.
    pub fn ask(&self, path: &str) -> Answer {
        RawPeer::connect(self.data).request("GET", path)
    }

    /// One scrape.
    pub fn metrics(&self) -> Metrics {
        let answer = self.ask_admin("/metrics");
        assert_eq!(answer.status, 200, "GET /metrics: {answer:?}");
        Metrics::parse(&answer.body)
    }

    /// Scrapes until `reached` holds; fails, showing the metrics, when it does not come about.
    pub fn wait_until(&self, what: &str, reached: impl Fn(&Metrics) -> bool) -> Metrics {
        self.wait_until_within(PATIENCE, what, reached)
    }

    /// [`Server::wait_until`] with a patience of its own.
    pub fn wait_until_within(&self, patience: Duration, what: &str, reached: impl Fn(&Metrics) -> bool) -> Metrics {
        let deadline = Deadline::after(patience);
        loop {
            let metrics = self.metrics();
            if reached(&metrics) {
                return metrics;
            }
            assert!(!deadline.passed(), "never came about: {what}\n{}{}", metrics.describe("ws_"), metrics.describe("throng_"));
            // A scrape is a question, not an event: this spaces the questions out.
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    /// Waits until nobody is connected and verifies that nothing was left behind: the one close path has run for all. Returns the
    /// metrics of that moment.
    pub fn assert_nothing_left(&self) -> Metrics {
        let nothing = |metrics: &Metrics| {
            ["ws_active_connections", "ws_room_subscriptions", "throng_send_queue_bytes"]
                .iter()
                .all(|name| metrics.sum(name) == 0.0)
        };
        let what = "no connection, no membership, no queued byte";
        self.wait_until(what, nothing);
        // A shard's numbers are published every 100 ms: the first may be from before the test's clients came.
        std::thread::sleep(Duration::from_millis(250));
        let metrics = self.wait_until(what, nothing);
        assert_eq!(metrics.sum("ws_orphaned_subscriptions"), 0.0, "orphaned subscriptions");
        assert_eq!(metrics.sum("ws_room_leave_failures"), 0.0, "leave failures");
        metrics
    }

    /// Sends SIGTERM to this process.
    pub fn terminate(&mut self) {
        self.may_exit = true;
        self.signal(Signal::TERM);
    }

    /// Sends a signal that does not end this process.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id fits");
        kill_process(Pid::from_raw(pid).expect("a process id is not 0"), signal).expect("the process can be signalled");
    }

    /// Waits for the process to end by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Deadline::after(PATIENCE);
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return status;
            }
            assert!(!deadline.passed(), "the server does not exit\n{}", self.log());
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    /// Everything that the process has printed.
    pub fn log(&self) -> String {
        self.output.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// Waits for the line that begins with `name` and reads the socket address behind `scheme`.
    pub fn address_after(&mut self, name: &str, scheme: &str) -> SocketAddr {
        let deadline = Deadline::after(PATIENCE);
        let mut lines = self.output.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(address) = lines.iter().find_map(|line| parse_address(line, name, scheme)) {
                return address;
            }
            let exited = self.child.try_wait().expect("the child can be asked");
            let Some(left) = deadline.left().filter(|_| exited.is_none()) else {
                self.may_exit = true;
                panic!("no line `{name} {scheme}ADDRESS` came (exit: {exited:?}):\n{}", lines.join("\n"));
            };
            // Woken by a new line; the bound is for a process that ends without one.
            let wait = left.min(Duration::from_millis(200));
            lines = self.output.grown.wait_timeout(lines, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let exited = self.child.try_wait().ok().flatten();
        if exited.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("---- the server's last lines ----");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        } else if let Some(status) = exited.filter(|_| !self.may_exit) {
            panic!("the server ended during the test: {status}\n{}", self.log());
        }
    }
}

fn spawn(flags: &[&str]) -> (Child, Arc<Output>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_throng"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("THRONG_") {
            command.env_remove(name);
        }
    }
    command.arg("serve");
    let given = |flag: &str| flags.contains(&flag);
    for flag in ["--listen", "--admin"] {
        if !given(flag) {
            command.args([flag, "127.0.0.1:0"]);
        }
    }
    command.args(flags).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the server's binary can be started");
    let output = Arc::new(Output::default());
    let stdout = child.stdout.take().expect("it is piped");
    let stderr = child.stderr.take().expect("it is piped");
    follow(stdout, Arc::clone(&output));
    follow(stderr, Arc::clone(&output));
    (child, output)
}

/// Keeps a stream's lines, and keeps the pipe empty, until the process ends.
fn follow(stream: impl Read + Send + 'static, output: Arc<Output>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            output.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            output.grown.notify_all();
        }
    });
}

fn parse_address(line: &str, name: &str, scheme: &str) -> Option<SocketAddr> {
    let rest = line.trim_start().strip_prefix(name)?.trim_start().strip_prefix(scheme)?;
    let end = rest.find(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c))).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn unbound() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
