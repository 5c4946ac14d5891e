//! One scrape of `/metrics`, as series by name. A family that is missing fails the test: absence must not read as zero.

use std::fmt::Write as _;

/// What one scrape said.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    series: Vec<Series>,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads the Prometheus text format.
    ///
    /// # Panics
    /// On a line that is not of that format: then a scraper would drop it too.
    pub fn parse(text: &str) -> Metrics {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Metrics { series: lines.map(parse_line).collect() }
    }

    /// The sum over all series of a family: over shards, and over any label that it has.
    pub fn sum(&self, name: &str) -> f64 {
        self.family(name).map(|series| series.value).sum()
    }

    /// The sum over the series of a family that carry this label; 0 where the family exists without it.
    pub fn sum_where(&self, name: &str, label: &str, value: &str) -> f64 {
        let of = |series: &&Series| series.labels.iter().any(|(key, found)| key == label && found == value);
        self.family(name).filter(of).map(|series| series.value).sum()
    }

    /// Whether the family is there at all.
    pub fn has(&self, name: &str) -> bool {
        self.series.iter().any(|series| series.name == name)
    }

    /// All series whose name or labels contain `part`, for a failure's text.
    pub fn describe(&self, part: &str) -> String {
        let mut text = String::new();
        for series in self.series.iter().filter(|series| series.name.contains(part) && series.value != 0.0) {
            let _ = writeln!(text, "  {} {:?} {}", series.name, series.labels, series.value);
        }
        text
    }

    fn family<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        assert!(self.has(name), "the server exports no metric named {name}");
        self.series.iter().filter(move |series| series.name == name)
    }
}

fn parse_line(line: &str) -> Series {
    let (key, value) = match line.rfind('}') {
        Some(brace) => (&line[..=brace], &line[brace + 1..]),
        None => line.split_once(' ').unwrap_or_else(|| panic!("not a metric: {line:?}")),
    };
    let value = value.split_whitespace().next().unwrap_or("");
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("not a number in {line:?}"));
    let (name, labels) = key.split_once('{').unwrap_or((key, ""));
    Series { name: name.to_owned(), labels: parse_labels(labels.trim_end_matches('}')), value }
}

/// Labels here hold no comma, quote or backslash: they come from closed lists.
fn parse_labels(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    let unquoted = pairs.filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key, value.trim_matches('"')));
    unquoted.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
