//! firewalld beside our own packet filter. It rejects what is forwarded from or to links it knows nothing of, and a packet
//! that one filter lets through must pass the other one too. So bridges are put into its zone `docker`, from and to which it
//! lets everything pass, as the stock daemon does: our rules decide. Zone and policy are made once and stay; an administrator
//! who has put a bridge into another zone is respected.
//!
//! Without firewalld none of this happens; when it comes, or loads its rules anew, bridges are put into the zone again.

mod bus;
mod wire;

use std::collections::BTreeSet;
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backend, BridgeRules, DropForeign, Firewall, Guard, PortForward, Ruleset};
use crate::error::NetworkError;
use bus::{BUS, Bus, BusError};
use wire::{Argument, Message, Method, Setting};

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";
const CONFIG_PATH: &str = "/org/fedoraproject/FirewallD1/config";
const ZONE: &str = "docker";
const POLICY: &str = "docker-forwarding";

/// The bridges, and where firewalld may be.
#[derive(Debug)]
struct Zone {
    bus: PathBuf,
    /// Held while firewalld works: one change after the other.
    links: Mutex<BTreeSet<String>>,
}

/// A packet filter whose bridges firewalld lets pass.
#[derive(Debug)]
pub(super) struct WithFirewalld {
    filter: Arc<dyn Firewall>,
    zone: Arc<Zone>,
    /// Ends the thread that listens.
    listening: UnixStream,
}

impl WithFirewalld {
    /// `filter` itself where there is no system bus firewalld could be on.
    pub(super) fn around(filter: Arc<dyn Firewall>) -> Arc<dyn Firewall> {
        let Some(bus) = bus::address().filter(|path| path.exists()) else { return filter };
        let zone = Arc::new(Zone { bus, links: Mutex::default() });
        match listen(&zone) {
            Ok(listening) => Arc::new(Self { filter, zone, listening }),
            Err(error) => {
                tracing::warn!(%error, "firewalld is left alone");
                filter
            }
        }
    }
}

impl Drop for WithFirewalld {
    fn drop(&mut self) {
        // The thread sees its end; there is nothing to do about one that is gone already.
        let _ = self.listening.shutdown(Shutdown::Both);
    }
}

impl Firewall for WithFirewalld {
    fn install(&self, rules: &Ruleset) -> Result<(), NetworkError> {
        self.filter.install(rules)?;
        let mut links = self.zone.lock();
        *links = rules.bridges.iter().map(|bridge| bridge.link.clone()).collect();
        report(self.zone.admit(links.iter()));
        Ok(())
    }

    fn add_bridge(&self, bridge: &BridgeRules, drop_foreign: DropForeign) -> Result<(), NetworkError> {
        self.filter.add_bridge(bridge, drop_foreign)?;
        let mut links = self.zone.lock();
        links.insert(bridge.link.clone());
        report(self.zone.admit(std::iter::once(&bridge.link)));
        Ok(())
    }

    fn remove_bridge(&self, bridge: &BridgeRules) -> Result<(), NetworkError> {
        let mut links = self.zone.lock();
        if links.remove(&bridge.link) {
            report(self.zone.dismiss(&bridge.link));
        }
        drop(links);
        self.filter.remove_bridge(bridge)
    }

    fn publish(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        self.filter.publish(forwards)
    }

    fn redirect(&self, old: &[PortForward], new: &[PortForward]) -> Result<(), NetworkError> {
        self.filter.redirect(old, new)
    }

    fn withdraw(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        self.filter.withdraw(forwards)
    }

    fn forwards(&self, ipv6: bool) -> bool {
        self.filter.forwards(ipv6)
    }

    fn forwards_loopback(&self) -> bool {
        self.filter.forwards_loopback()
    }

    fn clear(&self) -> Result<(), NetworkError> {
        self.filter.clear()
    }

    fn guard(&self) -> Result<Option<Guard>, NetworkError> {
        self.filter.guard()
    }

