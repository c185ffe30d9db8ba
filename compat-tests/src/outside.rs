//! Another host: a network namespace with a cable to the daemon's, for what comes from elsewhere.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::network::Network;
use crate::{LIMIT, PAUSE};

/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(700);

/// Another host.
#[derive(Debug)]
pub struct Outside {
    network: Network,
    near: Network,
    link: String,
    number: u64,
}

impl Outside {
    /// One with a cable to `near`. Names and addresses are made of `seed`.
    pub fn new(near: &Network, seed: &str) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        let number = hasher.finish() % (1 << 15);
        let (network, near) = (Network::another()?, near.clone());
        let out = Self { network, near, link: format!("far-{number:x}"), number };
        let prefixed = |ipv4: String, ipv6: String| [format!("{ipv4}/24"), format!("{ipv6}/64")];
        let (here, there) = (prefixed(out.near_address(), out.near_ipv6()), prefixed(out.address(), out.ipv6()));
        out.near.cable(&out.link, &here, (&out.network, &there))?;
        Ok(out)
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
        self.network.ip(&["route", "add", destination, "via", &near]).map(drop)
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

    /// What comes back from `address` for a datagram, if anything does.
    pub fn exchange(&self, address: &str, datagram: &[u8]) -> Result<Option<Vec<u8>>> {
        let socket = self.network.datagrams(if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.send(datagram)?;
        let mut buffer = vec![0; 2048];
        Ok(socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()))
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
        // The namespace, and the cable with it, would go some time later.
        let _ = self.near.ip(&["link", "delete", &self.link]);
    }
}
