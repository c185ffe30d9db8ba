//! A snapshot's changes as a layer: the upper directory of an overlay written as a tar, with overlayfs' marks turned into
//! the `.wh.` names of layers (OCI image-spec "layer.md"), or those paths of a directory that are known to differ. Everything is read by descriptor, nothing is followed; names are
//! in order, times are whole seconds, as Docker writes layers.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tar::{EntryType, Header};

use crate::tree::is_whiteout;

const BLOCK: usize = 512;
/// Largest numbers a header holds as octal digits.
const MOST_ID: u64 = 0o7_777_777;
const MOST_SIZE: u64 = 0o77_777_777_777;
/// Longest list of attributes, and longest attribute, of Linux.
const MOST_ATTRIBUTES: usize = 64 * 1024;
/// What a list of attributes mostly fits in.
const FEW_ATTRIBUTES: usize = 256;

/// Longest path: `PATH_MAX`. Deeper trees would cost a descriptor a level without end.
pub(crate) const LONGEST_PATH: usize = 4096;

/// Extended attributes of a file, with their values.
pub(crate) type Attributes = Vec<(OsString, Vec<u8>)>;

/// Writes what is below `upper` as a layer.
pub(crate) fn write_layer(upper: BorrowedFd<'_>, out: &mut dyn Write) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(upper, ".", flags, Mode::empty())?;
    let mut writer = LayerWriter { out, seen: HashMap::new(), buffer: vec![0; 128 * 1024] };
    writer.below(root)?;
    writer.out.write_all(&[0; 2 * BLOCK])
}

/// Writes those `paths` of the directory `root` as a layer that differ from what is below it, each with whether it is gone;
/// in order, relative to the root. Of a directory that is itself only.
pub(crate) fn write_paths<'a>(
    root: BorrowedFd<'_>,
    paths: impl Iterator<Item = (&'a Path, bool)>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut writer = LayerWriter { out, seen: HashMap::new(), buffer: vec![0; 128 * 1024] };
    for (path, gone) in paths {
        let Some(name) = path.file_name() else { continue };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let open = match rustix::fs::openat2(root, parent, flags, Mode::empty(), resolve) {
            Ok(open) => open,
            // A container that runs took it away.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error.into()),
        };
        if gone {
            let mark = path.with_file_name(OsString::from_vec([b".wh.", name.as_bytes()].concat()));
            // What is gone has no owner and time; the directory's are as good, and do not change by themselves.
            writer.mark(mark.as_os_str().as_bytes().to_vec(), &rustix::fs::fstat(&open)?)?;
            continue;
        }
        match rustix::fs::statat(&open, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => drop(writer.entry(&open, name, path.as_os_str().as_bytes().to_vec(), &stat)?),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    writer.out.write_all(&[0; 2 * BLOCK])
}

struct LayerWriter<'a> {
    out: &'a mut dyn Write,
    /// Files with several names: where in the archive they are.
    seen: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

/// A directory being written.
struct Level {
    open: OwnedFd,
    /// What of it is still to come.
    names: std::vec::IntoIter<OsString>,
    /// Its own name.
    prefix: Vec<u8>,
}

impl Level {
    fn of(open: OwnedFd, prefix: Vec<u8>) -> io::Result<Self> {
        if prefix.len() > LONGEST_PATH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&open)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort_unstable();
        Ok(Self { open, names: names.into_iter(), prefix })
    }

    /// The name of what is in it.
    fn path(&self, name: &[u8]) -> Vec<u8> {
        if self.prefix.is_empty() { name.to_vec() } else { [&self.prefix[..], b"/", name].concat() }
    }
}

/// One entry's header, before it is written.
struct Entry<'a> {
    kind: EntryType,
    name: Vec<u8>,
    link: &'a [u8],
    size: u64,
    attributes: Attributes,
}

