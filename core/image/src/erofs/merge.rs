//! Several layers as one tree, as overlayfs shows them on top of each other (the kernel's overlayfs.rst): a directory over a
//! directory merges with it and has its own metadata; anything else replaces what is below; a whiteout takes a name away, and
//! in an opaque directory nothing from below is seen. An opaque root hides everything below its layer, as the OCI image-spec
//! has it (overlayfs itself does not look at the mark of a layer's root).

use std::collections::HashMap;

use super::IndexError;
use super::layout::{BLOCK, MAX_DEVICES};
use super::tree::{Content, Inode, InodeId, Kind, MAX_SPILL, Place, ROOT, Segment, Tree, TreeBuilder};
use super::xattr::SetId;

/// A merged tree that grows layer by layer.
#[derive(Debug)]
pub struct Merge {
    tree: TreeBuilder,
}

impl Default for Merge {
    fn default() -> Self {
        Self::new()
    }
}

impl Merge {
    /// Without any layer.
    pub fn new() -> Self {
        Self { tree: TreeBuilder::new() }
    }

    /// Puts `layer` on top of those before. Its devices follow theirs.
    pub fn add(&mut self, layer: &Tree) -> Result<(), IndexError> {
        let devices = self.tree.devices.len();
        if devices + layer.devices.len() > MAX_DEVICES {
            return Err(IndexError::TooLarge("layers"));
        }
        self.tree.devices.extend_from_slice(&layer.devices);
        let mut upper = Upper {
            layer,
            // Fits, because of the bound.
            first_device: devices as u16,
            known: vec![None; layer.len()],
            sets: HashMap::new(),
        };
        let root = *layer.inode(ROOT);
        if let Kind::Directory { opaque: true, .. } = root.kind {
            self.tree.clear_root();
        }
        upper.dress(&mut self.tree, ROOT, &root)?;
        let mut todo = vec![(ROOT, ROOT)];
        while let Some((from, to)) = todo.pop() {
            for (name, id) in layer.children(from) {
                if let Some(directory) = upper.child(&mut self.tree, to, name, id)? {
                    todo.push((id, directory));
                }
            }
        }
        Ok(())
    }

    /// The merged tree.
    pub fn finish(self) -> Tree {
        self.tree.finish()
    }
}

/// A layer on its way into the merged tree.
struct Upper<'a> {
    layer: &'a Tree,
    first_device: u16,
    /// What has become of its inodes, for those with several names.
    known: Vec<Option<InodeId>>,
    /// What has become of its sets of attributes.
    sets: HashMap<u32, SetId>,
}

impl Upper<'_> {
    /// Puts one of the layer's names into directory `to`. Returns the directory whose children come next, if it is one.
    fn child(
        &mut self,
        tree: &mut TreeBuilder,
        to: InodeId,
        name: &[u8],
        id: InodeId,
    ) -> Result<Option<InodeId>, IndexError> {
        let inode = *self.layer.inode(id);
        if inode.is_whiteout() {
            tree.unlink(to, name);
            return Ok(None);
        }
        let Kind::Directory { opaque, .. } = inode.kind else {
            let made = match self.known[id.at()] {
                Some(made) => made,
                None => self.copy(tree, &inode)?,
            };
            self.known[id.at()] = Some(made);
            tree.link(to, name, made)?;
            return Ok(None);
        };
        let below = tree.child(to, name).filter(|below| !opaque && tree.inode(*below).is_directory());
        let directory = match below {
            Some(below) => below,
            None => {
                let made = tree.new_directory(to, false, inode.mtime)?;
                let made = tree.add_inode(made)?;
                tree.link(to, name, made)?;
                made
            }
        };
        self.dress(tree, directory, &inode)?;
        Ok(Some(directory))
    }

    /// Gives a directory the description it has in this layer.
    fn dress(&mut self, tree: &mut TreeBuilder, directory: InodeId, inode: &Inode) -> Result<(), IndexError> {
        let xattrs = self.set(tree, inode.xattrs)?;
        let known = *tree.inode(directory);
        *tree.inode_mut(directory) = Inode { kind: known.kind, xattrs, ..*inode };
        Ok(())
    }

    fn copy(&mut self, tree: &mut TreeBuilder, inode: &Inode) -> Result<InodeId, IndexError> {
        let kind = match inode.kind {
            Kind::File { size, content } => Kind::File { size, content: self.content(tree, content)? },
            Kind::Symlink(span) => Kind::Symlink(tree.add_text(self.layer.target(span))?),
            other => other,
        };
        let xattrs = self.set(tree, inode.xattrs)?;
        tree.add_inode(Inode { kind, xattrs, ..*inode })
    }

    fn content(&self, tree: &mut TreeBuilder, content: Content) -> Result<Content, IndexError> {
        let mut segments = Vec::with_capacity(1);
        for segment in self.layer.segments(content) {
            let place = match segment.place {
                Place::Device(device, at) => Place::Device(self.first_device + device, at),
                Place::Spill(at) => {
                    let to = tree.spill.len();
                    // The layer holds whole blocks.
                    let bytes = self.layer.spilled(at, segment.length.next_multiple_of(BLOCK));
                    if to + bytes.len() > MAX_SPILL {
                        return Err(IndexError::TooLarge("content of sparse files"));
                    }
                    tree.spill.extend_from_slice(bytes);
                    Place::Spill(to as u64)
                }
            };
            segments.push(Segment { place, ..*segment });
        }
        tree.add_segments(segments)
    }

    fn set(&mut self, tree: &mut TreeBuilder, set: SetId) -> Result<SetId, IndexError> {
        if set == SetId::default() {
            return Ok(set);
        }
        if let Some(known) = self.sets.get(&set.number()) {
            return Ok(*known);
        }
        let attributes = self.layer.xattrs.of(set).cloned().collect();
        let made = tree.xattrs.replace(SetId::default(), attributes)?;
        self.sets.insert(set.number(), made);
        Ok(made)
    }
}
