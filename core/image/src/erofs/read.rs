//! From an index back to a tree, so that layers are merged without their tars. Takes what [`super::write()`] writes and nothing
//! else of what the format allows. The image is not trusted: whatever is in it, this ends soon, with a tree or an error.

use std::collections::HashMap;

use super::IndexError;
use super::layout::*;
use super::tree::{Device, Inode, InodeId, Kind, MAX_NAME, MAX_SPILL, Place, ROOT, Segment, Tree, TreeBuilder};
use super::xattr::{Attribute, Bare, COPIED_UP, OPAQUE, SetId, is_acl, prefix};
use crate::untar::TarTime;

const MAX_TARGET: u64 = 4095;

/// Reads an index.
pub fn read(image: &[u8]) -> Result<Tree, IndexError> {
    let source = Source { image };
    let superblock = Superblock::parse(&source)?;
    let mut reader = Reader {
        source,
        shared_at: superblock.shared_at,
        epoch: superblock.epoch,
        tree: TreeBuilder::new(),
        known: HashMap::new(),
        shared: HashMap::new(),
        // Nothing is in two places, so that there is no more than the image is long; but small things are counted generously.
        budget: 8 * image.len() as u64,
    };
    reader.tree.devices = superblock.devices;
    reader.run(superblock.root)?;
    Ok(reader.tree.finish())
}

fn broken<T>(what: &'static str) -> Result<T, IndexError> {
    Err(IndexError::Broken(what))
}

struct Source<'a> {
    image: &'a [u8],
}

impl<'a> Source<'a> {
    fn bytes(&self, at: u64, length: u64) -> Result<&'a [u8], IndexError> {
        let range = at.checked_add(length).and_then(|end| Some(usize::try_from(at).ok()?..usize::try_from(end).ok()?));
        range.and_then(|range| self.image.get(range)).ok_or(IndexError::Broken("it ends early"))
    }

    fn array<const N: usize>(&self, at: u64) -> Result<[u8; N], IndexError> {
        self.bytes(at, N as u64)?.try_into().map_err(|_| IndexError::Broken("it ends early"))
    }

    fn u16(&self, at: u64) -> Result<u16, IndexError> {
        Ok(u16::from_le_bytes(self.array(at)?))
    }

    fn u32(&self, at: u64) -> Result<u32, IndexError> {
        Ok(u32::from_le_bytes(self.array(at)?))
    }

    fn u64(&self, at: u64) -> Result<u64, IndexError> {
        Ok(u64::from_le_bytes(self.array(at)?))
    }

    fn time(&self, seconds: u64, nanos: u64) -> Result<TarTime, IndexError> {
        let (seconds, nanos) = (i64::from_le_bytes(self.array(seconds)?), self.u32(nanos)?);
        if seconds < 0 || nanos >= 1_000_000_000 { broken("a time") } else { Ok(TarTime { seconds, nanos }) }
    }
}

struct Superblock {
    root: u64,
    epoch: TarTime,
    shared_at: u64,
    devices: Vec<Device>,
}

impl Superblock {
    fn parse(source: &Source<'_>) -> Result<Self, IndexError> {
        let at = SUPERBLOCK as u64;
        let mut block: [u8; BLOCK as usize] = source.array(at)?;
        block[4..8].fill(0);
        if source.u32(at)? != MAGIC || source.array(at + 12)? != [BLOCK_BITS, 0] {
            return broken("its superblock");
        }
        if source.u32(at + 4)? != checksum(&block) {
            return broken("its checksum");
        }
        let features = source.u32(at + 80)?;
        let count = u64::from(source.u16(at + 86)?);
        let wanted = INCOMPAT_CHUNKED | if count > 0 { INCOMPAT_DEVICES } else { 0 };
        if features != wanted || count > MAX_DEVICES as u64 || source.u32(at + 40)? != 0 {
            return broken("its features");
        }
        let first = u64::from(source.u16(at + 88)?) * DEVICE_SLOT as u64;
        let device = |number| {
            let slot = first + number * DEVICE_SLOT as u64;
            Ok(Device { tag: source.array(slot)?, blocks: source.u32(slot + 64)?.into() })
        };
        Ok(Self {
            root: source.u16(at + 14)?.into(),
            epoch: source.time(at + 24, at + 32)?,
            shared_at: u64::from(source.u32(at + 44)?) * BLOCK,
            devices: (0..count).map(device).collect::<Result<_, IndexError>>()?,
        })
    }
}

