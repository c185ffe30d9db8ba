//! Names of containers on user-defined networks: who is found under which name by whom, what `/etc/resolv.conf` says, whom
//! the resolver asks itself, and that all of it follows the containers' lives, and the daemon's.

use std::collections::HashSet;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has};
use compat_tests::daemon::Daemon;
use compat_tests::dns::{self, Told, UPSTREAM_ANSWER, Upstream, ZONE, ask, ask_by_stream};
use compat_tests::network::Network;
use compat_tests::private::Private;
use compat_tests::{Case, LIMIT, Suite, suite, tests};
use serde_json::json;

fn main() -> ExitCode {
    Suite {
        name: "dns",
        flags: &[],
        tests: tests![
            names_of_a_container,
            one_alias_for_several,
            other_families_and_reverse,
            both_families,
            over_tcp,
            links_are_names_of_ones_own,
            links_on_the_default_bridge,
            refused_links,
            several_networks,
            connected_while_running,
            an_edited_file_stays,
            the_file_and_its_options,
            files_of_other_networks,
            settings_of_the_daemon,
            renamed,
            names_end_with_their_container,
            names_before_the_start,
            a_shared_network,
            the_first_query,
            internal_networks,
            forwarding_to_the_hosts_server,
            forwarding_to_a_server_of_ones_own,
            a_dead_server_is_passed_over,
            resolvers_of_c_libraries,
            an_end_closes_the_resolver,
            killed_daemon,
        ],
    }
    .main()
}

fn network(case: &Case<'_>, what: &str, options: &[&str]) -> Result<String> {
    let name = case.network(what);
    case.docker(&[&["network", "create"], options, &[&name]].concat()).ok()?;
    Ok(name)
}

/// The namespace a running container's programs are in.
fn inside(case: &Case<'_>, container: &str) -> Result<Network> {
    Network::of_process(case.inspect(container, "{{.State.Pid}}").parse().context("no process")?)
}

fn address(case: &Case<'_>, container: &str, network: &str) -> String {
    case.inspect(container, &format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}"))
}

fn file(case: &Case<'_>, container: &str, path: &str) -> Result<String> {
    case.docker(&["exec", container, "cat", path]).ok()
}

/// Asks until the answer is as wanted: the daemon may have told the client of a change before others see it.
fn until(network: &Network, name: &str, kind: &str, wanted: impl Fn(&Told) -> bool) -> Result<()> {
    let begun = Instant::now();
    loop {
        let told = ask(network, name, kind)?;
        if wanted(&told) {
            return Ok(());
        }
        ensure!(begun.elapsed() < LIMIT, "{kind} {name} is still {told:?}");
        std::thread::sleep(compat_tests::PAUSE);
    }
}

fn names_of_a_container(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let options =
        ["--network", &net, "--network-alias", "Alias", "--network-alias", "two.parts", "--hostname", "hosty"];
    let web = case.sleeper("web", &options)?;
    let client = case.sleeper("client", &["--network", &net, "--domainname", "dom.ain"])?;
    let (from, at) = (inside(case, &client)?, address(case, &web, &net));
    let id = case.inspect(&web, "{{.Id}}");
    let short = &id[..12];
    let by_network = format!("{web}.{net}");
    for name in [&web, "alias", "ALIAS", "two.parts", "hosty", short, &by_network, &format!("alias.{net}")] {
        ask(&from, name, "A").and_then(|told| told.are(&[&at])).with_context(|| name.to_owned())?;
    }
    ask(&from, &client, "A")?.are(&[&address(case, &client, &net)])?;
    for name in ["nobody", &format!("{web}.other"), &format!("{client}.dom.ain")] {
        ask(&from, name, "A").and_then(|told| told.is_unknown()).with_context(|| name.to_owned())?;
    }
    equal(
        &case.inspect_json(&web)?["NetworkSettings"]["Networks"][&net]["DNSNames"],
        &json!([web, "Alias", "two.parts", short, "hosty"]),
    )
}

fn one_alias_for_several(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let options = ["--network", &net, "--network-alias", "service"];
    let names = ["one", "two", "three"].map(|what| case.sleeper(what, &options));
    let names = names.into_iter().collect::<Result<Vec<_>>>()?;
    let addresses: Vec<String> = names.iter().map(|name| address(case, name, &net)).collect();
    let from = inside(case, &names[0])?;
    let wanted: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut first = HashSet::new();
    for _ in 0..60 {
        let told = ask(&from, "service", "A")?;
        told.are(&wanted)?;
        first.extend(told.answers.first().cloned());
    }
    equal(first.len(), 3)?;
    case.docker(&["rm", "-f", &names[2]]).ok()?;
    until(&from, "service", "A", |told| told.are(&wanted[..2]).is_ok())
}

