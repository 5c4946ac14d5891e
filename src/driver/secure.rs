//! Connections over TLS: what was received becomes plaintext before the core sees it, and what the core sends becomes records.
//!
//! To the core a connection over TLS is like any other. The handshake is over before it gets a byte; from then on records are opened in
//! place in the receive buffer, and all that is sent to a connection in one submission is sealed together. A record is never sealed
//! twice: when a socket takes a send in part, the sealed rest is kept here, and the core is told that all but the last byte was taken.
//! So it waits for the socket, as it would without TLS; and that one byte, which it then offers again, is left out.
//!
//! What TLS says by itself (the handshake, answers to `KeyUpdate`, alerts) is *unsent* until it goes out before the next send of the
//! core, or alone. A close says `close_notify` first.
//!
//! It knows no message and no session, and decides nothing about a connection but that its TLS has failed.
//!
//! Invariants: of each connection at most one record that is not complete, and the rest of one send, are kept; bytes go out in the order
//! in which they were sealed.

use crate::limits::{HANDSHAKES_MAX, SEALED_BYTES_MAX};
use crate::tls::{
    Config, Event, Failure, Handshake, HandshakeResult, KEY_CACHE_PLACES_MAX, KeyCache, Progress, Records, sealed_bytes_max,
};
use slab::Slab;
use std::ops::Range;

/// Bytes of sealed sends that one submission has at most, unless a single one is larger. At it the turn submits early.
const CIPHER_BYTES_MAX: usize = 1 << 20;
/// Expanded keys that a shard keeps: two for each of its busiest connections.
const KEYS_MAX: usize = 8_192;
const _: () = assert!(KEYS_MAX <= KEY_CACHE_PLACES_MAX);
/// Tickets from this one on are of sends that the core knows nothing of.
const OWN_TICKET: u32 = 1 << 31;
/// What somebody is told who speaks HTTP to the TLS port: in plain, because that is what it understands.
const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 40\r\n\r\n\
this port speaks TLS: use wss:// (https)";

/// A connection's TLS.
#[derive(Debug)]
pub(super) struct Layer {
    phase: Phase,
    /// What few connections have.
    aside: Option<Box<Aside>>,
}

enum Phase {
    Shaking(Box<Handshake>),
    Open(Records),
    /// It has failed: nothing is read any more, and of what the core sends nothing goes out.
    Failed,
}

impl std::fmt::Debug for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::Shaking(_) => "Shaking",
            Phase::Open(_) => "Open",
            Phase::Failed => "Failed",
        })
    }
}

#[derive(Debug, Default)]
struct Aside {
    /// The begin of a record.
    partial: Vec<u8>,
    /// Sealed bytes that go out next, from `start` on.
    unsent: Vec<u8>,
    start: usize,
    /// The core was told of one byte less than was sealed of its last send, and waits for the socket.
    owes: bool,
}

impl Aside {
    fn is_idle(&self) -> bool {
        self.partial.is_empty() && self.unsent.is_empty() && !self.owes
    }

    fn take_unsent(&mut self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.unsent[self.start..]);
        (self.unsent, self.start) = (Vec::new(), 0);
    }
}

/// What received bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It goes on.
    More,
    /// The peer has closed its direction.
    Closed,
    /// TLS has failed; an alert may be unsent.
    Failed(Failure),
}

/// A send of the core's, sealed.
#[derive(Clone, Debug)]
struct Sealed {
    ticket: u32,
    slot: u32,
    bytes: Range<usize>,
    /// Bytes of the core's send that are sealed, now or with the one before.
    accepted: usize,
    offered: usize,
    is_told: bool,
}

/// A send that the core knows nothing of.
#[derive(Clone, Debug)]
struct Own {
    slot: u32,
    bytes: Range<usize>,
    /// The connection is closed with it, and nothing is kept of what the socket does not take.
    is_last: bool,
    is_whole: bool,
}

