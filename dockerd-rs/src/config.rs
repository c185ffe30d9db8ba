//! From flags and `daemon.json` to one resolved configuration. What is set in both places, and keys nobody knows, are
//! refused as the stock daemon refuses them; so is every setting whose promise we could not keep.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dockerd_core::EngineConfig;
use dockerd_core::config::{AddressPool, BridgeChoice, NetworkConfig, RuntimeProgram, Subnet};
use serde_json::Value;

use crate::cli::{Cli, flag_of_key};
use crate::flags::{self, FLAGS, Support};
use crate::go_json;
use crate::hosts::Host;
use crate::values::go_format;

const DEFAULT_FILE: &str = "/etc/docker/daemon.json";
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// Everything the daemon needs to come up.
#[derive(Debug)]
pub(crate) struct Config {
    /// For the engine.
    pub(crate) engine: EngineConfig,
    /// Where to listen.
    pub(crate) hosts: Vec<Host>,
    /// Group of unix sockets.
    pub(crate) group: String,
    /// File with our process id.
    pub(crate) pidfile: PathBuf,
    /// `debug`, `info`, ...
    pub(crate) log_level: String,
    /// Log lines as JSON.
    pub(crate) json_logs: bool,
    /// What the administrator should know.
    pub(crate) warnings: Vec<String>,
}

/// The settings make no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ConfigError {
    /// Reading or parsing the file.
    #[error("unable to configure the Docker daemon with file {file}: {why}")]
    File {
        /// Which.
        file: String,
        /// Why.
        why: String,
    },
    /// A value that cannot be used.
    #[error("{0}")]
    Value(String),
    /// A setting that is not built.
    #[error("--{name} is not supported by dockerd-rs: {why}")]
    Refused {
        /// Which.
        name: String,
        /// Why.
        why: &'static str,
    },
}

/// Settings by configuration key, wherever they come from.
type Settings = BTreeMap<String, Value>;

impl Config {
    /// Reads the file the flags name and resolves both.
    pub(crate) fn resolve(cli: &Cli) -> Result<Self, ConfigError> {
        let named = cli.set.get("config-file").and_then(Value::as_str);
        let path = named.unwrap_or(DEFAULT_FILE);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(file_error(path, &format!("open {path}: {error}"))),
        };
        let settings = merge(cli, path, &text)?;
        let mut warnings = Vec::new();
        check_support(&settings, &mut warnings)?;
        build(&settings, warnings)
    }
}

fn file_error(file: &str, why: &str) -> ConfigError {
    ConfigError::File { file: file.to_owned(), why: why.to_owned() }
}

fn merge(cli: &Cli, path: &str, text: &str) -> Result<Settings, ConfigError> {
    let mut settings = parse_file(path, text)?;
    let mut conflicts = Vec::new();
    for (name, value) in &cli.set {
        let Some(flag) = flags::by_name(name).filter(|flag| !flag.key.is_empty()) else { continue };
        // Runtimes may be given in both places: they are merged.
        if flag.key == "runtimes" {
            continue;
        }
        if let Some(from_file) = settings.insert(flag.key.to_owned(), value.clone()) {
            let shown = flag_of_key(flag.key).unwrap_or(flag.key);
            conflicts.push(format!("{shown}: (from flag: {}, from file: {})", go_format(value), go_format(&from_file)));
        }
    }
    if let Some(Value::Object(added)) = cli.set.get("add-runtime") {
        let slot = settings.entry("runtimes".to_owned()).or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Value::Object(known) = slot {
            known.extend(added.clone());
        }
    }
    if conflicts.is_empty() {
        return Ok(settings);
    }
    let list = conflicts.join(", ");
    let why = format!("the following directives are specified both as a flag and in the configuration file: {list}");
    Err(file_error(path, &why))
}

fn parse_file(path: &str, text: &str) -> Result<Settings, ConfigError> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Ok(Settings::new());
    }
    let value: Value = serde_json::from_str(text).map_err(|error| {
        file_error(path, &go_json::syntax_error(text.as_bytes()).unwrap_or_else(|| error.to_string()))
    })?;
    let Value::Object(object) = value else { return Err(file_error(path, "want a JSON object")) };
    let mut settings = Settings::new();
    for (key, value) in object {
        // `proxies` is the one object whose members are keys of their own.
        match value {
            Value::Object(inner) if key == "proxies" => settings.extend(inner),
            value => _ = settings.insert(key, value),
        }
    }
    let unknown: Vec<&str> = settings.keys().map(String::as_str).filter(|key| flags::by_key(key).is_none()).collect();
    if unknown.is_empty() {
        return Ok(settings);
    }
    let why = format!("the following directives don't match any configuration option: {}", unknown.join(", "));
    Err(file_error(path, &why))
}

