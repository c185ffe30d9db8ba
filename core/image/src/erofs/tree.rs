//! A file tree in memory, as compact as a large layer needs it: inodes in one vector, names in one arena, children of all
//! directories in one vector, sorted. A [`TreeBuilder`] finds children by a hash table while a tree grows and changes; what
//! it leaves is a [`Tree`], which does not change any more.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::IndexError;
use super::xattr::{Attribute, SetId, Xattrs};
use crate::layer::{MAX_ENTRIES, MAX_NAMES};
use crate::untar::TarTime;

/// Longest name in a directory.
pub(super) const MAX_NAME: usize = 255;
/// Bytes kept in an index itself because no device has them in whole blocks.
pub(super) const MAX_SPILL: usize = 64 << 20;
/// Most directories in each other. A path of more cannot even be named (PATH_MAX).
const MAX_DEPTH: u16 = 4096;
/// Most segments of all files.
const MAX_SEGMENTS: usize = 16 << 20;

/// Number of an inode in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub(super) u32);

impl InodeId {
    pub(super) fn at(self) -> usize {
        self.0 as usize
    }

    /// Below the number of the tree's inodes.
    pub(crate) fn index(self) -> usize {
        self.at()
    }
}

/// The directory at the top.
pub const ROOT: InodeId = InodeId(0);
const NONE: InodeId = InodeId(u32::MAX);

/// A piece of the arena.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    start: u32,
    length: u16,
}

/// What an inode is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A directory.
    Directory {
        /// Whether it hides what lower layers have in it.
        opaque: bool,
        /// The directory it is in; the root is in itself.
        parent: InodeId,
        /// How many directories are above it.
        depth: u16,
        /// Where its children are.
        children: Children,
    },
    /// A file.
    File {
        /// Its length.
        size: u64,
        /// Where its content is.
        content: Content,
    },
    /// A symbolic link; its target.
    Symlink(Span),
    /// A character device; its number, in the kernel's 32-bit encoding. Number 0 is a whiteout.
    CharDevice(u32),
    /// A block device; its number.
    BlockDevice(u32),
    /// A named pipe.
    Fifo,
}

/// Children of a directory; meaningless while a tree is built.
#[derive(Debug, Clone, Copy, Default)]
pub struct Children {
    first: u32,
    count: u32,
}

/// Segments of a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Content {
    first: u32,
    count: u32,
}

/// Where a segment's bytes are, in bytes from the start. Always the start of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// On a device, numbered from 0.
    Device(u16, u64),
    /// Among the bytes the tree has itself.
    Spill(u64),
}

/// A part of a file that is no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file.
    pub offset: u64,
    /// How long; all but the one at a file's end are whole blocks.
    pub length: u64,
    /// Where the bytes are.
    pub place: Place,
}

/// An inode.
#[derive(Debug, Clone, Copy)]
pub struct Inode {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was changed.
    pub mtime: TarTime,
    /// Names it has; of a directory, 2 and its subdirectories.
    pub links: u32,
    /// What it is.
    pub kind: Kind,
    pub(super) xattrs: SetId,
}

impl Inode {
    /// Whether it hides a name of lower layers.
    pub fn is_whiteout(&self) -> bool {
        matches!(self.kind, Kind::CharDevice(0))
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }
}

/// A directory nobody described.
fn plain_directory(kind: Kind, mtime: TarTime) -> Inode {
    Inode { mode: 0o755, uid: 0, gid: 0, mtime, links: 0, kind, xattrs: SetId::default() }
}

fn directory_kind(parent: InodeId, depth: u16, opaque: bool) -> Kind {
    Kind::Directory { opaque, parent, depth, children: Children::default() }
}

/// The kernel's 32-bit encoding of a device number (include/linux/kdev_t.h): 12 bits of major, 20 of minor number. `None`
/// for one that does not fit.
pub(super) fn device_number(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
struct Entry {
    parent: InodeId,
    name: Span,
    /// `NONE` when the name was taken away.
    inode: InodeId,
}

/// A file that content lies in: the tar of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Its length in blocks of 512 bytes.
    pub blocks: u64,
    /// What identifies it, such as 64 hexadecimal digits; zeros for nothing.
    pub tag: [u8; 64],
}

/// A finished tree.
#[derive(Debug)]
pub struct Tree {
    pub(super) inodes: Vec<Inode>,
    children: Vec<(Span, InodeId)>,
    arena: Vec<u8>,
    segments: Vec<Segment>,
    pub(super) spill: Vec<u8>,
    pub(super) xattrs: Xattrs,
    /// What segments lie in.
    pub devices: Vec<Device>,
}

impl Tree {
    /// Number of inodes; their numbers are those below it.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Never: there is always a root.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// Numbers of all inodes, each once.
    pub(crate) fn ids(&self) -> impl Iterator<Item = InodeId> + use<> {
        // There are no more than 32 bits can count.
        (0..self.inodes.len() as u32).map(InodeId)
    }

