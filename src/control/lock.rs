//! One server per listen address: an exclusive lock that names its holder.
//!
//! SO_REUSEPORT lets two processes listen on one port, and the kernel then splits the clients between them without a word. So before
//! it listens, a server holds an abstract Unix socket named after its address. Abstract sockets live in the network namespace, as
//! ports do, and the kernel frees them with their process, however it ended; no file is left behind. Whoever finds the name
//! taken connects to it: the kernel tells the holder's pid, the holder's own thread tells the rest.
//!
//! Invariant: of two servers whose addresses overlap (`0.0.0.0:9000` and `127.0.0.1:9000`), at most one holds its lock: each first binds
//! its own name and then looks for overlapping ones, so at least one sees the other. If both see each other both are refused.
//! Port 0 can't be locked before the kernel has chosen a port: lock the chosen one.

use super::config::check::overlap;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Beginning of every lock's name, in the abstract namespace.
const NAME_PREFIX: &str = "throng-lock/";
/// Where the kernel lists Unix sockets of this network namespace; abstract names begin with `@`.
const SOCKETS_FILE: &str = "/proc/net/unix";
/// How long a holder is given to say who it is, and a caller to listen.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Bytes of a holder's answer that are looked at.
const ANSWER_BYTES_MAX: u64 = 512;
/// Callers that wait for the holder's answer.
const BACKLOG: i32 = 16;

/// Who holds a lock, as far as it can be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The locked address.
    pub address: String,
    /// Process id, from the kernel; `None` if the holder is in another pid namespace.
    pub pid: Option<i32>,
    /// What the holder says of itself: since when, and its admin address. Empty if it does not answer, for example because it is stopped.
    pub about: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(formatter, "process {pid}")?,
            None => formatter.write_str("a process of another pid namespace")?,
        }
        if self.about.is_empty() { formatter.write_str(" (it does not answer)") } else { write!(formatter, " ({})", self.about) }
    }
}

/// Why there is no lock.
#[derive(Debug)]
pub enum LockError {
    /// Another server is on an overlapping address.
    Held {
        /// The address asked for.
        address: SocketAddr,
        /// Who holds which.
        holder: Holder,
    },
    /// The kernel refused.
    Io {
        /// What was attempted.
        what: &'static str,
        /// Its answer.
        error: io::Error,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held { address, holder } => {
                write!(formatter, "{address} is taken: {holder} has locked {}; stop it or choose another address", holder.address)
            }
            LockError::Io { what, error } => write!(formatter, "can't lock the listen address: {what}: {error}"),
        }
    }
}

impl std::error::Error for LockError {}

/// The held lock. Dropping it gives the address free.
#[derive(Debug)]
pub struct Lock {
    socket: std::sync::Arc<Socket>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Wakes the answering thread, which holds the other reference to the socket: with both the name is gone.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Lock {
    /// Takes the lock of an address; `about` is what others are told, one line: since when, admin address.
    ///
    /// # Errors
    /// [`LockError::Held`] if a server is on this or an overlapping address; [`LockError::Io`] if the kernel refuses.
    ///
    /// # Panics
    /// If the port is 0: only the port that the kernel chose can be locked.
    pub fn acquire(address: SocketAddr, about: &str) -> Result<Lock, LockError> {
        assert_ne!(address.port(), 0, "the kernel must have chosen the port");
        let failed = |what| move |error| LockError::Io { what, error };
        let name = name_of(address);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("socket"))?;
        match socket.bind(&abstract_address(&name).map_err(failed("name"))?) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(LockError::Held { address, holder: ask(&name) }),
            Err(error) => return Err(LockError::Io { what: "bind", error }),
        }
        socket.listen(BACKLOG).map_err(failed("listen"))?;
        let socket = std::sync::Arc::new(socket);
        // From here on the name is ours; whoever overlaps and binds later sees it.
        let taken = std::fs::read_to_string(SOCKETS_FILE).map_err(failed(SOCKETS_FILE))?;
        if let Some(other) =
            names_in(&taken).find(|other| *other != name && address_of(other).is_some_and(|other| overlap(other, address)))
        {
            return Err(LockError::Held { address, holder: ask(other) });
        }
        let answer = format!("{}\n", about.replace(char::is_control, " "));
        let listener = std::sync::Arc::clone(&socket);
        let thread = std::thread::Builder::new()
            .name("throng-lock".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || answer_callers(&listener, &answer))
            .map_err(failed("thread"))?;
        Ok(Lock { socket, thread: Some(thread) })
    }
}

