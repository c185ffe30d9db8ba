//! How times grow: pulls by size, loads by number of files, for each of our storage drivers and the stock daemon.

use anyhow::{Context, Result};
use dockerd_bench::input::{self, Form, Image};

use super::super::daemon::Daemon;
use super::super::registry::Registry;
use super::super::report::Curve;
use super::super::sample::Summary;
use super::super::{Bench, report, since};
use super::{PORT, megabytes, registry_place, settle};

/// Megabytes of the layers of pulled images.
const SIZES: [&[u32]; 3] = [&[50], &[100, 80, 20], &[400, 250, 150]];
/// Files of the one layer of loaded images.
const FILES: [usize; 3] = [1000, 10_000, 40_000];
/// Of so many samples a point is the median.
const ROUNDS: usize = 2;
const LOADED: &str = "dockerd-bench/scale:latest";
const REPOSITORY: &str = "bench/scale";

/// Takes the measure.
pub(crate) fn scale(bench: &mut Bench) -> Result<()> {
    let mut more = Vec::new();
    for driver in bench.options.drivers.iter().skip(1).filter(|_| bench.options.ours.is_none()) {
        let dir = bench.options.out.canonicalize()?.join(format!("daemon-{}-{driver}", std::process::id()));
        more.push(Daemon::start("ours", &bench.options.program, &dir, driver)?);
    }
    let done = curves(bench, &mut more);
    let ended = more.iter_mut().try_for_each(|daemon| daemon.clean_up(&[]));
    done.and(ended)
}

fn curves(bench: &mut Bench, more: &mut [Daemon]) -> Result<()> {
    let inputs = bench.inputs()?;
    let few = bench.options.quick;
    let sizes = SIZES.iter().take(if few { 2 } else { SIZES.len() });
    let pulled = sizes.map(|layers| inputs.bulk(layers)).collect::<Result<Vec<Image>>>()?;
    let files = FILES.iter().copied().take(if few { 2 } else { FILES.len() });
    let loaded = files.map(|files| Ok((files, inputs.packages(files)?))).collect::<Result<Vec<_>>>()?;

    let place = registry_place(bench)?;
    let store = place.join("store");
    for (number, image) in pulled.iter().enumerate() {
        image.publish(&store, &format!("{REPOSITORY}-{number}"))?;
    }
    // The same order in both plots, so that a daemon has one colour.
    let mut daemons: Vec<&mut Daemon> = bench.daemons.iter_mut().chain(more).collect();
    let names: Vec<String> = daemons.iter().map(|daemon| format!("{} ({})", daemon.name, daemon.driver)).collect();
    let registries = daemons.iter().map(|daemon| Registry::start(&store, &place, daemon.pid, PORT));
    let registries = registries.collect::<Result<Vec<_>>>()?;

    let mut by_size = Curve::new("pull by size", "MB", "ms", &names);
    for (number, image) in pulled.iter().enumerate() {
        let name = format!("127.0.0.1:{PORT}/{REPOSITORY}-{number}");
        let medians = medians(&mut daemons, few, |daemon| {
            image.touch()?;
            let begun = std::time::Instant::now();
            daemon.api.pull(&name, "latest")?;
            let time = since(begun);
            daemon.api.remove_image(&format!("{name}:latest"))?;
            Ok(time)
        })?;
        by_size.push(megabytes(image.plain_size()), &medians);
    }
    drop(registries);

    let mut by_files = Curve::new("load by number of files", "files", "ms", &names);
    for (files, image) in &loaded {
        let archive = inputs.archive(image, LOADED, Form::Gzip)?;
        let medians = medians(&mut daemons, few, |daemon| {
            input::touch(&archive)?;
            let begun = std::time::Instant::now();
            daemon.api.load_file(&archive)?;
            let time = since(begun);
            daemon.api.remove_image(LOADED)?;
            Ok(time)
        })?;
        by_files.push(*files as f64, &medians);
    }
    bench.report.curves([by_size, by_files]);
    Ok(())
}

/// Medians of some rounds, all daemons in turn.
fn medians(
    daemons: &mut [&mut Daemon],
    few: bool,
    mut once: impl FnMut(&mut Daemon) -> Result<f64>,
) -> Result<Vec<f64>> {
    let mut samples = vec![Vec::new(); daemons.len()];
    for _ in 0..if few { 1 } else { ROUNDS } {
        for (daemon, samples) in daemons.iter_mut().zip(&mut samples) {
            settle(daemon)?;
            let time = once(daemon).with_context(|| format!("{} ({})", daemon.name, daemon.driver))?;
            report::say(&format!("{} ({}): {time:.0}", daemon.name, daemon.driver));
            samples.push(time);
            settle(daemon)?;
        }
    }
    samples.iter().map(|samples| Ok(Summary::of(samples).context("nothing was measured")?.median)).collect()
}
