//! The network namespace of a daemon under test: a daemon has a loopback of its own, so servers it is to reach listen there,
//! and the CLI is started there where it speaks to a registry itself.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;
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

    /// The one a process lives in.
    pub fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        Ok(Self(Arc::new(File::open(&path).with_context(|| path)?)))
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
        let added = self.command("ip").args(["address", "add", address, "dev", "lo"]).status()?;
        ensure!(added.success(), "ip address add {address} failed");
        Ok(())
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

    fn argument(&self) -> String {
        format!("--net=/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `action` on a thread that is in it; sockets stay in the namespace they were made in.
    fn inside<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
                action()
            });
            thread.join().map_err(|_| anyhow!("the thread in the network namespace panicked"))?
        })
    }
}
