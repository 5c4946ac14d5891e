//! Verify that a handshake fails for what it should, says so to the client, and holds no more than its bounds.

use super::*;
use rustls::AlertDescription;
use rustls::server::WebPkiClientVerifier;

/// Runs a client against a configuration; gives how both have ended.
fn run(client_config: &ClientConfig, name: &'static str, config: &Config, cut: Cut) -> (Option<rustls::Error>, Option<End>) {
    let (mut client, mut server) = (Client::named(client_config, name), Server::new(config));
    exchange(&mut client, &mut server, cut);
    (client.error, server.end)
}

/// What a server makes of some first bytes, and what it answers.
fn first_bytes(bytes: &[u8], cut: Cut) -> (Option<Failure>, Vec<u8>) {
    let mut server = Server::new(&config());
    server.receive(bytes, cut);
    let failure = server.end.map(|end| match end {
        End::Failed(failure) => failure,
        End::Closed => panic!("nothing was open"),
    });
    (failure, server.out)
}

fn plain_alert(description: AlertDescription) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, u8::from(description)]
}

/// A `ClientHello` of rustls.
fn hello(client_config: &ClientConfig) -> Vec<u8> {
    Client::new(client_config).output()
}

/// The same handshake message in records of so many bytes.
fn fragmented(hello: &[u8], bytes: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for fragment in hello[RECORD_HEADER_BYTES..].chunks(bytes) {
        records.extend_from_slice(&[22, 3, 1]);
        records.extend_from_slice(&(fragment.len() as u16).to_be_bytes());
        records.extend_from_slice(fragment);
    }
    records
}

#[test]
fn plain_http_is_recognised_and_not_answered() {
    for request in
        [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"POST /api HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n", b"PRI * HTTP/2.0"]
    {
        for cut in [Cut::Whole, Cut::Bytes(1), Cut::Bytes(3)] {
            assert_eq!(first_bytes(request, cut), (Some(Failure::PlainHttp), Vec::new()));
        }
    }
    assert_eq!(first_bytes(b"GE", Cut::Whole), (None, Vec::new()), "it may still become a request");
    let result = Failure::PlainHttp.handshake_result();
    assert_eq!(result.label(), "plain_http");
}

#[test]
fn garbage_is_refused_with_an_alert() {
    let unexpected = plain_alert(AlertDescription::UnexpectedMessage);
    for garbage in [&b"SSH-2.0-x\r\n"[..], b"GEX", b"\0\0\0\0\0\0", &[23, 3, 3, 0, 1, 0], &[22, 2, 0, 0, 1], &[0x80, 0x2e, 1, 3, 1]]
    {
        for cut in [Cut::Whole, Cut::Bytes(1)] {
            assert_eq!(first_bytes(garbage, cut), (Some(Failure::UnexpectedRecord), unexpected.clone()), "{garbage:?}");
        }
    }
    let overflow = first_bytes(&[22, 3, 1, 0xff, 0xff], Cut::Whole);
    assert_eq!(overflow, (Some(Failure::RecordOverflow), plain_alert(AlertDescription::RecordOverflow)));
}

/// Nothing that is random may panic, or be answered with anything but alerts.
#[test]
fn random_bytes_behind_a_record_header_only_fail() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let count = 1 + random.below(400);
        let mut bytes = vec![22, 3, 1, (count >> 8) as u8, count as u8];
        bytes.extend(random.bytes(count));
        if random.below(2) == 0 {
            // The header of a ClientHello, so that its insides are read.
            let inside = (count.saturating_sub(4) as u32).to_be_bytes();
            bytes.splice(5..(9).min(bytes.len()), [1, inside[1], inside[2], inside[3]]);
        }
        let (failure, out) = first_bytes(&bytes, Cut::Seed(seed));
        assert!(failure.is_none() || out.is_empty() || out[0] == 21, "seed {seed}");
    }
}

#[test]
fn a_corrupt_hello_only_fails() {
    let hello = hello(&tls13(SUITES[0], GROUPS[1]));
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut bytes = hello.clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        first_bytes(&bytes, Cut::Seed(seed));
    }
}

