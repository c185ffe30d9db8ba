//! The runtime driver over an OCI runtime program.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dockerd_types::signal::Signal;
use dockerd_types::{ContainerId, Timestamp};
use oci_spec::runtime::{LinuxResources, Spec};
use tokio::net::UnixListener;

use super::bundle::{self, Bundle, ProcessFiles};
use super::command::{self, words};
use super::terminal;
use crate::cgroup::CgroupStats;
use crate::driver::{
    BoxFuture, ControlError, ExecRequest, LaunchError, LaunchRequest, Launched, PhaseTimings, ProcessIo, ProcessKey,
    RuntimeDriver, StdioRequest,
};
use crate::launch::build::FdSet;
use crate::runtimes::ExternalRuntime;
use crate::shared::{Running, Shared, make_streams, terminal_streams};
use crate::supervisor::protocol::{AdoptPlan, CommandPlan, Reply, Request};

/// Containers through one runtime program. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct ExternalDriver {
    runtime: Arc<ExternalRuntime>,
    /// Bundles, one directory each, beside the runtime's own state and the console sockets.
    dir: Arc<PathBuf>,
    shared: Arc<Shared>,
}

/// How long the terminal of a process may take to arrive once the runtime has ended well.
const TERMINAL_LIMIT: Duration = Duration::from_secs(5);
/// The runtime's own state, and the console sockets, in the driver's directory.
const STATE: &str = "state";
const CONSOLES: &str = "tty";

impl ExternalDriver {
    /// The driver of the runtime called `name`.
    pub(crate) fn new(name: &str, runtime: ExternalRuntime, shared: Arc<Shared>) -> io::Result<Self> {
        let dir = shared.exec_root.join("external").join(name);
        std::fs::create_dir_all(dir.join(STATE))?;
        std::fs::create_dir_all(dir.join(CONSOLES))?;
        Ok(Self { runtime: Arc::new(runtime), dir: Arc::new(dir), shared })
    }

    async fn start_container(self, request: LaunchRequest) -> Result<Launched, LaunchError> {
        let begun = Instant::now();
        if request.init {
            // Our init is code of the native launch, not a program that could be put into the container.
            return Err(LaunchError::InvalidSpec("--init needs the native runtime".to_owned()));
        }
        let LaunchRequest { id, spec, rootfs, netns, stdio, init: _ } = request;
        let bundle = self.bundle(&id);
        let files = bundle.files("init");
        let settled = bundle::settle(&spec, netns.as_ref(), stdio);
        let made = {
            let bundle = bundle.clone();
            blocking(move || bundle.make(&settled, &rootfs)).await
        };
        made.map_err(failed("bundle"))?;
        let verb = words([&"create", &"--bundle", &bundle.dir(), &"--pid-file", &files.pid]);
        let key = ProcessKey::Container(id.clone());
        let prepare = micros(begun);
        let mut result = self.launch(key, &files, stdio, verb, id.as_str()).await;
        // Only now may the network namespace's descriptor go: the runtime has opened it through /proc.
        drop(netns);
        if result.is_ok()
            && let Err(text) = self.control(words([&"start", &id.as_str()]), &files).await
        {
            result = Err(LaunchError::Runtime(text));
        }
        files.remove();
        match result {
            Ok(launched) => {
                if let Some(path) = cgroup_path(&spec) {
                    self.shared.set_cgroup(&id, path);
                }
                let timings = PhaseTimings { prepare, ..launched.timings };
                Ok(Launched { started_at: Timestamp::now(), timings, ..launched })
            }
            Err(error) => {
                if let Err(error) = self.clone().delete_container(id).await {
                    tracing::warn!(%error, "cannot clean up after a failed start");
                }
                Err(error)
            }
        }
    }

