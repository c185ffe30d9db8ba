//! What `docker info` shows of this host: the kernel, the distribution, which limits the kernel can set. Read anew for each
//! request, because a host changes while the daemon runs. Blocking.

use std::fs;
use std::path::Path;

/// Facts of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInfo {
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the distribution, for people.
    pub operating_system: String,
    /// Its version; may be empty.
    pub os_version: String,
    /// The host's name.
    pub hostname: String,
    /// CPUs.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Packets are forwarded between interfaces.
    pub ipv4_forwarding: bool,
    /// File descriptors this daemon has open.
    pub descriptors: usize,
    /// Name of the file system below the data root.
    pub backing_file_system: &'static str,
    /// What cgroups can limit.
    pub limits: Limits,
}

/// What the kernel's cgroups can limit here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one line of docker info")]
pub struct Limits {
    /// Memory.
    pub memory: bool,
    /// Swap.
    pub swap: bool,
    /// TCP buffers (version 1).
    pub kernel_memory_tcp: bool,
    /// The out-of-memory killer can be switched off (version 1).
    pub oom_kill_disable: bool,
    /// Periods of CPU time.
    pub cpu_period: bool,
    /// Quotas of CPU time.
    pub cpu_quota: bool,
    /// Shares of CPU time.
    pub cpu_shares: bool,
    /// Sets of CPUs.
    pub cpuset: bool,
    /// Number of processes.
    pub pids: bool,
    /// Weights of block I/O, for all and by device.
    pub io_weight: [bool; 2],
    /// Rates of block I/O: bytes read and written, operations read and written.
    pub io_rates: [bool; 4],
}

/// Where cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Reads all of it. Blocking.
pub(crate) fn read(data_root: &Path) -> HostInfo {
    let release = text("/etc/os-release");
    let release = if release.is_empty() { text("/usr/lib/os-release") } else { release };
    let name = release_value(&release, "PRETTY_NAME");
    HostInfo {
        kernel: text("/proc/sys/kernel/osrelease"),
        operating_system: if name.is_empty() { "Linux".to_owned() } else { name },
        os_version: release_value(&release, "VERSION_ID"),
        hostname: text("/proc/sys/kernel/hostname"),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory: memory(&text("/proc/meminfo")),
        ipv4_forwarding: text("/proc/sys/net/ipv4/ip_forward") == "1",
        descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        backing_file_system: rustix::fs::statfs(data_root).map_or("unknown", |stat| file_system(stat.f_type)),
        limits: limits(Path::new(CGROUPS)),
    }
}

impl Limits {
    /// What cannot be limited, in the stock daemon's words.
    pub fn warnings(&self, version: u8) -> Vec<String> {
        let v1 = version == 1;
        let all = [
            (!self.memory, "No memory limit support"),
            (!self.swap, "No swap limit support"),
            (!self.kernel_memory_tcp && v1, "No kernel memory TCP limit support"),
            (!self.oom_kill_disable && v1, "No oom kill disable support"),
            (!self.cpu_quota, "No cpu cfs quota support"),
            (!self.cpu_period, "No cpu cfs period support"),
            (!self.cpu_shares, "No cpu shares support"),
            (!self.cpuset, "No cpuset support"),
            (!self.io_weight[0] && !v1, "No io.weight support"),
            (!self.io_weight[1] && !v1, "No io.weight (per device) support"),
            (!self.io_rates[0] && v1, "No blkio throttle.read_bps_device support"),
            (!self.io_rates[1] && v1, "No blkio throttle.write_bps_device support"),
            (!self.io_rates[2] && v1, "No blkio throttle.read_iops_device support"),
            (!self.io_rates[3] && v1, "No blkio throttle.write_iops_device support"),
            (!self.io_rates[0] && !v1, "No io.max (rbps) support"),
            (!self.io_rates[1] && !v1, "No io.max (wbps) support"),
            (!self.io_rates[2] && !v1, "No io.max (riops) support"),
            (!self.io_rates[3] && !v1, "No io.max (wiops) support"),
        ];
        all.iter().filter(|(is_missing, _)| *is_missing).map(|(_, text)| format!("WARNING: {text}")).collect()
    }
}

