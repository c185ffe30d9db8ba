//! The store as a whole, on disk: archives of all shapes in, out and away again; needs root.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use dockerd_store::Layout;
use dockerd_types::{Digest, Reference};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::lease::Lease;
use crate::{Image, ImageError, ImageStore, Loaded, Platform, Removal, RemoveOptions};

mod composefs;
mod drivers;

/// A data root of the test's own.
struct Root {
    dir: tempfile::TempDir,
    layout: Layout,
    driver: &'static str,
}

impl Root {
    /// With the driver that runs everywhere.
    fn new() -> (Self, ImageStore) {
        Self::with("overlay2").expect("overlays can be mounted")
    }

    /// `None` where this kernel cannot have that driver.
    fn with(driver: &'static str) -> Option<(Self, ImageStore)> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::new(dir.path().join("data"), dir.path().join("exec"));
        layout.create().expect("made");
        let store = ImageStore::open(&layout, Some(driver)).ok()?;
        Some((Self { dir, layout, driver }, store))
    }

    /// One for each driver.
    fn of_all() -> impl Iterator<Item = (Self, ImageStore)> {
        ["erofs", "overlay2", "vfs"].into_iter().filter_map(Self::with)
    }

    fn open(&self) -> ImageStore {
        ImageStore::open(&self.layout, Some(self.driver)).expect("opened")
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("data").join(path)).into_iter().flatten();
        let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Names in a directory of the driver.
    fn driver_names(&self, part: &str) -> Vec<String> {
        self.names(&format!("{}/{part}", self.driver))
    }

    fn driver_path(&self, part: &str) -> PathBuf {
        self.dir.path().join("data").join(self.driver).join(part)
    }

    fn layer(&self, chain: &Digest) -> PathBuf {
        self.driver_path("layers").join(chain.hex())
    }

    /// Nothing but what the index says.
    fn assert_empty(&self) {
        let of_driver = ["layers", "init", "snapshots"].map(|part| format!("{}/{part}", self.driver));
        let of_all = ["image/content/sha256", "image/images", "tmp"].map(str::to_owned);
        for path in of_driver.into_iter().chain(of_all) {
            assert_eq!(self.names(&path), Vec::<String>::new(), "{path}");
        }
    }
}

/// A file of a mounted tree.
fn read_in(tree: impl std::os::fd::AsFd, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut file = dockerd_sys::inside::open(tree.as_fd(), name).expect("opened");
    file.read_to_end(&mut out).expect("read");
    out
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::sha256(&Sha256::digest(bytes).into())
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1000);
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).expect("appended");
    }
    builder.into_inner().expect("written")
}

