//! From a stream to entries. Content is handed out in the reader's own buffer, so that small files are written by one call
//! without being copied before.

use std::io::{self, Read};

use super::header::{BLOCK, Header};
use super::pax::{Pax, decimal};
use super::{Entry, EntryKind, MAX_EXTENSION, Segment, Skip, TarError, TarTime, sparse};

/// Bytes read at a time.
const BUFFER: usize = 256 * 1024;
/// The same where content is passed over: a header with its extensions, and seldom more.
const SKIPPING_BUFFER: usize = 4 * 1024;

/// Passes over bytes of `R` as [`Skip::skip`] does.
type SkipFn<R> = fn(&mut R, u64) -> io::Result<u64>;

/// Reads the entries of a tar one after the other.
#[derive(Debug)]
pub struct TarReader<R> {
    inner: R,
    skip: Option<SkipFn<R>>,
    /// Bytes taken from `inner`.
    taken: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Content of the current entry not yet handed out.
    content: u64,
    /// Zeros behind it.
    padding: u64,
    finished: bool,
}

/// What came before an entry and belongs to it.
#[derive(Debug, Default)]
struct Extensions {
    pax: Pax,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    /// Around `inner`, which needs no buffer of its own.
    pub fn new(inner: R) -> Self {
        Self::with(inner, None, BUFFER)
    }

    /// Around `inner`, for somebody who does not want most of the content: it is passed over without being read.
    pub fn skipping(inner: R) -> Self
    where
        R: Skip,
    {
        Self::with(inner, Some(R::skip), SKIPPING_BUFFER)
    }

    fn with(inner: R, skip: Option<SkipFn<R>>, buffer: usize) -> Self {
        let buffer = vec![0; buffer];
        Self { inner, skip, taken: 0, buffer, start: 0, end: 0, content: 0, padding: 0, finished: false }
    }

    /// Where in the stream the next byte of content lies: after [`next_entry`](Self::next_entry), the entry's first.
    pub fn position(&self) -> u64 {
        self.taken - (self.end - self.start) as u64
    }

    /// The next entry; what is left of the last one's content is skipped. `None` at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            match header.flag() {
                b'x' => extensions.pax = Pax::parse(&self.extension(&header, "PAX header")?)?,
                // Global headers hold comments of the archiver; the stock daemon does not apply them either.
                b'g' => _ = self.extension(&header, "PAX header")?,
                b'L' => extensions.path = Some(self.long_name(&header)?),
                b'K' => extensions.link = Some(self.long_name(&header)?),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// The next piece of the current entry's content; empty when there is no more.
    pub fn data(&mut self) -> Result<&[u8], TarError> {
        self.data_at_most(u64::MAX)
    }

    /// The same, with at most `limit` bytes.
    pub fn data_at_most(&mut self, limit: u64) -> Result<&[u8], TarError> {
        if self.content == 0 {
            return Ok(&[]);
        }
        if self.start == self.end {
            self.fill()?;
        }
        if self.start == self.end {
            return Err(TarError::Truncated);
        }
        let available = self.end - self.start;
        let length = usize::try_from(self.content.min(limit)).map_or(available, |wanted| wanted.min(available));
        let piece = self.start..self.start + length;
        self.start += length;
        self.content -= length as u64;
        Ok(&self.buffer[piece])
    }

    /// Passes over `bytes` of the current entry's content, or over what is left of it.
    pub fn pass(&mut self, bytes: u64) -> Result<(), TarError> {
        let bytes = bytes.min(self.content);
        self.skip(bytes)?;
        self.content -= bytes;
        Ok(())
    }

    /// All content of the current entry, if it is no more than `limit` bytes.
    pub fn data_to_end(&mut self, limit: u64, what: &'static str) -> Result<Vec<u8>, TarError> {
        if self.content > limit {
            return Err(TarError::TooLong(what));
        }
        let mut out = Vec::new();
        loop {
            let piece = self.data()?;
            if piece.is_empty() {
                return Ok(out);
            }
            out.extend_from_slice(piece);
        }
    }

