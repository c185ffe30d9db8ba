//! `EndpointSettings`: a container's attachment to a network.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dockerd_core::container::spec::Snapshot;
use dockerd_types::network::{EndpointConfig, EndpointState};
use serde::Serialize;

use super::{Text, or_null};

/// Addresses the client asked for.
#[derive(Debug, Serialize)]
pub(crate) struct IpamConfig {
    #[serde(rename = "IPv4Address", skip_serializing_if = "Option::is_none")]
    ipv4: Option<Ipv4Addr>,
    #[serde(rename = "IPv6Address", skip_serializing_if = "Option::is_none")]
    ipv6: Option<Ipv6Addr>,
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Vec::is_empty")]
    link_local: Vec<IpAddr>,
}

/// One attachment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Endpoint<'a> {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<IpamConfig>,
    links: Option<&'a [String]>,
    aliases: Option<&'a [String]>,
    mac_address: &'a str,
    driver_opts: Option<&'a BTreeMap<String, String>>,
    gw_priority: i64,
    #[serde(rename = "NetworkID")]
    network_id: &'a str,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'a str,
    gateway: Text<Ipv4Addr>,
    #[serde(rename = "IPAddress")]
    ip_address: Text<Ipv4Addr>,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: Text<Ipv6Addr>,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: Text<Ipv6Addr>,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "DNSNames")]
    dns_names: Option<&'a [String]>,
}

/// Networks a container is, or will be, attached to, by name.
pub(crate) fn networks(snapshot: &Snapshot) -> BTreeMap<&str, Endpoint<'_>> {
    let spec = &snapshot.spec;
    let mut out = BTreeMap::new();
    for state in &snapshot.state.endpoints {
        let asked = spec.endpoints.get(&state.network_name);
        out.insert(state.network_name.as_str(), endpoint(asked, Some(state), ""));
    }
    for (name, asked) in &spec.endpoints {
        let id = snapshot.state.network_ids.get(name).map_or("", |id| id.as_str());
        let mut last = endpoint(Some(asked), None, id);
        last.dns_names = snapshot.state.dns_names.get(name).map(Vec::as_slice);
        out.entry(name.as_str()).or_insert(last);
    }
    out
}

/// `last_id` is the network's id when the container does not run.
fn endpoint<'a>(asked: Option<&'a EndpointConfig>, state: Option<&'a EndpointState>, last_id: &'a str) -> Endpoint<'a> {
    let wrote = |name: &str| asked.is_some_and(|asked| asked.empty_fields.contains(name));
    let texts = |name: &str, list: &'a [String]| wrote(name).then_some(list).or_else(|| or_null(list));
    // Until the first start.
    let wished =
        asked.and_then(|asked| asked.mac_address.as_deref()).filter(|_| last_id.is_empty()).unwrap_or_default();
    let ipam = |asked: &EndpointConfig| {
        let EndpointConfig { ipv4, ipv6, link_local, .. } = asked;
        let is_any = ipv4.is_some() || ipv6.is_some() || !link_local.is_empty();
        (is_any || wrote("IPAMConfig")).then(|| IpamConfig { ipv4: *ipv4, ipv6: *ipv6, link_local: link_local.clone() })
    };
    Endpoint {
        ipam_config: asked.and_then(ipam),
        links: asked.and_then(|asked| texts("Links", &asked.links)),
        aliases: asked.and_then(|asked| texts("Aliases", &asked.aliases)),
        mac_address: state.map_or(wished, |state| &state.mac_address),
        driver_opts: asked.map(|asked| &asked.driver_opts).filter(|options| !options.is_empty() || wrote("DriverOpts")),
        gw_priority: asked.map_or(0, |asked| asked.gw_priority),
        network_id: state.map_or(last_id, |state| state.network_id.as_str()),
        endpoint_id: state.map_or("", |state| state.endpoint_id.as_str()),
        gateway: Text(state.and_then(|state| state.gateway4)),
        ip_address: Text(state.and_then(|state| state.ipv4).map(|(address, _)| address)),
        ip_prefix_len: state.and_then(|state| state.ipv4).map_or(0, |(_, prefix)| prefix),
        ipv6_gateway: Text(state.and_then(|state| state.gateway6)),
        global_ipv6_address: Text(state.and_then(|state| state.ipv6).map(|(address, _)| address)),
        global_ipv6_prefix_len: state.and_then(|state| state.ipv6).map_or(0, |(_, prefix)| prefix),
        dns_names: state.and_then(|state| or_null(&state.dns_names)),
    }
}
