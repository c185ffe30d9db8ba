//! Who reaches whom by real traffic, under which address, for every kind of bridge network: containers, their host, and two
//! more hosts on cables, which have routes to the containers' subnets so that direct routing is tried too.
//!
//! Each test has a daemon of its own, so that addresses and ports are the same in all. The container asked has port 80
//! published as the host's 8080, by TCP and UDP; port 81 is not published. A cell is the address the server saw:
//!
//! | cell | of |
//! |---|---|
//! | `self` | the container asked |
//! | `same`, `other` | a container on the same network, on another bridge network |
//! | `gw`, `gw2` | the host on that network, on the other one |
//! | `host`, `host2` | the host on the first, on the second cable |
//! | `far`, `alien` | the other host on the first, on the second cable |
//! | `lo` | loopback |
//! | `ok` | an answered echo request |
//! | `-` | nothing came back |
//! | `x` | refused |
//! | `!` | no way there; of a container's own address `-` too: neighbours that are not there are told of late |
//! | `eof` | the connection was made, and ended without a word |
//! | `.` | not asked: there is no such address |
//!
//! Columns: `lo` asks the host's loopback, port 8080, from the host; `own` its address on the first cable; `far`, `alien`,
//! `same`, `self`, `other` ask 8080 of the host on the cable from there; `X>80`, `X>81` ask the container's own address from
//! X. `out` goes from the container to the far host, `svc` to a program of its own host, `gw` to one on the gateway's address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, Result};
use compat_tests::check::has;
use compat_tests::host::Kind;
use compat_tests::matrix::{Matrix, Whose};
use compat_tests::network::Network;
use compat_tests::private::Private;
use compat_tests::probe::{Outcome, Protocol, Server, ask};
use compat_tests::{Case, Suite, suite, tests};

fn main() -> ExitCode {
    Suite {
        name: "reach",
        flags: &[],
        tests: tests![
            default_bridge,
            default_bridge_without_proxy,
            user_bridge,
            only_ipv4,
            user_bridge_without_proxy,
            only_ipv6,
            containers_apart,
            default_bridge_apart,
            internal,
            internal_isolated,
            unprotected,
            routed,
            routed_ipv6,
            isolated_family,
            not_masqueraded,
            bound_to_loopback,
            bound_to_an_address,
            trusted_interface,
            direct_routing_allowed,
            seen_as_chosen,
            without_ip6tables,
            published_by_sctp,
        ],
    }
    .main()
}

/// Addresses of both families.
#[derive(Debug, Clone, Copy)]
struct Pair {
    v4: &'static str,
    v6: &'static str,
}

const HOST: Pair = Pair { v4: "192.0.2.1", v6: "2001:db8:0:1::1" };
const FAR: Pair = Pair { v4: "192.0.2.2", v6: "2001:db8:0:1::2" };
const HOST2: Pair = Pair { v4: "198.51.100.1", v6: "2001:db8:0:2::1" };
const ALIEN: Pair = Pair { v4: "198.51.100.2", v6: "2001:db8:0:2::2" };
const LOOPBACK: Pair = Pair { v4: "127.0.0.1", v6: "::1" };
/// Where all containers are, as the other hosts route it.
const CONTAINERS: [&str; 3] = ["10.213.0.0/16", "172.17.0.0/16", "fd00:213::/32"];
/// Where the cables are.
const CABLES: [&str; 4] = ["192.0.2.0/24", "198.51.100.0/24", "2001:db8:0:1::/64", "2001:db8:0:2::/64"];
/// Subnets of the network asked with the host's addresses there, and the other network.
const SUBNET4: &[&str] = &["--subnet", "10.213.1.0/24"];
const SUBNET6: &[&str] = &["--subnet", "fd00:213:1::/64"];
const GATEWAY: Pair = Pair { v4: "10.213.1.1", v6: "fd00:213:1::1" };
const OTHER: [&str; 5] = ["--ipv6", "--subnet", "10.213.2.0/24", "--subnet", "fd00:213:2::/64"];
/// The port as it is published, on the host, inside, one that is not published, and that of programs outside containers.
const ANY: &str = "8080:80";
const PUBLISHED: u16 = 8080;
const PORT: u16 = 80;
const UNPUBLISHED: u16 = 81;
const SERVICE: u16 = 9000;

