//! Building the container's root in the new mount namespace: mounts, device nodes, links, `pivot_root`, hidden and
//! read-only paths. Runs in the new process, before the workload; order follows the OCI runtime-spec.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use dockerd_sys::inside::{self, Missing};
use dockerd_sys::mount;
use dockerd_sys::mount::{Attributes, READ_ONLY};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::Errno;

use super::failure::{At, Setup};
use super::plan::{DeviceNode, LaunchPlan, MountSource, MountStep, Step};

/// Links every container has in /dev (OCI runtime-spec, "Dev symbolic links").
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Attaches the root, mounts everything in it and makes the device nodes. The working directory is the new root then.
pub(super) fn assemble(plan: &LaunchPlan, rootfs: &OwnedFd) -> Setup<()> {
    mount::set_propagation(c"/", plan.host_propagation).at(Step::Root, "/")?;
    mount::attach_at(rootfs, Path::new(&plan.mount_point)).at(Step::Root, &plan.mount_point)?;
    if let Some(propagation) = plan.root_propagation {
        mount::set_attributes(rootfs, Attributes::default(), Some(propagation), true).at(Step::Root, "/")?;
    }
    let root = rootfs.as_fd();
    for step in &plan.mounts {
        match mount_one(root, step) {
            Err(failure) if !step.optional || failure.errno == 0 => return Err(failure),
            _ => {}
        }
    }
    let mut parent = None;
    for device in &plan.devices {
        let (name, directory) = open_parent(root, device, &mut parent).at(Step::Device, &device.path)?;
        make_node(directory, name, device).at(Step::Device, &device.path)?;
    }
    link_devices(root).at(Step::Device, "/dev")
}

/// Makes the assembled root the root of this process, and forgets the host's.
pub(super) fn pivot(rootfs: &OwnedFd) -> Setup<()> {
    rustix::process::fchdir(rootfs).map_err(io::Error::from).at(Step::Pivot, "/")?;
    mount::pivot_here().at(Step::Pivot, "/")
}

/// Hides and protects what the plan says; the root must be the container's by now.
pub(super) fn protect(plan: &LaunchPlan, rootfs: &OwnedFd) -> Setup<()> {
    for path in &plan.readonly_paths {
        make_read_only(rootfs.as_fd(), path).at(Step::Mask, path)?;
    }
    let mut covers = Covers::default();
    for path in &plan.masked_paths {
        mask(rootfs.as_fd(), path, &mut covers).at(Step::Mask, path)?;
    }
    if plan.readonly_root {
        let attributes = Attributes { set: READ_ONLY, clear: 0 };
        mount::set_attributes(rootfs, attributes, None, false).at(Step::Root, "/")?;
    }
    Ok(())
}

fn mount_one(root: BorrowedFd<'_>, step: &MountStep) -> Setup<()> {
    match &step.source {
        MountSource::FileSystem { kind, options } => {
            let tree = mount::file_system(kind, options, step.attributes.set).at(Step::Mount, &step.target)?;
            // proc and sysfs must be where the kernel's interface is expected, whatever links the image has there.
            let target = match kind.as_str() {
                "proc" | "sysfs" => inside::locate_or_make(root, &step.target, Missing::Directory)
                    .and_then(|_| inside::locate_plain(root, &step.target)),
                _ => inside::locate_or_make(root, &step.target, Missing::Directory),
            };
            let target = target.at(Step::Mount, &step.target)?;
            if let Some(propagation) = step.propagation {
                mount::set_attributes(&tree, Attributes::default(), Some(propagation), true)
                    .at(Step::Mount, &step.target)?;
            }
            mount::attach(tree, target).at(Step::Mount, &step.target)
        }
        MountSource::Bind { path, recursive } => bind(root, step, path, *recursive),
        MountSource::Remount => {
            let target = inside::locate(root, &step.target).at(Step::Mount, &step.target)?;
            mount::set_attributes(target, step.attributes, None, false).at(Step::Mount, &step.target)
        }
        MountSource::Symlink { to } => symlink(root, &step.target, to).at(Step::Mount, &step.target),
    }
}

