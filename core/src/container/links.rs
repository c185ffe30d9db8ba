//! Legacy links (`--link other:alias`) between containers on the default bridge, where no resolver knows names: lines in
//! the hosts file and variables in the environment, made at each start from what the other container is then. On
//! user-defined networks a link is a name in the resolver instead (`network/names.rs`).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use dockerd_store::{Durability, document};
use dockerd_types::ContainerId;
use dockerd_types::network::Port;

use super::actor::{Actor, Command};
use super::error::ContainerError;
use super::spec::{ContainerDocument, ContainerSpec, Snapshot};
use super::{Container, files};
use crate::core::Core;
use crate::error::EngineError;

/// The network links are for.
const BRIDGE: &str = "bridge";
/// Variables of the other container that say nothing of it.
const UNTOLD: [&str; 2] = ["HOME", "PATH"];

/// A link as a description holds it: the other by its id, so that it is found under whatever name it has.
pub(super) fn stored(other: &ContainerId, alias: &str) -> String {
    format!("{other}:{alias}")
}

/// The links of a description.
fn of(spec: &ContainerSpec) -> impl Iterator<Item = (ContainerId, &str)> {
    spec.host.links.iter().filter_map(|link| {
        let (other, alias) = link.split_once(':')?;
        Some((ContainerId::parse(other).ok()?, alias))
    })
}

/// Who has links to whom.
#[derive(Debug, Default)]
pub(super) struct LinkIndex {
    by_target: HashMap<ContainerId, Vec<ContainerId>>,
}

impl LinkIndex {
    pub(super) fn insert(&mut self, spec: &ContainerSpec) {
        for (other, _) in of(spec) {
            self.by_target.entry(other).or_default().push(spec.id.clone());
        }
    }

    pub(super) fn remove(&mut self, id: &ContainerId) {
        self.by_target.retain(|_, sources| {
            sources.retain(|source| source != id);
            !sources.is_empty()
        });
    }

    /// Those that have links to `target`.
    pub(super) fn sources(&self, target: &ContainerId) -> &[ContainerId] {
        self.by_target.get(target).map_or(&[], Vec::as_slice)
    }
}

/// Links as inspect shows them: `/other:/name/alias`.
pub(super) fn shown(core: &Core, snapshot: &Snapshot) -> Vec<String> {
    let name = &snapshot.name;
    let show = |(other, alias): (ContainerId, &str)| {
        let other = core.containers.by_id(&other)?.snapshot().name.clone();
        Some(format!("/{other}:/{name}/{alias}"))
    };
    of(&snapshot.spec).filter_map(show).collect()
}

/// Names a container has by links to it: `/other/alias`.
pub(super) fn names(core: &Core, id: &ContainerId) -> Vec<String> {
    let mut out = Vec::new();
    for source in core.containers.linked_to(id) {
        let source = source.snapshot();
        let aliases = of(&source.spec).filter(|(other, _)| other == id).map(|(_, alias)| alias);
        out.extend(aliases.map(|alias| format!("/{}/{alias}", source.name)));
    }
    out.sort();
    out.dedup();
    out
}

/// `docker rm --link other/alias`.
pub(super) async fn remove(core: &Core, link: &str) -> Result<(), EngineError> {
    let Some((name, alias)) = link.strip_prefix('/').unwrap_or(link).split_once('/') else {
        // What is found under a plain name is a container.
        core.containers.find(link)?;
        return Err(ContainerError::DefaultLink.into());
    };
    let missing = |_| ContainerError::NoSuchContainer(link.to_owned());
    let container = core.containers.find(name).map_err(missing)?;
    if !of(&container.snapshot().spec).any(|(_, known)| known == alias) {
        return Err(ContainerError::NoSuchContainer(link.to_owned()).into());
    }
    container.ask(|reply| Command::Unlink { alias: alias.to_owned(), reply }).await
}

