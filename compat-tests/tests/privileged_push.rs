//! `docker push`: what it prints and answers, what it asks of a registry, and what a registry then has. The stock daemon
//! compresses layers anew and writes Docker manifests; a daemon that gives back what it pulled byte for byte is as good, so
//! digests are compared where both must agree: with what the registry has, and between two pushes.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::check::until;
use compat_tests::golden::Golden;
use compat_tests::hostile::{self, Hostile};
use compat_tests::network::Network;
use compat_tests::progress::Progress;
use compat_tests::seed::{self, Family, Form, Image, Layer, Packed};
use compat_tests::server::{Answer, Body, Gate};
use compat_tests::{Case, Suite, http, tests};
use serde_json::{Map, Value, json};

mod registries;

use registries::{Fixture, diff_shorts, untagged};

fn main() -> ExitCode {
    Suite {
        name: "push",
        flags: &[],
        tests: tests![
            new_image,
            again,
            into_another_repository,
            all_tags,
            what_the_registry_then_has,
            back_as_it_was_pulled,
            unknown_images,
            refused_at_once,
            what_is_asked,
            committed_image,
            registry_refuses,
            the_client_goes,
            events,
        ],
    }
    .main()
}

/// An image of `count` layers that is only at the daemon: pulled from a registry that is gone.
fn local(t: &Case<'_>, count: usize, what: &str) -> Result<Packed> {
    let image = Image::of_layers(Family::Docker, &format!("{} {what}", t.prefix()), count).packed();
    let network = Network::of(t.host())?;
    let registry = Hostile::tame(&network)?;
    let name = t.reference(registry.put("source", "v1", &image));
    t.docker(&["pull", "-q", &name]).ok()?;
    t.docker(&["tag", &name, &t.tag(what)]).ok()?;
    t.docker(&["rmi", &name]).ok()?;
    Ok(image)
}

/// Gives the image `what` a name at the registry.
fn named(t: &Case<'_>, fixture: &Fixture, what: &str, name: &str) -> Result<String> {
    let name = t.reference(format!("{}/{name}", fixture.registry.address()));
    t.docker(&["tag", &format!("{}-{what}:tag", t.prefix()), &name]).ok()?;
    Ok(name)
}

/// The digest and size a push told, from its last line and from `aux`, which must agree.
fn told(progress: &Progress, tag: &str) -> Result<(String, u64)> {
    let (line, aux) = match &progress.documents[..] {
        [.., line, aux] => (line, &aux["aux"]),
        _ => anyhow::bail!("{progress:?}"),
    };
    let (digest, size) = (aux["Digest"].as_str().context("a digest")?, aux["Size"].as_u64().context("a size")?);
    ensure!(aux["Tag"] == tag && line["status"] == format!("{tag}: digest: {digest} size: {size}"), "{progress:?}");
    Ok((digest.to_owned(), size))
}

fn new_image(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = local(t, 3, "new")?;
    let name = named(t, &fixture, "new", "fresh/new:v1")?;
    let progress = Progress::of_push(t.host(), untagged(&name), "v1")?;
    progress.check_push(&diff_shorts(&image), &["Pushed"])?;
    let refers = format!("The push refers to repository [{}]", untagged(&name));
    let (digest, size) = told(&progress, "v1")?;
    let end = format!("v1: digest: {digest} size: {size}");
    assert_eq!(progress.lines(&diff_shorts(&image)), [refers.clone(), end.clone()]);
    let kept = fixture.registry.manifest("fresh/new", "v1")?;
    assert_eq!((kept.digest, kept.bytes.len() as u64), (digest.clone(), size));
    // The image is known by that digest from now on.
    let names = t.docker(&["image", "inspect", "-f", "{{json .RepoDigests}}", &name]).ok()?;
    assert_eq!(names, format!("[\"{}@{digest}\"]", untagged(&name)));
    // By the CLI, to another place.
    let other = named(t, &fixture, "new", "fresh/cli:v2")?;
    let pushed = t.docker(&["push", &other]).ok()?;
    let lines: Vec<&str> = pushed.lines().collect();
    assert_eq!(lines[0], format!("The push refers to repository [{}]", untagged(&other)));
    assert_eq!(lines[lines.len() - 1], format!("v2: digest: {digest} size: {size}"));
    assert_eq!(t.docker(&["push", "-q", &other]).ok()?, other);
    Ok(())
}

