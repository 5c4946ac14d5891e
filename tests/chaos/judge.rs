//! What must hold of everything that was published and everything that was heard. Pure: it takes records and yields complaints.
//!
//! - A publication has one place in its room, and all who hear it hear it there; each hears it once.
//! - What one hears in a room is in the order of the offsets; what one session published is in the order in which it did, and so is
//!   what was acknowledged, over sessions.
//! - Whoever is owed an acknowledged publication has it, or was told of a gap that covers it.
//! - What was refused was never heard; what was heard was published.
//!
//! A page does not tell epochs: what only they could tell apart is judged by the neighbours of the same author.

use std::collections::{BTreeMap, BTreeSet};

/// Complaints that are shown. Further ones are counted.
const COMPLAINTS_MAX: usize = 20;

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Acked,
    Refused,
    Unknown,
    /// Nothing was heard of it.
    Open,
}

/// A publication, by its author. Its number is its place in the author's list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) room: usize,
    /// The author wants a copy.
    pub(crate) echo: bool,
    pub(crate) fate: Fate,
}

/// How a join began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Without a position.
    First,
    /// Nothing was missed, or what was missed follows.
    Complete,
    /// Something is lost.
    Gap,
}

/// What a member of a room was told, in order.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    /// It is joined, in this epoch, whose newest offset is this.
    Joined { epoch: String, offset: u64, begin: Begin },
    /// A publication.
    Message { from: usize, number: usize, offset: u64, session: String },
    /// Offsets that are lost, if the numbering goes on; and where that leaves the member, if it is told.
    Gap { range: Option<(u64, u64)>, at: Option<(String, u64)> },
}

/// A member: what it published, and what it was told in each of its rooms.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) sent: Vec<Sent>,
    pub(crate) heard: BTreeMap<usize, Vec<Heard>>,
}

/// What it comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) published: u64,
    pub(crate) acked: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
    pub(crate) deliveries: u64,
    pub(crate) gaps: u64,
    /// Acknowledged publications that a member who was owed them lacks, and was told so.
    pub(crate) told_missing: u64,
    pub(crate) duplicates: u64,
    pub(crate) missing: u64,
}

/// A publication: author and number.
type Id = (usize, usize);
/// A place in a room: the index of its epoch and the offset.
type Place = (usize, u64);

/// What the members of one room know together.
#[derive(Default)]
struct Room {
    epochs: Vec<String>,
    at: BTreeMap<Place, Id>,
    places: BTreeMap<Id, BTreeSet<Place>>,
    /// Publications of which only an offset was told.
    offsets: Vec<(Id, u64)>,
}

/// What one member was told in one room, for questions about what it lacks.
#[derive(Default)]
struct View {
    seen: BTreeSet<Id>,
    /// Epochs that it was in.
    epochs: BTreeSet<usize>,
    /// Places that a gap covers: epoch, first offset, last offset.
    excused: Vec<(usize, u64, u64)>,
    /// When it heard of each author, and which number.
    authors: BTreeMap<usize, Vec<(usize, usize)>>,
    /// When it was told of a gap.
    gaps: Vec<usize>,
}

/// Where a member is while its record is followed.
#[derive(Default)]
struct Walk<'a> {
    epoch: Option<usize>,
    position: u64,
    /// The newest number of each session.
    sessions: BTreeMap<&'a str, usize>,
    /// The newest acknowledged number of each author.
    acked: BTreeMap<usize, usize>,
}

/// A judgement under way.
#[derive(Default)]
struct Judge {
    complaints: Vec<String>,
    complained: u64,
    figures: Figures,
}

