//! What plugins are told of a container: its ports, and what the client asked of the network.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dockerd_types::network::{HostPort, Port, PortBindings, Protocol};
use serde_json::{Map, Value, json};

use crate::driver::{ContainerPorts, EndpointRequest};
use crate::link::MacAddress;

const EXPOSED: &str = "com.docker.network.endpoint.exposedports";
const PUBLISHED: &str = "com.docker.network.portmap";
/// Also told to those who give addresses and want to know.
pub(crate) const MAC: &str = "com.docker.network.endpoint.macaddress";
/// Whether IPv6 of the host must not lead to the container's IPv4 address; of no use to others than bridges.
const NO_PROXY: &str = "com.docker.network.driver.private.no_proxy_6to4";

/// The protocol as the internet numbers it.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn exposed(exposed: &[Port], published: &PortBindings) -> Value {
    let others = exposed.iter().filter(|port| !published.contains_key(port));
    let port = |port: &Port| json!({"Proto": number(port.protocol), "Port": port.number});
    others.chain(published.keys()).map(port).collect()
}

fn published(ports: &PortBindings) -> Value {
    let mut list = Vec::new();
    for (port, bindings) in ports {
        for binding in bindings {
            let (first, last) = match binding.host_port {
                HostPort::Ephemeral => (0, 0),
                HostPort::Range(first, last) => (first, last),
            };
            list.push(json!({
                "Proto": number(port.protocol),
                "IP": "",
                "Port": port.number,
                "HostIP": binding.host_ip.map(|address| address.to_string()).unwrap_or_default(),
                "HostPort": first,
                "HostPortEnd": last,
            }));
        }
    }
    Value::Array(list)
}

/// Options of `Join`: the ports.
pub(crate) fn labels(ports: ContainerPorts<'_>) -> Map<String, Value> {
    let mut options = Map::new();
    options.insert(EXPOSED.to_owned(), exposed(ports.exposed, ports.published));
    options.insert(PUBLISHED.to_owned(), published(ports.published));
    options
}

/// Options of `ProgramExternalConnectivity`.
pub(crate) fn external(ports: ContainerPorts<'_>, no_proxy: bool) -> Map<String, Value> {
    let mut options = labels(ports);
    options.insert(NO_PROXY.to_owned(), no_proxy.into());
    options
}

/// Options of `CreateEndpoint`: what the client asked for, and the ports where they lead anywhere.
pub(crate) fn endpoint(request: &EndpointRequest<'_>, internal: bool) -> Map<String, Value> {
    let mut options = if internal { Map::new() } else { labels(request.ports) };
    if let Some(mac) = request.config.mac_address.as_deref().and_then(MacAddress::parse) {
        options.insert(MAC.to_owned(), STANDARD.encode(mac.0).into());
    }
    options.extend(request.config.driver_opts.iter().map(|(name, value)| (name.clone(), value.clone().into())));
    options
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use dockerd_types::network::{EndpointConfig, PortBinding};

    #[test]
    fn as_the_stock_daemon_tells_it() {
        let id = dockerd_types::ContainerId::parse(&"ab".repeat(32)).expect("id");
        let ports = PortBindings::from([(
            Port::parse("80").expect("port"),
            vec![PortBinding { host_ip: None, host_port: HostPort::Range(8080, 8080) }],
        )]);
        let config = EndpointConfig {
            mac_address: Some("02:00:00:00:00:09".to_owned()),
            driver_opts: BTreeMap::from([("foo".to_owned(), "bar".to_owned())]),
            ..EndpointConfig::default()
        };
        let exposed = [Port::parse("99").expect("port"), Port::parse("80").expect("port")];
        let ports = ContainerPorts { published: &ports, exposed: &exposed };
        let request = EndpointRequest { container: &id, name: "c", config: &config, ports };
        let wanted = json!({
            "com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 99}, {"Proto": 6, "Port": 80}],
            "com.docker.network.portmap":
                [{"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080}],
            "com.docker.network.endpoint.macaddress": "AgAAAAAJ",
            "foo": "bar",
        });
        assert_eq!(Value::Object(endpoint(&request, false)), wanted);
        let inside = json!({"com.docker.network.endpoint.macaddress": "AgAAAAAJ", "foo": "bar"});
        assert_eq!(Value::Object(endpoint(&request, true)), inside);
    }
}