fn again(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = local(t, 2, "again")?;
    let name = named(t, &fixture, "again", "again:v1")?;
    let first = Progress::of_push(t.host(), untagged(&name), "v1")?;
    let second = Progress::of_push(t.host(), untagged(&name), "v1")?;
    second.check_push(&diff_shorts(&image), &["Layer already exists"])?;
    assert_eq!(told(&first, "v1")?, told(&second, "v1")?);
    // As part of the name, the tag means the same.
    let third = Progress::of(t.host(), &format!("/images/{name}/push"), Some("e30="))?;
    assert_eq!(told(&third, "v1")?, told(&first, "v1")?);
    // Without credentials, and with some that cannot be read, it goes on as nobody.
    for credentials in [None, Some("%%%"), Some("bm90anNvbg==")] {
        let path = format!("/images/{}/push?tag=v1", untagged(&name));
        let progress = Progress::of(t.host(), &path, credentials)?;
        assert_eq!(told(&progress, "v1")?, told(&first, "v1")?);
    }
    Ok(())
}

fn into_another_repository(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = local(t, 2, "mounted")?;
    let first = named(t, &fixture, "mounted", "from/here:v1")?;
    let first = Progress::of_push(t.host(), untagged(&first), "v1")?;
    let second = named(t, &fixture, "mounted", "to/there:v1")?;
    let second = Progress::of_push(t.host(), untagged(&second), "v1")?;
    second.check_push(&diff_shorts(&image), &["Mounted from from/here"])?;
    assert_eq!(told(&first, "v1")?, told(&second, "v1")?);
    let kept = fixture.registry.manifest("to/there", "v1")?;
    for layer in serde_json::from_slice::<Value>(&kept.bytes)?["layers"].as_array().context("layers")? {
        fixture.registry.blob("to/there", layer["digest"].as_str().context("a digest")?)?;
    }
    Ok(())
}

fn all_tags(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    local(t, 1, "one")?;
    local(t, 2, "two")?;
    let one = named(t, &fixture, "one", "all:one")?;
    named(t, &fixture, "two", "all:two")?;
    let repository = untagged(&one);
    let pushed = t.docker(&["push", "-a", repository]).ok()?;
    let outside: Vec<&str> =
        pushed.lines().filter(|line| line.split(':').next().is_none_or(|id| id.len() != 12)).collect();
    let line = |tag: &str| {
        let kept = fixture.registry.manifest("all", tag)?;
        Ok::<_, anyhow::Error>(format!("{tag}: digest: {} size: {}", kept.digest, kept.bytes.len()))
    };
    assert_eq!(outside, [format!("The push refers to repository [{repository}]"), line("one")?, line("two")?]);
    let refused = t.docker(&["push", "-a", &one]);
    assert_eq!((refused.code, refused.err.as_str()), (1, "tag can't be used with --all-tags/-a"));
    Ok(())
}

fn what_the_registry_then_has(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let image = local(t, 2, "kept")?;
    let name = named(t, &fixture, "kept", "kept:v1")?;
    t.docker(&["push", "-q", &name]).ok()?;
    let manifest: Value = serde_json::from_slice(&fixture.registry.manifest("kept", "v1")?.bytes)?;
    assert_eq!(manifest["schemaVersion"], 2);
    assert_eq!(manifest["config"]["digest"], image.id());
    let config = fixture.registry.blob("kept", image.id())?;
    assert_eq!(
        (config.len() as u64, &config),
        (manifest["config"]["size"].as_u64().context("a size")?, &image.config.bytes)
    );
    for (layer, diff_id) in manifest["layers"].as_array().context("layers")?.iter().zip(&image.diff_ids) {
        let bytes = fixture.registry.blob("kept", layer["digest"].as_str().context("a digest")?)?;
        assert_eq!(layer["size"], bytes.len());
        let mut tar = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut tar)?;
        assert_eq!(seed::digest(&tar), *diff_id);
    }
    // Pulled and pushed again, it is the same to the byte.
    let before = fixture.registry.manifest("kept", "v1")?;
    t.docker(&["rmi", "-f", image.id()]).ok()?;
    t.docker(&["pull", "-q", &name]).ok()?;
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?, image.id());
    let again = t.reference(format!("{}:v2", untagged(&name)));
    t.docker(&["tag", &name, &again]).ok()?;
    t.docker(&["push", "-q", &again]).ok()?;
    assert_eq!(fixture.registry.manifest("kept", "v2")?, before);
    Ok(())
}

