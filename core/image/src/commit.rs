//! `docker commit`: an image of a snapshot, which is what the snapshot lies upon and what was changed in it.

use std::sync::Arc;

use dockerd_types::container::ContainerConfig;
use dockerd_types::{Digest, Reference, Timestamp};

use crate::config::{History, ImageConfig, RunConfig};
use crate::error::ImageError;
use crate::intake::stage::stage_with;
use crate::lease::Lease;
use crate::publish::NewImage;
use crate::store::{Image, ImageStore};

/// Digest of the tar that has no entry: what nothing was changed in gets no layer.
const EMPTY_TAR: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// What to make of a snapshot.
#[derive(Debug, Clone)]
pub struct CommitOptions {
    /// The image it lies upon.
    pub parent: Digest,
    /// The container, for the record.
    pub container: String,
    /// Its configuration.
    pub container_config: ContainerConfig,
    /// The image's.
    pub config: ContainerConfig,
    /// The image's name.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// Why.
    pub comment: String,
    /// This engine's version.
    pub engine_version: String,
}

impl ImageStore {
    /// Makes an image of the snapshot `key`.
    pub fn commit(&self, key: &str, options: &CommitOptions) -> Result<Arc<Image>, ImageError> {
        let lease = Lease::new(self);
        let parent = self.resolve(options.parent.as_str())?;
        parent.layers.iter().for_each(|layer| lease.cover_layer(layer));
        if let Some(chain) = parent.chain() {
            // The container may be another driver's.
            self.ensure_layers(chain)?;
        }
        let write = |out: &mut dyn std::io::Write| self.snapshots_of(key).write_layer(key, out);
        let staged = stage_with(write, &**self.snapshots(), self.content().temporary())?;
        let diff_id = staged.diff_id.clone().ok_or_else(|| ImageError::Archive("layer without a digest".to_owned()))?;
        let mut layers = parent.layers.clone();
        let empty = diff_id.as_str() == EMPTY_TAR;
        if !empty {
            layers.push(self.publish_layer(&lease, parent.layers.last(), &diff_id, || Ok(staged))?);
        }
        let created = Timestamp::now().rfc3339_nano();
        let mut history = parent.config.history.clone();
        history.push(History {
            created: Some(created.clone()),
            created_by: options.container_config.cmd.clone().unwrap_or_default().join(" "),
            author: options.author.clone(),
            comment: options.comment.clone(),
            empty_layer: empty,
        });
        let mut rootfs = parent.config.rootfs.clone();
        rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let config = ImageConfig {
            author: options.author.clone(),
            comment: options.comment.clone(),
            config: Some(RunConfig::of(&options.config)),
            container: options.container.clone(),
            container_config: Some(RunConfig::of(&options.container_config)),
            created: Some(created),
            docker_version: options.engine_version.clone(),
            history,
            rootfs,
            ..parent.config.clone()
        };
        let raw = serde_json::to_vec(&config).map_err(|error| ImageError::Archive(error.to_string()))?;
        let references = options.reference.clone().into_iter().collect();
        let parent = Some(parent.id.clone());
        let new = NewImage { raw_config: raw.into(), layers, references, parent, tagged: true, manifests: Vec::new() };
        let mut added = self.add_images(vec![new])?;
        added.pop().ok_or_else(|| ImageError::Archive("image was not added".to_owned()))
    }
}
