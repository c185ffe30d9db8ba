//! How container verbs see networks: sandboxes made, given back and taken over after a restart. Also keeps the links
//! below `netns/` by which tools enter a container's network namespace.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dockerd_network::driver::NetworkIdentity;
use dockerd_network::stack::{KeptContainer, Predefined, SandboxRequest, StackOptions};
use dockerd_network::{NetworkConfig, NetworkDriver, NetworkError, NetworkStack};
use dockerd_runtime::BoxFuture;
use dockerd_store::Layout;
use dockerd_types::network::EndpointConfig;
use dockerd_types::{ContainerId, Kinded, NetworkId, Timestamp};
use tokio::runtime::Handle;

use super::document::{self, NetworkRecord, PREDEFINED};
use crate::container::names;
use crate::error::EngineError;
use crate::ports::{KeptSandbox, Networks, ReadySandbox, SandboxOrder};

/// Digits of a sandbox's id in its file name.
const SHORT: usize = 12;

/// The stack with what the engine knows of it.
#[derive(Debug)]
pub(crate) struct StackNetworks {
    stack: Arc<NetworkStack>,
    records: Vec<NetworkRecord>,
    netns_dir: PathBuf,
    /// Ids of sandboxes whose file is below `netns_dir`.
    sandboxes: Arc<Mutex<HashMap<ContainerId, String>>>,
}

/// A network that is not there.
#[derive(Debug, thiserror::Error)]
#[error("network {0} not found")]
pub(crate) struct UnknownNetwork(pub(crate) String);

impl Kinded for UnknownNetwork {
    fn kind(&self) -> dockerd_types::ErrorKind {
        dockerd_types::ErrorKind::NotFound
    }
}

fn networking(error: NetworkError) -> EngineError {
    EngineError::Networking(Box::new(error))
}

impl StackNetworks {
    /// Sets the networks up. Blocking.
    pub(crate) fn open(layout: &Layout, config: NetworkConfig, runtime: Handle) -> Result<Self, EngineError> {
        let records = document::load(layout)?;
        let identity = |name: &str| {
            let id = records.iter().find(|record| record.name == name).map(|record| record.id.clone());
            id.map(|id| NetworkIdentity { id, name: name.to_owned() })
                .ok_or_else(|| EngineError::module(UnknownNetwork(name.to_owned())))
        };
        let [bridge, host, none] = PREDEFINED;
        let predefined = Predefined { bridge: identity(bridge)?, host: identity(host)?, none: identity(none)? };
        let options = StackOptions { config, predefined, forwarding_marker: layout.forwarding_marker(), runtime };
        let stack = NetworkStack::open(options).map_err(EngineError::module)?;
        let netns_dir = layout.netns_dir();
        link_namespace(&netns_dir.join("default"), std::process::id());
        Ok(Self { stack: Arc::new(stack), records, netns_dir, sandboxes: Arc::default() })
    }

    /// The networks themselves.
    pub(super) fn stack(&self) -> &NetworkStack {
        &self.stack
    }

    /// When a network was made.
    pub(super) fn created(&self, id: &NetworkId) -> Option<Timestamp> {
        self.records.iter().find(|record| record.id == *id).map(|record| record.created)
    }

