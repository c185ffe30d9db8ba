//! Published ports as elements: of the maps that translate the host's ports, and of the sets that say which of containers'
//! own ports are open to others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use dockerd_sys::netlink::message::octets;
use dockerd_types::network::Protocol;

use super::message::{Element, SetType, Transaction, Value, Values};
use crate::firewall::{Entry, Handled, PortForward};

/// Data types of `nft`; six bits each when put together.
const IPV4_ADDRESS: u32 = 7;
const IPV6_ADDRESS: u32 = 8;
const PROTOCOL: u32 = 12;
const SERVICE: u32 = 13;
const TYPE_BITS: u32 = 6;
/// Bytes of a part of a key that is no address.
const REGISTER: u32 = 4;

const fn address(ipv6: bool) -> (u32, u32) {
    if ipv6 { (IPV6_ADDRESS, 16) } else { (IPV4_ADDRESS, 4) }
}

/// The host's ports published on all of its addresses of a family.
pub(super) const fn everywhere(ipv6: bool) -> SetType {
    let (kind, length) = address(ipv6);
    SetType {
        name: if ipv6 { "ports6" } else { "ports4" },
        key_type: PROTOCOL << TYPE_BITS | SERVICE,
        key_length: 2 * REGISTER,
        values: Values::Data { kind: kind << TYPE_BITS | SERVICE, length: length + REGISTER },
    }
}

/// The host's ports published on one address.
pub(super) const fn by_address(ipv6: bool) -> SetType {
    let name = if ipv6 { "address-ports6" } else { "address-ports4" };
    SetType { name, values: everywhere(ipv6).values, ..open(ipv6) }
}

/// Containers' own ports.
pub(super) const fn open(ipv6: bool) -> SetType {
    let (kind, length) = address(ipv6);
    SetType {
        name: if ipv6 { "open6" } else { "open4" },
        key_type: (kind << TYPE_BITS | PROTOCOL) << TYPE_BITS | SERVICE,
        key_length: length + 2 * REGISTER,
        values: Values::None,
    }
}

/// What the host's connections to `[::1]` come from, by its ports.
pub(super) const fn loopback() -> SetType {
    let values = Values::Data { kind: IPV6_ADDRESS, length: 16 };
    SetType { name: "loopback6", values, ..everywhere(true) }
}

/// All sets of a family.
pub(super) fn sets(ipv6: bool) -> Vec<SetType> {
    elements(ipv6, &[]).into_iter().map(|(set, _)| set).collect()
}

/// Adds published ports.
pub(super) fn publish(handled: Handled, forwards: &[PortForward]) -> Transaction {
    let mut out = Transaction::begin();
    add(&mut out, handled, forwards);
    out
}

/// Takes published ports away and adds others.
pub(super) fn redirect(handled: Handled, old: &[PortForward], new: &[PortForward]) -> Transaction {
    let mut out = withdraw(handled, old);
    add(&mut out, handled, new);
    out
}

/// Takes published ports away.
pub(super) fn withdraw(handled: Handled, forwards: &[PortForward]) -> Transaction {
    let mut out = Transaction::begin();
    for ipv6 in [false, true].into_iter().filter(|ipv6| handled.has(*ipv6)) {
        for (set, elements) in elements(ipv6, forwards) {
            out.delete_elements(set.name, &elements);
        }
    }
    out
}

pub(super) fn add(out: &mut Transaction, handled: Handled, forwards: &[PortForward]) {
    for ipv6 in [false, true].into_iter().filter(|ipv6| handled.has(*ipv6)) {
        for (set, elements) in elements(ipv6, forwards) {
            out.add_elements(set.name, &elements);
        }
    }
}

/// The elements of a family's sets.
fn elements(ipv6: bool, forwards: &[PortForward]) -> Vec<(SetType, Vec<Element>)> {
    let (mut all, mut one, mut own, mut local) = (Vec::new(), Vec::new(), BTreeSet::new(), BTreeMap::new());
    for forward in forwards.iter().filter(|forward| forward.to.is_ipv6() == ipv6) {
        let PortForward { protocol, entry, to, loopback } = forward;
        own.insert(key(Some(to.ip()), *protocol, to.port()));
        let Entry::Host { address, port } = *entry else { continue };
        let element = (key(address, *protocol, port), Value::Data(value(*to)));
        if address.is_none() {
            all.push(element)
        } else {
            one.push(element)
        }
        if let Some(source) = loopback {
            // Published on all addresses and on this one as well, it is one port all the same.
            local.insert(key(None, *protocol, port), Value::Data(octets((*source).into())));
        }
    }
    let own = own.into_iter().map(|key| (key, Value::None)).collect();
    let mut out = vec![(everywhere(ipv6), all), (by_address(ipv6), one), (open(ipv6), own)];
    if ipv6 {
        out.push((loopback(), local.into_iter().collect()));
    }
    out
}

