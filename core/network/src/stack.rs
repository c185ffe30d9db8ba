//! All networks of a daemon put together: the sandbox pool, the packet filter, the published ports, one driver per network,
//! and what is known of each container's sandbox. What the engine holds.
//!
//! A sandbox is changed by its container's task only, one change after the other; while that works with the kernel the
//! sandbox is out of the table, so no lock is held. A network is made and removed under the engine's turn for that.

mod held;
mod options;
mod orders;
mod plugged;
mod repair;
mod restore;
mod rules;
mod sandboxes;
mod way_out;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dockerd_sys::netlink::{Family, Socket};
use dockerd_types::ContainerId;

use crate::bridge::setup::{BridgeLink, DefaultBridge};
use crate::bridge::sweep::Sweeper;
use crate::bridge::{BridgeFamily, BridgeNetwork, BridgeSettings, setup, sweep};
use crate::config::NetworkConfig;
use crate::driver::{NetworkDriver, NetworkIdentity};
use crate::error::NetworkError;
use crate::firewall::{self, Backend, Firewall, GatewayMode, HostPolicy};
use crate::ipam::{AddressSource, Addresses, Leases, Subnet, SubnetPlan, pool};
use crate::macvlan::{MacvlanNetwork, MacvlanOrder, parent};
use crate::plugins::Plugins;
use crate::pool::{SandboxPool, ShelfId};
use crate::portmap::{PortPublisher, PublisherOptions, senders};
use crate::remote::ipam::RemoteIpam;
use crate::remote::leases::RemoteLeases;
use crate::remote::ledger::Ledger;
use crate::remote::network::{RemoteDriver, RemoteNetwork};
use crate::sandbox::{Blueprint, INNER_PREFIX, LinkKind, LinkPlan};
use crate::simple::{ConfigurationOnly, SimpleNetwork};
use held::HeldSandbox;
pub use options::endpoint_option_problems;
pub use orders::{
    Attachment, BridgeOrder, Joined, KeptContainer, NetworkOrder, Predefined, RemoteOrder, SandboxRequest, StackOptions,
};
pub use sandboxes::Changed;
pub use way_out::WayOut;

