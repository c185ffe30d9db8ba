//! Links that stand on another link (`linux/if_link.h`): macvlan and ipvlan for containers, vlan and dummy for these to
//! stand on.

use std::os::fd::{AsRawFd, BorrowedFd};

use dockerd_sys::netlink::message::{ACK, CREATE, EXCLUSIVE};
use dockerd_sys::netlink::{Batch, MessageWriter};

use super::{UP, link_header};

/// `IFLA_MACVLAN_MODE`.
const MACVLAN_MODE: u16 = 1;
/// `IFLA_IPVLAN_MODE`.
const IPVLAN_MODE: u16 = 1;
/// `IFLA_IPVLAN_FLAGS`.
const IPVLAN_FLAGS: u16 = 2;
/// `IFLA_VLAN_ID`.
const VLAN_ID: u16 = 1;

/// Whom those on one parent reach (`enum macvlan_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Not each other.
    Private = 1,
    /// Each other by way of a switch outside that sends frames back.
    Vepa = 2,
    /// Each other.
    Bridge = 4,
    /// It is alone, and the parent is all its own.
    Passthru = 8,
}

/// At which layer those on one parent are told apart (`enum ipvlan_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// They take part in what is broadcast.
    L2 = 0,
    /// They are routed.
    L3 = 1,
    /// Routed, and the host's packet filter sees it.
    L3s = 2,
}

/// Whom those on one parent reach (`IPVLAN_F_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanFlag {
    /// Each other.
    Bridge = 0,
    /// Not each other.
    Private = 1,
    /// Each other by way of a switch outside that sends frames back.
    Vepa = 2,
}

/// A link for a container.
#[derive(Debug, Clone, Copy)]
pub struct StackedOrder<'a> {
    /// Its name inside.
    pub name: &'a str,
    /// Number of the host's link it stands on.
    pub parent: u32,
    /// The container's network namespace.
    pub netns: BorrowedFd<'a>,
}

/// Makes a macvlan link, down, in the container's namespace.
pub fn add_macvlan(batch: &mut Batch, order: StackedOrder<'_>, mode: MacvlanMode) {
    add_inside(batch, order, "macvlan", |data| {
        data.u32(MACVLAN_MODE, mode as u32);
    });
}

/// Makes an ipvlan link, down, in the container's namespace.
pub fn add_ipvlan(batch: &mut Batch, order: StackedOrder<'_>, mode: IpvlanMode, flag: IpvlanFlag) {
    add_inside(batch, order, "ipvlan", |data| {
        data.bytes(IPVLAN_MODE, &(mode as u16).to_ne_bytes()).bytes(IPVLAN_FLAGS, &(flag as u16).to_ne_bytes());
    });
}

fn add_inside(batch: &mut Batch, order: StackedOrder<'_>, kind: &str, data: impl FnOnce(&mut MessageWriter<'_>)) {
    let StackedOrder { name, parent, netns } = order;
    let netns = u32::try_from(netns.as_raw_fd()).unwrap_or(u32::MAX);
    let mut message = batch.message(libc::RTM_NEWLINK, ACK | CREATE | EXCLUSIVE);
    message.raw(&link_header(0, 0, 0)).c_text(libc::IFLA_IFNAME, name);
    message.u32(libc::IFLA_LINK, parent).u32(libc::IFLA_NET_NS_FD, netns);
    message.nest(libc::IFLA_LINKINFO, |info| {
        info.text(libc::IFLA_INFO_KIND, kind).nest(libc::IFLA_INFO_DATA, data);
    });
}

/// Makes the link of a virtual LAN of `parent`'s, down.
pub fn add_vlan(batch: &mut Batch, name: &str, parent: u32, id: u16) {
    let mut message = batch.message(libc::RTM_NEWLINK, ACK | CREATE | EXCLUSIVE);
    message.raw(&link_header(0, 0, 0)).c_text(libc::IFLA_IFNAME, name).u32(libc::IFLA_LINK, parent);
    message.nest(libc::IFLA_LINKINFO, |info| {
        info.text(libc::IFLA_INFO_KIND, "vlan").nest(libc::IFLA_INFO_DATA, |data| {
            data.bytes(VLAN_ID, &id.to_ne_bytes());
        });
    });
}