    /// An inode.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.at()]
    }

    /// What is in a directory, sorted by name; nothing for anything else.
    pub fn children(&self, id: InodeId) -> impl ExactSizeIterator<Item = (&[u8], InodeId)> {
        let range = match self.inode(id).kind {
            Kind::Directory { children: Children { first, count }, .. } => first as usize..(first + count) as usize,
            _ => 0..0,
        };
        self.children[range].iter().map(|(name, inode)| (piece(&self.arena, *name), *inode))
    }

    /// The segments of a file, in order.
    pub fn segments(&self, content: Content) -> &[Segment] {
        &self.segments[content.first as usize..(content.first + content.count) as usize]
    }

    /// The target of a symbolic link.
    pub fn target(&self, span: Span) -> &[u8] {
        piece(&self.arena, span)
    }

    /// The attributes of an inode, in the order of their names; the mark of opaque directories is none of them.
    pub fn attributes(&self, inode: &Inode) -> impl Iterator<Item = &Attribute> {
        self.xattrs.of(inode.xattrs)
    }

    /// Bytes that the tree has itself.
    pub(crate) fn spilled(&self, at: u64, length: u64) -> &[u8] {
        &self.spill[at as usize..(at + length) as usize]
    }

    /// The same tree with the content of its files elsewhere: that of each file that has any lies in one piece on `devices`,
    /// where `place` says.
    pub(crate) fn with_content(mut self, devices: Vec<Device>, mut place: impl FnMut(InodeId) -> Place) -> Self {
        let mut segments = Vec::new();
        for (at, inode) in self.inodes.iter_mut().enumerate() {
            if let Kind::File { size, content } = &mut inode.kind {
                *content = Content { first: segments.len() as u32, count: u32::from(*size > 0) };
                if *size > 0 {
                    segments.push(Segment { offset: 0, length: *size, place: place(InodeId(at as u32)) });
                }
            }
        }
        Self { segments, spill: Vec::new(), devices, ..self }
    }

    /// Bytes of the files as `docker images` counts them: lengths of files and symbolic links, hard links once.
    pub fn size(&self) -> u64 {
        let sizes = self.inodes.iter().map(|inode| match inode.kind {
            Kind::File { size, .. } => size,
            Kind::Symlink(span) => span.length.into(),
            _ => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }
}

fn piece(arena: &[u8], span: Span) -> &[u8] {
    &arena[span.start as usize..span.start as usize + usize::from(span.length)]
}

/// A tree that grows and changes.
#[derive(Debug)]
pub(super) struct TreeBuilder {
    inodes: Vec<Inode>,
    entries: Vec<Entry>,
    /// Numbers of entries by directory and name; names that were taken away too.
    index: HashTable<u32>,
    hasher: RandomState,
    arena: Vec<u8>,
    segments: Vec<Segment>,
    pub(super) spill: Vec<u8>,
    pub(super) xattrs: Xattrs,
    pub(super) devices: Vec<Device>,
}

impl TreeBuilder {
    pub(super) fn new() -> Self {
        Self {
            inodes: vec![plain_directory(directory_kind(ROOT, 0, false), TarTime::default())],
            entries: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            arena: Vec::new(),
            segments: Vec::new(),
            spill: Vec::new(),
            xattrs: Xattrs::default(),
            devices: Vec::new(),
        }
    }

    pub(super) fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.at()]
    }

    pub(super) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.at()]
    }

    /// The directory that directory `id` is in.
    pub(super) fn parent(&self, id: InodeId) -> InodeId {
        match self.inode(id).kind {
            Kind::Directory { parent, .. } => parent,
            _ => ROOT,
        }
    }

    /// Whether directory `id` is directory `other`, or in it at any depth.
    pub(super) fn is_within(&self, mut id: InodeId, other: InodeId) -> bool {
        while id != other && id != ROOT {
            id = self.parent(id);
        }
        id == other
    }

    /// What a new directory in `parent` is.
    pub(super) fn directory_in(&self, parent: InodeId, opaque: bool) -> Result<Kind, IndexError> {
        let depth = match self.inode(parent).kind {
            Kind::Directory { depth, .. } => depth + 1,
            _ => 0,
        };
        if depth > MAX_DEPTH {
            return Err(IndexError::TooLarge("directories in each other"));
        }
        Ok(directory_kind(parent, depth, opaque))
    }

    /// A directory nobody described, in `parent`.
    pub(super) fn new_directory(&mut self, parent: InodeId, opaque: bool, mtime: TarTime) -> Result<Inode, IndexError> {
        Ok(plain_directory(self.directory_in(parent, opaque)?, mtime))
    }

    pub(super) fn text(&self, span: Span) -> &[u8] {
        piece(&self.arena, span)
    }

    pub(super) fn add_text(&mut self, text: &[u8]) -> Result<Span, IndexError> {
        let too_large = |_| IndexError::TooLarge("names");
        if self.arena.len() + text.len() > MAX_NAMES {
            return Err(IndexError::TooLarge("names"));
        }
        let start = u32::try_from(self.arena.len()).map_err(too_large)?;
        let length = u16::try_from(text.len()).map_err(too_large)?;
        self.arena.extend_from_slice(text);
        Ok(Span { start, length })
    }

    pub(super) fn add_inode(&mut self, inode: Inode) -> Result<InodeId, IndexError> {
        if self.inodes.len() as u64 > MAX_ENTRIES {
            return Err(IndexError::TooLarge("files"));
        }
        let id = u32::try_from(self.inodes.len()).map_err(|_| IndexError::TooLarge("files"))?;
        self.inodes.push(inode);
        Ok(InodeId(id))
    }

    /// Keeps segments that are in order. Those that continue each other become one.
    pub(super) fn add_segments(&mut self, list: impl IntoIterator<Item = Segment>) -> Result<Content, IndexError> {
        let first = self.segments.len();
        for segment in list.into_iter().filter(|segment| segment.length > 0) {
            if let Some(last) = self.segments[first..].last_mut().filter(|last| continues(last, &segment)) {
                last.length += segment.length;
            } else if self.segments.len() < MAX_SEGMENTS {
                self.segments.push(segment);
            } else {
                return Err(IndexError::TooLarge("pieces of files"));
            }
        }
        // Both fit, because of the bound.
        Ok(Content { first: first as u32, count: (self.segments.len() - first) as u32 })
    }

    fn hash(&self, parent: InodeId, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent.0, name))
    }

    fn find(&self, parent: InodeId, name: &[u8]) -> Option<usize> {
        let found = self.index.find(self.hash(parent, name), |at| {
            let entry = &self.entries[*at as usize];
            entry.parent == parent && piece(&self.arena, entry.name) == name
        });
        found.map(|at| *at as usize)
    }

    /// What has this name in a directory.
    pub(super) fn child(&self, parent: InodeId, name: &[u8]) -> Option<InodeId> {
        Some(self.entries[self.find(parent, name)?].inode).filter(|inode| *inode != NONE)
    }

    /// Gives a name to an inode. Says whether something else had it before.
    pub(super) fn link(&mut self, parent: InodeId, name: &[u8], inode: InodeId) -> Result<bool, IndexError> {
        if let Some(at) = self.find(parent, name) {
            let before = std::mem::replace(&mut self.entries[at].inode, inode);
            return Ok(before != NONE);
        }
        // Hard links are entries without an inode of their own.
        if self.entries.len() as u64 > 2 * MAX_ENTRIES {
            return Err(IndexError::TooLarge("names"));
        }
        let at = u32::try_from(self.entries.len()).map_err(|_| IndexError::TooLarge("names"))?;
        let span = self.add_text(name)?;
        self.entries.push(Entry { parent, name: span, inode });
        let hash = self.hash(parent, name);
        let Self { index, entries, arena, hasher, .. } = self;
        index.insert_unique(hash, at, |at| {
            let entry = &entries[*at as usize];
            hasher.hash_one((entry.parent.0, piece(arena, entry.name)))
        });
        Ok(false)
    }

    /// Takes all names away.
    pub(super) fn clear_root(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.parent == ROOT) {
            entry.inode = NONE;
        }
    }

    /// Takes a name away, with everything below it.
    pub(super) fn unlink(&mut self, parent: InodeId, name: &[u8]) {
        if let Some(at) = self.find(parent, name) {
            self.entries[at].inode = NONE;
        }
    }

    pub(super) fn finish(self) -> Tree {
        let Self { inodes, entries, arena, segments, spill, xattrs, devices, .. } = self;
        assemble(Parts { inodes, entries, arena, segments, spill, xattrs, devices })
    }
}

