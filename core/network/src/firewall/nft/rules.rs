//! What our table says. In `nft`'s words, for one bridge `docker0` with 172.17.0.0/16; what is said of IPv4 is said of
//! IPv6 too, where nothing else is noted. A bridge costs a few chains of its own that are found by its name, a published
//! port an element of a map: neither a packet nor a change looks at the others.
//!
//! ```text
//! table inet dockerd-rs {
//!   map ports4         { type inet_proto . inet_service : ipv4_addr . inet_service }
//!   map address-ports4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!   map loopback6      { type inet_proto . inet_service : ipv6_addr }  # the host's address on the container's network
//!   set open4          { type ipv4_addr . inet_proto . inet_service }  # published ones, by containers' own addresses
//!   set bridges        { type ifname }
//!   map leaving-internal, entering, leaving, nat-entering, nat-leaving { type ifname : verdict }
//!   chain raw          { type filter hook prerouting priority raw
//!                        iifname != lo ip daddr 127.0.0.0/8 ip daddr . meta l4proto . th dport @address-ports4 drop
//!                        iifname @bridges ip daddr 127.0.0.0/8 drop     # route_localnet is on: containers must not
//!                        iifname @bridges ip saddr 127.0.0.0/8 drop }   # reach or play the host's loopback
//!   chain prerouting   { type nat hook prerouting priority dstnat
//!                        iifname != lo ip daddr 127.0.0.0/8 return
//!                        ip6 saddr fe80::/10 return                     # is not passed on to another link
//!                        jump published }                       # of @bridges only if the host's policy is honoured
//!   chain loopback-out { type filter hook output priority raw           # before connections are tracked: [::1] is seen
//!                        ip6 daddr ::1 ip6 saddr != ::1 meta l4proto . th dport @loopback6 notrack
//!                        ip6 daddr ::1 ip6 saddr ::1 ip6 saddr set meta l4proto . th dport map @loopback6 }
//!   chain loopback-in  { type filter hook input priority 300            # by nobody but the host itself
//!                        iifname != lo ip6 saddr ::1 ip6 daddr set ::1 }
//!   chain output       { type nat hook output priority dstnat           # the host's own connections
//!                        ip6 saddr fe80::/10 return
//!                        ip6 saddr ::1 return                           # answers would not find back
//!                        jump published }
//!   chain published    { dnat to ip daddr . meta l4proto . th dport map @address-ports4
//!                        fib daddr type local dnat to meta l4proto . th dport map @ports4 }
//!   chain answers      { type filter hook prerouting priority mangle    # where the host's policy is honoured: what containers
//!                        iifname @bridges socket transparent 1 meta mark set meta mark | 0x02000000 }   # answer the daemon
//!   chain postrouting  { type nat hook postrouting priority srcnat
//!                        oifname vmap @nat-entering
//!                        iifname vmap @nat-leaving }
//!   chain forward      { type filter hook forward priority filter
//!                        iifname vmap @leaving-internal                 # internal networks before all others
//!                        oifname vmap @entering
//!                        iifname vmap @leaving                          # docker0 : accept
//!                        jump foreign }                                 # drop, if the host is no router
//!
//!   chain entering__docker0     { ct state established,related accept
//!                                 ct status dnat ip daddr . meta l4proto . th dport @open4 accept
//!                                 iifname docker0 accept                # drop without icc
//!                                 drop }
//!   chain nat-entering__docker0 { ip saddr 127.0.0.0/8 masquerade       # IPv4 only
//!                                 ip saddr 172.17.0.0/16 ct status dnat masquerade }   # hairpin
//!   chain nat-leaving__docker0  { ip saddr 172.17.0.0/16 oifname != docker0 masquerade }
//!   chain leaving-internal__br  { oifname br return; drop }             # of an internal network
//! }
//! ```
//!
//! The kernel takes no packet from or for `::1` from another link, so the host's own connections to `[::1]` have another
//! source on their way: the host's address on the container's network, before connections are tracked, and `::1` again
//! behind everything else. Only they come back as if from `::1`.
//!
//! Modes differ in the chains of their bridges: `routed` has no translation, lets ICMP and what is open in without it, as
//! direct routing does and trusted links may; `nat-unprotected` lets in what comes from elsewhere. But for `routed` and links
//! that are trusted by name, that is the world outside: containers of other networks stay out (`iifname @bridges drop`).

