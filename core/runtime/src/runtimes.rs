//! All runtimes of one daemon: finds the supervisor, takes over what lives on, hands out drivers by name, and turns the
//! supervisor's reports into one stream of exits.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use dockerd_types::{ContainerId, Timestamp};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::cgroup::{CgroupDriver, CgroupError};
use crate::driver::{Adopted, ExitCode, ProcessExit, ProcessIo, ProcessKey, RuntimeDriver};
use crate::external::ExternalDriver;
use crate::launch::plan::FdIndex;
use crate::lost;
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

/// How long a description waits for the supervisor.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(2);

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

/// Descriptors that the supervisor keeps, and that belong to no process.
#[derive(Debug)]
pub struct Stored {
    /// By which they are known.
    pub name: String,
    /// What was given with them.
    pub note: Vec<u8>,
    /// Duplicates of them, in their order.
    pub descriptors: Vec<OwnedFd>,
}

/// The runtimes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtimes {
    shared: Arc<Shared>,
    drivers: Arc<RwLock<BTreeMap<String, Arc<dyn RuntimeDriver>>>>,
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
        Ok((Self { shared, drivers: Arc::new(RwLock::new(drivers)) }, exits, adopted))
    }

    /// The driver of that name.
    pub fn driver(&self, name: &str) -> Option<Arc<dyn RuntimeDriver>> {
        self.drivers().get(name).cloned()
    }

    fn drivers(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<dyn RuntimeDriver>>> {
        self.drivers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an external runtime, or takes another program for one. Containers that run keep what they were started
    /// with only as far as the runtime's state on disk goes, as with the stock daemon. Blocking.
    pub fn add(&self, name: &str, runtime: ExternalRuntime) -> Result<(), RuntimesError> {
        let driver = ExternalDriver::new(name, runtime, Arc::clone(&self.shared)).map_err(SupervisorError::Io)?;
        let mut drivers = self.drivers.write().unwrap_or_else(PoisonError::into_inner);
        drivers.insert(name.to_owned(), Arc::new(driver));
        Ok(())
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.drivers().keys().cloned().collect()
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
        if let Err(error) = self.shared.client().tell_now(Request::Acknowledge(key.clone()), &[]) {
            tracing::warn!(?key, %error, "exit could not be acknowledged");
        }
        table::forget_journal(&entry::journal_dir(&self.shared.exec_root), key);
    }

    /// Has the supervisor keep `descriptors` for the next daemon, which gets them with the process. Never waits.
    pub fn keep(&self, key: &ProcessKey, descriptors: &[BorrowedFd<'_>]) -> Result<(), SupervisorError> {
        self.shared.client().tell_now(Request::Keep(key.clone()), descriptors)
    }

    /// Has the supervisor keep duplicates of a process's streams. It does from the start; this is for one that has come
    /// in the place of another. Never waits.
    pub fn keep_streams(&self, key: &ProcessKey, streams: [Option<BorrowedFd<'_>>; 3]) -> Result<(), SupervisorError> {
        let mut places = [None; 3];
        let mut fds = Vec::new();
        for (place, fd) in places.iter_mut().zip(streams) {
            let Some(fd) = fd else { continue };
            *place = FdIndex::try_from(fds.len()).ok();
            fds.push(fd);
        }
        self.shared.client().tell_now(Request::Hold { key: key.clone(), streams: places }, &fds)
    }

    /// Has the supervisor keep duplicates of `descriptors` (1 to 16), which belong to no process, and a `note` (4096
    /// bytes at most) for the daemon that comes next, under a `name` (255 bytes at most; 4096 names), in the place of
    /// what was there. They are kept once this has returned, until they are released or the supervisor ends: it is lost
    /// ([`Runtimes::replacements`]), or [`Runtimes::shutdown_supervisor`] has ended it.
    pub async fn store(&self, name: &str, note: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), SupervisorError> {
        // So many cannot be sent; it says what the bounds are.
        let count = u8::try_from(descriptors.len()).unwrap_or(u8::MAX);
        let descriptors = if count == u8::MAX { &[] } else { descriptors };
        let request = Request::Store { name: name.to_owned(), note: note.to_vec(), count };
        done(self.shared.client().ask(request, descriptors).await?.0)
    }

    /// Everything that is stored, in the order of names, with duplicates of the descriptors.
    pub async fn stored(&self) -> Result<Vec<Stored>, SupervisorError> {
        let mut out = Vec::new();
        for (reply, descriptors) in self.shared.client().ask_all(Request::ListStored).await? {
            let Reply::Stored { name, note, count } = reply else {
                return Err(SupervisorError::Protocol(format!("{reply:?}")));
            };
            if descriptors.len() != usize::from(count) {
                // The limit of open files; who gets a part of them could do nothing with it.
                return Err(SupervisorError::Io(std::io::Error::other(format!("descriptors of {name:?} were lost"))));
            }
            out.push(Stored { name, note, descriptors });
        }
        Ok(out)
    }

    /// Has the supervisor give up what it keeps under `name`, if anything.
    pub async fn release(&self, name: &str) -> Result<(), SupervisorError> {
        done(self.shared.client().ask(Request::Release(name.to_owned()), &[]).await?.0)
    }

    /// Counts the supervisors that have come in the place of a lost one: who has given the old one something to keep
    /// gives it to the new one.
    pub fn replacements(&self) -> watch::Receiver<u64> {
        self.shared.replacements.subscribe()
    }

    /// Takes over a container's process that neither a supervisor nor its journal knows, by the container's cgroup: both
    /// daemon and supervisor were killed. Its output is lost and its exit code will be. Blocking.
    pub fn find_lost(&self, id: &ContainerId, cgroup_path: &str) -> Option<Adopted> {
        let (pid, pidfd) = lost::first_process(&self.shared.cgroups, cgroup_path)?;
        let key = ProcessKey::Container(id.clone());
        let adopt = Request::Adopt { key: key.clone(), pid, tty: false };
        if let Err(error) = self.shared.client().tell_now(adopt, &[pidfd.as_fd()]) {
            tracing::warn!(container = %id, %error, "process cannot be watched");
            return None;
        }
        let copy = pidfd.try_clone().ok()?;
        self.shared.insert(key.clone(), Running { pid, pidfd: Arc::new(copy), terminal: None });
        Some(Adopted { key, pid, pidfd: Some(pidfd), io: ProcessIo::default(), tty: false, exited: None })
    }

    /// Has the supervisor go on as `program`, its processes kept, as it does by itself for a daemon of another version.
    pub async fn renew_supervisor(&self, program: &Path) -> Result<(), SupervisorError> {
        self.shared.client().upgrade(program).await
    }

    /// The supervisor's side of things, for people.
    pub async fn describe(&self) -> String {
        use std::fmt::Write;
        let client = self.shared.client();
        let mut out = format!("supervisor: {} requests without an answer\n", client.unanswered());
        let asked = tokio::time::timeout(DESCRIBE_LIMIT, async {
            let hello = client.ask(Request::Hello, &[]).await?;
            Ok::<_, SupervisorError>((
                hello.0,
                client.ask_all(Request::List).await?,
                client.ask_all(Request::ListStored).await?,
            ))
        });
        let (hello, processes, stored) = match asked.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return format!("{out}it does not answer: {error}\n"),
            Err(_) => return format!("{out}it does not answer\n"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{hello:?}, {} processes", processes.len());
        for (reply, fds) in processes {
            if let Reply::Process { key, pid, tty, exited, .. } = reply {
                let _ = writeln!(out, "{key:?} pid {pid} tty {tty} descriptors {} ended {exited:?}", fds.len());
            }
        }
        for (reply, fds) in stored {
            if let Reply::Stored { name, .. } = reply {
                let _ = writeln!(out, "stored {name:?} descriptors {}", fds.len());
            }
        }
        out
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

fn done(reply: Reply) -> Result<(), SupervisorError> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Error(text) => Err(SupervisorError::Refused(text)),
        other => Err(SupervisorError::Protocol(format!("{other:?}"))),
    }
}

async fn adopt(shared: &Shared) -> Result<Vec<Adopted>, RuntimesError> {
    let mut out = Vec::new();
    for (reply, fds) in shared.client().ask_all(Request::List).await? {
        let Reply::Process { key, pid, tty, streams, exited } = reply else { continue };
        let mut fds = fds.into_iter();
        let pidfd = if exited.is_none() { fds.next() } else { None };
        let mut next = |present: bool| if present { fds.next() } else { None };
        let (stdin, stdout, stderr) = (next(streams[0]), next(streams[1]), next(streams[2]));
        let io = ProcessIo { stdin, stdout, stderr, kept: fds.collect() };
        if let Some(copy) = pidfd.as_ref().and_then(|fd| fd.try_clone().ok()) {
            let terminal = io.stdout.as_ref().filter(|_| tty).and_then(|fd| fd.try_clone().ok());
            shared.insert(key.clone(), Running { pid, pidfd: Arc::new(copy), terminal });
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
        let mut lost = SupervisorError::Lost;
        // One that is dying still accepts connections for a moment; each try ends with its answer or its end.
        for _ in 0..REPLACE_TRIES {
            let (sender, raw) = mpsc::unbounded_channel();
            match Client::open(&self.shared.exec_root, &self.program, sender).await {
                Ok(client) => {
                    self.hand_over(&client);
                    self.shared.replace_client(client);
                    self.shared.replacements.send_modify(|count| *count += 1);
                    return Some(raw);
                }
                Err(error) => lost = error,
            }
            tokio::time::sleep(REPLACE_PAUSE).await;
        }
        tracing::error!(error = %lost, "no new supervisor could be started");
        for (key, _, pidfd) in self.shared.running() {
            tokio::spawn(watch_orphan(Arc::clone(&self.shared), key, pidfd, self.exits.clone()));
        }
        None
    }

    /// Lets a new supervisor watch what runs, so that the next daemon hears of it.
    fn hand_over(&self, client: &Client) {
        for (key, pid, pidfd) in self.shared.running() {
            let tty = self.shared.has_terminal(&key);
            let adopt = Request::Adopt { key: key.clone(), pid, tty };
            if let Err(error) = client.tell_now(adopt, &[pidfd.as_fd()]) {
                tracing::warn!(?key, %error, "process cannot be handed to the new supervisor");
                tokio::spawn(watch_orphan(Arc::clone(&self.shared), key, pidfd, self.exits.clone()));
            }
        }
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
