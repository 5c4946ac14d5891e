//! The opening handshake (RFC 6455 §4), both sides: is this request a correct upgrade, and is this answer a correct acceptance?
//!
//! Judges by the RFC alone. Which path, origin, subprotocol or user is welcome is the caller's policy. No extension is ever
//! negotiated, so offers of extensions are ignored.

pub use super::http::{Head, Request, RequestError, read_head, write_response};

use super::http::{ascii, elements, find_head, values, write_all};
use crate::limits::{REQUEST_HEADERS_MAX, REQUEST_SUBPROTOCOLS_MAX};
use httparse::{EMPTY_HEADER, Header};
use tungstenite::handshake::derive_accept_key;

/// The version of the WebSocket protocol that this server speaks (RFC 6455 §4.1).
const VERSION: &[u8] = b"13";

/// A correct upgrade: what its answer depends on.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade<'r> {
    /// The value of `Sec-WebSocket-Key`.
    pub key: &'r str,
    request: &'r Request<'r>,
}

impl Upgrade<'_> {
    /// True if the client offers this subprotocol (case counts).
    pub fn offers(&self, subprotocol: &str) -> bool {
        subprotocols(self.request).any(|offered| offered == subprotocol.as_bytes())
    }

    /// True if the client offers any subprotocol.
    pub fn offers_any(&self) -> bool {
        subprotocols(self.request).next().is_some()
    }
}

fn subprotocols<'a>(request: &Request<'a>) -> impl Iterator<Item = &'a [u8]> {
    elements(request.header_values("sec-websocket-protocol"))
}

impl Request<'_> {
    /// Judges the request as an opening handshake (RFC 6455 §4.2.1).
    ///
    /// # Errors
    /// In this order: `Method`; `HttpVersion`; `BadRequest` for a request with a body; `UpgradeRequired` unless `Upgrade` and
    /// `Connection` ask for a WebSocket and there is exactly one `Sec-WebSocket-Version`, 13; `BadRequest` unless there is exactly
    /// one key, of 16 bytes in base64, and for subprotocols that are no tokens, repeated, or above
    /// [`REQUEST_SUBPROTOCOLS_MAX`], and for a query that is not percent-encoded UTF-8.
    pub fn upgrade(&self) -> Result<Upgrade<'_>, RequestError> {
        if self.method != "GET" {
            return Err(RequestError::Method);
        }
        if self.version != 1 {
            return Err(RequestError::HttpVersion);
        }
        if self.has_body()? {
            return Err(RequestError::BadRequest("an upgrade request has no body"));
        }
        if !has_element(self.header_values("upgrade"), "websocket") || !has_element(self.header_values("connection"), "upgrade") {
            return Err(RequestError::UpgradeRequired);
        }
        let mut versions = self.header_values("sec-websocket-version");
        if versions.next() != Some(VERSION) || versions.next().is_some() {
            return Err(RequestError::UpgradeRequired);
        }
        let mut keys = self.header_values("sec-websocket-key");
        let key = keys.next().filter(|key| is_key(key)).and_then(ascii);
        let key = key.ok_or(RequestError::BadRequest("Sec-WebSocket-Key is not 16 bytes in base64"))?;
        if keys.next().is_some() {
            return Err(RequestError::BadRequest("more than one Sec-WebSocket-Key"));
        }
        self.check_subprotocols()?;
        if !self.query_is_valid() {
            return Err(RequestError::BadRequest("the query is not percent-encoded UTF-8"));
        }
        Ok(Upgrade { key, request: self })
    }

    /// Subprotocols are tokens, each offered once (RFC 6455 §4.1, item 10); a header that offers one offers at least one.
    fn check_subprotocols(&self) -> Result<(), RequestError> {
        for (index, subprotocol) in subprotocols(self).enumerate() {
            if index == REQUEST_SUBPROTOCOLS_MAX {
                return Err(RequestError::BadRequest("too many subprotocols"));
            }
            if !subprotocol.iter().all(|byte| is_token_byte(*byte)) {
                return Err(RequestError::BadRequest("a subprotocol is not a token"));
            }
            if subprotocols(self).take(index).any(|earlier| earlier == subprotocol) {
                return Err(RequestError::BadRequest("a subprotocol is offered twice"));
            }
        }
        if self.header_values("sec-websocket-protocol").any(|value| elements([value].into_iter()).next().is_none()) {
            return Err(RequestError::BadRequest("Sec-WebSocket-Protocol is empty"));
        }
        Ok(())
    }
}

