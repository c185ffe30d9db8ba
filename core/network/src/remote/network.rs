//! A network whose links a plugin makes. The plugin is told of the network and of each container's endpoint; it makes a
//! link in the host's namespace, says its name and where the container's routes lead, and takes it back in the end. The
//! daemon moves the link, names it and sets addresses and routes ([`crate::stack`]).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dockerd_types::network::EndpointState;
use dockerd_types::{ContainerId, EndpointId};
use serde_json::{Value, json};

use super::ledger::{EndpointRecord, Ledger};
use super::link::ProvidedLink;
use super::{RemoteError, ipam, request};
use crate::driver::{ContainerPorts, EndpointRequest, NetworkDetails, NetworkDriver, NetworkIdentity};
use crate::error::NetworkError;
use crate::ipam::Addresses;
use crate::link::MacAddress;
use crate::plugins::{Answer, NETWORK_DRIVER, PluginError, PluginMethod, Plugins};
use crate::pool::ShelfId;

const fn method(name: &'static str, target: &'static str) -> PluginMethod {
    PluginMethod { kind: NETWORK_DRIVER, name, target }
}

const CREATE_NETWORK: PluginMethod = method("NetworkDriver.CreateNetwork", "api.CreateNetworkResponse");
const DELETE_NETWORK: PluginMethod = method("NetworkDriver.DeleteNetwork", "api.DeleteNetworkResponse");
const CHECK_GATEWAYS: PluginMethod = method("NetworkDriver.GwAllocCheck", "api.GwAllocCheckerResponse");
const CREATE_ENDPOINT: PluginMethod = method("NetworkDriver.CreateEndpoint", "api.CreateEndpointResponse");
const DELETE_ENDPOINT: PluginMethod = method("NetworkDriver.DeleteEndpoint", "api.DeleteEndpointResponse");
const ENDPOINT_INFO: PluginMethod = method("NetworkDriver.EndpointOperInfo", "api.EndpointInfoResponse");
const JOIN: PluginMethod = method("NetworkDriver.Join", "api.JoinResponse");
const LEAVE: PluginMethod = method("NetworkDriver.Leave", "api.LeaveResponse");
const PROGRAM: PluginMethod =
    method("NetworkDriver.ProgramExternalConnectivity", "api.ProgramExternalConnectivityResponse");
const REVOKE: PluginMethod =
    method("NetworkDriver.RevokeExternalConnectivity", "api.RevokeExternalConnectivityResponse");

/// A plugin that is a network driver.
#[derive(Debug, Clone)]
pub struct RemoteDriver {
    plugins: Arc<Plugins>,
    name: String,
}

/// What a plugin is told of a new network.
#[derive(Debug, Clone)]
pub struct NetworkAnnouncement {
    /// Its id.
    pub id: dockerd_types::NetworkId,
    /// Options of the network and of its driver, as a plugin is told them.
    pub options: Value,
    /// Its IPv4 subnets.
    pub ipv4: Value,
    /// Its IPv6 subnets.
    pub ipv6: Value,
}

impl RemoteDriver {
    /// The one of that name.
    pub fn new(plugins: Arc<Plugins>, name: String) -> Self {
        Self { plugins, name }
    }

    fn call(&self, method: PluginMethod, request: &Value) -> Result<Answer, PluginError> {
        let answer = self.plugins.call(&self.name, method, Some(request))?;
        answer.refused("Err")?;
        Ok(answer)
    }

    /// Which families the plugin wants no gateway's address for, IPv4 first.
    pub fn skipped_gateways(&self, options: &Value) -> Result<[bool; 2], PluginError> {
        let answer = self.call(CHECK_GATEWAYS, &json!({"Options": options}))?;
        Ok([answer.flag("SkipIPv4")?, answer.flag("SkipIPv6")?])
    }

    /// Tells it of a network.
    pub fn create_network(&self, network: &NetworkAnnouncement) -> Result<(), PluginError> {
        let NetworkAnnouncement { id, options, ipv4, ipv6 } = network;
        let request = json!({"NetworkID": id.as_str(), "Options": options, "IPv4Data": ipv4, "IPv6Data": ipv6});
        self.call(CREATE_NETWORK, &request).map(drop)
    }

