//! `cargo xtask demo`: from a fresh machine to a container on our daemon, in one command.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{cargo, image, packages, target};

/// How long the daemon may take to answer.
const LIMIT: Duration = Duration::from_secs(20);
/// Asks the published port until its server is up.
const FETCH: &str = "until wget -qO- http://127.0.0.1:8080/; do usleep 10000; done 2>/dev/null";
/// Runs that are timed.
const ROUNDS: usize = 20;

/// A daemon of ours on private roots; ended when dropped.
struct Daemon {
    process: Child,
    host: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

/// Runs the demo.
pub(crate) fn run() -> Result<()> {
    packages::install(&["busybox", "docker", "ip"])?;
    cargo(&["build", "--release", "--package", "dockerd-rs"])?;
    let dir = target()?.join("demo");
    let daemon = start(&dir)?;
    let tar = dir.join("busybox.tar");
    image::build_tar(&tar)?;
    docker(&daemon, &["import", "--change", "CMD [\"sh\"]", &tar.to_string_lossy(), "busybox:latest"])?;
    docker(&daemon, &["version"])?;
    docker(&daemon, &["run", "--rm", "busybox", "echo", "hello from a container on dockerd-rs"])?;
    let page = "echo hello from port 8080 > /index.html; httpd -f -h /";
    docker(&daemon, &["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", page])?;
    docker(&daemon, &["ps"])?;
    // The demo's host is a network namespace of the daemon's own, so nothing of this machine's network is touched.
    docker(&daemon, &["run", "--rm", "--network", "host", "busybox", "sh", "-c", FETCH])?;
    docker(&daemon, &["rm", "-f", "web"])?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut command = client(&daemon);
        let status = command.args(["run", "--rm", "busybox", "true"]).status()?;
        ensure!(status.success(), "docker run failed");
        times.push(begun.elapsed());
    }
    times.sort();
    eprintln!("docker run --rm busybox true: median {:.1?} of {ROUNDS}, client included", times[ROUNDS / 2]);
    drop(daemon);
    fs::remove_dir_all(dir)?;
    Ok(())
}

fn start(dir: &Path) -> Result<Daemon> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    let path = |name: &str| -> PathBuf { dir.join(name) };
    let host = format!("unix://{}", path("docker.sock").display());
    let log = File::create(path("log"))?;
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"]);
    command
        .arg(target()?.join("release/dockerd-rs"))
        .arg("-H")
        .arg(&host)
        .arg("--data-root")
        .arg(path("data"))
        .arg("--exec-root")
        .arg(path("exec"));
    command.arg("--pidfile").arg(path("pid")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let daemon = Daemon { process: command.spawn().context("start the daemon (are you root?)")?, host };
    let begun = Instant::now();
    while !client(&daemon).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
        ensure!(begun.elapsed() < LIMIT, "the daemon does not answer: {}", fs::read_to_string(path("log"))?);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(daemon)
}

fn client(daemon: &Daemon) -> Command {
    let mut command = Command::new(packages::find("docker").unwrap_or_else(|| "docker".into()));
    command.arg("-H").arg(&daemon.host);
    command
}

fn docker(daemon: &Daemon, arguments: &[&str]) -> Result<()> {
    eprintln!("$ docker {}", arguments.join(" "));
    let status = client(daemon).args(arguments).status()?;
    ensure!(status.success(), "docker {} failed", arguments.join(" "));
    Ok(())
}
