//! `docker cp`: what is at a path, a path as a tar, a tar unpacked at a path. Paths are the container's; every link in
//! them is followed within its files ([`super::tree`]) only. Bodies are streamed; nothing is kept whole.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use dockerd_image::layer::{OverwriteRefused, UnpackOptions};
use dockerd_image::pack::{self, Source};
use dockerd_image::{ImageError, archive};
use dockerd_sys::inside;
use dockerd_types::{ErrorKind, Kinded, Timestamp};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use tokio::sync::{mpsc, oneshot};

use super::mount_spec::clean;
use super::spec::ContainerSpec;
use super::tree::{Scope, with_tree};
use super::{ContainerService, user};
use crate::error::EngineError;
use crate::image::transfer::{ByteReceiver, Reader, Writer};

/// Pieces that may wait between the files and the network.
pub(super) const PIECES: usize = 4;
/// Size of the pieces sent.
pub(super) const PIECE: usize = 128 * 1024;

/// What is at a path of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The path's last part.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// `st_mode`.
    pub mode: u32,
    /// Last change.
    pub mtime: Timestamp,
    /// Where a symbolic link leads in the end; empty for anything else.
    pub link_target: String,
}

/// How a tar is unpacked in a container.
#[derive(Debug, Clone, Copy)]
pub struct ExtractOptions {
    /// A directory is not replaced by something else, nor the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// Everything belongs to the container's user.
    pub copy_uid_gid: bool,
}

/// Why a path cannot be copied; Docker's words.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Nothing there.
    #[error("Could not find the file {path} in container {container}")]
    NotFound {
        /// The path as the client wrote it.
        path: String,
        /// The container as the client called it.
        container: String,
    },
    /// The kernel refused to look.
    #[error("lstat {path}: {}", words(.source))]
    Look {
        /// The path as the client wrote it.
        path: String,
        /// What it said.
        source: io::Error,
    },
    /// The kernel refused to follow.
    #[error("{}", words(.0))]
    Follow(io::Error),
    /// Nothing can be unpacked into a file.
    #[error("extraction point is not a directory")]
    NotDirectory,
    /// The volume at that path may not be changed.
    #[error("mounted volume is marked read-only")]
    VolumeReadOnly,
    /// The root file system may not be changed.
    #[error("container rootfs is marked read-only")]
    RootReadOnly,
    /// The container's user is not known there.
    #[error("failed to look up user {user:?} in container: {reason}")]
    User {
        /// As the container has it.
        user: String,
        /// What is wrong.
        reason: String,
    },
    /// A directory is in the way, or in the way of a directory.
    #[error("cannot overwrite {} {:?} with {} {:?}", kind(*.directory), .entry.display(), kind(!*.directory), .at.display())]
    Overwrite {
        /// The entry's name.
        entry: PathBuf,
        /// Where the tar is unpacked.
        at: PathBuf,
        /// Whether the directory was there first.
        directory: bool,
    },
    /// The tar is not one, or the disk is full.
    #[error("{0}")]
    Unpack(ImageError),
}

fn kind(directory: bool) -> &'static str {
    if directory { "directory" } else { "non-directory" }
}

/// As Go says it: without the number, in small letters.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

impl Kinded for CopyError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NotDirectory | Self::VolumeReadOnly | Self::RootReadOnly | Self::User { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::Look { .. } | Self::Follow(_) | Self::Overwrite { .. } | Self::Unpack(_) => ErrorKind::System,
        }
    }
}

impl From<CopyError> for EngineError {
    fn from(error: CopyError) -> Self {
        Self::module(error)
    }
}

/// A path of a container as a client gave it.
#[derive(Debug, Clone)]
struct Asked {
    container: String,
    path: String,
}

impl Asked {
    /// Gone, or not to be looked at.
    fn look(&self, source: io::Error) -> CopyError {
        let Self { container, path } = self.clone();
        match source.kind() {
            io::ErrorKind::NotFound => CopyError::NotFound { path, container },
            _ => CopyError::Look { path, source },
        }
    }

    fn follow(&self, source: io::Error) -> CopyError {
        let Self { container, path } = self.clone();
        match source.kind() {
            io::ErrorKind::NotFound => CopyError::NotFound { path, container },
            _ => CopyError::Follow(source),
        }
    }

    fn unpack(&self, at: &Path, error: ImageError) -> CopyError {
        let Self { container, path } = self.clone();
        if let ImageError::Io { source, .. } = &error {
            let refused = source.get_ref().and_then(|inner| inner.downcast_ref::<OverwriteRefused>());
            if let Some(OverwriteRefused { path: entry, directory }) = refused {
                return CopyError::Overwrite { entry: entry.clone(), at: at.to_owned(), directory: *directory };
            }
            if source.kind() == io::ErrorKind::NotFound {
                return CopyError::NotFound { path, container };
            }
        }
        CopyError::Unpack(error)
    }
}

