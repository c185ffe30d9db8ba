//! Throughput by iperf3 in the network namespaces of containers, of the daemon and of another host, and a stream through a
//! published port while the daemon is killed and comes back.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{FIRST_PORT, NETWORK, Ports, idle, on_a_network, single};
use crate::ab::Bench;
use crate::ab::daemon::Daemon;
use crate::ab::sample::{Series, Unit};

/// iperf3's port, which is published under the same number.
const PORT: u16 = 5201;
/// Addresses of the daemon's host and of another one, on a link between them.
const HOST: &str = "198.51.100.1";
const PEER: &str = "198.51.100.2";
/// Containers of the restart, and published ports of each.
const KEPT: usize = 200;
const PORTS: u16 = 5;

/// A process in a network namespace, killed when it is not wanted any more.
struct Guest(Child);

impl Guest {
    fn spawn(pid: i64, program: &[&str]) -> Result<Self> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).args(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("nsenter")?))
    }

    /// An iperf3 server that listens.
    fn server(pid: i64) -> Result<Self> {
        let server = Self::spawn(pid, &["iperf3", "-s", "-p", &PORT.to_string()])?;
        let begun = std::time::Instant::now();
        let listens = || {
            let sockets = ["tcp", "tcp6"].map(|name| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")));
            let port = format!(":{PORT:04X} ");
            sockets.into_iter().flatten().any(|text| text.lines().any(|l| l.contains(&port) && l.contains(" 0A ")))
        };
        while !listens() {
            ensure!(begun.elapsed() < Duration::from_secs(5), "iperf3 does not listen (is it installed?)");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another host: a network namespace with a link to the daemon's.
struct Peer(Guest);

impl Peer {
    fn beside(daemon: i32) -> Result<Self> {
        let script = format!(
            "ip link add bench0 type veth peer name bench1 netns /proc/{daemon}/ns/net && ip addr add {PEER}/24 dev bench0 \
             && ip link set bench0 up && ip link set lo up && nsenter --net=/proc/{daemon}/ns/net sh -c \
             'ip addr add {HOST}/24 dev bench1 && ip link set bench1 up' && echo ready && exec sleep 100000"
        );
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("unshare")?;
        let mut line = String::new();
        let stdout = child.stdout.as_mut().context("no output")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        let peer = Self(Guest(child));
        ensure!(line.trim() == "ready", "the other host could not be made");
        Ok(peer)
    }

    fn pid(&self) -> i64 {
        self.0.0.id().into()
    }
}

/// Gigabits per second from a client in the namespace of `pid`.
fn stream(pid: i64, address: &str, seconds: u32) -> Result<f64> {
    let (port, seconds) = (PORT.to_string(), seconds.to_string());
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net"));
    let output =
        command.args(["iperf3", "-J", "-c", address, "-p", &port, "-t", &seconds]).output().context("iperf3")?;
    gigabits(&output.stdout)
}

fn gigabits(report: &[u8]) -> Result<f64> {
    let report: Value = serde_json::from_slice(report).context("iperf3 reported nothing")?;
    ensure!(report["error"].is_null(), "iperf3: {}", report["error"]);
    Ok(report["end"]["sum_received"]["bits_per_second"].as_f64().context("no rate")? / 1e9)
}

/// Between two containers, from another host through a published port, and from the daemon's own host.
pub(crate) fn traffic(bench: &mut Bench) -> Result<()> {
    let (turns, seconds) = if bench.options.quick { (1, 1) } else { (3, 3) };
    on_a_network(bench, |bench| {
        let count = bench.daemons.len();
        let line = |title: &str, ratio| Series::new(title, Unit::Gigabits, None, count).at_least_times(ratio);
        let mut lines = [
            line("throughput between containers", 1.0),
            line("throughput through a published port", 1.0),
            line("throughput to a published port of localhost", 2.0),
        ];
        for turn in 0..turns {
            for place in 0..count {
                let at = if turn % 2 == 0 { place } else { count - 1 - place };
                let rates = rates(&mut bench.daemons[at], seconds).with_context(|| bench.daemons[at].name)?;
                lines.iter_mut().zip(rates).for_each(|(line, rate)| line.samples[at].push(rate));
            }
        }
        bench.report.extend(lines);
        Ok(())
    })
}

fn rates(daemon: &mut Daemon, seconds: u32) -> Result<[f64; 3]> {
    let ports = Ports::Range { first: PORT, count: 1 };
    let (server, server_pid) = idle(&mut daemon.api, NETWORK, ports)?;
    let (client, client_pid) = idle(&mut daemon.api, NETWORK, Ports::None)?;
    let measured = (|| {
        let _server = Guest::server(server_pid)?;
        let peer = Peer::beside(daemon.pid)?;
        let details = daemon.api.details(&server)?;
        let address = details["NetworkSettings"]["Networks"][NETWORK]["IPAddress"].as_str().context("no address")?;
        Ok([
            stream(client_pid, address, seconds)?,
            stream(peer.pid(), HOST, seconds)?,
            stream(daemon.pid.into(), "127.0.0.1", seconds)?,
        ])
    })();
    daemon.api.remove(&server)?;
    daemon.api.remove(&client)?;
    measured
}

/// Many containers with ports, and a daemon that is killed and started again: how long until it answers, with the networks
/// as they were, and whether a stream through a published port went on.
pub(crate) fn restart(bench: &mut Bench) -> Result<()> {
    let kept = if bench.options.quick { 20 } else { KEPT };
    let daemon = &mut bench.daemons[0];
    daemon.api.create_network(NETWORK)?;
    let mut ids = Vec::new();
    let mut measured = restarted(daemon, kept, &mut ids);
    for id in &ids {
        daemon.api.remove(id)?;
    }
    daemon.api.remove_network(NETWORK)?;
    if let Ok((_, rate)) = &mut measured {
        ensure!(*rate > 0.0, "the stream through a published port did not survive");
    }
    let (times, rate) = measured?;
    let title = format!("restart after a kill, {kept} containers with {} ports", kept * usize::from(PORTS));
    single(bench, title, Unit::Millis, Some(500.0), times);
    single(bench, "throughput of a stream over the restart".to_owned(), Unit::Gigabits, None, vec![rate]);
    Ok(())
}

fn restarted(daemon: &mut Daemon, kept: usize, ids: &mut Vec<String>) -> Result<(Vec<f64>, f64)> {
    for at in 0..kept {
        let first = FIRST_PORT + u16::try_from(at)? * PORTS;
        ids.push(idle(&mut daemon.api, NETWORK, Ports::Range { first, count: PORTS })?.0);
    }
    let (server, server_pid) = idle(&mut daemon.api, NETWORK, Ports::Range { first: PORT, count: 1 })?;
    ids.push(server);
    let _server = Guest::server(server_pid)?;
    let peer = Peer::beside(daemon.pid)?;
    let port = PORT.to_string();
    let mut client = Guest::spawn(peer.pid(), &["iperf3", "-J", "-c", HOST, "-p", &port, "-t", "4"])?;
    let mut times = Vec::new();
    for _ in 0..2 {
        times.push(daemon.kill_and_restart()?);
    }
    let mut report = Vec::new();
    let stdout = client.0.stdout.as_mut().context("no output")?;
    std::io::Read::read_to_end(stdout, &mut report)?;
    Ok((times, gigabits(&report)?))
}
