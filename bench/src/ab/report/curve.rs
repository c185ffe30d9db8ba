//! How a number grows with another one, a line for each daemon.

use std::fmt::Write;

use serde_json::{Value, json};

use super::number;
use super::plot::{close, escape, open, text};

const LEFT: f64 = 90.0;
const RIGHT: f64 = 640.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 270.0;

/// Lines of one plot.
#[derive(Debug, Clone)]
pub(in super::super) struct Curve {
    title: String,
    /// Units of both axes.
    x: &'static str,
    y: &'static str,
    lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Curve {
    /// A plot without points, of a line for each of `names`.
    pub(in super::super) fn new(title: &str, x: &'static str, y: &'static str, names: &[String]) -> Self {
        let lines = names.iter().map(|name| (name.clone(), Vec::new())).collect();
        Self { title: title.to_owned(), x, y, lines }
    }

    /// A point of each line.
    pub(in super::super) fn push(&mut self, x: f64, values: &[f64]) {
        self.lines.iter_mut().zip(values).for_each(|((_, points), value)| points.push((x, *value)));
    }

    /// Cells of a table: one row for each line, with a heading.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let points = self.lines.first().map_or(&[][..], |(_, points)| points);
        let heading = points.iter().map(|(x, _)| format!("{} {}", number(*x), self.x));
        let mut rows = vec![std::iter::once(self.title.clone()).chain(heading).collect::<Vec<_>>()];
        for (name, points) in &self.lines {
            let values = points.iter().map(|(_, y)| format!("{} {}", number(*y), self.y));
            rows.push(std::iter::once(name.clone()).chain(values).collect());
        }
        rows
    }

    /// As a JSON document.
    pub(super) fn to_json(&self) -> Value {
        let lines: Vec<Value> =
            self.lines.iter().map(|(name, points)| json!({ "name": name, "points": points })).collect();
        json!({ "title": self.title, "x": self.x, "y": self.y, "lines": lines })
    }

    /// Both axes are logarithmic.
    pub(super) fn svg(&self) -> String {
        let all = || self.lines.iter().flat_map(|(_, points)| points).filter(|(x, y)| *x > 0.0 && *y > 0.0);
        if all().next().is_none() {
            return String::new();
        }
        let across = Axis::new(all().map(|(x, _)| *x), LEFT, RIGHT);
        let up = Axis::new(all().map(|(_, y)| *y), BOTTOM, TOP);
        let mut svg = open(BOTTOM + 40.0, &self.title);
        text(&mut svg, LEFT, 14.0, "start", &self.title);
        for y in up.marks() {
            let at = up.place(y);
            let _ = write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
            text(&mut svg, LEFT - 8.0, at + 4.0, "end", &format!("{} {}", short(y), self.y));
        }
        for (x, _) in &self.lines[0].1 {
            text(&mut svg, across.place(*x), BOTTOM + 20.0, "middle", &format!("{} {}", short(*x), self.x));
        }
        let mut taken = Vec::new();
        for (index, (name, points)) in self.lines.iter().enumerate() {
            let class = class(index);
            let mut path = String::new();
            for (x, y) in points {
                let (x, at) = (across.place(*x), up.place(*y));
                let _ = write!(path, "{}{x:.1} {at:.1}", if path.is_empty() { 'M' } else { 'L' });
                let label = format!("{}: {} {}", escape(name), number(*y), self.y);
                let _ = write!(
                    svg,
                    "<g class=\"{class}\"><title>{label}</title><circle cx=\"{x:.1}\" cy=\"{at:.1}\" r=\"4\"/></g>"
                );
            }
            let _ = write!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
            if let Some((x, y)) = points.last() {
                let at = free(&mut taken, up.place(*y) + 4.0);
                let label = format!("{name}, {} {}", number(*y), self.y);
                text(&mut svg, across.place(*x) + 10.0, at, "start", &label);
            }
        }
        close(svg)
    }
}

/// A place for a line of text that is not on another one, near `wanted`.
fn free(taken: &mut Vec<f64>, wanted: f64) -> f64 {
    let mut at = wanted;
    while taken.iter().any(|other| (other - at).abs() < 14.0) {
        at += 14.0;
    }
    taken.push(at);
    at
}

/// Which style a line has.
fn class(index: usize) -> &'static str {
    ["ours", "stock", "third", "fourth", "fifth"].get(index).unwrap_or(&"fifth")
}

/// A number for an axis.
fn short(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{}", (value * 100.0).round() / 100.0) }
}

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let (low, high) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max));
        // One value alone is drawn in the middle.
        Self { low: (low * 0.8).log10(), high: (high * 1.25).log10(), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round values on it.
    fn marks(&self) -> impl Iterator<Item = f64> {
        let steps: &[f64] = if self.high - self.low < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let all = (-3..=7).flat_map(move |decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        let (low, high) = (self.low, self.high);
        all.filter(move |value| (low..=high).contains(&value.log10()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_a_plot_and_rows() {
        let mut curve = Curve::new("load <by> files", "files", "ms", &["ours".to_owned(), "stock".to_owned()]);
        assert_eq!(curve.svg(), "", "no points yet");
        curve.push(1000.0, &[30.0, 400.0]);
        curve.push(10_000.0, &[200.0, 4000.0]);
        let svg = curve.svg();
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains("load &lt;by&gt; files") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(curve.rows()[2], ["stock", "400 ms", "4000 ms"]);
        assert_eq!(curve.to_json()["lines"][0]["points"][1], json!([10_000.0, 200.0]));
    }

    #[test]
    fn labels_do_not_lie_on_each_other() {
        let mut taken = Vec::new();
        let places = [50.0, 52.0, 51.0].map(|wanted| free(&mut taken, wanted));
        assert!(places.windows(2).all(|two| (two[0] - two[1]).abs() >= 14.0), "{places:?}");
    }
}
