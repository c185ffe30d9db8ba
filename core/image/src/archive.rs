//! Trees and tars outside of layers: `docker import`, `docker cp`, `docker export`, and the copy into an empty volume.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
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
    let target = Arc::new(target);
    copy_directory(&from, &target, &mut Copied::default()).map_err(ImageError::io("copy directory"))
}

/// Copies the upper directory `from` of an overlay mount into the empty one `to`: as [`copy_tree`], whiteouts and opaque
/// directories too. What a mount with other options wrote, which `to`'s mount would not read, is an error.
pub fn copy_upper(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), ImageError> {
    let fail = || ImageError::io("copy writable layer");
    let open = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
    let (from, to) = (open(from).map_err(fail())?, Arc::new(open(to).map_err(fail())?));
    let mut copied = Copied { marks: true, ..Copied::default() };
    copy_directory(&from, &to, &mut copied).map_err(fail())
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

fn copy_directory(from: &OwnedFd, to: &Arc<OwnedFd>, copied: &mut Copied) -> io::Result<()> {
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
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                let (below, target) = (
                    rustix::fs::openat(from, name, flags, Mode::empty())?,
                    Arc::new(rustix::fs::openat(to, name, flags, Mode::empty())?),
                );
                // It dresses `target` itself when it is done.
                copy_directory(&below, &target, copied)?;
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
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    copy_xattrs(from, to, copied.marks)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    Ok(rustix::fs::futimens(to, &times(&stat))?)
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
