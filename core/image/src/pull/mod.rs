//! `docker pull`: a manifest is chosen, layers are transferred and staged side by side ([`transfer`]), published in their
//! order, and last the image appears. Nothing is visible before, and nothing stays of a pull that fails or is dropped.

mod lazy;
mod manifest;
mod transfer;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use dockerd_registry::{Descriptor, DownloadEvent, DownloadRequest, Manifest, RegistryError, Repository, Target};
use dockerd_types::{Digest, ErrorKind, Kinded, Reference};
use tokio::sync::{Notify, Semaphore};

use crate::config::ImageConfig;
use crate::distribution::LayerBlob;
use crate::error::ImageError;
use crate::intake::stage::Compressed;
use crate::lazy::Held;
use crate::lease::Lease;
use crate::load::Platform;
use crate::publish::NewImage;
use crate::store::{Image, ImageStore, LayerRef, ManifestRef, chain_id};
use crate::toc::Locator;
use transfer::{Transfer, TransferState, blocking};

pub(crate) use transfer::Transfers;

/// Most bytes of an image's configuration.
const MAX_CONFIG: u64 = 8 << 20;

/// Why nothing was pulled; Docker's words.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    /// The registry's answer.
    #[error(transparent)]
    Registry(#[from] Arc<RegistryError>),
    /// The store's.
    #[error(transparent)]
    Store(#[from] Arc<ImageError>),
    /// An index without an image for the platform.
    #[error("no matching manifest for {0} in the manifest list entries")]
    NoPlatform(Platform),
    /// A manifest of something that is no image.
    #[error("{0}")]
    Unsupported(String),
    /// A document that is not what it should be.
    #[error("{0}")]
    Invalid(String),
    /// Not the content that was asked for.
    #[error("filesystem layer verification failed for digest {expected}")]
    Verification {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Not the configuration that was asked for.
    #[error("image config verification failed for digest {0}")]
    Config(Digest),
    /// The configuration cannot be had.
    #[error("error pulling image configuration: {0}")]
    Configuration(Arc<PullError>),
    /// A configuration without layers.
    #[error("invalid rootfs in image configuration")]
    RootFs,
    /// A layer that cannot be unpacked.
    #[error("failed to register layer: {0}")]
    Layer(Arc<ImageError>),
    /// Layers and configuration do not belong together.
    #[error("layers from manifest don't match image configuration")]
    Mismatch,
    /// An image for another operating system.
    #[error("image operating system {0:?} cannot be used on this platform")]
    OperatingSystem(String),
    /// A thread of ours.
    #[error("background work failed: {0}")]
    Panicked(String),
}

impl PullError {
    fn panicked(error: tokio::task::JoinError) -> Self {
        Self::Panicked(error.to_string())
    }
}

impl From<ImageError> for PullError {
    fn from(error: ImageError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl From<RegistryError> for PullError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Arc::new(error))
    }
}

impl Kinded for PullError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Registry(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::NoPlatform(_) => ErrorKind::NotFound,
            Self::Unsupported(_) | Self::Invalid(_) | Self::Mismatch | Self::RootFs | Self::OperatingSystem(_) => {
                ErrorKind::InvalidArgument
            }
            Self::Configuration(error) => error.kind(),
            Self::Verification { .. } | Self::Config(_) | Self::Panicked(_) | Self::Layer(_) => ErrorKind::System,
        }
    }
}

/// What a pull is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullStep {
    /// The manifest is there.
    Manifest,
    /// Of the layer with that digest in the registry.
    Layer(Digest, LayerStep),
    /// All is done; the digest of what was asked for.
    Digest(Digest),
}

/// What happens to a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerStep {
    /// It is here already.
    Exists,
    /// It is to be got.
    Planned,
    /// Others are got first.
    Waiting,
    /// Bytes here, of all.
    Downloading(u64, u64),
    /// The registry is asked again after so many seconds.
    Retrying(u64),
    /// Its digest is being checked.
    Verifying,
    /// All is here.
    Downloaded,
    /// Bytes of the compressed form that are unpacked, of all.
    Extracting(u64, u64),
    /// It is a layer of the store.
    Done,
}

/// Told of each step.
pub type PullProgress = Arc<dyn Fn(PullStep) + Send + Sync>;

/// What came of a pull.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Arc<Image>,
    /// Whether the name is new or was another image's.
    pub is_newer: bool,
}

