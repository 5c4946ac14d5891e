//! The one table of settings: name, meaning, unit, range, default and how each is read into [`Settings`].
//!
//! Flags, environment variables, TOML keys, `--help` and `--print-config` all come from [`KEYS`], so that they can't drift apart.
//! A default is whatever [`Settings::default`] holds: it is not written twice.

use super::units::{format_duration, format_size, parse_duration, parse_size};
use crate::limits::{self, Limits};
use std::net::SocketAddr;

/// What a running server is set to. Every field is the value of one key of [`KEYS`].
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where clients connect over TLS; `None`: 127.0.0.1:9443 if there is a certificate, else nowhere.
    pub tls_listen: Option<SocketAddr>,
    /// Files of certificate chains, separated by commas.
    pub tls_cert: Option<String>,
    /// Files of their keys, in the same order.
    pub tls_key: Option<String>,
    /// Make a certificate at start, for a developer's own machine.
    pub tls_dev: bool,
    /// Take TLS 1.2 beside 1.3.
    pub tls12: bool,
    /// The record layer of open connections: one of [`RECORD_LAYERS`].
    pub tls_records: &'static str,
    /// Where the admin HTTP listens.
    pub admin: SocketAddr,
    /// Shards; `None`: one per core.
    pub shards: Option<usize>,
    /// Bytes the process may use; `None`: what the other settings add up to.
    pub memory_bytes_max: Option<u64>,
    /// Bytes that wait for one socket; `None`: 256 KiB, and never less than two messages.
    pub send_queue_bytes_max: Option<usize>,
    /// Serve `/echo`.
    pub echo: bool,
    /// How long `/readyz` fails before connections are closed, in ms.
    pub drain_notice_ms: u64,
    /// How long the closing of all connections may take, in ms.
    pub drain_ms: u64,
    /// Lowest level that is logged.
    pub log: tracing::level_filters::LevelFilter,
    /// The bounds that an operator may set. `flex_bytes_max` and `send_queue_bytes_max` are filled in by `Settings::limits`.
    pub bounds: Limits,
}

impl Settings {
    /// Whether a TLS listener is asked for.
    pub fn has_tls(&self) -> bool {
        self.tls_dev || self.tls_listen.is_some() || self.tls_cert.is_some() || self.tls_key.is_some()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 9000)),
            tls_listen: None,
            tls_cert: None,
            tls_key: None,
            tls_dev: false,
            tls12: false,
            tls_records: RECORD_LAYERS[0],
            admin: SocketAddr::from(([127, 0, 0, 1], 9001)),
            shards: None,
            memory_bytes_max: None,
            send_queue_bytes_max: None,
            echo: false,
            drain_notice_ms: 10_000,
            drain_ms: 10_000,
            log: tracing::level_filters::LevelFilter::INFO,
            bounds: Limits::default(),
        }
    }
}

/// The value of one key, with its unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The server chooses.
    Auto,
    /// IP address and port.
    Address(SocketAddr),
    /// A number of things.
    Count(u64),
    /// Bytes.
    Size(u64),
    /// Milliseconds.
    Duration(u64),
    /// On or off.
    Switch(bool),
    /// One of a few words.
    Word(&'static str),
    /// Any text.
    Text(String),
}

/// How the text of a value is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `IP:PORT`.
    Address,
    /// A whole number in a range.
    Count(u64, u64),
    /// A size in a range of bytes.
    Size(u64, u64),
    /// A duration in a range of milliseconds.
    Duration(u64, u64),
    /// A duration in a range of milliseconds, of which a bare number means seconds.
    Seconds(u64, u64),
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// One or more paths.
    Paths,
}

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Flag without `--`, TOML key, and, in capitals with `_` and `THRONG_` before it, environment variable.
    pub name: &'static str,
    /// Type, unit and range.
    pub kind: Kind,
    /// Whether `auto` is a value.
    pub auto: bool,
    /// Shown by `-h`; the others only by `--help`.
    pub common: bool,
    /// One line for the operator.
    pub doc: &'static str,
    /// The value held.
    pub value: fn(&Settings) -> Value,
    /// Puts a value that [`Key::parse`] gave.
    pub set: fn(&mut Settings, Value),
}

