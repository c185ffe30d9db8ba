//! `--iptables=false`: the administrator keeps the packet filter to himself.

use super::{Backend, BridgeRules, DropForeign, Firewall, PortForward, Ruleset};
use crate::error::NetworkError;

/// Sets no rules.
#[derive(Debug, Default)]
pub struct NoFirewall;

impl Firewall for NoFirewall {
    fn install(&self, _rules: &Ruleset) -> Result<(), NetworkError> {
        Ok(())
    }

    fn add_bridge(&self, _bridge: &BridgeRules, _drop_foreign: DropForeign) -> Result<(), NetworkError> {
        Ok(())
    }

    fn remove_bridge(&self, _bridge: &BridgeRules) -> Result<(), NetworkError> {
        Ok(())
    }

    fn redirect(&self, _old: &[PortForward], _new: &[PortForward]) -> Result<(), NetworkError> {
        Ok(())
    }

    fn publish(&self, _forwards: &[PortForward]) -> Result<(), NetworkError> {
        Ok(())
    }

    fn withdraw(&self, _forwards: &[PortForward]) -> Result<(), NetworkError> {
        Ok(())
    }

    fn clear(&self) -> Result<(), NetworkError> {
        Ok(())
    }

    fn is_damaged(&self) -> Result<bool, NetworkError> {
        Ok(false)
    }

    fn backend(&self) -> Backend {
        Backend::default()
    }

    fn forwards(&self, _ipv6: bool) -> bool {
        false
    }

    fn forwards_loopback(&self) -> bool {
        false
    }
}
