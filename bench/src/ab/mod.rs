//! The A/B runner: every measure is taken from all daemons in turn within one run (A B, B A, ...), so that what else the
//! machine does hits both. Ends with a table, a JSON document and a page with plots.

mod api;
mod cli;
mod congestion;
mod daemon;
mod http;
mod idle;
mod images;
mod life;
mod networks;
mod peak;
mod process;
mod registry;
mod report;
mod sample;
mod storage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use dockerd_bench::image;

use self::congestion::Congestion;
use self::daemon::Daemon;
use self::report::Report;
use self::sample::{Series, Unit};

/// The small image, by this name in both daemons.
const IMAGE: &str = "dockerd-bench/busybox:latest";
/// Rounds that are not counted: caches fill, pools warm.
const WARM_UP: usize = 2;

/// Options of the runner.
#[derive(Debug, Clone, Parser)]
#[command(about = "Measures our daemon and the stock one in turn")]
pub(crate) struct Options {
    /// Socket of a stock daemon; without it ours is measured alone
    #[arg(long, value_name = "SOCKET")]
    stock: Option<String>,
    /// Socket of a daemon of ours that runs already
    #[arg(long, value_name = "SOCKET")]
    ours: Option<String>,
    /// Our binary, started for this run on private roots, when `--ours` is not given
    #[arg(long, value_name = "PATH", default_value = "target/release/dockerd-rs")]
    program: PathBuf,
    /// Directory for the results and for the private roots
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Counted rounds of the short measures
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Take only the measures whose name contains this; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Few rounds and small numbers, for CI
    #[arg(long)]
    quick: bool,
    /// Network of the containers; `auto` is bridge where all daemons have it, else none
    #[arg(long, default_value = "auto")]
    network: String,
    /// Containers that idle at once on ours
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    idle: usize,
    /// Containers that idle at once on the stock daemon
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    idle_stock: usize,
    /// Files in the layer of the image that is loaded and removed
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    files: usize,
    /// Storage drivers of ours; the first one is measured throughout, all of them by size and number of files
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "erofs,composefs,overlay2,vfs")]
    drivers: Vec<String>,
    /// Directory where generated images are kept; `inputs` in the directory for the results by default
    #[arg(long, value_name = "DIR")]
    inputs: Option<PathBuf>,
    /// TCP's congestion control during the run, for the whole machine (`cubic` is what kernels come with)
    #[arg(long, value_name = "NAME")]
    tcp: Option<String>,
    /// Print the names of the measures and end
    #[arg(long)]
    list: bool,
}

impl Options {
    /// Numbers that CI can afford.
    fn settled(&self) -> Self {
        let mut options = self.clone();
        if options.quick {
            options.rounds = options.rounds.min(8);
            options.idle = options.idle.min(40);
            options.idle_stock = options.idle_stock.min(5);
            options.files = options.files.min(2000);
        }
        options
    }
}

/// A measure: name on the command line, and what takes it.
type Measure = (&'static str, fn(&mut Bench) -> Result<()>);

/// All measures, in the order they are taken.
const MEASURES: [Measure; 18] = [
    ("memory", idle::daemon_memory),
    ("ping", life::ping),
    ("life", life::whole_life),
    ("cli", cli::run),
    ("exec", life::exec),
    ("busy", life::busy),
    ("kill", life::kill),
    ("parallel", life::parallel),
    ("list", idle::list),
    ("idle", idle::idle),
    ("networks start", networks::start),
    ("networks create", networks::create),
    ("networks ports", networks::ports),
    ("networks many-ports", networks::many_ports),
    ("networks parallel", networks::parallel),
    ("networks traffic", networks::traffic),
    ("networks names", networks::names),
    ("networks restart", networks::restart),
];
/// Measures of images, which write much and come last.
const LAST: [Measure; 9] = [
    ("image", storage::load_and_remove),
    ("images load", images::load),
    ("images pull", images::pull),
    ("images base", images::base),
    ("images lazy", images::lazy),
    ("images list", images::list),
    ("images push", images::push),
    ("images scale", images::scale),
    ("memory after", idle::memory_after),
];

/// State of a run.
#[derive(Debug)]
struct Bench {
    options: Options,
    daemons: Vec<Daemon>,
    network: String,
    publish: bool,
    report: Report,
    /// Of the host, set back in the end.
    _congestion: Option<Congestion>,
}

/// Takes the measures and writes the results.
pub(crate) fn run(options: &Options) -> Result<()> {
    let options = options.settled();
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| name.contains(only.as_str()));
    let measures: Vec<Measure> = MEASURES.into_iter().chain(LAST).filter(|(name, _)| wanted(name)).collect();
    ensure!(!measures.is_empty(), "no measure is called {}", options.only.join(" or "));
    if options.list {
        return report::print_names(measures.iter().map(|(name, _)| *name));
    }
    let mut bench = Bench::prepare(options)?;
    for (name, take) in measures {
        report::say(&format!("measuring {name}"));
        let done = take(&mut bench);
        if let Err(error) = done {
            bench.report.failed(name, &error);
        }
    }
    bench.finish()
}

