//! Attempts a second over time as an SVG file: two crowds, the ideal, and the outage. Readable on light and dark ground.

use std::fmt::Write;

/// Size of the picture and of the room around the plot.
const SIZE: (f64, f64) = (820.0, 340.0);
const LEFT: f64 = 64.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 46.0;
/// What the vertical axis shows: from a power of ten to a number above the highest peak.
const RATES: (f64, f64) = (10.0, 30_000.0);

/// A line of the plot.
pub(crate) struct Series<'a> {
    /// Class of its colour.
    pub(crate) class: &'a str,
    pub(crate) label: &'a str,
    /// Attempts a second in each step.
    pub(crate) rates: &'a [f64],
}

/// What is shown.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    /// Length of a step in seconds.
    pub(crate) step_s: f64,
    /// Seconds that are shown.
    pub(crate) seconds: f64,
    /// When the server is away, in seconds.
    pub(crate) outage: (f64, f64),
    /// The ideal peak, in attempts a second.
    pub(crate) ideal: f64,
    pub(crate) series: &'a [Series<'a>],
}

impl Plot<'_> {
    fn x(&self, second: f64) -> f64 {
        LEFT + (SIZE.0 - LEFT - RIGHT) * second / self.seconds
    }

    /// The text of the file.
    pub(crate) fn svg(&self) -> String {
        let mut svg = String::new();
        let (width, height) = SIZE;
        let bottom = height - BOTTOM;
        let mut add = |line: String| {
            svg.push_str(&line);
            svg.push('\n');
        };
        add(format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">"#
        ));
        add(STYLE.to_owned());
        add(format!(r#"<text x="{LEFT}" y="18" font-size="14">{}</text>"#, self.title));
        let (from, to) = (self.x(self.outage.0), self.x(self.outage.1));
        add(format!(r#"<rect class="outage" x="{from:.1}" y="{TOP}" width="{:.1}" height="{:.1}"/>"#, to - from, bottom - TOP));
        add(format!(r#"<text x="{:.1}" y="{:.1}" text-anchor="end">no server</text>"#, to - 6.0, TOP + 14.0));
        for rate in [10.0, 100.0, 1_000.0, 10_000.0] {
            let y = y(rate);
            add(format!(r#"<path class="grid" d="M{LEFT} {y:.1}H{:.1}"/>"#, width - RIGHT));
            add(format!(r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{rate}</text>"#, LEFT - 6.0, y + 4.0));
        }
        for second in (0..=self.seconds as u32).step_by(10) {
            let x = self.x(f64::from(second));
            add(format!(r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{second} s</text>"#, bottom + 18.0));
        }
        let ideal = y(self.ideal);
        add(format!(r#"<path class="ideal" d="M{LEFT} {ideal:.1}H{:.1}"/>"#, width - RIGHT));
        for (place, series) in self.series.iter().enumerate() {
            add(format!(r#"<path class="{}" d="{}"/>"#, series.class, self.path(series.rates)));
            let x = LEFT + 250.0 * place as f64;
            let line = height - 10.0;
            add(format!(
                r#"<path class="{}" d="M{x} {:.1}h24"/><text x="{}" y="{line}">{}</text>"#,
                series.class,
                line - 4.0,
                x + 30.0,
                series.label
            ));
        }
        let label = format!("ideal peak: {} a second", self.ideal);
        let x = LEFT + 250.0 * self.series.len() as f64;
        add(format!(
            r#"<path class="ideal" d="M{x} {:.1}h24"/><text x="{}" y="{}">{label}</text>"#,
            height - 14.0,
            x + 30.0,
            height - 10.0
        ));
        add(format!(r#"<text x="{LEFT}" y="{:.1}">attempts a second, in steps of {} ms</text>"#, TOP - 6.0, self.step_s * 1_000.0));
        svg.push_str("</svg>\n");
        svg
    }

    /// A line through the steps; what is below the axis lies on it.
    fn path(&self, rates: &[f64]) -> String {
        let mut path = String::new();
        let shown = (self.seconds / self.step_s) as usize;
        for (step, rate) in rates.iter().take(shown).enumerate() {
            let word = if step == 0 { 'M' } else { 'L' };
            write!(path, "{word}{:.1} {:.0}", self.x(step as f64 * self.step_s), y(*rate)).expect("a text takes everything");
        }
        path
    }
}

/// The height of a rate, on a logarithmic scale.
fn y(rate: f64) -> f64 {
    let bottom = SIZE.1 - BOTTOM;
    let share = (rate.max(RATES.0) / RATES.0).ln() / (RATES.1 / RATES.0).ln();
    bottom - (bottom - TOP) * share
}

const STYLE: &str = "<style>
text { fill: #24292f } path { fill: none; stroke-width: 1.4 }
.grid { stroke: #8884; stroke-width: 1 } .outage { fill: #8882 }
.fixed { stroke: #d1242f } .ours { stroke: #0969da } .ideal { stroke: #1a7f37; stroke-dasharray: 6 4 }
@media (prefers-color-scheme: dark) {
  text { fill: #d1d7e0 } .fixed { stroke: #ff7b72 } .ours { stroke: #79c0ff } .ideal { stroke: #7ee787 }
}
</style>";