/// Where an attempt goes.
#[derive(Debug, Clone, Copy)]
enum To {
    /// The host's published port on these addresses.
    Published(Pair),
    /// A port of the container asked.
    Container(u16),
    /// A program on these addresses.
    Service(Pair),
    /// A program on the gateway's address.
    Gateway,
}

/// Name, from where, to where.
const COLUMNS: [(&str, &str, To); 20] = [
    ("lo", "host", To::Published(LOOPBACK)),
    ("own", "host", To::Published(HOST)),
    ("far", "far", To::Published(HOST)),
    ("alien", "alien", To::Published(HOST2)),
    ("same", "same", To::Published(HOST)),
    ("self", "self", To::Published(HOST)),
    ("other", "other", To::Published(HOST)),
    ("host>80", "host", To::Container(PORT)),
    ("host>81", "host", To::Container(UNPUBLISHED)),
    ("far>80", "far", To::Container(PORT)),
    ("far>81", "far", To::Container(UNPUBLISHED)),
    ("alien>80", "alien", To::Container(PORT)),
    ("alien>81", "alien", To::Container(UNPUBLISHED)),
    ("same>80", "same", To::Container(PORT)),
    ("same>81", "same", To::Container(UNPUBLISHED)),
    ("other>80", "other", To::Container(PORT)),
    ("other>81", "other", To::Container(UNPUBLISHED)),
    ("out", "self", To::Service(FAR)),
    ("svc", "self", To::Service(HOST)),
    ("gw", "self", To::Gateway),
];

/// What the container asked is on.
#[derive(Debug, Clone, Copy)]
enum On {
    /// The default bridge.
    Default,
    /// A network of both families, made with these options.
    Both(&'static [&'static str]),
    /// A network of one family.
    Only4,
    Only6,
}

impl On {
    /// Makes it if need be; its name.
    fn make(self, case: &Case<'_>) -> Result<String> {
        let mut options = Vec::new();
        match self {
            Self::Default => return Ok("bridge".to_owned()),
            Self::Both(more) => options.extend([&["--ipv6"], SUBNET4, SUBNET6, more].concat()),
            Self::Only4 => options.extend(SUBNET4),
            Self::Only6 => options.extend([&["--ipv4=false", "--ipv6"], SUBNET6].concat()),
        }
        let name = case.network("mine");
        case.docker(&[&["network", "create"], &options[..], &[&name]].concat()).ok()?;
        Ok(name)
    }
}

/// A test: a daemon with flags, the network, the port as it is published, and what is expected.
struct Reach {
    flags: &'static [&'static str],
    on: On,
    publish: &'static str,
    expected: &'static str,
}

/// All hosts and containers of a test by their names, and how addresses are called.
struct World {
    daemon: Private,
    networks: BTreeMap<&'static str, Network>,
    names: BTreeMap<IpAddr, &'static str>,
}

impl World {
    fn start(case: &Case<'_>, flags: &[&str]) -> Result<Self> {
        let daemon = Private::start_with_network(case.host(), flags)?;
        let (host, far, alien) = (daemon.network()?, Network::another()?, Network::another()?);
        host.cable("eth0", &on_cable(HOST), (&far, &on_cable(FAR)))?;
        host.cable("eth1", &on_cable(HOST2), (&alien, &on_cable(ALIEN)))?;
        for (network, router) in [(&far, HOST), (&alien, HOST2)] {
            for subnet in CONTAINERS.iter().chain(&CABLES) {
                let router = if subnet.contains(':') { router.v6 } else { router.v4 };
                network.ip(&["route", "replace", subnet, "via", router, "metric", "2000"])?;
            }
        }
        for network in [&host, &far, &alien] {
            // All is asked at once, and each refusal is to be heard.
            network.set("ipv4/icmp_ratelimit", "0")?;
            network.set("ipv4/icmp_msgs_per_sec", "100000")?;
            network.set("ipv4/icmp_msgs_burst", "100000")?;
            network.set("ipv6/icmp/ratelimit", "0")?;
        }
        let networks = BTreeMap::from([("host", host), ("far", far), ("alien", alien)]);
        let mut world = Self { daemon, networks, names: BTreeMap::new() };
        let known =
            [("host", HOST), ("far", FAR), ("host2", HOST2), ("alien", ALIEN), ("lo", LOOPBACK), ("gw", GATEWAY)];
        for (name, pair) in known {
            world.call(name, pair.v4)?;
            world.call(name, pair.v6)?;
        }
        Ok(world)
    }

