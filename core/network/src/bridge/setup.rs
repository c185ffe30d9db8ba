//! The bridge itself: found or made, with its address, and the host's switches that let packets through. Blocking.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use dockerd_sys::netlink::{Batch, Socket};

use crate::config::{BridgeChoice, DEFAULT_BRIDGE, NetworkConfig};
use crate::error::NetworkError;
use crate::ipam::{Subnet, pool};
use crate::link::{self, Link, MacAddress};
use crate::sandbox::LINK_ALIAS;

/// A bridge that is up and has its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeLink {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, which containers know their router by.
    pub mac: Option<MacAddress>,
    /// Whether it is ours to keep up.
    pub ours: bool,
    /// What is noted on it.
    pub alias: String,
}

impl BridgeLink {
    fn new(link: Link, ours: bool) -> Self {
        let Link { index, name, mac, alias, .. } = link;
        Self { index, name, mac, ours, alias }
    }
}

/// The default bridge and the addresses chosen for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultBridge {
    /// Its link.
    pub link: BridgeLink,
    /// Its own address and its subnet.
    pub ipv4: (IpAddr, Subnet),
    /// The same of IPv6, if it has it.
    pub ipv6: Option<(IpAddr, Subnet)>,
}

/// Finds or makes the default bridge; `None` for `--bridge none`.
pub fn set_up(socket: &Socket, config: &NetworkConfig) -> Result<Option<DefaultBridge>, NetworkError> {
    let asked = |source| NetworkError::Kernel { action: "look at the host's links", source };
    let name = match &config.bridge {
        BridgeChoice::None => return Ok(None),
        BridgeChoice::Default => DEFAULT_BRIDGE,
        BridgeChoice::Existing(name) => name.as_str(),
    };
    let found = link::by_name(socket, name).map_err(asked)?;
    let link = match (found, &config.bridge) {
        (Some(link), _) => link,
        (None, BridgeChoice::Existing(_)) => return Err(NetworkError::NoBridge(name.to_owned())),
        (None, _) => make(socket, &Order { index: 0, name, mtu: config.mtu, mac: None, alias: "" })?,
    };
    let present = link::addresses(socket, link.index).map_err(asked)?;
    let ipv4 = choose(socket, config, &present)?;
    let ipv6 = config.ipv6.then(|| choose_ipv6(socket, config, &present)).transpose()?;
    let wanted: Vec<(IpAddr, u8)> =
        [ipv4].into_iter().chain(ipv6).map(|(address, subnet)| (address, subnet.prefix())).collect();
    let mut batch = Batch::new();
    link::set_up(&mut batch, link.index);
    if link.mtu != config.mtu && config.bridge == BridgeChoice::Default {
        link::set_mtu(&mut batch, link.index, config.mtu);
    }
    // The bridge is ours: what it had under other settings goes.
    let ours = config.bridge == BridgeChoice::Default;
    for (old, prefix) in present.iter().filter(|old| ours && !wanted.contains(old)) {
        link::delete_address(&mut batch, link.index, *old, *prefix);
    }
    for (address, prefix) in wanted.iter().filter(|address| !present.contains(address)) {
        link::add_address(&mut batch, link.index, *address, *prefix);
    }
    if ipv6.is_some() {
        enable_ipv6(name)?;
    }
    socket.transact(&batch).map_err(NetworkError::kernel("set up the bridge"))?;
    Ok(Some(DefaultBridge { link: BridgeLink::new(link, ours), ipv4, ipv6 }))
}

/// Makes sure that the bridge of a user-defined network is there, up and with its addresses. One that is there already
/// under that name is used; it is ours to remove only if we made it, which is what [`LINK_ALIAS`] says.
pub fn ensure(socket: &Socket, name: &str, mtu: u32, addresses: &[(IpAddr, u8)]) -> Result<BridgeLink, NetworkError> {
    let asked = |source| NetworkError::Kernel { action: "look at the host's links", source };
    let found = link::by_name(socket, name).map_err(asked)?;
    if found.as_ref().is_some_and(|link| link.kind != "bridge") {
        return Err(NetworkError::NotABridge(name.to_owned()));
    }
    let is_new = found.is_none();
    let link = match found {
        Some(link) => link,
        None => make(socket, &Order { index: 0, name, mtu, mac: None, alias: LINK_ALIAS })?,
    };
    let undone = |error| {
        if is_new {
            remove(socket, link.index);
        }
        error
    };
    let present = if is_new { Vec::new() } else { link::addresses(socket, link.index).map_err(asked)? };
    if addresses.iter().any(|(address, _)| address.is_ipv6()) {
        enable_ipv6(name).map_err(undone)?;
    }
    let mut batch = Batch::new();
    link::set_up(&mut batch, link.index);
    for (address, prefix) in addresses.iter().filter(|address| !present.contains(address)) {
        link::add_address(&mut batch, link.index, *address, *prefix);
    }
    socket.transact(&batch).map_err(|source| undone(NetworkError::Kernel { action: "set up the bridge", source }))?;
    let ours = link.alias == LINK_ALIAS;
    Ok(BridgeLink::new(link, ours))
}

