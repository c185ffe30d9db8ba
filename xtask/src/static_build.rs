//! Static programs: the daemon as one file without run-time dependencies, and unit tests for machines without our
//! libraries.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{elf, target, workspace};

/// Naming the target keeps build scripts and procedural macros dynamic, which they have to be.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "-C target-feature=+crt-static";

/// The daemon; checked to need nothing.
pub(crate) fn daemon() -> Result<PathBuf> {
    let status = cargo(&["build", "--release", "--package", "dockerd-rs"]).status()?;
    ensure!(status.success(), "the static build failed");
    let program = target()?.join(TARGET).join("release/dockerd-rs");
    elf::ensure_static(&program)?;
    Ok(program)
}

/// The program with the unit tests of library `package`.
pub(crate) fn unit_tests(package: &str) -> Result<PathBuf> {
    let mut command =
        cargo(&["test", "--lib", "--no-run", "--message-format", "json-render-diagnostics", "--package", package]);
    // They are copied into a machine that lives in memory.
    command.env("CARGO_PROFILE_DEV_DEBUG", "0").stderr(Stdio::inherit());
    let output = command.output()?;
    ensure!(output.status.success(), "the static tests of {package} failed to build");
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let executable = messages.lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    let program = executable.with_context(|| format!("cargo names no test program of {package}"))?;
    elf::ensure_static(Path::new(&program))?;
    Ok(program)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).args(["--target", TARGET]).env("RUSTFLAGS", FLAGS).current_dir(workspace());
    command
}
