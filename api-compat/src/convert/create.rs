//! The body of `POST /containers/create` into the engine's command.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use dockerd_types::container::{
    BindOptions, CgroupnsMode, ContainerConfig, CreateContainer, DeviceMapping, DeviceRequest, DeviceValue,
    Healthcheck, HostConfig, IpcMode, LogConfig, MountKind, MountSpec, NetworkMode, PidMode, Resources, RestartPolicy,
    Ulimit, VolumeOptions,
};
use dockerd_types::network::{
    AddressKind, EndpointConfig, HostPort, Port, PortBinding, PortBindings, UnreadableAddress,
};

use crate::error::ApiError;
use crate::extract::{Object, Target};

type Result<T> = std::result::Result<T, ApiError>;

fn invalid(error: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(error.to_string())
}

/// The whole body.
pub(crate) fn create(body: &Object, name: &str, platform: &str) -> Result<CreateContainer> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let networking = body.object("NetworkingConfig")?;
    let endpoints = networking.object("EndpointsConfig")?.entries()?;
    Ok(CreateContainer {
        name: text(name),
        platform: text(platform),
        config: config(body)?,
        host_config: host_config(&body.object("HostConfig")?)?,
        endpoints: endpoints.iter().map(|(name, e)| Ok((name.clone(), endpoint(e)?))).collect::<Result<_>>()?,
    })
}

/// A description in the API's words that no client sent: the stock daemon keeps containers so on disk.
pub fn description(body: &[u8]) -> std::result::Result<CreateContainer, String> {
    let body = Object::parse_into(body, Target::ANY).map_err(|error| error.message)?;
    create(&body, "", "").map_err(|error| error.message)
}

pub(crate) fn config(body: &Object) -> Result<ContainerConfig> {
    let ports = body.object("ExposedPorts")?;
    let ports = ports.keys().map(|port| Port::parse_range(port).map_err(invalid)).collect::<Result<Vec<_>>>()?;
    Ok(ContainerConfig {
        hostname: body.text("Hostname")?,
        domainname: body.text("Domainname")?,
        user: body.text("User")?,
        attach_stdin: body.flag("AttachStdin")?,
        attach_stdout: body.flag("AttachStdout")?,
        attach_stderr: body.flag("AttachStderr")?,
        exposed_ports: ports.into_iter().flatten().collect(),
        tty: body.flag("Tty")?,
        open_stdin: body.flag("OpenStdin")?,
        stdin_once: body.flag("StdinOnce")?,
        env: body.texts("Env")?,
        cmd: body.text_or_texts("Cmd")?,
        entrypoint: body.text_or_texts("Entrypoint")?,
        healthcheck: if body.has("Healthcheck") { Some(healthcheck(&body.object("Healthcheck")?)?) } else { None },
        image: body.text("Image")?,
        volumes: body.object("Volumes")?.keys().cloned().collect::<BTreeSet<_>>(),
        working_dir: body.text("WorkingDir")?,
        network_disabled: body.flag("NetworkDisabled")?,
        on_build: body.texts("OnBuild")?,
        labels: body.map("Labels")?,
        stop_signal: body.optional_text("StopSignal")?.filter(|signal| !signal.is_empty()),
        stop_timeout: body.optional_number("StopTimeout")?,
        shell: body.text_or_texts("Shell")?,
    })
}

fn healthcheck(object: &Object) -> Result<Healthcheck> {
    let nanos = |name| object.number::<i64>(name).map(|n| Duration::from_nanos(u64::try_from(n).unwrap_or(0)));
    Ok(Healthcheck {
        test: object.texts("Test")?,
        interval: nanos("Interval")?,
        timeout: nanos("Timeout")?,
        start_period: nanos("StartPeriod")?,
        start_interval: nanos("StartInterval")?,
        retries: object.number("Retries")?,
    })
}

/// Members of HostConfig that are lists or maps and may be null.
const LISTS: [&str; 21] = [
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "PortBindings",
    "SecurityOpt",
    "Ulimits",
    "VolumesFrom",
];

