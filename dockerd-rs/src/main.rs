//! The daemon's binary. Which mode it runs in is decided before any thread exists: `supervisor` is the process that
//! outlives the daemon, `import-docker-root` takes over another daemon's data, everything else is the daemon.
#![forbid(unsafe_code)]

mod bridge;
mod check;
mod cli;
mod config;
mod flags;
mod hosts;
mod listen;
mod logging;
mod memory;
mod moving;
mod notify;
mod pidfile;
mod signals;
mod tls;
mod values;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use api_compat::ServerConfig;
use dockerd_core::Services;
use tokio::sync::watch;

use crate::cli::Cli;
use crate::config::Config;
use crate::logging::Log;
use crate::notify::notify;
use crate::pidfile::PidFile;
use crate::signals::{Reloader, Signals};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long connections may take to end after the engine has.
const DRAIN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let _program = arguments.next();
    let mut arguments = arguments.peekable();
    if arguments.peek().is_some_and(|mode| mode == "supervisor") {
        arguments.next();
        dockerd_runtime::modes::supervisor_main(arguments);
    }
    let arguments: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
    if arguments.first().is_some_and(|mode| mode == moving::COMMAND) {
        return moving::main(&arguments[1..]);
    }
    let cli = match Cli::parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = write!(std::io::stderr(), "{}", cli::complaint(&error));
            return ExitCode::FAILURE;
        }
    };
    // `-h` in a cluster of letters is `-h` too.
    let is_short =
        |argument: &String| argument.starts_with('-') && !argument.starts_with("--") && argument.ends_with('h');
    match daemon(cli, arguments.iter().any(is_short)) {
        Ok(code) => code,
        Err(error) => {
            // The log may not be there yet; this is the last thing said.
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn daemon(cli: Cli, short_help: bool) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if cli.is_true("help") {
        let deprecated = if short_help { "Flag shorthand -h has been deprecated, please use --help\n" } else { "" };
        write!(out, "{deprecated}{}", cli::help_page())?;
        return Ok(ExitCode::SUCCESS);
    }
    if cli.is_true("version") {
        let version = dockerd_core::EngineConfig::new("/", "/").version;
        writeln!(out, "Docker version {version}, build dockerd-rs-{}", env!("CARGO_PKG_VERSION"))?;
        return Ok(ExitCode::SUCCESS);
    }
    drop(out);
    let config = Config::resolve(&cli)?;
    let tls = config.tls.as_ref().map(tls::TlsFiles::acceptor).transpose()?;
    if cli.is_true("validate") {
        writeln!(std::io::stderr(), "configuration OK")?;
        return Ok(ExitCode::SUCCESS);
    }
    let log = Log::start(&config.log_level, config.json_logs);
    tracing::info!("Starting up");
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let _pidfile = PidFile::claim(&config.pidfile)?;
    memory::prepare();
    // Containers keep pipes open here; they themselves get the limit this process was started with.
    if let Err(error) = dockerd_sys::process::raise_open_files(None) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    // Threads made from here on, and the supervisor, answer soon also on a busy host.
    dockerd_sys::process::short_turns();
    let level = if config.engine.debug { "info".to_owned() } else { config.log_level.clone() };
    let reloader = Reloader { cli, log, level };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)))
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(config, tls, reloader));
    // What still hangs in a system call has had its time.
    runtime.shutdown_background();
    result
}

async fn run(config: Config, tls: Option<tokio_rustls::TlsAcceptor>, mut reloader: Reloader) -> Result<ExitCode> {
    let mut signals = Signals::watch()?;
    let server = ServerConfig { version: config.engine.version.clone(), experimental: config.engine.experimental };
    if let Some(from) = config.import_root {
        let engine = config.engine.clone();
        tokio::task::spawn_blocking(move || moving::at_first_start(&engine, from))
            .await?
            .context("failed to start daemon")?;
    }
    let services = Services::open(config.engine).await.context("failed to start daemon")?;
    // After the engine, whose locks tell that a socket that lies there is nobody's.
    let sockets = listen::open(&config.hosts, config.group.as_deref(), tls.as_ref()).await;
    let sockets = sockets.context("failed to load listeners")?;
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(api_compat::serve(sockets.listeners, services.clone(), server, stopping));
    notify("READY=1");
    notify::feed_watchdog();
    memory::watch();
    tracing::info!("Daemon has completed initialization");
    signals.until_end(&services, &mut reloader).await;
    notify("STOPPING=1");
    tokio::select! {
        () = services.shutdown() => {}
        code = signals.until_forced() => return Ok(ExitCode::from(code)),
    }
    stop.send_replace(true);
    if let Ok(served) = tokio::time::timeout(DRAIN, serving).await {
        served??;
    }
    tracing::info!("Daemon shutdown complete");
    Ok(ExitCode::SUCCESS)
}