fn other_families_and_reverse(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let web = case.sleeper("web", &["--network", &net, "--network-alias", "alias"])?;
    let from = inside(case, &web)?;
    let at = address(case, &web, &net);
    for name in [&web, "alias"] {
        equal(ask(&from, name, "AAAA")?, Told { code: 0, answers: Vec::new() })?;
    }
    ask(&from, &dns::reverse(&at)?, "PTR")?.are(&[&format!("{web}.{net}.")])?;
    // Nobody has this one, and nobody else is there to be asked.
    ask(&from, &dns::reverse("192.0.2.200")?, "PTR")?.is_unknown()
}

fn both_families(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &["--ipv6", "--subnet", "fd5a:1::/64"])?;
    let web = case.sleeper("web", &["--network", &net, "--network-alias", "alias"])?;
    let client = case.sleeper("client", &["--network", &net, "--link", &format!("{web}:linked")])?;
    let endpoint = case.inspect_json(&web)?["NetworkSettings"]["Networks"][&net].clone();
    let at = |field: &str| endpoint[field].as_str().unwrap_or_default().to_owned();
    let (v4, v6) = (at("IPAddress"), at("GlobalIPv6Address"));
    let from = inside(case, &client)?;
    for name in [&web, "alias", "linked"] {
        ask(&from, name, "A")?.are(&[&v4])?;
        ask(&from, name, "AAAA")?.are(&[&v6])?;
    }
    for address in [&v4, &v6] {
        ask(&from, &dns::reverse(address)?, "PTR")?.are(&[&format!("{web}.{net}.")])?;
    }
    Ok(())
}

fn over_tcp(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let web = case.sleeper("web", &["--network", &net])?;
    let from = inside(case, &web)?;
    ask_by_stream(&from, &web, "A")?.are(&[&address(case, &web, &net)])?;
    ask_by_stream(&from, "nobody", "A")?.is_unknown()
}

fn links_are_names_of_ones_own(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let db = case.sleeper("db", &["--network", &net])?;
    let web = case.sleeper("web", &["--network", &net, "--link", &format!("{db}:store"), "--link", &db])?;
    let (from, at) = (inside(case, &web)?, address(case, &db, &net));
    for name in ["store", &db, &format!("store.{net}")] {
        ask(&from, name, "A").and_then(|told| told.are(&[&at])).with_context(|| name.to_owned())?;
    }
    // Nobody else knows it, and it is no line of the hosts file there.
    ask(&inside(case, &db)?, "store", "A")?.is_unknown()?;
    ensure!(!file(case, &web, "/etc/hosts")?.contains("store"));
    // What a name stands for may come later, and while it is not there, it is unknown.
    let late = case.container("late");
    let early = case.sleeper("early", &["--network", &net, "--link", &format!("{late}:other")])?;
    let from = inside(case, &early)?;
    ask(&from, "other", "A")?.is_unknown()?;
    case.sleeper("late", &["--network", &net])?;
    until(&from, "other", "A", |told| told.are(&[&address(case, &late, &net)]).is_ok())
}

