//! One way to drive rustls' unbuffered connections, in the handshake and for connections that stay with rustls.
//!
//! It knows the order in which rustls wants its states handled, and nothing of what they are for.

use super::Failure;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic};
use rustls::{Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

/// Where a run has come to.
pub(super) enum Pause {
    /// More input is needed.
    Input,
    /// The connection is open in our direction.
    Open,
    /// The peer has closed its direction. Ours may still be open: another run tells.
    PeerClosed,
    /// Both directions are closed.
    Closed,
}

/// Lets rustls take all of `input`, whole records only. What it has to say is appended to `out`, what it has opened goes to `data`. At an
/// error `out` ends with the alert.
///
/// What stays in `input` is a piece of a message that rustls wants to see again together with the rest.
pub(super) fn run(
    connection: &mut UnbufferedServerConnection,
    input: &mut Vec<u8>,
    out: &mut Vec<u8>,
    mut data: impl FnMut(&[u8]),
) -> Result<Pause, Error> {
    loop {
        let UnbufferedStatus { discard, state, .. } = connection.process_tls_records(input);
        let handled = match state {
            Ok(state) => handle(state, out, &mut data),
            Err(error) => {
                // Only what it has said is taken now: it must not see the record at fault a second time.
                while connection.wants_write() {
                    handle(connection.process_tls_records(input).state?, out, &mut data)?;
                }
                return Err(error);
            }
        };
        input.drain(..discard);
        if let Some(pause) = handled? {
            return Ok(pause);
        }
    }
}

fn handle<Data>(
    state: ConnectionState<'_, '_, Data>,
    out: &mut Vec<u8>,
    data: &mut impl FnMut(&[u8]),
) -> Result<Option<Pause>, Error> {
    match state {
        ConnectionState::EncodeTlsData(mut encode) => append(out, |room| match encode.encode(room) {
            Ok(written) => Ok(written),
            Err(EncodeError::InsufficientSize(size)) => Err(Some(size)),
            Err(EncodeError::AlreadyEncoded) => Err(None),
        })?,
        ConnectionState::TransmitTlsData(transmit) => transmit.done(),
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                data(record?.payload);
            }
        }
        ConnectionState::BlockedHandshake => return Ok(Some(Pause::Input)),
        ConnectionState::WriteTraffic(_) => return Ok(Some(Pause::Open)),
        ConnectionState::PeerClosed => return Ok(Some(Pause::PeerClosed)),
        ConnectionState::Closed => return Ok(Some(Pause::Closed)),
        // Early data is never offered.
        ConnectionState::ReadEarlyData(_) | _ => return Err(Error::General("an unexpected state".to_owned())),
    }
    Ok(None)
}

/// Seals with rustls, after what it has to say before. `input` is what the last run has left.
pub(super) fn write(
    connection: &mut UnbufferedServerConnection,
    input: &mut [u8],
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        let mut state = connection.process_tls_records(input).state?;
        if let ConnectionState::WriteTraffic(traffic) = &mut state {
            return write(traffic, out);
        }
        match handle(state, out, &mut |_| {})? {
            None | Some(Pause::PeerClosed) => {}
            Some(Pause::Input | Pause::Open | Pause::Closed) => return Err(Error::HandshakeNotComplete),
        }
    }
}

/// Appends what `encrypt` makes of it, with as much room as it wants.
pub(super) fn append_encrypted(
    out: &mut Vec<u8>,
    mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), Error> {
    append(out, |room| match encrypt(room) {
        Ok(written) => Ok(written),
        Err(EncryptError::InsufficientSize(size)) => Err(Some(size)),
        Err(EncryptError::EncryptExhausted) => Err(None),
    })
}

/// Appends to `out` what `encode` writes. It is asked again with the room that it wanted, at most [`ASKED_MAX`] times in all.
fn append(
    out: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), Error> {
    let start = out.len();
    let mut room = 0;
    for _ in 0..ASKED_MAX {
        out.resize(start + room, 0);
        match encode(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Some(size)) => room = size.required_size,
            Err(None) => break,
        }
    }
    out.truncate(start);
    Err(Error::EncryptError)
}

/// Times that rustls is asked for the same bytes: without room, with the room that it wanted, and once more if it has put something before.
const ASKED_MAX: usize = 3;

/// What an error of rustls means to us.
pub(super) fn failure_of(error: &Error) -> Failure {
    match error {
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => Failure::UnexpectedMessage,
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            Failure::UnexpectedRecord
        }
        Error::InvalidMessage(InvalidMessage::MessageTooLarge) | Error::PeerSentOversizedRecord => Failure::RecordOverflow,
        Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge | InvalidMessage::CertificatePayloadTooLarge) => {
            Failure::HandshakeTooLarge
        }
        Error::InvalidMessage(_) => Failure::Undecodable,
        Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Failure::ClientCertificate,
        Error::DecryptError => Failure::BadRecordMac,
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => Failure::UnsupportedVersion,
        Error::PeerIncompatible(_) => Failure::NothingInCommon,
        Error::PeerMisbehaved(
            PeerMisbehaved::TooManyEmptyFragments
            | PeerMisbehaved::TooManyKeyUpdateRequests
            | PeerMisbehaved::TooManyWarningAlertsReceived
            | PeerMisbehaved::KeyEpochWithPendingFragment
            | PeerMisbehaved::MessageInterleavedWithHandshakeMessage
            | PeerMisbehaved::IllegalMiddleboxChangeCipherSpec,
        ) => Failure::UnexpectedMessage,
        Error::PeerMisbehaved(_) => Failure::IllegalParameter,
        Error::AlertReceived(_) => Failure::PeerAlert,
        Error::NoApplicationProtocol => Failure::NoApplicationProtocol,
        Error::InvalidEncryptedClientHello(_)
        | Error::UnsupportedNameType
        | Error::EncryptError
        | Error::InvalidCertRevocationList(_)
        | Error::General(_)
        | Error::FailedToGetCurrentTime
        | Error::FailedToGetRandomBytes
        | Error::HandshakeNotComplete
        | Error::BadMaxFragmentSize
        | Error::InconsistentKeys(_)
        | Error::Other(_)
        | _ => Failure::Internal,
    }
}
