//! Verify that the record layer takes what RFC 8446 allows and nothing else, and that a failure is final.

use super::forger::{Answer, Forger};
use super::*;
use rustls::AlertDescription;

const DATA: u8 = 23;
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;

/// An open connection, after one byte of data so that it is not at its first record.
fn connection() -> (Forger, Server) {
    let (mut forger, mut server) = Forger::open(SUITES[0], &config());
    let record = forger.seal(DATA, b"a", 0);
    server.receive(&record, Cut::Whole);
    assert_eq!(server.plaintext, b"a");
    (forger, server)
}

/// Verifies that the bytes which `forge` makes end a connection by that failure, with its alert, and for good.
fn refuses(failure: Failure, what: &str, forge: impl Fn(&mut Forger) -> Vec<u8>) {
    for suite in SUITES {
        for cut in [Cut::Whole, Cut::Bytes(1), Cut::Seed(2)] {
            let (mut forger, mut server) = Forger::open(suite, &config());
            let mut bytes = forger.seal(DATA, b"before", 0);
            bytes.extend(forge(&mut forger));
            let after = forger.seal(DATA, b"after", 0);
            server.receive(&bytes, cut);
            assert_eq!(server.end, Some(End::Failed(failure)), "{what}, {cut:?}");
            assert_eq!(server.plaintext, b"before", "{what}");
            ended(&mut server, &after);
            let answers = forger.receive(&server.out);
            let alert = failure.alert().map(|alert| Answer { kind: ALERT, content: vec![2, u8::from(alert)] });
            assert_eq!(answers, Vec::from_iter(alert), "{what}");
        }
    }
}

/// Verifies that an ended connection opens and seals nothing, and puts its alert into `out` once.
fn ended(server: &mut Server, after: &[u8]) {
    let mut keys = KeyCache::new(1);
    let mut after = after.to_vec();
    let records = server.records();
    assert_eq!(records.open(&mut keys, &mut after), Err(Failure::Ended));
    assert_eq!(records.open(&mut keys, &mut []), Err(Failure::Ended));
    let mut out = Vec::new();
    assert_eq!(records.seal(&mut keys, &[b"x"], &mut out), Err(Failure::Ended));
    records.reply(&mut keys, &mut out);
    assert!(out.is_empty() && !records.has_reply());
    server.close();
    let length = server.out.len();
    server.close();
    assert_eq!(server.out.len(), length, "an alert is sent once");
}

#[test]
fn what_does_not_authenticate_ends_the_connection() {
    for at in [5, 6, 10] {
        refuses(Failure::BadRecordMac, "a bit of it", |forger| {
            let mut record = forger.seal(DATA, b"data", 0);
            record[at] ^= 0x10;
            record
        });
    }
    refuses(Failure::BadRecordMac, "the tag", |forger| {
        let mut record = forger.seal(DATA, b"data", 0);
        *record.last_mut().expect("it has a tag") ^= 1;
        record
    });
    refuses(Failure::BadRecordMac, "the version, which is authenticated", |forger| {
        let mut record = forger.seal(DATA, b"data", 0);
        record[2] = 1;
        record
    });
    refuses(Failure::BadRecordMac, "a record that is cut, with the length of what is left", |forger| {
        let mut record = forger.seal(DATA, b"some data", 0);
        record.truncate(record.len() - 3);
        record[4] -= 3;
        record
    });
    refuses(Failure::BadRecordMac, "less than a tag", |_| vec![23, 3, 3, 0, 15]);
    refuses(Failure::BadRecordMac, "a tag and no type", |_| vec![23, 3, 3, 0, 16]);
}

