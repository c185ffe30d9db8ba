//! Networks that plugins have a part in: making them, removing them, and what a daemon's start owes the plugins. Plugins
//! are called without the turn of those who make networks: one that is slow keeps nobody else waiting. Until all of them
//! have been told, and from when they are told of its end, a network's document is marked as pending. Blocking, all of it.

use std::sync::Arc;

use dockerd_network::plugins::{DriverScope, PluginError};
use dockerd_network::remote::ipam::{RemoteIpam, RemotePool};
use dockerd_network::remote::ledger::{HeldAddress, Ledger};
use dockerd_network::remote::network::RemoteDriver;
use dockerd_types::Kinded;
use serde_json::Value;

use super::adapter::StackNetworks;
use super::document::{self, PoolDocument, UserNetwork, is_ipam_plugin, is_plugin};
use super::plan::{self, CreateNetwork, PlanError, remote};
use super::service;
use crate::error::EngineError;

fn failed(error: impl Kinded + Send + Sync + 'static) -> EngineError {
    EngineError::module(error)
}

/// A network that plugins were asked for, and what they gave.
struct Draft {
    request: CreateNetwork,
    /// The plugin that makes links.
    driver: Option<RemoteDriver>,
    /// The plugin that gives addresses.
    ipam: Option<RemoteIpam>,
    pools: Vec<RemotePool>,
    given: Option<Vec<PoolDocument>>,
    skipped_gateways: [bool; 2],
    /// What the driver is told.
    options: Value,
}

impl Draft {
    /// Asks plugins for what the network needs. Nothing is kept on failure.
    fn prepare(networks: &StackNetworks, mut request: CreateNetwork) -> Result<Self, EngineError> {
        let plugins = networks.stack().plugins();
        let options = remote::options(&request);
        let mut driver = None;
        let mut skipped_gateways = [false; 2];
        if is_plugin(&request.driver) {
            let capabilities = plugins.network_driver(&request.driver).map_err(failed)?;
            if capabilities.scope == DriverScope::Global {
                if request.scope == "local" {
                    return Err(failed(PlanError::Downgrade(request.driver)));
                }
                "global".clone_into(&mut request.scope);
            }
            let found = RemoteDriver::new(plugins.clone(), request.driver.clone());
            if capabilities.checks_gateways {
                skipped_gateways = found.skipped_gateways(&options).map_err(failed)?;
            }
            driver = Some(found);
        }
        let mut draft = Self { request, driver, ipam: None, pools: Vec::new(), given: None, skipped_gateways, options };
        if is_ipam_plugin(&draft.request.ipam_driver) {
            let ipam = RemoteIpam::new(plugins.clone(), draft.request.ipam_driver.clone());
            ipam.capabilities().map_err(failed)?;
            draft.take_pools(ipam)?;
        } else if draft.request.ipam_driver == "null" {
            let families = [false, true].into_iter().zip(draft.request.families());
            let nobodys = families.filter(|(_, wanted)| *wanted).filter_map(|(ipv6, _)| remote::pool_of_nobody(ipv6));
            draft.given = Some(nobodys.collect());
        }
        Ok(draft)
    }

    fn take_pools(&mut self, ipam: RemoteIpam) -> Result<(), EngineError> {
        let asked = remote::pool_requests(&self.request, self.skipped_gateways);
        let space = ipam.address_space(self.request.scope == "global").map_err(failed)?;
        let options = self.request.ipam_options.clone().unwrap_or_default();
        self.pools = ipam.take_pools(&space, &asked, &options).map_err(failed)?;
        let documents = asked.iter().zip(&self.pools).map(|(asked, given)| remote::pool_document(asked, given));
        self.given = Some(documents.collect());
        self.ipam = Some(ipam);
        Ok(())
    }

    /// Gives back what plugins gave.
    fn undo(&self) {
        if let Some(ipam) = &self.ipam {
            ipam.release_pools(&self.pools);
        }
    }

    /// The network, its document on disk and its name taken; nobody can join it yet.
    fn plan(&self, networks: &StackNetworks) -> Result<UserNetwork, EngineError> {
        let _turn = networks.turn().blocking_lock();
        let (given, skipped) = (self.given.clone(), self.skipped_gateways);
        let network = service::planned(networks, self.request.clone(), given, skipped)?;
        let network = UserNetwork { pending: true, ..network };
        // What it is told must be right before a plugin hears of it.
        plan::order(&network, networks.stack().config()).map_err(failed)?;
        document::store(networks.layout(), &network)?;
        networks.insert(UserNetwork { pending: false, ..network.clone() });
        Ok(network)
    }

