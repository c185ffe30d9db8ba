//! User-defined bridge networks: making, finding and removing them, what goes where by real traffic, addresses asked for,
//! several networks, connecting and disconnecting. What is "the host" here is a container in the host's network.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has};
use compat_tests::{Case, SERVER, Suite, tests};
use serde_json::{Value, json};

fn main() -> ExitCode {
    Suite {
        name: "networks",
        flags: &[],
        tests: tests![
            made_and_inspected,
            refused_networks,
            names_and_removal,
            filters,
            prunes,
            addresses_asked_for,
            refused_addresses,
            who_reaches_whom,
            internal_networks,
            containers_apart,
            published_ports,
            several_networks_at_once,
            connected_while_running,
            connected_before_the_start,
            refused_connections,
            events,
            many_at_once,
        ],
    }
    .main()
}

/// A number of this case's own.
fn number(case: &Case<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    case.prefix().hash(&mut hasher);
    hasher.finish()
}

/// The first two parts of addresses no other case uses.
fn range(case: &Case<'_>) -> String {
    let number = number(case);
    format!("10.{}.{}", 40 + case.number(), number % 250)
}

fn make(case: &Case<'_>, what: &str, options: &[&str]) -> Result<String> {
    let name = case.network(what);
    case.docker(&[&["network", "create"], options, &[&name]].concat()).ok()?;
    Ok(name)
}

fn inspected(case: &Case<'_>, network: &str) -> Result<Value> {
    case.http("GET", &format!("/networks/{network}"))?.json()
}

fn address(case: &Case<'_>, container: &str, network: &str) -> String {
    case.inspect(container, &format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}"))
}

/// Whether a packet from one running container comes back from an address.
fn reaches(case: &Case<'_>, from: &str, address: &str) -> bool {
    case.docker(&["exec", from, "ping", "-c", "1", "-W", "2", address]).code == 0
}

fn inside(case: &Case<'_>, container: &str, command: &[&str]) -> Result<String> {
    case.docker(&[&["exec", container], command].concat()).ok()
}

/// Interfaces but loopback with their addresses.
fn interfaces(case: &Case<'_>, container: &str) -> Result<Vec<String>> {
    let text = inside(case, container, &["ip", "-4", "-o", "addr"])?;
    let words = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(format!("{} {}", words.get(1)?, words.get(3)?))
    };
    Ok(text.lines().filter_map(words).filter(|line| !line.starts_with("lo ")).collect())
}

fn default_route(case: &Case<'_>, container: &str) -> Result<String> {
    let routes = inside(case, container, &["ip", "route"])?;
    let line = routes.lines().find(|line| line.starts_with("default"));
    Ok(line.unwrap_or_default().split_whitespace().take(5).collect::<Vec<_>>().join(" "))
}