#[test]
fn a_record_counts_once_and_in_its_order() {
    refuses(Failure::BadRecordMac, "one that is missing", |forger| {
        forger.seal(DATA, b"lost", 0);
        forger.seal(DATA, b"next", 0)
    });
    refuses(Failure::BadRecordMac, "two in the wrong order", |forger| {
        let first = forger.seal(DATA, b"first", 0);
        let mut bytes = forger.seal(DATA, b"second", 0);
        bytes.extend(first);
        bytes
    });
    let (mut forger, mut server) = connection();
    let record = forger.seal(DATA, b"once", 0);
    server.receive(&record, Cut::Whole);
    server.receive(&record, Cut::Whole);
    assert_eq!((&server.plaintext[..], server.end), (&b"aonce"[..], Some(End::Failed(Failure::BadRecordMac))));
}

/// The old key is of no use after an update, nor the new one before.
#[test]
fn a_key_ends_with_its_update() {
    refuses(Failure::BadRecordMac, "the next key without an update", |forger| {
        forger.advance();
        forger.seal(DATA, b"early", 0)
    });
    refuses(Failure::BadRecordMac, "the old key after an update", |forger| {
        let mut bytes = forger.seal(HANDSHAKE, &[24, 0, 0, 1, 0], 0);
        bytes.extend(forger.seal(DATA, b"late", 0));
        bytes
    });
}

#[test]
fn only_protected_records_are_taken() {
    for outer in [0, 20, 21, 22, 24, 0xff] {
        refuses(Failure::UnexpectedRecord, "a sealed one of another type", |forger| forger.seal_inner(outer, b"x\x17".to_vec()));
    }
    refuses(Failure::UnexpectedRecord, "a plain alert", |_| vec![21, 3, 3, 0, 2, 1, 0]);
    refuses(Failure::UnexpectedRecord, "a plain change_cipher_spec", |_| vec![20, 3, 3, 0, 1, 1]);
    refuses(Failure::UnexpectedRecord, "its first byte", |_| vec![22]);
}

#[test]
fn lengths_are_bounded() {
    refuses(Failure::RecordOverflow, "a length above the limit", |_| vec![23, 3, 3, 0x41, 0x01]);
    refuses(Failure::RecordOverflow, "the longest length", |_| vec![23, 3, 3, 0xff, 0xff]);
    refuses(Failure::RecordOverflow, "more plaintext than a record may have", |forger| {
        forger.seal(DATA, &vec![b'x'; RECORD_PLAINTEXT_BYTES_MAX + 1], 0)
    });
    refuses(Failure::RecordOverflow, "the same by padding", |forger| forger.seal(DATA, b"x", RECORD_PLAINTEXT_BYTES_MAX));
    let (mut forger, mut server) = connection();
    let largest = forger.seal(DATA, &vec![b'x'; RECORD_PLAINTEXT_BYTES_MAX], 0);
    let padded = forger.seal(DATA, b"y", RECORD_PLAINTEXT_BYTES_MAX - 1);
    assert_eq!((largest.len(), padded.len()), (RECORD_BYTES_MAX - 239, RECORD_BYTES_MAX - 239));
    server.receive(&largest, Cut::Bytes(1_000));
    server.receive(&padded, Cut::Whole);
    assert_eq!((server.plaintext.len(), server.end), (1 + RECORD_PLAINTEXT_BYTES_MAX + 1, None));
}

/// A caller learns how much it has to wait for, and never of more than a record.
#[test]
fn what_is_missing_is_told() {
    let (mut forger, mut server) = connection();
    let record = forger.seal(DATA, b"hello", 0);
    let Server { established, keys, .. } = &mut server;
    let records = &mut established.as_mut().expect("it is done").records;
    for have in 0..record.len() {
        let missing = if have < 5 { 5 - have } else { record.len() - have };
        let opened = records.open(keys, &mut record[..have].to_vec());
        assert_eq!(opened, Ok(Opened { consumed: 0, event: Event::Missing(missing) }));
    }
    let mut two = record.clone();
    two.extend_from_slice(&forger.seal(DATA, b"", 9)[..7]);
    let opened = records.open(keys, &mut two);
    assert_eq!(opened, Ok(Opened { consumed: record.len(), event: Event::Data(5..10) }));
    assert_eq!(&two[5..10], b"hello");
    assert_eq!(two[record.len()..][0], 23, "what follows is as it was");
}