/// An image that is there to be got.
struct Remote {
    reference: Reference,
    manifest: Manifest,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// How one layer is come by.
enum Way {
    Exists,
    Known,
    /// It is under way; the second is for whoever waits until its end has been told.
    Transfer(Arc<Transfer>, Notify),
    /// It may be one that can be used before it is here.
    Perhaps(Locator),
    /// It comes later.
    Later(Arc<Held>),
}

impl ImageStore {
    /// Pulls what `reference` (by tag or by digest) names in `repository`, for `platform` or else this machine. At most as
    /// many layers as `slots` has are downloaded at once, by all pulls together.
    pub async fn pull(
        &self,
        repository: &Repository,
        reference: &Reference,
        platform: Option<&Platform>,
        slots: &Arc<Semaphore>,
        progress: &PullProgress,
    ) -> Result<Pulled, PullError> {
        let lease = Arc::new(Lease::new(self));
        let pulled = self.pull_under(&lease, repository, reference, platform, slots, progress).await;
        // Its end may have much to take away.
        blocking(move || {
            drop(lease);
            Ok(())
        })
        .await?;
        pulled
    }

    /// Pulls; what is needed meanwhile stays under `lease`.
    async fn pull_under(
        &self,
        lease: &Arc<Lease>,
        repository: &Repository,
        reference: &Reference,
        platform: Option<&Platform>,
        slots: &Arc<Semaphore>,
        progress: &PullProgress,
    ) -> Result<Pulled, PullError> {
        let top = self.top_manifest(repository, reference).await?;
        // What makes no sense at all is told before anything else is.
        top.parse()?;
        progress(PullStep::Manifest);
        let digest = top.digest.clone();
        let mut seen = Vec::new();
        let remote = manifest::choose(self, repository, reference, top, platform, &mut seen).await?;
        let name = match reference.digest() {
            Some(digest) => reference.with_digest(digest.clone()),
            None => reference.clone().with_default_tag(),
        };
        let before = self.index().references.get(&name).cloned();
        let mut references = vec![reference.with_digest(digest.clone())];
        if reference.digest().is_none() {
            references.push(name);
        }
        let (store, held, config) = (self.clone(), lease.clone(), remote.config.digest.clone());
        let (raw_config, layers) = match blocking(move || Ok(store.keep_known(&held, &config))).await? {
            Some(image) => {
                self.go_on(repository, &image).await?;
                (image.raw_config.clone(), image.layers.clone())
            }
            None => self.fetch(repository, &remote, slots, lease, progress).await?,
        };
        seen.push(remote.manifest);
        let manifests =
            seen.into_iter().map(|Manifest { bytes, media_type, digest }| (ManifestRef { digest, media_type }, bytes));
        let new =
            NewImage { raw_config, layers, references, parent: None, tagged: false, manifests: manifests.collect() };
        let store = self.clone();
        let mut added = blocking(move || store.add_images(vec![new])).await?;
        let image = added.pop().ok_or_else(|| PullError::Invalid("image was not added".to_owned()))?;
        progress(PullStep::Digest(digest));
        Ok(Pulled { is_newer: before.as_ref() != Some(&image.id), image })
    }

    /// The manifest `reference` names: the registry's, whose body is not asked for again where it is here.
    async fn top_manifest(&self, repository: &Repository, reference: &Reference) -> Result<Manifest, PullError> {
        if let Some(digest) = reference.digest() {
            return self.manifest_of(repository, digest).await;
        }
        let tag = Target::Tag(reference.tag().unwrap_or("latest"));
        let head = repository.head_manifest(tag).await?;
        match head.digest {
            Some(digest) => self.manifest_of(repository, &digest).await,
            None => Ok(repository.manifest(tag).await?),
        }
    }

    /// The manifest `digest`, from here or from the registry.
    async fn manifest_of(&self, repository: &Repository, digest: &Digest) -> Result<Manifest, PullError> {
        let index = self.index();
        let manifests = index.images.values().flat_map(|image| &image.manifests);
        let kept = manifests.into_iter().find(|manifest| manifest.digest == *digest).and_then(|known| {
            let bytes = self.content().read(digest).ok()?;
            Some(Manifest { bytes: bytes.into(), media_type: known.media_type.clone(), digest: digest.clone() })
        });
        match kept {
            Some(manifest) => Ok(manifest),
            None => Ok(repository.manifest(Target::Digest(digest)).await?),
        }
    }

    /// The image of that configuration, if it is here and has stayed until `lease` kept it. Waits for a removal under way.
    fn keep_known(&self, lease: &Lease, config: &Digest) -> Option<Arc<Image>> {
        let known = || self.index().images.get(config).cloned();
        lease.cover(config);
        known()?.layers.iter().for_each(|layer| lease.cover_layer(layer));
        known()
    }

