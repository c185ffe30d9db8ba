//! `docker commit`: an image of a container, which is held still meanwhile.

use dockerd_image::{CommitOptions, changes};
use dockerd_types::container::ContainerConfig;
use dockerd_types::{Digest, Reference};

use super::{ImageService, blocking};
use crate::container::ContainerService;
use crate::container::image_defaults;
use crate::error::EngineError;

/// What a client wants committed.
#[derive(Debug, Clone, Default)]
pub struct CommitOrder {
    /// The container.
    pub container: String,
    /// The image's name.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// Why.
    pub comment: String,
    /// Hold the container still.
    pub pause: bool,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// A configuration that goes before the container's.
    pub config: Option<ContainerConfig>,
}

impl ImageService {
    /// Makes an image of a container; its id.
    pub async fn commit(&self, order: CommitOrder) -> Result<Digest, EngineError> {
        let CommitOrder { container, reference, author, comment, pause, changes, config } = order;
        let container = self.core.containers.find(&container)?;
        let snapshot = container.snapshot();
        let spec = snapshot.spec.clone();
        let mut config = config.unwrap_or_else(|| spec.config.clone());
        changes::apply(&mut config, &changes)
            .map_err(|error| EngineError::module(dockerd_image::ImageError::from(error)))?;
        let cmd = config.cmd.clone();
        let entrypoint = config.entrypoint.clone();
        image_defaults::merge(&mut config, &spec.config);
        if entrypoint.is_some() {
            // A new entrypoint without a command has none: the container's does not come back.
            config.cmd = cmd;
        }
        let options = CommitOptions {
            parent: spec.image.clone(),
            container: spec.id.to_string(),
            container_config: spec.config.clone(),
            config,
            reference: reference.clone(),
            author,
            comment: comment.clone(),
            engine_version: self.core.config.version.clone(),
        };
        let containers = ContainerService { core: self.core.clone() };
        let paused = pause && snapshot.state.is_running() && containers.pause(spec.id.as_str()).await.is_ok();
        let (store, key) = (self.store.clone(), spec.id.clone());
        let made = blocking(move || store.commit(key.as_str(), &options)).await;
        if paused && let Err(error) = containers.unpause(spec.id.as_str()).await {
            tracing::warn!(container = %spec.id, %error, "container could not be unpaused after its commit");
        }
        let image = made??;
        if let Some(reference) = &reference {
            self.event("tag", image.id.as_str(), &reference.familiar());
        }
        let shown = reference.map(|reference| reference.familiar()).unwrap_or_default();
        let extra = [("comment", comment), ("imageID", image.id.to_string()), ("imageRef", shown)];
        container.publish_event(&*self.core.events, "commit", &extra);
        Ok(image.id.clone())
    }
}
