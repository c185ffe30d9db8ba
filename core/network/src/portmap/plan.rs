//! What a container's wishes come to at its networks: which addresses of the host get a port, the same for which of them,
//! and where it leads. Pure.
//!
//! A port that names no address is published at the network's default address; where that is all of IPv4, it is all of
//! IPv6 as well. An address of IPv6 leads to the container's own IPv6 address, or - only a proxy can do that - to its IPv4
//! address where it has none. What cannot be served is left out: the next network may be able to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dockerd_types::network::{HostPort, Port, PortBinding, PortBindings, PublishedPort};

use crate::firewall::GatewayMode;

/// Where published ports of one family lead, and how the network they lead to publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<A> {
    /// The container's address.
    pub address: A,
    /// How others reach it.
    pub mode: GatewayMode,
    /// The host's address for ports that name none; all of IPv4: all of IPv6 as well.
    pub default_address: IpAddr,
    /// The host's own address there, which its connections to `[::1]` come from; of IPv6 only.
    pub host: Option<A>,
}

/// Where a container's published ports lead. The two families may be two networks'.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortTarget {
    /// In IPv4.
    pub ipv4: Option<Route<Ipv4Addr>>,
    /// In IPv6.
    pub ipv6: Option<Route<Ipv6Addr>>,
}

/// What of the host decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Abilities {
    /// Whether it has IPv6.
    pub(super) ipv6: bool,
    /// Whether proxies may serve what the packet filter cannot.
    pub(super) proxies: bool,
}

/// One address of the host and where its port leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binding {
    /// The host's address.
    pub(super) host_ip: IpAddr,
    /// In the container.
    pub(super) to: SocketAddr,
    /// The container's own address is used, and no port of the host.
    pub(super) direct: bool,
    /// What the host's connections to `[::1]` come from, if the packet filter can lead them there.
    pub(super) loopback: Option<Ipv6Addr>,
}

/// Addresses that get the same port of the host for one port of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) port: Port,
    pub(super) wish: HostPort,
    pub(super) bindings: Vec<Binding>,
}

/// All groups that are not empty: named ports before others, which must not take them; then by the container's ports.
pub(super) fn plan(target: &PortTarget, wanted: &PortBindings, host: Abilities) -> Vec<Group> {
    let all = wanted.iter().flat_map(|(port, list)| list.iter().map(move |binding| (*port, binding)));
    let mut all: Vec<(Port, &PortBinding)> = all.collect();
    let named = |wish| matches!(wish, HostPort::Range(first, last) if first == last);
    let ends = |wish| if let HostPort::Range(first, last) = wish { (first, last) } else { (0, 0) };
    all.sort_by_key(|(port, b)| (!named(b.host_port), *port, ends(b.host_port), b.host_ip.map(|ip| ip.to_canonical())));
    let mut groups: Vec<Group> = Vec::with_capacity(all.len());
    for (port, PortBinding { host_ip, host_port }) in all {
        let new = bindings(target, port, host_ip.map(|ip| ip.to_canonical()), host);
        match groups.last_mut().filter(|group| (group.port, group.wish) == (port, *host_port)) {
            Some(group) => group.bindings.extend(new),
            None => groups.push(Group { port, wish: *host_port, bindings: new.collect() }),
        }
    }
    groups.retain(|group| !group.bindings.is_empty());
    groups
}

/// What was published, as inspect shows it, at its target: for those who outlived a daemon.
pub(super) fn published(target: &PortTarget, published: &[PublishedPort]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for PublishedPort { container_port: port, host_ip, host_port } in published {
        let own6 = target.ipv6.map(|route| IpAddr::V6(route.address)).filter(|_| host_ip.is_ipv6());
        let own4 = target.ipv4.map(|route| IpAddr::V4(route.address));
        let Some(to) = own6.or(own4) else { continue };
        let direct = *host_port == 0;
        let loopback = target.ipv6.filter(|_| to.is_ipv6() && is_loopback(*host_ip)).and_then(|route| route.host);
        let binding = Binding { host_ip: *host_ip, to: SocketAddr::new(to, port.number), direct, loopback };
        let wish = HostPort::Range(*host_port, *host_port);
        match groups.iter_mut().find(|group| (group.port, group.wish) == (*port, wish)) {
            Some(group) => group.bindings.push(binding),
            None => groups.push(Group { port: *port, wish, bindings: vec![binding] }),
        }
    }
    groups
}

