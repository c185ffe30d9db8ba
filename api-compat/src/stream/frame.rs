//! The frames of multiplexed streams (Docker API, "Stream format"): stream, three zero bytes, length, payload.

use bytes::{BufMut, Bytes, BytesMut};
use dockerd_types::stream::StdStream;

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 8;

/// One frame around `payload`.
pub(crate) fn encode(stream: StdStream, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + payload.len());
    out.put_u8(stream.frame_byte());
    out.put_bytes(0, 3);
    // A piece of output has 32 KiB at most, a line of a log 16 KiB.
    out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_slice(payload);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_length_is_the_payloads(payload in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let frame = encode(StdStream::Stderr, &payload);
            let length = u32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
            proptest::prop_assert_eq!((&frame[..4], length as usize), (&[2, 0, 0, 0][..], payload.len()));
            proptest::prop_assert_eq!(&frame[HEADER..], &payload[..]);
        }
    }
}
