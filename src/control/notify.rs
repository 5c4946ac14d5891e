//! Tells systemd what the server does (sd_notify(3)): so that what depends on it starts when it answers, not when it was forked.
//!
//! Without `NOTIFY_SOCKET` in the environment nothing happens; a failure is logged and otherwise ignored.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Connections are taken.
pub const READY: &str = "READY=1";
/// A drain has begun.
pub const STOPPING: &str = "STOPPING=1";

/// Sends one state.
pub fn notify(state: &str) {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = path.to_str().ok_or(io::ErrorKind::InvalidInput.into()).and_then(|path| send(path, state))
    {
        tracing::warn!(%error, state, "the service manager was not told");
    }
}

fn send(path: &str, state: &str) -> io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reaches_an_abstract_socket() {
        let name = format!("throng-notify-test-{}", std::process::id());
        let receiver = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(&format!("@{name}"), READY).unwrap();
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], READY.as_bytes());
    }

    #[test]
    fn a_socket_that_is_not_there_is_an_error_and_no_wait() {
        assert!(send("/nonexistent/notify", READY).is_err());
    }
}
