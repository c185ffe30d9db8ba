//! Does a TOC say what its tar says? When all of a blob is here, its tar is scanned in the ordinary way; the trees must be the
//! same, and the tar must have the contents that the chunks were verified by. Otherwise containers saw other files than those
//! of the layer that the image's configuration names by its digest.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::chunk::{Chunk, Codec};
use super::layout::LazyLayer;
use super::locate::Kind as Format;
use crate::erofs::{Content, Inode, InodeId, Kind, Place, ROOT, Segment, Tree};
use crate::untar::TarTime;

/// Bytes of a tar read at a time.
const BUFFER: usize = 256 << 10;

/// What a TOC says other than its tar.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Mismatch {
    /// A file that is not the same.
    #[error("{path:?}: {what} differs between table of contents and layer")]
    File {
        /// Its path.
        path: PathBuf,
        /// What of it.
        what: &'static str,
    },
    /// The tar could not be read.
    #[error("read the layer's tar: {0}")]
    Read(#[from] io::Error),
}

impl LazyLayer {
    /// Whether the TOC shows the same files as `ordinary`, the scan of the whole tar: names, kinds, modes, owners, times,
    /// attributes, links and sizes. Of eStargz, times only to the second they were rounded to.
    pub(crate) fn same_tree(&self, ordinary: &Tree) -> Result<(), Mismatch> {
        Walk::new(self, ordinary).all(|walk, pair| walk.same_inode(pair))
    }

    /// Whether the files of `ordinary`, the scan of the whole `tar`, have the contents that the chunks are verified by. The
    /// trees must be the [same](Self::same_tree). Reads the tar once, mostly in its order.
    pub(crate) fn check_contents(&self, ordinary: &Tree, tar: &File) -> Result<(), Mismatch> {
        let mut files = Vec::new();
        Walk::new(self, ordinary).all(|walk, pair| {
            let (Kind::File { size, content }, Kind::File { content: real, .. }) =
                (walk.lazy().inode(pair.lazy).kind, ordinary.inode(pair.ordinary).kind)
            else {
                return Ok(());
            };
            if size > 0 {
                let position = ordinary.segments(real).first().map(|segment| segment.place);
                files.push((position_in_tar(position), pair.path.clone(), content, real));
            }
            Ok(())
        })?;
        files.sort_unstable_by_key(|(position, ..)| *position);
        let mut buffer = vec![0; BUFFER];
        for (_, path, content, real) in files {
            let segments = ordinary.segments(real);
            self.same_content(content, &mut Reader { ordinary, segments, tar, buffer: &mut buffer }).map_err(
                |error| match error {
                    Wrong::Content => Mismatch::File { path, what: "content" },
                    Wrong::Read(error) => Mismatch::Read(error),
                },
            )?;
        }
        Ok(())
    }

    fn same_content(&self, content: Content, reader: &mut Reader<'_>) -> Result<(), Wrong> {
        // A file of the payload is in one piece.
        for segment in self.tree.segments(content) {
            let Place::Device(_, start) = segment.place else { return Err(Wrong::Content) };
            for chunk in self.chunks(start..start + segment.length) {
                reader.same_chunk(chunk, chunk.payload().start - start)?;
            }
        }
        Ok(())
    }
}

fn position_in_tar(place: Option<Place>) -> u64 {
    match place {
        Some(Place::Device(_, at)) => at,
        // Spilled bytes and holes are not in the tar.
        _ => 0,
    }
}

enum Wrong {
    Content,
    Read(io::Error),
}

/// Content of a file of the ordinary layer.
struct Reader<'a> {
    ordinary: &'a Tree,
    segments: &'a [Segment],
    tar: &'a File,
    buffer: &'a mut [u8],
}

impl Reader<'_> {
    /// Compares the file's bytes from `offset` on with what `chunk` must be.
    fn same_chunk(&mut self, chunk: &Chunk, offset: u64) -> Result<(), Wrong> {
        let end = offset + (chunk.payload().end - chunk.payload().start);
        let (mut at, mut hash, zeros) = (offset, Sha256::new(), chunk.codec() == Codec::Zeros);
        while at < end {
            let length = self.read(at, end - at).map_err(Wrong::Read)?;
            let piece = &self.buffer[..length];
            if !zeros {
                hash.update(piece);
            } else if piece.iter().any(|byte| *byte != 0) {
                return Err(Wrong::Content);
            }
            at += length as u64;
        }
        if zeros || hash.finalize()[..] == chunk.digest()[..] { Ok(()) } else { Err(Wrong::Content) }
    }

    /// Reads some of the file's bytes, at least one and at most `most`, into the buffer.
    fn read(&mut self, at: u64, most: u64) -> io::Result<usize> {
        let most = most.min(self.buffer.len() as u64);
        let next = self.segments.partition_point(|segment| segment.offset + segment.length <= at);
        // Both are bounded by the buffer.
        let piece = |length: u64| length.min(most) as usize;
        let Some(segment) = self.segments.get(next).filter(|segment| segment.offset <= at) else {
            let hole = self.segments.get(next).map_or(most, |segment| segment.offset - at);
            self.buffer[..piece(hole)].fill(0);
            return Ok(piece(hole));
        };
        let inside = at - segment.offset;
        let length = piece(segment.length - inside);
        let buffer = &mut self.buffer[..length];
        match segment.place {
            Place::Device(_, start) => self.tar.read_exact_at(buffer, start + inside)?,
            Place::Spill(start) => buffer.copy_from_slice(self.ordinary.spilled(start + inside, length as u64)),
        }
        Ok(length)
    }
}

