//! What boot makes of what it finds: a daemon may have been killed at any instruction, and the machine may have lost
//! power. Layers and content that no image and no container refers to are of loads that never ended, and go. Layers that
//! may not have reached the disk before the kernel went down are checked by their tars and unpacked anew.

use std::collections::HashSet;
use std::sync::Arc;

use dockerd_types::Digest;

use crate::error::ImageError;
use crate::snapshot::SnapshotDriver;
use crate::store::{Image, ImageStore, LayerRef};

impl ImageStore {
    /// Sweeps and repairs. Nobody else uses the store yet.
    pub(crate) fn reconcile(&self) {
        let broken = self.check_unsettled();
        if !broken.is_empty() {
            self.drop_images(|image| image.layers.iter().any(|layer| broken.contains(&layer.diff_id)));
        }
        self.drop_images(|image| {
            let made = |layer: &LayerRef| {
                // Another driver may have been chosen since: then it is made when it is needed.
                self.snapshots().has_layer(&layer.chain_id)
                    || self.has_tar(&layer.diff_id)
                    || self.lazies().of_layer(&layer.diff_id).is_some()
            };
            !image.layers.iter().all(made)
        });
        self.drivers().former().chain([self.snapshots()]).for_each(|driver| self.mend_snapshots(driver));
        sweep_layers(self.snapshots(), &self.layers_in_use());
        self.drivers().former().for_each(|driver| self.sweep_former(driver));
        let wanted = self.content_in_use();
        self.content().retain(&wanted);
        for diff_id in self.distribution().layers().iter().filter(|diff_id| !wanted.contains(diff_id)) {
            self.distribution().forget(diff_id);
        }
        self.settle_soon();
    }

    /// Layers an image or a snapshot lies upon.
    pub(crate) fn layers_in_use(&self) -> HashSet<Digest> {
        let index = self.index();
        let mut out: HashSet<Digest> =
            index.images.values().flat_map(|image| &image.layers).map(|layer| layer.chain_id.clone()).collect();
        add_layers_of_snapshots(self.snapshots(), &mut out);
        out
    }

    /// Takes layers from a driver that is no longer chosen, but those its containers lie upon.
    pub(crate) fn sweep_former(&self, driver: &Arc<dyn SnapshotDriver>) {
        let mut needed = HashSet::new();
        add_layers_of_snapshots(driver, &mut needed);
        sweep_layers(driver, &needed);
    }

    /// DiffIDs whose content did not survive a power cut; layers of those that did are unpacked anew.
    fn check_unsettled(&self) -> HashSet<Digest> {
        let index = self.index();
        let mut broken = HashSet::new();
        // A layer of a driver that is no longer chosen may be below a container, and its content of use to the chosen one.
        for driver in self.drivers().former().chain([self.snapshots()]) {
            let unsettled = driver.unsettled().into_iter();
            let suspect: HashSet<Digest> = unsettled.filter(|(_, this_boot)| !this_boot).map(|(c, _)| c).collect();
            for image in index.images.values() {
                for layer in image.layers.iter().filter(|layer| suspect.contains(&layer.chain_id)) {
                    if !self.check_tar(&layer.diff_id) {
                        tracing::error!(diff_id = %layer.diff_id, "content of a layer was lost with the power");
                        broken.insert(layer.diff_id.clone());
                    }
                    // It is made anew below, or when it is needed.
                    if let Err(error) = driver.remove_layer(&layer.chain_id) {
                        tracing::error!(%error, "layer could not be removed");
                    }
                }
            }
        }
        broken
    }

    /// Removes what is torn of a layer's content; whether its tar can still be had.
    fn check_tar(&self, diff_id: &Digest) -> bool {
        let intact = |digest: &Digest| {
            let file = self.content().get(digest).ok();
            file.and_then(|file| crate::content::digest_of(file, digest).ok()).as_ref() == Some(digest)
        };
        let forms = self.distribution().blobs(diff_id).into_iter().map(|blob| blob.digest).chain([diff_id.clone()]);
        for digest in forms.filter(|digest| self.content().has(digest) && !intact(digest)) {
            self.content().remove(&digest);
        }
        self.has_tar(diff_id)
    }

    /// Makes anew what was lost below existing snapshots.
    fn mend_snapshots(&self, driver: &Arc<dyn SnapshotDriver>) {
        let chains: HashSet<Digest> = driver.keys().iter().filter_map(|key| driver.snapshot_chain(key)).collect();
        for chain in chains {
            if driver.ancestry(&chain).iter().all(|layer| driver.has_layer(layer)) {
                continue;
            }
            if let Err(error) = self.make_missing_layers(driver, &chain) {
                tracing::error!(layer = %chain, %error, "layers of a container cannot be made anew");
            }
        }
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
            let index = store.index();
            let tops: HashSet<&Digest> = index.images.values().filter_map(|image| image.chain()).collect();
            waiting
                .iter()
                .filter(|(chain, _)| tops.contains(chain))
                .for_each(|(chain, _)| store.snapshots().warm(chain));
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

/// Adds the layers that snapshots of `driver` lie upon.
fn add_layers_of_snapshots(driver: &Arc<dyn SnapshotDriver>, out: &mut HashSet<Digest>) {
    for key in driver.keys() {
        if let Some(chain) = driver.snapshot_chain(&key)
            && !out.contains(&chain)
        {
            out.extend(driver.ancestry(&chain));
        }
    }
}

fn sweep_layers(driver: &Arc<dyn SnapshotDriver>, needed: &HashSet<Digest>) {
    for chain in driver.layers().into_iter().filter(|chain| !needed.contains(chain)) {
        if let Err(error) = driver.remove_layer(&chain) {
            tracing::warn!(%chain, %error, "leftover layer could not be removed");
        }
    }
}
