//! The store of images: what is there, by which names, and adding to it. Reads come from a published index and never
//! touch the disk; changes are serialised by one lock that is not held while content is received or unpacked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use dockerd_store::{Durability, Layout, document};
use dockerd_types::{Digest, Reference, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::config::ImageConfig;
use crate::content::ContentStore;
use crate::distribution::Distribution;
use crate::document::{ImageDocument, LayerDocument, ManifestDocument, ReferencesDocument};
use crate::error::ImageError;
use crate::ingest::Ingests;
use crate::intake::stage::Job;
use crate::lazy::Lazies;
use crate::lease::{Leases, Turns};
use crate::pull::Transfers;
use crate::snapshot::{Drivers, SnapshotDriver, StorageOptions};
use crate::trash::Trash;

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRef {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the stack up to here (OCI image-spec, "Layer ChainID").
    pub chain_id: Digest,
    /// Bytes of its files.
    pub size: u64,
}

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of its configuration.
    pub id: Digest,
    /// The configuration, parsed.
    pub config: ImageConfig,
    /// The configuration, byte for byte.
    pub raw_config: Bytes,
    /// Layers, lowest first.
    pub layers: Vec<LayerRef>,
    /// References that name it, sorted.
    pub references: Vec<Reference>,
    /// When it was made, or else when it came to this host.
    pub created: Timestamp,
    /// The image it was made from here.
    pub parent: Option<Digest>,
    /// When it came to this host.
    pub arrived: Timestamp,
    /// When it was last given a name here, other than by a load.
    pub last_tagged: Option<Timestamp>,
    /// Manifests it came by, which are content too; the last one at the end.
    pub manifests: Vec<ManifestRef>,
}

/// A manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRef {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
}

impl Image {
    /// Bytes of all its layers' files.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// Whether one of its names has a tag.
    pub fn is_tagged(&self) -> bool {
        self.references.iter().any(|reference| reference.tag().is_some())
    }

    /// The topmost layer; `None` for an image without layers.
    pub fn chain(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.chain_id)
    }
}

/// All images at one moment.
#[derive(Debug, Default)]
pub struct ImageIndex {
    /// By id.
    pub images: HashMap<Digest, Arc<Image>>,
    /// By reference.
    pub references: BTreeMap<Reference, Digest>,
}

/// The store. Cheap to clone; methods that change something are blocking.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    images_dir: PathBuf,
    references_file: PathBuf,
    content: ContentStore,
    distribution: Distribution,
    ingests: Ingests,
    drivers: Drivers,
    lazies: Arc<Lazies>,
    index: ArcSwap<ImageIndex>,
    changes: Mutex<()>,
    holds: Mutex<HashMap<Digest, HashSet<String>>>,
    leases: Leases,
    turns: Turns,
    jobs: Mutex<HashMap<Digest, Weak<Job>>>,
    settling: Mutex<()>,
    transfers: Transfers,
}

impl ImageStore {
    /// Opens the store of this data root, with the driver of that name or else the best there is.
    pub fn open(layout: &Layout, driver: Option<&str>) -> Result<Self, ImageError> {
        Self::open_with(layout, driver, StorageOptions::default())
    }

    /// As [`open`](Self::open), with options of the driver.
    pub fn open_with(layout: &Layout, driver: Option<&str>, options: StorageOptions) -> Result<Self, ImageError> {
        let trash = Trash::new(&layout.trash_dir())?;
        let lazies = Lazies::open(&layout.image_dir().join("lazy"), trash.clone())?;
        let drivers = Drivers::open(layout, &trash, driver, options, &lazies)?;
        let images_dir = layout.image_dir().join("images");
        fs::create_dir_all(&images_dir).map_err(ImageError::io("make the image directory"))?;
        let inner = Inner {
            images_dir,
            references_file: layout.image_dir().join("references.json"),
            content: ContentStore::open(&layout.image_dir().join("content"), &layout.tmp_dir(), trash.clone())?,
            distribution: Distribution::open(&layout.image_dir().join("distribution"))?,
            ingests: Ingests::open(&layout.image_dir().join("ingest"), trash)?,
            drivers,
            lazies,
            index: ArcSwap::default(),
            changes: Mutex::default(),
            holds: Mutex::default(),
            leases: Leases::default(),
            turns: Turns::default(),
            jobs: Mutex::default(),
            settling: Mutex::default(),
            transfers: Transfers::default(),
        };
        let store = Self { inner: Arc::new(inner) };
        store.load_index()?;
        store.find_lazy_layers();
        store.reconcile();
        Ok(store)
    }

