//! From what a client asked of a new network to what it will be. Pure: the networks there are and the free subnet are
//! handed in. Checks and texts are the stock daemon's.

mod bridge;
mod macvlan;
mod pools;
pub(super) mod remote;
mod template;

use std::collections::BTreeMap;

use dockerd_network::NetworkConfig;
use dockerd_network::driver::NetworkIdentity;
use dockerd_network::ipam::Subnet;
use dockerd_network::stack::NetworkOrder;
use dockerd_types::boolean::parse_bool;
use dockerd_types::container::Labels;
use dockerd_types::{ErrorKind, Kinded, NetworkId, Timestamp};
use serde::{Deserialize, Serialize};

use super::document::{PoolDocument, UserNetwork, is_ipam_plugin, is_plugin};

/// A network asked for, as the client wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateNetwork {
    /// Its name.
    pub name: String,
    /// Its driver; empty for `bridge`.
    pub driver: String,
    /// Its scope; empty for the driver's.
    pub scope: String,
    /// Whether it has IPv4; on by default.
    pub enable_ipv4: Option<bool>,
    /// Whether it has IPv6.
    pub enable_ipv6: Option<bool>,
    /// Whether nothing leads in or out.
    pub internal: bool,
    /// Whether others than services may join; of no effect on local networks.
    pub attachable: bool,
    /// Whether it is the routing mesh's.
    pub ingress: bool,
    /// Whether it is only a template.
    pub config_only: bool,
    /// The template to take settings from.
    pub config_from: String,
    /// Who gives addresses; empty for the daemon itself.
    pub ipam_driver: String,
    /// Options of that one.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Address pools.
    pub pools: Vec<CreatePool>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: Labels,
}

/// An address pool asked for; empty texts are what the client left open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePool {
    /// CIDR.
    pub subnet: String,
    /// CIDR within it.
    pub range: String,
    /// The gateway's address.
    pub gateway: String,
    /// Addresses that are others', by name.
    pub auxiliary: BTreeMap<String, String>,
}

impl CreateNetwork {
    /// Whether it has IPv4, and IPv6.
    pub(super) fn families(&self) -> [bool; 2] {
        [self.enable_ipv4.unwrap_or(true), self.enable_ipv6.unwrap_or(false)]
    }
}

impl CreatePool {
    /// Whether the client said nothing.
    pub(super) fn is_empty(&self) -> bool {
        let Self { subnet, range, gateway, auxiliary } = self;
        subnet.is_empty() && range.is_empty() && gateway.is_empty() && auxiliary.is_empty()
    }
}

