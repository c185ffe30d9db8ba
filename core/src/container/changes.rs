//! `docker diff`: what a container changed in its file system.

use super::ContainerService;
use crate::error::EngineError;
use crate::ports::PathChange;

impl ContainerService {
    /// Paths changed against the image, sorted.
    pub async fn changes(&self, name: &str) -> Result<Vec<PathChange>, EngineError> {
        let container = self.core.containers.find(name)?;
        let core = self.core.clone();
        let task = tokio::task::spawn_blocking(move || core.images.changes(container.id()));
        let mut changes = task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(changes)
    }
}
