//! A daemon started the way a test wants it: any flags, any environment, signals, and its supervisor in reach.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Private roots and the daemon that uses them, if one runs.
pub(crate) struct Bed {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

/// The daemon's program, beside this test's own.
pub(crate) fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let binary = test.ancestors().nth(2).map(|dir| dir.join("dockerd-rs")).filter(|path| path.exists());
    binary.context("dockerd-rs is not built; `cargo xtask test` builds it")
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<Said> {
    let output = command.stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    Ok(Said { out: text(&output.stdout), err: text(&output.stderr), code })
}

/// Asks until `condition` answers something; a bounded wait for what has no event to wait for.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        ensure!(begun.elapsed() < LIMIT, "{what} did not come about");
        std::thread::yield_now();
    }
}

impl Bed {
    /// A daemon with these flags, and a published port on a network with IPv6.
    pub(crate) fn with_a_port(flags: &[&str]) -> Result<Self> {
        let mut bed = Self::new()?.flags(flags);
        bed.start()?;
        bed.import()?;
        bed.must(&["network", "create", "--ipv6", "six"])?;
        bed.must(&["run", "-d", "--name", "one", "--network", "six", "-p", "4000:80", "busybox", "sleep", "1000"])?;
        Ok(bed)
    }

    /// nft(8) in the daemon's network namespace.
    pub(crate) fn nft(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = Command::new("nsenter");
        run(command.args(["-t", &self.pid().to_string(), "-n", "nft"]).args(arguments))
    }

    /// All rules there.
    pub(crate) fn rules(&self) -> Result<String> {
        let said = self.nft(&["-s", "list", "ruleset"])?;
        ensure!(said.code == 0, "{}", said.err);
        Ok(said.out)
    }

