//! The expressions our rules are made of, as attribute lists. An expression either loads something into a register,
//! goes on only if a register holds what it should, or decides.

use std::net::Ipv4Addr;

use dockerd_sys::netlink::MessageWriter;

use super::uapi::{
    FIB_ADDRESS_TYPE, FIB_DESTINATION, NAT_DESTINATION, REGISTER_VERDICT, REGISTERS, attribute as a, conntrack, meta,
    payload,
};
use crate::ipam::Subnet;

/// Whether a comparison wants equal or different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    Equal = 0,
    Not = 1,
}

/// How a rule ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop,
    Accept,
    Return,
}

impl Verdict {
    fn code(self) -> i32 {
        match self {
            Self::Drop => libc::NF_DROP,
            Self::Accept => libc::NF_ACCEPT,
            Self::Return => libc::NFT_RETURN,
        }
    }
}

/// A rule's expressions being written.
pub(super) struct Expressions<'a, 'b>(pub(super) &'a mut MessageWriter<'b>);

/// Interface names are compared with all their 16 bytes.
const NAME_LENGTH: usize = 16;
/// Offsets in the IPv4 header.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
/// Offset of the destination port, the same in TCP, UDP and SCTP.
const PORT: u32 = 2;

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

    fn compare(&mut self, register: u32, is: Is, value: &[u8]) -> &mut Self {
        self.add("cmp", |data| {
            data.u32_be(1, register).u32_be(2, is as u32).nest(3, |wanted| _ = wanted.bytes(a::DATA_VALUE, value));
        })
    }

    fn mask(&mut self, register: u32, mask: [u8; 4]) -> &mut Self {
        self.add("bitwise", |data| {
            data.u32_be(1, register).u32_be(2, register).u32_be(3, 4);
            data.nest(4, |value| _ = value.bytes(a::DATA_VALUE, &mask));
            data.nest(5, |value| _ = value.bytes(a::DATA_VALUE, &[0; 4]));
        })
    }

    fn name(&mut self, key: u32, is: Is, link: &str) -> &mut Self {
        let mut bytes = [0; NAME_LENGTH];
        for (to, from) in bytes.iter_mut().zip(link.bytes().take(NAME_LENGTH - 1)) {
            *to = from;
        }
        // A name fills four of the small registers: the first of the wide ones.
        self.load_meta(key, REGISTERS[0]).compare(REGISTERS[0], is, &bytes)
    }

    /// `iifname`.
    pub(super) fn input(&mut self, is: Is, link: &str) -> &mut Self {
        self.name(meta::INPUT_NAME, is, link)
    }

    /// `oifname`.
    pub(super) fn output(&mut self, is: Is, link: &str) -> &mut Self {
        self.name(meta::OUTPUT_NAME, is, link)
    }

    fn address(&mut self, offset: u32, subnet: Subnet) -> &mut Self {
        let register = REGISTERS[0];
        let std::net::IpAddr::V4(first) = subnet.first() else { return self };
        self.load_payload(payload::NETWORK, offset, 4, register);
        if subnet.rest() > 0 {
            self.mask(register, u32::MAX.checked_shl(subnet.rest().into()).unwrap_or(0).to_be_bytes());
        }
        self.compare(register, Is::Equal, &first.octets())
    }

    /// `ip saddr`.
    pub(super) fn source(&mut self, subnet: Subnet) -> &mut Self {
        self.address(SOURCE, subnet)
    }

    /// `ip daddr`.
    pub(super) fn destination(&mut self, subnet: Subnet) -> &mut Self {
        self.address(DESTINATION, subnet)
    }

    fn connection(&mut self, key: u32, bits: u32) -> &mut Self {
        let register = REGISTERS[0];
        self.add("ct", |data| _ = data.u32_be(1, register).u32_be(2, key));
        self.mask(register, bits.to_ne_bytes()).compare(register, Is::Not, &[0; 4])
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
        let register = REGISTERS[0];
        self.add("fib", |data| _ = data.u32_be(1, register).u32_be(2, FIB_ADDRESS_TYPE).u32_be(3, FIB_DESTINATION));
        self.compare(register, Is::Equal, &u32::from(libc::RTN_LOCAL).to_ne_bytes())
    }

    /// `dnat to meta l4proto . th dport map @NAME`, with `ip daddr` before the protocol if `by_address`.
    pub(super) fn translate_by(&mut self, map: &str, by_address: bool) -> &mut Self {
        let mut registers = REGISTERS.iter().copied();
        let mut next = || registers.next().unwrap_or(REGISTERS[0]);
        if by_address {
            self.load_payload(payload::NETWORK, DESTINATION, 4, next());
        }
        self.load_meta(meta::TRANSPORT, next());
        self.load_payload(payload::TRANSPORT, PORT, 2, next());
        self.add("lookup", |data| _ = data.c_text(1, map).u32_be(2, REGISTERS[0]).u32_be(3, REGISTERS[0]));
        self.add("nat", |data| {
            data.u32_be(1, NAT_DESTINATION).u32_be(2, libc::NFPROTO_IPV4 as u32);
            data.u32_be(3, REGISTERS[0]).u32_be(5, REGISTERS[1]);
        })
    }

    /// `masquerade`.
    pub(super) fn masquerade(&mut self) {
        self.add("masq", |_| {});
    }

    /// Ends the rule.
    pub(super) fn verdict(&mut self, verdict: Verdict) {
        self.add("immediate", |data| {
            data.u32_be(1, REGISTER_VERDICT).nest(2, |value| {
                value.nest(a::DATA_VERDICT, |v| _ = v.bytes(a::VERDICT_CODE, &verdict.code().to_be_bytes()));
            });
        });
    }
}

/// The loopback addresses.
pub(super) fn loopback() -> Subnet {
    Subnet::containing(Ipv4Addr::LOCALHOST, 8).expect("8 is a prefix")
}