/// Large enough to be staged while it arrives.
fn layer(name: &str) -> Vec<u8> {
    let mut state = u64::from_le_bytes(digest(name.as_bytes()).as_str().as_bytes()[7..15].try_into().expect("eight"));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 59) as u8
    };
    let content: Vec<u8> = (0..2 << 20).map(|_| next()).collect();
    tar_of(&[(name, &content), ("shared", b"x")])
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| digest(layer)).collect();
    json!({
        "architecture": crate::Platform::host().architecture,
        "os": "linux",
        "created": "2020-01-02T03:04:05Z",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

fn docker_archive(images: &[(&[&str], &[Vec<u8>])]) -> Vec<u8> {
    let (mut files, mut manifest) = (Vec::new(), Vec::new());
    for (tags, layers) in images {
        let config = config(layers);
        let names: Vec<String> = layers.iter().map(|layer| format!("{}/layer.tar", digest(layer).hex())).collect();
        let config_name = format!("{}.json", digest(&config).hex());
        manifest.push(json!({"Config": config_name, "RepoTags": tags, "Layers": names}));
        files.push((config_name, config));
        files.extend(names.iter().map(|name| (name.replace("layer.tar", "VERSION"), b"1.0".to_vec())));
        files.extend(names.into_iter().zip(layers.iter().cloned()));
    }
    files.push(("manifest.json".to_owned(), json!(manifest).to_string().into_bytes()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (name.as_str(), &content[..])).collect();
    tar_of(&files)
}

fn compress(program: &str, content: &[u8]) -> Vec<u8> {
    let mut command = std::process::Command::new(program);
    let mut child = command
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    let (mut stdin, content) = (child.stdin.take().expect("piped"), content.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&content));
    let out = child.wait_with_output().expect("ends").stdout;
    writer.join().expect("joined").expect("written");
    out
}

/// An OCI layout; `change` may spoil its files.
fn oci_layout(layers: &[Vec<u8>], program: Option<&str>, change: impl Fn(&mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", digest(bytes).hex()), bytes.to_vec());
    let descriptor =
        |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
    let config = config(layers);
    let packed: Vec<Vec<u8>> =
        layers.iter().map(|layer| program.map_or_else(|| layer.clone(), |program| compress(program, layer))).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": packed.iter().map(|layer| descriptor("layer", layer)).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    let attestation = json!({"config": descriptor("x", b"none"), "layers": []}).to_string().into_bytes();
    let with = |mut descriptor: Value, key: &str, value: Value| {
        descriptor[key] = value;
        descriptor
    };
    let own = json!({"os": "linux", "architecture": Platform::host().architecture});
    let nested = json!({"manifests": [
        with(descriptor("m", b"foreign"), "platform", json!({"os": "linux", "architecture": "other"})),
        with(descriptor("m", &manifest), "platform", own),
        with(descriptor("m", &attestation), "platform", json!({"os": "unknown", "architecture": "unknown"})),
    ]})
    .to_string()
    .into_bytes();
    let top = json!({"manifests": [
        with(descriptor("i", &nested), "annotations", json!({"io.containerd.image.name": "docker.io/library/oci:1"})),
        with(descriptor("m", &manifest), "annotations", json!({"org.opencontainers.image.ref.name": "example.org/oci:2"})),
        with(descriptor("m", &attestation), "annotations", json!({"vnd.docker.reference.type": "attestation-manifest"})),
    ]});
    let mut files: Vec<(String, Vec<u8>)> = packed.iter().map(|layer| blob(layer)).collect();
    files.extend([blob(&config), blob(&manifest), blob(&attestation), blob(&nested)]);
    files.push(("index.json".to_owned(), top.to_string().into_bytes()));
    files.push(("oci-layout".to_owned(), b"{}".to_vec()));
    change(&mut files);
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (name.as_str(), &content[..])).collect();
    tar_of(&files)
}

fn load(store: &ImageStore, archive: &[u8]) -> Result<Vec<Loaded>, ImageError> {
    store.load(archive, None, &mut |_| {})
}

/// Waits until the background has brought everything to disk.
fn settled(store: &ImageStore) {
    let begun = std::time::Instant::now();
    while !store.snapshots().unsettled().is_empty() {
        assert!(begun.elapsed().as_secs() < 60, "layers are not settled");
        drop(store.settling());
        std::thread::yield_now();
    }
}

fn names(image: &Image) -> Vec<String> {
    image.references.iter().map(Reference::familiar).collect()
}

fn remove(store: &ImageStore, name: &str, force: bool) -> Result<Vec<Removal>, ImageError> {
    store.remove(name, RemoveOptions { force, no_prune: false }, &|owner| owner.starts_with("running"))
}

#[test]
fn privileged_several_images_share_layers_and_go_one_by_one() {
    for (root, store) in Root::of_all() {
        let (a, b) = (layer("a"), layer("b"));
        let archive =
            docker_archive(&[(&["one:1", "two:2"], &[a.clone(), b.clone()]), (&[], std::slice::from_ref(&a))]);
        let loaded = load(&store, &archive).expect("loaded");
        assert_eq!((names(&loaded[0].image), names(&loaded[1].image)), (vec!["one:1".into(), "two:2".into()], vec![]));
        assert_eq!(loaded[0].image.id, digest(&config(&[a.clone(), b])));
        assert_eq!(loaded[0].image.size(), 2 * ((2 << 20) + 1));
        assert_eq!((root.driver_names("layers").len(), root.names("image/content/sha256").len()), (2, 4));
        assert_eq!(root.names("tmp"), Vec::<String>::new());
        let again = load(&store, &archive).expect("loaded again");
        assert_eq!(again[0].image.id, loaded[0].image.id);
        assert_eq!(remove(&store, "one:1", false).expect("untagged").len(), 1);
        let gone = remove(&store, "two:2", false).expect("deleted");
        assert!(matches!(&gone[..], [Removal::Untagged(..), Removal::Deleted(_), Removal::Layer(_)]), "{gone:?}");
        let gone = remove(&store, loaded[1].image.id.short(), false).expect("deleted");
        assert!(matches!(&gone[..], [Removal::Deleted(_), Removal::Layer(_)]), "{gone:?}");
        root.assert_empty();
    }
}

#[test]
fn privileged_oci_layouts_with_all_compressions() {
    for program in [None, Some("gzip"), Some("zstd"), Some("bzip2"), Some("xz")] {
        if let Some(program) = program
            && std::process::Command::new(program).arg("--version").output().is_err()
        {
            continue;
        }
        let (root, store) = Root::new();
        let layers = [layer("a"), layer("b")];
        let archive = oci_layout(&layers, program, |_| {});
        for archive in [archive.clone(), compress("gzip", &archive)] {
            let loaded = load(&store, &archive).expect("loaded");
            assert_eq!(loaded.len(), 1, "{program:?}");
            let image = store.resolve("oci:1").expect("there");
            assert_eq!(image.id, digest(&config(&layers)));
            assert_eq!(names(&image), ["oci:1", "example.org/oci:2"]);
            let view = store.snapshots().view(&image.layers[1].chain_id).expect("mounted");
            assert_eq!(read_in(view, "shared"), b"x");
            assert_eq!(root.names("tmp"), Vec::<String>::new());
        }
    }
}

#[test]
fn privileged_what_is_wrong_adds_nothing_and_leaves_nothing() {
    let layers = [layer("a"), layer("b")];
    let good = docker_archive(&[(&["x:1"], &layers)]);
    let swap = |files: &mut Vec<(String, Vec<u8>)>| files[0].1 = layer("c");
    let flip = |files: &mut Vec<(String, Vec<u8>)>| files[1].1[700] ^= 1;
    let drop_layer = |files: &mut Vec<(String, Vec<u8>)>| _ = files.remove(1);
    let cut_layer = |files: &mut Vec<(String, Vec<u8>)>| files[1].1.truncate(1000);
    let evil = tar_of(&[("good", b"x"), ("../evil", b"x")]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (good[..good.len() / 2].to_vec(), "unexpected EOF"),
        (compress("gzip", &good)[..5000].to_vec(), ""),
        (oci_layout(&layers, None, swap), "has digest"),
        (oci_layout(&layers, None, flip), ""),
        (oci_layout(&layers, Some("gzip"), flip), ""),
        (oci_layout(&layers, Some("gzip"), drop_layer), "no such file or directory"),
        (oci_layout(&layers, Some("gzip"), cut_layer), ""),
        (docker_archive(&[(&["x:1"], &[layers[0].clone(), evil])]), "invalid entry name \"../evil\""),
        (docker_archive(&[(&["X:1"], &layers)]), "must be lowercase"),
        (docker_archive(&[(&["x"], &layers)]), "invalid tag \"x\""),
        (tar_of(&[("other", b"x")]), "does not contain a manifest.json"),
        (b"no tar".to_vec(), "unexpected EOF"),
    ];
    let (root, store) = Root::new();
    for (archive, words) in cases {
        let error = load(&store, &archive).expect_err(words).to_string();
        assert!(error.contains(words), "{error} instead of {words}");
        assert!(store.index().images.is_empty());
        root.assert_empty();
    }
    // A diffID that the configuration makes up.
    let mut manifest_first = docker_archive(&[(&["x:1"], &layers)]);
    let (from, to) = (digest(&layers[1]).hex().as_bytes().to_vec(), digest(b"made up").hex().as_bytes().to_vec());
    let at =
        manifest_first.windows(64 + 7).position(|w| w.starts_with(b"sha256:") && w[7..] == from[..]).expect("there");
    manifest_first[at + 7..at + 71].copy_from_slice(&to);
    let error = load(&store, &manifest_first).expect_err("refused").to_string();
    assert!(error.starts_with("invalid diffID for layer 1: expected"), "{error}");
    root.assert_empty();
}

#[test]
fn privileged_the_same_archive_from_many_sides_at_once() {
    let (root, store) = Root::new();
    let layers = [layer("a"), layer("b"), layer("c")];
    for archive in [docker_archive(&[(&["x:1"], &layers)]), oci_layout(&layers, Some("gzip"), |_| {})] {
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| load(&store, &archive).expect("loaded"));
            }
            // Somebody whose connection breaks, with the same layers under way.
            scope.spawn(|| load(&store, &archive[..archive.len() - 700_000]).expect_err("cut"));
        });
        assert_eq!(root.driver_names("layers").len(), 3);
        assert_eq!((store.index().images.len(), root.names("tmp").len()), (1, 0));
    }
}

