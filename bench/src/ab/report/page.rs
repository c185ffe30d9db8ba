//! The page: one file without scripts and without anything from elsewhere, readable in light and dark.

use std::fmt::Write;

use super::super::sample::{Series, Unit};
use super::plot::{self, escape};
use super::{Report, number, table};

/// Measures whose whole distribution is drawn.
const DISTRIBUTIONS: [&str; 3] = ["docker run --rm busybox true", "create to exit", "exec true"];

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --quiet: #66707d; --line: #dde2e8; --paper: #fff; --ours: #0b6bcb; --stock: #c2571a;
  --third: #2b8a3e; --fourth: #8a3ab9; --fifth: #66707d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --quiet: #98a2b0; --line: #333c48; --paper: #14191f; --ours: #58a6ff; --stock: #f0a35e;
  --third: #69db7c; --fourth: #c792ea; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p, dl { color: var(--quiet); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; } dt, dd { margin: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
td small { color: var(--quiet); display: block; }
.met { color: #2b8a3e; } .missed { color: #d9480f; }
@media (prefers-color-scheme: dark) { .met { color: #69db7c; } .missed { color: #ff922b; } }
svg { width: 100%; height: auto; display: block; margin: .4rem 0; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg text.inside { fill: var(--paper); }
svg .grid { stroke: var(--line); } svg .target { stroke: var(--quiet); stroke-dasharray: 4 3; }
svg .ours { stroke: var(--ours); fill: var(--ours); } svg .stock { stroke: var(--stock); fill: var(--stock); }
svg .third { stroke: var(--third); fill: var(--third); } svg .fourth { stroke: var(--fourth); fill: var(--fourth); }
svg .fifth { stroke: var(--fifth); fill: var(--fifth); }
svg g line { stroke-width: 3; opacity: .55; } svg path { fill: none; stroke-width: 2; }
.key { font-weight: 600; } .key.ours { color: var(--ours); } .key.stock { color: var(--stock); }
";

/// The whole page.
pub(super) fn html(report: &Report, facts: &[(String, String)]) -> String {
    let mut body = String::from("<h1>Our daemon and the stock one, measured in turn</h1>\n<dl>");
    for (name, value) in facts {
        // Writing to a string does not fail.
        let _ = write!(body, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    body.push_str("</dl>\n");
    for line in report.notes.iter().chain(&report.failures) {
        let _ = writeln!(body, "<p>{}</p>", escape(line));
    }
    body.push_str(&table(report));
    let times: Vec<&Series> = report.series.iter().filter(|series| series.unit == Unit::Millis).collect();
    body.push_str("<h2>Times</h2>\n<p>Dots are medians, lines go from the 10th to the 95th percentile; ");
    body.push_str(
        "<span class=\"key ours\">ours</span>, <span class=\"key stock\">stock</span>. The axis is logarithmic.</p>\n",
    );
    body.push_str(&plot::spreads(&times));
    if !report.curves.is_empty() {
        body.push_str("<h2>By size</h2>\n<p>Both axes are logarithmic.</p>\n");
        report.curves.iter().for_each(|curve| body.push_str(&curve.svg()));
    }
    body.push_str("<h2>Rates and memory</h2>\n<p>The dashed line is the target.</p>\n");
    report.series.iter().filter(|series| series.unit != Unit::Millis).for_each(|s| body.push_str(&plot::bars(s)));
    body.push_str("<h2>Distributions</h2>\n<p>What part of the rounds took no longer than that.</p>\n");
    let drawn = times.iter().filter(|series| DISTRIBUTIONS.contains(&series.title.as_str()));
    drawn.for_each(|series| body.push_str(&plot::distribution(series)));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>dockerd-rs bench</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
}

fn table(report: &Report) -> String {
    let mut out = String::from("<table><thead><tr><th>median</th>");
    for (name, _) in &report.daemons {
        let _ = write!(out, "<th>{name}</th>");
    }
    out.push_str("<th>times better</th><th>target</th></tr></thead><tbody>\n");
    for series in &report.series {
        let _ = write!(out, "<tr><td>{}</td>", escape(&series.title));
        for daemon in 0..report.daemons.len() {
            out.push_str(&cell(series, daemon));
        }
        let ratio = series.ratio().map_or_else(String::new, number);
        let class = series.is_met().map_or("", |met| if met { "met" } else { "missed" });
        let _ = writeln!(out, "<td>{ratio}</td><td class=\"{class}\">{}</td></tr>", escape(&table::target(series)));
    }
    out.push_str("</tbody></table>\n");
    out
}

fn cell(series: &Series, daemon: usize) -> String {
    let Some(summary) = series.summary(daemon) else { return "<td>-</td>".to_owned() };
    let spread = if series.samples[daemon].len() > 1 {
        format!("<small>{} to {}</small>", number(summary.p10), number(summary.p95))
    } else {
        String::new()
    };
    format!("<td>{} {}{spread}</td>", number(summary.median), series.unit.label())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_stands_alone() {
        let report = super::super::tests::sample();
        let page = html(&report, &[("kernel".to_owned(), "6".to_owned())]);
        for expected in
            ["create to exit", "runs &lt;at once&gt;", "a note", "class=\"met\"", "class=\"missed\"", "36.4"]
        {
            assert!(page.contains(expected), "{expected}");
        }
        for foreign in ["<script", "http://", "https://", "src=", "@import"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }
}
