//! Proxies of `daemon.json`: what goes through them, what does not, and what a proxy that refuses means. Each test has a
//! daemon of its own, because `/etc/docker` is the daemon's.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::certificate::Authority;
use compat_tests::network::Network;
use compat_tests::private::Private;
use compat_tests::progress::Progress;
use compat_tests::proxy::{Asked, Proxy};
use compat_tests::registry::{Options, Registry};
use compat_tests::seed::{Family, Image, tar_of};
use compat_tests::server::{Answer, Server};
use compat_tests::{Case, Suite, tests};
use serde_json::{Value, json};
use tempfile::TempDir;

mod registries;

use registries::untagged;

/// Not loopback, which no proxy is asked for.
const FAR: &str = "192.0.2.10";
const NEAR: &str = "192.0.2.20";
/// Where the proxy of a test's own network is.
const PROXY: &str = "127.0.0.1:3128";

fn main() -> ExitCode {
    Suite { name: "proxy", flags: &[], tests: tests![pulls, by_tls, imports, with_a_password, refused] }.main()
}

/// A daemon with these proxies, its network, and its `/etc/docker`.
fn daemon(t: &Case<'_>, proxies: &Value, certificate: Option<(&str, &str)>) -> Result<(Private, Network, TempDir)> {
    let etc = tempfile::tempdir()?;
    let insecure = [format!("{FAR}:5000"), format!("{NEAR}:5000")];
    let document = json!({"proxies": proxies, "insecure-registries": insecure, "max-download-attempts": 1});
    std::fs::write(etc.path().join("daemon.json"), document.to_string())?;
    if let Some((registry, pem)) = certificate {
        let dir = etc.path().join("certs.d").join(registry);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("ca.crt"), pem)?;
    }
    let private = Private::start(t.host(), &[], Some(etc.path()))?;
    let network = private.network()?;
    for address in [FAR, NEAR] {
        network.add_address(&format!("{address}/32"))?;
    }
    Ok((private, network, etc))
}

fn proxies(url: &str) -> Value {
    json!({"http-proxy": url, "https-proxy": url, "no-proxy": format!("other.example,{NEAR}/31")})
}

fn lines(asked: &[Asked]) -> Vec<&str> {
    asked.iter().map(|asked| asked.line.as_str()).collect()
}

/// Pulls an image that is only at `registry`.
fn pull(t: &Case<'_>, private: &Private, registry: &Registry, what: &str) -> Result<Progress> {
    let image = Image::of_layers(Family::Docker, &format!("{} {what}", t.prefix()), 2).packed();
    let name = registry.put(what, "v1", &image)?;
    let progress = Progress::of_pull(private.host(), untagged(&name), "v1")?;
    if progress.error().is_empty() {
        let seen = private.host().http("GET", &format!("/images/{name}/json"))?.json()?;
        ensure!(seen["Id"] == image.id(), "{seen}");
    }
    Ok(progress)
}

fn pulls(t: &Case<'_>) -> Result<()> {
    let (private, network, _etc) = daemon(t, &proxies(&format!("http://{PROXY}")), None)?;
    let proxy = Proxy::start(&network, PROXY, None)?;
    let far = Registry::start(&network)?;
    let at = |ip: &'static str| far.beside(Options { ip, port: Some(5000), ..Options::default() });
    let (far_away, near_by) = (at(FAR)?, at(NEAR)?);
    let progress = pull(t, &private, &far_away, "far")?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    let asked = proxy.taken();
    let lines = lines(&asked);
    // TLS is tried first, by a tunnel; the rest goes without it.
    ensure!(lines.first() == Some(&&*format!("CONNECT {FAR}:5000")), "{lines:?}");
    let base = format!("http://{FAR}:5000/v2/");
    for part in [base.clone(), format!("{base}far/manifests/"), format!("{base}far/blobs/sha256:")] {
        ensure!(lines.iter().any(|line| line.starts_with(&format!("GET {part}"))), "{part} is not among {lines:?}");
    }
    ensure!(lines.iter().filter(|line| line.contains("/blobs/")).count() >= 3, "{lines:?}");
    ensure!(asked.iter().all(|asked| asked.authorization.is_empty()), "{asked:?}");
    // Neither loopback nor what `no-proxy` names.
    for registry in [&near_by, &far] {
        let progress = pull(t, &private, registry, "near")?;
        ensure!(progress.error().is_empty(), "{progress:?}");
        ensure!(proxy.taken().is_empty(), "{} was asked for by the proxy", registry.address());
    }
    let info = private.host().http("GET", "/info")?.json()?;
    ensure!(info["HttpProxy"] == format!("http://{PROXY}"), "{}", info["HttpProxy"]);
    Ok(())
}

