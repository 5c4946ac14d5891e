//! What the kernel says of this process, under the names that Prometheus' client libraries gave it.
//!
//! A file that can't be read leaves its series out: no number is better than a false one.

use std::fmt::Write;

/// Clock ticks of `/proc/self/stat` in a second: `USER_HZ`, which is 100 on every Linux architecture of today.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn render(text: &mut String) {
    let mut series = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    };
    series("process_resident_memory_bytes", "gauge", "Resident memory of the process", resident_bytes().map(|bytes| bytes as f64));
    series("process_cpu_seconds_total", "counter", "User and system time of the process", cpu_seconds());
    let files = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    series("process_open_fds", "gauge", "Open file descriptors; sockets in a ring's table are none", files);
}

/// Resident memory of this process in bytes (`VmRSS`).
pub(in super::super) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    parse_cpu_seconds(&stat)
}

/// Fields 14 and 15 (proc_pid_stat(5)), counted after the name, which may hold spaces and parentheses.
fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_a_hostile_name() {
        assert_eq!(parse_cpu_seconds("1 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 1 0 5 6 7"), Some(4.0));
        assert_eq!(parse_cpu_seconds("1 (a"), None);
    }

    #[test]
    fn this_process_has_resident_memory() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 4096));
    }
}
