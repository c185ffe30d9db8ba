//! Measures of images: an archive with a compressed layer of many small files is loaded and removed.

use std::time::Instant;

use anyhow::Result;
use dockerd_bench::image;

use super::sample::Unit;
use super::{Bench, since};

/// Name of the image, the same in both daemons.
const NAME: &str = "dockerd-bench/files:latest";
/// Removal is one unlink with the layer drivers that are to come.
const REMOVE_TARGET: f64 = 20.0;

/// Loads and removes.
pub(super) fn load_and_remove(bench: &mut Bench) -> Result<()> {
    let archive = image::many_files(NAME, bench.options.files)?;
    let rounds = if bench.options.quick { 1 } else { 5 };
    let load = format!("load a layer of {} files", bench.options.files);
    let titles = [(load.as_str(), Unit::Millis, None), ("remove that image", Unit::Millis, Some(REMOVE_TARGET))];
    bench.in_turn(rounds, titles, |daemon| {
        // What the other daemon wrote is not to be written back during this one's turn.
        rustix::fs::sync();
        let begun = Instant::now();
        daemon.api.load(&archive)?;
        let loaded = since(begun);
        let begun = Instant::now();
        daemon.api.remove_image(NAME)?;
        Ok([loaded, since(begun)])
    })
}
