//! Networks without links of our own: `host` leaves a container in the host's namespace, `none` gives it one with loopback
//! only, and those that are settings for others take no container.

use std::time::Duration;

use dockerd_types::network::EndpointState;

use crate::driver::{EndpointRequest, NetworkDriver, NetworkIdentity, bare_endpoint};
use crate::error::NetworkError;
use crate::pool::ShelfId;

/// A network that gives no link.
#[derive(Debug)]
pub struct SimpleNetwork {
    /// Who it is.
    pub identity: NetworkIdentity,
    /// `host` or `null`.
    pub kind: &'static str,
    /// Sandboxes with loopback only; `None`: containers live in the host's namespace.
    pub shelf: Option<ShelfId>,
}

impl NetworkDriver for SimpleNetwork {
    fn identity(&self) -> &NetworkIdentity {
        &self.identity
    }

    fn kind(&self) -> &str {
        self.kind
    }

    fn shelf(&self) -> Option<ShelfId> {
        self.shelf
    }

    fn allot(&self, _request: &EndpointRequest<'_>) -> Result<EndpointState, NetworkError> {
        Ok(bare_endpoint(&self.identity))
    }

    // They live as long as the daemon.
    fn close(&self, _patience: Duration) -> Result<(), NetworkError> {
        Err(NetworkError::InUse { network: self.identity.name.clone() })
    }
}

/// A network that is only settings for others.
#[derive(Debug)]
pub struct ConfigurationOnly {
    /// Who it is.
    pub identity: NetworkIdentity,
}

impl NetworkDriver for ConfigurationOnly {
    fn identity(&self) -> &NetworkIdentity {
        &self.identity
    }

    fn kind(&self) -> &str {
        "null"
    }

    fn allot(&self, _request: &EndpointRequest<'_>) -> Result<EndpointState, NetworkError> {
        Err(NetworkError::ConfigurationOnly)
    }
}
