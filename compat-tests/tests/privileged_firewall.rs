//! The packet filter beside other programs': what they flush comes back, what is theirs stays. Ours alone: the stock daemon
//! sets its rules again when firewalld says so, and otherwise at its next start.

#[allow(dead_code, reason = "other suites use the rest of it")]
mod bed;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use bed::{Bed, binary, run, until};

/// The daemon with the chains of iptables.
const IPTABLES: &str = "--firewall-backend=iptables";
/// Chains of the stock daemon.
const CHAINS: [&str; 6] =
    ["DOCKER-FORWARD", "DOCKER-CT", "DOCKER-INTERNAL", "DOCKER-BRIDGE", "DOCKER-OUTSIDE", "DOCKER"];

/// A program in the daemon's network namespace; what it says.
fn inside(bed: &Bed, arguments: &[&str]) -> Result<String> {
    let said = run(Command::new("nsenter").args(["-t", &bed.pid().to_string(), "-n"]).args(arguments))?;
    ensure!(said.code == 0, "{arguments:?}: {}", said.err);
    Ok(said.out)
}

/// All rules of iptables, of both families, without what changes by itself; sorted where their order is others' business.
fn tables(bed: &Bed) -> Result<String> {
    let mut out = String::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let text = inside(bed, &[program])?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut tables: Vec<Vec<&str>> = Vec::new();
        for line in lines.map(|line| line.split(" [").next().unwrap_or_default()) {
            if line.starts_with('*') {
                tables.push(Vec::new());
            }
            tables.last_mut().context("a table")?.push(line);
        }
        tables.sort();
        out.extend(tables.concat().into_iter().flat_map(|line| [line, "\n"]));
    }
    Ok(out)
}

#[test]
fn flushed_rules_come_back() -> Result<()> {
    let bed = Bed::with_a_port(&[])?;
    let before = bed.rules()?;
    for (at, flush) in [
        &["flush", "ruleset"][..],
        &["flush", "table", "inet", "dockerd-rs"],
        &["delete", "table", "inet", "dockerd-rs"],
    ]
    .iter()
    .enumerate()
    {
        ensure!(bed.nft(flush)?.code == 0, "{flush:?}");
        until(&format!("repair {at} after {flush:?}"), || {
            (bed.rules().ok()? == before && bed.log().matches("they are set again").count() > at).then_some(())
        })?;
    }
    // What changes by our own hand is no damage.
    bed.must(&["network", "create", "more"])?;
    bed.must(&["network", "rm", "more"])?;
    bed.must(&["rm", "-f", "one"])?;
    ensure!(bed.log().matches("they are set again").count() == 3, "{}", bed.log());
    Ok(())
}

#[test]
fn rules_of_others_stay() -> Result<()> {
    let mut bed = Bed::with_a_port(&[])?;
    let foreign = ["add table inet filter", "add chain inet filter input { type filter hook input priority 0 ; }"];
    for line in foreign.into_iter().chain(["add rule inet filter input tcp dport 9 counter drop"]) {
        ensure!(bed.nft(&[line])?.code == 0, "{line}");
    }
    let theirs = || -> Result<String> { Ok(bed.nft(&["-s", "list", "table", "inet", "filter"])?.out) };
    let before = theirs()?;
    bed.must(&["network", "create", "more"])?;
    bed.must(&["network", "rm", "more"])?;
    ensure!(bed.nft(&["delete", "table", "inet", "dockerd-rs"])?.code == 0, "nft");
    until("the repair", || bed.rules().ok()?.contains("table inet dockerd-rs").then_some(()))?;
    ensure!(theirs()? == before, "{}", theirs()?);
    bed.must(&["rm", "-f", "one"])?;
    bed.must(&["network", "rm", "six"])?;
    ensure!(theirs()? == before, "{}", theirs()?);
    bed.signal("TERM")?;
    ensure!(bed.ended()? == 0, "the end");
    Ok(())
}

