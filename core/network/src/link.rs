//! Links, addresses and routes: rtnetlink(7) requests written into a batch, and the few questions asked of the kernel.
//! Which links there should be is decided elsewhere.

pub mod stacked;

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::OnceLock;

use dockerd_sys::netlink::message::{self, ACK, CREATE, DUMP, EXCLUSIVE, MessageWriter, REPLACE, octets, read_address};
use dockerd_sys::netlink::{Batch, Message, NetlinkError, Socket};

use crate::ipam::Subnet;

/// The number of every namespace's loopback.
pub(crate) const LOOPBACK: u32 = 1;
/// `VETH_INFO_PEER` of `linux/veth.h`.
const VETH_PEER: u16 = 1;
/// `IFLA_BRPORT_MODE` of `linux/if_link.h`: frames may leave by the port they came in.
const PORT_HAIRPIN: u16 = 4;
/// `IFLA_BRPORT_ISOLATED`: isolated ports do not reach each other.
const PORT_ISOLATED: u16 = 33;
/// `IFLA_GSO_IPV4_MAX_SIZE` of `linux/if_link.h`, since Linux 6.3; older kernels pass over it.
const LARGEST_PIECE: u16 = 63;
/// Bytes of a TCP stream that go from the host to its containers in one piece (BIG TCP): four times what is usual, for each
/// piece costs walks through the bridge and connection tracking, and most of all a wake-up. Containers' own ends are left as
/// they are: what leaves the host by its hardware would be cut again by the processor.
const HOST_PIECE: u32 = 256 << 10;
/// That of a link nobody chose it for.
const USUAL_PIECE: u32 = 64 << 10;
/// `sizeof(struct ifinfomsg)`.
const LINK_HEADER: usize = 16;
/// `sizeof(struct ifaddrmsg)`.
const ADDRESS_HEADER: usize = 8;
/// `sizeof(struct rtmsg)`.
const ROUTE_HEADER: usize = 12;
/// Bytes of a link's longest name (`IFNAMSIZ` without the byte that ends it).
pub const LONGEST_NAME: usize = 15;
const UP: u32 = libc::IFF_UP as u32;
/// `IFLA_INET6_ADDR_GEN_MODE` of `linux/if_link.h`, and `IN6_ADDR_GEN_MODE_NONE`: no link-local address.
const ADDRESS_MODE: u16 = 8;
const NO_LINK_LOCAL: u8 = 1;
/// `IFA_FLAGS` of `linux/if_addr.h`.
const ADDRESS_FLAGS: u16 = 8;
/// `IFA_F_NODAD`: the address is usable at once, nobody else is asked whether he has it.
const NO_DETECTION: u32 = 2;

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl std::fmt::Display for MacAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl MacAddress {
    /// Parses `02:42:ac:11:00:02`, also with dashes, and `0242.ac11.0002`.
    pub fn parse(text: &str) -> Option<Self> {
        let separator = text.chars().find(|c| !c.is_ascii_hexdigit()).filter(|c| [':', '-', '.'].contains(c))?;
        let parts: Vec<&str> = text.split(separator).collect();
        let (count, digits) = if separator == '.' { (3, 4) } else { (6, 2) };
        let is_right = |part: &&str| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if parts.len() != count || !parts.iter().all(is_right) {
            return None;
        }
        let number = u64::from_str_radix(&parts.concat(), 16).ok()?;
        let [_, _, bytes @ ..] = number.to_be_bytes();
        Some(Self(bytes))
    }

    /// Whether it may be the address of one station: not of a group, and not of nobody.
    pub fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// A locally administered address of a single station, made of these bytes.
    pub fn local(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] | 0x02) & 0xfe;
        Self(bytes)
    }
}

/// A link as the kernel tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, ...; empty for hardware.
    pub kind: String,
    /// What an administrator noted on it.
    pub alias: String,
    /// The bridge it is a port of.
    pub master: Option<u32>,
    /// The other end's number in its namespace, for pairs.
    pub peer: Option<u32>,
    /// Largest packet.
    pub mtu: u32,
    /// Bytes of a TCP stream of IPv4 that cross it in one piece; `None` before Linux 6.3.
    pub largest_piece: Option<u32>,
    /// Whether an administrator has it up.
    pub is_up: bool,
    /// Its hardware address, if it has one of Ethernet's.
    pub mac: Option<MacAddress>,
    /// The group it belongs to: of containers' links the number of their bridge, even if that is gone.
    pub group: u32,
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Makes a bridge, up, with a number that is free, or any if that is 0. With an address of its own it keeps that when ports
/// come and go.
pub fn add_bridge(batch: &mut Batch, index: u32, name: &str, mtu: u32, mac: MacAddress) {
    let mut message = batch.message(libc::RTM_NEWLINK, ACK | CREATE | EXCLUSIVE);
    message.raw(&link_header(index, UP, UP)).c_text(libc::IFLA_IFNAME, name).u32(libc::IFLA_MTU, mtu);
    message.bytes(libc::IFLA_ADDRESS, &mac.0).nest(libc::IFLA_LINKINFO, |info| {
        info.text(libc::IFLA_INFO_KIND, "bridge");
    });
}