/// How a send of this module went that the core is to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The core's, of which so many bytes were taken.
    Short(u32, usize),
    /// The core's, whose socket is broken.
    Broken(u32),
    /// Not the core's: the slot waits for room.
    Waits(u32),
    /// Not the core's, and done, or broken.
    Done,
}

/// The connections of a shard that speak TLS.
pub(super) struct Secure {
    /// None without a TLS listener.
    config: Option<Config>,
    keys: KeyCache,
    /// By slot: place in `layers`, plus one; 0 for plain. Empty without a TLS listener.
    places: Vec<u32>,
    layers: Slab<Layer>,
    shaking: usize,
    /// Invariant: the sum of what the asides of all layers keep.
    bytes: usize,
    /// Slots with something unsent.
    due: Vec<u32>,
    /// Sealed bytes of the submission that is being collected.
    cipher: Vec<u8>,
    sealed: Vec<Sealed>,
    own: Vec<Own>,
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secure").field("layers", &self.layers.len()).field("shaking", &self.shaking).finish_non_exhaustive()
    }
}

/// The layer of a slot, if it holds a connection over TLS.
fn find<'layers>(places: &[u32], layers: &'layers mut Slab<Layer>, slot: u32) -> Option<&'layers mut Layer> {
    let place = places.get(slot as usize)?.checked_sub(1)?;
    layers.get_mut(place as usize)
}

impl Secure {
    /// For a shard of so many slots.
    pub(super) fn new(config: Option<Config>, slots: usize) -> Secure {
        let places = if config.is_some() { vec![0; slots] } else { Vec::new() };
        Secure {
            config,
            keys: KeyCache::new(KEYS_MAX),
            places,
            layers: Slab::new(),
            shaking: 0,
            bytes: 0,
            due: Vec::new(),
            cipher: Vec::new(),
            sealed: Vec::new(),
            own: Vec::new(),
        }
    }

    /// Connections that shake hands.
    pub(super) fn shaking(&self) -> usize {
        self.shaking
    }

    /// Connections over TLS.
    pub(super) fn count(&self) -> usize {
        self.layers.len()
    }

    /// Bytes that they keep: begins of records, and sealed bytes that wait for their sockets.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a slot holds a connection over TLS.
    pub(super) fn holds(&self, slot: u32) -> bool {
        self.places.get(slot as usize).is_some_and(|&place| place > 0)
    }

    fn layer(&mut self, slot: u32) -> Option<&mut Layer> {
        find(&self.places, &mut self.layers, slot)
    }

    // ---- a connection's life --------------------------------------------------------------------------------------------

    /// A connection came to the TLS listener. False if too many shake hands already: then it holds nothing here.
    pub(super) fn begin(&mut self, slot: u32) -> bool {
        let Some(config) = self.config.as_ref().filter(|_| self.shaking < HANDSHAKES_MAX) else { return false };
        let layer = Layer { phase: Phase::Shaking(Box::new(Handshake::new(config))), aside: None };
        self.shaking += 1;
        self.put(slot, layer);
        true
    }

    /// Goes on with a connection that another shard has opened.
    pub(super) fn put(&mut self, slot: u32, layer: Layer) {
        let has_unsent = layer.aside.as_ref().is_some_and(|aside| !aside.unsent.is_empty());
        self.bytes += layer.kept();
        self.places[slot as usize] = self.layers.insert(layer) as u32 + 1;
        if has_unsent {
            self.due.push(slot);
        }
    }

    /// Forgets a connection, or gives it to another shard. Says how its handshake ended, if it had not: `timed_out` is the caller's word.
    pub(super) fn take(&mut self, slot: u32, timed_out: bool) -> (Option<Layer>, Option<HandshakeResult>) {
        let place = self.places.get_mut(slot as usize).map_or(0, std::mem::take);
        let Some(place) = place.checked_sub(1) else { return (None, None) };
        let mut layer = self.layers.remove(place as usize);
        self.bytes -= layer.kept();
        let mut result = None;
        match &mut layer.phase {
            Phase::Shaking(_) => {
                self.shaking -= 1;
                result = Some(if timed_out { HandshakeResult::Timeout } else { HandshakeResult::Disconnected });
            }
            Phase::Open(records) => records.forget(&mut self.keys),
            Phase::Failed => {}
        }
        (Some(layer), result)
    }

