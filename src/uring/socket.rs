//! Listeners and the addresses of client sockets.
//!
//! A listener's options are inherited by what it accepts, so no accepted socket costs a system call for them. They keep the
//! kernel's queues short: what waits in the kernel can't be overtaken by a ping, and isn't counted by us.

use crate::limits::{GHOST_BOUND_MS, LISTEN_BACKLOG, NOTSENT_LOWAT_BYTES, SEND_BUFFER_BYTES};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Attempts to bind an address that is in use, 10 ms apart: the ring of a process that was killed gives its port back only some
/// ms after the process is gone.
const BIND_ATTEMPTS_MAX: u32 = 50;
const BIND_INTERVAL: Duration = Duration::from_millis(10);

/// Opens a listener that shares its port with the others of this process (`SO_REUSEPORT`): the kernel spreads connections over
/// them by a hash. Port 0 takes a free one, which `local_addr` tells.
///
/// # Errors
/// What the kernel says; EADDRINUSE after half a second of attempts.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match listen_once(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts < BIND_ATTEMPTS_MAX => {
                std::thread::sleep(BIND_INTERVAL);
            }
            result => return result,
        }
    }
}

fn listen_once(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // `[::]` serves IPv4 too, as mapped addresses, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    // A peer that acknowledges nothing for so long is gone, also where data is queued and no ping of ours gets through.
    socket.set_tcp_user_timeout(Some(Duration::from_millis(GHOST_BOUND_MS)))?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_share_the_port_that_the_first_got() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let second = listen(first.local_addr().unwrap()).unwrap();
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }

    #[test]
    fn ipv6_listens_where_the_machine_has_it() {
        match listen("[::1]:0".parse().unwrap()) {
            Ok(listener) => assert!(listener.local_addr().unwrap().is_ipv6()),
            // EAFNOSUPPORT, EADDRNOTAVAIL: a machine without IPv6.
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)), "{error}"),
        }
    }
}
