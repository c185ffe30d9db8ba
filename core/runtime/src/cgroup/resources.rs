//! OCI limits as the file writes they amount to, for both versions. Pure: only what is set produces a write, and the
//! order of the list is the order a fresh cgroup takes them in.

use std::borrow::Cow;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::CgroupError;

/// What a missing file means for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    /// The limit cannot be set: fail.
    Fail,
    /// The write only says "no limit"; without the file there is none.
    Ignore,
    /// Older or newer kernels call it so.
    Try(&'static str),
}

/// One write into a controller's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: &'static str,
    pub(super) file: Cow<'static, str>,
    pub(super) value: String,
    pub(super) if_missing: IfMissing,
}

impl Setting {
    fn new(controller: &'static str, file: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        Self { controller, file: file.into(), value: value.to_string(), if_missing: IfMissing::Fail }
    }

    fn or(mut self, if_missing: IfMissing) -> Self {
        self.if_missing = if_missing;
        self
    }
}

/// The writes for version 1.
pub(super) fn v1(resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
    let mut out = Vec::new();
    if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
        return Err(CgroupError::InvalidResource("unified settings need cgroup version 2".to_owned()));
    }
    if let Some(memory) = resources.memory() {
        v1_memory(memory, &mut out);
    }
    if let Some(cpu) = resources.cpu() {
        v1_cpu(cpu, &mut out);
    }
    if let Some(pids) = resources.pids() {
        out.extend(pids_max(pids.limit()));
    }
    if let Some(block_io) = resources.block_io() {
        v1_block_io(block_io, &mut out);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
        out.push(Setting::new("hugetlb", file, limit.limit()));
    }
    if let Some(network) = resources.network() {
        out.extend(network.class_id().map(|id| Setting::new("net_cls", "net_cls.classid", id)));
        for priority in network.priorities().iter().flatten() {
            let value = format!("{} {}", priority.name(), priority.priority());
            out.push(Setting::new("net_prio", "net_prio.ifpriomap", value));
        }
    }
    out.extend(rdma(resources));
    Ok(out)
}

/// The writes for version 2.
pub(super) fn v2(resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
    let mut out = Vec::new();
    if let Some(memory) = resources.memory() {
        v2_memory(memory, &mut out)?;
    }
    if let Some(cpu) = resources.cpu() {
        v2_cpu(cpu, &mut out);
    }
    if let Some(pids) = resources.pids() {
        out.extend(pids_max(pids.limit()));
    }
    if let Some(block_io) = resources.block_io() {
        v2_block_io(block_io, &mut out);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", limit.page_size());
        out.push(Setting::new("hugetlb", file, limit.limit()));
    }
    out.extend(rdma(resources));
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || !file.contains('.') {
            return Err(CgroupError::InvalidResource(format!("unified setting {file:?}")));
        }
        out.push(Setting::new("", file.clone(), value));
    }
    Ok(out)
}

fn v1_memory(memory: &LinuxMemory, out: &mut Vec<Setting>) {
    let limit = memory.limit().filter(|&limit| limit != 0);
    // An unlimited limit alone means unlimited swap as well.
    let swap = memory.swap().filter(|&swap| swap != 0).or_else(|| limit.filter(|&limit| limit == -1));
    out.extend(limit.map(|limit| Setting::new("memory", "memory.limit_in_bytes", limit)));
    out.extend(swap.map(|swap| {
        let missing = if swap == -1 { IfMissing::Ignore } else { IfMissing::Fail };
        Setting::new("memory", "memory.memsw.limit_in_bytes", swap).or(missing)
    }));
    let soft = memory.reservation().filter(|&soft| soft != 0);
    out.extend(soft.map(|soft| Setting::new("memory", "memory.soft_limit_in_bytes", soft)));
    let tcp = memory.kernel_tcp().filter(|&tcp| tcp != 0);
    out.extend(tcp.map(|tcp| Setting::new("memory", "memory.kmem.tcp.limit_in_bytes", tcp)));
    if memory.disable_oom_killer() == Some(true) {
        out.push(Setting::new("memory", "memory.oom_control", 1));
    }
    out.extend(memory.swappiness().filter(|&s| s <= 100).map(|s| Setting::new("memory", "memory.swappiness", s)));
}

