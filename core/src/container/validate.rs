//! Checks a description against Docker's rules and fills in the daemon's defaults. Pure but for the facts it is handed;
//! one function per group of fields, each with the stock daemon's texts and warnings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use dockerd_network::link::MacAddress;
use dockerd_runtime::capabilities::CapabilityList;
use dockerd_types::container::{
    CgroupnsMode, ContainerConfig, HostConfig, IpcMode, LogConfig, NetworkMode, PidMode, Resources, RestartPolicy,
};
use dockerd_types::network::EndpointConfig;
use dockerd_types::signal::Signal;

use super::connect::{Asked, check_endpoint};
use super::create_error::{CreateError, LimitError};
use super::names;
use crate::config::EngineConfig;

/// Smallest memory limit, bytes.
const MIN_MEMORY: i64 = 6 * 1024 * 1024;

/// What the checks need to know of this host.
#[derive(Debug, Clone)]
pub struct HostLimits {
    /// CPUs the daemon may use.
    pub cpus: usize,
    /// CPUs of the root cpuset, `0-1`.
    pub cpuset_cpus: String,
    /// Memory nodes of the root cpuset.
    pub cpuset_mems: String,
    /// cgroup v2 only.
    pub cgroup_v2: bool,
    /// Swap can be limited.
    pub swap_limit: bool,
    /// Block I/O weights can be set.
    pub blkio_weight: bool,
    /// Programs that can be started as runtimes, and the built-in names.
    pub runtimes: BTreeSet<String>,
}

/// Checks the portable half.
pub fn check_config(config: &ContainerConfig) -> Result<(), CreateError> {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(CreateError::WorkingDir(config.working_dir.clone()));
    }
    if let Some(bad) = config.env.iter().find(|e| e.is_empty() || e.starts_with('=')) {
        return Err(CreateError::Environment(bad.clone()));
    }
    if let Some(signal) = config.stop_signal.as_deref().filter(|s| !s.is_empty()) {
        Signal::parse(signal)?;
    }
    let Some(health) = &config.healthcheck else { return Ok(()) };
    let short = |time: Duration| !time.is_zero() && time < Duration::from_millis(1);
    for (name, time) in [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ] {
        if short(time) {
            return Err(CreateError::HealthTime(name));
        }
    }
    if health.retries < 0 { Err(CreateError::HealthRetries) } else { Ok(()) }
}

/// Checks the host half as the client wrote it; `config` for options that exclude each other. Returns warnings.
pub fn check_host(
    config: &ContainerConfig,
    host: &HostConfig,
    limits: &HostLimits,
) -> Result<Vec<String>, CreateError> {
    let mut warnings = Vec::new();
    if host.auto_remove && host.restart_policy != RestartPolicy::No {
        return Err(CreateError::AutoRemoveRestart);
    }
    check_extra_hosts(host)?;
    check_modes(config, host)?;
    check_security(host)?;
    check_resources(&host.resources, limits, &mut warnings)?;
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(LimitError::OomScore(host.oom_score_adj).into());
    }
    if host.annotations.keys().any(String::is_empty) {
        return Err(CreateError::Annotation);
    }
    if !matches!(host.isolation.to_ascii_lowercase().as_str(), "" | "default") {
        return Err(CreateError::Isolation(host.isolation.clone()));
    }
    if host.network_mode == NetworkMode::Host && !host.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    if !host.runtime.is_empty() && !limits.runtimes.contains(&host.runtime) {
        return Err(CreateError::Runtime(host.runtime.clone()));
    }
    check_storage(host)?;
    check_log(&host.log_config)?;
    check_device_requests(host)?;
    Ok(warnings)
}

fn check_extra_hosts(host: &HostConfig) -> Result<(), CreateError> {
    for entry in &host.extra_hosts {
        let (name, address) = split_extra_host(entry).ok_or_else(|| CreateError::ExtraHost(entry.clone()))?;
        if name.is_empty() {
            return Err(CreateError::ExtraHost(entry.clone()));
        }
        if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
            return Err(CreateError::ExtraHostAddress(address.to_owned()));
        }
    }
    Ok(())
}

