//! zstd:chunked as containers/storage writes it (its `pkg/chunked/compressor`), but with chunks of one size. The tar-split that
//! newer writers add is left out, as older ones did.

use std::collections::BTreeMap;
use std::io;

use crate::entry::{Entry, Toc, rfc3339};
use crate::pieces::pieces;
use crate::{Blob, digest};

/// Magic of the skippable frames that are used (RFC 8878, section 3.1.2).
const SKIPPABLE: [u8; 4] = 0x184d_2a50u32.to_le_bytes();
/// The last bytes of the footer.
const MAGIC: &[u8; 8] = b"GNUlInUx";

/// How a layer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZstdChunked {
    /// Most bytes of a file in one chunk.
    pub chunk_size: usize,
    /// A chunk that is nothing but zeros is said to be so.
    pub zeros: bool,
    /// Say where files end, as containers/storage does and stargz-snapshotter does not.
    pub ends: bool,
    /// Of zstd.
    pub level: i32,
}

impl Default for ZstdChunked {
    fn default() -> Self {
        Self { chunk_size: 64 << 10, zeros: true, ends: true, level: 3 }
    }
}

impl ZstdChunked {
    /// A layer of `tar`, which must have a header for each file that a table of contents can repeat: no sparse files, no
    /// labels.
    ///
    /// # Errors
    ///
    /// Where the tar is none.
    pub fn pack(&self, tar: &[u8]) -> io::Result<Blob> {
        let (pieces, _) = pieces(tar)?;
        let mut bytes = Vec::new();
        let mut encoder = zstd::bulk::Compressor::new(self.level)?;
        let mut frame = |out: &mut Vec<u8>, piece: &[u8]| -> io::Result<u64> {
            if !piece.is_empty() {
                out.extend_from_slice(&encoder.compress(piece)?);
            }
            Ok(out.len() as u64)
        };
        // Headers that stand before the next content.
        let (mut entries, mut from, mut at) = (Vec::with_capacity(pieces.len()), 0, 0);
        for piece in pieces {
            at += piece.head.len();
            let modtime = Some(rfc3339(piece.entry.time));
            let mut entry = Entry { modtime, ..piece.entry };
            if piece.content.is_empty() {
                entries.push(entry);
                continue;
            }
            let mut start = frame(&mut bytes, &tar[from..at])?;
            at += piece.content.len();
            from = at;
            entry.digest = digest(piece.content);
            let (name, first) = (entry.name.clone(), entries.len());
            let several = piece.content.len() > self.chunk_size;
            for (number, chunk) in piece.content.chunks(self.chunk_size).enumerate() {
                entry.offset = start;
                start = frame(&mut bytes, chunk)?;
                if several {
                    entry.chunk_offset = (number * self.chunk_size) as u64;
                    entry.chunk_size = chunk.len() as u64;
                    entry.chunk_digest = digest(chunk);
                    if self.zeros && chunk.iter().all(|byte| *byte == 0) {
                        entry.chunk_type = "zeros";
                    }
                }
                entries.push(entry);
                entry = Entry { name: name.clone(), kind: "chunk", ..Entry::default() };
            }
            if self.ends {
                entries[first].end_offset = start;
            }
        }
        frame(&mut bytes, &tar[from..])?;
        let toc = serde_json::to_vec(&Toc { version: 1, entries: &entries })?;
        let packed = encoder.compress(&toc)?;
        let place = [bytes.len() as u64 + 8, packed.len() as u64, toc.len() as u64, 1];
        skippable(&mut bytes, &packed)?;
        let mut footer = place.map(u64::to_le_bytes).concat();
        footer.extend_from_slice(&[0; 24]);
        footer.extend_from_slice(MAGIC);
        skippable(&mut bytes, &footer)?;
        let key = |name| format!("io.github.containers.zstd-chunked.{name}");
        let annotations = BTreeMap::from([
            (key("manifest-checksum"), digest(&packed)),
            (key("manifest-position"), place.map(|number| number.to_string()).join(":")),
        ]);
        let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
        Ok(Blob { bytes, annotations, media_type, tar: tar.to_vec(), toc })
    }
}

fn skippable(out: &mut Vec<u8>, content: &[u8]) -> io::Result<()> {
    let length = u32::try_from(content.len()).map_err(io::Error::other)?;
    out.extend_from_slice(&SKIPPABLE);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(content);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_a_zstd_stream() {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, length) in [("a", 0), ("b", 10), ("c", 5000)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(length);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &vec![0; length as usize][..]).expect("written");
        }
        let tar = tar.into_inner().expect("written");
        let blob = ZstdChunked { chunk_size: 1000, ..ZstdChunked::default() }.pack(&tar).expect("packed");
        assert!(zstd::decode_all(&blob.bytes[..]).expect("inflated") == tar);
        assert!(blob.bytes.ends_with(MAGIC));
    }
}
