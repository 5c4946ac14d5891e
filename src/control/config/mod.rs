//! Where settings come from: flag over environment variable over TOML file over default, with the origin of each kept.
//!
//! This file decides precedence and what is refused while reading: an unknown key, a wrong type, a value out of range, each with
//! file and line (or flag, or variable) and the nearest right name. Whether the settings agree with each other and with the machine
//! is [`check`]'s; what the keys are is [`keys`]'s.

pub mod check;
pub mod flags;
pub mod keys;
pub mod units;

pub use keys::{KEYS, Key, Kind, Settings, Value};

use std::fmt;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Bytes of a configuration file. Above: refused. There are about thirty keys.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Environment variable that names the file, as `--config` does.
pub const FILE_VARIABLE: &str = "THRONG_CONFIG";
/// Beginning of our environment variables.
const VARIABLE_PREFIX: &str = "THRONG_";
/// Similarity (1: equal) above which a name is proposed in place of an unknown one.
const PROPOSE_ABOVE: f64 = 0.5;
/// Similarity above which an unknown variable is worth a warning. Orchestrators set variables of their own with our prefix.
const WARN_ABOVE: f64 = 0.8;

/// Why the server does not start with these settings: every cause that was found, one sentence each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub causes: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, cause) in self.causes.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            formatter.write_str(cause)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file, on this line.
    File(u32),
    /// Its environment variable.
    Variable,
    /// Its flag.
    Flag,
}

/// Settings with their origins.
#[derive(Clone, Debug)]
pub struct Config {
    /// The values.
    pub settings: Settings,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// By index in [`KEYS`].
    origins: Vec<Origin>,
    /// What the operator should know though it is not refused.
    pub warnings: Vec<String>,
}

/// What [`Config::load`] reads from.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// Index in [`KEYS`] and text, for each flag that was given.
    pub flags: Vec<(usize, String)>,
    /// Path and text of the configuration file.
    pub file: Option<(&'a Path, &'a str)>,
    /// Environment variables; those without our prefix are ignored, and so are empty ones.
    pub variables: Vec<(String, String)>,
}

impl Config {
    /// Merges the sources.
    ///
    /// # Errors
    /// All causes found in all sources, also in values that a higher source overrides: a broken file is never half right.
    pub fn load(sources: &Sources<'_>) -> Result<Config, ConfigError> {
        let mut config = Config {
            settings: Settings::default(),
            file: sources.file.map(|(path, _)| path.to_owned()),
            origins: vec![Origin::Default; KEYS.len()],
            warnings: Vec::new(),
        };
        let mut causes = Vec::new();
        if let Some((path, text)) = sources.file {
            config.apply_file(path, text, &mut causes);
        }
        config.apply_variables(&sources.variables, &mut causes);
        for (index, text) in &sources.flags {
            match KEYS[*index].parse(text) {
                Ok(value) => config.put(*index, value, Origin::Flag),
                Err(cause) => causes.push(format!("--{}: {cause}", KEYS[*index].name)),
            }
        }
        if causes.is_empty() { Ok(config) } else { Err(ConfigError { causes }) }
    }

    /// Where the value of a key came from.
    ///
    /// # Panics
    /// If there is no such key.
    pub fn origin(&self, name: &str) -> &Origin {
        let index = KEYS.iter().position(|key| key.name == name).expect("the caller names a key of the table");
        &self.origins[index]
    }

    /// The whole configuration as TOML that [`Config::load`] reads back, with the origin of each value, and with what an `auto`
    /// came to, where `resolved` tells it by key.
    pub fn print(&self, resolved: &[(&str, String)]) -> String {
        let lines: Vec<String> =
            KEYS.iter().map(|key| format!("{} = {}", key.name, (key.value)(&self.settings).to_toml())).collect();
        let width = lines.iter().map(String::len).max().unwrap_or(0);
        let mut text = String::new();
        for ((line, origin), key) in lines.iter().zip(&self.origins).zip(KEYS) {
            let origin = match origin {
                Origin::Default => "default".to_owned(),
                Origin::File(number) => format!("{}:{number}", self.file.as_deref().unwrap_or(Path::new("file")).display()),
                Origin::Variable => format!("environment variable {}", key.variable()),
                Origin::Flag => format!("flag --{}", key.name),
            };
            // A path may hold any character but must not end the comment.
            let resolved = resolved.iter().find(|(name, _)| *name == key.name && (key.value)(&self.settings) == Value::Auto);
            let came_to = resolved.map_or(String::new(), |(_, value)| format!(": {value}"));
            let origin: String = origin.chars().map(|character| if character.is_control() { '?' } else { character }).collect();
            text.push_str(&format!("{line:width$}  # {origin}{came_to}\n"));
        }
        text
    }

    fn put(&mut self, index: usize, value: Value, origin: Origin) {
        (KEYS[index].set)(&mut self.settings, value);
        self.origins[index] = origin;
    }