fn continues(last: &Segment, next: &Segment) -> bool {
    let place = match (last.place, next.place) {
        (Place::Device(device, at), Place::Device(other, then)) => device == other && at + last.length == then,
        (Place::Spill(at), Place::Spill(then)) => at + last.length == then,
        _ => false,
    };
    place && last.offset + last.length == next.offset
}

struct Parts {
    inodes: Vec<Inode>,
    entries: Vec<Entry>,
    arena: Vec<u8>,
    segments: Vec<Segment>,
    spill: Vec<u8>,
    xattrs: Xattrs,
    devices: Vec<Device>,
}

/// Sorts the children, counts the links, and drops what has no name any more. Inodes are numbered so that those in one
/// directory follow each other, and directories come in the order of a walk.
fn assemble(parts: Parts) -> Tree {
    let Parts { inodes: old, entries, arena, segments, spill, xattrs, devices } = parts;
    let (starts, mut order) = group(&entries, old.len());
    let mut numbers = vec![NONE; old.len()];
    let mut inodes = Vec::with_capacity(old.len());
    let mut children = Vec::with_capacity(order.len());
    inodes.push(old[ROOT.at()]);
    numbers[ROOT.at()] = ROOT;
    let mut todo = vec![ROOT];
    while let Some(directory) = todo.pop() {
        let range = starts[directory.at()] as usize..starts[directory.at() + 1] as usize;
        let names = &mut order[range];
        names.sort_unstable_by(|a, b| {
            piece(&arena, entries[*a as usize].name).cmp(piece(&arena, entries[*b as usize].name))
        });
        let parent = numbers[directory.at()];
        let (first, before) = (children.len(), todo.len());
        for entry in names.iter().map(|at| &entries[*at as usize]) {
            let number = &mut numbers[entry.inode.at()];
            if *number == NONE {
                *number = InodeId(inodes.len() as u32);
                inodes.push(Inode { links: 0, ..old[entry.inode.at()] });
            }
            children.push((entry.name, *number));
            let inode: &mut Inode = &mut inodes[number.at()];
            inode.links += 1;
            if let Kind::Directory { parent: known, .. } = &mut inode.kind {
                *known = parent;
                todo.push(entry.inode);
            }
        }
        let subdirectories = todo.len() - before;
        todo[before..].reverse();
        let inode = &mut inodes[parent.at()];
        inode.links = 2 + subdirectories as u32;
        if let Kind::Directory { children: range, .. } = &mut inode.kind {
            *range = Children { first: first as u32, count: (children.len() - first) as u32 };
        }
    }
    Tree { inodes, children, arena, segments, spill, xattrs, devices }
}

