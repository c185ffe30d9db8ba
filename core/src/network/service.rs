//! What the API asks of networks: lists and inspect, answered from memory; making, removing and pruning; connecting and
//! disconnecting containers, which their own tasks do.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dockerd_network::NetworkDriver;
use dockerd_network::config::NetworkConfig;
use dockerd_network::driver::NetworkIdentity;
use dockerd_network::ipam::{Subnet, SubnetPlan};
use dockerd_types::container::Labels;
use dockerd_types::network::{EndpointConfig, EndpointState};
use dockerd_types::{ContainerId, ErrorKind, Filters, Kinded, NetworkId, Timestamp};

use super::adapter::{StackNetworks, UnknownNetwork, short};
use super::document::{self, UserNetwork};
use super::plan::{self, CreateNetwork, CreatePool, Surroundings};
use super::plugged;
use crate::container::{pattern, prune_until};
use crate::core::Core;
use crate::error::EngineError;
use crate::ports::EventNote;

/// Filters of lists.
pub const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];
/// How long a removal waits for containers that are not on the network any more to give back what they had there.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same where plugins have to take back what they gave.
const PATIENCE_WITH_PLUGINS: Duration = Duration::from_secs(60);
/// Filters of prunes.
pub const PRUNE_FILTERS: [&str; 3] = ["label", "label!", "until"];

/// A network as inspect shows it.
#[derive(Debug, Clone)]
pub struct NetworkView {
    /// Who it is.
    pub identity: NetworkIdentity,
    /// Its driver.
    pub driver: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it has IPv4.
    pub enable_ipv4: bool,
    /// Whether it has IPv6.
    pub enable_ipv6: bool,
    /// Whether nothing leads in or out.
    pub internal: bool,
    /// Whether others than services may join.
    pub attachable: bool,
    /// Where it is known, as the client said.
    pub scope: String,
    /// Whether it is only settings for others.
    pub config_only: bool,
    /// Name of the network its settings are from; empty for its own.
    pub config_from: String,
    /// Who gives addresses.
    pub ipam_driver: String,
    /// Options of who gives addresses; `None` for the predefined ones and where the client gave none.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Address pools.
    pub pools: Vec<PoolView>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: Labels,
    /// Whether every daemon has it.
    pub predefined: bool,
    /// Running containers on it; only for inspect.
    pub containers: Vec<NetworkContainer>,
}

/// An address pool, as texts; empty ones are not shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolView {
    /// CIDR.
    pub subnet: String,
    /// CIDR within it.
    pub range: String,
    /// The gateway.
    pub gateway: String,
    /// Addresses that are others', by name.
    pub auxiliary: BTreeMap<String, String>,
}

/// A container on a network.
#[derive(Debug, Clone)]
pub struct NetworkContainer {
    /// Its id.
    pub id: ContainerId,
    /// The container's name, or that of its sandbox where it only gets out by the network.
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

/// Nobody of that name is on a network.
#[derive(Debug, thiserror::Error)]
#[error("endpoint {0} not found")]
struct UnknownEndpoint(String);

impl Kinded for UnknownEndpoint {
    fn kind(&self) -> ErrorKind {
        ErrorKind::NotFound
    }
}

/// Why a network stays.
#[derive(Debug, thiserror::Error)]
enum Stays {
    /// Every daemon has it.
    #[error("{0} is a pre-defined network and cannot be removed")]
    Predefined(String),
    /// Others have their settings from it.
    #[error("error while removing network: configuration network {0:?} is in use")]
    Template(String),
    /// Containers are on it.
    #[error("error while removing network: network {name} has active endpoints ({endpoints})")]
    InUse {
        /// The network.
        name: String,
        /// Which, with the ends of their ids cut off.
        endpoints: String,
    },
}

impl Kinded for Stays {
    fn kind(&self) -> ErrorKind {
        ErrorKind::PermissionDenied
    }
}

impl NetworkService {
    /// All networks the filters let through.
    pub fn list(&self, filters: &Filters) -> Result<Vec<NetworkView>, EngineError> {
        if let Some(value) = filters.values("type").find(|kind| !matches!(*kind, "builtin" | "custom")) {
            return Err(EngineError::module(BadFilter::Type(value.to_owned())));
        }
        let dangling = dangling(filters)?;
        let mut all: Vec<NetworkView> = self.networks.stack().networks().iter().map(|n| self.view(&**n)).collect();
        all.retain(|view| matches(filters, view));
        if let Some(wanted) = dangling {
            all.retain(|view| wanted == (!view.predefined && self.containers_on(&view.identity.id).is_empty()));
        }
        Ok(all)
    }

    /// One network with its containers.
    pub fn inspect(&self, name: &str) -> Result<NetworkView, EngineError> {
        let mut view = self.view(&*self.find(name)?);
        view.containers = self.containers_on(&view.identity.id);
        Ok(view)
    }

