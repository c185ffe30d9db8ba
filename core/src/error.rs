//! What can go wrong in the engine, as one enum whose members are the modules' own errors. The texts are what clients
//! of the stock daemon know and match on.

use dockerd_types::filters::InvalidFilter;
use dockerd_types::signal::InvalidSignal;
use dockerd_types::{ErrorKind, Kinded};

use crate::container::create_error::CreateError;
use crate::container::error::ContainerError;

/// An error of a lower crate, kept with its kind.
pub type BoxedKinded = Box<dyn Kinded + Send + Sync>;

/// Any failure of a service of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A container verb.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A description that cannot be accepted.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Filters.
    #[error(transparent)]
    Filter(#[from] InvalidFilter),
    /// A signal's name.
    #[error(transparent)]
    Signal(#[from] InvalidSignal),
    /// Stored state.
    #[error(transparent)]
    Document(#[from] dockerd_store::DocumentError),
    /// The lock of the data root.
    #[error(transparent)]
    Lock(#[from] dockerd_store::LockError),
    /// A running process could not be influenced.
    #[error(transparent)]
    Control(#[from] dockerd_runtime::ControlError),
    /// The network could not be set up.
    #[error("failed to set up container networking: {0}")]
    Networking(BoxedKinded),
    /// Images, volumes, streams: another module's error as it is.
    #[error("{0}")]
    Module(BoxedKinded),
    /// The kernel refused; says what was tried.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A verb or option this daemon does not have yet.
    #[error("{0} is not supported by this daemon yet")]
    NotBuilt(&'static str),
    /// The daemon is going down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl EngineError {
    /// An I/O failure while doing `action`.
    pub fn io(action: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { action: action.into(), source }
    }
}

impl EngineError {
    /// Another module's error as it is.
    pub fn module(error: impl Kinded + Send + Sync + 'static) -> Self {
        Self::Module(Box::new(error))
    }
}

impl Kinded for EngineError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Container(e) => e.kind(),
            Self::Create(e) => e.kind(),
            Self::Filter(_) | Self::Signal(_) => ErrorKind::InvalidArgument,
            Self::NotBuilt(_) => ErrorKind::NotImplemented,
            Self::Module(e) | Self::Networking(e) => e.kind(),
            Self::ShuttingDown => ErrorKind::Unavailable,
            Self::Control(_) | Self::Document(_) | Self::Lock(_) | Self::Io { .. } => ErrorKind::System,
        }
    }
}
