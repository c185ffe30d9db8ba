//! The directory an archive is unpacked into: every path is resolved in it as if it were the root (openat2(2),
//! `RESOLVE_IN_ROOT`), so that no name and no link of a hostile archive leads out of it; the last part of a path is never
//! followed. Directories that were opened are remembered, which saves the walk for each of the files in them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use crate::error::ImageError;
use crate::layer::OverwriteRefused;
use crate::trash::temporary_name;

/// Directories held open at most.
const MOST_OPEN: usize = 256;
/// Directories in each other that are held open while they are removed.
const MOST_LEVELS: usize = 128;
/// Links that lead nowhere followed at most on one path; the kernel's own bound.
const MAX_LINKS: u32 = 40;
const OPEN: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open directory of the tree.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    fd: Rc<OwnedFd>,
    /// Made by this run, so that it has no set-group-id bit and no default ACL yet which its files would inherit.
    pub(crate) ours: bool,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A root and what is known of the directories in it.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    root: BorrowedFd<'a>,
    open: HashMap<PathBuf, Directory>,
    /// The directory of the last path: most entries are in the same as the one before.
    last: Option<(PathBuf, Directory)>,
    /// Whether something was taken away again that had been there.
    pub(crate) replaced: bool,
    /// Whether `.wh.` names mean something.
    layer: bool,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>, layer: bool) -> Self {
        Self { root, open: HashMap::new(), last: None, replaced: false, layer }
    }

    /// A directory below the root, with what is missing on the way made.
    pub(crate) fn directory(&mut self, path: &Path) -> io::Result<Directory> {
        if let Some((known, directory)) = &self.last
            && known == path
        {
            return Ok(directory.clone());
        }
        let directory = self.resolve(path, 0)?;
        self.last = Some((path.to_owned(), directory.clone()));
        Ok(directory)
    }

    /// A directory below the root, if it is there.
    pub(crate) fn existing(&mut self, path: &Path) -> io::Result<Option<Directory>> {
        if let Some(known) = self.open.get(path) {
            return Ok(Some(known.clone()));
        }
        let at = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match rustix::fs::openat2(self.root, at, OPEN, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(fd) => Ok(Some(self.remember(path, fd, false))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn resolve(&mut self, path: &Path, links: u32) -> io::Result<Directory> {
        if let Some(directory) = self.open.get(path) {
            return Ok(directory.clone());
        }
        let at = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match rustix::fs::openat2(self.root, at, OPEN, Mode::empty(), ResolveFlags::IN_ROOT) {
            // The root of a layer is new.
            Ok(fd) => return Ok(self.remember(path, fd, self.layer && path.as_os_str().is_empty())),
            Err(Errno::NOENT | Errno::NOTDIR) if !path.as_os_str().is_empty() => {}
            Err(error) => return Err(error.into()),
        }
        // Missing: from the root down, part by part.
        let (mut so_far, mut parent) = (PathBuf::new(), self.resolve(Path::new(""), links)?);
        for part in path.iter() {
            so_far.push(part);
            parent = match self.open.get(&so_far) {
                Some(known) => known.clone(),
                None => self.make_implied(&parent, part, &so_far, links)?,
            };
        }
        Ok(parent)
    }

    /// A directory no entry has announced; mode and owner as the stock daemon gives them.
    fn make_implied(&mut self, parent: &Directory, name: &OsStr, path: &Path, links: u32) -> io::Result<Directory> {
        let made = match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::openat2(self.root, path, OPEN, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(fd) => Ok(self.remember(path, fd, made)),
            Err(Errno::NOTDIR) if self.is_whiteout(parent, name) => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                let fd = rustix::fs::openat2(self.root, path, OPEN, Mode::empty(), ResolveFlags::IN_ROOT)?;
                set_opaque(&fd)?;
                Ok(self.remember(path, fd, true))
            }
            // A link to what is not there (yet): the directory it leads to, in the root, is made.
            Err(Errno::NOENT) if links < MAX_LINKS => {
                let real = dockerd_sys::inside::follow(self.root, &Path::new("/").join(path))?;
                self.resolve(real.strip_prefix("/").unwrap_or(&real), links + 1)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn remember(&mut self, path: &Path, fd: OwnedFd, ours: bool) -> Directory {
        if self.open.len() >= MOST_OPEN {
            self.open.clear();
        }
        let directory = Directory { fd: Rc::new(fd), ours };
        self.open.insert(path.to_owned(), directory.clone());
        directory
    }

    /// Notes that `path` was just made, as an ordinary directory.
    pub(crate) fn made(&mut self, parent: &Directory, name: &OsStr, path: &Path) -> io::Result<()> {
        let fd = rustix::fs::openat(parent, name, OPEN | OFlags::NOFOLLOW, Mode::empty())?;
        self.remember(path, fd, true);
        Ok(())
    }

    fn is_whiteout(&self, parent: &Directory, name: &OsStr) -> bool {
        self.layer && rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| is_whiteout(&stat))
    }

    /// Takes away what is in the way of a new `name`; a directory stays when a directory comes. Says whether a whiteout
    /// of the same layer was in the way.
    pub(crate) fn clear(
        &mut self,
        parent: &Directory,
        path: &Path,
        keep_other_kind: bool,
        for_directory: bool,
    ) -> io::Result<Cleared> {
        let Some(name) = path.file_name() else { return Ok(Cleared::Directory) };
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Cleared::Away),
            Err(error) => return Err(error.into()),
        };
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if directory && for_directory {
            return Ok(Cleared::Directory);
        }
        if directory != for_directory && keep_other_kind {
            return Err(io::Error::other(OverwriteRefused { path: path.to_owned(), directory }));
        }
        // Paths through it may lead elsewhere now.
        self.open.clear();
        self.last = None;
        self.replaced = true;
        remove_tree(parent.as_fd(), name, directory)?;
        Ok(if self.layer && is_whiteout(&stat) { Cleared::Whiteout } else { Cleared::Away })
    }
}

/// What became of something in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cleared {
    /// Nothing is there now.
    Away,
    /// Nothing is there now; there was a whiteout.
    Whiteout,
    /// A directory, which stays.
    Directory,
}

