//! What the server under test costs, seen from outside: its memory and time in `/proc`, its own metrics over HTTP.
//!
//! Everything is optional and bounded: a figure that can't be had is left out, never guessed.

use super::target::Admin;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Bytes of an answer of the admin server. Above: it is cut, and the cut line ignored.
const METRICS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Time for the admin server to answer.
const METRICS_TIMEOUT: Duration = Duration::from_secs(2);

/// A process of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(u32);

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// All of it (`VmRSS`).
    pub(super) resident: u64,
    /// What is not file-backed or shared (`RssAnon`).
    pub(super) anonymous: u64,
}

impl Process {
    /// # Errors
    /// There is no such process, or it may not be looked at.
    pub(super) fn new(pid: u32) -> Result<Process, String> {
        let process = Process(pid);
        match (process.memory(), process.cpu_ns()) {
            (Some(_), Some(_)) => Ok(process),
            _ => Err(format!("there is no process {pid} whose memory and time can be read in /proc")),
        }
    }

    /// This process.
    pub(super) fn own() -> Process {
        Process(std::process::id())
    }

    /// Its resident memory.
    pub(super) fn memory(self) -> Option<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        Some(Memory { resident: kilobytes(&status, "VmRSS:")?, anonymous: kilobytes(&status, "RssAnon:")? })
    }

    /// Time that its threads have been on a core, in ns: the first field of each `schedstat`. The time of threads that have ended is
    /// not in it.
    pub(super) fn cpu_ns(self) -> Option<u64> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0)).ok()?.flatten() {
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            total += text.split(' ').next()?.parse::<u64>().ok()?;
        }
        Some(total)
    }
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The server's metrics at one moment: value by series, such as `name{label="x"}`.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Asks the admin server.
    ///
    /// # Errors
    /// It can't be reached, is too slow, or answers something else.
    pub(super) fn fetch(admin: &Admin) -> Result<Metrics, String> {
        let failed = |error: std::io::Error| format!("the metrics of http://{} can't be had: {error}", admin.host);
        let mut stream = TcpStream::connect_timeout(&admin.address, METRICS_TIMEOUT).map_err(failed)?;
        stream.set_read_timeout(Some(METRICS_TIMEOUT)).map_err(failed)?;
        stream.set_write_timeout(Some(METRICS_TIMEOUT)).map_err(failed)?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", admin.host);
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = Vec::new();
        stream.take(METRICS_BYTES_MAX).read_to_end(&mut answer).map_err(failed)?;
        let answer = String::from_utf8_lossy(&answer);
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(Metrics::parse(body)),
            _ => Err(format!("http://{}/metrics does not answer with metrics", admin.host)),
        }
    }

    /// Reads the text format of Prometheus. Lines that are no samples are left out.
    pub(super) fn parse(text: &str) -> Metrics {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            (!line.starts_with('#')).then_some(())?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Metrics(text.lines().filter_map(sample).collect())
    }

    /// The sum over all series of this name; `None` if there is none.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        let values = self.series(name).map(|(_, value)| value);
        values.reduce(|sum, value| sum + value)
    }

    /// The sums by the value of a label.
    pub(super) fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.series(name) {
            let marker = format!("{label}=\"");
            let Some((_, rest)) = labels.split_once(&marker) else { continue };
            let Some((word, _)) = rest.split_once('"') else { continue };
            *sums.entry(word.to_owned()).or_insert(0.0) += value;
        }
        sums
    }

    /// The upper bound of the bucket in which this share (0 to 1) of what was observed since `earlier` lies; `None` if nothing
    /// was, or there is no such histogram. Infinite above the last bound.
    pub(super) fn quantile_since(&self, earlier: &Metrics, name: &str, quantile: f64) -> Option<f64> {
        let name = format!("{name}_bucket");
        let before = earlier.by_label(&name, "le");
        let buckets = self.by_label(&name, "le").into_iter().filter_map(|(bound, count)| {
            let counted = count - before.get(&bound).copied().unwrap_or(0.0);
            // `+Inf` is a number to Rust too.
            Some((bound.parse::<f64>().ok()?, counted))
        });
        let mut buckets: Vec<(f64, f64)> = buckets.collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let total = buckets.last()?.1;
        (total > 0.0).then_some(())?;
        buckets.iter().find(|(_, cumulative)| *cumulative >= quantile * total).map(|(bound, _)| *bound)
    }

    fn series<'m>(&'m self, name: &'m str) -> impl Iterator<Item = (&'m str, f64)> {
        self.0.range(name.to_owned()..).take_while(move |(series, _)| series.starts_with(name)).filter_map(
            move |(series, value)| {
                let labels = &series[name.len()..];
                (labels.is_empty() || labels.starts_with('{')).then_some((labels, *value))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total x\n# TYPE a_total counter\na_total 3\na_total_more 9\n\
        closes{shard=\"0\",reason=\"eof\"} 2\ncloses{shard=\"1\",reason=\"eof\"} 3\ncloses{shard=\"1\",reason=\"clean\"} 1\n\
        lag_bucket{shard=\"0\",le=\"0.5\"} 90\nlag_bucket{shard=\"0\",le=\"10\"} 99\nlag_bucket{shard=\"0\",le=\"+Inf\"} 100\nbroken\n";

    #[test]
    fn samples_are_summed_by_name_and_by_label() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!((metrics.sum("a_total"), metrics.sum("closes"), metrics.sum("b")), (Some(3.0), Some(6.0), None));
        let by_reason = metrics.by_label("closes", "reason");
        assert_eq!((by_reason["eof"], by_reason["clean"]), (5.0, 1.0));
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket_and_counts_only_what_is_new() {
        let metrics = Metrics::parse(TEXT);
        let none = Metrics::default();
        assert_eq!(metrics.quantile_since(&none, "lag", 0.5), Some(0.5));
        assert_eq!(metrics.quantile_since(&none, "lag", 0.99), Some(10.0));
        assert_eq!(metrics.quantile_since(&none, "lag", 1.0), Some(f64::INFINITY));
        assert_eq!(metrics.quantile_since(&metrics, "lag", 0.5), None);
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let process = Process::own();
        let memory = process.memory().unwrap();
        assert!(memory.anonymous > 0 && memory.resident >= memory.anonymous);
        assert!(process.cpu_ns().unwrap() > 0);
        assert!(Process::new(u32::MAX).is_err());
    }
}
