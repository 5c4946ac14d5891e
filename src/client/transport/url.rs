//! Where a client connects to: `ws://host:port/path?query`, or `wss://` for the same through TLS.

use rustls::pki_types::ServerName;
use std::fmt;

/// The parts of a URL that a client needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Name or address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Value of the `Host` header.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
    /// Whom the server's certificate must name; `None` without TLS.
    pub(super) server: Option<ServerName<'static>>,
}

/// Why a URL cannot be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// The scheme is neither `ws` nor `wss`.
    Scheme,
    /// Host or port are missing or not valid, or there is a user name. With `wss`, the host must be one that a certificate can name.
    Host,
    /// The path or query has characters that must be percent-encoded.
    Path,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UrlError::Scheme => "the URL must begin with ws:// or wss://",
            UrlError::Host => "the URL needs a valid host and port, and no user name",
            UrlError::Path => "path and query must be percent-encoded",
        })
    }
}

impl std::error::Error for UrlError {}

impl Target {
    /// Reads a URL. Without a port it is 80, or 443 with TLS; without a path `/`; a fragment is dropped, as it is never sent.
    pub(super) fn parse(url: &str) -> Result<Target, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let is_tls = scheme.eq_ignore_ascii_case("wss");
        if !is_tls && !scheme.eq_ignore_ascii_case("ws") {
            return Err(UrlError::Scheme);
        }
        let rest = rest.split('#').next().unwrap_or("");
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::Path);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(UrlError::Host)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().map_err(|_| UrlError::Host)?,
            None if port.is_empty() => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            Some(_) | None => return Err(UrlError::Host),
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:%".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(UrlError::Host);
        }
        let server = is_tls.then(|| ServerName::try_from(host.to_owned())).transpose().map_err(|_| UrlError::Host)?;
        Ok(Target { host: host.to_owned(), port, authority: authority.to_owned(), path, server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> Result<(String, u16, String, String), UrlError> {
        Target::parse(url).map(|target| (target.host, target.port, target.authority, target.path))
    }

    #[test]
    fn urls_are_taken_apart() {
        let owned = |host: &str, port, authority: &str, path: &str| Ok((host.into(), port, authority.into(), path.into()));
        assert_eq!(parts("ws://example.org"), owned("example.org", 80, "example.org", "/"));
        assert_eq!(parts("WS://127.0.0.1:9001/ws?user=a%20b#x"), owned("127.0.0.1", 9001, "127.0.0.1:9001", "/ws?user=a%20b"));
        assert_eq!(parts("ws://[::1]:8080/ws"), owned("::1", 8080, "[::1]:8080", "/ws"));
        assert_eq!(parts("ws://h?q"), owned("h", 80, "h", "/?q"));
    }

    #[test]
    fn a_url_with_tls_names_whom_the_certificate_is_to_name() {
        let owned = |host: &str, port, authority: &str, path: &str| Ok((host.into(), port, authority.into(), path.into()));
        assert_eq!(parts("wss://example.org"), owned("example.org", 443, "example.org", "/"));
        assert_eq!(parts("WSS://[::1]:9443/ws"), owned("::1", 9443, "[::1]:9443", "/ws"));
        let server = |url: &str| Target::parse(url).expect("it is one").server;
        assert_eq!(server("wss://example.org/"), Some(ServerName::try_from("example.org").expect("a name")));
        assert_eq!(server("wss://[::1]/"), Some(ServerName::try_from("::1").expect("an address")));
        assert_eq!(server("ws://example.org/"), None);
        assert_eq!(parts("wss://a..b/"), Err(UrlError::Host), "no certificate can name it");
    }

    #[test]
    fn what_is_no_url_of_ours_is_refused() {
        assert_eq!(parts("http://h/"), Err(UrlError::Scheme));
        for url in [
            "ws://",
            "ws:///x",
            "ws://h:x/",
            "ws://h:99999/",
            "ws://u@h/",
            "ws://h:/",
            "ws://h:+1/",
            "ws://[::1/",
            "ws://[::1]x/",
            "ws://a\r\nb/",
        ] {
            assert_eq!(parts(url), Err(UrlError::Host), "{url}");
        }
        assert_eq!(parts("ws://h/a b"), Err(UrlError::Path));
        assert_eq!(parts("ws://h/a\r\nX: y"), Err(UrlError::Path));
    }
}
