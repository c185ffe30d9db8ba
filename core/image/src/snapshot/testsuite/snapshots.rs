//! Writable snapshots: what is written is there, told, counted, and becomes a layer.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use super::ChangeKind::{Added, Deleted, Modified};
use super::*;

fn image(bed: &Bed) -> Digest {
    let below = layer()
        .file("file", "12345")
        .file("other", "12345")
        .file("dir/a", "1")
        .file("dir/b", "1")
        .file("dir/deep/er", "1")
        .directory("empty")
        .finish();
    let above = layer().file("above", "1").link(EntryType::Symlink, "link", "file").finish();
    bed.stack(&[below, above])
}

fn told(changes: &[(&str, ChangeKind)]) -> Vec<(String, ChangeKind)> {
    changes.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect()
}

pub(super) fn privileged_snapshots_are_written_compared_and_committed(name: &'static str) {
    let Some(mut bed) = Bed::new(name) else { return };
    let chain = image(&bed);
    let snapshot = bed.snapshot("c", Some(&chain));
    assert_eq!((bed.changes("c"), bed.driver.usage("c").expect("measured")), (told(&[]), 0));
    assert_eq!(bed.changed("c"), [0; 1024], "an empty tar");
    snapshot.write("new", "123");
    snapshot.write("file", "1234567");
    snapshot.write("dir/deep/new", "1");
    fs::remove_file(snapshot.path("other")).expect("removed");
    fs::remove_file(snapshot.path("dir/a")).expect("removed");
    fs::set_permissions(snapshot.path("empty"), fs::Permissions::from_mode(0o700)).expect("changed");
    symlink("anywhere", snapshot.path("dir/soft")).expect("linked");
    chown(snapshot.path("above"), Some(3), Some(4)).expect("changed");
    fs::create_dir(snapshot.path("made")).expect("made");
    // Came and went.
    snapshot.write("passing", "x");
    fs::remove_file(snapshot.path("passing")).expect("removed");
    let expected = told(&[
        ("/above", Modified),
        ("/dir", Modified),
        ("/dir/a", Deleted),
        ("/dir/deep", Modified),
        ("/dir/deep/new", Added),
        ("/dir/soft", Added),
        ("/empty", Modified),
        ("/file", Modified),
        ("/made", Added),
        ("/new", Added),
        ("/other", Deleted),
    ]);
    assert_eq!(bed.changes("c"), expected, "{name}");
    assert_eq!(bed.driver.usage("c").expect("measured"), 3 + 7 + 1 + 8 + 1);
    assert_eq!(bed.changed("c"), bed.changed("c"), "equal changes, equal bytes");

    // After its end, and to the next daemon, it is the same.
    drop(snapshot);
    bed.reopen();
    assert!(bed.driver.has_snapshot("c") && !bed.driver.has_snapshot("d"));
    assert_eq!((bed.driver.keys(), bed.driver.snapshot_chain("c")), (vec!["c".to_owned()], Some(chain.clone())));
    assert_eq!(bed.changes("c"), expected);
    let snapshot = Mounted(bed.driver.mount("c").expect("mounted"));
    assert_eq!(snapshot.read("link"), "1234567");

    let committed = bed.commit("c", Some(&chain));
    assert_eq!(bed.driver.ancestry(&committed).len(), 3);
    let view = bed.view(&committed);
    for (file, text) in [("new", "123"), ("file", "1234567"), ("dir/deep/new", "1"), ("dir/b", "1"), ("above", "1")] {
        assert_eq!(view.read(file), text, "{file}");
    }
    assert!(!view.has("other") && !view.has("dir/a") && !view.has("passing") && view.has("dir/deep/er"));
    assert_eq!(fs::metadata(view.path("empty")).expect("there").mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(view.path("above")).map(|meta| (meta.uid(), meta.gid())).expect("there"), (3, 4));
    assert_eq!(fs::read_link(view.path("dir/soft")).expect("there"), Path::new("anywhere"));
    // The image has not noticed.
    assert_eq!(bed.view(&chain).read("file"), "12345");
    drop((snapshot, view));
    bed.driver.remove("c").expect("removed");
    bed.driver.remove("c").expect("it may be gone");
    assert!(bed.driver.mount("c").is_err() && bed.driver.changes("c").is_err() && bed.driver.usage("c").is_err());
    assert!(bed.driver.write_layer("c", &mut Vec::new()).is_err() && bed.driver.snapshot_chain("c").is_none());
    bed.assert_removable();
}

