//! `docker import URL`: the file comes from a web server, whatever that server does.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use compat_tests::check::until;
use compat_tests::network::Network;
use compat_tests::progress::Progress;
use compat_tests::seed::{self, noise, tar_of};
use compat_tests::server::{Answer, Body, Gate, Request, Server};
use compat_tests::{Case, Suite, http, tests};
use serde_json::json;

mod registries;

use registries::stored;

fn main() -> ExitCode {
    Suite {
        name: "import_url",
        flags: &[],
        tests: tests![imports, by_the_cli, refusals, addresses, options, broken_bodies, slow_body, client_gone],
    }
    .main()
}

/// A web server on the daemon's network.
fn serve(t: &Case<'_>, handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Result<Server> {
    Server::start(Network::of(t.host())?.listen("127.0.0.1:0")?, Box::new(handler))
}

/// `POST /images/create` for a URL, with more of a query.
fn import(t: &Case<'_>, url: &str, more: &str) -> Result<Progress> {
    let url: String = url.bytes().map(|byte| format!("%{byte:02X}")).collect();
    Progress::of(t.host(), &format!("/images/create?fromSrc={url}{more}"), None)
}

/// The query that names the image, and the name.
fn named(t: &Case<'_>, what: &str) -> (String, String) {
    let name = t.tag(what);
    (format!("&repo={}&tag=tag", name.trim_end_matches(":tag")), name)
}

fn imports(t: &Case<'_>) -> Result<()> {
    let tar = tar_of(&[("file", &noise(t.prefix(), 200_000))]);
    let (plain, packed) = (tar.clone(), zstd::encode_all(&tar[..], 3)?);
    let server = serve(t, move |request| match request.path.as_str() {
        "/plain.tar" => Answer::new(200, plain.clone()),
        "/packed" => Answer::new(200, packed.clone()),
        "/moved" => Answer::new(302, "").header("Location", "/packed"),
        "/moved/far" => Answer::new(307, "").header("Location", &format!("http://{}/moved", request.header("host"))),
        _ => Answer::new(404, "what?"),
    })?;
    for path in ["plain.tar", "packed", "moved", "moved/far"] {
        let (query, name) = named(t, &path.replace('/', "-"));
        let url = format!("http://{}/{path}", server.address());
        let progress = import(t, &url, &query)?;
        let first = progress.documents.first().context("a document")?;
        ensure!(*first == json!({"status": format!("Downloading from {url}")}), "{first}");
        let id = t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?;
        ensure!(progress.documents.last() == Some(&json!({"status": id})), "{progress:?}");
        let bars = progress.documents.iter().filter(|document| document["status"] == "Importing");
        let bars: Vec<_> = bars.collect();
        ensure!(!bars.is_empty(), "{progress:?}");
        for bar in bars {
            let (current, total) = (&bar["progressDetail"]["current"], &bar["progressDetail"]["total"]);
            ensure!(current.as_u64() <= total.as_u64() && bar["progress"].is_string() && bar["id"].is_null(), "{bar}");
        }
        let seen = t.docker(&["image", "inspect", "-f", "{{.Comment}} {{.RootFS.Layers}}", &name]).ok()?;
        ensure!(seen == format!("Imported from {url} [{}]", seed::digest(&tar)), "{seen}");
    }
    // Without a scheme http is meant.
    let (query, name) = named(t, "bare");
    let bare = format!("{}/packed", server.address());
    let progress = import(t, &bare, &query)?;
    ensure!(progress.documents[0]["status"] == format!("Downloading from http://{bare}"), "{progress:?}");
    let seen = t.docker(&["image", "inspect", "-f", "{{.Comment}}", &name]).ok()?;
    ensure!(seen == format!("Imported from {bare}"), "{seen}");
    Ok(())
}

