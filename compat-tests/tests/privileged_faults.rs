//! The disk fails while images are loaded, pulled, imported, committed, saved and removed: whichever call it hits, the
//! client is told or nothing is amiss, the daemon lives, an image is whole or not there, nothing is left over, and the same
//! works once the disk does. Ours only: each test has a daemon of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use compat_tests::daemon::Daemon;
use compat_tests::faults::{Fault, Injected};
use compat_tests::hostile::Hostile;
use compat_tests::network::Network;
use compat_tests::progress::Progress;
use compat_tests::seed::{self, Family, Form, Image, Layer, Packed, noise, tar_of};
use compat_tests::{Case, LIMIT, PAUSE, Suite, http, tests};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn main() -> ExitCode {
    if std::env::var_os("COMPAT_HOST").is_some() {
        eprintln!("suite faults: for a daemon of ours only");
        return ExitCode::SUCCESS;
    }
    Suite {
        name: "faults",
        flags: &[],
        tests: tests![load, load_overlay2, load_vfs, load_composefs, pull, import, commit, save, remove],
    }
    .main()
}

/// Calls that fail, and how many of them in one thread are tried.
const CALLS: [(&str, &[usize]); 15] = [
    ("openat", &[1, 2, 4, 6, 9, 12, 15, 19, 23]),
    ("openat2,open_tree,mount_setattr", &[1]),
    ("rename,renameat,renameat2", &[1, 2, 3]),
    ("fsync", &[1, 2, 3, 4]),
    ("fdatasync", &[1, 2]),
    ("linkat,link", &[1, 2, 3]),
    ("mkdir,mkdirat", &[1, 2]),
    ("unlink,unlinkat,rmdir", &[1, 2]),
    ("pread64", &[1, 3]),
    ("pwrite64,ftruncate,fallocate,copy_file_range", &[1]),
    ("getdents64", &[1, 2]),
    ("syncfs", &[1]),
    ("fchown,fchownat,fchmod,fchmodat,chmod", &[1]),
    ("utimensat,fsetxattr,setxattr", &[1]),
    ("statx,newfstatat", &[1, 3, 5]),
];
/// Most bytes of a file that are tried.
const SIZES: [u64; 5] = [10, 200, 4_000, 130_000, 290_000];
/// A file of the images' upper layer.
const FILE: &str = "file1";

/// What the daemon made of a request.
#[derive(Debug)]
enum Outcome {
    Done,
    Refused(String),
}

impl Outcome {
    fn of(progress: &Progress) -> Self {
        let told = progress.documents.iter().find_map(|document| document["error"].as_str());
        match (progress.status, told) {
            (200, None) => Self::Done,
            (_, Some(told)) => Self::Refused(told.to_owned()),
            _ => Self::Refused(progress.error().to_owned()),
        }
    }

    fn of_answer(answer: &http::Response) -> Self {
        if answer.status < 300 { Self::Done } else { Self::Refused(answer.message()) }
    }
}

/// A daemon, and what is done to it.
struct Bed<'a> {
    daemon: Daemon,
    /// The image's name.
    name: String,
    /// What `FILE` has in it.
    content: Vec<u8>,
    /// Makes what `act` needs, without faults.
    prepare: &'a dyn Fn(&Daemon) -> Result<()>,
    /// Does it. An error is one of the connection.
    act: &'a dyn Fn(&Daemon) -> Result<Outcome>,
    /// Whether the image is there when it was done.
    makes: bool,
    /// Files that may be there.
    tolerated: BTreeSet<String>,
}

