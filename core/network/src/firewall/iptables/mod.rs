//! iptables, for hosts whose administrators or tools count on the stock daemon's chains: `DOCKER-USER` above all. One
//! iptables-restore per family and change; what it is told is in `rules.rs`. Everything is kept here too: where a change
//! fails because others took rules away meanwhile, all of them are set anew.

mod guard;
mod restore;
mod rules;
mod saved;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dockerd_sys::command;

use super::guard::Guard;
use super::{Backend, BridgeRules, DropForeign, Firewall, Handled, HostPolicy, PortForward, Ruleset, nft};
use crate::error::NetworkError;
use guard::OwnProcesses;
pub(super) use guard::Touched;
use restore::Policy;
use rules::{Rule, Table};
use saved::Saved;

/// How long others may keep the older kind of iptables locked, in seconds.
const PATIENCE: &str = "30";

/// The driver; works in the network namespace of those who call it.
#[derive(Debug)]
pub struct IptablesFirewall {
    handled: Handled,
    policy: HostPolicy,
    /// Held while iptables works: its changes have an order.
    state: Mutex<State>,
    own: OwnProcesses,
}

/// What was set.
#[derive(Debug, Default)]
struct State {
    rules: Ruleset,
    /// Whether our chains are there, of each family.
    ready: [bool; 2],
    /// Whether the policy of FORWARD is ours, of each family.
    policies: [bool; 2],
}

/// A family's program.
fn tool(ipv6: bool, save: bool) -> &'static str {
    match (ipv6, save) {
        (false, false) => "iptables-restore",
        (false, true) => "iptables-save",
        (true, false) => "ip6tables-restore",
        (true, true) => "ip6tables-save",
    }
}

impl IptablesFirewall {
    /// Whether IPv4 and IPv6 are ours to filter.
    pub fn new(handled: Handled, policy: HostPolicy) -> Self {
        Self { handled, policy, state: Mutex::default(), own: OwnProcesses::default() }
    }

    /// Whether the programs are there. Blocking.
    pub fn check(&self) -> Result<(), NetworkError> {
        for ipv6 in self.handled.families() {
            for program in [tool(ipv6, true), tool(ipv6, false)] {
                let told = command::fed(Path::new(program), &["--version"], b"", |_| {});
                told.map_err(|source| NetworkError::NoFirewallTool { program, source })?;
            }
        }
        Ok(())
    }

    /// The same with another policy.
    pub(super) fn with_policy(self, policy: HostPolicy) -> Self {
        Self { policy, ..self }
    }

    /// Whether it is because of an earlier daemon of ours that the host drops what concerns no bridge. Blocking.
    pub(super) fn drops_foreign(&self, ipv6: bool) -> Result<bool, NetworkError> {
        Ok(self.saved(ipv6)?.drops_foreign())
    }

    /// Whether the kernel can tell answers for the daemon from others.
    pub(super) fn check_marking(&self) -> Result<(), NetworkError> {
        self.handled
            .families()
            .try_for_each(|ipv6| self.restore(ipv6, &restore::probe(), "mark answers to published ports"))
    }