/// Parts of a key, each padded to registers.
fn key(address: Option<IpAddr>, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut out = address.map(octets).unwrap_or_default();
    out.extend_from_slice(&[protocol_number(protocol), 0, 0, 0]);
    out.extend_from_slice(&port.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out
}

fn value(to: SocketAddr) -> Vec<u8> {
    let mut out = octets(to.ip());
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use dockerd_sys::netlink::message::{attribute, attributes, messages, read_text};
    use proptest::prelude::*;

    use super::*;

    const BOTH: Handled = Handled { ipv4: true, ipv6: true };

    fn forward(address: Option<IpAddr>, port: u16, ipv6: bool) -> PortForward {
        let to: SocketAddr =
            if ipv6 { "[fd00::2]:80".parse().expect("address") } else { SocketAddr::from(([172, 17, 0, 2], 80)) };
        let loopback = ipv6.then_some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
        PortForward { protocol: Protocol::Tcp, entry: Entry::Host { address, port }, to, loopback }
    }

    /// How many elements each set gets.
    fn counts(transaction: Transaction) -> BTreeMap<String, usize> {
        let bytes = transaction.bytes();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.first().map(|m| m.kind), Some(0x10));
        assert_eq!(all.last().map(|m| m.kind), Some(0x11));
        let mut counts = BTreeMap::new();
        for message in &all[1..all.len() - 1] {
            let body = &message.body[4..];
            let name = attribute(body, 2).and_then(read_text).unwrap_or_default();
            *counts.entry(name.to_owned()).or_default() += attributes(attribute(body, 3).unwrap_or_default()).count();
        }
        counts
    }

    #[test]
    fn keys_and_values_fill_registers() {
        assert_eq!(key(None, Protocol::Tcp, 8080), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        let local = Some(Ipv4Addr::LOCALHOST.into());
        assert_eq!(key(local, Protocol::Tcp, 8080), [127, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(value(SocketAddr::from(([172, 17, 0, 2], 80))), [172, 17, 0, 2, 0, 80, 0, 0]);
        for ipv6 in [false, true] {
            let address = if ipv6 { Ipv6Addr::LOCALHOST.into() } else { IpAddr::from(Ipv4Addr::LOCALHOST) };
            let wanted = by_address(ipv6);
            assert_eq!(key(Some(address), Protocol::Udp, 1).len(), wanted.key_length as usize);
            let Values::Data { length, .. } = wanted.values else { panic!("a map") };
            assert_eq!(value(SocketAddr::new(address, 1)).len(), length as usize);
        }
    }

    #[test]
    fn a_family_of_others_is_left_alone() {
        let forwards = [forward(None, 80, false), forward(None, 80, true)];
        let only = |handled| counts(publish(handled, &forwards)).into_keys().collect::<Vec<_>>();
        assert_eq!(only(Handled { ipv4: true, ipv6: false }), ["open4", "ports4"]);
        assert_eq!(only(Handled { ipv4: false, ipv6: true }), ["loopback6", "open6", "ports6"]);
    }

    proptest! {
        /// However many ports: one begin, one end, every element in the right map, what is open once, and well-formed
        /// messages throughout.
        #[test]
        fn every_port_is_in_the_transaction_once(any in 0usize..1200, local in 0usize..1200, ipv6: bool) {
            let ports = |count: usize, host| {
                (1..=count).map(move |port| forward(host, u16::try_from(port).unwrap_or(1), ipv6))
            };
            let host = if ipv6 { Ipv6Addr::LOCALHOST.into() } else { IpAddr::from(Ipv4Addr::LOCALHOST) };
            let list: Vec<_> = ports(any, None).chain(ports(local, Some(host))).collect();
            let counts = counts(publish(BOTH, &list));
            prop_assert_eq!(counts.get(everywhere(ipv6).name).copied().unwrap_or(0), any);
            prop_assert_eq!(counts.get(by_address(ipv6).name).copied().unwrap_or(0), local);
            prop_assert_eq!(counts.get(open(ipv6).name).copied().unwrap_or(0), usize::from(any + local > 0));
            let at_loopback = if ipv6 { any.max(local) } else { 0 };
            prop_assert_eq!(counts.get(loopback().name).copied().unwrap_or(0), at_loopback);
        }
    }
}
