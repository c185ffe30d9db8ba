//! `docker rmi`, `docker image prune`.

use dockerd_image::{Removal, RemoveOptions};
use dockerd_types::{ContainerId, Digest, Filters};

use super::list::Query;
use super::{ImageService, blocking};
use crate::error::EngineError;

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
    pub async fn remove(&self, name: &str, force: bool) -> Result<Vec<Removal>, EngineError> {
        let image = self.store.resolve(name)?;
        let (store, core, text) = (self.store.clone(), self.core.clone(), name.to_owned());
        let removed = blocking(move || {
            let running = |owner: &str| {
                let container = ContainerId::parse(owner).ok().and_then(|id| core.containers.by_id(&id));
                container.is_some_and(|container| container.snapshot().state.is_running())
            };
            store.remove(&text, RemoveOptions { force }, &running)
        })
        .await??;
        for item in &removed {
            match item {
                Removal::Untagged(_) => self.event("untag", image.id.as_str(), image.id.as_str()),
                Removal::Deleted(digest) if *digest == image.id => {
                    self.event("delete", digest.as_str(), digest.as_str());
                }
                Removal::Deleted(_) => {}
            }
        }
        Ok(removed)
    }

    /// Removes images nobody uses: those without a name, or all with `dangling=false`.
    pub async fn prune(&self, filters: &Filters) -> Result<ImagePrune, EngineError> {
        let mut wanted = filters.clone();
        let all = filters.values("dangling").any(|v| matches!(v, "false" | "0"));
        if !filters.has("dangling") {
            wanted.insert("dangling", "true");
        }
        let chosen: Vec<(Digest, u64)> = {
            let mut plain = Filters::default();
            for key in ["until", "label", "label!"] {
                filters.values(key).for_each(|value| plain.insert(key, value));
            }
            let query = Query::new(self, if all { &plain } else { &wanted })?;
            let index = self.store.index();
            let unused = index.images.values().filter(|image| self.store.holders(&image.id).is_empty());
            unused.filter(|image| query.matches(image)).map(|image| (image.id.clone(), image.size())).collect()
        };
        let mut out = ImagePrune::default();
        for (id, size) in chosen {
            match self.remove(id.as_str(), true).await {
                Ok(removed) => {
                    out.removed.extend(removed);
                    out.space_reclaimed += size;
                }
                Err(error) => tracing::debug!(image = %id, %error, "not pruned"),
            }
        }
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
