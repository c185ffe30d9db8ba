//! EROFS images in ordinary files as detached mounts, without a loop device (Linux 6.12 and newer), and whether this kernel
//! can. An index whose files lie in other files takes those as extra devices (the kernel's
//! Documentation/filesystems/erofs.rst).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{FsOpenFlags, fsconfig_set_string, fsopen};

use super::{READ_ONLY, create};

/// Why an image cannot be mounted from a file.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The kernel has no EROFS, and no module of it that it could load.
    #[error("this kernel has no EROFS")]
    Missing,
    /// The kernel is older than 6.12 or was built without it, or the file is on a file system that cannot hold images, such
    /// as tmpfs or overlayfs.
    #[error("EROFS wants a block device here")]
    NeedsBlockDevice,
    /// The kernel does not take this image, such as one with 512-byte blocks before Linux 6.4 or more devices than it has.
    #[error("EROFS does not take the image")]
    Refused,
    /// Anything else.
    #[error("mount EROFS: {0}")]
    Io(#[from] io::Error),
}

impl ErofsError {
    fn of(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENODEV) => Self::Missing,
            Some(libc::ENOTBLK) => Self::NeedsBlockDevice,
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Self::Refused,
            _ => Self::Io(error),
        }
    }
}

/// Mounts the image in the file `image` read-only, with the files `devices` as its extra devices in the order of its device
/// table; attribute bits `attributes` on top. All are regular files on a file system that has pages to map (not tmpfs); the
/// kernel opens them anew, so that the descriptors may be closed afterwards.
pub fn erofs(image: BorrowedFd<'_>, devices: &[BorrowedFd<'_>], attributes: u64) -> Result<OwnedFd, ErofsError> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| ErofsError::of(error.into()))?;
    let set = |key: &str, fd: BorrowedFd<'_>| {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        fsconfig_set_string(context.as_fd(), key, path).map_err(|error| ErofsError::of(error.into()))
    };
    set("source", image)?;
    for device in devices {
        set("device", *device)?;
    }
    create(context.as_fd(), attributes | READ_ONLY).map_err(ErofsError::of)
}

/// Whether images can be mounted from files here: mounts `image`, which has one file named `name` that lies on `device`, and
/// reads it. Both must be on the file system that later ones will be on. Returns the mount, and the file's first bytes, 512 at most.
pub fn try_erofs(image: BorrowedFd<'_>, device: BorrowedFd<'_>, name: &str) -> Result<(OwnedFd, Vec<u8>), ErofsError> {
    use rustix::fs::{Mode, OFlags};
    let mount = erofs(image, &[device], 0)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&mount, name, flags, Mode::empty()).map_err(|error| ErofsError::Io(error.into()))?;
    let mut bytes = vec![0; 512];
    let length = rustix::io::pread(&file, &mut bytes[..], 0).map_err(|error| ErofsError::Io(error.into()))?;
    bytes.truncate(length);
    Ok((mount, bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn privileged_what_is_no_image_is_refused() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&[0; 8192]).expect("written");
        let refused = erofs(file.as_fd(), &[], 0);
        let known = matches!(refused, Err(ErofsError::Refused | ErofsError::Missing | ErofsError::NeedsBlockDevice));
        assert!(known, "{refused:?}");
    }

    #[test]
    fn privileged_files_without_pages_want_a_block_device() {
        let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).expect("made");
        rustix::fs::ftruncate(&file, 8192).expect("long");
        let refused = erofs(file.as_fd(), &[], 0);
        assert!(matches!(refused, Err(ErofsError::NeedsBlockDevice | ErofsError::Missing)), "{refused:?}");
    }
}