    /// The judge of its guard.
    pub(super) fn touched(&self) -> Touched {
        Touched::new(self.own.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(
        &self,
        program: &'static str,
        arguments: &[&str],
        input: &str,
        action: &'static str,
    ) -> Result<String, NetworkError> {
        let output = command::fed(Path::new(program), arguments, input.as_bytes(), |pid| self.own.add(pid));
        let output = output.map_err(|source| NetworkError::NoFirewallTool { program, source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(NetworkError::FirewallTool { action, program, said })
    }

    fn saved(&self, ipv6: bool) -> Result<Saved, NetworkError> {
        let text = self.run(tool(ipv6, true), &[], "", "look at the packet filter's rules")?;
        Ok(Saved::parse(&text))
    }

    fn restore(&self, ipv6: bool, script: &str, action: &'static str) -> Result<(), NetworkError> {
        if script.is_empty() {
            return Ok(());
        }
        self.run(tool(ipv6, false), &["--noflush", "-w", PATIENCE], script, action).map(drop)
    }

    /// Sets all rules of a family anew. Whether its policy is ours is noted.
    fn replace(
        &self,
        ipv6: bool,
        rules: &Ruleset,
        policies: &mut [bool; 2],
        action: &'static str,
    ) -> Result<(), NetworkError> {
        let wanted = rules::all(ipv6, self.policy, rules);
        let is_ours = &mut policies[usize::from(ipv6)];
        let drop = if ipv6 { rules.drop_foreign.ipv6 } else { rules.drop_foreign.ipv4 };
        let mut once = || {
            let (script, ours) = restore::replace(&self.saved(ipv6)?, &wanted, Policy { drop, is_ours: *is_ours });
            self.restore(ipv6, &script, action)?;
            *is_ours = ours;
            Ok(())
        };
        // Others may have changed theirs between the look and the change.
        once().or_else(|_: NetworkError| once())
    }

    /// From one set of rules to another by what differs of them; all or nothing.
    fn change(
        &self,
        state: &mut State,
        next: Ruleset,
        action: &'static str,
        difference: impl Fn(bool) -> (Vec<Rule>, Vec<Rule>),
    ) -> Result<(), NetworkError> {
        for ipv6 in self.handled.families() {
            let (old, new) = difference(ipv6);
            if old.is_empty() && new.is_empty() {
                continue;
            }
            let ready = state.ready[usize::from(ipv6)];
            let done = ready && self.restore(ipv6, &restore::change(&old, &new), action).is_ok();
            if !done && let Err(error) = self.replace(ipv6, &next, &mut state.policies, action) {
                let State { rules, ready, policies } = state;
                for ipv6 in self.handled.families().filter(|ipv6| ready[usize::from(*ipv6)]) {
                    if let Err(error) = self.replace(ipv6, rules, policies, action) {
                        tracing::warn!(%error, "rules of the packet filter may be missing");
                    }
                }
                return Err(error);
            }
            state.ready[usize::from(ipv6)] = true;
        }
        state.rules = next;
        Ok(())
    }
}

fn check_names(bridge: &BridgeRules) -> Result<(), NetworkError> {
    let mut links = std::iter::once(&bridge.link).chain(&bridge.trusted);
    links.find(|link| !rules::is_plain(link)).map_or(Ok(()), |link| Err(NetworkError::FirewallLink(link.clone())))
}

impl Firewall for IptablesFirewall {
    fn install(&self, rules: &Ruleset) -> Result<(), NetworkError> {
        let action = "install the packet filter's rules";
        rules.bridges.iter().try_for_each(check_names)?;
        let mut state = self.lock();
        for ipv6 in self.handled.families() {
            let outcome = self.replace(ipv6, rules, &mut state.policies, action);
            state.ready[usize::from(ipv6)] = outcome.is_ok();
            match outcome {
                // A host without IPv6 has no such tables.
                Err(error) if ipv6 && rules.bridges.iter().all(|bridge| bridge.ipv6.is_none()) => {
                    tracing::warn!(%error, "IPv6 is not filtered");
                }
                outcome => outcome?,
            }
        }
        state.rules = rules.clone();
        Ok(())
    }

    fn add_bridge(&self, bridge: &BridgeRules, drop_foreign: DropForeign) -> Result<(), NetworkError> {
        let action = "add the packet filter's rules for a bridge";
        check_names(bridge)?;
        let mut state = self.lock();
        let mut next = state.rules.clone();
        next.bridges.push(bridge.clone());
        next.drop_foreign = drop_foreign;
        if drop_foreign != state.rules.drop_foreign {
            // The policy is not only a rule more.
            state.ready = [false; 2];
        }
        self.change(&mut state, next, action, |ipv6| (Vec::new(), rules::bridge(ipv6, self.policy, bridge)))
    }

    fn remove_bridge(&self, bridge: &BridgeRules) -> Result<(), NetworkError> {
        let mut state = self.lock();
        let mut next = state.rules.clone();
        next.bridges.retain(|other| other.link != bridge.link);
        let action = "remove the packet filter's rules for a bridge";
        self.change(&mut state, next, action, |ipv6| (rules::bridge(ipv6, self.policy, bridge), Vec::new()))
    }

    fn publish(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        self.redirect(&[], forwards)
    }

    fn redirect(&self, old: &[PortForward], new: &[PortForward]) -> Result<(), NetworkError> {
        let mut state = self.lock();
        let mut next = state.rules.clone();
        let gone: HashSet<&PortForward> = old.iter().collect();
        next.forwards.retain(|forward| !gone.contains(forward));
        next.forwards.extend(new);
        let bridges = next.bridges.clone();
        let rules = |ipv6, forwards| rules::ports(ipv6, &bridges, forwards);
        self.change(&mut state, next, "change published ports", |ipv6| (rules(ipv6, old), rules(ipv6, new)))
    }

    fn withdraw(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        self.redirect(forwards, &[])
    }

    fn clear(&self) -> Result<(), NetworkError> {
        for ipv6 in self.handled.families() {
            // Without looking there is no need for the programs.
            if nft::chain_of_iptables(ipv6, Table::Filter.name(), rules::FORWARD)?.is_none() && !has_old_tables(ipv6) {
                continue;
            }
            let saved = match self.saved(ipv6) {
                Err(error) => {
                    tracing::warn!(%error, "chains of another packet filter backend may be left");
                    continue;
                }
                saved => saved?,
            };
            if let Some(script) = restore::clear(&saved) {
                tracing::info!(ipv6, "rules set by iptables for an earlier daemon are removed");
                self.restore(ipv6, &script, "remove the rules set by iptables")?;
            }
        }
        Ok(())
    }

    fn forwards(&self, ipv6: bool) -> bool {
        self.handled.has(ipv6)
    }

    fn forwards_loopback(&self) -> bool {
        false
    }

    fn backend(&self) -> Backend {
        Backend::Iptables
    }

    fn guard(&self) -> Result<Option<Guard>, NetworkError> {
        Guard::start(self.touched()).map(Some)
    }

    fn is_damaged(&self) -> Result<bool, NetworkError> {
        let state = self.lock();
        for ipv6 in self.handled.families().filter(|ipv6| state.ready[usize::from(*ipv6)]) {
            let saved = self.saved(ipv6)?;
            let mut wanted: HashMap<(Table, &str), usize> = HashMap::new();
            let all = rules::all(ipv6, self.policy, &state.rules);
            all.iter().for_each(|rule| *wanted.entry((rule.table, rule.chain)).or_default() += 1);
            if !saved.asks_user_first()
                || wanted.iter().any(|((table, chain), count)| saved.count(*table, chain) < *count)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether the older kind of iptables, which nf_tables knows nothing of, has tables.
fn has_old_tables(ipv6: bool) -> bool {
    let path = if ipv6 { "/proc/thread-self/net/ip6_tables_names" } else { "/proc/thread-self/net/ip_tables_names" };
    std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == Table::Filter.name()))
}