/// Hosts that have IPv6 off for new links have it on a bridge that needs it; routers that announce themselves there are
/// containers.
pub(super) fn enable_ipv6(bridge: &str) -> Result<(), NetworkError> {
    let dir = Path::new("/proc/sys/net/ipv6/conf").join(bridge);
    for (name, value) in [("disable_ipv6", "0"), ("accept_ra", "0")] {
        fs::write(dir.join(name), value).map_err(NetworkError::io(format!("set {name} of {bridge}")))?;
    }
    Ok(())
}

/// Removes a bridge if we made it, by its number.
pub fn remove_own(socket: &Socket, index: u32) -> Result<(), NetworkError> {
    let all = link::all(socket).map_err(NetworkError::kernel("list the host's links"))?;
    if all.iter().any(|link| link.index == index && link.kind == "bridge" && link.alias == LINK_ALIAS) {
        remove(socket, index);
    }
    Ok(())
}

/// Takes a bridge we made out of use, by its number: down, without addresses and under a name nobody asks for. Whether it
/// was ours, and is to be removed when that disturbs nobody; a daemon that dies before leaves it to the next one's
/// [`remove_strangers`].
pub fn retire(socket: &Socket, index: u32) -> Result<bool, NetworkError> {
    let all = link::all(socket).map_err(NetworkError::kernel("list the host's links"))?;
    if !all.iter().any(|link| link.index == index && link.kind == "bridge" && link.alias == LINK_ALIAS) {
        return Ok(false);
    }
    let present = link::addresses(socket, index).map_err(NetworkError::kernel("list the bridge's addresses"))?;
    let mut batch = Batch::new();
    present.iter().for_each(|(address, prefix)| link::delete_address(&mut batch, index, *address, *prefix));
    link::retire(&mut batch, index, &format!("gone-{}", dockerd_types::ids::hex(&crate::random::<4>())));
    socket.transact(&batch).map_err(NetworkError::kernel("take the bridge out of use"))?;
    Ok(true)
}

/// Removes bridges we made that no network has, with the links in them.
pub fn remove_strangers(socket: &Socket, known: &[u32]) -> Result<(), NetworkError> {
    let all = link::all(socket).map_err(NetworkError::kernel("list the host's links"))?;
    let strange = |link: &&Link| link.kind == "bridge" && link.alias == LINK_ALIAS && !known.contains(&link.index);
    for bridge in all.iter().filter(strange) {
        tracing::info!(bridge = bridge.name, "a bridge without a network is removed");
        let port = |link: &&Link| link.master == Some(bridge.index) && link.alias == LINK_ALIAS;
        all.iter().filter(port).for_each(|link| remove(socket, link.index));
        remove(socket, bridge.index);
    }
    Ok(())
}

fn remove(socket: &Socket, index: u32) {
    let mut batch = Batch::new();
    link::delete(&mut batch, index);
    if let Err(error) = socket.transact(&batch) {
        tracing::warn!(index, %error, "a bridge could not be removed");
    }
}

/// Destinations the host has routes to, for the choice of a free subnet.
pub fn routed(socket: &Socket) -> Result<Vec<Subnet>, NetworkError> {
    link::routed_subnets(socket).map_err(NetworkError::kernel("look at the host's routes"))
}

/// A bridge to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order<'a> {
    /// Its number; 0: any.
    pub(super) index: u32,
    pub(super) name: &'a str,
    pub(super) mtu: u32,
    /// `None`: one that is drawn.
    pub(super) mac: Option<MacAddress>,
    /// Noted on it, unless it is empty.
    pub(super) alias: &'a str,
}

pub(super) fn make(socket: &Socket, order: &Order<'_>) -> Result<Link, NetworkError> {
    let Order { index, name, mtu, mac, alias } = *order;
    let mut batch = Batch::new();
    link::add_bridge(&mut batch, index, name, mtu, mac.unwrap_or_else(|| MacAddress::local(crate::random())));
    if !alias.is_empty() {
        link::set_alias(&mut batch, name, alias);
    }
    socket.transact(&batch).map_err(NetworkError::kernel("make the bridge"))?;
    let made = link::by_name(socket, name).map_err(NetworkError::kernel("find the bridge"))?;
    made.ok_or_else(|| NetworkError::io("find the bridge")(io::ErrorKind::NotFound.into()))
}

