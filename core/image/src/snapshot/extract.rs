//! Writing a tree of [`crate::erofs`] out as files, its content copied from the tars by the kernel (copy_file_range(2)). Names
//! come one at a time from a tree without whiteouts, into directories made here: nothing is looked up that an image decides.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::erofs::{Inode, InodeId, Kind, Place, ROOT, Segment, Tree, device_parts};
use crate::layer::{DEFAULT_ACL, tolerate};
use crate::tree::set_xattr;

/// Bytes copied at a time where the kernel does not do it.
const CHUNK: usize = 128 * 1024;

/// Writes what is in `tree` into the empty directory `root`, which gets the root's owner and mode; `devices` are the files
/// that the content lies in.
pub(super) fn extract(tree: &Tree, devices: &[File], root: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let at = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    let mut extractor = Extractor { tree, devices, root, at, path: PathBuf::new(), linked: HashMap::new() };
    extractor.run()
}

struct Extractor<'a> {
    tree: &'a Tree,
    devices: &'a [File],
    root: &'a OwnedFd,
    /// The directory being filled. The only one that is open, so that depth costs nothing.
    at: OwnedFd,
    /// Its path.
    path: PathBuf,
    /// The first name of files that have several.
    linked: HashMap<InodeId, PathBuf>,
}

