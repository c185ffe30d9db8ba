//! Where the content of sparse files lies: GNU's maps, in the header or before the content, and the check every map must
//! pass before anybody writes by it.

use super::header::{BLOCK, number};
use super::{MAX_SEGMENTS, Segment, TarError};

/// The entries of one block of an old GNU map, from `at`; an entry whose offset field is empty ends it.
pub(super) fn old_entries(
    block: &[u8; BLOCK],
    at: usize,
    count: usize,
    map: &mut Vec<Segment>,
) -> Result<(), TarError> {
    for entry in block[at..].chunks_exact(24).take(count) {
        if entry[0] == 0 {
            break;
        }
        let field = |bytes: &[u8]| number(bytes).and_then(|number| u64::try_from(number).ok());
        let (Some(offset), Some(length)) = (field(&entry[..12]), field(&entry[12..])) else {
            return Err(TarError::Header("sparse map"));
        };
        push(map, Segment { offset, length })?;
    }
    Ok(())
}

/// Adds a segment, as long as there are not too many.
pub(super) fn push(map: &mut Vec<Segment>, segment: Segment) -> Result<(), TarError> {
    if map.len() >= MAX_SEGMENTS {
        return Err(TarError::TooLong("sparse map"));
    }
    map.push(segment);
    Ok(())
}

/// In order, not overlapping, inside the file, and exactly as much content as the archive has.
pub(super) fn check(map: &[Segment], real_size: u64, content: u64) -> Result<(), TarError> {
    let bad = || TarError::Header("sparse map");
    let (mut end, mut total) = (0u64, 0u64);
    for segment in map {
        if segment.offset < end {
            return Err(bad());
        }
        end = segment.offset.checked_add(segment.length).ok_or_else(bad)?;
        total += segment.length;
    }
    if end > real_size || total != content || i64::try_from(real_size).is_err() { Err(bad()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let map = |parts: &[(u64, u64)]| -> Vec<Segment> {
            parts.iter().map(|(offset, length)| Segment { offset: *offset, length: *length }).collect()
        };
        assert!(check(&map(&[(0, 5), (10, 5), (20, 0)]), 20, 10).is_ok());
        for (parts, real, content) in [
            (&[(5, 5), (0, 5)][..], 20, 10),
            (&[(0, 5), (4, 5)], 20, 10),
            (&[(0, 5)], 4, 5),
            (&[(0, 5)], 20, 6),
            (&[(u64::MAX, 5)], 20, 5),
            (&[], u64::MAX, 0),
        ] {
            assert!(check(&map(parts), real, content).is_err(), "{parts:?}");
        }
    }
}
