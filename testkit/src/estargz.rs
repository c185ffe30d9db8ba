//! eStargz as stargz-snapshotter writes it (its `docs/estargz.md`), with the headers of the tar as they are.

use std::collections::BTreeMap;
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::entry::{Entry, Toc, rfc3339};
use crate::pieces::pieces;
use crate::{Blob, digest};

const NAME: &str = "stargz.index.json";

/// How a layer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estargz {
    /// Most bytes of a file in one chunk.
    pub chunk_size: usize,
    /// A new stream begins only when the one before has so many bytes, compressed; files share one until then.
    pub min_chunk_size: usize,
    /// Of gzip, from 0 to 9.
    pub level: u32,
}

impl Default for Estargz {
    /// As BuildKit writes it, but faster.
    fn default() -> Self {
        Self { chunk_size: 4 << 20, min_chunk_size: 0, level: 1 }
    }
}

/// The bytes so far: members, of which the last may not be finished.
#[derive(Debug)]
struct Members {
    done: Vec<u8>,
    open: Option<GzEncoder<Vec<u8>>>,
    level: Compression,
    /// All that was written, not compressed.
    tar: Vec<u8>,
}

impl Members {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tar.extend_from_slice(bytes);
        let Self { done, open, level, .. } = self;
        open.get_or_insert_with(|| GzEncoder::new(std::mem::take(done), *level)).write_all(bytes)
    }

    /// How many bytes there are when everything that was written has come out.
    fn flush(&mut self) -> io::Result<u64> {
        if let Some(open) = &mut self.open {
            open.flush()?;
            return Ok(open.get_ref().len() as u64);
        }
        Ok(self.done.len() as u64)
    }

    fn close(&mut self) -> io::Result<u64> {
        if let Some(open) = self.open.take() {
            self.done = open.finish()?;
        }
        Ok(self.done.len() as u64)
    }
}

impl Estargz {
    /// A layer with the files of `tar`, which must have a header for each of them that a table of contents can repeat: no
    /// sparse files, no labels.
    ///
    /// # Errors
    ///
    /// Where the tar is none.
    pub fn pack(&self, tar: &[u8]) -> io::Result<Blob> {
        let (pieces, end) = pieces(tar)?;
        let level = Compression::new(self.level);
        let mut members = Members { done: Vec::new(), open: None, level, tar: Vec::with_capacity(tar.len() + 4096) };
        // Where the stream that is open began, in the blob and in the tar.
        let (mut start, mut start_inside) = (0, 0);
        let (mut entries, mut at) = (Vec::with_capacity(pieces.len()), 0);
        for piece in pieces {
            members.write(piece.head)?;
            at += piece.head.len() + piece.content.len();
            let (seconds, nanos) = piece.entry.time;
            let known = seconds != 0;
            let seconds = seconds + i64::from(nanos >= 500_000_000);
            let modtime = known.then(|| rfc3339((seconds, 0)));
            let mut entry = Entry { modtime, ..piece.entry };
            if entry.kind == "reg" {
                entry.digest = digest(piece.content);
            }
            let (name, last) = (entry.name.clone(), piece.content.len().div_ceil(self.chunk_size));
            if piece.content.is_empty() {
                entries.push(entry);
                continue;
            }
            for (number, chunk) in piece.content.chunks(self.chunk_size).enumerate() {
                if members.flush()? - start >= self.min_chunk_size as u64 {
                    (start, start_inside) = (members.close()?, members.tar.len());
                } else {
                    entry.inner_offset = (members.tar.len() - start_inside) as u64;
                }
                entry.offset = start;
                entry.chunk_offset = (number * self.chunk_size) as u64;
                if number + 1 < last || chunk.len() == self.chunk_size {
                    entry.chunk_size = chunk.len() as u64;
                }
                entry.chunk_digest = digest(chunk);
                members.write(chunk)?;
                entries.push(entry);
                entry = Entry { name: name.clone(), kind: "chunk", ..Entry::default() };
            }
        }
        members.write(&tar[at..end])?;
        let toc_at = members.close()?;
        let toc = json(&entries)?;
        members.write(&index(&toc)?)?;
        members.close()?;
        let Members { mut done, tar, .. } = members;
        done.extend_from_slice(&footer(toc_at));
        let annotations = BTreeMap::from([
            ("containerd.io/snapshot/stargz/toc.digest".to_owned(), digest(&toc)),
            ("io.containers.estargz.uncompressed-size".to_owned(), tar.len().to_string()),
        ]);
        Ok(Blob { bytes: done, annotations, media_type: "application/vnd.oci.image.layer.v1.tar+gzip", tar, toc })
    }
}

/// Indented, as the format has it.
fn json(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Toc { version: 1, entries }
        .serialize(&mut Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b"\t")))?;
    Ok(out)
}

/// The table of contents as the last file of the tar, and the tar's end.
fn index(toc: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(toc.len() as u64);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, NAME, toc)?;
    tar.into_inner()
}

/// An empty member, stored, whose extra field says where the table of contents begins.
pub fn footer(toc_at: u64) -> [u8; 51] {
    let mut out = [0; 51];
    out[..10].copy_from_slice(&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff]);
    out[10..16].copy_from_slice(&[26, 0, b'S', b'G', 22, 0]);
    out[16..38].copy_from_slice(format!("{toc_at:016x}STARGZ").as_bytes());
    out[38..43].copy_from_slice(&[1, 0, 0, 0xff, 0xff]);
    out
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn all_of_it_is_a_gzip_stream() {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, length) in [("a", 0), ("b", 10), ("c", 5000)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(length);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &vec![b'x'; length as usize][..]).expect("written");
        }
        let tar = tar.into_inner().expect("written");
        for min_chunk_size in [0, 100] {
            let blob = Estargz { chunk_size: 1000, min_chunk_size, level: 9 }.pack(&tar).expect("packed");
            let mut plain = Vec::new();
            flate2::read::MultiGzDecoder::new(&blob.bytes[..]).read_to_end(&mut plain).expect("inflated");
            assert!(plain == blob.tar);
            assert_eq!(plain[..tar.len() - 1024], tar[..tar.len() - 1024]);
            let mut archive = tar::Archive::new(&plain[..]);
            let names = archive.entries().expect("read").map(|entry| entry.expect("read").path_bytes().into_owned());
            assert_eq!(names.last().expect("an entry"), NAME.as_bytes());
        }
    }
}