    fn call(&mut self, name: &'static str, address: &str) -> Result<()> {
        if !address.is_empty() {
            self.names.insert(address.parse().with_context(|| address.to_owned())?, name);
        }
        Ok(())
    }

    /// A container's addresses and gateways become known, and its network.
    fn add(
        &mut self,
        inner: &Case<'_>,
        container: &str,
        name: &'static str,
        gateway: &'static str,
    ) -> Result<[String; 4]> {
        let found = inner.inspect_json(container)?;
        let pid = found["State"]["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("a pid")?;
        self.networks.insert(name, Network::of_process(pid)?);
        let networks = found["NetworkSettings"]["Networks"].as_object().context("networks")?;
        let endpoint = networks.values().next().context("a network")?;
        let text = |key: &str| endpoint[key].as_str().unwrap_or_default().to_owned();
        let all = [text("IPAddress"), text("GlobalIPv6Address"), text("Gateway"), text("IPv6Gateway")];
        for (name, address) in [name, name, gateway, gateway].into_iter().zip(&all) {
            self.call(name, address)?;
        }
        Ok(all)
    }

    /// The gateway as it is told, or the host's address on an internal network, which tells none, if there is one.
    fn gateway(&self, container: &str, told: String, quiet: &str) -> Result<String> {
        let bridge = self.networks["host"].ip(&["-o", "address"])?;
        let is_there = !container.is_empty() && bridge.contains(&format!(" {quiet}/"));
        Ok(if told.is_empty() && is_there { quiet.to_owned() } else { told })
    }

    fn show(&self, outcome: Outcome) -> String {
        match outcome {
            Outcome::Seen(address) => {
                self.names.get(&address).map_or_else(|| address.to_string(), |name| (*name).to_owned())
            }
            Outcome::Answered => "ok".to_owned(),
            Outcome::Refused => "x".to_owned(),
            Outcome::Silence => "-".to_owned(),
            Outcome::Unreachable => "!".to_owned(),
            Outcome::Closed => "eof".to_owned(),
        }
    }
}

fn on_cable(pair: Pair) -> [String; 2] {
    [format!("{}/24", pair.v4), format!("{}/64", pair.v6)]
}

impl Reach {
    /// Ours is asked with either backend of the packet filter.
    fn check(&self, case: &Case<'_>) -> Result<()> {
        match case.host().kind {
            Kind::Stock => self.find(case, &[])?.check(self.expected, Whose::Stock),
            Kind::Ours => {
                self.find(case, &[])?.check(self.expected, Whose::Ours)?;
                let found = self.find(case, &["--firewall-backend=iptables"])?;
                found.check(self.expected, Whose::Variant).context("with iptables")
            }
        }
    }

