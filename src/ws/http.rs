//! The head of an HTTP/1 request, strictly read, and whole plain answers (RFC 9112, RFC 9110).
//!
//! Decides whether bytes are a request head at all and what it says about path, query, host and origin. Whether it asks for a
//! WebSocket is [`super::handshake`]'s to judge; which paths exist and who may connect is the caller's. Every answer written here
//! ends the connection, so a request body is never read.
//!
//! Invariant: the verdict on a head does not depend on how its bytes were cut on the way; a head that is already wrong is refused
//! before it is complete.

use crate::limits::{REQUEST_HEAD_BYTES_MAX, REQUEST_HEADERS_MAX};
use httparse::{EMPTY_HEADER, Header};
use std::borrow::Cow;
use std::str;

/// What the bytes received so far are.
#[expect(clippy::large_enum_variant, reason = "lives on the stack for the moment of one verdict")]
#[derive(Clone, Debug)]
pub enum Head<'a> {
    /// The beginning of a head. Ask again when more has come.
    Incomplete,
    /// A whole head.
    Complete {
        /// What it asks for.
        request: Request<'a>,
        /// Bytes that it takes; what follows them is not part of it.
        head_bytes: usize,
    },
    /// No request: answer with the error's status and close.
    Malformed(RequestError),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// 400, with the rule that it breaks.
    BadRequest(&'static str),
    /// 405: not GET.
    Method,
    /// 426: not an upgrade to WebSocket version 13.
    UpgradeRequired,
    /// 431: above [`REQUEST_HEAD_BYTES_MAX`] or [`REQUEST_HEADERS_MAX`].
    HeadTooLarge,
    /// 505: not HTTP/1.1.
    HttpVersion,
}

impl RequestError {
    /// The HTTP status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            RequestError::BadRequest(_) => 400,
            RequestError::Method => 405,
            RequestError::UpgradeRequired => 426,
            RequestError::HeadTooLarge => 431,
            RequestError::HttpVersion => 505,
        }
    }

    /// What is wrong, in a sentence for the client's author.
    pub const fn message(self) -> &'static str {
        match self {
            RequestError::BadRequest(message) => message,
            RequestError::Method => "the method must be GET",
            RequestError::UpgradeRequired => "this is a WebSocket endpoint: upgrade to websocket, version 13",
            RequestError::HeadTooLarge => "the request head is too large",
            RequestError::HttpVersion => "the HTTP version must be 1.1",
        }
    }

    /// The headers that the status requires (RFC 9110 §15.5.6, §15.5.22, RFC 6455 §4.4).
    pub const fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            RequestError::Method => &[("Allow", "GET")],
            RequestError::UpgradeRequired => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            RequestError::BadRequest(_) | RequestError::HeadTooLarge | RequestError::HttpVersion => &[],
        }
    }
}

/// A request head. Borrows from the bytes that it was read from.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method as it came: case counts.
    pub method: &'a str,
    /// The path of the target, still percent-encoded, without the query. Begins with `/`.
    pub path: &'a str,
    /// What follows the `?` of the target, still percent-encoded.
    pub query: Option<&'a str>,
    /// Host and port as the client named them: from an absolute target, else from `Host`; empty if HTTP/1.0 gave none.
    pub host: &'a str,
    /// The page that opened the connection; browsers always send it. ASCII, else not judged.
    pub origin: Option<&'a str>,
    /// Minor version of HTTP/1: 0 or 1.
    pub(super) version: u8,
    headers: [Header<'a>; REQUEST_HEADERS_MAX],
    headers_count: usize,
}

impl<'a> Request<'a> {
    /// The values of every header of this name (any case), in order, without surrounding blanks.
    pub fn header_values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'h> {
        values(&self.headers[..self.headers_count], name)
    }

    /// The value of the header of this name; `None` if there is none, or not exactly one, or if it is not visible ASCII.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut values = self.header_values(name);
        let value = ascii(values.next()?)?;
        values.next().is_none().then_some(value)
    }

    /// The decoded value of the first query parameter of this name: percent-decoded, `+` as a space, as forms and
    /// `URLSearchParams` encode it. A parameter without `=` has an empty value. `None` also if what is encoded is not UTF-8, which
    /// [`upgrade`](Request::upgrade) refuses.
    pub fn query_value(&self, name: &str) -> Option<Cow<'a, str>> {
        self.parameters().find_map(|(key, value)| (decode(key)? == name).then_some(value)).and_then(decode)
    }

    /// True if each name and value of the query is percent-encoded UTF-8.
    pub(super) fn query_is_valid(&self) -> bool {
        self.parameters().all(|(key, value)| decode(key).is_some() && decode(value).is_some())
    }

    fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.query.unwrap_or("").split('&').map(|part| part.split_once('=').unwrap_or((part, "")))
    }

    /// True if a body follows the head (RFC 9112 §6.3).
    ///
    /// # Errors
    /// `BadRequest` if the length can't be told for sure: what another parser might read otherwise.
    pub(super) fn has_body(&self) -> Result<bool, RequestError> {
        if self.header_values("transfer-encoding").next().is_some() {
            return Ok(true);
        }
        let mut has_body = false;
        for value in self.header_values("content-length") {
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(RequestError::BadRequest("Content-Length is not a number"));
            }
            has_body |= value.iter().any(|digit| *digit != b'0');
        }
        Ok(has_body)
    }
}