    /// Tells it of a network's end. What it says against it is logged; whether it was reached.
    pub fn delete_network(&self, id: &dockerd_types::NetworkId) -> bool {
        let outcome = self.call(DELETE_NETWORK, &json!({"NetworkID": id.as_str()}));
        self.settled("network", id.as_str(), outcome)
    }

    /// Whether it heard of it; what it says against it is logged.
    fn settled(&self, kind: &str, id: &str, outcome: Result<Answer, PluginError>) -> bool {
        let Err(error) = outcome else { return true };
        tracing::warn!(driver = self.name, kind, id, %error, "a plugin did not take back what it was asked to");
        !error.is_away()
    }
}

/// What a network of a plugin's is like, resolved.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// Who it is.
    pub identity: NetworkIdentity,
    /// Whether nothing leads in or out.
    pub internal: bool,
    /// Subnets and options, as inspect shows them.
    pub details: NetworkDetails,
}

/// One network.
#[derive(Debug)]
pub struct RemoteNetwork {
    settings: RemoteSettings,
    driver: RemoteDriver,
    addresses: Addresses,
    ledger: Arc<Ledger>,
    shelf: ShelfId,
}

impl RemoteNetwork {
    /// The network; `shelf` has sandboxes with loopback only. Addresses of a plugin's share its ledger.
    pub fn new(
        settings: RemoteSettings,
        driver: RemoteDriver,
        addresses: Addresses,
        ledger: Arc<Ledger>,
        shelf: ShelfId,
    ) -> Self {
        Self { settings, driver, addresses, ledger, shelf }
    }

    /// Whether nothing leads in or out.
    pub(crate) fn is_internal(&self) -> bool {
        self.settings.internal
    }

    fn endpoint_of(&self, endpoint: &EndpointId) -> Value {
        json!({"NetworkID": self.settings.identity.id.as_str(), "EndpointID": endpoint.as_str()})
    }

    fn with_options(&self, endpoint: &EndpointId, options: serde_json::Map<String, Value>) -> Value {
        let mut request = self.endpoint_of(endpoint);
        request["Options"] = options.into();
        request
    }

    /// Tells the plugin of an endpoint, and takes over what it says of it.
    fn create_endpoint(&self, request: &EndpointRequest<'_>, state: &mut EndpointState) -> Result<(), RemoteError> {
        let prefixed = |ipv6: bool| {
            let mut all = state.prefixed_addresses().filter(|(address, _)| address.is_ipv6() == ipv6);
            all.next().map(|(address, prefix)| format!("{address}/{prefix}")).unwrap_or_default()
        };
        let options = request::endpoint(request, self.settings.internal);
        let mut asked = self.with_options(&state.endpoint_id, options);
        asked["Interface"] =
            json!({"Address": prefixed(false), "AddressIPv6": prefixed(true), "MacAddress": state.mac_address});
        let answer = self.driver.call(CREATE_ENDPOINT, &asked)?;
        let link = answer.object("Interface", "api.EndpointInterface")?;
        let texts = link.map(|link| {
            Ok::<_, PluginError>((link.text("Address")?, link.text("AddressIPv6")?, link.text("MacAddress")?))
        });
        let Some((ipv4, ipv6, mac)) = texts.transpose()? else { return Ok(()) };
        let Err(error) = adopt(state, &ipv4, &ipv6, &mac) else { return Ok(()) };
        let error = Box::new(error);
        Err(match self.driver.call(DELETE_ENDPOINT, &self.endpoint_of(&state.endpoint_id)) {
            Ok(_) => RemoteError::RolledBack(error),
            Err(undo) => RemoteError::NotRolledBack { undo, source: error },
        })
    }