/// An OCI image with zstd layers has no Docker manifest that says the same, so a daemon that always writes one changes its
/// digest; what must hold is that the registry has what the daemon told, and that the image's id stays.
fn back_as_it_was_pulled(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let layer = |what: &str, form: Form| Layer::file("f", format!("{} {what}", t.prefix()).as_bytes()).form(form);
    let oci = Image::new(Family::Oci, t.prefix(), vec![layer("a", Form::Gzip), layer("b", Form::Zstd)]).packed();
    let docker = Image::new(Family::Docker, t.prefix(), vec![layer("a", Form::Gzip), layer("c", Form::Plain)]).packed();
    for (what, image) in [("oci", &oci), ("docker", &docker)] {
        let name = t.reference(fixture.registry.put(what, "v1", image)?);
        t.docker(&["pull", "-q", &name]).ok()?;
        // The same repository: every layer is known to be there.
        let progress = Progress::of_push(t.host(), untagged(&name), "v1")?;
        progress.check_push(&diff_shorts(image), &["Layer already exists"])?;
        let (digest, size) = told(&progress, "v1")?;
        let kept = fixture.registry.manifest(what, "v1")?;
        assert_eq!((kept.digest.clone(), kept.bytes.len() as u64), (digest.clone(), size));
        let manifest: Value = serde_json::from_slice(&kept.bytes)?;
        assert_eq!(manifest["config"]["digest"], *image.id());
        for (kept, layer) in manifest["layers"].as_array().context("layers")?.iter().zip(&image.layers) {
            // What is there is used as it is, not compressed anew.
            assert_eq!(kept["digest"], layer.digest);
        }
        // To a registry that has nothing of it.
        let elsewhere = Hostile::tame(&fixture.network)?;
        let away = t.reference(format!("{}/away:v1", elsewhere.address()));
        t.docker(&["tag", &name, &away]).ok()?;
        let progress = Progress::of_push(t.host(), untagged(&away), "v1")?;
        progress.check_push(&diff_shorts(image), &["Pushed"])?;
        let (digest, _) = told(&progress, "v1")?;
        assert_eq!(elsewhere.manifest("away", "v1").context("a manifest")?.digest, digest);
        t.docker(&["rmi", "-f", image.id()]).ok()?;
        t.docker(&["pull", "-q", &away]).ok()?;
        assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", &away]).ok()?, image.id());
    }
    Ok(())
}

fn unknown_images(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    local(t, 1, "known")?;
    let known = named(t, &fixture, "known", "known:v1")?;
    let base = fixture.registry.address();
    for (name, tag, text) in [
        (format!("{base}/nope"), "v1", format!("An image does not exist locally with the tag: {base}/nope")),
        (untagged(&known).to_owned(), "v2", format!("tag does not exist: {}:v2", untagged(&known))),
    ] {
        let progress = Progress::of_push(t.host(), &name, tag)?;
        let refers = json!({"status": format!("The push refers to repository [{name}]")});
        let error = json!({"errorDetail": {"message": text}, "error": text});
        assert_eq!((progress.status, progress.documents), (200, vec![refers, error]));
        let pushed = t.docker(&["push", &format!("{name}:{tag}")]);
        assert_eq!((pushed.code, pushed.err), (1, text));
    }
    let all = t.docker(&["push", "-a", &format!("{base}/nope")]);
    assert_eq!((all.code, all.err), (1, format!("An image does not exist locally with the tag: {base}/nope")));
    let latest = t.docker(&["push", untagged(&known)]);
    assert!(latest.out.starts_with("Using default tag: latest\n"), "{latest:?}");
    assert_eq!((latest.code, latest.err), (1, format!("tag does not exist: {}:latest", untagged(&known))));
    let docker_io = t.docker(&["push", &format!("{}-absent", t.prefix())]);
    let refers = format!("The push refers to repository [docker.io/library/{}-absent]", t.prefix());
    assert!(docker_io.code == 1 && docker_io.out.ends_with(&refers), "{docker_io:?}");
    assert_eq!(docker_io.err, format!("An image does not exist locally with the tag: {}-absent", t.prefix()));
    Ok(())
}