/// The values of the headers of this name, without surrounding blanks.
pub(super) fn values<'a, 'h>(headers: &'h [Header<'a>], name: &'h str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'h> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.trim_ascii())
}

/// The elements of a comma-separated list over several headers, without blanks. Empty elements, which RFC 9110 §5.6.1 lets a sender
/// produce by mistake, are left out.
pub(super) fn elements<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// `bytes` as a string, if they are visible ASCII (or blanks).
pub(super) fn ascii(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok().filter(|text| text.is_ascii())
}

/// Reads a request head from the front of `bytes`, all that has come so far.
///
/// A head that comes byte by byte is searched for its end again with each call, which is bounded by its size; it is parsed once.
/// Empty lines before the request line are skipped (RFC 9112 §2.2). Lines end with CRLF and nothing else.
pub fn read_head(bytes: &[u8]) -> Head<'_> {
    let (start, end) = match find_head(bytes) {
        Ok(Some(head)) => head,
        Ok(None) => return Head::Incomplete,
        Err(error) => return Head::Malformed(error),
    };
    match parse(&bytes[start..end]) {
        Ok(request) => Head::Complete { request, head_bytes: end },
        Err(error) => Head::Malformed(error),
    }
}

/// Where the head begins and ends, once its empty line is there. Refuses what no later byte can mend.
pub(super) fn find_head(bytes: &[u8]) -> Result<Option<(usize, usize)>, RequestError> {
    let window = &bytes[..bytes.len().min(REQUEST_HEAD_BYTES_MAX)];
    let mut start = 0;
    let mut at = 0;
    while let Some(length) = window[at..].iter().position(|byte| *byte == b'\n') {
        let whole = &window[at..at + length];
        let line = whole.strip_suffix(b"\r").unwrap_or(whole);
        // Before the line's end, as it would be if that had not come yet.
        check_line(line)?;
        if line.len() == whole.len() {
            return Err(RequestError::BadRequest("a line does not end with CRLF"));
        }
        let is_leading = at == start;
        at += length + 1;
        match (line.is_empty(), is_leading) {
            (true, true) => start = at,
            (true, false) => return Ok(Some((start, at))),
            (false, _) => {}
        }
    }
    let rest = &window[at..];
    check_line(rest.strip_suffix(b"\r").unwrap_or(rest))?;
    if window.len() == REQUEST_HEAD_BYTES_MAX { Err(RequestError::HeadTooLarge) } else { Ok(None) }
}

/// Refuses control characters: bytes of another protocol, or a CR that some parsers take for the end of a line.
fn check_line(line: &[u8]) -> Result<(), RequestError> {
    let is_control = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
    if line.iter().any(is_control) { Err(RequestError::BadRequest("a control character in the request head")) } else { Ok(()) }
}

fn parse(head: &[u8]) -> Result<Request<'_>, RequestError> {
    let mut headers = [EMPTY_HEADER; REQUEST_HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(RequestError::BadRequest("the request is not HTTP")),
        Err(error) => return Err(refusal(error, head)),
    }
    let (method, target, version) = (parsed.method.unwrap_or(""), parsed.path.unwrap_or(""), parsed.version.unwrap_or(0));
    let headers_count = parsed.headers.len();
    let (authority, path, query) = split_target(target)?;
    let host = single(&headers[..headers_count], "host", "more than one Host", "Host is not ASCII")?;
    let origin = single(&headers[..headers_count], "origin", "more than one Origin", "Origin is not ASCII")?;
    match host {
        Some(host) if !is_host(host) => return Err(RequestError::BadRequest("Host is not a host")),
        None if version > 0 => return Err(RequestError::BadRequest("no Host")),
        Some(_) | None => {}
    }
    let host = authority.or(host).unwrap_or("");
    Ok(Request { method, path, query, host, origin, version, headers, headers_count })
}

