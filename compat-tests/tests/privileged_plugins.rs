//! Networks whose links a plugin makes, and addresses that a plugin gives: the plugin is one of the test's own, which makes
//! real links. What it is told, what containers get of it, and that it gets everything back whatever goes wrong.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has};
use compat_tests::daemon::Daemon;
use compat_tests::host::Host;
use compat_tests::plugin::{Plugin, Reply};
use compat_tests::{Case, Suite, suite, tests};
use serde_json::{Value, json};

fn main() -> ExitCode {
    Suite {
        name: "plugins",
        flags: &[],
        tests: tests![
            a_network_of_a_plugin,
            connected_while_running,
            addresses_of_a_plugin_on_a_bridge,
            pools_of_both_families,
            networks_that_are_refused,
            containers_that_are_refused,
            routes_of_a_plugin,
            addresses_of_links,
            what_plugins_say_they_are,
            hardware_addresses_are_told,
            taking_back_is_refused,
            slow_and_endless,
            away_and_back,
            killed_and_started_again
        ],
    }
    .main()
}

/// A plugin, and what a test made with it, which goes before the plugin does.
struct Bed<'a> {
    case: &'a Case<'a>,
    plugin: Plugin,
}

impl<'a> Bed<'a> {
    fn make(case: &'a Case<'a>, subnet: u8) -> Result<Self> {
        Ok(Self { case, plugin: Plugin::start(case.host(), &format!("{}-p", case.prefix()), subnet)? })
    }

    /// A network with its links.
    fn network(&self, what: &str, options: &[&str]) -> Result<String> {
        self.made(what, &[&["-d", self.plugin.name()], options].concat())
    }

    fn made(&self, what: &str, options: &[&str]) -> Result<String> {
        let name = self.case.network(what);
        self.case.docker(&[&["network", "create"], options, &[&name]].concat()).ok()?;
        Ok(name)
    }

    fn request(&self, method: &str) -> Result<Value> {
        let found = self.plugin.calls().into_iter().find(|call| call.method == method);
        Ok(found.with_context(|| format!("{method} was not called"))?.request)
    }

    fn create(&self, name: &str, body: Value) -> Result<(u16, String)> {
        let mut body = body;
        body["Name"] = name.into();
        let answer = self.case.http_json("POST", "/networks/create", &body)?;
        Ok((answer.status, if answer.status < 300 { String::new() } else { answer.message() }))
    }

    fn clean(&self) {
        clean(self.case.host(), self.case.prefix());
    }
}

impl Drop for Bed<'_> {
    fn drop(&mut self) {
        self.plugin.behave();
        let _ = self.plugin.come_back();
        self.clean();
    }
}

/// Removes containers and networks whose names begin so.
fn clean(host: &Host, prefix: &str) {
    for (list, remove) in
        [(["ps", "-aq"].as_slice(), ["rm", "-fv"].as_slice()), (&["network", "ls", "-q"], &["network", "rm"])]
    {
        let filter = format!("name={prefix}");
        let found = host.docker(&[list, &["--filter", &filter]].concat(), "").out;
        let found: Vec<&str> = found.lines().collect();
        if !found.is_empty() {
            let _ = host.docker(&[remove, &found].concat(), "");
        }
    }
}

fn endpoint(case: &Case<'_>, container: &str, network: &str) -> Result<Value> {
    Ok(case.inspect_json(container)?["NetworkSettings"]["Networks"][network].clone())
}

fn reaches(host: &Host, from: &str, address: &str) -> bool {
    host.docker(&["exec", from, "ping", "-c", "1", "-W", "2", address], "").code == 0
}