fn links_on_the_default_bridge(case: &Case<'_>) -> Result<()> {
    let bridge = ["--network", "bridge"];
    let db = case.sleeper("db", &[&bridge[..], &["-e", "A=b=c", "--expose", "80", "--expose", "53/udp"]].concat())?;
    let id = case.inspect(&db, "{{.Id}}");
    let (short, at) = (&id[..12], address(case, &db, "bridge"));
    let link = format!("{db}:data-base");
    let options = [&bridge[..], &["--link", &link, "--link", &db, "-e", "DATA_BASE_NAME=own"]].concat();
    let web = case.sleeper("web", &options)?;
    let hosts = file(case, &web, "/etc/hosts")?;
    has(&hosts, &format!("{at}\tdata-base {short} {db}\n"))?;
    has(&hosts, &format!("{at}\t{db} {short}\n"))?;
    let environment = case.docker(&["exec", &web, "env"]).ok()?;
    let lines: Vec<&str> = environment.lines().filter(|line| line.starts_with("DATA_BASE_")).collect();
    equal(
        lines,
        [
            format!("DATA_BASE_PORT=tcp://{at}:80").as_str(),
            &format!("DATA_BASE_PORT_80_TCP=tcp://{at}:80"),
            &format!("DATA_BASE_PORT_80_TCP_ADDR={at}"),
            "DATA_BASE_PORT_80_TCP_PORT=80",
            "DATA_BASE_PORT_80_TCP_PROTO=tcp",
            &format!("DATA_BASE_PORT_53_UDP=udp://{at}:53"),
            &format!("DATA_BASE_PORT_53_UDP_ADDR={at}"),
            "DATA_BASE_PORT_53_UDP_PORT=53",
            "DATA_BASE_PORT_53_UDP_PROTO=udp",
            "DATA_BASE_NAME=own",
            "DATA_BASE_ENV_A=b=c",
        ]
        .to_vec(),
    )?;
    let shown = case.inspect_json(&web)?["HostConfig"]["Links"].clone();
    let shown: HashSet<&str> = shown.as_array().into_iter().flatten().filter_map(|link| link.as_str()).collect();
    let wanted = [format!("/{db}:/{web}/data-base"), format!("/{db}:/{web}/{db}")];
    equal(shown, wanted.iter().map(String::as_str).collect())?;
    // Another address and another name are found at the next start.
    case.docker(&["rename", &db, &case.container("renamed")]).ok()?;
    case.docker(&["restart", "-t", "0", &web]).ok()?;
    has(&file(case, &web, "/etc/hosts")?, &format!("{at}\tdata-base {short} {}\n", case.container("renamed")))?;
    links_taken_away(case, &web, &db)
}

/// `docker rm --link`, and the names that links are.
fn links_taken_away(case: &Case<'_>, web: &str, db: &str) -> Result<()> {
    let name = |alias: &str| format!("{web}/{alias}");
    let target = case.container("renamed");
    let listed = || {
        let filter = format!("name={target}");
        case.docker(&["ps", "--no-trunc", "--filter", &filter, "--format", "{{.Names}}"]).ok()
    };
    let names = listed()?;
    let mut names: Vec<&str> = names.split(',').collect();
    names.sort_unstable();
    let mut wanted = [target.clone(), name("data-base"), name(db)];
    wanted.sort_unstable();
    equal(names, wanted.iter().map(String::as_str).collect())?;
    case.docker(&["rm", "--link", &name("data-base")]).ok()?;
    ensure!(!file(case, web, "/etc/hosts")?.contains("data-base"));
    ensure!(!listed()?.contains("data-base"));
    let shown = case.inspect_json(web)?["HostConfig"]["Links"].clone();
    equal(shown, json!([format!("/{target}:/{web}/{db}")]))?;
    has(&case.docker(&["rm", "--link", &name("data-base")]).err, "No such container")?;
    has(&case.docker(&["rm", "--link", web]).err, "Conflict, cannot remove the default link name of the container")
}

fn refused_links(case: &Case<'_>) -> Result<()> {
    let db = case.create("db", &["--network", "bridge"], &["true"])?;
    let name = case.container("web");
    let run = ["run", "--network", "bridge", "--name", &name, "--link", &format!("{db}:data"), case.image(), "true"];
    let said = case.docker(&run);
    has(&said.err, &format!("Cannot link to a non running container: /{db} AS /{name}/data"))?;
    let unknown = ["create", "--network", "bridge", "--link", "nosuch-container:x", case.image(), "true"];
    has(&case.docker(&unknown).err, "could not get container for nosuch-container")
}

