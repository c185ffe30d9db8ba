//! What every container finds, made where its image lacks it (Docker's init layer): mount points for what the daemon brings.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::make_dir;
use crate::erofs::{Kind, Tree};

const DIRECTORIES: [&str; 6] = ["dev", "dev/pts", "dev/shm", "proc", "sys", "etc"];
const FILES: [&str; 5] = [".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/console"];

/// Mode, owner and group of a directory.
type Dress = (u32, u32, u32);

/// The tree of an image, in which paths are looked up as if it were the root.
pub(super) trait ImageTree {
    /// Whether there is something at `path`, a link included.
    fn has(&self, path: &str) -> bool;
    /// The description of the directory at `path`.
    fn directory(&self, path: &Path) -> io::Result<Option<Dress>>;
}

impl ImageTree for OwnedFd {
    fn has(&self, path: &str) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat2(self, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
    }

    fn directory(&self, path: &Path) -> io::Result<Option<Dress>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::openat2(self, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) else {
            return Ok(None);
        };
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Some((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)))
    }
}

impl ImageTree for Tree {
    fn has(&self, path: &str) -> bool {
        self.locate(path.as_bytes(), false).is_some()
    }

    fn directory(&self, path: &Path) -> io::Result<Option<Dress>> {
        let found = self.locate(path.as_os_str().as_bytes(), true).map(|id| self.inode(id));
        let directory = found.filter(|inode| matches!(inode.kind, Kind::Directory { .. }));
        Ok(directory.map(|inode| (u32::from(inode.mode), inode.uid, inode.gid)))
    }
}

/// Makes in the empty directory `to` what the tree `image` lacks.
pub(super) fn fill(image: Option<&dyn ImageTree>, to: &Path) -> io::Result<()> {
    let lacks = |name: &str| image.is_none_or(|image| !image.has(name));
    for name in DIRECTORIES.into_iter().filter(|name| lacks(name)) {
        copy_parents(image, to, Path::new(name).parent())?;
        make_dir(&to.join(name), 0o755)?;
    }
    for name in FILES.into_iter().filter(|name| lacks(name)) {
        copy_parents(image, to, Path::new(name).parent())?;
        let file = File::create(to.join(name))?;
        // As Docker's have it; the umask has no say.
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
    }
    if lacks("etc/mtab") {
        copy_parents(image, to, Some(Path::new("etc")))?;
        std::os::unix::fs::symlink("/proc/mounts", to.join("etc/mtab"))?;
    }
    Ok(())
}

/// Directories of what is added: with the image's mode and owner, because the topmost layer's count.
fn copy_parents(image: Option<&dyn ImageTree>, to: &Path, directory: Option<&Path>) -> io::Result<()> {
    let Some(directory) = directory.filter(|d| !d.as_os_str().is_empty()) else { return Ok(()) };
    let target = to.join(directory);
    if target.exists() {
        return Ok(());
    }
    copy_parents(image, to, directory.parent())?;
    make_dir(&target, 0o755)?;
    if let Some((mode, uid, gid)) = image.map(|image| image.directory(directory)).transpose()?.flatten() {
        std::os::unix::fs::lchown(&target, Some(uid), Some(gid))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_has_is_left_to_it() {
        let (image, to) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
        for name in ["dev", "etc"] {
            make_dir(&image.path().join(name), 0o700).expect("made");
        }
        fs::write(image.path().join("etc/hosts"), "x").expect("written");
        std::os::unix::fs::symlink("nowhere", image.path().join("etc/mtab")).expect("linked");
        let root = super::super::open_dir(image.path()).expect("opened");
        fill(Some(&root), to.path()).expect("filled");
        let mode = |name: &str| fs::metadata(to.path().join(name)).expect(name).permissions().mode() & 0o7777;
        for name in ["dev/pts", "dev/shm", "proc", "sys", ".dockerenv", "etc/hostname", "dev/console"] {
            assert_eq!(mode(name), 0o755, "{name}");
        }
        for name in ["dev", "etc"] {
            assert_eq!(mode(name), 0o700, "as the image has it");
        }
        for name in ["etc/hosts", "etc/mtab"] {
            assert!(fs::symlink_metadata(to.path().join(name)).is_err(), "{name}");
        }
    }
}
