//! What a running load or import needs stays, even though no image refers to it yet: a removal passes over it, and what
//! still has no image when the lease ends is collected then. Leases live in memory: after a crash there is no load left,
//! and boot collects everything without an image (`reconcile.rs`).

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use dockerd_types::Digest;

use crate::store::{ImageStore, LayerRef};

/// All leases: layers (by chainID) and content, with how many hold them.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<Digest, usize>>);

impl Leases {
    fn held(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn covers(&self, digest: &Digest) -> bool {
        self.held().contains_key(digest)
    }
}

/// One lease; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    store: ImageStore,
    covered: Mutex<HashSet<Digest>>,
}

impl Lease {
    pub(crate) fn new(store: &ImageStore) -> Self {
        Self { store: store.clone(), covered: Mutex::default() }
    }

    /// Keeps a layer or content from now on. A removal under way is waited for, so what is there afterwards stays.
    pub(crate) fn cover(&self, digest: &Digest) {
        let _changes = self.store.lock();
        if self.covered.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone()) {
            *self.store.leases().held().entry(digest.clone()).or_default() += 1;
        }
    }
}

impl Lease {
    /// Keeps a layer with everything that is there of it: its tar, and the compressed forms the tar may only be had from.
    pub(crate) fn cover_layer(&self, layer: &LayerRef) {
        self.cover(&layer.chain_id);
        self.cover(&layer.diff_id);
        self.store.distribution().blobs(&layer.diff_id).iter().for_each(|form| self.cover(&form.digest));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let covered = std::mem::take(self.covered.get_mut().unwrap_or_else(PoisonError::into_inner));
        {
            let mut held = self.store.leases().held();
            for digest in &covered {
                if let Some(count) = held.get_mut(digest) {
                    *count -= 1;
                    if *count == 0 {
                        held.remove(digest);
                    }
                }
            }
        }
        self.store.collect(covered);
    }
}

/// One at a time per key.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    taken: Mutex<HashSet<Digest>>,
    freed: Condvar,
}

/// Held while something is made under a key.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    key: Digest,
}

impl Turns {
    /// Waits until nobody else has the key.
    pub(crate) fn take(&self, key: &Digest) -> Turn<'_> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while !taken.insert(key.clone()) {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { turns: self, key: key.clone() }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.turns.freed.notify_all();
    }
}
