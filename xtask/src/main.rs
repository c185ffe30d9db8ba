//! Tasks of this repository: `cargo xtask demo | test | compat | bench | fuzz | ci | tidy | vm`. Each installs what it is
//! missing on Debian and Ubuntu and leaves nothing running.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod elf;
mod fuzz;
mod image;
mod packages;
mod static_build;
mod stock;
mod tidy;
mod vm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

/// Tasks of dockerd-rs.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build, start the daemon on a private socket, run a real container with the stock docker CLI.
    Demo,
    /// Install what is missing and run all tests. Needs root.
    Test,
    /// Run the black-box tests against a daemon. Needs root.
    Compat {
        /// Which daemon: `stock` (installed and started if need be), `ours`, or the address of a running one.
        #[arg(long, default_value = "ours")]
        against: String,
        /// Only tests whose names contain one of these.
        tests: Vec<String>,
    },
    /// Measure our release build and the stock engine in turn; what follows goes to the runner (`-- --help`). Needs root.
    Bench {
        /// Arguments of the runner.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the fuzz targets one after the other.
    Fuzz {
        /// For how long each.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Only targets whose names contain one of these.
        targets: Vec<String>,
    },
    /// What CI runs: formatting, lints, tidy, tests.
    Ci,
    /// Check the rules that no compiler checks.
    Tidy,
    /// Smoke test on a cgroup v2 machine with an older kernel, in a virtual machine.
    Vm {
        /// A static daemon that is built already.
        #[arg(long, value_name = "PATH")]
        daemon: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a backtrace, whatever the environment asks for: what failed has said why just above.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Demo => demo::run(),
        Task::Test => test(),
        Task::Compat { against, tests } => compat(&against, &tests),
        Task::Bench { arguments } => bench::run(&arguments),
        Task::Fuzz { seconds, targets } => fuzz::run(seconds, &targets),
        Task::Ci => {
            cargo(&["fmt", "--all", "--", "--check"])?;
            cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
            tidy::run()?;
            deny()?;
            fuzz::check()?;
            test()?;
            // Each micro bench once, so that they keep working.
            cargo(&["test", "--package", "dockerd-bench", "--benches"])
        }
        Task::Tidy => tidy::run(),
        Task::Vm { daemon } => vm_smoke(daemon),
    }
}

/// The workspace's directory.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where cargo builds, as its configuration and environment have it.
pub(crate) fn target() -> Result<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(workspace());
    let output = command.output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let directory = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(directory))
}

/// Runs cargo in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    let status = Command::new(env!("CARGO")).args(arguments).current_dir(workspace()).status()?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}

/// Licences, sources and banned crates of all dependencies; advisories need a database from the network and are left out.
fn deny() -> Result<()> {
    let installed = Command::new(env!("CARGO")).args(["deny", "--version"]).output()?;
    if !installed.status.success() {
        eprintln!("cargo-deny is not installed (cargo install cargo-deny --locked); its checks are left out");
        return Ok(());
    }
    cargo(&["deny", "check", "licenses", "bans", "sources"])
}

fn test() -> Result<()> {
    packages::install(&packages::TESTS)?;
    packages::unpack_for_tests()?;
    packages::install_firewalls()?;
    // The black-box tests start this binary.
    cargo(&["build", "--package", "dockerd-rs"])?;
    // All of them, so that one run tells everything that fails.
    cargo(&["test", "--workspace", "--no-fail-fast"])
}

fn compat(against: &str, tests: &[String]) -> Result<()> {
    packages::install(&packages::TESTS)?;
    packages::unpack_for_tests()?;
    packages::install_firewalls()?;
    let stock = if against == "stock" { Some(stock::start()?) } else { None };
    let host = match &stock {
        Some(stock) => Some(stock.host()),
        None if against == "ours" => None,
        None => Some(against),
    };
    ensure!(host.is_none_or(|host| host.starts_with("unix://")), "--against takes stock, ours or unix://...");
    cargo(&["build", "--package", "dockerd-rs"])?;
    // With the stock engine at hand, the roots it leaves are made anew.
    let can_make = ["gcc", "python3"].iter().all(|program| packages::find(program).is_some());
    let rootfs = stock::installed()?.filter(|_| can_make);
    // A test binary takes one name only.
    let names: Vec<Option<&String>> = if tests.is_empty() { vec![None] } else { tests.iter().map(Some).collect() };
    let mut all = true;
    for name in names {
        let mut command = Command::new(env!("CARGO"));
        command.args(["test", "--package", "compat-tests", "--no-fail-fast", "--"]).args(name).current_dir(workspace());
        match host {
            Some(host) => command.env("COMPAT_HOST", host),
            None => command.env_remove("COMPAT_HOST"),
        };
        if let Some(rootfs) = &rootfs {
            command.env("MOVING_ROOTFS", rootfs);
        }
        all &= command.status()?.success();
    }
    ensure!(all, "the black-box tests failed against {against}");
    Ok(())
}

fn vm_smoke(daemon: Option<PathBuf>) -> Result<()> {
    packages::install(&["busybox", "docker", "qemu-system-x86_64", "cpio", "modprobe", "ncat"])?;
    let daemon = daemon.map_or_else(static_build::daemon, Ok)?;
    let work = target()?.join("vm");
    std::fs::create_dir_all(&work)?;
    let mut programs = vec![
        (daemon, "dockerd-rs".to_owned()),
        (packages::find("docker").context("no docker CLI")?, "docker".to_owned()),
        (packages::find("busybox").context("no busybox")?, "busybox".to_owned()),
        (packages::find("ncat").context("no ncat")?, "ncat".to_owned()),
        (workspace().join("xtask/smoke.sh"), "smoke.sh".to_owned()),
    ];
    // Their privileged tests make cgroups, filters and mounts, each by what the kernel has.
    for package in ["dockerd-sys", "dockerd-runtime"] {
        programs.push((static_build::unit_tests(package)?, format!("tests-{package}")));
    }
    vm::run(&work, &programs)
}
