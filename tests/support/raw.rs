//! A TCP peer that sends whatever bytes a test likes, and reads HTTP answers and WebSocket frames without judging them.

use super::{Deadline, PATIENCE};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// A key whose answer is known from RFC 6455 §1.3.
pub const SAMPLE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SAMPLE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A TCP connection and what was read of it beyond what was asked for.
pub struct RawPeer {
    stream: TcpStream,
    unread: Vec<u8>,
    reset_seen: bool,
}

/// An HTTP answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Its status; 0 if the connection ended without one: then the body says how.
    pub status: u16,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
}

impl Answer {
    /// The value of a header, named in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// A WebSocket frame as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// FIN, reserved bits and opcode.
    pub first: u8,
    /// The payload; a server does not mask.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The opcode.
    pub fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// The code of a close frame; `None` if it is another frame or carries none.
    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk::<2>().filter(|_| self.opcode() == 8)?;
        Some(u16::from_be_bytes(*code))
    }
}

/// One of many loopback addresses: a process has 28,000 ports for each.
pub fn source_address(index: usize) -> Ipv4Addr {
    let index = u16::try_from(index % 60_000).expect("below 60,000");
    let [high, low] = index.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low.max(1))
}

impl RawPeer {
    /// Connects.
    pub fn connect(address: SocketAddr) -> RawPeer {
        RawPeer::on(TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts"))
    }

    /// Connects from a given loopback address.
    pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect_timeout(&address.into(), PATIENCE)?;
        Ok(socket.into())
    }

    /// On a connected socket.
    pub fn on(stream: TcpStream) -> RawPeer {
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout can be set");
        RawPeer { stream, unread: Vec::new(), reset_seen: false }
    }

    /// The socket itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The socket, and what was read of it and not yet taken.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.unread)
    }

    // ---- HTTP ----

    /// Asks and reads the answer.
    pub fn request(mut self, method: &str, path: &str) -> Answer {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes());
        self.answer()
    }

    /// A valid upgrade request, with further header lines (each ended by CR LF).
    pub fn upgrade_request(path: &str, lines: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {SAMPLE_KEY}\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
        )
    }

    /// Upgrades and verifies the answer's key.
    pub fn upgrade(mut self, path: &str, lines: &str) -> RawPeer {
        self.send(RawPeer::upgrade_request(path, lines).as_bytes());
        let answer = self.answer();
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.header("sec-websocket-accept"), Some(SAMPLE_ACCEPT), "{answer:?}");
        self
    }

    /// Reads one HTTP answer.
    pub fn answer(&mut self) -> Answer {
        let deadline = Deadline::after(PATIENCE);
        let head = loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                break self.unread.drain(..end + 4).collect::<Vec<u8>>();
            }
            if !self.fill(deadline) {
                assert!(self.unread.is_empty(), "half an answer: {:?}", String::from_utf8_lossy(&self.unread));
                let end = if self.reset_seen { "reset without an answer" } else { "end of stream without an answer" };
                return Answer { body: end.to_owned(), ..Answer::default() };
            }
        };
        let mut answer = parse_head(&String::from_utf8(head).expect("an answer's head is ASCII"));
        if answer.status != 101 {
            let length = answer.header("content-length").map(|value| value.parse::<usize>().expect("a length is a number"));
            while length.is_none_or(|length| self.unread.len() < length) && self.fill(deadline) {}
            let body: Vec<u8> = self.unread.drain(..length.unwrap_or(self.unread.len()).min(self.unread.len())).collect();
            let chunked = answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
            let body = if chunked { unchunk(&body) } else { body };
            answer.body = String::from_utf8_lossy(&body).into_owned();
        }
        answer
    }

    // ---- frames ----

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Sends bytes; false if the server has already ended the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a whole text message.
    pub fn send_text(&mut self, text: &str) {
        self.send(&RawPeer::frame(0x81, text.as_bytes()));
    }

    /// A masked frame. `first` is FIN, reserved bits and opcode.
    pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let mut bytes = RawPeer::header(first, payload.len(), Some(key));
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// A frame's header alone, whose length may be a lie.
    pub fn header(first: u8, length: usize, mask: Option<[u8; 4]>) -> Vec<u8> {
        let flag = if mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(flag | length as u8),
            126..65_536 => {
                bytes.push(flag | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(flag | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(mask.into_iter().flatten());
        bytes
    }

    /// The next frame; `None` once the connection is over.
    pub fn read_frame(&mut self) -> Option<Frame> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            if let Some((frame, taken)) = parse_frame(&self.unread) {
                self.unread.drain(..taken);
                return Some(frame);
            }
            if !self.fill(deadline) {
                return None;
            }
        }
    }

    /// Reads frames up to the server's close frame and the end of the stream, and returns its code.
    ///
    /// # Panics
    /// If the connection ends without a close frame, or does not end after it.
    pub fn expect_close(&mut self) -> u16 {
        loop {
            let frame = self.read_frame().expect("a close frame comes before the end");
            if frame.opcode() == 8 {
                self.expect_end();
                return frame.close_code().expect("the server's close frames carry a code");
            }
        }
    }

    /// Reads until the connection is over, by FIN or RST.
    pub fn expect_end(&mut self) {
        let deadline = Deadline::after(PATIENCE);
        while self.fill(deadline) {
            self.unread.clear();
        }
    }

    // ---- ending ----

    /// Ends with a FIN and no close frame.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends with a RST.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER can be set");
    }

    /// Reads something more; false at the end of the stream.
    fn fill(&mut self, deadline: Deadline) -> bool {
        let mut chunk = [0; 16 * 1024];
        loop {
            let left = deadline.left().expect("the server answers or ends the connection in time");
            self.stream.set_read_timeout(Some(left)).expect("a read timeout can be set");
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => {
                    self.unread.extend_from_slice(&chunk[..count]);
                    return true;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    self.reset_seen = true;
                    return false;
                }
                Err(error) => panic!("reading: {error}"),
            }
        }
    }
}

fn parse_head(head: &str) -> Answer {
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or("");
    assert!(status_line.starts_with("HTTP/1.1 "), "not an answer of HTTP/1.1: {status_line:?}");
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line has a code");
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Answer { status, headers, body: String::new() }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = find(bytes, b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).ok().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let size = size.filter(|size| *size > 0 && end + 2 + size <= bytes.len());
        let Some(size) = size else { break };
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = bytes.get(end + 2 + size + 2..).unwrap_or(&[]);
    }
    body
}

/// The first whole frame and how many bytes it takes.
pub fn parse_frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let [first, second] = *bytes.first_chunk::<2>()?;
    assert_eq!(second & 0x80, 0, "a server masked a frame");
    let (header, length) = match second {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).expect("64 bits")),
        short => (2, usize::from(short)),
    };
    let payload = bytes.get(header..header + length)?.to_vec();
    Some((Frame { first, payload }, header + length))
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