fn a_network_of_a_plugin(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 1)?;
    let name = bed.plugin.name().to_owned();
    let options = ["--ipam-driver", &name, "-o", "a=b", "--ipam-opt", "x=y", "--label", "l=1"];
    let network = bed.network("n", &options)?;
    let calls = bed.plugin.calls();
    let asked = |method: &str| calls.iter().find(|call| call.method == method).map(|call| call.request.clone());
    let pool = json!({"AddressSpace": "here", "Pool": "", "SubPool": "", "Options": {"x": "y"}, "V6": false});
    equal(asked("IpamDriver.RequestPool"), Some(pool))?;
    let gateway = json!({
        "PoolID": "10.240.1.0/24",
        "Address": "",
        "Options": {"RequestAddressType": "com.docker.network.gateway"},
    });
    equal(asked("IpamDriver.RequestAddress"), Some(gateway))?;
    let found = case.http("GET", &format!("/networks/{network}"))?.json()?;
    let wanted = json!({
        "NetworkID": found["Id"],
        "Options": {
            "com.docker.network.enable_ipv4": true,
            "com.docker.network.enable_ipv6": false,
            "com.docker.network.generic": {"a": "b"},
        },
        "IPv4Data": [{"AddressSpace": "here", "Gateway": "10.240.1.1/24", "Pool": "10.240.1.0/24"}],
        "IPv6Data": [],
    });
    equal(asked("NetworkDriver.CreateNetwork"), Some(wanted))?;
    equal(&found["Driver"], &json!(name))?;
    equal((&found["Scope"], &found["Options"]), (&json!("local"), &json!({"a": "b"})))?;
    let ipam = json!({
        "Driver": name,
        "Options": {"x": "y"},
        "Config": [{"Subnet": "10.240.1.0/24", "Gateway": "10.240.1.1"}],
    });
    equal(&found["IPAM"], &ipam)?;
    let known = case.http("GET", "/info")?.json()?["Plugins"]["Network"].clone();
    ensure!(known.as_array().is_some_and(|known| known.contains(&json!(name))), "not among {known}");

    let a = case.sleeper("a", &["--network", &network, "-p", "8080:80", "--expose", "99/udp"])?;
    let calls = bed.plugin.calls();
    let asked = |method: &str| calls.iter().find(|call| call.method == method).map(|call| call.request.clone());
    let of_a = endpoint(case, &a, &network)?;
    let mut ports = json!({
        "com.docker.network.endpoint.exposedports": [{"Proto": 17, "Port": 99}, {"Proto": 6, "Port": 80}],
        "com.docker.network.portmap":
            [{"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080}],
    });
    let created = asked("NetworkDriver.CreateEndpoint").context("no endpoint")?;
    equal(&created["EndpointID"], &of_a["EndpointID"])?;
    let interface = json!({"Address": "10.240.1.2/24", "AddressIPv6": "", "MacAddress": ""});
    equal(&created["Interface"], &interface)?;
    // The stock daemon tells exposed ports in no order.
    let told = |value: &Value| {
        let mut value = value.clone();
        if let Some(list) = value["com.docker.network.endpoint.exposedports"].as_array_mut() {
            list.sort_by_key(|port| port["Port"].as_u64());
        }
        value
    };
    ports = told(&ports);
    equal(told(&created["Options"]), ports.clone())?;
    let join = asked("NetworkDriver.Join").context("no join")?;
    equal(told(&join["Options"]), ports.clone())?;
    equal(&join["SandboxKey"], &case.inspect_json(&a)?["NetworkSettings"]["SandboxKey"])?;
    let external = asked("NetworkDriver.ProgramExternalConnectivity").context("not programmed")?;
    ports["com.docker.network.driver.private.no_proxy_6to4"] = json!(false);
    equal(told(&external["Options"]), ports)?;
    equal((&of_a["IPAddress"], &of_a["IPPrefixLen"]), (&json!("10.240.1.2"), &json!(24)))?;
    equal(&of_a["Gateway"], &json!("10.240.1.1"))?;
    let route = case.docker(&["exec", &a, "ip", "route"]).ok()?;
    has(&route, "default via 10.240.1.1 dev eth0")?;

    let b = case.sleeper("b", &["--network", &network])?;
    ensure!(reaches(case.host(), &b, "10.240.1.2"), "by address");
    ensure!(reaches(case.host(), &b, &a), "by name");
    let containers = case.http("GET", &format!("/networks/{network}"))?.json()?["Containers"].clone();
    equal(containers.as_object().map(serde_json::Map::len), Some(2))?;
    let busy = case.docker(&["network", "rm", &network]).err;
    has(&busy, "has active endpoints")?;
    case.docker(&["restart", "-t", "0", &a]).ok()?;
    ensure!(reaches(case.host(), &b, &a), "after a restart");
    bed.plugin.calls();
    case.docker(&["rm", "-f", &b]).ok()?;
    bed.plugin.wait_until("one left", |given| given.iter().filter(|what| what.starts_with("endpoint")).count() == 1)?;
    case.docker(&["rm", "-f", &a]).ok()?;
    bed.plugin.wait_until("none left", |given| given.iter().all(|what| !what.starts_with("endpoint")))?;
    equal(case.docker(&["network", "rm", &network]).ok()?, network)?;
    bed.plugin.has_everything_back()
}

fn connected_while_running(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 2)?;
    let network = bed.network("n", &["--subnet", "10.240.2.0/24"])?;
    let a = case.sleeper("a", &["--network", "bridge"])?;
    let b = case.sleeper("b", &["--network", &network])?;
    bed.plugin.calls();
    let options = ["--ip", "10.240.2.77", "--driver-opt", "foo=bar", &network, &a];
    case.docker(&[&["network", "connect"], options.as_slice()].concat()).ok()?;
    let created = bed.request("NetworkDriver.CreateEndpoint")?;
    equal(&created["Interface"]["Address"], &json!("10.240.2.77/24"))?;
    equal(&created["Options"]["foo"], &json!("bar"))?;
    let of_a = endpoint(case, &a, &network)?;
    equal((&of_a["IPAddress"], &of_a["Gateway"]), (&json!("10.240.2.77"), &json!("10.240.2.1")))?;
    ensure!(reaches(case.host(), &a, &b), "not reached");
    has(&case.docker(&["exec", &a, "ip", "-o", "link"]).ok()?, "eth1")?;
    let route = case.docker(&["exec", &a, "ip", "route"]).ok()?;
    ensure!(!route.contains("default via 10.240.2.1"), "{route}");
    // Refused, it leaves the container as it was.
    let again = case.docker(&["network", "connect", &network, &a]).err;
    has(&again, "already exists in network")?;
    bed.plugin.calls();
    case.docker(&["network", "disconnect", &network, &a]).ok()?;
    let methods = bed.plugin.methods();
    equal(methods, vec!["NetworkDriver.Leave".to_owned(), "NetworkDriver.DeleteEndpoint".to_owned()])?;
    let links = case.docker(&["exec", &a, "ip", "-o", "link"]).ok()?;
    equal(links.lines().count(), 2)?;
    // The way out moves to the network of the higher priority, and back.
    let connect = json!({"Container": a, "EndpointConfig": {"GwPriority": 9}});
    let answer = case.http_json("POST", &format!("/networks/{network}/connect"), &connect)?;
    equal(answer.status, 200)?;
    has(&case.docker(&["exec", &a, "ip", "route"]).ok()?, "default via 10.240.2.1")?;
    ensure!(bed.plugin.methods().contains(&"NetworkDriver.ProgramExternalConnectivity".to_owned()), "not programmed");
    case.docker(&["network", "disconnect", &network, &a]).ok()?;
    has(&bed.plugin.methods().join(" "), "NetworkDriver.RevokeExternalConnectivity NetworkDriver.Leave")?;
    let route = case.docker(&["exec", &a, "ip", "route"]).ok()?;
    ensure!(route.contains("default via") && !route.contains("10.240.2.1"), "{route}");
    bed.clean();
    bed.plugin.has_everything_back()
}

