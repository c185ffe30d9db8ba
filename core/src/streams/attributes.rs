//! What of a container goes into every line of its log: chosen labels and variables, and the tag (`--log-opt labels`,
//! `labels-regex`, `env`, `env-regex`, `tag`). Pure.

use std::collections::BTreeMap;

use crate::container::pattern;
use crate::container::spec::ContainerSpec;

/// The attributes a container's log options ask for; `name` is the container's.
pub(super) fn of(spec: &ContainerSpec, name: &str) -> BTreeMap<String, String> {
    let options = &spec.host.log_config.options;
    let option = |key: &str| options.get(key).map_or("", String::as_str);
    let env = || spec.config.env.iter().filter_map(|variable| variable.split_once('='));
    let chosen = |key: &str, list: &str, regex: &str| {
        list.split(',').any(|wanted| wanted == key) || (!regex.is_empty() && pattern::is_match(regex, key))
    };
    let mut out = BTreeMap::new();
    for (key, value) in &spec.config.labels {
        if chosen(key, option("labels"), option("labels-regex")) {
            out.insert(key.clone(), value.clone());
        }
    }
    for (key, value) in env() {
        if chosen(key, option("env"), option("env-regex")) {
            out.insert(key.to_owned(), value.to_owned());
        }
    }
    if !option("tag").is_empty() {
        out.insert("tag".to_owned(), tag(option("tag"), spec, name));
    }
    out
}

/// Fills in a tag's template. What is no field of it stays as it is.
fn tag(template: &str, spec: &ContainerSpec, name: &str) -> String {
    let id = spec.id.as_str();
    let image = spec.image.as_str();
    let short = |text: &str| text.trim_start_matches("sha256:").chars().take(12).collect::<String>();
    let (short_id, short_image) = (short(id), short(image));
    let fields = [
        (".Name", name),
        (".ID", &short_id),
        (".FullID", id),
        (".ImageName", &spec.config.image),
        (".ImageID", &short_image),
        (".ImageFullID", image),
        (".DaemonName", "docker"),
    ];
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((field, left)) = after.split_once("}}") else {
            out.push_str("{{");
            rest = after;
            continue;
        };
        match fields.iter().find(|(known, _)| *known == field.trim()) {
            Some((_, value)) => out.push_str(value),
            None => out.push_str(&format!("{{{{{field}}}}}")),
        }
        rest = left;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> ContainerSpec {
        ContainerSpec {
            id: dockerd_types::ContainerId::parse(&"ab".repeat(32)).expect("id"),
            created: dockerd_types::Timestamp::from_unix_nanos(0),
            image: dockerd_types::Digest::sha256(&[1; 32]),
            platform: "linux/amd64".to_owned(),
            path: "sleep".to_owned(),
            args: Vec::new(),
            config: dockerd_types::container::ContainerConfig::default(),
            host: dockerd_types::container::HostConfig::default(),
            mounts: Vec::new(),
            endpoints: BTreeMap::new(),
            storage_driver: "overlay2".to_owned(),
            log_path: None,
        }
    }

    #[test]
    fn labels_variables_and_tag() {
        let mut spec = container();
        spec.config.labels =
            BTreeMap::from([("a", "1"), ("b", "2"), ("com.x", "3")].map(|(k, v)| (k.into(), v.into())));
        spec.config.env = vec!["X=y".to_owned(), "Z=w".to_owned()];
        let options =
            [("labels", "a,q"), ("labels-regex", "^com"), ("env", "X"), ("tag", "{{.Name}}/{{.ID}}/{{.No}}{{")];
        spec.host.log_config.options = options.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let got = of(&spec, "name");
        let id: String = spec.id.as_str().chars().take(12).collect();
        let tag = format!("name/{id}/{{{{.No}}}}{{{{");
        let expected = [("X", "y"), ("a", "1"), ("com.x", "3"), ("tag", &*tag)];
        assert_eq!(got, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        spec.host.log_config.options.clear();
        assert!(of(&spec, "name").is_empty());
    }
}
