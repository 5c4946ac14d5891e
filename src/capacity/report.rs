//! What a run came to: figures, and promises that did not hold. Printed for people or as JSON.
#![allow(clippy::print_stdout, reason = "the report is this program's output")]

use super::statistics::Latencies;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::process::ExitCode;

/// Failures that are kept word for word; more are only counted.
const FAILURES_KEPT: usize = 20;

/// Figures in the order in which they are shown.
#[derive(Debug)]
pub(super) struct Report {
    scenario: &'static str,
    figures: Vec<(String, Value, &'static str)>,
    failures: Vec<String>,
    failures_more: usize,
}

impl Report {
    pub(super) fn new(scenario: &'static str) -> Report {
        Report { scenario, figures: Vec::new(), failures: Vec::new(), failures_more: 0 }
    }

    /// Adds a figure. `name` carries the unit for JSON, `unit` is for people.
    pub(super) fn figure(&mut self, name: &str, value: impl Into<Value>, unit: &'static str) {
        self.figures.push((name.to_owned(), value.into(), unit));
    }

    /// Adds a figure if it was measured.
    pub(super) fn optional(&mut self, name: &str, value: Option<impl Into<Value>>, unit: &'static str) {
        if let Some(value) = value {
            self.figure(name, value, unit);
        }
    }

    /// Adds count, median, 99th percentile and longest of latencies.
    pub(super) fn latencies(&mut self, name: &str, latencies: &Latencies) {
        self.figure(&format!("{name}_p50_ms"), rounded(latencies.quantile_ms(0.5)), "ms");
        self.figure(&format!("{name}_p99_ms"), rounded(latencies.quantile_ms(0.99)), "ms");
        self.figure(&format!("{name}_max_ms"), rounded(latencies.max_ms()), "ms");
    }

    /// Adds a promise that did not hold.
    pub(super) fn failure(&mut self, what: impl Into<String>) {
        if self.failures.len() < FAILURES_KEPT {
            self.failures.push(what.into());
        } else {
            self.failures_more += 1;
        }
    }

    /// The promises that did not hold, as far as they are kept word for word.
    #[cfg(test)]
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Prints it, and says whether everything held.
    pub(super) fn print(&self, as_json: bool) -> ExitCode {
        if as_json {
            println!("{}", self.json());
        } else {
            print!("{}", self.text());
        }
        if self.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn json(&self) -> Value {
        let mut whole = Map::new();
        whole.insert("scenario".to_owned(), self.scenario.into());
        whole.insert("passed".to_owned(), self.failures.is_empty().into());
        whole.insert("failures".to_owned(), self.failures.clone().into());
        whole.insert("failures_more".to_owned(), self.failures_more.into());
        let figures = self.figures.iter().map(|(name, value, _)| (name.clone(), value.clone())).collect::<Map<_, _>>();
        whole.insert("figures".to_owned(), figures.into());
        Value::Object(whole)
    }

    fn text(&self) -> String {
        let width = self.figures.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let mut text = format!("{}\n", self.scenario);
        for (name, value, unit) in &self.figures {
            let value = match value {
                Value::String(value) => value.clone(),
                Value::Array(values) => values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
            };
            let separator = if unit.is_empty() { "" } else { " " };
            let _ = writeln!(text, "  {name:width$}  {value}{separator}{unit}");
        }
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED: {failure}");
        }
        if self.failures_more > 0 {
            let _ = writeln!(text, "FAILED: {} more", self.failures_more);
        }
        if self.failures.is_empty() {
            text.push_str("ok\n");
        }
        text
    }
}

/// To three digits behind the point.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_in_order_and_failures_change_the_verdict() {
        let mut report = Report::new("echo");
        report.figure("messages", 3, "");
        report.figure("rate_per_second", 1.5, "/s");
        assert_eq!(report.text(), "echo\n  messages         3\n  rate_per_second  1.5 /s\nok\n");
        assert_eq!(report.json()["passed"], true);
        report.failure("a message was lost");
        assert!(report.text().ends_with("FAILED: a message was lost\n"));
        assert_eq!((&report.json()["passed"], &report.json()["figures"]["messages"]), (&false.into(), &3.into()));
    }

    #[test]
    fn failures_without_end_are_counted_and_not_kept() {
        let mut report = Report::new("echo");
        (0..1_000).for_each(|index| report.failure(format!("failure {index}")));
        assert_eq!((report.failures.len(), report.failures_more), (FAILURES_KEPT, 1_000 - FAILURES_KEPT));
    }
}
