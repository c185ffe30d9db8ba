//! The default bridge through the stock CLI: addresses, published ports, shared and host networks, what inspect says,
//! and the daemon's death. What is "the host" here is a container in the host's network. Needs root.

use compat_tests::{PrivateDaemon as Daemon, Ran};

/// Serves `hello` on port 80.
const SERVER: [&str; 3] = ["sh", "-c", "echo hello >/tmp/index.html; httpd -f -h /tmp"];

#[test]
fn privileged_default_bridge_with_the_stock_cli() {
    let mut daemon = Daemon::start().expect("daemon");
    addresses_and_files(&daemon);
    published_ports(&daemon);
    conflicts(&daemon);
    other_modes(&daemon);
    networks(&daemon);
    survives_kill(&mut daemon);
}

fn ok(ran: &Ran) -> String {
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran.out.clone()
}

fn serve(daemon: &Daemon, name: &str, options: &[&str]) -> String {
    ok(&daemon.docker(&[&["run", "-d", "--name", name], options, &["busybox"], &SERVER].concat()))
}

/// Asks a URL from a container with these options, until the server is up.
fn fetch(daemon: &Daemon, options: &[&str], url: &str) {
    let ask = ["busybox", "wget", "-qO-", url];
    daemon.wait_for(&[&["run", "--rm"], options, &ask].concat(), "hello").expect("an answer");
}

fn format(daemon: &Daemon, name: &str, template: &str) -> String {
    ok(&daemon.docker(&["inspect", "--format", template, name]))
}

fn remove(daemon: &Daemon, names: &[&str]) {
    ok(&daemon.docker(&[&["rm", "-f"], names].concat()));
}

fn addresses_and_files(daemon: &Daemon) {
    serve(daemon, "net-a", &["--hostname", "alpha", "--mac-address", "02:42:0a:01:02:03"]);
    let settings = format(
        daemon,
        "net-a",
        "{{with .NetworkSettings}}{{.IPAddress}} {{.IPPrefixLen}} {{.Gateway}} {{.MacAddress}} {{.Networks.bridge.IPAddress}}{{end}} {{.HostConfig.NetworkMode}} {{.Config.MacAddress}}",
    );
    let words: Vec<&str> = settings.split(' ').collect();
    let [address, prefix, gateway, mac, again, mode, wanted] = words[..] else { panic!("{settings}") };
    assert_eq!((address, prefix, gateway), ("172.17.0.2", "16", "172.17.0.1"));
    assert_eq!((mac, again, mode, wanted), ("02:42:0a:01:02:03", address, "bridge", mac));
    let inside = |command: &[&str]| ok(&daemon.docker(&[&["exec", "net-a"], command].concat()));
    assert_eq!(inside(&["cat", "/sys/class/net/eth0/address"]), mac);
    assert!(inside(&["cat", "/etc/hosts"]).ends_with("172.17.0.2\talpha"), "{}", inside(&["cat", "/etc/hosts"]));
    let routes = inside(&["ip", "route"]);
    assert!(routes.starts_with("default via 172.17.0.1 dev eth0"), "{routes}");
    // The next one gets the next address and reaches the first.
    fetch(daemon, &[], "http://172.17.0.2");
    assert_eq!(ok(&daemon.docker(&["run", "--rm", "busybox", "hostname", "-i"])), "172.17.0.3");
    ok(&daemon.docker(&["stop", "-t", "0", "net-a"]));
    let stopped = "{{with .NetworkSettings}}[{{.IPAddress}}{{.SandboxID}}{{.SandboxKey}}{{.MacAddress}}]{{len .Networks.bridge.NetworkID}}{{end}}";
    assert_eq!(format(daemon, "net-a", stopped), "[]64");
    remove(daemon, &["net-a"]);
}

