//! What signals mean: SIGTERM and SIGINT end the daemon in order, the third of them at once; SIGHUP reads the
//! configuration again; SIGUSR1 writes down what everything is doing.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use dockerd_core::Services;
use dockerd_types::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Cli;
use crate::config::Config;
use crate::logging::Log;
use crate::notify::{self, notify};

/// So many requests to end are a wish to end now.
const FORCED: u32 = 3;

/// The signals the daemon waits for, from the moment this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    dump: Signal,
}

/// What a reload needs.
#[derive(Debug)]
pub(crate) struct Reloader {
    pub(crate) cli: Cli,
    pub(crate) log: Log,
    /// The level the log is at when `debug` is off.
    pub(crate) level: String,
}

impl Signals {
    pub(crate) fn watch() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            dump: signal(SignalKind::user_defined1())?,
        })
    }

    /// Until the daemon is to end. The other signals are answered on the way.
    pub(crate) async fn until_end(&mut self, services: &Arc<Services>, reloader: &mut Reloader) {
        loop {
            tokio::select! {
                name = next_end(&mut self.terminate, &mut self.interrupt) => {
                    tracing::info!("Processing signal '{name}'");
                    return;
                }
                _ = self.hangup.recv() => reloader.reload(services).await,
                _ = self.dump.recv() => dump(services).await,
            }
        }
    }

    /// While the daemon ends: gives up when it was asked to often enough. Returns the exit code.
    pub(crate) async fn until_forced(&mut self) -> u8 {
        for _ in 2..FORCED {
            let name = next_end(&mut self.terminate, &mut self.interrupt).await;
            tracing::info!("Processing signal '{name}'");
        }
        let name = next_end(&mut self.terminate, &mut self.interrupt).await;
        tracing::info!("Forcing docker daemon shutdown without cleanup; {FORCED} interrupts received");
        128 + if name == "interrupt" { 2 } else { 15 }
    }
}

/// The next request to end, by the name Go gives its signal.
async fn next_end(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "terminated",
        _ = interrupt.recv() => "interrupt",
    }
}

impl Reloader {
    async fn reload(&mut self, services: &Arc<Services>) {
        tracing::info!("Got signal to reload configuration");
        notify::reloading();
        let cli = self.cli.clone();
        let read = tokio::task::spawn_blocking(move || Config::reload(&cli)).await;
        match read {
            Ok(Ok((changes, level))) => {
                self.level = level.unwrap_or_else(|| std::mem::take(&mut self.level));
                match services.reload(changes).await {
                    Ok(()) => tracing::info!("Reloaded configuration"),
                    Err(error) => tracing::error!(%error, "Error reconfiguring the daemon"),
                }
                let debug = services.facts().config.debug;
                self.log.set_level(if debug { "debug" } else { &self.level });
            }
            Ok(Err(error)) => tracing::error!(%error, "Error reloading configuration"),
            Err(error) => tracing::error!(%error, "Error reloading configuration"),
        }
        notify("READY=1");
    }
}

/// Writes what every part is doing to a file below the exec root.
async fn dump(services: &Arc<Services>) {
    let exec_root = services.facts().config.exec_root.clone();
    let text = format!("{}\n{}", tasks(), services.dump().await);
    let written = tokio::task::spawn_blocking(move || write(&exec_root, &text)).await;
    match written {
        Ok(Ok(path)) => tracing::info!("task dump written to {path}"),
        Ok(Err(error)) => tracing::error!(%error, "task dump could not be written"),
        Err(error) => tracing::error!(%error, "task dump could not be written"),
    }
}

fn write(exec_root: &Path, text: &str) -> std::io::Result<String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    // 2026-11-25T090237Z, as the stock daemon names its files.
    let time: String = Timestamp::now().rfc3339_fixed().chars().take(19).filter(|c| *c != ':').collect();
    let path = exec_root.join(format!("task-dump-{time}Z.log"));
    let mut file = std::fs::File::options().create(true).append(true).mode(0o600).open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(path.display().to_string())
}

fn tasks() -> String {
    let metrics = tokio::runtime::Handle::current().metrics();
    format!(
        "dockerd-rs {} pid {}\nruntime: {} workers, {} tasks alive, {} waiting in the shared queue\n",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        metrics.num_workers(),
        metrics.num_alive_tasks(),
        metrics.global_queue_depth(),
    )
}