impl Bed<'_> {
    /// Runs all faults, and more of the test's own.
    fn run(mut self, more: &[Fault]) -> Result<()> {
        // A first run makes what stays.
        self.round(None).context("without a fault")?;
        let before = self.settled()?;
        let calls = CALLS.iter().flat_map(|(calls, numbers)| numbers.iter().map(|nth| Fault::eio(calls, *nth)));
        let faults = calls.chain(SIZES.map(Fault::FileSize)).chain(more.iter().cloned());
        let mut hit = 0;
        for fault in faults {
            let refused = self.round(Some(&fault)).with_context(|| format!("{fault:?}: {}", last(&self.daemon)))?;
            hit += usize::from(refused);
            // What could not be deleted then is deleted with what comes next.
            self.round(None).with_context(|| format!("once more after {fault:?}"))?;
            if matches!(fault, Fault::Call { calls, .. } if calls.contains("unlink")) {
                // A temporary file that cannot be deleted stays until the daemon is started again.
                self.tolerated.extend(self.files()?.into_iter().filter(|path| path.starts_with("tmp/")));
            }
            self.same(&before).with_context(|| format!("after {fault:?}"))?;
        }
        ensure!(hit >= 3, "only {hit} faults were felt");
        self.daemon.stop()?;
        self.daemon.restart()?;
        self.round(None).context("after a restart")?;
        self.tolerated.clear();
        self.same(&before).context("after a restart")
    }

    /// Does it once, looks what came of it, and takes it away; whether it was refused.
    fn round(&self, fault: Option<&Fault>) -> Result<bool> {
        (self.prepare)(&self.daemon).context("prepare")?;
        let injected = fault.map(|fault| Injected::into_process(self.daemon.host().pid, fault)).transpose()?;
        let outcome = (self.act)(&self.daemon).unwrap_or_else(|error| Outcome::Refused(format!("{error:#}")));
        drop(injected);
        let ping = self.daemon.host().http("GET", "/_ping").context("the daemon is gone")?;
        ensure!(ping.status == 200, "the daemon answers {}", ping.status);
        let inspected = self.daemon.host().http("GET", &format!("/images/{}/json", self.name))?;
        match &outcome {
            Outcome::Done => ensure!((inspected.status == 200) == self.makes, "done, and yet {}", inspected.text()),
            Outcome::Refused(told) => {
                ensure!(fault.is_some(), "refused: {told}");
                ensure!(!told.trim().is_empty(), "refused without a word");
            }
        }
        if inspected.status == 200 {
            self.is_whole()?;
        }
        self.take_away()?;
        Ok(matches!(outcome, Outcome::Refused(_)))
    }

    /// The image that is listed can be saved and has the right files.
    fn is_whole(&self) -> Result<()> {
        let saved = self.daemon.host().http("GET", &format!("/images/{}/get", self.name))?;
        ensure!(saved.status == 200, "save: {}", saved.message());
        check_blobs(&saved.body)?;
        let create = json!({"Image": self.name, "Cmd": ["x"], "HostConfig": {"NetworkMode": "none"}});
        let made = self.daemon.host().http_json("POST", "/containers/create", &create)?;
        ensure!(made.status == 201, "create: {}", made.message());
        let id = made.json()?["Id"].as_str().context("an id")?.to_owned();
        let archive = self.daemon.host().http("GET", &format!("/containers/{id}/archive?path=/{FILE}"))?;
        let removed = self.daemon.host().http("DELETE", &format!("/containers/{id}?force=1"))?;
        ensure!(archive.status == 200, "{FILE}: {}", archive.message());
        let mut found = Vec::new();
        for entry in tar::Archive::new(&archive.body[..]).entries()? {
            std::io::copy(&mut entry?, &mut found)?;
        }
        ensure!(found == self.content, "{FILE} has other bytes");
        ensure!(removed.status == 204, "remove: {}", removed.message());
        Ok(())
    }

    fn take_away(&self) -> Result<()> {
        let list = self.daemon.host().http("GET", "/images/json?all=1")?.json()?;
        for image in list.as_array().into_iter().flatten() {
            let of_test = |tag: &Value| tag.as_str().is_some_and(|tag| tag.starts_with("base:"));
            if image["RepoTags"].as_array().is_some_and(|tags| tags.iter().any(of_test)) {
                continue;
            }
            let path = format!("/images/{}?force=1", image["Id"].as_str().unwrap_or_default());
            let removed = self.daemon.host().http("DELETE", &path)?;
            ensure!(removed.status == 200, "remove: {}", removed.message());
        }
        Ok(())
    }

    /// All files of images, but for snapshots that are kept ready.
    fn files(&self) -> Result<BTreeSet<String>> {
        let mut out = BTreeSet::new();
        let data = self.daemon.dir().join("data");
        walk(&data, &data, &mut out)?;
        out.retain(|path| !path.contains("/snapshots/") && !path.contains("/init/") && !path.ends_with(".db"));
        Ok(out)
    }

    /// The same once nothing is under way.
    fn settled(&self) -> Result<BTreeSet<String>> {
        let begun = Instant::now();
        loop {
            let files = self.files()?;
            let busy: Vec<&String> =
                files.iter().filter(|path| path.contains(".tmp") || path.contains("trash/")).collect();
            if busy.is_empty() {
                return Ok(files);
            }
            ensure!(begun.elapsed() < LIMIT, "still there: {busy:?}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until no other files are there than `before`.
    fn same(&self, before: &BTreeSet<String>) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = self.files()?;
            let more: Vec<&String> = now.difference(before).filter(|path| !self.tolerated.contains(*path)).collect();
            let fewer: Vec<&String> = before.difference(&now).collect();
            if more.is_empty() && fewer.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT / 10, "left over: {more:?}, missing: {fewer:?}; {}", last(&self.daemon));
            std::thread::sleep(PAUSE);
        }
    }
}

