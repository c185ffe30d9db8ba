//! Whether indexes work here: a tiny one is made, mounted and read.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use dockerd_sys::mount::{ErofsError, try_erofs};

use super::{scan, write};
use crate::error::ImageError;

const NAME: &str = "probe";
const CONTENT: &[u8] = b"read through an index";

/// Why indexes do not work.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel refuses to mount one, or cannot read through it.
    #[error(transparent)]
    Mount(#[from] ErofsError),
    /// It mounts one and shows something else.
    #[error("EROFS shows other bytes than the image has")]
    WrongContent,
    /// The image could not be made.
    #[error("make an EROFS image: {0}")]
    Make(#[source] io::Error),
}

/// Tries an index in `directory`, which is on the file system that indexes and tars will be on: it matters too, because the
/// kernel cannot mount files of some (tmpfs, overlayfs). Needs the right to mount; leaves
/// nothing behind but the mount it returns.
pub fn probe(directory: &Path) -> Result<OwnedFd, ProbeError> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(CONTENT.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, NAME, CONTENT).map_err(ProbeError::Make)?;
    let tar = tar.into_inner().map_err(ProbeError::Make)?;
    let made = scan(&tar[..], [0; 64]).and_then(|scanned| write(&scanned.tree).map_err(ImageError::from));
    let image = made.map_err(|error| ProbeError::Make(io::Error::other(error)))?;
    let file = |bytes: &[u8]| {
        let mut file = tempfile::tempfile_in(directory)?;
        file.write_all(bytes).map(|()| file)
    };
    let (image, tar) = (file(&image).map_err(ProbeError::Make)?, file(&tar).map_err(ProbeError::Make)?);
    let (mount, bytes) = try_erofs(image.as_fd(), tar.as_fd(), NAME)?;
    if bytes == CONTENT { Ok(mount) } else { Err(ProbeError::WrongContent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_it_works_or_says_why_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        match probe(dir.path()) {
            Ok(_) | Err(ProbeError::Mount(ErofsError::Missing | ErofsError::NeedsBlockDevice)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(matches!(probe(&dir.path().join("missing")), Err(ProbeError::Make(_))));
        // Files of tmpfs have no pages that the kernel could map.
        let (tmpfs, mount) = (dir.path().join("tmpfs"), dockerd_sys::mount::file_system("tmpfs", &[], 0));
        std::fs::create_dir(&tmpfs).expect("made");
        dockerd_sys::mount::attach_at(mount.expect("mounted"), &tmpfs).expect("attached");
        let refused = probe(&tmpfs);
        dockerd_sys::mount::detach(&tmpfs).expect("detached");
        assert!(matches!(refused, Err(ProbeError::Mount(ErofsError::NeedsBlockDevice | ErofsError::Missing))));
    }
}
