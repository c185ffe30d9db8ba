//! What plugins were asked for on one network, and must be asked to take back: a document for every endpoint, written
//! before a plugin is called and struck when it has taken everything back. What a dead daemon left is given back by the
//! next one. Blocking.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dockerd_store::Durability;
use dockerd_store::document::{self, Document};
use dockerd_types::{ContainerId, EndpointId};
use serde::{Deserialize, Serialize};

use super::link::ProvidedLink;
use crate::driver::NetworkIdentity;
use crate::error::NetworkError;

/// An address that a plugin gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAddress {
    /// The plugin's name of its pool.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
}

/// What one endpoint has of plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Whose.
    pub container: ContainerId,
    /// Which.
    pub endpoint: EndpointId,
    /// Addresses, if a plugin gives them.
    pub addresses: Vec<HeldAddress>,
    /// Whether the network's plugin may know the endpoint.
    pub created: bool,
    /// Whether it may have been told to make its link.
    pub joined: bool,
    /// Whether it may let the outside in.
    pub external: bool,
    /// The link it made.
    pub link: Option<ProvidedLink>,
}

impl Document for EndpointRecord {
    const VERSION: u32 = 1;
}

impl EndpointRecord {
    fn new(container: ContainerId, endpoint: EndpointId) -> Self {
        let addresses = Vec::new();
        Self { container, endpoint, addresses, created: false, joined: false, external: false, link: None }
    }
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<ContainerId, EndpointRecord>,
    /// What an earlier daemon left, until it is known whose it is.
    orphans: Vec<EndpointRecord>,
    closed: bool,
}

/// The endpoints of one network.
#[derive(Debug)]
pub struct Ledger {
    network: NetworkIdentity,
    dir: PathBuf,
    state: Mutex<State>,
    /// Somebody gave something back.
    released: Condvar,
}

impl Ledger {
    /// Reads what an earlier daemon wrote below `dir`, which need not be there.
    pub fn open(network: NetworkIdentity, dir: PathBuf) -> Self {
        let mut orphans = Vec::new();
        for path in std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            match document::read::<EndpointRecord>(&path) {
                Ok(record) => orphans.push(record),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "an endpoint's document is of no use");
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        let state = Mutex::new(State { orphans, ..State::default() });
        Self { network, dir, state, released: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, endpoint: &EndpointId) -> PathBuf {
        self.dir.join(format!("{endpoint}.json"))
    }

    /// A container is to have an endpoint.
    pub fn begin(&self, container: &ContainerId, endpoint: &EndpointId) -> Result<(), NetworkError> {
        let mut state = self.lock();
        if state.closed {
            return Err(NetworkError::Closed { network: self.network.name.clone() });
        }
        state.held.insert(container.clone(), EndpointRecord::new(container.clone(), endpoint.clone()));
        Ok(())
    }

    /// Notes what is about to be done, or was; on disk when this returns.
    pub fn note(&self, container: &ContainerId, change: impl FnOnce(&mut EndpointRecord)) -> Result<(), NetworkError> {
        let record = {
            let mut state = self.lock();
            let Some(record) = state.held.get_mut(container) else { return Ok(()) };
            change(record);
            record.clone()
        };
        let failed = |error: document::DocumentError| {
            NetworkError::io("write an endpoint's document")(std::io::Error::other(error))
        };
        make(&self.dir).map_err(NetworkError::io(format!("make {}", self.dir.display())))?;
        document::write(&self.file(&record.endpoint), &record, Durability::Process).map_err(failed)
    }

    /// What a container has.
    pub fn record(&self, container: &ContainerId) -> Option<EndpointRecord> {
        self.lock().held.get(container).cloned()
    }

    /// A container has nothing any more; with `done` plugins know it, else the next daemon tells them.
    pub fn end(&self, container: &ContainerId, done: bool) {
        let record = self.lock().held.remove(container);
        if let Some(record) = record.filter(|_| done) {
            self.strike(&record.endpoint);
        }
        self.released.notify_all();
    }

    /// Forgets an endpoint that plugins have taken back.
    pub fn strike(&self, endpoint: &EndpointId) {
        let path = self.file(endpoint);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path.display(), %error, "an endpoint's document stays");
        }
    }

    /// A container that outlived a daemon still has this endpoint.
    pub fn keep(&self, container: &ContainerId, endpoint: &EndpointId) {
        let mut state = self.lock();
        let at = state.orphans.iter().position(|record| record.endpoint == *endpoint);
        let record = at.map(|at| state.orphans.swap_remove(at));
        let record = record.unwrap_or_else(|| EndpointRecord::new(container.clone(), endpoint.clone()));
        state.held.insert(container.clone(), record);
    }

    /// Gives back what nobody has kept; tried once by each daemon.
    pub(crate) fn sweep(&self, take_back: impl Fn(&EndpointRecord) -> bool) {
        let orphans = std::mem::take(&mut self.lock().orphans);
        for record in orphans.iter().filter(|record| take_back(record)) {
            self.strike(&record.endpoint);
        }
    }

    /// What is held now.
    pub fn held(&self) -> Vec<EndpointRecord> {
        self.lock().held.values().cloned().collect()
    }

    /// Nobody gets an endpoint any more. Fails if one still has one after `patience`.
    pub fn close(&self, patience: Duration) -> Result<(), NetworkError> {
        let waited = self.released.wait_timeout_while(self.lock(), patience, |state| !state.held.is_empty());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !state.held.is_empty() {
            return Err(NetworkError::InUse { network: self.network.name.clone() });
        }
        state.closed = true;
        Ok(())
    }

    /// Takes [`Ledger::close`] back.
    pub fn reopen(&self) {
        self.lock().closed = false;
    }
}

fn make(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o710).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> [u8; 32] {
        [byte; 32]
    }

    #[test]
    fn what_was_left_is_known_to_the_next() {
        let dir = tempfile::tempdir().expect("directory");
        let network =
            NetworkIdentity { id: dockerd_types::NetworkId::from_random(id(0xaa)).expect("id"), name: "n".to_owned() };
        let open = || Ledger::open(network.clone(), dir.path().join("n"));
        let container = |byte| ContainerId::from_random(id(byte)).expect("id");
        let endpoint = |byte| EndpointId::from_random(id(byte)).expect("id");
        let first = open();
        for byte in [0xb1, 0xb2, 0xb3] {
            first.begin(&container(byte), &endpoint(byte)).expect("open");
            first.note(&container(byte), |record| record.created = true).expect("written");
        }
        assert!(matches!(first.close(Duration::ZERO), Err(NetworkError::InUse { .. })));
        // One is given back, one could not be.
        first.end(&container(0xb1), true);
        first.end(&container(0xb2), false);
        let second = open();
        second.keep(&container(0xb3), &endpoint(0xb3));
        assert!(second.record(&container(0xb3)).is_some_and(|record| record.created));
        // Not reached again, so the third one tries once more.
        second.sweep(|record| record.endpoint != endpoint(0xb2));
        second.end(&container(0xb3), true);
        let third = open();
        let seen = Mutex::new(Vec::new());
        third.sweep(|record| {
            seen.lock().expect("lock").push(record.endpoint.clone());
            true
        });
        assert_eq!(seen.into_inner().expect("lock"), [endpoint(0xb2)]);
        open().sweep(|record| panic!("{record:?} is left"));
        second.close(Duration::ZERO).expect("nobody has one");
        assert!(matches!(second.begin(&container(0xc1), &endpoint(0xb4)), Err(NetworkError::Closed { .. })));
    }
}