/// Entries that have an inode, by directory: where each directory's start, and their numbers.
fn group(entries: &[Entry], inodes: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; inodes + 1];
    let live = || entries.iter().enumerate().filter(|(_, entry)| entry.inode != NONE);
    for (_, entry) in live() {
        starts[entry.parent.at() + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let mut next = starts.clone();
    let mut order = vec![0; *starts.last().unwrap_or(&0) as usize];
    for (number, entry) in live() {
        let at = &mut next[entry.parent.at()];
        order[*at as usize] = number as u32;
        *at += 1;
    }
    (starts, order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_sorted_and_links_counted() {
        let mut builder = TreeBuilder::new();
        let directory = builder.new_directory(ROOT, false, TarTime::default()).expect("made");
        let file = Inode { kind: Kind::Fifo, ..directory };
        let directory = builder.add_inode(directory).expect("added");
        let (one, gone) = (builder.add_inode(file).expect("added"), builder.add_inode(file).expect("added"));
        builder.link(ROOT, b"z", one).expect("linked");
        builder.link(ROOT, b"d", directory).expect("linked");
        builder.link(directory, b"again", one).expect("linked");
        builder.link(directory, b"gone", gone).expect("linked");
        assert_eq!(builder.child(directory, b"gone"), Some(gone));
        builder.unlink(directory, b"gone");
        assert_eq!(builder.child(directory, b"gone"), None);
        let tree = builder.finish();
        let names: Vec<_> = tree.children(ROOT).map(|(name, _)| name.to_vec()).collect();
        assert_eq!((names, tree.len()), (vec![b"d".to_vec(), b"z".to_vec()], 3));
        let (_, again) = tree.children(tree.children(ROOT).next().expect("a child").1).next().expect("a child");
        assert_eq!((tree.inode(again).links, tree.inode(ROOT).links), (2, 3));
    }

    #[test]
    fn segments_that_continue_each_other_are_one() {
        let mut builder = TreeBuilder::new();
        let at = |offset, length, place| Segment { offset, length, place };
        let list = [
            at(0, 512, Place::Device(0, 1024)),
            at(512, 512, Place::Device(0, 1536)),
            at(1024, 0, Place::Spill(0)),
            at(2048, 512, Place::Device(0, 2048)),
            at(2560, 5, Place::Device(1, 2560)),
        ];
        let content = builder.add_segments(list).expect("kept");
        let tree = builder.finish();
        let lengths: Vec<_> = tree.segments(content).iter().map(|segment| segment.length).collect();
        assert_eq!(lengths, [1024, 512, 5]);
    }

    #[test]
    fn device_numbers() {
        assert_eq!(device_number(1, 3), Some(0x103));
        assert_eq!(device_number(0xfff, 0xf_ffff), Some(0xffff_ffff));
        assert_eq!(device_number(0x1000, 0), None);
        assert_eq!(device_number(0, 0x10_0000), None);
    }
}