fn bind(root: BorrowedFd<'_>, step: &MountStep, source: &str, recursive: bool) -> Setup<()> {
    let tree = mount::bind(Path::new(source), recursive).at(Step::Mount, source)?;
    let missing = if inside::is_directory(&tree).at(Step::Mount, source)? { Missing::Directory } else { Missing::File };
    let attributes = step.attributes;
    if attributes != Attributes::default() || step.propagation.is_some() {
        if step.recursive_attributes {
            // Where a sub-mount refuses (locked flags), protect at least the top, as runc does for plain `ro`.
            let whole = mount::set_attributes(&tree, attributes, None, true);
            whole.or_else(|_| mount::set_attributes(&tree, attributes, None, false)).at(Step::Mount, &step.target)?;
        } else {
            mount::set_attributes(&tree, attributes, None, false).at(Step::Mount, &step.target)?;
        }
        if step.propagation.is_some() {
            mount::set_attributes(&tree, Attributes::default(), step.propagation, true)
                .at(Step::Mount, &step.target)?;
        }
    }
    let target = inside::locate_or_make(root, &step.target, missing).at(Step::Mount, &step.target)?;
    if (missing == Missing::Directory) != inside::is_directory(&target).at(Step::Mount, &step.target)? {
        let both = format!("{source:?} to rootfs at {:?}", step.target);
        return Err(io::Error::from_raw_os_error(Errno::NOTDIR.raw_os_error())).at(Step::Mount, &both);
    }
    mount::attach(tree, target).at(Step::Mount, &step.target)
}

fn symlink(root: BorrowedFd<'_>, path: &str, to: &str) -> io::Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = inside::locate_or_make(root, parent, Missing::Directory)?;
    match rustix::fs::symlinkat(to, parent, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The node's name and directory. Nearly all are in /dev, so the last directory stays open in `last`.
fn open_parent<'a, 'b>(
    root: BorrowedFd<'_>,
    device: &'a DeviceNode,
    last: &'b mut Option<(&'a str, OwnedFd)>,
) -> io::Result<(&'a str, BorrowedFd<'b>)> {
    let (path, name) = device.path.rsplit_once('/').unwrap_or(("", &device.path));
    if last.as_ref().is_none_or(|(known, _)| *known != path) {
        *last = Some((path, inside::locate_or_make(root, path, Missing::Directory)?));
    }
    let (_, directory) = last.as_ref().ok_or(io::ErrorKind::NotFound)?;
    Ok((name, directory.as_fd()))
}

fn make_node(parent: BorrowedFd<'_>, name: &str, device: &DeviceNode) -> io::Result<()> {
    let kind = match device.kind {
        'b' => FileType::BlockDevice,
        'p' => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let mode = Mode::from_raw_mode(device.mode);
    let number = rustix::fs::makedev(device.major, device.minor);
    match rustix::fs::mknodat(parent, name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    // The directory's default ACL may have had its say on the mode.
    rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
    if (device.uid, device.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn link_devices(root: BorrowedFd<'_>) -> io::Result<()> {
    let dev = inside::locate_or_make(root, "/dev", Missing::Directory)?;
    for (name, to) in DEVICE_LINKS {
        match rustix::fs::symlinkat(to, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn make_read_only(root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    let tree = mount::bind_fd(&target, true)?;
    mount::set_attributes(&tree, Attributes { set: READ_ONLY, clear: 0 }, None, true)?;
    mount::attach(tree, target)
}

/// What masked paths are covered with, made or opened once.
#[derive(Default)]
struct Covers {
    /// An empty read-only file system, for directories; it is the same for all of them.
    empty: Option<OwnedFd>,
    /// `/dev/null`, for anything else.
    null: Option<OwnedFd>,
}

fn mask(root: BorrowedFd<'_>, path: &str, covers: &mut Covers) -> io::Result<()> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    if !inside::is_directory(&target)? {
        if covers.null.is_none() {
            covers.null = Some(inside::locate(root, "/dev/null")?);
        }
        let null = covers.null.as_ref().ok_or(io::ErrorKind::NotFound)?;
        return mount::attach(mount::bind_fd(null, false)?, target);
    }
    if let Some(empty) = &covers.empty {
        return mount::attach(mount::bind_fd(empty, false)?, target);
    }
    let options = ["source=tmpfs", "nr_blocks=1", "nr_inodes=1"].map(str::to_owned);
    let empty = mount::file_system("tmpfs", &options, READ_ONLY)?;
    mount::attach(&empty, target)?;
    covers.empty = Some(empty);
    Ok(())
}

fn existing(root: BorrowedFd<'_>, path: &str) -> io::Result<Option<OwnedFd>> {
    match inside::locate(root, path) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.raw_os_error(), Some(code) if code == Errno::NOENT.raw_os_error() || code == Errno::NOTDIR.raw_os_error()) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
