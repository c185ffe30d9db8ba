//! Flows of UDP the kernel remembers. A sender that keeps its port stays with whom it reached first for as long as it
//! sends, whatever the packet filter says of new flows meanwhile: so flows through a port are forgotten when it begins to
//! lead to somebody, and when it ends. Messages of ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`).

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use dockerd_sys::netlink::message::{self, ACK, DUMP};
use dockerd_sys::netlink::{Batch, Family, Message, NetlinkError, Socket};
use dockerd_types::network::Protocol;

use crate::error::NetworkError;
use crate::firewall::{Entry, PortForward};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
/// `sizeof(struct nfgenmsg)`.
const HEADER: usize = 4;
/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY` and `CTA_ZONE`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;
/// `CTA_TUPLE_IP`, and within it source and destination of IPv4, then of IPv6.
const ADDRESSES: u16 = 1;
/// `CTA_TUPLE_PROTO`, and within it the protocol and its ports.
const TRANSPORT: u16 = 2;
const PROTOCOL: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const NESTED: u16 = 1 << 15;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tuple {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Tuple {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (ip, transport) = (message::attribute(bytes, ADDRESSES)?, message::attribute(bytes, TRANSPORT)?);
        let v6 = message::attribute(ip, 1).is_none();
        let address = |kind: u16| -> Option<IpAddr> {
            message::read_address(message::attribute(ip, if v6 { kind + 2 } else { kind })?)
        };
        let port = |kind| Some(u16::from_be_bytes(message::attribute(transport, kind)?.try_into().ok()?));
        Some(Self {
            protocol: *message::attribute(transport, PROTOCOL)?.first()?,
            source: SocketAddr::new(address(1)?, port(SOURCE_PORT)?),
            destination: SocketAddr::new(address(2)?, port(DESTINATION_PORT)?),
        })
    }
}

/// Ports by what flows through them look like.
#[derive(Debug, Default)]
struct Ports {
    /// Ports of the host, of IPv4 and IPv6, on all addresses or one.
    entries: HashSet<(bool, Option<IpAddr>, u16)>,
    /// Where they lead.
    targets: HashSet<SocketAddr>,
}

impl Ports {
    fn of(forwards: &[PortForward]) -> Self {
        let mut out = Self::default();
        for forward in forwards.iter().filter(|forward| forward.protocol == Protocol::Udp) {
            out.targets.insert(forward.to);
            if let Entry::Host { address, port } = forward.entry {
                out.entries.insert((forward.to.is_ipv6(), address, port));
            }
        }
        out
    }

    fn have(&self, original: &Tuple, reply: &Tuple) -> bool {
        let (ip, port) = (original.destination.ip(), original.destination.port());
        let entry = |address| self.entries.contains(&(ip.is_ipv6(), address, port));
        u32::from(original.protocol) == libc::IPPROTO_UDP as u32
            && (self.targets.contains(&reply.source) || entry(None) || entry(Some(ip)))
    }
}

/// Forgets all flows through these ports that are UDP's, and those from the host's own programs that had them before. In
/// the calling thread's network namespace. Blocking.
pub(super) fn forget(forwards: &[PortForward]) -> Result<(), NetworkError> {
    let ports = Ports::of(forwards);
    if ports.targets.is_empty() {
        return Ok(());
    }
    let socket = Socket::open(Family::Netfilter).map_err(NetworkError::io("open netfilter socket"))?;
    let mut stale = Batch::new();
    let mut list = Batch::new();
    list.message(GET, DUMP).raw(&[0; HEADER]);
    let asked = socket.query(&list, |message| forget_if(&ports, message, &mut stale));
    asked.map_err(NetworkError::kernel("list the flows the kernel knows"))?;
    match socket.transact(&stale) {
        // It ended by itself meanwhile.
        Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        outcome => outcome.map_err(NetworkError::kernel("forget flows")),
    }
}

fn forget_if(ports: &Ports, flow: &Message<'_>, stale: &mut Batch) {
    let Some((header, rest)) = flow.body.split_at_checked(HEADER) else { return };
    let tuple = |kind| message::attribute(rest, kind);
    let (Some(original), Some(reply)) = (tuple(ORIGINAL), tuple(REPLY)) else { return };
    let both = Tuple::read(original).zip(Tuple::read(reply));
    if both.is_some_and(|(original, reply)| ports.have(&original, &reply)) {
        let mut request = stale.message(DELETE, ACK);
        request.raw(header).bytes(ORIGINAL | NESTED, original);
        if let Some(zone) = tuple(ZONE) {
            request.bytes(ZONE, zone);
        }
    }
}

#[cfg(test)]
mod tests {
    use dockerd_sys::netlink::message::messages;
    use proptest::prelude::*;

    use super::*;

    fn flow(batch: &mut Batch, protocol: u8, to: [u8; 4], port: u16, reply_from: [u8; 4]) {
        let tuple =
            |out: &mut dockerd_sys::netlink::MessageWriter<'_>, kind, from: [u8; 4], to: [u8; 4], ports: [u16; 2]| {
                out.nest(kind, |tuple| {
                    tuple.nest(ADDRESSES, |ip| _ = ip.bytes(1, &from).bytes(2, &to));
                    tuple.nest(TRANSPORT, |transport| {
                        transport.u8(PROTOCOL, protocol).bytes(SOURCE_PORT, &ports[0].to_be_bytes());
                        transport.bytes(DESTINATION_PORT, &ports[1].to_be_bytes());
                    });
                });
            };
        let mut message = batch.message(SUBSYSTEM, 0);
        message.raw(&[2, 0, 0, 0]);
        tuple(&mut message, ORIGINAL, [192, 0, 2, 9], to, [4000, port]);
        tuple(&mut message, REPLY, reply_from, [192, 0, 2, 9], [53, 4000]);
    }

    fn ports(address: Option<IpAddr>) -> Ports {
        let entry = Entry::Host { address, port: 5353 };
        let to = "172.17.0.2:53".parse().expect("address");
        Ports::of(&[PortForward { protocol: Protocol::Udp, entry, to, loopback: None }])
    }

    fn forgotten(ports: &Ports, protocol: u8, to: [u8; 4], port: u16, reply_from: [u8; 4]) -> bool {
        let mut batch = Batch::new();
        flow(&mut batch, protocol, to, port, reply_from);
        let mut stale = Batch::new();
        messages(batch.bytes()).for_each(|message| forget_if(ports, &message, &mut stale));
        !stale.is_empty()
    }

    #[test]
    fn flows_through_the_port_and_no_others() {
        let (host, container, other) = ([192, 0, 2, 1], [172, 17, 0, 2], [172, 17, 0, 3]);
        let any = ports(None);
        assert!(forgotten(&any, 17, host, 5353, container));
        // What an earlier container, or a program of the host, had.
        assert!(forgotten(&any, 17, host, 5353, other) && forgotten(&any, 17, host, 5353, host));
        assert!(forgotten(&any, 17, container, 53, container), "straight to the container");
        assert!(!forgotten(&any, 6, host, 5353, container), "TCP ends its flows itself");
        assert!(!forgotten(&any, 17, host, 5354, other));
        let one = ports(Some(IpAddr::from(host)));
        assert!(forgotten(&one, 17, host, 5353, other) && !forgotten(&one, 17, [192, 0, 2, 2], 5353, other));
    }

    proptest! {
        #[test]
        fn odd_answers_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stale = Batch::new();
            forget_if(&ports(None), &Message { kind: SUBSYSTEM, sequence: 0, body: &bytes }, &mut stale);
        }
    }
}
