//! The resolver of containers in network namespaces that the tests make, asked by sockets, by `dig` and by the C
//! libraries. The servers it passes queries on to are the tests' own, on loopback. Needs root.

mod servers;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dockerd_network::dns::{
    ADDRESS, JoinedNetwork, NetworkNames, Registration, ResolverHandle, Resolvers, SandboxNames, Scope, Settings,
    Upstream,
};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::runtime::Runtime;

use servers::{Behaviour, LIMIT, Server, inside, space};

const US: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(ADDRESS), 53);

/// A daemon's resolvers and one sandbox.
struct World {
    runtime: Runtime,
    resolvers: Resolvers,
    network: Arc<NetworkNames>,
    netns: OwnedFd,
}

impl World {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let resolvers = Resolvers::start(runtime.handle().clone()).expect("started");
        let network = Arc::new(NetworkNames::new("net"));
        for (id, names, addresses) in [
            ("1", &["web", "0123456789ab", "www"][..], &["10.0.0.2", "fd00::2"][..]),
            ("2", &["db", "www"], &["10.0.0.3"]),
        ] {
            let names = names.iter().map(|n| (*n).to_owned()).collect();
            let addresses = addresses.iter().map(|a| a.parse().expect("an address")).collect();
            network.register(id, Registration { names, addresses });
        }
        Self { runtime, resolvers, network, netns: space() }
    }

    fn settings(&self, upstreams: &[Upstream]) -> Settings {
        let links = [("store".to_owned(), "db".to_owned())].into();
        let view = SandboxNames::new(vec![JoinedNetwork { names: self.network.clone(), links }]);
        Settings { view: Arc::new(view), upstreams: upstreams.to_vec(), external: true, ndots_set: false }
    }

    fn open(&self, upstreams: &[Upstream]) -> ResolverHandle {
        self.open_with(self.settings(upstreams))
    }

    fn open_with(&self, settings: Settings) -> ResolverHandle {
        self.resolvers.open(self.netns.try_clone().expect("descriptor"), settings).expect("opened")
    }

    /// Asks over UDP, from the sandbox.
    fn ask(&self, query: Message) -> std::io::Result<Message> {
        inside(&self.netns, move || ask(&query, LIMIT))
    }

    fn ask_name(&self, name: &str, kind: RecordType) -> Message {
        self.ask(query(name, kind)).expect("answered")
    }

    /// Asks over one connection, everything before reading anything.
    fn ask_over_tcp(&self, queries: Vec<Message>) -> Vec<Message> {
        inside(&self.netns, move || {
            let mut stream = TcpStream::connect_timeout(&US, LIMIT).expect("connected");
            stream.set_read_timeout(Some(LIMIT)).expect("limited");
            for query in &queries {
                let bytes = query.to_vec().expect("written");
                stream.write_all(&(bytes.len() as u16).to_be_bytes()).expect("sent");
                stream.write_all(&bytes).expect("sent");
            }
            let one = |_| {
                let mut length = [0; 2];
                stream.read_exact(&mut length).expect("answered");
                let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut bytes).expect("answered");
                Message::from_vec(&bytes).expect("well-formed")
            };
            (0..queries.len()).map(one).collect()
        })
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

fn ask(query: &Message, limit: Duration) -> std::io::Result<Message> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(US)?;
    socket.set_read_timeout(Some(limit))?;
    socket.send(&query.to_vec().expect("written"))?;
    let mut bytes = [0; 65_535];
    let length = socket.recv(&mut bytes)?;
    let response = Message::from_vec(&bytes[..length]).expect("well-formed");
    assert_eq!(response.metadata.id, query.metadata.id);
    assert_eq!(response.queries, query.queries);
    Ok(response)
}