#[test]
fn padding_is_not_data() {
    let (mut forger, mut server) = connection();
    let mut bytes = forger.seal(DATA, b"b\0\0", 200);
    bytes.extend(forger.seal(DATA, b"", 3_000));
    bytes.extend(forger.seal(HANDSHAKE, &[24, 0, 0, 1, 0], 77));
    forger.advance();
    bytes.extend(forger.seal(DATA, b"c", 1));
    bytes.extend(forger.seal(ALERT, &[1, 0], 50));
    server.receive(&bytes, Cut::Seed(9));
    assert_eq!((&server.plaintext[..], server.end), (&b"ab\0\0c"[..], Some(End::Closed)));
    refuses(Failure::UnexpectedMessage, "padding and no type", |forger| forger.seal_inner(23, vec![0; 100]));
    refuses(Failure::UnexpectedMessage, "one zero", |forger| forger.seal_inner(23, vec![0]));
}

#[test]
fn types_without_a_place_are_refused() {
    for kind in [1, 20, 24, 0xff] {
        refuses(Failure::UnexpectedMessage, "an inner type", |forger| forger.seal(kind, b"x", 0));
    }
    refuses(Failure::UnexpectedMessage, "an empty handshake message", |forger| forger.seal(HANDSHAKE, b"", 0));
    for message in [1, 4, 8, 11, 13, 20, 254] {
        refuses(Failure::UnexpectedMessage, "a handshake message", |forger| forger.seal(HANDSHAKE, &[message, 0, 0, 1, 0], 0));
    }
}

#[test]
fn alerts_end_the_connection() {
    let heard = |content: &'static [u8]| move |forger: &mut Forger| forger.seal(ALERT, content, 0);
    refuses(Failure::PeerAlert, "a fatal one", heard(&[2, 40]));
    refuses(Failure::PeerAlert, "a warning is no less", heard(&[1, 40]));
    refuses(Failure::PeerAlert, "an unknown one", heard(&[2, 199]));
    refuses(Failure::Undecodable, "an empty one", heard(&[]));
    refuses(Failure::Undecodable, "half of one", heard(&[2]));
    refuses(Failure::Undecodable, "two in one record", heard(&[1, 0, 1, 0]));
    let (mut forger, mut server) = connection();
    let mut bytes = forger.seal(ALERT, &[1, u8::from(AlertDescription::UserCanceled)], 0);
    bytes.extend(forger.seal(DATA, b"b", 0));
    bytes.extend(forger.seal(ALERT, &[2, 0], 0));
    server.receive(&bytes, Cut::Bytes(4));
    assert_eq!((&server.plaintext[..], server.end), (&b"ab"[..], Some(End::Closed)));
}

#[test]
fn a_key_update_may_be_cut_but_not_mixed() {
    for cut in 1..5 {
        let (mut forger, mut server) = connection();
        let message = [24, 0, 0, 1, 1];
        let mut bytes = forger.seal(HANDSHAKE, &message[..cut], 0);
        bytes.extend(forger.seal(HANDSHAKE, &message[cut..], 3));
        forger.advance();
        bytes.extend(forger.seal(DATA, b"b", 0));
        server.receive(&bytes, Cut::Seed(cut as u64));
        assert_eq!((&server.plaintext[..], server.end), (&b"ab"[..], None));
        assert!(server.records().has_reply());
        refuses(Failure::UnexpectedMessage, "data between", |forger| {
            let mut bytes = forger.seal(HANDSHAKE, &message[..cut], 0);
            bytes.extend(forger.seal(DATA, b"between", 0));
            bytes
        });
        refuses(Failure::UnexpectedMessage, "an alert between", |forger| {
            let mut bytes = forger.seal(HANDSHAKE, &message[..cut], 0);
            bytes.extend(forger.seal(ALERT, &[1, 0], 0));
            bytes
        });
    }
    // One byte a record.
    let (mut forger, mut server) = connection();
    for byte in [24, 0, 0, 1, 0] {
        let record = forger.seal(HANDSHAKE, &[byte], 0);
        server.receive(&record, Cut::Whole);
    }
    forger.advance();
    let record = forger.seal(DATA, b"b", 0);
    server.receive(&record, Cut::Whole);
    assert_eq!((&server.plaintext[..], server.end), (&b"ab"[..], None));
}

