//! Taking over settings while the daemon runs (SIGHUP): all of them or none, and then the `reload` event with the values
//! of all settings that can be changed this way, as the stock daemon publishes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dockerd_runtime::Runtimes;
use dockerd_types::Timestamp;
use dockerd_types::container::{CgroupnsMode, IpcMode};

use crate::config::{EngineConfig, RuntimeProgram};
use crate::core::Core;
use crate::error::EngineError;
use crate::open::external;
use crate::ports::EventNote;

/// What the file says now; `None`: it does not speak of this, which leaves the setting as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reload {
    /// `debug`.
    pub debug: Option<bool>,
    /// `labels`.
    pub labels: Option<Vec<String>>,
    /// `live-restore`.
    pub live_restore: Option<bool>,
    /// `shutdown-timeout`.
    pub shutdown_timeout: Option<Duration>,
    /// `default-runtime`.
    pub default_runtime: Option<String>,
    /// `runtimes`: added, or given another program; never taken away.
    pub runtimes: BTreeMap<String, RuntimeProgram>,
    /// `default-ipc-mode`.
    pub default_ipc_mode: Option<IpcMode>,
    /// `default-cgroupns-mode`.
    pub default_cgroupns_mode: Option<CgroupnsMode>,
    /// `default-shm-size`.
    pub default_shm_size: Option<u64>,
    /// `insecure-registries`.
    pub insecure_registries: Option<Vec<String>>,
    /// `registry-mirrors`.
    pub registry_mirrors: Option<Vec<String>>,
    /// `features`; these go back to none when they are not mentioned.
    pub features: BTreeMap<String, bool>,
    /// `max-concurrent-downloads`, `max-concurrent-uploads`, `max-download-attempts`; back to their defaults likewise.
    pub transfers: [Option<u32>; 3],
}

/// A default runtime nobody has added.
#[derive(Debug, thiserror::Error)]
#[error("specified default runtime '{0}' does not exist")]
struct NoSuchRuntime(String);

impl dockerd_types::Kinded for NoSuchRuntime {
    fn kind(&self) -> dockerd_types::ErrorKind {
        dockerd_types::ErrorKind::InvalidArgument
    }
}

/// Checks, then changes.
pub(crate) async fn apply(core: &Core, runtimes: &Runtimes, changes: Reload) -> Result<(), EngineError> {
    let next = merged(&core.live(), &changes);
    if !next.runtimes.contains_key(&next.default_runtime) && core.driver(&next.default_runtime).is_none() {
        return Err(EngineError::module(NoSuchRuntime(next.default_runtime)));
    }
    let (added, set) = (changes.runtimes, runtimes.clone());
    let adding = tokio::task::spawn_blocking(move || {
        added.iter().map(external).try_for_each(|(name, runtime)| set.add(&name, runtime))
    });
    let added = adding.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    added.map_err(|error| EngineError::io("add runtimes", std::io::Error::other(error)))?;
    let attributes = attributes(&next, core);
    core.live.store(Arc::new(next));
    core.events.publish(EventNote {
        kind: "daemon",
        action: "reload".to_owned(),
        actor: core.engine_id.clone(),
        attributes,
        time: Timestamp::now(),
    });
    Ok(())
}

fn merged(now: &EngineConfig, changes: &Reload) -> EngineConfig {
    let mut next = now.clone();
    let Reload {
        debug,
        labels,
        live_restore,
        shutdown_timeout,
        default_runtime,
        runtimes,
        default_ipc_mode,
        default_cgroupns_mode,
        default_shm_size,
        insecure_registries,
        registry_mirrors,
        features,
        transfers: [downloads, uploads, attempts],
    } = changes.clone();
    next.debug = debug.unwrap_or(next.debug);
    next.labels = labels.unwrap_or(next.labels);
    next.live_restore = live_restore.unwrap_or(next.live_restore);
    next.shutdown_timeout = shutdown_timeout.unwrap_or(next.shutdown_timeout);
    next.default_runtime = default_runtime.unwrap_or(next.default_runtime);
    next.runtimes.extend(runtimes);
    next.default_ipc_mode = default_ipc_mode.unwrap_or(next.default_ipc_mode);
    next.default_cgroupns_mode = default_cgroupns_mode.unwrap_or(next.default_cgroupns_mode);
    next.default_shm_size = default_shm_size.unwrap_or(next.default_shm_size);
    next.insecure_registries = insecure_registries.unwrap_or(next.insecure_registries);
    next.registry_mirrors = registry_mirrors.unwrap_or(next.registry_mirrors);
    next.features = features;
    next.max_concurrent_downloads = downloads.unwrap_or(crate::config::MAX_CONCURRENT_DOWNLOADS);
    next.max_concurrent_uploads = uploads.unwrap_or(crate::config::MAX_CONCURRENT_UPLOADS);
    next.max_download_attempts = attempts.unwrap_or(crate::config::MAX_DOWNLOAD_ATTEMPTS);
    next
}

fn attributes(config: &EngineConfig, core: &Core) -> BTreeMap<String, String> {
    let json = |list: &[String]| serde_json::to_string(list).unwrap_or_default();
    let cgroupns = match config.default_cgroupns_mode {
        CgroupnsMode::Private => "private",
        CgroupnsMode::Default if core.facts.cgroup_v2 => "private",
        CgroupnsMode::Default | CgroupnsMode::Host => "host",
    };
    let ipc = if config.default_ipc_mode == IpcMode::Shareable { "shareable" } else { "private" };
    let features: Vec<String> = config.features.iter().map(|(name, on)| format!("{name}:{on}")).collect();
    let runtimes: Vec<String> =
        config.runtimes.iter().map(|(name, program)| format!("{name}:{}", program.path.display())).collect();
    let timeout = if config.shutdown_timeout == Duration::MAX {
        "-1".to_owned()
    } else {
        config.shutdown_timeout.as_secs().to_string()
    };
    let pairs = [
        ("debug", config.debug.to_string()),
        ("default-cgroupns-mode", cgroupns.to_owned()),
        ("default-ipc-mode", ipc.to_owned()),
        ("default-runtime", config.default_runtime.clone()),
        ("default-shm-size", config.default_shm_size.to_string()),
        ("features", format!("map[{}]", features.join(" "))),
        ("insecure-registries", json(&config.insecure_registries)),
        ("labels", json(&config.labels)),
        ("live-restore", config.live_restore.to_string()),
        ("max-concurrent-downloads", config.max_concurrent_downloads.to_string()),
        ("max-concurrent-uploads", config.max_concurrent_uploads.to_string()),
        ("max-download-attempts", config.max_download_attempts.to_string()),
        ("name", core.facts.hostname.clone()),
        ("registry-mirrors", json(&config.registry_mirrors)),
        ("runtimes", runtimes.join(" ")),
        ("shutdown-timeout", timeout),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mentioned_stays_but_for_what_goes_back_to_its_default() {
        let mut config = EngineConfig::new("/d", "/e");
        config.labels = vec!["a=b".to_owned()];
        config.max_concurrent_uploads = 9;
        config.features.insert("x".to_owned(), true);
        let changes = Reload { debug: Some(true), transfers: [Some(7), None, None], ..Reload::default() };
        let next = merged(&config, &changes);
        assert!(next.debug && next.features.is_empty());
        assert_eq!(next.labels, ["a=b"]);
        assert_eq!((next.max_concurrent_downloads, next.max_concurrent_uploads), (7, 5));
    }
}