fn answers(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

fn host(server: &Server) -> Upstream {
    Upstream { address: server.address, scope: Scope::Host }
}

#[test]
fn privileged_own_names_are_answered() {
    let world = World::new();
    let _open = world.open(&[]);
    for (name, kind, wanted) in [
        ("web", RecordType::A, &["10.0.0.2"][..]),
        ("WEB.Net.", RecordType::A, &["10.0.0.2"]),
        ("0123456789ab", RecordType::A, &["10.0.0.2"]),
        ("store", RecordType::A, &["10.0.0.3"]),
        ("web", RecordType::AAAA, &["fd00::2"]),
        ("db", RecordType::AAAA, &[]),
        ("db", RecordType::MX, &[]),
        ("3.0.0.10.in-addr.arpa", RecordType::PTR, &["db.net."]),
    ] {
        for response in [world.ask_name(name, kind), world.ask_over_tcp(vec![query(name, kind)]).remove(0)] {
            assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{name}");
            assert!(response.metadata.recursion_available && !response.metadata.truncation);
            assert_eq!(answers(&response), wanted, "{name} {kind}");
            assert!(response.answers.iter().all(|record| record.ttl == 600));
        }
    }
    let firsts = [(); 4].map(|()| answers(&world.ask_name("www", RecordType::A)).remove(0));
    assert!(firsts.contains(&"10.0.0.2".to_owned()) && firsts.contains(&"10.0.0.3".to_owned()), "{firsts:?}");
    // Nobody else can be asked.
    for (name, kind) in [("nosuch", RecordType::A), ("web", RecordType::TXT), ("db.other", RecordType::A)] {
        assert_eq!(world.ask_name(name, kind).metadata.response_code, ResponseCode::ServFail);
    }
    // Names come and go while it is open.
    let late = Registration { names: vec!["late".to_owned()], addresses: vec![[10, 0, 0, 9].into()] };
    world.network.register("3", late);
    assert_eq!(answers(&world.ask_name("late", RecordType::A)), ["10.0.0.9"]);
}

#[test]
fn privileged_long_answers_are_truncated() {
    let world = World::new();
    let addresses = (1..=100).map(|n| [10, 1, 0, n].into()).collect();
    world.network.register("many", Registration { names: vec!["many".to_owned()], addresses });
    let _open = world.open(&[]);
    let plain = world.ask_name("many", RecordType::A);
    assert!(plain.metadata.truncation && plain.answers.len() > 20 && plain.to_vec().expect("written").len() <= 512);
    let large = world.ask(with_edns(query("many", RecordType::A), 4096)).expect("answered");
    assert_eq!((large.metadata.truncation, large.answers.len()), (false, 100));
    assert_eq!(world.ask_over_tcp(vec![query("many", RecordType::A)])[0].answers.len(), 100);
}

#[test]
fn privileged_a_container_may_have_a_server_of_its_own() {
    let world = World::new();
    let servers = |address: Ipv4Addr| {
        inside(&world.netns, move || {
            let begun = Instant::now();
            loop {
                // A program that another test just began may still hold what was closed here, until it is executed.
                match UdpSocket::bind((address, 53)).and_then(|udp| Ok((udp, TcpListener::bind((address, 53))?))) {
                    Ok(pair) => return pair,
                    Err(error) => assert!(begun.elapsed() < LIMIT, "{address}: {error}"),
                }
                std::thread::yield_now();
            }
        })
    };
    // Before it is opened, and after.
    let before = servers(Ipv4Addr::UNSPECIFIED);
    let _open = world.open(&[]);
    assert_eq!(answers(&world.ask_name("web", RecordType::A)), ["10.0.0.2"]);
    drop(before);
    for address in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
        let (udp, _tcp) = servers(address);
        assert_eq!(answers(&world.ask_name("web", RecordType::A)), ["10.0.0.2"]);
        assert_eq!(world.ask_over_tcp(vec![query("web", RecordType::A)]).len(), 1);
        // And is asked at its own address.
        udp.set_read_timeout(Some(LIMIT)).expect("limited");
        inside(&world.netns, || {
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
            client.send_to(b"to the container's own", (Ipv4Addr::LOCALHOST, 53)).expect("sent");
        });
        let mut bytes = [0; 64];
        assert_eq!(udp.recv(&mut bytes).expect("received"), 22);
    }
}

#[test]
fn privileged_a_container_may_filter_by_connection() {
    let world = World::new();
    let _open = world.open(&[]);
    let rules = "table ip own {
        chain input { type filter hook input priority filter; policy drop; ct state established,new accept; }
        chain output { type filter hook output priority filter; policy drop; ct state established,new accept; }
    }";
    let loaded = inside(&world.netns, move || Command::new("nft").arg(rules).status().expect("nft"));
    assert!(loaded.success());
    assert_eq!(answers(&world.ask_name("web", RecordType::A)), ["10.0.0.2"]);
    assert_eq!(world.ask_over_tcp(vec![query("web", RecordType::A), query("db", RecordType::A)]).len(), 2);
}

