//! `docker ps`: from published snapshots, never waiting for a container. Filters are Docker's; the words a person reads
//! are made here.

use std::collections::BTreeSet;
use std::sync::Arc;

use dockerd_types::container::Status;
use dockerd_types::filters::InvalidFilter;
use dockerd_types::network::{Port, PublishedPort};
use dockerd_types::{ContainerId, Digest, Filters, Timestamp};

use super::spec::{MountPointKind, Snapshot};
use super::{ContainerService, ListOptions, human, links};
use crate::core::Core;
use crate::error::EngineError;

/// Filters `list` knows.
pub const FILTERS: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// One container in a list: its snapshot and what was worked out for the reader.
#[derive(Debug, Clone)]
pub struct ContainerSummary {
    /// Everything known of it.
    pub snapshot: Arc<Snapshot>,
    /// What legacy links to it are called: `/other/alias`.
    pub links: Vec<String>,
    /// `Up 3 minutes`, `Exited (0) 5 seconds ago`.
    pub status: String,
    /// Command as one text.
    pub command: String,
    /// Image as shown: the reference it was made with, or the id when that names another image now.
    pub image: String,
    /// The image's id.
    pub image_id: Digest,
    /// Published ports, and exposed ones without a publication.
    pub ports: Vec<PortView>,
    /// Bytes in the writable layer, and with the image's: only when asked for.
    pub size: Option<Sizes>,
}

/// One line of the Ports column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortView {
    /// The container's side.
    pub private: Port,
    /// The host's side, when published.
    pub public: Option<PublishedPort>,
}

/// Sizes of a container's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Writable layer.
    pub rw: u64,
    /// With the image's layers.
    pub root_fs: u64,
}

impl ContainerService {
    /// Lists containers, newest first.
    pub async fn list(&self, options: ListOptions) -> Result<Vec<ContainerSummary>, EngineError> {
        let query = Query::new(&self.core, &options)?;
        let mut found: Vec<Arc<Snapshot>> =
            self.core.containers.all().iter().map(|c| c.snapshot()).filter(|s| query.matches(s)).collect();
        found.sort_by(|a, b| b.spec.created.cmp(&a.spec.created).then_with(|| a.spec.id.cmp(&b.spec.id)));
        if let Some(limit) = options.limit {
            found.truncate(limit);
        }
        let now = Timestamp::now();
        let mut out: Vec<ContainerSummary> = found.into_iter().map(|s| summary(&self.core, s, now)).collect();
        if options.size {
            let core = self.core.clone();
            out = tokio::task::spawn_blocking(move || {
                for item in &mut out {
                    item.size = sizes(&core, &item.snapshot);
                }
                out
            })
            .await
            .unwrap_or_default();
        }
        Ok(out)
    }
}

fn summary(core: &Core, snapshot: Arc<Snapshot>, now: Timestamp) -> ContainerSummary {
    let spec = &snapshot.spec;
    ContainerSummary {
        status: human::status(&snapshot.state, now),
        command: command_text(&spec.path, &spec.args),
        image: image_text(core, &snapshot),
        image_id: spec.image.clone(),
        ports: ports(&snapshot),
        size: None,
        links: links::names(core, &spec.id),
        snapshot,
    }
}

/// The reference it was made with, as long as it still means the same image.
fn image_text(core: &Core, snapshot: &Snapshot) -> String {
    let reference = &snapshot.spec.config.image;
    match core.images.resolve(reference) {
        Ok(image) if image.id != snapshot.spec.image => snapshot.spec.image.to_string(),
        _ if reference.is_empty() => snapshot.spec.image.to_string(),
        _ => reference.clone(),
    }
}

/// The command with arguments quoted where they hold blanks.
fn command_text(path: &str, args: &[String]) -> String {
    let mut text = path.to_owned();
    for arg in args {
        text.push(' ');
        if arg.contains(' ') {
            text.push('\'');
            text.push_str(arg);
            text.push('\'');
        } else {
            text.push_str(arg);
        }
    }
    text
}

fn ports(snapshot: &Snapshot) -> Vec<PortView> {
    if !snapshot.state.has_address() {
        return Vec::new();
    }
    let published: BTreeSet<Port> = snapshot.state.ports.iter().map(|p| p.container_port).collect();
    let exposed = snapshot.spec.config.exposed_ports.iter().filter(|p| !published.contains(p));
    // Those reached at the container's own address have no port of the host.
    let of_host = snapshot.state.ports.iter().filter(|port| port.host_port != 0);
    let public = of_host.map(|p| PortView { private: p.container_port, public: Some(p.clone()) });
    public.chain(exposed.map(|p| PortView { private: *p, public: None })).collect()
}

/// Blocking.
pub(super) fn sizes(core: &Core, snapshot: &Snapshot) -> Option<Sizes> {
    let rw = core.images.usage(&snapshot.spec.id).ok()?;
    Some(Sizes { rw, root_fs: rw + core.images.image_size(&snapshot.spec.image) })
}

/// Filters with everything looked up that does not depend on the container.
struct Query<'a> {
    options: &'a ListOptions,
    statuses: Vec<Status>,
    ancestors: Vec<Digest>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

