//! What everything is doing, as text for whoever looks into a daemon that does not do what it should (SIGUSR1).

use std::fmt::Write;

use dockerd_runtime::Runtimes;

use crate::core::Core;
use crate::event_bus::EventBus;

/// Containers with their tasks, then the supervisor's side. Nothing here waits for a container.
pub(crate) async fn text(core: &Core, runtimes: &Runtimes, events: &EventBus) -> String {
    let mut out = String::new();
    let containers = core.containers.all();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "engine {} up since {}", core.engine_id, core.started_at.rfc3339_nano());
    let _ = writeln!(out, "events: {}", events.state());
    let _ = writeln!(out, "reaper: {} jobs at work", core.reaper.at_work());
    let _ = writeln!(out, "\ncontainers: {}", containers.len());
    for container in containers {
        let snapshot = container.snapshot();
        let state = &snapshot.state;
        let execs = core.execs.of_container(container.id()).len();
        let _ = writeln!(
            out,
            "{} {} {} pid {} exits {} restarts {} queue {} followers {} execs {execs} streams {}",
            container.id(),
            snapshot.name,
            state.status.name(),
            state.pid,
            snapshot.exits,
            state.restart_count,
            container.queued(),
            container.followers(),
            container.io().describe(),
        );
    }
    let _ = write!(out, "\n{}", runtimes.describe().await);
    out
}
