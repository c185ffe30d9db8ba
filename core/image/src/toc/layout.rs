//! From a TOC to a tree and a table of chunks. Entries go through the scanner of tars, so that names, links, whiteouts and
//! limits mean what they mean there, and the tree is the one that the whole tar would give.
//!
//! Differences that remain, all of them of what the TOC does not say: eStargz rounds times to seconds, and neither format can
//! say names that are not UTF-8 (refused here). Sparse files are not in TOCs either.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::chunk::{Chunk, Codec};
use super::entry::{Raw, Sink, Type};
use super::locate::{Kind, sum};
use super::{ALIGNMENT, MAX_CHUNK, MAX_CHUNKS, MAX_PAYLOAD, MAX_TOC, TocError, entry, estargz, time};
use crate::erofs::{Scanner, Tree};
use crate::untar::{Entry, EntryKind, TarTime};

/// A layer of which only the TOC is here.
#[derive(Debug)]
pub(crate) struct LazyLayer {
    /// Of which format.
    pub(crate) kind: Kind,
    /// Its files; their content lies on device 0, the payload.
    pub(crate) tree: Tree,
    /// Bytes of the payload; whole pages.
    pub(crate) payload_size: u64,
    /// Bytes of the files, as [`Unpacked::bytes`](crate::layer::Unpacked::bytes) counts.
    pub(crate) files_size: u64,
    /// By their places in the payload.
    chunks: Vec<Chunk>,
}

impl LazyLayer {
    /// Of a TOC that was verified. `tag` goes to the device table; see [`Device`](crate::erofs::Device).
    pub(crate) fn parse(kind: Kind, json: &[u8], tag: [u8; 64]) -> Result<Self, TocError> {
        if json.len() as u64 > MAX_TOC {
            return Err(TocError::TooLarge("table of contents"));
        }
        let mut layout = Layout::new(kind);
        entry::read(json, &mut layout)?;
        layout.close()?;
        if let Kind::Estargz { toc, footer, inner } = kind {
            layout.own_file(json, toc..footer, inner)?;
        }
        layout.finish(tag)
    }

    /// The chunks that overlap a piece of the payload, in order. What is in none of them is zeros.
    pub(crate) fn chunks(&self, payload: Range<u64>) -> impl Iterator<Item = &Chunk> {
        let first = self.chunks.partition_point(|chunk| chunk.payload().end <= payload.start);
        let end = if payload.is_empty() { 0 } else { payload.end };
        self.chunks[first..].iter().take_while(move |chunk| chunk.payload < end)
    }

    /// All of them.
    pub(crate) fn all_chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}

/// A file whose chunks are coming.
#[derive(Debug, Clone, Copy)]
struct Open {
    start: u64,
    size: u64,
    /// How much of it the chunks cover so far.
    done: u64,
    /// Where its last chunk ends in the blob; 0 where the TOC does not say.
    end: u64,
}

/// A layer that grows.
#[derive(Debug)]
struct Layout {
    kind: Kind,
    codec: Codec,
    scanner: Scanner,
    chunks: Vec<Chunk>,
    /// Where the payload ends so far.
    at: u64,
    open: Option<Open>,
    /// The last entry that was no chunk, for errors.
    name: String,
}

impl Sink for Layout {
    fn take(&mut self, raw: &Raw<'_>) -> Result<(), TocError> {
        if raw.kind == Type::Chunk {
            return self.chunk(raw);
        }
        self.close()?;
        self.name.clear();
        self.name.push_str(&raw.name);
        let entry = self.entry(raw)?;
        if entry.kind != EntryKind::File || entry.size == 0 {
            return Ok(self.scanner.entry(&entry, self.at)?);
        }
        let start = self.reserve(entry.size)?;
        self.scanner.entry(&entry, start)?;
        self.open = Some(Open { start, size: entry.size, done: 0, end: raw.end_offset });
        self.chunk(raw)
    }
}

impl Layout {
    fn new(kind: Kind) -> Self {
        let codec = match kind {
            Kind::Estargz { .. } => Codec::Gzip,
            Kind::ZstdChunked { .. } => Codec::Zstd,
        };
        Self { kind, codec, scanner: Scanner::new(), chunks: Vec::new(), at: 0, open: None, name: String::new() }
    }

