//! Beside firewalld, ufw and the rules of others, by real traffic between a container and another host, with either backend.
//! Ours alone: the stock daemon has iptables' chains only, which overrule ufw; with firewalld both do the same.

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has, until};
use compat_tests::daemon::Daemon;
use compat_tests::firewalls::{Firewalls, Neighbour};
use compat_tests::network::Network;
use compat_tests::{SERVER, suite};

/// A container on the default bridge, and one on a network of its own of both families, with their ports on the host.
const CONTAINERS: [(&str, u16); 2] = [("plain", 8080), ("own", 8081)];
/// Traffic that is looked at: a container, its port, and the addresses of the host and of the other one.
const TRAFFIC: [(&str, u16, &str, &str); 3] = [
    ("plain", 8080, "192.0.2.1", "192.0.2.2"),
    ("own", 8081, "192.0.2.1", "192.0.2.2"),
    ("own", 8081, "[2001:db8::1]", "[2001:db8::2]"),
];

/// A daemon on a host with other firewalls, and a host beside it. In the order they end.
struct Bed {
    daemon: Daemon,
    image: String,
    outside: Neighbour,
    host: Firewalls,
}

/// The rules of others the daemon has nothing to do with.
type Foreign = Vec<serde_json::Value>;

impl Bed {
    fn on(host: Firewalls) -> Result<Self> {
        Self::with_flags(host, &[])
    }

    fn with_flags(host: Firewalls, flags: &[&str]) -> Result<Self> {
        let outside = Neighbour::of(host.network())?;
        let bus = format!("export DBUS_SYSTEM_BUS_ADDRESS={}", host.bus_address());
        let daemon = Daemon::start_within(host.network(), &bus, flags)?;
        let image = suite::import(daemon.host(), "coexist")?;
        Ok(Self { daemon, image, outside, host })
    }

    fn docker(&self, arguments: &[&str]) -> Result<String> {
        self.daemon.host().docker(arguments, "").ok().with_context(|| arguments.join(" "))
    }

    /// Starts the two containers.
    fn containers(&self) -> Result<()> {
        self.docker(&["network", "create", "--ipv6", "-o", "com.docker.network.bridge.name=own0", "own"])?;
        for ((name, port), network) in CONTAINERS.into_iter().zip(["bridge", "own"]) {
            let publish = format!("{port}:80");
            let run = ["run", "-d", "--name", name, "--network", network, "-p", &publish, &self.image];
            self.docker(&[&run[..], &SERVER].concat())?;
        }
        Ok(())
    }

    /// Whether each container reaches the other host, and is reached from there, by each family it has.
    fn traffic(&self) -> Vec<(bool, bool)> {
        let sends = |name: &str, to: &str| {
            let url = format!("http://{to}/");
            let ask = ["exec", name, "timeout", "2", "wget", "-q", "-O", "-", &url];
            self.daemon.host().docker(&ask, "").out == "hello"
        };
        let ways = TRAFFIC.iter().map(|(name, port, host, to)| (sends(name, to), self.outside.reaches(host, *port)));
        ways.collect()
    }

    /// Waits until traffic goes both ways for both.
    fn flows(&self, when: &str) -> Result<()> {
        until(when, || self.traffic().iter().all(|(out, back)| *out && *back))
            .with_context(|| format!("{:?}\n{}", self.traffic(), self.daemon.log()))
    }

    /// What a container, a port and a network that come and go change of others' rules, `without` these tables: nothing.
    fn leaves_alone(&self, without: &[&str], before: &Foreign) -> Result<()> {
        let unchanged = |what: &str| equal(&self.host.rules(without)?, before).with_context(|| what.to_owned());
        unchanged("since the start")?;
        let run = ["run", "-d", "--name", "guest", "-p", "8099:80", &self.image, "sleep", "1000"];
        self.docker(&run)?;
        unchanged("a container came")?;
        self.docker(&["network", "create", "more"])?;
        self.docker(&["network", "connect", "more", "guest"])?;
        unchanged("a network came")?;
        self.docker(&["rm", "-f", "guest"])?;
        self.docker(&["network", "rm", "more"])?;
        unchanged("both went")
    }

    fn end(mut self, without: &[&str], before: &Foreign) -> Result<()> {
        self.docker(&["rm", "-f", "plain", "own"])?;
        self.docker(&["network", "rm", "own"])?;
        self.daemon.stop()?;
        equal(&self.host.rules(without)?, before).context("after the daemon's end")
    }
}

