//! Upgrade requests against httparse and tungstenite's handshake, and the answers to them.
//!
//! A request that tungstenite accepts is accepted, but for what is refused on purpose, see [`is_stated`]; one that is accepted is
//! accepted by tungstenite, but for what it reads less of: only the first header of a name, `Upgrade` as one word and not as a list,
//! a key whose unused bits are set, and targets that its parser of URIs does not take.

use super::input::{Cuts, Input};
use crate::limits::{REQUEST_HEAD_BYTES_MAX, REQUEST_HEADERS_MAX, REQUEST_SUBPROTOCOLS_MAX};
use crate::ws::handshake::{ResponseHead, accept_key, read_response, write_upgrade};
use crate::ws::{Head, Request, RequestError, http};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request as PeerRequest, create_response};

/// What is said of the bytes of a request. The numbers are places, so that the verdicts on different cuts can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Incomplete,
    Complete { head_bytes: usize, upgrade: Result<String, RequestError> },
    Malformed(RequestError),
}

/// Reads the bytes (behind two that choose the cuts) as an upgrade request.
///
/// # Panics
/// If the verdict depends on how the bytes are cut, differs from tungstenite's without a stated reason, or leads to an answer that
/// is not HTTP.
pub fn upgrade(data: &[u8]) {
    let mut input = Input::new(data);
    let mut cuts = Cuts::new(u64::from(input.u16()));
    let bytes = input.rest();
    let verdict = judge(bytes);
    check_cuts(bytes, &verdict, &mut cuts);
    check_answer(bytes, &verdict);
    check_against_peer(bytes, &verdict);
}

fn judge(bytes: &[u8]) -> Verdict {
    match http::read_head(bytes) {
        Head::Incomplete => Verdict::Incomplete,
        Head::Malformed(error) => Verdict::Malformed(error),
        Head::Complete { request, head_bytes } => {
            check_request(&request);
            Verdict::Complete { head_bytes, upgrade: request.upgrade().map(|upgrade| upgrade.key.to_owned()) }
        }
    }
}

/// What every caller of a request relies on.
fn check_request(request: &Request<'_>) {
    assert!(request.path.starts_with('/') && request.path.is_ascii());
    let user = request.query_value("user");
    if let Ok(upgrade) = request.upgrade() {
        let offered = handshake_offers(request);
        assert_eq!(upgrade.offers_any(), !offered.is_empty());
        assert!(offered.iter().all(|protocol| upgrade.offers(protocol)));
        let named = |part: &&str| part.split('=').next() == Some("user");
        assert!(user.is_some() || !request.query.unwrap_or("").split('&').any(|part| named(&part)));
        assert!(request.header("sec-websocket-version") == Some("13") && !request.host.is_empty());
    }
}

