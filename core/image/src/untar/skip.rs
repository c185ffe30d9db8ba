//! Streams whose bytes can be passed over without being read, for readers of headers only.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// A stream that can pass over bytes.
pub trait Skip: Read {
    /// Passes over `bytes` bytes. Returns how many, which is less only where the stream ends.
    fn skip(&mut self, bytes: u64) -> io::Result<u64>;
}

impl Skip for &[u8] {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let passed = usize::try_from(bytes).map_or(self.len(), |bytes| bytes.min(self.len()));
        *self = &self[passed..];
        Ok(passed as u64)
    }
}

impl<S: Skip + ?Sized> Skip for &mut S {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        (**self).skip(bytes)
    }
}

/// A tar in a file, read from its beginning whatever the descriptor's own position; one call for each read.
#[derive(Debug)]
pub struct TarFile<'a> {
    file: &'a File,
    at: u64,
    length: u64,
}

impl<'a> TarFile<'a> {
    /// All that is in `file` now.
    pub fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self { file, at: 0, length: file.metadata()?.len() })
    }
}

impl Read for TarFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.at);
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let length = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Skip for TarFile<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let passed = bytes.min(self.length.saturating_sub(self.at));
        self.at += passed;
        Ok(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::untar::{TarError, TarReader};

    fn tar() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, length) in [("a", 3), ("b", 100_000), ("c", 0), ("d", 512)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(length);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &vec![b'x'; length as usize][..]).expect("appended");
        }
        tar.into_inner().expect("finished")
    }

    /// Where the content of each entry is, and how long the stream.
    type Positions = (Vec<(Vec<u8>, u64)>, u64);

    fn positions<R: Read>(mut reader: TarReader<R>) -> Result<Positions, TarError> {
        let mut out = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            out.push((entry.path, reader.position()));
        }
        Ok((out, reader.drain()?))
    }

    #[test]
    fn content_is_where_the_reader_says_and_need_not_be_read() {
        let bytes = tar();
        let mut file = tempfile::tempfile().expect("a temporary file");
        io::Write::write_all(&mut file, &bytes).expect("written");
        let read = positions(TarReader::new(&bytes[..])).expect("read");
        assert_eq!(read.0[1], (b"b".to_vec(), 512 + 512 + 512));
        assert_eq!(bytes[1536], b'x');
        assert_eq!(read.1, bytes.len() as u64);
        assert_eq!(positions(TarReader::skipping(&bytes[..])).expect("skipped"), read);
        assert_eq!(positions(TarReader::skipping(TarFile::new(&file).expect("a length"))).expect("skipped"), read);
        for cut in [1000, 1537, 50_000] {
            assert!(matches!(positions(TarReader::skipping(&bytes[..cut])), Err(TarError::Truncated)), "{cut}");
        }
    }
}
