//! All networks of a daemon put together: the sandbox pool, the packet filter, the published ports and one driver per
//! network. What the engine holds.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerd_sys::netlink::{Family, Socket};
use dockerd_types::ContainerId;
use dockerd_types::network::{EndpointConfig, EndpointState, PortBindings, PublishedPort};
use tokio::runtime::Handle;

use crate::bridge::{BridgeNetwork, BridgeParts, setup, sweep};
use crate::config::NetworkConfig;
use crate::driver::{Attached, EndpointRequest, KeptEndpoint, NetworkDriver, NetworkIdentity};
use crate::error::NetworkError;
use crate::firewall::nft::NftFirewall;
use crate::firewall::{Firewall, NoFirewall, Ruleset};
use crate::pool::SandboxPool;
use crate::portmap::{PortPublisher, PublisherOptions};
use crate::sandbox::{self, Blueprint};
use crate::simple::{HostNetwork, NullNetwork};

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
    /// A file that says that this daemon made the host pass packets on; lost with the reboot, as that switch is.
    pub forwarding_marker: PathBuf,
    /// Where proxies run.
    pub runtime: Handle,
}

/// A sandbox asked for.
#[derive(Debug, Clone)]
pub struct SandboxRequest {
    /// For whom.
    pub container: ContainerId,
    /// The container's name.
    pub name: String,
    /// What the client asked of the network.
    pub endpoint: EndpointConfig,
    /// Ports to publish.
    pub ports: PortBindings,
}

/// A sandbox that is ready.
#[derive(Debug)]
pub struct Joined {
    /// To be entered; `None` is the host's.
    pub netns: Option<OwnedFd>,
    /// The attachment.
    pub attached: Attached,
}

/// A container that outlived the last daemon.
#[derive(Debug, Clone)]
pub struct KeptContainer {
    /// Whose.
    pub container: ContainerId,
    /// A process in it.
    pub pid: i32,
    /// Its attachment.
    pub endpoint: EndpointState,
    /// What it published.
    pub ports: Vec<PublishedPort>,
}

/// The networks.
#[derive(Debug)]
pub struct NetworkStack {
    networks: Vec<(NetworkIdentity, Arc<dyn NetworkDriver>)>,
    bridge: Option<Arc<BridgeNetwork>>,
    firewall: Arc<dyn Firewall>,
    drop_foreign: bool,
    pool: SandboxPool,
}

impl NetworkStack {
    /// Sets up the default bridge in the calling thread's network namespace and begins to make sandboxes. Blocking.
    pub fn open(options: StackOptions) -> Result<Self, NetworkError> {
        let StackOptions { config, predefined, forwarding_marker, runtime } = options;
        let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        let link = setup::set_up(&socket, &config)?;
        let mut drop_foreign = false;
        if link.is_some() && config.ip_forward {
            drop_foreign = forward(&forwarding_marker)? && !config.ip_forward_no_drop;
        }
        let firewall: Arc<dyn Firewall> = match &link {
            Some(link) if config.firewall => {
                setup::route_loopback(&link.name)?;
                Arc::new(NftFirewall::open()?)
            }
            _ => Arc::new(NoFirewall),
        };
        let pool = SandboxPool::start()?;
        let none = pool.add_shelf(Blueprint::Plain);
        let mut networks: Vec<(NetworkIdentity, Arc<dyn NetworkDriver>)> = vec![
            (predefined.host.clone(), Arc::new(HostNetwork(predefined.host))),
            (predefined.none.clone(), Arc::new(NullNetwork { identity: predefined.none, shelf: none })),
        ];
        let bridge = match link {
            None => None,
            Some(link) => {
                let publisher = PortPublisher::new(PublisherOptions {
                    firewall: firewall.clone(),
                    proxies: config.userland_proxy.then_some(runtime),
                    default_address: config.publish_address,
                    ipv6: setup::host_has_ipv6(),
                });
                // Before the pool makes new ones.
                let leftovers = sweep::ours(&socket, link.index)?;
                // Where frames between ports pass the packet filter, its rules tell published ports from others.
                let isolated = !config.icc && !setup::frames_are_filtered();
                let shelf = pool.add_shelf(Blueprint::Bridged { bridge: link.index, mtu: config.mtu, isolated });
                let identity = predefined.bridge;
                let publisher = Arc::new(publisher);
                let parts =
                    BridgeParts { identity: identity.clone(), bridge: link, config, shelf, publisher, leftovers };
                let bridge = Arc::new(BridgeNetwork::new(parts)?);
                networks.insert(0, (identity, bridge.clone()));
                Some(bridge)
            }
        };
        Ok(Self { networks, bridge, firewall, drop_foreign, pool })
    }

