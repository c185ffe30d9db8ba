//! Measures of what is there without doing anything: memory of the daemons, lists, and containers that idle.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use super::api::Order;
use super::process;
use super::sample::{Series, Unit};
use super::{Bench, IMAGE, since};

/// How often a list is read.
const READS: usize = 20;
/// Resident memory ours may have, in megabytes.
const MEMORY_TARGET: f64 = 20.0;

/// Resident memory of the daemon's processes before the work.
pub(super) fn daemon_memory(bench: &mut Bench) -> Result<()> {
    resident(bench, "memory of the idle daemon (RSS)", Some(MEMORY_TARGET))
}

/// The same when the other measures are done.
pub(super) fn memory_after(bench: &mut Bench) -> Result<()> {
    resident(bench, "memory after all this work (RSS)", None)
}

fn resident(bench: &mut Bench, title: &str, target: Option<f64>) -> Result<()> {
    let titles = [(title, Unit::Megabytes, target)];
    bench.in_turn(1, titles, |daemon| Ok([megabytes(process::memory(daemon.pid, &[])?.resident)]))
}

/// Lists of 100 and 500 containers that do not run, and one inspect among them.
pub(super) fn list(bench: &mut Bench) -> Result<()> {
    let sizes: &[usize] = if bench.options.quick { &[100] } else { &[100, 500] };
    let mut ids: Vec<Vec<String>> = vec![Vec::new(); bench.daemons.len()];
    let done = sizes.iter().try_for_each(|size| list_of(bench, *size, &mut ids));
    for (daemon, ids) in bench.daemons.iter_mut().zip(ids) {
        ids.iter().try_for_each(|id| daemon.api.remove(id))?;
    }
    done
}

fn list_of(bench: &mut Bench, size: usize, ids: &mut [Vec<String>]) -> Result<()> {
    let network = bench.network.clone();
    let order = Order { image: IMAGE, network: &network, command: &["true"], publish: false };
    for (daemon, ids) in bench.daemons.iter_mut().zip(ids.iter_mut()) {
        while ids.len() < size {
            ids.push(daemon.api.create(&order)?);
        }
    }
    let target = (size == 100).then_some(0.5);
    let (list, inspect) = (format!("list {size} containers"), format!("inspect one of {size}"));
    let titles = [(list.as_str(), Unit::Millis, target), (inspect.as_str(), Unit::Millis, None)];
    let one: Vec<_> = bench.daemons.iter().zip(ids.iter()).map(|(daemon, ids)| (daemon.name, ids[0].clone())).collect();
    bench.in_turn(READS, titles, |daemon| {
        let (_, id) = one.iter().find(|(name, _)| *name == daemon.name).ok_or_else(|| anyhow!("no container"))?;
        let begun = Instant::now();
        let reply = daemon.api.list(true)?;
        let list = since(begun);
        let length = reply.json()?.as_array().map_or(0, Vec::len);
        ensure!(length >= size, "{length} containers are listed, not {size}");
        let begun = Instant::now();
        daemon.api.inspect(id)?;
        Ok([list, since(begun)])
    })
}

/// Containers that idle at once: memory of our processes for each, and `ps` with them there.
pub(super) fn idle(bench: &mut Bench) -> Result<()> {
    let counts = [bench.options.idle, bench.options.idle_stock];
    let daemons = bench.daemons.len();
    let numbers = if daemons > 1 { format!("{}; stock {}", counts[0], counts[1]) } else { counts[0].to_string() };
    let port = if bench.publish { " with a published port" } else { "" };
    let line = |title: String, unit, target| Series::new(title, unit, target, daemons);
    let mut memory =
        line(format!("memory per idle container{port} (PSS; {numbers} at once)"), Unit::Megabytes, Some(0.3));
    let mut start = line(format!("create and start of each of them{port}"), Unit::Millis, None);
    let mut ps = line(format!("ps with idle containers ({numbers})"), Unit::Millis, Some(5.0));
    let mut done = Ok(());
    for (at, count) in counts.into_iter().enumerate().take(daemons) {
        let mut ids = Vec::new();
        let measured = idle_on(bench, at, count, &mut ids);
        ids.iter().try_for_each(|id| bench.daemons[at].api.remove(id))?;
        match measured {
            Ok((bytes, starts, reads)) => {
                memory.samples[at].push(megabytes(bytes) / count as f64);
                start.samples[at] = starts;
                ps.samples[at] = reads;
            }
            Err(error) => done = Err(error.context(bench.daemons[at].name)),
        }
    }
    bench.report.extend([memory, start, ps]);
    done
}

/// Bytes all of them cost together, the time each took to start, and the times of `ps`.
fn idle_on(bench: &mut Bench, at: usize, count: usize, ids: &mut Vec<String>) -> Result<(u64, Vec<f64>, Vec<f64>)> {
    let order = Order { image: IMAGE, network: &bench.network, command: &["sleep", "100000"], publish: bench.publish };
    let daemon = &mut bench.daemons[at];
    // One life first, so that what the first container costs once is not counted for each.
    let first = daemon.api.create(&order)?;
    daemon.api.start(&first)?;
    daemon.api.remove(&first)?;
    let before = process::memory(daemon.pid, &[])?;
    let mut starts = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        let id = daemon.api.create(&order)?;
        ids.push(id.clone());
        daemon.api.start(&id)?;
        starts.push(since(begun));
    }
    let running = daemon.api.own(false)?.len();
    ensure!(running == count, "{running} of {count} containers run");
    let after = process::memory(daemon.pid, ids)?;
    let mut reads = Vec::new();
    for _ in 0..READS {
        let begun = Instant::now();
        daemon.api.list(false)?;
        reads.push(since(begun));
    }
    Ok((after.proportional.saturating_sub(before.proportional), starts, reads))
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