    /// What is behind the end of the archive, for those who hash all of a stream. Says how long all of it is.
    pub fn drain(&mut self) -> io::Result<u64> {
        self.start = self.end;
        if let Some(skip) = self.skip {
            self.taken += skip(&mut self.inner, u64::MAX)?;
            return Ok(self.taken);
        }
        loop {
            match self.inner.read(&mut self.buffer) {
                Ok(0) => return Ok(self.taken),
                Ok(length) => self.taken += length as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads once into the empty buffer.
    fn fill(&mut self) -> io::Result<()> {
        (self.start, self.end) = (0, 0);
        loop {
            match self.inner.read(&mut self.buffer) {
                Ok(length) => {
                    self.end = length;
                    self.taken += length as u64;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), TarError> {
        let buffered = (self.end - self.start) as u64;
        if let Some(skip) = self.skip
            && bytes > buffered
        {
            let beyond = bytes - buffered;
            self.start = self.end;
            let passed = skip(&mut self.inner, beyond)?;
            self.taken += passed;
            return if passed == beyond { Ok(()) } else { Err(TarError::Truncated) };
        }
        while bytes > 0 {
            if self.start == self.end {
                self.fill()?;
                if self.end == 0 {
                    return Err(TarError::Truncated);
                }
            }
            let available = self.end - self.start;
            let length = usize::try_from(bytes).map_or(available, |bytes| bytes.min(available));
            self.start += length;
            bytes -= length as u64;
        }
        Ok(())
    }

    /// The next block; `None` where the stream ends before it.
    fn block(&mut self) -> Result<Option<Box<[u8; BLOCK]>>, TarError> {
        let mut block = Box::new([0; BLOCK]);
        let mut filled = 0;
        while filled < BLOCK {
            if self.start == self.end {
                self.fill()?;
                if self.end == 0 {
                    return if filled == 0 { Ok(None) } else { Err(TarError::Truncated) };
                }
            }
            let length = (self.end - self.start).min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&self.buffer[self.start..self.start + length]);
            self.start += length;
            filled += length;
        }
        Ok(Some(block))
    }

    /// The next header; `None` at two blocks of zeros, or where the stream ends between entries.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.finished {
            return Ok(None);
        }
        let left = std::mem::take(&mut self.content) + std::mem::take(&mut self.padding);
        self.skip(left)?;
        let zero = |block: &[u8; BLOCK]| block.iter().all(|byte| *byte == 0);
        if let Some(block) = self.block()? {
            if !zero(&block) {
                return Header::check(block).map(Some);
            }
            if self.block()?.is_some_and(|block| !zero(&block)) {
                return Err(TarError::Header("data after a block of zeros"));
            }
        }
        self.finished = true;
        Ok(None)
    }

    fn set_content(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn extension(&mut self, header: &Header, what: &'static str) -> Result<Vec<u8>, TarError> {
        self.set_content(header.size()?);
        self.data_to_end(MAX_EXTENSION, what)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let mut name = self.extension(header, "name")?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, TarError> {
        let Extensions { mut pax, path, link } = extensions;
        let mut kind = header.kind();
        let path = pax.sparse.name.take().or(pax.path).or(path).unwrap_or_else(|| header.path());
        if kind == EntryKind::File && path.ends_with(b"/") {
            // How directories were written before they had a type.
            kind = EntryKind::Directory;
        }
        // Links, nodes and directories have no content, whatever their size field says.
        let content = match kind {
            EntryKind::File | EntryKind::Other(_) => pax.size.map_or_else(|| header.size(), Ok)?,
            _ => 0,
        };
        if i64::try_from(content).is_err() {
            return Err(TarError::Header("size"));
        }
        self.set_content(content);
        let (mut size, mut segments) = (content, None);
        if kind == EntryKind::File {
            (size, segments) = self.sparse(header, &mut pax.sparse)?;
        }
        let owner = |extended: Option<i64>, own: Result<i64, TarError>, what| {
            u32::try_from(extended.map_or(own, Ok)?).map_err(|_| TarError::Header(what))
        };
        Ok(Entry {
            kind,
            path,
            link: pax.link.or(link).unwrap_or_else(|| header.link()),
            mode: header.mode()?,
            uid: owner(pax.uid, header.uid(), "uid")?,
            gid: owner(pax.gid, header.gid(), "gid")?,
            size,
            mtime: bounded(pax.mtime.map_or_else(|| header.mtime(), Ok)?),
            atime: pax.atime.map(bounded),
            device: match kind {
                EntryKind::CharDevice | EntryKind::BlockDevice => header.device()?,
                _ => (0, 0),
            },
            xattrs: pax.xattrs,
            segments,
        })
    }

    /// Size of the file and its map; a map before the content is taken out of it.
    fn sparse(
        &mut self,
        header: &Header,
        pax: &mut super::pax::Sparse,
    ) -> Result<(u64, Option<Vec<Segment>>), TarError> {
        let (map, real_size) = if header.flag() == b'S' {
            let real = header.number(483, 12, "size of a sparse file")?;
            (self.old_map(header)?, u64::try_from(real).map_err(|_| TarError::Header("size of a sparse file"))?)
        } else if pax.map_in_content() {
            let map = self.map_in_content()?;
            (map, pax.real_size.ok_or(TarError::Header("size of a sparse file"))?)
        } else if let (Some(map), Some(real)) = (pax.take_map(), pax.real_size) {
            (map, real)
        } else {
            return Ok((self.content, None));
        };
        sparse::check(&map, real_size, self.content)?;
        Ok((real_size, Some(map)))
    }

    fn old_map(&mut self, header: &Header) -> Result<Vec<Segment>, TarError> {
        let mut map = Vec::new();
        sparse::old_entries(&header.0, 386, 4, &mut map)?;
        let mut more = header.0[482] != 0;
        // The blocks of the map do not count as content.
        while more {
            let block = self.block()?.ok_or(TarError::Truncated)?;
            sparse::old_entries(&block, 0, 21, &mut map)?;
            more = block[504] != 0;
        }
        Ok(map)
    }

    /// Decimal lines before the content, filled up to a whole block: a count, then offset and length of each segment.
    fn map_in_content(&mut self) -> Result<Vec<Segment>, TarError> {
        let bad = || TarError::Header("sparse map");
        let (mut map, mut line, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        let mut wanted = None;
        while wanted.is_none_or(|count: u64| (map.len() as u64) < count) {
            if self.content < BLOCK as u64 {
                return Err(bad());
            }
            self.content -= BLOCK as u64;
            let block = self.block()?.ok_or(TarError::Truncated)?;
            for byte in block.iter() {
                if *byte != b'\n' {
                    line.push(*byte);
                    if line.len() > 20 {
                        return Err(bad());
                    }
                    continue;
                }
                let number = decimal(&line).and_then(|number| u64::try_from(number).ok()).ok_or_else(bad)?;
                line.clear();
                let Some(count) = wanted else {
                    wanted = Some(number);
                    continue;
                };
                numbers.push(number);
                if let [offset, length] = numbers[..] {
                    numbers.clear();
                    sparse::push(&mut map, Segment { offset, length })?;
                }
                if map.len() as u64 >= count {
                    break;
                }
            }
            if wanted == Some(0) {
                break;
            }
            // Half a line goes on in the next block; zeros behind the last one do not get here.
        }
        Ok(map)
    }
}

/// What file systems can hold; the stock daemon takes the epoch for what is before it.
fn bounded(time: TarTime) -> TarTime {
    if time.seconds < 0 { TarTime::default() } else { time }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(7);
        header.set_uid(1);
        header.set_gid(2);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn padded(content: &[u8]) -> Vec<u8> {
        let mut out = content.to_vec();
        out.resize(content.len().div_ceil(BLOCK) * BLOCK, 0);
        out
    }

    fn pax(records: &[(&str, &str)]) -> Vec<u8> {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..4).map(|digits| rest + digits).find(|total| total.to_string().len() + rest == *total);
            text.extend(format!("{} {key}={value}\n", length.expect("a length")).into_bytes());
        }
        [header("pax", b'x', text.len() as u64), padded(&text)].concat()
    }

    fn read(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut reader = TarReader::new(tar);
        let mut out = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let content = reader.data_to_end(1 << 20, "content")?;
            out.push((entry, content));
        }
        Ok(out)
    }

    #[test]
    fn plain_entries_and_skipped_content() {
        let tar = [header("a", b'0', 3), padded(b"abc"), header("d/", b'0', 0), vec![0; 1024], vec![9; 77]].concat();
        let entries = read(&tar).expect("read");
        assert_eq!(entries[0].1, b"abc");
        assert_eq!(entries[1].0.kind, EntryKind::Directory);
        let mut reader = TarReader::new(&tar[..]);
        assert_eq!(reader.next_entry().expect("read").map(|entry| entry.path), Some(b"a".to_vec()));
        assert_eq!(reader.next_entry().expect("read").map(|entry| entry.path), Some(b"d/".to_vec()));
    }

    #[test]
    fn streams_that_end_early() {
        let tar = [header("a", b'0', 600), padded(&[1; 600])].concat();
        // Without the two blocks of zeros it is accepted, cut anywhere else it is not.
        assert_eq!(read(&tar).expect("read").len(), 1);
        for cut in [1, 511, 512, 600, 1000, 1200] {
            assert!(matches!(read(&tar[..cut]), Err(TarError::Truncated)), "{cut}");
        }
        assert!(read(&[]).expect("empty").is_empty());
        assert!(matches!(read(&[b'x'; 600]), Err(TarError::Header(_))));
    }

    #[test]
    fn sizes_that_lie() {
        let mut negative = header("a", b'0', 0);
        negative[124..136].copy_from_slice(&[0xff; 12]);
        let sum: u32 =
            negative.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum();
        negative[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(matches!(read(&negative), Err(TarError::Header("negative size"))));
        // A directory with a size has no content all the same.
        let tar = [header("d", b'5', 512), header("a", b'0', 0)].concat();
        assert_eq!(read(&tar).expect("read").len(), 2);
        let bomb = [header("p", b'x', 8 << 30), padded(b"x")].concat();
        assert!(matches!(read(&bomb), Err(TarError::TooLong(_))));
    }

    #[test]
    fn sparse_of_all_formats() {
        let segments = vec![Segment { offset: 0, length: 3 }, Segment { offset: 1000, length: 2 }];
        let file = |records: &[(&str, &str)], content: &[u8]| {
            let tar = [pax(records), header("x", b'0', content.len() as u64), padded(content)].concat();
            read(&tar).expect("read").remove(0)
        };
        let oldest = file(
            &[
                ("GNU.sparse.size", "2000"),
                ("GNU.sparse.numblocks", "2"),
                ("GNU.sparse.offset", "0"),
                ("GNU.sparse.numbytes", "3"),
                ("GNU.sparse.offset", "1000"),
                ("GNU.sparse.numbytes", "2"),
            ],
            b"abcde",
        );
        let middle = file(
            &[("GNU.sparse.size", "2000"), ("GNU.sparse.name", "real"), ("GNU.sparse.map", "0,3,1000,2")],
            b"abcde",
        );
        let newest = file(
            &[
                ("GNU.sparse.major", "1"),
                ("GNU.sparse.minor", "0"),
                ("GNU.sparse.name", "real"),
                ("GNU.sparse.realsize", "2000"),
            ],
            &[padded(b"2\n0\n3\n1000\n2\n"), b"abcde".to_vec()].concat(),
        );
        for (entry, content) in [&oldest, &middle, &newest] {
            assert_eq!((entry.size, entry.segments.as_ref(), &content[..]), (2000, Some(&segments), &b"abcde"[..]));
        }
        assert_eq!(newest.0.path, b"real");
    }

    #[test]
    fn sparse_maps_that_lie_are_refused() {
        for map in ["0,3,1,2", "0,3,1999,2", "0,9", "5"] {
            let records = [("GNU.sparse.size", "2000"), ("GNU.sparse.map", map)];
            let tar = [pax(&records), header("x", b'0', 5), padded(b"abcde")].concat();
            assert!(read(&tar).is_err(), "{map}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..3000), kind in proptest::sample::select(b"0125xgLKS".to_vec())) {
            let _ = read(&bytes);
            bytes.splice(0..0, header("a", kind, 700));
            let _ = read(&bytes);
        }
    }
}