    /// All networks.
    pub fn networks(&self) -> &[(NetworkIdentity, Arc<dyn NetworkDriver>)] {
        &self.networks
    }

    /// The default bridge's address.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.bridge.as_ref().map(|bridge| bridge.address())
    }

    /// Makes a sandbox that is on `network`, one of [`NetworkStack::networks`]. Blocking.
    pub fn join(&self, network: &dyn NetworkDriver, request: SandboxRequest) -> Result<Joined, NetworkError> {
        let sandbox = match network.shelf() {
            None => None,
            Some(shelf) => Some(self.pool.take(shelf)?),
        };
        let (netns, handle) = sandbox.map_or((None, None), |sandbox| (Some(sandbox.netns), Some(sandbox.handle)));
        let SandboxRequest { container, name, endpoint, ports } = request;
        let request = EndpointRequest { container: &container, name: &name, config: &endpoint, ports: &ports };
        Ok(Joined { netns, attached: network.attach(handle, &request)? })
    }

    /// A start is over, well or not: sandboxes are made ahead again.
    pub fn refill(&self) {
        self.pool.refill();
    }

    /// Gives back everything of a container's; idempotent.
    pub async fn leave(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let Some(bridge) = self.bridge.clone() else { return Ok(()) };
        if !bridge.has(container) {
            return Ok(());
        }
        let container = container.clone();
        let done = tokio::task::spawn_blocking(move || bridge.detach(&container)).await;
        done.map_err(|panic| NetworkError::io("network task")(std::io::Error::other(panic)))
    }

    /// Takes over what the last daemon's running containers have, removes what is left of others, and sets the packet
    /// filter's rules in one transaction. Blocking; once, before anything is joined.
    pub fn restore(&self, kept: &[KeptContainer]) -> Result<(), NetworkError> {
        let Some(bridge) = &self.bridge else { return Ok(()) };
        let kept: Vec<_> = kept.iter().filter(|kept| kept.endpoint.ipv4.is_some()).collect();
        let handles = sandbox::reopen(kept.iter().map(|kept| kept.pid).collect());
        let endpoints = kept.iter().zip(handles).map(|(kept, handle)| {
            let endpoint = KeptEndpoint { container: &kept.container, state: &kept.endpoint, ports: &kept.ports };
            let handle = handle.inspect_err(|error| {
                tracing::warn!(container = %kept.container, %error, "its network namespace cannot be entered");
            });
            (endpoint, handle.ok())
        });
        bridge.adopt(endpoints.collect())?;
        let rules =
            Ruleset { bridges: vec![bridge.rules()], forwards: bridge.forwards(), drop_foreign: self.drop_foreign };
        self.firewall.install(&rules)
    }
}

/// Whether the host passes packets on because of us, now or at an earlier start since it booted.
fn forward(marker: &Path) -> Result<bool, NetworkError> {
    if setup::enable_forwarding()? {
        std::fs::write(marker, "").map_err(NetworkError::io(format!("write {}", marker.display())))?;
        return Ok(true);
    }
    Ok(marker.exists())
}