/// Judges a run.
///
/// # Errors
/// What did not hold, with the figures.
pub(crate) fn judge(records: &[Record]) -> Result<Figures, String> {
    let mut judge = Judge::default();
    let mut rooms: BTreeMap<usize, Room> = BTreeMap::new();
    let mut views: BTreeMap<(usize, usize), View> = BTreeMap::new();
    for (member, record) in records.iter().enumerate() {
        for (&name, heard) in &record.heard {
            let view = judge.hear(records, member, name, heard, rooms.entry(name).or_default());
            views.insert((member, name), view);
        }
    }
    for (name, room) in &rooms {
        judge.check_places(*name, room);
    }
    for (author, record) in records.iter().enumerate() {
        for (number, sent) in record.sent.iter().enumerate() {
            judge.count(author, number, sent);
            if sent.fate == Fate::Acked {
                judge.check_delivered((author, number), sent, &rooms, &views);
            }
        }
    }
    let Judge { complaints, complained, figures } = judge;
    if complained == 0 { Ok(figures) } else { Err(format!("{complained} complaints; {figures:?}\n{}", complaints.join("\n"))) }
}

impl Judge {
    fn complain(&mut self, complaint: impl FnOnce() -> String) {
        self.complained += 1;
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(complaint());
        }
    }

    fn count(&mut self, author: usize, number: usize, sent: &Sent) {
        self.figures.published += 1;
        match sent.fate {
            Fate::Acked => self.figures.acked += 1,
            Fate::Refused => self.figures.refused += 1,
            Fate::Unknown => self.figures.unknown += 1,
            Fate::Open => self.complain(|| format!("{author} never learned what became of its {number}")),
        }
    }

    /// Follows what a member was told in a room.
    fn hear(&mut self, records: &[Record], member: usize, name: usize, heard: &[Heard], room: &mut Room) -> View {
        let (mut view, mut walk) = (View::default(), Walk::default());
        let place = format!("{member} in {name}");
        for (moment, told) in heard.iter().enumerate() {
            match told {
                Heard::Joined { epoch, offset, begin: Begin::Gap } => {
                    self.figures.gaps += 1;
                    view.gaps.push(moment);
                    walk.skip_to(room.epoch(epoch), *offset, &mut view);
                }
                Heard::Joined { epoch, offset, begin } => {
                    let index = room.epoch(epoch);
                    let is_first = walk.epoch.is_none();
                    if is_first != (*begin == Begin::First) || (!is_first && walk.epoch != Some(index)) {
                        self.complain(|| format!("{place}: epoch {epoch} as {begin:?}, after {:?}", walk.epoch));
                    }
                    walk.epoch = Some(index);
                    view.epochs.insert(index);
                    if is_first {
                        walk.position = *offset;
                    }
                }
                Heard::Gap { range, at } => {
                    self.figures.gaps += 1;
                    view.gaps.push(moment);
                    match (range, at, walk.epoch) {
                        (Some((from, to)), _, epoch) => {
                            view.excused.extend(epoch.map(|epoch| (epoch, *from, *to)));
                            walk.position = walk.position.max(*to);
                        }
                        (None, Some((epoch, offset)), _) => walk.skip_to(room.epoch(epoch), *offset, &mut view),
                        (None, None, _) => walk.position = 0,
                    }
                }
                Heard::Message { from, number, offset, session } => {
                    let id = (*from, *number);
                    self.figures.deliveries += 1;
                    let Some(sent) = records.get(*from).and_then(|record| record.sent.get(*number)) else {
                        self.complain(|| format!("{place}: nobody published {id:?}"));
                        continue;
                    };
                    if sent.room != name || sent.fate == Fate::Refused {
                        self.complain(|| format!("{place}: {id:?} was {sent:?}"));
                    }
                    if !view.seen.insert(id) {
                        self.figures.duplicates += 1;
                        self.complain(|| format!("{place}: {id:?} twice, now at {offset}"));
                    }
                    view.authors.entry(*from).or_default().push((moment, *number));
                    self.check_order(&place, &mut walk, sent, id, *offset, session);
                    self.place(name, room, walk.epoch, id, *offset);
                }
            }
        }
        view
    }

    /// Offsets grow; so do the numbers of a session, and the acknowledged ones of an author.
    fn check_order<'a>(&mut self, place: &str, walk: &mut Walk<'a>, sent: &Sent, id: Id, offset: u64, session: &'a str) {
        if offset <= walk.position {
            self.complain(|| format!("{place}: {id:?} at {offset} behind {}", walk.position));
        }
        walk.position = offset;
        let last = walk.sessions.insert(session, id.1);
        if last.is_some_and(|last| last >= id.1) {
            self.complain(|| format!("{place}: {id:?} of session {session} after {last:?}"));
        }
        if sent.fate == Fate::Acked {
            let last = walk.acked.insert(id.0, id.1);
            if last.is_some_and(|last| last >= id.1) {
                self.complain(|| format!("{place}: {id:?}, acknowledged, after {last:?}, too"));
            }
        }
    }

    /// Notes where a publication stands.
    fn place(&mut self, name: usize, room: &mut Room, epoch: Option<usize>, id: Id, offset: u64) {
        let Some(epoch) = epoch else { return room.offsets.push((id, offset)) };
        room.places.entry(id).or_default().insert((epoch, offset));
        if let Some(other) = room.at.insert((epoch, offset), id).filter(|other| *other != id) {
            self.complain(|| format!("{name}: {id:?} and {other:?} at {offset} of epoch {epoch}"));
        }
    }

    /// A publication has one place.
    fn check_places(&mut self, name: usize, room: &Room) {
        for (id, places) in &room.places {
            if places.len() > 1 {
                self.figures.duplicates += 1;
                self.complain(|| format!("{name}: {id:?} took effect more than once: {places:?}"));
            }
        }
        for (id, offset) in &room.offsets {
            if room.places.get(id).is_some_and(|places| places.iter().all(|(_, place)| place != offset)) {
                self.complain(|| format!("{name}: {id:?} is at {:?} and at {offset}", room.places.get(id)));
            }
        }
    }

    /// Who is owed an acknowledged publication has it, or knows that it may lack it.
    fn check_delivered(&mut self, id: Id, sent: &Sent, rooms: &BTreeMap<usize, Room>, views: &BTreeMap<(usize, usize), View>) {
        let place = rooms.get(&sent.room).and_then(|room| room.places.get(&id)?.first().copied());
        for ((member, _), view) in views.iter().filter(|((_, name), _)| *name == sent.room) {
            if (*member == id.0 && !sent.echo) || view.seen.contains(&id) {
                continue;
            }
            if view.is_excused(id, place) {
                self.figures.told_missing += 1;
            } else {
                self.figures.missing += 1;
                self.complain(|| format!("{member} in {}: {id:?} at {place:?} is missing, and no gap covers it", sent.room));
            }
        }
    }
}

