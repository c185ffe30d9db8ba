//! What the engine knows of a container, in the API's words: inspect. `null`, `[]` and absent differ and
//! are as the stock daemon writes them.

use std::collections::BTreeMap;
use std::time::Duration;

use dockerd_core::container::health::Health;
use dockerd_core::container::inspect::ContainerInspect;
use dockerd_core::container::spec::{ContainerSpec, Snapshot};
use dockerd_types::container::{
    BindOptions, CgroupnsMode, ContainerConfig, DeviceValue, Healthcheck, HostConfig, IpcMode, MountKind, MountSpec,
    PidMode, Resources, RestartPolicy, VolumeOptions,
};
use dockerd_types::network::PublishedPort;
use dockerd_types::timestamp::or_zero_time;
use serde_json::{Map, Value, json};

use crate::model::endpoint;
use crate::model::mount::Mount;

/// `GET /containers/{id}/json`.
pub(crate) fn inspect(item: &ContainerInspect) -> Value {
    let snapshot = &item.snapshot;
    let (spec, state) = (&snapshot.spec, &snapshot.state);
    // The files are made by the first start, and are named from then on.
    let was_started = state.started_at.is_some();
    let path = |path: &std::path::Path| if was_started { path.to_string_lossy().into_owned() } else { String::new() };
    let host = &spec.host;
    let execs: Vec<&str> = item.exec_ids.iter().map(|id| id.as_str()).collect();
    let mut out = json!({
        "Id": spec.id.as_str(),
        "Created": spec.created.rfc3339_nano(),
        "Path": spec.path,
        "Args": spec.args,
        "State": {
            "Status": state.status.name(),
            "Running": state.is_running(),
            "Paused": state.status.name() == "paused",
            "Restarting": state.status.name() == "restarting",
            "OOMKilled": state.oom_killed,
            "Dead": state.status.name() == "dead",
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": or_zero_time(state.started_at),
            "FinishedAt": or_zero_time(state.finished_at),
        },
        "Image": spec.image.as_str(),
        "ResolvConfPath": path(&item.resolv_conf_path),
        "HostnamePath": path(&item.hostname_path),
        "HostsPath": path(&item.hosts_path),
        "LogPath": item.log_path.as_deref().map_or_else(String::new, path),
        "Name": format!("/{}", snapshot.name),
        "RestartCount": state.restart_count,
        "Driver": spec.storage_driver,
        "Platform": spec.platform.split('/').next().unwrap_or("linux"),
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": host_config(host, &item.links, &item.runtime),
        "GraphDriver": {"Data": null, "Name": spec.storage_driver},
        "Mounts": spec.mounts.iter().map(Mount::new).collect::<Vec<_>>(),
        "Config": config_of(spec),
        "NetworkSettings": network_settings(snapshot, &item.sandbox_key),
    });
    if let Some(health) = &state.health {
        out["State"]["Health"] = self::health(health);
    }
    if let Some(size) = &item.size {
        out["SizeRw"] = json!(size.rw);
        out["SizeRootFs"] = json!(size.root_fs);
    }
    out
}

/// `State.Health`.
fn health(health: &Health) -> Value {
    let results = health.log.iter().map(|result| {
        json!({
            "Start": result.start.rfc3339_nano(),
            "End": result.end.rfc3339_nano(),
            "ExitCode": result.exit_code,
            "Output": result.output,
        })
    });
    json!({
        "Status": health.status.name(),
        "FailingStreak": health.failing_streak,
        "Log": results.collect::<Vec<_>>(),
    })
}

/// `Config` of a container: with the hardware address that was asked for.
fn config_of(spec: &ContainerSpec) -> Value {
    let mut out = config(&spec.config);
    let main = spec.endpoints.get(&spec.host.network_mode.text());
    if let Some(mac) = main.and_then(|endpoint| endpoint.mac_address.as_deref()).filter(|mac| !mac.is_empty()) {
        out["MacAddress"] = json!(mac);
    }
    out
}

