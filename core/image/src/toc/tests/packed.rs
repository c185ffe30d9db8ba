//! Random trees, packed in many ways.

use proptest::prelude::*;
use testkit::{Blob, Estargz, ZstdChunked};

use super::{file_of, lazily, payload, scanned};
use crate::erofs::tests::archives::{DIR, FILE, HARDLINK, Item, SYMLINK, archive, item, items};
use crate::erofs::tests::seen::{assert_same, of_tree};
use crate::erofs::{Kind, Place, ROOT, scan, write};
use crate::toc::{ALIGNMENT, Chunk, Codec, LazyLayer, TocError};

/// The TOC tells the same as the tar, and leads to the same contents; or both are refused for the same.
fn compare(blob: &Blob) {
    let (layer, whole) = match (lazily(blob), scan(&blob.tar[..], [0; 64])) {
        (Ok(layer), Ok(whole)) => (layer, whole),
        (Err(TocError::Tree(refused)), Err(error)) => return assert_eq!(refused.to_string(), error.to_string()),
        (layer, whole) => panic!("{layer:?}, the whole: {:?}", whole.map(|whole| whole.unpacked)),
    };
    assert_eq!(layer.files_size, whole.unpacked.bytes);
    assert_eq!(layer.tree.devices[0].blocks, layer.payload_size / 512);
    let payload = payload(&layer, &blob.bytes);
    assert_same(&of_tree(&whole.tree, &[&blob.tar]), &of_tree(&layer.tree, &[&payload]));
    layer.same_tree(&whole.tree).expect("the same");
    layer.check_contents(&whole.tree, &file_of(&blob.tar)).expect("the same contents");
    write(&layer.tree).expect("an index is written");
    laid_out(&layer);
}

/// Files begin at pages and are whole; chunks do not overlap.
fn laid_out(layer: &LazyLayer) {
    let mut end = 0;
    for chunk in layer.all_chunks() {
        assert!(chunk.payload().start >= end && !chunk.payload().is_empty());
        end = chunk.payload().end;
    }
    assert!(end <= layer.payload_size && layer.payload_size.is_multiple_of(ALIGNMENT));
    for id in layer.tree.ids() {
        let Kind::File { size, content } = layer.tree.inode(id).kind else { continue };
        let mut length = 0;
        for segment in layer.tree.segments(content) {
            let Place::Device(0, start) = segment.place else { panic!("{segment:?}") };
            assert_eq!((start % ALIGNMENT, segment.offset), (0, 0));
            let covered = layer.chunks(start..start + segment.length).fold(start, |at, chunk| {
                assert_eq!(chunk.payload().start, at);
                chunk.payload().end
            });
            assert_eq!(covered, start + segment.length);
            length += segment.length;
        }
        assert_eq!(length, size);
    }
}

/// What a table of contents can say: names in UTF-8, and times to the second for eStargz. No ends of lines, which the reader of
/// the test kit does not take in extended headers; a quote is escaped in JSON as well.
fn sayable(mut items: Vec<Item>, seconds: bool, zeros: bool) -> Vec<Item> {
    let replace = |bytes: &mut Vec<u8>, from: u8, to: u8| {
        bytes.iter_mut().filter(|byte| **byte == from).for_each(|byte| *byte = to);
    };
    for item in &mut items {
        let texts = [Some(&mut item.name), (item.kind != FILE).then_some(&mut item.rest)];
        for text in texts.into_iter().flatten() {
            replace(text, 0xff, b'\\');
            replace(text, b'\n', b'"');
        }
        item.xattrs.iter_mut().for_each(|(_, value)| replace(value, b'\n', 0xff));
        if seconds {
            item.mtime.1 = 0;
        }
        if zeros && item.kind == FILE && item.rest.len() > 500 {
            item.rest[100..450].fill(0);
        }
    }
    items
}