/// The wire gets another zone than links nobody has put anywhere, to which it does not let those send.
fn firewalld(host: &Firewalls) -> Result<()> {
    host.must(&["firewall-cmd", "--permanent", "--zone=dmz", "--add-interface=wire"])?;
    host.must(&["firewall-cmd", "--reload"]).map(drop)
}

/// All zones but ours.
fn zones(host: &Firewalls) -> Result<String> {
    let text = host.must(&["firewall-cmd", "--list-all-zones"])?;
    let mut is_ours = false;
    let mut others = String::new();
    for line in text.lines() {
        if !line.is_empty() && !line.starts_with(' ') {
            is_ours = line.starts_with("docker");
        }
        if !is_ours {
            others += line;
            others.push('\n');
        }
    }
    Ok(others)
}

fn links(host: &Firewalls) -> Result<Vec<String>> {
    let text = host.must(&["firewall-cmd", "--zone=docker", "--list-interfaces"])?;
    let mut links: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    links.sort();
    Ok(links)
}

#[test]
fn firewalld_is_there() -> Result<()> {
    let mut host = Firewalls::new()?;
    host.start_bus()?;
    host.start_firewalld()?;
    firewalld(&host)?;
    let (before, others) = (zones(&host)?, host.rules(&["firewalld"])?);
    let bed = Bed::on(host)?;
    bed.containers()?;
    bed.flows("firewalld before the daemon")?;
    let host = &bed.host;
    equal(links(host)?, ["docker0", "own0"].map(str::to_owned).to_vec())?;
    equal(zones(host)?, before.clone())?;
    // What is not published is kept from others by our own rules.
    ensure!(!bed.outside.reaches("192.0.2.1", 80), "the host has no such port");
    for reload in ["--reload", "--complete-reload"] {
        host.must(&["firewall-cmd", reload])?;
        bed.flows(reload)?;
        equal(links(host)?, ["docker0", "own0"].map(str::to_owned).to_vec())?;
    }
    // Out of the zone, firewalld's policy holds: what containers send is rejected, until the rules are loaded anew.
    host.must(&["firewall-cmd", "--zone=docker", "--remove-interface=own0"])?;
    equal(bed.traffic(), vec![(true, true), (false, true), (false, true)])?;
    host.must(&["firewall-cmd", "--reload"])?;
    bed.flows("put into the zone again")?;
    // The administrator's own choice stays.
    host.must(&["firewall-cmd", "--permanent", "--zone=block", "--add-interface=own0"])?;
    host.must(&["firewall-cmd", "--reload"])?;
    until("the daemon respects it", || bed.daemon.log().contains("firewalld has it in another zone"))
        .with_context(|| bed.daemon.log())?;
    equal(host.must(&["firewall-cmd", "--get-zone-of-interface=own0"])?.as_str(), "block")?;
    host.must(&["firewall-cmd", "--permanent", "--zone=block", "--remove-interface=own0"])?;
    host.must(&["firewall-cmd", "--reload"])?;
    bed.flows("nobody's choice any more")?;
    bed.leaves_alone(&["firewalld"], &others)?;
    bed.docker(&["rm", "-f", "own"])?;
    bed.docker(&["network", "rm", "own"])?;
    equal(links(host)?, vec!["docker0".to_owned()])?;
    equal(zones(host)?, before)
}

/// On one bus, and on a host of its own.
#[test]
fn firewalld_of_another_network_is_left_alone() -> Result<()> {
    let mut host = Firewalls::new()?;
    host.start_bus()?;
    host.start_firewalld()?;
    let bus = format!("export DBUS_SYSTEM_BUS_ADDRESS={}", host.bus_address());
    let mut daemon = Daemon::start_within(&Network::another()?, &bus, &[])?;
    daemon.host().docker(&["network", "create", "far"], "").ok()?;
    let zones = host.must(&["firewall-cmd", "--get-zones"])?;
    ensure!(!zones.split_whitespace().any(|zone| zone == "docker"), "{zones}");
    daemon.host().docker(&["network", "rm", "far"], "").ok()?;
    daemon.stop()
}

