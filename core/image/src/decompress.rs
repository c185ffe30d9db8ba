//! Which compression a stream has, by its first bytes, and a reader of what is inside.

use std::io::{self, BufRead, BufReader, Read};

use crate::error::ImageError;

/// Longest beginning that tells a compression.
pub(crate) const MAGIC: usize = 6;
/// Memory an xz stream may ask for, in KiB; `xz -9` asks for 64 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;

/// A compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Compression {
    /// By the first bytes of a stream, at most [`MAGIC`].
    pub(crate) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }

    /// Wraps `reader` so that plain bytes come out; streams put one after the other count as one.
    pub(crate) fn decoder<'a>(self, reader: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>, ImageError> {
        match self {
            Self::None => Ok(Box::new(reader)),
            _ => self.decoder_of(BufReader::with_capacity(64 * 1024, reader)),
        }
    }

    /// The same of a reader that has a buffer, out of which is read without copying.
    pub(crate) fn decoder_of<'a>(
        self,
        reader: impl BufRead + Send + 'a,
    ) -> Result<Box<dyn Read + Send + 'a>, ImageError> {
        Ok(match self {
            Self::None => Box::new(reader),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            Self::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(reader);
                Box::new(decoder.map_err(ImageError::io("open zstd stream"))?)
            }
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(reader)),
            // Its headers it reads byte by byte.
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(reader, true, XZ_MEMORY_KIB)),
        })
    }
}

/// Wraps `reader` so that plain bytes come out, whatever it is compressed with.
pub(crate) fn plain<'a>(mut reader: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>, ImageError> {
    let mut head = [0; MAGIC];
    let length = read_up_to(&mut reader, &mut head).map_err(ImageError::io("read archive"))?;
    Compression::of(&head[..length]).decoder(io::Cursor::new(head).take(length as u64).chain(reader))
}

pub(crate) fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn compressed(program: &str, content: &[u8]) -> Option<Vec<u8>> {
        let mut command = Command::new(program);
        let mut child = command.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let (mut stdin, content) = (child.stdin.take()?, content.to_vec());
        let writer = std::thread::spawn(move || stdin.write_all(&content));
        let out = child.wait_with_output().ok()?.stdout;
        writer.join().ok()?.ok()?;
        Some(out)
    }

    #[test]
    fn streams_of_all_sorts_and_their_truncation() {
        let content: Vec<u8> = (0..300_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        let mut tried = 0;
        for program in ["gzip", "zstd", "bzip2", "xz"] {
            let Some(packed) = compressed(program, &content) else { continue };
            tried += 1;
            let twice = [&packed[..], &packed[..]].concat();
            for (stream, times) in [(&packed, 1), (&twice, 2)] {
                let mut out = Vec::new();
                plain(&stream[..]).expect("known").read_to_end(&mut out).expect(program);
                assert_eq!(out.len(), content.len() * times, "{program}");
                assert!(out.starts_with(&content), "{program}");
            }
            let cut = plain(&packed[..packed.len() - 40]).expect("known").read_to_end(&mut Vec::new());
            assert!(cut.is_err(), "{program}");
        }
        assert!(tried >= 2, "gzip and another are there");
        let mut out = Vec::new();
        plain(&b"abc"[..]).expect("plain").read_to_end(&mut out).expect("read");
        assert_eq!(out, b"abc");
    }
}
