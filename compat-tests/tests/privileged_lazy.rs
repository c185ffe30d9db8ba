//! Lazy pull: containers run before their image is here, whatever becomes of the daemon and the registry meanwhile, and in the
//! end the image is an ordinary one. Ours only: the stock daemon cannot do it.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use compat_tests::check::until;
use compat_tests::daemon::Daemon;
use compat_tests::hostile::{Hostile, error};
use compat_tests::network::Network;
use compat_tests::seed::{self, Blob, Family, Form, Image, Layer, Packed};
use compat_tests::server::{Answer, Body, Gate, Request};
use compat_tests::{Case, LIMIT, Suite, tests};
use testkit::{Estargz, ZstdChunked};

mod registries;

fn main() -> ExitCode {
    if std::env::var_os("COMPAT_HOST").is_some() {
        eprintln!("suite lazy: for a daemon of ours only");
        return ExitCode::SUCCESS;
    }
    Suite {
        name: "lazy",
        flags: &[],
        tests: tests![
            runs_before_it_is_here,
            zstd_chunked,
            above_and_below_ordinary_layers,
            killed_while_a_container_waits,
            stopped_while_a_container_waits,
            killed_before_the_rest_came,
            save_and_push_wait_for_the_rest,
            removed_before_the_rest_came,
            pulled_and_removed_at_once,
            a_registry_that_lies,
            a_registry_that_fails_for_a_while,
            credentials_outlive_the_daemon,
            another_driver_waits_for_the_rest,
            pulled_without_the_option,
        ],
    }
    .main()
}

/// Longer ranges are nobody's but those that fetch what nobody waits for.
const LONG: u64 = 1 << 20;
const HELD: usize = 700_000;
/// What stands in the image, in the order of the layer: nothing that is asked for lies just before `held`.
const FILES: [(&str, usize); 8] = [
    ("first", 20_000),
    ("rest0", 1_000_000),
    ("held", HELD),
    ("rest1", 1_000_000),
    ("rest2", 1_000_000),
    ("rest3", 1_000_000),
    ("rest4", 1_000_000),
    ("rest5", 1_000_000),
];

/// A layer with a shell, `first`, `held` and some megabytes more.
fn layer(seed: &str) -> Result<Vec<u8>> {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = fs::read(busybox.context("busybox-static is not installed")?)?;
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_size(size as u64);
        header
    };
    tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), "bin", &[][..])?;
    tar.append_data(&mut header(tar::EntryType::Regular, 0o755, busybox.len()), "bin/busybox", &busybox[..])?;
    for applet in ["sh", "cat", "sha256sum", "sleep", "dd", "ls"] {
        tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), format!("bin/{applet}"), "busybox")?;
    }
    for (name, size) in FILES {
        let bytes = seed::noise(&format!("{seed} {name}"), size);
        tar.append_data(&mut header(tar::EntryType::Regular, 0o644, size), name, &bytes[..])?;
    }
    Ok(tar.into_inner()?)
}

fn image(seed: &str, form: Form) -> Result<Packed> {
    Ok(Image::new(Family::Oci, seed, vec![Layer { tar: layer(seed)?, form }]).packed())
}

fn estargz() -> Form {
    // Stored as it is, so that what lies where can be seen.
    Form::Estargz(Estargz { chunk_size: 256 << 10, level: 0, ..Estargz::default() })
}

fn sum(seed: &str, name: &str, size: usize) -> String {
    seed::digest(&seed::noise(&format!("{seed} {name}"), size))["sha256:".len()..].to_owned()
}

