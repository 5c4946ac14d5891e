//! Verify that a chain and its key are taken in every form that they come in, and that each fault and each oddity is told for what it is.

use super::super::pair::Pair;
use super::super::{CHAIN_CERTIFICATES_MAX, Fault, FaultCause, Files, PEM_BYTES_MAX, UnixSeconds, Warning, WarningCause};
use super::{Authority, DAY_S, Folder, Issued, NOW_S, at, authority_with_intermediate, pem, provider, self_signed, valid};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn load(files: &Files) -> Result<(Pair, Vec<Warning>), Fault> {
    let mut warnings = Vec::new();
    let pair = Pair::load(files, &provider(), UnixSeconds::of(at(0)), &mut warnings)?;
    Ok((pair, warnings))
}

/// The fault that a pair has; its text must name the file.
fn fault(files: &Files) -> (PathBuf, FaultCause) {
    let fault = load(files).expect_err("the pair is faulty");
    assert!(fault.to_string().contains(fault.path.to_str().unwrap()), "{fault}");
    (fault.path, fault.cause)
}

fn warnings(files: &Files) -> Vec<WarningCause> {
    load(files).expect("the pair can be served").1.into_iter().map(|warning| warning.cause).collect()
}

#[test]
fn a_whole_pair_is_taken_and_summed_up() {
    let folder = Folder::new();
    let issued = authority_with_intermediate().issue(&["a.example.org", "A.EXAMPLE.ORG", "*.b.example.org", "192.0.2.1"]);
    let files = folder.pair("a", &issued);
    let (pair, warnings) = load(&files).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(pair.certified.cert.len(), 2);
    let summary = pair.summary;
    assert_eq!((summary.chain, summary.hosts), (Some(files.chain), vec!["a.example.org".into(), "*.b.example.org".into()]));
    assert_eq!(summary.not_after.to_string(), "4096-01-01 00:00:00 UTC");
    assert_eq!(summary.fingerprint.to_string().len(), 32 * 3 - 1);
    // Chain and key in one file.
    let both = folder.write("both.pem", format!("{}{}", issued.key.serialize_pem(), issued.chain));
    assert_eq!(load(&Files { chain: both.clone(), key: both }).unwrap().0.summary.fingerprint, summary.fingerprint);
}

/// What is in the third element of a PKCS #8 key: the key in the form that its own standard has.
fn inner(pkcs8: &[u8]) -> &[u8] {
    /// The content of the element at the beginning, and what follows it.
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, head) = match der[1] {
            short if short < 0x80 => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            0x82 => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
            other => panic!("a length of form {other:#x}"),
        };
        der[head..].split_at(length)
    }
    let (_version, rest) = element(element(pkcs8).0);
    let (_algorithm, rest) = element(rest);
    element(rest).0
}

#[test]
fn keys_are_taken_in_every_form() {
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let forms = |key: KeyPair, label: &str| {
        let issued = authority.issue_with(&["h"], key, |_| {});
        let files = folder.pair("form", &issued);
        load(&files).expect("PKCS #8 is taken");
        if !label.is_empty() {
            let key = folder.write("other.key", pem(label, inner(issued.key.serialized_der())));
            load(&Files { key, ..files }).unwrap_or_else(|fault| panic!("{label}: {fault}"));
        }
    };
    forms(KeyPair::generate().unwrap(), "EC PRIVATE KEY");
    forms(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(), "EC PRIVATE KEY");
    forms(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(), "RSA PRIVATE KEY");
    forms(KeyPair::generate_for(&PKCS_ED25519).unwrap(), "");
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let folder = Folder::new();
    let good = folder.pair("a", &self_signed(&["h"]));
    let chain = |path: PathBuf| fault(&Files { chain: path, ..good.clone() });
    let (path, cause) = chain(folder.path("missing.pem"));
    assert!(matches!(cause, FaultCause::Unreadable(error) if error.kind() == std::io::ErrorKind::NotFound));
    assert_eq!(path, folder.path("missing.pem"));
    assert!(matches!(chain(folder.0.clone()).1, FaultCause::NotAFile));
    let large = folder.path("large.pem");
    fs::File::create(&large).unwrap().set_len(PEM_BYTES_MAX + 1).unwrap();
    assert!(matches!(chain(large).1, FaultCause::TooLarge));
    let text = fs::read(&good.chain).unwrap();
    assert!(matches!(chain(folder.write("cut.pem", &text[..text.len() / 2])).1, FaultCause::NotPem(_)));
    let key = folder.path("missing.key");
    assert_eq!(fault(&Files { key: key.clone(), ..good.clone() }).0, key);
}

