//! From a tree to an index: first every inode gets its place, then everything is written into one buffer. The same tree makes
//! the same bytes.

mod directory;
mod place;

use directory::Names;
use place::{Placed, place};

use super::IndexError;
use super::layout::*;
use super::tree::{Content, Inode, InodeId, Kind, Place, ROOT, Segment, Tree};
use super::xattr::{Bare, COPIED_UP, OPAQUE};
use crate::untar::TarTime;

/// Writes `tree` as an index.
pub fn write(tree: &Tree) -> Result<Vec<u8>, IndexError> {
    if tree.devices.len() > MAX_DEVICES {
        return Err(IndexError::TooLarge("layers"));
    }
    let shared = shared_attributes(tree)?;
    let epoch = common_time(tree);
    let first = SUPERBLOCK + SUPERBLOCK_SIZE + tree.devices.len() * DEVICE_SLOT;
    let placed = place(tree, epoch, &shared, first as u64)?;
    // Bounded by what was placed.
    let mut image = Image { bytes: vec![0; placed.blocks as usize * BLOCK as usize] };
    image.superblock(tree, epoch, &placed);
    for (at, device) in tree.devices.iter().enumerate() {
        let blocks = u32::try_from(device.blocks).map_err(|_| IndexError::TooLarge("a layer"))?;
        let slot = SUPERBLOCK + SUPERBLOCK_SIZE + at * DEVICE_SLOT;
        image.put(slot, &device.tag);
        image.put(slot + 64, &blocks.to_le_bytes());
    }
    let mut writer = Writer { tree, shared: &shared, placed: &placed, image, spilled: placed.spill_block };
    for at in 0..tree.len() {
        writer.inode(InodeId(at as u32))?;
    }
    let mut image = writer.image;
    image.put((u64::from(placed.shared_block) * BLOCK) as usize, &shared.bytes);
    image.seal();
    Ok(image.bytes)
}

/// Makes the checksum of an image right that was changed on purpose.
#[cfg(any(test, fuzzing))]
pub(crate) fn reseal(image: &mut Vec<u8>) {
    if image.len() >= SUPERBLOCK + BLOCK as usize {
        let mut whole = Image { bytes: std::mem::take(image) };
        whole.put(SUPERBLOCK + 4, &[0; 4]);
        whole.seal();
        *image = whole.bytes;
    }
}

/// The buffer everything is written to.
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn superblock(&mut self, tree: &Tree, epoch: TarTime, placed: &Placed) {
        let devices = tree.devices.len() as u16;
        let features = INCOMPAT_CHUNKED | if devices > 0 { INCOMPAT_DEVICES } else { 0 };
        let mut block = [0; SUPERBLOCK_SIZE];
        let mut field = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        field(0, &MAGIC.to_le_bytes());
        field(8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        field(12, &[BLOCK_BITS]);
        field(14, &(placed.number(ROOT) as u16).to_le_bytes());
        field(16, &(tree.len() as u64).to_le_bytes());
        field(24, &epoch.seconds.to_le_bytes());
        field(32, &epoch.nanos.to_le_bytes());
        field(36, &placed.blocks.to_le_bytes());
        field(44, &placed.shared_block.to_le_bytes());
        field(80, &features.to_le_bytes());
        field(86, &devices.to_le_bytes());
        field(88, &(((SUPERBLOCK + SUPERBLOCK_SIZE) / DEVICE_SLOT) as u16).to_le_bytes());
        self.put(SUPERBLOCK, &block);
    }

    /// Writes the checksum, of what is there.
    fn seal(&mut self) {
        let sum = checksum(&self.bytes[SUPERBLOCK..SUPERBLOCK + BLOCK as usize]);
        self.put(SUPERBLOCK + 4, &sum.to_le_bytes());
    }
}

/// The time that most inodes have, if there is one: those can be compact.
fn common_time(tree: &Tree) -> TarTime {
    let (mut candidate, mut count) = (TarTime::default(), 0u32);
    // Majority vote of Boyer and Moore.
    for inode in &tree.inodes {
        if count == 0 {
            candidate = inode.mtime;
        }
        count = if inode.mtime == candidate { count + 1 } else { count - 1 };
    }
    candidate
}

/// Attributes that are kept once for all inodes that have them.
struct Shared {
    /// Number in the format of each attribute; `None` for one that its inode has itself.
    numbers: Vec<Option<u32>>,
    bytes: Vec<u8>,
}