fn several_networks(case: &Case<'_>) -> Result<()> {
    let (near, far) = (network(case, "near", &[])?, network(case, "far", &[])?);
    let both = case.create("both", &["--network", &near, "--network-alias", "alias"], &["sleep", "100000"])?;
    case.docker(&["network", "connect", "--alias", "other", &far, &both]).ok()?;
    case.docker(&["start", &both]).ok()?;
    let one = case.sleeper("one", &["--network", &near])?;
    let two = case.sleeper("two", &["--network", &far])?;
    let (near_at, far_at) = (address(case, &both, &near), address(case, &both, &far));
    let from = inside(case, &one)?;
    ask(&from, &both, "A")?.are(&[&near_at])?;
    ask(&from, "alias", "A")?.are(&[&near_at])?;
    ask(&from, "other", "A")?.is_unknown()?;
    ask(&from, &two, "A")?.is_unknown()?;
    let from = inside(case, &two)?;
    ask(&from, &both, "A")?.are(&[&far_at])?;
    ask(&from, "alias", "A")?.is_unknown()?;
    let from = inside(case, &both)?;
    ask(&from, &one, "A")?.are(&[&address(case, &one, &near)])?;
    ask(&from, &two, "A")?.are(&[&address(case, &two, &far)])?;
    ask(&from, &format!("{both}.{far}"), "A")?.are(&[&far_at])?;
    ask(&from, &format!("{two}.{near}"), "A")?.is_unknown()
}

fn connected_while_running(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let web = case.sleeper("web", &["--network", &net])?;
    let guest = case.sleeper("guest", &["--network", "bridge"])?;
    ensure!(!file(case, &guest, "/etc/resolv.conf")?.contains("127.0.0.11"));
    case.docker(&["network", "connect", "--alias", "visitor", &net, &guest]).ok()?;
    let text = file(case, &guest, "/etc/resolv.conf")?;
    has(&text, "nameserver 127.0.0.11\n")?;
    has(&text, "options ndots:0")?;
    let (from, at) = (inside(case, &guest)?, address(case, &guest, &net));
    ask(&from, &web, "A")?.are(&[&address(case, &web, &net)])?;
    ask(&inside(case, &web)?, "visitor", "A")?.are(&[&at])?;
    // The resolver stays; the names are gone on both sides.
    case.docker(&["network", "disconnect", &net, &guest]).ok()?;
    equal(file(case, &guest, "/etc/resolv.conf")?, text)?;
    ask(&from, &web, "A")?.is_unknown()?;
    ask(&inside(case, &web)?, "visitor", "A")?.is_unknown()?;
    case.docker(&["network", "connect", &net, &guest]).ok()?;
    ask(&from, &web, "A")?.are(&[&address(case, &web, &net)])?;
    // The last network of one that was made for it.
    let from = inside(case, &web)?;
    case.docker(&["network", "disconnect", &net, &web]).ok()?;
    has(&file(case, &web, "/etc/resolv.conf")?, "nameserver 127.0.0.11\n")?;
    ask(&from, &guest, "A")?.is_unknown()?;
    ask(&from, &web, "A")?.is_unknown()
}

fn an_edited_file_stays(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let guest = case.sleeper("guest", &["--network", "bridge"])?;
    case.docker(&["exec", &guest, "sh", "-c", "echo nameserver 192.0.2.1 >/etc/resolv.conf"]).ok()?;
    case.docker(&["network", "connect", &net, &guest]).ok()?;
    equal(file(case, &guest, "/etc/resolv.conf")?.as_str(), "nameserver 192.0.2.1")?;
    case.docker(&["restart", "-t", "0", &guest]).ok()?;
    has(&file(case, &guest, "/etc/resolv.conf")?, "nameserver 127.0.0.11\n")
}

/// A container's file, made with these options.
fn made(case: &Case<'_>, options: &[&str]) -> Result<String> {
    case.shell(options, "cat /etc/resolv.conf")
}

fn the_file_and_its_options(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let head = "# Generated by Docker Engine.\n# This file can be edited; Docker Engine will not make further changes once it\n\
                # has been modified.\n\nnameserver 127.0.0.11\n";
    let host = case.host().path(std::path::Path::new("/etc/resolv.conf"));
    let host = std::fs::read_to_string(host)?;
    let servers =
        host.lines().filter_map(|line| line.strip_prefix("nameserver ")).map(|s| format!("host({})", s.trim()));
    let servers = servers.collect::<Vec<_>>().join(" ");
    let text = made(case, &["--network", &net])?;
    has(&text, head)?;
    has(&text, &format!("# Based on host file: '/etc/resolv.conf' (internal resolver)\n# ExtServers: [{servers}]\n"))?;
    has(&text, "# Overrides: []\n# Option ndots from: internal")?;
    let options = ["--network", &net, "--dns", "192.0.2.1", "--dns", "192.0.2.2", "--dns-search", "a.test"];
    let text = made(
        case,
        &[&options[..], &["--dns-search", "b.test", "--dns-option", "ndots:2", "--dns-option", "rotate"]].concat(),
    )?;
    equal(
        text.as_str(),
        &format!(
            "{head}search a.test b.test\noptions ndots:2 rotate\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n\
             # ExtServers: [192.0.2.1 192.0.2.2]\n# Overrides: [nameservers search options]\n# Option ndots from: override"
        ),
    )?;
    let text = made(case, &["--network", &net, "--dns-option", "timeout:1", "--dns-search", "."])?;
    has(&text, &format!("{head}options timeout:1 ndots:0\n"))?;
    has(&text, "# Overrides: [search options]\n# Option ndots from: internal")
}