#[test]
fn a_chain_that_cannot_be_shown_is_a_fault() {
    let folder = Folder::new();
    let issued = self_signed(&["h"]);
    let good = folder.pair("a", &issued);
    let chain = |text: &[u8]| fault(&Files { chain: folder.write("chain.pem", text), ..good.clone() }).1;
    assert!(matches!(chain(b""), FaultCause::NoCertificate));
    assert!(matches!(chain(issued.certificate.der()), FaultCause::NoCertificate), "DER is not PEM");
    assert!(matches!(chain(issued.key.serialize_pem().as_bytes()), FaultCause::NoCertificate), "the paths were swapped");
    assert!(matches!(chain(issued.chain.repeat(CHAIN_CERTIFICATES_MAX + 1).as_bytes()), FaultCause::ChainTooLong));
    let bad = format!("{}{}", issued.chain, pem("CERTIFICATE", b"no certificate"));
    assert!(matches!(chain(bad.as_bytes()), FaultCause::BadCertificate { number: 2, .. }));
    let tail = [issued.certificate.der().as_ref(), b"x"].concat();
    assert!(matches!(chain(pem("CERTIFICATE", &tail).as_bytes()), FaultCause::BadCertificate { number: 1, .. }));
}

#[test]
fn a_key_that_cannot_be_used_is_a_fault() {
    let folder = Folder::new();
    let issued = self_signed(&["h"]);
    let good = folder.pair("a", &issued);
    let key = |text: &str| fault(&Files { key: folder.write("key.pem", text), ..good.clone() }).1;
    let own = issued.key.serialize_pem();
    assert!(matches!(key(""), FaultCause::NoKey));
    assert!(matches!(key(&issued.chain), FaultCause::NoKey));
    assert!(matches!(key(&own.repeat(3)), FaultCause::ManyKeys(3)));
    assert!(matches!(key(&pem("PRIVATE KEY", b"no key")), FaultCause::BadKey(_)));
    assert!(matches!(key(&pem("ENCRYPTED PRIVATE KEY", b"secret")), FaultCause::EncryptedKey));
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    assert!(matches!(key(old), FaultCause::EncryptedKey));
    assert!(matches!(key(&own.replace("-----BEGIN", "-----BEGIN!")), FaultCause::NoKey | FaultCause::NotPem(_)));
    let other = KeyPair::generate().unwrap().serialize_pem();
    assert!(matches!(key(&other), FaultCause::KeyMismatch { chain } if chain == good.chain));
}

#[test]
fn no_text_of_a_damaged_key_is_repeated() {
    let folder = Folder::new();
    let issued = self_signed(&["h"]);
    let good = folder.pair("a", &issued);
    let text = issued.key.serialize_pem();
    let line = text.lines().nth(1).unwrap();
    let damaged = [
        text.replace(line, &format!("{line}!")),
        text.replace("-----END", "----END"),
        text.replace("-----BEGIN PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY"),
    ];
    for text in damaged {
        let fault = load(&Files { key: folder.write("key.pem", text), ..good.clone() }).expect_err("it is damaged");
        assert!(!format!("{fault} {fault:?}").contains(&line[..8]), "{fault}");
    }
}

