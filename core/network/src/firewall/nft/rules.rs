//! What our table says. In `nft`'s words, for one bridge `docker0` with 172.17.0.0/16 (what names it stands once
//! for each bridge, in the order of networks; nobody reaches another bridge but by what was published there):
//!
//! ```text
//! table ip dockerd-rs {
//!   map ports         { type inet_proto . inet_service : ipv4_addr . inet_service }
//!   map address-ports { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!   chain raw         { type filter hook prerouting priority raw
//!                       iifname docker0 ip daddr 127.0.0.0/8 drop      # route_localnet is on: containers must not
//!                       iifname docker0 ip saddr 127.0.0.0/8 drop }    # reach or play the host's loopback
//!   chain prerouting  { type nat hook prerouting priority dstnat
//!                       iifname != lo ip daddr 127.0.0.0/8 return      # published on 127.0.0.1 only: not for others
//!                       dnat to ip daddr . meta l4proto . th dport map @address-ports
//!                       fib daddr type local dnat to meta l4proto . th dport map @ports }
//!   chain output      { type nat hook output priority dstnat           # the host's own connections
//!                       ... both dnat rules ... }
//!   chain postrouting { type nat hook postrouting priority srcnat
//!                       oifname docker0 ip saddr 127.0.0.0/8 masquerade
//!                       oifname docker0 ip saddr 172.17.0.0/16 ct status dnat masquerade   # hairpin
//!                       ip saddr 172.17.0.0/16 oifname != docker0 masquerade }
//!   chain forward     { type filter hook forward priority filter
//!                       iifname br-1 oifname != br-1 drop              # for internal networks, before all others
//!                       oifname br-1 iifname != br-1 drop
//!                       oifname docker0 ct state established,related accept
//!                       oifname docker0 ct status dnat accept
//!                       oifname docker0 iifname docker0 accept         # with icc
//!                       oifname docker0 drop
//!                       iifname docker0 accept }                       # then drop, if the host is no router
//! }
//! ```

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use dockerd_types::network::Protocol;

use super::expr::{Is, Verdict, loopback};
use super::message::{Element, Hook, MapType, Transaction};
use crate::firewall::{BridgeRules, DropForeign, Entry, PortForward, Ruleset};

/// Data types of `nft`; six bits each when put together.
const IPV4_ADDRESS: u32 = 7;
const PROTOCOL: u32 = 12;
const SERVICE: u32 = 13;
const TYPE_BITS: u32 = 6;

/// Published on every address of the host.
const PORTS: MapType = MapType {
    name: "ports",
    id: 1,
    key_type: PROTOCOL << TYPE_BITS | SERVICE,
    key_length: 8,
    data_type: IPV4_ADDRESS << TYPE_BITS | SERVICE,
    data_length: 8,
};

/// Published on one address of the host.
const ADDRESS_PORTS: MapType = MapType {
    name: "address-ports",
    id: 2,
    key_type: (IPV4_ADDRESS << TYPE_BITS | PROTOCOL) << TYPE_BITS | SERVICE,
    key_length: 12,
    ..PORTS
};

const fn hook(kind: &'static str, number: i32, priority: i32) -> Hook {
    Hook { kind, number, priority, policy: libc::NF_ACCEPT }
}

const RAW: Hook = hook("filter", libc::NF_INET_PRE_ROUTING, -300);
const PREROUTING: Hook = hook("nat", libc::NF_INET_PRE_ROUTING, -100);
const OUTPUT: Hook = hook("nat", libc::NF_INET_LOCAL_OUT, -100);
const POSTROUTING: Hook = hook("nat", libc::NF_INET_POST_ROUTING, 100);
const FORWARD: Hook = hook("filter", libc::NF_INET_FORWARD, 0);