fn range(request: &Request) -> Option<(u64, u64)> {
    let (first, last) = request.header("range").strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Where in the layer the content of `held` begins; it does not compress.
fn place(blob: &Blob, seed: &str) -> Result<u64> {
    let bytes = seed::noise(&format!("{seed} held"), HELD);
    let found = blob.bytes.windows(32).position(|window| *window == bytes[1_000..1_032]);
    Ok(found.context("`held` is not in the layer as it is")? as u64)
}

/// Gates of a registry: one for what nobody waits for, and one for the part of the layer with `held`.
#[derive(Clone, Default)]
struct Gates {
    rest: Gate,
    held: Gate,
}

fn gated(network: &Network, image: &Packed, seed: &str, gates: &Gates) -> Result<Hostile> {
    let (gates, blob) = (gates.clone(), image.layers[0].clone());
    let held = place(&blob, seed)?;
    Hostile::start(network, move |request, _| {
        let (first, last) = range(request).filter(|_| request.path.ends_with(&blob.digest))?;
        let gate = match last - first {
            length if length > LONG => &gates.rest,
            _ if first <= held && held <= last => &gates.held,
            _ => return None,
        };
        let body =
            Body::Held { bytes: blob.bytes[first as usize..=last as usize].to_vec(), before: 0, gate: gate.clone() };
        let range = format!("bytes {first}-{last}/{}", blob.bytes.len());
        Some(Answer::new(206, "").header("Content-Range", &range).body(body))
    })
}

fn lazy() -> Result<Daemon> {
    Daemon::start(&["--lazy-pull", "--bridge", "none"])
}

fn run(daemon: &Daemon, image: &str, script: &str) -> Result<String> {
    daemon.host().docker(&["run", "--rm", "--network", "none", image, "sh", "-c", script], "").ok()
}

/// Layers that are still being fetched.
fn waiting(daemon: &Daemon) -> usize {
    fs::read_dir(daemon.dir().join("data/image/lazy")).map_or(0, |entries| entries.flatten().count())
}

/// Bytes on disk of the one layer that is being fetched.
fn fetched(daemon: &Daemon) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut layers = fs::read_dir(daemon.dir().join("data/image/lazy"))?;
    let layer = layers.next().context("no layer is being fetched")??;
    Ok(fs::metadata(layer.path().join("blob"))?.blocks() * 512)
}

/// Whether all layers of the driver are ordinary ones.
fn ordinary(daemon: &Daemon) -> bool {
    let Ok(layers) = fs::read_dir(daemon.dir().join("data/erofs/layers")) else { return false };
    let layers: Vec<_> = layers.flatten().map(|layer| layer.path()).collect();
    !layers.is_empty() && layers.iter().all(|layer| layer.join("tar").exists() && !layer.join("lazy").exists())
}

/// Everything in the image is as it should be.
fn check_all(daemon: &Daemon, image: &str, seed: &str) -> Result<()> {
    let seen = run(daemon, image, "sha256sum first rest0 held rest1 rest2 rest3 rest4 rest5")?;
    let expected = FILES.map(|(name, size)| format!("{}  {name}", sum(seed, name, size)));
    assert_eq!(seen.lines().collect::<Vec<_>>(), expected);
    Ok(())
}

/// Whether neither the daemon nor its supervisor has a FUSE session.
fn no_sessions(daemon: &Daemon) -> bool {
    let directory = daemon.dir().to_string_lossy().into_owned();
    let is_ours = |process: &Path| {
        fs::read(process.join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&directory))
    };
    let devices = |process: &Path| -> usize {
        let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return 0 };
        let targets = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.filter(|target| target == Path::new("/dev/fuse")).count()
    };
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let ours = processes.flatten().map(|entry| entry.path()).filter(|path| is_ours(path));
    ours.map(|process| devices(&process)).sum::<usize>() == 0
}

/// When the image is whole and nobody runs, nothing is left but the ordinary image.
fn settled(daemon: &Daemon) -> Result<()> {
    until("an ordinary image", || ordinary(daemon))?;
    until("the end of the lazy layer", || waiting(daemon) == 0)
}