    fn find(&self, case: &Case<'_>, more: &[&str]) -> Result<Matrix> {
        let mut world = World::start(case, &[self.flags, more].concat())?;
        let host = world.daemon.host().clone();
        let image = suite::import(&host, case.prefix())?;
        let inner = Case::new(&host, &image, case.prefix().to_owned(), case.number());
        let mine = self.on.make(&inner)?;
        let others = inner.network("other");
        inner.docker(&[&["network", "create"], &OTHER[..], &[&others]].concat()).ok()?;
        let udp = format!("{}/udp", self.publish);
        let asked = inner.sleeper("self", &["--network", &mine, "-p", self.publish, "-p", &udp])?;
        let same = inner.sleeper("same", &["--network", &mine])?;
        let other = inner.sleeper("away", &["--network", &others])?;
        let [v4, v6, gateway, gateway6] = world.add(&inner, &asked, "self", "gw")?;
        let [gateway, gateway6] = [world.gateway(&v4, gateway, GATEWAY.v4)?, world.gateway(&v6, gateway6, GATEWAY.v6)?];
        world.add(&inner, &same, "same", "gw")?;
        world.add(&inner, &other, "other", "gw2")?;
        let everywhere = |port| SocketAddr::new(IpAddr::from([0; 16]), port);
        let mut servers = vec![
            Server::start(&world.networks["self"], &[everywhere(PORT), everywhere(UNPUBLISHED)])?,
            Server::start(&world.networks["far"], &[at(FAR.v4, SERVICE)?, at(FAR.v6, SERVICE)?])?,
            Server::start(&world.networks["host"], &[at(HOST.v4, SERVICE)?, at(HOST.v6, SERVICE)?])?,
        ];
        for address in [&gateway, &gateway6].into_iter().filter(|address| !address.is_empty()) {
            servers.push(Server::start(&world.networks["host"], &[at(address, SERVICE)?])?);
        }
        let addresses = [(&*v4, &*gateway), (&*v6, &*gateway6)];
        world.ask(addresses)
    }
}

fn at(address: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address.parse().with_context(|| address.to_owned())?, port))
}

impl World {
    /// Asks everything at once; `addresses` are the container's and its gateway's, of both families.
    fn ask(&self, addresses: [(&str, &str); 2]) -> Result<Matrix> {
        let mut attempts = Vec::new();
        for (family, (container, gateway)) in ["4", "6"].into_iter().zip(addresses) {
            for (kind, protocol) in [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("icmp", Protocol::Icmp)] {
                for (column, from, to) in COLUMNS {
                    let of = |pair: Pair| if family == "4" { pair.v4 } else { pair.v6 };
                    let (address, port) = match to {
                        To::Published(pair) => (of(pair), PUBLISHED),
                        To::Container(port) => (container, port),
                        To::Service(pair) => (of(pair), SERVICE),
                        To::Gateway => (gateway, SERVICE),
                    };
                    // Echo requests know no ports; one column of each pair is enough.
                    let twice = matches!(to, To::Published(_) | To::Container(PORT));
                    let left_out = address.is_empty() || (protocol == Protocol::Icmp && twice);
                    let row = format!("{kind}{family}");
                    attempts.push((row, column, from, protocol, to, (!left_out).then(|| at(address, port))));
                }
            }
        }
        let mut matrix = Matrix::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = attempts
                .into_iter()
                .map(|(row, column, from, protocol, to, address)| {
                    let thread = address.map(|to| scope.spawn(move || ask(&self.networks[from], protocol, to?)));
                    (row, column, to, thread)
                })
                .collect();
            for (row, column, to, thread) in threads {
                let outcome =
                    thread.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                let cell = match outcome.transpose().with_context(|| format!("{row} {column}"))? {
                    Some(Outcome::Unreachable) if matches!(to, To::Container(_)) => self.show(Outcome::Silence),
                    Some(outcome) => self.show(outcome),
                    None => ".".to_owned(),
                };
                matrix.put(&row, column, cell);
            }
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(matrix)
    }
}

fn default_bridge(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4=tcp6=udp6 gw host far alien gw   gw   gw    gw      gw      -      -      -        -        same    same    -        -        host self self
        icmp4=icmp6         .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
    ";
    Reach { flags: &["--ipv6", "--fixed-cidr-v6=fd00:213:9::/64"], on: On::Default, publish: ANY, expected }.check(case)
}

/// Without a proxy the stock daemon has the bridge send packets back where they came from: a container sees the address of
/// another behind the same bridge, and those of other networks, which only its proxy serves, are shut out. Ours needs no
/// proxy for either, nor for `[::1]`, with nftables.
fn default_bridge_without_proxy(case: &Case<'_>) -> Result<()> {
    let expected = "
                    lo     own     far alien same    self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4   gw     gw|host far alien same|gw gw   -|gw  gw      gw      -      -      -        -        same    same    -        -        host self self
        icmp4=icmp6 .      .       .   .     .       .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
        tcp6=udp6   -|gw|- gw|host far alien same|gw gw   -|gw  gw      gw      -      -      -        -        same    same    -        -        host self self
    ";
    Reach {
        flags: &["--ipv6", "--fixed-cidr-v6=fd00:213:9::/64", "--userland-proxy=false"],
        on: On::Default,
        publish: ANY,
        expected,
    }
    .check(case)
}