#[test]
fn privileged_removal_takes_nothing_from_a_load_or_a_container() {
    for (root, store) in Root::of_all() {
        let layers = [layer("a")];
        let archive = docker_archive(&[(&["x:1"], &layers)]);
        let image = load(&store, &archive).expect("loaded").remove(0).image;
        let lease = Lease::new(&store);
        lease.cover(&image.layers[0].chain_id);
        lease.cover(&image.layers[0].diff_id);
        assert_eq!(remove(&store, "x:1", false).expect("removed").len(), 2);
        assert_eq!((root.driver_names("layers").len(), root.names("image/content/sha256").len()), (1, 1));
        drop(lease);
        root.assert_empty();
        // A container's writable layer keeps what it lies upon, though its image goes.
        let image = load(&store, &archive).expect("loaded").remove(0).image;
        store.snapshots().prepare("stopped1", image.chain()).expect("prepared");
        store.hold(&image.id, "stopped1");
        assert!(remove(&store, "x:1", false).is_err());
        assert_eq!(remove(&store, "x:1", true).expect("forced").len(), 2);
        assert_eq!(root.driver_names("layers").len(), 1);
        drop(store);
        let store = root.open();
        assert_eq!(root.driver_names("layers").len(), 1);
        store.snapshots().mount("stopped1").expect("mounted");
        store.remove_snapshot("stopped1").expect("removed");
        root.assert_empty();
    }
}

