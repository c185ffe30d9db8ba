//! Size of a container's terminal.

use super::ContainerService;
use super::error::ContainerError;
use crate::error::EngineError;

impl ContainerService {
    /// Sets the size of its terminal.
    pub async fn resize(&self, name: &str, height: u16, width: u16) -> Result<(), EngineError> {
        let container = self.core.containers.find(name)?;
        if !container.snapshot().state.is_running() {
            return Err(ContainerError::NotRunning(container.id().clone()).into());
        }
        container.driver(&self.core)?.resize(&container.key(), height, width)?;
        let size = [("height", height.to_string()), ("width", width.to_string())];
        container.publish_event(&*self.core.events, "resize", &size);
        Ok(())
    }
}
