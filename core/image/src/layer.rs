//! Unpacking a tar beneath a directory, every path resolved in that directory as if it were the root (openat2(2),
//! `RESOLVE_IN_ROOT`), so that no name and no link of a hostile archive leads out of it. With or without the meaning
//! that layers give to `.wh.` names (OCI image-spec "layer.md").

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use dockerd_sys::inside;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::EntryType;

use crate::error::ImageError;

/// More entries than any real layer has: an archive with more is refused before it fills the disk with inodes.
const MAX_ENTRIES: u64 = 4_000_000;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

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
#[derive(Debug, Clone, Copy, Default)]
pub struct Unpacked {
    /// Bytes of file content.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Unpacks the tar `reader` below `root`.
pub fn unpack(reader: impl Read, root: BorrowedFd<'_>, options: UnpackOptions) -> Result<Unpacked, ImageError> {
    let mut archive = tar::Archive::new(reader);
    let mut state = State { root, options, done: Unpacked::default(), directories: Vec::new() };
    let entries = archive.entries().map_err(broken)?;
    for entry in entries {
        state.entry(&mut entry.map_err(broken)?)?;
    }
    // Times of directories last: making what is in them has changed them. The deepest first is not needed then.
    for (path, time) in std::mem::take(&mut state.directories) {
        state.set_time(&path, time).map_err(failed(&path))?;
    }
    Ok(state.done)
}

fn broken(error: io::Error) -> ImageError {
    ImageError::Archive(format!("archive/tar: {error}"))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ImageError + '_ {
    move |source| ImageError::Io { action: format!("unpack {}", path.display()), source }
}

struct State<'a> {
    root: BorrowedFd<'a>,
    options: UnpackOptions,
    done: Unpacked,
    directories: Vec<(PathBuf, Timespec)>,
}

