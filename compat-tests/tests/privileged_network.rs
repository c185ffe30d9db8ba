//! The default bridge: addresses, published ports, shared and host networks, what inspect and lists say, and the daemon's
//! death. What is "the host" here is a container in the host's network.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has};
use compat_tests::{Case, SERVER, Suite, tests};

const BRIDGE: [&str; 2] = ["--network", "bridge"];

fn main() -> ExitCode {
    Suite {
        name: "network",
        flags: &[],
        tests: tests![
            addresses_and_files,
            what_is_left_of_a_stopped_one,
            published_ports_are_reached,
            published_ports_are_listed,
            free_ports_and_ranges,
            a_port_has_one_owner,
            a_program_of_the_host_keeps_its_port,
            joined_host_and_no_network,
            refused_settings,
            networks_are_listed,
        ],
    }
    .main()
}

fn serve(case: &Case<'_>, name: &str, options: &[&str]) -> Result<String> {
    case.start(name, &[&BRIDGE, options].concat(), &SERVER)
}

fn from_host(case: &Case<'_>, url: &str) -> Result<()> {
    case.fetch(&["--network", "host"], url)
}

fn addresses_and_files(case: &Case<'_>) -> Result<()> {
    let name = serve(case, "a", &["--hostname", "alpha", "--mac-address", "02:42:0a:01:02:03"])?;
    let template = "{{with .NetworkSettings}}{{.IPAddress}} {{.IPPrefixLen}} {{.Gateway}} {{.MacAddress}} \
                    {{.Networks.bridge.IPAddress}}{{end}} {{.HostConfig.NetworkMode}} {{.Config.MacAddress}}";
    let settings = case.inspect(&name, template);
    let words: Vec<&str> = settings.split(' ').collect();
    let [address, prefix, gateway, mac, again, mode, wanted] = words[..] else { anyhow::bail!("{settings}") };
    equal((prefix, gateway, mac, mode), ("16", "172.17.0.1", "02:42:0a:01:02:03", "bridge"))?;
    equal((again, wanted), (address, mac))?;
    let inside = |command: &[&str]| case.docker(&[&["exec", &name], command].concat()).ok();
    equal(inside(&["cat", "/sys/class/net/eth0/address"])?.as_str(), mac)?;
    ensure!(
        inside(&["cat", "/etc/hosts"])?.ends_with(&format!("{address}\talpha")),
        "{}",
        inside(&["cat", "/etc/hosts"])?
    );
    let routes = inside(&["ip", "route"])?;
    ensure!(routes.starts_with("default via 172.17.0.1 dev eth0"), "{routes}");
    equal(inside(&["cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6"])?.as_str(), "1")?;
    // Containers reach each other.
    case.fetch(&BRIDGE, &format!("http://{address}"))?;
    // Without an option it is the bridge, too.
    let mode = case.docker(&["run", "--rm", case.image(), "hostname", "-i"]).ok()?;
    ensure!(mode.starts_with("172.17."), "{mode}");
    Ok(())
}

fn what_is_left_of_a_stopped_one(case: &Case<'_>) -> Result<()> {
    let number = case.port(0);
    let name = serve(case, "a", &["-p", &format!("{number}:80")])?;
    let key = case.inspect(&name, "{{.NetworkSettings.SandboxKey}} {{.NetworkSettings.SandboxID}}");
    let (file, id) = key.split_once(' ').context("two words")?;
    ensure!(file.ends_with(&id[..12]) && id.len() == 64, "{key}");
    case.docker(&["stop", "-t", "0", &name]).ok()?;
    let stopped = "{{with .NetworkSettings}}[{{.IPAddress}}{{.SandboxID}}{{.SandboxKey}}{{.MacAddress}}{{.EndpointID}}]\
                   {{len .Networks.bridge.NetworkID}} {{len .Ports}}{{end}}";
    equal(case.inspect(&name, stopped).as_str(), "[]64 0")?;
    equal(case.docker(&["port", &name]).ok()?.as_str(), "")?;
    // With the exit the port was free again.
    serve(case, "b", &["-p", &format!("{number}:80")])?;
    from_host(case, &format!("http://127.0.0.1:{number}"))
}

