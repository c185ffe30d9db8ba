//! Networks in the API's words.

use dockerd_core::network::{NetworkContainer, NetworkView};
use serde_json::{Map, Value, json};

/// A network as lists and inspect show it.
pub(crate) fn network(view: &NetworkView) -> Value {
    let NetworkView { identity, driver, created, details, containers } = view;
    let config = match details.subnet {
        None => Value::Null,
        Some(subnet) => {
            let mut config = Map::from_iter([("Subnet".to_owned(), json!(subnet.to_string()))]);
            if let Some(range) = details.range {
                config.insert("IPRange".to_owned(), json!(range.to_string()));
            }
            if let Some(gateway) = details.gateway {
                config.insert("Gateway".to_owned(), json!(gateway.to_string()));
            }
            json!([config])
        }
    };
    let options: Map<String, Value> =
        details.options.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let containers: Map<String, Value> = containers.iter().map(container).collect();
    json!({
        "Name": identity.name,
        "Id": identity.id.as_str(),
        "Created": created.rfc3339_nano(),
        "Scope": "local",
        "Driver": driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": {"Driver": "default", "Options": null, "Config": config},
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": containers,
        "Options": options,
        "Labels": {},
    })
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