fn handshake_offers(request: &Request<'_>) -> Vec<String> {
    let values = request.header_values("sec-websocket-protocol");
    let text: Vec<String> = values.map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    text.iter()
        .flat_map(|value| value.split(','))
        .map(|word| word.trim_ascii().to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

/// The bytes come in pieces: nothing is said too late, and nothing else.
fn check_cuts(bytes: &[u8], verdict: &Verdict, cuts: &mut Cuts) {
    let mut end = 0;
    while end < bytes.len() {
        end += cuts.next(bytes.len() - end);
        let now = judge(&bytes[..end]);
        if now != Verdict::Incomplete {
            assert_eq!(now, *verdict, "after {end} of {} bytes", bytes.len());
        }
    }
    if let Verdict::Complete { head_bytes, .. } = verdict {
        assert_eq!(judge(&bytes[..*head_bytes]), *verdict, "what follows the head is no part of it");
        assert_eq!(judge(&bytes[..head_bytes - 1]), Verdict::Incomplete);
        assert!(*head_bytes <= REQUEST_HEAD_BYTES_MAX);
    }
    if *verdict == Verdict::Incomplete {
        assert!(bytes.len() < REQUEST_HEAD_BYTES_MAX);
    }
}

/// The answer is HTTP, whatever was asked.
fn check_answer(bytes: &[u8], verdict: &Verdict) {
    let mut answer = Vec::new();
    let status = match verdict {
        Verdict::Incomplete => return,
        Verdict::Malformed(error) | Verdict::Complete { upgrade: Err(error), .. } => {
            http::write_response(&mut answer, error.status(), error.headers(), error.message());
            error.status()
        }
        Verdict::Complete { upgrade: Ok(key), .. } => {
            let Head::Complete { request, .. } = http::read_head(bytes) else { unreachable!("it is complete") };
            let protocol = handshake_offers(&request).into_iter().next();
            write_upgrade(&mut answer, key, protocol.as_deref());
            let ResponseHead::Complete { response, head_bytes } = read_response(&answer) else { panic!("the answer is not whole") };
            assert_eq!(head_bytes, answer.len());
            assert!(response.accepts(key, protocol.as_deref()));
            assert!(!response.accepts(key, Some("another")) || protocol.is_none());
            101
        }
    };
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Response::new(&mut headers);
    let head_bytes = match parsed.parse(&answer) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        other => panic!("{other:?}: {:?}", String::from_utf8_lossy(&answer)),
    };
    assert_eq!(parsed.code, Some(status));
    let length = parsed.headers.iter().find(|header| header.name == "Content-Length");
    let length = length.map_or(0, |header| std::str::from_utf8(header.value).expect("digits").parse().expect("a length"));
    assert_eq!(answer.len() - head_bytes, length);
}

fn check_against_peer(bytes: &[u8], verdict: &Verdict) {
    let peer = PeerRequest::try_parse(bytes);
    let peer_accepts = matches!(&peer, Ok(Some((_, request))) if create_response(request).is_ok());
    match verdict {
        // What is incomplete here is incomplete there, or refused earlier.
        Verdict::Incomplete => assert!(!matches!(peer, Ok(Some(_)))),
        Verdict::Complete { upgrade: Ok(key), head_bytes } => {
            if let Ok(Some((size, request))) = peer {
                assert_eq!(size, *head_bytes);
                let theirs = request.headers().get("sec-websocket-key").expect("there is a key");
                assert_eq!(theirs.as_bytes(), key.as_bytes());
                assert_eq!(tungstenite::handshake::derive_accept_key(theirs.as_bytes()), accept_key(key));
                assert!(peer_accepts || is_read_differently(&request), "only tungstenite refuses {request:?}");
            } else {
                assert!(!is_peers_target(bytes), "tungstenite can't read it: {peer:?}");
            }
        }
        Verdict::Complete { upgrade: Err(error), .. } | Verdict::Malformed(error) => {
            if peer_accepts {
                let Ok(Some((size, request))) = &peer else { unreachable!("it was accepted") };
                assert!(is_stated(*error, &bytes[..*size], request), "only tungstenite accepts {request:?}: {error:?}");
            }
        }
    }
}

/// Why a request that tungstenite refuses may be accepted.
fn is_read_differently(request: &PeerRequest) -> bool {
    let first = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let is_listed = !first("upgrade").eq_ignore_ascii_case("websocket");
    let connection = first("connection");
    let is_elsewhere = !connection.split([' ', ',']).any(|word| word.eq_ignore_ascii_case("upgrade"));
    // The last digit of 16 bytes in base64 has four bits that count for nothing.
    let has_spare_bits = !first("sec-websocket-key").trim_end_matches('=').ends_with(['A', 'Q', 'g', 'w']);
    is_listed || is_elsewhere || has_spare_bits
}

/// Whether the target is of characters that tungstenite's parser of URIs takes for sure.
fn is_peers_target(bytes: &[u8]) -> bool {
    let target = bytes.split(|byte| *byte == b' ').nth(1).unwrap_or(b"");
    target.starts_with(b"/") && target.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/?&=%+-._~".contains(byte))
}

/// Why a request that tungstenite accepts may be refused, judged without the code under test.
fn is_stated(error: RequestError, head: &[u8], request: &PeerRequest) -> bool {
    let RequestError::BadRequest(message) = error else {
        return match error {
            RequestError::HeadTooLarge => head.len() > REQUEST_HEAD_BYTES_MAX || request.headers().len() > REQUEST_HEADERS_MAX,
            // `Connection: x Upgrade` is one word for us, and a second version contradicts the first.
            RequestError::UpgradeRequired => {
                let connection = request.headers().get_all("connection").iter();
                let words: Vec<&[u8]> = connection.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).collect();
                !words.iter().any(|word| word.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
                    || request.headers().get_all("sec-websocket-version").iter().count() > 1
            }
            RequestError::Method | RequestError::HttpVersion | RequestError::BadRequest(_) => false,
        };
    };
    let count = |name: &str| request.headers().get_all(name).iter().count();
    let value = |name: &str| request.headers().get(name).map_or(&b""[..], |value| value.as_bytes());
    let protocols: Vec<&[u8]> = request
        .headers()
        .get_all("sec-websocket-protocol")
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    let target = head.split(|byte| *byte == b' ').nth(1).unwrap_or(b"");
    let is_origin_form = target.starts_with(b"/") && target.is_ascii() && !target.contains(&b'#');
    match message {
        "a line does not end with CRLF" => head.split(|byte| *byte == b'\n').rev().skip(1).any(|line| line.last() != Some(&b'\r')),
        "a control character in the request head" => {
            let text: Vec<u8> = head.iter().copied().filter(|byte| !b"\r\n\t".contains(byte)).collect();
            text.iter().any(u8::is_ascii_control) || head.windows(2).any(|two| two[0] == b'\r' && two[1] != b'\n')
        }
        "no Host" => count("host") == 0,
        "more than one Host" => count("host") > 1,
        "Host is not ASCII" => !value("host").is_ascii(),
        "Host is not a host" => !value("host").iter().all(u8::is_ascii_alphanumeric) || value("host").is_empty(),
        "more than one Origin" => count("origin") > 1,
        "Origin is not ASCII" => !value("origin").is_ascii(),
        "the target is not a URI without fragment" | "the target is not a path" => !is_origin_form,
        "the target's authority is not a host" => !target.starts_with(b"/"),
        "an upgrade request has no body" | "Content-Length is not a number" => {
            count("content-length") + count("transfer-encoding") > 0
        }
        "more than one Sec-WebSocket-Key" => count("sec-websocket-key") > 1,
        "too many subprotocols" => protocols.len() > REQUEST_SUBPROTOCOLS_MAX,
        "a subprotocol is not a token" => {
            protocols.iter().any(|name| !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'.'))
        }
        "a subprotocol is offered twice" => (1..protocols.len()).any(|at| protocols[..at].contains(&protocols[at])),
        "Sec-WebSocket-Protocol is empty" => protocols.iter().any(|name| name.is_empty()),
        "the query is not percent-encoded UTF-8" => target.contains(&b'%'),
        _ => false,
    }
}