#[test]
fn a_certificate_is_served_only_while_it_is_valid() {
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let files = |from, until| {
        let issued = authority.issue_with(&["h"], KeyPair::generate().unwrap(), valid(from, until));
        folder.pair("a", &issued)
    };
    let expired = fault(&files(NOW_S - DAY_S, NOW_S - 1));
    assert!(matches!(expired.1, FaultCause::Expired(at) if at.to_string() == "2025-12-31 23:59:59 UTC"));
    let text = load(&files(NOW_S - DAY_S, NOW_S - 1)).expect_err("it has expired").to_string();
    assert!(text.contains("expired on 2025-12-31 23:59:59 UTC"), "{text}");
    let early = fault(&files(NOW_S + 1, NOW_S + 100 * DAY_S));
    assert!(matches!(early.1, FaultCause::NotYetValid(at) if at.to_string() == "2026-01-01 00:00:01 UTC"));
    // The first and the last second are in.
    assert_eq!(warnings(&files(NOW_S, NOW_S + 14 * DAY_S)), []);
    let soon = |at_s: u64, days| [WarningCause::ExpiresSoon { at: UnixSeconds(at_s as i64), days }];
    assert_eq!(warnings(&files(0, NOW_S)), soon(NOW_S, 0));
    assert_eq!(warnings(&files(0, NOW_S + 14 * DAY_S - 1)), soon(NOW_S + 14 * DAY_S - 1, 13));
}

#[test]
fn a_key_that_others_may_read_is_warned_of() {
    let folder = Folder::new();
    let files = folder.pair("a", &authority_with_intermediate().issue(&["h"]));
    for (mode, is_told) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o644, true)] {
        fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
        let told: &[WarningCause] = if is_told { &[WarningCause::KeyReadable { mode }] } else { &[] };
        assert_eq!(warnings(&files), told, "{mode:o}");
    }
    let text = load(&files).unwrap().1[0].to_string();
    assert!(text.contains("mode 0644") && text.contains("chmod 600"), "{text}");
}

#[test]
fn an_odd_chain_is_warned_of() {
    let folder = Folder::new();
    let root = Authority::root("a root");
    let intermediate = root.intermediate("an intermediate", |_| {});
    let chain_of = |issued: &Issued, chain: String| {
        let files = folder.pair("a", issued);
        folder.write("a.pem", chain);
        warnings(&files)
    };
    let issued = intermediate.issue(&["h"]);
    let (leaf, middle, top) = (issued.certificate.pem(), intermediate.certificate.pem(), root.certificate.pem());
    assert_eq!(chain_of(&issued, format!("{leaf}{middle}{top}")), []);
    assert_eq!(
        chain_of(&issued, format!("{leaf}{top}{middle}")),
        [WarningCause::ChainOrder { number: 2 }, WarningCause::ChainOrder { number: 3 }]
    );
    assert_eq!(chain_of(&issued, leaf), [WarningCause::NoIntermediate { issuer: "CN=an intermediate".into() }]);
    let itself = self_signed(&["h"]);
    assert_eq!(chain_of(&itself, itself.chain.clone()), [WarningCause::SelfSigned]);
    let nobody = intermediate.issue(&[]);
    assert_eq!(chain_of(&nobody, nobody.chain.clone()), [WarningCause::NoNames]);
    let authority = |parameters: &mut CertificateParams| parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let both = intermediate.issue_with(&["h"], KeyPair::generate().unwrap(), authority);
    assert_eq!(chain_of(&both, both.chain.clone()), [WarningCause::IsAuthority]);
    let old = root.intermediate("an old one", valid(0, NOW_S - 1));
    let issued = old.issue(&["h"]);
    let at = UnixSeconds(NOW_S as i64 - 1);
    assert_eq!(chain_of(&issued, issued.chain.clone()), [WarningCause::OthersExpired { number: 2, at }]);
}