fn published_ports(daemon: &Daemon) {
    serve(daemon, "net-p", &["-p", "18080:80", "-p", "127.0.0.1:18081:80", "-p", "18090-18091:90-91/udp"]);
    let port = ok(&daemon.docker(&["port", "net-p", "80"]));
    assert!(port.lines().any(|line| line == "0.0.0.0:18080") && port.contains("127.0.0.1:18081"), "{port}");
    let listed = ok(&daemon.docker(&["ps", "--filter", "name=net-p", "--format", "{{.Ports}}"]));
    assert!(listed.contains("0.0.0.0:18080->80/tcp") && listed.contains("0.0.0.0:18091->91/udp"), "{listed}");
    for address in ["127.0.0.1:18080", "172.17.0.1:18080", "127.0.0.1:18081"] {
        fetch(daemon, &["--network", "host"], &format!("http://{address}"));
    }
    // From another container, and hairpin from the same one.
    fetch(daemon, &[], "http://172.17.0.1:18080");
    fetch(daemon, &["--network", "container:net-p"], "http://172.17.0.1:18080");
    // Any free port, and all exposed ones.
    serve(daemon, "net-q", &["-P", "--expose", "80"]);
    let free = ok(&daemon.docker(&["port", "net-q", "80/tcp"]));
    let free = free.lines().next().and_then(|line| line.rsplit(':').next()).expect("a port").to_owned();
    assert!(free.parse::<u16>().is_ok_and(|port| port >= 1024), "{free}");
    fetch(daemon, &["--network", "host"], &format!("http://127.0.0.1:{free}"));
    // With the exit the port is free again.
    ok(&daemon.docker(&["stop", "-t", "0", "net-p"]));
    assert_eq!(ok(&daemon.docker(&["port", "net-p"])), "");
    serve(daemon, "net-r", &["-p", "18080:80"]);
    fetch(daemon, &["--network", "host"], "http://127.0.0.1:18080");
    remove(daemon, &["net-p", "net-q", "net-r"]);
}

fn conflicts(daemon: &Daemon) {
    serve(daemon, "net-c", &["-p", "18080:80"]);
    let second = daemon.docker(&["run", "-d", "--name", "net-d", "-p", "18080:80", "busybox", "true"]);
    assert_eq!(second.code, 125);
    let expected =
        "failed to set up container networking: driver failed programming external connectivity on endpoint net-d (";
    assert!(second.err.contains(expected), "{}", second.err);
    assert!(second.err.contains("Bind for 0.0.0.0:18080 failed: port is already allocated"), "{}", second.err);
    assert_eq!(format(daemon, "net-d", "{{.State.Status}} {{.State.ExitCode}}"), "created 128");
    // A program of the host has the port.
    let program = ["sh", "-c", "echo hello >/tmp/index.html; httpd -f -p 18082 -h /tmp"];
    ok(&daemon.docker(&[&["run", "-d", "--name", "net-h", "--network", "host", "busybox"][..], &program].concat()));
    fetch(daemon, &["--network", "host"], "http://127.0.0.1:18082");
    let third = daemon.docker(&["run", "--rm", "-p", "18082:80", "busybox", "true"]);
    assert!(third.err.contains("failed to bind host port for 0.0.0.0:18082:172.17.0."), "{}", third.err);
    assert!(third.err.contains(":80/tcp: address already in use"), "{}", third.err);
    let own_address = daemon.docker(&["run", "--rm", "--ip", "172.17.0.9", "busybox", "true"]);
    assert!(
        own_address.err.contains("invalid config for network bridge: invalid endpoint settings:"),
        "{}",
        own_address.err
    );
    // A range takes what is free.
    ok(&daemon.docker(&["rm", "net-d"]));
    serve(daemon, "net-d", &["-p", "18080-18081:80"]);
    assert!(ok(&daemon.docker(&["port", "net-d", "80"])).contains("0.0.0.0:18081"));
    remove(daemon, &["net-c", "net-d", "net-h"]);
}

