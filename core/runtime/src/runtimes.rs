//! All runtimes of one daemon: finds the supervisor, takes over what lives on, hands out drivers by name, and turns the
//! supervisor's reports into one stream of exits.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dockerd_types::{ContainerId, Timestamp};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::cgroup::{CgroupDriver, CgroupError};
use crate::driver::{Adopted, ExitCode, ProcessExit, ProcessIo, ProcessKey, RuntimeDriver};
use crate::external::ExternalDriver;
use crate::native::NativeDriver;
use crate::shared::{Running, Shared};
use crate::supervisor::client::{Client, SupervisorError};
use crate::supervisor::protocol::{Reply, Request};
use crate::supervisor::{entry, table};

/// The name clients know the default runtime by.
pub const DEFAULT_RUNTIME: &str = "runc";

/// How often a new supervisor is tried for when the old one is lost, and the pause between (2 s in all).
const REPLACE_TRIES: u32 = 100;
const REPLACE_PAUSE: Duration = Duration::from_millis(20);

/// What [`Runtimes::open`] needs to know.
#[derive(Debug, Clone)]
pub struct RuntimesConfig {
    /// `--exec-root`; must exist.
    pub exec_root: PathBuf,
    /// Our own program, which has the `supervisor` mode.
    pub program: PathBuf,
    /// `--add-runtime`, by name.
    pub external: BTreeMap<String, ExternalRuntime>,
}

/// An OCI runtime on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalRuntime {
    /// Its program.
    pub path: PathBuf,
    /// Arguments before the verb.
    pub args: Vec<String>,
}

/// Why the runtimes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimesError {
    /// No supervisor.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// No cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// The runtimes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtimes {
    shared: Arc<Shared>,
    drivers: Arc<BTreeMap<String, Arc<dyn RuntimeDriver>>>,
}

/// Exits of processes, in the order they were collected.
pub type Exits = mpsc::UnboundedReceiver<ProcessExit>;

impl Runtimes {
    /// Connects to the supervisor, which is started where there is none, and takes over what it watches.
    pub async fn open(config: RuntimesConfig) -> Result<(Self, Exits, Vec<Adopted>), RuntimesError> {
        let cgroups = CgroupDriver::detect()?;
        let (raw_sender, raw) = mpsc::unbounded_channel();
        let client = Client::open(&config.exec_root, &config.program, raw_sender).await?;
        let shared = Arc::new(Shared::new(client, cgroups, config.exec_root.clone()));
        let adopted = adopt(&shared).await?;
        let mut drivers: BTreeMap<String, Arc<dyn RuntimeDriver>> = BTreeMap::new();
        drivers.insert(DEFAULT_RUNTIME.to_owned(), Arc::new(NativeDriver::new(Arc::clone(&shared))));
        for (name, runtime) in config.external {
            let driver = ExternalDriver::new(&name, runtime, Arc::clone(&shared)).map_err(SupervisorError::Io)?;
            drivers.insert(name, Arc::new(driver));
        }
        let (sender, exits) = mpsc::unbounded_channel();
        let pump = Pump { shared: Arc::clone(&shared), program: config.program, exits: sender };
        tokio::spawn(pump.run(raw));
        Ok((Self { shared, drivers: Arc::new(drivers) }, exits, adopted))
    }

    /// The driver of that name.
    pub fn driver(&self, name: &str) -> Option<Arc<dyn RuntimeDriver>> {
        self.drivers.get(name).cloned()
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.drivers.keys().cloned().collect()
    }

    /// The cgroups of this host.
    pub fn cgroups(&self) -> &CgroupDriver {
        &self.shared.cgroups
    }

    /// Tells the cgroup of a container that lived on while the daemon was away.
    pub fn restore(&self, id: &ContainerId, cgroup_path: &str) {
        self.shared.set_cgroup(id, cgroup_path);
    }

    /// The exit of `key` is durably on record; the supervisor may forget it.
    pub fn acknowledge(&self, key: &ProcessKey) {
        if let Err(error) = self.shared.client().tell_now(Request::Acknowledge(key.clone())) {
            tracing::warn!(?key, %error, "exit could not be acknowledged");
        }
        table::forget_journal(&entry::journal_dir(&self.shared.exec_root), key);
    }