fn published_ports_are_reached(case: &Case<'_>) -> Result<()> {
    let (all, local) = (case.port(0), case.port(1));
    let name = serve(case, "a", &["-p", &format!("{all}:80"), "-p", &format!("127.0.0.1:{local}:80")])?;
    for address in
        [format!("127.0.0.1:{all}"), format!("172.17.0.1:{all}"), format!("127.0.0.1:{local}"), format!("[::1]:{all}")]
    {
        from_host(case, &format!("http://{address}"))?;
    }
    // From another container, and from the same one.
    case.fetch(&BRIDGE, &format!("http://172.17.0.1:{all}"))?;
    case.fetch(&["--network", &format!("container:{name}")], &format!("http://172.17.0.1:{all}"))?;
    case.docker(&["rm", "-f", &name]).ok()?;
    let url = format!("http://127.0.0.1:{all}");
    let gone = case.docker(&["run", "--rm", "--network", "host", case.image(), "wget", "-qO-", &url]);
    has(&gone.err, "refused")
}

fn published_ports_are_listed(case: &Case<'_>) -> Result<()> {
    let [a, b, c, d] = [0, 1, 2, 3].map(|number| case.port(number));
    let udp = format!("{c}-{d}:90-91/udp");
    let options = ["-p", &format!("{a}:80"), "-p", &format!("127.0.0.1:{b}:80"), "-p", &udp, "--expose", "99"];
    let name = serve(case, "a", &options)?;
    let ports = case.docker(&["port", &name]).ok()?;
    let wanted = format!(
        "80/tcp -> 0.0.0.0:{a}\n80/tcp -> 127.0.0.1:{b}\n80/tcp -> [::]:{a}\n90/udp -> 0.0.0.0:{c}\n90/udp -> [::]:{c}\n\
         91/udp -> 0.0.0.0:{d}\n91/udp -> [::]:{d}"
    );
    equal(ports, wanted)?;
    let listed = case.docker(&["ps", "--filter", &format!("name={name}"), "--format", "{{.Ports}}"]).ok()?;
    let wanted = format!(
        "99/tcp, 0.0.0.0:{a}->80/tcp, 127.0.0.1:{b}->80/tcp, [::]:{a}->80/tcp, 0.0.0.0:{c}->90/udp, [::]:{c}->90/udp, \
         0.0.0.0:{d}->91/udp, [::]:{d}->91/udp"
    );
    equal(listed, wanted)?;
    let published = case.docker(&["ps", "-q", "--no-trunc", "--filter", &format!("publish={a}")]).ok()?;
    equal(published, case.inspect(&name, "{{.Id}}"))?;
    let missing = case.docker(&["port", &name, "77"]);
    has(&missing.err, "no public port '77").or_else(|_| has(&missing.err, "No public port '77"))
}

fn free_ports_and_ranges(case: &Case<'_>) -> Result<()> {
    let name = serve(case, "a", &["-P", "--expose", "80", "--expose", "81", "-p", "82"])?;
    let mut seen = Vec::new();
    for inner in ["80", "81", "82"] {
        let found = case.docker(&["port", &name, inner]).ok()?;
        let found = found.lines().next().and_then(|line| line.rsplit(':').next()?.parse::<u16>().ok());
        seen.push(found.with_context(|| format!("port {inner}"))?);
    }
    ensure!(seen.iter().all(|number| *number >= 32768) && seen[0] != seen[1], "{seen:?}");
    from_host(case, &format!("http://127.0.0.1:{}", seen[0]))?;
    let (first, last) = (case.port(0), case.port(1));
    for (name, wanted) in [("b", &first), ("c", &last)] {
        let name = serve(case, name, &["-p", &format!("{first}-{last}:80")])?;
        has(&case.docker(&["port", &name, "80"]).ok()?, &format!("0.0.0.0:{wanted}"))?;
    }
    Ok(())
}

fn a_port_has_one_owner(case: &Case<'_>) -> Result<()> {
    let number = case.port(0);
    serve(case, "a", &["-p", &format!("{number}:80")])?;
    for (what, binding) in [("b", format!("{number}:80")), ("c", format!("127.0.0.1:{number}:81"))] {
        let name = case.container(what);
        let ran = case.docker(&["run", "-d", "--name", &name, "-p", &binding, case.image(), "true"]);
        equal(ran.code, 125)?;
        let start =
            "failed to set up container networking: driver failed programming external connectivity on endpoint";
        has(&ran.err, &format!("{start} {name} ("))?;
        // Now and then stock comes to the other address first; ours always names this one.
        let other = format!("): Bind for :::{number} failed: port is already allocated");
        if case.is_ours() || !ran.err.contains(&other) {
            has(&ran.err, &format!("): Bind for 0.0.0.0:{number} failed: port is already allocated"))?;
        }
        equal(case.inspect(&name, "{{.State.Status}} {{.State.ExitCode}}").as_str(), "created 128")?;
    }
    Ok(())
}