use std::net::Ipv6Addr;

use super::expr::{Expressions, Is, Verdict, link_local, loopback, loopback_ipv6, name_bytes};
use super::message::{Element, Hook, SetType, Transaction, Value, Values};
use super::ports;
use super::uapi::LINK_NAME;
use crate::firewall::{ANSWER_MARK, BridgeRules, DropForeign, FamilyRules, GatewayMode, Handled, HostPolicy, Ruleset};

const fn by_link(name: &'static str, values: Values) -> SetType {
    SetType { name, key_type: LINK_NAME, key_length: 16, values }
}

const BRIDGES: SetType = by_link("bridges", Values::None);
const LEAVING_INTERNAL: SetType = by_link("leaving-internal", Values::Verdicts);
const ENTERING: SetType = by_link("entering", Values::Verdicts);
const LEAVING: SetType = by_link("leaving", Values::Verdicts);
const NAT_ENTERING: SetType = by_link("nat-entering", Values::Verdicts);
const NAT_LEAVING: SetType = by_link("nat-leaving", Values::Verdicts);

const fn hook(kind: &'static str, number: i32, priority: i32) -> Hook {
    Hook { kind, number, priority, policy: libc::NF_ACCEPT }
}

const BASE_CHAINS: [(&str, Hook); 7] = [
    ("raw", hook("filter", libc::NF_INET_PRE_ROUTING, -300)),
    ("loopback-out", hook("filter", libc::NF_INET_LOCAL_OUT, -300)),
    ("loopback-in", hook("filter", libc::NF_INET_LOCAL_IN, 300)),
    ("prerouting", hook("nat", libc::NF_INET_PRE_ROUTING, -100)),
    ("output", hook("nat", libc::NF_INET_LOCAL_OUT, -100)),
    ("postrouting", hook("nat", libc::NF_INET_POST_ROUTING, 100)),
    ("forward", hook("filter", libc::NF_INET_FORWARD, 0)),
];
const PUBLISHED: &str = "published";
const ANSWERS: &str = "answers";
const FOREIGN: &str = "foreign";

/// Whether a chain is there, with rules, as long as the table is.
pub(super) fn is_base_chain(name: &str) -> bool {
    name == PUBLISHED || name == ANSWERS || BASE_CHAINS.iter().any(|(base, _)| *base == name)
}

/// Everything anew.
pub(super) fn install(handled: Handled, policy: HostPolicy, rules: &Ruleset) -> Transaction {
    let mut out = Transaction::begin();
    out.fresh_table();
    for set in [BRIDGES, LEAVING_INTERNAL, ENTERING, LEAVING, NAT_ENTERING, NAT_LEAVING] {
        out.set(set);
    }
    for ipv6 in [false, true] {
        ports::sets(ipv6).into_iter().for_each(|set| out.set(set));
    }
    for chain in [PUBLISHED, FOREIGN] {
        out.chain(chain);
    }
    for (name, hook) in BASE_CHAINS {
        out.base_chain(name, hook);
        // What is not ours passes by.
        for ipv6 in [false, true].into_iter().filter(|ipv6| !handled.has(*ipv6)) {
            out.rule(name, |e| e.family(ipv6).accept());
        }
    }
    base_rules(&mut out, policy);
    if policy.keeps_senders() {
        marking(&mut out);
    }
    drop_foreign(&mut out, handled, rules.drop_foreign);
    for bridge in &rules.bridges {
        bridge_rules(&mut out, handled, bridge);
    }
    ports::add(&mut out, handled, &rules.forwards);
    out
}

/// What is for connections of the daemon's that bear others' addresses.
fn marking(out: &mut Transaction) {
    out.base_chain(ANSWERS, hook("filter", libc::NF_INET_PRE_ROUTING, -150));
    out.rule(ANSWERS, |e| e.input_in(BRIDGES.name).of_borrowed_address().mark(ANSWER_MARK));
}

/// A table with that alone, and nothing of it afterwards.
pub(super) fn marking_only() -> Transaction {
    let mut out = Transaction::begin();
    out.fresh_table();
    out.set(BRIDGES);
    marking(&mut out);
    out.no_table();
    out
}