#[test]
fn privileged_other_names_are_passed_on_and_kept() {
    let world = World::new();
    let server = Server::start(Behaviour::Answer);
    let _open = world.open(&[host(&server)]);
    let first = world.ask_name("example.org", RecordType::A);
    assert_eq!(answers(&first), ["192.0.2.1"]);
    // In the client's own spelling.
    let again = world.ask_name("EXAMPLE.org", RecordType::A);
    assert_eq!(answers(&again), ["192.0.2.1"]);
    assert!(again.queries[0].name().eq_case(&Name::from_ascii("EXAMPLE.org.").expect("a name")));
    assert_eq!(server.asked(), 1, "the second was kept");
    // What the client says of itself goes on, and so another response is kept for it.
    let large = world.ask(with_edns(query("example.org", RecordType::A), 1400)).expect("answered");
    assert_eq!((answers(&large), server.asked(), server.payload()), (vec!["192.0.2.1".to_owned()], 2, 1400));
    assert_eq!(answers(&world.ask_over_tcp(vec![query("example.org", RecordType::A)])[0]), ["192.0.2.1"]);
    assert_eq!(server.asked_over_tcp(), 1, "who asks over TCP is asked for over TCP");
}

#[test]
fn privileged_dead_servers_are_not_waited_for() {
    let world = World::new();
    let (silent, lives) = (Server::start(Behaviour::Silent), Server::start(Behaviour::Answer));
    let _open = world.open(&[host(&silent), host(&lives)]);
    let timed = |name: &str| {
        let begun = Instant::now();
        assert_eq!(answers(&world.ask_name(name, RecordType::A)), ["192.0.2.1"]);
        begun.elapsed()
    };
    let first = timed("one.example");
    assert!(first > Duration::from_millis(900) && first < Duration::from_secs(3), "{first:?}");
    for name in ["two.example", "three.example", "four.example"] {
        let next = timed(name);
        assert!(next < Duration::from_millis(500), "{name}: {next:?}");
    }
    // Nobody listens there: that is known at once.
    let gone = Server::start(Behaviour::Answer).address;
    let other = World::new();
    let refused = Upstream { address: gone, scope: Scope::Host };
    let _open = other.open(&[refused, host(&lives)]);
    let begun = Instant::now();
    assert_eq!(answers(&other.ask_name("five.example", RecordType::A)), ["192.0.2.1"]);
    assert!(begun.elapsed() < Duration::from_millis(500));
    // One that fails is passed over, and when all do, the client is told.
    let fails = Server::start(Behaviour::Fail);
    let third = World::new();
    let open = third.open(&[host(&fails), host(&lives)]);
    assert_eq!(answers(&third.ask_name("six.example", RecordType::A)), ["192.0.2.1"]);
    open.set(third.settings(&[host(&fails)]));
    assert_eq!(third.ask_name("six.example", RecordType::A).metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn privileged_truncated_responses_are_had_whole() {
    let world = World::new();
    let server = Server::start(Behaviour::Truncate);
    let _open = world.open(&[host(&server)]);
    let plain = world.ask_name("long.example", RecordType::A);
    assert!(plain.metadata.truncation, "the client asks again");
    assert_eq!(answers(&world.ask_over_tcp(vec![query("long.example", RecordType::A)])[0]).len(), 60);
    let large = world.ask(with_edns(query("long.example", RecordType::A), 4096)).expect("answered");
    assert_eq!((large.metadata.truncation, large.answers.len()), (false, 60), "it takes more than came");
}

#[test]
fn privileged_forged_responses_are_not_taken() {
    let world = World::new();
    let server = Server::start(Behaviour::Forge);
    let _open = world.open(&[host(&server)]);
    assert_eq!(answers(&world.ask_name("bank.example", RecordType::A)), ["192.0.2.1"]);
}

#[test]
fn privileged_internal_networks_ask_only_from_inside() {
    let world = World::new();
    let outside = Server::start(Behaviour::Answer);
    let within = inside(&world.netns, || Server::start(Behaviour::Answer));
    let internal = |upstreams: &[Upstream]| Settings { external: false, ..world.settings(upstreams) };
    let open = world.open_with(internal(&[host(&outside)]));
    assert_eq!(world.ask_name("example.org", RecordType::A).metadata.response_code, ResponseCode::ServFail);
    assert_eq!(outside.asked(), 0);
    open.set(internal(&[host(&outside), Upstream { address: within.address, scope: Scope::Sandbox }]));
    assert_eq!(answers(&world.ask_name("example.org", RecordType::A)), ["192.0.2.1"]);
    assert_eq!((outside.asked(), within.asked()), (0, 1));
    // Out again: the network is connected to another one.
    open.set(world.settings(&[host(&outside)]));
    assert_eq!(answers(&world.ask_name("example.org", RecordType::A)), ["192.0.2.1"]);
    // A client with a search list is to use it first.
    open.set(Settings { ndots_set: true, ..world.settings(&[host(&outside)]) });
    let single = world.ask_name("single", RecordType::A);
    assert_eq!((single.metadata.response_code, single.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(outside.asked(), 1);
}

#[test]
fn privileged_many_queries_at_once() {
    let world = World::new();
    let server = Server::start(Behaviour::Answer);
    let _open = world.open(&[host(&server)]);
    let names = |n: usize| if n.is_multiple_of(2) { format!("n{n}.example") } else { "web".to_owned() };
    let got = inside(&world.netns, move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
        socket.set_read_timeout(Some(LIMIT)).expect("limited");
        servers::widen(&socket);
        let mut waiting = std::collections::HashMap::new();
        for n in 0..1000 {
            let mut query = query(&names(n), RecordType::A);
            query.metadata.id = n as u16;
            socket.send_to(&query.to_vec().expect("written"), US).expect("sent");
            waiting.insert(query.metadata.id, query.queries.clone());
        }
        let mut bytes = [0; 2048];
        while !waiting.is_empty() {
            let length = socket.recv(&mut bytes).unwrap_or_else(|e| panic!("{} have no answer: {e}", waiting.len()));
            let response = Message::from_vec(&bytes[..length]).expect("well-formed");
            assert_eq!(response.metadata.response_code, ResponseCode::NoError);
            assert_eq!(waiting.remove(&response.metadata.id), Some(response.queries));
            assert!(matches!(response.answers[0].data, RData::A(_)));
        }
        true
    });
    assert!(got);
    // Over one connection, without waiting in between.
    let queries: Vec<_> = (0..200).map(|n| query(&names(n), RecordType::A)).collect();
    let mut asked: Vec<_> = queries.iter().map(|q| (q.metadata.id, q.queries[0].name().to_ascii())).collect();
    let mut told: Vec<_> =
        world.ask_over_tcp(queries).iter().map(|r| (r.metadata.id, r.queries[0].name().to_ascii())).collect();
    asked.sort();
    told.sort();
    assert_eq!(asked, told);
}

#[test]
fn privileged_another_daemon_takes_over() {
    let world = World::new();
    let first = world.open(&[]);
    assert_eq!(answers(&world.ask_name("web", RecordType::A)), ["10.0.0.2"]);
    drop(first);
    // Nobody answers for a while, and nobody says that there is nobody: clients try again. The sockets are closed by the
    // runtime's threads, soon.
    let begun = Instant::now();
    let silence = loop {
        let one = inside(&world.netns, || ask(&query("web", RecordType::A), Duration::from_millis(300)));
        match one {
            Err(error) => break error.kind(),
            Ok(_) => assert!(begun.elapsed() < LIMIT, "still served"),
        }
    };
    assert_eq!(silence, std::io::ErrorKind::WouldBlock);
    // A client that is waiting gets its answer when it asks again.
    let second = world.open(&[]);
    let third = world.open(&[]);
    assert_eq!(answers(&world.ask_name("web", RecordType::A)), ["10.0.0.2"]);
    assert_eq!(world.ask_over_tcp(vec![query("web", RecordType::A)]).len(), 1);
    drop(second);
    assert_eq!(answers(&world.ask_name("web", RecordType::A)), ["10.0.0.2"], "it was replaced before");
    world.runtime.block_on(third.retire()).expect("retired");
    let gone = world.ask(query("web", RecordType::A)).expect_err("nobody is there");
    assert_eq!(gone.kind(), std::io::ErrorKind::ConnectionRefused);
    let rules = inside(&world.netns, || Command::new("nft").args(["list", "ruleset"]).output().expect("nft"));
    assert_eq!(String::from_utf8_lossy(&rules.stdout), "");
}

/// Runs a program in the sandbox, with a resolv.conf that leads to us, in a mount namespace of its own.
fn run(world: &World, program: &[&str]) -> (bool, String) {
    let program: Vec<String> = program.iter().map(|word| (*word).to_owned()).collect();
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.11\nsearch example.org\noptions ndots:0\n").expect("written");
    inside(&world.netns, move || {
        dockerd_sys::ns::unshare(dockerd_sys::process::NEW_MOUNT).expect("needs root");
        let mount = |arguments: &[&str]| {
            assert!(Command::new("mount").args(arguments).status().expect("mount").success(), "{arguments:?}");
        };
        mount(&["--make-rprivate", "/"]);
        mount(&["--bind", file.to_str().expect("text"), "/etc/resolv.conf"]);
        // glibc asks only for families of which there is an address besides loopback's.
        for address in ["10.0.0.8/24", "fd00::8/64"] {
            let arguments = ["address", "replace", address, "dev", "lo", "nodad"];
            let arguments = if address.contains(':') { &arguments[..] } else { &arguments[..5] };
            assert!(Command::new("ip").args(arguments).status().expect("iproute2").success());
        }
        let output = Command::new(&program[0]).args(&program[1..]).output().expect("installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    })
}

/// Prints the IPv4 addresses of its argument, by the C library's resolver.
const LOOKUP: &str = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int count, char **arguments) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *all;
    char text[INET6_ADDRSTRLEN];
    if (count != 2 || getaddrinfo(arguments[1], "80", &hints, &all)) return 1;
    for (; all; all = all->ai_next)
        if (all->ai_family == AF_INET)
            puts(inet_ntop(AF_INET, &((struct sockaddr_in *)all->ai_addr)->sin_addr, text, sizeof text));
    return 0;
}
"#;

/// musl asks for both families at once and has no patience with odd answers.
#[test]
fn privileged_musl_finds_names() {
    if Command::new("musl-gcc").arg("--version").output().is_err() {
        return;
    }
    let world = World::new();
    let server = Server::start(Behaviour::Answer);
    let _open = world.open(&[host(&server)]);
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let (source, program) = (path("lookup.c"), path("lookup"));
    std::fs::write(&source, LOOKUP).expect("written");
    let compiled = Command::new("musl-gcc").args(["-static", "-o", &program, &source]).status().expect("a compiler");
    assert!(compiled.success());
    for (name, wanted) in [("db", "10.0.0.3\n"), ("web.net", "10.0.0.2\n"), ("nice.example.org", "192.0.2.1\n")] {
        assert_eq!(run(&world, &[&program, name]), (true, wanted.to_owned()), "{name}");
    }
}

#[test]
fn privileged_programs_find_names() {
    let world = World::new();
    let server = Server::start(Behaviour::Answer);
    let _open = world.open(&[host(&server)]);
    for (program, wanted) in [
        (&["getent", "ahostsv4", "web"][..], "10.0.0.2"),
        (&["getent", "ahostsv6", "web"], "fd00::2"),
        (&["getent", "hosts", "10.0.0.3"], "db.net"),
        (&["getent", "ahostsv4", "nice.example.org"], "192.0.2.1"),
        (&["busybox", "nslookup", "web.net"], "10.0.0.2"),
    ] {
        let (success, text) = run(&world, program);
        assert!(success && text.contains(wanted), "{program:?}: {text}");
    }
    if Command::new("dig").arg("-v").output().is_ok() {
        for arguments in
            [&["dig", "+short", "web"][..], &["dig", "+short", "+tcp", "web"], &["dig", "+short", "+edns=0", "web"]]
        {
            assert_eq!(run(&world, arguments), (true, "10.0.0.2\n".to_owned()), "{arguments:?}");
        }
        let (_, text) = run(&world, &["dig", "+ednsopt=65001:abcd", "web"]);
        assert!(text.contains("status: NOERROR") && text.contains("EDNS: version: 0"), "{text}");
        let (_, text) = run(&world, &["dig", "+edns=1", "+noednsneg", "web"]);
        assert!(text.contains("status: BADVERS"), "{text}");
    }
}
