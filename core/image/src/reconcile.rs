//! What boot makes of what it finds: a daemon may have been killed at any instruction, and the machine may have lost
//! power. Layers and content that no image and no container refers to are of loads that never ended, and go. Layers that
//! may not have reached the disk before the kernel went down are checked by their tars and unpacked anew.

use std::collections::HashSet;

use dockerd_types::Digest;

use crate::error::ImageError;
use crate::store::{Image, ImageStore, LayerRef};

impl ImageStore {
    /// Sweeps and repairs. Nobody else uses the store yet.
    pub(crate) fn reconcile(&self) {
        let broken = self.check_unsettled();
        if !broken.is_empty() {
            self.drop_images(|image| image.layers.iter().any(|layer| broken.contains(&layer.diff_id)));
        }
        self.drop_images(|image| {
            let missing = image.layers.iter().enumerate().find(|(at, _)| !self.ensure_layer(image, *at));
            missing.is_some()
        });
        let needed = self.layers_in_use();
        for chain in self.snapshots().layers() {
            if !needed.contains(&chain)
                && let Err(error) = self.snapshots().remove_layer(&chain)
            {
                tracing::warn!(%chain, %error, "leftover layer could not be removed");
            }
        }
        let index = self.index();
        let layers = index.images.values().flat_map(|image| image.layers.iter().map(|layer| layer.diff_id.clone()));
        self.content().retain(&layers.chain(index.images.keys().cloned()).collect());
        self.settle_soon();
    }

    /// Layers an image or a snapshot lies upon.
    pub(crate) fn layers_in_use(&self) -> HashSet<Digest> {
        let index = self.index();
        let mut out: HashSet<Digest> =
            index.images.values().flat_map(|image| &image.layers).map(|layer| layer.chain_id.clone()).collect();
        for key in self.snapshots().keys() {
            if let Some(chain) = self.snapshots().snapshot_chain(&key)
                && !out.contains(&chain)
            {
                out.extend(self.snapshots().ancestry(&chain));
            }
        }
        out
    }

    /// DiffIDs whose content did not survive a power cut; layers of those that did are unpacked anew.
    fn check_unsettled(&self) -> HashSet<Digest> {
        let suspect: HashSet<Digest> =
            self.snapshots().unsettled().into_iter().filter(|(_, this_boot)| !this_boot).map(|(c, _)| c).collect();
        let (index, mut broken) = (self.index(), HashSet::new());
        for image in index.images.values() {
            for layer in image.layers.iter().filter(|layer| suspect.contains(&layer.chain_id)) {
                let file = self.content().get(&layer.diff_id).ok();
                let digest = file.and_then(|file| crate::content::digest_of(file).ok());
                if digest.as_ref() != Some(&layer.diff_id) {
                    tracing::error!(diff_id = %layer.diff_id, "content of a layer was lost with the power");
                    self.content().remove(&layer.diff_id);
                    broken.insert(layer.diff_id.clone());
                }
                // `ensure_layer` makes it anew.
                if let Err(error) = self.snapshots().remove_layer(&layer.chain_id) {
                    tracing::error!(%error, "layer could not be removed");
                }
            }
        }
        broken
    }

    /// Whether the layer is there, now at the latest.
    fn ensure_layer(&self, image: &Image, at: usize) -> bool {
        let LayerRef { diff_id, chain_id, .. } = &image.layers[at];
        if self.snapshots().has_layer(chain_id) {
            return true;
        }
        let parent = at.checked_sub(1).map(|below| &image.layers[below].chain_id);
        let made = self.restage(diff_id).and_then(|staged| self.snapshots().commit(staged.files, chain_id, parent));
        if let Err(error) = &made {
            tracing::error!(image = %image.id, layer = %chain_id, %error, "layer cannot be made anew");
        }
        made.is_ok()
    }

    fn drop_images(&self, is_lost: impl Fn(&Image) -> bool) {
        let index = self.index();
        let lost: Vec<Digest> = index.images.values().filter(|image| is_lost(image)).map(|i| i.id.clone()).collect();
        if lost.is_empty() {
            return;
        }
        let mut images = index.images.clone();
        for id in &lost {
            tracing::error!(image = %id, "image is incomplete and is removed");
            images.remove(id);
            if let Err(error) = std::fs::remove_file(self.document_path(id)) {
                tracing::error!(%error, "document of an incomplete image could not be removed");
            }
        }
        let mut references = index.references.clone();
        references.retain(|_, id| !lost.contains(id));
        let written: Result<(), ImageError> = self.write_references(&references);
        if let Err(error) = written {
            tracing::error!(%error, "references could not be written");
        }
        self.publish(images, references);
    }

    /// Brings layers and their content to disk in the background, all that wait at once.
    pub(crate) fn settle_soon(&self) {
        if self.snapshots().unsettled().is_empty() {
            return;
        }
        let store = self.clone();
        let settle = move || {
            let _one_at_a_time = store.settling();
            let waiting = store.snapshots().unsettled();
            if waiting.is_empty() {
                return;
            }
            let synced = std::fs::File::open(store.content().temporary())
                .and_then(|directory| Ok(rustix::fs::syncfs(directory)?));
            match synced {
                Ok(()) => waiting.iter().for_each(|(chain, _)| store.snapshots().settle(chain)),
                Err(error) => tracing::warn!(%error, "layers could not be flushed"),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("settle".to_owned()).spawn(settle) {
            tracing::warn!(%error, "layers are not flushed");
        }
    }
}