#[test]
fn privileged_snapshots_made_ahead_go_with_their_layers() {
    let (root, store) = Root::new();
    let archive = docker_archive(&[(&["x:1"], &[layer("a")])]);
    let image = load(&store, &archive).expect("loaded").remove(0).image;
    let chain = image.chain().expect("a layer");
    let snapshots = store.snapshots();
    assert!(snapshots.prepare("first", Some(chain)).expect("prepared").is_none(), "nothing was made ahead");
    snapshots.stock(chain).expect("made");
    snapshots.stock(chain).expect("it is there");
    assert_eq!(root.driver_names("snapshots").len(), 2);
    assert_eq!(snapshots.keys(), ["first"], "it is nobody's");

    let tree = snapshots.prepare("second", Some(chain)).expect("prepared").expect("with its mount");
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    drop(rustix::fs::openat(&tree, "new", flags, rustix::fs::Mode::RUSR).expect("writable"));
    drop(tree);
    assert_eq!(snapshots.changes("second").expect("compared").len(), 1);
    assert_eq!(snapshots.changes("first").expect("compared").len(), 0);
    assert_eq!(snapshots.snapshot_chain("second").as_ref(), Some(chain));

    // It does not keep the layers, and none is made of layers that are gone.
    snapshots.stock(chain).expect("made");
    for key in ["first", "second"] {
        store.remove_snapshot(key).expect("removed");
    }
    remove(&store, "x:1", false).expect("removed");
    root.assert_empty();
    snapshots.stock(chain).expect_err("no layer");
    root.assert_empty();
    // One of a daemon that was killed goes at the next start.
    load(&store, &archive).expect("loaded");
    store.snapshots().stock(chain).expect("made");
    drop(store);
    let store = root.open();
    assert_eq!(root.driver_names("snapshots"), Vec::<String>::new());
    remove(&store, "x:1", false).expect("removed");
    root.assert_empty();
}