fn refused_at_once(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    local(t, 1, "some")?;
    let name = named(t, &fixture, "some", "some:v1")?;
    let base = fixture.registry.address();
    let mut all = Map::new();
    for (what, path) in [
        ("upper case", format!("/images/{base}/UPPER/push?tag=v1")),
        ("bad tag", format!("/images/{}/push?tag=bad!tag", untagged(&name))),
        ("bad platform", format!("/images/{}/push?tag=v1&platform=x", untagged(&name))),
        ("by digest", format!("/images/{}@sha256:{}/push", untagged(&name), "0".repeat(64))),
        ("by id", format!("/images/sha256:{}/push", "0".repeat(64))),
    ] {
        let progress = Progress::of(t.host(), &path, Some("e30="))?;
        all.insert(what.to_owned(), json!({"status": progress.status, "documents": progress.documents}));
    }
    Golden::new(t).replacing(base, "<registry>").check(t, "push-refused", &Value::Object(all))
}

fn what_is_asked(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let registry = Hostile::tame(&network)?;
    local(t, 1, "asked")?;
    let name = t.reference(format!("{}/a/first:v1", registry.address()));
    t.docker(&["tag", &format!("{}-asked:tag", t.prefix()), &name]).ok()?;
    t.docker(&["push", "-q", &name]).ok()?;
    let lines = registry.server().taken_lines();
    let manifest: Value = serde_json::from_slice(&registry.manifest("a/first", "v1").context("a manifest")?.bytes)?;
    let layer = manifest["layers"][0]["digest"].as_str().context("a digest")?.to_owned();
    let config = manifest["config"]["digest"].as_str().context("a digest")?.to_owned();
    // Each blob is uploaded once, after it was asked whether it is there; the manifest comes last.
    for digest in [&layer, &config] {
        let ends = lines.iter().filter(|line| line.starts_with("PUT /v2/a/first/blobs/uploads/"));
        let ends = ends.filter(|line| line.contains(&digest["sha256:".len()..])).count();
        assert_eq!(ends, 1, "{lines:?}");
    }
    assert_eq!(lines.last().map(String::as_str), Some("PUT /v2/a/first/manifests/v1"));
    // What is known to be there is looked up and not sent.
    t.docker(&["push", "-q", &name]).ok()?;
    let lines = registry.server().taken_lines();
    assert!(lines.iter().any(|line| *line == format!("HEAD /v2/a/first/blobs/{layer}")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("uploads")), "{lines:?}");
    // It is mounted where another repository of the same registry has it.
    let other = t.reference(format!("{}/b/second:v1", registry.address()));
    t.docker(&["tag", &name, &other]).ok()?;
    t.docker(&["push", "-q", &other]).ok()?;
    let lines = registry.server().taken_lines();
    let mount = lines.iter().find(|line| line.starts_with("POST /v2/b/second/blobs/uploads/?"));
    let mount = mount.context("no mount")?;
    let query = mount.split_once('?').map_or("", |(_, query)| query);
    let mut parameters = compat_tests::server::parameters(query);
    parameters.sort();
    assert_eq!(parameters, [("from".to_owned(), "a/first".to_owned()), ("mount".to_owned(), layer)]);
    Ok(())
}

