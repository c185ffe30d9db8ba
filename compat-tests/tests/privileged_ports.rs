//! Published ports beyond the plain ones of `network`: datagrams of a sender that keeps its port, ports other programs want,
//! many of them at once, and IPv6. What is "the host" is the daemon's own network namespace.

use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use compat_tests::check::{equal, has};
use compat_tests::network::Network;
use compat_tests::{Case, SERVER, Suite, tests};

/// An address of the host that is not its loopback's.
const HOST: &str = "198.51.100.7";

fn main() -> ExitCode {
    Suite {
        name: "ports",
        flags: &[],
        tests: tests![
            datagrams_find_the_new_container,
            datagrams_of_ipv6_reach_a_container_without,
            other_programs_are_kept_off,
            a_thousand_ports,
            both_families
        ],
    }
    .main()
}

fn network_of(case: &Case<'_>, container: &str) -> Result<Network> {
    Network::of_process(case.inspect(container, "{{.State.Pid}}").parse().context("no process")?)
}

/// A server for datagrams in a container.
fn server(case: &Case<'_>, container: &str) -> Result<UdpSocket> {
    let socket = network_of(case, container)?.datagrams("0.0.0.0:53")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(socket)
}

fn received(socket: &UdpSocket) -> Result<String> {
    let mut buffer = [0; 16];
    let length = socket.recv(&mut buffer).context("nothing came")?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn datagrams_find_the_new_container(case: &Case<'_>) -> Result<()> {
    let host = Network::of(case.host())?;
    host.add_address(&format!("{HOST}/32"))?;
    let (from, published) = (case.port(0), case.port(1));
    let publish = format!("{published}:53/udp");
    let sender = host.datagrams(&format!("{HOST}:{from}"))?;
    let to = format!("{HOST}:{published}");
    // Nobody is there: the flow is known to the kernel before the port is published.
    sender.send_to(b"early", &to)?;
    let a = case.sleeper("a", &["--network", "bridge", "-p", &publish])?;
    let first = server(case, &a)?;
    sender.send_to(b"one", &to)?;
    equal(received(&first)?.as_str(), "one")?;
    case.docker(&["rm", "-f", &a]).ok()?;
    // Has the address of the first one.
    case.sleeper("other", &["--network", "bridge"])?;
    let b = case.sleeper("b", &["--network", "bridge", "-p", &publish])?;
    let second = server(case, &b)?;
    sender.send_to(b"two", &to)?;
    equal(received(&second)?.as_str(), "two")
}

/// Sends from all, has them answered in another order, and looks whether each gets its own answer.
fn all_are_answered(clients: &[UdpSocket], server: &UdpSocket) -> Result<()> {
    for (at, client) in clients.iter().enumerate() {
        client.send(&[u8::try_from(at)?])?;
    }
    let mut buffer = [0; 16];
    let mut asked = Vec::new();
    for _ in clients {
        let (length, from) = server.recv_from(&mut buffer).context("nothing came")?;
        asked.push((buffer[..length].to_vec(), from));
    }
    for (text, from) in asked.iter().rev() {
        server.send_to(text, from)?;
    }
    for (at, client) in clients.iter().enumerate() {
        let length = client.recv(&mut buffer).with_context(|| format!("no answer for {client:?}"))?;
        equal(&buffer[..length], &[u8::try_from(at)?][..])?;
    }
    Ok(())
}

fn datagrams_of_ipv6_reach_a_container_without(case: &Case<'_>) -> Result<()> {
    let host = Network::of(case.host())?;
    let (own, other) = ("2001:db8:77::7", "2001:db8:77::8");
    for address in [own, other] {
        host.add_address(&format!("{address}/128"))?;
    }
    let published = case.port(0);
    let publish = format!("{published}:53/udp");
    let a = case.sleeper("a", &["--network", "bridge", "-p", &publish])?;
    let first = server(case, &a)?;
    // A client takes answers only from where it wrote to.
    let client = |from: &str, to: &str| -> Result<UdpSocket> {
        let client = host.datagrams(&format!("[{from}]:0"))?;
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        client.connect(format!("[{to}]:{published}"))?;
        Ok(client)
    };
    let mut clients = Vec::new();
    for (from, to) in [("::1", "::1"), (own, own), (own, other), (other, own)] {
        for _ in 0..25 {
            clients.push(client(from, to)?);
        }
    }
    all_are_answered(&clients, &first)?;
    case.docker(&["rm", "-f", &a]).ok()?;
    // Has the address of the first one.
    case.sleeper("other", &["--network", "bridge"])?;
    let b = case.sleeper("b", &["--network", "bridge", "-p", &publish])?;
    all_are_answered(&clients, &server(case, &b)?)
}

fn other_programs_are_kept_off(case: &Case<'_>) -> Result<()> {
    let host = Network::of(case.host())?;
    let (all, local) = (case.port(0), case.port(1));
    let (tcp, udp, one) = (format!("{all}:80"), format!("{all}:80/udp"), format!("127.0.0.1:{local}:80"));
    let name = case.sleeper("a", &["--network", "bridge", "-p", &tcp, "-p", &udp, "-p", &one])?;
    for address in
        [format!("0.0.0.0:{all}"), format!("127.0.0.1:{all}"), format!("[::]:{all}"), format!("127.0.0.1:{local}")]
    {
        ensure!(host.listen(&address).is_err(), "another program listens on {address}");
    }
    for address in [format!("0.0.0.0:{all}"), format!("[::]:{all}")] {
        ensure!(host.datagrams(&address).is_err(), "another program has datagrams of {address}");
    }
    // Only that address is taken.
    drop(host.listen(&format!("127.0.0.2:{local}"))?);
    case.docker(&["rm", "-f", &name]).ok()?;
    for address in [format!("0.0.0.0:{all}"), format!("[::]:{all}"), format!("127.0.0.1:{local}")] {
        drop(host.listen(&address).with_context(|| format!("{address} is not free again"))?);
    }
    let held = host.listen(&format!("0.0.0.0:{all}"))?;
    let refused = case.docker(&["run", "--rm", "-p", &tcp, case.image(), "true"]).err;
    has(&refused, &format!("failed to bind host port for 0.0.0.0:{all}:"))?;
    has(&refused, "/tcp: address already in use")?;
    drop(held);
    Ok(())
}

fn a_thousand_ports(case: &Case<'_>) -> Result<()> {
    // A proxy process for each takes the stock daemon a while.
    let count: u16 = if case.is_ours() { 1000 } else { 50 };
    let first = 31_000;
    let range = format!("{first}-{0}:{first}-{0}", first + count - 1);
    let name = case.start(
        "a",
        &["--network", "bridge", "-p", &range],
        &["sh", "-c", &format!("echo hello >/tmp/index.html; httpd -f -h /tmp -p {}", first + count - 1)],
    )?;
    let shown = case.docker(&["port", &name]).ok()?;
    equal(shown.lines().count(), 2 * usize::from(count))?;
    case.fetch(&["--network", "host"], &format!("http://127.0.0.1:{}", first + count - 1))?;
    case.docker(&["rm", "-f", &name]).ok()?;
    drop(Network::of(case.host())?.listen(&format!("0.0.0.0:{first}"))?);
    Ok(())
}

fn both_families(case: &Case<'_>) -> Result<()> {
    let network = case.network("six");
    case.docker(&["network", "create", "--ipv6", &network]).ok()?;
    let (all, six) = (case.port(0), case.port(1));
    let (all_, six_) = (format!("{all}:80"), format!("[::1]:{six}:80"));
    let name = case.start("a", &["--network", &network, "-p", &all_, "-p", &six_], &SERVER)?;
    for url in [format!("http://127.0.0.1:{all}"), format!("http://[::1]:{all}"), format!("http://[::1]:{six}")] {
        case.fetch(&["--network", "host"], &url)?;
    }
    let address =
        case.inspect(&name, &format!("{{{{(index .NetworkSettings.Networks {network:?}).GlobalIPv6Address}}}}"));
    case.fetch(&["--network", &network], &format!("http://[{address}]"))?;
    case.fetch(&["--network", "host"], &format!("http://[{address}]"))?;
    let shown = case.inspect(&name, "{{json (index .NetworkSettings.Ports \"80/tcp\")}}");
    let wanted = format!(
        r#"[{{"HostIp":"0.0.0.0","HostPort":"{all}"}},{{"HostIp":"::","HostPort":"{all}"}},{{"HostIp":"::1","HostPort":"{six}"}}]"#
    );
    equal(shown, wanted)?;
    let twice =
        case.docker(&["run", "--rm", "--network", &network, "-p", &format!("[::]:{all}:80"), case.image(), "true"]).err;
    has(&twice, &format!("Bind for :::{all} failed: port is already allocated"))
}
