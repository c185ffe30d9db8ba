//! What outlives the daemon of networks: `networks.json` has ids and creation times of the predefined ones, and every
//! user-defined network has `<id>.json`, written before anything of it is in the kernel. Blocking.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use dockerd_network::ipam::Subnet;
use dockerd_store::document::{self, Document};
use dockerd_store::{Durability, Layout};
use dockerd_types::container::Labels;
use dockerd_types::{NetworkId, Timestamp};
use serde::{Deserialize, Serialize};

use super::plan::CreatePool;
use crate::container::names;
use crate::error::EngineError;

/// Names of the networks every engine has.
pub(super) const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// One network as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    pub(super) id: NetworkId,
    pub(super) name: String,
    pub(super) created: Timestamp,
}

/// The document.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworksDocument {
    pub(super) networks: Vec<NetworkRecord>,
    /// What makes this engine's own IPv6 networks unlike others'.
    #[serde(default)]
    pub(super) global_id: Option<[u8; 5]>,
}

impl Document for NetworksDocument {
    const VERSION: u32 = 1;
}

/// A network a user made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UserNetwork {
    pub(super) id: NetworkId,
    pub(super) name: String,
    pub(super) created: Timestamp,
    pub(super) driver: String,
    /// Name of the bridge's link, or of the link containers' links stand on.
    pub(super) link: String,
    /// As the client wrote it; nothing depends on it.
    #[serde(default = "local")]
    pub(super) scope: String,
    /// Whether it is only settings for others.
    #[serde(default)]
    pub(super) config_only: bool,
    /// Name of the network its settings are from; empty for its own.
    #[serde(default)]
    pub(super) config_from: String,
    /// Who gives addresses.
    #[serde(default = "daemon")]
    pub(super) ipam_driver: String,
    pub(super) internal: bool,
    pub(super) attachable: bool,
    pub(super) enable_ipv4: bool,
    pub(super) enable_ipv6: bool,
    /// As the client wrote them; inspect tells none from empty.
    pub(super) ipam_options: Option<BTreeMap<String, String>>,
    /// Address pools, resolved.
    pub(super) pools: Vec<PoolDocument>,
    /// Whether its driver wants no gateway's address, of IPv4 and of IPv6.
    #[serde(default)]
    pub(super) skipped_gateways: [bool; 2],
    /// Whether plugins are being told of it, or of its end; a daemon that finds it so has them take it back.
    #[serde(default)]
    pub(super) pending: bool,
    pub(super) options: BTreeMap<String, String>,
    pub(super) labels: Labels,
}

fn local() -> String {
    "local".to_owned()
}

fn daemon() -> String {
    "default".to_owned()
}

/// An address pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PoolDocument {
    /// As the client wrote it, which inspect shows.
    #[serde(default)]
    pub(super) asked: Option<CreatePool>,
    pub(super) subnet: Subnet,
    /// Whether it comes from the daemon's pools.
    pub(super) drawn: bool,
    pub(super) range: Option<Subnet>,
    /// `None`: the first address, which inspect does not show then.
    pub(super) gateway: Option<IpAddr>,
    /// Addresses that are others', by name.
    pub(super) auxiliary: BTreeMap<String, IpAddr>,
    /// What a plugin that gave it calls it.
    #[serde(default)]
    pub(super) remote: Option<PoolName>,
}

/// A pool's name at the plugin that gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PoolName {
    pub(super) id: String,
    /// The address space it is of.
    pub(super) space: String,
}

/// Drivers of the daemon's own that users make networks of; `null` is that of templates.
const OWN_DRIVERS: [&str; 4] = ["bridge", "ipvlan", "macvlan", "null"];

/// Whether a network driver is a plugin.
pub(super) fn is_plugin(driver: &str) -> bool {
    !OWN_DRIVERS.contains(&driver)
}

/// Whether a plugin gives addresses.
pub(super) fn is_ipam_plugin(driver: &str) -> bool {
    !matches!(driver, "" | "default" | "null")
}

impl UserNetwork {
    /// Pools of the families it has; inspect shows those of others, too.
    pub(super) fn pools_in_use(&self) -> impl Iterator<Item = &PoolDocument> {
        let wanted = |ipv6: bool| !self.config_only && if ipv6 { self.enable_ipv6 } else { self.enable_ipv4 };
        self.pools.iter().filter(move |pool| wanted(pool.subnet.is_ipv6()))
    }