fn addresses_of_a_plugin_on_a_bridge(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 3)?;
    let network = bed.made("n", &["--ipam-driver", bed.plugin.name()])?;
    let found = case.http("GET", &format!("/networks/{network}"))?.json()?;
    equal(&found["Driver"], &json!("bridge"))?;
    equal(&found["IPAM"]["Config"], &json!([{"Subnet": "10.240.3.0/24", "Gateway": "10.240.3.1"}]))?;
    let a = case.sleeper("a", &["--network", &network])?;
    let b = case.sleeper("b", &["--network", &network])?;
    equal(&endpoint(case, &a, &network)?["IPAddress"], &json!("10.240.3.2"))?;
    equal(&endpoint(case, &b, &network)?["IPAddress"], &json!("10.240.3.3"))?;
    ensure!(reaches(case.host(), &a, &b), "not reached");
    // The gateway is the bridge.
    ensure!(reaches(case.host(), &a, "10.240.3.1"), "the gateway");
    let wished = case.docker(&["run", "--rm", "--network", &network, "--ip", "10.240.3.9", case.image(), "true"]).err;
    has(&wished, "supported only when connecting to networks with user configured subnets")?;
    bed.plugin.set("IpamDriver.RequestAddress", Reply::Json(json!({"Error": "used up"})));
    let none = case.docker(&["run", "--rm", "--network", &network, case.image(), "true"]).err;
    has(&none, "failed to set up container networking: remote: used up")?;
    bed.plugin.behave();
    case.docker(&["rm", "-f", &a]).ok()?;
    bed.plugin.wait_until("an address", |given| !given.contains("address 10.240.3.2"))?;
    let prunable = bed.made("o", &["--ipam-driver", bed.plugin.name(), "--subnet", "10.240.93.0/24", "--label", &network])?;
    let pruned = case.docker(&["network", "prune", "-f", "--filter", &format!("label={network}")]).ok()?;
    has(&pruned, &prunable)?;
    bed.plugin.wait_until("pruned", |given| !given.contains("pool 10.240.93.0/24"))?;
    bed.clean();
    bed.plugin.has_everything_back()
}

fn pools_of_both_families(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 4)?;
    let asked = ["--subnet", "10.240.4.0/24", "--ip-range", "10.240.4.128/25", "--gateway", "10.240.4.9"];
    let network = bed.network(
        "n",
        &[&["--ipam-driver", bed.plugin.name(), "--ipv6"], asked.as_slice(), &["--aux-address", "other=10.240.4.5"]]
            .concat(),
    )?;
    let calls = bed.plugin.calls();
    let created = calls.iter().find(|call| call.method == "NetworkDriver.CreateNetwork").context("not told")?;
    let four = json!([{
        "AddressSpace": "here",
        "Gateway": "10.240.4.9/24",
        "Pool": "10.240.4.0/24",
        "AuxAddresses": {"other": "10.240.4.5/24"},
    }]);
    equal(&created.request["IPv4Data"], &four)?;
    let six = json!([{"AddressSpace": "here", "Gateway": "fd00:240:4::1/64", "Pool": "fd00:240:4::/64"}]);
    equal(&created.request["IPv6Data"], &six)?;
    let found = case.http("GET", &format!("/networks/{network}"))?.json()?;
    let config = json!([
        {
            "Subnet": "10.240.4.0/24",
            "IPRange": "10.240.4.128/25",
            "Gateway": "10.240.4.9",
            "AuxiliaryAddresses": {"other": "10.240.4.5"},
        },
        {"Subnet": "fd00:240:4::/64", "Gateway": "fd00:240:4::1"},
    ]);
    equal(&found["IPAM"]["Config"], &config)?;
    bed.plugin.set("NetworkDriver.Join", Reply::With(json!({"GatewayIPv6": "fd00:240:4::1"})));
    let a = case.sleeper("a", &["--network", &network, "--ip", "10.240.4.44", "--mac-address", "02:00:00:00:00:44"])?;
    let created = bed.request("NetworkDriver.CreateEndpoint")?;
    let wanted = json!({
        "Address": "10.240.4.44/24",
        "AddressIPv6": "fd00:240:4::2/64",
        "MacAddress": "02:00:00:00:00:44",
    });
    equal(&created["Interface"], &wanted)?;
    equal(&created["Options"]["com.docker.network.endpoint.macaddress"], &json!("AgAAAABE"))?;
    let of_a = endpoint(case, &a, &network)?;
    equal((&of_a["GlobalIPv6Address"], &of_a["IPv6Gateway"]), (&json!("fd00:240:4::2"), &json!("fd00:240:4::1")))?;
    has(&case.docker(&["exec", &a, "ip", "-6", "route"]).ok()?, "default via fd00:240:4::1 dev eth0")?;
    has(&case.docker(&["exec", &a, "ip", "link", "show", "eth0"]).ok()?, "02:00:00:00:00:44")?;
    let b = case.sleeper("b", &["--network", &network])?;
    ensure!(reaches(case.host(), &b, "fd00:240:4::2"), "by IPv6");
    bed.clean();
    bed.plugin.has_everything_back()
}

