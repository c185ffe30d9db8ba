//! From a layer that waits for its bytes to an ordinary one, and what the engine does with those that wait.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use dockerd_registry::Repository;
use dockerd_types::{Digest, Reference};

use super::blob::FetchError;
use super::{DescriptorKeeper, FetchState, Held, PendingLayer};
use crate::content::digest_of;
use crate::decompress;
use crate::distribution::LayerBlob;
use crate::erofs;
use crate::error::ImageError;
use crate::intake::spool::Spool;
use crate::intake::stage::{Compressed, StagedLayer, stage_stream};
use crate::lease::Lease;
use crate::pull::repository_name;
use crate::snapshot::LayerTar;
use crate::store::{Image, ImageStore, LayerRef};

/// How long the rest of a layer is left alone after it could not be fetched.
const PAUSE: Duration = Duration::from_secs(60);

/// Why a fetched layer is not taken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Other bytes than the manifest says: those of a torn file, or a registry's that lies.
    #[error("filesystem layer verification failed for digest {0}")]
    Blob(Digest),
    #[error(transparent)]
    Store(#[from] ImageError),
}

/// A layer that waits for its bytes.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its compressed form.
    pub blob: Digest,
    /// Its plain tar, as its image says.
    pub diff_id: Digest,
    /// Where that is.
    pub reference: Reference,
}

impl ImageStore {
    /// Whether layers can be used before they are here; to be asked before the first such pull. Errors: why not.
    pub fn enable_lazy_pull(&self) -> Result<(), ImageError> {
        if self.snapshots().lazy().is_none() {
            let name = self.snapshots().name();
            return Err(ImageError::InvalidArgument(format!("lazy-pull needs the storage driver erofs, not {name}")));
        }
        self.lazies().enable().map_err(ImageError::io("serve layers that are not here yet"))
    }

    /// Goes on with the sessions `kept` of a daemon before; those of later ones are kept by `keeper`. Once, at the start.
    pub fn adopt_sessions(&self, keeper: Arc<dyn DescriptorKeeper>, kept: Vec<(String, OwnedFd)>) {
        self.lazies().set_keeper(keeper);
        self.lazies().adopt(kept);
    }

    /// Layers that wait for their bytes.
    pub fn waiting_layers(&self) -> Vec<Waiting> {
        let all = self.lazies().all().into_iter().filter(|layer| !layer.chains().is_empty());
        let waiting = |layer: Arc<PendingLayer>| Waiting {
            blob: layer.blob_digest().clone(),
            diff_id: layer.diff_id().clone(),
            reference: layer.reference().clone(),
        };
        all.map(waiting).collect()
    }

    /// Fetches the layer of `blob`, one of [`waiting_layers`](Self::waiting_layers), from `repository` from now on.
    pub fn resume_lazy(&self, blob: &Digest, repository: &Repository) {
        if let Some(held) = self.lazies().hold(blob) {
            self.fetch_rest(&held, repository);
        }
    }

    /// Serves no readers any more; the next daemon does. For a daemon that ends in order.
    pub fn leave_sessions(&self) {
        self.lazies().leave();
    }

    /// Waits until all layers of `image` are ordinary ones.
    pub async fn whole(&self, image: &Image) -> Result<(), ImageError> {
        for layer in image.layers.iter().filter_map(|layer| self.lazies().of_layer(&layer.diff_id)) {
            layer.whole().await.map_err(|error| ImageError::Incomplete(layer.diff_id().clone(), error.to_string()))?;
        }
        Ok(())
    }

    /// Finds the layers of drivers that wait for their bytes. What they wait for may have gone: then so do they.
    pub(crate) fn find_lazy_layers(&self) {
        for driver in self.drivers().all() {
            let Some(lazy) = driver.lazy() else { continue };
            for chain in driver.layers() {
                let Some(blob) = lazy.blob_of(&chain) else { continue };
                if self.lazies().chain_added(&blob, &chain) {
                    continue;
                }
                tracing::error!(%chain, "a layer waits for bytes that nobody fetches, and is removed");
                if let Err(error) = driver.remove_layer(&chain) {
                    tracing::error!(%error, "layer could not be removed");
                }
            }
        }
    }

    /// Makes the layer `held` is about above `parent`: its files are seen at once, its bytes come later. Blocking.
    pub(crate) fn publish_lazy(
        &self,
        lease: &Lease,
        parent: Option<&LayerRef>,
        held: &Held,
    ) -> Result<LayerRef, ImageError> {
        let diff_id = held.layer.diff_id().clone();
        let parent = parent.map(|parent| &parent.chain_id);
        let chain_id = crate::store::chain_id(parent, &diff_id);
        let _turn = self.turns().take(&chain_id);
        lease.cover(&chain_id);
        lease.cover(&diff_id);
        let size = match self.snapshots().layer_size(&chain_id) {
            Some(size) if self.snapshots().has_layer(&chain_id) => size,
            _ => {
                let lazy = self.snapshots().lazy().ok_or(ImageError::LayersMismatch)?;
                let table = held.layer.table()?;
                let staged = lazy.stage(held.layer.blob_digest(), &table.tree, table.files_size)?;
                self.snapshots().commit(staged, &chain_id, parent)?;
                self.lazies().chain_added(held.layer.blob_digest(), &chain_id);
                // Its files were flushed one by one.
                self.snapshots().settle(&chain_id);
                table.files_size
            }
        };
        Ok(LayerRef { diff_id, chain_id, size })
    }

