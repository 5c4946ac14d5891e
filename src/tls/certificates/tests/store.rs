//! Verify that each client gets the certificate for the name that it asks for, and that new files are served whole, or not at all.

use super::super::{Change, Fault, FaultCause, Files, PAIRS_MAX, SETTLE_MS, Store, WarningCause};
use super::{DAY_S, Folder, Issued, NOW_S, at, authority_with_intermediate, provider, relink, self_signed, valid};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::{Acceptor, ResolvesServerCert};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn load(files: &[&Files]) -> Store {
    Store::load(files.iter().map(|files| (*files).clone()).collect(), provider(), at(0)).expect("all pairs are whole").0
}

/// The first message of a client that asks for a host, or for none if that is an address.
fn hello(host: &str, provider: CryptoProvider) -> Vec<u8> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// The certificate that the client of this message is shown, and whether the key is its own.
fn shown(store: &Store, mut hello: &[u8]) -> Vec<u8> {
    let mut acceptor = Acceptor::default();
    while !hello.is_empty() {
        acceptor.read_tls(&mut hello).unwrap();
    }
    let accepted = acceptor.accept().ok().flatten().expect("a whole hello");
    let certified = store.resolve(accepted.client_hello()).expect("there is always one");
    certified.keys_match().expect("the key is the certificate's");
    certified.cert[0].to_vec()
}

fn is_shown(store: &Store, host: &str, issued: &Issued) -> bool {
    shown(store, &hello(host, (*provider()).clone())) == issued.certificate.der().as_ref()
}

#[test]
fn clients_are_shown_the_certificate_for_the_name_they_ask_for() {
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let first = authority.issue(&["first.example.org"]);
    let wide = authority.issue(&["*.example.org", "example.org"]);
    let exact = authority.issue(&["b.example.org"]);
    let store = load(&[&folder.pair("first", &first), &folder.pair("wide", &wide), &folder.pair("exact", &exact)]);
    for (host, issued) in [
        ("first.example.org", &first),
        ("b.example.org", &exact),
        ("B.Example.Org", &exact),
        ("c.example.org", &wide),
        ("example.org", &wide),
        ("a.c.example.org", &first),
        ("elsewhere.net", &first),
        ("192.0.2.1", &first),
    ] {
        assert!(is_shown(&store, host, issued), "{host}");
    }
}

#[test]
fn of_two_for_a_name_the_one_that_the_client_can_check_is_shown() {
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let rsa = authority.issue_with(&["h"], rsa, |_| {});
    let ecdsa = authority.issue(&["h"]);
    let store = load(&[&folder.pair("rsa", &rsa), &folder.pair("ecdsa", &ecdsa)]);
    let with_schemes = |wanted: fn(&str) -> bool| {
        let mut provider = (*provider()).clone();
        let algorithms = provider.signature_verification_algorithms.mapping;
        let kept: Vec<_> = algorithms.iter().filter(|(scheme, _)| wanted(&format!("{scheme:?}"))).copied().collect();
        provider.signature_verification_algorithms.mapping = kept.leak();
        hello("h", provider)
    };
    assert_eq!(shown(&store, &with_schemes(|scheme| scheme.starts_with("ECDSA"))), ecdsa.certificate.der().as_ref());
    assert_eq!(shown(&store, &with_schemes(|scheme| scheme.starts_with("RSA"))), rsa.certificate.der().as_ref());
    assert_eq!(shown(&store, &with_schemes(|_| true)), rsa.certificate.der().as_ref(), "the first of equals");
}

#[test]
fn there_is_a_bound_on_the_pairs() {
    let folder = Folder::new();
    let files = folder.pair("a", &self_signed(&["h"]));
    let error = Store::load(vec![files; PAIRS_MAX + 1], provider(), at(0)).expect_err("it is one too many");
    assert!(matches!(error.cause, FaultCause::TooManyPairs));
}

