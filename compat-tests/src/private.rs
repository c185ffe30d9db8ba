//! A daemon of ours for one test alone, with an image called `busybox`: for what cannot be asked of a shared daemon, such
//! as its death.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::case::Ran;
use crate::daemon::Daemon;
use crate::{LIMIT, PAUSE, image};

/// The daemon; ended when dropped, its containers before it.
#[derive(Debug)]
pub struct PrivateDaemon(Daemon);

impl PrivateDaemon {
    /// Starts a daemon and gives it the image.
    pub fn start() -> Result<Self> {
        let daemon = Daemon::start(&[])?;
        let tar = daemon.dir().join("busybox.tar");
        image::build(&tar)?;
        let made =
            daemon.host().docker(&["import", "--change", "CMD [\"sh\"]", &tar.to_string_lossy(), "busybox:latest"], "");
        ensure!(made.code == 0, "import failed: {}", made.err);
        Ok(Self(daemon))
    }

    /// Kills the daemon as the kernel's out-of-memory killer would, and starts it again.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.restart()
    }

    /// A directory for the test's files.
    pub fn dir(&self) -> &Path {
        self.0.dir()
    }

    /// Runs the docker CLI.
    pub fn docker(&self, arguments: &[&str]) -> Ran {
        self.0.host().docker(arguments, "")
    }

    /// Runs the docker CLI with `input` on its standard input.
    pub fn docker_with(&self, arguments: &[&str], input: &str) -> Ran {
        self.0.host().docker(arguments, input)
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
            std::thread::sleep(PAUSE);
        }
    }

    /// Lines of the host's mount table that belong to this daemon.
    pub fn leftovers(&self) -> Vec<String> {
        let dir = self.dir().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        for id in self.docker(&["ps", "-aq"]).out.lines() {
            self.docker(&["rm", "-f", id]);
        }
    }
}
