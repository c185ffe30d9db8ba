//! The task that owns one container's mutable state. Verbs come as messages through a bounded queue and are answered
//! through reply channels, so a client that hangs up does not stop half a start; what readers see is published as a new
//! snapshot. The task never waits for another container's task. Rules are in `lifecycle.rs`, the long verbs in files of
//! their own (`start.rs`, `exit.rs`, `remove.rs`).

use std::sync::Arc;
use std::time::Duration;

use dockerd_runtime::{ProcessExit, ProcessKey, RuntimeDriver};
use dockerd_types::container::Status;
use dockerd_types::network::EndpointConfig;
use dockerd_types::signal::Signal;
use dockerd_types::{ContainerId, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::ContainerError;
use super::health::{Monitor, ProbeResult};
use super::lifecycle::{self, Refusal, Verb};
use super::spec::Snapshot;
use super::state_writer::StateWriter;
use super::{Container, RemoveOptions};
use crate::core::Core;
use crate::error::EngineError;

/// Requests that may wait in a container's queue before senders wait themselves.
pub(super) const QUEUE: usize = 16;

pub(super) type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// What a container's task is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// A client starts it.
    Start(Reply<()>),
    /// Send a signal to its process.
    Signal { signal: Signal, reply: Reply<()> },
    /// Kill everything in it.
    KillAll(Reply<()>),
    /// Freeze it.
    Pause(Reply<()>),
    /// Thaw it.
    Unpause(Reply<()>),
    /// Another name (already claimed).
    Rename { name: String, reply: Reply<()> },
    /// Take its legacy links of this name away.
    Unlink { alias: String, reply: Reply<()> },
    /// Put it on a network.
    Connect { network: String, config: Box<EndpointConfig>, reply: Reply<()> },
    /// Take it off a network.
    Disconnect { network: String, force: bool, reply: Reply<()> },
    /// Remove it.
    Remove { options: RemoveOptions, reply: Reply<()> },
    /// While a client restarts it, auto-remove rests.
    HoldAutoRemove(bool),
    /// Its process ended.
    Exited(ProcessExit),
    /// A health check has a result.
    Probed(ProbeResult),
    /// It lives on from before the daemon's start.
    Adopted,
    /// The daemon goes down: no more restarts.
    Quiesce,
}

/// The task's own state; what readers need is in the published snapshot.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(super) core: Arc<Core>,
    pub(super) container: Arc<Container>,
    pub(super) writer: StateWriter,
    /// When the restart policy starts it again.
    pub(super) restart_at: Option<Instant>,
    /// The delay before the run that is on, if the policy started it.
    pub(super) last_delay: Option<Duration>,
    /// A client's stop or kill is on: the policy does not restart after the next exit.
    pub(super) exit_on_next: bool,
    pub(super) hold_auto_remove: bool,
    /// Tear-down of the last run; the next start waits for it.
    pub(super) teardown: Option<JoinHandle<()>>,
    pub(super) quiesced: bool,
    /// Probes the run that is on, if there is a health check.
    pub(super) monitor: Option<Monitor>,
}

impl Actor {
    /// Starts the task of `container`.
    pub(crate) fn spawn(core: Arc<Core>, container: Arc<Container>, queue: mpsc::Receiver<Command>) {
        let writer = StateWriter::new(core.layout.container_dir(container.id()));
        let actor = Self {
            core,
            container,
            writer,
            restart_at: None,
            last_delay: None,
            exit_on_next: false,
            hold_auto_remove: false,
            teardown: None,
            quiesced: false,
            monitor: None,
        };
        tokio::spawn(actor.run(queue));
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        loop {
            let command = match self.restart_at {
                None => queue.recv().await,
                Some(at) => match tokio::time::timeout_at(at, queue.recv()).await {
                    Ok(command) => command,
                    Err(_) => {
                        self.restart_due().await;
                        if self.snapshot().removed {
                            return;
                        }
                        continue;
                    }
                },
            };
            let Some(command) = command else { return };
            self.handle(command).await;
            if self.snapshot().removed {
                return;
            }
        }
    }

    async fn handle(&mut self, command: Command) {
        match command {
            Command::Start(reply) => answer(reply, self.start_by_client().await),
            Command::Signal { signal, reply } => answer(reply, self.signal(signal)),
            Command::KillAll(reply) => answer(reply, self.kill_all().await),
            Command::Pause(reply) => answer(reply, self.pause().await),
            Command::Unpause(reply) => answer(reply, self.unpause().await),
            Command::Rename { name, reply } => answer(reply, self.rename(name).await),
            Command::Unlink { alias, reply } => answer(reply, self.unlink(alias).await),
            Command::Connect { network, config, reply } => answer(reply, self.connect(network, *config).await),
            Command::Disconnect { network, force, reply } => answer(reply, self.disconnect(network, force).await),
            Command::Remove { options, reply } => answer(reply, self.remove(options).await),
            Command::HoldAutoRemove(hold) => self.hold_auto_remove = hold,
            Command::Exited(exit) => self.exited(exit).await,
            Command::Probed(result) => self.probed(result),
            Command::Adopted => self.begin_health_checks(),
            Command::Quiesce => {
                self.quiesced = true;
                self.cancel_restart();
            }
        }
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.container.snapshot()
    }

