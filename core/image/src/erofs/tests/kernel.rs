//! The kernel shows from an index what is in the directory that the same tar is unpacked to.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use dockerd_sys::mount::{ErofsError, OverlayLayers, erofs, overlay, try_erofs};
use proptest::prelude::*;

use super::archives::*;
use super::scanned::{scanned, unpacked};
use super::seen::{
    View, assert_same, of_directory, of_overlay, of_tree, without_directory_times, without_links, without_own_times,
};
use crate::erofs::{Merge, Tree, read, scan, write};

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("written");
    file
}

/// An index of `tree` mounted over its tars; `None`, and a line about it, where the kernel cannot.
fn mounted(tree: &Tree, tars: &[&[u8]]) -> Option<OwnedFd> {
    let image = file(&write(tree).expect("written"));
    let files: Vec<File> = tars.iter().map(|tar| file(tar)).collect();
    let devices: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    match erofs(image.as_fd(), &devices, 0) {
        Err(error @ (ErofsError::Missing | ErofsError::NeedsBlockDevice)) => {
            eprintln!("not tested: {error}");
            None
        }
        mount => Some(mount.expect("mounted")),
    }
}

fn place(mount: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/.", mount.as_raw_fd()).into()
}

fn view(mount: &OwnedFd) -> View {
    of_directory(&place(mount))
}

/// What the index of `tar` shows when it is mounted.
fn compare(tar: &[u8]) {
    compare_with(tar, false);
}

fn compare_with(tar: &[u8], moves: bool) {
    let tree = scanned(tar).tree;
    let Some(mount) = mounted(&tree, &[tar]) else { return };
    let mut found = view(&mount);
    assert_same(&of_tree(&tree, &[tar]), &found);
    let (dir, unpacked) = unpacked(tar);
    unpacked.expect("unpacked");
    let mut expected = of_directory(dir.path());
    without_own_times(&mut expected, &mut found);
    if moves {
        without_directory_times(&mut expected, &mut found);
    }
    assert_same(&expected, &found);
}

#[test]
fn privileged_everything_a_tar_can_have() {
    let mut items: Vec<_> =
        (0..700).map(|at| item(FILE, &format!("d/{at:0width$}", width = 1 + at % 250), "x")).collect();
    for length in [1, 300, 447, 448, 449, 512, 513, 1000, 4095] {
        items.push(item(SYMLINK, &format!("link{length}"), &"t".repeat(length)));
    }
    for (at, length) in [0, 1, 511, 512, 513, 4095, 4096, 4097, 300_000].into_iter().enumerate() {
        items.push(item(FILE, &format!("f{length}"), &"0123456789".repeat(length / 10 + 1)[..length]));
        items.push(item(HARDLINK, &format!("d/hard{length}"), &format!("f{length}")));
        let kind = [tar::EntryType::Char, tar::EntryType::Block, tar::EntryType::Fifo][at % 3];
        items.push(item(kind, &format!("!node{at}"), ""));
        let mut dir = item(DIR, &format!("dir{at}"), "");
        // What ext4 has room for.
        (dir.mode, dir.owner, dir.mtime) = (0o3755, (100_000 + at as u32, 7), (at as i64, 999_999_999));
        dir.xattrs = (0..at * 3).map(|number| (format!("trusted.k{number}"), vec![at as u8; number * 4])).collect();
        items.push(dir);
        let mut file = item(FILE, &format!("dir{at}/f"), "content");
        file.xattrs = (0..at).map(|number| (format!("user.same{number}"), b"the same".to_vec())).collect();
        items.push(file);
    }
    items.push(item(FILE, ".wh.hidden", ""));
    items.push(item(FILE, "dir1/.wh..wh..opq", ""));
    compare(&archive(&items));
}

#[test]
fn privileged_sparse_files() {
    use std::os::unix::fs::FileExt;
    let source = tempfile::tempdir().expect("a temporary directory");
    let sparse = File::create(source.path().join("sparse")).expect("made");
    sparse.write_all_at(b"end", 3 << 20).expect("written");
    sparse.write_all_at(&[7; 9000], 1 << 20).expect("written");
    sparse.write_all_at(b"x", 100).expect("written");
    File::create(source.path().join("hole")).expect("made").set_len(1 << 20).expect("long");
    let odd = File::create(source.path().join("odd")).expect("made");
    odd.write_all_at(&[9; 5000], 300).expect("written");
    odd.write_all_at(&[8; 5001], 100_000).expect("written");
    for format in ["--format=gnu", "--format=pax"] {
        let tar = std::process::Command::new("tar")
            .args(["-C", &source.path().display().to_string(), "-S", format, "--mtime=@7", "-cf", "-", "."])
            .output()
            .expect("tar runs");
        compare(&tar.stdout);
    }
    // Segments that are at no block's start, as no archiver writes them.
    let map = "100,700,2000,1,2001,3000,10240,1024";
    let mut file = item(FILE, "odd", &"abcdefghijk".repeat(430)[..4725]);
    file.name = b"other".to_vec();
    let records: [(&str, &[u8]); 3] =
        [("GNU.sparse.size", b"20000"), ("GNU.sparse.name", b"odd"), ("GNU.sparse.map", map.as_bytes())];
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions(records).expect("appended");
    let mut header = tar::Header::new_gnu();
    header.set_size(4725);
    header.set_mode(0o644);
    header.set_mtime(7);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, "other", &file.rest[..]).expect("appended");
    let tar = tar.into_inner().expect("written");
    assert!(scanned(&tar).tree.spill.len() >= 4725);
    compare(&tar);
}

