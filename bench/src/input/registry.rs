//! Images in the store of a registry, as `docker-registry` keeps it on disk, so that nothing needs to be pushed before a pull
//! can be measured: blobs by digest, and links from repositories to them (the paths are those of distribution's
//! `registry/storage/paths.go`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{Image, hex};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

impl Image {
    /// Puts the image as `repository:latest` into the store at `root`. Layers are hard links to the generated files.
    pub fn publish(&self, root: &Path, repository: &str) -> Result<()> {
        let base = root.join("docker/registry/v2");
        let own = base.join("repositories").join(repository);
        let put = |digest: &str, bytes: &dyn Fn(&Path) -> Result<()>| {
            let dir = base.join("blobs/sha256").join(&digest[..2]).join(digest);
            fs::create_dir_all(&dir)?;
            let path = dir.join("data");
            if path.exists() { Ok(()) } else { bytes(&path) }
        };
        let link = |place: &str, digest: &str| {
            let dir = own.join(place);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("link"), format!("sha256:{digest}")).context("link a blob")
        };
        let config = hex(&Sha256::digest(&self.config));
        put(&config, &|path| Ok(fs::write(path, &self.config)?))?;
        link(&format!("_layers/sha256/{config}"), &config)?;
        for layer in &self.layers {
            put(&layer.digest, &|path| Ok(fs::hard_link(&layer.path, path)?))?;
            link(&format!("_layers/sha256/{}", layer.digest), &layer.digest)?;
        }
        let manifest = serde_json::to_vec(&self.manifest(MANIFEST, CONFIG, GZIP))?;
        let digest = hex(&Sha256::digest(&manifest));
        put(&digest, &|path| Ok(fs::write(path, &manifest)?))?;
        link(&format!("_manifests/revisions/sha256/{digest}"), &digest)?;
        link("_manifests/tags/latest/current", &digest)?;
        link(&format!("_manifests/tags/latest/index/sha256/{digest}"), &digest)
    }
}
