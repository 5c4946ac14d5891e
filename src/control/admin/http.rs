//! Just enough of HTTP/1.1 (RFC 9112) for small questions without a body: bytes to a request or a refusal, and an answer to bytes.
//!
//! Pure. It decides which heads are refused and with which status; what a path means is [`super::pages`]'s. A `Host` that is
//! neither loopback nor the bound address is refused, so that a web page can't read us through a name that it has pointed at
//! 127.0.0.1 (DNS rebinding).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

/// Bytes of a request head. Above: 431.
pub(super) const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Headers of a request. Above: 431.
const HEADERS_MAX: usize = 64;

/// Status line of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    NotModified,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Misdirected,
    HeadTooLarge,
    Unavailable,
    HttpVersion,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::NotModified => "304 Not Modified",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::RequestTimeout => "408 Request Timeout",
            Status::Misdirected => "421 Misdirected Request",
            Status::HeadTooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
            Status::HttpVersion => "505 HTTP Version Not Supported",
        }
    }
}

/// Methods that we tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Other,
}

/// A request head that is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Path without query.
    pub(super) path: String,
    /// The connection stays open after the answer.
    pub(super) keep_alive: bool,
    /// What `If-None-Match` says, all of them as one list; empty if there is none.
    pub(super) if_none_match: String,
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// Not a whole head yet.
    Partial,
    /// A head of this many bytes.
    Request(Request, usize),
    /// Answer with this and close.
    Refused(Status, &'static str),
}

/// Reads a request head from the front of `bytes`; `bound` is the listener's address.
pub(super) fn parse(bytes: &[u8], bound: SocketAddr) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Parsed::Partial,
        Ok(_) => return Parsed::Refused(Status::HeadTooLarge, "the request head is longer than 8192 bytes"),
        Err(httparse::Error::TooManyHeaders) => {
            return Parsed::Refused(Status::HeadTooLarge, "the request has more than 64 headers");
        }
        Err(httparse::Error::Version) => return Parsed::Refused(Status::HttpVersion, "only HTTP/1.1 and HTTP/1.0 are spoken here"),
        Err(_) => return Parsed::Refused(Status::BadRequest, "the request is not HTTP/1.1"),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Parsed::Refused(Status::BadRequest, "the request line is incomplete");
    };
    let (authority, path) = split_target(target);
    if !path.starts_with('/') {
        return Parsed::Refused(Status::BadRequest, "the request target is not a path");
    }
    let mut hosts = values(request.headers, "host");
    let host = hosts.next();
    if hosts.next().is_some() {
        return Parsed::Refused(Status::BadRequest, "the request has more than one Host");
    }
    // RFC 9112 §3.2: HTTP/1.1 without Host is malformed; HTTP/1.0 knows none, and no browser speaks it.
    if host.is_none() && version == 1 {
        return Parsed::Refused(Status::BadRequest, "the request has no Host");
    }
    for name in [host, authority.map(str::as_bytes)].into_iter().flatten() {
        if !std::str::from_utf8(name).is_ok_and(|name| host_is_ours(name.trim(), bound)) {
            return Parsed::Refused(Status::Misdirected, "Host is neither localhost nor the admin address; ask by IP address");
        }
    }
    // No question has a body. Where its end is can be disputed between us and a proxy, so the connection ends with it.
    let has_body = values(request.headers, "transfer-encoding").next().is_some()
        || values(request.headers, "content-length").any(|length| length.trim_ascii() != b"0");
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => Method::Other,
    };
    if has_body && method != Method::Other {
        return Parsed::Refused(Status::BadRequest, "a request with a body is not taken");
    }
    let close = values(request.headers, "connection").any(|value| has_token(value, "close"));
    let keep = values(request.headers, "connection").any(|value| has_token(value, "keep-alive"));
    let keep_alive = !has_body && !close && (version == 1 || keep);
    let path = path.split('?').next().unwrap_or(path).to_owned();
    let if_none_match: Vec<_> = values(request.headers, "if-none-match").map(String::from_utf8_lossy).collect();
    Parsed::Request(Request { method, path, keep_alive, if_none_match: if_none_match.join(",") }, length)
}

/// Authority (of the absolute form, RFC 9112 §3.2.2) and path.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let scheme = "http://";
    match target.get(..scheme.len()) {
        Some(start) if start.eq_ignore_ascii_case(scheme) => {
            let rest = &target[scheme.len()..];
            let end = rest.find('/').unwrap_or(rest.len());
            (Some(&rest[..end]), if end == rest.len() { "/" } else { &rest[end..] })
        }
        _ => (None, target),
    }
}