fn user_bridge(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4=tcp6=udp6 gw host far alien gw   gw   gw    gw      gw      -      -      -        -        same    same    -        -        host self self
        icmp4=icmp6         .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
    ";
    Reach { flags: &[], on: On::Both(&[]), publish: ANY, expected }.check(case)
}

fn only_ipv4(case: &Case<'_>) -> Result<()> {
    let expected = "
                  lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4 gw host far alien gw   gw   gw    gw      gw      -      -      -        -        same    same    -        -        host self self
        icmp4     .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
        tcp6=udp6 gw gw   gw  gw    !    !    gw    .       .       .      .      .        .        .       .       .        .        !    !    .
        icmp6     .  .    .   .     .    .    .     .       .       .      .      .        .        .       .       .        .        -    -    .
    ";
    Reach { flags: &[], on: On::Only4, publish: ANY, expected }.check(case)
}

/// As on the default bridge.
fn user_bridge_without_proxy(case: &Case<'_>) -> Result<()> {
    let expected = "
                    lo     own     far alien same    self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4   gw     gw|host far alien same|gw gw   -|gw  gw      gw      -      -      -        -        same    same    -        -        host self self
        icmp4=icmp6 .      .       .   .     .       .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
        tcp6=udp6   -|gw|- gw|host far alien same|gw gw   -|gw  gw      gw      -      -      -        -        same    same    -        -        host self self
    ";
    Reach { flags: &["--userland-proxy=false"], on: On::Both(&[]), publish: ANY, expected }.check(case)
}

fn only_ipv6(case: &Case<'_>) -> Result<()> {
    let expected = "
                  lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4 x  x    x   x     !    !    x     .       .       .      .      .        .        .       .       .        .        !    !    .
        icmp4     .  .    .   .     .    .    .     .       .       .      .      .        .        .       .       .        .        -    -    .
        tcp6=udp6 gw host far alien gw   gw   gw    gw      gw      -      -      -        -        same    same    -        -        host self self
        icmp6     .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
    ";
    Reach { flags: &[], on: On::Only6, publish: ANY, expected }.check(case)
}

fn containers_apart(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4=tcp6=udp6 gw host far alien gw   gw   gw    gw      gw      -      -      -        -        -       -       -        -        host self self
        icmp4=icmp6         .  .    .   .     .    .    .     .       ok      .      -      .        -        .       -       .        -        ok   ok   ok
    ";
    Reach { flags: &[], on: On::Both(&["--opt", "com.docker.network.bridge.enable_icc=false"]), publish: ANY, expected }
        .check(case)
}

fn default_bridge_apart(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4=tcp6=udp6 gw host far alien gw   gw   gw    gw      gw      -      -      -        -        -       -       -        -        host self self
        icmp4=icmp6         .  .    .   .     .    .    .     .       ok      .      -      .        -        .       -       .        -        ok   ok   ok
    ";
    Reach {
        flags: &["--ipv6", "--fixed-cidr-v6=fd00:213:9::/64", "--icc=false"],
        on: On::Default,
        publish: ANY,
        expected,
    }
    .check(case)
}

fn internal(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out svc gw
        tcp4=udp4=tcp6=udp6 x  x   x   x     !    !    x     gw      gw      -      -      -        -        same    same    -        -        !   !   self
        icmp4=icmp6         .  .   .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        -   -   ok
    ";
    Reach { flags: &[], on: On::Both(&["--internal"]), publish: ANY, expected }.check(case)
}

