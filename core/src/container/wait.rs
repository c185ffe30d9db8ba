//! `docker wait`: registered before the call returns, so an exit between a client's wait and its start is never missed.

use std::sync::Arc;

use dockerd_types::container::Status;
use tokio::sync::watch;

use super::spec::Snapshot;
use super::{ContainerService, WaitCondition, WaitResult};
use crate::error::EngineError;

/// A registered wait.
#[derive(Debug)]
pub struct WaitHandle {
    watch: watch::Receiver<Arc<Snapshot>>,
    condition: WaitCondition,
    exits: u64,
    /// It did not run at registration.
    at_rest: bool,
}

impl ContainerService {
    /// Registers the wait; the handle's [`WaitHandle::result`] is the waiting itself.
    pub fn wait(&self, name: &str, condition: WaitCondition) -> Result<WaitHandle, EngineError> {
        let watch = self.core.containers.find(name)?.subscribe();
        let (exits, at_rest) = {
            let now = watch.borrow();
            (now.exits, !(now.state.is_running() || now.state.status == Status::Restarting))
        };
        Ok(WaitHandle { watch, condition, exits, at_rest })
    }
}

impl WaitHandle {
    /// Waits until the condition holds.
    pub async fn result(mut self) -> WaitResult {
        let (condition, exits, at_rest) = (self.condition, self.exits, self.at_rest);
        let holds = move |s: &Arc<Snapshot>| match condition {
            WaitCondition::NotRunning => at_rest || s.exits > exits || s.removed,
            WaitCondition::NextExit => s.exits > exits || s.removed,
            WaitCondition::Removed => s.removed || s.removal_error.is_some(),
        };
        // An error says that the container's handle is gone, and with it the container: the last snapshot is final.
        let _ = self.watch.wait_for(holds).await;
        let last = self.watch.borrow().clone();
        WaitResult { status_code: last.state.exit_code, error: last.removal_error.as_deref().map(str::to_owned) }
    }
}