fn v1_cpu(cpu: &LinuxCpu, out: &mut Vec<Setting>) {
    let set = |value: Option<u64>| value.filter(|&value| value != 0);
    out.extend(set(cpu.realtime_period()).map(|us| Setting::new("cpu", "cpu.rt_period_us", us)));
    let runtime = cpu.realtime_runtime().filter(|&us| us != 0);
    out.extend(runtime.map(|us| Setting::new("cpu", "cpu.rt_runtime_us", us)));
    out.extend(set(cpu.shares()).map(|shares| Setting::new("cpu", "cpu.shares", shares)));
    out.extend(set(cpu.period()).map(|us| Setting::new("cpu", "cpu.cfs_period_us", us)));
    let quota = cpu.quota().filter(|&us| us != 0);
    out.extend(quota.map(|us| Setting::new("cpu", "cpu.cfs_quota_us", us)));
    out.extend(cpu.burst().map(|us| Setting::new("cpu", "cpu.cfs_burst_us", us)));
    out.extend(cpu.idle().map(|idle| Setting::new("cpu", "cpu.idle", idle)));
    cpuset(cpu, out);
}

fn v2_memory(memory: &LinuxMemory, out: &mut Vec<Setting>) -> Result<(), CgroupError> {
    let limit = memory.limit().filter(|&limit| limit != 0);
    let swap = match (memory.swap().filter(|&swap| swap != 0), limit) {
        (Some(-1), _) | (None, Some(-1)) => Some("max".to_owned()),
        // Version 1 counts memory and swap together, version 2 swap alone.
        (Some(swap), Some(limit)) if limit > 0 && swap >= limit => Some((swap - limit).to_string()),
        (Some(swap), _) => {
            return Err(CgroupError::InvalidResource(format!(
                "memory swap limit {swap} without a smaller memory limit"
            )));
        }
        (None, _) => None,
    };
    out.extend(swap.map(|swap| {
        let missing = if swap == "max" || swap == "0" { IfMissing::Ignore } else { IfMissing::Fail };
        Setting::new("memory", "memory.swap.max", swap).or(missing)
    }));
    out.extend(limit.map(|limit| Setting::new("memory", "memory.max", or_max(limit))));
    let low = memory.reservation().filter(|&low| low != 0);
    out.extend(low.map(|low| Setting::new("memory", "memory.low", or_max(low))));
    Ok(())
}