fn starts(t: &Case<'_>, form: Form) -> Result<()> {
    let (daemon, gates, image) = (lazy()?, Gates::default(), image(t.prefix(), form)?);
    let registry = gated(&Network::of(daemon.host())?, &image, t.prefix(), &gates)?;
    let name = registry.put("some", "v1", &image);
    let pulled = daemon.host().docker(&["pull", &name], "").ok()?;
    ensure!(pulled.contains("Status: Downloaded newer image"), "{pulled}");
    let seen = daemon.host().http("GET", &format!("/images/{name}/json"))?.json()?;
    assert_eq!(seen["Id"].as_str(), Some(image.id()));
    gates.rest.wait_for(1)?;
    assert_eq!(waiting(&daemon), 1);
    // The rest is held back, and yet there is a shell.
    let seen = run(&daemon, &name, "sha256sum first; ls -ln / | cat")?;
    ensure!(seen.starts_with(&format!("{}  first", sum(t.prefix(), "first", 20_000))), "{seen}");
    ensure!(!ordinary(&daemon));
    // Of the image, less than half was fetched.
    let stored = fetched(&daemon)?;
    gates.held.open();
    gates.rest.open();
    settled(&daemon)?;
    ensure!(stored < image.layers[0].bytes.len() as u64 / 2, "{stored}");
    check_all(&daemon, &name, t.prefix())?;
    until("no sessions", || no_sessions(&daemon))?;
    daemon.host().docker(&["rmi", &name], "").ok()?;
    Ok(())
}

fn runs_before_it_is_here(t: &Case<'_>) -> Result<()> {
    starts(t, estargz())
}

fn zstd_chunked(t: &Case<'_>) -> Result<()> {
    starts(t, Form::ZstdChunked(ZstdChunked { chunk_size: 256 << 10, ..ZstdChunked::default() }))
}

/// Layers of all forms in one image; what the upper ones take away is away.
fn above_and_below_ordinary_layers(t: &Case<'_>) -> Result<()> {
    let daemon = lazy()?;
    let registry = Hostile::tame(&Network::of(daemon.host())?)?;
    let big = seed::noise(&format!("{} big", t.prefix()), 600_000);
    let below = Layer { tar: seed::tar_of(&[("gone", b"gone"), ("under", b"under")]), form: Form::Gzip };
    let middle = Layer { tar: layer(t.prefix())?, form: estargz() };
    let top = Layer { tar: seed::tar_of(&[(".wh.gone", b""), (".wh.rest0", b""), ("big", &big)]), form: estargz() };
    let image = Image::new(Family::Oci, t.prefix(), vec![below, middle, top]).packed();
    let name = registry.put("some", "v1", &image);
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    let script = "cat under; ls gone rest0 2>/dev/null; sha256sum big rest1";
    for _ in 0..2 {
        let seen = run(&daemon, &name, script)?;
        let expected = [
            format!("under{}  big", &seed::digest(&big)["sha256:".len()..]),
            format!("{}  rest1", sum(t.prefix(), "rest1", 1_000_000)),
        ];
        assert_eq!(seen.lines().collect::<Vec<_>>(), expected);
        settled(&daemon)?;
    }
    Ok(())
}

/// A container that waits for bytes goes on with the next daemon, and so does what it runs next.
fn daemon_ends(t: &Case<'_>, end: impl Fn(&mut Daemon) -> Result<()>, flags: &[&str]) -> Result<()> {
    let mut daemon = Daemon::start(&[&["--lazy-pull", "--bridge", "none"], flags].concat())?;
    let (gates, image) = (Gates::default(), image(t.prefix(), estargz())?);
    let registry = gated(&Network::of(daemon.host())?, &image, t.prefix(), &gates)?;
    let name = registry.put("some", "v1", &image);
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    let script = "sha256sum first; sha256sum held; sha256sum rest5; sleep 1000";
    let id = daemon.host().docker(&["run", "-d", "--network", "none", &name, "sh", "-c", script], "").ok()?;
    gates.held.wait_for(1)?;
    end(&mut daemon)?;
    gates.held.wait_for_given_up(1)?;
    daemon.restart()?;
    gates.held.wait_for(1)?;
    gates.held.open();
    let expected = [("first", 20_000), ("held", HELD), ("rest5", 1_000_000)]
        .map(|(file, size)| format!("{}  {file}\n", sum(t.prefix(), file, size)))
        .concat();
    let logs = || daemon.host().docker(&["logs", &id], "").ok().unwrap_or_default();
    until("the container's output", || logs().lines().count() == 3)?;
    assert_eq!(logs() + "\n", expected);
    gates.rest.open();
    until("an ordinary image", || ordinary(&daemon))?;
    // The running container still reads what it had mounted.
    let seen = daemon.host().docker(&["exec", &id, "sha256sum", "rest3"], "").ok()?;
    ensure!(seen.starts_with(&sum(t.prefix(), "rest3", 1_000_000)), "{seen}");
    check_all(&daemon, &name, t.prefix())?;
    daemon.kill()?;
    daemon.restart()?;
    let seen = daemon.host().docker(&["exec", &id, "sha256sum", "rest4"], "").ok()?;
    ensure!(seen.starts_with(&sum(t.prefix(), "rest4", 1_000_000)), "{seen}");
    daemon.host().docker(&["rm", "-f", &id], "").ok()?;
    settled(&daemon)?;
    until("no sessions", || no_sessions(&daemon))
}