fn made_and_inspected(case: &Case<'_>) -> Result<()> {
    let range = range(case);
    let simple = make(case, "simple", &[])?;
    let found = inspected(case, &simple)?;
    let subnet = found["IPAM"]["Config"][0]["Subnet"].as_str().context("a subnet")?.to_owned();
    let gateway = found["IPAM"]["Config"][0]["Gateway"].as_str().context("a gateway")?;
    ensure!(subnet.ends_with("/16") || subnet.ends_with("/20"), "{subnet}");
    equal(gateway, &format!("{}.1", subnet.rsplit_once('.').context("an address")?.0))?;
    let wanted = json!({
        "Scope": "local", "Driver": "bridge", "EnableIPv4": true, "EnableIPv6": false, "Internal": false,
        "Attachable": false, "Ingress": false, "ConfigFrom": {"Network": ""}, "ConfigOnly": false, "Containers": {},
        "Options": {}, "Labels": {},
    });
    for (key, value) in wanted.as_object().context("an object")? {
        equal(&found[key], value)?;
    }
    equal(&found["IPAM"]["Options"], &json!({}))?;

    let bridge = format!("t{:x}", number(case) % 0xffff_ffff);
    let full = make(
        case,
        "full",
        &[
            "--subnet",
            &format!("{range}.0/24"),
            "--gateway",
            &format!("{range}.9"),
            "--ip-range",
            &format!("{range}.64/26"),
            "--aux-address",
            &format!("router={range}.65"),
            "--label",
            "a=b",
            "--internal",
            "--attachable",
            "--opt",
            &format!("com.docker.network.bridge.name={bridge}"),
            "--opt",
            "com.docker.network.driver.mtu=1400",
        ],
    )?;
    let found = inspected(case, &full)?;
    let config = json!([{"Subnet": format!("{range}.0/24"), "IPRange": format!("{range}.64/26"),
        "Gateway": format!("{range}.9"), "AuxiliaryAddresses": {"router": format!("{range}.65")}}]);
    equal(&found["IPAM"]["Config"], &config)?;
    equal((&found["Internal"], &found["Attachable"]), (&json!(true), &json!(true)))?;
    equal(&found["Labels"], &json!({"a": "b"}))?;
    equal(&found["Options"]["com.docker.network.bridge.name"], &json!(bridge))?;
    // The first free address of the range that is nobody else's; the MTU asked for.
    let name = case.sleeper("one", &["--network", &full])?;
    equal(address(case, &name, &full), format!("{range}.64"))?;
    let second = case.sleeper("two", &["--network", &full])?;
    equal(address(case, &second, &full), format!("{range}.66"))?;
    equal(inside(case, &name, &["cat", "/sys/class/net/eth0/mtu"])?.as_str(), "1400")?;
    let links =
        case.docker(&["run", "--rm", "--network", "host", case.image(), "ip", "-4", "addr", "show", &bridge]).ok()?;
    has(&links, &format!("inet {range}.9/24"))?;
    // Without a gateway named the first address is it, and is not shown.
    let open = make(
        case,
        "open",
        &["--subnet", &format!("{}.0.0/24", range.rsplit_once('.').context("parts")?.0.replace("10.", "11."))],
    )?;
    ensure!(inspected(case, &open)?["IPAM"]["Config"][0].get("Gateway").is_none());
    // On the default bridge's own network the containers are listed, too.
    let found = inspected(case, &full)?;
    let id = case.inspect(&name, "{{.Id}}");
    equal(&found["Containers"][&id]["IPv4Address"], &json!(format!("{range}.64/24")))?;
    equal(&found["Containers"][&id]["Name"], &json!(name))
}

fn refused_networks(case: &Case<'_>) -> Result<()> {
    let range = range(case);
    let first = make(case, "first", &["--subnet", &format!("{range}.0/24")])?;
    let id = inspected(case, &first)?["Id"].as_str().context("an id")?.to_owned();
    ensure!(id.len() == 64, "{id}");
    let name = case.network("refused");
    let ipam = |config: Value| json!({"Name": name, "IPAM": {"Config": [config]}});
    let option = |key: &str, value: &str| json!({"Name": name, "Options": {key: value}});
    let refusals = [
        (json!({"Name": ""}), 400, "invalid name: name is empty".to_owned()),
        (json!({"Name": first}), 409, format!("network with name {first} already exists")),
        (json!({"Name": "bridge"}), 403, "operation is not permitted on predefined bridge network ".to_owned()),
        (json!({"Name": name, "Driver": "nosuch"}), 404, "plugin \"nosuch\" not found".to_owned()),
        (json!({"Name": name, "Driver": "host"}), 403, "only one instance of \"host\" network is allowed".to_owned()),
        (
            json!({"Name": name, "Scope": "swarm"}),
            403,
            "cannot create a swarm scoped network when swarm is not active".to_owned(),
        ),
        (json!({"Name": name, "EnableIPv4": false}), 400, "IPv4 or IPv6 must be enabled".to_owned()),
        (json!({"Name": name, "IPAM": {"Driver": "nope"}}), 404, "plugin \"nope\" not found".to_owned()),
        (
            ipam(json!({"Subnet": format!("{range}.128/25")})),
            403,
            "invalid pool request: Pool overlaps with other one on this address space".to_owned(),
        ),
        (
            ipam(json!({"Subnet": "x"})),
            400,
            "invalid network config:\ninvalid subnet x: invalid CIDR block notation".to_owned(),
        ),
        (
            ipam(json!({"Subnet": "10.3.0.1/24"})),
            400,
            "invalid network config:\ninvalid subnet 10.3.0.1/24: it should be 10.3.0.0/24".to_owned(),
        ),
        (
            ipam(json!({"Subnet": "10.3.0.0/24", "Gateway": "x"})),
            400,
            "invalid network config:\ninvalid gateway x: invalid address".to_owned(),
        ),
        (
            ipam(json!({"Subnet": "10.3.0.0/24", "Gateway": "10.4.0.1"})),
            400,
            "invalid network config:\ninvalid gateway 10.4.0.1: parent subnet 10.3.0.0/24 doesn't contain this address".to_owned(),
        ),
        (
            ipam(json!({"Subnet": "10.3.0.0/24", "IPRange": "10.4.0.0/25"})),
            400,
            "invalid network config:\ninvalid ip-range 10.4.0.0/25: parent subnet 10.3.0.0/24 doesn't contain ip-range".to_owned(),
        ),
        (
            ipam(json!({"Subnet": "10.3.0.0/24", "AuxiliaryAddresses": {"a": "10.4.0.1"}})),
            400,
            "invalid network config:\ninvalid auxiliary address a: parent subnet 10.3.0.0/24 doesn't contain this address".to_owned(),
        ),
        (
            option("com.docker.network.bridge.enable_icc", "maybe"),
            400,
            "failed to parse com.docker.network.bridge.enable_icc value: maybe (strconv.ParseBool: parsing \"maybe\": \
             invalid syntax)"
                .to_owned(),
        ),
        (option("com.docker.network.driver.mtu", "-1"), 400, "invalid MTU number: -1".to_owned()),
        (
            option("com.docker.network.bridge.host_binding_ipv4", "x"),
            400,
            "failed to parse com.docker.network.bridge.host_binding_ipv4 value: x (nil ip)".to_owned(),
        ),
    ];
    for (body, status, message) in &refusals {
        let answer = case.http_json("POST", "/networks/create", body)?;
        let told = answer.json()?["message"].as_str().unwrap_or_default().to_owned();
        ensure!((answer.status, &told) == (*status, message), "{body}: {} {told:?}", answer.status);
    }
    equal(case.http("GET", &format!("/networks/{name}"))?.status, 404)
}

