//! What happens when a container's process ended: its last output is let through, the network is given back, the state
//! is published and stored, the restart policy asked, and with auto-remove the container goes.

use std::time::Duration;

use dockerd_runtime::{ExitCode, ProcessExit};
use dockerd_types::container::{RestartPolicy, Status};
use tokio::time::Instant;

use super::actor::Actor;
use super::lifecycle::{self, Verb};
use super::restart_policy::{self, Ended};
use super::spec::NameService;
use super::start::release_shm;

/// How long an exit waits for output that is still held open, say by a process that left the container.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Exit code shown when nobody could collect it.
const UNKNOWN_CODE: i64 = 255;

impl Actor {
    pub(super) async fn exited(&mut self, exit: ProcessExit) {
        let before = self.snapshot();
        if !before.state.is_running() && before.state.status != Status::Removing {
            self.core.runtimes.acknowledge(&exit.key);
            return;
        }
        self.monitor = None;
        // Not only when all its output is through: nobody shall be sent to it meanwhile.
        self.core.network.strike_names(self.container.id());
        self.container.io().drained(DRAIN_LIMIT).await;
        self.container.io().end();
        self.core.janitor.ended(&self.container);
        let exit_code = exit_code(exit.code);
        let ran = Self::ran(&before, exit.at);
        let delay = self.restart_delay(exit_code, ran);
        let auto_remove = delay.is_none() && before.spec.host.auto_remove && !self.hold_auto_remove && !self.quiesced;
        if exit.oom_killed {
            self.event("oom", &[]);
        }
        let has_address = before.spec.endpoints.values().any(|asked| asked.ipv4.is_some() || asked.ipv6.is_some());
        self.give_back(has_address || !before.state.ports.is_empty()).await;

        let status =
            lifecycle::next(before.state.status, Verb::Exited { restart: delay.is_some() }).unwrap_or(Status::Exited);
        self.event("die", &[("exitCode", exit_code.to_string()), ("execDuration", ran.as_secs().to_string())]);
        self.container.oci.store(None);
        let removing = auto_remove || before.state.status == Status::Removing;
        self.update(|s| {
            s.exits += 1;
            s.state.status = status;
            s.state.pid = 0;
            s.state.exit_code = exit_code;
            s.state.oom_killed = exit.oom_killed;
            s.state.finished_at = Some(exit.at);
            s.state.sandbox_id.clear();
            s.state.name_service = NameService::None;
            for endpoint in s.state.endpoints.drain(..).filter(|endpoint| !endpoint.dns_names.is_empty()) {
                s.state.dns_names.insert(endpoint.network_name, endpoint.dns_names);
            }
            s.state.way_out = None;
            s.state.ports.clear();
            if matches!(exit.code, ExitCode::Unknown) {
                s.state.error = "exit code was lost: the supervisor ended before the process did".to_owned();
            }
        });
        self.last_delay = delay;
        self.restart_at = delay.map(|delay| Instant::now() + delay);
        if removing {
            // The document goes with the directory; should we die before that, the exit is reported again at boot.
            if auto_remove {
                self.auto_remove().await;
            }
            self.core.runtimes.acknowledge(&exit.key);
            return;
        }
        let written = self.persist();
        let (core, key) = (self.core.clone(), exit.key);
        tokio::spawn(async move {
            // Only now may the supervisor forget: the exit is on disk.
            if written.await.is_ok() {
                core.runtimes.acknowledge(&key);
            }
        });
    }

    fn restart_delay(&self, exit_code: i64, ran: Duration) -> Option<Duration> {
        let snapshot = self.snapshot();
        if self.quiesced || snapshot.state.status == Status::Removing {
            return None;
        }
        let policy = snapshot.spec.host.restart_policy;
        let stopped = self.exit_on_next || (policy == RestartPolicy::UnlessStopped && snapshot.state.manually_stopped);
        let ended = Ended {
            exit_code,
            ran,
            manually_stopped: stopped,
            restarts: snapshot.state.restart_count,
            last_delay: self.last_delay,
        };
        restart_policy::delay(policy, ended)
    }

    /// Gives back network, cgroup and shared memory. With `at_once` (published ports, addresses asked for: others may be
    /// waiting for them) before anybody hears of the exit; else behind the reply.
    async fn give_back(&mut self, at_once: bool) {
        let core = self.core.clone();
        let id = self.container.id().clone();
        let snapshot = self.snapshot();
        let driver = self.driver().ok();
        for endpoint in &snapshot.state.endpoints {
            self.container.network_event(&*core.events, "disconnect", endpoint);
        }
        self.container.volume_events(&*core.events, "unmount");
        self.core.execs.container_ended(&id);
        let ipc = snapshot.spec.host.ipc_mode.clone();
        let job = async move {
            if let Err(error) = core.network.remove_sandbox(&id).await {
                tracing::warn!(container = %id, %error, "network could not be taken down");
            }
            if let Some(driver) = driver
                && let Err(error) = driver.delete(&id).await
            {
                tracing::warn!(container = %id, %error, "the runtime could not clean up");
            }
            release_shm(&core, &id, &ipc);
            let volumes = core.volumes.clone();
            let unmounted = tokio::task::spawn_blocking(move || volumes.unmount(&id)).await;
            if unmounted.is_err() {
                tracing::warn!("volumes could not be unmounted");
            }
        };
        if at_once {
            job.await;
        } else {
            self.teardown = Some(self.core.reaper.run(job));
        }
    }
}

fn exit_code(code: ExitCode) -> i64 {
    match code {
        ExitCode::Exited(code) => i64::from(code),
        ExitCode::Signaled(signal) => 128 + i64::from(signal),
        ExitCode::Unknown => UNKNOWN_CODE,
    }
}
