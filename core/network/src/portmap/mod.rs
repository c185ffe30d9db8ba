//! Publishing: host ports are allotted, held by sockets so that no other program takes them, and handed to the packet
//! filter in one transaction per container.

pub mod allocator;
pub mod proxy;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_sys::port::{self, Transport};
use dockerd_types::network::{HostPort, Port, PortBinding, PortBindings, Protocol, PublishedPort};
use tokio::runtime::Handle;

use crate::error::NetworkError;
use crate::firewall::{Entry, Firewall, GatewayMode, PortForward};
use allocator::{PortAllocator, Refusal};
use proxy::Proxy;

/// Where unnamed ports come from when the kernel does not say.
const DEFAULT_RANGE: (u16, u16) = (49153, 65535);
/// Ports of a range that are tried when other programs have them.
const ATTEMPTS: usize = 64;

/// Publishes ports.
#[derive(Debug)]
pub struct PortPublisher {
    ports: Mutex<PortAllocator>,
    firewall: Arc<dyn Firewall>,
    /// Serves what the packet filter does not; `None` for `--userland-proxy=false`.
    proxies: Option<Handle>,
    /// Whether ports that name no address are shown on `::` too.
    ipv6: bool,
}

/// Settings of a [`PortPublisher`].
#[derive(Debug)]
pub struct PublisherOptions {
    /// The packet filter.
    pub firewall: Arc<dyn Firewall>,
    /// Where proxies run; `None`: there are none.
    pub proxies: Option<Handle>,
    /// Whether the host has IPv6.
    pub ipv6: bool,
}

/// Where a container's published ports lead, and how its network publishes. The two families may be two networks'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortTarget {
    /// Its address of IPv4 and its network's mode.
    pub ipv4: Option<(Ipv4Addr, GatewayMode)>,
    /// The same of IPv6.
    pub ipv6: Option<(Ipv6Addr, GatewayMode)>,
    /// The host's address for ports that name none; unspecified: all, of both families.
    pub default_address: IpAddr,
}

/// One port a container has on the host.
#[derive(Debug)]
struct Publication {
    port: Port,
    addresses: Vec<IpAddr>,
    host_port: u16,
    forwards: Vec<PortForward>,
    /// Keep other programs from the port.
    _held: Vec<OwnedFd>,
    _proxies: Vec<Proxy>,
}

/// All ports of one container. To be given back with [`PortPublisher::withdraw`].
#[derive(Debug, Default)]
pub struct Publications(Vec<Publication>);

impl Publications {
    /// As inspect shows them.
    pub fn list(&self) -> Vec<PublishedPort> {
        let of = |p: &Publication| {
            let (container_port, host_port) = (p.port, p.host_port);
            p.addresses
                .iter()
                .map(move |host_ip| PublishedPort { container_port, host_ip: *host_ip, host_port })
                .collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of).collect()
    }