impl LayerWriter<'_> {
    /// Everything below the directory `open`. Not by recursion: a container may make directories in each other without end.
    fn below(&mut self, open: OwnedFd) -> io::Result<()> {
        let mut levels = vec![Level::of(open, Vec::new())?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            let stat = match rustix::fs::statat(&level.open, &name, AtFlags::SYMLINK_NOFOLLOW) {
                // A container that runs took it away.
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            if is_whiteout(&stat) {
                self.mark(level.path(&[b".wh.", name.as_bytes()].concat()), &stat)?;
                continue;
            }
            let full = level.path(name.as_bytes());
            let Some(below) = self.entry(&level.open, &name, full.clone(), &stat)? else { continue };
            let mut value = [0; 1];
            if rustix::fs::fgetxattr(&below, "trusted.overlay.opaque", &mut value).is_ok() && value == *b"y" {
                self.mark([&full[..], b"/.wh..wh..opq"].concat(), &stat)?;
            }
            levels.push(Level::of(below, full)?);
        }
        Ok(())
    }

    /// One entry; what it is as a directory, if it is one.
    fn entry(&mut self, parent: &OwnedFd, name: &OsStr, full: Vec<u8>, stat: &Stat) -> io::Result<Option<OwnedFd>> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.seen.get(&(stat.st_dev, stat.st_ino)).cloned() {
                let entry = Entry { kind: EntryType::Link, name: full, link: &first, size: 0, attributes: Vec::new() };
                return self.header(&entry, stat).map(|()| None);
            }
            self.seen.insert((stat.st_dev, stat.st_ino), full.clone());
        }
        let plain = |kind| Entry { kind, name: full.clone(), link: b"", size: 0, attributes: Vec::new() };
        match kind {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let open = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                let entry = Entry {
                    name: [&full[..], b"/"].concat(),
                    attributes: attributes(&open)?,
                    ..plain(EntryType::Directory)
                };
                self.header(&entry, stat)?;
                return Ok(Some(open));
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
                let stat = rustix::fs::fstat(&file)?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let entry = Entry { size, attributes: attributes(&file)?, ..plain(EntryType::Regular) };
                self.header(&entry, &stat)?;
                self.content(file, size)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
                let entry = Entry { link: target.as_bytes(), ..plain(EntryType::Symlink) };
                self.header(&entry, stat)?;
            }
            FileType::CharacterDevice => self.header(&plain(EntryType::Char), stat)?,
            FileType::BlockDevice => self.header(&plain(EntryType::Block), stat)?,
            FileType::Fifo => self.header(&plain(EntryType::Fifo), stat)?,
            // No archive holds sockets.
            _ => {}
        }
        Ok(None)
    }

    /// An empty file whose name means something.
    fn mark(&mut self, name: Vec<u8>, stat: &Stat) -> io::Result<()> {
        let entry = Entry { kind: EntryType::Regular, name, link: b"", size: 0, attributes: Vec::new() };
        let mut stat = *stat;
        stat.st_mode = 0;
        self.header(&entry, &stat)
    }

    /// Exactly `size` bytes, whatever happens to the file meanwhile.
    fn content(&mut self, file: File, size: u64) -> io::Result<()> {
        let mut left = size;
        let mut file = file.take(size);
        while left > 0 {
            let length = file.read(&mut self.buffer)?;
            if length == 0 {
                io::copy(&mut io::repeat(0).take(left), self.out)?;
                break;
            }
            self.out.write_all(&self.buffer[..length])?;
            left -= length as u64;
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let missing = size.wrapping_neg() % BLOCK as u64;
        self.out.write_all(&[0; BLOCK][..usize::try_from(missing).unwrap_or(0)])
    }

    fn header(&mut self, entry: &Entry<'_>, stat: &Stat) -> io::Result<()> {
        let Entry { kind, name, link, size, attributes } = entry;
        let mut header = Header::new_ustar();
        let mut records = Vec::new();
        let mut number = |key: &str, value: u64, most: u64| {
            if value > most {
                record(&mut records, key.as_bytes(), value.to_string().as_bytes());
                return 0;
            }
            value
        };
        header.set_uid(number("uid", stat.st_uid.into(), MOST_ID));
        header.set_gid(number("gid", stat.st_gid.into(), MOST_ID));
        header.set_size(number("size", *size, MOST_SIZE));
        header.set_mtime(number("mtime", u64::try_from(stat.st_mtime).unwrap_or(0), MOST_SIZE));
        header.set_entry_type(*kind);
        header.set_mode(stat.st_mode & 0o7777);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(rustix::fs::major(stat.st_rdev))?;
            header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        }
        if let Some(ustar) = header.as_ustar_mut() {
            for (field, text, key) in [(&mut ustar.name, &name[..], "path"), (&mut ustar.linkname, link, "linkpath")] {
                let length = text.len().min(field.len());
                field[..length].copy_from_slice(&text[..length]);
                if text.len() > field.len() || !text.is_ascii() {
                    record(&mut records, key.as_bytes(), text);
                }
            }
        }
        for (key, value) in attributes {
            record(&mut records, &[b"SCHILY.xattr.", key.as_bytes()].concat(), value);
        }
        if !records.is_empty() {
            let mut extension = Header::new_ustar();
            extension.set_path("PaxHeaders.0/entry")?;
            extension.set_entry_type(EntryType::XHeader);
            extension.set_size(records.len() as u64);
            extension.set_mode(0o644);
            extension.set_cksum();
            self.out.write_all(extension.as_bytes())?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }
}

