//! From a layer's tar to a tree, without its content. What comes out is what [`crate::layer::unpack`] would make of the same
//! tar in a directory, entry by entry: what replaces what, where links on the way lead, which directories are implied, what
//! whiteouts do (OCI image-spec "layer.md"). Where no entry says so, times are those of the entry that made it necessary.
//!
//! Entries may also come from a table of contents, without the tar ([`Scanner`]): where content lies is the caller's to say.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::IndexError;
use super::sparse::{self, Step};
use super::tree::{
    Content, Device, Inode, InodeId, Kind, MAX_NAME, Place, ROOT, Segment, Tree, TreeBuilder, device_number,
};
use super::xattr::{Attribute, SetId, is_acl};
use crate::error::ImageError;
use crate::layer::{self, MAX_ENTRIES, OPAQUE, Unpacked, WHITEOUT, broken, failed, outside};
use crate::tree::clean;
use crate::untar::{Entry, EntryKind, Skip, TarReader, TarTime};

/// Symbolic links followed for one path; the kernel's own bound.
const MAX_LINKS: u32 = 40;
/// Names looked up for one path, those of links included: more than a path can have.
const MAX_STEPS: usize = 8192;
/// Longest path that the kernel takes, and longest target of a link.
const MAX_PATH: usize = 4095;

/// A scanned tar.
#[derive(Debug)]
pub struct Scanned {
    /// Its files; their content lies on device 0, the tar.
    pub tree: Tree,
    /// As the unpacker counts.
    pub unpacked: Unpacked,
    /// Bytes of the whole stream.
    pub tar_bytes: u64,
}

/// Scans the tar `reader` to the end of the stream. `tag` goes to the device table; see [`Device`].
pub fn scan(reader: impl Skip, tag: [u8; 64]) -> Result<Scanned, ImageError> {
    let mut reader = TarReader::skipping(reader);
    let mut scanner = Scanner::new();
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        scanner.take(&entry, &mut reader)?;
    }
    let tar_bytes = reader.drain().map_err(|error| broken(error.into()))?;
    let (tree, unpacked) = scanner.finish(tar_bytes, tag);
    Ok(Scanned { tree, unpacked, tar_bytes })
}

/// A tree that grows by the entries of a layer, in their order.
#[derive(Debug)]
pub(crate) struct Scanner {
    tree: TreeBuilder,
    /// The directory of the last path: most entries are in the same as the one before.
    last: Option<(PathBuf, InodeId)>,
    entries: u64,
}

/// Who knows where the content of an entry lies.
trait Contents {
    /// Keeps in `tree` where the content of the file `entry` lies, which is called for each file at most once.
    fn place(&mut self, entry: &Entry, tree: &mut TreeBuilder) -> Result<Content, ImageError>;
}

/// The whole content lies from here on on device 0.
struct At(u64);

impl Contents for At {
    fn place(&mut self, entry: &Entry, tree: &mut TreeBuilder) -> Result<Content, ImageError> {
        let whole = Segment { offset: 0, length: entry.size, place: Place::Device(0, self.0) };
        Ok(tree.add_segments([whole])?)
    }
}

impl<R: Skip> Contents for TarReader<R> {
    fn place(&mut self, entry: &Entry, tree: &mut TreeBuilder) -> Result<Content, ImageError> {
        let position = self.position();
        let Some(segments) = &entry.segments else { return At(position).place(entry, tree) };
        let base = tree.spill.len();
        let plan = sparse::plan(segments, entry.size, position, base)?;
        // Bounded by the plan.
        tree.spill.resize(base + plan.spill as usize, 0);
        for step in plan.steps {
            match step {
                Step::Stay(length) => self.pass(length).map_err(broken)?,
                Step::Copy { length, to } => {
                    let (mut at, end) = (base + to as usize, base + (to + length) as usize);
                    while at < end {
                        let piece = self.data_at_most((end - at) as u64).map_err(broken)?;
                        tree.spill[at..at + piece.len()].copy_from_slice(piece);
                        at += piece.len();
                    }
                }
            }
        }
        let pieces = plan.pieces.into_iter().map(|piece| match piece.place {
            Place::Spill(at) => Segment { place: Place::Spill(base as u64 + at), ..piece },
            Place::Device(..) => piece,
        });
        Ok(tree.add_segments(pieces)?)
    }
}

/// Where an entry goes.
struct Spot<'a> {
    parent: InodeId,
    name: &'a [u8],
    path: &'a Path,
}

impl Scanner {
    /// Of no entries yet.
    pub(crate) fn new() -> Self {
        Self { tree: TreeBuilder::new(), last: None, entries: 0 }
    }

