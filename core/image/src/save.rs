//! `docker save`: an OCI layout that also has Docker's `manifest.json` and `repositories`, byte for byte as stock 28 writes
//! them, so that every engine can load it. Layers go out byte for byte as they came in.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use dockerd_types::{Digest, Reference, Timestamp};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::error::ImageError;
use crate::load::Platform;
use crate::store::{Image, ImageStore};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What of the store goes into one archive.
#[derive(Debug, Clone)]
pub struct Selection(Vec<(Arc<Image>, Vec<Reference>)>);

impl Selection {
    /// The images and the names they are saved under.
    pub fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.0.iter().map(|(image, _)| image)
    }
}

/// An image and the name it was meant by.
type Named = (Arc<Image>, Option<Reference>);

/// Where a blob's bytes are.
#[derive(Debug)]
enum Source {
    Bytes(Bytes),
    Content(Digest),
}

#[derive(Debug)]
struct Blob {
    source: Source,
    time: i64,
}

impl ImageStore {
    /// What `names` stand for: an id for its image without names, a name with a tag for itself, one without for all tags of
    /// its repository. Names of one image are put together.
    pub fn select(&self, names: &[String], platform: Option<&Platform>) -> Result<Selection, ImageError> {
        let mut out: Vec<(Arc<Image>, Vec<Reference>)> = Vec::new();
        for name in names {
            for (image, reference) in self.named(name)? {
                if let Some(wanted) = platform.filter(|wanted| !wanted.takes(&image.config)) {
                    let text = format!("no suitable export target found for platform {wanted}");
                    return Err(ImageError::NoTarget(text));
                }
                let known = out.iter_mut().find(|(known, _)| known.id == image.id);
                match known {
                    Some((_, references)) => {
                        references.extend(reference.filter(|reference| !references.contains(reference)));
                    }
                    None => out.push((image, reference.into_iter().collect())),
                }
            }
        }
        Ok(Selection(out))
    }

    fn named(&self, name: &str) -> Result<Vec<Named>, ImageError> {
        let not_found = || ImageError::NotFound(name.to_owned());
        let index = self.index();
        let reference = match Reference::parse(name) {
            Ok(reference) => reference,
            // 64 hex digits are an id.
            Err(error) => return self.resolve(name).map(|image| vec![(image, None)]).map_err(|_| error.into()),
        };
        let whole = |reference: &Reference| {
            let image = index.references.get(reference).and_then(|id| index.images.get(id))?;
            Some((image.clone(), Some(reference.clone())))
        };
        if reference.digest().is_some() {
            // It is saved without a name: the archive has no place for one by digest.
            let found = whole(&reference).map(|(image, _)| vec![(image, None)]);
            return found.ok_or(ImageError::NoReference);
        }
        if reference.tag().is_none() {
            let repository = reference.familiar_name();
            let in_repository = |known: &&Reference| known.tag().is_some() && known.familiar_name() == repository;
            let tags = index.references.keys().filter(in_repository);
            let found: Vec<_> = tags.filter_map(whole).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        } else if let Some(found) = whole(&reference) {
            return Ok(vec![found]);
        }
        self.resolve(name).map(|image| vec![(image, None)]).map_err(|error| match error {
            ImageError::NotFound(_) => not_found(),
            other => other,
        })
    }

