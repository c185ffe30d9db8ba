//! Black-box tests: the stock docker CLI against a daemon that is started for them, on private roots and in a network
//! namespace of its own. Knows nothing of the daemon's insides.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long a daemon may take to answer, and a condition to come true.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A daemon of the test's own.
#[derive(Debug)]
pub struct Daemon {
    dir: tempfile::TempDir,
    process: Child,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Standard output, trimmed.
    pub out: String,
    /// Standard error, trimmed.
    pub err: String,
    /// Exit code.
    pub code: i32,
}

impl Daemon {
    /// Starts a daemon and gives it an image `busybox`.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let process = spawn(dir.path())?;
        let daemon = Self { dir, process };
        daemon.wait_ready()?;
        let tar = daemon.dir.path().join("busybox.tar");
        build_image(&tar)?;
        let tar = tar.to_string_lossy().into_owned();
        let made = daemon.docker(&["import", "--change", "CMD [\"sh\"]", &tar, "busybox:latest"]);
        ensure!(made.code == 0, "import failed: {}", made.err);
        Ok(daemon)
    }

    /// Kills the daemon as the kernel's out-of-memory killer would, and starts it again.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.process = spawn(self.dir.path())?;
        self.wait_ready()
    }

    /// A directory for the test's files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs the docker CLI.
    pub fn docker(&self, arguments: &[&str]) -> Ran {
        self.docker_with(arguments, "")
    }

    /// Runs the docker CLI with `input` on its standard input.
    pub fn docker_with(&self, arguments: &[&str], input: &str) -> Ran {
        let output = run(client(self.dir.path()).args(arguments), input);
        output.unwrap_or_else(|error| Ran { out: String::new(), err: error.to_string(), code: -1 })
    }

    /// `docker run --rm --network none busybox ARGUMENTS`.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.docker(&[&["run", "--rm", "--network", "none", "busybox"], arguments].concat())
    }

    /// Waits until `docker ARGUMENTS` prints `wanted`.
    pub fn wait_for(&self, arguments: &[&str], wanted: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let ran = self.docker(arguments);
            if ran.out == wanted {
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT, "{arguments:?} printed {:?} {:?}, not {wanted:?}", ran.out, ran.err);
        }
    }

    fn wait_ready(&self) -> Result<()> {
        let begun = Instant::now();
        while self.docker(&["version"]).code != 0 {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            ensure!(begun.elapsed() < LIMIT, "the daemon does not answer: {}", log());
        }
        Ok(())
    }

    /// Lines of the host's mount table, cgroup directories and processes that belong to this daemon.
    pub fn leftovers(&self) -> Vec<String> {
        let dir = self.dir.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let all = self.docker(&["ps", "-aq"]);
        for id in all.out.lines() {
            self.docker(&["rm", "-f", id]);
        }
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

fn spawn(dir: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let inside = "ip link set lo up; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", inside, "sh"]).arg(binary()?);
    command.args(["-H", &format!("unix://{}", path("docker.sock")), "--data-root", &path("data")]);
    command.args(["--exec-root", &path("exec"), "--pidfile", &path("pid")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("start the daemon")
}

/// The daemon beside this test's own binary.
fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let binary = test.ancestors().nth(2).map(|dir| dir.join("dockerd-rs")).filter(|path| path.exists());
    binary.context("dockerd-rs is not built; `cargo xtask test` builds it")
}

fn client(dir: &Path) -> Command {
    let mut command = Command::new("docker");
    command.arg("-H").arg(format!("unix://{}", dir.join("docker.sock").display()));
    command
}

fn run(command: &mut Command, input: &str) -> Result<Ran> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A client that wants no input may have closed it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(Ran { out: text(stdout), err: text(stderr), code: status.code().unwrap_or(-1) })
}

fn build_image(tar: &Path) -> Result<()> {
    let root = tar.with_extension("root");
    for dir in ["bin", "etc", "tmp", "root", "data"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::write(root.join("data/from-image"), "copied\n")?;
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.context("busybox-static is not installed")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    let list = Command::new(busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    let status = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(tar).arg(".").status()?;
    ensure!(status.success(), "tar failed");
    Ok(fs::remove_dir_all(root)?)
}
