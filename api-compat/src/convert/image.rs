//! Images on the wire: what the engine knows, in the shape of the client's version.

use dockerd_core::image::list::{HistoryLine, ImageSummary};
use dockerd_image::{Image, Platform, Removal};
use dockerd_types::{Reference, Timestamp};
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::extract::{Object, Target};

/// What Go writes for the time that is none.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

pub(crate) fn tags(references: &[Reference]) -> Vec<String> {
    references.iter().filter(|r| r.tag().is_some()).map(Reference::familiar).collect()
}

/// Names by digest.
fn digests(references: &[Reference]) -> Vec<String> {
    references.iter().filter(|r| r.digest().is_some()).map(Reference::familiar).collect()
}

/// One image of a list.
pub(crate) fn summary(item: &ImageSummary) -> Value {
    let ImageSummary { image, references, containers, shared_size } = item;
    let labels = image.config.container_config().labels;
    json!({
        "Containers": containers,
        "Created": image.config.created_at().map_or(0, Timestamp::unix_seconds),
        "Id": image.id.as_str(),
        "Labels": if labels.is_empty() { Value::Null } else { json!(labels) },
        "ParentId": image.parent.as_ref().map_or("", |id| id.as_str()),
        "RepoDigests": digests(references),
        "RepoTags": tags(references),
        "SharedSize": shared_size.map_or_else(|| json!(-1), |size| json!(size)),
        "Size": image.size(),
    })
}

/// `docker image inspect`, with what only older clients see.
pub(crate) fn inspect(image: &Image, driver: &str, places: Vec<(&str, String)>) -> Value {
    let raw: Value = serde_json::from_slice(&image.raw_config).unwrap_or_default();
    let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let layers: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let places: Map<String, Value> = places.into_iter().map(|(name, path)| (name.to_owned(), json!(path))).collect();
    let mut out = json!({
        "Id": image.id.as_str(),
        "RepoTags": tags(&image.references),
        "RepoDigests": digests(&image.references),
        "Parent": image.parent.as_ref().map_or("", |id| id.as_str()),
        "Comment": image.config.comment,
        "DockerVersion": image.config.docker_version,
        "Author": image.config.author,
        "Architecture": image.config.architecture,
        "Os": image.config.os,
        "Size": image.size(),
        "GraphDriver": {"Data": if places.is_empty() { Value::Null } else { Value::Object(places) }, "Name": driver},
        "RootFS": if layers.is_empty() { json!({"Type": "layers"}) } else { json!({"Type": "layers", "Layers": layers}) },
        "Metadata": {"LastTagTime": image.last_tagged.map_or_else(|| ZERO_TIME.to_owned(), Timestamp::rfc3339_nano)},
        "Config": run_config(raw.get("config")),
        "ContainerConfig": container_config(raw.get("container_config")),
    });
    let optional = [
        ("Variant", image.config.variant.clone()),
        ("OsVersion", text("os.version")),
        ("Container", text("container")),
    ];
    for (name, value) in optional.into_iter().filter(|(_, value)| !value.is_empty()) {
        out[name] = json!(value);
    }
    if image.config.created.is_some() {
        out["Created"] = json!(image.created.rfc3339_nano());
    }
    out
}

/// Members every configuration shows, with what they are when the document does not have them.
const ALWAYS: [(&str, Zero); 8] = [
    ("Cmd", Zero::Null),
    ("Entrypoint", Zero::Null),
    ("Env", Zero::Null),
    ("Labels", Zero::Null),
    ("OnBuild", Zero::Null),
    ("User", Zero::Text),
    ("Volumes", Zero::Null),
    ("WorkingDir", Zero::Text),
];
/// Members shown only where they are something.
const SOMETIMES: [&str; 5] = ["ArgsEscaped", "ExposedPorts", "Healthcheck", "Shell", "StopSignal"];
/// Members only containers have.
const OF_CONTAINERS: [(&str, Zero); 9] = [
    ("AttachStderr", Zero::False),
    ("AttachStdin", Zero::False),
    ("AttachStdout", Zero::False),
    ("Domainname", Zero::Text),
    ("Hostname", Zero::Text),
    ("Image", Zero::Text),
    ("OpenStdin", Zero::False),
    ("StdinOnce", Zero::False),
    ("Tty", Zero::False),
];
/// Members of those shown only where they are something.
const OF_CONTAINERS_SOMETIMES: [&str; 3] = ["MacAddress", "NetworkDisabled", "StopTimeout"];

#[derive(Debug, Clone, Copy)]
enum Zero {
    Null,
    Text,
    False,
}

impl Zero {
    fn value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Text => json!(""),
            Self::False => json!(false),
        }
    }
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// What an image is run with; members of containers are zero whatever the document says.
fn run_config(raw: Option<&Value>) -> Value {
    let mut out = shown(raw, &ALWAYS, &SOMETIMES);
    out.extend(OF_CONTAINERS.iter().map(|(name, zero)| ((*name).to_owned(), zero.value())));
    Value::Object(out)
}

