//! From what a client asked of a new network to what it will be. Pure: the networks there are and the free subnet are
//! handed in. Checks and texts are the stock daemon's.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dockerd_network::NetworkConfig;
use dockerd_network::bridge::BridgeSettings;
use dockerd_network::driver::NetworkIdentity;
use dockerd_network::ipam::Subnet;
use dockerd_network::stack::BridgeOrder;
use dockerd_types::boolean::parse_bool;
use dockerd_types::container::Labels;
use dockerd_types::{ErrorKind, Kinded, NetworkId, Timestamp};

use super::document::{PoolDocument, UserNetwork};

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// No such driver.
    #[error("plugin \"{0}\" not found")]
    NoDriver(String),
    /// Neither family.
    #[error("IPv4 or IPv6 must be enabled")]
    NoFamily,
    /// Address pools that cannot be.
    #[error("invalid network config:\n{0}")]
    Pools(String),
    /// A bridge has one subnet.
    #[error("bridge driver doesn't support multiple subnets")]
    SeveralSubnets,
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
    /// What this daemon does not have yet.
    #[error("{0} is not supported by this daemon yet")]
    NotBuilt(String),
}

impl Kinded for PlanError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoName | Self::NoFamily | Self::Pools(_) | Self::Option { .. } | Self::Mtu(_) => {
                ErrorKind::InvalidArgument
            }
            Self::NameTaken(_) => ErrorKind::Conflict,
            Self::NoDriver(_) => ErrorKind::NotFound,
            Self::LinkName => ErrorKind::System,
            Self::NotBuilt(_) => ErrorKind::NotImplemented,
            Self::Predefined(_)
            | Self::SwarmScope
            | Self::NoSwarm
            | Self::Ingress
            | Self::OneInstance(_)
            | Self::SeveralSubnets
            | Self::Overlap
            | Self::SameBridge { .. } => ErrorKind::PermissionDenied,
        }
    }
}

/// Driver options of bridges, by their names in the API.
const NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";
const GATEWAY_MODES: [&str; 2] =
    ["com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"];
/// What would change traffic and is not built: refused rather than ignored.
const NOT_BUILT: [&str; 4] = [
    "com.docker.network.bridge.inhibit_ipv4",
    "com.docker.network.bridge.trusted_host_interfaces",
    "com.docker.network.container_iface_prefix",
    "com.docker.network.host_ipv4",
];

/// Everything of a request that can be judged by itself.
pub(super) fn check(request: &CreateNetwork) -> Result<(), PlanError> {
    let not_built = |what: &str| Err(PlanError::NotBuilt(what.to_owned()));
    if request.name.trim().is_empty() {
        return Err(PlanError::NoName);
    }
    if matches!(request.name.as_str(), "bridge" | "host" | "none" | "default") {
        return Err(PlanError::Predefined(request.name.clone()));
    }
    if request.scope == "swarm" {
        return Err(PlanError::SwarmScope);
    }
    let (ipv4, ipv6) = (request.enable_ipv4.unwrap_or(true), request.enable_ipv6.unwrap_or(false));
    if !ipv4 && !ipv6 && !request.config_only {
        return Err(PlanError::NoFamily);
    }
    check_pools(&request.pools)?;
    match request.driver.as_str() {
        "" | "bridge" => {}
        "overlay" => return Err(PlanError::NoSwarm),
        "host" | "null" => return Err(PlanError::OneInstance(request.driver.clone())),
        "macvlan" | "ipvlan" => return not_built("the driver macvlan or ipvlan"),
        other => return Err(PlanError::NoDriver(other.to_owned())),
    }
    if request.ingress {
        return Err(PlanError::Ingress);
    }
    if request.config_only || !request.config_from.is_empty() {
        return not_built("a network that is a configuration for others");
    }
    if ipv6 {
        return not_built("a network with IPv6");
    }
    match request.ipam_driver.as_str() {
        "" | "default" => {}
        "null" => return not_built("a network without addresses"),
        other => return Err(PlanError::NoDriver(other.to_owned())),
    }
    if let Some(option) = NOT_BUILT.iter().find(|option| request.options.contains_key(**option)) {
        return not_built(&format!("the network option {option}"));
    }
    if request.pools.len() > 1 {
        return Err(PlanError::SeveralSubnets);
    }
    Ok(())
}

