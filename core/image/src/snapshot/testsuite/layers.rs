//! Layers: names, sizes, and what is seen of them.

use super::*;

pub(super) fn privileged_layers_have_names_parents_and_sizes(name: &'static str) {
    let Some(mut bed) = Bed::new(name) else { return };
    let one = bed.layer(&layer().file("a", "12345").link(EntryType::Symlink, "l", "abc").finish(), None);
    let upper = layer().file("b", "1").link(EntryType::Link, "c", "b").finish();
    let two = bed.layer(&upper, Some(&one));
    assert_eq!(bed.driver.name(), name);
    for _ in 0..2 {
        assert!(bed.driver.has_layer(&one) && bed.driver.has_layer(&two));
        assert_eq!((bed.driver.layer_size(&one), bed.driver.layer_size(&two)), (Some(8), Some(1)));
        assert_eq!(bed.driver.ancestry(&two), [two.clone(), one.clone()]);
        let mut all = bed.driver.layers();
        all.sort();
        let mut expected = vec![one.clone(), two.clone()];
        expected.sort();
        assert_eq!(all, expected);
        bed.reopen();
    }
    // Sizes were not always noted.
    fs::remove_file(bed.path("driver/layers").join(two.hex()).join("size")).expect("removed");
    assert_eq!(bed.driver.layer_size(&two), Some(1));

    let mut unsettled: Vec<_> = bed.driver.unsettled();
    unsettled.sort();
    assert!(unsettled.len() == 2 && unsettled.iter().all(|(_, this_boot)| *this_boot));
    bed.driver.warm(&two);
    bed.driver.settle(&one);
    bed.driver.settle(&one);
    assert_eq!(bed.driver.unsettled(), [(two.clone(), true)]);
    fs::write(bed.path("driver/layers").join(two.hex()).join("unsettled"), "another").expect("written");
    assert_eq!(bed.driver.unsettled(), [(two.clone(), false)]);
    bed.driver.settle(&two);

    // Who is second with a layer gets the first one's; who gives up leaves nothing.
    assert_eq!(bed.layer(&upper, Some(&one)), two);
    drop(bed.try_stage(&upper).expect("staged"));
    assert_eq!(bed.names().iter().filter(|name| name.starts_with("layers/")).count(), 2);
    let nobody = Digest::sha256(&[7; 32]);
    assert!(!bed.driver.has_layer(&nobody) && bed.driver.layer_size(&nobody).is_none());
    assert!(bed.driver.view(&nobody).is_err() && bed.driver.prepare("x", Some(&nobody)).is_err());
    assert!(bed.driver.stock(&nobody).is_err());
    bed.driver.remove_layer(&two).expect("removed");
    assert!(!bed.driver.has_layer(&two) && bed.driver.has_layer(&one));
    assert_eq!(bed.view(&one).read("a"), "12345");
    bed.assert_removable();
}

