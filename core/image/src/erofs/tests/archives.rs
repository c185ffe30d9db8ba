//! Archives for tests: written by hand, and at random, with many entries for the same few names.

use proptest::prelude::*;
use tar::EntryType;

pub(crate) const FILE: EntryType = EntryType::Regular;
pub(crate) const DIR: EntryType = EntryType::Directory;
pub(crate) const SYMLINK: EntryType = EntryType::Symlink;
pub(crate) const HARDLINK: EntryType = EntryType::Link;

/// An entry with everything it can have.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) kind: EntryType,
    pub(crate) name: Vec<u8>,
    /// Content of a file, target of a link.
    pub(crate) rest: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

pub(crate) fn item(kind: EntryType, name: &str, rest: &str) -> Item {
    Item {
        kind,
        name: name.as_bytes().to_vec(),
        rest: rest.as_bytes().to_vec(),
        mode: 0o755,
        owner: (0, 0),
        mtime: (1_000_000, 0),
        device: (1, 5),
        xattrs: Vec::new(),
    }
}

/// A tar of `items`, everything that does not fit a plain header in PAX records.
pub(crate) fn archive(items: &[Item]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for item in items {
        let content = if item.kind == FILE { &item.rest[..] } else { b"" };
        let time = format!("{}.{:09}", item.mtime.0, item.mtime.1);
        let (uid, gid) = (item.owner.0.to_string(), item.owner.1.to_string());
        let mut records: Vec<(String, Vec<u8>)> = vec![("path".into(), item.name.clone())];
        if item.mtime.1 != 0 {
            records.push(("mtime".into(), time.into_bytes()));
        }
        if item.owner != (0, 0) {
            records.push(("uid".into(), uid.into_bytes()));
            records.push(("gid".into(), gid.into_bytes()));
        }
        if item.kind == SYMLINK || item.kind == HARDLINK {
            records.push(("linkpath".into(), item.rest.clone()));
        }
        records.extend(item.xattrs.iter().map(|(key, value)| (format!("SCHILY.xattr.{key}"), value.clone())));
        tar.append_pax_extensions(records.iter().map(|(key, value)| (&key[..], &value[..]))).expect("appended");
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("gnu").name[..5].copy_from_slice(b"short");
        header.set_entry_type(item.kind);
        header.set_mode(item.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(item.mtime.0 as u64);
        header.set_size(content.len() as u64);
        header.set_device_major(item.device.0).expect("fits");
        header.set_device_minor(item.device.1).expect("fits");
        header.set_cksum();
        tar.append(&header, content).expect("appended");
    }
    tar.into_inner().expect("written")
}

fn dressed(
    kind: EntryType,
    name: impl Strategy<Value = Vec<u8>>,
    rest: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Item> {
    let owner = prop_oneof![3 => Just((0, 0)), 1 => (0u32..4_000_000_000, 0u32..70_000)];
    let mtime = prop_oneof![3 => Just((1_000_000, 0)), 1 => (0i64..1_500_000_000, 0u32..1_000_000_000)];
    let mode = prop::sample::select(vec![0o755, 0o644, 0o700, 0o1777]);
    let keys =
        prop::sample::select(vec!["trusted.note", "user.note", "security.note", "trusted.overlay.origin", "odd.x"]);
    let value = prop_oneof![Just(b"same".to_vec()), prop::collection::vec(any::<u8>(), 1..300)];
    let xattrs = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::btree_map(keys.prop_map(str::to_owned), value, 0..4).prop_map(|map| map.into_iter().collect())];
    (name, rest, mode, owner, mtime, (0u32..300, 1u32..1000), xattrs).prop_map(
        move |(name, rest, mode, owner, mtime, device, xattrs)| Item {
            kind,
            name,
            rest,
            mode,
            owner,
            mtime,
            device,
            xattrs,
        },
    )
}

/// Paths of few names, so that entries meet each other; now and then a long or odd one.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let long =
        prop_oneof![Just(b"l".repeat(255)), Just(b"!odd \xff\n".to_vec()), Just(b".-".to_vec()), Just(b"...".to_vec())];
    let name = prop_oneof![12 => prop::sample::select(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]), 1 => long];
    prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b"/"[..]))
}

/// Where a link leads: up, away, nowhere, to itself.
fn target() -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(vec!["", "/", "../", "./", "../../"]), path())
        .prop_map(|(start, path)| [start.as_bytes(), &path].concat())
}

fn hidden(prefix: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    path().prop_map(move |path| {
        let cut = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        if prefix.ends_with(b"q") {
            // The mark of the directory itself; never of the root, which overlayfs does not look at.
            return [&path[..], b"/", prefix].concat();
        }
        let name = &path[cut..path.len().min(cut + 250)];
        [&path[..cut], prefix, name].concat()
    })
}

fn one(layers: bool) -> impl Strategy<Value = Item> {
    let content = prop_oneof![prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 500..2000)];
    let none = || Just(Vec::new());
    let whiteouts = if layers { 3 } else { 0 };
    prop_oneof![
        6 => dressed(FILE, path(), content),
        5 => dressed(DIR, path(), none()),
        2 => dressed(SYMLINK, path(), target()),
        2 => dressed(HARDLINK, path(), path()),
        1 => dressed(EntryType::Fifo, path(), none()),
        1 => dressed(EntryType::Char, path(), none()),
        1 => dressed(EntryType::Block, path(), none()),
        whiteouts => dressed(FILE, hidden(b".wh."), none()),
        (whiteouts / 2) => dressed(FILE, hidden(b".wh..wh..opq"), none()),
    ]
}

/// Whether a directory's path may lead elsewhere at the end of the archive than at its entry: by a link, or because something
/// took its place.
pub(crate) fn moves(items: &[Item]) -> bool {
    let is_on =
        |name: &[u8], path: &[u8]| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    let mut others = items.iter().filter(|item| item.kind != DIR);
    others.any(|other| {
        let replaces = |item: &Item| item.kind == DIR && is_on(&other.name, &item.name);
        other.kind == SYMLINK || items.iter().any(replaces)
    })
}

/// Entries of one layer, in any order.
pub(crate) fn items(layers: bool) -> impl Strategy<Value = Vec<Item>> {
    prop::collection::vec(one(layers), 0..14)
}
