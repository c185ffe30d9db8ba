//! `docker kill`: one signal, SIGKILL by default.

use dockerd_types::signal::Signal;

use super::ContainerService;
use super::actor::Command;
use super::error::ContainerError;
use super::lifecycle::{self, Verb};
use crate::error::EngineError;

impl ContainerService {
    /// Sends a signal; with SIGKILL the answer comes when the process has ended.
    pub async fn kill(&self, name: &str, signal: Option<&str>) -> Result<(), EngineError> {
        let cannot = |error: EngineError| {
            EngineError::from(ContainerError::CannotKill { name: name.to_owned(), source: Box::new(error) })
        };
        let signal = match signal.filter(|s| !s.is_empty()) {
            Some(text) => Signal::parse(text).map_err(|error| cannot(error.into()))?,
            None => Signal::KILL,
        };
        let container = self.core.containers.find(name).map_err(|error| cannot(error.into()))?;
        let not_running =
            || EngineError::from(ContainerError::KillNotRunning { name: name.to_owned(), id: container.id().clone() });
        let before = container.snapshot();
        lifecycle::next(before.state.status, Verb::Signal).map_err(|_| not_running())?;
        let mut watch = container.subscribe();
        match container.ask(|reply| Command::Signal { signal, reply }).await {
            Ok(()) => {}
            Err(EngineError::Container(ContainerError::NotRunning(_) | ContainerError::Gone(_))) => {
                return Err(not_running());
            }
            Err(error) => return Err(error),
        }
        if signal == Signal::KILL {
            // What still holds on after this long is for the exit to report.
            let limit = std::time::Duration::from_secs(10);
            let ended = watch.wait_for(|s| s.exits > before.exits || s.removed);
            let _ = tokio::time::timeout(limit, ended).await;
        }
        Ok(())
    }
}