/// How overlayfs marks what a layer hides (kernel's overlayfs.rst, "whiteouts and opaque directories").
pub(crate) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Hides what lower layers have in this directory.
pub(crate) fn set_opaque(directory: impl AsFd) -> io::Result<()> {
    set_xattr(directory.as_fd(), OsStr::new("."), OsStr::new("trusted.overlay.opaque"), b"y")
}

/// Sets an attribute of what is in `parent`, without following it. The call takes no directory descriptor; the magic
/// link of one is as good.
pub(crate) fn set_xattr(parent: BorrowedFd<'_>, name: &OsStr, key: &OsStr, value: &[u8]) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
    Ok(rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty())?)
}

/// Removes a file, or a directory with everything in it, not following links and not by recursion, so that depth costs
/// no stack; directories deep in others are moved up into `parent` first, so that it costs no descriptors either.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr, directory: bool) -> io::Result<()> {
    if !directory {
        return Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut stack = vec![(rustix::fs::openat(parent, name, flags, Mode::empty())?, name.to_owned())];
    let mut moved = Vec::new();
    while let Some((open, _)) = stack.last() {
        let mut below = None;
        for entry in rustix::fs::Dir::read_from(open)? {
            let entry = entry?;
            let child = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(child.as_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::unlinkat(open, child, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) if stack.len() >= MOST_LEVELS => {
                    let name = std::ffi::OsString::from(temporary_name());
                    rustix::fs::renameat(open, child, parent, &name)?;
                    moved.push(name);
                }
                Err(Errno::ISDIR | Errno::PERM) => {
                    below = Some((rustix::fs::openat(open, child, flags, Mode::empty())?, child.to_owned()));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(below) = below {
            stack.push(below);
            continue;
        }
        let Some((_, done)) = stack.pop() else { break };
        match stack.last() {
            Some((above, _)) => rustix::fs::unlinkat(above, &done, AtFlags::REMOVEDIR)?,
            None => {
                rustix::fs::unlinkat(parent, &done, AtFlags::REMOVEDIR)?;
                if let Some(next) = moved.pop() {
                    stack.push((rustix::fs::openat(parent, &next, flags, Mode::empty())?, next));
                }
            }
        }
    }
    Ok(())
}

/// The path without `.` and doubled slashes, `..` resolved by name; one that leads above the root is refused. A leading
/// slash means the root of the archive, as it does to the stock daemon.
pub(crate) fn clean(bytes: &[u8]) -> Result<PathBuf, ImageError> {
    let path = Path::new(OsStr::from_bytes(bytes));
    if bytes.contains(&0) {
        return Err(ImageError::Archive(format!("invalid archive: {:?} has a zero byte", path.display())));
    }
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::ParentDir if !out.pop() => {
                return Err(ImageError::Archive(format!(
                    "invalid archive: {:?} is outside of the root",
                    path.display()
                )));
            }
            _ => {}
        }
    }
    Ok(out)
}

/// Bytes of the files in a tree as `docker images` counts them: lengths of files and links, hard links once.
pub(crate) fn size_of(root: BorrowedFd<'_>) -> io::Result<u64> {
    let mut seen = std::collections::HashSet::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut todo = vec![rustix::fs::openat(root, ".", flags, Mode::empty())?];
    let mut total = 0;
    while let Some(directory) = todo.pop() {
        let mut below = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                below.push(rustix::fs::openat(&directory, name, flags, Mode::empty())?);
                continue;
            }
            let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if stat.st_nlink < 2 || seen.insert(stat.st_ino) {
                total += u64::try_from(stat.st_size).unwrap_or(0);
            }
        }
        todo.append(&mut below);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_above_the_root() {
        assert_eq!(clean(b"/a/./b//c/../d/").ok(), Some(PathBuf::from("a/b/d")));
        assert_eq!(clean(b"./").ok(), Some(PathBuf::new()));
        for bad in [&b"../x"[..], b"a/../../x", b"/..", b"a\0b"] {
            assert!(clean(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn deep_trees_are_removed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = std::fs::File::open(dir.path()).expect("opened");
        let deep: PathBuf = std::iter::repeat_n("d", 400).collect();
        std::fs::create_dir_all(dir.path().join("top").join(&deep)).expect("directories");
        std::fs::write(dir.path().join("top/d/file"), "x").expect("file");
        std::os::unix::fs::symlink("/etc", dir.path().join("top/d/link")).expect("link");
        remove_tree(root.as_fd(), OsStr::new("top"), true).expect("removed");
        assert!(!dir.path().join("top").exists() && Path::new("/etc").exists());
        // Deeper than what is held open.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::openat(&root, ".", flags, Mode::empty()).expect("opened");
        for _ in 0..10 * MOST_LEVELS {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("made");
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).expect("opened");
        }
        remove_tree(root.as_fd(), OsStr::new("d"), true).expect("removed");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
    }

    proptest::proptest! {
        #[test]
        fn cleaned_paths_stay_inside(path in "[a./]{0,24}") {
            if let Ok(path) = clean(path.as_bytes()) {
                proptest::prop_assert!(path.components().all(|c| matches!(c, Component::Normal(_))));
            }
        }
    }
}