    /// Has the plugin make a container's link; `sandbox` is where its namespace can be opened.
    pub(crate) fn join(
        &self,
        container: &ContainerId,
        ports: ContainerPorts<'_>,
        sandbox: &Path,
    ) -> Result<ProvidedLink, NetworkError> {
        let Some(record) = self.ledger.record(container) else {
            return Err(NetworkError::Closed { network: self.settings.identity.name.clone() });
        };
        self.ledger.note(container, |record| record.joined = true)?;
        let mut asked = self.with_options(&record.endpoint, request::labels(ports));
        asked["SandboxKey"] = sandbox.to_string_lossy().into();
        let answer = self.driver.call(JOIN, &asked).inspect_err(|error| {
            // A plugin that said no has nothing to leave.
            if !error.is_away() {
                let _ = self.ledger.note(container, |record| record.joined = false);
            }
        })?;
        match ProvidedLink::read(&answer) {
            Ok(link) => {
                let noted = link.clone();
                self.ledger.note(container, |record| record.link = Some(noted))?;
                Ok(link)
            }
            // The stock daemon tells these when it sets them.
            Err(error @ RemoteError::Route { .. }) => Err(error.into()),
            // Whoever asked for the link leaves it.
            Err(error @ RemoteError::Plugin(_)) => Err(error.into()),
            Err(error) => Err(RemoteError::RolledBack(Box::new(error)).into()),
        }
    }

    /// The link a container has of it.
    pub(crate) fn link_of(&self, container: &ContainerId) -> Option<ProvidedLink> {
        self.ledger.record(container)?.link
    }

    /// Asks the plugin what it knows of an endpoint, as the stock daemon does when it is ready.
    pub(crate) fn joined(&self, container: &ContainerId) {
        let Some(record) = self.ledger.record(container) else { return };
        if let Err(error) = self.driver.call(ENDPOINT_INFO, &self.endpoint_of(&record.endpoint)) {
            tracing::debug!(driver = self.driver.name, %container, %error, "a plugin knows nothing of an endpoint");
        }
    }

    /// The container is reached from outside by this network from now on, or is not any more.
    pub(crate) fn set_external(
        &self,
        container: &ContainerId,
        ports: ContainerPorts<'_>,
        external: bool,
        no_proxy: bool,
    ) -> Result<(), NetworkError> {
        let Some(record) = self.ledger.record(container).filter(|record| record.external != external) else {
            return Ok(());
        };
        if external {
            self.ledger.note(container, |record| record.external = true)?;
            let asked = self.with_options(&record.endpoint, request::external(ports, no_proxy));
            match self.driver.call(PROGRAM, &asked) {
                Err(error) if !error.is_unknown_method() => {
                    if !error.is_away() {
                        self.ledger.note(container, |record| record.external = false)?;
                    }
                    return Err(error.into());
                }
                _ => return Ok(()),
            }
        }
        self.revoke(&record);
        self.ledger.note(container, |record| record.external = false)
    }

    fn revoke(&self, record: &EndpointRecord) -> bool {
        match self.driver.call(REVOKE, &self.endpoint_of(&record.endpoint)) {
            Err(error) if error.is_unknown_method() => true,
            outcome => self.driver.settled("endpoint", record.endpoint.as_str(), outcome),
        }
    }

    /// The container is about to give the link back.
    pub(crate) fn leave(&self, container: &ContainerId) {
        let Some(record) = self.ledger.record(container) else { return };
        let revoked = !record.external || self.revoke(&record);
        let left = !record.joined
            || self.driver.settled(
                "endpoint",
                record.endpoint.as_str(),
                self.driver.call(LEAVE, &self.endpoint_of(&record.endpoint)),
            );
        let noted = self.ledger.note(container, |record| {
            record.external &= !revoked;
            record.joined &= !left;
        });
        if let Err(error) = noted {
            tracing::warn!(%container, %error, "an endpoint's document is older than the endpoint");
        }
    }

    /// Has plugins take back everything of an endpoint; whether they all were reached.
    fn take_back(&self, record: &EndpointRecord) -> bool {
        let mut done = !record.external || self.revoke(record);
        let asked = self.endpoint_of(&record.endpoint);
        let id = record.endpoint.as_str();
        if record.joined {
            done &= self.driver.settled("endpoint", id, self.driver.call(LEAVE, &asked));
        }
        if record.created {
            done &= self.driver.settled("endpoint", id, self.driver.call(DELETE_ENDPOINT, &asked));
        }
        if let Addresses::Remote(leases) = &self.addresses {
            done &= leases.give_back(record);
        }
        done
    }
}

