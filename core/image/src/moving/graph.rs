//! Images and layers of the graph driver `overlay2`:
//!
//! ```text
//! image/overlay2/repositories.json                   {"Repositories": {repository: {reference: id}}}
//! image/overlay2/imagedb/content/sha256/<id>         the image's configuration
//! image/overlay2/imagedb/metadata/sha256/<id>/parent the image it was made from
//! image/overlay2/layerdb/sha256/<chainID>/           diff (diffID), cache-id, tar-split.json.gz
//! image/overlay2/layerdb/mounts/<container>/         mount-id
//! overlay2/<cache-id or mount-id>/diff               files, with overlayfs' whiteouts
//! ```

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use dockerd_types::{ContainerId, Digest, Reference};
use serde::Deserialize;

use super::root::is_name;
use super::tar_split::Rebuilt;
use super::{MOST_OF_A_DOCUMENT, MovingError, OldRoot, Parts, Source, config};
use crate::store::chain_id;

/// The driver's name.
pub(super) const DRIVER: &str = "overlay2";
const IMAGES: &str = "image/overlay2/imagedb/content/sha256";

/// The driver's part of an old root.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    root: &'a OldRoot,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Repositories {
    #[serde(default)]
    repositories: BTreeMap<String, BTreeMap<String, Digest>>,
}

impl<'a> Graph<'a> {
    /// `None` where there is nothing of the driver.
    pub(super) fn open(root: &'a OldRoot) -> Option<Self> {
        root.has(IMAGES).then_some(Self { root })
    }

    /// All images and their names.
    pub(super) fn list(&self) -> Result<Vec<(Digest, Vec<Reference>)>, MovingError> {
        let names = self.root.names(IMAGES).map_err(MovingError::read("list of images"))?;
        let ids = names.iter().filter_map(|hex| Digest::parse(&format!("sha256:{hex}")).ok());
        let mut images: BTreeMap<Digest, Vec<Reference>> = ids.map(|id| (id, Vec::new())).collect();
        const NAMES: &str = "image/overlay2/repositories.json";
        let named = match self.root.read(NAMES, 4 * MOST_OF_A_DOCUMENT) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| MovingError::broken(NAMES)(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Repositories::default(),
            Err(error) => return Err(MovingError::read(NAMES)(error)),
        };
        for (reference, id) in named.repositories.into_values().flatten() {
            // A name of an image that is not there names nothing.
            let Some(names) = images.get_mut(&id) else { continue };
            let parsed = Reference::parse(&reference);
            names.push(parsed.map_err(|error| MovingError::broken(format!("{NAMES}: {reference:?}"))(&error))?);
        }
        Ok(images.into_iter().collect())
    }

    /// What the image is made of.
    pub(super) fn parts(&self, id: &Digest) -> Result<Parts, MovingError> {
        let path = format!("{IMAGES}/{}", id.hex());
        let raw_config = match self.root.read(&path, MOST_OF_A_DOCUMENT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(MovingError::Missing(format!("image {id}")));
            }
            read => read.map_err(MovingError::read(path))?,
        };
        let (mut layers, mut chain) = (Vec::new(), None);
        for diff_id in config(id, &raw_config)?.rootfs.diff_ids {
            let place = chain_id(chain.as_ref(), &diff_id);
            chain = Some(place.clone());
            layers.push(Source { diff_id, place });
        }
        let parent = self.root.text(&format!("image/overlay2/imagedb/metadata/sha256/{}/parent", id.hex()));
        let parent = parent.ok().and_then(|text| Digest::parse(&text).ok());
        Ok(Parts { raw_config, parent, layers })
    }

    /// The layer's tar.
    pub(super) fn layer(&self, source: &Source) -> Result<Box<dyn io::Read + Send>, MovingError> {
        let at = |name: &str| format!("image/overlay2/layerdb/sha256/{}/{name}", source.place.hex());
        let recorded = self.root.text(&at("diff")).map_err(MovingError::read(at("diff")))?;
        if recorded != source.diff_id.as_str() {
            return Err(MovingError::broken(at("diff"))(&format!("names another layer than {}", source.diff_id)));
        }
        let files = self.files(&at("cache-id"))?;
        let record = self.root.file(&at("tar-split.json.gz"));
        let record = record.map_err(MovingError::read(at("tar-split.json.gz")))?;
        Ok(Box::new(Rebuilt::new(record, files)))
    }

    /// The upper directory of a container.
    pub(super) fn writable(&self, id: &ContainerId) -> Result<OwnedFd, MovingError> {
        self.files(&format!("image/overlay2/layerdb/mounts/{id}/mount-id"))
    }

    /// The files of the layer that the text at `path` names.
    fn files(&self, path: &str) -> Result<OwnedFd, MovingError> {
        let name = self.root.text(path).map_err(MovingError::read(path))?;
        if !is_name(&name) {
            return Err(MovingError::broken(path)(&"is no name"));
        }
        let files = format!("overlay2/{name}/diff");
        self.root.directory(&files).map_err(MovingError::read(files))
    }
}