fn internal_isolated(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out svc gw
        tcp4=udp4=tcp6=udp6 x  x   x   x     !    !    x     -       -       -      -      -        -        same    same    -        -        !   !   .
        icmp4=icmp6         .  .   .   .     .    .    .     .       -       .      -      .        -        .       ok      .        -        -   -   .
    ";
    Reach {
        flags: &[],
        on: On::Both(&[
            "--internal",
            "--opt",
            "com.docker.network.bridge.gateway_mode_ipv4=isolated",
            "--opt",
            "com.docker.network.bridge.gateway_mode_ipv6=isolated",
        ]),
        publish: ANY,
        expected,
    }
    .check(case)
}

fn unprotected(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4=tcp6=udp6 gw host far alien gw   gw   gw    gw      gw      far    far    alien    alien    same    same    -        -        host self self
        icmp4=icmp6         .  .    .   .     .    .    .     .       ok      .      ok     .        ok       .       ok      .        -        ok   ok   ok
    ";
    Reach {
        flags: &[],
        on: On::Both(&[
            "--opt",
            "com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected",
            "--opt",
            "com.docker.network.bridge.gateway_mode_ipv6=nat-unprotected",
        ]),
        publish: ANY,
        expected,
    }
    .check(case)
}

fn routed(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4=tcp6=udp6 x  x   x   x     x    x    x     gw      gw      far    -      alien    -        same    same    gw       -        self self self
        icmp4=icmp6         .  .   .   .     .    .    .     .       ok      .      ok     .        ok       .       ok      .        ok       ok   ok   ok
    ";
    Reach {
        flags: &[],
        on: On::Both(&[
            "--opt",
            "com.docker.network.bridge.gateway_mode_ipv4=routed",
            "--opt",
            "com.docker.network.bridge.gateway_mode_ipv6=routed",
        ]),
        publish: ANY,
        expected,
    }
    .check(case)
}

fn routed_ipv6(case: &Case<'_>) -> Result<()> {
    let expected = "
                  lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4 gw host far alien gw   gw   gw    gw      gw      -      -      -        -        same    same    -        -        host self self
        icmp4     .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
        tcp6=udp6 x  x    x   x     x    x    x     gw      gw      far    -      alien    -        same    same    gw       -        self self self
        icmp6     .  .    .   .     .    .    .     .       ok      .      ok     .        ok       .       ok      .        ok       ok   ok   ok
    ";
    Reach {
        flags: &[],
        on: On::Both(&["--opt", "com.docker.network.bridge.gateway_mode_ipv6=routed"]),
        publish: ANY,
        expected,
    }
    .check(case)
}

fn isolated_family(case: &Case<'_>) -> Result<()> {
    let expected = "
                  lo own far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out svc gw
        tcp4=udp4 x  x   x   x     !    !    x     gw      gw      -      -      -        -        same    same    -        -        !   !   self
        icmp4     .  .   .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        -   -   ok
        tcp6=udp6 x  x   x   x     !    !    x     -       -       -      -      -        -        same    same    -        -        !   !   .
        icmp6     .  .   .   .     .    .    .     .       -       .      -      .        -        .       ok      .        -        -   -   .
    ";
    Reach {
        flags: &[],
        on: On::Both(&["--internal", "--opt", "com.docker.network.bridge.gateway_mode_ipv6=isolated"]),
        publish: ANY,
        expected,
    }
    .check(case)
}

/// The stock daemon lets such a container's packets out and drops the answers, as it drops what others send to the address
/// of a published port unasked. Ours knows answers.
fn not_masqueraded(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out    svc  gw
        tcp4=udp4=tcp6=udp6 gw host far alien gw   gw   gw    gw      gw      -      -      -        -        same    same    -        -        -|self self self
        icmp4=icmp6         .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        -|ok   ok   ok
    ";
    Reach {
        flags: &[],
        on: On::Both(&["--opt", "com.docker.network.bridge.enable_ip_masquerade=false"]),
        publish: ANY,
        expected,
    }
    .check(case)
}

