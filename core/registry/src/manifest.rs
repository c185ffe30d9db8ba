//! Manifests and indexes (OCI image-spec, `manifest.md` and `image-index.md`; Docker image manifest version 2, schema 2) as
//! typed descriptors. The documents come from the network: counts and sizes are bounded, fields nobody asked for are ignored.

use std::collections::BTreeMap;

use bytes::Bytes;
use dockerd_types::Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};

use crate::api_error::go_json_error;
use crate::error::RegistryError;

/// Docker's manifest of one image.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's list of manifests.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The OCI manifest of one image or artifact.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The OCI index of manifests.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's older manifest, with and without signature.
const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
/// Largest manifest that is read, in bytes (distribution-spec, "Pushing Manifests": at least 4 MiB are to be expected).
pub const LARGEST_MANIFEST: usize = 4 << 20;
/// Most layers of an image. The kernel takes 500 lower directories of an overlay; images have at most 127 on other daemons.
const MOST_LAYERS: usize = 500;
/// Most manifests of an index.
const MOST_MANIFESTS: usize = 10_000;
/// Most `urls` of a descriptor.
const MOST_URLS: usize = 32;
/// Largest size a descriptor may announce, in bytes.
const LARGEST_BLOB: u64 = 8 << 40;

/// A manifest as it came: its bytes are what its digest is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The document.
    pub bytes: Bytes,
    /// What kind it says it is; the registry's header where it says nothing.
    pub media_type: String,
    /// Verified digest of `bytes`.
    pub digest: Digest,
}

impl Manifest {
    /// What the document says.
    ///
    /// # Errors
    ///
    /// When it is neither an image nor an index, or makes no sense.
    pub fn parse(&self) -> Result<Document, RegistryError> {
        Document::parse(&self.media_type, &self.bytes)
    }
}

/// Where something lies, and what it is (OCI image-spec, `descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Where it may be got beside the registry; for foreign layers.
    pub urls: Vec<String>,
    /// Words of its maker.
    pub annotations: BTreeMap<String, String>,
    /// For which machines it is.
    pub platform: Option<Platform>,
    /// The kind of artifact.
    pub artifact_type: Option<String>,
}

/// A kind of machine (OCI image-spec, `image-index.md`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// In Go's words, `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// In Go's words, `linux`.
    #[serde(default)]
    pub os: String,
    /// Version of the system, for Windows.
    #[serde(rename = "os.version", default)]
    pub os_version: Option<String>,
    /// Features of the system, for Windows.
    #[serde(rename = "os.features", default)]
    pub os_features: Vec<String>,
    /// `v8` ...
    #[serde(default)]
    pub variant: Option<String>,
}

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Image(Box<ImageManifest>),
    /// A choice of manifests.
    Index(Index),
}

/// One image, or an artifact in the shape of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// Words of its maker.
    pub annotations: BTreeMap<String, String>,
    /// The kind of artifact, when it is no image.
    pub artifact_type: Option<String>,
    /// What it is about.
    pub subject: Option<Descriptor>,
}

/// A choice of manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The manifests, in their order.
    pub manifests: Vec<Descriptor>,
    /// Words of its maker.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    schema_version: i64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    subject: Option<RawDescriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    artifact_type: Option<String>,
}

impl RawDescriptor {
    fn checked(self) -> Result<Descriptor, RegistryError> {
        let Self { media_type, digest, size, urls, annotations, platform, artifact_type } = self;
        let digest = Digest::parse(&digest).map_err(|error| malformed(error.to_string()))?;
        let checked = u64::try_from(size).ok().filter(|size| *size <= LARGEST_BLOB);
        let size = checked.ok_or_else(|| malformed(format!("impossible size {size} of {digest}")))?;
        let urls = urls.unwrap_or_default();
        if urls.len() > MOST_URLS {
            return Err(malformed(format!("{} urls of {digest}", urls.len())));
        }
        let annotations = annotations.unwrap_or_default();
        Ok(Descriptor { media_type, digest, size, urls, annotations, platform, artifact_type })
    }
}

fn malformed(why: String) -> RegistryError {
    RegistryError::Malformed { what: "manifest", why }
}

impl Document {
    /// Parses a document whose kind is known.
    ///
    /// # Errors
    ///
    /// [`RegistryError::UnsupportedMediaType`] when it is neither an image nor an index, [`RegistryError::Malformed`] when it
    /// makes no sense.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self, RegistryError> {
        let raw = RawDocument::of(bytes)?;
        let annotations = raw.annotations.unwrap_or_default();
        match media_type {
            DOCKER_LIST | OCI_INDEX => {
                let manifests = raw.manifests.unwrap_or_default();
                if manifests.len() > MOST_MANIFESTS {
                    return Err(malformed(format!("{} manifests, more than {MOST_MANIFESTS}", manifests.len())));
                }
                let manifests = manifests.into_iter().map(RawDescriptor::checked).collect::<Result<_, _>>()?;
                Ok(Self::Index(Index { manifests, annotations }))
            }
            DOCKER_MANIFEST | OCI_MANIFEST => {
                let layers = raw.layers.unwrap_or_default();
                if layers.len() > MOST_LAYERS {
                    return Err(malformed(format!("{} layers, more than {MOST_LAYERS}", layers.len())));
                }
                let config = raw.config.ok_or_else(|| malformed("no config".to_owned()))?.checked()?;
                Ok(Self::Image(Box::new(ImageManifest {
                    config,
                    layers: layers.into_iter().map(RawDescriptor::checked).collect::<Result<_, _>>()?,
                    annotations,
                    artifact_type: raw.artifact_type,
                    subject: raw.subject.map(RawDescriptor::checked).transpose()?,
                })))
            }
            other => Err(RegistryError::UnsupportedMediaType(other.to_owned())),
        }
    }
}

