//! The list of a layer's objects, `layers/<chain>/objects`: their number in 8 bytes, little
//! endian, and records of 44 bytes in the order of their digests. A list that was cut off, or emptied, is none.
//!
//! ```text
//! 0   digest, 32 bytes
//! 32  length of the object, 8 bytes, little endian
//! 40  files of the layer that have this content, hard links counted once, 4 bytes
//! ```

use std::fs;
use std::io;
use std::path::Path;

use zerocopy::{FromBytes, IntoBytes};

use super::objects::ObjectId;

const RECORD: usize = 44;

/// One object of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: ObjectId,
    /// Bytes.
    pub(super) size: u64,
    /// Files that have it.
    pub(super) uses: u32,
}

/// As bytes.
pub(super) fn encode(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + records.len() * RECORD);
    out.extend((records.len() as u64).to_le_bytes());
    for record in records {
        out.extend(record.id.as_bytes());
        out.extend(record.size.to_le_bytes());
        out.extend(record.uses.to_le_bytes());
    }
    out
}

/// Reads the list in the file `path`. Errors: `InvalidData` for one that was cut off.
pub(super) fn read(path: &Path) -> io::Result<Vec<Record>> {
    let bytes = fs::read(path)?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "list of objects is broken");
    let (count, records) = bytes.split_first_chunk().ok_or_else(broken)?;
    let (records, rest) = records.as_chunks::<RECORD>();
    if !rest.is_empty() || u64::from_le_bytes(*count) != records.len() as u64 {
        return Err(broken());
    }
    let decode = |record: &[u8; RECORD]| {
        let (id, rest) = ObjectId::read_from_prefix(record).ok()?;
        let (size, rest) = rest.split_first_chunk()?;
        let (uses, _) = rest.split_first_chunk()?;
        Some(Record { id, size: u64::from_le_bytes(*size), uses: u32::from_le_bytes(*uses) })
    };
    // Every record is long enough.
    Ok(records.iter().filter_map(decode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("list");
        let record = |byte: u8| Record {
            id: ObjectId::read_from_bytes(&[byte; 32]).expect("as long"),
            size: u64::from(byte) << 40,
            uses: u32::from(byte),
        };
        let records = [record(1), record(200)];
        fs::write(&path, encode(&records)).expect("written");
        assert_eq!(read(&path).expect("read"), records);
        for cut in [0, 8, 8 + RECORD, 9 + RECORD] {
            fs::write(&path, &encode(&records)[..cut]).expect("written");
            assert_eq!(read(&path).expect_err("cut off").kind(), io::ErrorKind::InvalidData);
        }
    }
}
