//! Errors of the container verbs and of creation, with the stock daemon's texts.

use dockerd_types::container::Status;
use dockerd_types::signal::InvalidSignal;
use dockerd_types::{ContainerId, ErrorKind, Kinded};

use super::create_error::CreateError;
use crate::error::EngineError;

/// Why a verb on an existing (or missing) container failed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Neither id, name nor unique prefix.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// Several ids begin so.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousPrefix(String),
    /// Start of a running one, stop of a stopped one.
    #[error("container already in the wanted state")]
    NotModified,
    /// The verb needs a running process.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// No such signal, no such container.
    #[error("cannot kill container: {name}: {source}")]
    CannotKill {
        /// What the client called it.
        name: String,
        /// What is wrong.
        source: Box<EngineError>,
    },
    /// Stop with a signal that is none.
    #[error("cannot stop container: {name}: {source}")]
    CannotStop {
        /// What the client called it.
        name: String,
        /// What is wrong.
        source: InvalidSignal,
    },
    /// Restart with a signal that is none.
    #[error("Cannot restart container {name}: {source}")]
    CannotRestart {
        /// What the client called it.
        name: String,
        /// What is wrong.
        source: InvalidSignal,
    },
    /// Kill needs a running process.
    #[error("cannot kill container: {name}: container {id} is not running")]
    KillNotRunning {
        /// What the client called it.
        name: String,
        /// Its id.
        id: ContainerId,
    },
    /// The verb does not go with a restart under way.
    #[error("Container {0} is restarting, wait until the container is running")]
    Restarting(ContainerId),
    /// The verb does not go with a frozen container.
    #[error("Container {0} is paused. Unpause the container before stopping or killing")]
    PausedCannotKill(ContainerId),
    /// Start of a frozen one.
    #[error("cannot start a paused container, try unpause instead")]
    StartPaused,
    /// Exec in a frozen one.
    #[error("Container {0} is paused, unpause the container before exec")]
    ExecPaused(String),
    /// Pause of a frozen one.
    #[error("Container {0} is already paused")]
    AlreadyPaused(ContainerId),
    /// Unpause of one that is not frozen.
    #[error("Container {0} is not paused")]
    NotPaused(ContainerId),
    /// Start of one being removed.
    #[error("container is marked for removal and cannot be started")]
    StartRemoving,
    /// Second removal.
    #[error("removal of container {0} is already in progress")]
    RemovalInProgress(String),
    /// Removal without force.
    #[error("cannot remove container \"{name}\": container is {}", match .status { Status::Paused => "paused and must be unpaused first", Status::Restarting => "restarting: stop the container before removing or force remove", _ => "running: stop the container before removing or force remove" })]
    RemoveRunning {
        /// What the client called it.
        name: String,
        /// What it does.
        status: Status,
    },
    /// Start of one with a link to one that does not run.
    #[error("Cannot link to a non running container: {name} AS {alias}")]
    LinkNotRunning {
        /// The other, with slash.
        name: String,
        /// `/name/alias`.
        alias: String,
    },
    /// Start of one with a link to one that is elsewhere.
    #[error("container {0} not attached to default bridge network")]
    LinkNotOnBridge(String),
    /// The new name cannot be had.
    #[error("Error when allocating new name: {0}")]
    NewName(Box<CreateError>),
    /// Only a link's own name can be removed.
    #[error("Conflict, cannot remove the default link name of the container")]
    DefaultLink,
    /// Rename to nothing.
    #[error("Neither old nor new names may be empty")]
    RenameEmpty,
    /// Rename to itself.
    #[error("Renaming a container with the same name as its current name")]
    RenameSame,
    /// `top` arguments.
    #[error("{0}")]
    Top(#[from] TopError),
    /// The container did not end although killed.
    #[error("cannot stop container: {0}: tried to kill container, but did not receive an exit event")]
    DidNotExit(String),
    /// A prune is running.
    #[error("a prune operation is already running")]
    PruneRunning,
    /// Another container whose namespaces are wanted is not there or not running.
    #[error("{0}")]
    Join(#[from] JoinError),
    /// Starting failed in the runtime.
    #[error("{text}")]
    Launch {
        /// The whole text for the client.
        text: String,
        /// Exit code recorded: 126 and 127 are the client's mistakes.
        exit_code: i32,
    },
    /// Starting failed before the runtime.
    #[error("{0}")]
    Start(String),
    /// The container's task is gone (the daemon is going down).
    #[error("container {0} is going away")]
    Gone(ContainerId),
}

/// Why `top` could not show a table.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// Characters `ps` arguments may not have.
    #[error("invalid ps arguments: {0}")]
    Arguments(String),
    /// Without PID there is no telling whose process a line is.
    #[error("Couldn't find PID field in ps output")]
    NoPid,
    /// `ps` itself failed.
    #[error("ps: error: {0}")]
    Ps(String),
}

impl Kinded for TopError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Arguments(_) => ErrorKind::InvalidArgument,
            Self::NoPid | Self::Ps(_) => ErrorKind::System,
        }
    }
}

/// Why another container's namespaces cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Not running.
    #[error("cannot join network namespace of a non running container: {0}")]
    NetworkNotRunning(String),
    /// Not running, for pid and ipc.
    #[error("cannot join {kind} namespace of a non running container: container {id} is {status}")]
    NotRunning {
        /// PID or IPC.
        kind: &'static str,
        /// The other container.
        id: ContainerId,
        /// What it is instead.
        status: &'static str,
    },
    /// Itself.
    #[error("cannot join own {0} namespace")]
    Own(&'static str),
    /// Gone.
    #[error("No such container: {0}")]
    Missing(String),
    /// Gone, for networks.
    #[error("joining network namespace of container: No such container: {0}")]
    NetworkMissing(String),
    /// Private IPC.
    #[error(
        "cannot join IPC of a container {0}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
    )]
    IpcNotShareable(ContainerId),
    /// Restarting.
    #[error("Container {0} is restarting, wait until the container is running")]
    Restarting(ContainerId),
}

impl Kinded for ContainerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchContainer(_) => ErrorKind::NotFound,
            Self::AmbiguousPrefix(_) | Self::RenameEmpty | Self::RenameSame => ErrorKind::InvalidArgument,
            Self::NotModified => ErrorKind::NotModified,
            Self::CannotKill { source, .. } => source.kind(),
            Self::NewName(source) => source.kind(),
            Self::NotRunning(_)
            | Self::KillNotRunning { .. }
            | Self::Restarting(_)
            | Self::ExecPaused(_)
            | Self::AlreadyPaused(_)
            | Self::StartPaused
            | Self::StartRemoving
            | Self::RemovalInProgress(_)
            | Self::RemoveRunning { .. }
            | Self::PruneRunning => ErrorKind::Conflict,
            Self::Join(JoinError::Missing(_)) => ErrorKind::NotFound,
            Self::Join(JoinError::NetworkNotRunning(_) | JoinError::NotRunning { .. } | JoinError::Restarting(_)) => {
                ErrorKind::Conflict
            }
            Self::Join(_) | Self::LinkNotRunning { .. } | Self::LinkNotOnBridge(_) => ErrorKind::System,
            Self::Launch { exit_code: 126 | 127, .. } => ErrorKind::InvalidArgument,
            Self::Top(e) => e.kind(),
            Self::Launch { .. }
            | Self::CannotStop { .. }
            | Self::CannotRestart { .. }
            | Self::DefaultLink
            | Self::PausedCannotKill(_)
            | Self::NotPaused(_)
            | Self::DidNotExit(_)
            | Self::Start(_)
            | Self::Gone(_) => ErrorKind::System,
        }
    }
}