    fn containers_on(&self, id: &NetworkId) -> Vec<NetworkContainer> {
        let mut found = Vec::new();
        for container in self.core.containers.all() {
            let snapshot = container.snapshot();
            let state = &snapshot.state;
            let on_it = |endpoint: &&EndpointState| endpoint.network_id == *id;
            let place = |name: String, endpoint: &EndpointState| {
                let (id, endpoint) = (container.id().clone(), endpoint.clone());
                NetworkContainer { id, name, endpoint }
            };
            let by_name = state.endpoints.iter().find(on_it).map(|endpoint| place(snapshot.name.to_string(), endpoint));
            let sandbox = || format!("gateway_{}", short(&state.sandbox_id));
            let way_out = || state.way_out.as_ref().filter(on_it).map(|endpoint| place(sandbox(), endpoint));
            found.extend(by_name.or_else(way_out));
        }
        found
    }

    /// Makes a network: first its document, then its bridge. Goes on when the client hangs up.
    pub async fn create(&self, request: CreateNetwork) -> Result<NetworkId, EngineError> {
        let request = plan::check(request, self.networks.stack().config()).map_err(EngineError::module)?;
        let service = self.clone();
        if plan::may_be_plugged(&request) {
            return detached(async move {
                let networks = service.networks.clone();
                let made = crate::image::blocking(move || plugged::make(&networks, request)).await??;
                service.event("create", &made.id, &made.name, &made.driver);
                Ok(made.id)
            })
            .await;
        }
        detached(async move {
            let _turn = service.networks.turn().lock().await;
            let networks = service.networks.clone();
            let made = crate::image::blocking(move || make(&networks, request)).await??;
            service.event("create", &made.id, &made.name, &made.driver);
            Ok(made.id)
        })
        .await
    }

    /// Removes a network nobody is on; the predefined ones stay.
    pub async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let driver = self.find(name)?;
        let service = self.clone();
        detached(async move { service.remove_driver(driver).await }).await
    }

    async fn remove_driver(&self, driver: Arc<dyn NetworkDriver>) -> Result<(), EngineError> {
        let NetworkIdentity { id, name } = driver.identity().clone();
        let Some(network) = self.networks.user(&id) else {
            let predefined = self.networks.find(id.as_str()).is_some();
            let error = EngineError::module(Stays::Predefined(name.clone()));
            // Somebody else was faster.
            return Err(if predefined { error } else { EngineError::module(UnknownNetwork(name)) });
        };
        // Sandboxes of containers that ended are taken down behind the reply. Others' networks do not wait with us.
        let patience = match self.containers_on(&id).is_empty() {
            true if network.is_plugged() => PATIENCE_WITH_PLUGINS,
            true => PATIENCE,
            false => Duration::ZERO,
        };
        let closing = driver.clone();
        let closed = crate::image::blocking(move || closing.close(patience)).await?;
        if closed.is_err() {
            return Err(EngineError::module(Stays::InUse { endpoints: self.endpoints_of(&id), name }));
        }
        let turn = self.networks.turn().lock().await;
        if self.networks.user(&id).is_none() {
            return Err(EngineError::module(UnknownNetwork(name)));
        }
        if network.config_only && self.networks.users().iter().any(|other| other.config_from == name) {
            driver.reopen();
            return Err(EngineError::module(Stays::Template(name)));
        }
        let (networks, removing) = (self.networks.clone(), network.clone());
        let removed = crate::image::blocking(move || {
            // Should we die after this, the next daemon removes the bridge: nothing speaks for it any more.
            let gone = if removing.is_plugged() {
                plugged::begin_removal(&networks, &removing)
            } else {
                document::forget(networks.layout(), &id)
            };
            gone.inspect_err(|_| driver.reopen())?;
            networks.forget(&id);
            networks.stack().remove(&*driver).map_err(EngineError::module)
        });
        removed.await??;
        drop(turn);
        if network.is_plugged() {
            let (networks, removed) = (self.networks.clone(), network.clone());
            crate::image::blocking(move || plugged::take_back(&networks, &removed)).await?;
        }
        self.event("destroy", &network.id, &network.name, &network.driver);
        Ok(())
    }