fn names_and_removal(case: &Case<'_>) -> Result<()> {
    let network = make(case, "one", &[])?;
    let id = inspected(case, &network)?["Id"].as_str().context("an id")?.to_owned();
    equal(inspected(case, &id)?["Name"].as_str(), Some(network.as_str()))?;
    equal(inspected(case, &id[..20])?["Name"].as_str(), Some(network.as_str()))?;
    let name = case.sleeper("a", &["--network", &id])?;
    has(&case.inspect(&name, "{{json .NetworkSettings.Networks}}"), &format!("{network:?}"))?;
    let endpoint = case.inspect(&name, &format!("{{{{(index .NetworkSettings.Networks {network:?}).EndpointID}}}}"));
    let refused = case.docker(&["network", "rm", &network]);
    let text = format!(
        "error while removing network: network {network} has active endpoints (name:\"{name}\" id:\"{}\")",
        &endpoint[..12]
    );
    has(&refused.err, &text)?;
    equal(case.http("DELETE", &format!("/networks/{network}"))?.status, 403)?;
    case.docker(&["stop", "-t", "0", &name]).ok()?;
    // One that does not run holds nothing.
    equal(case.docker(&["network", "rm", &id[..12]]).ok()?, id[..12].to_owned())?;
    let gone = case.docker(&["start", &name]);
    has(&gone.err, "failed to set up container networking: network ")?;
    has(&gone.err, "not found")?;
    has(&case.docker(&["network", "rm", &network]).err, &format!("network {network} not found"))?;
    for predefined in ["bridge", "host", "none"] {
        let text = format!("{predefined} is a pre-defined network and cannot be removed");
        has(&case.docker(&["network", "rm", predefined]).err, &text)?;
    }
    Ok(())
}

