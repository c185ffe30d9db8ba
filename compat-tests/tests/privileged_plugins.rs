//! Networks whose links a plugin makes, and addresses that a plugin gives: the plugin is one of the test's own, which makes
//! real links. What it is told, what containers get of it, and that it gets everything back.

mod plugged;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::certificate::Authority;
use compat_tests::check::{equal, has};
use compat_tests::front::Front;
use compat_tests::plugin::Reply;
use compat_tests::private::Private;
use compat_tests::{Case, SERVER, Suite, tests};
use plugged::{Bed, endpoint, reaches};
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
            routes_of_a_plugin,
            addresses_of_links,
            hardware_addresses_are_told,
            found_by_files,
            spoken_to_by_tls,
            a_way_out_by_the_daemon
        ],
    }
    .main()
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
    let prunable =
        bed.made("o", &["--ipam-driver", bed.plugin.name(), "--subnet", "10.240.93.0/24", "--label", &network])?;
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

/// The network that containers get out by whose own do not lead anywhere.
const WAY_OUT: &str = "docker_gwbridge";

fn a_way_out_by_the_daemon(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 18)?;
    let network = bed.network("n", &["--subnet", "10.240.18.0/24"])?;
    bed.plugin.set("NetworkDriver.Join", Reply::With(json!({"Gateway": ""})));
    let a = case.start("a", &["--network", &network, "-p", "18018:80"], &SERVER)?;
    let gateway = case.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", WAY_OUT]).ok()?;
    let routes = case.docker(&["exec", &a, "ip", "route"]).ok()?;
    has(&routes, &format!("default via {gateway} dev eth1"))?;
    has(&routes, "10.240.18.0/24 dev eth0")?;
    ensure!(reaches(case.host(), &a, &gateway), "the host is not reached");
    // The container is not seen on it, but it is seen to be used.
    let settings = case.inspect_json(&a)?["NetworkSettings"].clone();
    equal(settings["Networks"].as_object().map(|all| all.keys().cloned().collect()), Some(vec![network.clone()]))?;
    equal(&settings["Networks"][&network]["Gateway"], &json!(""))?;
    let sandbox = settings["SandboxID"].as_str().and_then(|id| id.get(..12)).context("no sandbox")?.to_owned();
    let shown = case.http("GET", &format!("/networks/{WAY_OUT}"))?.json()?;
    let named: Vec<_> =
        shown["Containers"].as_object().into_iter().flatten().map(|(_, it)| it["Name"].clone()).collect();
    equal(named, vec![json!(format!("gateway_{sandbox}"))])?;
    let wanted = json!({
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.enable_ip_masquerade": "true",
        "com.docker.network.bridge.name": WAY_OUT,
    });
    equal((&shown["Options"], &shown["Driver"], &shown["Internal"]), (&wanted, &json!("bridge"), &json!(false)))?;
    let refused = case.docker(&["network", "rm", WAY_OUT]);
    has(&refused.err, &format!("network {WAY_OUT} has active endpoints (name:\"gateway_{sandbox}\" id:"))?;
    equal(case.docker(&["network", "disconnect", WAY_OUT, &a]).code, 1)?;
    // Ports lead there; the plugin is not asked for them.
    has(&case.docker(&["port", &a]).ok()?, "80/tcp -> 0.0.0.0:18018")?;
    if case.is_ours() {
        // The stock daemon (28.5) says so and does not do it.
        case.fetch(&["--network", "host"], "http://127.0.0.1:18018/")?;
    }
    ensure!(!bed.plugin.methods().iter().any(|method| method.contains("External")), "it is the daemon's");
    case.docker(&["rm", "-f", &a]).ok()?;
    // There is nothing to lead out of a network that is to be left alone.
    let closed = bed.network("j", &["--internal", "--subnet", "10.240.93.0/24"])?;
    let c = case.sleeper("d", &["--network", &closed])?;
    equal(case.docker(&["exec", &c, "ip", "-o", "-4", "addr"]).ok()?.lines().count(), 2)?;
    if case.is_ours() {
        // The stock daemon never gives its own endpoints back.
        case.docker(&["network", "rm", WAY_OUT]).ok()?;
        comes_and_goes(case, &bed, &network)?;
    }
    bed.clean();
    bed.plugin.has_everything_back()
}

