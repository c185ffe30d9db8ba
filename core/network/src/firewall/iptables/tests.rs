//! The texts, without a kernel.

use std::net::SocketAddr;

use dockerd_types::network::Protocol;

use super::restore::{self, Policy};
use super::rules::{self, Rule, Table};
use super::saved::Saved;
use crate::firewall::{BridgeRules, DropForeign, Entry, FamilyRules, GatewayMode, HostPolicy, PortForward, Ruleset};

const HONOURED: HostPolicy = HostPolicy::Honoured { senders: false };

fn family(subnet: &str, mode: GatewayMode) -> FamilyRules {
    FamilyRules { subnet: subnet.parse().expect("subnet"), mode, source: None }
}

fn bridge(mode: GatewayMode) -> BridgeRules {
    BridgeRules {
        link: "br0".to_owned(),
        ipv4: Some(family("10.0.0.0/24", mode)),
        ipv6: Some(family("fd00::/64", mode)),
        icc: true,
        internal: false,
        masquerade: true,
        direct_routing: false,
        trusted: Vec::new(),
    }
}

fn forward(address: Option<&str>, to: &str) -> PortForward {
    let address = address.map(|address| address.parse().expect("address"));
    let to: SocketAddr = to.parse().expect("address");
    PortForward { protocol: Protocol::Tcp, entry: Entry::Host { address, port: 8080 }, to, loopback: None }
}

/// Rules of one chain, as a list would show them: what is put first stands first.
fn shown(rules: &[Rule], table: Table, chain: &str) -> Vec<String> {
    rules.iter().filter(|rule| (rule.table, rule.chain) == (table, chain)).map(|rule| rule.text.clone()).collect()
}

fn of_bridge(bridge: &BridgeRules, table: Table, chain: &str) -> Vec<String> {
    shown(&rules::bridge(false, HostPolicy::Bypassed, bridge), table, chain)
}

fn without_comment(texts: Vec<String>) -> Vec<String> {
    texts.into_iter().map(|text| text.replace(" -m comment --comment dockerd-rs", "")).collect()
}

#[test]
fn what_may_enter_depends_on_the_mode() {
    let entering = |bridge: BridgeRules| of_bridge(&bridge, Table::Filter, "DOCKER");
    assert_eq!(entering(bridge(GatewayMode::Nat)), ["! -i br0 -o br0 -j DROP"]);
    assert_eq!(entering(bridge(GatewayMode::NatUnprotected)), ["! -i br0 -o br0 -j ACCEPT"]);
    assert_eq!(entering(bridge(GatewayMode::Routed)), ["-o br0 -p icmp -j ACCEPT", "! -i br0 -o br0 -j DROP"]);
    let leaving = |bridge: BridgeRules| of_bridge(&bridge, Table::Filter, "DOCKER-FORWARD");
    assert_eq!(leaving(bridge(GatewayMode::Nat)), ["-i br0 -j ACCEPT"]);
    let apart = BridgeRules { icc: false, ..bridge(GatewayMode::Nat) };
    assert_eq!(leaving(apart), ["-i br0 -o br0 -j DROP", "-i br0 ! -o br0 -j ACCEPT"]);
    let internal = BridgeRules { internal: true, ..bridge(GatewayMode::Nat) };
    assert_eq!(leaving(internal.clone()), ["-i br0 -o br0 -j ACCEPT"]);
    let dropped = of_bridge(&internal, Table::Filter, "DOCKER-INTERNAL");
    assert_eq!(dropped, ["-i br0 ! -o br0 -j DROP", "! -i br0 -o br0 -j DROP"]);
    assert!(entering(internal).is_empty());
}

#[test]
fn who_is_translated_and_what_is_dropped_at_once() {
    let nat = |bridge: &BridgeRules| without_comment(of_bridge(bridge, Table::Nat, "POSTROUTING"));
    let raw = |bridge: &BridgeRules| without_comment(of_bridge(bridge, Table::Raw, "PREROUTING"));
    let mut one = bridge(GatewayMode::Nat);
    let hairpin = "-s 10.0.0.0/24 -o br0 -m conntrack --ctstate DNAT -j MASQUERADE";
    let loopback = "-s 127.0.0.0/8 -o br0 -j MASQUERADE";
    assert_eq!(nat(&one), [hairpin, loopback, "-s 10.0.0.0/24 ! -o br0 -j MASQUERADE"]);
    let own = ["-d 127.0.0.0/8 -i br0 -j DROP", "-s 127.0.0.0/8 -i br0 -j DROP"];
    let direct = "-d 10.0.0.0/24 ! -i br0 -m addrtype ! --dst-type LOCAL -j DROP";
    assert_eq!(raw(&one), [own[0], own[1], direct]);
    one.trusted = vec!["eth7".to_owned()];
    assert_eq!(raw(&one), [own[0], own[1], "-d 10.0.0.0/24 -i eth7 -j ACCEPT", direct]);
    one.direct_routing = true;
    assert_eq!(raw(&one), own);
    one.ipv4 = one.ipv4.map(|family| FamilyRules { source: Some([192, 0, 2, 9].into()), ..family });
    assert_eq!(nat(&one)[2], "-s 10.0.0.0/24 ! -o br0 -j SNAT --to-source 192.0.2.9");
    // Answers from elsewhere bear containers' own addresses then.
    one = BridgeRules { masquerade: false, ..bridge(GatewayMode::Nat) };
    assert_eq!((nat(&one).len(), raw(&one).len()), (2, 2));
    assert_eq!((nat(&bridge(GatewayMode::Routed)).len(), raw(&bridge(GatewayMode::Routed)).len()), (0, 2));
    let six = rules::bridge(true, HostPolicy::Bypassed, &bridge(GatewayMode::Nat));
    assert!(six.iter().all(|rule| !rule.text.contains("127.")), "{six:?}");
}

