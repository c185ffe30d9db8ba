//! Unpacking a tar beneath a directory ([`Tree`] resolves its paths), with or without the meaning that layers give to
//! `.wh.` names (OCI image-spec "layer.md"). Four system calls for an ordinary file: open, write, set times, close.
//! Owners, modes and times end up as the archive has them, whatever the umask and however often a directory changes
//! under way; attributes that new files would inherit from their directory are set when all files are there.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::ImageError;
use crate::tree::{Cleared, Directory, Tree, clean, set_opaque, set_xattr, size_of};
use crate::untar::{Entry, EntryKind, TarError, TarReader, TarTime};

/// More entries than any real layer has: an archive with more is refused before it fills the disk with inodes.
pub(crate) const MAX_ENTRIES: u64 = 4_000_000;
/// Longest sum of the directories' names, which are kept until the end for their times.
pub(crate) const MAX_NAMES: usize = 256 << 20;
pub(crate) const WHITEOUT: &[u8] = b".wh.";
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Attributes that only mean something to overlayfs; a layer must not bring its own.
pub(crate) const OVERLAY_ATTRIBUTES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// The attribute that new files inherit from their directory.
pub(crate) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// Set-user-id, set-group-id, sticky: a change of owner may take them away.
const SPECIAL_BITS: u32 = 0o7000;
const SET_GROUP_ID: u32 = 0o2000;

/// How names and owners are taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnpackOptions {
    /// `.wh.` names become overlayfs whiteouts; otherwise they are ordinary files.
    pub whiteouts: bool,
    /// A directory in the way of a file, or the other way round, is an error instead of replaced.
    pub no_overwrite_dir_non_dir: bool,
    /// Owner of everything instead of the archive's.
    pub owner: Option<(u32, u32)>,
}

/// A directory is in the way of something else, or the other way round, and must stay.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot overwrite {} {path:?}", if *directory { "directory" } else { "non-directory" })]
pub struct OverwriteRefused {
    /// The entry's name.
    pub path: PathBuf,
    /// Whether the directory was there first.
    pub directory: bool,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of the files as `docker images` counts them: lengths of files and symbolic links, hard links once.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Unpacks the tar `reader` below `root`. What follows the archive's end is read too, so that a digest of the stream is
/// one of the whole stream.
pub fn unpack(reader: impl Read, root: BorrowedFd<'_>, options: UnpackOptions) -> Result<Unpacked, ImageError> {
    let mut reader = TarReader::new(reader);
    let mut unpacker = Unpacker {
        tree: Tree::new(root, options.whiteouts),
        options,
        done: Unpacked::default(),
        late: Vec::new(),
        late_names: 0,
        again: false,
        umask: umask(),
        own: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        unpacker.entry(&entry, &mut reader)?;
    }
    unpacker.finish()?;
    reader.drain().map_err(|error| broken(error.into()))?;
    if unpacker.tree.replaced {
        unpacker.done.bytes = size_of(root).map_err(failed(Path::new("/")))?;
    }
    Ok(unpacker.done)
}

pub(crate) fn broken(error: TarError) -> ImageError {
    match error {
        TarError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => broken(TarError::Truncated),
        error => ImageError::Archive(error.to_string()),
    }
}

pub(crate) fn failed(path: &Path) -> impl Fn(io::Error) -> ImageError + '_ {
    move |source| ImageError::Io { action: format!("unpack {}", path.display()), source }
}

/// Mode bits that new files of this process lack; all of them where the kernel does not say.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o777)
}

/// What a directory gets when everything in it is there.
#[derive(Debug)]
struct Late {
    path: PathBuf,
    mtime: TarTime,
    atime: TarTime,
    mode: Option<u32>,
    acl: Option<Vec<u8>>,
}

struct Unpacker<'a> {
    tree: Tree<'a>,
    options: UnpackOptions,
    done: Unpacked,
    late: Vec<Late>,
    late_names: usize,
    /// Whether an entry described a directory that was there.
    again: bool,
    umask: u32,
    /// Owner of what this process makes.
    own: (u32, u32),
}

