//! Verify that the certificate for development is one that a client which is given it takes, for this machine's names and no others,
//! and for as long as browsers allow.

use super::super::development::{Development, base64};
use super::super::{Change, Store, UnixSeconds};
use super::{DAY_S, NOW_S, at, provider};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use std::time::Duration;

fn made(host: Option<&str>) -> Development {
    Development::for_host(host, &provider(), UnixSeconds(NOW_S as i64)).unwrap()
}

/// Whether a client that trusts the certificate takes it for a host at a time, in seconds from now.
fn is_taken(development: &Development, host: &str, after_s: i64) -> bool {
    let certificate = CertificateDer::from_pem_slice(development.pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs((NOW_S as i64 + after_s) as u64));
    verifier.verify_server_cert(&certificate, &[], &ServerName::try_from(host.to_owned()).unwrap(), &[], now).is_ok()
}

#[test]
fn it_is_for_this_machine_only() {
    let development = made(Some("box.example"));
    for host in ["localhost", "127.0.0.1", "::1", "box.example"] {
        assert!(is_taken(&development, host, 0), "{host}");
    }
    for host in ["example.org", "127.0.0.2", "sub.localhost"] {
        assert!(!is_taken(&development, host, 0), "{host}");
    }
    // A name that no certificate can have is left out; the rest holds.
    for host in [None, Some("localhost"), Some(""), Some("a b"), Some("é"), Some(".x"), Some("a".repeat(254).as_str())] {
        let development = made(host);
        assert!(is_taken(&development, "localhost", 0), "{host:?}");
        assert!(development.hint(1).contains("for localhost, 127.0.0.1, ::1, until"), "{host:?}");
    }
}

#[test]
fn it_is_valid_for_less_than_two_weeks() {
    let development = made(None);
    let [summary] = &Store::of_development(&development, provider()).summaries()[..] else { panic!("there is one") };
    assert!(summary.not_after.0 - summary.not_before.0 <= 14 * DAY_S as i64);
    let (begin, end) = (summary.not_before.0 - NOW_S as i64, summary.not_after.0 - NOW_S as i64);
    for (after_s, is_valid) in [(begin - 1, false), (begin, true), (0, true), (end, true), (end + 1, false)] {
        assert_eq!(is_taken(&development, "localhost", after_s), is_valid, "{after_s}");
    }
}

#[test]
fn each_start_makes_another_on_the_curve_that_browsers_take() {
    let (one, other) = (made(None), made(None));
    assert_ne!(one.fingerprint(), other.fingerprint());
    let certificate = CertificateDer::from_pem_slice(one.pem().as_bytes()).unwrap();
    let parsed = super::super::inspect::parse(&certificate).unwrap();
    let algorithm = &parsed.public_key().algorithm;
    assert_eq!(algorithm.algorithm.to_id_string(), "1.2.840.10045.2.1", "an elliptic curve");
    let curve = algorithm.parameters.as_ref().unwrap().as_oid().unwrap();
    assert_eq!(curve.to_id_string(), "1.2.840.10045.3.1.7", "P-256");
}

#[test]
fn the_hint_tells_what_a_developer_needs() {
    let development = Development::make(&provider(), at(0)).unwrap();
    let hint = development.hint(9443);
    assert!(hint.contains(&development.fingerprint().to_string()) && hint.contains("https://localhost:9443/"), "{hint}");
    let certificate = CertificateDer::from_pem_slice(development.pem().as_bytes()).unwrap();
    let parsed = super::super::inspect::parse(&certificate).unwrap();
    let hash = base64(&<sha2::Sha256 as sha2::Digest>::digest(parsed.public_key().raw));
    assert!(hint.contains(&format!("--ignore-certificate-errors-spki-list={hash}")), "{hint}");
    assert!(!hint.contains("PRIVATE") && !development.pem().contains("PRIVATE"));
}

#[test]
fn it_has_no_files_to_look_at() {
    let development = made(None);
    let store = Store::of_development(&development, provider());
    assert!(!store.has_changed() && matches!(store.poll_files(at(0)), Change::None));
    assert_eq!(store.reload(at(0)).unwrap(), []);
    assert_eq!(store.summaries()[0].fingerprint, development.fingerprint());
}

#[test]
fn base64_is_that_of_rfc_4648() {
    let vectors = [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ];
    for (text, encoded) in vectors {
        assert_eq!(base64(text.as_bytes()), encoded);
    }
    assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
}