/// A way out that is there when it is needed, with the published ports.
fn comes_and_goes(case: &Case<'_>, bed: &Bed<'_>, network: &str) -> Result<()> {
    let user = &bed.made("u", &[])?;
    let on_two = |other: &str| {
        let b = case.create("b", &["--network", network], &["sleep", "1000"])?;
        case.docker(&["network", "connect", other, &b]).ok()?;
        case.docker(&["start", &b]).ok()?;
        let addresses = case.docker(&["exec", &b, "ip", "-o", "-4", "addr"]).ok()?.lines().count();
        case.docker(&["rm", "-f", &b]).ok()?;
        Ok::<_, anyhow::Error>(addresses)
    };
    equal(on_two(user)?, 3)?;
    ensure!(case.docker(&["network", "inspect", WAY_OUT]).code == 1, "it was not needed");
    equal(on_two(&bed.made("i", &["--internal"])?)?, 4).context("another that is internal is no reason to stay in")?;
    let a = case.start("c", &["--network", network, "-p", "18018:80"], &SERVER)?;
    let id = case.inspect(&a, "{{.Id}}");
    let way_out =
        || Ok::<_, anyhow::Error>(case.http("GET", &format!("/networks/{WAY_OUT}"))?.json()?["Containers"].clone());
    let stands = |there: bool, networks: usize| {
        let addresses = case.docker(&["exec", &a, "ip", "-o", "-4", "addr"]).ok()?;
        equal(addresses.lines().count(), 1 + networks + usize::from(there))?;
        equal(way_out()?.get(&id).is_some_and(|it| it["Name"] != json!(a)), there)?;
        case.fetch(&["--network", "host"], "http://127.0.0.1:18018/")
    };
    stands(true, 1)?;
    case.docker(&["network", "connect", user, &a]).ok()?;
    stands(false, 2).context("one that leads out has come")?;
    case.docker(&["network", "disconnect", user, &a]).ok()?;
    stands(true, 1).context("and gone")?;
    case.docker(&["network", "connect", WAY_OUT, &a]).ok()?;
    stands(false, 2).context("it is asked for itself")?;
    case.docker(&["network", "disconnect", WAY_OUT, &a]).ok()?;
    stands(true, 1).context("not any more")?;
    let refused = case.docker(&["network", "connect", "--ip", "10.9.9.9", WAY_OUT, &a]);
    ensure!(refused.code == 1 && !refused.err.is_empty(), "{refused:?}");
    stands(true, 1).context("as before what failed")?;
    case.docker(&["network", "disconnect", network, &a]).ok()?;
    equal(way_out()?, json!({})).context("there is nothing to get out of")?;
    bed.plugin.set("NetworkDriver.Join", Reply::Json(json!({"Err": "no"})));
    let refused = case.docker(&["network", "connect", network, &a]);
    ensure!(refused.code == 1, "{refused:?}");
    equal(way_out()?, json!({})).context("nothing came of it")?;
    bed.plugin.set("NetworkDriver.Join", Reply::With(json!({"Gateway": ""})));
    case.docker(&["network", "connect", network, &a]).ok()?;
    stands(true, 1).context("at last")?;
    case.docker(&["rm", "-f", &a]).ok()?;
    case.docker(&["network", "rm", WAY_OUT]).ok().map(drop)
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
    // A network may have no link at all.
    bed.plugin.set("NetworkDriver.Join", Reply::Json(json!({"DisableGatewayService": true})));
    let b = case.sleeper("b", &["--network", "bridge"])?;
    bed.plugin.calls();
    case.docker(&["network", "connect", &network, &b]).ok()?;
    let links = case.docker(&["exec", &b, "ip", "-o", "link"]).ok()?;
    equal(links.lines().count(), 2)?;
    case.docker(&["network", "disconnect", &network, &b]).ok()?;
    has(&bed.plugin.methods().join(" "), "NetworkDriver.Leave NetworkDriver.DeleteEndpoint")?;
    // What somebody else gave is not the driver's to change.
    let own = bed.network("o", &["--subnet", "10.240.98.0/24"])?;
    let refused =
        case.docker(&["run", "--rm", "--name", &case.container("x"), "--network", &own, case.image(), "true"]);
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

fn found_by_files(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 15)?;
    let etc = tempfile::tempdir()?;
    let dir = etc.path().join("plugins");
    std::fs::create_dir_all(dir.join("own"))?;
    let address = format!("unix:///run/docker/plugins/{}.sock", bed.plugin.name());
    std::fs::write(dir.join("text.spec"), format!("{address}\n"))?;
    std::fs::write(dir.join("own/own.json"), json!({"Name": "other", "Addr": address}).to_string())?;
    std::fs::write(dir.join("wrong.spec"), "nonsense")?;
    let daemon = Private::start(case.host(), &[], Some(etc.path()))?;
    let docker = |arguments: &[&str]| daemon.host().docker(arguments, "");
    for (number, name) in ["text", "own"].into_iter().enumerate() {
        let subnet = format!("10.241.{number}.0/24");
        docker(&["network", "create", "-d", name, "--subnet", &subnet, name]).ok()?;
        docker(&["network", "rm", name]).ok()?;
        bed.plugin.has_everything_back()?;
    }
    has(&docker(&["network", "create", "-d", "wrong", "n"]).err, "legacy plugin: Unknown protocol")
}

