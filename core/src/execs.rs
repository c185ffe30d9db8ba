//! `docker exec`: registered first, started later, kept for a while after its end, so that its exit code can be asked for:
//! also when it was the exec that ended the container.

mod probe;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dockerd_runtime::{BoxFuture, ExecRequest, ExitCode, LaunchError, ProcessExit, ProcessKey, StdioRequest};
use dockerd_types::container::Status;
use dockerd_types::{ContainerId, ErrorKind, ExecId, Kinded};
use oci_spec::runtime::{LinuxCapabilitiesBuilder, Process};
use tokio::sync::watch;

use crate::container::attach::{AttachSession, InputOrder, input_task};
use crate::container::detach_keys::DetachKeys;
use crate::container::error::ContainerError;
use crate::container::health::ProbeResult;
use crate::container::{Container, oci, user};
use crate::core::Core;
use crate::error::EngineError;
use crate::ports::Execs;
use crate::streams::ProcessStreams;

/// How long the end of an exec waits for its output.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// How long a resize waits for the start, as in Docker.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long an exec that has ended is kept. Its client asks for the exit code at once.
const KEPT: Duration = Duration::from_secs(300);
/// How often those kept long enough are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// What a client asks to run.
#[derive(Debug, Clone, Default)]
pub struct ExecConfig {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// `user[:group]`; empty: the container's.
    pub user: String,
    /// All capabilities.
    pub privileged: bool,
    /// On a terminal.
    pub tty: bool,
    /// Standard input is attached.
    pub attach_stdin: bool,
    /// Standard output is attached.
    pub attach_stdout: bool,
    /// Standard error is attached.
    pub attach_stderr: bool,
    /// Keys that detach.
    pub detach_keys: String,
    /// More environment.
    pub env: Vec<String>,
    /// Working directory; empty: the container's.
    pub working_dir: String,
    /// Initial size of the terminal.
    pub console_size: Option<(u16, u16)>,
}

/// What inspect shows of an exec.
#[derive(Debug, Clone)]
pub struct ExecInspect {
    /// Its id.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// What was asked.
    pub config: ExecConfig,
    /// The keys that detach as bytes; none where none were asked for.
    pub detach_keys: Vec<u8>,
    /// Whether it runs.
    pub running: bool,
    /// Its process, while and after it runs.
    pub pid: i32,
    /// Its exit code, once it has ended.
    pub exit_code: Option<i32>,
}

/// What can go wrong with an exec; Docker's words.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// No such exec.
    #[error("No such exec instance: {0}")]
    NotFound(String),
    /// It was started before.
    #[error("exec command {0} is already running")]
    Running(ExecId),
    /// It has ended.
    #[error("exec command {0} has already run")]
    HasRun(ExecId),
    /// Nothing to run.
    #[error("No exec command specified")]
    NoCommand,
    /// No such keys.
    #[error("Invalid escape keys ({0}) provided")]
    DetachKeys(String),
    /// The user is not known there.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// Not an absolute path.
    #[error("OCI runtime exec failed: exec failed: Cwd must be an absolute path")]
    WorkingDir,
    /// It was not started.
    #[error("timeout waiting for exec session ready")]
    NotReady,
    /// It could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

impl Kinded for ExecError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Running(_) | Self::HasRun(_) => ErrorKind::Conflict,
            // The stock daemon does not take these for the client's fault.
            Self::DetachKeys(_) | Self::WorkingDir | Self::NotReady => ErrorKind::System,
            Self::NoCommand | Self::User(_) => ErrorKind::InvalidArgument,
            Self::Launch(error) => error.kind(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    started: bool,
    pid: i32,
    /// Its exit has come and waits for its output.
    exiting: bool,
    exit_code: Option<i32>,
    ended_at: Option<Instant>,
}

#[derive(Debug)]
struct Exec {
    id: ExecId,
    container: Arc<Container>,
    config: ExecConfig,
    keys: DetachKeys,
    streams: Arc<ProcessStreams>,
    progress: watch::Sender<Progress>,
}

impl Exec {
    fn ended(&self) -> bool {
        self.progress.borrow().exit_code.is_some()
    }
}

/// The register of execs, which the containers' fate touches.
#[derive(Debug, Default)]
pub struct ExecTable {
    execs: Mutex<HashMap<ExecId, Arc<Exec>>>,
    swept: Mutex<Option<Instant>>,
    /// Set once, when the service is made: the core, and this table itself.
    core: OnceLock<(std::sync::Weak<Core>, std::sync::Weak<ExecTable>)>,
}

