//! What can go wrong with images; texts as the stock daemon's where clients match on them.

use dockerd_types::{Digest, ErrorKind, Kinded};

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of that name or id.
    #[error("No such image: {0}")]
    NotFound(String),
    /// A prefix that several ids have.
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// A name by digest that no image has.
    #[error("reference does not exist")]
    NoReference,
    /// None of the images is for the platform asked for.
    #[error("{0}")]
    NoTarget(String),
    /// Not an image reference.
    #[error(transparent)]
    Reference(#[from] dockerd_types::reference::InvalidReference),
    /// A `--change` that cannot be made.
    #[error(transparent)]
    Change(#[from] crate::changes::ChangeError),
    /// Removal is not possible.
    #[error("conflict: {0}")]
    Conflict(String),
    /// An archive is not what it should be.
    #[error("{0}")]
    Archive(String),
    /// Content differs from what it was said to be.
    #[error("{what} has digest {found}, expected {expected}")]
    WrongDigest {
        /// Which content.
        what: String,
        /// What it was said to have.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// A manifest and a configuration that do not belong together.
    #[error("layers from manifest don't match image configuration")]
    LayersMismatch,
    /// A layer that is used before it is here, and does not come.
    #[error("layer {0} has not been fetched completely: {1}")]
    Incomplete(Digest, String),
    /// A request that cannot be met.
    #[error("{0}")]
    InvalidArgument(String),
    /// A layer that no index can be made of, or an index that is broken.
    #[error(transparent)]
    Index(#[from] crate::erofs::IndexError),
    /// A document of ours.
    #[error(transparent)]
    Document(#[from] dockerd_store::DocumentError),
    /// The kernel refused; says what was tried.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl ImageError {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

impl Kinded for ImageError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::NoReference => ErrorKind::NotFound,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Ambiguous(_)
            | Self::Reference(_)
            | Self::Change(_)
            | Self::Archive(_)
            | Self::InvalidArgument(_)
            | Self::Index(_)
            | Self::LayersMismatch
            | Self::WrongDigest { .. } => ErrorKind::InvalidArgument,
            Self::NoTarget(_) | Self::Incomplete(..) | Self::Document(_) | Self::Io { .. } => ErrorKind::System,
        }
    }
}
