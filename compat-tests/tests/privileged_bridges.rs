//! Bridges and the host's own ways to containers: what others take away of bridges comes back, and localhost needs no proxy. Ours
//! alone: the stock daemon makes a bridge again at its next start, and has no proxy's work done by the packet filter.

#[allow(dead_code, reason = "other suites use the rest of it")]
mod bed;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use bed::{Bed, LIMIT, run, until};
use compat_tests::network::Network;

/// The network a container of that name has.
fn inside(bed: &Bed, container: &str) -> Result<Network> {
    Network::of_process(bed.must(&["inspect", "-f", "{{.State.Pid}}", container])?.parse()?)
}

/// What goes to `address` comes out at `listener`, and what that one answers comes back.
fn talk(from: &Network, address: &str, listener: &TcpListener) -> Result<String> {
    // More than one packet, and more than the kernel makes of one where it leaves the cutting to the link.
    let sent = vec![7; 300_000];
    let client = from.connect(address).with_context(|| address.to_owned())?;
    listener.set_nonblocking(true)?;
    let (mut server, peer) = until(&format!("a connection to {address}"), || listener.accept().ok())?;
    server.set_read_timeout(Some(LIMIT))?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (&client).write_all(&sent).and_then(|()| client.shutdown(Shutdown::Write)));
        let mut seen = Vec::new();
        server.read_to_end(&mut seen)?;
        writer.join().map_err(|_| anyhow!("the writer panicked"))??;
        ensure!(seen == sent, "{} bytes arrived", seen.len());
        server.write_all(&seen)?;
        drop(server);
        let mut back = Vec::new();
        (&client).read_to_end(&mut back)?;
        ensure!(back == sent, "{} bytes came back", back.len());
        Ok(peer.ip().to_string())
    })
}

#[test]
fn localhost_needs_no_proxy() -> Result<()> {
    let mut bed = Bed::new()?.flags(&["--userland-proxy=false"]);
    bed.start()?;
    bed.import()?;
    bed.must(&["network", "create", "--ipv6", "--subnet", "fd00:77::/64", "six"])?;
    let ports = ["-p", "4000:80", "-p", "[::1]:4001:80", "-p", "4000:53/udp", "-p", "[::1]:4002:54/udp"];
    bed.must(
        &[&["run", "-d", "--name", "one", "--network", "six"], &ports[..], &["busybox", "sleep", "1000"]].concat(),
    )?;
    let (host, container) = (Network::of_process(bed.pid())?, inside(&bed, "one")?);
    let listener = container.listen("[::]:80")?;
    for address in ["127.0.0.1:4000", "[::1]:4000", "[::1]:4001", "[fd00:77::1]:4000"] {
        let seen = talk(&host, address, &listener)?;
        ensure!(seen == "fd00:77::1" || address.starts_with("127"), "{address} is seen as {seen}");
    }
    for (address, inner) in [("[::1]:4000", "[::]:53"), ("[::1]:4002", "[::]:54")] {
        let (client, server) = (host.datagrams("[::]:0")?, container.datagrams(inner)?);
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(LIMIT))?;
        }
        client.connect(address)?;
        // The second one is cut in two.
        for length in [5, 3000] {
            client.send(&vec![1; length])?;
            let mut buffer = [0; 4000];
            let (seen, from) = server.recv_from(&mut buffer).with_context(|| format!("{length} to {address}"))?;
            server.send_to(&buffer[..seen], from)?;
            ensure!((seen, client.recv(&mut buffer)?) == (length, length), "{address}: {length}");
        }
    }
    // Nobody else comes from there or gets there, and nft can show it.
    ensure!(bed.rules()?.contains("map loopback6"), "{}", bed.rules()?);
    bed.must(&["rm", "-f", "one"])?;
    for address in ["[::1]:4000", "[::1]:4001"] {
        ensure!(host.connect(address).is_err(), "{address} is still served");
    }
    ensure!(!bed.rules()?.contains("4001"), "{}", bed.rules()?);
    Ok(())
}

/// ip(8) in the daemon's network namespace.
fn ip(bed: &Bed, arguments: &str) -> Result<String> {
    let mut command = Command::new("nsenter");
    let said = run(command.args(["-t", &bed.pid().to_string(), "-n", "ip"]).args(arguments.split(' ')))?;
    ensure!(said.code == 0, "ip {arguments}: {}", said.err);
    Ok(said.out)
}