fn filters(case: &Case<'_>) -> Result<()> {
    let label = format!("l{:x}=1", number(case));
    let used = make(case, "used", &["--label", &label])?;
    let free = make(case, "free", &[])?;
    case.sleeper("a", &["--network", &used])?;
    let names = |filters: &[&str]| -> Result<Vec<String>> {
        let options: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        let text = case.docker(&[&["network", "ls", "--format", "{{.Name}}"], &options[..]].concat()).ok()?;
        Ok(text
            .lines()
            .filter(|name| name.starts_with(case.prefix()) || !name.contains('-'))
            .map(str::to_owned)
            .collect())
    };
    let mine = format!("name={}", case.prefix());
    equal(names(&[&format!("label={label}")])?, vec![used.clone()])?;
    // The stock daemon takes every network of users' for dangling.
    ensure!(names(&[&mine, "dangling=true"])?.contains(&free));
    ensure!(!names(&[&mine, "dangling=false"])?.contains(&free));
    if case.is_ours() {
        equal(names(&[&mine, "dangling=false"])?, vec![used.clone()])?;
    }
    equal(names(&[&mine, "driver=bridge", "scope=local", "type=custom"])?, vec![free.clone(), used.clone()])?;
    equal(names(&[&mine, "type=builtin"])?, Vec::new())?;
    equal(names(&["type=builtin"])?, ["bridge", "host", "none"].map(str::to_owned).to_vec())?;
    let id = inspected(case, &used)?["Id"].as_str().context("an id")?.to_owned();
    equal(names(&[&format!("id={}", &id[..12])])?, vec![used])?;
    has(&case.docker(&["network", "ls", "--filter", "type=x"]).err, "invalid filter: 'type'='x'")?;
    has(&case.docker(&["network", "ls", "--filter", "foo=x"]).err, "invalid filter 'foo'")?;
    has(&case.docker(&["network", "ls", "--filter", "dangling=x"]).err, "invalid value for filter 'dangling'")
}

fn prunes(case: &Case<'_>) -> Result<()> {
    let label = format!("p{:x}", number(case));
    let (used, free) = (make(case, "used", &["--label", &label])?, make(case, "free", &["--label", &label])?);
    case.sleeper("a", &["--network", &used])?;
    let prune = |filters: &[&str]| {
        let filters: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        case.docker(&[&["network", "prune", "-f"], &filters[..]].concat()).ok()
    };
    equal(prune(&[&format!("label={label}"), "until=1h"])?, String::new())?;
    equal(prune(&[&format!("label={label}")])?, format!("Deleted Networks:\n{free}"))?;
    equal(case.http("GET", &format!("/networks/{free}"))?.status, 404)?;
    equal(case.http("GET", &format!("/networks/{used}"))?.status, 200)
}

fn addresses_asked_for(case: &Case<'_>) -> Result<()> {
    let range = range(case);
    let network = make(case, "n", &["--subnet", &format!("{range}.0/24")])?;
    let wanted = format!("{range}.77");
    let options = [
        "--network",
        &network,
        "--ip",
        &wanted,
        "--mac-address",
        "02:42:0a:01:02:03",
        "--network-alias",
        "alias",
        "--hostname",
        "alpha",
    ];
    let name = case.sleeper("a", &options)?;
    let check = || -> Result<()> {
        let id = case.inspect(&name, "{{.Id}}");
        let endpoint = &case.inspect_json(&name)?["NetworkSettings"]["Networks"][&network];
        let facts = json!({
            "IPAMConfig": {"IPv4Address": wanted}, "Links": null, "Aliases": ["alias"], "MacAddress": "02:42:0a:01:02:03",
            "DriverOpts": null, "GwPriority": 0, "Gateway": format!("{range}.1"), "IPAddress": wanted, "IPPrefixLen": 24,
            "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
            "DNSNames": [name, "alias", &id[..12], "alpha"],
        });
        for (key, value) in facts.as_object().context("an object")? {
            ensure!(&endpoint[key] == value, "{key}: {}, not {value}", endpoint[key]);
        }
        equal(interfaces(case, &name)?, vec![format!("eth0 {wanted}/24")])?;
        equal(inside(case, &name, &["cat", "/sys/class/net/eth0/address"])?.as_str(), "02:42:0a:01:02:03")?;
        equal(default_route(case, &name)?, format!("default via {range}.1 dev eth0"))?;
        has(&inside(case, &name, &["cat", "/etc/hosts"])?, &format!("{wanted}\talpha"))
    };
    check()?;
    // Settings of the default bridge are not those of other networks.
    equal(case.inspect(&name, "[{{.NetworkSettings.IPAddress}}]").as_str(), "[]")?;
    equal(case.inspect(&name, "{{.HostConfig.NetworkMode}}"), network.clone())?;
    let taken = case.docker(&["run", "--rm", "--network", &network, "--ip", &wanted, case.image(), "true"]);
    has(&taken.err, "Address already in use")?;
    case.docker(&["restart", "-t", "0", &name]).ok()?;
    check()
}

