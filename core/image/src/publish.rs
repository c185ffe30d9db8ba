//! From staged layers to visible ones, and from layers to images. A layer is published when its digest is verified; an
//! image when all its layers are. What no image takes in the end goes with the lease.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use dockerd_store::{Durability, document};
use dockerd_types::{Digest, Reference, Timestamp};

use crate::content::ContentStore;
use crate::document::ImageDocument;
use crate::error::ImageError;
use crate::intake::hashing::Hashing;
use crate::intake::spool::Spool;
use crate::intake::stage::{Compressed, StagedLayer, stage_stream};
use crate::lease::Lease;
use crate::snapshot::{LayerTar, SnapshotDriver};
use crate::store::{
    Image, ImageIndex, ImageStore, LayerRef, ManifestRef, chain_id, document_of, image_of, layer_document,
    manifest_document,
};

/// Bytes of a kept layer that are read and hashed at a time.
const PIECE: usize = 256 * 1024;
/// Manifests remembered of one image.
const MOST_MANIFESTS: usize = 16;

/// An image whose layers are there.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) raw_config: Bytes,
    pub(crate) layers: Vec<LayerRef>,
    pub(crate) references: Vec<Reference>,
    pub(crate) parent: Option<Digest>,
    /// Whether its names count as given now (`LastTagTime`), as they do for all but a load and a pull.
    pub(crate) tagged: bool,
    /// The manifests it came by, with their bytes; the one of the image itself at the end.
    pub(crate) manifests: Vec<(ManifestRef, Bytes)>,
}

impl ImageStore {
    /// Makes a layer of the plain tar `reader`, whatever its digest.
    pub(crate) fn new_layer(
        &self,
        lease: &Lease,
        parent: Option<&LayerRef>,
        reader: &mut (dyn Read + Send),
    ) -> Result<LayerRef, ImageError> {
        let staged = stage_stream(reader, &**self.snapshots(), self.content().temporary())?;
        let diff_id = staged.diff_id.clone().ok_or_else(|| ImageError::Archive("layer without a digest".to_owned()))?;
        self.publish_layer(lease, parent, &diff_id, || Ok(staged))
    }

    /// The layer `diff_id` above `parent`: as it is where it is there already, else what `stage` brings, whose digest
    /// must have been verified. Two who want the same layer at once get one.
    pub(crate) fn publish_layer(
        &self,
        lease: &Lease,
        parent: Option<&LayerRef>,
        diff_id: &Digest,
        stage: impl FnOnce() -> Result<StagedLayer, ImageError>,
    ) -> Result<LayerRef, ImageError> {
        self.publish_in(self.snapshots(), lease, parent, diff_id, stage)
    }

    /// As [`publish_layer`](Self::publish_layer), as a layer of `driver`.
    fn publish_in(
        &self,
        driver: &Arc<dyn SnapshotDriver>,
        lease: &Lease,
        parent: Option<&LayerRef>,
        diff_id: &Digest,
        stage: impl FnOnce() -> Result<StagedLayer, ImageError>,
    ) -> Result<LayerRef, ImageError> {
        let parent = parent.map(|parent| &parent.chain_id);
        let chain_id = chain_id(parent, diff_id);
        let _turn = self.turns().take(&chain_id);
        lease.cover(&chain_id);
        lease.cover(diff_id);
        let waits = driver.lazy().filter(|lazy| lazy.blob_of(&chain_id).is_some());
        let size = match driver.layer_size(&chain_id) {
            Some(size) if waits.is_none() && driver.has_layer(&chain_id) && self.has_tar(diff_id) => size,
            _ => {
                let _turn = (chain_id != *diff_id).then(|| self.turns().take(diff_id));
                let StagedLayer { tar, files, compressed, .. } = stage()?;
                let size = files.size;
                self.keep_content(diff_id, tar.as_ref(), compressed, driver.reads_tars())?;
                match waits {
                    Some(lazy) => lazy.fill(files, &chain_id)?,
                    None => driver.commit(files, &chain_id, parent)?,
                }
                size
            }
        };
        Ok(LayerRef { diff_id: diff_id.clone(), chain_id, size })
    }

