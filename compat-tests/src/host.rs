//! The daemon under test, whoever started it: its socket, what kind it is, and where it sees files.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};

use crate::case::Ran;
use crate::http::{self, Response};

/// Seconds after which a command is ended, with exit code 124.
const TIMEOUT: &str = "60";

/// Which daemon it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The one this repository builds.
    Ours,
    /// Any other, taken for the stock daemon.
    Stock,
}

/// A daemon that listens on a Unix socket.
#[derive(Debug, Clone)]
pub struct Host {
    /// Which daemon it is.
    pub kind: Kind,
    /// Its socket.
    pub socket: PathBuf,
    /// The daemon's process.
    pub pid: u32,
}

impl Host {
    /// The daemon that listens on `socket`.
    pub fn new(kind: Kind, socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        let peer = rustix::net::sockopt::socket_peercred(&stream)?;
        Ok(Self { kind, socket: socket.to_owned(), pid: u32::try_from(peer.pid.as_raw_nonzero().get())? })
    }

    /// The value for `DOCKER_HOST`.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// `path` of the daemon's file system, as this process reaches it: the daemon may live in a root of its own.
    pub fn path(&self, path: &Path) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Runs the docker CLI with `input` on its standard input.
    pub fn docker(&self, arguments: &[&str], input: &str) -> Ran {
        // A command that hangs must not hang the suite.
        let mut command = self.command("timeout");
        ran(command.args([TIMEOUT, "docker"]).args(arguments), input)
    }

    /// A program that finds this daemon in its environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DOCKER_HOST", self.address()).env_remove("DOCKER_CONTEXT");
        command.env_remove("DOCKER_API_VERSION").env("DOCKER_CLI_HINTS", "false");
        command
    }

    /// One request without body.
    pub fn http(&self, method: &str, path: &str) -> Result<Response> {
        http::request(&self.socket, method, path, &[], b"")
    }

    /// One request with a JSON body.
    pub fn http_json(&self, method: &str, path: &str, body: &serde_json::Value) -> Result<Response> {
        let body = serde_json::to_vec(body)?;
        http::request(&self.socket, method, path, &[("Content-Type", "application/json")], &body)
    }
}

/// Runs `command` to its end.
pub fn ran(command: &mut Command, input: &str) -> Ran {
    let result = (|| {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A client that wants no input may have closed it.
            let _ = stdin.write_all(input.as_bytes());
        }
        let Output { status, stdout, stderr } = child.wait_with_output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        Ok::<_, std::io::Error>(Ran { out: text(stdout), err: text(stderr), code: status.code().unwrap_or(-1) })
    })();
    result.unwrap_or_else(|error| Ran { out: String::new(), err: format!("{command:?}: {error}"), code: -1 })
}
