//! Measures of images of real sizes: load, pull, push, first use with cold caches, removal, memory meanwhile.
//!
//! These take seconds each, so a round does all of an image's life with one daemon, then with the other, and there are few
//! rounds. Before each turn the disk is quiet and what the daemon reads is in the page cache; where caches are to be cold,
//! they are dropped, which slows down whatever else runs on the machine.

mod lazy;
mod list;
mod load;
mod pull;
mod push;
mod scale;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dockerd_bench::input::{Image, Inputs};

use super::api::{Order, Ports};
use super::daemon::Daemon;
use super::peak::Watch;
use super::registry::Registry;
use super::sample::Series;
use super::{Bench, process, report, since};

pub(super) use lazy::lazy;
pub(super) use list::list;
pub(super) use load::load;
pub(super) use pull::{base, pull};
pub(super) use push::push;
pub(super) use scale::scale;

/// Counted rounds; none warm up.
const ROUNDS: usize = 3;
/// How much memory a load or pull may take above idle, in megabytes.
const MEMORY_TARGET: f64 = 150.0;
/// A daemon that has used no more processor time than this during [`QUIET`] is done with what it does in the background.
const QUIET_TIME: f64 = 20.0;
const QUIET: Duration = Duration::from_millis(200);
/// How long that is waited for.
const LIMIT: Duration = Duration::from_secs(30);
/// A port nobody else has in the daemons' namespaces.
const PORT: u16 = 5891;
/// Where all files of a generated image are.
const FILES: [&str; 2] = ["/app", "/data"];

impl Bench {
    fn inputs(&self) -> Result<Inputs> {
        let default = || self.options.out.join("inputs");
        Inputs::new(&self.options.inputs.clone().unwrap_or_else(default))
    }

    fn image_rounds(&self) -> usize {
        if self.options.quick { 1 } else { ROUNDS }
    }

    /// Takes samples in turn: `once` gives one number for each of `series`. What was measured before an error is reported.
    fn rounds(&mut self, mut series: Vec<Series>, mut once: impl FnMut(&mut Daemon) -> Result<Vec<f64>>) -> Result<()> {
        let count = self.daemons.len();
        let mut done = Ok(());
        'rounds: for round in 0..self.image_rounds() {
            for turn in 0..count {
                let at = if round % 2 == 0 { turn } else { count - 1 - turn };
                let daemon = &mut self.daemons[at];
                let name = daemon.name;
                match once(daemon).context(name) {
                    Ok(values) => {
                        report::say(&format!("round {}, {name}: {values:.0?}", round + 1));
                        series.iter_mut().zip(values).for_each(|(one, value)| one.samples[at].push(value));
                    }
                    Err(error) => {
                        done = Err(error);
                        break 'rounds;
                    }
                }
            }
        }
        self.report.extend(series.into_iter().filter(|one| one.samples.iter().any(|samples| !samples.is_empty())));
        done
    }
}

/// Waits until the daemon is done with what it does in the background and the disk has everything.
fn settle(daemon: &Daemon) -> Result<()> {
    let (begun, mut before) = (Instant::now(), process::processor_time(daemon.pid)?);
    rustix::fs::sync();
    while begun.elapsed() < LIMIT {
        std::thread::sleep(QUIET);
        let now = process::processor_time(daemon.pid)?;
        if now - before <= QUIET_TIME {
            break;
        }
        before = now;
    }
    rustix::fs::sync();
    Ok(())
}

/// Takes from the kernel all it remembers of files.
fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop caches")
}

/// What a piece of work took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Milliseconds by the clock.
    time: f64,
    /// Processor time of the daemon, in milliseconds.
    processor: f64,
    /// Memory of the daemon above what it had when the run began, in megabytes.
    memory: f64,
}

/// Does `work` and watches the daemon meanwhile.
fn watched(daemon: &mut Daemon, work: impl FnOnce(&mut Daemon) -> Result<()>) -> Result<Cost> {
    // Not what it holds now: memory that earlier work left behind counts too.
    let idle = daemon.idle;
    let before = process::processor_time(daemon.pid)?;
    let watch = Watch::begin(daemon.pid)?;
    let begun = Instant::now();
    let done = work(daemon);
    let time = since(begun);
    let peak = watch.end()?;
    done?;
    let processor = process::processor_time(daemon.pid)? - before;
    Ok(Cost { time, processor, memory: peak.saturating_sub(idle) as f64 / 1e6 })
}

/// The time a container takes that reads all generated files of `image`, with cold caches.
fn read_cold(daemon: &mut Daemon, image: &str) -> Result<f64> {
    let script = format!(
        "for d in {}; do if [ -d $d ]; then /bin/busybox tar cf /dev/null $d || exit 1; fi; done",
        FILES.join(" ")
    );
    let order = Order { image, network: "none", command: &["/bin/busybox", "sh", "-c", &script], ports: Ports::None };
    let id = daemon.api.create(&order)?;
    let read = drop_caches().and_then(|()| {
        let begun = Instant::now();
        daemon.api.start(&id)?;
        let code = daemon.api.wait(&id)?;
        let time = since(begun);
        ensure!(code == 0, "reading the files ended with {code}");
        Ok(time)
    });
    daemon.api.remove(&id)?;
    read
}

/// The time of `docker run --rm` of `true` in `image` with cold caches; the CLI's own pages are warm.
fn run_cold(daemon: &Daemon, image: &str, network: &str) -> Result<f64> {
    drop_caches()?;
    docker(daemon, &["ps", "-q"])?;
    let begun = Instant::now();
    docker(daemon, &["run", "--rm", "--network", network, image, "true"])?;
    Ok(since(begun))
}

fn docker(daemon: &Daemon, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("docker");
    command.arg("-H").arg(format!("unix://{}", daemon.socket.display())).args(arguments);
    command.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_HOST").stdin(Stdio::null());
    let output = command.output().context("run the docker CLI")?;
    ensure!(output.status.success(), "docker {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The time of removing an image.
fn remove(daemon: &mut Daemon, image: &str) -> Result<f64> {
    let begun = Instant::now();
    daemon.api.remove_image(image)?;
    Ok(since(begun))
}

/// A registry for each daemon, in its network, that has `images`.
fn registries(bench: &Bench, images: &[(&Image, &str)]) -> Result<Vec<Registry>> {
    let place = registry_place(bench)?;
    let root = place.join("store");
    for (image, repository) in images {
        image.publish(&root, repository)?;
    }
    bench.daemons.iter().map(|daemon| Registry::start(&root, &place, daemon.pid, PORT)).collect()
}

/// Where registries of this run keep what they need; on the file system of the inputs, whose files are linked.
fn registry_place(bench: &Bench) -> Result<PathBuf> {
    let inputs = bench.inputs()?;
    let place = inputs.directory().join("registry");
    fs::create_dir_all(&place)?;
    Ok(place)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
