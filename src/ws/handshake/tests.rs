//! Requests are tables of text with the status that they get; tungstenite is the peer that we did not write.

use super::*;
use crate::limits::REQUEST_HEAD_BYTES_MAX;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::generate_request;
use tungstenite::handshake::server::{Request as PeerRequest, create_response};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The request of RFC 6455 §1.3.
const EXAMPLE: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\nSec-WebSocket-Protocol: chat, superchat\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

fn request(bytes: &[u8]) -> Request<'_> {
    let Head::Complete { request, head_bytes } = read_head(bytes) else { panic!("not a whole head") };
    assert_eq!(head_bytes, bytes.len());
    request
}

/// The HTTP status that a request is answered with; 101 if it is a correct upgrade, 100 if it is incomplete.
fn status(bytes: &[u8]) -> u16 {
    match read_head(bytes) {
        Head::Incomplete => 100,
        Head::Malformed(error) => error.status(),
        Head::Complete { request, .. } => request.upgrade().map_or_else(RequestError::status, |_| 101),
    }
}

/// A correct upgrade without the headers whose names begin with one of `without`, and with more lines.
fn upgrade_request(without: &[&str], more: &str) -> String {
    let lines = [
        "Host: a.example",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ];
    let kept: Vec<&str> = lines.into_iter().filter(|line| !without.iter().any(|name| line.starts_with(name))).collect();
    format!("GET / HTTP/1.1\r\n{}\r\n{more}\r\n", kept.join("\r\n"))
}

