//! Containers: the service with one method per Docker verb, the handle each container has, and the words the verbs take.
//! The files are named after the verbs. What may run when is decided in `lifecycle.rs`, by the container's own task
//! (`actor.rs`); readers see published snapshots and wait for nobody.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use dockerd_runtime::{ProcessKey, RuntimeDriver};
use dockerd_types::network::EndpointState;
use dockerd_types::{ContainerId, Filters, Timestamp};
use oci_spec::runtime::Spec;
use tokio::sync::{RwLock, mpsc, oneshot, watch};

use crate::core::Core;
use crate::error::EngineError;
use crate::ports::{EventNote, Events, Streams};

pub(crate) mod actor;
pub mod attach;
mod changes;
pub(crate) mod connect;
pub mod copy;
pub(crate) mod create;
pub mod create_error;
pub mod detach_keys;
pub mod error;
mod exit;
mod export;
pub mod files;
pub mod health;
pub mod human;
pub mod image_defaults;
pub mod inspect;
mod kill;
pub mod lifecycle;
mod links;
pub mod list;
pub mod logs;
pub mod mount_spec;
pub mod names;
pub mod oci;
pub(crate) mod pattern;
mod pause;
mod prune;
pub mod registry;
mod remove;
mod rename;
mod resize;
mod restart;
pub mod restart_policy;
pub(crate) mod root;
pub mod security;
pub mod spec;
mod start;
pub(crate) mod state_writer;
pub mod stats;
mod stop;
pub mod top;
mod tree;
pub mod user;
pub mod validate;
mod wait;

use actor::{Actor, Command, Reply};
use error::ContainerError;
pub(crate) use prune::until as prune_until;
use root::HeldRoot;
use spec::{ContainerSpec, Snapshot, State};
pub(crate) use start::published_ports;
pub use wait::WaitHandle;

/// The use cases of containers.
#[derive(Debug, Clone)]
pub struct ContainerService {
    pub(crate) core: Arc<Core>,
}

/// How `stop` and `restart` end a container.
#[derive(Debug, Clone, Default)]
pub struct StopOptions {
    /// Seconds before SIGKILL; negative: wait for ever; `None`: the container's or the daemon's.
    pub timeout: Option<i64>,
    /// Signal instead of the container's stop signal.
    pub signal: Option<String>,
}

/// How `remove` goes about it.
#[derive(Debug, Clone, Copy)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Also its anonymous volumes.
    pub volumes: bool,
    /// Only the legacy link of that name.
    pub link: bool,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run (now, or after the next exit).
    NotRunning,
    /// It exits the next time.
    NextExit,
    /// It is gone.
    Removed,
}

/// What `wait` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitResult {
    /// The exit code.
    pub status_code: i64,
    /// Why the wait ended otherwise.
    pub error: Option<String>,
}

/// What `list` shows.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// Only so many, newest first; implies `all`.
    pub limit: Option<usize>,
    /// With sizes of the writable layers.
    pub size: bool,
    /// Filters; keys of [`list::FILTERS`].
    pub filters: Filters,
}

/// One container: its published snapshot, its streams, and the way to its task.
#[derive(Debug)]
pub struct Container {
    id: ContainerId,
    pub(crate) published: watch::Sender<Arc<Snapshot>>,
    mailbox: mpsc::Sender<Command>,
    io: Arc<dyn Streams>,
    /// Held for reading by those who look at its files from outside, for writing while it starts.
    tree: Arc<RwLock<()>>,
    /// The root file system of the run that is on, or was the last.
    root: HeldRoot,
    /// What the running process was made from.
    pub(crate) oci: ArcSwapOption<Spec>,
}

impl Container {
    /// Makes the handle, starts the container's task and registers both. The name must be claimed.
    pub(crate) fn adopt(
        core: &Arc<Core>,
        spec: Arc<ContainerSpec>,
        name: &str,
        state: State,
        root: HeldRoot,
    ) -> Arc<Self> {
        let (mailbox, queue) = mpsc::channel(actor::QUEUE);
        let io = core.streams.make(&spec, name);
        let id = spec.id.clone();
        let snapshot = Snapshot { spec, name: name.into(), state, exits: 0, removed: false, removal_error: None };
        let published = watch::Sender::new(Arc::new(snapshot));
        let container =
            Arc::new(Self { id, published, mailbox, io, tree: Arc::default(), root, oci: ArcSwapOption::empty() });
        Actor::spawn(core.clone(), container.clone(), queue);
        core.containers.insert(container.clone());
        container
    }

    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its process, for the runtime.
    pub fn key(&self) -> ProcessKey {
        ProcessKey::Container(self.id.clone())
    }