/// Why a network cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No name.
    #[error("invalid name: name is empty")]
    NoName,
    /// One of the networks every daemon has. The stock daemon's text ends with a space.
    #[error("operation is not permitted on predefined {0} network ")]
    Predefined(String),
    /// The name is another's.
    #[error("network with name {0} already exists")]
    NameTaken(String),
    /// Networks of nodes need a swarm.
    #[error("cannot create a swarm scoped network when swarm is not active")]
    SwarmScope,
    /// So does the driver.
    #[error(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
    )]
    NoSwarm,
    /// So does the routing mesh.
    #[error("Ingress network can only be global scope network")]
    Ingress,
    /// `host` and `none` are there once.
    #[error("only one instance of \"{0}\" network is allowed")]
    OneInstance(String),
    /// A plugin's networks are known on all hosts.
    #[error("cannot downgrade network scope for {0} networks")]
    Downgrade(String),
    /// Neither family.
    #[error("IPv4 or IPv6 must be enabled")]
    NoFamily,
    /// Address pools that cannot be.
    #[error("invalid network config:\n{0}")]
    Pools(String),
    /// A bridge has one subnet.
    #[error("bridge driver doesn't support multiple subnets")]
    SeveralSubnets,
    /// Only a network nothing leads out of can do without the host.
    #[error("gateway mode 'isolated' can only be used for an internal network")]
    NotInternal,
    /// Another network has such addresses.
    #[error("invalid pool request: Pool overlaps with other one on this address space")]
    Overlap,
    /// A driver option's value.
    #[error("failed to parse {option} value: {value} ({why})")]
    Option {
        /// Which.
        option: &'static str,
        /// As written.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// A negative MTU.
    #[error("invalid MTU number: {0}")]
    Mtu(i64),
    /// The kernel takes 15 characters.
    #[error("numerical result out of range")]
    LinkName,
    /// Another network has the bridge.
    #[error(
        "cannot create network {id} ({link}): conflicts with network {other} ({link}): networks have same bridge name"
    )]
    SameBridge {
        /// The new network's id.
        id: NetworkId,
        /// The bridge.
        link: String,
        /// Whose it is.
        other: NetworkId,
    },
    /// An option that switches a family on.
    #[error("driver-opt {0:?} is not a valid bool")]
    NotBool(&'static str),
    /// `macvlan_mode`.
    #[error("requested macvlan mode '{0}' is not valid, 'bridge' mode is the macvlan driver default")]
    MacvlanMode(String),
    /// `ipvlan_mode`.
    #[error("requested ipvlan mode '{0}' is not valid, 'l2' mode is the ipvlan driver default")]
    IpvlanMode(String),
    /// `ipvlan_flag`.
    #[error("requested ipvlan flag '{0}' is not valid, 'bridge' is the ipvlan driver default")]
    IpvlanFlag(String),
    /// Nothing stands on loopback.
    #[error("loopback interface is not a valid {0} parent link")]
    Loopback(&'static str),
    /// Nobody gives addresses, and every network needs some.
    #[error("{0} pool is empty")]
    NoAddresses(&'static str),
    /// Nobody gives addresses, of no pool.
    #[error("null ipam driver does not handle specific address pool requests")]
    PoolOfNobody,
    /// A template says nothing of how a network is run.
    #[error(
        "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported."
    )]
    TemplateFields,
    /// A template of a template.
    #[error("a configuration network cannot depend on another configuration network")]
    TemplateOfTemplate,
    /// Who has a template says nothing else.
    #[error("user specified configurations are not supported if the network depends on a configuration network")]
    BesideTemplate,
    /// No driver options either.
    #[error("network driver options are not supported if the network depends on a configuration network")]
    OptionsBesideTemplate,
    /// The template is not there.
    #[error("configuration network {0:?} does not exist")]
    NoTemplate(String),
}

impl Kinded for PlanError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoName
            | Self::NoFamily
            | Self::Pools(_)
            | Self::Option { .. }
            | Self::Mtu(_)
            | Self::NotInternal
            | Self::NotBool(_)
            | Self::NoAddresses(_)
            | Self::PoolOfNobody => ErrorKind::InvalidArgument,
            Self::NameTaken(_) => ErrorKind::Conflict,
            Self::NoTemplate(_) => ErrorKind::NotFound,
            Self::LinkName | Self::MacvlanMode(_) | Self::IpvlanMode(_) | Self::IpvlanFlag(_) | Self::Loopback(_) => {
                ErrorKind::System
            }
            Self::Predefined(_)
            | Self::TemplateFields
            | Self::TemplateOfTemplate
            | Self::BesideTemplate
            | Self::OptionsBesideTemplate
            | Self::SwarmScope
            | Self::Downgrade(_)
            | Self::NoSwarm
            | Self::Ingress
            | Self::OneInstance(_)
            | Self::SeveralSubnets
            | Self::Overlap
            | Self::SameBridge { .. } => ErrorKind::PermissionDenied,
        }
    }
}

/// Options that switch a family on where the request does not say.
const ENABLE: [&str; 2] = ["com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"];

