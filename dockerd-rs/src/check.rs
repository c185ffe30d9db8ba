//! Checks of settings, whether they come from flags or file: that values in the file have the type their key wants, and
//! that what all of it adds up to makes sense. The texts are the stock daemon's.

use dockerd_types::go_json;
use serde_json::Value;

use crate::config::Settings;
use crate::flags::{self, Kind};
use crate::values;

/// The first value in the file whose type is another than its key's.
pub(crate) fn types(settings: &Settings) -> Result<(), String> {
    let known = settings.iter().filter_map(|(key, value)| Some((key, flags::by_key(key)?, value)));
    known
        .filter(|(_, flag, value)| !flag.key.is_empty() && !value.is_null())
        .try_for_each(|(key, flag, value)| one(flag.kind, key, value))
}

fn one(kind: Kind, key: &str, value: &Value) -> Result<(), String> {
    let wrong = |path: &str, value: &Value, want: &str| {
        Err(format!(
            "json: cannot unmarshal {} into Go struct field Config.{path} of type {want}",
            go_json::kind(value)
        ))
    };
    let each_text = |items: &[Value]| {
        items.iter().find(|item| !item.is_string() && !item.is_null()).map_or(Ok(()), |bad| wrong(key, bad, "string"))
    };
    match (kind, value) {
        (Kind::Bool, Value::Bool(_)) | (Kind::Text, Value::String(_)) | (Kind::Any, _) => Ok(()),
        (Kind::Int, Value::Number(number)) if number.is_i64() => Ok(()),
        (Kind::Int, Value::Number(number)) => {
            Err(format!("json: cannot unmarshal number {number} into Go struct field Config.{key} of type int"))
        }
        (Kind::Bool, other) => wrong(key, other, "bool"),
        (Kind::Int, other) => wrong(key, other, "int"),
        (Kind::Text, other) => wrong(key, other, "string"),
        (Kind::List | Kind::HostList | Kind::LabelList | Kind::DomainList | Kind::MirrorList, Value::Array(items)) => {
            each_text(items)
        }
        (Kind::IpList, Value::Array(items)) => each_text(items).and_then(|()| items.iter().try_for_each(ip)),
        (Kind::List | Kind::HostList | Kind::LabelList | Kind::DomainList | Kind::MirrorList, other) => {
            wrong(key, other, "[]string")
        }
        (Kind::IpList, other) => wrong(key, other, "[]net.IP"),
        (Kind::Ip, Value::String(_)) => ip(value),
        (Kind::Ip, other) => wrong(key, other, "net.IP"),
        (Kind::Map, Value::Object(map)) => map
            .iter()
            .find(|(_, value)| !value.is_string() && !value.is_null())
            .map_or(Ok(()), |(name, bad)| wrong(&format!("{key}.{name}"), bad, "string")),
        (Kind::BoolMap, Value::Object(map)) => map
            .iter()
            .find(|(_, value)| !value.is_boolean() && !value.is_null())
            .map_or(Ok(()), |(name, bad)| wrong(&format!("{key}.{name}"), bad, "bool")),
        (Kind::Map, other) => wrong(key, other, "map[string]string"),
        (Kind::BoolMap, other) => wrong(key, other, "map[string]bool"),
        (Kind::Runtimes, Value::Object(map)) => map
            .iter()
            .find(|(_, value)| !value.is_object() && !value.is_null())
            .map_or(Ok(()), |(name, bad)| wrong(&format!("{key}.{name}"), bad, "system.Runtime")),
        (Kind::Runtimes, other) => wrong(key, other, "map[string]system.Runtime"),
        (Kind::Bytes, Value::String(text)) => values::parse_bytes(text).map(|_| ()),
        (Kind::Bytes, other) => Err(format!("invalid size: \"{other}\"")),
        (Kind::Ulimits | Kind::MapMap, Value::Object(_)) | (Kind::Pools, Value::Array(_)) => Ok(()),
        (Kind::Ulimits, other) => wrong(key, other, "map[string]*container.Ulimit"),
        (Kind::MapMap, other) => wrong(key, other, "map[string]map[string]string"),
        (Kind::Pools, other) => wrong(key, other, "[]*ipamutils.NetworkToSplit"),
    }
}

