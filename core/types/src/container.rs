//! What a container is asked to be, resolved: defaults filled in, texts parsed, nothing that only the wire needs.
//! The fields follow the Docker API's `ContainerConfig` and `HostConfig` (newest version). `Serialize` here is for
//! the stored document, never for the wire; `api-compat` converts field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ContainerId;
use crate::network::{EndpointConfig, Port, PortBindings};

/// `K=V` labels.
pub type Labels = BTreeMap<String, String>;

/// The portable half of a container's description (image defaults already merged in).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Host name; empty before creation resolves it.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// Client hints, only echoed.
    pub attach_stdin: bool,
    /// Client hint, only echoed.
    pub attach_stdout: bool,
    /// Client hint, only echoed.
    pub attach_stderr: bool,
    /// Ports the image or client says are served.
    pub exposed_ports: BTreeSet<Port>,
    /// Run on a pseudo terminal.
    pub tty: bool,
    /// Keep stdin open.
    pub open_stdin: bool,
    /// Close stdin when the first attached client leaves.
    pub stdin_once: bool,
    /// `K=V` list; later wins.
    pub env: Vec<String>,
    /// Arguments; `None` is JSON null.
    pub cmd: Option<Vec<String>>,
    /// Entrypoint; `None` is JSON null.
    pub entrypoint: Option<Vec<String>>,
    /// Health check.
    pub healthcheck: Option<Healthcheck>,
    /// Image reference or id as the client wrote it.
    pub image: String,
    /// Anonymous volume paths.
    pub volumes: BTreeSet<String>,
    /// Working directory; empty is `/`.
    pub working_dir: String,
    /// No interfaces but loopback.
    pub network_disabled: bool,
    /// ONBUILD triggers of the image.
    pub on_build: Vec<String>,
    /// Labels.
    pub labels: Labels,
    /// Signal for stop, as written.
    pub stop_signal: Option<String>,
    /// Seconds before SIGKILL at stop; -1 is for ever.
    pub stop_timeout: Option<i64>,
    /// Shell of CMD-SHELL.
    pub shell: Option<Vec<String>>,
}

/// Health check, durations resolved later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]`, `["CMD-SHELL", text]`, or empty to inherit.
    pub test: Vec<String>,
    /// Zero: inherit, then 30 s.
    pub interval: Duration,
    /// Zero: inherit, then 30 s.
    pub timeout: Duration,
    /// Zero: none.
    pub start_period: Duration,
    /// Zero: 5 s.
    pub start_interval: Duration,
    /// Zero: 3.
    pub retries: i64,
}

/// The half that depends on this host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// `src:dst[:opts]`.
    pub binds: Vec<String>,
    /// API names of the lists that the client left out or gave as null. Inspect shows them so: some clients send back what
    /// they were shown and compare.
    pub null_lists: BTreeSet<String>,
    /// Echoed.
    pub container_id_file: String,
    /// Log driver and options.
    pub log_config: LogConfig,
    /// Network namespace.
    pub network_mode: NetworkMode,
    /// Published ports.
    pub port_bindings: PortBindings,
    /// Restart policy.
    pub restart_policy: RestartPolicy,
    /// Remove on exit.
    pub auto_remove: bool,
    /// Driver for named and anonymous volumes of `binds`.
    pub volume_driver: String,
    /// `id[:ro|rw]`.
    pub volumes_from: Vec<String>,
    /// Initial terminal size, height then width.
    pub console_size: (u16, u16),
    /// OCI annotations.
    pub annotations: BTreeMap<String, String>,
    /// Capabilities added, as written.
    pub cap_add: Vec<String>,
    /// Capabilities dropped, as written.
    pub cap_drop: Vec<String>,
    /// cgroup namespace.
    pub cgroupns_mode: CgroupnsMode,
    /// Name servers.
    pub dns: Vec<String>,
    /// resolv.conf options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// `host:ip`.
    pub extra_hosts: Vec<String>,
    /// Extra groups.
    pub group_add: Vec<String>,
    /// IPC namespace.
    pub ipc_mode: IpcMode,
    /// Echoed.
    pub cgroup: String,
    /// Legacy links.
    pub links: Vec<String>,
    /// OOM score adjustment.
    pub oom_score_adj: i64,
    /// PID namespace.
    pub pid_mode: PidMode,
    /// Everything allowed.
    pub privileged: bool,
    /// Publish all exposed ports.
    pub publish_all_ports: bool,
    /// Root file system read-only.
    pub readonly_rootfs: bool,
    /// Security options as written.
    pub security_opt: Vec<String>,
    /// Storage options.
    pub storage_opt: BTreeMap<String, String>,
    /// `path -> options`.
    pub tmpfs: BTreeMap<String, String>,
    /// Whether the host's UTS namespace is used.
    pub uts_host: bool,
    /// `""` or `host`.
    pub userns_mode: String,
    /// Bytes of /dev/shm.
    pub shm_size: u64,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// OCI runtime name; empty before creation resolves it.
    pub runtime: String,
    /// Echoed.
    pub isolation: String,
    /// Typed mounts.
    pub mounts: Vec<MountSpec>,
    /// `None`: the defaults; `Some([])`: none.
    pub masked_paths: Option<Vec<String>>,
    /// `None`: the defaults; `Some([])`: none.
    pub readonly_paths: Option<Vec<String>>,
    /// Run an init as PID 1; `None`: the daemon's setting.
    pub init: Option<bool>,
    /// Limits.
    pub resources: Resources,
}