#[test]
fn firewalld_comes_later() -> Result<()> {
    let mut host = Firewalls::new()?;
    host.start_bus()?;
    let mut bed = Bed::on(host)?;
    bed.containers()?;
    bed.flows("without firewalld")?;
    bed.host.start_firewalld()?;
    firewalld(&bed.host)?;
    bed.flows("with firewalld")?;
    equal(links(&bed.host)?, ["docker0", "own0"].map(str::to_owned).to_vec())?;
    // A container's start and its ports are no business of firewalld's.
    let before = bed.host.rules(&[])?;
    bed.docker(&["run", "-d", "--name", "guest", "-p", "8099:80", &bed.image, "sleep", "1000"])?;
    equal(bed.host.rules(&[])?, before.clone())?;
    bed.docker(&["rm", "-f", "guest"])?;
    equal(bed.host.rules(&[])?, before)?;
    // A new daemon finds everything as it is to be.
    bed.daemon.kill()?;
    bed.daemon.restart()?;
    bed.flows("after a restart of the daemon")
}

#[test]
fn ufw_beside_nftables() -> Result<()> {
    let bed = Bed::with_flags(Firewalls::new()?, &["--firewall-backend=nftables"])?;
    bed.containers()?;
    bed.flows("without ufw")?;
    let host = &bed.host;
    // Its policy for what is forwarded is to drop, and it is the host's policy.
    host.must(&["ufw", "--force", "enable"])?;
    equal(bed.traffic(), vec![(false, false); 3])?;
    bed.leaves_alone(&[], &host.rules(&[])?)?;
    host.must(&["ufw", "route", "allow", "in", "on", "docker0"])?;
    host.must(&["ufw", "route", "allow", "in", "on", "own0"])?;
    equal(bed.traffic(), vec![(true, false); 3])?;
    host.must(&["ufw", "route", "allow", "proto", "tcp", "from", "any", "to", "any", "port", "80"])?;
    bed.flows("allowed by rules")?;
    host.must(&["ufw", "reload"])?;
    bed.flows("after ufw reload")?;
    bed.leaves_alone(&[], &host.rules(&[])?)?;
    host.must(&["ufw", "--force", "reset"])?;
    bed.flows("after ufw reset")?;
    host.must(&["ufw", "default", "allow", "routed"])?;
    host.must(&["ufw", "--force", "enable"])?;
    bed.flows("with another policy")?;
    host.must(&["ufw", "disable"])?;
    bed.flows("after ufw disable")?;
    let before = host.rules(&[])?;
    bed.end(&[], &before)
}

#[test]
fn ufw_comes_later() -> Result<()> {
    let bed = Bed::on(Firewalls::new()?)?;
    let backend = || bed.docker(&["info", "--format", "{{.FirewallBackend.Driver}}"]);
    bed.containers()?;
    equal(backend()?.trim(), "nftables")?;
    // Its policy for what is forwarded is to drop.
    for command in [&["ufw", "--force", "enable"][..], &["ufw", "reload"]] {
        bed.host.must(command)?;
        bed.flows(&command.join(" "))?;
        equal(backend()?.trim(), "iptables")?;
    }
    has(&bed.daemon.log(), "ours are set by iptables from now on")?;
    let tables = bed.host.must(&["nft", "list", "tables"])?;
    ensure!(!tables.contains("dockerd-rs"), "both set rules: {tables}");
    bed.docker(&["network", "create", "later"])?;
    bed.docker(&["network", "rm", "later"])?;
    for command in [&["ufw", "--force", "reset"][..], &["ufw", "--force", "enable"], &["ufw", "disable"]] {
        bed.host.must(command)?;
        bed.flows(&command.join(" "))?;
    }
    Ok(())
}

#[test]
fn ufw_before_the_daemon() -> Result<()> {
    let host = Firewalls::new()?;
    host.must(&["ufw", "default", "allow", "routed"])?;
    host.must(&["ufw", "--force", "enable"])?;
    let before = host.rules(&[])?;
    let bed = Bed::on(host)?;
    equal(&bed.host.rules(&[])?, &before)?;
    bed.containers()?;
    bed.flows("beside ufw")?;
    bed.leaves_alone(&[], &before)?;
    bed.end(&[], &before)
}