pub(super) fn privileged_replaced_things_are_committed_as_they_are(name: &'static str) {
    let Some(bed) = Bed::new(name) else { return };
    let chain = image(&bed);
    let snapshot = bed.snapshot("c", Some(&chain));
    fs::remove_dir_all(snapshot.path("dir")).expect("removed");
    snapshot.write("dir", "a file now");
    fs::remove_file(snapshot.path("file")).expect("removed");
    fs::create_dir(snapshot.path("file")).expect("made");
    snapshot.write("file/inside", "1");
    fs::remove_file(snapshot.path("link")).expect("removed");
    symlink("other", snapshot.path("link")).expect("linked");
    fs::remove_dir(snapshot.path("empty")).expect("removed");
    fs::create_dir_all(snapshot.path("empty/again")).expect("made");
    let long = "l".repeat(255);
    snapshot.write(&long, "long");
    snapshot.write("program", "x");
    fs::hard_link(snapshot.path("program"), snapshot.path("second-name")).expect("linked");
    chown(snapshot.path("program"), Some(70_000), Some(3_000_000)).expect("changed");
    fs::set_permissions(snapshot.path("program"), fs::Permissions::from_mode(0o6711)).expect("changed");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(snapshot.path("program"), "user.note", b"noted", flags).expect("set");
    let file = File::create(snapshot.path("sparse")).expect("made");
    file.set_len(10 << 20).expect("extended");
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", (10 << 20) - 3).expect("written");
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(rustix::fs::CWD, snapshot.path(name), kind, rustix::fs::Mode::RUSR, device).expect(name);
    };
    node("pipe", rustix::fs::FileType::Fifo, 0);
    node("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    drop(std::os::unix::net::UnixListener::bind(snapshot.path("socket")).expect("bound"));
    let expected = told(&[
        ("/dir", Modified),
        ("/empty", Modified),
        ("/empty/again", Added),
        ("/file", Modified),
        ("/file/inside", Added),
        ("/link", Modified),
        (&format!("/{long}"), Added),
        ("/null", Added),
        ("/pipe", Added),
        ("/program", Added),
        ("/second-name", Added),
        ("/socket", Added),
        ("/sparse", Added),
    ]);
    assert_eq!(bed.changes("c"), expected, "{name}");

    let committed = bed.commit("c", Some(&chain));
    let (mut before, mut after) = (snapshot.seen(), bed.view(&committed).seen());
    // Sockets are in no archive; mount points are each container's own.
    before.retain(|path, _| after.contains_key(path));
    for view in [&mut before, &mut after] {
        for seen in view.values_mut() {
            (seen.mtime, seen.xattrs) =
                ((seen.mtime.0, 0), seen.xattrs.drain(..).filter(|x| x.0.starts_with(b"user.")).collect());
        }
        view.remove(&b""[..]);
    }
    seen::without_directory_times(&mut before, &mut after);
    seen::assert_same(&before, &after);
    let expected = ["above", "dir", "empty", "empty/again", "file", "file/inside", "link", &long, "null", "other"];
    let expected = [&expected[..], &["pipe", "program", "second-name", "sparse"]].concat();
    let mut found: Vec<_> = after.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    drop(snapshot);
    bed.assert_removable();
}