/// What was configured, else what the bridge has, else the first subnet of the pools the host has no route to.
fn choose(socket: &Socket, config: &NetworkConfig, present: &[(IpAddr, u8)]) -> Result<(IpAddr, Subnet), NetworkError> {
    let chosen = config.bip.or_else(|| first_of(present, false));
    let chosen = chosen.or_else(|| config.fixed_cidr.map(|range| (range.first_host(), range)));
    chosen.map_or_else(|| draw(socket, config, false), Ok)
}

/// The same of IPv6, where the range for containers is the network unless the bridge's own address says another one.
fn choose_ipv6(
    socket: &Socket,
    config: &NetworkConfig,
    present: &[(IpAddr, u8)],
) -> Result<(IpAddr, Subnet), NetworkError> {
    let chosen = config.bip6.or_else(|| config.fixed_cidr_v6.map(|range| (range.first_host(), range)));
    let chosen = chosen.or_else(|| first_of(present, true));
    chosen.map_or_else(|| draw(socket, config, true), Ok)
}

fn first_of(present: &[(IpAddr, u8)], ipv6: bool) -> Option<(IpAddr, Subnet)> {
    let (address, prefix) = *present.iter().find(|(address, _)| address.is_ipv6() == ipv6)?;
    Some((address, Subnet::containing(address, prefix)?))
}

fn draw(socket: &Socket, config: &NetworkConfig, ipv6: bool) -> Result<(IpAddr, Subnet), NetworkError> {
    let subnet = pool::first_free(&config.pools, ipv6, &routed(socket)?).ok_or(NetworkError::PoolsExhausted)?;
    Ok((subnet.first_host(), subnet))
}

/// Links that take what routers announce go on doing so when the host becomes a router itself, which would end it
/// (`accept_ra` in the kernel's ip-sysctl.rst): a host that has its own address from there would lose it.
/// Not so bridges and what is plugged into them: there containers would be the routers.
fn keep_announcements(socket: &Socket) -> Result<(), NetworkError> {
    let all = link::all(socket).map_err(NetworkError::kernel("list the host's links"))?;
    for link in all.iter().filter(|link| link.kind != "bridge" && link.master.is_none() && link.alias != LINK_ALIAS) {
        let path = Path::new("/proc/sys/net/ipv6/conf").join(&link.name).join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            fs::write(&path, "2").map_err(NetworkError::io(format!("set {}", path.display())))?;
        }
    }
    Ok(())
}

/// Lets the host pass packets of a family on; whether it was this call that did it.
pub fn enable_forwarding(socket: &Socket, ipv6: bool) -> Result<bool, NetworkError> {
    let switches: &[&str] =
        if ipv6 { &["ipv6/conf/default/forwarding", "ipv6/conf/all/forwarding"] } else { &["ipv4/ip_forward"] };
    let mut changed = false;
    for switch in switches {
        let path = Path::new("/proc/sys/net").join(switch);
        let now = fs::read_to_string(&path).map_err(NetworkError::io(format!("read {switch}")))?;
        if now.trim() != "1" {
            if ipv6 {
                keep_announcements(socket)?;
            }
            fs::write(&path, "1").map_err(NetworkError::io(format!("enable {switch}")))?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Lets what the host sends from 127.0.0.1 to a published port reach the bridge. Our rules keep the loopback addresses
/// from those on the bridge. Loopback is what such a stream goes out by, as far as its sender knows.
pub fn route_loopback(socket: &Socket, bridge: &str) -> Result<(), NetworkError> {
    enlarge_pieces(socket, link::LOOPBACK);
    let path = Path::new("/proc/sys/net/ipv4/conf").join(bridge).join("route_localnet");
    fs::write(path, "1").map_err(NetworkError::io("enable route_localnet"))
}

/// Nothing depends on it.
pub(crate) fn enlarge_pieces(socket: &Socket, index: u32) {
    if let Err(error) = link::enlarge_pieces(socket, index) {
        tracing::debug!(index, %error, "streams of the host cross a link in pieces of the usual size");
    }
}

/// Whether frames between a bridge's ports pass the packet filter too.
pub fn frames_are_filtered() -> bool {
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|text| text.trim() == "1")
}

/// Whether the host has IPv6 addresses at all.
pub fn host_has_ipv6() -> bool {
    fs::read_to_string("/proc/thread-self/net/if_inet6").is_ok_and(|text| !text.trim().is_empty())
}