/// Log driver choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Driver name; empty before creation resolves it.
    pub driver: String,
    /// Its options.
    pub options: BTreeMap<String, String>,
}

/// Which network namespace, and which network first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// What the client left open: the default bridge.
    #[default]
    Default,
    /// The default bridge, named.
    Bridge,
    /// The host's namespace.
    Host,
    /// Loopback only.
    None,
    /// Another container's namespace; the text is its name or id as written, resolved to the id at creation.
    Container(String),
    /// A user-defined network, by name or id.
    Network(String),
}

impl NetworkMode {
    /// Parses the API's text.
    pub fn parse(text: &str) -> Self {
        match text {
            "" | "default" => Self::Default,
            "bridge" => Self::Bridge,
            "host" => Self::Host,
            "none" => Self::None,
            other => match other.strip_prefix("container:") {
                Some(id) => Self::Container(id.to_owned()),
                None => Self::Network(other.to_owned()),
            },
        }
    }

    /// The API's text; `bridge` for [`NetworkMode::Default`], as inspect shows it since API 1.44.
    pub fn text(&self) -> String {
        match self {
            Self::Default | Self::Bridge => "bridge".to_owned(),
            Self::Host => "host".to_owned(),
            Self::None => "none".to_owned(),
            Self::Container(id) => format!("container:{id}"),
            Self::Network(name) => name.clone(),
        }
    }
}

/// Restart policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Always, also at boot.
    Always,
    /// Always, except after a manual stop.
    UnlessStopped,
    /// After failures, at most so often (0: no cap).
    OnFailure {
        /// Cap on retries.
        max_retries: u32,
    },
}

/// cgroup namespace choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupnsMode {
    /// The daemon's default: private on v2, host on v1.
    #[default]
    Default,
    /// The host's.
    Host,
    /// Its own.
    Private,
}

/// IPC namespace choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    /// The daemon's default.
    #[default]
    Default,
    /// Own namespace, no /dev/shm.
    None,
    /// Own namespace, not to be joined.
    Private,
    /// Own namespace, others may join.
    Shareable,
    /// The host's.
    Host,
    /// Another container's (id or name as written, resolved at creation).
    Container(String),
}

/// PID namespace choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's (id or name as written, resolved at creation).
    Container(String),
}

/// One entry of `--mount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// What is mounted.
    pub kind: MountKind,
    /// Absolute path in the container.
    pub target: String,
    /// Read-only.
    pub read_only: bool,
    /// Echoed.
    pub consistency: String,
}

/// What a [`MountSpec`] mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A host path.
    Bind {
        /// Absolute host path.
        source: String,
        /// Bind options.
        options: BindOptions,
    },
    /// A volume.
    Volume {
        /// Name; empty for an anonymous one.
        source: String,
        /// Volume options.
        options: VolumeOptions,
    },
    /// A fresh tmpfs.
    Tmpfs {
        /// Byte limit; 0 for none.
        size_bytes: u64,
        /// Permission bits; `None` for 1777.
        mode: Option<u32>,
        /// Extra options, `exec`/`noexec`.
        options: Vec<Vec<String>>,
    },
    /// Another image's tree.
    Image {
        /// Image reference.
        source: String,
        /// Directory in it; empty for its root.
        subpath: String,
    },
}

/// Options of a bind mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindOptions {
    /// Propagation, as written; empty is rprivate.
    pub propagation: String,
    /// bind instead of rbind.
    pub non_recursive: bool,
    /// Make the source directory if it is missing.
    pub create_mountpoint: bool,
    /// Read-only only at the top.
    pub read_only_non_recursive: bool,
    /// Fail when the whole tree cannot be made read-only.
    pub read_only_force_recursive: bool,
    /// Whether the client sent the options object at all.
    pub present: bool,
}

