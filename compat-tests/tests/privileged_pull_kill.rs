//! The daemon dies while it pulls: after it has come back nothing is half visible, and the next pull fetches only what was
//! not verified before. Ours only: each test has a daemon of its own and kills it.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use compat_tests::check::until;
use compat_tests::daemon::Daemon;
use compat_tests::hostile::Hostile;
use compat_tests::network::Network;
use compat_tests::progress::Progress;
use compat_tests::seed::{self, Family, Form, Image, Layer, Packed};
use compat_tests::server::{Answer, Body, Gate};
use compat_tests::{Case, Suite, http, tests};
use serde_json::{Value, json};

mod registries;

use registries::{shorts, untagged};

fn main() -> ExitCode {
    if std::env::var_os("COMPAT_HOST").is_some() {
        eprintln!("suite pull_kill: for a daemon of ours only");
        return ExitCode::SUCCESS;
    }
    Suite {
        name: "pull_kill",
        flags: &[],
        tests: tests![in_the_third_layer, beside_another_image, again_and_again, stopped_while_pulling],
    }
    .main()
}

/// Bytes of the third layer that come before the gate.
const BEFORE: usize = 150_000;

/// Four layers of different content, each of about 300 KB.
fn image(t: &Case<'_>) -> Packed {
    let layer = |index: usize| {
        let bytes = seed::noise(&format!("{} {index}", t.prefix()), 300_000);
        Layer { tar: seed::tar_of(&[(&format!("f{index}"), &bytes)]), form: Form::Gzip }
    };
    Image::new(Family::Oci, t.prefix(), (0..4).map(layer).collect()).packed()
}

/// A registry that holds the third layer back the first time.
fn registry(network: &Network, image: &Packed, gate: &Gate) -> Result<(Hostile, String)> {
    let (held, third) = (gate.clone(), image.layers[2].clone());
    let registry = Hostile::start(network, move |request, before| {
        let is_third = before == 0 && request.method == "GET" && request.path.ends_with(&third.digest);
        let body = Body::Held { bytes: third.bytes.clone(), before: BEFORE, gate: held.clone() };
        is_third.then(|| Answer::new(200, "").header("Accept-Ranges", "bytes").body(body))
    })?;
    let name = registry.put("some", "v1", image);
    Ok((registry, name))
}

