//! What went wrong or was noticed over many connections: ends, refusals, errors.

use super::message::{Kind, kind_of};
use super::report::Report;
use super::worker::{End, Event};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Bytes of an error message of the server that are shown.
const ERROR_BYTES_SHOWN: usize = 300;

/// Counts of a worker, or of all.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    closes: BTreeMap<String, u64>,
    refusals: BTreeMap<u16, u64>,
    /// `error` frames.
    errors: u64,
    first_error: Option<String>,
    pings: u64,
}

impl Tally {
    /// Notes what is to be counted of an event.
    pub(super) fn note(&mut self, event: &Event<'_>) {
        match event {
            Event::Closed(End::Ours) | Event::Open | Event::Binary(_) => {}
            Event::Closed(end) => *self.closes.entry(end.to_string()).or_default() += 1,
            Event::Refused { status, .. } => *self.refusals.entry(*status).or_default() += 1,
            Event::Ping => self.pings += 1,
            Event::Text(text) if kind_of(text) == Kind::Error => {
                self.errors += 1;
                let shown = || String::from_utf8_lossy(&text[..text.len().min(ERROR_BYTES_SHOWN)]).into_owned();
                self.first_error.get_or_insert_with(shown);
            }
            Event::Text(_) => {}
        }
    }

    pub(super) fn add(&mut self, other: Tally) {
        for (end, count) in other.closes {
            *self.closes.entry(end).or_default() += count;
        }
        for (status, count) in other.refusals {
            *self.refusals.entry(status).or_default() += count;
        }
        self.errors += other.errors;
        self.pings += other.pings;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    /// Connections that ended without our will, or never opened.
    pub(super) fn ended(&self) -> u64 {
        self.closes.values().sum::<u64>() + self.refused()
    }

    /// Upgrades that were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refusals.values().sum()
    }

    /// `error` messages that came.
    pub(super) fn errors(&self) -> u64 {
        self.errors
    }

    /// In one line, for an error message.
    pub(super) fn summary(&self) -> String {
        format!(
            "ends {:?}, refusals {:?}, errors {} {}",
            self.closes,
            self.refusals,
            self.errors,
            self.first_error.as_deref().unwrap_or("")
        )
    }

    /// Adds the figures.
    pub(super) fn report(&self, report: &mut Report) {
        let of = |pairs: Map<String, Value>| Value::Object(pairs);
        report.figure("ends", of(self.closes.iter().map(|(end, count)| (end.clone(), (*count).into())).collect()), "");
        report.figure(
            "refusals",
            of(self.refusals.iter().map(|(status, count)| (status.to_string(), (*count).into())).collect()),
            "",
        );
        report.figure("errors", self.errors, "");
        report.figure("pings_answered", self.pings, "");
    }

    /// Adds a failure if a connection ended or an error came that this scenario has no place for.
    pub(super) fn expect_calm(&self, report: &mut Report) {
        if self.ended() > 0 || self.errors > 0 {
            report.failure(format!("connections ended or were told of errors: {}", self.summary()));
        }
    }
}
