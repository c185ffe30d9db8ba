//! `docker stop`: the stop signal, then SIGKILL when the time is over, then everything in the cgroup.

use std::sync::Arc;
use std::time::Duration;

use dockerd_types::container::Status;
use dockerd_types::signal::Signal;
use tokio::sync::watch;

use super::actor::Command;
use super::error::ContainerError;
use super::lifecycle::{self, Verb};
use super::spec::Snapshot;
use super::{Container, ContainerService, StopOptions};
use crate::error::EngineError;

/// How long SIGKILL may take.
const KILL_LIMIT: Duration = Duration::from_secs(10);

impl ContainerService {
    /// Stops a container; NotModified when it does not run.
    pub async fn stop(&self, name: &str, options: StopOptions) -> Result<(), EngineError> {
        let container = self.core.containers.find(name)?;
        let status = container.snapshot().state.status;
        lifecycle::next(status, Verb::Signal).map_err(|_| ContainerError::NotModified)?;
        let check = |text: &str| {
            Signal::parse(text).map_err(|source| ContainerError::CannotStop { name: name.to_owned(), source })
        };
        options.signal.as_deref().map(check).transpose()?;
        let service = self.clone();
        // Detached: a client that hangs up does not leave a container with a signal and no end.
        let task = tokio::spawn(async move { service.stop_container(&container, &options).await });
        task.await.unwrap_or_else(|panic| Err(ContainerError::Start(panic.to_string()).into()))
    }

    /// The stop itself; also for restart and shutdown.
    pub(crate) async fn stop_container(
        &self,
        container: &Arc<Container>,
        options: &StopOptions,
    ) -> Result<(), EngineError> {
        let snapshot = container.snapshot();
        let config = &snapshot.spec.config;
        let signal = options.signal.as_deref().or(config.stop_signal.as_deref()).filter(|s| !s.is_empty());
        let signal = signal.map_or(Ok(Signal::TERM), Signal::parse)?;
        let limit = match options.timeout.or(config.stop_timeout) {
            Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
            None => Some(self.core.config.stop_timeout),
        };
        let mut watch = container.subscribe();
        if send(container, signal).await? && ended_within(&mut watch, limit).await {
            stopped(container, self);
            return Ok(());
        }
        send(container, Signal::KILL).await?;
        if ended_within(&mut watch, Some(KILL_LIMIT)).await {
            stopped(container, self);
            return Ok(());
        }
        container.ask(Command::KillAll).await?;
        if ended_within(&mut watch, Some(KILL_LIMIT)).await {
            stopped(container, self);
            return Ok(());
        }
        Err(ContainerError::DidNotExit(container.id().to_string()).into())
    }
}

/// `false` when there was nothing left to signal.
async fn send(container: &Container, signal: Signal) -> Result<bool, EngineError> {
    match container.ask(|reply| Command::Signal { signal, reply }).await {
        Ok(()) => Ok(true),
        Err(EngineError::Container(ContainerError::NotRunning(_) | ContainerError::Gone(_))) => Ok(true),
        // The signal could not be delivered: go straight to SIGKILL, as stock does.
        Err(error) if signal != Signal::KILL => {
            tracing::warn!(container = %container.id(), %error, "stop signal could not be sent");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Waits until nothing of it runs; `None` waits for ever.
async fn ended_within(watch: &mut watch::Receiver<Arc<Snapshot>>, limit: Option<Duration>) -> bool {
    let ended = watch.wait_for(|s| s.removed || !(s.state.is_running() || s.state.status == Status::Restarting));
    match limit {
        // The sender gone means the container is gone.
        None => {
            let _ = ended.await;
            true
        }
        Some(limit) => tokio::time::timeout(limit, ended).await.is_ok(),
    }
}

fn stopped(container: &Container, service: &ContainerService) {
    container.publish_event(&*service.core.events, "stop", &[]);
}