impl State<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), ImageError> {
        self.done.entries += 1;
        if self.done.entries > MAX_ENTRIES {
            return Err(ImageError::Archive(format!("archive has more than {MAX_ENTRIES} entries")));
        }
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            // Remarks on the archive as a whole, as `git archive` makes them.
            return Ok(());
        }
        let extensions = Extensions::of(entry)?;
        let path = clean(&entry.path_bytes(), "entry name")?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // Only a layer says what its root is like; what is unpacked into a directory leaves that as it is.
            return if self.options.whiteouts { self.root_entry(entry, &extensions) } else { Ok(()) };
        };
        let parent_path = path.parent().unwrap_or_else(|| Path::new(""));
        let parent = self.directory(parent_path).map_err(failed(&path))?;
        if self.options.whiteouts && name.as_bytes().starts_with(WHITEOUT) {
            return whiteout(&parent, name.as_bytes()).map_err(failed(&path));
        }
        self.clear_the_way(&parent, &path, entry.header().entry_type()).map_err(failed(&path))?;
        self.make(entry, &parent, &name, &path)?;
        self.dress(entry, &extensions, &parent, &name, &path).map_err(failed(&path))
    }

    /// The archive's `./` gives the root itself its mode and owner.
    fn root_entry<R: Read>(&self, entry: &tar::Entry<'_, R>, extensions: &Extensions) -> Result<(), ImageError> {
        let at = |error: Errno| failed(Path::new("/"))(error.into());
        let header = entry.header();
        if header.entry_type() == EntryType::Directory {
            let (uid, gid) = self.owner(header).map_err(broken)?;
            let root = rustix::fs::openat(self.root, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let root = root.map_err(at)?;
            rustix::fs::fchown(&root, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(at)?;
            rustix::fs::fchmod(&root, Mode::from_raw_mode(header.mode().map_err(broken)? & 0o7777)).map_err(at)?;
            let time = extensions.time(header).map_err(broken)?;
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::futimens(&root, &times).map_err(at)?;
        }
        Ok(())
    }

    /// Opens a directory below the root, making what is missing on the way.
    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match rustix::fs::openat2(self.root, at, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        // Where a link leads to nothing, it is that which is made.
        let real = inside::follow(self.root, &Path::new("/").join(path))?;
        let mut made = rustix::fs::openat(self.root, ".", flags, Mode::empty())?;
        for name in real.components().filter(|part| matches!(part, Component::Normal(_))) {
            match rustix::fs::mkdirat(&made, name.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            made = rustix::fs::openat(&made, name.as_os_str(), flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(made)
    }

    /// Removes what is there under that name, except a directory a directory comes to.
    fn clear_the_way(&self, parent: &OwnedFd, path: &Path, kind: EntryType) -> io::Result<()> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let was_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let is_directory = kind == EntryType::Directory;
        if was_directory && is_directory {
            return Ok(());
        }
        if was_directory != is_directory && self.options.no_overwrite_dir_non_dir {
            return Err(io::Error::other(OverwriteRefused { path: path.to_owned(), directory: was_directory }));
        }
        remove_tree(parent, name, was_directory)
    }

    fn make<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ImageError> {
        let at = failed(path);
        let header = entry.header();
        let kind = header.entry_type();
        let node = |kind: FileType, entry: &tar::Entry<'_, R>| -> io::Result<()> {
            let header = entry.header();
            // A named pipe has no numbers, and some writers leave the fields empty.
            let device = match kind {
                FileType::Fifo => 0,
                _ => rustix::fs::makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)),
            };
            Ok(rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)?)
        };
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
                let mut file = File::from(file.map_err(io::Error::from).map_err(&at)?);
                self.done.bytes += io::copy(entry, &mut file).map_err(&at)?;
                Ok(())
            }
            EntryType::Directory => match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(at(error.into())),
            },
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                rustix::fs::symlinkat(OsStr::from_bytes(&target), parent, name).map_err(|e| at(e.into()))
            }
            EntryType::Link => {
                let target = clean(&entry.link_name_bytes().unwrap_or_default(), "hardlink target")?;
                self.hard_link(&target, parent, name).map_err(at)
            }
            EntryType::Char => node(FileType::CharacterDevice, entry).map_err(at),
            EntryType::Block => node(FileType::BlockDevice, entry).map_err(at),
            EntryType::Fifo => node(FileType::Fifo, entry).map_err(at),
            other => Err(ImageError::Archive(format!("unhandled tar header type {other:?} of {}", path.display()))),
        }
    }

    /// The target's directory is resolved in the root; its last part is not followed.
    fn hard_link(&self, target: &Path, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let Some(target_name) = target.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let directory = self.directory(target.parent().unwrap_or_else(|| Path::new("")))?;
        Ok(rustix::fs::linkat(directory, target_name, parent, name, AtFlags::empty())?)
    }

    fn owner(&self, header: &tar::Header) -> io::Result<(u32, u32)> {
        let number = |value: u64| u32::try_from(value).map_err(|_| io::Error::other("owner out of range"));
        match self.options.owner {
            Some(owner) => Ok(owner),
            None => Ok((number(header.uid()?)?, number(header.gid()?)?)),
        }
    }

    /// Owner, extended attributes, mode and times, in the order in which none undoes another.
    fn dress<R: Read>(
        &mut self,
        entry: &tar::Entry<'_, R>,
        extensions: &Extensions,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<()> {
        let header = entry.header();
        let kind = header.entry_type();
        if kind == EntryType::Link {
            return Ok(());
        }
        let (uid, gid) = (extensions.uid, extensions.gid);
        let (header_uid, header_gid) = self.owner(header)?;
        let owned = self.options.owner.is_some();
        let uid = if owned { header_uid } else { uid.unwrap_or(header_uid) };
        let gid = if owned { header_gid } else { gid.unwrap_or(header_gid) };
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), no_follow)?;
        for (key, value) in &extensions.xattrs {
            set_xattr(parent, name, key, value)?;
        }
        if kind != EntryType::Symlink {
            set_mode(parent, name, Mode::from_raw_mode(header.mode()? & 0o7777))?;
        }
        let time = extensions.time(header)?;
        if kind == EntryType::Directory {
            self.directories.push((path.to_owned(), time));
            return Ok(());
        }
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::utimensat(parent, name, &times, no_follow)?)
    }

    fn set_time(&self, path: &Path, time: Timespec) -> io::Result<()> {
        let times = Timestamps { last_access: time, last_modification: time };
        let parent = self.directory(path.parent().unwrap_or_else(|| Path::new("")))?;
        let Some(name) = path.file_name() else { return Ok(()) };
        match rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW) {
            // A later entry of the archive has taken it away again.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What PAX headers add to an entry.
#[derive(Debug, Default)]
struct Extensions {
    xattrs: Vec<(String, Vec<u8>)>,
    mtime: Option<Timespec>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Extensions {
    fn of<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Self, ImageError> {
        let mut out = Self::default();
        let Some(extensions) = entry.pax_extensions().map_err(broken)? else { return Ok(out) };
        for extension in extensions {
            let extension = extension.map_err(broken)?;
            let Ok(key) = extension.key() else { continue };
            let number = || std::str::from_utf8(extension.value_bytes()).ok().and_then(|text| text.parse().ok());
            match key {
                "mtime" => out.mtime = pax_time(extension.value_bytes()),
                "uid" => out.uid = number(),
                "gid" => out.gid = number(),
                _ => {
                    if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        out.xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
                    }
                }
            }
        }
        Ok(out)
    }

    fn time(&self, header: &tar::Header) -> io::Result<Timespec> {
        let seconds = i64::try_from(header.mtime()?).unwrap_or(0);
        Ok(self.mtime.unwrap_or(Timespec { tv_sec: seconds, tv_nsec: 0 }))
    }
}

/// `seconds[.fraction]`; the fraction to nanoseconds.
fn pax_time(text: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timespec { tv_sec: seconds.parse().ok()?, tv_nsec: digits.parse().ok()? })
}

