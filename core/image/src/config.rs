//! The image configuration document (OCI image-spec "config.md", and Docker's extensions of it).

use std::collections::BTreeMap;
use std::time::Duration;

use dockerd_types::container::{ContainerConfig, Healthcheck};
use dockerd_types::network::Port;
use dockerd_types::{Digest, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};

/// A parsed configuration. Unknown members are kept only in the raw bytes. Written in Docker's order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// CPU architecture, Go's name.
    #[serde(default)]
    pub architecture: String,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Comment of an import or commit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Defaults for containers.
    #[serde(default)]
    pub config: Option<RunConfig>,
    /// The container it was made of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// That container's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_config: Option<RunConfig>,
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Version of the engine that made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// How it came to be, oldest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub history: Vec<History>,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// What of the operating system it needs.
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// Version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Layers.
    pub rootfs: RootFs,
    /// Architecture variant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Layers of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
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

/// The `config` member; names, order and what is left out as Docker writes it, since an image's id hangs on that.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    hostname: Text,
    domainname: Text,
    user: Text,
    attach_stdin: Flag,
    attach_stdout: Flag,
    attach_stderr: Flag,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<BTreeMap<String, Empty>>,
    tty: Flag,
    open_stdin: Flag,
    stdin_once: Flag,
    env: Option<Vec<String>>,
    cmd: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<RawHealthcheck>,
    #[serde(skip_serializing_if = "Flag::is_off")]
    args_escaped: Flag,
    image: Text,
    volumes: Option<BTreeMap<String, Empty>>,
    working_dir: Text,
    entrypoint: Option<Words>,
    #[serde(skip_serializing_if = "Flag::is_off")]
    network_disabled: Flag,
    on_build: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<Words>,
}

/// A text that may be `null`, as Go reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::deserialize(deserializer)?.unwrap_or_default()))
    }
}

/// A flag that may be `null`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(transparent)]
struct Flag(bool);

impl Flag {
    fn is_off(&self) -> bool {
        !self.0
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::deserialize(deserializer)?.unwrap_or_default()))
    }
}

/// A list of words; one text alone stands for a list of one, as in images of long ago.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
struct Words(Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::One(word) => vec![word],
            Either::Many(words) => words,
        }))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Empty {}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_zero")]
    interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    retries: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl RunConfig {
    /// Of a container's configuration.
    pub fn of(config: &ContainerConfig) -> Self {
        let set = |names: Vec<String>| {
            if names.is_empty() { None } else { Some(names.into_iter().map(|name| (name, Empty {})).collect()) }
        };
        Self {
            hostname: Text(config.hostname.clone()),
            domainname: Text(config.domainname.clone()),
            user: Text(config.user.clone()),
            attach_stdin: Flag(config.attach_stdin),
            attach_stdout: Flag(config.attach_stdout),
            attach_stderr: Flag(config.attach_stderr),
            exposed_ports: set(config.exposed_ports.iter().map(ToString::to_string).collect()),
            tty: Flag(config.tty),
            open_stdin: Flag(config.open_stdin),
            stdin_once: Flag(config.stdin_once),
            env: (!config.env.is_empty()).then(|| config.env.clone()),
            cmd: config.cmd.clone().map(Words),
            healthcheck: config.healthcheck.as_ref().map(raw_healthcheck),
            args_escaped: Flag(false),
            image: Text(config.image.clone()),
            volumes: set(config.volumes.iter().cloned().collect()),
            working_dir: Text(config.working_dir.clone()),
            entrypoint: config.entrypoint.clone().map(Words),
            network_disabled: Flag(config.network_disabled),
            on_build: (!config.on_build.is_empty()).then(|| config.on_build.clone()),
            labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
            stop_signal: config.stop_signal.clone(),
            stop_timeout: config.stop_timeout,
            shell: config.shell.clone().map(Words),
        }
    }
}

impl ImageConfig {
    /// Defaults for containers, in the engine's words.
    pub fn container_config(&self) -> ContainerConfig {
        let run = self.config.clone().unwrap_or_default();
        let ports = run.exposed_ports.unwrap_or_default();
        ContainerConfig {
            user: run.user.0,
            // A text that is no port cannot be published either; the raw document keeps it.
            exposed_ports: ports.keys().filter_map(|port| Port::parse_range(port).ok()).flatten().collect(),
            env: run.env.unwrap_or_default(),
            entrypoint: run.entrypoint.map(|words| words.0),
            cmd: run.cmd.map(|words| words.0),
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            working_dir: run.working_dir.0,
            labels: run.labels.unwrap_or_default(),
            stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
            healthcheck: run.healthcheck.map(healthcheck),
            on_build: run.on_build.unwrap_or_default(),
            shell: run.shell.map(|words| words.0),
            ..ContainerConfig::default()
        }
    }

    /// When it was made; `None` where the document does not say.
    pub fn created_at(&self) -> Option<Timestamp> {
        Timestamp::parse_rfc3339(self.created.as_deref()?).ok()
    }
}

fn healthcheck(raw: RawHealthcheck) -> Healthcheck {
    let time = |nanos: i64| Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    Healthcheck {
        test: raw.test.unwrap_or_default(),
        interval: time(raw.interval),
        timeout: time(raw.timeout),
        start_period: time(raw.start_period),
        start_interval: time(raw.start_interval),
        retries: raw.retries,
    }
}

fn raw_healthcheck(check: &Healthcheck) -> RawHealthcheck {
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    RawHealthcheck {
        test: (!check.test.is_empty()).then(|| check.test.clone()),
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        start_period: nanos(check.start_period),
        start_interval: nanos(check.start_interval),
        retries: check.retries,
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