/// A request that was judged by itself, with what it leaves open filled in from the daemon's settings.
pub(super) fn check(mut request: CreateNetwork, defaults: &NetworkConfig) -> Result<CreateNetwork, PlanError> {
    if request.name.trim().is_empty() {
        return Err(PlanError::NoName);
    }
    if matches!(request.name.as_str(), "bridge" | "host" | "none" | "default") {
        return Err(PlanError::Predefined(request.name));
    }
    if request.scope == "swarm" {
        return Err(PlanError::SwarmScope);
    }
    if request.driver.is_empty() {
        "bridge".clone_into(&mut request.driver);
    }
    if request.config_from.is_empty() {
        for (name, value) in defaults.driver_options.get(&request.driver).into_iter().flatten() {
            request.options.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    let [ipv4, ipv6] = families(&mut request)?;
    if !ipv4 && !ipv6 && !request.config_only && request.config_from.is_empty() {
        return Err(PlanError::NoFamily);
    }
    pools::check(&request.pools, ipv6)?;
    if request.driver == "overlay" {
        return Err(PlanError::NoSwarm);
    }
    template::check(&request)?;
    if request.config_only {
        return Ok(request);
    }
    if matches!(request.driver.as_str(), "host" | "null") {
        return Err(PlanError::OneInstance(request.driver));
    }
    if request.ingress {
        return Err(PlanError::Ingress);
    }
    Ok(request)
}

/// Whether it has IPv4, and IPv6; both are said afterwards. An option that was overruled is not kept.
fn families(request: &mut CreateNetwork) -> Result<[bool; 2], PlanError> {
    let mut read = |asked: &mut Option<bool>, option: &'static str, default: bool| {
        let value = match asked {
            Some(value) => {
                request.options.remove(option);
                *value
            }
            None => match request.options.get(option) {
                Some(text) => parse_bool(text).ok_or(PlanError::NotBool(option))?,
                None => default,
            },
        };
        *asked = Some(value);
        Ok(value)
    };
    Ok([read(&mut request.enable_ipv4, ENABLE[0], true)?, read(&mut request.enable_ipv6, ENABLE[1], false)?])
}

/// The checked request with the settings of the network it names for that.
pub(super) fn complete(request: CreateNetwork, networks: &[UserNetwork]) -> Result<CreateNetwork, PlanError> {
    if networks.iter().any(|network| network.name == request.name) {
        return Err(PlanError::NameTaken(request.name));
    }
    let request = template::apply(request, networks)?;
    if request.config_only {
        return Ok(request);
    }
    let [ipv4, ipv6] = request.families();
    if !ipv4 && !ipv6 {
        return Err(PlanError::NoFamily);
    }
    match request.ipam_driver.as_str() {
        "null" if request.pools.iter().any(|pool| !pool.is_empty()) => Err(PlanError::PoolOfNobody),
        // A plugin may give its links addresses of its own.
        "null" if !is_plugin(&request.driver) => Err(PlanError::NoAddresses(if ipv4 { "ipv4" } else { "ipv6" })),
        _ => Ok(request),
    }
}

/// Whether plugins have a part in a complete request.
pub(super) fn is_plugged(request: &CreateNetwork) -> bool {
    !request.config_only && (is_plugin(&request.driver) || is_ipam_plugin(&request.ipam_driver))
}

/// Whether they may have one, before it is known what a template says.
pub(super) fn may_be_plugged(request: &CreateNetwork) -> bool {
    is_plugged(request) || !request.config_from.is_empty()
}

/// What is handed in beside the request.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// The networks users made.
    pub(super) networks: &'a [UserNetwork],
    /// Subnets of all networks.
    pub(super) taken: &'a [Subnet],
    /// Free subnets of IPv4 and IPv6, for families that name none.
    pub(super) free: [Option<Subnet>; 2],
    /// Pools that somebody else gave, instead of those asked for and of free ones.
    pub(super) given: Option<Vec<PoolDocument>>,
    /// Which families' pools need no gateway, of IPv4 and of IPv6.
    pub(super) skipped_gateways: [bool; 2],
}

