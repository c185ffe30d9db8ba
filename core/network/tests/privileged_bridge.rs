//! The bridge driver against the real kernel: real packets between containers, the host and another host. Every test
//! makes a pretend host - a network namespace on a thread of its own - so nothing outside is touched. Needs root.

mod world;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use dockerd_network::firewall::nft::TABLE;
use dockerd_network::link::{self, Link};
use dockerd_network::{NetworkConfig, NetworkError};
use dockerd_sys::netlink::{Family, Socket};
use dockerd_types::network::PublishedPort;

use world::{Host, REFUSED, Server, answer, answer_in, datagram, inside, is_silent, links_of_ours, until};

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(address), port)
}

#[test]
fn privileged_containers_have_addresses_and_reach_each_other() {
    world::on_host(|host| {
        let first = host.join("one", &[]);
        let second = host.join_with("two", &[], |endpoint| endpoint.mac_address = Some("02:42:0a:00:00:09".to_owned()));
        assert_eq!((first.ip(), second.ip()), (Ipv4Addr::new(172, 17, 0, 2), Ipv4Addr::new(172, 17, 0, 3)));
        assert_eq!(second.state().mac_address, "02:42:0a:00:00:09");
        assert_eq!(second.state().gateway4, Some(Ipv4Addr::new(172, 17, 0, 1)));
        let server = Server::start(&second.netns, 80);
        // Asked from the other container and from the host; the answer is who asked.
        assert_eq!(answer_in(&first.netns, at(second.ip(), 80)).as_deref(), Ok("172.17.0.2"));
        assert_eq!(answer(at(second.ip(), 80)).as_deref(), Ok("172.17.0.1"));
        drop(server);
        // The lowest address is given again, and neighbours are told who has it now.
        host.leave(&second);
        let third = host.join("three", &[]);
        assert_eq!(third.ip(), second.ip());
        let _server = Server::start(&third.netns, 80);
        assert_eq!(answer_in(&first.netns, at(third.ip(), 80)).as_deref(), Ok("172.17.0.2"));
        assert_eq!(answer(at(third.ip(), 80)).as_deref(), Ok("172.17.0.1"));
    });
}

#[test]
fn privileged_published_ports_are_reached_from_everywhere() {
    world::on_host(|host| {
        let (lan, outside) = host.add_neighbour();
        let web = host.join("web", &["8080:80", "127.0.0.1:8081:80"]);
        let other = host.join("other", &[]);
        let _server = Server::start(&web.netns, 80);
        assert_eq!(answer(at(LOCAL, 8080)).as_deref(), Ok("172.17.0.1"));
        assert_eq!(answer(at(LOCAL, 8081)).as_deref(), Ok("172.17.0.1"));
        assert!(answer(at(lan, 8080)).is_ok(), "from the host through its own address");
        // Another host is seen as itself.
        assert_eq!(answer_in(&outside, at(lan, 8080)).as_deref(), Ok("198.51.100.2"));
        assert!(is_silent(&outside, at(lan, 8081)), "published on loopback only");
        // Hairpin: from another container and from itself, through the host's address and through the gateway's.
        for netns in [&other.netns, &web.netns] {
            assert_eq!(answer_in(netns, at(lan, 8080)).as_deref(), Ok("172.17.0.1"));
            assert_eq!(answer_in(netns, at(Ipv4Addr::new(172, 17, 0, 1), 8080)).as_deref(), Ok("172.17.0.1"));
        }
        // IPv6 of the host, by the daemon itself.
        let address: SocketAddr = "[::1]:8080".parse().expect("address");
        assert_eq!(answer(address).as_deref(), Ok("172.17.0.1"));
        host.leave(&web);
        assert_eq!(answer(at(LOCAL, 8080)), Err(REFUSED));
        assert_eq!(answer(address), Err(REFUSED));
    });
}

#[test]
fn privileged_streams_of_the_host_go_in_large_pieces() {
    world::on_host(|host| {
        let web = host.join("web", &["8080:80"]);
        let socket = Socket::open(Family::Route).expect("socket");
        let links = link::all(&socket).expect("asked");
        let piece = |wanted: &dyn Fn(&&Link) -> bool| links.iter().find(wanted).expect("there").largest_piece;
        // Kernels before 6.3 have nothing to set.
        if piece(&|link| link.name == "lo").is_none() {
            return;
        }
        let port = piece(&|link| link.kind == "veth");
        for found in [piece(&|link| link.name == "lo"), piece(&|link| link.name == "docker0"), port] {
            assert_eq!(found, Some(256 << 10));
        }
        let inner = inside(&web.netns, || {
            let socket = Socket::open(Family::Route).expect("socket");
            link::by_name(&socket, "eth0").expect("asked").expect("there").largest_piece
        });
        assert_eq!(inner, Some(64 << 10), "what goes on to hardware has the usual size");
    });
}

