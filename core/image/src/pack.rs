//! Writing a tree as a tar, for `docker cp` and `docker export`: entries in the order of their names, as Docker writes
//! them (ustar, with PAX records only where ustar has no room), everything read by descriptor without following links,
//! so that a tree that changes meanwhile cannot lead the walk out of it. Memory is one directory's names a level.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::{EntryType, Header};

/// Bytes of a tar's block.
const BLOCK: usize = 512;
/// Bytes of content read at once.
const PIECE: usize = 128 * 1024;
/// Longest name in an archive: `PATH_MAX`. Deeper trees would cost a descriptor a level without end.
const LONGEST: usize = 4096;
/// Most that eleven octal digits hold.
const MOST_OCTAL_11: u64 = 0o77_777_777_777;
/// Most that seven octal digits hold.
const MOST_OCTAL_7: u64 = 0o7_777_777;
/// Largest extended attribute taken along; the kernel's own limit.
const LARGEST_XATTR: usize = 64 * 1024;

/// What of a tree goes into the tar.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// Everything below the directory, without an entry for itself (`docker export`).
    Below,
    /// One entry of the directory and what is below it, under another name in the archive.
    Entry {
        /// Its name in the directory; `.` is the directory itself.
        name: &'a OsStr,
        /// Its name in the archive.
        rename: &'a OsStr,
    },
}

/// Writes `source` of the directory `directory` to `out` as a whole tar.
pub fn pack(directory: BorrowedFd<'_>, source: Source<'_>, out: impl Write) -> io::Result<()> {
    let mut packer = Packer { out, seen: HashMap::new(), piece: vec![0; PIECE] };
    match source {
        Source::Below => packer.below(directory, Vec::new())?,
        Source::Entry { name, rename } => {
            if let Some((open, prefix)) = packer.entry(directory, name, rename.as_bytes().to_vec(), false)? {
                packer.below(open.as_fd(), prefix)?;
            }
        }
    }
    packer.out.write_all(&[0; 2 * BLOCK])?;
    packer.out.flush()
}

struct Packer<W> {
    out: W,
    /// Files with several names that have been written: their name in the archive.
    seen: HashMap<(u64, u64), Vec<u8>>,
    piece: Vec<u8>,
}

/// A directory being written.
struct Level {
    directory: OwnedFd,
    /// What of it is still to come.
    names: std::vec::IntoIter<OsString>,
    /// Its name in the archive.
    prefix: Vec<u8>,
}

impl Level {
    fn open(directory: BorrowedFd<'_>, prefix: Vec<u8>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
        let mut names: Vec<OsString> = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        names.sort_unstable();
        Ok(Self { directory, names: names.into_iter(), prefix })
    }
}

impl<W: Write> Packer<W> {
    /// Everything in `directory`, whose own name in the archive is `prefix`. Not by recursion: a container may make directories
    /// in each other until a stack has no room for them.
    fn below(&mut self, directory: BorrowedFd<'_>, prefix: Vec<u8>) -> io::Result<()> {
        let mut levels = vec![Level::open(directory, prefix)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            let mut full = level.prefix.clone();
            if !full.is_empty() && !full.ends_with(b"/") {
                full.push(b'/');
            }
            full.extend_from_slice(name.as_bytes());
            if let Some((directory, prefix)) = self.entry(level.directory.as_fd(), &name, full, true)? {
                levels.push(Level::open(directory.as_fd(), prefix)?);
            }
        }
        Ok(())
    }

