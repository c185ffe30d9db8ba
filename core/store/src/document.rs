//! Versioned JSON documents, one per resource, replaced atomically.
//!
//! A document is an object with a `version`, a list of `features` a reader must know, and the resource under `data`.
//! Writing goes to a temporary file in the same directory and then rename(2), so that a reader sees the old or the new
//! document and nothing between. Readers refuse versions and features they do not know instead of guessing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How much a write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of this process at any moment, not the loss of power: temporary file and rename, no flush. For state
    /// that is of no use after a reboot or is on the start path (ADR 0003).
    Process,
    /// Also the loss of power: file and directory are flushed before the call returns.
    Disk,
}

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The kernel refused.
    #[error("{action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The bytes are not the document they should be.
    #[error("{} is not a valid document: {source}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Written by a newer daemon.
    #[error("{} has version {found}, this daemon reads up to {known}", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest we read.
        known: u32,
    },
    /// Needs a feature this daemon does not have.
    #[error("{} needs feature {feature:?}, which this daemon does not have", .path.display())]
    Feature {
        /// The file.
        path: PathBuf,
        /// The feature.
        feature: String,
    },
}

impl DocumentError {
    /// Whether the file is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// A stored resource and the version of its format.
pub trait Document: Serialize + DeserializeOwned {
    /// Format version written; older ones are read through serde defaults.
    const VERSION: u32;
    /// Features a reader must know to read what we write; a reader refuses unknown ones.
    const FEATURES: &'static [&'static str] = &[];
}

#[derive(Serialize)]
struct EnvelopeRef<'a, T> {
    version: u32,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    features: &'a [&'static str],
    data: &'a T,
}

#[derive(Deserialize)]
struct Envelope<T> {
    version: u32,
    #[serde(default)]
    features: Vec<String>,
    data: T,
}

#[derive(Deserialize)]
struct Header {
    version: u32,
    #[serde(default)]
    features: Vec<String>,
}

/// Replaces the document at `path` by `data`. The directory must exist. Mode 0600.
pub fn write<T: Document>(path: &Path, data: &T, durability: Durability) -> Result<(), DocumentError> {
    let envelope = EnvelopeRef { version: T::VERSION, features: T::FEATURES, data };
    let bytes =
        serde_json::to_vec(&envelope).map_err(|source| DocumentError::Syntax { path: path.to_owned(), source })?;
    write_bytes(path, &bytes, durability)
}

/// Reads the document at `path`; [`DocumentError::is_not_found`] tells a missing one.
pub fn read<T: Document>(path: &Path) -> Result<T, DocumentError> {
    let bytes = fs::read(path).map_err(|source| DocumentError::Io { action: "read", path: path.to_owned(), source })?;
    parse(path, &bytes)
}

/// Parses a document's bytes; `path` only names it in errors.
pub fn parse<T: Document>(path: &Path, bytes: &[u8]) -> Result<T, DocumentError> {
    let syntax = |source| DocumentError::Syntax { path: path.to_owned(), source };
    match serde_json::from_slice::<Envelope<T>>(bytes) {
        Ok(envelope) => {
            check_header::<T>(path, &Header { version: envelope.version, features: envelope.features })?;
            Ok(envelope.data)
        }
        Err(source) => {
            // A newer format may not parse as ours at all; say "newer" rather than "broken" when its header says so.
            if let Ok(header) = serde_json::from_slice::<Header>(bytes) {
                check_header::<T>(path, &header)?;
            }
            Err(syntax(source))
        }
    }
}

fn check_header<T: Document>(path: &Path, header: &Header) -> Result<(), DocumentError> {
    if header.version > T::VERSION {
        return Err(DocumentError::Version { path: path.to_owned(), found: header.version, known: T::VERSION });
    }
    match header.features.iter().find(|feature| !T::FEATURES.contains(&feature.as_str())) {
        Some(feature) => Err(DocumentError::Feature { path: path.to_owned(), feature: feature.clone() }),
        None => Ok(()),
    }
}

/// Replaces the file at `path` by `bytes`, atomically, mode 0600. For files that are no documents of ours too.
pub fn write_bytes(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), DocumentError> {
    let temporary = temporary_name(path);
    let result = write_temporary(&temporary, bytes, durability).and_then(|()| {
        fs::rename(&temporary, path).map_err(|source| DocumentError::Io {
            action: "rename to",
            path: path.to_owned(),
            source,
        })
    });
    if let Err(error) = result {
        // The first error is what the caller must see; a leftover temporary file is swept at boot.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    match durability {
        Durability::Process => Ok(()),
        Durability::Disk => sync_directory(path),
    }
}

/// Whether `name` is a temporary file of [`write_bytes`] that a crash left behind.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with(".tmp-")
}

fn write_temporary(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), DocumentError> {
    use std::os::unix::fs::OpenOptionsExt;
    let io = |action, source| DocumentError::Io { action, path: path.to_owned(), source };
    let mut file =
        File::options().create_new(true).write(true).mode(0o600).open(path).map_err(|source| io("create", source))?;
    file.write_all(bytes).map_err(|source| io("write", source))?;
    if durability == Durability::Disk {
        file.sync_all().map_err(|source| io("flush", source))?;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), DocumentError> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let io = |source| DocumentError::Io { action: "flush", path: directory.to_owned(), source };
    File::open(directory).and_then(|dir| dir.sync_all()).map_err(io)
}

/// A name no other write of this or another process uses, in the same directory as `path`.
fn temporary_name(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".tmp-{}-{number}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Thing {
        name: String,
        #[serde(default)]
        added_later: u32,
    }

    impl Document for Thing {
        const VERSION: u32 = 2;
    }

    fn thing() -> Thing {
        Thing { name: "n".to_owned(), added_later: 7 }
    }

    #[test]
    fn round_trip_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("thing.json");
        for durability in [Durability::Process, Durability::Disk] {
            write(&path, &thing(), durability).expect("written");
            assert_eq!(read::<Thing>(&path).expect("read"), thing());
        }
        let names: Vec<_> = fs::read_dir(dir.path()).expect("listed").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["thing.json"]);
    }

    #[test]
    fn older_is_read_newer_and_foreign_are_refused() {
        let parse = |text: &str| parse::<Thing>(Path::new("t"), text.as_bytes());
        assert_eq!(parse(r#"{"version":1,"data":{"name":"n"}}"#).expect("older").added_later, 0);
        assert!(matches!(parse(r#"{"version":3,"data":{"else":1}}"#), Err(DocumentError::Version { found: 3, .. })));
        assert!(matches!(
            parse(r#"{"version":2,"features":["x"],"data":{"name":"n"}}"#),
            Err(DocumentError::Feature { .. })
        ));
        assert!(matches!(parse("{"), Err(DocumentError::Syntax { .. })));
    }

    #[test]
    fn a_failed_write_keeps_the_old_document() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("missing").join("thing.json");
        assert!(write(&path, &thing(), Durability::Process).is_err());
        assert!(read::<Thing>(&path).expect_err("absent").is_not_found());
    }
}