/// Where an entry goes.
struct Place<'a> {
    parent: &'a Directory,
    name: &'a OsStr,
    path: &'a Path,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut TarReader<R>) -> Result<(), ImageError> {
        self.done.entries += 1;
        if self.done.entries > MAX_ENTRIES {
            return Err(ImageError::Archive(format!("archive has more than {MAX_ENTRIES} entries")));
        }
        if let EntryKind::Other(flag) = entry.kind {
            return Err(ImageError::Archive(format!("unhandled tar header type {flag}")));
        }
        let path = clean(&entry.path).map_err(|_| outside("entry name", &entry.path))?;
        // The root itself stays as it is, as with the stock daemon.
        let Some(name) = path.file_name() else { return Ok(()) };
        let parent = self.tree.directory(path.parent().unwrap_or_else(|| Path::new(""))).map_err(failed(&path))?;
        if self.options.whiteouts && name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(entry, &parent, name.as_bytes(), &path);
        }
        let place = Place { parent: &parent, name, path: &path };
        match entry.kind {
            EntryKind::File => self.file(entry, reader, &place),
            EntryKind::Directory => self.directory(entry, &place),
            _ => self.other(entry, &place),
        }
    }

    /// Runs `make`, once more after clearing the way when something is there already.
    fn make<T>(&mut self, place: &Place<'_>, make: impl Fn() -> Result<T, Errno>) -> io::Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.tree.clear(place.parent, place.path, self.options.no_overwrite_dir_non_dir, false)?;
                Ok(make()?)
            }
            other => Ok(other?),
        }
    }

    fn file<R: Read>(&mut self, entry: &Entry, reader: &mut TarReader<R>, place: &Place<'_>) -> Result<(), ImageError> {
        let at = failed(place.path);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & !SPECIAL_BITS);
        let file = self.make(place, || rustix::fs::openat(place.parent, place.name, flags, mode)).map_err(&at)?;
        let mut file = File::from(file);
        match &entry.segments {
            None => loop {
                let piece = reader.data().map_err(broken)?;
                if piece.is_empty() {
                    break;
                }
                file.write_all(piece).map_err(&at)?;
            },
            Some(segments) => {
                for segment in segments {
                    let (mut to, end) = (segment.offset, segment.offset + segment.length);
                    while to < end {
                        let piece = reader.data_at_most(end - to).map_err(broken)?;
                        file.write_all_at(piece, to).map_err(&at)?;
                        to += piece.len() as u64;
                    }
                }
                file.set_len(entry.size).map_err(&at)?;
            }
        }
        self.done.bytes += entry.size;
        self.dress_file(entry, &file, place.parent.ours).map_err(at)
    }

    fn dress_file(&self, entry: &Entry, file: &File, ours: bool) -> io::Result<()> {
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        let chown = !ours || (uid, gid) != self.own;
        if chown {
            let (uid, gid) = owners(uid, gid);
            rustix::fs::fchown(file, uid, gid)?;
        }
        for (key, value) in attributes(entry) {
            tolerate(rustix::fs::fsetxattr(file, key, value, XattrFlags::empty()).map_err(Into::into))?;
        }
        if !ours || entry.mode & (self.umask | SPECIAL_BITS) != 0 {
            rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
        }
        Ok(rustix::fs::futimens(file, &times(entry))?)
    }

    fn directory(&mut self, entry: &Entry, place: &Place<'_>) -> Result<(), ImageError> {
        let at = failed(place.path);
        let Place { parent, name, path } = place;
        let mode = Mode::from_raw_mode(entry.mode & !SPECIAL_BITS);
        let made = match rustix::fs::mkdirat(parent, *name, mode) {
            Ok(()) => Cleared::Away,
            Err(Errno::EXIST) => {
                let keep = self.options.no_overwrite_dir_non_dir;
                let cleared = self.tree.clear(parent, path, keep, true).map_err(&at)?;
                if cleared != Cleared::Directory {
                    rustix::fs::mkdirat(parent, *name, mode).map_err(|error| at(error.into()))?;
                }
                cleared
            }
            Err(error) => return Err(at(error.into())),
        };
        if made == Cleared::Directory {
            self.again = true;
        } else {
            self.tree.made(parent, name, path).map_err(&at)?;
        }
        if made == Cleared::Whiteout {
            // What the layers below have stays hidden.
            let hidden = set_xattr(parent.as_fd(), name, OsStr::new("trusted.overlay.opaque"), b"y");
            hidden.map_err(&at)?;
        }
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        if made == Cleared::Directory || !parent.ours || (uid, gid) != self.own {
            chown(parent, name, uid, gid).map_err(&at)?;
        }
        let mut late =
            Late { path: path.to_path_buf(), mtime: entry.mtime, atime: atime(entry), mode: None, acl: None };
        for (key, value) in attributes(entry) {
            if key.as_bytes() == DEFAULT_ACL {
                late.acl = Some(value.to_vec());
            } else {
                tolerate(set_xattr(parent.as_fd(), name, key, value)).map_err(&at)?;
            }
        }
        if made == Cleared::Directory || !parent.ours || entry.mode & (self.umask | SPECIAL_BITS) != 0 {
            self.set_mode(parent, name, entry.mode & !SET_GROUP_ID).map_err(&at)?;
            late.mode = (entry.mode & SET_GROUP_ID != 0).then_some(entry.mode);
        }
        self.late_names += path.as_os_str().len();
        if self.late_names > MAX_NAMES {
            return Err(ImageError::Archive("archive has too many directories".to_owned()));
        }
        self.late.push(late);
        Ok(())
    }

    /// Links and nodes.
    fn other(&mut self, entry: &Entry, place: &Place<'_>) -> Result<(), ImageError> {
        let at = failed(place.path);
        let Place { parent, name, .. } = place;
        if entry.kind == EntryKind::HardLink {
            return self.hard_link(entry, place);
        }
        let mode = Mode::from_raw_mode(entry.mode);
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let made = self.make(place, || match entry.kind {
            EntryKind::Symlink => rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), parent, *name),
            EntryKind::CharDevice => rustix::fs::mknodat(parent, *name, FileType::CharacterDevice, mode, device),
            EntryKind::BlockDevice => rustix::fs::mknodat(parent, *name, FileType::BlockDevice, mode, device),
            _ => rustix::fs::mknodat(parent, *name, FileType::Fifo, mode, 0),
        });
        made.map_err(&at)?;
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        if !parent.ours || (uid, gid) != self.own {
            chown(parent, name, uid, gid).map_err(&at)?;
        }
        for (key, value) in attributes(entry) {
            tolerate(set_xattr(parent.as_fd(), name, key, value)).map_err(&at)?;
        }
        if entry.kind == EntryKind::Symlink {
            self.done.bytes += entry.link.len() as u64;
        } else {
            self.set_mode(parent, name, entry.mode).map_err(&at)?;
        }
        let set = rustix::fs::utimensat(parent, *name, &times(entry), AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(|error| at(error.into()))
    }

    /// The target's directory is resolved in the root; its last part is not followed.
    fn hard_link(&mut self, entry: &Entry, place: &Place<'_>) -> Result<(), ImageError> {
        let target = clean(&entry.link).map_err(|_| outside("hardlink target", &entry.link))?;
        let missing = |error: io::Error| {
            let link = OsStr::from_bytes(&entry.link);
            ImageError::Io { action: format!("linkat {} {}", link.display(), place.path.display()), source: error }
        };
        let Some(target_name) = target.file_name() else { return Err(outside("hardlink target", &entry.link)) };
        if target == place.path {
            return Err(missing(io::ErrorKind::NotFound.into()));
        }
        let directory = self.tree.directory(target.parent().unwrap_or_else(|| Path::new(""))).map_err(missing)?;
        let none = AtFlags::empty();
        let link = || rustix::fs::linkat(&directory, target_name, place.parent, place.name, none);
        self.make(place, link).map_err(missing)
    }

    fn whiteout(&mut self, entry: &Entry, parent: &Directory, name: &[u8], path: &Path) -> Result<(), ImageError> {
        let at = failed(path);
        if name == OPAQUE {
            return set_opaque(parent).map_err(at);
        }
        let hidden = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(ImageError::Archive(format!("invalid whiteout entry {:?}", path.display())));
        }
        // Other `.wh..wh.` names are notes of AUFS, which nobody needs.
        if hidden.as_bytes().starts_with(WHITEOUT) {
            return Ok(());
        }
        // A whiteout hides what is below this layer only (OCI image-spec): what the layer itself has stays.
        match rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                // Else overlayfs lists the mark where no layer below has this directory.
                let own = OsStr::new("trusted.overlay.origin");
                tolerate(set_xattr(parent.as_fd(), OsStr::new("."), own, b"")).map_err(&at)?;
                chown(parent, hidden, entry.uid, entry.gid).map_err(at)
            }
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(parent, hidden, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| at(e.into()))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Ok(());
                }
                set_xattr(parent.as_fd(), hidden, OsStr::new("trusted.overlay.opaque"), b"y").map_err(at)
            }
            Err(error) => Err(at(error.into())),
        }
    }

    /// fchmodat(2) follows links, and a container that runs may put one there between two calls: so, outside of layers, which
    /// nobody else sees yet, the entry is held first and then changed through /proc, whatever has become of its name.
    fn set_mode(&self, parent: &Directory, name: &OsStr, mode: u32) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let mode = Mode::from_raw_mode(mode);
        if self.options.whiteouts {
            return Ok(rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&entry)?.st_mode) == FileType::Symlink {
            return Ok(());
        }
        Ok(rustix::fs::chmod(format!("/proc/self/fd/{}", entry.as_raw_fd()), mode)?)
    }

    /// Directories get their times last: making what is in them has changed them.
    fn finish(&mut self) -> Result<(), ImageError> {
        let mut late = std::mem::take(&mut self.late);
        if self.again || self.tree.replaced {
            // Only the last description of a directory holds.
            let last: HashMap<_, _> = late.iter().enumerate().map(|(at, late)| (late.path.clone(), at)).collect();
            let mut at = 0..;
            late.retain(|late| last.get(&late.path).copied() == at.next());
        }
        for late in late {
            self.finish_directory(&late).map_err(failed(&late.path))?;
        }
        Ok(())
    }

    fn finish_directory(&mut self, late: &Late) -> io::Result<()> {
        let parent = match self.tree.existing(late.path.parent().unwrap_or_else(|| Path::new("")))? {
            Some(parent) => parent,
            None => return Ok(()),
        };
        let Some(name) = late.path.file_name() else { return Ok(()) };
        if self.tree.replaced {
            // A later entry may have put something else in its place.
            let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW);
            if !stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
                return Ok(());
            }
        }
        if let Some(acl) = &late.acl {
            tolerate(set_xattr(parent.as_fd(), name, OsStr::from_bytes(DEFAULT_ACL), acl))?;
        }
        if let Some(mode) = late.mode {
            self.set_mode(&parent, name, mode)?;
        }
        let times = Timestamps { last_access: timespec(late.atime), last_modification: timespec(late.mtime) };
        Ok(rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

pub(crate) fn outside(what: &str, name: &[u8]) -> ImageError {
    ImageError::Archive(format!("invalid {what} {:?}", OsStr::from_bytes(name).display()))
}

fn chown(parent: &Directory, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = owners(uid, gid);
    Ok(rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// An owner of -1 means to leave it as it is (chown(2)).
fn owners(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    let set = |id: u32| (id != u32::MAX).then_some(id);
    (set(uid).map(Uid::from_raw), set(gid).map(Gid::from_raw))
}

pub(crate) fn attributes(entry: &Entry) -> impl Iterator<Item = (&OsStr, &[u8])> {
    let foreign = |key: &[u8]| !OVERLAY_ATTRIBUTES.iter().any(|own| key.starts_with(own));
    let kept = entry.xattrs.iter().filter(move |(key, _)| foreign(key) && !key.contains(&0));
    kept.map(|(key, value)| (OsStr::from_bytes(key), &value[..]))
}

/// Attributes the file system cannot hold or we may not set are left out, as the stock daemon does.
pub(crate) fn tolerate(result: io::Result<()>) -> io::Result<()> {
    match result.as_ref().err().and_then(Errno::from_io_error) {
        Some(Errno::OPNOTSUPP | Errno::PERM) => {
            tracing::debug!(error = ?result, "attribute left out");
            Ok(())
        }
        _ => result,
    }
}

fn atime(entry: &Entry) -> TarTime {
    entry.atime.unwrap_or_default().max(entry.mtime)
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps { last_access: timespec(atime(entry)), last_modification: timespec(entry.mtime) }
}

fn timespec(time: TarTime) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() }
}

#[cfg(test)]
mod tests;