#[test]
fn privileged_the_outside_reaches_nothing_unpublished() {
    world::on_host(|host| {
        let (lan, outside) = host.add_neighbour();
        let web = host.join("web", &["8080:80"]);
        let _server = Server::start(&web.netns, 80);
        // The other host routes straight to the container: neither published nor other ports answer.
        let ip = web.ip();
        assert!(is_silent(&outside, at(ip, 80)));
        // Containers reach the outside, seen as the host.
        let _far = Server::start(&outside, 90);
        assert_eq!(answer_in(&web.netns, at(world::OUTSIDE, 90)).as_deref(), Ok(lan.to_string().as_str()));
    });
}

#[test]
fn privileged_direct_routing_can_be_allowed() {
    let config = NetworkConfig { direct_routing: true, ..NetworkConfig::default() };
    world::on_host_with(config, |host| {
        let (_, outside) = host.add_neighbour();
        let web = host.join("web", &["8080:80"]);
        let _server = Server::start(&web.netns, 80);
        assert_eq!(answer_in(&outside, at(web.ip(), 80)).as_deref(), Ok("198.51.100.2"));
        let _unpublished = Server::start(&web.netns, 81);
        assert!(is_silent(&outside, at(web.ip(), 81)), "not published");
    });
}

#[test]
fn privileged_datagrams_ranges_and_free_ports() {
    world::on_host(|host| {
        let one = host.join("one", &["5353:53/udp", "9000-9002:90", ":70"]);
        let two = host.join("two", &["9000-9002:90", ":70"]);
        let port = |container: &world::Container, inner: u16| {
            let found = container.ports().iter().find(|p| p.container_port.number == inner).map(|p| p.host_port);
            found.expect("published")
        };
        assert_eq!((port(&one, 90), port(&two, 90)), (9000, 9001));
        assert_eq!(port(&two, 70), port(&one, 70) + 1);
        let _echo = world::echo(&one.netns, 53);
        assert_eq!(datagram(at(LOCAL, 5353)).as_deref(), Ok("hello"));
        let _server = Server::start(&two.netns, 90);
        assert!(answer(at(LOCAL, 9001)).is_ok());
    });
}

#[test]
fn privileged_refused_starts_leave_nothing() {
    world::on_host(|host| {
        let first = host.join("first", &["8080:80"]);
        let refused = host.try_join("second", &["8081:80", "8080:81"]).expect_err("taken");
        let text = refused.to_string();
        assert!(text.starts_with("driver failed programming external connectivity on endpoint second ("), "{text}");
        assert!(text.ends_with("): Bind for 0.0.0.0:8080 failed: port is already allocated"), "{text}");
        let held = std::net::TcpListener::bind("0.0.0.0:8082").expect("a program of the host");
        let text = host.try_join("third", &["8082:80"]).expect_err("taken").to_string();
        let expected = "failed to bind host port for 0.0.0.0:8082:172.17.0.3:80/tcp: address already in use";
        assert!(text.ends_with(expected), "{text}");
        let text = host.try_join("fourth", &["10.9.8.7:80:80"]).expect_err("not ours").to_string();
        assert!(text.ends_with("cannot assign requested address"), "{text}");
        drop(held);
        // What the refused ones had is free: the address, and the port that had been taken already.
        let fifth = host.join("fifth", &["8081:80", "8082:81"]);
        assert_eq!(fifth.ip(), Ipv4Addr::new(172, 17, 0, 3));
        // No program can take what a container has.
        let error = std::net::TcpListener::bind("0.0.0.0:8081").expect_err("held");
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        host.leave(&first);
        host.leave(&fifth);
        drop((first, fifth));
        // Prepared ones stay; those of containers go.
        until("the containers' links are gone", || links_of_ours().len() <= host.prepared());
    });
}

#[test]
fn privileged_traffic_outlives_the_daemon_and_is_taken_over() {
    world::on_host(|host| {
        let web = host.join("web", &["8080:80", "127.0.0.1::81/udp"]);
        let gone = host.join("gone", &["8090:80"]);
        let server = Server::start(&web.netns, 80);
        let ports: Vec<PublishedPort> = web.ports().to_vec();
        let kept = host.kept(&web, server.pid());
        host.kill();
        drop(gone);
        assert_eq!(answer(at(LOCAL, 8080)).as_deref(), Ok("172.17.0.1"), "without a daemon");
        host.start_again(&[kept]);
        assert_eq!(answer(at(LOCAL, 8080)).as_deref(), Ok("172.17.0.1"), "with the next daemon");
        assert_eq!(answer(at(LOCAL, 8090)), Err(REFUSED), "the other container is gone");
        let taken = host.try_join("second", &["8080:80"]).expect_err("still taken").to_string();
        assert!(taken.ends_with("Bind for 0.0.0.0:8080 failed: port is already allocated"), "{taken}");
        for port in &ports {
            let address = SocketAddr::new(port.host_ip, port.host_port);
            let bound = match port.container_port.protocol {
                dockerd_types::network::Protocol::Udp => std::net::UdpSocket::bind(address).err(),
                _ => std::net::TcpListener::bind(address).err(),
            };
            assert!(bound.is_some(), "{address} is not held");
        }
        let next = host.join("next", &["8090:80"]);
        assert_eq!(next.ip(), Ipv4Addr::new(172, 17, 0, 3), "the kept address is not given twice");
        host.leave(&web);
        assert_eq!(answer(at(LOCAL, 8080)), Err(REFUSED));
    });
}