#[test]
fn a_host_that_drops_is_told_by_iptables() -> Result<()> {
    let host = Firewalls::new()?;
    host.must(&["ufw", "--force", "enable"])?;
    let bed = Bed::on(host)?;
    let info = bed.docker(&["info", "--format", "{{.FirewallBackend.Driver}}"])?;
    equal(info.trim(), "iptables")?;
    bed.containers()?;
    bed.flows("with ufw, as under the stock daemon")?;
    bed.host.must(&["ufw", "reload"])?;
    bed.flows("after ufw reload")?;
    has(&bed.daemon.log(), "ours are set by iptables")
}

#[test]
fn rules_of_iptables_and_nft() -> Result<()> {
    let host = Firewalls::new()?;
    for rule in [
        "-t filter -A INPUT -p tcp --dport 9 -j DROP",
        "-t filter -N DOCKER-USER",
        "-t filter -A FORWARD -j DOCKER-USER",
        "-t nat -A POSTROUTING -s 10.99.0.0/16 -j MASQUERADE",
        "-t nat -A PREROUTING -p tcp --dport 9999 -j REDIRECT --to-ports 9",
    ] {
        host.must(&[&["iptables"], &rule.split(' ').collect::<Vec<_>>()[..]].concat())?;
    }
    for line in [
        "add table inet mine",
        "add chain inet mine forward { type filter hook forward priority 10; policy accept; }",
        "add rule inet mine forward ip daddr 192.0.2.9 counter drop",
        "add set inet mine blocked { type ipv4_addr; elements = { 192.0.2.77 } }",
    ] {
        host.must(&["nft", line])?;
    }
    let before = host.rules(&[])?;
    let bed = Bed::on(host)?;
    bed.containers()?;
    bed.flows("beside rules of others")?;
    bed.leaves_alone(&[], &before)?;
    // A rule of the host's holds for containers, too, where it stands in its own chain.
    bed.host.must(&["iptables", "-A", "DOCKER-USER", "-i", "wire", "-o", "own0", "-j", "DROP"])?;
    equal(bed.traffic(), vec![(true, true), (false, false), (true, true)])?;
    bed.host.must(&["iptables", "-F", "DOCKER-USER"])?;
    bed.flows("without that rule")?;
    // Everything is flushed: ours comes back, the host's does not.
    bed.host.must(&["nft", "flush", "ruleset"])?;
    bed.flows("after a flush")?;
    equal(bed.host.rules(&[])?, Vec::new())?;
    has(&bed.daemon.log(), "they are set again")?;
    bed.end(&[], &Vec::new())
}

/// With iptables' chains published ports and containers bypass ufw, as they do under stock.
#[test]
fn iptables_beside_ufw() -> Result<()> {
    let bed = Bed::with_flags(Firewalls::new()?, &["--firewall-backend=iptables"])?;
    bed.containers()?;
    bed.flows("without ufw")?;
    for command in [&["ufw", "--force", "enable"][..], &["ufw", "reload"], &["ufw", "--force", "reset"]] {
        bed.host.must(command)?;
        bed.flows(&command.join(" "))?;
    }
    Ok(())
}

#[test]
fn iptables_beside_firewalld() -> Result<()> {
    let mut host = Firewalls::new()?;
    host.start_bus()?;
    host.start_firewalld()?;
    firewalld(&host)?;
    let bed = Bed::with_flags(host, &["--firewall-backend=iptables"])?;
    bed.containers()?;
    bed.flows("firewalld before the daemon")?;
    for reload in ["--reload", "--complete-reload"] {
        bed.host.must(&["firewall-cmd", reload])?;
        bed.flows(reload)?;
    }
    Ok(())
}

/// Published ports under the host's own policy: ufw's for its own ports holds for them.
#[test]
fn ufw_is_honoured() -> Result<()> {
    let bed = Bed::with_flags(Firewalls::new()?, &["--firewall-honour-host"])?;
    bed.containers()?;
    bed.flows("without ufw")?;
    bed.host.must(&["ufw", "default", "allow", "routed"])?;
    bed.host.must(&["ufw", "--force", "enable"])?;
    equal(bed.traffic(), vec![(true, false); 3])?;
    bed.host.must(&["ufw", "allow", "8081/tcp"])?;
    equal(bed.traffic(), vec![(true, false), (true, true), (true, true)])?;
    bed.host.must(&["ufw", "delete", "allow", "8081/tcp"])?;
    equal(bed.traffic(), vec![(true, false); 3])
}
