//! The end of the daemon, as stock ends on SIGTERM: with live-restore containers are left alone; otherwise all are
//! stopped at once, and what does not end in time is killed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::container::actor::Command;
use crate::container::{Container, ContainerService, StopOptions};
use crate::core::Core;

/// Time given on top of a container's own stop timeout, and to the tear-down of cgroups.
const SLACK: Duration = Duration::from_secs(5);

/// Stops what must be stopped and waits for the tear-down.
pub(crate) async fn shutdown(core: &Arc<Core>) {
    let containers = core.containers.all();
    join_all(containers.iter().map(|c| c.tell(Command::Quiesce))).await;
    if !core.live().live_restore {
        let limit = limit(core, &containers);
        let stops = join_all(containers.iter().filter(|c| c.snapshot().state.is_running()).map(|c| stop(core, c)));
        if tokio::time::timeout(limit, stops).await.is_err() {
            tracing::warn!("some containers did not stop in time and are killed");
            kill_rest(core, &containers).await;
        }
    }
    core.reaper.drain().await;
    let core = core.clone();
    let drained = tokio::task::spawn_blocking(move || {
        core.network.drain();
        core.runtimes.drain();
    });
    // One whose processes cannot be killed must not keep the daemon.
    if !matches!(tokio::time::timeout(SLACK, drained).await, Ok(Ok(()))) {
        tracing::warn!("cgroups or links are left for the next start");
    }
}

/// The daemon's shutdown timeout, or more where a container asks for more.
fn limit(core: &Core, containers: &[Arc<Container>]) -> Duration {
    let longest = containers
        .iter()
        .filter_map(|c| c.snapshot().spec.config.stop_timeout)
        .filter_map(|seconds| u64::try_from(seconds).ok())
        .max()
        .map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds) + SLACK);
    core.live().shutdown_timeout.max(longest)
}

async fn stop(core: &Arc<Core>, container: &Arc<Container>) {
    let service = ContainerService { core: core.clone() };
    if let Err(error) = service.stop_container(container, &StopOptions::default()).await {
        tracing::warn!(container = %container.id(), %error, "could not be stopped");
    }
}

async fn kill_rest(core: &Arc<Core>, containers: &[Arc<Container>]) {
    let service = ContainerService { core: core.clone() };
    let running = containers.iter().filter(|c| c.snapshot().state.is_running());
    let kills = running.map(|c| {
        let service = service.clone();
        async move {
            let _ = service.kill(c.id().as_str(), None).await;
        }
    });
    join_all(kills).await;
}
