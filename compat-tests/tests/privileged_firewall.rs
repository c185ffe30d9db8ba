//! The packet filter beside other programs': what they flush comes back, what is theirs stays. Ours alone: the stock daemon
//! sets its rules again when firewalld says so, and otherwise at its next start.

#[allow(dead_code, reason = "other suites use the rest of it")]
mod bed;

use std::process::Command;

use anyhow::{Result, ensure};
use bed::{Bed, Said, run, until};

/// nft(8) in the daemon's network namespace.
fn nft(bed: &Bed, arguments: &[&str]) -> Result<Said> {
    let mut command = Command::new("nsenter");
    run(command.args(["-t", &bed.pid().to_string(), "-n", "nft"]).args(arguments))
}

fn rules(bed: &Bed) -> Result<String> {
    let said = nft(bed, &["-s", "list", "ruleset"])?;
    ensure!(said.code == 0, "{}", said.err);
    Ok(said.out)
}

/// A daemon with a published port on a network with IPv6.
fn with_a_port() -> Result<Bed> {
    let mut bed = Bed::new()?;
    bed.start()?;
    bed.import()?;
    bed.must(&["network", "create", "--ipv6", "six"])?;
    bed.must(&["run", "-d", "--name", "one", "--network", "six", "-p", "4000:80", "busybox", "sleep", "1000"])?;
    Ok(bed)
}

#[test]
fn flushed_rules_come_back() -> Result<()> {
    let bed = with_a_port()?;
    let before = rules(&bed)?;
    for (at, flush) in [
        &["flush", "ruleset"][..],
        &["flush", "table", "inet", "dockerd-rs"],
        &["delete", "table", "inet", "dockerd-rs"],
    ]
    .iter()
    .enumerate()
    {
        ensure!(nft(&bed, flush)?.code == 0, "{flush:?}");
        until(&format!("repair {at} after {flush:?}"), || {
            (rules(&bed).ok()? == before && bed.log().matches("they are set again").count() > at).then_some(())
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
    let mut bed = with_a_port()?;
    let foreign = ["add table inet filter", "add chain inet filter input { type filter hook input priority 0 ; }"];
    for line in foreign.into_iter().chain(["add rule inet filter input tcp dport 9 counter drop"]) {
        ensure!(nft(&bed, &[line])?.code == 0, "{line}");
    }
    let theirs = || -> Result<String> { Ok(nft(&bed, &["-s", "list", "table", "inet", "filter"])?.out) };
    let before = theirs()?;
    bed.must(&["network", "create", "more"])?;
    bed.must(&["network", "rm", "more"])?;
    ensure!(nft(&bed, &["delete", "table", "inet", "dockerd-rs"])?.code == 0, "nft");
    until("the repair", || rules(&bed).ok()?.contains("table inet dockerd-rs").then_some(()))?;
    ensure!(theirs()? == before, "{}", theirs()?);
    bed.must(&["rm", "-f", "one"])?;
    bed.must(&["network", "rm", "six"])?;
    ensure!(theirs()? == before, "{}", theirs()?);
    bed.signal("TERM")?;
    ensure!(bed.ended()? == 0, "the end");
    Ok(())
}