/// A pair of virtual Ethernet devices between the host and a container.
#[derive(Debug, Clone, Copy)]
pub struct VethOrder<'a> {
    /// Name of the host's end.
    pub host_name: &'a str,
    /// Name of the container's end.
    pub inner_name: &'a str,
    /// The bridge the host's end is a port of.
    pub bridge: u32,
    /// The container's network namespace.
    pub netns: BorrowedFd<'a>,
    /// Largest packet, both ends.
    pub mtu: u32,
    /// What to note on the host's end.
    pub alias: &'a str,
    /// Whether the port is kept from other isolated ports.
    pub isolated: bool,
}

/// Makes the pair: the host's end up and in the bridge, the container's end down in its namespace.
pub fn add_veth(batch: &mut Batch, order: VethOrder<'_>) {
    let mut message = batch.message(libc::RTM_NEWLINK, ACK | CREATE | EXCLUSIVE);
    message.raw(&link_header(0, 0, 0)).c_text(libc::IFLA_IFNAME, order.host_name).u32(libc::IFLA_MTU, order.mtu);
    message.u32(libc::IFLA_MASTER, order.bridge).u32(libc::IFLA_GROUP, order.bridge);
    message.u32(LARGEST_PIECE, HOST_PIECE);
    // Said outright: else the kernel makes one for each processor and takes them back, behind an RCU grace period.
    message.u32(libc::IFLA_NUM_TX_QUEUES, 1).u32(libc::IFLA_NUM_RX_QUEUES, 1);
    message.nest(libc::IFLA_LINKINFO, |info| {
        info.text(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, |data| {
            data.nest(VETH_PEER, |peer| {
                let netns = u32::try_from(order.netns.as_raw_fd()).unwrap_or(u32::MAX);
                peer.raw(&link_header(0, 0, 0)).c_text(libc::IFLA_IFNAME, order.inner_name);
                peer.u32(libc::IFLA_MTU, order.mtu).u32(libc::IFLA_NET_NS_FD, netns);
                peer.u32(libc::IFLA_NUM_TX_QUEUES, 1).u32(libc::IFLA_NUM_RX_QUEUES, 1);
            });
        });
    });
    drop(message);
    // The settings of the port can only be made on a port; it is nobody's address, and would tell all others on the bridge
    // of one of its own.
    let mut message = batch.message(libc::RTM_NEWLINK, ACK);
    message.raw(&link_header(0, 0, 0)).c_text(libc::IFLA_IFNAME, order.host_name).text(libc::IFLA_IFALIAS, order.alias);
    if kernel_has_ipv6() {
        message.nest(libc::IFLA_AF_SPEC, |families| {
            families.nest(libc::AF_INET6 as u16, |ipv6| _ = ipv6.u8(ADDRESS_MODE, NO_LINK_LOCAL));
        });
    }
    set_port(&mut message, order.isolated);
    drop(message);
    let mut message = batch.message(libc::RTM_NEWLINK, ACK);
    message.raw(&link_header(0, UP, UP)).c_text(libc::IFLA_IFNAME, order.host_name);
}

fn set_port(message: &mut MessageWriter<'_>, isolated: bool) {
    message.nest(libc::IFLA_LINKINFO, |info| {
        info.text(libc::IFLA_INFO_SLAVE_KIND, "bridge").nest(libc::IFLA_INFO_SLAVE_DATA, |data| {
            data.u8(PORT_HAIRPIN, 1).u8(PORT_ISOLATED, u8::from(isolated));
        });
    });
}

/// Makes a link that is there a port of a bridge again.
pub fn attach(batch: &mut Batch, index: u32, bridge: u32, isolated: bool) {
    let mut message = batch.message(libc::RTM_NEWLINK, ACK);
    message.raw(&link_header(index, 0, 0)).u32(libc::IFLA_MASTER, bridge).u32(libc::IFLA_GROUP, bridge);
    drop(message);
    set_port(batch.message(libc::RTM_NEWLINK, ACK).raw(&link_header(index, 0, 0)), isolated);
}

