//! What a cgroup has used. One type for both versions; what only one of them counts is an `Option` or stays empty.

use std::collections::BTreeMap;
use std::path::Path;

use super::files;

/// One reading of a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupStats {
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Block devices.
    pub block_io: BlockIoStats,
    /// Processes and threads.
    pub pids: PidsStats,
}

/// Processor time, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All of it.
    pub total: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// By processor (version 1 only).
    pub per_cpu: Vec<u64>,
    /// Enforcement periods gone by.
    pub periods: u64,
    /// Periods in which the quota ran out.
    pub throttled_periods: u64,
    /// Time spent waiting for quota.
    pub throttled_time: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// The most ever in use (version 1; version 2 from `memory.peak` where it is there).
    pub max_usage: Option<u64>,
    /// How often the limit was hit.
    pub fail_count: Option<u64>,
    /// The limit; `None` for none.
    pub limit: Option<u64>,
    /// Everything in `memory.stat`.
    pub details: BTreeMap<String, u64>,
    /// How often the OOM killer struck here.
    pub oom_kills: u64,
}

/// Per-device counters; `operation` is spelt as the kernel file of the version in use spells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIoStats {
    /// Bytes.
    pub bytes: Vec<BlockIoEntry>,
    /// Requests (version 1 only, as in the stock API).
    pub requests: Vec<BlockIoEntry>,
}

/// One counter of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockIoEntry {
    /// Device major number.
    pub major: u64,
    /// Device minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; or `read`, `write`.
    pub operation: String,
    /// The count.
    pub value: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be; `None` for no limit.
    pub limit: Option<u64>,
}

/// Nanoseconds in one tick of `cpuacct.stat`, which counts hundredths of a second on every architecture served here.
const TICK: u64 = 10_000_000;
/// Version 1 says "no limit" by the largest number of whole pages.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

/// Reads the version 1 files; a hierarchy that is not mounted is `None`.
pub(super) fn read_v1<'a>(dir: impl Fn(&str) -> Option<&'a Path>) -> CgroupStats {
    let mut stats = CgroupStats::default();
    if let Some(dir) = dir("cpuacct") {
        stats.cpu.total = files::number(&dir.join("cpuacct.usage")).unwrap_or(0);
        for (key, ticks) in files::pairs(&dir.join("cpuacct.stat")) {
            match key.as_str() {
                "user" => stats.cpu.user = ticks * TICK,
                "system" => stats.cpu.system = ticks * TICK,
                _ => {}
            }
        }
        let per_cpu = files::read(&dir.join("cpuacct.usage_percpu")).unwrap_or_default();
        stats.cpu.per_cpu = per_cpu.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
    }
    if let Some(dir) = dir("cpu") {
        throttling(&mut stats.cpu, files::pairs(&dir.join("cpu.stat")));
    }
    if let Some(dir) = dir("memory") {
        let number = |file: &str| files::number(&dir.join(file));
        stats.memory = MemoryStats {
            usage: number("memory.usage_in_bytes").unwrap_or(0),
            max_usage: number("memory.max_usage_in_bytes"),
            fail_count: number("memory.failcnt"),
            limit: number("memory.limit_in_bytes").filter(|&limit| limit < V1_UNLIMITED),
            details: files::pairs(&dir.join("memory.stat")).into_iter().collect(),
            oom_kills: oom_kills(&dir.join("memory.oom_control")),
        };
    }
    if let Some(dir) = dir("blkio") {
        // The BFQ files count when that scheduler is in use; the throttle files always do.
        let read = |bfq: &str, throttle: &str| {
            let entries = block_io_v1(&files::read(&dir.join(bfq)).unwrap_or_default());
            if entries.is_empty() {
                block_io_v1(&files::read(&dir.join(throttle)).unwrap_or_default())
            } else {
                entries
            }
        };
        stats.block_io.bytes =
            read("blkio.bfq.io_service_bytes_recursive", "blkio.throttle.io_service_bytes_recursive");
        stats.block_io.requests = read("blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive");
    }
    if let Some(dir) = dir("pids") {
        stats.pids = pids(dir);
    }
    stats
}

