//! The pieces that presence is made of on the wire: members with their connections, and the entries of a diff.
//!
//! A room's home knows who is there; this file only writes what it names, so that a page can be built up to its bound and a diff
//! without a copy. Ids of users are UTF-8 of any content; ids of connections are numbers ([`id64`](super::id64)); states are raw
//! JSON as it came.

use super::encode::{begin_presence_diff, write_integer, write_string};
use super::id64::write_id64;

/// Writes the array of members `[{"user":…,"connections":[{"id":…,"state":…}]}]`, and can take back what made it too long.
///
/// A user whose connections do not fit in one page may come again in the next with the others: a client joins them by `user`.
#[derive(Debug)]
pub struct MemberWriter<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    in_user: bool,
}

/// A place in a [`MemberWriter`] to return to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    length: usize,
    in_user: bool,
}

impl<'o> MemberWriter<'o> {
    /// Begins an array at the end of `out`.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        let start = out.len();
        out.push(b'[');
        MemberWriter { out, start, in_user: false }
    }

    /// Begins a user: the connections that follow are of this one.
    pub fn user(&mut self, user: &[u8]) {
        if self.in_user {
            self.out.extend_from_slice(b"]},");
        }
        self.out.extend_from_slice(b"{\"user\":");
        write_string(self.out, user);
        self.out.extend_from_slice(b",\"connections\":[");
        self.in_user = true;
    }

    /// Adds a connection of the user.
    ///
    /// # Panics
    /// If no user was begun.
    pub fn connection(&mut self, id: u64, state: Option<&[u8]>) {
        assert!(self.in_user, "a connection belongs to a user");
        if self.out.last() == Some(&b'}') {
            self.out.push(b',');
        }
        self.out.extend_from_slice(b"{\"id\":\"");
        write_id64(self.out, id);
        self.out.push(b'"');
        write_state(self.out, state);
        self.out.push(b'}');
    }

    /// Bytes of the array if it ended here.
    pub fn bytes(&self) -> usize {
        self.out.len() - self.start + self.tail().len()
    }

    /// This place, to return to.
    pub fn mark(&self) -> Mark {
        Mark { length: self.out.len(), in_user: self.in_user }
    }

    /// Takes back all that was written since `mark`.
    pub fn rollback(&mut self, mark: Mark) {
        debug_assert!(mark.length > self.start && mark.length <= self.out.len());
        self.out.truncate(mark.length);
        self.in_user = mark.in_user;
    }

    /// Ends the array.
    pub fn finish(self) {
        let tail = self.tail();
        self.out.extend_from_slice(tail);
    }

    fn tail(&self) -> &'static [u8] {
        if self.in_user { b"]}]" } else { b"]" }
    }
}

/// Writes a whole `presence_diff` frame, entry by entry: all joins, then all leaves, then all updates.
#[derive(Debug)]
pub struct DiffWriter<'o> {
    out: &'o mut Vec<u8>,
    list: List,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum List {
    None,
    Joins,
    Leaves,
    Updates,
}

impl<'o> DiffWriter<'o> {
    /// Begins a diff that applies to `version - 1`.
    pub fn new(out: &'o mut Vec<u8>, room: &[u8], epoch: u64, version: u64) -> Self {
        begin_presence_diff(out, room, epoch);
        out.extend_from_slice(b",\"version\":");
        write_integer(out, version);
        DiffWriter { out, list: List::None }
    }

    /// A connection that came.
    pub fn join(&mut self, user: &[u8], id: u64, state: Option<&[u8]>) {
        self.entry(List::Joins, user, id, state);
    }

    /// A connection that went.
    pub fn leave(&mut self, user: &[u8], id: u64) {
        self.entry(List::Leaves, user, id, None);
    }

    /// A connection whose state changed.
    pub fn update(&mut self, user: &[u8], id: u64, state: &[u8]) {
        self.entry(List::Updates, user, id, Some(state));
    }

    /// Ends the frame; lists without an entry are empty arrays.
    pub fn finish(mut self) {
        self.advance(List::Updates);
        self.out.extend_from_slice(b"]}");
    }

    /// # Panics
    /// If an entry comes after those of a later list.
    fn entry(&mut self, list: List, user: &[u8], id: u64, state: Option<&[u8]>) {
        self.advance(list);
        if self.out.last() == Some(&b'}') {
            self.out.push(b',');
        }
        self.out.extend_from_slice(b"{\"user\":");
        write_string(self.out, user);
        self.out.extend_from_slice(b",\"id\":\"");
        write_id64(self.out, id);
        self.out.push(b'"');
        write_state(self.out, state);
        self.out.push(b'}');
    }

    fn advance(&mut self, list: List) {
        assert!(self.list <= list, "joins come before leaves, and leaves before updates");
        while self.list < list {
            let (next, text): (List, &[u8]) = match self.list {
                List::None => (List::Joins, b",\"joins\":["),
                List::Joins => (List::Leaves, b"],\"leaves\":["),
                List::Leaves | List::Updates => (List::Updates, b"],\"updates\":["),
            };
            self.out.extend_from_slice(text);
            self.list = next;
        }
    }
}

fn write_state(out: &mut Vec<u8>, state: Option<&[u8]>) {
    if let Some(state) = state {
        out.extend_from_slice(b",\"state\":");
        out.extend_from_slice(state);
    }
}