    fn load_index(&self) -> Result<(), ImageError> {
        let mut images = HashMap::new();
        let entries = fs::read_dir(&self.inner.images_dir).map_err(ImageError::io("list images"))?;
        for entry in entries.flatten().filter(|e| e.path().extension().is_some_and(|ext| ext == "json")) {
            match document::read::<ImageDocument>(&entry.path()).map_err(ImageError::from).and_then(|d| self.revive(d))
            {
                Ok(image) => _ = images.insert(image.id.clone(), Arc::new(image)),
                Err(error) => tracing::error!(path = %entry.path().display(), %error, "image cannot be loaded"),
            }
        }
        let references = match document::read::<ReferencesDocument>(&self.inner.references_file) {
            Ok(document) => document.tags,
            Err(error) if error.is_not_found() => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        self.publish(images, references.into_iter().collect());
        Ok(())
    }

    fn revive(&self, document: ImageDocument) -> Result<Image, ImageError> {
        let mut raw = Vec::new();
        let read = self.content().get(&document.id)?.read_to_end(&mut raw);
        read.map_err(ImageError::io("read image configuration"))?;
        image_of(document, raw.into())
    }

    /// All images now.
    pub fn index(&self) -> Arc<ImageIndex> {
        self.inner.index.load_full()
    }

    /// The driver of new layers and snapshots.
    pub fn snapshots(&self) -> &Arc<dyn SnapshotDriver> {
        self.inner.drivers.chosen()
    }

    /// The driver of the snapshot `key`.
    pub fn snapshots_of(&self, key: &str) -> &Arc<dyn SnapshotDriver> {
        self.inner.drivers.of(key)
    }

    /// Keys of all drivers' snapshots.
    pub fn snapshot_keys(&self) -> Vec<String> {
        self.drivers().former().chain([self.snapshots()]).flat_map(|driver| driver.keys()).collect()
    }

    pub(crate) fn drivers(&self) -> &Drivers {
        &self.inner.drivers
    }

    pub(crate) fn content(&self) -> &ContentStore {
        &self.inner.content
    }

    pub(crate) fn distribution(&self) -> &Distribution {
        &self.inner.distribution
    }

    pub(crate) fn lazies(&self) -> &Arc<Lazies> {
        &self.inner.lazies
    }

    pub(crate) fn transfers(&self) -> &Transfers {
        &self.inner.transfers
    }

    pub(crate) fn ingests(&self) -> &Ingests {
        &self.inner.ingests
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.inner.leases
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.inner.turns
    }

    pub(crate) fn settling(&self) -> MutexGuard<'_, ()> {
        self.inner.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job that stages the blob `digest` now, or else `new`; with whether it is the new one.
    pub(crate) fn share_job(&self, digest: &Digest, new: impl FnOnce() -> Arc<Job>) -> (Arc<Job>, bool) {
        let mut jobs = self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, job| job.strong_count() > 0);
        if let Some(job) = jobs.get(digest).and_then(Weak::upgrade) {
            return (job, false);
        }
        let job = new();
        jobs.insert(digest.clone(), Arc::downgrade(&job));
        (job, true)
    }

    /// The image of that reference, id, or unique beginning of an id.
    pub fn resolve(&self, text: &str) -> Result<Arc<Image>, ImageError> {
        let index = self.index();
        let not_found = || ImageError::NotFound(text.to_owned());
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = !hex.is_empty() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex && hex.len() == 64 {
            let digest = Digest::parse(&format!("sha256:{hex}")).map_err(|_| not_found())?;
            return index.images.get(&digest).cloned().ok_or_else(|| ImageError::NotFound(digest.to_string()));
        }
        if let Ok(reference) = Reference::parse(text) {
            // A tag beside a digest says nothing.
            let reference = match reference.digest() {
                Some(digest) => reference.with_digest(digest.clone()),
                None => reference.with_default_tag(),
            };
            let wanted = reference.digest();
            let by_digest = wanted.and_then(|digest| index.images.get(digest));
            if let Some(image) = index.references.get(&reference).and_then(|id| index.images.get(id)).or(by_digest) {
                return Ok(image.clone());
            }
            if !is_hex {
                return Err(ImageError::NotFound(reference.familiar()));
            }
        }
        if !is_hex {
            // A text that is no reference at all.
            Reference::parse(text)?;
        }
        let mut matches = index.images.values().filter(|image| image.id.hex().starts_with(hex));
        match (matches.next(), matches.next()) {
            (Some(image), None) => Ok(image.clone()),
            (Some(_), Some(_)) => Err(ImageError::Ambiguous(hex.to_owned())),
            (None, _) => {
                let shown = Reference::parse(text).map(|r| r.with_default_tag().familiar());
                Err(ImageError::NotFound(shown.unwrap_or_else(|_| text.to_owned())))
            }
        }
    }

