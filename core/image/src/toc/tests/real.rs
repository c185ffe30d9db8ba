//! Layers of the same few files, made by the programs that others use: `podman push --compression-format zstd:chunked`
//! (podman 5.8) and `ctr-remote images convert --estargz --estargz-chunk-size 60000` (stargz-snapshotter 0.12).

use std::collections::BTreeMap;
use std::io::Read;

use super::{file_of, parse, payload, scanned};
use crate::erofs::tests::seen::{View, assert_same, of_tree};
use crate::toc::{Codec, Kind, LazyLayer};

fn annotations(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn check(layer: &LazyLayer, blob: &[u8], tar: &[u8]) -> View {
    let whole = scanned(tar);
    layer.same_tree(&whole.tree).expect("the same");
    layer.check_contents(&whole.tree, &file_of(tar)).expect("the same contents");
    assert_eq!(layer.files_size, whole.unpacked.bytes);
    let view = of_tree(&layer.tree, &[&payload(layer, blob)]);
    assert_same(&of_tree(&whole.tree, &[tar]), &view);
    let content = |path: &str| &view[path.as_bytes()].content[..];
    assert_eq!(content("data/hello.txt"), b"hello, lazy world\n");
    assert_eq!(content("data/large.bin").len(), 222_890);
    assert!(content("data/large.bin").ends_with(b"line 7999 of the large file\n"));
    assert_eq!(content("data/zeros"), [&b"start"[..], &[0; 70_000], b"end"].concat());
    assert_eq!(content("data/sub/up"), b"../../etc");
    assert_eq!(view[&b"data/sub/hard"[..]].links, 2);
    assert_eq!(view[&b"data/hello.txt"[..]].xattrs, [(b"user.note".to_vec(), b"attr\0ibute".to_vec())]);
    view
}

#[test]
fn zstd_chunked_of_podman() {
    let blob = include_bytes!("../testdata/podman.zst");
    let key = |name: &str| format!("io.github.containers.zstd-chunked.{name}");
    let annotations = annotations(&[
        (&key("manifest-checksum"), "sha256:7de0c083588695c67d4308140dbad827a9f151fd131b964993421b32598f3140"),
        (&key("manifest-position"), "6392:872:2476:1"),
        (&key("tarsplit-position"), "7272:1267:17757"),
    ]);
    let layer = parse(&annotations, blob).expect("parsed");
    assert_eq!(layer.kind, Kind::ZstdChunked { toc: 6384 });
    let codecs: Vec<_> = layer.all_chunks().iter().map(|chunk| chunk.codec()).collect();
    assert_eq!(codecs, [Codec::Zstd, Codec::Zstd, Codec::Zstd, Codec::Zstd, Codec::Zstd, Codec::Zeros, Codec::Zstd]);
    let view = check(&layer, blob, &zstd::decode_all(&blob[..]).expect("inflated"));
    assert!(!view.contains_key(&b"stargz.index.json"[..]));
}

#[test]
fn estargz_of_stargz_snapshotter() {
    let blob = include_bytes!("../testdata/stargz.gz");
    let annotations = annotations(&[
        (
            "containerd.io/snapshot/stargz/toc.digest",
            "sha256:03fb9d9894d720e2ced5073992eb507fd6c0da247dd5c4d29c6d2d7b9ab8fbba",
        ),
        ("io.containers.estargz.uncompressed-size", "310784"),
    ]);
    let layer = parse(&annotations, blob).expect("parsed");
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut tar).expect("inflated");
    assert_eq!(tar.len(), 310_784);
    let view = check(&layer, blob, &tar);
    assert!(view.contains_key(&b".no.prefetch.landmark"[..]) && view.contains_key(&b"stargz.index.json"[..]));
    // Chunks of the large file, of 60 000 bytes.
    assert!(
        layer.all_chunks().iter().filter(|chunk| chunk.payload().end - chunk.payload().start == 60_000).count() >= 3
    );
}