fn bound_to_loopback(case: &Case<'_>) -> Result<()> {
    let expected = "
                    lo own far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4   gw x   x   x     x    x    x     gw      gw      -      -      -        -        same    same    -        -        host self self
        icmp4=icmp6 .  .   .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
        tcp6=udp6   x  x   x   x     x    x    x     gw      gw      -      -      -        -        same    same    -        -        host self self
    ";
    Reach {
        flags: &[],
        on: On::Both(&["--opt", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1"]),
        publish: ANY,
        expected,
    }
    .check(case)
}

fn bound_to_an_address(case: &Case<'_>) -> Result<()> {
    let expected = "
                    lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4   x  host far x     gw   gw   gw    gw      gw      -      -      -        -        same    same    -        -        host self self
        icmp4=icmp6 .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
        tcp6=udp6   x  x    x   x     x    x    x     gw      gw      -      -      -        -        same    same    -        -        host self self
    ";
    Reach { flags: &[], on: On::Both(&[]), publish: "192.0.2.1:8080:80", expected }.check(case)
}

fn trusted_interface(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4=tcp6=udp6 gw host far alien gw   gw   gw    gw      gw      -      -      alien    -        same    same    -        -        host self self
        icmp4=icmp6         .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
    ";
    Reach {
        flags: &[],
        on: On::Both(&["--opt", "com.docker.network.bridge.trusted_host_interfaces=eth1"]),
        publish: ANY,
        expected,
    }
    .check(case)
}

fn direct_routing_allowed(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4=tcp6=udp6 gw host far alien gw   gw   gw    gw      gw      far    -      alien    -        same    same    -        -        host self self
        icmp4=icmp6         .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
    ";
    Reach { flags: &["--allow-direct-routing"], on: On::Both(&[]), publish: ANY, expected }.check(case)
}

fn seen_as_chosen(case: &Case<'_>) -> Result<()> {
    let expected = "
                            lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out   svc  gw
        tcp4=udp4=tcp6=udp6 gw host far alien gw   gw   gw    gw      gw      -      -      -        -        same    same    -        -        host2 self self
        icmp4=icmp6         .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok    ok   ok
    ";
    let on = On::Both(&[
        "--opt",
        "com.docker.network.host_ipv4=198.51.100.1",
        "--opt",
        "com.docker.network.host_ipv6=2001:db8:0:2::1",
    ]);
    Reach { flags: &[], on, publish: ANY, expected }.check(case)
}

fn without_ip6tables(case: &Case<'_>) -> Result<()> {
    let expected = "
                  lo own  far alien same self other host>80 host>81 far>80 far>81 alien>80 alien>81 same>80 same>81 other>80 other>81 out  svc  gw
        tcp4=udp4 gw host far alien gw   gw   gw    gw      gw      -      -      -        -        same    same    -        -        host self self
        icmp4     .  .    .   .     .    .    .     .       ok      .      -      .        -        .       ok      .        -        ok   ok   ok
        tcp6=udp6 gw gw   gw  gw    gw   gw   gw    gw      gw      far    far    alien    alien    same    same    other    other    self self self
        icmp6     .  .    .   .     .    .    .     .       ok      .      ok     .        ok       .       ok      .        ok       ok   ok   ok
    ";
    Reach { flags: &["--ip6tables=false"], on: On::Both(&[]), publish: ANY, expected }.check(case)
}

/// The kernel must have the protocol, and where it lacks it the daemon says so as it does.
fn published_by_sctp(case: &Case<'_>) -> Result<()> {
    use rustix::net::{AddressFamily, SocketType, ipproto, socket};
    if socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP)).is_ok() {
        eprintln!("the kernel has SCTP, for which there is no probe yet: skipped");
        return Ok(());
    }
    let world = World::start(case, &[])?;
    let host = world.daemon.host();
    let image = suite::import(host, case.prefix())?;
    let inner = Case::new(host, &image, case.prefix().to_owned(), case.number());
    let ran = inner.run(&["--network", "bridge", "-p", "8080:80/sctp"], &["true"]);
    if case.host().kind == Kind::Ours {
        // Rules of the packet filter need no sockets.
        return ran.ok().map(drop);
    }
    has(
        &ran.err,
        "failed to set up container networking: driver failed programming external connectivity on endpoint",
    )?;
    has(&ran.err, "protocol not supported")
}
