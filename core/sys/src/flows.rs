//! Datagrams on their way through a relay, of both families: received many at a time with where they came from and which of
//! the host's addresses they were sent to (`IP_PKTINFO`, `IPV6_PKTINFO`), and sent on from the very buffers they arrived in.
//! Buffers are made once and used again.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::socket::set_option;

/// No datagram is longer.
const LONGEST: usize = u16::MAX as usize;
/// Room for what the kernel says beside a datagram, which is one `in6_pktinfo` at most (`CMSG_SPACE` of 20 is 40).
const CONTROL: usize = 64;
/// What may wait to be read, in bytes; the kernel takes no more than the host's administrator allows.
const WAITING: usize = 256 * 1024;

/// Who writes to a port of the host: replies go there, and come from the address that was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Who.
    pub peer: SocketAddr,
    /// The host's address.
    pub local: IpAddr,
}

/// Has the kernel tell of each datagram which address it was sent to, and keep those that wait to be read.
pub fn open(socket: &OwnedFd) -> io::Result<()> {
    let name: SocketAddr = rustix::net::getsockname(socket)?.try_into()?;
    match name {
        SocketAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?,
        SocketAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?,
    }
    Ok(sockopt::set_socket_recv_buffer_size(socket, WAITING)?)
}

/// A socket for the datagrams of one flow, connected to where they lead. Non-blocking, close-on-exec.
pub fn connect(to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket)
}

/// Control messages lie at addresses like those of their headers.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// A few datagrams.
pub struct Tray {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    /// Those of IPv4 are shorter and lie at the beginning.
    addresses: Vec<libc::sockaddr_in6>,
    controls: Vec<Control>,
    lengths: Vec<usize>,
    data: Vec<u8>,
}

impl fmt::Debug for Tray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tray").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

// SAFETY: the pointers in the headers are set before every call and not used between calls.
#[allow(unsafe_code, reason = "kernel structures hold pointers")]
unsafe impl Send for Tray {}

impl Tray {
    /// Room for `count` datagrams of any length; what is not used takes no memory.
    #[allow(unsafe_code, reason = "these are plain structures of the kernel's")]
    pub fn new(count: usize) -> Self {
        // SAFETY: all-zero is a valid value of each: numbers and null pointers.
        let (header, vector, address) = unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        Self {
            headers: vec![header; count],
            vectors: vec![vector; count],
            addresses: vec![address; count],
            controls: vec![Control([0; CONTROL]); count],
            lengths: vec![0; count],
            data: vec![0; count * LONGEST],
        }
    }