    fn apply_file(&mut self, path: &Path, text: &str, causes: &mut Vec<String>) {
        let place = |offset: usize| format!("{}:{}", path.display(), line_of(text, offset));
        let document = match DeTable::parse(text) {
            Ok(document) => document,
            Err(error) => {
                causes.push(format!("{}: {}", place(error.span().map_or(0, |span| span.start)), error.message()));
                return;
            }
        };
        for (name, value) in document.get_ref() {
            let at = place(name.span().start);
            let Some(index) = KEYS.iter().position(|key| key.name == name.get_ref().as_ref()) else {
                causes.push(format!("{at}: unknown key {:?}{}", name.get_ref(), proposal(name.get_ref())));
                continue;
            };
            match toml_text(&KEYS[index], value.get_ref()).and_then(|text| KEYS[index].parse(&text)) {
                Ok(value) => self.put(index, value, Origin::File(line_of(text, name.span().start))),
                Err(cause) => causes.push(format!("{at}: {}: {cause}", KEYS[index].name)),
            }
        }
    }

    fn apply_variables(&mut self, variables: &[(String, String)], causes: &mut Vec<String>) {
        for (name, text) in variables {
            if !name.starts_with(VARIABLE_PREFIX) || name == FILE_VARIABLE || text.is_empty() {
                continue;
            }
            match KEYS.iter().position(|key| key.variable() == *name) {
                Some(index) => match KEYS[index].parse(text) {
                    Ok(value) => self.put(index, value, Origin::Variable),
                    Err(cause) => causes.push(format!("{name}: {cause}")),
                },
                None => {
                    let key = name[VARIABLE_PREFIX.len()..].to_ascii_lowercase();
                    if let Some((nearest, similarity)) = nearest_key(&key)
                        && similarity > WARN_ABOVE
                    {
                        self.warnings
                            .push(format!("environment variable {name} is no setting; did you mean {}?", nearest.variable()));
                    }
                }
            }
        }
    }
}

/// Reads a configuration file.
///
/// # Errors
/// One cause that names the path.
pub fn read_file(path: &Path) -> Result<String, ConfigError> {
    let failed = |cause: String| ConfigError { causes: vec![format!("{}: {cause}", path.display())] };
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut text = String::new();
    let mut bounded = std::io::Read::take(file, FILE_BYTES_MAX + 1);
    std::io::Read::read_to_string(&mut bounded, &mut text).map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(format!("is larger than {}", units::human_size(FILE_BYTES_MAX))));
    }
    Ok(text)
}

/// Our environment variables.
///
/// # Errors
/// One of them is not UTF-8.
pub fn read_variables() -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        if name.starts_with(VARIABLE_PREFIX) {
            match value.into_string() {
                Ok(value) => variables.push((name, value)),
                Err(_) => return Err(ConfigError { causes: vec![format!("{name}: is not UTF-8")] }),
            }
        }
    }
    Ok(variables)
}