fn refusal(error: httparse::Error, head: &[u8]) -> RequestError {
    match error {
        httparse::Error::TooManyHeaders => RequestError::HeadTooLarge,
        httparse::Error::Version if names_another_version(head) => RequestError::HttpVersion,
        httparse::Error::Version => RequestError::BadRequest("the request line does not end with an HTTP version"),
        httparse::Error::HeaderName => RequestError::BadRequest("a header name is malformed"),
        httparse::Error::HeaderValue => RequestError::BadRequest("a header value is malformed"),
        httparse::Error::Token => RequestError::BadRequest("the request line is malformed"),
        httparse::Error::NewLine | httparse::Error::Status => RequestError::BadRequest("the request is not HTTP"),
    }
}

/// True for a request line of three parts whose last is a well-formed HTTP version (RFC 9112 §2.3), known or not.
fn names_another_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or(head);
    let mut parts = line.split(|byte| *byte == b' ').skip(2);
    match (parts.next(), parts.next()) {
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None) => major.is_ascii_digit() && minor.is_ascii_digit(),
        _ => false,
    }
}

/// Authority (of an absolute target), path and query of a request target (RFC 9112 §3.2).
fn split_target(target: &str) -> Result<(Option<&str>, &str, Option<&str>), RequestError> {
    if !target.is_ascii() || target.contains('#') {
        return Err(RequestError::BadRequest("the target is not a URI without fragment"));
    }
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let (authority, rest) = match scheme {
        None => (None, target),
        Some(scheme) => {
            let (authority, rest) =
                target[scheme.len()..].split_at(target[scheme.len()..].find(['/', '?']).unwrap_or(target.len() - scheme.len()));
            if !is_host(authority) {
                return Err(RequestError::BadRequest("the target's authority is not a host"));
            }
            (Some(authority), rest)
        }
    };
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    match (path, authority) {
        ("", Some(_)) => Ok((authority, "/", query)),
        (path, _) if path.starts_with('/') => Ok((authority, path, query)),
        _ => Err(RequestError::BadRequest("the target is not a path")),
    }
}

/// The value of a header that may come once.
fn single<'a>(
    headers: &[Header<'a>],
    name: &str,
    repeated: &'static str,
    not_ascii: &'static str,
) -> Result<Option<&'a str>, RequestError> {
    let mut values = values(headers, name);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(RequestError::BadRequest(repeated));
    }
    ascii(value).map(Some).ok_or(RequestError::BadRequest(not_ascii))
}

/// True for `uri-host [":" port]` (RFC 9110 §7.2) that is not empty. The characters are judged, not whether it can be resolved.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rfind(']') {
        Some(end) if host.starts_with('[') => host.split_at(end + 1),
        _ => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(literal) => {
            !literal.is_empty() && literal.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":.%-_~".contains(&byte))
        }
        None => !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)),
    };
    let is_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()));
    is_name && is_port
}

/// A percent-encoded name or value of a query; `None` if an escape is malformed or the result is not UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| byte == b'%' || byte == b'+') {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Appends a whole plain answer, after which the connection is to be closed.
///
/// `headers` come besides `Content-Length`, `Content-Type: text/plain` (unless `headers` has one, or the body is empty),
/// `Cache-Control: no-store` (unless `headers` has one) and `Connection: close`; of a 304 there is no length. Names and values must come
/// from us, not from a peer.
pub fn write_response(out: &mut Vec<u8>, status: u16, headers: &[(&str, &str)], body: &str) {
    debug_assert!(headers.iter().all(|(name, value)| !name.contains(['\r', '\n', ':']) && !value.contains(['\r', '\n'])));
    let has = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    write_all(out, &["HTTP/1.1 ", &status.to_string(), " ", reason_phrase(status), "\r\n"]);
    for (name, value) in headers {
        write_all(out, &[name, ": ", value, "\r\n"]);
    }
    if !body.is_empty() && !has("content-type") {
        write_all(out, &["Content-Type: text/plain; charset=utf-8\r\n"]);
    }
    // RFC 9110 §7.8: who sends Upgrade names it in Connection.
    let connection = if has("upgrade") { "Upgrade, close" } else { "close" };
    // RFC 9110 §8.6: the length in a 304 is that of the 200 or none.
    if status != 304 {
        write_all(out, &["Content-Length: ", &body.len().to_string(), "\r\n"]);
    }
    if !has("cache-control") {
        write_all(out, &["Cache-Control: no-store\r\n"]);
    }
    write_all(out, &["Connection: ", connection, "\r\n\r\n", body]);
}

/// Appends the parts one after the other.
pub(super) fn write_all(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The customary phrase of a status that this server answers with; empty for others, which RFC 9112 §4 allows.
const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