fn values<'a>(headers: &'a [httparse::Header<'a>], name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether a `Host` value, with or without port, means this server: by `localhost`, by a loopback address, or by the address that
/// it is bound to (by any address if it is bound to all: only a name can be pointed here by somebody else).
fn host_is_ours(host: &str, bound: SocketAddr) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || is_port(port) => {
                return address.parse().is_ok_and(|address: Ipv6Addr| address_is_ours(address.into(), bound));
            }
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        },
    };
    match name.parse::<Ipv4Addr>() {
        Ok(address) => address_is_ours(address.into(), bound),
        // RFC 6761 §6.3: names under localhost are loopback.
        Err(_) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn address_is_ours(address: IpAddr, bound: SocketAddr) -> bool {
    let (address, bound) = (address.to_canonical(), bound.ip().to_canonical());
    address.is_loopback() || address == bound || bound.is_unspecified()
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: Status,
    pub(super) content_type: &'static str,
    pub(super) cache_control: &'static str,
    /// The content security policy.
    pub(super) policy: Cow<'static, str>,
    /// Further header lines, each with its end.
    pub(super) more: String,
    pub(super) body: Rc<str>,
}

impl Response {
    /// An answer that is not kept, and that loads and runs nothing.
    pub(super) fn new(status: Status, content_type: &'static str, body: &str) -> Response {
        Response {
            status,
            content_type,
            cache_control: "no-store",
            policy: Cow::Borrowed("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
            more: String::new(),
            body: body.into(),
        }
    }

    /// A status with one line of text.
    pub(super) fn text(status: Status, line: &str) -> Response {
        Response::new(status, "text/plain; charset=utf-8", &format!("{line}\n"))
    }

    /// The bytes on the wire; without the body for HEAD, whose head is that of GET, and for 304, whose length is that of the 200.
    pub(super) fn encode(&self, with_body: bool, keep_alive: bool) -> Vec<u8> {
        let allow = if self.status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
        let mut bytes = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {}\r\n{allow}Cache-Control: {}\r\n{}\
             X-Content-Type-Options: nosniff\r\nContent-Security-Policy: {}\r\n\r\n",
            self.status.line(),
            self.content_type,
            self.body.len(),
            if keep_alive { "keep-alive" } else { "close" },
            self.cache_control,
            self.more,
            self.policy,
        )
        .into_bytes();
        if with_body && self.status != Status::NotModified {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Parsed {
        parse(head.as_bytes(), "10.0.0.5:9001".parse().unwrap())
    }

    fn status(head: &str) -> Status {
        match read(head) {
            Parsed::Refused(status, _) => status,
            Parsed::Request(..) => Status::Ok,
            Parsed::Partial => panic!("partial: {head:?}"),
        }
    }

    #[test]
    fn a_head_is_partial_at_every_length_but_its_own() {
        let head = "GET /metrics?x=1 HTTP/1.1\r\nHost: localhost:9001\r\n\r\n";
        for length in 0..head.len() {
            assert_eq!(read(&head[..length]), Parsed::Partial, "{length}");
        }
        let request = Request { method: Method::Get, path: "/metrics".into(), keep_alive: true, if_none_match: String::new() };
        assert_eq!(read(&format!("{head}GET")), Parsed::Request(request, head.len()));
    }

    #[test]
    fn only_our_own_names_are_taken_as_host() {
        for host in [
            "localhost",
            "LOCALHOST:9001",
            "a.localhost",
            "127.0.0.1",
            "127.8.9.1:1",
            "[::1]:9001",
            "[::1]",
            "10.0.0.5:9001",
            "[::ffff:10.0.0.5]",
        ] {
            assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Status::Ok, "{host}");
        }
        for host in [
            "evil.example",
            "10.0.0.6",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example",
            "[::2]",
            "[::1",
            "[::1]x",
            "localhost:9001:1",
            "127.1",
        ] {
            assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Status::Misdirected, "{host}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_asked_by_any_address_but_by_no_name() {
        let bound = "0.0.0.0:9001".parse().unwrap();
        assert!(host_is_ours("10.1.2.3:9001", bound) && host_is_ours("[2001:db8::1]", bound));
        assert!(!host_is_ours("evil.example", bound));
    }

    #[test]
    fn the_authority_of_an_absolute_target_is_checked_too() {
        assert_eq!(status("GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n"), Status::Misdirected);
        let request = Request { method: Method::Head, path: "/".into(), keep_alive: true, if_none_match: String::new() };
        assert!(
            matches!(read("HEAD http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n"), Parsed::Request(found, _) if found == request)
        );
    }

    #[test]
    fn malformed_heads_get_the_status_that_says_why() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", Status::BadRequest),
            ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", Status::BadRequest),
            ("GET / HTTP/2.0\r\n\r\n", Status::HttpVersion),
            ("\x16\x03\x01", Status::BadRequest),
            ("PRI * HTTP/2.0\r\n\r\n", Status::HttpVersion),
            ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", Status::BadRequest),
            ("GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", Status::BadRequest),
            ("GET / HTTP/1.1\r\nHost: localhost\r\n X: folded\r\n\r\n", Status::BadRequest),
            ("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n", Status::BadRequest),
            ("GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", Status::BadRequest),
        ] {
            assert_eq!(status(head), expected, "{head:?}");
        }
    }

    #[test]
    fn a_head_without_end_is_refused_at_the_bound() {
        let head = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(read(&head[..HEAD_BYTES_MAX - 1]), Parsed::Partial);
        assert_eq!(status(&head[..HEAD_BYTES_MAX]), Status::HeadTooLarge);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(status(&many), Status::HeadTooLarge);
    }

    #[test]
    fn the_connection_stays_or_ends_as_version_and_header_say() {
        let keeps = |head: &str| matches!(read(head), Parsed::Request(Request { keep_alive: true, .. }, _));
        assert!(keeps("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: x, Close\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!keeps("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"));
    }

    #[test]
    fn several_if_none_match_are_one_list() {
        let head = "GET / HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"a\", W/\"b\"\r\nif-none-match: \"c\"\r\n\r\n";
        assert!(matches!(read(head), Parsed::Request(found, _) if found.if_none_match == "\"a\", W/\"b\",\"c\""));
    }

    #[test]
    fn what_is_not_modified_has_the_length_of_the_body_and_no_body() {
        let response = Response { status: Status::NotModified, ..Response::text(Status::Ok, "ok") };
        let answer = String::from_utf8(response.encode(true, true)).unwrap();
        assert!(answer.contains("Content-Length: 3\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn head_has_the_head_of_get() {
        let response = Response::text(Status::Ok, "ok");
        let (get, head) = (response.encode(true, true), response.encode(false, true));
        assert_eq!(&get[..head.len()], head);
        assert_eq!(&get[head.len()..], b"ok\n");
        assert!(String::from_utf8(head).unwrap().contains("Content-Length: 3\r\n"));
    }
}
