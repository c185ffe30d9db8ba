//! Registries that do not let everybody in: basic authentication, tokens, certificates; and what flags say about registries:
//! insecure ones, mirrors, how many layers are fetched and sent at once.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::certificate::Authority;
use compat_tests::check::until;
use compat_tests::golden::Golden;
use compat_tests::hostile::Hostile;
use compat_tests::network::Network;
use compat_tests::private::Private;
use compat_tests::progress::Progress;
use compat_tests::registry::{Access, Options, PASSWORD, Registry, USER};
use compat_tests::seed::{Family, Image, Packed};
use compat_tests::server::{Answer, Body, Gate};
use compat_tests::token::TokenServer;
use compat_tests::{Case, Suite, tests};
use serde_json::{Map, Value, json};

mod registries;

use registries::{Fixture, credentials, untagged};

fn main() -> ExitCode {
    Suite {
        name: "registry_auth",
        flags: &[],
        tests: tests![
            basic,
            basic_errors,
            auth_endpoint,
            token,
            token_scopes,
            token_errors,
            refresh_token,
            certificates,
            client_certificate,
            insecure_registries,
            mirrors,
            layers_at_once,
        ],
    }
    .main()
}

/// An address that is not taken for insecure, as those in 127.0.0.0/8 are.
const OUTSIDE: &str = "192.0.2.1";

fn image(t: &Case<'_>, what: &str) -> Packed {
    Image::of_layers(Family::Docker, &format!("{} {what}", t.prefix()), 1).packed()
}

/// `docker login`; wrong or right.
fn login(t: &Case<'_>, fixture: &Fixture, registry: &str, password: &str) -> compat_tests::Ran {
    fixture.docker_with(t, &["login", "-u", USER, "--password-stdin", registry], password)
}

fn basic(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = image(t, "basic");
    fixture.registry.put("shut", "v1", &image)?;
    let shut = fixture.registry.beside(Options { access: Access::Basic, ..Options::default() })?;
    let name = t.reference(format!("{}/shut:v1", shut.address()));
    let no_entry = |what: &[&str]| {
        let ran = fixture.docker(t, what);
        ensure!(ran.code == 1 && ran.err.ends_with("no basic auth credentials"), "{what:?}: {ran:?}");
        Ok(())
    };
    no_entry(&["pull", &name])?;
    let wrong = login(t, &fixture, shut.address(), "wrong");
    let text = format!("login attempt to http://{}/v2/ failed with status: 401 Unauthorized", shut.address());
    assert_eq!((wrong.code, wrong.err), (1, format!("Error response from daemon: {text}")));
    assert_eq!(fixture.configuration()?.get("auths"), None);
    no_entry(&["pull", &name])?;
    let right = login(t, &fixture, shut.address(), PASSWORD);
    assert!(right.code == 0 && right.out.ends_with("Login Succeeded"), "{right:?}");
    assert!(fixture.configuration()?["auths"][shut.address()]["auth"].is_string());
    let pulled = fixture.docker(t, &["pull", &name]).ok()?;
    assert!(pulled.contains("Status: Downloaded newer image"), "{pulled}");
    let other = t.reference(format!("{}/other:v1", shut.address()));
    fixture.docker(t, &["tag", &name, &other]).ok()?;
    let pushed = fixture.docker(t, &["push", &other]).ok()?;
    assert!(pushed.contains("Mounted from shut"), "{pushed}");
    // It is asked again with what is stored.
    let again = fixture.docker(t, &["login", shut.address()]);
    assert!(again.code == 0 && again.out.ends_with("Login Succeeded"), "{again:?}");
    let out = fixture.docker(t, &["logout", shut.address()]).ok()?;
    assert_eq!(out, format!("Removing login credentials for {}", shut.address()));
    no_entry(&["pull", &name])?;
    no_entry(&["push", &other])
}

