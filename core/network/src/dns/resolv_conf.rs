//! The `/etc/resolv.conf` of a container whose programs are to ask us, from the host's and what was set for the container
//! (resolv.conf(5)). Pure; the text is the stock daemon's.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::{ADDRESS, PORT, Scope, Upstream};

/// Names without a dot are ours first of all.
const OWN_OPTION: &str = "ndots:0";

/// A name server's address, with the interface it is reached through where that must be said (`fe80::1%eth0`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// The address.
    pub ip: IpAddr,
    /// The interface, by name or number.
    pub zone: Option<String>,
}

impl ServerAddress {
    /// Reads one; only IPv6 has zones.
    pub fn parse(text: &str) -> Option<Self> {
        let (ip, zone) = text.split_once('%').map_or((text, None), |(ip, zone)| (ip, Some(zone)));
        let ip: IpAddr = ip.parse().ok()?;
        match zone {
            Some(zone) if ip.is_ipv4() || zone.is_empty() => None,
            zone => Some(Self { ip, zone: zone.map(str::to_owned) }),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "{}%{zone}", self.ip),
            None => self.ip.fmt(f),
        }
    }
}

/// What the host's file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFile {
    servers: Vec<ServerAddress>,
    search: Vec<String>,
    options: Vec<String>,
    /// Lines of other kinds, taken over as they are.
    others: Vec<String>,
    invalid: Vec<String>,
}

impl HostFile {
    /// Reads the text of a resolv.conf. What cannot be read is left out.
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(first) = words.next().filter(|word| !word.starts_with(['#', ';'])) else { continue };
            let rest: Vec<String> = words.map(str::to_owned).collect();
            match (first, rest.as_slice()) {
                ("nameserver" | "domain" | "search" | "options", []) => {}
                ("nameserver", [server, ..]) => match ServerAddress::parse(server) {
                    Some(server) => out.servers.push(server),
                    None => out.invalid.push(server.clone()),
                },
                ("domain" | "search", _) => out.search = rest,
                ("options", _) => out.options.extend(rest),
                _ => out.others.push(line.to_owned()),
            }
        }
        out
    }
}

/// What was set for the container or, if nothing was, for all (`--dns`, `--dns-search`, `--dns-option`). An empty list is
/// not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Name servers, as reached from the container.
    pub servers: Vec<ServerAddress>,
    /// Search list; a single dot is an empty one.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// A server we are to ask for the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalServer {
    /// Where it is.
    pub address: ServerAddress,
    /// From where it is asked.
    pub scope: Scope,
}

impl ExternalServer {
    /// To be given to the resolver. `interface` finds the number of an interface by its name; a server whose interface
    /// is not there cannot be asked.
    pub fn upstream(&self, interface: impl FnOnce(&str) -> Option<u32>) -> Option<Upstream> {
        let address = match (self.address.ip, &self.address.zone) {
            (IpAddr::V6(ip), Some(zone)) => {
                let number = zone.parse().ok().or_else(|| interface(zone))?;
                SocketAddrV6::new(ip, PORT, 0, number).into()
            }
            (ip, _) => SocketAddr::new(ip, PORT),
        };
        Some(Upstream { address, scope: self.scope })
    }
}

impl fmt::Display for ExternalServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            Scope::Host => write!(f, "host({})", self.address),
            Scope::Sandbox => self.address.fmt(f),
        }
    }
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The container's file.
    pub text: String,
    /// Whom we ask for the container.
    pub servers: Vec<ExternalServer>,
    /// Whether `ndots` was set by others, for [`super::Settings::ndots_set`].
    pub ndots_set: bool,
}

/// The file of a container on user-defined networks. `source` is the path of the host's file, for the comment.
pub fn generate(host: &HostFile, source: &str, overrides: &Overrides) -> Generated {
    let scope = if overrides.servers.is_empty() { Scope::Host } else { Scope::Sandbox };
    let servers = if overrides.servers.is_empty() { &host.servers } else { &overrides.servers };
    let servers: Vec<_> = servers.iter().map(|s| ExternalServer { address: s.clone(), scope }).collect();
    let search = if overrides.search.is_empty() { &host.search[..] } else { &overrides.search };
    let search: Vec<&str> = search.iter().map(String::as_str).collect();
    // The dot is taken out of what was set; the host's own stays as it is.
    let search: Vec<&str> = search.into_iter().filter(|domain| overrides.search.is_empty() || *domain != ".").collect();
    let from_host = overrides.options.is_empty();
    let options = if from_host { &host.options } else { &overrides.options };
    let ndots_set = options.iter().any(|option| name_of(option) == "ndots");
    let mut options: Vec<&str> = options.iter().map(String::as_str).filter(|option| is_valid(option)).collect();
    let ndots_from = if options.iter().any(|option| name_of(option) == "ndots") {
        if from_host { "host" } else { "override" }
    } else {
        options.push(OWN_OPTION);
        "internal"
    };
    let mut text = String::from(
        "# Generated by Docker Engine.\n# This file can be edited; Docker Engine will not make further changes once it\n# has been modified.\n\n",
    );
    let _ = writeln!(text, "nameserver {ADDRESS}");
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    let _ = writeln!(text, "options {}", options.join(" "));
    for other in &host.others {
        let _ = writeln!(text, "{other}");
    }
    let _ = writeln!(text, "\n# Based on host file: '{source}' (internal resolver)");
    if servers.is_empty() {
        text.push_str("# NO EXTERNAL NAMESERVERS DEFINED\n");
    } else {
        let _ = writeln!(text, "# ExtServers: [{}]", joined(servers.iter()));
    }
    if !host.invalid.is_empty() {
        let _ = writeln!(text, "# Invalid nameservers: [{}]", host.invalid.join(" "));
    }
    let set = [
        ("nameservers", overrides.servers.is_empty()),
        ("search", overrides.search.is_empty()),
        ("options", overrides.options.is_empty()),
    ];
    let set = joined(set.iter().filter(|(_, is_empty)| !is_empty).map(|(name, _)| name));
    let _ = writeln!(text, "# Overrides: [{set}]\n# Option ndots from: {ndots_from}");
    Generated { text, servers, ndots_set }
}