fn files_of_other_networks(case: &Case<'_>) -> Result<()> {
    for network in ["bridge", "host", "none"] {
        let text = made(case, &["--network", network])?;
        ensure!(!text.contains("127.0.0.11") && !text.contains("internal resolver"), "{network}: {text}");
    }
    // Names are not looked up there: links are for that.
    let one = case.sleeper("one", &["--network", "bridge"])?;
    let id = case.inspect(&one, "{{json .NetworkSettings.Networks.bridge.DNSNames}}");
    equal(id.as_str(), "null")
}

/// What the daemon's flags say holds where the client says nothing, with a resolver and without.
fn settings_of_the_daemon(case: &Case<'_>) -> Result<()> {
    let flags = ["--dns", "192.0.2.5", "--dns-search", "daemon.test", "--dns-opt", "timeout:3"];
    let private = Private::start(case.host(), &flags, None)?;
    let docker = |arguments: &[&str]| private.host().docker(arguments, "").ok();
    let image = suite::import(private.host(), "dns-flags")?;
    docker(&["network", "create", "net"])?;
    let text = |network: &str, options: &[&str]| {
        docker(&[&["run", "--rm", "--network", network], options, &[&image, "cat", "/etc/resolv.conf"]].concat())
    };
    let found = text("net", &[])?;
    has(&found, "nameserver 127.0.0.11\nsearch daemon.test\noptions timeout:3 ndots:0\n")?;
    has(&found, "# ExtServers: [192.0.2.5]\n# Overrides: [nameservers search options]\n")?;
    let found = text("none", &[])?;
    has(&found, "nameserver 192.0.2.5\nsearch daemon.test\noptions timeout:3\n")?;
    has(&found, "(legacy)\n# Overrides: [nameservers search options]")?;
    let found = text("net", &["--dns", "192.0.2.6", "--dns-search", "own.test", "--dns-option", "ndots:1"])?;
    has(&found, "nameserver 127.0.0.11\nsearch own.test\noptions ndots:1\n")?;
    has(&found, "# ExtServers: [192.0.2.6]\n")?;
    docker(&["network", "rm", "net"])?;
    docker(&["rmi", "-f", &image]).map(drop)
}

fn renamed(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let web = case.sleeper("web", &["--network", &net, "--network-alias", "alias"])?;
    let client = case.sleeper("client", &["--network", &net, "--link", &format!("{web}:linked")])?;
    let (from, at) = (inside(case, &client)?, address(case, &web, &net));
    ask(&from, "linked", "A")?.are(&[&at])?;
    let new = case.container("new");
    case.docker(&["rename", &web, &new]).ok()?;
    ask(&from, &new, "A")?.are(&[&at])?;
    ask(&from, &web, "A")?.is_unknown()?;
    ask(&from, "alias", "A")?.are(&[&at])?;
    ask(&from, &dns::reverse(&at)?, "PTR")?.are(&[&format!("{new}.{net}.")])?;
    let id = case.inspect(&new, "{{.Id}}");
    let shown = case.inspect_json(&new)?["NetworkSettings"]["Networks"][&net]["DNSNames"].clone();
    equal(shown, json!([new, "alias", id[..12]]))
}

