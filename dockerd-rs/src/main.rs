//! The daemon's binary. Which mode it runs in is decided before any thread exists: `supervisor` is the process that
//! outlives the daemon, everything else is the daemon.
#![forbid(unsafe_code)]

mod cli;
mod config;
mod flags;
mod go_json;
mod hosts;
mod listen;
mod values;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use api_compat::ServerConfig;
use dockerd_core::Services;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::Cli;
use crate::config::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let _program = arguments.next();
    let mut arguments = arguments.peekable();
    if arguments.peek().is_some_and(|mode| mode == "supervisor") {
        arguments.next();
        dockerd_runtime::modes::supervisor_main(arguments);
    }
    match daemon(arguments.map(|argument| argument.to_string_lossy().into_owned())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be there yet; this is the last thing said.
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn daemon(arguments: impl Iterator<Item = String>) -> Result<()> {
    let cli = Cli::parse(arguments)?;
    let mut out = std::io::stdout().lock();
    if cli.is_true("help") {
        return Ok(write!(out, "{}", cli::help_page())?);
    }
    if cli.is_true("version") {
        let version = dockerd_core::EngineConfig::new("/", "/").version;
        return Ok(writeln!(out, "Docker version {version}, build dockerd-rs {}", env!("CARGO_PKG_VERSION"))?);
    }
    drop(out);
    let config = Config::resolve(&cli)?;
    if cli.is_true("validate") {
        return Ok(writeln!(std::io::stderr(), "configuration OK")?);
    }
    start_log(&config);
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    config::claim_pidfile(&config.pidfile)?;
    // Ten megabytes of an idle daemon were the unused rest of huge pages; the supervisor takes this back for itself.
    if let Err(error) = dockerd_sys::process::allow_huge_pages(false) {
        tracing::debug!(%error, "huge pages stay");
    }
    // Containers keep pipes open here; they themselves get the limit this process was started with.
    if let Err(error) = dockerd_sys::process::raise_open_files(None) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let pidfile = config.pidfile.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)))
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(config));
    let _ = std::fs::remove_file(pidfile);
    result
}

fn start_log(config: &Config) {
    let level = match config.log_level.as_str() {
        "panic" | "fatal" | "error" => "error",
        "trace" => "trace",
        "debug" => "debug",
        "warn" => "warn",
        _ => "info",
    };
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_env_filter(level);
    if config.json_logs { log.json().init() } else { log.init() }
}

async fn run(config: Config) -> Result<()> {
    let server = ServerConfig { version: config.engine.version.clone(), experimental: config.engine.experimental };
    let services = Services::open(config.engine).await.context("failed to start daemon")?;
    let listeners = listen::open(&config.hosts, &config.group).await.context("failed to load listeners")?;
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(api_compat::serve(listeners, services.clone(), server, stopping));
    listen::notify("READY=1");
    tracing::info!("Daemon has completed initialization");
    wait_for_end(&services).await?;
    listen::notify("STOPPING=1");
    services.shutdown().await;
    stop.send_replace(true);
    serving.await??;
    Ok(())
}

/// Until SIGTERM or SIGINT. SIGHUP and SIGUSR1 are answered on the way.
async fn wait_for_end(services: &Services) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut dump = signal(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => tracing::warn!("reloading the configuration is not built yet; nothing has changed"),
            _ = dump.recv() => tracing::info!(facts = ?services.facts(), "state of the engine"),
        }
    }
    tracing::info!("Processing signal, stopping containers");
    Ok(())
}