/// `name:ip`; the address may hold colons and stand in brackets.
pub fn split_extra_host(entry: &str) -> Option<(&str, &str)> {
    let (name, address) = entry.split_once(':')?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    Some((name, bare.unwrap_or(address)))
}

fn check_modes(config: &ContainerConfig, host: &HostConfig) -> Result<(), CreateError> {
    let conflict = |text| Err(CreateError::Conflicting(text));
    if host.uts_host && !config.hostname.is_empty() {
        return conflict("hostname and the UTS mode");
    }
    if matches!(&host.pid_mode, PidMode::Container(id) if id.is_empty()) {
        return Err(CreateError::PidContainer);
    }
    if host.network_mode == NetworkMode::Host && !host.links.is_empty() {
        return conflict("host type networking can't be used with links. This would result in undefined behavior");
    }
    let NetworkMode::Container(other) = &host.network_mode else { return Ok(()) };
    if other.is_empty() {
        return Err(CreateError::NetworkContainer);
    }
    if !config.hostname.is_empty() {
        return conflict("hostname and the network mode");
    }
    if !host.links.is_empty() {
        return conflict("container type network can't be used with links. This would result in undefined behavior");
    }
    if !host.dns.is_empty() {
        return conflict("dns and the network mode");
    }
    if !host.extra_hosts.is_empty() {
        return conflict("custom host-to-IP mapping and the network mode");
    }
    if !host.port_bindings.is_empty() || host.publish_all_ports {
        return conflict("port publishing and the container type network mode");
    }
    if !config.exposed_ports.is_empty() {
        return conflict("port exposing and the container type network mode");
    }
    Ok(())
}

fn check_security(host: &HostConfig) -> Result<(), CreateError> {
    for (list, names) in [("CapAdd", &host.cap_add), ("CapDrop", &host.cap_drop)] {
        for name in names {
            if CapabilityList::parse(std::slice::from_ref(name)).is_err() {
                let upper = name.to_ascii_uppercase();
                let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
                return Err(CreateError::Capability { list, name });
            }
        }
    }
    for name in host.sysctls.keys() {
        if names_interface(name) {
            return Err(CreateError::InterfaceSysctl(name.clone()));
        }
    }
    super::security::SecurityOptions::parse(host).map(|_| ())
}

/// `net.*.ethN.*` belongs to an endpoint, not to the container.
fn names_interface(sysctl: &str) -> bool {
    let mut parts = sysctl.split(['.', '/']);
    parts.next() == Some("net")
        && parts.any(|p| p.strip_prefix("eth").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())))
}

fn check_storage(host: &HostConfig) -> Result<(), CreateError> {
    match host.storage_opt.keys().find(|key| *key != "size") {
        Some(unknown) => Err(CreateError::StorageOption(unknown.clone())),
        None if host.storage_opt.is_empty() => Ok(()),
        None => Err(CreateError::StorageQuota),
    }
}

fn check_log(log: &LogConfig) -> Result<(), CreateError> {
    const COMMON: [&str; 2] = ["mode", "max-buffer-size"];
    const JSON_FILE: [&str; 8] =
        ["max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"];
    match log.driver.as_str() {
        "" | "json-file" => {
            let known =
                |option: &str| COMMON.contains(&option) || JSON_FILE.contains(&option) || option.starts_with("cache-");
            if let Some(option) = log.options.keys().find(|o| !known(o)) {
                return Err(CreateError::LogOption { driver: "json-file".to_owned(), option: option.clone() });
            }
        }
        "none" => {}
        other => return Err(CreateError::LogDriver(other.to_owned())),
    }
    match log.options.get("mode").map(String::as_str) {
        Some("non-blocking") => Ok(()),
        None | Some("" | "blocking") if log.options.contains_key("max-buffer-size") => Err(CreateError::LogBuffer),
        None | Some("" | "blocking") => Ok(()),
        Some(mode) => Err(CreateError::LogMode(mode.to_owned())),
    }
}

