//! What can be seen of a file tree: from a [`Tree`] with its tars, and from a directory. Both give the same for the same.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::erofs::layout::{FILE, SYMLINK, TYPE_MASK};
use crate::erofs::{InodeId, Kind, Place, ROOT, Tree};

/// Times from here on are those of the test's own run, of what no entry describes.
const NOW: i64 = 1_600_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// With type.
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) links: u64,
    pub(crate) device: u64,
    /// Of a file or a link.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first name of the same inode.
    pub(crate) first: Vec<u8>,
}

/// By path; the root's is empty.
pub(crate) type View = BTreeMap<Vec<u8>, Seen>;

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// Files have the first name in the order of paths, whatever order they were met in.
fn name_first<I: Ord + Clone>(view: &mut View, inodes: &BTreeMap<Vec<u8>, I>) {
    let mut first: BTreeMap<I, Vec<u8>> = BTreeMap::new();
    for (path, inode) in inodes {
        let name = first.entry(inode.clone()).or_insert_with(|| path.clone()).clone();
        view.get_mut(path).expect("seen").first = name;
    }
}

/// What a tree shows; `tars` are its devices.
pub(crate) fn of_tree(tree: &Tree, tars: &[&[u8]]) -> View {
    let (mut view, mut inodes) = (View::new(), BTreeMap::new());
    let mut todo = vec![(Vec::new(), ROOT)];
    while let Some((path, id)) = todo.pop() {
        view.insert(path.clone(), inode(tree, tars, id));
        inodes.insert(path.clone(), id);
        todo.extend(tree.children(id).map(|(name, child)| (join(&path, name), child)));
    }
    name_first(&mut view, &inodes);
    view
}

fn inode(tree: &Tree, tars: &[&[u8]], id: InodeId) -> Seen {
    let inode = tree.inode(id);
    let mut xattrs: Vec<_> =
        tree.attributes(inode).map(|attribute| (attribute.name.to_vec(), attribute.value.to_vec())).collect();
    let (kind, device, content) = match inode.kind {
        Kind::Directory { opaque, .. } => {
            if opaque {
                xattrs.push((b"trusted.overlay.opaque".to_vec(), b"y".to_vec()));
            }
            (0o40_000, 0, Vec::new())
        }
        Kind::File { size, content } => {
            let mut bytes = vec![0; size as usize];
            for segment in tree.segments(content) {
                let (source, at) = match segment.place {
                    Place::Device(device, at) => (tars[usize::from(device)], at as usize),
                    Place::Spill(at) => (&tree.spill[..], at as usize),
                };
                let (to, length) = (segment.offset as usize, segment.length as usize);
                bytes[to..to + length].copy_from_slice(&source[at..at + length]);
            }
            (0o100_000, 0, bytes)
        }
        Kind::Symlink(span) => (0o120_000, 0, tree.target(span).to_vec()),
        Kind::CharDevice(number) => (0o20_000, number, Vec::new()),
        Kind::BlockDevice(number) => (0o60_000, number, Vec::new()),
        Kind::Fifo => (0o10_000, 0, Vec::new()),
    };
    xattrs.sort();
    let device = rustix::fs::makedev((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    Seen {
        mode: kind | u32::from(inode.mode),
        owner: (inode.uid, inode.gid),
        mtime: (inode.mtime.seconds, inode.mtime.nanos.into()),
        links: inode.links.into(),
        device,
        content,
        xattrs,
        first: Vec::new(),
    }
}

/// What a directory shows.
pub(crate) fn of_directory(root: &Path) -> View {
    look(root, false)
}

/// What an overlay of directories shows. Where only one layer has a directory, overlayfs lists its whiteouts, but does not
/// find them.
pub(crate) fn of_overlay(root: &Path) -> View {
    look(root, true)
}

fn look(root: &Path, whiteouts_listed: bool) -> View {
    let (mut view, mut inodes) = (View::new(), BTreeMap::new());
    let mut todo = vec![(Vec::new(), root.to_path_buf())];
    while let Some((path, at)) = todo.pop() {
        // The root may be a magic link.
        let meta = if path.is_empty() { std::fs::metadata(&at) } else { std::fs::symlink_metadata(&at) };
        let meta = match meta {
            Err(error) if whiteouts_listed && error.kind() == std::io::ErrorKind::NotFound => continue,
            meta => meta.expect("metadata"),
        };
        let content = match meta.mode() as u16 & TYPE_MASK {
            FILE => std::fs::read(&at).expect("read"),
            SYMLINK => std::fs::read_link(&at).expect("a target").into_os_string().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let seen = Seen {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            links: meta.nlink(),
            device: if meta.mode() as u16 & 0o20_000 != 0 && !meta.is_file() && !meta.is_symlink() {
                meta.rdev()
            } else {
                0
            },
            content,
            xattrs: xattrs(&at, path.is_empty()),
            first: Vec::new(),
        };
        view.insert(path.clone(), seen);
        inodes.insert(path.clone(), (meta.dev(), meta.ino()));
        if meta.is_dir() {
            let mut names = std::collections::BTreeSet::new();
            for entry in std::fs::read_dir(&at).expect("listed") {
                let entry = entry.expect("an entry");
                assert!(names.insert(entry.file_name()), "a name is listed once");
                todo.push((join(&path, entry.file_name().as_bytes()), entry.path()));
            }
        }
    }
    name_first(&mut view, &inodes);
    view
}

fn xattrs(path: &Path, follow: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; 64 << 10];
    let length =
        if follow { rustix::fs::listxattr(path, &mut list[..]) } else { rustix::fs::llistxattr(path, &mut list[..]) };
    let mut out = Vec::new();
    for name in list[..length.expect("listed")].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name == b"trusted.overlay.origin" {
            // Of directories with whiteouts in an index: see the writer.
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = if follow {
            rustix::fs::getxattr(path, name, &mut value[..])
        } else {
            rustix::fs::lgetxattr(path, name, &mut value[..])
        };
        out.push((name.to_vec(), value[..length.expect("an attribute")].to_vec()));
    }
    out.sort();
    out
}

/// Takes out of both what may differ: times that no entry gives, in one of them.
pub(crate) fn without_own_times(expected: &mut View, found: &mut View) {
    for (path, seen) in expected.iter_mut() {
        let Some(other) = found.get_mut(path) else { continue };
        if path.is_empty() || seen.mtime.0 >= NOW || other.mtime.0 >= NOW {
            (seen.mtime, other.mtime) = ((0, 0), (0, 0));
        }
    }
}

/// Takes the times of directories out of both. The unpacker sets them at the end by their paths, which by then may lead
/// elsewhere when links have taken the places of directories; a tree has no such late moment.
pub(crate) fn without_directory_times(expected: &mut View, found: &mut View) {
    for seen in expected.values_mut().chain(found.values_mut()).filter(|seen| seen.mode & 0o170_000 == 0o40_000) {
        seen.mtime = (0, 0);
    }
}

/// Takes the counts of links out.
pub(crate) fn without_links(view: &mut View) {
    view.values_mut().for_each(|seen| seen.links = 0);
}

/// Fails at the first path that differs.
pub(crate) fn assert_same(expected: &View, found: &View) {
    for (path, seen) in expected {
        let name = path.escape_ascii().to_string();
        assert_eq!(found.get(path), Some(seen), "{name:?} differs (found first)");
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{:?} should not be there", path.escape_ascii().to_string());
    }
}
