//! `docker restart`: stop, then start, with auto-remove resting in between.

use dockerd_types::signal::Signal;

use super::actor::Command;
use super::error::ContainerError;
use super::lifecycle::{self, Verb};
use super::{ContainerService, StopOptions};
use crate::error::EngineError;

impl ContainerService {
    /// Stops (if it runs) and starts a container.
    pub async fn restart(&self, name: &str, options: StopOptions) -> Result<(), EngineError> {
        let container = self.core.containers.find(name)?;
        let check = |text: &str| {
            Signal::parse(text).map_err(|source| ContainerError::CannotRestart { name: name.to_owned(), source })
        };
        options.signal.as_deref().map(check).transpose()?;
        let service = self.clone();
        let task = tokio::spawn(async move {
            let runs = lifecycle::next(container.snapshot().state.status, Verb::Signal).is_ok();
            if runs {
                container.tell(Command::HoldAutoRemove(true)).await?;
                let stopped = service.stop_container(&container, &options).await;
                if let Err(error) = stopped {
                    container.tell(Command::HoldAutoRemove(false)).await?;
                    return Err(error);
                }
            }
            container.ask(Command::Start).await?;
            container.publish_event(&*service.core.events, "restart", &[]);
            Ok(())
        });
        task.await.unwrap_or_else(|panic| Err(ContainerError::Start(panic.to_string()).into()))
    }
}