/// Tells every caller who holds the lock, until the socket is shut down.
fn answer_callers(listener: &Socket, answer: &str) {
    loop {
        match listener.accept() {
            Ok((caller, _)) => {
                let _ = caller.set_write_timeout(Some(ANSWER_WITHIN));
                let _ = (&caller).write_all(answer.as_bytes());
            }
            // EINVAL: the socket was shut down, the lock is given back.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            // EMFILE and the like pass; without a pause this would spin.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn ask(name: &str) -> Holder {
    let address = name.trim_start_matches(NAME_PREFIX).to_owned();
    let mut holder = Holder { address, pid: None, about: String::new() };
    let connected = || -> io::Result<UnixStream> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // A connect waits while the backlog of a stopped holder is full; this bounds that wait too (unix(7), SO_SNDTIMEO).
        socket.set_write_timeout(Some(ANSWER_WITHIN))?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        socket.connect(&abstract_address(name)?)?;
        Ok(UnixStream::from(std::os::fd::OwnedFd::from(socket)))
    };
    let Ok(stream) = connected() else { return holder };
    holder.pid = rustix::net::sockopt::socket_peercred(&stream).ok().map(|credentials| credentials.pid.as_raw_nonzero().get());
    let mut answer = Vec::new();
    let _ = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    // Whoever holds the name wrote this; it goes to a terminal.
    holder.about = String::from_utf8_lossy(&answer).trim().replace(char::is_control, " ");
    holder
}

fn name_of(address: SocketAddr) -> String {
    format!("{NAME_PREFIX}{}", SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn address_of(name: &str) -> Option<SocketAddr> {
    name.strip_prefix(NAME_PREFIX)?.parse().ok()
}

fn abstract_address(name: &str) -> io::Result<SockAddr> {
    SockAddr::unix(format!("\0{name}"))
}

/// The names of all locks in the kernel's list.
fn names_in(sockets: &str) -> impl Iterator<Item = &str> {
    sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@'))
        .filter(|name| name.starts_with(NAME_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// In the child of a two-process test: which address to hold.
    const CHILD_VARIABLE: &str = "LOCK_TEST_ADDRESS";

    /// A port that nobody listens on, and that differs between tests that run at once.
    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn at(ip: &str, port: u16) -> SocketAddr {
        format!("{ip}:{port}").parse().unwrap()
    }

    fn holder(result: Result<Lock, LockError>) -> Holder {
        match result {
            Err(LockError::Held { holder, .. }) => holder,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_second_holder_is_refused_and_told_who_the_first_is() {
        let port = free_port();
        let _lock = Lock::acquire(at("127.0.0.1", port), "since yesterday, admin 127.0.0.1:1").unwrap();
        let refusal = Lock::acquire(at("127.0.0.1", port), "second").unwrap_err().to_string();
        let pid = std::process::id();
        assert!(refusal.contains(&format!("process {pid} (since yesterday, admin 127.0.0.1:1)")), "{refusal}");
    }

    #[test]
    fn the_wildcard_and_an_address_of_it_exclude_each_other_in_both_orders() {
        let port = free_port();
        for (first, second) in
            [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("[::]", "127.0.0.1"), ("[::ffff:127.0.0.1]", "127.0.0.1")]
        {
            let lock = Lock::acquire(at(first, port), "").unwrap();
            holder(Lock::acquire(at(second, port), ""));
            drop(lock);
        }
        let _free_again = Lock::acquire(at("0.0.0.0", port), "").unwrap();
    }

    #[test]
    fn other_ports_and_other_addresses_are_free() {
        let port = free_port();
        let _lock = Lock::acquire(at("127.0.0.1", port), "").unwrap();
        let _other = Lock::acquire(at("127.0.0.2", port), "").unwrap();
        let _third = Lock::acquire(at("127.0.0.1", free_port()), "").unwrap();
    }

    #[test]
    fn a_killed_holder_in_another_process_leaves_the_address_free() {
        if let Ok(address) = std::env::var(CHILD_VARIABLE) {
            let _lock = Lock::acquire(address.parse().unwrap(), "the child").unwrap();
            // The parent reads this byte from our output, then kills us.
            io::stderr().write_all(b"!").unwrap();
            loop {
                std::thread::park();
            }
        }
        let address = at("127.0.0.1", free_port());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "control::lock::tests::a_killed_holder_in_another_process_leaves_the_address_free", "--nocapture"])
            .env(CHILD_VARIABLE, address.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        child.stderr.as_mut().unwrap().read_exact(&mut byte).unwrap();
        let found = holder(Lock::acquire(address, ""));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((byte, found.pid, found.about.as_str()), (*b"!", Some(child.id() as i32), "the child"));
        let _lock = Lock::acquire(address, "").unwrap();
    }

    #[test]
    fn a_holder_that_does_not_answer_is_still_named_by_its_pid() {
        let address = at("127.0.0.1", free_port());
        let silent = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        silent.bind(&abstract_address(&name_of(address)).unwrap()).unwrap();
        silent.listen(1).unwrap();
        let found = holder(Lock::acquire(address, ""));
        assert_eq!((found.pid, found.about.as_str()), (Some(std::process::id() as i32), ""));
    }

    #[test]
    fn only_locks_are_found_in_the_kernels_list() {
        let list = "Num RefCount Protocol Flags Type St Inode Path\n\
                    0: 00000002 00000000 00010000 0001 01 1 @throng-lock/127.0.0.1:9000\n\
                    0: 00000002 00000000 00010000 0001 01 2 /run/throng-lock/x\n\
                    0: 00000002 00000000 00010000 0001 01 3\n\
                    0: 00000002 00000000 00010000 0001 01 4 @other\n";
        assert_eq!(names_in(list).collect::<Vec<_>>(), ["throng-lock/127.0.0.1:9000"]);
        assert_eq!(address_of("throng-lock/[::1]:80"), Some("[::1]:80".parse().unwrap()));
    }
}
