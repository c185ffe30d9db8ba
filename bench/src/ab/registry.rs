//! A registry that a daemon reaches on its loopback interface: it runs in that daemon's network namespace.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The program, from Debian's package of that name.
const PROGRAM: &str = "docker-registry";
/// How long it may take to listen.
const LIMIT: Duration = Duration::from_secs(20);
/// State of a listening socket in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// A running registry; ends when dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
}

impl Registry {
    /// Starts one with its store at `root`, reachable for the process `daemon` at `port`. `place` keeps its configuration.
    pub(crate) fn start(root: &Path, place: &Path, daemon: i32, port: u16) -> Result<Self> {
        fs::create_dir_all(root)?;
        let address = format!("127.0.0.1:{port}");
        let configuration = place.join(format!("registry-{daemon}-{port}.yml"));
        let text = format!(
            "version: 0.1\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\n\
             storage:\n  filesystem: {{ rootdirectory: {} }}\n  cache: {{ blobdescriptor: inmemory }}\n  \
             maintenance: {{ uploadpurging: {{ enabled: false }} }}\nhttp: {{ addr: {address} }}\n",
            root.display(),
        );
        fs::write(&configuration, text)?;
        let log = fs::File::create(configuration.with_extension("log"))?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{daemon}/ns/net")).args(["setpriv", "--pdeathsig", "TERM", PROGRAM, "serve"]);
        command.arg(&configuration).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().context("start a registry (is docker-registry installed?)")?;
        let mut registry = Self { child };
        registry
            .wait_ready(port)
            .with_context(|| fs::read_to_string(configuration.with_extension("log")).unwrap_or_default())?;
        Ok(registry)
    }

    fn wait_ready(&mut self, port: u16) -> Result<()> {
        let begun = Instant::now();
        // Of the namespace the process is in, or will soon be in.
        while !listens(&fs::read_to_string(format!("/proc/{}/net/tcp", self.child.id())).unwrap_or_default(), port) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the registry ended ({status})");
            }
            ensure!(begun.elapsed() < LIMIT, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether somebody listens at `port` by `/proc/net/tcp`.
fn listens(table: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&end)) && fields.nth(1) == Some(LISTENS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_port_is_found() {
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:1388 00000000:0000 0A 0\n   1: 0100007F:1389 00000000:0000 01 0\n";
        assert!(listens(table, 5000));
        assert!(!listens(table, 5001), "that one is connected");
        assert!(!listens(table, 5002));
    }
}