/// All that is wrong with the pools, as the stock daemon lists it.
fn check_pools(pools: &[CreatePool]) -> Result<(), PlanError> {
    let mut problems = Vec::new();
    for CreatePool { subnet, range, gateway, auxiliary } in pools {
        if subnet.contains(':') {
            return Err(PlanError::NotBuilt("a network with IPv6".to_owned()));
        }
        let parsed = match Subnet::parse_with_address(subnet) {
            Err(_) if subnet.is_empty() && range.is_empty() && gateway.is_empty() && auxiliary.is_empty() => continue,
            Err(_) => {
                problems.push(format!("invalid subnet {subnet}: invalid CIDR block notation"));
                continue;
            }
            Ok((address, parsed)) => {
                if address != parsed.first() {
                    problems.push(format!("invalid subnet {subnet}: it should be {parsed}"));
                }
                parsed
            }
        };
        if !range.is_empty() {
            match Subnet::parse_with_address(range) {
                Err(_) => problems.push(format!("invalid ip-range {range}: invalid CIDR block notation")),
                Ok((address, range_)) => {
                    if address != range_.first() {
                        problems.push(format!("invalid ip-range {range}: it should be {range_}"));
                    }
                    if range_.prefix() < parsed.prefix() {
                        problems.push(format!(
                            "invalid ip-range {range}: CIDR block is bigger than its parent subnet {parsed}"
                        ));
                    }
                    if !parsed.overlaps(range_) {
                        problems
                            .push(format!("invalid ip-range {range}: parent subnet {parsed} doesn't contain ip-range"));
                    }
                }
            }
        }
        let mut address = |what: String, text: &String| match text.parse::<Ipv4Addr>() {
            Err(_) => problems.push(format!("invalid {what}: invalid address")),
            Ok(address) if !parsed.contains(address) => {
                problems.push(format!("invalid {what}: parent subnet {parsed} doesn't contain this address"));
            }
            Ok(_) => {}
        };
        if !gateway.is_empty() {
            address(format!("gateway {gateway}"), gateway);
        }
        for (name, text) in auxiliary {
            address(format!("auxiliary address {name}"), text);
        }
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err(PlanError::Pools(problems.remove(0))),
        _ => Err(PlanError::Pools(problems.iter().map(|p| format!("* {p}")).collect::<Vec<_>>().join("\n"))),
    }
}

/// What is handed in beside the request.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// The networks users made.
    pub(super) networks: &'a [UserNetwork],
    /// Subnets of all networks.
    pub(super) taken: &'a [Subnet],
    /// A free subnet, for a network that names none.
    pub(super) free: Option<Subnet>,
}

/// The network a checked request leads to.
pub(super) fn plan(
    request: CreateNetwork,
    id: NetworkId,
    created: Timestamp,
    around: &Surroundings<'_>,
) -> Result<UserNetwork, PlanError> {
    if around.networks.iter().any(|network| network.name == request.name) {
        return Err(PlanError::NameTaken(request.name));
    }
    let pool = match request.pools.into_iter().find(|pool| !pool.subnet.is_empty()) {
        Some(pool) => given(pool)?,
        None => {
            let subnet = around.free.ok_or(PlanError::Overlap)?;
            let gateway = Some(subnet.first_host());
            PoolDocument { subnet, drawn: true, range: None, gateway, auxiliary: BTreeMap::new() }
        }
    };
    if around.taken.iter().any(|taken| taken.overlaps(pool.subnet)) {
        return Err(PlanError::Overlap);
    }
    let link = request.options.get(NAME).filter(|name| !name.is_empty()).cloned();
    let link = link.unwrap_or_else(|| format!("br-{}", &id.as_str()[..12]));
    let network = UserNetwork {
        id,
        name: request.name,
        created,
        driver: "bridge".to_owned(),
        link,
        internal: request.internal,
        attachable: request.attachable,
        enable_ipv4: true,
        enable_ipv6: false,
        ipam_options: request.ipam_options,
        pools: vec![pool],
        options: request.options,
        labels: request.labels,
    };
    // The options are right, too.
    order(&network, &NetworkConfig::default())?;
    if network.link.len() > 15 {
        return Err(PlanError::LinkName);
    }
    if let Some(other) = around.networks.iter().find(|other| other.link == network.link) {
        return Err(PlanError::SameBridge { id: network.id, link: network.link, other: other.id.clone() });
    }
    Ok(network)
}

/// A pool that was checked.
fn given(pool: CreatePool) -> Result<PoolDocument, PlanError> {
    let CreatePool { subnet, range, gateway, auxiliary } = pool;
    let bad = |text: &str| PlanError::Pools(format!("invalid subnet {text}: invalid CIDR block notation"));
    let net = |text: &str| text.parse::<Subnet>().map_err(|_| bad(text));
    let address = |text: &str| text.parse::<Ipv4Addr>().map_err(|_| bad(text));
    Ok(PoolDocument {
        subnet: net(&subnet)?,
        drawn: false,
        range: (!range.is_empty()).then(|| net(&range)).transpose()?,
        gateway: (!gateway.is_empty()).then(|| address(&gateway)).transpose()?,
        auxiliary: auxiliary.iter().map(|(name, text)| Ok((name.clone(), address(text)?))).collect::<Result<_, _>>()?,
    })
}

