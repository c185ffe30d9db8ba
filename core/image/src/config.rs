//! The image configuration document (OCI image-spec "config.md", and Docker's extensions of it).

use std::collections::BTreeMap;
use std::time::Duration;

use dockerd_types::container::{ContainerConfig, Healthcheck};
use dockerd_types::network::Port;
use dockerd_types::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

/// A parsed configuration. Unknown members are kept only in the raw bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// CPU architecture, Go's name.
    #[serde(default)]
    pub architecture: String,
    /// Architecture variant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Comment of an import or commit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Version of the engine that made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// Defaults for containers.
    #[serde(default)]
    pub config: Option<RunConfig>,
    /// Layers.
    pub rootfs: RootFs,
    /// How it came to be, oldest first.
    #[serde(default)]
    pub history: Vec<History>,
}

/// Layers of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// One step of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By what command.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether no layer belongs to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// The `config` member; names as on the wire of images since Docker 1.0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<BTreeMap<String, Empty>>,
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    working_dir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<RawHealthcheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Empty {}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    test: Option<Vec<String>>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    start_interval: u64,
    retries: i64,
}

impl ImageConfig {
    /// Defaults for containers, in the engine's words.
    pub fn container_config(&self) -> ContainerConfig {
        let run = self.config.clone().unwrap_or_default();
        let ports = run.exposed_ports.unwrap_or_default();
        ContainerConfig {
            user: run.user,
            // A text that is no port cannot be published either; the raw document keeps it.
            exposed_ports: ports.keys().filter_map(|port| Port::parse_range(port).ok()).flatten().collect(),
            env: run.env.unwrap_or_default(),
            entrypoint: run.entrypoint,
            cmd: run.cmd,
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            working_dir: run.working_dir,
            labels: run.labels.unwrap_or_default(),
            stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
            healthcheck: run.healthcheck.map(healthcheck),
            on_build: run.on_build.unwrap_or_default(),
            shell: run.shell,
            ..ContainerConfig::default()
        }
    }

    /// Takes over what an import's changes or a commit made of a container configuration.
    pub fn set_container_config(&mut self, config: &ContainerConfig) {
        let set = |names: Vec<String>| {
            if names.is_empty() { None } else { Some(names.into_iter().map(|name| (name, Empty {})).collect()) }
        };
        self.config = Some(RunConfig {
            user: config.user.clone(),
            exposed_ports: set(config.exposed_ports.iter().map(ToString::to_string).collect()),
            env: (!config.env.is_empty()).then(|| config.env.clone()),
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            volumes: set(config.volumes.iter().cloned().collect()),
            working_dir: config.working_dir.clone(),
            labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
            stop_signal: config.stop_signal.clone(),
            healthcheck: config.healthcheck.as_ref().map(raw_healthcheck),
            on_build: (!config.on_build.is_empty()).then(|| config.on_build.clone()),
            shell: config.shell.clone(),
        });
    }

    /// When it was made; `None` where the document does not say.
    pub fn created_at(&self) -> Option<Timestamp> {
        Timestamp::parse_rfc3339(self.created.as_deref()?).ok()
    }
}

fn healthcheck(raw: RawHealthcheck) -> Healthcheck {
    Healthcheck {
        test: raw.test.unwrap_or_default(),
        interval: Duration::from_nanos(raw.interval),
        timeout: Duration::from_nanos(raw.timeout),
        start_period: Duration::from_nanos(raw.start_period),
        start_interval: Duration::from_nanos(raw.start_interval),
        retries: raw.retries,
    }
}

fn raw_healthcheck(healthcheck: &Healthcheck) -> RawHealthcheck {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    RawHealthcheck {
        test: (!healthcheck.test.is_empty()).then(|| healthcheck.test.clone()),
        interval: nanos(healthcheck.interval),
        timeout: nanos(healthcheck.timeout),
        start_period: nanos(healthcheck.start_period),
        start_interval: nanos(healthcheck.start_interval),
        retries: healthcheck.retries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_missing_members_are_accepted() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Env":null,"Volumes":{"/v":{}},
            "ExposedPorts":{"80/tcp":{}}},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config: ImageConfig = serde_json::from_str(text).expect("parsed");
        let run = config.container_config();
        assert_eq!((run.cmd, run.entrypoint), (Some(vec!["sh".to_owned()]), None));
        assert_eq!((run.volumes.len(), run.exposed_ports.len()), (1, 1));
    }
}
