//! Networks whose containers are stations of a link of the host's own (macvlan), what cannot be one, and networks that are
//! settings for others. The parent is one end of a pair of links; the other end is "another host", a container without a
//! network of its own.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has};
use compat_tests::network::Network;
use compat_tests::{Case, Suite, tests};
use serde_json::{Value, json};

fn main() -> ExitCode {
    Suite {
        name: "macvlan",
        flags: &[],
        tests: tests![
            stations_of_the_parent,
            one_station_passed_through,
            refused_parents,
            connected_while_running,
            settings_for_others
        ],
    }
    .main()
}

fn network_of(case: &Case<'_>, container: &str) -> Result<Network> {
    Network::of_process(case.inspect(container, "{{.State.Pid}}").parse().context("no process")?)
}

fn ip(network: &Network, arguments: &str) -> Result<()> {
    let done = network.command("ip").args(arguments.split(' ')).status()?;
    ensure!(done.success(), "ip {arguments} failed");
    Ok(())
}

/// A link of the host, gone at the end with its other end; that one is `eth0` of another host with these addresses.
struct Parent {
    host: Network,
    name: String,
}

impl Parent {
    fn make(case: &Case<'_>, name: &str, addresses: &[&str]) -> Result<Self> {
        let peer = case.sleeper("peer", &["--network", "none"])?;
        let pid = case.inspect(&peer, "{{.State.Pid}}");
        let host = Network::of(case.host())?;
        ip(&host, &format!("link add {name} type veth peer name eth0 netns {pid}"))?;
        let parent = Self { host, name: name.to_owned() };
        ip(&parent.host, &format!("link set {name} up"))?;
        let other = network_of(case, &peer)?;
        ip(&other, "link set eth0 up")?;
        for address in addresses {
            ip(
                &other,
                &format!("address add {address} dev eth0{}", if address.contains(':') { " nodad" } else { "" }),
            )?;
        }
        Ok(parent)
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Gone already with the other host, if the case was cleaned up before.
        let _ = self.host.command("ip").args(["link", "delete", &self.name]).output();
    }
}

fn make(case: &Case<'_>, what: &str, options: &[&str]) -> Result<String> {
    let name = case.network(what);
    case.docker(&[&["network", "create"], options, &[&name]].concat()).ok()?;
    Ok(name)
}

fn refused(case: &Case<'_>, what: &str, options: &[&str]) -> String {
    case.docker(&[&["network", "create"], options, &[&case.network(what)]].concat()).err
}

fn reaches(case: &Case<'_>, from: &str, address: &str) -> bool {
    case.docker(&["exec", from, "ping", "-c", "1", "-W", "2", address]).code == 0
}

fn endpoint(case: &Case<'_>, container: &str, network: &str) -> Result<Value> {
    Ok(case.inspect_json(container)?["NetworkSettings"]["Networks"][network].clone())
}

fn stations_of_the_parent(case: &Case<'_>) -> Result<()> {
    let parent = Parent::make(case, "mvl0", &["10.231.0.2/24", "fd00:231::2/64"])?;
    let option = format!("parent={}", parent.name);
    let network = make(
        case,
        "n",
        &[
            "-d",
            "macvlan",
            "-o",
            &option,
            "--subnet",
            "10.231.0.0/24",
            "--ip-range",
            "10.231.0.64/26",
            "--gateway",
            "10.231.0.1",
            "--ipv6",
            "--subnet",
            "fd00:231::/64",
            "--gateway",
            "fd00:231::1",
        ],
    )?;
    let found = case.http("GET", &format!("/networks/{network}"))?.json()?;
    equal(&found["Driver"], &json!("macvlan"))?;
    equal(&found["Options"], &json!({"parent": "mvl0"}))?;
    let config = json!([
        {"Subnet": "10.231.0.0/24", "IPRange": "10.231.0.64/26", "Gateway": "10.231.0.1"},
        {"Subnet": "fd00:231::/64", "Gateway": "fd00:231::1"},
    ]);
    equal(&found["IPAM"]["Config"], &config)?;
    let a = case.sleeper("a", &["--network", &network])?;
    let b = case.sleeper("b", &["--network", &network, "--ip", "10.231.0.99", "--ip6", "fd00:231::99"])?;
    let (of_a, of_b) = (endpoint(case, &a, &network)?, endpoint(case, &b, &network)?);
    equal(&of_a["IPAddress"], &json!("10.231.0.64"))?;
    equal(&of_a["GlobalIPv6Address"], &json!("fd00:231::3"))
        .or_else(|_| equal(&of_a["GlobalIPv6Address"], &json!("fd00:231::2")))?;
    equal((&of_b["IPAddress"], &of_b["GlobalIPv6Address"]), (&json!("10.231.0.99"), &json!("fd00:231::99")))?;
    equal((&of_b["Gateway"], &of_b["IPv6Gateway"]), (&json!("10.231.0.1"), &json!("fd00:231::1")))?;
    for address in ["10.231.0.2", "10.231.0.99", "fd00:231::99"] {
        ensure!(reaches(case, &a, address), "{address} is not reached");
    }
    let route = case.docker(&["exec", &a, "ip", "route"]).ok()?;
    has(&route, "default via 10.231.0.1 dev eth0")?;
    let taken = case.docker(&["run", "--rm", "--network", &network, "--ip", "10.231.0.99", case.image(), "true"]);
    has(&taken.err, "Address already in use")?;
    case.docker(&["restart", "-t", "0", &b]).ok()?;
    ensure!(reaches(case, &a, "10.231.0.99"), "not reached after a restart");
    Ok(())
}

