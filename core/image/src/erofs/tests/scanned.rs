//! Scanning a tar gives what unpacking it gives.

use std::fs::File;
use std::os::fd::AsFd;

use proptest::prelude::*;

use super::archives::*;
use super::seen::{assert_same, of_directory, of_tree, without_directory_times, without_own_times};
use crate::erofs::{Scanned, scan};
use crate::error::ImageError;
use crate::layer::{UnpackOptions, Unpacked, unpack};

pub(crate) fn unpacked(tar: &[u8]) -> (tempfile::TempDir, Result<Unpacked, ImageError>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("changed");
    let root = File::open(dir.path()).expect("opened");
    let result = unpack(tar, root.as_fd(), UnpackOptions { whiteouts: true, ..UnpackOptions::default() });
    (dir, result)
}

pub(crate) fn scanned(tar: &[u8]) -> Scanned {
    scan(tar, [0; 64]).expect("scanned")
}

fn compare(tar: &[u8]) {
    compare_with(tar, false);
}

fn compare_with(tar: &[u8], moves: bool) {
    let (dir, unpacked) = unpacked(tar);
    let scan = scan(tar, [0; 64]);
    let (unpacked, scan) = match (unpacked, scan) {
        (Ok(unpacked), Ok(scan)) => (unpacked, scan),
        (Err(unpacked), Err(scan)) => {
            assert_eq!(scan.to_string(), unpacked.to_string());
            return;
        }
        (unpacked, scan) => panic!("unpacked: {unpacked:?}, scanned: {:?}", scan.map(|scan| scan.unpacked)),
    };
    assert_eq!(scan.unpacked, unpacked);
    assert_eq!(scan.tar_bytes, tar.len() as u64);
    let (mut expected, mut found) = (of_directory(dir.path()), of_tree(&scan.tree, &[tar]));
    without_own_times(&mut expected, &mut found);
    if moves {
        without_directory_times(&mut expected, &mut found);
    }
    assert_same(&expected, &found);
}

#[test]
fn privileged_links_on_the_way() {
    for items in [
        vec![item(SYMLINK, "out", "/etc/x"), item(FILE, "out/file", "x")],
        vec![item(SYMLINK, "up", "../../../.."), item(FILE, "up/etc/new", "x")],
        vec![item(SYMLINK, "one", "two"), item(SYMLINK, "two", "one"), item(FILE, "one/x", "")],
        vec![item(FILE, "f", "x"), item(FILE, "f/x", "y")],
        vec![item(SYMLINK, "l", "f/y"), item(FILE, "f", "x"), item(FILE, "l/x", "y")],
        vec![item(DIR, "d", ""), item(SYMLINK, "l", "d/../e"), item(FILE, "l/x", "y"), item(FILE, "d/../e/z", "")],
        vec![item(FILE, ".wh.w", ""), item(FILE, "w/x", "y"), item(FILE, ".wh.v", ""), item(SYMLINK, "v", "w/x")],
        vec![item(SYMLINK, "long", &"a/".repeat(200)), item(FILE, "long/f", "x")],
        vec![item(SYMLINK, "empty", ""), item(FILE, "x", "x")],
        vec![item(SYMLINK, "toolong", &"a".repeat(4096))],
        vec![item(FILE, &"n".repeat(256), "x")],
        vec![item(FILE, &format!("{}/x", "n".repeat(256)), "x")],
        vec![item(FILE, &"d/".repeat(2100), "x")],
    ] {
        compare(&archive(&items));
    }
}

#[test]
fn privileged_names_and_links_that_are_refused() {
    for items in [
        vec![item(FILE, "../x", "")],
        vec![item(FILE, "a/../../x", "")],
        vec![item(HARDLINK, "x", "../../etc/passwd")],
        vec![item(HARDLINK, "x", "missing")],
        vec![item(HARDLINK, "x", "x")],
        vec![item(DIR, "d", ""), item(HARDLINK, "x", "d")],
        vec![item(DIR, "d", ""), item(FILE, "d/f", "x"), item(HARDLINK, "d", "d/f")],
        vec![item(FILE, ".wh.", "")],
        vec![item(FILE, ".wh...", "")],
        vec![item(tar::EntryType::new(b'V'), "label", "")],
        vec![item(FILE, "/absolute", "x"), item(DIR, "./", ""), item(FILE, "b//c/./d", "")],
    ] {
        compare(&archive(&items));
    }
}

