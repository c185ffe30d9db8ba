//! What ends up on disk, entry by entry; needs root, because owners and devices do.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use tar::EntryType;

use super::*;

fn tar_of(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    fill(&mut builder);
    builder.into_inner().expect("written")
}

/// Names are written as they are: the builder's own checks would refuse hostile ones.
fn header(kind: EntryType, name: &[u8], link: &[u8], size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name);
    header.as_gnu_mut().expect("gnu").linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    tar_of(|tar| {
        for (kind, name, rest) in entries {
            let (link, content) = if kind.is_file() { ("", *rest) } else { (*rest, "") };
            let header = header(*kind, name.as_bytes(), link.as_bytes(), content.len() as u64);
            tar.append(&header, content.as_bytes()).expect("appended");
        }
    })
}

fn unpack_into(tar: &[u8], dir: &Path) -> Result<Unpacked, ImageError> {
    let root = File::open(dir).expect("opened");
    unpack(tar, root.as_fd(), UnpackOptions { whiteouts: true, ..UnpackOptions::default() })
}

fn fresh() -> tempfile::TempDir {
    tempfile::tempdir().expect("temporary directory")
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const HARDLINK: EntryType = EntryType::Link;

#[test]
fn privileged_links_do_not_lead_out() {
    let (outside, dir) = (fresh(), fresh());
    let target = outside.path().to_str().expect("utf-8");
    for name in ["out/file", "out/a/b"] {
        unpack_into(&archive(&[(SYMLINK, "out", target), (FILE, name, "x")]), dir.path()).expect("contained");
        assert_eq!(std::fs::read_dir(outside.path()).expect("listed").count(), 0, "{name}");
        assert_eq!(std::fs::read(dir.path().join(&target[1..]).join(&name[4..])).expect("inside"), b"x");
    }
    unpack_into(&archive(&[(SYMLINK, "up", "../../../.."), (FILE, "up/etc/new", "x")]), dir.path()).expect("contained");
    assert!(!Path::new("/etc/new").exists() && dir.path().join("etc/new").exists());
    let circle = archive(&[(SYMLINK, "one", "two"), (SYMLINK, "two", "one"), (FILE, "one/x", "")]);
    assert!(unpack_into(&circle, dir.path()).is_err());
    // A link in the place of a file is replaced, not written through.
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "safe").expect("file");
    let through = archive(&[(SYMLINK, "v", victim.to_str().expect("utf-8")), (FILE, "v", "bad")]);
    unpack_into(&through, dir.path()).expect("replaced");
    assert_eq!(std::fs::read(&victim).expect("read"), b"safe");
}

