//! The reference model of a room: its numbering, as what members are told must agree with it.
//!
//! The server gives the order; the model holds everybody to the same one. An offset is first *seen* by some member, and from then on
//! it is that publication for all. A member that is shown a later offset first must have written what it was not shown.

/// What is known of an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing yet.
    Unknown,
    /// It was not shown to this author, so it is one of its own.
    Own(usize),
    /// The publication `number` of this author.
    Seen { author: usize, number: u32 },
}

/// A room.
#[derive(Debug)]
pub(crate) struct Room {
    /// Its id.
    pub(crate) name: String,
    /// The same as JSON writes it, without quotes.
    pub(crate) raw: String,
    /// By offset - 1.
    pub(crate) log: Vec<Entry>,
    pub(crate) epoch: Option<Vec<u8>>,
}

impl Room {
    pub(crate) fn new(number: usize) -> Room {
        let name = match number {
            0 => "doc-abc123".to_owned(),
            1 => r#"say "hello\""#.to_owned(),
            2 => format!("long-{}", "x".repeat(200)),
            3 => "комната-☃".to_owned(),
            _ => format!("room-{number}"),
        };
        let raw = name.replace('\\', "\\\\").replace('"', "\\\"");
        Room { name, raw, log: Vec::new(), epoch: None }
    }

    /// The entry of an offset, which counts from 1.
    pub(crate) fn entry(&mut self, offset: u64) -> &mut Entry {
        let place = offset as usize - 1;
        if self.log.len() <= place {
            self.log.resize(place + 1, Entry::Unknown);
        }
        &mut self.log[place]
    }

    /// Holds the room to an epoch: there is no second one in a run.
    pub(crate) fn hold_epoch(&mut self, epoch: &[u8]) -> bool {
        match &self.epoch {
            Some(known) => known == epoch,
            None => {
                self.epoch = Some(epoch.to_vec());
                !epoch.is_empty()
            }
        }
    }
}
