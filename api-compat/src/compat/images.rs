//! Images as older clients know them.

use serde_json::{Value, json};

use crate::version::ApiVersion;

/// Before this version an image without names was listed under a name that says so.
const NO_NAMES: ApiVersion = ApiVersion(1, 43);
/// Before this version there were two sizes, always equal.
const ONE_SIZE: ApiVersion = ApiVersion(1, 44);
/// Before this version inspect showed the configuration of a container that made the image.
const NO_CONTAINER_CONFIG: ApiVersion = ApiVersion(1, 45);
/// From this version on inspect shows of the configuration only what images have.
const IMAGE_CONFIG: ApiVersion = ApiVersion(1, 50);
/// Members of a container's configuration that are no image's.
const OF_CONTAINERS: [&str; 9] =
    ["AttachStderr", "AttachStdin", "AttachStdout", "Domainname", "Hostname", "Image", "OpenStdin", "StdinOnce", "Tty"];
/// From this version on a list tells how many containers use an image.
const COUNTS_CONTAINERS: ApiVersion = ApiVersion(1, 51);

fn two_sizes(version: ApiVersion, image: &mut Value) {
    if version < ONE_SIZE && image["Size"] != json!(0) {
        image["VirtualSize"] = image["Size"].clone();
    }
}

/// One entry of `GET /images/json`.
pub(crate) fn downgrade_summary(version: ApiVersion, mut image: Value) -> Value {
    two_sizes(version, &mut image);
    if version < COUNTS_CONTAINERS {
        image["Containers"] = json!(-1);
    }
    if version < NO_NAMES {
        let is_empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
        if is_empty(&image["RepoDigests"]) {
            image["RepoDigests"] = Value::Null;
        }
        if is_empty(&image["RepoTags"]) && is_empty(&image["RepoDigests"]) {
            image["RepoTags"] = json!(["<none>:<none>"]);
            image["RepoDigests"] = json!(["<none>@<none>"]);
        }
    }
    image
}

/// An image in `GET /system/df`.
pub(crate) fn downgrade_usage(version: ApiVersion, mut image: Value) -> Value {
    two_sizes(version, &mut image);
    image
}

/// `GET /images/{name}/json`, given with everything any version shows.
pub(crate) fn downgrade_inspect(version: ApiVersion, mut image: Value) -> Value {
    two_sizes(version, &mut image);
    if version < ONE_SIZE && image.get("Created").is_none() {
        image["Created"] = json!("0001-01-01T00:00:00Z");
    }
    let mut drop_member = |name: &str| image.as_object_mut().and_then(|members| members.remove(name));
    if version >= NO_CONTAINER_CONFIG {
        drop_member("Container");
        drop_member("ContainerConfig");
    }
    if version >= IMAGE_CONFIG
        && let Some(config) = image["Config"].as_object_mut()
    {
        OF_CONTAINERS.iter().for_each(|member| drop(config.remove(*member)));
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::NEWEST;

    #[test]
    fn lists_version_by_version() {
        let image = || json!({"Size": 5, "Containers": 2, "RepoTags": [], "RepoDigests": []});
        assert_eq!(downgrade_summary(NEWEST, image()), image());
        let old = downgrade_summary(ApiVersion(1, 42), image());
        assert_eq!((&old["VirtualSize"], &old["Containers"]), (&json!(5), &json!(-1)));
        assert_eq!(old["RepoTags"], json!(["<none>:<none>"]));
        let named = json!({"Size": 5, "RepoTags": ["a:b"], "RepoDigests": []});
        assert_eq!(downgrade_summary(ApiVersion(1, 24), named)["RepoTags"], json!(["a:b"]));
    }

    #[test]
    fn inspect_version_by_version() {
        let image = || json!({"Size": 5, "Config": {"Cmd": ["sh"], "Hostname": "", "Tty": false}, "ContainerConfig": {"Tty": true}});
        assert_eq!(downgrade_inspect(NEWEST, image())["Config"], json!({"Cmd": ["sh"]}));
        let middle = downgrade_inspect(ApiVersion(1, 49), image());
        assert!(middle["Config"].get("Tty").is_some() && middle.get("ContainerConfig").is_none());
        let old = downgrade_inspect(ApiVersion(1, 43), image());
        assert!(old["ContainerConfig"]["Tty"] == json!(true) && old["VirtualSize"] == json!(5));
        assert_eq!(old["Created"], json!("0001-01-01T00:00:00Z"));
    }
}
