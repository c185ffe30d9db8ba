//! What is asked of the stack: networks to make, sandboxes to join, containers to take over.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use dockerd_types::ContainerId;
use dockerd_types::network::{EndpointConfig, EndpointState, Port, PortBindings, PublishedPort};
use tokio::runtime::Handle;

use crate::bridge::BridgeSettings;
use crate::config::NetworkConfig;
use crate::driver::{NetworkDriver, NetworkIdentity};
use crate::ipam::AddressSource;
use crate::macvlan::MacvlanOrder;
use crate::plugins::Plugins;
use crate::remote::network::RemoteSettings;

/// Who the predefined networks are.
#[derive(Debug, Clone)]
pub struct Predefined {
    /// `bridge`.
    pub bridge: NetworkIdentity,
    /// `host`.
    pub host: NetworkIdentity,
    /// `none`.
    pub none: NetworkIdentity,
}

/// What opening needs.
#[derive(Debug)]
pub struct StackOptions {
    /// Settings.
    pub config: NetworkConfig,
    /// Who the predefined networks are.
    pub predefined: Predefined,
    /// The user-defined networks.
    pub networks: Vec<NetworkOrder>,
    /// Whether there are more of them, which could not be read: what seems to be nobody's stays.
    pub incomplete: bool,
    /// A file that says that this daemon made the host pass packets on; lost with the reboot, as that switch is.
    pub forwarding_marker: PathBuf,
    /// Where proxies run.
    pub runtime: Handle,
    /// Plugins that make links or give addresses.
    pub plugins: Arc<Plugins>,
    /// Below it is noted what plugins have given, in a directory for each network.
    pub ledgers: PathBuf,
}

/// A user-defined network, by its driver.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are few, and they do not live long")]
pub enum NetworkOrder {
    /// `bridge`.
    Bridge(BridgeOrder),
    /// `macvlan` and `ipvlan`.
    Macvlan(MacvlanOrder),
    /// A plugin.
    Remote(RemoteOrder),
    /// Settings for other networks.
    ConfigurationOnly(NetworkIdentity),
}

impl NetworkOrder {
    /// Who it is.
    pub fn identity(&self) -> &NetworkIdentity {
        match self {
            Self::Bridge(order) => &order.identity,
            Self::Macvlan(order) => &order.identity,
            Self::Remote(order) => &order.settings.identity,
            Self::ConfigurationOnly(identity) => identity,
        }
    }
}

/// A user-defined bridge network.
#[derive(Debug, Clone)]
pub struct BridgeOrder {
    /// Who it is.
    pub identity: NetworkIdentity,
    /// Name of its link.
    pub link: String,
    /// What it is like.
    pub settings: BridgeSettings,
    /// Who gives its addresses.
    pub addresses: AddressSource,
}

/// A network whose links a plugin makes. The plugin knows of it.
#[derive(Debug, Clone)]
pub struct RemoteOrder {
    /// What it is like.
    pub settings: RemoteSettings,
    /// The plugin.
    pub driver: String,
    /// Who gives its addresses.
    pub addresses: AddressSource,
}

/// A network to be on.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Which.
    pub network: Arc<dyn NetworkDriver>,
    /// What the client asked of it.
    pub config: EndpointConfig,
}

/// A sandbox asked for.
#[derive(Debug, Clone)]
pub struct SandboxRequest {
    /// For whom.
    pub container: ContainerId,
    /// The container's name.
    pub name: String,
    /// Networks to join; one at least.
    pub attachments: Vec<Attachment>,
    /// Ports to publish.
    pub ports: PortBindings,
    /// Ports its programs may listen on.
    pub exposed: Vec<Port>,
    /// Where its namespace can be opened once a process is in it.
    pub key: PathBuf,
}

/// A sandbox that is ready.
#[derive(Debug)]
pub struct Joined {
    /// To be entered; `None` is the host's.
    pub netns: Option<OwnedFd>,
    /// What was joined, in the order of interfaces.
    pub endpoints: Vec<EndpointState>,
    /// What else it stands on, to get out.
    pub way_out: Option<EndpointState>,
    /// What was published.
    pub ports: Vec<PublishedPort>,
}

/// A container that outlived the last daemon.
#[derive(Debug, Clone)]
pub struct KeptContainer {
    /// Whose.
    pub container: ContainerId,
    /// Its name.
    pub name: String,
    /// A process in it.
    pub pid: i32,
    /// Its attachments, each with the priority of its gateway.
    pub endpoints: Vec<(EndpointState, i64)>,
    /// What else it stood on, to get out.
    pub way_out: Option<EndpointState>,
    /// What it published.
    pub ports: Vec<PublishedPort>,
    /// What the client asked to publish.
    pub wanted: PortBindings,
    /// Ports its programs may listen on.
    pub exposed: Vec<Port>,
}

impl KeptContainer {
    /// All it stood on, each with the priority of its gateway; the way out is the last.
    pub(super) fn stood_on(&self) -> impl Iterator<Item = (&EndpointState, i64)> {
        let endpoints = self.endpoints.iter().map(|(state, priority)| (state, *priority));
        endpoints.chain(self.way_out.iter().map(|state| (state, 0)))
    }
}