impl<'a> Query<'a> {
    fn new(core: &Core, options: &'a ListOptions) -> Result<Self, EngineError> {
        let filters = &options.filters;
        let statuses = filters.values("status").map(status).collect::<Result<_, _>>()?;
        for code in filters.values("exited") {
            let why = || format!("strconv.Atoi: parsing {code:?}: invalid syntax");
            code.parse::<i64>().map_err(|_| explained("exited", code, why()))?;
        }
        let health = ["none", "starting", "healthy", "unhealthy"];
        if let Some(bad) = filters.values("health").find(|value| !health.contains(value)) {
            let why = format!("invalid value for health ({bad}): must be one of {}", health.join(", "));
            return Err(explained("health", bad, why).into());
        }
        if let Some(bad) = filters.values("is-task").find(|value| !["true", "false", "1", "0"].contains(value)) {
            return Err(InvalidFilter::Value { key: "is-task".to_owned(), value: format!("[{bad}]") }.into());
        }
        let created = |key: &str| -> Result<Option<Timestamp>, EngineError> {
            let mut times = Vec::new();
            for name in filters.values(key) {
                times.push(core.containers.find(name)?.snapshot().spec.created);
            }
            Ok(times.into_iter().next())
        };
        Ok(Self {
            options,
            statuses,
            ancestors: filters
                .values("ancestor")
                .filter_map(|name| core.images.resolve(name).ok())
                .map(|image| image.id.clone())
                .collect(),
            before: created("before")?,
            since: created("since")?,
        })
    }

    fn matches(&self, s: &Snapshot) -> bool {
        let filters = &self.options.filters;
        let spec = &s.spec;
        let everything = self.options.all
            || self.options.limit.is_some()
            || filters.has("status")
            || filters.has("exited")
            || filters.has("before")
            || filters.has("since");
        let runs = s.state.is_running() || s.state.status == Status::Restarting;
        if !everything && !runs {
            return false;
        }
        (self.statuses.is_empty() || self.statuses.contains(&s.state.status))
            && filters.any("id", |id| spec.id.as_str().starts_with(id))
            && filters.any("name", |pattern| name_matches(&s.name, pattern))
            && filters.labels_match(&spec.config.labels)
            && filters.any("exited", |code| s.state.status == Status::Exited && code.parse() == Ok(s.state.exit_code))
            && (!filters.has("ancestor") || self.ancestors.contains(&spec.image))
            && self.before.is_none_or(|at| spec.created < at)
            && self.since.is_none_or(|at| spec.created > at)
            && filters.any("network", |wanted| network_matches(s, wanted))
            && filters.any("volume", |wanted| volume_matches(s, wanted))
            && filters.any("publish", |range| {
                let ports = ranges(range);
                s.state.ports.iter().any(|p| {
                    ports.iter().any(|want| want.number == p.host_port && want.protocol == p.container_port.protocol)
                })
            })
            && filters.any("expose", |range| ranges(range).iter().any(|want| spec.config.exposed_ports.contains(want)))
            && filters
                .any("health", |wanted| wanted == s.state.health.as_ref().map_or("none", |health| health.status.name()))
            && filters.any("is-task", |wanted| matches!(wanted, "false" | "0"))
            && filters.any("isolation", |wanted| wanted == spec.host.isolation || wanted == "default")
    }
}

fn explained(key: &str, value: &str, why: String) -> InvalidFilter {
    InvalidFilter::Explained { key: key.to_owned(), value: value.to_owned(), why }
}

fn status(text: &str) -> Result<Status, InvalidFilter> {
    let all = [
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Restarting,
        Status::Removing,
        Status::Exited,
        Status::Dead,
    ];
    all.into_iter().find(|s| s.name() == text).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|status| status.name()).collect();
        let why = format!("invalid value for state ({text}): must be one of {}", known.join(", "));
        explained("status", text, why)
    })
}

/// The filter is a regular expression on the name with and without its slash; what people write is a part of the name,
/// with `^` and `$` at the ends, and that much is understood here.
fn name_matches(name: &str, pattern: &str) -> bool {
    let with_slash = format!("/{name}");
    [name, &with_slash].iter().any(|name| super::pattern::is_match(pattern, name))
}

fn network_matches(s: &Snapshot, wanted: &str) -> bool {
    s.spec.endpoints.contains_key(wanted)
        || s.state.endpoints.iter().any(|e| e.network_name == wanted || e.network_id.as_str().starts_with(wanted))
}

fn volume_matches(s: &Snapshot, wanted: &str) -> bool {
    s.spec.mounts.iter().any(|point| {
        point.destination == wanted
            || match &point.kind {
                MountPointKind::Volume { name, .. } => name == wanted,
                MountPointKind::Bind { source, .. } => source == wanted,
                MountPointKind::Tmpfs { .. } | MountPointKind::Image { .. } => false,
            }
    })
}

fn ranges(text: &str) -> Vec<Port> {
    Port::parse_range(text).unwrap_or_default()
}

/// What prunes take: `until`, `label`, `label!`.
pub const PRUNE_FILTERS: [&str; 3] = ["label", "label!", "until"];

/// Removed containers and the space they gave back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Ids of what was removed.
    pub deleted: Vec<ContainerId>,
    /// Bytes.
    pub space_reclaimed: u64,
}

/// Whether `filters` take `snapshot` for a prune at `now`.
pub(super) fn prunable(snapshot: &Snapshot, filters: &Filters, until: Option<Timestamp>) -> bool {
    let at_rest = matches!(snapshot.state.status, Status::Created | Status::Exited | Status::Dead);
    at_rest && filters.labels_match(&snapshot.spec.config.labels) && until.is_none_or(|at| snapshot.spec.created < at)
}