impl Key {
    /// Name of the environment variable.
    pub fn variable(&self) -> String {
        format!("THRONG_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// What stands for the value in `--help`.
    pub fn placeholder(&self) -> &'static str {
        match self.kind {
            Kind::Address => "IP:PORT",
            Kind::Count(..) => "N",
            Kind::Size(..) => "SIZE",
            Kind::Duration(..) => "DURATION",
            Kind::Seconds(..) => "SECONDS",
            Kind::Switch => "BOOL",
            Kind::Word(words) if words == LEVELS => "LEVEL",
            Kind::Word(_) => "WORD",
            Kind::Paths => "FILE[,FILE]",
        }
    }

    /// Reads a value and checks its range.
    ///
    /// # Errors
    /// What is wrong and what would be right, without the key's name.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        if self.auto && text == "auto" {
            return Ok(Value::Auto);
        }
        let value = match self.kind {
            Kind::Address => {
                Value::Address(text.parse().map_err(|_| format!("{text:?} is not IP:PORT, such as 127.0.0.1:9000 or [::]:9000"))?)
            }
            Kind::Count(..) => Value::Count(text.parse().map_err(|_| format!("{text:?} is not a whole number"))?),
            Kind::Size(..) => Value::Size(parse_size(text)?),
            Kind::Seconds(..) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Value::Duration(parse_duration(&format!("{text}s"))?)
            }
            Kind::Duration(..) | Kind::Seconds(..) => Value::Duration(parse_duration(text)?),
            Kind::Switch => match text {
                "true" | "1" | "yes" | "on" => Value::Switch(true),
                "false" | "0" | "no" | "off" => Value::Switch(false),
                _ => return Err(format!("{text:?} is neither true nor false")),
            },
            Kind::Word(words) => match words.iter().find(|word| **word == text) {
                Some(word) => Value::Word(word),
                None => return Err(format!("{text:?} is not one of {}", words.join(", "))),
            },
            Kind::Paths if text.split(',').any(|path| path.trim().is_empty()) => return Err(format!("{text:?} has an empty path")),
            Kind::Paths => Value::Text(text.to_owned()),
        };
        self.check_range(&value)?;
        Ok(value)
    }

    fn check_range(&self, value: &Value) -> Result<(), String> {
        let (number, low, high) = match (self.kind, value) {
            (Kind::Count(low, high), Value::Count(number))
            | (Kind::Size(low, high), Value::Size(number))
            | (Kind::Duration(low, high) | Kind::Seconds(low, high), Value::Duration(number)) => (*number, low, high),
            _ => return Ok(()),
        };
        if (low..=high).contains(&number) {
            return Ok(());
        }
        let write = |number| match self.kind {
            Kind::Size(..) => format_size(number),
            Kind::Duration(..) | Kind::Seconds(..) => format_duration(number),
            Kind::Address | Kind::Count(..) | Kind::Switch | Kind::Word(_) | Kind::Paths => number.to_string(),
        };
        Err(format!("{} is out of range: {} to {}", write(number), write(low), write(high)))
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Auto => formatter.write_str("auto"),
            Value::Address(address) => write!(formatter, "{address}"),
            Value::Count(count) => write!(formatter, "{count}"),
            Value::Size(bytes) => formatter.write_str(&format_size(*bytes)),
            Value::Duration(ms) => formatter.write_str(&format_duration(*ms)),
            Value::Switch(on) => write!(formatter, "{on}"),
            Value::Word(word) => formatter.write_str(word),
            Value::Text(text) => formatter.write_str(text),
        }
    }
}

