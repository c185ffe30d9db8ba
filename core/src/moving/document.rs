//! A stock container's documents, `config.v2.json` and `hostconfig.json` (moby, `daemon/container/container.go`): what of
//! them is not in the API's words.

use std::collections::BTreeMap;

use dockerd_types::container::Status;
use dockerd_types::{Digest, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::container::spec::State;

/// `config.v2.json`, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct StockContainer {
    pub(super) state: StockState,
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) created: String,
    /// Made by the cluster, which makes it anew elsewhere.
    pub(super) managed: bool,
    pub(super) path: String,
    pub(super) args: Option<Vec<String>>,
    /// `ContainerConfig` of the API.
    config: Map<String, Value>,
    image: String,
    image_manifest: Option<ImageManifest>,
    network_settings: Option<NetworkSettings>,
    pub(super) name: String,
    pub(super) driver: String,
    restart_count: u32,
    has_been_manually_stopped: bool,
    pub(super) mount_points: Option<BTreeMap<String, StockMount>>,
}

#[derive(Debug, Deserialize)]
struct ImageManifest {
    digest: Digest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    networks: Option<BTreeMap<String, Option<Map<String, Value>>>>,
}

/// What it does, or did.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct StockState {
    running: bool,
    paused: bool,
    restarting: bool,
    removal_in_progress: bool,
    dead: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    exit_code: i64,
    error: String,
    started_at: String,
    finished_at: String,
}

/// A mount as the old daemon resolved it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct StockMount {
    pub(super) source: String,
    #[serde(rename = "RW")]
    pub(super) writable: bool,
    pub(super) name: String,
    pub(super) driver: String,
    #[serde(rename = "Type")]
    pub(super) kind: String,
    #[serde(rename = "Relabel")]
    pub(super) mode: String,
    pub(super) propagation: String,
    pub(super) spec: MountSpec,
    pub(super) skip_mountpoint_creation: bool,
}

/// What was asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct MountSpec {
    pub(super) source: String,
    pub(super) bind_options: Option<BindOptions>,
    pub(super) volume_options: Option<VolumeOptions>,
    pub(super) image_options: Option<VolumeOptions>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct BindOptions {
    pub(super) non_recursive: bool,
    pub(super) read_only_non_recursive: bool,
    pub(super) read_only_force_recursive: bool,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct VolumeOptions {
    pub(super) no_copy: bool,
    pub(super) subpath: String,
}

impl StockContainer {
    /// The old daemon's name of its image.
    pub(super) fn image(&self) -> Option<Digest> {
        let manifest = self.image_manifest.as_ref().map(|manifest| manifest.digest.clone());
        manifest.or_else(|| Digest::parse(&self.image).ok())
    }

    /// Why it cannot be taken over now.
    pub(super) fn is_busy(&self) -> Option<&'static str> {
        let StockState { running, paused, restarting, removal_in_progress, .. } = self.state;
        match () {
            () if paused => Some("it is paused: unpause and stop it first"),
            () if restarting => Some("it is being restarted: stop it first"),
            () if running => Some("it runs: stop it first"),
            () if removal_in_progress => Some("its removal has begun"),
            () if self.managed => Some("it belongs to a service of a swarm"),
            () => None,
        }
    }

    /// The description as a client would send it.
    pub(super) fn body(&self, host: Value) -> Value {
        let networks = self.network_settings.iter().flat_map(|settings| &settings.networks).flatten();
        let endpoint = |(name, endpoint): (&String, &Option<Map<String, Value>>)| {
            let mut kept = Map::new();
            // What was asked for, not what came of it.
            for (from, to) in [
                ("IPAMConfig", "IPAMConfig"),
                ("Links", "Links"),
                ("Aliases", "Aliases"),
                ("DriverOpts", "DriverOpts"),
                ("GwPriority", "GwPriority"),
                ("DesiredMacAddress", "MacAddress"),
            ] {
                if let Some(value) = endpoint.as_ref().and_then(|endpoint| endpoint.get(from)) {
                    kept.insert(to.to_owned(), value.clone());
                }
            }
            (name.clone(), Value::Object(kept))
        };
        let endpoints: Map<String, Value> = networks.map(endpoint).collect();
        let mut body = self.config.clone();
        body.insert("HostConfig".to_owned(), host);
        body.insert("NetworkingConfig".to_owned(), json!({ "EndpointsConfig": endpoints }));
        Value::Object(body)
    }

    /// Its state in our words.
    pub(super) fn state(&self) -> State {
        let StockState { dead, oom_killed, exit_code, error, started_at, finished_at, .. } = &self.state;
        let (started_at, finished_at) = (time(started_at), time(finished_at));
        State {
            status: match started_at {
                _ if *dead => Status::Dead,
                Some(_) => Status::Exited,
                None => Status::Created,
            },
            exit_code: *exit_code,
            error: error.clone(),
            oom_killed: *oom_killed,
            started_at,
            finished_at,
            manually_stopped: self.has_been_manually_stopped,
            restart_count: self.restart_count,
            ..State::default()
        }
    }
}

/// A time, unless it is Go's zero.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    Timestamp::parse_rfc3339(text).ok().filter(|time| time.unix_nanos() > 0)
}