fn names_end_with_their_container(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let client = case.sleeper("client", &["--network", &net])?;
    let web = case.sleeper("web", &["--network", &net, "--network-alias", "alias"])?;
    let (from, id) = (inside(case, &client)?, case.inspect(&web, "{{.Id}}"));
    ask(&from, &web, "A")?.are(&[&address(case, &web, &net)])?;
    case.docker(&["kill", &web]).ok()?;
    case.docker(&["wait", &web]).ok()?;
    for name in [&web, "alias", &id[..12]] {
        ask(&from, name, "A").and_then(|told| told.is_unknown()).with_context(|| name.to_owned())?;
    }
    // What it was called is still shown.
    let shown = case.inspect_json(&web)?["NetworkSettings"]["Networks"][&net]["DNSNames"].clone();
    equal(shown, json!([web, "alias", id[..12]]))?;
    case.docker(&["start", &web]).ok()?;
    ask(&from, &web, "A")?.are(&[&address(case, &web, &net)])?;
    // One that has no process yet has no names, and one that never gets one leaves none.
    let broken = case.create("broken", &["--network", &net], &["/nosuch"])?;
    ask(&from, &broken, "A")?.is_unknown()?;
    ensure!(case.docker(&["start", &broken]).code != 0);
    ask(&from, &broken, "A")?.is_unknown()
}

fn names_before_the_start(case: &Case<'_>) -> Result<()> {
    let (first, second) = (network(case, "first", &[])?, network(case, "second", &[])?);
    let options = ["--network", &first, "--network-alias", "alias", "--hostname", "hosty"];
    let web = case.create("web", &options, &["true"])?;
    let shown = |network: &str| {
        Ok::<_, anyhow::Error>(case.inspect_json(&web)?["NetworkSettings"]["Networks"][network]["DNSNames"].clone())
    };
    equal(shown(&first)?, json!(null))?;
    case.docker(&["network", "connect", "--alias", "later", &second, &web]).ok()?;
    let id = case.inspect(&web, "{{.Id}}");
    equal(shown(&second)?, json!([web, "later", id[..12], "hosty"]))?;
    equal(shown(&first)?, json!(null))
}

fn a_shared_network(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let web = case.sleeper("web", &["--network", &net])?;
    let join = format!("container:{web}");
    equal(made(case, &["--network", &join])?, file(case, &web, "/etc/resolv.conf")?)?;
    let told = case.shell(&["--network", &join], &format!("nslookup -type=a {web}"))?;
    has(&told, &address(case, &web, &net))
}

/// The resolver is there before the first program is.
fn the_first_query(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let web = case.sleeper("web", &["--network", &net])?;
    let at = address(case, &web, &net);
    for _ in 0..15 {
        let told = case.run(&["--network", &net], &["nslookup", "-type=a", &web]);
        ensure!(told.code == 0, "{told:?}");
        has(&told.out, &at)?;
    }
    Ok(())
}

/// The host's first server, at which a server of the test's can be: in the daemon's network namespace nobody else is there.
fn hosts_server(case: &Case<'_>) -> Result<IpAddr> {
    let path = case.host().path(std::path::Path::new("/etc/resolv.conf"));
    let text = std::fs::read_to_string(&path)?;
    let server = text.lines().find_map(|line| line.strip_prefix("nameserver "));
    Ok(server.context("the host has no name server")?.trim().parse()?)
}

fn internal_networks(case: &Case<'_>) -> Result<()> {
    let (net, open) = (network(case, "net", &["--internal"])?, network(case, "open", &[])?);
    let web = case.sleeper("web", &["--network", &net])?;
    let client = case.sleeper("client", &["--network", &net])?;
    has(&file(case, &client, "/etc/resolv.conf")?, "nameserver 127.0.0.11\n")?;
    let from = inside(case, &client)?;
    ask(&from, &web, "A")?.are(&[&address(case, &web, &net)])?;
    ask(&from, &format!("internal.{ZONE}"), "A")?.is_unknown()?;
    // With a way out, others are asked.
    case.docker(&["network", "connect", &open, &client]).ok()?;
    ask(&from, &web, "A")?.are(&[&address(case, &web, &net)])
}

