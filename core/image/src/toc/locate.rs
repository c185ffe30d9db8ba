//! From a layer's annotations to its verified TOC, by as few pieces of the blob as possible. The caller fetches them.

use std::collections::BTreeMap;
use std::ops::Range;

use dockerd_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{MAX_TOC, TocError, chunked, estargz};

/// Bytes at the end of an eStargz blob that are fetched first. The footer alone would do; with the TOC in the same piece, as
/// for a layer of a thousand files, one round trip is saved.
const TAIL: u64 = 128 << 10;

/// The format of a layer, with what else is needed to make a tree of its TOC. Kept with the TOC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    /// eStargz.
    Estargz {
        /// Where in the blob the TOC's member begins.
        toc: u64,
        /// Where it ends, and the footer begins.
        footer: u64,
        /// Where in what comes out of the member the TOC begins.
        inner: u64,
    },
    /// zstd:chunked.
    ZstdChunked {
        /// Where in the blob the skippable frame with the TOC begins.
        toc: u64,
    },
}

impl Kind {
    /// Where in the blob the last chunk ends at the latest.
    pub(super) fn data_end(self) -> u64 {
        match self {
            Self::Estargz { toc, .. } | Self::ZstdChunked { toc } => toc,
        }
    }
}

/// A verified TOC.
#[derive(Debug)]
pub(crate) struct Toc {
    /// Of which format.
    pub(crate) kind: Kind,
    /// Its JSON; at most [`MAX_TOC`] bytes.
    pub(crate) json: Vec<u8>,
}

/// What a piece of the blob led to.
#[derive(Debug)]
pub(crate) enum Next {
    /// Another piece is wanted.
    More,
    /// The TOC.
    Done(Toc),
}

/// A search for a TOC.
#[derive(Debug)]
pub(crate) struct Locator {
    step: Step,
    digest: [u8; 32],
    size: u64,
}

#[derive(Debug)]
enum Step {
    /// The end of an eStargz blob.
    Tail,
    /// What of the TOC lies before the end that is here.
    Toc { start: u64, tail: Vec<u8> },
    /// The TOC of zstd:chunked.
    Frame(chunked::Position),
}

/// How the TOC of a blob of `size` bytes can be had, by the annotations in the layer's descriptor. `None` for an ordinary
/// layer: one that has no TOC, or none that could be verified, or contradictory annotations.
pub(crate) fn locate(annotations: &BTreeMap<String, String>, size: u64) -> Option<Locator> {
    let (zstd, gzip) = (annotations.get(chunked::CHECKSUM), annotations.get(estargz::DIGEST));
    let (digest, step) = match (zstd, gzip) {
        // stargz-snapshotter annotates its zstd:chunked layers with both.
        (Some(checksum), other) if other.is_none_or(|other| other == checksum) => {
            (checksum, Step::Frame(chunked::position(annotations, size)?))
        }
        (None, Some(digest)) if size > estargz::FOOTER => (digest, Step::Tail),
        _ => return None,
    };
    Some(Locator { step, digest: sum(digest)?, size })
}

impl Locator {
    /// The bytes of the blob to give to [`feed`](Self::feed).
    pub(crate) fn wanted(&self) -> Range<u64> {
        match &self.step {
            Step::Tail => self.size.saturating_sub(TAIL)..self.size,
            Step::Toc { start, tail } => *start..self.size - tail.len() as u64,
            Step::Frame(position) => position.blob.clone(),
        }
    }

    /// Takes the bytes that are [`wanted`](Self::wanted).
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Next, TocError> {
        let (wanted, found) = (self.wanted(), bytes.len() as u64);
        if found != wanted.end - wanted.start {
            return Err(TocError::Short { wanted: wanted.end - wanted.start, found });
        }
        match &mut self.step {
            Step::Tail => {
                let at = bytes.len() - estargz::FOOTER as usize;
                let start = estargz::footer(&bytes[at..])?;
                let footer = self.size - estargz::FOOTER;
                if start == 0 || start >= footer {
                    return Err(TocError::Outside("the table of contents"));
                }
                if footer - start > MAX_TOC {
                    return Err(TocError::TooLarge("table of contents"));
                }
                if let Some(inside) = start.checked_sub(wanted.start) {
                    // Both are within the piece.
                    return self.estargz(start, &bytes[inside as usize..at]);
                }
                self.step = Step::Toc { start, tail: bytes.to_vec() };
                Ok(Next::More)
            }
            Step::Toc { start, tail } => {
                let (start, tail) = (*start, std::mem::take(tail));
                let member = [bytes, &tail[..tail.len() - estargz::FOOTER as usize]].concat();
                self.step = Step::Tail;
                self.estargz(start, &member)
            }
            Step::Frame(position) => {
                verify(bytes, &self.digest)?;
                let json = chunked::unpack(bytes, position.inflated)?;
                let kind = Kind::ZstdChunked { toc: position.blob.start - chunked::FRAME_HEADER };
                Ok(Next::Done(Toc { kind, json }))
            }
        }
    }

    fn estargz(&self, toc: u64, member: &[u8]) -> Result<Next, TocError> {
        let (json, inner) = estargz::unpack(member)?;
        verify(&json, &self.digest)?;
        Ok(Next::Done(Toc { kind: Kind::Estargz { toc, footer: self.size - estargz::FOOTER, inner }, json }))
    }
}

fn verify(bytes: &[u8], digest: &[u8; 32]) -> Result<(), TocError> {
    let found = Sha256::digest(bytes);
    if found[..] == digest[..] { Ok(()) } else { Err(TocError::WrongDigest("the table of contents")) }
}

/// The sum of a sha256 digest; `None` for any other.
pub(super) fn sum(text: &str) -> Option<[u8; 32]> {
    let digest = Digest::parse(text).ok().filter(|digest| digest.algorithm() == "sha256")?;
    let mut sum = [0; 32];
    hex::decode_to_slice(digest.hex(), &mut sum).ok()?;
    Some(sum)
}