fn check_device_requests(host: &HostConfig) -> Result<(), CreateError> {
    let Some(request) = host.resources.device_requests.first() else { return Ok(()) };
    let sets: Vec<String> = request.capabilities.iter().map(|set| format!("[{}]", set.join(" "))).collect();
    Err(CreateError::DeviceDriver { driver: request.driver.clone(), capabilities: format!("[{}]", sets.join(" ")) })
}

fn check_resources(r: &Resources, limits: &HostLimits, warnings: &mut Vec<String>) -> Result<(), LimitError> {
    check_memory(r, limits, warnings)?;
    check_cpu(r, limits)?;
    if r.blkio_weight > 0 && !limits.blkio_weight {
        warnings.push(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.".to_owned(),
        );
    } else if r.blkio_weight > 0 && !(10..=1000).contains(&r.blkio_weight) {
        return Err(LimitError::BlkioWeight);
    }
    Ok(())
}

fn check_memory(r: &Resources, limits: &HostLimits, warnings: &mut Vec<String>) -> Result<(), LimitError> {
    if r.memory != 0 && r.memory < MIN_MEMORY {
        return Err(LimitError::MemorySmall);
    }
    if r.memory > 0 && r.memory_swap != -1 && !limits.swap_limit {
        warnings.push(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
                .to_owned(),
        );
    }
    if r.memory > 0 && r.memory_swap > 0 && r.memory_swap < r.memory {
        return Err(LimitError::SwapBelowMemory);
    }
    if r.memory == 0 && r.memory_swap > 0 {
        return Err(LimitError::SwapWithoutMemory);
    }
    match r.memory_swappiness {
        None | Some(-1) => {}
        Some(n) if !(0..=100).contains(&n) => return Err(LimitError::Swappiness(n)),
        Some(_) if limits.cgroup_v2 => warnings.push(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
                .to_owned(),
        ),
        Some(_) => {}
    }
    if r.memory_reservation > 0 && r.memory_reservation < MIN_MEMORY {
        return Err(LimitError::ReservationSmall);
    }
    if r.memory > 0 && r.memory_reservation > 0 && r.memory < r.memory_reservation {
        return Err(LimitError::ReservationAboveMemory);
    }
    if r.oom_kill_disable == Some(true) {
        if limits.cgroup_v2 {
            warnings.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
        } else if r.memory == 0 {
            warnings.push(
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                    .to_owned(),
            );
        }
    }
    Ok(())
}

fn check_cpu(r: &Resources, limits: &HostLimits) -> Result<(), LimitError> {
    if r.cpu_shares < 0 {
        return Err(LimitError::CpuShares(r.cpu_shares));
    }
    if r.nano_cpus != 0 && r.cpu_period > 0 {
        return Err(LimitError::NanoCpusPeriod);
    }
    if r.nano_cpus != 0 && r.cpu_quota > 0 {
        return Err(LimitError::NanoCpusQuota);
    }
    let most = i64::try_from(limits.cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if r.nano_cpus < 0 || r.nano_cpus > most {
        return Err(LimitError::NanoCpus(limits.cpus));
    }
    if r.cpu_period != 0 && !(1000..=1_000_000).contains(&r.cpu_period) {
        return Err(LimitError::CpuPeriod);
    }
    if r.cpu_quota > 0 && r.cpu_quota < 1000 {
        return Err(LimitError::CpuQuota);
    }
    if r.cpu_realtime_period != 0 && r.cpu_realtime_runtime > r.cpu_realtime_period {
        return Err(LimitError::Realtime);
    }
    if !cpuset_within("cpus", &r.cpuset_cpus, &limits.cpuset_cpus)? {
        return Err(LimitError::CpusetCpus { requested: r.cpuset_cpus.clone(), available: limits.cpuset_cpus.clone() });
    }
    if !cpuset_within("mems", &r.cpuset_mems, &limits.cpuset_mems)? {
        return Err(LimitError::CpusetMems { requested: r.cpuset_mems.clone(), available: limits.cpuset_mems.clone() });
    }
    Ok(())
}

fn cpuset_within(kind: &'static str, wanted: &str, available: &str) -> Result<bool, LimitError> {
    if wanted.is_empty() {
        return Ok(true);
    }
    let wanted_set = parse_cpuset(wanted).ok_or_else(|| LimitError::CpusetSyntax { kind, value: wanted.to_owned() })?;
    // A host without the controller tells nothing to compare with.
    Ok(parse_cpuset(available).is_none_or(|have| wanted_set.is_subset(&have)))
}

/// `0-2,7`.
fn parse_cpuset(text: &str) -> Option<BTreeSet<u32>> {
    const MOST: u32 = 8192;
    let mut out = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > MOST {
            return None;
        }
        out.extend(first..=last);
    }
    Some(out)
}