impl Actor {
    /// Takes its links called `alias` away, also from its hosts file.
    pub(super) async fn unlink(&mut self, alias: String) -> Result<(), EngineError> {
        let snapshot = self.snapshot();
        let mut spec = (*snapshot.spec).clone();
        spec.host.links.retain(|link| link.split_once(':').is_none_or(|(_, known)| known != alias));
        let spec = Arc::new(spec);
        let stored = ContainerDocument { name: snapshot.name.to_string(), spec: spec.clone() };
        let path = self.core.layout.container_document(&spec.id);
        let hosts = files::paths(&self.core.layout.container_dir(&spec.id)).hosts;
        let running = snapshot.state.is_running();
        let written = crate::image::blocking(move || {
            document::write(&path, &stored, Durability::Process)?;
            if running {
                rewrite(&hosts, &alias, None).map_err(|e| EngineError::io("change the hosts file", e))?;
            }
            Ok::<_, EngineError>(())
        });
        written.await??;
        self.core.containers.relink(&spec);
        self.update(|s| s.spec = spec);
        Ok(())
    }
}

/// The other end of a link, while both run.
#[derive(Debug)]
pub(super) struct Linked {
    alias: String,
    /// Whose link it is.
    owner: Arc<str>,
    other: Arc<Snapshot>,
    addresses: Vec<IpAddr>,
}

/// The other ends of all links of a container that is about to start.
pub(super) fn resolve(core: &Core, snapshot: &Snapshot) -> Result<Vec<Linked>, EngineError> {
    let spec = &snapshot.spec;
    if !spec.endpoints.contains_key(BRIDGE) {
        return Ok(Vec::new());
    }
    let resolve = |(other, alias): (ContainerId, &str)| {
        let refused = |name: String| {
            let alias = format!("/{}/{alias}", snapshot.name);
            EngineError::from(ContainerError::LinkNotRunning { name, alias })
        };
        let found = core.containers.by_id(&other).ok_or_else(|| refused(format!("/{other}")))?.snapshot();
        if !found.state.is_running() {
            return Err(refused(format!("/{}", found.name)));
        }
        let endpoint = found.state.endpoints.iter().find(|endpoint| endpoint.network_name == BRIDGE);
        let endpoint = endpoint.ok_or_else(|| ContainerError::LinkNotOnBridge(format!("/{}", found.name)))?;
        let addresses = endpoint.addresses().collect();
        Ok(Linked { alias: alias.to_owned(), owner: snapshot.name.clone(), other: found.clone(), addresses })
    };
    of(spec).map(resolve).collect()
}

impl Linked {
    /// Its lines of the hosts file: the alias, the other's host name and its name.
    pub(super) fn hosts_lines(&self) -> String {
        let (alias, hostname, name) = (&self.alias, &self.other.spec.config.hostname, &*self.other.name);
        let mut out = String::new();
        for address in &self.addresses {
            let name = if alias == name { String::new() } else { format!(" {name}") };
            let _ = writeln!(out, "{address}\t{alias} {hostname}{name}");
        }
        out
    }