#[test]
fn a_hello_in_many_records_is_one_hello() {
    let config = config();
    for (bytes, cut) in [(1, Cut::Whole), (7, Cut::Bytes(1)), (100, Cut::Seed(1)), (500, Cut::Bytes(499))] {
        let (mut client, mut server) = (Client::new(&tls13(SUITES[0], NamedGroup::X25519)), Server::new(&config));
        let hello = fragmented(&client.output(), bytes);
        server.receive(&hello, cut);
        assert_eq!(server.end, None);
        client.receive(&std::mem::take(&mut server.out));
        exchange(&mut client, &mut server, cut);
        assert!(server.established.is_some(), "{bytes} bytes a record");
    }
}

/// A group that the client has not guessed costs a round trip.
#[test]
fn a_retry_is_asked_for_once() {
    let mut provider = provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::SECP384R1, rustls::crypto::aws_lc_rs::kx_group::X25519];
    for cut in [Cut::Whole, Cut::Bytes(1)] {
        let (mut client, mut server) =
            (Client::new(&client_config(provider.clone(), &[&rustls::version::TLS13])), Server::new(&config()));
        client.write(b"hello");
        exchange(&mut client, &mut server, cut);
        assert_eq!(server.established.as_ref().and_then(|established| established.group), Some(NamedGroup::X25519));
        assert_eq!(client.connection.handshake_kind(), Some(rustls::HandshakeKind::FullWithHelloRetryRequest));
        assert_eq!(server.plaintext, b"hello");
    }
}

#[test]
fn the_bytes_of_a_hello_are_bounded() {
    // A message that claims 64 KB, in full records.
    let mut bytes = vec![22, 3, 1, 0x40, 0];
    bytes.extend_from_slice(&[1, 0, 0xff, 0xff]);
    bytes.resize(5 + 0x4000, 0);
    for cut in [Cut::Whole, Cut::Bytes(1_000)] {
        let (failure, out) = first_bytes(&bytes, cut);
        assert_eq!((failure, out), (Some(Failure::HandshakeTooLarge), plain_alert(AlertDescription::HandshakeFailure)));
    }
    // The same in pieces of one byte, which cost six times as much.
    let message: Vec<u8> = [0; 5].into_iter().chain([1, 0, 0xff, 0xff]).chain([0; 4_000]).collect();
    assert_eq!(first_bytes(&fragmented(&message, 1), Cut::Whole).0, Some(Failure::HandshakeTooLarge));
    // What is only claimed holds nothing.
    let mut handshake = Handshake::new(&config());
    let mut out = Vec::new();
    assert!(matches!(handshake.receive(&[22, 3, 1, 0x3f, 0, 1], &mut out), Ok(Progress::Continue)));
    assert!(handshake.bytes_held() <= 64, "{}", handshake.bytes_held());
}

#[test]
fn tls12_is_refused_unless_it_is_allowed() {
    let client_config = client_config(provider(), &[&rustls::version::TLS12]);
    let (error, end) = run(&client_config, "localhost", &config(), Cut::Bytes(1));
    assert_eq!(error, Some(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)));
    assert_eq!(end, Some(End::Failed(Failure::UnsupportedVersion)));
    assert_eq!(Failure::UnsupportedVersion.handshake_result().label(), "unsupported_version");

    let allowed = Config::new(Settings { tls12: true, ..settings() }).expect("it is sound");
    for cut in [Cut::Whole, Cut::Bytes(1), Cut::Seed(5)] {
        let (mut client, mut server) = (Client::new(&client_config), Server::new(&allowed));
        client.write(b"old");
        exchange(&mut client, &mut server, cut);
        let established = server.established.as_ref().expect("it is done");
        assert_eq!(established.version, rustls::ProtocolVersion::TLSv1_2);
        assert!(established.records.is_with_rustls());
        server.seal(&[b'o'; 40_000]);
        exchange(&mut client, &mut server, cut);
        assert_eq!((&server.plaintext[..], client.plaintext.len()), (&b"old"[..], 40_000));
        client.connection.send_close_notify();
        exchange(&mut client, &mut server, cut);
        assert_eq!(server.end, Some(End::Closed));
    }
    // Who can more gets more.
    let (_, server) = open(&tls13(SUITES[0], GROUPS[0]), &allowed);
    assert!(!server.established.expect("it is done").records.is_with_rustls());
}