fn basic_errors(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = image(t, "basic errors");
    let open = t.reference(fixture.registry.put("shut", "v1", &image)?);
    let shut = fixture.registry.beside(Options { access: Access::Basic, ..Options::default() })?;
    let repository = format!("{}/shut", shut.address());
    t.docker(&["pull", "-q", &open]).ok()?;
    t.docker(&["tag", &open, &t.reference(format!("{repository}:v2"))]).ok()?;
    t.reference(format!("{repository}:v1"));
    let (wrong, right) = (credentials(USER, "wrong"), credentials(USER, PASSWORD));
    let mut all = Map::new();
    for (what, auth) in
        [("none", None), ("wrong", Some(wrong.as_str())), ("malformed", Some("bad%")), ("right", Some(right.as_str()))]
    {
        let pull = Progress::of(t.host(), &format!("/images/create?fromImage={repository}&tag=v1"), auth)?;
        let push = Progress::of(t.host(), &format!("/images/{repository}/push?tag=v2"), auth)?;
        let headers: Vec<(&str, &str)> = auth.iter().map(|value| ("X-Registry-Auth", *value)).collect();
        let path = format!("/distribution/{repository}:v1/json");
        let seen = compat_tests::http::request(&t.host().socket, "GET", &path, &headers, b"")?;
        let message = if seen.status == 200 { "-".to_owned() } else { seen.message() };
        let of = |progress: &Progress| json!({"status": progress.status, "error": progress.error()});
        let distribution = json!({"status": seen.status, "error": message});
        all.insert(what.to_owned(), json!({"pull": of(&pull), "push": of(&push), "distribution": distribution}));
    }
    Golden::new(t).replacing(shut.address(), "<registry>").check(t, "registry-basic-errors", &Value::Object(all))
}

fn auth_endpoint(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let shut = fixture.registry.beside(Options { access: Access::Basic, ..Options::default() })?;
    let server = shut.address();
    let with_scheme = format!("http://{server}");
    let with_path = format!("{server}/v1/");
    let mut all = Map::new();
    for (what, user, password, server) in [
        ("right", USER, PASSWORD, server),
        ("wrong", USER, "wrong", server),
        ("empty", "", "", server),
        ("with scheme", USER, PASSWORD, &with_scheme),
        ("with path", USER, PASSWORD, &with_path),
        ("open registry", USER, "anything", fixture.registry.address()),
        ("nobody listens", USER, PASSWORD, "127.0.0.1:1"),
    ] {
        let body = json!({"username": user, "password": password, "serveraddress": server});
        let answer = t.http_json("POST", "/auth", &body)?;
        all.insert(what.to_owned(), json!({"status": answer.status, "body": answer.json()?}));
    }
    let broken = t.http_json("POST", "/auth", &json!("text"))?;
    ensure!(broken.status >= 400, "{broken:?}");
    Golden::new(t).replacing(server, "<registry>").check(t, "auth-endpoint", &Value::Object(all))
}

/// An open registry, one behind tokens on the same storage, and the server that hands them out.
fn behind_tokens(fixture: &Fixture, with_refresh: bool) -> Result<(Registry, TokenServer)> {
    let server = TokenServer::start(&fixture.network, with_refresh)?;
    let registry = fixture.registry.beside(Options { access: Access::Token(&server), ..Options::default() })?;
    Ok((registry, server))
}

fn token(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let (public, private) = (image(t, "public"), image(t, "private"));
    fixture.registry.put("public/some", "v1", &public)?;
    fixture.registry.put("private/some", "v1", &private)?;
    let (registry, _server) = behind_tokens(&fixture, false)?;
    let public = t.reference(format!("{}/public/some:v1", registry.address()));
    let private = t.reference(format!("{}/private/some:v1", registry.address()));
    fixture.docker(t, &["pull", "-q", &public]).ok()?;
    let denied = fixture.docker(t, &["pull", &private]);
    let text = format!(
        "pull access denied for {}, repository does not exist or may require 'docker login': denied: requested access to \
         the resource is denied",
        untagged(&private)
    );
    assert_eq!((denied.code, denied.err), (1, format!("Error response from daemon: {text}")));
    // Nobody may push.
    let copy = t.reference(format!("{}/public/copy:v1", registry.address()));
    fixture.docker(t, &["tag", &public, &copy]).ok()?;
    let denied = fixture.docker(t, &["push", &copy]);
    assert_eq!((denied.code, denied.err.as_str()), (1, "denied: requested access to the resource is denied"));
    let wrong = login(t, &fixture, registry.address(), "wrong");
    assert!(wrong.code == 1 && wrong.err.contains("unauthorized: wrong user or password"), "{wrong:?}");
    let right = login(t, &fixture, registry.address(), PASSWORD);
    assert!(right.code == 0 && right.out.ends_with("Login Succeeded"), "{right:?}");
    fixture.docker(t, &["pull", "-q", &private]).ok()?;
    let pushed = fixture.docker(t, &["push", &copy]).ok()?;
    assert!(pushed.contains("Mounted from public/some"), "{pushed}");
    let seen = t.http("GET", &format!("/distribution/{public}/json"))?;
    assert_eq!(seen.status, 200, "{}", seen.message());
    Ok(())
}