#[test]
fn privileged_a_lease_keeps_what_the_tar_of_a_layer_may_only_be_had_from() {
    let (root, store) = Root::new();
    let image = load(&store, &docker_archive(&[(&["x:1"], &[layer("a")])])).expect("loaded").remove(0).image;
    let compressed = store.content().put(b"as a registry has it").expect("written");
    let form = crate::distribution::LayerBlob {
        digest: compressed.clone(),
        size: 20,
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        repositories: ["reg.test/x".to_owned()].into(),
    };
    store.distribution().record(&image.layers[0].diff_id, None, form).expect("noted");
    let lease = Lease::new(&store);
    lease.cover_layer(&image.layers[0]);
    remove(&store, "x:1", false).expect("removed");
    assert!(store.content().has(&compressed) && store.kept_blob(&image.layers[0].diff_id).is_some());
    drop(lease);
    assert!(!store.content().has(&compressed) && store.distribution().layers().is_empty());
    root.assert_empty();
}

#[test]
fn privileged_conflicts_in_dockers_words() {
    let (_root, store) = Root::new();
    let image = load(&store, &docker_archive(&[(&["x:1", "y:1"], &[layer("a")])])).expect("loaded").remove(0).image;
    let short = image.id.short().to_owned();
    let refused = |name: &str, force| remove(&store, name, force).expect_err("refused").to_string();
    assert_eq!(
        refused(&short, false),
        format!("conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories")
    );
    remove(&store, "y:1", false).expect("untagged");
    store.hold(&image.id, "stopped0123456789");
    assert_eq!(
        refused("x:1", false),
        format!(
            "conflict: unable to remove repository reference \"x:1\" (must force) - container stopped01234 is using its referenced image {short}"
        )
    );
    assert_eq!(
        refused(&short, false),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by stopped container stopped01234"
        )
    );
    store.hold(&image.id, "running0123456789");
    assert_eq!(
        refused(&short, true),
        format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by running container running01234"
        )
    );
    let untagged = remove(&store, "x:1", true).expect("untagged");
    assert_eq!(untagged, [Removal::Untagged("x:1".to_owned(), image.id.clone())]);
    assert!(store.resolve(&short).is_ok());
    assert_eq!(refused("nope", false), "No such image: nope:latest");
}

#[test]
fn privileged_boot_sweeps_and_repairs() {
    for (root, store) in Root::of_all() {
        let layers = [layer("a"), layer("b")];
        let image = load(&store, &docker_archive(&[(&["x:1"], &layers)])).expect("loaded").remove(0).image;
        settled(&store);
        drop(store);
        let data = root.dir.path().join("data");
        for name in ["f".repeat(64), ".tmp-1-2".to_owned()] {
            std::fs::create_dir_all(root.driver_path("layers").join(name).join("diff")).expect("made");
        }
        std::fs::write(data.join("image/content/sha256").join("e".repeat(64)), "x").expect("made");
        // Of another run of the kernel, and torn.
        let torn = root.layer(&image.layers[1].chain_id);
        std::fs::write(torn.join("unsettled"), "another boot").expect("marked");
        let file = torn.join(if root.driver == "overlay2" { "diff/shared" } else { "index" });
        std::fs::write(file, "").expect("torn");
        let store = root.open();
        assert_eq!((root.driver_names("layers").len(), root.names("image/content/sha256").len()), (1, 3));
        // It is made anew for whoever needs it next.
        store.prepare("c", image.chain()).expect("prepared");
        assert_eq!(read_in(store.snapshots().mount("c").expect("mounted"), "shared"), b"x");
        store.remove_snapshot("c").expect("removed");
        assert!(store.resolve("x:1").is_ok());
        settled(&store);
        drop(store);
        // Its tar is torn too: then the image is lost, and nothing of it stays.
        std::fs::write(torn.join("unsettled"), "another boot").expect("marked");
        std::fs::write(data.join("image/content/sha256").join(image.layers[1].diff_id.hex()), "torn").expect("torn");
        let store = root.open();
        assert!(store.resolve("x:1").is_err());
        root.assert_empty();
    }
}

