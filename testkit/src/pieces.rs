//! A tar in pieces: what stands before a file's content, the content, and so on. No byte of it is changed.

use std::io;

use tar::{Archive, EntryType};

use crate::entry::{self, Entry};

/// An entry, and where in the tar it is.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    /// What the table of contents says of it, but for places.
    pub(crate) entry: Entry,
    /// Everything from the last content to this one, or to the next entry: padding and headers.
    pub(crate) head: &'a [u8],
    /// Content of a file.
    pub(crate) content: &'a [u8],
}

/// All entries of `tar`, and where the last of them ends: before the zeros that end an archive.
pub(crate) fn pieces(tar: &[u8]) -> io::Result<(Vec<Piece<'_>>, usize)> {
    let (mut out, mut at) = (Vec::new(), 0);
    let mut archive = Archive::new(tar);
    for found in archive.entries()? {
        let mut found = found?;
        let start = usize::try_from(found.raw_file_position()).map_err(io::Error::other)?;
        let size = match found.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => usize::try_from(found.size()).map_err(io::Error::other)?,
            _ => 0,
        };
        let end = start.checked_add(size).filter(|end| *end <= tar.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let entry = entry::of(&mut found, size as u64)?;
        out.push(Piece { entry, head: &tar[at..start], content: &tar[start..end] });
        at = end;
    }
    Ok((out, at.next_multiple_of(512).min(tar.len())))
}
