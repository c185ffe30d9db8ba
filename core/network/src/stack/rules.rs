//! The packet filter's rules as they follow from the networks, and the switch that has the host pass packets on.

use std::path::Path;
use std::sync::atomic::Ordering;

use dockerd_sys::netlink::{Family, Socket};

use super::NetworkStack;
use crate::bridge::setup;
use crate::driver::NetworkDriver;
use crate::error::NetworkError;
use crate::firewall::{BridgeRules, DropForeign};

impl NetworkStack {
    pub(super) fn rules(&self) -> Vec<BridgeRules> {
        self.networks().iter().filter_map(|network| network.rules()).collect()
    }

    /// The packet filter's rules for a network that is one of ours already.
    pub(super) fn add_rules(&self, driver: &dyn NetworkDriver) -> Result<(), NetworkError> {
        let Some(rules) = driver.rules() else { return Ok(()) };
        if !self.installed.load(Ordering::Relaxed) {
            return self.install();
        }
        let drop_foreign = self.pass_on(std::slice::from_ref(&rules))?;
        self.firewall.add_bridge(&rules, drop_foreign)
    }

    /// Has the host pass packets on of the families there are bridges for; whether it did not before, so that what concerns
    /// no bridge is to be dropped.
    fn pass_on(&self, bridges: &[BridgeRules]) -> Result<DropForeign, NetworkError> {
        let family = |ipv6: bool, wanted: bool| -> Result<bool, NetworkError> {
            let known = &self.drop_foreign[usize::from(ipv6)];
            if let Some(known) = known.get() {
                return Ok(*known);
            }
            if !wanted {
                return Ok(false);
            }
            let config = &self.config;
            let marker =
                if ipv6 { self.forwarding_marker.with_extension("v6") } else { self.forwarding_marker.clone() };
            let drop = config.ip_forward && forward(&marker, ipv6)? && !config.ip_forward_no_drop;
            Ok(*known.get_or_init(|| drop))
        };
        Ok(DropForeign {
            ipv4: family(false, bridges.iter().any(|bridge| bridge.ipv4.is_some()))?,
            ipv6: family(true, bridges.iter().any(|bridge| bridge.ipv6.is_some()))?,
        })
    }

    /// Sets the packet filter's rules with everything that is published, in one transaction. A host without bridges is left
    /// as it is. At the start and under the turn of those who make networks.
    pub(super) fn install(&self) -> Result<(), NetworkError> {
        let bridges = self.rules();
        if bridges.is_empty() {
            return Ok(());
        }
        let drop_foreign = self.pass_on(&bridges)?;
        // Of a family that is not ours to filter there is nothing to say.
        let ours = |bridge: &BridgeRules| {
            (bridge.ipv4.is_some() && self.config.firewall) || (bridge.ipv6.is_some() && self.config.firewall_ipv6)
        };
        if !bridges.iter().any(ours) {
            return Ok(());
        }
        self.publisher.install(bridges, drop_foreign)?;
        self.installed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether the host passes packets on because of us, now or at an earlier start since it booted.
fn forward(marker: &Path, ipv6: bool) -> Result<bool, NetworkError> {
    let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
    if setup::enable_forwarding(&socket, ipv6)? {
        std::fs::write(marker, "").map_err(NetworkError::io(format!("write {}", marker.display())))?;
        return Ok(true);
    }
    Ok(marker.exists())
}