/// The networks.
#[derive(Debug)]
pub struct NetworkStack {
    networks: Mutex<Vec<Arc<dyn NetworkDriver>>>,
    bridge: Option<Arc<BridgeNetwork>>,
    firewall: Arc<dyn Firewall>,
    /// Held while a network comes or goes, and while the packet filter's rules are set anew.
    changing: Mutex<()>,
    /// Whether the packet filter has our rules: from the first bridge on.
    installed: AtomicBool,
    publisher: PortPublisher,
    sweeper: Sweeper,
    /// Told of changes of bridges, once they are guarded.
    links: OnceLock<Arc<Socket>>,
    /// Whether what concerns no bridge is dropped, of each family; known from its first bridge on.
    drop_foreign: [OnceLock<bool>; 2],
    forwarding_marker: PathBuf,
    pool: SandboxPool,
    /// Sandboxes with loopback only, for all networks that have no use for more.
    plain: ShelfId,
    sandboxes: Mutex<HashMap<ContainerId, HeldSandbox>>,
    plugins: Arc<Plugins>,
    ledgers: PathBuf,
    /// Links an earlier daemon made; looked at once.
    leftovers: Mutex<Vec<u32>>,
    /// What the kernel can do of the policy that is configured.
    policy: HostPolicy,
    config: NetworkConfig,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NetworkStack {
    /// Sets the bridges up in the calling thread's network namespace and begins to make sandboxes. A user-defined network
    /// that cannot be set up is missing and logged. Blocking.
    pub fn open(options: StackOptions) -> Result<Self, NetworkError> {
        let StackOptions { config, predefined, networks, incomplete, forwarding_marker, runtime, plugins, ledgers } =
            options;
        let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        let (firewall, policy) = firewall::open(&config)?;
        senders::clear(&socket);
        let policy = senders::check(&socket, policy);
        let link = setup::set_up(&socket, &config)?;
        let pool = SandboxPool::start()?;
        let plain = pool.add_shelf(Blueprint::Plain);
        let publisher = PortPublisher::new(PublisherOptions {
            firewall: firewall.clone(),
            proxies: config.userland_proxy.then_some(runtime),
            policy,
            ipv6: setup::host_has_ipv6(),
        });
        let simple = |identity, kind, shelf| Arc::new(SimpleNetwork { identity, kind, shelf });
        let mut stack = Self {
            networks: Mutex::default(),
            bridge: None,
            firewall,
            changing: Mutex::default(),
            installed: AtomicBool::new(false),
            publisher,
            sweeper: Sweeper::start()?,
            links: OnceLock::new(),
            drop_foreign: Default::default(),
            forwarding_marker,
            pool,
            plain,
            sandboxes: Mutex::default(),
            plugins,
            ledgers,
            leftovers: Mutex::default(),
            policy,
            config,
        };
        if let Some(link) = link {
            let driver = stack.default_bridge(&socket, predefined.bridge, link)?;
            lock(&stack.networks).push(driver.clone());
            stack.bridge = Some(driver);
        }
        lock(&stack.networks).push(simple(predefined.host, "host", None));
        lock(&stack.networks).push(simple(predefined.none, "null", Some(plain)));
        stack.reconcile(&socket, networks, incomplete)?;
        Ok(stack)
    }

    fn default_bridge(
        &self,
        socket: &Socket,
        identity: NetworkIdentity,
        bridge: DefaultBridge,
    ) -> Result<Arc<BridgeNetwork>, NetworkError> {
        let config = &self.config;
        let DefaultBridge { link, ipv4, ipv6 } = bridge;
        let flag = |value: bool| value.to_string();
        let options = [
            ("com.docker.network.bridge.default_bridge", flag(true)),
            ("com.docker.network.bridge.enable_icc", flag(config.icc)),
            ("com.docker.network.bridge.enable_ip_masquerade", flag(config.masquerade)),
            ("com.docker.network.bridge.host_binding_ipv4", config.publish_address.to_string()),
            ("com.docker.network.bridge.name", link.name.clone()),
            ("com.docker.network.driver.mtu", config.mtu.to_string()),
        ];
        let family =
            |(address, subnet): (IpAddr, Subnet), gateway: Option<IpAddr>, range: Option<Subnet>| BridgeFamily {
                subnet,
                address: Some(address),
                gateway: Some(gateway.unwrap_or(address)),
                range,
                reserved: Vec::new(),
                mode: GatewayMode::Nat,
                source: None,
            };
        let settings = BridgeSettings {
            ipv4: Some(family(ipv4, config.default_gateway.map(IpAddr::V4), config.fixed_cidr)),
            ipv6: ipv6.map(|ipv6| family(ipv6, config.default_gateway_v6.map(IpAddr::V6), config.fixed_cidr_v6)),
            mtu: config.mtu,
            prefix: INNER_PREFIX.to_owned(),
            icc: config.icc,
            masquerade: config.masquerade,
            internal: false,
            direct_routing: config.direct_routing,
            trusted: Vec::new(),
            publish_address: config.publish_address,
            options: options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        };
        self.driver(socket, identity, link, settings, AddressSource::Own, true)
    }

    /// The driver of a bridge that is there.
    fn driver(
        &self,
        socket: &Socket,
        identity: NetworkIdentity,
        link: BridgeLink,
        settings: BridgeSettings,
        addresses: AddressSource,
        prepare: bool,
    ) -> Result<Arc<BridgeNetwork>, NetworkError> {
        let addresses = self.addresses(&identity, addresses, settings.subnets()?);
        if self.config.firewall {
            setup::route_loopback(socket, &link.name)?;
        }
        if self.policy.keeps_senders() {
            let families = settings.ipv4.iter().chain(&settings.ipv6).map(|family| family.subnet.is_ipv6());
            senders::add(socket, &link.name, &families.collect::<Vec<_>>())?;
        }
        // Before the pool makes new ones.
        lock(&self.leftovers).extend(sweep::ours(socket, link.index)?);
        // Where frames between ports pass the packet filter, its rules tell published ports from others.
        let isolated = !settings.icc && !setup::frames_are_filtered();
        let kind = LinkKind::Port { bridge: link.index, mtu: settings.mtu, isolated };
        let plan = LinkPlan { kind, ipv6: settings.ipv6.is_some(), leads_out: false, prefix: settings.prefix.clone() };
        let blueprint = Blueprint::Linked(plan.clone());
        let shelf = if prepare { self.pool.add_shelf(blueprint) } else { self.pool.add_idle_shelf(blueprint) };
        Ok(Arc::new(BridgeNetwork::new(identity, link, settings, plan, shelf, addresses)))
    }

    /// Who gives a network's addresses.
    fn addresses(&self, identity: &NetworkIdentity, source: AddressSource, subnets: Vec<SubnetPlan>) -> Addresses {
        match source {
            AddressSource::Own => Addresses::Own(Leases::new(identity.clone(), subnets)),
            AddressSource::Nobody => Addresses::Nobody,
            AddressSource::Remote(source) => {
                let ipam = RemoteIpam::new(self.plugins.clone(), source.driver.clone());
                Addresses::Remote(RemoteLeases::new(ipam, source.leased(subnets), self.ledger(identity)))
            }
        }
    }

    fn ledger(&self, identity: &NetworkIdentity) -> Arc<Ledger> {
        Arc::new(Ledger::open(identity.clone(), self.ledgers.join(identity.id.as_str())))
    }

    /// Every network has its bridge or its parent, and every one of ours its network.
    fn reconcile(&self, socket: &Socket, orders: Vec<NetworkOrder>, incomplete: bool) -> Result<(), NetworkError> {
        for order in orders {
            let network = order.identity().name.clone();
            let made = match order {
                // Its parent may come back at any time.
                NetworkOrder::Macvlan(order) => {
                    if let Err(error) = parent::ensure(socket, &order) {
                        tracing::warn!(network, %error, "the link its containers stand on is missing");
                    }
                    Ok(self.macvlan(order))
                }
                order => self.make(socket, order),
            };
            match made {
                Ok(driver) => lock(&self.networks).push(driver),
                Err(error) => tracing::error!(network, %error, "a network could not be set up"),
            }
        }
        if incomplete {
            return Ok(());
        }
        let networks = self.networks();
        let plans = || networks.iter().filter_map(|network| network.link());
        parent::remove_strangers(socket, &plans().filter_map(LinkPlan::parent).collect::<Vec<_>>())?;
        setup::remove_strangers(socket, &plans().filter_map(LinkPlan::bridge).collect::<Vec<_>>())
    }

    fn macvlan(&self, mut order: MacvlanOrder) -> Arc<dyn NetworkDriver> {
        let source = std::mem::take(&mut order.addresses);
        let addresses = self.addresses(&order.identity, source, order.subnets.clone());
        Arc::new(MacvlanNetwork::new(order, addresses, self.plain))
    }

    fn remote(&self, order: RemoteOrder) -> Arc<dyn NetworkDriver> {
        let RemoteOrder { settings, driver, addresses } = order;
        let addresses = self.addresses(&settings.identity, addresses, settings.details.subnets.clone());
        let ledger = match &addresses {
            Addresses::Remote(leases) => leases.ledger().clone(),
            Addresses::Own(_) | Addresses::Nobody => self.ledger(&settings.identity),
        };
        let driver = RemoteDriver::new(self.plugins.clone(), driver);
        Arc::new(RemoteNetwork::new(settings, driver, addresses, ledger, self.plain))
    }

    /// What a network has in the kernel before anybody joins it, and its driver.
    fn make(&self, socket: &Socket, order: NetworkOrder) -> Result<Arc<dyn NetworkDriver>, NetworkError> {
        match order {
            NetworkOrder::Bridge(BridgeOrder { identity, link, settings, addresses }) => {
                let bridge = setup::ensure(socket, &link, settings.mtu, &settings.addresses())?;
                let index = bridge.index;
                let driver = self.driver(socket, identity, bridge, settings, addresses, false);
                Ok(driver.inspect_err(|_| {
                    senders::remove(socket, &link);
                    _ = setup::remove_own(socket, index);
                })?)
            }
            NetworkOrder::Macvlan(order) => {
                parent::check_sharing(&order, self.networks().iter().map(|network| &**network))?;
                parent::ensure(socket, &order)?;
                Ok(self.macvlan(order))
            }
            NetworkOrder::Remote(order) => Ok(self.remote(order)),
            NetworkOrder::ConfigurationOnly(identity) => Ok(Arc::new(ConfigurationOnly { identity })),
        }
    }

    /// Takes away what [`NetworkStack::make`] made.
    fn unmake(&self, socket: &Socket, driver: &dyn NetworkDriver) -> Result<(), NetworkError> {
        if let Some(rules) = driver.rules().filter(|_| self.policy.keeps_senders()) {
            senders::remove(socket, &rules.link);
        }
        let Some(plan) = driver.link() else { return Ok(()) };
        if let Some(parent) = plan.parent() {
            parent::remove_own(socket, parent, self.networks().iter().map(|network| &**network))?;
        }
        if let Some(bridge) = plan.bridge()
            && setup::retire(socket, bridge)?
        {
            self.sweeper.watch(bridge);
        }
        Ok(())
    }

    /// Makes a network. One at a time. Blocking.
    pub fn add(&self, order: NetworkOrder) -> Result<Arc<dyn NetworkDriver>, NetworkError> {
        let _changing = lock(&self.changing);
        let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        let driver = self.make(&socket, order)?;
        lock(&self.networks).push(driver.clone());
        if let Err(error) = self.add_rules(&*driver) {
            self.forget(&*driver);
            let _ = self.unmake(&socket, &*driver);
            return Err(error);
        }
        self.watch_bridges();
        Ok(driver)
    }

    /// Removes a network that was closed: nobody is on it. What fails keeps nothing else from being removed. One at a time.
    /// Blocking.
    pub fn remove(&self, driver: &dyn NetworkDriver) -> Result<(), NetworkError> {
        let _changing = lock(&self.changing);
        self.forget(driver);
        self.watch_bridges();
        let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        let rules = driver.rules().filter(|_| self.installed.load(Ordering::Relaxed));
        let unfiltered = rules.map_or(Ok(()), |rules| self.firewall.remove_bridge(&rules));
        self.unmake(&socket, driver).and(unfiltered)
    }

    /// Waits until the kernel has taken back what was given up. Blocking.
    pub fn drain(&self) {
        self.sweeper.finish();
    }

    fn forget(&self, driver: &dyn NetworkDriver) {
        lock(&self.networks).retain(|network| network.identity().id != driver.identity().id);
        if let Some(shelf) = driver.shelf().filter(|shelf| *shelf != self.plain) {
            self.pool.remove_shelf(shelf);
        }
    }

    /// The first subnet of the pools of a family that is neither one of `taken` nor routed on the host. Blocking.
    pub fn free_subnet(&self, ipv6: bool, taken: &[Subnet]) -> Result<Subnet, NetworkError> {
        let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        let mut all = setup::routed(&socket)?;
        all.extend(taken);
        pool::first_free(&self.config.pools, ipv6, &all).ok_or(NetworkError::PoolsExhausted)
    }

    /// Plugins that make links or give addresses.
    pub fn plugins(&self) -> &Arc<Plugins> {
        &self.plugins
    }

    /// All networks.
    pub fn networks(&self) -> Vec<Arc<dyn NetworkDriver>> {
        lock(&self.networks).clone()
    }

    /// The default bridge's address.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        match self.bridge.as_ref()?.settings().ipv4.as_ref()?.address? {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    /// Who sets the packet filter's rules.
    pub fn firewall_backend(&self) -> Backend {
        self.firewall.backend()
    }

    /// Settings of the default bridge, which networks take over where they say nothing.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// A start is over, well or not: sandboxes are made ahead again.
    pub fn refill(&self) {
        self.pool.refill();
    }
}
