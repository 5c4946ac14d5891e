//! Verify that the judge of the chaos run accepts what holds and finds what does not.

use crate::chaos::judge::{Begin, Fate, Figures, Heard, Record, Sent, judge};

fn message(number: usize, offset: u64) -> Heard {
    Heard::Message { from: 0, number, offset, session: "s".into() }
}

fn joined(epoch: &str, offset: u64, begin: Begin) -> Heard {
    Heard::Joined { epoch: epoch.into(), offset, begin }
}

/// What comes of one author with these fates, and one listener.
fn judged(fates: &[Fate], heard: Vec<Heard>) -> Result<Figures, String> {
    let sent = fates.iter().map(|fate| Sent { room: 7, echo: false, fate: *fate }).collect();
    let author = Record { sent, heard: [(7, vec![joined("a", 0, Begin::First)])].into() };
    judge(&[author, Record { sent: Vec::new(), heard: [(7, heard)].into() }])
}

#[track_caller]
fn complains(word: &str, fates: &[Fate], heard: Vec<Heard>) {
    let complaint = judged(fates, heard).expect_err("it does not hold");
    assert!(complaint.contains(word), "{complaint}");
}

const ACKED: Fate = Fate::Acked;

#[test]
fn what_is_whole_or_told_missing_is_accepted() {
    let first = || joined("a", 0, Begin::First);
    let whole = judged(&[ACKED, ACKED], vec![first(), message(0, 1), joined("a", 2, Begin::Complete), message(1, 2)]);
    assert_eq!(whole.expect("it holds").deliveries, 2);
    let range = Heard::Gap { range: Some((1, 1)), at: None };
    let told = judged(&[ACKED, ACKED], vec![first(), range, message(1, 2)]).expect("it holds");
    assert_eq!((told.gaps, told.told_missing, told.missing), (1, 1, 0));
    let anew = judged(&[ACKED; 3], vec![first(), message(0, 1), joined("b", 3, Begin::Gap), message(2, 4)]);
    assert_eq!(anew.expect("it holds").told_missing, 1);
    let unknown = [Fate::Unknown, Fate::Refused];
    assert_eq!(judged(&unknown, vec![first()]).expect("it holds").unknown, 1);
}

#[test]
fn what_is_lost_repeated_or_out_of_order_is_found() {
    let first = || joined("a", 0, Begin::First);
    complains("missing", &[ACKED], vec![first()]);
    complains("missing", &[ACKED, ACKED], vec![first(), message(1, 2)]);
    complains("twice", &[ACKED], vec![first(), message(0, 1), message(0, 2)]);
    complains("more than once", &[ACKED], vec![first(), message(0, 1), message(0, 2)]);
    complains("behind", &[ACKED, ACKED], vec![first(), message(0, 2), message(1, 1)]);
    complains("of session", &[ACKED, ACKED], vec![first(), message(1, 1), message(0, 2)]);
    complains("was Sent", &[Fate::Refused], vec![first(), message(0, 1)]);
    complains("nobody published", &[], vec![first(), message(0, 1)]);
    complains("never learned", &[Fate::Open], vec![first()]);
    complains("epoch b", &[], vec![first(), joined("b", 0, Begin::Complete)]);
    complains("epoch a", &[], vec![first(), joined("a", 0, Begin::First)]);
}

#[test]
fn a_gap_excuses_no_more_than_it_covers() {
    let first = || joined("a", 0, Begin::First);
    let gap = |from, to| Heard::Gap { range: Some((from, to)), at: None };
    // Somebody else heard where it stands.
    let sent = vec![Sent { room: 7, echo: true, fate: ACKED }; 3];
    let author = Record { sent, heard: [(7, vec![first(), message(0, 1), message(1, 2), message(2, 3)])].into() };
    let listens = |heard| judge(&[author.clone(), Record { sent: Vec::new(), heard: [(7, heard)].into() }]);
    assert_eq!(listens(vec![first(), message(0, 1), gap(2, 2), message(2, 3)]).expect("it holds").told_missing, 1);
    let complaint = listens(vec![first(), gap(1, 1), message(2, 3)]).expect_err("the second is not covered");
    assert!(complaint.contains("(0, 1)") && !complaint.contains("(0, 0)"), "{complaint}");
    // A page that is told no epoch: the gap must stand where the message is missing.
    let page = |heard: Vec<Heard>| listens(heard);
    let unranged = || Heard::Gap { range: None, at: None };
    assert_eq!(page(vec![message(0, 1), unranged(), message(2, 3)]).expect("it holds").told_missing, 1);
    assert!(page(vec![message(0, 1), message(2, 3), unranged()]).expect_err("the gap came later").contains("missing"));
}