impl ContainerService {
    /// What is at `path`.
    pub async fn stat_path(&self, name: &str, path: &str) -> Result<PathStat, EngineError> {
        let container = self.core.containers.find(name)?;
        let asked = Asked { container: name.to_owned(), path: path.to_owned() };
        with_tree(&self.core, &container, Scope::Volumes, move |root| {
            Ok(stat(root, &asked.path).map_err(|error| asked.look(error))?)
        })
        .await
    }

    /// What is at `path`, and all of it as a tar. The body ends with an error where the reading fails half-way.
    pub async fn archive(&self, name: &str, path: &str) -> Result<(PathStat, ByteReceiver), EngineError> {
        let container = self.core.containers.find(name)?;
        let asked = Asked { container: name.to_owned(), path: path.to_owned() };
        let (sender, body) = mpsc::channel(PIECES);
        let (found, what) = oneshot::channel();
        let core = self.core.clone();
        let (events, whose) = (core.events.clone(), container.clone());
        // The request is answered as soon as it is known what is there; the tar follows at the client's pace.
        let packing = tokio::spawn(async move {
            with_tree(&core, &container, Scope::Volumes, move |root| {
                let opened = Opened::at(root, &asked.path).map_err(|error| asked.look(error))?;
                if found.send(opened.stat.clone()).is_err() {
                    return Ok(());
                }
                stream(&sender, |out| opened.pack(out));
                Ok(())
            })
            .await
        });
        match what.await {
            Ok(stat) => {
                whose.publish_event(&*events, "archive-path", &[]);
                Ok((stat, body))
            }
            // Its sender is only dropped when the job failed before.
            Err(_) => match packing.await.map_err(|error| EngineError::io("read files", io::Error::other(error)))? {
                Err(error) => Err(error),
                Ok(()) => Err(EngineError::ShuttingDown),
            },
        }
    }

    /// Unpacks the tar `body`, compressed or not, in the directory `path`.
    pub async fn extract(
        &self,
        name: &str,
        path: &str,
        options: ExtractOptions,
        body: ByteReceiver,
    ) -> Result<(), EngineError> {
        let container = self.core.containers.find(name)?;
        let asked = Asked { container: name.to_owned(), path: path.to_owned() };
        let spec = container.snapshot().spec.clone();
        let unpacked = with_tree(&self.core, &container, Scope::Volumes, move |root| {
            unpack(root, &asked, &spec, options, body).map_err(EngineError::from)
        });
        unpacked.await?;
        container.publish_event(&*self.core.events, "extract-to-dir", &[]);
        Ok(())
    }
}

/// Lets `fill` write the body behind `sender`; its failure ends the body.
pub(super) fn stream(
    sender: &mpsc::Sender<io::Result<bytes::Bytes>>,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) {
    let mut writer = io::BufWriter::with_capacity(PIECE, Writer { sender: sender.clone() });
    if let Err(error) = fill(&mut writer).and_then(|()| writer.flush()) {
        tracing::debug!(%error, "files were not sent to the end");
        // What waits to be written is not wanted any more, and would be sent after the error.
        let _ = writer.into_parts();
        let _ = sender.blocking_send(Err(error));
    }
}

fn stat(root: BorrowedFd<'_>, path: &str) -> io::Result<PathStat> {
    let found = inside::lstat(root, OsStr::new(path))?;
    path_stat(root, path, &found)
}

fn path_stat(root: BorrowedFd<'_>, path: &str, found: &Stat) -> io::Result<PathStat> {
    let link_target = match FileType::from_raw_mode(found.st_mode) {
        FileType::Symlink => inside::follow(root, Path::new(path))?.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    let nanos = i64::try_from(found.st_mtime_nsec).unwrap_or(0);
    Ok(PathStat {
        name: base(path).to_owned(),
        size: found.st_size,
        mode: found.st_mode,
        mtime: Timestamp::from_unix_nanos(found.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanos)),
        link_target,
    })
}

/// The last part of a path, as Go's `filepath.Base`.
fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        Some(name) if !name.is_empty() => name,
        _ if path.is_empty() => ".",
        _ => "/",
    }
}

/// The clean absolute path, with the `/` or `/.` at its end that say "the directory, not a link to it" and "its content".
fn absolute(path: &str) -> String {
    let mut out = clean(path);
    let current = path == "." || path.ends_with("/.");
    if (current || path.ends_with('/')) && !out.ends_with('/') {
        out.push('/');
    }
    if current {
        out.push('.');
    }
    out
}

