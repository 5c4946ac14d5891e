//! What a client's message says, by serde_json's reading of its fields.

use super::depth_of;
use crate::limits::{
    DATA_DEPTH_MAX, ENVELOPE_DEPTH_MAX, INTEGER_MAX, KEY_BYTES_MAX, REQUEST_ID_BYTES_MAX, ROOM_ID_BYTES_MAX, USER_ID_BYTES_MAX,
};
use crate::protocol::command::{
    CURSOR_BYTES_MAX, EPOCH_BYTES_MAX, FIELD_NAME_BYTES_MAX, RESUME_TOKEN_BYTES_MAX, UNKNOWN_FIELDS_MAX,
};
use crate::protocol::{Command, Envelope, ErrorCode, Fault, Resume, Since, decode};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

const TYPES: [&str; 9] = ["connect", "join_room", "leave_room", "broadcast", "set_state", "presence", "history", "refresh", "ping"];
const FIELDS: [&str; 20] = [
    "type", "roomId", "seq", "data", "state", "key", "echo", "id", "presence", "since", "mode", "cursor", "limit", "t", "token",
    "user", "resume", "client", "attempt", "lastCode",
];

/// The fields of an object in their order, those that come twice included.
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    pairs.push((Cow::Owned(key), map.next_value::<&RawValue>()?.get()));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

impl<'a> Pairs<'a> {
    fn of(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    fn raw(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, raw)| *raw)
    }

    fn count(&self, key: &str) -> usize {
        self.0.iter().filter(|(name, _)| name == key).count()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.raw(key).and_then(|raw| serde_json::from_str(raw).ok())
    }

    fn integer(&self, key: &str) -> Option<u64> {
        self.raw(key).and_then(integer)
    }

    /// Whether the object as such breaks a rule: a key that is too long or comes twice, too many unknown ones, nesting.
    fn broken_rules(&self) -> HashSet<&'static str> {
        let mut rules = HashSet::new();
        let unknown: HashSet<&str> = self.0.iter().map(|(key, _)| key.as_ref()).filter(|key| !FIELDS.contains(key)).collect();
        if unknown.iter().filter(|key| key.len() <= FIELD_NAME_BYTES_MAX).count() > UNKNOWN_FIELDS_MAX {
            rules.insert("too_many_fields");
        }
        for (key, raw) in &self.0 {
            let depth_max = if matches!(key.as_ref(), "data" | "state") { DATA_DEPTH_MAX } else { ENVELOPE_DEPTH_MAX - 1 };
            if key.len() > FIELD_NAME_BYTES_MAX || self.count(key) > 1 || depth_of(raw) > depth_max {
                rules.insert("bad_json");
            }
        }
        rules
    }
}

/// An integer of the protocol: digits, without a leading zero (which JSON refuses), up to 2^53 - 1.
fn integer(raw: &str) -> Option<u64> {
    let is_plain = raw.bytes().all(|byte| byte.is_ascii_digit());
    raw.parse().ok().filter(|number| is_plain && *number <= INTEGER_MAX)
}

/// A name without control characters.
fn is_name(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max && !text.chars().any(char::is_control)
}

/// Decodes a message and compares.
pub(super) fn check_decoding(text: &str) {
    let pairs = Pairs::of(text);
    match (decode(text), &pairs) {
        (Ok(envelope), Some(pairs)) => {
            assert_eq!(pairs.broken_rules(), HashSet::new(), "{text:?} is taken");
            check_envelope(&envelope, pairs);
        }
        (Ok(envelope), None) => panic!("{envelope:?} was read in what is no object for serde_json: {text:?}"),
        (Err(fault), None) => assert_eq!(fault.code, ErrorCode::BadJson),
        (Err(fault), Some(pairs)) => check_fault(&fault, pairs, text),
    }
}