/// What one wish comes to: nothing, one address, or one of each family.
fn bindings(
    target: &PortTarget,
    port: Port,
    host_ip: Option<IpAddr>,
    host: Abilities,
) -> impl Iterator<Item = Binding> {
    let ipv4 = target.ipv4.and_then(|route| {
        let address = host_ip.unwrap_or(route.default_address);
        address.is_ipv4().then(|| binding(address, route.address.into(), route.mode, None, port))
    });
    let own = target.ipv6.map(|route| (IpAddr::V6(route.address), route.mode, route.default_address, route.host));
    // Whether the container's network routes IPv4 says nothing about what a proxy does.
    let foreign = target.ipv4.filter(|_| host.proxies);
    let foreign = foreign.map(|route| (IpAddr::V4(route.address), GatewayMode::Nat, route.default_address, None));
    let ipv6 = own.or(foreign).and_then(|(to, mode, default, own)| {
        let everywhere = default == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let address = match host_ip {
            Some(address) => address,
            None if everywhere && host.ipv6 => Ipv6Addr::UNSPECIFIED.into(),
            None => default,
        };
        address.is_ipv6().then(|| binding(address, to, mode, own, port))
    });
    ipv4.into_iter().chain(ipv6)
}

fn binding(host_ip: IpAddr, to: IpAddr, mode: GatewayMode, own: Option<Ipv6Addr>, port: Port) -> Binding {
    let direct = mode == GatewayMode::Routed;
    // An address of the host means nothing to who is reached at his own.
    let host_ip = if direct { unspecified(host_ip.is_ipv6()) } else { host_ip };
    let loopback = own.filter(|_| !direct && is_loopback(host_ip));
    Binding { host_ip, to: SocketAddr::new(to, port.number), direct, loopback }
}

/// Whether a port of this address is reached at `[::1]`.
fn is_loopback(host_ip: IpAddr) -> bool {
    matches!(host_ip, IpAddr::V6(Ipv6Addr::UNSPECIFIED | Ipv6Addr::LOCALHOST))
}