fn has_element<'a>(values: impl Iterator<Item = &'a [u8]>, wanted: &str) -> bool {
    elements(values).any(|element| element.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// True for 16 bytes in base64. Bits of the last digit beyond the 16th byte are not judged, as RFC 4648 §3.5 allows: the key is
/// only ever hashed as it came.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'+' || *byte == b'/';
    matches!(key.strip_suffix(b"=="), Some(digits) if digits.len() == 22 && digits.iter().all(is_digit))
}

/// A character of a token (RFC 9110 §5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The value of `Sec-WebSocket-Accept` that answers `key` (RFC 6455 §4.2.2).
pub fn accept_key(key: &str) -> String {
    derive_accept_key(key.as_bytes())
}

/// Appends the answer that opens the connection: 101, with the subprotocol that was chosen among those offered.
pub fn write_upgrade(out: &mut Vec<u8>, key: &str, protocol: Option<&str>) {
    let accept = accept_key(key);
    write_all(
        out,
        &[
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
            &accept,
            "\r\n",
        ],
    );
    if let Some(protocol) = protocol {
        write_all(out, &["Sec-WebSocket-Protocol: ", protocol, "\r\n"]);
    }
    write_all(out, &["\r\n"]);
}

/// Appends a client's opening request. `path` is a whole origin-form target, query included; `key` is 16 random bytes in base64;
/// names and values of `headers` must not hold line ends.
pub fn write_request(out: &mut Vec<u8>, host: &str, path: &str, key: &str, protocol: Option<&str>, headers: &[(&str, &str)]) {
    write_all(
        out,
        &["GET ", path, " HTTP/1.1\r\nHost: ", host, "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ", key],
    );
    write_all(out, &["\r\nSec-WebSocket-Version: 13\r\n"]);
    if let Some(protocol) = protocol {
        write_all(out, &["Sec-WebSocket-Protocol: ", protocol, "\r\n"]);
    }
    for (name, value) in headers {
        write_all(out, &[name, ": ", value, "\r\n"]);
    }
    write_all(out, &["\r\n"]);
}

/// What the bytes that a server answered so far are.
#[expect(clippy::large_enum_variant, reason = "lives on the stack for the moment of one verdict")]
#[derive(Clone, Debug)]
pub enum ResponseHead<'a> {
    /// The beginning of a head. Ask again when more has come.
    Incomplete,
    /// A whole head.
    Complete {
        /// What it says.
        response: Response<'a>,
        /// Bytes that it takes. After a 101, frames follow.
        head_bytes: usize,
    },
    /// Not an HTTP answer.
    Malformed,
}

/// The head of a server's answer.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// The HTTP status.
    pub status: u16,
    headers: [Header<'a>; REQUEST_HEADERS_MAX],
    headers_count: usize,
}

impl<'a> Response<'a> {
    /// The value of the header of this name; `None` if there is none, or not exactly one, or if it is not ASCII.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut values = self.header_values(name);
        let value = ascii(values.next()?)?;
        values.next().is_none().then_some(value)
    }

    /// True if this answer opens the connection that `write_request` asked for with the same `key` and `protocol` (RFC 6455 §4.1):
    /// nothing may be chosen that was not offered.
    pub fn accepts(&self, key: &str, protocol: Option<&str>) -> bool {
        let chosen = self.header("sec-websocket-protocol");
        self.status == 101
            && self.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
            && has_element(self.header_values("connection"), "upgrade")
            && self.header("sec-websocket-accept").is_some_and(|accept| accept == accept_key(key))
            && self.header_values("sec-websocket-extensions").next().is_none()
            && (self.header_values("sec-websocket-protocol").next().is_none() || (chosen.is_some() && chosen == protocol))
    }

    fn header_values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'h> {
        values(&self.headers[..self.headers_count], name)
    }
}

/// Reads the head of a server's answer from the front of `bytes`, all that has come so far. Bounded as a request head is.
pub fn read_response(bytes: &[u8]) -> ResponseHead<'_> {
    let (start, end) = match find_head(bytes) {
        Ok(Some(head)) => head,
        Ok(None) => return ResponseHead::Incomplete,
        Err(_) => return ResponseHead::Malformed,
    };
    let mut headers = [EMPTY_HEADER; REQUEST_HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    if !parsed.parse(&bytes[start..end]).is_ok_and(|status| status.is_complete()) {
        return ResponseHead::Malformed;
    }
    let (status, headers_count) = (parsed.code.unwrap_or(0), parsed.headers.len());
    ResponseHead::Complete { response: Response { status, headers, headers_count }, head_bytes: end }
}

#[cfg(test)]
mod tests;
