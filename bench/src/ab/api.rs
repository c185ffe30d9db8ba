//! The verbs of the Docker API the measures use.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::http::{Body, Client, Reply};

/// Every container made here carries this label, with the runner's process id as value.
const LABEL: &str = "dockerd-bench";
/// A version both daemons speak.
const VERSION: &str = "/v1.47";

/// How a container is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Order<'a> {
    /// Image.
    pub(crate) image: &'a str,
    /// Network mode.
    pub(crate) network: &'a str,
    /// Command.
    pub(crate) command: &'a [&'a str],
    /// Ports to publish.
    pub(crate) ports: Ports,
}

/// Ports of a container that are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    /// None.
    None,
    /// Port 80 on a free port of the loopback address.
    Free,
    /// So many TCP ports from a first one, on the same numbers of all the host's addresses.
    Range {
        /// The first.
        first: u16,
        /// How many.
        count: u16,
    },
}

impl Ports {
    /// Port 80, if there is to be one.
    pub(crate) fn free_if(publish: bool) -> Self {
        if publish { Self::Free } else { Self::None }
    }

    /// What the body of a create says of them.
    fn bindings(self) -> serde_json::Map<String, Value> {
        let named = |port: u16| (format!("{port}/tcp"), json!([{ "HostIp": "", "HostPort": port.to_string() }]));
        match self {
            Self::None => serde_json::Map::new(),
            Self::Free => {
                [("80/tcp".to_owned(), json!([{ "HostIp": "127.0.0.1", "HostPort": "" }]))].into_iter().collect()
            }
            Self::Range { first, count } => (first..first + count).map(named).collect(),
        }
    }
}

/// A connection to a daemon.
#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
}

impl Api {
    /// The API behind `socket`.
    pub(crate) fn new(socket: &Path) -> Self {
        Self { client: Client::new(socket) }
    }

    fn call(&mut self, method: &str, path: &str, body: Body<'_>) -> Result<Reply> {
        let reply = self.client.send(method, &format!("{VERSION}{path}"), body)?;
        ensure!((200..300).contains(&reply.status), "{method} {path}: {} {}", reply.status, reply.text());
        Ok(reply)
    }

    /// Asks whether the daemon is there.
    pub(crate) fn ping(&mut self) -> Result<()> {
        self.call("GET", "/_ping", Body::None).map(drop)
    }

    /// What the daemon says about its version.
    pub(crate) fn version(&mut self) -> Result<Value> {
        self.call("GET", "/version", Body::None)?.json()
    }

    /// Makes a container and returns its id.
    pub(crate) fn create(&mut self, order: &Order<'_>) -> Result<String> {
        let bindings = order.ports.bindings();
        let exposed: serde_json::Map<String, Value> = bindings.keys().map(|port| (port.clone(), json!({}))).collect();
        let body = json!({
            "Image": order.image,
            "Cmd": order.command,
            "Labels": { LABEL: std::process::id().to_string() },
            "ExposedPorts": exposed,
            "HostConfig": { "NetworkMode": order.network, "PortBindings": bindings },
        });
        let reply = self.call("POST", "/containers/create", Body::Json(&body))?.json()?;
        Ok(text(&reply["Id"]))
    }

    /// Starts a container.
    pub(crate) fn start(&mut self, id: &str) -> Result<()> {
        self.call("POST", &format!("/containers/{id}/start"), Body::None).map(drop)
    }

    /// Waits until a container does not run and returns its exit code.
    pub(crate) fn wait(&mut self, id: &str) -> Result<i64> {
        let reply = self.call("POST", &format!("/containers/{id}/wait"), Body::None)?.json()?;
        Ok(reply["StatusCode"].as_i64().unwrap_or(-1))
    }

    /// Kills a container.
    pub(crate) fn kill(&mut self, id: &str) -> Result<()> {
        self.call("POST", &format!("/containers/{id}/kill"), Body::None).map(drop)
    }

    /// Removes a container, running or not.
    pub(crate) fn remove(&mut self, id: &str) -> Result<()> {
        self.call("DELETE", &format!("/containers/{id}?force=true&v=true"), Body::None).map(drop)
    }

    /// Removes a container that has ended.
    pub(crate) fn remove_ended(&mut self, id: &str) -> Result<()> {
        self.call("DELETE", &format!("/containers/{id}"), Body::None).map(drop)
    }

