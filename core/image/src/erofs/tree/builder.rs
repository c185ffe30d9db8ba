//! Trees that grow: names are found by a hash table, and what is taken away only loses its name. In the end all that still has
//! one is sorted into a [`Tree`].

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::{Children, Content, Device, Inode, InodeId, Kind, NONE, Place, ROOT, Segment, Span, Tree, piece};
use crate::erofs::IndexError;
use crate::erofs::xattr::{SetId, Xattrs};
use crate::layer::{MAX_ENTRIES, MAX_NAMES};
use crate::untar::TarTime;

/// Most directories in each other. A path of more cannot even be named (PATH_MAX).
const MAX_DEPTH: u16 = 4096;
/// Most segments of all files.
const MAX_SEGMENTS: usize = 5 << 20;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
struct Entry {
    parent: InodeId,
    name: Span,
    /// `NONE` when the name was taken away.
    inode: InodeId,
}

/// A tree that grows and changes.
#[derive(Debug)]
pub(in crate::erofs) struct TreeBuilder {
    inodes: Vec<Inode>,
    entries: Vec<Entry>,
    /// Numbers of entries by directory and name; names that were taken away too.
    index: HashTable<u32>,
    hasher: RandomState,
    arena: Vec<u8>,
    segments: Vec<Segment>,
    pub(in crate::erofs) spill: Vec<u8>,
    pub(in crate::erofs) xattrs: Xattrs,
    pub(in crate::erofs) devices: Vec<Device>,
}

impl TreeBuilder {
    pub(in crate::erofs) fn new() -> Self {
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

    pub(in crate::erofs) fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.at()]
    }

    pub(in crate::erofs) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.at()]
    }

    /// The directory that directory `id` is in.
    pub(in crate::erofs) fn parent(&self, id: InodeId) -> InodeId {
        match self.inode(id).kind {
            Kind::Directory { parent, .. } => parent,
            _ => ROOT,
        }
    }

    /// Whether directory `id` is directory `other`, or in it at any depth.
    pub(in crate::erofs) fn is_within(&self, mut id: InodeId, other: InodeId) -> bool {
        while id != other && id != ROOT {
            id = self.parent(id);
        }
        id == other
    }

    /// What a new directory in `parent` is.
    pub(in crate::erofs) fn directory_in(&self, parent: InodeId, opaque: bool) -> Result<Kind, IndexError> {
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
    pub(in crate::erofs) fn new_directory(
        &mut self,
        parent: InodeId,
        opaque: bool,
        mtime: TarTime,
    ) -> Result<Inode, IndexError> {
        Ok(plain_directory(self.directory_in(parent, opaque)?, mtime))
    }

    pub(in crate::erofs) fn text(&self, span: Span) -> &[u8] {
        piece(&self.arena, span)
    }

    pub(in crate::erofs) fn add_text(&mut self, text: &[u8]) -> Result<Span, IndexError> {
        let too_large = |_| IndexError::TooLarge("names");
        if self.arena.len() + text.len() > MAX_NAMES {
            return Err(IndexError::TooLarge("names"));
        }
        let start = u32::try_from(self.arena.len()).map_err(too_large)?;
        let length = u16::try_from(text.len()).map_err(too_large)?;
        self.arena.extend_from_slice(text);
        Ok(Span { start, length })
    }

    pub(in crate::erofs) fn add_inode(&mut self, inode: Inode) -> Result<InodeId, IndexError> {
        if self.inodes.len() as u64 > MAX_ENTRIES {
            return Err(IndexError::TooLarge("files"));
        }
        let id = u32::try_from(self.inodes.len()).map_err(|_| IndexError::TooLarge("files"))?;
        self.inodes.push(inode);
        Ok(InodeId(id))
    }

    /// Keeps segments that are in order. Those that continue each other become one.
    pub(in crate::erofs) fn add_segments(
        &mut self,
        list: impl IntoIterator<Item = Segment>,
    ) -> Result<Content, IndexError> {
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
    pub(in crate::erofs) fn child(&self, parent: InodeId, name: &[u8]) -> Option<InodeId> {
        Some(self.entries[self.find(parent, name)?].inode).filter(|inode| *inode != NONE)
    }

    /// Gives a name to an inode. Says whether something else had it before.
    pub(in crate::erofs) fn link(&mut self, parent: InodeId, name: &[u8], inode: InodeId) -> Result<bool, IndexError> {
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
    pub(in crate::erofs) fn clear_root(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.parent == ROOT) {
            entry.inode = NONE;
        }
    }

    /// Takes a name away, with everything below it.
    pub(in crate::erofs) fn unlink(&mut self, parent: InodeId, name: &[u8]) {
        if let Some(at) = self.find(parent, name) {
            self.entries[at].inode = NONE;
        }
    }

    pub(in crate::erofs) fn finish(self) -> Tree {
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

/// A directory nobody described.
fn plain_directory(kind: Kind, mtime: TarTime) -> Inode {
    Inode { mode: 0o755, uid: 0, gid: 0, mtime, links: 0, kind, xattrs: SetId::default() }
}

fn directory_kind(parent: InodeId, depth: u16, opaque: bool) -> Kind {
    Kind::Directory { opaque, parent, depth, children: Children::default() }
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
}
