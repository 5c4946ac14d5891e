//! TLS without a socket: rustls' client, or records that are made by hand, against ours.
//!
//! Everything random comes from seeds that failures print. `THRONG_TLS_EXCHANGES` sets how many exchanges the differential test makes.

mod cache;
mod differential;
mod forger;
mod handshake;
mod interop;
mod records;
mod resumption;

use super::double::SUITES;
use super::*;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{CipherSuite, ClientConfig, ClientConnection, NamedGroup, RootCertStore};
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const GROUPS: [NamedGroup; 3] = [NamedGroup::X25519, NamedGroup::X25519MLKEM768, NamedGroup::secp256r1];

/// Random numbers from a seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// How input is cut.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    Whole,
    Bytes(usize),
    Seed(u64),
}

impl Cut {
    pub(super) fn apply(self, bytes: &[u8]) -> Vec<&[u8]> {
        match self {
            Cut::Whole => vec![bytes],
            Cut::Bytes(count) => bytes.chunks(count).collect(),
            Cut::Seed(seed) => {
                let (mut random, mut rest, mut chunks) = (Random::new(seed), bytes, Vec::new());
                while !rest.is_empty() {
                    let most = [1, 7, 100, 2_000, 40_000][random.below(5)];
                    let (chunk, left) = rest.split_at((1 + random.below(most)).min(rest.len()));
                    chunks.push(chunk);
                    rest = left;
                }
                chunks
            }
        }
    }
}

/// A self-signed certificate and its key, for one name.
pub(super) struct Identity {
    pub(super) certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    pub(super) fn new(parameters: rcgen::CertificateParams) -> Identity {
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let certificate = parameters.self_signed(&key).expect("it can be signed");
        Identity { certificate: certificate.der().clone(), key: key.serialize_der() }
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    fn certified(&self) -> CertifiedKey {
        CertifiedKey::from_der(vec![self.certificate.clone()], self.key(), &provider()).expect("they belong together")
    }
}

/// The identity of `localhost`.
pub(super) fn localhost() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| Identity::new(rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("it is a name")))
}

/// A clock that stands still: in 2033.
#[derive(Debug)]
struct Standing;

impl TimeProvider for Standing {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(2_000_000_000)))
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        certificates: Arc::new(SingleCertAndKey::from(localhost().certified())),
        client_verifier: None,
        tls12: false,
        records: RecordMode::Compact,
        time: Arc::new(Standing),
    }
}

pub(super) fn config() -> Config {
    Config::new(settings()).expect("it is sound")
}

pub(super) fn config_with(records: RecordMode) -> Config {
    Config::new(Settings { records, ..settings() }).expect("it is sound")
}

/// A certificate for `localhost` only, found by name.
pub(super) fn by_name() -> Settings {
    let mut certificates = ResolvesServerCertUsingSni::new();
    certificates.add("localhost", localhost().certified()).expect("the certificate is for it");
    Settings { certificates: Arc::new(certificates), ..settings() }
}

/// A client's configuration that trusts `localhost`, without resumption.
pub(super) fn client_config(provider: CryptoProvider, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(localhost().certificate.clone()).expect("it is a certificate");
    let provider = Arc::new(provider);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("it has a root");
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(Standing))
        .with_protocol_versions(versions)
        .expect("the suites fit")
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// Cryptography with one suite and one group of TLS 1.3.
pub(super) fn only(suite: CipherSuite, group: NamedGroup) -> CryptoProvider {
    let mut provider = provider();
    provider.cipher_suites.retain(|offered| offered.suite() == suite);
    provider.kx_groups.retain(|offered| offered.name() == group);
    provider
}

pub(super) fn tls13(suite: CipherSuite, group: NamedGroup) -> ClientConfig {
    client_config(only(suite, group), &[&rustls::version::TLS13])
}

/// rustls as the client.
pub(super) struct Client {
    pub(super) connection: ClientConnection,
    /// What came from the server and was not taken yet.
    inbox: Vec<u8>,
    pub(super) plaintext: Vec<u8>,
    pub(super) error: Option<rustls::Error>,
    /// The server has closed its direction.
    pub(super) is_closed: bool,
}

impl Client {
    pub(super) fn new(config: &ClientConfig) -> Client {
        Client::named(config, "localhost")
    }

    pub(super) fn named(config: &ClientConfig, name: &'static str) -> Client {
        let name = ServerName::try_from(name).expect("it is a name");
        let connection = ClientConnection::new(Arc::new(config.clone()), name).expect("it is sound");
        Client { connection, inbox: Vec::new(), plaintext: Vec::new(), error: None, is_closed: false }
    }

    pub(super) fn write(&mut self, plaintext: &[u8]) {
        self.connection.set_buffer_limit(None);
        self.connection.writer().write_all(plaintext).expect("there is no limit");
    }

