//! What containers' links stand on: a link of the host that is there, a virtual LAN of one (`eth0.100`), or a dummy link
//! that joins the containers of one network only. What we made has [`LINK_ALIAS`] and goes with the last network on it.
//! Blocking.

use dockerd_sys::netlink::{Batch, NetlinkError, Socket};

use super::{MacvlanOrder, StackedKind};
use crate::driver::NetworkDriver;
use crate::error::NetworkError;
use crate::link::stacked::{self, MacvlanMode};
use crate::link::{self, Link};
use crate::sandbox::{LINK_ALIAS, LinkKind};

/// Why a link cannot be a parent, in the stock daemon's words.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// It is not there, and no name of a virtual LAN.
    #[error("invalid subinterface vlan name {0}, example formatting is eth0.10")]
    NoVlan(String),
    /// Too many dots.
    #[error("required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received {0}")]
    Format(String),
    /// No number behind the dot.
    #[error("unable to parse a valid vlan id from: {0} (ex. eth0.10 for vlan 10)")]
    VlanText(String),
    /// A number no virtual LAN has.
    #[error("vlan id must be between 1-4094, received: {0}")]
    VlanRange(i64),
    /// The link a virtual LAN is to be of.
    #[error("-o parent interface was not found on the host: {0}")]
    Missing(String),
    /// The kernel made no virtual LAN.
    #[error("failed to create {name} vlan link: {}", crate::error::errno_text(.source.io()))]
    Vlan {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: NetlinkError,
    },
    /// The kernel made no dummy link.
    #[error("{}", crate::error::errno_text(.0.io()))]
    Dummy(NetlinkError),
    /// An ipvlan network is alone on its parent.
    #[error("network {network} is already using parent interface {parent}")]
    Taken {
        /// Whose it is.
        network: String,
        /// The parent.
        parent: String,
    },
    /// Who is passed through is alone, too.
    #[error("cannot use mode passthru, macvlan network {network} is already using parent interface {parent}")]
    NotAlone {
        /// Who is on it.
        network: String,
        /// The parent.
        parent: String,
    },
    /// The same from the other side.
    #[error("macvlan network {network} is already using parent interface {parent} in mode passthru")]
    PassedThrough {
        /// Whose it is.
        network: String,
        /// The parent.
        parent: String,
    },
}

