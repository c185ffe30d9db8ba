//! Another host: a network namespace with a cable to the daemon's, for what comes from elsewhere.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::network::Network;
use crate::{LIMIT, PAUSE};

/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(700);

/// Another host.
#[derive(Debug)]
pub struct Outside {
    /// Keeps the namespace; the cable goes with it.
    process: Child,
    network: Network,
    near: Network,
    link: String,
    number: u64,
}

impl Outside {
    /// One with a cable to `near`. Names and addresses are made of `seed`.
    pub fn new(near: &Network, seed: &str) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up; echo ready; exec sleep 1000"]);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let said = process.stdout.take().context("no output")?;
        BufReader::new(said).read_line(&mut String::new())?;
        let network = Network::of_process(process.id())?;
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        let number = hasher.finish() % (1 << 15);
        let out = Self { process, network, near: near.clone(), link: format!("far-{number:x}"), number };
        let pid = out.process.id().to_string();
        out.ip(&out.near, &["link", "add", &out.link, "type", "veth", "peer", "name", "near", "netns", &pid])?;
        for (network, link, addresses) in [
            (&out.near, out.link.as_str(), [out.near_address(), out.near_ipv6()]),
            (&out.network, "near", [out.address(), out.ipv6()]),
        ] {
            for address in addresses {
                let (prefix, options): (_, &[&str]) = if address.contains(':') { (64, &["nodad"]) } else { (24, &[]) };
                let prefixed = format!("{address}/{prefix}");
                out.ip(network, &[&["address", "add", &prefixed, "dev", link], options].concat())?;
            }
            out.ip(network, &["link", "set", link, "up"])?;
        }
        Ok(out)
    }

    fn ip(&self, network: &Network, arguments: &[&str]) -> Result<()> {
        let output = network.command("ip").args(arguments).output()?;
        ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn subnet(&self) -> String {
        // 198.18.0.0/15 is for tests of equipment; 198.19 is left to others.
        format!("198.18.{}", self.number % 255)
    }

    /// Its own address.
    pub fn address(&self) -> String {
        format!("{}.2", self.subnet())
    }

    /// The daemon's host as it sees it.
    pub fn near_address(&self) -> String {
        format!("{}.1", self.subnet())
    }

    /// Its own address of IPv6.
    pub fn ipv6(&self) -> String {
        format!("fd18:{:x}::2", self.number)
    }

    /// The daemon's host as it sees it in IPv6.
    pub fn near_ipv6(&self) -> String {
        format!("fd18:{:x}::1", self.number)
    }

    /// The daemon's host's link to it.
    pub fn link(&self) -> &str {
        &self.link
    }

    /// Has what is for `destination` sent to the daemon's host.
    pub fn route(&self, destination: &str) -> Result<()> {
        let near = if destination.contains(':') { self.near_ipv6() } else { self.near_address() };
        self.ip(&self.network, &["route", "add", destination, "via", &near])
    }

    /// What a server says to a request for `/`, if it says anything.
    pub fn read(&self, address: &str) -> Option<String> {
        self.network.read(address, SILENCE).ok()
    }

    /// Waits until the server at `address` is up and says something with `hello` in it.
    pub fn reaches(&self, address: &str) -> Result<String> {
        let begun = Instant::now();
        loop {
            match self.network.read(address, SILENCE) {
                Ok(said) if said.contains("hello") => return Ok(said),
                said => ensure!(begun.elapsed() < LIMIT, "{address} still says {said:?}"),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Makes sure that nobody answers at `address`.
    pub fn is_kept_off(&self, address: &str) -> Result<()> {
        let said = self.read(address);
        ensure!(said.is_none(), "{address} is reached: {said:?}");
        Ok(())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // The namespace, and the cable with it, would go some time after the process.
        let _ = self.ip(&self.near, &["link", "delete", &self.link]);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