fn host_config(host: &Object) -> Result<HostConfig> {
    let log = host.object("LogConfig")?;
    let mounts = host.objects("Mounts")?;
    Ok(HostConfig {
        binds: host.texts("Binds")?,
        null_lists: LISTS.iter().filter(|name| !host.has(name)).map(|name| (*name).to_owned()).collect(),
        container_id_file: host.text("ContainerIDFile")?,
        log_config: LogConfig { driver: log.text("Type")?, options: log.map("Config")? },
        network_mode: NetworkMode::parse(&host.text("NetworkMode")?),
        port_bindings: port_bindings(&host.object("PortBindings")?)?,
        restart_policy: restart_policy(&host.object("RestartPolicy")?)?,
        auto_remove: host.flag("AutoRemove")?,
        volume_driver: host.text("VolumeDriver")?,
        volumes_from: host.texts("VolumesFrom")?,
        console_size: host.pair("ConsoleSize")?,
        annotations: host.map("Annotations")?,
        cap_add: host.text_or_texts("CapAdd")?.unwrap_or_default(),
        cap_drop: host.text_or_texts("CapDrop")?.unwrap_or_default(),
        cgroupns_mode: cgroupns(&host.text("CgroupnsMode")?)?,
        dns: host.texts("Dns")?,
        dns_options: host.texts("DnsOptions")?,
        dns_search: host.texts("DnsSearch")?,
        extra_hosts: host.texts("ExtraHosts")?,
        group_add: host.texts("GroupAdd")?,
        ipc_mode: ipc_mode(&host.text("IpcMode")?)?,
        cgroup: host.text("Cgroup")?,
        links: host.texts("Links")?,
        oom_score_adj: host.number("OomScoreAdj")?,
        pid_mode: pid_mode(&host.text("PidMode")?)?,
        privileged: host.flag("Privileged")?,
        publish_all_ports: host.flag("PublishAllPorts")?,
        readonly_rootfs: host.flag("ReadonlyRootfs")?,
        security_opt: host.texts("SecurityOpt")?,
        storage_opt: host.map("StorageOpt")?,
        tmpfs: host.map("Tmpfs")?,
        uts_host: uts_host(&host.text("UTSMode")?)?,
        userns_mode: host.text("UsernsMode")?,
        shm_size: shm_size(host.number("ShmSize")?)?,
        sysctls: host.map("Sysctls")?,
        runtime: host.text("Runtime")?,
        isolation: host.text("Isolation")?,
        mounts: mounts.iter().map(mount).collect::<Result<_>>()?,
        masked_paths: host.optional_texts("MaskedPaths")?,
        readonly_paths: host.optional_texts("ReadonlyPaths")?,
        init: host.optional_flag("Init")?,
        resources: resources(host)?,
    })
}

fn shm_size(size: i64) -> Result<u64> {
    u64::try_from(size).map_err(|_| invalid("SHM size can not be less than 0"))
}

fn uts_host(mode: &str) -> Result<bool> {
    match mode {
        "" => Ok(false),
        "host" => Ok(true),
        other => Err(invalid(format!("invalid UTS mode: {other}"))),
    }
}

fn cgroupns(mode: &str) -> Result<CgroupnsMode> {
    match mode {
        "" => Ok(CgroupnsMode::Default),
        "host" => Ok(CgroupnsMode::Host),
        "private" => Ok(CgroupnsMode::Private),
        other => Err(invalid(format!("invalid cgroup namespace mode: {other}"))),
    }
}

fn ipc_mode(mode: &str) -> Result<IpcMode> {
    Ok(match mode {
        "" => IpcMode::Default,
        "none" => IpcMode::None,
        "private" => IpcMode::Private,
        "shareable" => IpcMode::Shareable,
        "host" => IpcMode::Host,
        other => match other.strip_prefix("container:").filter(|id| !id.is_empty()) {
            Some(id) => IpcMode::Container(id.to_owned()),
            None => return Err(invalid(format!("invalid IPC mode: {other}"))),
        },
    })
}

fn pid_mode(mode: &str) -> Result<PidMode> {
    Ok(match mode {
        "" | "private" => PidMode::Private,
        "host" => PidMode::Host,
        other => match other.strip_prefix("container:").filter(|id| !id.is_empty()) {
            Some(id) => PidMode::Container(id.to_owned()),
            None => return Err(invalid(format!("invalid PID mode: {other}"))),
        },
    })
}

