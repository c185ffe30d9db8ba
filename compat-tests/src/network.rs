//! The network namespace of a daemon under test: a daemon has a loopback of its own, so servers it is to reach listen there,
//! and the CLI is started there where it speaks to a registry itself. Other hosts are namespaces too, on a cable to it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::LIMIT;
use crate::case::Ran;
use crate::host::{Host, ran};

/// A network namespace, kept as long as this is.
#[derive(Debug, Clone)]
pub struct Network(Arc<File>);

impl Network {
    /// The one `host` lives in.
    pub fn of(host: &Host) -> Result<Self> {
        Self::of_process(host.pid)
    }

    /// The one a process lives in, a container's for instance.
    pub fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        Ok(Self(Arc::new(File::open(&path).with_context(|| path)?)))
    }

    /// A new one with nothing but its loopback: another host.
    pub fn another() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo up && read -r end"]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().context("its output")?).read_line(&mut line)?;
        let network = Self::of_process(holder.id());
        drop(holder.stdin.take());
        holder.wait()?;
        ensure!(line == "up\n", "no network namespace was made");
        network
    }

    /// Lays a cable: interface `name` here, an interface of the same name there, with these addresses.
    pub fn cable(&self, name: &str, here: &[String], there: (&Self, &[String])) -> Result<()> {
        let (other, addresses) = there;
        self.ip(&["link", "add", name, "type", "veth", "peer", "name", name, "netns", &other.path()])?;
        for (network, addresses) in [(self, here), (other, addresses)] {
            for address in addresses {
                // Duplicate address detection would keep it from being used for a second.
                let option = if address.contains(':') { &["nodad"][..] } else { &[] };
                network.ip(&[&["address", "add", address, "dev", name], option].concat())?;
            }
            network.ip(&["link", "set", name, "up"])?;
        }
        Ok(())
    }

    /// Sets a value of `/proc/sys/net` in it.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.inside(|| std::fs::write(&path, value).with_context(|| path.clone()))
    }

    /// ip(8) in it; what it prints.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command("ip").args(arguments).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip {}: {error}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A listener in it; port 0 takes a free one.
    pub fn listen(&self, address: &str) -> Result<TcpListener> {
        self.inside(|| Ok(TcpListener::bind(address)?)).with_context(|| format!("listen on {address}"))
    }

    /// A socket for datagrams in it; port 0 takes a free one.
    pub fn datagrams(&self, address: &str) -> Result<UdpSocket> {
        self.inside(|| Ok(UdpSocket::bind(address)?)).with_context(|| format!("bind {address}"))
    }

    /// A connection made in it.
    pub fn connect(&self, address: &str) -> Result<TcpStream> {
        self.connect_within(address, LIMIT)
    }

    /// The same, not waiting as long for it to be made.
    pub fn connect_within(&self, address: &str, limit: Duration) -> Result<TcpStream> {
        let address: SocketAddr = address.parse()?;
        let stream = self.inside(|| Ok(TcpStream::connect_timeout(&address, limit)?))?;
        // Where nobody listens yet, a socket may be given that very port and reach itself.
        ensure!(stream.local_addr()? != address, "nobody listens on {address}");
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    /// What a server says to a request for `/`, if it says anything within `limit`.
    pub fn read(&self, address: &str, limit: Duration) -> Result<String> {
        let mut stream = self.connect_within(address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        ensure!(!said.is_empty(), "closed without an answer");
        Ok(said)
    }

    /// Gives its loopback one more address: what is not in 127.0.0.0/8 is not taken for insecure.
    pub fn add_address(&self, address: &str) -> Result<()> {
        self.ip(&["address", "replace", address, "dev", "lo"]).map(drop)
    }

    /// A program in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(self.argument()).arg(program);
        command
    }

    /// The docker CLI in it, with `config` as its configuration directory.
    pub fn docker(&self, host: &Host, config: &Path, arguments: &[&str], input: &str) -> Ran {
        let mut command = host.command("nsenter");
        command.arg(self.argument()).args(["timeout", "60", "docker"]).args(arguments);
        ran(command.env("DOCKER_CONFIG", config), input)
    }

    /// Another descriptor of it.
    pub fn file(&self) -> Result<File> {
        Ok(self.0.try_clone()?)
    }

    fn argument(&self) -> String {
        format!("--net={}", self.path())
    }

    /// A file that stands for it, for other processes too.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `action` on a thread that is in it; sockets stay in the namespace they were made in.
    pub(crate) fn inside<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
                action()
            });
            thread.join().map_err(|_| anyhow!("the thread in the network namespace panicked"))?
        })
    }
}
