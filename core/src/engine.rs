//! The engine: its services, brought up over the parts it was given and taken down again.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use dockerd_runtime::{Adopted, BoxFuture, ProcessExit, ProcessKey, RuntimeDriver, Runtimes, Stored};
use dockerd_store::{Layout, RootLock};
use dockerd_types::ContainerId;
use tokio::sync::mpsc;

use crate::boot::{self, Parts};
use crate::config::EngineConfig;
use crate::container::ContainerService;
use crate::core::Core;
use crate::error::EngineError;
use crate::ports::{KeptDescriptors, RuntimeSet};
use crate::shutdown;

/// All services.
#[derive(Debug)]
pub struct Engine {
    /// Containers.
    pub containers: ContainerService,
    core: Arc<Core>,
    _lock: RootLock,
}

/// What the supervisor says at boot.
#[derive(Debug)]
pub struct Reports {
    /// Exits from now on.
    pub exits: mpsc::UnboundedReceiver<ProcessExit>,
    /// Processes that lived on while the daemon was away.
    pub adopted: Vec<Adopted>,
}

impl Engine {
    /// Takes the data root and makes its directories; the first step, before any part is opened. Blocking.
    pub fn claim(layout: &Layout) -> Result<RootLock, EngineError> {
        layout.create().map_err(|e| EngineError::io(format!("make {}", layout.data_root().display()), e))?;
        Ok(RootLock::take(&layout.lock_file()).and_then(|lock| lock.and(&layout.exec_lock_file()))?)
    }

    /// Brings the engine up over opened parts.
    pub async fn assemble(
        config: EngineConfig,
        layout: Layout,
        lock: RootLock,
        parts: Parts,
        reports: Reports,
    ) -> Result<Arc<Self>, EngineError> {
        let assembled = tokio::task::spawn_blocking(move || Core::assemble(config, layout, parts));
        let core = assembled.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        boot::restore(&core, reports.adopted).await?;
        tokio::spawn(boot::pump_exits(core.clone(), reports.exits));
        let containers = ContainerService { core: core.clone() };
        Ok(Arc::new(Self { containers, core, _lock: lock }))
    }

    /// What all services share, for services made outside this module.
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The end, as stock ends on SIGTERM: containers are stopped unless they may outlive the daemon.
    pub async fn shutdown(&self) {
        shutdown::shutdown(&self.core).await;
    }
}

impl RuntimeSet for Runtimes {
    fn driver(&self, name: &str) -> Option<Arc<dyn RuntimeDriver>> {
        // Docker's and our own name for the built-in one.
        let name = match name {
            crate::config::NATIVE_RUNTIME | "io.containerd.runc.v2" => dockerd_runtime::DEFAULT_RUNTIME,
            other => other,
        };
        Runtimes::driver(self, name)
    }

    fn restore(&self, id: &ContainerId, cgroup: &str) {
        Runtimes::restore(self, id, cgroup);
    }

    fn discard(&self, cgroup: &str) {
        self.cgroups().remove_later(cgroup);
    }

    fn sweep(&self, parent: &str) {
        if let Err(error) = self.cgroups().sweep(parent) {
            tracing::warn!(%error, "cgroups made ahead by an earlier daemon are left");
        }
    }

    fn drain(&self) {
        self.cgroups().drain();
    }

    fn settle(&self) {
        self.cgroups().settle();
    }

    fn acknowledge(&self, key: &ProcessKey) {
        Runtimes::acknowledge(self, key);
    }

    fn keep(&self, key: &ProcessKey, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        Runtimes::keep(self, key, descriptors).map_err(io::Error::other)
    }

    fn keep_streams(&self, key: &ProcessKey, streams: [Option<BorrowedFd<'_>>; 3]) -> io::Result<()> {
        Runtimes::keep_streams(self, key, streams).map_err(io::Error::other)
    }

    fn find_lost(&self, id: &ContainerId, cgroup: &str) -> Option<Adopted> {
        Runtimes::find_lost(self, id, cgroup)
    }
}

impl KeptDescriptors for Runtimes {
    fn store<'a>(
        &'a self,
        name: &'a str,
        note: &'a [u8],
        descriptors: &'a [BorrowedFd<'a>],
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { Runtimes::store(self, name, note, descriptors).await.map_err(io::Error::other) })
    }

    fn stored(&self) -> BoxFuture<'_, io::Result<Vec<Stored>>> {
        Box::pin(async { Runtimes::stored(self).await.map_err(io::Error::other) })
    }

    fn release<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { Runtimes::release(self, name).await.map_err(io::Error::other) })
    }

    fn replacements(&self) -> tokio::sync::watch::Receiver<u64> {
        Runtimes::replacements(self)
    }
}
