//! `docker rm`, auto-remove and what removal takes away. The reply waits for one rename(2): the container's directory
//! goes to the trash; the writable layer and the rest follow behind the reply. Name, id and ports are free when the reply
//! is sent.

use std::sync::Arc;
use std::time::Duration;

use dockerd_types::container::Status;
use dockerd_types::signal::Signal;

use super::actor::{Actor, Command};
use super::error::ContainerError;
use super::lifecycle::{self, Refusal, Verb};
use super::{Container, ContainerService, RemoveOptions, links};
use crate::core::Core;
use crate::error::EngineError;

/// How long a killed container may take to end before its removal is given up.
const KILL_LIMIT: Duration = Duration::from_secs(10);

impl ContainerService {
    /// Removes a container.
    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<(), EngineError> {
        if options.link {
            return links::remove(&self.core, name).await;
        }
        let container = self.core.containers.find(name)?;
        let snapshot = container.snapshot();
        let verb = Verb::Remove { force: options.force };
        lifecycle::next(snapshot.state.status, verb).map_err(|refusal| refused(refusal, name, &container))?;
        if snapshot.state.is_running() || snapshot.state.status == Status::Restarting {
            kill_and_wait(&self.core, &container).await?;
        }
        let outcome = container.ask(|reply| Command::Remove { options, reply }).await;
        match outcome {
            // Auto-remove was faster; the client has what it wanted.
            Err(EngineError::Container(ContainerError::Gone(_))) if container.snapshot().removed => Ok(()),
            outcome => outcome,
        }
    }
}

fn refused(refusal: Refusal, name: &str, container: &Container) -> EngineError {
    let snapshot = container.snapshot();
    match refusal {
        Refusal::Removing => ContainerError::RemovalInProgress(name.to_owned()).into(),
        _ => ContainerError::RemoveRunning { name: name.to_owned(), status: snapshot.state.status }.into(),
    }
}

/// SIGKILL and the end of it, for forced removal.
async fn kill_and_wait(core: &Core, container: &Arc<Container>) -> Result<(), EngineError> {
    let mut watch = container.subscribe();
    let sent = container.ask(|reply| Command::Signal { signal: Signal::KILL, reply }).await;
    match sent {
        Ok(()) | Err(EngineError::Container(ContainerError::NotRunning(_) | ContainerError::Gone(_))) => {}
        Err(error) => return Err(error),
    }
    let ended =
        |s: &Arc<super::spec::Snapshot>| s.removed || !(s.state.is_running() || s.state.status == Status::Restarting);
    if tokio::time::timeout(KILL_LIMIT, watch.wait_for(ended)).await.is_ok() {
        return Ok(());
    }
    // A process that hides from the signal (another's child in the cgroup) is hunted down.
    let _ = core;
    let _ = container.ask(Command::KillAll).await;
    match tokio::time::timeout(KILL_LIMIT, watch.wait_for(ended)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(ContainerError::DidNotExit(container.id().to_string()).into()),
    }
}

impl Actor {
    /// A client's removal; the process has ended.
    pub(super) async fn remove(&mut self, options: RemoveOptions) -> Result<(), EngineError> {
        let snapshot = self.snapshot();
        let verb = Verb::Remove { force: false };
        lifecycle::next(snapshot.state.status, verb)
            .map_err(|refusal| refused(refusal, snapshot.name.as_ref(), &self.container))?;
        self.take_away(options.volumes).await
    }

    /// `--rm`: with its anonymous volumes.
    pub(super) async fn auto_remove(&mut self) {
        if let Err(error) = self.take_away(true).await {
            tracing::warn!(container = %self.container.id(), %error, "auto-remove failed");
        }
    }

    async fn take_away(&mut self, volumes: bool) -> Result<(), EngineError> {
        let snapshot = self.update(|s| s.state.status = Status::Removing);
        let id = self.container.id().clone();
        self.restart_at = None;
        self.writer.close();
        let (from, to) = (self.core.layout.container_dir(&id), self.core.layout.trash_dir().join(id.as_str()));
        let moved = tokio::task::spawn_blocking({
            let (from, to) = (from.clone(), to.clone());
            move || std::fs::rename(from, to)
        })
        .await
        .unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        if let Err(error) = moved
            && error.kind() != std::io::ErrorKind::NotFound
        {
            let text: Arc<str> = format!("unable to remove {}: {error}", from.display()).into();
            self.update(|s| {
                s.state.status = Status::Dead;
                s.removal_error = Some(text);
            });
            return Err(EngineError::io(format!("unable to remove filesystem for {id}"), error));
        }
        self.core.containers.remove(&id, &snapshot.name);
        self.container.io().discard();
        self.core.execs.container_removed(&id);
        // Before anybody hears of the removal: a volume nobody uses any more may be removed at once.
        self.core.volumes.release(&id, volumes).await;
        self.event("destroy", &[]);
        self.clean_up(to);
        self.update(|s| s.removed = true);
        Ok(())
    }

    /// The slow rest, behind the reply. Before anybody hears of the removal, so that who needs something of it can wait.
    fn clean_up(&mut self, trash: std::path::PathBuf) {
        let core = self.core.clone();
        let id = self.container.id().clone();
        let teardown = self.teardown.take();
        let image = self.snapshot().spec.image.clone();
        self.core.clone().reaper.clean_up(self.container.id().clone(), async move {
            if let Some(teardown) = teardown {
                let _ = teardown.await;
            }
            // After the tear-down: it tells the next daemon, should this one die, what may be left to tear down.
            core.janitor.delete(trash);
            let done = tokio::task::spawn_blocking(move || {
                if let Err(error) = core.images.remove(&id) {
                    tracing::warn!(container = %id, %error, "writable layer could not be removed");
                }
                core.images.release(&image, &id);
                let _ = std::fs::remove_dir_all(core.layout.container_exec_dir(&id));
            });
            let _ = done.await;
        });
    }
}
