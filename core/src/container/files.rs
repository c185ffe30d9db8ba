//! The texts of `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container (pure), and writing them to its
//! directory. Blocking; runs off the async workers.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use dockerd_network::dns::resolv_conf::{self, Generated, HostFile, Overrides, Reach, ServerAddress};
use dockerd_types::container::{HostConfig, NetworkMode};
use dockerd_types::network::EndpointState;

use super::oci::mounts::NetworkFiles;
use super::spec::NameService;
use super::validate::split_extra_host;

/// The host's own.
const HOST_CONF: &str = "/etc/resolv.conf";

/// systemd-resolved's stub is of no use inside a container; its real servers are here.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// The daemon's resolver settings.
#[derive(Debug, Clone, Default)]
pub struct ResolverDefaults {
    /// `--dns`.
    pub servers: Vec<String>,
    /// `--dns-opt`.
    pub options: Vec<String>,
    /// `--dns-search`.
    pub search: Vec<String>,
}

/// The host's file, or systemd-resolved's own when the host's only names its stub: where it is, and what it says.
fn reachable_servers() -> (&'static str, HostFile) {
    let host = read(HOST_CONF);
    match host.names_only_a_stub().then(|| std::fs::read_to_string(RESOLVED_CONF)) {
        Some(Ok(text)) => (RESOLVED_CONF, HostFile::parse(&text)),
        _ => (HOST_CONF, host),
    }
}

fn read(path: &str) -> HostFile {
    HostFile::parse(&std::fs::read_to_string(path).unwrap_or_default())
}

/// What the client set, else what the daemon's flags set.
fn overrides(own: &HostConfig, defaults: &ResolverDefaults) -> Overrides {
    let pick = |own: &[String], default: &[String]| if own.is_empty() { default.to_vec() } else { own.to_vec() };
    let servers = pick(&own.dns, &defaults.servers);
    Overrides {
        servers: servers.iter().filter_map(|server| ServerAddress::parse(server)).collect(),
        search: pick(&own.dns_search, &defaults.search),
        options: pick(&own.dns_options, &defaults.options),
    }
}

/// The file of a container that has a resolver of ours, and whom that asks. The host's loopback servers are asked from the
/// host, so they can stay where containers were made for a user-defined network, as with the stock daemon. Blocking.
pub fn resolver_file(own: &HostConfig, defaults: &ResolverDefaults) -> Generated {
    let (path, host) = match &own.network_mode {
        NetworkMode::Network(_) => (HOST_CONF, read(HOST_CONF)),
        _ => reachable_servers(),
    };
    resolv_conf::generate(&host, path, &overrides(own, defaults))
}

/// The file of a container that asks the host's servers itself; `ipv6`: whether its network has IPv6. Blocking.
pub fn servers_file(own: &HostConfig, defaults: &ResolverDefaults, ipv6: bool) -> String {
    let (reach, (path, host)) = match &own.network_mode {
        NetworkMode::Host => (Reach::Host, (HOST_CONF, read(HOST_CONF))),
        _ => (Reach::Sandbox { ipv6 }, reachable_servers()),
    };
    resolv_conf::generate_plain(&host, path, &overrides(own, defaults), reach)
}

/// Writes a container's file of name servers anew, in place because it is bind-mounted, unless it was edited since it was
/// written. Blocking.
pub fn replace(path: &Path, before: &NameService, text: &str) -> io::Result<()> {
    match before {
        NameService::Servers(old) if std::fs::read_to_string(path)? != *old => Ok(()),
        _ => write(path, text),
    }
}

/// `/etc/hosts` of a container with a network namespace of its own; `links` are lines of links.
pub fn hosts(
    hostname: &str,
    domainname: &str,
    own: &HostConfig,
    gateway: &[IpAddr],
    endpoints: &[EndpointState],
    links: &str,
) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    extra_hosts(&mut text, own, gateway);
    text.push_str(links);
    let names = own_names(hostname, domainname);
    for endpoint in endpoints {
        if let Some((address, _)) = endpoint.ipv4 {
            let _ = writeln!(text, "{address}\t{names}");
        }
        if let Some((address, _)) = endpoint.ipv6 {
            let _ = writeln!(text, "{address}\t{names}");
        }
    }
    text
}

