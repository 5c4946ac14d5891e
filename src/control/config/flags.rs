//! The table of settings as command line flags.

use super::{Config, ConfigError, KEYS, Key, Kind, Settings, Sources};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use std::path::PathBuf;

const CONFIG: &str = "config";
const PRINT: &str = "print-config";

/// A flag for every key, and `--config` and `--print-config`.
pub fn arguments() -> Vec<Arg> {
    let mut arguments = vec![
        Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Read settings from a TOML file; its keys are the flags' names [env: THRONG_CONFIG]"),
        Arg::new(PRINT)
            .long(PRINT)
            .action(ArgAction::SetTrue)
            .help("Print the effective configuration as TOML, with where each value came from, and exit"),
    ];
    arguments.extend(KEYS.iter().map(argument));
    arguments
}

fn argument(key: &Key) -> Arg {
    let default = (key.value)(&Settings::default());
    let argument = Arg::new(key.name)
        .long(key.name)
        .value_name(key.placeholder())
        .help(format!("{} [default: {default}]", key.doc))
        .long_help(format!("{} [default: {default}] [env: {}]", key.doc, key.variable()))
        .hide_short_help(!key.common);
    match key.kind {
        // `--echo` alone switches on; `--echo=false` overrides a file.
        Kind::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::Address | Kind::Count(..) | Kind::Size(..) | Kind::Duration(..) | Kind::Seconds(..) | Kind::Word(_) | Kind::Paths => {
            argument
        }
    }
}

/// Whether only printing was asked for.
pub fn wants_print(matches: &ArgMatches) -> bool {
    matches.get_flag(PRINT)
}

/// Reads flags, environment and file.
///
/// # Errors
/// Every cause found.
pub fn load(matches: &ArgMatches) -> Result<Config, ConfigError> {
    let flags =
        KEYS.iter().enumerate().filter_map(|(index, key)| Some((index, matches.get_one::<String>(key.name)?.clone()))).collect();
    let variables = super::read_variables()?;
    let from_variable =
        || variables.iter().find(|(name, path)| name == super::FILE_VARIABLE && !path.is_empty()).map(|(_, path)| path.into());
    let path = matches.get_one::<PathBuf>(CONFIG).cloned().or_else(from_variable);
    let text = path.as_deref().map(super::read_file).transpose()?;
    let file = path.as_deref().zip(text.as_deref());
    Config::load(&Sources { flags, file, variables })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> clap::Command {
        clap::Command::new("throng").args(arguments())
    }

    #[test]
    fn the_command_is_well_formed_and_has_every_key() {
        command().debug_assert();
        let help = command().render_long_help().to_string();
        assert!(KEYS.iter().all(|key| help.contains(&format!("--{}", key.name)) && help.contains(&key.variable())));
    }

    #[test]
    fn short_help_has_the_common_keys_only() {
        let help = command().render_help().to_string();
        assert!(help.contains("--connections-max") && !help.contains("--reorder-age"), "{help}");
    }

    #[test]
    fn a_switch_needs_no_value_and_takes_none_from_the_next_word() {
        let given = |words: &[&str]| {
            let matches = command().try_get_matches_from(words).ok()?;
            matches.get_one::<String>("echo").cloned()
        };
        assert_eq!(given(&["throng", "--echo"]).as_deref(), Some("true"));
        assert_eq!(given(&["throng", "--echo=false"]).as_deref(), Some("false"));
        assert_eq!(given(&["throng", "--echo", "false"]), None);
    }
}
