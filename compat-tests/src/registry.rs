//! Debian's `docker-registry`, which is the distribution project's, on the loopback of the daemon under test: open, behind
//! basic authentication, behind tokens, by plain HTTP or TLS. Several may serve one storage, so that what is filled through
//! an open one is seen through a closed one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::certificate::Files;
use crate::http::{self, Response};
use crate::network::Network;
use crate::seed::{Blob, Packed};
use crate::token::{ISSUER, SERVICE, TokenServer};
use crate::{LIMIT, PAUSE};

/// Who may use a closed registry.
pub const USER: &str = "somebody";
/// By which password.
pub const PASSWORD: &str = "correct horse";
/// The two as `htpasswd -B` writes them.
const HTPASSWD: &str = "somebody:$2b$04$1L2qKn33uAfSxpI6X5stZOHvrcSnyxEuS.9vipfKnlxNlKFwXfhu.\n";
/// Ports another process may take before the registry does.
const ATTEMPTS: usize = 3;

/// Who is let in.
#[derive(Debug, Clone, Copy)]
pub enum Access<'a> {
    /// Everybody.
    Open,
    /// [`USER`], by basic authentication.
    Basic,
    /// Who has a token of this server.
    Token(&'a TokenServer),
}

/// How a registry is reached.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Who is let in.
    pub access: Access<'a>,
    /// The address it listens on.
    pub ip: &'a str,
    /// A fixed port, where the network is the test's own.
    pub port: Option<u16>,
    /// Its certificate, if it speaks TLS.
    pub tls: Option<&'a Files>,
    /// The authority that must have signed its clients' certificates.
    pub client_authority: Option<&'a Path>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { access: Access::Open, ip: "127.0.0.1", port: None, tls: None, client_authority: None }
    }
}

/// A running registry; ends when dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    address: String,
    network: Network,
    storage: Arc<TempDir>,
    /// Its configuration and log.
    dir: TempDir,
}

impl Registry {
    /// An open one on a storage of its own.
    pub fn start(network: &Network) -> Result<Self> {
        Self::on(network, Arc::new(tempfile::tempdir()?), Options::default())
    }

    /// Another one on the same storage.
    pub fn beside(&self, options: Options<'_>) -> Result<Self> {
        Self::on(&self.network, self.storage.clone(), options)
    }

    fn on(network: &Network, storage: Arc<TempDir>, options: Options<'_>) -> Result<Self> {
        for _ in 1..ATTEMPTS {
            match Self::attempt(network, storage.clone(), options) {
                Err(error) if error.to_string().contains("address already in use") => {}
                other => return other,
            }
        }
        Self::attempt(network, storage, options)
    }

    fn attempt(network: &Network, storage: Arc<TempDir>, options: Options<'_>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let port = match options.port {
            Some(port) => port,
            // Freed at once; nobody else is given it soon.
            None => network.listen(&format!("{}:0", options.ip))?.local_addr()?.port(),
        };
        let address = format!("{}:{port}", options.ip);
        let configuration = dir.path().join("config.yml");
        fs::write(&configuration, text(storage.path(), dir.path(), &address, options)?)?;
        let mut command = network.command(&binary()?.to_string_lossy());
        command.arg("serve").arg(&configuration).env_remove("OTEL_TRACES_EXPORTER");
        let log = File::create(dir.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().context("start the registry")?;
        let mut registry = Self { process, address, network: network.clone(), storage, dir };
        registry.listening()?;
        Ok(registry)
    }