    /// Roots only.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::tempdir()?, daemon: None, flags: Vec::new(), environment: Vec::new() })
    }

    /// With flags beside those for the roots.
    pub(crate) fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// With a variable in the daemon's environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A path in the test's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// The flags that name the roots.
    pub(crate) fn roots(&self) -> Vec<String> {
        let pairs = [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")];
        pairs.into_iter().flat_map(|(flag, name)| [flag.to_owned(), self.text(name)]).collect()
    }

    fn command(&self, before: &str) -> Result<Command> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", &format!("ip link set lo up; {before} exec \"$@\""), "sh"]);
        command.arg(binary()?).args(self.roots()).args(&self.flags);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(command)
    }

    /// Starts the daemon on a unix socket and waits until it answers.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.start_after("")
    }

    /// The same, and the shell does this first in the daemon's network namespace.
    pub(crate) fn start_after(&mut self, before: &str) -> Result<()> {
        let socket = format!("unix://{}", self.text("docker.sock"));
        let mut command = self.command(before)?;
        self.daemon = Some(command.args(["-H", &socket]).spawn()?);
        self.answered()
    }

    /// Ends the daemon and starts it again with other flags, in the same network namespace.
    pub(crate) fn restart_with(&mut self, flags: &[&str]) -> Result<()> {
        let network = File::open(format!("/proc/{}/ns/net", self.pid()))?;
        self.signal("TERM")?;
        self.ended()?;
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/fd/{}", std::process::id(), network.as_raw_fd()));
        command.arg(binary()?).args(self.roots()).args(&self.flags);
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.args(["-H", &format!("unix://{}", self.text("docker.sock"))]).spawn()?);
        self.answered()
    }

    /// Starts it with a listening socket handed over as the service manager would.
    pub(crate) fn start_activated(&mut self, listener: OwnedFd, host: &str) -> Result<()> {
        let mut command =
            self.command("exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=api;")?;
        self.daemon = Some(command.args(["-H", host]).stdin(Stdio::from(listener)).spawn()?);
        self.answered()
    }

    fn answered(&mut self) -> Result<()> {
        let begun = Instant::now();
        while self.docker(&["version"]).code != 0 {
            if let Some(status) = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten()) {
                bail!("the daemon has ended: {status}: {}", self.log());
            }
            ensure!(begun.elapsed() < LIMIT, "the daemon does not answer: {}", self.log());
        }
        Ok(())
    }

    /// Starts it where it is to fail: what it says. It may get as far as making its bridge, which goes with the namespace.
    pub(crate) fn refused(&self, flags: &[&str]) -> Result<Said> {
        run(Command::new("unshare").arg("--net").arg(binary()?).args(flags))
    }

    /// What the daemon has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until the daemon has logged `text`.
    pub(crate) fn logged(&self, text: &str) -> Result<()> {
        until(&format!("{text:?} in the log"), || self.log().contains(text).then_some(()))
    }

    /// The docker CLI.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Said {
        let host = format!("unix://{}", self.text("docker.sock"));
        let said = run(Command::new("docker").args(["-H", &host]).args(arguments));
        said.unwrap_or_else(|error| Said { out: String::new(), err: error.to_string(), code: -1 })
    }

    /// As [`Bed::docker`], where it must succeed: its output, trimmed.
    pub(crate) fn must(&self, arguments: &[&str]) -> Result<String> {
        let said = self.docker(arguments);
        ensure!(said.code == 0, "{arguments:?}: {said:?}");
        Ok(said.out.trim().to_owned())
    }

    /// Gives the daemon an image `busybox`.
    pub(crate) fn import(&self) -> Result<()> {
        let root = self.path("root");
        fs::create_dir_all(root.join("bin"))?;
        let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.context("busybox-static is not installed")?;
        fs::copy(busybox, root.join("bin/busybox"))?;
        for applet in ["sh", "sleep", "seq", "cat", "true"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
        let tar = self.text("root.tar");
        ensure!(run(Command::new("tar").arg("-C").arg(&root).args(["-cf", &tar, "."]))?.code == 0, "tar failed");
        self.must(&["import", &tar, "busybox:latest"]).map(drop)
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Child::id)
    }

    /// Sends the daemon a signal.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        kill(signal, self.pid())
    }

    /// Waits for the daemon's end: its exit code, negative for a signal.
    pub(crate) fn ended(&mut self) -> Result<i32> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        let status = until("the daemon's end", || daemon.try_wait().ok().flatten())?;
        use std::os::unix::process::ExitStatusExt;
        Ok(status.code().unwrap_or_else(|| -status.signal().unwrap_or_default()))
    }

    /// The supervisor's process id.
    pub(crate) fn supervisor(&self) -> Option<u32> {
        let exec_root = self.text("exec");
        let processes = fs::read_dir("/proc").ok()?.flatten();
        processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            arguments.contains(&&b"supervisor"[..]) && arguments.contains(&exec_root.as_bytes())
        })
    }

    /// `kill -9` of the daemon.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal("KILL")?;
        self.ended().map(drop)
    }

    /// `kill -9` of the supervisor, and its end.
    pub(crate) fn kill_supervisor(&self) -> Result<()> {
        let pid = self.supervisor().context("no supervisor")?;
        kill("KILL", pid)?;
        until("the supervisor's end", || (self.supervisor() != Some(pid)).then_some(()))
    }
}

/// kill(1).
pub(crate) fn kill(signal: &str, pid: u32) -> Result<()> {
    let said = run(Command::new("kill").args(["-s", signal, &pid.to_string()]))?;
    ensure!(said.code == 0, "kill: {}", said.err);
    Ok(())
}

impl Drop for Bed {
    fn drop(&mut self) {
        for id in self.docker(&["ps", "-aq"]).out.lines() {
            self.docker(&["rm", "-f", id]);
        }
        if self.daemon.is_some() && self.signal("TERM").is_ok() {
            let _ = self.ended();
        }
        if let Some(pid) = self.supervisor() {
            let _ = kill("KILL", pid);
        }
    }
}
