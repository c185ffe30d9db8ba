//! `docker inspect`: all facts of one container, from its snapshot. Only sizes touch the disk, and only when asked for.

use std::path::PathBuf;
use std::sync::Arc;

use dockerd_types::container::NetworkMode;

use super::list::{Sizes, sizes};
use super::spec::Snapshot;
use super::{ContainerService, files};
use crate::error::EngineError;

/// Everything the engine knows of a container.
#[derive(Debug, Clone)]
pub struct ContainerInspect {
    /// Description, name and state.
    pub snapshot: Arc<Snapshot>,
    /// Host side of `/etc/resolv.conf`.
    pub resolv_conf_path: PathBuf,
    /// Host side of `/etc/hostname`.
    pub hostname_path: PathBuf,
    /// Host side of `/etc/hosts`.
    pub hosts_path: PathBuf,
    /// The file by which tools enter its network namespace; empty when it does not run.
    pub sandbox_key: PathBuf,
    /// Legacy links, as the API shows them.
    pub links: Vec<String>,
    /// Log file, for drivers that have one.
    pub log_path: Option<PathBuf>,
    /// Execs that were made in it and are not gone yet.
    pub exec_ids: Vec<dockerd_types::ExecId>,
    /// Sizes, when asked for.
    pub size: Option<Sizes>,
    /// Bounding capabilities and the like are the description's; this is the runtime that really runs it.
    pub runtime: String,
}

impl ContainerService {
    /// All facts of one container.
    pub async fn inspect(&self, name: &str, with_size: bool) -> Result<ContainerInspect, EngineError> {
        let container = self.core.containers.find(name)?;
        let snapshot = container.snapshot();
        let size = if with_size {
            let (core, snapshot) = (self.core.clone(), snapshot.clone());
            tokio::task::spawn_blocking(move || sizes(&core, &snapshot)).await.unwrap_or_default()
        } else {
            None
        };
        // Files of a container that joins another's network are the other's.
        let owner = snapshot.spec.joins_network_of().and_then(|other| self.core.containers.find(other).ok());
        let owner = owner.as_ref().map_or_else(|| container.id(), |owner| owner.id());
        let paths = files::paths(&self.core.layout.container_dir(owner));
        let sandbox = &snapshot.state.sandbox_id;
        let sandbox_file = match &snapshot.spec.host.network_mode {
            _ if sandbox.is_empty() => None,
            NetworkMode::Host => Some("default"),
            _ => sandbox.get(..12),
        };
        let sandbox_key = sandbox_file.map_or_else(PathBuf::new, |file| self.core.layout.netns_dir().join(file));
        Ok(ContainerInspect {
            sandbox_key,
            links: super::links::shown(&self.core, &snapshot),
            resolv_conf_path: paths.resolv_conf,
            hostname_path: paths.hostname,
            hosts_path: paths.hosts,
            log_path: snapshot.spec.log_path.clone(),
            exec_ids: self.core.execs.of_container(container.id()),
            size,
            runtime: snapshot.spec.host.runtime.clone(),
            snapshot,
        })
    }
}