    fn listening(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if listens(self.process.id(), &self.address) && self.network.connect(&self.address).is_ok() {
                return Ok(());
            }
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if let Some(status) = self.process.try_wait()? {
                bail!("the registry ended ({status}): {log}");
            }
            ensure!(begun.elapsed() < LIMIT, "the registry does not listen: {log}");
            std::thread::sleep(PAUSE);
        }
    }

    /// `ADDRESS:PORT`, which is what its images' names begin with.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// One request to it, by plain HTTP.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
        let headers = [headers, &[("Connection", "close")]].concat();
        let stream = self.network.connect(&self.address).with_context(|| {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            format!("ask the registry at {}, which said: {log}", self.address)
        });
        http::exchange(stream?, method, path, &headers, body)
    }

    /// Uploads an image; returns its name.
    pub fn put(&self, repository: &str, tag: &str, image: &Packed) -> Result<String> {
        for blob in image.layers.iter().chain([&image.config]) {
            self.put_blob(repository, blob)?;
        }
        self.put_manifest(repository, tag, &image.manifest)
    }

    /// Uploads a blob at once.
    pub fn put_blob(&self, repository: &str, blob: &Blob) -> Result<()> {
        let begun = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"")?;
        ensure!(begun.status == 202, "begin an upload: {} {}", begun.status, begun.text());
        let location = begun.header("location");
        // Absolute, with a state in its query.
        let path = location.split_once("//").map_or(location, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
        let path = format!("{path}&digest={}", blob.digest);
        let ended = self.request("PUT", &path, &[("Content-Type", "application/octet-stream")], &blob.bytes)?;
        ensure!(ended.status == 201, "upload a blob: {} {}", ended.status, ended.text());
        Ok(())
    }

    /// Uploads a manifest or index, by tag or digest; returns its name.
    pub fn put_manifest(&self, repository: &str, tag: &str, manifest: &Blob) -> Result<String> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.request("PUT", &path, &[("Content-Type", &manifest.media_type)], &manifest.bytes)?;
        ensure!(answer.status == 201, "upload a manifest: {} {}", answer.status, answer.text());
        Ok(format!("{}/{repository}:{tag}", self.address))
    }

    /// A manifest as the registry has it.
    pub fn manifest(&self, repository: &str, reference: &str) -> Result<Blob> {
        let types =
            [crate::seed::DOCKER_MANIFEST, crate::seed::DOCKER_LIST, crate::seed::OCI_MANIFEST, crate::seed::OCI_INDEX];
        let path = format!("/v2/{repository}/manifests/{reference}");
        let answer = self.request("GET", &path, &[("Accept", &types.join(", "))], b"")?;
        ensure!(answer.status == 200, "{reference}: {} {}", answer.status, answer.text());
        let media_type = answer.header("content-type").to_owned();
        Ok(Blob::new(&media_type, answer.body))
    }

    /// A blob as the registry has it.
    pub fn blob(&self, repository: &str, digest: &str) -> Result<Vec<u8>> {
        let answer = self.request("GET", &format!("/v2/{repository}/blobs/{digest}"), &[], b"")?;
        ensure!(answer.status == 200, "{digest}: {} {}", answer.status, answer.text());
        Ok(answer.body)
    }
}

/// Whether that process itself has the listening socket: for a moment a child of this process may still have the one by
/// which the port was chosen.
fn listens(pid: u32, address: &str) -> bool {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).unwrap_or_default();
    // proc_net_tcp: local address, state 0A for listening, and the tenth word is the inode.
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let sockets = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it = words.get(1)?.ends_with(&format!(":{port:04X}")) && *words.get(3)? == "0A";
        is_it.then(|| format!("socket:[{}]", words.get(9).unwrap_or(&"")))
    });
    let sockets: Vec<String> = sockets.collect();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Its configuration; JSON is YAML.
fn text(storage: &Path, dir: &Path, address: &str, options: Options<'_>) -> Result<String> {
    let mut http = serde_json::json!({"addr": address});
    if let Some(files) = options.tls {
        http["tls"] = serde_json::json!({"certificate": files.certificate, "key": files.key});
        if let Some(authority) = options.client_authority {
            http["tls"]["clientcas"] = serde_json::json!([authority]);
        }
    }
    let mut all = serde_json::json!({
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": true}},
        "storage": {"filesystem": {"rootdirectory": storage}, "delete": {"enabled": true}},
        // Foreign layers' addresses are part of what is tested.
        "validation": {"manifests": {"urls": {"allow": [".*"]}}},
        "http": http,
    });
    match options.access {
        Access::Open => {}
        Access::Basic => {
            let path = dir.join("htpasswd");
            fs::write(&path, HTPASSWD)?;
            all["auth"] = serde_json::json!({"htpasswd": {"realm": "registry under test", "path": path}});
        }
        Access::Token(server) => {
            let path = dir.join("token.pem");
            server.write_certificate(&path)?;
            all["auth"] = serde_json::json!({"token": {
                "realm": server.realm(), "service": SERVICE, "issuer": ISSUER, "rootcertbundle": path,
            }});
        }
    }
    Ok(all.to_string())
}

/// The registry's program: installed, or unpacked by `cargo xtask` into the cache, where no service comes with it.
fn binary() -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places =
        path.split(':').chain(["/usr/local/bin", "/usr/bin"]).map(|dir| Path::new(dir).join("docker-registry"));
    if let Some(installed) = places.find(|place| place.exists()) {
        return Ok(installed);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let unpacked = cache.map(|cache| cache.join("dockerd-rs/packages/docker-registry/usr/bin/docker-registry"));
    unpacked.filter(|path| path.exists()).context("docker-registry is missing; `cargo xtask test` fetches it")
}