fn killed_while_a_container_waits(t: &Case<'_>) -> Result<()> {
    daemon_ends(t, Daemon::kill, &[])
}

fn stopped_while_a_container_waits(t: &Case<'_>) -> Result<()> {
    daemon_ends(t, Daemon::stop, &["--live-restore"])
}

/// What was fetched is not fetched again.
fn killed_before_the_rest_came(t: &Case<'_>) -> Result<()> {
    let (mut daemon, gates, image) = (lazy()?, Gates::default(), image(t.prefix(), estargz())?);
    let registry = gated(&Network::of(daemon.host())?, &image, t.prefix(), &gates)?;
    let name = registry.put("some", "v1", &image);
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    let seen = run(&daemon, &name, "sha256sum rest5")?;
    ensure!(seen.starts_with(&sum(t.prefix(), "rest5", 1_000_000)), "{seen}");
    daemon.kill()?;
    daemon.restart()?;
    registry.server().taken_lines();
    gates.held.open();
    gates.rest.open();
    settled(&daemon)?;
    let asked = registry.asked_for(&image.layers[0]);
    let bytes = |line: &String| {
        let (first, last) = line.strip_prefix("GET bytes=")?.split_once('-')?;
        Some(last.parse::<usize>().ok()? - first.parse::<usize>().ok()? + 1)
    };
    let fetched: usize = asked.iter().filter_map(bytes).sum();
    ensure!(fetched < image.layers[0].bytes.len() - 2_000_000, "{fetched}: {asked:?}");
    check_all(&daemon, &name, t.prefix())
}

fn save_and_push_wait_for_the_rest(t: &Case<'_>) -> Result<()> {
    let (daemon, gates, image) = (lazy()?, Gates::default(), image(t.prefix(), estargz())?);
    let network = Network::of(daemon.host())?;
    let registry = gated(&network, &image, t.prefix(), &gates)?;
    let name = registry.put("some", "v1", &image);
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    let other = Hostile::tame(&network)?;
    let pushed = format!("{}/other:v1", other.address());
    daemon.host().docker(&["tag", &name, &pushed], "").ok()?;
    let file = daemon.dir().join("saved.tar");
    let mut save = daemon.host().command("docker").args(["save", "-o"]).arg(&file).arg(&name).spawn()?;
    let mut push = daemon.host().command("docker").args(["push", "-q", &pushed]).spawn()?;
    gates.rest.wait_for(1)?;
    ensure!(save.try_wait()?.is_none() && push.try_wait()?.is_none());
    gates.held.open();
    gates.rest.open();
    ensure!(save.wait()?.success() && push.wait()?.success());
    // Byte for byte what was pulled.
    assert_eq!(other.manifest("other", "v1").context("a manifest")?.digest, image.manifest.digest);
    daemon.host().docker(&["rmi", "-f", &name, &pushed], "").ok()?;
    daemon.host().docker(&["load", "-q", "-i", &file.to_string_lossy()], "").ok()?;
    check_all(&daemon, &name, t.prefix())
}

fn removed_before_the_rest_came(t: &Case<'_>) -> Result<()> {
    let (daemon, gates, image) = (lazy()?, Gates::default(), image(t.prefix(), estargz())?);
    let empty = registries::stored(daemon.host())?;
    let registry = gated(&Network::of(daemon.host())?, &image, t.prefix(), &gates)?;
    let name = registry.put("some", "v1", &image);
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    run(&daemon, &name, "sha256sum first")?;
    gates.rest.wait_for(1)?;
    daemon.host().docker(&["rmi", &name], "").ok()?;
    gates.rest.wait_for_given_up(1)?;
    until("nothing to be left", || {
        waiting(&daemon) == 0 && registries::stored(daemon.host()).is_ok_and(|now| now < empty + 100_000)
    })?;
    until("no sessions", || no_sessions(&daemon))?;
    // Again as if nothing had been.
    gates.held.open();
    gates.rest.open();
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    check_all(&daemon, &name, t.prefix())
}

