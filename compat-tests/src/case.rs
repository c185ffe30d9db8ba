//! What one test works with: the CLI, HTTP, names nobody else uses, files the daemon can see. Everything made under such
//! a name is removed when the test ends, however it ends.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::{Host, Kind};
use crate::http::Response;
use crate::leaks::{self, CGROUPS};
use crate::{LIMIT, NETWORK};

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Standard output, trimmed.
    pub out: String,
    /// Standard error, trimmed.
    pub err: String,
    /// Exit code.
    pub code: i32,
}

impl Ran {
    /// Its standard output; an error if it failed.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "exit code {}: {}", self.code, self.err);
        Ok(self.out)
    }
}

/// One test's view of the daemon.
#[derive(Debug)]
pub struct Case<'a> {
    host: &'a Host,
    image: &'a str,
    prefix: String,
    number: u16,
    containers: Mutex<Vec<String>>,
    volumes: Mutex<Vec<String>>,
    networks: Mutex<Vec<String>>,
    images: Mutex<Vec<String>>,
    files: Mutex<Vec<PathBuf>>,
    cgroups: Mutex<Vec<String>>,
}

impl<'a> Case<'a> {
    /// The first of all cases' ports.
    const FIRST_PORT: u16 = 20_000;
    /// How many ports each has.
    pub const PORTS: u16 = 20;

    /// A test that runs `image` and whose names begin with `prefix`; no other one beside it has the same number.
    pub fn new(host: &'a Host, image: &'a str, prefix: String, number: u16) -> Self {
        let (containers, volumes, networks, images, files, cgroups) = Default::default();
        Self { host, image, prefix, number, containers, volumes, networks, images, files, cgroups }
    }

    /// Its number, which no test beside it has.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// A port of the host that no test beside it uses, nor anybody who takes any free one; below [`PORTS`](Self::PORTS) they lie
    /// next to each other.
    pub fn port(&self, offset: u16) -> u16 {
        assert!(offset < Self::PORTS, "a test has {} ports", Self::PORTS);
        Self::FIRST_PORT + self.number * Self::PORTS + offset
    }

    /// The daemon.
    pub fn host(&self) -> &Host {
        self.host
    }

    /// Whether the daemon is the one this repository builds.
    pub fn is_ours(&self) -> bool {
        self.host.kind == Kind::Ours
    }

    /// The image of the suite.
    pub fn image(&self) -> &str {
        self.image
    }

    /// What all names of this test begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A container's name.
    pub fn container(&self, what: &str) -> String {
        keep(&self.containers, format!("{}-{what}", self.prefix))
    }

    /// A volume's name.
    pub fn volume(&self, what: &str) -> String {
        keep(&self.volumes, format!("{}-{what}", self.prefix))
    }

    /// A network's name.
    pub fn network(&self, what: &str) -> String {
        keep(&self.networks, format!("{}-{what}", self.prefix))
    }

    /// An image's name, with tag.
    pub fn tag(&self, what: &str) -> String {
        keep(&self.images, format!("{}-{what}:tag", self.prefix))
    }

    /// A name an image gets during the test, with tag or digest.
    pub fn reference(&self, name: impl Into<String>) -> String {
        keep(&self.images, name.into())
    }

    /// A control group containers may be put below. A daemon leaves it there, so it is removed at the end.
    pub fn cgroup(&self, what: &str) -> String {
        keep(&self.cgroups, format!("{}-{what}", self.prefix))
    }

    /// A directory the daemon can see: as the daemon names it, and as this process reaches it.
    pub fn files(&self, what: &str) -> Result<(String, PathBuf)> {
        let seen = Path::new("/tmp").join(format!("{}-{what}", self.prefix));
        let here = self.host.path(&seen);
        std::fs::create_dir_all(&here).with_context(|| format!("make {}", here.display()))?;
        keep(&self.files, here.clone());
        Ok((seen.to_string_lossy().into_owned(), here))
    }

    /// Runs the docker CLI.
    pub fn docker(&self, arguments: &[&str]) -> Ran {
        self.host.docker(arguments, "")
    }

    /// Runs the docker CLI with `input` on its standard input.
    pub fn docker_with(&self, arguments: &[&str], input: &str) -> Ran {
        self.host.docker(arguments, input)
    }

