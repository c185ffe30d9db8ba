//! What the services share: settings, drivers, the register of containers. Knows how to find things, not what to do.

use std::path::PathBuf;
use std::sync::Arc;

use dockerd_runtime::RuntimeDriver;
use dockerd_store::Layout;
use dockerd_types::{ContainerId, Timestamp};

use crate::config::EngineConfig;
use crate::container::files::ResolverDefaults;
use crate::container::oci::HostFacts;
use crate::container::registry::Registry;
use crate::container::validate::HostLimits;
use crate::ports::{Events, Execs, Images, Networks, RuntimeSet, StreamsMaker, Volumes};
use crate::reaper::Reaper;

/// Shared by all services.
#[derive(Debug)]
pub(crate) struct Core {
    /// Settings.
    pub(crate) config: Arc<EngineConfig>,
    /// Paths.
    pub(crate) layout: Layout,
    /// Images and snapshots.
    pub(crate) images: Arc<dyn Images>,
    /// OCI runtimes.
    pub(crate) runtimes: Arc<dyn RuntimeSet>,
    /// Networks.
    pub(crate) network: Arc<dyn Networks>,
    /// Volumes.
    pub(crate) volumes: Arc<dyn Volumes>,
    /// Events.
    pub(crate) events: Arc<dyn Events>,
    /// Streams of new containers.
    pub(crate) streams: Arc<dyn StreamsMaker>,
    /// Execs.
    pub(crate) execs: Arc<dyn Execs>,
    /// Containers.
    pub(crate) containers: Registry,
    /// Tear-down off the path of replies.
    pub(crate) reaper: Reaper,
    /// This host, for specifications.
    pub(crate) facts: HostFacts,
    /// This host, for checks.
    pub(crate) limits: HostLimits,
    /// `--dns` and the like.
    pub(crate) resolver: ResolverDefaults,
    /// When the engine came up.
    pub(crate) started_at: Timestamp,
    /// The engine's UUID.
    pub(crate) engine_id: String,
}

impl Core {
    /// The runtime of that name; Docker's default name is another name of the built-in one.
    pub(crate) fn driver(&self, name: &str) -> Option<Arc<dyn RuntimeDriver>> {
        self.runtimes.driver(name)
    }

    /// The host directory that is a shareable container's `/dev/shm`.
    pub(crate) fn shm_dir(&self, id: &ContainerId) -> PathBuf {
        self.layout.container_exec_dir(id).join("shm")
    }
}