/// Everything anew.
pub(super) fn install(rules: &Ruleset) -> Transaction {
    let mut out = Transaction::begin();
    out.fresh_table();
    for (name, hook) in [
        ("raw", RAW),
        ("prerouting", PREROUTING),
        ("output", OUTPUT),
        ("postrouting", POSTROUTING),
        ("forward", FORWARD),
    ] {
        out.base_chain(name, hook);
    }
    out.map(PORTS);
    out.map(ADDRESS_PORTS);
    fill(&mut out, &rules.bridges, rules.drop_foreign);
    add(&mut out, &rules.forwards);
    out
}

/// The rules anew; what is published stays.
pub(super) fn replace(bridges: &[BridgeRules], drop_foreign: DropForeign) -> Transaction {
    let mut out = Transaction::begin();
    out.no_rules();
    fill(&mut out, bridges, drop_foreign);
    out
}

/// The rules of all chains.
fn fill(out: &mut Transaction, bridges: &[BridgeRules], drop_foreign: DropForeign) {
    out.rule("prerouting", |e| {
        e.input(Is::Not, "lo").destination(loopback()).verdict(Verdict::Return);
    });
    for chain in ["prerouting", "output"] {
        out.rule(chain, |e| _ = e.translate_by(ADDRESS_PORTS.name, true));
        out.rule(chain, |e| _ = e.addressed_to_host().translate_by(PORTS.name, false));
    }
    // First of all: what leaves an internal network must not be let into another one.
    for bridge in bridges.iter().filter(|bridge| bridge.internal) {
        out.rule("forward", |e| e.input(Is::Equal, &bridge.link).output(Is::Not, &bridge.link).verdict(Verdict::Drop));
        out.rule("forward", |e| e.output(Is::Equal, &bridge.link).input(Is::Not, &bridge.link).verdict(Verdict::Drop));
    }
    for bridge in bridges {
        bridge_rules(out, bridge);
    }
    for bridge in bridges {
        out.rule("forward", |e| e.input(Is::Equal, &bridge.link).verdict(Verdict::Accept));
    }
    if drop_foreign.ipv4 {
        out.rule("forward", |e| e.verdict(Verdict::Drop));
    }
}

fn bridge_rules(out: &mut Transaction, bridge: &BridgeRules) {
    let BridgeRules { link, ipv4, ipv6: _, icc, internal, masquerade, direct_routing, trusted: _ } = bridge;
    let Some(crate::firewall::FamilyRules { subnet, .. }) = ipv4 else { return };
    out.rule("raw", |e| e.input(Is::Equal, link).destination(loopback()).verdict(Verdict::Drop));
    out.rule("raw", |e| e.input(Is::Equal, link).source(loopback()).verdict(Verdict::Drop));
    out.rule("postrouting", |e| e.output(Is::Equal, link).source(loopback()).masquerade());
    out.rule("postrouting", |e| e.output(Is::Equal, link).source(*subnet).translated().masquerade());
    if *masquerade && !internal {
        out.rule("postrouting", |e| e.output(Is::Not, link).source(*subnet).masquerade());
    }
    out.rule("forward", |e| e.output(Is::Equal, link).known_connection().verdict(Verdict::Accept));
    out.rule("forward", |e| e.output(Is::Equal, link).translated().verdict(Verdict::Accept));
    if *icc {
        out.rule("forward", |e| e.output(Is::Equal, link).input(Is::Equal, link).verdict(Verdict::Accept));
    }
    if *direct_routing && !internal {
        out.rule("forward", |e| {
            e.output(Is::Equal, link).input(Is::Not, link).verdict(Verdict::Accept);
        });
    }
    out.rule("forward", |e| e.output(Is::Equal, link).verdict(Verdict::Drop));
}

/// Adds published ports.
pub(super) fn publish(forwards: &[PortForward]) -> Transaction {
    let mut out = Transaction::begin();
    add(&mut out, forwards);
    out
}

/// Takes published ports away and adds others.
pub(super) fn redirect(old: &[PortForward], new: &[PortForward]) -> Transaction {
    let mut out = withdraw(old);
    add(&mut out, new);
    out
}