fn list_or_null(list: &[String]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

fn set<T: ToString>(keys: impl Iterator<Item = T>) -> Value {
    Value::Object(keys.map(|key| (key.to_string(), json!({}))).collect())
}

/// `Config`.
pub(crate) fn config(config: &ContainerConfig) -> Value {
    let mut out = json!({
        "Hostname": config.hostname,
        "Domainname": config.domainname,
        "User": config.user,
        "AttachStdin": config.attach_stdin,
        "AttachStdout": config.attach_stdout,
        "AttachStderr": config.attach_stderr,
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": list_or_null(&config.env),
        "Cmd": config.cmd,
        "Image": config.image,
        "Volumes": if config.volumes.is_empty() { Value::Null } else { set(config.volumes.iter()) },
        "WorkingDir": config.working_dir,
        "Entrypoint": config.entrypoint,
        "OnBuild": list_or_null(&config.on_build),
        "Labels": config.labels,
    });
    if !config.exposed_ports.is_empty() {
        out["ExposedPorts"] = set(config.exposed_ports.iter());
    }
    if config.network_disabled {
        out["NetworkDisabled"] = json!(true);
    }
    if let Some(check) = &config.healthcheck {
        out["Healthcheck"] = healthcheck(check);
    }
    if let Some(signal) = &config.stop_signal {
        out["StopSignal"] = json!(signal);
    }
    if let Some(timeout) = config.stop_timeout {
        out["StopTimeout"] = json!(timeout);
    }
    if let Some(shell) = &config.shell {
        out["Shell"] = json!(shell);
    }
    out
}

fn healthcheck(check: &Healthcheck) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, duration: Duration| {
        if !duration.is_zero() {
            out.insert(name.to_owned(), json!(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)));
        }
    };
    put("Interval", check.interval);
    put("Timeout", check.timeout);
    put("StartPeriod", check.start_period);
    put("StartInterval", check.start_interval);
    if !check.test.is_empty() {
        out.insert("Test".to_owned(), json!(check.test));
    }
    if check.retries != 0 {
        out.insert("Retries".to_owned(), json!(check.retries));
    }
    Value::Object(out)
}

fn host_config(host: &HostConfig, links: &[String], runtime: &str) -> Value {
    let bindings: BTreeMap<String, Vec<Value>> = host
        .port_bindings
        .iter()
        .map(|(port, list)| {
            let binding = |b: &dockerd_types::network::PortBinding| {
                let ip = b.host_ip.map_or_else(String::new, |ip| ip.to_string());
                json!({"HostIp": ip, "HostPort": b.host_port.to_string()})
            };
            (port.to_string(), list.iter().map(binding).collect())
        })
        .collect();
    let mut out = json!({
        "Binds": host.binds,
        "ContainerIDFile": host.container_id_file,
        "LogConfig": {"Type": host.log_config.driver, "Config": host.log_config.options},
        "NetworkMode": host.network_mode.text(),
        "PortBindings": bindings,
        "RestartPolicy": restart_policy(host.restart_policy),
        "AutoRemove": host.auto_remove,
        "VolumeDriver": host.volume_driver,
        "VolumesFrom": host.volumes_from,
        "ConsoleSize": [host.console_size.0, host.console_size.1],
        "CapAdd": host.cap_add,
        "CapDrop": host.cap_drop,
        "CgroupnsMode": cgroupns(host.cgroupns_mode),
        "Dns": host.dns,
        "DnsOptions": host.dns_options,
        "DnsSearch": host.dns_search,
        "ExtraHosts": host.extra_hosts,
        "GroupAdd": host.group_add,
        "IpcMode": ipc_mode(&host.ipc_mode),
        "Cgroup": host.cgroup,
        "Links": (!links.is_empty()).then_some(links),
        "OomScoreAdj": host.oom_score_adj,
        "PidMode": pid_mode(&host.pid_mode),
        "Privileged": host.privileged,
        "PublishAllPorts": host.publish_all_ports,
        "ReadonlyRootfs": host.readonly_rootfs,
        "SecurityOpt": host.security_opt,
        "UTSMode": if host.uts_host { "host" } else { "" },
        "UsernsMode": host.userns_mode,
        "ShmSize": host.shm_size,
        "Runtime": runtime,
        "Isolation": host.isolation,
        "MaskedPaths": host.masked_paths,
        "ReadonlyPaths": host.readonly_paths,
    });
    let extra = [
        ("Annotations", map_if_any(&host.annotations)),
        ("StorageOpt", map_if_any(&host.storage_opt)),
        ("Tmpfs", map_if_any(&host.tmpfs)),
        ("Sysctls", map_if_any(&host.sysctls)),
        ("Mounts", (!host.mounts.is_empty()).then(|| host.mounts.iter().map(mount_spec).collect())),
        ("Init", host.init.map(Value::Bool)),
    ];
    for (name, value) in extra {
        if let Some(value) = value {
            out[name] = value;
        }
    }
    if let (Value::Object(out), Value::Object(resources)) = (&mut out, resources(&host.resources)) {
        out.extend(resources);
    }
    for name in &host.null_lists {
        let empty = match &out[name] {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if empty {
            out[name] = Value::Null;
        }
    }
    out
}

fn map_if_any(map: &BTreeMap<String, String>) -> Option<Value> {
    (!map.is_empty()).then(|| json!(map))
}

fn restart_policy(policy: RestartPolicy) -> Value {
    let (name, retries) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { max_retries } => ("on-failure", max_retries),
    };
    json!({"Name": name, "MaximumRetryCount": retries})
}

