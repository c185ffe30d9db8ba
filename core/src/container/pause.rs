//! `docker pause`, `docker unpause`.

use super::ContainerService;
use super::actor::Command;
use crate::error::EngineError;

impl ContainerService {
    /// Freezes all processes of a container.
    pub async fn pause(&self, name: &str) -> Result<(), EngineError> {
        self.core.containers.find(name)?.ask(Command::Pause).await
    }

    /// Thaws them.
    pub async fn unpause(&self, name: &str) -> Result<(), EngineError> {
        self.core.containers.find(name)?.ask(Command::Unpause).await
    }
}