    /// Brings configuration and layers here.
    async fn fetch(
        &self,
        repository: &Repository,
        remote: &Remote,
        slots: &Arc<Semaphore>,
        lease: &Arc<Lease>,
        progress: &PullProgress,
    ) -> Result<(Bytes, Vec<LayerRef>), PullError> {
        let (store, held, told) = (self.clone(), lease.clone(), progress.clone());
        let (from, blobs, slots) = (repository.clone(), remote.layers.clone(), slots.clone());
        let (known_slots, known_blobs) = (slots.clone(), blobs.clone());
        let mut ways = blocking(move || Ok(store.ways(&from, &known_blobs, &known_slots, &held, &told))).await?;
        let raw =
            small_blob(repository, &remote.config).await.map_err(|error| PullError::Configuration(Arc::new(error)))?;
        let diff_ids = check_config(&raw, remote.layers.len())?;
        self.decide(repository, &remote.reference, &blobs, &diff_ids, &slots, &mut ways).await;
        let name = repository_name(&remote.reference);
        let following = remote.layers.iter().zip(&ways).map(|(blob, way)| follow(blob, way, progress));
        let publishing = async {
            let mut layers: Vec<LayerRef> = Vec::new();
            for ((blob, way), diff_id) in remote.layers.iter().zip(&ways).zip(&diff_ids) {
                let order = Arrival { blob: blob.clone(), diff_id: diff_id.clone(), repository: name.clone() };
                layers.push(self.arrive(lease, layers.last().cloned(), order, way, progress).await?);
            }
            Ok(layers)
        };
        // The first failure ends both.
        let (_, layers) =
            futures_util::future::try_join(futures_util::future::try_join_all(following), publishing).await?;
        for way in &ways {
            if let Way::Later(held) = way {
                self.fetch_rest(held, repository);
            }
        }
        Ok((raw, layers))
    }

    /// What is here already, and transfers of what is not, begun in the order of the layers. Waits for a removal under way.
    fn ways(
        &self,
        repository: &Repository,
        blobs: &[Descriptor],
        slots: &Arc<Semaphore>,
        lease: &Lease,
        progress: &PullProgress,
    ) -> Vec<Way> {
        let (mut below, mut all_here): (Option<Digest>, bool) = (None, true);
        let mut ways = Vec::new();
        for blob in blobs {
            lease.cover(&blob.digest);
            let diff_id = self.distribution().diff_id(&blob.digest).inspect(|diff_id| lease.cover(diff_id));
            let diff_id = diff_id.filter(|diff_id| self.has_tar(diff_id));
            let chain = diff_id.as_ref().map(|diff_id| chain_id(below.as_ref(), diff_id));
            all_here &= chain.as_ref().is_some_and(|chain| {
                lease.cover(chain);
                self.snapshots().has_layer(chain)
            });
            let step = if all_here { LayerStep::Exists } else { LayerStep::Planned };
            progress(PullStep::Layer(blob.digest.clone(), step));
            ways.push(match diff_id {
                Some(_) if all_here => Way::Exists,
                Some(_) => Way::Known,
                None if let Some(locator) = self.may_come_later(blob) => Way::Perhaps(locator),
                None => Way::Transfer(Transfers::join(self, repository, blob, slots), Notify::new()),
            });
            below = chain.or(below);
        }
        ways
    }