/// By the files the controllers have.
fn limits(root: &Path) -> Limits {
    let controllers = fs::read_to_string(root.join("cgroup.controllers"));
    let Ok(controllers) = controllers else { return limits_v1(root) };
    let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
    // The root cgroup has no limits, so files are looked for where the init system has made some.
    let file = |name: &str| {
        let children = fs::read_dir(root).into_iter().flatten().flatten();
        children.map(|entry| entry.path()).any(|path| path.join(name).exists())
    };
    Limits {
        memory: has("memory"),
        swap: has("memory") && Path::new("/proc/swaps").exists(),
        kernel_memory_tcp: false,
        oom_kill_disable: false,
        cpu_period: has("cpu"),
        cpu_quota: has("cpu"),
        cpu_shares: has("cpu"),
        cpuset: has("cpuset"),
        pids: has("pids"),
        io_weight: [has("io") && (file("io.weight") || file("io.bfq.weight")); 2],
        io_rates: [has("io"); 4],
    }
}

fn limits_v1(root: &Path) -> Limits {
    let has = |file: &str| root.join(file).exists();
    let throttle = |what: &str| has(&format!("blkio/blkio.throttle.{what}_device"));
    Limits {
        memory: has("memory/memory.limit_in_bytes"),
        swap: has("memory/memory.memsw.limit_in_bytes"),
        kernel_memory_tcp: has("memory/memory.kmem.tcp.limit_in_bytes"),
        oom_kill_disable: has("memory/memory.oom_control"),
        cpu_period: has("cpu/cpu.cfs_period_us"),
        cpu_quota: has("cpu/cpu.cfs_quota_us"),
        cpu_shares: has("cpu/cpu.shares"),
        cpuset: has("cpuset/cpuset.cpus"),
        pids: has("pids"),
        io_weight: [has("blkio/blkio.weight"), has("blkio/blkio.weight_device")],
        io_rates: [throttle("read_bps"), throttle("write_bps"), throttle("read_iops"), throttle("write_iops")],
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn release_value(release: &str, key: &str) -> String {
    let value = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
}

fn memory(meminfo: &str) -> u64 {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// The stock daemon's names for what statfs(2) answers.
fn file_system(kind: i64) -> &'static str {
    match kind {
        0x5a3c_69f0 => "aufs",
        0x9123_683e => "btrfs",
        0x28cd_3d45 => "cramfs",
        0xf15f => "ecryptfs",
        0xef53 => "extfs",
        0xf2f5_2010 => "f2fs",
        0x4244 => "hfs",
        0x9660 => "isofs",
        0x3153_464a => "jfs",
        0x6969 => "nfs",
        0x794c_7630 => "overlayfs",
        0x7371_7368 => "squashfs",
        0x0102_1994 => "tmpfs",
        0x1501_3346 => "udf",
        0x5846_5342 => "xfs",
        0x2fc1_2fc1 => "zfs",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_say() {
        let release = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian 13\"\nVERSION_ID='13'\n";
        assert_eq!(release_value(release, "PRETTY_NAME"), "Debian 13");
        assert_eq!(release_value(release, "VERSION_ID"), "13");
        assert_eq!(release_value(release, "VERSION"), "");
        assert_eq!(memory("MemTotal:       16 kB\nMemFree: 1 kB\n"), 16 * 1024);
    }

    #[test]
    fn what_is_missing_is_warned_of() {
        let all = Limits {
            memory: true,
            swap: true,
            kernel_memory_tcp: true,
            oom_kill_disable: true,
            cpu_period: true,
            cpu_quota: true,
            cpu_shares: true,
            cpuset: true,
            pids: true,
            io_weight: [true; 2],
            io_rates: [true; 4],
        };
        assert_eq!(all.warnings(1), Vec::<String>::new());
        assert_eq!(
            Limits { kernel_memory_tcp: false, oom_kill_disable: false, ..all }.warnings(2),
            Vec::<String>::new()
        );
        assert_eq!(Limits { swap: false, ..all }.warnings(2), ["WARNING: No swap limit support"]);
        let io = Limits { io_rates: [false, true, true, true], ..all };
        assert_eq!(io.warnings(1), ["WARNING: No blkio throttle.read_bps_device support"]);
        assert_eq!(io.warnings(2), ["WARNING: No io.max (rbps) support"]);
    }

    #[test]
    fn controllers_are_found_in_both_versions() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for file in ["memory/memory.limit_in_bytes", "cpu/cpu.shares"] {
            fs::create_dir_all(dir.path().join(file)).expect("made");
        }
        let found = limits(dir.path());
        assert!(found.memory && found.cpu_shares && !found.cpu_quota && !found.pids);
        fs::write(dir.path().join("cgroup.controllers"), "cpu io pids\n").expect("written");
        fs::create_dir_all(dir.path().join("system.slice/io.weight")).expect("made");
        let found = limits(dir.path());
        assert!(!found.memory && found.cpu_quota && found.pids && found.io_weight[0] && found.io_rates[3]);
    }
}
