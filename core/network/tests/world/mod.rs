//! A pretend host for tests: a network namespace with loopback, the networks under test in it, containers without
//! processes, little servers inside them, and another host beside it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dockerd_network::driver::NetworkIdentity;
use dockerd_network::link::{self, DefaultRoute, MacAddress, VethOrder};
use dockerd_network::plugins::{PluginPaths, Plugins};
use dockerd_network::sandbox::LINK_ALIAS;
use dockerd_network::stack::{
    Attachment, Joined, KeptContainer, NetworkStack, Predefined, SandboxRequest, StackOptions,
};
use dockerd_network::{NetworkConfig, NetworkError};
use dockerd_sys::netlink::{Batch, Family, Socket};
use dockerd_sys::{ns, process};
use dockerd_types::network::{EndpointConfig, EndpointState, HostPort, Port, PortBinding, PortBindings, PublishedPort};
use dockerd_types::{ContainerId, NetworkId};
use tokio::runtime::Runtime;

/// How long something may take that should happen at once.
const LIMIT: Duration = Duration::from_secs(15);
/// How long a packet gets that should not arrive.
const PATIENCE: Duration = Duration::from_millis(700);
/// What a connection to a port nobody has ends with.
pub(crate) const REFUSED: std::io::ErrorKind = std::io::ErrorKind::ConnectionRefused;
/// The other host's address.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const LAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Runs `test` on a thread with a network namespace of its own.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        ns::unshare(process::NEW_NET).expect("needs root");
        ns::loopback_up().expect("loopback");
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn on_host(test: impl FnOnce(&mut Host) + Send + 'static) {
    on_host_with(NetworkConfig::default(), test);
}

pub(crate) fn on_host_with(config: NetworkConfig, test: impl FnOnce(&mut Host) + Send + 'static) {
    in_namespace(move || test(&mut Host::open(config)));
}

/// Runs `job` in a network namespace.
pub(crate) fn inside<T: Send + 'static>(netns: &OwnedFd, job: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.try_clone().expect("descriptor");
    let run = move || {
        ns::enter(&netns, process::NEW_NET).expect("entered");
        job()
    };
    std::thread::spawn(run).join().expect("no panic")
}

pub(crate) fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().expect("iproute2").success(), "ip {arguments:?}");
}

/// Waits for what should be true soon.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Host ends of containers' links in this namespace.
pub(crate) fn links_of_ours() -> Vec<String> {
    let socket = Socket::open(Family::Route).expect("socket");
    let all = link::all(&socket).expect("listed");
    all.into_iter().filter(|l| l.alias == LINK_ALIAS).map(|l| l.name).collect()
}

/// A container: a namespace and what it was told.
#[derive(Debug)]
pub(crate) struct Container {
    id: ContainerId,
    pub(crate) netns: OwnedFd,
    state: EndpointState,
    ports: Vec<PublishedPort>,
}

impl Container {
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.state.ipv4.expect("it is on the bridge").0
    }

    pub(crate) fn state(&self) -> &EndpointState {
        &self.state
    }

    pub(crate) fn ports(&self) -> &[PublishedPort] {
        &self.ports
    }
}

/// The host with its networks.
#[derive(Debug)]
pub(crate) struct Host {
    runtime: Runtime,
    stack: Option<Arc<NetworkStack>>,
    config: NetworkConfig,
    dir: tempfile::TempDir,
}

fn identity(name: &str) -> NetworkIdentity {
    NetworkIdentity { id: NetworkId::parse(&"d".repeat(64)).expect("id"), name: name.to_owned() }
}

fn request(name: &str, ports: &[&str]) -> SandboxRequest {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let container = ContainerId::parse(&format!("c{:063x}", NEXT.fetch_add(1, Ordering::Relaxed))).expect("id");
    SandboxRequest {
        container,
        name: name.to_owned(),
        attachments: Vec::new(),
        ports: bindings(ports),
        exposed: Vec::new(),
        key: "/nowhere".into(),
    }
}

/// `[address:]host:container[/protocol]`, as `-p` takes it.
fn bindings(texts: &[&str]) -> PortBindings {
    let mut out = PortBindings::new();
    for text in texts {
        let (host, port) = text.rsplit_once(':').expect("two parts");
        let (address, host_port) = host.split_once(':').unwrap_or(("", host));
        let host_ip = (!address.is_empty()).then(|| address.parse().expect("address"));
        let host_port = HostPort::parse(host_port).expect("port");
        out.entry(Port::parse(port).expect("port")).or_default().push(PortBinding { host_ip, host_port });
    }
    out
}

