//! Registries that lie, break off or never end. Whatever they do, the client is told, nothing of the image is left, and the
//! same name can be pulled once the registry behaves. The daemon tries once (`--max-download-attempts=1`), except where
//! trying again is what is tested.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use compat_tests::check::until;
use compat_tests::hostile::{self, Hostile};
use compat_tests::network::Network;
use compat_tests::private::Private;
use compat_tests::progress::Progress;
use compat_tests::seed::{self, Blob, Family, Form, Image, Layer, Packed};
use compat_tests::server::{Answer, Body, Gate, Request, Server};
use compat_tests::{Case, Suite, http, tests};
use serde_json::{Value, json};

mod registries;

use registries::{nothing_is_left, shorts, stored, untagged};

fn main() -> ExitCode {
    Suite {
        name: "registry_hostile",
        flags: &["--max-download-attempts=1"],
        tests: tests![
            layers,
            configurations,
            manifests,
            too_many_layers,
            indexes,
            statuses,
            redirects,
            credentials_stay,
            endless_layer,
            slow_layer,
            tried_again,
            resumed,
            other_content_for_a_digest,
            nothing_is_stored,
        ],
    }
    .main_with_flags()
}

/// Manifest, configuration and layers are not of one image.
const DO_NOT_MATCH: &str = "layers from manifest don't match image configuration";
/// A configuration without layers.
const NO_ROOTFS: &str = "invalid rootfs in image configuration";

type Script = Box<dyn Fn(&Request, usize) -> Option<Answer> + Send + Sync>;

/// Pulls from a registry that follows `script`: what the client is told, as status and text. Then nothing may be left, and
/// pulling `image` once the registry behaves must work.
fn refused(t: &Case<'_>, image: &Packed, claim: Option<&Blob>, script: Script) -> Result<(u16, String)> {
    let network = Network::of(t.host())?;
    let hostile = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_hostile = hostile.clone();
    let registry = Hostile::start(&network, move |request, before| {
        if is_hostile.load(std::sync::atomic::Ordering::Relaxed) { script(request, before) } else { None }
    })?;
    let name = t.reference(registry.put("some", "v1", image));
    if let Some(claim) = claim {
        registry.put_manifest("some", "v1", claim);
    }
    let progress = Progress::of_pull(t.host(), untagged(&name), "v1")?;
    ensure!(!progress.error().is_empty(), "not refused: {progress:?}");
    nothing_is_left(t, untagged(&name))?;
    // On 401 the CLI asks for a name and a password.
    if !progress.error().starts_with("unauthorized") {
        let told = t.docker(&["pull", "-q", &name]);
        ensure!(told.code == 1 && told.err.contains(progress.error()), "{told:?} {:?}", progress.error());
    }
    hostile.store(false, std::sync::atomic::Ordering::Relaxed);
    registry.put("some", "v1", image);
    t.docker(&["pull", "-q", &name]).ok().context("pull from the registry that behaves")?;
    let id = t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?;
    ensure!(id == image.id(), "{id}");
    t.docker(&["rmi", "-f", &id]).ok()?;
    nothing_is_left(t, untagged(&name))?;
    Ok((progress.status, progress.error().to_owned()))
}

/// The answer to requests for one blob.
fn blob_answers(blob: &Blob, answer: Answer) -> Script {
    let path = format!("/blobs/{}", blob.digest);
    Box::new(move |request, _| (request.method == "GET" && request.path.ends_with(&path)).then(|| answer.clone()))
}

/// The answer to requests for manifests.
fn manifest_answers(answer: Answer) -> Script {
    Box::new(move |request, _| request.path.contains("/manifests/").then(|| answer.clone()))
}

/// Serves a blob that is not among those of the image.
fn serving(blob: &Blob) -> Script {
    blob_answers(blob, Answer::new(200, blob.bytes.clone()))
}

fn image(t: &Case<'_>, what: &str) -> Packed {
    let mut image = Image::of_layers(Family::Docker, &format!("{} {what}", t.prefix()), 2);
    image.label = t.prefix().to_owned();
    image.packed()
}

