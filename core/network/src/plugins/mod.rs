//! Plugins of Docker's first protocol: programs beside the daemon that answer HTTP requests on a socket and are network
//! drivers or give addresses. Found by name in a few directories ([`discovery`]), asked once what they are
//! (`Plugin.Activate`, `GetCapabilities`), called from then on ([`client`]). What is called stands in [`crate::remote`].
//!
//! A plugin may be away, slow or wrong at any time. Every call is bounded in time and size; one that finds nobody is
//! tried again for as long as the stock daemon tries it. All of it is blocking, and never on a worker of the runtime.

mod answer;
mod attempts;
mod client;
mod discovery;
mod error;
mod tls;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::runtime::Handle;

pub(crate) use answer::Answer;
pub use discovery::PluginPaths;
pub use error::PluginError;

use attempts::Patience;
use client::PluginClient;

/// What network drivers say they implement.
pub const NETWORK_DRIVER: &str = "NetworkDriver";
/// What those say that give addresses.
pub const IPAM_DRIVER: &str = "IpamDriver";

/// Where a driver's networks are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverScope {
    /// On this host.
    Local,
    /// On all hosts.
    Global,
}

/// What a network driver says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverCapabilities {
    /// Where its networks are known.
    pub scope: DriverScope,
    /// Whether it wants to be asked which networks need a gateway's address.
    pub checks_gateways: bool,
}

/// What somebody who gives addresses says of himself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IpamCapabilities {
    /// Whether he wants to know the hardware address that an address is for.
    pub requires_mac: bool,
    /// Whether he forgets, and is to be told at a daemon's start what is in use.
    pub requires_replay: bool,
}

/// For so long one that was away is tried once only.
const AWAY: Duration = Duration::from_secs(30);

/// A plugin that was asked what it is.
#[derive(Debug)]
struct Plugin {
    client: PluginClient,
    implements: Vec<String>,
    /// `None`: it is no network driver, or says nonsense.
    driver: Option<DriverCapabilities>,
    ipam: IpamCapabilities,
}

/// What is known of one name.
#[derive(Debug, Default)]
struct Slot {
    plugin: Option<Arc<Plugin>>,
    /// When it was found to be away.
    away: Option<Instant>,
}

impl Slot {
    fn was_away(&self) -> bool {
        self.away.is_some_and(|since| since.elapsed() < AWAY)
    }

    fn patience(&self) -> Patience {
        if self.was_away() { Patience::Little } else { Patience::Usual }
    }

    fn is_of_use(&self) -> bool {
        self.plugin.is_some() || self.was_away()
    }
}

/// The plugins of a daemon, by name.
#[derive(Debug)]
pub struct Plugins {
    paths: PluginPaths,
    runtime: Handle,
    /// Each is looked for under its own lock: one that does not answer keeps nobody from the others.
    slots: Mutex<HashMap<String, Arc<Mutex<Slot>>>>,
}

