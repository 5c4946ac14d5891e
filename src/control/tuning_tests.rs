//! The files of `tuning/` are well formed and agree with the defaults of the settings.

use super::config::Settings;
use crate::limits::LISTEN_BACKLOG;

const SYSCTL: &str = include_str!("../../tuning/90-throng.conf");
const UNIT: &str = include_str!("../../tuning/throng.service");

/// Key and value of every line that is neither comment, section nor empty.
fn assignments(text: &'static str) -> Vec<(&'static str, &'static str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with('['));
    lines
        .map(|line| line.split_once('=').unwrap_or_else(|| panic!("not an assignment: {line}")))
        .map(|(k, v)| (k.trim(), v.trim()))
        .collect()
}

#[test]
fn the_sysctl_profile_sets_each_key_once_to_numbers() {
    let keys = assignments(SYSCTL);
    for (index, (key, value)) in keys.iter().enumerate() {
        assert!(keys[..index].iter().all(|(other, _)| other != key), "{key}");
        assert!(key.trim_start_matches('-').split('.').count() >= 2, "{key}");
        assert!(value.split(' ').all(|number| number.parse::<u64>().is_ok()), "{key}");
    }
    assert!(keys.contains(&("net.core.somaxconn", &LISTEN_BACKLOG.to_string())));
}

#[test]
fn systemd_waits_longer_than_the_drain_takes() {
    let unit = assignments(UNIT);
    let value = |key: &str| unit.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let seconds: u64 = value("TimeoutStopSec").and_then(|value| value.parse().ok()).expect("is a number of seconds");
    let settings = Settings::default();
    assert!(seconds * 1_000 > settings.drain_notice_ms + settings.drain_ms);
    assert_eq!(value("Type"), Some("notify"));
    assert_eq!(value("KillSignal"), Some("SIGTERM"));
}

#[test]
fn systemd_finds_the_unit_in_order_where_systemd_is_there_to_ask() {
    let directory = std::env::temp_dir().join(format!("throng-unit-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("throng.service");
    // verify looks for the program too, which is installed elsewhere or not at all.
    std::fs::write(&path, UNIT.replace("/usr/local/bin/throng", "/bin/true")).unwrap();
    let output = std::process::Command::new("systemd-analyze").arg("verify").arg(&path).output();
    std::fs::remove_dir_all(&directory).unwrap();
    if let Ok(output) = output {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("throng.service:"), "{said}");
    }
}