fn v2_cpu(cpu: &LinuxCpu, out: &mut Vec<Setting>) {
    out.extend(cpu.idle().map(|idle| Setting::new("cpu", "cpu.idle", idle)));
    let weight = cpu.shares().map_or(0, weight_of_shares);
    if weight != 0 {
        out.push(Setting::new("cpu", "cpu.weight", weight));
    }
    let quota = cpu.quota().filter(|&us| us != 0);
    let period = cpu.period().filter(|&us| us != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|&us| us > 0).map_or_else(|| "max".to_owned(), |us| us.to_string());
        out.push(Setting::new("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
    }
    out.extend(cpu.burst().map(|us| Setting::new("cpu", "cpu.max.burst", us)));
    cpuset(cpu, out);
}

fn cpuset(cpu: &LinuxCpu, out: &mut Vec<Setting>) {
    let set = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
    out.extend(set(cpu.cpus()).map(|cpus| Setting::new("cpuset", "cpuset.cpus", cpus)));
    out.extend(set(cpu.mems()).map(|mems| Setting::new("cpuset", "cpuset.mems", mems)));
}

fn pids_max(limit: i64) -> Option<Setting> {
    (limit != 0).then(|| Setting::new("pids", "pids.max", or_max(limit)))
}

fn v1_block_io(block_io: &LinuxBlockIo, out: &mut Vec<Setting>) {
    // The name depends on the I/O scheduler that keeps the weights: CFQ once, BFQ now.
    if let Some(weight) = block_io.weight().filter(|&weight| weight != 0) {
        out.push(Setting::new("blkio", "blkio.weight", weight).or(IfMissing::Try("blkio.bfq.weight")));
    }
    for device in block_io.weight_device().iter().flatten() {
        let value = format!("{}:{} {}", device.major(), device.minor(), device.weight().unwrap_or(0));
        let other = IfMissing::Try("blkio.bfq.weight_device");
        out.push(Setting::new("blkio", "blkio.weight_device", value).or(other));
    }
    let tables = [
        (block_io.throttle_read_bps_device(), "blkio.throttle.read_bps_device"),
        (block_io.throttle_write_bps_device(), "blkio.throttle.write_bps_device"),
        (block_io.throttle_read_iops_device(), "blkio.throttle.read_iops_device"),
        (block_io.throttle_write_iops_device(), "blkio.throttle.write_iops_device"),
    ];
    for (devices, file) in tables {
        for device in devices.iter().flatten() {
            out.push(Setting::new("blkio", file, throttle(device, "")));
        }
    }
}

fn v2_block_io(block_io: &LinuxBlockIo, out: &mut Vec<Setting>) {
    if let Some(weight) = block_io.weight().filter(|&weight| weight != 0) {
        out.push(Setting::new("io", "io.bfq.weight", weight).or(IfMissing::Try("io.weight")));
    }
    for device in block_io.weight_device().iter().flatten() {
        let value = format!("{}:{} {}", device.major(), device.minor(), device.weight().unwrap_or(0));
        out.push(Setting::new("io", "io.bfq.weight", value));
    }
    let tables = [
        (block_io.throttle_read_bps_device(), "rbps="),
        (block_io.throttle_write_bps_device(), "wbps="),
        (block_io.throttle_read_iops_device(), "riops="),
        (block_io.throttle_write_iops_device(), "wiops="),
    ];
    for (devices, key) in tables {
        for device in devices.iter().flatten() {
            out.push(Setting::new("io", "io.max", throttle(device, key)));
        }
    }
}

fn throttle(device: &LinuxThrottleDevice, key: &str) -> String {
    format!("{}:{} {key}{}", device.major(), device.minor(), device.rate())
}

fn rdma(resources: &LinuxResources) -> impl Iterator<Item = Setting> + '_ {
    resources.rdma().iter().flatten().map(|(device, limits)| {
        let mut value = device.clone();
        if let Some(handles) = limits.hca_handles() {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limits.hca_objects() {
            value.push_str(&format!(" hca_object={objects}"));
        }
        Setting::new("rdma", "rdma.max", value)
    })
}

fn or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

/// Version 1 shares (2..=262144, 1024 the default) as version 2 weight (1..=10000, 100 the default): a curve through
/// the two ends and the default, as current OCI runtimes have it.
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// Version 1 block weight (10..=1000) as `io.weight` (1..=10000), where the BFQ file is missing.
pub(super) fn io_weight(weight: u64) -> u64 {
    1 + weight.saturating_sub(10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder,
        LinuxThrottleDeviceBuilder,
    };

    fn texts(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|s| format!("{}={}", s.file, s.value)).collect()
    }

    fn limited() -> LinuxResources {
        LinuxResourcesBuilder::default()
            .memory(LinuxMemoryBuilder::default().limit(64 << 20).swap(96 << 20).reservation(32 << 20).build().unwrap())
            .cpu(
                LinuxCpuBuilder::default()
                    .shares(512u64)
                    .quota(50_000)
                    .period(100_000u64)
                    .cpus("0")
                    .mems("0")
                    .build()
                    .unwrap(),
            )
            .pids(LinuxPidsBuilder::default().limit(100).build().unwrap())
            .block_io(
                LinuxBlockIoBuilder::default()
                    .weight(500u16)
                    .throttle_read_bps_device(vec![
                        LinuxThrottleDeviceBuilder::default().major(8).minor(0).rate(1024u64).build().unwrap(),
                    ])
                    .build()
                    .unwrap(),
            )
            .build()
            .unwrap()
    }

    #[test]
    fn nothing_set_writes_nothing() {
        assert!(v1(&LinuxResources::default()).unwrap().iter().all(|s| s.controller == "devices"));
        let empty = LinuxResourcesBuilder::default()
            .memory(LinuxMemoryBuilder::default().disable_oom_killer(false).build().unwrap())
            .pids(LinuxPidsBuilder::default().limit(0).build().unwrap())
            .build()
            .unwrap();
        assert_eq!((v1(&empty).unwrap(), v2(&empty).unwrap()), (Vec::new(), Vec::new()));
    }

    #[test]
    fn limits_on_version_1() {
        assert_eq!(
            texts(&v1(&limited()).unwrap()),
            [
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=100663296",
                "memory.soft_limit_in_bytes=33554432",
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpuset.cpus=0",
                "cpuset.mems=0",
                "pids.max=100",
                "blkio.weight=500",
                "blkio.throttle.read_bps_device=8:0 1024",
            ]
        );
    }

    #[test]
    fn limits_on_version_2() {
        assert_eq!(
            texts(&v2(&limited()).unwrap()),
            [
                "memory.swap.max=33554432",
                "memory.max=67108864",
                "memory.low=33554432",
                "cpu.weight=59",
                "cpu.max=50000 100000",
                "cpuset.cpus=0",
                "cpuset.mems=0",
                "pids.max=100",
                "io.bfq.weight=500",
                "io.max=8:0 rbps=1024",
            ]
        );
    }

    #[test]
    fn weights_go_through_ends_and_default() {
        for (shares, weight) in [(0, 0), (1, 1), (2, 1), (1024, 100), (262_144, 10_000), (1 << 40, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert!((2..262_144u64).step_by(97).all(|s| weight_of_shares(s) <= weight_of_shares(s + 97)));
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
    }
}