fn joined(items: impl Iterator<Item = impl fmt::Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

fn name_of(option: &str) -> &str {
    option.split(':').next().unwrap_or(option)
}

/// Whether an option can stay: `ndots` must say a number.
fn is_valid(option: &str) -> bool {
    let value = option.split_once(':').map(|(_, value)| value);
    name_of(option) != "ndots" || value.is_some_and(|value| value.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "# Generated by Docker Engine.
# This file can be edited; Docker Engine will not make further changes once it
# has been modified.

nameserver 127.0.0.11
";
    const SOURCE: &str = "/etc/resolv.conf";

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn overrides(servers: &str, search: &str, options: &str) -> Overrides {
        let servers = words(servers).iter().map(|s| ServerAddress::parse(s).expect("an address")).collect();
        Overrides { servers, search: words(search), options: words(options) }
    }

    /// Each of these was written by the stock daemon, version 28.5.
    #[test]
    fn files_are_the_stock_daemons() {
        let host = "nameserver 127.0.0.53\nnameserver 10.9.9.9\nsearch corp.example lab.example\noptions timeout:1\n";
        let odd = "search a\nnameserver zzz\nsortlist 1.2.3.0\nnameserver fe80::1%eth0\nnameserver ::1\n";
        let cases = [
            (
                host,
                overrides("", "", ""),
                "search corp.example lab.example
options timeout:1 ndots:0

# Based on host file: '/etc/resolv.conf' (internal resolver)
# ExtServers: [host(127.0.0.53) host(10.9.9.9)]
# Overrides: []
# Option ndots from: internal
",
            ),
            (
                host,
                overrides("127.0.0.1 10.1.1.1", "foo", "ndots:2"),
                "search foo
options ndots:2

# Based on host file: '/etc/resolv.conf' (internal resolver)
# ExtServers: [127.0.0.1 10.1.1.1]
# Overrides: [nameservers search options]
# Option ndots from: override
",
            ),
            (
                host,
                overrides("", ".", "edns0"),
                "options edns0 ndots:0

# Based on host file: '/etc/resolv.conf' (internal resolver)
# ExtServers: [host(127.0.0.53) host(10.9.9.9)]
# Overrides: [search options]
# Option ndots from: internal
",
            ),
            (
                host,
                overrides("", "", "ndots:x"),
                "search corp.example lab.example
options ndots:0

# Based on host file: '/etc/resolv.conf' (internal resolver)
# ExtServers: [host(127.0.0.53) host(10.9.9.9)]
# Overrides: [options]
# Option ndots from: internal
",
            ),
            (
                odd,
                overrides("", "", ""),
                "search a
options ndots:0
sortlist 1.2.3.0

# Based on host file: '/etc/resolv.conf' (internal resolver)
# ExtServers: [host(fe80::1%eth0) host(::1)]
# Invalid nameservers: [zzz]
# Overrides: []
# Option ndots from: internal
",
            ),
            (
                "",
                overrides("", "", ""),
                "options ndots:0

# Based on host file: '/etc/resolv.conf' (internal resolver)
# NO EXTERNAL NAMESERVERS DEFINED
# Overrides: []
# Option ndots from: internal
",
            ),
        ];
        for (host, overrides, rest) in cases {
            let generated = generate(&HostFile::parse(host), SOURCE, &overrides);
            assert_eq!(generated.text, format!("{HEADER}{rest}"));
        }
    }

    #[test]
    fn servers_are_asked_from_where_they_were_named() {
        let host = HostFile::parse(
            "nameserver 127.0.0.53 # stub\n;nameserver 9.9.9.9\nnameserver fe80::1%eth0\noptions ndots:1\n",
        );
        let generated = generate(&host, SOURCE, &Overrides::default());
        assert!(generated.ndots_set);
        let find = |name: &str| (name == "eth0").then_some(7);
        let upstreams: Vec<_> = generated.servers.iter().map(|s| s.upstream(find).expect("there")).collect();
        assert_eq!(upstreams[0], Upstream { address: "127.0.0.53:53".parse().expect("ip"), scope: Scope::Host });
        assert_eq!(upstreams[1].address, SocketAddrV6::new("fe80::1".parse().expect("ip"), 53, 0, 7).into());
        assert_eq!(generated.servers[1].upstream(|_| None), None);
        let own = generate(&host, SOURCE, &overrides("127.0.0.1", "", ""));
        assert_eq!(own.servers[0].scope, Scope::Sandbox);
        assert_eq!(ServerAddress::parse("1.2.3.4%eth0"), None);
    }
}
