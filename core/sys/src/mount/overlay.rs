//! overlayfs as a detached mount, layers given by descriptor where the kernel takes them (6.13 and newer), else by path
//! through `/proc/self/fd`, which older kernels resolve while the mount is made.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{FsOpenFlags, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsopen};

use super::{READ_ONLY, create};

/// What an overlay is made of (kernel's overlayfs.rst).
#[derive(Debug)]
pub struct OverlayLayers<'a> {
    /// Read-only layers, topmost first; at least one, two when there is no upper.
    pub lower: Vec<BorrowedFd<'a>>,
    /// Data-only layers below them (redirected to, not listed).
    pub data: Vec<BorrowedFd<'a>>,
    /// Writable layer and its work directory, on one file system; `None` makes the mount read-only.
    pub upper: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// Further options, `key=value` or flags.
    pub options: &'a [&'a str],
}

/// Mounts an overlay; attribute bits `attributes` on top.
pub fn overlay(layers: &OverlayLayers<'_>, attributes: u64) -> io::Result<OwnedFd> {
    match by_descriptor(layers, attributes) {
        // EINVAL: this kernel does not know `lowerdir+` as descriptor. EOPNOTSUPP: before 6.5 overlayfs takes strings only.
        // Anything else is a real answer.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            by_path(layers, attributes)
        }
        result => result,
    }
}

fn open(layers: &OverlayLayers<'_>) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // What the mount table shows as the device.
    fsconfig_set_string(context.as_fd(), "source", "overlay")?;
    for option in layers.options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value)?,
            None => fsconfig_set_flag(context.as_fd(), *option)?,
        }
    }
    Ok(context)
}

fn by_descriptor(layers: &OverlayLayers<'_>, attributes: u64) -> io::Result<OwnedFd> {
    let context = open(layers)?;
    for lower in &layers.lower {
        fsconfig_set_fd(context.as_fd(), "lowerdir+", lower)?;
    }
    for data in &layers.data {
        fsconfig_set_fd(context.as_fd(), "datadir+", data)?;
    }
    if let Some((upper, work)) = layers.upper {
        fsconfig_set_fd(context.as_fd(), "upperdir", upper)?;
        fsconfig_set_fd(context.as_fd(), "workdir", work)?;
    }
    create(context.as_fd(), attributes | read_only(layers))
}

fn by_path(layers: &OverlayLayers<'_>, attributes: u64) -> io::Result<OwnedFd> {
    let context = open(layers)?;
    let path = |fd: &BorrowedFd<'_>| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut lower = layers.lower.iter().map(path).collect::<Vec<_>>().join(":");
    for data in &layers.data {
        lower.push_str("::");
        lower.push_str(&path(data));
    }
    fsconfig_set_string(context.as_fd(), "lowerdir", lower)?;
    if let Some((upper, work)) = layers.upper {
        fsconfig_set_string(context.as_fd(), "upperdir", path(&upper))?;
        fsconfig_set_string(context.as_fd(), "workdir", path(&work))?;
    }
    create(context.as_fd(), attributes | read_only(layers))
}

fn read_only(layers: &OverlayLayers<'_>) -> u64 {
    if layers.upper.is_none() { READ_ONLY } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_both_ways_of_naming_layers_give_the_same_tree() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let make = |name: &str| {
            std::fs::create_dir(dir.path().join(name)).expect("directory");
            std::fs::File::open(dir.path().join(name)).expect("opened")
        };
        let (one, two, upper, work) = (make("one"), make("two"), make("upper"), make("work"));
        std::fs::write(dir.path().join("one/a"), "top").expect("written");
        std::fs::write(dir.path().join("two/a"), "below").expect("written");
        let layers = OverlayLayers {
            lower: vec![one.as_fd(), two.as_fd()],
            data: Vec::new(),
            upper: Some((upper.as_fd(), work.as_fd())),
            options: &[],
        };
        for mount in [overlay(&layers, 0), by_path(&layers, 0)] {
            let mount = mount.expect("mounted");
            let file = rustix::fs::openat(&mount, "a", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
            let mut bytes = [0; 8];
            let length = rustix::io::read(file.expect("opened"), &mut bytes).expect("read");
            assert_eq!(&bytes[..length], b"top");
        }
    }
}