/// What a plugin answers to `method` when a network is made, and what the client is told.
const REFUSED_NETWORKS: [(&str, &str, u16, &str); 17] = [
    ("NetworkDriver.CreateNetwork", r#"{"Err":"no way"}"#, 500, "remote: no way"),
    ("NetworkDriver.CreateNetwork", "500 no way", 500, "NetworkDriver.CreateNetwork: no way"),
    ("NetworkDriver.CreateNetwork", r#"500 {"Err":"no way"}"#, 500, "NetworkDriver.CreateNetwork: no way"),
    ("NetworkDriver.CreateNetwork", "200 garbage", 500, "invalid character 'g' looking for beginning of value"),
    ("NetworkDriver.CreateNetwork", "200 ", 500, "EOF"),
    ("NetworkDriver.CreateNetwork", r#"200 {"Err":"#, 500, "unexpected EOF"),
    (
        "NetworkDriver.CreateNetwork",
        "[]",
        500,
        "json: cannot unmarshal array into Go value of type api.CreateNetworkResponse",
    ),
    (
        "NetworkDriver.CreateNetwork",
        r#"{"Err":5}"#,
        500,
        "json: cannot unmarshal number into Go struct field .Err of type string",
    ),
    ("IpamDriver.RequestPool", r#"{"Error":"no pool"}"#, 500, "remote: no pool"),
    ("IpamDriver.RequestPool", "{}", 500, "netip.ParsePrefix(\"\"): no '/'"),
    ("IpamDriver.RequestPool", r#"{"PoolID":"p","Pool":"x"}"#, 500, "netip.ParsePrefix(\"x\"): no '/'"),
    (
        "IpamDriver.RequestPool",
        r#"{"Pool":5}"#,
        500,
        "json: cannot unmarshal number into Go struct field .Pool of type string",
    ),
    ("IpamDriver.RequestAddress", "{}", 500, "failed to allocate gateway (): no address returned"),
    ("IpamDriver.RequestAddress", r#"{"Error":"none"}"#, 500, "failed to allocate gateway (): remote: none"),
    (
        "IpamDriver.RequestAddress",
        r#"{"Address":"10.240.5.1"}"#,
        500,
        "failed to allocate gateway (): invalid CIDR address: 10.240.5.1",
    ),
    (
        "IpamDriver.GetDefaultAddressSpaces",
        r#"{"Error":"none"}"#,
        404,
        "failed to get default address space: remote: none",
    ),
    (
        "IpamDriver.GetDefaultAddressSpaces",
        "200 zzz",
        404,
        "failed to get default address space: invalid character 'z' looking for beginning of value",
    ),
];

/// `STATUS TEXT`, or JSON.
fn reply(text: &str) -> Result<Reply> {
    if let Some((status, text)) = text.split_once(' ')
        && let Ok(status) = status.parse()
    {
        return Ok(Reply::Text(status, text.to_owned()));
    }
    Ok(Reply::Json(serde_json::from_str(text)?))
}

fn networks_that_are_refused(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 5)?;
    let body = json!({"Driver": bed.plugin.name(), "IPAM": {"Driver": bed.plugin.name()}});
    let name = case.network("n");
    for (method, answer, status, message) in REFUSED_NETWORKS {
        bed.plugin.set(method, reply(answer)?);
        equal(bed.create(&name, body.clone())?, (status, message.to_owned())).context(answer)?;
        bed.plugin.behave();
        bed.plugin.has_everything_back().with_context(|| format!("{method} {answer}"))?;
    }
    // What does not matter, and what is put up with.
    for (method, answer) in [
        ("NetworkDriver.CreateNetwork", "null"),
        ("NetworkDriver.CreateNetwork", "200 {} trailing"),
        ("IpamDriver.GetDefaultAddressSpaces", "{}"),
    ] {
        bed.plugin.set(method, reply(answer)?);
        equal(bed.create(&name, body.clone())?, (201, String::new())).context(answer)?;
        bed.plugin.behave();
        equal(bed.create(&name, body.clone())?.0, 409)?;
        equal(case.docker(&["network", "rm", &name]).ok()?, name.clone())?;
        bed.plugin.has_everything_back().with_context(|| format!("{method} {answer}"))?;
    }
    Ok(())
}

/// What a plugin answers to `method` when a container starts, and what the client is told behind "failed to set up container
/// networking: ".
const REFUSED_CONTAINERS: [(&str, &str, u16, &str); 18] = [
    ("IpamDriver.RequestAddress", r#"{"Error":"none"}"#, 500, "remote: none"),
    ("IpamDriver.RequestAddress", r#"{"Address":"x"}"#, 500, "invalid CIDR address: x"),
    ("IpamDriver.RequestAddress", "{}", 503, "no address returned"),
    ("NetworkDriver.CreateEndpoint", r#"{"Err":"no"}"#, 500, "failed to create endpoint C on network N: remote: no"),
    (
        "NetworkDriver.CreateEndpoint",
        "500 bad",
        500,
        "failed to create endpoint C on network N: NetworkDriver.CreateEndpoint: bad",
    ),
    (
        "NetworkDriver.CreateEndpoint",
        "200 garbage",
        500,
        "failed to create endpoint C on network N: invalid character 'g' looking for beginning of value",
    ),
    (
        "NetworkDriver.CreateEndpoint",
        r#"{"Interface":{"Address":"x"}}"#,
        500,
        "failed to create endpoint C on network N: invalid CIDR address: x; rolled back",
    ),
    (
        "NetworkDriver.CreateEndpoint",
        r#"{"Interface":{"MacAddress":"x"}}"#,
        500,
        "failed to create endpoint C on network N: address x: invalid MAC address; rolled back",
    ),
    (
        "NetworkDriver.CreateEndpoint",
        r#"{"Interface":{"MacAddress":5}}"#,
        500,
        "failed to create endpoint C on network N: json: cannot unmarshal number into Go struct field \
         .Interface.MacAddress of type string",
    ),
    ("NetworkDriver.Join", r#"{"Err":"no"}"#, 500, "remote: no"),
    (
        "NetworkDriver.Join",
        r#"{"InterfaceName":{"SrcName":"nosuch0","DstPrefix":"eth"}}"#,
        500,
        "failed to add interface nosuch0 to sandbox: failed to get link by name \"nosuch0\": Link not found",
    ),
    (
        "NetworkDriver.Join",
        r#"{"InterfaceName":{"SrcName":"lo","DstPrefix":"eth"}}"#,
        500,
        "failed to add interface lo to sandbox: failed to set namespace on link \"lo\": invalid argument",
    ),
    ("NetworkDriver.Join", r#"+{"Gateway":"x"}"#, 500, "unable to parse Gateway \"x\"; rolled back"),
    ("NetworkDriver.Join", r#"+{"GatewayIPv6":"x"}"#, 500, "unable to parse GatewayIPv6 \"x\"; rolled back"),
    (
        "NetworkDriver.Join",
        r#"+{"Gateway":"10.99.0.1"}"#,
        500,
        "updating gateway endpoint: failed to set gateway: route for the gateway 10.99.0.1 could not be found: network is \
         unreachable",
    ),
    (
        "NetworkDriver.Join",
        r#"+{"StaticRoutes":[{"Destination":"x"}]}"#,
        500,
        "invalid CIDR address: x; rolled back",
    ),
    (
        "NetworkDriver.Join",
        r#"+{"StaticRoutes":[{"Destination":"10.5.0.0/16","NextHop":"10.99.0.1"}]}"#,
        500,
        "failed to add static route 10.5.0.0/16: route for the next hop 10.99.0.1 could not be found: network is \
         unreachable",
    ),
    (
        "NetworkDriver.ProgramExternalConnectivity",
        r#"{"Err":"no"}"#,
        500,
        "driver failed programming external connectivity on endpoint C (E): remote: no",
    ),
];

fn containers_that_are_refused(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 6)?;
    let network = bed.network("n", &["--ipam-driver", bed.plugin.name()])?;
    let before = bed.plugin.given();
    let a = case.create("a", &["--network", &network], &["sleep", "1000"])?;
    let b = case.sleeper("b", &["--network", "bridge"])?;
    for (method, answer, status, message) in REFUSED_CONTAINERS {
        let wrong = match answer.strip_prefix('+') {
            Some(members) => Reply::With(serde_json::from_str(members)?),
            None => reply(answer)?,
        };
        bed.plugin.set(method, wrong);
        bed.plugin.calls();
        let told = |container: &str, endpoint: &str| {
            message.replace(" C ", &format!(" {container} ")).replace(" N:", &format!(" {network}:")).replace("(E)", endpoint)
        };
        // Where there is a way out, there is one to everybody.
        let elsewhere = ": route for the next hop 10.99.0.1 could not be found";
        let started = case.http("POST", &format!("/containers/{a}/start"))?;
        let calls = bed.plugin.calls();
        let joined = calls.iter().find(|call| call.method == "NetworkDriver.Join");
        let endpoint = joined.map_or(Value::Null, |call| call.request["EndpointID"].clone());
        let endpoint = format!("({})", endpoint.as_str().unwrap_or_default());
        let wanted = format!("failed to set up container networking: {}", told(&a, &endpoint));
        equal((started.status, started.message()), (status, wanted)).context(answer)?;
        bed.plugin.wait_until(answer, |given| *given == before)?;
        // A gateway, and what is behind it, matter only to those who have no other.
        if method != "NetworkDriver.ProgramExternalConnectivity" && !message.contains("updating gateway") {
            let body = json!({"Container": b});
            let connected = case.http_json("POST", &format!("/networks/{network}/connect"), &body)?;
            equal((connected.status, connected.message()), (status, told(&b, "").replace(elsewhere, ""))).context(answer)?;
            bed.plugin.wait_until(answer, |given| *given == before)?;
            let links = case.docker(&["exec", &b, "ip", "-o", "link"]).ok()?;
            equal(links.lines().count(), 2)?;
        }
        bed.plugin.behave();
    }
    // After all that it works.
    case.docker(&["start", &a]).ok()?;
    case.docker(&["network", "connect", &network, &b]).ok()?;
    ensure!(reaches(case.host(), &b, &a), "not reached");
    bed.clean();
    bed.plugin.has_everything_back()
}

fn routes_of_a_plugin(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 7)?;
    let network = bed.network("n", &["--subnet", "10.240.7.0/24"])?;
    let routes = json!([
        {"Destination": "10.5.0.0/16", "RouteType": 0, "NextHop": "10.240.7.77"},
        {"Destination": "10.6.0.0/16", "RouteType": 1},
    ]);
    let join = json!({"StaticRoutes": routes, "GatewayIPv6": "fd00::1", "DisableGatewayService": true});
    bed.plugin.set("NetworkDriver.Join", Reply::With(join));
    let a = case.sleeper("a", &["--network", &network])?;
    let found = case.docker(&["exec", &a, "ip", "route"]).ok()?;
    for wanted in ["default via 10.240.7.1 dev eth0", "10.5.0.0/16 via 10.240.7.77 dev eth0", "10.6.0.0/16 dev eth0"] {
        has(&found, wanted)?;
    }
    // A gateway of a family the container does not have is of no use.
    equal(&endpoint(case, &a, &network)?["IPv6Gateway"], &json!(""))?;
    // Without a gateway and with nobody else as one there is no way out.
    bed.plugin.set("NetworkDriver.Join", Reply::With(json!({"Gateway": "", "DisableGatewayService": true})));
    let b = case.sleeper("b", &["--network", &network])?;
    let found = case.docker(&["exec", &b, "ip", "route"]).ok()?;
    equal(found.lines().count(), 1)?;
    ensure!(reaches(case.host(), &b, &a), "not reached");
    equal(&endpoint(case, &b, &network)?["Gateway"], &json!(""))?;
    // A route that leads everywhere needs no gateway.
    let everywhere = json!([{"Destination": "0.0.0.0/0", "RouteType": 1}]);
    let join = json!({"Gateway": "", "StaticRoutes": everywhere, "DisableGatewayService": true});
    bed.plugin.set("NetworkDriver.Join", Reply::With(join));
    let c = case.sleeper("c", &["--network", &network])?;
    has(&case.docker(&["exec", &c, "ip", "route"]).ok()?, "default dev eth0 scope link")?;
    // Another name.
    let calls = bed.plugin.calls();
    let of_c = calls.iter().rfind(|call| call.method == "NetworkDriver.Join").context("no join")?;
    ensure!(of_c.request["SandboxKey"].as_str().is_some_and(|key| key.contains("/netns/")), "{}", of_c.request);
    bed.clean();
    bed.plugin.has_everything_back()
}

fn addresses_of_links(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 8)?;
    let network = bed.network("n", &["--ipam-driver", "null"])?;
    let created = bed.request("NetworkDriver.CreateNetwork")?;
    equal(&created["IPv4Data"], &json!([{"AddressSpace": "null", "Pool": "0.0.0.0/0"}]))?;
    let found = case.http("GET", &format!("/networks/{network}"))?.json()?;
    equal(&found["IPAM"], &json!({"Driver": "null", "Options": {}, "Config": [{"Subnet": "0.0.0.0/0"}]}))?;
    let link = json!({"Interface": {"Address": "10.240.8.4/24", "MacAddress": "02:00:00:00:00:08"}});
    bed.plugin.set("NetworkDriver.CreateEndpoint", Reply::With(link));
    let a = case.sleeper("a", &["--network", &network])?;
    let of_a = endpoint(case, &a, &network)?;
    equal((&of_a["IPAddress"], &of_a["MacAddress"]), (&json!("10.240.8.4"), &json!("02:00:00:00:00:08")))?;
    has(&case.docker(&["exec", &a, "ip", "-4", "addr", "show", "eth0"]).ok()?, "10.240.8.4/24")?;
    // Others' subnets are not in its way.
    let beside = bed.made("m", &["--subnet", "10.240.8.0/24"])?;
    case.docker(&["network", "rm", &beside]).ok()?;
    // What somebody else gave is not the driver's to change.
    let own = bed.network("o", &["--subnet", "10.240.98.0/24"])?;
    let refused = case.docker(&["run", "--rm", "--name", &case.container("x"), "--network", &own, case.image(), "true"]);
    let wanted = "driver modified interface address: endpoint interface IP present (10.240.98.2/24). Cannot be modified \
                  with (10.240.8.4/24).; rolled back";
    has(&refused.err, wanted)?;
    let mac = ["--mac-address", "02:00:00:00:00:05"];
    let refused = case.docker(&[&["run", "--rm", "--network", &own], mac.as_slice(), &[case.image(), "true"]].concat());
    let wanted = "driver modified interface MAC address: endpoint interface MAC address present (02:00:00:00:00:05). \
                  Cannot be modified with 02:00:00:00:00:08.; rolled back";
    has(&refused.err, wanted)?;
    bed.clean();
    bed.plugin.has_everything_back()
}

fn what_plugins_say_they_are(case: &Case<'_>) -> Result<()> {
    let (activate, capabilities) = ("Plugin.Activate", "NetworkDriver.GetCapabilities");
    let lacks = |kind| {
        format!(
            "legacy plugin: Plugin does not implement the requested driver: plugin=\"P\", requested implementation=\"{kind}\""
        )
    };
    let unresolved = "could not resolve driver P in registry".to_owned();
    let garbage = "legacy plugin: invalid character 'g' looking for beginning of value".to_owned();
    let cases = [
        (activate, r#"{"Implements":["VolumeDriver"]}"#, true, 500, lacks("NetworkDriver")),
        (activate, r#"{"Implements":["NetworkDriver"]}"#, false, 500, lacks("IpamDriver")),
        (activate, "200 garbage", true, 500, garbage),
        (activate, "500 no", true, 500, "legacy plugin: Plugin.Activate: no".to_owned()),
        (capabilities, r#"{"Scope":"elsewhere"}"#, true, 500, unresolved.clone()),
        (capabilities, r#"{"Err":"no"}"#, true, 500, unresolved),
    ];
    for (number, (method, answer, driver, status, message)) in (0..).zip(cases) {
        // A daemon asks a plugin once.
        let name = format!("{}-{number}", case.prefix());
        let plugin = Plugin::start(case.host(), &name, 50 + number)?;
        plugin.set(method, reply(answer)?);
        let body = match driver {
            true => json!({"Name": case.network("n"), "Driver": name}),
            false => json!({"Name": case.network("n"), "IPAM": {"Driver": name}}),
        };
        let made = case.http_json("POST", "/networks/create", &body)?;
        equal((made.status, made.message()), (status, message.replace('P', &name).replace(&format!("{name}lugin"), "Plugin")))
            .context(answer)?;
        plugin.has_everything_back()?;
    }
    // Known on all hosts: shown so, and not to be made less.
    let bed = Bed::make(case, 9)?;
    bed.plugin.set(capabilities, Reply::Json(json!({"Scope": "global"})));
    let name = case.network("local");
    let local = bed.create(&name, json!({"Driver": bed.plugin.name(), "Scope": "local"}))?;
    equal(local, (403, format!("cannot downgrade network scope for {} networks", bed.plugin.name())))?;
    let global = bed.network("global", &["--subnet", "10.240.9.0/24"])?;
    equal(&case.http("GET", &format!("/networks/{global}"))?.json()?["Scope"], &json!("global"))?;
    case.sleeper("a", &["--network", &global])?;
    // Nobody of that name, and no name at all.
    for name in ["../etc", "a/b"] {
        let (status, message) = bed.create(&case.network("x"), json!({"Driver": name}))?;
        equal((status, message), (404, format!("plugin \"{name}\" not found")))?;
    }
    bed.clean();
    bed.plugin.has_everything_back()
}

fn hardware_addresses_are_told(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 10)?;
    bed.plugin.set("IpamDriver.GetCapabilities", Reply::Json(json!({"RequiresMACAddress": true})));
    let network = bed.made("n", &["--ipam-driver", bed.plugin.name()])?;
    bed.plugin.calls();
    let a = case.sleeper("a", &["--network", &network])?;
    let asked = bed.request("IpamDriver.RequestAddress")?;
    let of_a = endpoint(case, &a, &network)?;
    equal(&asked["Options"], &json!({"com.docker.network.endpoint.macaddress": of_a["MacAddress"]}))?;
    let link = case.docker(&["exec", &a, "cat", "/sys/class/net/eth0/address"]).ok()?;
    equal(&json!(link), &of_a["MacAddress"])?;
    bed.clean();
    bed.plugin.has_everything_back()
}

fn taking_back_is_refused(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 11)?;
    let network = bed.network("n", &["--ipam-driver", bed.plugin.name()])?;
    let a = case.sleeper("a", &["--network", &network])?;
    let refusals = [
        ("NetworkDriver.RevokeExternalConnectivity", "Err"),
        ("NetworkDriver.Leave", "Err"),
        ("NetworkDriver.DeleteEndpoint", "Err"),
        ("NetworkDriver.DeleteNetwork", "Err"),
        ("IpamDriver.ReleaseAddress", "Error"),
        ("IpamDriver.ReleasePool", "Error"),
    ];
    for (method, member) in refusals {
        bed.plugin.set(method, Reply::Json(json!({member: "never"})));
    }
    bed.plugin.calls();
    case.docker(&["network", "disconnect", &network, &a]).ok()?;
    let methods = bed.plugin.methods();
    let wanted = [
        "NetworkDriver.RevokeExternalConnectivity",
        "NetworkDriver.Leave",
        "NetworkDriver.DeleteEndpoint",
        "IpamDriver.ReleaseAddress",
    ];
    equal(methods, wanted.map(str::to_owned).to_vec())?;
    let links = case.docker(&["exec", &a, "ip", "-o", "link"]).ok()?;
    equal(links.lines().count(), 1)?;
    case.docker(&["network", "rm", &network]).ok()?;
    let methods = bed.plugin.methods();
    let wanted = ["IpamDriver.ReleaseAddress", "IpamDriver.ReleasePool", "NetworkDriver.DeleteNetwork"];
    equal(methods, wanted.map(str::to_owned).to_vec())
}

fn slow_and_endless(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 12)?;
    let network = bed.network("n", &["--ipam-driver", bed.plugin.name()])?;
    bed.plugin.set("NetworkDriver.CreateNetwork", Reply::Late(Duration::from_secs(2)));
    bed.plugin.set("NetworkDriver.Join", Reply::Late(Duration::from_secs(2)));
    std::thread::scope(|scope| {
        // One that is slow keeps nobody else from making networks.
        let slow = scope.spawn(|| bed.network("slow", &["--subnet", "10.240.92.0/24"]));
        bed.plugin.wait_until("the slow one", |given| given.iter().filter(|what| what.starts_with("network")).count() == 2)?;
        let quick = bed.made("quick", &[])?;
        if case.is_ours() {
            let listed = case.docker(&["network", "ls", "--format", "{{.Name}}"]).ok()?;
            ensure!(listed.lines().all(|name| !name.ends_with("-slow")), "it waited: {listed}");
        }
        case.docker(&["network", "rm", &quick]).ok()?;
        slow.join().map_err(|_| anyhow::anyhow!("panicked"))?
    })?;
    let a = case.sleeper("a", &["--network", &network])?;
    ensure!(reaches(case.host(), &a, "127.0.0.1"), "it runs");
    if case.is_ours() {
        // The stock daemon reads such an answer for ever.
        bed.plugin.set("NetworkDriver.CreateEndpoint", Reply::Endless);
        let name = case.container("b");
        let refused = case.docker(&["run", "--rm", "--name", &name, "--network", &network, case.image(), "true"]).err;
        has(&refused, "the answer has more than 1048576 bytes")?;
    }
    bed.plugin.behave();
    bed.clean();
    bed.plugin.has_everything_back()
}

fn away_and_back(case: &Case<'_>) -> Result<()> {
    let mut bed = Bed::make(case, 13)?;
    let network = bed.network("n", &["--subnet", "10.240.13.0/24"])?;
    let a = case.create("a", &["--network", &network], &["sleep", "1000"])?;
    // It comes back while it is called.
    bed.plugin.go_away();
    std::thread::scope(|scope| {
        let started = scope.spawn(|| case.docker(&["start", &a]).ok());
        std::thread::sleep(Duration::from_millis(300));
        bed.plugin.come_back()?;
        started.join().map_err(|_| anyhow::anyhow!("panicked"))?
    })?;
    // It hangs up once.
    bed.plugin.set("NetworkDriver.CreateEndpoint", Reply::HangUp);
    let plugin = &bed.plugin;
    std::thread::scope(|scope| {
        let started = scope.spawn(|| case.sleeper("b", &["--network", &network]));
        let begun = std::time::Instant::now();
        while !plugin.calls().iter().any(|call| call.method == "NetworkDriver.CreateEndpoint") {
            ensure!(begun.elapsed() < compat_tests::LIMIT, "not called");
            std::thread::sleep(compat_tests::PAUSE);
        }
        plugin.behave();
        started.join().map_err(|_| anyhow::anyhow!("panicked"))?.map(drop)
    })
    .or_else(|error| if case.is_ours() { Err(error) } else { Ok(()) })?;
    // It does not come back.
    bed.plugin.go_away();
    let (status, message) = bed.create(&case.network("o"), json!({"Driver": bed.plugin.name()}))?;
    equal(status, 500)?;
    has(&message, "/NetworkDriver.CreateNetwork\": dial unix /run/docker/plugins/")?;
    has(&message, ".sock: connect: no such file or directory")?;
    bed.plugin.come_back()?;
    bed.clean();
    if case.is_ours() { bed.plugin.has_everything_back() } else { Ok(()) }
}

/// The daemon dies, with containers on networks of a plugin's; the plugin is away when the next one starts.
fn killed_and_started_again(case: &Case<'_>) -> Result<()> {
    if !case.is_ours() {
        // Its containers die with it, or need flags of their own.
        return Ok(());
    }
    let mut daemon = Daemon::start(&[])?;
    let host = daemon.host().clone();
    let image = suite::import(&host, case.prefix())?;
    let name = format!("{}-p", case.prefix());
    let mut plugin = Plugin::start(&host, &name, 14)?;
    let docker = |host: &Host, arguments: &[&str]| host.docker(arguments, "").ok();
    plugin.set("IpamDriver.GetCapabilities", Reply::Json(json!({"RequiresRequestReplay": true})));
    docker(&host, &["network", "create", "-d", &name, "--ipam-driver", &name, "n"])?;
    docker(&host, &["network", "create", "--ipam-driver", &name, "--subnet", "10.240.94.0/24", "m"])?;
    docker(&host, &["network", "create", "-d", &name, "--subnet", "10.240.95.0/24", "gone"])?;
    let run = |name: &str, network: &str| {
        docker(&host, &["run", "-d", "--name", name, "--network", network, &image, "sleep", "1000"])
    };
    for (container, network) in [("ka", "n"), ("kb", "n"), ("kc", "n"), ("kd", "m"), ("ke", "m")] {
        run(container, network)?;
    }
    docker(&host, &["network", "connect", "n", "kd"])?;
    let before = plugin.given();
    let inspect = |host: &Host, name: &str| docker(host, &["inspect", "-f", "{{json .NetworkSettings.Networks}}", name]);
    let seen: Vec<String> = ["ka", "kb", "kd", "ke"].iter().map(|name| inspect(&host, name)).collect::<Result<_>>()?;
    let pid = docker(&host, &["inspect", "-f", "{{.State.Pid}}", "kc"])?;

    daemon.kill()?;
    plugin.go_away();
    plugin.calls();
    // It ends while nobody looks.
    ensure!(std::process::Command::new("kill").args(["-9", &pid]).status()?.success(), "kill");
    daemon.restart()?;
    let host = daemon.host().clone();
    for (name, seen) in ["ka", "kb", "kd", "ke"].iter().zip(&seen) {
        equal(&inspect(&host, name)?, seen)?;
    }
    ensure!(reaches(&host, "ka", "kb") && reaches(&host, "kd", "ka") && reaches(&host, "kd", "ke"), "traffic");
    plugin.come_back()?;
    // The endpoint of the one that ended is taken back, and nothing else.
    let endpoints = |given: &std::collections::BTreeSet<String>| {
        given.iter().filter(|what| what.starts_with("endpoint")).count()
    };
    let all = endpoints(&before);
    plugin.wait_until("an endpoint of the dead", |given| endpoints(given) == all - 1)?;
    // Its link went with its namespace.
    equal(plugin.lost().len(), 1)?;
    let begun = std::time::Instant::now();
    let mut replayed = Vec::new();
    let missing = |replayed: &[String]| {
        let addresses = plugin.given().into_iter().filter_map(|what| what.strip_prefix("address ").map(str::to_owned));
        addresses.filter(|address| !replayed.contains(address)).collect::<Vec<_>>()
    };
    while !missing(&replayed).is_empty() {
        ensure!(begun.elapsed() < compat_tests::LIMIT, "not replayed: {:?}", missing(&replayed));
        let asked = plugin.calls().into_iter().filter(|call| call.method == "IpamDriver.RequestAddress");
        replayed.extend(asked.filter_map(|call| call.request["Address"].as_str().map(str::to_owned)));
        std::thread::sleep(compat_tests::PAUSE);
    }
    // Everything works as before: leaving, joining, ending, removing.
    docker(&host, &["network", "disconnect", "n", "kd"])?;
    let links = docker(&host, &["exec", "kd", "ip", "-o", "link"])?;
    equal(links.lines().count(), 2)?;
    docker(&host, &["network", "connect", "n", "kd"])?;
    docker(&host, &["start", "kc"])?;
    ensure!(reaches(&host, "kc", "ka") && reaches(&host, "kc", "kd"), "after all");

    // One network is removed while the plugin is away: the next daemon tells it.
    plugin.go_away();
    docker(&host, &["network", "rm", "gone"])?;
    plugin.come_back()?;
    daemon.kill()?;
    daemon.restart()?;
    let host = daemon.host().clone();
    let network = before.iter().filter(|what| what.starts_with("network")).count();
    plugin.wait_until("a removed network", |given| {
        given.iter().filter(|what| what.starts_with("network")).count() == network - 1
    })?;
    docker(&host, &["rm", "-f", "ka", "kb", "kc", "kd", "ke"])?;
    docker(&host, &["network", "rm", "n", "m"])?;
    plugin.has_everything_back()?;
    daemon.stop()
}