/// Takes over addresses that a plugin gives an endpoint which has none.
fn adopt(state: &mut EndpointState, ipv4: &str, ipv6: &str, mac: &str) -> Result<(), RemoteError> {
    if !mac.is_empty() {
        let wanted = MacAddress::parse(mac).ok_or_else(|| RemoteError::Mac(mac.to_owned()))?.to_string();
        if !state.mac_address.is_empty() {
            return Err(RemoteError::MacPresent { present: state.mac_address.clone(), wanted });
        }
        state.mac_address = wanted;
    }
    for (text, is_ipv6) in [(ipv4, false), (ipv6, true)].into_iter().filter(|(text, _)| !text.is_empty()) {
        let (address, prefix) = ipam::address_of(text, is_ipv6)?;
        let present = state.prefixed_addresses().find(|(address, _)| address.is_ipv6() == is_ipv6);
        if let Some((present, bits)) = present {
            let (present, wanted) = (format!("{present}/{bits}"), format!("{address}/{prefix}"));
            return Err(RemoteError::AddressPresent { present, wanted });
        }
        match address {
            std::net::IpAddr::V4(address) => state.ipv4 = Some((address, prefix)),
            std::net::IpAddr::V6(address) => state.ipv6 = Some((address, prefix)),
        }
    }
    Ok(())
}

impl NetworkDriver for RemoteNetwork {
    fn identity(&self) -> &NetworkIdentity {
        &self.settings.identity
    }

    fn kind(&self) -> &str {
        &self.driver.name
    }

    fn shelf(&self) -> Option<ShelfId> {
        Some(self.shelf)
    }

    fn remote(&self) -> Option<&RemoteNetwork> {
        Some(self)
    }

    fn addresses(&self) -> Option<&Addresses> {
        Some(&self.addresses)
    }

    fn ledger(&self) -> Option<&Ledger> {
        Some(&self.ledger)
    }

    fn sweep(&self) {
        self.ledger.sweep(|record| self.take_back(record));
    }

    fn allot(&self, request: &EndpointRequest<'_>) -> Result<EndpointState, NetworkError> {
        let mac = request.config.mac_address.as_deref().and_then(MacAddress::parse);
        let mut state = self.addresses.endpoint(&self.settings.identity, request, mac)?;
        // The plugin says where the way out is.
        (state.gateway4, state.gateway6) = (None, None);
        let container = request.container;
        let begun = match &self.addresses {
            Addresses::Remote(_) => Ok(()),
            _ => self.ledger.begin(container, &state.endpoint_id),
        };
        let begun = begun.and_then(|()| self.ledger.note(container, |record| record.created = true));
        if let Err(error) = begun {
            self.release(container);
            return Err(error);
        }
        self.create_endpoint(request, &mut state).map(|()| state).map_err(|error| {
            // One that said no knows no endpoint; one that was not reached may know it all the same.
            if !matches!(&error, RemoteError::Plugin(error) if error.is_away()) {
                let _ = self.ledger.note(container, |record| record.created = false);
            }
            self.release(container);
            NetworkError::Endpoint {
                name: request.name.to_owned(),
                network: self.settings.identity.name.clone(),
                source: Box::new(error.into()),
            }
        })
    }

    fn keep(&self, container: &ContainerId, state: &EndpointState) {
        self.ledger.keep(container, &state.endpoint_id);
        if let Addresses::Own(leases) = &self.addresses {
            leases.keep(container, state.addresses());
        }
    }

    fn release(&self, container: &ContainerId) {
        if let Some(record) = self.ledger.record(container) {
            let done = self.take_back(&record);
            self.ledger.end(container, done);
        }
        if let Addresses::Own(leases) = &self.addresses {
            leases.release(container);
        }
    }

    fn close(&self, patience: Duration) -> Result<(), NetworkError> {
        self.ledger.close(patience)?;
        match &self.addresses {
            Addresses::Own(leases) => leases.close(patience).inspect_err(|_| self.ledger.reopen()),
            _ => Ok(()),
        }
    }

    fn reopen(&self) {
        self.ledger.reopen();
        if let Addresses::Own(leases) = &self.addresses {
            leases.reopen();
        }
    }

    fn details(&self) -> NetworkDetails {
        self.settings.details.clone()
    }
}