    fn is_damaged(&self) -> Result<bool, NetworkError> {
        self.filter.is_damaged()
    }

    fn backend(&self) -> Backend {
        self.filter.backend()
    }
}

/// Whether a process is in the calling thread's network namespace: a bus is found by its path, and a daemon in a namespace of
/// its own sees the host's. One of which nothing can be known is.
fn is_of_this_network(process: Option<u32>) -> bool {
    let network = |of: &str| std::fs::metadata(format!("/proc/{of}/ns/net")).map(|found| found.ino());
    match (process.map(|process| network(&process.to_string())), network("thread-self")) {
        (Some(Ok(theirs)), Ok(ours)) => theirs == ours,
        _ => true,
    }
}

/// What firewalld refuses does not keep a network from being made: its containers reach each other all the same.
fn report(outcome: Result<(), BusError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "firewalld may block what containers send");
    }
}

impl Zone {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, if firewalld runs and filters what our links carry.
    fn connect(&self) -> Result<Option<Bus>, BusError> {
        let mut bus = Bus::connect(&self.bus)?;
        let is_ours = is_of_this_network(bus.process()?);
        Ok(if is_ours && bus.has(SERVICE)? { Some(bus) } else { None })
    }

    /// Puts links into the zone.
    fn admit<'a>(&self, links: impl Iterator<Item = &'a String>) -> Result<(), BusError> {
        let mut links = links.peekable();
        if links.peek().is_none() {
            return Ok(());
        }
        let Some(mut bus) = self.connect()? else { return Ok(()) };
        prepare(&mut bus)?;
        for link in links {
            let added = call(&mut bus, "zone", "addInterface", &[Argument::Text(ZONE), Argument::Text(link)]);
            match added {
                Err(error) if code(&error) == "ZONE_CONFLICT" => {
                    tracing::info!(link, "firewalld has it in another zone than {ZONE}; it stays there");
                }
                Err(error) if matches!(code(&error), "ZONE_ALREADY_SET" | "ALREADY_ENABLED") => {}
                other => _ = other?,
            }
        }
        Ok(())
    }

    /// Takes a link out of the zone.
    fn dismiss(&self, link: &str) -> Result<(), BusError> {
        let Some(mut bus) = self.connect()? else { return Ok(()) };
        match call(&mut bus, "zone", "removeInterface", &[Argument::Text(ZONE), Argument::Text(link)]) {
            // It was in another zone, or an administrator took it out.
            Err(error) if matches!(code(&error), "UNKNOWN_INTERFACE" | "NOT_ENABLED" | "ZONE_CONFLICT") => Ok(()),
            other => other.map(drop),
        }
    }
}

/// The zone and the policy are there.
fn prepare(bus: &mut Bus) -> Result<(), BusError> {
    let zones = call(bus, "zone", "getZones", &[])?.texts;
    let zone = !zones.iter().any(|zone| zone == ZONE);
    if zone {
        let settings = [
            ("version", Setting::Text("1.0")),
            ("short", Setting::Text(ZONE)),
            ("description", Setting::Text("zone for docker bridge network interfaces")),
            ("target", Setting::Text("ACCEPT")),
        ];
        configure(bus, "addZone2", ZONE, &settings)?;
    }
    let policies = call(bus, "policy", "getPolicies", &[]);
    let policy = policies.is_ok_and(|reply| !reply.texts.iter().any(|policy| policy == POLICY));
    if policy {
        let settings = [
            ("version", Setting::Text("1.0")),
            ("description", Setting::Text("allow forwarding to the docker zone")),
            ("ingress_zones", Setting::Texts(&["ANY"])),
            ("egress_zones", Setting::Texts(&[ZONE])),
            ("target", Setting::Text("ACCEPT")),
        ];
        configure(bus, "addPolicy", POLICY, &settings)?;
    }
    if zone || policy {
        // What is configured holds from the next load on.
        let reload = Method { destination: SERVICE, path: PATH, interface: SERVICE, member: "reload" };
        bus.call(reload, &[])?;
        tracing::info!("firewalld has the zone {ZONE} and the policy {POLICY} now");
    }
    Ok(())
}

