//! `docker push`: layers go out side by side, each only if the repository has none of its compressed forms, then the
//! configuration, then the manifest. What was pulled goes out under the digests it came by; what was made here is compressed
//! first.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use dockerd_registry::{
    BlobReader, BlobSource, Document, Manifest, Mounting, RegistryError, Repository, Target, UploadEvent, UploadRequest,
};
use dockerd_types::{Digest, ErrorKind, Kinded, Reference};
use serde::Serialize;
use tokio::io::AsyncSeekExt;
use tokio::sync::Semaphore;

use crate::distribution::LayerBlob;
use crate::error::ImageError;
use crate::intake::spool::{Spool, Writer};
use crate::lease::Lease;
use crate::pull::repository_name;
use crate::store::{Image, ImageStore, LayerRef};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Bytes moved at a time.
const CHUNK: usize = 256 * 1024;
/// Repositories of the same registry that are tried for a layer before it is sent.
const MOST_MOUNTS: usize = 4;

/// Why an image was not pushed; Docker's words.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry's answer.
    #[error("{}", .0.text_of_push())]
    Registry(#[from] RegistryError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] ImageError),
    /// No image of that repository.
    #[error("An image does not exist locally with the tag: {0}")]
    NoRepository(String),
    /// No image of that name.
    #[error("tag does not exist: {0}")]
    NoTag(String),
    /// Cannot be given a new tag.
    #[error("cannot push a digest reference")]
    ByDigest,
    /// A thread of ours.
    #[error("background work failed: {0}")]
    Panicked(#[from] tokio::task::JoinError),
    /// A document of ours.
    #[error("manifest cannot be written: {0}")]
    Manifest(#[from] serde_json::Error),
}

impl Kinded for PushError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Registry(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::NoRepository(_) | Self::NoTag(_) => ErrorKind::NotFound,
            Self::ByDigest => ErrorKind::InvalidArgument,
            Self::Panicked(_) | Self::Manifest(_) => ErrorKind::System,
        }
    }
}

/// What happens to a layer, named by its diffID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushStep {
    /// It will be looked at.
    Preparing,
    /// Others go first.
    Waiting,
    /// Bytes sent, of all.
    Pushing(u64, u64),
    /// The registry is asked again after so many seconds.
    Retrying(u64),
    /// It is there now.
    Pushed,
    /// It was there.
    Exists,
    /// Another repository, by its path, had it.
    Mounted(String),
    /// It is not for registries.
    Skipped,
}

/// Told of each step.
pub type PushProgress = Arc<dyn Fn(Digest, PushStep) + Send + Sync>;

/// What was pushed.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The image.
    pub image: Digest,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Bytes of its manifest.
    pub size: u64,
}

/// A descriptor as the stock daemon writes it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    size: u64,
    digest: Digest,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Schema2 {
    schema_version: u32,
    media_type: &'static str,
    config: Entry,
    layers: Vec<Entry>,
}

/// One push.
struct Push<'a> {
    store: &'a ImageStore,
    repository: &'a Repository,
    reference: &'a Reference,
    slots: &'a Arc<Semaphore>,
    progress: &'a PushProgress,
}

impl ImageStore {
    /// The references a push of `name` means: itself, or with `all` every tag of its repository.
    pub fn pushable(&self, name: &Reference, all: bool) -> Result<Vec<Reference>, PushError> {
        let repository = name.familiar_name();
        let index = self.index();
        let tags = index.references.keys().filter(|known| known.tag().is_some() && known.familiar_name() == repository);
        let tags: Vec<Reference> = tags.cloned().collect();
        if tags.is_empty() {
            return Err(PushError::NoRepository(repository));
        }
        if all {
            return Ok(tags);
        }
        let name = name.clone().with_default_tag();
        match tags.contains(&name) {
            true => Ok(vec![name]),
            false => Err(PushError::NoTag(name.familiar())),
        }
    }

    /// Pushes the image that `reference`, a tag, names. At most as many layers as `slots` has are sent at once, by all pushes
    /// together.
    pub async fn push(
        &self,
        repository: &Repository,
        reference: &Reference,
        slots: &Arc<Semaphore>,
        progress: &PushProgress,
    ) -> Result<Pushed, PushError> {
        let index = self.index();
        let image = index.references.get(reference).and_then(|id| index.images.get(id)).cloned();
        let image = image.ok_or_else(|| PushError::NoTag(reference.familiar()))?;
        // Nothing of it goes meanwhile; and what is noted of layers that have gone goes with this.
        let (store, held) = (self.clone(), image.clone());
        let lease = tokio::task::spawn_blocking(move || {
            let lease = Lease::new(&store);
            held.manifests.iter().for_each(|manifest| lease.cover(&manifest.digest));
            held.layers.iter().for_each(|layer| lease.cover_layer(layer));
            lease
        })
        .await?;
        let push = Push { store: self, repository, reference, slots, progress };
        let (media_type, bytes) = push.image(&image).await?;
        let tag = reference.tag().unwrap_or("latest");
        let digest = repository.put_manifest(Target::Tag(tag), &media_type, bytes.clone()).await?;
        let (store, id, name) = (self.clone(), image.id.clone(), reference.with_digest(digest.clone()));
        let named = move || {
            let _until_then = lease;
            store.name(&id, &name)
        };
        tokio::task::spawn_blocking(named).await??;
        Ok(Pushed { image: image.id.clone(), digest, size: bytes.len() as u64 })
    }
}

