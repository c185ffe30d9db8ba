//! Images as a registry keeps them: manifests, configurations and layers, made in memory so that each is exactly what a test
//! is about. Media types are those of the Docker image manifest version 2, schema 2, and of the OCI image specification.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use testkit::{Estargz, ZstdChunked};

/// Docker manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker manifest before schema 2, signed.
pub const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// `sha256:` and the digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A tar of regular files.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).expect("written to memory");
    }
    builder.into_inner().expect("written to memory")
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 32);
    let mut block = Sha256::digest(seed.as_bytes());
    while out.len() < length {
        out.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    out.truncate(length);
    out
}

/// In which family of media types an image is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Docker's.
    Docker,
    /// OCI's.
    Oci,
}

/// How a layer is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// By gzip.
    Gzip,
    /// By zstd; only OCI has a media type for it.
    Zstd,
    /// With a table of contents in gzip, as BuildKit does; an OCI media type whatever the family.
    Estargz(Estargz),
    /// With a table of contents in zstd, as podman does; an OCI media type whatever the family.
    ZstdChunked(ZstdChunked),
    /// By gzip, and not at the registry but at these addresses.
    Foreign(Vec<String>),
}

/// A layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The tar.
    pub tar: Vec<u8>,
    /// How it is kept.
    pub form: Form,
}

impl Layer {
    /// A gzip layer of one file.
    pub fn file(name: &str, content: &[u8]) -> Self {
        Self { tar: tar_of(&[(name, content)]), form: Form::Gzip }
    }

    /// In another form.
    #[must_use]
    pub fn form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    fn blob(&self, family: Family) -> Kept {
        let base = match (family, &self.form) {
            (Family::Docker, Form::Foreign(_)) => "application/vnd.docker.image.rootfs.foreign.diff.tar",
            (Family::Docker, _) => "application/vnd.docker.image.rootfs.diff.tar",
            (Family::Oci, Form::Foreign(_)) => "application/vnd.oci.image.layer.nondistributable.v1.tar",
            (Family::Oci, _) => "application/vnd.oci.image.layer.v1.tar",
        };
        let separator = if family == Family::Docker { '.' } else { '+' };
        let gzip = format!("{base}{separator}gzip");
        let (blob, urls) = match &self.form {
            Form::Plain => (Blob::new(base, self.tar.clone()), Vec::new()),
            Form::Gzip => (Blob::new(&gzip, gzipped(&self.tar)), Vec::new()),
            Form::Foreign(urls) => (Blob::new(&gzip, gzipped(&self.tar)), urls.clone()),
            Form::Zstd => {
                let bytes = zstd::encode_all(&self.tar[..], 3).expect("written to memory");
                (Blob::new(&format!("{base}{separator}zstd"), bytes), Vec::new())
            }
            Form::Estargz(how) => return Kept::lazy(how.pack(&self.tar).expect("a tar of files")),
            Form::ZstdChunked(how) => return Kept::lazy(how.pack(&self.tar).expect("a tar of files")),
        };
        Kept { blob, urls, diff_id: digest(&self.tar), annotations: BTreeMap::new() }
    }
}

/// A layer as a registry keeps it.
struct Kept {
    blob: Blob,
    urls: Vec<String>,
    diff_id: String,
    annotations: BTreeMap<String, String>,
}

impl Kept {
    fn lazy(layer: testkit::Blob) -> Self {
        let diff_id = digest(&layer.tar);
        let (blob, annotations) = (Blob::new(layer.media_type, layer.bytes), layer.annotations);
        Self { blob, urls: Vec::new(), diff_id, annotations }
    }

    fn descriptor(&self) -> Value {
        let mut descriptor = self.blob.descriptor();
        if !self.urls.is_empty() {
            descriptor["urls"] = json!(self.urls);
        }
        if !self.annotations.is_empty() {
            descriptor["annotations"] = json!(self.annotations);
        }
        descriptor
    }
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("written to memory")
}

/// Bytes with their media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Media type.
    pub media_type: String,
    /// Digest, with `sha256:`.
    pub digest: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Of that type.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { media_type: media_type.to_owned(), digest: digest(&bytes), bytes }
    }

    /// What a manifest says of it.
    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "size": self.bytes.len(), "digest": self.digest})
    }

    /// The first twelve digits, as progress messages name it.
    pub fn short(&self) -> String {
        self.digest.trim_start_matches("sha256:").chars().take(12).collect()
    }
}

/// An image to be packed.
#[derive(Debug, Clone)]
pub struct Image {
    /// Media types.
    pub family: Family,
    /// Layers, bottom first.
    pub layers: Vec<Layer>,
    /// System and architecture.
    pub platform: (String, String),
    /// Labels, and with them the identity of an image.
    pub label: String,
    /// What runs.
    pub command: Vec<String>,
}