/// Something a client wants as a tar: held, so that what is sent is what was looked at.
struct Opened {
    stat: PathStat,
    directory: OwnedFd,
    name: OsString,
    rename: OsString,
}

impl Opened {
    fn at(root: BorrowedFd<'_>, path: &str) -> io::Result<Self> {
        let path = absolute(path);
        let found = inside::lstat(root, OsStr::new(&path))?;
        let stat = path_stat(root, &path, &found)?;
        let rename = base(&path).into();
        let (directory, name) = if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            (path.as_str(), ".".into())
        } else {
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
            (if directory.is_empty() { "/" } else { directory }, name.into())
        };
        Ok(Self { stat, directory: open_directory(root, Path::new(directory))?, name, rename })
    }

    fn pack(&self, out: &mut dyn Write) -> io::Result<()> {
        let source = Source::Entry { name: &self.name, rename: &self.rename };
        pack::pack(self.directory.as_fd(), source, out)
    }
}

pub(super) fn open_directory(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?)
}

fn unpack(
    root: BorrowedFd<'_>,
    asked: &Asked,
    spec: &ContainerSpec,
    options: ExtractOptions,
    body: ByteReceiver,
) -> Result<(), CopyError> {
    let at = inside::follow(root, Path::new(&clean(&asked.path))).map_err(|error| asked.follow(error))?;
    let found = inside::lstat(root, at.as_os_str()).map_err(|error| asked.follow(error))?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        return Err(CopyError::NotDirectory);
    }
    check_writable(spec, &at)?;
    let directory = open_directory(root, &at).map_err(|error| asked.follow(error))?;
    let owner = if options.copy_uid_gid { owner(root, spec)? } else { None };
    let unpack_options =
        UnpackOptions { whiteouts: false, no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir, owner };
    let done = archive::extract(Reader::new(body), directory.as_fd(), unpack_options);
    done.map(drop).map_err(|error| asked.unpack(&at, error))
}

/// What lies in a volume follows the volume, the rest the root file system. The mounts say the same to the kernel; this
/// is for the words.
fn check_writable(spec: &ContainerSpec, at: &Path) -> Result<(), CopyError> {
    let volume = spec.mounts.iter().filter(|point| at.starts_with(&point.destination));
    match volume.max_by_key(|point| point.destination.len()) {
        Some(point) if point.read_only => Err(CopyError::VolumeReadOnly),
        None if spec.host.readonly_rootfs => Err(CopyError::RootReadOnly),
        _ => Ok(()),
    }
}

/// The container's user; `None` where it is the tar's business.
fn owner(root: BorrowedFd<'_>, spec: &ContainerSpec) -> Result<Option<(u32, u32)>, CopyError> {
    let name = &spec.config.user;
    if name.is_empty() {
        return Ok(None);
    }
    let identity = user::resolve(name, &[], &user::read_files(root));
    let identity = identity.map_err(|error| {
        let reason = error.to_string();
        // Without the name, which the text has already.
        let reason = reason.rsplit(": ").next().unwrap_or_default().to_owned();
        CopyError::User { user: name.clone(), reason }
    })?;
    Ok(Some((identity.uid, identity.gid)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn the_end_of_a_path_has_meaning() {
        for (path, whole, last) in [
            ("/etc/", "/etc/", "etc"),
            ("etc", "/etc", "etc"),
            ("/etc/.", "/etc/.", "."),
            ("/", "/", "/"),
            ("/.", "/.", "."),
            ("a/../b//c", "/b/c", "c"),
            ("..", "/", "/"),
        ] {
            assert_eq!((absolute(path).as_str(), base(&absolute(path))), (whole, last), "{path}");
        }
    }

    #[test]
    fn links_are_told_and_trailing_slashes_follow_them() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(dir.path().join("d")).expect("made");
        std::os::unix::fs::symlink("/d", dir.path().join("l")).expect("linked");
        let root = File::open(dir.path()).expect("opened");
        let link = stat(root.as_fd(), "/l").expect("there");
        assert_eq!((link.name.as_str(), link.link_target.as_str()), ("l", "/d"));
        let directory = stat(root.as_fd(), "/l/").expect("there");
        assert_eq!(
            (FileType::from_raw_mode(directory.mode), directory.link_target.as_str()),
            (FileType::Directory, "")
        );
        assert_eq!(stat(root.as_fd(), "/x").expect_err("missing").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn errors_are_said_in_gos_words() {
        let error = io::Error::from_raw_os_error(libc::ENOTDIR);
        let error = Asked { container: "c".to_owned(), path: "/f/x".to_owned() }.look(error);
        assert_eq!(error.to_string(), "lstat /f/x: not a directory");
    }
}
