//! `Network`: what lists and inspect show, in the order clients print it.

use std::collections::BTreeMap;

use dockerd_core::network::{NetworkContainer, NetworkView, PoolView};
use serde::Serialize;

/// A network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Network<'a> {
    name: &'a str,
    id: &'a str,
    created: String,
    scope: &'a str,
    driver: &'a str,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam<'a>,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFrom<'a>,
    config_only: bool,
    containers: BTreeMap<&'a str, Container<'a>>,
    options: &'a BTreeMap<String, String>,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam<'a> {
    driver: &'a str,
    options: Option<&'a BTreeMap<String, String>>,
    config: Option<Vec<Pool<'a>>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pool<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    subnet: &'a str,
    #[serde(rename = "IPRange", skip_serializing_if = "str::is_empty")]
    range: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    gateway: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    auxiliary_addresses: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigFrom<'a> {
    network: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Container<'a> {
    name: &'a str,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'a str,
    mac_address: &'a str,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
}

/// A network in the API's words.
pub(crate) fn network(view: &NetworkView) -> Network<'_> {
    let NetworkView {
        identity,
        driver,
        created,
        enable_ipv4,
        enable_ipv6,
        internal,
        attachable,
        scope,
        config_only,
        config_from,
        ipam_driver,
        ipam_options,
        pools,
        options,
        labels,
        predefined: _,
        containers,
    } = view;
    Network {
        name: &identity.name,
        id: identity.id.as_str(),
        created: created.rfc3339_nano(),
        scope,
        driver,
        enable_ipv4: *enable_ipv4,
        enable_ipv6: *enable_ipv6,
        ipam: Ipam {
            driver: ipam_driver,
            options: ipam_options.as_ref(),
            config: (!pools.is_empty()).then(|| pools.iter().map(pool).collect()),
        },
        internal: *internal,
        attachable: *attachable,
        ingress: false,
        config_from: ConfigFrom { network: config_from },
        config_only: *config_only,
        containers: containers.iter().map(container).collect(),
        options,
        labels,
    }
}

fn pool(view: &PoolView) -> Pool<'_> {
    let PoolView { subnet, range, gateway, auxiliary } = view;
    Pool { subnet, range, gateway, auxiliary_addresses: auxiliary }
}

fn container(item: &NetworkContainer) -> (&str, Container<'_>) {
    let NetworkContainer { id, name, endpoint } = item;
    let with_prefix = |address: Option<(String, u8)>| {
        address.map_or_else(String::new, |(address, prefix)| format!("{address}/{prefix}"))
    };
    let shown = Container {
        name,
        endpoint_id: endpoint.endpoint_id.as_str(),
        mac_address: &endpoint.mac_address,
        ipv4_address: with_prefix(endpoint.ipv4.map(|(address, prefix)| (address.to_string(), prefix))),
        ipv6_address: with_prefix(endpoint.ipv6.map(|(address, prefix)| (address.to_string(), prefix))),
    };
    (id.as_str(), shown)
}