fn layers(t: &Case<'_>) -> Result<()> {
    let image = image(t, "layers");
    let layer = &image.layers[1];
    let mut flipped = layer.bytes.clone();
    flipped[20] ^= 1;
    let half = layer.bytes[..layer.bytes.len() / 2].to_vec();
    let cut = Body::Truncated { sent: half.clone(), length: layer.bytes.len() };
    let longer = [&layer.bytes[..], b"more"].concat();
    let with_layer = |blob: &Blob| {
        let layers = vec![image.layers[0].descriptor(), blob.descriptor()];
        seed::manifest(seed::DOCKER_MANIFEST, image.config.descriptor(), layers)
    };
    let garbage = Blob::new(&layer.media_type, seed::noise(t.prefix(), 500));
    let other = Image::of_layers(Family::Docker, "another tar", 1).packed().layers[0].clone();
    let unverified = format!("filesystem layer verification failed for digest {}", layer.digest);
    // Where bytes are missing or too many, it is left open by what that is noticed.
    for (what, claim, script, text) in [
        ("wrong bytes", None, blob_answers(layer, Answer::new(200, flipped)), unverified.as_str()),
        ("too short", None, blob_answers(layer, Answer::new(200, half)), ""),
        ("too long", None, blob_answers(layer, Answer::new(200, longer)), ""),
        ("cut off", None, blob_answers(layer, Answer::new(200, "").body(cut)), ""),
        ("empty", None, blob_answers(layer, Answer::new(200, "")), ""),
        ("absent", None, blob_answers(layer, hostile::error(404, "BLOB_UNKNOWN", "blob unknown")), "unknown blob"),
        ("no tar", Some(with_layer(&garbage)), serving(&garbage), "failed to register layer: "),
        ("another tar", Some(with_layer(&other)), serving(&other), DO_NOT_MATCH),
    ] {
        let (status, told) = refused(t, &image, claim.as_ref(), script).context(what)?;
        ensure!(status == 200 && told.contains(text), "{what}: {status} {told:?}");
    }
    Ok(())
}

fn configurations(t: &Case<'_>) -> Result<()> {
    let image = image(t, "configurations");
    let config = &image.config;
    let with_config = |bytes: &[u8]| {
        let blob = Blob::new(&config.media_type, bytes.to_vec());
        let layers = image.layers.iter().map(Blob::descriptor).collect();
        (seed::manifest(seed::DOCKER_MANIFEST, blob.descriptor(), layers), blob)
    };
    let mut parsed: Value = serde_json::from_slice(&config.bytes)?;
    parsed["rootfs"]["diff_ids"] = json!([image.diff_ids[0]]);
    let fewer = parsed.to_string();
    parsed["rootfs"]["diff_ids"] = json!([image.diff_ids[0], image.diff_ids[0]]);
    let other = parsed.to_string();
    parsed["rootfs"] = Value::Null;
    let without = parsed.to_string();
    parsed["rootfs"] = json!({"type": "layers", "diff_ids": ["nonsense", "../../x"]});
    let nonsense = parsed.to_string();
    for (what, bytes, text) in [
        ("no JSON", "{{{".as_bytes(), ""),
        ("a list", b"[]", ""),
        ("nothing", b"{}", NO_ROOTFS),
        ("no layers", without.as_bytes(), NO_ROOTFS),
        ("fewer layers", fewer.as_bytes(), DO_NOT_MATCH),
        ("other layers", other.as_bytes(), DO_NOT_MATCH),
        ("no digests", nonsense.as_bytes(), ""),
    ] {
        let (claim, blob) = with_config(bytes);
        let (status, told) = refused(t, &image, Some(&claim), serving(&blob)).context(what)?;
        ensure!(status == 200 && told.contains(text), "{what}: {status} {told:?}");
    }
    let mut flipped = config.bytes.clone();
    flipped[1] ^= 1;
    let unverified = format!("image config verification failed for digest {}", config.digest);
    // One that is cut off is left out: the stock daemon asks for it six times, with longer and longer pauses.
    for (what, answer, text) in [
        ("wrong bytes", Answer::new(200, flipped), unverified.as_str()),
        ("absent", hostile::error(404, "BLOB_UNKNOWN", "blob unknown"), "unknown blob"),
    ] {
        let (status, told) = refused(t, &image, None, blob_answers(config, answer)).context(what)?;
        ensure!(status == 200 && told.starts_with("error pulling image configuration: "), "{what}: {status} {told:?}");
        ensure!(told.contains(text), "{what}: {told:?}");
    }
    Ok(())
}