impl Room {
    fn epoch(&mut self, id: &str) -> usize {
        self.epochs.iter().position(|known| known == id).unwrap_or_else(|| {
            self.epochs.push(id.to_owned());
            self.epochs.len() - 1
        })
    }
}

impl Walk<'_> {
    /// What lies between here and there is lost.
    fn skip_to(&mut self, epoch: usize, offset: u64, view: &mut View) {
        match self.epoch {
            Some(old) if old == epoch => view.excused.push((old, self.position + 1, offset)),
            Some(old) => view.excused.extend([(old, self.position + 1, u64::MAX), (epoch, 0, offset)]),
            None => view.excused.push((epoch, 0, offset)),
        }
        (self.epoch, self.position) = (Some(epoch), offset);
        view.epochs.insert(epoch);
    }
}

impl View {
    /// Whether a gap that was told covers what is missing. Where it stands decides, if both that and the member's own place are known;
    /// else its neighbours of the same author do: between the last smaller number and the first greater one there was a gap.
    fn is_excused(&self, (author, number): Id, place: Option<Place>) -> bool {
        if let Some((epoch, offset)) = place.filter(|(epoch, _)| self.epochs.contains(epoch)) {
            return self.excused.iter().any(|(gap, from, to)| *gap == epoch && (*from..=*to).contains(&offset));
        }
        let heard = self.authors.get(&author).map_or(&[][..], Vec::as_slice);
        let after = heard.iter().find(|(_, other)| *other > number).map_or(usize::MAX, |(moment, _)| *moment);
        let before = heard.iter().rfind(|(moment, other)| *other < number && *moment < after);
        let before = before.map_or(0, |(moment, _)| *moment);
        self.gaps.iter().any(|gap| (before..after).contains(gap))
    }
}
