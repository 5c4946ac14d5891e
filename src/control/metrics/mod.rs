//! Snapshots of the shards as Prometheus text.
//!
//! Counts reach the `metrics` facade only when somebody asks, so that a shard counts in plain integers and pays nothing for being
//! watched. The incident's names are totals over the shards, without labels; everything else is a series per shard or per reason.
//! The histogram of the loop's lag is written here and not by the facade: shards count it in buckets already, and the facade takes
//! only single samples.
//!
//! Invariant: a counter never falls, whatever snapshot comes (the recorder keeps the maximum).

mod process;
pub(super) use process::resident_bytes;
mod table;

use super::data_plane::{LAG_BOUNDS_US, Snapshot};
use super::memory::MemoryPlan;
use crate::close::CloseReason;
use crate::shard::stats::{MemoryUse, Refusal};
use crate::tls::HandshakeResult;
use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::collections::BTreeMap;
use std::fmt::Write;
use table::{Kind, SHARD_SERIES, TOTALS};

const ACCEPT_ERRORS: &str = "throng_accept_errors_total";
const METADATA: Metadata<'static> = Metadata::new("throng", Level::INFO, None);

/// What does not change while the server runs.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    /// Shards.
    pub shards: usize,
    /// The sum of memory.
    pub memory: MemoryPlan,
}

enum Handle {
    Counter(Counter),
    Gauge(Gauge),
}

impl Handle {
    fn put(&self, value: u64) {
        match self {
            Handle::Counter(counter) => counter.absolute(value),
            Handle::Gauge(gauge) => gauge.set(value as f64),
        }
    }
}

/// Turns snapshots into text. One per process.
pub struct Exporter {
    handle: PrometheusHandle,
    totals: Vec<Handle>,
    /// By shard, then by row of the table.
    shards: Vec<Vec<Handle>>,
    closes: Vec<Handle>,
    refusals: Vec<Handle>,
    memory: Vec<Handle>,
    tls_handshakes: Vec<Handle>,
    ready: Gauge,
    /// For series whose labels are not known beforehand.
    recorder: std::sync::Arc<PrometheusRecorder>,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Exporter").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

impl Exporter {
    /// Registers every series with a recorder of its own, and makes that recorder the process's if there is none yet, so that
    /// whatever else speaks to the facade is exported too.
    pub fn new(constants: Constants) -> Exporter {
        let recorder = std::sync::Arc::new(PrometheusBuilder::new().build_recorder());
        let recorder_ref: &PrometheusRecorder = &recorder;
        let register = |kind, name: &'static str, help: &'static str, labels: Vec<Label>| {
            let key = Key::from_parts(name, labels);
            match kind {
                Kind::Counter => {
                    recorder_ref.describe_counter(KeyName::from(name), None, help.into());
                    Handle::Counter(recorder_ref.register_counter(&key, &METADATA))
                }
                Kind::Gauge => {
                    recorder_ref.describe_gauge(KeyName::from(name), None, help.into());
                    Handle::Gauge(recorder_ref.register_gauge(&key, &METADATA))
                }
            }
        };
        let labelled = |kind, name, help, label: &'static str, values: Vec<&'static str>| {
            values.into_iter().map(|value| register(kind, name, help, vec![Label::from_static_parts(label, value)])).collect()
        };
        let totals = TOTALS.iter().map(|row| register(row.kind, row.name, row.help, Vec::new())).collect();
        let shards = (0..constants.shards)
            .map(|shard| {
                let label = || vec![Label::new("shard", shard.to_string())];
                SHARD_SERIES.iter().map(|row| register(row.kind, row.name, row.help, label())).collect()
            })
            .collect();
        let closes = labelled(
            Kind::Counter,
            "throng_closes_total",
            "Connections closed after the upgrade, by reason",
            "reason",
            CloseReason::ALL.iter().map(|reason| reason.label()).collect(),
        );
        let refusals = labelled(
            Kind::Counter,
            "throng_refusals_total",
            "Requests answered with an HTTP error before the upgrade, by reason",
            "reason",
            Refusal::ALL.iter().map(|reason| reason.label()).collect(),
        );
        let tls_handshakes = labelled(
            Kind::Counter,
            "throng_tls_handshakes_total",
            "TLS handshakes, by how they ended",
            "result",
            HandshakeResult::ALL.iter().map(|result| result.label()).collect(),
        );
        let memory = labelled(
            Kind::Gauge,
            "throng_memory_bytes",
            "Flexible memory held, by use",
            "use",
            MemoryUse::ALL.iter().map(|memory_use| memory_use.label()).collect(),
        );
        for (part, bytes) in parts(&constants.memory) {
            let help = "What throng_memory_bytes_max is the sum of";
            register(Kind::Gauge, "throng_memory_plan_bytes", help, vec![Label::from_static_parts("part", part)]).put(bytes as u64);
        }
        let single = |name, help, value: u64| register(Kind::Gauge, name, help, Vec::new()).put(value);
        single("throng_memory_bytes_max", "Memory that the process may use", constants.memory.total_bytes() as u64);
        single("throng_connections_max", "Connections that are admitted", constants.memory.connections_max as u64);
        single("throng_shards", "Event loops", constants.shards as u64);
        let version = vec![Label::from_static_parts("version", env!("CARGO_PKG_VERSION"))];
        register(Kind::Gauge, "throng_build_info", "Always 1; the version is its label", version).put(1);
        recorder.describe_gauge(KeyName::from("throng_ready"), None, "1 while /readyz answers 200".into());
        let ready = recorder.register_gauge(&Key::from_static_name("throng_ready"), &METADATA);
        recorder.describe_counter(KeyName::from(ACCEPT_ERRORS), None, "Accepts that failed, by errno".into());
        let handle = recorder.handle();
        // A second exporter of the process (as in tests) keeps its own series and leaves the first one's recorder in place.
        let _ = metrics::set_global_recorder(std::sync::Arc::clone(&recorder));
        Exporter { handle, totals, shards, closes, refusals, memory, tls_handshakes, ready, recorder }
    }

