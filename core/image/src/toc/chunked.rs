//! zstd:chunked: zstd frames one after the other, all of them together an ordinary `tar.zst`. The content of each file, and
//! each chunk of a large one, is in frames of its own. Behind the tar follow skippable frames: the TOC, compressed; a
//! *tar-split* to make the tar from the files again, which nobody needs here; and a footer, which nobody reads, since the
//! annotations say the same (containers/storage's `pkg/chunked/internal/minimal/compression.go`).

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use super::chunk::zstd_reader;
use super::{MAX_TOC, TocError};

/// The digest of the TOC: of its compressed bytes.
pub(super) const CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
/// Where the TOC is: `offset:length:inflated length:type`, in decimal numbers.
pub(super) const POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
/// The only type of TOC there is.
const CRFS: u64 = 1;
/// Magic and length of a skippable frame (RFC 8878, section 3.1.2), which stand before the TOC.
pub(super) const FRAME_HEADER: u64 = 8;

/// Where a TOC is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// Its compressed bytes in the blob.
    pub(super) blob: Range<u64>,
    /// Its length when inflated.
    pub(super) inflated: u64,
}

/// Where the annotations say that the TOC is; `None` where they say nothing usable for a blob of `size` bytes.
pub(super) fn position(annotations: &BTreeMap<String, String>, size: u64) -> Option<Position> {
    let mut numbers = annotations.get(POSITION)?.split(':').map(|part| part.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    let (start, length, inflated, kind) = (next()?, next()?, next()?, next()?);
    let end = start.checked_add(length).filter(|end| *end <= size)?;
    let usable = kind == CRFS && start > FRAME_HEADER && (1..=MAX_TOC).contains(&length) && inflated <= MAX_TOC;
    (usable && numbers.next().is_none()).then_some(Position { blob: start..end, inflated })
}

/// The TOC in its `compressed` bytes, which are verified already.
pub(super) fn unpack(compressed: &[u8], inflated: u64) -> Result<Vec<u8>, TocError> {
    let failed = |source| TocError::Inflate { what: "the table of contents", source };
    // The length is an annotation; it was checked against the bound.
    let mut json = Vec::with_capacity(inflated as usize);
    zstd_reader(compressed).map_err(failed)?.take(inflated + 1).read_to_end(&mut json).map_err(failed)?;
    let found = json.len() as u64;
    if found == inflated { Ok(json) } else { Err(TocError::Short { wanted: inflated, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        let position = |text: &str| position(&BTreeMap::from([(POSITION.to_owned(), text.to_owned())]), 1000);
        assert_eq!(position("100:50:200:1"), Some(Position { blob: 100..150, inflated: 200 }));
        assert_eq!(position("950:50:67108864:1").map(|found| found.blob), Some(950..1000));
        for text in [
            "",
            "100:50:200",
            "100:50:200:2",
            "100:50:200:1:0",
            "951:50:200:1",
            "18446744073709551615:50:200:1",
            "100:0:200:1",
            "-1:50:200:1",
            "100: 50:200:1",
            "8:50:200:1",
            "100:50:67108865:1",
        ] {
            assert_eq!(position(text), None, "{text}");
        }
    }
}
