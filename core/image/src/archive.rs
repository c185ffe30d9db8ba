//! Trees and tars outside of layers: `docker import`, `docker cp`, `docker export`, and the copy into an empty volume.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerd_types::container::ContainerConfig;
use dockerd_types::{Reference, Timestamp};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::changes;
use crate::config::{History, ImageConfig, RootFs, RunConfig};
use crate::decompress;
use crate::error::ImageError;
use crate::layer::{self, UnpackOptions, Unpacked};
use crate::lease::Lease;
use crate::load::Platform;
use crate::publish::NewImage;
use crate::store::{Image, ImageStore};

/// What an import makes of a tar.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The image's name.
    pub reference: Option<Reference>,
    /// Dockerfile instructions for its configuration.
    pub changes: Vec<String>,
    /// Comment of its history.
    pub message: String,
    /// What it is for.
    pub platform: Platform,
    /// This engine's version, for the record.
    pub engine_version: String,
}

impl ImageStore {
    /// Makes an image of one layer from the tar `reader`, compressed or not.
    pub fn import(&self, reader: impl Read + Send, options: &ImportOptions) -> Result<Arc<Image>, ImageError> {
        let mut run = ContainerConfig::default();
        changes::apply(&mut run, &options.changes)?;
        let lease = Lease::new(self);
        let layer = self.new_layer(&lease, None, &mut *decompress::plain(reader)?)?;
        let now = Timestamp::now().rfc3339_nano();
        let config = ImageConfig {
            architecture: options.platform.architecture.clone(),
            variant: options.platform.variant.clone(),
            os: options.platform.os.clone(),
            created: Some(now.clone()),
            comment: options.message.clone(),
            docker_version: options.engine_version.clone(),
            config: Some(RunConfig::of(&run)),
            container_config: Some(RunConfig::of(&ContainerConfig::default())),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![layer.diff_id.clone()] },
            history: vec![History { created: Some(now), comment: options.message.clone(), ..History::default() }],
            ..ImageConfig::default()
        };
        let raw = serde_json::to_vec(&config).map_err(|error| ImageError::Archive(error.to_string()))?;
        let references: Vec<Reference> = options.reference.clone().into_iter().collect();
        let new = NewImage {
            raw_config: raw.into(),
            layers: vec![layer],
            references,
            parent: None,
            tagged: true,
            manifests: Vec::new(),
        };
        let mut added = self.add_images(vec![new])?;
        added.pop().ok_or_else(|| ImageError::Archive("image was not added".to_owned()))
    }
}

/// Unpacks the tar `reader`, compressed or not, into `directory`, which is the root for everything in the archive.
pub fn extract(
    reader: impl Read + Send,
    directory: BorrowedFd<'_>,
    options: UnpackOptions,
) -> Result<Unpacked, ImageError> {
    layer::unpack(decompress::plain(reader)?, directory, options)
}

/// Removes a file, or a directory with everything in it, following no link. Unlike the standard library's way this costs neither
/// stack nor descriptors by the depth of a tree, which may have been made by a container.
pub fn remove_all(path: &Path) -> std::io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let is_directory = std::fs::symlink_metadata(path)?.is_dir();
    crate::tree::remove_tree(std::fs::File::open(parent)?.as_fd(), name, is_directory)
}

/// Copies what is below directory `path` of the tree `root` (resolved in it) into the directory `to`: content, owners,
/// modes, times, links, extended attributes. The directory's own owner and mode go to `to`. A `path` that is no directory
/// copies nothing, as Docker has it.
pub fn copy_tree(root: BorrowedFd<'_>, path: &Path, to: &Path) -> Result<(), ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = match rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(from) => from,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(ImageError::io("open directory to copy")(error.into())),
    };
    let target = rustix::fs::open(to, flags, Mode::empty()).map_err(|e| ImageError::io("open volume")(e.into()))?;
    copy_directory(from.as_fd(), target.as_fd(), &mut Copied::default()).map_err(ImageError::io("copy directory"))
}

/// Copies the upper directory `from` of an overlay mount into the empty one `to`: as [`copy_tree`], whiteouts and opaque
/// directories too. What a mount with other options wrote, which `to`'s mount would not read, is an error.
pub fn copy_upper(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), ImageError> {
    let fail = || ImageError::io("copy writable layer");
    let mut copied = Copied { marks: true, ..Copied::default() };
    copy_directory(from, to, &mut copied).map_err(fail())
}

/// Files with several names remembered at most.
const MOST_LINKED: usize = 4096;

/// What a copy remembers.
#[derive(Debug, Default)]
struct Copied {
    /// Files with several names that have been copied: by device and number, where.
    /// Beyond [`MOST_LINKED`], which bounds the directories held open, links become files of their own.
    linked: HashMap<(u64, u64), (Arc<OwnedFd>, OsString)>,
    /// Whether the marks of an overlay's upper directory are kept.
    marks: bool,
}

/// What is still to be done of a copy.
enum Step {
    /// The directory is to be copied; it is there, and empty.
    Fill(PathBuf),
    /// All that is in it is there.
    Dress(PathBuf),
}

/// A directory of a tree, by its path in it. Neither leads a link anywhere.
fn open_below(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?)
}

