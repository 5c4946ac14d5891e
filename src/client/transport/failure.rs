//! Why a socket could not be opened, or broke: what an application may want to show or to act on.
//!
//! The machine is told only that the socket ended, and tries again after a delay that grows up to half a minute, whatever the failure
//! was: a certificate that is not trusted today may be replaced, and a clock be set, without anybody restarting the client. Whoever knows
//! better sees the failure and closes the client.

use rustls::{CertificateError, Error};
use std::fmt;
use std::io;

/// Why a socket could not be opened, or broke.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The host was not found or not reached, or the connection broke.
    Network {
        /// The kind of error.
        kind: io::ErrorKind,
        /// The system's words.
        detail: Box<str>,
    },
    /// The server's certificate was issued by nobody who is trusted, or not as one for servers.
    Untrusted(Box<str>),
    /// The server's certificate is genuine and names other hosts than the URL.
    WrongHost(Box<str>),
    /// The server's certificate is expired or not valid yet, by this machine's clock.
    OutOfDate(Box<str>),
    /// The server refused with a TLS alert (RFC 8446 §6): it may want a certificate from this client, or know no such host.
    Refused(Box<str>),
    /// What came was no TLS that this client speaks: the port is one for `ws://`, no version or algorithm is common, or bytes were damaged.
    Tls(Box<str>),
}

impl Failure {
    /// The attempt took longer than an attempt may.
    pub(super) fn too_late() -> Failure {
        Failure::Network { kind: io::ErrorKind::TimedOut, detail: "it did not answer in time".into() }
    }

    /// What an error of a socket, or of TLS over it, means.
    pub(super) fn of(error: &io::Error) -> Failure {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Failure::of_tls(error),
            None => Failure::Network { kind: error.kind(), detail: error.to_string().into() },
        }
    }

    fn of_tls(error: &Error) -> Failure {
        let text = error.to_string().into_boxed_str();
        if let Error::InvalidCertificate(error) = error {
            return Failure::of_certificate(error, text);
        }
        if matches!(error, Error::NoCertificatesPresented) {
            Failure::Untrusted(text)
        } else if matches!(error, Error::AlertReceived(_)) {
            Failure::Refused(text)
        } else {
            Failure::Tls(text)
        }
    }

    fn of_certificate(error: &CertificateError, text: Box<str>) -> Failure {
        use CertificateError::{Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext};
        if matches!(error, NotValidForName | NotValidForNameContext { .. }) {
            Failure::WrongHost(text)
        } else if matches!(error, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }) {
            Failure::OutOfDate(text)
        } else {
            Failure::Untrusted(text)
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Network { detail, .. } => write!(f, "the server was not reached: {detail}"),
            Failure::Untrusted(detail) => write!(f, "the server's certificate is not trusted: {detail}"),
            Failure::WrongHost(detail) => write!(f, "the server's certificate is for another host: {detail}"),
            Failure::OutOfDate(detail) => write!(f, "the server's certificate, or this machine's clock, is out of date: {detail}"),
            Failure::Refused(detail) => write!(f, "the server refused the TLS connection: {detail}"),
            Failure::Tls(detail) => write!(f, "TLS failed; is it a wss:// port? {detail}"),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{AlertDescription, InvalidMessage};

    #[test]
    fn errors_of_tls_are_told_apart() {
        let of = |error: Error| Failure::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        let certificate = |error| of(Error::InvalidCertificate(error));
        assert!(matches!(certificate(CertificateError::UnknownIssuer), Failure::Untrusted(_)));
        assert!(matches!(certificate(CertificateError::BadSignature), Failure::Untrusted(_)));
        assert!(matches!(certificate(CertificateError::NotValidForName), Failure::WrongHost(_)));
        assert!(matches!(certificate(CertificateError::Expired), Failure::OutOfDate(_)));
        assert!(matches!(certificate(CertificateError::NotValidYet), Failure::OutOfDate(_)));
        assert!(matches!(of(Error::AlertReceived(AlertDescription::CertificateRequired)), Failure::Refused(_)));
        assert!(matches!(of(Error::InvalidMessage(InvalidMessage::InvalidContentType)), Failure::Tls(_)));
    }

    #[test]
    fn errors_of_the_network_keep_their_kind() {
        let refused = Failure::of(&io::ErrorKind::ConnectionRefused.into());
        assert!(matches!(refused, Failure::Network { kind: io::ErrorKind::ConnectionRefused, .. }), "{refused}");
        let lookup = Failure::of(&io::Error::other("no such host"));
        assert_eq!(lookup.to_string(), "the server was not reached: no such host");
    }
}
