//! Plots as inline SVG. Colours are classes of the page's style, so that they follow its light or dark scheme.

use std::fmt::Write;

use super::super::sample::{Series, Unit};
use super::number;

const WIDTH: f64 = 860.0;
/// Where the plotted area begins and ends; left of it are titles, right of it ratios.
const LEFT: f64 = 320.0;
const RIGHT: f64 = 780.0;
const ROW: f64 = 34.0;

/// Medians and spreads of all times, on one logarithmic axis.
pub(super) fn spreads(series: &[&Series]) -> String {
    let all = || series.iter().flat_map(|series| series.samples.iter().flatten()).copied().filter(|v| *v > 0.0);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    if series.is_empty() || high <= 0.0 {
        return String::new();
    }
    let axis = Log::new(low, high);
    let height = series.len() as f64 * ROW + 30.0;
    let mut svg = open(height, "Medians and spreads of all times");
    axis.draw(&mut svg, height - 24.0);
    for (index, series) in series.iter().enumerate() {
        let y = index as f64 * ROW + 16.0;
        text(&mut svg, LEFT - 12.0, y + 4.0, "end", &series.title);
        for daemon in 0..series.samples.len() {
            let Some(summary) = series.summary(daemon) else { continue };
            let y = y + daemon as f64 * 9.0 - 4.5;
            let (from, to, at) = (axis.x(summary.p10), axis.x(summary.p95), axis.x(summary.median));
            let label = format!("{}: {} ms", class(daemon), number(summary.median));
            let _ = write!(
                svg,
                "<g class=\"{}\"><title>{label}</title><line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <circle cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"4\"/></g>",
                class(daemon)
            );
        }
        if let Some(ratio) = series.ratio() {
            text(&mut svg, RIGHT + 14.0, y + 4.0, "start", &format!("x {}", number(ratio)));
        }
    }
    close(svg)
}

/// One measure as bars, one for each daemon.
pub(super) fn bars(series: &Series) -> String {
    let medians: Vec<Option<f64>> = (0..series.samples.len()).map(|d| series.summary(d).map(|s| s.median)).collect();
    let longest = medians.iter().flatten().copied().chain(series.target).fold(0.0, f64::max);
    if longest <= 0.0 {
        return String::new();
    }
    let scale = (RIGHT - LEFT) / longest;
    let height = medians.len() as f64 * 24.0 + 8.0;
    let mut svg = open(height, &series.title);
    for (daemon, median) in medians.iter().enumerate() {
        let y = daemon as f64 * 24.0 + 4.0;
        let title = if daemon == 0 { series.title.as_str() } else { "" };
        text(&mut svg, LEFT - 12.0, y + 14.0, "end", title);
        let Some(median) = median else { continue };
        let width = median * scale;
        let _ = write!(
            svg,
            "<rect class=\"{}\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" rx=\"2\"/>",
            class(daemon)
        );
        let value = format!("{} {}", number(*median), series.unit.label());
        let (x, anchor) = if width > 400.0 { (LEFT + width - 6.0, "end") } else { (LEFT + width + 6.0, "start") };
        let kind = if width > 400.0 { "inside" } else { "" };
        let _ = write!(
            svg,
            "<text class=\"{kind}\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{value}</text>",
            y + 14.0
        );
    }
    if let Some(target) = series.target {
        let x = LEFT + target * scale;
        let _ = write!(
            svg,
            "<line class=\"target\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height}\"><title>target</title></line>"
        );
    }
    close(svg)
}

/// What part of the runs was done after how long: one step curve for each daemon.
pub(super) fn distribution(series: &Series) -> String {
    const TOP: f64 = 12.0;
    const BOTTOM: f64 = 190.0;
    let all = || series.samples.iter().flatten().copied().filter(|value| *value > 0.0);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    if series.unit != Unit::Millis || high <= 0.0 {
        return String::new();
    }
    let axis = Log::new(low, high);
    let mut svg = open(BOTTOM + 30.0, &format!("Distribution of {}", series.title));
    axis.draw(&mut svg, BOTTOM + 6.0);
    text(&mut svg, LEFT - 52.0, TOP + 4.0, "end", &series.title);
    for part in [0.0, 0.5, 1.0] {
        let y = BOTTOM - part * (BOTTOM - TOP);
        text(&mut svg, LEFT - 12.0, y + 4.0, "end", &format!("{:.0} %", part * 100.0));
    }
    for (daemon, samples) in series.samples.iter().enumerate() {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let mut path = String::new();
        for (index, value) in sorted.iter().enumerate() {
            let (x, up) = (axis.x(*value), (index + 1) as f64 / sorted.len() as f64);
            let command = if index == 0 { format!("M{x:.1} {BOTTOM}") } else { format!("H{x:.1}") };
            let _ = write!(path, "{command}V{:.1}", BOTTOM - up * (BOTTOM - TOP));
        }
        let _ = write!(svg, "<path class=\"{}\" d=\"{path}\"/>", class(daemon));
    }
    close(svg)
}

/// Which style a daemon has.
fn class(daemon: usize) -> &'static str {
    if daemon == 0 { "ours" } else { "stock" }
}

/// A logarithmic axis of milliseconds.
struct Log {
    low: f64,
    high: f64,
}

impl Log {
    fn new(low: f64, high: f64) -> Self {
        Self { low: (low * 0.8).log10(), high: (high * 1.2).log10() }
    }

    fn x(&self, value: f64) -> f64 {
        let part = (value.max(f64::MIN_POSITIVE).log10() - self.low) / (self.high - self.low);
        LEFT + part.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    fn draw(&self, svg: &mut String, bottom: f64) {
        // Few decades have room for lines between them.
        let steps: &[f64] = if self.high - self.low < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        // From a microsecond to a quarter of an hour.
        for value in (-3..=6).flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade))) {
            if value.log10() < self.low || value.log10() > self.high {
                continue;
            }
            let x = self.x(value);
            let _ = write!(svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom}\"/>");
            // Products of powers of ten are not exact.
            let label = (value * 1e6).round() / 1e6;
            text(svg, x, bottom + 16.0, "middle", &format!("{label} ms"));
        }
    }
}

/// Begins a plot of that height.
pub(super) fn open(height: f64, label: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escape(label))
}

/// Ends a plot.
pub(super) fn close(mut svg: String) -> String {
    svg.push_str("</svg>\n");
    svg
}

/// A line of text.
pub(super) fn text(svg: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(content));
}

/// Text as it may stand in markup.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_keeps_order_and_bounds() {
        let axis = Log::new(0.5, 200.0);
        let places = [0.5, 1.0, 10.0, 200.0].map(|value| axis.x(value));
        assert!(places.is_sorted() && places[0] > LEFT && places[3] < RIGHT, "{places:?}");
        assert_eq!(axis.x(0.0), LEFT);
    }

    #[test]
    fn a_plot_without_samples_is_left_out() {
        let empty = Series::new("nothing", Unit::Millis, None, 2);
        assert_eq!((spreads(&[&empty]), bars(&empty), distribution(&empty)), Default::default());
    }

    #[test]
    fn one_daemon_alone_can_be_drawn() {
        let mut series = Series::new("a & b", Unit::Millis, Some(1.0), 1);
        series.samples[0] = vec![1.0, 2.0];
        for svg in [spreads(&[&series]), bars(&series), distribution(&series)] {
            assert!(svg.contains("a &amp; b") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
