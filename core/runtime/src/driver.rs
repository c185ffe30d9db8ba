//! What the engine asks of an OCI runtime, native or external, and what it gets back.

use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;

use crate::cgroup::CgroupStats;
use dockerd_types::signal::Signal;
use dockerd_types::{ContainerId, ErrorKind, ExecId, Kinded, Timestamp};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::{Deserialize, Serialize};

/// A boxed future, so that the trait can be an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything needed to bring up one container. The descriptors move in and are closed on every path.
#[derive(Debug)]
pub struct LaunchRequest {
    /// The container.
    pub id: ContainerId,
    /// Its OCI runtime description. `root.path` is ignored: the root is `rootfs`.
    pub spec: Arc<Spec>,
    /// Detached mount tree of the root file system (`fsmount` or `open_tree` descriptor).
    pub rootfs: OwnedFd,
    /// Network namespace to enter; `None` follows the spec's namespaces.
    pub netns: Option<OwnedFd>,
    /// How standard streams are wired.
    pub stdio: StdioRequest,
    /// Whether our own init is process 1 and the workload its child.
    pub init: bool,
}

/// How a process's standard streams are wired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdioRequest {
    /// A pseudo terminal of the container's own devpts is all three streams.
    pub tty: bool,
    /// Standard input stays open for the daemon; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Height and width of the terminal.
    pub console_size: Option<(u16, u16)>,
}

/// The daemon's ends of a process's streams: non-blocking, close-on-exec. With a terminal, `stdin` and `stdout` are
/// duplicates of its master and there is no `stderr`.
#[derive(Debug, Default)]
pub struct ProcessIo {
    /// Written by the daemon.
    pub stdin: Option<OwnedFd>,
    /// Read by the daemon.
    pub stdout: Option<OwnedFd>,
    /// Read by the daemon.
    pub stderr: Option<OwnedFd>,
    /// What an earlier daemon had kept for this one ([`crate::Runtimes::keep`]); empty for a new process.
    pub kept: Vec<OwnedFd>,
}

/// A process that is set up and about to execute its program, which was found.
#[derive(Debug)]
pub struct Launched {
    /// Process id in the daemon's namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// When it was seen running.
    pub started_at: Timestamp,
    /// The daemon's ends of its streams.
    pub io: ProcessIo,
    /// Where the time went.
    pub timings: PhaseTimings,
}

/// Microseconds spent in the phases of a launch, measured where they happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTimings {
    /// Making the plan, cgroup and pipes, in the daemon.
    pub prepare: u32,
    /// From the supervisor's receipt of the plan to the return of `clone3`.
    pub clone: u32,
    /// From the child's first instruction to its `execve`.
    pub setup: u32,
    /// From the send to the reply, in the daemon.
    pub round_trip: u32,
}

/// A process to run in a running container.
#[derive(Debug)]
pub struct ExecRequest {
    /// The container.
    pub container: ContainerId,
    /// Names the exec.
    pub exec: ExecId,
    /// What to run.
    pub process: Process,
    /// The container's description, for its seccomp profile.
    pub spec: Arc<Spec>,
    /// How standard streams are wired.
    pub stdio: StdioRequest,
}

/// Names one process that a runtime watches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProcessKey {
    /// A container's first process.
    Container(ContainerId),
    /// An exec in a container.
    Exec(ContainerId, ExecId),
}

impl ProcessKey {
    /// The container the process lives in.
    pub fn container(&self) -> &ContainerId {
        match self {
            Self::Container(id) | Self::Exec(id, _) => id,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitCode {
    /// It returned this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// Nobody was there to collect the code (the supervisor had been killed).
    Unknown,
}

impl ExitCode {
    /// The number a shell would show: 128 plus the signal; 255 where the code is unknown.
    pub fn as_docker(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
            Self::Unknown => 255,
        }
    }
}

/// A process that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessExit {
    /// Which one.
    pub key: ProcessKey,
    /// How.
    pub code: ExitCode,
    /// When it was collected.
    pub at: Timestamp,
    /// Whether the kernel's out-of-memory killer struck in the container's cgroup.
    pub oom_killed: bool,
}

/// A process that lived on while the daemon was away.
#[derive(Debug)]
pub struct Adopted {
    /// Which one.
    pub key: ProcessKey,
    /// Its process id.
    pub pid: i32,
    /// Its pidfd; `None` once it has been collected.
    pub pidfd: Option<OwnedFd>,
    /// The daemon's ends of its streams.
    pub io: ProcessIo,
    /// Whether it runs on a terminal.
    pub tty: bool,
    /// How it ended, when it did and nobody has acknowledged it yet.
    pub exited: Option<ProcessExit>,
}

/// What went wrong when a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The program is not there.
    #[error("{context}: exec: {program:?}: {reason}")]
    ProgramNotFound {
        /// The texts runc puts in front, which clients show.
        context: &'static str,
        /// As asked for.
        program: String,
        /// `executable file not found in $PATH`, `no such file or directory`, ...
        reason: String,
    },
    /// The program may not be run.
    #[error("{context}: exec: {program:?}: {reason}")]
    ProgramRefused {
        /// The texts runc puts in front.
        context: &'static str,
        /// As asked for.
        program: String,
        /// `permission denied` and the like.
        reason: String,
    },
    /// A step of setting up the container failed.
    #[error("{context}: {detail}")]
    Setup {
        /// The texts runc puts in front.
        context: &'static str,
        /// Which step, on what, and what the kernel said.
        detail: String,
        /// The kernel's error number; 0 where there is none.
        errno: i32,
    },
    /// The cgroup could not be made.
    #[error("{CREATE_CONTEXT}: {0}")]
    Cgroup(String),
    /// The description asks for something impossible.
    #[error("{CREATE_CONTEXT}: {0}")]
    InvalidSpec(String),
    /// What is to be the working directory is something else.
    #[error("Cannot mkdir: {0} is not a directory")]
    WorkingDirectory(String),
    /// The container to exec in does not run.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// The supervisor cannot be reached.
    #[error("supervisor: {0}")]
    Supervisor(String),
    /// An external runtime failed.
    #[error("failed to create task for container: failed to create shim task: OCI runtime create failed: {0}")]
    Runtime(String),
    /// An external runtime failed to start an exec.
    #[error("OCI runtime exec failed: {0}")]
    RuntimeExec(String),
}