/// Whether the kernel knows the family at all; where it was booted without, requests that name it are refused.
fn kernel_has_ipv6() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| Path::new("/proc/sys/net/ipv6").exists())
}

/// Brings a link up.
pub fn set_up(batch: &mut Batch, index: u32) {
    batch.message(libc::RTM_NEWLINK, ACK).raw(&link_header(index, UP, UP));
}

/// Brings the link of that name up.
pub fn set_up_named(batch: &mut Batch, name: &str) {
    batch.message(libc::RTM_NEWLINK, ACK).raw(&link_header(0, UP, UP)).c_text(libc::IFLA_IFNAME, name);
}

/// Takes a link down.
pub fn set_down(batch: &mut Batch, index: u32) {
    batch.message(libc::RTM_NEWLINK, ACK).raw(&link_header(index, 0, UP));
}

/// Moves a link to another namespace, under that name there. It is down then, and has no addresses.
pub fn move_away(batch: &mut Batch, index: u32, netns: BorrowedFd<'_>, name: &str) {
    let netns = u32::try_from(netns.as_raw_fd()).unwrap_or(u32::MAX);
    let mut message = batch.message(libc::RTM_NEWLINK, ACK);
    message.raw(&link_header(index, 0, 0)).u32(libc::IFLA_NET_NS_FD, netns).c_text(libc::IFLA_IFNAME, name);
}

/// Gives a link another name; it is down for a moment.
pub fn rename(batch: &mut Batch, index: u32, name: &str) {
    retire(batch, index, name);
    set_up(batch, index);
}

/// Takes a link down and gives it another name.
pub fn retire(batch: &mut Batch, index: u32, name: &str) {
    batch.message(libc::RTM_NEWLINK, ACK).raw(&link_header(index, 0, UP));
    batch.message(libc::RTM_NEWLINK, ACK).raw(&link_header(index, 0, 0)).c_text(libc::IFLA_IFNAME, name);
}

/// Changes a link's hardware address.
pub fn set_mac(batch: &mut Batch, index: u32, mac: MacAddress) {
    batch.message(libc::RTM_NEWLINK, ACK).raw(&link_header(index, 0, 0)).bytes(libc::IFLA_ADDRESS, &mac.0);
}

/// Changes the largest packet of a link.
pub fn set_mtu(batch: &mut Batch, index: u32, mtu: u32) {
    batch.message(libc::RTM_NEWLINK, ACK).raw(&link_header(index, 0, 0)).u32(libc::IFLA_MTU, mtu);
}

/// Has the host's own streams cross a link in as large pieces as they do the pairs of [`add_veth`], unless somebody chose a
/// size. A bridge takes them only while no port of its is against it, and has none before its first one.
pub fn enlarge_pieces(socket: &Socket, index: u32) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    batch.message(libc::RTM_GETLINK, ACK).raw(&link_header(index, 0, 0));
    let link = found(socket, &batch)?;
    if link.and_then(|link| link.largest_piece) != Some(USUAL_PIECE) {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.message(libc::RTM_NEWLINK, ACK).raw(&link_header(index, 0, 0)).u32(LARGEST_PIECE, HOST_PIECE);
    socket.transact(&batch)
}

/// Takes a link, and its other end, away.
pub fn delete(batch: &mut Batch, index: u32) {
    batch.message(libc::RTM_DELLINK, ACK).raw(&link_header(index, 0, 0));
}

/// Whether a link may have this name (`dev_valid_name` of the kernel).
pub fn is_link_name(name: &str) -> bool {
    let plain = |byte: u8| byte != b'/' && byte != b':' && !byte.is_ascii_whitespace();
    !name.is_empty() && name.len() <= LONGEST_NAME && !matches!(name, "." | "..") && name.bytes().all(plain)
}

/// The family as the kernel numbers it.
fn family(ipv6: bool) -> u8 {
    (if ipv6 { libc::AF_INET6 } else { libc::AF_INET }) as u8
}

fn address<'a>(
    batch: &'a mut Batch,
    kind: u16,
    flags: u16,
    index: u32,
    address: IpAddr,
    prefix: u8,
) -> MessageWriter<'a> {
    let bytes = octets(address);
    let mut header = [family(address.is_ipv6()), prefix, 0, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    let mut message = batch.message(kind, flags);
    message.raw(&header).bytes(libc::IFA_LOCAL, &bytes).bytes(libc::IFA_ADDRESS, &bytes);
    message
}

