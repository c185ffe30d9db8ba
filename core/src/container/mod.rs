//! Containers: the service with one method per Docker verb, the handle each container has, and the words the verbs take.
//! The files are named after the verbs. What may run when is decided in `lifecycle.rs`, by the container's own task
//! (`actor.rs`); readers see published snapshots and wait for nobody.

use std::sync::Arc;

use dockerd_types::container::{CreateContainer, Created};
use dockerd_types::{ContainerId, Filters};
use tokio::sync::watch;

use crate::core::Core;
use crate::error::EngineError;

pub mod create_error;
pub mod error;
pub mod image_defaults;
pub mod lifecycle;
pub mod mount_spec;
pub mod names;
pub mod oci;
pub mod restart_policy;
pub mod security;
pub mod spec;
pub mod validate;

use spec::Snapshot;

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
    /// Filters; keys of `list::FILTERS`.
    pub filters: Filters,
}

/// One container: its published snapshot and the way to its task.
#[derive(Debug)]
pub struct Container {
    id: ContainerId,
    published: watch::Sender<Arc<Snapshot>>,
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The newest snapshot; waits for nobody.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.borrow().clone()
    }

    /// Follows the snapshots.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.subscribe()
    }
}

impl ContainerService {
    /// Makes a container; see `create.rs`.
    pub async fn create(&self, request: CreateContainer) -> Result<Created, EngineError> {
        let _ = (&self.core, request);
        Err(EngineError::NotBuilt("create"))
    }

    /// Starts it.
    pub async fn start(&self, name: &str) -> Result<(), EngineError> {
        let _ = name;
        Err(EngineError::NotBuilt("start"))
    }

    /// Ends its process, politely first.
    pub async fn stop(&self, name: &str, options: StopOptions) -> Result<(), EngineError> {
        let _ = (name, options);
        Err(EngineError::NotBuilt("stop"))
    }

    /// Stops and starts it.
    pub async fn restart(&self, name: &str, options: StopOptions) -> Result<(), EngineError> {
        let _ = (name, options);
        Err(EngineError::NotBuilt("restart"))
    }

    /// Sends a signal; `None` is SIGKILL.
    pub async fn kill(&self, name: &str, signal: Option<&str>) -> Result<(), EngineError> {
        let _ = (name, signal);
        Err(EngineError::NotBuilt("kill"))
    }

    /// Freezes it.
    pub async fn pause(&self, name: &str) -> Result<(), EngineError> {
        let _ = name;
        Err(EngineError::NotBuilt("pause"))
    }

    /// Thaws it.
    pub async fn unpause(&self, name: &str) -> Result<(), EngineError> {
        let _ = name;
        Err(EngineError::NotBuilt("unpause"))
    }

    /// Removes it.
    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<(), EngineError> {
        let _ = (name, options);
        Err(EngineError::NotBuilt("remove"))
    }

    /// Gives it another name.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<(), EngineError> {
        let _ = (name, new_name);
        Err(EngineError::NotBuilt("rename"))
    }

    /// Registers the wait before it returns; the handle's `result()` is the waiting itself.
    pub fn wait(&self, name: &str, condition: WaitCondition) -> Result<WaitHandle, EngineError> {
        let _ = (name, condition);
        Err(EngineError::NotBuilt("wait"))
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, name: &str, height: u16, width: u16) -> Result<(), EngineError> {
        let _ = (name, height, width);
        Err(EngineError::NotBuilt("resize"))
    }
}

/// A registered wait.
#[derive(Debug)]
pub struct WaitHandle {
    _receiver: watch::Receiver<Arc<Snapshot>>,
}

impl WaitHandle {
    /// Waits until the condition holds.
    pub async fn result(self) -> WaitResult {
        WaitResult { status_code: 0, error: None }
    }
}