/// The network a complete request leads to; driver options are judged by [`order`].
pub(super) fn plan(
    request: CreateNetwork,
    id: NetworkId,
    created: Timestamp,
    around: &Surroundings<'_>,
) -> Result<UserNetwork, PlanError> {
    let families = request.families();
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    let mut network = UserNetwork {
        link: String::new(),
        id,
        name: request.name,
        created,
        driver: request.driver,
        scope: or(request.scope, "local"),
        config_only: request.config_only,
        config_from: request.config_from,
        ipam_driver: or(request.ipam_driver, "default"),
        internal: request.internal,
        attachable: request.attachable,
        enable_ipv4: families[0],
        enable_ipv6: families[1],
        ipam_options: request.ipam_options,
        pools: pools::asked(request.pools)?,
        skipped_gateways: around.skipped_gateways,
        pending: false,
        options: request.options,
        labels: request.labels,
    };
    if network.config_only {
        // Whatever was asked for: who takes the settings says what it is.
        "null".clone_into(&mut network.driver);
        return Ok(network);
    }
    let stacked = macvlan::kind(&network.driver, &network.options)?;
    let needs_gateway = stacked.is_none_or(|kind| macvlan::needs_gateway(kind, &network.options, network.internal));
    let elsewhere = is_plugin(&network.driver);
    network.pools = match &around.given {
        // What a plugin does with its own addresses is its own affair.
        Some(given) if elsewhere => given.clone(),
        Some(given) => pools::apart(given.clone(), families, around)?,
        None => pools::choose(network.pools, families, needs_gateway, around)?,
    };
    match stacked {
        Some(kind) => network.link = macvlan::parent(kind, &network.options, &network.id),
        None if elsewhere => {}
        None => network.link = bridge::link(&network, around)?,
    }
    Ok(network)
}

