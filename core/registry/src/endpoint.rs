//! Where the registry of a domain is, as the stock daemon looks it up: mirrors for Docker Hub, TLS first, and without it only
//! where the configuration allows.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::config::Checked;
use crate::error::RegistryError;
use crate::tls;
use crate::url::Url;

/// The domain of references to Docker Hub.
pub(crate) const HUB: &str = "docker.io";
/// Where its logins and its search are.
pub(crate) const HUB_INDEX: &str = "index.docker.io";
/// Where its images are.
const HUB_REGISTRY: &str = "registry-1.docker.io";

/// A base URL to try.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// Without `/v2/`.
    pub(crate) url: Url,
    /// Of Docker Hub, and not Docker Hub itself.
    pub(crate) mirror: bool,
    /// Configured to be trusted without proof.
    pub(crate) insecure: bool,
    pub(crate) tls: Arc<ClientConfig>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.url)
            .field("mirror", &self.mirror)
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

/// The endpoints of `domain`, in the order they are to be asked. `mirrors`: what is looked for may come from a mirror.
pub(crate) async fn lookup(config: &Arc<Checked>, domain: &str, mirrors: bool) -> Result<Vec<Endpoint>, RegistryError> {
    let mut endpoints = Vec::new();
    if domain == HUB || domain == HUB_INDEX {
        for mirror in config.mirrors.iter().filter(|_| mirrors) {
            endpoints.push(endpoint(config, mirror.clone(), true, None).await?);
        }
        let hub = url(true, HUB_REGISTRY)?;
        endpoints.push(endpoint(config, hub, false, Some(false)).await?);
        return Ok(endpoints);
    }
    let secure = endpoint(config, url(true, domain)?, false, None).await?;
    let plain = secure.insecure.then(|| url(false, domain)).transpose()?;
    let plain = plain.map(|url| Endpoint { url, ..secure.clone() });
    endpoints.push(secure);
    endpoints.extend(plain);
    Ok(endpoints)
}

fn url(tls: bool, authority: &str) -> Result<Url, RegistryError> {
    Url::root(tls, authority).map_err(|error| RegistryError::InvalidArgument(error.to_string()))
}

async fn endpoint(
    config: &Arc<Checked>,
    url: Url,
    mirror: bool,
    insecure: Option<bool>,
) -> Result<Endpoint, RegistryError> {
    let insecure = match insecure {
        Some(insecure) => insecure,
        None => is_insecure(config, &url.authority()).await,
    };
    let tls = tls_for(config, &url.authority(), insecure).await?;
    Ok(Endpoint { url, mirror, insecure, tls })
}

/// What TLS means at `host`.
pub(crate) async fn tls_for(
    config: &Arc<Checked>,
    host: &str,
    insecure: bool,
) -> Result<Arc<ClientConfig>, RegistryError> {
    if insecure {
        // As on the stock daemon: where nothing is proven, `certs.d` is not looked at.
        return Ok(tls::unchecked());
    }
    let (config, host) = (Arc::clone(config), host.to_owned());
    let work = tokio::task::spawn_blocking(move || tls::checked(&config.written.certs_dirs, &host));
    work.await.map_err(|_| RegistryError::Certificates("reading certificates was interrupted".to_owned()))?
}

/// Whether `host`, with or without port, is configured as insecure, by its name or by an address it has.
pub(crate) async fn is_insecure(config: &Checked, host: &str) -> bool {
    if host == HUB || host == HUB_INDEX {
        return false;
    }
    if config.insecure_hosts.iter().any(|known| known == host) {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let inside = |address: IpAddr| config.insecure_networks.iter().any(|network| network.contains(address));
    if let Ok(address) = name.parse() {
        return inside(address);
    }
    let limit = config.written.limits.connect;
    match tokio::time::timeout(limit, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(mut addresses)) => addresses.any(|address| inside(address.ip())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RegistryConfig;

    async fn shown(domain: &str, mirrors: bool) -> Vec<String> {
        let mut config = RegistryConfig::new("test");
        config.certs_dirs.clear();
        config.mirrors = vec!["https://m.example/p".into(), "http://127.0.0.1:5000".into()];
        config.insecure = vec!["lab.invalid:5000".into(), "10.0.0.0/8".into()];
        let config = Arc::new(Checked::new(config).unwrap());
        let endpoints = lookup(&config, domain, mirrors).await.unwrap();
        let mark = |on: bool, text: &'static str| if on { text } else { "" };
        let show = |e: &Endpoint| format!("{}{}{}", e.url, mark(e.mirror, " mirror"), mark(e.insecure, " insecure"));
        endpoints.iter().map(show).collect()
    }

    #[tokio::test]
    async fn endpoints_are_those_of_the_stock_daemon() {
        for (domain, mirrors, expected) in [
            (
                "docker.io",
                true,
                vec![
                    "https://m.example/p mirror",
                    "http://127.0.0.1:5000/ mirror insecure",
                    "https://registry-1.docker.io/",
                ],
            ),
            ("docker.io", false, vec!["https://registry-1.docker.io/"]),
            ("r.invalid", true, vec!["https://r.invalid/"]),
            ("r.invalid:5000", true, vec!["https://r.invalid:5000/"]),
            (
                "lab.invalid:5000",
                false,
                vec!["https://lab.invalid:5000/ insecure", "http://lab.invalid:5000/ insecure"],
            ),
            ("lab.invalid", false, vec!["https://lab.invalid/"]),
            ("10.1.1.1:80", true, vec!["https://10.1.1.1:80/ insecure", "http://10.1.1.1:80/ insecure"]),
            ("localhost:5000", true, vec!["https://localhost:5000/ insecure", "http://localhost:5000/ insecure"]),
            ("[::1]:5000", true, vec!["https://[::1]:5000/ insecure", "http://[::1]:5000/ insecure"]),
        ] {
            assert_eq!(shown(domain, mirrors).await, expected, "{domain}");
        }
    }
}
