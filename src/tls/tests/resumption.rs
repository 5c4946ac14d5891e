//! Verify that a client comes back with its ticket, once and to any thread, and that its new keys are new.

use super::*;
use rustls::HandshakeKind;
use rustls::client::Resumption;

fn resuming(suite: CipherSuite) -> ClientConfig {
    let mut client_config = tls13(suite, NamedGroup::X25519);
    client_config.resumption = Resumption::in_memory_sessions(8);
    client_config
}

#[test]
fn a_ticket_resumes() {
    let config = config();
    for suite in SUITES {
        let client_config = resuming(suite);
        let (first, _) = open(&client_config, &config);
        assert_eq!(first.connection.handshake_kind(), Some(HandshakeKind::Full));
        for cut in [Cut::Whole, Cut::Bytes(1), Cut::Seed(3)] {
            let (mut client, mut server) = (Client::new(&client_config), Server::new(&config));
            client.write(b"again");
            exchange(&mut client, &mut server, cut);
            server.seal(b"welcome");
            exchange(&mut client, &mut server, cut);
            let established = server.established.as_ref().expect("it is done");
            assert!(established.resumed && established.suite == suite);
            assert_eq!(established.server_name.as_deref(), Some("localhost"));
            assert_eq!(client.connection.handshake_kind(), Some(HandshakeKind::Resumed));
            assert_eq!((&server.plaintext[..], &client.plaintext[..]), (&b"again"[..], &b"welcome"[..]));
        }
    }
}

/// The certificate is asked for even then, so that one that was taken away is not resumed.
#[test]
fn a_ticket_does_not_outlive_the_name() {
    let client_config = resuming(SUITES[0]);
    let config = Config::new(by_name()).expect("it is sound");
    open(&client_config, &config);
    let mut other = config.clone();
    let mut rustls = (*config.rustls).clone();
    rustls.cert_resolver = Arc::new(capture::Resolver(Arc::new(ResolvesServerCertUsingSni::new())));
    other.rustls = Arc::new(rustls);
    let (mut client, mut server) = (Client::new(&client_config), Server::new(&other));
    exchange(&mut client, &mut server, Cut::Whole);
    assert_eq!(server.end, Some(End::Failed(Failure::NoCertificate)));
}

#[test]
fn a_ticket_of_somebody_else_is_a_full_handshake() {
    let client_config = resuming(SUITES[0]);
    open(&client_config, &config());
    let (client, server) = open(&client_config, &config());
    assert!(!server.established.expect("it is done").resumed);
    assert_eq!(client.connection.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn one_ticket_is_given() {
    let (mut client, mut server) = (Client::new(&resuming(SUITES[0])), Server::new(&config()));
    let hello = client.output();
    server.receive(&hello, Cut::Whole);
    client.receive(&std::mem::take(&mut server.out));
    let finished = client.output();
    server.receive(&finished, Cut::Whole);
    let mut records = 0;
    let mut rest = &server.out[..];
    while let Some(header) = rest.first_chunk::<5>() {
        rest = &rest[5 + usize::from(u16::from_be_bytes([header[3], header[4]]))..];
        records += 1;
    }
    assert_eq!(records, 1);
    assert_eq!(client.connection.tls13_tickets_received(), 0);
    client.receive(&server.out);
    assert_eq!(client.connection.tls13_tickets_received(), 1);
}