/// Begins a pull and waits until the third layer is held back and the first two were taken over.
fn begun(daemon: &Daemon, image: &Packed, gate: &Gate, name: &str) -> Result<http::Open> {
    let path = format!("/images/create?fromImage={}&tag=v1", untagged(name));
    let mut pull = http::open(&daemon.host().socket, "POST", &path, &[], b"")?;
    gate.wait_for(1)?;
    // It says so when a layer is complete.
    let wanted: Vec<String> = shorts(image)[..2].to_vec();
    let mut seen = String::new();
    let is_complete = |seen: &str, id: &str| {
        let line = |line: &str| line.contains("\"Pull complete\"") && line.contains(id);
        seen.lines().any(line)
    };
    let mut buffer = [0; 4096];
    while !wanted.iter().all(|id| is_complete(&seen, id)) {
        let count = pull.reader.read(&mut buffer)?;
        ensure!(count > 0, "the pull ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    Ok(pull)
}

fn images(daemon: &Daemon) -> Result<Value> {
    daemon.host().http("GET", "/images/json?all=1")?.json()
}

/// Pulls to the end and looks that the files are those of the image.
fn pulled(daemon: &Daemon, image: &Packed, name: &str) -> Result<Progress> {
    let progress = Progress::of_pull(daemon.host(), untagged(name), "v1")?;
    ensure!(progress.error().is_empty(), "{progress:?}");
    let seen = daemon.host().http("GET", &format!("/images/{name}/json"))?.json()?;
    assert_eq!((seen["Id"].as_str(), &seen["RootFS"]["Layers"]), (Some(image.id()), &json!(image.diff_ids)));
    Ok(progress)
}

fn in_the_third_layer(t: &Case<'_>) -> Result<()> {
    let mut daemon = Daemon::start(&[])?;
    let (gate, image) = (Gate::default(), image(t));
    let (registry, name) = registry(&Network::of(daemon.host())?, &image, &gate)?;
    let pull = begun(&daemon, &image, &gate, &name)?;
    daemon.kill()?;
    drop(pull);
    gate.wait_for_given_up(1)?;
    daemon.restart()?;
    assert_eq!(images(&daemon)?, json!([]), "nothing is half visible");
    for reference in [&name, image.id()] {
        assert_eq!(daemon.host().http("GET", &format!("/images/{reference}/json"))?.status, 404);
    }
    registry.server().taken_lines();
    gate.open();
    pulled(&daemon, &image, &name)?;
    // The first two were verified and are not fetched again; of the third at most what had not come.
    for layer in &image.layers[..2] {
        assert_eq!(registry.asked_for(layer), Vec::<String>::new());
    }
    let third = registry.asked_for(&image.layers[2]);
    assert!(third.len() == 1 && (third[0] == "GET" || third[0].starts_with("GET bytes=")), "{third:?}");
    Ok(())
}

/// What another image has in common with the one that was broken off stays its own.
fn beside_another_image(t: &Case<'_>) -> Result<()> {
    let mut daemon = Daemon::start(&[])?;
    let (gate, image) = (Gate::default(), image(t));
    let (registry, name) = registry(&Network::of(daemon.host())?, &image, &gate)?;
    let bytes = seed::noise(&format!("{} 0", t.prefix()), 300_000);
    let shared = Layer { tar: seed::tar_of(&[("f0", &bytes)]), form: Form::Gzip };
    let small = Image::new(Family::Oci, "small", vec![shared]).packed();
    let small_name = registry.put("small", "v1", &small);
    daemon.host().docker(&["pull", "-q", &small_name], "").ok()?;
    let pull = begun_with_shared(&daemon, &gate, &name)?;
    daemon.kill()?;
    drop(pull);
    daemon.restart()?;
    let list = images(&daemon)?;
    assert_eq!((list.as_array().map(Vec::len), &list[0]["Id"]), (Some(1), &json!(small.id())));
    daemon.host().docker(&["rmi", &small_name], "").ok()?;
    gate.open();
    pulled(&daemon, &image, &name)?;
    Ok(())
}

fn begun_with_shared(daemon: &Daemon, gate: &Gate, name: &str) -> Result<http::Open> {
    let path = format!("/images/create?fromImage={}&tag=v1", untagged(name));
    let pull = http::open(&daemon.host().socket, "POST", &path, &[], b"")?;
    gate.wait_for(1)?;
    Ok(pull)
}

/// However often it dies, it stores no more than what was verified, and lets go of that with the image.
fn again_and_again(t: &Case<'_>) -> Result<()> {
    let mut daemon = Daemon::start(&[])?;
    let image = image(t);
    let network = Network::of(daemon.host())?;
    let empty = registries::stored(daemon.host())?;
    for _ in 0..4 {
        let gate = Gate::default();
        let (_registry, name) = registry(&network, &image, &gate)?;
        let pull = begun_with_shared(&daemon, &gate, &name)?;
        daemon.kill()?;
        drop(pull);
        daemon.restart()?;
    }
    // At most every layer once as it came and once as a tar.
    let all: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
    let killed = registries::stored(daemon.host())?;
    assert!(killed < empty + 2 * all as u64, "{empty} {killed} {all}");
    let all = Hostile::tame(&network)?;
    let name = all.put("some", "v1", &image);
    pulled(&daemon, &image, &name)?;
    daemon.host().docker(&["rmi", &name], "").ok()?;
    until("the removal", || registries::stored(daemon.host()).is_ok_and(|now| now < empty + 100_000))
}

/// A daemon that is asked to stop does not wait for a registry.
fn stopped_while_pulling(t: &Case<'_>) -> Result<()> {
    let mut daemon = Daemon::start(&[])?;
    let (gate, image) = (Gate::default(), image(t));
    let (_registry, name) = registry(&Network::of(daemon.host())?, &image, &gate)?;
    let pull = begun(&daemon, &image, &gate, &name)?;
    daemon.stop()?;
    drop(pull);
    daemon.restart()?;
    assert_eq!(images(&daemon)?, json!([]));
    gate.open();
    pulled(&daemon, &image, &name)?;
    Ok(())
}
