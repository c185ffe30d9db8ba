//! Images as archives for `docker load`.

use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};

use anyhow::Result;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType};

use super::tree::header;
use super::{Image, Inputs, Layer, hex};

/// Media types of what an OCI layout has.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// How layers lie in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Not compressed, with `manifest.json` alone, as `docker save` of old.
    Plain,
    /// By gzip, in an OCI layout that has a `manifest.json` too, as builders write it.
    Gzip,
}

type Tar = Builder<BufWriter<File>>;

impl Inputs {
    /// The file of an archive of `image` under the reference `name`, made unless it is there.
    pub fn archive(&self, image: &Image, name: &str, form: Form) -> Result<PathBuf> {
        self.archive_of(&[(image, name)], form)
    }

    /// One archive of several images.
    pub fn archive_of(&self, images: &[(&Image, &str)], form: Form) -> Result<PathBuf> {
        let mut key = Sha256::new();
        for (image, name) in images {
            key.update(name);
            key.update(&image.config);
        }
        let path = self.dir.join(format!("{}-{form:?}.tar", &hex(&key.finalize())[..16]));
        if !path.exists() {
            let temporary = tempfile::NamedTempFile::new_in(&self.dir)?;
            write(images, form, temporary.reopen()?)?;
            temporary.persist(&path)?;
        }
        Ok(path)
    }
}

fn write(images: &[(&Image, &str)], form: Form, file: File) -> Result<()> {
    let mut tar: Tar = Builder::new(BufWriter::with_capacity(1 << 20, file));
    let (mut listed, mut indexed) = (Vec::new(), Vec::new());
    let mut written = std::collections::HashSet::new();
    for (image, name) in images {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let path = file_of(layer, form);
            if written.insert(path.clone()) {
                append_layer(&mut tar, layer, form, &path)?;
            }
            layers.push(path);
        }
        let config = hex(&Sha256::digest(&image.config));
        let place = if form == Form::Gzip { format!("blobs/sha256/{config}") } else { format!("{config}.json") };
        append(&mut tar, &place, &image.config)?;
        listed.push(json!({ "Config": place, "RepoTags": [name], "Layers": layers }));
        if form == Form::Gzip {
            let manifest = serde_json::to_vec(&image.manifest(MANIFEST, CONFIG, GZIP))?;
            let digest = hex(&Sha256::digest(&manifest));
            append(&mut tar, &format!("blobs/sha256/{digest}"), &manifest)?;
            indexed.push(json!({
                "mediaType": MANIFEST,
                "digest": format!("sha256:{digest}"),
                "size": manifest.len(),
                "annotations": { "io.containerd.image.name": format!("docker.io/{name}") },
            }));
        }
    }
    if form == Form::Gzip {
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({ "schemaVersion": 2, "manifests": indexed });
        append(&mut tar, "index.json", &serde_json::to_vec(&index)?)?;
    }
    append(&mut tar, "manifest.json", &serde_json::to_vec(&listed)?)?;
    tar.into_inner()?.into_inner()?.sync_data()?;
    Ok(())
}

fn file_of(layer: &Layer, form: Form) -> String {
    match form {
        Form::Plain => format!("{}/layer.tar", layer.diff_id),
        Form::Gzip => format!("blobs/sha256/{}", layer.digest),
    }
}

fn append_layer(tar: &mut Tar, layer: &Layer, form: Form, path: &str) -> Result<()> {
    let file = File::open(&layer.path)?;
    let (mut reader, size): (Box<dyn Read>, u64) = match form {
        Form::Plain => (Box::new(GzDecoder::new(std::io::BufReader::new(file))), layer.plain_size),
        Form::Gzip => (Box::new(file), layer.size),
    };
    let mut header = header(EntryType::Regular, 0o644, 0);
    header.set_size(size);
    Ok(tar.append_data(&mut header, Path::new(path), &mut reader)?)
}

fn append(tar: &mut Tar, path: &str, bytes: &[u8]) -> Result<()> {
    Ok(tar.append_data(&mut header(EntryType::Regular, 0o644, bytes.len()), path, bytes)?)
}

impl Image {
    /// A manifest with these media types.
    pub(super) fn manifest(&self, manifest: &str, config: &str, layer: &str) -> Value {
        let descriptor = |kind: &str, digest: &str, size: u64| json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size });
        let of_layer = |own: &Layer| {
            let mut out = descriptor(layer, &own.digest, own.size);
            if !own.annotations.is_empty() {
                out["annotations"] = json!(own.annotations);
            }
            out
        };
        let layers: Vec<Value> = self.layers.iter().map(of_layer).collect();
        json!({
            "schemaVersion": 2,
            "mediaType": manifest,
            "config": descriptor(config, &hex(&Sha256::digest(&self.config)), self.config.len() as u64),
            "layers": layers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn archives_hold_what_their_documents_name() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = Inputs::new(dir.path()).unwrap();
        let layer = inputs.layer("small", |out| Ok(out.write_all(&[0; 1024])?)).unwrap();
        let images = ["a", "b"].map(|note| Image::new(vec![layer.clone()], note).unwrap());
        for form in [Form::Plain, Form::Gzip] {
            let both = [(&images[0], "bench/a:latest"), (&images[1], "bench/b:latest")];
            let path = inputs.archive_of(&both, form).unwrap();
            let mut files = HashMap::new();
            for entry in tar::Archive::new(File::open(path).unwrap()).entries().unwrap() {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                let before = files.insert(entry.path().unwrap().display().to_string(), bytes);
                assert!(before.is_none(), "a layer of two images is there once");
            }
            let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
            assert_eq!(manifest.as_array().unwrap().len(), 2);
            for image in manifest.as_array().unwrap() {
                assert!(files.contains_key(image["Config"].as_str().unwrap()));
                let layer = &files[image["Layers"][0].as_str().unwrap()];
                assert_eq!(layer.len() == 1024, form == Form::Plain);
            }
            assert_eq!(files.contains_key("index.json"), form == Form::Gzip);
        }
    }
}