fn container_config(raw: Option<&Value>) -> Value {
    let mut out = shown(raw, &ALWAYS, &SOMETIMES);
    out.extend(shown(raw, &OF_CONTAINERS, &OF_CONTAINERS_SOMETIMES));
    Value::Object(out)
}

fn shown(raw: Option<&Value>, always: &[(&str, Zero)], sometimes: &[&str]) -> Map<String, Value> {
    let member = |name: &str| raw.and_then(|raw| raw.get(name)).filter(|value| !value.is_null()).cloned();
    let mut out: Map<String, Value> =
        always.iter().map(|(name, zero)| ((*name).to_owned(), member(name).unwrap_or_else(|| zero.value()))).collect();
    for name in sometimes {
        let Some(mut value) = member(name).filter(is_something) else { continue };
        if let (&"Healthcheck", Some(map)) = (name, value.as_object_mut()) {
            map.retain(|_, value| is_something(value));
        }
        out.insert((*name).to_owned(), value);
    }
    out
}

/// One line of a history.
pub(crate) fn history(line: &HistoryLine) -> Value {
    let HistoryLine { id, created, created_by, tags, size, comment } = line;
    json!({
        "Id": id.as_ref().map_or("<missing>", |id| id.as_str()),
        "Created": created.map_or(0, Timestamp::unix_seconds),
        "CreatedBy": created_by,
        "Tags": if tags.is_empty() { Value::Null } else { json!(tags) },
        "Size": size,
        "Comment": comment,
    })
}

/// One line of what a removal did.
pub(crate) fn removal(removal: &Removal) -> Value {
    match removal {
        Removal::Untagged(name, _) | Removal::WithTag(name, _) => json!({"Untagged": name}),
        Removal::Deleted(id) => json!({"Deleted": id.as_str()}),
        Removal::Layer(chain) => json!({"Deleted": chain.as_str()}),
    }
}

/// The `platform` of a query, which is JSON.
pub(crate) fn platform(text: &str) -> Result<Option<Platform>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let refused = |words: &str| ApiError::bad_request(format!("failed to parse platform: {words}"));
    // In the words of Go's decoder.
    Object::parse_into(text.as_bytes(), Target::ANY)
        .map_err(|error| refused(error.message.strip_prefix("invalid JSON: ").unwrap_or(&error.message)))?;
    let parsed: Platform = serde_json::from_str(text).map_err(|error| refused(&error.to_string()))?;
    if parsed.os.is_empty() || parsed.architecture.is_empty() {
        return Err(ApiError::bad_request("both OS and Architecture must be provided"));
    }
    Ok(Some(parsed))
}

/// A name to be given: repository, perhaps with a tag of its own, and a tag that goes before it.
pub(crate) fn new_reference(repository: &str, tag: &str) -> Result<Option<Reference>, ApiError> {
    if repository.is_empty() {
        return Ok(None);
    }
    let parsed = Reference::parse(repository).map_err(|error| ApiError::bad_request(error.to_string()))?;
    if parsed.digest().is_some() {
        return Err(ApiError::bad_request("cannot import digest reference"));
    }
    if tag.is_empty() {
        return Ok(Some(parsed.with_default_tag()));
    }
    parsed.with_tag(tag).map(Some).map_err(|_| ApiError::bad_request("invalid tag format"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations() {
        let raw = json!({"Cmd": ["c"], "Tty": true, "Shell": [], "Unknown": 1, "Hostname": "h", "StopTimeout": 5,
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 0, "Retries": 3}});
        let run = run_config(Some(&raw));
        let want = json!({"Cmd": ["c"], "Entrypoint": null, "Env": null, "Labels": null, "OnBuild": null, "User": "",
            "Volumes": null, "WorkingDir": "", "Healthcheck": {"Test": ["CMD", "x"], "Retries": 3},
            "AttachStderr": false, "AttachStdin": false, "AttachStdout": false, "Domainname": "", "Hostname": "",
            "Image": "", "OpenStdin": false, "StdinOnce": false, "Tty": false});
        assert_eq!(run, want);
        let container = container_config(Some(&raw));
        assert_eq!((&container["Tty"], &container["StopTimeout"]), (&json!(true), &json!(5)));
        assert_eq!(container_config(None)["Image"], json!(""));
    }

    #[test]
    fn new_names() {
        let name = |repository, tag| new_reference(repository, tag).map(|r| r.map(|r| r.familiar()));
        assert_eq!(name("a:x", "y").ok().flatten().as_deref(), Some("a:y"));
        assert_eq!(name("a", "").ok().flatten().as_deref(), Some("a:latest"));
        assert_eq!(name("", "y").ok().flatten(), None);
        assert!(name("a", "b@d").is_err() && name(&format!("a@sha256:{}", "a".repeat(64)), "").is_err());
    }
}