/// Gives a link an address: of IPv4 with the broadcast address of its subnet, of IPv6 usable at once, since its addresses
/// are given by one who knows them all.
pub fn add_address(batch: &mut Batch, index: u32, own: IpAddr, prefix: u8) {
    let mut message = address(batch, libc::RTM_NEWADDR, ACK | CREATE | EXCLUSIVE, index, own, prefix);
    if own.is_ipv6() {
        message.u32(ADDRESS_FLAGS, NO_DETECTION);
    } else if let Some(subnet) = Subnet::containing(own, prefix).filter(|subnet| subnet.has_broadcast()) {
        message.bytes(libc::IFA_BROADCAST, &octets(subnet.last()));
    }
}

/// Takes an address from a link.
pub fn delete_address(batch: &mut Batch, index: u32, own: IpAddr, prefix: u8) {
    address(batch, libc::RTM_DELADDR, ACK, index, own, prefix);
}

/// Where a default route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Of IPv6, or of IPv4.
    pub ipv6: bool,
    /// By which link.
    pub link: u32,
    /// To whom; `None`: everybody is on the link.
    pub gateway: Option<IpAddr>,
}

/// The default route; there must be none yet.
pub fn add_default_route(batch: &mut Batch, route: DefaultRoute) {
    default_route(batch, ACK | CREATE | EXCLUSIVE, route);
}

/// The default route, in the place of what was one.
pub fn replace_default_route(batch: &mut Batch, route: DefaultRoute) {
    default_route(batch, ACK | CREATE | REPLACE, route);
}

fn default_route(batch: &mut Batch, flags: u16, route: DefaultRoute) {
    let DefaultRoute { ipv6, link, gateway } = route;
    self::route(batch, flags, ipv6, None, gateway, Some(link));
}

/// A route to a subnet: to somebody the kernel knows the way to, or to those on a link.
pub fn add_route(batch: &mut Batch, destination: Subnet, hop: Option<IpAddr>, link: u32) {
    let by_link = hop.is_none().then_some(link);
    route(batch, ACK | CREATE | EXCLUSIVE, destination.is_ipv6(), Some(destination), hop, by_link);
}

fn route(
    batch: &mut Batch,
    flags: u16,
    ipv6: bool,
    destination: Option<Subnet>,
    gateway: Option<IpAddr>,
    link: Option<u32>,
) {
    let scope = if gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    let mut header = [0; ROUTE_HEADER];
    header[0] = family(ipv6);
    header[1] = destination.map_or(0, Subnet::prefix);
    header[4..8].copy_from_slice(&[libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, scope, libc::RTN_UNICAST]);
    let mut message = batch.message(libc::RTM_NEWROUTE, flags);
    message.raw(&header);
    destination.into_iter().for_each(|subnet| _ = message.bytes(libc::RTA_DST, &octets(subnet.first())));
    gateway.into_iter().for_each(|gateway| _ = message.bytes(libc::RTA_GATEWAY, &octets(gateway)));
    link.into_iter().for_each(|link| _ = message.u32(libc::RTA_OIF, link));
}

/// Notes `alias` on the link of that name, so that it is known again. In one batch with what makes the link there is no
/// moment, and no death of ours, between the two.
pub fn set_alias(batch: &mut Batch, name: &str, alias: &str) {
    let mut message = batch.message(libc::RTM_NEWLINK, ACK);
    message.raw(&link_header(0, 0, 0)).c_text(libc::IFLA_IFNAME, name).text(libc::IFLA_IFALIAS, alias);
}

fn read_link(message: &Message<'_>) -> Option<Link> {
    let index = message.body.get(4..8).and_then(message::read_u32)?;
    let is_up = message.body.get(8..12).and_then(message::read_u32)? & UP != 0;
    let mut link = Link { index, is_up, ..Link::default() };
    for (kind, payload) in message::attributes(message.body.get(LINK_HEADER..)?) {
        let text = || message::read_text(payload).unwrap_or_default().to_owned();
        match kind {
            libc::IFLA_IFNAME => link.name = text(),
            libc::IFLA_IFALIAS => link.alias = text(),
            libc::IFLA_MASTER => link.master = message::read_u32(payload),
            libc::IFLA_LINK => link.peer = message::read_u32(payload),
            libc::IFLA_ADDRESS => link.mac = payload.try_into().ok().map(MacAddress),
            libc::IFLA_GROUP => link.group = message::read_u32(payload).unwrap_or_default(),
            libc::IFLA_MTU => link.mtu = message::read_u32(payload).unwrap_or_default(),
            LARGEST_PIECE => link.largest_piece = message::read_u32(payload),
            libc::IFLA_LINKINFO => {
                let kind = message::attribute(payload, libc::IFLA_INFO_KIND).and_then(message::read_text);
                link.kind = kind.unwrap_or_default().to_owned();
            }
            _ => {}
        }
    }
    Some(link)
}

