//! One port of a container as it is published: a number, the sockets that hold it on the host's addresses, and who serves
//! each of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
    /// Whether it serves `[::1]` too.
    pub(super) loopback: bool,
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
    /// All of IPv6: it may be all of IPv4 as well, which then the packet filter serves.
    address: IpAddr,
    by: Held,
}

/// Who has it.
#[derive(Debug)]
enum Held {
    /// Nobody, where no program of the host can have the port either.
    Nobody,
    /// A socket nobody reads from.
    Socket(OwnedFd),
    /// Who serves it.
    Proxy(Proxy),
}

impl Publication {
    /// Holds a port on `addresses`, those of `bindings`. Nobody serves it yet; `server` will.
    pub(super) fn hold(
        server: Server<'_>,
        port: Port,
        wish: HostPort,
        bindings: Vec<Binding>,
        addresses: &[IpAddr],
        host_port: u16,
    ) -> Result<Self, NetworkError> {
        let mut out =
            Self { port, wish, host_port, bindings, forwards: Vec::new(), holds: Vec::with_capacity(addresses.len()) };
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        // A proxy serves what is held with it, so not where IPv4 has one of its own.
        let filtered = server.filtered[0] && !server.policy.is_honoured();
        let mut together = filtered && everywhere.iter().all(|address| addresses.contains(address));
        if together {
            // One descriptor instead of two. Where that is refused it is found out which of them is taken.
            match port::hold_everywhere(transport(port.protocol), host_port) {
                Ok(socket) => out.holds.push(Hold { address: everywhere[1], by: Held::Socket(socket) }),
                Err(_) => together = false,
            }
        }
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
            if together && address.is_unspecified() {
                continue;
            }
            let by = match port::hold(transport(port.protocol), SocketAddr::new(*address, host_port)) {
                // Then no program of the host can have the port either.
                Err(error)
                    if port.protocol == Protocol::Sctp && error.raw_os_error() == Some(libc::EPROTONOSUPPORT) =>
                {
                    Held::Nobody
                }
                held => Held::Socket(held.map_err(|error| out.failed(*address, error))?),
            };
            out.holds.push(Hold { address: *address, by });
        }
        Ok(out)
    }

    /// Has each address served as `bindings` say now.
    pub(super) fn serve(&mut self, server: Server<'_>) -> Result<(), NetworkError> {
        // Connections of the host's own to `[::1]`.
        let loopback = |binding: &Binding| binding.loopback.filter(|_| server.loopback);
        let by_filter = |binding: &&Binding| {
            let ipv6 = binding.to.is_ipv6();
            let same_family = binding.host_ip.is_ipv6() == ipv6;
            let reached = binding.host_ip != IpAddr::V6(Ipv6Addr::LOCALHOST) || loopback(binding).is_some();
            server.filtered[usize::from(ipv6)] && same_family && reached
        };
        let (protocol, number) = (self.port.protocol, self.host_port);
        let forward = |binding: &Binding| {
            let address = Some(binding.host_ip).filter(|ip| !ip.is_unspecified());
            let entry = if binding.direct { Entry::Direct } else { Entry::Host { address, port: number } };
            PortForward { protocol, entry, to: binding.to, loopback: loopback(binding) }
        };
        self.forwards = self.bindings.iter().filter(by_filter).map(forward).collect();
        for at in 0..self.holds.len() {
            let address = self.holds[at].address;
            let binding = self.bindings.iter().find(|binding| !binding.direct && binding.host_ip == address);
            // Those with link-local addresses come here in any case, and to `[::1]` where the packet filter does not; and all
            // from elsewhere if the host has a say.
            let in_part = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || server.policy.is_honoured();
            let proxied = binding.filter(|binding| in_part || !by_filter(binding)).map(|binding| binding.to);
            let proxied = proxied.filter(|_| protocol != Protocol::Sctp).zip(server.proxies);
            if let Err(error) = self.holds[at].serve(protocol, proxied, server.policy.keeps_senders()) {
                return Err(self.failed(address, error));
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

    fn failed(&self, address: IpAddr, source: io::Error) -> NetworkError {
        let to = self.bindings.iter().find(|binding| !binding.direct && binding.host_ip == address);
        NetworkError::HostPort {
            host: SocketAddr::new(address, self.host_port),
            address: to.map_or(address, |binding| binding.to.ip()),
            port: self.port,
            source,
        }
    }
}

impl Hold {
    /// Has a proxy serve it that leads there, or nobody.
    fn serve(
        &mut self,
        protocol: Protocol,
        proxied: Option<(SocketAddr, &Handle)>,
        keep_senders: bool,
    ) -> io::Result<()> {
        self.by = match (std::mem::replace(&mut self.by, Held::Nobody), proxied) {
            (Held::Proxy(proxy), Some((to, _))) => {
                proxy.redirect(to);
                Held::Proxy(proxy)
            }
            (Held::Proxy(proxy), None) => {
                let socket = proxy.into_socket()?;
                if protocol == Protocol::Udp {
                    port::nobody_reads(&socket)?;
                }
                Held::Socket(socket)
            }
            (Held::Socket(socket), Some((to, runtime))) => {
                let copy = socket.try_clone();
                match copy.and_then(|copy| Proxy::start(runtime, protocol, copy, to, keep_senders)) {
                    Ok(proxy) => Held::Proxy(proxy),
                    Err(error) => {
                        self.by = Held::Socket(socket);
                        return Err(error);
                    }
                }
            }
            (held, _) => held,
        };
        Ok(())
    }
}

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}
