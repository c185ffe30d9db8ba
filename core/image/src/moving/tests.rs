//! Roots of the stock daemon, made by `compat-tests/data/moving/make.sh`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use dockerd_store::Layout;

use super::*;

/// Unpacks a root, with device nodes and attributes: needs root.
fn unpacked(name: &str, into: &Path) -> PathBuf {
    let archive = format!("{}/../../compat-tests/data/moving/{name}.tar.gz", env!("CARGO_MANIFEST_DIR"));
    let root = into.join(name);
    std::fs::create_dir(&root).expect("made");
    let tar = Command::new("tar").args(["--xattrs", "--xattrs-include=*", "-xzf", &archive, "-C"]).arg(&root).status();
    assert!(tar.expect("tar runs").success());
    root.join("root")
}

fn empty_store(into: &Path) -> ImageStore {
    let layout = Layout::new(into.join("data"), into.join("exec"));
    layout.create().expect("made");
    ImageStore::open(&layout, None).expect("opened")
}

fn names(store: &ImageStore) -> Vec<String> {
    store.index().references.keys().map(Reference::familiar).collect()
}

#[test]
fn privileged_images_of_both_stores_are_the_same_images() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut ids = Vec::new();
    for name in ["overlay2", "containerd"] {
        let path = unpacked(name, dir.path());
        let root = OldRoot::open(&path).expect("opened");
        let images = StockImages::open(&root, None).expect("opened");
        let base = dir.path().join(format!("of-{name}"));
        let store = empty_store(&base);
        let (list, errors) = images.list();
        assert!(errors.is_empty(), "{errors:?}");
        for image in &list {
            let expected = images.check(image).expect("whole");
            let moved = images.take(image, &store).expect("taken");
            assert!(moved.is_new && moved.taken.is_empty() && moved.id == expected);
            assert!(!images.take(image, &store).expect("taken again").is_new);
        }
        let known = names(&store);
        for name in ["moving-a:1", "moving-a:latest", "example.com/team/moving-b:2", "moving-committed:latest"] {
            assert!(known.iter().any(|known| known == name), "{name} in {known:?}");
        }
        assert_eq!(known.iter().any(|name| name == "moving-c:latest"), name == "containerd");
        // What was put together is there after a restart too, and checked against its digests.
        let a: BTreeSet<Digest> = ["moving-a:1", "example.com/team/moving-b:2"]
            .iter()
            .map(|name| store.resolve(name).expect("there").id.clone())
            .collect();
        ids.push(a);
    }
    assert_eq!(ids[0], ids[1], "an image has one id, whichever store it comes from");
}

#[test]
fn privileged_a_damaged_layer_is_told_and_the_others_go_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = unpacked("overlay2", dir.path());
    let is_above = |path: &PathBuf| path.join("diff/replaced/above").exists();
    let layers = std::fs::read_dir(path.join("overlay2")).expect("listed").flatten().map(|entry| entry.path());
    let layer = layers.into_iter().find(is_above).expect("the upper layer of moving-a");
    std::fs::write(layer.join("diff/replaced/above"), "abuse\n").expect("written");
    let root = OldRoot::open(&path).expect("opened");
    let images = StockImages::open(&root, None).expect("opened");
    let store = empty_store(dir.path());
    let mut failed = Vec::new();
    for image in &images.list().0 {
        if let Err(error) = images.take(image, &store) {
            assert!(error.to_string().contains("\"replaced/above\" is not what it was"), "{error}");
            failed.extend(image.names.iter().map(Reference::familiar));
        }
    }
    failed.sort();
    assert_eq!(failed, ["moving-a:1", "moving-a:latest", "moving-committed:latest"]);
    assert_eq!(names(&store), ["example.com/team/moving-b:2"]);
    let left = std::fs::read_dir(dir.path().join("data/tmp")).expect("listed").count();
    assert_eq!(left, 0, "nothing half done is left");
}

#[test]
fn privileged_names_that_are_taken_stay() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = unpacked("overlay2", dir.path());
    let root = OldRoot::open(&path).expect("opened");
    let images = StockImages::open(&root, None).expect("opened");
    let store = empty_store(dir.path());
    let (list, _) = images.list();
    let named = |name: &str| list.iter().find(|image| image.names.iter().any(|n| n.familiar() == name)).expect(name);
    images.take(named("example.com/team/moving-b:2"), &store).expect("taken");
    let other = store.resolve("example.com/team/moving-b:2").expect("there").id.clone();
    store.tag(&other, &Reference::parse("moving-a:1").expect("a name")).expect("tagged");
    let moved = images.take(named("moving-a:1"), &store).expect("taken");
    assert_eq!(moved.taken.iter().map(Reference::familiar).collect::<Vec<_>>(), ["moving-a:1"]);
    assert_eq!(store.resolve("moving-a:1").expect("there").id, other);
    assert_eq!(store.resolve("moving-a").expect("there").id, moved.id);
}

