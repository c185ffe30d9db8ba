//! `docker rmi`, `docker image prune`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dockerd_image::{Image, Removal, RemoveOptions};
use dockerd_types::{ContainerId, Digest, Filters};

use super::list::Query;
use super::{ImageService, blocking};
use crate::error::EngineError;

/// Filters `prune` knows.
pub const PRUNE_FILTERS: [&str; 4] = ["dangling", "label", "label!", "until"];

/// How long a removed container may take to let go of its image.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a prune took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImagePrune {
    /// Names and images.
    pub removed: Vec<Removal>,
    /// Bytes.
    pub space_reclaimed: u64,
}

impl ImageService {
    /// Removes a name, or an image with everything only it needs.
    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<Vec<Removal>, EngineError> {
        let image = self.store.resolve(name)?;
        self.let_go(&image).await;
        let (store, core, text) = (self.store.clone(), self.core.clone(), name.to_owned());
        let removed = blocking(move || {
            let running = |owner: &str| {
                let container = ContainerId::parse(owner).ok().and_then(|id| core.containers.by_id(&id));
                container.is_some_and(|container| container.snapshot().state.is_running())
            };
            store.remove(&text, options, &running)
        })
        .await??;
        for item in &removed {
            match item {
                Removal::Untagged(_, id) => {
                    let labels = image.config.container_config().labels;
                    self.event_with("untag", id.as_str(), id.as_str(), labels);
                }
                Removal::Deleted(id) => self.event("delete", id.as_str(), id.as_str()),
                Removal::Layer(_) | Removal::WithTag(..) => {}
            }
        }
        Ok(removed)
    }

    /// Waits, within limits, for removed containers to let go of an image and its parents, which they do behind the reply.
    async fn let_go(&self, image: &Arc<Image>) {
        let index = self.store.index();
        let parent = |image: &Arc<Image>| image.parent.as_ref().and_then(|id| index.images.get(id)).cloned();
        let lineage = std::iter::successors(Some(image.clone()), parent);
        let owners: Vec<String> = lineage.flat_map(|image| self.store.holders(&image.id)).collect();
        let waiting = async {
            for owner in owners.iter().filter_map(|owner| ContainerId::parse(owner).ok()) {
                self.core.reaper.cleaned_up(&owner).await;
            }
        };
        // Who still holds it afterwards is told to the client.
        let _ = tokio::time::timeout(PATIENCE, waiting).await;
    }

    /// Removes images nobody uses: those without a name, or all with `dangling=false`.
    pub async fn prune(&self, filters: &Filters) -> Result<ImagePrune, EngineError> {
        let dangling = filters.boolean("dangling")?.unwrap_or(true);
        let mut wanted = Filters::default();
        for key in ["until", "label", "label!"] {
            filters.values(key).for_each(|value| wanted.insert(key, value));
        }
        let index = self.store.index();
        let chosen: Vec<&Image> = {
            let query = Query::new(self, &wanted)?;
            let images = index.images.values().filter(|image| {
                let has_child = index.images.values().any(|other| other.parent.as_ref() == Some(&image.id));
                !has_child || !dangling && !image.references.is_empty()
            });
            images.map(AsRef::as_ref).filter(|image| query.matches(image)).collect()
        };
        let sizes: HashMap<&Digest, u64> = index
            .images
            .values()
            .flat_map(|image| image.layers.iter().map(|layer| (&layer.chain_id, layer.size)))
            .collect();
        let mut out = ImagePrune::default();
        for image in chosen {
            let names: Vec<String> = if image.references.is_empty() {
                vec![image.id.hex().to_owned()]
            } else if dangling && image.is_tagged() {
                continue;
            } else {
                image.references.iter().map(ToString::to_string).collect()
            };
            for name in names {
                match self.remove(&name, RemoveOptions::default()).await {
                    Ok(removed) => out.removed.extend(removed),
                    Err(error) => tracing::debug!(image = name, %error, "not pruned"),
                }
            }
        }
        out.space_reclaimed = out
            .removed
            .iter()
            .filter_map(|item| match item {
                Removal::Layer(chain) => sizes.get(chain),
                Removal::Untagged(..) | Removal::WithTag(..) | Removal::Deleted(_) => None,
            })
            .sum();
        let reclaimed = [("reclaimed".to_owned(), out.space_reclaimed.to_string())].into();
        self.core.events.publish(crate::ports::EventNote {
            kind: "image",
            action: "prune".to_owned(),
            actor: String::new(),
            attributes: reclaimed,
            time: dockerd_types::Timestamp::now(),
        });
        Ok(out)
    }
}
