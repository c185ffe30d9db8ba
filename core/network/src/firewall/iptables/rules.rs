//! What our rules say, in iptables' words. The layout is the stock daemon's from 29 on, which has that of 28.5 without the
//! chains `DOCKER-ISOLATION-STAGE-1` and `-2`: what enters a bridge must be let in there, wherever it comes from. For one
//! bridge `docker0` with 172.17.0.0/16 and port 8080 published to 172.17.0.2:80; IPv6 is alike where nothing else is noted.
//!
//! ```text
//! *filter
//! -A FORWARD -j DOCKER-USER                                     # theirs: made if it is missing, never emptied or removed
//! -A FORWARD -j DOCKER-FORWARD
//! -A DOCKER-FORWARD -m comment --comment dockerd-rs -j DOCKER-INTERNAL
//! -A DOCKER-FORWARD -m comment --comment dockerd-rs -j DOCKER-CT
//! -A DOCKER-FORWARD -m comment --comment dockerd-rs -j DOCKER-BRIDGE
//! -A DOCKER-FORWARD -i docker0 -j ACCEPT                        # without icc: -i docker0 -o docker0 drops before
//! -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
//! -A DOCKER-BRIDGE -o docker0 -j DOCKER
//! -A DOCKER -d 172.17.0.2/32 -o docker0 -p tcp -m tcp --dport 80 -m conntrack --ctstate DNAT -j ACCEPT
//! -A DOCKER ! -i docker0 -o docker0 -j DROP                     # ACCEPT in the mode nat-unprotected
//! *nat
//! -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER          # with -i docker0 if the host's policy is honoured
//! -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER              # IPv6: ! -d ::1/128
//! -A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80   # IPv6: ! -s fe80::/10
//! -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
//! -A POSTROUTING -s 172.17.0.0/16 -o docker0 -m conntrack --ctstate DNAT -j MASQUERADE   # hairpin
//! -A POSTROUTING -s 127.0.0.0/8 -o docker0 -j MASQUERADE        # IPv4 only
//! *raw
//! -A PREROUTING -d 172.17.0.0/16 ! -i docker0 -m addrtype ! --dst-type LOCAL -j DROP
//! -A PREROUTING -d 127.0.0.0/8 -i docker0 -j DROP               # route_localnet is on, as with nftables
//! -A PREROUTING -s 127.0.0.0/8 -i docker0 -j DROP
//! *mangle                                                       # only if the host's policy is honoured
//! -A PREROUTING -i docker0 -m socket --transparent -j MARK --set-xmark 0x2000000/0x2000000
//! ```
//!
//! The first rule of the raw table holds even where DOCKER-USER accepts everything. It is there where containers' own
//! addresses are never answered from outside: not without masquerade, not in other modes than nat, not with direct routing.
//! Rules in chains that are not ours bear a comment by which they are found again.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::firewall::{ANSWER_MARK, BridgeRules, Entry, FamilyRules, GatewayMode, HostPolicy, PortForward, Ruleset};

/// The comment.
pub(super) const COMMENT: &str = "dockerd-rs";
/// The comment of a rule without effect, which says that the policy of FORWARD is DROP because of us.
pub(super) const POLICY_COMMENT: &str = "dockerd-rs-policy";
/// The chain of the administrator.
pub(super) const USER: &str = "DOCKER-USER";
/// The chain all others are reached from; by its comment it is known who made them.
pub(super) const FORWARD: &str = "DOCKER-FORWARD";
/// How the administrator's chain is entered.
pub(super) const USER_JUMP: &str = "-j DOCKER-USER";

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Table {
    Raw,
    Mangle,
    Nat,
    Filter,
}

impl Table {
    pub(super) const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }

    /// Its chains that hold nothing but our rules.
    pub(super) fn own_chains(self) -> &'static [&'static str] {
        match self {
            Self::Raw | Self::Mangle => &[],
            Self::Nat => &["DOCKER"],
            Self::Filter => &["DOCKER", FORWARD, "DOCKER-CT", "DOCKER-BRIDGE", "DOCKER-INTERNAL"],
        }
    }
}

/// How chains of ours are entered, here and under the stock daemon.
const JUMPS: [(Table, &str, &str); 5] = [
    (Table::Filter, "FORWARD", "-j DOCKER-FORWARD"),
    (Table::Nat, "PREROUTING", "-m addrtype --dst-type LOCAL -j DOCKER"),
    (Table::Nat, "OUTPUT", "-m addrtype --dst-type LOCAL -j DOCKER"),
    (Table::Nat, "OUTPUT", "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER"),
    (Table::Nat, "OUTPUT", "! -d ::1/128 -m addrtype --dst-type LOCAL -j DOCKER"),
];