fn check_support(settings: &Settings, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    for flag in FLAGS {
        let Some(value) = settings.get(flag.key).filter(|_| !flag.key.is_empty()) else { continue };
        let name = if flag.name.is_empty() { flag.key } else { flag.name };
        let is_default = go_format(value) == flag.default || matches!(value, Value::Bool(false) | Value::Null);
        match flag.support {
            Support::Refused(why) if !is_default => {
                return Err(ConfigError::Refused { name: name.to_owned(), why });
            }
            Support::Ignored(why) if !is_default => warnings.push(format!("--{name} has no effect: {why}")),
            _ => {}
        }
    }
    Ok(())
}

fn build(settings: &Settings, warnings: Vec<String>) -> Result<Config, ConfigError> {
    let text = |key: &str| settings.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let flag = |key: &str| settings.get(key).and_then(Value::as_bool).unwrap_or(false);
    let list = |key: &str| -> Vec<String> {
        let list = settings.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    let number = |key: &str| settings.get(key).and_then(Value::as_i64);
    let absolute = |key: &str, default: &str| {
        let path = PathBuf::from(text(key).unwrap_or(default));
        std::path::absolute(&path).map_err(|error| ConfigError::Value(format!("{}: {error}", path.display())))
    };
    let hosts = list("hosts");
    let hosts = if hosts.is_empty() { vec![DEFAULT_HOST.to_owned()] } else { hosts };
    let hosts = hosts.iter().map(|host| Host::parse(host).map_err(ConfigError::Value)).collect::<Result<_, _>>()?;
    let mut engine =
        EngineConfig::new(absolute("data-root", "/var/lib/docker")?, absolute("exec-root", "/var/run/docker")?);
    engine.storage_driver = text("storage-driver").map(str::to_owned);
    if let Some(runtime) = text("default-runtime") {
        engine.default_runtime = runtime.to_owned();
    }
    engine.log.driver = text("log-driver").unwrap_or("json-file").to_owned();
    if let Some(Value::Object(options)) = settings.get("log-opts") {
        let pairs = options.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        engine.log.options = pairs.collect();
    }
    if let Some(Value::Object(runtimes)) = settings.get("runtimes") {
        engine.runtimes =
            runtimes.iter().map(|(name, value)| Ok((name.clone(), runtime(name, value)?))).collect::<Result<_, _>>()?;
    }
    engine.init = flag("init");
    engine.live_restore = flag("live-restore");
    engine.no_new_privileges = flag("no-new-privileges");
    engine.cgroup_parent = text("cgroup-parent").map(str::to_owned);
    engine.labels = list("labels");
    engine.debug = flag("debug");
    engine.experimental = flag("experimental");
    engine.network = network(settings)?;
    engine.dns = list("dns").iter().filter_map(|ip| ip.parse().ok()).collect();
    engine.dns_options = list("dns-opts");
    engine.dns_search = list("dns-search");
    if let Some(size) = number("default-shm-size").and_then(|size| u64::try_from(size).ok()) {
        engine.default_shm_size = size;
    }
    if let Some(seconds) = number("shutdown-timeout") {
        // -1 is "for as long as it takes".
        engine.shutdown_timeout = u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs);
    }
    let level = if engine.debug { "debug" } else { text("log-level").unwrap_or("info") };
    Ok(Config {
        hosts,
        group: text("group").unwrap_or("docker").to_owned(),
        pidfile: absolute("pidfile", "/var/run/docker.pid")?,
        log_level: level.to_owned(),
        json_logs: text("log-format") == Some("json"),
        engine,
        warnings,
    })
}

