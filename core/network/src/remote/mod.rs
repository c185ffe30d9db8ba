//! Networks whose links a plugin makes, and addresses that a plugin gives ([`crate::plugins`]).
//!
//! | module | what it is |
//! |---|---|
//! | [`network`] | the driver: one value is one network |
//! | [`ipam`] | a plugin that gives pools and addresses |
//! | [`leases`] | addresses of one network's containers |
//! | [`ledger`] | what plugins have been asked for and must be asked to take back, on disk |
//! | [`request`] | what they are told of a container |
//! | [`link`] | what they answer to `Join` |
//!
//! What a plugin has given is written down before it is used and struck when it was given back, so that after a daemon's
//! death the next one knows what to give back. A plugin that cannot be reached at that time is asked by a later daemon.

pub mod ipam;
pub mod leases;
pub mod ledger;
pub mod link;
pub mod network;
pub(crate) mod request;

use crate::plugins::PluginError;
use dockerd_types::{ErrorKind, Kinded};

/// What a plugin answered that cannot be used, in the stock daemon's words.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The plugin itself failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// It changed an address that somebody else gave.
    #[error(
        "driver modified interface address: endpoint interface IP present ({present}). Cannot be modified with ({wanted})."
    )]
    AddressPresent {
        /// What the endpoint has.
        present: String,
        /// What the plugin wants.
        wanted: String,
    },
    /// It changed the hardware address.
    #[error(
        "driver modified interface MAC address: endpoint interface MAC address present ({present}). Cannot be modified with {wanted}."
    )]
    MacPresent {
        /// What the endpoint has.
        present: String,
        /// What the plugin wants.
        wanted: String,
    },
    /// No address with the length of its prefix.
    #[error("invalid CIDR address: {0}")]
    Cidr(String),
    /// No subnet.
    #[error("netip.ParsePrefix({text:?}): {why}")]
    Prefix {
        /// As answered.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// A subnet or an address of the other family.
    #[error("invalid address {text}: it is not of {family}")]
    Family {
        /// As answered.
        text: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// No hardware address.
    #[error("address {0}: invalid MAC address")]
    Mac(String),
    /// No address of a gateway.
    #[error("unable to parse {member} {text:?}")]
    Gateway {
        /// `Gateway` or `GatewayIPv6`.
        member: &'static str,
        /// As answered.
        text: String,
    },
    /// No address of a route's next station.
    #[error("failed to parse nexthop IP {0}")]
    NextHop(String),
    /// The link it made is not there.
    #[error("failed to add interface {0} to sandbox: failed to get link by name {0:?}: Link not found")]
    NoLink(String),
    /// The link it made cannot be moved.
    #[error("failed to add interface {name} to sandbox: failed to set namespace on link {name:?}: {why}")]
    Move {
        /// The link.
        name: String,
        /// What the kernel said.
        why: String,
    },
    /// The gateway is on none of the container's links.
    #[error(
        "updating gateway endpoint: failed to set gateway: route for the gateway {gateway} could not be found: {why}"
    )]
    Unreachable {
        /// The gateway.
        gateway: String,
        /// What the kernel said.
        why: String,
    },
    /// A route cannot be set.
    #[error("failed to add static route {destination}: {}{why}", no_way_to(.hop.as_deref()))]
    Route {
        /// Whither.
        destination: String,
        /// By whom, if there is no way to him at all.
        hop: Option<String>,
        /// What the kernel said.
        why: String,
    },
    /// No gateway's address was given.
    #[error("failed to allocate gateway ({asked}): {source}")]
    NoGateway {
        /// The one asked for, or nothing.
        asked: String,
        /// Why.
        source: Box<RemoteError>,
    },
    /// An address that is to be nobody's was not given.
    #[error("failed to allocate secondary ip address ({name}:{address}): {source}")]
    NoAuxiliary {
        /// Its name.
        name: String,
        /// The address.
        address: String,
        /// Why.
        source: Box<RemoteError>,
    },
    /// Nobody could say from where addresses come.
    #[error("failed to get default address space: {0}")]
    NoAddressSpace(Box<RemoteError>),
    /// The address asked for is in none of the pools.
    #[error("invalid address {0}: It does not belong to any of this network's subnets")]
    Outside(std::net::IpAddr),
    /// The plugin's part was undone.
    #[error("{0}; rolled back")]
    RolledBack(Box<RemoteError>),
    /// Undoing failed too.
    #[error("{undo}; failed to roll back: {source}")]
    NotRolledBack {
        /// Why undoing failed.
        undo: PluginError,
        /// Why it was to be undone.
        source: Box<RemoteError>,
    },
}

fn no_way_to(hop: Option<&str>) -> String {
    hop.map(|hop| format!("route for the next hop {hop} could not be found: ")).unwrap_or_default()
}

impl Kinded for RemoteError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Plugin(inner) => inner.kind(),
            // So does the stock daemon.
            Self::NoAddressSpace(_) => ErrorKind::NotFound,
            Self::Outside(_) => ErrorKind::InvalidArgument,
            _ => ErrorKind::System,
        }
    }
}