/// A tar of everything a layer may hold.
fn everything() -> Vec<u8> {
    let (long, capability) = ("n".repeat(255), [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let device = |kind: EntryType, name: &'static str, major, minor| {
        move |builder: LayerBuilder| {
            builder.add(kind, name, "", b"", |header| {
                header.set_device_major(major).expect("set");
                header.set_device_minor(minor).expect("set");
            })
        }
    };
    let set = |mode: u32, id: u64| {
        move |header: &mut Header| {
            header.set_mode(mode);
            header.set_uid(id);
            header.set_gid(id);
        }
    };
    let builder = layer()
        .attributes(&[("user.directory", b"d")])
        .add(EntryType::Directory, "dir", "", b"", set(0o3775, 1000))
        .add(EntryType::Regular, "dir/setuid", "", b"program", set(0o6755, 70_000))
        .attributes(&[("security.capability", &capability), ("user.note", b"two\0parts")])
        .add(EntryType::Regular, "dir/capable", "", b"program", set(0o700, 5))
        .link(EntryType::Link, "dir/other-name", "dir/setuid")
        .link(EntryType::Link, "top-name", "dir/setuid")
        .link(EntryType::Symlink, "soft", "../../nowhere/at/all")
        .file(&format!("dir/{long}"), "long name")
        .file("empty", "")
        .add(EntryType::Regular, "no-access", "", &[3; 100_000], set(0, 0))
        .directory("dir/closed");
    let builder = device(EntryType::Char, "null", 1, 3)(builder);
    let builder = device(EntryType::Block, "disk", 259, 70_000)(builder);
    builder.add(EntryType::Fifo, "pipe", "", b"", |_| {}).finish()
}

pub(super) fn privileged_layers_show_what_their_tars_say(name: &'static str) {
    let Some(bed) = Bed::new(name) else { return };
    let tars = [everything(), sparse(), layer().file("second", "x").finish()];
    let chain = bed.stack(&tars);
    let mut merged = crate::erofs::Merge::new();
    for tar in &tars {
        merged.add(&crate::erofs::scan(&tar[..], [0; 64]).expect("scanned").tree).expect("merged");
    }
    let slices: Vec<&[u8]> = tars.iter().map(|tar| &tar[..]).collect();
    let mut expected = seen::of_tree(&merged.finish(), &slices);
    seen::without_links(&mut expected);
    let mut found = bed.view(&chain).seen();
    assert!(found.remove(&b""[..]).is_some() && expected.remove(&b""[..]).is_some());
    // Overlayfs looks up what is in it with marks of its own.
    found.values_mut().for_each(|seen| seen.xattrs.retain(|(name, _)| !name.starts_with(b"trusted.overlay.")));
    seen::assert_same(&expected, &found);
    let sparse = &found[&b"sparse"[..]];
    assert_eq!(sparse.content.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 7 * 512 + 9 * 512);
    assert_eq!(found[&b"dir/setuid"[..]].mode, 0o106_755);
    assert_eq!(found[&b"dir/capable"[..]].xattrs.len(), 2);
    assert_eq!(found[&b"top-name"[..]].first, b"dir/other-name");

    // The same in a container.
    let snapshot = bed.snapshot("c", Some(&chain));
    let mut inside = snapshot.seen();
    inside.retain(|path, _| expected.contains_key(path));
    inside.values_mut().for_each(|seen| seen.xattrs.retain(|(name, _)| !name.starts_with(b"trusted.overlay.")));
    seen::assert_same(&expected, &inside);
    assert_eq!(bed.changes("c"), []);
    drop(snapshot);
    bed.assert_removable();
}

/// A file of a megabyte with two blocks in it, in GNU tar's old format.
fn sparse() -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("sparse").expect("set");
    header.set_mode(0o644);
    header.set_mtime(1_000_000);
    header.set_size(1024);
    let gnu = header.as_gnu_mut().expect("gnu");
    for (at, (offset, length)) in [(4096, 512), (1 << 19, 512), (1 << 20, 0)].into_iter().enumerate() {
        gnu.sparse[at].set_offset(offset);
        gnu.sparse[at].set_length(length);
    }
    gnu.set_real_size(1 << 20);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend([[7; 512], [9; 512], [0; 512], [0; 512]].concat());
    out
}

pub(super) fn privileged_marks_hide_what_is_below(name: &'static str) {
    let Some(bed) = Bed::new(name) else { return };
    let below = layer()
        .file(".wh.never", "")
        .file("gone", "x")
        .file("kept", "below")
        .file("dir/gone", "x")
        .file("dir/kept", "x")
        .file("opaque/gone", "x")
        .file("tree/a/b", "x")
        .file("was-file", "x")
        .file("was-directory/x", "x")
        .finish();
    let above = layer()
        .file(".wh.gone", "")
        .file("dir/.wh.gone", "")
        .directory("opaque")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/own", "x")
        .file(".wh.tree", "")
        .file("was-file/new", "x")
        .file("was-directory", "now a file")
        .file("kept", "above")
        .file(".wh..wh.plnk", "")
        .finish();
    let again = layer().file("tree/a/new", "x").file(".wh.kept", "").finish();
    let one = bed.layer(&below, None);
    let two = bed.layer(&above, Some(&one));
    let three = bed.layer(&again, Some(&two));
    let paths = |chain: &Digest| {
        let seen = bed.view(chain).seen();
        seen.keys().filter(|path| !path.is_empty()).map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    };
    let expected = ["dir", "dir/kept", "kept", "opaque", "opaque/own", "was-directory", "was-file", "was-file/new"];
    let found: Vec<String> = paths(&two);
    assert_eq!(found, expected, "{name}");
    assert_eq!(bed.view(&two).read("kept"), "above");
    assert_eq!(bed.view(&one).read("kept"), "below");
    let found: Vec<String> = paths(&three);
    let expected = [
        "dir",
        "dir/kept",
        "opaque",
        "opaque/own",
        "tree",
        "tree/a",
        "tree/a/new",
        "was-directory",
        "was-file",
        "was-file/new",
    ];
    assert_eq!(found, expected, "{name}");
    let snapshot = bed.snapshot("c", Some(&three));
    assert!(!snapshot.has("gone") && !snapshot.has("tree/a/b") && snapshot.has("tree/a/new"));
    drop(snapshot);
    bed.assert_removable();
}

pub(super) fn privileged_views_are_read_only(name: &'static str) {
    let Some(mut bed) = Bed::new(name) else { return };
    let one = bed.layer(&layer().file("a", "1").finish(), None);
    let two = bed.layer(&layer().file("b", "2").finish(), Some(&one));
    for _ in 0..2 {
        for chain in [&one, &two] {
            let view = bed.view(chain);
            assert_eq!(view.read("a"), "1");
            let error = fs::write(view.path("new"), "x").expect_err("read-only");
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
        assert!(!bed.view(&one).has("b"));
        bed.reopen();
    }
    // A view that is in somebody's hands outlives its layer.
    let view = bed.view(&two);
    bed.assert_removable();
    drop(view);
}