    /// `docker run --rm OPTIONS IMAGE COMMAND`, off the network.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Ran {
        self.docker(&[&["run", "--rm"], network(options), options, &[self.image], command].concat())
    }

    /// `docker run --rm OPTIONS IMAGE sh -c SCRIPT`, off the network; its standard output.
    pub fn shell(&self, options: &[&str], script: &str) -> Result<String> {
        let ran = self.run(options, &["sh", "-c", script]);
        ensure!(ran.code == 0, "{options:?} {script:?}: exit code {}: {} {}", ran.code, ran.out, ran.err);
        Ok(ran.out)
    }

    /// `docker create`; returns the container's name.
    pub fn create(&self, what: &str, options: &[&str], command: &[&str]) -> Result<String> {
        self.make(&["create"], what, options, command)
    }

    /// `docker run -d`; returns the container's name.
    pub fn start(&self, what: &str, options: &[&str], command: &[&str]) -> Result<String> {
        self.make(&["run", "-d"], what, options, command)
    }

    fn make(&self, verb: &[&str], what: &str, options: &[&str], command: &[&str]) -> Result<String> {
        let name = self.container(what);
        let ran = self.docker(&[verb, network(options), &["--name", &name], options, &[self.image], command].concat());
        ensure!(ran.code == 0, "{options:?} {command:?}: exit code {}: {}", ran.code, ran.err);
        Ok(name)
    }

    /// Asks `url` until its server is up and says `hello`; from a container with these options.
    pub fn fetch(&self, options: &[&str], url: &str) -> Result<()> {
        let ask = [self.image, "wget", "-qO-", url];
        let asked = self.wait_for(&[&["run", "--rm"], options, &ask].concat(), "hello");
        asked.with_context(|| format!("{options:?} {url}"))
    }

    /// A container that sleeps until it is told to end.
    pub fn sleeper(&self, what: &str, options: &[&str]) -> Result<String> {
        self.start(what, options, &["sleep", "100000"])
    }

    /// `docker inspect -f TEMPLATE`.
    pub fn inspect(&self, container: &str, template: &str) -> String {
        let ran = self.docker(&["inspect", "-f", template, container]);
        if ran.code == 0 { ran.out } else { ran.err }
    }

    /// This instant, as `events --until` takes it: what a duration of nothing means there is a whole second.
    pub fn now(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
    }

    /// One request without body.
    pub fn http(&self, method: &str, path: &str) -> Result<Response> {
        self.host.http(method, path)
    }

    /// One request with a JSON body.
    pub fn http_json(&self, method: &str, path: &str, body: &Value) -> Result<Response> {
        self.host.http_json(method, path, body)
    }

    /// `GET /containers/NAME/json`.
    pub fn inspect_json(&self, container: &str) -> Result<Value> {
        self.http("GET", &format!("/containers/{container}/json"))?.json()
    }

    /// Waits until `docker ARGUMENTS` prints `wanted`.
    pub fn wait_for(&self, arguments: &[&str], wanted: &str) -> Result<()> {
        self.wait_until(arguments, |ran| ran.out == wanted).with_context(|| format!("wanted {wanted:?}")).map(drop)
    }

    /// Waits until what `docker ARGUMENTS` printed is as wanted.
    pub fn wait_until(&self, arguments: &[&str], wanted: impl Fn(&Ran) -> bool) -> Result<Ran> {
        let begun = Instant::now();
        loop {
            let ran = self.docker(arguments);
            if wanted(&ran) {
                return Ok(ran);
            }
            ensure!(begun.elapsed() < LIMIT, "{arguments:?} still prints {:?} {:?}", ran.out, ran.err);
            std::thread::sleep(crate::PAUSE);
        }
    }
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        // Newest first: later ones may use earlier ones' namespaces and volumes.
        for name in taken(&self.containers) {
            let _ = self.http("DELETE", &format!("/containers/{name}?force=1&v=1"));
        }
        for name in taken(&self.volumes) {
            let _ = self.http("DELETE", &format!("/volumes/{name}"));
        }
        for name in taken(&self.networks) {
            let _ = self.http("DELETE", &format!("/networks/{name}"));
        }
        for name in taken(&self.images) {
            let _ = self.http("DELETE", &format!("/images/{name}?force=1"));
        }
        let cgroups = taken(&self.cgroups);
        if !cgroups.is_empty() {
            remove_cgroups(&cgroups);
        }
        for dir in taken(&self.files) {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// Removes control groups by their names: where they are depends on the hierarchy and on where the daemon itself is.
fn remove_cgroups(names: &[String]) {
    leaks::walk(Path::new(CGROUPS), &mut |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if names.iter().any(|known| *known == name) {
            let _ = std::fs::remove_dir(path);
        }
    });
}

/// The network, where it is not what is tested.
fn network(options: &[&str]) -> &'static [&'static str] {
    if options.contains(&"--network") { &[] } else { &["--network", NETWORK] }
}

fn keep<T: Clone>(list: &Mutex<Vec<T>>, made: T) -> T {
    list.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(made.clone());
    made
}

fn taken<T>(list: &Mutex<Vec<T>>) -> Vec<T> {
    let mut list = std::mem::take(&mut *list.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    list.reverse();
    list
}
