//! All containers by id and by name. Short synchronous locks, never held across an await; lookups follow Docker's order:
//! full id, exact name, unique id prefix.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use dockerd_types::ContainerId;

use super::Container;
use super::create_error::CreateError;
use super::error::ContainerError;
use super::links::LinkIndex;
use super::spec::ContainerSpec;

/// The register.
#[derive(Debug, Default)]
pub struct Registry {
    maps: Mutex<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    /// Ordered, so that a prefix is a range.
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    /// Also holds names of containers still being made.
    names: HashMap<String, ContainerId>,
    links: LinkIndex,
}

impl Registry {
    fn maps(&self) -> MutexGuard<'_, Maps> {
        // A panic while the lock was held leaves whole maps: every change below is one insert or remove.
        self.maps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Finds a container by full id, name (with or without slash) or unique id prefix.
    pub fn find(&self, text: &str) -> Result<Arc<Container>, ContainerError> {
        let missing = || ContainerError::NoSuchContainer(text.to_owned());
        let maps = self.maps();
        if let Some(found) = ContainerId::parse(text).ok().and_then(|id| maps.by_id.get(&id)) {
            return Ok(found.clone());
        }
        let name = text.strip_prefix('/').unwrap_or(text);
        if let Some(found) = maps.names.get(name).and_then(|id| maps.by_id.get(id)) {
            return Ok(found.clone());
        }
        let hex = !text.is_empty() && text.len() < 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !hex {
            return Err(missing());
        }
        let first = ContainerId::parse(&format!("{text:0<64}")).map_err(|_| missing())?;
        let mut matching = maps.by_id.range(first..).take_while(|(id, _)| id.as_str().starts_with(text));
        match (matching.next(), matching.next()) {
            (Some((_, found)), None) => Ok(found.clone()),
            (Some(_), Some(_)) => Err(ContainerError::AmbiguousPrefix(text.to_owned())),
            (None, _) => Err(missing()),
        }
    }

    /// The container with exactly this id.
    pub fn by_id(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.maps().by_id.get(id).cloned()
    }

    /// All of them, in no useful order.
    pub fn all(&self) -> Vec<Arc<Container>> {
        self.maps().by_id.values().cloned().collect()
    }

    /// Takes `name` for `id`, or says who has it.
    pub fn claim_name(&self, name: &str, id: &ContainerId) -> Result<(), CreateError> {
        let mut maps = self.maps();
        match maps.names.get(name) {
            Some(owner) if owner != id => Err(CreateError::NameTaken { name: name.to_owned(), owner: owner.clone() }),
            _ => {
                maps.names.insert(name.to_owned(), id.clone());
                Ok(())
            }
        }
    }

    /// Gives `name` back if `id` has it.
    pub fn release_name(&self, name: &str, id: &ContainerId) {
        let mut maps = self.maps();
        if maps.names.get(name) == Some(id) {
            maps.names.remove(name);
        }
    }

    /// Those that have links to this one.
    pub fn linked_to(&self, id: &ContainerId) -> Vec<Arc<Container>> {
        let maps = self.maps();
        maps.links.sources(id).iter().filter_map(|source| maps.by_id.get(source).cloned()).collect()
    }

    /// The links of a container are others now.
    pub(super) fn relink(&self, spec: &ContainerSpec) {
        let mut maps = self.maps();
        maps.links.remove(&spec.id);
        maps.links.insert(spec);
    }

    /// Adds a container whose name was claimed.
    pub fn insert(&self, container: Arc<Container>) {
        let mut maps = self.maps();
        maps.links.insert(&container.snapshot().spec);
        maps.by_id.insert(container.id().clone(), container);
    }

    /// Takes a container and its name out.
    pub fn remove(&self, id: &ContainerId, name: &str) {
        let mut maps = self.maps();
        maps.by_id.remove(id);
        maps.links.remove(id);
        if maps.names.get(name) == Some(id) {
            maps.names.remove(name);
        }
    }
}