#[test]
fn privileged_what_is_saved_loads_with_the_same_ids() {
    let (_root, store) = Root::new();
    let (a, b) = (layer("a"), layer("b"));
    load(&store, &docker_archive(&[(&["one:1", "one:2"], &[a.clone(), b]), (&["two:1"], &[a])])).expect("loaded");
    let save = |store: &ImageStore, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut out = Vec::new();
        store.save(&store.select(&names, None).expect("selected"), &mut out).expect("saved");
        out
    };
    let id = store.resolve("two:1").expect("there").id.clone();
    let tar = save(&store, &["one", "two:1", id.short()]);
    let (_other_root, other) = Root::new();
    let loaded = load(&other, &tar).expect("loaded");
    assert_eq!(
        (names(&loaded[0].image), names(&loaded[1].image)),
        (vec!["one:1".into(), "one:2".into()], vec!["two:1".into()])
    );
    assert_eq!(other.resolve("one:1").expect("there").id, store.resolve("one:2").expect("there").id);
    // Byte for byte, but for the time of one directory.
    let timeless = |mut tar: Vec<u8>| {
        tar[512 + 136..512 + 156].fill(0);
        digest(&tar)
    };
    assert_eq!(timeless(save(&other, &["one", "two:1"])), timeless(tar));
    let by_id = save(&store, &[id.short()]);
    let mut text = String::new();
    let mut archive = tar::Archive::new(&by_id[..]);
    let manifest =
        archive.entries().expect("entries").flatten().find(|entry| entry.path_bytes().as_ref() == b"manifest.json");
    manifest.expect("there").read_to_string(&mut text).expect("read");
    assert!(text.starts_with(&format!("[{{\"Config\":\"blobs/sha256/{}\",\"RepoTags\":null", id.hex())), "{text}");
    assert!(matches!(store.select(&["nope".to_owned()], None), Err(ImageError::NotFound(name)) if name == "nope"));
    let other_platform = Platform { architecture: "other".to_owned(), ..Platform::host() };
    assert!(store.select(&["one".to_owned()], Some(&other_platform)).is_err());
}

#[test]
fn privileged_commits_hold_what_was_changed() {
    for (root, store) in Root::of_all() {
        let image = load(&store, &docker_archive(&[(&["x:1"], &[layer("a")])])).expect("loaded").remove(0).image;
        store.snapshots().prepare("c", image.chain()).expect("prepared");
        let options = |name: &str| crate::CommitOptions {
            parent: image.id.clone(),
            container: "c".to_owned(),
            container_config: dockerd_types::container::ContainerConfig::default(),
            config: dockerd_types::container::ContainerConfig::default(),
            reference: Some(Reference::parse(name).expect("valid")),
            author: String::new(),
            comment: String::new(),
            engine_version: String::new(),
        };
        let same = store.commit("c", &options("same:1")).expect("committed");
        assert_eq!((same.layers.len(), same.config.history.last().map(|step| step.empty_layer)), (1, Some(true)));
        let tree = store.snapshots().mount("c").expect("mounted");
        let path = format!("/proc/self/fd/{}/new", std::os::fd::AsRawFd::as_raw_fd(&tree));
        std::fs::write(path, "12345").expect("written");
        drop(tree);
        let made: Arc<Image> = store.commit("c", &options("made:1")).expect("committed");
        assert_eq!((made.layers.len(), made.layers[1].size, made.parent.as_ref()), (2, 5, Some(&image.id)));
        assert!(remove(&store, image.id.short(), true).is_err(), "it has children");
        remove(&store, "x:1", false).expect("untagged");
        remove(&store, "same:1", false).expect("removed");
        // The last child takes its nameless parent with it, as far as the snapshot lets go.
        store.remove_snapshot("c").expect("removed");
        let gone = remove(&store, "made:1", false).expect("removed");
        assert!(gone.contains(&Removal::Deleted(image.id.clone())), "{gone:?}");
        root.assert_empty();
    }
}
