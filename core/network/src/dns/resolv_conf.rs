//! The `/etc/resolv.conf` of a container, from the host's and what was set for the container (resolv.conf(5)): one that
//! leads its programs to us, and one that names the host's servers. Pure; the text is the stock daemon's.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::{ADDRESS, PORT, Scope, Upstream};

/// Names without a dot are ours first of all.
const OWN_OPTION: &str = "ndots:0";

/// Google's, as with the stock daemon: for containers that can reach none of the host's.
const PUBLIC_SERVERS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844)),
];

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

    /// Whether it names one server only, the stub at 127.0.0.53 of a host with systemd-resolved.
    pub fn names_only_a_stub(&self) -> bool {
        matches!(self.servers.as_slice(), [only] if only.ip == Ipv4Addr::new(127, 0, 0, 53))
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
    let options = options(host, overrides);
    let ndots_set = sets_ndots(&options);
    let mut options: Vec<&str> = options.into_iter().filter(|option| is_valid(option)).collect();
    let is_own = !sets_ndots(&options);
    if is_own {
        options.push(OWN_OPTION);
    }
    let note = if servers.is_empty() {
        "# NO EXTERNAL NAMESERVERS DEFINED\n".to_owned()
    } else {
        format!("# ExtServers: [{}]\n", joined(servers.iter()))
    };
    let lines = Lines {
        servers: &[ServerAddress { ip: ADDRESS.into(), zone: None }],
        options: &options,
        ndots_from: Some(if is_own { "internal" } else { options_from(overrides) }),
        kind: " (internal resolver)",
        note,
    };
    Generated { text: written(host, source, overrides, &lines), servers, ndots_set }
}

/// From where a container's programs ask the servers its file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// From the host's network namespace.
    Host,
    /// From one of its own, over networks without names.
    Sandbox {
        /// Whether they have IPv6.
        ipv6: bool,
    },
}

/// The file of a container without a resolver of ours: the host's servers as far as it can reach them, or public ones if
/// there are none. What was set for it is taken as it is.
pub fn generate_plain(host: &HostFile, source: &str, overrides: &Overrides, reach: Reach) -> String {
    let mut note = String::new();
    let servers = match reach {
        _ if !overrides.servers.is_empty() => overrides.servers.clone(),
        Reach::Host => host.servers.clone(),
        Reach::Sandbox { ipv6 } => {
            let is_usable = |ip: &IpAddr| !ip.is_loopback() && (ipv6 || ip.is_ipv4());
            let usable: Vec<_> = host.servers.iter().filter(|server| is_usable(&server.ip)).cloned().collect();
            if usable.is_empty() {
                note.push_str("# Used default nameservers.\n");
                let public = PUBLIC_SERVERS.into_iter().filter(is_usable);
                public.map(|ip| ServerAddress { ip, zone: None }).collect()
            } else {
                usable
            }
        }
    };
    let options = options(host, overrides);
    let lines = Lines {
        servers: &servers,
        options: &options,
        ndots_from: sets_ndots(&options).then(|| options_from(overrides)),
        kind: if reach == Reach::Host { "" } else { " (legacy)" },
        note,
    };
    written(host, source, overrides, &lines)
}

/// What differs between the kinds of files.
struct Lines<'a> {
    servers: &'a [ServerAddress],
    options: &'a [&'a str],
    /// Who set `ndots`; `None`: nobody.
    ndots_from: Option<&'a str>,
    /// What was made of the host's file.
    kind: &'a str,
    /// A comment of the kind's own.
    note: String,
}

