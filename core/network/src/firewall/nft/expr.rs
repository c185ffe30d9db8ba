//! The expressions our rules are made of, as attribute lists. An expression either loads something into a register,
//! goes on only if a register holds what it should, or decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dockerd_sys::netlink::MessageWriter;
use dockerd_sys::netlink::message::octets;

use super::uapi::{
    FIB_ADDRESS_TYPE, FIB_DESTINATION, NAT_DESTINATION, NAT_SOURCE, REGISTER, REGISTER_VERDICT, SOCKET_IS_TRANSPARENT,
    attribute as a, conntrack, meta, payload,
};
use crate::ipam::Subnet;
use crate::link::LONGEST_NAME;

/// Whether a comparison wants equal or different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    Equal = 0,
    Not = 1,
}

/// How a rule ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop,
    Accept,
    Return,
    /// Goes on in another chain and comes back.
    Jump(String),
    /// Goes on in another chain.
    Goto(String),
}

impl Verdict {
    /// Writes it as a datum.
    pub(super) fn write(&self, datum: &mut MessageWriter<'_>) {
        let (code, chain) = match self {
            Self::Drop => (libc::NF_DROP, None),
            Self::Accept => (libc::NF_ACCEPT, None),
            Self::Return => (libc::NFT_RETURN, None),
            Self::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
            Self::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
        };
        datum.nest(a::DATA_VERDICT, |verdict| {
            verdict.bytes(a::VERDICT_CODE, &code.to_be_bytes());
            chain.iter().for_each(|chain| _ = verdict.c_text(a::VERDICT_CHAIN, chain));
        });
    }
}

/// A rule's expressions being written.
pub(super) struct Expressions<'a, 'b>(pub(super) &'a mut MessageWriter<'b>);

/// Interface names are compared with all their 16 bytes.
const NAME_LENGTH: usize = LONGEST_NAME + 1;
/// Offset of the destination port, the same in TCP, UDP and SCTP.
const PORT: u32 = 2;
/// Bytes of a register.
const WIDTH: u32 = 4;

/// Where a family's header has its addresses.
#[derive(Debug, Clone, Copy)]
struct Header {
    source: u32,
    destination: u32,
    length: u32,
    family: u8,
}

fn header(ipv6: bool) -> Header {
    if ipv6 {
        Header { source: 8, destination: 24, length: 16, family: libc::NFPROTO_IPV6 as u8 }
    } else {
        Header { source: 12, destination: 16, length: 4, family: libc::NFPROTO_IPV4 as u8 }
    }
}

/// A link's name as registers and keys have it.
pub(super) fn name_bytes(link: &str) -> [u8; NAME_LENGTH] {
    let mut bytes = [0; NAME_LENGTH];
    for (to, from) in bytes.iter_mut().zip(link.bytes().take(NAME_LENGTH - 1)) {
        *to = from;
    }
    bytes
}

