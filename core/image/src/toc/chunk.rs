//! A piece of a file's content: where in the payload it belongs, where in the blob it comes from, and what it must be.

use std::io::{self, Read};
use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::{MAX_CHUNK, TocError};

/// Largest window of a zstd frame, as a power of two: 64 MiB, the longest chunk. Encoders go to 32 MiB unless they are told
/// otherwise; what asks for more would only take memory.
const MAX_WINDOW: u32 = MAX_CHUNK.trailing_zeros();

/// How a chunk is kept in the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// In gzip members.
    Gzip,
    /// In zstd frames.
    Zstd,
    /// Nowhere: it is zeros.
    Zeros,
}

/// A chunk, 64 bytes of memory: a layer may have a million.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    /// Where it begins in the payload.
    pub(super) payload: u64,
    /// Where its compressed bytes begin in the blob.
    pub(super) blob: u64,
    pub(super) digest: [u8; 32],
    /// All below are bounded by [`MAX_CHUNK`].
    pub(super) length: u32,
    pub(super) blob_length: u32,
    pub(super) inner: u32,
    pub(super) codec: Codec,
}

impl Chunk {
    /// Bytes of the payload that it is; never none.
    pub(crate) fn payload(&self) -> Range<u64> {
        self.payload..self.payload + u64::from(self.length)
    }

    /// Bytes of the blob to inflate it from; none for zeros. Chunks of one stream share them, and there may be other things
    /// behind.
    pub(crate) fn blob(&self) -> Range<u64> {
        self.blob..self.blob + u64::from(self.blob_length)
    }

    /// Where it begins in what comes out of those bytes.
    #[cfg(test)]
    pub(crate) fn inner(&self) -> u64 {
        self.inner.into()
    }

    /// The sha256 sum of its content; zeros for a chunk of zeros, which needs none.
    pub(crate) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// How it is kept.
    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    /// Its content, from the bytes of the blob at [`blob`](Self::blob); verified. Zeros need no bytes.
    pub(crate) fn inflate(&self, compressed: &[u8]) -> Result<Vec<u8>, TocError> {
        let failed = |source| TocError::Inflate { what: "a chunk", source };
        let content = match self.codec {
            Codec::Zeros => return Ok(vec![0; self.length as usize]),
            Codec::Gzip => self.read(flate2::bufread::MultiGzDecoder::new(compressed)),
            Codec::Zstd => zstd_reader(compressed).and_then(|reader| self.read(reader)),
        };
        let content = content.map_err(failed)?;
        if Sha256::digest(&content)[..] == self.digest { Ok(content) } else { Err(TocError::WrongDigest("a chunk")) }
    }

    /// Reads what is wanted of a stream and no more.
    fn read(&self, mut reader: impl Read) -> io::Result<Vec<u8>> {
        let skipped = io::copy(&mut reader.by_ref().take(self.inner.into()), &mut io::sink())?;
        let mut content = Vec::with_capacity(self.length as usize);
        reader.take(self.length.into()).read_to_end(&mut content)?;
        let whole = skipped == u64::from(self.inner) && content.len() == self.length as usize;
        if whole { Ok(content) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// What comes out of zstd frames; skippable ones are skipped.
pub(super) fn zstd_reader(compressed: &[u8]) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
    decoder.window_log_max(MAX_WINDOW)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).expect("written to memory");
        encoder.finish().expect("written to memory")
    }

    fn chunk(content: &[u8], inner: u32, codec: Codec) -> Chunk {
        let (length, digest) = (content.len() as u32, Sha256::digest(content).into());
        Chunk { payload: 0, blob: 0, digest, length, blob_length: 0, inner, codec }
    }

    #[test]
    fn a_table_of_chunks_is_small() {
        assert_eq!(size_of::<Chunk>(), 64);
    }

    #[test]
    fn content_in_the_middle_of_streams() {
        let (one, two) = (b"0123456789".repeat(100), b"abc".repeat(1000));
        let both = [&one[..], &two, b"more"].concat();
        let zstd = |content: &[u8]| zstd::encode_all(content, 0).expect("written to memory");
        for (codec, stream, members) in [
            (Codec::Gzip, gzip(&both), [gzip(&one), gzip(&two), gzip(b"more")].concat()),
            (Codec::Zstd, zstd(&both), [zstd(&one), zstd(&two), zstd(b"more")].concat()),
        ] {
            let chunk = chunk(&two, one.len() as u32, codec);
            assert_eq!(chunk.inflate(&stream).expect("inflated"), two);
            assert_eq!(chunk.inflate(&members).expect("inflated"), two);
            // What is behind a chunk is not looked at.
            let torn = [&members[..members.len() - 3], &[0xff; 9]].concat();
            assert_eq!(chunk.inflate(&torn).expect("inflated"), two);
            for short in [0, 3, stream.len() / 2] {
                assert!(matches!(chunk.inflate(&stream[..short]), Err(TocError::Inflate { .. })), "{short}");
            }
            let other = Chunk { inner: 0, ..chunk };
            assert!(matches!(other.inflate(&stream), Err(TocError::WrongDigest(_))));
            let beyond = Chunk { inner: both.len() as u32 + 1, ..chunk };
            assert!(matches!(beyond.inflate(&stream), Err(TocError::Inflate { .. })));
        }
    }

    #[test]
    fn zeros_and_large_windows() {
        let zeros = Chunk { codec: Codec::Zeros, ..chunk(&[0; 1000], 0, Codec::Zeros) };
        assert_eq!(zeros.inflate(&[]).expect("nothing is needed"), vec![0; 1000]);
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("an encoder");
        encoder.long_distance_matching(true).expect("set");
        encoder.window_log(27).expect("set");
        encoder.write_all(&[7; 5000]).expect("written to memory");
        let wide = encoder.finish().expect("written to memory");
        assert!(matches!(chunk(&[7; 5000], 0, Codec::Zstd).inflate(&wide), Err(TocError::Inflate { .. })));
    }
}