fn cgroupns(mode: CgroupnsMode) -> &'static str {
    match mode {
        CgroupnsMode::Default => "",
        CgroupnsMode::Host => "host",
        CgroupnsMode::Private => "private",
    }
}

fn ipc_mode(mode: &IpcMode) -> String {
    match mode {
        IpcMode::Default => String::new(),
        IpcMode::None => "none".to_owned(),
        IpcMode::Private => "private".to_owned(),
        IpcMode::Shareable => "shareable".to_owned(),
        IpcMode::Host => "host".to_owned(),
        IpcMode::Container(id) => format!("container:{id}"),
    }
}

fn pid_mode(mode: &PidMode) -> String {
    match mode {
        PidMode::Private => String::new(),
        PidMode::Host => "host".to_owned(),
        PidMode::Container(id) => format!("container:{id}"),
    }
}

fn resources(resources: &Resources) -> Value {
    let values = |list: &[DeviceValue], name: &str| -> Value {
        list.iter().map(|d| json!({"Path": d.path, name: d.value})).collect()
    };
    let devices: Vec<Value> = resources
        .devices
        .iter()
        .map(|d| {
            json!({"PathOnHost": d.path_on_host, "PathInContainer": d.path_in_container,
                "CgroupPermissions": d.cgroup_permissions})
        })
        .collect();
    let requests: Vec<Value> = resources
        .device_requests
        .iter()
        .map(|r| {
            json!({"Driver": r.driver, "Count": r.count, "DeviceIDs": r.device_ids, "Capabilities": r.capabilities,
                "Options": r.options})
        })
        .collect();
    let ulimits: Vec<Value> =
        resources.ulimits.iter().map(|u| json!({"Name": u.name, "Hard": u.hard, "Soft": u.soft})).collect();
    json!({
        "CpuShares": resources.cpu_shares,
        "Memory": resources.memory,
        "NanoCpus": resources.nano_cpus,
        "CgroupParent": resources.cgroup_parent,
        "BlkioWeight": resources.blkio_weight,
        "BlkioWeightDevice": values(&resources.blkio_weight_device, "Weight"),
        "BlkioDeviceReadBps": values(&resources.blkio_device_read_bps, "Rate"),
        "BlkioDeviceWriteBps": values(&resources.blkio_device_write_bps, "Rate"),
        "BlkioDeviceReadIOps": values(&resources.blkio_device_read_iops, "Rate"),
        "BlkioDeviceWriteIOps": values(&resources.blkio_device_write_iops, "Rate"),
        "CpuPeriod": resources.cpu_period,
        "CpuQuota": resources.cpu_quota,
        "CpuRealtimePeriod": resources.cpu_realtime_period,
        "CpuRealtimeRuntime": resources.cpu_realtime_runtime,
        "CpusetCpus": resources.cpuset_cpus,
        "CpusetMems": resources.cpuset_mems,
        "Devices": devices,
        "DeviceCgroupRules": resources.device_cgroup_rules,
        "DeviceRequests": requests,
        "MemoryReservation": resources.memory_reservation,
        "MemorySwap": resources.memory_swap,
        "MemorySwappiness": resources.memory_swappiness,
        "OomKillDisable": resources.oom_kill_disable,
        "PidsLimit": resources.pids_limit,
        "Ulimits": ulimits,
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    })
}