impl RawDocument {
    fn of(bytes: &[u8]) -> Result<Self, RegistryError> {
        if bytes.len() > LARGEST_MANIFEST {
            return Err(malformed(format!("more than {LARGEST_MANIFEST} bytes")));
        }
        serde_json::from_slice(bytes).map_err(|error| malformed(go_json_error(bytes, &error)))
    }
}

/// The kind of a document: what it says of itself, else what its header says, else what it looks like. `reference` is for the
/// refusal of schema 1.
pub(crate) fn media_type(header: Option<&str>, bytes: &[u8], reference: &str) -> Result<String, RegistryError> {
    let header = header.and_then(|text| text.split(';').next()).map(|text| text.trim().to_ascii_lowercase());
    let raw = RawDocument::of(bytes)?;
    let said = raw.media_type.clone().filter(|text| !text.is_empty());
    let schema1 = raw.schema_version == 1 || raw.fs_layers.is_some();
    if schema1 || header.as_deref().is_some_and(|header| SCHEMA_1.contains(&header)) {
        return Err(RegistryError::Schema1(reference.to_owned()));
    }
    let known = |text: &String| [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX].contains(&text.as_str());
    // Old registries send `text/plain` or `application/json`.
    let vague = |text: &String| {
        matches!(text.as_str(), "" | "text/plain" | "application/json" | "application/octet-stream") || known(text)
    };
    if let Some(other) = header.clone().filter(|header| !vague(header)) {
        return Err(RegistryError::UnsupportedMediaType(other));
    }
    let kind = said.or_else(|| header.clone().filter(known)).or_else(|| match (&raw.manifests, &raw.config) {
        (Some(_), None) => Some(OCI_INDEX.to_owned()),
        (None, Some(_)) => Some(OCI_MANIFEST.to_owned()),
        _ => None,
    });
    let kind = kind.or(header).unwrap_or_default();
    // A document that is both could be read one way here and the other way elsewhere (image-spec, "mediaType").
    let list = matches!(kind.as_str(), DOCKER_LIST | OCI_INDEX);
    let image = matches!(kind.as_str(), DOCKER_MANIFEST | OCI_MANIFEST);
    if list && (raw.config.is_some() || raw.layers.is_some()) || image && raw.manifests.is_some() {
        return Err(malformed("it is both an image and an index".to_owned()));
    }
    Ok(kind)
}

/// The digest of `bytes` by the algorithm of `like`.
pub(crate) fn digest_like(like: Option<&Digest>, bytes: &[u8]) -> Digest {
    match like.map(Digest::algorithm) {
        Some("sha512") => Digest::sha512(&Sha512::digest(bytes).into()),
        _ => Digest::sha256(&Sha256::digest(bytes).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(size: &str) -> String {
        format!(r#"{{"mediaType":"m","digest":"sha256:{}","size":{size}}}"#, "0".repeat(64))
    }

    #[test]
    fn images_and_indexes_are_read() {
        let layer = descriptor("5");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{layer},{layer}],"x":{{}}}}"#,
            descriptor("2")
        );
        assert_eq!(media_type(Some("text/plain"), text.as_bytes(), "r").unwrap(), OCI_MANIFEST);
        let Document::Image(image) = Document::parse(OCI_MANIFEST, text.as_bytes()).unwrap() else {
            panic!("an image")
        };
        assert_eq!((image.config.size, image.layers.len()), (2, 2));
        let platform = r#"{"architecture":"arm64","os":"linux","variant":"v8"}"#;
        let text =
            format!(r#"{{"manifests":[{}]}}"#, layer.replace(r#""size""#, &format!(r#""platform":{platform},"size""#)));
        assert_eq!(media_type(None, text.as_bytes(), "r").unwrap(), OCI_INDEX);
        let Document::Index(index) = Document::parse(OCI_INDEX, text.as_bytes()).unwrap() else { panic!("an index") };
        assert_eq!(index.manifests[0].platform.as_ref().unwrap().variant.as_deref(), Some("v8"));
    }

    #[test]
    fn nonsense_is_refused() {
        let image = |config: &str, layers: &str| format!(r#"{{"config":{config},"layers":[{layers}]}}"#);
        let error = |text: &str| Document::parse(DOCKER_MANIFEST, text.as_bytes()).unwrap_err().to_string();
        assert!(error(&image(&descriptor("-1"), "")).contains("impossible size -1"));
        assert!(error(&image(&descriptor("99999999999999"), "")).contains("impossible size"));
        assert!(error(&image(&descriptor("1"), &vec![descriptor("1"); 501].join(","))).contains("501 layers"));
        assert_eq!(error("{}"), "invalid manifest: no config");
        assert!(error("[").starts_with("invalid manifest: "));
        assert!(error(&image(r#"{"digest":"md5:x"}"#, "")).contains("invalid digest"));
        assert!(error(&"[".repeat(1 << 20)).starts_with("invalid manifest: "));
        let text = Document::parse("text/html", b"{}").unwrap_err().to_string();
        assert_eq!(text, "unsupported media type text/html");
        let both = format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":[],"config":{}}}"#, descriptor("1"));
        assert!(media_type(None, both.as_bytes(), "r").is_err());
    }

    #[test]
    fn schema_1_is_told_by_name() {
        for text in [r#"{"schemaVersion":1,"fsLayers":[]}"#, r#"{"fsLayers":[{"blobSum":"x"}]}"#] {
            let error = media_type(Some("application/json"), text.as_bytes(), "docker.io/library/old:1").unwrap_err();
            assert!(error.to_string().contains("Suggest the author of docker.io/library/old:1 to upgrade"), "{error}");
        }
    }
}
