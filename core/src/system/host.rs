//! Facts of this host, read once at boot.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dockerd_runtime::capabilities;
use dockerd_runtime::cgroup::{CgroupDriver, CgroupMode};

use crate::config::EngineConfig;
use crate::container::oci::HostFacts;
use crate::container::validate::HostLimits;

/// Names that mean the built-in runtime.
const BUILT_IN_RUNTIMES: [&str; 3] = ["runc", "io.containerd.runc.v2", crate::config::NATIVE_RUNTIME];

/// Reads what specifications need. Blocking.
pub(crate) fn facts() -> HostFacts {
    HostFacts {
        cgroup_v2: cgroup_v2(),
        // mount_setattr with AT_RECURSIVE came with 5.12, older than the oldest kernel we support.
        recursive_read_only: true,
        thermal_throttle: thermal_throttle(),
        available_caps: capabilities::available(),
        hostname: text("/proc/sys/kernel/hostname"),
    }
}

/// Reads what the checks need. Blocking.
pub(crate) fn limits(config: &EngineConfig) -> HostLimits {
    let v2 = cgroup_v2();
    let root = Path::new("/sys/fs/cgroup");
    let first = |paths: [&str; 3]| paths.iter().map(|p| text(root.join(p))).find(|t| !t.is_empty()).unwrap_or_default();
    let mut runtimes: BTreeSet<String> = BUILT_IN_RUNTIMES.map(str::to_owned).into();
    runtimes.extend(config.runtimes.keys().cloned());
    HostLimits {
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        cpuset_cpus: first(["cpuset.cpus.effective", "cpuset/cpuset.effective_cpus", "cpuset/cpuset.cpus"]),
        cpuset_mems: first(["cpuset.mems.effective", "cpuset/cpuset.effective_mems", "cpuset/cpuset.mems"]),
        cgroup_v2: v2,
        swap_limit: v2 || root.join("memory/memory.memsw.limit_in_bytes").exists(),
        blkio_weight: if v2 {
            root.join("init.scope/io.weight").exists() || root.join("system.slice/io.weight").exists()
        } else {
            root.join("blkio/blkio.weight").exists()
        },
        runtimes,
    }
}

fn cgroup_v2() -> bool {
    CgroupDriver::detect().is_ok_and(|driver| matches!(driver.mode(), CgroupMode::V2))
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Counters of overheating tell containers about each other's load, so they are masked where there are any.
fn thermal_throttle() -> Vec<String> {
    let Ok(cpus) = fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let mut out: Vec<String> = cpus
        .flatten()
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.exists())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    out.sort();
    out
}
