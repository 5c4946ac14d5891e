//! The handshake of one connection: bytes in, bytes out, until there are keys.
//!
//! It takes the input record by record and hands rustls no byte behind the record that ends the handshake: what follows is the first
//! of [`Records`], still sealed, in the caller's own buffer. So application data that comes with `Finished` needs no
//! path of its own, and rustls never reads a record with keys that the compact state takes over.

use super::capture::{self, Captured};
use super::compact::Compact;
use super::engine::{self, Pause};
use super::keys::{Direction, Keys};
use super::plain::Plain;
use super::{Config, Failure, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RecordMode, Records, subject};
use rustls::server::UnbufferedServerConnection;
use rustls::{CipherSuite, ContentType, HandshakeKind, NamedGroup, ProtocolVersion};

/// Bytes that a client may send before we have answered its `ClientHello`: one with a hybrid key share, a ticket and padding has 3 KB.
/// Above: [`Failure::HandshakeTooLarge`].
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;
/// Bytes that a client may send until the handshake is done: beside its hello a chain of certificates. Above:
/// [`Failure::HandshakeTooLarge`]. It bounds what a handshake holds as well.
pub const HANDSHAKE_BYTES_MAX: usize = 48 * 1024;

/// A connection that shakes hands: 2.2 KB on the heap at first and 4.9 KB once it has answered, and at most [`HANDSHAKE_BYTES_MAX`] of
/// input that is not complete.
pub struct Handshake {
    /// Gone when it has failed or is done.
    connection: Option<Box<UnbufferedServerConnection>>,
    config: Config,
    captured: Captured,
    /// What rustls was shown and wants to see again, a piece of a message; behind it the record that is not complete.
    input: Vec<u8>,
    /// Bytes of `input` that rustls was shown.
    shown: usize,
    /// Bytes that came so far.
    received: usize,
    /// Whether rustls had anything to say: the `ClientHello` was whole.
    has_answered: bool,
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
        Handshake {
            connection: Some(Box::new(connection)),
            config: config.clone(),
            captured: Captured::default(),
            input: Vec::new(),
            shown: 0,
            received: 0,
            has_answered: false,
            failure: None,
            cause: None,
        }
    }

    /// Takes what was received. What is to be sent is appended to `out`, also when it fails: then it ends with the alert.
    ///
    /// # Errors
    /// The first failure; [`Failure::Ended`] ever after, also after it was done. The connection ends when `out` was sent.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, Failure> {
        if self.failure.is_some() {
            return Err(Failure::Ended);
        }
        let progress = self.advance(input, out);
        match progress {
            Ok(Progress::Continue) => {}
            Ok(Progress::Done { .. }) => self.failure = Some(Failure::Ended),
            Err(failure) => {
                self.failure = Some(failure);
                // Secrets and buffers of a handshake that has failed are of no use while its alert is on the way.
                (self.connection, self.captured, self.input) = (None, Captured::default(), Vec::new());
            }
        }
        progress
    }

    /// Bytes that are held of input, beside the handshake itself: at most twice [`HANDSHAKE_BYTES_MAX`], since a buffer grows by doubling.
    pub fn bytes_held(&self) -> usize {
        self.input.capacity()
    }

    /// What rustls said of the failure, for a log.
    pub fn cause(&self) -> Option<&rustls::Error> {
        self.cause.as_deref()
    }

    fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, Failure> {
        let mut consumed = 0;
        loop {
            let missing = self.missing(out)?;
            if missing == 0 {
                self.shown = self.input.len();
                if let Some(established) = self.step(out)? {
                    return Ok(Progress::Done { consumed, established });
                }
                self.shown = self.input.len();
                if self.input.is_empty() {
                    // The room of a hello is not held while the client takes its time.
                    self.input = Vec::new();
                }
                continue;
            }
            let rest = &input[consumed..];
            if rest.is_empty() {
                return Ok(Progress::Continue);
            }
            let taken = &rest[..rest.len().min(missing)];
            self.input.extend_from_slice(taken);
            consumed += taken.len();
            self.received += taken.len();
        }
    }

    /// Bytes that the record which is to be shown next still needs, as far as that is known; 0 if it is whole.
    fn missing(&self, out: &mut Vec<u8>) -> Result<usize, Failure> {
        let record = &self.input[self.shown..];
        let is_first = self.received == record.len();
        if is_first && let Some(failure) = judge_opening(record) {
            return Err(self.refuse(failure, out));
        }
        let record_bytes = match record.first_chunk::<RECORD_HEADER_BYTES>() {
            Some(&[_, _, _, high, low]) => RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low])),
            None => RECORD_HEADER_BYTES,
        };
        if record_bytes > RECORD_BYTES_MAX {
            return Err(self.refuse(Failure::RecordOverflow, out));
        }
        let missing = record_bytes - record.len();
        let bytes_max = if self.has_answered { HANDSHAKE_BYTES_MAX } else { CLIENT_HELLO_BYTES_MAX };
        if self.received + missing > bytes_max {
            return Err(self.refuse(Failure::HandshakeTooLarge, out));
        }
        Ok(missing)
    }

    /// Fails by what rustls has not seen. Before it has answered, the alert is a plain one; later only rustls could seal it, so the peer is
    /// not told.
    fn refuse(&self, failure: Failure, out: &mut Vec<u8>) -> Failure {
        if !self.has_answered
            && let Some(description) = failure.alert()
        {
            out.extend_from_slice(&[u8::from(ContentType::Alert), 3, 3, 0, 2, FATAL, u8::from(description)]);
        }
        failure
    }

    /// Has rustls take the records that came, and takes over when the handshake is done.
    fn step(&mut self, out: &mut Vec<u8>) -> Result<Option<Box<Established>>, Failure> {
        let before = out.len();
        let connection = self.connection.as_mut().ok_or(Failure::Ended)?;
        let input = &mut self.input;
        // Before the handshake is done there is no data, and no record behind its last is shown.
        let pause = capture::during(&mut self.captured, || engine::run(connection, input, out, |_| {}));
        self.has_answered |= out.len() > before;
        match pause {
            Ok(Pause::Open) if !connection.is_handshaking() => {}
            Ok(Pause::Input | Pause::Open) => return Ok(None),
            Ok(Pause::PeerClosed | Pause::Closed) => return Err(Failure::PeerAlert),
            Err(error) => {
                let failure = if self.captured.no_certificate { Failure::NoCertificate } else { engine::failure_of(&error) };
                self.cause = Some(Box::new(error));
                return Err(failure);
            }
        }
        if !self.input.is_empty() {
            return Err(Failure::UnexpectedMessage);
        }
        let connection = self.connection.take().ok_or(Failure::Ended)?;
        let captured = std::mem::take(&mut self.captured);
        establish(&self.config, *connection, captured).map(|established| Some(Box::new(established))).map_err(|error| {
            self.cause = Some(Box::new(error));
            Failure::Internal
        })
    }
}