fn by_the_cli(t: &Case<'_>) -> Result<()> {
    let tar = tar_of(&[("file", t.prefix().as_bytes())]);
    let server = serve(t, move |_| Answer::new(200, tar.clone()).body(Body::Whole(tar.clone())))?;
    let (url, name) = (format!("http://{}/root.tar", server.address()), t.tag("cli"));
    let ran = t.docker(&["import", "--change", "CMD [\"x\"]", "--message", "why", &url, &name]);
    let id = t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?;
    ensure!(ran.code == 0 && ran.out.lines().last() == Some(&*id), "{ran:?}");
    ensure!(ran.out.lines().next() == Some(&*format!("Downloading from {url}")), "{ran:?}");
    let seen = t.docker(&["image", "inspect", "-f", "{{.Comment}} {{.Config.Cmd}}", &name]).ok()?;
    ensure!(seen == "why [x]", "{seen}");
    let asked = server.requests();
    ensure!(asked.len() == 1 && asked[0].line() == "GET /root.tar", "{asked:?}");
    Ok(())
}

fn refusals(t: &Case<'_>) -> Result<()> {
    let server = serve(t, |request| {
        let code = request.path.trim_start_matches('/').parse();
        code.map_or_else(
            |_| Answer::new(302, "").header("Location", "/loop"),
            |code| Answer::new(code, " the words \n"),
        )
    })?;
    for (code, status) in [(400, 400), (401, 401), (403, 403), (404, 404), (409, 500), (500, 500), (503, 500)] {
        let url = format!("http://{}/{code}", server.address());
        let progress = import(t, &url, "")?;
        let expected = format!("failed to GET {url} with status {code} Status: the words");
        ensure!(progress.status == status && progress.error() == expected, "{progress:?}");
    }
    let progress = import(t, &format!("http://{}/loop", server.address()), "")?;
    ensure!(progress.status == 500 && progress.error().ends_with(": stopped after 10 redirects"), "{progress:?}");
    Ok(())
}