/// The end of the daemon's log.
fn last(daemon: &Daemon) -> String {
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}

fn walk(root: &Path, path: &Path, out: &mut BTreeSet<String>) -> Result<()> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            walk(root, &path, out)?;
        } else {
            out.insert(path.strip_prefix(root)?.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// Every blob of an archive has the digest it is named by, and there is an end.
fn check_blobs(tar: &[u8]) -> Result<()> {
    let mut is_ended = false;
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        is_ended |= path == "repositories";
        if let Some(hex) = path.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) {
            let mut bytes = Vec::new();
            std::io::copy(&mut entry, &mut bytes)?;
            ensure!(hex::encode(Sha256::digest(&bytes)) == hex, "{path} has other bytes");
        }
    }
    ensure!(is_ended, "the archive has no end");
    Ok(())
}

fn content(t: &Case<'_>) -> Vec<u8> {
    noise(t.prefix(), 300_000)
}

fn image(t: &Case<'_>) -> Packed {
    let lower = Layer::file("file0", &noise(&format!("{} 0", t.prefix()), 150_000));
    let upper = Layer::file(FILE, &content(t)).form(Form::Plain);
    Image::new(Family::Oci, t.prefix(), vec![lower, upper]).packed()
}

/// The image as an archive for `load`.
fn archive(image: &Packed, name: &str) -> Vec<u8> {
    let mut files: Vec<(String, Vec<u8>)> = vec![("config.json".to_owned(), image.config.bytes.clone())];
    let layers: Vec<String> = (0..image.layers.len()).map(|index| format!("layer{index}")).collect();
    files.extend(layers.iter().cloned().zip(image.layers.iter().map(|layer| layer.bytes.clone())));
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]);
    files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    tar_of(&files)
}

fn send(daemon: &Daemon, path: &str, tar: &[u8]) -> Result<Outcome> {
    let answer = http::request(&daemon.host().socket, "POST", path, &[("Content-Type", "application/x-tar")], tar)?;
    let lines = String::from_utf8_lossy(&answer.body).into_owned();
    let errors = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told = errors.into_iter().find_map(|line| line["error"].as_str().map(str::to_owned));
    Ok(told.map_or_else(|| Outcome::of_answer(&answer), Outcome::Refused))
}

fn nothing(_: &Daemon) -> Result<()> {
    Ok(())
}

fn start() -> Result<Daemon> {
    start_with(&[])
}

fn start_with(flags: &[&str]) -> Result<Daemon> {
    // So that a write beyond the limit fails instead of ending the daemon.
    Daemon::start_after("trap '' XFSZ", flags)
}

fn load(t: &Case<'_>) -> Result<()> {
    loads(t, start()?)
}

fn load_overlay2(t: &Case<'_>) -> Result<()> {
    loads(t, start_with(&["--storage-driver=overlay2"])?)
}

fn load_vfs(t: &Case<'_>) -> Result<()> {
    loads(t, start_with(&["--storage-driver=vfs"])?)
}

fn load_composefs(t: &Case<'_>) -> Result<()> {
    match start_with(&["--storage-driver=composefs"]) {
        // Not every kernel and file system can.
        Err(error) if format!("{error:#}").contains("driver not supported") => Ok(()),
        daemon => loads(t, daemon?),
    }
}

fn loads(t: &Case<'_>, daemon: Daemon) -> Result<()> {
    let name = "loaded:1".to_owned();
    let tar = archive(&image(t), &name);
    let act = |daemon: &Daemon| send(daemon, "/images/load", &tar);
    Bed { daemon, name, content: content(t), prepare: &nothing, act: &act, makes: true, tolerated: BTreeSet::new() }
        .run(&[])
}