    /// Adds a name; a name that was another image's moves.
    pub fn tag(&self, image: &Digest, reference: &Reference) -> Result<(), ImageError> {
        self.name(image, reference)?;
        let _changes = self.lock();
        let index = self.index();
        let known = index.images.get(image).ok_or_else(|| ImageError::NotFound(image.to_string()))?;
        let tagged = Image { last_tagged: Some(Timestamp::now()), ..(**known).clone() };
        let document = document_of(&tagged);
        document::write(&self.document_path(image), &document, Durability::Process)?;
        let mut images = index.images.clone();
        images.insert(image.clone(), Arc::new(tagged));
        self.publish(images, index.references.clone());
        Ok(())
    }

    /// As [`tag`](Self::tag), without noting the time.
    pub(crate) fn name(&self, image: &Digest, reference: &Reference) -> Result<(), ImageError> {
        let _changes = self.lock();
        let index = self.index();
        if !index.images.contains_key(image) {
            return Err(ImageError::NotFound(image.to_string()));
        }
        let mut references = index.references.clone();
        references.insert(reference.clone().with_default_tag(), image.clone());
        self.write_references(&references)?;
        self.publish(index.images.clone(), references);
        Ok(())
    }

    /// Keeps `image` from removal on behalf of `owner`.
    pub fn hold(&self, image: &Digest, owner: &str) {
        self.holds().entry(image.clone()).or_default().insert(owner.to_owned());
    }

    /// Ends a hold.
    pub fn release(&self, image: &Digest, owner: &str) {
        let mut holds = self.holds();
        if let Some(owners) = holds.get_mut(image) {
            owners.remove(owner);
            if owners.is_empty() {
                holds.remove(image);
            }
        }
    }

    /// Who holds `image`.
    pub fn holders(&self, image: &Digest) -> Vec<String> {
        let mut owners: Vec<String> = self.holds().get(image).into_iter().flatten().cloned().collect();
        owners.sort();
        owners
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<Digest, HashSet<String>>> {
        self.inner.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn document_path(&self, id: &Digest) -> PathBuf {
        self.inner.images_dir.join(format!("{}.json", id.hex()))
    }

    pub(crate) fn write_references(&self, tags: &BTreeMap<Reference, Digest>) -> Result<(), ImageError> {
        let stored = ReferencesDocument { tags: tags.clone() };
        Ok(document::write(&self.inner.references_file, &stored, Durability::Disk)?)
    }

    /// Replaces the index; every image is given its references anew.
    pub(crate) fn publish(&self, images: HashMap<Digest, Arc<Image>>, references: BTreeMap<Reference, Digest>) {
        let mut by_image: HashMap<&Digest, Vec<Reference>> = HashMap::new();
        for (reference, id) in &references {
            by_image.entry(id).or_default().push(reference.clone());
        }
        let images = images
            .into_iter()
            .map(|(id, image)| {
                let names = by_image.remove(&id).unwrap_or_default();
                let image = if image.references == names {
                    image
                } else {
                    Arc::new(Image { references: names, ..(*image).clone() })
                };
                (id, image)
            })
            .collect();
        self.inner.index.store(Arc::new(ImageIndex { images, references }));
    }
}

pub(crate) fn layer_document(layer: &LayerRef) -> LayerDocument {
    let LayerRef { diff_id, chain_id, size } = layer.clone();
    LayerDocument { diff_id, chain_id, size }
}

pub(crate) fn manifest_document(manifest: &ManifestRef) -> ManifestDocument {
    let ManifestRef { digest, media_type } = manifest.clone();
    ManifestDocument { digest, media_type }
}

pub(crate) fn image_of(document: ImageDocument, raw_config: Bytes) -> Result<Image, ImageError> {
    let ImageDocument { id, layers, arrived, parent, last_tagged, manifests } = document;
    let config: ImageConfig = serde_json::from_slice(&raw_config)
        .map_err(|error| ImageError::Archive(format!("invalid image configuration: {error}")))?;
    let layers =
        layers.into_iter().map(|LayerDocument { diff_id, chain_id, size }| LayerRef { diff_id, chain_id, size });
    let created = config.created_at().unwrap_or(arrived);
    let (layers, references) = (layers.collect(), Vec::new());
    let manifests = manifests
        .into_iter()
        .map(|ManifestDocument { digest, media_type }| ManifestRef { digest, media_type })
        .collect();
    Ok(Image { id, config, raw_config, layers, references, created, parent, arrived, last_tagged, manifests })
}

pub(crate) fn document_of(image: &Image) -> ImageDocument {
    ImageDocument {
        id: image.id.clone(),
        layers: image.layers.iter().map(layer_document).collect(),
        arrived: image.arrived,
        parent: image.parent.clone(),
        last_tagged: image.last_tagged,
        manifests: image.manifests.iter().map(manifest_document).collect(),
    }
}

/// OCI image-spec, "Layer ChainID": the lowest layer's is its diffID.
pub(crate) fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => diff_id.clone(),
        Some(parent) => Digest::sha256(&Sha256::digest(format!("{parent} {diff_id}")).into()),
    }
}
