//! Sockets that hold a port of the host, so that no other program takes it: bound, and for stream protocols listening,
//! because two bound sockets with `SO_REUSEADDR` may share a port until one of them listens.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, sockopt};

use crate::socket::set_option;

/// Connections the kernel may keep waiting.
const BACKLOG: i32 = 128;

/// The transport whose port is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Holds `address` for as long as the descriptor lives. Non-blocking, close-on-exec, for IPv6 without IPv4.
pub fn hold(transport: Transport, address: SocketAddr) -> io::Result<OwnedFd> {
    hold_with(transport, address, true)
}

/// Holds a port on all addresses of both families with one descriptor. Who is refused does not know which family it was.
pub fn hold_everywhere(transport: Transport, port: u16) -> io::Result<OwnedFd> {
    hold_with(transport, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), false)
}

fn hold_with(transport: Transport, address: SocketAddr, only_ipv6: bool) -> io::Result<OwnedFd> {
    let (kind, protocol): (SocketType, Option<Protocol>) = match transport {
        Transport::Tcp => (SocketType::STREAM, None),
        Transport::Udp => (SocketType::DGRAM, None),
        Transport::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_ipv6)?;
    }
    if transport == Transport::Udp {
        nobody_reads(&socket)?;
        rustix::net::bind(&socket, &address)?;
    } else {
        // Connections of an earlier owner that linger must not keep the port from us.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// What is sent to a socket of UDP before the packet filter knows the port shall not wait in memory for nobody.
pub fn nobody_reads(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_recv_buffer_size(socket, 0)?)
}

/// Lets a socket have an address that is not the host's, so that its peer sees somebody else. What comes back must be led to
/// it by routing. Needs `CAP_NET_ADMIN`.
pub fn borrow_addresses(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, option) =
        if ipv6 { (libc::SOL_IPV6, libc::IPV6_TRANSPARENT) } else { (libc::SOL_IP, libc::IP_TRANSPARENT) };
    set_option(socket, level, option, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_descriptor_holds_both_families() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let held = hold_everywhere(transport, 0).expect("held");
            let address: SocketAddr =
                rustix::net::getsockname(&held).expect("name").try_into().expect("an internet address");
            for taken in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
                let error = hold(transport, SocketAddr::new(taken.parse().expect("address"), address.port()));
                assert_eq!(error.expect_err("taken").kind(), io::ErrorKind::AddrInUse, "{taken}");
            }
        }
    }

    #[test]
    fn a_held_port_is_refused_to_others() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let held = hold(transport, "127.0.0.1:0".parse().expect("address")).expect("held");
            let address: SocketAddr =
                rustix::net::getsockname(&held).expect("name").try_into().expect("an internet address");
            let error = hold(transport, address).expect_err("taken");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            drop(held);
            hold(transport, address).expect("free again");
        }
    }
}