impl Expressions<'_, '_> {
    fn add(&mut self, name: &str, fill: impl FnOnce(&mut MessageWriter<'_>)) -> &mut Self {
        self.0.nest(a::LIST_ELEMENT, |element| {
            element.c_text(a::EXPRESSION_NAME, name).nest(a::EXPRESSION_DATA, |data| fill(data));
        });
        self
    }

    fn load_meta(&mut self, key: u32, register: u32) -> &mut Self {
        self.add("meta", |data| _ = data.u32_be(1, register).u32_be(2, key))
    }

    fn load_payload(&mut self, base: u32, offset: u32, length: u32, register: u32) -> &mut Self {
        self.add("payload", |data| _ = data.u32_be(1, register).u32_be(2, base).u32_be(3, offset).u32_be(4, length))
    }

    fn compare(&mut self, is: Is, value: &[u8]) -> &mut Self {
        self.add("cmp", |data| {
            data.u32_be(1, REGISTER).u32_be(2, is as u32).nest(3, |wanted| _ = wanted.bytes(a::DATA_VALUE, value));
        })
    }

    fn mask(&mut self, mask: &[u8]) -> &mut Self {
        let length = u32::try_from(mask.len()).unwrap_or(WIDTH);
        self.add("bitwise", |data| {
            data.u32_be(1, REGISTER).u32_be(2, REGISTER).u32_be(3, length);
            data.nest(4, |value| _ = value.bytes(a::DATA_VALUE, mask));
            data.nest(5, |value| _ = value.bytes(a::DATA_VALUE, &vec![0; mask.len()]));
        })
    }

    fn name(&mut self, key: u32, is: Is, link: &str) -> &mut Self {
        self.load_meta(key, REGISTER).compare(is, &name_bytes(link))
    }

    /// `iifname`.
    pub(super) fn input(&mut self, is: Is, link: &str) -> &mut Self {
        self.name(meta::INPUT_NAME, is, link)
    }

    /// `oifname`.
    pub(super) fn output(&mut self, is: Is, link: &str) -> &mut Self {
        self.name(meta::OUTPUT_NAME, is, link)
    }

    /// `iifname @SET`.
    pub(super) fn input_in(&mut self, set: &str) -> &mut Self {
        self.load_meta(meta::INPUT_NAME, REGISTER).lookup(set, None)
    }

    /// `iifname vmap @MAP`.
    pub(super) fn by_input(&mut self, map: &str) {
        self.load_meta(meta::INPUT_NAME, REGISTER).lookup(map, Some(REGISTER_VERDICT));
    }

    /// `oifname vmap @MAP`.
    pub(super) fn by_output(&mut self, map: &str) {
        self.load_meta(meta::OUTPUT_NAME, REGISTER).lookup(map, Some(REGISTER_VERDICT));
    }

    /// `meta nfproto`.
    pub(super) fn family(&mut self, ipv6: bool) -> &mut Self {
        self.load_meta(meta::FAMILY, REGISTER).compare(Is::Equal, &[header(ipv6).family])
    }

    /// `meta nfproto ... meta l4proto icmp` or `ipv6-icmp`.
    pub(super) fn control_message(&mut self, ipv6: bool) -> &mut Self {
        let protocol = if ipv6 { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP };
        self.family(ipv6).load_meta(meta::TRANSPORT, REGISTER).compare(Is::Equal, &[protocol as u8])
    }

    fn address(&mut self, offset: u32, subnet: Subnet) -> &mut Self {
        let length = header(subnet.is_ipv6()).length;
        self.family(subnet.is_ipv6()).load_payload(payload::NETWORK, offset, length, REGISTER);
        if subnet.rest() > 0 {
            let ones = u128::MAX.checked_shl(subnet.rest().into()).unwrap_or(0).to_be_bytes();
            self.mask(&ones[ones.len() - length as usize..]);
        }
        self.compare(Is::Equal, &octets(subnet.first()))
    }

    /// `ip saddr` or `ip6 saddr`.
    pub(super) fn source(&mut self, subnet: Subnet) -> &mut Self {
        self.address(header(subnet.is_ipv6()).source, subnet)
    }

    /// `ip daddr` or `ip6 daddr`.
    pub(super) fn destination(&mut self, subnet: Subnet) -> &mut Self {
        self.address(header(subnet.is_ipv6()).destination, subnet)
    }

    /// `ip saddr != ADDRESS` or `ip6 saddr != ADDRESS`, behind a comparison that has told the family.
    pub(super) fn source_is_not(&mut self, address: IpAddr) -> &mut Self {
        let Header { source, length, .. } = header(address.is_ipv6());
        self.load_payload(payload::NETWORK, source, length, REGISTER).compare(Is::Not, &octets(address))
    }

    fn connection(&mut self, key: u32, bits: u32) -> &mut Self {
        self.add("ct", |data| _ = data.u32_be(1, REGISTER).u32_be(2, key));
        self.mask(&bits.to_ne_bytes()).compare(Is::Not, &[0; 4])
    }

    /// `ct state established,related`.
    pub(super) fn known_connection(&mut self) -> &mut Self {
        self.connection(conntrack::STATE, conntrack::KNOWN)
    }

    /// `ct status dnat`.
    pub(super) fn translated(&mut self) -> &mut Self {
        self.connection(conntrack::STATUS, conntrack::DESTINATION_TRANSLATED)
    }

    /// `fib daddr type local`.
    pub(super) fn addressed_to_host(&mut self) -> &mut Self {
        self.add("fib", |data| _ = data.u32_be(1, REGISTER).u32_be(2, FIB_ADDRESS_TYPE).u32_be(3, FIB_DESTINATION));
        self.compare(Is::Equal, &u32::from(libc::RTN_LOCAL).to_ne_bytes())
    }

    /// `socket transparent 1`.
    pub(super) fn of_borrowed_address(&mut self) -> &mut Self {
        self.add("socket", |data| _ = data.u32_be(1, SOCKET_IS_TRANSPARENT).u32_be(2, REGISTER))
            .compare(Is::Equal, &[1])
    }

    /// `meta mark set meta mark | BITS`.
    pub(super) fn mark(&mut self, bits: u32) {
        self.load_meta(meta::MARK, REGISTER).add("bitwise", |data| {
            data.u32_be(1, REGISTER).u32_be(2, REGISTER).u32_be(3, WIDTH);
            data.nest(4, |kept| _ = kept.bytes(a::DATA_VALUE, &(!bits).to_ne_bytes()));
            data.nest(5, |set| _ = set.bytes(a::DATA_VALUE, &bits.to_ne_bytes()));
        });
        self.add("meta", |data| _ = data.u32_be(2, meta::MARK).u32_be(3, REGISTER));
    }

    fn lookup(&mut self, set: &str, value: Option<u32>) -> &mut Self {
        self.add("lookup", |data| {
            data.c_text(1, set).u32_be(2, REGISTER);
            value.into_iter().for_each(|register| _ = data.u32_be(3, register));
        })
    }

    /// `ip daddr . meta l4proto . th dport`, the address only if `by_address`.
    fn load_target(&mut self, ipv6: bool, by_address: bool) -> &mut Self {
        let header = header(ipv6);
        let mut register = REGISTER;
        self.family(ipv6);
        if by_address {
            self.load_payload(payload::NETWORK, header.destination, header.length, register);
            register += header.length / WIDTH;
        }
        self.load_meta(meta::TRANSPORT, register).load_payload(payload::TRANSPORT, PORT, 2, register + 1)
    }

    /// `ip daddr . meta l4proto . th dport @SET`.
    pub(super) fn target_in(&mut self, set: &str, ipv6: bool) -> &mut Self {
        self.load_target(ipv6, true).lookup(set, None)
    }

    /// The same where the keys have values.
    pub(super) fn target_among_keys_of(&mut self, map: &str, ipv6: bool) -> &mut Self {
        self.load_target(ipv6, true).lookup(map, Some(REGISTER))
    }

    /// `dnat to meta l4proto . th dport map @MAP`, with `ip daddr` before the protocol if `by_address`.
    pub(super) fn translate_by(&mut self, map: &str, ipv6: bool, by_address: bool) {
        let header = header(ipv6);
        self.load_target(ipv6, by_address).lookup(map, Some(REGISTER));
        self.add("nat", |data| {
            data.u32_be(1, NAT_DESTINATION).u32_be(2, header.family.into());
            data.u32_be(3, REGISTER).u32_be(5, REGISTER + header.length / WIDTH);
        });
    }

    /// `meta l4proto . th dport @MAP`, of IPv6.
    pub(super) fn port_among_keys_of(&mut self, map: &str) -> &mut Self {
        self.load_target(true, false).lookup(map, Some(REGISTER))
    }

    /// `ip6 saddr set meta l4proto . th dport map @MAP`.
    pub(super) fn source_set_by(&mut self, map: &str) {
        self.port_among_keys_of(map).write_address(header(true).source, payload::TRANSPORT_SUM);
    }

    /// `ip6 daddr set ADDRESS` of packets for the host. The transport's sum stays as it is, as nobody looks at it any more:
    /// it is either known to be right, or still to be made by the sender's link, or what connection tracking made of the
    /// whole packet is compared instead, in which nf_tables would do one correction too many (it takes IPv6 to have a
    /// sum over its header, as IPv4 does).
    pub(super) fn destination_set(&mut self, address: Ipv6Addr) {
        self.load_address(address.into()).write_address(header(true).destination, payload::NO_SUM);
    }

    /// Writes a register over an address of IPv6, and corrects `sum`.
    fn write_address(&mut self, offset: u32, sum: u32) {
        self.add("payload", |data| {
            data.u32_be(5, REGISTER).u32_be(2, payload::NETWORK).u32_be(3, offset).u32_be(4, header(true).length);
            data.u32_be(6, payload::NO_SUM).u32_be(7, 0).u32_be(8, sum);
        });
    }

    /// `notrack`.
    pub(super) fn untracked(&mut self) {
        self.add("notrack", |_| {});
    }

    fn load_address(&mut self, address: IpAddr) -> &mut Self {
        self.add("immediate", |data| {
            data.u32_be(1, REGISTER).nest(2, |value| _ = value.bytes(a::DATA_VALUE, &octets(address)));
        })
    }

    /// `snat to ADDRESS`.
    pub(super) fn source_becomes(&mut self, address: IpAddr) {
        let family = header(address.is_ipv6()).family;
        self.load_address(address);
        self.add("nat", |data| _ = data.u32_be(1, NAT_SOURCE).u32_be(2, family.into()).u32_be(3, REGISTER));
    }

    /// `masquerade`.
    pub(super) fn masquerade(&mut self) {
        self.add("masq", |_| {});
    }

    /// Ends the rule.
    pub(super) fn verdict(&mut self, verdict: &Verdict) {
        self.add("immediate", |data| {
            data.u32_be(1, REGISTER_VERDICT).nest(2, |value| verdict.write(value));
        });
    }

    /// `accept`.
    pub(super) fn accept(&mut self) {
        self.verdict(&Verdict::Accept);
    }

    /// `drop`.
    pub(super) fn drop(&mut self) {
        self.verdict(&Verdict::Drop);
    }

    /// `return`.
    pub(super) fn leave(&mut self) {
        self.verdict(&Verdict::Return);
    }
}

/// The loopback addresses of IPv4.
pub(super) fn loopback() -> Subnet {
    Subnet::containing(Ipv4Addr::LOCALHOST, 8).expect("8 is a prefix")
}

/// The loopback address of IPv6.
pub(super) fn loopback_ipv6() -> Subnet {
    Subnet::containing(Ipv6Addr::LOCALHOST, 128).expect("128 is a prefix")
}

/// Addresses that belong to one link.
pub(super) fn link_local() -> Subnet {
    Subnet::containing(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).expect("10 is a prefix")
}
