//! Faults of the machine, made at the border of the kernel while a daemon works: system calls that fail, by strace(1), and
//! files that cannot grow, by `RLIMIT_FSIZE`, where a write is cut short first and fails then (setrlimit(2)).

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::{LIMIT, PAUSE};

/// What fails.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The call of that number, counted in each thread for itself, fails with that error.
    Call {
        /// Names of system calls, with commas between.
        calls: &'static str,
        /// The name of an error.
        error: &'static str,
        /// Which one.
        nth: usize,
        /// Only calls on this file.
        path: Option<PathBuf>,
    },
    /// No file may have more than so many bytes.
    FileSize(u64),
}

impl Fault {
    /// The `nth` of these calls fails with `EIO`.
    pub fn eio(calls: &'static str, nth: usize) -> Self {
        Self::Call { calls, error: "EIO", nth, path: None }
    }
}

/// A fault in force; ends when dropped.
#[derive(Debug)]
pub struct Injected {
    pid: u32,
    strace: Option<Child>,
}

impl Injected {
    /// Brings `fault` upon the process `pid` with all its threads.
    pub fn into_process(pid: u32, fault: &Fault) -> Result<Self> {
        match fault {
            Fault::FileSize(most) => {
                limit(pid, &most.to_string())?;
                Ok(Self { pid, strace: None })
            }
            Fault::Call { calls, error, nth, path } => {
                let mut command = Command::new("strace");
                command.args(["--quiet=all", "-f", "-o", "/dev/null", "-e", "signal=none", "-p", &pid.to_string()]);
                command.args([
                    "-e",
                    &format!("trace={calls}"),
                    "-e",
                    &format!("inject={calls}:error={error}:when={nth}"),
                ]);
                if let Some(path) = path {
                    command.arg("-P").arg(path);
                }
                let output = (Stdio::null(), Stdio::null());
                let strace =
                    command.stdin(Stdio::null()).stdout(output.0).stderr(output.1).spawn().context("strace")?;
                let mut injected = Self { pid, strace: Some(strace) };
                injected.attached()?;
                Ok(injected)
            }
        }
    }

    /// Waits until every thread is traced.
    fn attached(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let mut tasks = fs::read_dir(format!("/proc/{}/task", self.pid))?.flatten();
            let is_traced = |task: fs::DirEntry| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                // A thread that has ended meanwhile says nothing.
                status
                    .lines()
                    .find_map(|line| line.strip_prefix("TracerPid:"))
                    .is_none_or(|tracer| tracer.trim() != "0")
            };
            if tasks.all(is_traced) {
                return Ok(());
            }
            let ended = self.strace.as_mut().and_then(|strace| strace.try_wait().ok().flatten());
            ensure!(ended.is_none(), "strace has ended: {ended:?}");
            ensure!(begun.elapsed() < LIMIT, "strace does not attach");
            std::thread::sleep(PAUSE);
        }
    }
}

fn limit(pid: u32, most: &str) -> Result<()> {
    let status =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--fsize={most}:unlimited")]).status()?;
    ensure!(status.success(), "prlimit failed");
    Ok(())
}

impl Drop for Injected {
    fn drop(&mut self) {
        match &mut self.strace {
            // It lets go of the threads before it ends.
            Some(strace) => {
                let _ = Command::new("kill").args(["-s", "INT", &strace.id().to_string()]).status();
                let _ = strace.wait();
            }
            None => _ = limit(self.pid, "unlimited"),
        }
    }
}