/// The path without `.` and doubled slashes, `..` resolved by name; one that leads above the root is refused.
fn clean(bytes: &[u8], what: &'static str) -> Result<PathBuf, ImageError> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::ParentDir if !out.pop() => {
                return Err(ImageError::Archive(format!("invalid {what} {:?}", path.display())));
            }
            _ => {}
        }
    }
    Ok(out)
}

fn whiteout(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    if name == OPAQUE {
        return set_xattr(parent, OsStr::new("."), "trusted.overlay.opaque", b"y");
    }
    let hidden = OsStr::from_bytes(&name[WHITEOUT.len()..]);
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(io::Error::other("whiteout without a name"));
    }
    // Other `.wh..wh.` names are notes of AUFS, which nobody needs.
    if hidden.as_bytes().starts_with(WHITEOUT) {
        return Ok(());
    }
    match rustix::fs::statat(parent, hidden, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => remove_tree(parent, hidden, FileType::from_raw_mode(stat.st_mode) == FileType::Directory)?,
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let device = rustix::fs::makedev(0, 0);
    Ok(rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), device)?)
}

fn remove_tree(parent: &OwnedFd, name: &OsStr, directory: bool) -> io::Result<()> {
    if !directory {
        return Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            entries.push((OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(), entry.file_type()));
        }
    }
    for (child, kind) in entries {
        remove_tree(&dir, &child, kind == FileType::Directory)?;
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// fchmodat(2) follows links, and a container that runs may put one there between two calls: so the entry is held first
/// and then changed through /proc, whatever has become of its name.
fn set_mode(parent: &OwnedFd, name: &OsStr, mode: Mode) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entry = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&entry)?.st_mode) == FileType::Symlink {
        return Ok(());
    }
    Ok(rustix::fs::chmod(format!("/proc/self/fd/{}", entry.as_raw_fd()), mode)?)
}