/// What is asked of the predefined networks, and hardware addresses.
pub fn check_endpoints(endpoints: &BTreeMap<String, EndpointConfig>) -> Result<(), CreateError> {
    for (network, endpoint) in endpoints {
        if let Some(mac) = endpoint.mac_address.as_deref().filter(|m| !m.is_empty() && !is_mac(m)) {
            return Err(CreateError::Mac { network: network.clone(), mac: mac.to_owned() });
        }
        let network = if network == "default" { "bridge" } else { network };
        if matches!(network, "bridge" | "host" | "none") {
            check_endpoint(&Asked::Predefined, endpoint)
                .map_err(|problems| CreateError::Endpoint { network: network.to_owned(), problems })?;
        }
    }
    Ok(())
}

pub(super) fn is_mac(text: &str) -> bool {
    MacAddress::parse(text).is_some()
}

/// Fills what the client left open from the daemon's settings.
pub fn fill_defaults(host: &mut HostConfig, config: &EngineConfig, limits: &HostLimits) {
    if host.network_mode == NetworkMode::Default {
        host.network_mode = NetworkMode::Bridge;
    }
    if host.shm_size == 0 {
        host.shm_size = config.default_shm_size;
    }
    if host.ipc_mode == IpcMode::Default {
        host.ipc_mode = config.default_ipc_mode.clone();
    }
    if host.cgroupns_mode == CgroupnsMode::Default {
        host.cgroupns_mode = match config.default_cgroupns_mode {
            CgroupnsMode::Default if limits.cgroup_v2 => CgroupnsMode::Private,
            CgroupnsMode::Default => CgroupnsMode::Host,
            CgroupnsMode::Private if host.privileged && !limits.cgroup_v2 => CgroupnsMode::Host,
            set => set,
        };
    }
    if host.runtime.is_empty() {
        host.runtime.clone_from(&config.default_runtime);
    }
    // What shares the host's processes or memory segments cannot be labelled apart from the host.
    let unlabelled = host.privileged || host.ipc_mode == IpcMode::Host || host.pid_mode == PidMode::Host;
    if unlabelled && host.security_opt.is_empty() && host.null_lists.contains("SecurityOpt") {
        host.security_opt.push("label=disable".to_owned());
    }
    fill_log(&mut host.log_config, &config.log);
    fill_resources(&mut host.resources, limits);
}