fn addresses(t: &Case<'_>) -> Result<()> {
    for (url, status, words) in [
        ("", 500, r#"Get "http:": http: no Host in request URL"#),
        ("http:///x", 500, r#"Get "http:///x": http: no Host in request URL"#),
        ("ftp://x/y", 500, r#"Get "ftp://x/y": unsupported protocol scheme "ftp""#),
        ("http://a b/x", 400, r#"parse "http://a b/x": invalid character " " in host name"#),
        (
            "http://127.0.0.1:1/x",
            500,
            r#"Get "http://127.0.0.1:1/x": dial tcp 127.0.0.1:1: connect: connection refused"#,
        ),
        // The password is not told.
        (
            "http://u:secret@127.0.0.1:1/",
            500,
            r#"Get "http://u:***@127.0.0.1:1/": dial tcp 127.0.0.1:1: connect: connection refused"#,
        ),
    ] {
        let progress = import(t, url, "")?;
        ensure!((progress.status, progress.error()) == (status, words), "{url}: {progress:?}");
    }
    // A user in the URL is for its server.
    let server = serve(t, |request| match request.header("authorization") {
        "Basic dTpzZWNyZXQ=" => Answer::new(200, tar_of(&[("a", b"a")])),
        _ => Answer::new(401, "who?"),
    })?;
    let (query, name) = named(t, "user");
    let progress = import(t, &format!("http://u:secret@{}/", server.address()), &query)?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    t.docker(&["image", "inspect", &name]).ok()?;
    Ok(())
}

fn options(t: &Case<'_>) -> Result<()> {
    let server = serve(t, |_| Answer::new(200, tar_of(&[("a", b"a")])))?;
    let url = format!("http://{}/a.tar", server.address());
    let (query, name) = named(t, "all");
    let progress = import(t, &url, &format!("{query}&platform=linux/arm64&changes=USER%20me&message=hello"))?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    let seen = t.docker(&["image", "inspect", "-f", "{{.Comment}} {{.Architecture}} {{.Config.User}}", &name]).ok()?;
    ensure!(seen == "hello arm64 me", "{seen}");
    // What is wrong with the request is told before the server is asked ...
    let asked = server.requests().len();
    for (more, words) in [
        ("&repo=UPPER", "invalid reference format: repository name (library/UPPER) must be lowercase"),
        ("&platform=foo", r#""foo": unknown operating system or architecture: invalid argument"#),
    ] {
        let progress = import(t, &url, more)?;
        ensure!((progress.status, progress.error()) == (400, words), "{progress:?}");
    }
    ensure!(server.requests().len() == asked, "{:?}", server.taken_lines());
    // ... what cannot be made of the file, afterwards.
    for (more, words) in [
        ("&changes=NOPE%20x", "NOPE is not a valid change command"),
        ("&platform=windows/amd64", "operating system is not supported"),
    ] {
        let progress = import(t, &url, more)?;
        let told = progress.documents.iter().find_map(|document| document["error"].as_str());
        ensure!(progress.status == 200 && told == Some(words), "{progress:?}");
        ensure!(progress.documents[0]["status"] == format!("Downloading from {url}"), "{progress:?}");
    }
    Ok(())
}

fn broken_bodies(t: &Case<'_>) -> Result<()> {
    let tar = tar_of(&[("file", &noise(t.prefix(), 300_000))]);
    let server = serve(t, move |request| match request.path.as_str() {
        "/cut" => Answer::new(200, "").body(Body::Truncated { sent: tar[..200_000].to_vec(), length: tar.len() }),
        // Where an archive might end.
        "/cut/early" => Answer::new(200, "").body(Body::Truncated { sent: Vec::new(), length: tar.len() }),
        _ => Answer::new(200, noise("junk", 100_000)),
    })?;
    for (path, words) in [("/cut", "unexpected EOF"), ("/cut/early", "unexpected EOF"), ("/junk", "")] {
        let (query, name) = named(t, &path.replace('/', "-"));
        let progress = import(t, &format!("http://{}{path}", server.address()), &query)?;
        let told = progress.documents.iter().find_map(|document| document["error"].as_str()).context("an error")?;
        ensure!(progress.status == 200 && told.contains(words), "{path}: {progress:?}");
        ensure!(t.docker(&["image", "inspect", &name]).code == 1, "{path} has made an image");
    }
    Ok(())
}

/// A slow server is put up with.
fn slow_body(t: &Case<'_>) -> Result<()> {
    let tar = tar_of(&[("file", &noise(t.prefix(), 20_000))]);
    let digest = seed::digest(&tar);
    let server = serve(t, move |_| {
        let pause = Duration::from_millis(20);
        Answer::new(200, "").body(Body::Slow { bytes: tar.clone(), piece: 512, pause })
    })?;
    let (query, name) = named(t, "slow");
    let progress = import(t, &format!("http://{}/", server.address()), &query)?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    let seen = t.docker(&["image", "inspect", "-f", "{{.RootFS.Layers}}", &name]).ok()?;
    ensure!(seen == format!("[{digest}]"), "{seen}");
    Ok(())
}

/// A client that goes while the file comes. Ours gives the import up; stock goes on with it.
fn client_gone(t: &Case<'_>) -> Result<()> {
    let (tar, gate) = (tar_of(&[("file", &noise(t.prefix(), 300_000))]), Gate::default());
    let held = Body::Held { bytes: tar, before: 100_000, gate: gate.clone() };
    let server = serve(t, move |_| Answer::new(200, "").body(held.clone()))?;
    let (query, name) = named(t, "gone");
    let before = stored(t.host())?;
    let path = format!("/images/create?fromSrc=http://{}/{query}", server.address());
    let open = http::open(&t.host().socket, "POST", &path, &[], b"")?;
    gate.wait_for(1)?;
    drop(open);
    if t.is_ours() {
        gate.wait_for_given_up(1)?;
        until("the end of the import", || stored(t.host()).is_ok_and(|now| now < before + 50_000))?;
        ensure!(t.docker(&["image", "inspect", &name]).code == 1, "an image is left");
    } else {
        gate.open();
        t.wait_until(&["image", "inspect", &name], |ran| ran.code == 0)?;
    }
    Ok(())
}