fn other_modes(daemon: &Daemon) {
    serve(daemon, "net-o", &[]);
    fetch(daemon, &["--network", "container:net-o"], "http://127.0.0.1");
    let shared =
        ok(&daemon.docker(&["run", "--rm", "--network", "container:net-o", "busybox", "cat", "/etc/hostname"]));
    assert_eq!(shared, format(daemon, "net-o", "{{.Config.Hostname}}"));
    ok(&daemon.docker(&["run", "-d", "--name", "net-s", "--network", "container:net-o", "busybox", "sleep", "100"]));
    assert_eq!(format(daemon, "net-s", "{{len .NetworkSettings.Networks}}[{{.NetworkSettings.SandboxID}}]"), "0[]");
    let own_ports = daemon.docker(&["run", "--rm", "--network", "container:net-o", "-p", "1:1", "busybox", "true"]);
    assert!(own_ports.err.contains("conflicting options: port publishing and the container type network mode"));
    let links = ok(&daemon.docker(&["run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net"]));
    assert_eq!(links, "lo");
    let unknown = daemon.docker(&["run", "--rm", "--network", "no-such", "busybox", "true"]);
    assert!(
        unknown.err.contains("failed to set up container networking: network no-such not found"),
        "{}",
        unknown.err
    );
    remove(daemon, &["net-o", "net-s"]);
}

fn networks(daemon: &Daemon) {
    let list = ok(&daemon.docker(&["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]));
    assert_eq!(list, "bridge bridge local\nhost host local\nnone null local");
    assert_eq!(ok(&daemon.docker(&["network", "ls", "--filter", "driver=bridge", "--format", "{{.Name}}"])), "bridge");
    let id = serve(daemon, "net-n", &[]);
    let inspect = |template: &str| ok(&daemon.docker(&["network", "inspect", "--format", template, "bridge"]));
    assert_eq!(inspect("{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}"), "172.17.0.0/16 172.17.0.1");
    assert_eq!(inspect("{{index .Options \"com.docker.network.bridge.name\"}}"), "docker0");
    let attached = inspect("{{range $id, $c := .Containers}}{{$id}} {{$c.Name}} {{$c.IPv4Address}}{{end}}");
    assert_eq!(attached, format!("{id} net-n 172.17.0.2/16"));
    assert_eq!(inspect("{{.Id}}"), format(daemon, "net-n", "{{.NetworkSettings.Networks.bridge.NetworkID}}"));
    let missing = daemon.docker(&["network", "inspect", "no-such"]);
    assert!(missing.err.contains("network no-such not found"), "{}", missing.err);
    let fixed = daemon.docker(&["network", "rm", "bridge"]);
    assert!(fixed.err.contains("bridge is a pre-defined network and cannot be removed"), "{}", fixed.err);
    remove(daemon, &["net-n"]);
}

fn survives_kill(daemon: &mut Daemon) {
    serve(daemon, "net-k", &["-p", "18080:80"]);
    fetch(daemon, &["--network", "host"], "http://127.0.0.1:18080");
    let before = format(daemon, "net-k", "{{json .NetworkSettings}}");
    daemon.kill_and_restart().expect("restarted");
    assert_eq!(format(daemon, "net-k", "{{json .NetworkSettings}}"), before);
    fetch(daemon, &["--network", "host"], "http://127.0.0.1:18080");
    let second = daemon.docker(&["run", "--rm", "-p", "18080:80", "busybox", "true"]);
    assert!(second.err.contains("port is already allocated"), "{}", second.err);
    assert_eq!(ok(&daemon.docker(&["run", "--rm", "busybox", "hostname", "-i"])), "172.17.0.3");
    remove(daemon, &["net-k"]);
    let gone = daemon.docker(&["run", "--rm", "--network", "host", "busybox", "wget", "-qO-", "127.0.0.1:18080"]);
    assert!(gone.err.contains("refused"), "{}", gone.err);
}