    // ---- receiving ------------------------------------------------------------------------------------------------------

    /// Takes what a connection over TLS has received. `deliver` gets the plaintext, piece by piece. The second value says how the
    /// handshake ended, if it did.
    pub(super) fn receive(
        &mut self,
        slot: u32,
        bytes: &mut [u8],
        mut deliver: impl FnMut(&mut [u8]),
    ) -> (Heard, Option<HandshakeResult>) {
        let Secure { layers, places, keys, due, shaking, bytes: kept, .. } = self;
        let Some(layer) = find(places, layers, slot) else { return (Heard::More, None) };
        *kept -= layer.kept();
        let heard = layer.receive(slot, bytes, keys, due, shaking, &mut deliver);
        layer.tidy();
        *kept += layer.kept();
        heard
    }

    // ---- sending --------------------------------------------------------------------------------------------------------

    /// Whether so much is sealed that it should be submitted before more is collected.
    pub(super) fn is_full(&self) -> bool {
        self.cipher.len() >= CIPHER_BYTES_MAX
    }

    /// Seals a send of the core's: all of it, or as much as goes into one submission.
    pub(super) fn seal(&mut self, ticket: u32, slot: u32, bytes: &[u8]) {
        let Secure { layers, places, keys, cipher, sealed, bytes: kept, .. } = self;
        let Some(layer) = find(places, layers, slot) else { return };
        *kept -= layer.kept();
        let start = cipher.len();
        let mut skip = 0;
        if let Some(aside) = &mut layer.aside {
            skip = usize::from(std::mem::take(&mut aside.owes));
            aside.take_unsent(cipher);
        }
        let accepted = bytes.len().min(skip + SEALED_BYTES_MAX);
        if let Phase::Open(records) = &mut layer.phase {
            cipher.reserve(sealed_bytes_max(accepted - skip));
            if records.seal(keys, &[&bytes[skip..accepted]], cipher).is_err() {
                layer.phase = Phase::Failed;
            }
        }
        layer.tidy();
        *kept += layer.kept();
        sealed.push(Sealed { ticket, slot, bytes: start..cipher.len(), accepted, offered: bytes.len(), is_told: false });
    }

    /// The bytes that are submitted for a send of the core's, `plain` if the connection is. Empty: nothing is.
    pub(super) fn bytes_of<'a>(&'a self, ticket: u32, plain: &'a [u8]) -> &'a [u8] {
        match self.sealed.binary_search_by_key(&ticket, |sealed| sealed.ticket) {
            Ok(at) => &self.cipher[self.sealed[at].bytes.clone()],
            Err(_) => plain,
        }
    }

    /// Collects, for at most so many connections, what is unsent and goes with no send of the core's.
    pub(super) fn collect_own(&mut self, sends_max: usize) {
        let mut sends = 0;
        while sends < sends_max
            && !self.is_full()
            && let Some(slot) = self.due.pop()
        {
            sends += usize::from(self.push_own(slot, false));
        }
    }

    /// Whether something is unsent that no event will bring out.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Sends that were collected and that the core knows nothing of.
    pub(super) fn own_count(&self) -> usize {
        self.own.len()
    }

    /// Those sends: slot, ticket and bytes.
    pub(super) fn own_sends(&self) -> impl Iterator<Item = (u32, u32, &[u8])> {
        let number = |(at, own): (usize, &Own)| (own.slot, OWN_TICKET | at as u32, own.bytes.clone());
        self.own.iter().enumerate().map(number).map(|(slot, ticket, bytes)| (slot, ticket, &self.cipher[bytes]))
    }

