//! The table of every daemon flag and configuration key: name, short form, key, type, default, help and how far we honour it.
//!
//! Owns the facts only. `cli` turns the table into a parser, `file` checks `daemon.json` against it, and a test keeps
//! `docs/compatibility.md` in step. It knows nothing about what a value does.

/// How a value is written on the command line and in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--flag`, `--flag=false`.
    Bool,
    /// A signed whole number.
    Int,
    /// Free text.
    Text,
    /// May be given several times.
    List,
    /// A daemon address; may be given several times.
    HostList,
    /// `key=value` labels; may be given several times.
    LabelList,
    /// Domains; may be given several times.
    DomainList,
    /// URLs of registry mirrors.
    MirrorList,
    /// `key=value`, collected into a map of text.
    Map,
    /// `name[=bool]`, collected into a map of booleans.
    BoolMap,
    /// `name=path` of an OCI runtime.
    Runtimes,
    /// `type=soft[:hard]`.
    Ulimits,
    /// `base=CIDR,size=N`.
    Pools,
    /// `driver=key=value`.
    MapMap,
    /// A size such as `64m`.
    Bytes,
    /// One IP address.
    Ip,
    /// Several IP addresses.
    IpList,
    /// Any JSON; file only.
    Any,
}

/// How far dockerd-rs honours a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// Works as in dockerd.
    Works,
    /// Taken, with a warning: leaving it out harms nobody.
    Ignored(&'static str),
    /// Refused when set to anything but the default: ignoring it would break a promise.
    Refused(&'static str),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// Long name without dashes; empty for file-only keys.
    pub(crate) name: &'static str,
    /// One-letter form.
    pub(crate) short: Option<char>,
    /// Key in `daemon.json`; empty when there is none.
    pub(crate) key: &'static str,
    /// How it is written.
    pub(crate) kind: Kind,
    /// Word shown for the value in the help text.
    pub(crate) value_name: &'static str,
    /// The default as the help text shows it.
    pub(crate) default: &'static str,
    /// Help text.
    pub(crate) help: &'static str,
    /// How far we honour it.
    pub(crate) support: Support,
    /// Not on the help page.
    pub(crate) is_hidden: bool,
}

const W: Support = Support::Works;
const NO_PROXY_BIN: Support = Support::Ignored("published ports never need a proxy process here");
const NO_CONTAINERD: Support = Support::Ignored("no containerd is used");
const NO_SWARM: Support = Support::Ignored("swarm is not built yet");

const fn flag(
    name: &'static str,
    key: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
    support: Support,
) -> Flag {
    Flag { name, short: None, key, kind, value_name: value_name(kind), default, help, support, is_hidden: false }
}

const fn short(short: char, base: Flag) -> Flag {
    Flag { short: Some(short), ..base }
}

const fn hidden(base: Flag) -> Flag {
    Flag { is_hidden: true, ..base }
}

const fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool | Kind::Any => "",
        Kind::Int => "int",
        Kind::Text => "string",
        Kind::List | Kind::HostList | Kind::LabelList | Kind::DomainList | Kind::MirrorList => "list",
        Kind::Map | Kind::BoolMap => "map",
        Kind::Runtimes => "runtime",
        Kind::Ulimits => "ulimit",
        Kind::Pools => "pool-options",
        Kind::MapMap => "mapmap",
        Kind::Bytes => "bytes",
        Kind::Ip => "ip",
        Kind::IpList => "ipSlice",
    }
}