impl Extractor<'_> {
    fn run(&mut self) -> io::Result<()> {
        // Directories above and the one being filled, each with how many of its children are done.
        let mut open = vec![(ROOT, 0)];
        while let Some((directory, done)) = open.last_mut() {
            let Some((name, id)) = self.tree.nth_child(*directory, *done) else {
                let directory = *directory;
                open.pop();
                self.leave(directory, open.is_empty())?;
                continue;
            };
            *done += 1;
            let name = OsStr::from_bytes(name);
            if matches!(self.tree.inode(id).kind, Kind::Directory { .. }) {
                rustix::fs::mkdirat(&self.at, name, Mode::RWXU)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                self.at = rustix::fs::openat(&self.at, name, flags, Mode::empty())?;
                self.path.push(name);
                open.push((id, 0));
            } else {
                self.entry(name, id)?;
            }
        }
        Ok(())
    }

    /// A directory gets its description when everything in it is there: files would inherit of it, and change its time.
    fn leave(&mut self, id: InodeId, is_root: bool) -> io::Result<()> {
        let inode = self.tree.inode(id);
        rustix::fs::fchown(&self.at, Some(Uid::from_raw(inode.uid)), Some(Gid::from_raw(inode.gid)))?;
        self.set_attributes(inode)?;
        rustix::fs::fchmod(&self.at, Mode::from_raw_mode(inode.mode.into()))?;
        if is_root {
            return Ok(());
        }
        rustix::fs::futimens(&self.at, &times(inode))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.at = rustix::fs::openat(&self.at, "..", flags, Mode::empty())?;
        self.path.pop();
        Ok(())
    }

    fn set_attributes(&self, inode: &Inode) -> io::Result<()> {
        for attribute in self.tree.attributes(inode) {
            let set = rustix::fs::fsetxattr(&self.at, &*attribute.name, &attribute.value, XattrFlags::empty());
            tolerate(set.map_err(Into::into))?;
        }
        Ok(())
    }

    /// Anything but a directory.
    fn entry(&mut self, name: &OsStr, id: InodeId) -> io::Result<()> {
        let inode = self.tree.inode(id);
        if inode.links > 1 {
            if let Some(first) = self.linked.get(&id) {
                return Ok(rustix::fs::linkat(self.root, first, &self.at, name, AtFlags::empty())?);
            }
            self.linked.insert(id, self.path.join(name));
        }
        let node = |kind, number| {
            let (major, minor) = device_parts(number);
            rustix::fs::mknodat(&self.at, name, kind, Mode::RUSR, rustix::fs::makedev(major, minor))
        };
        match inode.kind {
            Kind::File { size, content } => return self.file(name, inode, size, self.tree.segments(content)),
            Kind::Symlink(span) => rustix::fs::symlinkat(self.tree.target(span), &self.at, name)?,
            Kind::CharDevice(number) => node(FileType::CharacterDevice, number)?,
            Kind::BlockDevice(number) => node(FileType::BlockDevice, number)?,
            Kind::Fifo => node(FileType::Fifo, 0)?,
            Kind::Directory { .. } => return Ok(()),
        }
        let owner = (Some(Uid::from_raw(inode.uid)), Some(Gid::from_raw(inode.gid)));
        rustix::fs::chownat(&self.at, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        for attribute in self.tree.attributes(inode) {
            let key = OsStr::from_bytes(&attribute.name);
            tolerate(set_xattr(self.at.as_fd(), name, key, &attribute.value))?;
        }
        if !matches!(inode.kind, Kind::Symlink(_)) {
            rustix::fs::chmodat(&self.at, name, Mode::from_raw_mode(inode.mode.into()), AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(&self.at, name, &times(inode), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn file(&self, name: &OsStr, inode: &Inode, size: u64, segments: &[Segment]) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.at, name, flags, Mode::RUSR | Mode::WUSR)?);
        for segment in segments {
            // The last one may be longer than the file in whole blocks.
            let length = segment.length.min(size.saturating_sub(segment.offset));
            match segment.place {
                Place::Spill(at) => file.write_all_at(self.tree.spilled(at, length), segment.offset)?,
                Place::Device(device, at) => {
                    let missing = || io::Error::new(io::ErrorKind::NotFound, "a layer's tar is missing");
                    let from = self.devices.get(usize::from(device)).ok_or_else(missing)?;
                    copy(from, at, &file, segment.offset, length)?;
                }
            }
        }
        let end = segments.last().map_or(0, |segment| segment.offset.saturating_add(segment.length));
        if end < size {
            file.set_len(size)?;
        }
        rustix::fs::fchown(&file, Some(Uid::from_raw(inode.uid)), Some(Gid::from_raw(inode.gid)))?;
        for attribute in self.tree.attributes(inode).filter(|attribute| *attribute.name != *DEFAULT_ACL) {
            let set = rustix::fs::fsetxattr(&file, &*attribute.name, &attribute.value, XattrFlags::empty());
            tolerate(set.map_err(Into::into))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(inode.mode.into()))?;
        Ok(rustix::fs::futimens(&file, &times(inode))?)
    }
}

/// Copies `length` bytes from `at` of one file to `to` of the other.
fn copy(from: &File, mut at: u64, file: &File, mut to: u64, length: u64) -> io::Result<()> {
    let end = at.saturating_add(length);
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        let (mut read_at, mut write_at) = (at, to);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), file, Some(&mut write_at), left) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a layer's tar ends early")),
            Ok(copied) => (at, to) = (at + copied as u64, to + copied as u64),
            Err(Errno::INTR) => {}
            // Not between these files, or not by this kernel.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::IO) => {
                return copy_by_hand(from, at, file, to, end - at);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, mut at: u64, file: &File, mut to: u64, mut left: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        from.read_exact_at(&mut buffer[..wanted], at)?;
        file.write_all_at(&buffer[..wanted], to)?;
        (at, to, left) = (at + wanted as u64, to + wanted as u64, left - wanted as u64);
    }
    Ok(())
}

fn times(inode: &Inode) -> Timestamps {
    let time = Timespec { tv_sec: inode.mtime.seconds, tv_nsec: inode.mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// As [`extract`], into the directory `path`, which is made.
pub(super) fn extract_to(tree: &Tree, devices: &[File], path: &Path) -> io::Result<()> {
    super::make_dir(path, 0o755)?;
    extract(tree, devices, &super::open_dir(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_end_where_the_tar_does() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join("from"), vec![7; 300_000]).expect("written");
        let from = File::open(dir.path().join("from")).expect("opened");
        for copy in [copy, copy_by_hand] {
            let to = File::create(dir.path().join("to")).expect("made");
            copy(&from, 512, &to, 4096, 200_000).expect("copied");
            let bytes = std::fs::read(dir.path().join("to")).expect("read");
            assert!(
                bytes.len() == 204_096 && bytes[..4096] == [0; 4096] && bytes[4096..].iter().all(|byte| *byte == 7)
            );
            let error = copy(&from, 299_000, &to, 0, 2000).expect_err("it ends early");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
