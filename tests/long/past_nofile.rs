//! More connections in one process than its limit of open files: 38,000 on three shards where RLIMIT_NOFILE is 20,000.

use crate::support::{RawPeer, Setup, source_address};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

const CONNECTIONS: usize = 38_000;
const HOLDERS: usize = 3;
const NOFILE: u64 = 20_000;

/// Connects from processes of their own, since one alone may not hold so many either.
pub(crate) fn run() {
    lower_the_limit();
    let server = Setup::shards(3).start(&["--connections-max", &CONNECTIONS.to_string()]);
    let each = CONNECTIONS.div_ceil(HOLDERS);
    let mut holders: Vec<Holder> = (0..HOLDERS)
        .map(|index| {
            let count = each.min(CONNECTIONS - index * each);
            Holder::start(&server.data.to_string(), count, index * each)
        })
        .collect();
    let held: usize = holders.iter_mut().map(|holder| holder.line("held")).sum();
    assert_eq!(held, CONNECTIONS);
    server.wait_until("all are open", |metrics| metrics.sum("ws_active_connections") == CONNECTIONS as f64);
    let mut refused = server.raw();
    refused.send(RawPeer::upgrade_request("/ws", "").as_bytes());
    let answer = refused.answer();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    holders.iter_mut().for_each(Holder::ask);
    let answered: usize = holders.iter_mut().map(|holder| holder.line("answered")).sum();
    assert_eq!(answered, CONNECTIONS, "some got no answer");
    let files = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the server runs").count();
    println!(
        "past-nofile: {answered} of {CONNECTIONS} connections answered with RLIMIT_NOFILE {NOFILE}; {files} files open in the process; the next one got 503"
    );
}

fn lower_the_limit() {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX).min(NOFILE);
    assert!(maximum >= NOFILE, "the hard limit of open files is {maximum}: this check needs {NOFILE}");
    setrlimit(Resource::Nofile, Rlimit { current: Some(NOFILE), maximum: limit.maximum }).expect("lowering it is allowed");
}

/// A process that holds connections.
struct Holder {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Holder {
    fn start(address: &str, count: usize, base: usize) -> Holder {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["hold", address, &count.to_string(), &base.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this program can be started again");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Holder { child, lines }
    }

    fn ask(&mut self) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        input.write_all(b"ask\n").expect("the holder runs");
    }

    fn line(&mut self, word: &str) -> usize {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the holder's output can be read");
        let count = line.trim().strip_prefix(word).and_then(|count| count.trim().parse().ok());
        count.unwrap_or_else(|| panic!("the holder said {line:?}"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The holder: connects, and for each line on its input asks the server on every connection.
pub(crate) fn hold(address: &str, count: &str, base: &str) {
    let address = address.parse().expect("an address");
    let (count, base): (usize, usize) = (count.parse().expect("a number"), base.parse().expect("a number"));
    let connect = |index: usize| {
        let stream = RawPeer::connect_from(source_address(base + index), address).expect("the server accepts");
        RawPeer::on(stream).upgrade("/ws", "")
    };
    let mut peers: Vec<RawPeer> = (0..count).map(connect).collect();
    println!("held {}", peers.len());
    for line in std::io::stdin().lines() {
        line.expect("the input can be read");
        peers.iter_mut().for_each(|peer| peer.send_text(r#"{"type":"ping"}"#));
        let answers = peers.iter_mut().map(answers_pong).filter(|answered| *answered).count();
        println!("answered {answers}");
    }
}

/// The server's own pings may come first; they are answered by whatever is said next.
fn answers_pong(peer: &mut RawPeer) -> bool {
    while let Some(frame) = peer.read_frame() {
        if frame.opcode() == 9 {
            peer.send(&RawPeer::frame(0x8a, &frame.payload));
        } else {
            return frame.payload.starts_with(br#"{"type":"pong""#);
        }
    }
    false
}