    /// Our direction of a connection ends: collects the last that TLS has to say, unless earlier bytes still wait for the socket.
    pub(super) fn say_last(&mut self, slot: u32, is_closed: bool) {
        let Secure { layers, places, keys, due, bytes: kept, .. } = self;
        let Some(layer) = find(places, layers, slot) else { return };
        *kept -= layer.kept();
        let mut out = Vec::new();
        if let Phase::Open(records) = &mut layer.phase
            && layer.aside.as_ref().is_none_or(|aside| !aside.owes)
        {
            records.close(keys, &mut out);
        }
        layer.say(slot, &out, due);
        *kept += layer.kept();
        self.push_own(slot, is_closed);
    }

    fn push_own(&mut self, slot: u32, is_last: bool) -> bool {
        let Secure { layers, places, cipher, own, bytes: kept, .. } = self;
        let Some(aside) = find(places, layers, slot).and_then(|layer| layer.aside.as_mut()) else { return false };
        // One that waits for its socket is taken when there is room.
        if aside.unsent.is_empty() {
            return false;
        }
        let start = cipher.len();
        *kept -= aside.unsent.len() - aside.start;
        aside.take_unsent(cipher);
        own.push(Own { slot, bytes: start..cipher.len(), is_last, is_whole: true });
        true
    }

    /// The socket has room again. True if that is for bytes that the core knows nothing of: they go first.
    pub(super) fn has_room(&mut self, slot: u32) -> bool {
        let has_unsent = self.layer(slot).and_then(|layer| layer.aside.as_ref()).is_some_and(|aside| !aside.unsent.is_empty());
        if has_unsent {
            self.due.push(slot);
        }
        has_unsent
    }

    /// A send of the submission was not taken whole: `count` bytes were, or the socket is broken. `None` if it is a plain one's.
    pub(super) fn note_short(&mut self, ticket: u32, count: Option<usize>) -> Option<Sent> {
        if ticket & OWN_TICKET != 0 {
            let own = self.own.get_mut((ticket & !OWN_TICKET) as usize)?;
            own.is_whole = false;
            let (slot, rest) = (own.slot, own.bytes.start + count.unwrap_or(own.bytes.len())..own.bytes.end);
            if own.is_last || count.is_none() {
                return Some(Sent::Done);
            }
            self.keep(slot, rest, None);
            return Some(Sent::Waits(slot));
        }
        let at = self.sealed.binary_search_by_key(&ticket, |sealed| sealed.ticket).ok()?;
        let sealed = &mut self.sealed[at];
        sealed.is_told = true;
        let Sealed { slot, accepted, .. } = *sealed;
        let Some(count) = count else { return Some(Sent::Broken(ticket)) };
        let rest = sealed.bytes.start + count..sealed.bytes.end;
        self.keep(slot, rest, Some(true));
        Some(Sent::Short(ticket, accepted.saturating_sub(1)))
    }

    /// Keeps sealed bytes that the socket did not take, before anything that became unsent since.
    fn keep(&mut self, slot: u32, rest: Range<usize>, owes: Option<bool>) {
        let Secure { layers, places, cipher, bytes: kept_in_all, .. } = self;
        let Some(layer) = find(places, layers, slot) else { return };
        *kept_in_all += rest.len();
        let aside = layer.aside.get_or_insert_default();
        let mut kept = cipher[rest].to_vec();
        aside.take_unsent(&mut kept);
        aside.unsent = kept;
        aside.owes = owes.unwrap_or(aside.owes);
    }

    /// Every send of the submission is done. `tell` gets what the core has to know of its sends that were taken, but not whole.
    /// Yields the slots whose own bytes are out and for which the core waits.
    pub(super) fn settle(&mut self, mut tell: impl FnMut(u32, usize)) -> Vec<u32> {
        for sealed in self.sealed.drain(..) {
            if !sealed.is_told && sealed.accepted < sealed.offered {
                tell(sealed.ticket, sealed.accepted);
            }
        }
        let mut released = Vec::new();
        let own = std::mem::take(&mut self.own);
        for own in own.iter().filter(|own| own.is_whole && !own.is_last) {
            if let Some(layer) = self.layer(own.slot) {
                if layer.aside.as_ref().is_some_and(|aside| aside.owes) {
                    released.push(own.slot);
                }
                layer.tidy();
            }
        }
        self.own = own;
        self.own.clear();
        self.cipher.clear();
        self.cipher.shrink_to(CIPHER_BYTES_MAX);
        released
    }
}

