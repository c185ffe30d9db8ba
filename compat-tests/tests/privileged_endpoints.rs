//! What is asked of a container's attachment to a network, and what becomes of it: wrong values and the words for them, names
//! and settings of links, addresses of every kind, and how inspect shows all of it. The default bridge's addresses too.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has};
use compat_tests::private::Private;
use compat_tests::{Case, Suite, tests};
use serde_json::{Value, json};

/// Options of an endpoint.
const INTERFACE: &str = "com.docker.network.endpoint.ifname";
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
/// The name of a network's links.
const PREFIX: &str = "com.docker.network.container_iface_prefix";
const UNNAMED: &str =
    "user specified IP address is supported only when connecting to networks with user configured subnets";

fn main() -> ExitCode {
    Suite {
        name: "endpoints",
        flags: &[],
        tests: tests![
            wrong_addresses,
            addresses_of_others,
            hardware_addresses,
            names_of_links,
            impossible_names,
            settings_of_links,
            link_local_addresses,
            as_the_client_wrote_it,
            connected_while_stopped,
            disconnected_by_force,
            lists_and_their_filters,
            prunes,
            the_default_bridges_addresses,
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

/// The first three parts of addresses no other case uses, of IPv4 and of IPv6.
fn ranges(case: &Case<'_>) -> (String, String) {
    let number = number(case);
    (format!("10.{}.{}", 40 + case.number(), number % 250), format!("fd{:02x}:{:x}", case.number(), number >> 48))
}

fn make(case: &Case<'_>, what: &str, options: &[&str]) -> Result<String> {
    let name = case.network(what);
    case.docker(&[&["network", "create"], options, &[&name]].concat()).ok()?;
    Ok(name)
}

/// A network with subnets of both families that were asked for.
fn both(case: &Case<'_>) -> Result<String> {
    let (four, six) = ranges(case);
    make(case, "both", &["--ipv6", "--subnet", &format!("{four}.0/24"), "--subnet", &format!("{six}::/64")])
}

/// An attachment as inspect shows it.
fn endpoint(case: &Case<'_>, container: &str, network: &str) -> Result<Value> {
    Ok(case.inspect_json(container)?["NetworkSettings"]["Networks"][network].clone())
}

/// What a run with these options is refused with, without what the CLI says around it.
fn refusal(case: &Case<'_>, options: &[&str]) -> Result<String> {
    let ran = case.run(options, &["true"]);
    ensure!(ran.code == 125, "{options:?}: {ran:?}");
    let text = ran.err.replace("docker: Error response from daemon: ", "");
    Ok(text.split("\n\nRun '").next().unwrap_or_default().to_owned())
}

/// What connecting is refused with: the status and the text.
fn refused(case: &Case<'_>, network: &str, container: &str, config: &Value) -> Result<(u16, String)> {
    let body = json!({"Container": container, "EndpointConfig": config});
    let answer = case.http_json("POST", &format!("/networks/{network}/connect"), &body)?;
    ensure!(answer.status >= 400, "{body}: {}", answer.status);
    Ok((answer.status, answer.json()?["message"].as_str().unwrap_or_default().to_owned()))
}

fn wrong_addresses(case: &Case<'_>) -> Result<()> {
    let net = both(case)?;
    let four = ranges(case).0;
    let plain = make(case, "plain", &["--subnet", &format!("{}.0/24", four.replace("10.", "11."))])?;
    let free = make(case, "free", &[])?;
    let guest = case.sleeper("guest", &["--network", "bridge"])?;
    let outside = |text: &str| format!("no configured subnet or ip-range contain the IP address {text}");
    for (flag, kind, texts) in [
        ("--ip", "IPv4", vec!["x", "fd00::5", "10.1.1.1/24", "0.0.0.0", "010.1.1.1"]),
        ("--ip6", "IPv6", vec!["x", "10.0.0.1", "fd00::zz", "fd00::5/64", "::", "::ffff:10.0.0.1"]),
    ] {
        for text in texts {
            let both = format!("invalid endpoint settings:\n* invalid {kind} address: {text}\n* {}", outside(text));
            let said = refusal(case, &["--network", &net, flag, text])?;
            equal(said, format!("invalid config for network {net}: {both}"))?;
            let field = format!("{kind}Address");
            equal(refused(case, &net, &guest, &json!({"IPAMConfig": {field: text}}))?, (400, both))?;
        }
    }
    for (flag, text) in [("--ip", "10.1.1.1"), ("--ip6", "fe80::1"), ("--ip6", "::1")] {
        let said = refusal(case, &["--network", &net, flag, text])?;
        equal(said, format!("invalid config for network {net}: invalid endpoint settings:\n{}", outside(text)))?;
    }
    // Of a family, or at all, without a subnet of one's own.
    for (network, flag, text) in
        [(&plain, "--ip6", "fd00::9"), (&free, "--ip", "10.1.1.1"), (&free, "--ip6", "fd00::9")]
    {
        let said = refusal(case, &["--network", network, flag, text])?;
        equal(said, format!("invalid config for network {network}: invalid endpoint settings:\n{UNNAMED}"))?;
    }
    let said = refusal(case, &["--network", "host", "--ip", "x"])?;
    let three = format!(
        "* user specified IP address is supported on user defined networks only\n* invalid IPv4 address: x\n* {UNNAMED}"
    );
    equal(said, format!("invalid config for network host: invalid endpoint settings:\n{three}"))?;
    let said = refusal(case, &["--network", "nosuch", "--ip", "x"])?;
    equal(said.as_str(), "invalid config for network nosuch: invalid endpoint settings:\ninvalid IPv4 address: x")
}

fn addresses_of_others(case: &Case<'_>) -> Result<()> {
    let range = ranges(case).0;
    let options = ["--subnet", &format!("{range}.0/24"), "--gateway", &format!("{range}.9")];
    let net = make(case, "net", &[&options[..], &["--aux-address", &format!("router={range}.66")]].concat())?;
    let at = |last: &str| format!("{range}.{last}");
    let owner = case.sleeper("owner", &["--network", &net, "--ip", &at("40")])?;
    let guest = case.sleeper("guest", &["--network", "bridge"])?;
    for taken in ["9", "66", "40", "0", "255"] {
        let said = refusal(case, &["--network", &net, "--ip", &at(taken)])?;
        equal(said.as_str(), "failed to set up container networking: Address already in use")?;
        let config = json!({"IPAMConfig": {"IPv4Address": at(taken)}});
        equal(refused(case, &net, &guest, &config)?.1.as_str(), "Address already in use")?;
    }
    // What failed holds nothing; a container that ended holds nothing; one that is restarted has it again.
    let seen = || case.inspect(&owner, &format!("{{{{(index .NetworkSettings.Networks {net:?}).IPAddress}}}}"));
    case.docker(&["restart", "-t", "0", &owner]).ok()?;
    equal(seen(), at("40"))?;
    case.docker(&["stop", "-t", "0", &owner]).ok()?;
    let other = case.sleeper("other", &["--network", &net, "--ip", &at("40")])?;
    let late = case.docker(&["start", &owner]);
    has(&late.err, "failed to set up container networking: Address already in use")?;
    case.docker(&["rm", "-f", &other]).ok()?;
    case.docker(&["start", &owner]).ok()?;
    equal(seen(), at("40"))
}

fn hardware_addresses(case: &Case<'_>) -> Result<()> {
    let (one, two) = (make(case, "one", &[])?, make(case, "two", &[])?);
    let mac = "02:11:22:33:44:55";
    let shown = ["sh", "-c", "cat /sys/class/net/eth*/address"];
    for written in [mac, "02-11-22-33-44-55", "0211.2233.4455"] {
        equal(case.run(&["--network", &one, "--mac-address", written], &shown).ok()?.as_str(), mac)?;
    }
    let guest = case.sleeper("guest", &["--network", "bridge"])?;
    for wrong in ["x", "02:11:22:33:44", "02:11:22:33:44:5", "02:11-22:33:44:55"] {
        let said = refused(case, &one, &guest, &json!({"MacAddress": wrong}))?;
        equal(said, (400, format!("invalid MAC address {wrong}")))?;
    }
    // Of a group, and of nobody.
    for wrong in ["01:00:00:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"] {
        let said = refusal(case, &["--network", &one, "--mac-address", wrong])?;
        has(&said, "failed to set up container networking: failed to add interface ")?;
        has(&said, &format!("MAC to \"{wrong}\": cannot assign requested address"))?;
    }
    // At each network its own, kept over a restart, shown before the first start.
    let asked = |network: &str, last: &str| format!("name={network},mac-address=02:11:22:33:44:{last}");
    let options = ["--network", &asked(&one, "01"), "--network", &asked(&two, "02")];
    let name = case.create("two", &options, &["sleep", "100000"])?;
    let seen = |network: &str| Ok::<_, anyhow::Error>(endpoint(case, &name, network)?["MacAddress"].clone());
    for _ in 0..2 {
        equal((seen(&one)?, seen(&two)?), (json!("02:11:22:33:44:01"), json!("02:11:22:33:44:02")))?;
        case.docker(&["restart", "-t", "0", &name]).ok()?;
    }
    let inside = case.docker(&[&["exec", &name], &shown[..]].concat()).ok()?;
    let mut inside: Vec<&str> = inside.lines().collect();
    inside.sort_unstable();
    equal(inside, vec!["02:11:22:33:44:01", "02:11:22:33:44:02"])
}

fn names_of_links(case: &Case<'_>) -> Result<()> {
    let (one, two) = (make(case, "one", &[])?, make(case, "two", &[])?);
    let names = |container: &str| -> Result<Vec<String>> {
        let text = case.docker(&["exec", container, "ls", "/proc/sys/net/ipv4/conf"]).ok()?;
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        // Which of a machine's tunnels every namespace has depends on its kernel.
        names.retain(|name| name.starts_with("eth") || name.starts_with("wan"));
        names.sort();
        Ok(names)
    };
    let option = |network: &str, name: &str| format!("name={network},driver-opt={INTERFACE}={name}");
    let name = case.sleeper("a", &["--network", &option(&one, "wan0")])?;
    equal(names(&name)?, vec!["wan0".to_owned()])?;
    equal(&endpoint(case, &name, &one)?["DriverOpts"], &json!({INTERFACE: "wan0"}))?;
    // A taken one; and a failed connect leaves nothing.
    let wish = |name: &str| json!({"DriverOpts": {INTERFACE: name}});
    let (status, text) = refused(case, &two, &name, &wish("wan0"))?;
    has(&text, "failed to add interface ")?;
    has(&text, "to \"wan0\": file exists")?;
    equal(status, 500)?;
    if case.is_ours() {
        // Under stock the container is on the network then, without a link.
        equal(endpoint(case, &name, &two)?, Value::Null)?;
    }
    case.docker(&["network", "connect", "--driver-opt", &format!("{INTERFACE}=wan7"), &two, &name]).ok()?;
    equal(names(&name)?, ["wan0", "wan7"].map(str::to_owned).to_vec())?;
    case.docker(&["network", "disconnect", &one, &name]).ok()?;
    equal(names(&name)?, vec!["wan7".to_owned()])?;
    for (wrong, why) in [
        ("a/b", "invalid argument"),
        (".", "invalid argument"),
        ("..", "invalid argument"),
        ("a:b", "invalid argument"),
        ("all", "invalid argument"),
        ("default", "invalid argument"),
        ("lo", "file exists"),
        ("toolongifname012", "numerical result out of range"),
    ] {
        let said = refusal(case, &["--network", &option(&one, wrong)])?;
        has(&said, "failed to set up container networking: failed to add interface ")?;
        has(&said, "to sandbox: error renaming interface \"")?;
        ensure!(said.ends_with(&format!(" to {wrong:?}: {why}")), "{said}");
    }
    Ok(())
}

/// A network may have a prefix no link can bear: containers cannot start on it, and nothing is left of the attempt.
fn impossible_names(case: &Case<'_>) -> Result<()> {
    for (what, prefix, why) in [
        ("long", "longprefix01234", "numerical result out of range"),
        ("longer", "a-prefix-that-is-too-long", "numerical result out of range"),
        ("slash", "a/b", "invalid argument"),
        ("space", "x y", "invalid argument"),
        ("colon", "a:b", "invalid argument"),
    ] {
        let net = make(case, what, &["-o", &format!("{PREFIX}={prefix}")])?;
        let name = case.create(what, &["--network", &net], &["true"])?;
        let text = format!(" to \"{prefix}0\": {why}");
        for _ in 0..2 {
            let answer = case.http("POST", &format!("/containers/{name}/start"))?;
            let said = answer.json()?["message"].as_str().unwrap_or_default().to_owned();
            equal(answer.status, 500)?;
            has(&said, "failed to set up container networking: failed to add interface ")?;
            ensure!(said.ends_with(&text), "{said}");
        }
        equal(case.inspect(&name, "{{.State.Status}} {{.State.ExitCode}}").as_str(), "created 128")?;
        // A name of its own is as good as any.
        let wish = format!("name={net},driver-opt={INTERFACE}=good0");
        has(&case.shell(&["--network", &wish], "ip -o link")?, "good0")?;
        let guest = case.sleeper(&format!("{what}-guest"), &["--network", "bridge"])?;
        let (status, said) = refused(case, &net, &guest, &json!({}))?;
        ensure!(status == 500 && said.ends_with(&text), "{status} {said}");
        case.docker(&["network", "rm", &net]).ok()?;
    }
    let net = make(case, "blank", &["-o", &format!("{PREFIX}=")])?;
    has(&case.shell(&["--network", &net], "ip -o link")?, " eth0@")?;
    let net = make(case, "other", &["-o", &format!("{PREFIX}=wan")])?;
    has(&case.shell(&["--network", &net], "ip -o link")?, " wan0@")
}

fn settings_of_links(case: &Case<'_>) -> Result<()> {
    let net = both(case)?;
    let option = |settings: &str| format!("name={net},\"driver-opt={SYSCTLS}={settings}\"");
    // The CLI writes all of it in lower case.
    let both = option("net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.neigh.IFNAME.gc_stale_time=61");
    let shown = "cat /proc/sys/net/ipv4/conf/eth0/log_martians /proc/sys/net/ipv4/neigh/eth0/gc_stale_time";
    equal(case.shell(&["--network", &both], shown)?.as_str(), "1\n61")?;
    let six = option("net.ipv6.conf.ifname.accept_ra=2");
    equal(case.shell(&["--network", &six], "cat /proc/sys/net/ipv6/conf/eth0/accept_ra")?.as_str(), "2")?;
    let guest = case.sleeper("guest", &["--network", "bridge"])?;
    let wish = |settings: &str| json!({"DriverOpts": {SYSCTLS: settings}});
    let body = json!({"Container": guest, "EndpointConfig": wish("net.ipv4.conf.IFNAME.log_martians=1")});
    equal(case.http_json("POST", &format!("/networks/{net}/connect"), &body)?.status, 200)?;
    let inside = case.docker(&["exec", &guest, "cat", "/proc/sys/net/ipv4/conf/eth1/log_martians"]).ok()?;
    equal(inside.as_str(), "1")?;
    case.docker(&["network", "disconnect", &net, &guest]).ok()?;
    for strange in [
        "",
        "foo",
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.eth0.log_martians=1",
        "net.ipv4.conf.all.log_martians=1",
        "kernel.x=1",
    ] {
        let problem = format!(
            "invalid endpoint settings:\nunrecognised network interface sysctl '{strange}'; represent 'net.X.Y.ethN.Z=V' \
             as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
        );
        equal(
            refusal(case, &["--network", &option(strange)])?,
            format!("invalid config for network {net}: {problem}"),
        )?;
        equal(refused(case, &net, &guest, &wish(strange))?, (400, problem))?;
    }
    let said = refusal(case, &["--network", &option("foo,bar"), "--ip", "x"])?;
    equal(said.lines().filter(|line| line.starts_with("* ")).count(), 4)?;
    for (setting, why) in [
        ("net.ipv4.conf.ifname.nosuch=1", "/proc/sys/net/ipv4/conf/eth1/nosuch is not a sysctl file"),
        ("foo.ipv4.conf.ifname.x=1", "/proc/sys/foo/ipv4/conf/eth1/x is not a sysctl file"),
        (
            "net.ipv4.conf.ifname.log_martians",
            "expected sysctl 'net.ipv4.conf.ifname.log_martians' to have format name=value",
        ),
        ("net.ipv4.conf.ifname.a.b=1", "expected sysctl 'net.ipv4.conf.ifname.a.b=1' to have format net.X.Y.IFNAME.Z"),
        (
            "net.ipv4.conf.ifname.log_martians=x",
            "unable to write to '/proc/sys/net/ipv4/conf/eth1/log_martians': write \
             /proc/sys/net/ipv4/conf/eth1/log_martians: invalid argument",
        ),
    ] {
        // Under stock, links of failed attempts stay there and have their numbers.
        let (status, said) = refused(case, &net, &guest, &wish(setting))?;
        let said = (2..9).fold(said, |said, number| said.replace(&format!("/eth{number}/"), "/eth1/"));
        ensure!(status == 500 && said.ends_with(&format!(" to sandbox: {why}")), "{status} {said}");
        let said = refusal(case, &["--network", &option(setting)])?;
        has(&said, "failed to set up container networking: failed to add interface ")?;
        ensure!(said.ends_with(&why.replace("eth1", "eth0")), "{said}");
    }
    Ok(())
}

fn link_local_addresses(case: &Case<'_>) -> Result<()> {
    let net = both(case)?;
    let options = ["--network", &net, "--link-local-ip", "169.254.7.7", "--link-local-ip", "fe80::77"];
    let name = case.sleeper("a", &options)?;
    equal(&endpoint(case, &name, &net)?["IPAMConfig"], &json!({"LinkLocalIPs": ["169.254.7.7", "fe80::77"]}))?;
    let addresses = case.docker(&["exec", &name, "ip", "-o", "address", "show", "eth0"]).ok()?;
    has(&addresses, "inet 169.254.7.7/16 brd 169.254.255.255 scope global eth0")?;
    has(&addresses, "inet6 fe80::77/64 scope link")?;
    // The network's own address comes first: it is what others see.
    let order = |text: &str| addresses.find(text).context(text.to_owned());
    ensure!(order(&format!("inet {}.", ranges(case).0))? < order("inet 169.254.")?, "{addresses}");
    for wrong in ["x", "169.254.7.7/16", "fe80::1%eth0", "0.0.0.0"] {
        let said = refusal(case, &["--network", &net, "--link-local-ip", wrong])?;
        let why = format!("invalid endpoint settings:\ninvalid link-local IP address: {wrong}");
        equal(said, format!("invalid config for network {net}: {why}"))?;
    }
    let far = case.create("far", &["--network", &net, "--link-local-ip", "10.1.1.1"], &["true"])?;
    equal(&endpoint(case, &far, &net)?["IPAMConfig"], &json!({"LinkLocalIPs": ["10.1.1.1"]}))?;
    let answer = case.http("POST", &format!("/containers/{far}/start"))?;
    let why = "invalid link local IP address: 10.1.1.1";
    equal(answer.status, 400)?;
    equal(&answer.json()?["message"], &json!(format!("failed to set up container networking: {why}")))?;
    let guest = case.sleeper("guest", &["--network", "bridge"])?;
    let config = json!({"IPAMConfig": {"LinkLocalIPs": ["10.1.1.1"]}});
    equal(refused(case, &net, &guest, &config)?, (400, why.to_owned()))
}

/// `{}`, `[]` and null are told apart.
fn as_the_client_wrote_it(case: &Case<'_>) -> Result<()> {
    let net = both(case)?;
    let four = ranges(case).0;
    let guest = case.sleeper("guest", &["--network", "bridge"])?;
    let seen = || -> Result<Value> {
        let shown = endpoint(case, &guest, &net)?;
        let fields = ["IPAMConfig", "Links", "Aliases", "DriverOpts", "GwPriority"];
        case.docker(&["network", "disconnect", &net, &guest]).ok()?;
        Ok(fields.iter().map(|field| shown[*field].clone()).collect())
    };
    let connect = |options: &[&str]| -> Result<Value> {
        case.docker(&[&["network", "connect"], options, &[&net, &guest]].concat()).ok()?;
        seen()
    };
    equal(connect(&[])?, json!([{}, null, [], {}, 0]))?;
    equal(
        connect(&["--alias", "a", "--link", &format!("{guest}:b")])?,
        json!([{}, [format!("{guest}:b")], ["a"], {}, 0]),
    )?;
    equal(connect(&["--driver-opt", "a=b", "--gw-priority", "-5"])?, json!([{}, null, [], {"a": "b"}, -5]))?;
    let address = format!("{four}.77");
    equal(connect(&["--ip", &address])?, json!([{"IPv4Address": address}, null, [], {}, 0]))?;
    equal(connect(&["--link-local-ip", "169.254.1.1"])?, json!([{"LinkLocalIPs": ["169.254.1.1"]}, null, [], {}, 0]))?;
    for (config, shown) in [
        (Value::Null, json!([null, null, null, null, 0])),
        (json!({"IPAMConfig": null, "Aliases": null, "DriverOpts": null}), json!([null, null, null, null, 0])),
        (json!({"Links": [], "IPAMConfig": {"LinkLocalIPs": []}}), json!([{}, [], null, null, 0])),
    ] {
        let body = json!({"Container": guest, "EndpointConfig": config});
        equal(case.http_json("POST", &format!("/networks/{net}/connect"), &body)?.status, 200)?;
        equal(seen()?, shown)?;
    }
    // A second time while it runs.
    case.docker(&["network", "connect", &net, &guest]).ok()?;
    let (status, text) = refused(case, &net, &guest, &json!({}))?;
    equal((status, text), (403, format!("endpoint with name {guest} already exists in network {net}")))
}

fn connected_while_stopped(case: &Case<'_>) -> Result<()> {
    let net = both(case)?;
    let four = ranges(case).0;
    let name = case.create("a", &["--network", "bridge"], &["sleep", "100000"])?;
    let first = format!("{four}.70");
    case.docker(&["network", "connect", "--ip", &first, &net, &name]).ok()?;
    // What was asked once stays, until the container is taken off the network.
    case.docker(&["network", "connect", "--ip", &format!("{four}.71"), &net, &name]).ok()?;
    equal(&endpoint(case, &name, &net)?["IPAMConfig"], &json!({"IPv4Address": first}))?;
    case.docker(&["start", &name]).ok()?;
    equal(&endpoint(case, &name, &net)?["IPAddress"], &json!(first))?;
    case.docker(&["stop", "-t", "0", &name]).ok()?;
    case.docker(&["network", "disconnect", &net, &name]).ok()?;
    equal(endpoint(case, &name, &net)?, Value::Null)?;
    has(&case.docker(&["network", "disconnect", &net, &name]).err, " is not connected to the network ")?;
    case.docker(&["network", "connect", &net, &name]).ok()?;
    case.docker(&["start", &name]).ok()?;
    equal(&endpoint(case, &name, &net)?["IPAMConfig"], &json!({}))?;
    // A stopped one is not on the network, but asks for it.
    case.docker(&["stop", "-t", "0", &name]).ok()?;
    let listed: Value = case.http("GET", &format!("/networks/{net}"))?.json()?;
    equal(&listed["Containers"], &json!({}))
}

fn disconnected_by_force(case: &Case<'_>) -> Result<()> {
    let net = both(case)?;
    let name = case.sleeper("a", &["--network", "bridge"])?;
    let disconnect = |container: &str| {
        let body = json!({"Container": container, "Force": true});
        let answer = case.http_json("POST", &format!("/networks/{net}/disconnect"), &body)?;
        let text = if answer.status == 200 { Value::Null } else { answer.json()?["message"].clone() };
        Ok::<_, anyhow::Error>((answer.status, text.as_str().unwrap_or_default().to_owned()))
    };
    equal(disconnect("nosuch")?, (404, "endpoint nosuch not found".to_owned()))?;
    case.docker(&["network", "connect", &net, &name]).ok()?;
    equal(disconnect(&name)?.0, 200)?;
    has(&disconnect(&name)?.1, " is not connected to network ")
}

fn lists_and_their_filters(case: &Case<'_>) -> Result<()> {
    let label = format!("l{:x}", number(case));
    let one = make(case, "one", &["--label", &format!("{label}=b"), "--label", "c=d"])?;
    let two = make(case, "two", &["--label", &format!("{label}=x"), "--internal"])?;
    let mine = format!("label={label}");
    let names = |filters: &[&str]| -> Result<Vec<String>> {
        let filters: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        let text =
            case.docker(&[&["network", "ls", "--format", "{{.Name}}", "--filter", &mine], &filters[..]].concat());
        Ok(text.ok()?.lines().map(str::to_owned).collect())
    };
    let both = vec![one.clone(), two.clone()];
    equal(names(&[])?, both.clone())?;
    equal(names(&[&format!("label={label}=b")])?, vec![one.clone()])?;
    equal(names(&["label=c"])?, vec![one.clone()])?;
    equal(names(&[&format!("name=^{one}$")])?, vec![one.clone()])?;
    equal(names(&["name=-on[ef]$"])?, vec![one.clone()])?;
    equal(names(&["name=-one", "name=-two"])?, both.clone())?;
    equal(names(&["driver=bridge", "driver=null"])?, both.clone())?;
    for nothing in
        ["driver=null", "driver=nosuch", "type=builtin", "scope=swarm", "scope=x", "label=nosuch", "name=^nosuch"]
    {
        equal(names(&[nothing])?, Vec::new()).context(nothing)?;
    }
    let id = case.inspect(&one, "{{.Id}}");
    // By a part of it, wherever it stands.
    equal(names(&[&format!("id={}", &id[20..40])])?, vec![one.clone()])?;
    let wrong = |filter: &str| case.docker(&["network", "ls", "--filter", filter]).err;
    has(&wrong("until=1h"), "invalid filter 'until'")?;
    has(&wrong("label!=a"), "invalid filter 'label!'")?;
    let show = |format: &str| -> Result<Vec<String>> {
        let text = case.docker(&["network", "ls", "--filter", &mine, "--format", format]).ok()?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let columns = "{{.Driver}} {{.Scope}} {{.IPv4}} {{.IPv6}} {{.Internal}}";
    equal(
        show(columns)?,
        ["bridge local true false false", "bridge local true false true"].map(str::to_owned).to_vec(),
    )?;
    equal(show(&format!("{{{{.Label {label:?}}}}}"))?, ["b", "x"].map(str::to_owned).to_vec())?;
    let full = case.docker(&["network", "ls", "-q", "--no-trunc", "--filter", &mine]).ok()?;
    ensure!(full.lines().any(|line| line == id) && full.lines().count() == 2, "{full}");
    // Members come in the order people read them in.
    let text = case.docker(&["network", "inspect", &one]).ok()?;
    let members: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("        \"")?.split('"').next()).collect();
    let wanted = "Name Id Created Scope Driver EnableIPv4 EnableIPv6 IPAM Internal Attachable Ingress ConfigFrom ConfigOnly \
                  Containers Options Labels";
    equal(members, wanted.split_whitespace().collect())
}

fn prunes(case: &Case<'_>) -> Result<()> {
    let label = format!("p{:x}", number(case));
    let one = make(case, "one", &["--label", &format!("{label}=b"), "--label", "c=d"])?;
    let two = make(case, "two", &["--label", &format!("{label}=x")])?;
    let mine = format!("label={label}");
    let prune = |filters: &[&str]| {
        let filters: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        case.docker(&[&["network", "prune", "-f", "--filter", &mine], &filters[..]].concat())
    };
    has(&prune(&["until=x"]).err, "failed to parse value as time or duration: \"x\"")?;
    has(&prune(&["driver=x"]).err, "invalid filter 'driver'")?;
    for nothing in [&["until=1h"][..], &["until=2000-01-01"], &["label!=c", "label=c"], &["label=nosuch"]] {
        equal(prune(nothing).ok()?, String::new()).with_context(|| format!("{nothing:?}"))?;
    }
    equal(prune(&["label!=c"]).ok()?, format!("Deleted Networks:\n{two}"))?;
    equal(prune(&["label=c=d"]).ok()?, format!("Deleted Networks:\n{one}"))
}

/// The default bridge's subnets, those that were named first, in a network where no bridge is left of another daemon.
fn the_default_bridges_addresses(case: &Case<'_>) -> Result<()> {
    for (flags, wanted) in [
        (
            &["--ipv6", "--fixed-cidr-v6", "fd77::/64"][..],
            json!([{"Subnet": "fd77::/64", "IPRange": "fd77::/64"}, {"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]),
        ),
        (
            &["--ipv6", "--fixed-cidr-v6", "fd77::/80", "--bip6", "fd77::9/64", "--bip", "10.77.0.1/24"],
            json!([
                {"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.1"},
                {"Subnet": "fd77::/64", "IPRange": "fd77::/80", "Gateway": "fd77::9"}
            ]),
        ),
        (
            &["--bip", "10.77.0.5/24", "--default-gateway", "10.77.0.254"],
            json!([{"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.5",
                "AuxiliaryAddresses": {"DefaultGatewayIPv4": "10.77.0.254"}}]),
        ),
    ] {
        // A later flag overrides the one that keeps private daemons from having a bridge.
        let private = Private::start(case.host(), &[flags, &["--bridge="]].concat(), None)?;
        let found = private.host().http("GET", "/networks/bridge")?.json()?;
        equal(&found["IPAM"]["Config"], &wanted).with_context(|| format!("{flags:?}"))?;
    }
    Ok(())
}