impl Push<'_> {
    /// Sends layers and configuration; the manifest that is left to be sent.
    async fn image(&self, image: &Image) -> Result<(String, Bytes), PushError> {
        for layer in image.layers.iter().rev() {
            (self.progress)(layer.diff_id.clone(), PushStep::Preparing);
        }
        let kept = self.kept_manifest(image);
        let wanted = kept.as_ref().map(|(_, layers)| layers.clone());
        // The same layer twice is sent once.
        let mut seen = BTreeSet::new();
        let sending = image.layers.iter().enumerate().rev().filter(|(_, layer)| seen.insert(layer.diff_id.clone()));
        let sending = sending.map(|(at, layer)| self.layer(layer, wanted.as_ref().map(|layers| layers[at].clone())));
        let sent = futures_util::future::try_join_all(sending).await?;
        self.config(image).await?;
        if let Some((manifest, _)) = kept {
            return Ok((manifest.media_type, manifest.bytes));
        }
        let entry = |layer: &LayerRef| sent.iter().find(|(diff_id, _)| *diff_id == layer.diff_id);
        let layers = image.layers.iter().filter_map(entry).map(|(_, blob)| Entry {
            media_type: blob.media_type.clone(),
            size: blob.size,
            digest: blob.digest.clone(),
        });
        let config =
            Entry { media_type: CONFIG.to_owned(), size: image.raw_config.len() as u64, digest: image.id.clone() };
        let manifest = Schema2 { schema_version: 2, media_type: MANIFEST, config, layers: layers.collect() };
        // Indented by three blanks, as the stock daemon does.
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
        manifest.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))?;
        Ok((MANIFEST.to_owned(), bytes.into()))
    }

    /// The manifest the image came by last, if all its layers can go out as they came, and these layers.
    fn kept_manifest(&self, image: &Image) -> Option<(Manifest, Vec<LayerBlob>)> {
        image.manifests.iter().rev().find_map(|known| {
            let mut bytes = Vec::new();
            self.store.content().get(&known.digest).ok()?.read_to_end(&mut bytes).ok()?;
            let media_type = known.media_type.clone();
            let manifest = Manifest { bytes: bytes.into(), media_type, digest: known.digest.clone() };
            let Ok(Document::Image(document)) = manifest.parse() else { return None };
            // A configuration by another algorithm is not kept under that name.
            if document.config.digest != image.id || document.layers.len() != image.layers.len() {
                return None;
            }
            let pairs = image.layers.iter().zip(document.layers);
            let layers = pairs.map(|(layer, entry)| {
                let forms = self.store.distribution().blobs(&layer.diff_id);
                let form = forms.into_iter().find(|form| form.digest == entry.digest)?;
                let here = is_foreign(&entry.media_type) || self.store.content().has(&form.digest);
                here.then_some(LayerBlob { media_type: entry.media_type, ..form })
            });
            Some((manifest, layers.collect::<Option<Vec<_>>>()?))
        })
    }

    /// Has one layer in the repository, as `wanted` where its form is not free.
    async fn layer(&self, layer: &LayerRef, wanted: Option<LayerBlob>) -> Result<(Digest, LayerBlob), PushError> {
        let told = |step| (self.progress)(layer.diff_id.clone(), step);
        if let Some(form) = wanted.as_ref().filter(|form| is_foreign(&form.media_type)) {
            told(PushStep::Skipped);
            return Ok((layer.diff_id.clone(), form.clone()));
        }
        let _slot = match self.slots.clone().try_acquire_owned() {
            Ok(slot) => Some(slot),
            Err(_) => {
                told(PushStep::Waiting);
                self.slots.clone().acquire_owned().await.ok()
            }
        };
        let forms = match wanted {
            Some(form) => vec![form],
            None => self.store.distribution().blobs(&layer.diff_id),
        };
        let forms = || forms.iter().rev().filter(|form| !is_foreign(&form.media_type));
        for form in forms() {
            if self.repository.blob_size(&form.digest).await? == Some(form.size) {
                told(PushStep::Exists);
                return self.noted(layer, form.clone());
            }
        }
        for form in forms() {
            for from in self.mountable(form) {
                match self.repository.mount(&form.digest, &from).await? {
                    Mounting::Mounted => {
                        told(PushStep::Mounted(from));
                        return self.noted(layer, form.clone());
                    }
                    Mounting::Absent => {
                        let seen = format!("{}/{from}", self.reference.domain());
                        self.store.distribution().forget_repository(&layer.diff_id, &form.digest, &seen)?;
                    }
                    Mounting::Refused => {}
                }
            }
        }
        let kept = forms().find(|form| self.store.content().has(&form.digest));
        let (form, source) = match kept {
            Some(form) => (form.clone(), Source::Content(self.store.content().path(&form.digest))),
            None => self.compressed(layer).await?,
        };
        if self.repository.blob_size(&form.digest).await? == Some(form.size) {
            told(PushStep::Exists);
            return self.noted(layer, form);
        }
        self.send(&form, source, &told).await?;
        told(PushStep::Pushed);
        self.noted(layer, form)
    }

    /// Paths of other repositories of this registry that were seen to have `form`.
    fn mountable(&self, form: &LayerBlob) -> Vec<String> {
        let own = self.reference.path();
        let registry = format!("{}/", self.reference.domain());
        let paths = form.repositories.iter().filter_map(|name| name.strip_prefix(&registry));
        paths.filter(|path| *path != own).take(MOST_MOUNTS).map(str::to_owned).collect()
    }

    fn noted(&self, layer: &LayerRef, mut form: LayerBlob) -> Result<(Digest, LayerBlob), PushError> {
        form.repositories.insert(repository_name(self.reference));
        self.store.distribution().record(&layer.diff_id, None, form.clone())?;
        Ok((layer.diff_id.clone(), form))
    }

    /// The layer compressed anew into a temporary file.
    async fn compressed(&self, layer: &LayerRef) -> Result<(LayerBlob, Source), PushError> {
        let (store, diff_id) = (self.store.clone(), layer.diff_id.clone());
        let packed = tokio::task::spawn_blocking(move || compress(&store, &diff_id)).await??;
        let (digest, spool) = packed;
        let form = LayerBlob { digest, size: spool.len(), media_type: LAYER.to_owned(), repositories: BTreeSet::new() };
        Ok((form, Source::File(spool)))
    }

    async fn send(&self, form: &LayerBlob, source: Source, told: &(impl Fn(PushStep) + Sync)) -> Result<(), PushError> {
        let request = UploadRequest { digest: &form.digest, size: form.size, source: &source };
        let mut events = |event: UploadEvent| match event {
            UploadEvent::Sent(bytes) => told(PushStep::Pushing(bytes, form.size)),
            UploadEvent::Retrying { seconds } => told(PushStep::Retrying(seconds)),
        };
        Ok(self.repository.upload(request, &mut events).await?)
    }

    async fn config(&self, image: &Image) -> Result<(), PushError> {
        let size = image.raw_config.len() as u64;
        if self.repository.blob_size(&image.id).await? == Some(size) {
            return Ok(());
        }
        let source = Source::Bytes(image.raw_config.clone());
        let request = UploadRequest { digest: &image.id, size, source: &source };
        Ok(self.repository.upload(request, &mut |_| ()).await?)
    }
}