    /// What the client has to send.
    pub(super) fn output(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).expect("a Vec takes all");
        }
        bytes
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        let inbox = std::mem::take(&mut self.inbox);
        let mut left = &inbox[..];
        while !left.is_empty() && self.error.is_none() {
            self.connection.read_tls(&mut left).expect("a slice can be read");
            match self.connection.process_new_packets() {
                Ok(state) => {
                    let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
                    self.connection.reader().read_exact(&mut plaintext).expect("it is there");
                    self.plaintext.append(&mut plaintext);
                    self.is_closed |= state.peer_has_closed();
                }
                Err(error) => self.error = Some(error),
            }
        }
    }
}

/// How a server's connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Failed(Failure),
}

/// Ours as the server.
pub(super) struct Server {
    handshake: Option<Handshake>,
    pub(super) established: Option<Box<Established>>,
    pub(super) keys: KeyCache,
    /// Received and not consumed.
    pub(super) buffer: Vec<u8>,
    /// To be sent.
    pub(super) out: Vec<u8>,
    pub(super) plaintext: Vec<u8>,
    pub(super) end: Option<End>,
}

impl Server {
    pub(super) fn new(config: &Config) -> Server {
        Server {
            handshake: Some(Handshake::new(config)),
            established: None,
            keys: KeyCache::new(2),
            buffer: Vec::new(),
            out: Vec::new(),
            plaintext: Vec::new(),
            end: None,
        }
    }

    pub(super) fn records(&mut self) -> &mut Records {
        &mut self.established.as_mut().expect("the handshake is done").records
    }

    pub(super) fn handshake(&mut self) -> &mut Handshake {
        self.handshake.as_mut().expect("the handshake is not done")
    }

    pub(super) fn receive(&mut self, bytes: &[u8], cut: Cut) {
        for chunk in cut.apply(bytes) {
            self.receive_chunk(chunk);
        }
    }

    fn receive_chunk(&mut self, mut chunk: &[u8]) {
        if self.end.is_some() {
            return;
        }
        if let Some(handshake) = &mut self.handshake {
            match handshake.receive(chunk, &mut self.out) {
                Ok(Progress::Continue) => return,
                Ok(Progress::Done { consumed, established }) => {
                    chunk = &chunk[consumed..];
                    (self.handshake, self.established) = (None, Some(established));
                }
                Err(failure) => {
                    self.end = Some(End::Failed(failure));
                    return;
                }
            }
        }
        self.buffer.extend_from_slice(chunk);
        self.open();
    }

    fn open(&mut self) {
        let records = &mut self.established.as_mut().expect("the handshake is done").records;
        loop {
            match records.open(&mut self.keys, &mut self.buffer) {
                Ok(Opened { consumed, event }) => {
                    if let Event::Data(range) = &event {
                        assert!(!range.is_empty() && range.end <= consumed, "{range:?} of {consumed}");
                        self.plaintext.extend_from_slice(&self.buffer[range.clone()]);
                    }
                    self.buffer.drain(..consumed);
                    match event {
                        Event::Data(_) => {}
                        Event::Missing(bytes) => {
                            assert!(bytes > 0 && self.buffer.len() < RECORD_BYTES_MAX);
                            return;
                        }
                        Event::Closed => {
                            assert!(self.buffer.is_empty());
                            self.end = Some(End::Closed);
                            return;
                        }
                    }
                }
                Err(failure) => {
                    self.end = Some(End::Failed(failure));
                    return;
                }
            }
        }
    }

    pub(super) fn seal(&mut self, plaintext: &[u8]) {
        let start = self.out.len();
        let established = self.established.as_mut().expect("the handshake is done");
        established.records.seal(&mut self.keys, &[plaintext], &mut self.out).expect("it is open");
        assert!(self.out.len() - start <= sealed_bytes_max(plaintext.len()));
    }

    pub(super) fn reply(&mut self) {
        let start = self.out.len();
        let established = self.established.as_mut().expect("the handshake is done");
        established.records.reply(&mut self.keys, &mut self.out);
        assert!(!established.records.has_reply());
        assert!(self.out.len() - start <= REPLY_BYTES_MAX);
    }

    pub(super) fn close(&mut self) {
        let established = self.established.as_mut().expect("the handshake is done");
        established.records.close(&mut self.keys, &mut self.out);
    }
}

/// Carries bytes both ways until neither has any.
pub(super) fn exchange(client: &mut Client, server: &mut Server, cut: Cut) {
    loop {
        let (up, down) = (client.output(), std::mem::take(&mut server.out));
        if up.is_empty() && down.is_empty() {
            return;
        }
        server.receive(&up, cut);
        for chunk in cut.apply(&down) {
            client.receive(chunk);
        }
    }
}

/// A client and a server that have shaken hands.
pub(super) fn open(client_config: &ClientConfig, config: &Config) -> (Client, Server) {
    let (mut client, mut server) = (Client::new(client_config), Server::new(config));
    exchange(&mut client, &mut server, Cut::Whole);
    assert_eq!((&client.error, server.end), (&None, None));
    assert!(server.established.is_some() && !client.connection.is_handshaking());
    (client, server)
}