fn fill_log(log: &mut LogConfig, default: &LogConfig) {
    if log.driver.is_empty() {
        log.driver.clone_from(&default.driver);
    }
    if log.driver == default.driver {
        for (key, value) in &default.options {
            log.options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

fn fill_resources(r: &mut Resources, limits: &HostLimits) {
    if r.memory > 0 && r.memory_swap == 0 && limits.swap_limit {
        r.memory_swap = r.memory.saturating_mul(2);
    }
    // No limit is shown as none.
    r.pids_limit = r.pids_limit.filter(|limit| *limit > 0);
    if r.memory_swappiness == Some(-1) || limits.cgroup_v2 {
        r.memory_swappiness = None;
    }
    if limits.cgroup_v2 {
        r.oom_kill_disable = None;
    } else {
        r.oom_kill_disable.get_or_insert(false);
    }
    if !limits.blkio_weight {
        r.blkio_weight = 0;
    }
}

/// A name a client asks for, slash taken off.
pub fn check_name(name: &str) -> Result<&str, CreateError> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    if names::is_valid(bare) { Ok(bare) } else { Err(CreateError::InvalidName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> HostLimits {
        HostLimits {
            cpus: 2,
            cpuset_cpus: "0-1".to_owned(),
            cpuset_mems: "0".to_owned(),
            cgroup_v2: false,
            swap_limit: true,
            blkio_weight: false,
            runtimes: ["runc".to_owned()].into(),
        }
    }

    fn refusal(change: impl FnOnce(&mut HostConfig)) -> String {
        let mut host = HostConfig::default();
        change(&mut host);
        match check_host(&ContainerConfig::default(), &host, &limits()) {
            Ok(warnings) => format!("ok {}", warnings.join("|")),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn limits_read_as_the_stock_daemons() {
        let r = |change: fn(&mut Resources)| refusal(|host| change(&mut host.resources));
        assert_eq!(r(|r| r.memory = 1000), "Minimum memory limit allowed is 6MB");
        assert_eq!(r(|r| r.memory_reservation = 1000), "Minimum memory reservation allowed is 6MB");
        assert!(r(|r| r.memory_swap = 100_000_000).starts_with("You should always set the Memory limit"));
        assert_eq!(
            r(|r| r.memory_swappiness = Some(101)),
            "Invalid value: 101, valid memory swappiness range is 0-100"
        );
        assert_eq!(r(|r| r.cpu_shares = -1), "invalid CPU shares (-1): value must be a positive integer");
        let range = "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available";
        assert_eq!(r(|r| r.nano_cpus = -1), range);
        assert_eq!(r(|r| r.nano_cpus = 3_000_000_000), range);
        assert_eq!(r(|r| r.cpuset_cpus = "x".to_owned()), "Invalid value x for cpuset cpus: invalid format: x");
        assert_eq!(
            r(|r| r.cpuset_cpus = "99".to_owned()),
            "Requested CPUs are not available - requested 99, available: 0-1"
        );
        assert!(r(|r| r.oom_kill_disable = Some(true)).starts_with("ok OOM killer is disabled"));
        assert!(r(|r| r.blkio_weight = 5).starts_with("ok Your kernel does not support Block I/O weight"));
    }

    #[test]
    fn modes_read_as_the_stock_daemons() {
        let container = || NetworkMode::Container("x".to_owned());
        assert_eq!(
            refusal(|h| {
                h.network_mode = container();
                h.dns.push("1.1.1.1".to_owned());
            }),
            "conflicting options: dns and the network mode"
        );
        assert_eq!(refusal(|h| h.runtime = "nope".to_owned()), "unknown or invalid runtime name: nope");
        assert_eq!(refusal(|h| h.extra_hosts.push("foo".to_owned())), "bad format for add-host: \"foo\"");
        assert_eq!(refusal(|h| h.extra_hosts.push("foo:bar".to_owned())), "invalid IP address in add-host: \"bar\"");
        assert_eq!(refusal(|h| h.extra_hosts.push("foo:::1".to_owned())), "ok ");
        assert_eq!(refusal(|h| h.cap_add.push("FOO".to_owned())), "invalid CapAdd: unknown capability: \"CAP_FOO\"");
        assert_eq!(
            refusal(|h| h.log_config.driver = "nope".to_owned()),
            "error looking up logging plugin nope: plugin \"nope\" not found"
        );
        let sysctl = "net.ipv4.conf.eth0.forwarding";
        assert!(refusal(|h| _ = h.sysctls.insert(sysctl.to_owned(), "1".to_owned())).starts_with("interface specific"));
        assert_eq!(refusal(|h| _ = h.sysctls.insert("net.core.somaxconn".to_owned(), "1".to_owned())), "ok ");
    }

    #[test]
    fn memory_without_swap_gets_twice_as_much() {
        let mut r = Resources { memory: 10 << 20, ..Resources::default() };
        fill_resources(&mut r, &limits());
        assert_eq!((r.memory_swap, r.oom_kill_disable), (20 << 20, Some(false)));
    }
}
