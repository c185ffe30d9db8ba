//! What is written is read back.

use proptest::prelude::*;

use super::archives::*;
use super::scanned::scanned;
use super::seen::{assert_same, of_tree};
use crate::erofs::{IndexError, Merge, Tree, read, write};

/// Through the format and back; the same tree makes the same bytes again.
fn round_trip(tree: &Tree, tars: &[&[u8]]) -> Tree {
    let image = write(tree).expect("written");
    let back = read(&image).expect("read");
    assert_same(&of_tree(tree, tars), &of_tree(&back, tars));
    assert_eq!(back.devices, tree.devices);
    assert!(write(&back).expect("written again") == image, "the same bytes");
    back
}

#[test]
fn large_directories_and_long_links() {
    let mut items: Vec<_> =
        (0..3000).map(|at| item(FILE, &format!("d/{at:0width$}", width = 1 + at % 250), "x")).collect();
    for length in [1, 300, 447, 448, 449, 512, 1000, 4095] {
        items.push(item(SYMLINK, &format!("link{length}"), &"t".repeat(length)));
    }
    for first in ["!", "-", ".a", "..a", ".!", "~"] {
        items.push(item(FILE, first, first));
    }
    let tar = archive(&items);
    round_trip(&scanned(&tar).tree, &[&tar]);
}

#[test]
fn an_empty_tree_and_many_attributes() {
    let tar = archive(&[]);
    round_trip(&scanned(&tar).tree, &[&tar]);
    let mut list = Vec::new();
    for at in 0..40 {
        let mut item = item(FILE, &format!("f{at}"), "");
        let shared = (0..200).map(|number| (format!("user.shared{number}"), vec![b's'; number]));
        item.xattrs = shared.take(at * 5).collect();
        item.xattrs.push((format!("user.own{at}"), vec![at as u8; at * 1000]));
        list.push(item);
    }
    let tar = archive(&list);
    let back = round_trip(&scanned(&tar).tree, &[&tar]);
    assert!(back.attributes(back.inode(back.children(crate::erofs::ROOT).last().expect("a file").1)).count() > 1);
}

#[test]
fn changed_images_are_noticed() {
    let tar = archive(&[item(FILE, "f", "x")]);
    let image = write(&scanned(&tar).tree).expect("written");
    for cut in [0, 1023, 1100, 1535, image.len() - 512] {
        assert!(read(&image[..cut]).is_err(), "{cut}");
    }
    let mut changed = image.clone();
    changed[1024 + 24] ^= 1;
    assert!(matches!(read(&changed), Err(IndexError::Broken("its checksum"))));
}

#[test]
fn whiteouts_and_opaque_directories_merge() {
    let lower = archive(&[
        item(FILE, "gone", "1"),
        item(FILE, "kept", "2"),
        item(FILE, "opaque/gone", "3"),
        item(FILE, "dir/kept", "4"),
        item(FILE, "dir/gone/deep", "5"),
        item(FILE, "file", "6"),
        item(HARDLINK, "second", "kept"),
    ]);
    let mut dir = item(DIR, "dir", "");
    dir.mode = 0o700;
    let upper = archive(&[
        item(FILE, ".wh.gone", ""),
        item(FILE, ".wh.never", ""),
        item(DIR, "opaque", ""),
        item(FILE, "opaque/.wh..wh..opq", ""),
        item(FILE, "opaque/new", "7"),
        dir,
        item(FILE, "dir/.wh.gone", ""),
        item(FILE, "file/now/directory", "8"),
        item(FILE, ".wh.second", ""),
    ]);
    let mut merge = Merge::new();
    merge.add(&scanned(&lower).tree).expect("merged");
    merge.add(&scanned(&upper).tree).expect("merged");
    let tree = merge.finish();
    let view = of_tree(&round_trip(&tree, &[&lower, &upper]), &[&lower, &upper]);
    let names: Vec<_> = view.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    let expected = ["", "dir", "dir/kept", "file", "file/now", "file/now/directory", "kept", "opaque", "opaque/new"];
    assert_eq!(names, expected);
    assert_eq!((view[&b"dir"[..]].mode, view[&b"kept"[..]].links), (0o40_700, 1));
    assert_eq!((&view[&b"opaque/new"[..]].content[..], &view[&b"dir/kept"[..]].content[..]), (&b"7"[..], &b"4"[..]));
    assert!(view.values().all(|seen| seen.xattrs.is_empty()));
    // The root's mark hides everything below the layer.
    let hides = archive(&[item(FILE, ".wh..wh..opq", ""), item(FILE, "only", "9")]);
    let mut merge = Merge::new();
    merge.add(&tree).expect("merged");
    merge.add(&scanned(&hides).tree).expect("merged");
    let tree = merge.finish();
    assert_eq!(tree.children(crate::erofs::ROOT).map(|(name, _)| name).collect::<Vec<_>>(), [b"only"]);
    assert_eq!(tree.devices.len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_tree_comes_back(items in items(true)) {
        let tar = archive(&items);
        if let Ok(scanned) = crate::erofs::scan(&tar[..], *b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef") {
            round_trip(&scanned.tree, &[&tar]);
        }
    }
}