fn configure(bus: &mut Bus, member: &str, name: &str, settings: &[(&str, Setting<'_>)]) -> Result<(), BusError> {
    let interface = &format!("{SERVICE}.config");
    let method = Method { destination: SERVICE, path: CONFIG_PATH, interface, member };
    match bus.call(method, &[Argument::Text(name), Argument::Settings(settings)]) {
        // It is configured and was not loaded.
        Err(error) if code(&error) == "NAME_CONFLICT" => Ok(()),
        other => other.map(drop),
    }
}

fn call(bus: &mut Bus, part: &str, member: &str, arguments: &[Argument<'_>]) -> Result<Message, BusError> {
    let interface = &format!("{SERVICE}.{part}");
    bus.call(Method { destination: SERVICE, path: PATH, interface, member }, arguments)
}

/// What firewalld refuses for: its texts are `CODE` or `CODE: words`.
fn code(error: &BusError) -> &str {
    match error {
        BusError::Refused { text, .. } => text.split(':').next().unwrap_or_default(),
        _ => "",
    }
}

/// Starts the thread that hears of firewalld; it ends when the returned socket is shut down, or with the bus.
fn listen(zone: &Arc<Zone>) -> Result<UnixStream, BusError> {
    let mut bus = Bus::connect(&zone.bus)?;
    bus.subscribe(&format!("type='signal',sender='{SERVICE}',path='{PATH}',interface='{SERVICE}',member='Reloaded'"))?;
    bus.subscribe(&format!(
        "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{SERVICE}'"
    ))?;
    let listening = bus.listen()?;
    let zone = zone.clone();
    let run = move || {
        loop {
            match bus.signal() {
                Ok(signal) if is_news(&signal) => {
                    let links = zone.lock();
                    report(zone.admit(links.iter()));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "firewalld is not listened to any more");
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("firewalld".to_owned()).spawn(run)?;
    Ok(listening)
}

/// Whether firewalld came, or has loaded its rules anew.
fn is_news(signal: &Message) -> bool {
    match signal.member.as_str() {
        "Reloaded" => true,
        // Name, old owner, new owner; our own connections are told to us, too.
        "NameOwnerChanged" => {
            signal.texts.first().is_some_and(|name| name == SERVICE)
                && signal.texts.get(2).is_some_and(|owner| !owner.is_empty())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_told_from_other_signals() {
        let signal = |member: &str, texts: &[&str]| {
            is_news(&Message {
                member: member.to_owned(),
                texts: texts.iter().map(|text| (*text).to_owned()).collect(),
                ..Message::default()
            })
        };
        assert!(signal("Reloaded", &[]));
        assert!(signal("NameOwnerChanged", &[SERVICE, "", ":1.7"]));
        assert!(!signal("NameOwnerChanged", &[SERVICE, ":1.7", ""]), "it went");
        assert!(!signal("NameOwnerChanged", &["other", "", ":1.8"]));
        assert!(!signal("NameOwnerChanged", &[]));
        assert!(!signal("NameAcquired", &[":1.9"]));
    }

    #[test]
    fn whose_network_it_is() {
        assert!(is_of_this_network(Some(std::process::id())));
        assert!(is_of_this_network(Some(u32::MAX)) && is_of_this_network(None), "nobody knows");
    }

    #[test]
    fn codes_of_refusals() {
        let refused = |text: &str| BusError::Refused { name: String::new(), text: text.to_owned() };
        assert_eq!(code(&refused("ZONE_CONFLICT: 'br0' already bound to 'public'")), "ZONE_CONFLICT");
        assert_eq!(code(&refused("ALREADY_ENABLED")), "ALREADY_ENABLED");
        assert_eq!(code(&BusError::Malformed(wire::Malformed)), "");
    }
}