/// Those that several inodes have, and those too long to stand behind an inode.
fn shared_attributes(tree: &Tree) -> Result<Shared, IndexError> {
    const LONG: usize = 4096;
    let mut uses = vec![0u32; tree.xattrs.len()];
    for inode in &tree.inodes {
        for number in tree.xattrs.numbers(inode.xattrs) {
            uses[*number as usize] += 1;
        }
    }
    let mut shared = Shared { numbers: vec![None; uses.len()], bytes: Vec::new() };
    // In the order of the inodes, which does not depend on how the tree came about.
    for at in tree.inodes.iter().flat_map(|inode| tree.xattrs.numbers(inode.xattrs)).map(|number| *number as usize) {
        let attribute = tree.xattrs.get(at as u32);
        if shared.numbers[at].is_some() || (uses[at] < 2 && attribute.value.len() < LONG) {
            continue;
        }
        let number = u32::try_from(shared.bytes.len() / 4).map_err(|_| IndexError::TooLarge("attributes"))?;
        shared.numbers[at] = Some(number);
        push_attribute(&mut shared.bytes, attribute.bare());
    }
    Ok(shared)
}

/// The size an attribute has on disk.
fn attribute_size(bare: Bare<'_>) -> usize {
    (XATTR_ENTRY + bare.suffix.len() + bare.value.len()).next_multiple_of(4)
}

fn push_attribute(out: &mut Vec<u8>, bare: Bare<'_>) {
    // Names and values fit: `Attribute` has checked.
    out.extend([bare.suffix.len() as u8, bare.prefix]);
    out.extend((bare.value.len() as u16).to_le_bytes());
    out.extend(bare.suffix);
    out.extend(bare.value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Attributes of an inode: numbers of shared ones, and its own.
#[derive(Default)]
struct Attributes<'a> {
    shared: Vec<u32>,
    own: Vec<Bare<'a>>,
}

impl<'a> Attributes<'a> {
    fn of(tree: &'a Tree, shared: &Shared, id: InodeId) -> Self {
        let inode = tree.inode(id);
        let mut out = Self::default();
        for number in tree.xattrs.numbers(inode.xattrs) {
            match shared.numbers[*number as usize] {
                Some(number) if out.shared.len() < MAX_SHARED => out.shared.push(number),
                _ => out.own.push(tree.xattrs.get(*number).bare()),
            }
        }
        if matches!(inode.kind, Kind::Directory { opaque: true, .. }) {
            out.own.push(OPAQUE);
        }
        if tree.children(id).any(|(_, child)| tree.inode(child).is_whiteout()) {
            out.own.push(COPIED_UP);
        }
        out
    }

    /// How many bytes they take behind an inode.
    fn size(&self) -> usize {
        if self.shared.is_empty() && self.own.is_empty() {
            return 0;
        }
        XATTR_HEADER + self.shared.len() * 4 + self.own.iter().map(|bare| attribute_size(*bare)).sum::<usize>()
    }

    fn write(&self) -> Vec<u8> {
        if self.shared.is_empty() && self.own.is_empty() {
            return Vec::new();
        }
        let mut out = vec![0; XATTR_HEADER];
        out[4] = self.shared.len() as u8;
        out.extend(self.shared.iter().flat_map(|number| number.to_le_bytes()));
        self.own.iter().for_each(|bare| push_attribute(&mut out, *bare));
        out
    }
}

/// Bits of the chunk size of a file: as large as its segments allow, and no larger than it needs.
fn chunk_bits(size: u64, segments: &[Segment]) -> u32 {
    let needed = size.div_ceil(BLOCK).next_power_of_two().trailing_zeros().min(MAX_CHUNK_BITS);
    let edges = segments.iter().flat_map(|segment| {
        let end = segment.offset + segment.length;
        [segment.offset, if end == size { 0 } else { end }]
    });
    edges
        .map(|edge| if edge == 0 { needed } else { edge.trailing_zeros() - u32::from(BLOCK_BITS) })
        .fold(needed, u32::min)
}

fn chunks(size: u64, bits: u32) -> u64 {
    size.div_ceil(BLOCK << bits)
}

fn file_mode(inode: &Inode) -> u16 {
    inode.mode & 0o7777
        | match inode.kind {
            Kind::Directory { .. } => DIRECTORY,
            Kind::File { .. } => FILE,
            Kind::Symlink(_) => SYMLINK,
            Kind::CharDevice(_) => CHAR_DEVICE,
            Kind::BlockDevice(_) => BLOCK_DEVICE,
            Kind::Fifo => FIFO,
        }
}

struct Writer<'a> {
    tree: &'a Tree,
    shared: &'a Shared,
    placed: &'a Placed,
    image: Image,
    /// The next free block for spilled bytes.
    spilled: u32,
}