    /// As the packet filter has them.
    pub fn forwards(&self) -> Vec<PortForward> {
        self.0.iter().flat_map(|p| p.forwards.iter().copied()).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PortPublisher {
    /// Blocking: reads the host's ephemeral range.
    pub fn new(options: PublisherOptions) -> Self {
        let PublisherOptions { firewall, proxies, ipv6 } = options;
        let ports = Mutex::new(PortAllocator::new(ephemeral_range()));
        Self { ports, firewall, proxies, ipv6 }
    }

    /// Publishes all of `wanted` at `target`, or nothing. Blocking.
    pub fn publish(&self, target: &PortTarget, wanted: &PortBindings) -> Result<Publications, NetworkError> {
        let mut done = Publications::default();
        let (Some((container, _)), IpAddr::V4(default_address)) = (target.ipv4, target.default_address) else {
            return Ok(done);
        };
        let outcome = self.reserve_all(container, default_address, wanted, &mut done);
        let outcome = outcome.and_then(|()| self.firewall.publish(&done.forwards()));
        match outcome {
            Ok(()) => Ok(done),
            Err(error) => {
                self.release(done);
                Err(error)
            }
        }
    }

    fn reserve_all(
        &self,
        container: Ipv4Addr,
        default_address: Ipv4Addr,
        wanted: &PortBindings,
        done: &mut Publications,
    ) -> Result<(), NetworkError> {
        // Named ports first: an unnamed one must not take what another binding names.
        let all = || wanted.iter().flat_map(|(port, list)| list.iter().map(move |binding| (*port, binding)));
        let named = |binding: &PortBinding| binding.host_port != HostPort::Ephemeral;
        for (port, binding) in all().filter(|(_, b)| named(b)).chain(all().filter(|(_, b)| !named(b))) {
            let addresses = self.addresses(binding, default_address);
            if !addresses.is_empty() {
                done.0.push(self.reserve(container, port, addresses, binding.host_port)?);
            }
        }
        // Shown in the order of the container's ports; within one in the order they were asked for.
        done.0.sort_by_key(|publication| publication.port);
        Ok(())
    }

    fn addresses(&self, binding: &PortBinding, default_address: Ipv4Addr) -> Vec<IpAddr> {
        match binding.host_ip {
            None if default_address.is_unspecified() && self.ipv6 => {
                vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
            }
            None => vec![default_address.into()],
            // Nobody could serve it.
            Some(IpAddr::V6(_)) if self.proxies.is_none() => Vec::new(),
            Some(address) => vec![address],
        }
    }

    fn reserve(
        &self,
        container: Ipv4Addr,
        port: Port,
        addresses: Vec<IpAddr>,
        wish: HostPort,
    ) -> Result<Publication, NetworkError> {
        let mut tried = BTreeSet::new();
        let mut last_error = None;
        loop {
            let taken = self.lock().take(&addresses, port.protocol, wish, &tried);
            let host_port = match (taken, last_error.take()) {
                (Ok(host_port), _) => host_port,
                // What another program has is told before that there is nothing else.
                (Err(_), Some(error)) => return Err(error),
                (Err(Refusal::Taken(address)), None) => return Err(NetworkError::PortAllocated(address)),
                (Err(Refusal::Exhausted), None) => return Err(NetworkError::PortsExhausted),
            };
            match self.open(container, port, &addresses, host_port) {
                Ok(publication) => return Ok(publication),
                Err(error) => {
                    self.lock().release(&addresses, port.protocol, host_port);
                    tried.insert(host_port);
                    let single = matches!(wish, HostPort::Range(first, last) if first == last);
                    let retry = matches!(&error, NetworkError::HostPort { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
                    if single || !retry || tried.len() >= ATTEMPTS {
                        return Err(error);
                    }
                    last_error = Some(error);
                }
            }
        }
    }

    /// Holds an allotted port on all its addresses.
    fn open(
        &self,
        container: Ipv4Addr,
        port: Port,
        addresses: &[IpAddr],
        host_port: u16,
    ) -> Result<Publication, NetworkError> {
        let to = SocketAddrV4::new(container, port.number);
        let mut out = Publication {
            port,
            addresses: addresses.to_vec(),
            host_port,
            forwards: Vec::new(),
            _held: Vec::new(),
            _proxies: Vec::new(),
        };
        for address in addresses {
            let host = SocketAddr::new(*address, host_port);
            let failed = |source| NetworkError::HostPort { host, address: container.into(), port, source };
            let held = match port::hold(transport(port.protocol), host) {
                // Then no program of the host can have the port either.
                Err(error)
                    if port.protocol == Protocol::Sctp && error.raw_os_error() == Some(libc::EPROTONOSUPPORT) =>
                {
                    None
                }
                other => Some(other.map_err(failed)?),
            };
            let filtered = match address {
                IpAddr::V4(ip) if self.firewall.forwards() => {
                    let address = Some(*ip).filter(|ip| !ip.is_unspecified()).map(IpAddr::V4);
                    let entry = Entry::Host { address, port: host_port };
                    out.forwards.push(PortForward { protocol: port.protocol, entry, to: to.into() });
                    true
                }
                _ => false,
            };
            match (held, &self.proxies) {
                (Some(held), Some(runtime)) if !filtered && port.protocol == Protocol::Tcp => {
                    out._proxies.push(Proxy::start(runtime, held, SocketAddr::V4(to)).map_err(failed)?);
                }
                (held, _) => out._held.extend(held),
            }
        }
        Ok(out)
    }

    /// Has the same ports lead to another address of the container's, in one transaction. On failure all is as it was.
    /// Blocking.
    pub fn redirect(&self, publications: &mut Publications, target: &PortTarget) -> Result<(), NetworkError> {
        let Some((container, _)) = target.ipv4 else { return Ok(()) };
        let old = publications.forwards();
        let moved = |forward: &PortForward| PortForward {
            to: SocketAddr::new(container.into(), forward.to.port()),
            ..*forward
        };
        self.firewall.redirect(&old, &old.iter().map(moved).collect::<Vec<_>>())?;
        for publication in &mut publications.0 {
            for forward in &mut publication.forwards {
                *forward = moved(forward);
            }
            for proxy in &publication._proxies {
                proxy.redirect(SocketAddrV4::new(container, publication.port.number).into());
            }
        }
        Ok(())
    }

    /// Holds again what a container had before the daemon's restart. What another program took meanwhile is lost to it
    /// and reported; the packet filter is not asked, it gets all forwards at once afterwards. Blocking.
    pub fn restore(&self, target: &PortTarget, published: &[PublishedPort]) -> Publications {
        let mut done = Publications::default();
        let Some((container, _)) = target.ipv4 else { return done };
        let mut rest: Vec<&PublishedPort> = published.iter().collect();
        while let Some(first) = rest.first().copied() {
            let same = |p: &PublishedPort| (p.container_port, p.host_port) == (first.container_port, first.host_port);
            let addresses: Vec<IpAddr> = rest.iter().filter(|p| same(p)).map(|p| p.host_ip).collect();
            rest.retain(|p| !same(p));
            let wish = HostPort::Range(first.host_port, first.host_port);
            match self.reserve(container, first.container_port, addresses, wish) {
                Ok(publication) => done.0.push(publication),
                Err(error) => {
                    tracing::warn!(port = first.host_port, %error, "a published port could not be held again");
                }
            }
        }
        done
    }

    /// Gives ports back. Blocking.
    pub fn withdraw(&self, publications: Publications) {
        if let Err(error) = self.firewall.withdraw(&publications.forwards()) {
            tracing::warn!(%error, "published ports could not be withdrawn");
        }
        self.release(publications);
    }

    fn release(&self, publications: Publications) {
        for Publication { port, addresses, host_port, forwards: _, _held, _proxies } in publications.0 {
            // The socket first: who is given the port next will bind it.
            drop((_held, _proxies));
            self.lock().release(&addresses, port.protocol, host_port);
        }
    }

    fn lock(&self) -> MutexGuard<'_, PortAllocator> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}

fn ephemeral_range() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first <= last => (first, last),
        _ => DEFAULT_RANGE,
    }
}
