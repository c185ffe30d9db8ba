//! Opens a resolver in a network namespace, for tools that put load on it: `resolve NETNS [SERVER]`, where NETNS is the
//! path of a namespace and SERVER one to pass queries on to. Knows `web` and `www`; ends with its standard input.

use std::path::Path;
use std::sync::Arc;

use dockerd_network::dns::{
    JoinedNetwork, NetworkNames, Registration, Resolvers, SandboxNames, Scope, Settings, Upstream,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let netns = dockerd_sys::ns::open(Path::new(&arguments.next().ok_or("which namespace?")?))?;
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
    let handle = resolvers.open(netns, settings)?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    drop(handle);
    Ok(())
}