#[test]
fn privileged_names_above_the_root_are_refused() {
    let dir = fresh();
    for (entry, words) in [
        ((FILE, "../x", ""), "invalid entry name \"../x\""),
        ((FILE, "a/../../x", ""), "invalid entry name \"a/../../x\""),
        ((HARDLINK, "x", "../../etc/passwd"), "invalid hardlink target \"../../etc/passwd\""),
        ((HARDLINK, "x", "missing"), "linkat missing x: No such file or directory (os error 2)"),
        ((HARDLINK, "x", "x"), "linkat x x: entity not found"),
        ((FILE, ".wh.", ""), "invalid whiteout entry \".wh.\""),
        ((EntryType::new(b'V'), "label", ""), "unhandled tar header type 86"),
    ] {
        let error = unpack_into(&archive(&[entry]), dir.path()).expect_err("refused");
        assert_eq!(error.to_string(), words);
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
    // An absolute name is one below the root of the archive.
    unpack_into(&archive(&[(FILE, "/absolute", "x")]), dir.path()).expect("contained");
    assert!(dir.path().join("absolute").exists());
}

#[test]
fn privileged_directories_that_must_stay() {
    let dir = fresh();
    let root = File::open(dir.path()).expect("opened");
    let options = UnpackOptions { no_overwrite_dir_non_dir: true, ..UnpackOptions::default() };
    let run = |entries: &[(EntryType, &str, &str)]| unpack(&archive(entries)[..], root.as_fd(), options);
    run(&[(DIR, "d", ""), (FILE, "f", "x"), (SYMLINK, "dangling", "nowhere"), (FILE, ".wh.f", "")]).expect("unpacked");
    assert!(dir.path().join(".wh.f").exists(), "an ordinary name outside of layers");
    for (entry, directory) in [((FILE, "d", "x"), true), ((DIR, "f", ""), false)] {
        let Err(ImageError::Io { source, .. }) = run(&[entry]) else { panic!("refused") };
        let refused = source.get_ref().and_then(|inner| inner.downcast_ref::<OverwriteRefused>());
        assert_eq!(refused.map(|refused| refused.directory), Some(directory));
    }
    run(&[(FILE, "dangling/x", "")]).expect("made where the link leads");
    assert!(dir.path().join("nowhere/x").exists());
}

#[test]
fn privileged_whiteouts_and_opaque_directories() {
    let dir = fresh();
    let tar = archive(&[
        (FILE, "d/.wh.gone", ""),
        (FILE, "d/.wh..wh..opq", ""),
        (FILE, "both", "x"),
        (FILE, ".wh.both", ""),
        (FILE, ".wh.first", ""),
        (FILE, "first", "y"),
        (FILE, ".wh.tree", ""),
        (DIR, "tree", ""),
        (FILE, ".wh.implied", ""),
        (FILE, "implied/file", "z"),
        (FILE, ".wh..wh.plnk", ""),
    ]);
    let unpacked = unpack_into(&tar, dir.path()).expect("unpacked");
    let stat = rustix::fs::lstat(dir.path().join("d/gone")).expect("whiteout");
    assert!(crate::tree::is_whiteout(&stat));
    for (name, opaque) in [("d", true), ("tree", true), ("implied", true), (".", false)] {
        let mut value = [0; 4];
        let length = rustix::fs::lgetxattr(dir.path().join(name), "trusted.overlay.opaque", &mut value);
        assert_eq!(length.is_ok_and(|length| value[..length] == *b"y"), opaque, "{name}");
    }
    assert_eq!(std::fs::read(dir.path().join("both")).expect("kept"), b"x");
    assert_eq!(std::fs::read(dir.path().join("first")).expect("kept"), b"y");
    assert_eq!(unpacked.bytes, 3);
}

#[test]
fn privileged_later_entries_replace_earlier_ones() {
    let dir = fresh();
    let tar = archive(&[
        (DIR, "a", ""),
        (FILE, "a/inside", "x"),
        (FILE, "a", "now a file"),
        (SYMLINK, "b", "a"),
        (DIR, "b", ""),
        (FILE, "b/in", "1"),
        (FILE, "c", "12345"),
        (HARDLINK, "c2", "c"),
        (FILE, "c", "6"),
        (DIR, "d", ""),
        (SYMLINK, "d", "/etc"),
    ]);
    let unpacked = unpack_into(&tar, dir.path()).expect("unpacked");
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect(name);
    assert_eq!(
        (read("a"), read("b/in"), read("c"), read("c2")),
        ("now a file".into(), "1".into(), "6".into(), "12345".into())
    );
    assert_eq!(std::fs::read_link(dir.path().join("d")).expect("link"), Path::new("/etc"));
    // What was replaced does not count.
    assert_eq!(unpacked.bytes, 10 + 1 + 1 + 5 + 4);
}

#[test]
fn privileged_inheritance_does_not_reach_into_directories() {
    let dir = fresh();
    let tar = tar_of(|tar| {
        let mut parent = header(DIR, b"shared", b"", 0);
        parent.set_mode(0o2777);
        parent.set_gid(77);
        parent.set_cksum();
        tar.append(&parent, io::empty()).expect("appended");
        for (name, mode) in [("shared/plain", 0o644), ("shared/suid", 0o4755), ("shared/wide", 0o666)] {
            let mut file = header(FILE, name.as_bytes(), b"", 0);
            file.set_mode(mode);
            file.set_uid(if mode == 0o4755 { 5 } else { 0 });
            file.set_cksum();
            tar.append(&file, io::empty()).expect("appended");
        }
        tar.append(&header(DIR, b"shared/sub", b"", 0), io::empty()).expect("appended");
    });
    unpack_into(&tar, dir.path()).expect("unpacked");
    for (name, mode, uid, gid) in [
        ("shared", 0o42777, 0, 77),
        ("shared/plain", 0o100_644, 0, 0),
        ("shared/suid", 0o104_755, 5, 0),
        ("shared/wide", 0o100_666, 0, 0),
        ("shared/sub", 0o40755, 0, 0),
    ] {
        let meta = std::fs::symlink_metadata(dir.path().join(name)).expect(name);
        assert_eq!((meta.mode(), meta.uid(), meta.gid()), (mode, uid, gid), "{name}");
        assert_eq!(meta.mtime(), 1_000_000, "{name}");
    }
}

#[test]
fn privileged_the_last_description_of_a_directory_holds() {
    let dir = fresh();
    let tar = tar_of(|tar| {
        for (mode, time, uid) in [(0o2775, 5, 7), (0o700, 9, u64::from(u32::MAX))] {
            let mut header = header(DIR, b"d", b"", 0);
            header.set_mode(mode);
            header.set_mtime(time);
            header.set_uid(uid);
            header.set_cksum();
            tar.append(&header, io::empty()).expect("appended");
        }
    });
    unpack_into(&tar, dir.path()).expect("unpacked");
    let meta = std::fs::symlink_metadata(dir.path().join("d")).expect("there");
    // An owner of -1 means to leave it as it is.
    assert_eq!((meta.mode(), meta.mtime(), meta.uid()), (0o40_700, 9, 7));
}

#[test]
fn privileged_attributes_of_overlayfs_and_unsupported_ones_are_left_out() {
    let dir = fresh();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = tar_of(|tar| {
        let records: [(&str, &[u8]); 4] = [
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.note", b"x"),
            ("SCHILY.xattr.strange.attribute", b"x"),
        ];
        tar.append_pax_extensions(records).expect("appended");
        let mut file = header(FILE, b"f", b"", 0);
        file.set_uid(9);
        file.set_cksum();
        tar.append(&file, io::empty()).expect("appended");
    });
    unpack_into(&tar, dir.path()).expect("unpacked");
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(dir.path().join("f"), "security.capability", &mut value).expect("capability");
    assert_eq!(&value[..length], capability);
    assert!(rustix::fs::lgetxattr(dir.path().join("f"), "trusted.overlay.redirect", &mut value).is_err());
    assert!(rustix::fs::lgetxattr(dir.path().join("f"), "user.note", &mut value).is_ok());
}

#[test]
fn privileged_sparse_and_long_and_odd() {
    let (dir, source) = (fresh(), fresh());
    let long = format!("{}/{}", "l".repeat(200), "n".repeat(200));
    let odd = OsString::from_vec(b"odd \xff\n\"name".to_vec());
    std::fs::create_dir_all(source.path().join(&long)).expect("directory");
    std::fs::write(source.path().join(&odd), "odd").expect("file");
    let sparse = File::create(source.path().join("sparse")).expect("file");
    sparse.write_all_at(b"end", 5 << 30).expect("written");
    sparse.write_all_at(b"middle", 1 << 20).expect("written");
    for format in ["--format=gnu", "--format=pax"] {
        for version in ["0.0", "0.1", "1.0"] {
            let out = dir.path().join("out");
            std::fs::create_dir(&out).expect("directory");
            let sparse_version = format!("--sparse-version={version}");
            let tar = std::process::Command::new("tar")
                .args(["-C", &source.path().display().to_string(), "-S", format, &sparse_version, "-cf", "-", "."])
                .output()
                .expect("tar runs");
            let unpacked = unpack_into(&tar.stdout, &out).expect("unpacked");
            assert_eq!(unpacked.bytes, (5 << 30) + 3 + 3, "{format} {version}");
            let file = File::open(out.join("sparse")).expect("there");
            let mut middle = [0; 6];
            file.read_exact_at(&mut middle, 1 << 20).expect("read");
            let meta = file.metadata().expect("metadata");
            assert_eq!((&middle, meta.len()), (b"middle", (5 << 30) + 3));
            assert!(meta.blocks() < 100, "holes are kept");
            assert!(out.join(&long).is_dir() && out.join(&odd).is_file());
            std::fs::remove_dir_all(&out).expect("removed");
        }
    }
}

#[test]
fn truncated_archives_are_errors() {
    let dir = fresh();
    let tar = tar_of(|tar| tar.append(&header(FILE, b"f", b"", 600), &[7; 600][..]).expect("appended"));
    assert!(unpack_into(&tar[..700], dir.path()).is_err());
}

/// A file of a random tree.
#[derive(Debug, Clone)]
enum Thing {
    File(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
    Fifo,
    Device(u32, u32),
}

#[derive(Debug, Clone)]
struct Node {
    thing: Thing,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    note: Option<Vec<u8>>,
}

fn node() -> impl Strategy<Value = Node> {
    let thing = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..3000).prop_map(Thing::File),
        3 => Just(Thing::Directory),
        1 => prop::collection::vec(1u8..=255, 1..120).prop_map(Thing::Symlink),
        1 => Just(Thing::Fifo),
        1 => (1u32..200, 0u32..1000).prop_map(|(major, minor)| Thing::Device(major, minor)),
    ];
    let owner = prop_oneof![Just((0, 0)), (0u32..4_000_000_000, 0u32..4_000_000_000)];
    let note = prop::option::of(prop::collection::vec(any::<u8>(), 1..40));
    (thing, 0u32..0o10000, owner, (0i64..4_000_000_000, 0u32..1_000_000_000), note)
        .prop_map(|(thing, mode, owner, mtime, note)| Node { thing, mode, owner, mtime, note })
}