#[test]
fn ports_are_translated_and_let_in() {
    let bridges = [bridge(GatewayMode::Nat)];
    let list = [forward(None, "10.0.0.2:80"), forward(Some("127.0.0.1"), "10.0.0.2:80"), forward(None, "[fd00::2]:80")];
    let four = rules::ports(false, &bridges, &list);
    let dnat = shown(&four, Table::Nat, "DOCKER");
    // Those of one address before those of all.
    assert_eq!(
        dnat,
        [
            "-d 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80",
            "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80",
        ]
    );
    let open = shown(&four, Table::Filter, "DOCKER");
    assert_eq!(open, ["-d 10.0.0.2/32 -o br0 -p tcp -m tcp --dport 80 -m conntrack --ctstate DNAT -j ACCEPT"]);
    let raw = without_comment(shown(&four, Table::Raw, "PREROUTING"));
    assert_eq!(raw, ["-d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 8080 -j DROP"]);
    let six = rules::ports(true, &bridges, &list);
    let dnat = shown(&six, Table::Nat, "DOCKER");
    assert_eq!(dnat, ["! -s fe80::/10 -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd00::2]:80"]);
}

#[test]
fn direct_ways_in_are_those_of_the_mode() {
    let open = |bridge: BridgeRules| {
        let entry = if bridge.ipv4.as_ref().is_some_and(|family| family.mode == GatewayMode::Routed) {
            Entry::Direct
        } else {
            Entry::Host { address: None, port: 1 }
        };
        let forward = PortForward { entry, ..forward(None, "10.0.0.2:80") };
        shown(&rules::ports(false, &[bridge], &[forward]), Table::Filter, "DOCKER")
    };
    let direct = "-d 10.0.0.2/32 ! -i br0 -o br0 -p tcp -m tcp --dport 80 -j ACCEPT";
    let translated = "-d 10.0.0.2/32 -o br0 -p tcp -m tcp --dport 80 -m conntrack --ctstate DNAT -j ACCEPT";
    assert_eq!(open(bridge(GatewayMode::Routed)), [direct]);
    assert_eq!(open(BridgeRules { direct_routing: true, ..bridge(GatewayMode::Nat) }), [direct, translated]);
    let trusted = BridgeRules { trusted: vec!["eth7".to_owned()], ..bridge(GatewayMode::Nat) };
    let by_link = "-d 10.0.0.2/32 -i eth7 -o br0 -p tcp -m tcp --dport 80 -j ACCEPT";
    assert_eq!(open(trusted), [by_link, translated]);
}

#[test]
fn where_the_host_decides_only_bridges_are_translated() {
    let rules = Ruleset { bridges: vec![bridge(GatewayMode::Nat)], ..Ruleset::default() };
    let entering = |policy| without_comment(shown(&rules::all(false, policy, &rules), Table::Nat, "PREROUTING"));
    assert_eq!(entering(HostPolicy::Bypassed), ["-m addrtype --dst-type LOCAL -j DOCKER"]);
    assert_eq!(entering(HONOURED), ["-i br0 -m addrtype --dst-type LOCAL -j DOCKER"]);
    let output = shown(&rules::all(false, HONOURED, &rules), Table::Nat, "OUTPUT");
    assert_eq!(output, ["-m addrtype --dst-type LOCAL -j DOCKER"]);
    let marking = |policy| without_comment(shown(&rules::all(false, policy, &rules), Table::Mangle, "PREROUTING"));
    assert!(marking(HONOURED).is_empty());
    let marked = "-i br0 -m socket --transparent -j MARK --set-xmark 0x2000000/0x2000000";
    assert_eq!(marking(HostPolicy::Honoured { senders: true }), [marked]);
}

/// What the stock daemon and others may leave behind.
const OTHERS: &str = "\
# Generated by iptables-save v1.8.9
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -i eth0 -j LOG
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-USER -s 192.0.2.1/32 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -o eth0 -j MASQUERADE
COMMIT
";