/// Where the plugin is found by TLS, in a network of the test's own.
const TLS_PORT: u16 = 4443;

fn spoken_to_by_tls(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 16)?;
    let etc = tempfile::tempdir()?;
    let at = |name: &str| etc.path().join(name);
    // As the daemon finds it.
    let seen = |name: &str| format!("/etc/docker/{name}");
    let (ours, other) = (Authority::new("plugins")?, Authority::new("somebody else")?);
    std::fs::write(at("ours.pem"), ours.pem())?;
    std::fs::write(at("other.pem"), other.pem())?;
    let server = ours.server(etc.path(), "server", &["127.0.0.1"])?;
    ours.client(etc.path(), "client")?;
    other.client(etc.path(), "stranger")?;
    let shows =
        |name: &str| json!({"CertFile": seen(&format!("{name}.cert")), "KeyFile": seen(&format!("{name}.key"))});
    let trusts = |authority: &str| {
        let mut tls = shows("client");
        tls["CAFile"] = json!(seen(authority));
        tls
    };
    let spoken_to = [("checked", trusts("ours.pem")), ("unchecked", shows("client"))];
    let refused = [
        ("another", trusts("other.pem"), "certificate signed by unknown authority"),
        ("lost", trusts("nowhere.pem"), "nowhere.pem"),
        ("stranger", shows("stranger"), "tls: unknown certificate authority"),
    ];
    std::fs::create_dir(at("plugins"))?;
    let all = spoken_to.iter().map(|(name, tls)| (name, tls)).chain(refused.iter().map(|(name, tls, _)| (name, tls)));
    for (name, tls) in all {
        let spec = json!({"Name": name, "Addr": format!("https://127.0.0.1:{TLS_PORT}"), "TLSConfig": tls});
        std::fs::write(at(&format!("plugins/{name}.json")), spec.to_string())?;
    }
    let daemon = Private::start(case.host(), &[], Some(etc.path()))?;
    let _front = Front::start(&daemon.network()?, TLS_PORT, &server, &at("ours.pem"), bed.plugin.socket())?;
    let docker = |arguments: &[&str]| daemon.host().docker(arguments, "");
    for (number, (name, _)) in spoken_to.iter().enumerate() {
        let subnet = format!("10.242.{number}.0/24");
        docker(&["network", "create", "-d", name, "--subnet", &subnet, name]).ok()?;
        docker(&["network", "rm", name]).ok()?;
        bed.plugin.has_everything_back()?;
    }
    for (name, _, why) in &refused {
        has(&docker(&["network", "create", "-d", name, "n"]).err, why).context(*name)?;
    }
    ensure!(bed.plugin.given().is_empty(), "{:?}", bed.plugin.given());
    Ok(())
}