fn forwarding_to_the_hosts_server(case: &Case<'_>) -> Result<()> {
    let host = Network::of(case.host())?;
    let server = hosts_server(case)?;
    if !server.is_loopback() {
        host.add_address(&format!("{server}/{}", if server.is_ipv4() { 32 } else { 128 }))?;
    }
    let upstream = Upstream::start(&host, server)?;
    let (net, internal) = (network(case, "net", &[])?, network(case, "internal", &["--internal"])?);
    let client = case.sleeper("client", &["--network", &net])?;
    let from = inside(case, &client)?;
    let wanted = UPSTREAM_ANSWER.to_string();
    ask(&from, &format!("www.{ZONE}"), "A")?.are(&[&wanted])?;
    ask_by_stream(&from, &format!("stream.{ZONE}"), "A")?.are(&[&wanted])?;
    equal(ask(&from, &format!("www.{ZONE}"), "AAAA")?, Told { code: 0, answers: Vec::new() })?;
    // What it does not know is unknown (NXDOMAIN is 3), and names without a dot are passed on too.
    equal(ask(&from, "nobody.example", "A")?.code, 3)?;
    equal(ask(&from, "nobody-else", "A")?.code, 3)?;
    ensure!(upstream.was_asked("nobody-else"));
    // A container's own names are not.
    ask(&from, &client, "A")?.are(&[&address(case, &client, &net)])?;
    equal(ask(&from, &client, "AAAA")?.code, 0)?;
    ensure!(!upstream.was_asked(&client));
    // Without a way out, nobody is asked, and with one again.
    let shut = case.sleeper("shut", &["--network", &internal])?;
    let from = inside(case, &shut)?;
    ask(&from, &format!("shut.{ZONE}"), "A")?.is_unknown()?;
    case.docker(&["network", "connect", &net, &shut]).ok()?;
    ask(&from, &format!("shut.{ZONE}"), "A")?.are(&[&wanted])?;
    case.docker(&["network", "disconnect", &net, &shut]).ok()?;
    ask(&from, &format!("shut-again.{ZONE}"), "A")?.is_unknown()?;
    drop(upstream);
    Ok(())
}

/// What `--dns` names is asked from the container.
fn forwarding_to_a_server_of_ones_own(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let client = case.sleeper("client", &["--network", &net, "--dns", "127.0.0.99", "--dns-option", "ndots:1"])?;
    let from = inside(case, &client)?;
    let upstream = Upstream::start(&from, "127.0.0.99".parse()?)?;
    ask(&from, &format!("own.{ZONE}"), "A")?.are(&[&UPSTREAM_ANSWER.to_string()])?;
    // Who sets ndots has names without a dot completed by the client first.
    let told = ask(&from, "nobody", "A")?;
    ensure!(told.answers.is_empty() && !upstream.was_asked("nobody"), "{told:?}");
    Ok(())
}

fn a_dead_server_is_passed_over(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let peer = case.sleeper("peer", &["--network", &net])?;
    // An address of the container's own network nobody answers at.
    let dead = address(case, &peer, &net);
    let client = case.sleeper("client", &["--network", &net, "--dns", &dead, "--dns", "127.0.0.99"])?;
    let from = inside(case, &client)?;
    // A socket nobody reads.
    let _mute = inside(case, &peer)?.datagrams(&format!("{dead}:53"))?;
    let _upstream = Upstream::start(&from, "127.0.0.99".parse()?)?;
    let begun = Instant::now();
    ask(&from, &format!("late.{ZONE}"), "A")?.are(&[&UPSTREAM_ANSWER.to_string()])?;
    let patience = if case.is_ours() { Duration::from_secs(3) } else { Duration::from_secs(10) };
    ensure!(begun.elapsed() < patience, "{:?}", begun.elapsed());
    // Names of containers never wait for it.
    let begun = Instant::now();
    ask(&from, &peer, "A")?.are(&[&dead])?;
    ensure!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    Ok(())
}

/// The two resolvers most images have: glibc's, taken from the daemon's own root, and busybox's.
fn resolvers_of_c_libraries(case: &Case<'_>) -> Result<()> {
    let net = network(case, "net", &[])?;
    let web = case.sleeper("web", &["--network", &net, "--network-alias", "alias"])?;
    let at = address(case, &web, &net);
    let mounts = ["-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro"];
    for name in [&web, "alias", &format!("{web}.{net}")] {
        let found = case.run(&[&["--network", &net], &mounts[..]].concat(), &["/usr/bin/getent", "ahostsv4", name]);
        has(&found.out, &at).with_context(|| format!("glibc: {name}: {found:?}"))?;
        let told = case.run(&["--network", &net], &["nslookup", "-type=a", name]);
        has(&told.out, &at).with_context(|| format!("busybox: {name}: {told:?}"))?;
    }
    Ok(())
}