impl Host {
    pub(crate) fn open(config: NetworkConfig) -> Self {
        Self::try_open(config).expect("networks")
    }

    pub(crate) fn try_open(config: NetworkConfig) -> Result<Self, NetworkError> {
        // Its threads are made by this one and so are in its namespace.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let dir = tempfile::tempdir().expect("temporary directory");
        let stack = Some(Self::stack(&runtime, &config, dir.path(), &[])?);
        Ok(Self { runtime, stack, config, dir })
    }

    fn stack(
        runtime: &Runtime,
        config: &NetworkConfig,
        dir: &Path,
        kept: &[KeptContainer],
    ) -> Result<Arc<NetworkStack>, NetworkError> {
        let predefined = Predefined { bridge: identity("bridge"), host: identity("host"), none: identity("none") };
        let stack = NetworkStack::open(StackOptions {
            config: config.clone(),
            predefined,
            networks: Vec::new(),
            incomplete: false,
            forwarding_marker: dir.join("ip-forward"),
            runtime: runtime.handle().clone(),
            plugins: Arc::new(Plugins::new(PluginPaths::default(), runtime.handle().clone())),
            ledgers: dir.to_owned(),
        })?;
        stack.restore(kept)?;
        Ok(Arc::new(stack))
    }

    fn networks(&self) -> &Arc<NetworkStack> {
        self.stack.as_ref().expect("the daemon runs")
    }

    pub(crate) fn try_join(&self, name: &str, ports: &[&str]) -> Result<Container, NetworkError> {
        join(self.networks(), request(name, ports), EndpointConfig::default())
    }

    pub(crate) fn join(&self, name: &str, ports: &[&str]) -> Container {
        self.try_join(name, ports).expect("joined")
    }

    pub(crate) fn join_with(&self, name: &str, ports: &[&str], change: impl FnOnce(&mut EndpointConfig)) -> Container {
        let mut endpoint = EndpointConfig::default();
        change(&mut endpoint);
        join(self.networks(), request(name, ports), endpoint).expect("joined")
    }

    pub(crate) fn join_at_once(&self, count: usize, ports: &[&str]) -> Vec<Container> {
        let job = |_| {
            let (networks, request) = (self.networks().clone(), request("many", ports));
            self.runtime.spawn_blocking(move || join(&networks, request, EndpointConfig::default()))
        };
        let tasks: Vec<_> = (0..count).map(job).collect();
        tasks.into_iter().map(|task| self.runtime.block_on(task).expect("no panic").expect("joined")).collect()
    }

    pub(crate) fn leave(&self, container: &Container) {
        self.runtime.block_on(self.networks().leave(&container.id)).expect("left");
    }

    /// How many sandboxes for the bridge may lie ready at most.
    pub(crate) fn prepared(&self) -> usize {
        32
    }

    pub(crate) fn kept(&self, container: &Container, pid: i32) -> KeptContainer {
        KeptContainer {
            container: container.id.clone(),
            name: "kept".to_owned(),
            pid,
            endpoints: vec![(container.state.clone(), 0)],
            way_out: None,
            ports: container.ports.clone(),
            wanted: PortBindings::new(),
            exposed: Vec::new(),
        }
    }

    /// The daemon ends without a word to anybody.
    pub(crate) fn kill(&mut self) {
        self.stack = None;
    }

    pub(crate) fn start_again(&mut self, kept: &[KeptContainer]) {
        self.stack = Some(Self::stack(&self.runtime, &self.config, self.dir.path(), kept).expect("networks"));
    }

    /// Another host on a network of its own with ours: ours has an address there, and is the other's router.
    pub(crate) fn add_neighbour(&self) -> (Ipv4Addr, OwnedFd) {
        let socket = Socket::open(Family::Route).expect("socket");
        let mut batch = Batch::new();
        link::add_bridge(&mut batch, 0, "lan0", 1500, MacAddress::local([2; 6]));
        socket.transact(&batch).expect("a network");
        let lan = link::by_name(&socket, "lan0").expect("asked").expect("made").index;
        let made = std::thread::spawn(|| {
            ns::unshare(process::NEW_NET).expect("namespace");
            ns::loopback_up().expect("loopback");
            ns::open(Path::new("/proc/thread-self/ns/net")).expect("opened")
        });
        let netns = made.join().expect("no panic");
        let mut batch = Batch::new();
        link::add_address(&mut batch, lan, LAN.into(), 24);
        let order = VethOrder {
            host_name: "lan-port",
            inner_name: "eth0",
            bridge: lan,
            netns: netns.as_fd(),
            mtu: 1500,
            alias: "test",
            isolated: false,
        };
        link::add_veth(&mut batch, order);
        socket.transact(&batch).expect("a link");
        inside(&netns, || {
            let socket = Socket::open(Family::Route).expect("socket");
            let index = link::by_name(&socket, "eth0").expect("asked").expect("there").index;
            let mut batch = Batch::new();
            link::set_up(&mut batch, index);
            link::add_address(&mut batch, index, OUTSIDE.into(), 24);
            let route = DefaultRoute { ipv6: false, link: index, gateway: Some(LAN.into()) };
            link::add_default_route(&mut batch, route);
            socket.transact(&batch).expect("configured");
        });
        (LAN, netns)
    }
}

