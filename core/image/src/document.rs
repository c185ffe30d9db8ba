//! Stored documents of images: one per image, and one with all references.

use std::collections::BTreeMap;

use dockerd_store::document::Document;
use dockerd_types::{Digest, Reference, Timestamp};
use serde::{Deserialize, Serialize};

/// `image/images/<hex>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageDocument {
    /// Config digest; the configuration itself is content.
    pub(crate) id: Digest,
    /// Layers, lowest first.
    pub(crate) layers: Vec<LayerDocument>,
    /// When it came to this host.
    pub(crate) arrived: Timestamp,
    /// The image it was made from here, by commit or build.
    pub(crate) parent: Option<Digest>,
    /// When it was last given a name, other than by a load.
    #[serde(default)]
    pub(crate) last_tagged: Option<Timestamp>,
    /// Manifests it came by.
    #[serde(default)]
    pub(crate) manifests: Vec<ManifestDocument>,
}

/// A manifest of an image; the manifest itself is content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ManifestDocument {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
}

/// A layer of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerDocument {
    pub(crate) diff_id: Digest,
    pub(crate) chain_id: Digest,
    /// Bytes of its files.
    pub(crate) size: u64,
}

impl Document for ImageDocument {
    const VERSION: u32 = 1;
}

/// `image/references.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ReferencesDocument {
    /// References by tag or digest, and what they name.
    pub(crate) tags: BTreeMap<Reference, Digest>,
}

impl Document for ReferencesDocument {
    const VERSION: u32 = 1;
}