/// What a driver is told of a network; `defaults` are the default bridge's settings where networks share them.
pub(super) fn order(network: &UserNetwork, defaults: &NetworkConfig) -> Result<NetworkOrder, PlanError> {
    if network.config_only {
        let (id, name) = (network.id.clone(), network.name.clone());
        return Ok(NetworkOrder::ConfigurationOnly(NetworkIdentity { id, name }));
    }
    if is_plugin(&network.driver) {
        return Ok(NetworkOrder::Remote(remote::order(network)));
    }
    match macvlan::kind(&network.driver, &network.options)? {
        Some(kind) => Ok(NetworkOrder::Macvlan(macvlan::order(network, kind))),
        None => bridge::order(network, defaults).map(NetworkOrder::Bridge),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use proptest::prelude::*;

    fn id(byte: u8) -> NetworkId {
        NetworkId::from_random([byte; 32]).expect("id")
    }

    fn request(subnet: &str) -> CreateNetwork {
        let pool = CreatePool { subnet: subnet.to_owned(), ..CreatePool::default() };
        CreateNetwork { name: "n".to_owned(), pools: vec![pool], ..CreateNetwork::default() }
    }

    fn planned(request: CreateNetwork, networks: &[UserNetwork], taken: &[Subnet]) -> Result<UserNetwork, PlanError> {
        let request = complete(check(request, &NetworkConfig::default())?, networks)?;
        let free = ["172.18.0.0/16".parse().ok(), "fd00:18::/64".parse().ok()];
        let network = plan(
            request,
            id(0xab),
            Timestamp::from_unix_nanos(0),
            &Surroundings { networks, taken, free, given: None, skipped_gateways: [false; 2] },
        )?;
        order(&network, &NetworkConfig::default())?;
        Ok(network)
    }

    #[test]
    fn texts_are_the_stock_daemons() {
        let text = |request: CreateNetwork| planned(request, &[], &[]).map(|_| ()).map_err(|error| error.to_string());
        for (subnet, wanted) in [
            ("10.99.0.0/33", "invalid network config:\ninvalid subnet 10.99.0.0/33: invalid CIDR block notation"),
            ("10.98.0.1/24", "invalid network config:\ninvalid subnet 10.98.0.1/24: it should be 10.98.0.0/24"),
        ] {
            assert_eq!(text(request(subnet)), Err(wanted.to_owned()));
        }
        let mut gateway = request("10.98.0.0/24");
        gateway.pools[0].gateway = "x".to_owned();
        assert_eq!(text(gateway), Err("invalid network config:\ninvalid gateway x: invalid address".to_owned()));
        let mut icc = request("10.98.0.0/24");
        icc.options.insert(bridge::ICC.to_owned(), "maybe".to_owned());
        let wanted = "failed to parse com.docker.network.bridge.enable_icc value: maybe \
                      (strconv.ParseBool: parsing \"maybe\": invalid syntax)";
        assert_eq!(text(icc), Err(wanted.to_owned()));
        let named = CreateNetwork { name: "host".to_owned(), ..CreateNetwork::default() };
        assert_eq!(text(named), Err("operation is not permitted on predefined host network ".to_owned()));
    }

    #[test]
    fn what_is_left_open() {
        let made = planned(CreateNetwork { name: "n".to_owned(), ..CreateNetwork::default() }, &[], &[]).expect("made");
        assert_eq!(made.link, "br-abababababab");
        assert_eq!(
            (made.pools[0].subnet.to_string(), made.pools[0].gateway),
            ("172.18.0.0/16".to_owned(), Some([172, 18, 0, 1].into()))
        );
        // With a range the gateway comes from it; what is named for others is not taken.
        let mut ranged = request("10.5.0.0/16");
        ranged.pools[0].range = "10.5.3.0/24".to_owned();
        ranged.pools[0].auxiliary.insert("a".to_owned(), "10.5.3.0".to_owned());
        let made = planned(ranged, &[], &[]).expect("made");
        let order = bridge::order(&made, &NetworkConfig::default()).expect("right");
        let gateway = order.settings.ipv4.and_then(|family| family.gateway);
        assert_eq!((gateway, made.pools[0].gateway), (Some([10, 5, 3, 1].into()), None));
    }

    #[test]
    fn what_concerns_the_default_bridge_is_not_taken_over() {
        let defaults = NetworkConfig { mtu: 1400, ..NetworkConfig::default() };
        let made = planned(request("10.5.0.0/16"), &[], &[]).expect("made");
        assert_eq!(bridge::order(&made, &defaults).expect("right").settings.mtu, 1500);
    }

    #[test]
    fn nobody_is_trusted_for_a_name_no_link_can_have() {
        let mut asked = request("10.5.0.0/16");
        asked.options.insert(bridge::TRUSTED.to_owned(), "eth0:an-even-longer-name:a b::lo".to_owned());
        let made = planned(asked, &[], &[]).expect("made");
        let order = bridge::order(&made, &NetworkConfig::default()).expect("right");
        assert_eq!(order.settings.trusted, ["eth0", "lo"]);
    }

    #[test]
    fn names_bridges_and_subnets_have_one_owner() {
        let first = planned(request("10.98.0.0/24"), &[], &[]).expect("made");
        let taken = [first.pools[0].subnet];
        let networks = [first];
        let again = planned(request("10.97.0.0/24"), &networks, &taken);
        assert_eq!(again, Err(PlanError::NameTaken("n".to_owned())));
        let other = CreateNetwork { name: "m".to_owned(), ..request("10.98.0.128/25") };
        assert_eq!(planned(other, &networks, &taken), Err(PlanError::Overlap));
    }

    proptest! {
        /// Whatever is accepted has its gateway in its subnet and overlaps nothing.
        #[test]
        fn accepted_plans_hold(bits: u32, prefix in 1u8..=32, ipv6: bool, others in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..6)) {
            let subnet = Subnet::containing(Ipv4Addr::from_bits(bits), prefix).expect("prefix");
            let asked = CreateNetwork { enable_ipv6: Some(ipv6), ..request(&subnet.to_string()) };
            let taken: Vec<Subnet> = others.iter().filter_map(|(bits, prefix)| Subnet::containing(Ipv4Addr::from_bits(*bits), *prefix)).collect();
            match planned(asked, &[], &taken) {
                Ok(network) => {
                    prop_assert!(taken.iter().all(|other| !other.overlaps(network.pools[0].subnet)));
                    let order = bridge::order(&network, &NetworkConfig::default()).expect("checked");
                    prop_assert_eq!(order.settings.families().count(), 1 + usize::from(ipv6));
                    for family in order.settings.families() {
                        prop_assert!(family.gateway.is_some_and(|gateway| family.subnet.contains(gateway)));
                    }
                }
                Err(error) => {
                    prop_assert_eq!(error, PlanError::Overlap);
                    prop_assert!(taken.iter().any(|other| other.overlaps(subnet)));
                }
            }
        }

        #[test]
        fn nothing_panics(subnet in ".{0,20}", range in ".{0,20}", gateway in ".{0,16}", aux in ".{0,16}") {
            let auxiliary = BTreeMap::from([("a".to_owned(), aux)]);
            let pool = CreatePool { subnet, range, gateway, auxiliary };
            let request = CreateNetwork { name: "n".to_owned(), pools: vec![pool], ..CreateNetwork::default() };
            let _ = planned(request, &[], &[]);
        }
    }
}