    /// Runs `true` in a running container, attached, and sees that it ended well.
    pub(crate) fn exec_true(&mut self, id: &str) -> Result<()> {
        let body = json!({ "Cmd": ["true"], "AttachStdout": true, "AttachStderr": true });
        let exec = self.call("POST", &format!("/containers/{id}/exec"), Body::Json(&body))?.json()?;
        let exec = text(&exec["Id"]);
        let body = json!({ "Detach": false });
        self.call("POST", &format!("/exec/{exec}/start"), Body::Json(&body))?;
        let state = self.call("GET", &format!("/exec/{exec}/json"), Body::None)?.json()?;
        ensure!(state["ExitCode"] == 0, "exec ended with {}", state["ExitCode"]);
        Ok(())
    }

    /// Asks for one container; the answer is not taken apart.
    pub(crate) fn inspect(&mut self, id: &str) -> Result<()> {
        self.call("GET", &format!("/containers/{id}/json"), Body::None).map(drop)
    }

    /// What the daemon says of a container.
    pub(crate) fn details(&mut self, id: &str) -> Result<Value> {
        self.call("GET", &format!("/containers/{id}/json"), Body::None)?.json()
    }

    /// Makes a bridge network.
    pub(crate) fn create_network(&mut self, name: &str) -> Result<()> {
        let body = json!({ "Name": name, "Driver": "bridge", "Labels": { LABEL: std::process::id().to_string() } });
        self.call("POST", "/networks/create", Body::Json(&body)).map(drop)
    }

    /// Removes a network.
    pub(crate) fn remove_network(&mut self, name: &str) -> Result<()> {
        self.call("DELETE", &format!("/networks/{name}"), Body::None).map(drop)
    }

    /// Asks for all containers, or the running ones; the answer is not taken apart.
    pub(crate) fn list(&mut self, all: bool) -> Result<Reply> {
        self.call("GET", if all { "/containers/json?all=1" } else { "/containers/json" }, Body::None)
    }

    /// Ids of this runner's containers, running or not.
    pub(crate) fn own(&mut self, all: bool) -> Result<Vec<String>> {
        let filters = format!("%7B%22label%22%3A%5B%22{LABEL}%3D{}%22%5D%7D", std::process::id());
        let path = format!("/containers/json?all={}&filters={filters}", u8::from(all));
        let list = self.call("GET", &path, Body::None)?.json()?;
        Ok(list.as_array().into_iter().flatten().map(|container| text(&container["Id"])).collect())
    }

    /// Makes an image of one layer.
    pub(crate) fn import(&mut self, root: &[u8], repository: &str, tag: &str) -> Result<()> {
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}");
        ensure_no_error(&self.call("POST", &path, Body::Tar(root))?)
    }

    /// Loads an archive as `docker save` writes it.
    pub(crate) fn load(&mut self, archive: &[u8]) -> Result<()> {
        ensure_no_error(&self.call("POST", "/images/load?quiet=1", Body::Tar(archive))?)
    }

    /// Loads such an archive from a file.
    pub(crate) fn load_file(&mut self, archive: &Path) -> Result<()> {
        ensure_no_error(&self.call("POST", "/images/load?quiet=1", Body::File(archive))?)
    }

    /// Pulls `repository:tag`.
    pub(crate) fn pull(&mut self, repository: &str, tag: &str) -> Result<()> {
        let path = format!("/images/create?fromImage={repository}&tag={tag}");
        ensure_no_error(&self.call("POST", &path, Body::None)?)
    }

    /// Pushes `repository:tag`.
    pub(crate) fn push(&mut self, repository: &str, tag: &str) -> Result<()> {
        ensure_no_error(&self.call("POST", &format!("/images/{repository}/push?tag={tag}"), Body::None)?)
    }

    /// Gives `image` another name.
    pub(crate) fn tag(&mut self, image: &str, repository: &str, tag: &str) -> Result<()> {
        self.call("POST", &format!("/images/{image}/tag?repo={repository}&tag={tag}"), Body::None).map(drop)
    }

    /// Asks for all images; the answer is not taken apart.
    pub(crate) fn images(&mut self) -> Result<Reply> {
        self.call("GET", "/images/json", Body::None)
    }

    /// The driver that layers are kept by.
    pub(crate) fn storage_driver(&mut self) -> Result<String> {
        Ok(text(&self.call("GET", "/info", Body::None)?.json()?["Driver"]))
    }

    /// Removes an image.
    pub(crate) fn remove_image(&mut self, image: &str) -> Result<()> {
        self.call("DELETE", &format!("/images/{image}?force=true"), Body::None).map(drop)
    }
}

/// Progress streams answer 200 and carry what went wrong in a line.
fn ensure_no_error(reply: &Reply) -> Result<()> {
    let text = reply.text();
    ensure!(!text.contains("\"error\""), "{text}");
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