/// A method of a plugin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PluginMethod {
    /// What the plugin must implement.
    pub(crate) kind: &'static str,
    /// `NetworkDriver.Join`.
    pub(crate) name: &'static str,
    /// What the answer is read into, as the stock daemon calls it.
    pub(crate) target: &'static str,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plugins {
    /// Those found at `paths`; `runtime` does the waiting.
    pub fn new(paths: PluginPaths, runtime: Handle) -> Self {
        Self { paths, runtime, slots: Mutex::default() }
    }

    /// Makes sure that there is a network driver of this name.
    pub fn network_driver(&self, name: &str) -> Result<DriverCapabilities, PluginError> {
        let (plugin, _) = self.find(name, NETWORK_DRIVER)?;
        plugin.driver.ok_or_else(|| PluginError::Unresolved(name.to_owned()))
    }

    /// Makes sure that somebody of this name gives addresses.
    pub fn ipam_driver(&self, name: &str) -> Result<IpamCapabilities, PluginError> {
        self.find(name, IPAM_DRIVER).map(|(plugin, _)| plugin.ipam)
    }

    /// Calls a method of the plugin of that name.
    pub(crate) fn call(
        &self,
        name: &str,
        method: PluginMethod,
        request: Option<&Value>,
    ) -> Result<Answer, PluginError> {
        let (plugin, patience) = self.find(name, method.kind)?;
        let outcome = plugin.client.call(method.name, request, method.target, patience);
        if outcome.as_ref().is_err_and(PluginError::is_away) {
            // It may come back somewhere else.
            *lock(&self.slot(name)) = Slot { plugin: None, away: Some(Instant::now()) };
        }
        outcome
    }

    fn slot(&self, name: &str) -> Arc<Mutex<Slot>> {
        let mut slots = lock(&self.slots);
        // Names that were nobody's a while ago are forgotten.
        slots.retain(|_, slot| slot.try_lock().is_ok_and(|slot| slot.is_of_use()) || Arc::strong_count(slot) > 1);
        slots.entry(name.to_owned()).or_default().clone()
    }

    /// A plugin that implements `kind`. One that is not known yet is waited for.
    fn find(&self, name: &str, kind: &'static str) -> Result<(Arc<Plugin>, Patience), PluginError> {
        let slot = self.slot(name);
        let mut slot = lock(&slot);
        let patience = slot.patience();
        let plugin = match &slot.plugin {
            Some(plugin) => plugin.clone(),
            None => match self.activate(name, patience) {
                Ok(plugin) => slot.plugin.insert(Arc::new(plugin)).clone(),
                Err(error) => {
                    slot.away = error.is_away().then(Instant::now);
                    return Err(error);
                }
            },
        };
        if plugin.implements.iter().any(|known| known == kind) {
            return Ok((plugin, patience));
        }
        // It may be another program the next time.
        slot.plugin = None;
        Err(PluginError::Lacks { name: name.to_owned(), kind })
    }

    fn activate(&self, name: &str, patience: Patience) -> Result<Plugin, PluginError> {
        let address = self.paths.wait_for(name, patience)?;
        let client = PluginClient::new(address, self.runtime.clone());
        let legacy = |error| PluginError::Legacy(Box::new(error));
        let manifest = client.call("Plugin.Activate", None, "plugins.Manifest", patience).map_err(legacy)?;
        let implements = manifest.texts("Implements").map_err(legacy)?;
        let has = |kind: &str| implements.iter().any(|known| known == kind);
        let driver = has(NETWORK_DRIVER).then(|| driver_capabilities(&client)).transpose();
        let driver = driver.unwrap_or_else(|error| {
            tracing::error!(plugin = name, %error, "a network driver does not say what it can");
            None
        });
        let ipam = has(IPAM_DRIVER).then(|| ipam_capabilities(&client)).transpose();
        let ipam = ipam.unwrap_or_else(|error| {
            // There was a time when nobody was asked.
            tracing::info!(plugin = name, %error, "a driver of addresses does not say what it needs");
            None
        });
        Ok(Plugin { client, implements, driver, ipam: ipam.unwrap_or_default() })
    }
}

fn driver_capabilities(client: &PluginClient) -> Result<DriverCapabilities, PluginError> {
    let target = "api.GetCapabilityResponse";
    let answer = client.call("NetworkDriver.GetCapabilities", None, target, Patience::Usual)?;
    answer.refused("Err")?;
    let scope = |name: &str| match answer.text(name)?.as_str() {
        "local" => Ok(Some(DriverScope::Local)),
        "global" => Ok(Some(DriverScope::Global)),
        "" => Ok(None),
        other => Err(PluginError::Scope(other.to_owned())),
    };
    scope("ConnectivityScope")?;
    let scope = scope("Scope")?.ok_or_else(|| PluginError::Scope(String::new()))?;
    Ok(DriverCapabilities { scope, checks_gateways: answer.flag("GwAllocChecker")? })
}

fn ipam_capabilities(client: &PluginClient) -> Result<IpamCapabilities, PluginError> {
    let target = "api.GetCapabilityResponse";
    let answer = client.call("IpamDriver.GetCapabilities", None, target, Patience::Usual)?;
    answer.refused("Error")?;
    Ok(IpamCapabilities {
        requires_mac: answer.flag("RequiresMACAddress")?,
        requires_replay: answer.flag("RequiresRequestReplay")?,
    })
}