/// Many at once leave nothing behind.
fn pulled_and_removed_at_once(t: &Case<'_>) -> Result<()> {
    let (daemon, image) = (lazy()?, image(t.prefix(), estargz())?);
    let registry = Hostile::tame(&Network::of(daemon.host())?)?;
    let names: Vec<String> = (0..4).map(|number| registry.put(&format!("some{number}"), "v1", &image)).collect();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let all: Vec<_> = names
                .iter()
                .map(|name| {
                    scope.spawn(|| {
                        let pull = daemon.host().docker(&["pull", "-q", name], "").ok();
                        pull.and_then(|_| run(&daemon, name, "sha256sum rest2")).and_then(|seen| {
                            ensure!(seen.starts_with(&sum(t.prefix(), "rest2", 1_000_000)), "{seen}");
                            daemon.host().docker(&["rmi", name], "").ok()
                        })
                    })
                })
                .collect();
            all.into_iter().try_for_each(|thread| thread.join().expect("joined").map(drop))
        })?;
    }
    until("nothing to be left", || waiting(&daemon) == 0)?;
    until("no sessions", || no_sessions(&daemon))
}

/// Other bytes than the table of contents says are never seen, and an image with such a layer is not made an ordinary one.
fn a_registry_that_lies(t: &Case<'_>) -> Result<()> {
    let (daemon, image) = (lazy()?, image(t.prefix(), estargz())?);
    let network = Network::of(daemon.host())?;
    let (blob, held) = (image.layers[0].clone(), place(&image.layers[0], t.prefix())?);
    let registry = Hostile::start(&network, move |request, _| {
        let (first, last) = range(request).filter(|_| request.path.ends_with(&blob.digest))?;
        let mut bytes = blob.bytes[first as usize..=last as usize].to_vec();
        if let Some(byte) = held.checked_sub(first).and_then(|at| bytes.get_mut(at as usize)) {
            *byte ^= 1;
        }
        let range = format!("bytes {first}-{last}/{}", blob.bytes.len());
        Some(Answer::new(206, bytes).header("Content-Range", &range))
    })?;
    let name = registry.put("some", "v1", &image);
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    let seen = run(&daemon, &name, "sha256sum held 2>&1; sha256sum first")?;
    ensure!(seen.contains("'held': Input/output error"), "{seen}");
    ensure!(seen.contains(&sum(t.prefix(), "first", 20_000)), "{seen}");
    until("the refusal", || daemon.log().contains("verification failed"))?;
    ensure!(!ordinary(&daemon));
    let saved = daemon.host().docker(&["save", "-o", &daemon.dir().join("saved").to_string_lossy(), &name], "");
    ensure!(saved.code != 0 && saved.err.contains("has not been fetched completely"), "{saved:?}");
    // An honest registry mends it.
    let honest = Hostile::tame(&network)?;
    let again = honest.put("some", "v1", &image);
    daemon.host().docker(&["pull", "-q", &again], "").ok()?;
    settled(&daemon)?;
    check_all(&daemon, &name, t.prefix())
}

fn a_registry_that_fails_for_a_while(t: &Case<'_>) -> Result<()> {
    let (daemon, image) = (lazy()?, image(t.prefix(), estargz())?);
    let digest = image.layers[0].digest.clone();
    let registry = Hostile::start(&Network::of(daemon.host())?, move |request, before| {
        let fails = request.path.ends_with(&digest) && (2..5).contains(&before);
        fails.then(|| error(503, "UNAVAILABLE", "not now"))
    })?;
    let name = registry.put("some", "v1", &image);
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    check_all(&daemon, &name, t.prefix())?;
    settled(&daemon)
}

