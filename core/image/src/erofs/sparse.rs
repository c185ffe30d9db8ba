//! Which parts of a sparse file can stay where they are in the tar, and which must be copied into the index. EROFS maps a
//! file in chunks of one size, a power of two of at least a block; a chunk is a hole, or one run of blocks. A chunk whose
//! bytes are not one run of the tar's blocks is *spilled*: written out whole.

use super::IndexError;
use super::layout::{BLOCK, INDEX_SIZE, MAX_CHUNK_BITS, MAX_CHUNKS};
use super::tree::{MAX_SPILL, Place, Segment as Piece};
use crate::untar::Segment;

/// What to do with the next bytes of a sparse file's content, in the order of the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// They stay in the tar: this many.
    Stay(u64),
    /// They are copied to this offset of the spilled bytes.
    Copy {
        /// How many.
        length: u64,
        /// Where, from the beginning of this file's spilled bytes.
        to: u64,
    },
}

/// How a sparse file is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// The file's segments; spilled ones count from the beginning of this file's spilled bytes.
    pub(super) pieces: Vec<Piece>,
    /// Bytes to spill.
    pub(super) spill: u64,
}

/// Plans a file of `size` bytes whose `segments` follow each other in the tar from `position` on. Chooses the chunk size that
/// makes the index smallest; `spilled` bytes of the index are taken already.
pub(super) fn plan(segments: &[Segment], size: u64, position: u64, spilled: usize) -> Result<Plan, IndexError> {
    let cost = |bits: u32| {
        let chunks = size.div_ceil(BLOCK << bits);
        let counted = Spilling { chunk: BLOCK << bits, size }.count(segments, position);
        let spill = counted.checked_mul(BLOCK << bits)?;
        (chunks <= MAX_CHUNKS && spill <= (MAX_SPILL - spilled.min(MAX_SPILL)) as u64)
            .then(|| chunks * INDEX_SIZE + spill)
    };
    let best = (0..=MAX_CHUNK_BITS).filter_map(|bits| Some((cost(bits)?, bits))).min();
    let (_, bits) = best.ok_or(IndexError::TooLarge("a sparse file"))?;
    Ok(Spilling { chunk: BLOCK << bits, size }.plan(segments, position))
}

/// A segment's bytes in one chunk, or in a row of chunks that need not be spilled.
#[derive(Debug, Clone, Copy)]
struct Part {
    offset: u64,
    length: u64,
    position: u64,
    spilled: bool,
}

struct Spilling {
    chunk: u64,
    size: u64,
}

impl Spilling {
    /// Takes the first part off a segment.
    fn first(&self, segment: &mut Segment, position: &mut u64) -> Part {
        let Segment { offset, length } = *segment;
        let end = offset + length;
        let next = (offset / self.chunk + 1) * self.chunk;
        let whole = offset % self.chunk == 0 && (end >= next || end == self.size);
        let aligned = offset.is_multiple_of(BLOCK) && position.is_multiple_of(BLOCK);
        let stop = match whole && aligned {
            true if end == self.size => end,
            // All chunks of which it has everything.
            true => end - end % self.chunk,
            false => end.min(next),
        };
        let part = Part { offset, length: stop - offset, position: *position, spilled: !(whole && aligned) };
        *segment = Segment { offset: stop, length: end - stop };
        *position += part.length;
        part
    }

    /// How many chunks are spilled.
    fn count(&self, segments: &[Segment], mut position: u64) -> u64 {
        let (mut count, mut last) = (0, None);
        for mut segment in segments.iter().copied() {
            // Never at a block's start both in the file and in the tar: all of it is spilled, which need not be walked.
            if segment.length > 0 && segment.offset % BLOCK != position % BLOCK {
                let (from, to) = (segment.offset / self.chunk, (segment.offset + segment.length - 1) / self.chunk);
                count += to - from + u64::from(last != Some(from));
                last = Some(to);
                position += segment.length;
                continue;
            }
            while segment.length > 0 {
                let part = self.first(&mut segment, &mut position);
                let chunk = part.offset / self.chunk;
                if part.spilled && last != Some(chunk) {
                    count += 1;
                    last = Some(chunk);
                }
            }
        }
        count
    }

