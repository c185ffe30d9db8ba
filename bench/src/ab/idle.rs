//! Measures of what is there without doing anything: memory of the daemons, lists, and containers that idle.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use super::api::{Order, Ports};
use super::daemon::Daemon;
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
    let order = Order { image: IMAGE, network: &network, command: &["true"], ports: Ports::None };
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

/// Containers that idle at once: memory of the daemon's processes for each, and `ps` with them there.
pub(super) fn idle(bench: &mut Bench) -> Result<()> {
    let counts = [bench.options.idle, bench.options.idle_stock];
    let daemons = bench.daemons.len();
    let counts = &counts[..daemons.min(counts.len())];
    let (fewest, most) = (counts.iter().copied().min().unwrap_or(0), counts.iter().copied().max().unwrap_or(0));
    let port = if bench.publish { ", port published" } else { "" };
    let mut memory = Series::new(format!("memory per idle container{port} (PSS)"), Unit::Megabytes, Some(0.3), daemons);
    let mut start = Series::new(format!("create and start{port}, others idle"), Unit::Millis, None, daemons);
    let mut ps = [fewest, most].map(|count| {
        let target = (count == most).then_some(5.0);
        Series::new(format!("ps with {count} idle containers"), Unit::Millis, target, daemons)
    });
    let mut done = Ok(());
    for (at, count) in counts.iter().copied().enumerate() {
        let mut ids = Vec::new();
        let measured = idle_on(bench, at, fewest, count, &mut ids);
        ids.iter().try_for_each(|id| bench.daemons[at].api.remove(id))?;
        match measured {
            Ok(found) => {
                memory.samples[at].push(megabytes(found.bytes) / count as f64);
                start.samples[at] = found.starts;
                ps[0].samples[at] = found.reads_early;
                if count == most {
                    ps[1].samples[at] = found.reads;
                }
            }
            Err(error) => done = Err(error.context(bench.daemons[at].name)),
        }
    }
    let list = counts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    bench.report.note(format!("idle containers at once: {list}"));
    let [few, many] = ps;
    bench.report.extend([memory, start, few]);
    if most > fewest {
        bench.report.extend([many]);
    }
    done
}

/// What idle containers cost.
struct Idle {
    /// All of them together.
    bytes: u64,
    /// Time each took to create and start.
    starts: Vec<f64>,
    /// Times of `ps` when as many were there as every daemon gets, and when all were there.
    reads_early: Vec<f64>,
    reads: Vec<f64>,
}

fn idle_on(bench: &mut Bench, at: usize, early: usize, count: usize, ids: &mut Vec<String>) -> Result<Idle> {
    let order = Order {
        image: IMAGE,
        network: &bench.network,
        command: &["sleep", "100000"],
        ports: Ports::free_if(bench.publish),
    };
    let daemon = &mut bench.daemons[at];
    // One life first, so that what the first container costs once is not counted for each.
    let first = daemon.api.create(&order)?;
    daemon.api.start(&first)?;
    daemon.api.remove(&first)?;
    let before = process::memory(daemon.pid, &[])?;
    let (mut starts, mut reads_early) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let begun = Instant::now();
        let id = daemon.api.create(&order)?;
        ids.push(id.clone());
        daemon.api.start(&id)?;
        starts.push(since(begun));
        if ids.len() == early {
            reads_early = read_list(daemon)?;
        }
    }
    let running = daemon.api.own(false)?.len();
    ensure!(running == count, "{running} of {count} containers run");
    let after = process::memory(daemon.pid, ids)?;
    let bytes = after.proportional.saturating_sub(before.proportional);
    Ok(Idle { bytes, starts, reads_early, reads: read_list(daemon)? })
}

fn read_list(daemon: &mut Daemon) -> Result<Vec<f64>> {
    let mut reads = Vec::new();
    for _ in 0..READS {
        let begun = Instant::now();
        daemon.api.list(false)?;
        reads.push(since(begun));
    }
    Ok(reads)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