    /// Tells the driver, and lets containers join.
    fn announce(&self, networks: &StackNetworks, network: &UserNetwork) -> Result<(), EngineError> {
        if let Some(driver) = &self.driver {
            let announcement = remote::announcement(network, self.options.clone());
            driver.create_network(&announcement).map_err(|error| {
                // One that was not reached may have heard of it all the same.
                if matches!(error, PluginError::Transport { .. }) {
                    driver.delete_network(&network.id);
                }
                failed(error)
            })?;
        }
        let _turn = networks.turn().blocking_lock();
        let order = plan::order(network, networks.stack().config()).map_err(failed)?;
        let added = networks.stack().add(order).map_err(failed).and_then(|added| {
            let settled = UserNetwork { pending: false, ..network.clone() };
            document::store(networks.layout(), &settled).inspect_err(|_| {
                if let Err(error) = networks.stack().remove(&*added) {
                    tracing::warn!(network = network.name, %error, "a network that was not made is left in the kernel");
                }
            })
        });
        added.inspect_err(|_| {
            if let Some(driver) = &self.driver {
                driver.delete_network(&network.id);
            }
        })
    }
}

/// Makes a network that plugins may have a part in; the request was checked.
pub(super) fn make(networks: &StackNetworks, request: CreateNetwork) -> Result<UserNetwork, EngineError> {
    let request = plan::complete(request, &networks.users()).map_err(failed)?;
    if !plan::is_plugged(&request) {
        let _turn = networks.turn().blocking_lock();
        return service::make(networks, request);
    }
    let draft = Draft::prepare(networks, request)?;
    let network = draft.plan(networks).inspect_err(|_| draft.undo())?;
    match draft.announce(networks, &network) {
        Ok(()) => Ok(network),
        Err(error) => {
            let turn = networks.turn().blocking_lock();
            networks.forget(&network.id);
            if let Err(error) = document::forget(networks.layout(), &network.id) {
                tracing::warn!(network = network.name, %error, "the document of a network that was not made stays");
            }
            drop(turn);
            draft.undo();
            Err(error)
        }
    }
}

/// Notes that plugins are about to be told of a network's end.
pub(super) fn begin_removal(networks: &StackNetworks, network: &UserNetwork) -> Result<(), EngineError> {
    document::store(networks.layout(), &UserNetwork { pending: true, ..network.clone() })
}

/// Tells plugins of a network's end, which nobody is on and nobody sees any more. If one is not reached, the next daemon
/// tells it.
pub(super) fn take_back(networks: &StackNetworks, network: &UserNetwork) {
    // Endpoints that could not be given back so far.
    match plan::order(network, networks.stack().config()) {
        Ok(order) => networks.stack().sweep_removed(order),
        Err(error) => tracing::warn!(network = network.name, %error, "its document cannot be used"),
    }
    let plugins = networks.stack().plugins();
    let mut reached = true;
    if is_ipam_plugin(&network.ipam_driver) {
        let pools: Vec<RemotePool> = network.pools.iter().filter_map(remote::remote_pool).collect();
        reached &= RemoteIpam::new(plugins.clone(), network.ipam_driver.clone()).release_pools(&pools);
    }
    if is_plugin(&network.driver) {
        reached &= RemoteDriver::new(plugins.clone(), network.driver.clone()).delete_network(&network.id);
    }
    if !reached {
        tracing::warn!(
            network = network.name,
            "a plugin does not know of a network's end; it is told at the next start"
        );
        return;
    }
    networks.stack().forget_ledger(&network.id);
    if let Err(error) = document::forget(networks.layout(), &network.id) {
        tracing::warn!(network = network.name, %error, "the document of a removed network stays");
    }
}

/// What plugins are owed after a daemon's start, when it is known which containers live: endpoints and networks of before
/// are taken back, and those who forget are told what is in use. On a thread of its own: nobody waits for it.
pub(crate) fn settle_later(networks: Arc<StackNetworks>) {
    let pending = networks.take_pending();
    if pending.is_empty() && !networks.users().iter().any(UserNetwork::is_plugged) {
        return;
    }
    let settle = move || {
        networks.stack().sweep_plugins();
        networks.users().iter().for_each(|network| replay(&networks, network));
        for network in &pending {
            let name = &network.name;
            tracing::info!(network = name, "a network that was not made, or not removed, to the end is taken back");
            take_back(&networks, network);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("plugin-settler".to_owned()).spawn(settle) {
        tracing::warn!(%error, "plugins are not told what an earlier daemon left");
    }
}

/// Tells a plugin that gives a network's addresses and forgets which are in use.
fn replay(networks: &StackNetworks, network: &UserNetwork) {
    if !is_ipam_plugin(&network.ipam_driver) {
        return;
    }
    let pool = |pool: &PoolDocument| {
        let range = pool.range.map(|range| range.to_string()).unwrap_or_default();
        Some((remote::remote_pool(pool)?, range))
    };
    let pools: Vec<_> = network.pools.iter().filter_map(pool).collect();
    let driver = networks.find(network.id.as_str());
    let held = driver.iter().filter_map(|driver| driver.ledger()).flat_map(Ledger::held);
    let held: Vec<HeldAddress> = held.flat_map(|record| record.addresses).collect();
    let options = network.ipam_options.clone().unwrap_or_default();
    let ipam = RemoteIpam::new(networks.stack().plugins().clone(), network.ipam_driver.clone());
    if let Err(error) = ipam.replay(&pools, &options, &held) {
        tracing::warn!(network = network.name, %error, "a plugin was not told which of its addresses are in use");
    }
}
