//! Why a handshake or an open connection fails, the alert that says so, and how handshakes are counted.
//!
//! Everything here is the peer's doing or ours towards one connection: it ends that connection and nothing else.

use rustls::AlertDescription;
use std::fmt;

macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident = ($alert:expr, $result:ident, $text:expr),)*) => {
        /// Why a connection can't go on. Copied freely: it holds no bytes of the peer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Failure { $($(#[$doc])* $name,)* }

        impl Failure {
            /// Every failure, in discriminant order.
            pub const ALL: &'static [Failure] = &[$(Failure::$name,)*];
            /// The alert that the record layer sends for it (RFC 8446 §6.2); `None` if the peer is not told. A handshake's alert is
            /// rustls' own, and more exact.
            pub const fn alert(self) -> Option<AlertDescription> { match self { $(Failure::$name => $alert,)* } }
            /// How a handshake is counted that fails so.
            pub const fn handshake_result(self) -> HandshakeResult { match self { $(Failure::$name => HandshakeResult::$result,)* } }
            const fn text(self) -> &'static str { match self { $(Failure::$name => $text,)* } }
        }
    };
}

failures! {
    /// The first bytes are a request in plain HTTP: somebody wrote `ws://` for `wss://`. `out` stays empty, so that the caller can answer in plain.
    PlainHttp = (None, PlainHttp, "plain HTTP was sent to a TLS port"),
    /// A record of a type that doesn't belong here, or first bytes that are no TLS.
    UnexpectedRecord = (Some(AlertDescription::UnexpectedMessage), BadRecord, "a record of a type that has no place here"),
    /// A record that claims more than [`RECORD_PROTECTED_BYTES_MAX`](super::RECORD_PROTECTED_BYTES_MAX) or holds more than
    /// [`RECORD_PLAINTEXT_BYTES_MAX`](super::RECORD_PLAINTEXT_BYTES_MAX).
    RecordOverflow = (Some(AlertDescription::RecordOverflow), BadRecord, "a record above the limit"),
    /// A record that does not authenticate: corrupt, replayed, reordered or cut out.
    BadRecordMac = (Some(AlertDescription::BadRecordMac), BadRecord, "a record that does not authenticate"),
    /// A message that has no place here, or more of what carries no data than
    /// [`RECORDS_WITHOUT_DATA_MAX`](super::RECORDS_WITHOUT_DATA_MAX).
    UnexpectedMessage = (Some(AlertDescription::UnexpectedMessage), BadMessage, "a message that has no place here"),
    /// A message whose fields don't fit together.
    Undecodable = (Some(AlertDescription::DecodeError), BadMessage, "a message that can't be decoded"),
    /// A message with a value that is not allowed.
    IllegalParameter = (Some(AlertDescription::IllegalParameter), BadMessage, "a value that is not allowed"),
    /// A `ClientHello` above [`CLIENT_HELLO_BYTES_MAX`](super::CLIENT_HELLO_BYTES_MAX) or a handshake above
    /// [`HANDSHAKE_BYTES_MAX`](super::HANDSHAKE_BYTES_MAX).
    HandshakeTooLarge = (Some(AlertDescription::HandshakeFailure), TooLarge, "a handshake above the limit"),
    /// The client has no version that we take.
    UnsupportedVersion = (Some(AlertDescription::ProtocolVersion), UnsupportedVersion, "no version of TLS in common"),
    /// No suite, group or signature in common.
    NothingInCommon = (Some(AlertDescription::HandshakeFailure), NothingInCommon, "no suite, group or signature in common"),
    /// The client speaks none of our protocols above TLS.
    NoApplicationProtocol = (Some(AlertDescription::NoApplicationProtocol), NothingInCommon, "no application protocol in common"),
    /// There is no certificate of ours for what the client asks.
    NoCertificate = (Some(AlertDescription::UnrecognisedName), NoCertificate, "no certificate for the name that was asked for"),
    /// The client's certificate is missing or not accepted.
    ClientCertificate = (Some(AlertDescription::BadCertificate), ClientCertificate, "the client's certificate is missing or not accepted"),
    /// The peer gave up with an alert.
    PeerAlert = (None, PeerAlert, "the peer gave up with an alert"),
    /// A promise of a library was broken.
    Internal = (Some(AlertDescription::InternalError), Internal, "an error of our own"),
    /// The connection has ended before: nothing is opened or sealed any more.
    Ended = (None, Internal, "the connection has ended"),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Failure {}

macro_rules! results {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// How a handshake ended. The discriminant indexes counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum HandshakeResult { $($(#[$doc])* $name,)* }

        impl HandshakeResult {
            /// Every result, in discriminant order.
            pub const ALL: &'static [HandshakeResult] = &[$(HandshakeResult::$name,)*];
            /// Value of the `result` label of the metrics.
            pub const fn label(self) -> &'static str { match self { $(HandshakeResult::$name => $label,)* } }
        }
    };
}

results! {
    /// A full handshake.
    Ok = "ok",
    /// A handshake with the ticket of an earlier connection.
    Resumed = "resumed",
    /// The deadline came first. The caller decides it.
    Timeout = "timeout",
    /// The client went away. The caller decides it.
    Disconnected = "disconnected",
    /// It was refused before it began. The caller decides it.
    Refused = "refused",
    /// Plain HTTP.
    PlainHttp = "plain_http",
    /// No TLS, or a record that is broken.
    BadRecord = "bad_record",
    /// A message that is broken or has no place.
    BadMessage = "bad_message",
    /// More bytes than a handshake may have.
    TooLarge = "too_large",
    /// No version in common.
    UnsupportedVersion = "unsupported_version",
    /// No suite, group, signature or application protocol in common.
    NothingInCommon = "nothing_in_common",
    /// No certificate for the name.
    NoCertificate = "no_certificate",
    /// The client's certificate is missing or not accepted.
    ClientCertificate = "client_certificate",
    /// The client gave up with an alert: most often it does not trust our certificate.
    PeerAlert = "peer_alert",
    /// An error of our own.
    Internal = "internal",
}