    async fn exec_process(self, request: ExecRequest) -> Result<Launched, LaunchError> {
        let begun = Instant::now();
        let ExecRequest { container, exec, mut process, spec: _, stdio } = request;
        let files = self.bundle(&container).files(exec.as_str());
        bundle::settle_process(&mut process, stdio);
        let path = files.process.clone();
        let written = blocking(move || std::fs::write(path, serde_json::to_vec(&process)?)).await;
        written.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LaunchError::NotRunning(container.clone()),
            _ => failed("process file")(error),
        })?;
        let verb = words([&"exec", &"--detach", &"--process", &files.process, &"--pid-file", &files.pid]);
        let key = ProcessKey::Exec(container.clone(), exec);
        let prepare = micros(begun);
        let result = self.launch(key, &files, stdio, verb, container.as_str()).await;
        files.remove();
        match result {
            Ok(launched) => Ok(Launched { timings: PhaseTimings { prepare, ..launched.timings }, ..launched }),
            Err(LaunchError::Runtime(text)) => Err(LaunchError::RuntimeExec(text)),
            Err(other) => Err(other),
        }
    }

    /// Runs the program that leaves a process behind, and gathers what the daemon gets of it.
    async fn launch(
        &self,
        key: ProcessKey,
        files: &ProcessFiles,
        stdio: StdioRequest,
        mut verb: Vec<String>,
        container: &str,
    ) -> Result<Launched, LaunchError> {
        let begun = Instant::now();
        let console = Console::open(stdio.tty, self.console(files)).map_err(failed("console socket"))?;
        if let Some(console) = &console {
            verb.extend(words([&"--console-socket", &console.path]));
        }
        verb.push(container.to_owned());
        let mut fds = FdSet::default();
        let (plan, mut io) = make_streams(stdio, &mut fds).map_err(failed("streams"))?;
        let mut places = plan.child;
        if stdio.tty {
            let output = fds.push(terminal::output(&files.printed).map_err(failed("output file"))?);
            places = [None, Some(output), Some(output)];
        }
        let pid_file = files.pid.to_string_lossy().into_owned();
        let adopt = AdoptPlan { key: key.clone(), pid_file, tty: stdio.tty, streams: plan.daemon };
        let (pid, pidfd) = match self.run(verb, files, places, Some(adopt), &fds.fds).await? {
            (Reply::Started { pid, .. }, Some(pidfd)) => (pid, pidfd),
            _ => return Err(LaunchError::Runtime(files.failure())),
        };
        let mut master = None;
        if let Some(console) = console {
            let received = console.master().await.map_err(failed("terminal"))?;
            io = self.hold(&key, &received).await?;
            master = Some(received);
        }
        let copy = pidfd.try_clone().map_err(failed("pidfd"))?;
        self.shared.insert(key, Running { pid, pidfd: Arc::new(copy), terminal: master });
        let timings = PhaseTimings { round_trip: micros(begun), ..PhaseTimings::default() };
        Ok(Launched { pid, pidfd, started_at: Timestamp::now(), io, timings })
    }

    /// Gives the supervisor its duplicates of a terminal; the daemon's.
    async fn hold(&self, key: &ProcessKey, master: &OwnedFd) -> Result<ProcessIo, LaunchError> {
        let io = terminal_streams(master).map_err(failed("terminal"))?;
        let request = Request::Hold { key: key.clone(), streams: [Some(0), Some(1), None] };
        let told = self.shared.client().tell(request, &[master.as_fd(), master.as_fd()]).await;
        told.map_err(|error| LaunchError::Supervisor(error.to_string()))?;
        Ok(io)
    }

    /// Has the supervisor run the program to its end: its answer, and the adopted process's pidfd.
    async fn run(
        &self,
        verb: Vec<String>,
        files: &ProcessFiles,
        stdio: [Option<u8>; 3],
        adopt: Option<AdoptPlan>,
        fds: &[OwnedFd],
    ) -> Result<(Reply, Option<OwnedFd>), LaunchError> {
        let argv = command::line(&self.runtime, &self.dir.join(STATE), &files.log, verb);
        let plan = CommandPlan { argv, env: command::environment(), cwd: "/".to_owned(), stdio, adopt };
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        match self.shared.client().ask(Request::Command(plan), &borrowed).await {
            Ok((Reply::Error(text), _)) => Err(LaunchError::Supervisor(text)),
            Ok((reply, received)) => Ok((reply, received.into_iter().next())),
            Err(error) => Err(LaunchError::Supervisor(error.to_string())),
        }
    }

    /// Runs a verb that only does something. The error is the runtime's own text.
    async fn control(&self, verb: Vec<String>, files: &ProcessFiles) -> Result<(), String> {
        let output = terminal::output(&files.printed).map_err(|error| error.to_string())?;
        match self.run(verb, files, [None, Some(0), Some(0)], None, &[output]).await {
            Ok((Reply::Ended(0), _)) => Ok(()),
            Ok(_) => Err(files.failure()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// As [`ExternalDriver::control`], with files of its own: verbs on one container may come at the same time.
    async fn verb(self, id: ContainerId, action: &'static str, verb: Vec<String>) -> Result<(), ControlError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let bundle = self.bundle(&id);
        if !bundle.dir().exists() {
            return Err(ControlError::NotRunning);
        }
        let files = bundle.files(&format!("{action}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let result = self.control(verb, &files).await;
        files.remove();
        match result {
            Ok(()) => Ok(()),
            Err(text) if ["not running", "does not exist", "no such process"].iter().any(|t| text.contains(t)) => {
                Err(ControlError::NotRunning)
            }
            Err(text) => Err(ControlError::Io { action, source: io::Error::other(text) }),
        }
    }

    async fn delete_container(self, id: ContainerId) -> Result<(), ControlError> {
        let bundle = self.bundle(&id);
        self.shared.remove(&ProcessKey::Container(id.clone()));
        if bundle.dir().exists() {
            let files = bundle.files("delete");
            if let Err(reason) = self.control(words([&"delete", &"--force", &id.as_str()]), &files).await {
                // A container the runtime does not know (it failed before, or was deleted) has nothing to give back.
                tracing::debug!(container = %id, reason, "runtime did not delete");
            }
            let removed = blocking(move || bundle.remove()).await;
            removed.map_err(|source| ControlError::Io { action: "remove bundle", source })?;
        }
        if let Some(path) = self.shared.forget_cgroup(&id) {
            // Mostly gone with the runtime's delete; a runtime that failed may have left it.
            self.shared.cgroups.remove_later(&path);
        }
        Ok(())
    }

    fn bundle(&self, id: &ContainerId) -> Bundle {
        Bundle::at(self.dir.join(id.as_str()))
    }

    /// Where the runtime sends a terminal. Addresses of sockets are short (107 bytes), so not in the bundle.
    fn console(&self, files: &ProcessFiles) -> PathBuf {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hash = DefaultHasher::new();
        files.console.hash(&mut hash);
        self.dir.join(CONSOLES).join(format!("{:016x}", hash.finish()))
    }
}

impl RuntimeDriver for ExternalDriver {
    fn reserve(&self, _: &ContainerId, path: &str, _: &LinuxResources) -> Result<(), LaunchError> {
        // The program makes the cgroup as its specification says; what the run before has left must not be taken for it.
        self.shared.cgroups.remove(path).map_err(|error| LaunchError::Cgroup(error.to_string()))
    }

    fn start(&self, request: LaunchRequest) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        Box::pin(self.clone().start_container(request))
    }

    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        Box::pin(self.clone().exec_process(request))
    }

    /// Signals for a container go through the runtime, which may have to pass them into a sandbox; what it says of
    /// them is only logged, since the caller does not wait. SIGKILL, and everything for an exec, goes straight to the
    /// process.
    fn signal(&self, key: &ProcessKey, signal: Signal) -> Result<(), ControlError> {
        let ProcessKey::Container(id) = key else { return self.shared.signal(key, signal) };
        if signal == Signal::KILL {
            return self.shared.signal(key, signal);
        }
        self.shared.pidfd(key).ok_or(ControlError::NotRunning)?;
        let verb = words([&"kill", &id.as_str(), &signal.number().to_string()]);
        let (driver, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            if let Err(error) = driver.verb(id.clone(), "kill", verb).await {
                tracing::warn!(container = %id, %error, "signal was not delivered");
            }
        });
        Ok(())
    }

    fn kill_all(&self, id: &ContainerId) -> Result<(), ControlError> {
        self.shared.kill_all(id)
    }

    fn resize(&self, key: &ProcessKey, height: u16, width: u16) -> Result<(), ControlError> {
        self.shared.resize(key, height, width)
    }

    fn close_stdin(&self, key: &ProcessKey) -> Result<(), ControlError> {
        self.shared.close_stdin(key)
    }

    fn pause(&self, id: &ContainerId) -> Result<(), ControlError> {
        wait(self.clone().verb(id.clone(), "pause", words([&"pause", &id.as_str()])))
    }

    fn resume(&self, id: &ContainerId) -> Result<(), ControlError> {
        wait(self.clone().verb(id.clone(), "resume", words([&"resume", &id.as_str()])))
    }

    fn pids(&self, id: &ContainerId) -> Result<Vec<i32>, ControlError> {
        self.shared.pids(id)
    }

    fn stats(&self, id: &ContainerId) -> Result<CgroupStats, ControlError> {
        self.shared.stats(id)
    }

    fn delete(&self, id: &ContainerId) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(self.clone().delete_container(id.clone()))
    }
}

/// A socket on which a terminal is to arrive. It listens before the runtime runs, which sends before it ends.
struct Console {
    path: PathBuf,
    arriving: tokio::task::JoinHandle<io::Result<OwnedFd>>,
}

impl Console {
    fn open(wanted: bool, path: PathBuf) -> io::Result<Option<Self>> {
        if !wanted {
            return Ok(None);
        }
        let arriving = tokio::spawn(terminal::master(UnixListener::bind(&path)?));
        Ok(Some(Self { path, arriving }))
    }

    async fn master(mut self) -> io::Result<OwnedFd> {
        match tokio::time::timeout(TERMINAL_LIMIT, &mut self.arriving).await {
            Ok(Ok(master)) => master,
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.arriving.abort();
        // A socket left behind would only be in the way of an exec of the same name, which cannot be.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn cgroup_path(spec: &Spec) -> Option<&str> {
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?.to_str()?;
    path.starts_with('/').then_some(path)
}

/// Waits for a short verb in a trait method that is not async. On a worker of the daemon's runtime, the worker's other
/// tasks move elsewhere meanwhile.
fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
}

/// Runs `work` where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |error| LaunchError::Runtime(format!("{what}: {error}"))
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}