fn check_envelope(envelope: &Envelope<'_>, pairs: &Pairs<'_>) {
    assert_eq!(envelope.seq, pairs.integer("seq"));
    assert!(envelope.seq.is_some() == pairs.raw("seq").is_some() && envelope.seq != Some(0));
    assert_eq!(envelope.id, pairs.raw("id"));
    assert!(envelope.id.is_none_or(is_id));
    let kind = pairs.text("type").expect("a message has a type");
    let same = |value: &Option<Cow<'_, str>>, key: &str| {
        assert_eq!(value.as_deref(), pairs.text(key).as_deref());
        assert_eq!(value.is_some(), pairs.raw(key).is_some());
    };
    let same_integer = |value: Option<u64>, key: &str| {
        assert_eq!((value, value.is_some()), (pairs.integer(key), pairs.raw(key).is_some()));
    };
    let same_flag = |value: bool, key: &str| {
        assert_eq!(pairs.raw(key).unwrap_or("false"), if value { "true" } else { "false" });
    };
    let same_room = |room: &str| assert!(is_name(room, ROOM_ID_BYTES_MAX) && pairs.text("roomId").as_deref() == Some(room));
    let same_since = |value: &Option<Since<'_>>| {
        assert_eq!(value.as_ref().map(owned), pairs.raw("since").and_then(since));
        assert_eq!(value.is_some(), pairs.raw("since").is_some());
    };
    let expected = match &envelope.command {
        Command::Connect { user, token, resume, client, attempt, last_code } => {
            same(user, "user");
            same(token, "token");
            assert!(user.as_deref().is_none_or(|user| is_name(user, USER_ID_BYTES_MAX)));
            assert_eq!((*resume, *client), (pairs.raw("resume"), pairs.raw("client")));
            assert!(resume.is_none_or(|raw| raw.starts_with('{')));
            if let Some(resume) = resume.and_then(Resume::read) {
                assert!(resume.token.len() <= RESUME_TOKEN_BYTES_MAX && resume.acked <= INTEGER_MAX);
                assert!(resume.rooms().all(|room| is_name(&room.room, ROOM_ID_BYTES_MAX)));
            }
            same_integer(*attempt, "attempt");
            same_integer(*last_code, "lastCode");
            "connect"
        }
        Command::JoinRoom { room, since, presence, state, latest } => {
            same_room(room);
            same_since(since);
            same_flag(*presence, "presence");
            assert_eq!(*state, pairs.raw("state"));
            assert_eq!(pairs.text("mode").as_deref().unwrap_or("all"), if *latest { "latest" } else { "all" });
            "join_room"
        }
        Command::LeaveRoom { room } => {
            same_room(room);
            "leave_room"
        }
        Command::Broadcast { room, data, key, echo } => {
            same_room(room);
            assert_eq!(Some(*data), pairs.raw("data"));
            same(key, "key");
            assert!(key.as_deref().is_none_or(|key| is_name(key, KEY_BYTES_MAX)));
            same_flag(*echo, "echo");
            "broadcast"
        }
        Command::SetState { room, state } => {
            same_room(room);
            assert_eq!(Some(*state), pairs.raw("state"));
            "set_state"
        }
        Command::Presence { room, cursor, limit } => {
            same_room(room);
            same(cursor, "cursor");
            same_integer(*limit, "limit");
            assert!(envelope.id.is_some() && cursor.as_deref().is_none_or(|cursor| cursor.len() <= CURSOR_BYTES_MAX));
            "presence"
        }
        Command::History { room, since, limit } => {
            same_room(room);
            same_since(since);
            same_integer(*limit, "limit");
            assert!(envelope.id.is_some());
            "history"
        }
        Command::Refresh { token } => {
            assert_eq!(Some(token.as_ref()), pairs.text("token").as_deref());
            "refresh"
        }
        Command::Ping { t } => {
            assert_eq!(*t, pairs.raw("t"));
            "ping"
        }
    };
    assert_eq!(kind, expected);
}

fn owned(since: &Since<'_>) -> (String, u64) {
    (since.epoch.clone().into_owned(), since.offset)
}

/// A position, by the rules of the protocol; `None` if it is none.
fn since(raw: &str) -> Option<(String, u64)> {
    let pairs = Pairs::of(raw)?;
    let unknown: HashSet<&str> =
        pairs.0.iter().map(|(key, _)| key.as_ref()).filter(|key| !["epoch", "offset"].contains(key)).collect();
    let is_sound = unknown.len() <= UNKNOWN_FIELDS_MAX
        && pairs
            .0
            .iter()
            .all(|(key, raw)| key.len() <= FIELD_NAME_BYTES_MAX && pairs.count(key) == 1 && depth_of(raw) < ENVELOPE_DEPTH_MAX);
    let epoch = pairs.text("epoch").filter(|epoch| epoch.len() <= EPOCH_BYTES_MAX);
    if is_sound { Some((epoch?, pairs.integer("offset")?)) } else { None }
}