/// What the bridge driver is told of a network; `defaults` are the default bridge's settings where networks share them.
pub(super) fn order(network: &UserNetwork, defaults: &NetworkConfig) -> Result<BridgeOrder, PlanError> {
    let pool = network.pools.first().ok_or(PlanError::Overlap)?;
    let options = &network.options;
    let flag = |option: &'static str| match options.get(option) {
        None => Ok(true),
        Some(value) => parse_bool(value).ok_or_else(|| PlanError::Option {
            option,
            value: value.clone(),
            why: format!("strconv.ParseBool: parsing {value:?}: invalid syntax"),
        }),
    };
    for option in GATEWAY_MODES {
        match options.get(option).map(String::as_str) {
            None | Some("" | "nat") => {}
            Some("routed" | "isolated" | "nat-unprotected") => {
                return Err(PlanError::NotBuilt("a gateway mode other than nat".to_owned()));
            }
            Some(other) => {
                let why = format!("unknown gateway mode {other}");
                return Err(PlanError::Option { option, value: other.to_owned(), why });
            }
        }
    }
    let mtu = match options.get(MTU) {
        None => i64::from(defaults.mtu),
        Some(value) => value.parse().map_err(|_| PlanError::Option {
            option: MTU,
            value: value.clone(),
            why: format!("strconv.Atoi: parsing {value:?}: invalid syntax"),
        })?,
    };
    let publish_address = match options.get(HOST_BINDING).filter(|text| !text.is_empty()) {
        None => defaults.publish_address,
        Some(value) => value.parse().map_err(|_| PlanError::Option {
            option: HOST_BINDING,
            value: value.clone(),
            why: "nil ip".to_owned(),
        })?,
    };
    Ok(BridgeOrder {
        identity: NetworkIdentity { id: network.id.clone(), name: network.name.clone() },
        link: network.link.clone(),
        subnet: pool.subnet,
        settings: BridgeSettings {
            gateway: gateway(pool),
            range: pool.range,
            reserved: pool.auxiliary.values().copied().collect(),
            mtu: u32::try_from(mtu).map_err(|_| PlanError::Mtu(mtu))?,
            icc: flag(ICC)?,
            masquerade: flag(MASQUERADE)?,
            internal: network.internal,
            direct_routing: defaults.direct_routing,
            publish_address,
            options: options.clone(),
        },
    })
}

/// The bridge's own address: the one asked for, or the first of the range, or of the subnet, that nobody else has.
fn gateway(pool: &PoolDocument) -> Ipv4Addr {
    if let Some(gateway) = pool.gateway {
        return gateway;
    }
    let first = pool.range.map_or_else(|| pool.subnet.first_host(), Subnet::first);
    let first = if first == pool.subnet.first() { pool.subnet.first_host() } else { first };
    let taken = |address: &Ipv4Addr| pool.auxiliary.values().any(|other| other == address);
    let free = (first.to_bits()..=pool.subnet.last().to_bits()).map(Ipv4Addr::from_bits);
    free.into_iter().find(|address| !taken(address)).unwrap_or(first)
}

#[cfg(test)]
mod tests {
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
        check(&request)?;
        let free = "172.18.0.0/16".parse().ok();
        plan(request, id(0xab), Timestamp::from_unix_nanos(0), &Surroundings { networks, taken, free })
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
        icc.options.insert(ICC.to_owned(), "maybe".to_owned());
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
            ("172.18.0.0/16".to_owned(), Some(Ipv4Addr::new(172, 18, 0, 1)))
        );
        // With a range the gateway comes from it; what is named for others is not taken.
        let mut ranged = request("10.5.0.0/16");
        ranged.pools[0].range = "10.5.3.0/24".to_owned();
        ranged.pools[0].auxiliary.insert("a".to_owned(), "10.5.3.0".to_owned());
        let made = planned(ranged, &[], &[]).expect("made");
        let order = order(&made, &NetworkConfig::default()).expect("right");
        assert_eq!((order.settings.gateway, made.pools[0].gateway), (Ipv4Addr::new(10, 5, 3, 1), None));
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
        fn accepted_plans_hold(bits: u32, prefix in 1u8..=32, others in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..6)) {
            let subnet = Subnet::containing(Ipv4Addr::from_bits(bits), prefix).expect("prefix");
            let taken: Vec<Subnet> = others.iter().filter_map(|(bits, prefix)| Subnet::containing(Ipv4Addr::from_bits(*bits), *prefix)).collect();
            match planned(request(&subnet.to_string()), &[], &taken) {
                Ok(network) => {
                    prop_assert!(taken.iter().all(|other| !other.overlaps(network.pools[0].subnet)));
                    let order = order(&network, &NetworkConfig::default()).expect("checked");
                    prop_assert!(order.subnet.contains(order.settings.gateway));
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
