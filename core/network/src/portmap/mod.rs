//! Publishing: host ports are allotted, held by sockets so that no other program takes them, and handed to the packet
//! filter in one transaction per container. What it cannot serve is served by proxies within the daemon.

pub mod allocator;
mod conntrack;
mod live;
mod plan;
pub mod proxy;
mod publication;
mod relay;
pub(crate) mod senders;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_types::network::{HostPort, Port, PortBindings, PublishedPort};
use tokio::runtime::Handle;

use crate::error::NetworkError;
use crate::firewall::{BridgeRules, DropForeign, Firewall, HostPolicy, PortForward};
use allocator::{PortAllocator, Refusal};
use live::LivePorts;
use plan::{Abilities, Binding, Group};
pub use plan::{PortTarget, Route};
use publication::{Publication, Server};

/// Where unnamed ports come from when the kernel does not say.
const DEFAULT_RANGE: (u16, u16) = (49153, 65535);
/// Ports of a range that are tried when other programs have them.
const ATTEMPTS: usize = 64;

/// Publishes ports.
#[derive(Debug)]
pub struct PortPublisher {
    ports: Mutex<PortAllocator>,
    live: LivePorts,
    /// Serves what the packet filter does not; `None` for `--userland-proxy=false`.
    proxies: Option<Handle>,
    policy: HostPolicy,
    /// Whether ports that name no address are published in IPv6 too.
    ipv6: bool,
}

/// Settings of a [`PortPublisher`].
#[derive(Debug)]
pub struct PublisherOptions {
    /// The packet filter.
    pub firewall: Arc<dyn Firewall>,
    /// Where proxies run; `None`: there are none.
    pub proxies: Option<Handle>,
    /// Whether the host's own rules decide who reaches ports.
    pub policy: HostPolicy,
    /// Whether the host has IPv6.
    pub ipv6: bool,
}

/// All ports of one container. To be given back with [`PortPublisher::withdraw`].
#[derive(Debug, Default)]
pub struct Publications(Vec<Publication>);

impl Publications {
    /// As inspect shows them: in the order of the container's ports.
    pub fn list(&self) -> Vec<PublishedPort> {
        let of = |p: &Publication| {
            let (container_port, number) = (p.port, p.host_port);
            let shown = |b: &Binding| {
                let host_port = if b.direct { 0 } else { number };
                PublishedPort { container_port, host_ip: b.host_ip, host_port }
            };
            p.bindings.iter().map(shown).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|publication| publication.port);
        all.into_iter().flat_map(of).collect()
    }

