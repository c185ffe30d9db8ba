//! overlayfs as a detached mount, layers given by descriptor where the kernel takes them (6.13 and newer), else by path
//! through `/proc/self/fd`, which older kernels resolve while the mount is made: all in one text, or, since that must be short,
//! one by one (6.7 and newer), or by mount(2), whose text may be longer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::mount::MsFlags;
use rustix::mount::{FsOpenFlags, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsopen};

use super::{Attributes, READ_ONLY, bind, create, detach, file_system, set_attributes};

/// Bytes of a text that fsconfig(2) takes.
const LONGEST: usize = 255;

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
        // EINVAL: this kernel does not know `lowerdir+` as descriptor. EBADF: nor does it take the root of a mount for one.
        // EOPNOTSUPP: before 6.5 overlayfs takes strings only. Anything else is a real answer.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EBADF | libc::EOPNOTSUPP)) => {
            by_paths(layers, attributes)
        }
        result => result,
    }
}

/// Whether overlays can lie upon trees that are mounted nowhere: 6.12 can, 6.1 cannot. Tried once.
pub fn takes_detached() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let try_it = || {
        let (one, two) = (file_system("tmpfs", &[], READ_ONLY)?, file_system("tmpfs", &[], READ_ONLY)?);
        let lower = vec![one.as_fd(), two.as_fd()];
        overlay(&OverlayLayers { lower, data: Vec::new(), upper: None, options: &[] }, 0).map(drop)
    };
    *KNOWN.get_or_init(|| try_it().is_ok())
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

fn by_paths(layers: &OverlayLayers<'_>, attributes: u64) -> io::Result<OwnedFd> {
    if joined(layers).len() <= LONGEST {
        return by_one_text(layers, attributes);
    }
    match by_added_paths(layers, attributes) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => by_old_call(layers, attributes),
        result => result,
    }
}

fn path(fd: &BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The value of `lowerdir`.
fn joined(layers: &OverlayLayers<'_>) -> String {
    let mut lower = layers.lower.iter().map(path).collect::<Vec<_>>().join(":");
    for data in &layers.data {
        lower.push_str("::");
        lower.push_str(&path(data));
    }
    lower
}

fn by_one_text(layers: &OverlayLayers<'_>, attributes: u64) -> io::Result<OwnedFd> {
    let context = open(layers)?;
    fsconfig_set_string(context.as_fd(), "lowerdir", joined(layers))?;
    finish_by_path(&context, layers, attributes)
}

fn by_added_paths(layers: &OverlayLayers<'_>, attributes: u64) -> io::Result<OwnedFd> {
    let context = open(layers)?;
    for lower in &layers.lower {
        fsconfig_set_string(context.as_fd(), "lowerdir+", path(lower))?;
    }
    for data in &layers.data {
        fsconfig_set_string(context.as_fd(), "datadir+", path(data))?;
    }
    finish_by_path(&context, layers, attributes)
}

fn finish_by_path(context: &OwnedFd, layers: &OverlayLayers<'_>, attributes: u64) -> io::Result<OwnedFd> {
    if let Some((upper, work)) = layers.upper {
        fsconfig_set_string(context.as_fd(), "upperdir", path(&upper))?;
        fsconfig_set_string(context.as_fd(), "workdir", path(&work))?;
    }
    create(context.as_fd(), attributes | read_only(layers))
}

/// mount(2) attaches; what it made is copied without its place and detached again.
fn by_old_call(layers: &OverlayLayers<'_>, attributes: u64) -> io::Result<OwnedFd> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut options: Vec<String> = layers.options.iter().map(|option| (*option).to_owned()).collect();
    options.push(format!("lowerdir={}", joined(layers)));
    if let Some((upper, work)) = layers.upper {
        options.extend([format!("upperdir={}", path(&upper)), format!("workdir={}", path(&work))]);
    }
    let name = format!("overlay-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let place = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new().mode(0o700).create(&place)?;
    let flags = if layers.upper.is_none() { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let mounted = nix::mount::mount(Some("overlay"), &place, Some("overlay"), flags, Some(options.join(",").as_str()));
    let tree = mounted.map_err(io::Error::from).and_then(|()| {
        let tree = bind(&place, false);
        detach(&place)?;
        let tree = tree?;
        if attributes != 0 {
            set_attributes(&tree, Attributes { set: attributes, clear: 0 }, None, false)?;
        }
        Ok(tree)
    });
    std::fs::remove_dir(&place)?;
    tree
}

fn read_only(layers: &OverlayLayers<'_>) -> u64 {
    if layers.upper.is_none() { READ_ONLY } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_all_ways_of_naming_layers_give_the_same_tree() {
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
        let added = by_added_paths(&layers, 0);
        let is_unknown = added.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL));
        let mut mounts = Vec::from([overlay, by_one_text, by_old_call].map(|way| way(&layers, 0)));
        if !is_unknown {
            mounts.push(added);
        }
        for mount in mounts {
            let mount = mount.expect("mounted");
            let file = rustix::fs::openat(&mount, "a", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
            let mut bytes = [0; 8];
            let length = rustix::io::read(file.expect("opened"), &mut bytes).expect("read");
            assert_eq!(&bytes[..length], b"top");
        }
    }
}
