//! What the API asks of networks: lists and inspect. Answered from memory.

use std::sync::Arc;

use dockerd_network::NetworkDriver;
use dockerd_network::driver::{NetworkDetails, NetworkIdentity};
use dockerd_types::network::EndpointState;
use dockerd_types::{ContainerId, ErrorKind, Filters, Kinded, Timestamp};

use super::adapter::{StackNetworks, UnknownNetwork};
use crate::core::Core;
use crate::error::EngineError;

/// Filters of lists.
pub const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

/// A network as inspect shows it.
#[derive(Debug, Clone)]
pub struct NetworkView {
    /// Who it is.
    pub identity: NetworkIdentity,
    /// Its driver.
    pub driver: &'static str,
    /// When it was made.
    pub created: Timestamp,
    /// Addresses and options.
    pub details: NetworkDetails,
    /// Running containers on it; only for inspect.
    pub containers: Vec<NetworkContainer>,
}

/// A container on a network.
#[derive(Debug, Clone)]
pub struct NetworkContainer {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Its attachment.
    pub endpoint: EndpointState,
}

/// Networks.
#[derive(Debug, Clone)]
pub struct NetworkService {
    pub(crate) core: Arc<Core>,
    pub(crate) networks: Arc<StackNetworks>,
}

/// A predefined network cannot be removed.
#[derive(Debug, thiserror::Error)]
#[error("{0} is a pre-defined network and cannot be removed")]
struct PredefinedNetwork(String);

impl Kinded for PredefinedNetwork {
    fn kind(&self) -> ErrorKind {
        ErrorKind::PermissionDenied
    }
}

impl NetworkService {
    /// All networks the filters let through.
    pub fn list(&self, filters: &Filters) -> Vec<NetworkView> {
        let all = self.networks.stack().networks().iter();
        all.map(|network| self.view(network)).filter(|view| matches(filters, view)).collect()
    }

    /// One network with its containers.
    pub fn inspect(&self, name: &str) -> Result<NetworkView, EngineError> {
        let mut view = self.view(self.find(name)?);
        for container in self.core.containers.all() {
            let snapshot = container.snapshot();
            let endpoint = snapshot.state.endpoints.iter().find(|e| e.network_id == view.identity.id);
            view.containers.extend(endpoint.map(|endpoint| NetworkContainer {
                id: container.id().clone(),
                name: snapshot.name.to_string(),
                endpoint: endpoint.clone(),
            }));
        }
        Ok(view)
    }

    /// Removes a network; the predefined ones stay.
    pub fn remove(&self, name: &str) -> Result<(), EngineError> {
        let (identity, _) = self.find(name)?;
        Err(EngineError::module(PredefinedNetwork(identity.name.clone())))
    }

    fn find(&self, name: &str) -> Result<&(NetworkIdentity, Arc<dyn NetworkDriver>), EngineError> {
        self.networks.find(name).ok_or_else(|| EngineError::module(UnknownNetwork(name.to_owned())))
    }

    fn view(&self, (identity, driver): &(NetworkIdentity, Arc<dyn NetworkDriver>)) -> NetworkView {
        NetworkView {
            identity: identity.clone(),
            driver: driver.kind(),
            created: self.networks.created(&identity.id).unwrap_or_else(|| Timestamp::from_unix_nanos(0)),
            details: driver.details(),
            containers: Vec::new(),
        }
    }
}

/// Predefined networks have no labels and are never dangling.
fn matches(filters: &Filters, view: &NetworkView) -> bool {
    filters.any("driver", |driver| driver == view.driver)
        && filters.any("id", |id| view.identity.id.as_str().starts_with(id))
        && filters.any("name", |name| view.identity.name.contains(name))
        && filters.any("scope", |scope| scope == "local")
        && filters.any("type", |kind| kind == "builtin")
        && filters.any("dangling", |wanted| matches!(wanted, "false" | "0"))
        && !filters.has("label")
}