#[test]
fn flushed_chains_of_iptables_come_back() -> Result<()> {
    let bed = Bed::with_a_port(&[IPTABLES])?;
    inside(&bed, &["iptables", "-I", "DOCKER-USER", "-s", "192.0.2.1", "-j", "DROP"])?;
    let user = "-A DOCKER-USER -s 192.0.2.1/32 -j DROP\n";
    let before = tables(&bed)?;
    ensure!(before.contains(user) && before.contains("-j DNAT"), "{before}");
    let before = before.replace(user, "");
    for (at, flush) in [
        &["iptables", "-t", "nat", "-F"][..],
        &["iptables", "-t", "raw", "-F"],
        &["iptables", "-D", "FORWARD", "-j", "DOCKER-USER"],
        &["iptables", "-t", "nat", "-F", "DOCKER"],
        &["ip6tables", "-F"],
        &["iptables", "-F"],
        &["nft", "flush", "ruleset"],
    ]
    .iter()
    .enumerate()
    {
        inside(&bed, flush)?;
        until(&format!("repair {at} after {flush:?}"), || {
            let repaired = tables(&bed).ok()?.replace(user, "") == before;
            (repaired && bed.log().matches("they are set again").count() > at).then_some(())
        })
        .with_context(|| tables(&bed).unwrap_or_default())?;
        // What is theirs is not put there again by us.
        ensure!(tables(&bed)?.contains(user) == (at < 5), "{flush:?}");
    }
    // What changes by our own hand, or concerns us not, is no damage.
    bed.must(&["network", "create", "more"])?;
    bed.must(&["network", "rm", "more"])?;
    inside(&bed, &["iptables", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP"])?;
    inside(&bed, &["iptables", "-F", "INPUT"])?;
    bed.must(&["rm", "-f", "one"])?;
    ensure!(bed.log().matches("they are set again").count() == 7, "{}", bed.log());
    Ok(())
}

#[test]
fn what_is_taken_away_while_ports_change_is_no_obstacle() -> Result<()> {
    let bed = Bed::with_a_port(&[IPTABLES])?;
    for _ in 0..5 {
        // Whoever comes first, the guard or the change: in the end all is there.
        inside(&bed, &["iptables", "-t", "nat", "-F", "DOCKER"])?;
        bed.must(&["run", "-d", "--name", "two", "-p", "4001:80", "busybox", "sleep", "1000"])?;
        inside(&bed, &["iptables", "-t", "filter", "-F", "DOCKER"])?;
        bed.must(&["rm", "-f", "two"])?;
        until("all rules", || {
            let now = tables(&bed).ok()?;
            (now.contains("--dport 4000 -j DNAT") && now.contains("--ctstate DNAT -j ACCEPT") && !now.contains("4001"))
                .then_some(())
        })?;
    }
    Ok(())
}

#[test]
fn rules_of_an_earlier_backend_go() -> Result<()> {
    let script = r#"
        iptables -N MINE; iptables -A FORWARD -s 192.0.2.9 -j MINE
        iptables -t nat -A POSTROUTING -s 192.0.2.9 -j MASQUERADE
        iptables -N DOCKER-USER; iptables -A DOCKER-USER -s 192.0.2.1 -j DROP"#;
    let mut bed = Bed::with_a_port(&["--live-restore", IPTABLES])?;
    for line in script.lines().flat_map(|line| line.split(';')).map(str::trim).filter(|line| !line.is_empty()) {
        // DOCKER-USER is there.
        let _ = inside(&bed, &line.split(' ').collect::<Vec<_>>());
    }
    let theirs = [
        "-A FORWARD -s 192.0.2.9/32 -j MINE",
        "-A POSTROUTING -s 192.0.2.9/32 -j MASQUERADE",
        "-A DOCKER-USER -s 192.0.2.1/32 -j DROP",
        "-A FORWARD -j DOCKER-USER",
    ];
    let has_theirs = |bed: &Bed| -> Result<()> {
        let now = tables(bed)?;
        theirs.iter().try_for_each(|rule| {
            ensure!(now.contains(rule), "{rule} is missing: {now}");
            Ok(())
        })
    };
    let with_iptables = tables(&bed)?;
    has_theirs(&bed)?;
    ensure!(with_iptables.contains(":FORWARD DROP"), "{with_iptables}");
    ensure!(!bed.rules()?.contains("table inet dockerd-rs"), "both");
    bed.restart_with(&["--live-restore"])?;
    let now = tables(&bed)?;
    has_theirs(&bed)?;
    for chain in CHAINS {
        ensure!(!now.contains(&format!(":{chain} ")), "{chain} is left: {now}");
    }
    ensure!(!now.contains("dockerd-rs") && !now.contains("4000") && now.contains(":FORWARD ACCEPT"), "{now}");
    ensure!(bed.rules()?.contains("table inet dockerd-rs"), "no table");
    ensure!(bed.rules()?.contains("4000"), "the port is not published");
    bed.restart_with(&["--live-restore", IPTABLES])?;
    ensure!(!bed.rules()?.contains("table inet dockerd-rs"), "both");
    has_theirs(&bed)?;
    ensure!(tables(&bed)? == with_iptables, "{} instead of {with_iptables}", tables(&bed)?);
    // Once more with the same: replaced, not doubled.
    bed.restart_with(&["--live-restore", IPTABLES])?;
    ensure!(tables(&bed)? == with_iptables, "{} instead of {with_iptables}", tables(&bed)?);
    Ok(())
}

#[test]
fn without_the_programs_of_iptables_nftables_it_is() -> Result<()> {
    let mut bed = Bed::new()?;
    // The host's policy is known, and no program can be run.
    let hide = r#"mount --bind /dev/null "$(readlink -f "$(command -v iptables-restore)")"; exec "$@""#;
    bed.start_after(&format!("iptables -P FORWARD DROP; set -- unshare --mount sh -c '{hide}' sh \"$@\";"))?;
    ensure!(bed.log().contains("containers may be cut off"), "{}", bed.log());
    ensure!(bed.must(&["info", "-f", "{{.FirewallBackend.Driver}}"])? == "nftables", "{}", bed.log());
    ensure!(bed.rules()?.contains("table inet dockerd-rs"), "{}", bed.rules()?);
    Ok(())
}

#[test]
fn chains_of_another_daemon_stay() -> Result<()> {
    let mut bed = Bed::with_a_port(&[])?;
    for rule in [
        "-N DOCKER",
        "-N DOCKER-FORWARD",
        "-A FORWARD -j DOCKER-FORWARD",
        "-A DOCKER-FORWARD -j DOCKER",
        "-t nat -N DOCKER",
        "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    ] {
        inside(&bed, &[&["iptables"], &rule.split(' ').collect::<Vec<_>>()[..]].concat())?;
    }
    let before = tables(&bed)?;
    bed.restart_with(&[])?;
    ensure!(tables(&bed)? == before, "{} instead of {before}", tables(&bed)?);
    Ok(())
}

#[test]
fn what_cannot_work_is_said_at_the_start() -> Result<()> {
    let bed = Bed::new()?;
    let roots = bed.roots();
    let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
    let said = bed.refused(&[&roots[..], &["--firewall-backend=ipchains"]].concat())?;
    ensure!(said.code != 0, "{said:?}");
    let words = r#"invalid firewall-backend: allowed values are "iptables" and "nftables""#;
    ensure!((said.out + &said.err).contains(words));
    for backend in ["", "nftables", "iptables"] {
        let said = bed.refused(&["--validate", &format!("--firewall-backend={backend}"), "--firewall-honour-host"])?;
        ensure!(said.code == 0, "{said:?}");
    }
    let said = bed.refused(&["--validate", "--firewall-honour-host", "--userland-proxy=false"])?;
    ensure!(said.code != 0 && (said.out + &said.err).contains("firewall-honour-host needs userland-proxy"));
    // Where the program is a link to nowhere.
    let hidden = "mount -t tmpfs none /etc/alternatives; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", hidden, "sh"]).arg(binary()?).args(&roots).arg(IPTABLES);
    let said = run(&mut command)?;
    ensure!(said.code != 0, "{said:?}");
    let words = r#"firewall-backend is set to "iptables", but iptables-save cannot be run: no such file or directory"#;
    ensure!((said.out + &said.err).replace("\\\"", "\"").contains(words));
    Ok(())
}
