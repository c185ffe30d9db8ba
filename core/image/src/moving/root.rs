//! The data root of a stock daemon, looked at through a read-only mount of our own: nothing in it changes, not even a
//! time of access, and no link in it leads anywhere (openat2(2), `RESOLVE_IN_ROOT`, `RESOLVE_NO_SYMLINKS`).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use dockerd_sys::mount;
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Most names of one directory; nobody has so many images or containers.
const MOST_NAMES: usize = 1 << 20;

/// A directory and what is below it, to be read only.
#[derive(Debug)]
pub struct OldRoot {
    tree: OwnedFd,
}

impl OldRoot {
    /// The directory `path`. Without the privilege to make mounts it is opened as it is.
    pub fn open(path: &Path) -> io::Result<Self> {
        let read_only = || {
            let tree = mount::bind(path, true)?;
            let attributes = mount::Attributes { set: mount::READ_ONLY, clear: 0 };
            mount::set_attributes(&tree, attributes, Some(mount::Propagation::Private), true)?;
            Ok(tree)
        };
        let tree = match read_only() {
            Err(error) if io::Error::kind(&error) == io::ErrorKind::PermissionDenied => {
                rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?
            }
            other => other?,
        };
        if !dockerd_sys::inside::is_directory(&tree)? {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { tree })
    }

    /// What is below a directory of another one.
    pub(super) fn of(tree: OwnedFd) -> Self {
        Self { tree }
    }

    /// The directory `path` below it, or itself for the empty path.
    pub fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        open_plain(self.tree.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The regular file `path` below it.
    pub fn file(&self, path: &str) -> io::Result<File> {
        let file = File::from(open_plain(self.tree.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// The whole content of a file that has at most `most` bytes.
    pub fn read(&self, path: &str, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("has more than {most} bytes")));
        }
        Ok(bytes)
    }

    /// A short text without the white space at its end.
    pub fn text(&self, path: &str) -> io::Result<String> {
        let bytes = self.read(path, 4096)?;
        let text = String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(text.trim_end().to_owned())
    }

    /// Names in a directory, sorted; those that are no UTF-8 are left out, as none of Docker's are.
    pub fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(self.directory(path)?)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !matches!(name, "." | "..") {
                names.push(name.to_owned());
            }
            if names.len() > MOST_NAMES {
                return Err(io::Error::other("directory has too many entries"));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether there is anything at `path`.
    pub fn has(&self, path: &str) -> bool {
        open_plain(self.tree.as_fd(), path, OFlags::PATH).is_ok()
    }
}

fn open_plain(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() { "." } else { path };
    Ok(rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Whether `text`, which a file says, is one name: it may become part of a path.
pub(super) fn is_name(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(word) && !text.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn links_lead_nowhere_and_files_are_bounded() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join("a")).expect("made");
        fs::write(dir.path().join("a/file"), "text\n").expect("written");
        std::os::unix::fs::symlink("a", dir.path().join("link")).expect("linked");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).expect("linked");
        let root = OldRoot::open(dir.path()).expect("opened");
        assert_eq!(root.text("a/file").expect("read"), "text");
        assert_eq!(root.text("../../a/file").expect("read"), "text", "the root has nothing above it");
        for path in ["link/file", "out", "a", "none"] {
            assert!(root.read(path, 100).is_err(), "{path}");
        }
        assert!(root.read("a/file", 4).is_err(), "longer than asked for");
        assert_eq!(root.names("").expect("listed"), ["a", "link", "out"]);
        assert!(OldRoot::open(&dir.path().join("a/file")).is_err());
        assert!(is_name("ab-init") && !is_name("..") && !is_name("a/b") && !is_name(""));
    }
}
