//! Opens a resolver in a network namespace, for tools that put load on it: `resolve NETNS [SERVER]`, where NETNS is the
//! path of a namespace and SERVER one to pass queries on to. Knows `web` and `www`; ends with its standard input. With a
//! number for NETNS, opens so many in new namespaces and says what they cost.
#![allow(clippy::print_stdout, reason = "it is a program")]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dockerd_network::dns::{
    JoinedNetwork, NetworkNames, Registration, Resolvers, SandboxNames, Scope, Settings, Upstream,
};
use dockerd_sys::{ns, process};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let netns = arguments.next().ok_or("which namespace?")?;
    let upstreams = arguments.map(|text| Ok(Upstream { address: text.parse()?, scope: Scope::Host }));
    let upstreams = upstreams.collect::<Result<Vec<_>, std::net::AddrParseError>>()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let network = Arc::new(NetworkNames::new("u1"));
    for (id, name, address) in [("1", "web", "172.18.0.2"), ("2", "web2", "172.18.0.3")] {
        let names = vec![name.to_owned(), "www".to_owned()];
        network.register(id, Registration { names, addresses: vec![address.parse()?] });
    }
    let view = Arc::new(SandboxNames::new(vec![JoinedNetwork { names: network, links: Default::default() }]));
    let resolvers = Resolvers::start(runtime.handle().clone())?;
    let settings = Settings { view, upstreams, external: true, ndots_set: false };
    if let Ok(count) = netns.parse() {
        return many(&resolvers, &settings, count);
    }
    let handle = resolvers.open(ns::open(Path::new(&netns))?, settings)?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    drop(handle);
    Ok(())
}

fn many(resolvers: &Resolvers, settings: &Settings, count: u32) -> Result<(), Box<dyn std::error::Error>> {
    let make = || -> std::io::Result<OwnedFd> {
        ns::unshare(process::NEW_NET)?;
        ns::loopback_up()?;
        ns::open(Path::new("/proc/thread-self/ns/net"))
    };
    let spaces: Vec<_> = (0..count).map(|_| std::thread::spawn(make).join()).collect();
    let spaces = spaces.into_iter().map(|made| made.map_err(|_| "a thread ended")?.map_err(Into::into));
    let spaces = spaces.collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    let resident = || -> std::io::Result<u64> {
        let pages = std::fs::read_to_string("/proc/self/statm")?;
        Ok(pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096)
    };
    let open = |spaces: &[OwnedFd]| {
        let one = |space: &OwnedFd| Ok(resolvers.open(space.try_clone()?, settings.clone())?);
        spaces.iter().map(one).collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()
    };
    let (before, begun) = (resident()?, Instant::now());
    let first = open(&spaces)?;
    let (each, took) = ((resident()? - before) / u64::from(count), begun.elapsed() / count);
    println!("{} resolvers: {each} bytes and {took:?} each", first.len());
    drop(first);
    let begun = Instant::now();
    let second = open(&spaces)?;
    println!("{} after a restart: {:?} each", second.len(), begun.elapsed() / count);
    Ok(())
}
