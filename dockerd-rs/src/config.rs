//! From flags and `daemon.json` to one resolved configuration. What is set in both places, and keys nobody knows, are
//! refused as the stock daemon refuses them; so is every setting whose promise we could not keep.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use dockerd_core::EngineConfig;
use dockerd_core::config::{Proxies, RuntimeProgram, SeccompDefault, StorageOptions};
use dockerd_core::reload::Reload;
use dockerd_types::container::{CgroupnsMode, IpcMode, Ulimit};
use dockerd_types::go_json;
use serde_json::Value;

use crate::cli::Cli;
use crate::flags::{self, FLAGS, Support};
use crate::hosts::Host;
use crate::tls::TlsFiles;
use crate::values::{go_error, go_format, parse_bytes};
use crate::{bridge, check};

const DEFAULT_FILE: &str = "/etc/docker/daemon.json";
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
const DEFAULT_TLS_HOST: &str = "tcp://localhost:2376";

/// Everything the daemon needs to come up.
#[derive(Debug)]
pub(crate) struct Config {
    /// For the engine.
    pub(crate) engine: EngineConfig,
    /// Where to listen.
    pub(crate) hosts: Vec<Host>,
    /// Group of unix sockets; `None`: the usual one, if this machine has it.
    pub(crate) group: Option<String>,
    /// Certificates for TCP.
    pub(crate) tls: Option<TlsFiles>,
    /// A stock daemon's data root to take over at the first start.
    pub(crate) import_root: Option<PathBuf>,
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
pub(crate) type Settings = BTreeMap<String, Value>;

impl Config {
    /// Reads the file the flags name and resolves both.
    pub(crate) fn resolve(cli: &Cli) -> Result<Self, ConfigError> {
        let (path, text) = read_file(cli)?;
        let settings = merge(cli, &path, text.as_deref().unwrap_or_default())?;
        check::settings(&settings).map_err(|why| match text {
            Some(_) => file_error(&path, &format!("{MERGED}: {why}")),
            None => ConfigError::Value(why),
        })?;
        let mut warnings = Vec::new();
        check_support(&settings, &mut warnings)?;
        build(&settings, warnings)
    }

    /// Reads the file again: what of it a running daemon takes over, and the log level if it names one.
    pub(crate) fn reload(cli: &Cli) -> Result<(Reload, Option<String>), ConfigError> {
        let (path, text) = read_file(cli)?;
        let text = text.unwrap_or_default();
        let merged = merge(cli, &path, &text)?;
        check::settings(&merged).map_err(|why| file_error(&path, &format!("{MERGED}: {why}")))?;
        reloadable(&parse_file(&path, &text)?)
    }
}

/// What stands before the reason when flags and file make no sense together.
const MERGED: &str = "merged configuration validation from file and command line flags failed";

/// The file's name and content; no content if it is only the usual one and not there.
fn read_file(cli: &Cli) -> Result<(String, Option<String>), ConfigError> {
    let named = cli.set.get("config-file").and_then(Value::as_str);
    let path = named.unwrap_or(DEFAULT_FILE).to_owned();
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path, Some(text))),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok((path, None)),
        Err(error) => Err(file_error(&path, &format!("open {path}: {}", go_error(&error)))),
    }
}

fn file_error(file: &str, why: &str) -> ConfigError {
    ConfigError::File { file: file.to_owned(), why: why.to_owned() }
}

fn merge(cli: &Cli, path: &str, text: &str) -> Result<Settings, ConfigError> {
    let mut settings = parse_file(path, text)?;
    let mut conflicts = Vec::new();
    for (name, value) in &cli.set {
        let Some(flag) = flags::by_name(name) else { continue };
        if flag.key.is_empty() {
            // Not a setting, but the file may name it, and then it counts as given twice.
            if let Some(from_file) = settings.remove(*name) {
                let (flag, file) = (go_format(value), go_format(&from_file));
                conflicts.push(format!("{name}: (from flag: {flag}, from file: {file})"));
            }
            continue;
        }
        // Runtimes may be given in both places: they are merged.
        if flag.key == "runtimes" {
            continue;
        }
        if let Some(from_file) = settings.insert(flag.key.to_owned(), value.clone()) {
            let (key, flag, file) = (flag.key, go_format(value), go_format(&from_file));
            conflicts.push(format!("{key}: (from flag: {flag}, from file: {file})"));
        }
    }
    if let Some(Value::Object(added)) = cli.set.get("add-runtime") {
        let slot = settings.entry("runtimes".to_owned()).or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Value::Object(known) = slot {
            known.extend(added.clone());
        }
    }
    if conflicts.is_empty() {
        // Only now, as the stock daemon, which decodes the file once more after this.
        check::types(&settings).map_err(|why| file_error(path, &format!("invalid JSON: {why}")))?;
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
        let why = go_json::syntax_error(text.as_bytes()).unwrap_or_else(|| error.to_string());
        file_error(path, &format!("invalid JSON: {why}"))
    })?;
    let Value::Object(object) = value else {
        let kind = go_json::kind(&value);
        let why =
            format!("invalid JSON: json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}");
        return Err(file_error(path, &why));
    };
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