#[test]
fn a_client_without_our_protocol_is_refused() {
    let mut client_config = tls13(SUITES[0], GROUPS[0]);
    client_config.alpn_protocols = vec![b"h2".to_vec()];
    let (error, end) = run(&client_config, "localhost", &config(), Cut::Whole);
    assert_eq!(error, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
    assert_eq!(end, Some(End::Failed(Failure::NoApplicationProtocol)));
    client_config.alpn_protocols.clear();
    assert_eq!(run(&client_config, "localhost", &config(), Cut::Whole), (None, None));
}

#[test]
fn a_client_without_our_groups_is_refused() {
    let mut provider = provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::SECP384R1];
    let (error, end) = run(&client_config(provider, &[&rustls::version::TLS13]), "localhost", &config(), Cut::Whole);
    assert_eq!(error, Some(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)));
    assert_eq!(end, Some(End::Failed(Failure::NothingInCommon)));
}

#[test]
fn a_name_without_a_certificate_is_refused() {
    let config = Config::new(by_name()).expect("it is sound");
    let client_config = tls13(SUITES[0], GROUPS[0]);
    assert_eq!(run(&client_config, "localhost", &config, Cut::Whole), (None, None));
    let (error, end) = run(&client_config, "elsewhere.example", &config, Cut::Bytes(1));
    assert!(matches!(error, Some(rustls::Error::AlertReceived(_))));
    assert_eq!(end, Some(End::Failed(Failure::NoCertificate)));
    assert_eq!(Failure::NoCertificate.handshake_result().label(), "no_certificate");
}

#[test]
fn a_client_that_does_not_trust_us_says_so() {
    let (error, end) = run(&tls13(SUITES[0], GROUPS[0]), "elsewhere.example", &config(), Cut::Whole);
    assert!(matches!(error, Some(rustls::Error::InvalidCertificate(_))));
    assert_eq!(end, Some(End::Failed(Failure::PeerAlert)));
}

/// A client that shows that certificate, or none.
fn with_identity(identity: Option<&Identity>) -> ClientConfig {
    identity.map_or_else(|| tls13(SUITES[0], GROUPS[0]), |identity| with_chain(identity, 0))
}

/// A client that shows its certificate, and so many others behind it that nobody needs.
fn with_chain(identity: &Identity, others: usize) -> ClientConfig {
    let mut client_config = tls13(SUITES[0], GROUPS[0]);
    let mut chain = vec![identity.certificate.clone()];
    chain.resize(1 + others, localhost().certificate.clone());
    let resolver =
        SingleCertAndKey::from(CertifiedKey::from_der(chain, identity.key(), &provider()).expect("they belong together"));
    client_config.client_auth_cert_resolver = Arc::new(resolver);
    client_config
}

fn person(names: &[&str]) -> Identity {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("no name is a name");
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
    for name in names {
        parameters.distinguished_name.push(rcgen::DnType::CommonName, *name);
    }
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    Identity::new(parameters)
}

#[test]
fn a_clients_certificate_says_who_it_is() {
    let (alice, nobody, stranger) = (person(&["alice Müller"]), person(&[]), person(&["mallory"]));
    let config = trusting(&[&alice, &nobody]);
    for (who, name) in [(&alice, Some("alice Müller")), (&nobody, None)] {
        let (_, server) = open(&with_identity(Some(who)), &config);
        let client = server.established.expect("it is done").client.expect("it has shown a certificate");
        assert_eq!(client.common_name.as_deref(), name);
    }
    // Resumed, it is still the same one.
    let mut resuming = with_identity(Some(&alice));
    resuming.resumption = rustls::client::Resumption::in_memory_sessions(4);
    open(&resuming, &config);
    let established = open(&resuming, &config).1.established.expect("it is done");
    assert!(established.resumed);
    assert_eq!(established.client.and_then(|client| client.common_name).as_deref(), Some("alice Müller"));
    for who in [Some(&stranger), None] {
        let (error, end) = run(&with_identity(who), "localhost", &config, Cut::Bytes(1));
        assert!(matches!(error, Some(rustls::Error::AlertReceived(_))), "{error:?}");
        assert_eq!(end, Some(End::Failed(Failure::ClientCertificate)));
    }
}

/// A configuration that trusts these clients.
fn trusting(clients: &[&Identity]) -> Config {
    let mut roots = RootCertStore::empty();
    for trusted in clients {
        roots.add(trusted.certificate.clone()).expect("it is a certificate");
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider())).build().expect("it has roots");
    Config::new(Settings { client_verifier: Some(verifier), ..settings() }).expect("it is sound")
}

