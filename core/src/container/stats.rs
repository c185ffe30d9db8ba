//! `docker stats`: readings of a container's cgroup and interfaces, once or every second for as long as somebody looks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use dockerd_runtime::cgroup::{BlockIoEntry, BlockIoStats, CgroupStats, CpuStats, MemoryStats, PidsStats};
use dockerd_types::{ContainerId, Timestamp};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::{Container, ContainerService};
use crate::core::Core;
use crate::error::EngineError;

/// Time between two readings, as under Docker.
const PERIOD: Duration = Duration::from_secs(1);
/// Nanoseconds in a tick of /proc/stat, which counts hundredths of a second on all our architectures.
const TICK: u64 = 10_000_000;

/// How often a client wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsMode {
    /// Until it goes.
    Stream,
    /// Once, with a reading from before to compare with.
    Once,
    /// Once, at once.
    OneShot,
}

/// One reading.
#[derive(Debug, Clone)]
pub struct StatsReading {
    /// When it was taken.
    pub at: Timestamp,
    /// Of the cgroup.
    pub cgroup: CgroupStats,
    /// Processor time of the whole host, in nanoseconds.
    pub system_cpu: u64,
    /// Processors there are.
    pub online_cpus: u32,
    /// Memory of the host in bytes, which is the limit where none is set.
    pub host_memory: u64,
    /// Interfaces of the container's own.
    pub networks: BTreeMap<String, InterfaceCounters>,
}

/// What went over an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Received: bytes, packets, errors, dropped.
    pub received: [u64; 4],
    /// Sent: bytes, packets, errors, dropped.
    pub sent: [u64; 4],
}

/// What a client is told at a time.
#[derive(Debug, Clone)]
pub struct ContainerStats {
    /// The container.
    pub id: ContainerId,
    /// Its name, without slash.
    pub name: Arc<str>,
    /// Now; `None` when it does not run.
    pub now: Option<StatsReading>,
    /// The reading before.
    pub before: Option<StatsReading>,
    /// Counters are version 2's.
    pub cgroup_v2: bool,
}

impl ContainerService {
    /// Readings of a container; ends with the container, or after one.
    pub fn stats(&self, name: &str, mode: StatsMode) -> Result<mpsc::Receiver<ContainerStats>, EngineError> {
        let container = self.core.containers.find(name)?;
        let (sender, receiver) = mpsc::channel(1);
        let core = self.core.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = watch(&core, &container, mode, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }
}

async fn watch(core: &Arc<Core>, container: &Arc<Container>, mode: StatsMode, out: &mpsc::Sender<ContainerStats>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<StatsReading> = None;
    loop {
        ticks.tick().await;
        let snapshot = container.snapshot();
        if snapshot.removed {
            return;
        }
        let now = read(core, container).await;
        // One reading tells nothing of a rate.
        if mode == StatsMode::Once && before.is_none() && now.is_some() {
            before = now;
            continue;
        }
        let stats = ContainerStats {
            id: container.id().clone(),
            name: snapshot.name.clone(),
            now: now.clone(),
            before: std::mem::replace(&mut before, now),
            cgroup_v2: core.facts.cgroup_v2,
        };
        if out.send(stats).await.is_err() || mode != StatsMode::Stream {
            return;
        }
    }
}

async fn read(core: &Arc<Core>, container: &Arc<Container>) -> Option<StatsReading> {
    let state = container.snapshot().state.clone();
    if !state.is_running() {
        return None;
    }
    let driver = container.driver(core).ok()?;
    let id = container.id().clone();
    let endpoints = state.endpoints.iter().chain(&state.way_out);
    let interfaces: Vec<String> = endpoints.map(|endpoint| endpoint.interface.clone()).collect();
    let reading = move || {
        // It may end in between; then there is nothing to tell.
        let cgroup = driver.stats(&id).ok()?;
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (system_cpu, online_cpus) = processors(&text("/proc/stat"));
        let networks = match interfaces.iter().any(|name| !name.is_empty()) {
            true => counters(&text(&format!("/proc/{}/net/dev", state.pid)), &interfaces),
            false => BTreeMap::new(),
        };
        let host_memory = memory(&text("/proc/meminfo"));
        Some(StatsReading { at: Timestamp::now(), cgroup, system_cpu, online_cpus, host_memory, networks })
    };
    crate::image::blocking(reading).await.ok().flatten()
}

/// Processor time of the host and the number of processors (proc(5), `/proc/stat`).
fn processors(stat: &str) -> (u64, u32) {
    let mut total = 0;
    let mut count = 0;
    for line in stat.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            // user, nice, system, idle, iowait, irq, softirq
            Some("cpu") => total = words.take(7).filter_map(|word| word.parse::<u64>().ok()).sum(),
            Some(word) if word.starts_with("cpu") => count += 1,
            _ => break,
        }
    }
    (total * TICK, count)
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|number| number.trim().parse().ok());
    kilobytes.unwrap_or(0_u64) * 1024
}

/// Counters of the interfaces `wanted` (`/proc/PID/net/dev`).
fn counters(dev: &str, wanted: &[String]) -> BTreeMap<String, InterfaceCounters> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let name = name.trim();
        let numbers: Vec<u64> = rest.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        let four = |from: usize| numbers.get(from..from + 4)?.try_into().ok();
        let found = InterfaceCounters { received: four(0)?, sent: four(8)? };
        wanted.iter().any(|wanted| wanted == name).then(|| (name.to_owned(), found))
    };
    dev.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_files_are_read() {
        let stat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 0 0 0 0 0 0 0 0 0 0\nintr 5\n";
        assert_eq!(processors(stat), (28 * TICK, 2));
        assert_eq!(memory("MemFree: 1 kB\nMemTotal:       2048 kB\n"), 2048 * 1024);
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let expected = InterfaceCounters { received: [1, 2, 3, 4], sent: [5, 6, 7, 8] };
        assert_eq!(counters(dev, &["eth0".to_owned()]), BTreeMap::from([("eth0".to_owned(), expected)]));
        assert!(counters("garbage\nx: y", &[]).is_empty());
    }
}