    /// Ends the supervisor, which refuses while processes run.
    pub async fn shutdown_supervisor(&self) -> Result<(), SupervisorError> {
        self.shared.ending.store(true, Ordering::Release);
        match self.shared.client().ask(Request::Shutdown, &[]).await {
            Ok((Reply::Error(text), _)) => {
                self.shared.ending.store(false, Ordering::Release);
                Err(SupervisorError::Refused(text))
            }
            // It may be gone before its answer is.
            Ok(_) | Err(SupervisorError::Lost) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

async fn adopt(shared: &Shared) -> Result<Vec<Adopted>, RuntimesError> {
    let mut out = Vec::new();
    for (reply, fds) in shared.client().list().await? {
        let Reply::Process { key, pid, tty, streams, exited } = reply else { continue };
        let mut fds = fds.into_iter();
        let pidfd = if exited.is_none() { fds.next() } else { None };
        let mut next = |present: bool| if present { fds.next() } else { None };
        let io = ProcessIo { stdin: next(streams[0]), stdout: next(streams[1]), stderr: next(streams[2]) };
        if let Some(copy) = pidfd.as_ref().and_then(|fd| fd.try_clone().ok()) {
            let terminal = io.stdout.as_ref().filter(|_| tty).and_then(|fd| fd.try_clone().ok());
            shared.insert(key.clone(), Running { pidfd: Arc::new(copy), terminal });
        }
        out.push(Adopted { key, pid, pidfd, io, tty, exited });
    }
    for exit in table::read_journal(&entry::journal_dir(&shared.exec_root)) {
        if out.iter().all(|adopted| adopted.key != exit.key) {
            let io = ProcessIo::default();
            out.push(Adopted { key: exit.key.clone(), pid: 0, pidfd: None, io, tty: false, exited: Some(exit) });
        }
    }
    Ok(out)
}

/// Turns the supervisor's reports into exits, and stands in for a supervisor that is lost.
struct Pump {
    shared: Arc<Shared>,
    program: PathBuf,
    exits: mpsc::UnboundedSender<ProcessExit>,
}

impl Pump {
    async fn run(self, mut raw: mpsc::UnboundedReceiver<Option<ProcessExit>>) {
        loop {
            match raw.recv().await {
                Some(Some(exit)) => self.forward(exit),
                Some(None) | None if self.exits.is_closed() || self.shared.ending.load(Ordering::Acquire) => return,
                Some(None) | None => match self.replace_supervisor().await {
                    Some(next) => raw = next,
                    None => return,
                },
            }
        }
    }

    fn forward(&self, mut exit: ProcessExit) {
        if let ProcessKey::Container(id) = &exit.key {
            exit.oom_killed = self.shared.cgroup(id).is_some_and(|path| self.shared.cgroups.oom_kills(&path) > 0);
        }
        self.shared.remove(&exit.key);
        drop(self.exits.send(exit));
    }

    async fn replace_supervisor(&self) -> Option<mpsc::UnboundedReceiver<Option<ProcessExit>>> {
        tracing::error!("the supervisor is gone; containers live on, their exit codes will be unknown");
        for (key, pidfd) in self.shared.running() {
            tokio::spawn(watch_orphan(Arc::clone(&self.shared), key, pidfd, self.exits.clone()));
        }
        let mut lost = SupervisorError::Lost;
        // One that is dying still accepts connections for a moment; each try ends with its answer or its end.
        for _ in 0..REPLACE_TRIES {
            let (sender, raw) = mpsc::unbounded_channel();
            match Client::open(&self.shared.exec_root, &self.program, sender).await {
                Ok(client) => {
                    self.shared.replace_client(client);
                    return Some(raw);
                }
                Err(error) => lost = error,
            }
            tokio::time::sleep(REPLACE_PAUSE).await;
        }
        tracing::error!(error = %lost, "no new supervisor could be started");
        None
    }
}

/// Waits for the end of a process whose parent is gone; its code cannot be known.
async fn watch_orphan(
    shared: Arc<Shared>,
    key: ProcessKey,
    pidfd: Arc<OwnedFd>,
    exits: mpsc::UnboundedSender<ProcessExit>,
) {
    let Ok(copy) = pidfd.try_clone() else { return };
    #[allow(
        deprecated,
        reason = "its successor is unsafe; the descriptor is owned by the AsyncFd alone and never replaced"
    )]
    let Ok(watched) = AsyncFd::with_interest(copy, Interest::READABLE) else { return };
    if watched.readable().await.is_ok() {
        shared.remove(&key);
        let exit = ProcessExit { key, code: ExitCode::Unknown, at: Timestamp::now(), oom_killed: false };
        drop(exits.send(exit));
    }
}

/// Our own program, as the supervisor is to be started from: the running binary even if its file was replaced.
pub fn own_program() -> &'static Path {
    Path::new("/proc/self/exe")
}
