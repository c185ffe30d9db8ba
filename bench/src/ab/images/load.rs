//! A layer of 40,000 files is loaded, plain and compressed; the image is read with cold caches and removed.

use anyhow::Result;
use dockerd_bench::input::{self, Form};

use super::super::Bench;
use super::super::sample::{Series, Unit};
use super::{MEMORY_TARGET, megabytes, read_cold, remove, settle, watched};

/// Files of the layer.
const FILES: usize = 40_000;
/// The image, by this name in both daemons.
const NAME: &str = "dockerd-bench/packages:latest";

/// Takes the measures.
pub(crate) fn load(bench: &mut Bench) -> Result<()> {
    let files = if bench.options.quick { FILES / 20 } else { FILES };
    let inputs = bench.inputs()?;
    let image = inputs.packages(files)?;
    let plain = inputs.archive(&image, NAME, Form::Plain)?;
    let gzip = inputs.archive(&image, NAME, Form::Gzip)?;
    let (size, compressed) = (megabytes(image.plain_size()), megabytes(gzip.metadata()?.len()));
    bench.report.note(format!("the layer of {files} files has {size:.0} MB, {compressed:.0} MB by gzip"));
    let count = bench.daemons.len();
    let time = |title: String| Series::new(title, Unit::Millis, None, count);
    let series = vec![
        time(format!("load a plain layer of {files} files")).at_least_times(8.0),
        time("that, processor time".to_owned()),
        time(format!("load a gzip layer of {files} files")).at_least_times(8.0),
        time("that, processor time".to_owned()),
        Series::new("memory during loads, above idle", Unit::Megabytes, Some(MEMORY_TARGET), count),
        time("first read of those files, cold".to_owned()).at_least_times(3.0),
        time("remove that image".to_owned()).at_least_times(50.0),
    ];
    bench.rounds(series, |daemon| {
        settle(daemon)?;
        input::touch(&plain)?;
        let first = watched(daemon, |daemon| daemon.api.load_file(&plain))?;
        let cold = read_cold(daemon, NAME)?;
        let removed = remove(daemon, NAME)?;
        settle(daemon)?;
        input::touch(&gzip)?;
        let second = watched(daemon, |daemon| daemon.api.load_file(&gzip))?;
        remove(daemon, NAME)?;
        settle(daemon)?;
        let memory = first.memory.max(second.memory);
        Ok(vec![first.time, first.processor, second.time, second.processor, memory, cold, removed])
    })
}