fn manifests(t: &Case<'_>) -> Result<()> {
    let image = image(t, "manifests");
    let typed = |media_type: &str, bytes: Vec<u8>| {
        let blob = Blob::new(media_type, bytes);
        Answer::new(200, blob.bytes.clone())
            .header("Content-Type", media_type)
            .header("Docker-Content-Digest", &blob.digest)
    };
    let docker = seed::DOCKER_MANIFEST;
    let schema_1 = json!({
        "schemaVersion": 1, "name": "some", "tag": "v1", "architecture": "amd64",
        "fsLayers": [{"blobSum": image.layers[0].digest}],
        "history": [{"v1Compatibility": "{\"id\":\"a\"}"}],
        "signatures": [],
    });
    let large = [&image.manifest.bytes[..], &vec![b' '; 9 << 20]].concat();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (what, answer) in [
        ("no JSON", typed(docker, b"{{{".to_vec())),
        ("nothing", typed(docker, b"{}".to_vec())),
        ("deep", typed(docker, deep.into_bytes())),
        ("schema 1", typed(seed::DOCKER_SCHEMA_1, schema_1.to_string().into_bytes())),
        ("text", typed("text/html", b"<html>".to_vec())),
        ("unknown type", typed("application/vnd.test+json", image.manifest.bytes.clone())),
        ("empty", typed(docker, Vec::new())),
    ] {
        // Before or after the first line of progress.
        refused(t, &image, None, manifest_answers(answer)).context(what)?;
    }
    // The stock daemon takes a manifest of any size.
    if t.is_ours() {
        refused(t, &image, None, manifest_answers(typed(docker, large))).context("too large")?;
    }
    Ok(())
}

/// The stock daemon notices by the layers it has unpacked, of which it can stack 125.
fn too_many_layers(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let image = image(t, "many");
    let layers = vec![image.layers[0].descriptor(); 10_000];
    let many = seed::manifest(seed::DOCKER_MANIFEST, image.config.descriptor(), layers);
    let registry = Hostile::tame(&network)?;
    let name = t.reference(registry.put("some", "v1", &image));
    registry.put_manifest("some", "v1", &many);
    let progress = Progress::of_pull(t.host(), untagged(&name), "v1")?;
    ensure!(!progress.error().is_empty(), "not refused");
    nothing_is_left(t, untagged(&name))
}

fn other_content_for_a_digest(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let (wanted, other) = (image(t, "wanted"), image(t, "other"));
    let manifest = other.manifest.clone();
    let registry = Hostile::start(&network, move |request, _| {
        let answer = Answer::new(200, manifest.bytes.clone()).header("Content-Type", &manifest.media_type);
        request.path.contains("/manifests/sha256:").then_some(answer)
    })?;
    registry.put("some", "v1", &other);
    let name = format!("{}/some", registry.address());
    let told = Progress::of_pull(t.host(), &name, &wanted.manifest.digest)?;
    assert_eq!(told.error(), format!("manifest verification failed for digest {}", wanted.manifest.digest));
    nothing_is_left(t, &name)
}

fn indexes(t: &Case<'_>) -> Result<()> {
    let image = image(t, "indexes");
    let inner = seed::index(Family::Oci, &[image.entry(&[])]);
    let mut of_index = inner.descriptor();
    of_index["platform"] = image.entry(&[])["platform"].clone();
    let nested = seed::index(Family::Oci, &[of_index]);
    let many = seed::index(Family::Oci, &vec![image.entry(&[]); 20_000]);
    let mut lie = image.entry(&[]);
    lie["digest"] = json!(format!("sha256:{}", "1".repeat(64)));
    let dangling = seed::index(Family::Oci, &[lie.clone()]);
    lie["digest"] = json!("sha256:../../../etc");
    let no_digest = seed::index(Family::Oci, &[lie]);
    let empty = seed::index(Family::Oci, &[]);
    for (what, index) in [("dangling", dangling), ("no digest", no_digest), ("empty", empty)] {
        refused(t, &image, Some(&index), Box::new(|_, _| None)).context(what)?;
    }
    // One in another, and one that says the same a great many times, may be refused or followed.
    for index in [nested, many] {
        let network = Network::of(t.host())?;
        let registry = Hostile::tame(&network)?;
        registry.put_manifest("some", "inner", &inner);
        let name = t.reference(registry.put("some", "v1", &image));
        registry.put_manifest("some", "v1", &index);
        let progress = Progress::of_pull(t.host(), untagged(&name), "v1")?;
        if progress.error().is_empty() {
            assert_eq!(t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?, image.id());
            t.docker(&["rmi", "-f", image.id()]).ok()?;
        }
        nothing_is_left(t, untagged(&name))?;
    }
    Ok(())
}