#[test]
fn summaries_name_what_is_served() {
    let folder = Folder::new();
    let issued = authority_with_intermediate().issue_with(&["h"], KeyPair::generate().unwrap(), valid(5, NOW_S + 77 * DAY_S));
    let files = folder.pair("a", &issued);
    let (store, warnings) = Store::load(vec![files.clone()], provider(), at(0)).unwrap();
    assert_eq!(warnings, []);
    let [summary] = &store.summaries()[..] else { panic!("there is one pair") };
    assert_eq!((&summary.chain, summary.not_before.0, summary.not_after.0), (&Some(files.chain), 5, (NOW_S + 77 * DAY_S) as i64));
    assert_eq!(summary.hosts, ["h".into()]);
    let text = format!("{store:?}");
    assert!(text.contains("a.key") && !text.contains("PRIVATE"), "{text}");
}

#[test]
fn a_reload_serves_the_new_files() {
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let (old, new) = (authority.issue(&["h"]), authority.issue(&["h"]));
    let store = load(&[&folder.pair("a", &old)]);
    folder.pair("a", &new);
    assert!(is_shown(&store, "h", &old));
    assert_eq!(store.reload(at(1)).unwrap(), []);
    assert!(is_shown(&store, "h", &new));
    assert!(!store.has_changed());
    assert!(matches!(store.poll_files(at(2)), Change::None));
}

#[test]
fn a_reload_with_a_fault_leaves_all_pairs_as_they_were() {
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let (a, b, new) = (authority.issue(&["a"]), authority.issue(&["b"]), authority.issue(&["a"]));
    let b_files = folder.pair("b", &b);
    let store = load(&[&folder.pair("a", &a), &b_files]);
    folder.pair("a", &new);
    fs::remove_file(&b_files.key).unwrap();
    let fault: Fault = store.reload(at(1)).expect_err("a key is missing");
    assert_eq!(fault.path, b_files.key);
    assert!(is_shown(&store, "a", &a) && is_shown(&store, "b", &b), "neither was replaced");
    // Whoever asked has been told; whoever looks is not told again.
    assert!(matches!(store.poll_files(at(2)), Change::Waiting));
    assert!(matches!(store.poll_files(at(2 + SETTLE_MS)), Change::Waiting));
    folder.pair("b", &b);
    assert!(matches!(store.poll_files(at(3 + SETTLE_MS)), Change::Replaced(_)));
    assert!(is_shown(&store, "a", &new) && is_shown(&store, "b", &b));
}

#[test]
fn what_is_not_changed_is_no_news() {
    let folder = Folder::new();
    let issued = authority_with_intermediate().issue(&["h"]);
    let files = folder.pair("a", &issued);
    let store = load(&[&files]);
    assert!(!store.has_changed());
    assert!(matches!(store.poll_files(at(1)), Change::None));
    // The same text in another file.
    fs::rename(&files.chain, folder.path("old.pem")).unwrap();
    folder.pair("a", &issued);
    assert!(store.has_changed());
    assert!(matches!(store.poll_files(at(2)), Change::None));
    assert!(!store.has_changed());
}

#[test]
fn links_that_are_swapped_are_followed() {
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let (old, new) = (authority.issue(&["h"]), authority.issue(&["h"]));
    // As a volume of secrets has it: each file is a link into a folder, which is a link to the newest.
    let version = |name: &str, issued: &Issued| {
        let path = folder.path(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("tls.crt"), &issued.chain).unwrap();
        fs::write(path.join("tls.key"), issued.key.serialize_pem()).unwrap();
        path
    };
    let data = folder.path("data");
    relink(&version("v1", &old), &data);
    let files = Files { chain: folder.path("tls.crt"), key: folder.path("tls.key") };
    relink(&data.join("tls.crt"), &files.chain);
    relink(&data.join("tls.key"), &files.key);
    let store = load(&[&files]);
    assert!(is_shown(&store, "h", &old) && !store.has_changed());
    relink(&version("v2", &new), &data);
    assert!(store.has_changed());
    let Change::Replaced(warnings) = store.poll_files(at(1)) else { panic!("the new pair is whole") };
    assert!(matches!(warnings[..], [ref warning] if matches!(warning.cause, WarningCause::KeyReadable { .. })), "{warnings:?}");
    assert!(is_shown(&store, "h", &new));
}