impl Value {
    /// As TOML writes it.
    pub fn to_toml(&self) -> String {
        match self {
            Value::Count(_) | Value::Switch(_) => self.to_string(),
            Value::Auto | Value::Address(_) | Value::Size(_) | Value::Duration(_) | Value::Word(_) => format!("\"{self}\""),
            Value::Text(text) => toml::Value::from(text.as_str()).to_string(),
        }
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR_MS: u64 = 3_600_000;
/// Record layers of TLS connections: our own, and rustls' that it is compared with.
pub const RECORD_LAYERS: &[&str] = &["compact", "rustls"];
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// Rows of the table: `name, kind, auto|plain, common|rare, doc, [path of the field], wrapping` where the wrapping names how the
/// field becomes a [`Value`] and back.
macro_rules! keys {
    ($($name:literal $kind:expr, $auto:ident, $common:ident, [$($field:tt)+] as $wrap:ident, $doc:literal;)*) => {
        /// Every setting, in the order in which they are shown.
        pub const KEYS: &[Key] = &[$(Key {
            name: $name, kind: $kind, auto: keys!(@flag $auto), common: keys!(@flag $common), doc: $doc,
            value: |settings| keys!(@value $wrap, settings.$($field)+),
            set: |settings, value| keys!(@set $wrap, settings.$($field)+, value),
        },)*];
    };
    (@flag auto) => { true }; (@flag plain) => { false };
    (@flag common) => { true }; (@flag rare) => { false };
    (@value address, $field:expr) => { Value::Address($field) };
    (@value optional_address, $field:expr) => { $field.map_or(Value::Auto, Value::Address) };
    (@value optional_text, $field:expr) => { $field.clone().map_or(Value::Auto, Value::Text) };
    (@value word, $field:expr) => { Value::Word($field) };
    (@value count, $field:expr) => { Value::Count($field as u64) };
    (@value optional_count, $field:expr) => { $field.map_or(Value::Auto, |count| Value::Count(count as u64)) };
    (@value size, $field:expr) => { Value::Size($field as u64) };
    (@value optional_size, $field:expr) => { $field.map_or(Value::Auto, |bytes| Value::Size(bytes as u64)) };
    (@value duration, $field:expr) => { Value::Duration($field) };
    (@value switch, $field:expr) => { Value::Switch($field) };
    (@value level, $field:expr) => {
        // A level displays as its name in small letters, which is one of LEVELS.
        Value::Word(LEVELS.iter().find(|word| **word == $field.to_string()).copied().unwrap_or("info"))
    };
    (@set address, $field:expr, $value:ident) => { if let Value::Address(address) = $value { $field = address } };
    (@set optional_address, $field:expr, $value:ident) => {
        $field = if let Value::Address(address) = $value { Some(address) } else { None }
    };
    (@set optional_text, $field:expr, $value:ident) => { $field = if let Value::Text(text) = $value { Some(text) } else { None } };
    (@set word, $field:expr, $value:ident) => { if let Value::Word(word) = $value { $field = word } };
    (@set count, $field:expr, $value:ident) => { if let Value::Count(number) = $value { $field = number as _ } };
    (@set optional_count, $field:expr, $value:ident) => {
        $field = if let Value::Count(number) = $value { Some(number as _) } else { None }
    };
    (@set size, $field:expr, $value:ident) => { if let Value::Size(number) = $value { $field = number as _ } };
    (@set optional_size, $field:expr, $value:ident) => {
        $field = if let Value::Size(number) = $value { Some(number as _) } else { None }
    };
    (@set duration, $field:expr, $value:ident) => { if let Value::Duration(ms) = $value { $field = ms } };
    (@set switch, $field:expr, $value:ident) => { if let Value::Switch(on) = $value { $field = on } };
    (@set level, $field:expr, $value:ident) => {
        if let Value::Word(word) = $value { $field = word.parse().unwrap_or(tracing::level_filters::LevelFilter::INFO) }
    };
}

keys! {
    "listen" Kind::Address, plain, common, [listen] as address,
        "Where clients connect";
    "tls-listen" Kind::Address, auto, common, [tls_listen] as optional_address,
        "Where clients connect over TLS (auto: 127.0.0.1:9443 with a certificate, else nowhere)";
    "tls-cert" Kind::Paths, auto, common, [tls_cert] as optional_text,
        "Certificate chains in PEM, chosen by name; read again when they change and at SIGHUP (auto: none)";
    "tls-key" Kind::Paths, auto, common, [tls_key] as optional_text,
        "Their private keys in PEM, in the same order (auto: none)";
    "tls-dev" Kind::Switch, plain, common, [tls_dev] as switch,
        "Make a certificate for development, which nobody else can trust";
    "tls12" Kind::Switch, plain, rare, [tls12] as switch,
        "Take TLS 1.2 too; such a connection costs about 4 KiB more";
    "tls-records" Kind::Word(RECORD_LAYERS), plain, rare, [tls_records] as word,
        "Record layer of TLS connections: compact, or rustls' to compare with, about 4 KiB more each";
    "admin" Kind::Address, plain, common, [admin] as address,
        "Where /metrics, /healthz and /readyz are served";
    "shards" Kind::Count(1, limits::SHARDS_MAX as u64), auto, common, [shards] as optional_count,
        "Event loops, each with its own ring (auto: one per core)";
    "connections-max" Kind::Count(1, (limits::SHARDS_MAX * limits::SHARD_CONNECTIONS_MAX) as u64), plain, common,
        [bounds.connections_max] as count,
        "Connections over all shards; the next one gets 503 with Retry-After";
    "memory-max" Kind::Size(MIB, 1 << 50), auto, common, [memory_bytes_max] as optional_size,
        "Memory of the process (auto: what the other settings add up to)";
    "message-bytes-max" Kind::Size(1_024, 64 * MIB), plain, common, [bounds.message_bytes_max] as size,
        "Size of a message; above, the connection is closed with 1009";
    "send-queue-bytes-max" Kind::Size(2_048, GIB), auto, common, [send_queue_bytes_max] as optional_size,
        "Bytes that wait for one slow socket; above, 4102 (auto: 256K, at least two messages)";
    "echo" Kind::Switch, plain, common, [echo] as switch,
        "Serve /echo, which sends every message back: for conformance and measurement";
    "drain-notice" Kind::Duration(0, HOUR_MS), plain, common, [drain_notice_ms] as duration,
        "After SIGTERM: how long /readyz fails while accepting goes on";
    "drain-seconds" Kind::Seconds(100, HOUR_MS), plain, common, [drain_ms] as duration,
        "After the notice: how long closing all connections with 4200 may take";
    "log" Kind::Word(LEVELS), plain, common, [log] as level,
        "Lowest level logged to stderr: off, error, warn, info, debug or trace";
    "rooms-per-connection-max" Kind::Count(1, 65_536), plain, rare, [bounds.rooms_per_connection_max] as count,
        "Rooms that one connection may be in";
    "members-per-room-max" Kind::Count(1, 1 << 32), plain, rare, [bounds.members_per_room_max] as count,
        "Members that one room may have";
    "presence-members-max" Kind::Count(0, 1_000_000), plain, rare, [bounds.presence_members_max] as count,
        "Members up to which a room tells who they are; above, it tells how many";
    "presence-state-bytes-max" Kind::Size(0, 64 * 1_024), plain, rare, [bounds.presence_state_bytes_max] as size,
        "Size of the presence state of one connection";
    "history-publications" Kind::Count(0, 1 << 20), plain, common, [bounds.history_publications_max] as count,
        "Publications that a room keeps for those who missed them; 0: none";
    "history-bytes" Kind::Size(0, GIB), plain, rare, [bounds.history_bytes_max] as size,
        "Size of what a room keeps; a publication above it empties the history";
    "history-age" Kind::Duration(1_000, 24 * HOUR_MS), plain, common, [bounds.history_age_ms] as duration,
        "How long a publication is kept, and a room's numbering after its last member";
    "history-memory" Kind::Size(0, 1 << 50), auto, rare, [bounds.history_memory_bytes_max] as optional_size,
        "Memory of all histories (auto: a quarter of the flexible memory); above, the oldest publications go";
    "decline-gaps" Kind::Switch, plain, rare, [bounds.gaps_declined] as switch,
        "Close a member for which something is lost because it was slow with 4102, rather than tell it the gap";
    "heartbeat" Kind::Duration(1_000, HOUR_MS), plain, rare, [bounds.heartbeat_ms] as duration,
        "Silence after which a connection in a room is pinged";
    "heartbeat-idle" Kind::Duration(1_000, HOUR_MS), plain, rare, [bounds.heartbeat_idle_ms] as duration,
        "Silence after which a connection in no room is pinged";
    "timeout" Kind::Duration(500, HOUR_MS), plain, rare, [bounds.timeout_ms] as duration,
        "Time in which a ping must be answered";
    "presence-grace" Kind::Duration(0, HOUR_MS), plain, rare, [bounds.presence_grace_ms] as duration,
        "How long the presence of a connection that broke off stays";
    "resume-ttl" Kind::Duration(0, 24 * HOUR_MS), plain, common, [bounds.resume_ttl_ms] as duration,
        "How long a session whose connection broke off waits for its client; 0: not at all";
    "reorder-age" Kind::Duration(100, 60_000), plain, rare, [bounds.reorder_age_ms] as duration,
        "How long a command waits for an earlier seq";
    "handshake-deadline" Kind::Duration(500, 300_000), plain, rare, [bounds.handshake_deadline_ms] as duration,
        "Time from accept to a complete upgrade, and from there to the connect frame";
    "lane-places" Kind::Count(limits::CONSEQUENCES_PER_COMMAND_MAX as u64, 1 << 20), auto, rare, [bounds.lane_places] as optional_count,
        "Messages that may wait between two shards (auto: 8192 shared among the peers, at least 32)";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_in_its_own_range_and_reads_back() {
        let defaults = Settings::default();
        for key in KEYS {
            let value = (key.value)(&defaults);
            assert_eq!(key.parse(&value.to_string()).as_ref(), Ok(&value), "{}", key.name);
            let mut changed = defaults.clone();
            (key.set)(&mut changed, value);
            assert_eq!(changed, defaults, "{}", key.name);
        }
    }

    #[test]
    fn names_are_unique_and_make_good_variables() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| other.name != key.name));
            assert!(
                key.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{}",
                key.name
            );
        }
        let key = KEYS.iter().find(|key| key.name == "connections-max").expect("it is there");
        assert_eq!(key.variable(), "THRONG_CONNECTIONS_MAX");
    }

    #[test]
    fn seconds_take_a_bare_number_and_other_durations_do_not() {
        let key = |name| KEYS.iter().find(|key| key.name == name).expect("is in the table");
        assert_eq!(key("drain-seconds").parse("7"), Ok(Value::Duration(7_000)));
        assert_eq!(key("drain-seconds").parse("700ms"), Ok(Value::Duration(700)));
        assert!(key("drain-notice").parse("7").is_err());
    }
}
