//! What can go wrong with a plugin, in the stock daemon's words.

use dockerd_types::{ErrorKind, Kinded};

/// Why a plugin did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is none of that name.
    #[error("plugin {0:?} not found")]
    NotFound(String),
    /// It could not be asked what it is.
    #[error("legacy plugin: {0}")]
    Legacy(Box<PluginError>),
    /// It is something else.
    #[error(
        "legacy plugin: Plugin does not implement the requested driver: plugin={name:?}, requested implementation={kind:?}"
    )]
    Lacks {
        /// Its name.
        name: String,
        /// What was wanted.
        kind: &'static str,
    },
    /// It did not say what kind of network driver it is.
    #[error("could not resolve driver {0} in registry")]
    Unresolved(String),
    /// Networks are known somewhere else, or nowhere.
    #[error("invalid capability: expecting 'local' or 'global', got {0}")]
    Scope(String),
    /// The file that says where it is cannot be used.
    #[error("{0}")]
    Spec(String),
    /// It could not be reached, or broke off.
    #[error("Post {url:?}: {why}")]
    Transport {
        /// What was asked.
        url: String,
        /// What happened.
        why: String,
    },
    /// It answered with another status than 200.
    #[error("{method}: {text}")]
    Status {
        /// What was asked.
        method: &'static str,
        /// The status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// It said no.
    #[error("remote: {0}")]
    Refused(String),
    /// Its answer is no JSON, or says something else than was asked.
    #[error("{0}")]
    Answer(String),
    /// It gave no address.
    #[error("no address returned")]
    NoAddress,
}

impl PluginError {
    /// Whether it is not known that the plugin heard of the call: it was not reached, or broke off before it answered.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Self::NotFound(_) | Self::Transport { .. } | Self::Spec(_) => true,
            Self::Legacy(inner) => inner.is_away(),
            _ => false,
        }
    }

    /// Whether it does not know the method.
    pub(crate) fn is_unknown_method(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }
}

impl Kinded for PluginError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::NoAddress => ErrorKind::Unavailable,
            _ => ErrorKind::System,
        }
    }
}