#[test]
fn others_rules_are_no_business_of_ours() {
    let saved = Saved::parse(OTHERS);
    assert!(!saved.are_ours() && saved.has_user_chain() && saved.policy() == Some("ACCEPT"));
    assert_eq!(restore::clear(&saved), None);
    let rules = Ruleset { bridges: vec![bridge(GatewayMode::Nat)], ..Ruleset::default() };
    let wanted = rules::all(false, HostPolicy::Bypassed, &rules);
    let (script, _) = restore::replace(&saved, &wanted, Policy::default());
    let deleted: Vec<&str> = script.lines().filter(|line| line.starts_with("-D")).collect();
    // Only what leads to the chains that are ours from now on.
    assert_eq!(
        deleted,
        [
            "-D PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            "-D FORWARD -j DOCKER-FORWARD",
            "-D FORWARD -j DOCKER-USER",
        ]
    );
    assert!(!script.contains("-N DOCKER-USER") && !script.contains(":DOCKER-USER") && !script.contains("*mangle"));
    let first: Vec<&str> = script.lines().filter(|line| line.starts_with("-I FORWARD")).collect();
    assert_eq!(first.last(), Some(&"-I FORWARD -j DOCKER-USER"));
}

/// What iptables-save shows when it has been told a script that makes everything.
fn shown_after(script: &str) -> String {
    let mut out = String::new();
    for line in script.lines().filter(|line| !line.starts_with("-D") && !line.starts_with("-X")) {
        match line.strip_prefix("-I ") {
            Some(rest) => {
                let at = out.rfind("*").and_then(|table| out[table..].find("-A").map(|at| table + at));
                out.insert_str(at.unwrap_or(out.len()), &format!("-A {rest}\n"));
            }
            None => out.push_str(&format!("{line}\n").replace("-N DOCKER-USER", ":DOCKER-USER - [0:0]")),
        }
        if line == "*filter" && !script.contains(":FORWARD") {
            out.push_str(":FORWARD ACCEPT [0:0]\n");
        }
    }
    out
}

#[test]
fn our_own_are_found_again_and_taken_away() {
    let drop_foreign = DropForeign { ipv4: true, ipv6: true };
    let rules =
        Ruleset { bridges: vec![bridge(GatewayMode::Nat)], forwards: vec![forward(None, "10.0.0.2:80")], drop_foreign };
    let wanted = rules::all(false, HostPolicy::Bypassed, &rules);
    let (script, is_ours) = restore::replace(&Saved::default(), &wanted, Policy { drop: true, is_ours: false });
    assert!(is_ours && script.contains(":FORWARD DROP") && script.contains("-N DOCKER-USER"));
    let saved = Saved::parse(&shown_after(&script));
    assert!(saved.are_ours() && saved.drops_foreign() && saved.asks_user_first(), "{}", shown_after(&script));
    for rule in &wanted {
        let count = wanted.iter().filter(|other| (other.table, other.chain) == (rule.table, rule.chain)).count();
        assert_eq!(saved.count(rule.table, rule.chain), count, "{} {}", rule.table.name(), rule.chain);
    }
    // Once more: the policy stays ours.
    let (again, is_ours) = restore::replace(&saved, &wanted, Policy { drop: true, is_ours: false });
    assert!(is_ours && !again.contains(":FORWARD DROP"));
    let cleared = restore::clear(&saved).expect("something to clear");
    assert!(cleared.contains(":FORWARD ACCEPT") && !cleared.contains("DOCKER-USER"), "{cleared}");
    for chain in Table::Filter.own_chains() {
        assert!(cleared.contains(&format!("-X {chain}\n")), "{cleared}");
    }
    let not_ours = wanted.iter().filter(|rule| !rule.table.own_chains().contains(&rule.chain));
    for rule in not_ours.filter(|rule| rule.text != rules::USER_JUMP) {
        assert!(cleared.contains(&format!("-D {} {}\n", rule.chain, rule.text)), "{}", rule.text);
    }
}

#[test]
fn a_policy_of_others_stays_theirs() {
    let saved = Saved::parse("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n");
    let (script, is_ours) = restore::replace(&saved, &[], Policy { drop: true, is_ours: false });
    assert!(!is_ours && !script.contains(":FORWARD"), "{script}");
    let (script, is_ours) = restore::replace(&saved, &[], Policy { drop: false, is_ours: true });
    assert!(!is_ours && script.contains(":FORWARD ACCEPT"), "flushed, but of our doing: {script}");
}

#[test]
fn names_that_mean_something_else() {
    assert!(["br-0123456789ab", "docker0", "eth0.7", "a:b"].into_iter().all(rules::is_plain));
    assert!(["", "-j", "br+", "a\"b", "a'b", "a b", "a\\b", "!x"].into_iter().all(|name| !rules::is_plain(name)));
}