#[test]
fn the_example_of_rfc_6455_section_1_3_is_understood() {
    let request = request(EXAMPLE.as_bytes());
    assert_eq!((request.method, request.path, request.query), ("GET", "/chat", None));
    assert_eq!((request.host, request.origin), ("server.example.com", Some("http://example.com")));
    let upgrade = request.upgrade().unwrap();
    assert_eq!(upgrade.key, KEY);
    assert!(upgrade.offers("chat") && upgrade.offers("superchat") && upgrade.offers_any());
    assert!(!upgrade.offers("Chat") && !upgrade.offers("super"));
    let mut out = Vec::new();
    write_upgrade(&mut out, upgrade.key, Some("chat"));
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_head_that_comes_byte_by_byte_is_incomplete_up_to_its_last_byte() {
    for end in 0..EXAMPLE.len() {
        assert!(matches!(read_head(&EXAMPLE.as_bytes()[..end]), Head::Incomplete), "{end}");
    }
    let with_a_frame = [EXAMPLE.as_bytes(), b"\x81\x85\n\r\n\r\n"].concat();
    assert!(matches!(read_head(&with_a_frame), Head::Complete { head_bytes, .. } if head_bytes == EXAMPLE.len()));
}

#[test]
fn a_line_with_two_faults_is_refused_for_the_same_one_however_it_is_cut() {
    let refusal = |bytes: &[u8]| match read_head(bytes) {
        Head::Malformed(error) => Some(error),
        Head::Incomplete | Head::Complete { .. } => None,
    };
    for line in [&b"GET\r /"[..], b"G\x01", b"\r\r"] {
        let ended = [line, b"\n"].concat();
        assert!(refusal(line).is_some());
        assert_eq!(refusal(line), refusal(&ended), "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn requests_without_an_extra_line_are_judged_strictly() {
    let cases: &[(&[&str], &str, u16)] = &[
        (&[], "", 101),
        // Host
        (&["Host"], "", 400),
        (&["Host"], "Host:\r\n", 400),
        (&[], "Host: b.example\r\n", 400),
        (&[], "host: a.example\r\n", 400),
        (&["Host"], "Host: a.example:8080\r\n", 101),
        (&["Host"], "Host: [::1]:8080\r\n", 101),
        (&["Host"], "Host: [::1\r\n", 400),
        (&["Host"], "Host: a.example:http\r\n", 400),
        (&["Host"], "Host: a.example/path\r\n", 400),
        (&["Host"], "Host: user@a.example\r\n", 400),
        (&["Host"], "Host: a b\r\n", 400),
        (&["Host"], "Host: \u{e4}.example\r\n", 400),
        // Upgrade and Connection
        (&["Upgrade"], "", 426),
        (&["Connection"], "", 426),
        (&["Upgrade", "Connection"], "", 426),
        (&["Upgrade"], "upgrade: WebSocket\r\n", 101),
        (&["Upgrade"], "Upgrade: h2c, websocket\r\n", 101),
        (&["Upgrade"], "Upgrade: h2c\r\nUpgrade: websocket\r\n", 101),
        (&["Upgrade"], "Upgrade: websockets\r\n", 426),
        (&["Upgrade"], "Upgrade: web socket\r\n", 426),
        (&["Connection"], "Connection: keep-alive, Upgrade\r\n", 101),
        (&["Connection"], "Connection: keep-alive\r\nConnection:\tUPGRADE \r\n", 101),
        (&["Connection"], "Connection: keep-alive\r\n", 426),
        (&["Connection"], "Connection: , ,upgrade,\r\n", 101),
        // Version
        (&["Sec-WebSocket-Version"], "", 426),
        (&["Sec-WebSocket-Version"], "Sec-WebSocket-Version: 8\r\n", 426),
        (&["Sec-WebSocket-Version"], "Sec-WebSocket-Version: 013\r\n", 426),
        (&["Sec-WebSocket-Version"], "Sec-WebSocket-Version: 13, 8\r\n", 426),
        (&["Sec-WebSocket-Version"], "Sec-WebSocket-Version:13\r\n", 101),
        (&[], "Sec-WebSocket-Version: 13\r\n", 426),
        (&[], "Sec-WebSocket-Version: 8\r\n", 426),
        // Key
        (&["Sec-WebSocket-Key"], "", 400),
        (&["Sec-WebSocket-Key"], "Sec-WebSocket-Key:\r\n", 400),
        (&["Sec-WebSocket-Key"], "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n", 400),
        (&["Sec-WebSocket-Key"], "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n", 400),
        (&["Sec-WebSocket-Key"], "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWU=\r\n", 400),
        (&["Sec-WebSocket-Key"], "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j*Q==\r\n", 400),
        (&["Sec-WebSocket-Key"], "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ====\r\n", 400),
        (&["Sec-WebSocket-Key"], "sec-websocket-key:  +/+/+/+/+/+/+/+/+/+/+w==  \r\n", 101),
        (&[], "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 400),
        (&[], "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", 400),
        // Body
        (&[], "Content-Length: 0\r\n", 101),
        (&[], "Content-Length: 5\r\n", 400),
        (&[], "Content-Length: -0\r\n", 400),
        (&[], "Content-Length: 0\r\nContent-Length: 7\r\n", 400),
        (&[], "Content-Length: 0, 7\r\n", 400),
        (&[], "Content-Length:\r\n", 400),
        (&[], "Transfer-Encoding: chunked\r\n", 400),
        (&[], "Transfer-Encoding: identity\r\n", 400),
        // Subprotocols
        (&[], "Sec-WebSocket-Protocol: throng.v1\r\n", 101),
        (&[], "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b, c\r\n", 101),
        (&[], "Sec-WebSocket-Protocol: a,,b\r\n", 101),
        (&[], "Sec-WebSocket-Protocol: a, b, a\r\n", 400),
        (&[], "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a\r\n", 400),
        (&[], "Sec-WebSocket-Protocol: a b\r\n", 400),
        (&[], "Sec-WebSocket-Protocol: a/b\r\n", 400),
        (&[], "Sec-WebSocket-Protocol: \"a\"\r\n", 400),
        (&[], "Sec-WebSocket-Protocol: thr\u{f6}ng\r\n", 400),
        (&[], "Sec-WebSocket-Protocol:\r\n", 400),
        (&[], "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: ,\r\n", 400),
        // Origin
        (&[], "Origin: https://a.example\r\n", 101),
        (&[], "Origin: null\r\n", 101),
        (&[], "Origin: https://a.example\r\nOrigin: https://b.example\r\n", 400),
        (&[], "Origin: https://\u{e4}.example\r\n", 400),
        // What does not concern us
        (&[], "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n", 101),
        (&[], "Cookie: caf\u{e9}=1\r\nX-Empty:\r\n", 101),
        // Syntax
        (&[], "No-Colon\r\n", 400),
        (&[], "Blank : x\r\n", 400),
        (&[], ": x\r\n", 400),
        (&[], "X: a\r\n folded\r\n", 400),
        (&[], "X: a\rb\r\n", 400),
        (&[], "X: a\0b\r\n", 400),
        (&[], "X: a\x7fb\r\n", 400),
        (&[], "X: a\nY: b\r\n", 400),
    ];
    for (without, more, expected) in cases {
        let text = upgrade_request(without, more);
        assert_eq!(status(text.as_bytes()), *expected, "{text}");
        // The verdict is the same once the head is whole, however it came; before that it is the same or "incomplete".
        for end in 0..text.len() {
            let early = status(&text.as_bytes()[..end]);
            assert!(early == 100 || (early == *expected && early != 101), "{early} after {end} bytes of {text}");
        }
    }
}

#[test]
fn a_damaged_request_gets_the_same_verdict_however_it_came() {
    let text = upgrade_request(&[], "Origin: null\r\nSec-WebSocket-Protocol: a, b\r\n").replacen("/", "/ws?user=%41", 1);
    let damage = [0, b'\t', b'\n', b'\r', b' ', b',', b'/', b':', b'=', b'%', b'#', b'?', b'A', b'1', 0x7f, 0x80, 0xc3, 0xff];
    for at in 0..text.len() {
        for byte in damage {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = byte;
            let whole = status(&bytes);
            for end in at..bytes.len() {
                let early = status(&bytes[..end]);
                // A line end in the wrong place may end the head early; then what follows is no part of it.
                assert!(early == 100 || early == whole, "{early} {whole} {end} {at} {byte}");
            }
        }
    }
}

#[test]
fn request_lines_are_judged_strictly() {
    let cases: &[(&str, u16)] = &[
        ("GET / HTTP/1.1", 101),
        ("GET /?a=b&c HTTP/1.1", 101),
        ("GET http://a.example/ws HTTP/1.1", 101),
        ("GET HTTPS://a.example:443 HTTP/1.1", 101),
        ("GET http://a.example?user=x HTTP/1.1", 101),
        ("GET ws://a.example/ HTTP/1.1", 400),
        ("GET http:///ws HTTP/1.1", 400),
        ("GET http://user@a.example/ HTTP/1.1", 400),
        ("GET a.example:80 HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("GET ?user=x HTTP/1.1", 400),
        ("GET /#fragment HTTP/1.1", 400),
        ("GET /\u{fc} HTTP/1.1", 400),
        ("GET /?user=%zz HTTP/1.1", 400),
        ("GET /?user=%f HTTP/1.1", 400),
        ("GET /?user=%ff HTTP/1.1", 400),
        ("GET /?%c3=x HTTP/1.1", 400),
        ("GET /?user=%C3%bc HTTP/1.1", 101),
        ("POST / HTTP/1.1", 405),
        ("HEAD / HTTP/1.1", 405),
        ("get / HTTP/1.1", 405),
        ("GET / HTTP/1.0", 505),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("GET / HTTP/11", 400),
        ("GET / http/1.1", 400),
        ("GET / WS/1.1", 400),
        ("GET /", 400),
        ("GET", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET / x HTTP/1.1", 400),
        (" GET / HTTP/1.1", 400),
        ("G(T / HTTP/1.1", 400),
    ];
    for (line, expected) in cases {
        let text = upgrade_request(&[], "").replacen("GET / HTTP/1.1", line, 1);
        assert_eq!(status(text.as_bytes()), *expected, "{line}");
    }
    assert_eq!(status(b"PRI * HTTP/2.0\r\n\r\n"), 505);
}

#[test]
fn empty_lines_before_the_request_are_skipped_if_they_end_with_crlf() {
    let text = format!("\r\n\r\n{EXAMPLE}");
    assert_eq!(request(text.as_bytes()).path, "/chat");
    assert_eq!(status(b"\r\n\r\n"), 100);
    assert_eq!(status(b"\n"), 400);
    assert_eq!(status(EXAMPLE.replace("\r\n", "\n").as_bytes()), 400);
    assert_eq!(status(format!("{}\n", EXAMPLE.trim_end_matches("\r\n")).as_bytes()), 400);
}

#[test]
fn what_is_not_http_is_refused_before_a_line_ends() {
    assert_eq!(status(b"\x16\x03\x01\x02\x00\x01"), 400);
    assert_eq!(status(b"GET /\0"), 400);
    assert_eq!(status(b"GET / HTTP/1.1\r\nX: \x1b["), 400);
}

#[test]
fn a_head_above_its_bytes_or_headers_gets_431() {
    let padded = |bytes: usize| {
        let bare = upgrade_request(&[], "X: \r\n").len();
        upgrade_request(&[], &format!("X: {}\r\n", "a".repeat(bytes - bare)))
    };
    assert_eq!(status(padded(REQUEST_HEAD_BYTES_MAX).as_bytes()), 101);
    assert_eq!(status(padded(REQUEST_HEAD_BYTES_MAX + 1).as_bytes()), 431);
    let endless = vec![b'a'; 3 * REQUEST_HEAD_BYTES_MAX];
    assert_eq!(status(&endless[..REQUEST_HEAD_BYTES_MAX - 1]), 100);
    assert_eq!(status(&endless), 431);
    assert_eq!(status(&b"\r\n".repeat(REQUEST_HEAD_BYTES_MAX)), 431);
    assert_eq!(status(upgrade_request(&[], &"X: a\r\n".repeat(REQUEST_HEADERS_MAX - 5)).as_bytes()), 101);
    assert_eq!(status(upgrade_request(&[], &"X: a\r\n".repeat(REQUEST_HEADERS_MAX - 4)).as_bytes()), 431);
}

#[test]
fn offers_of_subprotocols_are_bounded() {
    let offer = |count: usize| {
        let names: Vec<String> = (0..count).map(|index| format!("p{index}")).collect();
        upgrade_request(&[], &format!("Sec-WebSocket-Protocol: {}\r\n", names.join(",")))
    };
    assert_eq!(status(offer(REQUEST_SUBPROTOCOLS_MAX).as_bytes()), 101);
    assert_eq!(status(offer(REQUEST_SUBPROTOCOLS_MAX + 1).as_bytes()), 400);
}

#[test]
fn a_plain_request_is_read_also_when_it_is_no_upgrade() {
    let probe = request(b"GET /healthz?verbose HTTP/1.0\r\n\r\n");
    assert_eq!((probe.path, probe.query, probe.host, probe.origin), ("/healthz", Some("verbose"), "", None));
    let head = request(b"HEAD /readyz HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\n");
    assert_eq!((head.method, head.header("authorization")), ("HEAD", Some("Bearer x")));
    assert_eq!(head.header("cookie"), None);
}

#[test]
fn an_absolute_target_names_path_and_host() {
    let absolute = request(b"GET http://b.example:81?user=x HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!((absolute.path, absolute.query, absolute.host), ("/", Some("user=x"), "b.example:81"));
}

#[test]
fn query_values_are_decoded() {
    let text = "GET /ws?user=J%C3%BCrgen+M%2b&a%26b=1&empty=&bare&user=second&bad=%ff&x=a=b HTTP/1.1\r\nHost: a\r\n\r\n";
    let request = request(text.as_bytes());
    for (name, value) in [("user", "Jürgen M+"), ("a&b", "1"), ("empty", ""), ("bare", ""), ("x", "a=b")] {
        assert_eq!(request.query_value(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(request.query_value("User"), None);
    assert_eq!(request.query_value("bad"), None);
}

#[test]
fn refusals_carry_the_headers_that_their_status_requires() {
    let answer = |error: RequestError| {
        let mut out = Vec::new();
        write_response(&mut out, error.status(), error.headers(), error.message());
        String::from_utf8(out).unwrap()
    };
    let upgrade = answer(RequestError::UpgradeRequired);
    assert!(
        upgrade.starts_with("HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        "{upgrade}"
    );
    assert!(upgrade.contains("\r\nConnection: Upgrade, close\r\n"));
    assert!(answer(RequestError::Method).contains("\r\nAllow: GET\r\n"));
    for error in [RequestError::BadRequest("why"), RequestError::HeadTooLarge, RequestError::HttpVersion] {
        let answer = answer(error);
        assert!(answer.starts_with(&format!("HTTP/1.1 {} ", error.status())) && answer.ends_with(error.message()), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n") && answer.contains("\r\nCache-Control: no-store\r\n"));
    }
}

#[test]
fn a_status_without_a_customary_phrase_has_an_empty_one() {
    let mut out = Vec::new();
    write_response(&mut out, 299, &[], "");
    assert!(out.starts_with(b"HTTP/1.1 299 \r\nContent-Length: 0\r\n"));
}

#[test]
fn a_plain_answer_is_whole() {
    let mut out = Vec::new();
    write_response(&mut out, 503, &[("Retry-After", "12")], "über");
    let expected = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 12\r\nContent-Type: text/plain; charset=utf-8\r\n\
        Content-Length: 5\r\nCache-Control: no-store\r\nConnection: close\r\n\r\nüber";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn the_tungstenite_client_is_understood() {
    let mut peer = "ws://127.0.0.1:9000/ws?user=a".into_client_request().unwrap();
    peer.headers_mut().insert("Sec-WebSocket-Protocol", "throng.v1".parse().unwrap());
    let (bytes, key) = generate_request(peer).unwrap();
    let request = request(&bytes);
    let upgrade = request.upgrade().unwrap();
    assert_eq!((upgrade.key, request.path, request.host), (key.as_str(), "/ws", "127.0.0.1:9000"));
    assert!(upgrade.offers("throng.v1"));
}

#[test]
fn the_tungstenite_server_accepts_the_request_that_we_write() {
    let mut out = Vec::new();
    write_request(&mut out, "a.example", "/ws?user=b", KEY, Some("throng.v1"), &[("Origin", "https://a.example")]);
    let ours = request(&out);
    assert!(ours.upgrade().is_ok_and(|upgrade| upgrade.offers("throng.v1") && upgrade.key == KEY));
    let mut peer = PeerRequest::get("/ws?user=b");
    for name in ["Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol"] {
        peer = peer.header(name, ours.header(name).unwrap());
    }
    let answer = create_response(&peer.body(()).unwrap()).unwrap();
    assert_eq!(answer.headers()["sec-websocket-accept"], accept_key(KEY));
}

#[test]
fn an_answer_is_accepted_only_if_it_answers_the_request() {
    let accepts = |text: &str, protocol: Option<&str>| {
        let ResponseHead::Complete { response, head_bytes } = read_response(text.as_bytes()) else { panic!("not a whole head") };
        assert_eq!(head_bytes, text.len());
        response.accepts(KEY, protocol)
    };
    let mut out = Vec::new();
    write_upgrade(&mut out, KEY, None);
    let good = String::from_utf8(out).unwrap();
    assert!(accepts(&good, None));
    assert!(accepts(&good, Some("throng.v1")));
    for (from, to) in [
        ("101", "200"),
        ("websocket", "h2c"),
        ("Connection: Upgrade", "Connection: close"),
        ("s3pP", "S3pP"),
        ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: other\r\n\r\n"),
        ("\r\n\r\n", "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
    ] {
        assert!(!accepts(&good.replacen(from, to, 1), Some("throng.v1")), "{to}");
    }
    let chosen = good.replacen("\r\n\r\n", "\r\nSec-WebSocket-Protocol: throng.v1\r\n\r\n", 1);
    assert!(accepts(&chosen, Some("throng.v1")) && !accepts(&chosen, None));
}

#[test]
fn an_answer_that_comes_in_parts_is_incomplete_and_garbage_is_malformed() {
    let mut out = Vec::new();
    write_response(&mut out, 503, &[("Retry-After", "3")], "");
    for end in 0..out.len() {
        assert!(matches!(read_response(&out[..end]), ResponseHead::Incomplete), "{end}");
    }
    let ResponseHead::Complete { response, .. } = read_response(&out) else { panic!("not whole") };
    assert_eq!((response.status, response.header("retry-after")), (503, Some("3")));
    assert!(matches!(read_response(b"SSH-2.0-x\r\n\r\n"), ResponseHead::Malformed));
    assert!(matches!(read_response(b"\x81\x05"), ResponseHead::Malformed | ResponseHead::Incomplete));
}