/// Every flag and key, in alphabetical order of the flag.
#[rustfmt::skip]
pub(crate) const FLAGS: &[Flag] = &[
    flag("add-runtime", "runtimes", Kind::Runtimes, "[]", "Register an additional OCI compatible runtime", W),
    flag("allow-direct-routing", "allow-direct-routing", Kind::Bool, "", "Allow remote access to published ports on container IP addresses", W),
    flag("authorization-plugin", "authorization-plugins", Kind::List, "", "Authorization plugins to load", Support::Refused("authorization plugins are not built yet")),
    flag("bip", "bip", Kind::Text, "", "IPv4 address for the default bridge", W),
    flag("bip6", "bip6", Kind::Text, "", "IPv6 address for the default bridge", W),
    short('b', flag("bridge", "bridge", Kind::Text, "", "Attach containers to a network bridge", W)),
    flag("cdi-spec-dir", "cdi-spec-dirs", Kind::List, "", "CDI specification directories to use", Support::Ignored("CDI devices are not built yet")),
    flag("cgroup-parent", "cgroup-parent", Kind::Text, "", "Set parent cgroup for all containers", W),
    flag("config-file", "", Kind::Text, "/etc/docker/daemon.json", "Daemon configuration file", W),
    flag("containerd", "containerd", Kind::Text, "", "containerd grpc address", NO_CONTAINERD),
    flag("containerd-namespace", "containerd-namespace", Kind::Text, "moby", "Containerd namespace to use", NO_CONTAINERD),
    flag("containerd-plugins-namespace", "containerd-plugins-namespace", Kind::Text, "plugins.moby", "Containerd namespace to use for plugins", NO_CONTAINERD),
    flag("cpu-rt-period", "cpu-rt-period", Kind::Int, "", "Limit the CPU real-time period in microseconds for the parent cgroup for all containers (not supported with cgroups v2)", Support::Refused("real-time limits of the parent cgroup are not built yet")),
    flag("cpu-rt-runtime", "cpu-rt-runtime", Kind::Int, "", "Limit the CPU real-time runtime in microseconds for the parent cgroup for all containers (not supported with cgroups v2)", Support::Refused("real-time limits of the parent cgroup are not built yet")),
    flag("cri-containerd", "cri-containerd", Kind::Bool, "", "start containerd with cri", NO_CONTAINERD),
    flag("data-root", "data-root", Kind::Text, "/var/lib/docker", "Root directory of persistent Docker state", W),
    short('D', flag("debug", "debug", Kind::Bool, "", "Enable debug mode", W)),
    flag("default-address-pool", "default-address-pools", Kind::Pools, "", "Default address pools for node specific local networks", W),
    flag("default-cgroupns-mode", "default-cgroupns-mode", Kind::Text, "", "Default mode for containers cgroup namespace (\"host\" | \"private\")", W),
    flag("default-gateway", "default-gateway", Kind::Ip, "", "Default gateway IPv4 address for the default bridge network", W),
    flag("default-gateway-v6", "default-gateway-v6", Kind::Ip, "", "Default gateway IPv6 address for the default bridge network", W),
    flag("default-ipc-mode", "default-ipc-mode", Kind::Text, "private", "Default mode for containers ipc (\"shareable\" | \"private\")", W),
    flag("default-network-opt", "default-network-opts", Kind::MapMap, "map[]", "Default network options", W),
    flag("default-runtime", "default-runtime", Kind::Text, "runc", "Default OCI runtime for containers", W),
    flag("default-shm-size", "default-shm-size", Kind::Bytes, "64MiB", "Default shm size for containers", W),
    flag("default-ulimit", "default-ulimits", Kind::Ulimits, "[]", "Default ulimits for containers", W),
    flag("dns", "dns", Kind::IpList, "[]", "DNS server to use", W),
    flag("dns-opt", "dns-opts", Kind::List, "", "DNS options to use", W),
    flag("dns-search", "dns-search", Kind::DomainList, "", "DNS search domains to use", W),
    flag("exec-opt", "exec-opts", Kind::List, "", "Runtime execution options", W),
    flag("exec-root", "exec-root", Kind::Text, "/var/run/docker", "Root directory for execution state files", W),
    flag("experimental", "experimental", Kind::Bool, "", "Enable experimental features", W),
    flag("feature", "features", Kind::BoolMap, "map[]", "Enable feature in the daemon", Support::Ignored("no feature switches exist yet")),
    // The stock daemon's from 29 on, and ours.
    hidden(flag("firewall-backend", "firewall-backend", Kind::Text, "", "Firewall backend to use, iptables or nftables", W)),
    hidden(flag("firewall-honour-host", "firewall-honour-host", Kind::Bool, "", "Leave it to the host's own firewall who reaches published ports", W)),
    flag("fixed-cidr", "fixed-cidr", Kind::Text, "", "IPv4 subnet for the default bridge network", W),
    flag("fixed-cidr-v6", "fixed-cidr-v6", Kind::Text, "", "IPv6 subnet for the default bridge network", W),
    short('G', flag("group", "group", Kind::Text, "docker", "Group for the unix socket", W)),
    flag("help", "", Kind::Bool, "", "Print usage", W),
    short('H', flag("host", "hosts", Kind::HostList, "", "Daemon socket(s) to connect to", W)),
    flag("host-gateway-ip", "host-gateway-ips", Kind::List, "", "IP addresses that the special 'host-gateway' string in --add-host resolves to. Defaults to the IP addresses of the default bridge", W),
    flag("http-proxy", "http-proxy", Kind::Text, "", "HTTP proxy URL to use for outgoing traffic", W),
    flag("https-proxy", "https-proxy", Kind::Text, "", "HTTPS proxy URL to use for outgoing traffic", W),
    flag("icc", "icc", Kind::Bool, "true", "Enable inter-container communication for the default bridge network", W),
    // Ours alone, and not on the help page, which is the stock daemon's.
    hidden(flag("import-docker-root", "import-docker-root", Kind::Text, "", "Take over the data root of a stock daemon at the first start", W)),
    flag("init", "init", Kind::Bool, "", "Run an init in the container to forward signals and reap processes", W),
    flag("init-path", "init-path", Kind::Text, "", "Path to the docker-init binary", Support::Ignored("the init is part of this binary")),
    flag("insecure-registry", "insecure-registries", Kind::List, "", "Enable insecure registry communication", W),
    flag("ip", "ip", Kind::Ip, "0.0.0.0", "Host IP for port publishing from the default bridge network", W),
    flag("ip-forward", "ip-forward", Kind::Bool, "true", "Enable IP forwarding in system configuration", W),
    flag("ip-forward-no-drop", "ip-forward-no-drop", Kind::Bool, "", "Do not set the filter-FORWARD policy to DROP when enabling IP forwarding", W),
    flag("ip-masq", "ip-masq", Kind::Bool, "true", "Enable IP masquerading for the default bridge network", W),
    flag("ip6tables", "ip6tables", Kind::Bool, "true", "Enable addition of ip6tables rules", W),
    flag("iptables", "iptables", Kind::Bool, "true", "Enable addition of iptables rules", W),
    flag("ipv6", "ipv6", Kind::Bool, "", "Enable IPv6 networking for the default bridge network", W),
    flag("label", "labels", Kind::LabelList, "", "Set key=value labels to the daemon", W),
    hidden(flag("lazy-pull", "lazy-pull", Kind::Bool, "", "Use layers with a table of contents before they are fetched", W)),
    flag("live-restore", "live-restore", Kind::Bool, "", "Enable live restore of docker when containers are still running", W),
    flag("log-driver", "log-driver", Kind::Text, "json-file", "Default driver for container logs", W),
    flag("log-format", "log-format", Kind::Text, "text", "Set the logging format (\"text\"|\"json\")", W),
    short('l', flag("log-level", "log-level", Kind::Text, "info", "Set the logging level (\"debug\"|\"info\"|\"warn\"|\"error\"|\"fatal\")", W)),
    flag("log-opt", "log-opts", Kind::Map, "map[]", "Default log driver options for containers", W),
    flag("max-concurrent-downloads", "max-concurrent-downloads", Kind::Int, "3", "Set the max concurrent downloads", W),
    flag("max-concurrent-uploads", "max-concurrent-uploads", Kind::Int, "5", "Set the max concurrent uploads", W),
    flag("max-download-attempts", "max-download-attempts", Kind::Int, "5", "Set the max download attempts for each pull", W),
    flag("metrics-addr", "metrics-addr", Kind::Text, "", "Set default address and port to serve the metrics api on", Support::Refused("the metrics listener is not built yet")),
    flag("mtu", "mtu", Kind::Int, "1500", "Set the MTU for the default \"bridge\" network", W),
    flag("network-control-plane-mtu", "network-control-plane-mtu", Kind::Int, "1500", "Network Control plane MTU", NO_SWARM),
    hidden(flag("network-diagnostic-port", "network-diagnostic-port", Kind::Int, "", "TCP port number of the network diagnostic server", Support::Ignored("the diagnostic server is not built"))),
    flag("no-new-privileges", "no-new-privileges", Kind::Bool, "", "Set no-new-privileges by default for new containers", W),
    flag("no-proxy", "no-proxy", Kind::Text, "", "Comma-separated list of hosts or IP addresses for which the proxy is skipped", W),
    flag("node-generic-resource", "node-generic-resources", Kind::List, "", "Advertise user-defined resource", NO_SWARM),
    short('p', flag("pidfile", "pidfile", Kind::Text, "/var/run/docker.pid", "Path to use for daemon PID file", W)),
    flag("raw-logs", "raw-logs", Kind::Bool, "", "Full timestamps without ANSI coloring", W),
    flag("registry-mirror", "registry-mirrors", Kind::MirrorList, "", "Preferred Docker registry mirror", W),
    hidden(short('r', flag("restart", "", Kind::Bool, "true", "Restart containers (deprecated, use restart policies)", Support::Ignored("use restart policies")))),
    flag("rootless", "rootless", Kind::Bool, "", "Enable rootless mode; typically used with RootlessKit", Support::Refused("rootless mode is not built yet")),
    flag("seccomp-profile", "seccomp-profile", Kind::Text, "builtin", "Path to seccomp profile. Set to \"unconfined\" to disable the default seccomp profile", W),
    flag("selinux-enabled", "selinux-enabled", Kind::Bool, "", "Enable selinux support", Support::Refused("SELinux labels are not built yet")),
    flag("shutdown-timeout", "shutdown-timeout", Kind::Int, "15", "Set the default shutdown timeout", W),
    short('s', flag("storage-driver", "storage-driver", Kind::Text, "", "Storage driver to use", W)),
    flag("storage-opt", "storage-opts", Kind::List, "", "Storage driver options", W),
    flag("swarm-default-advertise-addr", "swarm-default-advertise-addr", Kind::Text, "", "Set default address or interface for swarm advertised address", NO_SWARM),
    flag("tls", "tls", Kind::Bool, "", "Use TLS; implied by --tlsverify", W),
    flag("tlscacert", "tlscacert", Kind::Text, "", "Trust certs signed only by this CA", W),
    flag("tlscert", "tlscert", Kind::Text, "", "Path to TLS certificate file", W),
    flag("tlskey", "tlskey", Kind::Text, "", "Path to TLS key file", W),
    flag("tlsverify", "tlsverify", Kind::Bool, "", "Use TLS and verify the remote", W),
    flag("userland-proxy", "userland-proxy", Kind::Bool, "true", "Use userland proxy for loopback traffic", W),
    flag("userland-proxy-path", "userland-proxy-path", Kind::Text, "", "Path to the userland proxy binary", NO_PROXY_BIN),
    flag("userns-remap", "userns-remap", Kind::Text, "", "User/Group setting for user namespaces", Support::Refused("user namespace remapping is not built yet")),
    flag("validate", "", Kind::Bool, "", "Validate daemon configuration and exit", W),
    short('v', flag("version", "", Kind::Bool, "", "Print version information and quit", W)),
    // Keys that only the file knows.
    flag("", "builder", Kind::Any, "", "BuildKit worker settings", Support::Ignored("the builder is not built yet")),
    flag("", "deprecated-key-path", Kind::Any, "", "Old key without effect", W),
    flag("", "allow-nondistributable-artifacts", Kind::Any, "", "Old key without effect", W),
    flag("", "host-gateway-ip", Kind::Ip, "", "Single form of host-gateway-ips", W),
];

