//! `docker save`: an OCI layout that also has Docker's `manifest.json`, so that every engine can load it. Layers go out
//! byte for byte as they came in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use dockerd_types::{Digest, Reference};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::error::ImageError;
use crate::store::{Image, ImageStore};

impl ImageStore {
    /// Writes the images of `names` (references or ids) as one tar.
    pub fn save(&self, names: &[String], out: impl Write) -> Result<(), ImageError> {
        let mut chosen: BTreeMap<Digest, (Arc<Image>, BTreeSet<Reference>)> = BTreeMap::new();
        for name in names {
            let image = self.resolve(name)?;
            let references = named_by(name, &image);
            chosen.entry(image.id.clone()).or_insert_with(|| (image, BTreeSet::new())).1.extend(references);
        }
        let mut tar = Tar { builder: tar::Builder::new(out), written: BTreeSet::new() };
        let (mut manifests, mut docker, mut repositories) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (image, references) in chosen.values() {
            self.write_image(image, references, &mut tar, &mut manifests)?;
            docker.push(json!({
                "Config": blob_path(&image.id),
                "RepoTags": if references.is_empty() { None } else { Some(references.iter().map(Reference::familiar).collect::<Vec<_>>()) },
                "Layers": image.layers.iter().map(|layer| blob_path(&layer.diff_id)).collect::<Vec<_>>(),
            }));
            for reference in references {
                let tags: &mut BTreeMap<String, String> = repositories.entry(reference.familiar_name()).or_default();
                let top = image.layers.last().map_or_else(String::new, |layer| layer.chain_id.hex().to_owned());
                tags.insert(reference.tag().unwrap_or_default().to_owned(), top);
            }
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        tar.file("index.json", index.to_string().as_bytes())?;
        tar.file("manifest.json", json!(docker).to_string().as_bytes())?;
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !repositories.is_empty() {
            tar.file("repositories", json!(repositories).to_string().as_bytes())?;
        }
        let mut out = tar.builder.into_inner().map_err(ImageError::io("write archive"))?;
        out.flush().map_err(ImageError::io("write archive"))
    }

    fn write_image(
        &self,
        image: &Image,
        references: &BTreeSet<Reference>,
        tar: &mut Tar<impl Write>,
        manifests: &mut Vec<serde_json::Value>,
    ) -> Result<(), ImageError> {
        tar.blob(&image.id, &image.raw_config)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let file = self.content().get(&layer.diff_id)?;
            let size = file.metadata().map_err(ImageError::io("measure layer"))?.len();
            tar.stream(&blob_path(&layer.diff_id), size, file)?;
            let media_type = "application/vnd.oci.image.layer.v1.tar";
            layers.push(json!({"mediaType": media_type, "digest": layer.diff_id, "size": size}));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": image.id,
                "size": image.raw_config.len(),
            },
            "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::sha256(&Sha256::digest(&bytes).into());
        tar.blob(&digest, &bytes)?;
        let entry = |annotations: serde_json::Value| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": bytes.len(),
                "annotations": annotations,
                "platform": {"architecture": image.config.architecture, "os": image.config.os},
            })
        };
        if references.is_empty() {
            manifests.push(entry(json!({})));
        }
        for reference in references {
            manifests.push(entry(json!({
                "io.containerd.image.name": reference.to_string(),
                "org.opencontainers.image.ref.name": reference.tag().unwrap_or_default(),
            })));
        }
        Ok(())
    }
}

/// The references a name of the command line stands for: itself, all tags of a bare repository, none for an id.
fn named_by(name: &str, image: &Image) -> Vec<Reference> {
    let Ok(parsed) = Reference::parse(name) else { return Vec::new() };
    let wanted = parsed.with_default_tag();
    image.references.iter().filter(|known| **known == wanted).cloned().collect()
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

struct Tar<W: Write> {
    builder: tar::Builder<W>,
    written: BTreeSet<String>,
}

impl<W: Write> Tar<W> {
    fn blob(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        self.stream(&blob_path(digest), bytes.len() as u64, bytes)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.stream(name, bytes.len() as u64, bytes)
    }

    /// Each name once: images share layers.
    fn stream(&mut self, name: &str, size: u64, reader: impl std::io::Read) -> Result<(), ImageError> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(size);
        header.set_mtime(0);
        self.builder.append_data(&mut header, name, reader).map_err(ImageError::io("write archive"))
    }
}
