//! Measures of networks: what they add to a start, how fast they come and go, published ports by number, many starts at
//! once, traffic, names, and a daemon that dies under it.

mod names;
mod traffic;

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use super::api::{Api, Order, Ports};
use super::sample::{Series, Unit};
use super::{Bench, IMAGE, since};

pub(super) use names::names;
pub(super) use traffic::{restart, traffic};

/// The network the measures are taken on.
const NETWORK: &str = "dockerd-bench";
/// The first of many published ports; none of the host's ephemeral ones.
const FIRST_PORT: u16 = 20_000;
/// Containers of the measure with many starts at once, and the clients that start them.
const AT_ONCE: usize = 50;
const STARTERS: usize = 8;

const SLEEP: &[&str] = &["sleep", "100000"];

/// Does something with a network on all daemons.
fn on_a_network(bench: &mut Bench, work: impl FnOnce(&mut Bench) -> Result<()>) -> Result<()> {
    for daemon in &mut bench.daemons {
        daemon.api.create_network(NETWORK)?;
    }
    let done = work(bench);
    for daemon in &mut bench.daemons {
        daemon.api.remove_network(NETWORK)?;
    }
    done
}

/// Milliseconds a start takes; the container is removed.
fn started(api: &mut Api, network: &str, ports: Ports) -> Result<f64> {
    let id = api.create(&Order { image: IMAGE, network, command: SLEEP, ports })?;
    let begun = Instant::now();
    let outcome = api.start(&id);
    let time = since(begun);
    api.remove(&id)?;
    outcome.map(|()| time)
}

/// A start without network, and on a user-defined one.
pub(super) fn start(bench: &mut Bench) -> Result<()> {
    on_a_network(bench, |bench| {
        let titles = [
            ("start, network none", Unit::Millis, None),
            ("start, user-defined network", Unit::Millis, None),
            ("of it for the network", Unit::Millis, Some(1.0)),
        ];
        bench.in_turn(bench.options.rounds, titles, |daemon| {
            let none = started(&mut daemon.api, "none", Ports::None)?;
            let user = started(&mut daemon.api, NETWORK, Ports::None)?;
            Ok([none, user, user - none])
        })
    })
}

/// A network comes and goes.
pub(super) fn create(bench: &mut Bench) -> Result<()> {
    let titles = [("network create and rm", Unit::Millis, Some(5.0)), ("network create", Unit::Millis, None)];
    bench.in_turn(bench.options.rounds, titles, |daemon| {
        let begun = Instant::now();
        daemon.api.create_network(NETWORK)?;
        let made = since(begun);
        daemon.api.remove_network(NETWORK)?;
        Ok([since(begun), made])
    })
}

/// Starts with many published ports.
pub(super) fn ports(bench: &mut Bench) -> Result<()> {
    on_a_network(bench, |bench| {
        let titles = [("32 published ports, added to a start", Unit::Millis, Some(1.0))];
        bench.in_turn(bench.options.rounds.min(20), titles, |daemon| added(&mut daemon.api, 32))?;
        let titles = [("1,000 published ports, added to a start", Unit::Millis, Some(30.0))];
        let rounds = if bench.options.quick { 1 } else { 3 };
        bench.in_turn(rounds, titles, |daemon| added(&mut daemon.api, 1000))
    })
}

fn added(api: &mut Api, count: u16) -> Result<[f64; 1]> {
    let without = started(api, NETWORK, Ports::None)?;
    Ok([started(api, NETWORK, Ports::Range { first: FIRST_PORT, count })? - without])
}

/// So many containers with a thousand published ports each, of the daemon under test alone: a daemon with a process for each
/// port has no room for that.
pub(super) fn many_ports(bench: &mut Bench) -> Result<()> {
    const EACH: u16 = 1000;
    let count: u16 = if bench.options.quick { 2 } else { 10 };
    let api = &mut bench.daemons[0].api;
    let mut ids = Vec::new();
    let mut measured = || -> Result<f64> {
        for at in 0..count {
            let ports = Ports::Range { first: FIRST_PORT + at * EACH, count: EACH };
            ids.push(api.create(&Order { image: IMAGE, network: "bridge", command: SLEEP, ports })?);
        }
        let begun = Instant::now();
        ids.iter().try_for_each(|id| api.start(id))?;
        Ok(since(begun))
    };
    let started = measured();
    let begun = Instant::now();
    ids.iter().try_for_each(|id| api.remove(id))?;
    let removed = since(begun);
    let title = format!("{count} containers with {EACH} published ports each");
    single(bench, format!("{title}, started"), Unit::Millis, None, vec![started?]);
    single(bench, format!("{title}, removed"), Unit::Millis, None, vec![removed]);
    Ok(())
}

/// Many containers of one network, started one after the other and at once.
pub(super) fn parallel(bench: &mut Bench) -> Result<()> {
    on_a_network(bench, |bench| {
        let titles = ["one after the other", "at once"].map(|how| format!("{AT_ONCE} starts on one network, {how}"));
        let [sequence, at_once] = &titles;
        let titles = [(sequence.as_str(), Unit::Millis, None), (at_once.as_str(), Unit::Millis, None)];
        let rounds = if bench.options.quick { 1 } else { 5 };
        bench.in_turn(rounds, titles, |daemon| {
            let socket = daemon.socket.clone();
            Ok([starts(&socket, 1)?, starts(&socket, STARTERS)?])
        })
    })
}

/// Milliseconds until all run.
fn starts(socket: &std::path::Path, clients: usize) -> Result<f64> {
    let mut api = Api::new(socket);
    let order = Order { image: IMAGE, network: NETWORK, command: SLEEP, ports: Ports::None };
    let ids = (0..AT_ONCE).map(|_| api.create(&order)).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let share = |ids: &[String]| -> Result<()> {
            let mut api = Api::new(socket);
            ids.iter().try_for_each(|id| api.start(id))
        };
        let chunks: Vec<_> =
            ids.chunks(ids.len().div_ceil(clients)).map(|ids| scope.spawn(move || share(ids))).collect();
        chunks.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    });
    let time = since(begun);
    ids.iter().try_for_each(|id| api.remove(id))?;
    outcome.map(|()| time)
}

/// The process of a running container.
fn process_of(api: &mut Api, id: &str) -> Result<i64> {
    let pid = api.details(id)?["State"]["Pid"].as_i64().unwrap_or(0);
    ensure!(pid > 0, "{id} does not run");
    Ok(pid)
}

/// A container that does nothing.
fn idle(api: &mut Api, network: &str, ports: Ports) -> Result<(String, i64)> {
    let id = api.create(&Order { image: IMAGE, network, command: SLEEP, ports })?;
    api.start(&id)?;
    let pid = process_of(api, &id)?;
    Ok((id, pid))
}

/// A line of its own for one daemon only.
fn single(bench: &mut Bench, title: String, unit: Unit, target: Option<f64>, values: Vec<f64>) {
    let mut series = Series::new(title, unit, target, bench.daemons.len());
    series.samples[0] = values;
    bench.report.extend([series]);
}
