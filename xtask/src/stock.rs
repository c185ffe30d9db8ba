//! The stock Docker Engine as a peer to compare with: installed from Debian's packages into a root file system of its own,
//! run in a network and a mount namespace of its own, so that nothing is installed on this machine, nothing clashes with
//! what runs on it, and nothing inside reaches the network.
//!
//! [`start`] installs what is missing and hands out a [`Stock`]: its address, its processes; a daemon started here ends
//! with the guard, one that was already running is used and left running. The environment variable `STOCK_PEER_ROOT`
//! names an existing root to use instead.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::packages;

/// The Debian suite the engine comes from: Docker 28.5, whose newest API is the one we serve.
const SUITE: &str = "forky";
/// What is installed: the engine, its clients and what they look for at run time.
const INCLUDE: &str = "docker.io,docker-cli,docker-compose,docker-buildx,containerd,runc,crun,iptables,nftables,iproute2,\
                       ca-certificates,procps";
/// How long the engine may take to listen, or to end.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at a socket that is not there yet.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes the mounts a daemon needs inside its root and becomes that daemon. Arguments: root, socket folder, command.
///
/// The root is pivoted to, not merely changed to: `docker exec` enters a container's mount namespace by `setns`, which
/// puts it at that namespace's root, and after `chroot` that would be this machine's.
const ENTER: &str = r#"
r=$1; s=$2; shift 2; set -e
ip link set lo up
mount --bind "$r" "$r"; mount -t proc proc "$r/proc"; mount -t sysfs sysfs "$r/sys"
mount --rbind /sys/fs/cgroup "$r/sys/fs/cgroup"; mount --rbind /dev "$r/dev"; mount -t tmpfs tmpfs "$r/run"
mkdir -p "$r$s"; mount --bind "$s" "$r$s"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p "$r/.old"; cd "$r"; pivot_root . .old; cd /
umount -l /.old
exec "$@"
"#;

/// A running stock engine.
#[derive(Debug)]
pub(crate) struct Stock {
    root: PathBuf,
    host: String,
    /// The daemon, when it was started here.
    own: Option<Child>,
}

impl Stock {
    /// The value for `DOCKER_HOST`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// All processes of the engine outside its containers: dockerd, containerd, shims, port proxies.
    #[allow(dead_code, reason = "for the bench")]
    pub(crate) fn processes(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids: Vec<u32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        // They share the mount namespace of the one that was told the address; containers have their own.
        let namespace = |pid: &u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let is_daemon = |pid: &&u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.starts_with("dockerd\0") && line.contains(&self.host)
        };
        let Some(engine) = pids.iter().find(is_daemon).and_then(namespace) else { return Vec::new() };
        pids.into_iter().filter(|pid| namespace(pid).as_ref() == Some(&engine)).collect()
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let Some(daemon) = &mut self.own else { return };
        // The daemon stops its containers, then containerd.
        let _ = Command::new("kill").arg(daemon.id().to_string()).status();
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            if daemon.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = daemon.kill();
        let _ = daemon.wait();
    }
}

/// Makes the root file system unless it is there; returns where it is. Takes about half a minute and one gigabyte.
pub(crate) fn install() -> Result<PathBuf> {
    let root = root()?;
    packages::install_root(&root, SUITE, INCLUDE)?;
    Ok(root)
}

/// The root file system, where it is made already.
pub(crate) fn installed() -> Result<Option<PathBuf>> {
    let root = root()?;
    Ok(root.join(".ready").exists().then_some(root))
}

/// A running engine: the one that is up already, or one started for the caller.
pub(crate) fn start() -> Result<Stock> {
    let root = install()?;
    let parent = root.parent().context("the stock engine's root must be in a folder")?.to_owned();
    let sockets = parent.join("sock");
    let socket = sockets.join("docker.sock");
    let host = format!("unix://{}", socket.display());
    let mut stock = Stock { root, host, own: None };
    if UnixStream::connect(&socket).is_ok() {
        return Ok(stock);
    }
    fs::create_dir_all(&sockets)?;
    if socket.exists() {
        fs::remove_file(&socket)?;
    }
    let log = parent.join("dockerd.log");
    stock.own = Some(spawn(&stock, &sockets, &log)?);
    wait(&mut stock, &socket).with_context(|| tail(&log))?;
    Ok(stock)
}

fn spawn(stock: &Stock, sockets: &Path, log: &Path) -> Result<Child> {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"]);
    command.arg(&stock.root).arg(sockets).args(["dockerd", "-H", &stock.host]);
    let log = File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("start the stock engine (are you root?)")
}

fn wait(stock: &mut Stock, socket: &Path) -> Result<()> {
    let begun = Instant::now();
    while UnixStream::connect(socket).is_err() {
        if let Some(daemon) = &mut stock.own
            && let Some(status) = daemon.try_wait()?
        {
            bail!("the stock engine ended ({status})");
        }
        ensure!(begun.elapsed() < LIMIT, "the stock engine does not listen");
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Where the root file system is, or is to be.
fn root() -> Result<PathBuf> {
    if let Some(root) = std::env::var_os("STOCK_PEER_ROOT") {
        return Ok(PathBuf::from(root));
    }
    Ok(packages::cache()?.join("stock").join(SUITE))
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
