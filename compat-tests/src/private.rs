//! A daemon with flags and an `/etc/docker` of its own, of the kind that is tested: one of ours, or one more of the stock
//! daemon that `COMPAT_HOST` names, started from the same root file system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::host::{Host, Kind};
use crate::network::Network;
use crate::{LIMIT, PAUSE};

/// Mounts the given `/etc/docker` and becomes the daemon. Arguments: directory, command.
const ENTER: &str = "e=$1; shift; set -e; ip link set lo up; mkdir -p /etc/docker; mount --bind \"$e\" /etc/docker; \
                     exec \"$@\"";

/// Flags of a stock daemon that is to touch neither links nor packet filters.
const OFF_THE_NETWORK: [&str; 3] = ["--bridge=none", "--iptables=false", "--ip6tables=false"];

/// A daemon of a test's own; ends when dropped.
#[derive(Debug)]
pub enum Private {
    /// One of ours.
    Ours(Daemon),
    /// A stock daemon.
    Stock(Stock),
}

/// A stock daemon beside the one that is tested.
#[derive(Debug)]
pub struct Stock {
    process: Child,
    host: Host,
    /// Its roots, as this process reaches them.
    dir: PathBuf,
}

impl Private {
    /// Starts one of the kind of `beside`, with these flags, and with the content of `etc` as `/etc/docker`.
    pub fn start(beside: &Host, flags: &[&str], etc: Option<&Path>) -> Result<Self> {
        match beside.kind {
            Kind::Ours => Ok(Self::Ours(Daemon::start_with(flags, etc)?)),
            Kind::Stock => Ok(Self::Stock(Stock::start(beside, &[&OFF_THE_NETWORK, flags].concat(), etc)?)),
        }
    }

    /// The same with a default bridge and rules of the packet filter, where the network is what is tested.
    pub fn start_with_network(beside: &Host, flags: &[&str]) -> Result<Self> {
        match beside.kind {
            Kind::Ours => Ok(Self::Ours(Daemon::start(flags)?)),
            Kind::Stock => Ok(Self::Stock(Stock::start(beside, flags, None)?)),
        }
    }

    /// Its address and process.
    pub fn host(&self) -> &Host {
        match self {
            Self::Ours(daemon) => daemon.host(),
            Self::Stock(stock) => &stock.host,
        }
    }

    /// Its network.
    pub fn network(&self) -> Result<Network> {
        Network::of(self.host())
    }
}

impl Stock {
    fn start(beside: &Host, flags: &[&str], etc: Option<&Path>) -> Result<Self> {
        // Where the other daemon sees temporary files of this process.
        let temporary = beside.path(Path::new("/tmp"));
        let dir = tempfile::Builder::new().prefix("compat-").tempdir_in(&temporary)?.keep();
        let seen = Path::new("/tmp").join(dir.file_name().context("a name")?);
        let inside = |name: &str| seen.join(name).to_string_lossy().into_owned();
        fs::create_dir(dir.join("etc"))?;
        if let Some(etc) = etc {
            copy(etc, &dir.join("etc"))?;
        }
        let mut command = Command::new("nsenter");
        let proc = format!("/proc/{}", beside.pid);
        command.args([format!("--mount={proc}/ns/mnt"), format!("--root={proc}/root"), format!("--wd={proc}/root")]);
        command.args(["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"]);
        command.args([&inside("etc"), "dockerd"]);
        command.args(["-H", &format!("unix://{}", inside("docker.sock")), "--pidfile", &inside("pid")]);
        command.args(["--data-root", &inside("data"), "--exec-root", &inside("exec")]).args(flags);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let log = File::create(dir.join("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut process = command.spawn().context("start a stock daemon")?;
        let begun = Instant::now();
        let host = loop {
            if let Ok(host) = Host::new(Kind::Stock, &dir.join("docker.sock"))
                && host.http("GET", "/_ping").is_ok_and(|answer| answer.status == 200)
            {
                break host;
            }
            let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
            ensure!(process.try_wait()?.is_none(), "the stock daemon ended: {}", log());
            ensure!(begun.elapsed() < LIMIT, "the stock daemon does not answer: {}", log());
            std::thread::sleep(PAUSE);
        };
        Ok(Self { process, host, dir })
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        // It ends its containerd too.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let begun = Instant::now();
        while begun.elapsed() < LIMIT && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(PAUSE);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
