//! What is told of networks that plugins have a part in: to the stack, and to the plugins.

use dockerd_network::driver::{NetworkDetails, NetworkIdentity};
use dockerd_network::ipam::{AddressSource, RemoteSource, SubnetPlan};
use dockerd_network::remote::ipam::{PoolRequest, RemotePool};
use dockerd_network::remote::network::{NetworkAnnouncement, RemoteSettings};
use dockerd_network::stack::RemoteOrder;
use serde_json::{Map, Value, json};

use super::{CreateNetwork, CreatePool, macvlan, pools};
use crate::network::document::{PoolDocument, PoolName, UserNetwork, is_ipam_plugin, is_plugin};

/// Names of a network's own options, as plugins know them.
const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
const INTERNAL: &str = "com.docker.network.internal";
/// Whose value are the driver's options.
const DRIVER: &str = "com.docker.network.generic";

/// Who gives a network's addresses.
pub(super) fn source(network: &UserNetwork) -> AddressSource {
    match network.ipam_driver.as_str() {
        "null" => AddressSource::Nobody,
        driver if is_ipam_plugin(driver) => {
            let pool = |pool: &PoolDocument| Some((pool.subnet, pool.remote.as_ref()?.id.clone()));
            let pools = network.pools_in_use().filter_map(pool).collect();
            AddressSource::Remote(RemoteSource { driver: driver.to_owned(), pools })
        }
        _ => AddressSource::Own,
    }
}

/// What the stack is told of a network whose links a plugin makes.
pub(super) fn order(network: &UserNetwork) -> RemoteOrder {
    let addresses = source(network);
    let has_addresses = !matches!(addresses, AddressSource::Nobody);
    let subnet = |pool: &PoolDocument| SubnetPlan {
        subnet: pool.subnet,
        range: pool.range,
        gateway: gateway(network, pool),
        reserved: pool.auxiliary.values().copied().collect(),
    };
    RemoteOrder {
        settings: RemoteSettings {
            identity: NetworkIdentity { id: network.id.clone(), name: network.name.clone() },
            internal: network.internal,
            details: NetworkDetails {
                subnets: network.pools_in_use().filter(|_| has_addresses).map(subnet).collect(),
                options: network.options.clone(),
            },
        },
        driver: network.driver.clone(),
        addresses,
    }
}

/// The gateway of a pool, if it has one.
fn gateway(network: &UserNetwork, pool: &PoolDocument) -> Option<std::net::IpAddr> {
    let own = network.ipam_driver == "default" && !network.skipped_gateways[usize::from(pool.subnet.is_ipv6())];
    pool.gateway.or_else(|| own.then(|| pools::gateway(pool)))
}

/// Options of a network, as its plugin is told them.
pub(in crate::network) fn options(request: &CreateNetwork) -> Value {
    let [ipv4, ipv6] = request.families();
    let mut options = Map::new();
    options.insert(ENABLE_IPV4.to_owned(), ipv4.into());
    options.insert(ENABLE_IPV6.to_owned(), ipv6.into());
    options.insert(DRIVER.to_owned(), json!(request.options));
    if request.internal {
        options.insert(INTERNAL.to_owned(), true.into());
    }
    Value::Object(options)
}

/// What a plugin is told of a network.
pub(in crate::network) fn announcement(network: &UserNetwork, options: Value) -> NetworkAnnouncement {
    let family = |ipv6: bool| {
        let pools = network.pools_in_use().filter(|pool| pool.subnet.is_ipv6() == ipv6);
        pools.map(|pool| pool_data(network, pool)).collect()
    };
    NetworkAnnouncement { id: network.id.clone(), options, ipv4: family(false), ipv6: family(true) }
}

fn pool_data(network: &UserNetwork, pool: &PoolDocument) -> Value {
    let bits = pool.subnet.prefix();
    let space = match (&pool.remote, network.ipam_driver.as_str(), network.scope.as_str()) {
        (Some(name), ..) => name.space.as_str(),
        (None, "null", _) => "null",
        (None, _, "global") => "GlobalDefault",
        (None, ..) => "LocalDefault",
    };
    let mut data = json!({"AddressSpace": space, "Pool": pool.subnet.to_string()});
    if let Some(gateway) = gateway(network, pool) {
        data["Gateway"] = format!("{gateway}/{bits}").into();
    }
    if !pool.auxiliary.is_empty() {
        let named = pool.auxiliary.iter().map(|(name, address)| (name.clone(), format!("{address}/{bits}").into()));
        data["AuxAddresses"] = Value::Object(named.collect());
    }
    data
}