impl ExecTable {
    fn map(&self) -> MutexGuard<'_, HashMap<ExecId, Arc<Exec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets those that ended long ago.
    fn sweep(&self) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if swept.is_some_and(|at| now.duration_since(at) < SWEEP) {
            return;
        }
        *swept = Some(now);
        let kept = |exec: &Exec| exec.progress.borrow().ended_at.is_none_or(|at| now.duration_since(at) < KEPT);
        self.map().retain(|_, exec| kept(exec));
    }

    fn core(&self) -> Option<Arc<Core>> {
        self.core.get().and_then(|(core, _)| core.upgrade())
    }

    fn service(&self) -> Option<ExecService> {
        let (core, table) = self.core.get()?;
        Some(ExecService { core: core.upgrade()?, table: table.upgrade()? })
    }
}

impl Execs for ExecTable {
    fn exited(&self, exit: ProcessExit) {
        let ProcessKey::Exec(_, id) = &exit.key else { return };
        let Some(exec) = self.map().get(id).cloned() else { return };
        exec.progress.send_modify(|progress| progress.exiting = true);
        let core = self.core();
        tokio::spawn(async move {
            exec.streams.wait_drained(DRAIN_LIMIT).await;
            ended(&exec, core.as_deref(), exit.code);
        });
    }

    fn container_ended(&self, id: &ContainerId) {
        let of_container = |exec: &&Arc<Exec>| exec.container.id() == id;
        let execs: Vec<Arc<Exec>> = self.map().values().filter(of_container).cloned().collect();
        for exec in execs {
            let Progress { started, exiting, exit_code, .. } = *exec.progress.borrow();
            // One that ended before has its own code.
            if started && !exiting && exit_code.is_none() {
                ended(&exec, None, ExitCode::Signaled(9));
            }
        }
    }

    fn container_removed(&self, id: &ContainerId) {
        self.map().retain(|_, exec| exec.container.id() != id);
    }

    fn probe(&self, id: &ContainerId, command: Vec<String>, limit: Duration) -> BoxFuture<'_, ProbeResult> {
        let id = id.clone();
        Box::pin(async move {
            match self.service() {
                Some(service) => probe::run(&service, &id, command, limit).await,
                None => ProbeResult::not_run("the daemon is going down"),
            }
        })
    }

    fn of_container(&self, id: &ContainerId) -> Vec<ExecId> {
        let mut ids: Vec<ExecId> = self
            .map()
            .values()
            .filter(|exec| exec.container.id() == id && !exec.ended())
            .map(|exec| exec.id.clone())
            .collect();
        ids.sort();
        ids
    }
}

fn ended(exec: &Exec, core: Option<&Core>, code: ExitCode) {
    exec.progress.send_modify(|progress| {
        progress.exit_code = Some(code.as_docker());
        progress.ended_at = Some(Instant::now());
    });
    exec.streams.finish();
    if let Some(core) = core {
        let attributes = [("execID", exec.id.to_string()), ("exitCode", code.as_docker().to_string())];
        exec.container.publish_event(&*core.events, "exec_die", &attributes);
    }
}

/// The use cases of execs.
#[derive(Debug, Clone)]
pub struct ExecService {
    pub(crate) core: Arc<Core>,
    pub(crate) table: Arc<ExecTable>,
}

/// `exec_create: PROGRAM ARGUMENTS`, with the stock daemon's space behind a program without arguments.
fn command_action(verb: &str, cmd: &[String]) -> String {
    let (program, arguments) = cmd.split_first().map_or(("", &[][..]), |(program, rest)| (program.as_str(), rest));
    format!("{verb}: {program} {}", arguments.join(" "))
}

impl ExecService {
    pub(crate) fn new(core: Arc<Core>, table: Arc<ExecTable>) -> Self {
        let _ = table.core.set((Arc::downgrade(&core), Arc::downgrade(&table)));
        Self { core, table }
    }

    fn find(&self, id: &str) -> Result<Arc<Exec>, EngineError> {
        let not_found = || EngineError::module(ExecError::NotFound(id.to_owned()));
        // Only the whole id counts, as under Docker.
        let id = ExecId::parse(id).map_err(|_| not_found())?;
        self.table.map().get(&id).cloned().ok_or_else(not_found)
    }