    fn wrong(&self, what: &'static str) -> TocError {
        TocError::Entry { name: self.name.clone(), what }
    }

    /// The entry as it stands in the tar.
    fn entry(&self, raw: &Raw<'_>) -> Result<Entry, TocError> {
        let kind = match raw.kind {
            // As the reader of tars has it.
            Type::Reg if raw.name.ends_with('/') => EntryKind::Directory,
            Type::Reg => EntryKind::File,
            Type::Dir => EntryKind::Directory,
            Type::Symlink => EntryKind::Symlink,
            Type::Hardlink => EntryKind::HardLink,
            Type::Char => EntryKind::CharDevice,
            Type::Block => EntryKind::BlockDevice,
            Type::Fifo | Type::Chunk => EntryKind::Fifo,
        };
        // What Go writes for bytes that are not UTF-8: the true name cannot be known.
        if raw.name.contains(char::REPLACEMENT_CHARACTER) || raw.link_name.contains(char::REPLACEMENT_CHARACTER) {
            return Err(self.wrong("a name that is not UTF-8"));
        }
        let number = |number: i64, what| u32::try_from(number).map_err(|_| self.wrong(what));
        let mtime = match raw.modtime.as_deref() {
            None | Some("") => TarTime::default(),
            Some(text) => time::parse(text).ok_or_else(|| self.wrong("not a time"))?,
        };
        let device = match kind {
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                (number(raw.dev_major, "not a device number")?, number(raw.dev_minor, "not a device number")?)
            }
            _ => (0, 0),
        };
        let decoded = raw.xattrs.iter().flatten().map(|(name, value)| {
            let value = STANDARD.decode(value).map_err(|_| self.wrong("an attribute that is not base64"))?;
            Ok((name.as_bytes().to_vec(), value))
        });
        Ok(Entry {
            kind,
            path: raw.name.as_bytes().to_vec(),
            link: raw.link_name.as_bytes().to_vec(),
            mode: (raw.mode & 0o7777) as u32,
            uid: number(raw.uid, "not an owner")?,
            gid: number(raw.gid, "not a group")?,
            size: if kind == EntryKind::File { raw.size } else { 0 },
            mtime,
            atime: None,
            device,
            xattrs: decoded.collect::<Result<_, TocError>>()?,
            segments: None,
        })
    }

    /// Makes room for a file.
    fn reserve(&mut self, size: u64) -> Result<u64, TocError> {
        let start = self.at.next_multiple_of(ALIGNMENT);
        let end = start.checked_add(size).filter(|end| *end <= MAX_PAYLOAD);
        self.at = end.ok_or(TocError::TooLarge("payload"))?;
        Ok(start)
    }

    /// The next chunk of the file that is open, which may be all of it.
    fn chunk(&mut self, raw: &Raw<'_>) -> Result<(), TocError> {
        let Some(open) = self.open else { return Err(self.wrong("a chunk of no file")) };
        let left = open.size - open.done;
        let length = if raw.chunk_size == 0 { left } else { raw.chunk_size };
        if raw.chunk_offset != open.done {
            return Err(self.wrong("a chunk that does not follow the one before"));
        }
        if length > left || left == 0 {
            return Err(self.wrong("a chunk beyond the end"));
        }
        self.open = Some(Open { done: open.done + length, ..open });
        let payload = open.start + open.done;
        match &*raw.chunk_type {
            "zeros" if self.codec == Codec::Zstd => return self.zeros(payload, length),
            "" => {}
            // eStargz has no types.
            _ if self.codec == Codec::Gzip => {}
            _ => return Err(self.wrong("a chunk of unknown type")),
        }
        let digest = match &*raw.chunk_digest {
            "" if length == open.size => &*raw.digest,
            digest => digest,
        };
        let digest = sum(digest).ok_or_else(|| self.wrong("a chunk without a sha256 digest"))?;
        if raw.offset >= self.kind.data_end() {
            return Err(TocError::Outside("a chunk"));
        }
        let short = |number: u64| u32::try_from(number).ok().filter(|_| number <= MAX_CHUNK);
        let (length, inner) = short(length).zip(short(raw.inner_offset)).ok_or(TocError::TooLarge("chunk"))?;
        // How long it is in the blob is known when all others are.
        self.push(Chunk { payload, blob: raw.offset, digest, length, blob_length: 0, inner, codec: self.codec })
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), TocError> {
        if self.chunks.len() >= MAX_CHUNKS {
            return Err(TocError::TooLarge("table of chunks"));
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// In pieces that can be handed out like other chunks.
    fn zeros(&mut self, payload: u64, length: u64) -> Result<(), TocError> {
        for at in (0..length).step_by(MAX_CHUNK as usize) {
            // Below the bound.
            let length = (length - at).min(MAX_CHUNK) as u32;
            let (payload, digest, codec) = (payload + at, [0; 32], Codec::Zeros);
            self.push(Chunk { payload, blob: 0, digest, length, blob_length: 0, inner: 0, codec })?;
        }
        Ok(())
    }

    /// No more chunks of the file come.
    fn close(&mut self) -> Result<(), TocError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        if open.done != open.size {
            return Err(self.wrong("chunks that are not the whole file"));
        }
        if open.end != 0
            && let Some(last) = self.chunks.last_mut().filter(|last| last.codec != Codec::Zeros)
        {
            last.blob_length = bounded(last.blob, open.end)?;
        }
        Ok(())
    }

    /// The TOC itself, a file of the tar that it does not list.
    fn own_file(&mut self, json: &[u8], blob: Range<u64>, inner: u64) -> Result<(), TocError> {
        let size = json.len() as u64;
        let payload = self.reserve(size)?;
        self.scanner.entry(&estargz::own_entry(size), payload)?;
        if size == 0 {
            return Ok(());
        }
        let inner = u32::try_from(inner).map_err(|_| TocError::TooLarge("chunk"))?;
        let (digest, blob_length) = (Sha256::digest(json).into(), bounded(blob.start, blob.end)?);
        // Bounded by the TOC's bound.
        let length = size as u32;
        self.push(Chunk { payload, blob: blob.start, digest, length, blob_length, inner, codec: Codec::Gzip })
    }

    fn finish(mut self, tag: [u8; 64]) -> Result<LazyLayer, TocError> {
        self.ends()?;
        self.chunks.shrink_to_fit();
        let payload_size = self.at.next_multiple_of(ALIGNMENT);
        let (tree, unpacked) = self.scanner.finish(payload_size, tag);
        let (kind, chunks) = (self.kind, self.chunks);
        Ok(LazyLayer { kind, tree, payload_size, files_size: unpacked.bytes, chunks })
    }

    /// A chunk ends where the next stream begins, if nothing else was said; never later.
    fn ends(&mut self) -> Result<(), TocError> {
        let data = |chunk: &&Chunk| chunk.codec != Codec::Zeros;
        let mut starts: Vec<u64> = self.chunks.iter().filter(data).map(|chunk| chunk.blob).collect();
        // They are in order already, unless the writer had something in mind; or the author of a broken TOC.
        starts.sort_unstable();
        let end = self.kind.data_end();
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.codec != Codec::Zeros) {
            let next = starts[starts.partition_point(|start| *start <= chunk.blob)..].first();
            match chunk.blob_length {
                // Only the TOC itself is beyond the data, and has its length.
                _ if chunk.blob >= end => {}
                0 => chunk.blob_length = bounded(chunk.blob, next.copied().unwrap_or(end))?,
                _ if chunk.blob().end > next.copied().unwrap_or(end).min(end) => {
                    return Err(TocError::Outside("a chunk"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The length of a range, if it is one and not too long.
fn bounded(start: u64, end: u64) -> Result<u32, TocError> {
    let length = end.checked_sub(start).filter(|length| *length > 0).ok_or(TocError::Outside("a chunk"))?;
    u32::try_from(length).ok().filter(|_| length <= MAX_CHUNK).ok_or(TocError::TooLarge("chunk"))
}
