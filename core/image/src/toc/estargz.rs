//! eStargz: gzip members one after the other, all of them together an ordinary `tar.gz`. Before the content of each file, and
//! at places within a large one, a new member begins. The last file of the tar is the TOC, in a member of its own; the last
//! member is empty and says where the TOC begins (stargz-snapshotter's `docs/estargz.md`).
//!
//! The older stargz of CRFS has a footer of 47 bytes and no digests of chunks or of the TOC; such layers are ordinary ones. So
//! are those whose TOC is in an image of its own.

use std::io::Read;

use super::{MAX_TOC, TocError};
use crate::untar::{EntryKind, TarError, TarReader, TarTime};

/// The digest of the TOC: of the JSON, not compressed.
pub(super) const DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The name of the TOC in the tar.
pub(super) const NAME: &[u8] = b"stargz.index.json";
/// Length of the footer.
pub(super) const FOOTER: u64 = 51;

/// The header of a gzip member with an extra field (RFC 1952, section 2.3.1): no name, any time, level and system.
const MAGIC: [u8; 4] = [0x1f, 0x8b, 8, 4];
/// Length of the extra field, subfield `SG`, its length; then 16 digits and the mark.
const SUBFIELD: [u8; 6] = [26, 0, b'S', b'G', 22, 0];
const MARK: &[u8; 6] = b"STARGZ";

/// Where the TOC's member begins, as the blob's last [`FOOTER`] bytes say.
pub(super) fn footer(footer: &[u8]) -> Result<u64, TocError> {
    let known = footer.len() as u64 == FOOTER
        && footer.starts_with(&MAGIC)
        && footer[10..16] == SUBFIELD
        && footer[32..38] == *MARK
        && footer[16..32].iter().all(u8::is_ascii_hexdigit);
    let digits = known.then(|| std::str::from_utf8(&footer[16..32]).ok()).flatten();
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(TocError::Footer)
}

/// The TOC in its member, and where in what comes out of the member it begins. Not verified.
pub(super) fn unpack(member: &[u8]) -> Result<(Vec<u8>, u64), TocError> {
    let failed = |source| TocError::Inflate { what: "the table of contents", source };
    let wrong = |error| match error {
        TarError::Read(source) => failed(source),
        TarError::Truncated => failed(std::io::ErrorKind::UnexpectedEof.into()),
        TarError::TooLong(_) => TocError::TooLarge("table of contents"),
        TarError::Header(what) => TocError::Missing(what),
    };
    // An extended header and the file: what else there could be to read is bounded too.
    let inflated = flate2::bufread::GzDecoder::new(member).take(MAX_TOC + (4 << 20));
    let mut tar = TarReader::new(inflated);
    let entry = tar.next_entry().map_err(wrong)?.ok_or(TocError::Missing("an empty archive"))?;
    if entry.path != NAME || entry.kind != EntryKind::File || entry.segments.is_some() {
        return Err(TocError::Missing("another file in its place"));
    }
    let position = tar.position();
    Ok((tar.data_to_end(MAX_TOC, "table of contents").map_err(wrong)?, position))
}

/// The entry of the TOC, which is a file of the layer like others but not in itself. Its header is not covered by any digest;
/// all writers leave it empty but for name and size (stargz-snapshotter's `estargz/gzip.go`), which gives this.
pub(super) fn own_entry(size: u64) -> crate::untar::Entry {
    crate::untar::Entry {
        kind: EntryKind::File,
        path: NAME.to_vec(),
        link: Vec::new(),
        mode: 0,
        uid: 0,
        gid: 0,
        size,
        mtime: TarTime::default(),
        atime: None,
        device: (0, 0),
        xattrs: Vec::new(),
        segments: None,
    }
}