fn mount_spec(mount: &MountSpec) -> Value {
    let mut out = json!({"Target": mount.target});
    let source = match &mount.kind {
        MountKind::Bind { source, .. } => {
            out["Type"] = json!("bind");
            source
        }
        MountKind::Volume { source, .. } => {
            out["Type"] = json!("volume");
            source
        }
        MountKind::Image { source, .. } => {
            out["Type"] = json!("image");
            source
        }
        MountKind::Tmpfs { size_bytes, mode, .. } => {
            out["Type"] = json!("tmpfs");
            if *size_bytes != 0 || mode.is_some() {
                out["TmpfsOptions"] = json!({"SizeBytes": size_bytes, "Mode": mode.unwrap_or(0)});
            }
            return out;
        }
    };
    if !source.is_empty() {
        out["Source"] = json!(source);
    }
    if mount.read_only {
        out["ReadOnly"] = json!(true);
    }
    if !mount.consistency.is_empty() {
        out["Consistency"] = json!(mount.consistency);
    }
    match &mount.kind {
        MountKind::Bind { options, .. } if options.present => out["BindOptions"] = bind_options(options),
        MountKind::Volume { options, .. } if options.present => out["VolumeOptions"] = volume_options(options),
        MountKind::Image { subpath, .. } if !subpath.is_empty() => out["ImageOptions"] = json!({"Subpath": subpath}),
        _ => {}
    }
    out
}

fn text(address: Option<impl ToString>) -> String {
    address.map_or_else(String::new, |address| address.to_string())
}

fn network_settings(snapshot: &Snapshot, sandbox_key: &std::path::Path) -> Value {
    let state = &snapshot.state;
    let bridge = state.endpoints.iter().find(|e| e.network_name == "bridge");
    json!({
        "Bridge": "",
        "SandboxID": state.sandbox_id,
        "SandboxKey": sandbox_key.to_string_lossy(),
        "Ports": ports(snapshot),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": bridge.map_or("", |e| e.endpoint_id.as_str()),
        "Gateway": text(bridge.and_then(|e| e.gateway4)),
        "GlobalIPv6Address": text(bridge.and_then(|e| e.ipv6).map(|(address, _)| address)),
        "GlobalIPv6PrefixLen": bridge.and_then(|e| e.ipv6).map_or(0, |(_, prefix)| prefix),
        "IPAddress": text(bridge.and_then(|e| e.ipv4).map(|(address, _)| address)),
        "IPPrefixLen": bridge.and_then(|e| e.ipv4).map_or(0, |(_, prefix)| prefix),
        "IPv6Gateway": text(bridge.and_then(|e| e.gateway6)),
        "MacAddress": bridge.map_or("", |e| &e.mac_address),
        "Networks": endpoint::networks(snapshot),
    })
}

fn bind_options(options: &BindOptions) -> Value {
    let mut out = Map::new();
    if !options.propagation.is_empty() {
        out.insert("Propagation".to_owned(), json!(options.propagation));
    }
    for (name, set) in [
        ("NonRecursive", options.non_recursive),
        ("CreateMountpoint", options.create_mountpoint),
        ("ReadOnlyNonRecursive", options.read_only_non_recursive),
        ("ReadOnlyForceRecursive", options.read_only_force_recursive),
    ] {
        if set {
            out.insert(name.to_owned(), json!(true));
        }
    }
    Value::Object(out)
}

fn volume_options(options: &VolumeOptions) -> Value {
    let mut out = Map::new();
    if options.no_copy {
        out.insert("NoCopy".to_owned(), json!(true));
    }
    if !options.labels.is_empty() {
        out.insert("Labels".to_owned(), json!(options.labels));
    }
    if !options.subpath.is_empty() {
        out.insert("Subpath".to_owned(), json!(options.subpath));
    }
    if options.driver_present {
        let mut driver = Map::new();
        if !options.driver.is_empty() {
            driver.insert("Name".to_owned(), json!(options.driver));
        }
        if let Some(list) = map_if_any(&options.driver_options) {
            driver.insert("Options".to_owned(), list);
        }
        out.insert("DriverConfig".to_owned(), Value::Object(driver));
    }
    Value::Object(out)
}

/// Exposed ports are there with null; published ones with where.
fn ports(snapshot: &Snapshot) -> Value {
    let mut out = Map::new();
    // The host's network and none have no ports to speak of.
    if !snapshot.state.has_address() {
        return Value::Object(out);
    }
    for port in &snapshot.spec.config.exposed_ports {
        out.insert(port.to_string(), Value::Null);
    }
    for PublishedPort { container_port, host_ip, host_port } in &snapshot.state.ports {
        // One that is reached at the container's own address has none.
        let number = if *host_port == 0 { String::new() } else { host_port.to_string() };
        let entry = json!({"HostIp": host_ip.to_string(), "HostPort": number});
        match out.entry(container_port.to_string()).or_insert(Value::Null) {
            Value::Array(list) => list.push(entry),
            slot => *slot = json!([entry]),
        }
    }
    Value::Object(out)
}