    /// Keeps what came of the layer `diff_id`, whose digest was verified: its compressed form, and the plain tar where there is no
    /// other or a driver `reads_tar`.
    pub(crate) fn keep_content(
        &self,
        diff_id: &Digest,
        tar: Option<&Spool>,
        compressed: Option<Compressed>,
        reads_tar: bool,
    ) -> Result<(), ImageError> {
        let mut kept = self.kept_blob(diff_id).is_some();
        if let Some(Compressed { received, form }) = compressed {
            self.content().adopt(&received, &form.digest)?;
            kept = form.digest != *diff_id;
            self.distribution().record(diff_id, tar.map(Spool::len), form)?;
        }
        if let Some(tar) = tar.filter(|_| !kept || reads_tar) {
            self.content().adopt(tar, diff_id)?;
        }
        Ok(())
    }

    /// Stages a layer anew from the content store.
    pub(crate) fn restage(&self, diff_id: &Digest) -> Result<StagedLayer, ImageError> {
        self.restage_in(self.snapshots(), diff_id)
    }

    fn restage_in(&self, driver: &Arc<dyn SnapshotDriver>, diff_id: &Digest) -> Result<StagedLayer, ImageError> {
        let (found, tar, files) = if self.content().has(diff_id) {
            let mut reader = Hashing::new(BufReader::with_capacity(PIECE, self.content().get(diff_id)?));
            let file = self.content().path(diff_id);
            let files = driver.stage(&mut LayerTar { reader: &mut reader, file: &file })?;
            (Some(reader.finish().map_err(ImageError::io("read layer"))?), None, files)
        } else {
            let staged = stage_stream(&mut *self.open_tar(diff_id)?, &**driver, self.content().temporary())?;
            (staged.diff_id, staged.tar, staged.files)
        };
        let found = found.unwrap_or_else(|| diff_id.clone());
        if found != *diff_id {
            return Err(ImageError::WrongDigest { what: "layer".to_owned(), expected: diff_id.clone(), found });
        }
        Ok(StagedLayer { diff_id: Some(found), tar, files, compressed: None })
    }

    /// Makes the layers `chain` lies upon anew where the chosen driver lacks them, as it does after the choice changed.
    pub(crate) fn ensure_layers(&self, chain: &Digest) -> Result<(), ImageError> {
        if self.snapshots().has_layer(chain) {
            return Ok(());
        }
        tracing::info!(%chain, driver = self.snapshots().name(), "layers are made anew for the storage driver");
        self.make_missing_layers(self.snapshots(), chain)
    }

    /// Makes those layers `chain` consists of anew that `driver` lacks.
    pub(crate) fn make_missing_layers(
        &self,
        driver: &Arc<dyn SnapshotDriver>,
        chain: &Digest,
    ) -> Result<(), ImageError> {
        let index = self.index();
        let mut stacks = index.images.values().filter_map(|image| {
            let at = image.layers.iter().position(|layer| layer.chain_id == *chain)?;
            Some(&image.layers[..=at])
        });
        let layers = stacks.next().ok_or_else(|| ImageError::NotFound(chain.to_string()))?;
        let lease = Lease::new(self);
        let mut below: Option<&LayerRef> = None;
        for layer in layers {
            if !self.has_tar(&layer.diff_id)
                && let Some(pending) = self.lazies().of_layer(&layer.diff_id)
            {
                self.lazies().wait(&pending)?;
            }
            self.publish_in(driver, &lease, below, &layer.diff_id, || self.restage_in(driver, &layer.diff_id))?;
            below = Some(layer);
        }
        self.settle_soon();
        Ok(())
    }

    /// Makes the writable snapshot `key` above layer `chain` ([`SnapshotDriver::prepare`](crate::snapshot::SnapshotDriver)).
    pub fn prepare(&self, key: &str, chain: Option<&Digest>) -> Result<Option<OwnedFd>, ImageError> {
        chain.map_or(Ok(()), |chain| self.ensure_layers(chain))?;
        self.snapshots().prepare(key, chain)
    }

