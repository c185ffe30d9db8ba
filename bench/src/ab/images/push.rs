//! An image that was pulled from one registry is pushed to another, which is empty.

use std::fs;
use std::time::Instant;

use anyhow::Result;

use super::super::registry::Registry;
use super::super::sample::{Series, Unit};
use super::super::{Bench, since};
use super::{PORT, registries, registry_place, remove, settle};

const REPOSITORY: &str = "bench/pushed";
/// Megabytes of the layers.
const LAYERS: [u32; 3] = [100, 80, 20];

/// Takes the measure.
pub(crate) fn push(bench: &mut Bench) -> Result<()> {
    let layers: &[u32] = if bench.options.quick { &LAYERS[2..] } else { &LAYERS };
    let image = bench.inputs()?.bulk(layers)?;
    let registries = registries(bench, &[(&image, REPOSITORY)])?;
    let (name, target) = (format!("127.0.0.1:{PORT}/{REPOSITORY}"), format!("127.0.0.1:{}/{REPOSITORY}", PORT + 1));
    let (place, count) = (registry_place(bench)?, bench.daemons.len());
    let title = format!("push {} MB to an empty registry", layers.iter().sum::<u32>());
    let done = bench.rounds(vec![Series::new(title, Unit::Millis, None, count)], |daemon| {
        image.touch()?;
        daemon.api.pull(&name, "latest")?;
        daemon.api.tag(&format!("{name}:latest"), &target, "latest")?;
        settle(daemon)?;
        let store = place.join("empty");
        let registry = Registry::start(&store, &place, daemon.pid, PORT + 1)?;
        let begun = Instant::now();
        let pushed = daemon.api.push(&target, "latest").map(|()| since(begun));
        drop(registry);
        fs::remove_dir_all(&store)?;
        remove(daemon, &format!("{target}:latest"))?;
        remove(daemon, &format!("{name}:latest"))?;
        Ok(vec![pushed?])
    });
    drop(registries);
    done
}
