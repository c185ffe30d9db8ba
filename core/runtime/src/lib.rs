//! Running containers: the native OCI runtime with its supervisor, external runtimes, cgroups, seccomp, capabilities.
//! Knows nothing of images, networks or the API: it is handed a root file system, a network namespace and an OCI
//! description.
#![forbid(unsafe_code)]

pub mod capabilities;
pub mod cgroup;
pub mod driver;
mod external;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod init;
mod launch;
mod lost;
mod native;
mod runtimes;
pub mod seccomp;
mod shared;
mod supervisor;

pub use driver::{
    Adopted, BoxFuture, ControlError, ExecRequest, ExitCode, LaunchError, LaunchRequest, Launched, PhaseTimings,
    ProcessExit, ProcessIo, ProcessKey, RuntimeDriver, StdioRequest,
};
pub use runtimes::{
    DEFAULT_RUNTIME, Exits, ExternalRuntime, Runtimes, RuntimesConfig, RuntimesError, Stored, own_program,
};
pub use supervisor::client::SupervisorError;

/// Modes of the daemon's binary that are not the daemon. Call them before the process has a second thread.
pub mod modes {
    pub use crate::supervisor::entry::supervisor_main;
}
