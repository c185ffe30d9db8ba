//! Paths inside a root that is not to be trusted: every step is resolved beneath the root's descriptor, symbolic links
//! included (openat2(2), `RESOLVE_IN_ROOT`), and what is missing is made.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What to make where a path is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644.
    File,
}

/// Opens `path` below `root` as a location only (`O_PATH`).
pub(super) fn locate(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    Ok(open(root, path, OFlags::PATH, ResolveFlags::empty())?)
}

/// As [`locate`], refusing symbolic links on the way: for places where a link of the image must not lead astray.
pub(super) fn locate_plain(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    Ok(open(root, path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)?)
}

fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags, extra: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | extra;
    let path = if path.is_empty() { "/" } else { path };
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// As [`locate`], making the last part as `missing` says, and directories on the way, where they do not exist.
pub(super) fn locate_or_make(root: BorrowedFd<'_>, path: &str, missing: Missing) -> io::Result<OwnedFd> {
    match open(root, path, OFlags::PATH, ResolveFlags::empty()) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let trimmed = path.trim_end_matches('/');
    let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    if name.is_empty() || name == ".." || name == "." {
        return Err(io::ErrorKind::NotFound.into());
    }
    let parent = locate_or_make(root, parent, Missing::Directory)?;
    match missing {
        Missing::Directory => make_directory(parent.as_fd(), name)?,
        Missing::File => make_file(parent.as_fd(), name)?,
    }
    // Resolved again from the root: a dangling link of that name is not followed out, it is an error.
    Ok(open(root, path, OFlags::PATH, ResolveFlags::empty())?)
}

fn make_directory(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => chmod(parent, name, 0o755),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn make_file(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn chmod(parent: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

/// Whether the location is a directory.
pub(super) fn is_directory(fd: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}
