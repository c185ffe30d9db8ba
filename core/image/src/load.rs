//! `docker load`: docker-archive (`manifest.json`) and OCI layout (`index.json`) tars. First everything is received, with
//! layers staged meanwhile (`load/receive.rs`); then the documents say what the images are (`load/plan.rs`); then layers
//! are verified and published; and last, if all is well, the images appear.

mod plan;
mod receive;

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use dockerd_types::{Digest, Reference};

use crate::error::ImageError;
use crate::lease::Lease;
use crate::publish::NewImage;
use crate::store::{Image, ImageStore, LayerRef};
use plan::{Planned, PlannedLayer};
use receive::{Arrivals, Body};

pub use plan::Platform;

/// An image that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// It.
    pub image: Arc<Image>,
    /// The names it was given; empty for an image without one.
    pub references: Vec<Reference>,
    /// Names that were another image's before.
    pub moved: Vec<(Reference, Digest)>,
}

/// What a load is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadProgress {
    /// A layer that was not there is being unpacked.
    Layer {
        /// Its diffID.
        diff_id: Digest,
        /// Bytes done.
        current: u64,
        /// Bytes in the archive.
        total: u64,
    },
}

impl ImageStore {
    /// Loads every image of the archive `reader`, compressed or not, or of its images those for `platform`. An archive that
    /// is wrong adds no image, and nothing of it stays.
    pub fn load(
        &self,
        reader: impl Read + Send,
        platform: Option<&Platform>,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Vec<Loaded>, ImageError> {
        let lease = Lease::new(self);
        let arrivals = Arrivals::receive(self, &lease, reader)?;
        let mut new = Vec::new();
        for planned in plan::images(&arrivals, platform)? {
            new.push(self.assemble(&lease, &arrivals, planned, progress)?);
        }
        let references: Vec<Vec<Reference>> = new.iter().map(|image| image.references.clone()).collect();
        let mut before = self.index().references.clone();
        let images = self.add_images(new)?;
        let loaded = images.into_iter().zip(references).map(|(image, references)| {
            let mut moved = Vec::new();
            for reference in references.iter().map(|reference| reference.clone().with_default_tag()) {
                let old = before.insert(reference.clone(), image.id.clone());
                moved.extend(old.filter(|old| *old != image.id).map(|old| (reference, old)));
            }
            Loaded { image, references, moved }
        });
        Ok(loaded.collect())
    }

    fn assemble(
        &self,
        lease: &Lease,
        arrivals: &Arrivals,
        planned: Planned,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<NewImage, ImageError> {
        let Planned { raw_config, layers: files, references } = planned;
        let mut layers: Vec<LayerRef> = Vec::new();
        for (number, layer) in files.iter().enumerate() {
            let made = self.load_layer(lease, arrivals, layers.last(), (number, layer), progress)?;
            layers.push(made);
        }
        Ok(NewImage {
            raw_config: Bytes::from(raw_config),
            layers,
            references,
            parent: None,
            tagged: false,
            manifests: Vec::new(),
        })
    }

    fn load_layer(
        &self,
        lease: &Lease,
        arrivals: &Arrivals,
        parent: Option<&LayerRef>,
        (number, layer): (usize, &PlannedLayer),
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<LayerRef, ImageError> {
        let PlannedLayer { file, diff_id, digest } = layer;
        let body = arrivals.body(file)?;
        let raw = body.digest();
        if let Some(expected) = digest.as_ref().filter(|expected| **expected != raw) {
            return Err(ImageError::WrongDigest { what: file.clone(), expected: expected.clone(), found: raw });
        }
        let wrong = |found: &Digest| {
            let text =
                format!("invalid diffID for layer {number}: expected {:?}, got {:?}", diff_id.as_str(), found.as_str());
            ImageError::Archive(text)
        };
        if body.is_plain() && raw != *diff_id {
            return Err(wrong(&raw));
        }
        self.publish_layer(lease, parent, diff_id, || {
            let total = body.len();
            let mut report = |current| progress(LoadProgress::Layer { diff_id: diff_id.clone(), current, total });
            report(0);
            let staged = match body {
                Body::Known(_) => self.restage(diff_id)?,
                _ => body.staged(self, &mut report)?,
            };
            let found = staged.diff_id.as_ref().unwrap_or(&raw);
            if found != diff_id {
                return Err(wrong(found));
            }
            report(total);
            Ok(staged)
        })
    }
}