/// What stands at an inode's place.
struct Raw {
    inode: Inode,
    format: u16,
    mode: u16,
    size: u64,
    value: u32,
    /// Where its attributes are, and how long.
    behind: u64,
    xattr_bytes: u64,
}

struct Reader<'a> {
    source: Source<'a>,
    shared_at: u64,
    epoch: TarTime,
    tree: TreeBuilder,
    /// Inodes by their numbers in the format.
    known: HashMap<u64, InodeId>,
    /// Shared attributes by theirs.
    shared: HashMap<u32, u32>,
    budget: u64,
}

impl Reader<'_> {
    fn spend(&mut self, bytes: u64) -> Result<(), IndexError> {
        self.budget = self.budget.checked_sub(bytes).ok_or(IndexError::Broken("it says more than it can hold"))?;
        Ok(())
    }

    fn run(&mut self, root: u64) -> Result<(), IndexError> {
        let raw = self.raw(root)?;
        if raw.mode & TYPE_MASK != DIRECTORY {
            return broken("its root");
        }
        let (kind, inode) = (self.tree.inode(ROOT).kind, raw.inode);
        *self.tree.inode_mut(ROOT) = Inode { kind, ..inode };
        self.dress(ROOT, &raw)?;
        self.known.insert(root, ROOT);
        let mut todo = vec![(ROOT, raw)];
        while let Some((id, raw)) = todo.pop() {
            self.directory(id, &raw, &mut todo)?;
        }
        Ok(())
    }

    /// Reads what all inodes have.
    fn raw(&mut self, number: u64) -> Result<Raw, IndexError> {
        self.spend(COMPACT as u64)?;
        let at = number.checked_mul(INODE_SLOT as u64).ok_or(IndexError::Broken("an inode's number"))?;
        let source = &self.source;
        let (format, count, mode) = (source.u16(at)?, source.u16(at + 2)?, source.u16(at + 4)?);
        let (extended, layout) = (format & 1 == 1, format >> 1);
        let (size, value) =
            (if extended { source.u64(at + 8)? } else { source.u32(at + 8)?.into() }, source.u32(at + 16)?);
        let (uid, gid, mtime) = if extended {
            (source.u32(at + 24)?, source.u32(at + 28)?, source.time(at + 32, at + 40)?)
        } else {
            (source.u16(at + 24)?.into(), source.u16(at + 26)?.into(), self.epoch)
        };
        if uid == u32::MAX || gid == u32::MAX || i64::try_from(size).is_err() {
            return broken("an inode");
        }
        let xattr_bytes = if count == 0 { 0 } else { (XATTR_HEADER + 4 * (usize::from(count) - 1)) as u64 };
        let behind = at + if extended { EXTENDED } else { COMPACT } as u64;
        // The kind comes later.
        let (kind, xattrs) = (Kind::Fifo, SetId::default());
        let inode = Inode { mode: mode & 0o7777, uid, gid, mtime, links: 0, kind, xattrs };
        Ok(Raw { inode, format: layout, mode, size, value, behind, xattr_bytes })
    }

    /// Gives inode `id` the attributes it has.
    fn dress(&mut self, id: InodeId, raw: &Raw) -> Result<(), IndexError> {
        if raw.xattr_bytes == 0 {
            return Ok(());
        }
        self.spend(raw.xattr_bytes)?;
        let body = self.source.bytes(raw.behind, raw.xattr_bytes)?;
        let shared = usize::from(body.get(4).copied().unwrap_or(0)) * 4;
        let Some((list, mut own)) = body[XATTR_HEADER..].split_at_checked(shared) else { return broken("attributes") };
        let mut numbers = Vec::new();
        for number in list.chunks_exact(4) {
            numbers.push(self.shared(u32::from_le_bytes([number[0], number[1], number[2], number[3]]))?);
        }
        while !own.is_empty() {
            let (bare, rest) = attribute(own)?;
            own = rest;
            if bare == COPIED_UP {
                // The writer knows by itself which directories have whiteouts.
                continue;
            }
            if bare == OPAQUE {
                let Kind::Directory { opaque, .. } = &mut self.tree.inode_mut(id).kind else {
                    return broken("a mark of opaque directories");
                };
                *opaque = true;
                continue;
            }
            numbers.push(self.tree.xattrs.attribute(named(bare)?)?);
        }
        let set = self.tree.xattrs.set(numbers)?;
        let names: Vec<_> = self.tree.xattrs.of(set).map(|attribute| &attribute.name).collect();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return broken("an attribute twice");
        }
        self.tree.inode_mut(id).xattrs = set;
        Ok(())
    }

    fn shared(&mut self, number: u32) -> Result<u32, IndexError> {
        if let Some(known) = self.shared.get(&number) {
            return Ok(*known);
        }
        let at = self.shared_at + u64::from(number) * 4;
        let length =
            XATTR_ENTRY as u64 + u64::from(self.source.array::<1>(at)?[0]) + u64::from(self.source.u16(at + 2)?);
        self.spend(length)?;
        let (bare, _) = attribute(self.source.bytes(at, length)?)?;
        let made = self.tree.xattrs.attribute(named(bare)?)?;
        self.shared.insert(number, made);
        Ok(made)
    }

    /// The content of directories and links.
    fn flat(&mut self, raw: &Raw) -> Result<Vec<u8>, IndexError> {
        self.spend(raw.size)?;
        let (start, tail) = (u64::from(raw.value) * BLOCK, raw.size % BLOCK);
        match raw.format {
            FLAT_PLAIN => Ok(self.source.bytes(start, raw.size)?.to_vec()),
            FLAT_INLINE => {
                let whole = self.source.bytes(start, raw.size - tail)?;
                let tail = self.source.bytes(raw.behind + raw.xattr_bytes, tail)?;
                Ok([whole, tail].concat())
            }
            _ => broken("the layout of a directory or a link"),
        }
    }

    fn directory(&mut self, id: InodeId, raw: &Raw, todo: &mut Vec<(InodeId, Raw)>) -> Result<(), IndexError> {
        let content = self.flat(raw)?;
        let mut last: Option<&[u8]> = None;
        for block in content.chunks(BLOCK as usize) {
            for (name, number) in entries(block)? {
                if last.is_some_and(|last| last >= name) {
                    return broken("the order of a directory");
                }
                last = Some(name);
                // `.` and `..` are known.
                if !matches!(name, b"." | b"..") {
                    self.name(id, name, number, todo)?;
                }
            }
        }
        Ok(())
    }

    fn name(
        &mut self,
        parent: InodeId,
        name: &[u8],
        number: u64,
        todo: &mut Vec<(InodeId, Raw)>,
    ) -> Result<(), IndexError> {
        if let Some(known) = self.known.get(&number) {
            if self.tree.inode(*known).is_directory() {
                return broken("a directory with two names");
            }
            self.tree.link(parent, name, *known)?;
            return Ok(());
        }
        let raw = self.raw(number)?;
        let kind = self.kind(parent, &raw)?;
        let id = self.tree.add_inode(Inode { kind, ..raw.inode })?;
        self.known.insert(number, id);
        self.tree.link(parent, name, id)?;
        self.dress(id, &raw)?;
        if matches!(kind, Kind::Directory { .. }) {
            todo.push((id, raw));
        }
        Ok(())
    }

    fn kind(&mut self, parent: InodeId, raw: &Raw) -> Result<Kind, IndexError> {
        Ok(match raw.mode & TYPE_MASK {
            DIRECTORY => self.tree.directory_in(parent, false)?,
            SYMLINK => {
                if raw.size == 0 || raw.size > MAX_TARGET {
                    return broken("a link");
                }
                let target = self.flat(raw)?;
                if target.contains(&0) {
                    return broken("a link");
                }
                Kind::Symlink(self.tree.add_text(&target)?)
            }
            CHAR_DEVICE => Kind::CharDevice(raw.value),
            BLOCK_DEVICE => Kind::BlockDevice(raw.value),
            FIFO => Kind::Fifo,
            FILE => self.file(raw)?,
            _ => return broken("the type of an inode"),
        })
    }

    fn file(&mut self, raw: &Raw) -> Result<Kind, IndexError> {
        let size = raw.size;
        if size == 0 && raw.format == FLAT_PLAIN {
            return Ok(Kind::File { size, content: self.tree.add_segments([])? });
        }
        let bits = raw.value & 0x1f;
        if raw.format != CHUNKED || raw.value != bits | u32::from(CHUNK_INDEXES) || size == 0 {
            return broken("the layout of a file");
        }
        let (chunk, count) = (BLOCK << bits, size.div_ceil(BLOCK << bits));
        if count > MAX_CHUNKS {
            return broken("the size of a file");
        }
        self.spend(count * INDEX_SIZE)?;
        let first = (raw.behind + raw.xattr_bytes).next_multiple_of(INDEX_SIZE);
        let indexes = self.source.bytes(first, count * INDEX_SIZE)?;
        let mut segments = Vec::with_capacity(1);
        for (number, index) in indexes.chunks_exact(INDEX_SIZE as usize).enumerate() {
            let device = u16::from_le_bytes([index[2], index[3]]);
            let block = u32::from_le_bytes([index[4], index[5], index[6], index[7]]);
            let offset = number as u64 * chunk;
            let length = chunk.min(size - offset);
            let place = match (device, block) {
                (_, HOLE) => continue,
                (0, block) => self.spilled(block, length)?,
                (device, block) => self.on_device(device - 1, block, length)?,
            };
            segments.push(Segment { offset, length, place });
        }
        Ok(Kind::File { size, content: self.tree.add_segments(segments)? })
    }

    fn on_device(&self, device: u16, block: u32, length: u64) -> Result<Place, IndexError> {
        let blocks = self.tree.devices.get(usize::from(device)).map(|device| device.blocks);
        if blocks.is_none_or(|blocks| u64::from(block) + length.div_ceil(BLOCK) > blocks) {
            return broken("the place of a file");
        }
        Ok(Place::Device(device, u64::from(block) * BLOCK))
    }

    fn spilled(&mut self, block: u32, length: u64) -> Result<Place, IndexError> {
        let length = length.next_multiple_of(BLOCK);
        self.spend(length)?;
        let bytes = self.source.bytes(u64::from(block) * BLOCK, length)?;
        let to = self.tree.spill.len();
        if to + bytes.len() > MAX_SPILL {
            return Err(IndexError::TooLarge("content of sparse files"));
        }
        self.tree.spill.extend_from_slice(bytes);
        Ok(Place::Spill(to as u64))
    }
}

