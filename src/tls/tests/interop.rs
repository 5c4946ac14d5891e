//! Verify that ours and rustls' client understand each other, however their bytes are cut.

use super::*;

const CUTS: [Cut; 5] = [Cut::Whole, Cut::Bytes(1), Cut::Bytes(5), Cut::Bytes(600), Cut::Seed(7)];

#[test]
fn every_suite_and_group_carries_data_both_ways() {
    let config = config();
    for suite in SUITES {
        for (group, cut) in GROUPS.into_iter().zip(CUTS.into_iter().cycle().skip(usize::from(u16::from(suite)) % 5)) {
            let (mut client, mut server) = (Client::new(&tls13(suite, group)), Server::new(&config));
            client.write(b"GET / HTTP/1.1\r\n\r\n");
            exchange(&mut client, &mut server, cut);
            let established = server.established.as_ref().expect("it is done");
            assert_eq!(established.version, rustls::ProtocolVersion::TLSv1_3);
            assert_eq!((established.suite, established.group), (suite, Some(group)));
            assert_eq!(established.server_name.as_deref(), Some("localhost"));
            assert!(!established.resumed && established.client.is_none() && !established.records.is_with_rustls());
            assert_eq!(client.connection.alpn_protocol(), Some(&b"http/1.1"[..]));
            assert_eq!(server.plaintext, b"GET / HTTP/1.1\r\n\r\n", "it came with Finished");
            server.seal(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
            exchange(&mut client, &mut server, cut);
            assert_eq!(client.plaintext, b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        }
    }
}

#[test]
fn bytes_of_any_amount_arrive_in_order() {
    for (at, suite) in SUITES.into_iter().enumerate() {
        let (mut client, mut server) = open(&tls13(suite, NamedGroup::X25519), &config());
        let mut random = Random::new(at as u64);
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for count in [1, 64, 16_384, 16_385, 3 * 16_384, 100_000] {
            let bytes = random.bytes(count);
            client.write(&bytes);
            up.extend_from_slice(&bytes);
            let bytes = random.bytes(count);
            server.seal(&bytes);
            down.extend_from_slice(&bytes);
            exchange(&mut client, &mut server, Cut::Seed(random.next()));
        }
        assert!(server.plaintext == up && client.plaintext == down);
        assert_eq!((server.end, client.error), (None, None));
    }
}

#[test]
fn parts_are_sealed_as_one_record() {
    let (mut client, mut server) = open(&tls13(SUITES[0], GROUPS[0]), &config());
    let mut out = Vec::new();
    let Server { established, keys, .. } = &mut server;
    let records = &mut established.as_mut().expect("it is done").records;
    records.seal(keys, &[b"one", b"", b" two", b" three", b""], &mut out).expect("it is open");
    assert_eq!(out.len(), 5 + 13 + 1 + 16);
    client.receive(&out);
    assert_eq!(client.plaintext, b"one two three");
    let long = vec![b'x'; 10_000];
    out.clear();
    records.seal(keys, &[&long, &long, b"end"], &mut out).expect("it is open");
    assert_eq!(out.len(), 20_003 + 2 * 22);
    client.receive(&out);
    assert_eq!(client.plaintext.len(), 13 + 20_003);
    assert!(client.plaintext.ends_with(b"xend"));
    out.clear();
    records.seal(keys, &[b"", b""], &mut out).expect("it is open");
    assert!(out.is_empty(), "no bytes make no record");
}

/// rustls' client asks for an update with each of its own.
#[test]
fn the_client_updates_its_keys_and_asks_for_ours() {
    for records in [RecordMode::Compact, RecordMode::Rustls] {
        for suite in SUITES {
            let (mut client, mut server) = open(&tls13(suite, NamedGroup::X25519), &config_with(records));
            for round in 0..5u8 {
                client.connection.refresh_traffic_keys().expect("it is TLS 1.3");
                client.write(&[b'a' + round]);
                let up = client.output();
                server.receive(&up, Cut::Bytes(3));
                if records == RecordMode::Compact {
                    assert!(server.records().has_reply());
                }
                if round % 2 == 0 {
                    server.reply();
                }
                server.seal(&[b'A' + round]);
                exchange(&mut client, &mut server, Cut::Whole);
            }
            assert_eq!((&server.plaintext[..], &client.plaintext[..]), (&b"abcde"[..], &b"ABCDE"[..]));
            assert_eq!((server.end, client.error), (None, None));
        }
    }
}

/// Several requests before we send anything are answered once (RFC 8446 §4.6.3).
#[test]
fn requests_that_pile_up_have_one_answer() {
    let (mut client, mut server) = open(&tls13(SUITES[1], GROUPS[0]), &config());
    for _ in 0..4 {
        client.connection.refresh_traffic_keys().expect("it is TLS 1.3");
        let up = client.output();
        server.receive(&up, Cut::Whole);
    }
    server.reply();
    assert_eq!(server.out.len(), RECORD_HEADER_BYTES + 5 + 1 + 16);
    server.seal(b"done");
    exchange(&mut client, &mut server, Cut::Whole);
    assert_eq!((client.plaintext, client.error), (b"done".to_vec(), None));
}

#[test]
fn our_keys_are_updated_before_their_limit() {
    for suite in SUITES {
        let mut config = config();
        config.records_per_key = Some(4);
        let (mut client, mut server) = open(&tls13(suite, NamedGroup::X25519), &config);
        let (mut sent, mut updates) = (Vec::new(), 0);
        for round in 0..40u8 {
            server.seal(&[round]);
            sent.push(round);
            updates += usize::from(server.out.len() > RECORD_HEADER_BYTES + 1 + 1 + 16);
            exchange(&mut client, &mut server, Cut::Whole);
        }
        // The ticket was the first record of the first key; each key ends with the record that says so.
        assert_eq!(updates, 13);
        assert_eq!((&client.plaintext, &client.error), (&sent, &None));
        client.write(b"still here");
        exchange(&mut client, &mut server, Cut::Whole);
        assert_eq!(server.plaintext, b"still here");
    }
}

#[test]
fn the_limits_of_the_suites_are_kept_by_default() {
    use super::super::keys::RECORDS_PER_AES_KEY_MAX;
    assert_eq!(RECORDS_PER_AES_KEY_MAX, 1 << 24);
    for suite in SUITES.map(|suite| provider().cipher_suites.into_iter().find(|offered| offered.suite() == suite)) {
        let limit = suite.and_then(|suite| suite.tls13().map(|suite| suite.common.confidentiality_limit)).expect("it is offered");
        assert!(limit >= u64::from(RECORDS_PER_AES_KEY_MAX));
    }
}

#[test]
fn both_ends_close() {
    for records in [RecordMode::Compact, RecordMode::Rustls] {
        let (mut client, mut server) = open(&tls13(SUITES[0], GROUPS[0]), &config_with(records));
        client.write(b"bye");
        client.connection.send_close_notify();
        let up = client.output();
        server.receive(&up, Cut::Bytes(2));
        assert_eq!((&server.plaintext[..], server.end), (&b"bye"[..], Some(End::Closed)));
        // Ours is still open.
        server.seal(b"bye yourself");
        server.close();
        let length = server.out.len();
        server.close();
        assert_eq!(server.out.len(), length, "closed twice");
        let Server { established, keys, out, .. } = &mut server;
        let records = &mut established.as_mut().expect("it is done").records;
        assert_eq!(records.seal(keys, &[b"more"], out), Err(Failure::Ended));
        assert!(!records.has_reply());
        assert_eq!(out.len(), length);
        exchange(&mut client, &mut server, Cut::Bytes(1));
        assert_eq!((&client.plaintext[..], client.is_closed, client.error), (&b"bye yourself"[..], true, None));
    }
}

#[test]
fn what_follows_a_close_is_ignored() {
    for records in [RecordMode::Compact, RecordMode::Rustls] {
        let (mut client, mut server) = open(&tls13(SUITES[0], GROUPS[0]), &config_with(records));
        client.connection.send_close_notify();
        let mut up = client.output();
        up.extend_from_slice(b"GET / and so on");
        server.receive(&up, Cut::Whole);
        assert_eq!(server.end, Some(End::Closed));
        let Server { established, keys, .. } = &mut server;
        let records = &mut established.as_mut().expect("it is done").records;
        let opened = records.open(keys, &mut [1, 2, 3]);
        assert_eq!(opened, Ok(Opened { consumed: 3, event: Event::Closed }));
    }
}

#[test]
fn a_connection_moves_to_another_thread() {
    let (mut client, mut server) = open(&tls13(SUITES[1], GROUPS[1]), &config());
    server.seal(b"here");
    let Server { mut established, mut keys, mut out, .. } = server;
    established.as_mut().expect("it is done").records.forget(&mut keys);
    assert!(keys.is_empty());
    let out = std::thread::spawn(move || {
        let mut keys = KeyCache::new(1);
        let records = &mut established.as_mut().expect("it is done").records;
        records.seal(&mut keys, &[b" and there"], &mut out).expect("it is open");
        out
    });
    client.receive(&out.join().expect("it does not panic"));
    assert_eq!(client.plaintext, b"here and there");
}