const FATAL: u8 = 2;

/// How requests of HTTP begin.
const METHODS: [&[u8; 4]; 10] = [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"CONN", b"OPTI", b"TRAC", b"PATC", b"PRI "];

/// Whether a connection can't be TLS, as far as its first bytes tell: a record of handshake messages with the version 3.x.
fn judge_opening(opening: &[u8]) -> Option<Failure> {
    let compared = opening.len().min(4);
    let is_http = METHODS.iter().any(|method| method[..compared] == opening[..compared]);
    match opening {
        [] => None,
        _ if is_http => (compared == 4).then_some(Failure::PlainHttp),
        [HANDSHAKE] | [HANDSHAKE, 3, ..] => None,
        _ => Some(Failure::UnexpectedRecord),
    }
}

const HANDSHAKE: u8 = 22;

/// Takes over from rustls what an open connection needs.
fn establish(config: &Config, connection: UnbufferedServerConnection, captured: Captured) -> Result<Established, rustls::Error> {
    let unknown = || rustls::Error::HandshakeNotComplete;
    let version = connection.protocol_version().ok_or_else(unknown)?;
    let suite = connection.negotiated_cipher_suite().ok_or_else(unknown)?.suite();
    let group = connection.negotiated_key_exchange_group().map(|group| group.name());
    let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    let certificate = connection.peer_certificates().and_then(|chain| chain.first());
    let client = certificate.map(|certificate| ClientIdentity { common_name: subject::common_name(certificate) });
    let is_compact = config.records == RecordMode::Compact && version == ProtocolVersion::TLSv1_3;
    let server_name = captured.server_name.clone();
    let records = if is_compact { compact(config, connection, captured)? } else { Records::rustls(Plain::new(connection)) };
    Ok(Established { records, version, suite, group, resumed, server_name, client })
}

/// Makes the compact state, and checks that it goes on where rustls would.
fn compact(config: &Config, connection: UnbufferedServerConnection, captured: Captured) -> Result<Records, rustls::Error> {
    let (theirs, kernel) = connection.dangerous_into_kernel_connection()?;
    let broken = |what: &str| rustls::Error::General(what.to_owned());
    let (Some(receiving), Some(sending)) = (&captured.client, &captured.server) else {
        return Err(broken("the traffic secrets were not told"));
    };
    let keys = Keys::new(kernel.negotiated_cipher_suite().suite(), receiving, sending).ok_or_else(|| broken("an unknown suite"))?;
    let (received, sent) = (theirs.rx.0, u32::try_from(theirs.tx.0).map_err(|_| broken("more records than a handshake has"))?);
    if !keys.are(Direction::Receiving, &theirs.rx.1) || !keys.are(Direction::Sending, &theirs.tx.1) {
        return Err(broken("the traffic secrets are not those in use"));
    }
    Ok(Records::compact(Compact::new(keys, received, sent, config.records_per_key)))
}