/// Ours alone, because sockets are counted: those of a resolver would keep the network namespace of a container that has
/// ended and was not removed.
fn an_end_closes_the_resolver(case: &Case<'_>) -> Result<()> {
    if !case.is_ours() {
        return Ok(());
    }
    let mut daemon = Daemon::start(&[])?;
    let image = suite::import(daemon.host(), "dns")?;
    let descriptors = format!("/proc/{}/fd", daemon.host().pid);
    let sockets = || {
        let links = std::fs::read_dir(&descriptors).into_iter().flatten().flatten();
        links
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .filter(|to| to.to_string_lossy().starts_with("socket:"))
            .count()
    };
    let docker = |arguments: &[&str]| daemon.host().docker(arguments, "").ok();
    let run_and_kill = |names: &[&str]| {
        for name in names {
            docker(&["run", "-d", "--name", name, "--network", "net", &image, "sleep", "100000"])?;
            docker(&["exec", name, "nslookup", "-type=a", name])?;
        }
        docker(&[&["kill"], names].concat())?;
        docker(&[&["wait"], names].concat())
    };
    docker(&["network", "create", "net"])?;
    run_and_kill(&["first"])?;
    let before = sockets();
    run_and_kill(&["one", "two", "three", "four"])?;
    let begun = Instant::now();
    while sockets() > before {
        ensure!(begun.elapsed() < LIMIT, "{} sockets, before {before}", sockets());
        std::thread::sleep(compat_tests::PAUSE);
    }
    docker(&["rm", "first", "one", "two", "three", "four"])?;
    daemon.stop()
}

/// Ours alone: a stock daemon that is killed is not started again by the tests.
fn killed_daemon(case: &Case<'_>) -> Result<()> {
    if !case.is_ours() {
        return Ok(());
    }
    let mut daemon = Daemon::start(&[])?;
    let image = suite::import(daemon.host(), "dns")?;
    let inspect =
        |daemon: &Daemon, name: &str, template: &str| daemon.host().docker(&["inspect", "-f", template, name], "").ok();
    let run = |daemon: &Daemon, name: &str, options: &[&str]| {
        let head = ["run", "-d", "--name", name];
        daemon.host().docker(&[&head, options, &[&image, "sleep", "100000"]].concat(), "").ok()
    };
    daemon.host().docker(&["network", "create", "net"], "").ok()?;
    run(&daemon, "web", &["--network", "net", "--network-alias", "alias"])?;
    run(&daemon, "gone", &["--network", "net"])?;
    run(&daemon, "client", &["--network", "net", "--link", "web:linked"])?;
    run(&daemon, "guest", &[])?;
    daemon.host().docker(&["network", "connect", "net", "guest"], "").ok()?;
    daemon.host().docker(&["network", "disconnect", "net", "guest"], "").ok()?;
    let pid =
        |daemon: &Daemon, name: &str| Ok::<_, anyhow::Error>(inspect(daemon, name, "{{.State.Pid}}")?.parse::<u32>()?);
    let (from, guest) = (Network::of_process(pid(&daemon, "client")?)?, Network::of_process(pid(&daemon, "guest")?)?);
    let at = inspect(&daemon, "web", "{{.NetworkSettings.Networks.net.IPAddress}}")?;
    let gone = pid(&daemon, "gone")?;
    ask(&from, "gone", "A")?.are(&[&inspect(&daemon, "gone", "{{.NetworkSettings.Networks.net.IPAddress}}")?])?;
    for round in 0..2 {
        daemon.kill()?;
        if round == 0 {
            ensure!(std::process::Command::new("kill").args(["-9", &gone.to_string()]).status()?.success());
        }
        daemon.restart()?;
        for name in ["web", "alias", "linked", "web.net"] {
            ask(&from, name, "A").and_then(|told| told.are(&[&at])).with_context(|| format!("{round}: {name}"))?;
        }
        ask_by_stream(&from, "web", "A")?.are(&[&at])?;
        ask(&from, "gone", "A")?.is_unknown()?;
        // Its file leads to a resolver, so one is there; it is on no network with names.
        ask(&guest, "web", "A")?.is_unknown()?;
    }
    daemon.host().docker(&["rename", "web", "site"], "").ok()?;
    ask(&from, "site", "A")?.are(&[&at])?;
    daemon.host().docker(&["rm", "-f", "site"], "").ok()?;
    until(&from, "alias", "A", |told| told.is_unknown().is_ok())?;
    let ids = daemon.host().docker(&["ps", "-aq"], "").ok()?;
    daemon.host().docker(&[&["rm", "-f"], &ids.lines().collect::<Vec<_>>()[..]].concat(), "").ok()?;
    daemon.stop()
}
