//! The names of networks and of sandboxes on them. A network publishes a table of its endpoints' names; a sandbox sees
//! the tables of its networks in their order, and links of its own. Readers take snapshots and never wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::view::{Answer, Family, NameView, ServiceTarget};

/// What an endpoint is known by in its network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration {
    /// Container name, short id, aliases. Its address leads back to the first.
    pub names: Vec<String>,
    /// Its addresses, of either family.
    pub addresses: Vec<IpAddr>,
}

/// Addresses of one name.
#[derive(Debug, Clone)]
struct Entry {
    v4: Arc<[IpAddr]>,
    v6: Arc<[IpAddr]>,
}

impl Entry {
    fn all(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.v4.iter().chain(self.v6.iter()).copied()
    }

    fn of(addresses: &[IpAddr]) -> Self {
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(IpAddr::is_ipv4);
        Self { v4: v4.into(), v6: v6.into() }
    }

    fn family(&self, family: Family) -> &Arc<[IpAddr]> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Table {
    by_name: HashMap<Arc<str>, Entry>,
    by_address: HashMap<IpAddr, Arc<str>>,
}

impl Table {
    fn add(&mut self, registration: &Registration) {
        for name in &registration.names {
            let name = name.to_ascii_lowercase();
            let mut all: Vec<_> = self.by_name.get(name.as_str()).map(|e| e.all().collect()).unwrap_or_default();
            all.extend(registration.addresses.iter().filter(|ip| !all.contains(ip)).copied().collect::<Vec<_>>());
            self.by_name.insert(name.into(), Entry::of(&all));
        }
        if let Some(first) = registration.names.first() {
            let name: Arc<str> = first.as_str().into();
            self.by_address.extend(registration.addresses.iter().map(|ip| (*ip, name.clone())));
        }
    }

    fn remove(&mut self, registration: &Registration) {
        for name in &registration.names {
            let name = name.to_ascii_lowercase();
            let Some(entry) = self.by_name.get(name.as_str()) else { continue };
            let left: Vec<_> = entry.all().filter(|ip| !registration.addresses.contains(ip)).collect();
            if left.is_empty() {
                self.by_name.remove(name.as_str());
            } else {
                self.by_name.insert(name.into(), Entry::of(&left));
            }
        }
        for ip in &registration.addresses {
            self.by_address.remove(ip);
        }
    }
}

/// The names in one network.
#[derive(Debug)]
pub struct NetworkNames {
    name: String,
    table: ArcSwap<Table>,
    /// By endpoint. Held while a new table is made, so that changes follow each other.
    registered: Mutex<HashMap<String, Registration>>,
}

impl NetworkNames {
    /// Of the network `name`, with nobody in it.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), table: ArcSwap::default(), registered: Mutex::default() }
    }

    /// Enters an endpoint, instead of what it was entered with before.
    pub fn register(&self, endpoint: &str, registration: Registration) {
        self.change(endpoint, Some(registration));
    }

    /// Strikes an endpoint out; nothing happens if it is not there.
    pub fn remove(&self, endpoint: &str) {
        self.change(endpoint, None);
    }

    fn change(&self, endpoint: &str, registration: Option<Registration>) {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.table.load());
        if let Some(old) = registered.remove(endpoint) {
            table.remove(&old);
        }
        if let Some(new) = registration {
            table.add(&new);
            registered.insert(endpoint.to_owned(), new);
        }
        self.table.store(Arc::new(table));
    }

    fn find(&self, name: &str, family: Family) -> Option<Arc<[IpAddr]>> {
        self.table.load().by_name.get(name).map(|entry| entry.family(family).clone())
    }

    fn reverse(&self, address: IpAddr) -> Option<String> {
        self.table.load().by_address.get(&address).map(|name| format!("{name}.{}", self.name))
    }
}

/// A network a sandbox is on.
#[derive(Debug, Clone)]
pub struct JoinedNetwork {
    /// The network.
    pub names: Arc<NetworkNames>,
    /// Names that this sandbox alone uses for others in the network (`--link other:name`): name and what it stands for,
    /// both in lower case.
    pub links: HashMap<String, String>,
}

/// What one sandbox knows: the names of its networks.
#[derive(Debug, Default)]
pub struct SandboxNames {
    networks: ArcSwap<Vec<JoinedNetwork>>,
}

impl SandboxNames {
    /// A sandbox on these networks, in the order in which they are searched.
    pub fn new(networks: Vec<JoinedNetwork>) -> Self {
        Self { networks: ArcSwap::from_pointee(networks) }
    }

    /// Replaces them all.
    pub fn set(&self, networks: Vec<JoinedNetwork>) {
        self.networks.store(Arc::new(networks));
    }
}