    /// Registers an exec in a running container.
    pub async fn create(&self, name: &str, config: ExecConfig) -> Result<ExecId, EngineError> {
        let container = self.core.containers.find(name)?;
        running(&container, Some(name))?;
        if config.cmd.is_empty() {
            return Err(EngineError::module(ExecError::NoCommand));
        }
        let keys = DetachKeys::parse(&config.detach_keys)
            .map_err(|_| EngineError::module(ExecError::DetachKeys(config.detach_keys.clone())))?;
        if !config.user.is_empty() {
            let (container, core, user) = (container.clone(), self.core.clone(), config.user.clone());
            crate::image::blocking(move || resolve_user(&container, &core, &user)).await??;
        }
        let id = loop {
            if let Some(id) = ExecId::from_random(crate::container::names::random()) {
                break id;
            }
        };
        let extra = [("execID", id.to_string())];
        let action = command_action("exec_create", &config.cmd);
        container.publish_event(&*self.core.events, &action, &extra);
        self.table.sweep();
        let streams = ProcessStreams::new(config.tty, None, None);
        let exec = Exec { id: id.clone(), container, config, keys, streams, progress: watch::Sender::default() };
        self.table.map().insert(id.clone(), Arc::new(exec));
        Ok(id)
    }

    /// Whether an exec is there, in a container that runs.
    pub fn check(&self, id: &str) -> Result<(), EngineError> {
        running(&self.find(id)?.container, None)
    }

    /// Starts an exec; a session unless it is to run detached.
    pub async fn start(
        &self,
        id: &str,
        detach: bool,
        console_size: Option<(u16, u16)>,
    ) -> Result<Option<AttachSession>, EngineError> {
        let exec = self.find(id)?;
        running(&exec.container, None)?;
        let mut refused = None;
        exec.progress.send_if_modified(|progress| {
            if progress.started {
                let ended = progress.exit_code.is_some();
                refused =
                    Some(if ended { ExecError::HasRun(exec.id.clone()) } else { ExecError::Running(exec.id.clone()) });
            }
            !std::mem::replace(&mut progress.started, true)
        });
        if let Some(error) = refused {
            return Err(EngineError::module(error));
        }
        let attached = !detach && (exec.config.attach_stdout || exec.config.attach_stderr || exec.config.attach_stdin);
        let output = attached.then(|| exec.streams.subscribe());
        let action = command_action("exec_start", &exec.config.cmd);
        exec.container.publish_event(&*self.core.events, &action, &[("execID", exec.id.to_string())]);
        if let Err(error) = self.launch(&exec, console_size).await {
            failed(&exec, &error);
            return Err(error);
        }
        let Some(output) = output else { return Ok(None) };
        let input = if exec.config.attach_stdin {
            let driver = exec.container.driver(&self.core)?;
            let key = ProcessKey::Exec(exec.container.id().clone(), exec.id.clone());
            let (events, who) = (self.core.events.clone(), exec.clone());
            let told = move || {
                who.container.publish_event(&*events, "exec_detach", &[("execID", who.id.to_string())]);
            };
            let order = InputOrder { driver, key, once: true, keys: exec.keys.clone(), detached: Box::new(told) };
            Some(input_task(exec.streams.clone(), order))
        } else {
            None
        };
        Ok(Some(AttachSession { tty: exec.config.tty, output, input }))
    }

    async fn launch(&self, exec: &Exec, console_size: Option<(u16, u16)>) -> Result<(), EngineError> {
        let spec = exec.container.oci_spec(&self.core)?;
        let base = spec.process().clone().unwrap_or_default();
        let process = process_of(exec, &self.core, base)?;
        let size = console_size.or(exec.config.console_size);
        let stdio = StdioRequest { tty: exec.config.tty, stdin: exec.config.attach_stdin, console_size: size };
        let container = exec.container.id().clone();
        let request = ExecRequest { container, exec: exec.id.clone(), process, spec, stdio };
        let driver = exec.container.driver(&self.core)?;
        let launched = driver.exec(request).await.map_err(|error| EngineError::module(ExecError::Launch(error)))?;
        exec.progress.send_modify(|progress| progress.pid = launched.pid);
        exec.streams.connect(launched.io).map_err(|error| EngineError::io("connect exec streams", error))
    }