    /// One entry; of a directory, what it is and its name. With `may_vanish` one that is gone by now is passed over.
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        full: Vec<u8>,
        may_vanish: bool,
    ) -> io::Result<Option<(OwnedFd, Vec<u8>)>> {
        if full.len() > LONGEST {
            return Err(Errno::NAMETOOLONG.into());
        }
        let found = rustix::fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let found = match found {
            Err(Errno::NOENT) if may_vanish => return Ok(None),
            found => found?,
        };
        let stat = rustix::fs::fstat(&found)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.directory(parent, name, full, &stat),
            FileType::RegularFile => self.file(&found, full, &stat)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
                self.header(EntryType::Symlink, &full, target.as_bytes(), 0, &stat, &[])?;
            }
            FileType::CharacterDevice => self.node(EntryType::Char, full, &stat)?,
            FileType::BlockDevice => self.node(EntryType::Block, full, &stat)?,
            FileType::Fifo => self.node(EntryType::Fifo, full, &stat)?,
            // No tar can hold a socket.
            _ => {}
        }
        Ok(None)
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        mut full: Vec<u8>,
        stat: &Stat,
    ) -> io::Result<Option<(OwnedFd, Vec<u8>)>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            // Another thing by now; what it was is not there any more.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            opened => opened?,
        };
        if !full.ends_with(b"/") {
            full.push(b'/');
        }
        self.header(EntryType::Directory, &full, b"", 0, stat, &xattrs(&directory)?)?;
        Ok(Some((directory, full)))
    }

    fn file(&mut self, found: &OwnedFd, full: Vec<u8>, stat: &Stat) -> io::Result<()> {
        if self.linked(&full, stat)? {
            return Ok(());
        }
        // The very file that was looked at, and known to be a regular one: opening it has no effect on anything.
        let mut file = File::from(reopen(found)?);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.header(EntryType::Regular, &full, b"", size, stat, &xattrs(&file)?)?;
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            match file.read(&mut self.piece[..wanted])? {
                // It has become shorter: the archive stays whole, the rest is zeros.
                0 => {
                    io::copy(&mut io::repeat(0).take(left), &mut self.out)?;
                    left = 0;
                }
                read => {
                    self.out.write_all(&self.piece[..read])?;
                    left -= read as u64;
                }
            }
        }
        self.pad(size)?;
        self.remember(full, stat);
        Ok(())
    }

    fn node(&mut self, kind: EntryType, full: Vec<u8>, stat: &Stat) -> io::Result<()> {
        if self.linked(&full, stat)? {
            return Ok(());
        }
        self.header(kind, &full, b"", 0, stat, &[])?;
        self.remember(full, stat);
        Ok(())
    }

    /// Writes a hard link where the file is in the archive under another name already.
    fn linked(&mut self, full: &[u8], stat: &Stat) -> io::Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let Some(first) = self.seen.get(&(stat.st_dev, stat.st_ino)).cloned() else { return Ok(false) };
        self.header(EntryType::Link, full, &first, 0, stat, &[])?;
        Ok(true)
    }

    fn remember(&mut self, full: Vec<u8>, stat: &Stat) {
        if stat.st_nlink > 1 {
            self.seen.insert((stat.st_dev, stat.st_ino), full);
        }
    }

    fn header(
        &mut self,
        kind: EntryType,
        name: &[u8],
        link: &[u8],
        size: u64,
        stat: &Stat,
        xattrs: &[(String, Vec<u8>)],
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut records = Vec::new();
        let (uid, gid) = (u64::from(stat.st_uid), u64::from(stat.st_gid));
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        for (key, value, most) in
            [("uid", uid, MOST_OCTAL_7), ("gid", gid, MOST_OCTAL_7), ("size", size, MOST_OCTAL_11)]
        {
            if value > most {
                record(&mut records, key, value.to_string().as_bytes());
            }
        }
        if stat.st_mtime < 0 || seconds > MOST_OCTAL_11 {
            record(&mut records, "mtime", stat.st_mtime.to_string().as_bytes());
        }
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(if uid > MOST_OCTAL_7 { 0 } else { uid });
        header.set_gid(if gid > MOST_OCTAL_7 { 0 } else { gid });
        header.set_size(if size > MOST_OCTAL_11 { 0 } else { size });
        header.set_mtime(if seconds > MOST_OCTAL_11 { 0 } else { seconds });
        header.set_device_major(0)?;
        header.set_device_minor(0)?;
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(rustix::fs::major(stat.st_rdev))?;
            header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        }
        if let Some(ustar) = header.as_ustar_mut() {
            field(&mut ustar.name, name, "path", &mut records);
            field(&mut ustar.linkname, link, "linkpath", &mut records);
        }
        for (key, value) in xattrs {
            record(&mut records, &format!("SCHILY.xattr.{key}"), value);
        }
        if !records.is_empty() {
            self.extension(&records)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// The PAX header before an entry.
    fn extension(&mut self, records: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path("PaxHeaders.0/entry")?;
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(records)?;
        self.pad(records.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if over > 0 { self.out.write_all(&[0; BLOCK][over..]) } else { Ok(()) }
    }
}

/// Opens the regular file behind an `O_PATH` descriptor for reading.
fn reopen(found: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?)
}

/// A text field of the header; what does not fit, or is not ASCII, goes into a record as a whole too.
fn field(to: &mut [u8], text: &[u8], key: &str, records: &mut Vec<u8>) {
    let length = text.len().min(to.len());
    to[..length].copy_from_slice(&text[..length]);
    if text.len() > to.len() || !text.is_ascii() {
        record(records, key, text);
    }
}