/// Whether containers are reached from the host by their ports, and one from the other.
fn all_are_reached(bed: &Bed) -> Result<()> {
    let (host, one, two) = (Network::of_process(bed.pid())?, inside(bed, "one")?, inside(bed, "two")?);
    let (first, second) = (one.listen("[::]:80")?, two.listen("[::]:80")?);
    for address in ["127.0.0.1:4000", "[::1]:4000"] {
        talk(&host, address, &first).with_context(|| address.to_owned())?;
    }
    talk(&host, "127.0.0.1:4001", &second)?;
    let three = inside(bed, "three")?;
    for address in ["10.88.0.2:80", "[fd00:88::2]:80"] {
        talk(&three, address, &first).with_context(|| address.to_owned())?;
    }
    Ok(())
}

#[test]
fn damaged_bridges_come_back() -> Result<()> {
    let mut bed = Bed::new()?;
    bed.start()?;
    bed.import()?;
    let subnets = ["--subnet", "10.88.0.0/24", "--subnet", "fd00:88::/64"];
    let id = bed.must(&[&["network", "create", "--ipv6"], &subnets[..], &["six"]].concat())?;
    let own = format!("br-{}", &id[..12]);
    for (name, network, port) in [("one", "six", "4000:80"), ("two", "bridge", "4001:80"), ("three", "six", "4002:80")]
    {
        bed.must(&["run", "-d", "--name", name, "--network", network, "-p", port, "busybox", "sleep", "1000"])?;
    }
    all_are_reached(&bed)?;
    let mut repairs = 0;
    let said = |bed: &Bed| bed.log().matches("damaged a bridge; it is as before").count();
    ensure!(said(&bed) == repairs, "{}", bed.log());
    for damage in [
        format!("link del {own}"),
        "link del docker0".to_owned(),
        format!("link set {own} down"),
        format!("address del 10.88.0.1/24 dev {own}"),
        format!("address flush dev {own}"),
        format!("link del {own}"),
    ] {
        ip(&bed, &damage)?;
        until(&format!("repair after {damage}"), || (said(&bed) > repairs).then_some(()))?;
        repairs = said(&bed);
        all_are_reached(&bed).with_context(|| format!("after {damage}"))?;
    }
    // Those that are joined from now on, too.
    for name in ["one", "two", "three"] {
        bed.must(&["restart", "-t", "0", name])?;
    }
    all_are_reached(&bed)?;
    // What changes by our own hand is no damage.
    let before = said(&bed);
    bed.must(&["network", "create", "--ipv6", "more"])?;
    bed.must(&["network", "rm", "more"])?;
    bed.must(&["rm", "-f", "one", "two", "three"])?;
    bed.must(&["network", "rm", "six"])?;
    ensure!(said(&bed) == before && !bed.log().contains("a bridge is damaged"), "{}", bed.log());
    ensure!(!ip(&bed, "-br link")?.contains(&own), "the bridge of a removed network is there");
    Ok(())
}

#[test]
fn link_local_clients_have_the_proxy() -> Result<()> {
    let bed = Bed::with_a_port(&[])?;
    bed.must(&["run", "-d", "--name", "two", "--network", "six", "busybox", "sleep", "1000"])?;
    let listener = inside(&bed, "one")?.listen("[::]:80")?;
    let own = bed.must(&["network", "inspect", "-f", "{{slice .Id 0 12}}", "six"])?;
    // The kernel asks for a second whether somebody else has it.
    let address = until("the bridge's link-local address", || {
        let shown = ip(&bed, &format!("-6 -o address show dev br-{own} scope link -tentative")).ok()?;
        Some(shown.split_whitespace().nth(3)?.split('/').next()?.to_owned())
    })?;
    let index = bed.must(&["exec", "two", "cat", "/sys/class/net/eth0/ifindex"])?;
    let client = inside(&bed, "two")?;
    // The same goes for the client's own address.
    let seen = until("an answer", || talk(&client, &format!("[{address}%{index}]:4000"), &listener).ok())?;
    ensure!(seen.starts_with("fd"), "it is passed on from {seen}");
    Ok(())
}