fn by_tls(t: &Case<'_>) -> Result<()> {
    let (dir, authority) = (tempfile::tempdir()?, Authority::new("proxied")?);
    let files = authority.server(dir.path(), "server", &[FAR])?;
    let certificate = (&*format!("{FAR}:5001"), &*authority.pem());
    let (private, network, _etc) = daemon(t, &proxies(&format!("http://{PROXY}")), Some(certificate))?;
    let proxy = Proxy::start(&network, PROXY, None)?;
    let open = Registry::start(&network)?;
    let closed = open.beside(Options { ip: FAR, port: Some(5001), tls: Some(&files), ..Options::default() })?;
    let image = Image::of_layers(Family::Oci, t.prefix(), 2).packed();
    open.put("tls", "v1", &image)?;
    let progress = Progress::of_pull(private.host(), &format!("{}/tls", closed.address()), "v1")?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    let asked = proxy.taken();
    let lines = lines(&asked);
    ensure!(!lines.is_empty() && lines.iter().all(|line| *line == format!("CONNECT {FAR}:5001")), "{lines:?}");
    // And back.
    let target = format!("{}/back", closed.address());
    let tagged =
        private.host().http("POST", &format!("/images/{}/tls:v1/tag?repo={target}&tag=v2", closed.address()))?;
    ensure!(tagged.status == 201, "{}", tagged.message());
    let progress = Progress::of_push(private.host(), &target, "v2")?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    ensure!(!proxy.taken().is_empty(), "the push went past the proxy");
    open.manifest("back", "v2").context("the pushed manifest")?;
    Ok(())
}

fn imports(t: &Case<'_>) -> Result<()> {
    let (private, network, _etc) = daemon(t, &proxies(&format!("http://{PROXY}")), None)?;
    let proxy = Proxy::start(&network, PROXY, None)?;
    let tar = tar_of(&[("a", t.prefix().as_bytes())]);
    for (address, through) in [(FAR, true), (NEAR, false)] {
        let tar = tar.clone();
        let server =
            Server::start(network.listen(&format!("{address}:0"))?, Box::new(move |_| Answer::new(200, tar.clone())))?;
        let url = format!("http://{}/x.tar", server.address());
        let progress = Progress::of(private.host(), &format!("/images/create?fromSrc={url}&repo=imported"), None)?;
        ensure!(progress.error().is_empty(), "{progress:?}");
        let asked = proxy.taken();
        let wanted: Vec<String> = through.then(|| format!("GET {url}")).into_iter().collect();
        ensure!(lines(&asked) == wanted, "{asked:?}");
    }
    Ok(())
}

fn with_a_password(t: &Case<'_>) -> Result<()> {
    let (private, network, _etc) = daemon(t, &proxies(&format!("http://me:se%40cret@{PROXY}")), None)?;
    let proxy = Proxy::start(&network, PROXY, None)?;
    let open = Registry::start(&network)?;
    let far = open.beside(Options { ip: FAR, port: Some(5000), ..Options::default() })?;
    let progress = pull(t, &private, &far, "asked")?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    let asked = proxy.taken();
    // `me:se@cret`
    ensure!(
        !asked.is_empty() && asked.iter().all(|asked| asked.authorization == "Basic bWU6c2VAY3JldA=="),
        "{asked:?}"
    );
    let info = private.host().http("GET", "/info")?.json()?;
    ensure!(info["HttpProxy"] == format!("http://xxxxx:xxxxx@{PROXY}"), "{}", info["HttpProxy"]);
    Ok(())
}

fn refused(t: &Case<'_>) -> Result<()> {
    let (private, network, _etc) = daemon(t, &proxies(&format!("http://{PROXY}")), None)?;
    let proxy = Proxy::start(&network, PROXY, Some("403 Not For You"))?;
    // Nothing but the proxy knows whether anybody is there.
    let progress = Progress::of_pull(private.host(), &format!("{FAR}:5001/some"), "v1")?;
    ensure!(progress.status == 500, "{progress:?}");
    ensure!(progress.error() == format!("Get \"https://{FAR}:5001/v2/\": Not For You"), "{progress:?}");
    ensure!(lines(&proxy.taken()) == [format!("CONNECT {FAR}:5001")], "asked otherwise");
    drop(proxy);
    let progress = Progress::of_pull(private.host(), &format!("{FAR}:5001/some"), "v1")?;
    let text =
        format!("Get \"https://{FAR}:5001/v2/\": proxyconnect tcp: dial tcp {PROXY}: connect: connection refused");
    ensure!((progress.status, progress.error()) == (500, &*text), "{progress:?}");
    Ok(())
}