impl Bench {
    fn prepare(options: Options) -> Result<Self> {
        std::fs::create_dir_all(&options.out)?;
        let congestion = options.tcp.as_deref().map(Congestion::set).transpose()?;
        let ours = match &options.ours {
            Some(socket) => Daemon::at("ours", socket)?,
            None => {
                let dir = options.out.canonicalize()?.join(format!("daemon-{}", std::process::id()));
                let driver = options.drivers.first().context("no storage driver is named")?;
                Daemon::start("ours", &options.program, &dir, driver)?
            }
        };
        let mut daemons = vec![ours];
        if let Some(socket) = &options.stock {
            daemons.push(Daemon::at("stock", socket)?);
        }
        if let Some(congestion) = &congestion {
            daemons.iter().try_for_each(|daemon| congestion.set_for(daemon.pid))?;
        }
        let root = image::busybox_root()?;
        let (repository, tag) = IMAGE.split_once(':').context("the image has no tag")?;
        for daemon in &mut daemons {
            daemon.api.import(&root, repository, tag).with_context(|| format!("import into {}", daemon.name))?;
        }
        let mut report = Report::new(&options, &daemons);
        let (network, publish) = choose_network(&options.network, &mut daemons, &mut report);
        report.network.clone_from(&network);
        Ok(Self { options, daemons, network, publish, report, _congestion: congestion })
    }

    fn finish(mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            if let Err(error) = daemon.clean_up(&[IMAGE]) {
                self.report.failed(daemon.name, &error);
            }
        }
        self.report.write(&self.options.out)
    }

    /// Takes samples in turn: `once` gives one number for each title.
    fn in_turn<const N: usize>(
        &mut self,
        rounds: usize,
        titles: [(&str, Unit, Option<f64>); N],
        mut once: impl FnMut(&mut Daemon) -> Result<[f64; N]>,
    ) -> Result<()> {
        let count = self.daemons.len();
        let mut series = titles.map(|(title, unit, target)| Series::new(title, unit, target, count));
        let warm_up = if rounds > WARM_UP { WARM_UP } else { 0 };
        for round in 0..warm_up + rounds {
            for turn in 0..count {
                let at = if round % 2 == 0 { turn } else { count - 1 - turn };
                let daemon = &mut self.daemons[at];
                let values = once(daemon).with_context(|| daemon.name)?;
                if round >= warm_up {
                    series.iter_mut().zip(values).for_each(|(series, value)| series.samples[at].push(value));
                }
            }
        }
        self.report.extend(series);
        Ok(())
    }
}

/// Both daemons do the same work: bridge if all of them can, else none.
fn choose_network(wanted: &str, daemons: &mut [Daemon], report: &mut Report) -> (String, bool) {
    if wanted != "auto" && wanted != "bridge" {
        return (wanted.to_owned(), false);
    }
    for daemon in daemons {
        if let Err(error) = daemon.can_publish(IMAGE, "bridge") {
            let publishing = if wanted == "auto" { "all containers are without network" } else { "no ports" };
            report.note(format!("{} cannot publish ports on a bridge ({error:#}); {publishing}", daemon.name));
            return (if wanted == "auto" { "none" } else { wanted }.to_owned(), false);
        }
    }
    ("bridge".to_owned(), true)
}

/// A duration as samples have it.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Milliseconds since `begun`.
fn since(begun: Instant) -> f64 {
    millis(begun.elapsed())
}
