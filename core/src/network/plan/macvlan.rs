//! What the drivers macvlan and ipvlan are told of a network.

use dockerd_network::driver::NetworkIdentity;
use dockerd_network::ipam::SubnetPlan;
use dockerd_network::link::stacked::{IpvlanFlag, IpvlanMode, MacvlanMode};
use dockerd_network::macvlan::{MacvlanOrder, StackedKind};
use dockerd_types::NetworkId;

use super::{PlanError, pools, remote};
use crate::network::document::UserNetwork;

/// Driver options, by their names in the API.
const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";

type Options = std::collections::BTreeMap<String, String>;

/// The driver and its options; `None` for other drivers.
pub(super) fn kind(driver: &str, options: &Options) -> Result<Option<StackedKind>, PlanError> {
    let text = |option: &str| options.get(option).map(String::as_str).unwrap_or_default();
    let kind = match driver {
        "macvlan" => StackedKind::Macvlan(match text(MACVLAN_MODE) {
            "" | "bridge" => MacvlanMode::Bridge,
            "private" => MacvlanMode::Private,
            "vepa" => MacvlanMode::Vepa,
            "passthru" => MacvlanMode::Passthru,
            other => return Err(PlanError::MacvlanMode(other.to_owned())),
        }),
        "ipvlan" => {
            let mode = match text(IPVLAN_MODE) {
                "" | "l2" => IpvlanMode::L2,
                "l3" => IpvlanMode::L3,
                "l3s" => IpvlanMode::L3s,
                other => return Err(PlanError::IpvlanMode(other.to_owned())),
            };
            let flag = match text(IPVLAN_FLAG) {
                "" | "bridge" => IpvlanFlag::Bridge,
                "private" => IpvlanFlag::Private,
                "vepa" => IpvlanFlag::Vepa,
                other => return Err(PlanError::IpvlanFlag(other.to_owned())),
            };
            StackedKind::Ipvlan(mode, flag)
        }
        _ => return Ok(None),
    };
    if text(PARENT) == "lo" {
        return Err(PlanError::Loopback(kind.name()));
    }
    Ok(Some(kind))
}

/// The parent's name: the one asked for, or that of the network's own.
pub(super) fn parent(kind: StackedKind, options: &Options, id: &NetworkId) -> String {
    let asked = options.get(PARENT).filter(|name| !name.is_empty()).cloned();
    asked.unwrap_or_else(|| kind.own_parent(id))
}

/// Whether its subnets need a gateway's address: not where nothing leads out, and not where the link itself does.
pub(super) fn needs_gateway(kind: StackedKind, options: &Options, internal: bool) -> bool {
    !internal && has_parent(options) && !kind.is_routed()
}

fn has_parent(options: &Options) -> bool {
    options.get(PARENT).is_some_and(|name| !name.is_empty())
}

pub(super) fn order(network: &UserNetwork, kind: StackedKind) -> MacvlanOrder {
    let options = &network.options;
    let leads_out = needs_gateway(kind, options, network.internal);
    let subnet = |pool: &crate::network::document::PoolDocument| {
        // One asked for is nobody's even where it leads nowhere.
        let asked = pool.gateway.filter(|_| !leads_out);
        SubnetPlan {
            subnet: pool.subnet,
            range: pool.range,
            gateway: leads_out.then(|| pools::gateway(pool)),
            reserved: pool.auxiliary.values().copied().chain(asked).collect(),
        }
    };
    MacvlanOrder {
        identity: NetworkIdentity { id: network.id.clone(), name: network.name.clone() },
        kind,
        parent: network.link.clone(),
        own_parent: !has_parent(options),
        internal: network.internal || !has_parent(options),
        subnets: network.pools_in_use().map(subnet).collect(),
        addresses: remote::source(network),
        options: options.clone(),
    }
}
