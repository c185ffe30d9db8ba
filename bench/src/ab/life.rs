//! Measures of container lives at the API, without the CLI.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::api::{Api, Order, Ports};
use super::sample::{Series, Unit};
use super::{Bench, IMAGE, millis, since};

/// Clients of the measure with several.
const CLIENTS: usize = 8;
/// Turns of each daemon in that measure.
const TURNS: usize = 5;

/// `GET /_ping`.
pub(super) fn ping(bench: &mut Bench) -> Result<()> {
    let rounds = bench.options.rounds * 5;
    bench.in_turn(rounds, [("ping", Unit::Millis, None)], |daemon| {
        let begun = Instant::now();
        daemon.api.ping()?;
        Ok([since(begun)])
    })
}

/// Create, start, wait for the exit of `true`, remove.
pub(super) fn whole_life(bench: &mut Bench) -> Result<()> {
    let network = bench.network.clone();
    let titles = [
        ("create", Unit::Millis, None),
        ("start", Unit::Millis, Some(3.0)),
        ("wait (after start)", Unit::Millis, None),
        ("create to exit", Unit::Millis, Some(6.0)),
        ("remove", Unit::Millis, None),
        ("whole run", Unit::Millis, None),
    ];
    bench.in_turn(bench.options.rounds, titles, |daemon| one_life(&mut daemon.api, &network))
}

fn one_life(api: &mut Api, network: &str) -> Result<[f64; 6]> {
    let order = Order { image: IMAGE, network, command: &["true"], ports: Ports::None };
    let begun = Instant::now();
    let id = api.create(&order)?;
    let created = begun.elapsed();
    api.start(&id)?;
    let started = begun.elapsed();
    let code = api.wait(&id)?;
    let exited = begun.elapsed();
    ensure!(code == 0, "true ended with {code}");
    api.remove_ended(&id)?;
    let removed = begun.elapsed();
    let steps = [created, started - created, exited - started, exited, removed - exited, removed];
    Ok(steps.map(millis))
}

/// `true` in a container that runs.
pub(super) fn exec(bench: &mut Bench) -> Result<()> {
    exec_titled(bench, "exec true", Some(2.5))
}

/// Start and exec while others keep all processors busy.
pub(super) fn busy(bench: &mut Bench) -> Result<()> {
    let over = AtomicBool::new(false);
    let threads = std::thread::available_parallelism()?.get() + 1;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let network = bench.network.clone();
        let titles = [("start, busy host", Unit::Millis, None)];
        let started = bench.in_turn(bench.options.rounds, titles, |daemon| {
            one_life(&mut daemon.api, &network).map(|[_, start, ..]| [start])
        });
        let done = started.and_then(|()| exec_titled(bench, "exec true, busy host", None));
        over.store(true, Ordering::Relaxed);
        done
    })
}

fn exec_titled(bench: &mut Bench, title: &str, target: Option<f64>) -> Result<()> {
    let mut ids = Vec::new();
    let order = Order { image: IMAGE, network: &bench.network, command: &["sleep", "100000"], ports: Ports::None };
    for daemon in &mut bench.daemons {
        let id = daemon.api.create(&order)?;
        daemon.api.start(&id)?;
        ids.push((daemon.name, id));
    }
    let rounds = bench.options.rounds;
    let done = bench.in_turn(rounds, [(title, Unit::Millis, target)], |daemon| {
        let (_, id) = ids.iter().find(|(name, _)| *name == daemon.name).ok_or_else(|| anyhow!("no container"))?;
        let begun = Instant::now();
        daemon.api.exec_true(id)?;
        Ok([since(begun)])
    });
    for (daemon, (_, id)) in bench.daemons.iter_mut().zip(&ids) {
        daemon.api.remove(id)?;
    }
    done
}

/// From a kill until a wait has seen the end.
pub(super) fn kill(bench: &mut Bench) -> Result<()> {
    let network = bench.network.clone();
    bench.in_turn(bench.options.rounds, [("kill to wait", Unit::Millis, Some(4.0))], |daemon| {
        let order = Order { image: IMAGE, network: &network, command: &["sleep", "100000"], ports: Ports::None };
        let id = daemon.api.create(&order)?;
        daemon.api.start(&id)?;
        let begun = Instant::now();
        daemon.api.kill(&id)?;
        let code = daemon.api.wait(&id)?;
        let time = since(begun);
        ensure!(code == 137, "killed, but ended with {code}");
        daemon.api.remove_ended(&id)?;
        Ok([time])
    })
}

/// Whole runs per second with several clients at once.
pub(super) fn parallel(bench: &mut Bench) -> Result<()> {
    let (turns, window) =
        if bench.options.quick { (1, Duration::from_secs(2)) } else { (TURNS, Duration::from_secs(4)) };
    let title = format!("whole runs, {CLIENTS} clients at once");
    let mut series = Series::new(title, Unit::PerSecond, Some(150.0), bench.daemons.len());
    for _ in 0..turns {
        for (daemon, samples) in bench.daemons.iter().zip(&mut series.samples) {
            samples.push(runs_per_second(&daemon.socket, &bench.network, window)?);
        }
    }
    bench.report.extend([series]);
    Ok(())
}

/// Each client begins another run until the window closes, and finishes it.
fn runs_per_second(socket: &Path, network: &str, window: Duration) -> Result<f64> {
    let done = AtomicUsize::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let client = || -> Result<()> {
            let mut api = Api::new(socket);
            while begun.elapsed() < window {
                one_life(&mut api, network)?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    Ok(done.into_inner() as f64 / begun.elapsed().as_secs_f64())
}