fn pull(t: &Case<'_>) -> Result<()> {
    let daemon = start()?;
    let registry = Hostile::tame(&Network::of(daemon.host())?)?;
    let image = image(t);
    let name = registry.put("some", "v1", &image);
    let address = registry.address().to_owned();
    let act = |daemon: &Daemon| Ok(Outcome::of(&Progress::of_pull(daemon.host(), &format!("{address}/some"), "v1")?));
    let ingest = daemon.dir().join("data/image/ingest");
    let write = |layer: &seed::Blob, error, nth| Fault::Call {
        calls: "write,read",
        error,
        nth,
        path: Some(ingest.join(&layer.digest["sha256:".len()..])),
    };
    let more: Vec<Fault> = image
        .layers
        .iter()
        .flat_map(|layer| [write(layer, "EIO", 1), write(layer, "EIO", 2), write(layer, "ENOSPC", 1)])
        .collect();
    Bed { daemon, name, content: content(t), prepare: &nothing, act: &act, makes: true, tolerated: BTreeSet::new() }
        .run(&more)
}

fn import(t: &Case<'_>) -> Result<()> {
    let (daemon, name) = (start()?, "imported:1".to_owned());
    let tar = tar_of(&[(FILE, &content(t))]);
    let act = |daemon: &Daemon| send(daemon, "/images/create?fromSrc=-&repo=imported&tag=1", &tar);
    Bed { daemon, name, content: content(t), prepare: &nothing, act: &act, makes: true, tolerated: BTreeSet::new() }
        .run(&[])
}

fn commit(t: &Case<'_>) -> Result<()> {
    let (daemon, name) = (start()?, "committed:1".to_owned());
    let base = archive(&image(t), "base:1");
    ensure!(matches!(send(&daemon, "/images/load", &base)?, Outcome::Done), "no base image");
    let create = json!({"Image": "base:1", "Cmd": ["x"], "HostConfig": {"NetworkMode": "none"}});
    let made = daemon.host().http_json("POST", "/containers/create?name=from", &create)?;
    ensure!(made.status == 201, "{}", made.message());
    let tar = tar_of(&[("new", &noise("new", 200_000))]);
    let path = "/containers/from/archive?path=/";
    let put = http::request(&daemon.host().socket, "PUT", path, &[("Content-Type", "application/x-tar")], &tar)?;
    ensure!(put.status == 200, "{}", put.message());
    let act = |daemon: &Daemon| {
        let path = "/commit?container=from&repo=committed&tag=1";
        Ok(Outcome::of_answer(&daemon.host().http_json("POST", path, &json!({}))?))
    };
    Bed { daemon, name, content: content(t), prepare: &nothing, act: &act, makes: true, tolerated: BTreeSet::new() }
        .run(&[])
}

fn save(t: &Case<'_>) -> Result<()> {
    let (daemon, name) = (start()?, "saved:1".to_owned());
    let tar = archive(&image(t), &name);
    let prepare = |daemon: &Daemon| {
        ensure!(matches!(send(daemon, "/images/load", &tar)?, Outcome::Done), "not loaded");
        Ok(())
    };
    let act = |daemon: &Daemon| {
        let answer = daemon.host().http("GET", "/images/saved:1/get")?;
        if answer.status == 200 {
            // What was sent to its end is whole.
            check_blobs(&answer.body)?;
        }
        Ok(Outcome::of_answer(&answer))
    };
    Bed { daemon, name, content: content(t), prepare: &prepare, act: &act, makes: true, tolerated: BTreeSet::new() }
        .run(&[])
}

fn remove(t: &Case<'_>) -> Result<()> {
    let (daemon, name) = (start()?, "removed:1".to_owned());
    let tar = archive(&image(t), &name);
    let prepare = |daemon: &Daemon| {
        ensure!(matches!(send(daemon, "/images/load", &tar)?, Outcome::Done), "not loaded");
        Ok(())
    };
    let act = |daemon: &Daemon| Ok(Outcome::of_answer(&daemon.host().http("DELETE", "/images/removed:1")?));
    Bed { daemon, name, content: content(t), prepare: &prepare, act: &act, makes: false, tolerated: BTreeSet::new() }
        .run(&[])
}
