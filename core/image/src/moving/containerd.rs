//! Images and snapshots of the containerd image store:
//!
//! ```text
//! io.containerd.metadata.v1.bolt/meta.db             v1/moby/images/<name>/target/digest,
//!                                                    v1/moby/snapshots/overlayfs/<key>/name
//! io.containerd.content.v1.content/blobs/sha256/     indexes, manifests, configurations, layers (compressed)
//! io.containerd.snapshotter.v1.overlayfs/metadata.db v1/snapshots/<name>/id
//! io.containerd.snapshotter.v1.overlayfs/snapshots/<id>/fs
//! ```
//! Of an image for several platforms the one for this machine is taken, or else the first that is here as a whole.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use dockerd_store::Bolt;
use dockerd_store::bolt::{Bucket, Item};
use dockerd_types::{ContainerId, Digest, Reference};
use serde::Deserialize;

use super::{MOST_OF_A_DOCUMENT, MovingError, OldRoot, Parts, Source, config, digest_of};
use crate::load::Platform;

/// The snapshotter's name.
pub(super) const DRIVER: &str = "overlayfs";
/// Where a daemon keeps the root of the containerd it starts itself.
const OWN: &str = "containerd/daemon";
const META: &str = "io.containerd.metadata.v1.bolt/meta.db";
const SNAPSHOTS: &str = "io.containerd.snapshotter.v1.overlayfs";
/// The namespace of the stock daemon.
const NAMESPACE: &str = "moby";
/// Names of images whose name is another's now.
const DANGLING: &str = "moby-dangling@";
/// How deep indexes may nest.
const MOST_DEPTH: u32 = 4;

/// Containerd's part of an old root.
#[derive(Debug)]
pub(super) struct Containerd {
    root: OldRoot,
    meta: Bolt,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: Digest,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
    platform: Option<Platform>,
}

impl Descriptor {
    /// Says something about an image, but is none.
    fn is_statement(&self) -> bool {
        let kind = self.annotations.as_ref().and_then(|annotations| annotations.get("vnd.docker.reference.type"));
        kind.is_some_and(|kind| kind == "attestation-manifest")
            || self.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
    }
}

impl Containerd {
    /// At `path`, or below `docker`; `None` where nothing of a stock daemon is there.
    pub(super) fn open(docker: &OldRoot, path: Option<&Path>) -> Result<Option<Self>, MovingError> {
        let root = match path {
            Some(path) => OldRoot::open(path).map_err(MovingError::read(path.display().to_string()))?,
            None if !docker.has(&format!("{OWN}/{META}")) => return Ok(None),
            None => OldRoot::of(docker.directory(OWN).map_err(MovingError::read(OWN))?),
        };
        let file = root.file(META).map_err(MovingError::read(META))?;
        let meta = Bolt::open(file).map_err(MovingError::bolt(META))?;
        // A daemon with a graph driver leaves an empty one.
        let used = meta.bucket(&["v1", NAMESPACE, "images"]).map_err(MovingError::bolt(META))?.is_some();
        Ok(used.then_some(Self { root, meta }))
    }

    /// All images, by what their names lead to.
    pub(super) fn list(&self) -> Result<Vec<(Digest, Vec<Reference>)>, MovingError> {
        let fail = || MovingError::bolt(META);
        let mut images: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        let bucket = self.meta.bucket(&["v1", NAMESPACE, "images"]).map_err(fail())?;
        let items = bucket.map(|bucket| self.meta.items(&bucket)).transpose().map_err(fail())?;
        for (name, item) in items.unwrap_or_default() {
            let Item::Bucket(image) = item else { continue };
            let name = String::from_utf8_lossy(&name).into_owned();
            let broken = |why: &dyn std::fmt::Display| MovingError::broken(format!("image {name:?}"))(why);
            let digest = self.text_below(&self.meta, &image, "target", "digest")?;
            let digest = digest.ok_or_else(|| broken(&"has no target"))?;
            let digest = Digest::parse(&digest).map_err(|error| broken(&error))?;
            let names = images.entry(digest).or_default();
            if !name.starts_with(DANGLING) {
                names.push(Reference::parse(&name).map_err(|error| broken(&error))?);
            }
        }
        Ok(images.into_iter().collect())
    }

    /// What the image is made of that `target` leads to.
    pub(super) fn parts(&self, target: &Digest) -> Result<Parts, MovingError> {
        let own = Platform::host();
        let mut found = Vec::new();
        let mut missing = None;
        self.manifests(target, 0, &mut found, &mut missing)?;
        let mut first = None;
        for manifest in &found {
            match self.image(manifest) {
                Ok((parts, config)) if own.takes(&config) => return Ok(parts),
                Ok((parts, _)) => _ = first.get_or_insert(parts),
                Err(error) => _ = missing.get_or_insert(error),
            }
        }
        first.ok_or_else(|| missing.unwrap_or_else(|| MovingError::Missing(format!("image {target}"))))
    }