fn refused_addresses(case: &Case<'_>) -> Result<()> {
    let range = range(case);
    let (own, drawn) = (make(case, "own", &["--subnet", &format!("{range}.0/24")])?, make(case, "drawn", &[])?);
    let run = |network: &str, ip: &str| {
        case.docker(&["run", "--rm", "--network", network, "--ip", ip, case.image(), "true"]).err
    };
    let text = run(&own, "10.3.3.3");
    has(&text, &format!("invalid config for network {own}: invalid endpoint settings:"))?;
    has(&text, "no configured subnet or ip-range contain the IP address 10.3.3.3")?;
    has(
        &run(&drawn, "10.3.3.3"),
        "user specified IP address is supported only when connecting to networks with user configured subnets",
    )?;
    has(&run("bridge", "172.17.0.77"), "user specified IP address is supported on user defined networks only")?;
    has(&run(&own, &format!("{range}.1")), "Address already in use")
}

fn who_reaches_whom(case: &Case<'_>) -> Result<()> {
    let (one, other) = (make(case, "one", &[])?, make(case, "other", &[])?);
    let a = case.start("a", &["--network", &one], &SERVER)?;
    let b = case.sleeper("b", &["--network", &one])?;
    let c = case.sleeper("c", &["--network", &other])?;
    let d = case.sleeper("d", &["--network", "bridge"])?;
    let (ip_a, ip_c) = (address(case, &a, &one), address(case, &c, &other));
    ensure!(reaches(case, &b, &ip_a), "containers of one network");
    case.fetch(&["--network", &one], &format!("http://{ip_a}"))?;
    case.fetch(&["--network", "host"], &format!("http://{ip_a}"))?;
    for (from, to) in [(&c, &ip_a), (&d, &ip_a), (&a, &ip_c), (&d, &ip_c)] {
        ensure!(!reaches(case, from, to), "{from} reached {to} on another network");
    }
    // The host's address on each network answers.
    let gateway = case.inspect(&c, &format!("{{{{(index .NetworkSettings.Networks {other:?}).Gateway}}}}"));
    ensure!(reaches(case, &c, &gateway), "the gateway");
    Ok(())
}

fn internal_networks(case: &Case<'_>) -> Result<()> {
    let (closed, open) = (make(case, "closed", &["--internal"])?, make(case, "open", &[])?);
    let a = case.start("a", &["--network", &closed, "-p", "127.0.0.1::80"], &SERVER)?;
    let b = case.sleeper("b", &["--network", &closed])?;
    let c = case.sleeper("c", &["--network", &open])?;
    let (ip_a, ip_c) = (address(case, &a, &closed), address(case, &c, &open));
    ensure!(reaches(case, &b, &ip_a), "containers of one network");
    ensure!(!reaches(case, &b, &ip_c) && !reaches(case, &c, &ip_a), "an internal network is left or entered");
    equal(default_route(case, &a)?, String::new())?;
    equal(case.inspect(&a, &format!("[{{{{(index .NetworkSettings.Networks {closed:?}).Gateway}}}}]")).as_str(), "[]")?;
    // Nothing is published there.
    equal(case.docker(&["port", &a]).ok()?, String::new())?;
    case.fetch(&["--network", "host"], &format!("http://{ip_a}"))
}

fn containers_apart(case: &Case<'_>) -> Result<()> {
    let network = make(case, "n", &["--opt", "com.docker.network.bridge.enable_icc=false"])?;
    let a = case.start("a", &["--network", &network], &SERVER)?;
    let b = case.sleeper("b", &["--network", &network])?;
    let ip = address(case, &a, &network);
    case.fetch(&["--network", "host"], &format!("http://{ip}"))?;
    let frames = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap_or_default();
    // The stock daemon keeps them apart only where frames pass the packet filter.
    if case.is_ours() || frames.trim() == "1" {
        ensure!(!reaches(case, &b, &ip), "containers are to be kept apart");
    }
    Ok(())
}