    /// The newest snapshot; waits for nobody.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.borrow().clone()
    }

    /// Follows the snapshots.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.subscribe()
    }

    /// Its streams: one object for its whole life.
    pub fn io(&self) -> &Arc<dyn Streams> {
        &self.io
    }

    /// Keeps its files from being mounted twice.
    pub(crate) fn tree(&self) -> &Arc<RwLock<()>> {
        &self.tree
    }

    /// Its root file system while it runs and for a moment longer.
    pub(crate) fn root(&self) -> &HeldRoot {
        &self.root
    }

    /// The runtime it was made for.
    pub(crate) fn driver(&self, core: &Core) -> Result<Arc<dyn RuntimeDriver>, EngineError> {
        let snapshot = self.snapshot();
        let name = &snapshot.spec.host.runtime;
        core.driver(name).ok_or_else(|| create_error::CreateError::Runtime(name.clone()).into())
    }

    /// The specification its process was made from; built anew for one that outlived a daemon.
    pub(crate) fn oci_spec(&self, core: &Core) -> Result<Arc<Spec>, EngineError> {
        if let Some(spec) = self.oci.load_full() {
            return Ok(spec);
        }
        let spec = Arc::new(start::respecify(core, &self.snapshot())?);
        self.oci.store(Some(spec.clone()));
        Ok(spec)
    }

    /// Its root file system as a directory descriptor: the running process's view (with its volumes), or the writable
    /// layer mounted for this caller alone. Blocking.
    pub(crate) fn rootfs_tree(&self, core: &Core) -> Result<OwnedFd, EngineError> {
        let snapshot = self.snapshot();
        if snapshot.state.is_running() && snapshot.state.pid > 0 {
            let path = format!("/proc/{}/root", snapshot.state.pid);
            let dir = std::fs::File::open(&path).map_err(|e| EngineError::io(format!("open {path}"), e))?;
            return Ok(dir.into());
        }
        core.images.mount(&self.id)
    }

    /// Asks the container's task and waits for its answer.
    pub(super) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, EngineError> {
        let gone = || EngineError::from(ContainerError::Gone(self.id.clone()));
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Tells the container's task something that has no answer.
    pub(crate) async fn tell(&self, command: Command) -> Result<(), EngineError> {
        self.mailbox.send(command).await.map_err(|_| ContainerError::Gone(self.id.clone()).into())
    }

    /// Hands it the end of its process; never waits.
    pub(crate) fn deliver_exit(&self, exit: dockerd_runtime::ProcessExit) {
        if let Err(mpsc::error::TrySendError::Full(command)) = self.mailbox.try_send(Command::Exited(exit)) {
            let mailbox = self.mailbox.clone();
            tokio::spawn(async move { mailbox.send(command).await });
        }
    }

    /// Requests that wait for its task.
    pub(crate) fn queued(&self) -> usize {
        self.mailbox.max_capacity() - self.mailbox.capacity()
    }

    /// Who follows its snapshots.
    pub(crate) fn followers(&self) -> usize {
        self.published.receiver_count()
    }

    /// Publishes an event about it.
    pub(crate) fn publish_event(&self, events: &dyn Events, action: &str, extra: &[(&str, String)]) {
        let snapshot = self.snapshot();
        let mut attributes = snapshot.spec.config.labels.clone();
        attributes.insert("image".to_owned(), snapshot.spec.config.image.clone());
        attributes.insert("name".to_owned(), snapshot.name.to_string());
        attributes.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        events.publish(EventNote {
            kind: "container",
            action: action.to_owned(),
            actor: self.id.to_string(),
            attributes,
            time: Timestamp::now(),
        });
    }

    /// Publishes that its volumes are in use, or are not any more.
    pub(crate) fn volume_events(&self, events: &dyn Events, action: &str) {
        let snapshot = self.snapshot();
        for point in &snapshot.spec.mounts {
            let spec::MountPointKind::Volume { name, driver, .. } = &point.kind else { continue };
            let mut attributes =
                BTreeMap::from([("container".to_owned(), self.id.to_string()), ("driver".to_owned(), driver.clone())]);
            if action == "mount" {
                attributes.insert("destination".to_owned(), point.destination.clone());
                attributes.insert("propagation".to_owned(), point.propagation.clone());
                attributes.insert("read/write".to_owned(), (!point.read_only).to_string());
            }
            let (action, actor) = (action.to_owned(), name.clone());
            events.publish(EventNote { kind: "volume", action, actor, attributes, time: Timestamp::now() });
        }
    }

    /// Publishes that it joined or left a network.
    pub(crate) fn network_event(&self, events: &dyn Events, action: &str, endpoint: &EndpointState) {
        let kind = match endpoint.network_name.as_str() {
            "host" => "host",
            "none" => "null",
            _ => "bridge",
        };
        let attributes = BTreeMap::from([
            ("container".to_owned(), self.id.to_string()),
            ("name".to_owned(), endpoint.network_name.clone()),
            ("type".to_owned(), kind.to_owned()),
        ]);
        events.publish(EventNote {
            kind: "network",
            action: action.to_owned(),
            actor: endpoint.network_id.to_string(),
            attributes,
            time: Timestamp::now(),
        });
    }
}

impl ContainerService {
    /// Starts a container; NotModified when it runs.
    pub async fn start(&self, name: &str) -> Result<(), EngineError> {
        self.core.containers.find(name)?.ask(Command::Start).await
    }

    /// The processes of a container; `args` as for ps(1).
    pub async fn top(&self, name: &str, args: &str) -> Result<top::TopResult, EngineError> {
        let container = self.core.containers.find(name)?;
        let snapshot = container.snapshot();
        if snapshot.state.status == dockerd_types::container::Status::Restarting {
            return Err(ContainerError::Restarting(container.id.clone()).into());
        }
        if !snapshot.state.is_running() {
            return Err(ContainerError::NotRunning(container.id.clone()).into());
        }
        let driver = container.driver(&self.core)?;
        let (id, ps_args) = (container.id.clone(), args.to_owned());
        let table = tokio::task::spawn_blocking(move || {
            let pids = driver.pids(&id)?;
            top::table(&pids, &ps_args, Timestamp::now()).map_err(|e| EngineError::from(ContainerError::from(e)))
        });
        let table = table.await.unwrap_or_else(|panic| Err(ContainerError::Start(panic.to_string()).into()))?;
        container.publish_event(&*self.core.events, "top", &[]);
        Ok(table)
    }
}

#[cfg(test)]
mod tests;