fn written(host: &HostFile, source: &str, overrides: &Overrides, lines: &Lines<'_>) -> String {
    let Lines { servers, options, ndots_from, kind, note } = lines;
    let mut text = String::from(
        "# Generated by Docker Engine.\n# This file can be edited; Docker Engine will not make further changes once it\n# has been modified.\n\n",
    );
    for server in *servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    let search = if overrides.search.is_empty() { &host.search } else { &overrides.search };
    // The dot is taken out of what was set; the host's own stays as it is.
    let search = search.iter().filter(|domain| overrides.search.is_empty() || *domain != ".");
    let search = joined(search);
    if !search.is_empty() {
        let _ = writeln!(text, "search {search}");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    for other in &host.others {
        let _ = writeln!(text, "{other}");
    }
    let _ = write!(text, "\n# Based on host file: '{source}'{kind}\n{note}");
    if !host.invalid.is_empty() {
        let _ = writeln!(text, "# Invalid nameservers: [{}]", host.invalid.join(" "));
    }
    let set = [
        ("nameservers", overrides.servers.is_empty()),
        ("search", overrides.search.is_empty()),
        ("options", overrides.options.is_empty()),
    ];
    let set = joined(set.iter().filter(|(_, is_empty)| !is_empty).map(|(name, _)| name));
    let _ = writeln!(text, "# Overrides: [{set}]");
    if let Some(from) = ndots_from {
        let _ = writeln!(text, "# Option ndots from: {from}");
    }
    text
}

/// The options that hold.
fn options<'a>(host: &'a HostFile, overrides: &'a Overrides) -> Vec<&'a str> {
    let options = if overrides.options.is_empty() { &host.options } else { &overrides.options };
    options.iter().map(String::as_str).collect()
}

/// Who set them.
fn options_from(overrides: &Overrides) -> &'static str {
    if overrides.options.is_empty() { "host" } else { "override" }
}

fn sets_ndots(options: &[&str]) -> bool {
    options.iter().any(|option| name_of(option) == "ndots")
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

    /// So were these, but for their heads.
    #[test]
    fn plain_files_are_the_stock_daemons() {
        let host = "nameserver 127.0.0.1\nnameserver fd00::1\nnameserver 10.1.1.1\nnameserver ::1\nnameserver fe80::1%eth0\n\
                    search a b\noptions ndots:1 x\noptions ndots:2\nsortlist 1.2.3.0\nnameserver zz\ndomain c\n";
        let unreachable = "nameserver 127.0.0.1\nnameserver fd00::1\noptions ndots:x\n";
        let (ipv4, both) = (Reach::Sandbox { ipv6: false }, Reach::Sandbox { ipv6: true });
        let none = || overrides("", "", "");
        let rest = "search c\noptions ndots:1 x ndots:2\nsortlist 1.2.3.0\n\n# Based on host file: '/etc/resolv.conf'";
        let end = "# Invalid nameservers: [zz]\n# Overrides: []\n# Option ndots from: host\n";
        let cases = [
            (host, none(), ipv4, format!("nameserver 10.1.1.1\n{rest} (legacy)\n{end}")),
            (
                host,
                none(),
                both,
                format!("nameserver fd00::1\nnameserver 10.1.1.1\nnameserver fe80::1%eth0\n{rest} (legacy)\n{end}"),
            ),
            (
                host,
                none(),
                Reach::Host,
                format!(
                    "nameserver 127.0.0.1\nnameserver fd00::1\nnameserver 10.1.1.1\nnameserver ::1\n\
                     nameserver fe80::1%eth0\n{rest}\n{end}"
                ),
            ),
            (
                unreachable,
                none(),
                ipv4,
                "nameserver 8.8.8.8\nnameserver 8.8.4.4\noptions ndots:x\n\n# Based on host file: '/etc/resolv.conf' \
                 (legacy)\n# Used default nameservers.\n# Overrides: []\n# Option ndots from: host\n"
                    .to_owned(),
            ),
            (
                "",
                overrides("127.0.0.1", ".", "ndots:2"),
                ipv4,
                "nameserver 127.0.0.1\noptions ndots:2\n\n# Based on host file: '/etc/resolv.conf' (legacy)\n\
                 # Overrides: [nameservers search options]\n# Option ndots from: override\n"
                    .to_owned(),
            ),
            (
                "",
                none(),
                both,
                "nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 2001:4860:4860::8888\nnameserver \
                 2001:4860:4860::8844\n\n# Based on host file: '/etc/resolv.conf' (legacy)\n\
                 # Used default nameservers.\n# Overrides: []\n"
                    .to_owned(),
            ),
        ];
        let head = HEADER.replace("nameserver 127.0.0.11\n", "");
        for (host, overrides, reach, wanted) in cases {
            assert_eq!(generate_plain(&HostFile::parse(host), SOURCE, &overrides, reach), format!("{head}{wanted}"));
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
