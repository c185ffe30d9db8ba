//! What can go wrong with cgroups.

use std::io;
use std::path::{Path, PathBuf};

use dockerd_types::{ErrorKind, Kinded};

/// A cgroup operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Neither version is mounted.
    #[error("no cgroup hierarchy is mounted")]
    NotMounted,
    /// A limit needs a controller this host does not offer.
    #[error("cgroup controller {0:?} is not available")]
    ControllerMissing(String),
    /// The path is not absolute or climbs out.
    #[error("invalid cgroup path {0:?}")]
    InvalidPath(String),
    /// A limit that cannot be expressed.
    #[error("invalid resource: {0}")]
    InvalidResource(String),
    /// The list of device rules has no equivalent for this kernel interface.
    #[error("device rule {0:?} takes away part of a wider one, which the devices controller cannot express")]
    DeviceRule(String),
    /// The kernel refused a value.
    #[error("failed to write {value:?}: write {}: {}", path.display(), lower(source))]
    Write {
        /// What was written.
        value: String,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Any other system call.
    #[error("{action} {}: {}", path.display(), lower(source))]
    Io {
        /// The call.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Processes in it do not end.
    #[error("cgroup {0:?} is still in use")]
    Busy(String),
    /// Processes in it do not freeze.
    #[error("cgroup {0:?} does not freeze")]
    FreezeTimeout(String),
}

impl CgroupError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// The kernel's error number, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Write { source, .. } | Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

impl Kinded for CgroupError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidPath(_) | Self::InvalidResource(_) | Self::DeviceRule(_) => ErrorKind::InvalidArgument,
            Self::NotMounted
            | Self::ControllerMissing(_)
            | Self::Write { .. }
            | Self::Io { .. }
            | Self::Busy(_)
            | Self::FreezeTimeout(_) => ErrorKind::System,
        }
    }
}

/// The error text as the Docker tools print it: lower case, without Rust's `(os error n)`.
fn lower(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
