//! Thousands of members in one thread: sockets that never block, swept one after the other, with pings answered on the way.

use crate::support::{RawPeer, parse_frame, source_address};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// One connection of a swarm.
pub(crate) struct Member {
    stream: TcpStream,
    unread: Vec<u8>,
    /// The code of the server's close frame, or 0 for an end without one.
    pub(crate) closed: Option<u16>,
}

impl Member {
    /// Connects as `throng.v1`, joins these rooms with presence, and awaits every answer.
    pub(crate) fn join(address: SocketAddr, index: usize, user: &str, rooms: &[String]) -> Member {
        let stream = RawPeer::connect_from(source_address(index), address).expect("the server accepts");
        let mut peer = RawPeer::on(stream).upgrade("/ws", "Sec-WebSocket-Protocol: throng.v1\r\n");
        let mut frames = RawPeer::frame(0x81, json!({"type": "connect", "user": user}).to_string().as_bytes());
        for (seq, room) in rooms.iter().enumerate() {
            let join = json!({"type": "join_room", "roomId": room, "presence": true, "seq": seq + 1});
            frames.extend(RawPeer::frame(0x81, join.to_string().as_bytes()));
        }
        peer.send(&frames);
        for _ in rooms {
            loop {
                let frame = peer.read_frame().expect("the server keeps the connection");
                if frame.payload.starts_with(br#"{"type":"room_joined""#) {
                    break;
                }
                assert!(!frame.payload.starts_with(br#"{"type":"error""#), "{}", String::from_utf8_lossy(&frame.payload));
            }
        }
        let (stream, unread) = peer.into_parts();
        stream.set_nonblocking(true).expect("it can be set");
        Member { stream, unread, closed: None }
    }

    /// Reads what is there, up to a number of bytes, and answers pings.
    pub(crate) fn sweep(&mut self, bytes_max: usize) {
        let mut chunk = [0; 16 * 1024];
        let mut taken = 0;
        while self.closed.is_none() && taken < bytes_max {
            let wanted = chunk.len().min(bytes_max - taken);
            match self.stream.read(&mut chunk[..wanted]) {
                Ok(0) => self.closed = Some(0),
                Ok(count) => {
                    taken += count;
                    self.unread.extend_from_slice(&chunk[..count]);
                    self.handle_frames();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
                Err(_) => self.closed = Some(0),
            }
        }
    }

    /// Sends a close frame.
    pub(crate) fn say_goodbye(&mut self) {
        self.write(&RawPeer::frame(0x88, &1000u16.to_be_bytes()));
    }

    /// Gives the socket back.
    pub(crate) fn into_peer(self) -> RawPeer {
        self.stream.set_nonblocking(false).expect("it can be set");
        RawPeer::on(self.stream)
    }

    fn handle_frames(&mut self) {
        let mut at = 0;
        while let Some((frame, taken)) = parse_frame(&self.unread[at..]) {
            at += taken;
            match frame.opcode() {
                8 => self.closed = Some(frame.close_code().unwrap_or(1005)),
                9 => self.write(&RawPeer::frame(0x8a, &frame.payload)),
                _ => {}
            }
        }
        self.unread.drain(..at);
        self.unread.shrink_to(4_096);
    }

    /// Frames here are far smaller than a socket's buffer: one that is full means that the server does not read.
    fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            assert!(error.kind() != ErrorKind::WouldBlock, "the server does not read");
            self.closed.get_or_insert(0);
        }
    }
}
