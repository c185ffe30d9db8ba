//! Hears of what others do to the packet filter: the kernel's notes on changes of nf_tables, of which those of one
//! transaction come together and end with its number. What they mean for our rules is the driver's to judge.

use std::fmt::Debug;
use std::io;

use dockerd_sys::netlink::{Family, Message, Socket, message};

use crate::error::NetworkError;

/// `NFNLGRP_NFTABLES`.
const GROUP: libc::c_int = 7;

/// `sizeof(struct nfgenmsg)`.
pub(super) const HEADER_LENGTH: usize = 4;

/// A change of nf_tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change<'a> {
    /// What was done: `NFT_MSG_*`.
    pub(super) kind: u16,
    /// In tables of which family: `NFPROTO_*`.
    pub(super) family: u8,
    /// What it was done to.
    attributes: &'a [u8],
}

impl<'a> Change<'a> {
    /// Reads a note of the kernel's; those of other parts of netfilter are none.
    pub(super) fn of(note: &Message<'a>) -> Option<Self> {
        let (header, attributes) = note.body.split_at_checked(HEADER_LENGTH)?;
        let is_one = i32::from(note.kind >> 8) == libc::NFNL_SUBSYS_NFTABLES;
        is_one.then(|| Self { kind: note.kind & 0xff, family: header[0], attributes })
    }

    /// An attribute that is text.
    pub(super) fn text(&self, attribute: u16) -> Option<&'a str> {
        message::attribute(self.attributes, attribute).and_then(message::read_text)
    }

    /// An attribute that is a number, in the network's order as all are here.
    pub(super) fn number(&self, attribute: u16) -> Option<u32> {
        Some(u32::from_be_bytes(message::attribute(self.attributes, attribute)?.try_into().ok()?))
    }
}

/// Judges changes.
pub(super) trait Judge: Debug + Send {
    /// Takes note of a change; whether a transaction ended with something of ours missing, or maybe missing.
    fn note(&mut self, change: &Change<'_>) -> bool;
    /// There were changes that it is not told of.
    fn missed(&mut self) {}
}

/// Hears of changes in the network namespace it was made in.
#[derive(Debug)]
pub struct Guard {
    socket: Socket,
    judge: Box<dyn Judge>,
}

impl Guard {
    /// In the calling thread's network namespace.
    pub(super) fn start(judge: impl Judge + 'static) -> Result<Self, NetworkError> {
        let socket = Socket::subscribe(Family::Netfilter, GROUP);
        let socket = socket.map_err(NetworkError::io("listen for changes of the packet filter"))?;
        Ok(Self { socket, judge: Box::new(judge) })
    }

    /// Waits a while for changes; whether something of ours is missing, or may be. Blocking.
    pub fn is_needed(&mut self) -> io::Result<bool> {
        let mut missing = false;
        match self.socket.hear(|note| missing |= Change::of(note).is_some_and(|change| self.judge.note(&change))) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // More was told than there was room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.judge.missed();
                Ok(true)
            }
            other => other.map(|()| missing),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use dockerd_sys::netlink::message::messages;
    use dockerd_sys::netlink::{Batch, MessageWriter};

    use super::*;

    /// Tells a judge of one change, whose attributes `fill` writes.
    pub(in crate::firewall) fn tell(
        judge: &mut dyn Judge,
        family: i32,
        kind: i32,
        fill: impl FnOnce(&mut MessageWriter<'_>),
    ) -> bool {
        let mut batch = Batch::new();
        let number = |value: i32| u16::try_from(value).expect("small");
        let mut out = batch.message(number(libc::NFNL_SUBSYS_NFTABLES) << 8 | number(kind), 0);
        out.raw(&[u8::try_from(family).expect("family"), 0, 0, 0]);
        fill(&mut out);
        drop(out);
        messages(batch.bytes()).filter_map(|note| Change::of(&note)).any(|change| judge.note(&change))
    }
}
