//! What a writable snapshot changed, read from its upper directory (`docker diff`).

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{Change, ChangeKind};

/// Changes in the directory `upper` against the trees `below`, topmost first; in order of paths.
pub(super) fn changes(upper: &Path, below: &[OwnedFd]) -> io::Result<Vec<Change>> {
    let mut out = Vec::new();
    super::with_deep_stack(|| walk_changes(upper, Path::new(""), below, &mut out))?;
    // What an opaque directory hides was found before what is in it.
    out.sort_by(|one, other| Path::new(&one.path).cmp(Path::new(&other.path)));
    Ok(out)
}

/// Depth is bounded by the length of paths.
fn walk_changes(upper: &Path, at: &Path, below: &[OwnedFd], out: &mut Vec<Change>) -> io::Result<()> {
    let dir = upper.join(at);
    let mut entries = fs::read_dir(&dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let change = |path: &Path, kind| Change { path: format!("/{}", path.display()), kind };
    if is_opaque(&dir) {
        // It took the place of another, of which nothing is seen any more.
        let kept: HashSet<OsString> = entries.iter().map(fs::DirEntry::file_name).collect();
        let gone = names_below(at, below)?.into_iter().filter(|name| !kept.contains(name));
        out.extend(gone.map(|name| change(&at.join(name), ChangeKind::Deleted)));
    }
    for entry in entries {
        let path = at.join(entry.file_name());
        let meta = entry.metadata()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let before = below.iter().find_map(|dir| {
            let found = rustix::fs::openat2(dir, &path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
            rustix::fs::fstat(&found).ok()
        });
        let gone = meta.file_type().is_char_device() && meta.rdev() == 0;
        let place = out.len();
        if meta.is_dir() {
            walk_changes(upper, &path, below, out)?;
        }
        let kind = match before {
            Some(_) if gone => ChangeKind::Deleted,
            // Made and deleted again in this snapshot, over nothing.
            None if gone => continue,
            None => ChangeKind::Added,
            // Brought up only because something below it was to be changed, or was opened for it.
            Some(before) if out.len() == place && is_same(&meta, &before) => continue,
            Some(_) => ChangeKind::Modified,
        };
        out.insert(place, change(&path, kind));
    }
    Ok(())
}

/// Whether nothing of it was changed; of directories the times and sizes do not count, as under Docker.
fn is_same(now: &fs::Metadata, before: &rustix::fs::Stat) -> bool {
    let owned = (now.mode(), now.uid(), now.gid(), now.rdev())
        == (before.st_mode, before.st_uid, before.st_gid, before.st_rdev);
    let content = (now.size(), now.mtime(), now.mtime_nsec())
        == (before.st_size.cast_unsigned(), before.st_mtime, before.st_mtime_nsec.cast_signed());
    owned && (now.is_dir() || content)
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value) == Ok(1) && value == *b"y"
}

fn names_below(at: &Path, below: &[OwnedFd]) -> io::Result<BTreeSet<OsString>> {
    let mut out = BTreeSet::new();
    for dir in below {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(dir) = rustix::fs::openat2(dir, at, flags, Mode::empty(), ResolveFlags::IN_ROOT) else { continue };
        for entry in rustix::fs::Dir::new(dir)? {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if name != "." && name != ".." {
                out.insert(name);
            }
        }
    }
    Ok(out)
}
