//! A file tree in memory, as compact as a large layer needs it: inodes in one vector, names in one arena, children of all
//! directories in one vector, sorted. A [`TreeBuilder`] finds children by a hash table while a tree grows and changes; what
//! it leaves is a [`Tree`], which does not change any more.

mod builder;

pub(super) use builder::TreeBuilder;

use super::xattr::{Attribute, SetId, Xattrs};
use crate::untar::TarTime;

/// Longest name in a directory.
pub(super) const MAX_NAME: usize = 255;
/// Bytes kept in an index itself because no device has them in whole blocks.
pub(super) const MAX_SPILL: usize = 64 << 20;
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

/// The kernel's 32-bit encoding of a device number (include/linux/kdev_t.h): 12 bits of major, 20 of minor number. `None`
/// for one that does not fit.
pub(super) fn device_number(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// Major and minor number of a device in that encoding.
pub(crate) fn device_parts(number: u32) -> (u32, u32) {
    ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xf_ff00))
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
        self.entries(id).iter().map(|(name, inode)| (piece(&self.arena, *name), *inode))
    }

    /// The child of a directory at a place in that order.
    pub fn nth_child(&self, id: InodeId, place: usize) -> Option<(&[u8], InodeId)> {
        self.entries(id).get(place).map(|(name, inode)| (piece(&self.arena, *name), *inode))
    }

    pub(super) fn entries(&self, id: InodeId) -> &[(Span, InodeId)] {
        match self.inode(id).kind {
            Kind::Directory { children: Children { first, count }, .. } => {
                &self.children[first as usize..(first + count) as usize]
            }
            _ => &[],
        }
    }

    /// The segments of a file, in order.
    pub fn segments(&self, content: Content) -> &[Segment] {
        &self.segments[content.first as usize..(content.first + content.count) as usize]
    }

    /// The target of a symbolic link, or a name.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        assert_eq!(device_number(1, 3), Some(0x103));
        assert_eq!(device_number(0xfff, 0xf_ffff), Some(0xffff_ffff));
        for (major, minor) in [(1, 3), (0xfff, 0xf_ffff), (8, 0x12345)] {
            assert_eq!(device_number(major, minor).map(device_parts), Some((major, minor)));
        }
        assert_eq!(device_number(0x1000, 0), None);
        assert_eq!(device_number(0, 0x10_0000), None);
    }
}