pub(super) fn privileged_containers_find_their_mount_points(name: &'static str) {
    let Some(bed) = Bed::new(name) else { return };
    let host = tempfile::tempdir().expect("temporary directory");
    let image = layer()
        .add(EntryType::Directory, "dev", "", b"", |header| header.set_mode(0o700))
        .file("etc/hosts", "the image's")
        .link(EntryType::Symlink, "etc/hostname", host.path().join("hostname").to_str().expect("utf-8"))
        .finish();
    let chain = bed.layer(&image, None);
    for chain in [Some(&chain), None] {
        let snapshot = bed.snapshot("c", chain);
        for directory in ["dev", "dev/pts", "dev/shm", "proc", "sys", "etc"] {
            assert!(fs::symlink_metadata(snapshot.path(directory)).expect(directory).is_dir(), "{directory}");
        }
        for file in [".dockerenv", "etc/resolv.conf", "dev/console"] {
            let meta = fs::symlink_metadata(snapshot.path(file)).expect(file);
            assert_eq!((meta.is_file(), meta.mode() & 0o7777, meta.len()), (true, 0o755, 0), "{file}");
        }
        assert_eq!(fs::read_link(snapshot.path("etc/mtab")).expect("there"), Path::new("/proc/mounts"));
        let root = fs::metadata(snapshot.path("")).expect("there");
        assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o755, 0, 0));
        if chain.is_some() {
            assert_eq!(snapshot.read("etc/hosts"), "the image's");
            assert_eq!(fs::metadata(snapshot.path("dev")).expect("there").mode() & 0o7777, 0o700);
            assert!(fs::symlink_metadata(snapshot.path("etc/hostname")).expect("there").is_symlink());
        }
        // They are no changes, and no part of an image of the container.
        assert_eq!(bed.changes("c"), []);
        snapshot.write("etc/resolv.conf", "changed");
        fs::remove_file(snapshot.path(".dockerenv")).expect("removed");
        let expected = [("/.dockerenv", Deleted), ("/etc", Modified), ("/etc/resolv.conf", Modified)];
        assert_eq!(bed.changes("c"), told(&expected), "{name}");
        let committed = bed.commit("c", chain);
        let view = bed.view(&committed);
        assert!(view.has("etc/resolv.conf") && !view.has("etc/mtab") && !view.has("proc") && !view.has(".dockerenv"));
        drop((snapshot, view));
        bed.driver.remove("c").expect("removed");
    }
    assert_eq!(fs::read_dir(host.path()).expect("listed").count(), 0, "nothing of an image leads out of it");
    bed.assert_removable();
}

pub(super) fn privileged_snapshots_made_ahead_are_like_others(name: &'static str) {
    let Some(bed) = Bed::new(name) else { return };
    let chain = image(&bed);
    let first = bed.snapshot("first", Some(&chain));
    first.write("file", "first's");
    bed.driver.stock(&chain).expect("made");
    bed.driver.stock(&chain).expect("it may be there");
    assert_eq!(bed.driver.keys(), ["first"], "it is nobody's");
    let second = bed.snapshot("second", Some(&chain));
    assert_eq!(second.read("file"), "12345");
    second.write("new", "1");
    assert_eq!(bed.changes("second"), told(&[("/new", Added)]));
    assert!(!first.has("new"));
    assert_eq!(bed.driver.snapshot_chain("second"), Some(chain.clone()));
    // A key is one snapshot's.
    assert!(bed.driver.prepare("second", Some(&chain)).is_err());
    assert_eq!(second.read("new"), "1");
    bed.driver.stock(&chain).expect("made");
    drop((first, second));
    bed.assert_removable();
}

/// Deeper than any path can say, as a container may make them step by step; and as deep as one can.
pub(super) fn privileged_deep_trees_cost_no_stack(name: &'static str) {
    let Some(bed) = Bed::new(name) else { return };
    let chain = image(&bed);
    for (key, depth) in [("deep", 900), ("deeper", 3000)] {
        let snapshot = bed.snapshot(key, Some(&chain));
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let mode = rustix::fs::Mode::RWXU;
        let mut at = rustix::fs::openat(&snapshot.0, ".", flags, mode).expect("opened");
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "d", mode).expect("made");
            at = rustix::fs::openat(&at, "d", flags, mode).expect("opened");
        }
        let changes = bed.driver.changes(key).map(|changes| changes.len());
        let written = bed.driver.write_layer(key, &mut Vec::new()).is_ok();
        let measured = bed.driver.usage(key);
        if depth == 900 {
            assert_eq!((changes.expect("compared"), written, measured.expect("measured")), (900, true, 0));
            bed.commit(key, Some(&chain));
        } else {
            assert!(changes.is_err() && !written && measured.is_err(), "an error, and no more");
        }
    }
    bed.assert_removable();
}