    /// Adds images and their names, all at once. On disk when this returns; their layers soon after. Where that fails, nothing
    /// of it stays.
    pub(crate) fn add_images(&self, new: Vec<NewImage>) -> Result<Vec<Arc<Image>>, ImageError> {
        // What no image refers to in the end goes with it.
        let lease = Lease::new(self);
        let mut ids = Vec::new();
        for image in &new {
            let manifests = image.manifests.iter().map(|(_, bytes)| bytes);
            for bytes in manifests.chain([&image.raw_config]) {
                lease.cover(&ContentStore::name(bytes));
                self.content().put(bytes)?;
            }
            ids.push(ContentStore::name(&image.raw_config));
        }
        {
            let _changes = self.lock();
            let index = self.index();
            let (mut images, mut names) = (index.images.clone(), index.references.clone());
            let added = new.into_iter().zip(&ids);
            let added = added.map(|(image, id)| self.add_one(image, id, &mut images, &mut names));
            let written = added
                .collect::<Result<(), _>>()
                .and_then(|()| if names == index.references { Ok(()) } else { self.write_references(&names) });
            if let Err(error) = written {
                self.take_back(&ids, &index);
                return Err(error);
            }
            self.publish(images, names);
        }
        self.settle_soon();
        let index = self.index();
        let found = ids
            .into_iter()
            .map(|id| index.images.get(&id).cloned().ok_or_else(|| ImageError::NotFound(id.to_string())));
        found.collect()
    }

    /// Brings documents back to what `index` says of the images `ids`: a failed write may have left the new ones, which the
    /// next daemon would read.
    fn take_back(&self, ids: &[Digest], index: &ImageIndex) {
        for id in ids {
            let path = self.document_path(id);
            let result = match index.images.get(id) {
                Some(image) => document::write(&path, &document_of(image), Durability::Disk).map_err(ImageError::from),
                None => match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(ImageError::io("remove document")(error))
                    }
                    _ => Ok(()),
                },
            };
            if let Err(error) = result {
                tracing::error!(image = %id, %error, "an image that was not added stays on disk");
            }
        }
        if let Err(error) = self.write_references(&index.references) {
            tracing::error!(%error, "references could not be written");
        }
    }

    fn add_one(
        &self,
        new: NewImage,
        id: &Digest,
        images: &mut std::collections::HashMap<Digest, Arc<Image>>,
        names: &mut BTreeMap<Reference, Digest>,
    ) -> Result<(), ImageError> {
        let NewImage { raw_config, layers, references, parent, tagged, manifests: new_manifests } = new;
        let now = Timestamp::now();
        let known = images.get(id);
        let tagged = (tagged && !references.is_empty()).then_some(now);
        let mut manifests = known.map_or_else(Vec::new, |image| image.manifests.clone());
        let before = manifests.len();
        for (manifest, _) in new_manifests {
            if !manifests.contains(&manifest) {
                manifests.push(manifest);
            }
        }
        if known.is_none() || tagged.is_some() || manifests.len() > before {
            while manifests.len() > MOST_MANIFESTS {
                manifests.remove(0);
            }
            let stored = ImageDocument {
                id: id.clone(),
                layers: layers.iter().map(layer_document).collect(),
                arrived: known.map_or(now, |image| image.arrived),
                parent: known.and_then(|image| image.parent.clone()).or(parent),
                last_tagged: tagged.or_else(|| known.and_then(|image| image.last_tagged)),
                manifests: manifests.iter().map(manifest_document).collect(),
            };
            document::write(&self.document_path(id), &stored, Durability::Disk)?;
            let references = known.map(|image| image.references.clone()).unwrap_or_default();
            images.insert(id.clone(), Arc::new(Image { references, ..image_of(stored, raw_config)? }));
        }
        for reference in references {
            names.insert(reference.with_default_tag(), id.clone());
        }
        Ok(())
    }
}