fn one_station_passed_through(case: &Case<'_>) -> Result<()> {
    let parent = Parent::make(case, "mvl1", &["10.232.0.2/24"])?;
    let option = format!("parent={}", parent.name);
    let passed = ["-d", "macvlan", "-o", &option, "-o", "macvlan_mode=passthru", "--subnet", "10.232.0.0/24"];
    let network = make(case, "n", &passed)?;
    let a = case.sleeper("a", &["--network", &network, "--ip", "10.232.0.9"])?;
    ensure!(reaches(case, &a, "10.232.0.2"), "the other host");
    let second = case.docker(&["run", "--rm", "--network", &network, case.image(), "true"]);
    has(&second.err, "failed to create the macvlan port: invalid argument")
}

fn refused_parents(case: &Case<'_>) -> Result<()> {
    let with = |what: &str, options: &[&str]| refused(case, what, &[&["-d", "macvlan"], options].concat());
    for (what, options, wanted) in [
        ("a", "parent=nosuch0", "invalid subinterface vlan name nosuch0, example formatting is eth0.10"),
        ("b", "parent=nosuch0.100", "-o parent interface was not found on the host: nosuch0"),
        ("c", "parent=nosuch0.abc", "unable to parse a valid vlan id from: abc (ex. eth0.10 for vlan 10)"),
        ("d", "parent=lo", "loopback interface is not a valid macvlan parent link"),
        (
            "e",
            "macvlan_mode=foo",
            "requested macvlan mode 'foo' is not valid, 'bridge' mode is the macvlan driver default",
        ),
    ] {
        has(&with(what, &["-o", options]), wanted)?;
    }
    let ipvlan = refused(case, "f", &["-d", "ipvlan", "-o", "ipvlan_mode=foo"]);
    has(&ipvlan, "requested ipvlan mode 'foo' is not valid, 'l2' mode is the ipvlan driver default")
}

fn connected_while_running(case: &Case<'_>) -> Result<()> {
    let parent = Parent::make(case, "mvl2", &["10.233.0.2/24"])?;
    let option = format!("parent={}", parent.name);
    let network = make(case, "n", &["-d", "macvlan", "-o", &option, "--subnet", "10.233.0.0/24"])?;
    let a = case.sleeper("a", &["--network", "bridge"])?;
    ensure!(!reaches(case, &a, "10.233.0.2"), "reached before");
    case.docker(&["network", "connect", "--ip", "10.233.0.7", &network, &a]).ok()?;
    equal(&endpoint(case, &a, &network)?["IPAddress"], &json!("10.233.0.7"))?;
    ensure!(reaches(case, &a, "10.233.0.2"), "not reached when connected");
    let busy = case.docker(&["network", "rm", &network]).err;
    has(&busy, "has active endpoints")?;
    case.docker(&["network", "disconnect", &network, &a]).ok()?;
    let links = case.docker(&["exec", &a, "ip", "-o", "link"]).ok()?;
    equal(links.lines().count(), 2)
}

fn settings_for_others(case: &Case<'_>) -> Result<()> {
    let template = make(case, "t", &["--config-only", "--subnet", "10.234.0.0/24", "--label", "a=b"])?;
    let found = case.http("GET", &format!("/networks/{template}"))?.json()?;
    equal((&found["ConfigOnly"], &found["Driver"]), (&json!(true), &json!("null")))?;
    let used = make(case, "u", &["--config-from", &template])?;
    let found = case.http("GET", &format!("/networks/{used}"))?.json()?;
    equal(&found["ConfigFrom"], &json!({"Network": template}))?;
    equal((&found["Driver"], &found["Labels"]), (&json!("bridge"), &json!({"a": "b"})))?;
    equal(&found["IPAM"]["Config"][0]["Subnet"], &json!("10.234.0.0/24"))?;
    let a = case.sleeper("a", &["--network", &used])?;
    equal(&endpoint(case, &a, &used)?["IPAddress"], &json!("10.234.0.2"))?;
    let stays = case.docker(&["network", "rm", &template]).err;
    has(&stays, &format!("error while removing network: configuration network \"{template}\" is in use"))?;
    let on_it = case.docker(&["run", "--rm", "--network", &template, case.image(), "true"]).err;
    has(&on_it, "cannot create endpoint on configuration-only network")?;
    let null = refused(case, "x", &["--ipam-driver", "null"]);
    has(&null, "ipv4 pool is empty")
}
