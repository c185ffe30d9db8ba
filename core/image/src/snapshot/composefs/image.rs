//! The composefs image of a chain of layers: the merged tree as the `composefs` crate writes it, which any composefs tool reads.
//! Files that are objects are there as overlayfs wants those whose content is in a data-only layer (the kernel's overlayfs.rst,
//! "Data-only lower layers", "fs-verity support"): without content, with attributes that name the object and its digest.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use composefs::erofs::format::FormatVersion;
use composefs::erofs::writer::{ValidatedFileSystem, mkfs_erofs_versioned};
use composefs::generic_tree::LeafId;
use composefs::tree::{Directory, FileSystem, Inode as Node, LeafContent, RegularFile, Stat};
use dockerd_types::Digest;

use super::intake::{CONTENT, INDEX, Kept, kept};
use super::list::{self, Record};
use super::objects::{LIST, ObjectId};
use crate::erofs::{self, Content, Inode, InodeId, Kind, Merge, ROOT, Tree};
use crate::snapshot::directory::LayerDirectory;

/// The crate walks trees by recursion, and ours may be 4096 directories deep.
const STACK: usize = 64 << 20;

/// What is kept of a layer.
struct Layer {
    tree: Tree,
    objects: Vec<Record>,
    small: Vec<u8>,
}

impl Layer {
    fn read(layers: &LayerDirectory, chain: &Digest) -> io::Result<Self> {
        let dir = layers.layer(chain);
        Ok(Self {
            tree: erofs::read(&fs::read(dir.join(INDEX))?).map_err(io::Error::other)?,
            objects: list::read(&dir.join(LIST))?,
            small: fs::read(dir.join(CONTENT))?,
        })
    }
}

/// The image of the layers `ancestry`, lowest first.
pub(super) fn compose(layers: &LayerDirectory, ancestry: &[Digest]) -> io::Result<Box<[u8]>> {
    // The same layer may be in it more than once.
    let mut read = HashMap::new();
    for chain in ancestry {
        if !read.contains_key(chain) {
            read.insert(chain, Layer::read(layers, chain)?);
        }
    }
    let stack: Vec<&Layer> = ancestry.iter().filter_map(|chain| read.get(chain)).collect();
    let mut merged = Merge::new();
    stack.iter().try_for_each(|layer| merged.add(&layer.tree)).map_err(io::Error::other)?;
    let tree = merged.finish();
    let write = || {
        let files = Composer { tree: &tree, stack: &stack }.compose()?;
        let valid = ValidatedFileSystem::new(files).map_err(|error| io::Error::other(error.to_string()))?;
        // What C mkcomposefs writes by `--min-version=1`: it has all of the time, and small inodes.
        Ok(mkfs_erofs_versioned(&valid, FormatVersion::V1))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("composefs".to_owned()).stack_size(STACK);
        let written = thread.spawn_scoped(scope, write)?.join();
        written.unwrap_or_else(|_| Err(io::Error::other("the writer of composefs images panicked")))
    })
}

struct Composer<'a> {
    tree: &'a Tree,
    stack: &'a [&'a Layer],
}

impl<'a> Composer<'a> {
    fn compose(&self) -> io::Result<FileSystem<ObjectId>> {
        let mut out = FileSystem::new(self.stat(self.tree.inode(ROOT)));
        let mut leaves: Vec<Option<LeafId>> = vec![None; self.tree.len()];
        let open = |name: &'a [u8], id: InodeId| {
            (name, Directory::new(self.stat(self.tree.inode(id))), self.tree.children(id))
        };
        // Directories that are not finished, each in the one before.
        let mut todo = vec![open(b"", ROOT)];
        while let Some((_, directory, children)) = todo.last_mut() {
            let Some((name, id)) = children.next() else {
                let Some((name, done, _)) = todo.pop() else { break };
                match todo.last_mut() {
                    Some((_, parent, _)) => _ = parent.insert(OsStr::from_bytes(name), Node::Directory(Box::new(done))),
                    None => out.root = done,
                }
                continue;
            };
            let inode = self.tree.inode(id);
            let Some(content) = self.leaf(inode)? else {
                todo.push(open(name, id));
                continue;
            };
            let slot = leaves.get_mut(id.index()).ok_or_else(broken)?;
            let leaf = *slot.get_or_insert_with(|| out.push_leaf(self.stat(inode), content));
            directory.insert(OsStr::from_bytes(name), Node::leaf(leaf));
        }
        Ok(out)
    }

    /// What it is; `None` for a directory.
    fn leaf(&self, inode: &Inode) -> io::Result<Option<LeafContent<ObjectId>>> {
        Ok(Some(match inode.kind {
            Kind::Directory { .. } => return Ok(None),
            Kind::File { size, content } => LeafContent::Regular(self.file(size, content)?),
            Kind::Symlink(target) => LeafContent::Symlink(OsStr::from_bytes(self.tree.target(target)).into()),
            Kind::CharDevice(number) => LeafContent::CharacterDevice(number.into()),
            Kind::BlockDevice(number) => LeafContent::BlockDevice(number.into()),
            Kind::Fifo => LeafContent::Fifo,
        }))
    }

    fn file(&self, size: u64, content: Content) -> io::Result<RegularFile<ObjectId>> {
        if size == 0 {
            return Ok(RegularFile::Inline(Box::default()));
        }
        let [segment] = self.tree.segments(content) else { return Err(broken()) };
        let (layer, kept) = kept(segment.place).ok_or_else(broken)?;
        let layer = self.stack.get(layer).ok_or_else(broken)?;
        match kept {
            Kept::Object(number) => {
                let object = layer.objects.get(number).filter(|object| object.size == size).ok_or_else(broken)?;
                Ok(RegularFile::External(object.id.clone(), size))
            }
            Kept::Small(at) => {
                let end = usize::try_from(size).ok().and_then(|size| at.checked_add(size));
                let bytes = end.and_then(|end| layer.small.get(at..end)).ok_or_else(broken)?;
                Ok(RegularFile::Inline(bytes.into()))
            }
        }
    }

    fn stat(&self, inode: &Inode) -> Stat {
        let attributes = self.tree.attributes(inode);
        Stat {
            st_mode: inode.mode.into(),
            st_uid: inode.uid,
            st_gid: inode.gid,
            st_mtim_sec: inode.mtime.seconds,
            st_mtim_nsec: inode.mtime.nanos,
            xattrs: attributes.map(|a| (OsStr::from_bytes(&a.name).into(), a.value.clone())).collect(),
        }
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "description of a layer is broken")
}