impl Layer {
    /// Bytes that are kept for it.
    fn kept(&self) -> usize {
        self.aside.as_ref().map_or(0, |aside| aside.partial.len() + aside.unsent.len() - aside.start)
    }

    /// Takes what was received: of the handshake, and of records behind it.
    fn receive(
        &mut self,
        slot: u32,
        bytes: &mut [u8],
        keys: &mut KeyCache,
        due: &mut Vec<u32>,
        shaking: &mut usize,
        deliver: &mut impl FnMut(&mut [u8]),
    ) -> (Heard, Option<HandshakeResult>) {
        let mut owned = self.aside.as_mut().map(|aside| std::mem::take(&mut aside.partial)).unwrap_or_default();
        let buffer: &mut [u8] = if owned.is_empty() {
            bytes
        } else {
            owned.extend_from_slice(bytes);
            &mut owned
        };
        let (mut at, mut result) = (0, None);
        if let Phase::Shaking(handshake) = &mut self.phase {
            let mut out = Vec::new();
            let progress = handshake.receive(buffer, &mut out);
            let failed = match progress {
                Ok(Progress::Continue) => {
                    self.say(slot, &out, due);
                    return (Heard::More, None);
                }
                Ok(Progress::Done { consumed, established }) => {
                    at = consumed;
                    result = Some(if established.resumed { HandshakeResult::Resumed } else { HandshakeResult::Ok });
                    self.phase = Phase::Open(established.records);
                    None
                }
                Err(failure) => {
                    self.phase = Phase::Failed;
                    result = Some(failure.handshake_result());
                    if failure == Failure::PlainHttp {
                        out.extend_from_slice(PLAIN_ANSWER);
                    }
                    Some(failure)
                }
            };
            *shaking -= 1;
            self.say(slot, &out, due);
            if let Some(failure) = failed {
                return (Heard::Failed(failure), result);
            }
        }
        let Phase::Open(records) = &mut self.phase else { return (Heard::More, None) };
        let heard = loop {
            match records.open(keys, &mut buffer[at..]) {
                Ok(opened) => {
                    let from = at;
                    at += opened.consumed;
                    match opened.event {
                        Event::Data(range) => deliver(&mut buffer[from + range.start..from + range.end]),
                        Event::Missing(_) => break Heard::More,
                        Event::Closed => break Heard::Closed,
                    }
                }
                Err(failure) => break Heard::Failed(failure),
            }
        };
        let mut out = Vec::new();
        match heard {
            Heard::More => {
                let has_reply = records.has_reply();
                if has_reply {
                    records.reply(keys, &mut out);
                }
                if at < buffer.len() {
                    self.aside.get_or_insert_default().partial.extend_from_slice(&buffer[at..]);
                }
            }
            Heard::Closed => {}
            Heard::Failed(_) => {
                records.close(keys, &mut out);
                self.phase = Phase::Failed;
            }
        }
        self.say(slot, &out, due);
        (heard, result)
    }

    /// Puts bytes behind what is unsent.
    fn say(&mut self, slot: u32, bytes: &[u8], due: &mut Vec<u32>) {
        if bytes.is_empty() {
            return;
        }
        let aside = self.aside.get_or_insert_default();
        if aside.unsent.is_empty() {
            due.push(slot);
        }
        aside.unsent.extend_from_slice(bytes);
    }

    fn tidy(&mut self) {
        if self.aside.as_ref().is_some_and(|aside| aside.is_idle()) {
            self.aside = None;
        }
    }
}