fn is_id(raw: &str) -> bool {
    raw.len() <= REQUEST_ID_BYTES_MAX && raw.starts_with(['"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
}

/// A refusal names a rule that the message breaks, and tells of `seq` and `id` only what is beyond doubt.
fn check_fault(fault: &Fault<'_>, pairs: &Pairs<'_>, text: &str) {
    let seq = pairs.integer("seq").filter(|seq| *seq > 0 && pairs.count("seq") == 1);
    let id = pairs.raw("id").filter(|raw| is_id(raw) && pairs.count("id") == 1);
    // A value that is nested beyond all bounds ends the reading where it stands.
    if depth_of(text) <= DATA_DEPTH_MAX {
        assert_eq!((fault.seq, fault.id), (seq, id), "{text:?}");
    }
    let kind = pairs.text("type");
    let rules = pairs.broken_rules();
    let has = |key: &str| pairs.raw(key).is_some();
    let is_bad_name = |key: &str, bytes_max: usize| has(key) && !pairs.text(key).is_some_and(|name| is_name(&name, bytes_max));
    let is_bad_integer = |key: &str| has(key) && pairs.integer(key).is_none();
    let is_bad_flag = |key: &str| !matches!(pairs.raw(key), None | Some("true" | "false"));
    let is_bad_text = |key: &str, bytes_max: usize| has(key) && pairs.text(key).is_none_or(|text| text.len() > bytes_max);
    let is_kind = |kinds: &[&str]| kind.as_deref().is_some_and(|kind| kinds.contains(&kind));
    #[expect(clippy::wildcard_enum_match_arm, reason = "few codes are of decoding")]
    let is_justified = match fault.code {
        ErrorCode::BadJson => rules.contains("bad_json"),
        ErrorCode::TooManyFields => rules.contains("too_many_fields"),
        _ if !rules.is_empty() => false,
        ErrorCode::UnknownType => has("type") && !kind.as_deref().is_some_and(|kind| TYPES.contains(&kind)),
        ErrorCode::BadSeq => has("seq") && seq.is_none(),
        ErrorCode::BadRoomId => is_bad_name("roomId", ROOM_ID_BYTES_MAX),
        ErrorCode::BadUserId => is_kind(&["connect"]) && is_bad_name("user", USER_ID_BYTES_MAX),
        ErrorCode::MissingField => match kind.as_deref() {
            None => !has("type"),
            Some("refresh") => !has("token"),
            Some("broadcast") => !has("roomId") || !has("data"),
            Some("set_state") => !has("roomId") || !has("state"),
            Some("presence" | "history") => !has("roomId") || !has("id"),
            Some(_) => !has("roomId"),
        },
        ErrorCode::BadField => {
            let is_bad_mode = !matches!(pairs.text("mode").as_deref(), Some("all" | "latest")) && has("mode");
            let is_bad_since = has("since") && pairs.raw("since").and_then(since).is_none();
            // A name of the wrong type is a bad field; the wrong name a bad id.
            has("type") && !pairs.raw("type").is_some_and(|raw| raw.starts_with('"'))
                || has("id") && id.is_none()
                || !is_kind(&["ping", "refresh", "connect"]) && !pairs.raw("roomId").is_none_or(|raw| raw.starts_with('"'))
                || is_kind(&["broadcast"]) && (is_bad_name("key", KEY_BYTES_MAX) || is_bad_flag("echo"))
                || is_kind(&["join_room"]) && (is_bad_mode || is_bad_flag("presence"))
                || is_kind(&["join_room", "history"]) && is_bad_since
                || is_kind(&["presence"]) && is_bad_text("cursor", CURSOR_BYTES_MAX)
                || is_kind(&["presence", "history"]) && is_bad_integer("limit")
                || is_kind(&["connect"]) && (is_bad_integer("attempt") || is_bad_integer("lastCode"))
                || is_kind(&["connect"]) && !pairs.raw("resume").is_none_or(|raw| raw.starts_with('{'))
                || is_kind(&["connect"]) && !pairs.raw("user").is_none_or(|raw| raw.starts_with('"'))
                || is_kind(&["connect", "refresh"]) && is_bad_text("token", usize::MAX)
        }
        // The rest is for who holds the session to say.
        _ => false,
    };
    assert!(is_justified, "{fault:?} of {text:?}");
}
