//! TCP's congestion control while a run lasts. New network namespaces take it from the machine's first one (tcp(7)), and so
//! do containers; the daemons' own are told.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

const FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What a run uses; what was before comes back when it goes.
#[derive(Debug)]
pub(super) struct Congestion {
    name: String,
    before: String,
}

impl Congestion {
    /// Everything made from now on uses the algorithm `name`.
    pub(super) fn set(name: &str) -> Result<Self> {
        let before = current();
        fs::write(FILE, name)
            .with_context(|| format!("let streams use {name} (only where this is the first namespace)"))?;
        Ok(Self { name: name.to_owned(), before })
    }

    /// So does the network namespace of a process.
    pub(super) fn set_for(&self, process: i32) -> Result<()> {
        let script = format!("echo {} > {FILE}", self.name);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{process}/ns/net")).args(["sh", "-c", &script]);
        ensure!(command.status().context("nsenter")?.success(), "the daemon's network keeps its congestion control");
        Ok(())
    }
}

impl Drop for Congestion {
    fn drop(&mut self) {
        if let Err(error) = fs::write(FILE, &self.before) {
            super::report::say(&format!("{FILE} is not {} again: {error}", self.before));
        }
    }
}

/// What new sockets here use.
pub(super) fn current() -> String {
    fs::read_to_string(FILE).map(|name| name.trim().to_owned()).unwrap_or_default()
}