/// Whether a rule of a chain that is not ours enters one of ours.
pub(super) fn is_jump(table: Table, chain: &str, text: &str) -> bool {
    JUMPS.contains(&(table, chain, text))
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) table: Table,
    pub(super) chain: &'static str,
    /// What follows the chain.
    pub(super) text: String,
    /// Whether it stands before what is there.
    pub(super) first: bool,
}

const fn rule(table: Table, chain: &'static str, text: String) -> Rule {
    Rule { table, chain, text, first: false }
}

fn commented(table: Table, chain: &'static str, matches: &str, target: &str) -> Rule {
    rule(table, chain, format!("{matches} -m comment --comment {COMMENT} -j {target}"))
}

fn before(rule: Rule) -> Rule {
    Rule { first: true, ..rule }
}

/// Everything, each chain in its order.
pub(super) fn all(ipv6: bool, policy: HostPolicy, rules: &Ruleset) -> Vec<Rule> {
    let mut out = base(ipv6, policy);
    out.extend(ports(ipv6, &rules.bridges, &rules.forwards));
    out.extend(rules.bridges.iter().flat_map(|one| bridge(ipv6, policy, one)));
    out
}

/// The rules that are there without a bridge.
fn base(ipv6: bool, policy: HostPolicy) -> Vec<Rule> {
    let jump = |chain: &str| format!("-m comment --comment {COMMENT} -j {chain}");
    let mut out = vec![
        before(rule(Table::Filter, "FORWARD", format!("-j {FORWARD}"))),
        before(rule(Table::Filter, "FORWARD", USER_JUMP.to_owned())),
    ];
    for chain in ["DOCKER-INTERNAL", "DOCKER-CT", "DOCKER-BRIDGE"] {
        out.push(rule(Table::Filter, FORWARD, jump(chain)));
    }
    let local = "-m addrtype --dst-type LOCAL -j DOCKER";
    if policy == HostPolicy::Bypassed {
        out.push(rule(Table::Nat, "PREROUTING", local.to_owned()));
    }
    let answers_would_not_find_back = if ipv6 { "! -d ::1/128 " } else { "" };
    out.push(rule(Table::Nat, "OUTPUT", format!("{answers_would_not_find_back}{local}")));
    out
}

