//! What the suites about registries share: a registry on the network of the daemon under test, names of layers as progress
//! shows them, and looking whether a failed pull left something.
#![allow(dead_code, reason = "every suite uses some of it")]

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use compat_tests::host::Host;
use compat_tests::network::Network;
use compat_tests::registry::Registry;
use compat_tests::seed::Packed;
use compat_tests::{Case, Ran};
use serde_json::Value;

/// A daemon's network with an open registry in it.
pub(crate) struct Fixture {
    pub(crate) network: Network,
    pub(crate) registry: Registry,
    /// A configuration directory of the CLI.
    config: tempfile::TempDir,
}

impl Fixture {
    /// On the daemon that is tested.
    pub(crate) fn new(t: &Case<'_>) -> Result<Self> {
        let network = Network::of(t.host())?;
        let registry = Registry::start(&network)?;
        Ok(Self { network, registry, config: tempfile::tempdir()? })
    }

    /// The CLI on the daemon's network and with a configuration of its own.
    pub(crate) fn docker(&self, t: &Case<'_>, arguments: &[&str]) -> Ran {
        self.docker_with(t, arguments, "")
    }

    /// The same with an input.
    pub(crate) fn docker_with(&self, t: &Case<'_>, arguments: &[&str], input: &str) -> Ran {
        self.network.docker(t.host(), self.config.path(), arguments, input)
    }

    /// The CLI's configuration file; null if it has none.
    pub(crate) fn configuration(&self) -> Result<Value> {
        match std::fs::read(self.config.path().join("config.json")) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(_) => Ok(Value::Null),
        }
    }
}

/// A name without its tag.
pub(crate) fn untagged(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(repository, _)| repository)
}

/// The layers of an image as progress of a pull names them, bottom first.
pub(crate) fn shorts(image: &Packed) -> Vec<String> {
    image.layers.iter().map(|layer| layer.short()).collect()
}

/// The layers of an image as progress of a push names them, top first.
pub(crate) fn diff_shorts(image: &Packed) -> Vec<String> {
    image.diff_ids.iter().rev().map(|id| id["sha256:".len()..][..12].to_owned()).collect()
}

/// Credentials as `X-Registry-Auth` carries them.
pub(crate) fn credentials(user: &str, password: &str) -> String {
    URL_SAFE.encode(serde_json::json!({"username": user, "password": password}).to_string())
}

/// Bytes below the daemon's data root, without what it keeps of itself.
pub(crate) fn stored(host: &Host) -> Result<u64> {
    let root =
        host.http("GET", "/info")?.json()?["DockerRootDir"].as_str().map(PathBuf::from).context("a data root")?;
    let root = host.path(&root);
    let output = Command::new("du").args(["-sb", "--exclude=*.db", "--exclude=*.log"]).arg(&root).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let size = text.split_whitespace().next().context("no size")?;
    Ok(size.parse()?)
}

/// An error if the daemon lists any of these images.
pub(crate) fn nothing_is_left(t: &Case<'_>, repository: &str) -> Result<()> {
    let list = t.docker(&["images", "-a", "--no-trunc", repository]).ok()?;
    ensure!(list.lines().count() == 1, "images are left: {list}");
    let list = t.docker(&["images", "-a", "-q", "--filter", &format!("label=test={}", t.prefix())]).ok()?;
    ensure!(list.is_empty(), "images are left: {list}");
    Ok(())
}