#[test]
fn privileged_what_replaces_what() {
    compare(&archive(&[
        item(DIR, "a", ""),
        item(FILE, "a/inside", "x"),
        item(FILE, "a", "now a file"),
        item(SYMLINK, "b", "a"),
        item(DIR, "b", ""),
        item(FILE, "b/in", "1"),
        item(FILE, "c", "12345"),
        item(HARDLINK, "c2", "c"),
        item(FILE, "c", "6"),
        item(DIR, "d", ""),
        item(SYMLINK, "d", "/etc"),
        item(FILE, "both", "x"),
        item(FILE, ".wh.both", ""),
        item(FILE, ".wh.first", ""),
        item(FILE, "first", "y"),
        item(FILE, ".wh.tree", ""),
        item(DIR, "tree", ""),
        item(FILE, ".wh.implied", ""),
        item(FILE, "implied/file", "z"),
        item(FILE, "d2/.wh..wh..opq", ""),
        item(FILE, ".wh..wh.plnk", ""),
        item(HARDLINK, "hidden", "d2/../c"),
    ]));
}

#[test]
fn privileged_owners_modes_times_and_attributes() {
    let mut list = Vec::new();
    for (at, kind) in
        [FILE, DIR, tar::EntryType::Char, tar::EntryType::Block, tar::EntryType::Fifo].into_iter().enumerate()
    {
        let mut item = item(kind, &format!("{at}"), if kind == FILE { "content" } else { "" });
        item.mode = [0o4755, 0o2775, 0o600, 0o666, 0o1640][at];
        item.owner = (4_000_000_000 - at as u32, 70_000 + at as u32);
        item.mtime = (1_234_567_890, 123_456_789);
        item.device = (4095, 1_048_575 - at as u32);
        item.xattrs = vec![
            ("trusted.note".into(), b"x".to_vec()),
            ("user.note".into(), b"y".to_vec()),
            ("trusted.overlay.redirect".into(), b"/etc".to_vec()),
            ("strange.attribute".into(), b"x".to_vec()),
            ("security.capability".into(), [&[1, 0, 0, 2, 0, 4, 0, 0][..], &[0; 12]].concat()),
        ];
        list.push(item);
    }
    let mut nobody = item(FILE, "unchanged", "");
    nobody.owner = (u32::MAX, u32::MAX);
    list.push(nobody);
    let mut again = item(DIR, "1", "");
    again.xattrs = vec![("user.note".into(), b"other".to_vec()), ("user.more".into(), b"z".to_vec())];
    list.push(again);
    let mut acl = item(FILE, "acl", "");
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 6, 5), (4, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 5, u32::MAX)];
    let mut value = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        value.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        value.extend(id.to_le_bytes());
    }
    acl.mode = 0o775;
    acl.xattrs = vec![("system.posix_acl_access".into(), value)];
    list.push(acl);
    compare(&archive(&list));
}

#[test]
fn privileged_sparse_files_of_all_formats() {
    use std::os::unix::fs::FileExt;
    let source = tempfile::tempdir().expect("a temporary directory");
    let sparse = File::create(source.path().join("sparse")).expect("made");
    sparse.write_all_at(b"end", 3 << 20).expect("written");
    sparse.write_all_at(&[7; 9000], 1 << 20).expect("written");
    sparse.write_all_at(b"x", 100).expect("written");
    File::create(source.path().join("hole")).expect("made").set_len(1 << 20).expect("long");
    for format in ["--format=gnu", "--format=pax"] {
        for version in ["0.0", "0.1", "1.0"] {
            let sparse_version = format!("--sparse-version={version}");
            let tar = std::process::Command::new("tar")
                .args([
                    "-C",
                    &source.path().display().to_string(),
                    "-S",
                    format,
                    &sparse_version,
                    "--mtime=@7",
                    "-cf",
                    "-",
                    ".",
                ])
                .output()
                .expect("tar runs");
            compare(&tar.stdout);
        }
    }
}

#[test]
fn hostile_archives_are_refused() {
    // More directories in each other than anybody can name.
    let mut items = vec![item(SYMLINK, "l0", &"d/".repeat(2000))];
    for at in 0..3 {
        items.push(item(FILE, &format!("l{at}/{}f", "e/".repeat(1000)), ""));
        items.push(item(SYMLINK, &format!("l{}", at + 1), &format!("l{at}/{}", "e/".repeat(1000))));
    }
    assert!(matches!(scan(&archive(&items)[..], [0; 64]), Err(ImageError::Io { .. })));
    let mut long = item(FILE, "f", "x");
    long.xattrs = vec![("user.long".into(), vec![0; 65536])];
    assert!(matches!(scan(&archive(&[long])[..], [0; 64]), Err(ImageError::Index(_))));
    let tar = archive(&[item(FILE, "f", &"x".repeat(1000))]);
    for cut in [1500, 2100, 2600] {
        assert_eq!(scan(&tar[..cut], [0; 64]).expect_err("refused").to_string(), "unexpected EOF");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn privileged_any_entries_in_any_order(items in items(true)) {
        compare_with(&archive(&items), moves(&items));
    }
}