/// Options of a volume mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    /// Do not copy the image's files into an empty volume.
    pub no_copy: bool,
    /// Labels for a volume made here.
    pub labels: Labels,
    /// Directory in the volume.
    pub subpath: String,
    /// Driver name.
    pub driver: String,
    /// Driver options.
    pub driver_options: BTreeMap<String, String>,
    /// Whether the client sent the options object at all.
    pub present: bool,
    /// Whether the client sent a driver object in it.
    pub driver_present: bool,
}

/// cgroup limits, devices and rlimits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CPU shares (v1 scale); 0 for unset.
    pub cpu_shares: i64,
    /// Memory limit in bytes; 0 for none.
    pub memory: i64,
    /// CPUs in billionths; 0 for unset.
    pub nano_cpus: i64,
    /// Parent cgroup.
    pub cgroup_parent: String,
    /// Block I/O weight 10..1000; 0 for unset.
    pub blkio_weight: u16,
    /// Weight by device.
    pub blkio_weight_device: Vec<DeviceValue>,
    /// Read bytes per second by device.
    pub blkio_device_read_bps: Vec<DeviceValue>,
    /// Written bytes per second by device.
    pub blkio_device_write_bps: Vec<DeviceValue>,
    /// Reads per second by device.
    pub blkio_device_read_iops: Vec<DeviceValue>,
    /// Writes per second by device.
    pub blkio_device_write_iops: Vec<DeviceValue>,
    /// CFS period in microseconds; 0 for unset.
    pub cpu_period: i64,
    /// CFS quota in microseconds; 0 for unset.
    pub cpu_quota: i64,
    /// Real-time period in microseconds.
    pub cpu_realtime_period: i64,
    /// Real-time runtime in microseconds.
    pub cpu_realtime_runtime: i64,
    /// CPUs allowed.
    pub cpuset_cpus: String,
    /// Memory nodes allowed.
    pub cpuset_mems: String,
    /// Devices given.
    pub devices: Vec<DeviceMapping>,
    /// Extra device cgroup rules, `c 1:3 rwm`.
    pub device_cgroup_rules: Vec<String>,
    /// Requests to device drivers.
    pub device_requests: Vec<DeviceRequest>,
    /// Soft memory limit in bytes.
    pub memory_reservation: i64,
    /// Memory plus swap in bytes; -1 for unlimited, 0 for unset.
    pub memory_swap: i64,
    /// Swappiness 0..100.
    pub memory_swappiness: Option<i64>,
    /// No OOM killer (v1).
    pub oom_kill_disable: Option<bool>,
    /// Processes allowed; `None` or <= 0 for no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
}

/// A number for a block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceValue {
    /// Device path on the host.
    pub path: String,
    /// Weight or rate.
    pub value: u64,
}

/// `--device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Node or directory on the host.
    pub path_on_host: String,
    /// Path in the container.
    pub path_in_container: String,
    /// Subset of `rwm`.
    pub cgroup_permissions: String,
}

/// `--gpus` and CDI.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// Driver name.
    pub driver: String,
    /// How many; -1 for all.
    pub count: i64,
    /// Which ones.
    pub device_ids: Vec<String>,
    /// OR of ANDs.
    pub capabilities: Vec<Vec<String>>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
}

/// One resource limit; names as in setrlimit(2), lower case, without `RLIMIT_`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name.
    pub name: String,
    /// Soft limit; -1 for unlimited.
    pub soft: i64,
    /// Hard limit; -1 for unlimited.
    pub hard: i64,
}

/// The command `POST /containers/create` becomes.
#[derive(Debug, Clone, Default)]
pub struct CreateContainer {
    /// Name wanted, without slash; `None` draws one.
    pub name: Option<String>,
    /// `os/arch[/variant]` wanted.
    pub platform: Option<String>,
    /// As the client wrote it; image defaults not merged yet.
    pub config: ContainerConfig,
    /// As the client wrote it.
    pub host_config: HostConfig,
    /// Attachments wanted, by network name or id as written.
    pub endpoints: BTreeMap<String, EndpointConfig>,
}

/// What creation answers.
#[derive(Debug, Clone)]
pub struct Created {
    /// The new container.
    pub id: ContainerId,
    /// Things the client should know.
    pub warnings: Vec<String>,
}

/// Where a container is in its life (`lifecycle.rs` has the transitions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Frozen.
    Paused,
    /// Exited, the restart policy will start it again.
    Restarting,
    /// Being removed.
    Removing,
    /// Its process ended.
    Exited,
    /// Removal failed half way.
    Dead,
}

impl Status {
    /// The API's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}