#[test]
fn privileged_writable_layers_are_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for (name, driver) in [("overlay2", graph::DRIVER), ("containerd", containerd::DRIVER)] {
        let path = unpacked(name, dir.path());
        let root = OldRoot::open(&path).expect("opened");
        let images = StockImages::open(&root, None).expect("opened");
        let found = root.names("containers").expect("listed").into_iter().filter(|id| {
            let id = ContainerId::parse(id).expect("an id");
            let upper = images.writable(driver, &id).expect("there");
            dockerd_sys::inside::read_to_string(std::os::fd::AsFd::as_fd(&upper), "etc/made").is_ok()
        });
        assert_eq!(found.count(), 1, "one container was changed");
        let id = ContainerId::parse(&root.names("containers").expect("listed")[0]).expect("an id");
        assert!(matches!(images.writable("btrfs", &id), Err(MovingError::Driver(_))));
    }
}

#[test]
fn privileged_a_store_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = unpacked("containerd", dir.path());
    let meta = path.join("containerd/daemon/io.containerd.metadata.v1.bolt/meta.db");
    let writer = std::fs::File::open(meta).expect("opened");
    writer.lock().expect("locked");
    let root = OldRoot::open(&path).expect("opened");
    assert!(matches!(StockImages::open(&root, None), Err(MovingError::InUse(_))));
}

#[test]
fn privileged_names_by_digest_move_too() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = unpacked("overlay2", dir.path());
    let file = path.join("image/overlay2/repositories.json");
    let text = std::fs::read_to_string(&file).expect("read");
    // As a pull adds it: the digest is the manifest's.
    let digest = format!("sha256:{}", "ab".repeat(32));
    let id = text.split("\"moving-a:1\":\"").nth(1).and_then(|rest| rest.get(..71)).expect("its id").to_owned();
    let pulled = text.replacen("\"moving-a:1\"", &format!("\"moving-a@{digest}\":\"{id}\",\"moving-a:1\""), 1);
    std::fs::write(&file, pulled).expect("written");
    let root = OldRoot::open(&path).expect("opened");
    let images = StockImages::open(&root, None).expect("opened");
    let store = empty_store(dir.path());
    images.list().0.iter().for_each(|image| _ = images.take(image, &store).expect("taken"));
    let by_digest = Reference::parse(&format!("moving-a@{digest}")).expect("a name");
    assert_eq!(store.index().references.get(&by_digest).map(ToString::to_string), Some(id));
}

#[test]
fn privileged_an_upper_directory_is_copied_with_its_marks() {
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let dir = tempfile::tempdir().expect("temporary directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(from.join("opaque")).expect("made");
    std::fs::create_dir(&to).expect("made");
    std::fs::write(from.join("file"), "content").expect("written");
    std::fs::hard_link(from.join("file"), from.join("opaque/link")).expect("linked");
    std::os::unix::fs::chown(from.join("file"), Some(7), Some(8)).expect("given away");
    let set = |path: &str, name: &str, value: &str| {
        rustix::fs::lsetxattr(from.join(path), name, value.as_bytes(), rustix::fs::XattrFlags::empty()).expect("set");
    };
    set("opaque", "trusted.overlay.opaque", "y");
    set("opaque", "trusted.overlay.impure", "y");
    set("file", "user.own", "kept");
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
    rustix::fs::mknodat(rustix::fs::CWD, from.join("whiteout"), kind, mode, 0).expect("made");
    let copy = || {
        let open = |path: &Path| std::fs::File::open(path).expect("opened");
        crate::archive::copy_upper(open(&from).as_fd(), open(&to).as_fd())
    };
    copy().expect("copied");
    let meta = |path: &str| std::fs::symlink_metadata(to.join(path)).expect("there");
    assert!(meta("whiteout").file_type().is_char_device() && meta("whiteout").rdev() == 0);
    assert_eq!((meta("file").uid(), meta("file").gid(), meta("file").ino()), (7, 8, meta("opaque/link").ino()));
    let value = |path: &str, name: &str| {
        let mut value = [0; 8];
        rustix::fs::lgetxattr(to.join(path), name, &mut value).map(|length| value[..length].to_vec())
    };
    assert_eq!(value("opaque", "trusted.overlay.opaque"), Ok(b"y".to_vec()));
    assert_eq!(value("file", "user.own"), Ok(b"kept".to_vec()));
    assert!(value("opaque", "trusted.overlay.impure").is_err(), "of the old mount only");
    // What another mount option wrote would be read wrongly.
    std::fs::remove_dir_all(&to).and_then(|()| std::fs::create_dir(&to)).expect("emptied");
    set("opaque", "trusted.overlay.redirect", "/elsewhere");
    assert!(copy().expect_err("refused").to_string().contains("trusted.overlay.redirect"));
}