/// The link of that name.
pub fn by_name(socket: &Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut batch = Batch::new();
    batch.message(libc::RTM_GETLINK, ACK).raw(&link_header(0, 0, 0)).c_text(libc::IFLA_IFNAME, name);
    found(socket, &batch)
}

/// The link a question is about.
fn found(socket: &Socket, question: &Batch) -> Result<Option<Link>, NetlinkError> {
    let mut found = None;
    match socket.query(question, |message| found = read_link(message)) {
        Err(error) if error.is(libc::ENODEV) => Ok(None),
        outcome => outcome.map(|()| found),
    }
}

/// All links of the namespace.
pub fn all(socket: &Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut batch = Batch::new();
    batch.message(libc::RTM_GETLINK, DUMP).raw(&link_header(0, 0, 0));
    let mut found = Vec::new();
    socket.query(&batch, |message| found.extend(read_link(message)))?;
    Ok(found)
}

/// Whether a change is of a link that is not up now.
pub(crate) fn is_down(change: &Message<'_>) -> bool {
    read_link(change).is_some_and(|link| !link.is_up)
}

/// Addresses of a link, those that belong to the link alone left out.
pub fn addresses(socket: &Socket, index: u32) -> Result<Vec<(IpAddr, u8)>, NetlinkError> {
    let all = all_addresses(socket)?;
    Ok(all.into_iter().filter(|(link, ..)| *link == index).map(|(_, address, prefix)| (address, prefix)).collect())
}

/// Addresses of all links with the links' numbers, those that belong to a link alone left out.
pub fn all_addresses(socket: &Socket) -> Result<Vec<(u32, IpAddr, u8)>, NetlinkError> {
    let mut batch = Batch::new();
    batch.message(libc::RTM_GETADDR, DUMP).raw(&[0; ADDRESS_HEADER]);
    let mut found = Vec::new();
    socket.query(&batch, |message| {
        let Some(index) = message.body.get(4..8).and_then(message::read_u32) else { return };
        let Some(rest) = message.body.get(ADDRESS_HEADER..) else { return };
        // IPv6 has its own address in the second one.
        let address = message::attribute(rest, libc::IFA_LOCAL).or_else(|| message::attribute(rest, libc::IFA_ADDRESS));
        let address = address.and_then(read_address).filter(|address| !is_link_local(*address));
        found.extend(address.map(|address| (index, address, message.body[1])));
    })?;
    Ok(found)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Destinations of the namespace's routes, without default routes.
pub fn routed_subnets(socket: &Socket) -> Result<Vec<Subnet>, NetlinkError> {
    let mut batch = Batch::new();
    batch.message(libc::RTM_GETROUTE, DUMP).raw(&[0; ROUTE_HEADER]);
    let mut found = Vec::new();
    socket.query(&batch, |message| {
        let Some(rest) = message.body.get(ROUTE_HEADER..) else { return };
        // The local table repeats single addresses; loopback's subnet is in it too.
        if message.body[4] != libc::RT_TABLE_MAIN {
            return;
        }
        let destination = message::attribute(rest, libc::RTA_DST).and_then(read_address);
        let destination = destination.filter(|address| !is_link_local(*address));
        found.extend(destination.and_then(|address| Subnet::containing(address, message.body[1])));
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dockerd_sys::netlink::Family;

    #[test]
    fn loopback_is_found() {
        let socket = Socket::open(Family::Route).expect("socket");
        let found = by_name(&socket, "lo").expect("asked").expect("there");
        assert_eq!((found.name.as_str(), found.master), ("lo", None));
        assert_eq!(by_name(&socket, "no-such-link").expect("asked"), None);
        assert!(all(&socket).expect("asked").iter().any(|link| link.index == found.index));
        // The socket is clean after a question with an answer and an acknowledgement.
        assert!(by_name(&socket, "lo").expect("asked again").is_some());
    }

    #[test]
    fn hardware_addresses() {
        let mac = MacAddress::parse("02:42:ac:11:00:02").expect("valid");
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "zz:42:ac:11:00:02"] {
            assert_eq!(MacAddress::parse(bad), None, "{bad}");
        }
        assert_eq!(MacAddress::local([0xff; 6]).0[0], 0xfe);
    }
}