    fn endpoints_of(&self, id: &NetworkId) -> String {
        let mut on = self.containers_on(id);
        on.sort_by(|a, b| a.name.cmp(&b.name));
        let text = |c: &NetworkContainer| format!("name:{:?} id:{:?}", c.name, c.endpoint.endpoint_id.short());
        on.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    /// Removes all networks of users' that no container is on and that the filters take; their names.
    pub async fn prune(&self, filters: &Filters) -> Result<Vec<String>, EngineError> {
        let bad =
            |_| EngineError::module(BadFilter::Until(filters.values("until").next().unwrap_or_default().to_owned()));
        let until = prune_until(filters, Timestamp::now()).map_err(bad)?;
        let service = self.clone();
        let filters = filters.clone();
        detached(async move {
            let mut removed = Vec::new();
            for network in service.networks.users() {
                let taken = !network.config_only
                    && filters.labels_match(&network.labels)
                    && until.is_none_or(|at| network.created < at);
                if !taken || !service.containers_on(&network.id).is_empty() {
                    continue;
                }
                let Some(driver) = service.networks.find(network.id.as_str()) else { continue };
                match service.remove_driver(driver).await {
                    Ok(()) => removed.push(network.name),
                    Err(error) => tracing::warn!(network = network.name, %error, "could not be pruned"),
                }
            }
            let (action, actor) = ("prune".to_owned(), String::new());
            let attributes = BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]);
            let time = Timestamp::now();
            service.core.events.publish(EventNote { kind: "network", action, actor, attributes, time });
            Ok(removed)
        })
        .await
    }

    /// Puts a container on a network, now or from its next start on.
    pub async fn connect(&self, network: &str, container: &str, config: EndpointConfig) -> Result<(), EngineError> {
        let container = self.core.containers.find(container)?;
        container.connect(network, config).await
    }

    /// Takes a container off a network.
    pub async fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<(), EngineError> {
        // By force, the stock daemon looks for an endpoint of that name on the network.
        let absent = |_| EngineError::module(UnknownEndpoint(container.to_owned()));
        let found = self.core.containers.find(container);
        let container = if force { found.map_err(absent)? } else { found? };
        container.disconnect(network, force).await
    }

    fn event(&self, action: &str, id: &NetworkId, name: &str, driver: &str) {
        let attributes = BTreeMap::from([("name".to_owned(), name.to_owned()), ("type".to_owned(), driver.to_owned())]);
        let (action, actor, time) = (action.to_owned(), id.to_string(), Timestamp::now());
        self.core.events.publish(EventNote { kind: "network", action, actor, attributes, time });
    }

    fn find(&self, name: &str) -> Result<Arc<dyn NetworkDriver>, EngineError> {
        self.networks.find(name).ok_or_else(|| EngineError::module(UnknownNetwork(name.to_owned())))
    }

    fn view(&self, driver: &dyn NetworkDriver) -> NetworkView {
        let identity = driver.identity().clone();
        match self.networks.user(&identity.id) {
            Some(network) => view_of(network, driver.kind().to_owned()),
            None => {
                let details = driver.details();
                NetworkView {
                    driver: driver.kind().to_owned(),
                    created: self.networks.created(&identity.id).unwrap_or_else(|| Timestamp::from_unix_nanos(0)),
                    identity,
                    enable_ipv4: true,
                    enable_ipv6: details.subnets.iter().any(|plan| plan.subnet.is_ipv6()),
                    internal: false,
                    attachable: false,
                    scope: "local".to_owned(),
                    config_only: false,
                    config_from: String::new(),
                    ipam_driver: "default".to_owned(),
                    ipam_options: None,
                    pools: predefined_pools(details.subnets, self.networks.stack().config()),
                    options: details.options,
                    labels: Labels::new(),
                    predefined: true,
                    containers: Vec::new(),
                }
            }
        }
    }
}

/// Subnets of a network that every daemon has, those an administrator named first, of which a gateway is only shown if it
/// was named too.
fn predefined_pools(mut subnets: Vec<SubnetPlan>, config: &NetworkConfig) -> Vec<PoolView> {
    let named = |plan: &SubnetPlan| match plan.subnet.is_ipv6() {
        false => (config.bip.is_some(), config.fixed_cidr.is_some()),
        true => (config.bip6.is_some(), config.fixed_cidr_v6.is_some()),
    };
    subnets.sort_by_key(|plan| named(plan) == (false, false));
    let pool = |plan: SubnetPlan| {
        let gateway = plan.gateway.filter(|_| named(&plan) != (false, true));
        let routers = plan.reserved.iter().filter(|_| named(&plan) != (false, false));
        let router = if plan.subnet.is_ipv6() { "DefaultGatewayIPv6" } else { "DefaultGatewayIPv4" };
        PoolView {
            subnet: plan.subnet.to_string(),
            range: plan.range.map(|range| range.to_string()).unwrap_or_default(),
            gateway: gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
            auxiliary: routers.map(|address| (router.to_owned(), address.to_string())).collect(),
        }
    };
    subnets.into_iter().map(pool).collect()
}

