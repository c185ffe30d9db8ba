//! One port of a container as it is published: a number, the sockets that hold it on the host's addresses, and who serves
//! each of them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use dockerd_sys::port::{self, Transport};
use dockerd_types::network::{HostPort, Port, Protocol};
use tokio::runtime::Handle;

use super::allocator::exclude;
use super::plan::Binding;
use super::proxy::Proxy;
use crate::error::NetworkError;
use crate::firewall::{Entry, HostPolicy, PortForward};

/// Who may serve ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server<'a> {
    /// The packet filter does in IPv4, and in IPv6, where host and container speak the same of them.
    pub(super) filtered: [bool; 2],
    /// What comes from elsewhere is not for the packet filter in any case.
    pub(super) policy: HostPolicy,
    /// Where proxies run, which do the rest.
    pub(super) proxies: Option<&'a Handle>,
}

/// One port, published.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) port: Port,
    pub(super) wish: HostPort,
    /// 0 if no port of the host is used.
    pub(super) host_port: u16,
    pub(super) bindings: Vec<Binding>,
    pub(super) forwards: Vec<PortForward>,
    pub(super) holds: Vec<Hold>,
}

/// An address of the host, held.
#[derive(Debug)]
pub(super) struct Hold {
    address: IpAddr,
    /// Before the socket: it is to be closed when this is dropped.
    proxy: Option<Proxy>,
    /// `None` where no program of the host can have the port either.
    socket: Option<OwnedFd>,
}

impl Publication {
    /// Holds a port on `addresses`, those of `bindings`. Nobody serves it yet.
    pub(super) fn hold(
        port: Port,
        wish: HostPort,
        bindings: Vec<Binding>,
        addresses: &[IpAddr],
        host_port: u16,
    ) -> Result<Self, NetworkError> {
        let mut out =
            Self { port, wish, host_port, bindings, forwards: Vec::new(), holds: Vec::with_capacity(addresses.len()) };
        for (at, address) in addresses.iter().enumerate() {
            if addresses.iter().enumerate().any(|(other, held)| other != at && exclude(held, address)) {
                // Of datagrams, those to one address come to the socket of all of them as well.
                if port.protocol == Protocol::Tcp {
                    return Err(NetworkError::PortTwice);
                }
                if !address.is_unspecified() {
                    continue;
                }
            }
            let socket = match port::hold(transport(port.protocol), SocketAddr::new(*address, host_port)) {
                // Then no program of the host can have the port either.
                Err(error)
                    if port.protocol == Protocol::Sctp && error.raw_os_error() == Some(libc::EPROTONOSUPPORT) =>
                {
                    None
                }
                held => Some(held.map_err(|error| out.failed(*address, error))?),
            };
            out.holds.push(Hold { address: *address, proxy: None, socket });
        }
        Ok(out)
    }

    /// Has each address served as `bindings` say now. The packet filter leaves connections of the host's own to `[::1]`
    /// alone: the kernel takes no answer to them from another link.
    pub(super) fn serve(&mut self, server: Server<'_>) -> Result<(), NetworkError> {
        let by_filter = |binding: &&Binding| {
            let ipv6 = binding.to.is_ipv6();
            let same_family = binding.host_ip.is_ipv6() == ipv6;
            server.filtered[usize::from(ipv6)] && same_family && binding.host_ip != IpAddr::V6(Ipv6Addr::LOCALHOST)
        };
        let (protocol, number) = (self.port.protocol, self.host_port);
        let forward = |binding: &Binding| {
            let address = Some(binding.host_ip).filter(|ip| !ip.is_unspecified());
            let entry = if binding.direct { Entry::Direct } else { Entry::Host { address, port: number } };
            PortForward { protocol, entry, to: binding.to }
        };
        self.forwards = self.bindings.iter().filter(by_filter).map(forward).collect();
        for at in 0..self.holds.len() {
            let Hold { address, proxy, socket } = &mut self.holds[at];
            let binding = self.bindings.iter().find(|binding| !binding.direct && binding.host_ip == *address);
            let has_loopback = *address == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            let in_part = has_loopback || server.policy.is_honoured();
            let proxied = binding.filter(|binding| in_part || !by_filter(binding));
            let proxied = proxied.zip(server.proxies).zip(socket.as_ref());
            match (proxied.filter(|_| protocol == Protocol::Tcp), &proxy) {
                (None, _) => *proxy = None,
                (Some(((binding, _), _)), Some(proxy)) => proxy.redirect(binding.to),
                (Some(((binding, runtime), socket)), None) => {
                    let started = socket
                        .try_clone()
                        .and_then(|socket| Proxy::start(runtime, socket, binding.to, server.policy.keeps_senders()));
                    let address = *address;
                    let started = started.map_err(|error| self.failed(address, error))?;
                    self.holds[at].proxy = Some(started);
                }
            }
        }
        Ok(())
    }

    /// The host's addresses it is taken on.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        super::addresses(&self.bindings)
    }

    /// Whether it may be what a wish came to.
    pub(super) fn fits(&self, wish: HostPort) -> bool {
        let number = self.host_port;
        // After a restart only the number is known.
        let restored = self.wish == HostPort::Range(number, number);
        let inside = match wish {
            HostPort::Range(first, last) => (first..=last).contains(&number),
            HostPort::Ephemeral => true,
        };
        self.wish == wish || number == 0 || (restored && inside)
    }

    fn failed(&self, address: IpAddr, source: std::io::Error) -> NetworkError {
        let to = self.bindings.iter().find(|binding| !binding.direct && binding.host_ip == address);
        NetworkError::HostPort {
            host: SocketAddr::new(address, self.host_port),
            address: to.map_or(address, |binding| binding.to.ip()),
            port: self.port,
            source,
        }
    }
}

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}