fn ip(value: &Value) -> Result<(), String> {
    let text = value.as_str().unwrap_or_default();
    let is_ip = text.is_empty() || text.parse::<std::net::IpAddr>().is_ok();
    if is_ip { Ok(()) } else { Err(format!("invalid IP address: {text}")) }
}

/// Whether settings make sense together. The stock daemon looks at these and at no others.
pub(crate) fn settings(settings: &Settings) -> Result<(), String> {
    let text = |key: &str| settings.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| settings.get(key).and_then(Value::as_i64).unwrap_or_default();
    let list = |key: &str| {
        let items = settings.get(key).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>()
    };
    let levels = ["", "panic", "fatal", "error", "warn", "warning", "info", "debug", "trace"];
    if !levels.contains(&text("log-level").to_ascii_lowercase().as_str()) {
        return Err(format!("invalid logging level: {}", text("log-level")));
    }
    if !["", "text", "json"].contains(&text("log-format")) {
        return Err(format!("invalid log format: {}", text("log-format")));
    }
    list("dns-search").into_iter().try_for_each(values::check_domain)?;
    list("registry-mirrors").into_iter().try_for_each(values::check_mirror)?;
    labels(&list("labels"))?;
    if number("mtu") < 0 {
        return Err(format!("invalid default MTU: {}", number("mtu")));
    }
    for (key, name) in [
        ("max-concurrent-downloads", "max concurrent downloads"),
        ("max-concurrent-uploads", "max concurrent uploads"),
        ("max-download-attempts", "max download attempts"),
    ] {
        if number(key) < 0 {
            return Err(format!("invalid {name}: {}", number(key)));
        }
    }
    if !(0..=65535).contains(&number("network-diagnostic-port")) {
        let port = number("network-diagnostic-port");
        return Err(format!("invalid network-diagnostic-port ({port}): value must be between 0 and 65535"));
    }
    list("exec-opts").into_iter().try_for_each(exec_option)?;
    if !["", "shareable", "private"].contains(&text("default-ipc-mode")) {
        let mode = text("default-ipc-mode");
        return Err(format!(r#"default IPC mode setting ({mode}) is invalid; use "shareable" or "private""#));
    }
    if !["", "host", "private"].contains(&text("default-cgroupns-mode")) {
        let mode = text("default-cgroupns-mode");
        return Err(format!(r#"invalid default cgroup namespace ({mode}): use "host" or "private""#));
    }
    if !["", "iptables", "nftables"].contains(&text("firewall-backend")) {
        return Err("invalid firewall-backend: allowed values are \"iptables\" and \"nftables\"".to_owned());
    }
    let is = |key: &str, value: bool| settings.get(key) == Some(&Value::Bool(value));
    if is("firewall-honour-host", true) && is("userland-proxy", false) {
        return Err("firewall-honour-host needs userland-proxy: the daemon passes connections on itself".to_owned());
    }
    proxy_path(settings.get("userland-proxy") != Some(&Value::Bool(false)), text("userland-proxy-path"))
}

/// `key=value`, and one value for each key.
fn labels(labels: &[&str]) -> Result<(), String> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for label in labels {
        values::check_label(label)?;
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        if let Some((_, earlier)) = seen.iter().find(|(known, earlier)| *known == key && *earlier != value) {
            return Err(format!("conflict labels for {key}={value} and {key}={earlier}"));
        }
        seen.push((key, value));
    }
    Ok(())
}

fn exec_option(option: &str) -> Result<(), String> {
    let Some((key, _)) = option.split_once('=') else {
        return Err(format!("invalid exec-opt ({option}): must be formatted 'opt=value'"));
    };
    if key.trim().to_lowercase() == "native.cgroupdriver" {
        return Ok(());
    }
    Err(format!("invalid exec-opt ({option}): unknown option: '{}'", key.trim().to_lowercase()))
}

fn proxy_path(is_used: bool, path: &str) -> Result<(), String> {
    if path.is_empty() || !is_used {
        return Ok(());
    }
    if !path.starts_with('/') {
        return Err(format!("invalid userland-proxy-path: must be an absolute path: {path}"));
    }
    match std::fs::metadata(path) {
        Err(error) => {
            Err(format!("invalid userland-proxy-path: exec: {path:?}: stat {path}: {}", values::go_error(&error)))
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings_of(value: Value) -> Settings {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn types_are_checked_in_the_words_of_gos_decoder() {
        let field = "json: cannot unmarshal";
        for (value, expected) in [
            (json!({"debug": "true"}), format!("{field} string into Go struct field Config.debug of type bool")),
            (json!({"debug": 1}), format!("{field} number into Go struct field Config.debug of type bool")),
            (json!({"hosts": "x"}), format!("{field} string into Go struct field Config.hosts of type []string")),
            (json!({"mtu": "x"}), format!("{field} string into Go struct field Config.mtu of type int")),
            (
                json!({"log-opts": {"a": 1}}),
                format!("{field} number into Go struct field Config.log-opts.a of type string"),
            ),
            (
                json!({"features": {"a": 1}}),
                format!("{field} number into Go struct field Config.features.a of type bool"),
            ),
            (
                json!({"runtimes": {"x": "y"}}),
                format!("{field} string into Go struct field Config.runtimes.x of type system.Runtime"),
            ),
            (json!({"dns": ["x"]}), "invalid IP address: x".to_owned()),
            (json!({"default-gateway": "x"}), "invalid IP address: x".to_owned()),
            (json!({"default-shm-size": "x"}), "invalid size: 'x'".to_owned()),
            (json!({"default-shm-size": 5}), "invalid size: \"5\"".to_owned()),
        ] {
            assert_eq!(types(&settings_of(value)), Err(expected));
        }
        let good = json!({"debug": null, "hosts": [], "mtu": 5, "default-shm-size": "64M", "builder": {"gc": {}}});
        assert_eq!(types(&settings_of(good)), Ok(()));
    }

    #[test]
    fn settings_that_make_no_sense() {
        for (value, expected) in [
            (json!({"log-level": "foo"}), "invalid logging level: foo"),
            (json!({"log-format": "xml"}), "invalid log format: xml"),
            (json!({"labels": ["a=1", "a=2"]}), "conflict labels for a=2 and a=1"),
            (json!({"labels": ["x"]}), "bad attribute format: x"),
            (json!({"mtu": -1}), "invalid default MTU: -1"),
            (json!({"max-concurrent-downloads": -3}), "invalid max concurrent downloads: -3"),
            (json!({"exec-opts": ["foo=bar"]}), "invalid exec-opt (foo=bar): unknown option: 'foo'"),
            (
                json!({"default-ipc-mode": "foo"}),
                r#"default IPC mode setting (foo) is invalid; use "shareable" or "private""#,
            ),
            (
                json!({"default-cgroupns-mode": "foo"}),
                r#"invalid default cgroup namespace (foo): use "host" or "private""#,
            ),
            (
                json!({"network-diagnostic-port": 99999}),
                "invalid network-diagnostic-port (99999): value must be between 0 and 65535",
            ),
            (
                json!({"firewall-backend": "ipchains"}),
                r#"invalid firewall-backend: allowed values are "iptables" and "nftables""#,
            ),
            (
                json!({"firewall-honour-host": true, "userland-proxy": false}),
                "firewall-honour-host needs userland-proxy: the daemon passes connections on itself",
            ),
            (
                json!({"userland-proxy-path": "/nope"}),
                "invalid userland-proxy-path: exec: \"/nope\": stat /nope: no such file or directory",
            ),
        ] {
            assert_eq!(settings(&settings_of(value)), Err(expected.to_owned()));
        }
        let good = json!({"labels": ["a=1", "a=1"], "max-download-attempts": 0, "shutdown-timeout": -5});
        assert_eq!(settings(&settings_of(good)), Ok(()));
    }
}
