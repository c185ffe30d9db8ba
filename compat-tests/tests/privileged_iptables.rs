//! The chains iptables has of the stock daemon, by `--firewall-backend=iptables`: what users write into `DOCKER-USER` decides
//! about packets to published ports, by the container's port or the one the client asked for, and what is reached without a
//! port being published depends on the network. What comes from elsewhere comes from a host of its own.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has};
use compat_tests::network::Network;
use compat_tests::outside::Outside;
use compat_tests::{Case, Suite, tests};

/// Serves `hello` on ports 80 and 81.
const SERVER: [&str; 3] = ["sh", "-c", "echo hello >/tmp/index.html; httpd -h /tmp -p 81; httpd -f -h /tmp -p 80"];

fn main() -> ExitCode {
    Suite {
        name: "iptables",
        // With IPv6 from the start, so that its tables are there before and after.
        flags: &["--firewall-backend=iptables", "--ipv6", "--fixed-cidr-v6=fd17::/64"],
        tests: tests![
            users_rules_decide,
            users_rules_stay_and_are_first,
            accepted_by_the_user_is_not_open,
            ports_have_rules_while_they_are_published,
            routed_networks_are_reached_at_published_ports,
            unprotected_networks_are_reached,
            internal_networks_are_closed,
            containers_kept_apart_have_published_ports,
            both_families,
        ],
    }
    .main()
}

/// A rule in the daemon's network namespace that goes with this.
struct Rule<'a>(&'a Network, Vec<&'a str>);

impl<'a> Rule<'a> {
    fn insert(network: &'a Network, rule: &'a str) -> Result<Self> {
        let rule: Vec<&str> = rule.split(' ').collect();
        iptables(network, &[&["-I", "DOCKER-USER"], &rule[..]].concat())?;
        Ok(Self(network, rule))
    }
}

impl Drop for Rule<'_> {
    fn drop(&mut self) {
        let _ = iptables(self.0, &[&["-D", "DOCKER-USER"], &self.1[..]].concat());
    }
}