proptest! {
    #[test]
    fn estargz(
        items in items(true),
        chunk_size in prop_oneof![Just(1usize), Just(100), Just(512), Just(4 << 20)],
        min_chunk_size in prop_oneof![Just(0usize), Just(50), Just(1500), Just(1 << 20)],
        level in 0u32..3,
    ) {
        // A chunk of one byte each is enough for small files.
        let chunk_size = if chunk_size == 1 && items.iter().any(|item| item.rest.len() > 60) { 97 } else { chunk_size };
        let tar = archive(&sayable(items, true, false));
        compare(&Estargz { chunk_size, min_chunk_size, level }.pack(&tar).expect("packed"));
    }

    #[test]
    fn zstd_chunked(
        items in items(true),
        chunk_size in prop_oneof![Just(50usize), Just(512), Just(4 << 20)],
        zeros: bool,
        ends: bool,
    ) {
        let tar = archive(&sayable(items, false, zeros));
        compare(&ZstdChunked { chunk_size, zeros, ends, level: 1 }.pack(&tar).expect("packed"));
    }
}

fn both(items: &[Item], chunk_size: usize) -> [(Blob, LazyLayer); 2] {
    let tar = archive(items);
    let blobs = [
        Estargz { chunk_size, ..Estargz::default() }.pack(&tar).expect("packed"),
        ZstdChunked { chunk_size, ..ZstdChunked::default() }.pack(&tar).expect("packed"),
    ];
    blobs.map(|blob| {
        compare(&blob);
        let layer = lazily(&blob).expect("parsed");
        (blob, layer)
    })
}

#[test]
fn chunks_of_a_piece_of_the_payload() {
    let (small, large) = ("s".repeat(100), "0123456789".repeat(1000));
    for (_, layer) in both(&[item(FILE, "small", &small), item(FILE, "large", &large)], 4000) {
        let found = |range| {
            let ranges = layer.chunks(range).map(Chunk::payload);
            ranges.map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(found(0..1), [(0, 100)]);
        assert_eq!(found(99..4096), [(0, 100)]);
        assert_eq!(found(100..4096), []);
        assert_eq!(found(4096..4097), [(4096, 8096)]);
        assert_eq!(found(50..8097), [(0, 100), (4096, 8096), (8096, 12_096)]);
        assert_eq!(found(12_096..u64::MAX)[0], (12_096, 14_096));
        assert_eq!(found(5000..5000), []);
    }
}

#[test]
fn zeros_need_no_bytes() {
    let mut sparse = item(FILE, "sparse", "");
    sparse.rest = [&b"begin"[..], &[0; 20_000], b"end"].concat();
    let [_, (_, layer)] = both(&[sparse], 4096);
    let zeros: Vec<_> = layer.all_chunks().iter().filter(|chunk| chunk.codec() == Codec::Zeros).collect();
    assert_eq!(zeros.len(), 3);
    assert!(zeros.iter().all(|chunk| chunk.blob().is_empty()));
    // Longer than a chunk may be, as a sparse disk image has them.
    let long = 200 << 20;
    let toc = format!(
        r#"{{"version":1,"entries":[{{"name":"z","type":"reg","size":{long},"chunkSize":{long},"chunkType":"zeros"}}]}}"#
    );
    let kind = crate::toc::Kind::ZstdChunked { toc: 1000 };
    let layer = LazyLayer::parse(kind, toc.as_bytes(), [0; 64]).expect("parsed");
    laid_out(&layer);
    assert_eq!(layer.all_chunks().len(), 4);
}

#[test]
fn the_table_of_contents_is_a_file_of_estargz() {
    let [(blob, layer), (_, other)] = both(&[item(FILE, "f", "x"), item(DIR, "d", "")], 4096);
    let names = |layer: &LazyLayer| {
        layer.tree.children(ROOT).map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&layer), ["d", "f", "stargz.index.json"]);
    assert_eq!(names(&other), ["d", "f"]);
    let last = layer.all_chunks().last().expect("a chunk");
    let at = last.blob();
    assert!(last.inflate(&blob.bytes[at.start as usize..at.end as usize]).expect("inflated") == blob.toc);
}

