//! firewalld, ufw, iptables and nft as Debian has them, run beside a daemon of a test's own in a network namespace of the
//! test's, from a root file system that `cargo xtask` makes (`firewalls` in the cache): nothing is installed on this machine
//! and nothing of its configuration is read or changed. What they write goes with the test; so do their processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::case::Ran;
use crate::check;
use crate::host::ran;
use crate::network::Network;
use crate::{LIMIT, PAUSE};

/// The Debian suite the root is made of.
const SUITE: &str = "forky";
/// Makes a root that forgets what is written to it, and lives until its input ends. Arguments: root, folder of the bus.
const ENTER: &str = r#"
set -e
r=$1; b=$2
ip link set lo up
mount -t tmpfs tmpfs /mnt; mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$r,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
cd /mnt/root
mount -t proc proc proc; mount -t sysfs sysfs sys; mount --rbind /dev dev; mount -t tmpfs tmpfs run
mkdir -p run/dbus; mount --bind "$b" run/dbus
mkdir -p .old; pivot_root . .old; cd /; umount -l .old
exec cat
"#;
/// A bus that starts no services.
const BUS: &str = r#"<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
<auth>EXTERNAL</auth><policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
<allow send_type="method_return"/><allow send_type="error"/>
<allow send_type="signal"/><allow receive_type="*"/></policy></busconfig>"#;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A host: a network namespace and the programs in it. Everything ends when dropped.
#[derive(Debug)]
pub struct Firewalls {
    /// Ends with its input.
    keeper: Child,
    /// The first process of its process namespace.
    first: u32,
    services: Vec<Child>,
    network: Network,
    dir: TempDir,
}

impl Firewalls {
    /// A host without links but loopback.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]);
        command.args(["sh", "-c", ENTER, "sh"]).arg(root()?).arg(dir.path());
        let log = File::create(dir.path().join("keeper.log"))?;
        let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn()?;
        let begun = Instant::now();
        let children = format!("/proc/{0}/task/{0}/children", keeper.id());
        let first = loop {
            let first = fs::read_to_string(&children).unwrap_or_default().trim().parse().ok();
            let is_there =
                |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "cat\n");
            if let Some(pid) = first.filter(is_there) {
                break pid;
            }
            let log = || fs::read_to_string(dir.path().join("keeper.log")).unwrap_or_default();
            ensure!(keeper.try_wait()?.is_none() && begun.elapsed() < LIMIT, "no root for firewalls: {}", log());
            std::thread::sleep(PAUSE);
        };
        let network = Network::of_process(first)?;
        Ok(Self { keeper, first, services: Vec::new(), network, dir })
    }

    /// Its network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The bus's address for programs outside of the root.
    pub fn bus_address(&self) -> String {
        format!("unix:path={}", self.dir.path().join("system_bus_socket").display())
    }

    /// A program of the root.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        ran(&mut self.command(arguments), "")
    }

    /// The same; its output.
    pub fn must(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments).ok().with_context(|| arguments.join(" "))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--net", "--pid", "--root", "--wd"]);
        command.args(arguments).env("PATH", PATH).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Starts a system bus of its own.
    pub fn start_bus(&mut self) -> Result<()> {
        fs::write(self.dir.path().join("bus.conf"), BUS)?;
        self.serve("bus", &["dbus-daemon", "--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile"])?;
        let socket = self.dir.path().join("system_bus_socket");
        self.until("the bus", || socket.exists())
    }

    /// Starts firewalld.
    pub fn start_firewalld(&mut self) -> Result<()> {
        self.serve("firewalld", &["firewalld", "--nofork", "--nopid"])?;
        self.until("firewalld", || self.run(&["firewall-cmd", "--state"]).out == "running")
    }

    fn serve(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let log = File::create(self.dir.path().join(name).with_extension("log"))?;
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.services.push(command.spawn()?);
        Ok(())
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) -> Result<()> {
        check::until(what, condition).with_context(|| {
            let files = fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
            files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect::<String>()
        })
    }

    /// All rules but those of `table inet dockerd-rs` and, `without` them, of other tables; counters and handles left out.
    pub fn rules(&self, without: &[&str]) -> Result<Vec<Value>> {
        let said = self.must(&["nft", "-j", "list", "ruleset"])?;
        let all: Value = serde_json::from_str(&said).context(said)?;
        let mut rules = all["nftables"].as_array().cloned().unwrap_or_default();
        let is_ours = |item: &Value| {
            let parts = item.as_object().into_iter().flat_map(|object| object.iter());
            parts
                .filter_map(|(kind, part)| part[if kind == "table" { "name" } else { "table" }].as_str())
                .any(|table| table == "dockerd-rs" || without.contains(&table))
        };
        rules.retain(|item| !is_ours(item) && item.get("metainfo").is_none());
        rules.iter_mut().for_each(forget_counts);
        Ok(rules)
    }
}

impl Drop for Firewalls {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        for service in &mut self.services {
            let _ = service.wait();
        }
    }
}

/// What differs from one look to the next.
fn forget_counts(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for name in ["handle", "packets", "bytes"] {
                object.remove(name);
            }
            object.values_mut().for_each(forget_counts);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_counts),
        _ => {}
    }
}

/// Another host on the same wire as `host`: 192.0.2.2 beside its 192.0.2.1, and 2001:db8::2 beside its 2001:db8::1. It
/// serves `hello` on port 80.
#[derive(Debug)]
pub struct Neighbour {
    server: Child,
    network: Network,
    _dir: TempDir,
}

impl Neighbour {
    /// Plugs it in.
    pub fn of(host: &Network) -> Result<Self> {
        let network = Network::another()?;
        let addresses = |number: u8| [format!("192.0.2.{number}/24"), format!("2001:db8::{number}/64")];
        host.cable("wire", &addresses(1), (&network, &addresses(2)))?;
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("index.html"), "hello\n")?;
        let mut command = network.command("busybox");
        command.args(["httpd", "-f", "-p", "80", "-h"]).arg(dir.path());
        let server = command.stdin(Stdio::null()).spawn()?;
        Ok(Self { server, network, _dir: dir })
    }

    /// Whether a server at an address of the host answers `hello` to it.
    pub fn reaches(&self, host: &str, port: u16) -> bool {
        let mut command = self.network.command("busybox");
        let url = format!("http://{host}:{port}/");
        ran(command.args(["timeout", "2", "busybox", "wget", "-q", "-O", "-", &url]), "").out == "hello"
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Where `cargo xtask` makes the root.
fn root() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
    let root =
        cache.map(|cache| cache.join("dockerd-rs/firewalls").join(SUITE)).filter(|root| root.join(".ready").exists());
    root.context("the root of firewalls is not made; `cargo xtask test` makes it")
}
