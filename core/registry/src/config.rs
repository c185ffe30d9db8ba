//! What the daemon's configuration says about registries, checked. The rules and texts are those of the stock daemon's
//! `registry-mirrors`, `insecure-registries` and `proxies`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::RegistryError;
use crate::pace::Pace;
use crate::url::Url;

/// Where registries' certificates lie on the stock daemon.
pub const CERTS_DIR: &str = "/etc/docker/certs.d";
/// What the stock daemon tries a download at most.
pub const MAX_DOWNLOAD_ATTEMPTS: u32 = 5;

/// Configuration as written.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Base URLs asked before Docker Hub, in order.
    pub mirrors: Vec<String>,
    /// `host[:port]` or networks that may be without TLS, or with certificates nobody signed.
    pub insecure: Vec<String>,
    /// Directories with `<host[:port]>/*.{crt,cert,key}`; usually [`CERTS_DIR`].
    pub certs_dirs: Vec<PathBuf>,
    /// Proxies.
    pub proxies: Proxies,
    /// `User-Agent` of every request.
    pub user_agent: String,
    /// How often a transfer is tried before it has failed; at least one.
    pub max_download_attempts: u32,
    /// Times and sizes, which only tests change.
    pub limits: Limits,
}

impl RegistryConfig {
    /// Nothing configured.
    pub fn new(user_agent: &str) -> Self {
        Self {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            certs_dirs: vec![PathBuf::from(CERTS_DIR)],
            proxies: Proxies::default(),
            user_agent: user_agent.to_owned(),
            max_download_attempts: MAX_DOWNLOAD_ATTEMPTS,
            limits: Limits::default(),
        }
    }
}

/// Proxies as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` have them; empty: none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http` URLs.
    pub http: String,
    /// For `https` URLs, by `CONNECT`.
    pub https: String,
    /// Hosts, domains, addresses and networks that are asked directly, with commas between.
    pub no_proxy: String,
}

impl std::fmt::Debug for Proxies {
    /// Without what may be a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |text: &str| text.rsplit('@').next().unwrap_or_default().to_owned();
        f.debug_struct("Proxies")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// Times and sizes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For a TCP connection (stock: 30 s).
    pub connect: Duration,
    /// For a TLS handshake (stock: 10 s).
    pub handshake: Duration,
    /// For the answer of a ping or of a token server (stock: 15 s).
    pub ping: Duration,
    /// For the head of any other answer. A registry may hash a large blob before it answers.
    pub answer: Duration,
    /// For the next byte of a body.
    pub idle: Duration,
    /// Bytes of a body that must come within the time of `idle`.
    pub least: u64,
    /// What "second" means in the pauses before a transfer is tried again: five of them after the first failure, ten after
    /// the second ...
    pub retry_second: Duration,
    /// Blobs of more than this are fetched by several ranges at once.
    pub parallel_above: u64,
    /// Length of a range, in bytes.
    pub part: u64,
    /// Ranges at once.
    pub parts_at_once: usize,
    /// Blobs of more than this are sent in chunks of about this size.
    pub chunk: u64,
}

impl Limits {
    /// How slowly a body may come.
    pub(crate) fn pace(&self) -> Pace {
        Pace::new(self.idle, self.least)
    }

    /// How slowly the body of a short answer may come.
    pub(crate) fn short_pace(&self) -> Pace {
        Pace::new(self.ping, self.least)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
            ping: Duration::from_secs(15),
            answer: Duration::from_secs(300),
            idle: Duration::from_secs(60),
            least: 16 << 10,
            retry_second: Duration::from_secs(1),
            parallel_above: 32 << 20,
            part: 8 << 20,
            parts_at_once: 2,
            chunk: 512 << 20,
        }
    }
}

/// Configuration that makes sense.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) written: RegistryConfig,
    pub(crate) mirrors: Vec<Url>,
    pub(crate) insecure_hosts: Vec<String>,
    pub(crate) insecure_networks: Vec<Network>,
}

impl Checked {
    pub(crate) fn new(written: RegistryConfig) -> Result<Self, RegistryError> {
        let mut mirrors: Vec<Url> = Vec::new();
        for mirror in &written.mirrors {
            let mirror = checked_mirror(mirror)?;
            if !mirrors.contains(&mirror) {
                mirrors.push(mirror);
            }
        }
        let loopback =
            [Network { address: [127, 0, 0, 0].into(), bits: 8 }, Network { address: loopback6(), bits: 128 }];
        let mut checked = Self { mirrors, insecure_hosts: Vec::new(), insecure_networks: loopback.to_vec(), written };
        for entry in checked.written.insecure.clone() {
            checked.add_insecure(&entry)?;
        }
        Ok(checked)
    }

    fn add_insecure(&mut self, entry: &str) -> Result<(), RegistryError> {
        if entry.starts_with('-') || entry.ends_with('-') {
            let text = format!("invalid index name ({entry}). Cannot begin or end with a hyphen");
            return Err(RegistryError::Config(text));
        }
        let host = match entry.split_once("://") {
            Some((scheme, host)) if matches!(&*scheme.to_ascii_lowercase(), "http" | "https") => {
                tracing::warn!(
                    "insecure registry {entry} should not contain '{scheme}' and '{scheme}s' has been removed from the \
                     insecure registry config"
                );
                host
            }
            Some(_) => {
                return Err(RegistryError::Config(format!("insecure registry {entry} should not contain '://'")));
            }
            None => entry,
        };
        if let Some(network) = Network::parse(host) {
            self.insecure_networks.push(network);
        } else {
            checked_host(host)
                .map_err(|why| RegistryError::Config(format!("insecure registry {host} is not valid: {why}")))?;
            self.insecure_hosts.push(host.to_owned());
        }
        Ok(())
    }
}

