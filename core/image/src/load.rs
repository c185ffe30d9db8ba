//! `docker load`: docker-archive (`manifest.json`) and OCI layout (`index.json`) tars. Entries may come in any order, so
//! the archive is taken apart into a temporary directory first; names in it are only ever keys of a map.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerd_types::{Digest, Reference};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::config::ImageConfig;
use crate::decompress;
use crate::error::ImageError;
use crate::store::{Image, ImageStore, LayerRef};

/// More files than any real archive of images has.
const MAX_FILES: usize = 100_000;
/// Longest JSON document that is read into memory.
const MAX_JSON: u64 = 16 << 20;
/// How deep an OCI index may nest indexes.
const MAX_DEPTH: u32 = 4;

/// An image that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// It.
    pub image: Arc<Image>,
    /// The names it was given; empty for an image without one.
    pub references: Vec<Reference>,
}

/// What a load is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadProgress {
    /// A layer is being unpacked: its diffID, where known its size.
    Layer(Digest),
}

/// An archive taken apart.
struct Parts {
    directory: tempfile::TempDir,
    files: HashMap<PathBuf, usize>,
    links: HashMap<PathBuf, PathBuf>,
}

impl ImageStore {
    /// Loads every image of the archive `reader`, compressed or not. An archive that is wrong adds no image.
    pub fn load(
        &self,
        reader: impl Read + Send,
        temporary: &Path,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Vec<Loaded>, ImageError> {
        let parts = Parts::take_apart(decompress::plain(reader)?, temporary)?;
        if let Some(manifest) = parts.json::<Vec<DockerManifest>>("manifest.json")? {
            return manifest.iter().map(|entry| self.load_docker(&parts, entry, progress)).collect();
        }
        if let Some(index) = parts.json::<Index>("index.json")? {
            let mut out = Vec::new();
            for descriptor in &index.manifests {
                if let Some(loaded) = self.load_oci(&parts, descriptor, descriptor.reference()?, progress, 0)? {
                    out.push(loaded);
                }
            }
            return Ok(out);
        }
        Err(ImageError::Archive("invalid archive: does not contain a manifest.json".to_owned()))
    }

    fn load_docker(
        &self,
        parts: &Parts,
        manifest: &DockerManifest,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Loaded, ImageError> {
        let raw = parts.bytes(&manifest.config)?;
        let layers: Vec<&str> = manifest.layers.iter().map(String::as_str).collect();
        let references = manifest.repo_tags.iter().flatten().map(|tag| Reference::parse(tag));
        let references = references.collect::<Result<Vec<_>, _>>()?;
        self.assemble(parts, &raw, &layers, references, progress)
    }

    fn load_oci(
        &self,
        parts: &Parts,
        descriptor: &Descriptor,
        reference: Option<Reference>,
        progress: &mut dyn FnMut(LoadProgress),
        depth: u32,
    ) -> Result<Option<Loaded>, ImageError> {
        if depth > MAX_DEPTH {
            return Err(ImageError::Archive("indexes are nested too deeply".to_owned()));
        }
        let bytes = parts.blob(&descriptor.digest)?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(bad_json("manifest"))?;
        if !manifest.manifests.is_empty() {
            let fits = manifest.manifests.iter().find(|d| d.platform.as_ref().is_none_or(Platform::is_ours));
            let Some(fits) = fits else { return Ok(None) };
            return self.load_oci(parts, fits, reference, progress, depth + 1);
        }
        let Some(config) = &manifest.config else { return Ok(None) };
        let raw = parts.blob(&config.digest)?;
        let layers: Vec<String> = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
        for (layer, path) in manifest.layers.iter().zip(&layers) {
            parts.verify(path, &layer.digest)?;
        }
        self.assemble(parts, &raw, &layers, reference.into_iter().collect(), progress).map(Some)
    }

    fn assemble(
        &self,
        parts: &Parts,
        raw_config: &[u8],
        layer_files: &[&str],
        references: Vec<Reference>,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Loaded, ImageError> {
        let config: ImageConfig = serde_json::from_slice(raw_config).map_err(bad_json("image configuration"))?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != layer_files.len() {
            return Err(ImageError::Archive(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                diff_ids.len(),
                layer_files.len()
            )));
        }
        let mut layers: Vec<LayerRef> = Vec::new();
        for (diff_id, file) in diff_ids.iter().zip(layer_files) {
            progress(LoadProgress::Layer(diff_id.clone()));
            let tar = decompress::plain(parts.open(file)?)?;
            layers.push(self.add_layer(layers.last(), Some(diff_id), tar)?);
        }
        let image = self.add_image(raw_config, &layers, &references)?;
        Ok(Loaded { image, references })
    }
}

impl Parts {
    fn take_apart(reader: impl Read, temporary: &Path) -> Result<Self, ImageError> {
        let broken = |error: io::Error| ImageError::Archive(format!("invalid archive: {error}"));
        let directory = tempfile::TempDir::new_in(temporary).map_err(ImageError::io("make a temporary directory"))?;
        let mut parts = Self { directory, files: HashMap::new(), links: HashMap::new() };
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let path = normal(&entry.path().map_err(broken)?);
            if parts.files.len() + parts.links.len() >= MAX_FILES {
                return Err(ImageError::Archive("invalid archive: too many files".to_owned()));
            }
            if entry.header().entry_type().is_file() {
                let number = parts.files.len();
                let to = parts.directory.path().join(number.to_string());
                let mut file = File::create(to).map_err(ImageError::io("unpack archive"))?;
                io::copy(&mut entry, &mut file).map_err(broken)?;
                parts.files.insert(path, number);
            } else if let (true, Ok(Some(target))) = (entry.header().entry_type().is_symlink(), entry.link_name()) {
                let target = normal(&path.parent().unwrap_or_else(|| Path::new("")).join(target));
                parts.links.insert(path, target);
            } else if let (true, Ok(Some(target))) = (entry.header().entry_type().is_hard_link(), entry.link_name()) {
                parts.links.insert(path, normal(&target));
            }
        }
        Ok(parts)
    }

    fn open(&self, name: &str) -> Result<File, ImageError> {
        let mut path = normal(Path::new(name));
        // Old archives link equal layers to each other; a chain of links is longer than one only in a hostile one.
        for _ in 0..8 {
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        let number = self.files.get(&path);
        let number = number.ok_or_else(|| ImageError::Archive(format!("invalid archive: {name} is missing")))?;
        File::open(self.directory.path().join(number.to_string())).map_err(ImageError::io("read archive"))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let read = self.open(name)?.take(MAX_JSON + 1).read_to_end(&mut bytes);
        read.map_err(ImageError::io("read archive"))?;
        if bytes.len() as u64 > MAX_JSON {
            return Err(ImageError::Archive(format!("invalid archive: {name} is too large")));
        }
        Ok(bytes)
    }

    /// A JSON file of the archive; `None` when there is no such file.
    fn json<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>, ImageError> {
        if !self.files.contains_key(Path::new(name)) && !self.links.contains_key(Path::new(name)) {
            return Ok(None);
        }
        let mut bytes = self.bytes(name)?;
        // An index of a registry mirror can have megabytes; simd-json takes a third of the time there.
        simd_json::serde::from_slice(&mut bytes).map(Some).map_err(|error| bad_json_text(name, &error.to_string()))
    }

    /// A small blob, checked.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = blob_path(digest);
        let bytes = self.bytes(&path)?;
        let found = Digest::sha256(&Sha256::digest(&bytes).into());
        if found != *digest {
            return Err(ImageError::WrongDigest { what: path, expected: digest.clone(), found });
        }
        Ok(bytes)
    }

    fn verify(&self, path: &str, digest: &Digest) -> Result<(), ImageError> {
        let found = crate::content::HashingReader::new(self.open(path)?).finish();
        let found = found.map_err(ImageError::io("read archive"))?;
        if found == *digest {
            Ok(())
        } else {
            Err(ImageError::WrongDigest { what: path.to_owned(), expected: digest.clone(), found })
        }
    }
}

fn bad_json(what: &str) -> impl FnOnce(serde_json::Error) -> ImageError + '_ {
    move |error| bad_json_text(what, &error.to_string())
}

fn bad_json_text(what: &str, error: &str) -> ImageError {
    ImageError::Archive(format!("invalid {what}: {error}"))
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The path's plain parts; it is only a key, so `..` needs no more than to be resolved by name.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(part) => out.push(part),
            std::path::Component::ParentDir => _ = out.pop(),
            _ => {}
        }
    }
    out
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
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
    annotations: HashMap<String, String>,
    platform: Option<Platform>,
}

impl Descriptor {
    /// The name the archive gives it, in containerd's or OCI's annotation; a bare tag names nothing.
    fn reference(&self) -> Result<Option<Reference>, ImageError> {
        let name = self.annotations.get("io.containerd.image.name");
        let name = name.or_else(|| self.annotations.get("org.opencontainers.image.ref.name"));
        match name {
            Some(name) if name.contains([':', '/']) => Ok(Some(Reference::parse(name)?)),
            _ => Ok(None),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

impl Platform {
    fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == go_architecture()
    }
}

/// This machine's architecture in Go's words.
pub(crate) fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