    /// The text of a scrape: `text/plain; version=0.0.4`.
    pub fn render(&self, snapshots: &[Snapshot], ready: bool) -> String {
        self.publish(snapshots, ready);
        let mut text = self.handle.render();
        render_lag(snapshots, &mut text);
        process::render(&mut text);
        text
    }

    fn publish(&self, snapshots: &[Snapshot], ready: bool) {
        for (row, handle) in TOTALS.iter().zip(&self.totals) {
            handle.put(snapshots.iter().map(row.value).sum());
        }
        for (snapshot, handles) in snapshots.iter().zip(&self.shards) {
            for (row, handle) in SHARD_SERIES.iter().zip(handles) {
                handle.put((row.value)(snapshot));
            }
        }
        let sum = |handles: &[Handle], value: &dyn Fn(&Snapshot, usize) -> u64| {
            for (index, handle) in handles.iter().enumerate() {
                handle.put(snapshots.iter().map(|snapshot| value(snapshot, index)).sum());
            }
        };
        sum(&self.closes, &|snapshot, index| snapshot.shard.closes[index]);
        sum(&self.refusals, &|snapshot, index| snapshot.shard.refusals[index]);
        sum(&self.tls_handshakes, &|snapshot, index| snapshot.driver.handshakes[index]);
        sum(&self.memory, &|snapshot, index| snapshot.shard.memory_bytes[index]);
        // As many series as there are errnos that accept(2) knows.
        let mut errnos = BTreeMap::<i32, u64>::new();
        for (errno, count) in snapshots.iter().flat_map(|snapshot| &snapshot.driver.accept_errors) {
            *errnos.entry(*errno).or_default() += count;
        }
        for (errno, count) in errnos {
            let key = Key::from_parts(ACCEPT_ERRORS, vec![Label::new("errno", errno.to_string())]);
            self.recorder.register_counter(&key, &METADATA).absolute(count);
        }
        self.ready.set(f64::from(u8::from(ready)));
    }
}

/// Name and bytes of each part of the sum.
pub(super) fn parts(plan: &MemoryPlan) -> [(&'static str, usize); 4] {
    [
        ("fixed", plan.fixed_bytes),
        ("connections", plan.connection_bytes()),
        ("handshakes", plan.handshake_bytes()),
        ("flex", plan.flex_bytes),
    ]
}

fn render_lag(snapshots: &[Snapshot], text: &mut String) {
    text.push_str("# HELP event_loop_lag_ms How late a turn of a shard's loop was, in ms\n# TYPE event_loop_lag_ms histogram\n");
    for (shard, snapshot) in snapshots.iter().enumerate() {
        let stats = &snapshot.driver;
        let mut cumulative = 0;
        for (index, count) in stats.lag_counts.iter().enumerate() {
            cumulative += count;
            let bound = LAG_BOUNDS_US.get(index).map_or("+Inf".to_owned(), |us| (*us as f64 / 1_000.0).to_string());
            let _ = writeln!(text, "event_loop_lag_ms_bucket{{shard=\"{shard}\",le=\"{bound}\"}} {cumulative}");
        }
        let _ = writeln!(text, "event_loop_lag_ms_sum{{shard=\"{shard}\"}} {}", stats.lag_sum_us as f64 / 1_000.0);
        let _ = writeln!(text, "event_loop_lag_ms_count{{shard=\"{shard}\"}} {cumulative}");
    }
    text.push('\n');
}

/// The lag that a share of all turns did not exceed, in ms: the upper bound of its bucket. `None` before the first turn, and
/// infinite above the last bound.
pub fn lag_quantile_ms(snapshots: &[Snapshot], share: f64) -> Option<f64> {
    let total: u64 = snapshots.iter().flat_map(|snapshot| &snapshot.driver.lag_counts).sum();
    if total == 0 {
        return None;
    }
    let wanted = (total as f64 * share).ceil() as u64;
    let mut cumulative = 0;
    for (index, bound) in LAG_BOUNDS_US.iter().enumerate() {
        cumulative += snapshots.iter().map(|snapshot| snapshot.driver.lag_counts[index]).sum::<u64>();
        if cumulative >= wanted {
            return Some(*bound as f64 / 1_000.0);
        }
    }
    Some(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::super::data_plane::DriverStats;
    use super::*;

    fn exporter(shards: usize) -> Exporter {
        Exporter::new(Constants { shards, memory: MemoryPlan::new(1 << 20, 1_000, false, None).unwrap() })
    }

    fn snapshot(connections: u64) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.shard.connections_active = connections;
        snapshot.shard.connections_total = connections * 10;
        snapshot.shard.closes[CloseReason::NoPong as usize] = connections;
        snapshot.shard.refusals[Refusal::Capacity as usize] = connections;
        snapshot.shard.memory_bytes[MemoryUse::Backlog as usize] = connections;
        snapshot.driver.accept_errors.insert(24, connections);
        snapshot.driver.lag_counts[0] = 3;
        snapshot.driver.lag_counts[LAG_BOUNDS_US.len()] = 1;
        snapshot.driver.lag_sum_us = 2_000_300;
        snapshot
    }

    fn value(text: &str, series: &str) -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[test]
    fn the_incidents_names_are_totals_without_labels() {
        let text = exporter(2).render(&[snapshot(3), snapshot(4)], true);
        assert_eq!(value(&text, "ws_active_connections"), Some(7.0));
        assert_eq!(value(&text, "ws_connections_total"), Some(70.0));
        for name in [
            "ws_connection_errors",
            "ws_abnormal_closes",
            "ws_room_subscriptions",
            "ws_orphaned_subscriptions",
            "ws_room_leave_failures",
        ] {
            assert_eq!(value(&text, name), Some(0.0), "{name}");
        }
    }

    #[test]
    fn reasons_uses_and_shards_are_labels() {
        let text = exporter(2).render(&[snapshot(3), snapshot(4)], true);
        assert_eq!(value(&text, "throng_closes_total{reason=\"no_pong\"}"), Some(7.0));
        assert_eq!(value(&text, "throng_refusals_total{reason=\"capacity\"}"), Some(7.0));
        assert_eq!(value(&text, "throng_memory_bytes{use=\"backlog\"}"), Some(7.0));
        assert_eq!(value(&text, "throng_shard_connections{shard=\"1\"}"), Some(4.0));
        assert_eq!(value(&text, "throng_accept_errors_total{errno=\"24\"}"), Some(7.0));
        assert_eq!(value(&text, "throng_ready"), Some(1.0));
        assert!(value(&text, "process_resident_memory_bytes").is_some_and(|bytes| bytes > 0.0));
    }

    #[test]
    fn the_lag_is_a_cumulative_histogram_per_shard() {
        let text = exporter(1).render(&[snapshot(1)], true);
        assert_eq!(value(&text, "event_loop_lag_ms_bucket{shard=\"0\",le=\"0.1\"}"), Some(3.0));
        assert_eq!(value(&text, "event_loop_lag_ms_bucket{shard=\"0\",le=\"2.5\"}"), Some(3.0));
        assert_eq!(value(&text, "event_loop_lag_ms_bucket{shard=\"0\",le=\"1000\"}"), Some(3.0));
        assert_eq!(value(&text, "event_loop_lag_ms_bucket{shard=\"0\",le=\"+Inf\"}"), Some(4.0));
        assert_eq!(value(&text, "event_loop_lag_ms_count{shard=\"0\"}"), Some(4.0));
        assert_eq!(value(&text, "event_loop_lag_ms_sum{shard=\"0\"}"), Some(2_000.3));
    }

    #[test]
    fn counters_never_fall_and_gauges_do() {
        let exporter = exporter(1);
        exporter.render(&[snapshot(5)], true);
        let text = exporter.render(&[snapshot(2)], false);
        assert_eq!(value(&text, "ws_active_connections"), Some(2.0));
        assert_eq!(value(&text, "ws_connections_total"), Some(50.0));
        assert_eq!(value(&text, "throng_closes_total{reason=\"no_pong\"}"), Some(5.0));
        assert_eq!(value(&text, "throng_ready"), Some(0.0));
    }

    /// The rules of the text format, version 0.0.4: HELP and TYPE once before the samples of a name, which stand together.
    #[test]
    fn every_series_is_described_and_typed_once_and_unique() {
        let text = exporter(2).render(&[snapshot(1), snapshot(2)], true);
        let (mut helped, mut typed, mut samples) = (Vec::new(), Vec::new(), Vec::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                helped.push(rest.split(' ').next().unwrap());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                typed.push(rest.split(' ').next().unwrap());
            } else {
                let (series, number) = line.rsplit_once(' ').unwrap();
                assert!(number.parse::<f64>().is_ok(), "{line}");
                let name = series.split('{').next().unwrap();
                let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
                let family = histogram.filter(|family| typed.contains(family)).unwrap_or(name);
                assert_eq!(typed.last(), Some(&family), "{line}");
                assert!(!samples.contains(&series), "{line}");
                samples.push(series);
            }
        }
        let unique = typed.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(unique, typed.len());
        helped.sort_unstable();
        typed.sort_unstable();
        assert_eq!(helped, typed);
    }

    #[test]
    fn a_shard_more_or_less_than_registered_is_no_error() {
        let exporter = exporter(1);
        exporter.render(&[], true);
        exporter.render(&[snapshot(1), snapshot(1)], true);
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let lag = |counts: &[(usize, u64)]| {
            let mut driver = DriverStats::default();
            for (bucket, count) in counts {
                driver.lag_counts[*bucket] = *count;
            }
            lag_quantile_ms(&[Snapshot { driver, ..Snapshot::default() }], 0.99)
        };
        assert_eq!(lag(&[]), None);
        assert_eq!(lag(&[(0, 100)]), Some(0.1));
        assert_eq!(lag(&[(0, 99), (3, 1)]), Some(0.1));
        assert_eq!(lag(&[(0, 98), (3, 2)]), Some(1.0));
        assert_eq!(lag(&[(LAG_BOUNDS_US.len(), 1)]), Some(f64::INFINITY));
    }
}
