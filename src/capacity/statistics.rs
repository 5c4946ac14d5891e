//! Numbers from many: a line through points, and the spread of latencies.

use super::clock::Nanos;
use hdrhistogram::Histogram;

/// The longest latency that is told apart: 60 s. Longer ones count as this.
const LATENCY_MAX: Nanos = 60_000_000_000;

/// The slope of the line through `points` by least squares; `None` if they don't determine one.
pub(super) fn least_squares_slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let common: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (points.len() > 1 && spread > 0.0).then(|| common / spread)
}

/// The slope from the first point to the last; `None` if they are above each other.
pub(super) fn end_to_end_slope(points: &[(f64, f64)]) -> Option<f64> {
    let (first, last) = (points.first()?, points.last()?);
    (last.0 != first.0).then(|| (last.1 - first.1) / (last.0 - first.0))
}

/// Latencies, to three digits.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("the bounds and three digits are valid"))
    }

    pub(super) fn record(&mut self, latency: Nanos) {
        self.0.saturating_record(latency);
    }

    pub(super) fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this share (0 to 1) of all does not exceed, in ms; 0 if there is none.
    pub(super) fn quantile_ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e6
    }

    /// The longest, in ms; 0 if there is none.
    pub(super) fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_own_slope() {
        let points: Vec<(f64, f64)> = (0..8).map(|x| (f64::from(x), 200.0 + 251.0 * f64::from(x))).collect();
        assert!((least_squares_slope(&points).unwrap() - 251.0).abs() < 1e-9);
        assert!((end_to_end_slope(&points).unwrap() - 251.0).abs() < 1e-9);
    }

    #[test]
    fn noise_that_sums_to_nothing_leaves_the_slope() {
        let points = [(0.0, 1.0), (1.0, 1.0), (2.0, 5.0), (3.0, 5.0)];
        assert!((least_squares_slope(&points).unwrap() - 1.6).abs() < 1e-9);
    }

    #[test]
    fn too_few_points_have_no_slope() {
        assert_eq!(least_squares_slope(&[]), None);
        assert_eq!(least_squares_slope(&[(1.0, 1.0)]), None);
        assert_eq!(least_squares_slope(&[(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(end_to_end_slope(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }

    #[test]
    fn quantiles_and_the_longest_are_told_in_milliseconds() {
        let (mut one, mut other) = (Latencies::new(), Latencies::new());
        (1..=99).for_each(|ms| one.record(ms * 1_000_000));
        other.record(1_000_000_000);
        one.add(&other);
        assert_eq!(one.count(), 100);
        assert!((one.quantile_ms(0.5) - 50.0).abs() < 0.1, "{}", one.quantile_ms(0.5));
        assert!((one.max_ms() - 1_000.0).abs() < 1.0);
        one.record(u64::MAX);
    }
}