/// The default as this machine's help page shows it.
pub(crate) fn default_of(flag: &Flag) -> String {
    match flag.name {
        "default-cgroupns-mode" if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() => {
            "private".into()
        }
        "default-cgroupns-mode" => "host".into(),
        "tlscacert" => crate::tls::default_path("ca.pem"),
        "tlscert" => crate::tls::default_path("cert.pem"),
        "tlskey" => crate::tls::default_path("key.pem"),
        _ => flag.default.to_owned(),
    }
}

/// The row of a flag by its long name.
pub(crate) fn by_name(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|f| !f.name.is_empty() && f.name == name)
}

/// The row of a configuration key.
pub(crate) fn by_key(key: &str) -> Option<&'static Flag> {
    // The file may also name flags that have no key of their own; the stock daemon lets them pass.
    let by_key = FLAGS.iter().find(|f| !f.key.is_empty() && f.key == key);
    by_key.or_else(|| FLAGS.iter().find(|f| f.key.is_empty() && f.name == key && !key.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keys_and_short_forms_are_unique() {
        for (i, a) in FLAGS.iter().enumerate() {
            for b in &FLAGS[i + 1..] {
                assert!(a.name.is_empty() || a.name != b.name, "{} twice", a.name);
                assert!(a.key.is_empty() || a.key != b.key, "{} twice", a.key);
                assert!(a.short.is_none() || a.short != b.short, "{:?} twice", a.short);
            }
        }
    }

    #[test]
    fn table_is_sorted_by_flag() {
        let names: Vec<_> = FLAGS.iter().map(|f| f.name).filter(|n| !n.is_empty()).collect();
        assert!(names.is_sorted());
    }
}