fn statuses(t: &Case<'_>) -> Result<()> {
    let image = image(t, "statuses");
    let layer = &image.layers[0];
    let busy = hostile::error(429, "TOOMANYREQUESTS", "slow down");
    let denied = "repository does not exist or may require 'docker login': denied: not you";
    let forbidden = hostile::error(403, "DENIED", "not you");
    let challenge = |challenge: &'static str| -> Script {
        Box::new(move |_: &Request, _| {
            Some(hostile::error(401, "UNAUTHORIZED", "again").header("WWW-Authenticate", challenge))
        })
    };
    let nowhere = "Bearer realm=\"http://127.0.0.1:1/token\",service=\"s\",scope=\"repository:some:pull\"";
    for (what, script, wanted, text) in [
        ("429 manifest", manifest_answers(busy.clone()), 429, "toomanyrequests: slow down"),
        ("500 manifest", manifest_answers(Answer::new(500, "broken")), 500, "received unexpected HTTP status: 500"),
        ("403 manifest", manifest_answers(forbidden.clone()), 404, denied),
        ("302 nowhere", manifest_answers(Answer::new(302, "")), 500, ""),
        ("429 layer", blob_answers(layer, busy), 200, "toomanyrequests: slow down"),
        ("500 layer", blob_answers(layer, Answer::new(500, "broken")), 200, "received unexpected HTTP status: 500"),
        ("403 layer", blob_answers(layer, forbidden), 200, denied),
        ("204 layer", blob_answers(layer, Answer::new(204, "")), 200, ""),
        ("401 without a challenge", Box::new(|_: &Request, _| Some(Answer::new(401, ""))), 401, "unauthorized: "),
        ("401 for ever", challenge("Basic realm=\"x\""), 500, "no basic auth credentials"),
        ("a token server that is not there", challenge(nowhere), 500, "connection refused"),
        ("no registry", Box::new(|_: &Request, _| Some(Answer::new(200, "<html>"))), 500, ""),
    ] {
        let (status, told) = refused(t, &image, None, script).context(what)?;
        ensure!(status == wanted && told.contains(text), "{what}: {status} {told:?}");
    }
    Ok(())
}

fn redirects(t: &Case<'_>) -> Result<()> {
    let image = image(t, "redirects");
    let layer = &image.layers[0];
    let around: Script = Box::new({
        let digest = layer.digest.clone();
        move |request, _| {
            let is_blob = request.method == "GET" && request.path.ends_with(&digest);
            is_blob.then(|| Answer::new(307, "").header("Location", &request.path))
        }
    });
    refused(t, &image, None, around).context("a loop")?;
    for location in ["file:///etc/passwd", "gopher://127.0.0.1/", "http://127.0.0.1:1/", "http://[broken"] {
        let answer = Answer::new(307, "").header("Location", location);
        refused(t, &image, None, blob_answers(layer, answer)).context(location)?;
    }
    Ok(())
}