fn published_ports(case: &Case<'_>) -> Result<()> {
    let (one, other) = (make(case, "one", &[])?, make(case, "other", &[])?);
    let (all, local) = (case.port(0), case.port(1));
    let publish = ["--network", &one, "-p", &format!("{all}:80"), "-p", &format!("127.0.0.1:{local}:80")];
    let name = case.start("a", &publish, &SERVER)?;
    let reached = || -> Result<()> {
        for url in
            [format!("http://127.0.0.1:{all}"), format!("http://[::1]:{all}"), format!("http://127.0.0.1:{local}")]
        {
            case.fetch(&["--network", "host"], &url)?;
        }
        Ok(())
    };
    reached()?;
    let before = case.inspect(&name, "{{json .NetworkSettings.Ports}}");
    has(&before, &all.to_string())?;
    // With the network that gave the default route gone, the next one has the ports.
    case.docker(&["network", "connect", &other, &name]).ok()?;
    case.docker(&["network", "disconnect", &one, &name]).ok()?;
    equal(interfaces(case, &name)?.len(), 1)?;
    reached()?;
    equal(case.inspect(&name, "{{json .NetworkSettings.Ports}}"), before)?;
    case.docker(&["rm", "-f", &name]).ok()?;
    let url = format!("http://127.0.0.1:{all}");
    let gone = case.docker(&["run", "--rm", "--network", "host", case.image(), "wget", "-qO-", &url]);
    has(&gone.err, "refused")
}

fn several_networks_at_once(case: &Case<'_>) -> Result<()> {
    let range = range(case);
    let a = make(case, "a", &["--subnet", &format!("{range}.0/25")])?;
    let b = make(case, "b", &["--subnet", &format!("{range}.128/25")])?;
    let both = case.sleeper("both", &["--network", &b, "--network", &a])?;
    let mut found = interfaces(case, &both)?;
    found.sort_by_key(|line| line.split_once(' ').map(|(_, address)| address.to_owned()));
    let addresses: Vec<&str> =
        found.iter().filter_map(|line| line.split_once(' ')).map(|(_, address)| address).collect();
    equal(addresses, vec![format!("{range}.130/25").as_str(), format!("{range}.2/25").as_str()])?;
    // By name, where nothing else is asked.
    has(&default_route(case, &both)?, &format!("default via {range}.1 dev eth"))?;
    let options = ["--network", &a, "--network", &format!("name={b},gw-priority=3,ip={range}.200,alias=x")];
    let ranked = case.sleeper("ranked", &options)?;
    has(&default_route(case, &ranked)?, &format!("default via {range}.129 dev eth"))?;
    equal(address(case, &ranked, &b), format!("{range}.200"))?;
    let (in_a, in_b) = (case.sleeper("in-a", &["--network", &a])?, case.sleeper("in-b", &["--network", &b])?);
    for (from, network) in [(&in_a, &a), (&in_b, &b)] {
        ensure!(reaches(case, from, &address(case, &both, network)), "{network}");
        ensure!(reaches(case, &both, &address(case, from, network)), "{network}");
    }
    Ok(())
}

