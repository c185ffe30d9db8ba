//! Measures what the network adds to a start: joins and leaves, with and without published ports, one client and
//! several at once. Runs as root in a network namespace of its own.
//!
//! `cargo run --release -p dockerd-network --example join -- [rounds] [clients] [milliseconds a container lives]`
#![allow(clippy::print_stdout, reason = "it is a program")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dockerd_network::driver::NetworkIdentity;
use dockerd_network::plugins::{PluginPaths, Plugins};
use dockerd_network::stack::{Attachment, NetworkStack, Predefined, SandboxRequest, StackOptions};
use dockerd_network::{NetworkConfig, NetworkDriver, NetworkError};
use dockerd_sys::{ns, process};
use dockerd_types::network::{EndpointConfig, HostPort, Port, PortBinding, PortBindings};
use dockerd_types::{ContainerId, NetworkId};

/// What the clients do.
#[derive(Debug, Clone, Copy)]
struct Load {
    ports: u16,
    rounds: u32,
    clients: u32,
    life: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter_map(|text| text.parse().ok());
    let rounds = arguments.next().unwrap_or(500);
    let clients = arguments.next().unwrap_or(8);
    let life = Duration::from_millis(u64::from(arguments.next().unwrap_or(4)));
    // Before any other thread exists: all that follow are in it.
    ns::unshare(process::NEW_NET)?;
    ns::loopback_up()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let stack = open(runtime.handle().clone())?;
    for (network, ports) in [("none", 0), ("bridge", 0), ("bridge", 1), ("bridge", 100)] {
        for clients in [1, clients] {
            std::thread::sleep(Duration::from_millis(300));
            let begun = Instant::now();
            let rounds = if ports > 1 { rounds / 10 } else { rounds };
            let mut times = runtime.block_on(run(stack.clone(), network, Load { ports, rounds, clients, life }));
            let rate = f64::from(rounds * clients) / begun.elapsed().as_secs_f64();
            times.sort_unstable();
            let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
            let (p10, p50, p95, most) = (at(10), at(50), at(95), at(100));
            println!(
                "{network:6} {ports:3} ports {clients} clients: join p10 {p10:.3} p50 {p50:.3} p95 {p95:.3} max {most:.3} ms, {rate:.0}/s"
            );
        }
    }
    Ok(())
}

fn open(runtime: tokio::runtime::Handle) -> Result<Arc<NetworkStack>, Box<dyn Error>> {
    let identity = |name: &str, byte| {
        let id = NetworkId::from_random([byte; 32]).ok_or("no id")?;
        Ok::<_, Box<dyn Error>>(NetworkIdentity { id, name: name.to_owned() })
    };
    let predefined =
        Predefined { bridge: identity("bridge", 0xb0)?, host: identity("host", 0xb1)?, none: identity("none", 0xb2)? };
    let forwarding_marker = std::env::temp_dir().join(format!("join-{}", std::process::id()));
    let options = StackOptions {
        config: NetworkConfig::default(),
        predefined,
        networks: Vec::new(),
        incomplete: false,
        forwarding_marker,
        plugins: Arc::new(Plugins::new(PluginPaths::default(), runtime.clone())),
        ledgers: std::env::temp_dir(),
        runtime,
    };
    let stack = NetworkStack::open(options)?;
    stack.restore(&[])?;
    Ok(Arc::new(stack))
}

async fn run(stack: Arc<NetworkStack>, network: &str, load: Load) -> Vec<Duration> {
    let driver = stack.networks().into_iter().find(|driver| driver.identity().name == network).expect("known");
    let tasks = (0..load.clients).map(|client| tokio::spawn(one(stack.clone(), driver.clone(), load, client)));
    let mut times = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await.expect("no panic"));
    }
    times
}

async fn one(stack: Arc<NetworkStack>, driver: Arc<dyn NetworkDriver>, load: Load, client: u32) -> Vec<Duration> {
    let mut times = Vec::new();
    for round in 0..load.rounds {
        let mut id = [0xc0; 32];
        id[4..8].copy_from_slice(&round.to_ne_bytes());
        id[8..12].copy_from_slice(&client.to_ne_bytes());
        let container = ContainerId::from_random(id).expect("an id");
        let binding = |_| vec![PortBinding { host_ip: None, host_port: HostPort::Ephemeral }];
        let ports: PortBindings =
            (1..=load.ports).filter_map(|n| Some((Port::parse(&n.to_string()).ok()?, binding(n)))).collect();
        let request = SandboxRequest {
            container: container.clone(),
            name: "x".to_owned(),
            attachments: vec![Attachment { network: driver.clone(), config: EndpointConfig::default() }],
            ports,
            exposed: Vec::new(),
            key: std::env::temp_dir().join("join"),
        };
        let begun = Instant::now();
        let stack_ = stack.clone();
        let joined = tokio::task::spawn_blocking(move || {
            stack_.join(request, &|| Err(NetworkError::WayOut("there is none".into())))
        });
        let joined = joined.await.expect("no panic").expect("joined");
        times.push(begun.elapsed());
        tokio::time::sleep(load.life).await;
        drop(joined);
        stack.leave(&container).await.expect("left");
    }
    times
}
