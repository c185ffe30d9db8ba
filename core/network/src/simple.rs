//! The two networks without links of our own: `host` leaves a container in the host's namespace, `none` gives it one
//! with loopback only.

use dockerd_types::ContainerId;

use crate::driver::{
    Attached, EndpointRequest, KeptEndpoint, NetworkDetails, NetworkDriver, NetworkIdentity, bare_endpoint,
};
use crate::error::NetworkError;
use crate::pool::ShelfId;
use crate::sandbox::SandboxHandle;

/// The network `host`.
#[derive(Debug)]
pub struct HostNetwork(pub NetworkIdentity);

/// The network `none`.
#[derive(Debug)]
pub struct NullNetwork {
    /// Who it is.
    pub identity: NetworkIdentity,
    /// Sandboxes with loopback only.
    pub shelf: ShelfId,
}

impl NetworkDriver for HostNetwork {
    fn kind(&self) -> &'static str {
        "host"
    }

    fn shelf(&self) -> Option<ShelfId> {
        None
    }

    fn attach(&self, _handle: Option<SandboxHandle>, _request: &EndpointRequest<'_>) -> Result<Attached, NetworkError> {
        Ok(Attached { state: bare_endpoint(&self.0), ports: Vec::new() })
    }

    fn detach(&self, _container: &ContainerId) {}

    fn adopt(&self, _kept: Vec<(KeptEndpoint<'_>, Option<SandboxHandle>)>) -> Result<(), NetworkError> {
        Ok(())
    }

    fn details(&self) -> NetworkDetails {
        NetworkDetails::default()
    }
}

impl NetworkDriver for NullNetwork {
    fn kind(&self) -> &'static str {
        "null"
    }

    fn shelf(&self) -> Option<ShelfId> {
        Some(self.shelf)
    }

    // The handle is dropped: nothing in the namespace will be changed, and it goes with its last process.
    fn attach(&self, _handle: Option<SandboxHandle>, _request: &EndpointRequest<'_>) -> Result<Attached, NetworkError> {
        Ok(Attached { state: bare_endpoint(&self.identity), ports: Vec::new() })
    }

    fn detach(&self, _container: &ContainerId) {}

    fn adopt(&self, _kept: Vec<(KeptEndpoint<'_>, Option<SandboxHandle>)>) -> Result<(), NetworkError> {
        Ok(())
    }

    fn details(&self) -> NetworkDetails {
        NetworkDetails::default()
    }
}