fn view_of(network: UserNetwork, driver: String) -> NetworkView {
    let UserNetwork { id, name, created, internal, attachable, ipam_options, pools, options, labels, .. } = network;
    let UserNetwork { enable_ipv4, enable_ipv6, scope, config_only, config_from, ipam_driver, .. } = network;
    let pool = |pool: document::PoolDocument| match pool.asked {
        Some(CreatePool { subnet, range, gateway, auxiliary }) => PoolView { subnet, range, gateway, auxiliary },
        None => PoolView {
            subnet: pool.subnet.to_string(),
            range: pool.range.map(|range| range.to_string()).unwrap_or_default(),
            gateway: pool.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
            auxiliary: pool.auxiliary.into_iter().map(|(name, address)| (name, address.to_string())).collect(),
        },
    };
    NetworkView {
        identity: NetworkIdentity { id, name },
        driver,
        created,
        enable_ipv4,
        enable_ipv6,
        internal,
        attachable,
        scope,
        config_only,
        config_from,
        ipam_driver,
        ipam_options,
        pools: pools.into_iter().map(pool).collect(),
        options,
        labels,
        predefined: false,
        containers: Vec::new(),
    }
}

/// Document, bridge, rules. A failure leaves nothing. Blocking; under the turn.
pub(super) fn make(networks: &StackNetworks, request: CreateNetwork) -> Result<UserNetwork, EngineError> {
    let stack = networks.stack();
    let network = planned(networks, request, None, [false; 2])?;
    let order = plan::order(&network, stack.config()).map_err(EngineError::module)?;
    document::store(networks.layout(), &network)?;
    if let Err(error) = stack.add(order) {
        if let Err(error) = document::forget(networks.layout(), &network.id) {
            tracing::warn!(network = network.name, %error, "the document of a network that was not made stays");
        }
        return Err(EngineError::module(error));
    }
    networks.insert(network.clone());
    Ok(network)
}

/// The network a request leads to, among those there are now: with `given` as its pools, or with free subnets where it names
/// none. Blocking; under the turn.
pub(super) fn planned(
    networks: &StackNetworks,
    request: CreateNetwork,
    given: Option<Vec<document::PoolDocument>>,
    skipped_gateways: [bool; 2],
) -> Result<UserNetwork, EngineError> {
    let stack = networks.stack();
    let users = networks.users();
    let of_users: HashSet<&NetworkId> = users.iter().map(|network| &network.id).collect();
    let predefined = |network: &&Arc<dyn NetworkDriver>| !of_users.contains(&network.identity().id);
    let subnets = |network: &Arc<dyn NetworkDriver>| network.details().subnets.into_iter().map(|plan| plan.subnet);
    let mut taken: Vec<_> = stack.networks().iter().filter(predefined).flat_map(subnets).collect();
    // Also of those whose bridge could not be made.
    taken.extend(users.iter().flat_map(UserNetwork::claimed));
    let request = plan::complete(request, &users).map_err(EngineError::module)?;
    let [ipv4, ipv6] = request.families().map(|wanted| wanted && !request.config_only && given.is_none());
    let free = |ipv6: bool, wanted: bool| -> Result<Option<Subnet>, EngineError> {
        let given = request.pools.iter().any(|pool| !pool.subnet.is_empty() && pool.subnet.contains(':') == ipv6);
        (wanted && !given).then(|| stack.free_subnet(ipv6, &taken)).transpose().map_err(EngineError::module)
    };
    let free = [free(false, ipv4)?, free(true, ipv6)?];
    let around = Surroundings { networks: &users, taken: &taken, free, given, skipped_gateways };
    plan::plan(request, document::new_id(), Timestamp::now(), &around).map_err(EngineError::module)
}

/// Runs to its end whatever becomes of the client.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::spawn(work).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn dangling(filters: &Filters) -> Result<Option<bool>, EngineError> {
    let mut values = filters.values("dangling").map(|text| match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    });
    match values.next() {
        None => Ok(None),
        Some(Some(value)) if values.all(|other| other == Some(value)) => Ok(Some(value)),
        Some(_) => Err(EngineError::module(BadFilter::Dangling)),
    }
}

/// A value a filter does not take, in the stock daemon's words, which differ from those of other lists.
#[derive(Debug, thiserror::Error)]
enum BadFilter {
    #[error("invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")")]
    Dangling,
    #[error("invalid filter: 'type'='{0}'")]
    Type(String),
    #[error("failed to parse value as time or duration: {0:?}")]
    Until(String),
}

impl Kinded for BadFilter {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

fn matches(filters: &Filters, view: &NetworkView) -> bool {
    let kind = if view.predefined { "builtin" } else { "custom" };
    filters.any("driver", |driver| driver == view.driver)
        && filters.any("id", |id| pattern::is_match(id, view.identity.id.as_str()))
        && filters.any("name", |name| pattern::is_match(name, &view.identity.name))
        && filters.any("scope", |scope| scope == view.scope)
        && filters.any("type", |wanted| wanted == kind)
        && filters.labels_match(&view.labels)
}
