//! Addresses the daemon listens on, as `-H` writes them.
//!
//! Pure parsing; `listen` opens them.

use std::path::PathBuf;

/// Port of a TCP address without one, and with TLS.
const DEFAULT_TCP_PORT: u16 = 2375;
const DEFAULT_TLS_PORT: u16 = 2376;

/// One address of `-H`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A unix socket by path.
    Unix(PathBuf),
    /// A TCP address.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Sockets handed over by the service manager; empty or `*` takes all, else one by name or number.
    Fd(String),
}

impl Host {
    /// Reads one address; the reasons are the stock daemon's.
    pub(crate) fn parse(text: &str, tls: bool) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, address) = text.split_once("://").unwrap_or(("tcp", text));
        match scheme {
            "unix" if address.is_empty() => Ok(Self::Unix(PathBuf::from("/var/run/docker.sock"))),
            "unix" => Ok(Self::Unix(PathBuf::from(address))),
            "fd" => Ok(Self::Fd(address.to_owned())),
            "tcp" => parse_tcp(text, address, if tls { DEFAULT_TLS_PORT } else { DEFAULT_TCP_PORT }),
            other => Err(format!("invalid bind address ({text}): unsupported proto '{other}'")),
        }
    }

    /// Whether others than this machine could reach it.
    pub(crate) fn is_remote(&self) -> bool {
        match self {
            Self::Unix(_) | Self::Fd(_) => false,
            Self::Tcp { host, .. } => {
                host != "localhost" && !host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

fn parse_tcp(text: &str, address: &str, default: u16) -> Result<Host, String> {
    let bad = |why: &str| format!("invalid bind address ({text}): {why}");
    if address.contains('/') {
        return Err(bad("should not contain a path element"));
    }
    let (host, port) = match address.rsplit_once(':') {
        // An IPv6 address in brackets without a port ends in one.
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (address, ""),
    };
    let port = match port {
        "" => default,
        digits => digits.parse().map_err(|_| bad(&format!("invalid port: {digits}")))?,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok(Host::Tcp { host: if host.is_empty() { "localhost".to_owned() } else { host.to_owned() }, port })
}

/// What `-H` checks while flags are read: the scheme only; the rest is checked when listening.
pub(crate) fn check(text: &str) -> Result<(), String> {
    match text.trim().split_once("://") {
        Some(("unix" | "tcp" | "fd", _)) | None => Ok(()),
        Some((other, _)) => Err(format!("invalid bind address ({text}): unsupported proto '{other}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        let tcp = |host: &str, port| Ok(Host::Tcp { host: host.to_owned(), port });
        assert_eq!(Host::parse("unix:///a/b", false), Ok(Host::Unix("/a/b".into())));
        assert_eq!(Host::parse("unix://", false), Ok(Host::Unix("/var/run/docker.sock".into())));
        assert_eq!(Host::parse("fd://", false), Ok(Host::Fd(String::new())));
        assert_eq!(Host::parse("tcp://127.0.0.1:99", false), tcp("127.0.0.1", 99));
        assert_eq!(Host::parse("tcp://[::1]:99", false), tcp("::1", 99));
        assert_eq!(Host::parse("tcp://[::1]", false), tcp("::1", 2375));
        assert_eq!(Host::parse("tcp://", false), tcp("localhost", 2375));
        assert_eq!(Host::parse("tcp://[::1]", true), tcp("::1", 2376));
        assert_eq!(Host::parse("1.2.3.4", false), tcp("1.2.3.4", 2375));
        assert_eq!(
            Host::parse("foo://x", false),
            Err("invalid bind address (foo://x): unsupported proto 'foo'".to_owned())
        );
    }

    #[test]
    fn knows_what_is_reachable_from_outside() {
        assert!(!Host::parse("tcp://localhost:1", false).is_ok_and(|h| h.is_remote()));
        assert!(!Host::parse("tcp://[::1]:1", false).is_ok_and(|h| h.is_remote()));
        assert!(Host::parse("tcp://0.0.0.0:1", false).is_ok_and(|h| h.is_remote()));
    }
}
