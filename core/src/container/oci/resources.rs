//! cgroup limits of a specification out of Docker's resources.

use std::os::unix::fs::MetadataExt;

use dockerd_types::container::{DeviceValue, HostConfig, Resources};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
};

use super::SpecError;
use super::devices::{DeviceError, DeviceSet};

/// CFS period used for `--cpus`, microseconds.
const NANO_CPUS_PERIOD: i64 = 100_000;

/// The limits `host` asks for, with the device rules.
pub fn build(host: &HostConfig, devices: &DeviceSet) -> Result<LinuxResources, SpecError> {
    let limits = &host.resources;
    let mut out = LinuxResourcesBuilder::default().devices(devices.rules.clone()).build()?;
    out.set_memory(memory(limits));
    out.set_cpu(cpu(limits));
    out.set_block_io(block_io(limits)?);
    if let Some(limit) = limits.pids_limit.filter(|limit| *limit > 0) {
        out.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build()?));
    }
    Ok(out)
}

fn memory(limits: &Resources) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    let some = |n: i64| (n != 0).then_some(n);
    memory
        .set_limit(some(limits.memory))
        .set_reservation(some(limits.memory_reservation))
        .set_swap(some(limits.memory_swap))
        .set_swappiness(limits.memory_swappiness.and_then(|n| u64::try_from(n).ok()))
        .set_disable_oom_killer(limits.oom_kill_disable.filter(|on| *on));
    (memory != LinuxMemory::default()).then_some(memory)
}

fn cpu(limits: &Resources) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    cpu.set_shares(positive(limits.cpu_shares))
        .set_period(positive(limits.cpu_period))
        .set_quota((limits.cpu_quota != 0).then_some(limits.cpu_quota))
        .set_realtime_period(positive(limits.cpu_realtime_period))
        .set_realtime_runtime((limits.cpu_realtime_runtime != 0).then_some(limits.cpu_realtime_runtime))
        .set_cpus((!limits.cpuset_cpus.is_empty()).then(|| limits.cpuset_cpus.clone()))
        .set_mems((!limits.cpuset_mems.is_empty()).then(|| limits.cpuset_mems.clone()));
    if limits.nano_cpus > 0 {
        // In 128 bits: billions of CPUs times the period pass 64 bits before the division brings them back.
        let quota = i128::from(limits.nano_cpus) * i128::from(NANO_CPUS_PERIOD) / 1_000_000_000;
        cpu.set_period(positive(NANO_CPUS_PERIOD)).set_quota(i64::try_from(quota).ok());
    }
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn block_io(limits: &Resources) -> Result<Option<LinuxBlockIo>, SpecError> {
    let mut io = LinuxBlockIo::default();
    io.set_weight((limits.blkio_weight > 0).then_some(limits.blkio_weight));
    let weights: Vec<_> = limits.blkio_weight_device.iter().map(weight).collect::<Result<_, _>>()?;
    io.set_weight_device((!weights.is_empty()).then_some(weights));
    io.set_throttle_read_bps_device(throttles(&limits.blkio_device_read_bps)?);
    io.set_throttle_write_bps_device(throttles(&limits.blkio_device_write_bps)?);
    io.set_throttle_read_iops_device(throttles(&limits.blkio_device_read_iops)?);
    io.set_throttle_write_iops_device(throttles(&limits.blkio_device_write_iops)?);
    Ok((io != LinuxBlockIo::default()).then_some(io))
}

fn throttles(values: &[DeviceValue]) -> Result<Option<Vec<LinuxThrottleDevice>>, SpecError> {
    let all: Vec<_> = values
        .iter()
        .map(|value| {
            let (major, minor) = numbers(&value.path)?;
            Ok(LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(value.value).build()?)
        })
        .collect::<Result<_, SpecError>>()?;
    Ok((!all.is_empty()).then_some(all))
}

fn weight(value: &DeviceValue) -> Result<LinuxWeightDevice, SpecError> {
    let (major, minor) = numbers(&value.path)?;
    let weight = u16::try_from(value.value).unwrap_or(u16::MAX);
    Ok(LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight).build()?)
}

/// One stat(2); only containers with limits by device pay for it.
fn numbers(path: &str) -> Result<(i64, i64), SpecError> {
    let meta =
        std::fs::metadata(path).map_err(|e| DeviceError::Gather { path: path.to_owned(), reason: e.to_string() })?;
    Ok((i64::from(libc::major(meta.rdev())), i64::from(libc::minor(meta.rdev()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_become_a_quota() {
        let limits = Resources { nano_cpus: 1_500_000_000, ..Resources::default() };
        let cpu = cpu(&limits).expect("limited");
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
    }

    #[test]
    fn nothing_asked_nothing_set() {
        let out = build(&HostConfig::default(), &DeviceSet::default()).expect("built");
        assert!(out.memory().is_none() && out.cpu().is_none() && out.pids().is_none() && out.block_io().is_none());
    }
}
