//! Directories: blocks of entries, sorted by name over the whole directory, `.` and `..` in their places among them. In each
//! block first all entries, then all names.

use super::place::Placed;
use crate::erofs::layout::{BLOCK, DIRECTORY, DIRENT, entry_type};
use crate::erofs::tree::{InodeId, Kind, Tree};

/// What is in a directory, in the order of the format.
pub(super) struct Names<'a> {
    list: Vec<(&'a [u8], InodeId)>,
}

impl<'a> Names<'a> {
    pub(super) fn of(tree: &'a Tree, id: InodeId) -> Self {
        let parent = match tree.inode(id).kind {
            Kind::Directory { parent, .. } => parent,
            _ => id,
        };
        let children = tree.children(id);
        let mut list = Vec::with_capacity(children.len() + 2);
        list.extend(children);
        for (name, id) in [(&b".."[..], parent), (b".", id)] {
            let at = list.partition_point(|(other, _)| *other < name);
            list.insert(at, (name, id));
        }
        Self { list }
    }

    /// The entries of each block.
    fn blocks(&self) -> impl Iterator<Item = &[(&'a [u8], InodeId)]> {
        let mut left = &self.list[..];
        std::iter::from_fn(move || {
            let mut used = 0;
            let mut fits = |(name, _): &(&[u8], InodeId)| {
                used += DIRENT + name.len();
                used <= BLOCK as usize
            };
            let count = left.iter().take_while(|entry| fits(entry)).count();
            let (block, rest) = left.split_at_checked(count).filter(|_| count > 0)?;
            left = rest;
            Some(block)
        })
    }

    /// Length of the directory in bytes.
    pub(super) fn size(&self) -> u64 {
        let (count, last) = self.blocks().fold((0, 0), |(count, _), block| {
            (count + 1, block.iter().map(|(name, _)| DIRENT + name.len()).sum::<usize>())
        });
        count.max(1) as u64 * BLOCK - BLOCK + last as u64
    }

    /// Appends the directory to `out`.
    pub(super) fn write(&self, tree: &Tree, placed: &Placed, out: &mut Vec<u8>) {
        for block in self.blocks() {
            out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
            let mut name_at = block.len() * DIRENT;
            for (name, id) in block {
                out.extend(placed.number(*id).to_le_bytes());
                out.extend((name_at as u16).to_le_bytes());
                let mode = if tree.inode(*id).is_directory() { DIRECTORY } else { super::file_mode(tree.inode(*id)) };
                out.extend([entry_type(mode), 0]);
                name_at += name.len();
            }
            block.iter().for_each(|(name, _)| out.extend(*name));
        }
    }
}
