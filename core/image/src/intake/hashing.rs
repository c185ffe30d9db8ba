//! A reader that hashes what passes, and what is passed over.

use std::io::{self, BufRead, Read};

use dockerd_types::Digest;
use sha2::{Digest as _, Sha256};

use crate::untar::Skip;

/// The reader.
pub(crate) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: BufRead> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// The digest of the whole stream, the rest of which is read.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        self.skip(u64::MAX)?;
        Ok(Digest::sha256(&self.hasher.finalize().into()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

impl<R: BufRead> Skip for Hashing<R> {
    /// Reads, because all is to be hashed, but does not copy.
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let mut left = bytes;
        while left > 0 {
            match self.inner.fill_buf() {
                Ok([]) => break,
                Ok(piece) => {
                    let length = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
                    self.hasher.update(&piece[..length]);
                    self.inner.consume(length);
                    left -= length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes - left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_hashed_whether_read_or_passed_over() {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let mut reader = Hashing::new(&bytes[..]);
        let mut piece = [0; 1000];
        reader.read_exact(&mut piece).expect("read");
        assert_eq!(reader.skip(200_000).expect("passed"), 200_000);
        assert_eq!(reader.finish().expect("read"), Digest::sha256(&Sha256::digest(&bytes).into()));
        assert_eq!(Hashing::new(&bytes[..5]).skip(9).expect("passed"), 5);
    }
}
