//! Networks in the API's words.

use dockerd_core::network::{CreateNetwork, CreatePool, NetworkContainer, NetworkView, PoolView};
use dockerd_types::network::EndpointConfig;
use serde_json::{Map, Value, json};

use super::create::endpoint;
use crate::error::ApiError;
use crate::extract::Object;

/// The body of `POST /networks/create`.
pub(crate) fn create(body: &Object) -> Result<CreateNetwork, ApiError> {
    let ipam = body.object("IPAM")?;
    Ok(CreateNetwork {
        name: body.text("Name")?,
        driver: body.text("Driver")?,
        scope: body.text("Scope")?,
        enable_ipv4: body.optional_flag("EnableIPv4")?,
        enable_ipv6: body.optional_flag("EnableIPv6")?,
        internal: body.flag("Internal")?,
        attachable: body.flag("Attachable")?,
        ingress: body.flag("Ingress")?,
        config_only: body.flag("ConfigOnly")?,
        config_from: body.object("ConfigFrom")?.text("Network")?,
        ipam_driver: ipam.text("Driver")?,
        ipam_options: ipam.has("Options").then(|| ipam.map("Options")).transpose()?,
        pools: ipam.objects("Config")?.iter().map(create_pool).collect::<Result<_, _>>()?,
        options: body.map("Options")?,
        labels: body.map("Labels")?,
    })
}

fn create_pool(pool: &Object) -> Result<CreatePool, ApiError> {
    Ok(CreatePool {
        subnet: pool.text("Subnet")?,
        range: pool.text("IPRange")?,
        gateway: pool.text("Gateway")?,
        auxiliary: pool.map("AuxiliaryAddresses")?,
    })
}

/// The body of `POST /networks/{id}/connect`: the container, and what it asks.
pub(crate) fn connect(body: &Object) -> Result<(String, EndpointConfig), ApiError> {
    Ok((body.text("Container")?, endpoint(&body.object("EndpointConfig")?)?))
}

/// A network as lists and inspect show it.
pub(crate) fn network(view: &NetworkView) -> Value {
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
    let config = if pools.is_empty() { Value::Null } else { pools.iter().map(pool).collect() };
    let containers: Map<String, Value> = containers.iter().map(container).collect();
    json!({
        "Name": identity.name,
        "Id": identity.id.as_str(),
        "Created": created.rfc3339_nano(),
        "Scope": scope,
        "Driver": driver,
        "EnableIPv4": enable_ipv4,
        "EnableIPv6": enable_ipv6,
        "IPAM": {"Driver": ipam_driver, "Options": ipam_options, "Config": config},
        "Internal": internal,
        "Attachable": attachable,
        "Ingress": false,
        "ConfigFrom": {"Network": config_from},
        "ConfigOnly": config_only,
        "Containers": containers,
        "Options": options,
        "Labels": labels,
    })
}

fn pool(view: &PoolView) -> Value {
    let PoolView { subnet, range, gateway, auxiliary } = view;
    let texts = [("Subnet", subnet), ("IPRange", range), ("Gateway", gateway)];
    let shown = texts.into_iter().filter(|(_, text)| !text.is_empty());
    let mut out: Map<String, Value> = shown.map(|(name, text)| (name.to_owned(), json!(text))).collect();
    if !auxiliary.is_empty() {
        out.insert("AuxiliaryAddresses".to_owned(), json!(auxiliary));
    }
    Value::Object(out)
}

fn container(item: &NetworkContainer) -> (String, Value) {
    let NetworkContainer { id, name, endpoint } = item;
    let with_prefix = |address: Option<(String, u8)>| {
        address.map_or_else(String::new, |(address, prefix)| format!("{address}/{prefix}"))
    };
    let value = json!({
        "Name": name,
        "EndpointID": endpoint.endpoint_id.as_str(),
        "MacAddress": endpoint.mac_address,
        "IPv4Address": with_prefix(endpoint.ipv4.map(|(address, prefix)| (address.to_string(), prefix))),
        "IPv6Address": with_prefix(endpoint.ipv6.map(|(address, prefix)| (address.to_string(), prefix))),
    });
    (id.to_string(), value)
}
