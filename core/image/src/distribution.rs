//! What is known of layers in registries: under which digests their compressed forms go there, and in which repositories
//! they have been seen. A pull finds by it what need not be fetched, a push what need not be sent.
//!
//! ```text
//! image/distribution/<diffID>.json
//! ```
//! Nothing of it is needed for an image to work: a document that is lost costs a transfer.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dockerd_store::{Durability, document};
use dockerd_types::Digest;
use serde::{Deserialize, Serialize};

use crate::error::ImageError;

/// Compressed forms remembered of one layer; the oldest is forgotten first.
const MOST_BLOBS: usize = 16;
/// Repositories remembered of one of them.
const MOST_REPOSITORIES: usize = 64;

/// A compressed form of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerBlob {
    /// Its digest.
    pub(crate) digest: Digest,
    /// Bytes of it.
    pub(crate) size: u64,
    /// Its media type in a manifest.
    pub(crate) media_type: String,
    /// Repositories that have it, `domain/path`.
    pub(crate) repositories: BTreeSet<String>,
}

/// What is stored of one layer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct LayerRecord {
    /// Bytes of the plain tar.
    #[serde(default)]
    tar_size: Option<u64>,
    blobs: Vec<LayerBlob>,
}

impl document::Document for LayerRecord {
    const VERSION: u32 = 1;
}

/// The records, all of them in memory.
#[derive(Debug)]
pub(crate) struct Distribution {
    directory: PathBuf,
    records: RwLock<Records>,
}

#[derive(Debug, Default)]
struct Records {
    layers: HashMap<Digest, LayerRecord>,
    /// DiffIDs by the digest of a compressed form.
    by_blob: HashMap<Digest, Digest>,
}

impl Distribution {
    /// Opens or makes the directory `directory`. Records that cannot be read are passed over.
    pub(crate) fn open(directory: &Path) -> Result<Self, ImageError> {
        fs::create_dir_all(directory).map_err(ImageError::io("make the distribution directory"))?;
        let mut records = Records::default();
        let entries = fs::read_dir(directory).map_err(ImageError::io("list layers known to registries"))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
            let Some(diff_id) = name.and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok()) else { continue };
            match document::read::<LayerRecord>(&path) {
                Ok(record) => records.insert(diff_id, record),
                Err(error) => tracing::warn!(path = %path.display(), %error, "what registries have is forgotten"),
            }
        }
        Ok(Self { directory: directory.to_owned(), records: RwLock::new(records) })
    }

    fn read(&self) -> RwLockReadGuard<'_, Records> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Records> {
        self.records.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compressed forms of the layer `diff_id`, the one seen last at the end.
    pub(crate) fn blobs(&self, diff_id: &Digest) -> Vec<LayerBlob> {
        self.read().layers.get(diff_id).map_or_else(Vec::new, |record| record.blobs.clone())
    }

    /// Bytes of the plain tar of the layer, where they were noted.
    pub(crate) fn tar_size(&self, diff_id: &Digest) -> Option<u64> {
        self.read().layers.get(diff_id)?.tar_size
    }

    /// The layer whose compressed form `blob` is.
    pub(crate) fn diff_id(&self, blob: &Digest) -> Option<Digest> {
        self.read().by_blob.get(blob).cloned()
    }

    /// Notes that `blob` is a form of the layer `diff_id`, whose plain tar has `tar_size` bytes, and where it was seen.
    pub(crate) fn record(&self, diff_id: &Digest, tar_size: Option<u64>, blob: LayerBlob) -> Result<(), ImageError> {
        self.change(diff_id, |record| {
            record.tar_size = tar_size.or(record.tar_size);
            let mut blob = blob;
            if let Some(at) = record.blobs.iter().position(|known| known.digest == blob.digest) {
                blob.repositories.append(&mut record.blobs.remove(at).repositories);
            }
            while blob.repositories.len() > MOST_REPOSITORIES {
                blob.repositories.pop_first();
            }
            record.blobs.push(blob);
            if record.blobs.len() > MOST_BLOBS {
                record.blobs.remove(0);
            }
        })
    }

    /// Notes that a repository turned out not to have `blob`.
    pub(crate) fn forget_repository(
        &self,
        diff_id: &Digest,
        blob: &Digest,
        repository: &str,
    ) -> Result<(), ImageError> {
        self.change(diff_id, |record| {
            if let Some(known) = record.blobs.iter_mut().find(|known| known.digest == *blob) {
                known.repositories.remove(repository);
            }
        })
    }

    fn change(&self, diff_id: &Digest, change: impl FnOnce(&mut LayerRecord)) -> Result<(), ImageError> {
        let mut records = self.write();
        let mut record = records.layers.get(diff_id).cloned().unwrap_or_default();
        let before = record.clone();
        change(&mut record);
        if (record.tar_size, &record.blobs) != (before.tar_size, &before.blobs) {
            document::write(&self.path(diff_id), &record, Durability::Process)?;
            records.insert(diff_id.clone(), record);
        }
        Ok(())
    }

    /// Forgets a layer that has gone.
    pub(crate) fn forget(&self, diff_id: &Digest) {
        let mut records = self.write();
        let Some(record) = records.layers.remove(diff_id) else { return };
        for blob in record.blobs {
            records.by_blob.remove(&blob.digest);
        }
        if let Err(error) = fs::remove_file(self.path(diff_id))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%diff_id, %error, "what registries have of a layer could not be forgotten");
        }
    }

    /// Layers there are records of.
    pub(crate) fn layers(&self) -> Vec<Digest> {
        self.read().layers.keys().cloned().collect()
    }

    fn path(&self, diff_id: &Digest) -> PathBuf {
        self.directory.join(format!("{}.json", diff_id.hex()))
    }
}

impl Records {
    fn insert(&mut self, diff_id: Digest, record: LayerRecord) {
        for blob in &record.blobs {
            self.by_blob.insert(blob.digest.clone(), diff_id.clone());
        }
        self.layers.insert(diff_id, record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::sha256(&[byte; 32])
    }

    fn blob(byte: u8, repository: &str) -> LayerBlob {
        let repositories = [repository.to_owned()].into();
        LayerBlob { digest: digest(byte), size: 5, media_type: "a/b".to_owned(), repositories }
    }

    #[test]
    fn records_are_there_again_and_are_bounded() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let known = Distribution::open(dir.path()).expect("opened");
        known.record(&digest(1), Some(9), blob(2, "r/a")).expect("noted");
        known.record(&digest(1), None, blob(2, "r/b")).expect("noted");
        assert_eq!(known.diff_id(&digest(2)), Some(digest(1)));
        known.forget_repository(&digest(1), &digest(2), "r/a").expect("noted");
        let known = Distribution::open(dir.path()).expect("opened");
        assert_eq!((known.blobs(&digest(1)), known.tar_size(&digest(1))), (vec![blob(2, "r/b")], Some(9)));
        for byte in 0..100 {
            known.record(&digest(1), None, blob(byte, "r/b")).expect("noted");
        }
        assert_eq!(known.blobs(&digest(1)).len(), MOST_BLOBS);
        known.forget(&digest(1));
        assert_eq!((known.diff_id(&digest(99)), known.layers()), (None, Vec::new()));
        std::fs::write(dir.path().join(format!("{}.json", digest(1).hex())), "torn").expect("written");
        assert!(Distribution::open(dir.path()).expect("opened").layers().is_empty());
    }
}