    /// By name, id, or the beginning of an id.
    pub(super) fn find(&self, wanted: &str) -> Option<&(NetworkIdentity, Arc<dyn NetworkDriver>)> {
        let all = self.stack.networks();
        let exact = all.iter().find(|(identity, _)| identity.name == wanted || identity.id.as_str() == wanted);
        exact.or_else(|| {
            let mut found = all.iter().filter(|(identity, _)| identity.id.as_str().starts_with(wanted));
            found.next().filter(|_| !wanted.is_empty() && found.next().is_none())
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, String>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file of a sandbox below `netns/`.
fn namespace_file(dir: &Path, sandbox: &str) -> PathBuf {
    dir.join(&sandbox[..SHORT.min(sandbox.len())])
}

/// A link to a process's namespace instead of a mount: mounts of the host are copied at every start of a container.
fn link_namespace(file: &Path, pid: u32) {
    let _ = std::fs::remove_file(file);
    if let Err(error) = std::os::unix::fs::symlink(format!("/proc/{pid}/ns/net"), file) {
        tracing::warn!(file = %file.display(), %error, "the network namespace cannot be shown");
    }
}

impl Networks for StackNetworks {
    fn drivers(&self) -> Vec<&'static str> {
        vec!["bridge", "host", "null"]
    }

    fn create_sandbox(&self, order: SandboxOrder) -> Result<ReadySandbox, EngineError> {
        let SandboxOrder { container, name, hostname: _, mut endpoints, ports } = order;
        if endpoints.len() > 1 {
            return Err(EngineError::NotBuilt("joining several networks at the start"));
        }
        let (wanted, endpoint) = endpoints.pop().unwrap_or_else(|| ("none".to_owned(), EndpointConfig::default()));
        // Without a bridge its containers have no network at all.
        let without_bridge = wanted == "bridge" && self.find("bridge").is_none();
        let listed = self.find(if without_bridge { "none" } else { &wanted });
        let (_, driver) = listed.ok_or_else(|| EngineError::Networking(Box::new(UnknownNetwork(wanted.clone()))))?;
        let request = SandboxRequest { container: container.clone(), name, endpoint, ports };
        let joined = self.stack.join(&**driver, request).map_err(networking)?;
        let id = dockerd_types::ids::hex(&names::random::<32>());
        if joined.netns.is_some() {
            self.lock().insert(container, id.clone());
        }
        let attached = joined.attached;
        let endpoints = if without_bridge { Vec::new() } else { vec![attached.state] };
        Ok(ReadySandbox { id, netns: joined.netns, endpoints, ports: attached.ports })
    }

    fn started(&self, id: &ContainerId, pid: i32) {
        self.stack.refill();
        let Some(sandbox) = self.lock().get(id).cloned() else { return };
        let file = namespace_file(&self.netns_dir, &sandbox);
        let (sandboxes, id) = (Arc::clone(&self.sandboxes), id.clone());
        tokio::task::spawn_blocking(move || {
            link_namespace(&file, pid.unsigned_abs());
            // A short run may be over already, and its link removed before it was made.
            let known = sandboxes.lock().unwrap_or_else(PoisonError::into_inner).get(&id) == Some(&sandbox);
            if !known {
                let _ = std::fs::remove_file(&file);
            }
        });
    }

    fn remove_sandbox(&self, id: &ContainerId) -> BoxFuture<'_, Result<(), EngineError>> {
        let sandbox = self.lock().remove(id);
        let (id, stack) = (id.clone(), self.stack.clone());
        let file = sandbox.map(|sandbox| namespace_file(&self.netns_dir, &sandbox));
        Box::pin(async move {
            stack.leave(&id).await.map_err(networking)?;
            // For starts that failed after they had taken one.
            stack.refill();
            if let Some(file) = file {
                // One unlink on tmpfs; it may never have been made.
                tokio::task::spawn_blocking(move || _ = std::fs::remove_file(file));
            }
            Ok(())
        })
    }

    fn restore(&self, kept: Vec<KeptSandbox>) -> BoxFuture<'_, Result<(), EngineError>> {
        let stack = self.stack.clone();
        let dir = self.netns_dir.clone();
        let mut containers = Vec::new();
        let mut files = Vec::new();
        for KeptSandbox { container, pid, id, endpoints, ports } in kept {
            if !id.is_empty() {
                files.push((namespace_file(&dir, &id), pid));
                self.lock().insert(container.clone(), id);
            }
            let endpoint = endpoints.into_iter().find(|endpoint| endpoint.ipv4.is_some());
            containers.extend(endpoint.map(|endpoint| KeptContainer { container, pid, endpoint, ports }));
        }
        Box::pin(async move {
            let restored = tokio::task::spawn_blocking(move || {
                stack.restore(&containers)?;
                remove_stale_files(&dir, &files);
                Ok(())
            });
            restored.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())).map_err(networking)
        })
    }

    fn network_id(&self, name: &str) -> Option<NetworkId> {
        self.find(name).map(|(identity, _)| identity.id.clone())
    }

    fn default_gateway(&self) -> Option<Ipv4Addr> {
        self.stack.gateway()
    }
}

/// Leaves only the files of these, anew: another process may have the number meanwhile.
fn remove_stale_files(dir: &Path, files: &[(PathBuf, i32)]) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name() != "default" {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    for (file, pid) in files {
        link_namespace(file, pid.unsigned_abs());
    }
}