/// Takes published ports away.
pub(super) fn withdraw(forwards: &[PortForward]) -> Transaction {
    let mut out = Transaction::begin();
    let (any, by_address) = elements(forwards);
    out.delete_elements(PORTS.name, &any);
    out.delete_elements(ADDRESS_PORTS.name, &by_address);
    out
}

fn add(out: &mut Transaction, forwards: &[PortForward]) {
    let (any, by_address) = elements(forwards);
    out.add_elements(PORTS.name, &any);
    out.add_elements(ADDRESS_PORTS.name, &by_address);
}

/// The elements of both maps.
fn elements(forwards: &[PortForward]) -> (Vec<Element>, Vec<Element>) {
    let (mut any, mut by_address) = (Vec::new(), Vec::new());
    for forward in forwards {
        let SocketAddr::V4(to) = forward.to else { continue };
        let Entry::Host { address, port } = forward.entry else { continue };
        let element = (key(address, forward.protocol, port), value(to));
        if address.is_none() { any.push(element) } else { by_address.push(element) }
    }
    (any, by_address)
}

/// Parts of a key, each padded to a register.
fn key(address: Option<IpAddr>, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(12);
    if let Some(IpAddr::V4(host)) = address {
        out.extend_from_slice(&host.octets());
    }
    out.extend_from_slice(&[protocol_number(protocol), 0, 0, 0]);
    out.extend_from_slice(&port.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out
}

fn value(to: SocketAddrV4) -> Vec<u8> {
    let mut out = to.ip().octets().to_vec();
    out.extend_from_slice(&to.port().to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
        Protocol::Sctp => libc::IPPROTO_SCTP as u8,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use dockerd_sys::netlink::message::{attribute, messages};
    use proptest::prelude::*;

    use super::*;

    fn forward(address: Option<IpAddr>, port: u16) -> PortForward {
        let to = SocketAddr::from(([172, 17, 0, 2], 80));
        PortForward { protocol: Protocol::Tcp, entry: Entry::Host { address, port }, to }
    }

    #[test]
    fn keys_and_values_fill_registers() {
        assert_eq!(key(None, Protocol::Tcp, 8080), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        let local = Some(Ipv4Addr::LOCALHOST.into());
        assert_eq!(key(local, Protocol::Tcp, 8080), [127, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(value(SocketAddrV4::new(Ipv4Addr::new(172, 17, 0, 2), 80)), [172, 17, 0, 2, 0, 80, 0, 0]);
    }

    proptest! {
        /// However many ports: one begin, one end, every element in the right map, and well-formed messages throughout.
        #[test]
        fn every_port_is_in_the_transaction_once(any in 0usize..1200, local in 0usize..1200) {
            let ports = |count: usize, host| (1..=count).map(move |port| forward(host, u16::try_from(port).unwrap_or(1)));
            let list: Vec<_> = ports(any, None).chain(ports(local, Some(Ipv4Addr::LOCALHOST.into()))).collect();
            let bytes = publish(&list).bytes();
            let all: Vec<_> = messages(&bytes).collect();
            prop_assert_eq!(all.first().map(|m| m.kind), Some(0x10));
            prop_assert_eq!(all.last().map(|m| m.kind), Some(0x11));
            let mut counts = std::collections::BTreeMap::<String, usize>::new();
            for message in &all[1..all.len() - 1] {
                let body = &message.body[4..];
                let name = attribute(body, 2).and_then(dockerd_sys::netlink::message::read_text).unwrap_or_default();
                let elements = attribute(body, 3).unwrap_or_default();
                *counts.entry(name.to_owned()).or_default() += dockerd_sys::netlink::message::attributes(elements).count();
            }
            prop_assert_eq!(counts.get("ports").copied().unwrap_or(0), any);
            prop_assert_eq!(counts.get("address-ports").copied().unwrap_or(0), local);
        }
    }
}
