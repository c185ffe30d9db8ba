//! Images of a stock daemon's data root, taken over: from the graph driver `overlay2` (`graph.rs`), where a layer's tar is
//! put together again from its files and a record (`tar_split.rs`), and from the containerd image store
//! (`containerd.rs`), where it lies compressed. Either way it goes the way of every layer, and counts only if it has the
//! digest that the image's configuration names. The old root is read only (`root.rs`), and nothing in it is trusted.

mod containerd;
mod graph;
mod root;
mod tar_split;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::Bytes;
use dockerd_store::BoltError;
use dockerd_types::{ContainerId, Digest, Reference};
use sha2::{Digest as _, Sha256};

use crate::config::ImageConfig;
use crate::error::ImageError;
use crate::intake::stage::{StagedLayer, stage_stream};
use crate::lease::Lease;
use crate::publish::NewImage;
use crate::store::{ImageStore, LayerRef};
use containerd::Containerd;
use graph::Graph;
pub use root::OldRoot;
#[cfg(any(test, fuzzing))]
pub(crate) use tar_split::Rebuilt;

/// Largest configuration or manifest.
const MOST_OF_A_DOCUMENT: u64 = 16 << 20;
/// Most layers of an image; the stock daemon's bound for its overlay is lower.
const MOST_LAYERS: usize = 500;

/// Why something of an old root cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum MovingError {
    /// A file of it cannot be read.
    #[error("{what}: {source}")]
    Read {
        /// Which.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of it is not what it should be.
    #[error("{what}: {why}")]
    Broken {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// A database of it cannot be read.
    #[error("{what}: {source}")]
    Bolt {
        /// Which.
        what: String,
        /// Why.
        source: BoltError,
    },
    /// A daemon uses it.
    #[error("{0} is in use: stop the daemon first")]
    InUse(String),
    /// It refers to something that is not there.
    #[error("{0} is not there")]
    Missing(String),
    /// Its layers were made by a driver that is not known here.
    #[error("storage driver {0:?} is not supported")]
    Driver(String),
    /// The new root does not take it.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl MovingError {
    fn read(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Read { what, source }
    }

    fn broken(what: impl Into<String>) -> impl FnOnce(&dyn std::fmt::Display) -> Self {
        let what = what.into();
        move |why| Self::Broken { what, why: why.to_string() }
    }

    /// For the database `what`.
    pub fn bolt(what: impl Into<String>) -> impl FnOnce(BoltError) -> Self {
        let what = what.into();
        move |source| match source {
            BoltError::InUse => Self::InUse(what),
            source => Self::Bolt { what, source },
        }
    }
}

/// The images of a stock data root.
#[derive(Debug)]
pub struct StockImages<'a> {
    graph: Option<Graph<'a>>,
    containerd: Option<Containerd>,
}

/// An image of an old root.
#[derive(Debug, Clone)]
pub struct StockImage {
    /// What the old daemon calls it: the digest of its configuration, or under containerd of its manifest or index.
    pub id: Digest,
    /// Its names.
    pub names: Vec<Reference>,
    from: Origin,
}

#[derive(Debug, Clone, Copy)]
enum Origin {
    Graph,
    Containerd,
}

impl Origin {
    fn is_plain(self) -> bool {
        matches!(self, Self::Graph)
    }
}

/// What an image is made of.
#[derive(Debug)]
struct Parts {
    raw_config: Vec<u8>,
    parent: Option<Digest>,
    layers: Vec<Source>,
}

/// A layer and what its tar is read from.
#[derive(Debug)]
struct Source {
    diff_id: Digest,
    /// Chain of the old root's layer, or digest of its blob.
    place: Digest,
}

/// What became of an image.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Its id from now on: the digest of its configuration.
    pub id: Digest,
    /// Whether it or a name of it is new here.
    pub is_new: bool,
    /// Names of it that another image has here, which keeps them.
    pub taken: Vec<Reference>,
}

impl<'a> StockImages<'a> {
    /// Those in `root`, the directory `/var/lib/docker`, and in `containerd`, containerd's root, where that is not below it.
    /// Fails if a daemon has them open; none is let in as long as this lives.
    pub fn open(root: &'a OldRoot, containerd: Option<&Path>) -> Result<Self, MovingError> {
        Ok(Self { graph: Graph::open(root), containerd: Containerd::open(root, containerd)? })
    }

    /// Whether there is no store of images at all.
    pub fn is_empty(&self) -> bool {
        self.graph.is_none() && self.containerd.is_none()
    }

    /// All images; with what is wrong with a list of them.
    pub fn list(&self) -> (Vec<StockImage>, Vec<MovingError>) {
        let (mut images, mut errors) = (Vec::new(), Vec::new());
        let lists = [
            self.graph.as_ref().map(|graph| (Origin::Graph, graph.list())),
            self.containerd.as_ref().map(|containerd| (Origin::Containerd, containerd.list())),
        ];
        for (from, list) in lists.into_iter().flatten() {
            match list {
                Ok(list) => images.extend(list.into_iter().map(|(id, names)| StockImage { id, names, from })),
                Err(error) => errors.push(error),
            }
        }
        (images, errors)
    }

