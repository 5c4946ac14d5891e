//! What a watcher knows of a room's presence, by the rules of the protocol alone: a snapshot, and diffs that apply to it in order.

use crate::json::{Object, items, number};
use crate::peer::Gone;
use std::collections::HashMap;

/// Sessions as the wire names them, numbered in the order of their first appearance.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    numbers: HashMap<Vec<u8>, u32>,
    /// Whose each is, where that is known.
    owners: Vec<Option<usize>>,
    /// When each was last without a connection, if it is.
    gone: Vec<Option<Gone>>,
}

impl Sessions {
    pub(crate) fn number(&mut self, name: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.owners.len() as u32;
        self.numbers.insert(name.to_vec(), number);
        self.owners.push(None);
        self.gone.push(None);
        number
    }

    pub(crate) fn owner(&self, session: u32) -> Option<usize> {
        self.owners[session as usize]
    }

    /// Since when a client's session has had no connection.
    pub(crate) fn gone(&self, session: u32) -> Option<Gone> {
        self.gone[session as usize]
    }

    pub(crate) fn set_gone(&mut self, session: u32, gone: Option<Gone>) {
        self.gone[session as usize] = gone;
    }

    /// Notes whose a session is. False if it is somebody else's.
    pub(crate) fn belongs(&mut self, session: u32, peer: usize) -> bool {
        *self.owners[session as usize].get_or_insert(peer) == peer
    }
}

/// Somebody in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Present {
    pub(crate) session: u32,
    pub(crate) user: u32,
    pub(crate) state: Option<u32>,
}

/// What is known of a room.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) version: u64,
    /// By session; `None` where only the counts are known.
    pub(crate) list: Option<Vec<Present>>,
    /// Users and connections.
    pub(crate) counts: Option<(u64, u64)>,
    /// Something was missed: the client must ask.
    pub(crate) stale: bool,
    /// Where the next page begins, while the list has not come whole.
    pub(crate) cursor: Option<String>,
    /// The question that was last asked, while it is not answered whole.
    pub(crate) question: Option<u32>,
}

impl View {
    /// Takes in a `room_joined` or `presence_state`. `Err` says what is wrong with it.
    pub(crate) fn snapshot(&mut self, message: &Object<'_>, sessions: &mut Sessions) -> Result<(), String> {
        let version = message.number("version").ok_or("no version")?;
        *self = View { version, question: self.question, ..View::default() };
        if message.has("members") {
            self.list = Some(Vec::new());
            self.page(message, sessions)?;
            let told = items(message.get("members").unwrap_or(&[])).filter_map(Object::parse);
            let count: usize = told.map(|member| items(member.get("connections").unwrap_or(&[])).count()).sum();
            let is_exact = self.list.as_ref().is_some_and(|list| list.len() == count);
            return if is_exact { Ok(()) } else { Err("a connection is listed twice".to_owned()) };
        }
        self.count(message)
    }

    /// Takes in one more page of the list.
    pub(crate) fn page(&mut self, message: &Object<'_>, sessions: &mut Sessions) -> Result<(), String> {
        let Some(list) = &mut self.list else {
            self.cursor = None;
            return Ok(());
        };
        for member in items(message.get("members").ok_or("no members")?) {
            let member = Object::parse(member).ok_or("a member is no object")?;
            let user = user(&member)?;
            for connection in items(member.get("connections").ok_or("a member has no connections")?) {
                let connection = Object::parse(connection).ok_or("a connection is no object")?;
                let new = present(&connection, user, sessions)?;
                match list.binary_search_by_key(&new.session, |present| present.session) {
                    // It changed since an earlier page.
                    Ok(place) => list[place] = new,
                    Err(place) => list.insert(place, new),
                }
            }
        }
        let cursor = message.has("cursor").then(|| String::from_utf8_lossy(message.text("cursor")).into_owned());
        self.cursor = cursor;
        Ok(())
    }

    /// Takes in a `presence_diff`.
    pub(crate) fn diff(&mut self, message: &Object<'_>, sessions: &mut Sessions) -> Result<(), String> {
        let version = message.number("version").ok_or("no version")?;
        if message.has("counts") {
            self.version = version;
            (self.list, self.cursor, self.question) = (None, None, None);
            return self.count(message);
        }
        if version <= self.version {
            return Ok(());
        }
        let is_next = version == self.version + 1;
        let Some(list) = self.list.as_mut().filter(|_| is_next && !self.stale) else {
            self.stale = true;
            return Ok(());
        };
        self.version = version;
        let array = |name: &str| message.get(name).ok_or_else(|| format!("no {name}"));
        for entry in items(array("joins")?).chain(items(array("updates")?)) {
            let entry = Object::parse(entry).ok_or("an entry is no object")?;
            let new = present(&entry, user(&entry)?, sessions)?;
            match list.binary_search_by_key(&new.session, |present| present.session) {
                Ok(place) => list[place] = new,
                Err(place) => list.insert(place, new),
            }
        }
        for entry in items(array("leaves")?) {
            let entry = Object::parse(entry).ok_or("an entry is no object")?;
            let session = sessions.number(entry.text("id"));
            list.retain(|present| present.session != session);
        }
        Ok(())
    }

    fn count(&mut self, message: &Object<'_>) -> Result<(), String> {
        let counts = message.get("counts").and_then(Object::parse).ok_or("neither members nor counts")?;
        let (users, connections) = (counts.number("users"), counts.number("connections"));
        self.counts = Some((users.ok_or("no count of users")?, connections.ok_or("no count of connections")?));
        Ok(())
    }

    /// The entry of a session.
    pub(crate) fn find(&self, session: u32) -> Option<&Present> {
        self.list.as_ref()?.iter().find(|present| present.session == session)
    }
}

fn user(entry: &Object<'_>) -> Result<u32, String> {
    let text = entry.text("user");
    let digits = text.strip_prefix(b"user-").and_then(number);
    digits.map(|user| user as u32).ok_or_else(|| format!("nobody is called {:?}", String::from_utf8_lossy(text)))
}

fn present(entry: &Object<'_>, user: u32, sessions: &mut Sessions) -> Result<Present, String> {
    if !entry.has("id") {
        return Err("an entry has no id".to_owned());
    }
    let state = match entry.get("state") {
        None | Some(b"null") => None,
        Some(raw) => Some(number(raw).ok_or("a state is not what anybody set")? as u32),
    };
    Ok(Present { session: sessions.number(entry.text("id")), user, state })
}