/// Settings, read as what they are.
struct Reader<'a>(&'a Settings);

impl Reader<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.0.get(key).and_then(Value::as_bool)
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.0.get(key).and_then(Value::as_i64)
    }

    fn count(&self, key: &str) -> Option<u32> {
        self.number(key).and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0)
    }

    /// The list, if there is one.
    fn given(&self, key: &str) -> Option<Vec<String>> {
        let items = self.0.get(key)?.as_array()?;
        Some(items.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect())
    }

    fn list(&self, key: &str) -> Vec<String> {
        self.given(key).unwrap_or_default()
    }

    fn ips(&self, key: &str) -> Vec<IpAddr> {
        self.list(key).iter().filter_map(|ip| ip.parse().ok()).collect()
    }

    /// A size: a number from a flag, text from the file.
    fn size(&self, key: &str) -> Option<u64> {
        let size = match self.0.get(key)? {
            Value::String(text) => parse_bytes(text).ok()?,
            other => other.as_i64()?,
        };
        u64::try_from(size).ok().filter(|size| *size > 0)
    }

    fn absolute(&self, key: &str, default: &str) -> Result<PathBuf, ConfigError> {
        let path = PathBuf::from(self.text(key).unwrap_or(default));
        std::path::absolute(&path).map_err(|error| ConfigError::Value(format!("{}: {error}", path.display())))
    }

    fn runtimes(&self) -> Result<BTreeMap<String, RuntimeProgram>, ConfigError> {
        let runtimes = self.0.get("runtimes").and_then(Value::as_object).into_iter().flatten();
        runtimes.map(|(name, value)| Ok((name.clone(), runtime(name, value)?))).collect()
    }

    fn booleans(&self, key: &str) -> BTreeMap<String, bool> {
        let entries = self.0.get(key).and_then(Value::as_object).into_iter().flatten();
        entries.filter_map(|(name, value)| Some((name.clone(), value.as_bool()?))).collect()
    }

    /// -1 is "for as long as it takes".
    fn shutdown_timeout(&self) -> Option<Duration> {
        let seconds = self.number("shutdown-timeout")?;
        Some(u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs))
    }

    fn ipc_mode(&self) -> Option<IpcMode> {
        let shareable = self.text("default-ipc-mode")? == "shareable";
        Some(if shareable { IpcMode::Shareable } else { IpcMode::Private })
    }

    fn cgroupns_mode(&self) -> Option<CgroupnsMode> {
        let host = self.text("default-cgroupns-mode")? == "host";
        Some(if host { CgroupnsMode::Host } else { CgroupnsMode::Private })
    }

    fn ulimits(&self) -> Vec<Ulimit> {
        let limits = self.0.get("default-ulimits").and_then(Value::as_object).into_iter().flatten();
        let limit = |(name, value): (&String, &Value)| Ulimit {
            name: name.clone(),
            soft: value.get("Soft").and_then(Value::as_i64).unwrap_or_default(),
            hard: value.get("Hard").and_then(Value::as_i64).unwrap_or_default(),
        };
        limits.map(limit).collect()
    }

    /// As set, or as the environment says.
    fn proxies(&self) -> Proxies {
        let one = |key: &str| {
            let variable = key.replace('-', "_");
            let from_environment = || {
                let upper = std::env::var(variable.to_uppercase()).ok().filter(|text| !text.is_empty());
                upper.or_else(|| std::env::var(&variable).ok()).unwrap_or_default()
            };
            self.text(key).map_or_else(from_environment, str::to_owned)
        };
        Proxies { http: one("http-proxy"), https: one("https-proxy"), none: one("no-proxy") }
    }

    fn seccomp(&self) -> Result<SeccompDefault, ConfigError> {
        match self.text("seccomp-profile") {
            None | Some("builtin") => Ok(SeccompDefault::Builtin),
            Some("unconfined") => Ok(SeccompDefault::Unconfined),
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let json = read.map_err(|error| {
                    ConfigError::Value(format!(
                        "opening seccomp profile ({path}) failed: open {path}: {}",
                        go_error(&error)
                    ))
                })?;
                Ok(SeccompDefault::Custom { path: path.to_owned(), json })
            }
        }
    }
}

