//! Images: the use cases over dockerd-image, with their events, and the view of images the container verbs have.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use dockerd_image::snapshot::ChangeKind;
use dockerd_image::{Image, ImageError, ImageStore, Platform};
use dockerd_types::container::Labels;
use dockerd_types::{ContainerId, Digest, ErrorKind, Kinded, Reference, Timestamp};

use crate::core::Core;
use crate::error::EngineError;
use crate::ports::{ContainerImage, EventNote, Images, PathChange, PathChangeKind};

pub mod commit;
pub mod import;
pub(crate) mod lazy;
pub mod list;
pub mod platform;
pub mod pull;
pub mod push;
pub(crate) mod registries;
pub mod remove;
pub mod transfer;

/// The use cases of images.
#[derive(Debug, Clone)]
pub struct ImageService {
    pub(crate) core: Arc<Core>,
    pub(crate) store: ImageStore,
    pub(crate) registries: Arc<registries::Registries>,
    pub(crate) keeper: Arc<lazy::SessionKeeper>,
}

impl ImageService {
    /// The image a client means.
    pub fn inspect(&self, name: &str) -> Result<Arc<Image>, EngineError> {
        Ok(self.store.resolve(name)?)
    }

    /// The same, if it is for `platform`.
    pub fn inspect_for(&self, name: &str, platform: Option<&Platform>) -> Result<Arc<Image>, EngineError> {
        let image = self.inspect(name)?;
        if let Some(wanted) = platform.filter(|wanted| !wanted.takes(&image.config)) {
            let (found, wanted) = (self::platform(&image), wanted.to_string());
            return Err(EngineError::module(OtherPlatform { name: name.to_owned(), found, wanted }));
        }
        Ok(image)
    }

    /// Where the storage driver has the image's layers, by the names Docker gives the places.
    pub fn places(&self, image: &Image) -> Vec<(&'static str, String)> {
        image.chain().map_or_else(Vec::new, |chain| self.store.snapshots().describe(chain))
    }

    /// Gives an image another name.
    pub async fn tag(&self, source: &str, target: Reference) -> Result<(), EngineError> {
        let image = self.store.resolve(source)?;
        let (store, id, reference) = (self.store.clone(), image.id.clone(), target.clone());
        blocking(move || store.tag(&id, &reference)).await??;
        self.event("tag", image.id.as_str(), &target.with_default_tag().familiar());
        Ok(())
    }

    /// Publishes an event; `name` is the reference or the id, as the stock daemon names images.
    pub(crate) fn event(&self, action: &str, actor: &str, name: &str) {
        let labels = self.store.resolve(actor).map(|image| image.config.container_config().labels);
        self.event_with(action, actor, name, labels.unwrap_or_default());
    }

    fn event_with(&self, action: &str, actor: &str, name: &str, labels: Labels) {
        let mut attributes = labels;
        attributes.insert("name".to_owned(), name.to_owned());
        self.core.events.publish(EventNote {
            kind: "image",
            action: action.to_owned(),
            actor: actor.to_owned(),
            attributes,
            time: Timestamp::now(),
        });
    }
}

/// The image that is there is for another platform.
#[derive(Debug, thiserror::Error)]
#[error(
    "image with reference {name} was found but its platform ({found}) does not match the specified platform ({wanted})"
)]
struct OtherPlatform {
    name: String,
    found: String,
    wanted: String,
}

impl Kinded for OtherPlatform {
    fn kind(&self) -> ErrorKind {
        ErrorKind::NotFound
    }
}

/// Runs `job` off the async workers.
pub(crate) async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Result<T, EngineError> {
    let joined = tokio::task::spawn_blocking(job).await;
    joined.map_err(|panic| EngineError::io("background work", std::io::Error::other(panic)))
}

impl From<ImageError> for EngineError {
    fn from(error: ImageError) -> Self {
        Self::module(error)
    }
}

/// `os/arch[/variant]`.
pub fn platform(image: &Image) -> String {
    let config = &image.config;
    let base = format!("{}/{}", config.os, config.architecture);
    if config.variant.is_empty() { base } else { format!("{base}/{}", config.variant) }
}

/// The container verbs' view of the store; what they need of an image is worked out once.
#[derive(Debug)]
pub struct StoredImages {
    store: ImageStore,
    known: Mutex<HashMap<Digest, Arc<ContainerImage>>>,
}

/// Images remembered; forgotten all at once when there are more.
const MOST_KNOWN: usize = 256;

impl StoredImages {
    /// Over `store`.
    pub fn new(store: ImageStore) -> Self {
        Self { store, known: Mutex::default() }
    }

    fn view(&self, image: &Image) -> Arc<ContainerImage> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&image.id) {
            return found.clone();
        }
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        let view = Arc::new(ContainerImage {
            id: image.id.clone(),
            platform: platform(image),
            config: image.config.container_config(),
            chain: image.chain().cloned(),
        });
        known.insert(image.id.clone(), view.clone());
        view
    }
}

impl Images for StoredImages {
    fn resolve(&self, text: &str) -> Result<Arc<ContainerImage>, EngineError> {
        Ok(self.view(&*self.store.resolve(text)?))
    }

    fn driver_name(&self) -> &str {
        self.store.snapshots().name()
    }

    fn hold(&self, image: &Digest, owner: &ContainerId) {
        self.store.hold(image, owner.as_str());
    }

    fn release(&self, image: &Digest, owner: &ContainerId) {
        self.store.release(image, owner.as_str());
    }

    fn prepare(&self, owner: &ContainerId, image: &ContainerImage) -> Result<Option<OwnedFd>, EngineError> {
        Ok(self.store.prepare(owner.as_str(), image.chain.as_ref())?)
    }

    fn stock(&self, chain: &Digest) -> Result<(), EngineError> {
        Ok(self.store.snapshots().stock(chain)?)
    }

    fn mount(&self, owner: &ContainerId) -> Result<OwnedFd, EngineError> {
        Ok(self.store.snapshots_of(owner.as_str()).mount(owner.as_str())?)
    }

    fn remove(&self, owner: &ContainerId) -> Result<(), EngineError> {
        Ok(self.store.remove_snapshot(owner.as_str())?)
    }

    fn layer_owners(&self) -> Vec<ContainerId> {
        self.store.snapshot_keys().iter().filter_map(|key| ContainerId::parse(key).ok()).collect()
    }

    fn usage(&self, owner: &ContainerId) -> Result<u64, EngineError> {
        Ok(self.store.snapshots_of(owner.as_str()).usage(owner.as_str())?)
    }

    fn image_size(&self, image: &Digest) -> u64 {
        self.store.index().images.get(image).map_or(0, |image| image.size())
    }

    fn changes(&self, owner: &ContainerId) -> Result<Vec<PathChange>, EngineError> {
        let changes = self.store.snapshots_of(owner.as_str()).changes(owner.as_str())?;
        let kind = |kind| match kind {
            ChangeKind::Modified => PathChangeKind::Modified,
            ChangeKind::Added => PathChangeKind::Added,
            ChangeKind::Deleted => PathChangeKind::Deleted,
        };
        Ok(changes.into_iter().map(|c| PathChange { path: c.path, kind: kind(c.kind) }).collect())
    }
}
