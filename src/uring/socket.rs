//! Listeners and the addresses of client sockets.
//!
//! A listener's options are inherited by what it accepts, so no accepted socket costs a system call for them. They keep the
//! kernel's queues short: what waits in the kernel can't be overtaken by a ping, and isn't counted by us.
//!
//! `TCP_USER_TIMEOUT` is deliberately not among them. Linux applies it to zero-window probes too, answered or not, and so resets a
//! peer that reads slowly through a small window (at 1 KiB/s after some 37 s with a timeout of 30 s). Who is gone is decided by
//! the heartbeat alone.

use crate::limits::{LISTEN_BACKLOG, NOTSENT_LOWAT_BYTES, SEND_BUFFER_BYTES};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Attempts to bind an address that is in use, 10 ms apart: the ring of a process that was killed gives its listener back only when
/// the kernel has taken it down, some ms after the process is gone (691 ms with 2,250 operations armed).
const BIND_ATTEMPTS_MAX: u32 = 150;
const BIND_INTERVAL: Duration = Duration::from_millis(10);

/// Opens `count` listeners that share one port (`SO_REUSEPORT`): the kernel spreads connections over them by a hash. Port 0 takes a
/// free one, which `local_addr` tells.
///
/// Nobody else may be listening there. `SO_REUSEPORT` alone would let a second process of the same user in, and each would get a
/// part of the clients; the dying ring of a killed process would get some too, and reset them. So the address is bound without it
/// first.
///
/// # Errors
/// What the kernel says; EADDRINUSE after 1.5 s of attempts.
pub fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut attempts = 0;
    while let Err(error) = bind(address, false) {
        attempts += 1;
        if error.kind() != io::ErrorKind::AddrInUse || attempts == BIND_ATTEMPTS_MAX {
            return Err(error);
        }
        std::thread::sleep(BIND_INTERVAL);
    }
    let mut listeners = Vec::with_capacity(count);
    let mut address = address;
    for _ in 0..count {
        let socket = bind(address, true)?;
        socket.listen(LISTEN_BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // `[::]` serves IPv4 too, as mapped addresses, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_share_the_port_that_the_first_got() {
        let listeners = listen("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = listeners[0].local_addr().unwrap();
        assert_ne!(address.port(), 0);
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
    }

    #[test]
    fn a_port_that_others_share_is_not_joined() {
        let holders = listen("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let error = listen(holders[0].local_addr().unwrap(), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_is_taken_as_soon_as_its_holder_lets_go() {
        let holder = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = holder[0].local_addr().unwrap();
        let waiting = std::thread::spawn(move || listen(address, 1));
        drop(holder);
        assert!(waiting.join().unwrap().is_ok());
    }

    #[test]
    fn ipv6_listens_where_the_machine_has_it() {
        match listen("[::1]:0".parse().unwrap(), 1) {
            Ok(listeners) => assert!(listeners[0].local_addr().unwrap().is_ipv6()),
            // EAFNOSUPPORT, EADDRNOTAVAIL: a machine without IPv6.
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)), "{error}"),
        }
    }
}
