//! What the services share: settings, drivers, the register of containers. Knows how to find things, not what to do.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use dockerd_runtime::RuntimeDriver;
use dockerd_store::Layout;
use dockerd_types::{ContainerId, Timestamp};

use crate::config::EngineConfig;
use crate::container::files::ResolverDefaults;
use crate::container::oci::HostFacts;
use crate::container::registry::Registry;
use crate::container::validate::HostLimits;
use crate::janitor::Janitor;
use crate::ports::{Events, Execs, Images, Networks, RuntimeSet, StreamsMaker, Volumes};
use crate::reaper::Reaper;

/// Shared by all services.
#[derive(Debug)]
pub(crate) struct Core {
    /// Settings as they were at start; those a reload may change are in `live`.
    pub(crate) config: Arc<EngineConfig>,
    /// Settings as they are now (`reload.rs`).
    pub(crate) live: ArcSwap<EngineConfig>,
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
    /// Chores for pauses.
    pub(crate) janitor: Janitor,
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
    /// The settings of now.
    pub(crate) fn live(&self) -> Arc<EngineConfig> {
        self.live.load_full()
    }

    /// What the checks need to know of this host, with the runtimes of now.
    pub(crate) fn limits(&self) -> Cow<'_, HostLimits> {
        let live = self.live();
        if live.runtimes.keys().all(|name| self.limits.runtimes.contains(name)) {
            return Cow::Borrowed(&self.limits);
        }
        let mut limits = self.limits.clone();
        limits.runtimes.extend(live.runtimes.keys().cloned());
        Cow::Owned(limits)
    }

    /// The runtime of that name; Docker's default name is another name of the built-in one.
    pub(crate) fn driver(&self, name: &str) -> Option<Arc<dyn RuntimeDriver>> {
        self.runtimes.driver(name)
    }

    /// The host directory that is a shareable container's `/dev/shm`.
    pub(crate) fn shm_dir(&self, id: &ContainerId) -> PathBuf {
        self.layout.container_exec_dir(id).join("shm")
    }
}