/// One PAX record; its length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Whether an attribute is worth keeping: file capabilities and the user's own are. Others belong to the file system or its
/// host.
pub(crate) fn is_kept_attribute(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
}

fn attributes(file: impl AsFd) -> io::Result<Attributes> {
    Ok(attributes_if_any(file.as_fd())?.unwrap_or_default())
}

/// Attributes worth keeping; `None` on a file system that has none.
pub(crate) fn attributes_if_any(file: BorrowedFd<'_>) -> io::Result<Option<Attributes>> {
    let mut names = vec![0; FEW_ATTRIBUTES];
    let length = loop {
        match rustix::fs::flistxattr(file, &mut names) {
            Ok(length) => break length,
            Err(Errno::RANGE) if names.len() < MOST_ATTRIBUTES => names.resize(MOST_ATTRIBUTES, 0),
            Err(Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut out = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| is_kept_attribute(name)) {
        let mut value = vec![0; MOST_ATTRIBUTES];
        match rustix::fs::fgetxattr(file, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                out.push((OsStr::from_bytes(name).to_owned(), value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{UnpackOptions, unpack};

    fn listing(dir: &Path) -> String {
        let script =
            "find . -printf '%p %y %m %U %G %s %l %T@ %n\\n' | sed 's/\\.0000000000 / /' | grep -v '^\\. ' | sort";
        let out = std::process::Command::new("sh").arg("-c").arg(script).current_dir(dir).output().expect("runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    #[test]
    fn privileged_a_layer_written_and_unpacked_is_the_same() {
        let (upper, copy) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
        let long = "x".repeat(150);
        let script = format!(
            "mkdir -p d/e/{long} o; echo 1 > d/file; ln d/file d/e/hard; ln -s ../nowhere d/link; mkfifo d/fifo; \
             mknod gone c 0 0; mknod null c 1 3; chmod 4755 d/file; chown 70000:3000000 d/e; echo long > d/e/{long}/{long}; \
             find . -exec touch -hd @1000000 {{}} +"
        );
        let made = std::process::Command::new("sh").args(["-ec", &script]).current_dir(upper.path()).status();
        assert!(made.expect("runs").success());
        crate::tree::set_opaque(File::open(upper.path().join("o")).expect("opened")).expect("marked");
        let mut tar = Vec::new();
        write_layer(File::open(upper.path()).expect("opened").as_fd(), &mut tar).expect("written");
        let root = File::open(copy.path()).expect("opened");
        unpack(&tar[..], root.as_fd(), UnpackOptions { whiteouts: true, ..UnpackOptions::default() })
            .expect("unpacked");
        // Whiteouts have no time of their own.
        let without_time = |text: String| {
            text.lines().filter(|line| !line.starts_with("./gone")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(without_time(listing(copy.path())), without_time(listing(upper.path())));
        let mut value = [0; 1];
        assert_eq!(rustix::fs::lgetxattr(copy.path().join("o"), "trusted.overlay.opaque", &mut value), Ok(1));
        assert!(is_whiteout(&rustix::fs::lstat(copy.path().join("gone")).expect("there")));
    }

    #[test]
    fn records_count_themselves() {
        for length in 1..2000 {
            let mut out = Vec::new();
            record(&mut out, b"key", &vec![b'v'; length]);
            let text = String::from_utf8(out.clone()).expect("ascii");
            assert_eq!(text.split(' ').next().and_then(|n| n.parse().ok()), Some(out.len()), "{length}");
        }
    }
}
