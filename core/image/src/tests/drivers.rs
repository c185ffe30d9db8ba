//! Which driver is chosen, and what becomes of images and snapshots when another one is.

use std::os::fd::{AsFd, AsRawFd};

use dockerd_sys::mount::{self, OverlayLayers};

use super::*;
use crate::snapshot::ChangeKind;

/// An overlay at a directory, on which no other can stand; unmounted when dropped.
struct Overlaid(tempfile::TempDir);

impl Overlaid {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let open = |name: &str| {
            std::fs::create_dir(dir.path().join(name)).expect("made");
            std::fs::File::open(dir.path().join(name)).expect("opened")
        };
        let (lower, upper, work) = (open("lower"), open("upper"), open("work"));
        open("data");
        let layers = OverlayLayers {
            lower: vec![lower.as_fd()],
            data: Vec::new(),
            upper: Some((upper.as_fd(), work.as_fd())),
            options: &[],
        };
        let tree = mount::overlay(&layers, 0).expect("mounted");
        mount::attach_at(tree, &dir.path().join("data")).expect("attached");
        Self(dir)
    }
}

impl Drop for Overlaid {
    fn drop(&mut self) {
        let detached = mount::detach(&self.0.path().join("data"));
        assert!(detached.is_ok() || std::thread::panicking());
    }
}

fn write_in(tree: &impl AsRawFd, name: &str, text: &str) {
    std::fs::write(format!("/proc/self/fd/{}/{name}", tree.as_raw_fd()), text).expect("written");
}

#[test]
fn privileged_where_no_overlay_can_stand_files_are_copied() {
    let place = Overlaid::new();
    let layout = Layout::new(place.0.path().join("data"), place.0.path().join("exec"));
    layout.create().expect("made");
    for name in ["erofs", "overlay2"] {
        let error = ImageStore::open(&layout, Some(name)).expect_err("it does not work").to_string();
        let words = format!("error initializing graphdriver: driver not supported: {name}: ");
        assert!(error.starts_with(&words), "{error}");
    }
    let error = ImageStore::open(&layout, Some("btrfs")).expect_err("unknown").to_string();
    assert_eq!(error, "error initializing graphdriver: driver not supported: btrfs");
    assert_eq!(std::fs::read_dir(layout.tmp_dir()).expect("listed").count(), 0, "attempts leave nothing");

    let store = ImageStore::open(&layout, None).expect("opened");
    assert_eq!(store.snapshots().name(), "vfs");
    let layers = [layer("a"), tar_of(&[("second", b"x"), (".wh.shared", b"")])];
    let image = load(&store, &docker_archive(&[(&["x:1"], &layers)])).expect("loaded").remove(0).image;
    assert!(store.prepare("c", image.chain()).expect("prepared").is_none());
    let tree = store.snapshots().mount("c").expect("mounted");
    assert_eq!((read_in(&tree, "second"), read_in(&tree, "a").len()), (b"x".to_vec(), 2 << 20));
    assert_eq!(store.snapshots().changes("c").expect("compared"), []);
    write_in(&tree, "new", "12345");
    drop(tree);
    let changes = store.snapshots().changes("c").expect("compared");
    assert!(matches!(&changes[..], [change] if change.path == "/new" && change.kind == ChangeKind::Added));
    store.remove_snapshot("c").expect("removed");
    remove(&store, "x:1", false).expect("removed");
    assert!(store.snapshots().layers().is_empty());
}

#[test]
fn privileged_snapshots_of_another_driver_are_committed_to_the_chosen_one() {
    let (mut root, store) = Root::new();
    let archive = docker_archive(&[(&["x:1"], &[layer("a"), layer("b")])]);
    let image = load(&store, &archive).expect("loaded").remove(0).image;
    store.prepare("old", image.chain()).expect("prepared");
    write_in(&store.snapshots().mount("old").expect("mounted"), "new", "12345");
    drop(store);
    for driver in ["vfs", "erofs", "overlay2"] {
        root.driver = driver;
        let Ok(store) = ImageStore::open(&root.layout, Some(driver)) else { continue };
        assert_eq!((store.snapshots().name(), store.snapshots_of("old").name()), (driver, "overlay2"));
        assert_eq!(store.snapshot_keys(), ["old"]);
        let options = crate::CommitOptions {
            parent: image.id.clone(),
            container: "old".to_owned(),
            container_config: dockerd_types::container::ContainerConfig::default(),
            config: dockerd_types::container::ContainerConfig::default(),
            reference: Some(Reference::parse("made:1").expect("valid")),
            author: String::new(),
            comment: String::new(),
            engine_version: String::new(),
        };
        let made = store.commit("old", &options).expect("committed");
        assert_eq!(made.layers.len(), 3);
        let tree = store.snapshots().view(made.chain().expect("a layer")).expect("mounted");
        assert_eq!((read_in(&tree, "new"), read_in(&tree, "b").len()), (b"12345".to_vec(), 2 << 20));
        drop(tree);
        remove(&store, "made:1", false).expect("removed");
        settled(&store);
    }
    // The last snapshot takes the layers of a driver that is not used any more along.
    root.driver = "vfs";
    let store = root.open();
    assert_eq!(root.names("overlay2/layers").len(), 2);
    store.remove_snapshot("old").expect("removed");
    assert_eq!(root.names("overlay2/layers"), Vec::<String>::new());
    assert!(store.resolve("x:1").is_ok());
    store.prepare("new", image.chain()).expect("made anew");
    store.remove_snapshot("new").expect("removed");
    remove(&store, "x:1", false).expect("removed");
    root.assert_empty();
}

/// A power cut while one driver was chosen, and a start with another: what containers of the first lie upon is made anew.
#[test]
fn privileged_layers_of_a_former_driver_are_checked_after_a_power_cut() {
    let (mut root, store) = Root::new();
    let image =
        load(&store, &docker_archive(&[(&["x:1"], &[layer("a"), layer("b")])])).expect("loaded").remove(0).image;
    store.prepare("old", image.chain()).expect("prepared");
    write_in(&store.snapshots().mount("old").expect("mounted"), "new", "12345");
    settled(&store);
    drop(store);
    let torn = root.layer(&image.layers[1].chain_id);
    std::fs::write(torn.join("unsettled"), "another boot").expect("marked");
    std::fs::write(torn.join("diff/shared"), "").expect("torn");
    root.driver = "vfs";
    let store = ImageStore::open(&root.layout, Some("vfs")).expect("opened");
    let tree = store.snapshots_of("old").mount("old").expect("mounted");
    assert_eq!((read_in(&tree, "shared"), read_in(&tree, "new")), (b"x".to_vec(), b"12345".to_vec()));
    drop(tree);
    drop(store);
    // Torn content is of use to no driver.
    std::fs::write(torn.join("unsettled"), "another boot").expect("marked");
    let content = root.dir.path().join("data/image/content/sha256");
    std::fs::write(content.join(image.layers[1].diff_id.hex()), "torn").expect("torn");
    let store = ImageStore::open(&root.layout, Some("vfs")).expect("opened");
    assert!(store.resolve("x:1").is_err());
}
