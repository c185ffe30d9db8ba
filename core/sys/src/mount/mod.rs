//! Mounts by descriptor: make a file system or a bind as a *detached* tree, set its attributes, attach it where a
//! descriptor says (fsopen(2), fsmount(2), open_tree(2), mount_setattr(2), move_mount(2)). A detached tree has no path,
//! so nothing can leak into other namespaces, and it goes when its descriptor is closed.

mod erofs;
pub mod local;
mod overlay;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

pub use erofs::{ErofsError, erofs, try_erofs};
pub use overlay::{OverlayLayers, overlay, takes_detached};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// Attributes of one mount, as [`set_attributes`] and [`file_system`] take them (`MOUNT_ATTR_*`, mount_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear (only for existing mounts).
    pub clear: u64,
}

/// Mount is read-only.
pub const READ_ONLY: u64 = 0x1;
/// Set-user-id bits have no effect.
pub const NO_SUID: u64 = 0x2;
/// Device nodes cannot be opened.
pub const NO_DEV: u64 = 0x4;
/// Programs cannot be run.
pub const NO_EXEC: u64 = 0x8;
/// All the access time modes; clear it when setting one.
pub const ATIME_MASK: u64 = 0x70;
/// Access times are never updated.
pub const NO_ATIME: u64 = 0x10;
/// Access times are always updated.
pub const STRICT_ATIME: u64 = 0x20;
/// Access times of directories are not updated.
pub const NO_DIR_ATIME: u64 = 0x80;

/// How mount events pass between copies of a mount (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    /// Both ways.
    Shared,
    /// Into this copy only.
    Slave,
    /// None.
    Private,
    /// None, and cannot be bound again.
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Shared => libc::MS_SHARED,
            Self::Slave => libc::MS_SLAVE,
            Self::Private => libc::MS_PRIVATE,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// Makes a file system of type `kind` with `options` (`key=value` or a flag each) as a detached mount with the
/// attribute bits `attributes`. The option `source` is what the mount table shows as the device.
pub fn file_system(kind: &str, options: &[String], attributes: u64) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value)?,
            None => fsconfig_set_flag(context.as_fd(), option.as_str())?,
        }
    }
    create(context.as_fd(), attributes)
}

/// The mount of a file system whose options are all set.
pub(crate) fn create(context: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    fsconfig_create(context)?;
    let bits = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, bits)?)
}

/// A detached copy of what is at `path` (a bind mount that is attached nowhere yet).
pub fn bind(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(rustix::fs::CWD, path, bind_flags(recursive))?)
}

/// A detached copy of the mount or the directory behind `fd`.
pub fn bind_fd(fd: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(fd, "", bind_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)?)
}

fn bind_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// Attaches the detached `tree` at the file or directory behind `target`.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", target, "", flags)?)
}

/// Attaches the detached `tree` at `path`.
pub fn attach_at(tree: impl AsFd, path: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", rustix::fs::CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes attributes and propagation of the mount at `fd`, of its whole tree where `recursive`.
#[allow(unsafe_code, reason = "mount_setattr has no safe wrapper")]
pub fn set_attributes(
    fd: impl AsFd,
    attributes: Attributes,
    propagation: Option<Propagation>,
    recursive: bool,
) -> io::Result<()> {
    let attr = MountAttr {
        set: attributes.set,
        clear: attributes.clear,
        propagation: propagation.map_or(0, Propagation::bits),
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and attr a valid mount_attr of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the propagation of `path` and everything below it.
pub fn set_propagation(path: &CStr, propagation: Propagation) -> io::Result<()> {
    let flags =
        nix::mount::MsFlags::from_bits_retain(propagation.bits() as libc::c_ulong) | nix::mount::MsFlags::MS_REC;
    nix::mount::mount(None::<&CStr>, path, None::<&CStr>, flags, None::<&CStr>).map_err(io::Error::from)
}

/// Makes the current directory, which must be a mount point, the root and forgets the old one (pivot_root(2), "new root
/// and put old may be the same").
pub fn pivot_here() -> io::Result<()> {
    nix::unistd::pivot_root(".", ".").map_err(io::Error::from)?;
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).map_err(io::Error::from)?;
    nix::unistd::chdir("/").map_err(io::Error::from)
}

/// Detaches the mount at `path`; a path that is no mount point is not an error.
pub fn detach(path: &Path) -> io::Result<()> {
    match nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
