//! What can go wrong with networks, in the stock daemon's words where clients see it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use dockerd_sys::netlink::NetlinkError;
use dockerd_types::network::Port;
use dockerd_types::{EndpointId, ErrorKind, Kinded};

use crate::ipam::subnet::InvalidSubnet;
use crate::macvlan::parent::ParentError;
use crate::plugins::PluginError;
use crate::remote::RemoteError;

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Another container has the port.
    #[error("Bind for {}:{} failed: port is already allocated", .0.ip(), .0.port())]
    PortAllocated(SocketAddr),
    /// All ports of the range are taken.
    #[error("all ports are allocated")]
    PortsExhausted,
    /// A container asks for a port of the host on all addresses and on one of them.
    #[error("failed to listen on TCP socket: address already in use")]
    PortTwice,
    /// Another program has the port, or the address is not the host's.
    #[error(
        "failed to bind host port for {host}:{}/{}: {}", SocketAddr::new(*.address, .port.number), .port.protocol.name(),
        errno_text(.source)
    )]
    HostPort {
        /// Wanted on the host.
        host: SocketAddr,
        /// The container's address.
        address: IpAddr,
        /// The container's port.
        port: Port,
        /// What the kernel said.
        source: io::Error,
    },
    /// Ports could not be published.
    #[error("driver failed programming external connectivity on endpoint {name} ({endpoint}): {source}")]
    External {
        /// Name of the container.
        name: String,
        /// Its endpoint.
        endpoint: EndpointId,
        /// Why.
        source: Box<NetworkError>,
    },
    /// The address asked for is another's.
    #[error("Address already in use")]
    AddressInUse,
    /// The address asked for is in none of the network's subnets.
    #[error("no configured subnet contains IP address {0}")]
    AddressOutside(IpAddr),
    /// Containers are on the network.
    #[error("network {network} has active endpoints")]
    InUse {
        /// The network's name.
        network: String,
    },
    /// The network is being removed.
    #[error("network {network} not found")]
    Closed {
        /// The network's name.
        network: String,
    },
    /// The container is not on the network, or not running.
    #[error("container {container} is not connected to network {network}")]
    NotConnected {
        /// The container's id.
        container: String,
        /// The network's name.
        network: String,
    },
    /// A link of that name is there already and no bridge.
    #[error("{0} is not a bridge")]
    NotABridge(String),
    /// The subnet is used up.
    #[error("no available {family} addresses on this network's address pools: {network} ({id})")]
    AddressesExhausted {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The network's name.
        network: String,
        /// Its id.
        id: String,
    },
    /// No subnet is left for a network.
    #[error("all predefined address pools have been fully subnetted")]
    PoolsExhausted,
    /// `--bridge` names what is not there.
    #[error("bridge device with non default name {0} must be created manually")]
    NoBridge(String),
    /// A setting cannot be used.
    #[error(transparent)]
    Subnet(#[from] InvalidSubnet),
    /// A setting contradicts another.
    #[error("{setting} {value} does not belong to the bridge's network {subnet}")]
    OutsideSubnet {
        /// Which setting.
        setting: &'static str,
        /// Its value.
        value: IpAddr,
        /// The network.
        subnet: String,
    },
    /// The kernel refused a change.
    #[error("{action}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: NetlinkError,
    },
    /// A system call failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program that sets the packet filter's rules cannot be run.
    #[error("firewall-backend is set to \"iptables\", but {program} cannot be run: {}", errno_text(.source))]
    NoFirewallTool {
        /// Which.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It refused what it was to do.
    #[error("{action}: {program} failed: {said}")]
    FirewallTool {
        /// What was tried.
        action: &'static str,
        /// Which.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// A link's name would mean something else in a rule.
    #[error("iptables has no rules for a link named {0:?}")]
    FirewallLink(String),
    /// The link a container's is to stand on is not there any more.
    #[error("the requested parent interface {parent} was not found on the Docker host")]
    ParentLost {
        /// Its name.
        parent: String,
    },
    /// The kernel did not make a link that stands on another.
    #[error("failed to create the {kind} port: {}", errno_text(.source.io()))]
    StackedLink {
        /// `macvlan` or `ipvlan`.
        kind: &'static str,
        /// What the kernel said.
        source: NetlinkError,
    },
    /// There is nothing for containers' links to stand on.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// A driver whose links have no hardware address of their own.
    #[error("{0} interfaces do not support custom mac address assignment")]
    CustomMac(&'static str),
    /// A driver refused a container.
    #[error("failed to create endpoint {name} on network {network}: {source}")]
    Endpoint {
        /// Name of the container.
        name: String,
        /// Name of the network.
        network: String,
        /// Why.
        source: Box<NetworkError>,
    },
    /// The network is only settings for others.
    #[error("cannot create endpoint on configuration-only network")]
    ConfigurationOnly,
    /// A container's link is not what was asked for.
    #[error("failed to add interface {interface} to sandbox: {fault}")]
    Interface {
        /// Its name.
        interface: String,
        /// Why.
        fault: InterfaceFault,
    },
    /// An address that is to be link-local is not.
    #[error("invalid link local IP address: {0}")]
    NotLinkLocal(IpAddr),
    /// A plugin's network or addresses.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// There is no network for containers to get out by.
    #[error(transparent)]
    WayOut(Box<dyn std::error::Error + Send + Sync>),
    /// The thread that makes sandboxes has ended.
    #[error("no network sandboxes can be made: {0}")]
    PoolClosed(String),
}

/// What a container's link cannot be made to be.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceFault {
    /// The name asked for.
    #[error("error renaming interface {from:?} to {to:?}: {}", errno_text(.source))]
    Name {
        /// What it was made as.
        from: String,
        /// The name.
        to: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The hardware address asked for.
    #[error("error setting interface {interface:?} MAC to {address:?}: cannot assign requested address")]
    Mac {
        /// The link.
        interface: String,
        /// The address, of a group or of nobody.
        address: String,
    },
    /// A setting without a value.
    #[error("expected sysctl '{0}' to have format name=value")]
    NoValue(String),
    /// A setting of more parts than such settings have.
    #[error("expected sysctl '{0}' to have format net.X.Y.IFNAME.Z")]
    Form(String),
    /// A setting the kernel does not have.
    #[error("{0} is not a sysctl file")]
    NoSysctl(String),
    /// A value the kernel does not take.
    #[error("unable to write to '{path}': write {path}: {}", errno_text(.source))]
    Sysctl {
        /// The setting.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The link's namespace cannot be entered.
    #[error("{0}")]
    Sandbox(Box<NetworkError>),
}

impl From<NetworkError> for InterfaceFault {
    fn from(error: NetworkError) -> Self {
        Self::Sandbox(Box::new(error))
    }
}

impl NetworkError {
    pub(crate) fn interface(name: &str, fault: InterfaceFault) -> Self {
        Self::Interface { interface: name.to_owned(), fault }
    }

    /// A driver's refusal of a container's endpoint says whose; other errors are told as they are.
    pub(crate) fn at_endpoint(self, name: &str, network: &str) -> Self {
        match self {
            Self::CustomMac(_) => {
                Self::Endpoint { name: name.to_owned(), network: network.to_owned(), source: Box::new(self) }
            }
            other => other,
        }
    }

    pub(crate) fn kernel(action: &'static str) -> impl FnOnce(NetlinkError) -> Self {
        move |source| Self::Kernel { action, source }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

impl From<PluginError> for NetworkError {
    fn from(error: PluginError) -> Self {
        Self::Remote(error.into())
    }
}

impl Kinded for NetworkError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Subnet(_) | Self::OutsideSubnet { .. } => ErrorKind::InvalidArgument,
            Self::External { source, .. } | Self::Endpoint { source, .. } => source.kind(),
            Self::Remote(inner) => inner.kind(),
            Self::AddressInUse | Self::InUse { .. } | Self::NotABridge(_) | Self::ConfigurationOnly => {
                ErrorKind::PermissionDenied
            }
            Self::AddressOutside(_) | Self::NotLinkLocal(_) => ErrorKind::InvalidArgument,
            Self::NotConnected { .. } => ErrorKind::PermissionDenied,
            Self::Closed { .. } => ErrorKind::NotFound,
            Self::PortAllocated(_)
            | Self::PortTwice
            | Self::PortsExhausted
            | Self::HostPort { .. }
            | Self::AddressesExhausted { .. }
            | Self::PoolsExhausted
            | Self::NoBridge(_)
            | Self::NoFirewallTool { .. }
            | Self::FirewallTool { .. }
            | Self::FirewallLink(_)
            | Self::ParentLost { .. }
            | Self::StackedLink { .. }
            | Self::Parent(_)
            | Self::CustomMac(_)
            | Self::Interface { .. }
            | Self::Kernel { .. }
            | Self::Io { .. }
            | Self::WayOut(_)
            | Self::PoolClosed(_) => ErrorKind::System,
        }
    }
}

/// The kernel's error in the words of Go's library, which clients know.
pub(crate) fn errno_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_lowercase()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_stock_daemons() {
        let host = "0.0.0.0:8300".parse().expect("address");
        let port = Port::parse("80").expect("port");
        let source = io::Error::from(io::ErrorKind::AddrInUse);
        let error = NetworkError::HostPort { host, address: [172, 17, 0, 3].into(), port, source };
        assert_eq!(
            error.to_string(),
            "failed to bind host port for 0.0.0.0:8300:172.17.0.3:80/tcp: address already in use"
        );
        assert_eq!(
            NetworkError::PortAllocated(host).to_string(),
            "Bind for 0.0.0.0:8300 failed: port is already allocated"
        );
    }
}