/// Nothing of ours.
pub(super) fn clear() -> Transaction {
    let mut out = Transaction::begin();
    out.no_table();
    out
}

/// The rules that are there without a bridge.
fn base_rules(out: &mut Transaction, policy: HostPolicy) {
    let by_address = ports::by_address(false).name;
    out.rule("raw", |e| {
        e.input(Is::Not, "lo").destination(loopback()).target_among_keys_of(by_address, false).drop();
    });
    out.rule("raw", |e| e.destination(loopback()).input_in(BRIDGES.name).drop());
    out.rule("raw", |e| e.source(loopback()).input_in(BRIDGES.name).drop());
    out.rule("prerouting", |e| e.input(Is::Not, "lo").destination(loopback()).leave());
    for chain in ["prerouting", "output"] {
        out.rule(chain, |e| e.source(link_local()).leave());
    }
    let by_loopback = ports::loopback().name;
    out.rule("loopback-out", |e| {
        e.destination(loopback_ipv6())
            .source_is_not(Ipv6Addr::LOCALHOST.into())
            .port_among_keys_of(by_loopback)
            .untracked();
    });
    out.rule("loopback-out", |e| {
        e.destination(loopback_ipv6()).source(loopback_ipv6()).source_set_by(by_loopback);
    });
    out.rule("loopback-in", |e| {
        e.input(Is::Not, "lo").source(loopback_ipv6()).destination_set(Ipv6Addr::LOCALHOST);
    });
    out.rule("output", |e| e.source(loopback_ipv6()).leave());
    let published = Verdict::Jump(PUBLISHED.to_owned());
    out.rule("prerouting", |e| match policy {
        HostPolicy::Bypassed => e.verdict(&published),
        HostPolicy::Honoured { .. } => e.input_in(BRIDGES.name).verdict(&published),
    });
    out.rule("output", |e| e.verdict(&published));
    for ipv6 in [false, true] {
        out.rule(PUBLISHED, |e| e.translate_by(ports::by_address(ipv6).name, ipv6, true));
    }
    for ipv6 in [false, true] {
        out.rule(PUBLISHED, |e| e.addressed_to_host().translate_by(ports::everywhere(ipv6).name, ipv6, false));
    }
    out.rule("postrouting", |e| e.by_output(NAT_ENTERING.name));
    out.rule("postrouting", |e| e.by_input(NAT_LEAVING.name));
    out.rule("forward", |e| e.by_input(LEAVING_INTERNAL.name));
    out.rule("forward", |e| e.by_output(ENTERING.name));
    out.rule("forward", |e| e.by_input(LEAVING.name));
    out.rule("forward", |e| e.verdict(&Verdict::Jump(FOREIGN.to_owned())));
}

fn drop_foreign(out: &mut Transaction, handled: Handled, drop: DropForeign) {
    for (ipv6, drop) in [(false, drop.ipv4), (true, drop.ipv6)] {
        if drop && handled.has(ipv6) {
            out.rule(FOREIGN, |e| e.family(ipv6).drop());
        }
    }
}

/// One more bridge.
pub(super) fn add_bridge(handled: Handled, bridge: &BridgeRules, drop: DropForeign) -> Transaction {
    let mut out = Transaction::begin();
    bridge_rules(&mut out, handled, bridge);
    out.empty_chain(FOREIGN);
    drop_foreign(&mut out, handled, drop);
    out
}

/// One bridge less.
pub(super) fn remove_bridge(bridge: &BridgeRules) -> Transaction {
    let mut out = Transaction::begin();
    let places = places(bridge);
    for (set, verdict) in &places {
        out.delete_elements(set.name, &[(name_bytes(&bridge.link).to_vec(), verdict.clone())]);
    }
    for (_, verdict) in &places {
        if let Value::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) = verdict {
            out.delete_chain(chain);
        }
    }
    out
}

/// Where a bridge is entered, and what that leads to.
fn places(bridge: &BridgeRules) -> Vec<(SetType, Value)> {
    let own = |set: SetType| format!("{}__{}", set.name, bridge.link);
    let goto = |set: SetType| (set, Value::Verdict(Verdict::Goto(own(set))));
    let jump = |set: SetType| (set, Value::Verdict(Verdict::Jump(own(set))));
    let mut out = vec![(BRIDGES, Value::None), goto(ENTERING), jump(NAT_ENTERING), goto(NAT_LEAVING)];
    out.push((LEAVING, Value::Verdict(Verdict::Accept)));
    if bridge.internal {
        out.push(jump(LEAVING_INTERNAL));
    }
    out
}

