//! Opening everything: the real parts put together, and the services the API calls.

use std::sync::Arc;

use dockerd_image::ImageStore;
use dockerd_runtime::{ExternalRuntime, Runtimes, RuntimesConfig, own_program};
use dockerd_store::Layout;
use dockerd_types::Timestamp;
use dockerd_types::container::Status;

use crate::boot::{self, Parts};
use crate::config::{EngineConfig, FirewallBackend, RuntimeProgram};
use crate::container::ContainerService;
use crate::core::Core;
use crate::engine::{Engine, Reports};
use crate::error::EngineError;
use crate::event_bus::EventBus;
use crate::execs::{ExecService, ExecTable};
use crate::image::registries::Registries;
use crate::image::{ImageService, StoredImages, lazy};
use crate::network::adapter::StackNetworks;
use crate::network::{NetworkService, plugged};
use crate::reload::{self, Reload};
use crate::streams::Maker;
use crate::system::info::{self, HostInfo};
use crate::volumes::VolumeService;

/// One field per service; all the API may call.
#[derive(Debug)]
pub struct Services {
    /// Containers.
    pub containers: ContainerService,
    /// Execs.
    pub execs: ExecService,
    /// Images.
    pub images: ImageService,
    /// Volumes.
    pub volumes: VolumeService,
    /// Networks.
    pub networks: NetworkService,
    /// Events.
    pub events: EventBus,
    engine: Arc<Engine>,
    runtimes: Runtimes,
}

/// What `docker info` shows that is not the host's.
#[derive(Debug, Clone)]
pub struct EngineFacts {
    /// The engine's UUID.
    pub id: String,
    /// Settings.
    pub config: Arc<EngineConfig>,
    /// Containers there are.
    pub containers: usize,
    /// Of these, running ones.
    pub running: usize,
    /// Of these, frozen ones.
    pub paused: usize,
    /// Images there are.
    pub images: usize,
    /// Storage driver.
    pub storage_driver: String,
    /// cgroup version, 1 or 2.
    pub cgroup_version: u8,
    /// Names of runtimes.
    pub runtimes: Vec<String>,
    /// When the engine came up.
    pub started_at: Timestamp,
    /// Readers of events.
    pub event_readers: usize,
    /// Kinds of networks, as clients name them.
    pub network_drivers: Vec<String>,
    /// Who sets the packet filter's rules at the moment.
    pub firewall_backend: FirewallBackend,
}

pub(crate) fn external((name, program): (&String, &RuntimeProgram)) -> (String, ExternalRuntime) {
    (name.clone(), ExternalRuntime { path: program.path.clone(), args: program.args.clone() })
}

impl Services {
    /// Brings everything up.
    pub async fn open(config: EngineConfig) -> Result<Arc<Self>, EngineError> {
        let layout = Layout::new(&config.data_root, &config.exec_root);
        let (paths, driver, options) = (layout.clone(), config.storage_driver.clone(), config.storage_options);
        let lazy_pull = config.lazy_pull;
        let (network_config, runtime) = (config.network.clone(), tokio::runtime::Handle::current());
        let events = EventBus::default();
        let bus = events.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let lock = Engine::claim(&paths)?;
            let store = ImageStore::open_with(&paths, driver.as_deref(), options)?;
            if lazy_pull {
                store.enable_lazy_pull()?;
            }
            let networks = StackNetworks::open(&paths, network_config, runtime)?;
            Ok::<_, EngineError>((lock, store, VolumeService::open(&paths, bus)?, Arc::new(networks)))
        });
        let (lock, store, volumes, networks) =
            opened.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let program = config.program.clone().unwrap_or_else(|| own_program().to_owned());
        let runtimes_config = RuntimesConfig {
            exec_root: config.exec_root.clone(),
            program,
            external: config.runtimes.iter().map(external).collect(),
        };
        let opened = Runtimes::open(runtimes_config).await;
        let (runtimes, exits, adopted) =
            opened.map_err(|error| EngineError::io("open runtimes", std::io::Error::other(error)))?;
        // Before anything is read of a container.
        let (keeper, credentials) = lazy::adopt(&store, Arc::new(runtimes.clone())).await;
        let table = Arc::new(ExecTable::default());
        let parts = Parts {
            images: Arc::new(StoredImages::new(store.clone())),
            runtimes: Arc::new(runtimes.clone()),
            network: networks.clone(),
            volumes: Arc::new(volumes.clone()),
            events: Arc::new(events.clone()),
            streams: Arc::new(Maker { runtimes: Arc::new(runtimes.clone()) }),
            execs: table.clone(),
        };
        let engine = Engine::assemble(config, layout, lock, parts, Reports { exits, adopted }).await?;
        let core = engine.core().clone();
        tokio::spawn(boot::keep_again(core.clone(), runtimes.replacements()));
        plugged::settle_later(networks.clone());
        let images =
            ImageService { registries: Arc::new(Registries::new(core.live())?), core: core.clone(), store, keeper };
        let resuming = images.clone();
        // Names of registries may have to be looked up; nobody is to wait for that.
        tokio::spawn(async move { resuming.resume(credentials).await });
        Ok(Arc::new(Self {
            containers: engine.containers.clone(),
            execs: ExecService::new(core.clone(), table),
            networks: NetworkService { core: core.clone(), networks },
            images,
            volumes,
            events,
            engine,
            runtimes,
        }))
    }

    fn core(&self) -> &Core {
        self.engine.core()
    }

    /// What info and version show of the engine itself.
    pub fn facts(&self) -> EngineFacts {
        let core = self.core();
        let all = core.containers.all();
        let count = |status: Status| all.iter().filter(|c| c.snapshot().state.status == status).count();
        EngineFacts {
            id: core.engine_id.clone(),
            config: core.live(),
            containers: all.len(),
            running: count(Status::Running),
            paused: count(Status::Paused),
            images: self.images.store.index().images.len(),
            storage_driver: core.images.driver_name().to_owned(),
            cgroup_version: if core.facts.cgroup_v2 { 2 } else { 1 },
            runtimes: self.runtimes.names(),
            started_at: core.started_at,
            event_readers: self.events.readers(),
            network_drivers: core.network.drivers(),
            firewall_backend: core.network.firewall_backend(),
        }
    }

    /// What info shows of the host.
    pub async fn host(&self) -> Result<HostInfo, EngineError> {
        let data_root = self.core().config.data_root.clone();
        crate::image::blocking(move || info::read(&data_root)).await
    }

    /// What everything is doing, for people.
    pub async fn dump(&self) -> String {
        crate::dump::text(self.core(), &self.runtimes, &self.events).await
    }

    /// Takes over the settings a reload may change, or none of them; tells those who follow the events.
    pub async fn reload(&self, changes: Reload) -> Result<(), EngineError> {
        reload::apply(self.core(), &self.runtimes, changes).await
    }

    /// The end: containers are stopped unless they may live on, and so is a supervisor that has nothing left to do.
    pub async fn shutdown(&self) {
        self.engine.shutdown().await;
        self.images.store.leave_sessions();
        if let Err(error) = self.runtimes.shutdown_supervisor().await {
            tracing::info!(%error, "the supervisor stays");
        }
        self.runtimes.cgroups().drain();
    }
}
