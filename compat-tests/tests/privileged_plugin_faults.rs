//! Plugins that say no, talk nonsense, are slow, or are not there; and daemons that die. Whatever goes wrong, the client is
//! told in the stock daemon's words, and the plugin gets everything back.

mod plugged;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has};
use compat_tests::daemon::Daemon;
use compat_tests::host::Host;
use compat_tests::plugin::{Plugin, Reply};
use compat_tests::{Case, SERVER, Suite, suite, tests};
use plugged::{Bed, reaches};
use serde_json::{Value, json};

fn main() -> ExitCode {
    Suite {
        name: "plugin_faults",
        flags: &[],
        tests: tests![
            networks_that_are_refused,
            containers_that_are_refused,
            what_plugins_say_they_are,
            taking_back_is_refused,
            slow_and_endless,
            images_are_let_go,
            away_and_back,
            killed_and_started_again
        ],
    }
    .main()
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
    ("NetworkDriver.Join", r#"+{"StaticRoutes":[{"Destination":"x"}]}"#, 500, "invalid CIDR address: x; rolled back"),
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
            message
                .replace(" C ", &format!(" {container} "))
                .replace(" N:", &format!(" {network}:"))
                .replace("(E)", endpoint)
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
        // A gateway, and what is behind it, matter only to those who have no other. When a route cannot be set the stock
        // daemon leaves the link inside, in the way of the next one.
        let leaves = message.contains("static route") && !case.is_ours();
        let outward = method == "NetworkDriver.ProgramExternalConnectivity" || message.contains("updating gateway");
        if !outward && !leaves {
            let body = json!({"Container": b});
            let connected = case.http_json("POST", &format!("/networks/{network}/connect"), &body)?;
            equal((connected.status, connected.message()), (status, told(&b, "").replace(elsewhere, "")))
                .context(answer)?;
            bed.plugin.wait_until(answer, |given| *given == before)?;
            let links = case.docker(&["exec", &b, "ip", "-o", "link"]).ok()?;
            ensure!(links.lines().count() == 2, "{answer}: {links}");
        }
        bed.plugin.behave();
    }
    // After all that it works.
    case.docker(&["start", &a]).ok()?;
    case.docker(&["network", "connect", &network, &b]).ok()?;
    ensure!(reaches(case.host(), &b, &a), "not reached");
    bed.clean();
    if !case.is_ours() {
        // Links of failed starts went down with their namespaces.
        bed.plugin.lost();
    }
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
        equal(
            (made.status, made.message()),
            (status, message.replace('P', &name).replace(&format!("{name}lugin"), "Plugin")),
        )
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
        bed.plugin
            .wait_until("the slow one", |given| given.iter().filter(|what| what.starts_with("network")).count() == 2)?;
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

/// Who has seen a container removed may remove its image, however long its network takes to go.
fn images_are_let_go(case: &Case<'_>) -> Result<()> {
    let bed = Bed::make(case, 17)?;
    let network = bed.network("n", &["--ipam-driver", bed.plugin.name()])?;
    let changed = case.create("changed", &[], &["touch", "/new"])?;
    case.docker(&["start", "-a", &changed]).ok()?;
    let image = case.tag("image");
    for remove in [["rmi", &image].as_slice(), &["image", "prune", "--all", "--force", "--filter", "label=mine"]] {
        bed.plugin.behave();
        case.docker(&["commit", "--change", "LABEL mine=yes", &changed, &image]).ok()?;
        bed.plugin.set("NetworkDriver.Leave", Reply::Late(Duration::from_secs(1)));
        bed.plugin.set("NetworkDriver.DeleteEndpoint", Reply::Late(Duration::from_secs(1)));
        case.docker(&["run", "--rm", "--network", &network, &image, "true"]).ok()?;
        let removed = case.docker(remove).ok()?;
        let deleted = removed.lines().filter(|line| line.to_ascii_lowercase().starts_with("deleted: sha256:")).count();
        equal((deleted, removed.contains(&image)), (2, true)).context(removed)?;
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
    plugin.set("NetworkDriver.Join", Reply::With(json!({"Gateway": ""})));
    let options = ["run", "-d", "--name", "out", "--network", "gone", "-p", "8080:80", &image];
    docker(&host, &[&options[..], &SERVER].concat())?;
    plugin.behave();
    plugin.set("IpamDriver.GetCapabilities", Reply::Json(json!({"RequiresRequestReplay": true})));
    let gets_out = |host: &Host| {
        has(&docker(host, &["exec", "out", "ip", "route"])?, "dev eth1")?;
        has(&docker(host, &["network", "inspect", "docker_gwbridge"])?, "\"Name\": \"gateway_")?;
        let fetch = ["wget", "-qO-", "http://127.0.0.1:8080/"];
        docker(host, &[&["run", "--rm", "--network", "host", &image][..], &fetch].concat()).map(drop)
    };
    gets_out(&host)?;
    docker(&host, &["network", "connect", "n", "kd"])?;
    let before = plugin.given();
    let inspect =
        |host: &Host, name: &str| docker(host, &["inspect", "-f", "{{json .NetworkSettings.Networks}}", name]);
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
    gets_out(&host)?;
    plugin.come_back()?;
    // The endpoint of the one that ended is taken back, and nothing else.
    let endpoints =
        |given: &std::collections::BTreeSet<String>| given.iter().filter(|what| what.starts_with("endpoint")).count();
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

    docker(&host, &["rm", "-f", "out"])?;
    docker(&host, &["network", "rm", "docker_gwbridge"])?;

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
    // It dies while a network is made: the plugin has made it already, and nobody will ever see it.
    let given = plugin.given();
    plugin.set("NetworkDriver.CreateNetwork", Reply::Late(Duration::from_secs(5)));
    let options = ["network", "create", "-d", &name, "--ipam-driver", &name, "--subnet", "10.240.96.0/24", "half"];
    std::thread::scope(|scope| {
        scope.spawn(|| host.docker(&options, ""));
        let networks = |given: &std::collections::BTreeSet<String>| {
            given.iter().filter(|what| what.starts_with("network")).count()
        };
        plugin.wait_until("half a network", |now| networks(now) == networks(&given) + 1)?;
        daemon.kill()
    })?;
    plugin.behave();
    daemon.restart()?;
    let host = daemon.host().clone();
    plugin.wait_until("half a network is taken back", |now| *now == given)?;
    ensure!(!docker(&host, &["network", "ls"])?.contains("half"), "it is listed");
    docker(&host, &["rm", "-f", "ka", "kb", "kc", "kd", "ke"])?;
    docker(&host, &["network", "rm", "n", "m"])?;
    plugin.has_everything_back()?;
    daemon.stop()
}