fn credentials_stay(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let image = image(t, "credentials");
    let layer = image.layers[0].clone();
    let bytes = layer.bytes.clone();
    let storage = Server::start(network.listen("127.0.0.2:0")?, Box::new(move |_| Answer::new(200, bytes.clone())))?;
    let elsewhere = format!("http://{}/content", storage.address());
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("me:secret"));
    let wanted = basic.clone();
    let registry = Hostile::start(&network, move |request, _| {
        if request.header("authorization") != wanted {
            let answer = hostile::error(401, "UNAUTHORIZED", "who are you");
            return Some(answer.header("WWW-Authenticate", "Basic realm=\"x\""));
        }
        let is_layer = request.method == "GET" && request.path.ends_with(&layer.digest);
        is_layer.then(|| Answer::new(307, "").header("Location", &elsewhere))
    })?;
    let name = t.reference(registry.put("some", "v1", &image));
    let path = format!("/images/create?fromImage={}&tag=v1", untagged(&name));
    let progress = Progress::of(t.host(), &path, Some(&registries::credentials("me", "secret")))?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    let requests = storage.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("authorization"), "", "credentials went to another host");
    assert!(registry.server().requests().iter().any(|request| request.header("authorization") == basic));
    Ok(())
}

/// A layer that comes slowly, but comes, is waited for; a client that does not want to wait ends it.
fn slow_layer(t: &Case<'_>) -> Result<()> {
    let image = image(t, "slow");
    let layer = image.layers[1].clone();
    let path = format!("/blobs/{}", layer.digest);
    let network = Network::of(t.host())?;
    let gate = Gate::default();
    let held = gate.clone();
    let registry = Hostile::start(&network, move |request, before| {
        let is_slow = request.method == "GET" && request.path.ends_with(&path);
        let body = match before {
            0 => Body::Held { bytes: layer.bytes.clone(), before: 1, gate: held.clone() },
            _ => Body::Slow { bytes: layer.bytes.clone(), piece: 8, pause: std::time::Duration::from_millis(50) },
        };
        is_slow.then(|| Answer::new(200, "").body(body))
    })?;
    let name = t.reference(registry.put("some", "v1", &image));
    let pull = format!("/images/create?fromImage={}&tag=v1", untagged(&name));
    let open = http::open(&t.host().socket, "POST", &pull, &[], b"")?;
    gate.wait_for(1)?;
    drop(open);
    gate.wait_for_given_up(1)?;
    nothing_is_left(t, untagged(&name))?;
    let progress = Progress::of_pull(t.host(), untagged(&name), "v1")?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    let id = t.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok()?;
    ensure!(id == image.id(), "{id}");
    Ok(())
}

/// The stock daemon reads on, however much more comes than the manifest says; then the client's going is what ends it.
fn endless_layer(t: &Case<'_>) -> Result<()> {
    let network = Network::of(t.host())?;
    let image = image(t, "endless");
    let gate = Gate::default();
    let (held, digest) = (gate.clone(), image.layers[1].digest.clone());
    let registry = Hostile::start(&network, move |request, _| {
        let is_layer = request.method == "GET" && request.path.ends_with(&digest);
        let body = Body::Endless { bytes: vec![0; 10_000], gate: held.clone() };
        is_layer.then(|| Answer::new(200, "").body(body))
    })?;
    let name = t.reference(registry.put("some", "v1", &image));
    if t.is_ours() {
        let progress = Progress::of_pull(t.host(), untagged(&name), "v1")?;
        ensure!(!progress.error().is_empty(), "{progress:?}");
    } else {
        let path = format!("/images/create?fromImage={}&tag=v1", untagged(&name));
        let pull = http::open(&t.host().socket, "POST", &path, &[], b"")?;
        gate.wait_for(1)?;
        drop(pull);
    }
    gate.wait_for_given_up(1)?;
    nothing_is_left(t, untagged(&name))
}

fn tried_again(t: &Case<'_>) -> Result<()> {
    let private = Private::start(t.host(), &["--max-download-attempts=2"], None)?;
    let network = private.network()?;
    let once = |status: u16| {
        let image = image(t, &format!("again {status}"));
        let digest = image.layers[1].digest.clone();
        let registry = Hostile::start(&network, move |request, before| {
            let is_first = before == 0 && request.method == "GET" && request.path.ends_with(&digest);
            is_first.then(|| Answer::new(status, "not now"))
        })?;
        let name = registry.put("some", "v1", &image);
        let progress = Progress::of_pull(private.host(), untagged(&name), "v1")?;
        ensure!(progress.error().is_empty(), "{progress:?}");
        let asked = [registry.asked_for(&image.layers[0]), registry.asked_for(&image.layers[1])];
        ensure!(asked[0] == ["GET"] && asked[1] == ["GET", "GET"], "{asked:?}");
        Ok(())
    };
    at_once(&[429, 500, 503], |status| once(*status))
}

