//! What a run found: collected while it goes, then written as a table, a JSON document and a page.

mod curve;
mod page;
mod plot;
mod table;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Options;
use super::daemon::Daemon;
use super::sample::{Series, Unit};

pub(super) use curve::Curve;

/// A measure, and what it took the stock daemon in milliseconds on the machine the targets were set on.
const REFERENCE: (&str, f64) = ("docker run --rm busybox true", 188.0);

/// Collected results.
#[derive(Debug)]
pub(super) struct Report {
    /// Network the containers were on.
    pub(super) network: String,
    /// Names and versions of the daemons.
    daemons: Vec<(&'static str, String)>,
    rounds: usize,
    begun: u64,
    load_before: String,
    series: Vec<Series>,
    curves: Vec<Curve>,
    notes: Vec<String>,
    failures: Vec<String>,
}

impl Report {
    /// A report without results.
    pub(super) fn new(options: &Options, daemons: &[Daemon]) -> Self {
        Self {
            network: String::new(),
            daemons: daemons
                .iter()
                .map(|daemon| (daemon.name, format!("{}, {}", daemon.version, daemon.driver)))
                .collect(),
            rounds: options.rounds,
            begun: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            load_before: load(),
            series: Vec::new(),
            curves: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds results.
    pub(super) fn extend(&mut self, series: impl IntoIterator<Item = Series>) {
        self.series.extend(series);
    }

    /// Adds plots of how times grow.
    pub(super) fn curves(&mut self, curves: impl IntoIterator<Item = Curve>) {
        self.curves.extend(curves);
    }

    /// Something the reader should know.
    pub(super) fn note(&mut self, note: String) {
        say(&note);
        self.notes.push(note);
    }

    /// A measure that could not be taken.
    pub(super) fn failed(&mut self, name: &str, error: &anyhow::Error) {
        let failure = format!("{name} failed: {error:#}");
        say(&failure);
        self.failures.push(failure);
    }

    /// Prints the table and writes the files into `dir`. An error if a measure failed.
    pub(super) fn write(&mut self, dir: &Path) -> Result<()> {
        self.notes.extend(self.at_reference_speed());
        let facts = self.facts();
        let mut out = io::stdout().lock();
        write!(out, "{}", table::text(self, &facts))?;
        let (document, page) = (dir.join("result.json"), dir.join("index.html"));
        fs::write(&document, serde_json::to_vec_pretty(&self.to_json(&facts))?).context("write the results")?;
        fs::write(dir.join(format!("result-{}.json", self.begun)), fs::read(&document)?)?;
        fs::write(&page, page::html(self, &facts)).context("write the page")?;
        writeln!(out, "\n{}\n{}", page.display(), document.display())?;
        ensure!(self.failures.is_empty(), "{}", self.failures.join("\n"));
        Ok(())
    }

    /// The times with a target at the speed of the machine the targets were set on: told by what the same run took the
    /// stock daemon there and here.
    fn at_reference_speed(&self) -> Option<String> {
        let (title, reference) = REFERENCE;
        let stock = self.series.iter().find(|series| series.title == title)?.summary(1)?.median;
        let with_target = self.series.iter().filter(|series| series.unit == Unit::Millis && series.target.is_some());
        let scaled = |series: &Series| {
            let time = series.summary(0)?.median * reference / stock;
            Some(format!("{} {} ms", series.title, number(time)))
        };
        let times: Vec<String> = with_target.filter_map(scaled).collect();
        Some(format!(
            "the targets were set where {title:?} took the stock daemon {reference} ms, here {} ms; at that speed ours: {}",
            number(stock),
            times.join(", "),
        ))
    }

    /// What the numbers depend on, as names and values.
    fn facts(&self) -> Vec<(String, String)> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let mut facts: Vec<_> =
            self.daemons.iter().map(|(name, version)| ((*name).to_owned(), version.clone())).collect();
        let more = [
            ("network", self.network.clone()),
            ("rounds", self.rounds.to_string()),
            ("kernel", kernel.trim().to_owned()),
            ("TCP", super::congestion::current()),
            ("processors", cpus.to_string()),
            ("load before", self.load_before.clone()),
            ("load after", load()),
            ("time (Unix)", self.begun.to_string()),
        ];
        facts.extend(more.map(|(name, value)| (name.to_owned(), value)));
        facts
    }

    fn to_json(&self, facts: &[(String, String)]) -> Value {
        let facts: serde_json::Map<String, Value> =
            facts.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let names: Vec<&str> = self.daemons.iter().map(|(name, _)| *name).collect();
        let series: Vec<Value> = self.series.iter().map(Series::to_json).collect();
        json!({
            "version": 1,
            "facts": facts,
            "daemons": names,
            "measures": series,
            "curves": self.curves.iter().map(Curve::to_json).collect::<Vec<_>>(),
            "notes": self.notes,
            "failures": self.failures,
        })
    }
}

/// Prints names, one a line.
pub(super) fn print_names<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut out = io::stdout().lock();
    Ok(names.try_for_each(|name| writeln!(out, "{name}"))?)
}

/// Says how far the run is; the results go elsewhere.
pub(super) fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(io::stderr(), "bench: {text}");
}

/// Load averages of the last minutes.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// A number with as many digits as it deserves.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small report, for the tests of what is made of it.
    pub(super) fn sample() -> Report {
        let mut life = Series::new("create to exit", Unit::Millis, Some(6.0), 2);
        life.samples = vec![vec![5.0, 5.5, 7.0], vec![180.0, 200.0, 260.0]];
        let mut rate = Series::new("runs <at once>", Unit::PerSecond, Some(150.0), 2);
        rate.samples = vec![vec![120.0], vec![]];
        Report {
            network: "none".to_owned(),
            daemons: vec![("ours", "0.1".to_owned()), ("stock", "28".to_owned())],
            rounds: 3,
            begun: 1_700_000_000,
            load_before: "0.1 0.1 0.1".to_owned(),
            series: vec![life, rate],
            curves: Vec::new(),
            notes: vec!["a note".to_owned()],
            failures: Vec::new(),
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.123, 12.34, 1234.5].map(number), ["0.12", "12.3", "1234"]);
    }

    #[test]
    fn the_document_has_all_samples() {
        let report = sample();
        let document = report.to_json(&report.facts());
        assert_eq!(document["measures"][0]["daemons"][1]["median"], 200.0);
        assert_eq!(document["measures"][0]["daemons"][1]["samples"][2], 260.0);
        assert_eq!(document["measures"][1]["daemons"][1], Value::Null);
        assert_eq!(document["facts"]["network"], "none");
    }

    #[test]
    fn a_slower_machine_is_told() {
        let mut report = sample();
        assert_eq!(report.at_reference_speed(), None, "the reference was not measured");
        let mut run = Series::new(REFERENCE.0, Unit::Millis, Some(20.0), 2);
        run.samples = vec![vec![40.0], vec![376.0]];
        report.extend([run]);
        let note = report.at_reference_speed().unwrap();
        assert!(note.contains("here 376 ms; at that speed ours: create to exit 2.75 ms,"), "{note}");
    }

    #[test]
    fn a_failure_is_written_and_is_an_error() {
        let dir = std::env::temp_dir().join(format!("dockerd-bench-report-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut report = sample();
        report.write(&dir).unwrap();
        report.failed("kill", &anyhow::anyhow!("no such thing"));
        let error = report.write(&dir).unwrap_err();
        assert_eq!(error.to_string(), "kill failed: no such thing");
        assert!(fs::read_to_string(dir.join("index.html")).unwrap().contains("no such thing"));
        fs::remove_dir_all(dir).unwrap();
    }
}