/// Names without the prefix that means something to layers; bytes of all sorts but slash and zero.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => b'a'..=b'c', 1 => (1u8..=255).prop_filter("slash", |byte| *byte != b'/')];
    prop::collection::vec(byte, 1..120)
        .prop_filter("special", |name| !name.starts_with(b".wh.") && !matches!(&name[..], b"." | b".."))
}

fn tree() -> impl Strategy<Value = BTreeMap<Vec<u8>, Node>> {
    let path = prop::collection::vec(name(), 1..4);
    prop::collection::vec((path, node()), 0..25).prop_map(|nodes| {
        let mut out: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
        for (path, node) in nodes {
            // Every parent is a directory of its own, so that its attributes can be compared too.
            let mut so_far: Vec<u8> = Vec::new();
            let mut fits = true;
            for part in &path[..path.len() - 1] {
                so_far.extend_from_slice(part);
                let directory = Node { thing: Thing::Directory, ..node.clone() };
                fits = matches!(out.entry(so_far.clone()).or_insert(directory).thing, Thing::Directory);
                if !fits {
                    break;
                }
                so_far.push(b'/');
            }
            so_far.extend_from_slice(&path[path.len() - 1]);
            if fits {
                out.entry(so_far).or_insert(node);
            }
        }
        out
    })
}

