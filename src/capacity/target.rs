//! Where the load goes: a loopback address, and nothing else. The load generator can't be aimed at other people's machines.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// A WebSocket endpoint on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Where to connect to.
    pub(super) address: SocketAddr,
    /// Host and port as the request names them.
    pub(super) host: String,
    /// Path and query of the request.
    pub(super) path: String,
    /// The subprotocol that is offered and must be chosen.
    pub(super) protocol: Option<&'static str>,
}

impl Target {
    /// Reads `ws://127.x.y.z:port/path`; `localhost` is 127.0.0.1.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(url: &str) -> Result<Target, String> {
        let (address, host, path) = parse_url(url, "ws")?;
        Ok(Target { address, host, path, protocol: None })
    }
}

/// The admin server of the server under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Admin {
    /// Where to connect to.
    pub(super) address: SocketAddr,
    /// Host and port as the request names them.
    pub(super) host: String,
}

impl Admin {
    /// Reads `http://127.x.y.z:port`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(url: &str) -> Result<Admin, String> {
        let (address, host, _) = parse_url(url, "http")?;
        Ok(Admin { address, host })
    }
}

fn parse_url(url: &str, scheme: &str) -> Result<(SocketAddr, String, String), String> {
    let rest = url
        .strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix("://"))
        .ok_or_else(|| format!("it must begin with {scheme}:// (TLS is not measured)"))?;
    if !rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err("it must be visible ASCII without a fragment".to_owned());
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().map_err(|_| format!("{port:?} is not a port"))?),
        None => (authority, 80),
    };
    let ip = if host == "localhost" { Ok(Ipv4Addr::LOCALHOST) } else { host.parse::<Ipv4Addr>() };
    match ip {
        Ok(ip) if ip.is_loopback() && port != 0 => Ok((SocketAddr::V4(SocketAddrV4::new(ip, port)), authority.to_owned(), path)),
        Ok(ip) if ip.is_loopback() => Err("port 0 can't be connected to".to_owned()),
        _ => Err(format!("{host:?} is not a loopback address: load goes to 127.0.0.0/8 or localhost only")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_with_path_and_query() {
        let target = Target::parse("ws://127.0.0.2:9000/ws?a=b").unwrap();
        assert_eq!(target.address, "127.0.0.2:9000".parse().unwrap());
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.2:9000", "/ws?a=b"));
        assert_eq!(Target::parse("ws://localhost:1").unwrap().path, "/");
        assert_eq!(Target::parse("ws://localhost:1?x").unwrap().path, "/?x");
    }

    #[test]
    fn only_loopback_is_accepted() {
        for url in
            ["ws://10.0.0.1:9000/", "ws://example.com:80/", "ws://127.0.0.1.example.com:80/", "ws://0.0.0.0:1/", "ws://[::1]:1/"]
        {
            assert!(Target::parse(url).unwrap_err().contains("loopback"), "{url}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for url in [
            "wss://127.0.0.1:1/",
            "http://127.0.0.1/",
            "ws://127.0.0.1:70000/",
            "ws://127.0.0.1:0/",
            "ws://127.0.0.1:1/a b",
            "ws://127.0.0.1:1/\r\nX: y",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
        assert!(Admin::parse("http://127.0.0.1:9001").is_ok());
        assert!(Admin::parse("http://192.168.0.1:9001").is_err());
    }
}
