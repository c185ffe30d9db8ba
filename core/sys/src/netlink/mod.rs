//! Netlink sockets (netlink(7)) for requests that the kernel works off while they are sent: rtnetlink and nfnetlink. A
//! batch of messages goes out in one sendmsg(2); the answers are there when it returns.

mod filter;
pub mod message;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::socket::set_option;

pub use message::{Batch, Message, MessageWriter};

/// Room for one receive: dumps come in pieces of up to 32 KiB.
const BUFFER: usize = 32 * 1024;
/// Room for changes told to a subscriber, in bytes.
const TOLD_AT_ONCE: usize = 4 << 20;
/// The kernel answers at once; one that does not within this is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`.
const LINK_GROUP: libc::c_int = 1;
const IPV4_ADDRESS_GROUP: libc::c_int = 5;
const IPV6_ADDRESS_GROUP: libc::c_int = 9;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;

/// Which part of the kernel is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes, neighbours (rtnetlink(7)).
    Route,
    /// Packet filter and connection tracking (nfnetlink).
    Netfilter,
}

/// The kernel refused a message.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// One message of the batch was refused.
    #[error("{source}{}{text}", if text.is_empty() { "" } else { ": " })]
    Refused {
        /// Which, from 1.
        message: u32,
        /// What the kernel said.
        source: io::Error,
        /// The kernel's own explanation; may be empty.
        text: String,
    },
    /// The socket itself failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
}

impl NetlinkError {
    /// The kernel's error.
    pub fn io(&self) -> &io::Error {
        match self {
            Self::Refused { source, .. } | Self::Socket(source) => source,
        }
    }

    /// Whether the kernel answered with this number.
    pub fn is(&self, number: i32) -> bool {
        self.io().raw_os_error() == Some(number)
    }
}

/// A netlink socket of the network namespace in which it was opened. Not for use by several threads at once: answers
/// carry no sign of who asked.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    pub fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            set_option(&socket, libc::SOL_NETLINK, option, 1)?;
        }
        Ok(Self(socket))
    }

    /// Opens one that is told of changes: those of a multicast group. In the calling thread's network namespace.
    pub fn subscribe(family: Family, group: libc::c_int) -> io::Result<Self> {
        let socket = Self::open(family)?;
        set_option(&socket.0, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)?;
        // Many changes at once must not be lost while we look away.
        sockopt::set_socket_recv_buffer_size_force(&socket.0, TOLD_AT_ONCE)?;
        Ok(socket)
    }

    /// Opens one that is told of changes of links and of their addresses; see [`Socket::tell_only_of`]. In the calling thread's
    /// network namespace.
    pub fn subscribe_links() -> io::Result<Self> {
        let socket = Self::subscribe(Family::Route, LINK_GROUP)?;
        for group in [IPV4_ADDRESS_GROUP, IPV6_ADDRESS_GROUP] {
            // Without IPv6 in the kernel there is no such group's news, and no refusal.
            set_option(&socket.0, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)?;
        }
        Ok(socket)
    }

    /// From now on a subscriber of links is told of those with these numbers only: of others the kernel does not wake it. Of
    /// more links than fit into a program it is told of all.
    pub fn tell_only_of(&self, links: &[u32]) -> io::Result<()> {
        set_filter(&self.0, &filter::links(links))
    }

    /// Hands what one receive brings to `take`. Waits for it, but not for ever: `WouldBlock` is no failure. `ENOBUFS` says
    /// that something was lost.
    pub fn hear(&self, mut take: impl FnMut(&Message<'_>)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let length = self.receive(&mut buffer, RecvFlags::empty())?;
        message::messages(&buffer[..length]).for_each(|message| take(&message));
        Ok(())
    }

    /// Sends a batch and waits until the kernel has answered all of it. The first refusal is returned; a transaction
    /// (nfnetlink) is undone by the kernel then, single requests (rtnetlink) before and after it are done.
    pub fn transact(&self, batch: &Batch) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.send(batch.bytes())?;
        let mut buffer = vec![0; BUFFER];
        let mut answered = 0;
        let mut first = None;
        loop {
            // The kernel has worked the batch off by now: what it has to say is in the queue.
            let length = match self.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                other => other?,
            };
            for message in message::messages(&buffer[..length]) {
                if i32::from(message.kind) != libc::NLMSG_ERROR {
                    continue;
                }
                match refusal(&message) {
                    None => answered += 1,
                    Some(error) => _ = first.get_or_insert(error),
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None if answered == batch.acks() => Ok(()),
            None => Err(NetlinkError::Socket(io::Error::new(io::ErrorKind::InvalidData, "an answer is missing"))),
        }
    }

    /// Sends one request and hands every message of the answer to `take`, until the kernel says it was the last.
    pub fn query(&self, batch: &Batch, mut take: impl FnMut(&Message<'_>)) -> Result<(), NetlinkError> {
        self.send(batch.bytes())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = self.receive(&mut buffer, RecvFlags::empty())?;
            for message in message::messages(&buffer[..length]) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => return refusal(&message).map_or(Ok(()), Err),
                    _ => take(&message),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        let send = || rustix::io::retry_on_intr(|| rustix::net::sendto(&self.0, bytes, SendFlags::empty(), &kernel));
        let sent = match send() {
            // A transaction is one message to the socket, whatever the socket's room was meant for.
            Err(Errno::MSGSIZE) => {
                sockopt::set_socket_send_buffer_size_force(&self.0, bytes.len())?;
                send()?
            }
            outcome => outcome?,
        };
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        let flags = flags | RecvFlags::TRUNC;
        let (_, length) = rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut *buffer, flags))?;
        if length > buffer.len() { Err(Errno::MSGSIZE.into()) } else { Ok(length) }
    }
}