/// By path through /proc, because there is no `setxattrat` on the kernels we support; links are not followed.
fn set_xattr(parent: &OwnedFd, name: &OsStr, key: &str, value: &[u8]) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_fd().as_raw_fd()));
    path.push(name);
    match rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty()) {
        // A file system without that kind of attribute, or one only for other security modules.
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().expect("tar")
    }

    fn header(kind: EntryType, name: &str, link: &str, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn unpack_into(tar: &[u8], dir: &Path) -> Result<Unpacked, ImageError> {
        let root = File::open(dir).expect("opened");
        unpack(tar, root.as_fd(), UnpackOptions { whiteouts: true, ..UnpackOptions::default() })
    }

    #[test]
    fn privileged_links_do_not_lead_out() {
        let outside = tempfile::tempdir().expect("temporary directory");
        let dir = tempfile::tempdir().expect("temporary directory");
        let target = outside.path().to_str().expect("utf-8");
        let tar = tar_of(|tar| {
            tar.append(&header(EntryType::Symlink, "out", target, 0), io::empty()).expect("appended");
            tar.append(&header(EntryType::Regular, "out/file", "", 1), &b"x"[..]).expect("appended");
        });
        // Refused or contained: what counts is that nothing appears outside.
        let _ = unpack_into(&tar, dir.path());
        assert_eq!(std::fs::read_dir(outside.path()).expect("listed").count(), 0);
    }

    #[test]
    fn privileged_what_a_link_leads_to_is_made_within_the_root() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let tar = tar_of(|tar| {
            tar.append(&header(EntryType::Symlink, "s", "/../new/place", 0), io::empty()).expect("appended");
            tar.append(&header(EntryType::Regular, "s/d/file", "", 1), &b"x"[..]).expect("appended");
        });
        unpack_into(&tar, dir.path()).expect("unpacked");
        assert_eq!(std::fs::read(dir.path().join("new/place/d/file")).expect("read"), b"x");
    }

    #[test]
    fn privileged_names_above_the_root_are_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (kind, name, link) in [(EntryType::Regular, "../x", ""), (EntryType::Link, "x", "../../etc/passwd")] {
            let tar = tar_of(|tar| tar.append(&header(kind, name, link, 0), io::empty()).expect("appended"));
            assert!(matches!(unpack_into(&tar, dir.path()), Err(ImageError::Archive(_))), "{name}");
        }
    }

    #[test]
    fn privileged_whiteouts_and_opaque_directories() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let tar = tar_of(|tar| {
            tar.append(&header(EntryType::Regular, "d/.wh.gone", "", 0), io::empty()).expect("appended");
            tar.append(&header(EntryType::Regular, "d/.wh..wh..opq", "", 0), io::empty()).expect("appended");
        });
        unpack_into(&tar, dir.path()).expect("unpacked");
        let stat = rustix::fs::lstat(dir.path().join("d/gone")).expect("whiteout");
        assert_eq!((FileType::from_raw_mode(stat.st_mode), stat.st_rdev), (FileType::CharacterDevice, 0));
        let mut value = [0; 4];
        let length = rustix::fs::lgetxattr(dir.path().join("d"), "trusted.overlay.opaque", &mut value);
        assert_eq!((length, value[0]), (Ok(1), b'y'));
    }

    #[test]
    fn truncated_archives_are_errors() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let tar = tar_of(|tar| tar.append(&header(EntryType::Regular, "f", "", 600), &[7; 600][..]).expect("appended"));
        assert!(unpack_into(&tar[..700], dir.path()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn cleaned_paths_stay_inside(path in "[a./]{0,24}") {
            if let Ok(path) = clean(path.as_bytes(), "entry name") {
                proptest::prop_assert!(path.components().all(|c| matches!(c, Component::Normal(_))));
            }
        }
    }
}
