//! Registries: how the daemon's settings reach the client of them, and how many transfers may run at once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use dockerd_registry::{Access, Credentials, Registry, RegistryConfig, RegistryError, Repository};
use dockerd_types::Reference;
use tokio::sync::Semaphore;

use crate::config::EngineConfig;
use crate::error::EngineError;

impl From<RegistryError> for EngineError {
    fn from(error: RegistryError) -> Self {
        Self::module(error)
    }
}

/// The client of registries with the settings of the moment.
#[derive(Debug)]
pub(crate) struct Registries {
    client: Registry,
    applied: Mutex<Applied>,
}

#[derive(Debug)]
struct Applied {
    config: Arc<EngineConfig>,
    slots: Slots,
}

/// How many transfers may run at once, of all pulls and of all pushes.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    pub(crate) downloads: Arc<Semaphore>,
    pub(crate) uploads: Arc<Semaphore>,
}

impl Slots {
    fn of(config: &EngineConfig) -> Self {
        let slots = |count: u32| Arc::new(Semaphore::new(usize::try_from(count.max(1)).unwrap_or(1)));
        Self { downloads: slots(config.max_concurrent_downloads), uploads: slots(config.max_concurrent_uploads) }
    }
}

impl Registries {
    /// With the settings at start.
    pub(crate) fn new(config: Arc<EngineConfig>) -> Result<Self, EngineError> {
        let client = Registry::new(registry_config(&config))?;
        let slots = Slots::of(&config);
        Ok(Self { client, applied: Mutex::new(Applied { config, slots }) })
    }

    /// The client and the slots, after `live` has been applied. What runs already keeps what it began with.
    pub(crate) fn with(&self, live: &Arc<EngineConfig>) -> Result<(&Registry, Slots), EngineError> {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&applied.config, live) {
            self.client.set_config(registry_config(live))?;
            let limits = |config: &EngineConfig| (config.max_concurrent_downloads, config.max_concurrent_uploads);
            if limits(&applied.config) != limits(live) {
                applied.slots = Slots::of(live);
            }
            applied.config = live.clone();
        }
        Ok((&self.client, applied.slots.clone()))
    }

    /// The repository of `reference`.
    pub(crate) async fn repository(
        &self,
        live: &Arc<EngineConfig>,
        reference: &Reference,
        access: Access,
        credentials: Option<Credentials>,
    ) -> Result<(Repository, Slots), EngineError> {
        let (client, slots) = self.with(live)?;
        Ok((client.repository(reference, access, credentials).await?, slots))
    }
}

fn registry_config(config: &EngineConfig) -> RegistryConfig {
    let agent = format!("docker/{} os/linux arch/{}", config.version, dockerd_image::Platform::host().architecture);
    let mut out = RegistryConfig::new(&agent);
    out.mirrors.clone_from(&config.registry_mirrors);
    out.insecure.clone_from(&config.insecure_registries);
    out.certs_dirs = vec![PathBuf::from(dockerd_registry::CERTS_DIR)];
    out.proxies = dockerd_registry::Proxies {
        http: config.proxies.http.clone(),
        https: config.proxies.https.clone(),
        no_proxy: config.proxies.none.clone(),
    };
    out.max_download_attempts = config.max_download_attempts;
    out
}