fn token_scopes(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = image(t, "scopes");
    fixture.registry.put("private/scopes", "v1", &image)?;
    let (registry, server) = behind_tokens(&fixture, false)?;
    let name = t.reference(format!("{}/private/scopes:v1", registry.address()));
    let auth = credentials(USER, PASSWORD);
    let scopes = || {
        let requests = server.server().requests();
        let mut scopes: Vec<String> = requests
            .iter()
            .flat_map(|request| compat_tests::server::parameters(&request.query))
            .filter(|(name, _)| name == "scope")
            // In which order the actions stand is of no importance.
            .map(|(_, scope)| scope.replace("push,pull", "pull,push"))
            .collect();
        server.server().taken_lines();
        scopes.sort();
        scopes.dedup();
        scopes
    };
    let path = format!("/images/create?fromImage={}&tag=v1", untagged(&name));
    let pulled = Progress::of(t.host(), &path, Some(&auth))?;
    ensure!(pulled.error().is_empty(), "{pulled:?}");
    let requests = server.server().requests();
    let first = requests.first().context("no token was asked for")?;
    assert_eq!(first.parameter("service").as_deref(), Some(compat_tests::token::SERVICE));
    assert_eq!(first.parameter("account").as_deref(), Some(USER));
    assert_eq!(scopes(), ["repository:private/scopes:pull"]);
    let other = t.reference(format!("{}/private/other:v1", registry.address()));
    t.docker(&["tag", &name, &other]).ok()?;
    let pushed = Progress::of(t.host(), &format!("/images/{}/push?tag=v1", untagged(&other)), Some(&auth))?;
    ensure!(pushed.error().is_empty(), "{pushed:?}");
    // Mounting needs both repositories.
    assert_eq!(scopes(), ["repository:private/other:pull,push", "repository:private/scopes:pull"]);
    Ok(())
}

fn token_errors(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = image(t, "token errors");
    let open = t.reference(fixture.registry.put("private/e", "v1", &image)?);
    let (registry, _server) = behind_tokens(&fixture, false)?;
    t.docker(&["pull", "-q", &open]).ok()?;
    let repository = format!("{}/private/e", registry.address());
    t.docker(&["tag", &open, &t.reference(format!("{repository}:v2"))]).ok()?;
    t.reference(format!("{repository}:v1"));
    let (wrong, right) = (credentials(USER, "wrong"), credentials(USER, PASSWORD));
    let mut all = Map::new();
    for (what, auth, tag) in [
        ("none", None, "v1"),
        ("wrong", Some(wrong.as_str()), "v1"),
        ("right", Some(right.as_str()), "v1"),
        ("right, no such tag", Some(right.as_str()), "absent"),
    ] {
        let pull = Progress::of(t.host(), &format!("/images/create?fromImage={repository}&tag={tag}"), auth)?;
        let push = Progress::of(t.host(), &format!("/images/{repository}/push?tag=v2"), auth)?;
        let of = |progress: &Progress| json!({"status": progress.status, "error": progress.error()});
        all.insert(what.to_owned(), json!({"pull": of(&pull), "push": of(&push)}));
    }
    for (what, password) in [("login wrong", "wrong"), ("login right", PASSWORD)] {
        let body = json!({"username": USER, "password": password, "serveraddress": registry.address()});
        let answer = t.http_json("POST", "/auth", &body)?;
        all.insert(what.to_owned(), json!({"status": answer.status, "body": answer.json()?}));
    }
    // A token server that is gone.
    drop(_server);
    let pull = Progress::of(t.host(), &format!("/images/create?fromImage={repository}&tag=v1"), None)?;
    ensure!(pull.status == 500 && pull.error().contains("connection refused"), "{pull:?}");
    Golden::new(t).replacing(registry.address(), "<registry>").check(t, "registry-token-errors", &Value::Object(all))
}