    fn plan(&self, segments: &[Segment], mut position: u64) -> Plan {
        let mut plan = Plan::default();
        let mut last = None;
        for mut segment in segments.iter().copied() {
            while segment.length > 0 {
                let part = self.first(&mut segment, &mut position);
                if !part.spilled {
                    plan.steps.push(Step::Stay(part.length));
                    let place = Place::Device(0, part.position);
                    plan.pieces.push(Piece { offset: part.offset, length: part.length, place });
                    continue;
                }
                let chunk = part.offset / self.chunk;
                let start = chunk * self.chunk;
                if last != Some(chunk) {
                    last = Some(chunk);
                    let length = self.chunk.min(self.size - start);
                    plan.pieces.push(Piece { offset: start, length, place: Place::Spill(plan.spill) });
                    plan.spill += self.chunk;
                }
                let to = plan.spill - self.chunk + (part.offset - start);
                plan.steps.push(Step::Copy { length: part.length, to });
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn aligned_segments_stay() {
        let segments = [Segment { offset: 4096, length: 8192 }, Segment { offset: 1 << 40, length: 100 }];
        let plan = plan(&segments, (1 << 40) + 100, 1024, 0).expect("planned");
        // A terabyte of blocks would make an index of 16 GiB.
        assert!(plan.spill <= 32 << 20, "{}", plan.spill);
        let small = [Segment { offset: 4096, length: 8192 }, Segment { offset: 65536, length: 100 }];
        let plan = super::plan(&small, 65636, 1024, 0).expect("planned");
        assert_eq!((plan.spill, &plan.steps[..]), (0, &[Step::Stay(8192), Step::Stay(100)][..]));
        assert!(super::plan(&small, 65636, 1024 + 1, MAX_SPILL - 1).is_err());
    }

    proptest! {
        #[test]
        fn every_byte_is_where_it_belongs(
            parts in prop::collection::vec((0u64..5000, 0u64..5000, prop::bool::ANY), 0..12),
            tail in 0u64..3000,
            odd in prop::bool::ANY,
        ) {
            let mut segments = Vec::new();
            let mut at = 0;
            for (hole, length, round) in parts {
                let (hole, length) = if round { (hole / 512 * 512, length / 512 * 512) } else { (hole, length) };
                segments.push(Segment { offset: at + hole, length });
                at += hole + length;
            }
            let size = at + tail;
            let content: u64 = segments.iter().map(|segment| segment.length).sum();
            let position = if odd { 1025 } else { 1024 };
            let tar: Vec<u8> = (0..position + content + 512).map(|at| (at % 251) as u8).collect();
            let plan = plan(&segments, size, position, 0).expect("planned");

            let mut wanted = vec![0; size as usize];
            let mut from = position as usize;
            for segment in &segments {
                let (offset, length) = (segment.offset as usize, segment.length as usize);
                wanted[offset..offset + length].copy_from_slice(&tar[from..from + length]);
                from += length;
            }
            let mut spill = vec![0; plan.spill as usize];
            let mut from = position as usize;
            for step in &plan.steps {
                match *step {
                    Step::Stay(length) => from += length as usize,
                    Step::Copy { length, to } => {
                        let length = length as usize;
                        spill[to as usize..to as usize + length].copy_from_slice(&tar[from..from + length]);
                        from += length;
                    }
                }
            }
            prop_assert_eq!(from as u64, position + content);
            let mut found = vec![0; size as usize];
            for piece in &plan.pieces {
                let (source, at) = match piece.place {
                    Place::Device(_, at) => (&tar, at as usize),
                    Place::Spill(at) => (&spill, at as usize),
                };
                prop_assert_eq!((at % 512, piece.offset % 512), (0, 0));
                prop_assert!(piece.length % 512 == 0 || piece.offset + piece.length == size);
                let (offset, length) = (piece.offset as usize, piece.length as usize);
                found[offset..offset + length].copy_from_slice(&source[at..at + length]);
            }
            prop_assert!(found == wanted);
        }
    }
}