/// A layer that no registry has given: made here.
fn committed_image(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    let container =
        t.start("made", &[], &["sh", "-c", "echo made here > /made; ln -s made /link; mkdir -m 700 /dir"])?;
    t.docker(&["wait", &container]).ok()?;
    let name = t.reference(format!("{}/made:v1", fixture.registry.address()));
    let id = t.docker(&["commit", &container, &name]).ok()?;
    t.docker(&["push", "-q", &name]).ok()?;
    t.docker(&["rm", &container]).ok()?;
    t.docker(&["rmi", &name]).ok()?;
    t.docker(&["pull", "-q", &name]).ok()?;
    assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?, id);
    let script = "cat /made /link; stat -c %a /dir";
    let ran = t.docker(&["run", "--rm", "--network", "none", &name, "sh", "-c", script]).ok()?;
    assert_eq!(ran, "made here\nmade here\n700");
    Ok(())
}

fn registry_refuses(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    local(t, 1, "refused")?;
    let mut all = Map::new();
    for (what, method, path) in [
        ("upload", "POST", "/blobs/uploads/"),
        ("bytes", "PATCH", "/blobs/uploads/"),
        ("end", "PUT", "/blobs/uploads/"),
        ("manifest", "PUT", "/manifests/"),
    ] {
        let refusal = move |status: u16, code: &'static str| {
            move |request: &compat_tests::server::Request, _| {
                // Bytes may also come with the request that ends the upload.
                let is_method = request.method == method || what == "bytes" && request.method == "PUT";
                let is_meant = is_method && request.path.contains(path);
                is_meant.then(|| hostile::error(status, code, "told by the registry"))
            }
        };
        let registry = Hostile::start(&network, refusal(403, "DENIED"))?;
        let name = t.reference(format!("{}/refused:v1", registry.address()));
        t.docker(&["tag", &format!("{}-refused:tag", t.prefix()), &name]).ok()?;
        let progress = Progress::of_push(t.host(), untagged(&name), "v1")?;
        all.insert(what.to_owned(), json!({"status": progress.status, "error": progress.error()}));
        let pushed = t.docker(&["push", "-q", &name]);
        assert_eq!((pushed.code, pushed.err.as_str()), (1, progress.error()), "{what}");
    }
    Golden::new(t).check(t, "push-denied", &Value::Object(all))
}

fn the_client_goes(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let gate = Gate::default();
    let held = gate.clone();
    local(t, 1, "gone")?;
    // The answer to the beginning of an upload does not end.
    let registry = Hostile::start(&network, move |request, before| {
        let is_first = request.method == "POST" && before == 0;
        let body = Body::Endless { bytes: b"x".to_vec(), gate: held.clone() };
        is_first.then(|| Answer::new(500, "").body(body))
    })?;
    let name = t.reference(format!("{}/gone:v1", registry.address()));
    t.docker(&["tag", &format!("{}-gone:tag", t.prefix()), &name]).ok()?;
    let path = format!("/images/{}/push?tag=v1", untagged(&name));
    let push = http::open(&t.host().socket, "POST", &path, &[("X-Registry-Auth", "e30=")], b"")?;
    gate.wait_for(1)?;
    drop(push);
    gate.wait_for_given_up(1)?;
    assert!(registry.manifest("gone", "v1").is_none());
    t.docker(&["push", "-q", &name]).ok()?;
    until("the manifest", || registry.manifest("gone", "v1").is_some())
}

fn events(t: &Case<'_>) -> Result<()> {
    let fixture = Fixture::new(t)?;
    local(t, 1, "events")?;
    let name = named(t, &fixture, "events", "events:v1")?;
    let begin = t.now();
    t.docker(&["push", "-q", &name]).ok()?;
    let until = t.now();
    let format = "{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}";
    let filter = format!("label=test={} events", t.prefix());
    let seen = ["events", "--since", &begin, "--until", &until, "--filter", &filter, "--format", format];
    assert_eq!(t.docker(&seen).ok()?, format!("image push {name} {}", untagged(&name)));
    Ok(())
}
