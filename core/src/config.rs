//! Every daemon setting the engine needs, resolved: flags and file merged, defaults filled in by the binary. The engine
//! never reads flags, files or the environment for settings itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use dockerd_image::snapshot::StorageOptions;
pub use dockerd_network::config::{BridgeChoice, NetworkConfig};
pub use dockerd_network::firewall::{Backend as FirewallBackend, HostPolicy};
pub use dockerd_network::ipam::{AddressPool, Subnet};
use dockerd_types::container::{CgroupnsMode, IpcMode, LogConfig, Ulimit};

/// Default size of `/dev/shm`, as Docker's `--default-shm-size`.
pub const DEFAULT_SHM_SIZE: u64 = 64 * 1024 * 1024;

/// Default seconds between the stop signal and SIGKILL, and for all containers at shutdown.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Default `--max-concurrent-downloads`.
pub const MAX_CONCURRENT_DOWNLOADS: u32 = 3;
/// Default `--max-concurrent-uploads`.
pub const MAX_CONCURRENT_UPLOADS: u32 = 5;
/// Default `--max-download-attempts`.
pub const MAX_DOWNLOAD_ATTEMPTS: u32 = 5;

/// Name of the built-in runtime; `runc` is its other name so that clients that ask for Docker's default get it.
pub const NATIVE_RUNTIME: &str = "native";

/// An OCI runtime program added by `--add-runtime`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeProgram {
    /// Program, absolute or to be found in PATH.
    pub path: PathBuf,
    /// Arguments before the command.
    pub args: Vec<String>,
}

/// Which seccomp profile a container gets that does not choose one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeccompDefault {
    /// The built-in profile.
    #[default]
    Builtin,
    /// None.
    Unconfined,
    /// A profile's JSON text (the file of `--seccomp-profile`, already read) and where it came from.
    Custom {
        /// The file's path, as info shows it.
        path: String,
        /// Its text.
        json: String,
    },
}

/// Ways out of this network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For http.
    pub http: String,
    /// For https.
    pub https: String,
    /// What needs none.
    pub none: String,
}

/// Settings of one engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// `--data-root`, absolute.
    pub data_root: PathBuf,
    /// `--exec-root`, absolute.
    pub exec_root: PathBuf,
    /// `--storage-driver`; `None`: chosen by a probe.
    pub storage_driver: Option<String>,
    /// `--storage-opt`.
    pub storage_options: StorageOptions,
    /// `--lazy-pull`: images that can be are used before they are here.
    pub lazy_pull: bool,
    /// `--default-runtime`.
    pub default_runtime: String,
    /// `--add-runtime` and the file's `runtimes`.
    pub runtimes: BTreeMap<String, RuntimeProgram>,
    /// `--log-driver`, `--log-opt`.
    pub log: LogConfig,
    /// `--default-shm-size`, bytes.
    pub default_shm_size: u64,
    /// `--default-ulimit`.
    pub default_ulimits: Vec<Ulimit>,
    /// `--default-ipc-mode`: private or shareable.
    pub default_ipc_mode: IpcMode,
    /// `--default-cgroupns-mode`; `Default`: private on v2, host on v1.
    pub default_cgroupns_mode: CgroupnsMode,
    /// `--init`: containers get an init unless they say otherwise.
    pub init: bool,
    /// `--live-restore`: containers outlive the daemon's stop.
    pub live_restore: bool,
    /// `--shutdown-timeout`.
    pub shutdown_timeout: Duration,
    /// Grace before SIGKILL for containers that set none.
    pub stop_timeout: Duration,
    /// The default bridge and what all networks share.
    pub network: NetworkConfig,
    /// `--dns`.
    pub dns: Vec<IpAddr>,
    /// `--dns-opt`.
    pub dns_options: Vec<String>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--host-gateway-ip`; empty: the default bridge's address.
    pub host_gateway_ips: Vec<IpAddr>,
    /// `--seccomp-profile`.
    pub seccomp: SeccompDefault,
    /// `--no-new-privileges`.
    pub no_new_privileges: bool,
    /// `--cgroup-parent`; `None`: `/docker`.
    pub cgroup_parent: Option<String>,
    /// `--label`, `K=V`.
    pub labels: Vec<String>,
    /// `--debug`.
    pub debug: bool,
    /// `--experimental`.
    pub experimental: bool,
    /// `--insecure-registry`.
    pub insecure_registries: Vec<String>,
    /// `--registry-mirror`.
    pub registry_mirrors: Vec<String>,
    /// `--max-concurrent-downloads`.
    pub max_concurrent_downloads: u32,
    /// `--max-concurrent-uploads`.
    pub max_concurrent_uploads: u32,
    /// `--max-download-attempts`.
    pub max_download_attempts: u32,
    /// `--feature`.
    pub features: BTreeMap<String, bool>,
    /// `--http-proxy`, `--https-proxy`, `--no-proxy`, or what the environment says.
    pub proxies: Proxies,
    /// Version this daemon tells, like `28.5.2`.
    pub version: String,
    /// Source revision it was built from; may be empty.
    pub git_commit: String,
    /// When it was built, RFC 3339; may be empty.
    pub build_time: String,
    /// The program whose `supervisor` and `init` modes are used; `None`: the running one.
    pub program: Option<PathBuf>,
}

impl EngineConfig {
    /// Docker's defaults below these two roots.
    pub fn new(data_root: impl Into<PathBuf>, exec_root: impl Into<PathBuf>) -> Self {
        Self {
            data_root: data_root.into(),
            exec_root: exec_root.into(),
            storage_driver: None,
            storage_options: StorageOptions::default(),
            lazy_pull: false,
            default_runtime: "runc".to_owned(),
            runtimes: BTreeMap::new(),
            log: LogConfig { driver: "json-file".to_owned(), options: BTreeMap::new() },
            default_shm_size: DEFAULT_SHM_SIZE,
            default_ulimits: Vec::new(),
            default_ipc_mode: IpcMode::Private,
            default_cgroupns_mode: CgroupnsMode::Default,
            init: false,
            live_restore: false,
            shutdown_timeout: Duration::from_secs(15),
            stop_timeout: DEFAULT_STOP_TIMEOUT,
            network: NetworkConfig::default(),
            dns: Vec::new(),
            dns_options: Vec::new(),
            dns_search: Vec::new(),
            host_gateway_ips: Vec::new(),
            seccomp: SeccompDefault::Builtin,
            no_new_privileges: false,
            cgroup_parent: None,
            labels: Vec::new(),
            debug: false,
            experimental: false,
            insecure_registries: Vec::new(),
            registry_mirrors: Vec::new(),
            max_concurrent_downloads: MAX_CONCURRENT_DOWNLOADS,
            max_concurrent_uploads: MAX_CONCURRENT_UPLOADS,
            max_download_attempts: MAX_DOWNLOAD_ATTEMPTS,
            features: BTreeMap::new(),
            proxies: Proxies::default(),
            version: "28.5.2".to_owned(),
            git_commit: String::new(),
            build_time: String::new(),
            program: None,
        }
    }
}
