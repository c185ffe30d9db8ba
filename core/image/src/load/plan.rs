//! What the documents of an archive say: which images, of which layers, by which names. Nothing is written here.

use std::collections::HashMap;

use dockerd_types::{Digest, Reference};
use serde::Deserialize;

use super::receive::{Arrivals, blob_path};
use crate::config::ImageConfig;
use crate::error::ImageError;

/// How deep an OCI index may nest indexes.
const MAX_DEPTH: u32 = 4;
/// Most layers of an image; the stock daemon's bound for its overlay.
const MAX_LAYERS: usize = 500;

/// An image of the archive.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) raw_config: Vec<u8>,
    pub(super) layers: Vec<PlannedLayer>,
    pub(super) references: Vec<Reference>,
}

/// A layer of such an image.
#[derive(Debug)]
pub(super) struct PlannedLayer {
    /// Name of its file in the archive.
    pub(super) file: String,
    /// What the configuration says.
    pub(super) diff_id: Digest,
    /// What a manifest says of the file.
    pub(super) digest: Option<Digest>,
}

/// The images of the archive, in its order.
pub(super) fn images(arrivals: &Arrivals, platform: Option<&Platform>) -> Result<Vec<Planned>, ImageError> {
    let mut out = Vec::new();
    if let Some(manifest) = json::<Option<Vec<DockerManifest>>>(arrivals, "manifest.json")? {
        for entry in manifest.unwrap_or_default() {
            out.extend(docker_image(arrivals, entry, platform)?);
        }
        return Ok(out);
    }
    let Some(index) = json::<Index>(arrivals, "index.json")? else {
        return Err(ImageError::Archive("invalid archive: does not contain a manifest.json".to_owned()));
    };
    let mut known: HashMap<Digest, usize> = HashMap::new();
    for descriptor in &index.manifests {
        if descriptor.is_attestation() {
            continue;
        }
        let reference = descriptor.reference()?;
        let chosen = choose(arrivals, descriptor, platform, 0)?;
        let Some(manifest) = chosen else { continue };
        // One image under several names has an entry for each.
        if let Some(at) = known.get(&manifest.0) {
            let image: &mut Planned = &mut out[*at];
            image.references.extend(reference.filter(|reference| !image.references.contains(reference)));
            continue;
        }
        let (digest, manifest) = manifest;
        if let Some(image) = oci_image(arrivals, &manifest, reference, platform)? {
            known.insert(digest, out.len());
            out.push(image);
        }
    }
    Ok(out)
}

fn docker_image(
    arrivals: &Arrivals,
    manifest: DockerManifest,
    platform: Option<&Platform>,
) -> Result<Option<Planned>, ImageError> {
    let raw_config = arrivals
        .document(&manifest.config)?
        .ok_or_else(|| ImageError::Archive(format!("open {}: no such file or directory", manifest.config)))?;
    let layers = manifest.layers.unwrap_or_default();
    let Some(diff_ids) = check_config(&raw_config, layers.len(), platform)? else { return Ok(None) };
    let named = manifest.repo_tags.unwrap_or_default();
    let references = named.iter().map(|tag| {
        let reference = Reference::parse(tag)?;
        if reference.tag().is_none() {
            return Err(ImageError::Archive(format!("invalid tag {tag:?}")));
        }
        Ok(reference)
    });
    let references = references.collect::<Result<Vec<_>, ImageError>>()?;
    let layers = layers.into_iter().zip(diff_ids);
    let layers = layers.map(|(file, diff_id)| PlannedLayer { file, diff_id, digest: None }).collect();
    Ok(Some(Planned { raw_config, layers, references }))
}

fn oci_image(
    arrivals: &Arrivals,
    manifest: &Manifest,
    reference: Option<Reference>,
    platform: Option<&Platform>,
) -> Result<Option<Planned>, ImageError> {
    let Some(config) = &manifest.config else { return Ok(None) };
    let raw_config = arrivals.blob(&config.digest)?;
    let Some(diff_ids) = check_config(&raw_config, manifest.layers.len(), platform)? else { return Ok(None) };
    let layers = manifest.layers.iter().zip(diff_ids).map(|(layer, diff_id)| PlannedLayer {
        file: blob_path(&layer.digest),
        diff_id,
        digest: Some(layer.digest.clone()),
    });
    Ok(Some(Planned { raw_config, layers: layers.collect(), references: reference.into_iter().collect() }))
}