fn resumed(t: &Case<'_>) -> Result<()> {
    let private = Private::start(t.host(), &["--max-download-attempts=2"], None)?;
    let network = private.network()?;
    let broken = |with_ranges: bool| {
        let bytes = seed::noise(&format!("{} {with_ranges}", t.prefix()), 200_000);
        let layers = vec![Layer { tar: seed::tar_of(&[("f", &bytes)]), form: Form::Gzip }];
        let image = Image::new(Family::Oci, t.prefix(), layers).packed();
        let layer = image.layers[0].clone();
        let registry = Hostile::start(&network, move |request, before| {
            let is_first = before == 0 && request.method == "GET" && request.path.ends_with(&layer.digest);
            let body = Body::Truncated { sent: layer.bytes[..100_000].to_vec(), length: layer.bytes.len() };
            is_first.then(|| Answer::new(200, "").header("Accept-Ranges", "bytes").body(body))
        })?;
        if !with_ranges {
            registry.without_ranges();
        }
        let name = registry.put("some", "v1", &image);
        let progress = Progress::of_pull(private.host(), untagged(&name), "v1")?;
        let seen = progress.of_layers(&shorts(&image)).remove(&image.layers[0].short()).unwrap_or_default();
        ensure!(seen.iter().any(|status| status.starts_with("Retrying in ")), "{seen:?}");
        // What has come is kept. Where the registry sends everything again, the stock daemon gives up; another may start
        // from the beginning.
        let asked = registry.asked_for(&image.layers[0]);
        ensure!(asked.get(1).is_some_and(|asked| asked.starts_with("GET bytes=100000-")), "{asked:?}");
        ensure!(progress.error().is_empty() || !with_ranges, "{progress:?}");
        if progress.error().is_empty() {
            let id = private.host().docker(&["image", "inspect", "-f", "{{.Id}}", &name], "").ok()?;
            assert_eq!(id, image.id());
        }
        Ok(())
    };
    at_once(&[true, false], |with_ranges| broken(*with_ranges))
}

/// Does it for all of them at the same time, as most of it is waiting for another attempt.
fn at_once<T: Sync>(all: &[T], action: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = all.iter().map(|one| scope.spawn(|| action(one))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

fn nothing_is_stored(t: &Case<'_>) -> Result<()> {
    let private = Private::start(t.host(), &["--max-download-attempts=1"], None)?;
    let network = private.network()?;
    let host = private.host();
    let large = |what: &str| Layer::file(what, &seed::noise(&format!("{} {what}", t.prefix()), 500_000));
    let image = Image::new(Family::Docker, t.prefix(), vec![large("a"), large("b"), large("c")]).packed();
    let before = stored(host)?;
    let last = &image.layers[2];
    let cut = Body::Truncated { sent: last.bytes[..400_000].to_vec(), length: last.bytes.len() };
    let mut flipped = last.bytes.clone();
    flipped[300_000] ^= 1;
    for answer in [Answer::new(200, "").body(cut), Answer::new(200, flipped), Answer::new(500, "broken")] {
        let registry = Hostile::start(&network, blob_answers(last, answer))?;
        let name = registry.put("some", "v1", &image);
        let progress = Progress::of_pull(host, untagged(&name), "v1")?;
        ensure!(!progress.error().is_empty(), "{progress:?}");
    }
    let images = host.http("GET", "/images/json?all=1")?.json()?;
    assert_eq!(images, json!([]));
    // A daemon may keep what was verified for the next attempt, but never what was not: two layers at most.
    let room = 2 * 500_000 * 2 + 100_000;
    until("the end of what was stored", || stored(host).is_ok_and(|now| now < before + room))?;
    let registry = Hostile::tame(&network)?;
    let name = registry.put("some", "v1", &image);
    host.docker(&["pull", "-q", &name], "").ok()?;
    let with_image = stored(host)?;
    ensure!(with_image > before + 1_400_000, "{before} {with_image}: the image is not where it was looked for");
    host.docker(&["rmi", &name], "").ok()?;
    until("the removal", || stored(host).is_ok_and(|now| now < before + 100_000))
}
