//! Trees that overlays lie upon. On older kernels (6.1, for one) overlayfs takes only those that are mounted somewhere, so there a
//! tree that is to be one is attached in the driver's own directory as long as it is needed. Elsewhere nothing is seen of it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dockerd_sys::mount;

/// Where trees are attached that need it.
#[derive(Debug, Clone)]
pub(super) struct Grounds(Arc<Path>);

impl Grounds {
    /// Its name in the driver's directory.
    const NAME: &str = "mounts";

    /// In the driver's directory `dir`; what an earlier daemon left there goes.
    pub(super) fn open(dir: &Path) -> Self {
        let place = dir.join(Self::NAME);
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            take_away(&entry.path());
        }
        Self(place.into())
    }

    /// The root of a detached mount, to lie upon.
    pub(super) fn take(&self, root: OwnedFd) -> io::Result<Ground> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if mount::takes_detached() {
            return Ok(Ground::there(root));
        }
        let place = self.0.join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&place)?;
        let ground = Ground { root, place: Some(place.clone()) };
        mount::attach_at(&ground, &place)?;
        Ok(ground)
    }
}

fn take_away(place: &Path) {
    if let Err(error) = mount::detach(place).and_then(|()| fs::remove_dir(place)) {
        tracing::warn!(place = %place.display(), %error, "a mount is left");
    }
}

/// The root of a tree to lie upon. What was attached for it is detached when it goes; overlays made meanwhile stay.
#[derive(Debug)]
pub(super) struct Ground {
    root: OwnedFd,
    place: Option<PathBuf>,
}

impl Ground {
    /// A directory that is mounted, or needs not be.
    pub(super) fn there(root: OwnedFd) -> Self {
        Self { root, place: None }
    }
}

impl AsFd for Ground {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.place.iter().for_each(|place| take_away(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_nothing_stays_attached() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tree = || mount::file_system("tmpfs", &[], mount::READ_ONLY).expect("mounted");
        let grounds = Grounds::open(dir.path());
        let (one, two) = (grounds.take(tree()).expect("taken"), grounds.take(tree()).expect("taken"));
        let layers =
            mount::OverlayLayers { lower: vec![one.as_fd(), two.as_fd()], data: Vec::new(), upper: None, options: &[] };
        mount::overlay(&layers, 0).expect("mounted, whatever the kernel");
        let place = dir.path().join(Grounds::NAME);
        let attached = || fs::read_dir(&place).into_iter().flatten().count();
        assert_eq!(attached(), if mount::takes_detached() { 0 } else { 2 });
        drop((one, two));
        assert_eq!(attached(), 0);
        // As a daemon that was killed leaves it.
        let left = place.join("left");
        fs::create_dir_all(&left).expect("made");
        mount::attach_at(tree(), &left).expect("attached");
        Grounds::open(dir.path());
        assert_eq!(attached(), 0);
    }
}