/// The diffIDs of a configuration that fits its manifest; `None` for an image of another platform than asked for.
fn check_config(raw: &[u8], layers: usize, platform: Option<&Platform>) -> Result<Option<Vec<Digest>>, ImageError> {
    let members: HashMap<String, serde_json::Value> =
        serde_json::from_slice(raw).map_err(|error| bad_json("image configuration", &error))?;
    if members.get("rootfs").is_none_or(serde_json::Value::is_null) {
        return Err(ImageError::Archive("invalid image JSON, no RootFS key".to_owned()));
    }
    let config: ImageConfig = serde_json::from_slice(raw).map_err(|error| bad_json("image configuration", &error))?;
    if !matches!(config.os.as_str(), "" | "linux") {
        return Err(ImageError::Archive(format!("cannot load {} image on linux", config.os)));
    }
    if platform.is_some_and(|wanted| !wanted.takes(&config)) {
        return Ok(None);
    }
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.len() != layers {
        return Err(ImageError::Archive(format!(
            "invalid manifest, layers length mismatch: expected {layers}, got {}",
            diff_ids.len()
        )));
    }
    if layers > MAX_LAYERS {
        return Err(ImageError::Archive("max depth exceeded".to_owned()));
    }
    Ok(Some(diff_ids))
}

/// The manifest behind a descriptor: itself, or of an index the one for this platform.
fn choose(
    arrivals: &Arrivals,
    descriptor: &Descriptor,
    platform: Option<&Platform>,
    depth: u32,
) -> Result<Option<(Digest, Manifest)>, ImageError> {
    if depth > MAX_DEPTH {
        return Err(ImageError::Archive("indexes are nested too deeply".to_owned()));
    }
    let bytes = arrivals.blob(&descriptor.digest)?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| bad_json("manifest", &error))?;
    if manifest.manifests.is_empty() {
        return Ok(Some((descriptor.digest.clone(), manifest)));
    }
    let own = Platform::host();
    let wanted = platform.unwrap_or(&own);
    let mut fits = manifest.manifests.iter().filter(|below| !below.is_attestation());
    let fits = fits.find(|below| below.platform.as_ref().is_none_or(|platform| wanted.takes_other(platform)));
    match fits {
        Some(below) => choose(arrivals, below, platform, depth + 1),
        None => Ok(None),
    }
}

fn json<T: for<'de> Deserialize<'de>>(arrivals: &Arrivals, name: &str) -> Result<Option<T>, ImageError> {
    let Some(mut bytes) = arrivals.document(name)? else { return Ok(None) };
    // An index of a registry mirror can have megabytes; simd-json takes a third of the time there.
    simd_json::serde::from_slice(&mut bytes).map(Some).map_err(|error| bad_json(name, &error))
}

fn bad_json(what: &str, error: &dyn std::fmt::Display) -> ImageError {
    ImageError::Archive(format!("invalid {what}: {error}"))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
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
    fn annotation(&self, name: &str) -> Option<&String> {
        self.annotations.as_ref()?.get(name)
    }

    /// Statements about another manifest, as BuildKit adds them.
    fn is_attestation(&self) -> bool {
        self.annotation("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
            || self.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
    }

    /// The name the archive gives it, in containerd's or OCI's annotation; a bare tag names nothing.
    fn reference(&self) -> Result<Option<Reference>, ImageError> {
        if let Some(name) = self.annotation("io.containerd.image.name") {
            return Ok(Some(Reference::parse(name)?.with_default_tag()));
        }
        match self.annotation("org.opencontainers.image.ref.name") {
            Some(name) if name.contains([':', '/']) => Ok(Reference::parse(name).ok().map(Reference::with_default_tag)),
            _ => Ok(None),
        }
    }
}

/// A platform, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Architecture.
    #[serde(default)]
    pub architecture: String,
    /// Variant of it; empty stands for any.
    #[serde(default)]
    pub variant: String,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        Self { os: "linux".to_owned(), architecture: go_architecture().to_owned(), variant: String::new() }
    }

    /// Whether an image of that configuration is for this platform.
    pub fn takes(&self, config: &ImageConfig) -> bool {
        self.matches(&config.os, &config.architecture, &config.variant)
    }

    pub(crate) fn takes_other(&self, other: &Self) -> bool {
        self.matches(&other.os, &other.architecture, &other.variant)
    }

    fn matches(&self, os: &str, architecture: &str, variant: &str) -> bool {
        // arm64 has one variant, and many leave it out.
        let plain = |text: &str| if architecture == "arm64" && text == "v8" { String::new() } else { text.to_owned() };
        let wanted = plain(&self.variant);
        self.os == os && self.architecture == architecture && (wanted.is_empty() || wanted == plain(variant))
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self::host()
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// This machine's architecture in Go's words.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
