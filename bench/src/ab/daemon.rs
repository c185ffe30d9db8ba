//! The daemons that are measured: one that is given by its socket, or ours, started for this run on private roots and in
//! a network namespace of its own, as the stock one is.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::api::{Api, Order, Ports};
use super::process;

/// How long a daemon may take to answer.
const LIMIT: Duration = Duration::from_secs(20);

/// A daemon that is measured.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// What it is called in the results.
    pub(crate) name: &'static str,
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// The kept connection.
    pub(crate) api: Api,
    /// What it says about itself.
    pub(crate) version: String,
    /// What it keeps layers by.
    pub(crate) driver: String,
    /// Its process.
    pub(crate) pid: i32,
    /// Resident bytes of its processes when this run found or started it.
    pub(crate) idle: u64,
    own: Option<OwnProcess>,
}

impl Daemon {
    /// A daemon that runs already.
    pub(crate) fn at(name: &'static str, socket: &str) -> Result<Self> {
        Self::connect(name, PathBuf::from(socket.strip_prefix("unix://").unwrap_or(socket)), None)
    }

    /// Starts `program` with everything it writes below `dir`; layers are kept by `driver`.
    pub(crate) fn start(name: &'static str, program: &Path, dir: &Path, driver: &str) -> Result<Self> {
        let mut process = OwnProcess::spawn(program, dir, driver, None)?;
        let socket = dir.join("docker.sock");
        process.wait_ready(&socket)?;
        Self::connect(name, socket, Some(process))
    }

    fn connect(name: &'static str, socket: PathBuf, own: Option<OwnProcess>) -> Result<Self> {
        let mut api = Api::new(&socket);
        let version = describe(&api.version()?);
        let driver = api.storage_driver()?;
        let pid = process::listener(&socket)?;
        let idle = process::pids(pid)?.into_iter().map(process::resident).sum();
        Ok(Self { name, socket, api, version, driver, pid, idle, own })
    }

    /// Whether a container with a published port can live on `network` here.
    pub(crate) fn can_publish(&mut self, image: &str, network: &str) -> Result<()> {
        let id = self.api.create(&Order { image, network, command: &["sleep", "1000"], ports: Ports::Free })?;
        let started = self.api.start(&id);
        self.api.remove(&id)?;
        started
    }

    /// Kills the daemon, if it was started here, and starts it again where it was: milliseconds until it answers.
    pub(crate) fn kill_and_restart(&mut self) -> Result<f64> {
        let process = self.own.take().context("this daemon was not started here")?;
        let netns = File::open(format!("/proc/{}/ns/net", process.child.id()))?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd()));
        let begun = Instant::now();
        self.own = Some(process.replace(&path)?);
        self.api = Api::new(&self.socket);
        self.api.ping()?;
        let took = super::since(begun);
        self.pid = process::listener(&self.socket)?;
        Ok(took)
    }

    /// Removes all containers of this run and, if it was started here, ends the daemon.
    pub(crate) fn clean_up(&mut self, images: &[&str]) -> Result<()> {
        for id in self.api.own(true)? {
            self.api.remove(&id)?;
        }
        for image in images {
            self.api.remove_image(image)?;
        }
        self.own.take().map_or(Ok(()), OwnProcess::end)
    }
}

fn describe(version: &Value) -> String {
    let name = version["Components"][0]["Name"].as_str().unwrap_or("Engine");
    let platform = version["Platform"]["Name"].as_str().filter(|name| !name.is_empty()).unwrap_or(name);
    format!("{platform} {}", version["Version"].as_str().unwrap_or("?"))
}

/// A daemon started here; killed when dropped without [`OwnProcess::end`].
#[derive(Debug)]
struct OwnProcess {
    child: Child,
    program: PathBuf,
    dir: PathBuf,
    driver: String,
}

impl OwnProcess {
    /// In the network namespace that this file is, else in a new one.
    fn spawn(program: &Path, dir: &Path, driver: &str, netns: Option<&Path>) -> Result<Self> {
        ensure!(program.exists(), "{} is not built", program.display());
        fs::create_dir_all(dir)?;
        let log = File::create(dir.join("log"))?;
        // The daemon follows this process into death, so that an interrupted run leaves none behind.
        let script = "ip link set lo up; exec setpriv --pdeathsig TERM \"$@\"";
        let mut command = match netns {
            None => {
                let mut command = Command::new("unshare");
                command.arg("--net");
                command
            }
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", netns.display()));
                command
            }
        };
        command.args(["sh", "-c", script, "sh"]).arg(program);
        command.arg("-H").arg(format!("unix://{}", dir.join("docker.sock").display()));
        command.arg("--data-root").arg(dir.join("data")).arg("--exec-root").arg(dir.join("exec"));
        command.arg("--pidfile").arg(dir.join("pid")).args(["--storage-driver", driver]);
        if driver == "erofs" {
            // Of use only for layers with a table of contents, which only one measure has.
            command.arg("--lazy-pull");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().context("start the daemon (are you root?)")?;
        Ok(Self { child, program: program.to_owned(), dir: dir.to_owned(), driver: driver.to_owned() })
    }

    fn wait_ready(&mut self, socket: &Path) -> Result<()> {
        let begun = Instant::now();
        while Api::new(socket).ping().is_err() {
            let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended ({status}): {}", log());
            }
            ensure!(begun.elapsed() < LIMIT, "the daemon does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The same daemon anew after a sudden death.
    fn replace(mut self, netns: &Path) -> Result<Self> {
        self.child.kill()?;
        self.child.wait()?;
        let mut next = Self::spawn(&self.program, &self.dir, &self.driver, Some(netns))?;
        next.wait_ready(&self.dir.join("docker.sock"))?;
        Ok(next)
    }

    fn end(mut self) -> Result<()> {
        self.terminate()?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))
    }

    fn terminate(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            let pid = self.child.id().try_into().ok().and_then(rustix::process::Pid::from_raw);
            rustix::process::kill_process(pid.context("no process id")?, rustix::process::Signal::TERM)?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        // The directory stays, its log may say why the run failed.
        let _ = self.terminate();
    }
}