fn a_program_of_the_host_keeps_its_port(case: &Case<'_>) -> Result<()> {
    let number = case.port(0);
    let program = format!("echo hello >/tmp/index.html; httpd -f -p {number} -h /tmp");
    case.start("a", &["--network", "host"], &["sh", "-c", &program])?;
    from_host(case, &format!("http://127.0.0.1:{number}"))?;
    let ran = case.docker(&["run", "--rm", "-p", &format!("{number}:80"), case.image(), "true"]);
    has(&ran.err, &format!("failed to bind host port for 0.0.0.0:{number}:172.17."))?;
    has(&ran.err, ":80/tcp: address already in use")
}

fn joined_host_and_no_network(case: &Case<'_>) -> Result<()> {
    let owner = serve(case, "a", &[])?;
    let joined = format!("container:{owner}");
    let joined = ["--network", joined.as_str()];
    case.fetch(&joined, "http://127.0.0.1")?;
    equal(case.shell(&joined, "cat /etc/hostname")?, case.inspect(&owner, "{{.Config.Hostname}}"))?;
    let joiner = case.sleeper("b", &joined)?;
    let networks = "{{len .NetworkSettings.Networks}}[{{.NetworkSettings.SandboxID}}]";
    equal(case.inspect(&joiner, networks).as_str(), "0[]")?;
    let own_ports = case.run(&[&joined[..], &["-p", "1:1"]].concat(), &["true"]);
    has(&own_ports.err, "conflicting options: port publishing and the container type network mode")?;
    let none = case.sleeper("c", &["--network", "none", "-p", "80"])?;
    equal(case.docker(&["exec", &none, "ls", "/sys/class/net"]).ok()?.as_str(), "lo")?;
    equal(case.inspect(&none, "{{json .NetworkSettings.Ports}}[{{.NetworkSettings.IPAddress}}]").as_str(), "{}[]")?;
    let host = case.sleeper("d", &["--network", "host"])?;
    let key = case.inspect(&host, "{{.NetworkSettings.SandboxKey}}");
    ensure!(key.ends_with("/netns/default"), "{key}");
    Ok(())
}

fn refused_settings(case: &Case<'_>) -> Result<()> {
    let unknown = case.run(&["--network", "no-such"], &["true"]);
    has(&unknown.err, "failed to set up container networking: network no-such not found")?;
    let own_address = case.run(&["--network", "bridge", "--ip", "172.17.0.9"], &["true"]);
    has(&own_address.err, "invalid config for network bridge: invalid endpoint settings:")?;
    has(&own_address.err, "user specified IP address is supported on user defined networks only")?;
    let far = case.run(&["--network", "bridge", "-p", "10.1.2.3:90:90"], &["true"]);
    has(&far.err, ":90/tcp: cannot assign requested address")
}

fn networks_are_listed(case: &Case<'_>) -> Result<()> {
    let list = case
        .docker(&["network", "ls", "--filter", "type=builtin", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"])
        .ok()?;
    equal(list.as_str(), "bridge bridge local\nhost host local\nnone null local")?;
    let null = case.docker(&["network", "ls", "--filter", "driver=null", "--format", "{{.Name}}"]).ok()?;
    equal(null.as_str(), "none")?;
    let name = serve(case, "a", &[])?;
    let (id, address) = (case.inspect(&name, "{{.Id}}"), case.inspect(&name, "{{.NetworkSettings.IPAddress}}"));
    let inspect = |template: &str| case.docker(&["network", "inspect", "--format", template, "bridge"]).ok();
    equal(inspect("{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}")?.as_str(), "172.17.0.0/16 172.17.0.1")?;
    equal(inspect("{{index .Options \"com.docker.network.bridge.name\"}}")?.as_str(), "docker0")?;
    let attached =
        inspect(&format!("{{{{with index .Containers \"{id}\"}}}}{{{{.Name}}}} {{{{.IPv4Address}}}}{{{{end}}}}"))?;
    equal(attached, format!("{name} {address}/16"))?;
    equal(inspect("{{.Id}}")?, case.inspect(&name, "{{.NetworkSettings.Networks.bridge.NetworkID}}"))?;
    has(&case.docker(&["network", "inspect", "no-such"]).err, "network no-such not found")?;
    has(&case.docker(&["network", "rm", "bridge"]).err, "bridge is a pre-defined network and cannot be removed")
}
