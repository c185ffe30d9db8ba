//! The list of many images.

use std::time::Instant;

use anyhow::{Result, ensure};
use dockerd_bench::input::{Form, Image};

use super::super::sample::{Series, Unit};
use super::super::{Bench, since};

/// Images, all of one layer.
const IMAGES: usize = 1000;
/// What the list of them may take, in milliseconds.
const TARGET: f64 = 5.0;
/// How often it is read in a turn.
const READS: usize = 7;

/// Takes the measure.
pub(crate) fn list(bench: &mut Bench) -> Result<()> {
    let count = if bench.options.quick { IMAGES / 10 } else { IMAGES };
    let inputs = bench.inputs()?;
    let layer = inputs.packages(1)?.layers;
    let images = (0..count).map(|number| Image::new(layer.clone(), &number.to_string())).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = (0..count).map(|number| format!("dockerd-bench/one-of-many:{number}")).collect();
    let pairs: Vec<(&Image, &str)> = images.iter().zip(names.iter().map(String::as_str)).collect();
    let archive = inputs.archive_of(&pairs, Form::Plain)?;
    for daemon in &mut bench.daemons {
        daemon.api.load_file(&archive)?;
    }
    let daemons = bench.daemons.len();
    let mut series = Series::new(format!("list {count} images"), Unit::Millis, Some(TARGET), daemons);
    let done = (0..READS).try_for_each(|_| {
        for (at, daemon) in bench.daemons.iter_mut().enumerate() {
            let begun = Instant::now();
            let reply = daemon.api.images()?;
            series.samples[at].push(since(begun));
            let found = reply.json()?.as_array().map_or(0, Vec::len);
            ensure!(found >= count, "{found} images are listed, not {count}");
        }
        Ok(())
    });
    bench.report.extend([series]);
    for daemon in &mut bench.daemons {
        names.iter().try_for_each(|name| daemon.api.remove_image(name))?;
    }
    done
}
