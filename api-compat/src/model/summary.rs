//! `ContainerSummary`: one entry of `GET /containers/json`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dockerd_core::container::list::{ContainerSummary, PortView};
use dockerd_types::container::Labels;
use serde::Serialize;

use super::endpoint::{self, Endpoint};
use super::mount::Mount;

/// One container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary<'a> {
    id: &'a str,
    names: Vec<String>,
    image: &'a str,
    #[serde(rename = "ImageID")]
    image_id: &'a str,
    command: &'a str,
    created: i64,
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    labels: &'a Labels,
    state: &'static str,
    status: &'a str,
    host_config: HostConfig,
    network_settings: NetworkSettings<'a>,
    mounts: Vec<Mount<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    network_mode: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings<'a> {
    networks: BTreeMap<&'a str, Endpoint<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    private_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_port: Option<u16>,
    #[serde(rename = "Type")]
    kind: &'static str,
}

impl<'a> Summary<'a> {
    /// As the API shows it.
    pub(crate) fn new(item: &'a ContainerSummary) -> Self {
        let ContainerSummary { snapshot, links, status, command, image, image_id, ports, size } = item;
        let spec = &snapshot.spec;
        Self {
            id: spec.id.as_str(),
            names: [&[format!("/{}", snapshot.name)], links.as_slice()].concat(),
            image,
            image_id: image_id.as_str(),
            command,
            created: spec.created.unix_seconds(),
            ports: ports.iter().map(Port::new).collect(),
            size_rw: size.map(|size| size.rw),
            size_root_fs: size.map(|size| size.root_fs),
            labels: &spec.config.labels,
            state: snapshot.state.status.name(),
            status,
            host_config: HostConfig { network_mode: spec.host.network_mode.text() },
            network_settings: NetworkSettings { networks: endpoint::networks(snapshot) },
            mounts: spec.mounts.iter().map(Mount::new).collect(),
        }
    }
}

impl Port {
    fn new(port: &PortView) -> Self {
        Self {
            ip: port.public.as_ref().map(|public| public.host_ip),
            private_port: port.private.number,
            public_port: port.public.as_ref().map(|public| public.host_port),
            kind: port.private.protocol.name(),
        }
    }
}
