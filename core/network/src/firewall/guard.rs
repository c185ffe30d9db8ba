//! Hears of what others do to the packet filter: the kernel's notes on changes of nf_tables, of which those of one
//! transaction come together and end with its number. What they mean for our rules is the driver's to judge.

use std::fmt::Debug;
use std::io;

use dockerd_sys::netlink::{Family, Message, Socket};

/// `NFNLGRP_NFTABLES`.
const GROUP: libc::c_int = 7;

/// Judges changes.
pub(super) trait Judge: Debug + Send {
    /// Takes note of a change; whether a transaction ended with something of ours missing, or maybe missing.
    fn note(&mut self, change: &Message<'_>) -> bool;
}

/// Hears of changes in the network namespace it was made in.
#[derive(Debug)]
pub struct Guard {
    socket: Socket,
    judge: Box<dyn Judge>,
}

impl Guard {
    /// In the calling thread's network namespace.
    pub(super) fn start(judge: impl Judge + 'static) -> io::Result<Self> {
        Ok(Self { socket: Socket::subscribe(Family::Netfilter, GROUP)?, judge: Box::new(judge) })
    }

    /// Waits a while for changes; whether something of ours is missing, or may be. Blocking.
    pub fn is_needed(&mut self) -> io::Result<bool> {
        let mut missing = false;
        match self.socket.hear(|change| missing |= self.judge.note(change)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // More was told than there was room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            other => other.map(|()| missing),
        }
    }
}