    /// Its variables: the address of every exposed port, of ranges of them, the other's name, and its environment.
    pub(super) fn environment(&self) -> Vec<String> {
        let Some(address) = self.addresses.first() else { return Vec::new() };
        let prefix = self.alias.to_uppercase().replace('-', "_");
        let mut ports: Vec<Port> = self.other.spec.config.exposed_ports.iter().copied().collect();
        // TCP is the first of the protocols.
        ports.sort_by_key(|port| (port.protocol, port.number));
        let mut out = port_variables(&prefix, *address, &ports);
        out.push(format!("{prefix}_NAME=/{}/{}", self.owner, self.alias));
        let told = self.other.spec.config.env.iter().filter_map(|entry| entry.split_once('='));
        let told = told.filter(|(name, _)| !UNTOLD.contains(name));
        out.extend(told.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
        out
    }
}

fn port_variables(prefix: &str, address: IpAddr, ports: &[Port]) -> Vec<String> {
    let url = |port: &Port| format!("{}://{address}:{}", port.protocol.name(), port.number);
    let named = |port: &Port| format!("{prefix}_PORT_{}_{}", port.number, port.protocol.name().to_uppercase());
    let mut out = Vec::new();
    out.extend(ports.first().map(|port| format!("{prefix}_PORT={}", url(port))));
    let mut range: Option<(Port, Port)> = None;
    let close = |range: Option<(Port, Port)>, out: &mut Vec<String>| {
        let Some((first, last)) = range.filter(|(first, last)| first != last) else { return };
        let name = named(&first);
        out.push(format!("{name}_START={}", url(&first)));
        out.push(format!("{name}_PORT_START={}", first.number));
        out.push(format!("{name}_END={}", url(&last)));
        out.push(format!("{name}_PORT_END={}", last.number));
    };
    for port in ports {
        let name = named(port);
        out.push(format!("{name}={}", url(port)));
        out.push(format!("{name}_ADDR={address}"));
        out.push(format!("{name}_PORT={}", port.number));
        out.push(format!("{name}_PROTO={}", port.protocol.name()));
        range = match range {
            Some((first, last))
                if last.protocol == port.protocol && last.number.checked_add(1) == Some(port.number) =>
            {
                Some((first, *port))
            }
            before => {
                close(before, &mut out);
                Some((*port, *port))
            }
        };
    }
    close(range, &mut out);
    out
}

/// `container` has started, maybe with another address: the hosts files of running containers with links to it follow.
pub(super) async fn follow(core: &Arc<Core>, container: &Container) {
    let sources = core.containers.linked_to(container.id());
    if sources.is_empty() {
        return;
    }
    let (core, snapshot) = (core.clone(), container.snapshot());
    let followed = tokio::task::spawn_blocking(move || {
        let endpoint = snapshot.state.endpoints.iter().find(|endpoint| endpoint.network_name == BRIDGE);
        let Some((address, _)) = endpoint.and_then(|endpoint| endpoint.ipv4) else { return };
        for source in sources {
            let source = source.snapshot();
            let path = files::paths(&core.layout.container_dir(&source.spec.id)).hosts;
            for (_, alias) in
                of(&source.spec).filter(|(other, _)| source.state.is_running() && *other == snapshot.spec.id)
            {
                if let Err(error) = rewrite(&path, alias, Some(address.into())) {
                    tracing::warn!(container = %source.spec.id, %error, "its hosts file does not follow a link");
                }
            }
        }
    });
    if followed.await.is_err() {
        tracing::warn!(container = %container.id(), "links to it could not be followed");
    }
}

/// Gives the lines of a hosts file that begin with `alias` another address, or takes them out. Written in place: the file is
/// bind-mounted.
fn rewrite(path: &Path, alias: &str, address: Option<IpAddr>) -> io::Result<()> {
    let text = std::fs::read_to_string(path)?;
    let changed = rewritten(&text, alias, address);
    if changed == text { Ok(()) } else { files::write(path, &changed) }
}

fn rewritten(text: &str, alias: &str, address: Option<IpAddr>) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        match line.split_once('\t') {
            Some((_, rest)) if rest.split([' ', '\t']).next() == Some(alias) => {
                if let Some(address) = address {
                    let _ = writeln!(out, "{address}\t{rest}");
                }
            }
            _ => _ = writeln!(out, "{line}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_of_them() {
        let ports: Vec<Port> =
            ["80", "81", "90", "53/udp"].iter().map(|text| Port::parse(text).expect("a port")).collect();
        let made = port_variables("DB", "10.0.0.2".parse().expect("an address"), &ports);
        let ranges: Vec<&String> = made.iter().filter(|line| line.contains("START") || line.contains("END")).collect();
        assert_eq!(made.first().map(String::as_str), Some("DB_PORT=tcp://10.0.0.2:80"));
        assert_eq!(
            ranges,
            [
                "DB_PORT_80_TCP_START=tcp://10.0.0.2:80",
                "DB_PORT_80_TCP_PORT_START=80",
                "DB_PORT_80_TCP_END=tcp://10.0.0.2:81",
                "DB_PORT_80_TCP_PORT_END=81",
            ]
        );
        assert!(made.contains(&"DB_PORT_53_UDP_PROTO=udp".to_owned()));
        assert_eq!(made.len(), 1 + 4 * 4 + 4);
    }

    #[test]
    fn lines_of_an_alias_follow() {
        let text = "127.0.0.1\tlocalhost\n10.0.0.2\tdb abc\n10.0.0.2\tdb2 abc db\n";
        let changed = rewritten(text, "db", "10.0.0.9".parse().ok());
        assert_eq!(changed, "127.0.0.1\tlocalhost\n10.0.0.9\tdb abc\n10.0.0.2\tdb2 abc db\n");
        assert_eq!(rewritten(text, "db", None), "127.0.0.1\tlocalhost\n10.0.0.2\tdb2 abc db\n");
    }
}