/// What the client said at the pull is still known to the next daemon, and on no disk.
fn credentials_outlive_the_daemon(t: &Case<'_>) -> Result<()> {
    const SECRET: &str = "a-very-secret-password";
    let (mut daemon, gates, image) = (lazy()?, Gates::default(), image(t.prefix(), estargz())?);
    let (blob, gate) = (image.layers[0].clone(), gates.rest.clone());
    let registry = Hostile::start(&Network::of(daemon.host())?, move |request, _| {
        use base64::Engine;
        let known = base64::engine::general_purpose::STANDARD.encode(format!("me:{SECRET}"));
        if request.header("authorization") != format!("Basic {known}") {
            return Some(error(401, "UNAUTHORIZED", "who are you").header("WWW-Authenticate", "Basic realm=\"r\""));
        }
        let (first, last) = range(request).filter(|(first, last)| last - first > LONG)?;
        let bytes = blob.bytes[first as usize..=last as usize].to_vec();
        let body = Body::Held { bytes, before: 0, gate: gate.clone() };
        let range = format!("bytes {first}-{last}/{}", blob.bytes.len());
        Some(Answer::new(206, "").header("Content-Range", &range).body(body))
    })?;
    let name = registry.put("some", "v1", &image);
    let path = format!("/images/create?fromImage={}&tag=v1", registries::untagged(&name));
    let auth = registries::credentials("me", SECRET);
    let socket = &daemon.host().socket;
    let pulled = compat_tests::http::request(socket, "POST", &path, &[("X-Registry-Auth", &auth)], b"")?;
    ensure!(!pulled.text().contains("error"), "{}", pulled.text());
    gates.rest.wait_for(1)?;
    daemon.kill()?;
    let found = Command::new("grep").args(["-rl", SECRET]).arg(daemon.dir()).output()?;
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    gates.rest.wait_for_given_up(1)?;
    daemon.restart()?;
    gates.rest.open();
    settled(&daemon)?;
    check_all(&daemon, &name, t.prefix())
}

/// The image is needed in another form, which takes all of it.
fn another_driver_waits_for_the_rest(t: &Case<'_>) -> Result<()> {
    let (mut daemon, gates, image) = (lazy()?, Gates::default(), image(t.prefix(), estargz())?);
    let registry = gated(&Network::of(daemon.host())?, &image, t.prefix(), &gates)?;
    let name = registry.put("some", "v1", &image);
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    let id = daemon.host().docker(&["create", "--network", "none", &name, "sha256sum", "rest1"], "").ok()?;
    gates.rest.wait_for(1)?;
    daemon.stop()?;
    daemon.restart_with(&["--bridge", "none", "--storage-driver", "overlay2"])?;
    let image_run = ["run", "--rm", "--network", "none", &name, "sha256sum", "rest2"];
    let mut waits = daemon.host().command("docker").args(image_run).stdout(std::process::Stdio::piped()).spawn()?;
    gates.rest.wait_for(1)?;
    ensure!(waits.try_wait()?.is_none());
    gates.held.open();
    gates.rest.open();
    let seen = waits.wait_with_output()?;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    ensure!(seen.starts_with(&sum(t.prefix(), "rest2", 1_000_000)), "{seen}");
    // And the container of before has its own driver.
    let seen = daemon.host().docker(&["start", "-a", &id], "").ok()?;
    ensure!(seen.starts_with(&sum(t.prefix(), "rest1", 1_000_000)), "{seen}");
    Ok(())
}

/// A pull of a daemon that is not lazy brings everything, also of what another one had begun.
fn pulled_without_the_option(t: &Case<'_>) -> Result<()> {
    let (mut daemon, gates, image) = (lazy()?, Gates::default(), image(t.prefix(), estargz())?);
    let registry = gated(&Network::of(daemon.host())?, &image, t.prefix(), &gates)?;
    let name = registry.put("some", "v1", &image);
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    daemon.stop()?;
    daemon.restart_with(&["--bridge", "none"])?;
    gates.held.open();
    gates.rest.open();
    let begun = std::time::Instant::now();
    daemon.host().docker(&["pull", "-q", &name], "").ok()?;
    ensure!(ordinary(&daemon) && begun.elapsed() < LIMIT);
    check_all(&daemon, &name, t.prefix())?;
    settled(&daemon)
}