/// Docker's prefix for a container that could not be created.
pub const CREATE_CONTEXT: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init";
/// Docker's prefix for an exec that could not be started.
pub const EXEC_CONTEXT: &str = "OCI runtime exec failed: exec failed: unable to start container process";

impl LaunchError {
    /// The exit code Docker records for this failure: 127 not found, 126 not permitted, 128 anything else.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::ProgramNotFound { .. } => 127,
            Self::ProgramRefused { .. } => 126,
            Self::Setup { errno, .. } if *errno == ENOTDIR => 127,
            Self::Runtime(text) | Self::RuntimeExec(text) => exit_code_of(text),
            _ => 128,
        }
    }
}

/// What Docker makes of an OCI runtime's text; runtimes differ in capitals.
fn exit_code_of(text: &str) -> i32 {
    let text = text.to_lowercase();
    let says = |phrase| text.contains(phrase);
    if says("executable file not found") || says("no such file or directory") || says("not a directory") {
        127
    } else if says("permission denied") || says("is a directory") {
        126
    } else {
        128
    }
}

/// `ENOTDIR`; the number is part of the kernel's interface on all our architectures.
const ENOTDIR: i32 = 20;

impl Kinded for LaunchError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotRunning(_) => ErrorKind::Conflict,
            _ if self.exit_code() != 128 => ErrorKind::InvalidArgument,
            _ => ErrorKind::System,
        }
    }
}

/// What went wrong when a running process was to be influenced.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The process has ended.
    #[error("process is not running")]
    NotRunning,
    /// The kernel or the runtime refused.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A cgroup operation failed.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
}

/// An OCI runtime.
pub trait RuntimeDriver: Send + Sync + fmt::Debug {
    /// Makes ahead of [`start`](Self::start) what needs neither root file system nor network: the cgroup at `path`, with
    /// these limits. A driver whose program does that itself does nothing here. `delete` gives it back. Blocking.
    fn reserve(&self, id: &ContainerId, path: &str, resources: &LinuxResources) -> Result<(), LaunchError>;
    /// Makes the container and runs its process; ready once the workload is set up and its
    /// `execve` is the next thing it does, as after `runc start`.
    fn start(&self, request: LaunchRequest) -> BoxFuture<'_, Result<Launched, LaunchError>>;
    /// Runs one more process in a running container.
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Launched, LaunchError>>;
    /// Sends `signal` to one process.
    fn signal(&self, key: &ProcessKey, signal: Signal) -> Result<(), ControlError>;
    /// Kills every process of the container, children included.
    fn kill_all(&self, id: &ContainerId) -> Result<(), ControlError>;
    /// Sets the size of a process's terminal.
    fn resize(&self, key: &ProcessKey, height: u16, width: u16) -> Result<(), ControlError>;
    /// Closes the write end of a process's standard input everywhere outside the container.
    fn close_stdin(&self, key: &ProcessKey) -> Result<(), ControlError>;
    /// Freezes the container.
    fn pause(&self, id: &ContainerId) -> Result<(), ControlError>;
    /// Thaws it.
    fn resume(&self, id: &ContainerId) -> Result<(), ControlError>;
    /// Host process ids of everything in the container.
    fn pids(&self, id: &ContainerId) -> Result<Vec<i32>, ControlError>;
    /// What the container has used so far.
    fn stats(&self, id: &ContainerId) -> Result<CgroupStats, ControlError>;
    /// Gives back what a container that has ended still holds. Idempotent.
    fn delete(&self, id: &ContainerId) -> BoxFuture<'_, Result<(), ControlError>>;
}