fn iptables(network: &Network, arguments: &[&str]) -> Result<String> {
    let output = network.command("iptables").arg("-w").args(arguments).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn users_rules_decide(case: &Case<'_>) -> Result<()> {
    let host = Network::of(case.host())?;
    let outside = Outside::new(&host, case.prefix())?;
    let published = case.port(0);
    let name = case.start("a", &["--network", "bridge", "-p", &format!("{published}:80")], &SERVER)?;
    let inner = case.inspect(&name, "{{.NetworkSettings.IPAddress}}");
    let url = format!("{}:{published}", outside.near_address());
    outside.reaches(&url)?;
    let (from, to, next) = (outside.address(), outside.near_address(), published + 1);
    for rule in [
        format!("-p tcp -m conntrack --ctorigdstport {published} --ctdir ORIGINAL -j DROP"),
        format!("-p tcp -d {inner} --dport 80 -j REJECT --reject-with tcp-reset"),
        format!("-i {} ! -s 203.0.113.0/24 -j DROP", outside.link()),
        format!("-s {from} -j REJECT --reject-with icmp-admin-prohibited"),
        format!("-m conntrack --ctorigdst {to} --ctstate NEW -j DROP"),
    ] {
        let rule_ = Rule::insert(&host, &rule)?;
        outside.is_kept_off(&url).with_context(|| rule.clone())?;
        drop(rule_);
        outside.reaches(&url).with_context(|| format!("without {rule}"))?;
    }
    for rule in [
        format!("-p tcp -m conntrack --ctorigdstport {next} --ctdir ORIGINAL -j DROP"),
        format!("-p tcp -d {inner} --dport {published} -j DROP"),
        format!("-i {} ! -s {from} -j DROP", outside.link()),
    ] {
        let _rule = Rule::insert(&host, &rule)?;
        outside.reaches(&url).with_context(|| rule.clone())?;
    }
    Ok(())
}

fn users_rules_stay_and_are_first(case: &Case<'_>) -> Result<()> {
    let host = Network::of(case.host())?;
    let text = format!("-s 203.0.113.77 -m comment --comment {} -j DROP", case.prefix());
    let _rule = Rule::insert(&host, &text)?;
    let network = case.network("n");
    case.docker(&["network", "create", &network]).ok()?;
    let name = case.sleeper("a", &["--network", &network, "-p", &format!("{}:80", case.port(0))])?;
    case.docker(&["rm", "-f", &name]).ok()?;
    case.docker(&["network", "rm", &network]).ok()?;
    has(&iptables(&host, &["-S", "DOCKER-USER"])?, &format!("--comment {} -j DROP", case.prefix()))?;
    let forward = iptables(&host, &["-S", "FORWARD"])?;
    let rules: Vec<&str> = forward.lines().filter(|line| line.starts_with("-A")).collect();
    equal(rules[..2].to_vec(), vec!["-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD"])?;
    has(&forward, "-P FORWARD DROP")
}

fn accepted_by_the_user_is_not_open(case: &Case<'_>) -> Result<()> {
    let host = Network::of(case.host())?;
    let outside = Outside::new(&host, case.prefix())?;
    let published = case.port(0);
    let name = case.start("a", &["--network", "bridge", "-p", &format!("{published}:80")], &SERVER)?;
    let inner = case.inspect(&name, "{{.NetworkSettings.IPAddress}}");
    outside.route(&inner)?;
    outside.reaches(&format!("{}:{published}", outside.near_address()))?;
    for rule in [None, Some(format!("-s {} -j ACCEPT", outside.address()))] {
        let _rule = rule.as_ref().map(|rule| Rule::insert(&host, rule)).transpose()?;
        for direct in [80, 81] {
            outside.is_kept_off(&format!("{inner}:{direct}")).with_context(|| format!("{rule:?}"))?;
        }
    }
    // The host itself reaches all of it.
    case.fetch(&["--network", "host"], &format!("http://{inner}:81"))
}

fn ports_have_rules_while_they_are_published(case: &Case<'_>) -> Result<()> {
    let host = Network::of(case.host())?;
    let published = case.port(0);
    let (all, local) = (format!("{published}:80"), format!("127.0.0.1:{}:53/udp", published + 1));
    let name = case.sleeper("a", &["--network", "bridge", "-p", &all, "-p", &local])?;
    let inner = case.inspect(&name, "{{.NetworkSettings.IPAddress}}");
    let in_chain = |table: &str, chain: &str, parts: &[&str]| -> Result<bool> {
        let rules = iptables(&host, &["-t", table, "-S", chain])?;
        Ok(rules.lines().any(|line| parts.iter().all(|part| line.contains(part))))
    };
    let (port, next) = (format!("--dport {published} "), format!("--dport {} ", published + 1));
    let (to, first) = (format!("--to-destination {inner}:80"), format!("-d {inner}/32 "));
    let expected: [(&str, &str, &[&str]); 5] = [
        ("nat", "DOCKER", &["-p tcp -m tcp ", &port, "-j DNAT", &to]),
        ("nat", "DOCKER", &["-d 127.0.0.1/32 ", "-p udp -m udp ", &next, "-j DNAT"]),
        ("filter", "DOCKER", &[&first, "-o docker0 -p tcp -m tcp --dport 80 ", "-j ACCEPT"]),
        ("filter", "DOCKER", &[&first, "-o docker0 -p udp -m udp --dport 53 ", "-j ACCEPT"]),
        ("raw", "PREROUTING", &["-d 127.0.0.1/32 ! -i lo -p udp -m udp ", &next, "-j DROP"]),
    ];
    for (table, chain, parts) in expected {
        ensure!(in_chain(table, chain, parts)?, "{table} {chain} {parts:?}");
    }
    for (table, chain, parts) in [
        ("filter", "DOCKER-CT", "-o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        ("filter", "DOCKER-BRIDGE", "-o docker0 -j DOCKER"),
        ("filter", "DOCKER-FORWARD", "-i docker0 -j ACCEPT"),
        ("filter", "DOCKER", "! -i docker0 -o docker0 -j DROP"),
        ("nat", "PREROUTING", "-m addrtype --dst-type LOCAL -j DOCKER"),
        ("nat", "POSTROUTING", "-s 172.17.0.0/16 ! -o docker0"),
    ] {
        ensure!(in_chain(table, chain, &[parts])?, "{table} {chain} {parts}");
    }
    case.docker(&["rm", "-f", &name]).ok()?;
    for (table, chain, parts) in expected {
        ensure!(!in_chain(table, chain, parts)?, "still {table} {chain} {parts:?}");
    }
    Ok(())
}

/// A network with an option, a server on it that publishes port 80 as `published`, and its address.
fn on_network(case: &Case<'_>, options: &[&str], published: u16) -> Result<(String, String)> {
    let network = case.network("n");
    case.docker(&[&["network", "create"], options, &[&network]].concat()).ok()?;
    let name = case.start("a", &["--network", &network, "-p", &format!("{published}:80")], &SERVER)?;
    let template = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
    Ok((network, case.inspect(&name, &template)))
}

fn routed_networks_are_reached_at_published_ports(case: &Case<'_>) -> Result<()> {
    let outside = Outside::new(&Network::of(case.host())?, case.prefix())?;
    let mode = "com.docker.network.bridge.gateway_mode_ipv4=routed";
    let (network, inner) = on_network(case, &["-o", mode], case.port(0))?;
    outside.route(&inner)?;
    outside.reaches(&format!("{inner}:80"))?;
    outside.is_kept_off(&format!("{inner}:81"))?;
    // Nothing is translated.
    outside.is_kept_off(&format!("{}:{}", outside.near_address(), case.port(0)))?;
    case.fetch(&["--network", &network], &format!("http://{inner}:81"))
}

fn unprotected_networks_are_reached(case: &Case<'_>) -> Result<()> {
    let outside = Outside::new(&Network::of(case.host())?, case.prefix())?;
    let mode = "com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected";
    let (_, inner) = on_network(case, &["-o", mode], case.port(0))?;
    outside.route(&inner)?;
    for reached in
        [format!("{}:{}", outside.near_address(), case.port(0)), format!("{inner}:80"), format!("{inner}:81")]
    {
        outside.reaches(&reached)?;
    }
    Ok(())
}

/// A container on `network` does not reach port 80 of that address.
fn is_refused(case: &Case<'_>, network: &str, address: &str) -> Result<()> {
    let url = format!("http://{address}");
    let said = case.docker(&["run", "--rm", "--network", network, case.image(), "wget", "-T1", "-qO-", &url]);
    ensure!(said.code != 0, "{said:?}");
    Ok(())
}

fn internal_networks_are_closed(case: &Case<'_>) -> Result<()> {
    let host = Network::of(case.host())?;
    let outside = Outside::new(&host, case.prefix())?;
    let (network, inner) = on_network(case, &["--internal"], case.port(0))?;
    case.fetch(&["--network", &network], &format!("http://{inner}:81"))?;
    outside.route(&inner)?;
    outside.is_kept_off(&format!("{inner}:80"))?;
    // From another network neither.
    is_refused(case, "bridge", &inner)
}

fn containers_kept_apart_have_published_ports(case: &Case<'_>) -> Result<()> {
    let outside = Outside::new(&Network::of(case.host())?, case.prefix())?;
    let (network, inner) = on_network(case, &["-o", "com.docker.network.bridge.enable_icc=false"], case.port(0))?;
    let url = format!("{}:{}", outside.near_address(), case.port(0));
    outside.reaches(&url)?;
    case.fetch(&["--network", "host"], &format!("http://127.0.0.1:{}", case.port(0)))?;
    case.fetch(&["--network", &network], &format!("http://{url}"))?;
    is_refused(case, &network, &inner)
}

fn both_families(case: &Case<'_>) -> Result<()> {
    let host = Network::of(case.host())?;
    let outside = Outside::new(&host, case.prefix())?;
    let network = case.network("n");
    case.docker(&["network", "create", "--ipv6", &network]).ok()?;
    let published = case.port(0);
    let name = case.start("a", &["--network", &network, "-p", &format!("{published}:80")], &SERVER)?;
    let inner =
        case.inspect(&name, &format!("{{{{(index .NetworkSettings.Networks {network:?}).GlobalIPv6Address}}}}"));
    outside.reaches(&format!("{}:{published}", outside.near_address()))?;
    outside.reaches(&format!("[{}]:{published}", outside.near_ipv6()))?;
    outside.route(&inner)?;
    outside.is_kept_off(&format!("[{inner}]:80"))?;
    let rule = ["DOCKER-USER", "-p", "tcp", "-d", &inner, "--dport", "80", "-j", "DROP"];
    let set = |how: &str| -> Result<()> {
        let output = host.command("ip6tables").arg("-w").arg(how).args(rule).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    set("-I")?;
    let kept_off = outside.is_kept_off(&format!("[{}]:{published}", outside.near_ipv6()));
    set("-D")?;
    kept_off?;
    outside.reaches(&format!("[{}]:{published}", outside.near_ipv6())).map(drop)
}