fn refresh_token(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = image(t, "refresh");
    fixture.registry.put("private/r", "v1", &image)?;
    let (registry, server) = behind_tokens(&fixture, true)?;
    let name = t.reference(format!("{}/private/r:v1", registry.address()));
    let right = login(t, &fixture, registry.address(), PASSWORD);
    assert!(right.code == 0, "{right:?}");
    let entry = fixture.configuration()?["auths"][registry.address()].clone();
    // What is kept is the token and not the password.
    assert!(entry["identitytoken"].is_string(), "{entry}");
    server.server().taken_lines();
    fixture.docker(t, &["pull", "-q", &name]).ok()?;
    let requests = server.server().requests();
    let exchange = requests.iter().find(|request| request.method == "POST").context("no exchange")?;
    let form = compat_tests::server::parameters(&String::from_utf8_lossy(&exchange.body));
    let value = |wanted: &str| form.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    assert_eq!(value("grant_type"), Some("refresh_token"));
    assert_eq!(value("scope"), Some("repository:private/r:pull"));
    assert_eq!(value("service"), Some(compat_tests::token::SERVICE));
    assert_eq!(value("client_id"), Some("docker"));
    Ok(())
}

/// `certs.d` of one registry in a directory that becomes `/etc/docker`.
fn certs_d(etc: &Path, registry: &str) -> Result<std::path::PathBuf> {
    let dir = etc.join("certs.d").join(registry);
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// A registry's storage that is filled already, in the daemon's own network.
fn filled(t: &Case<'_>, network: &Network) -> Result<(Registry, Packed)> {
    let open = Registry::start(network)?;
    let image = image(t, "private");
    open.put("some", "v1", &image)?;
    Ok((open, image))
}

fn certificates(t: &Case<'_>) -> Result<()> {
    let files = tempfile::tempdir()?;
    let (trusted, other) = (Authority::new("trusted")?, Authority::new("not trusted")?);
    let etc = files.path().join("etc");
    fs::write(certs_d(&etc, &format!("{OUTSIDE}:5000"))?.join("ca.crt"), trusted.pem())?;
    let private = Private::start(t.host(), &[], Some(&etc))?;
    let network = private.network()?;
    network.add_address(&format!("{OUTSIDE}/32"))?;
    let (open, image) = filled(t, &network)?;
    let at = |port: u16, authority: &Authority, name: &str, names: &[&str]| {
        let certificate = authority.server(files.path(), name, names)?;
        let options = Options { ip: OUTSIDE, port: Some(port), tls: Some(&certificate), ..Options::default() };
        open.beside(options)
    };
    let _good = at(5000, &trusted, "good", &[OUTSIDE])?;
    let name = format!("{OUTSIDE}:5000/some:v1");
    let pull = |name: &str| private.host().docker(&["pull", "-q", name], "");
    pull(&name).ok()?;
    let id = private.host().docker(&["image", "inspect", "-f", "{{.Id}}", &name], "").ok()?;
    assert_eq!(id, image.id());
    // `certs.d` is by address and port, so the authority is not trusted for the next one.
    let _elsewhere = at(5001, &trusted, "elsewhere", &[OUTSIDE])?;
    let refused = pull(&format!("{OUTSIDE}:5001/some:v1"));
    let text = format!(
        "Error response from daemon: Get \"https://{OUTSIDE}:5001/v2/\": tls: failed to verify certificate: x509: "
    );
    assert!(refused.code == 1 && refused.err.starts_with(&text), "{refused:?}");
    // Plain HTTP is for loopback and for those who are named.
    let _plain = open.beside(Options { ip: OUTSIDE, port: Some(5002), ..Options::default() })?;
    let refused = pull(&format!("{OUTSIDE}:5002/some:v1"));
    let text = format!("Get \"https://{OUTSIDE}:5002/v2/\": http: server gave HTTP response to HTTPS client");
    assert_eq!((refused.code, refused.err), (1, format!("Error response from daemon: {text}")));
    // On loopback a certificate is not looked at.
    let certificate = other.server(files.path(), "loopback", &["nowhere.test"])?;
    let loopback = open.beside(Options { tls: Some(&certificate), ..Options::default() })?;
    pull(&format!("{}/some:v1", loopback.address())).ok()?;
    Ok(())
}

fn client_certificate(t: &Case<'_>) -> Result<()> {
    let files = tempfile::tempdir()?;
    let authority = Authority::new("for both sides")?;
    let etc = files.path().join("etc");
    let (with, without) = (certs_d(&etc, &format!("{OUTSIDE}:5000"))?, certs_d(&etc, &format!("{OUTSIDE}:5001"))?);
    for dir in [&with, &without] {
        fs::write(dir.join("ca.crt"), authority.pem())?;
    }
    let client = authority.client(files.path(), "client")?;
    fs::copy(&client.certificate, with.join("client.cert"))?;
    fs::copy(&client.key, with.join("client.key"))?;
    let private = Private::start(t.host(), &[], Some(&etc))?;
    let network = private.network()?;
    network.add_address(&format!("{OUTSIDE}/32"))?;
    let (open, _) = filled(t, &network)?;
    let certificate = authority.server(files.path(), "server", &[OUTSIDE])?;
    let ca = files.path().join("ca.pem");
    fs::write(&ca, authority.pem())?;
    let options = Options { ip: OUTSIDE, tls: Some(&certificate), client_authority: Some(&ca), ..Options::default() };
    let _first = open.beside(Options { port: Some(5000), ..options })?;
    let _second = open.beside(Options { port: Some(5001), ..options })?;
    let pull = |port: u16| private.host().docker(&["pull", "-q", &format!("{OUTSIDE}:{port}/some:v1")], "");
    pull(5000).ok()?;
    let refused = pull(5001);
    assert!(refused.code == 1 && refused.err.contains("certificate"), "{refused:?}");
    // A certificate without its key is a mistake that is told.
    fs::remove_file(with.join("client.key"))?;
    let private = Private::start(t.host(), &[], Some(&etc))?;
    let refused = private.host().docker(&["pull", "-q", &format!("{OUTSIDE}:5000/some:v1")], "");
    let text = "missing key client.key for client certificate client.cert. CA certificates must use the extension .crt";
    assert!(refused.code == 1 && refused.err.contains(text), "{refused:?}");
    Ok(())
}

fn insecure_registries(t: &Case<'_>) -> Result<()> {
    let flags = ["--insecure-registry", &format!("{OUTSIDE}:5000"), "--insecure-registry", "198.51.100.0/24"];
    let private = Private::start(t.host(), &flags, None)?;
    let network = private.network()?;
    for address in [OUTSIDE, "198.51.100.7"] {
        network.add_address(&format!("{address}/32"))?;
    }
    let (open, _) = filled(t, &network)?;
    let files = tempfile::tempdir()?;
    let certificate = Authority::new("nobody knows")?.server(files.path(), "server", &["nowhere.test"])?;
    let plain = Options { ip: OUTSIDE, port: Some(5000), ..Options::default() };
    let _plain = open.beside(plain)?;
    let _other = open.beside(Options { port: Some(5001), ..plain })?;
    let _tls =
        open.beside(Options { ip: "198.51.100.7", port: Some(5000), tls: Some(&certificate), ..Options::default() })?;
    let pull = |name: &str| private.host().docker(&["pull", "-q", name], "");
    pull(&format!("{OUTSIDE}:5000/some:v1")).ok()?;
    pull("198.51.100.7:5000/some:v1").ok()?;
    let refused = pull(&format!("{OUTSIDE}:5001/some:v1"));
    assert!(refused.code == 1 && refused.err.contains("server gave HTTP response to HTTPS client"), "{refused:?}");
    let info = private.host().http("GET", "/info")?.json()?["RegistryConfig"].clone();
    assert_eq!(info["IndexConfigs"][format!("{OUTSIDE}:5000")]["Secure"], false);
    assert_eq!(info["InsecureRegistryCIDRs"], json!(["198.51.100.0/24", "::1/128", "127.0.0.0/8"]), "{info}");
    Ok(())
}

fn mirrors(t: &Case<'_>) -> Result<()> {
    let flags = ["--registry-mirror", "http://127.0.0.1:1", "--registry-mirror", "http://127.0.0.1:5000"];
    let private = Private::start(t.host(), &flags, None)?;
    let network = private.network()?;
    let mirror = Hostile::at(&network, "127.0.0.1:5000", |_, _| None)?;
    let image = image(t, "mirrored");
    mirror.put("library/some", "v1", &image);
    let host = private.host();
    // The first one is down, the second has it; the image has the name it was asked by.
    let pulled = host.docker(&["pull", "some:v1"], "").ok()?;
    let end = format!(
        "Digest: {}\nStatus: Downloaded newer image for some:v1\ndocker.io/library/some:v1",
        image.manifest.digest
    );
    assert!(pulled.starts_with("v1: Pulling from library/some\n") && pulled.ends_with(&end), "{pulled}");
    let names = host.docker(&["image", "inspect", "-f", "{{.RepoTags}} {{.RepoDigests}}", "some:v1"], "").ok()?;
    assert_eq!(names, format!("[some:v1] [some@{}]", image.manifest.digest));
    // What no mirror has is looked for where it is from, which cannot be reached here.
    let absent = host.docker(&["pull", "absent:v1"], "");
    assert!(absent.code == 1 && absent.err.contains("registry-1.docker.io"), "{absent:?}");
    assert!(mirror.server().taken_lines().iter().any(|line| line.contains("/v2/library/absent/manifests/v1")));
    // Mirrors are for Docker's own registry.
    let other = Registry::start(&network)?;
    let name = other.put("library/some", "v2", &image)?;
    host.docker(&["pull", "-q", &name], "").ok()?;
    assert!(!mirror.server().taken_lines().iter().any(|line| line.contains("v2/library/some")));
    // Nothing is pushed to one.
    host.docker(&["tag", "some:v1", "mine:v1"], "").ok()?;
    let pushed = host.docker(&["push", "mine:v1"], "");
    assert!(pushed.code == 1 && mirror.server().taken_lines().is_empty(), "{pushed:?}");
    let info = host.http("GET", "/info")?.json()?["RegistryConfig"]["Mirrors"].clone();
    assert_eq!(info, json!(["http://127.0.0.1:1/", "http://127.0.0.1:5000/"]));
    Ok(())
}

fn layers_at_once(t: &Case<'_>) -> Result<()> {
    let private = Private::start(t.host(), &["--max-concurrent-downloads=2", "--max-concurrent-uploads=1"], None)?;
    let network = private.network()?;
    let gate = Gate::default();
    let held = gate.clone();
    let image = Image::of_layers(Family::Docker, t.prefix(), 5).packed();
    let blobs = image.layers.clone();
    let registry = Hostile::start(&network, move |request, _| {
        let blob = blobs.iter().find(|blob| request.method == "GET" && request.path.ends_with(&blob.digest))?;
        Some(Answer::new(200, "").body(Body::Held { bytes: blob.bytes.clone(), before: 1, gate: held.clone() }))
    })?;
    let name = registry.put("many", "v1", &image);
    let asked = |count: usize| {
        let all: usize = image.layers.iter().map(|layer| registry.asked_for(layer).len()).sum();
        all == count
    };
    let progress = std::thread::scope(|scope| {
        let pull = scope.spawn(|| Progress::of_pull(private.host(), untagged(&name), "v1"));
        let begun = gate.wait_for(2).and_then(|()| until("two requests", || asked(2)));
        gate.open();
        let progress = pull.join().expect("no panic");
        begun.and(progress)
    })?;
    let shorts = registries::shorts(&image);
    progress.check_pull(&shorts)?;
    assert_eq!((gate.most(), asked(5)), (2, true));
    // Those that had to wait said so.
    assert!(progress.order_of("Waiting").len() >= 3, "{progress:?}");
    let uploads = Gate::default();
    let held = uploads.clone();
    let target = Hostile::start(&network, move |request, _| {
        let is_begin = request.method == "POST" && request.path.ends_with("/uploads/");
        let body = Body::Held { bytes: b"xx".to_vec(), before: 1, gate: held.clone() };
        // Not begun, so that the push ends.
        is_begin.then(|| Answer::new(403, "").body(body))
    })?;
    let away = format!("{}/away:v1", target.address());
    private.host().docker(&["tag", &name, &away], "").ok()?;
    let progress = std::thread::scope(|scope| {
        let push = scope.spawn(|| Progress::of_push(private.host(), untagged(&away), "v1"));
        let begun = uploads.wait_for(1);
        uploads.open();
        let progress = push.join().expect("no panic");
        begun.and(progress)
    })?;
    assert_eq!(uploads.most(), 1);
    assert!(!progress.error().is_empty() && !progress.order_of("Waiting").is_empty(), "{progress:?}");
    Ok(())
}
