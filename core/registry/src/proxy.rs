//! Which proxy a URL goes through: the rules of Go's `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, which the stock daemon has.

use std::net::IpAddr;

use base64::Engine;

use crate::config::{Network, Proxies};
use crate::error::TransportError;
use crate::url::Url;

/// A proxy to go through.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// Where it is.
    pub(crate) url: Url,
    /// `Proxy-Authorization`, when its URL has a user.
    pub(crate) authorization: Option<String>,
}

/// The proxy for `url`, when it goes through one.
pub(crate) fn of(proxies: &Proxies, url: &Url) -> Result<Option<Proxy>, TransportError> {
    let text = if url.tls { &proxies.https } else { &proxies.http };
    if text.is_empty() || is_direct(&proxies.no_proxy, &url.host, url.port()) {
        return Ok(None);
    }
    parse(text).map(Some)
}

fn parse(text: &str) -> Result<Proxy, TransportError> {
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let (scheme, rest) = full.split_once("://").unwrap_or(("http", &full));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let unsupported = || TransportError::ProxyUnsupported(format!("{scheme}://{host}"));
    if !matches!(scheme, "http" | "https") {
        return Err(unsupported());
    }
    let url = Url::root(scheme == "https", host).map_err(|_| unsupported())?;
    let authorization = user.map(|user| {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let plain = format!("{}:{}", percent_decoded(name), percent_decoded(password));
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
    });
    Ok(Proxy { url, authorization })
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (first, hex(0), hex(1)) {
            bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether `host` is asked directly.
fn is_direct(no_proxy: &str, host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.');
    let address = host.parse::<IpAddr>().ok();
    if host == "localhost" || address.is_some_and(|address| address.to_canonical().is_loopback()) {
        return true;
    }
    no_proxy.split(',').map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| matches(&entry, host, address, port))
}

fn matches(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry.is_empty() {
        return false;
    }
    if entry == "*" {
        return true;
    }
    if let Some(network) = Network::parse(entry) {
        return address.is_some_and(|address| network.contains(address));
    }
    let (name, wanted) = match entry.rsplit_once(':') {
        // More than one colon and no bracket: an IPv6 address without a port.
        Some((name, wanted)) if !name.contains(':') || name.ends_with(']') => (name, wanted.parse::<u16>().ok()),
        _ => (entry, None),
    };
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(wanted) = name.parse::<IpAddr>() {
        return address.is_some_and(|address| address.to_canonical() == wanted.to_canonical());
    }
    // `.domain` and `*.domain` mean what is below it, `domain` the domain itself too.
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    match name.strip_prefix('.') {
        Some(_) => host.ends_with(name) && host.len() > name.len(),
        None => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_go() {
        for (no_proxy, host, port, direct) in [
            ("", "example.com", 443, false),
            ("", "localhost", 443, true),
            ("", "127.8.8.8", 443, true),
            ("", "::1", 443, true),
            ("*", "example.com", 443, true),
            ("example.com", "example.com", 443, true),
            ("example.com", "a.example.com", 443, true),
            ("example.com", "badexample.com", 443, false),
            (".example.com", "example.com", 443, false),
            (".example.com", "a.example.com", 443, true),
            ("*.example.com", "a.example.com", 443, true),
            ("example.com:80", "example.com", 443, false),
            ("example.com:443", "example.com", 443, true),
            ("x, 10.0.0.0/8 ,y", "10.1.1.1", 443, true),
            ("10.0.0.1", "10.0.0.1", 5000, true),
            ("10.0.0.1:80", "10.0.0.1", 5000, false),
            ("fd00::1", "fd00::1", 443, true),
            ("[fd00::1]:443", "fd00::1", 443, true),
            ("Example.COM", "example.com", 443, true),
        ] {
            assert_eq!(is_direct(no_proxy, host, port), direct, "{no_proxy} {host}:{port}");
        }
    }

    #[test]
    fn proxies_are_chosen_by_scheme() {
        let proxies =
            Proxies { http: "plain:3128".into(), https: "http://u%40x:p@secure:1".into(), no_proxy: String::new() };
        let chosen = |url: &str| of(&proxies, &Url::parse(url).unwrap()).unwrap().unwrap();
        assert_eq!(chosen("http://x/").url.to_string(), "http://plain:3128/");
        let secure = chosen("https://x/");
        assert_eq!(secure.url.to_string(), "http://secure:1/");
        assert_eq!(secure.authorization.as_deref(), Some("Basic dUB4OnA="));
        let socks = Proxies { http: "socks5://u:p@x:1".into(), ..Proxies::default() };
        let error = of(&socks, &Url::parse("http://x/").unwrap()).err().unwrap().to_string();
        assert_eq!(error, "proxyconnect tcp: unsupported proxy socks5://x:1");
    }
}