    /// The manifests of images below `digest`, which may be one itself. What of an index is not here is noted in `missing`:
    /// of most platforms nothing is.
    fn manifests(
        &self,
        digest: &Digest,
        depth: u32,
        found: &mut Vec<Manifest>,
        missing: &mut Option<MovingError>,
    ) -> Result<(), MovingError> {
        let what = || format!("manifest {digest}");
        if depth > MOST_DEPTH || found.len() > 256 {
            return Err(MovingError::broken(what())(&"indexes are nested too deeply or have too many images"));
        }
        let manifest: Manifest =
            serde_json::from_slice(&self.blob(digest)?).map_err(|e| MovingError::broken(what())(&e))?;
        if manifest.config.is_some() {
            found.push(manifest);
            return Ok(());
        }
        for below in manifest.manifests.iter().filter(|below| !below.is_statement()) {
            match self.manifests(&below.digest, depth + 1, found, missing) {
                Err(error @ MovingError::Missing(_)) => _ = missing.get_or_insert(error),
                other => other?,
            }
        }
        Ok(())
    }

    fn image(&self, manifest: &Manifest) -> Result<(Parts, crate::ImageConfig), MovingError> {
        let Some(descriptor) = &manifest.config else { return Err(MovingError::Missing("configuration".to_owned())) };
        let raw_config = self.blob(&descriptor.digest)?;
        let config = config(&descriptor.digest, &raw_config)?;
        let diff_ids = config.rootfs.diff_ids.clone();
        if diff_ids.len() != manifest.layers.len() {
            let why = "has another number of layers than its manifest";
            return Err(MovingError::broken(format!("configuration {}", descriptor.digest))(&why));
        }
        let layers = manifest.layers.iter().zip(diff_ids);
        let layers = layers.map(|(layer, diff_id)| Source { diff_id, place: layer.digest.clone() }).collect::<Vec<_>>();
        if let Some(layer) = layers.iter().find(|layer| !self.root.has(&blob_path(&layer.place))) {
            return Err(MovingError::Missing(format!("content of layer {}", layer.diff_id)));
        }
        Ok((Parts { raw_config, parent: None, layers }, config))
    }

    /// The layer's tar, as it was received.
    pub(super) fn layer(&self, source: &Source) -> Result<Box<dyn io::Read + Send>, MovingError> {
        let path = blob_path(&source.place);
        Ok(Box::new(self.root.file(&path).map_err(MovingError::read(path))?))
    }

    /// The upper directory of a container.
    pub(super) fn writable(&self, id: &ContainerId) -> Result<OwnedFd, MovingError> {
        let what = || format!("snapshot of container {id}");
        let known = self.meta.bucket(&["v1", NAMESPACE, "snapshots", DRIVER]).map_err(MovingError::bolt(META))?;
        let known = known.ok_or_else(|| MovingError::Missing(what()))?;
        let name = self.text_below(&self.meta, &known, id.as_str(), "name")?;
        let name = name.ok_or_else(|| MovingError::Missing(what()))?;
        let path = format!("{SNAPSHOTS}/metadata.db");
        let fail = || MovingError::bolt(&path);
        let file = self.root.file(&path).map_err(MovingError::read(&path))?;
        let snapshots = Bolt::open(file).map_err(fail())?;
        let snapshot = snapshots.bucket(&["v1", "snapshots", &name]).map_err(fail())?;
        let snapshot = snapshot.ok_or_else(|| MovingError::Missing(what()))?;
        let number = snapshots.value(&snapshot, "id").map_err(fail())?.and_then(|bytes| varint(&bytes));
        let number = number.ok_or_else(|| MovingError::broken(what())(&"has no number"))?;
        let files = format!("{SNAPSHOTS}/snapshots/{number}/fs");
        self.root.directory(&files).map_err(MovingError::read(files))
    }

    /// The text `key` in the bucket `name` of `bucket`.
    fn text_below(&self, bolt: &Bolt, bucket: &Bucket, name: &str, key: &str) -> Result<Option<String>, MovingError> {
        let fail = || MovingError::bolt(META);
        let Some(Item::Bucket(below)) = bolt.get(bucket, name).map_err(fail())? else { return Ok(None) };
        let value = bolt.value(&below, key).map_err(fail())?;
        Ok(value.and_then(|value| String::from_utf8(value).ok()))
    }

    /// A document of the content store.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, MovingError> {
        let what = || format!("content {digest}");
        let bytes = match self.root.read(&blob_path(digest), MOST_OF_A_DOCUMENT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MovingError::Missing(what())),
            read => read.map_err(MovingError::read(what()))?,
        };
        if digest_of(&bytes) != *digest {
            return Err(MovingError::broken(what())(&"has another digest"));
        }
        Ok(bytes)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("io.containerd.content.v1.content/blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// A number as Go's `binary.PutUvarint` writes it.
fn varint(bytes: &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for (place, byte) in bytes.iter().enumerate().take(9) {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_snapshots() {
        assert_eq!(varint(&[5]), Some(5));
        assert_eq!(varint(&[0xac, 0x02]), Some(300));
        assert_eq!(varint(&[]), None);
        assert_eq!(varint(&[0xff; 12]), None);
    }
}