/// Where the bytes of a blob are.
enum Source {
    Bytes(Bytes),
    /// A file of the content store.
    Content(PathBuf),
    /// A temporary file.
    File(Spool),
}

impl BlobSource for Source {
    fn open(&self, offset: u64) -> Pin<Box<dyn Future<Output = io::Result<BlobReader>> + Send + '_>> {
        Box::pin(async move {
            let path = match self {
                Self::Bytes(bytes) => {
                    let from = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
                    return Ok(Box::pin(io::Cursor::new(bytes.slice(from..))) as BlobReader);
                }
                Self::Content(path) => path,
                Self::File(spool) => spool.path(),
            };
            let mut file = tokio::fs::File::open(path).await?;
            file.seek(io::SeekFrom::Start(offset)).await?;
            Ok(Box::pin(file) as BlobReader)
        })
    }
}

/// A spool as what a compressor writes to.
struct Packed(Writer);

impl Write for Packed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Layers whose owner does not want them copied into registries.
fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
}

/// Compresses a layer as Go's `gzip` does by default; its digest and the file. Blocking.
fn compress(store: &ImageStore, diff_id: &Digest) -> Result<(Digest, Spool), ImageError> {
    let (writer, spool) = Spool::create(store.content().temporary())?;
    let fail = || ImageError::io("compress layer");
    let mut tar = store.open_tar(diff_id)?;
    let mut encoder = flate2::write::GzEncoder::new(Packed(writer), flate2::Compression::default());
    let mut buffer = vec![0; CHUNK];
    loop {
        match tar.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => encoder.write_all(&buffer[..length]).map_err(fail())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fail()(error)),
        }
    }
    let Packed(writer) = encoder.finish().map_err(fail())?;
    Ok((writer.finish().map_err(fail())?, spool))
}
