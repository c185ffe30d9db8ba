//! A daemon of our own: started on private roots and in a network namespace of its own, killed and started again.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::LIMIT;
use crate::host::{Host, Kind};
use crate::network::Network;

/// Set in the environment of the daemon and what it starts for itself; its value is the daemon's directory.
pub const MARK: &str = "COMPAT_DAEMON";

/// A daemon of ours; asked to stop when dropped.
#[derive(Debug)]
pub struct Daemon {
    dir: tempfile::TempDir,
    flags: Vec<String>,
    /// Shell commands before it becomes the daemon.
    before: String,
    etc: Option<PathBuf>,
    process: Child,
    host: Host,
    /// Its network namespace, kept for the next start.
    network: File,
}

impl Daemon {
    /// Starts a daemon with more `flags` than those that make it private.
    pub fn start(flags: &[&str]) -> Result<Self> {
        Self::start_with(flags, None)
    }

    /// The same, with the directory `etc` as the daemon's `/etc/docker`.
    pub fn start_with(flags: &[&str], etc: Option<&Path>) -> Result<Self> {
        Self::start_in("true", flags, etc, None)
    }

    /// The same after shell commands, which leave their mark on the process.
    pub fn start_after(before: &str, flags: &[&str]) -> Result<Self> {
        Self::start_in(before, flags, None, None)
    }

    /// The same in a network that is there.
    pub fn start_within(network: &Network, before: &str, flags: &[&str]) -> Result<Self> {
        Self::start_in(before, flags, None, Some(network.file()?))
    }

    fn start_in(before: &str, flags: &[&str], etc: Option<&Path>, network: Option<File>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("compat-").tempdir()?;
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let etc = etc.map(Path::to_owned);
        let (process, host) = spawn(dir.path(), before, &flags, etc.as_deref(), network.as_ref())?;
        let network = File::open(format!("/proc/{}/ns/net", process.id()))?;
        Ok(Self { dir, flags, before: before.to_owned(), etc, process, host, network })
    }

    /// Its address and process.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its directory: `data`, `exec`, `docker.sock`, `log`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Kills it as the kernel's out-of-memory killer would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Starts it again on the same roots, in the same network namespace.
    pub fn restart(&mut self) -> Result<()> {
        let (etc, network) = (self.etc.as_deref(), Some(&self.network));
        (self.process, self.host) = spawn(self.dir.path(), &self.before, &self.flags, etc, network)?;
        Ok(())
    }

    /// As [`restart`](Self::restart), with other flags from now on.
    pub fn restart_with(&mut self, flags: &[&str]) -> Result<()> {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.restart()
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        if self.process.try_wait()?.is_some() {
            return Ok(());
        }
        ensure!(Command::new("kill").arg(self.process.id().to_string()).status()?.success(), "kill failed");
        let begun = Instant::now();
        while self.process.try_wait()?.is_none() {
            ensure!(begun.elapsed() < LIMIT, "the daemon does not stop: {}", self.log());
            std::thread::sleep(crate::PAUSE);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.stop().is_err() {
            let _ = self.kill();
        }
    }
}

fn spawn(
    dir: &Path,
    before: &str,
    flags: &[String],
    etc: Option<&Path>,
    network: Option<&File>,
) -> Result<(Child, Host)> {
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let socket = dir.join("docker.sock");
    let inside = &format!("{before}; ip link set lo up; exec \"$@\"");
    let mut command = match network {
        None => {
            let mut command = Command::new("unshare");
            command.arg("--net");
            command
        }
        Some(network) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{}/fd/{}", std::process::id(), network.as_raw_fd()));
            command
        }
    };
    if let Some(etc) = etc {
        let bind = "mkdir -p /etc/docker; mount --bind \"$0\" /etc/docker; exec \"$@\"";
        command.args(["unshare", "--mount", "sh", "-c", bind]).arg(etc);
    }
    command.args(["sh", "-c", inside, "sh"]).arg(binary()?);
    command.args(["-H", &format!("unix://{}", path("docker.sock")), "--data-root", &path("data")]);
    command.args(["--exec-root", &path("exec"), "--pidfile", &path("pid")]).args(flags).env(MARK, dir);
    let mut process =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("start the daemon")?;
    let begun = Instant::now();
    loop {
        if let Ok(host) = Host::new(Kind::Ours, &socket)
            && host.http("GET", "/_ping").is_ok_and(|answer| answer.status == 200)
        {
            return Ok((process, host));
        }
        let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
        ensure!(process.try_wait()?.is_none(), "the daemon ended: {}", log());
        ensure!(begun.elapsed() < LIMIT, "the daemon does not answer: {}", log());
        std::thread::sleep(crate::PAUSE);
    }
}

/// The daemon beside this test's own binary.
fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let binary = test.ancestors().nth(2).map(|dir| dir.join("dockerd-rs")).filter(|path| path.exists());
    binary.context("dockerd-rs is not built; `cargo xtask test` builds it")
}