fn unspecified(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
    const SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    const EVERYTHING: Abilities = Abilities { ipv6: true, proxies: true };

    fn route<A>(address: A, default_address: &str) -> Option<Route<A>> {
        let default_address = default_address.parse().expect("address");
        Some(Route { address, mode: GatewayMode::Nat, default_address, host: None })
    }

    fn wishes(texts: &[(&str, &str, &str)]) -> PortBindings {
        let mut out = PortBindings::new();
        for (ip, host, port) in texts {
            let host_ip = (!ip.is_empty()).then(|| ip.parse().expect("address"));
            let host_port = HostPort::parse(host).expect("port");
            out.entry(Port::parse(port).expect("port")).or_default().push(PortBinding { host_ip, host_port });
        }
        out
    }

    /// `host->container` of each group, a routed one without the host's.
    fn shown(target: &PortTarget, wanted: &PortBindings, host: Abilities) -> Vec<String> {
        let line = |group: &Group, b: &Binding| {
            let wish = if b.direct { "routed".to_owned() } else { group.wish.to_string() };
            format!("{} {wish} {}", b.host_ip, b.to)
        };
        let group = |group: &Group| group.bindings.iter().map(|b| line(group, b)).collect::<Vec<_>>().join(", ");
        plan(target, wanted, host).iter().map(group).collect()
    }

    /// One of each kind, and what it comes to on networks of all kinds: as the stock daemon.
    #[test]
    fn wishes_come_to() {
        let wanted = wishes(&[
            ("", "1", "80"),
            ("127.0.0.1", "2", "80"),
            ("::1", "3", "80"),
            ("::ffff:127.0.0.1", "4", "80"),
            ("", "", "80/udp"),
        ]);
        let (four, six) = ("172.17.0.2:80", "[fd00::2]:80");
        let both = PortTarget { ipv4: route(FOUR, "0.0.0.0"), ipv6: route(SIX, "0.0.0.0") };
        let expected = [
            format!("0.0.0.0 1 {four}, :: 1 {six}"),
            format!("127.0.0.1 2 {four}"),
            format!("::1 3 {six}"),
            format!("127.0.0.1 4 {four}"),
            format!("0.0.0.0  {four}, ::  {six}"),
        ];
        assert_eq!(shown(&both, &wanted, EVERYTHING), expected);
        let only4 = PortTarget { ipv4: route(FOUR, "0.0.0.0"), ipv6: None };
        let proxied = expected.clone().map(|line| line.replace(six, four));
        assert_eq!(shown(&only4, &wanted, EVERYTHING), proxied);
        let local4 = ["127.0.0.1 2 172.17.0.2:80".to_owned(), "127.0.0.1 4 172.17.0.2:80".to_owned()];
        let all4 = [format!("0.0.0.0 1 {four}"), local4[0].clone(), local4[1].clone(), format!("0.0.0.0  {four}")];
        assert_eq!(shown(&only4, &wanted, Abilities { proxies: false, ..EVERYTHING }), all4);
        let only6 = PortTarget { ipv4: None, ipv6: route(SIX, "0.0.0.0") };
        let all6 = [format!(":: 1 {six}"), expected[2].clone(), format!("::  {six}")];
        assert_eq!(shown(&only6, &wanted, EVERYTHING), all6);
        let without6 = PortTarget { ipv4: route(FOUR, "127.0.0.9"), ipv6: route(SIX, "127.0.0.9") };
        assert_eq!(shown(&without6, &wanted, EVERYTHING)[0], format!("127.0.0.9 1 {four}"));
        let default6 = PortTarget { ipv4: route(FOUR, "::1"), ipv6: route(SIX, "::1") };
        assert_eq!(shown(&default6, &wanted, EVERYTHING)[0], format!("::1 1 {six}"));
        let two_networks = PortTarget { ipv4: route(FOUR, "127.0.0.9"), ipv6: route(SIX, "0.0.0.0") };
        assert_eq!(shown(&two_networks, &wanted, EVERYTHING)[0], format!("127.0.0.9 1 {four}, :: 1 {six}"));
        let no_ipv6 = Abilities { ipv6: false, ..EVERYTHING };
        assert_eq!(shown(&only4, &wanted, no_ipv6)[0], format!("0.0.0.0 1 {four}"));
    }

    #[test]
    fn routed_families_use_no_port_of_the_host() {
        let default_address = [127, 0, 0, 9].into();
        let routed = Route { address: FOUR, mode: GatewayMode::Routed, default_address, host: None };
        let target = PortTarget { ipv4: Some(routed), ipv6: route(SIX, "0.0.0.0") };
        let wanted = wishes(&[("", "1", "80"), ("127.0.0.1", "2", "80"), ("::1", "3", "80")]);
        let expected =
            ["0.0.0.0 routed 172.17.0.2:80, :: 1 [fd00::2]:80", "0.0.0.0 routed 172.17.0.2:80", "::1 3 [fd00::2]:80"];
        assert_eq!(shown(&target, &wanted, EVERYTHING), expected);
        // Without an IPv6 address of its own, the proxy still leads to the other one.
        let only4 = PortTarget { ipv6: None, ..target };
        assert_eq!(shown(&only4, &wanted, EVERYTHING)[2], "::1 3 172.17.0.2:80");
    }

    #[test]
    fn named_ports_first_and_the_same_port_for_the_same_wish() {
        let target = PortTarget { ipv4: route(FOUR, "0.0.0.0"), ipv6: route(SIX, "0.0.0.0") };
        let wanted = wishes(&[
            ("127.0.0.1", "", "80"),
            ("::1", "", "80"),
            ("127.0.0.1", "8-9", "80"),
            ("127.0.0.1", "9", "81"),
            ("127.0.0.2", "8-9", "80"),
            ("127.0.0.1", "7", "81"),
            ("127.0.0.1", "5", "80/udp"),
        ]);
        let expected = [
            "127.0.0.1 5 172.17.0.2:80",
            "127.0.0.1 7 172.17.0.2:81",
            "127.0.0.1 9 172.17.0.2:81",
            "127.0.0.1  172.17.0.2:80, ::1  [fd00::2]:80",
            "127.0.0.1 8-9 172.17.0.2:80, 127.0.0.2 8-9 172.17.0.2:80",
        ];
        assert_eq!(shown(&target, &wanted, EVERYTHING), expected);
    }
}