    /// Subnets that no other network may have. Of those that are a plugin's with its links the daemon knows nothing.
    pub(super) fn claimed(&self) -> impl Iterator<Item = Subnet> {
        let elsewhere = is_plugin(&self.driver) && self.ipam_driver != "default";
        self.pools_in_use().map(|pool| pool.subnet).filter(move |_| !elsewhere)
    }

    /// Whether plugins have a part in it.
    pub(super) fn is_plugged(&self) -> bool {
        !self.config_only && (is_plugin(&self.driver) || is_ipam_plugin(&self.ipam_driver))
    }

    /// Subnets that were not drawn from the daemon's pools: addresses in them may be asked for.
    pub(super) fn configured(&self) -> Vec<Subnet> {
        self.pools_in_use().filter(|pool| !pool.drawn).map(|pool| pool.subnet).collect()
    }
}

impl Document for UserNetwork {
    const VERSION: u32 = 1;
}

/// Writes a network's document; it is on the disk when this returns.
pub(super) fn store(layout: &Layout, network: &UserNetwork) -> Result<(), EngineError> {
    Ok(document::write(&layout.network_document(&network.id), network, Durability::Disk)?)
}

/// Takes a network's document away.
pub(super) fn forget(layout: &Layout, id: &NetworkId) -> Result<(), EngineError> {
    let path = layout.network_document(id);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::io(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// What is known of the networks users made.
#[derive(Debug, Default)]
pub(super) struct UserNetworks {
    /// Oldest first.
    pub(super) networks: Vec<UserNetwork>,
    /// Whether a document could not be read: there are more.
    pub(super) incomplete: bool,
}

/// All networks users made. One that cannot be read is left alone and logged.
pub(super) fn load_user(layout: &Layout) -> Result<UserNetworks, EngineError> {
    let dir = layout.network_dir();
    let entries = std::fs::read_dir(&dir).map_err(|e| EngineError::io(format!("read {}", dir.display()), e))?;
    let (mut found, mut incomplete) = (Vec::new(), false);
    for path in entries.flatten().map(|entry| entry.path()) {
        // A daemon was killed while it wrote; what it had promised is under its right name.
        if path.file_name().and_then(|name| name.to_str()).is_some_and(document::is_temporary) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(file = %path.display(), %error, "a half-written document stays");
            }
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if path.extension().is_none_or(|end| end != "json") || NetworkId::parse(stem).is_err() {
            continue;
        }
        match document::read::<UserNetwork>(&path) {
            Ok(network) => found.push(network),
            Err(error) => {
                incomplete = true;
                tracing::error!(file = %path.display(), %error, "a network's document cannot be read");
            }
        }
    }
    found.sort_by_key(|network| network.created);
    Ok(UserNetworks { networks: found, incomplete })
}

/// A new network's id.
pub(super) fn new_id() -> NetworkId {
    loop {
        if let Some(id) = NetworkId::from_random(names::random()) {
            return id;
        }
    }
}

/// Reads the document; what is not in it is added and stored.
pub(super) fn load(layout: &Layout) -> Result<NetworksDocument, EngineError> {
    let path = layout.networks_document();
    let mut stored = read(&path)?;
    let missing: Vec<&str> =
        PREDEFINED.into_iter().filter(|name| !stored.networks.iter().any(|n| n.name == *name)).collect();
    if !missing.is_empty() || stored.global_id.is_none() {
        let created = Timestamp::now();
        let record = |name: &str| NetworkRecord { id: new_id(), name: name.to_owned(), created };
        stored.networks.extend(missing.into_iter().map(record));
        stored.global_id.get_or_insert_with(names::random);
        document::write(&path, &stored, Durability::Disk)?;
    }
    Ok(stored)
}

fn read(path: &Path) -> Result<NetworksDocument, EngineError> {
    match document::read(path) {
        Err(error) if error.is_not_found() => Ok(NetworksDocument::default()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_at_the_next_start() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::new(dir.path().join("data"), dir.path().join("exec"));
        layout.create().expect("directories");
        let first = load(&layout).expect("made");
        assert_eq!(first.networks.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), PREDEFINED);
        assert_eq!(load(&layout).expect("read"), first);
    }
}
