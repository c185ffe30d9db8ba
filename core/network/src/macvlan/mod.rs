//! The drivers macvlan and ipvlan: a container's link stands on a link of the host, its parent, and is a station of the
//! parent's network. The host forwards nothing, publishes nothing and filters nothing for it. One value is one network.
//!
//! A parent that is not there is made where the stock daemon makes one ([`parent`]); one that goes away later is missed
//! when the next container wants to join.

pub(crate) mod parent;

use std::collections::BTreeMap;

use dockerd_types::NetworkId;
use dockerd_types::network::EndpointState;

use crate::driver::{EndpointRequest, NetworkDetails, NetworkDriver, NetworkIdentity, hardware_address};
use crate::error::NetworkError;
use crate::ipam::{AddressSource, Addresses, SubnetPlan};
use crate::link::stacked::{IpvlanFlag, IpvlanMode, MacvlanMode};
use crate::pool::ShelfId;
use crate::sandbox::{INNER_PREFIX, LinkKind, LinkPlan};

/// Which of the two drivers, with its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackedKind {
    /// `macvlan`.
    Macvlan(MacvlanMode),
    /// `ipvlan`.
    Ipvlan(IpvlanMode, IpvlanFlag),
}

impl StackedKind {
    /// The driver's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Macvlan(_) => "macvlan",
            Self::Ipvlan(..) => "ipvlan",
        }
    }

    /// Name of the parent a network without one gets of its own.
    pub fn own_parent(self, id: &NetworkId) -> String {
        let prefix = match self {
            Self::Macvlan(_) => "dm",
            Self::Ipvlan(..) => "di",
        };
        format!("{prefix}-{}", id.short())
    }

    /// Whether containers are routed and need nobody as a gateway.
    pub fn is_routed(self) -> bool {
        matches!(self, Self::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _))
    }
}

/// What a network of either driver is like, resolved.
#[derive(Debug, Clone)]
pub struct MacvlanOrder {
    /// Who it is.
    pub identity: NetworkIdentity,
    /// The driver and its options.
    pub kind: StackedKind,
    /// Name of the link containers' links stand on.
    pub parent: String,
    /// Whether that is a link of this network's own, which leads nowhere.
    pub own_parent: bool,
    /// Whether containers get no way out.
    pub internal: bool,
    /// Its subnets; only those that are a way out have a gateway.
    pub subnets: Vec<SubnetPlan>,
    /// Who gives its addresses.
    pub addresses: AddressSource,
    /// Options as inspect shows them.
    pub options: BTreeMap<String, String>,
}

/// One network.
#[derive(Debug)]
pub struct MacvlanNetwork {
    identity: NetworkIdentity,
    kind: StackedKind,
    details: NetworkDetails,
    plan: LinkPlan,
    shelf: ShelfId,
    addresses: Addresses,
}

impl MacvlanNetwork {
    /// The driver; `shelf` has sandboxes with loopback only.
    pub fn new(order: MacvlanOrder, addresses: Addresses, shelf: ShelfId) -> Self {
        let MacvlanOrder { identity, kind, parent, own_parent: _, internal, subnets, addresses: _, options } = order;
        let link = match kind {
            StackedKind::Macvlan(mode) => LinkKind::Macvlan { parent, mode },
            StackedKind::Ipvlan(mode, flag) => LinkKind::Ipvlan { parent, mode, flag },
        };
        let plan = LinkPlan {
            kind: link,
            ipv6: subnets.iter().any(|plan| plan.subnet.is_ipv6()),
            leads_out: kind.is_routed() && !internal,
            prefix: INNER_PREFIX.to_owned(),
        };
        Self { identity, kind, details: NetworkDetails { subnets, options }, plan, shelf, addresses }
    }
}

impl NetworkDriver for MacvlanNetwork {
    fn identity(&self) -> &NetworkIdentity {
        &self.identity
    }

    fn kind(&self) -> &str {
        self.kind.name()
    }

    fn shelf(&self) -> Option<ShelfId> {
        Some(self.shelf)
    }

    fn link(&self) -> Option<&LinkPlan> {
        Some(&self.plan)
    }

    fn addresses(&self) -> Option<&Addresses> {
        Some(&self.addresses)
    }

    fn allot(&self, request: &EndpointRequest<'_>) -> Result<EndpointState, NetworkError> {
        let own_address = matches!(self.kind, StackedKind::Macvlan(_));
        if !own_address && request.config.mac_address.as_ref().is_some_and(|mac| !mac.is_empty()) {
            return Err(NetworkError::CustomMac(self.kind.name()));
        }
        let mac = hardware_address(request.config);
        let mut state = self.addresses.endpoint(&self.identity, request, Some(mac))?;
        if !own_address {
            // It is the parent's, and not told.
            state.mac_address.clear();
        }
        Ok(state)
    }

    fn details(&self) -> NetworkDetails {
        self.details.clone()
    }
}
