//! What people see: the stock CLI, its own time included.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::daemon::Daemon;
use super::sample::Unit;
use super::{Bench, IMAGE, since};

/// `docker run --rm busybox true`, and `docker ps` to show what of it is the CLI.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let network = bench.network.clone();
    let titles =
        [("docker run --rm busybox true", Unit::Millis, Some(20.0)), ("docker ps (CLI alone)", Unit::Millis, None)];
    bench.in_turn(bench.options.rounds, titles, |daemon| {
        let run = timed(daemon, &["run", "--rm", "--network", &network, IMAGE, "true"])?;
        Ok([run, timed(daemon, &["ps", "-q"])?])
    })
}

fn timed(daemon: &Daemon, arguments: &[&str]) -> Result<f64> {
    let mut command = Command::new("docker");
    command.arg("-H").arg(format!("unix://{}", daemon.socket.display())).args(arguments);
    command.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_HOST");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let begun = Instant::now();
    let output = command.output().context("run the docker CLI")?;
    let time = since(begun);
    ensure!(output.status.success(), "docker {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(time)
}
