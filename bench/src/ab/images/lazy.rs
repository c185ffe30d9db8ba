//! How soon a container of an image that is not here yet says something, when the registry is far away: the daemon's loopback
//! interface is slowed down meanwhile, and its layer has a table of contents.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::super::daemon::Daemon;
use super::super::sample::{Series, Unit};
use super::super::{Bench, since};
use super::{PORT, docker, megabytes, registries, remove, settle};

const REPOSITORY: &str = "bench/indexed";
/// Megabytes of the layer's tar; one of the two that have a shell.
const LAYER: u32 = 400;
/// Megabits a second.
const RATE: u32 = 100;

/// Takes the measure.
pub(crate) fn lazy(bench: &mut Bench) -> Result<()> {
    let image = bench.inputs()?.indexed(if bench.options.quick { 10 } else { LAYER })?;
    let size: u64 = image.layers.iter().map(|layer| layer.size).sum();
    let registries = registries(bench, &[(&image, REPOSITORY)])?;
    let name = format!("127.0.0.1:{PORT}/{REPOSITORY}");
    let count = bench.daemons.len();
    let series = vec![
        Series::new(
            format!("pull and run {:.0} MB (eStargz) at {RATE} Mbit/s: first output", megabytes(size)),
            Unit::Millis,
            None,
            count,
        ),
        Series::new("of that, the pull", Unit::Millis, None, count),
    ];
    let reference = format!("{name}:latest");
    let done = bench.rounds(series, |daemon| {
        settle(daemon)?;
        image.touch()?;
        let slow = Slow::down(daemon)?;
        let begun = Instant::now();
        docker(daemon, &["pull", "-q", &reference])?;
        let pulled = since(begun);
        docker(daemon, &["run", "--rm", "--network", "none", &reference, "/bin/busybox", "echo", "here"])?;
        let ran = since(begun);
        drop(slow);
        remove(daemon, &reference)?;
        Ok(vec![ran, pulled])
    });
    drop(registries);
    done
}

/// A loopback interface that is slow until this is dropped.
struct Slow {
    pid: i32,
}

impl Slow {
    fn down(daemon: &Daemon) -> Result<Self> {
        let slow = Self { pid: daemon.pid };
        let (rate, of_rate) = (format!("{RATE}mbit"), ["burst", "256kb", "latency", "500ms"]);
        let added = slow.tc(&[&["replace", "dev", "lo", "root", "tbf", "rate", &rate], &of_rate[..]].concat());
        ensure!(added.context("run tc (is iproute2 installed?)")?, "the loopback interface cannot be slowed down");
        Ok(slow)
    }

    fn tc(&self, arguments: &[&str]) -> Result<bool> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid)).args(["tc", "qdisc"]).args(arguments);
        Ok(command.stdin(Stdio::null()).status()?.success())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Without it the namespace stays slow; the next measure would show it.
        let _ = self.tc(&["del", "dev", "lo", "root"]);
    }
}