/// One PAX record: its own length, key and value.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Attributes worth keeping: file capabilities and the user's own. Others belong to the file system or its host.
fn xattrs(fd: impl AsFd) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0; 4096];
    let length = loop {
        match rustix::fs::flistxattr(&fd, &mut names) {
            Ok(length) => break length,
            Err(Errno::RANGE) if names.len() < LARGEST_XATTR => names.resize(LARGEST_XATTR, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    };
    let mut out = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if name != "security.capability" && !name.starts_with("user.") {
            continue;
        }
        let mut value = vec![0; LARGEST_XATTR];
        match rustix::fs::fgetxattr(&fd, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                out.push((name.to_owned(), value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::layer::{UnpackOptions, unpack};

    fn packed(dir: &Path, source: Source<'_>) -> Vec<u8> {
        let root = File::open(dir).expect("opened");
        let mut out = Vec::new();
        pack(root.as_fd(), source, &mut out).expect("packed");
        out
    }

    fn names(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let name = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            String::from_utf8(entry.expect("entry").path_bytes().into_owned()).expect("utf-8")
        };
        archive.entries().expect("entries").map(name).collect()
    }

    #[test]
    fn entries_are_renamed_and_in_order() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(dir.path().join("d/b")).expect("made");
        std::fs::write(dir.path().join("d/b/f"), "x").expect("written");
        std::fs::write(dir.path().join("d/a"), "y").expect("written");
        let dot = OsStr::new(".");
        assert_eq!(names(&packed(&dir.path().join("d"), Source::Below)), ["a", "b/", "b/f"]);
        for (rename, first) in [("n", "n/"), (".", "./"), ("/", "/")] {
            let source = Source::Entry { name: dot, rename: OsStr::new(rename) };
            let base = first.trim_end_matches('/');
            let expected = [first.to_owned(), format!("{base}/a"), format!("{base}/b/"), format!("{base}/b/f")];
            assert_eq!(names(&packed(&dir.path().join("d"), source)), expected);
        }
        let source = Source::Entry { name: OsStr::new("a"), rename: OsStr::new("z") };
        assert_eq!(names(&packed(&dir.path().join("d"), source)), ["z"]);
    }

    #[test]
    fn deep_trees_cost_no_stack() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = File::open(dir.path()).expect("opened");
        let deep = |levels: usize| std::iter::repeat_n("d", levels).collect::<std::path::PathBuf>();
        std::fs::create_dir_all(dir.path().join(deep(1900))).expect("made");
        assert_eq!(names(&packed(dir.path(), Source::Below)).len(), 1900);
        // One whose paths nobody can say is refused.
        std::fs::create_dir(dir.path().join("more")).expect("made");
        std::fs::rename(dir.path().join("d"), dir.path().join("more/d")).expect("moved");
        std::fs::create_dir_all(dir.path().join(deep(300))).expect("made");
        std::fs::rename(dir.path().join("more"), dir.path().join(deep(300)).join("more")).expect("moved");
        assert!(pack(root.as_fd(), Source::Below, io::sink()).is_err());
        crate::archive::remove_all(&dir.path().join("d")).expect("removed");
    }

    #[test]
    fn privileged_a_tree_survives_the_way_there_and_back() {
        let (from, to) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
        let long = format!("{}/{}", "d".repeat(120), "\u{fc}".repeat(100));
        let path = |name: &str| from.path().join(name);
        std::fs::create_dir(path(&"d".repeat(120))).expect("made");
        std::fs::write(path(&long), vec![7; 300_000]).expect("written");
        std::fs::hard_link(path(&long), path("hard")).expect("linked");
        std::os::unix::fs::symlink("x".repeat(150), path("soft")).expect("linked");
        std::os::unix::fs::chown(path("hard"), Some(3_000_000), Some(5)).expect("owner");
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, path("null"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))
            .expect("device");
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), FileType::Fifo, mode, 0).expect("pipe");
        rustix::fs::setxattr(path("hard"), "user.note", b"kept\0", rustix::fs::XattrFlags::empty()).expect("xattr");
        let tar = packed(from.path(), Source::Below);
        let root = File::open(to.path()).expect("opened");
        unpack(&tar[..], root.as_fd(), UnpackOptions::default()).expect("unpacked");
        let stat = |name: &str| rustix::fs::lstat(to.path().join(name)).expect(name);
        assert_eq!(std::fs::read(to.path().join(&long)).expect("read"), vec![7; 300_000]);
        assert_eq!(stat(&long).st_ino, stat("hard").st_ino);
        assert_eq!((stat("hard").st_uid, stat("hard").st_gid), (3_000_000, 5));
        assert_eq!(stat("hard").st_mtime, rustix::fs::lstat(path("hard")).expect("there").st_mtime);
        assert_eq!(std::fs::read_link(to.path().join("soft")).expect("link"), Path::new(&"x".repeat(150)));
        assert_eq!(stat("null").st_rdev, rustix::fs::makedev(1, 3));
        assert_eq!(FileType::from_raw_mode(stat("pipe").st_mode), FileType::Fifo);
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(to.path().join("hard"), "user.note", &mut value).expect("xattr");
        assert_eq!(&value[..length], b"kept\0");
    }

    proptest::proptest! {
        #[test]
        fn records_know_their_length(value in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..1200)) {
            let mut out = Vec::new();
            record(&mut out, "path", &value);
            let space = out.iter().position(|byte| *byte == b' ').expect("space");
            let length: usize = std::str::from_utf8(&out[..space]).expect("digits").parse().expect("number");
            proptest::prop_assert_eq!(length, out.len());
            proptest::prop_assert!(out.ends_with(b"\n"));
        }
    }
}