#[test]
fn a_chain_that_is_written_before_its_key_is_waited_for() {
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let (old, new) = (authority.issue(&["h"]), authority.issue(&["h"]));
    let files = folder.pair("a", &old);
    let store = load(&[&files]);
    // First half a file, then a whole one that the key does not fit, then the key.
    folder.write("a.pem", &new.chain[..new.chain.len() / 3]);
    assert!(matches!(store.poll_files(at(0)), Change::Waiting));
    folder.write("a.pem", &new.chain);
    assert!(matches!(store.poll_files(at(SETTLE_MS)), Change::Waiting), "the files have moved on");
    assert!(matches!(store.poll_files(at(2 * SETTLE_MS - 1)), Change::Waiting));
    assert!(is_shown(&store, "h", &old));
    folder.pair("a", &new);
    assert!(matches!(store.poll_files(at(2 * SETTLE_MS)), Change::Replaced(_)));
    assert!(is_shown(&store, "h", &new));
}

#[test]
fn a_pair_that_stays_faulty_is_told_once() {
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let (old, new) = (authority.issue(&["h"]), authority.issue(&["h"]));
    let files = folder.pair("a", &old);
    let store = load(&[&files]);
    folder.write("a.key", new.key.serialize_pem());
    assert!(matches!(store.poll_files(at(0)), Change::Waiting));
    let Change::Refused(fault) = store.poll_files(at(SETTLE_MS)) else { panic!("it was time to tell") };
    assert!(matches!(fault.cause, FaultCause::KeyMismatch { .. }), "{fault}");
    assert!(matches!(store.poll_files(at(9 * SETTLE_MS)), Change::Waiting), "it was told");
    // Another fault is another one to tell.
    fs::remove_file(&files.key).unwrap();
    assert!(matches!(store.poll_files(at(10 * SETTLE_MS)), Change::Waiting));
    assert!(matches!(store.poll_files(at(11 * SETTLE_MS)), Change::Refused(Fault { cause: FaultCause::Unreadable(_), .. })));
    assert!(is_shown(&store, "h", &old), "all this time");
}

#[test]
fn a_certificate_that_becomes_valid_is_served_then() {
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let old = authority.issue(&["h"]);
    let store = load(&[&folder.pair("a", &old)]);
    let new = authority.issue_with(&["h"], KeyPair::generate().unwrap(), valid(NOW_S + 60, NOW_S + 90 * DAY_S));
    folder.pair("a", &new);
    assert!(matches!(store.poll_files(at(0)), Change::Waiting));
    assert!(matches!(store.poll_files(at(30_000)), Change::Refused(Fault { cause: FaultCause::NotYetValid(_), .. })));
    assert!(matches!(store.poll_files(at(60_000)), Change::Replaced(_)));
    assert!(is_shown(&store, "h", &new));
}

#[test]
fn handshakes_see_the_old_pairs_or_the_new_ones_while_they_are_replaced() {
    const SWAPS: u64 = 50;
    let folder = Folder::new();
    let authority = authority_with_intermediate();
    let versions = [authority.issue(&["h"]), authority.issue(&["h"])];
    let paths: Vec<PathBuf> = versions
        .iter()
        .enumerate()
        .map(|(index, issued)| {
            let path = folder.path(&format!("v{index}"));
            fs::create_dir(&path).unwrap();
            fs::write(path.join("chain"), &issued.chain).unwrap();
            fs::write(path.join("key"), issued.key.serialize_pem()).unwrap();
            path
        })
        .collect();
    let link = folder.path("now");
    relink(&paths[0], &link);
    let store = load(&[&Files { chain: link.join("chain"), key: link.join("key") }]);
    let is_over = AtomicBool::new(false);
    let first = hello("h", (*provider()).clone());
    std::thread::scope(|scope| {
        let reader = || {
            let mut seen = [0u64; 2];
            // At least once after the last swap.
            loop {
                let was_over = is_over.load(Ordering::Acquire);
                let certificate = shown(&store, &first);
                let version = versions.iter().position(|issued| issued.certificate.der().as_ref() == certificate);
                seen[version.expect("it is one of the two")] += 1;
                if was_over {
                    assert_eq!(version, Some((SWAPS % 2) as usize), "the last one stays");
                    return seen;
                }
            }
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for swap in 1..=SWAPS {
            relink(&paths[(swap % 2) as usize], &link);
            assert!(matches!(store.poll_files(at(swap)), Change::Replaced(_)), "swap {swap}");
        }
        is_over.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.join().expect("no reader saw anything else").iter().sum::<u64>() > 0);
        }
    });
}