    /// As the packet filter has them, each once.
    fn forwards(&self) -> Vec<PortForward> {
        let mut direct = BTreeSet::new();
        let mut all: Vec<PortForward> = self.0.iter().flat_map(|p| p.forwards.iter().copied()).collect();
        // Ports of the host are one container port's; its own are named as often as somebody liked.
        all.retain(|forward| !forward.is_direct() || direct.insert((forward.protocol, forward.to)));
        all
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PortPublisher {
    /// Blocking: reads the host's ephemeral range.
    pub fn new(options: PublisherOptions) -> Self {
        let PublisherOptions { firewall, proxies, policy, ipv6 } = options;
        let ports = Mutex::new(PortAllocator::new(ephemeral_range()));
        Self { ports, live: LivePorts::new(firewall), proxies, policy, ipv6 }
    }

    fn plan(&self, target: &PortTarget, wanted: &PortBindings) -> Vec<Group> {
        plan::plan(target, wanted, Abilities { ipv6: self.ipv6, proxies: self.proxies.is_some() })
    }

    /// Publishes all of `wanted` at `target`, or nothing. Blocking.
    pub fn publish(&self, target: &PortTarget, wanted: &PortBindings) -> Result<Publications, NetworkError> {
        let mut done = Publications::default();
        let outcome = self.reserve_all(self.plan(target, wanted), &mut done.0);
        match outcome.and_then(|()| self.live.publish(&done.forwards())) {
            Ok(()) => {
                forget_flows(&done.forwards());
                Ok(done)
            }
            Err(error) => {
                self.release_all(done.0);
                Err(error)
            }
        }
    }

    fn reserve_all(
        &self,
        groups: impl IntoIterator<Item = Group>,
        done: &mut Vec<Publication>,
    ) -> Result<(), NetworkError> {
        for group in groups {
            done.push(self.reserve(group)?);
        }
        Ok(())
    }

    /// Allots and holds what a group wants.
    fn reserve(&self, group: Group) -> Result<Publication, NetworkError> {
        let Group { port, wish, bindings } = group;
        let addresses = addresses(&bindings);
        if addresses.is_empty() {
            return self.open(port, wish, bindings, &addresses, 0);
        }
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
            match self.open(port, wish, bindings.clone(), &addresses, host_port) {
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
        port: Port,
        wish: HostPort,
        bindings: Vec<Binding>,
        addresses: &[IpAddr],
        host_port: u16,
    ) -> Result<Publication, NetworkError> {
        let mut publication = Publication::hold(self.server(), port, wish, bindings, addresses, host_port)?;
        publication.serve(self.server())?;
        Ok(publication)
    }

    fn server(&self) -> Server<'_> {
        Server {
            filtered: [false, true].map(|ipv6| self.live.are_served(ipv6)),
            loopback: self.live.loopback_is_served(),
            policy: self.policy,
            proxies: self.proxies.as_ref(),
        }
    }

    /// Publishes what `wanted` comes to at another target, in one transaction of the packet filter; ports of the host
    /// stay the same where they can. On failure all is as it was. Blocking.
    pub fn redirect(
        &self,
        publications: &mut Publications,
        target: &PortTarget,
        wanted: &PortBindings,
    ) -> Result<(), NetworkError> {
        let before = publications.forwards();
        let mut old = BTreeMap::<Port, Vec<Publication>>::new();
        for publication in std::mem::take(&mut publications.0) {
            old.entry(publication.port).or_default().push(publication);
        }
        let (mut kept, mut fresh) = (Vec::new(), Vec::new());
        for group in self.plan(target, wanted) {
            let olds = old.entry(group.port).or_default();
            let at = olds.iter().position(|old| old.fits(group.wish) && old.addresses() == addresses(&group.bindings));
            match at {
                Some(at) => kept.push((olds.remove(at), group.bindings)),
                None => {
                    let number = olds.iter().find(|old| old.host_port != 0 && old.fits(group.wish));
                    fresh.push((group, number.map(|old| old.host_port)));
                }
            }
        }
        // A socket on all addresses must go before one on a single address can be: what is lost is remembered.
        let lost: Vec<Group> = old.into_values().flatten().map(|old| self.release(old)).collect();
        let mut new = Vec::new();
        let outcome = fresh.into_iter().try_for_each(|(group, number)| {
            let same = number.map(|number| Group { wish: HostPort::Range(number, number), ..group.clone() });
            let wish = group.wish;
            let reserved = same.and_then(|group| self.reserve(group).ok()).map_or_else(|| self.reserve(group), Ok)?;
            new.push(Publication { wish, ..reserved });
            Ok(())
        });
        let previous: Vec<Vec<Binding>> = kept.iter().map(|(old, _)| old.bindings.clone()).collect();
        let outcome = outcome.and_then(|()| {
            for (publication, bindings) in &mut kept {
                publication.bindings.clone_from(bindings);
                publication.serve(self.server())?;
            }
            Ok(())
        });
        publications.0.extend(kept.into_iter().map(|(publication, _)| publication));
        let stayed = publications.0.len();
        publications.0.append(&mut new);
        let outcome = outcome.and_then(|()| self.live.redirect(&before, &publications.forwards()));
        if outcome.is_ok() {
            forget_flows(&before);
            forget_flows(&publications.forwards());
        } else {
            self.release_all(publications.0.drain(stayed..));
            for (publication, bindings) in publications.0.iter_mut().zip(previous) {
                publication.bindings = bindings;
                warn_unless(publication.serve(self.server()), publication.host_port);
            }
            for group in lost {
                let number = group.wish;
                match self.reserve(group) {
                    Ok(publication) => publications.0.push(publication),
                    Err(error) => tracing::warn!(port = %number, %error, "a published port could not be held again"),
                }
            }
        }
        outcome
    }

    /// Holds again what a container had before the daemon's restart. What another program took meanwhile is lost to it
    /// and reported; the packet filter is not asked, it gets all of them by [`PortPublisher::install`] afterwards. Blocking.
    pub fn restore(&self, target: &PortTarget, published: &[PublishedPort]) -> Publications {
        let mut done = Publications::default();
        for group in plan::published(target, published) {
            let number = group.wish;
            match self.reserve(group) {
                Ok(publication) => done.0.push(publication),
                Err(error) => tracing::warn!(port = %number, %error, "a published port could not be held again"),
            }
        }
        self.live.add(&done.forwards());
        done
    }

    /// Sets the packet filter's rules, with everything that is published, in one transaction. Blocking.
    pub fn install(&self, bridges: Vec<BridgeRules>, drop_foreign: DropForeign) -> Result<(), NetworkError> {
        self.live.install(bridges, drop_foreign)
    }

    /// Gives ports back. Blocking.
    pub fn withdraw(&self, publications: Publications) {
        let forwards = publications.forwards();
        if let Err(error) = self.live.withdraw(&forwards) {
            tracing::warn!(%error, "published ports could not be withdrawn");
        }
        forget_flows(&forwards);
        self.release_all(publications.0);
    }

    fn release_all(&self, publications: impl IntoIterator<Item = Publication>) {
        publications.into_iter().for_each(|publication| _ = self.release(publication));
    }

    /// Gives one back; what would have it again, with its very number.
    fn release(&self, publication: Publication) -> Group {
        let addresses = publication.addresses();
        let Publication { port, wish: _, host_port, bindings, forwards: _, holds } = publication;
        // The sockets first: who is given the port next will bind it.
        drop(holds);
        self.lock().release(&addresses, port.protocol, host_port);
        Group { port, wish: HostPort::Range(host_port, host_port), bindings }
    }

    fn lock(&self) -> MutexGuard<'_, PortAllocator> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's addresses a port is taken on, each once.
fn addresses(bindings: &[Binding]) -> Vec<IpAddr> {
    let mut out = Vec::with_capacity(2);
    for binding in bindings.iter().filter(|binding| !binding.direct) {
        if !out.contains(&binding.host_ip) {
            out.push(binding.host_ip);
        }
    }
    out
}

/// Senders of datagrams must not stay with whom they reached before.
fn forget_flows(forwards: &[PortForward]) {
    if let Err(error) = conntrack::forget(forwards) {
        tracing::warn!(%error, "senders of datagrams may not reach a published port for a while");
    }
}

fn warn_unless(outcome: Result<(), NetworkError>, port: u16) {
    if let Err(error) = outcome {
        tracing::warn!(port, %error, "a published port is not served");
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
