//! Verify that clients get in only with a certificate of the given authority, and as the user that it names.

use super::super::{AUTHORITY_HINTS_MAX, FaultCause, SubjectError, UnixSeconds, WarningCause, client_verifier, user_of};
use super::{Authority, Folder, Issued, NOW_S, at, parameters, provider, self_signed, valid};
use crate::limits::USER_ID_BYTES_MAX;
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, ServerConnection};
use std::path::Path;
use std::sync::Arc;

/// Shakes hands in memory. What the server says of the client, and the certificate that it was shown.
fn shake_hands(authorities: &Path, client: Option<&Issued>) -> Result<CertificateDer<'static>, Error> {
    let server = self_signed(&["h"]);
    let key = |issued: &Issued| PrivateKeyDer::try_from(issued.key.serialize_der()).unwrap();
    let (verifier, _) = client_verifier(authorities, provider(), at(0)).unwrap();
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(verifier);
    let config = config.with_single_cert(vec![server.certificate.der().clone()], key(&server)).unwrap();
    let mut server_side = ServerConnection::new(Arc::new(config)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(server.certificate.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match client {
        Some(client) => config.with_client_auth_cert(vec![client.certificate.der().clone()], key(client)).unwrap(),
        None => config.with_no_client_auth(),
    };
    let mut client_side = ClientConnection::new(Arc::new(config), ServerName::try_from("h").unwrap()).unwrap();
    while server_side.is_handshaking() {
        let mut bytes = Vec::new();
        while client_side.wants_write() {
            client_side.write_tls(&mut bytes).unwrap();
        }
        server_side.read_tls(&mut &bytes[..]).unwrap();
        server_side.process_new_packets()?;
        let mut bytes = Vec::new();
        while server_side.wants_write() {
            server_side.write_tls(&mut bytes).unwrap();
        }
        client_side.read_tls(&mut &bytes[..]).unwrap();
        client_side.process_new_packets().expect("the client trusts the server");
    }
    Ok(server_side.peer_certificates().expect("it was asked for")[0].clone())
}

#[test]
fn only_clients_of_the_authority_get_in() {
    let folder = Folder::new();
    let (ours, other) = (Authority::root("ours"), Authority::root("another"));
    let file = folder.write("ca.pem", ours.certificate.pem());
    let client =
        |authority: &Authority, change: fn(&mut CertificateParams)| authority.issue_with(&[], KeyPair::generate().unwrap(), change);
    let named = |parameters: &mut CertificateParams| *parameters = super::parameters(&[], "ada");
    let shown = shake_hands(&file, Some(&client(&ours, named))).expect("it is one of ours");
    assert_eq!(user_of(&shown), Ok("ada".to_owned()));
    assert_eq!(shake_hands(&file, None), Err(Error::NoCertificatesPresented));
    assert!(matches!(shake_hands(&file, Some(&client(&other, named))), Err(Error::InvalidCertificate(_))));
    let expired = |parameters: &mut CertificateParams| valid(0, 1)(parameters);
    assert!(matches!(shake_hands(&file, Some(&client(&ours, expired))), Err(Error::InvalidCertificate(_))));
    let both = folder.write("both.pem", ours.certificate.pem() + &other.certificate.pem());
    shake_hands(&both, Some(&client(&other, named))).expect("both authorities count");
}

#[test]
fn a_file_of_authorities_is_judged() {
    let folder = Folder::new();
    let verify = |name: &str, text: &str| client_verifier(&folder.write(name, text), provider(), at(0));
    assert!(matches!(verify("none", "").expect_err("it is empty").cause, FaultCause::NoCertificate));
    let root = Authority::root("r").certificate.pem();
    let bad = root.clone() + &super::pem("CERTIFICATE", b"x");
    assert!(matches!(verify("bad", &bad).expect_err("the second is bad").cause, FaultCause::BadCertificate { number: 2, .. }));
    assert_eq!(verify("root", &root).unwrap().1, []);
    let old = Authority::root("r").intermediate("old", valid(0, NOW_S - 1)).certificate.pem();
    let causes = |text: &str| verify("odd", text).unwrap().1.into_iter().map(|warning| warning.cause).collect::<Vec<_>>();
    let at = UnixSeconds(NOW_S as i64 - 1);
    assert_eq!(causes(&(root + &old)), [WarningCause::OthersExpired { number: 2, at }]);
    assert_eq!(causes(&self_signed(&["h"]).chain), [WarningCause::NotAnAuthority { number: 1 }]);
}

#[test]
fn clients_are_told_of_few_authorities_and_not_of_many() {
    let folder = Folder::new();
    let bundle = |count: usize| {
        let text: String = (0..count).map(|index| Authority::root(&format!("root {index}")).certificate.pem()).collect();
        let (verifier, _) = client_verifier(&folder.write("bundle", text), provider(), at(0)).unwrap();
        verifier.root_hint_subjects().len()
    };
    assert_eq!(bundle(AUTHORITY_HINTS_MAX), AUTHORITY_HINTS_MAX);
    assert_eq!(bundle(AUTHORITY_HINTS_MAX + 1), 0);
}

/// The user of a certificate with these common names and alternative names.
fn user(common_names: &[&str], alternatives: Vec<SanType>) -> Result<String, SubjectError> {
    let mut parameters = parameters(&[], "");
    parameters.distinguished_name = DistinguishedName::new();
    for (index, name) in common_names.iter().enumerate() {
        // The generator keeps one value of each kind: the same attribute, named by its number.
        let kind = if index == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
        parameters.distinguished_name.push(kind, *name);
    }
    parameters.subject_alt_names = alternatives;
    let key = KeyPair::generate().unwrap();
    user_of(parameters.self_signed(&key).unwrap().der())
}

#[test]
fn the_user_is_the_common_name_or_the_first_name_that_can_be_one() {
    let email = || SanType::Rfc822Name("ada@example.org".try_into().unwrap());
    let host = || SanType::DnsName("ada.example.org".try_into().unwrap());
    let uri = || SanType::URI("spiffe://example.org/ada".try_into().unwrap());
    let address = || SanType::IpAddress([192, 0, 2, 1].into());
    assert_eq!(user(&["ada"], vec![email()]).as_deref(), Ok("ada"));
    assert_eq!(user(&["Ada Lovelace é"], vec![]).as_deref(), Ok("Ada Lovelace é"));
    assert_eq!(user(&[], vec![email(), host()]).as_deref(), Ok("ada@example.org"));
    assert_eq!(user(&[], vec![address(), host(), email()]).as_deref(), Ok("ada.example.org"));
    assert_eq!(user(&[], vec![uri()]).as_deref(), Ok("spiffe://example.org/ada"));
    assert_eq!(user(&[""], vec![uri()]).as_deref(), Ok("spiffe://example.org/ada"), "an empty name is none");
    assert_eq!(user(&[], vec![address()]), Err(SubjectError::Missing));
    assert_eq!(user(&[], vec![]), Err(SubjectError::Missing));
}

#[test]
fn a_common_name_that_cannot_be_a_user_is_refused() {
    let fits = "é".repeat(USER_ID_BYTES_MAX / 2);
    assert_eq!(user(&[&fits], vec![]), Ok(fits.clone()));
    assert_eq!(user(&[&format!("{fits}x")], vec![]), Err(SubjectError::TooLong(USER_ID_BYTES_MAX + 1)));
    let host = || vec![SanType::DnsName("ada.example.org".try_into().unwrap())];
    for name in ["ada\n", "\0ada", "a\u{85}da", "\u{7f}"] {
        assert_eq!(user(&[name], host()), Err(SubjectError::ControlCharacters), "{name:?}: no other name takes its place");
    }
    assert_eq!(user(&["ada", "bob"], host()), Err(SubjectError::Ambiguous));
    let mut parameters = parameters(&[], "");
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, DnValue::BmpString("ada".try_into().unwrap()));
    let certificate = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
    assert_eq!(user_of(certificate.der()), Err(SubjectError::Encoding));
    assert_eq!(user_of(&CertificateDer::from(b"x".to_vec())), Err(SubjectError::Malformed));
}