fn connected_while_running(case: &Case<'_>) -> Result<()> {
    let range = range(case);
    let home = make(case, "home", &["--subnet", &format!("{range}.0/26")])?;
    let near = make(case, "near", &["--subnet", &format!("{range}.64/26")])?;
    let closed = make(case, "closed", &["--internal", "--subnet", &format!("{range}.128/26")])?;
    let name = case.sleeper("a", &["--network", &home, "--hostname", "alpha"])?;
    let peer = case.sleeper("peer", &["--network", &near])?;
    let peer_ip = address(case, &peer, &near);
    ensure!(!reaches(case, &name, &peer_ip), "not connected yet");
    case.docker(&["network", "connect", "--alias", "foo", "--ip", &format!("{range}.99"), &near, &name]).ok()?;
    case.docker(&["network", "connect", "--gw-priority", "5", &closed, &name]).ok()?;
    ensure!(reaches(case, &name, &peer_ip) && reaches(case, &peer, &format!("{range}.99")), "connected");
    let all = [format!("eth0 {range}.2/26"), format!("eth1 {range}.99/26"), format!("eth2 {range}.130/26")];
    equal(interfaces(case, &name)?, all.to_vec())?;
    // An internal network gives no default route, whatever its priority.
    equal(default_route(case, &name)?, format!("default via {range}.1 dev eth0"))?;
    has(&inside(case, &name, &["cat", "/etc/hosts"])?, &format!("{range}.99\talpha"))?;
    let id = case.inspect(&name, "{{.Id}}");
    let networks = case.inspect_json(&name)?["NetworkSettings"]["Networks"].clone();
    equal(&networks[&near]["DNSNames"], &json!([name, "foo", &id[..12], "alpha"]))?;
    equal(&networks[&near]["Aliases"], &json!(["foo"]))?;
    equal(&networks[&near]["IPAMConfig"], &json!({"IPv4Address": format!("{range}.99")}))?;
    equal(&networks[&closed]["Gateway"], &json!(""))?;
    equal(&networks[&closed]["GwPriority"], &json!(5))?;
    let again = case.docker(&["network", "connect", &near, &name]);
    has(&again.err, &format!("endpoint with name {name} already exists in network {near}"))?;
    // The default route goes to the next one.
    case.docker(&["network", "disconnect", &home, &name]).ok()?;
    equal(interfaces(case, &name)?, all[1..].to_vec())?;
    equal(default_route(case, &name)?, format!("default via {range}.65 dev eth1"))?;
    let hosts = inside(case, &name, &["cat", "/etc/hosts"])?;
    ensure!(!hosts.contains(&format!("{range}.2\t")), "{hosts}");
    has(
        &case.docker(&["network", "disconnect", &home, &name]).err,
        &format!("container {id} is not connected to network {home}"),
    )?;
    // The first name that is free again.
    case.docker(&["network", "connect", &home, &name]).ok()?;
    ensure!(interfaces(case, &name)?.contains(&format!("eth0 {range}.2/26")), "{:?}", interfaces(case, &name)?);
    case.docker(&["network", "disconnect", "-f", &near, &name]).ok()?;
    equal(default_route(case, &name)?, format!("default via {range}.1 dev eth0"))?;
    ensure!(!reaches(case, &name, &peer_ip), "disconnected");
    // What was connected is there after the next start.
    case.docker(&["restart", "-t", "0", &name]).ok()?;
    let mut found: Vec<String> =
        interfaces(case, &name)?.iter().filter_map(|l| Some(l.split_once(' ')?.1.to_owned())).collect();
    found.sort();
    equal(found, vec![format!("{range}.130/26"), format!("{range}.2/26")])
}

fn connected_before_the_start(case: &Case<'_>) -> Result<()> {
    let range = range(case);
    let (a, b) = (
        make(case, "a", &["--subnet", &format!("{range}.0/25")])?,
        make(case, "b", &["--subnet", &format!("{range}.128/25")])?,
    );
    let name = case.create("c", &["--network", &a], &["sleep", "1000"])?;
    case.docker(&["network", "connect", "--ip", &format!("{range}.222"), &b, &name]).ok()?;
    case.docker(&["network", "connect", "bridge", &name]).ok()?;
    case.docker(&["network", "disconnect", "bridge", &name]).ok()?;
    let id = case.inspect(&name, "{{.Id}}");
    let again = case.docker(&["network", "disconnect", "bridge", &name]);
    has(&again.err, &format!("container {id} is not connected to the network bridge"))?;
    case.docker(&["start", &name]).ok()?;
    equal(address(case, &name, &b), format!("{range}.222"))?;
    equal(interfaces(case, &name)?.len(), 2)?;
    // Networks of a container that does not run may go; the address asked for is kept for nobody.
    case.docker(&["stop", "-t", "0", &name]).ok()?;
    case.docker(&["network", "disconnect", &b, &name]).ok()?;
    case.docker(&["start", &name]).ok()?;
    equal(interfaces(case, &name)?, vec![format!("eth0 {range}.2/25")])
}