/// The same file in both trees.
struct Pair {
    path: PathBuf,
    lazy: InodeId,
    ordinary: InodeId,
}

/// A walk through both trees at once.
struct Walk<'a> {
    layer: &'a LazyLayer,
    ordinary: &'a Tree,
    /// Which inode of the ordinary tree one of the other is, and the other way round.
    partners: Vec<Option<InodeId>>,
    reverse: Vec<Option<InodeId>>,
}

impl<'a> Walk<'a> {
    fn new(layer: &'a LazyLayer, ordinary: &'a Tree) -> Self {
        let (partners, reverse) = (vec![None; layer.tree.len()], vec![None; ordinary.len()]);
        Self { layer, ordinary, partners, reverse }
    }

    fn lazy(&self) -> &'a Tree {
        &self.layer.tree
    }

    /// Calls `look` for every file, those with several names once.
    fn all(mut self, mut look: impl FnMut(&Self, &Pair) -> Result<(), Mismatch>) -> Result<(), Mismatch> {
        let mut todo = vec![Pair { path: PathBuf::new(), lazy: ROOT, ordinary: ROOT }];
        while let Some(pair) = todo.pop() {
            if self.meet(&pair)? {
                continue;
            }
            look(&self, &pair)?;
            let (mut ours, mut theirs) = (self.lazy().children(pair.lazy), self.ordinary.children(pair.ordinary));
            loop {
                let (name, path) = match (ours.next(), theirs.next()) {
                    (None, None) => break,
                    (Some((name, lazy)), Some((other, ordinary))) if name == other => {
                        todo.push(Pair { path: pair.path.join(text(name)), lazy, ordinary });
                        continue;
                    }
                    // The one that comes first is missing in the other.
                    (Some((name, _)), Some((other, _))) => (name.min(other), &pair.path),
                    (Some((name, _)), None) | (None, Some((name, _))) => (name, &pair.path),
                };
                return Err(Mismatch::File { path: path.join(text(name)), what: "presence" });
            }
        }
        Ok(())
    }

    /// Whether the pair has been met by another name. Both must be links to the same.
    fn meet(&mut self, pair: &Pair) -> Result<bool, Mismatch> {
        let (partner, back) = (&mut self.partners[pair.lazy.index()], &mut self.reverse[pair.ordinary.index()]);
        match (*partner, *back) {
            (None, None) => {
                (*partner, *back) = (Some(pair.ordinary), Some(pair.lazy));
                Ok(false)
            }
            (Some(ordinary), Some(lazy)) if ordinary == pair.ordinary && lazy == pair.lazy => Ok(true),
            _ => Err(Mismatch::File { path: pair.path.clone(), what: "what it is a hard link to" }),
        }
    }

    fn same_inode(&self, pair: &Pair) -> Result<(), Mismatch> {
        let (lazy, ordinary) = (self.lazy().inode(pair.lazy), self.ordinary.inode(pair.ordinary));
        let same = [
            (self.same_kind(lazy, ordinary), "kind, size or target"),
            (lazy.mode == ordinary.mode, "mode"),
            ((lazy.uid, lazy.gid) == (ordinary.uid, ordinary.gid), "owner"),
            (self.same_time(lazy.mtime, ordinary.mtime), "time"),
            (lazy.links == ordinary.links, "number of names"),
            (self.lazy().attributes(lazy).eq(self.ordinary.attributes(ordinary)), "attributes"),
        ];
        match same.into_iter().find(|(same, _)| !same) {
            Some((_, what)) => Err(Mismatch::File { path: pair.path.clone(), what }),
            None => Ok(()),
        }
    }

    fn same_kind(&self, lazy: &Inode, ordinary: &Inode) -> bool {
        match (lazy.kind, ordinary.kind) {
            (Kind::Directory { opaque, .. }, Kind::Directory { opaque: other, .. }) => opaque == other,
            (Kind::File { size, .. }, Kind::File { size: other, .. }) => size == other,
            (Kind::Symlink(target), Kind::Symlink(other)) => self.lazy().target(target) == self.ordinary.target(other),
            (Kind::CharDevice(number), Kind::CharDevice(other)) => number == other,
            (Kind::BlockDevice(number), Kind::BlockDevice(other)) => number == other,
            (Kind::Fifo, Kind::Fifo) => true,
            _ => false,
        }
    }

    fn same_time(&self, lazy: TarTime, ordinary: TarTime) -> bool {
        // Times in the first second after the epoch are taken for the epoch.
        let up = i64::from(ordinary.seconds != 0 && ordinary.nanos >= 500_000_000);
        let rounded = TarTime { seconds: ordinary.seconds.saturating_add(up), nanos: 0 };
        lazy == ordinary || (matches!(self.layer.kind, Format::Estargz { .. }) && lazy == rounded)
    }
}

fn text(name: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()))
}