    /// Fetches what is missing of a layer in the background; whoever reads goes first.
    pub(crate) fn fetch_rest(&self, held: &Held, repository: &Repository) {
        let layer = &held.layer;
        layer.blob.set_source(Arc::new(repository.clone()));
        if layer.is_running() && matches!(*layer.state.borrow(), FetchState::Running) {
            return;
        }
        layer.state.send_replace(FetchState::Running);
        let (store, fetched, attempts) = (self.clone(), layer.clone(), repository.attempts());
        let task = tokio::spawn(async move {
            // The layer may go as soon as it is told that it is whole, not before.
            let _held = loop {
                let error = match store.bring_whole(&fetched, attempts).await {
                    Ok(held) => break held,
                    Err(error) => error,
                };
                let blob = fetched.blob_digest();
                tracing::error!(%blob, %error, "the rest of a layer cannot be fetched");
                fetched.state.send_replace(FetchState::Failed(error.to_string().into()));
                if !error.may_pass() {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
                fetched.state.send_replace(FetchState::Running);
            };
            fetched.state.send_replace(FetchState::Whole);
            store.lazies().ended(&fetched);
        });
        layer.set_task(task.abort_handle());
    }

    async fn bring_whole(&self, layer: &Arc<PendingLayer>, attempts: u32) -> Result<Held, FetchError> {
        let mut again = true;
        loop {
            layer.blob.fill(attempts).await?;
            let (store, fetched) = (self.clone(), layer.clone());
            let held = self.lazies().hold(layer.blob_digest()).ok_or(FetchError::Gone)?;
            let completed = tokio::task::spawn_blocking(move || store.complete(&fetched).map(|()| held));
            match completed.await.map_err(std::io::Error::other)? {
                Ok(held) => return Ok(held),
                // Torn by a daemon that was killed, or by a power cut; another time it is the registry.
                Err(Refusal::Blob(_)) if again => {
                    layer.blob.forget(0..layer.size());
                    again = false;
                }
                Err(error) => return Err(FetchError::Invalid(error.to_string())),
            }
        }
    }

    /// Verifies a layer all of whose bytes are here, and makes it an ordinary one. Blocking.
    fn complete(&self, layer: &PendingLayer) -> Result<(), Refusal> {
        let (blob, diff_id) = (layer.blob_digest(), layer.diff_id());
        let lease = Lease::new(self);
        layer.chains().iter().chain([blob, diff_id]).for_each(|digest| lease.cover(digest));
        let path = layer.blob_path();
        let open = || File::open(&path).map_err(ImageError::io("read a layer that was fetched"));
        let (found, staged) = std::thread::scope(|scope| {
            let hashing =
                scope.spawn(|| digest_of(open()?, blob).map_err(ImageError::io("read a layer that was fetched")));
            let staged = open().and_then(|file| {
                stage_stream(&mut *decompress::plain(file)?, &**self.snapshots(), self.content().temporary())
            });
            (hashing.join(), staged)
        });
        let found = found.map_err(|_| ImageError::Archive("hashing panicked".to_owned()))??;
        if found != *blob {
            return Err(Refusal::Blob(blob.clone()));
        }
        let StagedLayer { diff_id: found, tar, files, .. } = staged?;
        if found.as_ref() != Some(diff_id) {
            return Err(ImageError::LayersMismatch.into());
        }
        let tar = tar.ok_or_else(|| ImageError::Archive("a layer without a tar".to_owned()))?;
        if let Err(error) = self.compare(layer, &tar) {
            // The image's own digest decides.
            tracing::error!(%blob, %error, "the table of contents of a layer is not that of its files; containers that were \
                started meanwhile have seen what it says");
        }
        let form = LayerBlob {
            digest: blob.clone(),
            size: layer.size(),
            media_type: layer.document.media_type.clone(),
            repositories: BTreeSet::from([repository_name(layer.reference())]),
        };
        self.keep_content(
            diff_id,
            Some(&tar),
            Some(Compressed { received: Spool::whole(&path)?, form }),
            self.snapshots().reads_tars(),
        )?;
        let mut files = Some(files);
        for driver in self.drivers().all() {
            let Some(lazy) = driver.lazy() else { continue };
            let chosen = driver.name() == self.snapshots().name();
            for chain in layer.chains() {
                let _turn = self.turns().take(&chain);
                if lazy.blob_of(&chain).as_ref() != Some(blob) {
                    continue;
                }
                let staged = match files.take_if(|_| chosen) {
                    Some(files) => files,
                    None => driver.stage(&mut LayerTar { reader: &mut tar.reader()?, file: tar.path() })?,
                };
                lazy.fill(staged, &chain)?;
            }
        }
        self.settle_soon();
        Ok(())
    }

    /// Whether containers saw the files that the layer has.
    fn compare(&self, layer: &PendingLayer, tar: &Spool) -> Result<(), ImageError> {
        let broken = |error: crate::toc::Mismatch| ImageError::Archive(error.to_string());
        let (table, scanned) = (layer.table()?, erofs::scan(tar.reader()?, erofs::NO_TAG)?);
        table.same_tree(&scanned.tree).map_err(broken)?;
        let file = File::open(tar.path()).map_err(ImageError::io("read layer"))?;
        table.check_contents(&scanned.tree, &file).map_err(broken)
    }
}
