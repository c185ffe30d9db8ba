//! Netlink messages as bytes (netlink(7)): a builder that writes a whole batch into one buffer, and readers for what
//! comes back. Knows the framing - headers, attributes, nesting, alignment - and no message of any family.

use std::ffi::CStr;
use std::net::IpAddr;

/// Asks for an answer to this message.
pub const ACK: u16 = libc::NLM_F_ACK as u16;
/// Makes the object; with [`EXCLUSIVE`] only a new one.
pub const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// Fails if the object is there already.
pub const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
/// Replaces the object if it is there already.
pub const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
/// Adds behind what is there.
pub const APPEND: u16 = libc::NLM_F_APPEND as u16;
/// Lists all objects.
pub const DUMP: u16 = libc::NLM_F_DUMP as u16;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
const KIND_MASK: u16 = !(NESTED | libc::NLA_F_NET_BYTEORDER as u16);
/// `sizeof(struct nlmsghdr)`.
pub(super) const HEADER: usize = 16;
/// `sizeof(struct nlattr)`.
const ATTRIBUTE_HEADER: usize = 4;
/// Everything in a message is padded to this.
const ALIGNMENT: usize = 4;

/// An address's bytes, in the order of the wire.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address of these bytes, if they are as many as one has.
pub fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Messages to be sent at once, numbered from 1.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    messages: u32,
    acks: u32,
    /// Where the last message begins.
    last: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a message; it ends when the value is dropped.
    pub fn message(&mut self, kind: u16, flags: u16) -> MessageWriter<'_> {
        self.messages += 1;
        if flags & ACK != 0 {
            self.acks += 1;
        }
        let start = self.bytes.len();
        self.last = start;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.messages.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        MessageWriter { bytes: &mut self.bytes, start }
    }

    /// Asks for an answer to the last message, which must not have asked for one: enough for a transaction of any size, whose
    /// refusals are told unasked, where the answers to all might not find room.
    pub fn acknowledge_last(&mut self) {
        if let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            let asked = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&asked.to_ne_bytes());
            self.acks += 1;
        }
    }

    /// What goes to the kernel.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Messages that ask for an answer.
    pub(super) fn acks(&self) -> u32 {
        self.acks
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }
}

/// A message being written.
#[derive(Debug)]
pub struct MessageWriter<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl Drop for MessageWriter<'_> {
    fn drop(&mut self) {
        let length = self.bytes.len() - self.start;
        // A message is far below 4 GiB: it is made of a few attributes of at most 64 KiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

impl MessageWriter<'_> {
    /// The family's fixed header, or a part of it.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// An attribute.
    pub fn bytes(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let at = self.begin(kind);
        self.bytes.extend_from_slice(payload);
        self.end(at);
        self
    }

    /// A text attribute without a terminator.
    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.bytes(kind, text.as_bytes())
    }

    /// A text attribute with a terminator.
    pub fn c_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let at = self.begin(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.end(at);
        self
    }

    /// A byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// A number in the machine's order (rtnetlink).
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in network order (nfnetlink).
    pub fn u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Attributes within an attribute.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.begin(kind | NESTED);
        fill(self);
        self.end(at);
        self
    }

    fn begin(&mut self, kind: u16) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        at
    }

    fn end(&mut self, at: usize) {
        let length = u16::try_from(self.bytes.len() - at).expect("an attribute is below 64 KiB");
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// One message that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// Which request it answers.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The messages in what one receive returned; ends at the first that is cut.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message =
            Message { kind: u16_at(bytes, 4)?, sequence: u32_at(bytes, 8)?, body: bytes.get(HEADER..length)? };
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`, without the flags of their kinds; ends at the first that is cut.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let found = (u16_at(bytes, 2)? & KIND_MASK, bytes.get(ATTRIBUTE_HEADER..length)?);
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(found)
    })
}

/// The payload of the first attribute `kind`.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, payload)| payload)
}

/// A number in the machine's order.
pub fn read_u32(payload: &[u8]) -> Option<u32> {
    u32_at(payload, 0)
}

/// A text with its terminator.
pub fn read_text(payload: &[u8]) -> Option<&str> {
    CStr::from_bytes_until_nul(payload).ok()?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_laid_out_as_the_kernel_wants_it() {
        let mut batch = Batch::new();
        batch.message(0x10, ACK).raw(&[9; 4]).c_text(3, "eth0").nest(18, |inner| {
            inner.u8(1, 7);
        });
        batch.message(0x11, 0);
        let bytes = batch.bytes();
        let found: Vec<_> = messages(bytes).collect();
        assert_eq!((found[0].kind, found[0].sequence, found[1].kind, found[1].sequence), (0x10, 1, 0x11, 2));
        assert_eq!(batch.acks(), 1);
        let body = found[0].body;
        assert_eq!(&body[..4], [9; 4]);
        assert_eq!(attribute(&body[4..], 3).and_then(read_text), Some("eth0"));
        // 4 + 5 bytes, padded to 12; then a nest of 4 + 5, padded.
        assert_eq!(body.len(), 4 + 12 + 12);
        let nested = attribute(&body[4..], 18).expect("nest");
        assert_eq!(attributes(nested).collect::<Vec<_>>(), [(1, &[7][..])]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes).take(100) {
                let _ = attributes(message.body).take(100).count();
            }
            let _ = attributes(&bytes).take(100).count();
        }

        #[test]
        fn what_is_written_is_read_back(list in proptest::collection::vec((0u16..1000, proptest::collection::vec(any::<u8>(), 0..40)), 0..10)) {
            let mut batch = Batch::new();
            {
                let mut message = batch.message(5, 0);
                for (kind, payload) in &list {
                    message.bytes(*kind, payload);
                }
            }
            let found: Vec<_> = messages(batch.bytes()).collect();
            prop_assert_eq!(found.len(), 1);
            let read: Vec<_> = attributes(found[0].body).map(|(k, p)| (k, p.to_vec())).collect();
            prop_assert_eq!(read, list);
        }
    }
}