/// The text that [`Key::parse`] reads, of a TOML value whose type fits the key.
fn toml_text(key: &Key, value: &DeValue<'_>) -> Result<String, String> {
    let expected = match key.kind {
        Kind::Address => "a string such as \"127.0.0.1:9000\"",
        Kind::Count(..) => "an integer",
        Kind::Size(..) => "an integer of bytes or a string such as \"64M\"",
        Kind::Duration(..) => "a string such as \"12s\"",
        Kind::Seconds(..) => "an integer of seconds or a string such as \"12s\"",
        Kind::Switch => "true or false",
        Kind::Word(_) | Kind::Paths => "a string",
    };
    let takes_integer = matches!(key.kind, Kind::Count(..) | Kind::Size(..) | Kind::Seconds(..));
    let takes_string =
        matches!(key.kind, Kind::Address | Kind::Size(..) | Kind::Duration(..) | Kind::Seconds(..) | Kind::Word(_) | Kind::Paths);
    match value {
        DeValue::Integer(integer) if takes_integer => i128::from_str_radix(integer.as_str(), integer.radix())
            .map(|number| number.to_string())
            .map_err(|_| format!("{integer} is out of range")),
        DeValue::String(text) if takes_string || (key.auto && text == "auto") => Ok(text.to_string()),
        DeValue::Boolean(on) if key.kind == Kind::Switch => Ok(on.to_string()),
        DeValue::Integer(_)
        | DeValue::String(_)
        | DeValue::Boolean(_)
        | DeValue::Float(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => Err(format!("expected {expected}, found {}", value.type_str())),
    }
}

fn line_of(text: &str, offset: usize) -> u32 {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() as u32 + 1
}

/// The most similar key and how similar it is (1: equal but for `_` and `-`).
fn nearest_key(name: &str) -> Option<(&'static Key, f64)> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    KEYS.iter()
        .map(|key| (key, strsim::normalized_damerau_levenshtein(key.name, &name)))
        .max_by(|(_, left), (_, right)| left.total_cmp(right))
}

fn proposal(name: &str) -> String {
    match nearest_key(name) {
        Some((key, similarity)) if similarity > PROPOSE_ABOVE => format!("; did you mean {:?}?", key.name),
        _ => "; `throng serve --help` lists the keys".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(name: &str, text: &str) -> (usize, String) {
        (KEYS.iter().position(|key| key.name == name).unwrap(), text.to_owned())
    }

    fn from_file(text: &str) -> Result<Config, ConfigError> {
        Config::load(&Sources { file: Some((Path::new("t.toml"), text)), ..Sources::default() })
    }

    fn refusal(text: &str) -> String {
        from_file(text).unwrap_err().to_string()
    }

    #[test]
    fn flag_wins_over_variable_over_file_over_default() {
        let file = "connections-max = 1\ntimeout = \"1s\"\nheartbeat = \"2s\"\n";
        let sources = Sources {
            flags: vec![flag("connections-max", "3")],
            file: Some((Path::new("t.toml"), file)),
            variables: vec![("THRONG_CONNECTIONS_MAX".into(), "2".into()), ("THRONG_TIMEOUT".into(), "3s".into())],
        };
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.settings.bounds.connections_max, 3);
        assert_eq!(config.settings.bounds.timeout_ms, 3_000);
        assert_eq!(config.settings.bounds.heartbeat_ms, 2_000);
        assert_eq!(config.settings.bounds.presence_grace_ms, 8_000);
        assert_eq!(config.origin("connections-max"), &Origin::Flag);
        assert_eq!(config.origin("timeout"), &Origin::Variable);
        assert_eq!(config.origin("heartbeat"), &Origin::File(3));
        assert_eq!(config.origin("presence-grace"), &Origin::Default);
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_line_and_the_nearest_key() {
        assert_eq!(
            refusal("\n\nconnection_max = 5\n"),
            "t.toml:3: unknown key \"connection_max\"; did you mean \"connections-max\"?"
        );
        assert!(refusal("zzzzzz = 5\n").contains("--help"));
        assert!(refusal("[limits]\nheartbeat = \"1s\"\n").starts_with("t.toml:1: unknown key \"limits\""));
    }

    #[test]
    fn a_wrong_type_is_refused_with_what_was_expected() {
        assert_eq!(refusal("echo = \"true\""), "t.toml:1: echo: expected true or false, found string");
        assert_eq!(refusal("heartbeat = 12"), "t.toml:1: heartbeat: expected a string such as \"12s\", found integer");
        assert_eq!(refusal("shards = \"two\""), "t.toml:1: shards: expected an integer, found string");
        assert!(refusal("listen = [1]").contains("found array"));
        assert!(refusal("connections-max = 1.5").contains("found float"));
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_the_range() {
        assert_eq!(refusal("shards = 0"), "t.toml:1: shards: 0 is out of range: 1 to 1024");
        assert_eq!(refusal("message-bytes-max = \"1G\""), "t.toml:1: message-bytes-max: 1G is out of range: 1K to 64M");
        assert!(refusal("shards = -1").contains("not a whole number"));
        assert!(refusal("shards = 99999999999999999999999").starts_with("t.toml:1:"));
    }

    #[test]
    fn every_cause_in_the_file_is_told_at_once() {
        assert_eq!(from_file("shards = 0\nechoo = true\n").unwrap_err().causes.len(), 2);
    }

    #[test]
    fn broken_toml_is_refused_with_its_line() {
        assert!(refusal("echo = true\nlisten = \n").starts_with("t.toml:2: "));
        assert!(refusal("echo = true\necho = false\n").starts_with("t.toml:2: "));
    }

    #[test]
    fn a_broken_variable_is_refused_even_when_a_flag_overrides_it() {
        let sources = Sources {
            flags: vec![flag("shards", "2")],
            variables: vec![("THRONG_SHARDS".into(), "many".into())],
            ..Sources::default()
        };
        assert_eq!(Config::load(&sources).unwrap_err().causes, ["THRONG_SHARDS: \"many\" is not a whole number"]);
    }

    #[test]
    fn a_mistyped_variable_is_warned_of_and_a_foreign_one_is_not() {
        let variables = ["THRONG_CONNECTION_MAX", "THRONG_PORT_9000_TCP_ADDR", "THRONG_SERVICE_HOST", "THRONG_SHARDS"];
        let variables =
            variables.iter().map(|name| ((*name).to_owned(), if *name == "THRONG_SHARDS" { "" } else { "1" }.to_owned())).collect();
        let config = Config::load(&Sources { variables, ..Sources::default() }).unwrap();
        assert_eq!(
            config.warnings,
            ["environment variable THRONG_CONNECTION_MAX is no setting; did you mean THRONG_CONNECTIONS_MAX?"]
        );
    }

    #[test]
    fn what_is_printed_is_the_file_that_gives_the_same_settings() {
        let text = "shards = 3\nmemory-max = \"1G\"\necho = true\nlog = \"debug\"\nlisten = \"[::1]:9\"\ndrain-seconds = 3\nlane-places = \"auto\"\n";
        let config = from_file(text).unwrap();
        let printed =
            config.print(&[("shards", "9".into()), ("memory-max", "8".into()), ("send-queue-bytes-max", "7 bytes".into())]);
        assert!(printed.contains("# t.toml:1\n") && printed.contains("# default: 7 bytes\n"), "{printed}");
        assert_eq!(from_file(&printed).unwrap().settings, config.settings);
    }
}
