//! `docker push`.

use std::sync::Arc;

use dockerd_image::{PushError, PushProgress, PushStep, Pushed};
use dockerd_registry::{Access, Credentials};
use dockerd_types::{Digest, Reference};

use super::ImageService;
use crate::error::EngineError;

impl From<PushError> for EngineError {
    fn from(error: PushError) -> Self {
        Self::module(error)
    }
}

/// What a client wants pushed.
#[derive(Debug, Clone)]
pub struct PushOrder {
    /// The repository, with a tag unless all are meant.
    pub reference: Reference,
    /// Every tag of the repository.
    pub all: bool,
    /// Who asks, for the registry.
    pub credentials: Option<Credentials>,
}

/// What a push tells.
#[derive(Debug, Clone)]
pub enum PushNote {
    /// A step of the layer with that diffID.
    Layer(Digest, PushStep),
    /// A tag is there.
    Done {
        /// The tag.
        tag: String,
        /// What was pushed.
        pushed: Pushed,
    },
}

impl ImageService {
    /// Pushes; `tell` is called from several tasks.
    pub async fn push(
        &self,
        order: PushOrder,
        tell: impl Fn(PushNote) + Send + Sync + 'static,
    ) -> Result<(), EngineError> {
        let PushOrder { reference, all, credentials } = order;
        let names = self.store.pushable(&reference, all)?;
        let live = self.core.live();
        let (repository, slots) = self.registries.repository(&live, &reference, Access::Push, credentials).await?;
        let tell = Arc::new(tell);
        for name in &names {
            self.store.whole(&*self.store.resolve(&name.to_string())?).await?;
            let steps = tell.clone();
            let progress: PushProgress = Arc::new(move |layer, step| steps(PushNote::Layer(layer, step)));
            let pushed = self.store.push(&repository, name, &slots.uploads, &progress).await?;
            self.event("push", &name.familiar(), &name.familiar_name());
            tell(PushNote::Done { tag: name.tag().unwrap_or_default().to_owned(), pushed });
        }
        Ok(())
    }
}