fn restart_policy(object: &Object) -> Result<RestartPolicy> {
    let retries: i64 = object.number("MaximumRetryCount")?;
    let name = object.text("Name")?;
    if retries < 0 {
        return Err(invalid("invalid restart policy: maximum retry count cannot be negative"));
    }
    if retries > 0 && name != "on-failure" {
        return Err(invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'"));
    }
    Ok(match name.as_str() {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => RestartPolicy::OnFailure { max_retries: u32::try_from(retries).unwrap_or(u32::MAX) },
        other => {
            return Err(invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    })
}

fn port_bindings(object: &Object) -> Result<PortBindings> {
    let mut out = PortBindings::new();
    for key in object.keys() {
        let port = Port::parse(key).map_err(invalid)?;
        let mut bindings = Vec::new();
        for binding in object.objects(key)? {
            let ip = binding.text("HostIp")?;
            let host_ip = match ip.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| invalid(format!("invalid IP address: {text}")))?),
            };
            bindings.push(PortBinding {
                host_ip,
                host_port: HostPort::parse(&binding.text("HostPort")?).map_err(invalid)?,
            });
        }
        if bindings.is_empty() {
            bindings.push(PortBinding { host_ip: None, host_port: HostPort::Ephemeral });
        }
        out.insert(port, bindings);
    }
    Ok(out)
}

pub(crate) fn endpoint(object: &Object) -> Result<EndpointConfig> {
    let ipam = object.object("IPAMConfig")?;
    let mut unreadable = Vec::new();
    let mut addresses = |kind, texts: Vec<String>| {
        let (right, wrong) = texts.into_iter().partition::<Vec<_>, _>(|text| is_address(kind, text));
        unreadable.extend(wrong.into_iter().map(|text| UnreadableAddress { kind, text }));
        right
    };
    let one = |name: &str| -> Result<Vec<String>> {
        Ok(ipam.optional_text(name)?.filter(|text| !text.is_empty()).into_iter().collect())
    };
    let ipv4 = addresses(AddressKind::Ipv4, one("IPv4Address")?);
    let ipv6 = addresses(AddressKind::Ipv6, one("IPv6Address")?);
    let link_local = addresses(AddressKind::LinkLocal, ipam.texts("LinkLocalIPs")?);
    // What is there and is nothing.
    let empty = ["IPAMConfig", "Links", "Aliases", "DriverOpts"].into_iter().filter(|name| object.has(name));
    Ok(EndpointConfig {
        ipv4: ipv4.first().and_then(|text| text.parse().ok()),
        ipv6: ipv6.first().and_then(|text| text.parse().ok()),
        link_local: link_local.iter().filter_map(|text| text.parse().ok()).collect(),
        aliases: object.texts("Aliases")?,
        links: object.texts("Links")?,
        driver_opts: object.map("DriverOpts")?,
        mac_address: object.optional_text("MacAddress")?.filter(|mac| !mac.is_empty()),
        gw_priority: object.number("GwPriority")?,
        unreadable,
        empty_fields: empty.map(str::to_owned).collect(),
    })
}

/// Whether a text is an address that may be asked for there.
fn is_address(kind: AddressKind, text: &str) -> bool {
    let parsed = text.parse().ok().filter(|address: &IpAddr| !address.is_unspecified());
    parsed.is_some_and(|address| match (kind, address) {
        (AddressKind::Ipv4, address) => address.is_ipv4(),
        (AddressKind::Ipv6, IpAddr::V6(address)) => address.to_ipv4_mapped().is_none(),
        (AddressKind::Ipv6, IpAddr::V4(_)) => false,
        (AddressKind::LinkLocal, _) => true,
    })
}

fn mount(object: &Object) -> Result<MountSpec> {
    let source = object.text("Source")?;
    let typ = object.text("Type")?;
    if object.text("Target")?.is_empty() {
        return Err(invalid(format!("invalid mount config for type {typ:?}: field Target must not be empty")));
    }
    if typ == "tmpfs" {
        let others = ["BindOptions", "VolumeOptions", "ImageOptions"];
        if let Some(name) = others.into_iter().find(|name| object.has(name)) {
            return Err(invalid(format!("{name} must not be specified on mount type \"tmpfs\"")));
        }
    }
    let kind = match typ.as_str() {
        "bind" => MountKind::Bind { source, options: bind_options(object)? },
        "volume" => MountKind::Volume { source, options: volume_options(object)? },
        "tmpfs" => {
            let options = object.object("TmpfsOptions")?;
            if !source.is_empty() {
                return Err(invalid("invalid mount config for type \"tmpfs\": field Source must not be specified"));
            }
            let mode: u32 = options.number("Mode")?;
            MountKind::Tmpfs {
                size_bytes: u64::try_from(options.number::<i64>("SizeBytes")?).unwrap_or(0),
                mode: (mode != 0).then_some(mode),
                options: options.lists("Options")?,
            }
        }
        "image" => MountKind::Image { source, subpath: object.object("ImageOptions")?.text("Subpath")? },
        other => return Err(invalid(format!("invalid mount config for type {other:?}: mount type unknown"))),
    };
    Ok(MountSpec {
        kind,
        target: object.text("Target")?,
        read_only: object.flag("ReadOnly")?,
        consistency: object.text("Consistency")?,
    })
}

