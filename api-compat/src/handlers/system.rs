//! The daemon itself.

use dockerd_core::EngineFacts;
use dockerd_types::Timestamp;
use hyper::header::{CACHE_CONTROL, HeaderValue, PRAGMA};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::version::{NEWEST, OLDEST};

type Result = std::result::Result<Reply, ApiError>;

pub(crate) async fn ping(context: Context) -> Result {
    let head = context.request.method() == hyper::Method::HEAD;
    let mut response = reply::text(if head { "" } else { "OK" });
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    // The classic builder until BuildKit is there: clients choose by this.
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    Ok(response)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) async fn version(context: Context) -> Result {
    let EngineFacts { config, .. } = context.engine.facts();
    let kernel = read("/proc/sys/kernel/osrelease");
    let details = json!({
        "ApiVersion": NEWEST.to_string(),
        "Arch": architecture(),
        "BuildTime": config.build_time,
        "Experimental": config.experimental.to_string(),
        "GitCommit": config.git_commit,
        "GoVersion": "none (Rust)",
        "KernelVersion": kernel,
        "MinAPIVersion": OLDEST.to_string(),
        "Os": "linux",
    });
    Ok(reply::ok(&json!({
        "Platform": {"Name": "dockerd-rs"},
        "Components": [{"Name": "Engine", "Version": config.version, "Details": details}],
        "Version": config.version,
        "ApiVersion": NEWEST.to_string(),
        "MinAPIVersion": OLDEST.to_string(),
        "GitCommit": config.git_commit,
        "GoVersion": "none (Rust)",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": kernel,
        "BuildTime": config.build_time,
    })))
}

pub(crate) async fn info(context: Context) -> Result {
    let facts = context.engine.facts();
    Ok(reply::ok(&describe(&facts)))
}

fn describe(facts: &EngineFacts) -> Value {
    let config = &facts.config;
    let memory = read("/proc/meminfo").lines().find_map(|line| {
        let kib: u64 = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    });
    let release = read("/etc/os-release");
    let release_of = |key: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"').to_owned()
    };
    let runtimes: Value = facts.runtimes.iter().map(|name| (name.clone(), json!({"path": name}))).collect();
    json!({
        "ID": facts.id,
        "Containers": facts.containers,
        "ContainersRunning": facts.running,
        "ContainersPaused": facts.paused,
        "ContainersStopped": facts.containers - facts.running - facts.paused,
        "Images": facts.images,
        "Driver": facts.storage_driver,
        "DriverStatus": [],
        "Plugins": {"Volume": ["local"], "Network": ["host", "null"], "Authorization": null, "Log": ["json-file", "none"]},
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "IPv4Forwarding": read("/proc/sys/net/ipv4/ip_forward") == "1",
        "Debug": config.debug,
        "NFd": std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        "OomKillDisable": facts.cgroup_version == 1,
        "NGoroutines": 0,
        "SystemTime": Timestamp::now().rfc3339_nano(),
        "LoggingDriver": config.log.driver,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": facts.cgroup_version.to_string(),
        "NEventsListener": 0,
        "KernelVersion": read("/proc/sys/kernel/osrelease"),
        "OperatingSystem": release_of("PRETTY_NAME"),
        "OSVersion": release_of("VERSION_ID"),
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "IndexServerAddress": "",
        "RegistryConfig": {"InsecureRegistryCIDRs": [], "IndexConfigs": {}, "Mirrors": config.registry_mirrors},
        "NCPU": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "MemTotal": memory,
        "GenericResources": null,
        "DockerRootDir": config.data_root,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": read("/proc/sys/kernel/hostname"),
        "Labels": config.labels,
        "ExperimentalBuild": config.experimental,
        "ServerVersion": config.version,
        "Runtimes": runtimes,
        "DefaultRuntime": config.default_runtime,
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
            "RemoteManagers": null},
        "LiveRestoreEnabled": config.live_restore,
        "Isolation": "",
        "InitBinary": "docker-init",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "Warnings": [],
    })
}

/// There are no managed plugins.
pub(crate) async fn plugins(_context: Context) -> Result {
    Ok(reply::ok(&json!([])))
}
