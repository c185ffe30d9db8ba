//! Paths inside a root that is not to be trusted: every step is resolved beneath the root's descriptor, symbolic links
//! included (openat2(2), `RESOLVE_IN_ROOT`), so that no link leads out. Finds, makes, follows and reads.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat, openat2};
use rustix::io::Errno;

/// Largest file read; account files of real images are far smaller.
const LIMIT: u64 = 4 << 20;
/// Symbolic links followed for one path; the kernel's own limit is 40.
const MOST_LINKS: usize = 255;

/// Opens the regular file `path` below `root` for reading.
pub fn open(root: BorrowedFd<'_>, path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The text of the regular file `path` below `root`; what is no UTF-8 is replaced.
pub fn read_to_string(root: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(root, path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is at `path` below `root`, itself if it is a symbolic link (lstat(2): a trailing slash follows it).
pub fn lstat(root: BorrowedFd<'_>, path: &OsStr) -> io::Result<Stat> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::fstat(openat2(root, path, flags, Mode::empty(), resolve)?)?)
}

/// Where the absolute `path` leads when every symbolic link in it is followed within `root`: an absolute path without
/// links. What is missing is kept as written.
pub fn follow(root: BorrowedFd<'_>, path: &Path) -> io::Result<PathBuf> {
    let mut done = PathBuf::from("/");
    let mut left: Vec<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        match readlink(root, &next)? {
            None => done = next,
            Some(target) => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                left.extend(parts(&target));
            }
        }
    }
    Ok(done)
}

/// Names of a path in the order in which [`Vec::pop`] gives them.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

/// The target of the link at `path`, whose directories are no links; `None` for anything else, and for nothing.
fn readlink(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<PathBuf>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::readlinkat(found, "", Vec::new()) {
        Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()).into())),
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What to make where a path is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644.
    File,
}

/// Opens `path` below `root` as a location only (`O_PATH`).
pub fn locate(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    Ok(open_at(root, path, OFlags::PATH, ResolveFlags::empty())?)
}

/// As [`locate`], refusing symbolic links on the way: for places where a link of the image must not lead astray.
pub fn locate_plain(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    Ok(open_at(root, path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)?)
}

fn open_at(root: BorrowedFd<'_>, path: &str, flags: OFlags, extra: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | extra;
    let path = if path.is_empty() { "/" } else { path };
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// As [`locate`], making the last part as `missing` says, and directories on the way, where they do not exist.
pub fn locate_or_make(root: BorrowedFd<'_>, path: &str, missing: Missing) -> io::Result<OwnedFd> {
    match open_at(root, path, OFlags::PATH, ResolveFlags::empty()) {
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
    Ok(open_at(root, path, OFlags::PATH, ResolveFlags::empty())?)
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
pub fn is_directory(fd: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(dir.path().join("etc")).expect("made");
        std::fs::write(dir.path().join("etc/real"), "inside").expect("written");
        std::os::unix::fs::symlink("/etc/real", dir.path().join("etc/link")).expect("linked");
        std::os::unix::fs::symlink("../../../etc/passwd", dir.path().join("etc/out")).expect("linked");
        let root = File::open(dir.path()).expect("opened");
        assert_eq!(read_to_string(root.as_fd(), "etc/link").expect("read"), "inside");
        assert!(read_to_string(root.as_fd(), "etc/out").is_err());
        assert!(read_to_string(root.as_fd(), "etc").is_err());
    }

    #[test]
    fn links_are_followed_within_the_root() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, dir.path().join(name)).expect("linked");
        };
        std::fs::create_dir_all(dir.path().join("a/b")).expect("made");
        link("/a", "abs");
        link("../../../a/b", "up");
        link("missing/x", "broken");
        link("loop", "loop");
        let root = File::open(dir.path()).expect("opened");
        let followed = |path: &str| follow(root.as_fd(), Path::new(path));
        for (path, leads) in [
            ("/abs/b", "/a/b"),
            ("/up/", "/a/b"),
            ("/broken", "/missing/x"),
            ("/a/../abs", "/a"),
            ("/../..", "/"),
            ("/none/../abs", "/a"),
        ] {
            assert_eq!(followed(path).expect(path), Path::new(leads), "{path}");
        }
        assert!(followed("/loop").is_err());
        let kind = |path: &str| lstat(root.as_fd(), OsStr::new(path)).map(|stat| stat.st_mode & libc::S_IFMT);
        assert_eq!(kind("/abs").expect("there"), libc::S_IFLNK);
        assert_eq!(kind("/abs/").expect("there"), libc::S_IFDIR);
        assert_eq!(kind("/../abs/b").expect("there"), libc::S_IFDIR);
    }
}
