//! `cargo xtask bench`: our release build and the stock engine, measured in turn by `dockerd-bench`.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{cargo, packages, stock, target};

/// Builds, has a stock engine running, and hands everything to the runner together with `arguments`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    packages::install(&["busybox", "ip", "docker", "nsenter", "docker-registry", "mmdebstrap", "iperf3"])?;
    cargo(&["build", "--release", "--package", "dockerd-rs", "--package", "dockerd-bench"])?;
    let target = target()?;
    let built = target.join("release");
    let mut command = Command::new(built.join("dockerd-bench"));
    command.arg("--program").arg(built.join("dockerd-rs")).arg("--out").arg(target.join("bench"));
    // The guard ends an engine that was started here after the runner is done.
    let given = arguments.iter().any(|argument| argument == "--stock" || argument.starts_with("--stock="));
    let stock = if given { None } else { Some(stock::start()?) };
    if let Some(stock) = &stock {
        command.arg("--stock").arg(stock.host());
    }
    let status = command.args(arguments).status()?;
    ensure!(status.success(), "the bench failed ({status})");
    Ok(())
}
