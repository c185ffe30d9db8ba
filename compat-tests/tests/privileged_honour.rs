//! `--firewall-honour-host`: who reaches published ports from elsewhere is for the host's own rules of INPUT to say, whoever
//! sets them; without the flag it is not, as under the stock daemon. Ours alone.

#[allow(dead_code, reason = "other suites use the rest of it")]
mod bed;

use anyhow::{Context, Result, ensure};
use bed::{Bed, LIMIT, run, until};
use compat_tests::network::Network;
use compat_tests::outside::Outside;

/// Says `hello` on port 80, and who asked.
const SERVER: &str = "busybox mkdir -p /www/cgi-bin; cd /www/cgi-bin; printf '#!/bin/sh\\necho; echo hello $REMOTE_ADDR.' >index.cgi; \
                      busybox chmod 755 index.cgi; exec busybox httpd -f -h /www -p 80";
/// Published by the container, and not.
const PORT: u16 = 4080;
const OTHER: u16 = 4081;
/// What every host with a policy lets in.
const OWN: [&str; 2] = ["-i lo -j ACCEPT", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"];

/// A daemon with a server on a network of both families, the daemon's host, and another.
struct World {
    outside: Outside,
    host: Network,
    bed: Bed,
}

impl World {
    fn new(flags: &[&str]) -> Result<Self> {
        let mut bed = Bed::new()?.flags(flags);
        bed.start()?;
        bed.import()?;
        bed.must(&["network", "create", "--ipv6", "six"])?;
        let publish = format!("{PORT}:80");
        bed.must(&[
            "run",
            "-d",
            "--name",
            "server",
            "--network",
            "six",
            "-p",
            &publish,
            "busybox",
            "sh",
            "-c",
            SERVER,
        ])?;
        for (name, network) in [("neighbour", "six"), ("stranger", "bridge")] {
            bed.must(&["run", "-d", "--name", name, "--network", network, "busybox", "sleep", "1000"])?;
        }
        let host = Network::of_process(bed.pid())?;
        let outside = Outside::new(&host, &bed.path("").to_string_lossy())?;
        Ok(Self { outside, host, bed })
    }

    fn urls(&self) -> [String; 2] {
        let (ipv4, ipv6) = (self.outside.near_address(), self.outside.near_ipv6());
        [format!("{ipv4}:{PORT}"), format!("[{ipv6}]:{PORT}")]
    }

    /// One of the host's rules, for both families.
    fn rule(&self, rule: &str) -> Result<()> {
        for program in ["iptables", "ip6tables"] {
            let said = run(self.host.command(program).arg("-w").args(rule.split(' ')))?;
            ensure!(said.code == 0, "{program} {rule}: {}", said.err);
        }
        Ok(())
    }

    fn nft(&self, line: &str) -> Result<()> {
        let said = run(self.host.command("nft").arg(line))?;
        ensure!(said.code == 0, "{line}: {}", said.err);
        Ok(())
    }

    /// From elsewhere, and the server sees who asks.
    fn is_reached(&self) -> Result<()> {
        for (url, sender) in self.urls().iter().zip([self.outside.address(), self.outside.ipv6()]) {
            let said = self.outside.reaches(url)?;
            ensure!(said.contains(&sender), "{sender} asked, and is taken for another: {said}");
        }
        Ok(())
    }

    fn is_kept_off(&self) -> Result<()> {
        self.urls().iter().try_for_each(|url| self.outside.is_kept_off(url))
    }

    /// The host, the server's own network, the server itself and another network reach the port all the time.
    fn is_reached_from_inside(&self) -> Result<()> {
        let [ipv4, ipv6] = self.urls();
        for url in [&format!("127.0.0.1:{PORT}"), &format!("[::1]:{PORT}"), &ipv4, &ipv6] {
            let ask = || self.host.read(url, LIMIT).ok();
            until(&format!("an answer from {url}"), || ask()?.contains("hello").then_some(()))?;
        }
        for container in ["server", "neighbour", "stranger"] {
            let pid = self.bed.must(&["inspect", "-f", "{{.State.Pid}}", container])?.parse()?;
            let said = Network::of_process(pid)?.read(&ipv4, LIMIT).with_context(|| container)?;
            ensure!(said.contains("hello"), "{container}: {said}");
        }
        Ok(())
    }
}

fn the_host_decides(flags: &[&str]) -> Result<()> {
    let world = World::new(flags)?;
    world.is_reached()?;
    world.is_reached_from_inside()?;
    for rule in OWN {
        world.rule(&format!("-A INPUT {rule}"))?;
    }
    // Neighbours ask each other for their addresses by ICMP of IPv6.
    ensure!(run(world.host.command("ip6tables").args(["-A", "INPUT", "-p", "icmpv6", "-j", "ACCEPT"]))?.code == 0);
    world.rule("-P INPUT DROP")?;
    world.is_kept_off()?;
    world.is_reached_from_inside()?;
    world.rule(&format!("-A INPUT -p tcp --dport {OTHER} -j ACCEPT"))?;
    world.is_kept_off()?;
    // The container's port is not what the host is asked for.
    world.rule("-A INPUT -p tcp --dport 80 -j ACCEPT")?;
    world.is_kept_off()?;
    world.rule(&format!("-A INPUT -p tcp --dport {PORT} -j ACCEPT"))?;
    world.is_reached()?;
    world.is_reached_from_inside()?;
    // By the sender's address.
    world.rule(&format!("-D INPUT -p tcp --dport {PORT} -j ACCEPT"))?;
    world.is_kept_off()?;
    let accept = ["-A", "INPUT", "-s", &world.outside.address(), "-j", "ACCEPT"];
    ensure!(run(world.host.command("iptables").args(accept))?.code == 0);
    world.outside.reaches(&world.urls()[0])?;
    world.outside.is_kept_off(&world.urls()[1])?;
    Ok(())
}

#[test]
fn with_nftables_the_host_decides() -> Result<()> {
    the_host_decides(&["--firewall-honour-host"])
}

#[test]
fn with_iptables_the_host_decides() -> Result<()> {
    the_host_decides(&["--firewall-honour-host", "--firewall-backend=iptables"])
}

#[test]
fn rules_of_nftables_decide_too() -> Result<()> {
    let world = World::new(&["--firewall-honour-host"])?;
    world.nft("add table inet mine")?;
    world.nft("add chain inet mine input { type filter hook input priority 0 ; policy drop ; }")?;
    world.nft("add rule inet mine input iif lo accept")?;
    world.nft("add rule inet mine input ct state established,related accept")?;
    world.nft("add rule inet mine input meta l4proto ipv6-icmp accept")?;
    world.is_kept_off()?;
    world.is_reached_from_inside()?;
    world.nft(&format!("add rule inet mine input tcp dport {{ 22, {PORT} }} accept"))?;
    world.is_reached()
}

#[test]
fn without_the_flag_ports_are_open() -> Result<()> {
    for flags in [&[][..], &["--firewall-backend=iptables"]] {
        let world = World::new(flags)?;
        for rule in OWN {
            world.rule(&format!("-A INPUT {rule}"))?;
        }
        ensure!(run(world.host.command("ip6tables").args(["-A", "INPUT", "-p", "icmpv6", "-j", "ACCEPT"]))?.code == 0);
        world.rule("-P INPUT DROP")?;
        world.is_reached().with_context(|| format!("{flags:?}"))?;
    }
    Ok(())
}

#[test]
fn a_port_of_one_address_and_its_end() -> Result<()> {
    let world = World::new(&["--firewall-honour-host"])?;
    let near = world.outside.near_address();
    let (own, local) = (format!("{near}:5001:80"), "127.0.0.1:5002:80");
    let options = ["run", "-d", "--name", "two", "-p", &own, "-p", local, "busybox", "sh", "-c", SERVER];
    world.bed.must(&options)?;
    world.outside.reaches(&format!("{near}:5001"))?;
    world.outside.is_kept_off(&format!("{near}:5002"))?;
    world.rule("-A INPUT -p tcp --dport 5001 -j DROP")?;
    world.outside.is_kept_off(&format!("{near}:5001"))?;
    world.rule("-D INPUT -p tcp --dport 5001 -j DROP")?;
    world.outside.reaches(&format!("{near}:5001"))?;
    world.bed.must(&["rm", "-f", "two"])?;
    world.outside.is_kept_off(&format!("{near}:5001"))?;
    drop(world.host.listen(&format!("{near}:5001"))?);
    Ok(())
}

#[test]
fn senders_are_known_on_strict_hosts_and_routing_is_given_back() -> Result<()> {
    let mut world = World::new(&["--firewall-honour-host"])?;
    // As a VPN's set-up may have it.
    for path in ["all/rp_filter", "all/src_valid_mark"] {
        let set = format!("echo 1 >/proc/sys/net/ipv4/conf/{path}");
        ensure!(run(world.host.command("sh").args(["-c", &set]))?.code == 0, "{set}");
    }
    world.is_reached()?;
    let rules = |world: &World| -> Result<usize> {
        let both = ["-4", "-6"].map(|family| run(world.host.command("ip").args([family, "rule"])));
        both.into_iter().try_fold(0, |sum, said| Ok(sum + said?.out.matches("lookup 25714").count()))
    };
    let before = rules(&world)?;
    ensure!(before == 3, "of docker0, and of both families of the network: {before}");
    world.bed.must(&["network", "create", "more"])?;
    ensure!(rules(&world)? == before + 1, "no rule for a new network");
    world.bed.must(&["network", "rm", "more"])?;
    ensure!(rules(&world)? == before, "a rule is left");
    world.bed.restart_with(&["--firewall-honour-host", "--firewall-backend=iptables"])?;
    ensure!(rules(&world)? == before, "{} after a restart", rules(&world)?);
    world.bed.restart_with(&[])?;
    ensure!(rules(&world)? == 0, "{} without the flag", rules(&world)?);
    Ok(())
}

#[test]
fn a_new_daemon_serves_what_the_last_one_did() -> Result<()> {
    let mut world = World::new(&["--firewall-honour-host", "--live-restore"])?;
    world.is_reached()?;
    world.bed.restart_with(&["--firewall-honour-host", "--live-restore"])?;
    world.is_reached()?;
    world.is_reached_from_inside()?;
    world.bed.restart_with(&["--live-restore"])?;
    for rule in OWN {
        world.rule(&format!("-A INPUT {rule}"))?;
    }
    ensure!(run(world.host.command("ip6tables").args(["-A", "INPUT", "-p", "icmpv6", "-j", "ACCEPT"]))?.code == 0);
    world.rule("-P INPUT DROP")?;
    world.is_reached()
}
