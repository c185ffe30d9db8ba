//! Address pools of a network: what a client may ask for, and what is chosen where it asked for nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dockerd_network::ipam::Subnet;

use super::{CreatePool, PlanError, Surroundings};
use crate::network::document::PoolDocument;

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

/// All that is wrong with the pools, as the stock daemon lists it. Pools of IPv6 do not matter where it is off.
pub(super) fn check(pools: &[CreatePool], ipv6: bool) -> Result<(), PlanError> {
    let mut problems = Vec::new();
    for pool in pools.iter().filter(|pool| !pool.is_empty()) {
        match Subnet::parse_with_address(&pool.subnet) {
            Err(_) => problems.push(format!("invalid subnet {}: invalid CIDR block notation", pool.subnet)),
            Ok((_, subnet)) if subnet.is_ipv6() && !ipv6 => {}
            Ok((address, subnet)) => check_pool(pool, address, subnet, &mut problems),
        }
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err(PlanError::Pools(problems.remove(0))),
        _ => Err(PlanError::Pools(problems.iter().map(|p| format!("* {p}")).collect::<Vec<_>>().join("\n"))),
    }
}

fn check_pool(pool: &CreatePool, address: IpAddr, subnet: Subnet, problems: &mut Vec<String>) {
    if address != subnet.first() {
        problems.push(format!("invalid subnet {}: it should be {subnet}", pool.subnet));
    }
    if !pool.range.is_empty() {
        check_range(&pool.range, subnet, problems);
    }
    let mut check = |what: String, text: &String| match text.parse::<IpAddr>() {
        Err(_) => problems.push(format!("invalid {what}: invalid address")),
        Ok(address) if address.is_ipv6() != subnet.is_ipv6() => {
            problems.push(format!("invalid {what}: parent subnet is an {} block", family(subnet.is_ipv6())));
        }
        Ok(address) if !subnet.contains(address) => {
            problems.push(format!("invalid {what}: parent subnet {subnet} doesn't contain this address"));
        }
        Ok(_) => {}
    };
    if !pool.gateway.is_empty() {
        check(format!("gateway {}", pool.gateway), &pool.gateway);
    }
    for (name, text) in &pool.auxiliary {
        check(format!("auxiliary address {name}"), text);
    }
}

fn check_range(text: &str, subnet: Subnet, problems: &mut Vec<String>) {
    let Ok((address, range)) = Subnet::parse_with_address(text) else {
        return problems.push(format!("invalid ip-range {text}: invalid CIDR block notation"));
    };
    if range.is_ipv6() != subnet.is_ipv6() {
        let family = family(subnet.is_ipv6());
        return problems.push(format!("invalid ip-range {text}: parent subnet is an {family} block"));
    }
    if address != range.first() {
        problems.push(format!("invalid ip-range {text}: it should be {range}"));
    }
    if range.prefix() < subnet.prefix() {
        problems.push(format!("invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"));
    }
    if !subnet.overlaps(range) {
        problems.push(format!("invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"));
    }
}

/// The pools that were asked for, IPv4 first.
pub(super) fn asked(pools: Vec<CreatePool>) -> Result<Vec<PoolDocument>, PlanError> {
    let mut given = { pools }.into_iter().filter(|pool| !pool.is_empty()).map(given).collect::<Result<Vec<_>, _>>()?;
    given.sort_by_key(|pool| pool.subnet.is_ipv6());
    Ok(given)
}

/// The pools of a network of these families: those asked for, of which some may be of no use, then a free subnet for each
/// family that has none, with a gateway if one is needed.
pub(super) fn choose(
    asked: Vec<PoolDocument>,
    families: [bool; 2],
    needs_gateway: bool,
    around: &Surroundings<'_>,
) -> Result<Vec<PoolDocument>, PlanError> {
    let mut pools = asked;
    let wanted = |ipv6: bool| families[usize::from(ipv6)];
    for ipv6 in [false, true].into_iter().filter(|ipv6| wanted(*ipv6)) {
        if !pools.iter().any(|pool| pool.subnet.is_ipv6() == ipv6) {
            let needs_gateway = needs_gateway && !around.skipped_gateways[usize::from(ipv6)];
            pools.push(drawn(around.free[usize::from(ipv6)].ok_or(PlanError::Overlap)?, needs_gateway));
        }
    }
    apart(pools, families, around)
}

/// The pools, of which those of the network's families overlap no other.
pub(super) fn apart(
    pools: Vec<PoolDocument>,
    families: [bool; 2],
    around: &Surroundings<'_>,
) -> Result<Vec<PoolDocument>, PlanError> {
    let wanted = |ipv6: bool| families[usize::from(ipv6)];
    let used: Vec<Subnet> = pools.iter().map(|pool| pool.subnet).filter(|subnet| wanted(subnet.is_ipv6())).collect();
    for (at, subnet) in used.iter().enumerate() {
        if { around.taken.iter().chain(&used[..at]) }.any(|other| other.overlaps(*subnet)) {
            return Err(PlanError::Overlap);
        }
    }
    Ok(pools)
}

fn drawn(subnet: Subnet, needs_gateway: bool) -> PoolDocument {
    let gateway = needs_gateway.then(|| subnet.first_host());
    PoolDocument { asked: None, subnet, drawn: true, range: None, gateway, auxiliary: BTreeMap::new(), remote: None }
}

/// A pool that was checked, unless it is of no use: then what is wrong in it does not matter.
fn given(pool: CreatePool) -> Result<PoolDocument, PlanError> {
    let CreatePool { subnet, range, gateway, auxiliary } = &pool;
    let bad = |text: &str| PlanError::Pools(format!("invalid subnet {text}: invalid CIDR block notation"));
    let address = |(name, text): (&String, &String)| Some((name.clone(), text.parse::<IpAddr>().ok()?));
    Ok(PoolDocument {
        subnet: subnet.parse().map_err(|_| bad(subnet))?,
        drawn: false,
        range: range.parse().ok(),
        gateway: gateway.parse().ok(),
        auxiliary: auxiliary.iter().filter_map(address).collect(),
        remote: None,
        asked: Some(pool),
    })
}

/// The gateway's address: the one asked for, or the first of the range, or of the subnet, that nobody else has.
pub(super) fn gateway(pool: &PoolDocument) -> IpAddr {
    if let Some(gateway) = pool.gateway {
        return gateway;
    }
    let range = pool.range.unwrap_or(pool.subnet);
    let first = if range.first() == pool.subnet.first() { pool.subnet.first_host() } else { range.first() };
    let start = pool.subnet.offset(first).unwrap_or(0);
    let taken = |address: &IpAddr| pool.auxiliary.values().any(|other| other == address);
    (start..).map_while(|offset| pool.subnet.nth(offset)).find(|address| !taken(address)).unwrap_or(first)
}