fn build(settings: &Settings, warnings: Vec<String>) -> Result<Config, ConfigError> {
    let read = Reader(settings);
    let tls = TlsFiles::of(settings);
    let hosts = read.list("hosts");
    let default = if tls.is_some() { DEFAULT_TLS_HOST } else { DEFAULT_HOST };
    let hosts = if hosts.is_empty() { vec![default.to_owned()] } else { hosts };
    let hosts = hosts.iter().map(|host| Host::parse(host, tls.is_some()).map_err(ConfigError::Value));
    let hosts = hosts.collect::<Result<_, _>>()?;
    let roots = (read.absolute("data-root", "/var/lib/docker")?, read.absolute("exec-root", "/var/run/docker")?);
    let mut engine = EngineConfig::new(roots.0, roots.1);
    // Noted by the build script.
    engine.git_commit = env!("DOCKERD_RS_COMMIT").to_owned();
    engine.build_time = env!("DOCKERD_RS_COMMIT_TIME").to_owned();
    fill(&mut engine, &read)?;
    let level = if engine.debug { "debug" } else { read.text("log-level").unwrap_or("info") };
    Ok(Config {
        hosts,
        group: read.text("group").filter(|group| *group != "docker").map(str::to_owned),
        tls,
        import_root: read.text("import-docker-root").map(PathBuf::from),
        pidfile: read.absolute("pidfile", "/var/run/docker.pid")?,
        log_level: level.to_owned(),
        json_logs: read.text("log-format") == Some("json"),
        engine,
        warnings,
    })
}

fn storage_options(list: &[String]) -> Result<StorageOptions, ConfigError> {
    StorageOptions::parse(list).map_err(|error| ConfigError::Value(error.to_string()))
}

/// The engine's settings.
fn fill(engine: &mut EngineConfig, read: &Reader<'_>) -> Result<(), ConfigError> {
    engine.storage_driver = read.text("storage-driver").map(str::to_owned);
    engine.storage_options = storage_options(&read.list("storage-opts"))?;
    engine.lazy_pull = read.flag("lazy-pull").unwrap_or(false);
    if let Some(runtime) = read.text("default-runtime") {
        engine.default_runtime = runtime.to_owned();
    }
    engine.log.driver = read.text("log-driver").unwrap_or("json-file").to_owned();
    if let Some(Value::Object(options)) = read.0.get("log-opts") {
        let pairs = options.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        engine.log.options = pairs.collect();
    }
    engine.runtimes = read.runtimes()?;
    engine.default_ulimits = read.ulimits();
    engine.default_ipc_mode = read.ipc_mode().unwrap_or_else(|| engine.default_ipc_mode.clone());
    engine.default_cgroupns_mode = read.cgroupns_mode().unwrap_or(engine.default_cgroupns_mode);
    engine.seccomp = read.seccomp()?;
    engine.init = read.flag("init").unwrap_or(false);
    engine.live_restore = read.flag("live-restore").unwrap_or(false);
    engine.no_new_privileges = read.flag("no-new-privileges").unwrap_or(false);
    engine.cgroup_parent = read.text("cgroup-parent").map(str::to_owned);
    engine.labels = read.list("labels");
    engine.debug = read.flag("debug").unwrap_or(false);
    engine.experimental = read.flag("experimental").unwrap_or(false);
    engine.network = bridge::network(read.0)?;
    engine.dns = read.ips("dns");
    engine.dns_options = read.list("dns-opts");
    engine.dns_search = read.list("dns-search");
    engine.host_gateway_ips = read.ips("host-gateway-ips");
    engine.host_gateway_ips.extend(read.text("host-gateway-ip").and_then(|ip| ip.parse::<IpAddr>().ok()));
    engine.insecure_registries = read.list("insecure-registries");
    engine.registry_mirrors = read.list("registry-mirrors");
    engine.max_concurrent_downloads = read.count("max-concurrent-downloads").unwrap_or(engine.max_concurrent_downloads);
    engine.max_concurrent_uploads = read.count("max-concurrent-uploads").unwrap_or(engine.max_concurrent_uploads);
    engine.max_download_attempts = read.count("max-download-attempts").unwrap_or(engine.max_download_attempts);
    engine.features = read.booleans("features");
    engine.proxies = read.proxies();
    engine.default_shm_size = read.size("default-shm-size").unwrap_or(engine.default_shm_size);
    engine.shutdown_timeout = read.shutdown_timeout().unwrap_or(engine.shutdown_timeout);
    Ok(())
}

