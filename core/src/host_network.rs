//! Networks without any of our own making: the host's namespace, a fresh one with loopback only, another container's.
//! The bridge driver takes this one's place when `dockerd-network` has it; until then a request for a bridge is refused
//! clearly, or served like `none` where the administrator said `--bridge none`.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use dockerd_runtime::BoxFuture;
use dockerd_types::network::EndpointState;
use dockerd_types::{ContainerId, EndpointId, NetworkId};

use crate::container::names;
use crate::error::EngineError;
use crate::ports::{KeptSandbox, Networks, ReadySandbox, SandboxOrder};

/// The adapter.
#[derive(Debug)]
pub(crate) struct HostNetworks {
    host: NetworkId,
    none: NetworkId,
}

impl Default for HostNetworks {
    fn default() -> Self {
        Self { host: fixed_id(b'h'), none: fixed_id(b'n') }
    }
}

/// The two predefined networks have no state, so their ids are made from their names and stay the same.
fn fixed_id(letter: u8) -> NetworkId {
    let mut bytes = [letter; 32];
    bytes[0] = 0xd0;
    NetworkId::from_random(bytes).unwrap_or_else(|| fixed_id(letter.wrapping_add(1)))
}

impl HostNetworks {
    fn endpoint(&self, network: &str) -> EndpointState {
        let id = if network == "host" { &self.host } else { &self.none };
        let endpoint = loop {
            if let Some(id) = EndpointId::from_random(names::random()) {
                break id;
            }
        };
        EndpointState {
            network_id: id.clone(),
            network_name: network.to_owned(),
            endpoint_id: endpoint,
            ipv4: None,
            gateway4: None,
            ipv6: None,
            gateway6: None,
            mac_address: String::new(),
            interface: String::new(),
            dns_names: Vec::new(),
        }
    }
}

impl Networks for HostNetworks {
    fn create_sandbox(&self, order: SandboxOrder) -> BoxFuture<'_, Result<ReadySandbox, EngineError>> {
        Box::pin(async move {
            let wants = |name: &str| order.endpoints.iter().any(|(network, _)| network == name);
            let other = order.endpoints.iter().any(|(network, _)| !matches!(network.as_str(), "host" | "none"));
            if other {
                return Err(EngineError::NotBuilt("the bridge network driver"));
            }
            if wants("host") {
                let endpoints = vec![self.endpoint("host")];
                return Ok(ReadySandbox { netns: None, endpoints, ports: Vec::new() });
            }
            let netns = tokio::task::spawn_blocking(fresh_namespace).await.map_err(std::io::Error::other).flatten();
            let netns = netns.map_err(|error| EngineError::io("make network namespace", error))?;
            Ok(ReadySandbox { netns: Some(netns), endpoints: vec![self.endpoint("none")], ports: Vec::new() })
        })
    }

    fn remove_sandbox(&self, _id: &ContainerId) -> BoxFuture<'_, Result<(), EngineError>> {
        // The namespace goes with its last process.
        Box::pin(std::future::ready(Ok(())))
    }

    fn restore(&self, _kept: Vec<KeptSandbox>) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn default_gateway(&self) -> Option<Ipv4Addr> {
        None
    }
}

/// A network namespace with its loopback up, made by a thread that ends with it.
fn fresh_namespace() -> std::io::Result<OwnedFd> {
    let made = std::thread::spawn(|| {
        dockerd_sys::ns::unshare(dockerd_sys::process::NEW_NET)?;
        dockerd_sys::ns::loopback_up()?;
        dockerd_sys::ns::open(std::path::Path::new("/proc/thread-self/ns/net"))
    });
    made.join().unwrap_or_else(|_| Err(std::io::Error::other("thread ended")))
}