/// The first attribute, and what follows it.
fn attribute(bytes: &[u8]) -> Result<(Bare<'_>, &[u8]), IndexError> {
    let parts = bytes.split_first_chunk::<XATTR_ENTRY>().and_then(|(head, rest)| {
        let (name, value) = (usize::from(head[0]), usize::from(u16::from_le_bytes([head[2], head[3]])));
        let (suffix, after) = rest.split_at_checked(name)?;
        let (value, _) = after.split_at_checked(value)?;
        let length = (XATTR_ENTRY + suffix.len() + value.len()).next_multiple_of(4);
        Some((Bare { prefix: head[1], suffix, value }, bytes.get(length..).unwrap_or_default()))
    });
    parts.ok_or(IndexError::Broken("attributes"))
}

fn named(bare: Bare<'_>) -> Result<Attribute, IndexError> {
    let Some(prefix) = prefix(bare.prefix) else { return broken("the prefix of an attribute") };
    if matches!(bare.prefix, 2 | 3) && !is_acl(bare.value) {
        return broken("an access control list");
    }
    let name = [prefix, bare.suffix].concat();
    Attribute::new(&name, bare.value)?.ok_or(IndexError::Broken("the name of an attribute"))
}

/// Names and inode numbers in one block of a directory.
fn entries(block: &[u8]) -> Result<Vec<(&[u8], u64)>, IndexError> {
    let bad = || IndexError::Broken("a directory");
    let head = |at: usize| {
        let entry = block.get(at * DIRENT..at * DIRENT + DIRENT)?;
        let (number, rest) = entry.split_first_chunk::<8>()?;
        Some((u64::from_le_bytes(*number), usize::from(u16::from_le_bytes([rest[0], rest[1]]))))
    };
    let (_, names) = head(0).ok_or_else(bad)?;
    if names == 0 || names % DIRENT != 0 || names > block.len() {
        return Err(bad());
    }
    let count = names / DIRENT;
    let mut out = Vec::with_capacity(count);
    for at in 0..count {
        let (number, start) = head(at).ok_or_else(bad)?;
        let end = if at + 1 < count { head(at + 1).ok_or_else(bad)?.1 } else { block.len() };
        let mut name = block.get(start..end).ok_or_else(bad)?;
        if at + 1 == count {
            // Up to the first zero, or to the end.
            name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        }
        if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) || name.contains(&b'/') {
            return Err(bad());
        }
        out.push((name, number));
    }
    Ok(out)
}