/// What a container calls itself in its hosts file.
pub fn own_names(hostname: &str, domainname: &str) -> String {
    if domainname.is_empty() { hostname.to_owned() } else { format!("{hostname}.{domainname} {hostname}") }
}

/// Changes the lines of a container's own addresses in its hosts file; all others stay as the container may have made
/// them. Written in place: the file is bind-mounted.
pub fn change_hosts(path: &Path, gone: &[IpAddr], new: &[IpAddr], names: &str) -> io::Result<()> {
    if gone.is_empty() && new.is_empty() {
        return Ok(());
    }
    let text = std::fs::read_to_string(path)?;
    write(path, &changed_hosts(&text, gone, new, names))
}

fn changed_hosts(text: &str, gone: &[IpAddr], new: &[IpAddr], names: &str) -> String {
    let is_gone = |line: &&str| {
        let own = line.split_once('\t').filter(|(_, rest)| *rest == names);
        own.and_then(|(address, _)| address.parse().ok()).is_some_and(|address| gone.contains(&address))
    };
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !is_gone(line)) {
        let _ = writeln!(out, "{line}");
    }
    for address in new {
        let _ = writeln!(out, "{address}\t{names}");
    }
    out
}

/// `/etc/hosts` of a container in the host's network namespace: the host's own, and what the client adds.
pub fn hosts_of_host(host_file: &str, own: &HostConfig, gateway: &[IpAddr]) -> String {
    let mut text = host_file.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    extra_hosts(&mut text, own, gateway);
    text
}

fn extra_hosts(text: &mut String, own: &HostConfig, gateway: &[IpAddr]) {
    for (name, address) in own.extra_hosts.iter().filter_map(|entry| split_extra_host(entry)) {
        if address == "host-gateway" {
            for ip in gateway {
                let _ = writeln!(text, "{ip}\t{name}");
            }
        } else {
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
}

/// Where the files of a container lie.
pub fn paths(dir: &Path) -> NetworkFiles {
    NetworkFiles { resolv_conf: dir.join("resolv.conf"), hostname: dir.join("hostname"), hosts: dir.join("hosts") }
}

/// Writes a file the container's users may read. It is rewritten at every start, so a torn write heals itself.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())
}

/// The address containers reach the host at, when nothing is configured.
pub fn default_gateway(gateway: Option<Ipv4Addr>) -> Vec<IpAddr> {
    gateway.into_iter().map(IpAddr::V4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_settings_win_over_the_daemons() {
        let own = HostConfig { dns: vec!["192.0.2.1".to_owned()], ..HostConfig::default() };
        let defaults = ResolverDefaults {
            servers: vec!["192.0.2.2".to_owned()],
            search: vec![".".to_owned()],
            ..Default::default()
        };
        let text = servers_file(&own, &defaults, false);
        assert!(text.contains("nameserver 192.0.2.1\n") && !text.contains("192.0.2.2"), "{text}");
        assert!(text.contains("# Overrides: [nameservers search]"), "{text}");
    }

    #[test]
    fn own_lines_come_and_go() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("address");
        let text = "127.0.0.1\tlocalhost\n10.0.0.2\th\n10.0.0.2\tother\n10.1.0.2\th\n";
        let changed = changed_hosts(text, &[ip("10.0.0.2")], &[ip("10.2.0.2")], "h");
        assert_eq!(changed, "127.0.0.1\tlocalhost\n10.0.0.2\tother\n10.1.0.2\th\n10.2.0.2\th\n");
    }

    #[test]
    fn hosts_lines() {
        let own = HostConfig {
            extra_hosts: vec!["a:1.2.3.4".to_owned(), "gw:host-gateway".to_owned(), "b:[::2]".to_owned()],
            ..HostConfig::default()
        };
        let gateway = default_gateway(Some(Ipv4Addr::new(172, 17, 0, 1)));
        let text = hosts("h", "d", &own, &gateway, &[], "");
        assert!(text.ends_with("1.2.3.4\ta\n172.17.0.1\tgw\n::2\tb\n"), "{text}");
    }
}