/// Copies a whole tree. Costs neither stack nor descriptors by its depth, which may be a container's doing; one that is
/// deeper than paths can be is refused by the kernel.
fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, copied: &mut Copied) -> io::Result<()> {
    let mut steps = vec![Step::Fill(PathBuf::new())];
    while let Some(step) = steps.pop() {
        match step {
            Step::Fill(path) => {
                let (source, target) = (open_below(from, &path)?, Arc::new(open_below(to, &path)?));
                let below = copy_entries(&source, &target, copied)?;
                let below: Vec<Step> = below.into_iter().map(|name| Step::Fill(path.join(name))).collect();
                steps.push(Step::Dress(path));
                steps.extend(below);
            }
            Step::Dress(path) => {
                let (source, target) = (open_below(from, &path)?, open_below(to, &path)?);
                let stat = rustix::fs::fstat(&source)?;
                rustix::fs::fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
                copy_xattrs(&source, &target, copied.marks)?;
                rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode))?;
                rustix::fs::futimens(&target, &times(&stat))?;
            }
        }
    }
    Ok(())
}

/// Copies what is in one directory; the directories in it are made, and named for the caller to go on with.
fn copy_entries(from: &OwnedFd, to: &Arc<OwnedFd>, copied: &mut Copied) -> io::Result<Vec<OsString>> {
    let mut below = Vec::new();
    for entry in rustix::fs::Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some((directory, first)) = copied.linked.get(&(stat.st_dev, stat.st_ino)) {
                rustix::fs::linkat(directory, first, to, name, AtFlags::empty())?;
                continue;
            }
            let name = OsStr::from_bytes(name.to_bytes()).to_owned();
            if copied.linked.len() >= MOST_LINKED {
                copied.linked.clear();
            }
            copied.linked.insert((stat.st_dev, stat.st_ino), (to.clone(), name));
        }
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                below.push(OsStr::from_bytes(name.to_bytes()).to_owned());
                continue;
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = File::from(rustix::fs::openat(from, name, read, Mode::empty())?);
                let copy = File::from(rustix::fs::openat(to, name, write, Mode::RUSR | Mode::WUSR)?);
                copy_content(&source, &copy)?;
                // The owner first: a change of it takes file capabilities away.
                rustix::fs::fchown(&copy, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
                copy_xattrs(&source, &copy, copied.marks)?;
                rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode))?;
                rustix::fs::futimens(&copy, &times(&stat))?;
                continue;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
            }
            _ => rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
        }
        rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(below)
}

/// Copies what a file has between its holes (lseek(2), `SEEK_DATA`). The standard library leaves the copying to the kernel,
/// which takes blocks over by reference where the file system can.
fn copy_content(from: &File, to: &File) -> io::Result<()> {
    let mut at = 0;
    loop {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            // A file system that does not know its holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data)).unwrap_or(u64::MAX);
        rustix::fs::seek(from, SeekFrom::Start(data))?;
        rustix::fs::seek(to, SeekFrom::Start(data))?;
        let copied = io::copy(&mut from.take(hole - data), &mut &*to)?;
        at = data + copied;
        if copied < hole - data {
            break;
        }
    }
    to.set_len(from.metadata()?.len())
}

fn times(stat: &rustix::fs::Stat) -> Timestamps {
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Attributes of the union mount itself (`trusted.overlay.*`) stay behind, unless `marks` are kept; then those that say
/// where else to look (`redirect`, `metacopy`) are refused.
fn copy_xattrs(from: impl AsFd, to: impl AsFd, marks: bool) -> io::Result<()> {
    let mut names = vec![0; 16 * 1024];
    let length = match rustix::fs::flistxattr(&from, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        match name.strip_prefix("trusted.overlay.") {
            None => {}
            Some("opaque") if marks => {}
            Some("redirect" | "metacopy") if marks => {
                return Err(io::Error::other(format!("a file has the attribute {name}, which is not supported")));
            }
            Some(_) => continue,
        }
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::fgetxattr(&from, name, &mut value)?;
        match rustix::fs::fsetxattr(&to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories in each other, made one by one; the innermost has a file.
    fn nested(root: &Path, depth: usize) {
        let mut at = OwnedFd::from(File::open(root).expect("opened"));
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "dd", Mode::from_raw_mode(0o751)).expect("made");
            at = rustix::fs::openat(&at, "dd", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("opened");
        }
        let file = rustix::fs::openat(&at, "file", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).expect("made");
        rustix::io::write(&file, b"inside").expect("written");
    }

    fn copied(depth: usize) -> (tempfile::TempDir, Result<(), ImageError>) {
        let (from, to) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        nested(from.path(), depth);
        let root = File::open(from.path()).expect("opened");
        // Recursion would end here long before.
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let result = std::thread::scope(|scope| {
            let copy = small.spawn_scoped(scope, || copy_tree(root.as_fd(), Path::new("."), to.path()));
            copy.expect("spawned").join().expect("ended")
        });
        remove_all(&from.keep()).expect("removed");
        (to, result)
    }

    #[test]
    fn deep_trees_are_copied_as_far_as_paths_reach() {
        let (to, result) = copied(1_300);
        result.expect("copied");
        let path = to.path().join("dd/".repeat(1_300));
        // Path and name together are just short enough.
        assert_eq!(std::fs::read(path.join("file")).expect("read"), b"inside");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).expect("there"));
        assert_eq!(mode & 0o7777, 0o751);
        remove_all(&to.keep()).expect("removed");
        let (to, result) = copied(3_000);
        assert!(result.is_err_and(|error| error.to_string().contains("File name too long")));
        remove_all(&to.keep()).expect("removed");
    }
}