impl Writer<'_> {
    fn inode(&mut self, id: InodeId) -> Result<(), IndexError> {
        let (inode, spot) = (*self.tree.inode(id), self.placed.spots[id.at()]);
        let at = spot.offset as usize;
        let behind = Attributes::of(self.tree, self.shared, id).write();
        let xattr_count = if behind.is_empty() { 0 } else { (behind.len() - XATTR_HEADER) / 4 + 1 } as u16;
        let head = if spot.compact { COMPACT } else { EXTENDED };
        self.image.put(at + head, &behind);
        let tail = at + head + behind.len();
        let (layout, size, value) = match inode.kind {
            Kind::Directory { .. } => self.directory(id, tail),
            Kind::File { size, content } if size > 0 => self.chunked(size, content, tail)?,
            Kind::Symlink(span) => {
                let target = self.tree.target(span);
                self.flat(target, spot.blocks, spot.inline, tail)
            }
            Kind::CharDevice(number) | Kind::BlockDevice(number) => (FLAT_PLAIN, 0, number),
            Kind::File { .. } | Kind::Fifo => (FLAT_PLAIN, 0, 0),
        };
        let format = (layout << 1) | u16::from(!spot.compact);
        self.image.put(at, &format.to_le_bytes());
        self.image.put(at + 2, &xattr_count.to_le_bytes());
        self.image.put(at + 4, &file_mode(&inode).to_le_bytes());
        self.image.put(at + 16, &value.to_le_bytes());
        self.image.put(at + 20, &(id.0 + 1).to_le_bytes());
        if spot.compact {
            // All fit, or it would not be compact.
            self.image.put(at + 6, &(inode.links as u16).to_le_bytes());
            self.image.put(at + 8, &(size as u32).to_le_bytes());
            self.image.put(at + 24, &(inode.uid as u16).to_le_bytes());
            self.image.put(at + 26, &(inode.gid as u16).to_le_bytes());
        } else {
            self.image.put(at + 8, &size.to_le_bytes());
            self.image.put(at + 24, &inode.uid.to_le_bytes());
            self.image.put(at + 28, &inode.gid.to_le_bytes());
            self.image.put(at + 32, &inode.mtime.seconds.to_le_bytes());
            self.image.put(at + 40, &inode.mtime.nanos.to_le_bytes());
            self.image.put(at + 44, &inode.links.to_le_bytes());
        }
        Ok(())
    }

    fn directory(&mut self, id: InodeId, tail: usize) -> (u16, u64, u32) {
        let spot = self.placed.spots[id.at()];
        let mut bytes = Vec::with_capacity(512);
        Names::of(self.tree, id).write(self.tree, self.placed, &mut bytes);
        self.flat(&bytes, spot.blocks, spot.inline, tail)
    }

    /// Content in blocks from `block` on, the last part of it behind the inode where it is `inline`.
    fn flat(&mut self, bytes: &[u8], block: u32, inline: bool, tail: usize) -> (u16, u64, u32) {
        let whole = if inline { bytes.len() / BLOCK as usize * BLOCK as usize } else { bytes.len() };
        self.image.put((u64::from(block) * BLOCK) as usize, &bytes[..whole]);
        if inline {
            self.image.put(tail, &bytes[whole..]);
        }
        (if inline { FLAT_INLINE } else { FLAT_PLAIN }, bytes.len() as u64, block)
    }

    fn chunked(&mut self, size: u64, content: Content, tail: usize) -> Result<(u16, u64, u32), IndexError> {
        let segments = self.tree.segments(content);
        let bits = chunk_bits(size, segments);
        let (chunk, mut at) = (BLOCK << bits, tail.next_multiple_of(8));
        let mut left = segments.iter().peekable();
        let mut next_spilled = None;
        for number in 0..chunks(size, bits) {
            let offset = number * chunk;
            while left.next_if(|segment| segment.offset + segment.length <= offset).is_some() {
                next_spilled = None;
            }
            let (device, block) = match left.peek().filter(|segment| segment.offset <= offset) {
                None => (0, HOLE),
                Some(segment) => {
                    let within = (offset - segment.offset) / BLOCK;
                    match segment.place {
                        Place::Device(device, start) => (device + 1, address(start / BLOCK + within)?),
                        Place::Spill(start) => {
                            let first = match next_spilled {
                                Some(first) => first,
                                None => self.spill(start, segment.length),
                            };
                            next_spilled = Some(first);
                            (0, address(u64::from(first) + within)?)
                        }
                    }
                }
            };
            self.image.put(at + 2, &device.to_le_bytes());
            self.image.put(at + 4, &block.to_le_bytes());
            at += INDEX_SIZE as usize;
        }
        Ok((CHUNKED, size, bits | u32::from(CHUNK_INDEXES)))
    }

    /// Writes the bytes of a spilled segment; its first block.
    fn spill(&mut self, start: u64, length: u64) -> u32 {
        let first = self.spilled;
        let bytes = self.tree.spilled(start, length);
        self.image.put((u64::from(first) * BLOCK) as usize, bytes);
        self.spilled += length.div_ceil(BLOCK) as u32;
        first
    }
}

fn address(block: u64) -> Result<u32, IndexError> {
    u32::try_from(block).ok().filter(|block| *block != HOLE).ok_or(IndexError::TooLarge("a layer"))
}