    /// The id that the old daemon's image `id` has here, if it is there and whole.
    pub fn new_id(&self, driver: &str, id: &Digest) -> Result<Digest, MovingError> {
        let from = match driver {
            graph::DRIVER => Origin::Graph,
            containerd::DRIVER => Origin::Containerd,
            other => return Err(MovingError::Driver(other.to_owned())),
        };
        let parts = self.parts(&StockImage { id: id.clone(), names: Vec::new(), from })?;
        Ok(digest_of(&parts.raw_config))
    }

    /// Whether `image` could be taken over, as far as its documents tell; the id it would have.
    pub fn check(&self, image: &StockImage) -> Result<Digest, MovingError> {
        let parts = self.parts(image)?;
        for layer in &parts.layers {
            self.layer(image.from, layer)?;
        }
        Ok(digest_of(&parts.raw_config))
    }

    /// Adds `image` to `store`. What of it is there already stays as it is.
    pub fn take(&self, image: &StockImage, store: &ImageStore) -> Result<Moved, MovingError> {
        let Parts { raw_config, parent, layers: sources } = self.parts(image)?;
        let id = digest_of(&raw_config);
        let index = store.index();
        let (mut names, mut taken) = (Vec::new(), Vec::new());
        for name in image.names.iter().map(|name| name.clone().with_default_tag()) {
            match index.references.get(&name) {
                None => names.push(name),
                Some(other) if *other != id => taken.push(name),
                Some(_) => {}
            }
        }
        let is_new = !index.images.contains_key(&id) || !names.is_empty();
        if is_new {
            let lease = Lease::new(store);
            let mut layers: Vec<LayerRef> = Vec::new();
            for source in &sources {
                let stage = || self.stage(image.from, source, store);
                layers.push(store.publish_layer(&lease, layers.last(), &source.diff_id, stage)?);
            }
            let raw_config = Bytes::from(raw_config);
            let new = NewImage { raw_config, layers, references: names, parent, tagged: false, manifests: Vec::new() };
            store.add_images(vec![new])?;
        }
        Ok(Moved { id, is_new, taken })
    }

    /// The writable layer of a container, as overlayfs' upper directory.
    pub fn writable(&self, driver: &str, id: &ContainerId) -> Result<OwnedFd, MovingError> {
        let none = || MovingError::Missing(format!("the store of its layers ({driver})"));
        match driver {
            graph::DRIVER => self.graph.as_ref().ok_or_else(none)?.writable(id),
            containerd::DRIVER => self.containerd.as_ref().ok_or_else(none)?.writable(id),
            other => Err(MovingError::Driver(other.to_owned())),
        }
    }

    fn parts(&self, image: &StockImage) -> Result<Parts, MovingError> {
        let none = || MovingError::Missing(format!("image {}", image.id));
        let parts = match image.from {
            Origin::Graph => self.graph.as_ref().ok_or_else(none)?.parts(&image.id)?,
            Origin::Containerd => self.containerd.as_ref().ok_or_else(none)?.parts(&image.id)?,
        };
        if parts.layers.len() > MOST_LAYERS {
            return Err(MovingError::broken("image configuration")(&"too many layers"));
        }
        Ok(parts)
    }

    /// The tar of a layer, compressed or not.
    fn layer(&self, from: Origin, source: &Source) -> Result<Box<dyn io::Read + Send>, MovingError> {
        let none = || MovingError::Missing(format!("layer {}", source.diff_id));
        match from {
            Origin::Graph => self.graph.as_ref().ok_or_else(none)?.layer(source),
            Origin::Containerd => self.containerd.as_ref().ok_or_else(none)?.layer(source),
        }
    }

    fn stage(&self, from: Origin, source: &Source, store: &ImageStore) -> Result<StagedLayer, ImageError> {
        let tar = self.layer(from, source).map_err(|error| match error {
            MovingError::Image(error) => error,
            error => ImageError::Archive(error.to_string()),
        })?;
        // What a tar begins with is a name, which may look like a compression.
        let mut tar = if from.is_plain() { tar } else { crate::decompress::plain(tar)? };
        let staged = stage_stream(&mut *tar, &**store.snapshots(), store.content().temporary())?;
        match &staged.diff_id {
            Some(found) if *found != source.diff_id => Err(ImageError::WrongDigest {
                what: "the layer".to_owned(),
                expected: source.diff_id.clone(),
                found: found.clone(),
            }),
            _ => Ok(staged),
        }
    }
}

/// Parses a configuration as far as layers go, after its bytes were found to have the digest `id`.
fn config(id: &Digest, raw: &[u8]) -> Result<ImageConfig, MovingError> {
    let what = || format!("configuration {id}");
    if digest_of(raw) != *id {
        return Err(MovingError::broken(what())(&"has another digest"));
    }
    let config: ImageConfig = serde_json::from_slice(raw).map_err(|error| MovingError::broken(what())(&error))?;
    if !matches!(config.os.as_str(), "" | "linux") {
        return Err(MovingError::broken(what())(&format!("is for {}", config.os)));
    }
    Ok(config)
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::sha256(&Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests;