/// Whether the new network may use its parent beside these.
pub(crate) fn check_sharing<'a>(
    order: &MacvlanOrder,
    others: impl Iterator<Item = &'a dyn NetworkDriver>,
) -> Result<(), ParentError> {
    for other in others {
        let Some(plan) = other.link().filter(|plan| plan.parent() == Some(&order.parent)) else { continue };
        let (id, parent) = (&other.identity().id, order.parent.clone());
        let network = id.to_string();
        match (order.kind, &plan.kind) {
            (StackedKind::Ipvlan(..), LinkKind::Ipvlan { .. }) => {
                return Err(ParentError::Taken { network: order.kind.own_parent(id), parent });
            }
            (StackedKind::Macvlan(MacvlanMode::Passthru), LinkKind::Macvlan { .. }) => {
                return Err(ParentError::NotAlone { network, parent });
            }
            (StackedKind::Macvlan(_), LinkKind::Macvlan { mode: MacvlanMode::Passthru, .. }) => {
                return Err(ParentError::PassedThrough { network, parent });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the parent if it is not there.
pub(crate) fn ensure(socket: &Socket, order: &MacvlanOrder) -> Result<(), NetworkError> {
    let name = order.parent.as_str();
    if find(socket, name)?.is_some() {
        return Ok(());
    }
    let mut batch = Batch::new();
    if order.own_parent {
        stacked::add_dummy(&mut batch, name);
        link::set_alias(&mut batch, name, LINK_ALIAS);
        return socket.transact(&batch).map_err(|source| ParentError::Dummy(source).into());
    }
    let (of, id) = parse_vlan(name)?;
    let of = find(socket, of)?.ok_or_else(|| ParentError::Missing(of.to_owned()))?;
    let id = u16::try_from(id).ok().filter(|id| (1..=4094).contains(id)).ok_or(ParentError::VlanRange(id))?;
    stacked::add_vlan(&mut batch, name, of.index, id);
    link::set_alias(&mut batch, name, LINK_ALIAS);
    link::set_up_named(&mut batch, name);
    socket.transact(&batch).map_err(|source| ParentError::Vlan { name: name.to_owned(), source }.into())
}

/// The link and the number of the virtual LAN in `eth0.100`.
fn parse_vlan(name: &str) -> Result<(&str, i64), ParentError> {
    let (of, id) = name.split_once('.').ok_or_else(|| ParentError::NoVlan(name.to_owned()))?;
    if id.contains('.') {
        return Err(ParentError::Format(name.to_owned()));
    }
    Ok((of, id.parse().map_err(|_| ParentError::VlanText(id.to_owned()))?))
}

/// Removes a parent we made, if none of these stands on it.
pub(crate) fn remove_own<'a>(
    socket: &Socket,
    name: &str,
    mut others: impl Iterator<Item = &'a dyn NetworkDriver>,
) -> Result<(), NetworkError> {
    if others.any(|other| other.link().is_some_and(|plan| plan.parent() == Some(name))) {
        return Ok(());
    }
    find(socket, name)?.iter().filter(|link| is_ours(link)).for_each(|link| remove(socket, link));
    Ok(())
}

/// Removes parents we made that no network stands on.
pub(crate) fn remove_strangers(socket: &Socket, known: &[&str]) -> Result<(), NetworkError> {
    let all = link::all(socket).map_err(NetworkError::kernel("list the host's links"))?;
    for link in all.iter().filter(|link| is_ours(link) && !known.contains(&link.name.as_str())) {
        tracing::info!(link = link.name, "a link that containers stood on is removed: it has no network");
        remove(socket, link);
    }
    Ok(())
}

fn is_ours(link: &Link) -> bool {
    matches!(link.kind.as_str(), "vlan" | "dummy") && link.alias == LINK_ALIAS
}

fn remove(socket: &Socket, parent: &Link) {
    let mut batch = Batch::new();
    link::delete(&mut batch, parent.index);
    if let Err(error) = socket.transact(&batch) {
        tracing::warn!(link = parent.name, %error, "a link that containers stood on could not be removed");
    }
}

fn find(socket: &Socket, name: &str) -> Result<Option<Link>, NetworkError> {
    match link::by_name(socket, name) {
        // Longer than any link's name, say.
        Err(error) if error.is(libc::EINVAL) || error.is(libc::ERANGE) => Ok(None),
        found => found.map_err(NetworkError::kernel("look at the host's links")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_virtual_lans() {
        let text = |name| parse_vlan(name).map_err(|error| error.to_string());
        assert_eq!(text("eth0.100"), Ok(("eth0", 100)));
        assert_eq!(text("eth0.-1"), Ok(("eth0", -1)));
        for (name, wanted) in [
            ("eth9", "invalid subinterface vlan name eth9, example formatting is eth0.10"),
            ("eth0.abc", "unable to parse a valid vlan id from: abc (ex. eth0.10 for vlan 10)"),
            ("eth0.", "unable to parse a valid vlan id from:  (ex. eth0.10 for vlan 10)"),
            (
                "p0.10.20",
                "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received p0.10.20",
            ),
        ] {
            assert_eq!(text(name), Err(wanted.to_owned()));
        }
    }

    #[test]
    fn kernels_that_cannot() {
        let refused = || NetlinkError::Refused {
            message: 1,
            source: std::io::Error::from_raw_os_error(libc::EOPNOTSUPP),
            text: "Unknown device type".to_owned(),
        };
        let vlan = ParentError::Vlan { name: "eth0.100".to_owned(), source: refused() };
        assert_eq!(vlan.to_string(), "failed to create eth0.100 vlan link: operation not supported");
        assert_eq!(ParentError::Dummy(refused()).to_string(), "operation not supported");
        let port = NetworkError::StackedLink { kind: "ipvlan", source: refused() };
        assert_eq!(port.to_string(), "failed to create the ipvlan port: operation not supported");
    }
}