impl NameView for SandboxNames {
    /// The whole name in every network, then without its last label in the network of that label's name, then without its
    /// last two, because names of containers and of networks may have dots. Links come before names.
    fn lookup(&self, name: &str, family: Family) -> Answer {
        let networks = self.networks.load();
        let splits = name.rmatch_indices('.').map(|(at, _)| (&name[..at], Some(&name[at + 1..])));
        for (host, network) in std::iter::once((name, None)).chain(splits) {
            let searched =
                || networks.iter().filter(|joined| network.is_none_or(|n| joined.names.name.eq_ignore_ascii_case(n)));
            let linked = searched().filter_map(|joined| joined.names.find(joined.links.get(host)?, family));
            let named = searched().filter(|n| !n.links.contains_key(host)).filter_map(|n| n.names.find(host, family));
            // Within either, an address in any network is better than none in the first.
            if let Some(found) = best(linked).or_else(|| best(named)) {
                return Answer::Addresses(found);
            }
        }
        Answer::Unknown
    }

    fn reverse(&self, address: IpAddr) -> Option<String> {
        self.networks.load().iter().find_map(|joined| joined.names.reverse(address))
    }

    /// Ports get names only in a swarm.
    fn service(&self, _name: &str) -> Vec<ServiceTarget> {
        Vec::new()
    }
}

/// The first that is not empty, else an empty one, else nothing.
fn best(found: impl Iterator<Item = Arc<[IpAddr]>>) -> Option<Arc<[IpAddr]>> {
    let mut empty = None;
    for addresses in found {
        if !addresses.is_empty() {
            return Some(addresses);
        }
        empty = Some(addresses);
    }
    empty
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn registration(names: &[&str], addresses: &[&str]) -> Registration {
        Registration {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
        }
    }

    fn joined(names: &Arc<NetworkNames>, links: &[(&str, &str)]) -> JoinedNetwork {
        let links = links.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        JoinedNetwork { names: names.clone(), links }
    }

    fn found(view: &SandboxNames, name: &str) -> Option<Vec<String>> {
        match view.lookup(name, Family::V4) {
            Answer::Unknown => None,
            Answer::Addresses(list) => Some(list.iter().map(ToString::to_string).collect()),
        }
    }

    fn some(addresses: &[&str]) -> Option<Vec<String>> {
        Some(addresses.iter().map(|a| (*a).to_owned()).collect())
    }

    #[test]
    fn names_are_found_whole_and_by_network() {
        let (back, front) = (Arc::new(NetworkNames::new("back")), Arc::new(NetworkNames::new("Front.End")));
        back.register("1", registration(&["Db", "abc", "data"], &["10.0.0.2", "fd00::2"]));
        back.register("2", registration(&["db2", "data"], &["10.0.0.3"]));
        front.register("3", registration(&["web.1", "web"], &["10.1.0.2"]));
        front.register("4", registration(&["six"], &["fd01::1"]));
        let view = SandboxNames::new(vec![joined(&back, &[("store", "db")]), joined(&front, &[])]);
        assert_eq!(found(&view, "db"), some(&["10.0.0.2"]));
        assert_eq!(found(&view, "data.back"), some(&["10.0.0.2", "10.0.0.3"]));
        assert_eq!(found(&view, "web.1"), some(&["10.1.0.2"]));
        assert_eq!(found(&view, "web.1.front.end"), some(&["10.1.0.2"]));
        assert_eq!(found(&view, "db.front.end"), None);
        assert_eq!(found(&view, "six"), some(&[]), "known, but without such an address");
        assert_eq!(found(&view, "store"), some(&["10.0.0.2"]));
        assert_eq!(found(&view, "store.back"), some(&["10.0.0.2"]));
        assert_eq!(view.lookup("db", Family::V6), Answer::Addresses(["fd00::2".parse().expect("ip")].into()));
        assert_eq!(view.reverse("10.0.0.2".parse().expect("ip")).as_deref(), Some("Db.back"));
        assert_eq!(view.reverse("10.0.0.9".parse().expect("ip")), None);
        back.remove("1");
        assert_eq!(found(&view, "db"), None);
        assert_eq!(found(&view, "data"), some(&["10.0.0.3"]));
        view.set(Vec::new());
        assert_eq!(found(&view, "data"), None);
    }

    proptest! {
        /// Whatever came and went: the table holds exactly what is registered.
        #[test]
        fn tables_follow_what_is_registered(changes in prop::collection::vec((0u8..6, any::<bool>(), 0u8..4), 1..60)) {
            let network = NetworkNames::new("net");
            let mut model = HashMap::<u8, u8>::new();
            for (endpoint, comes, alias) in changes {
                let address = format!("10.0.0.{endpoint}");
                if comes {
                    let names = [format!("c{endpoint}"), format!("alias{alias}")];
                    let names: Vec<_> = names.iter().map(String::as_str).collect();
                    network.register(&endpoint.to_string(), registration(&names, &[&address]));
                    model.insert(endpoint, alias);
                } else {
                    network.remove(&endpoint.to_string());
                    model.remove(&endpoint);
                }
            }
            let table = network.table.load();
            for alias in 0..4u8 {
                let mut wanted: Vec<IpAddr> = model.iter().filter(|(_, a)| **a == alias)
                    .map(|(e, _)| format!("10.0.0.{e}").parse().expect("ip")).collect();
                wanted.sort();
                let mut got = table.by_name.get(format!("alias{alias}").as_str()).map(|e| e.v4.to_vec()).unwrap_or_default();
                got.sort();
                prop_assert_eq!(got, wanted);
            }
            prop_assert_eq!(table.by_address.len(), model.len());
        }
    }
}
