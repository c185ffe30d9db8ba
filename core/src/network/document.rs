//! `networks.json`: ids and creation times of networks, so that a network keeps its id over restarts. Blocking.

use std::path::Path;

use dockerd_store::document::{self, Document};
use dockerd_store::{Durability, Layout};
use dockerd_types::{NetworkId, Timestamp};
use serde::{Deserialize, Serialize};

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
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct NetworksDocument {
    pub(super) networks: Vec<NetworkRecord>,
}

impl Document for NetworksDocument {
    const VERSION: u32 = 1;
}

/// A new network's id.
fn new_id() -> NetworkId {
    loop {
        if let Some(id) = NetworkId::from_random(names::random()) {
            return id;
        }
    }
}

/// Reads the document; predefined networks that are not in it are added and stored.
pub(super) fn load(layout: &Layout) -> Result<Vec<NetworkRecord>, EngineError> {
    let path = layout.networks_document();
    let mut stored = read(&path)?;
    let missing: Vec<&str> =
        PREDEFINED.into_iter().filter(|name| !stored.networks.iter().any(|n| n.name == *name)).collect();
    if !missing.is_empty() {
        let created = Timestamp::now();
        let record = |name: &str| NetworkRecord { id: new_id(), name: name.to_owned(), created };
        stored.networks.extend(missing.into_iter().map(record));
        document::write(&path, &stored, Durability::Disk)?;
    }
    Ok(stored.networks)
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
        assert_eq!(first.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), PREDEFINED);
        assert_eq!(load(&layout).expect("read"), first);
    }
}