fn refused_connections(case: &Case<'_>) -> Result<()> {
    let network = make(case, "n", &[])?;
    let shared = case.sleeper("host", &["--network", "host"])?;
    let alone = case.sleeper("none", &["--network", "none"])?;
    let plain = case.sleeper("plain", &["--network", &network])?;
    let joined = case.sleeper("joined", &["--network", &format!("container:{plain}")])?;
    let connect = |network: &str, container: &str| -> Result<(u16, String)> {
        let answer =
            case.http_json("POST", &format!("/networks/{network}/connect"), &json!({"Container": container}))?;
        Ok((answer.status, answer.json()?["message"].as_str().unwrap_or_default().to_owned()))
    };
    let shares =
        "container sharing network namespace with another container or host cannot be connected to any other network";
    let private = "container cannot be connected to multiple networks with one of the networks in private (none) mode";
    equal(connect(&network, &shared)?, (400, shares.to_owned()))?;
    equal(connect(&network, &joined)?, (400, shares.to_owned()))?;
    equal(connect(&network, &alone)?, (400, private.to_owned()))?;
    equal(connect("none", &plain)?, (400, private.to_owned()))?;
    equal(
        connect("host", &plain)?.1.as_str(),
        "cannot connect container to host network - container must be created in host network mode",
    )?;
    equal(connect("nosuch", &plain)?, (404, "network nosuch not found".to_owned()))?;
    equal(connect(&network, "nosuch")?, (404, "No such container: nosuch".to_owned()))?;
    equal(
        connect(&network, &plain)?,
        (403, format!("endpoint with name {plain} already exists in network {network}")),
    )?;
    has(
        &case.docker(&["network", "disconnect", "host", &shared]).err,
        "cannot disconnect container from host network",
    )?;
    has(&case.docker(&["network", "disconnect", &network, "nosuch"]).err, "No such container: nosuch")?;
    has(
        &case.docker(&["network", "connect", "--alias", "x", "bridge", &plain]).err,
        "network-scoped alias is supported only for containers in user defined networks",
    )?;
    // With `none` left, another network may come.
    case.docker(&["network", "disconnect", "none", &alone]).ok()?;
    case.docker(&["network", "connect", &network, &alone]).ok()?;
    ensure!(reaches(case, &alone, &address(case, &plain, &network)), "connected in the end");
    Ok(())
}

fn events(case: &Case<'_>) -> Result<()> {
    let begun = case.now();
    let network = make(case, "n", &[])?;
    let name = case.create("a", &["--network", "bridge"], &["sleep", "1000"])?;
    case.docker(&["start", &name]).ok()?;
    case.docker(&["network", "connect", &network, &name]).ok()?;
    case.docker(&["network", "disconnect", &network, &name]).ok()?;
    case.docker(&["network", "rm", &network]).ok()?;
    let template = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}";
    let filter = format!("network={network}");
    let told = case
        .docker(&["events", "--since", &begun, "--until", &case.now(), "--filter", &filter, "--format", template])
        .ok()?;
    let actions: Vec<String> = ["create", "connect", "disconnect", "destroy"]
        .map(|action| format!("network {action} {network} bridge"))
        .to_vec();
    equal(told.lines().map(str::to_owned).collect::<Vec<_>>(), actions)
}

/// Many containers connect and disconnect at once, and networks come and go beside them.
fn many_at_once(case: &Case<'_>) -> Result<()> {
    let (home, other) = (make(case, "home", &[])?, make(case, "other", &[])?);
    let names = (0..6).map(|n| case.sleeper(&n.to_string(), &["--network", &home])).collect::<Result<Vec<_>>>()?;
    let work = |name: &str| -> Result<()> {
        for _ in 0..3 {
            case.docker(&["network", "connect", &other, name]).ok()?;
            case.docker(&["network", "disconnect", &other, name]).ok()?;
        }
        case.docker(&["network", "connect", &other, name]).ok().map(drop)
    };
    let churn = || -> Result<()> {
        (0..4).try_for_each(|n| {
            let name = make(case, &format!("churn{n}"), &[])?;
            case.docker(&["network", "rm", &name]).ok().map(drop)
        })
    };
    std::thread::scope(|scope| {
        let work = &work;
        let mut threads: Vec<_> = names.iter().map(|name| scope.spawn(move || work(name))).collect();
        threads.push(scope.spawn(churn));
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let mut found: Vec<String> = names.iter().map(|name| address(case, name, &other)).collect();
    for ip in &found[1..] {
        ensure!(reaches(case, &names[0], ip), "{ip}");
    }
    found.sort();
    found.dedup();
    equal(found.len(), names.len())
}