fn write_tree(tree: &BTreeMap<Vec<u8>, Node>) -> Vec<u8> {
    tar_of(|tar| {
        for (path, node) in tree {
            let (kind, content, link): (EntryType, &[u8], &[u8]) = match &node.thing {
                Thing::File(content) => (FILE, content, b""),
                Thing::Directory => (DIR, b"", b""),
                Thing::Symlink(target) => (SYMLINK, b"", target),
                Thing::Fifo => (EntryType::Fifo, b"", b""),
                Thing::Device(..) => (EntryType::Char, b"", b""),
            };
            let time = format!("{}.{:09}", node.mtime.0, node.mtime.1);
            let (uid, gid) = (node.owner.0.to_string(), node.owner.1.to_string());
            let mut records: Vec<(&str, &[u8])> =
                vec![("path", path), ("mtime", time.as_bytes()), ("uid", uid.as_bytes()), ("gid", gid.as_bytes())];
            if !link.is_empty() {
                records.push(("linkpath", link));
            }
            if let Some(note) = &node.note {
                records.push(("SCHILY.xattr.trusted.note", note));
            }
            tar.append_pax_extensions(records).expect("appended");
            let mut header = header(kind, b"short", b"", content.len() as u64);
            header.set_mode(node.mode);
            if let Thing::Device(major, minor) = node.thing {
                header.set_device_major(major).expect("fits");
                header.set_device_minor(minor).expect("fits");
            }
            header.set_cksum();
            tar.append(&header, content).expect("appended");
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn privileged_random_trees_come_out_as_they_went_in(tree in tree()) {
        let dir = fresh();
        let unpacked = unpack_into(&write_tree(&tree), dir.path()).expect("unpacked");
        let mut bytes = 0;
        for (path, node) in &tree {
            let path = dir.path().join(OsString::from_vec(path.clone()));
            let meta = std::fs::symlink_metadata(&path).expect("there");
            prop_assert_eq!((meta.uid(), meta.gid()), node.owner);
            prop_assert_eq!((meta.mtime(), meta.mtime_nsec()), (node.mtime.0, i64::from(node.mtime.1)));
            match &node.thing {
                Thing::File(content) => prop_assert_eq!(&std::fs::read(&path).expect("read"), content),
                Thing::Directory => prop_assert!(meta.is_dir()),
                Thing::Symlink(target) => {
                    let found = std::fs::read_link(&path).expect("link").into_os_string().into_vec();
                    prop_assert_eq!(&found, target);
                }
                Thing::Fifo => prop_assert_eq!(meta.mode() & 0o170_000, 0o010_000),
                Thing::Device(major, minor) => {
                    prop_assert_eq!(meta.rdev(), rustix::fs::makedev(*major, *minor));
                }
            }
            if !matches!(node.thing, Thing::Symlink(_)) {
                prop_assert_eq!(meta.mode() & 0o7777, node.mode);
            }
            let mut value = vec![0; 100];
            let note = rustix::fs::lgetxattr(&path, "trusted.note", &mut value).ok().map(|length| value[..length].to_vec());
            prop_assert_eq!(&note, &node.note);
            bytes += if meta.is_dir() { 0 } else { meta.len() };
        }
        prop_assert_eq!(unpacked, Unpacked { bytes, entries: tree.len() as u64 });
        prop_assert_eq!(size_of(File::open(dir.path()).expect("opened").as_fd()).expect("measured"), bytes);
    }
}