#[test]
fn a_key_update_that_is_wrong_is_refused() {
    let says = |content: &'static [u8]| move |forger: &mut Forger| forger.seal(HANDSHAKE, content, 0);
    refuses(Failure::IllegalParameter, "an unknown request", says(&[24, 0, 0, 1, 2]));
    refuses(Failure::Undecodable, "no request", says(&[24, 0, 0, 0]));
    refuses(Failure::Undecodable, "a longer one", says(&[24, 0, 0, 2, 0, 0]));
    refuses(Failure::Undecodable, "a huge one", says(&[24, 1]));
    refuses(Failure::UnexpectedMessage, "two in a record", says(&[24, 0, 0, 1, 0, 24, 0, 0, 1, 0]));
    refuses(Failure::UnexpectedMessage, "the begin of another", says(&[24, 0, 0, 1, 1, 24]));
}

#[test]
fn a_flood_without_data_ends_the_connection() {
    type Forge = fn(&mut Forger) -> Vec<u8>;
    let floods: [(&str, Forge); 3] = [
        ("empty records", |forger| forger.seal(DATA, b"", 0)),
        ("key updates", |forger| forger.key_update(1)),
        ("cancellations", |forger| forger.seal(ALERT, &[1, 90], 0)),
    ];
    for (what, record) in floods {
        let (mut forger, mut server) = connection();
        for round in 0..3 {
            for _ in 0..RECORDS_WITHOUT_DATA_MAX {
                let bytes = record(&mut forger);
                server.receive(&bytes, Cut::Whole);
            }
            let data = forger.seal(DATA, b"b", 0);
            server.receive(&data, Cut::Whole);
            assert_eq!((server.plaintext.len(), server.end), (2 + round, None), "{what}");
        }
        let answers = forger.receive(&std::mem::take(&mut server.out));
        assert_eq!(answers, [], "nothing is sent that was not asked for");
        refuses(Failure::UnexpectedMessage, what, |forger| (0..=RECORDS_WITHOUT_DATA_MAX).flat_map(|_| record(forger)).collect());
    }
}

#[test]
fn a_cut_stream_is_no_close() {
    let (mut forger, mut server) = connection();
    let record = forger.seal(DATA, b"not all of it", 0);
    server.receive(&record[..record.len() - 1], Cut::Whole);
    assert_eq!((&server.plaintext[..], server.end), (&b"a"[..], None));
    server.receive(&record[record.len() - 1..], Cut::Whole);
    assert_eq!(server.plaintext, b"anot all of it");
}

/// No record is sealed under a nonce that was used, whatever is said between.
#[test]
fn sealing_the_same_twice_makes_two_records() {
    let (mut forger, mut server) = connection();
    let mut seen = std::collections::HashSet::new();
    let mut answers = Vec::new();
    for round in 0..50 {
        server.seal(b"the same");
        if round % 10 == 9 {
            let bytes = forger.key_update(1);
            server.receive(&bytes, Cut::Whole);
        }
        assert!(seen.insert(server.out.clone()), "the same bytes again");
        answers.extend(forger.receive(&std::mem::take(&mut server.out)));
    }
    let data = answers.iter().filter(|answer| answer.kind == DATA);
    assert!(data.clone().all(|answer| answer.content == b"the same"));
    assert_eq!((data.count(), answers.len()), (50, 50 + 4));
}

#[test]
fn records_stay_small() {
    assert!(size_of::<Records>() <= 192, "{}", size_of::<Records>());
    assert!(size_of::<Option<Records>>() <= 192, "{}", size_of::<Option<Records>>());
    fn is_send<T: Send>() {}
    is_send::<Records>();
    is_send::<Handshake>();
    is_send::<KeyCache>();
}
