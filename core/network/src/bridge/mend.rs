//! Bridges that others took away, took down or took addresses from are put right: with the number and the hardware address
//! they had, so that nothing that knows them has to learn anew, and with the ports that lost them.

use std::net::IpAddr;

use dockerd_sys::netlink::{Batch, Message, Socket};

use super::setup::{self, BridgeLink, Order};
use crate::error::NetworkError;
use crate::link::{self, Link};
use crate::sandbox::LINK_ALIAS;

/// What a bridge of ours is to be like.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// Its link.
    pub link: BridgeLink,
    /// Largest packet.
    pub mtu: u32,
    /// Its own addresses with the bits of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whether its ports are kept from each other.
    pub isolated: bool,
}

/// Whether a change, as the kernel tells of it, may have done damage.
pub(crate) fn is_harmful(change: &Message<'_>) -> bool {
    match change.kind {
        libc::RTM_DELLINK | libc::RTM_DELADDR => true,
        libc::RTM_NEWLINK => link::is_down(change),
        _ => false,
    }
}

/// Puts right what is not as it should be; says whether it was. What fails keeps the others from nothing. Blocking.
pub(crate) fn mend(socket: &Socket, wanted: &[Upkeep], route_loopback: bool) -> Result<bool, NetworkError> {
    let links = link::all(socket).map_err(NetworkError::kernel("list the host's links"))?;
    let addresses = link::all_addresses(socket).map_err(NetworkError::kernel("list the host's addresses"))?;
    let mut mended = false;
    for upkeep in wanted {
        let bridge = &upkeep.link.name;
        match mend_one(socket, upkeep, &links, &addresses, route_loopback) {
            Ok(false) => {}
            Ok(true) => {
                mended = true;
                tracing::warn!(bridge, "another program damaged a bridge; it is as before");
            }
            Err(error) => tracing::error!(bridge, %error, "a bridge is damaged"),
        }
    }
    Ok(mended)
}

fn mend_one(
    socket: &Socket,
    upkeep: &Upkeep,
    links: &[Link],
    addresses: &[(u32, IpAddr, u8)],
    route_loopback: bool,
) -> Result<bool, NetworkError> {
    let Upkeep { link: BridgeLink { index, name, mac, alias, .. }, mtu, addresses: wanted, isolated } = upkeep;
    let found = links.iter().find(|link| link.index == *index);
    let missing: Vec<_> =
        wanted.iter().filter(|(address, prefix)| !addresses.contains(&(*index, *address, *prefix))).collect();
    let lost: Vec<_> = links.iter().filter(|link| link.alias == LINK_ALIAS && link.group == *index).collect();
    let lost: Vec<u32> = lost.iter().filter(|link| link.master.is_none()).map(|link| link.index).collect();
    if found.is_some_and(|link| link.is_up) && missing.is_empty() && lost.is_empty() {
        return Ok(false);
    }
    if found.is_none() {
        setup::make(socket, &Order { index: *index, name, mtu: *mtu, mac: *mac, alias })?;
        if route_loopback {
            setup::route_loopback(socket, name)?;
        }
    }
    if wanted.iter().any(|(address, _)| address.is_ipv6()) {
        setup::enable_ipv6(name)?;
    }
    let mut batch = Batch::new();
    link::set_up(&mut batch, *index);
    missing.iter().for_each(|(address, prefix)| link::add_address(&mut batch, *index, *address, *prefix));
    lost.iter().for_each(|port| link::attach(&mut batch, *port, *index, *isolated));
    match socket.transact(&batch) {
        // A container that ended this moment has no port any more; all that can be done is done all the same.
        Err(error) if error.is(libc::ENODEV) => tracing::debug!(bridge = name, %error, "a port was gone"),
        outcome => outcome.map_err(NetworkError::kernel("set up the bridge"))?,
    }
    // One that was made again, and has its ports again.
    setup::enlarge_pieces(socket, *index);
    Ok(true)
}
