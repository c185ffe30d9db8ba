//! Snapshots made ahead, mounted: the next container of an image takes one by renaming it. No container has seen it before,
//! and nothing outlives the daemon but directories under temporary names, which the next one sweeps.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dockerd_types::Digest;

/// How many are kept: one each for the layers used last.
const MOST: usize = 2;

/// A snapshot nobody has yet.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) chain: Digest,
    pub(super) directory: PathBuf,
    /// Letting go of it may wait for the disk.
    pub(super) root: OwnedFd,
}

/// Those there are, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<Vec<Spare>>);

impl Spares {
    /// One above `chain`. Does not wait for one that is being made.
    pub(super) fn take(&self, chain: &Digest) -> Option<Spare> {
        take(&mut *self.0.try_lock().ok()?, chain)
    }

    /// Has one made above `chain` if there is none, and returns what it takes the place of. Blocking.
    pub(super) fn add<E>(&self, chain: &Digest, make: impl FnOnce() -> Result<Spare, E>) -> Result<Option<Spare>, E> {
        // Held while it is made, so that a layer which goes meanwhile finds it afterwards.
        let mut list = self.lock();
        if list.iter().any(|spare| spare.chain == *chain) {
            return Ok(None);
        }
        let spare = make()?;
        let oldest = (list.len() >= MOST).then(|| list.remove(0));
        list.push(spare);
        Ok(oldest)
    }

    /// As [`take`](Self::take), but waits for one that is being made.
    pub(super) fn wait_and_take(&self, chain: &Digest) -> Option<Spare> {
        take(&mut self.lock(), chain)
    }

    /// Those above layers that `above` tells, also one that is being made.
    pub(super) fn take_above(&self, above: impl Fn(&Digest) -> bool) -> Vec<Spare> {
        self.lock().extract_if(.., |spare| above(&spare.chain)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Spare>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take(list: &mut Vec<Spare>, chain: &Digest) -> Option<Spare> {
    let position = list.iter().position(|spare| spare.chain == *chain)?;
    Some(list.remove(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare(chain: &Digest) -> Result<Spare, std::convert::Infallible> {
        let root = std::fs::File::open("/dev/null").expect("opened").into();
        Ok(Spare { chain: chain.clone(), directory: PathBuf::new(), root })
    }

    #[test]
    fn one_for_each_of_the_layers_used_last() {
        let [a, b, c] = [1, 2, 3].map(|byte| Digest::sha256(&[byte; 32]));
        let spares = Spares::default();
        let add = |chain: &Digest| spares.add(chain, || spare(chain)).expect("made").map(|spare| spare.chain);
        assert_eq!(add(&a), None);
        assert_eq!(add(&a), None, "it is there");
        assert_eq!(add(&b), None);
        assert_eq!(add(&c), Some(a.clone()));
        assert!(spares.take(&a).is_none());
        assert!(spares.take(&b).is_some());
        assert!(spares.take(&b).is_none(), "it is somebody's now");
        assert!(spares.wait_and_take(&c).is_some());
    }
}
