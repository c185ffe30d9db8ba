//! Images are pulled from a registry on loopback, run and read with cold caches, and removed.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use dockerd_bench::input::{self, Image};

use super::super::sample::{Series, Unit};
use super::super::{Bench, since};
use super::{Cost, MEMORY_TARGET, PORT, megabytes, read_cold, registries, remove, run_cold, settle, watched};

/// Repository of the image of ten layers.
const LARGE: &str = "bench/large";
/// Repository of the image of a Debian base system.
const BASE: &str = "bench/base";
/// How much longer than decompression alone a pull may take.
const DECOMPRESSION: f64 = 1.3;

/// The image of ten layers.
pub(crate) fn pull(bench: &mut Bench) -> Result<()> {
    let inputs = bench.inputs()?;
    let image = if bench.options.quick { inputs.bulk(&[10, 20, 40])? } else { inputs.large()? };
    note(bench, "the pulled image", &image);
    let registries = registries(bench, &[(&image, LARGE)])?;
    let name = format!("127.0.0.1:{PORT}/{LARGE}");
    let count = bench.daemons.len();
    let time = |title: &str| Series::new(title, Unit::Millis, None, count);
    let series = vec![
        time(&format!("pull {} layers, {:.0} MB", image.layers.len(), megabytes(image.plain_size())))
            .at_least_times(4.0),
        time("that, processor time"),
        time("decompression of those layers alone, two threads"),
        time("that, and both their digests"),
        time("gzip -d of those layers, two at once"),
        Series::new("pull against decompression alone", Unit::Times, Some(DECOMPRESSION), count),
        Series::new("pull against decompression and digests", Unit::Times, None, count),
        Series::new("memory during pulls, above idle", Unit::Megabytes, Some(MEMORY_TARGET), count),
        time("first docker run after the pull, cold").at_least_times(3.0),
        time("first read of all its files, cold").at_least_times(3.0),
        time("remove the pulled image").at_least_times(50.0),
    ];
    let network = bench.network.clone();
    let reference = format!("{name}:latest");
    let done = bench.rounds(series, |daemon| {
        settle(daemon)?;
        image.touch()?;
        let floor = timed(|| input::decompress(&image, 2))?;
        let verified = timed(|| input::verify(&image, 2))?;
        let gzip = timed(|| gunzip(&image))?;
        let pulled = watched(daemon, |daemon| daemon.api.pull(&name, "latest"))?;
        settle(daemon)?;
        let run = run_cold(daemon, &reference, &network)?;
        let read = read_cold(daemon, &reference)?;
        let removed = remove(daemon, &reference)?;
        settle(daemon)?;
        let (times, against) = (pulled.time / floor, pulled.time / verified);
        let Cost { time, processor, memory } = pulled;
        Ok(vec![time, processor, floor, verified, gzip, times, against, memory, run, read, removed])
    });
    drop(registries);
    done
}

/// A Debian base system, as most images begin with.
pub(crate) fn base(bench: &mut Bench) -> Result<()> {
    let image = bench.inputs()?.from_tar("debian-minbase", debian)?;
    note(bench, "the Debian base system", &image);
    let registries = registries(bench, &[(&image, BASE)])?;
    let name = format!("127.0.0.1:{PORT}/{BASE}");
    let count = bench.daemons.len();
    let time = |title: &str| Series::new(title, Unit::Millis, None, count);
    let series = vec![
        time("pull a Debian base system"),
        time("first docker run of it, cold").at_least_times(3.0),
        time("remove it"),
    ];
    let network = bench.network.clone();
    let reference = format!("{name}:latest");
    let done = bench.rounds(series, |daemon| {
        settle(daemon)?;
        image.touch()?;
        let begun = Instant::now();
        daemon.api.pull(&name, "latest")?;
        let pulled = since(begun);
        settle(daemon)?;
        let run = run_cold(daemon, &reference, &network)?;
        Ok(vec![pulled, run, remove(daemon, &reference)?])
    });
    drop(registries);
    done
}

fn note(bench: &mut Bench, what: &str, image: &Image) {
    let compressed: u64 = image.layers.iter().map(|layer| layer.size).sum();
    let (layers, plain, gzip) = (image.layers.len(), megabytes(image.plain_size()), megabytes(compressed));
    bench.report.note(format!("{what} has {layers} layers, {plain:.0} MB, {gzip:.0} MB by gzip"));
}

/// What users know as decompression: gzip(1), as many at once as the pull has processors.
fn gunzip(image: &Image) -> Result<()> {
    let mut command = Command::new("xargs");
    command.args(["-d", "\n", "-n", "1", "-P", "2", "sh", "-c", "gzip -dc < \"$1\" > /dev/null", "gzip"]);
    let mut child = command.stdin(Stdio::piped()).spawn().context("xargs")?;
    let mut names = child.stdin.take().context("no input")?;
    image.layers.iter().try_for_each(|layer| writeln!(names, "{}", layer.path.display()))?;
    drop(names);
    ensure!(child.wait()?.success(), "gzip cannot read the layers");
    Ok(())
}

/// How long `work` takes.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(since(begun))
}

/// Has mmdebstrap make a minimal Debian.
fn debian(path: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", "--aptopt=Acquire::Check-Valid-Until \"false\"", "stable"]);
    command.arg(path).args(mirror()).stdin(Stdio::null());
    let status = command.status().context("mmdebstrap (is it installed?)")?;
    ensure!(status.success(), "mmdebstrap failed ({status})");
    Ok(())
}

/// The Debian mirror this machine uses; on other distributions mmdebstrap's own default.
fn mirror() -> Option<String> {
    let files = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect::<String>();
    let is_debian = std::fs::read_to_string("/etc/os-release").ok()?.lines().any(|line| line == "ID=debian");
    let lines = texts.lines().filter(|line| is_debian && (line.starts_with("URIs:") || line.starts_with("deb ")));
    lines.flat_map(str::split_whitespace).find(|word| word.starts_with("http")).map(str::to_owned)
}