    /// Publishes a changed snapshot.
    pub(super) fn update(&self, change: impl FnOnce(&mut Snapshot)) -> Arc<Snapshot> {
        let mut next = (*self.container.snapshot()).clone();
        change(&mut next);
        let next = Arc::new(next);
        self.container.published.send_replace(next.clone());
        next
    }

    /// Stores the state as it is now, in the background and in order.
    pub(super) fn persist(&self) -> JoinHandle<()> {
        self.writer.write(self.snapshot().state.clone())
    }

    pub(super) fn driver(&self) -> Result<Arc<dyn RuntimeDriver>, EngineError> {
        self.container.driver(&self.core)
    }

    pub(super) fn key(&self) -> ProcessKey {
        ProcessKey::Container(self.container.id().clone())
    }

    pub(super) fn event(&self, action: &str, extra: &[(&str, String)]) {
        self.container.publish_event(&*self.core.events, action, extra);
    }

    fn signal(&mut self, signal: Signal) -> Result<(), EngineError> {
        let snapshot = self.snapshot();
        let id = self.container.id().clone();
        lifecycle::next(snapshot.state.status, Verb::Signal).map_err(|_| ContainerError::NotRunning(id.clone()))?;
        let stop_signal = snapshot.spec.config.stop_signal.as_deref().filter(|s| !s.is_empty());
        let stop_signal = stop_signal.and_then(|s| Signal::parse(s).ok());
        let ends_it = signal == Signal::KILL || stop_signal.is_none_or(|stop| stop == signal);
        self.exit_on_next |= ends_it;
        if !snapshot.state.manually_stopped && !self.quiesced {
            self.update(|s| s.state.manually_stopped = true);
            // Only `unless-stopped` looks at this after a crash, so others need not pay for a write now.
            if snapshot.spec.host.restart_policy == dockerd_types::container::RestartPolicy::UnlessStopped {
                self.persist();
            }
        }
        if snapshot.state.status == Status::Restarting {
            if ends_it {
                self.cancel_restart();
            }
            return Ok(());
        }
        let driver = self.driver()?;
        match driver.signal(&self.key(), signal) {
            Ok(()) => {}
            // It ended this moment; the exit is on its way.
            Err(dockerd_runtime::ControlError::NotRunning) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if snapshot.state.status == Status::Paused && ends_it {
            driver.resume(&id)?;
            self.update(|s| s.state.status = Status::Running);
        }
        self.event("kill", &[("signal", signal.number().to_string())]);
        Ok(())
    }

    async fn kill_all(&mut self) -> Result<(), EngineError> {
        match self.control(|driver, id| driver.kill_all(id)).await {
            Err(EngineError::Control(dockerd_runtime::ControlError::NotRunning)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Asks the runtime for something that may wait for the kernel (a freezer, a killed cgroup).
    async fn control<F>(&self, job: F) -> Result<(), EngineError>
    where
        F: FnOnce(&dyn RuntimeDriver, &ContainerId) -> Result<(), dockerd_runtime::ControlError> + Send + 'static,
    {
        let (driver, id) = (self.driver()?, self.container.id().clone());
        Ok(crate::image::blocking(move || job(&*driver, &id)).await??)
    }

    async fn pause(&mut self) -> Result<(), EngineError> {
        let id = self.container.id().clone();
        let status = self.snapshot().state.status;
        let next = lifecycle::next(status, Verb::Pause).map_err(|refusal| match refusal {
            Refusal::Paused => ContainerError::AlreadyPaused(id.clone()),
            Refusal::Restarting => ContainerError::Restarting(id.clone()),
            _ => ContainerError::NotRunning(id.clone()),
        })?;
        self.control(|driver, id| driver.pause(id)).await?;
        self.update(|s| s.state.status = next);
        self.persist();
        self.event("pause", &[]);
        Ok(())
    }

    async fn unpause(&mut self) -> Result<(), EngineError> {
        let id = self.container.id().clone();
        let status = self.snapshot().state.status;
        let next = lifecycle::next(status, Verb::Unpause).map_err(|_| ContainerError::NotPaused(id.clone()))?;
        self.control(|driver, id| driver.resume(id)).await?;
        self.update(|s| s.state.status = next);
        self.persist();
        self.event("unpause", &[]);
        Ok(())
    }

    /// Ends a pending restart by the policy.
    pub(super) fn cancel_restart(&mut self) {
        if self.restart_at.take().is_none() {
            return;
        }
        if let Ok(next) = lifecycle::next(self.snapshot().state.status, Verb::RestartCancelled) {
            self.update(|s| {
                s.state.status = next;
                s.exits += 1;
            });
            self.persist();
        }
    }

    async fn restart_due(&mut self) {
        self.restart_at = None;
        if let Err(error) = self.start_by_policy().await {
            tracing::warn!(container = %self.container.id(), %error, "restart policy could not start the container");
        }
    }

    /// How long the run that just ended lasted.
    pub(super) fn ran(snapshot: &Snapshot, until: Timestamp) -> Duration {
        snapshot.state.started_at.map_or(Duration::ZERO, |at| until.since(at))
    }
}

/// The client may have gone; then nobody wants the answer.
fn answer<T>(reply: Reply<T>, result: Result<T, EngineError>) {
    let _ = reply.send(result);
}