/// Makes a link that leads nowhere, up.
pub fn add_dummy(batch: &mut Batch, name: &str) {
    let mut message = batch.message(libc::RTM_NEWLINK, ACK | CREATE | EXCLUSIVE);
    message.raw(&link_header(0, UP, UP)).c_text(libc::IFLA_IFNAME, name).nest(libc::IFLA_LINKINFO, |info| {
        info.text(libc::IFLA_INFO_KIND, "dummy");
    });
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// A message without its header, whose length it checks.
    fn body(batch: &Batch) -> &[u8] {
        let bytes = batch.bytes();
        assert_eq!(bytes[..4], (bytes.len() as u32).to_ne_bytes());
        assert_eq!(bytes[4..6], libc::RTM_NEWLINK.to_ne_bytes());
        &bytes[16..]
    }

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = ((payload.len() + 4) as u16).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(payload);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn nest(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
        attribute(kind | libc::NLA_F_NESTED as u16, &parts.concat())
    }

    fn info(kind: &str, data: &[Vec<u8>]) -> Vec<u8> {
        nest(18, &[attribute(1, kind.as_bytes()), nest(2, data)])
    }

    #[test]
    fn containers_links() {
        let here = std::fs::File::open("/proc/thread-self/ns/net").expect("namespace");
        let netns = (here.as_fd().as_raw_fd() as u32).to_ne_bytes();
        let order = StackedOrder { name: "eth0", parent: 7, netns: here.as_fd() };
        let head =
            [vec![0; 16], attribute(3, b"eth0\0"), attribute(5, &7u32.to_ne_bytes()), attribute(28, &netns)].concat();
        for (mode, number) in
            [(MacvlanMode::Private, 1u32), (MacvlanMode::Vepa, 2), (MacvlanMode::Bridge, 4), (MacvlanMode::Passthru, 8)]
        {
            let mut batch = Batch::new();
            add_macvlan(&mut batch, order, mode);
            let wanted = [head.clone(), info("macvlan", &[attribute(1, &number.to_ne_bytes())])].concat();
            assert_eq!(body(&batch), wanted);
        }
        for (mode, flag, numbers) in [
            (IpvlanMode::L2, IpvlanFlag::Bridge, [0u16, 0]),
            (IpvlanMode::L3, IpvlanFlag::Private, [1, 1]),
            (IpvlanMode::L3s, IpvlanFlag::Vepa, [2, 2]),
        ] {
            let mut batch = Batch::new();
            add_ipvlan(&mut batch, order, mode, flag);
            let data = [attribute(1, &numbers[0].to_ne_bytes()), attribute(2, &numbers[1].to_ne_bytes())];
            assert_eq!(body(&batch), [head.clone(), info("ipvlan", &data)].concat());
        }
    }

    #[test]
    fn parents() {
        let mut batch = Batch::new();
        add_vlan(&mut batch, "eth0.100", 7, 100);
        let wanted = [
            vec![0; 16],
            attribute(3, b"eth0.100\0"),
            attribute(5, &7u32.to_ne_bytes()),
            info("vlan", &[attribute(1, &100u16.to_ne_bytes())]),
        ];
        assert_eq!(body(&batch), wanted.concat());
        let mut batch = Batch::new();
        add_dummy(&mut batch, "dm-0123456789ab");
        let up = [[0u8; 8].as_slice(), &1u32.to_ne_bytes(), &1u32.to_ne_bytes()].concat();
        let wanted = [up, attribute(3, b"dm-0123456789ab\0"), nest(18, &[attribute(1, b"dummy")])];
        assert_eq!(body(&batch), wanted.concat());
    }
}