#[test]
fn a_toc_longer_than_the_first_piece_is_fetched_in_two() {
    let name = |at: usize| format!("{at:05}-{}", blake(at));
    let list: Vec<_> = (0..4000).map(|at| item(FILE, &name(at), &blake(at))).collect();
    let [(blob, _), _] = both(&list, 4096);
    let mut locator = crate::toc::locate(&blob.annotations, blob.bytes.len() as u64).expect("annotated");
    let tail = locator.wanted();
    assert_eq!(tail, blob.bytes.len() as u64 - (128 << 10)..blob.bytes.len() as u64);
    let next = locator.feed(&blob.bytes[tail.start as usize..]).expect("a footer");
    assert!(matches!(next, crate::toc::Next::More));
    assert_eq!(locator.wanted().end, tail.start);
}

/// Text that does not compress.
fn blake(seed: usize) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(seed.to_le_bytes()))
}

#[test]
fn times_of_estargz_are_rounded() {
    let at = |mtime| {
        let list = [Item { mtime, ..item(FILE, "f", "x") }];
        Estargz::default().pack(&archive(&list)).expect("packed")
    };
    for (seconds, nanos) in [(1_234_567_890, 600_000_000), (1_234_567_890, 1), (0, 700_000_000), (7, 0)] {
        let blob = at((seconds, nanos));
        let layer = lazily(&blob).expect("parsed");
        layer.same_tree(&scanned(&blob.tar).tree).expect("the same but for the fraction");
        let later = scanned(&at((seconds + 1, nanos)).tar);
        layer.same_tree(&later.tree).expect_err("another second");
    }
}

#[test]
fn lies_are_found() {
    let list = [
        item(FILE, "f", "content"),
        item(FILE, "g", "content"),
        item(HARDLINK, "h", "f"),
        item(SYMLINK, "l", "f"),
        item(DIR, "d", ""),
        item(FILE, "d/n", "x"),
        item(DIR, "e", ""),
    ];
    let change = |at: usize, change: &dyn Fn(&mut Item)| {
        let mut list = list.to_vec();
        change(&mut list[at]);
        list
    };
    let said = |layer: &LazyLayer, items: &[Item]| {
        layer.same_tree(&scanned(&archive(items)).tree).expect_err("another tree").to_string()
    };
    let [_, (_, layer)] = both(&list, 4096);
    for (items, path, what) in [
        (change(0, &|item| item.mode = 0o4755), "f", "mode"),
        (change(0, &|item| item.owner = (1, 0)), "f", "owner"),
        (change(0, &|item| item.mtime.1 = 1), "f", "time"),
        (change(0, &|item| item.rest.push(b'x')), "f", "kind"),
        (change(0, &|item| item.xattrs.push(("user.note".into(), b"x".to_vec()))), "f", "attributes"),
        (change(2, &|item| item.rest = b"g".to_vec()), "g", "hard link"),
        (change(3, &|item| item.rest = b"g".to_vec()), "l", "kind"),
        // Directories are names of the one they are in.
        (change(6, &|item| item.kind = FILE), "", "number of names"),
        ([&list[..5], &list[6..]].concat(), "d/n", "presence"),
        ([&list[..], &[item(FILE, "a", "")]].concat(), "a", "presence"),
    ] {
        // Of a file with two names, any may be named.
        let said = said(&layer, &items).replace("\"h\"", "\"f\"");
        assert!(said.starts_with(&format!("{path:?}: ")) && said.contains(what), "{path} {what}: {said}");
    }
    let other = archive(&change(5, &|item| item.rest = b"y".to_vec()));
    let tree = scanned(&other).tree;
    layer.same_tree(&tree).expect("the same but for the content");
    let said = layer.check_contents(&tree, &file_of(&other)).expect_err("another content").to_string();
    assert_eq!(said, "\"d/n\": content differs between table of contents and layer");
    let short = layer.check_contents(&tree, &file_of(&other[..1024])).expect_err("cut off");
    assert!(matches!(short, crate::toc::Mismatch::Read(_)));
}