    /// Takes an entry whose content, if it is a file with any, lies in one piece from byte `at` of device 0 on, where a block
    /// begins.
    pub(crate) fn entry(&mut self, entry: &Entry, at: u64) -> Result<(), ImageError> {
        self.take(entry, &mut At(at))
    }

    /// The tree, whose device 0 has `bytes` bytes, and what the unpacker would count.
    pub(crate) fn finish(mut self, bytes: u64, tag: [u8; 64]) -> (Tree, Unpacked) {
        self.tree.devices.push(Device { blocks: bytes.div_ceil(super::layout::BLOCK), tag });
        let tree = self.tree.finish();
        let unpacked = Unpacked { bytes: tree.size(), entries: self.entries };
        (tree, unpacked)
    }

    fn take(&mut self, entry: &Entry, contents: &mut impl Contents) -> Result<(), ImageError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(ImageError::Archive(format!("archive has more than {MAX_ENTRIES} entries")));
        }
        if let EntryKind::Other(flag) = entry.kind {
            return Err(ImageError::Archive(format!("unhandled tar header type {flag}")));
        }
        let path = clean(&entry.path).map_err(|_| outside("entry name", &entry.path))?;
        // The root itself stays as it is, as with the stock daemon.
        let Some(name) = path.file_name() else { return Ok(()) };
        let parent = self.directory(path.parent().unwrap_or_else(|| Path::new("")), entry.mtime);
        let spot = Spot { parent: parent.map_err(failed(&path))?, name: name.as_bytes(), path: &path };
        if spot.name.len() > MAX_NAME {
            return Err(failed(&path)(Errno::NAMETOOLONG.into()));
        }
        if spot.name.starts_with(WHITEOUT) {
            return self.whiteout(entry, &spot);
        }
        match entry.kind {
            EntryKind::Directory => self.add_directory(entry, &spot),
            EntryKind::HardLink => self.hard_link(entry, &spot),
            _ => {
                let kind = self.kind(entry, contents, &path)?;
                let inode = self.dressed(entry, kind)?;
                let inode = self.tree.add_inode(inode)?;
                self.put(&spot, inode)
            }
        }
    }

    /// Gives the name to `inode`, with whatever has it taken away.
    fn put(&mut self, spot: &Spot<'_>, inode: InodeId) -> Result<(), ImageError> {
        if self.tree.link(spot.parent, spot.name, inode)? {
            // Paths through it may lead elsewhere now.
            self.last = None;
        }
        Ok(())
    }

    fn kind(&mut self, entry: &Entry, contents: &mut impl Contents, path: &Path) -> Result<Kind, ImageError> {
        let refused = |errno: Errno| failed(path)(errno.into());
        let number = || device_number(entry.device.0, entry.device.1).ok_or_else(|| refused(Errno::INVAL));
        Ok(match entry.kind {
            EntryKind::File => Kind::File { size: entry.size, content: contents.place(entry, &mut self.tree)? },
            EntryKind::Symlink if entry.link.is_empty() => return Err(refused(Errno::NOENT)),
            EntryKind::Symlink if entry.link.len() > MAX_PATH => return Err(refused(Errno::NAMETOOLONG)),
            EntryKind::Symlink if entry.link.contains(&0) => return Err(refused(Errno::INVAL)),
            EntryKind::Symlink => Kind::Symlink(self.tree.add_text(&entry.link)?),
            EntryKind::CharDevice => Kind::CharDevice(number()?),
            EntryKind::BlockDevice => Kind::BlockDevice(number()?),
            _ => Kind::Fifo,
        })
    }

    /// An inode as the entry describes it.
    fn dressed(&mut self, entry: &Entry, kind: Kind) -> Result<Inode, ImageError> {
        let xattrs = attributes(entry, &kind)?;
        let xattrs =
            if xattrs.is_empty() { SetId::default() } else { self.tree.xattrs.replace(SetId::default(), xattrs)? };
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { entry.mode as u16 & 0o7777 };
        let (uid, gid) = (owner(entry.uid, 0), owner(entry.gid, 0));
        Ok(Inode { mode, uid, gid, mtime: entry.mtime, links: 0, kind, xattrs })
    }

    fn add_directory(&mut self, entry: &Entry, spot: &Spot<'_>) -> Result<(), ImageError> {
        let there = self.tree.child(spot.parent, spot.name);
        let found = there.map(|id| (id, *self.tree.inode(id)));
        if let Some((id, known)) = found
            && known.is_directory()
        {
            // It stays, with what is in it, and takes the new description.
            let xattrs = attributes(entry, &known.kind)?;
            let xattrs = self.tree.xattrs.replace(known.xattrs, xattrs)?;
            let (uid, gid) = (owner(entry.uid, known.uid), owner(entry.gid, known.gid));
            let mode = entry.mode as u16 & 0o7777;
            *self.tree.inode_mut(id) = Inode { mode, uid, gid, mtime: entry.mtime, xattrs, ..known };
            return Ok(());
        }
        // What the layers below have stays hidden behind a directory in the place of a whiteout.
        let opaque = found.is_some_and(|(_, known)| known.is_whiteout());
        let kind = self.tree.directory_in(spot.parent, opaque)?;
        let inode = self.dressed(entry, kind)?;
        let id = self.tree.add_inode(inode)?;
        self.put(spot, id)
    }

    /// The target's directory is resolved in the root; its last part is not followed.
    fn hard_link(&mut self, entry: &Entry, spot: &Spot<'_>) -> Result<(), ImageError> {
        let target = clean(&entry.link).map_err(|_| outside("hardlink target", &entry.link))?;
        let missing = |source: io::Error| {
            let link = OsStr::from_bytes(&entry.link);
            ImageError::Io { action: format!("linkat {} {}", link.display(), spot.path.display()), source }
        };
        let Some(name) = target.file_name() else { return Err(outside("hardlink target", &entry.link)) };
        if target == spot.path {
            return Err(missing(io::ErrorKind::NotFound.into()));
        }
        let directory = self.directory(target.parent().unwrap_or_else(|| Path::new("")), entry.mtime);
        let directory = directory.map_err(missing)?;
        let find = |tree: &TreeBuilder| tree.child(directory, name.as_bytes());
        let inode = find(&self.tree).ok_or_else(|| missing(Errno::NOENT.into()))?;
        if let Some(before) = self.tree.child(spot.parent, spot.name) {
            // What is in the way goes first, and may have been the target, or have held it.
            self.tree.unlink(spot.parent, spot.name);
            self.last = None;
            let held = self.tree.inode(before).is_directory() && self.tree.is_within(directory, before);
            if held || find(&self.tree).is_none() {
                return Err(missing(Errno::NOENT.into()));
            }
        }
        if self.tree.inode(inode).is_directory() {
            return Err(missing(Errno::PERM.into()));
        }
        self.put(spot, inode)
    }

    fn whiteout(&mut self, entry: &Entry, spot: &Spot<'_>) -> Result<(), ImageError> {
        if spot.name == OPAQUE {
            self.make_opaque(spot.parent);
            return Ok(());
        }
        let hidden = &spot.name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ImageError::Archive(format!("invalid whiteout entry {:?}", spot.path.display())));
        }
        // Other `.wh..wh.` names are notes of AUFS, which nobody needs.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        // A whiteout hides what is below this layer only (OCI image-spec): what the layer itself has stays.
        let Some(there) = self.tree.child(spot.parent, hidden) else {
            let (uid, gid) = (owner(entry.uid, 0), owner(entry.gid, 0));
            let (kind, xattrs) = (Kind::CharDevice(0), SetId::default());
            let inode = Inode { mode: 0, uid, gid, mtime: entry.mtime, links: 0, kind, xattrs };
            let inode = self.tree.add_inode(inode)?;
            self.tree.link(spot.parent, hidden, inode)?;
            return Ok(());
        };
        self.make_opaque(there);
        Ok(())
    }

    /// Does nothing to what is no directory.
    fn make_opaque(&mut self, id: InodeId) {
        if let Kind::Directory { opaque, .. } = &mut self.tree.inode_mut(id).kind {
            *opaque = true;
        }
    }

    /// The directory at `path`, with what is missing on the way made.
    fn directory(&mut self, path: &Path, mtime: TarTime) -> io::Result<InodeId> {
        if let Some((known, directory)) = &self.last
            && known == path
        {
            return Ok(*directory);
        }
        let directory = self.resolve(path, mtime, 0)?;
        self.last = Some((path.to_owned(), directory));
        Ok(directory)
    }

    fn resolve(&mut self, path: &Path, mtime: TarTime, links: u32) -> io::Result<InodeId> {
        match self.walk(path.as_os_str().as_bytes()) {
            Ok(directory) => return Ok(directory),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
        // Missing: from the root down, part by part.
        let (mut so_far, mut parent) = (PathBuf::new(), ROOT);
        for part in path.iter() {
            so_far.push(part);
            parent = self.implied(parent, part.as_bytes(), &so_far, mtime, links)?;
        }
        Ok(parent)
    }

    /// A directory no entry has announced; mode and owner as the stock daemon gives them.
    fn implied(
        &mut self,
        parent: InodeId,
        name: &[u8],
        path: &Path,
        mtime: TarTime,
        links: u32,
    ) -> io::Result<InodeId> {
        if name.len() > MAX_NAME {
            return Err(Errno::NAMETOOLONG.into());
        }
        let Some(there) = self.tree.child(parent, name) else {
            return self.new_directory(parent, name, mtime, false);
        };
        if self.tree.inode(there).is_directory() {
            return Ok(there);
        }
        match self.walk(path.as_os_str().as_bytes()) {
            Ok(directory) => Ok(directory),
            Err(Errno::NOTDIR) if self.tree.inode(there).is_whiteout() => self.new_directory(parent, name, mtime, true),
            // A link to what is not there (yet): the directory it leads to, in the root, is made.
            Err(Errno::NOENT) if links < MAX_LINKS => {
                let real = self.follow(path)?;
                self.resolve(&real, mtime, links + 1)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn new_directory(&mut self, parent: InodeId, name: &[u8], mtime: TarTime, hides: bool) -> io::Result<InodeId> {
        let made = self.tree.new_directory(parent, hides, mtime).and_then(|inode| self.tree.add_inode(inode));
        let id = made.map_err(io::Error::other)?;
        self.tree.link(parent, name, id).map_err(io::Error::other)?;
        Ok(id)
    }

    /// The directory at `path` as a lookup in the root finds it, links followed, `..` at the root leading nowhere (openat2(2),
    /// `RESOLVE_IN_ROOT`).
    fn walk(&self, path: &[u8]) -> Result<InodeId, Errno> {
        if path.len() > MAX_PATH {
            return Err(Errno::NAMETOOLONG);
        }
        let (mut at, mut links, mut steps) = (ROOT, 0, 0);
        let mut left: Vec<&[u8]> = parts(path).collect();
        while let Some(name) = left.pop() {
            steps += 1;
            if steps > MAX_STEPS {
                return Err(Errno::LOOP);
            }
            if name == b".." {
                at = self.tree.parent(at);
                continue;
            }
            if name.len() > MAX_NAME {
                return Err(Errno::NAMETOOLONG);
            }
            let next = self.tree.child(at, name).ok_or(Errno::NOENT)?;
            match self.tree.inode(next).kind {
                Kind::Directory { .. } => at = next,
                Kind::Symlink(span) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = self.tree.text(span);
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    left.extend(parts(target));
                }
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(at)
    }

    /// Where `path` leads when every link in it is followed; what is missing is kept as written.
    fn follow(&self, path: &Path) -> io::Result<PathBuf> {
        // Names so far, each with what it is, if it is there.
        let mut done: Vec<(&[u8], Option<InodeId>)> = Vec::new();
        let mut links = 0;
        let mut left: Vec<&[u8]> = parts(path.as_os_str().as_bytes()).collect();
        while let Some(name) = left.pop() {
            if name == b".." {
                done.pop();
                continue;
            }
            let parent = done.last().map_or(Some(ROOT), |(_, id)| *id);
            if parent.is_some_and(|id| !self.tree.inode(id).is_directory()) {
                return Err(Errno::NOTDIR.into());
            }
            let next = parent.and_then(|parent| self.tree.child(parent, name));
            let target = next.and_then(|id| match self.tree.inode(id).kind {
                Kind::Symlink(span) => Some(self.tree.text(span)),
                _ => None,
            });
            let Some(target) = target else {
                done.push((name, next));
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            if target.starts_with(b"/") {
                done.clear();
            }
            left.extend(parts(target));
        }
        Ok(done.iter().map(|(name, _)| OsStr::from_bytes(name)).collect())
    }
}

/// Names of a path, the last one first.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.rsplit(|byte| *byte == b'/').filter(|part| !matches!(part, [] | [b'.']))
}

/// An owner of -1 means to leave it as it is (chown(2)).
fn owner(wanted: u32, now: u32) -> u32 {
    if wanted == u32::MAX { now } else { wanted }
}

/// The entry's attributes that an inode of this kind can have: not those of overlayfs, and as the kernel allows them
/// (xattr(7)): `user.` ones on files and directories only, access control lists not on links.
fn attributes(entry: &Entry, kind: &Kind) -> Result<Vec<Attribute>, IndexError> {
    let (directory, file) = (matches!(kind, Kind::Directory { .. }), matches!(kind, Kind::File { .. }));
    let mut out = Vec::new();
    for (name, value) in layer::attributes(entry) {
        let Some(attribute) = Attribute::new(name.as_bytes(), value)? else { continue };
        let kept = match attribute.prefix() {
            1 => file || directory,
            2 | 3 if value.len() <= 4 => false,
            2 => !matches!(kind, Kind::Symlink(_)),
            3 => directory,
            _ => true,
        };
        if kept && matches!(attribute.prefix(), 2 | 3) && !is_acl(value) {
            return Err(IndexError::Attribute(name.to_string_lossy().into_owned()));
        }
        if kept {
            out.push(attribute);
        }
    }
    Ok(out)
}