/// `ValidateMirror` of the stock daemon.
fn checked_mirror(text: &str) -> Result<Url, RegistryError> {
    let invalid = |why: String| RegistryError::Config(format!("invalid mirror: {why}"));
    let must = "must use either 'https://' or 'http://'";
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if !scheme.is_empty() => (scheme, rest),
        _ => return Err(invalid(format!("no scheme specified for {text:?}: {must}"))),
    };
    if !matches!(scheme, "http" | "https") {
        return Err(invalid(format!("unsupported scheme {scheme:?} in {text:?}: {must}")));
    }
    if text.contains(['?', '#']) {
        return Err(invalid(format!("query or fragment at end of the URI {text:?}")));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if let Some((user, host)) = authority.rsplit_once('@') {
        let name = user.split(':').next().unwrap_or_default();
        let shown = format!("{scheme}://{name}:xxxxx@{host}{}", &rest[authority.len()..]);
        return Err(invalid(format!("username/password not allowed in URI {shown:?}")));
    }
    Url::parse(text).map_err(|_| invalid(format!("{text:?} is not a valid URI")))
}

fn checked_host(text: &str) -> Result<(), String> {
    let v6 = text.starts_with('[') || text.matches(':').count() > 1;
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !v6 || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let label = |part: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        edge(part.as_bytes().first())
            && edge(part.as_bytes().last())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if bare.parse::<IpAddr>().is_err() && !host.split('.').all(label) {
        return Err(format!("invalid host {host:?}"));
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() => Err(format!("invalid port {port:?}")),
        _ => Ok(()),
    }
}

fn loopback6() -> IpAddr {
    std::net::Ipv6Addr::LOCALHOST.into()
}

/// Addresses with a common beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// `address/bits`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let network = Self { address: address.parse().ok()?, bits: bits.parse().ok()? };
        let most = if network.address.is_ipv4() { 32 } else { 128 };
        (network.bits <= most && !bits.starts_with('+')).then_some(network)
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let wide = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(v4) => (true, u128::from(u32::from(v4)) << 96),
            IpAddr::V6(v6) => (false, u128::from(v6)),
        };
        let ((v4, mine), (other_v4, other)) = (wide(self.address), wide(address));
        let shift = 128 - u32::from(self.bits);
        v4 == other_v4 && (mine ^ other).checked_shr(shift).unwrap_or(0) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mirrors: &[&str], insecure: &[&str]) -> Result<Checked, String> {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let mut config = RegistryConfig::new("test");
        (config.mirrors, config.insecure) = (owned(mirrors), owned(insecure));
        Checked::new(config).map_err(|error| error.to_string())
    }

    #[test]
    fn mirrors_are_checked_as_the_stock_daemon_does() {
        let checked = check(&["https://m.example", "https://m.example/", "http://n:80/p/"], &[]).unwrap();
        assert_eq!(checked.mirrors.len(), 2);
        for (text, expected) in [
            ("m.example:5000", r#"no scheme specified for "m.example:5000": must use either 'https://' or 'http://'"#),
            ("ftp://m", r#"unsupported scheme "ftp" in "ftp://m": must use either 'https://' or 'http://'"#),
            ("https://m/?q", r#"query or fragment at end of the URI "https://m/?q""#),
            ("https://u:p@m/", r#"username/password not allowed in URI "https://u:xxxxx@m/""#),
            ("https://a b/", r#""https://a b/" is not a valid URI"#),
        ] {
            assert_eq!(check(&[text], &[]).unwrap_err(), format!("invalid mirror: {expected}"));
        }
    }

    #[test]
    fn insecure_registries_are_hosts_or_networks() {
        let checked =
            check(&[], &["10.0.0.0/8", "r.example:5000", "https://s.example", "fd00::/8", "[::1]:5000"]).unwrap();
        assert_eq!(checked.insecure_hosts, ["r.example:5000", "s.example", "[::1]:5000"]);
        let inside = |address: &str| {
            let address = address.parse().unwrap();
            checked.insecure_networks.iter().any(|network| network.contains(address))
        };
        for address in ["127.9.9.9", "::1", "10.1.2.3", "::ffff:10.1.2.3", "fd12::1"] {
            assert!(inside(address), "{address}");
        }
        for address in ["128.0.0.1", "11.0.0.1", "::2", "fe80::1", "::7f00:1"] {
            assert!(!inside(address), "{address}");
        }
        for (text, expected) in [
            ("-x", "invalid index name (-x). Cannot begin or end with a hyphen"),
            ("unix://x", "insecure registry unix://x should not contain '://'"),
            ("a b", r#"insecure registry a b is not valid: invalid host "a b""#),
            ("h:99999", r#"insecure registry h:99999 is not valid: invalid port "99999""#),
        ] {
            assert_eq!(check(&[], &[text]).unwrap_err(), expected);
        }
    }

    #[test]
    fn passwords_of_proxies_are_not_shown() {
        let proxies = Proxies { http: "http://u:secret@p:1".into(), ..Proxies::default() };
        assert!(!format!("{proxies:?}").contains("secret"));
    }
}