    /// Sets the size of an exec's terminal. Clients ask for it as soon as they have asked for the start, so this waits for
    /// the start to be over.
    pub async fn resize(&self, id: &str, height: u16, width: u16) -> Result<(), EngineError> {
        let exec = self.find(id)?;
        let mut progress = exec.progress.subscribe();
        let begun = progress.wait_for(|progress| progress.pid != 0 || progress.exit_code.is_some());
        let begun = tokio::time::timeout(START_LIMIT, begun).await;
        if begun.is_err() {
            return Err(EngineError::module(ExecError::NotReady));
        }
        let key = ProcessKey::Exec(exec.container.id().clone(), exec.id.clone());
        Ok(exec.container.driver(&self.core)?.resize(&key, height, width)?)
    }

    /// What is known of an exec.
    pub fn inspect(&self, id: &str) -> Result<ExecInspect, EngineError> {
        let exec = self.find(id)?;
        let progress = *exec.progress.borrow();
        Ok(ExecInspect {
            id: exec.id.clone(),
            container: exec.container.id().clone(),
            config: exec.config.clone(),
            detach_keys: if exec.config.detach_keys.is_empty() { Vec::new() } else { exec.keys.bytes().to_vec() },
            running: progress.started && progress.exit_code.is_none(),
            pid: progress.pid,
            exit_code: progress.exit_code,
        })
    }
}

/// `name` is what the client called it.
fn running(container: &Container, name: Option<&str>) -> Result<(), EngineError> {
    let id = container.id().clone();
    match container.snapshot().state.status {
        Status::Running => Ok(()),
        Status::Paused => Err(ContainerError::ExecPaused(name.map_or_else(|| id.to_string(), str::to_owned)).into()),
        Status::Restarting => Err(ContainerError::Restarting(id).into()),
        _ => Err(ContainerError::NotRunning(id).into()),
    }
}

/// Records a failed start; its code is 126, 127 or 128.
fn failed(exec: &Exec, error: &EngineError) {
    let text = error.to_string();
    let code = match text.as_str() {
        t if t.contains("executable file not found") || t.contains("no such file or directory") => 127,
        t if t.contains("permission denied") || t.contains("is a directory") => 126,
        _ => 128,
    };
    exec.progress.send_modify(|progress| {
        progress.exit_code = Some(code);
        progress.ended_at = Some(Instant::now());
    });
    exec.streams.finish();
}

/// Who `text` is in the container. Opens small files of it.
fn resolve_user(container: &Container, core: &Core, text: &str) -> Result<user::Identity, EngineError> {
    let tree = container.rootfs_tree(core)?;
    let files = user::read_files(std::os::fd::AsFd::as_fd(&tree));
    let groups = &container.snapshot().spec.host.group_add;
    user::resolve(text, groups, &files).map_err(|error| EngineError::module(ExecError::User(error)))
}

fn process_of(exec: &Exec, core: &Core, mut process: Process) -> Result<Process, EngineError> {
    let config = &exec.config;
    process.set_args(Some(config.cmd.clone()));
    process.set_terminal(Some(config.tty));
    let mut env = process.env().clone().unwrap_or_default();
    if config.tty {
        oci::replace_env(&mut env, &["TERM=xterm".to_owned()]);
    }
    oci::replace_env(&mut env, &config.env);
    process.set_env(Some(env));
    if !config.working_dir.is_empty() {
        if !config.working_dir.starts_with('/') {
            return Err(EngineError::module(ExecError::WorkingDir));
        }
        process.set_cwd(config.working_dir.clone().into());
    }
    if !config.user.is_empty() {
        let identity = resolve_user(&exec.container, core, &config.user)?;
        process.set_user(oci::user(&identity).map_err(|e| EngineError::io("user", std::io::Error::other(e)))?);
        if identity.uid != 0 && !config.privileged {
            // What is effective for another user than root comes from the files it runs.
            if let Some(mut sets) = process.capabilities().clone() {
                sets.set_effective(Some(Default::default()));
                sets.set_permitted(Some(Default::default()));
                process.set_capabilities(Some(sets));
            }
        }
    }
    if config.privileged {
        let all = dockerd_runtime::capabilities::to_oci(core.facts.available_caps);
        let none = oci_spec::runtime::Capabilities::default();
        let sets = LinuxCapabilitiesBuilder::default()
            .bounding(all.clone())
            .effective(all.clone())
            .permitted(all)
            .inheritable(none.clone())
            .ambient(none)
            .build();
        process.set_capabilities(sets.ok());
    }
    Ok(process)
}