/// Reads the version 2 files.
pub(super) fn read_v2(dir: &Path) -> CgroupStats {
    let mut stats = CgroupStats::default();
    let cpu = files::pairs(&dir.join("cpu.stat"));
    for (key, us) in &cpu {
        match key.as_str() {
            "usage_usec" => stats.cpu.total = us * 1000,
            "user_usec" => stats.cpu.user = us * 1000,
            "system_usec" => stats.cpu.system = us * 1000,
            _ => {}
        }
    }
    throttling(&mut stats.cpu, cpu);
    let events = files::pairs(&dir.join("memory.events"));
    stats.memory = MemoryStats {
        usage: files::number(&dir.join("memory.current")).unwrap_or(0),
        max_usage: files::number(&dir.join("memory.peak")),
        fail_count: events.iter().find(|(key, _)| key == "oom").map(|(_, count)| *count),
        limit: files::number(&dir.join("memory.max")),
        details: files::pairs(&dir.join("memory.stat")).into_iter().collect(),
        oom_kills: oom_kills(&dir.join("memory.events")),
    };
    stats.block_io.bytes = block_io_v2(&files::read(&dir.join("io.stat")).unwrap_or_default());
    stats.pids = pids(dir);
    stats
}

/// The OOM killer's count, from `memory.oom_control` or `memory.events`.
pub(super) fn oom_kills(file: &Path) -> u64 {
    files::pairs(file).into_iter().find(|(key, _)| key == "oom_kill").map_or(0, |(_, count)| count)
}

fn pids(dir: &Path) -> PidsStats {
    PidsStats {
        current: files::number(&dir.join("pids.current")).unwrap_or(0),
        limit: files::number(&dir.join("pids.max")),
    }
}

fn throttling(cpu: &mut CpuStats, pairs: Vec<(String, u64)>) {
    for (key, value) in pairs {
        match key.as_str() {
            "nr_periods" => cpu.periods = value,
            "nr_throttled" => cpu.throttled_periods = value,
            "throttled_time" => cpu.throttled_time = value,
            "throttled_usec" => cpu.throttled_time = value * 1000,
            _ => {}
        }
    }
}

/// Lines of `major:minor Operation count`; the last line is a sum without device.
fn block_io_v1(text: &str) -> Vec<BlockIoEntry> {
    let entry = |line: &str| {
        let mut fields = line.split(' ');
        let (major, minor) = fields.next()?.split_once(':')?;
        Some(BlockIoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            operation: fields.next()?.to_owned(),
            value: fields.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// Lines of `major:minor rbytes=n wbytes=n ...`.
fn block_io_v2(text: &str) -> Vec<BlockIoEntry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let Some((major, minor)) = fields.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for field in fields {
            let operation = match field.split_once('=') {
                Some(("rbytes", count)) => Some(("read", count)),
                Some(("wbytes", count)) => Some(("write", count)),
                _ => None,
            };
            if let Some((operation, value)) = operation.and_then(|(name, n)| Some((name, n.parse().ok()?))) {
                entries.push(BlockIoEntry { major, minor, operation: operation.to_owned(), value });
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_counters_of_both_versions() {
        let v1 = block_io_v1("253:0 Read 4096\n253:0 Total 4096\nTotal 4096\n");
        assert_eq!(v1.len(), 2);
        assert_eq!((v1[0].major, v1[0].minor, v1[0].operation.as_str(), v1[0].value), (253, 0, "Read", 4096));
        let v2 = block_io_v2("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16\n");
        assert_eq!(v2.iter().map(|e| (e.operation.as_str(), e.value)).collect::<Vec<_>>(), [("read", 1), ("write", 2)]);
    }

    #[test]
    fn version_2_reads_from_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        put(
            "cpu.stat",
            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 1\nnr_throttled 2\nthrottled_usec 3\n",
        );
        put("memory.current", "4096\n");
        put("memory.max", "max\n");
        put("memory.stat", "anon 1\ninactive_file 2\n");
        put("memory.events", "low 0\noom 2\noom_kill 1\n");
        put("pids.current", "3\n");
        put("pids.max", "100\n");
        let stats = read_v2(dir.path());
        assert_eq!((stats.cpu.total, stats.cpu.user, stats.cpu.system), (30_000, 20_000, 10_000));
        assert_eq!((stats.cpu.periods, stats.cpu.throttled_periods, stats.cpu.throttled_time), (1, 2, 3000));
        assert_eq!((stats.memory.usage, stats.memory.limit, stats.memory.oom_kills), (4096, None, 1));
        assert_eq!((stats.memory.fail_count, stats.memory.details["inactive_file"]), (Some(2), 2));
        assert_eq!(stats.pids, PidsStats { current: 3, limit: Some(100) });
    }
}