    /// Writes a selection as one tar.
    pub fn save(&self, selection: &Selection, out: impl Write) -> Result<(), ImageError> {
        let mut blobs: BTreeMap<String, Blob> = BTreeMap::new();
        let (mut manifests, mut docker) = (Vec::new(), Vec::new());
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut oldest = None;
        for (image, references) in &selection.0 {
            let created = image.config.created_at().map_or(0, Timestamp::unix_seconds);
            oldest = oldest.max(Some(created));
            let layers = self.add_image_blobs(image, created, &mut blobs)?;
            let manifest = json(&Manifest {
                schema_version: 2,
                media_type: MANIFEST,
                config: Descriptor::new(CONFIG, &image.id, image.raw_config.len() as u64),
                layers: layers.clone(),
            })?;
            let digest = Digest::sha256(&Sha256::digest(&manifest).into());
            let size = manifest.len() as u64;
            blobs.entry(blob_path(&digest)).or_insert(Blob { source: Source::Bytes(manifest.into()), time: 0 });
            if references.is_empty() {
                manifests.push(Descriptor::new(MANIFEST, &digest, size));
            }
            for reference in references {
                let name = Annotations { name: reference.to_string(), tag: reference.tag().unwrap_or_default().into() };
                manifests.push(Descriptor { annotations: Some(name), ..Descriptor::new(MANIFEST, &digest, size) });
                let tags = repositories.entry(reference.familiar_name()).or_default();
                let top = image.layers.last().map_or_else(String::new, |layer| layer.diff_id.hex().to_owned());
                tags.insert(reference.tag().unwrap_or_default().to_owned(), top);
            }
            let names: Vec<String> = references.iter().map(Reference::familiar).collect();
            docker.push(DockerManifest {
                config: blob_path(&image.id),
                repo_tags: Some(names).filter(|names| !names.is_empty()),
                layers: image.layers.iter().map(|layer| blob_path(&layer.diff_id)).collect(),
                layer_sources: layers.into_iter().map(|layer| (layer.digest.to_string(), layer.into())).collect(),
            });
        }
        let index = Index { schema_version: 2, media_type: INDEX, manifests: none_if_empty(manifests) };
        let mut tar = Tar(tar::Builder::new(out));
        if !blobs.is_empty() {
            tar.directory("blobs/", oldest.unwrap_or(0))?;
            tar.directory("blobs/sha256/", Timestamp::now().unix_seconds())?;
        }
        for (path, blob) in &blobs {
            match &blob.source {
                Source::Bytes(bytes) => tar.file(path, bytes.len() as u64, blob.time, &bytes[..])?,
                Source::Content(digest) => {
                    tar.file(path, self.tar_size(digest)?, blob.time, self.open_tar(digest)?)?;
                }
            }
        }
        tar.text("index.json", &json(&index)?)?;
        tar.text("manifest.json", &lined(json(&none_if_empty(docker))?))?;
        tar.text("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)?;
        if !repositories.is_empty() {
            tar.text("repositories", &lined(json(&repositories)?))?;
        }
        let mut out = tar.0.into_inner().map_err(ImageError::io("write archive"))?;
        out.flush().map_err(ImageError::io("write archive"))
    }

    fn add_image_blobs(
        &self,
        image: &Image,
        created: i64,
        blobs: &mut BTreeMap<String, Blob>,
    ) -> Result<Vec<Descriptor>, ImageError> {
        let config = Blob { source: Source::Bytes(image.raw_config.clone()), time: created };
        blobs.entry(blob_path(&image.id)).or_insert(config);
        let mut layers = Vec::new();
        for layer in &image.layers {
            let size = self.tar_size(&layer.diff_id)?;
            let blob = Blob { source: Source::Content(layer.diff_id.clone()), time: created };
            blobs.entry(blob_path(&layer.diff_id)).or_insert(blob);
            layers.push(Descriptor::new(LAYER, &layer.diff_id, size));
        }
        Ok(layers)
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|error| ImageError::Archive(error.to_string()))
}

/// As Go's encoder ends what it writes.
fn lined(mut text: Vec<u8>) -> Vec<u8> {
    text.push(b'\n');
    text
}

fn none_if_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

// Members are in the order stock writes them, so that digests of manifests are equal too.

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations>,
}

impl Descriptor {
    fn new(media_type: &'static str, digest: &Digest, size: u64) -> Self {
        Self { media_type, digest: digest.clone(), size, annotations: None }
    }
}

#[derive(Debug, Clone, Serialize)]
struct Annotations {
    #[serde(rename = "io.containerd.image.name")]
    name: String,
    #[serde(rename = "org.opencontainers.image.ref.name")]
    tag: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    layer_sources: BTreeMap<String, LayerSource>,
}

/// A descriptor in the order this document has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LayerSource {
    media_type: &'static str,
    size: u64,
    digest: Digest,
}

impl From<Descriptor> for LayerSource {
    fn from(descriptor: Descriptor) -> Self {
        let Descriptor { media_type, digest, size, annotations: _ } = descriptor;
        Self { media_type, size, digest }
    }
}

struct Tar<W: Write>(tar::Builder<W>);

impl<W: Write> Tar<W> {
    fn entry(
        &mut self,
        kind: tar::EntryType,
        name: &str,
        mode: u32,
        size: u64,
        time: i64,
        content: impl Read,
    ) -> Result<(), ImageError> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        header.set_mtime(u64::try_from(time).unwrap_or(0));
        self.0.append_data(&mut header, name, content).map_err(ImageError::io("write archive"))
    }

    fn directory(&mut self, name: &str, time: i64) -> Result<(), ImageError> {
        self.entry(tar::EntryType::Directory, name, 0o755, 0, time, std::io::empty())
    }

    fn file(&mut self, name: &str, size: u64, time: i64, content: impl Read) -> Result<(), ImageError> {
        self.entry(tar::EntryType::Regular, name, 0o644, size, time, content)
    }

    fn text(&mut self, name: &str, text: &[u8]) -> Result<(), ImageError> {
        self.file(name, text.len() as u64, 0, text)
    }
}
