//! The resolved description of a container, its run state, and the two documents they are stored as: `container.json`
//! (description, written at creation and rename) and `state.json` (what changes with every start and exit, kept small
//! because it is written on the start path).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dockerd_store::document::Document;
use dockerd_types::container::{ContainerConfig, HostConfig, Labels, Status};
use dockerd_types::network::{EndpointConfig, EndpointState, PublishedPort};
use dockerd_types::{ContainerId, Digest, NetworkId, Timestamp};
use serde::{Deserialize, Serialize};

use super::health::Health;

/// What a container is, resolved at creation; never changes afterwards (the name is kept beside it).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its id.
    pub id: ContainerId,
    /// When it was made.
    pub created: Timestamp,
    /// The image it was made from (config digest).
    pub image: Digest,
    /// Operating system and architecture of the image, `linux/amd64`.
    pub platform: String,
    /// Program started.
    pub path: String,
    /// Its arguments, without the program.
    pub args: Vec<String>,
    /// Portable half, image defaults merged.
    pub config: ContainerConfig,
    /// Host half, defaults filled.
    pub host: HostConfig,
    /// Binds, volumes and typed mounts, by destination.
    pub mounts: Vec<MountPoint>,
    /// Network attachments wanted, by network name.
    pub endpoints: BTreeMap<String, EndpointConfig>,
    /// Storage driver that holds its writable layer.
    pub storage_driver: String,
    /// Log file, for drivers that have one.
    pub log_path: Option<PathBuf>,
}

impl ContainerSpec {
    /// `HOST:/etc/...` files live in the container's directory unless the network namespace is another container's.
    pub fn joins_network_of(&self) -> Option<&str> {
        match &self.host.network_mode {
            dockerd_types::container::NetworkMode::Container(id) => Some(id),
            _ => None,
        }
    }

    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.config.labels
    }
}

/// One bind, volume or typed mount of a container. The `Tmpfs` map of the host half is not among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What is mounted.
    pub kind: MountPointKind,
    /// Absolute, cleaned path in the container.
    pub destination: String,
    /// Read-only.
    pub read_only: bool,
    /// Propagation: empty for volumes, else `rprivate`, `rshared`, ...
    pub propagation: String,
    /// The mode text of `-v` as inspect echoes it.
    pub mode: String,
    /// Whether it came from `HostConfig.Mounts`.
    pub typed: bool,
}

/// What a [`MountPoint`] mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPointKind {
    /// A host path.
    Bind {
        /// Absolute host path.
        source: String,
        /// bind instead of rbind.
        non_recursive: bool,
        /// Read-only at the top only.
        read_only_non_recursive: bool,
        /// Fail when the tree cannot be made read-only as a whole.
        read_only_force_recursive: bool,
        /// Make the source directory at start if it is missing.
        create_source: bool,
    },
    /// A volume.
    Volume {
        /// Its name.
        name: String,
        /// Its driver.
        driver: String,
        /// Its directory on the host.
        source: PathBuf,
        /// Directory in the volume; empty for its root.
        subpath: String,
        /// No copy-up.
        no_copy: bool,
        /// Whether the volume was made for this container only.
        anonymous: bool,
    },
    /// A fresh tmpfs.
    Tmpfs {
        /// Mount options, `size=...`, `mode=...`, `noexec`...
        options: Vec<String>,
    },
    /// Another image's tree.
    Image {
        /// Reference as written.
        reference: String,
        /// The image.
        image: Digest,
        /// Directory in it.
        subpath: String,
    },
}

/// Where a running container's `/etc/resolv.conf` leads its programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameService {
    /// It does not run, or the file is another container's.
    #[default]
    None,
    /// To the host's servers. The text as we wrote it, by which is told whether it was edited since.
    Servers(String),
    /// To its own resolver, which knows the containers of its networks.
    Resolver,
}

/// What happens with the container now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Where in its life it is.
    pub status: Status,
    /// Process id on the host; 0 when not running.
    pub pid: i32,
    /// Last exit code; 0 before the first exit.
    pub exit_code: i64,
    /// Why the last start failed; empty if it did not.
    pub error: String,
    /// The kernel killed something in it for lack of memory.
    pub oom_killed: bool,
    /// Last start.
    pub started_at: Option<Timestamp>,
    /// Last exit.
    pub finished_at: Option<Timestamp>,
    /// Stopped or killed by a client: the restart policy rests until the next start.
    pub manually_stopped: bool,
    /// Starts done by the restart policy since the last start by a client.
    pub restart_count: u32,
    /// Its network sandbox while it runs; empty when it has none of its own.
    #[serde(default)]
    pub sandbox_id: String,
    /// Networks it was on when it was last started.
    #[serde(default)]
    pub network_ids: BTreeMap<String, NetworkId>,
    /// What it was called on its networks when it last ran or was put on them.
    #[serde(default)]
    pub dns_names: BTreeMap<String, Vec<String>>,
    /// Who is asked for names while it runs.
    #[serde(default)]
    pub name_service: NameService,
    /// Attachments while it runs.
    pub endpoints: Vec<EndpointState>,
    /// What it stands on besides, while it runs, because none of its networks leads out.
    #[serde(default)]
    pub way_out: Option<EndpointState>,
    /// Published ports while it runs.
    pub ports: Vec<PublishedPort>,
    /// Health, where there is a check.
    #[serde(default)]
    pub health: Option<Health>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            status: Status::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: None,
            finished_at: None,
            manually_stopped: false,
            restart_count: 0,
            sandbox_id: String::new(),
            network_ids: BTreeMap::new(),
            dns_names: BTreeMap::new(),
            name_service: NameService::None,
            endpoints: Vec::new(),
            way_out: None,
            ports: Vec::new(),
            health: None,
        }
    }
}

impl State {
    /// Whether a process of it lives (frozen ones included).
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused)
    }

    /// Whether it runs and is on a network that gave it an address.
    pub fn has_address(&self) -> bool {
        self.is_running() && self.endpoints.iter().any(|endpoint| endpoint.ipv4.is_some() || endpoint.ipv6.is_some())
    }
}

/// The container as readers see it: replaced as a whole, never changed in place.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The description.
    pub spec: Arc<ContainerSpec>,
    /// Its name, without slash.
    pub name: Arc<str>,
    /// Its state.
    pub state: State,
    /// Counts exits, for those who wait for the next one.
    pub exits: u64,
    /// It is gone from the engine.
    pub removed: bool,
    /// Why its removal failed, when it did.
    pub removal_error: Option<Arc<str>>,
}

/// `container.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerDocument {
    /// Its name, without slash.
    pub name: String,
    /// The description.
    #[serde(with = "shared")]
    pub spec: Arc<ContainerSpec>,
}

/// Stores what is behind an `Arc`.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
        T::serialize(value, serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Arc<T>, D::Error> {
        T::deserialize(d).map(Arc::new)
    }
}

impl Document for ContainerDocument {
    const VERSION: u32 = 1;
}

impl Document for State {
    const VERSION: u32 = 1;
}
