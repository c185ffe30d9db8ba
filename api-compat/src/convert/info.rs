//! `GET /info`: the engine's and the host's facts in the API's words.

use dockerd_core::EngineFacts;
use dockerd_core::config::{EngineConfig, SeccompDefault};
use dockerd_core::system::info::HostInfo;
use dockerd_types::Timestamp;
use dockerd_types::container::CgroupnsMode;
use serde_json::{Map, Value, json};

/// Where images without a registry in their name come from.
const DOCKER_IO: &str = "docker.io";

/// The whole answer, of the newest version.
pub(crate) fn info(facts: &EngineFacts, host: &HostInfo) -> Value {
    let config = &facts.config;
    let limits = &host.limits;
    let mut out = json!({
        "ID": facts.id,
        "Containers": facts.containers,
        "ContainersRunning": facts.running,
        "ContainersPaused": facts.paused,
        "ContainersStopped": facts.containers - facts.running - facts.paused,
        "Images": facts.images,
        "Driver": facts.storage_driver,
        "DriverStatus": driver_status(facts, host),
        "Plugins": {
            "Volume": ["local"],
            "Network": facts.network_drivers,
            "Authorization": null,
            "Log": ["json-file"],
        },
        "MemoryLimit": limits.memory,
        "SwapLimit": limits.swap,
        "CpuCfsPeriod": limits.cpu_period,
        "CpuCfsQuota": limits.cpu_quota,
        "CPUShares": limits.cpu_shares,
        "CPUSet": limits.cpuset,
        "PidsLimit": limits.pids,
        "IPv4Forwarding": host.ipv4_forwarding,
        "Debug": config.debug,
        "NFd": host.descriptors,
        "OomKillDisable": limits.oom_kill_disable,
        "NGoroutines": tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        "SystemTime": Timestamp::now().rfc3339_nano(),
        "LoggingDriver": config.log.driver,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": facts.cgroup_version.to_string(),
        "NEventsListener": facts.event_readers,
        "KernelVersion": host.kernel,
        "OperatingSystem": host.operating_system,
        "OSVersion": host.os_version,
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registries(config),
        "NCPU": host.cpus,
        "MemTotal": host.memory,
        "GenericResources": null,
        "DockerRootDir": config.data_root,
        "HttpProxy": without_password(&config.proxies.http),
        "HttpsProxy": without_password(&config.proxies.https),
        "NoProxy": config.proxies.none,
        "Name": host.hostname,
        "Labels": config.labels,
        "ExperimentalBuild": config.experimental,
        "ServerVersion": config.version,
        "Runtimes": runtimes(config),
        "DefaultRuntime": config.default_runtime,
        "Swarm": {
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": config.live_restore,
        "Isolation": "",
        "InitBinary": "docker-init",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": security(facts),
        "FirewallBackend": {"Driver": facts.firewall_backend.name()},
        "CDISpecDirs": [],
        "Warnings": warnings(facts, host),
    });
    if facts.cgroup_version == 1 && limits.kernel_memory_tcp {
        out["KernelMemoryTCP"] = json!(true);
    }
    out
}

fn warnings(facts: &EngineFacts, host: &HostInfo) -> Value {
    let mut warnings = host.limits.warnings(facts.cgroup_version);
    if !host.ipv4_forwarding {
        warnings.push("WARNING: IPv4 forwarding is disabled".to_owned());
    }
    if warnings.is_empty() { Value::Null } else { json!(warnings) }
}

fn driver_status(facts: &EngineFacts, host: &HostInfo) -> Value {
    if facts.storage_driver == "vfs" {
        return Value::Null;
    }
    if facts.storage_driver != "overlay2" {
        return json!([["Backing Filesystem", host.backing_file_system]]);
    }
    json!([
        ["Backing Filesystem", host.backing_file_system],
        ["Supports d_type", "true"],
        ["Using metacopy", "false"],
        ["Native Overlay Diff", "true"],
        ["userxattr", "false"],
    ])
}

fn security(facts: &EngineFacts) -> Vec<String> {
    let config = &facts.config;
    let profile = match &config.seccomp {
        SeccompDefault::Builtin => "builtin",
        SeccompDefault::Unconfined => "unconfined",
        SeccompDefault::Custom { path, .. } => path,
    };
    let mut options = vec![format!("name=seccomp,profile={profile}")];
    let private = match config.default_cgroupns_mode {
        CgroupnsMode::Private => true,
        CgroupnsMode::Default => facts.cgroup_version == 2,
        CgroupnsMode::Host => false,
    };
    if private {
        options.push("name=cgroupns".to_owned());
    }
    if config.no_new_privileges {
        options.push("name=no-new-privileges".to_owned());
    }
    options
}

/// The built-in runtime under both names clients know, then those that were added.
fn runtimes(config: &EngineConfig) -> Value {
    let mut out = Map::new();
    out.insert("io.containerd.runc.v2".to_owned(), json!({"path": "runc"}));
    out.insert("runc".to_owned(), json!({"path": "runc"}));
    for (name, program) in &config.runtimes {
        let mut runtime = json!({"path": program.path.to_string_lossy()});
        if !program.args.is_empty() {
            runtime["runtimeArgs"] = json!(program.args);
        }
        out.insert(name.clone(), runtime);
    }
    Value::Object(out)
}

fn registries(config: &EngineConfig) -> Value {
    let mirrors: Vec<String> =
        config.registry_mirrors.iter().map(|url| format!("{}/", url.trim_end_matches('/'))).collect();
    let mut cidrs = Vec::new();
    let mut indexes = Map::new();
    for registry in &config.insecure_registries {
        let registry = registry.trim_start_matches("http://").trim_start_matches("https://");
        if is_cidr(registry) {
            cidrs.push(registry.to_owned());
        } else {
            let index = json!({"Name": registry, "Mirrors": [], "Secure": false, "Official": false});
            indexes.insert(registry.to_owned(), index);
        }
    }
    cidrs.extend(["::1/128".to_owned(), "127.0.0.0/8".to_owned()]);
    let official = json!({"Name": DOCKER_IO, "Mirrors": mirrors, "Secure": true, "Official": true});
    indexes.insert(DOCKER_IO.to_owned(), official);
    let mirrors = if mirrors.is_empty() { Value::Null } else { json!(mirrors) };
    json!({"IndexConfigs": indexes, "InsecureRegistryCIDRs": cidrs, "Mirrors": mirrors})
}

fn is_cidr(text: &str) -> bool {
    let parts =
        text.split_once('/').map(|(ip, bits)| (ip.parse::<std::net::IpAddr>().is_ok(), bits.parse::<u8>().is_ok()));
    parts == Some((true, true))
}

/// `http://me:secret@proxy` to `http://xxxxx:xxxxx@proxy`.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://xxxxx:xxxxx{}", &rest[at..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_as_the_stock_daemon_lists_them() {
        let mut config = EngineConfig::new("/d", "/e");
        config.insecure_registries = vec!["x:5".to_owned(), "10.0.0.0/8".to_owned()];
        config.registry_mirrors = vec!["https://m.example".to_owned()];
        let out = registries(&config);
        assert_eq!(out["InsecureRegistryCIDRs"], json!(["10.0.0.0/8", "::1/128", "127.0.0.0/8"]));
        assert_eq!(out["Mirrors"], json!(["https://m.example/"]));
        assert_eq!(out["IndexConfigs"]["x:5"]["Secure"], json!(false));
        assert_eq!(registries(&EngineConfig::new("/d", "/e"))["Mirrors"], Value::Null);
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("http://me:secret@proxy:8/x@y"), "http://xxxxx:xxxxx@proxy:8/x@y");
        assert_eq!(without_password("http://proxy:8"), "http://proxy:8");
        assert_eq!(without_password(""), "");
    }
}
