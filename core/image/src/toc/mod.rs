//! Tables of contents (TOCs) of layers that can be pulled lazily, and trees made of them, so that a layer can be mounted before
//! its bytes are here. Two formats have one: *eStargz* (stargz-snapshotter's `docs/estargz.md`), gzip members with the TOC as
//! the last file of the tar, and *zstd:chunked* (containers/storage's `pkg/chunked`), zstd frames with the TOC in a skippable
//! frame behind the tar. Both describe every entry of the tar, in its order, and where the content of files lies in the blob.
//!
//! ```text
//! annotations, size --locate--> Locator --wanted/feed, by range requests--> Toc (verified) --LazyLayer::parse--> tree, chunks
//!                                                                            kept on disk --^
//! ```
//!
//! A TOC does not say where things lie in the tar. So the tree's device 0 is not the tar but a *payload*, which exists nowhere
//! as a file: each file with content begins at the next multiple of 4096 bytes, its chunks follow each other without gaps, and
//! what is between files reads as zeros. Who is asked for a piece of the payload takes the chunks that overlap it, the
//! compressed bytes of each from the blob, and inflates them, which verifies them.
//!
//! What is trusted: the layer's descriptor, as part of a manifest known by its digest, and through it the TOC, and through the
//! TOC every chunk. A layer without a digest of its TOC in the annotations is an ordinary one. That a TOC says the same as the
//! tar can only be known when all of the blob is here: [`LazyLayer::same_tree`], [`LazyLayer::check_contents`].
//!
//! Pure: works on bytes. Knows nothing of registries, mounts and files, but for the tar that contents are compared with.

mod chunk;
mod chunked;
mod compare;
mod entry;
mod estargz;
mod layout;
mod locate;
mod time;

#[cfg(test)]
pub(crate) use chunk::Chunk;
pub(crate) use chunk::Codec;
pub(crate) use compare::Mismatch;
pub(crate) use layout::LazyLayer;
pub(crate) use locate::{Kind, Locator, Next, Toc, locate};

use crate::error::ImageError;

/// Longest TOC, inflated; some 130 000 files as eStargz writes it, indented. It is in memory while it is parsed.
pub(crate) const MAX_TOC: u64 = 64 << 20;
/// Longest chunk, both compressed and inflated, and most bytes before it in its stream: what one read may cost. Writers use
/// chunks of at most some MiB.
pub(crate) const MAX_CHUNK: u64 = 64 << 20;
/// Most chunks of a layer: 128 MiB of table.
pub(crate) const MAX_CHUNKS: usize = 2 << 20;
/// Longest payload. An index counts blocks of 512 bytes with 32 bits, and the highest number means a hole.
pub(crate) const MAX_PAYLOAD: u64 = 1 << 40;
/// Where files begin in the payload, so that their pages are pages of the device too.
pub(crate) const ALIGNMENT: u64 = 4096;

/// Why a layer cannot be pulled lazily; it is an ordinary layer then. Or why a chunk cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TocError {
    /// Other bytes than were wanted.
    #[error("{found} bytes of the blob instead of {wanted}")]
    Short {
        /// How many were wanted.
        wanted: u64,
        /// How many came.
        found: u64,
    },
    /// No footer of an eStargz blob.
    #[error("the blob does not end with the footer of eStargz")]
    Footer,
    /// Places outside of the blob, or of the part of it that they belong to.
    #[error("{0} lies outside of the blob")]
    Outside(&'static str),
    /// Longer, or more, than any honest layer has.
    #[error("{0} too large")]
    TooLarge(&'static str),
    /// A TOC or chunk whose digest is another than was said.
    #[error("{0} has another digest than expected")]
    WrongDigest(&'static str),
    /// A TOC that is in no tar, or not where it should be.
    #[error("no table of contents: {0}")]
    Missing(&'static str),
    /// Not JSON, or not of this shape.
    #[error("table of contents: {0}")]
    Json(#[from] serde_json::Error),
    /// A version of the format that is unknown.
    #[error("table of contents of unknown version {0}")]
    Version(u64),
    /// An entry that makes no sense.
    #[error("table of contents: {name:?}: {what}")]
    Entry {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Entries that the same tar would be refused for.
    #[error(transparent)]
    Tree(#[from] ImageError),
    /// Bytes that cannot be inflated, or are fewer than the TOC says.
    #[error("inflate {what}: {source}")]
    Inflate {
        /// What of.
        what: &'static str,
        /// What is wrong.
        source: std::io::Error,
    },
}

/// See [`crate::fuzz::toc`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    use crate::erofs::{self, Place};

    let Some((first, rest)) = data.split_first() else { return };
    let kind = match first {
        b'e' => Kind::Estargz { toc: 1 << 20, footer: (1 << 20) + 4096, inner: 512 },
        b'z' => Kind::ZstdChunked { toc: 1 << 20 },
        // The end of an eStargz blob.
        _ => {
            let at = rest.len().saturating_sub(estargz::FOOTER as usize);
            let start = estargz::footer(&rest[at..]).ok().and_then(|start| usize::try_from(start).ok());
            let Some((json, _)) = start.and_then(|start| estargz::unpack(rest.get(start..at)?).ok()) else { return };
            let again: Vec<u8> = [b"e", &json[..]].concat();
            return fuzz(&again);
        }
    };
    let Ok(layer) = LazyLayer::parse(kind, rest, [7; 64]) else { return };
    let limit = (1 << 20) + 4096;
    let mut end = 0;
    for chunk in layer.all_chunks() {
        let (payload, blob) = (chunk.payload(), chunk.blob());
        assert!(payload.start >= end && payload.end > payload.start, "chunks follow each other");
        assert!(blob.end <= limit && blob.is_empty() == (chunk.codec() == Codec::Zeros), "chunks lie in the blob");
        end = payload.end;
    }
    assert!(end <= layer.payload_size && layer.payload_size <= MAX_PAYLOAD.next_multiple_of(ALIGNMENT));
    for id in layer.tree.ids() {
        let erofs::Kind::File { size, content } = layer.tree.inode(id).kind else { continue };
        let segments = layer.tree.segments(content);
        assert_eq!(segments.iter().map(|segment| segment.length).sum::<u64>(), size);
        for segment in segments {
            let Place::Device(0, start) = segment.place else { panic!("content in the index") };
            let end = layer.chunks(start..start + size).fold(start, |at, chunk| {
                assert_eq!(chunk.payload().start, at, "chunks without gaps");
                chunk.payload().end
            });
            assert_eq!((start % ALIGNMENT, end), (0, start + size), "chunks from page to end");
        }
    }
    layer.same_tree(&layer.tree).expect("the same as itself");
    if let Ok(image) = erofs::write(&layer.tree) {
        let tree = erofs::read(&image).expect("an index is read");
        layer.same_tree(&tree).expect("the same as what is read back");
    }
}

#[cfg(test)]
mod tests;