    /// Makes one layer visible when it is here.
    async fn arrive(
        &self,
        lease: &Arc<Lease>,
        parent: Option<LayerRef>,
        order: Arrival,
        way: &Way,
        progress: &PullProgress,
    ) -> Result<LayerRef, PullError> {
        let (store, lease, digest) = (self.clone(), lease.clone(), order.blob.digest.clone());
        let told = |step| progress(PullStep::Layer(digest.clone(), step));
        let transfer = match way {
            Way::Transfer(transfer, told) => {
                told.notified().await;
                Some(transfer.clone())
            }
            Way::Known => {
                told(LayerStep::Downloaded);
                None
            }
            Way::Exists => None,
            Way::Perhaps(_) => return Err(PullError::Panicked("a layer nobody decided about".to_owned())),
            Way::Later(held) => {
                let held = held.clone();
                let published =
                    tokio::task::spawn_blocking(move || store.publish_lazy(&lease, parent.as_ref(), &held)).await;
                let layer =
                    published.map_err(PullError::panicked)?.map_err(|error| PullError::Layer(Arc::new(error)))?;
                told(LayerStep::Done);
                return Ok(layer);
            }
        };
        let known = transfer.is_none().then(|| self.distribution().diff_id(&digest)).flatten();
        if known.is_some_and(|known| known != order.diff_id) {
            return Err(PullError::Mismatch);
        }
        let reporter = progress.clone();
        let layer = tokio::task::spawn_blocking(move || {
            let Arrival { blob, diff_id, repository } = order;
            store.publish_layer(&lease, parent.as_ref(), &diff_id, || {
                let Some(transfer) = &transfer else { return store.restage(&diff_id) };
                let extracting = |current| {
                    reporter(PullStep::Layer(blob.digest.clone(), LayerStep::Extracting(current, blob.size)));
                };
                let Some(mut staged) = transfer.take(extracting)? else { return store.restage(&diff_id) };
                extracting(blob.size);
                if staged.diff_id.as_ref().unwrap_or_else(|| transfer.digest()) != &diff_id {
                    return Err(ImageError::LayersMismatch);
                }
                let form = LayerBlob {
                    digest: blob.digest.clone(),
                    size: blob.size,
                    media_type: blob.media_type.clone(),
                    repositories: BTreeSet::from([repository]),
                };
                staged.compressed = transfer.received().map(|received| Compressed { received, form });
                Ok(staged)
            })
        });
        let layer = layer.await.map_err(PullError::panicked)?.map_err(|error| match error {
            ImageError::LayersMismatch => PullError::Mismatch,
            other => PullError::Layer(Arc::new(other)),
        })?;
        if !matches!(way, Way::Exists) {
            told(LayerStep::Done);
        }
        Ok(layer)
    }
}

/// A layer to be made visible.
struct Arrival {
    blob: Descriptor,
    diff_id: Digest,
    repository: String,
}

/// How records of layers name a repository.
pub(crate) fn repository_name(reference: &Reference) -> String {
    format!("{}/{}", reference.domain(), reference.path())
}

/// A blob that is small enough to be had in memory, verified.
async fn small_blob(repository: &Repository, blob: &Descriptor) -> Result<Bytes, PullError> {
    if blob.size > MAX_CONFIG {
        return Err(PullError::Invalid(format!("image configuration of {} bytes is too large", blob.size)));
    }
    let request = DownloadRequest { digest: blob.digest.clone(), size: blob.size, offset: 0, urls: Vec::new() };
    let (mut download, mut bytes) = (repository.download(request), Vec::new());
    while let Some(event) = download.next().await {
        match event? {
            DownloadEvent::Data(piece) => bytes.extend_from_slice(&piece),
            DownloadEvent::Restarted => bytes.clear(),
            DownloadEvent::Retrying { .. } => {}
        }
    }
    if crate::content::digest_of(&bytes[..], &blob.digest).ok().as_ref() != Some(&blob.digest) {
        return Err(PullError::Config(blob.digest.clone()));
    }
    Ok(bytes.into())
}

/// The platform that the image of configuration `config` in `repository` is for.
pub async fn remote_platform(
    repository: &Repository,
    config: &Descriptor,
) -> Result<dockerd_registry::Platform, PullError> {
    let raw = small_blob(repository, config).await?;
    serde_json::from_slice(&raw).map_err(|error| PullError::Invalid(error.to_string()))
}

/// Tells how far a layer is, to its end.
async fn follow(blob: &Descriptor, way: &Way, progress: &PullProgress) -> Result<(), PullError> {
    let Way::Transfer(transfer, told_all) = way else { return Ok(()) };
    let told = |step| progress(PullStep::Layer(blob.digest.clone(), step));
    let mut state = transfer.state();
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            TransferState::Waiting => told(LayerStep::Waiting),
            TransferState::Downloading(current) => {
                told(LayerStep::Downloading(current, blob.size));
                if current == blob.size {
                    told(LayerStep::Verifying);
                }
            }
            TransferState::Retrying(after) => told(LayerStep::Retrying(after)),
            TransferState::Complete => {
                told(LayerStep::Downloaded);
                told_all.notify_one();
                return Ok(());
            }
            TransferState::Failed(error) => return Err((*error).clone()),
        }
        state.changed().await.map_err(|_| PullError::Panicked("a transfer broke off".to_owned()))?;
    }
}

/// The diffIDs of a configuration that is one of an image for this system, with as many layers.
fn check_config(raw: &[u8], layers: usize) -> Result<Vec<Digest>, PullError> {
    let members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(raw).map_err(|error| PullError::Invalid(error.to_string()))?;
    if members.get("rootfs").is_none_or(serde_json::Value::is_null) {
        return Err(PullError::RootFs);
    }
    let config: ImageConfig = serde_json::from_slice(raw).map_err(|error| PullError::Invalid(error.to_string()))?;
    if !matches!(config.os.as_str(), "" | "linux") {
        return Err(PullError::OperatingSystem(config.os));
    }
    if config.rootfs.diff_ids.len() != layers {
        return Err(PullError::Mismatch);
    }
    Ok(config.rootfs.diff_ids)
}