/// Layers on top of each other, the first at the bottom: as directories, as indexes, and as one merged index.
fn compare_stack(tars: &[Vec<u8>], moves: bool) {
    let trees: Vec<Tree> = tars.iter().map(|tar| scanned(tar).tree).collect();
    let mut merge = Merge::new();
    for tree in &trees {
        merge.add(&read(&write(tree).expect("written")).expect("read")).expect("merged");
    }
    let merged = merge.finish();
    let tars: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
    let Some(mount) = mounted(&merged, &tars) else { return };
    let mut one = view(&mount);
    assert_same(&of_tree(&merged, &tars), &one);

    let empty = tempfile::tempdir().expect("a temporary directory");
    let empty = File::open(empty.path()).expect("opened");
    let over = |layers: Vec<OwnedFd>, look: fn(&Path) -> View| {
        let mut lower: Vec<_> = layers.iter().rev().map(AsFd::as_fd).collect();
        lower.push(empty.as_fd());
        let mount = overlay(&OverlayLayers { lower, data: Vec::new(), upper: None, options: &[] }, 0).expect("mounted");
        look(&place(&mount))
    };
    let dirs: Vec<_> = tars.iter().map(|tar| unpacked(tar).0).collect();
    let mut directories =
        over(dirs.iter().map(|dir| File::open(dir.path()).expect("opened").into()).collect(), of_overlay);
    let indexes: Option<Vec<_>> = trees.iter().zip(&tars).map(|(tree, tar)| mounted(tree, &[*tar])).collect();
    let mut indexes = over(indexes.expect("mounted before"), of_directory);
    for view in [&mut directories, &mut indexes, &mut one] {
        // overlayfs counts the names that are hidden too, and gives all merged directories one link.
        without_links(view);
    }
    let mut again = one.clone();
    without_own_times(&mut directories, &mut one);
    if moves {
        without_directory_times(&mut directories, &mut one);
    }
    assert_same(&directories, &one);
    without_own_times(&mut indexes, &mut again);
    assert_same(&indexes, &again);
}

#[test]
fn privileged_layers_and_whiteouts() {
    let mut dir = item(DIR, "dir", "");
    (dir.mode, dir.xattrs) = (0o700, vec![("user.upper".into(), b"1".to_vec())]);
    compare_stack(
        &[
            archive(&[
                item(FILE, "gone", "1"),
                item(FILE, "kept", "2"),
                item(FILE, "opaque/gone", "3"),
                item(FILE, "dir/kept", "4"),
                item(FILE, "dir/gone/deep", "5"),
                item(FILE, "file", "6"),
                item(HARDLINK, "second", "kept"),
            ]),
            archive(&[
                item(FILE, ".wh.gone", ""),
                item(FILE, ".wh.never", ""),
                item(DIR, "opaque", ""),
                item(FILE, "opaque/.wh..wh..opq", ""),
                item(FILE, "opaque/new", "7"),
                dir,
                item(FILE, "dir/.wh.gone", ""),
                item(FILE, "file/now/directory", "8"),
                item(FILE, ".wh.second", ""),
            ]),
            archive(&[item(FILE, "gone/again", "9"), item(FILE, "opaque", "a file")]),
        ],
        false,
    );
}

#[test]
fn privileged_many_layers() {
    let tars: Vec<_> = (0..500).map(|at| archive(&[item(FILE, &format!("f{at}"), &format!("layer {at}"))])).collect();
    let mut merge = Merge::new();
    tars.iter().for_each(|tar| merge.add(&scanned(tar).tree).expect("merged"));
    let tree = merge.finish();
    let tars: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
    let Some(mount) = mounted(&tree, &tars) else { return };
    let found = view(&mount);
    assert_eq!(found.len(), 501);
    assert_same(&of_tree(&tree, &tars), &found);
}

#[test]
fn privileged_the_probe_reads_a_file() {
    let tar = archive(&[item(FILE, "probe", "it works")]);
    let (image, device) = (file(&write(&scanned(&tar).tree).expect("written")), file(&tar));
    match try_erofs(image.as_fd(), device.as_fd(), "probe") {
        Err(error @ (ErofsError::Missing | ErofsError::NeedsBlockDevice)) => eprintln!("not tested: {error}"),
        found => assert_eq!(found.expect("read").1, b"it works"),
    }
    assert!(matches!(try_erofs(device.as_fd(), device.as_fd(), "probe"), Err(ErofsError::Refused)));
    let short = erofs(image.as_fd(), &[], 0);
    assert!(short.is_ok() || matches!(short, Err(ErofsError::Refused)), "{short:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn privileged_any_layer_when_mounted(items in items(true)) {
        let tar = archive(&items);
        if scan(&tar[..], [0; 64]).is_ok() {
            compare_with(&tar, moves(&items));
        }
    }

    #[test]
    fn privileged_any_layers_when_merged(layers in prop::collection::vec(items(true), 2..5)) {
        let tars: Vec<_> = layers.iter().map(|items| archive(items)).filter(|tar| scan(&tar[..], [0; 64]).is_ok()).collect();
        // An overlay is of one layer at least.
        if !tars.is_empty() {
            compare_stack(&tars, layers.iter().any(|items| moves(items)));
        }
    }
}
