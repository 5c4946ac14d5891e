//! TLS under a client: whom it trusts, and the handshake that shows the server to be who its URL names.
//!
//! What is trusted is read once, when the client is made; the handshake is rustls'. HTTP/1.1 is asked for by ALPN (RFC 7301), because an
//! upgrade is part of no later version.

use super::failure::Failure;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Servers whose tickets are kept to resume a TLS session with: there is one, and rustls wants a little more room than that.
const TLS_SESSIONS_KEPT: usize = 4;

/// Whom a client trusts to say who a `wss://` server is. The certificate must be valid now and be for the URL's host, whoever is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// Whom this system trusts; on Linux `SSL_CERT_FILE` and `SSL_CERT_DIR` name others. Read once for all clients of a process.
    #[default]
    System,
    /// Only the authorities in this PEM file, or servers with a self-signed certificate that is none of an authority (CA:FALSE).
    File(PathBuf),
    /// Only these: each a certificate in DER.
    Der(Vec<Vec<u8>>),
}

/// Why it is not known whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootsError {
    /// This system names nobody that could be trusted. With what was wrong, if anything was.
    System(String),
    /// The file cannot be read, or is no PEM with certificates.
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// One of the certificates cannot be used.
    Certificate {
        /// Which, from 1.
        number: usize,
        /// What is wrong.
        detail: String,
    },
    /// There is no certificate.
    Empty,
}

impl fmt::Display for RootsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RootsError::System(detail) => write!(
                f,
                "this system trusts no certificate authority ({detail}): install its package of CA certificates, or give the client a CA"
            ),
            RootsError::File { path, detail } => write!(f, "no CA certificates could be read from {}: {detail}", path.display()),
            RootsError::Certificate { number, detail } => write!(f, "CA certificate {number} cannot be used: {detail}"),
            RootsError::Empty => f.write_str("an empty list of CA certificates trusts nobody"),
        }
    }
}

impl std::error::Error for RootsError {}

/// What every connection of a client needs.
pub(super) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl Tls {
    /// TLS to this host, which the certificate must name.
    ///
    /// # Errors
    /// [`RootsError`].
    pub(super) fn new(server: ServerName<'static>, roots: &Roots) -> Result<Tls, RootsError> {
        let roots = match roots {
            Roots::System => system_roots()?,
            Roots::File(path) => Arc::new(store(&file_certificates(path)?)?),
            Roots::Der(certificates) => {
                Arc::new(store(&certificates.iter().map(|der| CertificateDer::from(der.clone())).collect::<Vec<_>>())?)
            }
        };
        // Named rather than taken from the process, so that nothing another library installs there changes what this client speaks.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(TLS_SESSIONS_KEPT);
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)), server })
    }

    /// Shakes hands on an open socket. The caller bounds the time.
    ///
    /// # Errors
    /// Why the server is not talked to.
    pub(super) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        self.connector.connect(self.server.clone(), stream).await.map_err(|error| Failure::of(&error))
    }
}

/// Whom the system trusts. Certificates that rustls cannot use are passed over: a store of many always has some.
fn system_roots() -> Result<Arc<RootCertStore>, RootsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let detail = found.errors.first().map_or("none was found".to_owned(), ToString::to_string);
        return Err(RootsError::System(detail));
    }
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

fn file_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RootsError> {
    let failed = |detail: String| RootsError::File { path: path.to_owned(), detail };
    let sections = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    let certificates: Vec<_> = sections.collect::<Result<_, _>>().map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() { Err(failed("there is no certificate in PEM in it".to_owned())) } else { Ok(certificates) }
}

/// A store of exactly these: whoever names a few means each of them.
fn store(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        let unusable = |error: rustls::Error| RootsError::Certificate { number: index + 1, detail: error.to_string() };
        roots.add(certificate.clone()).map_err(unusable)?;
    }
    if roots.is_empty() { Err(RootsError::Empty) } else { Ok(roots) }
}
