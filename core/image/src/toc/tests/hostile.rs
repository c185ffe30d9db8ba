//! Tables of contents that nobody should have written, and blobs that are not what their annotations say.

use std::collections::BTreeMap;
use std::io::Write;

use testkit::{Blob, Estargz, ZstdChunked};

use super::fetch;
use crate::erofs::tests::archives::{FILE, archive, item};
use crate::toc::{Kind, LazyLayer, MAX_TOC, Next, TocError, estargz, locate};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn zstd(entries: &str) -> Result<LazyLayer, TocError> {
    let json = format!(r#"{{"version":1,"entries":[{}]}}"#, entries.replace("DIGEST", DIGEST));
    LazyLayer::parse(Kind::ZstdChunked { toc: 1000 }, json.as_bytes(), [0; 64])
}

/// A file of ten bytes with these fields.
fn file(rest: &str) -> String {
    format!(r#"{{"type":"reg","name":"f","size":10{rest}}}"#)
}

#[test]
fn entries_that_make_no_sense() {
    zstd(&file(r#","offset":10,"endOffset":20,"digest":"DIGEST""#)).expect("an honest file");
    let more = |rest: &str| {
        let first = file(r#","offset":10,"chunkSize":4,"chunkDigest":"DIGEST""#);
        format!(r#"{first},{{"type":"chunk"{rest}}}"#)
    };
    zstd(&more(r#","offset":20,"chunkOffset":4,"chunkSize":6,"chunkDigest":"DIGEST""#)).expect("an honest file");
    zstd(&more(r#","offset":20,"chunkOffset":4,"chunkDigest":"DIGEST""#)).expect("to the end");
    for (entries, wanted) in [
        (file(r#","offset":10"#), "without a sha256 digest"),
        (file(r#","offset":10,"digest":"sha256:00""#), "without a sha256 digest"),
        (file(&format!(r#","offset":10,"digest":"sha512:{}""#, "0".repeat(128))), "without a sha256 digest"),
        // Of the whole file, but this is not all of it.
        (file(r#","offset":10,"chunkSize":4,"digest":"DIGEST""#), "without a sha256 digest"),
        (file(r#","offset":10,"chunkSize":4,"chunkDigest":"DIGEST""#), "not the whole file"),
        (file(r#","offset":10,"chunkSize":11,"chunkDigest":"DIGEST""#), "beyond the end"),
        (file(r#","offset":10,"chunkSize":18446744073709551615,"chunkDigest":"DIGEST""#), "beyond the end"),
        (file(r#","offset":10,"chunkOffset":1,"chunkDigest":"DIGEST""#), "does not follow"),
        (file(r#","offset":10,"chunkType":"holes","chunkDigest":"DIGEST""#), "unknown type"),
        (more(r#","offset":20,"chunkOffset":3,"chunkSize":6,"chunkDigest":"DIGEST""#), "does not follow"),
        (more(r#","offset":20,"chunkOffset":4,"chunkSize":5,"chunkDigest":"DIGEST""#), "not the whole file"),
        (more(r#","offset":20,"chunkOffset":4,"chunkSize":7,"chunkDigest":"DIGEST""#), "beyond the end"),
        (r#"{"type":"chunk","offset":10,"chunkSize":1,"chunkDigest":"DIGEST"}"#.into(), "of no file"),
        (r#"{"type":"dir","name":"d"},{"type":"chunk","offset":1}"#.into(), "of no file"),
        (r#"{"type":"reg","name":"e"},{"type":"chunk","offset":1}"#.into(), "of no file"),
        (file(r#","offset":1000,"digest":"DIGEST""#), "outside"),
        (file(r#","offset":18446744073709551615,"digest":"DIGEST""#), "outside"),
        (file(r#","offset":10,"endOffset":1001,"digest":"DIGEST""#), "outside"),
        (file(r#","offset":10,"endOffset":10,"digest":"DIGEST""#), "outside"),
        (file(r#","offset":10,"endOffset":9,"digest":"DIGEST""#), "outside"),
        (file(r#","offset":10,"innerOffset":67108865,"digest":"DIGEST""#), "too large"),
        (r#"{"type":"reg","name":"f","size":67108865,"offset":1,"digest":"DIGEST"}"#.into(), "too large"),
        (r#"{"type":"reg","name":"f","size":18446744073709551615,"offset":1,"digest":"DIGEST"}"#.into(), "too large"),
        (r#"{"type":"reg","name":"f","size":1099511627777,"chunkType":"zeros"}"#.into(), "too large"),
        (r#"{"type":"dir","name":"d","uid":-1}"#.into(), "not an owner"),
        (r#"{"type":"dir","name":"d","gid":4294967296}"#.into(), "not a group"),
        (r#"{"type":"char","name":"d","devMajor":-1}"#.into(), "not a device number"),
        (r#"{"type":"char","name":"d","devMajor":5000}"#.into(), "Invalid argument"),
        (r#"{"type":"dir","name":"d","modtime":"yesterday"}"#.into(), "not a time"),
        (r#"{"type":"dir","name":"d","xattrs":{"user.a":"%"}}"#.into(), "not base64"),
        (r#"{"type":"dir","name":"a\ufffdb"}"#.into(), "not UTF-8"),
        (r#"{"type":"symlink","name":"a","linkName":"\ufffd"}"#.into(), "not UTF-8"),
        (r#"{"type":"dir","name":"../d"}"#.into(), "../d"),
        (r#"{"type":"hardlink","name":"d","linkName":"gone"}"#.into(), "linkat"),
        (r#"{"type":"socket","name":"d"}"#.into(), "unknown variant"),
        (r#"{"name":"d"}"#.into(), "missing field"),
        (file(r#","size":1"#), "duplicate field"),
        (r#"{"type":"reg","name":"f","size":-1}"#.into(), "invalid value"),
        (r#"{"type":"reg","name":"f","size":1e300}"#.into(), "invalid type"),
    ] {
        let said = zstd(&entries).err().unwrap_or_else(|| panic!("taken: {entries}")).to_string();
        assert!(said.contains(wanted), "{entries}: {said}");
    }
}

#[test]
fn ranges_in_the_blob() {
    let two = |first: &str, second: &str| zstd(&format!("{},{}", file(first), file(second).replace("\"f\"", "\"g\"")));
    let ranges = |layer: LazyLayer| layer.all_chunks().iter().map(|chunk| chunk.blob()).collect::<Vec<_>>();
    let digest = r#","digest":"DIGEST""#;
    let found = two(&format!(r#","offset":10,"endOffset":20{digest}"#), &format!(r#","offset":30{digest}"#));
    assert_eq!(ranges(found.expect("parsed")), [10..20, 30..1000]);
    // In another order, and the same stream for both.
    let found = two(&format!(r#","offset":30{digest}"#), &format!(r#","offset":10{digest}"#));
    assert_eq!(ranges(found.expect("parsed")), [30..1000, 10..30]);
    let found = two(&format!(r#","offset":30{digest}"#), &format!(r#","offset":30,"innerOffset":10{digest}"#));
    let found = found.expect("parsed");
    assert_eq!(found.all_chunks().iter().map(|chunk| chunk.inner()).collect::<Vec<_>>(), [0, 10]);
    assert_eq!(ranges(found), [30..1000, 30..1000]);
    // Into the next.
    let found = two(&format!(r#","offset":10,"endOffset":31{digest}"#), &format!(r#","offset":30{digest}"#));
    assert!(matches!(found, Err(TocError::Outside(_))), "{found:?}");
    let kind = Kind::ZstdChunked { toc: 100 << 20 };
    let json = format!(r#"{{"version":1,"entries":[{}]}}"#, file(r#","offset":10,"digest":"DIGEST""#));
    let found = LazyLayer::parse(kind, json.replace("DIGEST", DIGEST).as_bytes(), [0; 64]);
    assert!(matches!(found, Err(TocError::TooLarge(_))), "{found:?}");
}

#[test]
fn documents_that_are_none() {
    let parse = |json: &str| LazyLayer::parse(Kind::ZstdChunked { toc: 1000 }, json.as_bytes(), [0; 64]);
    assert!(parse(r#"{"entries":null,"version":1,"more":[{}]}"#).expect("empty").all_chunks().is_empty());
    assert!(matches!(parse(r#"{"version":2,"entries":[]}"#), Err(TocError::Version(2))));
    let deep = format!(r#"{{"version":1,"x":{}}}"#, "[".repeat(1_000_000));
    let deep_entry =
        format!(r#"{{"version":1,"entries":[{{"type":"dir","name":"d","x":{}"#, r#"{"a":"#.repeat(1_000_000));
    for json in [
        "",
        "[]",
        "null",
        r#"{"entries":[]}"#,
        r#"{"version":1,"entries":[]}x"#,
        r#"{"version":1,"entries":[],"entries":[]}"#,
        r#"{"version":1,"version":1,"entries":[]}"#,
        r#"{"version":-1,"entries":[]}"#,
        r#"{"version":1,"entries":{}}"#,
        r#"{"version":1,"entries":[1]}"#,
        "{\"version\":1,\"entries\":[{\"type\":\"dir\",\"name\":\"\u{1}\"}]}",
        &deep,
        &deep_entry,
    ] {
        assert!(matches!(parse(json), Err(TocError::Json(_))), "{}", &json[..json.len().min(80)]);
    }
    let bad = b"{\"version\":1,\"entries\":[{\"type\":\"dir\",\"name\":\"\xff\"}]}";
    assert!(LazyLayer::parse(Kind::ZstdChunked { toc: 1000 }, bad, [0; 64]).is_err());
    let long = vec![b' '; MAX_TOC as usize + 1];
    let found = LazyLayer::parse(Kind::ZstdChunked { toc: 1000 }, &long, [0; 64]);
    assert!(matches!(found, Err(TocError::TooLarge(_))));
}

#[test]
fn zeros_of_estargz_are_data() {
    let json = format!(r#"{{"version":1,"entries":[{}]}}"#, file(r#","offset":1,"chunkType":"zeros""#));
    let found = LazyLayer::parse(Kind::Estargz { toc: 1000, footer: 1100, inner: 512 }, json.as_bytes(), [0; 64]);
    assert!(matches!(found, Err(TocError::Entry { .. })), "{found:?}");
}

fn blobs() -> [Blob; 2] {
    let tar = archive(&[item(FILE, "f", "content")]);
    [Estargz::default().pack(&tar).expect("packed"), ZstdChunked::default().pack(&tar).expect("packed")]
}

#[test]
fn layers_without_a_verified_toc_are_ordinary() {
    let [gzip, zstd] = blobs();
    let size = zstd.bytes.len() as u64;
    let both: BTreeMap<_, _> =
        gzip.annotations.iter().chain(&zstd.annotations).map(|(k, v)| (k.clone(), v.clone())).collect();
    assert!(locate(&both, size).is_none(), "contradictory");
    let mut same = zstd.annotations.clone();
    same.insert(
        estargz::DIGEST.into(),
        zstd.annotations["io.github.containers.zstd-chunked.manifest-checksum"].clone(),
    );
    fetch(&same, &zstd.bytes).expect("both with the same digest");
    for blob in [&gzip, &zstd] {
        for key in blob.annotations.keys().filter(|key| !key.contains("uncompressed")) {
            let mut less = blob.annotations.clone();
            less.remove(key);
            assert!(locate(&less, size).is_none(), "without {key}");
            less.insert(key.clone(), format!("sha512:{}", "0".repeat(128)));
            assert!(locate(&less, size).is_none(), "{key} of no use");
        }
    }
    assert!(locate(&gzip.annotations, 51).is_none());
    assert!(locate(&zstd.annotations, 100).is_none());
    assert!(locate(&BTreeMap::new(), size).is_none());
}

#[test]
fn changed_blobs_are_found() {
    for blob in blobs() {
        for at in 0..blob.bytes.len() {
            let mut changed = blob.bytes.clone();
            changed[at] ^= 1;
            let Ok(toc) = fetch(&blob.annotations, &changed) else { continue };
            assert!(toc.json == blob.toc, "byte {at}");
        }
        let mut locator = locate(&blob.annotations, blob.bytes.len() as u64).expect("annotated");
        assert!(matches!(locator.feed(&[]), Err(TocError::Short { found: 0, .. })));
        let other: BTreeMap<_, _> = blob
            .annotations
            .iter()
            .map(|(key, value)| (key.clone(), if value.starts_with("sha256:") { DIGEST.into() } else { value.clone() }))
            .collect();
        assert!(matches!(fetch(&other, &blob.bytes), Err(TocError::WrongDigest(_))));
    }
}

#[test]
fn footers_that_lead_nowhere() {
    let [gzip, _] = blobs();
    let length = gzip.bytes.len();
    let with = |footer: &[u8]| fetch(&gzip.annotations, &[&gzip.bytes[..length - footer.len()], footer].concat());
    for start in [0, length as u64 - 51, length as u64, u64::MAX] {
        let found = with(&testkit::estargz::footer(start));
        assert!(matches!(found, Err(TocError::Outside(_))), "{start}: {found:?}");
    }
    // Into the middle of something, and to another file.
    assert!(with(&testkit::estargz::footer(20)).is_err());
    let found = with(&testkit::estargz::footer(1));
    assert!(matches!(found, Err(TocError::Inflate { .. })), "{found:?}");
    let mut footer = testkit::estargz::footer(10);
    footer[20] = b'x';
    assert!(matches!(with(&footer), Err(TocError::Footer)));
    assert!(matches!(with(&[0; 51]), Err(TocError::Footer)));
    let mut first = Vec::new();
    let mut member = flate2::write::GzEncoder::new(&mut first, flate2::Compression::fast());
    member.write_all(&archive(&[item(FILE, "other", "x")])).expect("written");
    member.finish().expect("written");
    let blob = [&[0][..], &first, &testkit::estargz::footer(1)].concat();
    assert!(matches!(fetch(&gzip.annotations, &blob), Err(TocError::Missing(_))));
}

#[test]
fn tables_of_contents_that_are_too_long() {
    let [gzip, zstd] = blobs();
    let size = MAX_TOC + 1;
    // A member of some ten thousand bytes.
    let mut header = tar::Header::new_ustar();
    header.set_path("stargz.index.json").expect("fits");
    header.set_size(size);
    header.set_cksum();
    let mut member = flate2::write::GzEncoder::new(vec![0], flate2::Compression::fast());
    member.write_all(header.as_bytes()).expect("written");
    for _ in 0..size >> 20 {
        member.write_all(&vec![b' '; 1 << 20]).expect("written");
    }
    let blob = [&member.finish().expect("written")[..], &testkit::estargz::footer(1)].concat();
    let found = fetch(&gzip.annotations, &blob);
    assert!(matches!(found, Err(TocError::TooLarge(_))), "{found:?}");
    // Its place alone tells.
    let mut locator = locate(&gzip.annotations, 10 << 30).expect("annotated");
    let mut tail = vec![0; 128 << 10];
    let at = tail.len() - 51;
    tail[at..].copy_from_slice(&testkit::estargz::footer(100));
    let found = locator.feed(&tail);
    assert!(matches!(found, Err(TocError::TooLarge(_))), "{found:?}");
    // Longer, or shorter, than was said.
    for (difference, wanted) in [(-1i64, "instead of"), (1, "instead of")] {
        let key = "io.github.containers.zstd-chunked.manifest-position";
        let mut annotations = zstd.annotations.clone();
        let mut numbers: Vec<i64> = annotations[key].split(':').map(|part| part.parse().expect("a number")).collect();
        numbers[2] += difference;
        let text: Vec<_> = numbers.iter().map(i64::to_string).collect();
        annotations.insert(key.into(), text.join(":"));
        let said = fetch(&annotations, &zstd.bytes).expect_err("refused").to_string();
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn chunks_that_are_not_in_the_blob() {
    for blob in blobs() {
        let layer = super::lazily(&blob).expect("parsed");
        let chunk = &layer.all_chunks()[0];
        let at = chunk.blob();
        let bytes = &blob.bytes[at.start as usize..at.end as usize];
        chunk.inflate(bytes).expect("inflated");
        for changed in 0..bytes.len() {
            let mut bytes = bytes.to_vec();
            bytes[changed] ^= 0x10;
            if let Ok(content) = chunk.inflate(&bytes) {
                assert_eq!(content, b"content");
            }
        }
        assert!(matches!(chunk.inflate(&[]), Err(TocError::Inflate { .. })));
    }
}

#[test]
fn a_locator_that_is_done_asks_for_the_end_again() {
    let [gzip, _] = blobs();
    let mut locator = locate(&gzip.annotations, gzip.bytes.len() as u64).expect("annotated");
    for _ in 0..2 {
        let wanted = locator.wanted();
        let next = locator.feed(&gzip.bytes[wanted.start as usize..]).expect("fed");
        assert!(matches!(next, Next::Done(_)));
    }
}