    /// How many it takes at once. Who got fewer has emptied the socket.
    pub fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// Takes what has arrived, without waiting; returns how many that were. Errors: `WouldBlock` when there is nothing,
    /// and what ICMP said of earlier datagrams.
    #[allow(unsafe_code, reason = "recvmmsg has no safe wrapper")]
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        for at in 0..self.capacity() {
            self.point(at, LONGEST);
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = (&raw mut self.addresses[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_control = (&raw mut self.controls[at]).cast();
            header.msg_controllen = CONTROL as _;
        }
        let (count, headers) = (self.capacity() as libc::c_uint, self.headers.as_mut_ptr());
        // SAFETY: every header was just pointed at an address, a control buffer and `LONGEST` bytes of the data, all of
        // which live as long as this borrow; their number is given.
        let got = unsafe {
            libc::recvmmsg(socket.as_fd().as_raw_fd(), headers, count, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (length, header) in self.lengths.iter_mut().zip(&self.headers[..got]) {
            *length = (header.msg_len as usize).min(LONGEST);
        }
        Ok(got)
    }

    /// Makes a header speak of a datagram's bytes and of nothing else.
    fn point(&mut self, at: usize, length: usize) {
        self.vectors[at] = libc::iovec { iov_base: self.data[at * LONGEST..].as_mut_ptr().cast(), iov_len: length };
        let header = &mut self.headers[at].msg_hdr;
        header.msg_iov = &raw mut self.vectors[at];
        header.msg_iovlen = 1;
        header.msg_name = std::ptr::null_mut();
        header.msg_namelen = 0;
        header.msg_control = std::ptr::null_mut();
        header.msg_controllen = 0;
        header.msg_flags = 0;
    }

    /// Whose datagram `at` of the last [`Tray::receive`] is; `None` where the kernel did not say.
    pub fn flow(&self, at: usize) -> Option<Flow> {
        Some(Flow { peer: read_address(&self.addresses[at])?, local: self.local(at)? })
    }

    #[allow(unsafe_code, reason = "control messages are walked through by pointers")]
    fn local(&self, at: usize) -> Option<IpAddr> {
        let header = &self.headers[at].msg_hdr;
        // SAFETY: the kernel filled the control buffer and its length, and the buffer is aligned as its headers are; the
        // macros go no further than the length says, and each message read is of the type whose size the kernel uses.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(header);
            while !message.is_null() {
                let data = libc::CMSG_DATA(message);
                match ((*message).cmsg_level, (*message).cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        // Not the datagram's destination, which is nobody's own for a broadcast.
                        return Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                        return Some(if address.is_multicast() { Ipv6Addr::UNSPECIFIED } else { address }.into());
                    }
                    _ => message = libc::CMSG_NXTHDR(header, message),
                }
            }
        }
        None
    }

    /// Sends datagrams of the last [`Tray::receive`] on, as they are, by a connected socket.
    pub fn forward(&mut self, socket: impl AsFd, range: Range<usize>) {
        for at in range.clone() {
            self.point(at, self.lengths[at]);
        }
        self.send(socket.as_fd(), range);
    }

    /// Sends datagrams of the last [`Tray::receive`] to a flow's peer, from its local address.
    pub fn reply(&mut self, socket: impl AsFd, range: Range<usize>, flow: &Flow) {
        let mut address = self.addresses[range.start];
        let address_length = write_address(&mut address, flow.peer);
        for at in range.clone() {
            self.addresses[at] = address;
            self.point(at, self.lengths[at]);
            let length = write_source(&mut self.controls[at], flow.local);
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = (&raw mut self.addresses[at]).cast();
            header.msg_namelen = address_length;
            header.msg_control = (&raw mut self.controls[at]).cast();
            header.msg_controllen = length as _;
        }
        self.send(socket.as_fd(), range);
    }

    /// What the kernel has no room for, or refuses, is dropped, as the network may drop any datagram.
    #[allow(unsafe_code, reason = "sendmmsg has no safe wrapper")]
    fn send(&mut self, socket: BorrowedFd<'_>, range: Range<usize>) {
        let mut done = range.start;
        // That an earlier datagram was refused is told instead of sending the next one.
        let mut was_told = false;
        while done < range.end {
            let headers = &mut self.headers[done..range.end];
            let (count, headers) = (headers.len() as libc::c_uint, headers.as_mut_ptr());
            // SAFETY: every header of the range was just pointed at the bytes of a datagram and, where it has them, at an
            // address and a control message, all of which live as long as this borrow and are not changed; their number
            // is given.
            let sent =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
            match usize::try_from(sent) {
                Ok(sent) => done += sent.max(1),
                Err(_) if !was_told && io::Error::last_os_error().kind() == io::ErrorKind::ConnectionRefused => {
                    was_told = true;
                }
                // The first of those that were left is what failed.
                Err(_) => done += 1,
            }
        }
    }
}

#[allow(unsafe_code, reason = "addresses of two families share their place")]
fn read_address(address: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match libc::c_int::from(address.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote an address of this type here; it is shorter and of no stricter alignment.
            let address = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(address.sin6_port), 0, address.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Returns its length.
#[allow(unsafe_code, reason = "addresses of two families share their place")]
fn write_address(place: &mut libc::sockaddr_in6, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: this type is shorter than the place and of no stricter alignment, and all-zero is a value of it.
            let place = unsafe { &mut *(&raw mut *place).cast::<libc::sockaddr_in>() };
            place.sin_family = libc::AF_INET as libc::sa_family_t;
            place.sin_port = address.port().to_be();
            place.sin_addr.s_addr = u32::from(*address.ip()).to_be();
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            place.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            place.sin6_port = address.port().to_be();
            place.sin6_flowinfo = 0;
            place.sin6_addr.s6_addr = address.ip().octets();
            place.sin6_scope_id = address.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// A control message that names the source; returns its length.
#[allow(unsafe_code, reason = "control messages are made by pointers")]
fn write_source(control: &mut Control, local: IpAddr) -> usize {
    let (level, kind, size) = match local {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>()),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>()),
    };
    let message = (&raw mut control.0).cast::<libc::cmsghdr>();
    // SAFETY: the buffer is aligned as the header is and longer than the header and either datum together; the datum is
    // written unaligned.
    unsafe {
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = libc::CMSG_LEN(size as libc::c_uint) as _;
        let data = libc::CMSG_DATA(message);
        match local {
            IpAddr::V4(address) => {
                let mut info: libc::in_pktinfo = std::mem::zeroed();
                info.ipi_spec_dst.s_addr = u32::from(address).to_be();
                data.cast::<libc::in_pktinfo>().write_unaligned(info);
            }
            IpAddr::V6(address) => {
                let mut info: libc::in6_pktinfo = std::mem::zeroed();
                info.ipi6_addr.s6_addr = address.octets();
                data.cast::<libc::in6_pktinfo>().write_unaligned(info);
            }
        }
        libc::CMSG_SPACE(size as libc::c_uint) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// A socket on all addresses of a family, its port, and another one that writes to `local` of them.
    fn pair(all: &str, local: &str) -> (UdpSocket, UdpSocket) {
        let socket = UdpSocket::bind((all, 0)).expect("bound");
        let socket = OwnedFd::from(socket);
        open(&socket).expect("open");
        let socket = UdpSocket::from(socket);
        let client = UdpSocket::bind((local, 0)).expect("bound");
        client.connect((local, socket.local_addr().expect("an address").port())).expect("connected");
        (socket, client)
    }

    #[test]
    fn replies_come_from_where_was_written_to() {
        // Any of 127.0.0.0/8 is the host's; a socket on all addresses would answer from the first one.
        for (all, local) in [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.1.2.3"), ("::", "::1")] {
            let (socket, client) = pair(all, local);
            let mut tray = Tray::new(4);
            assert_eq!(tray.receive(&socket).expect_err("nothing yet").kind(), io::ErrorKind::WouldBlock);
            client.send(b"one").expect("sent");
            client.send(b"").expect("sent");
            // Loopback delivers at once.
            assert_eq!(tray.receive(&socket).expect("received"), 2);
            let flow = Flow { peer: client.local_addr().expect("an address"), local: local.parse().expect("address") };
            assert_eq!((tray.flow(0), tray.flow(1)), (Some(flow), Some(flow)));
            tray.reply(&socket, 0..2, &flow);
            // It takes only what comes from there.
            let mut buffer = [0; 8];
            client.set_nonblocking(true).expect("set");
            assert_eq!(client.recv(&mut buffer).expect("a reply"), 3);
            assert_eq!(&buffer[..3], b"one");
            assert_eq!(client.recv(&mut buffer).expect("a reply"), 0);
        }
    }

    #[test]
    fn datagrams_of_all_lengths_go_on() {
        let (socket, client) = pair("::", "::1");
        let (server, _other) = pair("127.0.0.1", "127.0.0.1");
        let to = connect(server.local_addr().expect("an address")).expect("connected");
        let mut tray = Tray::new(2);
        for length in [0, 1, 65_507] {
            client.send(&vec![9; length]).expect("sent");
            assert_eq!(tray.receive(&socket).expect("received"), 1);
            tray.forward(&to, 0..1);
            let mut buffer = vec![0; LONGEST];
            server.set_nonblocking(true).expect("set");
            assert_eq!(server.recv(&mut buffer).expect("sent on"), length);
            assert!(buffer[..length].iter().all(|byte| *byte == 9));
        }
    }

    #[test]
    fn a_refusal_costs_no_datagram() {
        let (socket, client) = pair("127.0.0.1", "127.0.0.1");
        let server = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let at = server.local_addr().expect("an address");
        let to = connect(at).expect("connected");
        drop(server);
        let mut tray = Tray::new(2);
        let mut pass = |text: &[u8]| {
            client.send(text).expect("sent");
            assert_eq!(tray.receive(&socket).expect("received"), 1);
            tray.forward(&to, 0..1);
        };
        pass(b"nobody");
        let server = UdpSocket::bind(at).expect("bound again");
        pass(b"somebody");
        server.set_nonblocking(true).expect("set");
        let mut buffer = [0; 16];
        assert_eq!(server.recv(&mut buffer).expect("came"), 8);
    }
}