/// Settings of the default bridge.
fn network(settings: &Settings) -> Result<NetworkConfig, ConfigError> {
    let text = |key: &str| settings.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let flag = |key: &str, default: bool| settings.get(key).and_then(Value::as_bool).unwrap_or(default);
    let invalid = |error: &dyn std::fmt::Display| ConfigError::Value(error.to_string());
    let defaults = NetworkConfig::default();
    let bridge = match text("bridge") {
        None => BridgeChoice::Default,
        Some("none") => BridgeChoice::None,
        Some(name) => BridgeChoice::Existing(name.to_owned()),
    };
    let bip = text("bip").map(Subnet::parse_with_address).transpose().map_err(|e| invalid(&e))?;
    if text("bridge").is_some() && bip.is_some() {
        let why = "You specified -b & --bip, mutually exclusive options. Please specify only one";
        return Err(ConfigError::Value(why.to_owned()));
    }
    let address = |key: &str| -> Result<Option<Ipv4Addr>, ConfigError> {
        let wrong = |_| ConfigError::Value(format!("{key}: only IPv4 addresses are supported"));
        text(key).map(|text| text.parse().map_err(wrong)).transpose()
    };
    let mtu = settings.get("mtu").and_then(Value::as_i64).filter(|mtu| *mtu != 0);
    let mtu = mtu.map(|mtu| u32::try_from(mtu).map_err(|_| ConfigError::Value(format!("invalid default MTU: {mtu}"))));
    Ok(NetworkConfig {
        bridge,
        bip,
        fixed_cidr: text("fixed-cidr").map(str::parse).transpose().map_err(|e| invalid(&e))?,
        default_gateway: address("default-gateway")?,
        mtu: mtu.transpose()?.unwrap_or(defaults.mtu),
        icc: flag("icc", true),
        publish_address: address("ip")?.unwrap_or(defaults.publish_address),
        ip_forward: flag("ip-forward", true),
        ip_forward_no_drop: flag("ip-forward-no-drop", false),
        masquerade: flag("ip-masq", true),
        firewall: flag("iptables", true),
        userland_proxy: flag("userland-proxy", true),
        direct_routing: flag("allow-direct-routing", false),
        pools: pools(settings)?.unwrap_or(defaults.pools),
    })
}

/// `default-address-pools`; `None` when there are none.
fn pools(settings: &Settings) -> Result<Option<Vec<AddressPool>>, ConfigError> {
    let Some(list) = settings.get("default-address-pools").and_then(Value::as_array).filter(|l| !l.is_empty()) else {
        return Ok(None);
    };
    let pool = |entry: &Value| {
        let base: Subnet = entry.get("base")?.as_str()?.parse().ok()?;
        let size = u8::try_from(entry.get("size")?.as_u64()?).ok()?;
        (size >= base.prefix() && size <= 32).then_some(AddressPool { base, size })
    };
    let wrong = |entry: &Value| ConfigError::Value(format!("invalid default address pool: {entry}"));
    list.iter().map(|entry| pool(entry).ok_or_else(|| wrong(entry))).collect::<Result<_, _>>().map(Some)
}

/// One entry of `runtimes`: a path, or an object with `path` and `runtimeArgs`.
fn runtime(name: &str, value: &Value) -> Result<RuntimeProgram, ConfigError> {
    let path = value.as_str().or_else(|| value.get("path")?.as_str()).filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| ConfigError::Value(format!("invalid runtime {name}: no path")))?;
    let args = ["runtimeArgs", "args"].into_iter().find_map(|key| value.get(key)?.as_array());
    let args = args.into_iter().flatten().filter_map(|arg| arg.as_str().map(str::to_owned)).collect();
    Ok(RuntimeProgram { path: PathBuf::from(path), args })
}

/// Refuses to start beside a daemon that lives; a file left by a dead one is taken over.
pub(crate) fn claim_pidfile(path: &Path) -> Result<(), ConfigError> {
    let old = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(pid) = old.filter(|pid| *pid != std::process::id() && is_alive(*pid)) {
        return Err(ConfigError::Value(format!(
            "failed to start daemon, ensure docker is not running or delete {}: process with PID {pid} is still running",
            path.display()
        )));
    }
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = written.and_then(|()| std::fs::write(path, std::process::id().to_string()));
    written.map_err(|error| ConfigError::Value(format!("failed to write {}: {error}", path.display())))
}

/// Whether the process runs; one that has ended and was not collected does not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may contain anything.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(args: &[&str], file: &str) -> Result<Settings, ConfigError> {
        merge(&Cli::parse(args).expect("flags"), "/f", file)
    }

    #[test]
    fn conflicts_and_unknown_keys_are_refused_in_docker_words() {
        let conflict = merged(&["--debug"], r#"{"debug":false}"#).expect_err("conflict").to_string();
        assert!(conflict.contains("specified both as a flag and in the configuration file: debug"), "{conflict}");
        let unknown = merged(&[], r#"{"nope":1}"#).expect_err("unknown").to_string();
        assert!(unknown.ends_with("the following directives don't match any configuration option: nope"), "{unknown}");
        assert!(merged(&["--debug"], r#"{"labels":["a=b"]}"#).is_ok());
    }

    #[test]
    fn resolved_values() {
        let settings = merged(&["--data-root", "/d"], r#"{"hosts":["unix:///s"],"init":true}"#).expect("merged");
        let config = build(&settings, Vec::new()).expect("built");
        assert_eq!((config.engine.data_root, config.engine.init), (PathBuf::from("/d"), true));
        assert_eq!(config.hosts, [Host::Unix("/s".into())]);
    }
}