fn bridge_rules(out: &mut Transaction, handled: Handled, bridge: &BridgeRules) {
    for (set, verdict) in places(bridge) {
        if let Value::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) = &verdict {
            out.chain(chain);
            if set.name == LEAVING_INTERNAL.name {
                out.rule(chain, |e| e.output(Is::Equal, &bridge.link).leave());
                out.rule(chain, |e| e.drop());
            } else if set.name == ENTERING.name {
                entering(out, handled, bridge, chain);
            } else if set.name == NAT_ENTERING.name {
                nat_entering(out, handled, bridge, chain);
            } else {
                nat_leaving(out, handled, bridge, chain);
            }
        }
        let element: Element = (name_bytes(&bridge.link).to_vec(), verdict);
        out.add_elements(set.name, &[element]);
    }
}

/// The families of a bridge that are ours to filter.
fn families(handled: Handled, bridge: &BridgeRules) -> impl Iterator<Item = &FamilyRules> {
    bridge.families().filter(move |family| handled.has(family.subnet.is_ipv6()))
}

fn entering(out: &mut Transaction, handled: Handled, bridge: &BridgeRules, chain: &str) {
    let BridgeRules { link, icc, internal, direct_routing, trusted, .. } = bridge;
    let between = |out: &mut Transaction| {
        out.rule(chain, |e| {
            let verdict = if *icc { Verdict::Accept } else { Verdict::Drop };
            e.input(Is::Equal, link).verdict(&verdict);
        });
    };
    if *internal {
        between(out);
        return out.rule(chain, |e| e.drop());
    }
    out.rule(chain, |e| e.known_connection().accept());
    let open = |ipv6: bool| move |e: &mut Expressions<'_, '_>| e.target_in(ports::open(ipv6).name, ipv6).accept();
    for family in families(handled, bridge) {
        let ipv6 = family.subnet.is_ipv6();
        match family.mode {
            GatewayMode::Routed => out.rule(chain, |e| e.control_message(ipv6).accept()),
            _ => out.rule(chain, |e| open(ipv6)(e.translated())),
        }
    }
    between(out);
    for family in families(handled, bridge) {
        let ipv6 = family.subnet.is_ipv6();
        let keep_others_out = |out: &mut Transaction| out.rule(chain, |e| e.family(ipv6).input_in(BRIDGES.name).drop());
        match family.mode {
            GatewayMode::NatUnprotected => {
                keep_others_out(out);
                out.rule(chain, |e| e.family(ipv6).accept());
            }
            GatewayMode::Routed => out.rule(chain, open(ipv6)),
            GatewayMode::Nat => {
                for link in trusted {
                    out.rule(chain, |e| open(ipv6)(e.input(Is::Equal, link)));
                }
                if *direct_routing {
                    keep_others_out(out);
                    out.rule(chain, open(ipv6));
                }
            }
            // Of internal networks only.
            GatewayMode::Isolated => {}
        }
    }
    out.rule(chain, |e| e.drop());
}

/// Whether addresses of a family are translated.
fn translates(family: &FamilyRules) -> bool {
    matches!(family.mode, GatewayMode::Nat | GatewayMode::NatUnprotected)
}

fn nat_entering(out: &mut Transaction, handled: Handled, bridge: &BridgeRules, chain: &str) {
    for family in families(handled, bridge).filter(|family| translates(family)) {
        if !family.subnet.is_ipv6() {
            out.rule(chain, |e| e.source(loopback()).masquerade());
        }
        out.rule(chain, |e| e.source(family.subnet).translated().masquerade());
    }
}

fn nat_leaving(out: &mut Transaction, handled: Handled, bridge: &BridgeRules, chain: &str) {
    if !bridge.masquerade || bridge.internal {
        return;
    }
    for family in families(handled, bridge).filter(|family| translates(family)) {
        out.rule(chain, |e| {
            let leaving = e.source(family.subnet).output(Is::Not, &bridge.link);
            match family.source {
                Some(address) => leaving.source_becomes(address),
                None => leaving.masquerade(),
            }
        });
    }
}
