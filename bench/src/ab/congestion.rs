//! TCP's congestion control while a run lasts. New network namespaces take it from the machine's first one (tcp(7)), and so
//! do containers; the daemons' own are told.

use std::cell::RefCell;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

const FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What a run uses; what was before comes back when it goes.
#[derive(Debug)]
pub(super) struct Congestion {
    name: String,
    before: String,
    /// Processes whose namespaces were told, and what those had before.
    told: RefCell<Vec<(i32, String)>>,
}

impl Congestion {
    /// Everything made from now on uses the algorithm `name`.
    pub(super) fn set(name: &str) -> Result<Self> {
        let before = current();
        fs::write(FILE, name)
            .with_context(|| format!("let streams use {name} (only where this is the first namespace)"))?;
        Ok(Self { name: name.to_owned(), before, told: RefCell::default() })
    }

    /// So does the network namespace of a process.
    pub(super) fn set_for(&self, process: i32) -> Result<()> {
        let before = tell(process, &self.name)?;
        self.told.borrow_mut().push((process, before));
        Ok(())
    }
}

/// Has the network namespace of a process use `name`; what it used.
fn tell(process: i32, name: &str) -> Result<String> {
    let script = format!("cat {FILE} && echo {name} > {FILE}");
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{process}/ns/net")).args(["sh", "-c", &script]);
    let output = command.output().context("nsenter")?;
    ensure!(output.status.success(), "the daemon's network keeps its congestion control");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Drop for Congestion {
    fn drop(&mut self) {
        for (process, before) in self.told.take() {
            // A daemon that was started for the run has ended with its network.
            let _ = tell(process, &before);
        }
        if let Err(error) = fs::write(FILE, &self.before) {
            super::report::say(&format!("{FILE} is not {} again: {error}", self.before));
        }
    }
}

/// What new sockets here use.
pub(super) fn current() -> String {
    fs::read_to_string(FILE).map(|name| name.trim().to_owned()).unwrap_or_default()
}
