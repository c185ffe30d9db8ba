//! What a directory of files has become since it was written out from a tree: for drivers whose snapshots are copies. Found
//! as Docker's vfs driver finds it, by looking at everything: kind, mode, owner, device, length and time of each file, the
//! target of links, and the attributes that layers keep. A file changed to one of the same length and time is not seen.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::ChangeKind;
use crate::diff::{self, Attributes, LONGEST_PATH, is_kept_attribute};
use crate::erofs::{Inode, InodeId, Kind, ROOT, Tree, device_parts};

/// One path that differs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// Relative to the root.
    pub(super) path: PathBuf,
    pub(super) kind: ChangeKind,
    /// Bytes of the file that is there now.
    pub(super) size: u64,
}

/// Differences of the directory `root` from `base`, in the order of their paths. A directory in which something differs does
/// so too.
pub(super) fn differences(root: &OwnedFd, base: &Tree) -> io::Result<Vec<Difference>> {
    let mut out = Vec::new();
    let mut walk = Walk { base, out: &mut out, seen: BTreeSet::new() };
    super::with_deep_stack(|| walk.directory(root, Path::new(""), Some(ROOT)))?;
    Ok(out)
}

struct Walk<'a> {
    base: &'a Tree,
    out: &'a mut Vec<Difference>,
    /// Files with several names whose bytes are counted.
    seen: BTreeSet<u64>,
}

impl Walk<'_> {
    /// Compares what is in a directory. Depth is bounded by the length of paths.
    fn directory(&mut self, open: &OwnedFd, path: &Path, before: Option<InodeId>) -> io::Result<()> {
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let mut names = BTreeSet::new();
        for entry in rustix::fs::Dir::read_from(open)? {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if name != "." && name != ".." {
                names.insert(name);
            }
        }
        if let Some(before) = before {
            names.extend(self.base.children(before).map(|(name, _)| OsStr::from_bytes(name).to_owned()));
        }
        for name in names {
            let before = before.and_then(|directory| self.base.child(directory, name.as_bytes()));
            self.entry(open, &name, &path.join(&name), before)?;
        }
        Ok(())
    }

    fn entry(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path, before: Option<InodeId>) -> io::Result<()> {
        let place = self.out.len();
        let note = |out: &mut Vec<Difference>, kind, size| {
            out.insert(place, Difference { path: path.to_owned(), kind, size });
        };
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                // What a running container made and took away again meanwhile was nothing before.
                if before.is_some() {
                    note(self.out, ChangeKind::Deleted, 0);
                }
                return Ok(());
            }
            stat => stat?,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                Ok(open) => self.directory(&open, path, before)?,
                // Something else by now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let size = if is_directory { 0 } else { self.size(&stat) };
        match before {
            None => note(self.out, ChangeKind::Added, size),
            Some(id) => {
                let inode = self.base.inode(id);
                let below = self.out.len() > place;
                if below || !is_same(self.base, inode, parent, name, &stat)? {
                    note(self.out, ChangeKind::Modified, size);
                }
            }
        }
        Ok(())
    }

    fn size(&mut self, stat: &Stat) -> u64 {
        let counted = stat.st_nlink < 2 || self.seen.insert(stat.st_ino);
        if counted { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 }
    }
}

/// Whether nothing of it was changed; of directories the times and sizes do not count, as under Docker.
fn is_same(tree: &Tree, inode: &Inode, parent: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<bool> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let device = |number| {
        let (major, minor) = device_parts(number);
        rustix::fs::makedev(major, minor) == stat.st_rdev
    };
    let alike = match (inode.kind, FileType::from_raw_mode(stat.st_mode)) {
        (Kind::Directory { .. }, FileType::Directory) | (Kind::Fifo, FileType::Fifo) => true,
        (Kind::File { size: before, .. }, FileType::RegularFile) => before == size,
        (Kind::Symlink(target), FileType::Symlink) => {
            let now = rustix::fs::readlinkat(parent, name, Vec::new());
            now.is_ok_and(|now| now.as_bytes() == tree.target(target))
        }
        (Kind::CharDevice(number), FileType::CharacterDevice) | (Kind::BlockDevice(number), FileType::BlockDevice) => {
            device(number)
        }
        _ => false,
    };
    let is_link = matches!(inode.kind, Kind::Symlink(_));
    let dressed = (stat.st_uid, stat.st_gid) == (inode.uid, inode.gid)
        && (is_link || stat.st_mode & 0o7777 == u32::from(inode.mode));
    // A file system may keep less of a time than the index does.
    let nanos = (u64::from(inode.mtime.nanos), stat.st_mtime_nsec);
    let same_time = stat.st_mtime == inode.mtime.seconds && (nanos.0 == nanos.1 || nanos.0 == 0 || nanos.1 == 0);
    let is_directory = matches!(inode.kind, Kind::Directory { .. });
    if !alike || !dressed || !(is_directory || same_time) {
        return Ok(false);
    }
    if !matches!(inode.kind, Kind::File { .. } | Kind::Directory { .. }) {
        return Ok(true);
    }
    let Some(now) = kept_attributes(parent, name)? else { return Ok(true) };
    let before = tree.attributes(inode).filter(|attribute| is_kept_attribute(&attribute.name));
    let mut before: Vec<(&[u8], &[u8])> = before.map(|attribute| (&*attribute.name, &*attribute.value)).collect();
    before.sort_unstable();
    Ok(now.iter().map(|(name, value)| (name.as_bytes(), &value[..])).eq(before))
}

/// Attributes of a file or directory that a layer keeps, in order; `None` where there can be none, or it is gone.
fn kept_attributes(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<Attributes>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(mut found) = diff::attributes_if_any(file.as_fd())? else { return Ok(None) };
    found.sort_unstable();
    Ok(Some(found))
}