/// A chain may be longer than a hello, but not without bound; there, nothing is sent in plain any more.
#[test]
fn the_bytes_of_a_clients_chain_are_bounded() {
    let alice = person(&["alice"]);
    let config = trusting(&[&alice]);
    let bytes = localhost().certificate.len();
    let (_, server) = open(&with_chain(&alice, 2 * CLIENT_HELLO_BYTES_MAX / bytes), &config);
    assert!(server.established.is_some_and(|established| established.client.is_some()));
    let (mut client, mut server) = (Client::new(&with_chain(&alice, HANDSHAKE_BYTES_MAX / bytes)), Server::new(&config));
    let hello = client.output();
    server.receive(&hello, Cut::Whole);
    client.receive(&std::mem::take(&mut server.out));
    let flight = client.output();
    assert!(flight.len() > HANDSHAKE_BYTES_MAX);
    server.receive(&flight, Cut::Bytes(1_000));
    assert_eq!((server.end, server.out.len()), (Some(End::Failed(Failure::HandshakeTooLarge)), 0));
}

/// A name that was cut anywhere, or is no DER, is no name and no panic.
#[test]
fn a_subject_that_cannot_be_read_is_no_name() {
    let certificate = person(&["alice"]).certificate;
    assert_eq!(subject::common_name(&certificate).as_deref(), Some("alice"));
    for end in 0..certificate.len() {
        assert_eq!(subject::common_name(&certificate[..end]), None);
    }
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let mut corrupt = certificate.to_vec();
        let at = random.below(corrupt.len());
        corrupt[at] = random.next() as u8;
        subject::common_name(&corrupt);
    }
}

#[test]
fn a_handshake_that_has_failed_or_is_done_takes_nothing() {
    let mut handshake = Handshake::new(&config());
    let mut out = Vec::new();
    assert!(matches!(handshake.receive(b"\xff\xff", &mut out), Err(Failure::UnexpectedRecord)));
    let length = out.len();
    let hello = hello(&tls13(SUITES[0], GROUPS[0]));
    assert!(matches!(handshake.receive(&hello, &mut out), Err(Failure::Ended)));
    assert_eq!((out.len(), handshake.bytes_held()), (length, 0));
}

/// What rustls says is kept for the log.
#[test]
fn the_cause_of_a_failure_is_told() {
    let mut server = Server::new(&config());
    server.receive(&hello(&client_config(provider(), &[&rustls::version::TLS12])), Cut::Whole);
    assert!(matches!(server.handshake().cause(), Some(rustls::Error::PeerIncompatible(_))));
}

#[test]
fn a_client_that_gives_up_between_is_heard() {
    let (mut client, mut server) = (Client::new(&tls13(SUITES[0], GROUPS[0])), Server::new(&config()));
    let hello = client.output();
    server.receive(&hello, Cut::Whole);
    server.receive(&plain_alert(AlertDescription::UserCanceled), Cut::Bytes(1));
    assert!(matches!(server.end, None | Some(End::Failed(Failure::Undecodable | Failure::PeerAlert))));
    server.receive(&plain_alert(AlertDescription::InternalError), Cut::Bytes(1));
    assert_eq!(server.end, Some(End::Failed(Failure::PeerAlert)));
}

#[test]
fn a_corrupt_finished_is_a_bad_record() {
    let (mut client, mut server) = (Client::new(&tls13(SUITES[0], GROUPS[0])), Server::new(&config()));
    let hello = client.output();
    server.receive(&hello, Cut::Whole);
    client.receive(&std::mem::take(&mut server.out));
    let mut finished = client.output();
    *finished.last_mut().expect("it is not empty") ^= 1;
    server.receive(&finished, Cut::Whole);
    assert_eq!(server.end, Some(End::Failed(Failure::BadRecordMac)));
    client.receive(&server.out);
    assert_eq!(client.error, Some(rustls::Error::AlertReceived(AlertDescription::BadRecordMac)));
}

#[test]
fn every_result_has_a_label_of_its_own() {
    let mut labels: Vec<&str> = HandshakeResult::ALL.iter().map(|result| result.label()).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), HandshakeResult::ALL.len());
    for failure in Failure::ALL {
        assert!(!failure.to_string().is_empty());
        assert_ne!(failure.handshake_result(), HandshakeResult::Ok);
    }
}
