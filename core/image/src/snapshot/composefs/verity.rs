//! fs-verity: whether objects are protected by the kernel, which then refuses to read what was changed (the kernel's
//! Documentation/filesystems/fsverity.rst). ext4 has it where it was made with `-O verity`, btrfs always, others never; the
//! kernel needs CONFIG_FS_VERITY.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use composefs::fsverity::{EnableVerityError, enable_verity_with_retry, ensure_verity_equal};

use super::objects::ObjectId;
use crate::trash::temporary_name;

/// What is wanted (`--storage-opt composefs.verity=`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verity {
    /// Used where the file system has it.
    #[default]
    Auto,
    /// The driver is not used without.
    Require,
    /// Not used.
    Off,
}

impl Verity {
    /// By the name an option gives it.
    pub(in crate::snapshot) fn parse(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "require" => Some(Self::Require),
            "off" => Some(Self::Off),
            _ => None,
        }
    }
}

/// Whether files in directory `dir` can be protected.
pub(super) fn is_supported(dir: &Path) -> io::Result<bool> {
    let path = dir.join(temporary_name());
    fs::write(&path, b"x")?;
    let enabled = File::open(&path).map(enable_verity_with_retry::<ObjectId>);
    fs::remove_file(&path)?;
    match enabled? {
        Ok(()) => Ok(true),
        Err(error) => {
            tracing::debug!(%error, "no fs-verity");
            Ok(false)
        }
    }
}

/// Protects the file `path`, which nobody writes to any more, and checks that the kernel finds the digest `expected` in it.
pub(super) fn protect(path: &Path, expected: Option<&ObjectId>) -> io::Result<()> {
    let file = File::open(path)?;
    match enable_verity_with_retry::<ObjectId>(&file) {
        Ok(()) | Err(EnableVerityError::AlreadyEnabled) => {}
        Err(error) => return Err(io::Error::other(error)),
    }
    expected.map_or(Ok(()), |expected| ensure_verity_equal(&file, expected).map_err(io::Error::other))
}