impl Image {
    /// An image for this machine.
    pub fn new(family: Family, label: &str, layers: Vec<Layer>) -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let platform = ("linux".to_owned(), architecture.to_owned());
        Self { family, layers, platform, label: label.to_owned(), command: vec!["sh".to_owned()] }
    }

    /// `count` layers that no other test has.
    pub fn of_layers(family: Family, label: &str, count: usize) -> Self {
        let layer = |index: usize| Layer::file(&format!("file{index}"), format!("{label} {index}").as_bytes());
        Self::new(family, label, (0..count).map(layer).collect())
    }

    /// For another architecture.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.platform.1 = architecture.to_owned();
        self
    }

    /// Manifest, configuration and layers.
    pub fn packed(&self) -> Packed {
        let kept: Vec<Kept> = self.layers.iter().map(|layer| layer.blob(self.family)).collect();
        let diff_ids: Vec<String> = kept.iter().map(|layer| layer.diff_id.clone()).collect();
        let history = json!({"created": "2020-01-02T03:04:05Z", "created_by": "made by a test"});
        let config = json!({
            "architecture": self.platform.1,
            "os": self.platform.0,
            "created": "2020-01-02T03:04:05Z",
            "config": {"Cmd": self.command, "Labels": {"test": self.label}},
            "history": vec![history; self.layers.len()],
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let (config_type, manifest_type) = match self.family {
            Family::Docker => ("application/vnd.docker.container.image.v1+json", DOCKER_MANIFEST),
            Family::Oci => ("application/vnd.oci.image.config.v1+json", OCI_MANIFEST),
        };
        let config = Blob::new(config_type, config.to_string().into_bytes());
        let manifest = manifest(manifest_type, config.descriptor(), kept.iter().map(Kept::descriptor).collect());
        let layers = kept.into_iter().map(|layer| layer.blob).collect();
        Packed { manifest, config, layers, diff_ids, platform: self.platform.clone() }
    }
}

/// A manifest of those descriptors.
pub fn manifest(media_type: &str, config: Value, layers: Vec<Value>) -> Blob {
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    Blob::new(media_type, manifest.to_string().into_bytes())
}

/// An image as a registry keeps it.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Manifest.
    pub manifest: Blob,
    /// Configuration.
    pub config: Blob,
    /// Layers as they are kept, bottom first.
    pub layers: Vec<Blob>,
    /// Digests of the layers' tars.
    pub diff_ids: Vec<String>,
    /// System and architecture.
    pub platform: (String, String),
}

impl Packed {
    /// The image's id, which is the digest of its configuration.
    pub fn id(&self) -> &str {
        &self.config.digest
    }

    /// Its entry in an index, with these annotations if there are any.
    pub fn entry(&self, annotations: &[(&str, &str)]) -> Value {
        let mut entry = self.manifest.descriptor();
        entry["platform"] = json!({"os": self.platform.0, "architecture": self.platform.1});
        if !annotations.is_empty() {
            let pairs = annotations.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
            entry["annotations"] = Value::Object(pairs.collect::<Map<_, _>>());
        }
        entry
    }
}

/// An index of those entries.
pub fn index(family: Family, entries: &[Value]) -> Blob {
    let media_type = if family == Family::Docker { DOCKER_LIST } else { OCI_INDEX };
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    Blob::new(media_type, index.to_string().into_bytes())
}

/// What `docker buildx` puts beside an image: an attestation of it, as a manifest for a platform that does not exist.
pub fn attestation(of: &Packed) -> Packed {
    let statement = json!({"_type": "https://in-toto.io/Statement/v0.1", "subject": of.manifest.digest});
    let layer = Blob::new("application/vnd.in-toto+json", statement.to_string().into_bytes());
    let config = json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = Blob::new("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
    Packed {
        manifest: manifest(OCI_MANIFEST, config.descriptor(), vec![layer.descriptor()]),
        config,
        diff_ids: vec![layer.digest.clone()],
        layers: vec![layer],
        platform: ("unknown".to_owned(), "unknown".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_described_by_its_digests() {
        let image = Image::of_layers(Family::Oci, "x", 2).packed();
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        assert_eq!(manifest["config"]["digest"], *image.id());
        assert_eq!(manifest["layers"][1]["digest"], *image.layers[1].digest);
        assert_eq!(manifest["layers"][1]["size"], image.layers[1].bytes.len());
        let mut tar = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&image.layers[1].bytes[..]), &mut tar).unwrap();
        assert_eq!(digest(&tar), image.diff_ids[1]);
        for form in [Form::Estargz(Estargz::default()), Form::ZstdChunked(ZstdChunked::default())] {
            let image = Image::new(Family::Oci, "x", vec![Layer::file("f", b"x").form(form.clone())]).packed();
            let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
            assert_eq!(manifest["layers"][0]["annotations"].as_object().unwrap().len(), 2);
            // Of eStargz, the table of contents is in the tar.
            assert_eq!(image.diff_ids[0] == digest(&tar_of(&[("f", b"x")])), matches!(form, Form::ZstdChunked(_)));
        }
        assert_eq!(noise("a", 100).len(), 100);
        assert_ne!(noise("a", 100), noise("b", 100));
    }
}
