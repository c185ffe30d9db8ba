//! Trees of layers that stay mounted for the next container; those used first go when there are too many.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_types::Digest;

use super::directory::LayerDirectory;
use super::ground::Ground;

/// How many: each holds its layers' files open.
const MOST: usize = 32;

/// Mounts by the topmost layer.
#[derive(Debug, Default)]
pub(super) struct Mounted(Mutex<Vec<(Digest, Arc<Ground>)>>);

impl Mounted {
    /// The tree of `chain`, which is one of `layers`, mounted by `mount` if it is not yet.
    pub(super) fn get(
        &self,
        layers: &LayerDirectory,
        chain: &Digest,
        mount: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<Arc<Ground>> {
        if let Some((_, root)) = self.lock().iter().find(|(known, _)| known == chain) {
            return Ok(root.clone());
        }
        let root = layers.ground(mount()?)?;
        let mut mounted = self.lock();
        if !layers.has(chain) {
            // It went meanwhile, and has been forgotten.
            return Err(io::ErrorKind::NotFound.into());
        }
        let oldest = (mounted.len() >= MOST).then(|| mounted.remove(0));
        mounted.push((chain.clone(), root.clone()));
        drop(mounted);
        // Unmounting may take a while.
        drop(oldest);
        Ok(root)
    }

    /// Lets go of a layer's tree.
    pub(super) fn forget(&self, chain: &Digest) {
        let mut mounted = self.lock();
        let found = mounted.iter().position(|(known, _)| known == chain).map(|at| mounted.remove(at));
        drop(mounted);
        drop(found);
    }

    /// Lets go of the trees that `chain` is part of.
    pub(super) fn forget_above(&self, layers: &LayerDirectory, chain: &Digest) {
        let above = |top: &Digest| layers.ancestry(top).contains(chain);
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *self.lock()).into_iter().partition(|(top, _)| above(top));
        self.lock().extend(kept);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Digest, Arc<Ground>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
