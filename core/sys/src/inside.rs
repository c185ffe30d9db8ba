//! Reads small files below a directory that is not trusted: links are followed, but never out of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// Largest file read; account files of real images are far smaller.
const LIMIT: u64 = 4 << 20;

/// Opens the regular file `path` below `root` for reading.
pub fn open(root: BorrowedFd<'_>, path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The text of the regular file `path` below `root`; what is no UTF-8 is replaced.
pub fn read_to_string(root: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(root, path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn links_do_not_lead_out() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(dir.path().join("etc")).expect("made");
        std::fs::write(dir.path().join("etc/real"), "inside").expect("written");
        std::os::unix::fs::symlink("/etc/real", dir.path().join("etc/link")).expect("linked");
        std::os::unix::fs::symlink("../../../etc/passwd", dir.path().join("etc/out")).expect("linked");
        let root = File::open(dir.path()).expect("opened");
        assert_eq!(read_to_string(root.as_fd(), "etc/link").expect("read"), "inside");
        assert!(read_to_string(root.as_fd(), "etc/out").is_err());
        assert!(read_to_string(root.as_fd(), "etc").is_err());
    }
}