fn join(stack: &NetworkStack, mut request: SandboxRequest, config: EndpointConfig) -> Result<Container, NetworkError> {
    let network = stack.networks().into_iter().find(|network| network.identity().name == "bridge").expect("bridge");
    let id = request.container.clone();
    request.attachments.push(Attachment { network, config });
    let none = || Err(NetworkError::WayOut("there is none".into()));
    let Joined { netns, mut endpoints, way_out: _, ports } = stack.join(request, &none)?;
    Ok(Container { id, netns: netns.expect("a namespace"), state: endpoints.remove(0), ports })
}

/// A server that answers every connection with the address it came from; ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    netns: OwnedFd,
    port: u16,
    pid: i32,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(netns: &OwnedFd, port: u16) -> Self {
        let (ready, is_ready) = mpsc::channel();
        let entered = netns.try_clone().expect("descriptor");
        let thread = std::thread::spawn(move || {
            ns::enter(&entered, process::NEW_NET).expect("entered");
            drop(entered);
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bound");
            let pid = std::fs::read_link("/proc/thread-self").expect("proc");
            let pid = pid.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a number");
            ready.send(pid).expect("the test waits");
            for client in listener.incoming() {
                let mut client = client.expect("accepted");
                let from = client.peer_addr().expect("from somewhere").ip();
                let mut asked = String::new();
                if client.read_to_string(&mut asked).is_ok() && asked == "stop" {
                    return;
                }
                // Who asked may be gone.
                let _ = client.write_all(from.to_string().as_bytes());
            }
        });
        let pid = is_ready.recv_timeout(LIMIT).expect("the server is up");
        Self { netns: netns.try_clone().expect("descriptor"), port, pid, thread: Some(thread) }
    }

    /// A number below `/proc` by which its namespace is found.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        inside(&self.netns, move || {
            if let Ok(mut stream) = TcpStream::connect_timeout(&address, LIMIT) {
                let _ = stream.write_all(b"stop");
            }
        });
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a server at `address` answers; from the calling thread's namespace.
pub(crate) fn answer(address: SocketAddr) -> Result<String, std::io::ErrorKind> {
    // A link that was made this moment may lose the first packet; the next one comes after a second.
    answer_within(address, LIMIT)
}

fn answer_within(address: SocketAddr, limit: Duration) -> Result<String, std::io::ErrorKind> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.shutdown(Shutdown::Write)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        if text.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(text) }
    };
    ask().map_err(|error| error.kind())
}

/// What a server at `address` answers to somebody in `netns`.
pub(crate) fn answer_in(netns: &OwnedFd, address: SocketAddr) -> Result<String, std::io::ErrorKind> {
    inside(netns, move || answer(address))
}

/// Whether nobody at `address` answers somebody in `netns`.
pub(crate) fn is_silent(netns: &OwnedFd, address: SocketAddr) -> bool {
    inside(netns, move || answer_within(address, PATIENCE)).is_err()
}

/// Sends back every datagram, once.
pub(crate) fn echo(netns: &OwnedFd, port: u16) -> JoinHandle<()> {
    let (ready, is_ready) = mpsc::channel();
    let netns = netns.try_clone().expect("descriptor");
    let thread = std::thread::spawn(move || {
        ns::enter(&netns, process::NEW_NET).expect("entered");
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bound");
        socket.set_read_timeout(Some(LIMIT)).expect("timeout");
        ready.send(()).expect("the test waits");
        let mut buffer = [0; 64];
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    is_ready.recv_timeout(LIMIT).expect("the server is up");
    thread
}

/// What comes back for one datagram.
pub(crate) fn datagram(address: SocketAddr) -> Result<String, std::io::ErrorKind> {
    let ask = || -> std::io::Result<String> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.send_to(b"hello", address)?;
        let mut buffer = [0; 64];
        let (length, _) = socket.recv_from(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    ask().map_err(|error| error.kind())
}
