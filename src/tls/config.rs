//! What handshakes may agree on: versions, suites, groups, application protocol, tickets; and which record layer follows.
//!
//! It does not know where certificates come from, nor when they change: the resolver answers for each handshake.

use super::capture;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, ResolvesServerCert};
use rustls::time_provider::TimeProvider;
use std::sync::Arc;

/// Which record layer an open connection has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordMode {
    /// Our own, in 192 bytes. TLS 1.2 has rustls' even so.
    #[default]
    Compact,
    /// rustls', about 3.6 KB: what the compact one is compared with.
    Rustls,
}

/// What a [`Config`] is made of.
pub struct Settings {
    /// Answers with our certificate for a name. Asked once a handshake, resumed ones included, so that a reload touches no connection.
    pub certificates: Arc<dyn ResolvesServerCert>,
    /// Judges certificates of clients; without it none is asked for.
    pub client_verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Whether TLS 1.2 is taken beside 1.3.
    pub tls12: bool,
    /// The record layer of open connections.
    pub records: RecordMode,
    /// Wall-clock time, for certificates of clients and for tickets.
    pub time: Arc<dyn TimeProvider>,
}

/// What all handshakes of a listener share. Cloning it copies a reference.
#[derive(Clone)]
pub struct Config {
    pub(super) rustls: Arc<ServerConfig>,
    pub(super) records: RecordMode,
    /// Records that are sealed with one key, if fewer than the suite allows.
    pub(super) records_per_key: Option<u32>,
}

impl Config {
    /// Builds the configuration. Each one has ticket keys of its own: what one gave a client can't be resumed with another, so the shards
    /// of a server share one.
    ///
    /// # Errors
    /// If rustls refuses it, or no key for tickets can be made.
    pub fn new(settings: Settings) -> Result<Config, rustls::Error> {
        let versions: &[_] =
            if settings.tls12 { &[&rustls::version::TLS13, &rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
        let verifier = settings.client_verifier.unwrap_or_else(|| Arc::new(NoClientAuth));
        let mut config = ServerConfig::builder_with_details(Arc::new(provider()), settings.time)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(capture::Resolver(settings.certificates)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = TICKETS;
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        // Tickets carry all that a resumption needs: nothing of a client that has left is kept here.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(capture::Secrets);
        Ok(Config { rustls: Arc::new(config), records: settings.records, records_per_key: None })
    }
}

/// The one protocol above TLS (RFC 7301). A client that names others only is refused; one that names none is taken.
const ALPN: &[u8] = b"http/1.1";
/// Tickets that a client gets: each costs a client that reconnects nothing, and us 300 bytes on the wire.
const TICKETS: usize = 1;

/// The cryptography in use: aws-lc-rs with the suites and groups that are offered. Certificates' keys are loaded with it as well.
///
/// The client's order of suites decides: one without AES instructions puts ChaCha20 first. Of the groups ours does, the hybrid one first.
/// P-256 is for clients that have only it.
pub fn provider() -> CryptoProvider {
    let groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    CryptoProvider { kx_groups: groups, ..aws_lc_rs::default_provider() }
}
