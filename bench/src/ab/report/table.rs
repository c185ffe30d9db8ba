//! The table for the terminal and for documents: Markdown, so that it can be pasted.

use std::fmt::Write;

use super::super::sample::Series;
use super::{Report, number};

/// The whole text.
pub(super) fn text(report: &Report, facts: &[(String, String)]) -> String {
    let mut rows = vec![heading(report)];
    rows.extend(report.series.iter().map(|series| row(series, report.daemons.len())));
    let mut out = String::new();
    for (name, value) in facts {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name}: {value}");
    }
    out.push('\n');
    out.push_str(&aligned(&rows));
    for curve in &report.curves {
        out.push('\n');
        out.push_str(&aligned(&curve.rows()));
    }
    for line in report.notes.iter().chain(&report.failures) {
        let _ = writeln!(out, "! {line}");
    }
    out
}

fn heading(report: &Report) -> Vec<String> {
    let mut cells = vec!["median [p10 p95]".to_owned()];
    cells.extend(report.daemons.iter().map(|(name, _)| (*name).to_owned()));
    cells.extend(["times better".to_owned(), "target".to_owned()]);
    cells
}

fn row(series: &Series, daemons: usize) -> Vec<String> {
    let unit = series.unit.label();
    let mut cells = vec![series.title.clone()];
    cells.extend((0..daemons).map(|daemon| match series.summary(daemon) {
        Some(summary) if series.samples[daemon].len() == 1 => format!("{} {unit}", number(summary.median)),
        Some(summary) => {
            format!("{} [{} {}] {unit}", number(summary.median), number(summary.p10), number(summary.p95))
        }
        None => "-".to_owned(),
    }));
    cells.push(series.ratio().map_or_else(|| "-".to_owned(), number));
    cells.push(target(series));
    cells
}

/// The target and whether it is met.
pub(super) fn target(series: &Series) -> String {
    let wanted = match (series.wanted_ratio, series.target) {
        (Some(ratio), _) => format!(">= {ratio} times better"),
        (None, Some(target)) => {
            let sign = if series.unit.more_is_better() { ">=" } else { "<=" };
            format!("{sign} {target} {}", series.unit.label())
        }
        (None, None) => return String::new(),
    };
    let met = match series.is_met() {
        Some(true) => "met",
        Some(false) => "not met",
        None => "not measured",
    };
    format!("{wanted}: {met}")
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(out, "| {cell:width$} ");
        }
        out.push_str("|\n");
        if index == 0 {
            for width in &widths {
                let _ = write!(out, "|{}", "-".repeat(width + 2));
            }
            out.push_str("|\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_percentiles_ratio_and_target() {
        let report = super::super::tests::sample();
        let text = text(&report, &[("kernel".to_owned(), "6".to_owned())]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "kernel: 6");
        assert_eq!(
            lines[4],
            "| create to exit   | 5.50 [5.00 7.00] ms | 200 [180 260] ms | 36.4         | <= 6 ms: met       |"
        );
        assert_eq!(
            lines[5],
            "| runs <at once>   | 120 /s              | -                | -            | >= 150 /s: not met |"
        );
        assert_eq!(lines[6], "! a note");
    }
}
