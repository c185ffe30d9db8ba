//! Networks of containers: drivers, addresses, published ports, the packet filter and prepared sandboxes. Talks to the
//! kernel by netlink only; runs no other program unless the packet filter is to be set by iptables. Knows nothing of
//! containers but their ids; `dockerd-core` decides when something happens and keeps what must outlive the daemon.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod bridge;
pub mod config;
pub mod dns;
pub mod driver;
pub mod error;
pub mod firewall;
pub mod ipam;
pub mod link;
pub mod macvlan;
pub mod plugins;
pub mod pool;
pub mod portmap;
pub mod remote;
pub mod sandbox;
pub mod simple;
pub mod stack;

pub use config::{BridgeChoice, NetworkConfig};
pub use driver::NetworkDriver;
pub use error::NetworkError;
pub use stack::NetworkStack;

/// Bytes nobody can foresee.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The kernel's generator does not fail once the system is up.
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}