/// The pools a plugin is asked for, IPv4 first: those the client asked for, and one of each other family.
pub(in crate::network) fn pool_requests(request: &CreateNetwork, skipped_gateways: [bool; 2]) -> Vec<PoolRequest> {
    let families = request.families();
    let stacked = macvlan::kind(&request.driver, &request.options).ok().flatten();
    let needs_gateway = stacked.is_none_or(|kind| macvlan::needs_gateway(kind, &request.options, request.internal));
    let mut out = Vec::new();
    for ipv6 in [false, true].into_iter().filter(|ipv6| families[usize::from(*ipv6)]) {
        let needs_gateway = needs_gateway && !(is_plugin(&request.driver) && skipped_gateways[usize::from(ipv6)]);
        let of_family = request.pools.iter().filter(|pool| !pool.is_empty() && pool.subnet.contains(':') == ipv6);
        let asked: Vec<PoolRequest> = of_family.map(|pool| pool_request(pool, ipv6, needs_gateway)).collect();
        if asked.is_empty() {
            out.push(pool_request(&CreatePool::default(), ipv6, needs_gateway));
        }
        out.extend(asked);
    }
    out
}

fn pool_request(pool: &CreatePool, ipv6: bool, needs_gateway: bool) -> PoolRequest {
    let CreatePool { subnet, range, gateway, auxiliary } = pool.clone();
    PoolRequest { subnet, range, gateway, auxiliary, ipv6, needs_gateway }
}

/// What is stored of a pool that was given.
pub(in crate::network) fn pool_document(asked: &PoolRequest, given: &RemotePool) -> PoolDocument {
    let PoolRequest { subnet, range, gateway, auxiliary, .. } = asked.clone();
    let is_asked = !subnet.is_empty();
    PoolDocument {
        subnet: given.subnet,
        drawn: !is_asked,
        range: range.parse().ok(),
        gateway: given.gateway,
        auxiliary: given.auxiliary.clone(),
        asked: is_asked.then_some(CreatePool { subnet, range, gateway, auxiliary }),
        remote: Some(PoolName { id: given.id.clone(), space: given.space.clone() }),
    }
}

/// A stored pool as the plugin knows it.
pub(in crate::network) fn remote_pool(pool: &PoolDocument) -> Option<RemotePool> {
    let PoolName { id, space } = pool.remote.clone()?;
    let auxiliary = pool.auxiliary.clone();
    Some(RemotePool { id, space, subnet: pool.subnet, gateway: pool.gateway, auxiliary })
}

/// The pool of a network nobody gives addresses of, of one family.
pub(in crate::network) fn pool_of_nobody(ipv6: bool) -> Option<PoolDocument> {
    let everything = if ipv6 { "::/0" } else { "0.0.0.0/0" };
    Some(PoolDocument {
        asked: None,
        subnet: everything.parse().ok()?,
        drawn: true,
        range: None,
        gateway: None,
        auxiliary: Default::default(),
        remote: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_stock_daemon_tells_it() {
        let pool = CreatePool {
            subnet: "10.81.0.0/24".to_owned(),
            range: "10.81.0.128/25".to_owned(),
            gateway: "10.81.0.9".to_owned(),
            auxiliary: [("a".to_owned(), "10.81.0.5".to_owned())].into(),
        };
        let request = CreateNetwork {
            name: "n".to_owned(),
            driver: "plugin".to_owned(),
            enable_ipv6: Some(true),
            internal: true,
            pools: vec![pool],
            ..CreateNetwork::default()
        };
        let wanted = json!({
            "com.docker.network.enable_ipv4": true,
            "com.docker.network.enable_ipv6": true,
            "com.docker.network.generic": {},
            "com.docker.network.internal": true,
        });
        assert_eq!(options(&request), wanted);
        let asked = pool_requests(&request, [false, true]);
        let facts: Vec<_> = asked.iter().map(|pool| (pool.subnet.as_str(), pool.ipv6, pool.needs_gateway)).collect();
        assert_eq!(facts, [("10.81.0.0/24", false, true), ("", true, false)]);
        let given = RemotePool {
            id: "p".to_owned(),
            space: "s".to_owned(),
            subnet: "10.81.0.0/24".parse().expect("subnet"),
            gateway: Some([10, 81, 0, 9].into()),
            auxiliary: [("a".to_owned(), [10, 81, 0, 5].into())].into(),
        };
        let document = pool_document(&asked[0], &given);
        assert_eq!(remote_pool(&document), Some(given));
    }
}
