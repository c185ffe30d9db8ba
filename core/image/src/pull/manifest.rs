//! Which manifest a pull takes: the one asked for, or of an index the one for the platform.

use dockerd_registry::{Descriptor, Document, ImageManifest, Manifest, Repository};
use dockerd_types::Reference;

use super::{PullError, Remote};
use crate::load::Platform;
use crate::store::ImageStore;

/// How deep an index may nest indexes.
const MAX_DEPTH: usize = 4;
/// Most layers of an image; the stock daemon's bound for its overlay.
const MAX_LAYERS: usize = 500;

/// Media types of image configurations.
const CONFIGS: [&str; 3] = [
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.config.v1+json",
    // What registries of old called anything.
    "application/octet-stream",
];
/// Media types of layers, without what tells their compression.
const LAYERS: [&str; 4] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
];

/// Follows `top` down to the manifest of an image; the indexes on the way go to `seen`.
pub(super) async fn choose(
    store: &ImageStore,
    repository: &Repository,
    reference: &Reference,
    top: Manifest,
    platform: Option<&Platform>,
    seen: &mut Vec<Manifest>,
) -> Result<Remote, PullError> {
    let own = Platform::host();
    let wanted = platform.unwrap_or(&own);
    let mut raw = top;
    for _ in 0..MAX_DEPTH {
        let entries = match raw.parse()? {
            Document::Image(found) => return image(reference, raw, *found),
            Document::Index(index) => index.manifests,
        };
        let entry = entries.iter().find(|entry| fits(entry, wanted));
        let entry = entry.ok_or_else(|| PullError::NoPlatform(wanted.clone()))?;
        let next = store.manifest_of(repository, &entry.digest).await?;
        seen.push(std::mem::replace(&mut raw, next));
    }
    Err(PullError::Invalid("manifest lists are nested too deeply".to_owned()))
}

/// Whether an index's entry is an image for `wanted`; statements about images are for no platform.
fn fits(entry: &Descriptor, wanted: &Platform) -> bool {
    if entry.annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest") {
        return false;
    }
    entry.platform.as_ref().is_none_or(|platform| {
        let platform = Platform {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone().unwrap_or_default(),
        };
        wanted.takes_other(&platform)
    })
}

fn image(reference: &Reference, manifest: Manifest, found: ImageManifest) -> Result<Remote, PullError> {
    let ImageManifest { config, layers, .. } = found;
    if !CONFIGS.contains(&config.media_type.as_str()) {
        return Err(PullError::Unsupported(unsupported(&config.media_type)));
    }
    if layers.len() > MAX_LAYERS {
        return Err(PullError::Invalid("max depth exceeded".to_owned()));
    }
    let is_layer = |media_type: &str| {
        let base = media_type.split_once(['+']).map_or(media_type, |(base, _)| base);
        LAYERS.contains(&base.strip_suffix(".gzip").or_else(|| base.strip_suffix(".zstd")).unwrap_or(base))
    };
    if let Some(other) = layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        return Err(PullError::Unsupported(unsupported(&other.media_type)));
    }
    Ok(Remote { reference: reference.clone(), manifest, config, layers })
}

/// The stock daemon's words for what only newer engines or other programs can use.
fn unsupported(media_type: &str) -> String {
    format!("unsupported media type {media_type}")
}