fn bind_options(object: &Object) -> Result<BindOptions> {
    let options = object.object("BindOptions")?;
    Ok(BindOptions {
        propagation: options.text("Propagation")?,
        non_recursive: options.flag("NonRecursive")?,
        create_mountpoint: options.flag("CreateMountpoint")?,
        read_only_non_recursive: options.flag("ReadOnlyNonRecursive")?,
        read_only_force_recursive: options.flag("ReadOnlyForceRecursive")?,
        present: object.has("BindOptions"),
    })
}

fn volume_options(object: &Object) -> Result<VolumeOptions> {
    let options = object.object("VolumeOptions")?;
    let driver = options.object("DriverConfig")?;
    Ok(VolumeOptions {
        no_copy: options.flag("NoCopy")?,
        labels: options.map("Labels")?,
        subpath: options.text("Subpath")?,
        driver: driver.text("Name")?,
        driver_options: driver.map("Options")?,
        present: object.has("VolumeOptions"),
        driver_present: options.has("DriverConfig"),
    })
}

fn resources(host: &Object) -> Result<Resources> {
    Ok(Resources {
        cpu_shares: host.number("CpuShares")?,
        memory: host.number("Memory")?,
        nano_cpus: host.number("NanoCpus")?,
        cgroup_parent: host.text("CgroupParent")?,
        blkio_weight: host.number("BlkioWeight")?,
        blkio_weight_device: device_values(host, "BlkioWeightDevice", "Weight")?,
        blkio_device_read_bps: device_values(host, "BlkioDeviceReadBps", "Rate")?,
        blkio_device_write_bps: device_values(host, "BlkioDeviceWriteBps", "Rate")?,
        blkio_device_read_iops: device_values(host, "BlkioDeviceReadIOps", "Rate")?,
        blkio_device_write_iops: device_values(host, "BlkioDeviceWriteIOps", "Rate")?,
        cpu_period: host.number("CpuPeriod")?,
        cpu_quota: host.number("CpuQuota")?,
        cpu_realtime_period: host.number("CpuRealtimePeriod")?,
        cpu_realtime_runtime: host.number("CpuRealtimeRuntime")?,
        cpuset_cpus: host.text("CpusetCpus")?,
        cpuset_mems: host.text("CpusetMems")?,
        devices: devices(host)?,
        device_cgroup_rules: host.texts("DeviceCgroupRules")?,
        device_requests: device_requests(host)?,
        memory_reservation: host.number("MemoryReservation")?,
        memory_swap: host.number("MemorySwap")?,
        memory_swappiness: host.optional_number("MemorySwappiness")?,
        oom_kill_disable: host.optional_flag("OomKillDisable")?,
        pids_limit: host.optional_number("PidsLimit")?,
        ulimits: ulimits(host)?,
    })
}

fn device_values(host: &Object, name: &str, value: &str) -> Result<Vec<DeviceValue>> {
    let objects = host.objects(name)?;
    objects.iter().map(|o| Ok(DeviceValue { path: o.text("Path")?, value: o.number(value)? })).collect()
}

fn devices(host: &Object) -> Result<Vec<DeviceMapping>> {
    let objects = host.objects("Devices")?;
    let device = |o: &Object| {
        Ok(DeviceMapping {
            path_on_host: o.text("PathOnHost")?,
            path_in_container: o.text("PathInContainer")?,
            cgroup_permissions: o.text("CgroupPermissions")?,
        })
    };
    objects.iter().map(device).collect()
}

fn device_requests(host: &Object) -> Result<Vec<DeviceRequest>> {
    let objects = host.objects("DeviceRequests")?;
    let request = |o: &Object| {
        Ok(DeviceRequest {
            driver: o.text("Driver")?,
            count: o.number("Count")?,
            device_ids: o.texts("DeviceIDs")?,
            capabilities: o.lists("Capabilities")?,
            options: o.map("Options")?,
        })
    };
    objects.iter().map(request).collect()
}

fn ulimits(host: &Object) -> Result<Vec<Ulimit>> {
    let objects = host.objects("Ulimits")?;
    let limit = |o: &Object| Ok(Ulimit { name: o.text("Name")?, soft: o.number("Soft")?, hard: o.number("Hard")? });
    objects.iter().map(limit).collect()
}
