//! Addresses of one network's containers that a plugin gives.

use std::net::IpAddr;
use std::sync::Arc;

use dockerd_types::ContainerId;
use dockerd_types::network::EndpointState;
use serde_json::{Value, json};

use super::RemoteError;
use super::ipam::RemoteIpam;
use super::ledger::{EndpointRecord, HeldAddress, Ledger};
use super::request::MAC;
use crate::driver::EndpointRequest;
use crate::error::NetworkError;
use crate::ipam::SubnetPlan;
use crate::link::MacAddress;

/// A subnet of a network whose addresses a plugin gives.
#[derive(Debug, Clone)]
pub struct LeasedPool {
    /// The plugin's name of it.
    pub id: String,
    /// What the network knows of it.
    pub plan: SubnetPlan,
}

/// The addresses of one network.
#[derive(Debug)]
pub struct RemoteLeases {
    ipam: RemoteIpam,
    pools: Vec<LeasedPool>,
    ledger: Arc<Ledger>,
}

impl RemoteLeases {
    /// Those of `pools`.
    pub fn new(ipam: RemoteIpam, pools: Vec<LeasedPool>, ledger: Arc<Ledger>) -> Self {
        Self { ipam, pools, ledger }
    }

    /// Where it is noted who has which.
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Gives an endpoint an address of each family the network has; those asked for, else any. Its gateways are the pools'.
    /// On failure nothing is kept.
    pub(crate) fn allot(&self, request: &EndpointRequest<'_>, state: &mut EndpointState) -> Result<(), NetworkError> {
        let requires_mac = self.ipam.capabilities()?.requires_mac;
        if state.mac_address.is_empty() && requires_mac {
            state.mac_address = MacAddress::local(crate::random()).to_string();
        }
        let options = if requires_mac { json!({MAC: state.mac_address}) } else { Value::Null };
        self.ledger.begin(request.container, &state.endpoint_id)?;
        let families = [false, true].into_iter();
        let outcome = { families }.try_for_each(|ipv6| self.allot_family(request, state, options.clone(), ipv6));
        if outcome.is_err() {
            self.release(request.container);
        }
        outcome
    }

    fn allot_family(
        &self,
        request: &EndpointRequest<'_>,
        state: &mut EndpointState,
        options: Value,
        ipv6: bool,
    ) -> Result<(), NetworkError> {
        let config = request.config;
        let wished = if ipv6 { config.ipv6.map(IpAddr::V6) } else { config.ipv4.map(IpAddr::V4) };
        let mut pools = self.pools.iter().filter(|pool| pool.plan.subnet.is_ipv6() == ipv6).peekable();
        if pools.peek().is_none() {
            return Ok(());
        }
        let fits = |pool: &&LeasedPool| wished.is_none_or(|wished| pool.plan.subnet.contains(wished));
        let pool = match (pools.find(fits), wished) {
            (Some(pool), _) => pool,
            (None, Some(wished)) => return Err(RemoteError::Outside(wished).into()),
            (None, None) => return Ok(()),
        };
        let asked = wished.map(|address| address.to_string()).unwrap_or_default();
        let (address, prefix) = self.ipam.take_address(&pool.id, &asked, options, ipv6)?;
        let held = HeldAddress { pool: pool.id.clone(), address };
        self.ledger.note(request.container, |record| record.addresses.push(held))?;
        match address {
            IpAddr::V4(address) => {
                state.ipv4 = Some((address, prefix));
                state.gateway4 = pool.plan.gateway.and_then(|gateway| match gateway {
                    IpAddr::V4(gateway) => Some(gateway),
                    IpAddr::V6(_) => None,
                });
            }
            IpAddr::V6(address) => {
                state.ipv6 = Some((address, prefix));
                state.gateway6 = pool.plan.gateway.and_then(|gateway| match gateway {
                    IpAddr::V6(gateway) => Some(gateway),
                    IpAddr::V4(_) => None,
                });
            }
        }
        Ok(())
    }

    /// Gives back what a container has; idempotent.
    pub(crate) fn release(&self, container: &ContainerId) {
        if let Some(record) = self.ledger.record(container) {
            let done = self.give_back(&record);
            self.ledger.end(container, done);
        }
    }

    /// Gives back what an earlier daemon left.
    pub(crate) fn sweep(&self) {
        self.ledger.sweep(|record| self.give_back(record));
    }

    /// Gives addresses back; whether the plugin was reached.
    pub(crate) fn give_back(&self, record: &EndpointRecord) -> bool {
        let back: Vec<bool> =
            record.addresses.iter().map(|held| self.ipam.release_address(&held.pool, held.address)).collect();
        back.into_iter().all(|back| back)
    }
}