/// The rules of a bridge.
pub(super) fn bridge(ipv6: bool, policy: HostPolicy, bridge: &BridgeRules) -> Vec<Rule> {
    let Some(family) = bridge.families().find(|family| family.subnet.is_ipv6() == ipv6) else { return Vec::new() };
    let BridgeRules { link, icc, internal, .. } = bridge;
    let mut out = Vec::new();
    let mut filter = |chain, text: String| out.push(rule(Table::Filter, chain, text));
    if *internal {
        filter("DOCKER-INTERNAL", format!("-i {link} ! -o {link} -j DROP"));
        filter("DOCKER-INTERNAL", format!("! -i {link} -o {link} -j DROP"));
        let between = if *icc { "ACCEPT" } else { "DROP" };
        filter(FORWARD, format!("-i {link} -o {link} -j {between}"));
    } else {
        filter("DOCKER-CT", format!("-o {link} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
        filter("DOCKER-BRIDGE", format!("-o {link} -j DOCKER"));
        let unasked = if family.mode == GatewayMode::NatUnprotected { "ACCEPT" } else { "DROP" };
        if family.mode == GatewayMode::Routed {
            let protocol = if ipv6 { "ipv6-icmp" } else { "icmp" };
            filter("DOCKER", format!("-o {link} -p {protocol} -j ACCEPT"));
        }
        filter("DOCKER", format!("! -i {link} -o {link} -j {unasked}"));
        if *icc {
            filter(FORWARD, format!("-i {link} -j ACCEPT"));
        } else {
            filter(FORWARD, format!("-i {link} -o {link} -j DROP"));
            filter(FORWARD, format!("-i {link} ! -o {link} -j ACCEPT"));
        }
    }
    if policy.is_honoured() {
        out.push(commented(Table::Nat, "PREROUTING", &format!("-i {link} -m addrtype --dst-type LOCAL"), "DOCKER"));
    }
    if policy.keeps_senders() {
        out.push(commented(Table::Mangle, "PREROUTING", &format!("-i {link} {MARKED}"), &mark()));
    }
    out.extend(translation(bridge, family));
    out.extend(raw(bridge, family));
    out
}

/// Packets for connections of the daemon's that bear others' addresses.
pub(super) const MARKED: &str = "-m socket --transparent";

/// What marks them.
pub(super) fn mark() -> String {
    format!("MARK --set-xmark {ANSWER_MARK:#x}/{ANSWER_MARK:#x}")
}

/// Who containers are to others, and others to containers.
fn translation(bridge: &BridgeRules, family: &FamilyRules) -> Vec<Rule> {
    let (link, subnet) = (&bridge.link, family.subnet);
    if !matches!(family.mode, GatewayMode::Nat | GatewayMode::NatUnprotected) {
        return Vec::new();
    }
    let nat = |matches: String, target: &str| before(commented(Table::Nat, "POSTROUTING", &matches, target));
    let mut out = vec![nat(format!("-s {subnet} -o {link} -m conntrack --ctstate DNAT"), "MASQUERADE")];
    if !subnet.is_ipv6() {
        out.push(nat(format!("-s 127.0.0.0/8 -o {link}"), "MASQUERADE"));
    }
    if bridge.masquerade && !bridge.internal {
        let target = family.source.map_or_else(|| "MASQUERADE".to_owned(), |ip| format!("SNAT --to-source {ip}"));
        out.push(nat(format!("-s {subnet} ! -o {link}"), &target));
    }
    out
}

/// What is dropped before anybody is asked.
fn raw(bridge: &BridgeRules, family: &FamilyRules) -> Vec<Rule> {
    let BridgeRules { link, internal, masquerade, direct_routing, trusted, .. } = bridge;
    let raw = |matches: String, target| commented(Table::Raw, "PREROUTING", &matches, target);
    let mut out = Vec::new();
    if !family.subnet.is_ipv6() {
        out.push(raw(format!("-d 127.0.0.0/8 -i {link}"), "DROP"));
        out.push(raw(format!("-s 127.0.0.0/8 -i {link}"), "DROP"));
    }
    if family.mode == GatewayMode::Nat && *masquerade && !internal && !direct_routing {
        let subnet = family.subnet;
        out.extend(trusted.iter().map(|trusted| raw(format!("-d {subnet} -i {trusted}"), "ACCEPT")));
        // The bridge's own address is the host's.
        out.push(raw(format!("-d {subnet} ! -i {link} -m addrtype ! --dst-type LOCAL"), "DROP"));
    }
    out
}

/// The rules of published ports.
pub(super) fn ports(ipv6: bool, bridges: &[BridgeRules], forwards: &[PortForward]) -> Vec<Rule> {
    let (mut out, mut open) = (Vec::new(), BTreeSet::new());
    for forward in forwards.iter().filter(|forward| forward.to.is_ipv6() == ipv6) {
        open.extend(opening(bridges, forward));
        if let Entry::Host { address, port } = forward.entry {
            let protocol = forward.protocol.name();
            let on = address.map_or_else(String::new, |ip| format!("-d {} ", single(ip)));
            let links = if ipv6 { "! -s fe80::/10 " } else { "" };
            let port = format!("-p {protocol} -m {protocol} --dport {port}");
            let translate =
                rule(Table::Nat, "DOCKER", format!("{links}{on}{port} -j DNAT --to-destination {}", forward.to));
            out.push(if address.is_some() { before(translate) } else { translate });
            // Of the addresses of the loopback, those of IPv4 can be had from elsewhere.
            if let Some(IpAddr::V4(ip)) = address.filter(IpAddr::is_loopback) {
                out.push(commented(
                    Table::Raw,
                    "PREROUTING",
                    &format!("-d {} ! -i lo {port}", single(ip.into())),
                    "DROP",
                ));
            }
        }
    }
    // One container port may be several of the host's.
    out.extend(open.into_iter().map(|text| before(rule(Table::Filter, "DOCKER", text))));
    out.sort_by_key(|rule| !rule.first);
    out
}

/// What lets packets in to a published port.
fn opening(bridges: &[BridgeRules], forward: &PortForward) -> Vec<String> {
    let of = |bridge: &BridgeRules| {
        bridge.families().find(|family| family.subnet.contains(forward.to.ip())).map(|family| family.mode)
    };
    let Some((bridge, mode)) = bridges.iter().find_map(|bridge| Some((bridge, of(bridge)?))) else { return Vec::new() };
    let BridgeRules { link, direct_routing, trusted, .. } = bridge;
    let protocol = forward.protocol.name();
    let to = format!("-d {}", single(forward.to.ip()));
    let port = format!("-o {link} -p {protocol} -m {protocol} --dport {}", forward.to.port());
    let direct = format!("{to} ! -i {link} {port} -j ACCEPT");
    let translated = format!("{to} {port} -m conntrack --ctstate DNAT -j ACCEPT");
    match mode {
        GatewayMode::Routed => vec![direct],
        GatewayMode::Nat if *direct_routing => vec![translated, direct],
        GatewayMode::Nat => {
            let trusted = trusted.iter().map(|trusted| format!("{to} -i {trusted} {port} -j ACCEPT"));
            trusted.chain([translated]).collect()
        }
        GatewayMode::NatUnprotected => vec![translated],
        GatewayMode::Isolated => Vec::new(),
    }
}

/// An address with the prefix iptables-save shows it with.
fn single(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv6() { 128 } else { 32 })
}

/// Whether a link's name stands for itself in a rule: `+` is a wildcard, quotes and dashes mean something else.
pub(super) fn is_plain(link: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@=,".contains(&byte);
    !link.is_empty() && !link.starts_with('-') && link.bytes().all(plain)
}