#[test]
fn privileged_a_bridge_lost_without_a_daemon_is_made_again() {
    world::on_host(|host| {
        let web = host.join("web", &["8080:80"]);
        let server = Server::start(&web.netns, 80);
        let kept = host.kept(&web, server.pid());
        host.kill();
        world::ip(&["link", "del", "docker0"]);
        host.start_again(&[kept]);
        assert_eq!(answer(at(LOCAL, 8080)).as_deref(), Ok("172.17.0.1"));
        host.leave(&web);
    });
}

#[test]
fn privileged_a_shared_namespace_loses_its_link() {
    world::on_host(|host| {
        let owner = host.join("owner", &[]);
        let joiner = owner.netns.try_clone().expect("another container in it");
        host.leave(&owner);
        drop(owner);
        let alone = move || {
            dockerd_sys::netlink::Socket::open(dockerd_sys::netlink::Family::Route)
                .map(|socket| dockerd_network::link::by_name(&socket, "eth0").expect("asked").is_none())
        };
        until("the link is taken from who still uses the namespace", || inside(&joiner, alone).expect("socket"));
    });
}

#[test]
fn privileged_settings_of_the_bridge() {
    let config = NetworkConfig {
        bip: Some((Ipv4Addr::new(10, 7, 0, 1).into(), "10.7.0.0/24".parse().expect("subnet"))),
        fixed_cidr: Some("10.7.0.128/25".parse().expect("subnet")),
        icc: false,
        mtu: 1400,
        publish_address: LOCAL.into(),
        ..NetworkConfig::default()
    };
    world::on_host_with(config, |host| {
        let one = host.join("one", &["8080:80"]);
        let two = host.join("two", &[]);
        assert_eq!(one.ip(), Ipv4Addr::new(10, 7, 0, 128));
        assert_eq!(one.ports().iter().map(|p| p.host_ip).collect::<Vec<_>>(), [IpAddr::V4(LOCAL)]);
        let mtu = inside(&one.netns, || std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/mtu"));
        assert_eq!(mtu.expect("read").trim(), "1400");
        let _server = Server::start(&one.netns, 80);
        assert!(answer(at(one.ip(), 80)).is_ok(), "the host may");
        assert!(answer(at(LOCAL, 8080)).is_ok(), "published");
        let ip = one.ip();
        assert!(is_silent(&two.netns, at(ip, 80)), "containers may not");
    });
}

#[test]
fn privileged_a_taken_subnet_is_avoided() {
    world::in_namespace(|| {
        world::ip(&["link", "add", "x0", "type", "bridge"]);
        world::ip(&["addr", "add", "172.17.9.9/24", "dev", "x0"]);
        world::ip(&["link", "set", "x0", "up"]);
        let host = Host::open(NetworkConfig::default());
        assert_eq!(host.join("one", &[]).ip(), Ipv4Addr::new(172, 18, 0, 2));
        // A setting that contradicts the bridge is an error, not a surprise later.
        let config = NetworkConfig { default_gateway: Some(Ipv4Addr::new(10, 0, 0, 1)), ..NetworkConfig::default() };
        let error = Host::try_open(config).map(drop).expect_err("refused");
        assert!(matches!(error, NetworkError::OutsideSubnet { .. }), "{error}");
    });
}

#[test]
fn privileged_the_firewall_is_left_alone_if_so_told() {
    let config = NetworkConfig { firewall: false, ..NetworkConfig::default() };
    world::on_host_with(config, |host| {
        let web = host.join("web", &["8080:80", "5353:53/udp"]);
        let (_server, echo) = (Server::start(&web.netns, 80), world::echo(&web.netns, 53));
        let rules = std::process::Command::new("nft").args(["list", "tables"]).output();
        if let Ok(rules) = rules {
            assert!(!String::from_utf8_lossy(&rules.stdout).contains(TABLE));
        }
        // The daemon serves the ports itself.
        assert_eq!(answer(at(LOCAL, 8080)).as_deref(), Ok("172.17.0.1"));
        assert_eq!(datagram(at(LOCAL, 5353)).as_deref(), Ok("hello"));
        echo.join().expect("no panic");
    });
}

#[test]
fn privileged_many_at_once() {
    world::on_host(|host| {
        let begun = std::time::Instant::now();
        let containers = host.join_at_once(40, &[":80"]);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let addresses: std::collections::BTreeSet<_> = containers.iter().map(world::Container::ip).collect();
        let ports: std::collections::BTreeSet<_> = containers.iter().map(|c| c.ports()[0].host_port).collect();
        assert_eq!((addresses.len(), ports.len()), (40, 40));
        for container in &containers {
            host.leave(container);
        }
        drop(containers);
        until("all links but the prepared ones are gone", || links_of_ours().len() <= host.prepared());
        assert_eq!(host.join("next", &[]).ip(), Ipv4Addr::new(172, 17, 0, 2), "all addresses are free");
    });
}