/// What an error message says; `None` for a plain "done".
fn refusal(message: &Message<'_>) -> Option<NetlinkError> {
    let number = message.body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if number == 0 {
        return None;
    }
    // The header of what was refused follows, then the attributes.
    let attributes = message.body.get(4 + message::HEADER..).unwrap_or_default();
    let text = message::attribute(attributes, ERROR_TEXT).and_then(message::read_text).unwrap_or_default();
    let source = io::Error::from_raw_os_error(-number);
    Some(NetlinkError::Refused { message: message.sequence, source, text: text.to_owned() })
}

#[allow(unsafe_code, reason = "this socket option has no safe wrapper")]
fn set_filter(socket: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program is as long as it says, and the kernel copies it and does not write to it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_message_and_why() {
        let socket = Socket::open(Family::Route).expect("socket");
        let mut batch = Batch::new();
        // No such link: both are refused, the first is told.
        for _ in 0..2 {
            let mut header = [0u8; 16];
            header[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
            batch.message(libc::RTM_GETLINK, message::ACK).raw(&header);
        }
        let error = socket.transact(&batch).expect_err("no such link");
        assert!(error.is(libc::ENODEV), "{error}");
        assert!(matches!(error, NetlinkError::Refused { message: 1, .. }), "{error:?}");
    }

    #[test]
    fn privileged_a_batch_of_any_size_is_sent() {
        let socket = Socket::open(Family::Route).expect("socket");
        let mut batch = Batch::new();
        for _ in 0..50_000 {
            // No question, and so no answer.
            batch.message(libc::NLMSG_NOOP as u16, 0).raw(&[0; 16]);
        }
        batch.message(libc::RTM_GETLINK, message::ACK).raw(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(batch.bytes().len() > 1 << 20);
        socket.transact(&batch).expect("needs root");
    }

    #[test]
    fn a_dump_is_read_to_its_end() {
        let socket = Socket::open(Family::Route).expect("socket");
        let mut batch = Batch::new();
        batch.message(libc::RTM_GETLINK, message::DUMP).raw(&[0; 16]);
        let mut names = Vec::new();
        let name = |m: &Message<'_>| {
            message::attribute(&m.body[16..], libc::IFLA_IFNAME).and_then(message::read_text).map(str::to_owned)
        };
        socket.query(&batch, |m| names.extend(name(m))).expect("listed");
        assert!(names.contains(&"lo".to_owned()), "{names:?}");
    }
}