/// What of the file a running daemon takes over.
fn reloadable(file: &Settings) -> Result<(Reload, Option<String>), ConfigError> {
    let read = Reader(file);
    let changes = Reload {
        debug: read.flag("debug"),
        labels: read.given("labels"),
        live_restore: read.flag("live-restore"),
        shutdown_timeout: read.shutdown_timeout(),
        default_runtime: read.text("default-runtime").map(str::to_owned),
        runtimes: read.runtimes()?,
        default_ipc_mode: read.ipc_mode(),
        default_cgroupns_mode: read.cgroupns_mode(),
        default_shm_size: read.size("default-shm-size"),
        insecure_registries: read.given("insecure-registries"),
        registry_mirrors: read.given("registry-mirrors"),
        features: read.booleans("features"),
        transfers: ["max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts"]
            .map(|key| read.count(key)),
    };
    Ok((changes, read.text("log-level").map(str::to_owned)))
}

/// One entry of `runtimes`: a path, or an object with `path` and `runtimeArgs`.
fn runtime(name: &str, value: &Value) -> Result<RuntimeProgram, ConfigError> {
    let path = value.as_str().or_else(|| value.get("path")?.as_str()).filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| ConfigError::Value(format!("invalid runtime {name}: no path")))?;
    let args = ["runtimeArgs", "args"].into_iter().find_map(|key| value.get(key)?.as_array());
    let args = args.into_iter().flatten().filter_map(|arg| arg.as_str().map(str::to_owned)).collect();
    Ok(RuntimeProgram { path: PathBuf::from(path), args })
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
        let label = merged(&["--label", "c=d"], r#"{"labels":["a=b"]}"#).expect_err("conflict").to_string();
        assert!(label.ends_with("labels: (from flag: [c=d], from file: [a=b])"), "{label}");
        let file = merged(&["--config-file", "x"], r#"{"config-file":"y"}"#).expect_err("conflict").to_string();
        assert!(file.ends_with("config-file: (from flag: x, from file: y)"), "{file}");
        let broken = merged(&[], "{").expect_err("broken").to_string();
        assert!(broken.ends_with("invalid JSON: unexpected end of JSON input"), "{broken}");
        let list = merged(&[], "[]").expect_err("no object").to_string();
        assert!(list.ends_with("cannot unmarshal array into Go value of type map[string]interface {}"), "{list}");
        assert!(merged(&["--debug"], r#"{"labels":["a=b"]}"#).is_ok());
    }

    #[test]
    fn resolved_values() {
        let settings = merged(&["--data-root", "/d"], r#"{"hosts":["unix:///s"],"init":true}"#).expect("merged");
        let config = build(&settings, Vec::new()).expect("built");
        assert_eq!((config.engine.data_root, config.engine.init), (PathBuf::from("/d"), true));
        assert_eq!(config.hosts, [Host::Unix("/s".into())]);
        let settings = merged(&[], r#"{"tlsverify":false,"default-shm-size":"1k"}"#).expect("merged");
        let config = build(&settings, Vec::new()).expect("built");
        assert_eq!(config.hosts, [Host::Tcp { host: "localhost".to_owned(), port: 2376 }]);
        assert_eq!(config.engine.default_shm_size, 1024);
    }

    #[test]
    fn a_reload_takes_what_the_file_says_and_no_more() {
        let file = parse_file("/f", r#"{"labels":["a=b"],"mtu":9,"features":{"x":true},"log-level":"warn"}"#);
        let (changes, level) = reloadable(&file.expect("parsed")).expect("read");
        assert_eq!((changes.labels, changes.debug), (Some(vec!["a=b".to_owned()]), None));
        assert_eq!((changes.features["x"], level.as_deref()), (true, Some("warn")));
    }
}
